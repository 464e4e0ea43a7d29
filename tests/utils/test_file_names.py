from __future__ import annotations

import pytest

from polymask.errors import UserError
from polymask.utils.names import check_inside, is_file_name, stays_inside

LEADING_OUT = [
    "", ".", "..", "../x", "a/../../x", "/etc/x", "//x", "a//b", "a/", "a\\..\\x", "C:\\x", "a\0b", "a\nb",
    "x" * 201, "ä" * 101, 7, None, ["a"],
]  # fmt: skip


@pytest.mark.parametrize("name", LEADING_OUT)
def test_names_that_lead_elsewhere_are_no_names(name: object) -> None:
    assert not stays_inside(name)
    assert not is_file_name(name)


@pytest.mark.parametrize(
    "name", ["a", "ISIC_0024306", "run.v1", "a b (1)", "Zelle ä", "a+b=c,d", "x" * 200, "a..b"]
)
def test_plain_names_are_names(name: str) -> None:
    assert stays_inside(name)
    assert is_file_name(name)


def test_only_files_may_lie_in_folders_and_only_folders_be_hidden() -> None:
    assert stays_inside("site_a/x7")
    assert not is_file_name("site_a/x7")
    assert not is_file_name(".bashrc")


def test_ids_are_refused_in_one_line() -> None:
    check_inside(["a", "b/c"], "the split")
    with pytest.raises(
        UserError, match=r"the split names '\.\./x', which is no name of a file below a folder"
    ):
        check_inside(["a", "../x"], "the split")
