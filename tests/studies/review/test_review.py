"""A review of a study: whom it asks, what it finds and writes, what becomes of edited corrections."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polymask import cli
from polymask.reporting.rows import read_samples, write_samples
from polymask.training.checkpoint import load_checkpoint
from polymask.utils import paths

CLASSES = ["MEL", "NV", "BKL"]
FLIPPED = {"ISIC_0000002": "NV", "ISIC_0000020": "MEL"}
OTHER_MASK = "ISIC_0000010"


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["review", *arguments, "tracker=none"])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    return printed


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def study(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the folds study_0 to study_2 of the 24 images, tested by nearly perfect networks.

    They are copies of one small run, so that nothing is trained; what a test would have left of each sample
    is written here. Two classes are given wrongly, and one mask is contradicted.
    """
    root = tmp_path / "root"
    shutil.copytree(trained, root)
    monkeypatch.setattr(paths, "PROJECT_ROOT", root)
    content = load_checkpoint(root / "models/checkpoints/tiny.pt")
    lines = [line.split(",") for line in content["split"].strip().split("\n")[1:]]
    fold_of = {group: number % 3 for number, group in enumerate(sorted({line[1] for line in lines}))}
    for fold in range(3):
        parts = ["test" if fold_of[group] == fold else "train" for _, group, _, _ in lines]
        write_fold(root, content, fold, lines, parts)
    return root


def write_fold(
    root: Path, content: dict[str, Any], fold: int, lines: list[list[str]], parts: list[str]
) -> None:
    name = f"study_{fold}"
    split = "id,group,label,subset\n"
    split += "".join(f"{','.join(line[:3])},{part}\n" for line, part in zip(lines, parts, strict=True))
    config = content["config"] | {"data": content["config"]["data"] | {"num_folds": 3, "fold": fold}}
    changed = {"run_name": name, "config": config | {"run_name": name}, "split": split}
    torch.save(content | changed, root / f"models/checkpoints/{name}.pt")
    folder = root / f"results/test/{name}"
    shutil.copytree(root / "results/test/tiny", folder)
    tested = [line for line, part in zip(lines, parts, strict=True) if part == "test"]
    ids = [line[0] for line in tested]
    true = np.array([CLASSES.index(line[2]) for line in tested])
    given = [CLASSES.index(FLIPPED.get(id_, CLASSES[label])) for id_, label in zip(ids, true, strict=True)]
    rng = np.random.default_rng(fold)
    sure = np.where([id_ in FLIPPED for id_ in ids], 0.95, 0.6)[:, None]  # of the true class, at least
    probabilities = rng.dirichlet([1, 1, 1], len(ids)) * (1 - sure) + sure * np.eye(3)[true]
    hits = np.array([[100 if id_ == OTHER_MASK else 400, 50, 50] for id_ in ids])
    rows = {
        "ids": np.array(ids),
        "label": np.array(given),
        "class_probabilities": probabilities.astype(np.float32),
        "lesion_confusion": hits,
        "confusion": np.stack([hits, hits], axis=1),
        "mask_surprise": np.full(len(ids), 0.2, np.float32),
        "mask_contradictions": np.array([90 if id_ == OTHER_MASK else 0 for id_ in ids]),
    }
    write_samples(folder, rows, [line[1] for line in tested])


def test_wrong_truths_come_first_with_pictures_and_a_file_that_changes_nothing(study: Path) -> None:
    result = cli.run("review", ["study_*", "num_pictures=3", "share=0.1", "tracker=none"])
    assert result.folder == study / "results/review/review"
    labels, masks = read(result.folder / "labels.csv"), read(result.folder / "masks.csv")
    assert len(labels) == len(masks) == len({row["id"] for row in labels}) == 24
    assert {row["id"]: row["given"] for row in labels[:2]} == FLIPPED
    true = {"ISIC_0000002": "MEL", "ISIC_0000020": "BKL"}
    assert {row["id"]: row["suggested"] for row in labels[:2]} == true
    assert all(float(row["probability"]) >= 0.95 for row in labels[:2])
    assert [row["confident_error"] for row in labels] == ["1"] * 2 + ["0"] * 22
    assert {row["run"] for row in labels} == {"study_0", "study_1", "study_2"}
    assert (masks[0]["id"], masks[0]["contradicted"]) == (OTHER_MASK, "0.45")
    pictures = sorted(path.name for path in (result.folder / "labels").iterdir())
    assert pictures[0] == f"0001_{labels[0]['id']}.png"
    assert len(pictures) == 3
    edit = read(result.folder / "corrections.csv")
    assert {row["id"]: row["value"] for row in edit} == true | {OTHER_MASK: ""}
    assert {row["action"] for row in edit} == {"keep"}
    assert result.metrics["num_confident_label_errors"] == 2
    assert result.metrics["estimated_label_errors"] == pytest.approx(2, abs=1.5)
    assert "Confident joint" in (result.folder / "review.txt").read_text()


@pytest.mark.parametrize("ranking", ["self_confidence", "normalized_margin", "confident_joint"])
def test_labels_are_ranked_by_what_is_asked_for(ranking: str, study: Path) -> None:
    result = cli.run("review", ["study_*", "num_pictures=0", f"ranking={ranking}", "tracker=none"])
    rows = read(result.folder / "labels.csv")
    joint = ranking == "confident_joint"
    measure = "normalized_margin" if joint else ranking
    scores = [(joint and row["confident_error"] == "0", float(row[measure])) for row in rows]
    assert scores == sorted(scores)
    assert [row["score"] for row in rows] == [row[measure] for row in rows]
    assert {row["id"] for row in rows[:2]} == set(FLIPPED)


def test_edited_corrections_are_not_replaced(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["study_*", "num_pictures=0", "tracker=none"]
    file = cli.run("review", command).folder / "corrections.csv"
    cli.run("review", command)  # an untouched one may be
    file.write_text(file.read_text().replace("keep", "exclude", 1))
    assert "corrections.csv was edited, and a new review would replace it" in fails(capsys, *command[:2])
    assert "exclude" in file.read_text()


def test_a_run_that_learned_from_what_it_was_tested_on_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study / "models/checkpoints/study_1.pt"
    content = load_checkpoint(path)
    rows, groups = read_samples(study / "results/test/study_1")
    # The first image itself is in no subset, but the others of its lesion are in training.
    first, others = str(rows["ids"][0]), f",{groups[0]},"
    lines = [line for line in content["split"].splitlines() if not line.startswith(first)]
    moved = [line.replace(",test", ",train") if others in line else line for line in lines]
    assert moved != lines
    torch.save(content | {"split": "\n".join(moved) + "\n"}, path)
    line = fails(capsys, "study_*")
    assert f"run study_1 learned from {groups.count(groups[0])} of the {len(groups)} samples" in line
    assert repr(first) in line
    data = content["config"]["data"] | {"overfit_samples": 4}
    torch.save(content | {"config": content["config"] | {"data": data}}, path)
    assert f"learned from {len(groups)} of" in fails(capsys, "study_1")


def test_runs_of_several_studies_are_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "of 2 studies" in fails(capsys, "study_0", "tiny")
    assert "no run in" in fails(capsys, "studies_*")
    assert "ranking='margin' is unknown" in fails(capsys, "study_*", "ranking=margin")
    assert "share=0" in fails(capsys, "study_*", "share=0")
    assert not (study / "results/review").exists()


def test_what_no_run_was_tested_on_is_told(study: Path) -> None:
    result = cli.run("review", ["study_0", "study_1", "num_pictures=0", "tracker=none"])
    rows, _ = read_samples(study / "results/test/study_2")
    (note,) = json.loads((result.folder / "metrics.json").read_text())["notes"]
    assert note.startswith(f"{len(rows['ids'])} samples were in no test subset")


def test_a_later_test_takes_the_corrections(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tested = read_samples(study / "results/test/tiny")[0]["ids"].tolist()
    masked, relabelled, *others = tested
    lines = [f"{masked},ignore_mask,,", f"{relabelled},relabel,BKL,", f"{others[0]},exclude,,"]
    (study / "corrections.csv").write_text("\n".join(["id,action,value,note", *lines]) + "\n")
    options = ["data.corrections=corrections.csv", "trainer.device=cpu", "data.num_workers=0"]
    result = cli.run("test", ["run_name=tiny", *options, "tracker=none"])
    printed = capsys.readouterr().out
    assert "1 relabelled, 1 excluded, 1 masks ignored (train 0, val 0, test 3)" in printed
    assert "this test takes other corrections (data.corrections) than the training" in printed
    rows, _ = read_samples(result.folder)
    assert rows["ids"].tolist() == [masked, relabelled, *others[1:]]
    assert CLASSES[rows["label"][1]] == "BKL"
    assert np.isnan(rows["mask_surprise"]).tolist() == [True] + [False] * (len(tested) - 2)


def test_a_run_does_not_go_on_with_another_file(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study / "corrections.csv").write_text("id,action,value,note\nISIC_0000002,keep,,\n")
    path = study / "models/checkpoints/tiny.last.pt"
    content = load_checkpoint(path)
    data = content["config"]["data"] | {"corrections": "corrections.csv"}
    changed = {"config": content["config"] | {"data": data}, "corrections_sha256": "0" * 64}
    torch.save(content | changed, path)
    with pytest.raises(SystemExit):
        cli.main(["train", "resume=true", "run_name=tiny", "epochs=3"])
    assert "data.corrections of tiny has changed since the run began" in capsys.readouterr().err
