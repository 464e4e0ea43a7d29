"""Ignored regions: no anchor, proposal or pixel in them is background, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.roi_heads import maskrcnn_loss

from polymask.models.mask_rcnn.ignoring import covered_share, mask_loss
from polymask.models.mask_rcnn.model import build_model

SIZE = (64, 80)
REGION = (40, 0, 80, 64)  # the right half
OBJECT = (4.0, 6.0, 24.0, 30.0)


def network():
    torch.manual_seed(0)
    return build_model(
        backbone="resnet18",
        weights=None,
        channels=16,
        min_size=64,
        max_size=80,
        boxes_per_image=32,
        num_classes=1,
        anchor_sizes=[8, 16, 32, 48, 64],
    )


def mask_of(box, size=SIZE):
    x0, y0, x1, y1 = (int(value) for value in box)
    mask = torch.zeros(size, dtype=torch.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def target(objects=(OBJECT,), regions=(REGION,)):
    """Return torchvision's target with ignored regions."""
    masks = [mask_of(box) for box in objects]
    return {
        "boxes": torch.tensor(objects).reshape(-1, 4),
        "labels": torch.ones(len(objects), dtype=torch.int64),
        "masks": torch.stack(masks) if masks else torch.zeros(0, *SIZE, dtype=torch.uint8),
        "ignored": torch.stack([mask_of(box) for box in regions])
        if regions
        else torch.zeros(0, *SIZE, dtype=torch.uint8),
    }


def test_covered_share_is_that_of_counted_pixels() -> None:
    generator = torch.Generator().manual_seed(3)
    regions = (torch.rand(2, *SIZE, generator=generator) > 0.7).to(torch.uint8)
    corners = torch.randint(-20, 90, (200, 4), generator=generator)
    boxes = torch.cat([corners[:, :2].minimum(corners[:, 2:]), corners[:, :2].maximum(corners[:, 2:])], 1)
    shares = covered_share(boxes.float(), regions)
    for box, share in zip(boxes.tolist(), shares.tolist(), strict=True):
        x0, y0, x1, y1 = (max(0, value) for value in box)
        pixels = regions.bool().any(dim=0)[y0:y1, x0:x1]
        assert share == pytest.approx(pixels.float().mean().item() if pixels.numel() else 0.0)


def test_anchors_in_a_region_are_neither_objects_nor_background() -> None:
    rpn = network().detector.rpn
    anchors = torch.tensor(
        [
            [4.0, 6, 24, 30],  # the object
            [50.0, 10, 70, 40],  # in the region
            [32.0, 40, 48, 56],  # half of it
            [28.0, 40, 48, 56],  # two fifths
            [10.0, 40, 30, 60],  # background
            [60.0, -60, 76, 4],  # mostly above the image; of what is inside, all lies in the region
            [90.0, 10, 120, 40],  # beyond the image
        ]
    )
    (labels,), _ = rpn.assign_targets_to_anchors([anchors], [target()])
    assert labels.tolist() == [1, -1, -1, 0, 0, -1, 0]
    (labels,), _ = rpn.assign_targets_to_anchors([anchors], [target(regions=())])
    assert labels.tolist() == [1, 0, 0, 0, 0, 0, 0]
    (labels,), _ = rpn.assign_targets_to_anchors([anchors], [target(regions=((0, 0, 80, 64),))])
    assert labels.tolist() == [1, -1, -1, -1, -1, -1, 0]  # an object in a region stays one


def test_losses_do_not_depend_on_what_the_network_says_of_a_region() -> None:
    rpn = network().detector.rpn
    xs, ys = torch.meshgrid(torch.arange(0, 72, 8.0), torch.arange(0, 56, 8.0), indexing="xy")
    anchors = torch.stack([xs, ys, xs + 12, ys + 12], dim=-1).reshape(-1, 4)
    labels, matched = rpn.assign_targets_to_anchors([anchors], [target()])
    aims = rpn.box_coder.encode(matched, [anchors])
    generator = torch.Generator().manual_seed(1)
    offsets = torch.randn(len(anchors), 4, generator=generator)

    def losses(in_region: float, elsewhere: float) -> list[float]:
        inside = anchors[:, 0] >= 40
        objectness = torch.where(inside, in_region, elsewhere)[:, None]
        torch.manual_seed(0)
        return [value.item() for value in rpn.compute_loss(objectness, offsets, labels, aims)]

    assert losses(9.0, 0.5) == losses(-9.0, 0.5)
    assert losses(9.0, 0.5) != losses(9.0, 1.5)


def test_proposals_in_a_region_are_left_out_unless_they_match_an_object() -> None:
    heads = network().detector.roi_heads
    inside, matching, outside = (50.0, 10.0, 70.0, 40.0), (42.0, 45.0, 62.0, 60.0), (10.0, 40.0, 30.0, 60.0)
    own = target(objects=((41.0, 45.0, 62.0, 60.0),))
    (found,), _, (labels,), _ = heads.select_training_samples(
        [torch.tensor([inside, matching, outside])], [own]
    )
    kept = dict(zip(map(tuple, found.tolist()), labels.tolist(), strict=True))
    assert kept == {matching: 1, outside: 0, (41.0, 45.0, 62.0, 60.0): 1}


def test_mask_loss_counts_no_pixel_of_a_region_but_those_of_the_object() -> None:
    box = torch.tensor([[26.0, 6.0, 54.0, 34.0]])  # 28 pixels wide: a pixel of the image is one of the mask
    own = target(objects=((26.0, 6.0, 44.0, 34.0),))  # reaches 4 pixels into the region, which starts at 40
    rows = torch.zeros(1, dtype=torch.int64)

    def loss(columns: slice, objects: dict = own) -> float:
        logits = torch.randn(1, 2, 28, 28, generator=torch.Generator().manual_seed(0))
        logits[..., columns] += 3
        return mask_loss(logits, [box], [rows], [objects]).item()

    nothing = loss(slice(0))
    assert loss(slice(19, 28)) == nothing  # in the region, beyond the object
    assert loss(slice(15, 17)) != nothing  # in both
    assert loss(slice(5, 10)) != nothing
    free = target(objects=((26.0, 6.0, 44.0, 34.0),), regions=())
    assert loss(slice(19, 28), free) != loss(slice(0), free)
    logits = torch.randn(1, 2, 28, 28, generator=torch.Generator().manual_seed(0))
    plain = maskrcnn_loss(logits, [box], [free["masks"]], [free["labels"]], [rows])
    assert loss(slice(0), free) == plain.item()


@pytest.mark.parametrize("training", [True, False])
def test_an_image_that_is_all_region_teaches_nothing(training: bool) -> None:
    model = network()
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    crowd = {
        "boxes": torch.tensor([[0.0, 0, 64, 64]]),
        "labels": torch.zeros(1, dtype=torch.int64),
        "masks": torch.ones(1, 64, 64, dtype=torch.uint8),
        "crowd": torch.ones(1, dtype=torch.bool),
    }
    # Anchors that begin outside of the image would still count as background.
    model.detector.rpn.anchor_generator.cell_anchors = [
        anchors.clamp(-2, 2) for anchors in model.detector.rpn.anchor_generator.cell_anchors
    ]
    if not training:
        losses, _ = model.evaluate([image], [crowd])
        assert {value.item() for value in losses.values()} == {0.0}
        return
    model.train()
    losses = model([image], [crowd])
    assert {value.item() for value in losses.values()} == {0.0}
    sum(losses.values()).backward()
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    assert gradients
    assert not any(value.any() for value in gradients)


def test_half_of_the_objects_as_regions_changes_proposals_and_losses_only_there() -> None:
    model = network()
    image = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[4.0, 6, 24, 30], [50.0, 10, 76, 60]])
    objects = {
        "boxes": boxes,
        "labels": torch.zeros(2, dtype=torch.int64),
        "masks": torch.stack([mask_of(box) for box in boxes.tolist()]),
        "crowd": torch.tensor([False, True]),
    }
    without = {name: value[:1] for name, value in objects.items()}
    (with_region, found), (as_background, expected) = (
        model.evaluate([image], [own]) for own in (objects, without)
    )
    for name, value in expected[0].items():
        assert torch.equal(found[0][name], value)
    assert with_region["loss_objectness"] != as_background["loss_objectness"]
