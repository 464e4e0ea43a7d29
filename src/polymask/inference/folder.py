"""Prediction of many files: loading, network and writing overlap, and what is done is not done again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset

from polymask.errors import UserError
from polymask.families.base import RESULTS_NAME, Application, Batch
from polymask.inference.inputs import output_names
from polymask.inference.predictor import Predictor
from polymask.inference.table import PredictionTable, remove_tables
from polymask.training.progress import Progress
from polymask.utils.files import write_text
from polymask.utils.tables import csv_text

log = logging.getLogger(__name__)

_WRITERS = 2
_MAX_WAITING = 64  # cases predicted but not yet written; bounds the memory


@dataclass
class Summary:
    """What a run over files did.

    Attributes:
        predicted: Cases predicted now.
        skipped: Cases that an earlier run had done.
        failed: Reason per file that could not be read.
    """

    predicted: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)


class _Predicted(NamedTuple):
    file: str
    prediction: Any
    case: Any  # what the application's `read` wants to be kept


class _Loaded(NamedTuple):
    """One batch.

    Attributes:
        files: Those that could be read.
        cases: What the application's `read` wants to be kept of each of them.
        batch: The network's input, None without files.
        failed: Reason per file that could not be read.
    """

    files: list[str]
    cases: list[Any]
    batch: Batch | None
    failed: dict[str, str]


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
    """Predict files and write the results of each, and `predictions.csv`, to `folder`.

    Rows are kept in `predictions.partial.csv` as they come; `predictions.csv` appears when all are done.

    Args:
        predictor: The model.
        source: Folder that `files` are relative to.
        files: The cases.
        folder: Where results go.
        batch_size: Cases per pass through the network, None for that of the application.
        num_workers: Loader processes.
        overlay: Also draw predictions on what they were made of.
        overwrite: Predict again what is there already.

    Raises:
        UserError: `folder` holds the results of another model, of other options or of other files.
    """
    application = predictor.application
    folder.mkdir(parents=True, exist_ok=True)
    if overwrite:
        # Before the new settings are there: were we stopped in between, results of another model must not
        # pass for results of this one.
        remove_tables(folder)
        application.clear(folder)
    _claim_folder(folder, predictor, source, overlay=overlay, overwrite=overwrite)
    table = PredictionTable(folder, ("file", *application.columns))
    # Together with the files of earlier runs, so that none of their results is overwritten.
    names = output_names([*map(Path, table.rows), *files])
    todo = [file for file in files if str(file) not in table.rows]
    summary = Summary(skipped=len(files) - len(todo))
    loader = DataLoader(
        _Files(application, source, todo, draw=overlay),
        batch_size=batch_size or application.batch_size,
        num_workers=num_workers,
        collate_fn=partial(_collate, application=application),
    )
    progress = Progress("predict")

    def write(done: _Predicted) -> dict[str, Any]:
        row = application.write(folder, names[Path(done.file)], done.prediction, done.case)
        return {"file": done.file} | row

    with table, progress.over(len(loader)):
        for row in _in_threads(write, _predict(predictor, loader, progress, summary.failed)):
            table.add(row)
            summary.predicted += 1
    table.finish([str(file) for file in files])
    application.finish(folder)
    _write_failures(folder / "failed.csv", summary.failed)
    return summary


def _predict(
    predictor: Predictor, loader: Iterable[_Loaded], progress: Progress, failed: dict[str, str]
) -> Iterator[_Predicted]:
    """Yield the prediction of each file that can be read, in order; add the others to `failed`."""
    for loaded in loader:
        for file, reason in loaded.failed.items():
            log.warning("%s: %s", file, reason)
            failed[file] = reason
        if loaded.batch is not None:
            predictions = predictor.predict_batch(loaded.batch)
            yield from map(_Predicted, loaded.files, predictions, loaded.cases)
        progress.advance(len(loaded.files))


def _in_threads(
    write: Callable[[_Predicted], dict[str, Any]], predicted: Iterable[_Predicted]
) -> Iterator[dict[str, Any]]:
    """Yield the row of each prediction once its files are written, in order."""
    waiting: deque[Future[dict[str, Any]]] = deque()
    with ThreadPoolExecutor(_WRITERS) as pool:
        for each in predicted:
            waiting.append(pool.submit(write, each))
            while waiting and (waiting[0].done() or len(waiting) > _MAX_WAITING):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Files(Dataset[tuple[str, Any]]):
    """Opens cases; one that cannot be read becomes the reason for it, not an error."""

    def __init__(self, application: Application, source: Path, files: Sequence[Path], *, draw: bool) -> None:
        self.application, self.source, self.files, self.draw = application, source, list(files), draw

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        """Return the file and what the application's `read` returned, or a reason."""
        file = self.files[index]
        try:
            return str(file), self.application.read(self.source / file, draw=self.draw)
        except UserError as error:
            return str(file), str(error)


def _collate(items: list[tuple[str, Any]], application: Application) -> _Loaded:
    failed = {file: opened for file, opened in items if isinstance(opened, str)}
    good = [(file, *opened) for file, opened in items if file not in failed]
    files, inputs, cases = ([item[place] for item in good] for place in range(3))
    batch = application.collate(files, inputs) if good else None
    return _Loaded(files, cases, batch, failed)


def _claim_folder(
    folder: Path, predictor: Predictor, source: Path, *, overlay: bool, overwrite: bool
) -> None:
    """Refuse to mix results of different models, options or files in one folder."""
    settings = {
        "checkpoint": _hash_of(predictor.paths),
        "data.data_dir": str(source),
        "trainer.precision": str(predictor.precision).removeprefix("torch."),
        "overlay": overlay,
        **predictor.application.settings,
    }
    path = folder / RESULTS_NAME
    if path.is_file() and not overwrite:
        before = json.loads(path.read_text())
        changed = [name for name in settings | before if _asked(before, name) != _asked(settings, name)]
        if changed:
            raise UserError(
                f"{folder} holds predictions made with another {' and '.join(changed)}; use "
                "overwrite=true to replace them, or another local_save_dir."
            )
    write_text(path, json.dumps(settings, indent=2) + "\n")


def _hash_of(checkpoints: Sequence[Path]) -> str:
    """Return the hash of a checkpoint, or that of the hashes of several."""
    first, *others = [hashlib.sha256(path.read_bytes()).hexdigest() for path in checkpoints]
    return hashlib.sha256(" ".join([first, *others]).encode()).hexdigest() if others else first


def _asked(settings: Mapping[str, Any], name: str) -> Any:
    """Return a setting; one that is false was not asked for, which is the same as its absence."""
    value = settings.get(name)
    return None if value is False else value


def _write_failures(path: Path, failed: dict[str, str]) -> None:
    if not failed:
        path.unlink(missing_ok=True)
        return
    write_text(path, csv_text(("file", "reason"), failed.items()))
