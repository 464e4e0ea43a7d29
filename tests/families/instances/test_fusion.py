"""Weighted box fusion: a case by hand, the published algorithm step by step, and masks."""

from __future__ import annotations

import numpy as np
import pytest
from instance_scenes import decode, make_prediction

from polymask.families.instances.fusion import cluster_boxes, fuse_objects
from polymask.structures.objects import FoundObjects

SIZE = (40, 50)


def found(*objects: tuple[tuple[int, int, int, int], float, int]) -> FoundObjects:
    """Rectangles as (x0, y0, x1, y1), score and class; masks fill them."""
    masks = []
    for (x0, y0, x1, y1), _, _ in objects:
        masks.append(np.zeros(SIZE, bool))
        masks[-1][y0:y1, x0:x1] = True
    return make_prediction("a", SIZE, masks, [o[2] for o in objects], [o[1] for o in objects])


def published(boxes: list[list[list[float]]], min_iou: float) -> list[tuple[list[float], float, int]]:
    """The steps of section 3 of the paper, one box after the other; a box ends in score and class."""
    b = sorted((box for model in boxes for box in model), key=lambda box: -box[4])
    clusters: list[list[list[float]]] = []
    fused: list[list[float]] = []
    for box in b:
        best, place = min_iou, -1
        for position, other in enumerate(fused):
            if other[5] == box[5] and (overlap := iou(other, box)) > best:
                best, place = overlap, position
        if place < 0:
            clusters.append([box])
            fused.append(list(box))
        else:
            clusters[place].append(box)
            total = sum(each[4] for each in clusters[place])
            fused[place][:4] = [sum(c[4] * c[axis] for c in clusters[place]) / total for axis in range(4)]
            fused[place][4] = total / len(clusters[place])
    models = len(boxes)
    rescaled = [
        (box[:4], box[4] * min(len(cluster), models) / models, int(box[5]))
        for box, cluster in zip(fused, clusters, strict=True)
    ]
    return sorted(rescaled, key=lambda each: -each[1])


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (areas - width * height)


def test_a_case_by_hand() -> None:
    one = found(((10, 10, 20, 20), 0.9, 0), ((30, 5, 40, 15), 0.6, 1))
    two = found(((12, 10, 22, 20), 0.6, 0), ((30, 5, 40, 15), 0.3, 0))
    fused = fuse_objects([one, two])
    # Two that overlap by 80 of 120 pixels, weights 0.6 and 0.4; of one place but two classes: not fused.
    np.testing.assert_allclose(fused.boxes[0], [10.8, 10, 20.8, 20], rtol=1e-6)
    np.testing.assert_allclose(fused.scores, [0.75, 0.3, 0.15], rtol=1e-6)
    assert fused.labels.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(
        decode(fused.masks[0]), decode(one.masks[0])
    )  # has more than half of the weight
    np.testing.assert_array_equal(decode(fused.masks[1]), decode(one.masks[1]))
    assert (fused.id, fused.size) == ("a", SIZE)


def test_masks_are_those_of_at_least_half_of_the_weight() -> None:
    three = [found(((x, 10, x + 20, 30), score, 0)) for x, score in ((10, 0.5), (12, 0.4), (14, 0.3))]
    (mask,) = (decode(mask) for mask in fuse_objects(three).masks)
    weights = sum(w * decode(each.masks[0]) for w, each in zip((5 / 12, 4 / 12, 3 / 12), three, strict=True))
    np.testing.assert_array_equal(mask, weights >= 0.5)
    assert np.flatnonzero(mask.any(axis=0)).tolist() == list(range(12, 32))
    tied = [found(((x, 10, x + 20, 30), 0.5, 0)) for x in (10, 12)]
    (mask,) = (decode(mask) for mask in fuse_objects(tied).masks)
    assert np.flatnonzero(mask.any(axis=0)).tolist() == list(range(10, 32))


def test_masks_that_share_nothing_leave_the_best() -> None:
    box = [[10, 10, 20, 20]]
    masks = [np.zeros(SIZE, bool) for _ in range(3)]
    for number, mask in enumerate(masks):
        mask[10 + 3 * number : 13 + 3 * number, 10:20] = True
    each = [
        make_prediction("a", SIZE, [m], [0], [s], box) for m, s in zip(masks, (0.4, 0.39, 0.38), strict=True)
    ]
    (fused,) = fuse_objects(each).masks
    np.testing.assert_array_equal(decode(fused), masks[0])


@pytest.mark.parametrize("num_models", [2, 3, 5])
def test_boxes_and_scores_are_those_of_the_published_algorithm(num_models: int) -> None:
    rng = np.random.default_rng(num_models)
    centres = rng.uniform(20, 380, (15, 2))
    models = []
    for _ in range(num_models):
        chosen = rng.permutation(15)[: rng.integers(5, 15)]
        middle = centres[chosen] + rng.normal(0, 4, (len(chosen), 2))
        half = rng.uniform(12, 25, (len(chosen), 2))
        scores = rng.uniform(0.05, 1, len(chosen))
        models.append(
            np.column_stack([middle - half, middle + half, scores, rng.integers(0, 2, len(chosen))])
        )
    expected = published([model.tolist() for model in models], 0.55)
    rows = np.concatenate(models)
    clusters, boxes = cluster_boxes(rows[:, :4], rows[:, 5].astype(int), rows[:, 4])
    assert sum(map(len, clusters)) == len(rows)
    assert any(len(cluster) > 1 for cluster in clusters)
    predictions = [
        make_prediction("a", SIZE, [np.ones(SIZE)] * len(m), m[:, 5], m[:, 4], m[:, :4]) for m in models
    ]
    fused = fuse_objects(predictions)
    np.testing.assert_allclose(fused.boxes, [box for box, _, _ in expected], rtol=1e-5)
    np.testing.assert_allclose(fused.scores, [score for _, score, _ in expected], rtol=1e-5)
    assert fused.labels.tolist() == [label for _, _, label in expected]
    assert len(boxes) == len(expected)


def test_one_network_keeps_what_it_found_and_nothing_gives_nothing() -> None:
    overlapping = found(((10, 10, 20, 20), 0.9, 0), ((10, 10, 20, 19), 0.8, 0))
    assert fuse_objects([overlapping]) is overlapping
    nothing = found()
    assert len(fuse_objects([nothing, nothing])) == 0
    one = fuse_objects([nothing, overlapping[:1]])
    assert one.scores.tolist() == pytest.approx([0.45])
