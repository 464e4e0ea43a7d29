from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import polymask
from polymask.data.images import read_image
from polymask.errors import UserError
from polymask.factories import build_family, build_task
from polymask.families.images import find_images
from polymask.inference.predictor import Predictor

FP32: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


def test_masks_and_classes_equal_a_plain_computation(trained: Path, plain: Any, pictures: Path) -> None:
    paths = [pictures / file for file in find_images(pictures)]
    images = [read_image(path) for path in paths]
    mixed = [paths[0], str(paths[1]), *images[2:]]
    results = polymask.load("tiny", **FP32).predict(mixed, batch_size=3)
    assert len(results) == len(paths)
    for result, image in zip(results, images, strict=True):
        plain.check_mask(result.mask, image)
        assert result.mask.dtype == np.uint8
        expected = plain.probabilities(image)[1]
        assert list(result.class_probabilities) == ["MEL", "NV", "BKL"]
        np.testing.assert_allclose(list(result.class_probabilities.values()), expected, atol=1e-5)
        assert result.predicted_class == ["MEL", "NV", "BKL"][expected.argmax()]


def test_neighbours_in_a_batch_change_nothing(trained: Path, pictures: Path) -> None:
    predictor = polymask.load("tiny", **FP32)
    paths = [pictures / file for file in find_images(pictures)]
    together, alone = predictor.predict(paths), predictor.predict(paths, batch_size=1)
    for one, other in zip(together, alone, strict=True):
        assert (one.mask != other.mask).mean() < 1e-3
        assert one.predicted_class == other.predicted_class
    assert predictor.predict([]) == []


def test_a_single_image_gives_a_single_result(trained: Path, pictures: Path) -> None:
    predictor, path = polymask.load("tiny", **FP32), pictures / "grey.png"
    (expected,) = predictor.predict([path])
    for one in (path, str(path), read_image(path)):
        found = predictor.predict(one)
        np.testing.assert_array_equal(found.mask, expected.mask)
        assert found.predicted_class == expected.predicted_class


def test_tta_is_the_mean_over_four_flips(trained: Path, plain: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)  # of the network's size
    masks, classes = [], []
    for flip in (lambda x: x, np.fliplr, np.flipud, lambda x: np.flipud(np.fliplr(x))):
        mask, label = plain.probabilities(np.ascontiguousarray(flip(image)))
        masks.append(flip(mask))  # each flip is its own inverse
        classes.append(label)
    predictor = polymask.load("tiny", tta=True, **FP32)
    (prediction,) = predictor.predict_batch(predictor.application.collate(["x"], [torch.from_numpy(image)]))
    np.testing.assert_allclose(prediction.mask_probabilities[0].numpy(), np.mean(masks, axis=0), atol=1e-5)
    np.testing.assert_allclose(prediction.class_probabilities.numpy(), np.mean(classes, axis=0), atol=1e-5)
    assert np.abs(np.mean(masks, axis=0) - masks[0]).max() > 1e-3  # the flips do differ


def test_a_checkpoint_is_found_by_name_by_path_and_as_the_newest(trained: Path) -> None:
    path = trained / "models" / "checkpoints" / "tiny.pt"
    assert polymask.load("tiny").path == path
    assert polymask.load(str(path)).path == path
    assert polymask.load("models/checkpoints/tiny.pt").run_name == "tiny"
    assert Predictor.from_checkpoint(None).path == path
    with pytest.raises(UserError, match=r"has no checkpoint.*Did you mean 'tiny'"):
        polymask.load("tini")
    with pytest.raises(UserError, match=r"absent\.pt does not exist"):
        polymask.load("absent.pt")


@pytest.mark.parametrize(
    "array",
    [np.zeros((5,), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3), bool), np.zeros((0, 5, 3))],
    ids=["one row", "four channels", "bool", "empty"],
)
def test_an_array_that_is_no_rgb_image_is_told(trained: Path, array: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"give \(height, width, 3\) RGB or \(height, width\) grey"):
        polymask.load("tiny", **FP32).predict([array])


def multiclass_predictor(trained: Path) -> Predictor:
    """The configuration of `tiny` with a mask per class and random weights."""
    path = trained / "models" / "checkpoints" / "tiny.pt"
    cfg = OmegaConf.create(torch.load(path, weights_only=True)["config"])
    cfg.data.segmentation = cfg.task.segmentation = "multiclass"
    torch.manual_seed(3)
    family = build_family(cfg, ["MEL", "NV", "BKL"])
    return Predictor(
        task=build_task(cfg, family, pretrained=False),
        application=family.application(cfg.data, {}),
        run_name="random",
        path=path,
        **FP32,
    )


def test_multiclass_masks_hold_the_most_probable_class_of_each_pixel(
    trained: Path, pictures: Path, tmp_path: Path
) -> None:
    predictor = multiclass_predictor(trained)
    image = read_image(pictures / "näevus.tif")
    small = cv2.resize(image, (48, 32), interpolation=cv2.INTER_AREA)
    pixels = (small / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        logits = predictor.task.model(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])["mask_logits"]
    probabilities = logits.softmax(1)[0].permute(1, 2, 0).numpy()
    grown = cv2.resize(probabilities, (image.shape[1], image.shape[0]))
    clear = np.diff(np.sort(grown, axis=-1)[..., -2:])[..., 0] > 1e-4

    (result,) = predictor.predict([image])
    assert result.multiclass
    assert len(np.unique(result.mask)) > 1
    assert (result.mask == grown.argmax(axis=-1))[clear].all()

    row = predictor.application.write_result(tmp_path, Path("x"), result, image)
    written = cv2.imread(str(tmp_path / "masks" / "x.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(written, result.mask)
    assert row["lesion_pixels"] == np.count_nonzero(result.mask)


def test_repr_says_what_it_is(trained: Path) -> None:
    shown = repr(polymask.load("tiny", tta=True, **FP32))
    assert shown.startswith("Predictor(run='tiny', application=Application(image_size=(32, 48), ")
    assert shown.endswith("device=cpu, precision=float32)")
    for part in ("class_names=['MEL', 'NV', 'BKL']", "tta=True", "intensity_range=(0.0, 255.0)"):
        assert part in shown


@pytest.mark.parametrize(
    ("option", "shown"),
    [({"score_threshold": 0.0}, "score_threshold=0.0"), ({"pixel_size": 0.5}, "pixel_size=0.5")],
)
def test_an_option_of_other_models_is_told(trained: Path, option: dict[str, float], shown: str) -> None:
    with pytest.raises(UserError) as told:
        polymask.load("tiny", **option, **FP32)
    assert str(told.value) == (
        f"{shown} is of no use to tiny, which takes abstain_below, calibration, data.attribute_table, "
        "data.intensity_range, explain, tta; leave it out."
    )
    polymask.load("tiny", **dict.fromkeys(option), **FP32)  # asks for nothing


def test_options_are_checked(trained: Path) -> None:
    with pytest.raises(UserError, match=r"data\.intensity_range=\[5, 1\] is not valid"):
        polymask.load("tiny", intensity_range=[5, 1], **FP32)
