"""Mixed batches beside torchvision's and beside pictures that were mixed by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import v2

from polymask.errors import UserError
from polymask.families.multitask.dataset import collate
from polymask.families.multitask.mixer import Mixer, mix, mixed_samples
from polymask.families.multitask.mixing import Mixing, Plan
from polymask.losses.segmentation import CrossEntropyLoss

IGNORE = 255
SIZE = (8, 12)


def plan_of(*, shares=None, boxes=None, size=SIZE):
    number = len(shares if shares is not None else boxes)
    return Plan(
        shares=np.ones(number, np.float32) if shares is None else np.array(shares, np.float32),
        boxes=np.zeros((number, 4), np.int64) if boxes is None else np.array(boxes),
        size=size,
    )


def make_batch(masks, labels, seed=0):
    """Return random images and the batch of masks (B, H, W), None for a sample without, and labels."""
    size = next((mask.shape for mask in masks if mask is not None), SIZE)
    masks = [np.full(size, IGNORE, np.uint8) if mask is None else mask for mask in masks]
    rng = np.random.default_rng(seed)
    batch = collate(
        [
            {"id": str(number), "image": np.zeros((*mask.shape, 3), np.uint8), "mask": mask, "label": label}
            for number, (mask, label) in enumerate(zip(masks, labels, strict=True))
        ]
    )
    images = rng.normal(size=(len(masks), 3, *masks[0].shape)).astype(np.float32)
    return torch.from_numpy(images), {**batch, "mask": batch["mask"].long()}


def random_masks(number=4, size=SIZE, highest=1):
    return list(np.random.default_rng(1).integers(0, highest + 1, (number, *size)).astype(np.uint8))


def test_blended_images_and_labels_are_those_of_torchvision():
    images, batch = make_batch([None, *random_masks(3)], [0, 2, 1, 1])
    shares = [0.3, 0.9, 1.0, 0.0]
    found, mixed = mix(images, batch, plan_of(shares=shares), num_masks=1, num_classes=3)
    reference = v2.MixUp(num_classes=3)
    for row, share in enumerate(shares):
        params = {"labels": batch["label"], "batch_size": 4, "lam": share}
        torch.testing.assert_close(found[row], reference.transform(images, params)[row])
        torch.testing.assert_close(mixed["label"][row], reference.transform(batch["label"], params)[row])
    assert torch.equal(found[2], images[2])
    assert torch.equal(found[3], images[2])


def test_pasted_images_and_labels_are_those_of_torchvision_where_there_are_no_masks():
    images, batch = make_batch([None, *random_masks(1), None], [0, 2, 1])
    boxes = [(2, 3, 7, 12), (0, 0, 4, 4), (0, 0, 8, 12)]
    found, mixed = mix(images, batch, plan_of(boxes=boxes), num_masks=1, num_classes=3)
    reference = v2.CutMix(num_classes=3)
    for row, (top, left, bottom, right) in enumerate(boxes):
        share = 1 - (bottom - top) * (right - left) / 96
        box = {"box": (left, top, right, bottom), "lam_adjusted": share}
        params = {"labels": batch["label"], "batch_size": 3, **box}
        assert torch.equal(found[row], reference.transform(images, params)[row])
        torch.testing.assert_close(mixed["label"][row], reference.transform(batch["label"], params)[row])


def test_two_images_pasted_by_hand():
    one = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, IGNORE]], np.uint8)
    two = np.array([[0, 0, 0, 0], [0, 1, 1, 1], [IGNORE, 1, 1, 1]], np.uint8)
    images, batch = make_batch([one, two], [0, 1])
    # Two columns on the right of the first one, and the lower left corner of the second.
    plan = plan_of(boxes=[(0, 2, 3, 4), (1, 0, 3, 2)], size=(3, 4))
    found, mixed = mix(images, batch, plan, num_masks=1, num_classes=2)
    assert mixed["mask"].tolist() == [
        [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1]],
        [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1]],
    ]
    # All 4 pixels of the first lesion beside 4 of the second; 4 of the second beside 2 of the first.
    torch.testing.assert_close(mixed["label"], torch.tensor([[1 / 2, 1 / 2], [2 / 6, 4 / 6]]))
    assert torch.equal(found[0, :, :, 2:], images[1, :, :, 2:])
    assert torch.equal(found[0, :, :, :2], images[0, :, :, :2])
    assert (mixed["mask_rows"], mixed["label_rows"]) == (None, None)


def test_pasted_skin_earns_no_label_and_what_shows_no_lesion_does_not_count():
    lesion_left, lesion_right = np.zeros((2, 4, 6), np.uint8)
    lesion_left[1:3, 0:2] = 1
    lesion_right[1:3, 4:6] = 1
    images, batch = make_batch([lesion_left, lesion_right, lesion_left], [0, 1, 2])
    # Skin into the first; skin of the first over the second's lesion; that lesion into the third's skin.
    plan = plan_of(boxes=[(0, 2, 4, 6), (0, 3, 4, 6), (0, 3, 4, 6)], size=(4, 6))
    _, mixed = mix(images, batch, plan, num_masks=1, num_classes=3)
    assert mixed["label"].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0.5, 0.5]]
    assert not mixed["mask"][1].any()


def test_an_empty_mask_leaves_the_share_to_the_area():
    healthy, lesion = np.zeros((2, 4, 6), np.uint8)
    lesion[:, :3] = 1
    images, batch = make_batch([lesion, healthy], [0, 1])
    _, mixed = mix(
        images, batch, plan_of(boxes=[(0, 0, 4, 3), (0, 0, 2, 6)], size=(4, 6)), num_masks=1, num_classes=2
    )
    torch.testing.assert_close(mixed["label"], torch.tensor([[0.5, 0.5], [0.5, 0.5]]))


@pytest.mark.parametrize("channels", [1, 3])
def test_blended_masks_are_shares_and_ignore_what_either_ignores(channels):
    masks = random_masks(3, highest=max(channels - 1, 1))
    masks[0][0] = IGNORE
    images, batch = make_batch(masks, [0, 1, 2])
    shares = [0.25, 0.5, 1.0]
    _, mixed = mix(images, batch, plan_of(shares=shares), num_masks=channels, num_classes=3)
    assert mixed["mask"].shape == (3, channels, 8, 12)
    classes = [1] if channels == 1 else [0, 1, 2]
    for row, share in enumerate(shares):
        own, partner = masks[row], masks[row - 1]
        ignored = (own == IGNORE) | ((partner == IGNORE) & (share < 1))
        for channel, value in enumerate(classes):
            expected = np.where(ignored, IGNORE, share * (own == value) + (1 - share) * (partner == value))
            np.testing.assert_allclose(mixed["mask"][row, channel], expected, rtol=1e-6)


def test_samples_without_mask_or_label_stay_without():
    mask = random_masks(1)[0]
    images, batch = make_batch([mask, None, mask, mask], [0, 1, -1, 1])
    _, blended = mix(images, batch, plan_of(shares=[0.5, 0.5, 0.5, 0.5]), num_masks=1, num_classes=2)
    assert blended["mask_rows"].tolist() == [0, 3]
    assert (blended["mask"][1:3] == IGNORE).all()
    assert blended["label_rows"].tolist() == [0, 1]
    box = (2, 2, 6, 6)
    boxes = [box, box, box, (0, 0, 0, 0)]
    _, pasted = mix(images, batch, plan_of(boxes=boxes), num_masks=1, num_classes=2)
    assert pasted["mask_rows"] is None  # the second one has what was pasted
    assert (pasted["mask"][1] != IGNORE).sum() == 16
    assert (pasted["mask"][2] == IGNORE).sum() == 16
    assert pasted["label_rows"].tolist() == [0, 1, 3]
    assert torch.equal(pasted["mask"][3], batch["mask"][3])


def test_metadata_are_mixed_like_the_classes():
    images, batch = make_batch(random_masks(2), [0, 1])
    batch["metadata"] = torch.tensor([[0.0, 4.0], [1.0, 2.0]])
    _, mixed = mix(images, batch, plan_of(shares=[0.25, 1.0]), num_masks=1, num_classes=2)
    torch.testing.assert_close(mixed["metadata"], torch.tensor([[0.75, 2.5], [1.0, 2.0]]))


def test_loss_of_blended_masks_is_the_formula_with_a_share_for_each_image():
    masks = random_masks(2)
    images, batch = make_batch(masks, [0, 1])
    _, mixed = mix(images, batch, plan_of(shares=[0.2, 0.7]), num_masks=1, num_classes=2)
    logits = torch.randn(2, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    own, partner = (
        F.binary_cross_entropy_with_logits(logits[:, 0], mask.float(), reduction="none").mean((1, 2))
        for mask in (batch["mask"], batch["mask"].roll(1, 0))
    )
    shares = torch.tensor([0.2, 0.7])
    torch.testing.assert_close(
        CrossEntropyLoss()(logits, mixed["mask"]), (shares * own + (1 - shares) * partner).mean()
    )


def test_a_batch_of_which_nothing_is_mixed_is_the_very_same():
    images, batch = make_batch(random_masks(2), [0, 1])
    mixer = Mixer(Mixing(mixup=1e-9), num_masks=1, num_classes=2)
    found, same = mixer(images, batch)
    assert found is images
    assert same is batch


def test_draws_follow_the_seed_of_the_epoch_and_leave_that_of_dropout_alone():
    images, batch = make_batch(random_masks(4), [0, 1, 1, 0])
    mixer = Mixer(Mixing(mixup=0.5, cutmix=0.5), num_masks=1, num_classes=2)
    found = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        mixer.start_epoch()
        first, second = (mixer(images, batch)[0] for _ in range(2))
        assert not torch.equal(first, second)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(torch.stack([first, second]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_single_image_is_refused():
    images, batch = make_batch(random_masks(1), [0])
    with pytest.raises(UserError, match=r"needs two images in a batch"):
        Mixer(Mixing(mixup=0.5), num_masks=1, num_classes=2)(images, batch)


def test_pictures_say_what_classes_are_seen_and_tint_what_is_lesion_in_either_part():
    masks = [np.zeros((6, 6), np.uint8) for _ in range(3)]
    masks[0][:2], masks[1][4:], masks[2][:, :2] = 1, 2, 3  # as masks that tell classes apart
    masks[2][5] = IGNORE
    _, batch = make_batch(masks, [0, 1, -1])
    values = np.array([0, 200, 100], np.uint8)
    batch["image"] = torch.from_numpy(np.tile(values[:, None, None, None], (1, 6, 6, 3)))
    samples = mixed_samples(batch, Mixing(mixup=1.0, mixup_alpha=50.0), ["MEL", "NV"])
    assert samples[0].title == "0"  # of its partner, the last one, no class is known
    assert samples[2].title == "2"
    partner, own = re.fullmatch(r"1: (0\.\d\d) MEL, (0\.\d\d) NV", samples[1].title).groups()
    assert float(partner) + float(own) == pytest.approx(1, abs=0.011)
    assert samples[1].image[0, 0, 0] == pytest.approx(200 * float(own), abs=1.5)
    assert (samples[1].mask == ((masks[0] > 0) | (masks[1] > 0))).all()
    assert (samples[2].mask[5] == IGNORE).all()
