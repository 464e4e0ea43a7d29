"""Objects drawn onto images, for people to look at: contour, tint, class and score of each.

Colours tell the classes apart; with a single class they tell the objects apart that lie side by side.
Images are (H, W, 3) uint8 RGB. Every function returns a new image.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from polymask.data.images import resize_image
from polymask.families.instances.labels import Colour, Label, write_labels
from polymask.reporting.canvas import PALETTE, WHITE, column, text_bar
from polymask.structures.crops import Crop, crop
from polymask.structures.objects import FoundObjects, TrueObjects

_OBJECT_COLOURS = 7  # of Okabe and Ito; no more are needed to tell neighbours apart
_CROWD_COLOUR = (190, 190, 190)
_TINT = 0.25
_LEAST_SIDE = 640  # of an overlay: smaller images are enlarged so that words have room
_MOST_ENLARGED = 8
_TILE_SIDES = (480, 960)  # longest side of one half of a panel
_MOST_HEADINGS = 4  # classes named above an image


def overlay_instances(image: np.ndarray, prediction: FoundObjects, class_names: Sequence[str]) -> np.ndarray:
    """Draw the found objects with class and score below a heading that counts them.

    Small images are enlarged by a whole factor, because letters do not shrink with them.

    Args:
        image: (H, W, 3) uint8 RGB of the prediction's size.
        prediction: The found objects.
        class_names: Names of the K classes.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    factor = min(-(-_LEAST_SIDE // max(image.shape[:2])), _MOST_ENLARGED)
    size = image.shape[0] * factor, image.shape[1] * factor
    drawn = draw_found(resize_image(image, size), prediction, class_names)
    return column(drawn, _headings("found", prediction.labels, class_names))


def instance_panel(
    image: np.ndarray,
    truth: TrueObjects | None,
    prediction: FoundObjects,
    class_names: Sequence[str],
) -> np.ndarray:
    """Place the true objects, or the bare image when they are unknown, and the found ones side by side.

    Images are enlarged or reduced so that words are legible and the panel fits on a screen.

    Args:
        image: (H, W, 3) uint8 RGB.
        truth: The true objects; crowds are grey.
        prediction: The found objects.
        class_names: Names of the K classes.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    longest = max(image.shape[:2])
    factor = np.clip(longest, *_TILE_SIDES) / longest
    small = resize_image(image, [max(1, round(side * factor)) for side in image.shape[:2]])
    if truth is None:
        left = column(small, {"image": WHITE})
    else:
        headings = _headings("true", truth.labels[~truth.crowd], class_names)
        left = column(draw_true(small, truth, class_names), headings)
    headings = _headings("found", prediction.labels, class_names)
    return np.hstack([left, column(draw_found(small, prediction, class_names), headings)])


def add_caption(panel: np.ndarray, caption: str) -> np.ndarray:
    """Return the panel with one line of text below."""
    return np.vstack([panel, text_bar(caption, panel.shape[1])])


def draw_found(image: np.ndarray, prediction: FoundObjects, class_names: Sequence[str]) -> np.ndarray:
    """Draw found objects; `image` may be larger or smaller than the prediction, of the same proportions."""
    crops = [_resize(crop(mask), prediction.size, image.shape[:2]) for mask in prediction.masks]
    colours = _colours(crops, prediction.labels, class_names)
    scores = [f"{score:.2f}" for score in prediction.scores]
    names = [class_names[label] for label in prediction.labels]
    texts = [(f"{name} {score}", score) for name, score in zip(names, scores, strict=True)]
    # Best score first: where words cannot all be shown, those of the surer objects are.
    return _draw(image, [Label(*each) for each in zip(crops, colours, texts, strict=True)])


def draw_true(image: np.ndarray, truth: TrueObjects, class_names: Sequence[str]) -> np.ndarray:
    """Draw true objects, see `draw_found`; the class is written only where there are several."""
    crops = [_resize(crop(mask), truth.size, image.shape[:2]) for mask in truth.masks]
    labels = []
    colours = _colours(crops, truth.labels, class_names)
    for piece, colour, label, crowd in zip(crops, colours, truth.labels, truth.crowd, strict=True):
        name = class_names[label] if len(class_names) > 1 else ""
        texts = ("crowd",) if crowd else (name,) * bool(name)
        labels.append(Label(piece, _CROWD_COLOUR if crowd else colour, texts))
    return _draw(image, labels)


def _draw(image: np.ndarray, labels: Sequence[Label]) -> np.ndarray:
    """Tint, outline and name objects; the small ones lie above the large ones."""
    drawn = image.copy()
    by_area = sorted(labels, key=lambda label: -int(label.crop.mask.sum()))
    for label in by_area:
        pixels, inside = drawn[label.crop.window], label.crop.mask
        pixels[inside] = np.rint((1 - _TINT) * pixels[inside] + _TINT * np.array(label.colour))
    # All contours after all tints: of two objects that overlap, both are seen whole.
    for label in by_area:
        drawn[label.crop.window][_border(label.crop.mask, image.shape)] = label.colour
    write_labels(drawn, labels)
    return drawn


def _border(mask: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """Return the (h, w) bool pixels of an object at its rim, fewer deep where the object is small."""
    if not mask.size:
        return mask
    width = min(-(-max(image_shape[:2]) // 400), min(mask.shape) // 8)
    width = max(width, 1)
    padded = cv2.copyMakeBorder(
        mask.astype(np.uint8), width, width, width, width, cv2.BORDER_CONSTANT, value=0
    )
    inner = cv2.erode(padded, np.ones((2 * width + 1, 2 * width + 1), np.uint8))
    return mask & (inner[width:-width, width:-width] == 0)


def _resize(piece: Crop, size: Sequence[int], new_size: Sequence[int]) -> Crop:
    """Bring a mask from an image of `size` to one of `new_size`, both (height, width).

    A pixel of the result is inside when any pixel below it is: thin fibres do not fall apart.
    """
    if tuple(size) == tuple(new_size) or not piece.mask.size:
        return piece
    first, mask = [], piece.mask
    for axis, (start, old, new) in enumerate(zip((piece.y, piece.x), size, new_size, strict=True)):
        stop = start + mask.shape[axis]
        low, high = start * new // old, -(-stop * new // old)
        sources = np.arange(low, high) * old // new - start
        mask = np.logical_or.reduceat(mask, sources.clip(0), axis=axis)
        first.append(low)
    return Crop(first[1], first[0], mask)


def _headings(word: str, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, Colour]:
    """Return what stands above an image: the number of objects, in all or of each class in its colour."""
    present = np.unique(labels).tolist()
    if len(class_names) == 1:
        return {f"{word}: {len(labels)} x {class_names[0]}": WHITE}
    if not 0 < len(present) <= _MOST_HEADINGS:
        return {f"{word}: {len(labels)}": WHITE}
    counts = {f"{class_names[label]}: {(labels == label).sum()}": _class_colour(label) for label in present}
    return {word: WHITE, **counts}


def _colours(crops: Sequence[Crop], labels: np.ndarray, class_names: Sequence[str]) -> list[Colour]:
    if len(class_names) > 1:
        return [_class_colour(label) for label in labels]
    return [_class_colour(number) for number in _unlike_neighbours(crops)]


def _class_colour(label: int) -> Colour:
    red, green, blue = PALETTE[1 + int(label) % (len(PALETTE) - 1)].tolist()
    return red, green, blue


def _unlike_neighbours(crops: Sequence[Crop]) -> np.ndarray:
    """Return a colour number (N,) for each object that none beside it has, as far as there are enough."""
    windows = [piece.window for piece in crops]
    edges = [(rows.start, columns.start, rows.stop, columns.stop) for rows, columns in windows]
    boxes = np.array(edges, int).reshape(-1, 4)
    numbers = np.full(len(boxes), -1)
    # From top to bottom: an object then meets about half of its neighbours, which leaves it a choice.
    for index in np.lexsort((boxes[:, 1], boxes[:, 0])):
        box = boxes[index]
        near = (boxes[:, :2] <= box[2:] + 2).all(axis=1) & (boxes[:, 2:] >= box[:2] - 2).all(axis=1)
        wanted = (index + np.arange(_OBJECT_COLOURS)) % _OBJECT_COLOURS
        free = wanted[~np.isin(wanted, numbers[near])]
        numbers[index] = free[0] if len(free) else wanted[0]
    return numbers
