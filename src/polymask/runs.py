"""The three things polymask does, each readable from top to bottom: train, test, infer."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from polymask.errors import UserError
from polymask.factories import (
    build_data,
    build_optimizer,
    build_schedule,
    build_tracker,
    build_trainer,
    rebuild,
)
from polymask.families.base import Family, Task
from polymask.fitting import check_fit
from polymask.run_claim import check_monitor_names, claim_run, undisturbed
from polymask.run_config import (
    RESUME_MAY_CHANGE,
    TEST_MAY_CHANGE,
    family_options,
    flatten,
    plain,
    stored_config,
    write_config,
)
from polymask.run_export import keep_encoder
from polymask.run_files import (
    CHECKPOINTS,
    INFERENCE_RESULTS,
    build_previews,
    check_report_place,
    course_of,
    evaluate_test,
    log_bests,
    log_start_files,
    report_place,
    write_run_files,
)
from polymask.run_parts import (
    build_family_and_task,
    decide_now,
    keeps_split,
    split_of,
    state_of,
    warn_of_other_truth,
    warn_of_overlap,
)
from polymask.run_record import new_record, run_tags
from polymask.run_summary import run_summary
from polymask.tracking.base import NoTracker
from polymask.tracking.epoch_log import EpochLog
from polymask.tracking.session import run_session
from polymask.training.checkpoint import (
    CheckpointFolder,
    load_checkpoint,
    load_weights,
    run_record,
    stored_decisions,
    stored_weights,
)
from polymask.training.distributed import leave, processes
from polymask.training.seeding import seed_everything
from polymask.training.state import TrainingState
from polymask.training.threads import use_threads
from polymask.utils.files import check_writable
from polymask.utils.outputs import output_dir
from polymask.utils.paths import resolve

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What `train` returns.

    Attributes:
        run_name: Name of the run.
        task: The trained task; it holds the best weights when the run was tested, else the last ones.
        state: Course of the training.
        test_metrics: Metrics of the best checkpoint on the test subset, empty when not tested.
        folder: Everything else that the test found, None when not tested.
        objective: Best value of the monitored metric, for sweeps.
    """

    run_name: str
    task: Task
    state: TrainingState
    test_metrics: dict[str, float]
    folder: Path | None
    objective: float | None


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """What `test` returns: the run, its metrics by name, the folder with everything else."""

    run_name: str
    metrics: dict[str, float]
    folder: Path
    objective: None = None


@dataclass(frozen=True, kw_only=True)
class InferResult:
    """What `infer` returns: number of images predicted now, of images found done, and the folder."""

    predicted: int
    skipped: int
    folder: Path
    objective: None = None


def train(cfg: DictConfig) -> TrainResult:
    """Train a model, or go on with an interrupted run; then test its best checkpoint."""
    if cfg.out_of_fold:
        raise UserError(f"out_of_fold={cfg.out_of_fold} is for a test of several runs; leave it out.")
    checkpoints = CheckpointFolder(resolve(CHECKPOINTS))
    with processes() as own, claim_run(cfg, checkpoints, own) as name:
        previous = load_checkpoint(checkpoints.last(name)) if cfg.resume else None
        if previous is not None:
            cfg = stored_config(previous, cfg, may_change=RESUME_MAY_CHANGE, command="resume")
        check_report_place(cfg, name)
        trainer = build_trainer(cfg, processes=own)
        seed_everything(trainer.settings.seed)
        data = build_data(cfg, split=split_of(previous))
        if own.is_main:
            log.info("%s", data.description())
        family, task = build_family_and_task(cfg, data, previous, checkpoints)
        check_monitor_names(name, family.monitors)
        trainer.prepare(task)
        share: dict[str, Any] = {"rank": own.rank, "world_size": own.world_size}
        in_epoch = trainer.settings.batches_per_epoch
        train_loader = data.train_loader(**share, batches_per_epoch=in_epoch)
        val_loader = data.evaluation_loader("val", **share)
        optimizer = build_optimizer(cfg, task)
        steps = trainer.settings.steps_per_epoch(train_loader)
        schedule = build_schedule(cfg, optimizer, steps_per_epoch=steps, mode=task.mode)

        tracker = build_tracker(cfg) if own.is_main else NoTracker()
        previews = build_previews(cfg, family, data, tracker) if own.is_main else None
        record = new_record(cfg, data, previous, name)
        if own.is_main:
            write_run_files(cfg, record, data, task, trainer, checkpoints)
        tracker.keep(checkpoints.outbox(name))
        tags, params = run_tags(record, data, trainer), flatten(record.config)
        with run_session(tracker, name, params=params, tags=tags, run_id=record.tracker_run_id):
            log_start_files(tracker)
            state = trainer.fit(
                task,
                family.scorer,
                train_loader,
                val_loader,
                optimizer=optimizer,
                schedule=schedule,
                checkpoints=checkpoints,
                # Asked anew for every checkpoint: a tracker that is away at the start has its id only later.
                record=lambda: replace(record, tracker_run_id=tracker.run_id),
                metric_log=EpochLog(output_dir() / "metrics.csv", tracker, running=cfg.running_metrics),
                monitors=family.monitors,
                decisions=family.decisions,
                previews=previews,
                resume_from=previous,
            )
            leave()  # the main process alone tests: evaluation is short, and its report needs every image
            best = checkpoints.best(name)
            for kept in checkpoints.best_names(name):
                tracker.log_artifact(checkpoints.best(kept), "run")
            log_bests(tracker, state)
            metrics: dict[str, float] = {}
            folder = None
            if cfg.test_after_training and own.is_main and data.split.subsets["test"]:
                load_weights(task, stored_weights(best), source=str(best))
                family.decide(stored_decisions(best), task)
                folder = report_place(cfg, name)
                metrics = evaluate_test(
                    family, task, trainer, data, folder, course_of(state), tracker, record=record
                )
    if own.is_main:
        keep_encoder(family, task, best, record, state)
        settings, file = trainer.settings, output_dir() / "metrics.csv"
        can_infer = type(family).application is not Family.application
        log.info(
            "%s",
            run_summary(
                name, state, settings, task.monitor, best, folder, tracker, file, can_infer=can_infer
            ),
        )
    return TrainResult(
        run_name=name,
        task=task,
        state=state,
        test_metrics=metrics,
        folder=folder,
        objective=state.best_value,
    )


def test(cfg: DictConfig) -> TestResult:
    """Evaluate a checkpoint on the test subset of its own split, or several together."""
    from polymask.inference.members import find_checkpoints

    checkpoints = CheckpointFolder(resolve(CHECKPOINTS))
    path, *others = find_checkpoints(cfg.run_name, checkpoints, files=False)
    if others or cfg.out_of_fold:
        from polymask.run_ensemble import test_ensemble

        tested = test_ensemble(cfg, [path, *others])
        return TestResult(run_name=tested.name, metrics=tested.metrics, folder=tested.folder)
    content = load_checkpoint(path)
    record = run_record(content)
    cfg = stored_config(content, cfg, may_change=TEST_MAY_CHANGE, command="test")
    own_split = split_of(content)
    if "classes" in cfg.data:
        cfg.data.classes = record.class_names  # the run's, whatever the data set holds
    run = rebuild(content, cfg)
    data = run.build_data(split=own_split if keeps_split(content, cfg) else None)
    log.info("%s", data.description())
    warn_of_overlap(own_split, data)
    warn_of_other_truth(record, data)
    write_config(cfg, output_dir() / "config.yaml")
    trainer = build_trainer(cfg)
    check_fit(cfg, run.family)
    data.check_truth(run.family.needs, ("test",))
    task = trainer.prepare(run.build_task())
    tracker = build_tracker(cfg)
    folder = report_place(cfg, record.run_name)
    state = state_of(checkpoints, content)
    epoch = content["training"]["epoch"]
    log.info("testing %s, epoch %d of %d", path, epoch, len(state.history))
    with (
        undisturbed(checkpoints, record, tracker),
        run_session(
            tracker,
            record.run_name,
            params=flatten(record.config),
            tags=run_tags(record, data, trainer),
            run_id=record.tracker_run_id,
            training=False,
        ),
    ):
        if run.family.undecided:
            decide_now(run.family, task, trainer, data, path, own_split=keeps_split(content, cfg))
        metrics = evaluate_test(
            run.family,
            task,
            trainer,
            data,
            folder,
            course_of(state, epoch),
            tracker,
            record=replace(record, config=plain(cfg)),  # as it was tested
        )
    return TestResult(run_name=record.run_name, metrics=metrics, folder=folder)


def infer(cfg: DictConfig) -> InferResult:
    """Apply a checkpoint to a folder of images or a list of files."""
    from polymask.inference.folder import predict_files
    from polymask.inference.inputs import find_cases
    from polymask.inference.predictor import Predictor

    use_threads(cfg.trainer.threads)
    predictor = Predictor.from_checkpoint(
        cfg.run_name,
        options=family_options(cfg),
        device=cfg.trainer.device,
        precision=cfg.trainer.precision,
    )
    source = resolve(cfg.data.data_dir)
    file_list = resolve(cfg.data.file_list) if cfg.data.file_list else None
    files = find_cases(predictor.application, source, file_list)
    folder = resolve(cfg.local_save_dir or INFERENCE_RESULTS) / predictor.run_name
    check_writable(folder, remedy="choose another local_save_dir")
    paths = ", ".join(map(str, predictor.paths))
    log.info("predicting %d images of %s with %s", len(files), source, paths)
    write_config(cfg, output_dir() / "config.yaml")
    summary = predict_files(
        predictor,
        source,
        files,
        folder,
        batch_size=cfg.data.batch_size,
        num_workers=cfg.data.num_workers,
        overlay=cfg.overlay,
        overwrite=cfg.overwrite,
    )
    log.info("%d images predicted, %d were there already: %s", summary.predicted, summary.skipped, folder)
    if summary.failed:
        raise UserError(
            f"{len(summary.failed)} of {len(files)} files could not be read, e.g. "
            f"{next(iter(summary.failed))}; all others are done. The list is in "
            f"{folder / 'failed.csv'}; mend or remove them and run again."
        )
    return InferResult(predicted=summary.predicted, skipped=summary.skipped, folder=folder)
