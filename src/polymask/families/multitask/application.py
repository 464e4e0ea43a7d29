"""Masks and classes of new images: prediction, result, and the files of one image."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymask.data.images import write_image
from polymask.errors import UserError, number
from polymask.families.base import Batch
from polymask.families.images import ImageApplication, ImageCase, MainMask
from polymask.families.multitask.explanations import FOLDER, Explainer
from polymask.families.multitask.metadata import of_inference
from polymask.families.multitask.predictions import (
    ImagePrediction,
    ImageResult,
    image_predictions,
    image_result,
    merged,
    probabilities,
)
from polymask.families.multitask.task import Task
from polymask.metrics.explanations import inside_share
from polymask.metrics.temperature import tempered
from polymask.reporting.canvas import draw_outlines, overlay_heat, overlay_mask

_FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))


class Application(ImageApplication):
    """Writes `masks/{name}.png`, and where it draws `overlays/{name}.jpg` and `outlines/{name}.jpg`.

    Args:
        data: The `data` section of the stored configuration.
        chosen: Values that take the place of those of training: `data.intensity_range`, and `tta`: average
            over the four flips of each image; `data.attribute_table`: what is known of them, for networks
            with metadata, see `CaseMetadata`; `abstain_below`: leave images undecided whose most probable
            class is less probable; `calibration`, of which `temperature` is the result; and `explain`: also
            write `explanations/{name}.png`, where the class was seen, see `Explainer`.
        class_names: Names of the classes.
        multiclass: The mask tells the classes apart.
        temperature: Of class probabilities, one or (K,); None for none. Masks are decided as the network
            predicts them, so that they are those of a test.

    Raises:
        UserError: A value is not allowed.
    """

    folders: tuple[str, ...] = ("masks", "overlays", "outlines")

    def __init__(
        self,
        data: Mapping[str, Any],
        chosen: Mapping[str, Any],
        *,
        class_names: Sequence[str],
        multiclass: bool,
        temperature: float | np.ndarray | None = None,
    ) -> None:
        super().__init__(data, chosen)
        self.class_names, self.multiclass = list(class_names), multiclass
        self._metadata = of_inference(data, self.settings)
        self.temperature, self.abstain_below = temperature, _share(chosen.get("abstain_below"))
        self.tta = bool(chosen.get("tta", False))
        self.explainer = Explainer(temperature) if chosen.get("explain") else None
        names = [f"probability_{name}" for name in class_names]
        abstained = () if self.abstain_below is None else ("abstained",)
        explained = ("explanation_inside",) if self.explainer else ()
        self.columns = ("predicted_class", *abstained, "lesion_pixels", "lesion_share", *explained, *names)
        if self.explainer:
            self.folders = (*self.folders, FOLDER)

    def read(self, source: str | Path | np.ndarray, *, draw: bool = False) -> tuple[Any, ImageCase]:
        """Decode an image, see `ImageApplication.read`; with metadata it comes with its features."""
        image, case = super().read(source, draw=draw)
        return (image if self._metadata is None else (image, self._metadata.features(source))), case

    def collate(self, ids: Sequence[str], inputs: Sequence[Any]) -> Batch:
        """Return `ids`, `image` (B, H, W, 3) uint8 and, with metadata, `metadata` (B, F) float32."""
        if self._metadata is None:
            return super().collate(ids, inputs)
        images, features = zip(*inputs, strict=True)
        return {**super().collate(ids, images), "metadata": torch.stack(features)}

    def predict(self, task: Task, batch: Batch) -> list[ImagePrediction]:
        """Return one prediction per image; with `tta` the mean over the image and its three flips."""
        images = task.images(batch)
        sums: dict[str, Tensor] = {}
        flips = _FLIPS if self.tta else _FLIPS[:1]
        with self.explainer.watch(task.model) if self.explainer else nullcontext() as kept:
            for axes in flips:
                found = probabilities(task.model(images.flip(axes), **task.metadata(batch)))
                if "mask" in found:
                    found["mask"] = found["mask"].flip(axes)
                sums = {name: sums[name] + value if sums else value for name, value in found.items()}
        found = {name: value / len(flips) for name, value in sums.items()}
        if self.explainer and kept is not None:
            size = images.shape[-2:]
            found["explanation"] = self.explainer.maps(task.model, kept, found["label"], size, flips)
        if "label" in found and self.temperature is not None:
            found["label"] = tempered(found["label"], self.temperature)
        return image_predictions(batch["ids"], found, self.fit)

    def merge(self, predictions: Sequence[ImagePrediction]) -> ImagePrediction:
        """Return the mean of the probabilities of several networks."""
        return merged(predictions)

    def result(self, prediction: ImagePrediction, case: ImageCase) -> ImageResult:
        """Return a prediction with its mask at the image's own size, without a class where it abstains."""
        result = image_result(prediction, case.size, self.class_names, multiclass=self.multiclass)
        return replace(result, predicted_class=None) if self._abstains(result) else result

    def write_result(
        self, folder: Path, name: Path, result: ImageResult, original: np.ndarray | None
    ) -> dict[str, Any]:
        """Write the files of one image; return its row for `predictions.csv`."""
        row: dict[str, Any] = {}
        if result.class_probabilities is not None:
            row["predicted_class"] = result.predicted_class or ""
            if self.abstain_below is not None:
                row["abstained"] = int(self._abstains(result))
            row |= {f"probability_{k}": f"{v:.6f}" for k, v in result.class_probabilities.items()}
        if result.mask is not None:
            lesion = int(np.count_nonzero(result.mask))
            row |= {"lesion_pixels": lesion, "lesion_share": f"{lesion / result.mask.size:.6f}"}
            if result.explanation is not None:
                inside, _ = inside_share(result.explanation, result.mask)
                row["explanation_inside"] = "" if math.isnan(inside) else f"{inside:.6f}"
            write_image(folder / "masks" / f"{name}.png", mask_file_values(result))
            if original is not None:
                # One after the other, so that of a large image there is one drawn copy at a time.
                write_image(folder / "overlays" / f"{name}.jpg", overlay_mask(original, result.mask))
                outlined = draw_outlines(original, None, result.mask)
                write_image(folder / "outlines" / f"{name}.jpg", outlined)
        if result.explanation is not None and original is not None:
            write_image(folder / FOLDER / f"{name}.png", overlay_heat(original, result.explanation))
        return row

    def main_mask(self, result: ImageResult) -> MainMask:
        """Return the foreground, whatever its classes."""
        if result.mask is None:
            raise UserError(
                "the run predicts classes and no masks; take a run with task=segmentation or multitask."
            )
        mask = result.mask > 0
        return MainMask(mask, (result.predicted_class or "foreground") if mask.any() else "")

    def clear(self, folder: Path) -> None:
        """Remove what `write` left, explanations too where this inference makes none."""
        super().clear(folder)
        shutil.rmtree(folder / FOLDER, ignore_errors=True)

    def finish(self, folder: Path) -> None:
        """Do nothing: each image has files of its own."""

    def _abstains(self, result: ImageResult) -> bool:
        if self.abstain_below is None or not result.class_probabilities:
            return False
        return max(result.class_probabilities.values()) < self.abstain_below


def _share(value: float | None) -> float | None:
    return None if value is None else number("abstain_below", value, least=0, most=1, what="a probability")


def mask_file_values(result: ImageResult) -> np.ndarray:
    """Return the pixel values of a mask file: 0 and 255, or class numbers when there are several classes."""
    assert result.mask is not None
    return result.mask if result.multiclass else result.mask * np.uint8(255)
