"""Objects of new volumes: prediction, the files of one volume, and the tables of a whole run."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polymask.data.images import images_below, parse_image_size, resize_image, write_image
from polymask.data.intensity import Range
from polymask.data.stacks import PERCENTILES, STACK_SUFFIXES, Stack, check_percentiles, open_stack, windowed
from polymask.errors import UserError, number
from polymask.families import base
from polymask.families.base import RESULTS_NAME, Batch
from polymask.families.volumes.ctc import mask_path, number_apart, write_masks
from polymask.families.volumes.drawing import volume_panel
from polymask.families.volumes.finding import find_volume, on_disk
from polymask.families.volumes.linking import Linking
from polymask.families.volumes.scene import Scene
from polymask.families.volumes.tables import (
    ObjectTable,
    object_rows,
    resized_row,
)
from polymask.families.volumes.task import Task
from polymask.families.volumes.voxel_size import parse_voxel_size
from polymask.structures.volumes import FoundVolume
from polymask.utils.files import write_text
from polymask.utils.options import options_of

_NO_CASES = re.compile(r"\d\d_(GT|ST|RES|ERR_SEG|AUG).*")
"""Folders beside a sequence of the Cell Tracking Challenge: truths and results."""


@dataclass(frozen=True)
class ArrayStack(Stack):
    """A volume that is in memory already."""

    array: np.ndarray | None = None

    def pages(self) -> Iterator[np.ndarray]:
        """Yield all slices in their order."""
        assert self.array is not None
        yield from self.array


@dataclass(frozen=True, kw_only=True)
class VolumeCase:
    """What is known of a volume without its voxels, which are read when the network takes them.

    Attributes:
        stack: Where they are.
        window: Values that become black and white.
        draw: Whether the result shall be drawn.
    """

    stack: Stack
    window: Range
    draw: bool

    def pages(self) -> Iterator[np.ndarray]:
        """Yield the slices, (H, W) uint8."""
        return (windowed(page, *self.window) for page in self.stack.pages())


class Application(base.Application):
    """Writes `label_maps/{name}.tif`, `objects/{name}.json`, and where it draws `overlays/{name}.png`.

    Volumes in the folders of the Cell Tracking Challenge, `01/t000.tif`, give `01_RES/mask000.tif` instead of
    a label map, and at the end `01_RES/res_track.txt`. The files of `objects`, of this run and of those that
    it goes on with, are joined to `objects.csv`.

    Args:
        data: The `data` section of the stored configuration.
        chosen: Values that take the place of those of training: `data.voxel_size`, `task.score_threshold` and
            the keys of `task.linking`.
        class_names: Names of the K classes.
        score_threshold: Least score of a section that counts, of training.
        linking: How sections become objects, of training.
        voxel_size: Edges of a voxel along z, y, x in micrometres, of training; None when unknown.

    Raises:
        UserError: A value is not allowed.
    """

    folders = ("label_maps", "objects", "overlays")
    batch_size = 1

    def __init__(
        self,
        data: Mapping[str, Any],
        chosen: Mapping[str, Any],
        *,
        class_names: Sequence[str],
        score_threshold: float,
        linking: Linking,
        voxel_size: Sequence[float] | None,
    ) -> None:
        size = data.get("image_size")
        self.image_size = None if size is None else parse_image_size(size)
        self.window = check_percentiles("data.window", data.get("window", PERCENTILES))
        self.class_names = list(class_names)
        threshold = chosen.get("task.score_threshold", score_threshold)
        self.score_threshold = number("task.score_threshold", threshold, least=0, most=1)
        self.linking = options_of(Linking, vars(linking) | _below("task.linking", chosen), "task.linking")
        # A network that embeds sections was trained on pairs of slices, and no other.
        self.linking.check(embeds=linking.name == "embedding" or bool(data.get("reference")))
        self.voxel_size = parse_voxel_size(chosen.get("data.voxel_size", voxel_size))
        # The size of a voxel is not among them: it only scales the table, which is written anew at the end.
        self.settings: dict[str, Any] = {}
        if self.score_threshold != score_threshold:
            self.settings["task.score_threshold"] = self.score_threshold
        if self.linking != linking:
            self.settings["task.linking"] = vars(self.linking)
        counts = [f"count_{name}" for name in class_names]
        self.columns = ("num_objects", *counts, "covered_voxels", "covered_share")

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({values})"

    def find(self, folder: Path) -> list[Path]:
        """Return the volumes below a folder, without the truths and results of the challenge's sequences."""
        found = [
            path
            for path in images_below(folder, without=RESULTS_NAME)
            if path.suffix.lower() in STACK_SUFFIXES and not any(map(_NO_CASES.fullmatch, path.parts[:-1]))
        ]
        if not found:
            raise UserError(
                f"data.data_dir={folder} holds no volume; looked for {', '.join(STACK_SUFFIXES)} outside of "
                "folders such as 01_GT."
            )
        return found

    def read(self, source: str | Path | np.ndarray, *, draw: bool = False) -> tuple[VolumeCase, VolumeCase]:
        """Open a volume and read it once, for the values that become black and white; it stays on disk."""
        stack = _as_stack(source)
        case = VolumeCase(stack=stack, window=stack.window(self.window), draw=draw)
        return case, case

    def collate(self, ids: Sequence[str], inputs: Sequence[VolumeCase]) -> Batch:
        """Return `ids` and `cases`."""
        return {"ids": list(ids), "cases": list(inputs)}

    def predict(self, task: Task, batch: Batch) -> list[FoundVolume]:
        """Return the objects of each volume, one volume after the other."""
        return [self._find(task, *pair) for pair in zip(batch["ids"], batch["cases"], strict=True)]

    def _find(self, task: Task, id_: str, case: VolumeCase) -> FoundVolume:
        shape = case.stack.shape
        seen = self.image_size or (shape[1], shape[2])
        return find_volume(
            id_,
            task.model,
            (task.pixels(resize_image(page, seen)) for page in case.pages()),
            seen=seen,
            shape=shape,
            linking=self.linking,
            score_threshold=self.score_threshold,
        )

    def result(self, prediction: FoundVolume, case: VolumeCase) -> FoundVolume:
        """Return the prediction as it is: it has the volume's own size."""
        return prediction

    def write(self, folder: Path, name: Path, prediction: FoundVolume, case: VolumeCase) -> dict[str, Any]:
        """Write the files of one volume; return its row for `predictions.csv`."""
        rows = object_rows(
            prediction.labels, prediction.scores, prediction.classes, None, class_names=self.class_names
        )
        mask = mask_path(_official_name(name, case.stack.path))
        # Before the mask, so that there is no mask of which it is not known how many objects it holds.
        content = {"frame": prediction.id, "mask": mask.as_posix(), "rows": rows}
        write_text(folder / "objects" / f"{name}.json", json.dumps(content))
        write_masks(folder / mask, prediction.labels)
        if case.draw:
            write_image(folder / "overlays" / f"{name}.png", self._picture(case, prediction))
        counts = np.bincount(prediction.classes, minlength=len(self.class_names)).tolist()
        covered = sum(row["voxels"] for row in rows)
        return {
            "num_objects": len(rows),
            **{f"count_{label}": count for label, count in zip(self.class_names, counts, strict=True)},
            "covered_voxels": covered,
            "covered_share": f"{covered / prediction.labels.size:.6f}",
        }

    def _picture(self, case: VolumeCase, prediction: FoundVolume) -> np.ndarray:
        volume = on_disk(np.uint8, case.stack.shape)
        for z, page in enumerate(case.pages()):
            volume[z] = page
        scene = Scene(
            volume=volume,
            found=prediction.labels,
            truth=None,
            annotated=np.zeros(len(volume), bool),
            voxel_size=self.voxel_size,
        )
        return volume_panel(scene)

    def finish(self, folder: Path) -> None:
        """Number the objects of a sequence through, write its tracks, and join the tables of all volumes."""
        contents = [json.loads(path.read_text()) for path in sorted((folder / "objects").rglob("*.json"))]
        contents = [content for content in contents if (folder / content["mask"]).is_file()]
        offsets = _number_through(folder, contents)
        table = ObjectTable(folder, voxel_size=self.voxel_size)
        for content in contents:
            rows = [resized_row(row, self.voxel_size) for row in content["rows"]]
            table.add(content["frame"], rows, offset=offsets.get(content["mask"], 0))
        table.finish()

    def clear(self, folder: Path) -> None:
        """Remove the files of earlier volumes, also those in the folders of the challenge."""
        super().clear(folder)
        for path in folder.rglob("*_RES"):
            shutil.rmtree(path, ignore_errors=True)


def _below(parent: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values below a key of the configuration by the last part of theirs."""
    return {key.removeprefix(f"{parent}."): value for key, value in chosen.items() if key.startswith(parent)}


def _as_stack(source: str | Path | np.ndarray) -> Stack:
    """Return where a volume can be read, page by page.

    Raises:
        UserError: It is none.
    """
    if not isinstance(source, np.ndarray):
        return open_stack(Path(source))
    if source.ndim != 3 or source.dtype not in (np.uint8, np.uint16) or not source.size:
        raise UserError(
            f"a volume is an array {source.shape} of {source.dtype}; give (slices, height, width) of uint8 "
            "or uint16."
        )
    depth, height, width = source.shape
    return ArrayStack(Path("volume"), (depth, height, width), 8 * source.itemsize, array=source)


def _official_name(name: Path, path: Path) -> str:
    """Return the name of a volume with that of its sequence, also where the sequence itself was given."""
    if len(name.parts) == 1 and re.fullmatch(r"\d\d", path.parent.name):
        return f"{path.parent.name}/{name}"
    return name.as_posix()


def _number_through(folder: Path, contents: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Let no number stand in two masks of a sequence; return by mask what its numbers are larger by."""
    sequences = defaultdict(list)
    for content in contents:
        mask = Path(content["mask"])
        if mask.parent.name.endswith("_RES"):
            sequences[mask.parent].append(content)
    offsets: dict[str, int] = {}
    for parent, frames in sequences.items():
        frames.sort(key=lambda content: content["mask"])
        counts = [len(content["rows"]) for content in frames]
        masks = [content["mask"] for content in frames]
        offsets |= zip(masks, number_apart(folder / parent, counts), strict=True)
    return offsets
