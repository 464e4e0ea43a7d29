from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from instance_scenes import (
    coco_evaluation,
    decode,
    make_prediction,
    make_truth,
    random_scenes,
    stacked_rows,
    write_coco,
)
from pycocotools import mask as coco_mask
from sklearn.metrics import precision_recall_curve as sklearn_curve

from polymask.errors import UserError
from polymask.metrics.accumulator import Accumulator
from polymask.metrics.instances import confusion_counts, instance_metrics, precision_recall_curve

NAMES = ["fiber", "film", "fragment"]
SIZE = (50, 60)


def square(row, column, side=10):
    mask = np.zeros(SIZE, bool)
    mask[row : row + side, column : column + side] = True
    return mask


def coco_precisions(folder, kind, max_detections=100):
    """Average precisions by pycocotools, under our keys."""
    precision = coco_evaluation(folder, kind, (max_detections,)).eval["precision"][..., 0]
    precision = np.where(precision < 0, np.nan, precision)  # thresholds, recalls, classes, areas
    parts = {
        "ap": precision[..., 0],
        "ap50": precision[0, ..., 0],
        "ap75": precision[5, ..., 0],
        "ap_small": precision[..., 1],
        "ap_medium": precision[..., 2],
        "ap_large": precision[..., 3],
    }
    if precision.shape[2] > 1:
        for index, name in enumerate(NAMES[: precision.shape[2]]):
            parts |= {f"ap_{name}": precision[:, :, index, 0], f"ap50_{name}": precision[0, :, index, 0]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of nothing
        return {f"{kind}_{key}": np.nanmean(values) for key, values in parts.items()}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("num_classes", "max_detections"), [(1, 100), (3, 100), (3, 4)])
def test_average_precision_equals_pycocotools(tmp_path, num_classes, max_detections, tied):
    for seed in range(3):
        scenes = random_scenes(10, seed, num_classes=num_classes, tied=tied)
        write_coco(tmp_path, scenes, num_classes)
        rows = stacked_rows(scenes, num_classes, max_detections=max_detections)
        metrics = instance_metrics(rows, None, NAMES[:num_classes])
        for kind in ("mask", "box"):
            expected = coco_precisions(tmp_path, kind, max_detections)
            found = {key: metrics[key].item() for key in metrics if key.startswith(f"{kind}_ap")}
            assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)
            assert 0.05 < found[f"{kind}_ap"] < 0.9


def test_absent_classes_and_areas_are_left_out(tmp_path):
    # No object of the third class, no large one; of the second class there is only a false alarm.
    truth = make_truth(SIZE, [square(0, 0), square(0, 20)], [0, 0])
    found = make_prediction(
        "a", SIZE, [square(0, 0), square(0, 30), square(0, 20)], [0, 1, 0], [0.9, 0.8, 0.7]
    )
    write_coco(tmp_path, [(found, truth)], 3)
    metrics = instance_metrics(stacked_rows([(found, truth)], 3), None, NAMES)
    for kind in ("mask", "box"):
        expected = coco_precisions(tmp_path, kind)
        assert {key: metrics[key].item() for key in expected} == pytest.approx(
            expected, abs=1e-12, nan_ok=True
        )
    assert metrics["mask_ap"].item() == 1
    assert np.isnan(metrics["mask_ap_large"].item())
    assert np.isnan(metrics["mask_ap_fragment"].item())


def test_nothing_found_and_nothing_there():
    empty, truth = make_prediction("a", SIZE, [], [], []), make_truth(SIZE, [square(0, 0)], [0])
    missed = instance_metrics(stacked_rows([(empty, truth)], 1), None, ["object"])
    for key in ("mask_ap", "box_ap50", "recall_at_score", "f1_at_score", "top_mask_iou", "dice_lesion_image"):
        assert missed[key].item() == 0, key
    assert np.isnan(missed["precision_at_score"].item())
    assert (missed["count_error"].item(), missed["count_bias"].item()) == (1, -1)
    nothing = instance_metrics(stacked_rows([(empty, make_truth(SIZE, [], []))], 1), None, ["object"])
    undefined = {key for key, value in nothing.items() if np.isnan(value.item())}
    defined = {
        "count_error",
        "count_bias",
        "iou_thresholded_lesion_image",
        *(f"{s}_lesion_{m}" for s in ("dice", "iou") for m in ("image", "pooled")),
    }
    assert undefined == nothing.keys() - defined


def test_perfect_predictions():
    scenes = []
    for _, truth in random_scenes(8, 5, num_classes=3):
        single = np.flatnonzero(~truth.crowd)
        masks = [decode(truth.masks[index]) for index in single]
        found = make_prediction("a", truth.size, masks, truth.labels[single], np.ones(len(single)))
        scenes.append((found, truth))
    metrics = instance_metrics(stacked_rows(scenes, 3), None, NAMES)
    for key, value in metrics.items():
        if key != "top_mask_iou":
            assert value.item() == pytest.approx(0 if key.startswith(("count", "detection")) else 1), key


def test_hand_made_scores_and_counts():
    scenes = [
        # One of two objects found, with a false alarm and one too weak to count.
        (
            make_prediction(
                "a", SIZE, [square(0, 0), square(30, 30), square(0, 20)], [0, 1, 1], [0.9, 0.8, 0.3]
            ),
            make_truth(SIZE, [square(0, 0), square(0, 20)], [0, 1]),
        ),
        # One object found, its left half only: IoU 0.5.
        (
            make_prediction("b", SIZE, [square(0, 0) & (np.arange(60) < 5)], [1], [0.5]),
            make_truth(SIZE, [square(0, 0)], [1]),
        ),
        # Nothing there, one found.
        (make_prediction("c", SIZE, [square(5, 5)], [0], [0.95]), make_truth(SIZE, [], [])),
    ]
    rows = stacked_rows(scenes, 2)
    metrics = {key: value.item() for key, value in instance_metrics(rows, None, NAMES[:2]).items()}
    expected = {
        "precision_at_score": 2 / 4,
        "recall_at_score": 2 / 3,
        "f1_at_score": 4 / 7,
        "count_error": (0 + 0 + 1) / 3,
        "count_bias": 1 / 3,
        "count_error_fiber": 1 / 3,
        "count_error_film": 0,
        "top_mask_iou": (100 / 200 + 0.5) / 2,
        "dice_lesion_image": (2 * 100 / 400 + 2 * 50 / 150 + 0) / 3,
        "dice_lesion_pooled": 2 * 150 / (2 * 150 + 100 + 100 + 50 + 100),
        "iou_lesion_image": (100 / 300 + 50 / 100 + 0) / 3,
        "iou_lesion_pooled": 150 / 500,
    }
    assert {key: metrics[key] for key in expected} == pytest.approx(expected)
    assert confusion_counts(rows).tolist() == [[1, 0, 0], [0, 1, 1], [1, 1, 0]]


def test_weights_count_samples():
    scenes = random_scenes(9, 7, num_classes=3)
    rows = stacked_rows(scenes, 3)
    weights = np.random.default_rng(0).poisson(1, (25, 9)).astype(float)
    weights[0] = 0
    metrics = instance_metrics(rows, weights, NAMES)
    assert all(values.shape == (25,) for values in metrics.values())
    for replicate in range(1, 25):
        times = weights[replicate].astype(int)
        again = instance_metrics({name: v.repeat(times, axis=0) for name, v in rows.items()}, None, NAMES)
        for key, values in again.items():
            assert metrics[key][replicate] == pytest.approx(values.item(), abs=1e-12, nan_ok=True), key
    assert all(np.isnan(values[0]) for values in metrics.values())


def test_scaled_and_many_weights_change_nothing():
    rows = stacked_rows(random_scenes(6, 8, num_classes=1), 1)
    weights = np.random.default_rng(0).integers(1, 4, (3, 6))
    few = instance_metrics(rows, weights, ["object"])
    many = instance_metrics(rows, np.tile(weights * 0.25, (2500, 1)), ["object"])  # more than one chunk
    for key, values in few.items():
        np.testing.assert_allclose(many[key], np.tile(values, 2500), rtol=1e-6, err_msg=key)


def test_rows_survive_the_accumulator_in_any_order():
    scenes = random_scenes(6, 9, num_classes=2, tied=True)
    rows = stacked_rows(scenes, 2)
    accumulator = Accumulator()
    for batch in ([5, 1], [0], [4, 2, 3]):
        tensors = {name: torch.from_numpy(values[batch]) for name, values in rows.items()}
        accumulator.update([scenes[index][0].id for index in batch], **tensors)
    collected = accumulator.compute()
    for name, values in rows.items():
        assert collected[name].dtype == values.dtype
        np.testing.assert_array_equal(collected[name], values, err_msg=name)


@pytest.mark.parametrize("tied", [False, True])
def test_curve_equals_scikit_learn(tied):
    rows = stacked_rows(random_scenes(12, 10, num_classes=2, tied=tied), 2)
    for kind, index in (("mask", 0), ("box", 1)):
        for iou, bit in ((0.5, 0), (0.75, 5)):
            of_class = rows["detection_labels"] == 1
            hits = rows["detection_hits"][of_class][:, index, 0] >> bit & 1
            alarms = rows["detection_alarms"][of_class][:, index, 0] >> bit & 1
            counted, scores = (hits | alarms) > 0, rows["detection_scores"][of_class]
            precision, share, thresholds = sklearn_curve(
                hits[counted], scores[counted], drop_intermediate=False
            )
            recall, found_precision, found_scores = precision_recall_curve(rows, kind, iou, 1)
            np.testing.assert_allclose(found_scores, thresholds[::-1])
            np.testing.assert_allclose(found_precision, precision[-2::-1])
            expected = share[-2::-1] * hits.sum() / rows["num_true"][:, 1, 0].sum()
            np.testing.assert_allclose(recall, expected)


def test_curve_without_objects_is_empty():
    empty = make_prediction("a", SIZE, [], [], []), make_truth(SIZE, [square(0, 0)], [0])
    alarm = make_prediction("b", SIZE, [square(0, 0)], [1], [0.5]), make_truth(SIZE, [], [])
    rows = stacked_rows([empty, alarm], 2)
    for label in (0, 1):
        assert [len(part) for part in precision_recall_curve(rows, "mask", 0.5, label)] == [0, 0, 0]
    with pytest.raises(ValueError, match=r"iou=0\.52: expected .* iou one of"):
        precision_recall_curve(rows, "mask", 0.52, 0)
    with pytest.raises(ValueError, match="kind='contour'"):
        precision_recall_curve(rows, "contour", 0.5, 0)


def test_confusion_equals_a_loop():
    scenes = random_scenes(10, 11, num_classes=3)
    expected = np.zeros((4, 4), int)
    for prediction, truth in scenes:
        overlap = coco_mask.iou(list(prediction.masks), list(truth.masks), truth.crowd.astype(int).tolist())
        free = set(range(len(truth.masks)))
        for index in np.flatnonzero(prediction.scores >= 0.5):
            near = [true for true in free if overlap[index][true] >= 0.5]
            single = [true for true in near if not truth.crowd[true]]
            if single:
                best = max(single, key=lambda true: overlap[index][true])
                expected[truth.labels[best], prediction.labels[index]] += 1
                free.remove(best)
            elif not near:
                expected[3, prediction.labels[index]] += 1
        for true in free:
            if not truth.crowd[true]:
                expected[truth.labels[true], 3] += 1
    np.testing.assert_array_equal(confusion_counts(stacked_rows(scenes, 3)), expected)


@pytest.mark.parametrize(("names", "word"), [(["film", "small"], "'small'"), (["film", "film"], "'film'")])
def test_names_that_share_a_key_are_refused(names, word):
    rows = stacked_rows(random_scenes(1, 0, num_classes=2), 2)
    with pytest.raises(UserError, match=word):
        instance_metrics(rows, None, names)


def test_one_class_has_no_keys_of_its_own():
    rows = stacked_rows(random_scenes(2, 0, num_classes=1), 1)
    assert instance_metrics(rows, None, ["small"]).keys() == {
        *(
            f"{kind}_ap{part}"
            for kind in ("mask", "box")
            for part in ("", "50", "75", "_small", "_medium", "_large")
        ),
        *(
            "top_mask_iou",
            "precision_at_score",
            "recall_at_score",
            "f1_at_score",
            "count_error",
            "count_bias",
            "detection_ece",
        ),
        *("dice_lesion_image", "iou_lesion_image", "dice_lesion_pooled", "iou_lesion_pooled"),
        "iou_thresholded_lesion_image",
    }


def test_weights_of_another_shape_are_refused():
    rows = stacked_rows(random_scenes(2, 0, num_classes=1), 1)
    with pytest.raises(ValueError, match=r"expected \(replicates, 2\)"):
        instance_metrics(rows, np.ones((4, 3)), ["object"])
