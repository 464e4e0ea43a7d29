from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from volume_files import write_ctc, write_stack

from polymask.data.sources import read_ctc
from polymask.data.volume_truth import VolumeTruth
from polymask.errors import UserError

SHAPE = (6, 48, 48)


def values(path: Path) -> np.ndarray:
    return np.array(cv2.imreadmulti(str(path), flags=cv2.IMREAD_UNCHANGED)[1])


def test_single_slices_are_truth_where_they_are(tmp_path):
    record = read_ctc(write_ctc(tmp_path / "ctc", dense=False))[0][0]
    truth, dense = record.truth, values(tmp_path / "ctc/01_GT/TRA/man_track000.tif")
    assert isinstance(truth, VolumeTruth)
    assert truth.annotated(6).tolist() == [False, True] * 3
    pages = list(truth.pages(SHAPE))
    assert {page.dtype for page in pages} == {np.dtype("uint16")}
    np.testing.assert_array_equal(pages, np.where(truth.annotated(6)[:, None, None], dense, 0))
    np.testing.assert_array_equal(truth.read_mask(), dense[1::2].any(axis=0))
    assert truth.has_objects()
    key = truth.content_key()
    os.utime(truth.slices[1][1], ns=(1, 1))
    assert truth.content_key() != key


def test_the_mask_of_a_volume_is_what_is_seen_along_z(tmp_path):
    truth = read_ctc(write_ctc(tmp_path / "ctc"))[0][0].truth
    np.testing.assert_array_equal(truth.read_mask(), values(truth.path).any(axis=0))
    np.testing.assert_array_equal(truth.read_class_mask(0), values(truth.path).any(axis=0))
    assert truth.annotated(6).all()
    truth.check((48, 48))
    with pytest.raises(UserError, match="6 x 48 x 48 voxels, but its volume 6 x 40 x 48: both must have one"):
        truth.check((40, 48))


def test_truth_of_another_shape_is_refused(tmp_path):
    path = tmp_path / "truth.tif"
    write_stack(path, np.zeros((20, 24, 30), np.uint16))
    truth = VolumeTruth(path=path)
    with pytest.raises(
        UserError, match="20 x 24 x 30 voxels, but its volume 19 x 24 x 30: both must have one"
    ):
        truth.check_shape((19, 24, 30))
    with pytest.raises(UserError, match="the axes seem to be in another order"):
        next(truth.pages((24, 20, 30)))
    cv2.imwrite(str(path), np.zeros((24, 30), np.uint16))
    slices = VolumeTruth(path=tmp_path, slices=((3, path),))
    slices.check_shape((4, 24, 30))
    with pytest.raises(UserError, match="of a slice that the volume does not have: it has 3, 0 to 2"):
        slices.check_shape((3, 24, 30))
    with pytest.raises(UserError, match="24 x 30 voxels, but its volume 24 x 31"):
        slices.check_shape((4, 24, 31))


def test_truth_without_any_object_says_so(tmp_path):
    write_stack(tmp_path / "t.tif", np.zeros((20, 24, 30), np.uint16))
    assert not VolumeTruth(path=tmp_path / "t.tif").has_objects()
