"""Found objects: which of them count, and their map of numbers."""

from __future__ import annotations

import numpy as np

from polymask.errors import UserError
from polymask.structures.crops import crop
from polymask.structures.objects import FoundObjects

_MOST_OBJECTS = np.iinfo(np.uint16).max


def confident_objects(prediction: FoundObjects, score_threshold: float) -> FoundObjects:
    """Return the objects of at least that score: those that are counted, measured and drawn."""
    return prediction[prediction.scores >= score_threshold]


def label_map(prediction: FoundObjects) -> np.ndarray:
    """Draw objects into one image of numbers.

    Where objects overlap the better score wins, so an object that lies below others may have fewer pixels
    than its mask, or none.

    Returns:
        (H, W) uint16, 0 is background, n the n-th object, which has the id n in `instance_rows`.

    Raises:
        UserError: There are more objects than numbers.
    """
    if len(prediction.masks) > _MOST_OBJECTS:
        raise UserError(
            f"{prediction.id} has {len(prediction.masks)} objects, and a label map has numbers for "
            f"{_MOST_OBJECTS}; raise task.score_threshold."
        )
    drawn = np.zeros(prediction.size, np.uint16)
    for number in range(len(prediction.masks), 0, -1):
        piece = crop(prediction.masks[number - 1])
        drawn[piece.window][piece.mask] = number
    return drawn
