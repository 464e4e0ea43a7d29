"""The model card, read by the hub's own library."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from report_files import METRICS, facts, write_report_files

from polymask.reporting.page.card import write_model_card
from polymask.reporting.page.facts import RunFacts


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    write_report_files(tmp_path)
    write_model_card(tmp_path, facts(name="my_run"), ["accuracy", "auroc_macro", "hd95"])
    return ModelCard((tmp_path / "model_card.md").read_text(encoding="utf-8"))


def test_its_header_holds_the_metrics(card: ModelCard) -> None:
    assert card.data.license == "unknown"
    assert card.data.tags == ["polymask", "pytorch", "image-segmentation", "image-classification"]
    assert card.data.model_name == "my_run"
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {
        name: METRICS[name]["value"] for name in ("accuracy", "hd95")
    }  # of NaN the hub knows nothing
    assert {result.dataset_name for result in card.data.eval_results} == {"pictures"}


def test_its_text_says_what_is_known_and_what_is_not(card: ModelCard) -> None:
    assert "| Accuracy (accuracy) | 0.812 (0.700 to 0.938) |" in card.text
    assert "| sex=female | 12 | 0.750 (0.500 to 0.875) |" in card.text
    assert "- SHA-256 of the split: 5e1f" in card.text
    assert "- Licence of the data: unknown" in card.text
    assert "- Meant for: unknown" in card.text
    assert "<b>" not in card.text  # a name is no markup
    assert "secret" not in card.text


def test_a_run_of_which_nothing_is_known_has_a_card(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    write_model_card(tmp_path, RunFacts(name="bare"), ["accuracy"])
    text = (tmp_path / "model_card.md").read_text(encoding="utf-8")
    card = ModelCard(text)
    assert card.data.eval_results is None
    assert "Of unknown test samples in unknown groups" in card.text
    assert "Not measured: the test had no subgroups." in card.text


def test_its_code_gives_the_probabilities_of_its_numbers(tmp_path: Path) -> None:
    write_report_files(tmp_path)
    codes = {
        'polymask.load("my_run", calibration="temperature")': facts(
            name="my_run", config={"calibration": "temperature"}
        ),
        'polymask.load("my_run")': facts(name="my_run", config={"calibration": None}),
        'polymask.load(["a", "b"])': facts(members=["a", "b"]),
        'polymask.load("a")  # or another one': facts(members=["a", "b"], out_of_fold=True),
    }
    for code, known in codes.items():
        write_model_card(tmp_path, known, [])
        assert code in (tmp_path / "model_card.md").read_text()


def test_samples_that_were_trained_on_are_admitted(tmp_path: Path) -> None:
    write_report_files(tmp_path)
    write_model_card(tmp_path, facts(num_seen=4), [])
    assert (
        "4 of the test samples are ones that the run was trained on"
        in (tmp_path / "model_card.md").read_text()
    )
