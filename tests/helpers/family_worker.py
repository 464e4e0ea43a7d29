"""What the family tester does in other processes: an evaluation by two, an inference that is killed."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import warm_scripts  # noqa: F401  says which libraries its server loads
from omegaconf import OmegaConf

from polymask import cli
from polymask.data.splits.split import split_from_csv
from polymask.factories import Rebuilt, build_trainer, rebuild
from polymask.families.base import Application, Prediction, Task
from polymask.structures.samples import Rows
from polymask.training.checkpoint import load_checkpoint
from polymask.training.distributed import Processes, processes
from polymask.utils import paths
from polymask.utils.paths import resolve

RUN = "run"
BEST, LAST = (Path("models", "checkpoints", f"{RUN}{end}") for end in (".pt", ".last.pt"))
KILLED_AT = 4
"""Cases that are begun before the one whose files are written when the process is killed."""
WORLD_SIZE = 2


def evaluate(
    run: Rebuilt,
    task: Task,
    subset: str = "test",
    *,
    data_options: Mapping[str, Any] | None = None,
    backwards: bool = False,
    own: Processes | None = None,
    consume: Callable[[Sequence[Prediction]], None] | None = None,
) -> Rows:
    """Evaluate a task on a subset of its run's data, with other options of the loader, in another order."""
    cfg = OmegaConf.merge(run.cfg, {"data": dict(data_options or {})})
    split = split_from_csv(run.content["split"])
    if backwards:
        split.subsets[subset].reverse()
    own = own or Processes()
    data = rebuild(run.content, cfg).build_data(split=split)
    trainer = build_trainer(cfg, processes=own)
    loader = data.evaluation_loader(subset, rank=own.rank, world_size=own.world_size)
    return trainer.evaluate(trainer.prepare(task), loader, title=subset, consume=consume)


def application_of(run: Rebuilt) -> Application | None:
    return run.family.application(run.content["config"]["data"], {})


def evaluate_as(rank: int, port: int, file: Path) -> None:
    """Evaluate as one of several processes, as `torchrun` starts them; write the rows."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(WORLD_SIZE)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    run = rebuild(load_checkpoint(resolve(BEST)))
    with processes() as own:
        rows = evaluate(run, run.build_task(), own=own)
    np.savez(file, **rows)


def infer_and_be_killed(options: Sequence[str], table: Path) -> None:
    """Run an inference whose process is killed when the files of a case are there and its row is not."""
    kind: Any = type(application_of(rebuild(load_checkpoint(resolve(BEST)))))
    whole, numbers = kind.write, itertools.count()

    def write(self: Any, *arguments: Any) -> dict[str, Any]:
        number = next(numbers)
        row = whole(self, *arguments)
        if number == KILLED_AT:  # the other threads go on, as far as they come
            table.with_name(".half.0123abcd.tmp").write_bytes(b"half of a file")
            deadline = time.monotonic() + 20
            while table.read_text().count("\n") < KILLED_AT and time.monotonic() < deadline:
                time.sleep(0.01)  # until it holds the heading and some rows
            os.kill(os.getpid(), signal.SIGKILL)
        return row

    kind.write = write
    cli.run("infer", options)


def start(function: Callable[..., None], *arguments: Any) -> Any:
    """Start a process of its own that has the libraries already, see `warm_scripts`."""
    context = multiprocessing.get_context("forkserver")
    here = dict(os.environ), paths.PROJECT_ROOT
    process = context.Process(target=_run, args=(here, function, arguments), daemon=True)
    process.start()
    return process


def free_port() -> int:
    with socket.socket() as open_socket:
        open_socket.bind(("127.0.0.1", 0))
        return open_socket.getsockname()[1]


def _run(here: tuple[Mapping[str, str], Path], function: Callable[..., None], arguments: Any) -> None:
    """Call a function in the surroundings of the process that asked for it."""
    environment, paths.PROJECT_ROOT = here
    os.environ |= {**environment, "CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    function(*arguments)
