from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from polymask.errors import UserError
from polymask.metrics.segmentation import (
    confusion_per_sample,
    count_masks,
    lesion_confusion_per_sample,
    lesion_scores,
    pixel_accuracy,
    segmentation_metrics,
)

NAMES = ["globules", "streaks", "network"]


def make_masks(num_images=12, num_classes=4, size=6, seed=0):
    """Masks in blocks with ignored pixels; image 0 is empty in both, image 1 has no valid pixel."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, num_classes, (num_images, size // 2, size // 2)).repeat(2, 1).repeat(2, 2)
    wrong = rng.random(target.shape) < 0.3
    predicted = np.where(wrong, rng.integers(0, num_classes, target.shape), target)
    target[rng.random(target.shape) < 0.1] = 255
    target[0], predicted[0], target[1] = 0, 0, 255
    return predicted, target


def looped_counts(predicted, target, num_classes):
    counts = np.zeros((len(target), num_classes, 3), np.int64)
    for sample, row, column in np.ndindex(target.shape):
        guess, truth = predicted[sample, row, column], target[sample, row, column]
        if truth == 255:
            continue
        if guess == truth:
            counts[sample, truth, 0] += 1
        else:
            counts[sample, guess, 1] += 1
            counts[sample, truth, 2] += 1
    return counts


def scores(tp, fp, fn):
    return {"dice": 2 * tp / (2 * tp + fp + fn), "iou": tp / (tp + fp + fn)}


def metrics_of(predicted, target, names, weights=None):
    predicted, target = torch.as_tensor(predicted), torch.as_tensor(target)
    counts = confusion_per_sample(predicted, target, len(names) + 1).numpy()
    return segmentation_metrics(
        counts, weights, names, lesion_confusion_per_sample(predicted, target).numpy()
    )


def test_hand_made_masks():
    predicted = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 1]], [[0, 0], [0, 0]]])
    target = torch.tensor([[[1, 0], [1, 0]], [[0, 255], [0, 1]], [[0, 0], [0, 0]]])
    counts = confusion_per_sample(predicted, target, num_classes=2)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [
        [[1, 1, 1], [1, 1, 1]],
        [[2, 0, 0], [1, 0, 0]],
        [[4, 0, 0], [0, 0, 0]],
    ]
    metrics = segmentation_metrics(counts.numpy(), None, ["lesion"])
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {
            "dice_lesion_image": (0.5 + 1 + 1) / 3,
            "dice_lesion_pooled": 4 / 6,
            "iou_lesion_image": (1 / 3 + 1 + 1) / 3,
            "iou_lesion_pooled": 2 / 4,
            "iou_thresholded_lesion_image": (0 + 1 + 1) / 3,
        }
    )


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_confusion_equals_a_loop_over_pixels(dtype):
    predicted, target = make_masks()
    counts = confusion_per_sample(torch.as_tensor(predicted).to(dtype), torch.as_tensor(target).to(dtype), 4)
    np.testing.assert_array_equal(counts, looped_counts(predicted, target, 4))


def test_lesion_confusion_equals_a_loop_over_binary_masks():
    predicted, target = make_masks()
    binary = np.where(target == 255, 255, np.minimum(target, 1))
    counts = lesion_confusion_per_sample(torch.as_tensor(predicted), torch.as_tensor(target))
    np.testing.assert_array_equal(counts, looped_counts(np.minimum(predicted, 1), binary, 2)[:, 1])


def test_counting_never_waits_for_the_device():
    # Tensors on "meta" hold no values: anything that would have to look at one fails.
    masks = torch.zeros(2, 4, 4, dtype=torch.int64, device="meta")
    assert confusion_per_sample(masks, masks, 3).shape == (2, 3, 3)
    assert lesion_confusion_per_sample(masks, masks).shape == (2, 3)


def test_lesion_metrics_equal_sklearn_image_by_image():
    predicted, target = make_masks(num_classes=2, seed=4)
    metrics = metrics_of(predicted, target, ["lesion"])
    assert metrics.keys() == {
        "dice_lesion_image", "dice_lesion_pooled", "iou_lesion_image", "iou_lesion_pooled",
        "iou_thresholded_lesion_image",
    }  # fmt: skip
    for name, function in (("dice", f1_score), ("iou", jaccard_score)):
        per_image = [1.0]  # image 0 is empty in truth and prediction, image 1 has no mask
        for guess, truth in zip(predicted[2:], target[2:], strict=True):
            per_image.append(function(truth[truth != 255], guess[truth != 255]))
        np.testing.assert_allclose(metrics[f"{name}_lesion_image"], [np.mean(per_image)])
        valid = target != 255
        np.testing.assert_allclose(
            metrics[f"{name}_lesion_pooled"], [function(target[valid], predicted[valid])]
        )


def test_multiclass_metrics_equal_loops():
    predicted, target = make_masks(seed=2)
    predicted[target == 3] = 0  # the class "network" is never found ...
    target[5:][target[5:] == 2] = 1  # ... and "streaks" is missing from some images
    metrics = metrics_of(predicted, target, NAMES)
    counts = looped_counts(predicted, target, 4)
    pooled = {"dice": [], "iou": []}
    for index, name in enumerate(NAMES, start=1):
        per_image = [scores(*row) for row in counts[:, index] if row.sum()]
        for score, value in scores(*counts[:, index].sum(axis=0)).items():
            pooled[score].append(value)
            np.testing.assert_allclose(metrics[f"{score}_{name}_pooled"], [value])
            mean = np.mean([image[score] for image in per_image])
            np.testing.assert_allclose(metrics[f"{score}_{name}_image"], [mean])
    for score, values in pooled.items():
        np.testing.assert_allclose(metrics[f"{score}_macro_pooled"], [np.mean(values)])
    binary = metrics_of(np.minimum(predicted, 1), np.where(target == 255, 255, target > 0), ["lesion"])
    assert binary.keys() < metrics.keys()
    assert len(metrics) == 5 + 2 + 4 * len(NAMES)
    for name, value in binary.items():
        np.testing.assert_allclose(metrics[name], value)


def test_absent_class_is_left_out_of_the_mean():
    predicted = np.array([[[1, 1], [2, 0]], [[0, 0], [2, 2]]])
    target = np.array([[[1, 0], [2, 0]], [[0, 0], [2, 0]]])
    metrics = metrics_of(predicted, target, NAMES)
    assert np.isnan(metrics["dice_network_pooled"]).all()
    assert np.isnan(metrics["iou_network_image"]).all()
    assert metrics["dice_macro_pooled"].item() == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert metrics["iou_macro_pooled"].item() == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metrics["dice_globules_image"].item() == pytest.approx(2 / 3)  # image 1 has none
    assert metrics["dice_streaks_image"].item() == pytest.approx((1 + 2 / 3) / 2)


def test_empty_everywhere_scores_one_and_no_mask_is_nan():
    nothing, no_mask = np.zeros((2, 3, 3), np.int64), np.full((2, 3, 3), 255)
    assert all(value == [1] for value in metrics_of(nothing, nothing, ["lesion"]).values())
    assert all(np.isnan(value) for value in metrics_of(nothing, no_mask, ["lesion"]).values())
    several = metrics_of(nothing, nothing, NAMES)
    assert several["dice_lesion_pooled"] == 1
    assert np.isnan(several["dice_macro_pooled"])


def test_missed_or_invented_lesion_scores_zero():
    empty, full = np.zeros((1, 3, 3), np.int64), np.ones((1, 3, 3), np.int64)
    for predicted, target in ((empty, full), (full, empty)):
        assert all(value == [0] for value in metrics_of(predicted, target, ["lesion"]).values())


def test_an_iou_of_exactly_the_threshold_counts():
    counts = np.array([[[0, 0, 0], [65, 35, 0]], [[0, 0, 0], [64, 36, 0]], [[0, 0, 0], [8, 0, 2]]])
    metrics = segmentation_metrics(counts, None, ["lesion"])
    assert metrics["iou_thresholded_lesion_image"].item() == pytest.approx((0.65 + 0 + 0.8) / 3)


def test_no_images_give_nan():
    metrics = segmentation_metrics(np.zeros((0, 2, 3), np.int64), np.ones((4, 0)), ["lesion"])
    assert all(value.shape == (4,) and np.isnan(value).all() for value in metrics.values())


@pytest.mark.parametrize("num_classes", [2, 4])
def test_weights_equal_repeated_images(num_classes):
    predicted, target = make_masks(num_classes=num_classes, seed=7)
    names = NAMES[: num_classes - 1]
    weights = np.random.default_rng(0).integers(0, 3, (20, len(target))).astype(np.float64)
    weights[0] = 0
    weights[1] = np.arange(len(target)) == 1  # only the image without a mask
    metrics = metrics_of(predicted, target, names, weights)
    for replicate, counts in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(len(target)), counts)
        alone = metrics_of(predicted[rows], target[rows], names)
        for name, value in alone.items():
            np.testing.assert_allclose(metrics[name][replicate], value[0], rtol=1e-12, err_msg=name)
    assert all(np.isnan(value[:2]).all() for value in metrics.values())


def test_dice_is_never_below_iou():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, rng.integers(1, 10_000, (300, 4, 3)))
    counts[rng.random((300, 4, 3)) < 0.4] = 0
    weights = rng.integers(0, 4, (500, 300)).astype(np.float64)
    metrics = segmentation_metrics(counts, weights, NAMES, counts[:, 1])
    for name in metrics:
        if name.startswith("dice"):
            assert (metrics[name] >= metrics[name.replace("dice", "iou")]).all()


@pytest.mark.parametrize(
    "function", [lambda p, t: confusion_per_sample(p, t, 2), lesion_confusion_per_sample]
)
def test_shapes_that_would_broadcast_are_refused(function):
    with pytest.raises(ValueError, match=r"not both \(B, H, W\)"):
        function(torch.zeros(2, 4, 4), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match=r"not both \(B, H, W\)"):
        function(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4))


def test_ignore_value_cannot_be_a_class():
    with pytest.raises(ValueError, match="num_classes=256"):
        confusion_per_sample(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), 256)


def test_several_classes_need_the_union():
    with pytest.raises(ValueError, match="need lesion_counts"):
        segmentation_metrics(np.zeros((1, 3, 3), np.int64), None, ["a", "b"])


@pytest.mark.parametrize("names", [["a", "lesion"], ["macro", "a"], ["a", "a"]])
def test_class_names_that_would_share_a_key_are_refused(names):
    with pytest.raises(UserError, match="rename the class"):
        segmentation_metrics(np.zeros((1, 3, 3), np.int64), None, names, np.zeros((1, 3), np.int64))


def test_pixel_accuracy_counts_right_pixels_of_valid_ones():
    predicted, target = make_masks()
    counts = confusion_per_sample(torch.as_tensor(predicted), torch.as_tensor(target), 4).numpy()
    valid = target != 255
    right = (predicted == target) & valid
    shares = [right[i].sum() / valid[i].sum() for i in range(len(target)) if valid[i].any()]
    found = pixel_accuracy(counts)
    np.testing.assert_allclose(found["pixel_accuracy_image"], np.mean(shares))
    pooled = accuracy_score(target[valid], predicted[valid])
    np.testing.assert_allclose(found["pixel_accuracy_pooled"], pooled)


def test_pixel_accuracy_of_weighted_images_is_that_of_repeated_ones():
    predicted, target = make_masks()
    counts = confusion_per_sample(torch.as_tensor(predicted), torch.as_tensor(target), 4).numpy()
    times = np.array([0, 1, 2, 3] * 3)
    weighted = pixel_accuracy(counts, times[None].astype(float))
    repeated = pixel_accuracy(counts.repeat(times, axis=0))
    for name, value in repeated.items():
        np.testing.assert_allclose(weighted[name], value)


def test_lesion_scores_are_the_single_images_of_the_mean():
    predicted, target = (torch.as_tensor(mask) for mask in make_masks())
    counts = confusion_per_sample(predicted, target, 4).numpy()
    lesion = lesion_confusion_per_sample(predicted, target).numpy()
    scores = lesion_scores(lesion, counts)
    assert np.isnan(scores["dice"][1])  # no valid pixel
    assert scores["dice"][0] == 1.0  # empty in both
    inside = target[2] != 255
    expected = f1_score((target[2][inside] > 0).numpy(), (predicted[2][inside] > 0).numpy())
    np.testing.assert_allclose(scores["dice"][2], expected)


def test_empty_masks_are_counted_by_the_truth_whatever_was_predicted():
    full, none = torch.ones(2, 2), torch.zeros(2, 2)
    target = torch.stack([none, none, full, torch.full((2, 2), 255.0)]).long()  # the last one is ignored
    predicted = torch.stack([none, full, none, none]).long()
    lesion = lesion_confusion_per_sample(predicted, target).numpy()
    counts = confusion_per_sample(predicted, target, 2).numpy()
    assert count_masks(lesion, counts) == {"num_masks": 3, "num_empty_masks": 2}
