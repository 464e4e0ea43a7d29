from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polymask.errors import UserError
from polymask.reporting.rows import common_samples, read_samples, write_samples


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {
        "ids": np.array(["007", "a/b", "ä"]),
        "label": np.array([-1, 0, 2]),
        "confusion": rng.integers(0, 2**40, (3, 2, 3)),
        "loss": np.array([0.5, np.nan, 1], np.float32),
        "flag": np.array([True, False, True]),
    }
    write_samples(tmp_path / "run", rows, ["g", "g", ""])
    found, groups = read_samples(tmp_path / "run")
    assert groups == ["g", "g", ""]
    assert list(found) == list(rows)
    for name, values in rows.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["samples.npz"]


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"my_run has no samples\.npz; run polymask test run_name=my_run first"
    ):
        read_samples(tmp_path / "my_run")


def test_a_broken_file_is_the_users_mistake(tmp_path: Path) -> None:
    write_samples(tmp_path, {"ids": np.array(["a"])}, ["a"])
    path = tmp_path / "samples.npz"
    for content in (b"", b"text", path.read_bytes()[:-40]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"samples\.npz cannot be read .*polymask test"):
            read_samples(tmp_path)


def test_a_file_without_samples_is_the_users_mistake(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", other=np.zeros(3))
    with pytest.raises(UserError, match=r"samples\.npz cannot be read .*polymask test"):
        read_samples(tmp_path)


def test_a_file_with_objects_runs_no_code(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", ids=np.array([{"any": "object"}], dtype=object))
    with pytest.raises(UserError, match="cannot be read"):
        read_samples(tmp_path)


def test_common_samples_are_aligned_by_id() -> None:
    rows_a = {"ids": np.array(["d", "a", "c", "x"]), "value": np.array([40, 10, 30, 99])}
    rows_b = {"ids": np.array(["a", "b", "c", "d"]), "value": np.array([1, 2, 3, 4]), "more": np.eye(4)}
    found_a, found_b, of_a = common_samples(rows_a, rows_b)
    assert found_a["ids"].tolist() == found_b["ids"].tolist() == ["a", "c", "d"]
    assert found_a["value"].tolist() == [10, 30, 40]
    assert found_b["value"].tolist() == [1, 3, 4]
    np.testing.assert_array_equal(found_b["more"], np.eye(4)[[0, 2, 3]])
    assert of_a.tolist() == [1, 2, 0]


def test_no_common_samples() -> None:
    found_a, found_b, of_a = common_samples({"ids": np.array(["a"])}, {"ids": np.array(["b"])})
    assert len(found_a["ids"]) == len(found_b["ids"]) == len(of_a) == 0
