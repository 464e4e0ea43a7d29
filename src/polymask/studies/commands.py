"""What looks at data sets and at finished runs: analyze, compare, summarize, review."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from polymask.data.splits.split import split_from_csv
from polymask.errors import UserError, choose, number, whole_number
from polymask.factories import build_data, build_tracker
from polymask.run_config import chosen_groups, flatten, plain, write_config
from polymask.run_files import CHECKPOINTS
from polymask.tracking.base import Tracker
from polymask.tracking.session import run_session
from polymask.training.checkpoint import CheckpointFolder
from polymask.utils.files import report_folder
from polymask.utils.outputs import output_dir
from polymask.utils.paths import resolve
from polymask.utils.provenance import git_commit

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from polymask.data.module import DataModule
    from polymask.studies.comparison.sides import Side
    from polymask.studies.comparison.statistics import MetricComparison
    from polymask.studies.tested_run import RunOnDisk

ANALYSES = "results/analysis"
COMPARISONS = "results/comparison"
SUMMARIES = "results/summary"
REVIEWS = "results/review"
_NAME_LETTERS = 80  # beyond, a comparison of several runs does not name them all


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study returns: the folder with its report, and its numbers by name."""

    folder: Path
    metrics: dict[str, float] = field(default_factory=dict)
    objective: None = None


def analyze(cfg: DictConfig) -> StudyResult:
    """Look at a data set: statistics, histograms, sheets of samples and of augmentations."""
    from polymask.studies.analysis.report import write_analysis
    from polymask.studies.pages import write_analysis_page

    data = build_data(cfg, allow_absent=True)
    name = cfg.run_name or f"analysis_{chosen_groups().get('data', 'data')}"
    folder = resolve(cfg.local_save_dir or ANALYSES) / name
    write_config(cfg, output_dir() / "config.yaml")
    log.info("analyzing %s: %s", data.data_dir, data.description())
    with report_folder(folder) as staging:
        metrics = write_analysis(
            staging, data, num_samples=cfg.num_samples, num_augmented=cfg.num_augmented, seed=cfg.seed
        )
        write_analysis_page(staging, name, data.description(), metrics)
    params = {key: plain(cfg)[key] for key in ("data", "transforms", "seed")}
    tags = {"study": "analyze", "data_fingerprint": data.fingerprint()}
    _record(build_tracker(cfg), name, folder, metrics, params=params, tags=tags)
    _show(folder / "analysis.txt")
    return StudyResult(folder=folder, metrics=metrics)


def compare(cfg: DictConfig) -> StudyResult:
    """Compare tested runs with the first, image by image: differences, intervals, p-values, pictures."""
    sides = [_read_side(cfg, str(run)) for run in (cfg.run_a, cfg.run_b, *cfg.more_runs)]
    names = [side.name for side in sides]
    name = comparison_name(names)
    folder = resolve(cfg.local_save_dir or COMPARISONS) / name
    write_config(cfg, output_dir() / "config.yaml")
    with report_folder(folder) as staging:
        results = _write_comparison(cfg, staging, sides)
    metrics = {f"difference/{key}": result.difference for key, result in results.items()}
    metrics |= {f"p_value/{key}": result.p_value for key, result in results.items()}
    params = {"run_a": names[0], "run_b": names[1], "seed": cfg.seed}
    if len(names) > 2:
        params["more_runs"] = " ".join(names[2:])
    _record(build_tracker(cfg), name, folder, metrics, params=params, tags={"study": "compare"})
    _show(folder / "comparison.txt")
    return StudyResult(folder=folder, metrics=metrics)


def comparison_name(names: Sequence[str]) -> str:
    """Return the name of a comparison: that of its runs, or their number where that would be too long."""
    first, *others = names
    name = f"{first}_vs_{'_and_'.join(others)}"
    if len(others) == 1 or len(name) <= _NAME_LETTERS:
        return name
    # The hash tells as many other runs apart, whose report must not take this one's place.
    return f"{first}_vs_{len(others)}_others_{sha256(' '.join(others).encode()).hexdigest()[:6]}"


def _write_comparison(cfg: DictConfig, folder: Path, sides: Sequence[Side]) -> dict[str, MetricComparison]:
    """Write the report of two or more runs; return the metrics, those of several below their run."""
    from polymask.studies.comparison.report import write_comparison
    from polymask.studies.comparison.several import write_comparisons
    from polymask.studies.pages import write_comparison_page

    options = {key: cfg[key] for key in ("num_pictures", "num_replicates", "num_permutations", "seed")}
    if len(sides) == 2:
        pairs = {sides[1].name: write_comparison(folder, *sides, **options)}
    else:
        pairs = write_comparisons(folder, sides, **options)
    write_comparison_page(folder, sides[0].name, pairs, sides[0].family.scorer.headline)
    if len(pairs) == 1:
        return {result.name: result for results in pairs.values() for result in results}
    return {f"{run}/{result.name}": result for run, results in pairs.items() for result in results}


def summarize(cfg: DictConfig) -> StudyResult:
    """Gather the folds of cross-validations into one table, and put their runs below one in the tracker."""
    from polymask.studies.folds.gathering import as_fold, gather_folds
    from polymask.studies.folds.report import write_summary
    from polymask.studies.pages import write_summary_page
    from polymask.studies.tested_run import read_tested_run

    names = _tested_runs(cfg)
    runs = [as_fold(read_tested_run(name, test_dir=cfg.test_dir)) for name in names]
    studies = gather_folds(runs, num_replicates=cfg.num_replicates, seed=cfg.seed)
    folder = resolve(cfg.local_save_dir or SUMMARIES) / cfg.run_name
    write_config(cfg, output_dir() / "config.yaml")
    with report_folder(folder) as staging:
        metrics = write_summary(staging, studies)
        write_summary_page(staging, studies)
    tracker = build_tracker(cfg)
    params = {"runs": " ".join(names), "seed": cfg.seed}
    children = [run.tracker_run_id for run in runs]
    _record(
        tracker, cfg.run_name, folder, metrics, params=params, tags={"study": "summarize"}, children=children
    )
    _show(folder / "summary.txt")
    return StudyResult(folder=folder, metrics=metrics)


def review(cfg: DictConfig) -> StudyResult:
    """List the samples whose class or mask is most likely wrong, by models that never saw them."""
    from polymask.studies.review.gathering import gather_evidence
    from polymask.studies.review.ranking import RANKINGS
    from polymask.studies.review.report import check_unedited, write_review
    from polymask.studies.tested_run import read_tested_run, with_test_samples

    choose("ranking", cfg.ranking, RANKINGS)
    number("share", cfg.share, above=0, most=1, what="a share", note="such as 0.05")
    whole_number("num_pictures", cfg.num_pictures, least=0)
    names = _tested_runs(cfg)
    folder = resolve(cfg.local_save_dir or REVIEWS) / cfg.run_name
    check_unedited(folder)
    places = {"test_dir": cfg.test_dir, "data_dir": cfg.data_dir}
    runs = [read_tested_run(name, **places) for name in names]
    evidence = gather_evidence(runs)
    data = _data_of(runs[0])
    reports = {
        run.name: run.run.family.report(
            run.folder, with_test_samples(data, run.rows["ids"].tolist(), run.name)
        )
        for run in runs
    }
    write_config(cfg, output_dir() / "config.yaml")
    options = {key: cfg[key] for key in ("ranking", "share", "num_pictures")}
    with report_folder(folder) as staging:
        metrics = write_review(staging, evidence, reports, **options)
    params = {"runs": " ".join(names), **options}
    _record(build_tracker(cfg), cfg.run_name, folder, metrics, params=params, tags={"study": "review"})
    _show(folder / "review.txt")
    return StudyResult(folder=folder, metrics=metrics)


def _tested_runs(cfg: DictConfig) -> list[str]:
    """Return the names of the runs that match any of `runs`, `*` for any text, and of ensembles by their own.

    Raises:
        UserError: A pattern matches no run.
    """
    from polymask.studies.tested_run import is_ensemble

    checkpoints = CheckpointFolder(resolve(CHECKPOINTS))
    found = [
        [pattern] if is_ensemble(pattern, cfg.test_dir) else checkpoints.matching(pattern)
        for pattern in map(str, cfg.runs)
    ]
    return list(dict.fromkeys(name for names in found for name in names))


def _read_side(cfg: DictConfig, run: str) -> Side:
    """Read a tested run, and the data set that it was tested on."""
    from polymask.studies.comparison.sides import make_side
    from polymask.studies.tested_run import read_tested_run

    tested = read_tested_run(run, test_dir=cfg.test_dir, data_dir=cfg.data_dir)
    side = make_side(tested, _data_of(tested))
    if cfg.smallest_subgroup is None:
        return side
    smallest = whole_number("smallest_subgroup", cfg.smallest_subgroup, least=2)
    return replace(side, smallest_subgroup=smallest)


def _data_of(tested: RunOnDisk) -> DataModule:
    """Return the data set that a run learned from, for pictures."""
    try:
        return tested.run.build_data(split=split_from_csv(tested.run.content["split"]))
    except UserError as error:
        raise UserError(
            f"the data of {tested.name}: {error} If they lie elsewhere, give data_dir=."
        ) from error


def _record(
    tracker: Tracker,
    name: str,
    folder: Path,
    metrics: Mapping[str, float],
    *,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    children: Sequence[str] = (),
) -> None:
    """Record a finished study as a run of the tracker, above the runs `children` (ids of the tracker)."""
    tags = {**tags, "git_commit": git_commit()}
    with run_session(tracker, name, params=flatten(params), tags=tags, run_id=""):
        tracker.log_metrics(metrics, step=0)
        for path in sorted(folder.iterdir()):
            tracker.log_artifact(path, path.name if path.is_dir() else "")
        tracker.adopt(children)


def _show(text: Path) -> None:
    log.info("%s\n%s", text.parent, text.read_text(encoding="utf-8"))
