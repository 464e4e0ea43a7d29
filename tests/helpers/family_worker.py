"""What the family tester does in other processes: an evaluation by two, an inference that is killed.

As a script it starts these processes: forks of one that has the libraries, which take longer to load than
all that is done with them.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from polymask import cli
from polymask.data.splits.split import split_from_csv
from polymask.factories import Rebuilt, build_trainer, rebuild
from polymask.families.base import Application, Prediction, Task
from polymask.structures.samples import Rows
from polymask.training.checkpoint import load_checkpoint
from polymask.training.distributed import Processes, processes
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


def evaluate_as(rank: int, port: int, run: Rebuilt, task: Task, file: Path) -> None:
    """Evaluate as one of several processes, as `torchrun` starts them; write the rows."""
    number = str(rank)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(WORLD_SIZE)}
    os.environ |= {"RANK": number, "LOCAL_RANK": number}
    with processes() as own:
        rows = evaluate(run, task, own=own)
    np.savez(file, **rows)


def infer_and_be_killed(application: Any, table: Path, options: Sequence[str]) -> None:
    """Run an inference whose process is killed when the files of a case are there and its row is not."""
    kind, numbers = type(application), itertools.count()
    whole = kind.write

    def write(self: Any, *arguments: Any) -> dict[str, Any]:
        number = next(numbers)
        row = whole(self, *arguments)
        if number == KILLED_AT:  # the other threads go on, as far as they come
            (table.parent / self.folders[0] / ".half.0123abcd.tmp").write_bytes(b"half of a file")
            deadline = time.monotonic() + 20
            while table.read_text().count("\n") < KILLED_AT and time.monotonic() < deadline:
                time.sleep(0.01)  # until it holds the heading and some rows
            os.kill(os.getpid(), signal.SIGKILL)
        return row

    kind.write = write
    cli.run("infer", options)


def start(function: Callable[..., None], *arguments: Any) -> Any:
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def free_port() -> int:
    with socket.socket() as open_socket:
        open_socket.bind(("127.0.0.1", 0))
        return open_socket.getsockname()[1]


def main(folder: Path, killed: Path, options: Sequence[str]) -> None:
    """Start the processes.

    Args:
        folder: Gets `{rank}.npz`, the rows that each process has of one evaluation.
        killed: Results of the inference.
        options: Of the inference; none where there is nothing to apply.
    """
    run = rebuild(load_checkpoint(resolve(BEST)))
    task, port = run.build_task(), free_port()
    ranks = [start(evaluate_as, rank, port, run, task, folder / f"{rank}.npz") for rank in range(WORLD_SIZE)]
    for process in ranks:
        process.join()
        assert process.exitcode == 0
    if options:
        process = start(infer_and_be_killed, application_of(run), killed / "predictions.partial.csv", options)
        process.join()
        assert process.exitcode == -signal.SIGKILL


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
