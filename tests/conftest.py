from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from polymask.utils import paths

LESION_COLOURS = {"MEL": (60, 40, 40), "NV": (170, 90, 40), "BKL": (110, 110, 190)}  # RGB
IMAGES_PER_LESION = (2, 2, 1, 1, 1, 1)  # of each class


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project root: whatever a run writes lands below it instead of in the repository."""
    monkeypatch.setattr(paths, "PROJECT_ROOT", tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def lesion_folder(tmp_path: Path) -> Path:
    """The HAM10000 layout: 24 images of 48 x 64 pixels, 8 of each class, of 18 lesions."""
    return write_lesions(tmp_path / "lesions")


@pytest.fixture(scope="session")
def _trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from polymask import cli

    root = tmp_path_factory.mktemp("trained")
    options = [
        "run_name=tiny",
        f"data.data_dir={write_lesions(root / 'lesions')}",
        "data.classes=[MEL,NV,BKL]",
        "data.image_size=[32,48]",
        "data.batch_size=5",
        "data.num_workers=0",
        "data.fractions=[0.4,0.2,0.4]",
        "transforms=none",
        "model.encoder_name=resnet18",
        "model.encoder_weights=null",
        "optimizer.learning_rate=1.0e-3",
        "trainer.device=cpu",
        "trainer.precision=fp32",
        "tracker=none",
        "epochs=2",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROJECT_ROOT", root)
        cli.run("train", options)
    return root


@pytest.fixture
def trained(_trained_once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project root of one run called `tiny`, trained on `lesions/` and tested; not to be written to."""
    monkeypatch.setattr(paths, "PROJECT_ROOT", _trained_once)
    return _trained_once


def write_lesions(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rows = ["lesion_id,image_id,dx"]
    for dx, colour in LESION_COLOURS.items():
        for lesion, count in enumerate(IMAGES_PER_LESION):
            for _ in range(count):
                name = f"ISIC_{len(rows):07d}"
                rows.append(f"HAM_{dx}_{lesion},{name},{dx.lower()}")
                _write_lesion(folder, name, colour, rng)
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def _write_lesion(folder: Path, name: str, colour: tuple[int, int, int], rng: np.random.Generator) -> None:
    centre = int(rng.integers(26, 38)), int(rng.integers(20, 28))
    axes = int(rng.integers(10, 18)), int(rng.integers(8, 14))
    mask = np.zeros((48, 64), np.uint8)
    cv2.ellipse(mask, centre, axes, float(rng.integers(180)), 0, 360, 255, thickness=-1)
    image = np.where(mask[..., None] > 0, colour, (225, 180, 160)) + rng.integers(-8, 9, (48, 64, 3))
    cv2.imwrite(str(folder / "images" / f"{name}.jpg"), image.astype(np.uint8)[..., ::-1])
    cv2.imwrite(str(folder / "masks" / f"{name}_segmentation.png"), mask)
