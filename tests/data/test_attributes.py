"""Columns of tables: who has them, bands of numbers, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lesion_data import make_data

from polymask.data.attributes import Attributes, band_edges, band_names
from polymask.data.demo import read_demo
from polymask.data.records import Record
from polymask.data.sources import read_ham10000
from polymask.errors import UserError

IDS = ("a", "b", "c", "d")
PEOPLE = {"sex": ["f"] * 4, "age": ["1"] * 4}
X, OLD = {"x": list("1234")}, {"x": ["1", "old", "3", "4"]}
MANY = {"x": [f"patient {number}" for number in range(60)]}


def records(**columns: list[str]) -> list[Record]:
    """Samples a, b, … with the values of some columns."""
    values = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    values = values or [{} for _ in IDS]
    return [
        Record(
            id=chr(97 + number), image_path=Path(f"{chr(97 + number)}.jpg"), label=0, group="", attributes=row
        )
        for number, row in enumerate(values)
    ]


def subgroups(column: list[str], **options) -> list[str]:
    attributes = Attributes(subgroups=["x"], **options)
    samples = attributes.attach(records(x=column), "here")
    return attributes.rows(samples, [sample.id for sample in samples])["subgroup_x"].tolist()


def test_the_official_table_has_attributes(lesion_folder: Path) -> None:
    table = lesion_folder / "metadata.csv"
    lines = table.read_text().splitlines()
    lines = [lines[0] + ",age,Sex", *(f"{line},{20 + n}, female" for n, line in enumerate(lines[1:]))]
    table.write_text("\n".join(lines) + "\n")
    found, _ = read_ham10000(lesion_folder, classes=["MEL", "NV", "BKL"])
    one = next(record for record in found if record.id == "ISIC_0000001")
    assert one.attributes == {"lesion_id": "HAM_MEL_0", "dx": "mel", "age": "20", "sex": "female"}


def test_the_demo_has_age_sex_and_site(tmp_path: Path) -> None:
    found, _ = read_demo(tmp_path / "demo", classes=[], num_images=21, size=(32, 32))
    assert {"age", "sex", "localization"} <= found[0].attributes.keys()
    assert {record.attributes["sex"] for record in found} == {"female", "male"}


def test_names_are_subgroups_as_they_stand() -> None:
    assert subgroups(["female", " NA", "", "Unknown"]) == ["female", "unknown", "unknown", "unknown"]


def test_a_few_numbers_are_names() -> None:
    assert subgroups(["1", "2", "6", "2"]) == ["1", "2", "6", "2"]


def test_many_numbers_have_bands_of_ten_years() -> None:
    ages = [f"{age}.0" for age in range(0, 90, 5)]
    found = subgroups([*ages, "nan"])
    assert found[:5] == ["0 to 9", "0 to 9", "10 to 19", "10 to 19", "20 to 29"]
    assert found[-3:] == ["80 to 89", "80 to 89", "unknown"]
    assert len(set(found)) == 10


def test_edges_of_ones_own() -> None:
    found = subgroups(["29", "30", "49.0", "50", "70", ""], subgroup_bands={"x": [30, 50, 70]})
    assert found == ["<30", "30 to 49", "30 to 49", "50 to 69", ">=70", "unknown"]


def test_bands_follow_from_all_samples_whichever_are_tested() -> None:
    attributes = Attributes(subgroups=["x"])
    samples = records(x=[str(value) for value in range(20, 32)])
    assert attributes.rows(samples, ["l", "a"])["subgroup_x"].tolist() == ["30 to 31", "20 to 21"]


@pytest.mark.parametrize(
    ("low", "high", "width", "number"),
    [
        (0, 85, 10, 9),
        (20, 31, 2, 6),
        (0.0, 1.0, 0.2, 6),
        (-3, 5, 1, 9),
        (1e-5, 3e-5, 2e-6, None),
        (9, 109, 20, 6),
    ],
)
def test_bands_are_round_and_hold_everything(
    low: float, high: float, width: float, number: int | None
) -> None:
    edges = band_edges([low, (low + high) / 2, high])
    assert edges[0] <= low < edges[1]
    assert edges[-2] <= high < edges[-1]
    np.testing.assert_allclose(np.diff(edges), np.diff(edges)[0])
    assert len(edges) - 1 <= 10
    if number is not None:
        assert (edges[1] - edges[0], len(edges) - 1) == (pytest.approx(width), number)


def test_bands_of_measures_and_of_single_numbers() -> None:
    assert band_names([0.25, 0.5], [0, 0.5, 1]) == ["0 to <0.5", "0.5 to <1"]
    assert band_names([3, 4], [3, 4, 5]) == ["3", "4"]


def test_a_table_adds_to_what_a_reader_knows(lesion_folder: Path, tmp_path: Path, caplog) -> None:
    table = tmp_path / "more.csv"
    table.write_text("file_name,Site,dx\nISIC_0000001.jpg,back,own\nISIC_0000002,face,own\n")
    data = make_data(lesion_folder, attribute_table=str(table), subgroups=["site", "dx"])
    first, second, third = data.records[:3]
    assert first.attributes == {"lesion_id": "HAM_MEL_0", "dx": "own", "site": "back"}
    assert (second.attributes["site"], third.attributes["site"]) == ("face", "")
    assert "has nothing of 22 of 24 samples: ISIC_0000003" in caplog.text
    rows = data.subgroups(["ISIC_0000003", "ISIC_0000001"])
    assert rows["subgroup_site"].tolist() == ["unknown", "back"]


def test_attributes_change_no_fingerprint(lesion_folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "more.csv"
    table.write_text("id,site\nISIC_0000001,back\n")
    plain, more = make_data(lesion_folder), make_data(lesion_folder, attribute_table=str(table))
    assert plain.fingerprint() == more.fingerprint()
    assert plain.split.sha256 == more.split.sha256


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (PEOPLE, {"subgroups": ["sexe"]}, r"'sexe', .* Did you mean 'sex'\? Found: sex, age"),
        ({}, {"subgroups": ["sex"]}, r"names 'sex', but nothing is known of the samples of here: give a CSV"),
        ({"sex": ["f"] * 4}, {"metadata": {"age": "number"}}, r"model.metadata names 'age', which is no"),
        (X, {"subgroups": "x"}, r"data.subgroups='x' must be a list of different columns"),
        (X, {"subgroups": ["x", "x"]}, r"must be a list of different columns"),
        (X, {"subgroups": [1]}, r"must be a list of different columns"),
        (X, {"subgroups": ["x"], "smallest_subgroup": 1}, r"data.smallest_subgroup=1 .* at least 2"),
        (X, {"subgroups": ["x"], "subgroup_bands": {"y": [1]}}, r"edges for 'y', which .* does not name"),
        (X, {"subgroups": ["x"], "subgroup_bands": [3, 5]}, r"subgroup_bands=\[3, 5\] must name columns"),
        (X, {"subgroups": ["x"], "subgroup_bands": {"x": [3, 1]}}, r"subgroup_bands.x=\[3, 1\] must be"),
        (OLD, {"subgroups": ["x"], "subgroup_bands": {"x": [2]}}, r"'old' of b is no number"),
        (MANY, {"subgroups": ["x"]}, r"'x', which has 60 different values; at most 50"),
    ],
)
def test_mistakes_are_told_in_one_line(columns: dict, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Attributes(**options).attach(records(**columns), "here")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name,sex\na,f\n",
            "has no column id or image_id or image or file_name or isic_id. Found: name, sex",
        ),
        ("id,sex\na,f\na,m\n", "names 'a' more than once"),
        ("id,sex\nx,f\n", "has none of the 4 samples, e.g. 'a'; its ids are such as 'x'"),
    ],
)
def test_tables_that_fit_nothing_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        Attributes(attribute_table=str(tmp_path / "table.csv")).attach(records(), "here")
