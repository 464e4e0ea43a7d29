"""Masks drawn onto images, for people to look at.

Images are (H, W, 3) uint8 RGB. Masks are (H, W) integers (or bool): 0 and below is background, 255 is
"ignore", anything else is a class or an object. Every function returns a new image.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from polymask.structures.masks import IGNORE

TRUE_COLOUR = (0, 255, 0)
PREDICTED_COLOUR = (255, 0, 255)  # magenta: stays apart from green for every common colour blindness

# Longest side of one tile of a panel, in pixels: enough for its heading, and three still fit on a screen.
_TILE_SIDES = (320, 640)
_LEAST_WIDTH = 200  # of a column, for its headings
_GAP = 4
_STRIP_PIXELS = 2**22  # drawn at a time
_DARK = 32
WHITE = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TEXT_SCALES = (0.7, 0.6, 0.5, 0.45)  # smaller letters run together


def _make_palette() -> np.ndarray:
    """Return the (256, 3) uint8 colour table: black, Okabe-Ito, two more, then evenly spread hues."""
    first = bytes.fromhex("000000 56b4e9 e69f00 009e73 d55e00 f0e442 0072b2 cc79a7 999999 661100")
    table = np.frombuffer(first, np.uint8).reshape(-1, 3)
    golden = (5**0.5 - 1) / 2  # steps of the golden ratio keep neighbouring numbers far apart in hue
    rest = [
        colorsys.hsv_to_rgb(index * golden % 1, 0.5 + 0.125 * (index % 5), 1 - 0.2 * (index % 4))
        for index in range(len(table), 256)
    ]
    return np.vstack([table, np.rint(np.array(rest) * 255)]).astype(np.uint8)


PALETTE = _make_palette()
"""(256, 3) uint8 RGB, one colour per class. 0 is black (background), 1-7 are the colours of Okabe and Ito,
"Color universal design" (2008), which stay apart for colour-blind readers."""


def _check_fit(mask: np.ndarray, image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or mask.shape != image.shape[:2]:
        raise ValueError(
            f"mask {mask.shape} must be (H, W) of the RGB image {image.shape}: resize the mask first."
        )


def _labels(mask: np.ndarray) -> np.ndarray:
    """Return `mask` as (H, W) int32 with background and ignored pixels 0."""
    labels = mask.astype(np.int32)
    return np.where((labels < 0) | (labels == IGNORE), 0, labels)


def _line_width(image: np.ndarray) -> int:
    """Return the width of an outline in pixels: one for each 300 pixels of the longest side."""
    return max(1, round(max(image.shape[:2]) / 300))


def inner_border(labels: np.ndarray, width: int) -> np.ndarray:
    """Return the (H, W) bool pixels of objects that lie within `width` of another label or the image edge."""
    # float32 holds labels up to 2**24 exactly, bytes are four times as fast; background around the image
    # closes the objects that it cuts.
    kind = np.uint8 if labels.max(initial=0) <= 255 else np.float32
    padded = cv2.copyMakeBorder(labels.astype(kind), width, width, width, width, cv2.BORDER_CONSTANT, value=0)
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    same = cv2.erode(padded, kernel) == cv2.dilate(padded, kernel)
    return (labels > 0) & ~same[width:-width, width:-width]


def _strips(mask: np.ndarray, width: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield rows of a mask, its labels there and their inner borders of `width` pixels.

    Strip by strip, so that what drawing needs besides the picture does not grow with it.
    """
    height = len(mask)
    step = max(_STRIP_PIXELS // mask.shape[1], 4 * width)
    for start in range(0, height, step):
        stop = min(start + step, height)
        top = max(0, start - width)  # a border depends on the rows up to `width` away
        labels = _labels(mask[top : stop + width])
        inner = slice(start - top, stop - top)
        yield slice(start, stop), labels[inner], inner_border(labels, width)[inner]


def overlay_mask(
    image: np.ndarray, mask: np.ndarray, palette: np.ndarray | None = None, alpha: float = 0.4
) -> np.ndarray:
    """Tint every labelled pixel with the colour of its class and draw the contours in the full colour.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) int; 0 (background) and 255 (ignore) are left as they are. Labels beyond the palette
            start it over, without its background colour.
        palette: (K, 3) uint8 RGB, row k is the colour of class k; `PALETTE` by default.
        alpha: Weight of the colour, from 0 (only contours) to 1 (opaque).

    Returns:
        (H, W, 3) uint8 RGB. Contours lie inside the objects, so pixels outside of the mask never change.

    Raises:
        ValueError: The sizes of the mask and of the image differ.
    """
    palette = PALETTE if palette is None else palette
    _check_fit(mask, image)
    drawn = image.copy()
    for rows, labels, border in _strips(mask, _line_width(image)):
        inside = labels > 0
        colours = palette[1 + (labels[inside] - 1) % (len(palette) - 1)]
        weight = np.where(border[inside], np.float32(1), np.float32(alpha))[:, None]
        drawn[rows][inside] = np.rint((1 - weight) * image[rows][inside] + weight * colours)
    return drawn


def overlay_heat(image: np.ndarray, heat: np.ndarray, alpha: float = 0.7) -> np.ndarray:
    """Draw a map onto an image: nothing where it is 0, over violet and orange to bright yellow where it is 1.

    Args:
        image: (H, W, 3) uint8 RGB.
        heat: (H, W) float in [0, 1].
        alpha: Weight of the colour where the map is 1; it falls with the map, so that the image is seen.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: The sizes of the map and of the image differ.
    """
    _check_fit(heat, image)
    drawn = np.empty_like(image)
    step = max(1, _STRIP_PIXELS // heat.shape[1])
    for start in range(0, len(heat), step):
        rows = slice(start, start + step)
        levels = np.rint(255 * heat[rows]).astype(np.uint8)
        colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
        weight = np.float32(alpha) * heat[rows, :, None]
        drawn[rows] = np.rint((1 - weight) * image[rows] + weight * colours)
    return drawn


def draw_outlines(image: np.ndarray, true_mask: np.ndarray | None, predicted_mask: np.ndarray) -> np.ndarray:
    """Outline the true objects in green and the predicted ones in magenta.

    Both lines begin at the border of their mask and grow inwards. The true one is twice as wide and lies
    below, so that where both agree magenta runs outside of green and neither hides the other.

    Args:
        image: (H, W, 3) uint8 RGB.
        true_mask: (H, W) int, None when it is unknown.
        predicted_mask: (H, W) int.

    Returns:
        (H, W, 3) uint8 RGB, a copy.

    Raises:
        ValueError: The sizes of a mask and of the image differ.
    """
    drawn = image.copy()
    width = _line_width(image)
    lines = [(predicted_mask, width, PREDICTED_COLOUR)]
    if true_mask is not None:
        lines.insert(0, (true_mask, 2 * width, TRUE_COLOUR))
    for mask, line, colour in lines:
        _check_fit(mask, image)
        for rows, _, border in _strips(mask, line):
            drawn[rows][border] = colour
    return drawn


def text_bar(text: str, width: int, colour: tuple[int, int, int] = WHITE) -> np.ndarray:
    """Return a dark bar (h, width, 3) with one line of text, made smaller and at last cut to fit."""
    text = " ".join(text.split())

    def fits(words: str, scale: float) -> bool:
        return cv2.getTextSize(words, _FONT, scale, 1)[0][0] <= width - 2 * _GAP

    scale = next((scale for scale in _TEXT_SCALES if fits(text, scale)), _TEXT_SCALES[-1])
    if not fits(text, scale):
        kept = next((n for n in range(len(text), 0, -1) if fits(text[:n].rstrip() + "...", scale)), 0)
        text = text[:kept].rstrip() + "..."
    # One height for every scale, so that bars can stand side by side.
    (_, above), below = cv2.getTextSize("Ag", _FONT, _TEXT_SCALES[0], 1)
    bar = np.full((above + below + 3 * _GAP, width, 3), _DARK, np.uint8)
    return cv2.putText(bar, text, (_GAP, above + _GAP), _FONT, scale, colour, 1, cv2.LINE_AA)


def tile_size(image: np.ndarray) -> tuple[int, int]:
    """Return (width, height) of the tile of a panel that shows `image`."""
    height, width = image.shape[:2]
    longest = max(height, width)
    factor = min(max(longest, _TILE_SIDES[0]), _TILE_SIDES[1]) / longest
    return max(1, round(width * factor)), max(1, round(height * factor))


def _resize_labels(mask: np.ndarray, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the labels of `mask` at (width, height) `size`; each takes its nearest pixel."""
    _check_fit(mask, image)
    # OpenCV does not take all types; a mask of bytes, which may be large, is not copied.
    pixels = mask if mask.dtype == np.uint8 else mask.astype(np.float32)
    return _labels(cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST))


def column(image: np.ndarray, headings: dict[str, tuple[int, int, int]]) -> np.ndarray:
    """Return one column of a panel: the headings next to each other in their colours, the image below."""
    spare = max(0, _LEAST_WIDTH - image.shape[1])
    border = (0, 0, spare // 2 + _GAP // 2, spare - spare // 2 + _GAP // 2)
    image = cv2.copyMakeBorder(image, *border, cv2.BORDER_CONSTANT, value=(_DARK,) * 3)
    edges = np.linspace(0, image.shape[1], len(headings) + 1).astype(int)
    bars = [
        text_bar(text, width, colour)
        for (text, colour), width in zip(headings.items(), np.diff(edges), strict=True)
    ]
    return np.vstack([np.hstack(bars), image])


def prediction_panel(
    image: np.ndarray,
    true_mask: np.ndarray | None,
    predicted_mask: np.ndarray,
    caption: str,
    heat: np.ndarray | None = None,
) -> np.ndarray:
    """Place the image, the overlaid prediction and the outlines of truth and prediction side by side.

    Images are enlarged or reduced so that the text is legible and the panel fits on a screen.

    Args:
        image: (H, W, 3) uint8 RGB.
        true_mask: (H, W) int, None when it is unknown.
        predicted_mask: (H, W) int.
        caption: One line for the bar below; it is made smaller, then cut, when it does not fit.
        heat: (H, W) float in [0, 1]: where the class was seen, for a fourth picture. None without.

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        ValueError: The sizes of a mask and of the image differ.
    """
    size = tile_size(image)
    predicted = _resize_labels(predicted_mask, image, size)
    true = None if true_mask is None else _resize_labels(true_mask, image, size)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    outlines = {} if true is None else {"true": TRUE_COLOUR}
    columns = [
        column(small, {"image": WHITE}),
        column(overlay_mask(small, predicted), {"prediction": WHITE}),
        column(draw_outlines(small, true, predicted), {**outlines, "predicted": PREDICTED_COLOUR}),
    ]
    if heat is not None:
        columns.append(column(heat_tile(image, true_mask, heat), {"explanation": WHITE}))
    panel = np.hstack(columns)
    return np.vstack([panel, text_bar(caption, panel.shape[1])])


def heat_tile(image: np.ndarray, true_mask: np.ndarray | None, heat: np.ndarray) -> np.ndarray:
    """Return `overlay_heat` with the outline of the truth, as large as a tile of a panel.

    Args:
        image: (H, W, 3) uint8 RGB.
        true_mask: (H, W) int, None when it is unknown.
        heat: (H, W) float in [0, 1].
    """
    _check_fit(heat, image)
    size = tile_size(image)
    small, levels = (cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in (image, heat))
    drawn = overlay_heat(small, levels)
    true = None if true_mask is None else _resize_labels(true_mask, image, size)
    return draw_outlines(drawn, true, np.zeros(drawn.shape[:2], np.uint8))


def stack_panels(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Place (H, W, 3) uint8 pictures of any widths one below the other, on the left; returns (H', W', 3)."""
    width = max(panel.shape[1] for panel in panels)
    padded = [
        cv2.copyMakeBorder(panel, 0, _GAP, 0, width - panel.shape[1], cv2.BORDER_CONSTANT, value=(_DARK,) * 3)
        for panel in panels
    ]
    return np.vstack(padded)
