from __future__ import annotations

import pytest
from volume_files import write_volume_folders

from polymask.data.sources import read_volume_folders
from polymask.errors import UserError


def test_a_pair_of_folders(tmp_path, caplog):
    folder = write_volume_folders(tmp_path / "stacks", volumes=3)
    (folder / "images/v2.tif").unlink()
    records, names = read_volume_folders(folder, group_pattern="v", classes=["nucleus"])
    assert [(record.id, record.group) for record in records] == [("v0", "v"), ("v1", "v")]
    assert (records[1].truth.path, names) == (folder / "labels/v1.tif", ["nucleus"])
    assert "1 label volumes" in caplog.text
    (folder / "labels/v1.tif").unlink()
    with pytest.raises(UserError, match=r"1 of 2 volumes of .* have no labels: v1; it holds v0.tif"):
        read_volume_folders(folder)
    with pytest.raises(UserError, match=r"images is not a folder\. Volumes are read from images/"):
        read_volume_folders(tmp_path)
