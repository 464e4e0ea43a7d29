"""A run that takes age and sex beside the image: training, test, inference from a table and from Python."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import fails
from lesion_files import write_lesions

import polymask
from polymask import cli
from polymask.errors import UserError
from polymask.reporting.rows import read_samples
from polymask.training.checkpoint import load_checkpoint
from polymask.utils import paths

CLASSES = ["MEL", "NV", "BKL"]
OPTIONS = [
    "run_name=people",
    "task=classification",
    "data.classes=[MEL,NV,BKL]",
    "data.image_size=32",
    "data.batch_size=5",
    "data.num_workers=0",
    "data.fractions=[0.6,0.2,0.2]",
    "transforms=none",
    "model.encoder_name=tu-test_resnet",
    "model.encoder_weights=null",
    "model.freeze_backbone=true",
    "model.metadata={age:number,sex:category}",
    "model.head.dropout=0",
    "optimizer.learning_rate=3.0e-2",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "tracker=none",
    "epochs=12",
]


def with_people(folder: Path) -> Path:
    """Age tells one class from the others, sex the second one; some values are not known."""
    table = folder / "metadata.csv"
    lesions = pd.read_csv(table)
    numbers = np.arange(len(lesions))
    lesions["age"] = np.where(lesions["dx"] == "mel", 70, 30) + numbers % 3
    lesions["sex"] = np.where(lesions["dx"] == "nv", "male", "female")
    lesions["age"] = lesions["age"].astype(object).where(numbers % 8 != 5, "")
    lesions["sex"] = lesions["sex"].where(numbers % 12 != 7, "unknown")
    lesions.to_csv(table, index=False)
    return folder


@pytest.fixture(scope="module")
def _people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("people")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PROJECT_ROOT", root)
        cli.run("train", [*OPTIONS, f"data.data_dir={with_people(write_lesions(root / 'lesions'))}"])
    return root


@pytest.fixture
def people(_people: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "PROJECT_ROOT", _people)
    return _people


@pytest.fixture
def tested(people: Path) -> pd.DataFrame:
    """Probabilities of the test images, by id."""
    rows, _ = read_samples(people / "results/test/people")
    return pd.DataFrame(rows["class_probabilities"], index=rows["ids"].tolist(), columns=CLASSES)


def images(people: Path, tested: pd.DataFrame) -> list[Path]:
    return [people / "lesions" / "images" / f"{id_}.jpg" for id_ in tested.index]


def test_it_learns_what_the_table_tells(people: Path) -> None:
    content = json.loads((people / "results/test/people/metrics.json").read_text())
    assert content["metrics"]["balanced_accuracy"]["value"] > 0.8


def test_statistics_of_the_training_images_are_in_the_checkpoint(people: Path) -> None:
    content = load_checkpoint(people / "models/checkpoints/people.pt")
    (split,) = people.glob("outputs/*/*/split.csv")
    training = pd.read_csv(split).query("subset == 'train'")["id"]
    ages = pd.read_csv(people / "lesions/metadata.csv").set_index("image_id").loc[training, "age"].dropna()
    for section in ("data", "model"):
        assert content["config"][section]["metadata"] == {"age": "number", "sex": "category"}
        found = content["config"][section]["metadata_statistics"]
        assert found == {"age": pytest.approx([ages.mean(), ages.std(ddof=0)]), "sex": ["female", "male"]}


def test_inference_with_the_table_says_what_the_test_said(
    people: Path, tested: pd.DataFrame, tmp_path: Path
) -> None:
    table = people / "lesions" / "metadata.csv"
    options = ["run_name=people", f"data.data_dir={people / 'lesions' / 'images'}", "data.num_workers=0"]
    options += ["overlay=false", "trainer.device=cpu", "trainer.precision=fp32"]
    options += [f"local_save_dir={tmp_path}"]
    result = cli.run("infer", [*options, f"data.attribute_table={table}"])
    found = pd.read_csv(result.folder / "predictions.csv")
    found.index = [Path(name).stem for name in found["file"]]
    probabilities = found.loc[tested.index, [f"probability_{name}" for name in CLASSES]]
    np.testing.assert_allclose(probabilities, tested, atol=1e-5)
    loaded = polymask.load("people", device="cpu", precision="fp32", attribute_table=str(table))
    for each, expected in zip(loaded.predict(images(people, tested)), tested.to_numpy(), strict=True):
        np.testing.assert_allclose(list(each.class_probabilities.values()), expected, atol=1e-5)
    with pytest.raises(UserError, match=r"predictions made with another data\.attribute_table"):
        cli.run("infer", options)


def test_values_may_come_from_python(people: Path, tested: pd.DataFrame) -> None:
    first = images(people, tested)[0]
    young = polymask.load("people", device="cpu", attribute_table={first.name: {"age": 30, "sex": "male"}})
    of_all = polymask.load("people", device="cpu", attribute_table={"Age": 30, "sex": "male"})
    old = polymask.load("people", device="cpu", attribute_table={"age": 70, "sex": "female"})
    assert young.predict(first).class_probabilities == of_all.predict(first).class_probabilities
    assert of_all.predict(first).predicted_class == "NV"
    assert old.predict(first).predicted_class == "MEL"


def test_without_a_table_nothing_is_known(people: Path, tested: pd.DataFrame, caplog) -> None:
    first = images(people, tested)[0]
    plain = polymask.load("people", device="cpu").predict(first)
    assert "the network takes age, sex, of which nothing is known here" in caplog.text
    empty = polymask.load("people", device="cpu", attribute_table={"age": None, "sex": "unknown"})
    assert plain.class_probabilities == empty.predict(first).class_probabilities
    other = polymask.load("people", device="cpu", attribute_table={"another.jpg": {"age": 70}})
    assert plain.class_probabilities == other.predict(first).class_probabilities
    assert f"{first.name} is not in data.attribute_table" in caplog.text


def test_a_table_is_refused_where_it_is_of_no_use(trained: Path) -> None:
    with pytest.raises(UserError, match=r"a run that was trained without model\.metadata"):
        polymask.load("tiny", device="cpu", attribute_table={"age": 3})


def test_a_table_of_other_columns_is_refused(people: Path) -> None:
    with pytest.raises(UserError, match=r"none of the columns that the network takes, age, sex\. Found: bmi"):
        polymask.load("people", device="cpu", attribute_table={"bmi": 3})


def test_a_column_that_does_not_exist_stops_a_training(
    people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        *(option for option in OPTIONS if "metadata" not in option),
        "run_name=other",
        f"data.data_dir={people / 'lesions'}",
        "model.metadata={ages:number}",
    ]
    line = fails(capsys, "train", *options)
    assert "model.metadata names 'ages', which is no column" in line
    assert "Did you mean 'age'?" in line


def test_a_test_on_data_without_a_column_counts_it_as_not_known(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write_lesions(tmp_path / "plain")
    options = [f"data.data_dir={plain}", f"local_save_dir={tmp_path / 'results'}", "trainer.device=cpu"]
    cli.run("test", ["run_name=people", *options])
    assert "model.metadata names 'age', which is no column" in capsys.readouterr().out
