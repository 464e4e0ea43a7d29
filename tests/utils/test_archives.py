from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from polymask.utils.archives import read_tensors


def written(path: Path) -> Path:
    torch.manual_seed(0)
    content = {"model": {"w": torch.randn(64, 9), "n": torch.tensor(3)}, "name": "run", "rate": 0.125}
    with path.open("wb") as file:  # as checkpoints are written
        torch.save(content, file)
    return path


def test_torch_save_keeps_a_checksum_of_every_record(tmp_path: Path) -> None:
    import zlib

    with zipfile.ZipFile(written(tmp_path / "a.pt")) as archive:
        names = {record.filename.partition("/")[2] for record in archive.infolist()}
        assert {"data.pkl", "data/0", "data/1"} <= names
        for record in archive.infolist():
            assert record.CRC == zlib.crc32(archive.read(record)) != 0


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pt")
    whole, expected = path.read_bytes(), read_tensors(path)
    with zipfile.ZipFile(path) as archive:
        places = list(range(archive.start_dir, len(whole)))
        for record in archive.infolist():
            with archive.open(record) as file:
                start = file._orig_compress_start  # where the record's bytes begin
            places += [
                start,
                start + record.file_size // 2,
                start + record.file_size - 1,
                record.header_offset,
            ]
    places += np.random.default_rng(0).integers(0, len(whole), 40).tolist()
    refused = 0
    for place, bit in [*((place, place % 8) for place in places), *((place, 4) for place in places)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            found = read_tensors(path)
        except Exception:
            refused += 1
            continue
        assert (found["name"], found["rate"]) == (expected["name"], expected["rate"])
        assert all(torch.equal(found["model"][key], expected["model"][key]) for key in ("w", "n"))
    assert refused > len(places) / 3


def test_every_flipped_byte_of_the_weights_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pt")
    whole = path.read_bytes()
    start = whole.index(read_tensors(path)["model"]["w"].numpy().tobytes())
    for offset in range(0, 64 * 9 * 4, 97):
        damaged = bytearray(whole)
        damaged[start + offset] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(zipfile.BadZipFile, match=r"the checksum of .*data/\d is wrong"):
            read_tensors(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_an_archive_that_unpacks_to_more_than_itself_is_refused(tmp_path: Path, compression: int) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", compression) as archive:
        archive.writestr("bomb/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(zipfile.BadZipFile, match=r"not an archive of torch\.save"):
        read_tensors(tmp_path / "bomb.pt")


def test_a_bare_pickle_has_no_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps({"format": 1}))
    with pytest.raises(zipfile.BadZipFile):
        read_tensors(path)
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(zipfile.BadZipFile):
        read_tensors(path)
    assert torch.equal(read_tensors(path, checksums=False)["w"], torch.ones(2))
