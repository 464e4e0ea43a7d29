"""What each process of `test_distributed.py` runs: several trainings, their results in a file per process."""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from stub_task import MetricList, StubTask, evaluate, fit, make_trainer, train_loader, val_loader

from polymask.training import schedulers
from polymask.training.distributed import Processes, leave, processes

GLOBAL_BATCH = 4
SCENARIOS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"trainer": {"accumulate_batches": 4}},
    "clipped": {"trainer": {"clip_norm": 0.05}},
    "unfrozen": {"task": {"unfreeze_at": 1}},
    "plateau": {"build_schedule": partial(schedulers.plateau, factor=0.1, patience=0), "learning_rate": 1.0},
    "monitors": {"task": {"bias_course": [0.0, 2.0, 1.0]}, "monitors": {"val/bias": "max"}},
    "steps": {"trainer": {"steps_per_epoch": 4, "accumulate_batches": 2, "log_every_steps": 3}},
    "batch_norm": {"task": {"batch_norm": True}},
    "batch_norm_averaged": {"task": {"batch_norm": True}, "trainer": {"ema_decay": 0.9}},
}


def run_scenario(own: Processes, folder: Path, *, task: Any = (), trainer: Any = (), **options: Any) -> dict:
    """Train on this process' share of each batch and return all that the trainer leaves behind."""
    share = {"rank": own.rank, "world_size": own.world_size}
    trained, metric_log = StubTask(**dict(task)), MetricList()
    maker = make_trainer(processes=own, **dict(trainer))
    in_epoch = maker.settings.batches_per_epoch
    loader = train_loader(GLOBAL_BATCH // own.world_size, **share, batches_per_epoch=in_epoch)
    state = fit(maker, trained, folder, loader=loader, metric_log=metric_log, **options)
    seen: list[float] = []
    metrics = evaluate(maker, trained, val_loader(**share), title="test", consume=seen.extend)
    return {
        "weights": trained.state_dict(),
        "history": state.history,
        "points": state.points,
        "metrics": {name: float(value) for name, value in metrics.items()},
        "num_seen": len(seen),
        "num_logged": len(metric_log.logged),
    }


def main(folder: Path) -> None:
    with processes() as own:
        results: dict[str, Any] = {
            name: run_scenario(own, folder / str(own.rank) / name, **scenario)
            for name, scenario in SCENARIOS.items()
        }
        results["shared"] = own.share({"name": f"from {own.rank}"})
        leave()
        # The rest of a run is the main process' own business.
        alone = evaluate(make_trainer(processes=own), StubTask(), val_loader(), title="test")
        results["alone"] = {name: float(value) for name, value in alone.items()}
    torch.save(results, folder / f"{own.rank}.pt")


def run_rank(rank: int, folder: Path, port: int) -> None:
    """Be one process of a training, as `torchrun` would have started it."""
    os.environ |= {
        "CUDA_VISIBLE_DEVICES": "",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
    }
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    main(folder)
