from __future__ import annotations

import pytest
import torch
from detectors import assert_same, batch, build, copies, train_one_step

from polymask.errors import UserError
from polymask.models.mask_rcnn.necks import NECKS

VIT = {"backbone": "test_vit", "taps": [1, 3, 4, 6]}
SIMPLE = {"backbone": "test_vit", "neck": "simple"}
LAST_NORM = {"encoder.model.norm.weight", "encoder.model.norm.bias"}


@pytest.mark.parametrize(
    ("neck", "width", "expected"),
    [
        # Transposed convolutions of 2 x 2 with bias, a norm; lateral and 3 x 3 convolutions of the pyramid.
        ("taps", 192, 3 * (4 * 192**2 + 192) + 2 * 192 + 4 * (192 + 1 + 9 * 256 + 1) * 256),
        ("taps", 384, 3 * (4 * 384**2 + 384) + 2 * 384 + 4 * (384 + 1 + 9 * 256 + 1) * 256),
        ("simple", 192, 2_664_880),
        ("simple", 384, 3_298_144),
    ],
)
def test_number_of_parameters(neck, width, expected):
    found = sum(p.numel() for part in NECKS[neck](width, 256) for p in part.parameters())
    assert found == expected
    published = {("taps", 192): 3.00, ("taps", 384): 4.53, ("simple", 192): 2.66, ("simple", 384): 3.30}
    assert round(found / 1e6, 2) == published[neck, width]


@pytest.mark.parametrize("options", [{"backbone": "test_vit2"}, VIT, SIMPLE])
@pytest.mark.parametrize("size", [(64, 96), (160, 32)])
def test_a_plain_transformer_gets_a_pyramid_for_any_size(options, size):
    backbone = build(**options).detector.backbone
    maps = backbone(torch.zeros(1, 3, *size))
    strides = {"0": 4, "1": 8, "2": 16, "3": 32, "pool": 64}
    expected = {name: (16, -(-size[0] // s), -(-size[1] // s)) for name, s in strides.items()}
    assert {name: tuple(level.shape[1:]) for name, level in maps.items()} == expected


@pytest.mark.parametrize(("neck", "read"), [("taps", [0, 2, 3, 5]), ("simple", [5])])
def test_the_neck_reads_the_outputs_of_its_blocks(neck, read):
    """Noise added behind a block changes the neck's input if it reads that block, or one after it."""
    network = build(**(VIT if neck == "taps" else SIMPLE)).eval()
    transformer = network.encoder.encoder.model
    outputs, given = [], []
    hooks = [block.register_forward_hook(lambda *a: outputs.append(a[2])) for block in transformer.blocks]
    hooks.append(network.detector.backbone.neck.register_forward_hook(lambda *a: given.extend(a[1][0])))
    network.detector.backbone(torch.rand(1, 3, 64, 64))
    assert len(hooks) == 7
    levels = given if neck == "taps" else given[-1:]
    for level, block in zip(levels, read, strict=True):
        torch.testing.assert_close(level.flatten(2).transpose(1, 2), outputs[block][:, 1:])


@pytest.mark.parametrize("options", [VIT, SIMPLE])
def test_gradients_arrive_everywhere_but_in_the_last_norm(options):
    network = build(**options)
    sum(network(*batch()).values()).backward()
    idle = {name for name, p in network.encoder.named_parameters() if p.grad is None}
    assert idle == LAST_NORM
    assert all(p.grad.any() for p in network.parameters() if p.grad is not None)


def test_four_images_are_learned():
    network = build(**VIT, drop_path=0.1, boxes_per_image=16)
    images, target = batch(numbers=(2, 2, 2, 2), sizes=((64, 64),) * 4)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    totals = []
    for _ in range(20):
        loss = sum(network(images, target).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        totals.append(float(loss.detach()))
    assert sum(totals[-5:]) / 5 < totals[0] / 2


def test_trainable_layers_counts_from_the_deepest_taps():
    first = {"encoder.model.pos_embed", "encoder.model.patch_embed.proj.weight"}
    for number in range(5):
        network = build(**VIT, trainable_layers=number)
        trained = {name for name, value in network.encoder.named_parameters() if value.requires_grad}
        blocks = {int(name.split("blocks.")[1].split(".")[0]) for name in trained if "blocks." in name}
        assert blocks == set(range([6, 4, 3, 1, 0][number], 6))
        assert first & trained == (first if number == 4 else set())
    with pytest.raises(UserError, match=r"model\.trainable_layers=5 .* has 4 stages"):
        build(**VIT, trainable_layers=5)


def test_a_pretrained_transformer_is_trained_whole(tmp_path):
    """Its position table is in the first stage."""
    path = tmp_path / "vit.pt"
    torch.save(build(**VIT).encoder.state_dict(), path)
    network = build(**VIT, weights=str(path))
    idle = {name for name, value in network.encoder.named_parameters() if not value.requires_grad}
    assert idle == LAST_NORM


@pytest.mark.parametrize("options", [VIT, SIMPLE])
def test_the_company_of_other_images_changes_nothing(options):
    network = build(**options, drop_path=0.5, score_threshold=0.0)
    images, target = batch(numbers=(3, 1, 2), sizes=((64, 80), (70, 52), (64, 80)))
    losses, raws = network.evaluate(images, target)
    assert len(raws[1]["scores"]) == 20
    alone = [network.evaluate(images[i : i + 1], target[i : i + 1])[1][0] for i in range(3)]
    for raw, expected in zip(raws, alone, strict=True):
        assert_same(raw, expected, rtol=1e-4, atol=1e-4)
    assert_same(network.evaluate(images, target)[0], losses, rtol=0, atol=0)


def kept_for_backward(module, images):
    """Number of values that the forward pass keeps for the gradients."""
    sizes = []

    def keep(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(images)
    return sum(sizes)


def test_checkpointed_blocks_give_the_same_gradients_with_less_memory():
    images, target = batch()
    found = []
    for checkpoint_blocks in (False, True):
        network = build(**VIT, drop_path=0.5, checkpoint_blocks=checkpoint_blocks, trainable_layers=3)
        kept = kept_for_backward(network.encoder, torch.rand(2, 3, 64, 64))
        torch.manual_seed(3)
        losses = network(images, target)
        sum(losses.values()).backward()
        gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        found.append((losses, gradients, kept))
    assert_same(found[1][0], found[0][0], rtol=0, atol=0)
    assert_same(found[1][1], found[0][1], rtol=0, atol=0)
    assert found[1][2] < found[0][2] / 5


def test_paths_are_dropped_in_training_alone_and_more_in_deeper_blocks():
    network = build(**VIT, drop_path=0.4)
    rates = [getattr(b.drop_path1, "drop_prob", 0.0) for b in network.encoder.encoder.model.blocks]
    assert rates == pytest.approx([0, 0.08, 0.16, 0.24, 0.32, 0.4])
    image = torch.rand(1, 3, 64, 64)
    for training in (True, False):
        network.train(training)
        one, other = (network.encoder(image)["3"] for _ in range(2))
        assert torch.equal(one, other) != training


def test_reset_weights_returns_to_the_start():
    network = build(**VIT, seed=5)
    start = copies(network)
    train_one_step(network, *batch())
    network.reset_weights()
    assert_same(copies(network), start, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "test_vit"}, r"model\.backbone='test_vit' has 6 blocks, .*model\.taps=\[2, 3, 4, 6\]"),
        ({"backbone": "vit_small_patch14_dinov2"}, r"has patches of 14 pixels; a neck needs patches of 16"),
        ({"backbone": "mixer_s16_224"}, r"'mixer_s16_224' is no transformer whose position table"),
        ({"neck": "tap"}, r"model\.neck='tap' is unknown\. Did you mean 'taps'\?.*taps, simple, null"),
        ({"neck": "simple"}, r"model\.neck=simple is for plain .*'tu-test_resnet' use model\.neck=null"),
        ({"taps": [1, 2, 3, 4]}, r"model\.taps=\[1, 2, 3, 4\] is for plain vision transformers"),
        ({**VIT, "taps": [1, 2, 3]}, r"model\.taps=\[1, 2, 3\] is not valid; give four increasing .* 1 to 6"),
        ({**VIT, "taps": [1, 2, 3, 7]}, r"model\.taps=\[1, 2, 3, 7\] is not valid"),
        ({**VIT, "taps": [1, 3, 3, 6]}, r"model\.taps=\[1, 3, 3, 6\] is not valid"),
        ({**VIT, "taps": [1, 4, 3, 6]}, r"model\.taps=\[1, 4, 3, 6\] is not valid"),
        ({**VIT, "taps": [1, 2, 3, 6.0]}, r"model\.taps=\[1, 2, 3, 6\.0\] is not valid"),
        ({**VIT, "taps": 6}, r"model\.taps=6 is not valid"),
        ({**VIT, "neck": "simple"}, r"model\.neck=simple takes the last block"),
        ({**VIT, "drop_path": 1.0}, r"model\.drop_path=1\.0 is not valid; .* below 1"),
        (
            {"backbone": "vgg11", "drop_path": 0.1},
            r"model\.drop_path=0\.1 is for .*model\.backbone='tu-vgg11'",
        ),
        ({"backbone": "resnet50_fpn", "drop_path": 0.1}, r"with model\.backbone='resnet50_fpn' use 0"),
        ({"checkpoint_blocks": True}, r"checkpoint_blocks=true is for .*model\.backbone='tu-test_resnet'"),
    ],
)
def test_what_is_not_allowed_is_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        build(**options)
    assert "\n" not in str(caught.value)
