from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polymask.studies.analysis import figures


def assert_nothing_is_cut(figure: Figure) -> None:
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0) >= -0.01
    assert box.x1 <= width + 0.01
    assert box.y1 <= height + 0.01


def bars(axes: Axes) -> list[tuple[float, float, float]]:
    """(from, to, height) of the bars that are not empty."""
    return [(b.get_x(), b.get_x() + b.get_width(), b.get_height()) for b in axes.patches if b.get_height()]


def in_bars(axes: Axes, values: np.ndarray) -> None:
    """Assert that the bars hold all values, and each as many as lie between its edges."""
    drawn = bars(axes)
    assert sum(height for _, _, height in drawn) == len(values)
    for low, high, height in drawn:
        low, high = low - 1e-9 * (1 + low), high + 1e-9 * (1 + high)
        assert height <= ((values >= low) & (values <= high)).sum()


def legend(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_image_sizes_are_dots_and_histograms():
    widths, heights = np.array([640] * 7 + [600] * 3 + [300]), np.array([480] * 7 + [450] * 3 + [400])
    figure = figures._image_sizes_figure(widths, heights)
    dots = figure.axes[0].collections[0]
    areas = dict(zip(map(tuple, dots.get_offsets().tolist()), dots.get_sizes(), strict=True))
    assert areas[640, 480] > areas[600, 450] > areas[300, 400]
    assert legend(figure.axes[0])[1:] == ["640 x 480: 7", "600 x 450: 3", "300 x 400: 1"]
    for axes, values in zip(figure.axes[1:], (widths, heights, widths / heights), strict=True):
        in_bars(axes, values)
    assert [legend(axes) for axes in figure.axes[1:]] == [["median 640"], ["median 480"], ["median 1.333"]]
    assert "11 images, 3 different sizes" in figure.get_suptitle()
    assert_nothing_is_cut(figure)


def test_one_size_stands_in_the_middle_of_its_histograms():
    figure = figures._image_sizes_figure(np.full(5, 600), np.full(5, 450))
    assert "one size" in figure.get_suptitle()
    for axes, value in zip(figure.axes[1:], (600, 450, 600 / 450), strict=True):
        (low, high, height) = bars(axes)[0]
        assert len(bars(axes)) == 1
        assert height == 5
        assert (low + high) / 2 == pytest.approx(value) == pytest.approx(np.mean(axes.get_xlim()))


@pytest.mark.parametrize("spread", [1, 2, 40, 41, 42, 83, 1000])
def test_every_bin_of_whole_numbers_holds_equally_many(spread):
    values = np.arange(100, 100 + spread)
    edges = figures._whole_bins(values)
    assert (np.diff(edges) == np.diff(edges)[0]).all()
    assert (edges % 1 == 0.5).all()
    assert edges[0] < values[0]
    assert values[-1] < edges[-1]
    assert abs((edges[0] + edges[-1]) / 2 - (values[0] + values[-1]) / 2) <= 1


def test_many_different_sizes_are_counted_in_the_legend():
    rng = np.random.default_rng(0)
    figure = figures._image_sizes_figure(rng.integers(10, 5000, 400), np.arange(400) + 1)
    assert legend(figure.axes[0])[-1] == "395 more sizes"
    assert_nothing_is_cut(figure)


def test_class_bars_are_made_up_of_subsets():
    counts = {"NV": Counter(train=6, val=2), "MEL $1": Counter(train=1), "none": Counter()}
    axes = figures._class_counts_figure(counts, ["train", "val", ""]).axes[0]
    drawn = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert drawn == [(0, 6), (0, 1), (0, 0), (6, 2), (1, 0), (0, 0), (8, 0), (1, 0), (0, 0)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["NV", r"MEL \$1", "none"]
    assert [text.get_text().strip() for text in axes.texts] == ["8 (88.9%)", "1 (11.1%)", "0 (0.0%)"]
    assert legend(axes) == ["train", "val", "unused"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first class on top
    assert axes.get_title() == "Classes (9 labels)"


def test_of_very_many_classes_the_frequent_ones_are_drawn_in_their_order():
    counts = {f"class {index}": Counter(train=index) for index in range(100)}
    figure = figures._class_counts_figure(counts, ["train"])
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [f"class {index}" for index in range(40, 100)]
    assert figure.axes[0].get_title() == "Classes (4,950 labels, the 60 most frequent of 100)"
    assert_nothing_is_cut(figure)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_long_names_and_large_numbers_fit(count):
    counts = {f"class {i} of a very long name, longer than most": Counter({"": 10**7}) for i in range(count)}
    assert_nothing_is_cut(figures._class_counts_figure(counts, [""]))


def test_mask_areas_hold_every_mask():
    rng = np.random.default_rng(0)
    areas = np.concatenate([[0, 0], rng.integers(1, 300_000, 500)])
    left, right = figures._mask_areas_figure(areas / 300_000, areas).axes
    in_bars(left, areas / 300_000)
    in_bars(right, areas[areas > 0])
    assert right.get_xscale() == "log"
    assert legend(left) == [f"median {np.median(areas) / 300_000:.1%}"]
    assert legend(right) == [f"median {np.median(areas[2:]):,.0f}"]


@pytest.mark.parametrize("areas", [[0], [1], [5, 5], [1, 100, 1000], [3, 150_000, 300_000, 0], [7, 10**7]])
def test_any_mask_areas_fit_and_all_are_there(areas):
    areas = np.array(areas)
    figure = figures._mask_areas_figure(areas / 10**7, areas)
    assert sum(height for _, _, height in bars(figure.axes[1])) == (areas > 0).sum()
    assert f"{len(areas)} masks, {(areas == 0).sum()} of them empty" in figure.get_suptitle()
    assert_nothing_is_cut(figure)
    labels = [label for label in figure.axes[1].get_xticklabels() if label.get_text()]
    boxes = [label.get_window_extent() for label in labels if figure.axes[1].axison]
    ends = sorted((box.x0, box.x1) for box in boxes)
    assert all(right[0] >= left[1] for left, right in pairwise(ends))


@pytest.mark.parametrize("ratio", [0.3, 1.0, 4.0])
def test_coverage_is_drawn_from_the_top_in_the_shape_of_the_images(ratio):
    coverage = np.linspace(0, 0.4, 128)[:, None].repeat(128, axis=1)
    figure = figures._mask_coverage_figure(coverage, 1234, ratio)
    axes, bar = figure.axes
    picture = axes.get_images()[0]
    np.testing.assert_array_equal(picture.get_array(), coverage)
    assert picture.get_clim() == (0, pytest.approx(0.4))
    assert axes.get_ylim() == (1, 0)
    assert "1,234 masks" in axes.get_title()
    assert_nothing_is_cut(figure)
    box = axes.get_window_extent()
    assert box.width / box.height == pytest.approx(ratio)
    assert bar.get_window_extent().height <= 1.05 * box.height


def test_pictures_are_written_into_a_new_folder(tmp_path: Path):
    folder = tmp_path / "new"
    figures.plot_image_sizes(np.array([3]), np.array([4]), folder / "a.png")
    figures.plot_class_counts({}, [], folder / "b.png")
    figures.plot_mask_areas(np.array([0.0]), np.array([0]), folder / "c.png")
    figures.plot_mask_coverage(np.zeros((128, 128)), 1, 1.5, folder / "d.png")
    for name in "abcd":
        assert 800 <= cv2.imread(str(folder / f"{name}.png")).shape[1] <= 1600
