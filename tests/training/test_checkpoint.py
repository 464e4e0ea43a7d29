from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from polymask.errors import UserError
from polymask.training.checkpoint import (
    FORMAT,
    CheckpointFolder,
    RunRecord,
    inference_weights,
    load_checkpoint,
    load_weights,
    new_parts,
    run_record,
    save_checkpoint,
)
from polymask.training.checkpoint_content import SECTIONS


def make_record(name: str = "run") -> RunRecord:
    return RunRecord(
        run_name=name,
        config={
            **{section: {} for section in SECTIONS},
            "seed": 0,
            "data": {"classes": ["MEL", "NV"], "cache_dir": None, "fractions": [0.5, 0.5]},
        },
        groups={"data": "demo"},
        class_names=["MEL", "NV"],
        split="id,group,label,subset\na,a,MEL,train\n",
        split_sha256="ab12",
        tracker_run_id="t1",
        versions={"torch": "2.11.0"},
    )


def make_model(width: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


def make_state(model: nn.Module) -> dict:
    return {
        "model": model.state_dict(),
        "ema": None,
        "training": {"epoch": 3, "best_value": 0.5, "history": [{"epoch": 1, "val/loss": float("nan")}]},
    }


def written(path: Path) -> Path:
    save_checkpoint(path, make_record(), make_state(make_model()))
    return path


def test_file_is_read_by_torch_with_weights_only_and_holds_what_was_saved(tmp_path):
    model, path = make_model(), written(tmp_path / "new folder" / "run.pt")
    content = torch.load(path, weights_only=True)
    assert content["format"] == FORMAT
    assert content["training"]["epoch"] == 3
    assert content["config"] == make_record().config
    for name, tensor in model.state_dict().items():
        assert torch.equal(content["model"][name], tensor)
    assert run_record(load_checkpoint(path)) == make_record()


class UnpicklableError(Exception):
    def __reduce__(self):
        raise RuntimeError("cannot be pickled")


def test_failure_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    path = written(tmp_path / "run.pt")
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="cannot be pickled"):
        save_checkpoint(path, make_record(), make_state(make_model()) | {"optimizer": UnpicklableError()})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_new_file_takes_the_place_of_the_old_one(tmp_path):
    path = written(tmp_path / "run.pt")
    save_checkpoint(path, replace(make_record(), class_names=["BKL"]), make_state(make_model()))
    assert load_checkpoint(path)["class_names"] == ["BKL"]
    assert list(tmp_path.iterdir()) == [path]


def test_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"checkpoint .*none\.pt does not exist; give a run_name"):
        load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("kept", [0, 1, 100, 1000, -1])
def test_truncated_file_is_a_user_error(tmp_path, kept):
    path = written(tmp_path / "run.pt")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"checkpoint .*run\.pt cannot be read \(\w+\): it is damaged"):
        load_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_whatever_bytes_a_file_holds_the_error_is_a_user_error(tmp_path):
    path = written(tmp_path / "run.pt")
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(100):
        damaged = bytearray(whole)
        for position in rng.integers(0, 900, 4):  # the pickle stands first, the tensors after it
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except UserError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"model": {}}, torch.ones(2)])
def test_file_of_another_kind_is_a_user_error(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(
        UserError, match=r"other\.pt is not a polymask checkpoint; give a file that src/train"
    ):
        load_checkpoint(tmp_path / "other.pt")


def test_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"format": 1, "model": make_model()}, tmp_path / "module.pt")
    with pytest.raises(UserError, match=r"module\.pt cannot be read \(UnpicklingError\)"):
        load_checkpoint(tmp_path / "module.pt")


def test_file_of_a_later_format_is_a_user_error(tmp_path):
    torch.save({"format": FORMAT + 1, "model": {}}, tmp_path / "later.pt")
    with pytest.raises(UserError, match=f"has checkpoint format {FORMAT + 1}; this version reads up to"):
        load_checkpoint(tmp_path / "later.pt")


def test_averaged_weights_are_those_to_predict_with():
    model = {"w": torch.zeros(1), "num_batches_tracked": torch.tensor(5)}
    assert inference_weights({"model": model, "ema": None}) == model
    average = {"num_updates": 7, "w": torch.ones(1)}
    found = inference_weights({"model": model, "ema": average})
    assert found == {"w": torch.ones(1), "num_batches_tracked": torch.tensor(5)}


def other_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn_like(tensor.float()) for name, tensor in make_model().state_dict().items()}


def test_weights_that_fit_are_copied():
    model, weights = make_model(), other_weights()
    weights["1.num_batches_tracked"] = torch.tensor(3)
    assert load_weights(model, weights, source="file") == []
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name])


def misfit() -> dict[str, torch.Tensor]:
    """One name missing, one too many, one of another shape."""
    weights = other_weights()
    del weights["2.bias"]
    return weights | {"3.weight": torch.zeros(1), "0.weight": torch.zeros(9, 2)}


def test_strict_loading_names_what_differs_and_changes_nothing():
    model = make_model()
    with pytest.raises(UserError) as caught:
        load_weights(model, misfit(), source="models/a.pt")
    message = str(caught.value)
    assert "models/a.pt does not fit the model: 3 differences" in message
    for part in (
        "missing 2.bias",
        "unexpected 3.weight",
        "shape of 0.weight is (9, 2), the model has (3, 2)",
    ):
        assert part in message
    assert "init_strict=false" in message
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), make_model().parameters(), strict=True))


def test_loading_what_fits_notes_the_rest():
    model, weights = make_model(), misfit()
    notes = load_weights(model, weights, source="file", strict=False)
    assert len(notes) == 3
    assert torch.equal(model[2].weight, weights["2.weight"])
    fresh = make_model()
    assert torch.equal(model[0].weight, fresh[0].weight)
    assert torch.equal(model[2].bias, fresh[2].bias)


def test_nothing_that_fits_is_a_user_error_even_when_not_strict():
    with pytest.raises(UserError, match=r"file does not fit the model.*polymask export-encoder") as caught:
        load_weights(make_model(), {"conv.weight": torch.zeros(1)}, source="file", strict=False)
    assert "init_strict=false" not in str(caught.value)


def test_a_part_that_extends_a_network_starts_anew_where_weights_have_none_of_it():
    extended, plain = make_model(), other_weights()
    extra = nn.Linear(1, 2)
    extra.may_start_anew = True
    extended.add_module("extra", extra)
    start = extra.weight.clone()
    with pytest.raises(UserError, match=r"missing extra\.weight"):
        load_weights(extended, plain, source="file")
    assert new_parts(extended, plain) == ["extra"]
    assert load_weights(extended, plain, source="file", absent=["extra"]) == []
    assert torch.equal(extra.weight, start)
    assert torch.equal(extended[2].weight, plain["2.weight"])
    half = plain | {"extra.weight": torch.zeros(2, 1)}
    assert new_parts(extended, half) == []  # what is there must be whole
    assert new_parts(make_model(), plain) == []


def make_runs(folder: Path, *names: str) -> CheckpointFolder:
    """Empty files, each newer than the one before."""
    for age, name in enumerate(names):
        (folder / name).touch()
        os.utime(folder / name, (1000 + age, 1000 + age))
    return CheckpointFolder(folder)


def test_newest_run_is_found_by_its_own_kind_of_file(tmp_path):
    folder = make_runs(tmp_path, "b.pt", "b.last.pt", "c.last.pt", "a.pt", "d.yaml", ".x.pt.ab12.tmp")
    assert folder.run_names() == ["a", "b"]
    assert folder.run_names(resumable=True) == ["c", "b"]
    assert folder.find(None) == tmp_path / "a.pt"
    assert folder.find(None, resumable=True) == tmp_path / "c.last.pt"
    assert folder.find("b") == tmp_path / "b.pt"
    assert folder.find("b", resumable=True) == tmp_path / "b.last.pt"


BY_METRIC = ("b.pt", "b@dice.pt", "b@auroc.pt", "b.last.pt", "a[1].pt", "a[1]@dice.pt", "c@dice.pt")


def test_best_checkpoints_by_further_metrics_are_no_runs_of_their_own(tmp_path):
    folder = make_runs(tmp_path, *BY_METRIC, "b2.pt")
    assert folder.run_names() == ["b2", "a[1]", "b"]
    assert folder.run_names(resumable=True) == ["b"]
    assert folder.newest_run() == "b"
    assert folder.find(None) == tmp_path / "b2.pt"
    assert folder.best_names("b") == ["b", "b@auroc", "b@dice"]
    assert folder.best_names("a[1]") == ["a[1]", "a[1]@dice"]
    assert folder.best_names("c") == ["c@dice"]
    assert folder.best_names("a") == []


@pytest.mark.parametrize("name", ["b@dice", "b@val/dice"])
def test_best_checkpoint_by_a_metric_is_found_by_run_and_metric(tmp_path, name):
    assert make_runs(tmp_path, *BY_METRIC).find(name) == tmp_path / "b@dice.pt"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["a[1]", "b", "b2"]),
        ("b*", ["b", "b2"]),
        ("*@dice", ["a[1]@dice", "b@dice"]),
        ("b@*", ["b@auroc", "b@dice"]),
        ("*@val/auroc", ["b@auroc"]),
        ("b@dice", ["b@dice"]),
    ],
)
def test_patterns_match_runs_or_their_checkpoints_by_metrics(tmp_path, pattern, expected):
    assert make_runs(tmp_path, *BY_METRIC, "b2.pt").matching(pattern) == expected


def test_a_pattern_that_matches_nothing_names_the_nearest(tmp_path):
    folder = make_runs(tmp_path, *BY_METRIC)
    for pattern, near in (("b_", "b"), ("*@dicee", "b@dice"), ("b@accuracy*", "b@auroc")):
        with pytest.raises(UserError, match=rf"is called '{re.escape(pattern)}'\. Did you mean '{near}'\?"):
            folder.matching(pattern)


def test_metric_without_a_checkpoint_names_those_that_there_are(tmp_path):
    folder = make_runs(tmp_path, *BY_METRIC)
    with pytest.raises(UserError) as caught:
        folder.find("b@aurocc")
    assert str(caught.value) == (
        f"run_name='b@aurocc' has no checkpoint {tmp_path / 'b@aurocc.pt'}. Did you mean 'b@auroc'? "
        "Of this run there are: b, b@auroc, b@dice."
    )
    with pytest.raises(UserError, match=r"has no checkpoint .* Newest runs: "):
        folder.find("x@dice")
    with pytest.raises(UserError, match=r"goes on as a whole: resume=true run_name=b\.$"):
        folder.find("b@dice", resumable=True)


@pytest.mark.parametrize("name", ["run.v1", "a+b=c,d", "unet_resnet18_20260101_1200"])
def test_names_with_points_are_found(tmp_path, name):
    folder = make_runs(tmp_path, f"{name}.pt", f"{name}.last.pt")
    assert folder.run_names() == folder.run_names(resumable=True) == [name]
    assert folder.find(name) == folder.best(name) != folder.last(name)


def test_empty_folder_says_how_to_train(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"no checkpoint in .*; train one first: python src/train\.py"):
            CheckpointFolder(folder).find(None)


def test_mistyped_run_names_the_nearest_and_the_newest(tmp_path):
    folder = make_runs(tmp_path, "unet_a.pt", "fpn_b.pt")
    with pytest.raises(UserError) as caught:
        folder.find("unet_b")
    assert str(caught.value) == (
        f"run_name='unet_b' has no checkpoint {tmp_path / 'unet_b.pt'}. Did you mean 'unet_a'? "
        "Newest runs: fpn_b, unet_a."
    )


def test_run_without_a_last_checkpoint_cannot_be_resumed(tmp_path):
    folder = make_runs(tmp_path, "a.pt")
    with pytest.raises(
        UserError, match=r"run_name='a' has no checkpoint .*a\.last\.pt\. Newest runs: none\."
    ):
        folder.find("a", resumable=True)
