"""One image, one mask: in Python and by the script."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from warm_scripts import WarmScript

import polymask
from polymask.data.images import read_image
from polymask.errors import UserError
from polymask.structures.smoothing import smooth_mask


@pytest.fixture
def image(trained: Path) -> Path:
    return sorted((trained / "lesions" / "images").glob("*.jpg"))[0]


def test_the_mask_of_a_run_is_smoothed_and_written(trained: Path, image: Path, tmp_path: Path) -> None:
    result = polymask.load("tiny", device="cpu").predict([image])[0]
    output, overlay = tmp_path / "new" / "mask.png", tmp_path / "overlay.jpg"
    mask = polymask.predict_mask(image, output, run="tiny", overlay=overlay, device="cpu")
    np.testing.assert_array_equal(mask, smooth_mask(result.mask))
    np.testing.assert_array_equal(read_image(output)[..., 0], 255 * mask)
    assert read_image(overlay).shape == read_image(image).shape
    plain = polymask.predict_mask(read_image(image), run="tiny", smoothing=0, device="cpu")
    np.testing.assert_array_equal(plain, result.mask > 0)


def test_the_final_model_is_taken_before_the_newest_run(
    trained: Path, image: Path, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        polymask.predict_mask(image, device="cpu")
    (project / "models").mkdir()
    shutil.copy(
        trained / "models" / "checkpoints" / "tiny.pt", project / "models" / "final_lesion_segmenter.pth"
    )
    with caplog.at_level(logging.INFO):
        assert polymask.predict_mask(image, device="cpu").shape == read_image(image).shape[:2]
    assert str(image) in caplog.text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"output": "mask.jpg"}, r"output=mask\.jpg cannot hold a mask exactly"),
        ({"overlay": "look.txt"}, r"overlay=look\.txt is no name of a picture"),
        ({"smoothing": -1}, "smoothing=-1 is not valid"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(names: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        polymask.predict_mask("nowhere.jpg", run="nobody", **names)


def test_the_script_says_what_it_found_and_ends_with_two_when_it_cannot(trained: Path, image: Path) -> None:
    good = WarmScript(
        "predict", ["--image", str(image), "--output", "out/mask.png", "--run", "tiny"], trained
    )
    printed, _ = good.communicate(timeout=120)
    assert good.returncode == 0, printed
    assert "nothing found" in printed or "% of the image" in printed
    assert set(np.unique(read_image(trained / "out" / "mask.png"))) <= {0, 255}
    bad = WarmScript("predict", ["--image", "none.jpg", "--output", "mask.png", "--run", "tiny"], trained)
    printed, _ = bad.communicate(timeout=120)
    assert bad.returncode == 2
    assert len([line for line in printed.splitlines() if line.startswith("error:")]) == 1
    assert not (trained / "mask.png").exists()
