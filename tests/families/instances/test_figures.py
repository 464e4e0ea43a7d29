from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve as sklearn_curve

from polymask.families.instances import figures as instance_figures
from polymask.metrics.instance_matching import match_image
from polymask.metrics.instances import instance_metrics
from polymask.structures import rle
from polymask.structures.objects import FoundObjects, TrueObjects

NAMES = ["Fiber", "Fragment", "Film"]


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    """Rows of 15 images with rectangles of the first two classes, found a bit shifted or not at all."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(15):
        corners = [(20 * place, int(rng.integers(0, 30))) for place in range(4)]
        labels = rng.integers(0, 2, 4)
        true = [rectangle(y, x) for y, x in corners]
        shifted = [rectangle(y, x + int(rng.integers(0, 6)) + 40 * (rng.random() < 0.2)) for y, x in corners]
        scores = np.sort(rng.random(4))[::-1].astype(np.float32)
        boxes = np.array([rle.box(mask) for mask in shifted], np.float32)
        prediction = FoundObjects(
            id="a", size=(80, 100), boxes=boxes, labels=labels, scores=scores, masks=shifted
        )
        truth = TrueObjects(
            size=(80, 100),
            boxes=np.array([rle.box(mask) for mask in true], np.float32),
            labels=labels,
            masks=true,
            crowd=np.zeros(4, bool),
        )
        found.append(match_image(prediction, truth, num_classes=3, score_threshold=0.5))
    return {name: np.stack([row[name] for row in found]) for name in found[0]}


def rectangle(y: int, x: int) -> rle.Rle:
    mask = np.zeros((80, 100), np.uint8)
    mask[y : y + 16, x : x + 20] = 1
    return rle.encode(mask)


def test_the_legend_gives_the_average_precision_of_the_metrics(rows: dict[str, np.ndarray]) -> None:
    figure = instance_figures._pr_curves_figure(rows, NAMES, 0.5)
    metrics = instance_metrics(rows, None, NAMES)
    left, right = figure.axes
    texts = [text.get_text() for text in left.get_legend().get_texts()]
    assert [re.split(r"\s+", text)[2] for text in texts] == ["Fiber", "Fragment"]
    for text, name in zip(texts, NAMES, strict=False):
        assert float(re.split(r"\s+", text)[1]) == pytest.approx(metrics[f"mask_ap50_{name}"][0], abs=6e-4)
    for axes, key in ((left, "mask_ap50"), (right, "mask_ap75")):
        assert axes.get_title().endswith(f"{metrics[key][0]:.3f}")
    assert "no true object: Film" in figure.get_supxlabel()


def test_curves_are_those_of_scikit_learn(rows: dict[str, np.ndarray]) -> None:
    """scikit-learn knows nothing of objects that were not found: its recall is of those that were."""
    figure = instance_figures._pr_curves_figure(rows, NAMES, 0.5)
    curve = figure.axes[0].get_lines()[0]
    of_class = rows["detection_labels"] == 0
    hits = (rows["detection_hits"][..., 0, 0] & 1).astype(bool)[of_class]
    precision, recall, _ = sklearn_curve(hits, rows["detection_scores"][of_class])
    share = hits.sum() / rows["num_true"][:, 0, 0].sum()
    np.testing.assert_allclose(curve.get_xdata(), recall[:-1][::-1] * share)
    np.testing.assert_allclose(curve.get_ydata(), precision[:-1][::-1])
    assert 0.3 < share < 1


def test_figures_are_written_also_without_any_object(rows: dict[str, np.ndarray], tmp_path: Path) -> None:
    for name, some in {
        "full": rows,
        "none": {key: np.zeros_like(values) for key, values in rows.items()},
    }.items():
        if name == "none":
            some["detection_labels"] -= 1
        instance_figures.plot_object_pr_curves(some, NAMES, 0.5, tmp_path / f"{name}.png")
        instance_figures.plot_object_confusion(some, NAMES, 0.5, tmp_path / f"{name}_confusion.png")
    for path in tmp_path.iterdir():
        assert min(cv2.imread(str(path)).shape[:2]) > 300
    assert len(list(tmp_path.iterdir())) == 4
