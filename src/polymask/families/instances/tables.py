"""Found objects as a table and as COCO results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from polymask.errors import number
from polymask.structures import rle
from polymask.structures.objects import FoundObjects


def table_columns(pixel_size: float | None) -> tuple[str, ...]:
    """Return the columns of `instances.csv`, see `instance_rows` and `sizes`."""
    return ("image", "id", "class", "score", "x0", "y0", "x1", "y1", *sizes(0, pixel_size))


def instance_rows(prediction: FoundObjects, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row per object.

    Args:
        prediction: The objects of one image.
        class_names: Names of the K classes.

    Returns:
        `image`, `id` (from 1, best score first; also the object's number in the label map), `class`,
        `score`, the box `x0`, `y0`, `x1`, `y1` in pixels (x1 and y1 exclusive) and `area_pixels`.
    """
    rows = []
    objects = zip(prediction.labels, prediction.scores, prediction.boxes, prediction.masks, strict=True)
    for place, (label, score, box, mask) in enumerate(objects, start=1):
        corners = {
            name: round(float(side), 2) for name, side in zip(("x0", "y0", "x1", "y1"), box, strict=True)
        }
        row = {
            "image": prediction.id,
            "id": place,
            "class": class_names[label],
            "score": round(float(score), 6),
        }
        rows.append({**row, **corners, "area_pixels": rle.area(mask)})
    return rows


def sizes(area: int, pixel_size: float | None) -> dict[str, float]:
    """Return the measures that follow from an object's area.

    Args:
        area: Number of its pixels.
        pixel_size: Side of a pixel in micrometres, None when unknown.

    Returns:
        `area_pixels` and `equivalent_diameter_pixels`, of the circle of the same area; when the pixel size
        is known also `area_um2` and `equivalent_diameter_um`.
    """
    diameter = math.sqrt(4 * area / math.pi)
    values: dict[str, float] = {"area_pixels": area, "equivalent_diameter_pixels": round(diameter, 3)}
    if pixel_size is not None:
        # Six digits: the size of a pixel may be any fraction of a micrometre.
        values["area_um2"] = float(f"{area * pixel_size**2:.6g}")
        values["equivalent_diameter_um"] = float(f"{diameter * pixel_size:.6g}")
    return values


def coco_results(
    prediction: FoundObjects, image_id: int | str, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Return objects in the result format of COCO, which `COCO.loadRes` reads.

    Args:
        prediction: The objects of one image, all of them: average precision needs the doubtful ones, too.
        image_id: Id of the image in the annotation file.
        category_ids: Id of each class in the annotation file.

    Returns:
        `image_id`, `category_id`, `bbox` (x, y, width, height in pixels), `score` and `segmentation`.
    """
    results = []
    objects = zip(prediction.labels, prediction.scores, prediction.boxes, prediction.masks, strict=True)
    for label, score, box, mask in objects:
        x0, y0, x1, y1 = (float(side) for side in box)
        results.append(
            {
                "image_id": image_id,
                "category_id": category_ids[label],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": float(score),  # not rounded: equal scores would be ranked otherwise
                "segmentation": rle.to_json(mask),
            }
        )
    return results


def check_pixel_size(value: float | None) -> float | None:
    """Return micrometres per pixel, None when unknown.

    Raises:
        UserError: Not a number above 0.
    """
    if value is None:
        return None
    return number("data.pixel_size", value, above=0, what="micrometres per pixel", note="or null")
