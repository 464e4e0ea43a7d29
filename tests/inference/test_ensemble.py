"""Several runs as one, against means made by hand, each fold's own test, and a single member."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from family_worker import evaluate
from lesion_files import lesion, write_lesions

import polymask
from polymask import cli
from polymask.data import images
from polymask.data.splits.split import split_from_csv
from polymask.errors import UserError
from polymask.factories import build_trainer, rebuild
from polymask.families.multitask import predictions
from polymask.inference.ensemble import EnsembleApplication, EnsembleTask
from polymask.inference.members import ensemble_name, read_member
from polymask.inference.predictor import Predictor
from polymask.reporting.rows import read_samples
from polymask.run_ensemble import plan_folds
from polymask.training.checkpoint import load_checkpoint
from polymask.utils import paths

CPU = ["trainer.device=cpu", "trainer.precision=fp32"]
OPTIONS = [
    "data.classes=[MEL,NV,BKL]",
    "data.batch_size=5",
    "data.num_workers=0",
    "data.cache_dir=null",
    "transforms=none",
    "model.encoder_name=tu-test_resnet",
    "model.encoder_weights=null",
    "optimizer.learning_rate=1.0e-3",
    "tracker=none",
    "epochs=1",
    "data.image_size=[32,48]",
    "test_after_training=false",  # its figures take longer than all else
    *CPU,
]
SAME_TEST = ["data.fractions=[0.4,0.2,0.4]"]
RUNS = {
    "alike_a": [*SAME_TEST, "test_after_training=true"],
    "alike_b": [*SAME_TEST, "seed=1"],
    "fine": [*SAME_TEST, "seed=2", "data.image_size=[64,64]", "model.model=fpn"],
    "classes": [*SAME_TEST, "task=classification"],
    **{f"fold{fold}": ["data.num_folds=3", f"data.fold={fold}", f"seed={fold}"] for fold in range(3)},
}


@pytest.fixture(scope="module")
def _root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ensembles")
    folder = write_lesions(root / "lesions")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROJECT_ROOT", root)
        patch.setattr(sys, "argv", sys.argv)
        for name, own in RUNS.items():
            cli.run("train", [f"run_name={name}", f"data.data_dir={folder}", *OPTIONS, *own])
    torch.set_num_threads(threads)
    return root


@pytest.fixture
def root(_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project root of all runs, of which `alike_a` is tested."""
    monkeypatch.setattr(paths, "PROJECT_ROOT", _root)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    return _root


def load(*names: str, **options: Any) -> Predictor:
    return polymask.load(names[0] if len(names) == 1 else names, device="cpu", precision="fp32", **options)


def path_of(root: Path, name: str) -> Path:
    return root / "models" / "checkpoints" / f"{name}.pt"


def alone(root: Path, name: str) -> Predictor:
    """A run as an ensemble of itself, by the way that those of several go."""
    member = read_member(path_of(root, name), {})
    application = EnsembleApplication([member.application])
    task = EnsembleTask([member.run.build_task()], application)
    return Predictor(
        task=task, application=application, run_name=name, path=member.path, device="cpu", precision="fp32"
    )


def raw(
    predictor: Predictor, image: np.ndarray, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of lesion at the image's own or another size by OpenCV, and those of classes."""
    seen, _ = predictor.application.read(image)
    (found,) = predictor.predict_batch(predictor.application.collate(["x"], [seen]))
    height, width = size or image.shape[:2]
    enlarged = cv2.resize(found.mask_probabilities[0].numpy(), (width, height))
    return enlarged, found.class_probabilities.numpy()


def own_rows(root: Path, name: str) -> dict[str, np.ndarray]:
    """Return the rows of a run's own test."""
    run = rebuild(load_checkpoint(path_of(root, name)))
    return evaluate(run, run.build_task())


def without_losses(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values for name, values in rows.items() if not name.startswith("loss")}


# Predictions


def test_an_ensemble_of_one_is_that_run_bit_for_bit(root: Path) -> None:
    pictures = [lesion(60, 90), lesion(130, 40, seed=1)]
    for found, expected in zip(
        alone(root, "fine").predict(pictures), load("fine").predict(pictures), strict=True
    ):
        np.testing.assert_array_equal(found.mask, expected.mask)
        assert found.class_probabilities == expected.class_probabilities


@pytest.mark.parametrize(
    ("names", "tta"),
    [
        (("alike_a", "alike_b"), None),
        (("alike_a", "fine"), None),
        (("alike_a", "alike_b", "fine"), None),
        (("alike_b", "fine"), True),
    ],
)
def test_several_predict_the_mean_of_their_probabilities(
    root: Path, names: tuple[str, ...], tta: bool
) -> None:
    image = lesion(70, 110, seed=3)
    masks, classes = zip(*(raw(load(name, tta=tta), image) for name in names), strict=True)
    found = load(*names, tta=tta).predict(image)
    mean = np.mean(masks, axis=0)
    certain = abs(mean - 0.5) > 1e-5
    np.testing.assert_array_equal((found.mask == 1)[certain], (mean > 0.5)[certain])
    assert certain.mean() > 0.99
    values = np.mean(classes, axis=0)
    np.testing.assert_allclose(list(found.class_probabilities.values()), values, rtol=1e-5)
    assert found.predicted_class == ["MEL", "NV", "BKL"][values.argmax()]
    # Else any of them would pass for their mean.
    assert all(abs(each - values).max() > 1e-4 for each in classes)


def test_the_order_of_the_names_changes_nothing(root: Path) -> None:
    image, names = lesion(70, 110), ("alike_a", "alike_b", "fine")
    one, other = load(*names), load(*names[::-1])
    assert one.run_name == other.run_name == "alike_a+alike_b+fine"
    assert one.predict(image).class_probabilities == other.predict(image).class_probabilities


def test_strips_are_what_the_whole_gives(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, predictor = lesion(301, 200), load("alike_a", "fine")
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
    load("alike_a", "alike_b", "fine").predict(path)
    assert len(decoded) == 1
    load("alike_a").predict(path)
    assert len(decoded) == 2  # and nothing is kept


def test_a_pattern_names_its_runs_and_one_that_matches_one_is_that_run(root: Path) -> None:
    assert load("alike_*").run_name == "alike_a+alike_b"
    assert load("fin?").run_name == "fine"
    assert isinstance(load("fin?").task, type(load("fine").task))
    assert load("[fine, alike_b]").run_name == "alike_b+fine"


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ("nothing_*", r"no run in .* is called 'nothing_\*'"),
        ("[]", "names no run"),
        (["fine", "fine"], "names fine twice"),
        (["fine", "unknown"], "'unknown' has no checkpoint"),
        (["classes", "fine"], r"fine and classes differ in what they predict \(label, mask; label\)"),
    ],
)
def test_what_is_no_ensemble_is_refused_in_one_line(root: Path, runs: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        polymask.load(runs, device="cpu")
    assert "\n" not in str(caught.value)


def test_infer_writes_what_load_predicts(root: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    pictures = [tmp_path / "pictures" / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(pictures):
        cv2.imwrite(str(path), lesion(60, 90, seed=seed))
    options = [f"data.data_dir={tmp_path / 'pictures'}", f"local_save_dir={tmp_path / 'out'}", *CPU]
    result = cli.run("infer", ["run_name=[alike_a,fine]", *options, "data.num_workers=1"])
    assert result.folder == tmp_path / "out" / "alike_a+fine"
    table = pd.read_csv(result.folder / "predictions.csv")
    for path, found, row in zip(
        pictures, load("fine", "alike_a").predict(pictures), table.itertuples(), strict=True
    ):
        mask = cv2.imread(str(result.folder / "masks" / path.name), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask == 255, found.mask == 1)
        assert row.probability_NV == pytest.approx(found.class_probabilities["NV"], abs=1e-5)
    path_of(root, "alike_a").rename(path_of(root, "was_alike_a"))
    try:
        path_of(root, "alike_a").write_bytes(path_of(root, "alike_b").read_bytes())
        with pytest.raises(UserError, match="made with another checkpoint"):
            cli.run("infer", ["run_name=[alike_a,fine]", *options])
    finally:
        path_of(root, "was_alike_a").rename(path_of(root, "alike_a"))


# Tests


def run_test(root: Path, folder: Path, runs: str, *options: str) -> Path:
    result = cli.run("test", [f"run_name={runs}", f"local_save_dir={folder}", "tracker=none", *options])
    assert result.folder.parent == folder
    return result.folder


def test_the_test_of_one_alone_is_its_own_test_bit_for_bit(root: Path) -> None:
    run = rebuild(load_checkpoint(path_of(root, "fine")))
    data = run.build_data(split=split_from_csv(run.content["split"]))
    loader = data.evaluation_loader("test", beside=[])
    rows = build_trainer(run.cfg).evaluate(alone(root, "fine").task, loader, title="test")
    np.testing.assert_equal(rows, without_losses(own_rows(root, "fine")))


@pytest.fixture
def together(root: Path) -> Path:
    """The folder of the test of three, of which one sees larger images; made once."""
    folder = root / "results" / "test" / "alike_a+alike_b+fine"
    if not folder.exists():
        assert cli.run("test", ["run_name=[fine,alike_a,alike_b]", "tracker=none"]).folder == folder
    return folder


def test_the_test_of_several_measures_their_mean(root: Path, together: Path) -> None:
    folder = together
    rows, _ = read_samples(folder)
    names = ("alike_a", "alike_b", "fine")
    mean = np.mean([own_rows(root, name)["class_probabilities"] for name in names], axis=0)
    np.testing.assert_allclose(rows["class_probabilities"], mean, rtol=1e-5)
    content = json.loads((folder / "metrics.json").read_text())
    assert content["grid"] == [64, 64]  # the finest of theirs
    accuracy = content["metrics"]["accuracy"]
    assert accuracy["value"] == pytest.approx((mean.argmax(axis=1) == rows["label"]).mean())
    assert accuracy["low"] < accuracy["high"]
    assert json.loads((folder / "ensemble.json").read_text())["members"] == ["fine", "alike_a", "alike_b"]
    predictors = [load(name) for name in names]
    # The masks are those that inference draws on images of that size, and they are what was counted.
    for id_, counts in zip(rows["ids"], rows["lesion_confusion"], strict=True):
        image = cv2.imread(str(root / "lesions" / "images" / f"{id_}.jpg"))[..., ::-1].copy()
        maps = [raw(predictor, image, (64, 64))[0] for predictor in predictors]
        mask = cv2.imread(str(folder / "masks" / f"{id_}.png"), cv2.IMREAD_UNCHANGED) == 255
        certain = abs(np.mean(maps, axis=0) - 0.5) > 1e-5
        np.testing.assert_array_equal(mask[certain], (np.mean(maps, axis=0) > 0.5)[certain])
        assert mask.sum() == counts[0] + counts[1]


def test_compare_and_summarize_take_an_ensemble_beside_single_runs(root: Path, together: Path) -> None:
    few = ["tracker=none", "num_replicates=20"]
    options = [*few, "num_permutations=20", "num_pictures=1"]
    compared = cli.run("compare", ["alike_a", together.name, *options])
    rows = [own_rows(root, name) for name in ("alike_a", "alike_b", "fine")]
    label = rows[0]["label"]
    probabilities = [each["class_probabilities"] for each in rows]
    single, both = (
        (p.argmax(axis=1) == label).mean() for p in (probabilities[0], np.mean(probabilities, axis=0))
    )
    assert compared.metrics["difference/accuracy"] == pytest.approx(both - single)
    summary = cli.run("summarize", [together.name, "alike_a", *few])
    text = (summary.folder / "summary.txt").read_text()
    assert text.count("one run") == 2
    assert together.name in text


def test_a_test_on_what_a_member_was_trained_on_is_refused(root: Path) -> None:
    with pytest.raises(
        UserError, match=r"test samples of fold0 were training samples of fold[12].*out_of_fold=true"
    ):
        cli.run("test", ["run_name=fold*", "tracker=none"])
    assert not list((root / "results" / "test").glob("*ensemble*"))


def test_out_of_fold_rows_are_those_of_each_folds_own_test(root: Path, tmp_path: Path) -> None:
    folder = run_test(root, tmp_path, "fold*", "out_of_fold=true")
    assert folder.name == "fold0+fold1+fold2_out_of_fold"
    rows, _ = read_samples(folder)
    own = [own_rows(root, f"fold{fold}") for fold in range(3)]
    for each in own:
        places = np.searchsorted(rows["ids"], each["ids"])
        np.testing.assert_equal({name: values[places] for name, values in rows.items()}, each)
    assert len(rows["ids"]) == sum(len(each["ids"]) for each in own) == 24
    assert len(list((folder / "masks").iterdir())) == 24
    assert json.loads((folder / "ensemble.json").read_text())["notes"] == []


def test_missing_folds_and_overlaps_are_said(root: Path) -> None:
    names = ("alike_a", "fold0", "fold2")
    members = [read_member(path_of(root, name), {}) for name in names]
    splits = [split_from_csv(member.run.content["split"]) for member in members]
    first, *folds = [set(split.subsets["test"]) for split in splits]
    both, missing = len(first & set.union(*folds)), 24 - len(first | set.union(*folds))
    assert both
    assert missing
    plan = plan_folds(members, build_trainer(members[0].run.cfg))
    assert re.match(rf"{both} samples are tested by several runs, e\.g\. ", plan.notes[0])
    assert re.match(rf"{missing} of 24 samples are tested by none of the runs, e\.g\. ", plan.notes[1])
    assert set(plan.data.split.subsets["test"]) == first | set.union(*folds)


def test_runs_that_test_the_same_are_no_folds(root: Path) -> None:
    with pytest.raises(UserError, match="test the same samples, so there are no folds"):
        cli.run("test", ["run_name=alike_*", "tracker=none", "out_of_fold=true"])


@pytest.mark.parametrize(
    ("names", "out_of_fold", "expected"),
    [
        (["b", "a"], False, r"a\+b"),
        (["a", "b"], True, r"a\+b_out_of_fold"),
        (
            [f"unet_resnet34_fold{fold}" for fold in range(5)],
            False,
            r"unet_resnet34_fold_ensemble5_[0-9a-f]{6}",
        ),
        ([f"unet_resnet34_{fold}" for fold in range(5)], True, r"unet_resnet34_out_of_fold5_[0-9a-f]{6}"),
        (["x" * 30, "y" * 30], False, r"x{30}_ensemble2_[0-9a-f]{6}"),
    ],
)
def test_names_are_short_and_do_not_depend_on_the_order(
    names: list[str], out_of_fold: bool, expected: str
) -> None:
    found = ensemble_name(names, out_of_fold=out_of_fold)
    assert re.fullmatch(expected, found)
    assert found == ensemble_name(names[::-1], out_of_fold=out_of_fold)
    assert found != ensemble_name([*names, "z"], out_of_fold=out_of_fold)
