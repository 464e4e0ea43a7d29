"""Prediction of many files: loading, network and writing overlap, and what is done is not done again."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from polymask.data.images import read_image
from polymask.data.intensity import Range
from polymask.errors import UserError
from polymask.families.base import PredictionWriter
from polymask.inference.inputs import SETTINGS_NAME, output_names
from polymask.inference.predictor import Predictor, to_batch, to_input
from polymask.inference.table import PredictionTable, csv_text, remove_tables
from polymask.training.progress import Progress
from polymask.utils.files import write_text

log = logging.getLogger(__name__)

_WRITERS = 2
_MAX_WAITING = 64  # images predicted but not yet written; bounds the memory
_LARGE_PIXELS = 2**22  # images with more are decoded again for drawing instead of waiting in memory


@dataclass
class Summary:
    """What a run over files did.

    Attributes:
        predicted: Images predicted now.
        skipped: Images that an earlier run had done.
        failed: Reason per file that could not be read.
    """

    predicted: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def predict_files(
    predictor: Predictor,
    source: Path,
    files: Sequence[Path],
    folder: Path,
    *,
    batch_size: int | None = None,
    num_workers: int = 2,
    overlay: bool = True,
    overwrite: bool = False,
) -> Summary:
    """Predict files and write masks, overlays and `predictions.csv` to `folder`.

    Rows are kept in `predictions.partial.csv` as they come; `predictions.csv` appears when all are done.

    Args:
        predictor: The model.
        source: Folder that `files` are relative to.
        files: Images.
        folder: Where results go.
        batch_size: Images per pass through the network, None for that of evaluations in training.
        num_workers: Loader processes.
        overlay: Write overlays and outlines.
        overwrite: Predict again what is there already.

    Raises:
        UserError: `folder` holds the results of another model, of other options or of other images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writer = predictor.task.prediction_writer(folder, overlay=overlay)
    if overwrite:
        # Before the new settings are there: were we stopped in between, results of another model must not
        # pass for results of this one.
        remove_tables(folder)
        for name in writer.folders:
            shutil.rmtree(folder / name, ignore_errors=True)
    _claim_folder(folder, predictor, source, overlay=overlay, overwrite=overwrite)
    table = PredictionTable(folder, ("file", *writer.columns))
    # Together with the files of earlier runs, so that none of their results is overwritten.
    names = output_names([*map(Path, table.rows), *files])
    todo = [file for file in files if str(file) not in table.rows]
    summary = Summary(skipped=len(files) - len(todo))
    images = _Files(source, todo, predictor.image_size, predictor.intensity_range, keep_original=overlay)
    loader = DataLoader(
        images,
        batch_size=batch_size or predictor.batch_size,
        num_workers=num_workers,
        collate_fn=partial(_collate, image_size=predictor.image_size),
    )
    progress = Progress("predict")
    with table, progress.over(len(loader)), ThreadPoolExecutor(_WRITERS) as pool:
        for row in _predict(predictor, loader, images, writer, names, pool, progress, summary.failed):
            table.add(row)
            summary.predicted += 1
    table.finish([str(file) for file in files])
    writer.finish()
    _write_failures(folder / "failed.csv", summary.failed)
    return summary


def _predict(
    predictor: Predictor,
    loader: DataLoader[Any],
    files: _Files,
    writer: PredictionWriter,
    names: dict[Path, Path],
    pool: ThreadPoolExecutor,
    progress: Progress,
    failed: dict[str, str],
) -> Iterator[dict[str, Any]]:
    """Yield the row of each image once its files are written, in order."""
    waiting: deque[Future[dict[str, Any]]] = deque()

    one_large_image = Lock()

    def write(
        file: str, prediction: Any, size: tuple[int, int], original: torch.Tensor | None
    ) -> dict[str, Any]:
        with one_large_image if size[0] * size[1] > _LARGE_PIXELS else nullcontext():
            image = original.numpy() if original is not None else files.drawing(file)
            result = predictor.task.result(prediction, size)
            return {"file": file} | writer.write(names[Path(file)], result, image)

    for batch in loader:
        for file, reason in batch["failed"].items():
            log.warning("%s: %s", file, reason)
            failed[file] = reason
        if batch["files"]:
            predictions = predictor.predict_batch(batch["image"], batch["files"])
            jobs = zip(batch["files"], predictions, batch["sizes"], batch["originals"], strict=True)
            waiting.extend(pool.submit(write, *job) for job in jobs)
        progress.advance(len(batch["files"]))
        while waiting and (waiting[0].done() or len(waiting) > _MAX_WAITING):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class _Files(Dataset[dict[str, Any]]):
    """Decodes and resizes files; a file that cannot be read becomes a note, not an error."""

    def __init__(
        self,
        source: Path,
        files: Sequence[Path],
        image_size: tuple[int, int] | None,
        intensity_range: Range,
        *,
        keep_original: bool,
    ) -> None:
        self.source, self.files = source, list(files)
        self.image_size, self.keep_original = image_size, keep_original
        self.intensity_range = intensity_range

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file = self.files[index]
        try:
            image = read_image(self.source / file, self.intensity_range)
        except UserError as error:
            return {"file": str(file), "reason": str(error)}
        # Batches of large originals, and their way from the loader's process, would fill the memory.
        keep = self.keep_original and image.shape[0] * image.shape[1] <= _LARGE_PIXELS
        original = torch.from_numpy(image) if keep else None
        pixels = to_input(image, self.image_size)
        return {"file": str(file), "image": pixels, "size": image.shape[:2], "original": original}

    def drawing(self, file: str) -> np.ndarray | None:
        """Return a large original, decoded again; None when nothing is drawn."""
        return read_image(self.source / file, self.intensity_range) if self.keep_original else None


def _collate(samples: list[dict[str, Any]], image_size: tuple[int, int] | None) -> dict[str, Any]:
    good = [sample for sample in samples if "reason" not in sample]
    return {
        "failed": {sample["file"]: sample["reason"] for sample in samples if "reason" in sample},
        "files": [sample["file"] for sample in good],
        "image": to_batch([sample["image"] for sample in good], image_size) if good else None,
        "sizes": [sample["size"] for sample in good],
        "originals": [sample["original"] for sample in good],
    }


def _claim_folder(
    folder: Path, predictor: Predictor, source: Path, *, overlay: bool, overwrite: bool
) -> None:
    """Refuse to mix results of different models, options or images in one folder."""
    settings = {
        "checkpoint": hashlib.sha256(predictor.path.read_bytes()).hexdigest(),
        "data.data_dir": str(source),
        "trainer.precision": str(predictor.precision).removeprefix("torch."),
        "tta": predictor.tta,
        "overlay": overlay,
    }
    # The size of a pixel only scales the tables, which are written anew at the end.
    settings |= {key: value for key, value in predictor.settings.items() if key != "data.pixel_size"}
    path = folder / SETTINGS_NAME
    if path.is_file() and not overwrite:
        before = json.loads(path.read_text())
        changed = [name for name in settings | before if before.get(name) != settings.get(name)]
        if changed:
            raise UserError(
                f"{folder} holds predictions made with another {' and '.join(changed)}; use "
                "overwrite=true to replace them, or another local_save_dir."
            )
    write_text(path, json.dumps(settings, indent=2) + "\n")


def _write_failures(path: Path, failed: dict[str, str]) -> None:
    if not failed:
        path.unlink(missing_ok=True)
        return
    rows = [{"file": file, "reason": reason} for file, reason in failed.items()]
    write_text(path, csv_text(("file", "reason"), rows))
