from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lesion_files import lesion

from polymask import cli
from polymask.models.mask_class.smp import build_smp

SIZE = (32, 48)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CHECKPOINT = Path("models", "checkpoints", "tiny.pt")


class PlainModel:
    """The network of the run `tiny` and the arithmetic around it, as plainly as it can be written."""

    def __init__(self, checkpoint: Path) -> None:
        state = torch.load(checkpoint, weights_only=True)["model"]
        self.network = build_smp(
            model="unet",
            encoder_name="tu-test_resnet",
            decoder_channels=[32, 16, 16, 8, 8],
            encoder_weights=None,
            num_masks=1,
            num_classes=3,
        ).eval()
        prefix = "model."
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        self.network.load_state_dict(own)

    def probabilities(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the (h, w) probability of lesion on the network's grid, and the (3,) of the classes."""
        shrinking = image.shape[0] * image.shape[1] > SIZE[0] * SIZE[1]
        way = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
        small = cv2.resize(image, (SIZE[1], SIZE[0]), interpolation=way)
        pixels = torch.from_numpy((small / 255 - MEAN) / STD).float().permute(2, 0, 1)[None]
        with torch.no_grad():
            outputs = self.network(pixels)
        return outputs["mask_logits"].sigmoid()[0, 0].numpy(), outputs["class_logits"].softmax(1)[0].numpy()

    def check_mask(self, mask: np.ndarray, image: np.ndarray) -> None:
        """Compare a 0/1 mask at the image's size with the plain one, up to rounding at the threshold."""
        expected = cv2.resize(self.probabilities(image)[0], (image.shape[1], image.shape[0]))
        assert mask.shape == image.shape[:2]
        assert not ((mask == 1) != (expected > 0.5))[abs(expected - 0.5) > 1e-4].any()
        assert 0 < (mask == 1).mean() < 1


@pytest.fixture
def plain(trained: Path) -> PlainModel:
    return PlainModel(trained / CHECKPOINT)


@pytest.fixture
def infer(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the inference of `tiny` on a folder in this process; results go to `tmp_path/out/tiny`."""
    monkeypatch.setattr(sys, "argv", sys.argv)  # a run under Hydra replaces it
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def run(folder: Path, *overrides: str, command: Callable[..., Any] = cli.run) -> Any:
        options = [
            f"data.data_dir={folder}",
            f"local_save_dir={tmp_path / 'out'}",
            "run_name=tiny",
            "data.num_workers=0",
            "trainer.device=cpu",
            "trainer.precision=fp32",
        ]
        arguments = [*options, *overrides]
        return command("infer", arguments) if command is cli.run else command(["infer", *arguments])

    return run


def write(path: Path, image: np.ndarray) -> Path:
    """Write RGB, RGBA or greyscale pixels in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix
    _, data = cv2.imencode(suffix, image[..., [2, 1, 0, 3][: image.shape[2]]] if image.ndim == 3 else image)
    path.write_bytes(data.tobytes())
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Images of several sizes, shapes, formats and channels, in folders, with awkward names."""
    folder = tmp_path / "pictures"
    write(folder / "b.jpg", lesion(60, 90))
    write(folder / "a portrait.png", lesion(130, 40, seed=1))
    write(folder / "sub" / "deep" / "tiny.JPEG", lesion(9, 14, seed=2))
    write(folder / "sub" / "grid.bmp", lesion(32, 48, seed=3))
    write(folder / "sub" / 'comma, "quote".png', lesion(33, 47, seed=4))
    write(folder / "näevus.tif", lesion(200, 151, seed=5))
    write(folder / "grey.png", lesion(50, 70, seed=6)[..., 1])
    write(folder / "opaque.png", np.dstack([lesion(41, 71, seed=7), np.full((41, 71), 255, np.uint8)]))
    return folder
