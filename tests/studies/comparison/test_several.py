from __future__ import annotations

import filecmp
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from tested_sides import reported, some, with_rows

from polymask.errors import UserError
from polymask.families import instances
from polymask.studies.comparison.figures import plot_runs
from polymask.studies.comparison.report import write_comparison
from polymask.studies.comparison.several import write_comparisons
from polymask.studies.comparison.sides import Side
from polymask.studies.comparison.statistics import RunMetric
from polymask.studies.comparison.text import runs_text

NUMBERS = {"num_pictures": 1, "num_replicates": 100, "num_permutations": 100, "seed": 0}
FILES = {"comparison.txt", "comparison.csv", "comparison.png", "metrics.json"}
NAN = float("nan")


@pytest.fixture(scope="module")
def mixed(tiny: Side, random: Side) -> Side:
    """A third run: as `tiny` on the first images, as `random` on the others."""
    rows = {name: np.concatenate([tiny.rows[name][:5], random.rows[name][5:]]) for name in random.rows}
    return replace(random, name="mixed", rows=rows)


@pytest.fixture(scope="module")
def folder(tiny: Side, random: Side, mixed: Side, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the three."""
    place = tmp_path_factory.mktemp("several")
    write_comparisons(place, [tiny, random, mixed], **NUMBERS)
    return place


def test_what_only_some_runs_measured_is_left_out_for_all(
    tiny: Side, random: Side, mixed: Side, tmp_path: Path
) -> None:
    old = replace(random, rows={n: values for n, values in random.rows.items() if not n.startswith("hd95")})
    write_comparisons(tmp_path, [tiny, mixed, old], **NUMBERS)
    (note,) = notes(tmp_path)
    assert "hd95_px_lesion_image_original" in note
    found = set(table(tmp_path).index.get_level_values("metric"))
    assert "dice_lesion_image_original" in found
    assert not [name for name in found if name.startswith("hd95")]


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "comparison.csv").set_index(["metric", "run"])


def notes(folder: Path) -> list[str]:
    found: list[str] = json.loads((folder / "metrics.json").read_text())["notes"]
    assert all(note in " ".join((folder / "comparison.txt").read_text().split()) for note in found)
    return found


def same_files(left: Path, right: Path) -> None:
    """The folders hold the same bytes."""
    names = sorted(path.relative_to(left) for path in left.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(right) for path in right.rglob("*") if path.is_file())
    assert len(names) >= 5
    assert filecmp.cmpfiles(left, right, map(str, names), shallow=False)[1:] == ([], [])


def test_each_pair_is_the_comparison_of_the_two(
    folder: Path, tiny: Side, random: Side, mixed: Side, tmp_path: Path
) -> None:
    assert {path.name for path in folder.iterdir()} == FILES | {"random", "mixed"}
    lines = table(folder)
    for other in (random, mixed):
        results = write_comparison(tmp_path / other.name, tiny, other, **NUMBERS)
        same_files(tmp_path / other.name, folder / other.name)
        for result in results:
            line = lines.loc[result.name, other.name]
            expected = [result.value_b, result.difference, result.low, result.high, result.p_value]
            found = line[["value", "difference", "difference_low", "difference_high", "p_value"]]
            np.testing.assert_array_equal(found.to_numpy(float), expected, err_msg=result.name)


def test_the_values_are_those_of_the_tests(folder: Path, trained: Path, random_folder: Path) -> None:
    lines = table(folder)
    assert list(dict.fromkeys(lines.index.get_level_values("run"))) == ["tiny", "random", "mixed"]
    for run, place in (("tiny", trained / "results" / "test" / "tiny"), ("random", random_folder)):
        stored = reported(place)
        for metric, value in lines.xs(run, level="run")["value"].dropna().items():
            assert value == pytest.approx(stored[metric]), metric
    assert lines.xs("tiny", level="run")[["difference", "difference_low", "p_value"]].isna().all(axis=None)
    content = json.loads((folder / "metrics.json").read_text())
    assert (content["name_a"], content["names"]) == ("tiny", ["random", "mixed"])
    assert (content["num_images"], content["num_groups"], content["notes"]) == (9, 6, [])
    entry = content["metrics"]["dice_lesion_image"]
    assert list(entry) == ["tiny", "random", "mixed"]
    assert entry["mixed"] == lines.loc["dice_lesion_image", "mixed"].to_dict()
    assert entry["tiny"]["p_value"] is None


def test_own_and_paired_intervals_are_of_the_same_draws(
    tiny: Side, random: Side, mixed: Side, tmp_path: Path
) -> None:
    # What finds no pixel has a Dice of 0 in every replicate: a difference to it is the other run's value.
    hits, _, misses = tiny.rows["lesion_confusion"].T
    nothing = np.stack([0 * hits, 0 * hits, hits + misses], axis=1)
    blank = replace(with_rows(tiny, lesion_confusion=nothing), name="blank")
    write_comparisons(tmp_path, [blank, random, mixed, tiny], **NUMBERS | {"num_pictures": 0})
    dice = table(tmp_path).loc["dice_lesion_image"]
    assert dice.loc["blank", ["value", "low", "high"]].tolist() == [0, 0, 0]
    for run in ("random", "mixed", "tiny"):
        line = dice.loc[run]
        assert line["low"] < line["value"] < line["high"]
        assert (line["difference_low"], line["difference_high"]) == (line["low"], line["high"])


def test_the_text_of_several(folder: Path) -> None:
    text = (folder / "comparison.txt").read_text()
    assert text.startswith("A: tiny\n   random\n   mixed\n9 test images of 6 groups\n\nmetric ")
    line = table(folder).loc["dice_lesion_image", "mixed"]
    block = text[text.index("dice_lesion_image") :].split("\n\n")[0].splitlines()
    assert [words.split()[0] for words in block] == ["dice_lesion_image", "random", "mixed"]
    shown = [float(word.strip("[],")) for word in block[2].split()[1:]]
    assert shown == pytest.approx(line.tolist(), abs=6e-5)
    assert block[0].split()[1:3] == ["tiny", "(A)"]
    tested = table(folder)["p_value"].notna().sum()
    joined = " ".join(text.split())
    assert "2 runs with A in each metric" in joined
    assert f"up to {0.05 * tested:.1f} of {tested} would be expected below 0.05" in joined
    assert "nan" not in text


def test_the_images_that_all_have_are_compared(
    tiny: Side, random: Side, mixed: Side, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    of_random, of_mixed = some(random, slice(0, 7)), some(mixed, slice(None, 1, -1), split_sha256="other")
    numbers = NUMBERS | {"num_pictures": 0}
    write_comparisons(tmp_path / "all", [tiny, of_random, of_mixed], **numbers)
    common = slice(2, 7)
    write_comparison(tmp_path / "pair", some(tiny, common), some(random, common), **numbers)
    for name in ("comparison.csv", "per_sample.csv", "comparison.png"):
        assert filecmp.cmp(tmp_path / "all" / "random" / name, tmp_path / "pair" / name, shallow=False)
    found = notes(tmp_path / "all")
    assert [record.getMessage() for record in caplog.records] == found
    fewer = "Of the images that a pair has in common, only the 5 that all 3 runs have are compared."
    assert "tiny was tested on 9 images, random on 7" in found[0]
    assert found[1] == fewer
    assert "The splits differ (tiny " in found[2]
    assert notes(tmp_path / "all" / "random") == found[:2]
    assert notes(tmp_path / "all" / "mixed") == [found[2], fewer]
    ids = pd.read_csv(tmp_path / "all" / "mixed" / "per_sample.csv")["id"].tolist()
    assert ids == tiny.rows["ids"][common].tolist()


def test_what_cannot_be_compared(tiny: Side, random: Side, mixed: Side, tmp_path: Path) -> None:
    parts = [some(random, slice(0, 4)), some(mixed, slice(4, None))]
    with pytest.raises(UserError, match=r"tiny, random, mixed have no test image that all .*split_file="):
        write_comparisons(tmp_path, [tiny, *parts], **NUMBERS)
    with pytest.raises(UserError, match="random is named more than once among tiny, random, random"):
        write_comparisons(tmp_path, [tiny, random, random], **NUMBERS)
    other = replace(mixed, family=instances.Family(class_names=["MEL", "NV", "BKL"]))
    with pytest.raises(UserError, match="tiny predicts label and mask, mixed objects"):
        write_comparisons(tmp_path, [tiny, random, other], **NUMBERS)
    assert not list(tmp_path.iterdir())


def some_lines(*values: float) -> list[RunMetric]:
    return [
        RunMetric(metric=f"metric_${index}", run=f"{run}$b$" * 9, value=value, low=value, high=value)
        for index, value in enumerate(values)
        for run in range(9)
    ]


def test_undefined_values_are_empty_in_the_text() -> None:
    numbers = {"num_images": 1500, "num_groups": 1500, "num_replicates": 10, "num_permutations": 10}
    text = runs_text(some_lines(NAN, 0.5), **numbers, notes=[])
    assert "nan" not in text
    assert "\n1,500 test images\n" in text
    assert "8 runs with A" in text


@pytest.mark.parametrize("values", [[0.1], [0.1, -0.2, NAN], [0.0, 3.0], [NAN], []])
def test_the_figure_of_several_is_drawn_for_any_values(values: list[float], tmp_path: Path) -> None:
    plot_runs(some_lines(*values), tmp_path / "comparison.png")
    picture = cv2.imread(str(tmp_path / "comparison.png"))
    assert picture.std() > 3
    assert (picture[[0, -1]] == 255).all()
    assert (picture[:, [0, -1]] == 255).all()
