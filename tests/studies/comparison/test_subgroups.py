"""Two runs within subgroups: what a comparison on their samples alone says, and nothing without subgroups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tested_sides import with_rows

from polymask.metrics.permutation import holm
from polymask.studies.comparison.report import write_comparison
from polymask.studies.comparison.sides import Side

NUMBERS = {"num_pictures": 0, "num_replicates": 60, "num_permutations": 60, "seed": 0}


def only(side: Side, members: np.ndarray) -> Side:
    groups = np.array(side.groups)[members].tolist()
    return replace(side, rows={name: values[members] for name, values in side.rows.items()}, groups=groups)


def test_a_subgroup_is_compared_as_if_it_were_alone(tiny: Side, random: Side, tmp_path: Path) -> None:
    names = np.unique(tiny.groups, return_inverse=True)[1] % 3
    site = np.array(["back", "face", "foot"])[names]
    site[names == 2] = np.where(np.arange((names == 2).sum()) == 0, "foot", "back")
    side_a = with_rows(replace(tiny, smallest_subgroup=2), subgroup_site=site)
    write_comparison(tmp_path / "all", side_a, random, **NUMBERS)
    table = pd.read_csv(tmp_path / "all" / "subgroups.csv")
    assert set(table["subgroup"]) == {"back", "face", "foot"}
    for subgroup, lines in table.groupby("subgroup"):
        members = site == subgroup
        assert set(lines["num_samples"]) == {members.sum()}
        values = lines.set_index("metric")[["a", "b", "difference", "low", "high", "p_value"]]
        if subgroup == "foot":  # too small
            assert values.isna().all(axis=None)
            continue
        folder = tmp_path / str(subgroup)
        write_comparison(folder, only(tiny, members), only(random, members), **NUMBERS)
        alone = pd.read_csv(folder / "comparison.csv").set_index("metric")
        pd.testing.assert_frame_equal(values, alone.loc[values.index, values.columns])
    corrected = holm(table["p_value"].tolist())
    np.testing.assert_allclose(table["p_value_holm"], corrected)
    text = " ".join((tmp_path / "all" / "comparison.txt").read_text().split())
    tested = table["p_value"].notna().sum()
    assert f"Within subgroups (subgroups.csv), 0 of {tested} differences have p below 0.05" in text
    assert (tmp_path / "all" / "subgroups.png").is_file()


@pytest.mark.parametrize("knows", ["a", "b"])
def test_it_is_enough_that_one_of_the_tests_knew_them(
    tiny: Side, random: Side, knows: str, tmp_path: Path
) -> None:
    site = np.where(np.arange(len(tiny.groups)) % 2, "back", "face")
    sides = [with_rows(side, subgroup_site=site) if own == knows else side
             for own, side in (("a", tiny), ("b", random))]  # fmt: skip
    write_comparison(tmp_path, *sides, **NUMBERS)
    assert set(pd.read_csv(tmp_path / "subgroups.csv")["subgroup"]) == {"back", "face"}


def test_without_subgroups_nothing_is_written(tiny: Side, random: Side, tmp_path: Path) -> None:
    write_comparison(tmp_path, tiny, random, **NUMBERS)
    assert not list(tmp_path.glob("subgroup*"))
