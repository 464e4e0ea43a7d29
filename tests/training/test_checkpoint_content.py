"""Whatever stands in the fields of a checkpoint: either it is right, or one line says what is not."""

from __future__ import annotations

import logging
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from strangers import checkpoint_of, put, run, write_changed

import polymask
from polymask.errors import UserError
from polymask.training.checkpoint import load_checkpoint, stored_weights
from polymask.training.checkpoint_content import SECTIONS, run_name_of

OPTIONAL = ("tracker_run_id", "versions")
STATES = ("optimizer", "schedule", "scaler")
DESCRIPTION = ("run_name", "config", "groups", "class_names", "split", "split_sha256", "training")
FIELDS = ("format", "model", "ema", *DESCRIPTION, *STATES, *OPTIONAL)


@pytest.fixture
def content(trained: Path) -> dict[str, Any]:
    return checkpoint_of(trained)


def last_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.last.pt")


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_told_in_one_line(field: str, content: dict[str, Any], project: Path) -> None:
    path = last_of(write_changed(project, content, lambda changed: changed.pop(field)))
    if field in OPTIONAL:
        assert load_checkpoint(path)["run_name"] == "evil"
        return
    with pytest.raises(
        UserError, match=rf"evil\.last\.pt (is not a polymask|is not valid: {field} is missing)"
    ):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "value", ["text", None, True, -1, 0, 1.5, [1], {"a": {1: 2}}, {1: "a"}, torch.ones(2)]
)
@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_another_type_is_told_in_one_line(
    field: str, value: Any, content: dict[str, Any], project: Path
) -> None:
    right = {"ema": (None,), "run_name": ("text",), "split": ("text",), "split_sha256": ("text",)}
    right |= {"tracker_run_id": ("text",)}
    path = last_of(write_changed(project, content, lambda changed: changed.update({field: value})))
    if any(value is good or value == good for good in right.get(field, ()) if isinstance(value, str | None)):
        return
    if field in STATES and isinstance(value, dict):
        return
    with pytest.raises(
        UserError, match=rf"evil\.last\.pt is not valid: {field} is .*, and must be"
    ) as refused:
        load_checkpoint(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_configuration_without_a_section_is_told(
    section: str, content: dict[str, Any], project: Path
) -> None:
    for change in (lambda c: c["config"].pop(section), lambda c: put(c, f"config.{section}", "x")):
        path = write_changed(project, content, change)
        with pytest.raises(
            UserError, match=r"is not valid: config is a dict, and must be a configuration with"
        ):
            polymask.load(str(path))


@pytest.mark.parametrize(
    "training",
    [
        *({"epoch": -1}, {"epoch": "3"}, {"history": {}}, {"history": [{"epoch": "x"}]}, {"other": 1}),
        *({"points": {}}, {"points": [{"step": "x"}]}, {"window": []}, {"window": {"loss": "x"}}),
        {"window_batches": -1},
    ],
)
def test_a_course_that_is_none_is_told(
    training: dict[str, Any], content: dict[str, Any], project: Path
) -> None:
    path = write_changed(project, content, lambda changed: changed["training"].update(training))
    with pytest.raises(UserError, match="training is a dict, and must be the state of a training"):
        load_checkpoint(path)


def test_other_files_in_its_place_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    others = [b"", b"PK\x03\x04", pickle.dumps({"format": 1}), (tmp_path / "other.zip").read_bytes()]
    for other in others:
        path.write_bytes(other)
        with pytest.raises(UserError, match=r"x\.pt cannot be read \(\w+\): it is damaged, or src/train"):
            load_checkpoint(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"x\.pt is a folder; give a run_name"):
        load_checkpoint(path)


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda value: value.to(torch.complex64)])
@pytest.mark.parametrize("field", ["model", "ema"])
def test_weights_that_no_model_could_take_are_told(
    field: str, change: Any, content: dict[str, Any], project: Path
) -> None:
    weights = {field: {"w": change(torch.eye(3))}}
    path = write_changed(project, content, lambda changed: changed.update(weights))
    with pytest.raises(UserError, match=f"{field} is a dict, and must be a dict of dense tensors of real"):
        load_checkpoint(path)


def test_a_pickle_in_place_of_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "x.pt"
    for write in (
        lambda: path.write_bytes(pickle.dumps(Payload(marker))),
        lambda: torch.save({"format": 1, "model": Payload(marker)}, path),
        lambda: torch.save(Payload(marker), path, _use_new_zipfile_serialization=False),
    ):
        write()
        with pytest.raises(UserError, match="cannot be read"):
            polymask.load(str(path))
    assert not marker.exists()


def test_a_flipped_bit_of_a_checkpoint_is_one_line(content: dict[str, Any], project: Path) -> None:
    path = write_changed(project, content, lambda changed: None)
    whole = bytearray(path.read_bytes())
    key = next(key for key in content["model"] if key.endswith("running_mean"))
    place = whole.index(content["model"][key].numpy().tobytes()) + 5
    whole[place] ^= 16
    path.write_bytes(whole)
    for read in (load_checkpoint, stored_weights):
        with pytest.raises(UserError, match=r"cannot be read \(BadZipFile\): it is damaged"):
            read(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run_name", "../../../../somewhere"),
        ("run_name", "/tmp/somewhere"),
        ("run_name", ".hidden"),
        ("run_name", "a\nb"),
        ("tracker_run_id", "../../x"),
        ("parent_run", "../x"),
        ("class_names", ["MEL", "N\nV", "BKL"]),
    ],
)
def test_names_inside_the_file_lead_nowhere(
    field: str, value: Any, content: dict[str, Any], trained: Path, project: Path
) -> None:
    path = write_changed(project, content, lambda changed: changed.update({field: value}))
    images = trained / "lesions" / "images"
    with pytest.raises(UserError, match=f"{field} is .*, and must be"):
        run("infer", f"run_name={path}", f"data.data_dir={images}", "data.num_workers=0")
    assert not (project / "results").exists()


def test_ids_of_the_split_lead_nowhere(content: dict[str, Any], project: Path) -> None:
    first = content["split"].splitlines()[1].partition(",")[0]
    split = content["split"].replace(f"{first},", "../../../x,", 1)
    write_changed(project, content, lambda changed: changed.update(split=split))
    with pytest.raises(UserError, match=r"the split names '\.\./\.\./\.\./x'"):
        run("test", "run_name=evil")


@pytest.mark.parametrize("name", ["..pt", ".pt", "...pt", ".x.pt", "a\nb.pt"])
def test_a_file_that_cannot_name_a_run_is_refused(name: str, content: dict[str, Any], tmp_path: Path) -> None:
    with (tmp_path / name).open("wb") as file:
        torch.save(content, file)
    with pytest.raises(UserError, match="cannot be the name of a run; rename the file"):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["a.pt", "a.last.pt", "my model (1).pt", "epoch=3.pt", "run.v1.last.pt"])
def test_a_run_is_called_like_its_file(name: str) -> None:
    assert run_name_of(Path("x") / name) == name.removesuffix(".pt").removesuffix(".last")


def test_a_copy_is_a_run_of_its_own(
    content: dict[str, Any], project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    best = write_changed(project, content, lambda c: c.update(run_name="orig", tracker_run_id="ab12"), "fork")
    for path in (best, last_of(best)):
        found = load_checkpoint(path)
        assert (found["run_name"], found["parent_run"], found["tracker_run_id"]) == ("fork", "orig", "")
        assert found["config"]["run_name"] == "fork"
    assert "fork.last.pt was written by run orig; it is taken as a run of its own, fork" in caplog.text
    best.unlink()
    with pytest.raises(
        UserError, match=r"copy of run 'orig' without its best epoch; copy orig\.pt to .*fork\.pt"
    ):
        load_checkpoint(last_of(best))
