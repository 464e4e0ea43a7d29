"""What an error leaves of an inference; a kill is in the tests of each family."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import polymask
from polymask.families.images import find_images
from polymask.inference.folder import Summary, predict_files
from polymask.inference.predictor import Predictor

NUM_IMAGES = 10


@pytest.fixture
def folder(pictures: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(NUM_IMAGES):
        shutil.copy(pictures / ("b.jpg" if number % 2 else "grey.png"), folder / f"{number}.jpg")
    return folder


def load(*, tta: bool = False, stop_at: str | None = None) -> Predictor:
    predictor = polymask.load("tiny", device="cpu", precision="fp32", tta=tta)
    if stop_at is not None:
        application = predictor.application
        whole = application.write

        def write(folder: Path, name: Path, *done: Any) -> dict[str, Any]:
            if str(name) == stop_at:
                raise OSError("no space left on device")
            return whole(folder, name, *done)

        application.write = write  # type: ignore[method-assign]
    return predictor


def run(predictor: Predictor, folder: Path, out: Path, **options: Any) -> Summary:
    arguments = {"batch_size": 2, "num_workers": 0} | options
    return predict_files(predictor, folder, find_images(folder), out, **arguments)


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file; what a kill left under a temporary, hidden name does not count."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def rows_on_disk(out: Path) -> int:
    return len((out / "predictions.partial.csv").read_text().splitlines()) - 1


def test_after_an_error_only_the_rest_is_predicted(trained: Path, folder: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert run(load(), folder, whole) == Summary(predicted=NUM_IMAGES)
    with pytest.raises(OSError, match="no space left"):
        run(load(stop_at="6"), folder, out)
    assert not (out / "predictions.csv").exists()
    done = rows_on_disk(out)
    assert done == 6
    assert run(load(), folder, out) == Summary(predicted=NUM_IMAGES - done, skipped=done)
    assert content(out) == content(whole)


def test_an_interrupted_replacement_leaves_no_row_of_the_old_model(
    trained: Path, folder: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    run(load(tta=True), folder, whole)
    run(load(), folder, out)
    with pytest.raises(OSError, match="no space left"):
        run(load(tta=True, stop_at="6"), folder, out, overwrite=True)
    assert run(load(tta=True), folder, out) == Summary(predicted=NUM_IMAGES - 6, skipped=6)
    assert content(out) == content(whole)
