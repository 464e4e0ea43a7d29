"""The contract of readers, the same for every layout; and what each finds, whatever says it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from instance_files import CLASSES, write_coco, write_label_maps
from isic_files import write_isic2016
from lesion_files import write_lesions

from polymask.data import demo, sources
from polymask.data.inspection import FileMemory
from polymask.data.mask_values import MaskRule
from polymask.data.records import Reader, Record
from polymask.data.truth import MaskFile
from polymask.errors import UserError
from polymask.families import instances

MASK, OBJECTS = frozenset({"mask"}), frozenset({"mask", "objects"})


class Layout(NamedTuple):
    """A reader, what writes its files, classes that these have, and what their truth gives."""

    read: Reader
    write: Callable[[Path], Any]
    classes: list[str]
    gives: frozenset[str]
    options: dict[str, Any]


LAYOUTS = {
    "ham10000": Layout(sources.read_ham10000, write_lesions, ["NV", "MEL"], MASK, {}),
    "isic2016": Layout(sources.read_isic2016, write_isic2016, [], MASK, {"memory_dir": None}),
    "demo": Layout(
        demo.read_demo, lambda folder: None, ["NV", "MEL"], MASK, {"num_images": 21, "size": (32, 40)}
    ),
    "coco": Layout(sources.read_coco, write_coco, [CLASSES[2], CLASSES[0]], OBJECTS, {}),
    "image_masks": Layout(
        sources.read_image_masks,
        lambda folder: (write_lesions(folder) / "metadata.csv").unlink(),
        [],
        MASK,
        {},
    ),
    "mask_objects": Layout(
        sources.read_mask_objects,
        write_lesions,
        ["NV", "MEL"],
        OBJECTS,
        {"masks": sources.read_ham10000, "by_diagnosis": True},
    ),
    "label_maps": Layout(sources.read_label_maps, write_label_maps, ["cell"], OBJECTS, {}),
}


@pytest.fixture(scope="module", params=LAYOUTS)
def found(request, tmp_path_factory) -> tuple[Layout, Path, list[Record], list[str]]:
    layout = LAYOUTS[request.param]
    folder = tmp_path_factory.mktemp("data") / request.param
    layout.write(folder)
    return layout, folder, *layout.read(folder, classes=layout.classes, allow_absent=False, **layout.options)


def test_each_image_has_one_record_and_the_classes_are_those_asked_for(found):
    layout, folder, records, names = found
    assert names == layout.classes
    files = {path for path in folder.rglob("*") if path.suffix in (".jpg", ".png")}
    paths = {record.image_path for record in records}
    ids = [record.id for record in records]
    assert len(paths) == len(set(ids)) == len(records) >= 6
    assert paths <= files
    assert ids == sorted(ids)
    assert {label for record in records for label in record.labels} <= {-1, *range(len(names))}


def test_every_image_has_the_truth_that_its_layout_gives(found):
    layout, _, records, _ = found
    assert {record.truth.gives for record in records} == {layout.gives}
    assert {record.has_objects for record in records} == {layout.gives == OBJECTS}
    from_files = layout.gives == MASK or "masks" in layout.options
    assert {record.truth.mask_file is not None for record in records} == {from_files}


def test_the_mask_is_the_union_of_the_objects_where_there_are_any(found):
    layout, _, records, _ = found
    for record in records:
        size = record.read_image().shape[:2]
        mask = record.read_mask()
        assert (mask.shape, mask.dtype) == (size, np.uint8)
        if layout.gives == MASK:
            with pytest.raises(UserError, match="is one mask, in which objects are not told apart"):
                record.read_objects()
            continue
        target = record.read_objects(size).to_target()
        union = np.zeros(size, bool)
        for one, crowd in zip(target["masks"], target["crowd"], strict=True):
            union |= (one > 0) & ~crowd
        np.testing.assert_array_equal(mask == 1, union)


def test_absent_classes_are_taken_where_they_are_allowed(found):
    layout, folder, records, _ = found
    if len(layout.classes) < 2:
        pytest.skip("the layout has one class at most")
    classes = [*layout.classes, "Nowhere"]
    with pytest.raises(UserError, match="'Nowhere'"):
        layout.read(folder, classes=classes, allow_absent=False, **layout.options)
    again, names = layout.read(folder, classes=classes, allow_absent=True, **layout.options)
    assert names == classes
    assert [record.id for record in again] == [record.id for record in records]


def test_truth_of_a_mask_file_follows_its_rule(tmp_path):
    folder = write_lesions(tmp_path / "lesions")
    record = sources.read_ham10000(folder, classes=["NV"])[0][0]
    other = record.truth.read_by(MaskRule(listed=(7,)))
    assert record.read_mask().any()
    assert not other.read_mask().any()
    assert other.content_key() != record.truth.content_key()
    assert other.fingerprint() == record.truth.fingerprint()
    classes = {label: set(np.unique(record.truth.read_class_mask(label))) for label in (-1, 0, 4)}
    assert classes == {-1: {0, 255}, 0: {0, 1}, 4: {0, 5}}


def test_another_rule_leaves_objects_as_they_are(tmp_path):
    record = sources.read_coco(write_coco(tmp_path / "coco"))[0][0]
    assert record.truth.read_by(MaskRule(listed=(7,))) == record.truth


def test_records_without_truth_say_so(tmp_path):
    image = write_lesions(tmp_path / "lesions") / "images" / "ISIC_0000001.jpg"
    record = Record(id="a", image_path=image, label=2, group="a")
    assert (record.has_mask, record.has_objects, record.labels) == (False, False, frozenset({2}))
    assert record.fingerprint() == f"{image.stat().st_size}|-"
    with_truth = Record(id="a", image_path=image, truth=MaskFile(image), label=2, group="a")
    assert record.content_key() != with_truth.content_key()


def test_headers_of_images_of_objects_are_read_once(tmp_path, monkeypatch):
    from polymask.data import inspection, sizes

    opened: list[str] = []
    for module in (inspection, sizes):
        read = module.read_header
        monkeypatch.setattr(
            module, "read_header", lambda path, read=read: opened.append(str(path)) or read(path)
        )
    for write, reader in ((write_coco, sources.read_coco), (write_label_maps, sources.read_label_maps)):
        samples = instances.Samples(reader=reader, data_dir=str(write(tmp_path / write.__name__)), classes=[])
        opened.clear()
        samples.look(samples.records, FileMemory(None, tmp_path))
        samples.description()
        assert len(opened) == len(set(opened))
        assert {str(record.image_path) for record in samples.records} <= set(opened)


def test_samples_of_objects_refuse_a_reader_of_masks(tmp_path):
    folder = write_lesions(tmp_path / "lesions")
    with pytest.raises(UserError, match=r"24 of 24 images .* have no objects that are told apart, e\.g\."):
        instances.Samples(reader=sources.read_ham10000, data_dir=str(folder), classes=["NV", "MEL", "BKL"])
