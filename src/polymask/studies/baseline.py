"""`polymask baseline`: what can be had without learning, as a run that others can be compared with."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace

from omegaconf import DictConfig, OmegaConf

from polymask.errors import UserError
from polymask.factories import build_task, build_tracker, build_trainer, rebuild
from polymask.families.base import Family
from polymask.fitting import target_of
from polymask.run_claim import check_run_name, undisturbed
from polymask.run_config import chosen_groups, flatten, plain
from polymask.run_files import CHECKPOINTS, course_of, evaluate_test, report_place
from polymask.run_parts import split_of
from polymask.run_record import run_tags
from polymask.runs import TestResult
from polymask.structures.gives import given_by
from polymask.tracking.session import run_session
from polymask.training.checkpoint import (
    CheckpointFolder,
    load_checkpoint,
    run_record,
    save_checkpoint,
)
from polymask.training.run_names import run_of
from polymask.training.state import TrainingState
from polymask.utils.paths import resolve

log = logging.getLogger(__name__)


def baseline(cfg: DictConfig) -> TestResult:
    """Test a method that learns nothing on the test subset of a run, and leave a checkpoint as of any run.

    So it is compared, drawn, tested again and applied to new images by the same commands as a trained run.
    """
    checkpoints = CheckpointFolder(resolve(CHECKPOINTS))
    like = load_checkpoint(checkpoints.find(cfg.like))
    name = cfg.run_name or f"classical_{run_of(like['run_name'])}"
    _check_name(checkpoints, name)
    config = {**like["config"], **{key: plain(cfg)[key] for key in ("model", "trainer", "tracker")}}
    config |= {"run_name": name, "local_save_dir": cfg.local_save_dir}
    own = {key: chosen_groups()[key] for key in ("trainer", "tracker")}
    groups = {**like["groups"], **own, "model": "classical"}
    record = replace(
        run_record(like), run_name=name, config=config, groups=groups, tracker_run_id="", parent_run=""
    )
    run = rebuild({**like, **asdict(record)}, OmegaConf.create(config))
    _check_predicts(run.cfg, run.family, like["run_name"])
    data = run.build_data(split=split_of(like))
    trainer = build_trainer(run.cfg)
    task = trainer.prepare(build_task(run.cfg, run.family, pretrained=False))
    tracker = build_tracker(run.cfg)
    state = TrainingState()
    weights = {"model": task.state_dict(), "ema": None, "training": state.state_dict()}
    params, tags = flatten(config), run_tags(record, data, trainer)
    with (
        undisturbed(checkpoints, record, tracker),
        run_session(tracker, name, params=params, tags=tags, run_id=""),
    ):
        folder = report_place(run.cfg, name)
        metrics = evaluate_test(
            run.family, task, trainer, data, folder, course_of(state), tracker, record=record
        )
        save_checkpoint(checkpoints.best(name), replace(record, tracker_run_id=tracker.run_id), weights)
    log.info("compare with it: polymask compare %s %s", name, like["run_name"])
    return TestResult(run_name=name, metrics=metrics, folder=folder)


def _check_predicts(cfg: DictConfig, family: Family, run_name: str) -> None:
    """Raise UserError when a run predicts what the method does not give."""
    given = given_by(target_of(cfg.model, "model"), family.needs)
    if not family.predicts <= given:
        raise UserError(
            f"{run_name} predicts {' and '.join(sorted(family.predicts))}, but the baseline can only give "
            f"{' or '.join(sorted(given))}; name a run that predicts no more than that."
        )


def _check_name(checkpoints: CheckpointFolder, name: str) -> None:
    """Raise UserError when the files of a trained run would be replaced."""
    check_run_name(name)
    path = checkpoints.best(name)
    if checkpoints.last(name).is_file() or (path.is_file() and load_checkpoint(path)["training"]["epoch"]):
        raise UserError(f"run_name={name} is a trained run; give the baseline another name.")
