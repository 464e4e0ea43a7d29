from __future__ import annotations

import csv
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from polymask.data.demo import reader as synthetic
from polymask.data.demo.reader import read_records, write_demo_dataset
from polymask.errors import UserError

CLASSES = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
SIZE = (48, 64)
SMALL = {"num_images": 21, "size": (32, 40), "seed": 3}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "demo"
    write_demo_dataset(folder, num_images=100, size=SIZE, seed=0)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "small"
    write_demo_dataset(folder, **SMALL)
    return folder


def metadata(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_layout_is_that_of_ham10000_and_says_synthetic(demo):
    rows = metadata(demo)
    assert list(rows[0]) == ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    assert [row["image_id"] for row in rows] == [f"SYN_{number:07d}" for number in range(1, 101)]
    assert {row["dx_type"] for row in rows} == {"synthetic"}
    assert "SYNTHETIC" in (demo / "README.txt").read_text(encoding="utf-8")
    expected = {"metadata.csv", "README.txt"}
    for row in rows:
        expected |= {f"images/{row['image_id']}.jpg", f"masks/{row['image_id']}_segmentation.png"}
    assert set(contents(demo)) == expected


def test_every_class_is_there_and_nevi_lead_mildly(demo):
    counts = Counter(row["dx"] for row in metadata(demo))
    assert set(counts) == {name.lower() for name in CLASSES}
    assert counts.most_common(1)[0][0] == "nv"
    assert min(counts.values()) >= 8
    assert counts["nv"] <= 35


def test_images_of_a_lesion_share_its_facts_but_not_the_view(demo):
    by_lesion = defaultdict(list)
    for row in metadata(demo):
        by_lesion[row["lesion_id"]].append(row)
    assert {len(rows) for rows in by_lesion.values()} == {1, 2, 3}
    for rows in by_lesion.values():
        assert len({(row["dx"], row["age"], row["sex"], row["localization"]) for row in rows}) == 1
        views = {(demo / "masks" / f"{row['image_id']}_segmentation.png").read_bytes() for row in rows}
        assert len(views) == len(rows)


def test_masks_are_binary_of_image_size_and_hold_one_partial_lesion(demo):
    for row in metadata(demo):
        image = cv2.imread(str(demo / "images" / f"{row['image_id']}.jpg"))
        mask = cv2.imread(str(demo / "masks" / f"{row['image_id']}_segmentation.png"), cv2.IMREAD_UNCHANGED)
        assert image.shape == (*SIZE, 3)
        assert image.dtype == mask.dtype == np.uint8
        assert mask.shape == SIZE
        assert set(np.unique(mask)) == {0, 255}
        assert 0.02 < (mask == 255).mean() < 0.6


def test_the_mask_border_is_where_the_colours_change(demo):
    # One step inwards over the border changes the colour more than one step outwards into the skin does.
    kernel = np.ones((9, 9), np.uint8)
    clear = []
    for row in metadata(demo):
        image = cv2.imread(str(demo / "images" / f"{row['image_id']}.jpg")).astype(float)
        mask = cv2.imread(str(demo / "masks" / f"{row['image_id']}_segmentation.png"), cv2.IMREAD_UNCHANGED)
        inner, outer = cv2.erode(mask, kernel) > 0, cv2.dilate(mask, kernel) == 0
        skin, edge = image[outer].reshape(-1, 3), image[(mask > 0) & ~inner]
        rim = image[(mask == 0) & ~outer]
        lesion_step = np.linalg.norm(np.median(edge, 0) - np.median(rim, 0))
        skin_step = np.linalg.norm(np.median(rim, 0) - np.median(skin, 0))
        clear.append(lesion_step > skin_step)
    assert np.mean(clear) > 0.85


def test_same_arguments_give_the_same_bytes_and_another_seed_gives_others(tmp_path, small):
    write_demo_dataset(tmp_path / "again", **SMALL)
    write_demo_dataset(tmp_path / "other", **{**SMALL, "seed": 4})
    first, other = contents(small), contents(tmp_path / "other")
    assert first == contents(tmp_path / "again")
    assert set(first) == set(other)
    assert all(first[name] != other[name] for name in first if name.startswith(("images", "masks")))


@pytest.mark.parametrize("num_images", [21, 26])
def test_smallest_sets_have_three_lesions_of_every_class(tmp_path, num_images):
    write_demo_dataset(tmp_path / "demo", num_images=num_images, size=(32, 32))
    rows = metadata(tmp_path / "demo")
    lesions = Counter(dx for dx, _ in {(row["dx"], row["lesion_id"]) for row in rows})
    assert len(rows) == num_images
    assert len(lesions) == 7
    assert min(lesions.values()) >= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"num_images": 20}, "num_images=20.*21"), ({"size": (150, 31)}, "31.*32"), ({"seed": -1}, "seed=-1")],
)
def test_arguments_out_of_range_are_user_errors_and_write_nothing(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        write_demo_dataset(tmp_path / "demo", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_writers_at_the_same_time_leave_one_whole_folder(tmp_path, small):
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(write_demo_dataset, tmp_path / "demo", **SMALL) for _ in range(2)]
    for future in futures:
        future.result()
    assert contents(tmp_path / "demo") == contents(small)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_second_writer_leaves_the_first_ones_files_alone(small):
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in small.parent.rglob("*")}
    write_demo_dataset(small, **SMALL)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in small.parent.rglob("*")} == before


def test_a_killed_writer_leaves_no_folder_under_the_final_name(tmp_path):
    source = Path(synthetic.__file__).parents[3]
    code = (
        "from pathlib import Path; from polymask.data.demo.reader import *\nwrite_demo_dataset(Path('demo'))"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(source)}
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".demo.*/demo/images/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    assert not (tmp_path / "demo").exists()
    write_demo_dataset(tmp_path / "demo", **SMALL)
    assert len(metadata(tmp_path / "demo")) == 21


def test_read_records_writes_once_and_labels_by_the_given_order(tmp_path):
    folder = tmp_path / "new" / "demo"
    records = read_records(folder, CLASSES, **SMALL)
    rows = {row["image_id"]: row for row in metadata(folder)}
    assert {record.id for record in records} == set(rows)
    for record in records:
        assert CLASSES[record.label].lower() == rows[record.id]["dx"]
        assert record.group == rows[record.id]["lesion_id"]
        assert record.image_path.is_file()
        assert record.mask_path.is_file()
    assert read_records(str(folder), CLASSES, **SMALL) == records


def test_a_folder_without_metadata_is_a_user_error_that_names_it(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match=r"mine exists but has no metadata\.csv"):
        read_records(tmp_path / "mine", CLASSES, **SMALL)
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("change", [{"num_images": 22}, {"size": (40, 32)}, {"seed": 30}])
def test_a_folder_made_with_other_settings_is_not_used_silently(small, change):
    with pytest.raises(UserError, match="was not made with"):
        read_records(small, CLASSES, **{**SMALL, **change})


def test_neither_ids_nor_rows_are_sorted_by_class(demo):
    labels = [row["dx"] for row in sorted(metadata(demo), key=lambda row: row["lesion_id"])]
    assert len(list(itertools.groupby(labels))) > 30
