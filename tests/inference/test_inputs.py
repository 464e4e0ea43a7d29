from __future__ import annotations

from pathlib import Path

import pytest

from polymask.errors import UserError
from polymask.families.multitask.application import Application
from polymask.inference.inputs import find_cases, output_names

STORED = {"image_size": 32, "batch_size": 1}
IMAGES = Application(STORED, {}, class_names=["a", "b"], multiclass=False)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_without_a_list_the_application_finds_its_cases(tmp_path: Path) -> None:
    touch(tmp_path / "sub" / "b.png", tmp_path / "a.jpg", tmp_path / "notes.txt")
    assert find_cases(IMAGES, tmp_path) == [Path("a.jpg"), Path("sub/b.png")]


@pytest.mark.parametrize("file_list", [None, "list.txt"])
def test_a_missing_folder_is_told(tmp_path: Path, file_list: str | None) -> None:
    (tmp_path / "list.txt").write_text("a.jpg\n")
    with pytest.raises(UserError, match="is not a folder"):
        find_cases(IMAGES, tmp_path / "absent", file_list and tmp_path / file_list)


def test_a_list_keeps_its_order_and_takes_each_file_once(tmp_path: Path) -> None:
    folder, outside = tmp_path / "images", tmp_path / "more" / "c.jpg"
    touch(folder / "a.jpg", folder / "sub" / "b.png", outside)
    lines = [
        "# chosen by hand",
        "sub/b.png",
        "",
        f"  {folder / 'a.jpg'}  ",
        "sub/../a.jpg",
        "../more/c.jpg",
        str(outside),
        "sub/b.png",
        "absent.jpg",
    ]
    file_list = tmp_path / "list.txt"
    file_list.write_text("\n".join(lines), encoding="utf-8-sig")
    found = find_cases(IMAGES, folder, file_list)
    assert found == [Path("sub/b.png"), Path("a.jpg"), outside, Path("absent.jpg")]


def test_a_missing_or_empty_list_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"list\.txt does not exist"):
        find_cases(IMAGES, tmp_path, tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("# nothing\n\n")
    with pytest.raises(UserError, match="names no file"):
        find_cases(IMAGES, tmp_path, tmp_path / "list.txt")


def test_results_are_named_by_the_path_without_suffix() -> None:
    files = [Path("a.jpg"), Path("sub/a.png"), Path("/data/x/b.v2.jpg")]
    assert [str(name) for name in output_names(files).values()] == ["a", "sub/a", "data/x/b.v2"]


def test_no_two_files_share_a_name() -> None:
    files = [Path(name) for name in ("a.jpg", "a.png", "a.jpg.bmp", "a.jpg.png", "b.jpg", "sub/a.jpg", "b")]
    names = output_names(files)
    assert {str(file): str(name) for file, name in names.items()} == {
        "a.jpg": "a.jpg",
        "a.png": "a.png",
        "a.jpg.bmp": "a.jpg.bmp",
        "a.jpg.png": "a.jpg.png",
        "b.jpg": "b.jpg",
        "sub/a.jpg": "sub/a",
        "b": "b",
    }
    assert output_names([Path("a.jpg"), Path("a.jpg.bmp")]) == {
        Path("a.jpg"): Path("a"),
        Path("a.jpg.bmp"): Path("a.jpg.bmp"),
    }


def test_a_name_that_cannot_be_kept_apart_is_told() -> None:
    with pytest.raises(UserError, match=r"two files would have the results x/a\.jpg"):
        output_names([Path("/x/a.jpg"), Path("x/a.jpg")])
