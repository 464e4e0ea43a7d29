"""What validation samples decide reaches test, inference and Python; with and without old checkpoints."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss

import polymask
from polymask import cli
from polymask.errors import UserError
from polymask.factories import build_trainer, rebuild
from polymask.families.multitask.decisions import Decisions
from polymask.families.multitask.family import Family
from polymask.metrics.temperature import fit_temperature
from polymask.reporting.rows import read_samples
from polymask.run_parts import split_of
from polymask.training.checkpoint import decisions_of, load_checkpoint
from polymask.utils import paths

CLASSES = ["MEL", "NV", "BKL"]
CHECKPOINT = "models/checkpoints/tiny.pt"
POINTS = [
    "task.class_groups={malignant: [MEL, BKL]}",
    "task.operating_points={malignant: {sensitivity: 0.6}}",
]


@pytest.fixture
def copied(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run `tiny` in a root of its own, as an earlier version left it: nothing is known of val."""
    root = tmp_path / "copied"
    (root / "models").mkdir(parents=True)
    shutil.copytree(trained / "models" / "checkpoints", root / "models" / "checkpoints")
    content = torch.load(root / CHECKPOINT, weights_only=True)
    del content["decisions"]
    torch.save(content, root / CHECKPOINT)
    monkeypatch.setattr(paths, "PROJECT_ROOT", root)
    return root


def softmax(values: np.ndarray) -> np.ndarray:
    return np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)


def test_the_best_checkpoint_holds_what_validation_samples_said(trained: Path) -> None:
    content = load_checkpoint(trained / CHECKPOINT)
    run = rebuild(content)
    data, trainer = run.build_data(split=split_of(content)), build_trainer(run.cfg)
    rows = trainer.evaluate(trainer.prepare(run.build_task()), data.evaluation_loader("val"), title="val")
    kept = decisions_of(content)
    assert kept.keys() == {"label", "class_probabilities", "pixel_histogram"}
    np.testing.assert_array_equal(kept["label"], rows["label"])
    np.testing.assert_allclose(kept["class_probabilities"], rows["class_probabilities"], atol=1e-6)
    assert kept["pixel_histogram"][:, 0].sum() == 32 * 48 * len(rows["ids"])
    assert "decisions" not in torch.load(trained / "models/checkpoints/tiny.last.pt", weights_only=True)


def test_a_test_of_an_old_checkpoint_decides_first_and_an_inference_says_so(
    trained: Path, copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = load_checkpoint(trained / CHECKPOINT)
    with pytest.raises(UserError, match=r"calibration=temperature needs .* polymask test"):
        polymask.load("tiny", device="cpu", calibration="temperature")
    common = ["run_name=tiny", f"data.data_dir={trained / 'lesions'}", "calibration=temperature", *POINTS]
    with pytest.raises(UserError, match=r"own validation samples"):
        cli.run("test", [*common, f"data.split_file={next(trained.glob('outputs/*/*/split.csv'))}"])
    with caplog.at_level(logging.WARNING):
        cli.run("test", common)
    assert (
        decisions_of(load_checkpoint(copied / CHECKPOINT))["label"].tolist()
        == fresh["decisions"]["label"].tolist()
    )
    check_report(trained / "results/test/tiny", copied / "results/test/tiny", decisions_of(fresh))
    predicted = polymask.load("tiny", device="cpu", calibration="temperature")
    plain = polymask.load("tiny", device="cpu")
    image = next((trained / "lesions" / "images").iterdir())
    before, after = (
        np.array([list(one.predict(image).class_probabilities.values())]) for one in (plain, predicted)
    )
    temperature = fit_temperature(
        *(fresh["decisions"][name].numpy() for name in ("label", "class_probabilities"))
    )
    np.testing.assert_allclose(after, softmax(np.log(before) / temperature), atol=1e-5)


def check_report(before: Path, after: Path, validation: Mapping[str, np.ndarray]) -> None:
    """Compare a calibrated report with the report of the same run without."""
    (old, _), (new, _) = read_samples(before), read_samples(after)
    np.testing.assert_allclose(new["class_probabilities_raw"], old["class_probabilities"], atol=1e-6)
    temperature = fit_temperature(validation["label"], validation["class_probabilities"])
    calibrated = softmax(np.log(old["class_probabilities"].astype(float)) / temperature)
    np.testing.assert_allclose(new["class_probabilities"], calibrated, atol=1e-5)
    on_val = softmax(np.log(validation["class_probabilities"].astype(float)) / temperature)
    scores = np.sort(on_val[np.isin(validation["label"], [0, 2])][:, [0, 2]].sum(axis=1))
    threshold = scores[-int(np.ceil(0.6 * len(scores)))]
    table = pd.read_csv(after / "operating_points.csv")
    assert table["threshold"].tolist() == pytest.approx([threshold], abs=1e-5)
    assert table["val_sensitivity"][0] >= 0.6
    calls = calibrated[:, [0, 2]].sum(axis=1) >= table["threshold"][0] - 1e-6
    truth = np.isin(new["label"], [0, 2])
    assert table["sensitivity"][0] == pytest.approx(calls[truth].mean(), abs=1e-5)
    assert table["specificity"][0] == pytest.approx((~calls[~truth]).mean(), abs=1e-5)
    assert table["number_needed_to_biopsy"][0] == pytest.approx(calls.sum() / calls[truth].sum(), abs=1e-4)
    exact = binomtest(int(calls[truth].sum()), int(truth.sum())).proportion_ci()
    assert table["sensitivity_exact_low"][0] == pytest.approx(exact.low, abs=1e-5)
    assert table["sensitivity_low"][0] <= table["sensitivity"][0] <= table["sensitivity_high"][0]
    lines = pd.read_csv(after / "calibration.csv").set_index(["of", "calibration"])
    for kind, values in (("none", old["class_probabilities"]), ("temperature", calibrated)):
        brier = brier_score_loss(new["label"] == 0, values[:, 0])
        assert lines.loc[("MEL", kind), "brier"] == pytest.approx(brier, abs=1e-5)
    assert lines.loc[("all classes", "temperature"), "temperature"] == pytest.approx(temperature, rel=1e-4)
    assert {"none", "temperature"} <= set(lines.loc["lesion pixels"].index)
    assert (after / "decision_curves.png").is_file()


def test_an_image_of_little_confidence_is_left_undecided(trained: Path, tmp_path: Path) -> None:
    cases = trained / "lesions" / "images"
    table = pd.read_csv(trained / "results/test/tiny/per_sample.csv")
    cut = float(table["confidence"].median())
    options = [
        "run_name=tiny",
        f"data.data_dir={cases}",
        f"local_save_dir={tmp_path}",
        f"abstain_below={cut}",
    ]
    cli.run("infer", [*options, "overlay=false", "trainer.device=cpu", "data.num_workers=0"])
    rows = pd.read_csv(tmp_path / "tiny" / "predictions.csv", keep_default_na=False)
    confidence = rows[[f"probability_{name}" for name in CLASSES]].max(axis=1)
    clear = abs(confidence - cut) > 1e-5
    assert (rows["abstained"] == (confidence < cut))[clear].all()
    assert ((rows["predicted_class"] == "") == (rows["abstained"] == 1)).all()
    assert set(rows["abstained"]) == {0, 1}
    sure = polymask.load("tiny", device="cpu", abstain_below=1.0).predict(next(cases.iterdir()))
    assert sure.predicted_class is None
    assert sure.mask is not None


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"calibration": "temprature"}, r"calibration='temprature' is unknown. Did you mean 'temperature'"),
    ({"class_groups": {"bad": ["MEL", "X"]}}, r"task.class_groups.bad='X' is unknown"),
    ({"class_groups": {"bad": "MEL"}}, r"is no list of classes; give some of MEL, NV, BKL"),
    ({"class_groups": {"MEL": ["NV"]}}, r"task.class_groups.MEL is the name of a class"),
    ({"operating_points": {"malignant": {"sensitivity": 0.9}}}, r"neither a class nor one of"),
    ({"operating_points": {"MEL": {"recall": 0.9}}}, r"task.operating_points.MEL='recall' is unknown"),
    ({"operating_points": {"MEL": {"sensitivity": 1.5}}}, r"give a share above 0 and at most 1"),
    ({"operating_points": {"MEL": 0.9}}, r"give \{sensitivity: 0.95\}"),
    ({"operating_points": ["MEL"]}, r"task.operating_points=\['MEL'\] is not valid; give a class or group"),
    ({"operating_points": "MEL"}, r"task.operating_points='MEL' is not valid"),
    ({"class_groups": ["MEL", "NV"]}, r"task.class_groups=\['MEL', 'NV'\] is not valid; give names"),
    ({"class_groups": {"x": 3}}, r"task.class_groups.x=3 is no list of classes"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_mistakes_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Family(class_names=CLASSES, **options)


def test_without_classes_there_is_nothing_to_abstain_from() -> None:
    family = Family(class_names=[], predict_classes=False)
    with pytest.raises(UserError, match="abstain_below= is of no use"):
        family.application({"batch_size": 2, "image_size": 32}, {"abstain_below": 0.5})


@pytest.fixture
def lacking() -> Decisions:
    """Decisions after a validation without MEL and without masks."""
    choices = Decisions(
        CLASSES,
        calibration="temperature_per_class",
        class_groups={"other": ["NV", "BKL"]},
        operating_points={
            "MEL": {"sensitivity": 0.9},
            "other": {"specificity": 0.9, "sensitivity": [0.5, 1]},
        },
    )
    random = np.random.default_rng(0)
    probabilities = softmax(random.normal(size=(60, 3))).astype(np.float32)
    choices.validation = choices.kept(
        {"label": random.integers(1, 3, size=60), "class_probabilities": probabilities, "loss": np.ones(60)}
    )
    return choices


def test_what_validation_lacks_is_said_once_and_is_nan(
    lacking: Decisions, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {"ids": np.array(["a", "b"]), "label": np.array([0, 1])}
    rows["class_probabilities"] = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], np.float32)
    with caplog.at_level(logging.WARNING):
        decided = lacking.decided(rows)
        lacking.decided(rows)
    known = {point.key: threshold for point, threshold in lacking.thresholds.items()}
    assert np.isnan(known["MEL_at_sensitivity_0.9"])
    assert np.isnan(known["other_at_specificity_0.9"])
    assert not np.isnan(known["other_at_sensitivity_0.5"])
    values = Family(class_names=CLASSES).scorer.metrics(decided)
    assert np.isnan(values["sensitivity_MEL_at_sensitivity_0.9"])
    assert values["sensitivity_other_at_sensitivity_1"] == [1]
    assert (
        sorted(text.split(" ")[0] for text in caplog.messages).count("the") == 2
    )  # temperatures, thresholds
    assert "MEL" in caplog.text


def test_nothing_known_of_any_class_leaves_probabilities_as_they_are(
    lacking: Decisions, caplog: pytest.LogCaptureFixture
) -> None:
    lacking.validation["label"] = np.full(60, -1)
    rows = {"label": np.array([0]), "class_probabilities": np.array([[0.5, 0.3, 0.2]], np.float32)}
    np.testing.assert_array_equal(lacking.decided(rows)["class_probabilities"], rows["class_probabilities"])
    assert "no validation sample has a known class" in caplog.text
