"""The test of several runs together: as an ensemble on one test subset, or each on its own fold."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from polymask.errors import UserError
from polymask.factories import build_tracker, build_trainer, rebuild
from polymask.fitting import check_fit
from polymask.inference.members import Member, ensemble_name, in_order
from polymask.reporting.course import Course
from polymask.run_config import TEST_MAY_CHANGE, flatten, plain, stored_config, write_config
from polymask.run_files import report_place, report_test
from polymask.run_parts import warn_of_other_truth
from polymask.run_plans import plan_ensemble, plan_folds
from polymask.run_record import run_facts
from polymask.tracking.session import run_session
from polymask.training.checkpoint import RunRecord, load_checkpoint, run_record
from polymask.utils.names import is_file_name
from polymask.utils.outputs import output_dir
from polymask.utils.provenance import git_commit

log = logging.getLogger(__name__)

ENSEMBLE_NAME = "ensemble.json"
"""File that says which runs were tested together in a folder."""


class EnsembleTest(NamedTuple):
    """The name of the ensemble, its metrics by name, and the folder with everything else."""

    name: str
    metrics: dict[str, float]
    folder: Path


def test_ensemble(cfg: DictConfig, paths: Sequence[Path]) -> EnsembleTest:
    """Test runs together.

    Args:
        cfg: Of the test; with `out_of_fold`, each sample is predicted by the run that tests it alone.
        paths: Checkpoints of the runs.

    Raises:
        UserError: The runs do not predict the same, or there is no test subset that none was trained on.
    """
    out_of_fold = cfg.out_of_fold
    if not isinstance(out_of_fold, bool):
        raise UserError(f"out_of_fold={out_of_fold} is not allowed; give true or false.")
    members = in_order([read_for_test(path, cfg) for path in paths])
    names = [member.run_name for member in members]
    name = ensemble_name(names, out_of_fold=out_of_fold)
    first = members[0].run
    for member in members:
        check_fit(member.run.cfg, member.run.family)
    trainer = build_trainer(first.cfg)
    plan = (plan_folds if out_of_fold else plan_ensemble)(members, trainer)
    for note in plan.notes:
        log.warning("%s", note)
    for member in members:
        warn_of_other_truth(run_record(member.run.content), plan.data)
    log.info("testing %s: %s; %s", name, ", ".join(names), plan.data.description())
    write_config(first.cfg, output_dir() / "config.yaml")
    folder, tracker = report_place(cfg, name), build_tracker(first.cfg)
    course = Course(history=[], best_epoch=0)
    told = {"members": names, "out_of_fold": out_of_fold, "how": plan.how, "notes": plan.notes}
    tags = {"study": "ensemble", "members": " ".join(names), "git_commit": git_commit()}
    record = shared_record(members, name)
    facts = run_facts(record, plan.family, plan.data, plan.num_parameters, trainer, course)
    facts = replace(
        facts,
        subsets=[subset for subset in facts.subsets if subset.num_samples],
        members=names,
        out_of_fold=out_of_fold,
        notes=[f"{note}." for note in (plan.how, *plan.notes)],
    )
    with run_session(tracker, name, params=record.config, tags=tags, run_id=""):
        metrics = report_test(
            plan.family,
            plan.evaluate,
            plan.data,
            folder,
            tracker,
            facts=facts,
            files={ENSEMBLE_NAME: json.dumps(told, indent=2) + "\n"},
        )
    return EnsembleTest(name, metrics, folder)


def read_ensemble(folder: Path) -> list[str]:
    """Return the members of the ensemble whose report lies in a folder, the first of them first.

    Raises:
        UserError: The file that names them is damaged.
    """
    path = folder / ENSEMBLE_NAME
    try:
        members = json.loads(path.read_text(encoding="utf-8"))["members"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); test the ensemble again.") from error
    if not (isinstance(members, list) and members and all(map(is_file_name, members))):
        raise UserError(f"{path} names no runs; test the ensemble again.")
    return members


def read_for_test(path: Path, cfg: DictConfig) -> Member:
    """Return a run with its own configuration but for what was typed for the test."""
    content = load_checkpoint(path)
    own = stored_config(content, cfg, may_change=TEST_MAY_CHANGE, command="test")
    own.run_name = content["run_name"]
    if "classes" in own.data:
        own.data.classes = content["class_names"]
    run = rebuild(content, own)
    # Metadata of samples come with the batches of their data set; an application finds those of new images.
    data = {name: value for name, value in plain(own)["data"].items() if name != "metadata"}
    return Member(
        run_name=content["run_name"], path=path, run=run, application=run.family.application(data, {})
    )


def shared_record(members: Sequence[Member], name: str) -> RunRecord:
    """Return what all members say of themselves alike, as of one run called `name`."""
    contents = [member.run.content for member in members]
    first = contents[0]
    hashes = {content["split_sha256"] for content in contents}
    return RunRecord(
        run_name=name,
        config=_shared([flatten(plain(member.run.cfg)) for member in members]),
        groups=_shared([content["groups"] for content in contents]),
        class_names=first["class_names"],
        split="",
        split_sha256=hashes.pop() if len(hashes) == 1 else "",
        versions=_shared([content["versions"] for content in contents]),
    )


def _shared(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = values
    return {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in others)
    }
