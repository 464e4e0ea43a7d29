"""What the applications of all families of images share: finding, reading and collating images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from polymask.data.images import FITS, as_image, fit_image, images_below, parse_image_size, read_image
from polymask.data.intensity import EIGHT_BIT, Range, parse_range
from polymask.errors import UserError, choose, whole_number
from polymask.families.base import RESULTS_NAME, Application, Batch

LARGE_PIXELS = 2**22
"""Images with more are decoded again for drawing, one at a time, instead of waiting in memory."""

_one_large_image = Lock()  # of the process, because an application is copied into others


@dataclass(frozen=True, kw_only=True)
class ImageCase:
    """What is known of an image after the network took it.

    Attributes:
        size: Its own (height, width) in pixels.
        original: What to draw on: the image (H, W, 3) uint8, where to read a large one from again, or None.
    """

    size: tuple[int, int]
    original: Tensor | str | Path | np.ndarray | None = None

    @property
    def is_large(self) -> bool:
        """Return whether few such images would fill the memory."""
        return self.size[0] * self.size[1] > LARGE_PIXELS


class MainMask(NamedTuple):
    """The one mask of an image.

    Attributes:
        mask: (H, W) bool at the image's own size.
        what: What it is, in words; "" when nothing was found.
    """

    mask: np.ndarray
    what: str


class ImageApplication(Application):
    """Applies a task to images, one per file.

    Args:
        data: The `data` section of the stored configuration. Images are resized to its `image_size`, as its
            `fit` says (places in results must then be brought back by `fit_window`); without one the network
            takes them as they are.
        chosen: Values that take the place of those of training: `data.intensity_range`.

    Raises:
        UserError: A value is not allowed.
    """

    def __init__(self, data: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
        size = data.get("image_size")
        self.image_size = None if size is None else parse_image_size(size)
        self.fit = choose("data.fit", data.get("fit") or "stretch", FITS)  # old runs have no such key
        self.settings: dict[str, Any] = dict(chosen)
        stored = parse_range(data.get("intensity_range")) or EIGHT_BIT  # old runs have no such key
        if "data.intensity_range" in self.settings:  # as JSON has it
            self.settings["data.intensity_range"] = list(self.settings["data.intensity_range"])
        self.intensity_range = parse_range(chosen.get("data.intensity_range")) or stored
        # What fitted into memory in training will do so now.
        self.batch_size = data.get("eval_batch_size") or 2 * whole_number(
            "data.batch_size", data.get("batch_size"), least=1
        )

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({values})"

    def find(self, folder: Path) -> list[Path]:
        """Return the images below a folder."""
        return find_images(folder)

    def read(self, source: str | Path | np.ndarray, *, draw: bool = False) -> tuple[Tensor, ImageCase]:
        """Decode an image; return it at the network's input size, (H, W, 3) uint8, and what it was."""
        image = read_pixels(source, self.intensity_range)
        resized = image if self.image_size is None else fit_image(image, self.image_size, self.fit)
        case = ImageCase(size=(image.shape[0], image.shape[1]))
        if draw:
            # Batches of large originals, and their way from the loader's process, would fill the memory.
            original = source if case.is_large else torch.from_numpy(image)
            case = ImageCase(size=case.size, original=original)
        return torch.from_numpy(resized), case

    def collate(self, ids: Sequence[str], inputs: Sequence[Tensor]) -> Batch:
        """Return `ids` and `image`: (B, H, W, 3) uint8, or a list where images keep their own sizes."""
        images = list(inputs)
        return {"ids": list(ids), "image": images if self.image_size is None else torch.stack(images)}

    def write(self, folder: Path, name: Path, prediction: Any, case: ImageCase) -> dict[str, Any]:
        """Write the files of one image; of large ones, one after the other."""
        with _one_large_image if case.is_large else nullcontext():
            original = self._original(case)
            return self.write_result(folder, name, self.result(prediction, case), original)

    @abstractmethod
    def write_result(
        self, folder: Path, name: Path, result: Any, original: np.ndarray | None
    ) -> dict[str, Any]:
        """Write the files of one image.

        Args:
            folder: Folder of the results.
            name: Path of the files below each of `folders`, without suffix.
            result: What `result` returned.
            original: (H, W, 3) uint8 RGB to draw on, None when nothing is to be drawn.

        Returns:
            Its row of `predictions.csv`.
        """

    def main_mask(self, result: Any) -> MainMask:
        """Return the one mask that says most of an image; without masks there is none.

        Args:
            result: What `result` returned.

        Raises:
            UserError: The task predicts no masks.
        """
        raise UserError("the run predicts no masks; take a run that does.")

    def _original(self, case: ImageCase) -> np.ndarray | None:
        if case.original is None:
            return None
        if isinstance(case.original, Tensor):
            return case.original.numpy()
        return read_pixels(case.original, self.intensity_range)


def find_images(folder: Path) -> list[Path]:
    """Return the images below a folder without the results of earlier inferences, see `images_below`."""
    return images_below(folder, without=RESULTS_NAME)


def read_pixels(source: str | Path | np.ndarray, intensity_range: Range) -> np.ndarray:
    """Return an image as (H, W, 3) uint8, the same for a file and for the values that it holds.

    Raises:
        UserError: A file cannot be read, an array is no image, or its values do not fit the range.
    """
    if not isinstance(source, np.ndarray):
        return read_image(source, intensity_range)
    is_image = source.size > 0 and (source.ndim == 2 or (source.ndim == 3 and source.shape[2] == 3))
    if not is_image or source.dtype.kind not in "uif":
        raise UserError(
            f"an image is an array {source.shape} of {source.dtype}; give (height, width, 3) RGB or (height, "
            "width) grey, of uint8 or the number type of the training images."
        )
    return as_image(source, intensity_range, "an image")
