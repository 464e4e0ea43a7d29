"""What the runs write, and where; and whether they will be able to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from polymask.data.module import DataModule
from polymask.errors import whole_number
from polymask.families.base import Family, Report, Task
from polymask.reporting.course import Course
from polymask.reporting.page.card import write_model_card
from polymask.reporting.page.facts import RunFacts
from polymask.reporting.page.gallery import Samples
from polymask.reporting.page.run_page import write_run_page
from polymask.reporting.previews import EpochPreviews, write_training_samples
from polymask.reporting.subgroups import write_subgroups
from polymask.run_config import write_config
from polymask.run_record import run_facts
from polymask.structures.samples import Rows
from polymask.tracking.base import Tracker
from polymask.training.checkpoint import CheckpointFolder, RunRecord
from polymask.training.state import TrainingState
from polymask.training.trainer import Trainer
from polymask.utils.files import check_report_folder, report_folder, write_text
from polymask.utils.outputs import output_dir
from polymask.utils.paths import resolve

log = logging.getLogger(__name__)

CHECKPOINTS = "models/checkpoints"
TEST_RESULTS = "results/test"
INFERENCE_RESULTS = "results/inference"
TRAINING_SAMPLES = "training_samples.png"


def check_report_place(cfg: DictConfig, run_name: str) -> None:
    """Raise UserError when the test at the end could not write its report: said before the first epoch."""
    if cfg.test_after_training:
        check_report_folder(report_place(cfg, run_name))


def report_place(cfg: DictConfig, run_name: str) -> Path:
    """Return the folder of a run's test report."""
    return resolve(cfg.local_save_dir or TEST_RESULTS) / run_name


def build_previews(
    cfg: DictConfig, family: Family, data: DataModule, tracker: Tracker
) -> EpochPreviews | None:
    """Return what draws validation samples every few epochs, None when that is not wanted."""
    if cfg.preview_epochs is None:
        return None
    every = whole_number("preview_epochs", cfg.preview_epochs, least=1)
    number = whole_number("preview_images", cfg.preview_images, least=1)
    samples = family.training_samples(data, number)
    if samples:
        write_training_samples(output_dir() / "previews" / TRAINING_SAMPLES, samples)
    return EpochPreviews(
        family.picture, data.subset("val"), output_dir() / "previews", tracker, every=every, num_images=number
    )


def write_run_files(
    cfg: DictConfig,
    record: RunRecord,
    data: DataModule,
    task: Task,
    trainer: Trainer,
    checkpoints: CheckpointFolder,
) -> None:
    """Write the resolved configuration and the split, and say what is about to run."""
    folder = output_dir()
    write_config(cfg, folder / "config.yaml", checkpoints.marker(record.run_name))
    data.split.write(folder / "split.csv")
    num_parameters = sum(parameter.numel() for parameter in task.parameters())
    log.info("run %s in %s", record.run_name, folder)
    log.info("split %s\n%s", record.split_sha256[:12], data.statistics())
    own = trainer.settings
    log.info("%.1f M parameters on %s, %s", num_parameters / 1e6, own.device, own.precision)


def log_start_files(tracker: Tracker) -> None:
    """Give the tracker what says what a run is, at once: a run that fails shall show what it was."""
    for file in ("config.yaml", "split.csv"):
        tracker.log_artifact(output_dir() / file, "run")
    samples = output_dir() / "previews" / TRAINING_SAMPLES
    if samples.is_file():
        tracker.log_artifact(samples, "previews")


def log_bests(tracker: Tracker, state: TrainingState) -> None:
    """Give the tracker the best value and epoch of each further metric that the run monitored."""
    if state.best_values:
        # Of step 0, as the metrics of a test are: MLflow shows such values of runs as bars.
        tracker.log_metrics({f"best/{key}": value for key, value in state.best_values.items()}, step=0)
        tracker.set_tags({f"best_epoch/{key}": str(epoch) for key, epoch in state.best_epochs.items()})


def course_of(state: TrainingState, tested_epoch: int | None = None) -> Course:
    """Return the course of a training as reports take it; None: its best epoch is tested."""
    return Course(
        history=state.history, best_epoch=state.best_epoch if tested_epoch is None else tested_epoch
    )


def evaluate_test(
    family: Family,
    task: Task,
    trainer: Trainer,
    data: DataModule,
    folder: Path,
    course: Course,
    tracker: Tracker,
    *,
    record: RunRecord,
) -> dict[str, float]:
    """Evaluate the test subset with one task, and do what `report_test` does.

    `record` is what the run's checkpoint says of it, for the page and the model card.
    """
    num_parameters = sum(parameter.numel() for parameter in task.parameters())
    facts = run_facts(record, family, data, num_parameters, trainer, course)
    evaluate = partial(trainer.evaluate, task, data.evaluation_loader("test"), title="test")
    return report_test(family, evaluate, data, folder, tracker, facts=facts)


def report_test(
    family: Family,
    evaluate: Callable[..., Rows],
    data: DataModule,
    folder: Path,
    tracker: Tracker,
    *,
    facts: RunFacts,
    files: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Evaluate the test subset, write the report to `folder` and record it; return the metrics.

    Args:
        family: Scores and reports.
        evaluate: Returns the rows; it gives the predictions of each batch to `consume`.
        data: The data set.
        folder: Of the report.
        tracker: The tracker.
        facts: For the page and the model card.
        files: Texts that shall lie in the folder, too, by name.

    Raises:
        UserError: `folder` holds something else than an earlier report, which must not be replaced.
    """
    with report_folder(folder) as staging:
        report = family.report(staging, data)
        rows = family.decided(report.complete(evaluate(consume=report.add)))
        ids, scorer = list(rows["ids"]), family.scorer
        rows |= data.subgroups(ids)
        lines = report.finish(rows, facts.course)
        smallest = data.attributes.smallest_subgroup
        write_subgroups(staging, rows, data.groups(ids), scorer.metrics, scorer.headline, smallest=smallest)
        write_pages(staging, facts, family, data, report, rows)
        for name, text in (files or {}).items():
            write_text(staging / name, text)
    for line in lines:
        log.info("%s", line)
    log.info("test results in %s", folder)
    metrics = scorer.point_estimates(rows)
    # MLflow compares values of step 0 as bars, one per run; at the best epoch they would be single dots.
    tracker.log_metrics({f"test/{name}": value for name, value in metrics.items()}, step=0)
    if facts.course.history:
        tracker.set_tags({"best_epoch": str(facts.course.best_epoch)})
    for path in sorted(folder.iterdir()):
        if path.name not in report.bulk_folders:  # too many files for a tracker
            # Figures lie at the top: its comparison shows only those of the runs side by side.
            tracker.log_artifact(path, path.name if path.is_dir() else "")
    return metrics


def write_pages(
    folder: Path, facts: RunFacts, family: Family, data: DataModule, report: Report, rows: Rows
) -> None:
    """Write `report.html` and `model_card.md` beside the tables and figures of a test in `folder`."""
    labels = {record.id: record.labels for record in data.records}
    ids, scorer = rows["ids"].tolist(), family.scorer
    samples = Samples(
        ids=ids,
        scores=scorer.scores(rows),
        labels=[labels[id_] for id_ in ids],
        class_names=family.class_names,
        picture=report.picture,
    )
    write_run_page(folder, facts, samples, scorer.headline)
    write_model_card(folder, facts, scorer.headline)
