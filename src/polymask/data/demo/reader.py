"""A demo data set made by code: synthetic dermoscopy in the HAM10000 folder layout.

It lets every command run without a download. The images carry no medical knowledge; every row of the
metadata and a README say that they are synthetic.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from polymask.data.demo.drawing import draw_image
from polymask.data.demo.staging import write_once
from polymask.data.records import Record
from polymask.data.sources.ham10000 import read_ham10000
from polymask.errors import UserError
from polymask.utils.files import write_text
from polymask.utils.tables import csv_text

# Nevi lead as in HAM10000, yet every class keeps enough images for a small validation and test split.
_SHARES = {"nv": 0.28, "mel": 0.14, "bkl": 0.14, "bcc": 0.12, "akiec": 0.11, "vasc": 0.11, "df": 0.10}
_MIN_LESIONS = 3  # per class: one each for training, validation and test
_VIEWS = (1, 1, 1, 2, 1, 1, 3)  # images of successive lesions of a class; the first three must be 1
_PLACES = (
    "abdomen",
    "back",
    "chest",
    "face",
    "foot",
    "lower extremity",
    "neck",
    "scalp",
    "trunk",
    "upper extremity",
)
_README = """These images are SYNTHETIC. A program drew them; no patient is shown, and nothing learned from
them holds for real skin. They exist so that training, testing and inference can be tried without a download.

The layout is that of HAM10000: images/, masks/ (255 in the lesion, 0 outside) and metadata.csv.

{settings}
"""


def write_demo_dataset(
    folder: Path, *, num_images: int = 560, size: tuple[int, int] = (150, 200), seed: int = 0
) -> None:
    """Write images/, masks/, metadata.csv and README.txt unless the folder is there already.

    The folder appears whole or not at all, and of several writers at once the first one wins. The same
    arguments give the same bytes (with the same OpenCV and NumPy).

    Args:
        folder: Where the data set shall stand; missing parents are made.
        num_images: At least 21, so that each of the 7 classes has 3 lesions.
        size: (height, width) in pixels, at least 32 each.
        seed: Decides every image, at least 0.

    Raises:
        UserError: An argument is too small, or `folder` exists and holds something else or a demo data
            set of other arguments.
    """
    _check_arguments(num_images, size, seed)
    settings = f"num_images={num_images}, size=({size[0]}, {size[1]}), seed={seed}"
    write_once(
        folder,
        lambda staged: _write_files(staged, num_images, size, seed),
        readme=_README,
        settings=settings,
        part="metadata.csv",
    )


def read_demo(
    data_dir: Path,
    *,
    classes: Sequence[str],
    allow_absent: bool = False,
    num_images: int = 560,
    size: tuple[int, int] = (150, 200),
    seed: int = 0,
) -> tuple[list[Record], list[str]]:
    """Write the demo data set unless it is there, then read it like HAM10000.

    Args:
        data_dir: Folder of the demo data set; it need not exist.
        classes: Class names, as for `read_ham10000`.
        allow_absent: As for `read_ham10000`.
        num_images: As for `write_demo_dataset`.
        size: (height, width) in pixels.
        seed: Decides every image.

    Returns:
        One record per image, and `classes`.

    Raises:
        UserError: As `write_demo_dataset` and `read_ham10000` do.
    """
    write_demo_dataset(data_dir, num_images=num_images, size=size, seed=seed)
    return read_ham10000(data_dir, classes=classes, allow_absent=allow_absent)


def _check_arguments(num_images: int, size: tuple[int, int], seed: int) -> None:
    least = _MIN_LESIONS * len(_SHARES)
    if num_images < least:
        raise UserError(f"num_images={num_images} is too small for the demo data. Give at least {least}.")
    if min(size) < 32:
        raise UserError(f"size={tuple(size)} is too small. Give (height, width) of at least 32 pixels each.")
    if seed < 0:
        raise UserError(f"seed={seed} is negative. Give 0 or more.")


def _write_files(folder: Path, num_images: int, size: tuple[int, int], seed: int) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows = _metadata(num_images, seed)
    for number, row in enumerate(rows):
        lesion = int(row["lesion_id"].removeprefix("SYNL_"))
        image, mask = draw_image(
            row["dx"], lesion_seed=(seed, 1, lesion), view_seed=(seed, 2, number), size=size
        )
        _save(folder / "images" / f"{row['image_id']}.jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        _save(folder / "masks" / f"{row['image_id']}_segmentation.png", mask, [])
    write_text(folder / "metadata.csv", csv_text(list(rows[0]), rows))


def _save(path: Path, image: NDArray[np.uint8], options: list[int]) -> None:
    # Not cv2.imwrite, which answers a full disk with False instead of an error.
    path.write_bytes(cv2.imencode(path.suffix, image, options)[1].tobytes())


def _metadata(num_images: int, seed: int) -> list[dict[str, str]]:
    """Return the rows of metadata.csv; neither lesion nor image ids are sorted by class."""
    rng = np.random.default_rng((seed, 0))
    # Every class gets its three lesions, the rest follows the shares; rounded sums add up to num_images.
    rest = num_images - _MIN_LESIONS * len(_SHARES)
    counts = _MIN_LESIONS + np.diff(np.rint(np.cumsum([0, *_SHARES.values()]) * rest)).astype(int)
    lesions = [(dx, views) for dx, count in zip(_SHARES, counts, strict=True) for views in _views(count)]
    rows = []
    for number, index in enumerate(rng.permutation(len(lesions)), start=1):
        dx, views = lesions[index]
        row = {"lesion_id": f"SYNL_{number:07d}", "image_id": "", "dx": dx, "dx_type": "synthetic"}
        row |= {"age": f"{5.0 * rng.integers(4, 18)}", "sex": str(rng.choice(["female", "male"]))}
        row |= {"localization": str(rng.choice(_PLACES))}
        rows += [row] * views
    shuffled = (rows[index] for index in rng.permutation(len(rows)))
    return [row | {"image_id": f"SYN_{number:07d}"} for number, row in enumerate(shuffled, start=1)]


def _views(count: int) -> list[int]:
    """Return the numbers of images of a class's lesions, `count` images in all."""
    ends = list(itertools.takewhile(lambda end: end < count, itertools.accumulate(itertools.cycle(_VIEWS))))
    return np.diff([0, *ends, count]).tolist()
