"""Several runs as one, against means made by hand, each fold's own test, and a single member."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from configs import composed
from family_worker import evaluate
from lesion_files import lesion, write_lesions
from omegaconf import OmegaConf

import polymask
from polymask import cli
from polymask.data import images
from polymask.data.splits.split import split_from_csv
from polymask.errors import UserError
from polymask.factories import Rebuilt, build_data, build_family, build_task, build_trainer, rebuild
from polymask.families.multitask import predictions
from polymask.inference.ensemble import EnsembleApplication, EnsembleTask
from polymask.inference.members import Member, check_decided, ensemble_name, find_checkpoints, read_members
from polymask.inference.predictor import Predictor
from polymask.reporting.metrics_file import write_metrics
from polymask.reporting.rows import read_samples, write_samples
from polymask.run_config import plain
from polymask.run_ensemble import read_ensemble
from polymask.run_plans import plan_ensemble, plan_folds
from polymask.training.checkpoint import (
    CheckpointFolder,
    load_checkpoint,
    run_record,
    save_checkpoint,
)
from polymask.utils import paths

ON_CPU = {"device": "cpu", "precision": "fp32"}
CPU = ["trainer.device=cpu", "trainer.precision=fp32"]
PEOPLE = {"age": "number", "sex": "category"}
OTHERS: dict[str, dict[str, Any]] = {
    "two": {},
    "fine": {"data.image_size": [64, 64], "model.model": "transposed"},
    "boxed": {"data.image_size": [64, 64], "data.fit": "letterbox", "task.fit": "letterbox"},
    "people": {"data.metadata": PEOPLE, "model.metadata": PEOPLE},
    "masks": {"task.predict_classes": False},
    "shifted": {},
    **{
        f"fold{fold}": {"data.num_folds": 3, "data.fold": fold, "task.predict_classes": False}
        for fold in range(3)
    },
}
POINT = "task.operating_points={MEL: {sensitivity: 0.9}}"
CALIBRATED = ["calibration=temperature", "task.calibration=temperature"]


@pytest.fixture(scope="module")
def _root(_trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ensembles")
    folder = write_lesions(root / "lesions")
    table = pd.read_csv(folder / "metadata.csv")
    table = table.assign(age=range(30, 30 + len(table)), sex=["female", "male"] * (len(table) // 2))
    table.to_csv(folder / "metadata.csv", index=False)
    (root / "models" / "checkpoints").mkdir(parents=True)
    content = load_checkpoint(path_of(_trained_once, "tiny"))
    config = content["config"] | {"run_name": "one"}
    config["data"] |= {"data_dir": str(folder), "cache_dir": None}
    record = replace(run_record(content), run_name="one", config=config)
    state = {key: content[key] for key in ("model", "ema", "training", "decisions")}
    save_checkpoint(path_of(root, "one"), record, state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROJECT_ROOT", root)
        for seed, (name, own) in enumerate(OTHERS.items()):
            write_sibling(root, name, own, seed)
    return root


def write_sibling(root: Path, name: str, own: Mapping[str, Any], seed: int) -> None:
    """Write what a training of another run on the same data would leave; its weights are nobody's choice."""
    content = load_checkpoint(path_of(root, "one"))
    cfg = OmegaConf.create(content["config"])
    for key, value in own.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    split = split_from_csv(content["split"])
    if name == "shifted":  # the same test subset, and the other two in each other's place
        split.subsets["train"], split.subsets["val"] = split.subsets["val"], split.subsets["train"]
    if "data.fold" in own or "data.metadata" in own:
        data = build_data(cfg, split=None if "data.fold" in own else split)
        split = data.split
    if "data.metadata" in own:
        cfg.model.metadata_statistics = cfg.data.metadata_statistics
    torch.manual_seed(seed)
    model = {key: value * (1 + 0.5 * torch.rand(value.shape)) for key, value in content["model"].items()}
    if any(key.startswith(("model", "task.predict")) for key in own):
        model = build_task(cfg, build_family(cfg, content["class_names"]), pretrained=False).state_dict()
    record = replace(run_record(content), run_name=name, config=plain(cfg), split=split.to_csv())
    decisions = dict(content["decisions"])
    decisions["pixel_histogram"] = decisions["pixel_histogram"] // torch.tensor([1, seed + 1, 1])
    decisions["class_probabilities"] = decisions["class_probabilities"] ** (seed + 1)
    decisions["class_probabilities"] /= decisions["class_probabilities"].sum(dim=1, keepdim=True)
    state = {"model": model, "ema": None, "training": content["training"], "decisions": decisions}
    save_checkpoint(path_of(root, name), replace(record, split_sha256=split.sha256), state)


@pytest.fixture
def root(_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project root of all runs."""
    monkeypatch.setattr(paths, "PROJECT_ROOT", _root)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    return _root


@cache
def load(*names: str, **options: Any) -> Predictor:
    return polymask.load(names[0] if len(names) == 1 else names, **ON_CPU, **options)


def path_of(root: Path, name: str) -> Path:
    return root / "models" / "checkpoints" / f"{name}.pt"


def alone(root: Path, name: str) -> Predictor:
    """A run as an ensemble of itself, by the way that those of several go."""
    (member,) = read_members([path_of(root, name)], {})
    application = EnsembleApplication([member.application])
    task = EnsembleTask([member.run.build_task()], application)
    return Predictor(task=task, application=application, run_name=name, path=member.path, **ON_CPU)


def raw(
    predictor: Predictor, source: np.ndarray | Path, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of lesion at a size, the image's own or of its shape, and those of classes."""
    seen, _ = predictor.application.read(source)
    (found,) = predictor.predict_batch(predictor.application.collate(["x"], [seen]))
    height, width = size
    pixels = found.mask_probabilities[0].numpy()
    if predictor.application.fit == "letterbox":
        scale = min(pixels.shape[0] / height, pixels.shape[1] / width)
        rows, columns = round(height * scale), round(width * scale)
        top, left = (pixels.shape[0] - rows) // 2, (pixels.shape[1] - columns) // 2
        pixels = pixels[top : top + rows, left : left + columns]
    return cv2.resize(pixels, (width, height)), found.class_probabilities.numpy()


def own_run(root: Path, name: str, *changes: str) -> Rebuilt:
    content = load_checkpoint(path_of(root, name))
    return rebuild(content, OmegaConf.merge(content["config"], OmegaConf.from_dotlist(list(changes))))


@cache
def own_rows(root: Path, name: str, *changes: str, subset: str = "test") -> dict[str, np.ndarray]:
    """Return the rows of a run's own test."""
    run = own_run(root, name, *changes)
    return run.family.decided(evaluate(run, run.build_task(), subset))


def without_losses(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values for name, values in rows.items() if not name.startswith("loss")}


# Predictions


def test_an_ensemble_of_one_is_that_run_bit_for_bit(root: Path) -> None:
    pictures = [lesion(60, 90), lesion(130, 40, seed=1)]
    for found, expected in zip(
        alone(root, "boxed").predict(pictures), load("boxed").predict(pictures), strict=True
    ):
        np.testing.assert_array_equal(found.mask, expected.mask)
        assert found.class_probabilities == expected.class_probabilities


@pytest.mark.parametrize(
    ("names", "tta"),
    [
        (("one", "two"), None),
        (("boxed", "one", "two"), None),
        (("fine", "two"), True),
    ],
)
def test_several_predict_the_mean_of_their_probabilities(
    root: Path, names: tuple[str, ...], tta: bool
) -> None:
    image = lesion(70, 110, seed=3)
    masks, classes = zip(*(raw(load(name, tta=tta), image, (70, 110)) for name in names), strict=True)
    found = load(*names, tta=tta).predict(image)
    mean = np.mean(masks, axis=0)
    certain = abs(mean - 0.5) > 1e-5
    np.testing.assert_array_equal((found.mask == 1)[certain], (mean > 0.5)[certain])
    assert certain.mean() > 0.99
    assert 0 < found.mask.mean() < 1
    values = np.mean(classes, axis=0)
    np.testing.assert_allclose(list(found.class_probabilities.values()), values, rtol=1e-5)
    assert found.predicted_class == ["MEL", "NV", "BKL"][values.argmax()]
    # Else any of them would pass for their mean.
    assert all(abs(each - values).max() > 1e-4 for each in classes)


def test_the_order_of_the_names_changes_nothing(root: Path) -> None:
    image = lesion(70, 110)
    first, other = load("boxed", "one"), load("one", "boxed")
    assert first.run_name == other.run_name == "boxed~one"
    assert first.predict(image).class_probabilities == other.predict(image).class_probabilities


def test_strips_are_what_the_whole_gives(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, predictor = lesion(301, 200), load("boxed", "one")
    whole = predictor.predict(image).mask
    monkeypatch.setattr(predictions, "_STRIP_VALUES", 1000)
    np.testing.assert_array_equal(predictor.predict(image).mask, whole)
    assert 0 < whole.mean() < 1


def test_an_image_is_decoded_once_for_all_members(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), lesion(60, 90))
    decoded: list[int] = []
    whole = images.decode_bytes
    monkeypatch.setattr(
        images, "decode_bytes", lambda data, flags: (decoded.append(1), whole(data, flags))[1]
    )
    load("boxed", "one", "two").predict(path)
    assert len(decoded) == 1
    load("one").predict(path)
    assert len(decoded) == 2  # and nothing is kept


def test_a_pattern_names_its_runs_and_one_that_matches_one_is_that_run(root: Path) -> None:
    folder = CheckpointFolder(root / "models" / "checkpoints")
    runs = {
        "fold*": ["fold0", "fold1", "fold2"],
        "fin?": ["fine"],
        "[fine, two]": ["fine", "two"],
    }
    for word, names in runs.items():
        assert find_checkpoints(word, folder) == [path_of(root, name) for name in names]
    assert find_checkpoints(["tw*", "fine"], folder) == [path_of(root, name) for name in ("two", "fine")]
    assert load("tw?").run_name == "two"
    assert isinstance(load("tw?").task, type(load("two").task))


def test_each_member_gets_the_metadata_that_it_wants(root: Path) -> None:
    image, table = lesion(60, 90), {"age": 70, "sex": "male"}
    known, unknown = (
        polymask.load("people", attribute_table=each, **ON_CPU) for each in (table, {"age": 70})
    )
    assert known.predict(image).class_probabilities != unknown.predict(image).class_probabilities
    both = polymask.load(["people", "one"], attribute_table=table, **ON_CPU).predict(image)
    mean = [
        np.mean(pair)
        for pair in zip(
            known.predict(image).class_probabilities.values(),
            load("one").predict(image).class_probabilities.values(),
            strict=True,
        )
    ]
    np.testing.assert_allclose(list(both.class_probabilities.values()), mean, rtol=1e-5)
    with pytest.raises(UserError, match=r"of no use to a run that was trained without model\.metadata"):
        polymask.load(["one", "two"], attribute_table=table)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ("nothing_*", r"no run in .* is called 'nothing_\*'"),
        ("[]", "names no run"),
        (["fine", "fine"], "names fine twice"),
        (["fine", "unknown"], "'unknown' has no checkpoint"),
        (["masks", "fine"], r"fine and masks differ in what they predict \(label, mask; mask\)"),
    ],
)
def test_what_is_no_ensemble_is_refused_in_one_line(root: Path, runs: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        polymask.load(runs, device="cpu")
    assert "\n" not in str(caught.value)


def test_where_several_look_is_not_shown(root: Path) -> None:
    with pytest.raises(UserError, match="several looked at different places"):
        polymask.load(["one", "two"], explain=True)


def test_infer_writes_what_load_predicts(root: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    pictures = [tmp_path / "pictures" / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(pictures):
        cv2.imwrite(str(path), lesion(60, 90, seed=seed))
    options = [f"data.data_dir={tmp_path / 'pictures'}", f"local_save_dir={tmp_path / 'out'}", *CPU]
    options += ["run_name=[one,boxed]", "data.num_workers=0", "overlay=false"]
    options += ["calibration=temperature", "abstain_below=0.99"]
    result = cli.run("infer", options)
    assert result.folder == tmp_path / "out" / "boxed~one"
    table = pd.read_csv(result.folder / "predictions.csv")
    assert table["abstained"].tolist() == [1, 1, 1]
    members = [raw(load(name), pictures[0], (60, 90))[1] for name in ("boxed", "one")]
    mean = np.mean(
        [heated(each, temperature(root, name)) for each, name in zip(members, ("boxed", "one"), strict=True)],
        axis=0,
    )
    np.testing.assert_allclose(table.filter(like="probability_").iloc[0], mean, atol=1e-5)
    for path, found in zip(pictures, load("boxed", "one").predict(pictures), strict=True):
        mask = cv2.imread(str(result.folder / "masks" / path.name), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask == 255, found.mask == 1)
    path_of(root, "one").rename(path_of(root, "was_one"))
    try:
        path_of(root, "one").write_bytes(path_of(root, "two").read_bytes())
        with pytest.raises(UserError, match="made with another checkpoint"):
            cli.run("infer", options)
    finally:
        path_of(root, "was_one").rename(path_of(root, "one"))


def temperature(root: Path, name: str) -> float:
    """Return the temperature of a run's own validation samples."""
    return float(own_run(root, name).family.choices.temperatures["temperature"])


def heated(probabilities: np.ndarray, value: float) -> np.ndarray:
    """Return (..., K) probabilities at a temperature, by powers instead of logits."""
    powers = probabilities.astype(np.float64) ** (1 / value)
    return powers / powers.sum(axis=-1, keepdims=True)


# Tests


def test_the_test_of_one_alone_is_its_own_test_bit_for_bit(root: Path) -> None:
    run = own_run(root, "people")
    data = run.build_data(split=split_from_csv(run.content["split"]))
    loader = data.evaluation_loader("test", beside=[])
    rows = build_trainer(run.cfg).evaluate(alone(root, "people").task, loader, title="test")
    np.testing.assert_equal(rows, without_losses(own_rows(root, "people")))


TOGETHER = ("boxed", "one", "people")


@pytest.fixture
def together(root: Path) -> Path:
    """The folder of the test of three that differ in size, fit and metadata; made once."""
    folder = root / "results" / "test" / "boxed~one~people"
    if not folder.exists():
        options = ["tracker=none", "data.subgroups=[sex]", "calibration=temperature", POINT]
        assert cli.run("test", ["run_name=[people,one,boxed]", *options]).folder == folder
    return folder


def calibrated_mean(root: Path, subset: str) -> np.ndarray:
    rows = [own_rows(root, name, subset=subset)["class_probabilities"] for name in TOGETHER]
    heats = [temperature(root, name) for name in TOGETHER]
    return np.mean([heated(each, heat) for each, heat in zip(rows, heats, strict=True)], axis=0)


def test_the_test_of_several_measures_their_mean(root: Path, together: Path) -> None:
    rows, _ = read_samples(together)
    own = without_losses(own_rows(root, "one"))
    beside = {
        name for name in rows if name.endswith("_original") or name.startswith(("called_", "subgroup_"))
    }
    assert set(rows) - beside == set(own)
    assert {"confusion_original", "lesion_confusion_original"} < beside
    mean = calibrated_mean(root, "test")
    np.testing.assert_allclose(rows["class_probabilities"], mean, rtol=1e-4)
    content = json.loads((together / "metrics.json").read_text())
    assert content["grid"] == [64, 64]  # the finest of theirs
    accuracy = content["metrics"]["accuracy"]
    assert accuracy["value"] == pytest.approx((mean.argmax(axis=1) == rows["label"]).mean())
    assert accuracy["low"] < accuracy["high"]


def test_masks_of_different_size_and_fit_meet_where_they_are_counted(root: Path, together: Path) -> None:
    rows, _ = read_samples(together)
    predictors = [load(name) for name in TOGETHER]
    for number, id_ in enumerate(rows["ids"]):
        # Letterboxed to 64 x 64, an image of 48 x 64 keeps its size: the grid is its own but for padding.
        image = root / "lesions" / "images" / f"{id_}.jpg"
        mean = np.mean([raw(predictor, image, (48, 64))[0] for predictor in predictors], axis=0)
        mask = cv2.imread(str(together / "masks" / f"{id_}.png"), cv2.IMREAD_UNCHANGED) == 255
        certain = abs(mean - 0.5) > 1e-5
        np.testing.assert_array_equal(mask[certain], (mean > 0.5)[certain])
        counts = rows["lesion_confusion"][number]
        assert mask.sum() == counts[0] + counts[1]
        np.testing.assert_array_equal(rows["lesion_confusion_original"][number], counts)
        true = cv2.imread(str(root / "lesions" / "masks" / f"{id_}_segmentation.png"), 0) > 0
        surprise = -np.log(np.where(true, mean, 1 - mean)).mean()
        assert rows["mask_surprise"][number] == pytest.approx(surprise, rel=1e-4)
        assert rows["pixel_histogram"][number][:, 0].sum() == true.size
        squares = ((mean - true) ** 2).sum()
        assert rows["pixel_squared_error"][number] == pytest.approx(squares, rel=1e-4)


def test_thresholds_follow_from_what_members_say_together_of_validation_samples(
    root: Path, together: Path
) -> None:
    labels = own_rows(root, "one", subset="val")["label"]
    scores = calibrated_mean(root, "val")[labels == 0, 0]
    wanted = max(score for score in scores if (scores >= score).mean() >= 0.9)
    (point,) = pd.read_csv(together / "operating_points.csv").to_dict("records")
    below = scores[scores < wanted].max(initial=0)
    assert below < point["threshold"] <= wanted + 1e-5


def test_the_page_and_the_card_name_the_members_and_nothing_of_a_single_training(together: Path) -> None:
    told = json.loads((together / "ensemble.json").read_text())
    assert told["members"] == ["boxed", "one", "people"]
    assert "each calibrated (temperature)" in told["how"]
    page, card = ((together / name).read_text() for name in ("report.html", "model_card.md"))
    for text in (page, card):
        assert "3 runs together" in text
        assert "boxed, one, people" in text
        assert "Training time" not in text
        assert "data.fit" not in text  # in which they differ
    assert 'polymask.load(["boxed", "one", "people"], calibration="temperature")' in card
    assert "| sex | female | Dice" in card
    assert "model.encoder_name" in page
    assert not (together / "training_curves.png").exists()


def test_thresholds_need_validation_samples_that_all_share(root: Path) -> None:
    members = members_of(root, "one", "shifted")
    members[0].run.cfg.task.operating_points = {"MEL": {"sensitivity": 1}}
    with pytest.raises(UserError, match="of the ensemble, but its members have different ones; leave it out"):
        plan_ensemble(members, build_trainer(members[0].run.cfg))


def test_a_threshold_that_was_chosen_for_one_network_is_not_for_all() -> None:
    cfg = composed(
        "data=label_maps",
        "task=instance",
        "model=mask_rcnn",
        "loss=mask_rcnn",
        "task.score_threshold=best_f1",
    )
    run = Rebuilt(cfg=cfg, family=build_family(cfg, ["cell"]), content={"class_names": ["cell"]})
    members = [Member(run_name=name, path=Path(name), run=run, application=None) for name in "ab"]
    with pytest.raises(
        UserError, match=r"task\.score_threshold=best_f1 was decided for a alone; give a value"
    ):
        check_decided(members, {})
    with pytest.raises(UserError, match=r"task\.score_threshold=best_count was decided"):
        check_decided(members, {"score_threshold": "best_count"})
    check_decided(members, {"task.score_threshold": 0.4})


def test_a_test_on_what_a_member_was_trained_on_is_refused(root: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"test samples of fold0 were training or validation samples of fold[12] .*out_of_fold=true",
    ):
        cli.run("test", ["run_name=fold*", "tracker=none"])
    assert not list((root / "results").glob("test/*ensemble*"))


@pytest.fixture
def out_of_fold(root: Path) -> Path:
    """The folder of the test of all folds; made once."""
    folder = root / "results" / "test" / "fold0~fold1~fold2~out_of_fold"
    if not folder.exists():
        options = ["out_of_fold=true", "tracker=none", "calibration=temperature"]
        assert cli.run("test", ["run_name=fold*", *options]).folder == folder
    return folder


def test_out_of_fold_rows_are_those_of_each_folds_own_test(root: Path, out_of_fold: Path) -> None:
    rows, _ = read_samples(out_of_fold)
    own = [own_rows(root, f"fold{fold}", *CALIBRATED) for fold in range(3)]
    assert "pixel_histogram_raw" in rows
    for each in own:
        places = np.searchsorted(rows["ids"], each["ids"])
        np.testing.assert_equal({name: rows[name][places] for name in each}, each)
    assert len(rows["ids"]) == sum(len(each["ids"]) for each in own) == 24
    assert len(list((out_of_fold / "masks").iterdir())) == 24
    told = json.loads((out_of_fold / "ensemble.json").read_text())
    assert (told["out_of_fold"], told["notes"]) == (True, [])
    assert "the one of these runs that never saw it: fold0, fold1, fold2" in told["how"]


def test_compare_summarize_and_review_take_several_as_one(
    root: Path, together: Path, out_of_fold: Path
) -> None:
    one = own_rows(root, "one")
    data = own_run(root, "one").build_data(split=split_from_csv(own_run(root, "one").content["split"]))
    folder = root / "results" / "test" / "one"
    folder.mkdir()
    groups = data.groups(one["ids"].tolist())
    write_samples(folder, one, groups)
    write_metrics(
        folder, lambda _: {}, groups, losses={}, details={"split_sha256": data.split.sha256, "grid": [32, 48]}
    )
    few = ["tracker=none", "num_replicates=20"]
    compared = cli.run("compare", ["one", together.name, *few, "num_permutations=20", "num_pictures=1"])
    accuracies = [
        (rows["class_probabilities"].argmax(axis=1) == rows["label"]).mean()
        for rows in (one, read_samples(together)[0])
    ]
    assert compared.metrics["difference/accuracy"] == pytest.approx(accuracies[1] - accuracies[0])
    summary = cli.run("summarize", [out_of_fold.name, "o?e", *few])
    text = (summary.folder / "summary.txt").read_text()
    assert text.count("one run") == 2
    assert out_of_fold.name in text
    reviewed = cli.run("review", [out_of_fold.name, "tracker=none", "num_pictures=1"])
    assert len(pd.read_csv(reviewed.folder / "masks.csv")) == 24


def members_of(root: Path, *names: str) -> Sequence[Member]:
    return [read_members([path_of(root, name)], {})[0] for name in names]


def test_missing_folds_and_overlaps_are_said(root: Path) -> None:
    names = ("fold0", "fold2", "masks")
    members = members_of(root, *names)
    splits = [split_from_csv(member.run.content["split"]) for member in members]
    *folds, last = [set(split.subsets["test"]) for split in splits]
    both, missing = len(last & set.union(*folds)), 24 - len(last | set.union(*folds))
    assert both
    assert missing
    plan = plan_folds(members, build_trainer(members[0].run.cfg))
    assert re.match(rf"{both} samples are tested by several runs, e\.g\. ", plan.notes[0])
    assert re.match(rf"{missing} of 24 samples are tested by none of the runs, e\.g\. ", plan.notes[1])
    assert set(plan.data.split.subsets["test"]) == last | set.union(*folds)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("one", "two"), "test the same samples, so there are no folds"),
        (("one", "boxed"), r"boxed and others differ in data\.image_size"),
    ],
)
def test_what_are_no_folds_of_one_study_is_refused(root: Path, names: Sequence[str], message: str) -> None:
    members = members_of(root, *names)
    with pytest.raises(UserError, match=message):
        plan_folds(members, build_trainer(members[0].run.cfg))


@pytest.mark.parametrize(
    ("names", "out_of_fold", "expected"),
    [
        (["b", "a"], False, r"a~b"),
        (["a", "b"], True, r"a~b~out_of_fold"),
        (
            [f"unet_resnet34_fold{fold}" for fold in range(5)],
            False,
            r"unet_resnet34_fold~ensemble5_[0-9a-f]{6}",
        ),
        ([f"unet_resnet34_{fold}" for fold in range(5)], True, r"unet_resnet34~out_of_fold5_[0-9a-f]{6}"),
        (["x" * 30, "y" * 30], False, r"x{30}~ensemble2_[0-9a-f]{6}"),
    ],
)
def test_names_are_short_and_do_not_depend_on_the_order(
    names: list[str], out_of_fold: bool, expected: str
) -> None:
    found = ensemble_name(names, out_of_fold=out_of_fold)
    assert re.fullmatch(expected, found)
    assert found == ensemble_name(names[::-1], out_of_fold=out_of_fold)
    assert found != ensemble_name([*names, "z"], out_of_fold=out_of_fold)


@pytest.mark.parametrize("members", ["abc", [], ["../../evil"], [1], {"a": 1}, None])
def test_a_file_that_names_no_runs_is_told(tmp_path: Path, members: object) -> None:
    (tmp_path / "ensemble.json").write_text(json.dumps({"members": members}))
    with pytest.raises(UserError, match=r"ensemble\.json names no runs; test the ensemble again"):
        read_ensemble(tmp_path)


def test_a_name_and_a_pattern_may_stand_for_one_run(root: Path) -> None:
    folder = CheckpointFolder(root / "models" / "checkpoints")
    found = find_checkpoints(["one", "on*", "boxed"], folder)
    assert [path.stem for path in found] == ["one", "boxed"]
