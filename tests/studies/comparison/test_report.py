from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from tested_sides import parts, read_back, reported, side, some, with_rows

from polymask.errors import UserError
from polymask.families import instances, multitask
from polymask.studies.comparison.figures import plot_comparison
from polymask.studies.comparison.report import most_different, write_comparison
from polymask.studies.comparison.sides import Side, make_side
from polymask.studies.comparison.statistics import MetricComparison
from polymask.studies.comparison.text import comparison_text

CLASSES = ["MEL", "NV", "BKL"]
NUMBERS = {"num_pictures": 4, "num_replicates": 100, "num_permutations": 100, "seed": 0}
FILES = {"comparison.txt", "comparison.csv", "comparison.png", "per_sample.csv", "metrics.json", "pictures"}
NAN = float("nan")


def defined(results: list[MetricComparison]) -> list[MetricComparison]:
    """The metrics that both runs have a value of."""
    return [result for result in results if not math.isnan(result.difference)]


def content_value(folder: Path, metric: str, key: str) -> Any:
    return json.loads((folder / "metrics.json").read_text())["metrics"][metric][key]


def test_files_and_values(
    tiny: Side, random: Side, trained: Path, random_folder: Path, tmp_path: Path
) -> None:
    results = write_comparison(tmp_path, tiny, random, **NUMBERS)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    of_a, of_b = reported(trained / "results" / "test" / "tiny"), reported(random_folder)
    table = pd.read_csv(tmp_path / "comparison.csv").set_index("metric")
    assert {"dice_lesion_image", "iou_lesion_pooled", "balanced_accuracy", "auroc_macro"} <= set(table.index)
    assert math.isnan(table.loc["precision_NV", "difference"])  # one of the runs never says NV
    assert content_value(tmp_path, "precision_NV", "difference") is None
    for name, line in table.dropna().iterrows():
        assert line["a"] == pytest.approx(of_a[name]), name
        assert line["b"] == pytest.approx(of_b[name]), name
        assert line["difference"] == pytest.approx(of_b[name] - of_a[name]), name
        assert 0 < line["p_value"] <= 1
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert (content["num_images"], content["num_groups"], content["notes"]) == (9, 6, [])
    defined = table.dropna()
    assert [content["metrics"][name]["p_value"] for name in defined.index] == defined["p_value"].tolist()
    p_values = {result.name: result.p_value for result in results}
    assert [p_values[name] for name in defined.index] == defined["p_value"].tolist()
    assert list(p_values) == list(table.index)


def test_the_text_is_complete(tiny: Side, random: Side, tmp_path: Path) -> None:
    results = write_comparison(tmp_path, tiny, random, **NUMBERS, notes=["From the caller."])
    text = (tmp_path / "comparison.txt").read_text()
    assert max(map(len, text.splitlines())) <= 100
    assert "A: tiny\nB: random\n9 test images of 6 groups\n" in text
    assert "- From the caller.\n" in text
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    for result in defined(results):
        a, b, difference, low, high, p_value = map(float, lines[result.name])
        shown = (result.value_a, result.value_b, result.difference, result.low, result.high, result.p_value)
        assert (a, b, difference, low, high, p_value) == pytest.approx(shown, abs=6e-5)
    joined = " ".join(text.split())
    assert "100 replicates, each of which draws groups" in joined
    assert "all 32 different ways to swap" in joined
    tested = len(defined(results))
    assert f"if the runs did not differ at all, up to {0.05 * tested:.1f} of {tested}" in joined


def test_the_text_of_many_single_images() -> None:
    results = [
        MetricComparison(
            name="accuracy", value_a=0.5, value_b=0.50001, difference=1e-5, low=-1e-6, high=0.1, p_value=1
        ),
        MetricComparison(
            name="undefined", value_a=NAN, value_b=1, difference=NAN, low=NAN, high=NAN, p_value=NAN
        ),
    ]
    settings = {"num_images": 1500, "num_groups": 1500, "num_replicates": 1000, "num_permutations": 5000}
    text = comparison_text(results, name_a="x", name_b="y", **settings, notes=[])
    assert "\n1,500 test images\n" in text
    assert "draws images with" in text
    assert "the share of 5,000 random ways" in text
    assert "nan" not in text
    (line,) = (line for line in text.splitlines() if line.startswith("accuracy"))
    assert line.split() == ["accuracy", "0.5000", "0.5000", "0.0000", "0.0000", "+0.1000", "1.0000"]


def test_samples_and_pictures(tiny: Side, random: Side, tmp_path: Path) -> None:
    write_comparison(tmp_path, tiny, random, **NUMBERS)
    table = pd.read_csv(tmp_path / "per_sample.csv")
    assert table["id"].tolist() == tiny.rows["ids"].tolist()
    assert table["group"].tolist() == list(tiny.groups)
    for letter, run in (("a", tiny), ("b", random)):
        hits, alarms, misses = run.rows["lesion_confusion"].T
        np.testing.assert_allclose(table[f"dice_lesion_{letter}"], 2 * hits / (2 * hits + alarms + misses))
        probabilities = run.rows["class_probabilities"][np.arange(9), run.rows["label"]]
        np.testing.assert_allclose(table[f"true_class_probability_{letter}"], probabilities)
    difference = table["dice_lesion_b"] - table["dice_lesion_a"]
    np.testing.assert_allclose(table["dice_lesion_difference"], difference)
    expected = [
        f"{rank:02d}_{table['id'][i]}" for rank, i in enumerate(most_different(difference, 4), start=1)
    ]
    assert sorted(path.stem for path in (tmp_path / "pictures").iterdir()) == expected
    for path in (tmp_path / "pictures").iterdir():
        picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        id_ = path.stem[3:]
        of_a, of_b = (run.report.picture(id_) for run in (tiny, random))
        assert not np.array_equal(of_a, of_b)
        bar = (len(picture) - len(of_a) - len(of_b)) // 2  # the name and the gaps of each run
        height, width = of_a.shape[:2]
        assert 15 < bar < 60
        assert find(picture[: bar + height], of_a) == find(picture[bar + height :], of_b) == 1
        assert picture[:20, :width].max() == 255  # there is a text


def find(picture: np.ndarray, part: np.ndarray) -> int:
    """Return at how many heights `part` stands in `picture`, on the left."""
    room = len(picture) - len(part)
    window = [picture[top : top + len(part), : part.shape[1]] for top in range(room + 1)]
    return sum(np.array_equal(piece, part) for piece in window)


def test_the_same_run_twice(tiny: Side, tmp_path: Path) -> None:
    results = write_comparison(tmp_path, tiny, tiny, **NUMBERS)
    assert {(r.difference, r.low, r.high, r.p_value) for r in defined(results)} == {(0, 0, 0, 1)}
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"pictures"}


def test_no_pictures_when_none_are_wanted(tiny: Side, random: Side, tmp_path: Path) -> None:
    write_comparison(tmp_path, tiny, random, **NUMBERS | {"num_pictures": 0})
    assert not (tmp_path / "pictures").exists()


def test_classes_decide_where_no_sample_has_a_mask(tiny: Side, random: Side, tmp_path: Path) -> None:
    def without(run: Side) -> Side:
        return with_rows(
            run,
            confusion=np.zeros_like(run.rows["confusion"]),
            lesion_confusion=np.zeros_like(run.rows["lesion_confusion"]),
        )

    write_comparison(tmp_path, without(tiny), without(random), **NUMBERS)
    table = pd.read_csv(tmp_path / "per_sample.csv")
    assert table["dice_lesion_difference"].isna().all()
    chosen = most_different(table["true_class_probability_difference"], 4)
    first = next(iter(sorted((tmp_path / "pictures").iterdir())))
    assert first.stem == f"01_{table['id'][chosen[0]]}"
    entry = json.loads((tmp_path / "metrics.json").read_text())["metrics"]["dice_lesion_image"]
    assert set(entry.values()) == {None}


def test_the_same_split_needs_no_note(tiny: Side, random: Side, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    write_comparison(tmp_path, tiny, random, **NUMBERS)
    assert "plit" not in (tmp_path / "comparison.txt").read_text()
    assert caplog.text == ""


def check_note(folder: Path, caplog: pytest.LogCaptureFixture, *words: str) -> None:
    """The words stand in the text, in the JSON file and in the log, the latter as a warning."""
    (note,) = json.loads((folder / "metrics.json").read_text())["notes"]
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("WARNING", note)
    assert note in " ".join((folder / "comparison.txt").read_text().split())
    for word in words:
        assert word in note


def test_other_training_images(tiny: Side, random: Side, tmp_path: Path, caplog: Any) -> None:
    write_comparison(tmp_path, tiny, replace(random, split_sha256="0123456789abcdef"), **NUMBERS)
    check_note(
        tmp_path, caplog, "The splits differ (tiny ", "random 0123456789ab)", "9 test images are the same"
    )


def test_other_test_images(tiny: Side, random: Side, tmp_path: Path, caplog: Any) -> None:
    of_a, of_b = some(tiny, slice(0, 7)), some(random, slice(2, None), split_sha256="other")
    results = write_comparison(tmp_path, of_a, of_b, **NUMBERS)
    said = "tiny was tested on 7 images, random on 7. Only the 5 images in both are compared"
    check_note(tmp_path, caplog, "The splits differ (tiny ", said)
    assert pd.read_csv(tmp_path / "per_sample.csv")["id"].tolist() == tiny.rows["ids"][2:7].tolist()
    hits, alarms, misses = tiny.rows["lesion_confusion"][2:7].T
    (dice,) = (result.value_a for result in results if result.name == "dice_lesion_image")
    assert dice == pytest.approx(np.mean(2 * hits / (2 * hits + alarms + misses)))


def test_fewer_test_images_of_the_same_split(tiny: Side, random: Side, tmp_path: Path, caplog: Any) -> None:
    write_comparison(tmp_path, tiny, some(random, slice(1, None)), **NUMBERS)
    check_note(
        tmp_path, caplog, "The test images differ although the split is the same", "tiny was tested on 9"
    )


def test_another_order_of_samples_changes_nothing(tiny: Side, random: Side, tmp_path: Path) -> None:
    first = write_comparison(tmp_path / "a", tiny, random, **NUMBERS)
    turned = some(random, slice(None, None, -1))
    second = write_comparison(tmp_path / "b", tiny, turned, **NUMBERS)
    assert defined(second) == defined(first)
    assert [result.name for result in second] == [result.name for result in first]


def test_other_groups(tiny: Side, random: Side, tmp_path: Path, caplog: Any) -> None:
    single = replace(random, groups=random.rows["ids"].tolist())
    write_comparison(tmp_path, tiny, single, **NUMBERS)
    check_note(tmp_path, caplog, "The groups of the images differ; those of tiny are used.")
    assert json.loads((tmp_path / "metrics.json").read_text())["num_groups"] == 6


def test_another_grid(tiny: Side, random: Side, tmp_path: Path, caplog: Any) -> None:
    write_comparison(tmp_path, tiny, replace(random, grid=(64, 96)), **NUMBERS)
    check_note(tmp_path, caplog, "different grids, 32 x 48 (tiny) and 64 x 96 (random)")


def without_own_size(run: Side) -> Side:
    """The run as an older version tested it: on the grid alone."""
    return replace(run, rows={name: run.rows[name] for name in run.rows if not name.endswith("_original")})


def test_a_test_of_an_older_version(tiny: Side, random: Side, tmp_path: Path, caplog: Any) -> None:
    both = write_comparison(tmp_path / "both", tiny, random, **NUMBERS)
    assert any(result.name.endswith("_original") for result in both)
    caplog.clear()
    results = write_comparison(tmp_path / "old", tiny, without_own_size(random), **NUMBERS)
    check_note(
        tmp_path / "old", caplog, "confusion_original, hd95_px_lesion_image_original, ", "polymask test"
    )
    on_grid = [result for result in both if not result.name.endswith("_original")]
    assert defined(results) == defined(on_grid)
    assert [result.name for result in results] == [result.name for result in on_grid]
    caplog.clear()
    old = write_comparison(tmp_path / "older", without_own_size(tiny), without_own_size(random), **NUMBERS)
    assert defined(old) == defined(results)
    assert caplog.text == ""


def test_letterboxes(tiny: Side, random: Side, tmp_path: Path, caplog: Any) -> None:
    changed = random.rows["lesion_confusion"] + [0, 0, 1]  # the true masks are of another size there
    other = with_rows(replace(random, fit="letterbox"), lesion_confusion=changed)
    write_comparison(tmp_path, tiny, other, **NUMBERS)
    check_note(tmp_path, caplog, "different grids, 32 x 48 (tiny) and 32 x 48 letterbox (random)")
    own = random.rows["lesion_confusion_original"] + [0, 0, 1]
    with pytest.raises(UserError, match="true masks at their own size of 9 images are not the same"):
        write_comparison(tmp_path, tiny, with_rows(other, lesion_confusion_original=own), **NUMBERS)


def refused(tiny: Side, other: Side, folder: Path, match: str, **changes: int) -> None:
    with pytest.raises(UserError, match=match):
        write_comparison(folder, tiny, other, **NUMBERS | changes)
    assert not list(folder.iterdir())


def test_no_common_test_images(tiny: Side, random: Side, tmp_path: Path) -> None:
    of_a, of_b = some(tiny, slice(0, 4)), some(random, slice(4, None))
    refused(of_a, of_b, tmp_path, r"no test image in common \(4 and 5 images\): .* data\.split_file=")


def test_other_classes(tiny: Side, random: Side, tmp_path: Path) -> None:
    other = replace(random, family=multitask.Family(class_names=["NV", "MEL", "BKL"]))
    refused(tiny, other, tmp_path, "tiny has the classes MEL, NV, BKL, random NV, MEL, BKL")
    refused(
        tiny,
        replace(random, family=multitask.Family(class_names=[], predict_classes=False)),
        tmp_path,
        "random none. Only",
    )


def test_other_outputs(tiny: Side, random: Side, tmp_path: Path) -> None:
    rows = {name: values for name, values in random.rows.items() if "confusion" not in name}
    refused(
        tiny,
        replace(random, rows=rows),
        tmp_path,
        "different tasks: only one of them has dice_lesion_image, ",
    )


def test_other_families(tiny: Side, random: Side, tmp_path: Path) -> None:
    other = instances.Family(class_names=CLASSES)
    words = "tiny predicts label and mask, random objects"
    refused(tiny, replace(random, family=other), tmp_path, words)


def test_other_settings(tiny: Side, random: Side, tmp_path: Path) -> None:
    confusion = np.zeros((9, 4, 3), np.int64)
    message = r"'confusion' differ in size: \(2, 3\) and \(4, 3\)"
    refused(tiny, with_rows(random, confusion=confusion), tmp_path, message)


def test_other_labels(tiny: Side, random: Side, tmp_path: Path) -> None:
    label = random.rows["label"].copy()
    label[:2] = (label[:2] + 1) % 3
    refused(tiny, with_rows(random, label=label), tmp_path, "true classes of 2 images are not the same")


def test_other_masks(tiny: Side, random: Side, tmp_path: Path) -> None:
    changed = random.rows["lesion_confusion"].copy()
    changed[:3, 2] += 1  # one more pixel to find
    other = with_rows(random, lesion_confusion=changed)
    refused(tiny, other, tmp_path, "true masks of 3 images are not the same")
    assert write_comparison(tmp_path, tiny, replace(other, grid=(64, 96)), **NUMBERS)  # of another size


def test_a_test_on_another_split_than_the_runs_own(
    trained: Path, random_folder: Path, tmp_path: Path
) -> None:
    data, run = parts(trained)
    subsets = data.split.subsets | {"test": data.split.subsets["val"], "val": data.split.subsets["test"]}
    data.split = replace(data.split, subsets=subsets)
    tested = read_back(random_folder, run)
    other = make_side(tested, data)
    id_ = other.rows["ids"][0]
    assert np.array_equal(other.report.picture(id_), side(trained, random_folder).report.picture(id_))
    assert data.split.subsets == subsets
    data.samples.records = [record for record in data.records if record.id != id_]
    with pytest.raises(
        UserError, match=rf"1 of 9 test samples of random are not in .* '{id_}'; give .*data_dir="
    ):
        make_side(tested, data)


@pytest.mark.parametrize(
    ("key", "value"), [("num_pictures", -1), ("num_replicates", 0), ("num_permutations", 0)]
)
def test_numbers_out_of_range(tiny: Side, random: Side, tmp_path: Path, key: str, value: int) -> None:
    refused(tiny, random, tmp_path, f"{key}={value} is not valid", **{key: value})


def test_an_untested_run(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run polymask test run_name=unknown first"):
        side(trained, tmp_path / "unknown")


def test_most_different_takes_half_of_each_run() -> None:
    differences = np.array([0.1, NAN, -0.2, 0.9, 0.8, -0.05, 0.0, 0.7])
    assert most_different(differences, 4) == [3, 4, 2, 5]
    assert most_different(differences, 3) == [3, 4, 2]
    assert most_different(differences, 1) == [3]
    assert most_different(differences, 5) == [3, 4, 7, 2, 5]
    assert most_different(differences, 20) == [3, 4, 7, 2, 0, 5]
    assert most_different(-differences, 5) == [3, 4, 7, 2, 5]
    assert most_different(np.array([0.3, 0.2, 0.1]), 2) == [0, 1]
    assert most_different(np.array([0.0, NAN]), 2) == most_different(differences, 0) == []


@pytest.mark.parametrize("values", [[0.1], [0.1, -0.2, NAN], [0.0, 3.0], [NAN], []])
def test_the_figure_is_drawn_for_any_values(values: list[float], tmp_path: Path) -> None:
    results = [
        MetricComparison(
            name=f"metric_${index}",
            value_a=0.5,
            value_b=0.5 + value,
            difference=value,
            low=value,
            high=value,
            p_value=1,
        )
        for index, value in enumerate(values)
    ]
    plot_comparison(results, "a$b$", "x" * 200, tmp_path / "comparison.png")
    picture = cv2.imread(str(tmp_path / "comparison.png"))
    assert picture.std() > 3
    assert (picture[[0, -1]] == 255).all()
    assert (picture[:, [0, -1]] == 255).all()
