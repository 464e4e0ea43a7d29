"""The best score threshold against every threshold tried by hand, on rows of the comparison itself."""

from __future__ import annotations

import numpy as np
import pytest

from polymask.metrics.instance_matching import match_image
from polymask.metrics.instances import instance_metrics
from polymask.metrics.object_threshold import best_threshold, counted_objects, metrics_at
from polymask.structures import rle
from polymask.structures.objects import FoundObjects, TrueObjects

SIZE = (24, 24)
Image = tuple[FoundObjects, TrueObjects]


def masks(places: np.ndarray) -> np.ndarray:
    drawn = np.zeros((len(places), *SIZE), np.uint8)
    for mask, (top, left) in zip(drawn, places, strict=True):
        mask[top : top + 5, left : left + 5] = 1
    return drawn


@pytest.fixture(scope="module")
def images() -> list[Image]:
    """Squares, found a little beside their place, with false alarms, ties and objects in two classes."""
    random, made = np.random.default_rng(4), []
    for number in range(6):
        places = random.integers(0, 19, size=(random.integers(0, 5), 2))
        labels = random.integers(2, size=len(places))
        found_at = np.concatenate([places, random.integers(0, 19, size=(4, 2))])
        shapes = masks(found_at)
        boxes = np.concatenate([found_at[:, ::-1], found_at[:, ::-1] + 5], axis=1).astype(np.float32)
        found = FoundObjects(
            id=str(number),
            size=SIZE,
            boxes=boxes,
            labels=np.concatenate([labels, random.integers(2, size=4)]),
            scores=(random.random(len(found_at)) * 8).round().astype(np.float32) / 8,
            masks=[rle.encode(mask) for mask in shapes],
        )
        crowd = np.zeros(len(places), bool)
        crowd[3:] = True
        true = TrueObjects(
            size=SIZE,
            boxes=boxes[: len(places)],
            labels=labels,
            masks=[rle.encode(mask) for mask in shapes[: len(places)]],
            crowd=crowd,
        )
        made.append((found, true))
    return made


def rows_at(images: list[Image], threshold: float) -> dict[str, np.ndarray]:
    compared = [
        match_image(found, true, num_classes=2, max_detections=10, score_threshold=threshold)
        for found, true in images
    ]
    return {name: np.stack([row[name] for row in compared]) for name in compared[0]}


def test_each_threshold_gives_what_an_evaluation_with_it_gives(images: list[Image]) -> None:
    counted = counted_objects(rows_at(images, 0.5))
    weights = np.array([[1.0] * 6, [0, 1, 2, 0, 3, 1]])
    for threshold in (0.125, 0.5, 0.625, 1.0):
        expected = instance_metrics(rows_at(images, threshold), weights, ["a", "b"])
        found = metrics_at(counted, threshold, weights)
        np.testing.assert_allclose(found["f1"], expected["f1_at_score"])
        np.testing.assert_allclose(found["count_error"], expected["count_error"])


@pytest.mark.parametrize(("rule", "name", "sign"), [("best_f1", "f1", 1), ("best_count", "count_error", -1)])
def test_no_other_threshold_is_better(images: list[Image], rule: str, name: str, sign: int) -> None:
    counted = counted_objects(rows_at(images, 0.5))
    chosen = best_threshold(counted, rule)
    tried = {step / 16: sign * float(metrics_at(counted, step / 16)[name][0]) for step in range(2, 17)}
    best = max(tried.values())
    assert sign * metrics_at(counted, chosen)[name] == pytest.approx(best)
    assert min(tried.values()) < best  # it does matter
    assert chosen == max(threshold for threshold, value in tried.items() if value == pytest.approx(best))


def test_without_objects_there_is_no_best(images: list[Image]) -> None:
    counted = counted_objects(rows_at(images, 0.5))
    nothing = {**counted, "num_true": np.zeros(6, int)}
    assert np.isnan(best_threshold(nothing, "best_f1"))
    nothing = {**counted, "detection_kinds": np.full_like(counted["detection_kinds"], -1)}
    assert np.isnan(best_threshold(nothing, "best_count"))
