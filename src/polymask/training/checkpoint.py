"""Checkpoint files: one dict of plain containers and tensors, written whole or not at all."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polymask.errors import UserError, nearest
from polymask.structures.samples import Rows
from polymask.training.checkpoint_content import FORMAT, checked_content, checked_weights
from polymask.training.run_names import best_name, is_by_metric, run_of, typed_name
from polymask.utils.archives import read_tensors
from polymask.utils.files import remove_leftovers, write_atomically

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a checkpoint says of its run, apart from weights and training state.

    Attributes:
        run_name: Name of the run.
        config: The resolved configuration as plain containers.
        groups: The chosen option of each configuration group.
        class_names: Names of the classes, in the order of the outputs.
        split: The split as CSV text.
        split_sha256: Its hash.
        tracker_run_id: The tracker's own id of the run, "" when there is no tracker.
        versions: Versions of the libraries that wrote the file.
        parent_run: The run of which this one's first checkpoint was a copy, "" for none.
        corrections_sha256: Hash of the file `data.corrections`, "" for no corrections.
    """

    run_name: str
    config: dict[str, Any]
    groups: dict[str, str]
    class_names: list[str]
    split: str
    split_sha256: str
    tracker_run_id: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    parent_run: str = ""
    corrections_sha256: str = ""


class CheckpointFolder:
    """The files of each run in one folder: `{run}.pt` (best) and `{run}.last.pt` (for resume).

    Where further metrics are monitored, `{run}@{metric}.pt` are the best by these. Whatever takes the name of
    a run for its best checkpoint takes `{run}@{metric}`, too.

    Args:
        folder: Usually `models/checkpoints`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def best(self, run_name: str, metric: str | None = None) -> Path:
        """Return the path of the best checkpoint of a run, by its own metric or by a further one."""
        name = run_name if metric is None else best_name(run_name, metric)
        return self.folder / f"{name}.pt"

    def last(self, run_name: str) -> Path:
        """Return the path of the newest checkpoint of a run, which also holds the training state."""
        return self.folder / f"{run_name}.last.pt"

    def marker(self, run_name: str) -> Path:
        """Return the path of the run's configuration, whose time is that of the run's last start."""
        return self.folder / f"{run_name}.yaml"

    def outbox(self, run_name: str) -> Path:
        """Return the path of the records that the tracker has not taken yet."""
        return self.folder / f"{run_name}.outbox.jsonl"

    def best_names(self, run_name: str) -> list[str]:
        """Return the names of a run's best checkpoints that are there, that by its own metric first."""
        others = self.folder.glob(f"{glob.escape(best_name(run_name, ''))}*.pt")
        found = [self.best(run_name), *sorted(others)]
        return [path.name.removesuffix(".pt") for path in found if path.is_file()]

    def remove_outboxes(self, run_name: str) -> None:
        """Remove the records that the tracker has not taken yet, of all best checkpoints of a run."""
        others = self.folder.glob(f"{glob.escape(best_name(run_name, ''))}*.outbox.jsonl")
        for path in (self.outbox(run_name), *others):
            path.unlink(missing_ok=True)

    def remove_leftovers(self, run_name: str) -> None:
        """Remove what processes of a run that were killed left half written; only for its one writer."""
        for ending in (".pt", ".last.pt", ".yaml"):
            remove_leftovers(self.folder, f"{glob.escape(run_name)}{ending}")
        remove_leftovers(self.folder, f"{glob.escape(best_name(run_name, ''))}*.pt")

    def newest_run(self) -> str | None:
        """Return the run that was started last, with or without a checkpoint; None when there is none."""
        started = {path.stem: path.stat().st_mtime_ns for path in self.folder.glob("*.yaml")}
        for path in self.folder.glob("*.last.pt"):  # where somebody removed the configuration
            started.setdefault(path.name.removesuffix(".last.pt"), path.stat().st_mtime_ns)
        return max(started, key=lambda name: started[name]) if started else None

    def run_names(self, *, resumable: bool = False) -> list[str]:
        """Return the runs that have a best (or, `resumable`, a last) checkpoint, newest first."""
        files = [
            path
            for path in self.folder.glob("*.pt")
            if path.name.endswith(".last.pt") == resumable and not is_by_metric(path.name)
        ]
        files.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return [path.name.removesuffix(".last.pt" if resumable else ".pt") for path in files]

    def note_tracker_run(self, run_name: str, run_id: str) -> None:
        """Let the checkpoints of a run know the tracker's run, where that was opened after they were written.

        A file that is a copy of another run's becomes one of its own. Trouble with it is a warning.
        """
        for path in filter(Path.is_file, (self.best(run_name), self.last(run_name))):
            try:
                content, times = checked_weights(_read(path), path), path.stat()
                written = content.get("run_name", run_name)
                if (written, content.get("tracker_run_id")) == (run_name, run_id):
                    continue
                if written != run_name:
                    content |= {"run_name": run_name, "parent_run": written}
                    content["config"] = {**content["config"], "run_name": run_name}
                content["tracker_run_id"] = run_id
                write_atomically(path, partial(torch.save, content))
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # it is no newer than before
            except (OSError, UserError) as error:
                log.warning("%s does not know the tracker's run %s: %s", path, run_id, error)

    def matching(self, pattern: str) -> list[str]:
        """Return the names of the runs with a best checkpoint that match a pattern, sorted.

        Args:
            pattern: `*` stands for any text; `fold*@auroc_macro` of the best checkpoints by a further metric.

        Raises:
            UserError: There is none.
        """
        pattern = typed_name(pattern)
        known = sorted(self.run_names())
        if is_by_metric(pattern):
            known = [name for run in known for name in self.best_names(run)]
        found = [name for name in known if fnmatchcase(name, pattern)]
        if not found:
            raise UserError(f"no run in {self.folder} is called {pattern!r}.{nearest(pattern, known)}")
        return found

    def find(self, run_name: str | None, *, resumable: bool = False) -> Path:
        """Return the checkpoint of a run, of the newest run when `run_name` is None.

        `run@metric` is the best one by a further metric.

        Raises:
            UserError: There is none.
        """
        names = self.run_names(resumable=resumable)
        if run_name is None and not names:
            raise UserError(f"no checkpoint in {self.folder}; train one first: python src/train.py")
        name = names[0] if run_name is None else typed_name(run_name)
        path = self.last(name) if resumable else self.best(name)
        if not path.is_file():
            own = self.best_names(run_of(name)) if is_by_metric(name) and not resumable else []
            shown = f"Of this run there are: {', '.join(own)}."
            if not own:
                shown = f"Newest runs: {', '.join(names[:5]) or 'none'}."
            if resumable and is_by_metric(name):
                shown = f"A run goes on as a whole: resume=true run_name={run_of(name)}."
            raise UserError(
                f"run_name={name!r} has no checkpoint {path}.{nearest(name, own or names)} {shown}"
            )
        return path


def save_checkpoint(path: Path, record: RunRecord, state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: Final name.
        record: What the file says of its run.
        state: `model`, `ema`, `training`, for resume `optimizer`, `schedule`, `scaler`, and of the best
            epoch `decisions`.
    """
    content = {"format": FORMAT, **asdict(record), **state}
    write_atomically(path, lambda file: torch.save(content, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, whoever wrote it; the only way from such a file to objects.

    Returns:
        Its content, as `polymask.training.checkpoint_content.checked_content` leaves it.

    Raises:
        UserError: The file is missing, damaged, not a polymask checkpoint, or would run code.
    """
    return checked_content(_read(path), path)


def stored_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights to predict with of a checkpoint, and nothing to build from.

    Raises:
        UserError: The file is missing, damaged, or not a polymask checkpoint.
    """
    return inference_weights(checked_weights(_read(path), path))


def stored_decisions(path: Path) -> Rows:
    """Return the decisions of a checkpoint, and nothing to build from.

    Raises:
        UserError: The file is missing, damaged, or not a polymask checkpoint.
    """
    return decisions_of(checked_weights(_read(path), path))


def add_decisions(path: Path, decisions: Rows) -> None:
    """Let a checkpoint that has no decisions know these. Trouble with it is a warning."""
    try:
        content, times = checked_weights(_read(path), path), path.stat()
        write_atomically(path, partial(torch.save, content | {"decisions": decisions_as_stored(decisions)}))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # it is no newer than before
    except (OSError, UserError) as error:
        log.warning("%s cannot keep what was decided: %s", path, error)


def _read(path: Path) -> Any:
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"checkpoint {path} {found}; give a run_name of models/checkpoints or a path.")
    try:
        return read_tensors(path)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
        raise UserError(
            f"checkpoint {path} cannot be read ({type(error).__name__}): it is damaged, or src/train.py did "
            "not write it; copy it again or train anew."
        ) from error


def run_record(content: Mapping[str, Any]) -> RunRecord:
    """Return the `RunRecord` of a loaded checkpoint."""
    return RunRecord(**{name: content[name] for name in RunRecord.__dataclass_fields__})


def inference_weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights to predict with: the averaged ones where the run kept an average."""
    ema = {name: value for name, value in (content["ema"] or {}).items() if name != "num_updates"}
    return {**content["model"], **ema}


def decisions_of(content: Mapping[str, Any]) -> Rows:
    """Return what the validation rows said with the weights of a checkpoint, {} where it does not know."""
    return {name: values.numpy() for name, values in content.get("decisions", {}).items()}


def decisions_as_stored(decisions: Rows) -> dict[str, Tensor]:
    """Return decisions as a checkpoint holds them."""
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in decisions.items()}


def new_parts(module: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of parts of a module that may start anew and of which the weights have nothing.

    A part says so by an attribute `may_start_anew`: it extends a network that is complete without it, so that
    weights of the one are a start for the other.
    """
    return [
        name
        for name, part in module.named_modules()
        if getattr(part, "may_start_anew", False)
        and part.state_dict()
        and not any(key.startswith(f"{name}.") for key in weights)
    ]


def load_weights(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    source: str,
    strict: bool = True,
    absent: Sequence[str] = (),
) -> list[str]:
    """Copy weights into a module.

    Args:
        module: Where to.
        weights: Tensors by name.
        source: Where they come from, for the message.
        strict: Fail when a name or a shape differs; else leave those as they are in the module.
        absent: Names of parts of the module that stay as they are, since the weights have nothing of them.

    Returns:
        One note per name that was not loaded (empty when strict).

    Raises:
        UserError: `strict`, and names or shapes differ; or nothing fits at all.
    """
    prefixes = tuple(f"{part}." for part in absent)
    own = {name: value for name, value in module.state_dict().items() if not name.startswith(prefixes)}
    fitting = {
        name: value for name, value in weights.items() if name in own and own[name].shape == value.shape
    }
    notes = [f"missing {name}" for name in own if name not in weights]
    notes += [f"unexpected {name}" for name in weights if name not in own]
    notes += [
        f"shape of {name} is {tuple(weights[name].shape)}, the model has {tuple(own[name].shape)}"
        for name in weights
        if name in own and name not in fitting
    ]
    if notes and (strict or not fitting):
        remedy = (
            "Use the model options it was trained with, or init_strict=false to load what fits."
            if fitting
            else "Nothing of it fits; to start from an encoder alone, write it with polymask export-encoder "
            "and give that file as model.weights= or model.encoder_weights=."
        )
        raise UserError(
            f"{source} does not fit the model: {len(notes)} differences, e.g. {'; '.join(notes[:3])}. "
            f"{remedy}"
        )
    module.load_state_dict(fitting, strict=False)
    return notes
