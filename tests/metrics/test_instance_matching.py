from __future__ import annotations

import numpy as np
import pytest
import torch
from instance_scenes import (
    coco_evaluation,
    decode,
    ellipse,
    encode,
    make_prediction,
    make_truth,
    random_scenes,
    stacked_rows,
    write_coco,
)

from polymask.metrics.instance_matching import match_image
from polymask.metrics.segmentation import confusion_per_sample
from polymask.structures.objects import FoundObjects

SIZE = (60, 80)


def block(rows, columns, size=SIZE):
    mask = np.zeros(size, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def compare(prediction, truth, num_classes=2, **options):
    return match_image(prediction, truth, num_classes=num_classes, score_threshold=0.5, **options)


def average_recalls(rows, kind, area, best):
    """Average recall of the `best` found objects per image and class, by a loop over flags."""
    recalls = []
    for label in range(rows["num_true"].shape[1]):
        total = rows["num_true"][:, label, area].sum()
        for threshold in range(10):
            hits = 0
            for labels, flags in zip(rows["detection_labels"], rows["detection_hits"], strict=True):
                of_class = flags[labels == label][:best, kind, area]
                hits += sum(int(flag) >> threshold & 1 for flag in of_class)
            if total:
                recalls.append(hits / total)
    return np.mean(recalls) if recalls else -1


@pytest.mark.parametrize("seed", [0, 1])
def test_recalls_of_the_flags_equal_pycocotools(tmp_path, seed):
    scenes = random_scenes(12, seed, num_classes=3, tied=bool(seed))
    write_coco(tmp_path, scenes, 3)
    rows = stacked_rows(scenes, 3)
    for index, kind in enumerate(("mask", "box")):
        expected = coco_evaluation(tmp_path, kind, (1, 10, 100)).stats[6:]
        found = [average_recalls(rows, index, 0, best) for best in (1, 10, 100)]
        found += [average_recalls(rows, index, area, 100) for area in (1, 2, 3)]
        np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=kind)


def test_counts_at_the_score_threshold_equal_pycocotools(tmp_path):
    scenes = random_scenes(12, 2, num_classes=3)
    write_coco(tmp_path, scenes, 3)
    rows = stacked_rows(scenes, 3)
    hits, found = np.zeros((2, 12, 3), int)
    for image in coco_evaluation(tmp_path, "mask").evalImgs:
        if image is not None and image["aRng"] == [0, 1e10]:
            counted = (np.array(image["dtScores"]) >= 0.5) & ~image["dtIgnore"][0].astype(bool)
            place = image["image_id"] - 1, image["category_id"] - 1
            found[place], hits[place] = counted.sum(), (counted & (image["dtMatches"][0] > 0)).sum()
    np.testing.assert_array_equal(rows["num_found"], found)
    np.testing.assert_array_equal(rows["num_hits"], hits)
    assert 0 < hits.sum() < found.sum()


def test_union_equals_the_confusion_of_decoded_masks():
    scenes = random_scenes(12, 3, num_classes=3)
    rows = stacked_rows(scenes, 3)
    for index, (prediction, truth) in enumerate(scenes):
        true, found = np.zeros((2, *truth.size), np.uint8)
        for index_of_mask in np.argsort(~truth.crowd, kind="stable"):  # objects are painted over crowds
            true[decode(truth.masks[index_of_mask])] = 255 if truth.crowd[index_of_mask] else 1
        for mask, score in zip(prediction.masks, prediction.scores, strict=True):
            found |= decode(mask) & (score >= 0.5)
        counts = confusion_per_sample(torch.from_numpy(found)[None], torch.from_numpy(true)[None], 2)
        np.testing.assert_array_equal(rows["union_confusion"][index], counts[0])


def test_hand_made_image():
    # Class 0: a true object found exactly. Class 1: one found as class 0, one missed, a crowd.
    true = [
        block((0, 10), (0, 10)),
        block((20, 30), (0, 10)),
        block((20, 30), (20, 30)),
        block((40, 60), (0, 80)),
    ]
    truth = make_truth(SIZE, true, [0, 1, 1, 1], [False, False, False, True])
    found = [true[0], true[1], block((45, 50), (0, 10)), block((0, 10), (40, 50)), true[2]]
    prediction = make_prediction("a", SIZE, found, [0, 0, 1, 1, 1], [0.9, 0.8, 0.7, 0.6, 0.4])
    row = compare(prediction, truth)
    assert row["num_true"].tolist() == [[1, 1, 0, 0], [2, 2, 0, 0]]
    assert row["num_found"].tolist() == [2, 1]
    assert row["num_hits"].tolist() == [1, 0]
    assert row["instance_confusion"].tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert row["top_mask_iou"].item() == pytest.approx(100 / 300)
    # 300 true pixels, 200 of them found, and 100 found elsewhere; the 1600 of the crowd do not count.
    assert row["union_confusion"].tolist() == [[3200 - 400, 100, 100], [200, 100, 100]]
    all_bits = 2**10 - 1
    assert row["detection_hits"][:6, 0, 0].tolist() == [all_bits, 0, 0, 0, all_bits, 0]
    # What lies in the crowd is ignored, at every threshold: its intersection is divided by its own area.
    assert row["detection_alarms"][:6, 0, 0].tolist() == [0, all_bits, 0, all_bits, 0, 0]
    assert row["detection_labels"][:6].tolist() == [0, 0, 1, 1, 1, -1]


def test_better_score_goes_first_and_takes_the_larger_overlap():
    true = [block((0, 10), (0, 10)), block((0, 10), (4, 14))]
    # The first is nearer to the second true object; the second found one fits both and gets the other.
    found = [block((0, 10), (3, 13)), block((0, 10), (2, 12))]
    row = compare(make_prediction("a", SIZE, found, [0, 0], [0.9, 0.8]), make_truth(SIZE, true, [0, 0]))
    # IoU 90 / 110 = 0.82 passes up to 0.80, 80 / 120 = 0.67 up to 0.65.
    assert row["detection_hits"][:2, 0, 0].tolist() == [2**7 - 1, 2**4 - 1]
    assert row["num_hits"].tolist() == [2, 0]


def test_both_ends_belong_to_thresholds_and_areas():
    truth = make_truth(
        (200, 200), [block((0, 32), (0, 32), (200, 200)), block((60, 156), (60, 156), (200, 200))], [0, 0]
    )
    half = block((0, 16), (0, 32), (200, 200))
    row = compare(make_prediction("a", (200, 200), [half], [0], [0.9]), truth, num_classes=1)
    assert row["num_true"].tolist() == [[2, 1, 2, 1]]
    assert row["detection_hits"][0].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0]]


def test_the_best_of_each_class_are_looked_at():
    masks = [block((0, 10), (10 * place, 10 * place + 8)) for place in range(6)]
    prediction = make_prediction("a", SIZE, masks, [0, 1, 0, 1, 0, 0], [0.9, 0.8, 0.7, 0.6, 0.55, 0.5])
    row = compare(prediction, make_truth(SIZE, masks, [0] * 6), max_detections=2)
    assert row["detection_labels"].tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(row["detection_scores"], np.float32([0.9, 0.8, 0.7, 0.6]))
    assert row["num_hits"].tolist() == [2, 0]
    # A wrong class uses up the true object in the confusion, and what is beyond the limit is not found.
    assert row["instance_confusion"].tolist() == [[2, 2, 2], [0, 0, 0], [0, 0, 0]]


def test_shapes_and_types_do_not_depend_on_the_image():
    nothing = make_prediction("a", SIZE, [], [], []), make_truth(SIZE, [], [])
    mask = ellipse(SIZE, (20, 20), (10, 15))
    something = make_prediction("b", SIZE, [mask], [1], [0.5]), make_truth(SIZE, [mask, mask], [0, 1])
    pairs = [(found[0], true[1]) for found in (nothing, something) for true in (nothing, something)]
    rows = [compare(prediction, truth, max_detections=3) for prediction, truth in pairs]
    assert rows[0]["detection_hits"].shape == (6, 2, 4)
    for row in rows[1:]:
        assert {name: (v.shape, v.dtype) for name, v in row.items()} == {
            name: (v.shape, v.dtype) for name, v in rows[0].items()
        }
    np.testing.assert_array_equal([row["top_mask_iou"] for row in rows], np.float32([np.nan, 0, np.nan, 1]))


def test_another_size_is_refused():
    with pytest.raises(ValueError, match=r"a: the prediction has size \(60, 80\), the truth \(80, 60\)"):
        compare(make_prediction("a", SIZE, [], [], []), make_truth((80, 60), [], []))


@pytest.mark.parametrize("label", [-1, 2])
def test_unknown_labels_are_refused(label):
    mask = block((0, 10), (0, 10))
    with pytest.raises(ValueError, match=r"true labels are in .* expected 0\.\.1"):
        compare(make_prediction("a", SIZE, [], [], []), make_truth(SIZE, [mask], [label]))


def test_order_of_the_prediction_does_not_matter():
    masks = [block((0, 10), (0, 10)), block((0, 10), (4, 14))]
    ordered = make_prediction("a", SIZE, masks, [0, 0], [0.9, 0.8])
    swapped = FoundObjects(
        id="a",
        size=SIZE,
        boxes=ordered.boxes[::-1],
        labels=ordered.labels[::-1],
        scores=ordered.scores[::-1],
        masks=[encode(masks[1]), encode(masks[0])],
    )
    truth = make_truth(SIZE, masks[:1], [0])
    for name, values in compare(ordered, truth).items():
        np.testing.assert_array_equal(values, compare(swapped, truth)[name], err_msg=name)
