from __future__ import annotations

import csv
from pathlib import Path

from polymask.inference.table import PredictionTable

COLUMNS = ("file", "predicted_class", "probability_MEL")
ROWS = [
    {"file": "a.jpg", "predicted_class": "MEL", "probability_MEL": "0.912345"},
    {"file": 'odd, "name"\nof two lines.jpg', "predicted_class": "NV", "probability_MEL": "0.100000"},
    {"file": "näevus.jpg", "predicted_class": "", "probability_MEL": "0.123456"},
]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_final_table_appears_whole_and_in_order(tmp_path: Path) -> None:
    final, partial = tmp_path / "predictions.csv", tmp_path / "predictions.partial.csv"
    with PredictionTable(tmp_path, COLUMNS) as table:
        for number, row in enumerate(reversed(ROWS), start=1):
            table.add(row)
            assert read(partial) == ROWS[::-1][:number]
        assert not final.exists()
    table.finish([row["file"] for row in ROWS])
    assert read(final) == ROWS
    assert not partial.exists()


def test_rows_of_earlier_runs_stay_behind_those_of_this_one(tmp_path: Path) -> None:
    with PredictionTable(tmp_path, COLUMNS) as table:
        table.add(ROWS[0])
    table.finish(["a.jpg"])
    with PredictionTable(tmp_path, COLUMNS) as table:
        assert list(table.rows) == ["a.jpg"]
        table.add(ROWS[2])
    table.finish(["näevus.jpg", "failed.jpg"])
    assert read(tmp_path / "predictions.csv") == [ROWS[2], ROWS[0]]


def test_a_row_without_classes_has_empty_cells(tmp_path: Path) -> None:
    with PredictionTable(tmp_path, COLUMNS) as table:
        table.add({"file": "a.jpg"})
    table.finish(["a.jpg"])
    expected = {"file": "a.jpg", "predicted_class": "", "probability_MEL": ""}
    assert read(tmp_path / "predictions.csv") == [expected]
    assert PredictionTable(tmp_path, COLUMNS).rows == {"a.jpg": expected}


def test_a_file_cut_anywhere_gives_back_only_whole_rows(tmp_path: Path) -> None:
    with PredictionTable(tmp_path, COLUMNS) as table:
        for row in ROWS:
            table.add(row)
    partial = tmp_path / "predictions.partial.csv"
    content = partial.read_bytes()
    whole = {row["file"]: row for row in ROWS}
    for cut in range(len(content) + 1):
        partial.write_bytes(content[:cut])
        found = PredictionTable(tmp_path, COLUMNS).rows
        assert found.items() <= whole.items()
        assert list(found) == list(whole)[: len(found)]
    assert len(found) == len(ROWS)
