"""Which files of a folder are images to predict, and how a large one is opened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from polymask.errors import UserError
from polymask.families.images import find_images


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


def test_a_folder_without_images_is_told(tmp_path: Path) -> None:
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
        "from polymask.families.images import find_images\n"
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
