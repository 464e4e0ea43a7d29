from __future__ import annotations

import pytest
import torch
from detectors import assert_same, batch, build, copies, train_one_step
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from polymask.errors import UserError
from polymask.models.mask_rcnn.pasting import to_predictions
from polymask.structures import rle

LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}


def of_torchvision(target):
    return [{"boxes": t["boxes"], "labels": t["labels"] + 1, "masks": t["masks"]} for t in target]


def test_losses_and_detections_are_those_of_torchvision():
    reference = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=3,
        min_size=64,
        max_size=128,
        box_score_thresh=0.3,
        box_batch_size_per_image=32,
        box_detections_per_img=20,
    )
    network = build(
        backbone="resnet50_fpn",
        channels=256,
        hidden_size=256,
        normalization="batch",
        anchor_sizes=[32, 64, 128, 256, 512],
        score_threshold=0.3,
    )
    extra = {key for key in network.detector.state_dict() if key.startswith("transform.")}
    assert network.detector.state_dict().keys() - extra == reference.state_dict().keys()
    with torch.no_grad():  # a mean and a scale of its own for each layer
        for name, value in network.detector.named_buffers():
            if "running" in name:
                value.uniform_(0.5, 1.5)
    reference.load_state_dict(
        {key: value for key, value in network.detector.state_dict().items() if key not in extra}
    )
    images, target = batch()
    torch.manual_seed(7)
    expected = reference(images, of_torchvision(target))
    torch.manual_seed(7)
    assert_same(network(images, target), expected)

    reference.eval()
    with torch.no_grad():
        expected = [reference([image])[0] for image in images]  # together the smaller would be padded
    raws = network.predict(images)
    sizes = [tuple(image.shape[1:]) for image in images]
    for raw, objects, size in zip(raws, expected, sizes, strict=True):
        assert len(objects["scores"]) > 0
        torch.testing.assert_close(raw["boxes"], objects["boxes"])
        torch.testing.assert_close(raw["scores"], objects["scores"])
        assert torch.equal(raw["labels"] + 1, objects["labels"])
        pasted = paste_masks_in_image(raw["masks"][:, None], raw["boxes"], size)
        torch.testing.assert_close(pasted, objects["masks"])
    for found, objects in zip(to_predictions(["a", "b"], raws, sizes), expected, strict=True):
        areas = (objects["masks"] >= 0.5).sum(dim=(1, 2, 3))
        assert [rle.area(mask) for mask in found.masks] == areas[areas > 0].tolist()


def test_evaluation_is_one_backbone_pass_with_the_losses_and_detections_of_two():
    network = build(normalization="batch")
    images, target = batch(sizes=((70, 80), (70, 80)))
    passes = []
    handle = network.detector.backbone.register_forward_hook(lambda *_: passes.append(1))
    losses, raws = network.evaluate(images, target)
    handle.remove()
    assert len(passes) == 1
    assert network.training
    network.eval()
    for found, expected in zip(raws, network.predict(images), strict=True):
        assert_same(found, expected, rtol=0, atol=0)
    # torchvision's own forward, which computes losses where these three modules say that they train.
    detector = network.detector
    for module in (detector, detector.rpn, detector.roi_heads):
        module.training = True
    torch.manual_seed(0)
    with torch.no_grad():
        assert_same(losses, detector(images, of_torchvision(target)), rtol=0, atol=0)


@pytest.mark.parametrize("normalization", ["group", "frozen"])
def test_the_company_of_larger_images_changes_nothing(normalization):
    network = build(normalization=normalization)
    images, target = batch(numbers=(3, 1, 2), sizes=((64, 80), (70, 52), (64, 80)))
    losses, raws = network.evaluate(images, target)
    pairs = [
        network.evaluate([images[i] for i in rows], [target[i] for i in rows]) for rows in ((0, 2), (1,))
    ]
    for raw, alone in zip(raws, (pairs[0][1][0], pairs[1][1][0], pairs[0][1][1]), strict=True):
        assert_same(raw, alone, rtol=0, atol=0)
    for name, value in losses.items():
        torch.testing.assert_close(value, (2 * pairs[0][0][name] + pairs[1][0][name]) / 3)
    network.eval()
    for raw, predicted in zip(raws, network.predict(images), strict=True):
        assert_same(raw, predicted, rtol=0, atol=0)


@pytest.mark.parametrize("normalization", ["batch", "frozen"])
def test_evaluation_changes_nothing_and_repeats_itself(normalization):
    network = build(normalization=normalization)
    images, target = batch()
    before, state = copies(network), torch.get_rng_state()
    first = network.evaluate(images, target)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(17)
    network.eval()
    second = network.evaluate(images, target)
    assert_same(copies(network), before, rtol=0, atol=0)
    assert_same(first[0], second[0], rtol=0, atol=0)
    for one, other in zip(first[1], second[1], strict=True):
        assert_same(one, other, rtol=0, atol=0)
    assert set(first[0]) == LOSSES


def test_training_after_evaluation_in_inference_mode():
    network = build()
    images, target = batch()
    with torch.inference_mode():
        network.evaluate(images, target)
    train_one_step(network, images, target)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50_fpn_v2"])
def test_all_losses_have_gradients_without_any_object(backbone):
    network = build(backbone=backbone)
    images, target = batch(numbers=(0, 0))
    losses = network(images, target)
    assert set(losses) == LOSSES
    assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_box_reg"] == 0
    assert all(loss.requires_grad and loss.shape == () for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    found, _ = network.evaluate(images, target)
    assert set(found) == LOSSES


def test_an_image_with_objects_beside_one_without():
    network = build()
    images, target = batch(numbers=(3, 0))
    losses = network(images, target)
    assert all(loss > 0 for loss in losses.values())


def test_detections_are_in_the_pixels_of_the_image():
    network = build(score_threshold=0.0, num_classes=3)
    (image,), _ = batch(numbers=(3,), sizes=((100, 300),))
    # 128 / 300 of the size, where the longer side decides; an image of that size is taken as it is.
    small = torch.nn.functional.interpolate(image[None], size=(42, 128), mode="bilinear")[0]
    found, expected = (network.predict([one])[0] for one in (image, small))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "boxes": (20, 4),
        "labels": (20,),
        "scores": (20,),
        "masks": (20, 28, 28),
    }
    assert set(found["labels"].tolist()) <= {0, 1, 2}
    assert (found["scores"].diff() <= 0).all()
    scale = torch.tensor([300 / 128, 100 / 42, 300 / 128, 100 / 42])
    torch.testing.assert_close(found["boxes"], expected["boxes"] * scale)


def test_pixels_are_normalised_with_statistics_of_the_state_dict():
    network = build()
    network.load_state_dict(
        copies(network)
        | {"detector.transform.pixel_mean": torch.tensor([0.5, 0.25, 0.125])}
        | {"detector.transform.pixel_std": torch.tensor([0.5, 0.1, 0.25])}
    )
    images, _ = network.eval().detector.transform([torch.full((3, 64, 64), 0.75)])
    assert images.tensors[0, :, 5, 5].tolist() == pytest.approx([0.5, 5.0, 2.5])


@pytest.mark.parametrize(
    ("normalization", "moving"), [("frozen", False), ("group", False), ("batch", True), ("auto", False)]
)
def test_statistics_move_only_with_batch_normalisation(normalization, moving):
    network = build(normalization=normalization, backbone="efficientnet_b0")
    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert bool(norms) == (normalization in ("frozen", "batch"))  # auto without weights is group
    before = copies(network)
    train_one_step(network, *batch())
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert any("running_mean" in name for name in changed) == moving
    network.train()
    assert all(layer.training == moving for layer in norms)


def test_frozen_normalisation_of_random_weights_keeps_the_maps_in_range():
    network = build(backbone="mobilenet_v2", normalization="frozen")
    images, _ = network.detector.transform(batch()[0])
    with torch.no_grad():
        in_range = [float(level.std()) for level in network.encoder(images.tensors).values()]
        for name, value in network.encoder.named_buffers():  # what new layers have
            if "running" in name:
                value.fill_("var" in name)
        deepest = list(network.encoder(images.tensors).values())[-1]
    assert all(0.1 < spread < 10 for spread in in_range)
    assert deepest.std() < 1e-3


def test_trainable_layers_counts_stages_from_the_deepest():
    images, target = batch()
    for number, trained in ((0, set()), (2, {"layer3", "layer4"}), (4, {f"layer{n}" for n in (1, 2, 3, 4)})):
        network = build(trainable_layers=number, normalization="frozen")
        before = copies(network)
        train_one_step(network, images, target)
        changed = {
            name for name, value in network.state_dict().items() if not torch.equal(value, before[name])
        }
        body = {name.split("model.")[1].split(".")[0] for name in changed if ".body." in name}
        assert body == trained
        listed = {*network.encoder_parameters(), *network.other_parameters()}
        assert listed == {value for value in network.parameters() if value.requires_grad}
    everything = build(trainable_layers=5)
    assert len(everything.encoder_parameters()) == len(list(everything.encoder.parameters()))
    with pytest.raises(UserError, match=r"model\.trainable_layers=6 .* has 5 stages"):
        build(trainable_layers=6)


def test_statistics_of_frozen_stages_do_not_move_either():
    network = build(trainable_layers=1, normalization="batch")
    before = copies(network)
    train_one_step(network, *batch())
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    moved = {name.split("model.")[1].split(".")[0] for name in changed if "running_mean" in name}
    assert moved == {"layer4"}


@pytest.mark.parametrize("normalization", ["group", "frozen"])
def test_reset_weights_returns_to_the_random_start(normalization):
    network = build(seed=11, normalization=normalization)
    start = copies(network)
    train_one_step(network, *batch())
    parameters = list(network.parameters())
    state = torch.get_rng_state()
    network.reset_weights()
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(copies(network), start, rtol=0, atol=0)
    assert all(one is other for one, other in zip(parameters, network.parameters(), strict=True))
    assert_same(copies(build(seed=11, normalization=normalization)), start, rtol=0, atol=0)


def test_losses_are_float32_under_autocast():
    network = build()
    images, target = batch(sizes=((64, 80), (64, 80)))
    expected, _ = network.evaluate(images, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = network(images, target)
        found, raws = network.evaluate(images, target)
        anchors = network.detector.rpn.anchor_generator.cell_anchors
    sum(losses.values()).backward()
    for tensor in (*losses.values(), *found.values(), *anchors, raws[0]["boxes"], raws[0]["masks"]):
        assert tensor.dtype == torch.float32
    assert_same(found, expected, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("backbone", ["convnext_atto", "mobilenet_v2", "tu-regnety_002", "vgg11"])
def test_any_encoder_with_four_maps_gets_a_pyramid(backbone):
    network = build(backbone=backbone)
    maps = network.detector.backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(level.shape[1:]) for level in maps.values()] == [
        (16, 16, 24),
        (16, 8, 12),
        (16, 4, 6),
        (16, 2, 3),
        (16, 1, 2),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet19"}, r"model\.backbone='resnet19' is unknown.*resnet18"),
        ({"weights": "coco"}, r"model\.weights=coco exists only for model\.backbone=resnet50_fpn and"),
        ({"normalization": "instance"}, r"model\.normalization='instance'.*auto, frozen, group, batch"),
        ({"anchor_sizes": [32, 64]}, r"model\.anchor_sizes=\[32, 64\] is not valid; it must have 5"),
        ({"anchor_sizes": [[8, 16], [32], 64, 128, 256]}, r"all lists of one length"),
        ({"min_size": 16}, r"model\.min_size=16"),
        ({"max_size": 32}, r"model\.max_size=32"),
        (
            {"score_threshold": 1.5},
            r"model\.score_threshold=1\.5 is not valid; .* at most 1",
        ),
        ({"trainable_layers": -1}, r"model\.trainable_layers=-1"),
        ({"num_classes": 0}, r"model\.num_classes=0"),
    ],
)
def test_what_is_not_allowed_is_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        build(**options)
    assert "\n" not in str(caught.value)


def test_several_anchors_per_map_and_several_sizes_in_training():
    network = build(anchor_sizes=[[8, 12], [16, 24], [32, 40], [48, 56], [64, 80]], min_size=[64, 96])
    images, target = batch(sizes=((64, 64), (64, 64)))
    assert network.detector.rpn.head.cls_logits.out_channels == 6
    network(images, target)
    resized = [network.detector.transform(images[:1])[0].image_sizes[0] for _ in range(20)]
    assert set(resized) == {(64, 64), (96, 96)}
    assert network.eval().detector.transform(images[:1])[0].image_sizes == [(96, 96)]
