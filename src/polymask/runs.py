"""The three things polymask does, each readable from top to bottom: train, test, infer."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from polymask.data.splits.split import Split, split_from_csv
from polymask.errors import UserError
from polymask.factories import (
    build_data,
    build_optimizer,
    build_schedule,
    build_task,
    build_tracker,
    build_trainer,
    check_fit,
)
from polymask.families.base import Task
from polymask.run_claim import claim_run, undisturbed
from polymask.run_config import (
    RESUME_MAY_CHANGE,
    TEST_MAY_CHANGE,
    chosen_groups,
    flatten,
    plain,
    stored_config,
    write_config,
)
from polymask.run_files import (
    CHECKPOINTS,
    INFERENCE_RESULTS,
    build_previews,
    check_report_place,
    evaluate_test,
    report_place,
    write_run_files,
)
from polymask.run_summary import run_summary
from polymask.tracking.base import NoTracker
from polymask.tracking.epoch_log import EpochLog
from polymask.tracking.session import run_session
from polymask.training.checkpoint import (
    CheckpointFolder,
    RunRecord,
    inference_weights,
    load_checkpoint,
    load_weights,
    run_record,
    stored_weights,
)
from polymask.training.distributed import leave, processes
from polymask.training.seeding import seed_everything
from polymask.training.state import TrainingState
from polymask.training.threads import use_threads
from polymask.training.trainer import Trainer
from polymask.utils.files import check_writable
from polymask.utils.outputs import output_dir
from polymask.utils.paths import resolve
from polymask.utils.provenance import git_commit, library_versions

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What `train` returns.

    Attributes:
        run_name: Name of the run.
        task: The trained task; it holds the best weights when the run was tested, else the last ones.
        state: Course of the training.
        test_metrics: Metrics of the best checkpoint on the test subset, empty when not tested.
        objective: Best value of the monitored metric, for sweeps.
    """

    run_name: str
    task: Task
    state: TrainingState
    test_metrics: dict[str, float]
    objective: float | None


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """What `test` returns: metrics by name, the folder with everything else."""

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
    checkpoints = CheckpointFolder(resolve(CHECKPOINTS))
    with processes() as own, claim_run(cfg, checkpoints, own) as name:
        previous = load_checkpoint(checkpoints.last(name)) if cfg.resume else None
        if previous is not None:
            cfg = stored_config(previous, cfg, may_change=RESUME_MAY_CHANGE, command="resume")
        check_report_place(cfg, name)
        trainer = build_trainer(cfg, processes=own)
        seed_everything(trainer.seed)
        data = build_data(cfg, split=_split_of(previous))
        if own.is_main:
            log.info("%s", data.description())
        task = build_task(
            cfg,
            class_names=data.classes,
            class_counts=data.class_counts("train"),
            pretrained=previous is None and cfg.init_from is None,
        )
        check_fit(task, data)
        if previous is None and cfg.init_from is not None:
            _start_from(task, str(cfg.init_from), checkpoints, strict=cfg.init_strict)
        trainer.prepare(task)
        share = {"rank": own.rank, "world_size": own.world_size}
        train_loader, val_loader = data.train_loader(**share), data.evaluation_loader("val", **share)
        optimizer = build_optimizer(cfg, task)
        steps = trainer.steps_per_epoch(train_loader)
        schedule = build_schedule(cfg, optimizer, steps_per_epoch=steps, mode=task.mode)

        tracker = build_tracker(cfg) if own.is_main else NoTracker()
        previews = build_previews(cfg, task, data, tracker) if own.is_main else None
        record = _record(cfg, data, previous, name)
        if own.is_main:
            write_run_files(cfg, record, data, task, trainer, checkpoints)
        tracker.keep(checkpoints.outbox(name))
        tags, params = _tags(record, data, trainer), flatten(record.config)
        with run_session(tracker, name, params=params, tags=tags, run_id=record.tracker_run_id):
            for file in ("config.yaml", "split.csv"):  # at once: a run that fails shall show what it was
                tracker.log_artifact(output_dir() / file, "run")
            state = trainer.fit(
                task,
                train_loader,
                val_loader,
                optimizer=optimizer,
                schedule=schedule,
                checkpoints=checkpoints,
                # Asked anew for every checkpoint: a tracker that is away at the start has its id only later.
                record=lambda: replace(record, tracker_run_id=tracker.run_id),
                metric_log=EpochLog(output_dir() / "metrics.csv", tracker, running=cfg.running_metrics),
                previews=previews,
                resume_from=previous,
            )
            leave()  # the main process alone tests: evaluation is short, and its report needs every image
            best = checkpoints.best(name)
            tracker.log_artifact(best, "run")
            metrics: dict[str, float] = {}
            folder = None
            if cfg.test_after_training and own.is_main and data.split.subsets["test"]:
                load_weights(task, stored_weights(best), source=str(best))
                folder = report_place(cfg, name)
                metrics = evaluate_test(task, trainer, data, folder, state.state_dict(), tracker)
    if own.is_main:
        log.info(
            "%s",
            run_summary(
                record.run_name,
                state,
                epochs=trainer.epochs,
                patience=trainer.patience,
                monitor=task.monitor,
                seed=trainer.seed,
                checkpoint=best,
                report=folder,
                tracker=tracker,
                metrics_file=output_dir() / "metrics.csv",
            ),
        )
    return TrainResult(
        run_name=record.run_name, task=task, state=state, test_metrics=metrics, objective=state.best_value
    )


def test(cfg: DictConfig) -> TestResult:
    """Evaluate a checkpoint on the test subset of its own split."""
    checkpoints = CheckpointFolder(resolve(CHECKPOINTS))
    path = checkpoints.find(cfg.run_name)
    content = load_checkpoint(path)
    record = run_record(content)
    cfg = stored_config(content, cfg, may_change=TEST_MAY_CHANGE, command="test")
    own_split = _split_of(content)
    if "classes" in cfg.data:
        cfg.data.classes = record.class_names  # the run's, whatever the data set holds
    data = build_data(cfg, split=own_split if _keeps_split(content, cfg) else None, allow_absent=True)
    log.info("%s", data.description())
    _warn_of_overlap(own_split, data)
    write_config(cfg, output_dir() / "config.yaml")
    trainer = build_trainer(cfg)
    task = build_task(cfg, class_names=record.class_names, pretrained=False)
    check_fit(task, data, ("test",))
    load_weights(task, inference_weights(content), source=str(path))
    trainer.prepare(task)
    tracker = build_tracker(cfg)
    folder = report_place(cfg, record.run_name)
    course = _course(checkpoints, content)
    log.info("testing %s, epoch %d of %d", path, content["training"]["epoch"], len(course["history"]))
    with (
        undisturbed(checkpoints, record, tracker),
        run_session(
            tracker,
            record.run_name,
            params=flatten(record.config),
            tags=_tags(record, data, trainer),
            run_id=record.tracker_run_id,
            training=False,
        ),
    ):
        metrics = evaluate_test(task, trainer, data, folder, course, tracker)
    return TestResult(metrics=metrics, folder=folder)


def infer(cfg: DictConfig) -> InferResult:
    """Apply a checkpoint to a folder of images or a list of files."""
    from polymask.inference.folder import predict_files
    from polymask.inference.inputs import find_cases
    from polymask.inference.predictor import Predictor

    use_threads(cfg.trainer.threads)
    predictor = Predictor.from_checkpoint(
        cfg.run_name,
        options=_application_options(cfg),
        device=cfg.trainer.device,
        precision=cfg.trainer.precision,
    )
    source = resolve(cfg.data.data_dir)
    file_list = resolve(cfg.data.file_list) if cfg.data.file_list else None
    files = find_cases(predictor.application, source, file_list)
    folder = resolve(cfg.local_save_dir or INFERENCE_RESULTS) / predictor.run_name
    check_writable(folder, remedy="choose another local_save_dir")
    log.info("predicting %d images of %s with %s", len(files), source, predictor.path)
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


def _application_options(cfg: DictConfig) -> dict[str, Any]:
    """Return the keys of an inference that belong to the family of the run; it knows which are its own."""
    general = {"data.data_dir", "data.file_list", "data.batch_size", "data.num_workers"}
    values = flatten({name: value for name, value in plain(cfg).items() if name in ("data", "task", "tta")})
    return {key: value for key, value in values.items() if key not in general}


def _split_of(content: dict[str, Any] | None) -> Split | None:
    return split_from_csv(content["split"]) if content is not None else None


def _start_from(task: Task, source: str, checkpoints: CheckpointFolder, *, strict: bool) -> None:
    """Load the weights of another run or file into a fresh task."""
    path = resolve(source) if source.endswith(".pt") else checkpoints.find(source)
    for note in load_weights(task, inference_weights(load_checkpoint(path)), source=str(path), strict=strict):
        log.warning("init_from: %s", note)
    log.info("weights from %s", path)


def _record(cfg: DictConfig, data: Any, previous: dict[str, Any] | None, name: str) -> RunRecord:
    """Return what the checkpoints will say of the run."""
    if previous is not None:
        return replace(run_record(previous), config=plain(cfg))
    cfg.data.intensity_range = list(data.intensity_range)  # found in the training images: part of the model
    return RunRecord(
        run_name=name,
        config=plain(cfg),
        groups=chosen_groups(),
        class_names=data.classes,
        split=data.split.to_csv(),
        split_sha256=data.split.sha256,
        versions=library_versions(),
    )


def _tags(record: RunRecord, data: Any, trainer: Trainer) -> dict[str, str]:
    return {
        "git_commit": git_commit(),
        "mlflow.source.git.commit": git_commit().removesuffix("+changes"),
        "data_fingerprint": data.fingerprint(),
        "split_sha256": record.split_sha256,
        "device": str(trainer.device),
        "precision": str(trainer.precision).removeprefix("torch."),
        **({"parent_run": record.parent_run} if record.parent_run else {}),
        **{f"version_{name}": value for name, value in record.versions.items()},
    }


def _keeps_split(content: dict[str, Any], cfg: DictConfig) -> bool:
    """Return whether a test uses the run's own split: always, unless a split file was given to the test."""
    return cfg.data.get("split_file") == content["config"]["data"].get("split_file")


def _warn_of_overlap(split: Split | None, data: Any) -> None:
    """Say so when a test on another split looks at samples that the run was trained on."""
    seen = set(split.subsets["train"]) & set(data.split.subsets["test"]) if split is not None else set()
    if seen:
        log.warning("%d test samples were in the training subset of this run.", len(seen))


def _course(checkpoints: CheckpointFolder, content: dict[str, Any]) -> dict[str, Any]:
    """Return the course of a run: of its last checkpoint where there is one, which knows all epochs."""
    last = checkpoints.last(content["run_name"])
    return (load_checkpoint(last) if last.is_file() else content)["training"]
