"""The same pixels, whatever the kind of file and whichever way they come in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from lesion_files import lesion
from PIL import Image

import polymask
from polymask.errors import UserError

FP32 = {"device": "cpu", "precision": "fp32"}
DEEP = [400.0, 1800.0]


def lying(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(lesion(60, 90)).save(path, exif=exif, quality=95)


def palette(path: Path) -> None:
    Image.fromarray(lesion(60, 90)).quantize(64).save(path)


def opaque(path: Path) -> None:
    alpha = np.random.default_rng(0).integers(0, 256, (60, 90), dtype=np.uint8)
    Image.fromarray(np.dstack([lesion(60, 90), alpha])).save(path)


def deep(path: Path) -> None:
    cv2.imwrite(str(path), lesion(60, 90)[..., ::-1].astype(np.uint16) * 5 + 450)


KINDS: dict[str, tuple[Callable[[Path], None], list[float] | None]] = {
    "lying.jpg": (lying, None),
    "palette.png": (palette, None),
    "opaque.png": (opaque, None),
    "deep.tif": (deep, DEEP),
}


@pytest.mark.parametrize("name", KINDS)
def test_predict_and_infer_give_one_mask(trained: Path, infer: Any, tmp_path: Path, name: str) -> None:
    write, intensity_range = KINDS[name]
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / name)
    infer(tmp_path / "in", f"data.intensity_range={intensity_range or 'null'}")
    written = cv2.imread(str(tmp_path / "out" / "tiny" / "masks" / name.replace(name[-3:], "png")), -1)
    predictor = polymask.load("tiny", intensity_range=intensity_range, **FP32)
    (result,) = predictor.predict([tmp_path / "in" / name])
    assert written.shape == ((90, 60) if name == "lying.jpg" else (60, 90))
    np.testing.assert_array_equal(written, result.mask * 255)
    assert 0 < result.mask.mean() < 1


def test_an_array_is_read_as_its_file(trained: Path, tmp_path: Path) -> None:
    deep(tmp_path / "deep.tif")
    predictor = polymask.load("tiny", intensity_range=DEEP, **FP32)
    array = lesion(60, 90).astype(np.uint16) * 5 + 450
    from_array, from_file = predictor.predict([array, tmp_path / "deep.tif"])
    np.testing.assert_array_equal(from_array.mask, from_file.mask)
    with pytest.raises(UserError, match=r"an image has the values .* but the model reads 0 to 255"):
        polymask.load("tiny", **FP32).predict([array])


def test_deep_images_of_a_run_of_8_bits_are_listed_and_the_rest_is_done(infer: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    deep(tmp_path / "in" / "deep.tif")
    lying(tmp_path / "in" / "lying.jpg")
    with pytest.raises(UserError, match=r"1 of 2 files could not be read, e\.g\. deep\.tif"):
        infer(tmp_path / "in")
    reason = (tmp_path / "out" / "tiny" / "failed.csv").read_text()
    assert "but the model reads 0 to 255" in reason
    assert (tmp_path / "out" / "tiny" / "masks" / "lying.png").is_file()


def test_large_images_are_drawn_as_small_ones_are(
    infer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    lying(tmp_path / "in" / "lying.jpg")
    outputs = []
    for limit in (2**22, 0):  # with 0 every image is large
        monkeypatch.setattr("polymask.families.images.LARGE_PIXELS", limit)
        infer(tmp_path / "in", "overwrite=true")
        folder = tmp_path / "out" / "tiny"
        outputs.append([(folder / kind / "lying.jpg").read_bytes() for kind in ("overlays", "outlines")])
    assert outputs[0] == outputs[1]


MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
from polymask.inference.folder import predict_files
from polymask.inference.predictor import Predictor
predictor = Predictor.from_checkpoint(sys.argv[1], device="cpu", precision="fp32")
predictor.predict([np.zeros((64, 64, 3), np.uint8)])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
predict_files(predictor, Path(sys.argv[2]), [Path("big.jpg")], Path(sys.argv[3]), num_workers=0)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


@pytest.mark.slow
def test_memory_of_a_large_photograph_is_a_few_bytes_per_pixel(trained: Path, tmp_path: Path) -> None:
    height, width = 5000, 6000
    image = cv2.resize(lesion(50, 60), (width, height))
    cv2.imwrite(str(tmp_path / "big.jpg"), image)
    checkpoint = trained / "models" / "checkpoints" / "tiny.pt"
    arguments = [str(checkpoint), str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True
    )
    # 3 the image, 3 the drawing, 3 its copy for the encoder, 1 the mask; 6 for strips and files.
    assert int(done.stdout.split()[-1]) < 16 * height * width
