"""Objects of new images: prediction, the files of one image, and the tables of a whole run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polymask.data.images import write_image
from polymask.errors import number
from polymask.families.base import Batch
from polymask.families.images import ImageApplication, ImageCase, MainMask
from polymask.families.instances.drawing import overlay_instances
from polymask.families.instances.files import InstanceFiles
from polymask.families.instances.fusion import fuse_objects
from polymask.families.instances.predictions import confident_objects, label_map
from polymask.families.instances.tables import check_pixel_size, coco_results, instance_rows
from polymask.families.instances.task import Task, sizes
from polymask.structures import rle
from polymask.structures.objects import FoundObjects
from polymask.utils.files import write_text


class Application(ImageApplication):
    """Writes `label_maps/{name}.tif`, `instances/{name}.json`, and where it draws `overlays/{name}.jpg`.

    At the end the files of `instances`, of this run and of those that it goes on with, are joined to
    `instances.csv` and `instances.json`. The latter holds all objects with the image's path as
    `image_id` and the class number, from 1, as `category_id`; all other files hold the objects of at
    least the score threshold.

    Args:
        data: The `data` section of the stored configuration.
        chosen: Values that take the place of those of training: `data.intensity_range`, `data.pixel_size`,
            `task.score_threshold`.
        class_names: Names of the K classes.
        score_threshold: Least score of an object that counts, of training.
        pixel_size: Side of a pixel in micrometres, of training; None when unknown.

    Raises:
        UserError: A value is not allowed.
    """

    folders = ("label_maps", "instances", "overlays")

    def __init__(
        self,
        data: Mapping[str, Any],
        chosen: Mapping[str, Any],
        *,
        class_names: Sequence[str],
        score_threshold: float,
        pixel_size: float | None,
    ) -> None:
        super().__init__(data, chosen)
        self.class_names = list(class_names)
        threshold = chosen.get("task.score_threshold", score_threshold)
        self.score_threshold = number("task.score_threshold", threshold, least=0, most=1)
        self.pixel_size = check_pixel_size(chosen.get("data.pixel_size", pixel_size))
        # It only scales the tables, which are written anew at the end.
        self.settings.pop("data.pixel_size", None)
        counts = [f"count_{name}" for name in class_names]
        self.columns = ("num_objects", *counts, "covered_pixels", "covered_share")

    def predict(self, task: Task, batch: Batch) -> list[FoundObjects]:
        """Return the objects of each image."""
        return task.model.to_objects(batch["ids"], task.model.predict(task.images(batch)), sizes(batch))

    def merge(self, predictions: Sequence[FoundObjects]) -> FoundObjects:
        """Return the objects of several networks, those that are one fused into one."""
        return fuse_objects(predictions)

    def result(self, prediction: FoundObjects, case: ImageCase) -> FoundObjects:
        """Return the prediction as it is: images are not resized on their way to the network."""
        return prediction

    def write_result(
        self, folder: Path, name: Path, result: FoundObjects, original: np.ndarray | None
    ) -> dict[str, Any]:
        """Write the files of one image; return its row for `predictions.csv`."""
        confident = confident_objects(result, self.score_threshold)
        numbers = label_map(confident)
        write_image(folder / "label_maps" / f"{name}.tif", numbers)
        if original is not None:
            drawn = overlay_instances(original, confident, self.class_names)
            write_image(folder / "overlays" / f"{name}.jpg", drawn)
        content = {
            "rows": instance_rows(confident, self.class_names),
            "results": coco_results(result, result.id, range(1, len(self.class_names) + 1)),
        }
        write_text(folder / "instances" / f"{name}.json", json.dumps(content))
        counts = np.bincount(confident.labels, minlength=len(self.class_names)).tolist()
        covered = int(np.count_nonzero(numbers))
        return {
            "num_objects": len(confident.labels),
            **{f"count_{label}": count for label, count in zip(self.class_names, counts, strict=True)},
            "covered_pixels": covered,
            "covered_share": f"{covered / numbers.size:.6f}",
        }

    def main_mask(self, result: FoundObjects) -> MainMask:
        """Return the object with the highest score, if one reaches the threshold."""
        confident = confident_objects(result, self.score_threshold)
        if not len(confident.scores):
            return MainMask(np.zeros(result.size, bool), "")
        best = int(confident.scores.argmax())
        name = self.class_names[int(confident.labels[best])]
        return MainMask(rle.decode(confident.masks[best]) > 0, f"{name}, score {confident.scores[best]:.2f}")

    def finish(self, folder: Path) -> None:
        """Join the files of all images to `instances.csv` and `instances.json`."""
        files = InstanceFiles(folder, pixel_size=self.pixel_size)
        for path in sorted((folder / "instances").rglob("*.json")):
            content = json.loads(path.read_text())
            files.add(content["rows"], content["results"])
        files.finish()
