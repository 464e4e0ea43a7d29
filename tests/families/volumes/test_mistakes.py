"""Mistakes with volumes: one line that names the remedy, exit status 2, nothing left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from commands import fails
from configs import composed
from volume_files import write_ctc, write_stack
from volume_runs import TINY

from polymask.errors import UserError
from polymask.factories import build_family
from polymask.fitting import check_fit

OPTIONS = [
    *TINY,
    "data.num_workers=0",
    "data.cache_dir=null",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "tracker=none",
    "epochs=1",
    "run_name=mistaken",
]


@pytest.fixture
def folder(project: Path) -> Path:
    return write_ctc(project / "data" / "ctc", frames=4, shape=(4, 40, 40))


def cut(name: str) -> Callable[[Path], None]:
    """Return what leaves the first half of a file."""

    def apply(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return apply


def rewrite(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    """Return what replaces a stack by what `change` makes of it: pages."""

    def apply(folder: Path) -> None:
        volume = np.stack(cv2.imreadmulti(str(folder / name), flags=cv2.IMREAD_UNCHANGED)[1])
        pages = list(change(volume))
        assert cv2.imwritemulti(str(folder / name), pages)

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda folder: (folder / "01" / "t002.tif").unlink(),
            "lacks 1 frames between t000.tif and t003.tif",
        ),
        (
            lambda folder: (folder / "01" / "t002.tif").rename(folder / "01" / "t0002.tif"),
            "must have 3 digits, or all 4",
        ),
        (
            rewrite("01_GT/SEG/man_seg001.tif", lambda volume: volume[:3]),
            "has 3 x 40 x 40 voxels, but its volume 4 x 40 x 40",
        ),
        (
            rewrite("01_GT/SEG/man_seg001.tif", lambda volume: volume.astype(np.int32) + 70_000),
            "has 32 bits per value, and 8 or 16 are read",
        ),
        (
            rewrite("02/t001.tif", lambda volume: np.repeat(volume[..., None], 3, axis=-1)),
            "has 3 channels per pixel; save it in greys",
        ),
        (
            lambda folder: write_stack(folder / "01" / "t001.tif", np.zeros((40, 40, 4), np.uint16)),
            "as if its first axis were not that of the slices",
        ),
        (rewrite("01/t000.tif", lambda volume: volume[:1]), "is a 2-D image of 40 x 40 pixels"),
        (cut("01/t001.tif"), "01/t001.tif: the file is missing, empty or damaged (the file ends before its"),
    ],
    ids=["missing", "digits", "shape", "bits", "colours", "axes", "flat", "cut"],
)
def test_files(
    edit: Callable[[Path], Any], message: str, folder: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder)
    assert message in fails(capsys, "train", *OPTIONS, f"data.data_dir={folder}")
    assert not list(project.glob("models/checkpoints/*.pt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["data.voxel_size=[1,2]"], "data.voxel_size=[1, 2] is not valid; give three lengths"),
        (["data.slices=4"], "data.slices=4 is not valid; it must be odd"),
        (["model.fusion.name=stak"], "Did you mean 'stack'?"),
        (["task.linking.name=hungarian"], "task.linking.name='hungarian' is unknown."),
        (["+task.linking.min_uoi=0.5"], "Did you mean 'min_iou'?"),
        (["task.linking.min_iou=2"], "task.linking.min_iou=2 is not valid"),
        (["task.linking.name=embedding", "model.embedding=false"], "set model.embedding=true, or"),
        (["model.embedding=true", "data.reference=false"], "go together: give both the same value"),
        (["data.reference=true"], "go together: give both the same value"),
        (["model.slices=5"], "model.slices=5 does not fit stacks of 3 slices; leave it out"),
        (["task.score_threshold=2"], "task.score_threshold=2 is not valid"),
        (["loss.loss_embedding=-1"], "loss.loss_embedding=-1 is not valid"),
        (["task.monitor=val/sec"], "Did you mean 'val/seg'?"),
        (["transforms=default"], "transforms.affine.border_mode=0"),
    ],
)
def test_settings(
    options: list[str], message: str, folder: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(capsys, "train", *OPTIONS, f"data.data_dir={folder}", *options)
    assert not list(project.glob("models/checkpoints/*.pt"))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["data=ctc", "task=volumes", "loss=volumes"], "use model=slice_mask_rcnn."),
        (["data=ham10000", "task=volumes"], "use data=ctc or ctc_demo or stacks and model=slice_mask_rcnn"),
    ],
)
def test_what_does_not_go_together(groups: list[str], message: str) -> None:
    cfg = composed(*groups)
    with pytest.raises(UserError, match=re.escape(message)):
        check_fit(cfg, build_family(cfg, ["cell"]))
