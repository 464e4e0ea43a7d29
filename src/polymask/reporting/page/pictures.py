"""Pictures inside of a page, as data URIs."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np

from polymask.reporting.page.blocks import Picture

_KEPT_BYTES = 120_000  # a figure of no more stays as it is, sharp to the pixel
_FIGURE_SIZE = (1600, 2400)
_PANEL_SIZE = (720, 900)
_QUALITY = 78


def panel_picture(image: np.ndarray, alt: str) -> Picture:
    """Return the drawing of a sample, small enough that dozens fit into a page.

    Args:
        image: (H, W, 3) uint8 RGB.
        alt: What it shows.
    """
    return _picture(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), alt, _PANEL_SIZE)


def figure_picture(path: Path, alt: str, *, is_panel: bool = False) -> Picture:
    """Return the picture of a file: as it is when it is small, else made smaller.

    Args:
        path: A PNG file.
        alt: What it shows.
        is_panel: Whether it is one of many.
    """
    content = path.read_bytes()
    image = np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))
    if len(content) > _KEPT_BYTES or is_panel:
        return _picture(image, alt, _PANEL_SIZE if is_panel else _FIGURE_SIZE)
    height, width = image.shape[:2]
    return Picture(uri=_uri("png", content), width=width, height=height, alt=alt)


def _picture(image: np.ndarray, alt: str, largest: tuple[int, int]) -> Picture:
    """Return a (H, W, 3) uint8 BGR image as WebP, no larger than `largest` (width, height)."""
    height, width = image.shape[:2]
    scale = min(1.0, largest[0] / width, largest[1] / height)
    if scale < 1:
        width, height = max(1, round(scale * width)), max(1, round(scale * height))
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    return Picture(uri=_uri("webp", content.tobytes()), width=width, height=height, alt=alt)


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
