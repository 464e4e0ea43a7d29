"""Augmentation whose randomness is a function of (seed, epoch, sample) and nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import albumentations as A
import cv2
import numpy as np

from polymask.data.transform_checks import check_transforms, flatten
from polymask.errors import UserError


class Augmentation:
    """A sequence of albumentations transforms applied to an image and its mask together.

    Args:
        transforms: albumentations transforms, in the order of application.

    Raises:
        UserError: One of them is something else.
    """

    def __init__(self, transforms: Sequence[A.BasicTransform]) -> None:
        for transform in transforms:
            if not isinstance(transform, A.BasicTransform | A.BaseCompose):
                kind = type(transform)
                raise UserError(
                    f"transforms: {kind.__module__}.{kind.__qualname__} is no transform of albumentations; "
                    "use one of these, or leave it out."
                )
        # Loader workers are the parallelism; OpenCV threads inside them only fight for the cores.
        cv2.setNumThreads(0)
        self._compose = A.Compose(list(transforms))

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, seed: Sequence[int], *, keep_size: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment one sample.

        Args:
            image: (H, W, C) uint8, C = 3 (RGB) or any number of greys.
            mask: (H, W) uint8, 255 = ignore; or (H, W, L) uint16, layers of object numbers.
            seed: Any integers, here (run seed, epoch, sample index, repeat); equal seeds give equal results.
            keep_size: Whether the result must be as high and wide as `image`.

        Returns:
            Image and mask, of the same types.
        """
        generator = np.random.default_rng(list(seed))
        # One generator shared by all transforms. `Compose.set_random_seed` would give each its own copy
        # with the same seed, and "flip left-right" and "flip up-down" would then always fall together.
        self._compose.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        result = self._compose(image=image, mask=mask)
        if keep_size and result["image"].shape != image.shape:
            # A quarter turn of an oblong image does not fit the batch; another quarter, half a turn, does.
            result = {name: np.ascontiguousarray(np.rot90(value)) for name, value in result.items()}
        return result["image"], result["mask"]

    def check(
        self,
        image_size: Callable[[], tuple[int, int]],
        *,
        layers: bool = False,
        keep_size: bool = True,
        channels: int = 3,
    ) -> None:
        """Try the transforms on made-up images, see `check_transforms`.

        Raises:
            UserError: Image or mask do not stay what they must be.
        """
        check_transforms(
            self._compose.transforms,
            image_size=image_size,
            layers=layers,
            keep_size=keep_size,
            channels=channels,
        )

    def refuse_copied_borders(self) -> None:
        """Stop at a transform that fills what comes from outside with parts of the image.

        A mirrored copy of an object would carry its number, and one box would span both.

        Raises:
            UserError: There is such a transform.
        """
        for transform in flatten(self._compose.transforms):
            if getattr(transform, "border_mode", cv2.BORDER_CONSTANT) != cv2.BORDER_CONSTANT:
                raise UserError(
                    f"transforms: {type(transform).__name__} fills the border with copies of the image, in "
                    "which objects would be doubled; set its border_mode to 0, e.g. "
                    "transforms.affine.border_mode=0."
                )
