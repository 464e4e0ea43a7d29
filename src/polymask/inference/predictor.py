"""A trained model for use from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from polymask.data.images import as_image, read_image, resize_image
from polymask.data.intensity import EIGHT_BIT, Range, parse_range
from polymask.errors import UserError, whole_number
from polymask.factories import build_task
from polymask.families.base import Task
from polymask.families.multitask.data import parse_image_size
from polymask.training.checkpoint import (
    CheckpointFolder,
    inference_weights,
    load_checkpoint,
    load_weights,
)
from polymask.training.devices import autocast, move_batch, select_device, select_precision
from polymask.utils.paths import resolve


class Predictor:
    """Predicts images with the task of a checkpoint.

    Args:
        task: The task, weights loaded.
        image_size: (height, width) of the network's input in pixels, None for a network that takes images
            of any size as they are.
        run_name: Name of the run that trained it.
        path: The checkpoint file.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        tta: Average over the four flips of each image.
        batch_size: Images per pass through the network, unless another number is given to `predict`.
        intensity_range: Values of images that become black and white, see `polymask.data.intensity`.
        settings: What of the results was chosen for this inference rather than in training.
    """

    def __init__(
        self,
        *,
        task: Task,
        image_size: tuple[int, int] | None,
        run_name: str,
        path: Path,
        device: str = "auto",
        precision: str = "auto",
        tta: bool = False,
        batch_size: int = 16,
        intensity_range: Range = EIGHT_BIT,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if tta and not task.has_tta:  # before anything is written
            raise UserError(f"tta=true is not available for {run_name}, which finds objects; leave it out.")
        self.image_size, self.run_name, self.path, self.tta = image_size, run_name, path, tta
        self.intensity_range = intensity_range
        self.batch_size, self.settings = batch_size, dict(settings or {})
        self.device = select_device(device)
        self.precision = select_precision(precision, self.device)
        self.task = task.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @classmethod
    def from_checkpoint(
        cls,
        run_or_path: str | Path | None,
        *,
        pixel_size: float | None = None,
        score_threshold: float | None = None,
        intensity_range: Sequence[float] | None = None,
        **options: Any,
    ) -> Predictor:
        """Load a checkpoint.

        Args:
            run_or_path: Name of a run, path of a `.pt` file, or None for the newest run.
            pixel_size: Micrometres per pixel of the images, for sizes of objects; None for that of training.
            score_threshold: Least score of objects that count, None for that of training.
            intensity_range: Values of these images that become black and white, None for those of training.
            **options: `device`, `precision` and `tta`, see the class.

        Raises:
            UserError: There is no such checkpoint, it cannot be read, or it finds no objects although a value
                for them is given.
        """
        given = parse_range(intensity_range)
        path = _find(run_or_path)
        content = load_checkpoint(path)
        cfg = OmegaConf.create(content["config"])
        chosen = {"data.pixel_size": pixel_size, "task.score_threshold": score_threshold}
        chosen = {key: value for key, value in chosen.items() if value is not None}
        for key, value in chosen.items():
            name = key.rpartition(".")[2]
            if name not in cfg.task:
                raise UserError(
                    f"{key}={value} is of no use to {path.stem}, which finds no objects; leave it out."
                )
            cfg.task[name] = value
        task = build_task(cfg, class_names=content["class_names"], pretrained=False)
        load_weights(task, inference_weights(content), source=str(path))
        configured = cfg.data.get("image_size")
        size = None if configured is None else parse_image_size(configured)
        # What fitted into memory in training will do so now.
        batch_size = cfg.data.get("eval_batch_size") or 2 * whole_number(
            "data.batch_size", cfg.data.get("batch_size"), least=1
        )
        return cls(
            task=task,
            image_size=size,
            run_name=content["run_name"],
            path=path,
            batch_size=batch_size,
            # Runs from before there was such a key have none.
            intensity_range=given or parse_range(cfg.data.get("intensity_range")) or EIGHT_BIT,
            settings=chosen | ({"data.intensity_range": list(given)} if given else {}),
            **options,
        )

    def __repr__(self) -> str:
        precision = str(self.precision).removeprefix("torch.")
        return (
            f"Predictor(run={self.run_name!r}, task={type(self.task).__name__}, "
            f"classes={list(self.task.class_names)}, image_size={self.image_size}, device={self.device}, "
            f"precision={precision})"
        )

    def predict(
        self, images: Sequence[str | Path | np.ndarray], *, batch_size: int | None = None
    ) -> list[Any]:
        """Predict images of any size.

        Args:
            images: Paths, or arrays (H, W, 3) RGB or (H, W) grey; of uint8, or of another number type for a
                model that was trained on such images.
            batch_size: Images per pass through the network, None for that of evaluations in training.

        Returns:
            One result of the task per image, with masks at the image's own size.

        Raises:
            UserError: A file cannot be read, or an array is no such image.
        """
        if isinstance(images, str | Path | np.ndarray):
            raise UserError("predict takes a list of images; put a single one into a list: predict([image]).")
        batch_size = batch_size or self.batch_size
        results = []
        for start in range(0, len(images), batch_size):
            chunk = images[start : start + batch_size]
            inputs, sizes = [], []
            for image in chunk:  # of which only one at a time is in memory at its own size
                array = _pixels(image, self.intensity_range)
                sizes.append(array.shape[:2])
                inputs.append(to_input(array, self.image_size))
                del array
            ids = [str(start + offset) for offset in range(len(inputs))]
            predictions = self.predict_batch(to_batch(inputs, self.image_size), ids)
            results += [self.task.result(p, size) for p, size in zip(predictions, sizes, strict=True)]
        return results

    @torch.inference_mode()
    def predict_batch(self, images: Tensor | list[Tensor], ids: Sequence[str]) -> list[Any]:
        """Return the task's raw predictions of what `to_batch` made."""
        batch = move_batch({"image": images, "ids": list(ids)}, self.device)
        with autocast(self.device, self.precision):
            return self.task.predict_step(batch, tta=self.tta)


def to_input(image: np.ndarray, image_size: tuple[int, int] | None) -> Tensor:
    """Return an (H, W, 3) uint8 image at the network's input size; None leaves it as it is."""
    return torch.from_numpy(image if image_size is None else resize_image(image, image_size))


def to_batch(inputs: list[Tensor], image_size: tuple[int, int] | None) -> Tensor | list[Tensor]:
    """Return inputs as (B, H, W, 3), or as a list where they keep their own sizes."""
    return inputs if image_size is None else torch.stack(inputs)


def _pixels(image: str | Path | np.ndarray, intensity_range: Range) -> np.ndarray:
    """Return an image as (H, W, 3) uint8, the same for a file and for the values that it holds."""
    if not isinstance(image, np.ndarray):
        return read_image(image, intensity_range)
    is_image = image.size > 0 and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3))
    if not is_image or image.dtype.kind not in "uif":
        raise UserError(
            f"an image is an array {image.shape} of {image.dtype}; give (height, width, 3) RGB or (height, "
            "width) grey, of uint8 or the number type of the training images."
        )
    return as_image(image, intensity_range, "an image")


def _find(run_or_path: str | Path | None) -> Path:
    if run_or_path is not None and str(run_or_path).endswith(".pt"):
        return resolve(run_or_path)
    name = None if run_or_path is None else str(run_or_path)
    return CheckpointFolder(resolve("models/checkpoints")).find(name)
