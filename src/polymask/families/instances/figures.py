"""Figures of found objects: precision-recall curves and the confusion of classes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polymask.metrics.average_precision import average_precision, rank
from polymask.metrics.bootstrap import as_weights
from polymask.metrics.coco_matching import IOU_THRESHOLDS
from polymask.metrics.instances import confusion_counts, precision_recall_curve
from polymask.reporting.figures import line_style, plain_text, plot_confusion_matrix, write_figure

_THRESHOLDS = (0, 5)  # of IOU_THRESHOLDS: 0.50 and 0.75


def plot_object_pr_curves(
    rows: dict[str, np.ndarray], class_names: Sequence[str], score_threshold: float, path: Path
) -> None:
    """Plot precision against recall of each class, for masks that match at IoU 0.50 and at 0.75.

    A dot marks the score threshold, the legend gives COCO's average precision. Classes without a true
    object have no curve; a note names them.

    Args:
        rows: Rows of `polymask.metrics.instance_matching.match_image`.
        class_names: Names of the K classes.
        score_threshold: Least score of the objects that are counted and drawn.
        path: The PNG file to write.
    """
    write_figure(_pr_curves_figure(rows, class_names, score_threshold), path)


def plot_object_confusion(
    rows: dict[str, np.ndarray], class_names: Sequence[str], score_threshold: float, path: Path
) -> None:
    """Plot how often objects of each class were found as which class, missed, or found where none is.

    Args:
        rows: Rows of `polymask.metrics.instance_matching.match_image`.
        class_names: Names of the K classes; the background comes last.
        score_threshold: The threshold that the rows were made with.
        path: The PNG file to write.
    """
    title = (
        f"Objects of score >= {score_threshold:g} matched at mask IoU >= 0.5; "
        "background: missed, or found where nothing is"
    )
    plot_confusion_matrix(confusion_counts(rows), [*class_names, "background"], path, title)


def _pr_curves_figure(
    rows: dict[str, np.ndarray], class_names: Sequence[str], score_threshold: float
) -> Figure:
    num_true = rows["num_true"][:, :, 0].sum(axis=0)
    figure = Figure(figsize=(14, 6.4), layout="constrained")
    for axes, threshold in zip(figure.subplots(1, len(_THRESHOLDS), sharey=True), _THRESHOLDS, strict=True):
        values = []
        for label in np.flatnonzero(num_true).tolist():
            values.append(_mask_ap(rows, label, threshold))
            name = f"AP {values[-1]:.3f}  {plain_text(class_names[label], 28)} (n = {num_true[label]:,})"
            curve = precision_recall_curve(rows, "mask", IOU_THRESHOLDS[threshold], label)
            _draw_curve(axes, *curve, score_threshold, label=name, **line_style(label))
        mean = f"{np.mean(values):.3f}" if values else "undefined"
        axes.set(title=f"mask IoU >= {IOU_THRESHOLDS[threshold]:.2f}: mean AP {mean}", xlabel="Recall")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.grid(alpha=0.3)
        if values:
            axes.legend(loc="lower left", fontsize=8)
    figure.axes[0].set_ylabel("Precision")
    figure.suptitle(f"Precision-recall curves of {num_true.sum():,} objects; dots: score {score_threshold:g}")
    absent = ", ".join(plain_text(class_names[label], 28) for label in np.flatnonzero(num_true == 0).tolist())
    if absent:
        figure.supxlabel(textwrap.fill(f"Without a curve, because no true object: {absent}", 120), size=9)
    return figure


def _draw_curve(
    axes: Axes,
    recall: np.ndarray,
    precision: np.ndarray,
    scores: np.ndarray,
    score_threshold: float,
    *,
    label: str,
    color: str,
    linestyle: str | tuple,
) -> None:
    axes.plot(recall, precision, label=label, color=color, linestyle=linestyle)
    confident = np.flatnonzero(scores >= score_threshold)
    if len(confident):
        axes.plot(recall[confident[-1]], precision[confident[-1]], "o", color=color)


def _mask_ap(rows: dict[str, np.ndarray], label: int, threshold: int) -> float:
    """Return COCO's average precision of the masks of one class, of all areas."""
    num_true = rows["num_true"][:, label]
    values = average_precision(
        rank(rows, label), num_true, as_weights(None, len(num_true)), len(IOU_THRESHOLDS)
    )
    return float(values[0, 0, threshold, 0])
