"""Files of the objects found in one image, and the tables of a whole run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polymask.data.images import write_image
from polymask.families.instances.drawing import overlay_instances
from polymask.families.instances.files import InstanceFiles
from polymask.families.instances.tables import coco_results, confident_objects, instance_rows, label_map
from polymask.structures.objects import InstancePrediction
from polymask.utils.files import write_text


class InstanceWriter:
    """Writes `label_maps/{name}.tif`, `instances/{name}.json`, and with `overlay` `overlays/{name}.jpg`.

    At the end the files of `instances`, of this run and of those that it goes on with, are joined to
    `instances.csv` and `instances.json`. The latter holds all objects with the image's path as
    `image_id` and the class number, from 1, as `category_id`; all other files hold the objects of at
    least `score_threshold`.

    Args:
        folder: Folder of the results.
        class_names: Names of the K classes.
        overlay: Write overlays.
        score_threshold: Least score of an object that counts.
        pixel_size: Side of a pixel in micrometres, None when unknown.
    """

    folders = ("label_maps", "instances", "overlays")

    def __init__(
        self,
        folder: Path,
        *,
        class_names: Sequence[str],
        overlay: bool,
        score_threshold: float,
        pixel_size: float | None = None,
    ) -> None:
        self.folder, self.overlay = folder, overlay
        self.class_names, self.score_threshold = list(class_names), score_threshold
        self.pixel_size = pixel_size
        counts = [f"count_{name}" for name in class_names]
        self.columns = ("num_objects", *counts, "covered_pixels", "covered_share")

    def write(self, name: Path, result: InstancePrediction, image: np.ndarray | None) -> dict[str, Any]:
        """Write the files of one image; return its row for `predictions.csv`."""
        sure = confident_objects(result, self.score_threshold)
        numbers = label_map(sure)
        write_image(self.folder / "label_maps" / f"{name}.tif", numbers)
        if self.overlay and image is not None:
            drawn = overlay_instances(image, sure, self.class_names)
            write_image(self.folder / "overlays" / f"{name}.jpg", drawn)
        content = {
            "rows": instance_rows(sure, self.class_names),
            "results": coco_results(result, result.id, range(1, len(self.class_names) + 1)),
        }
        write_text(self.folder / "instances" / f"{name}.json", json.dumps(content))
        counts = np.bincount(sure.labels, minlength=len(self.class_names)).tolist()
        covered = int(np.count_nonzero(numbers))
        return {
            "num_objects": len(sure.labels),
            **{f"count_{label}": count for label, count in zip(self.class_names, counts, strict=True)},
            "covered_pixels": covered,
            "covered_share": f"{covered / numbers.size:.6f}",
        }

    def finish(self) -> None:
        """Join the files of all images to `instances.csv` and `instances.json`."""
        files = InstanceFiles(self.folder, pixel_size=self.pixel_size)
        for path in sorted((self.folder / "instances").rglob("*.json")):
            content = json.loads(path.read_text())
            files.add(content["rows"], content["results"])
        files.finish()
