"""Figures of an evaluation or a training, written as PNG files.

Only matplotlib's object interface is used, no pyplot: it needs no display and is safe in threads. Every
`plot_*` creates the folder of `path` if need be and replaces the file in one step, so that a reader never
meets half a picture. Each is a writer around a `_*_figure` that builds the `Figure`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from polymask.utils.files import write_atomically

# Okabe and Ito, "Color universal design" (2008), without the yellow, which is too pale for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", (0, (7, 2, 1, 2, 1, 2)), (0, (10, 3)))
_DPI = 100
_LEGEND_SIZE = 8
_CONFUSION = "Confusion matrix"

# Title: (label of the axis, pattern). The first pattern that matches the whole key decides on the panel.
_PANELS = {
    "Losses": ("Loss", r"(train|val)/(.*_)?loss.*"),
    "Segmentation metrics": ("Score", r"(train|val)/(dice|iou|jaccard|pixel_accuracy).*"),
    "Average precision": ("Score", r"val/(mask|box)_ap(50|75)?"),
    "Classification metrics": ("Score", r"(train|val)/(accuracy|balanced_accuracy|f1_macro|auroc_macro)"),
    "Learning rate": ("Learning rate", r"(.*/)?learning_rate.*"),
    "Other metrics": ("Score", r".*"),
    "Other quantities": ("Value", r".*"),
}

Curve = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, float]]


def write_figure(figure: Figure, path: Path) -> None:
    """Write `figure` as PNG, see `write_atomically`."""
    layout = figure.get_layout_engine()
    if layout is not None:
        # Done here once, because `savefig` would draw the whole figure twice for it.
        figure.set_dpi(_DPI)
        layout.execute(figure)
        figure.set_layout_engine(None)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=_DPI), sync=False)


def plain_text(text: str, width: int) -> str:
    """Return `text` for matplotlib: at most `width` characters, a dollar sign is no mathematics."""
    short = text if len(text) <= width else text[: width - 1] + "…"
    return short.replace("$", r"\$")


def line_style(index: int) -> dict:
    """Return colour and dashes of line `index`; 35 differ."""
    return {"color": COLOURS[index % 7], "linestyle": _LINES[index // 7 % 5]}


def _draw_matrix(
    axes: Axes, values: np.ndarray, norm: Normalize, texts: list[list[str]], cell: float
) -> None:
    """Colour the (C, C) `values` (NaN is grey) and write `texts` into the cells, `cell` points wide."""
    axes.imshow(values, cmap=colormaps["Blues"].with_extremes(bad="#EEEEEE"), norm=norm)
    longest = max(len(text) for row in texts for text in row)
    size = min(11.0, cell / (0.6 * longest + 0.4))
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if np.isfinite(value) and norm(value) > 0.55 else "black"
        text = axes.text(column, row, texts[row][column], ha="center", va="center", size=size, color=colour)
        text.set_in_layout(False)  # it lies within the axes; measuring thousands would take seconds


def _confusion_matrix_figure(
    counts: np.ndarray, class_names: Sequence[str], title: str = _CONFUSION
) -> Figure:
    num_classes = len(class_names)
    if counts.shape != (num_classes, num_classes):
        raise ValueError(
            f"counts {counts.shape} must be ({num_classes}, {num_classes}), as many as class names."
        )
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(100 * counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    digits = 1 if num_classes <= 10 else 0
    large = EngFormatter(places=1, sep="")
    number_texts = [[str(n) if n < 100_000 else large(n) for n in row] for row in counts.tolist()]
    share_texts = [
        [f"{share:.{digits}f}" if np.isfinite(share) else "\N{EN DASH}" for share in row] for row in shares
    ]

    names = [plain_text(name, 24) for name in class_names]
    size, angle = (10, 45) if num_classes <= 12 else (7, 90)
    width = min(9 + 0.5 * num_classes, 16)
    room = max(map(len, names)) * 0.6 * size / 72  # for the longest name, in inches
    side = (width - room - 0.8) / 2
    figure = Figure(figsize=(width, side + room * np.sin(np.radians(angle)) + 1.2), layout="compressed")
    left, right = figure.subplots(1, 2, sharey=True)
    cell = 0.97 * side * 72 / num_classes
    # The square root keeps rare classes visible beside one that is a hundred times as frequent.
    _draw_matrix(left, counts.astype(float), PowerNorm(0.5, 0, max(counts.max(), 1)), number_texts, cell)
    _draw_matrix(right, shares, Normalize(0, 100), share_texts, cell)
    figure.suptitle(f"{title} (n = {totals.sum():,})")
    left.set(title="Counts", ylabel="True class")
    right.set(title="Share of the true class in %")
    turned = {"rotation": angle, "ha": "right", "va": "center", "rotation_mode": "anchor"}
    left.set_yticks(range(num_classes), names, size=size)
    for axes in (left, right):
        axes.set_xticks(range(num_classes), names, size=size, **turned)
        axes.set(xlabel="Predicted class")
    return figure


def plot_confusion_matrix(
    counts: np.ndarray, class_names: Sequence[str], path: Path, title: str = _CONFUSION
) -> None:
    """Plot a confusion matrix as counts and as shares of each row.

    Args:
        counts: (C, C) int, rows are the true classes, columns the predicted ones. The shares of a row
            without samples are undefined and show as a dash.
        class_names: C names.
        path: The PNG file to write.
        title: Stands above, followed by the total.

    Raises:
        ValueError: `counts` is not C by C.
    """
    write_figure(_confusion_matrix_figure(counts, class_names, title), path)


def _roc(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return false and true positive rates, and the area below them."""
    # Not above: most figures are drawn where nothing else needs torch.
    import torch
    from torchmetrics.functional import classification

    samples = torch.from_numpy(scores), torch.from_numpy(truth)
    false_positive_rate, true_positive_rate, _ = classification.binary_roc(*samples)
    area = float(classification.binary_auroc(*samples))
    return false_positive_rate.numpy(), true_positive_rate.numpy(), area


def _precision_recall(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return recall, precision, and the average precision."""
    import torch
    from torchmetrics.functional import classification

    samples = torch.from_numpy(scores), torch.from_numpy(truth)
    precision, recall, _ = classification.binary_precision_recall_curve(*samples)
    area = float(classification.binary_average_precision(*samples))
    return recall.numpy(), precision.numpy(), area


def _known(labels: np.ndarray, probabilities: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return truth (N', C) bool and scores (N', C) of the samples with a known class and finite scores."""
    if probabilities.shape != (len(labels), num_classes):
        raise ValueError(f"probabilities {probabilities.shape} must be ({len(labels)}, {num_classes}).")
    known = (labels >= 0) & np.isfinite(probabilities).all(axis=1)
    return labels[known, None] == np.arange(num_classes), probabilities[known]


def _one_vs_rest_figure(
    truth: np.ndarray, scores: np.ndarray, class_names: Sequence[str], curve: Curve, title: str, score: str
) -> Figure:
    """Draw the `curve` of each class that has samples inside and outside of it."""
    drawable = truth.any(axis=0) & ~truth.all(axis=0)
    figure = Figure(figsize=(10, 7), layout="compressed")
    axes = figure.subplots()
    areas = []
    for index in np.flatnonzero(drawable).tolist():
        x, y, area = curve(truth[:, index], scores[:, index])
        axes.plot(
            x, y, label=f"{score} {area:.3f}  {plain_text(class_names[index], 28)}", **line_style(index)
        )
        areas.append(area)
    macro = f"{np.mean(areas):.3f}" if areas else "undefined"
    counted = f"{len(areas)} of {len(class_names)} classes, {len(truth):,} samples"
    axes.set_title(f"{title}, each class against the rest\nmacro {score} {macro} over {counted}")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.grid(alpha=0.3)
    left_out = ", ".join(plain_text(class_names[index], 28) for index in np.flatnonzero(~drawable).tolist())
    if left_out:
        figure.supxlabel(
            textwrap.fill(
                f"Without a curve, because no sample or every sample is of the class: {left_out}", 120
            ),
            size=9,
        )
    return figure


def _roc_curves_figure(labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]) -> Figure:
    truth, scores = _known(labels, probabilities, len(class_names))
    figure = _one_vs_rest_figure(truth, scores, class_names, _roc, "ROC curves", "AUC")
    axes = figure.axes[0]
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    axes.set(xlabel="False positive rate (1 - specificity)", ylabel="True positive rate (sensitivity)")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8)
    return figure


def plot_roc_curves(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], path: Path
) -> None:
    """Plot the receiver operating characteristic of each class against the rest.

    Curve and area are those of torchmetrics: scikit-learn's with all points, rounded to float32.

    Args:
        labels: (N,) int, index of the true class; negative is unknown, and the sample is left out.
        probabilities: (N, C) float from 0 to 1; rows that are not finite are left out.
        class_names: C names. Classes with all or no samples have no curve; a note names them.
        path: The PNG file to write.

    Raises:
        ValueError: `probabilities` is not N by C.
    """
    write_figure(_roc_curves_figure(labels, probabilities, class_names), path)


def _pr_curves_figure(labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]) -> Figure:
    truth, scores = _known(labels, probabilities, len(class_names))
    figure = _one_vs_rest_figure(
        truth, scores, class_names, _precision_recall, "Precision-recall curves", "AP"
    )
    axes = figure.axes[0]
    for line in axes.get_lines():
        line.set_drawstyle("steps-post")  # average precision is the area below these steps
    for index in np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0)).tolist():
        axes.axhline(truth[:, index].mean(), color=line_style(index)["color"], linestyle=":", linewidth=1)
    axes.set(xlabel="Recall (sensitivity)", ylabel="Precision (positive predictive value)")
    if axes.get_lines():
        axes.legend(
            loc="center left",
            bbox_to_anchor=(1.02, 0.5),
            fontsize=8,
            title_fontsize=8,
            title="dotted: prevalence",
        )
    return figure


def plot_pr_curves(
    labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], path: Path
) -> None:
    """Plot precision against recall of each class against the rest, with the prevalence as a dotted line.

    The number in the legend is the average precision. Arguments and errors are those of `plot_roc_curves`.
    """
    write_figure(_pr_curves_figure(labels, probabilities, class_names), path)


def empty_figure(text: str) -> Figure:
    """Return a figure that says why there is nothing to draw."""
    figure = Figure(figsize=(8, 3))
    figure.text(0.5, 0.5, text, ha="center", va="center", size=14)
    return figure


def _panels(history: pd.DataFrame) -> dict[str, list[str]]:
    """Return the columns of each panel that has any, in the order of the figure."""
    panels: dict[str, list[str]] = {title: [] for title in _PANELS}
    for column, values in history.items():
        title = next(title for title, (_, pattern) in _PANELS.items() if re.fullmatch(pattern, str(column)))
        # Shares and, say, seconds would hide each other on one axis.
        if title == "Other metrics" and not values.dropna().between(0, 1).all():
            title = "Other quantities"
        panels[title].append(str(column))
    return {title: columns for title, columns in panels.items() if columns}


def _without_subset(key: str) -> str:
    return re.sub(r"^(train|val)/", "", key)


def _draw_panel(axes: Axes, title: str, history: pd.DataFrame) -> None:
    """Draw each column over the epochs, `train/x` dashed in the colour of `val/x`."""
    lowest, highest = float(np.nanmin(history)), float(np.nanmax(history))
    wide = 50 * lowest < highest if title != "Learning rate" else highest > 1.01 * lowest
    log = highest > 0 and wide and (lowest > 0 or title == "Learning rate")
    names = {key: _without_subset(key) for key in history.columns}
    order = list(dict.fromkeys(names.values()))
    for key, name in names.items():
        # Lines run on through epochs without a measurement; a logarithm has no place for zero.
        values = history[key][history[key] > (0 if log else -np.inf)]
        style = line_style(order.index(name)) | ({"linestyle": "--"} if key.startswith("train/") else {})
        marker = "o" if len(values) <= 40 else None
        axes.plot(values.index, values, marker=marker, markersize=3, label=plain_text(key, 36), **style)
    axes.set_title(title, y=1)  # given, because matplotlib lays out all ticks again to find it
    axes.set(xlabel="Epoch", ylabel=_PANELS[title][0] + (" (log scale)" if log else ""))
    axes.set_xlim(history.index.min() - 0.5, history.index.max() + 0.5)
    axes.set_yscale("log" if log else "linear")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    columns = _legend_columns(history.columns)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=_LEGEND_SIZE, ncols=columns)


def _legend_columns(keys: Iterable[str]) -> int:
    return 1 + (len({_without_subset(key) for key in keys}) > 20)


def _legend_width(keys: Sequence[str]) -> float:
    """Return the room for a legend in inches."""
    letters = max(len(plain_text(key, 36)) for key in keys)
    return _legend_columns(keys) * (0.55 + 0.62 * letters * _LEGEND_SIZE / 72)


def _training_curves_figure(history: pd.DataFrame, best_epoch: int | None) -> Figure:
    numbers = history.set_index("epoch").sort_index().apply(pd.to_numeric, errors="coerce")
    numbers = numbers.astype(float).replace([np.inf, -np.inf], np.nan).dropna(axis="columns", how="all")
    panels = _panels(numbers)
    if not panels:
        return empty_figure("No metrics were logged.")
    num_columns = min(2, len(panels))
    num_rows = -(-len(panels) // num_columns)
    # In inches. The room that legends and ticks need is known; to have matplotlib measure all texts twice
    # for it would double the time.
    panel_width, panel_height = (6.0 if num_columns == 1 else 4.6), 3.05
    left, right, below = 1.0, 0.3 + max(map(_legend_width, panels.values())), 0.95
    width, height = num_columns * (left + panel_width + right), num_rows * (panel_height + below) + 0.6
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        top=1 - 0.85 / height,
        bottom=0.6 / height,
        wspace=(left + right) / panel_width,
        hspace=below / panel_height,
    )
    grid = figure.subplots(num_rows, num_columns, squeeze=False).flat
    for axes, (title, columns) in zip(grid, panels.items(), strict=False):
        _draw_panel(axes, title, numbers[columns])
        if best_epoch is not None:
            axes.axvline(best_epoch, color="grey", linestyle=":", linewidth=1.5)
    for axes in list(figure.axes)[len(panels) :]:
        axes.remove()
    best = "" if best_epoch is None else f", best epoch {best_epoch} (dotted line)"
    figure.suptitle(f"Training curves{best}")
    return figure


def plot_training_curves(history: pd.DataFrame, path: Path, best_epoch: int | None = None) -> None:
    """Plot all that was logged over the epochs, one panel per kind of value that is there.

    Args:
        history: One row per epoch with the column `epoch` and any of `train/…`, `val/…`, `learning_rate…`;
            NaN where nothing was measured. Keys that belong to no other panel share "Other metrics" when
            all their values are between 0 and 1, else "Other quantities".
        path: The PNG file to write.
        best_epoch: The epoch of the kept checkpoint, marked in every panel.
    """
    write_figure(_training_curves_figure(history, best_epoch), path)


def _sample_sheet_figure(images: Sequence[np.ndarray], titles: Sequence[str], columns: int) -> Figure:
    if len(images) != len(titles):
        raise ValueError(f"{len(images)} images need as many titles, not {len(titles)}.")
    if not images:
        return empty_figure("No samples.")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    width = min(max(3.2 * columns, 8), 16)
    ratio = float(np.median([image.shape[0] / image.shape[1] for image in images]))
    letters = int(width / columns * 12)
    wrapped = [textwrap.wrap(title, letters) for title in titles]
    wrapped = [[*lines[:2], " ".join(lines[2:])] if len(lines) > 2 else lines for lines in wrapped]
    title_room = 0.2 + 0.16 * max(map(len, wrapped))
    figure = Figure(figsize=(width, rows * (width / columns * ratio + title_room)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, image, lines in zip(grid, images, wrapped, strict=False):
        axes.imshow(image)
        axes.set_title("\n".join(plain_text(line, letters) for line in lines), size=9)
    for axes in figure.axes:
        axes.set_axis_off()
    return figure


def plot_sample_sheet(
    images: Sequence[np.ndarray], titles: Sequence[str], path: Path, columns: int = 4
) -> None:
    """Plot images in a grid, each below its title.

    Args:
        images: (H, W, 3) uint8 RGB each; sizes may differ.
        titles: One per image; wrapped, then cut when longer than three lines.
        path: The PNG file to write.
        columns: Images per row.

    Raises:
        ValueError: There are not as many titles as images.
    """
    write_figure(_sample_sheet_figure(images, titles, columns), path)
