from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from data_sets import build

from polymask.data.module import DataModule
from polymask.data.sources import read_ham10000
from polymask.errors import UserError
from polymask.families.multitask import Samples
from polymask.structures.samples import OriginalSample, TitledSample
from polymask.studies.analysis.report import SampleChoice, write_analysis

CLASSES = ["MEL", "NV", "BKL"]
ALWAYS = {"analysis.txt", "metrics.json", "statistics.csv", "per_image.csv", "classes.csv"}
ALWAYS |= {"image_sizes.png", "samples.png", "augmentations.png"}


class HandMade:
    """A data set of another family, of samples in memory; it has no training subset."""

    data_dir = Path("/somewhere")

    def __init__(self, samples: list[OriginalSample], classes: list[str]) -> None:
        self.samples, self.classes = samples, classes

    def original_samples(self) -> Iterator[OriginalSample]:
        return iter(self.samples)

    def augmented_samples(
        self, num_images: int, num_epochs: int, *, seed: int = 0
    ) -> Iterator[list[TitledSample]]:
        return iter(())

    def fingerprint(self) -> str:
        return "f" * 64

    def description(self) -> str:
        return "images made by hand"


def make_sample(number: int, **options) -> OriginalSample:
    image = np.full((20, 30, 3), number % 256, np.uint8)
    settings = {"id": str(number), "image": image, "mask": None, "class_names": [], "subset": ""}
    return OriginalSample(**(settings | options))


def analyze(folder: Path, data, **options) -> dict[str, float]:
    folder.mkdir()
    return write_analysis(folder, data, **({"num_samples": 3, "num_augmented": 1, "seed": 0} | options))


def lesions(folder: Path) -> DataModule:
    return build(
        Samples,
        reader=read_ham10000,
        data_dir=str(folder),
        classes=CLASSES,
        image_size=[32, 48],
        batch_size=4,
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> tuple[Path, DataModule, dict[str, float]]:
    """The report on lesions, of which one has no mask and one no class."""
    from lesion_files import write_lesions

    root = tmp_path_factory.mktemp("analysis")
    source = write_lesions(root / "lesions")
    (source / "masks" / "ISIC_0000003_segmentation.png").unlink()
    table = source / "metadata.csv"
    table.write_text(table.read_text().replace(",mel", ",", 1))
    data = lesions(source)
    return root / "report", data, analyze(root / "report", data)


def test_all_files_are_there_and_pictures_are_not_blank(report):
    folder, _, _ = report
    expected = ALWAYS | {"classes.png", "mask_areas.png", "mask_coverage.png"}
    assert {path.name for path in folder.iterdir()} == expected
    for path in folder.glob("*.png"):
        assert cv2.imread(str(path)).std() > 1


def test_pixel_statistics_are_those_of_the_files(report):
    folder, data, numbers = report
    images = [cv2.imread(str(record.image_path))[..., ::-1] for record in data.records]
    pixels = np.stack(images).reshape(-1, 3) / 255
    assert numbers["data/pixel_mean"] == pytest.approx(pixels.mean())
    assert numbers["data/pixel_std"] == pytest.approx(pixels.std())
    for channel, name in enumerate(("red", "green", "blue")):
        assert numbers[f"data/pixel_mean_{name}"] == pytest.approx(pixels[:, channel].mean())
        assert numbers[f"data/pixel_std_{name}"] == pytest.approx(pixels[:, channel].std())
    lines = (folder / "analysis.txt").read_text().splitlines()
    red = next(line.split() for line in lines if line.strip().startswith("red"))
    assert red[1] == f"{pixels[:, 0].mean():.4f}"
    assert red[2] == f"{pixels[:, 0].std():.4f}"


def test_numbers_are_the_same_everywhere(report):
    folder, data, numbers = report
    table = pd.read_csv(folder / "statistics.csv", index_col="name")["value"]
    content = json.loads((folder / "metrics.json").read_text())
    assert {f"data/{name}": value for name, value in table.items()} == pytest.approx(numbers)
    assert {f"data/{name}": value for name, value in content["metrics"].items()} == numbers
    assert content["fingerprint"] == data.fingerprint()
    assert numbers["data/num_images"] == 24
    assert numbers["data/num_masks"] == 23
    assert numbers["data/num_images_without_class"] == 1
    assert all(isinstance(value, int | float) and np.isfinite(value) for value in numbers.values())


def test_table_of_images_is_that_of_the_files(report):
    folder, data, _ = report
    table = pd.read_csv(folder / "per_image.csv", keep_default_na=False, dtype=str)
    assert table["id"].tolist() == [record.id for record in data.records]
    for row, record in zip(table.to_dict("records"), data.records, strict=True):
        assert row["id"] in data.split.subsets[row["subset"]]
        assert (row["width"], row["height"]) == ("64", "48")
        assert row["classes"] == ("" if record.label < 0 else CLASSES[record.label])
        if record.truth is None:
            assert row["mask_area"] == row["mask_share"] == ""
        else:
            area = int((cv2.imread(str(record.truth.mask_file), 0) > 0).sum())
            assert int(row["mask_area"]) == area
            assert float(row["mask_share"]) == area / (48 * 64)
        assert row["num_objects"] == ""


def test_table_of_classes_counts_subsets(report):
    folder, data, _ = report
    table = pd.read_csv(folder / "classes.csv", index_col="class")
    assert table.index.tolist() == CLASSES
    assert table["all"].tolist() == [7, 8, 8]
    for subset in ("train", "val", "test"):
        assert table[subset].tolist() == data.class_counts(subset)


def test_text_begins_with_what_was_analysed(report):
    folder, data, _ = report
    lines = (folder / "analysis.txt").read_text().splitlines()
    assert lines[0] == "Data set"
    assert lines[1].split() == ["data_dir", str(data.data_dir)]
    assert lines[2].split() == ["fingerprint", data.fingerprint()]
    sizes = [len(data.split.subsets[subset]) for subset in ("train", "val", "test")]
    assert lines[3].split(maxsplit=1)[1] == "24 (train {}, val {}, test {})".format(*sizes)
    text = "\n".join(lines)
    assert "1 of 24 images have no class" in text
    assert "23 of 24 images have one, 0 of them are empty" in text
    assert "64 x 48  24 images" in text


def test_reports_on_equal_data_are_equal(report, tmp_path):
    folder, data, _ = report
    analyze(tmp_path / "again", data)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_images_alone_are_enough(tmp_path):
    numbers = analyze(tmp_path / "out", HandMade([make_sample(0), make_sample(255)], []))
    assert {path.name for path in (tmp_path / "out").iterdir()} == ALWAYS
    assert numbers["data/pixel_mean"] == numbers["data/pixel_std"] == 0.5
    text = (tmp_path / "out" / "analysis.txt").read_text()
    assert "2 (unused 2)" in text
    assert text.endswith("Classes: none\n\nMasks: none\n")
    assert (tmp_path / "out" / "classes.csv").read_text() == "class,unused,all\n"


def test_objects_of_several_classes_are_listed(tmp_path):
    mask = np.zeros((20, 30), np.uint8)
    samples = [
        make_sample(1, mask=mask, class_names=["a, b", "c", "c"], subset="train", num_objects=3),
        make_sample(2, mask=1 - mask, class_names=["c"], subset="test", num_objects=1),
    ]
    analyze(tmp_path / "out", HandMade(samples, ["c"]))
    table = pd.read_csv(tmp_path / "out" / "per_image.csv")
    assert table["classes"].tolist() == ["a, b|c|c", "c"]
    assert table["num_objects"].tolist() == [3, 1]
    assert table["mask_area"].tolist() == [0, 600]
    classes = pd.read_csv(tmp_path / "out" / "classes.csv").values.tolist()
    assert classes == [["c", 2, 1, 3], ["a, b", 1, 0, 1]]
    text = (tmp_path / "out" / "analysis.txt").read_text()
    assert "objects per image" in text
    assert "images made by hand" in text


def test_damaged_image_is_a_user_error(lesion_folder, tmp_path):
    (lesion_folder / "images" / "ISIC_0000020.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cannot read image .*ISIC_0000020\.jpg"):
        analyze(tmp_path / "out", lesions(lesion_folder))


@pytest.mark.parametrize("key", ["num_samples", "num_augmented"])
def test_negative_numbers_of_pictures_are_refused(tmp_path, key):
    with pytest.raises(UserError, match=f"{key}=-1 is not valid"):
        analyze(tmp_path / "out", HandMade([make_sample(0)], []), **{key: -1})


def kept(num_samples: int, total: int, seed: int) -> list[int]:
    choice = SampleChoice(num_samples, seed=seed)
    assert [sample.id for sample in choice.watch(map(make_sample, range(total)))] == [*map(str, range(total))]
    return [int(picture.title.split(":")[0]) for picture in choice.pictures()]


def test_every_sample_is_as_likely_to_be_chosen_and_comes_in_order():
    counts = np.zeros(12)
    for seed in range(600):
        chosen = kept(4, 12, seed)
        assert chosen == sorted(set(chosen))
        assert len(chosen) == 4
        counts[chosen] += 1
    # 600 draws of 1/3 each: mean 200, standard deviation 11.5.
    assert np.abs(counts - 200).max() < 5 * 11.5
    assert kept(4, 12, 0) == kept(4, 12, 0) != kept(4, 12, 1)
    assert kept(9, 4, 0) == [0, 1, 2, 3]
    assert kept(0, 4, 0) == []


def test_pictures_of_large_images_are_kept_small():
    image = np.zeros((3000, 1000, 3), np.uint8)
    sample = make_sample(7, image=image, mask=np.ones((3000, 1000), np.uint8), class_names=["x", "x", "y"])
    choice = SampleChoice(1, seed=0)
    list(choice.watch([sample]))
    (picture,) = choice.pictures()
    assert picture.title == "7: x, y, unused, 1000 x 3000"
    assert picture.image.shape == (480, 160, 3)
    assert picture.mask.shape == (480, 160)
