from __future__ import annotations

import math

import pytest
import torch
from detectors import copies, train_one_step
from slice_networks import build, build_plain, stacks_of

from polymask.errors import UserError
from polymask.models.slices.embedding import EmbeddingHead, boxes_to_match, matching_loss


def references(target, numbers=None):
    """The same objects in other stacks."""
    stacks, _, _ = stacks_of()
    known = [dict(objects) for objects in target]
    for objects, own in zip(known, numbers or (), strict=numbers is not None):
        objects["numbers"] = torch.tensor(own)
    return [{"image": stack.flip(0), "target": own} for stack, own in zip(stacks, known, strict=True)]


def test_loss_is_the_cross_entropy_of_earlier_objects_and_new():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    earlier = torch.tensor([[0.5, 1.0], [2.0, 0.0]])
    # Box 0 is earlier object 1 (number 9), box 1 earlier object 0 (number 4), box 2 is new.
    loss = matching_loss([vectors], [torch.tensor([9, 4, 7])], [earlier], [torch.tensor([4, 9])])
    chances = [
        math.exp(2.0) / (1 + math.exp(0.5) + math.exp(2.0)),
        math.exp(2.0) / (1 + math.exp(2.0) + math.exp(0.0)),
        1 / (1 + math.exp(1.5) + math.exp(2.0)),
    ]
    assert float(loss) == pytest.approx(-sum(map(math.log, chances)) / 3, rel=1e-5)


def test_without_earlier_objects_everything_is_new_and_without_boxes_there_is_nothing():
    vectors, none = torch.rand(2, 4, requires_grad=True), torch.zeros(0, 4)
    empty = torch.zeros(0, dtype=torch.int64)
    assert matching_loss([vectors], [torch.tensor([1, 2])], [none], [empty]) == 0
    loss = matching_loss([none.requires_grad_()], [empty], [vectors], [torch.tensor([1, 2])])
    assert loss == 0
    loss.backward()
    assert vectors.grad is not None


def test_proposals_that_match_an_object_are_trained_on_beside_it():
    truth = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    proposals = torch.tensor([[21.0, 20, 40, 40], [0, 0, 4, 10], [0, 0, 10, 9], [50, 50, 60, 60]])
    empty = torch.zeros(0, 4)
    boxes, numbers = boxes_to_match(
        [proposals, proposals], [truth, empty], [torch.tensor([8, 3]), torch.zeros(0, dtype=torch.int64)]
    )
    assert torch.equal(boxes[0], torch.cat([truth, proposals[[0, 2]]]))
    assert numbers[0].tolist() == [8, 3, 3, 8]
    assert len(boxes[1]) == len(numbers[1]) == 0


def test_the_head_is_trained_beside_the_others_which_stay_as_they_are():
    stacks, _, target = stacks_of()
    with_head, without = build("conv", embedding=True), build("conv")
    torch.manual_seed(3)
    losses = with_head(stacks, target, references(target))
    torch.manual_seed(3)
    expected = without(stacks, target)
    assert losses.keys() - expected.keys() == {"loss_embedding"}
    assert all(torch.equal(losses[name], value) for name, value in expected.items())
    assert losses["loss_embedding"] > 0
    losses["loss_embedding"].backward()
    for name, parameter in with_head.embedding.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    assert with_head.encoder_parameters()[-1].grad is not None
    assert "embedding" not in {name.partition(".")[0] for name in copies(without)}


def test_crowds_and_slices_without_objects_are_no_trouble():
    stacks, _, target = stacks_of(numbers=(3, 0))
    target[0]["crowd"][1] = True
    network = build("level_mlp", embedding=True)
    known = references(target)
    losses = network(stacks, target, known)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    empty = network(*stacks_of(numbers=(0, 0))[::2], known)
    assert empty["loss_embedding"] == 0


def test_learning_tells_objects_of_neighbouring_slices_apart():
    torch.manual_seed(0)
    head = EmbeddingHead(2, hidden=32, size=8)
    looks = torch.rand(4, 2, 7, 7)  # of four objects, in slices with noise
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    order = torch.tensor([2, 0, 3])

    def loss():
        seen, before = (looks + 0.05 * torch.rand_like(looks) for _ in range(2))
        return matching_loss([head(seen)], [torch.arange(4)], [head(before[order])], [order])

    first = float(loss().detach())
    for _ in range(60):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
    assert float(loss().detach()) < 0.1 * first


def test_detections_carry_vectors_that_belong_to_their_boxes():
    network = build("conv", embedding=True, score_threshold=0.0)
    volume = torch.rand(3, 64, 80)
    found = list(network.predict_volume(volume))
    stacks = [volume[[0, 0, 1]], volume[[0, 1, 2]], volume[[1, 2, 2]]]
    for objects, same in zip(found, network.predict(stacks), strict=True):
        assert objects["embedding"].shape == (len(objects["boxes"]), 256)
        assert objects["embedding"].dtype == torch.float32
        assert torch.equal(objects["embedding"], same["embedding"])
    assert len(found[0]["boxes"]) > 1
    # Of a size that is not resized, the boxes are those that the head saw.
    network.eval()
    batch, _, features = network._features(stacks[:1])
    with torch.no_grad():
        (expected,) = network._embed(network.embedding, batch, features, [found[0]["boxes"]])
    torch.testing.assert_close(found[0]["embedding"], expected, rtol=1e-4, atol=1e-5)
    _, evaluated = network.evaluate(stacks, stacks_of(sizes=((64, 80),) * 3, numbers=(3, 1, 2))[2])
    assert evaluated[0]["embedding"].shape[1] == 256


def test_a_step_trains_the_head():
    stacks, _, target = stacks_of()
    network = build("conv", embedding=True)
    before = copies(network.embedding)
    with pytest.raises(UserError, match=r"data\.reference, .* model\.embedding, .* go together"):
        network(stacks, target)
    network.forward = lambda images, objects: type(network).forward(
        network, images, objects, references(target)
    )
    train_one_step(network, stacks, target)
    assert all(not torch.equal(value, before[name]) for name, value in network.embedding.state_dict().items())


def test_without_a_head_nothing_is_embedded():
    assert "embedding" not in build("conv").predict([torch.rand(3, 64, 64)])[0]
    assert "embedding" not in build_plain().predict([torch.rand(3, 64, 64)])[0]
