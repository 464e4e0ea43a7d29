from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from polymask.errors import UserError
from polymask.inference.inputs import find_images, output_names


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folders_are_searched_recursively_for_images_only(tmp_path: Path) -> None:
    wanted = ["B.PNG", "a/x.tiff", "a/y/z.jpeg", "a.jpg", "b.bmp"]
    touch(*(tmp_path / name for name in wanted))
    touch(*(tmp_path / name for name in ("notes.txt", ".hidden.jpg", ".cache/x.jpg", "jpg", "a.jpg.txt")))
    (tmp_path / "folder.jpg").mkdir()
    assert [str(path) for path in find_images(tmp_path)] == wanted


def test_results_of_earlier_runs_inside_the_folder_are_no_input(tmp_path: Path) -> None:
    out = tmp_path / "out" / "run"
    touch(tmp_path / "a.jpg", out / "inference.json", out / "masks" / "a.png")
    assert find_images(tmp_path) == [Path("a.jpg")]


def test_a_missing_or_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        find_images(tmp_path / "absent")
    with pytest.raises(UserError, match=r"holds no image; looked for \.jpg"):
        find_images(tmp_path)


def test_names_that_are_no_text_are_told(tmp_path: Path) -> None:
    try:
        touch(Path(os.fsdecode(os.fsencode(tmp_path) + b"/k\xf6ln.jpg")))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    with pytest.raises(UserError, match=r"1 file names are not UTF-8, e\.g\. 'k\\udcf6ln\.jpg'"):
        find_images(tmp_path)


def test_names_that_only_the_locale_keeps_python_from_reading(tmp_path: Path) -> None:
    touch(tmp_path / "k\u00f6ln.jpg")
    code = (
        "import sys; from pathlib import Path; from polymask.errors import UserError\n"
        "from polymask.inference.inputs import find_images\n"
        "try:\n    print(len(find_images(Path(sys.argv[1]))))\n"
        "except UserError as error:\n    print(error)\n"
    )
    bare = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    printed = {}
    for mode in ("0", "1"):
        command = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(
            command, env=bare | {"PYTHONUTF8": mode}, capture_output=True, text=True, check=True
        )
        printed[mode] = done.stdout.strip()
    assert "set PYTHONUTF8=1" in printed["0"]
    assert "convmv" not in printed["0"]
    assert printed["1"] == "1"  # the remedy works


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
    found = find_images(folder, file_list)
    assert found == [Path("sub/b.png"), Path("a.jpg"), outside, Path("absent.jpg")]


def test_a_missing_or_empty_list_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"list\.txt does not exist"):
        find_images(tmp_path, tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("# nothing\n\n")
    with pytest.raises(UserError, match="names no file"):
        find_images(tmp_path, tmp_path / "list.txt")


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
