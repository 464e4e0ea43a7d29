from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from polymask.reporting import figures

NAMES = ["akiec", "basal cell carcinoma", "bkl", "df", "_melanoma", "nv $a$ $b", "absent"]


def scored_samples() -> tuple[np.ndarray, np.ndarray]:
    """300 samples of classes 0-5 and none of class 6; scores rounded, so that there are ties."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 300)
    scores = rng.normal(size=(300, 7)) + 1.5 * np.eye(7)[labels]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return labels, probabilities.round(2)


def history(num_epochs: int) -> pd.DataFrame:
    epochs = np.arange(1, num_epochs + 1)
    keys = ["train/loss", "val/loss", "train/loss_mask", "val/loss_mask", "val/dice_lesion_image"]
    keys += [
        "val/iou_lesion_pooled",
        "val/accuracy",
        "val/balanced_accuracy",
        "val/f1_macro",
        "val/auroc_macro",
    ]
    table = pd.DataFrame({"epoch": epochs} | {key: (i + 1) / (10 + epochs) for i, key in enumerate(keys)})
    return table.assign(**{"learning_rate/encoder": 1e-4 / epochs, "learning_rate/head": 1e-3 / epochs})


def panels(figure: Figure) -> dict[str, set[str]]:
    return {
        axes.get_title(): {text.get_text() for text in axes.get_legend().get_texts()} for axes in figure.axes
    }


def lines(figure: Figure) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_xydata() for axes in figure.axes for line in axes.get_lines()}


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    assert image.std() > 1  # not blank
    return image


def assert_nothing_is_cut(figure: Figure) -> None:
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert box.x0 >= -0.01
    assert box.y0 >= -0.01
    assert box.x1 <= width + 0.01
    assert box.y1 <= height + 0.01


def test_confusion_matrix_shows_counts_and_shares_and_dashes():
    counts = np.array([[30, 10, 0], [0, 0, 0], [1, 2, 250_000]])
    figure = figures._confusion_matrix_figure(counts, ["a", "b", "c"])
    left, right = ([text.get_text() for text in axes.texts] for axes in figure.axes)
    assert left == ["30", "10", "0", "0", "0", "0", "1", "2", "250.0k"]
    assert right == ["75.0", "25.0", "0.0", *["\N{EN DASH}"] * 3, "0.0", "0.0", "100.0"]
    for axes in figure.axes:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
        assert axes.get_xlabel() == "Predicted class"
    assert figure.axes[0].get_ylabel() == "True class"


@pytest.mark.parametrize("num_classes", [2, 7, 30])
def test_confusion_matrix_of_any_size_fits_its_page_and_its_cells(num_classes):
    counts = np.random.default_rng(0).integers(0, 9999, (num_classes, num_classes))
    names = [f"class {index} of a very long name $x$" for index in range(num_classes)]
    figure = figures._confusion_matrix_figure(counts, names)
    assert_nothing_is_cut(figure)
    for axes in figure.axes:
        cell = axes.get_window_extent().width / num_classes
        assert max(text.get_window_extent().width for text in axes.texts) <= cell
        assert min(text.get_size() for text in axes.texts) >= 4.5
    assert 8 <= figure.get_figwidth() <= 16


def test_confusion_matrix_is_written_into_a_new_folder(tmp_path):
    figures.plot_confusion_matrix(np.eye(2, dtype=int), ["a", "b"], tmp_path / "new" / "confusion.png")
    assert 800 <= read(tmp_path / "new" / "confusion.png").shape[1] <= 1600


def test_confusion_matrix_refuses_another_number_of_names(tmp_path):
    with pytest.raises(ValueError, match=r"\(3, 3\).*\(2, 2\)"):
        figures.plot_confusion_matrix(np.zeros((3, 3), int), ["a", "b"], tmp_path / "x.png")


@pytest.mark.parametrize(
    ("build", "score", "word"),
    [
        (figures._roc_curves_figure, roc_auc_score, "AUC"),
        (figures._pr_curves_figure, average_precision_score, "AP"),
    ],
)
def test_curves_carry_the_scores_of_scikit_learn(build, score, word):
    labels, probabilities = scored_samples()
    figure = build(labels, probabilities, NAMES)
    expected = [score(labels == index, probabilities[:, index]) for index in range(6)]
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()][:6]
    names = [*NAMES[:5], r"nv \$a\$ \$b"]
    assert shown == [f"{word} {value:.3f}  {name}" for value, name in zip(expected, names, strict=True)]
    assert f"macro {word} {np.mean(expected):.3f} over 6 of 7 classes" in figure.axes[0].get_title()
    assert figure.get_supxlabel().endswith(": absent")
    assert_nothing_is_cut(figure)


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_curves_have_the_points_of_scikit_learn(precision):
    labels, probabilities = scored_samples()
    scores = probabilities.astype(precision)
    roc = figures._roc_curves_figure(labels, scores, NAMES).axes[0].get_lines()
    steps = figures._pr_curves_figure(labels, scores, NAMES).axes[0].get_lines()
    for index in range(6):
        truth = labels == index
        assert len(np.unique(scores[:, index])) < len(labels)  # ties share one point
        expected = roc_curve(truth, scores[:, index], drop_intermediate=False)[:2]
        np.testing.assert_allclose(roc[index].get_data(), expected, rtol=1e-6)
        expected = precision_recall_curve(truth, scores[:, index])[1::-1]
        np.testing.assert_allclose(steps[index].get_data(), expected, rtol=1e-6)


def test_roc_equals_the_share_of_well_ordered_pairs():
    labels, probabilities = scored_samples()
    figure = figures._roc_curves_figure(labels, probabilities, NAMES)
    inside, outside = probabilities[labels == 2, 2], probabilities[labels != 2, 2]
    pairs = inside[:, None] - outside[None]
    share = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    x, y = figure.axes[0].get_lines()[2].get_xydata().T
    assert np.trapezoid(y, x) == pytest.approx(share)
    assert f"AUC {share:.3f}  bkl" in figure.axes[0].get_legend().get_texts()[2].get_text()


def test_pr_steps_enclose_the_average_precision_and_dots_show_the_prevalence():
    labels, probabilities = scored_samples()
    drawn = figures._pr_curves_figure(labels, probabilities, NAMES).axes[0].get_lines()
    for index in range(6):
        recall, precision = drawn[index].get_xydata().T
        assert drawn[index].get_drawstyle() == "steps-post"
        area = (-np.diff(recall) * precision[:-1]).sum()
        assert area == pytest.approx(average_precision_score(labels == index, probabilities[:, index]))
        dots = drawn[6 + index]
        assert dots.get_linestyle() == ":"
        assert dots.get_color() == drawn[index].get_color()
        assert dots.get_ydata() == pytest.approx([(labels == index).mean()] * 2)


@pytest.mark.parametrize("plot", [figures.plot_roc_curves, figures.plot_pr_curves])
def test_curves_of_unknown_single_and_no_samples(plot, tmp_path):
    for name, labels in {"unknown": [-1, -1], "single": [1, 1], "none": []}.items():
        plot(np.array(labels, int), np.full((len(labels), 2), 0.5), ["a", "b"], tmp_path / f"{name}.png")
        read(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(2, 2\)"):
        plot(np.array([0, 1]), np.zeros((3, 2)), ["a", "b"], tmp_path / "x.png")


def test_curves_leave_out_unknown_classes_and_scores_that_are_not_finite():
    labels, probabilities = scored_samples()
    known = figures._roc_curves_figure(labels[2:], probabilities[2:], NAMES)
    labels[0], probabilities[1, 3] = -1, np.nan
    figure = figures._roc_curves_figure(labels, probabilities, NAMES)
    assert figure.axes[0].get_title() == known.axes[0].get_title()
    assert "298 samples" in figure.axes[0].get_title()


def test_training_curves_have_a_panel_for_each_kind():
    table = history(8).assign(
        **{"val/ece": 0.1, "train/samples_per_second": 250.0, "val/never": np.nan, "note": "x"}
    )
    figure = figures._training_curves_figure(table, 5)
    assert panels(figure) == {
        "Losses": {"train/loss", "val/loss", "train/loss_mask", "val/loss_mask"},
        "Segmentation metrics": {"val/dice_lesion_image", "val/iou_lesion_pooled"},
        "Classification metrics": {
            "val/" + key for key in ("accuracy", "balanced_accuracy", "f1_macro", "auroc_macro")
        },
        "Learning rate": {"learning_rate/encoder", "learning_rate/head"},
        "Other metrics": {"val/ece"},
        "Other quantities": {"train/samples_per_second"},
    }
    assert [axes.get_yscale() for axes in figure.axes] == ["linear"] * 3 + ["log"] + ["linear"] * 2
    for axes in figure.axes:
        assert any(
            line.get_linestyle() == ":" and list(line.get_xdata()) == [5, 5] for line in axes.get_lines()
        )
    assert "best epoch 5" in figure.get_suptitle()
    assert_nothing_is_cut(figure)


def test_train_and_val_share_a_colour_and_differ_in_dashes():
    drawn = {
        line.get_label(): line
        for line in figures._training_curves_figure(history(3), None).axes[0].get_lines()
    }
    assert drawn["train/loss"].get_color() == drawn["val/loss"].get_color()
    assert drawn["train/loss"].get_color() != drawn["train/loss_mask"].get_color()
    assert (drawn["train/loss"].get_linestyle(), drawn["val/loss"].get_linestyle()) == ("--", "-")


def test_instance_segmentation_history_comes_out_sensibly():
    parts = {f"train/loss_{part}": [1.0, 0.5] for part in ("classifier", "box_reg", "mask")}
    table = pd.DataFrame({"epoch": [1, 2], "val/mask_ap50": [0.1, 0.4], "val/mask_ap": [0.0, 0.2], **parts})
    figure = figures._training_curves_figure(table, None)
    assert panels(figure) == {"Losses": set(parts), "Average precision": {"val/mask_ap50", "val/mask_ap"}}
    reconstruction = pd.DataFrame({"epoch": [1], "val/reconstruction_loss": [0.3]})
    assert panels(figures._training_curves_figure(reconstruction, None)) == {
        "Losses": {"val/reconstruction_loss"}
    }


def test_curves_pass_over_epochs_without_a_measurement():
    table = pd.DataFrame(
        {"epoch": [3, 1, 2, 4], "val/loss": [np.nan, 5.0, np.inf, 2.0], "learning_rate": [0.1, 0, 0.2, 0.1]}
    )
    drawn = lines(figures._training_curves_figure(table, None))
    assert drawn["val/loss"].tolist() == [[1, 5], [4, 2]]
    assert drawn["learning_rate"].tolist() == [[2, 0.2], [3, 0.1], [4, 0.1]]  # zero has no logarithm


LOSS_AND_RATE = history(2)[["epoch", "val/loss", "learning_rate/head"]]


@pytest.mark.parametrize(
    "table",
    [
        history(60),
        LOSS_AND_RATE[:1],
        LOSS_AND_RATE[:0],
        LOSS_AND_RATE[["epoch"]],
        0 * LOSS_AND_RATE,
        -LOSS_AND_RATE,
    ],
)
def test_any_history_can_be_plotted(table, tmp_path):
    figures.plot_training_curves(table, tmp_path / "curves.png", best_epoch=1)
    assert 800 <= read(tmp_path / "curves.png").shape[1] <= 1600


def test_a_single_epoch_has_one_whole_number_on_its_axis():
    figure = figures._training_curves_figure(LOSS_AND_RATE[:1], None)
    figure.draw_without_rendering()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]
        assert all(len(line.get_xdata()) == 1 and line.get_marker() == "o" for line in axes.get_lines())


def test_sample_sheet_shows_each_image_below_its_title():
    images = [np.full((20 + index, 30, 3), 40 * index, np.uint8) for index in range(6)]
    titles = ["short", "costs $5 or $6", "words " * 100, "x" * 500, "", "last"]
    figure = figures._sample_sheet_figure(images, titles, 4)
    shown = [axes for axes in figure.axes if axes.images]
    assert all(
        np.array_equal(axes.images[0].get_array(), image) for axes, image in zip(shown, images, strict=True)
    )
    assert [shown[index].get_title() for index in (0, 1, 5)] == ["short", r"costs \$5 or \$6", "last"]
    assert_nothing_is_cut(figure)
    boxes = [axes.title.get_window_extent() for axes in shown[:4]]
    assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))


def test_sample_sheet_of_few_images_and_wrong_titles(tmp_path):
    for number in (0, 1, 3):
        images = [np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)] * number
        figures.plot_sample_sheet(images, ["a"] * number, tmp_path / f"{number}.png")
        assert 800 <= read(tmp_path / f"{number}.png").shape[1] <= 1600
    with pytest.raises(ValueError, match="1 images need as many titles, not 2"):
        figures.plot_sample_sheet(images[:1], ["a", "b"], tmp_path / "x.png")


def test_writing_leaves_one_whole_file_or_none(tmp_path):
    target = tmp_path / "sheet.png"
    target.write_bytes(b"old")
    opened = target.open("rb")
    figures.plot_sample_sheet([], [], target)
    read(target)
    with opened:
        assert opened.read() == b"old"  # replaced, not overwritten: a reader never meets half a picture
    (tmp_path / "folder.png" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match=re.escape("folder.png")):
        figures.plot_sample_sheet([], [], tmp_path / "folder.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "sheet.png"]


def test_threads_draw_the_same_pictures(tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(4)]
    table = history(5)[["epoch", "val/loss"]]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda path: figures.plot_training_curves(table, path), paths))
    assert len({path.read_bytes() for path in paths}) == 1
