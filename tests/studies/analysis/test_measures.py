from __future__ import annotations

from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest
from data_sets import build

from polymask.data.module import DataModule
from polymask.data.sources import read_ham10000
from polymask.data.transforms import Augmentation
from polymask.errors import UserError
from polymask.families.multitask import Samples
from polymask.structures.samples import OriginalSample
from polymask.studies.analysis.measures import analyze
from polymask.studies.analysis.pixel_sums import PixelSums

CLASSES = ["MEL", "NV", "BKL"]


def make_data(folder: Path, **options) -> DataModule:
    settings = {"image_size": [32, 48], "batch_size": 1, "fractions": (0.5, 0.25, 0.25)} | options
    return build(Samples, reader=read_ham10000, data_dir=str(folder), classes=CLASSES, **settings)


def make_sample(image, mask=None, **options) -> OriginalSample:
    settings = {"id": "a", "class_names": [], "subset": ""} | options
    return OriginalSample(image=image, mask=mask, **settings)


def random_samples(sizes: list[tuple[int, int]]) -> list[OriginalSample]:
    rng = np.random.default_rng(0)
    return [
        make_sample(
            rng.integers(0, rng.integers(2, 256), (*size, 3), np.uint8),
            rng.integers(0, 2, size, np.uint8),
            id=str(number),
        )
        for number, size in enumerate(sizes)
    ]


def test_mean_and_deviation_are_those_of_all_pixels_pooled():
    samples = random_samples([(30, 40), (1, 1), (200, 3), (64, 64)])
    pixels = np.concatenate([sample.image.reshape(-1, 3) for sample in samples]).astype(np.float64)
    found = analyze(samples).statistics()
    for part, values in {"": pixels, **dict(zip(("_red", "_green", "_blue"), pixels.T, strict=True))}.items():
        assert found[f"pixel_mean{part}"] == pytest.approx(values.mean() / 255, rel=1e-12)
        assert found[f"pixel_std{part}"] == pytest.approx(values.std() / 255, rel=1e-12)
        assert found[f"pixel_mean{part}_255"] == pytest.approx(values.mean(), rel=1e-12)
        assert found[f"pixel_std{part}_255"] == pytest.approx(values.std(), rel=1e-12)


def test_sums_are_exact_however_large():
    sums = PixelSums()
    white = np.full((3000, 4000, 3), 255, np.uint8)
    for _ in range(3):
        sums.add(white)
    sums.add(np.full((1, 1, 3), (0, 255, 254), np.uint8))
    many = 3 * 3000 * 4000
    assert sums.num_pixels == many + 1
    assert sums.sums == [255 * many, 255 * many + 255, 255 * many + 254]
    assert sums.squares == [255**2 * many, 255**2 * (many + 1), 255**2 * many + 254**2]
    assert sums.mean_and_std([1]) == (1.0, 0.0)
    for _ in range(20):
        image = np.random.default_rng(0).integers(0, 256, (333, 77, 3), np.uint8)
        sums = PixelSums()
        sums.add(image)
        assert sums.squares == (image.astype(np.int64) ** 2).sum(axis=(0, 1)).tolist()


def overlaps(length: int) -> np.ndarray:
    """(128, length) share of each grid cell that each pixel of a side takes, from the borders of both."""
    cells, pixels = np.arange(129) / 128, np.arange(length + 1) / length
    low = np.maximum(cells[:-1, None], pixels[None, :-1])
    high = np.minimum(cells[1:, None], pixels[None, 1:])
    return 128 * (high - low).clip(0)


@pytest.mark.parametrize(
    "size", [(48, 64), (450, 600), (128, 128), (256, 384), (130, 127), (20, 900), (1, 1)]
)
def test_coverage_is_the_share_of_each_cell_that_masks_cover(size):
    samples = random_samples([size, size])
    expected = np.mean([overlaps(size[0]) @ s.mask @ overlaps(size[1]).T for s in samples], axis=0)
    np.testing.assert_allclose(analyze(samples).coverage, expected, atol=2e-4)


def test_coverage_counts_images_with_a_mask_only():
    blank = np.zeros((10, 10, 3), np.uint8)
    masks = [np.ones((10, 10), np.uint8), np.zeros((10, 10), np.uint8), None]
    found = analyze([make_sample(blank, mask) for mask in masks])
    assert (found.coverage == 0.5).all()
    numbers = found.statistics()
    assert [numbers[name] for name in ("num_images", "num_masks", "num_empty_masks")] == [3, 2, 1]
    assert [row.mask_area for row in found.images] == [100, 0, None]
    assert found.mask_shares().tolist() == [1, 0]


def test_data_without_masks_and_classes_have_no_numbers_of_them():
    found = analyze([make_sample(np.zeros((4, 8, 3), np.uint8))])
    assert found.coverage is None
    assert found.class_counts == {}
    numbers = found.statistics()
    assert not [name for name in numbers if name.startswith(("mask_", "num_labels", "num_objects"))]
    assert numbers["num_images_without_class"] == numbers["num_images_unused"] == 1
    assert numbers["image_aspect_ratio_mean"] == 2


def test_labels_of_objects_are_counted_by_class_and_subset():
    blank = np.zeros((4, 4, 3), np.uint8)
    samples = [
        make_sample(blank, class_names=["cell", "cell", "debris"], subset="test", num_objects=3),
        make_sample(blank, class_names=["cell"], subset="train", num_objects=1),
        make_sample(blank, class_names=[], subset="val", num_objects=0),
        make_sample(blank, class_names=["debris"]),
    ]
    found = analyze(samples, class_names=["absent", "debris"])
    assert found.class_counts == {
        "absent": {},
        "debris": {"test": 1, "": 1},
        "cell": {"test": 2, "train": 1},
    }
    assert list(found.class_counts) == ["absent", "debris", "cell"]
    assert found.subsets == ["train", "val", "test", ""]
    numbers = found.statistics()
    assert [numbers[f"num_labels_{name}"] for name in ("absent", "debris", "cell")] == [0, 2, 3]
    assert [numbers[f"num_objects_{word}"] for word in ("min", "median", "max")] == [0, 1, 3]
    assert numbers["num_images_without_class"] == 1


def test_sizes_are_summed_up():
    shapes = [(10, 20), (10, 20), (40, 10)]
    numbers = analyze([make_sample(np.zeros((*shape, 3), np.uint8)) for shape in shapes]).statistics()
    assert numbers["num_image_sizes"] == 2
    summary = [numbers[f"image_height_{word}"] for word in ("min", "median", "mean", "max")]
    assert summary == [10, 10, 20, 40]
    assert (numbers["image_width_min"], numbers["image_aspect_ratio_min"]) == (10, 0.25)


def test_no_images_is_a_user_error():
    with pytest.raises(UserError, match=r"no images to analyze; point data\.data_dir"):
        analyze([])


def test_original_samples_are_the_files(lesion_folder):
    (lesion_folder / "masks" / "ISIC_0000003_segmentation.png").unlink()
    table = lesion_folder / "metadata.csv"
    table.write_text(table.read_text().replace(",mel", ",", 1))  # of the first image
    data = make_data(lesion_folder)
    samples = list(data.original_samples())
    assert [sample.id for sample in samples] == [f"ISIC_{number:07d}" for number in range(1, 25)]
    for number, sample in enumerate(samples):
        image = cv2.imread(str(lesion_folder / "images" / f"{sample.id}.jpg"))
        np.testing.assert_array_equal(sample.image, image[..., ::-1])
        assert sample.class_names == ([CLASSES[number // 8]] if number else [])
        assert sample.id in data.split.subsets[sample.subset]
        if number == 2:
            assert sample.mask is None
        else:
            mask = cv2.imread(str(lesion_folder / "masks" / f"{sample.id}_segmentation.png"), 0)
            np.testing.assert_array_equal(sample.mask, mask // 255)


def test_subset_of_original_samples_tells_what_is_not_used(lesion_folder):
    data = make_data(lesion_folder, overfit_samples=5)
    subsets = [sample.subset for sample in data.original_samples()]
    assert (subsets.count("train"), subsets.count("")) == (5, 19)


def test_mask_of_another_size_is_a_user_error(lesion_folder):
    path = lesion_folder / "masks" / "ISIC_0000009_segmentation.png"
    cv2.imwrite(str(path), np.zeros((48, 63), np.uint8))
    with pytest.raises(UserError, match=r"1 of 24 .* ISIC_0000009 .*63 x 48 pixels but its image is 64 x 48"):
        make_data(lesion_folder)


@pytest.mark.parametrize("options", [{}, {"segmentation": "multiclass"}, {"cache_dir": "samples"}])
def test_augmented_samples_are_those_of_the_training_loader(lesion_folder, tmp_path, options):
    if "cache_dir" in options:
        options = {"cache_dir": str(tmp_path / "samples")}
    augmentation = Augmentation(
        [A.HorizontalFlip(p=0.5), A.ColorJitter(p=1), A.Affine(rotate=(-45, 45), p=1)]
    )
    data = make_data(lesion_folder, augmentation=augmentation, seed=3, **options)
    seen = {}
    loader = data.train_loader()
    for epoch in range(2):
        loader.batch_sampler.start_epoch(epoch)
        for batch in loader:
            seen[f"{batch['ids'][0]}, epoch {epoch + 1}"] = (
                batch["image"][0].numpy(),
                batch["mask"][0].numpy(),
            )
    data.split.subsets["val"] = data.split.subsets["train"]
    for batch in data.evaluation_loader("val"):
        pairs = zip(batch["ids"], batch["image"].numpy(), batch["mask"].numpy(), strict=True)
        seen |= {f"{name}, plain": (image, mask) for name, image, mask in pairs}
    rows = list(data.augmented_samples(4, 2))
    assert [len(row) for row in rows] == [3] * 4
    assert [row[0].title.endswith("plain") for row in rows] == [True] * 4
    for title, image, mask in (picture for row in rows for picture in row):
        np.testing.assert_array_equal(image, seen[title][0])
        np.testing.assert_array_equal(mask, seen[title][1])
    assert not np.array_equal(rows[0][1].image, rows[0][2].image)


def test_choice_of_augmented_samples_depends_on_the_seed_and_has_an_end(lesion_folder):
    data = make_data(lesion_folder)

    def titles(count: int, seed: int) -> list[str]:
        return [row[0].title for row in data.augmented_samples(count, 0, seed=seed)]

    assert titles(5, 0) == titles(5, 0) != titles(5, 1)
    assert len(titles(999, 0)) == len(set(titles(999, 0))) == len(data.split.subsets["train"])
    assert not list(make_data(lesion_folder, fractions=(0, 0.5, 0.5)).augmented_samples(5, 1))
