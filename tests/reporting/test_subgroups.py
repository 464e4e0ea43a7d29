"""Subgroups of a real test run: its rows, tables and figure."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from commands import fails

from polymask import cli
from polymask.reporting.rows import read_samples


@pytest.fixture(scope="module")
def _results(_trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from polymask.utils import paths

    folder = tmp_path_factory.mktemp("subgroups")
    table = folder / "table.csv"
    lesions = pd.read_csv(_trained_once / "lesions" / "metadata.csv")
    sexes = ["f" if number % 2 else "m" for number in range(len(lesions))]
    ages = np.arange(len(lesions)) * 3 + 11
    pd.DataFrame({"id": lesions["image_id"], "sex": sexes, "age": ages}).to_csv(table, index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROJECT_ROOT", _trained_once)
        options = ["data.subgroups=[sex,age,dx]", "data.smallest_subgroup=3", f"data.attribute_table={table}"]
        bands = "data.subgroup_bands={age:[30,60]}"
        cli.run("test", ["run_name=tiny", f"local_save_dir={folder}", bands, *options])
    return folder / "tiny"


@pytest.fixture
def results(_results: Path, trained: Path) -> Path:
    return _results


def test_rows_hold_the_subgroups(results: Path) -> None:
    rows, _ = read_samples(results)
    numbers = np.array([int(id_[-2:]) - 1 for id_ in rows["ids"].tolist()])
    assert rows["subgroup_sex"].tolist() == ["f" if number % 2 else "m" for number in numbers]
    ages = numbers * 3 + 11
    bands = np.where(ages < 30, "<30", np.where(ages < 60, "30 to 59", ">=60"))
    assert rows["subgroup_age"].tolist() == bands.tolist()


def test_the_table_tells_what_can_be_computed_from_the_table_of_samples(results: Path) -> None:
    table = pd.read_csv(results / "subgroups.csv")
    samples = pd.read_csv(results / "per_sample.csv")
    rows, groups = read_samples(results)
    assert set(table["metric"]) >= {"dice_lesion_image", "balanced_accuracy", "auroc_macro"}
    for (column, subgroup), lines in table.groupby(["column", "subgroup"]):
        members = rows[f"subgroup_{column}"] == subgroup
        own = {group for group, is_member in zip(groups, members, strict=True) if is_member}
        assert set(lines["num_samples"]) == {members.sum()}
        assert set(lines["num_groups"]) == {len(own)}
        value = lines.set_index("metric")["value"]["dice_lesion_image"]
        expected = samples["dice_lesion"][members].mean() if len(own) >= 3 else np.nan
        assert value == pytest.approx(expected, nan_ok=True)
    assert table["p_value_holm"].dropna().between(0, 1).all()
    every = pd.read_csv(results / "subgroup_metrics.csv").set_index(["column", "subgroup", "metric"])
    assert {"dice_lesion_image_original", "ece", "hd95_px_lesion_image_original"} <= set(
        every.index.levels[2]
    )
    same = table.set_index(["column", "subgroup", "metric"])[["value", "low", "high"]]
    pd.testing.assert_frame_equal(every.loc[same.index, ["value", "low", "high"]], same)
    gaps = pd.read_csv(results / "subgroup_gaps.csv").set_index(["column", "metric"])
    dices = table[(table["metric"] == "dice_lesion_image") & (table["column"] == "sex")]["value"]
    assert gaps.loc[("sex", "dice_lesion_image"), "gap"] == pytest.approx(dices.max() - dices.min())


def test_the_figure_has_a_panel_per_metric(results: Path) -> None:
    picture = cv2.imread(str(results / "subgroups.png"))
    table = pd.read_csv(results / "subgroups.csv")
    assert picture.shape[1] == pytest.approx(100 * (2.6 + 2.7 * table["metric"].nunique()), abs=2)


def test_a_test_without_subgroups_is_as_ever(trained: Path, results: Path) -> None:
    plain = trained / "results" / "test" / "tiny"
    names = {path.name for path in results.iterdir()} - {path.name for path in plain.iterdir()}
    assert names == {"subgroups.csv", "subgroup_gaps.csv", "subgroup_metrics.csv", "subgroups.png"}
    before, after = (json.loads((folder / "metrics.json").read_text()) for folder in (plain, results))
    assert before["metrics"] == after["metrics"]
    assert not any(key.startswith("subgroup") for key in read_samples(plain)[0])


def test_a_column_that_does_not_exist_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "test", "run_name=tiny", "data.subgroups=[lesion]")
    assert "data.subgroups names 'lesion'" in line
    assert "Did you mean 'lesion_id'?" in line
