"""Whether an augmentation leaves images and masks what they must be; found by trying it before a training.

Images stay uint8 with all their channels until they are on the device, where they are normalised; masks hold
labels. A transform that changes this would fail in the middle of a training, or worse: not fail.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import albumentations as A
import numpy as np

from polymask.errors import UserError
from polymask.structures.masks import IGNORE

Probe = tuple[np.ndarray, np.ndarray]
"""An image (H, W, C) uint8 and its mask (H, W) uint8, or layers of objects (H, W, L) uint16."""

_SMALL = (61, 83)  # sides that nobody chooses for a crop
_TRIES = 4  # of a single transform
_TRIES_TOGETHER = 16


def check_transforms(
    transforms: Sequence[Any],
    *,
    image_size: Callable[[], tuple[int, int]],
    layers: bool,
    keep_size: bool,
    channels: int = 3,
) -> None:
    """Try transforms on made-up images, each for itself, and together where one does something odd.

    A transform may do what a later one undoes, as a crop that is resized to the old size.

    Args:
        transforms: albumentations transforms in their order.
        image_size: Returns (height, width) of the images; asked only when it matters.
        layers: Whether masks are layers of object numbers.
        keep_size: Whether the size must stay, but for a quarter turn.
        channels: Of the images: 3 for colours, any number for greys that are stacked.

    Raises:
        UserError: The result has another type, size or number of channels, or labels that were not there.
    """
    small = _probe(_SMALL, layers, channels)
    for place, transform in enumerate(flatten(transforms)):
        # Most are innocent, which a small image tells soonest; only the others are tried in earnest.
        if transform.p == 0 or _fault([_certain(transform)], small, True, _TRIES) is None:
            continue
        probe = _probe(image_size(), layers, channels)
        fault = _fault([_certain(transform)], probe, keep_size, _TRIES)
        others = _fault_together(transforms, place, probe, keep_size)
        if others is not None:
            name = type(transform).__name__
            raise UserError(
                f"transforms: {name} {fault}" if fault else f"transforms: {name} with the others {others}"
            )


def flatten(transforms: Iterable[Any]) -> Iterator[Any]:
    """Yield transforms, and instead of a choice or a sequence of them its members."""
    for transform in transforms:
        if isinstance(transform, A.BaseCompose):
            yield from flatten(transform.transforms)
        else:
            yield transform


def _fault_together(transforms: Sequence[Any], place: int, probe: Probe, keep_size: bool) -> str | None:
    """Return what is wrong with all transforms together, the one at `place` acting by chance, and always."""
    as_they_are, certain = (copy.deepcopy(list(transforms)) for _ in range(2))
    list(flatten(certain))[place].p = 1.0
    faults = (_fault(chain, probe, keep_size, _TRIES_TOGETHER) for chain in (certain, as_they_are))
    return next((fault for fault in faults if fault is not None), None)


def _certain(transform: Any) -> Any:
    """Return a copy that always acts."""
    alone = copy.deepcopy(transform)
    alone.p = 1.0
    return alone


def _fault(transforms: list[Any], probe: Probe, keep_size: bool, tries: int) -> str | None:
    """Return what is wrong with the result of transforms, None when nothing is."""
    image, mask = probe
    compose = A.Compose(transforms)
    for seed in range(tries):
        compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        try:
            result = compose(image=image.copy(), mask=mask.copy())
        except Exception as error:  # whatever a transform says of an image like the user's
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            shown = f"{_shown(image)} pixels{_kind(image)}"
            return f"cannot be applied to an image of {shown}: {reason}. Leave it out."
        for rule in (_type_fault, _channel_fault, _size_fault, _label_fault):
            fault = rule(probe, (result["image"], result["mask"]), keep_size)
            if fault is not None:
                return fault
    return None


def _type_fault(probe: Probe, result: Probe, keep_size: bool) -> str | None:
    for name, before, after in zip(("image", "mask"), probe, result, strict=True):
        if not isinstance(after, np.ndarray):
            return f"turns the {name} into a {type(after).__name__}; leave it out, batches are made later."
        if after.dtype != before.dtype:
            return (
                f"turns the {name} from {before.dtype} into {after.dtype}; leave it out, images are "
                "normalised later, on the device."
            )
    return None


def _channel_fault(probe: Probe, result: Probe, keep_size: bool) -> str | None:
    for name, before, after in zip(("image", "mask"), probe, result, strict=True):
        if after.shape[2:] != before.shape[2:]:
            left, right = (value.shape[2] if value.ndim > 2 else 1 for value in (before, after))
            return (
                f"turns the {name} of {left} channels into one of {right}; all must be kept: for grey images "
                "use num_output_channels=3, or leave it out."
            )
    return None


def _size_fault(probe: Probe, result: Probe, keep_size: bool) -> str | None:
    (image, _), (new, mask) = probe, result
    if new.shape[:2] != mask.shape[:2]:
        return f"makes the image {_shown(new)} pixels but the mask {_shown(mask)}; leave it out."
    if keep_size and new.shape[:2] not in (image.shape[:2], image.shape[1::-1]):
        return (
            f"changes the size from {_shown(image)} to {_shown(new)} pixels, but all images of a batch have "
            f"data.image_size; use data.image_size=[{new.shape[0]},{new.shape[1]}] or RandomResizedCrop with "
            "that size, let a Resize to it follow, or leave it out."
        )
    return None


def _label_fault(probe: Probe, result: Probe, keep_size: bool) -> str | None:
    # Background may come in from outside.
    invented = np.setdiff1d(result[1], [0, *np.unique(probe[1])])
    if not len(invented):
        return None
    shown = ", ".join(map(str, invented[:3].tolist())) + (", …" if len(invented) > 3 else "")
    return (
        f"puts values into the mask that were not there ({shown}); set its mask_interpolation to 0 "
        "(nearest), its fill_mask to 0, or leave it out."
    )


def _probe(size: tuple[int, int], layers: bool, channels: int) -> Probe:
    """Return an image with structure, and labels that lie far apart so that mixing them is seen."""
    height, width = size
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    planes = (x * 200 // width, y * 200 // height, (x + y) % 200)
    image = (np.stack([planes[channel % 3] for channel in range(channels)], -1) + 20).astype(np.uint8)
    image += rng.integers(0, 30, image.shape, np.uint8)
    cells = (y * 4 // height) * 4 + x * 4 // width
    if not layers:
        return image, np.array([0, 1, 0, IGNORE, 0, 1, 1, 0] * 2, np.uint8)[cells]
    numbers = np.array([0, 40000, 0, 300, 1031, 0, 65535, 0] * 2, np.uint16)
    return image, np.stack([numbers[cells], numbers[::-1][cells]], -1)


def _kind(image: np.ndarray) -> str:
    return "" if image.shape[2] == 3 else f" with {image.shape[2]} channels, as slices are stacked"


def _shown(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
