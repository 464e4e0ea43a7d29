"""Images with objects as a data set: splits, loaders, what analyze sees, and the same files as masks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from data_sets import MASKS, build
from instance_files import CATEGORY_IDS, CLASSES, EMPTY, OVERLAPPING, write_coco, write_label_maps
from pycocotools.coco import COCO

from polymask.data.images import read_image, resize_mask
from polymask.data.module import DataModule
from polymask.data.sources import read_coco, read_label_maps
from polymask.data.transforms import Augmentation
from polymask.errors import UserError
from polymask.families import instances, multitask

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools and NumPy 2

NUM_IMAGES = 12
read_values = partial(read_label_maps, split="values")
TILES = r"(photo\d+)_tile"


def objects_of(folder: Path, reader: Callable = read_coco, **options: Any) -> DataModule:
    settings = {"classes": [], "batch_size": 2, "data_dir": str(folder)}
    return build(instances.Samples, reader=reader, **(settings | options))


def masks_of(folder: Path, reader: Callable = read_coco, **options: Any) -> DataModule:
    settings = {"classes": [], "batch_size": 2, "data_dir": str(folder), "image_size": 64}
    return build(multitask.Samples, reader=reader, **(settings | options))


@pytest.fixture(scope="module")
def coco_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco", num_images=NUM_IMAGES)


@pytest.fixture(scope="module")
def label_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_label_maps(tmp_path_factory.mktemp("data") / "maps", num_images=NUM_IMAGES, num_folders=2)


def masks_by_pycocotools(folder: Path) -> dict[str, list[tuple[np.ndarray, dict]]]:
    """Return the (H, W) bool mask and the annotation of each object, per image id."""
    content = json.loads((folder / "annotations.json").read_text())
    truth = COCO()
    truth.dataset = content
    truth.createIndex()
    return {
        image["file_name"].removesuffix(".png"): [
            (truth.annToMask(entry) > 0, entry) for entry in truth.imgToAnns[image["id"]]
        ]
        for image in content["images"]
    }


def painted(size: tuple[int, int], objects: list[tuple[np.ndarray, dict]], value: Callable) -> np.ndarray:
    """Paint crowds, then objects from the largest to the smallest."""
    result = np.zeros(size, np.uint8)
    for mask, entry in sorted(objects, key=lambda each: (-each[1]["iscrowd"], -each[0].sum())):
        result[mask] = 255 if entry["iscrowd"] else value(entry)
    return result


def test_batches_hold_every_image_once_at_its_own_size(coco_folder: Path) -> None:
    data = objects_of(coco_folder, eval_batch_size=3, fractions=[0.5, 0.25, 0.25])
    assert data.classes == ["Fiber", "Film", "Fragment"]  # in the order of the category ids 3, 5, 7
    expected = masks_by_pycocotools(coco_folder)
    seen = []
    for subset in data.split.subsets:
        for batch in data.evaluation_loader(subset):
            assert len(batch["ids"]) == len(batch["image"]) == len(batch["target"]) <= 3
            for id_, image, target in zip(batch["ids"], batch["image"], batch["target"], strict=True):
                seen.append(id_)
                picture = cv2.imread(str(coco_folder / "images" / f"{id_}.png"))[..., ::-1]
                np.testing.assert_array_equal(image.numpy(), picture)
                assert target["masks"].shape[1:] == image.shape[:2]
                masks = [mask for mask, _ in expected[id_]]
                assert [mask.tolist() for mask in target["masks"].bool()] == [mask.tolist() for mask in masks]
                assert target["crowd"].tolist() == [bool(entry["iscrowd"]) for _, entry in expected[id_]]
    assert sorted(seen) == sorted(expected)


@pytest.mark.parametrize("make", [objects_of, masks_of])
def test_tiles_of_one_photograph_stay_together(make: Callable[..., DataModule], coco_folder: Path) -> None:
    data = make(coco_folder, partial(read_coco, group_pattern=TILES), fractions=[0.5, 0.25, 0.25])
    photos = [{id_.partition("_")[0] for id_ in ids} for ids in data.split.subsets.values()]
    assert sum(map(len, photos)) == len(set.union(*photos)) == NUM_IMAGES // 2
    assert all(photos)
    assert data.groups(["photo3_tile1", "photo0_tile0"]) == ["photo3", "photo0"]


def test_over_all_folds_every_image_is_tested_once(label_folder: Path) -> None:
    reader = partial(read_label_maps, group_pattern=TILES)
    tested: list[str] = []
    for fold in range(3):
        subsets = objects_of(label_folder, reader, num_folds=3, fold=fold).split.subsets
        assert {len(ids) for ids in subsets.values()} == {4}
        assert len(set().union(*subsets.values())) == NUM_IMAGES
        tested += subsets["test"]
    assert sorted(tested) == sorted(path.stem for path in (label_folder / "images").iterdir())


@pytest.mark.parametrize(
    "options", [{"num_folds": 3, "fold": 1}, {"fractions": [0.5, 0.25, 0.25], "split_seed": 4}]
)
def test_masks_have_the_very_split_of_objects(options: dict, coco_folder: Path, label_folder: Path) -> None:
    for folder, readers in {
        coco_folder: (read_coco, read_coco),
        label_folder: (read_label_maps, read_values),
    }.items():
        first, second = objects_of(folder, readers[0], **options), masks_of(folder, readers[1], **options)
        assert first.split.subsets == second.split.subsets
        assert first.split.groups == second.split.groups


def test_union_of_coco_objects_equals_pycocotools(coco_folder: Path) -> None:
    data = masks_of(coco_folder)
    assert data.classes == []
    expected = masks_by_pycocotools(coco_folder)
    values = set()
    for sample in data.original_samples():
        union = painted(sample.image.shape[:2], expected[sample.id], lambda _: 1)
        np.testing.assert_array_equal(sample.mask, union)
        values |= set(np.unique(union))
        assert bool((union == 1).any()) == (sample.id != f"photo0_tile{EMPTY}")
    assert values == {0, 1, 255}


def test_union_of_label_maps_is_all_that_is_not_background(label_folder: Path) -> None:
    data = masks_of(label_folder, read_values)
    for sample in data.original_samples():
        files = sorted((label_folder / "labels").glob(f"{sample.id}*"))
        files = sorted(files[0].iterdir()) if files[0].is_dir() else files
        union = np.any([cv2.imread(str(file), cv2.IMREAD_UNCHANGED) > 0 for file in files], axis=0)
        np.testing.assert_array_equal(sample.mask, union)


@pytest.mark.parametrize("cached", [False, True])
def test_class_masks_have_the_chosen_order_and_the_smaller_object_on_top(
    cached: bool, coco_folder: Path, tmp_path: Path
) -> None:
    names = ["Film", "Fiber", "Fragment"]
    options = {"classes": names, "segmentation": "multiclass", "fractions": [0.5, 0.25, 0.25]}
    data = masks_of(coco_folder, **options, cache_dir=str(tmp_path / "cache") if cached else None)
    value = {CATEGORY_IDS[CLASSES.index(name)]: 1 + index for index, name in enumerate(names)}
    expected = masks_by_pycocotools(coco_folder)
    overlapping = expected[f"photo{OVERLAPPING // 2}_tile{OVERLAPPING % 2}"]
    assert sum(mask.astype(int) for mask, _ in overlapping).max() == 2
    seen = 0
    for _ in range(1 + cached):  # the second time from the cache
        for subset in data.split.subsets:
            for batch in data.evaluation_loader(subset):
                for id_, found in zip(batch["ids"], batch["mask"], strict=True):
                    objects = expected[id_]
                    size = read_image(coco_folder / "images" / f"{id_}.png").shape[:2]
                    mask = painted(size, objects, lambda entry: value[entry["category_id"]])
                    np.testing.assert_array_equal(found.numpy(), resize_mask(mask, (64, 64)))
                    seen += 1
    assert seen == NUM_IMAGES * (1 + cached)


def test_class_masks_of_another_order_are_not_taken_from_the_cache(coco_folder: Path, tmp_path: Path) -> None:
    masks = []
    for names in (["Film", "Fiber", "Fragment"], ["Fragment", "Fiber", "Film"], []):
        options = {"classes": names, "segmentation": "multiclass" if names else "binary"}
        data = masks_of(coco_folder, cache_dir=str(tmp_path), **options)
        batches = [batch for subset in data.split.subsets for batch in data.evaluation_loader(subset)]
        found = {id_: mask for b in batches for id_, mask in zip(b["ids"], b["mask"], strict=True)}
        masks.append(torch.stack([found[id_] for id_ in sorted(found)]))
    first, second, union = (mask.where(mask != 255, 0).long() for mask in masks)
    assert set(first.unique().tolist()) == {0, 1, 2, 3}
    assert torch.equal(first, torch.tensor([0, 3, 2, 1])[second])
    assert torch.equal(union, (first > 0).long())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixel_size": 0}, r"data\.pixel_size=0 is not valid; give micrometres per pixel above 0, or null"),
        ({"pixel_size": -0.5}, r"data\.pixel_size=-0\.5 is not valid"),
        ({"pixel_size": "2 um"}, r"data\.pixel_size='2 um' is not valid"),
        ({"image_size": 64}, r"data\.image_size=64 .* set model\.min_size and model\.max_size instead"),
        ({"classes": ["Fiber", "Fiber"]}, r"must be a list of different names"),
        ({"classes": ["Fibre"]}, r"Did you mean 'Fiber'\?"),
        ({"fold": 2}, r"data\.fold=2 needs the number of folds"),
    ],
)
def test_mistakes(options: dict, message: str, coco_folder: Path) -> None:
    with pytest.raises(UserError, match=message):
        objects_of(coco_folder, **options)


def test_original_samples_are_the_files(coco_folder: Path) -> None:
    data = objects_of(coco_folder, fractions=[0.5, 0.25, 0.25])
    expected = masks_by_pycocotools(coco_folder)
    names = dict(zip(CATEGORY_IDS, CLASSES, strict=True))
    samples = list(data.original_samples())
    assert [sample.id for sample in samples] == sorted(expected)
    for sample in samples:
        single = [(mask, entry) for mask, entry in expected[sample.id] if not entry["iscrowd"]]
        picture = cv2.imread(str(coco_folder / "images" / f"{sample.id}.png"))[..., ::-1]
        np.testing.assert_array_equal(sample.image, picture)
        assert sample.num_objects == len(single)
        assert sample.class_names == [names[entry["category_id"]] for _, entry in single]
        union = np.any([mask for mask, _ in single], axis=0) if single else np.zeros(picture.shape[:2])
        np.testing.assert_array_equal(sample.mask, union)
        assert sample.id in data.split.subsets[sample.subset]


def test_augmented_samples_are_those_of_training(coco_folder: Path) -> None:
    import albumentations

    augmentation = Augmentation([albumentations.HorizontalFlip(p=0.5), albumentations.RandomRotate90(p=0.5)])
    data = objects_of(coco_folder, augmentation=augmentation, seed=5, overfit_samples=NUM_IMAGES)
    loader = data.train_loader()
    epochs: list[dict[str, Any]] = []
    for epoch in range(2):
        loader.batch_sampler.start_epoch(epoch)
        batches = [batch for batch in loader for _ in batch["ids"]]
        epochs.append({})
        for batch in batches:
            epochs[-1] |= dict(
                zip(batch["ids"], zip(batch["image"], batch["target"], strict=True), strict=True)
            )
    rows = list(data.augmented_samples(4, 2, seed=1))
    assert [len(row) for row in rows] == [3] * 4
    num_changed = 0
    for row in rows:
        id_ = row[0].title.removesuffix(", plain")
        picture = cv2.imread(str(coco_folder / "images" / f"{id_}.png"))[..., ::-1]
        np.testing.assert_array_equal(row[0].image, picture)
        for epoch, sample in enumerate(row[1:]):
            image, target = epochs[epoch][id_]
            assert sample.title == f"{id_}, epoch {epoch + 1}"
            np.testing.assert_array_equal(sample.image, image.numpy())
            np.testing.assert_array_equal(sample.mask > 0, target["masks"].numpy().any(axis=0))
            num_changed += sample.image.shape != picture.shape or (sample.image != picture).any()
    assert num_changed


def test_fingerprint_tells_of_content_and_not_of_place(coco_folder: Path, tmp_path: Path) -> None:
    first = objects_of(coco_folder).fingerprint()
    moved = Path(shutil.copytree(coco_folder, tmp_path / "elsewhere"))
    assert objects_of(moved).fingerprint() == first
    assert objects_of(moved, classes=["Film", "Fiber", "Fragment"]).fingerprint() != first
    file = moved / "annotations.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    file.write_text(json.dumps(content))
    assert objects_of(moved).fingerprint() != first


def test_an_image_of_another_size_is_found_at_once(tmp_path):
    for write, reader in ((write_coco, read_coco), (write_label_maps, read_label_maps)):
        folder = write(tmp_path / write.__name__, num_images=6)
        image = sorted((folder / "images").glob("*.png"))[-1 if write is write_coco else 0]
        cv2.imwrite(str(image), np.zeros((20, 30, 3), np.uint8))
        with pytest.raises(UserError, match="both must have one size"):
            build(instances.Samples, reader=reader, data_dir=str(folder), classes=[], batch_size=2)


@pytest.mark.parametrize("kind", ["coco", "label maps"])
def test_description_names_objects_foreground_and_images(kind, coco_folder, label_folder):
    folder, read, read_masks = {
        "coco": (coco_folder, read_coco, read_coco),
        "label maps": (label_folder, read_label_maps, read_values),
    }[kind]
    masks = [record.read_mask() for record in masks_of(folder, read_masks).records]
    share = np.mean([(mask == 1).mean() for mask in masks])
    line = objects_of(folder, read).description()
    assert f" objects in {NUM_IMAGES} images" in line
    assert f", {share:.1%} foreground; {NUM_IMAGES} images of " in line
    assert line.endswith(" pixels), 8-bit") or line.endswith(" pixels, 8-bit")


def write_maps(folder: Path, label: Callable[[int], np.ndarray]) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(8):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), np.zeros((16, 24, 3), np.uint8))
        cv2.imwrite(str(folder / "labels" / f"{number}.png"), label(number))
    return folder


def test_images_that_are_one_object_each_are_refused(tmp_path):
    full = np.ones((16, 24), np.uint8)
    folder = write_maps(tmp_path / "full", lambda number: full)
    with pytest.raises(
        UserError, match=r"each of the \d train images .* is one object that covers all of it"
    ):
        objects_of(folder, read_label_maps).check_truth(MASKS)
    tiled = np.where(np.arange(24) < 12, full, 2 * full)  # cells side by side leave no background
    folder = write_maps(tmp_path / "tiled", lambda number: tiled)
    objects_of(folder, read_label_maps).check_truth(MASKS)


@pytest.mark.parametrize("in_folder", [False, True])
def test_objects_in_the_alpha_channel_are_refused(tmp_path, in_folder):
    values = np.full((16, 24, 4), 255, np.uint8)
    values[..., 3] = np.where(np.arange(24) < 9, 1, 0)
    folder = write_maps(tmp_path / "alpha", lambda number: values)
    if in_folder:
        for path in sorted((folder / "labels").iterdir()):
            path.with_suffix("").mkdir()
            path.rename(path.with_suffix("") / "one.png")
    with pytest.raises(UserError, match=r"has one colour, and what it shows in the alpha channel; save it"):
        objects_of(folder, read_label_maps)
