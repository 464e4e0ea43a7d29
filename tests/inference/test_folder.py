from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from polymask import cli
from polymask.data.images import read_image
from polymask.errors import UserError
from polymask.families.images import find_images

Infer = Callable[..., Any]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_mask(path: Path) -> np.ndarray:
    mask = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(mask)) <= {0, 255}
    return mask // 255


def test_masks_and_table_equal_a_plain_computation(infer: Infer, plain: Any, pictures: Path) -> None:
    result = infer(pictures, "data.batch_size=3")
    files = find_images(pictures)
    assert (result.predicted, result.skipped) == (len(files), 0)
    rows = read_csv(result.folder / "predictions.csv")
    assert [row["file"] for row in rows] == [str(file) for file in files]
    for file, row in zip(files, rows, strict=True):
        image = read_image(pictures / file)
        mask = read_mask(result.folder / "masks" / file.with_suffix(".png"))
        plain.check_mask(mask, image)
        assert int(row["lesion_pixels"]) == mask.sum()
        assert float(row["lesion_share"]) == pytest.approx(mask.mean(), abs=1e-6)
        expected = plain.probabilities(image)[1]
        found = [float(row[f"probability_{name}"]) for name in ("MEL", "NV", "BKL")]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert row["predicted_class"] == ("MEL", "NV", "BKL")[expected.argmax()]
        for kind in ("overlays", "outlines"):
            drawn = read_image(result.folder / kind / file.with_suffix(".jpg"))
            assert drawn.shape == image.shape
    names = {path.name for path in result.folder.iterdir()}
    assert names == {"masks", "overlays", "outlines", "predictions.csv", "inference.json"}


def test_without_overlay_only_masks_are_written(infer: Infer, pictures: Path) -> None:
    folder = infer(pictures, "overlay=false").folder
    assert {path.name for path in folder.iterdir()} == {"masks", "predictions.csv", "inference.json"}


def spoil(folder: Path) -> dict[str, Path]:
    """Add files that are no images; return them by name."""
    whole = (folder / "b.jpg").read_bytes()
    content = {
        "broken.png": b"\x89PNG\r\n\x1a\n" + bytes(range(200)),
        "cut.jpg": whole[:20],
        "empty.jpg": b"",
        'sub/text, "quoted".jpg': b"this is no image\n",
    }
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in content}


def test_unreadable_files_are_listed_and_all_others_are_done(
    infer: Infer, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [str(file) for file in find_images(pictures)]
    bad = spoil(pictures)
    with pytest.raises(SystemExit) as stopped:
        infer(pictures, "data.batch_size=2", command=cli.main)
    assert stopped.value.code == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error: ")]
    assert f"{len(bad)} of {len(bad) + len(good)} files could not be read, e.g. broken.png" in line
    folder = tmp_path / "out" / "tiny"
    assert [row["file"] for row in read_csv(folder / "predictions.csv")] == good
    failed = read_csv(folder / "failed.csv")
    assert [row["file"] for row in failed] == list(bad)
    for row in failed:
        assert row.keys() == {"file", "reason"}
        assert row["reason"].startswith(f"cannot read image {bad[row['file']]}: ")

    for path in bad.values():
        shutil.copy(pictures / "b.jpg", path)
    result = infer(pictures)
    assert (result.predicted, result.skipped) == (len(bad), len(good))
    assert not (folder / "failed.csv").exists()
    assert [row["file"] for row in read_csv(folder / "predictions.csv")] == sorted(
        [*good, *bad], key=lambda name: Path(name)
    )


def test_files_that_differ_by_suffix_only_have_results_each(
    infer: Infer, plain: Any, pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    shutil.copy(pictures / "b.jpg", folder / "a.jpg")
    first = infer(folder)
    assert [path.name for path in (first.folder / "masks").iterdir()] == ["a.png"]
    shutil.copy(pictures / "a portrait.png", folder / "a.png")
    assert infer(folder).predicted == 1
    masks = first.folder / "masks"
    assert sorted(path.name for path in masks.iterdir()) == ["a.png", "a.png.png"]
    plain.check_mask(read_mask(masks / "a.png"), read_image(folder / "a.jpg"))
    plain.check_mask(read_mask(masks / "a.png.png"), read_image(folder / "a.png"))


def test_a_list_chooses_files_and_their_order(infer: Infer, pictures: Path, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere" / "x.jpg"
    outside.parent.mkdir()
    shutil.copy(pictures / "b.jpg", outside)
    file_list = tmp_path / "list.txt"
    file_list.write_text(f"# two\nsub/grid.bmp\n{outside}\n{pictures / 'b.jpg'}\n")
    result = infer(pictures, f"data.file_list={file_list}")
    assert result.predicted == 3
    rows = read_csv(result.folder / "predictions.csv")
    assert [row["file"] for row in rows] == ["sub/grid.bmp", str(outside), "b.jpg"]
    for name in ("sub/grid", str(outside.with_suffix("")).lstrip("/"), "b"):
        assert (result.folder / "masks" / f"{name}.png").is_file()


def test_results_of_other_options_or_images_are_not_mixed(
    infer: Infer, trained: Path, pictures: Path, tmp_path: Path
) -> None:
    folder = infer(pictures).folder
    before = (folder / "predictions.csv").read_bytes()
    other = tmp_path / "other"
    shutil.copytree(pictures, other)
    checkpoint = tmp_path / "another" / "tiny.pt"
    checkpoint.parent.mkdir()
    shutil.copy(trained / "models" / "checkpoints" / "tiny.last.pt", checkpoint)
    for change, word in {
        "tta=true": "tta",
        "overlay=false": "overlay",
        "trainer.precision=bf16": "trainer.precision",
        f"data.data_dir={other}": "data.data_dir",
        f"run_name={checkpoint}": "checkpoint",
    }.items():
        with pytest.raises(UserError, match=f"made with another {word}; use overwrite=true"):
            infer(pictures, change)
    assert (folder / "predictions.csv").read_bytes() == before

    result = infer(pictures, "tta=true", "overwrite=true")
    assert (result.predicted, result.skipped) == (8, 0)
    assert (folder / "predictions.csv").read_bytes() != before
    assert json.loads((folder / "inference.json").read_text())["tta"] is True
    assert infer(pictures, "tta=true").skipped == 8


def test_worker_processes_change_nothing(infer: Infer, pictures: Path) -> None:
    folder = infer(pictures, "data.batch_size=2").folder
    before = (folder / "predictions.csv").read_bytes()
    infer(pictures, "data.batch_size=2", "data.num_workers=2", "overwrite=true")
    assert (folder / "predictions.csv").read_bytes() == before


def test_results_of_an_earlier_version_go_on(infer: Infer, pictures: Path) -> None:
    """Settings were written whether they were asked for or not."""
    folder = infer(pictures).folder
    path = folder / "inference.json"
    now = json.loads(path.read_text())
    path.write_text(json.dumps({**now, "tta": False}))
    assert infer(pictures).skipped == 8
    path.write_text(json.dumps({**now, "tta": True}))
    with pytest.raises(UserError, match="made with another tta"):
        infer(pictures)
    path.write_text(json.dumps({**now, "task.score_threshold": 0}))
    with pytest.raises(UserError, match=r"made with another task\.score_threshold"):
        infer(pictures)
    assert set(now) == {"checkpoint", "data.data_dir", "trainer.precision", "overlay"}
