"""Pictures inside of a page, as data URIs."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np

from polymask.reporting.page.blocks import Picture

_KEPT_BYTES = 400_000  # a figure of no more stays as it is, sharp to the pixel
_FIGURE_SIZE = (1600, 2400)
_PANEL_SIZE = (720, 900)
_QUALITY = 80


def panel_picture(image: np.ndarray, alt: str) -> Picture:
    """Return the drawing of a sample, small enough that dozens fit into a page.

    Args:
        image: (H, W, 3) uint8 RGB.
        alt: What it shows.
    """
    return _picture(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), alt, _PANEL_SIZE)


def figure_picture(path: Path, alt: str) -> Picture:
    """Return the picture of a PNG file: as it is when it is small, else made smaller."""
    content = path.read_bytes()
    if len(content) > _KEPT_BYTES:
        return _picture(_decode(content), alt, _FIGURE_SIZE)
    # The first chunk of the format says the size, so that nothing need be decoded.
    width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))
    return Picture(uri=_uri("png", content), width=width, height=height, alt=alt)


def file_panel(path: Path, alt: str) -> Picture:
    """Return the drawing of a sample from its PNG file, see `panel_picture`."""
    return _picture(_decode(path.read_bytes()), alt, _PANEL_SIZE)


def _decode(content: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))


def _picture(image: np.ndarray, alt: str, largest: tuple[int, int]) -> Picture:
    """Return a (H, W, 3) uint8 BGR image as JPEG, no larger than `largest` (width, height)."""
    height, width = image.shape[:2]
    scale = min(1.0, largest[0] / width, largest[1] / height)
    if scale < 1:
        width, height = max(1, round(scale * width)), max(1, round(scale * height))
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    # Not WebP, which is half as large but takes ten times as long.
    _, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return Picture(uri=_uri("jpeg", content.tobytes()), width=width, height=height, alt=alt)


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
