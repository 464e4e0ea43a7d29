"""A checkpoint of a stranger runs no code: what its configuration names is judged before it is imported."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from strangers import checkpoint_of, entries, put, run, write_changed

import polymask
from polymask.errors import UserError
from polymask.trust import LISTED, allowed, check_config
from polymask.utils.paths import CONFIG_DIR


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that only a payload makes; beside it a pickle and a module that make it."""
    path = tmp_path / "payload ran"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "spy_module.py").write_text(
        f"import os, pathlib\npathlib.Path({str(path)!r}).touch()\ndef build(**options): return 'avg'\n"
    )
    (tmp_path / "p.pkl").write_bytes(pickle.dumps(Payload(Path("'" + str(path) + "'"))))
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.delitem(sys.modules, "spy_module", raising=False)
    return path


GADGETS: dict[str, Any] = {
    "pandas.read_pickle": {"filepath_or_buffer": "PICKLE"},
    "torch.load": {"f": "PICKLE", "weights_only": False},
    "joblib.load": {"filename": "PICKLE"},
    "pickle.loads": {"_args_": ["PICKLE"]},
    "numpy.load": {"file": "PICKLE", "allow_pickle": True},
    "shutil.copy": {"src": "PICKLE", "dst": "MARKER"},
    "os.system": {"command": "touch 'MARKER'"},
    "posix.system": {"command": "touch 'MARKER'"},
    "subprocess.run": {"args": ["touch", "MARKER"]},
    "subprocess.Popen": {"args": ["touch", "MARKER"]},
    "torch.utils.collect_env.run": {"command": "touch 'MARKER'"},
    "sympy.sympify": {"a": "open('MARKER', 'w')"},
    "mlflow.utils.process._exec_cmd": {"cmd": ["touch", "MARKER"]},
    "builtins.exec": {"_args_": ["open('MARKER', 'w')"]},
    "builtins.eval": {"_args_": ["open('MARKER', 'w')"]},
    "builtins.open": {"file": "MARKER", "mode": "w"},
    "hydra.utils.get_method": {"path": "spy_module.build"},
    "hydra.utils.get_class": {"path": "spy_module.build"},
    "hydra.utils.instantiate": {"config": {"_target_": "spy_module.build"}},
    "importlib.import_module": {"name": "spy_module"},
    "spy_module.build": {},
    "polymask.utils.provenance.subprocess.run": {"args": ["touch", "MARKER"]},
    "polymask.utils.files.write_text": {"path": "MARKER", "text": "x"},
    "polymask.data.demo.reader.write_demo_dataset": {"folder": "MARKER"},
    "polymask.data.demo.read_demo": {"data_dir": "MARKER", "classes": []},
    "albumentations.core.utils.warnings.sys.modules": {},
    "albumentations.load": {"filepath_or_buffer": "PICKLE"},
    "albumentations.Compose.from_pretrained": {"pretrained_model_name_or_path": "PICKLE"},
    "torch.optim.os.system": {"command": "touch 'MARKER'"},
    "torch.optim.optimizer.torch.load": {"f": "PICKLE", "weights_only": False},
}


def filled(value: Any, marker: Path) -> Any:
    """Put the paths of the pickle and the marker into the arguments of a gadget."""
    if isinstance(value, dict):
        return {key: filled(item, marker) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, marker) for item in value]
    if not isinstance(value, str):
        return value
    return value.replace("PICKLE", str(marker.parent / "p.pkl")).replace("MARKER", str(marker))


@pytest.fixture
def content(trained: Path) -> dict[str, Any]:
    return checkpoint_of(trained)


def gadget(name: str, marker: Path) -> dict[str, Any]:
    return {"_target_": name, **filled(GADGETS[name], marker)}


def assert_refused(refused: Any, target: str, marker: Path, known: set[str]) -> str:
    message = str(refused.value)
    assert not marker.exists()
    assert "\n" not in message
    for part in ("evil", repr(target), "run code", "POLYMASK_TRUSTED="):
        assert part in message
    assert not {target.rpartition(".")[0], "spy_module"} & (set(sys.modules) - known)
    return message


@pytest.mark.parametrize("target", GADGETS)
@pytest.mark.parametrize("key", ["model.head.pooling", "loss._target_", "transforms.flip"])
def test_no_gadget_runs(target: str, key: str, content: dict[str, Any], project: Path, marker: Path) -> None:
    node = gadget(target, marker)
    if key.endswith("_target_"):
        key, node = "loss", node
    path = write_changed(project, content, lambda changed: put(changed["config"], key, node))
    known = set(sys.modules)
    with pytest.raises(UserError) as refused:
        polymask.load(str(path), device="cpu")
    assert f"{key}._target_=" in assert_refused(refused, target, marker, known)


@pytest.mark.parametrize(
    "command", ["test", "infer", "resume", "init_from", "compare", "summarize", "review"]
)
@pytest.mark.parametrize("target", ["pandas.read_pickle", "spy_module.build"])
def test_every_way_from_a_checkpoint_to_objects_refuses(
    target: str, command: str, content: dict[str, Any], trained: Path, project: Path, marker: Path
) -> None:
    node = gadget(target, marker)
    path = write_changed(project, content, lambda c: put(c["config"], "model.head.pooling", node))
    known = set(sys.modules)
    with pytest.raises(UserError) as refused:
        run(*entries(path, trained / "lesions" / "images")[command])
    assert_refused(refused, target, marker, known)


HIDDEN = {
    "in a list": lambda node: put_in("data.classes", ["MEL", "NV", node]),
    "in lists of lists": lambda node: put_in("model.head.levels", [[[node]]]),
    "as a positional argument": lambda node: put_in(
        "loss.segmentation.dice.term",
        {"_target_": "polymask.losses.segmentation.DiceLoss", "_args_": [node]},
    ),
    "partial": lambda node: put_in("data.reader", {**node, "_partial_": True}),
    "not recursive": lambda node: put_in("model.head.pooling", {**node, "_recursive_": False}),
    "converted": lambda node: put_in("model.head.pooling", {**node, "_convert_": "object"}),
    "in a group of its own": lambda node: put_in("another", node),
    "at the top": lambda node: lambda config: config.update(node),
    "below a good one": lambda node: put_in("trainer.device", node),
    "among the transforms": lambda node: put_in(
        "transforms.x", {"_target_": "albumentations.OneOf", "transforms": [node]}
    ),
}


def put_in(key: str, value: Any) -> Any:
    return lambda config: put(config, key, value)


@pytest.mark.parametrize("where", HIDDEN)
def test_a_gadget_is_found_wherever_it_stands(
    where: str, content: dict[str, Any], project: Path, marker: Path
) -> None:
    change = HIDDEN[where](gadget("spy_module.build", marker))
    path = write_changed(project, content, lambda changed: change(changed["config"]))
    with pytest.raises(UserError, match="spy_module"):
        polymask.load(str(path), device="cpu")
    assert not marker.exists()


@pytest.mark.parametrize(
    "target", [7, None, "", "os", {"_target_": "os.system"}, ["os.system"], "\u043es.system"]
)
def test_a_target_that_is_no_name_is_refused(target: Any) -> None:
    with pytest.raises(UserError, match=r"model\._target_=.* is no constructor"):
        check_config({"model": {"_target_": target}}, "x.pt")


@pytest.mark.parametrize(
    "change",
    [
        # Called at once, it would draw its data wherever its own arguments say.
        put_in("data.reader", {"_target_": "polymask.data.demo.read_demo", "data_dir": "/x"}),
        put_in(
            "data.classes.reader",
            {"_target_": "polymask.data.sources.read_ham10000", "_partial_": True},
        ),
        put_in("model.head.pooling", {"_target_": "polymask.tracking.mlflow_tracker.MlflowTracker"}),
        put_in("loss.segmentation.dice.term", {"_target_": "polymask.training.trainer.Trainer"}),
    ],
)
def test_our_own_constructors_are_allowed_in_their_places_only(change: Any, content: dict[str, Any]) -> None:
    change(content["config"])
    with pytest.raises(
        UserError, match=r"_target_='polymask\..* is no constructor that a file may name there"
    ):
        check_config(content["config"], "x.pt")


def test_every_allowed_name_is_a_constructor_by_its_own_name() -> None:
    text = "\n".join(path.read_text() for path in CONFIG_DIR.rglob("*.yaml"))
    named = {part.split("}")[0].split(",")[0].split()[0] for part in text.split("_target_: ")[1:]}
    assert len(named) > 30
    for name in named:
        module, _, attribute = name.rpartition(".")
        found = getattr(importlib.import_module(module), attribute)
        assert found.__qualname__ == attribute
        assert found.__module__.startswith("albumentations." if "albumentations" in name else module)
    for names in LISTED.values():
        for name in names:
            module, _, attribute = name.rpartition(".")
            assert issubclass(getattr(importlib.import_module(module), attribute), torch.nn.Module)
    assert allowed(("model", 2, "head", False)) == set()


@pytest.mark.parametrize(
    ("group", "node", "is_allowed"),
    [
        ("optimizer", "torch.optim.RMSprop", True),
        ("optimizer", "torch.optim.adamw.AdamW", True),
        ("optimizer", "torch.optim.Adafactor", True),
        ("optimizer", "torch.optim.lr_scheduler.StepLR", False),
        ("optimizer", "torch.optim.optimizer.OrderedDict", False),
        ("optimizer", "torch.optim.AdamW.load_state_dict", False),
        ("transforms.x", "albumentations.GaussNoise", True),
        ("transforms.x", "albumentations.pytorch.ToTensorV2", True),
        ("transforms.x", "albumentations.Compose", True),
        ("transforms.x", "albumentations.core.composition.np.load", False),
        ("transforms.x", "albumentations.from_dict", False),
        ("transforms.x", "torch.optim.AdamW", False),
        ("model", "torch.nn.Linear", False),
    ],
)
def test_of_libraries_subclasses_are_allowed_by_their_own_names(
    group: str, node: str, is_allowed: bool
) -> None:
    config: dict[str, Any] = {}
    put(config, group, {"_target_": node})
    if is_allowed:
        check_config(config, "x.pt")
    else:
        with pytest.raises(UserError, match="is no constructor"):
            check_config(config, "x.pt")


@pytest.mark.parametrize("trusted", ["spy_module", "other, spy_module ,", "spy_module.build"])
def test_own_code_is_trusted_by_name(trusted: str, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMASK_TRUSTED", trusted)
    check_config({"model": {"_target_": "spy_module.build"}}, "x.pt")


@pytest.mark.parametrize("trusted", ["", "spy", "spy_modul", "spy_module.other", "spy_module_2", "*", "."])
def test_a_part_of_a_name_trusts_nothing(trusted: str, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMASK_TRUSTED", trusted)
    with pytest.raises(UserError, match="POLYMASK_TRUSTED=spy_module"):
        check_config({"model": {"_target_": "spy_module.build"}}, "x.pt")
    assert not marker.exists()


def test_what_a_trusted_module_imports_is_not_trusted(marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMASK_TRUSTED", "spy_module")
    with pytest.raises(UserError, match=r"'spy_module\.os\.system'"):
        check_config({"model": {"_target_": "spy_module.os.system"}}, "x.pt")


@pytest.mark.parametrize(
    "value", ["${oc.env:SECRET_OF_THIS_USER}", "${hydra:runtime.cwd}", "x ${seed}", "\\${oc.env:A}", "???"]
)
@pytest.mark.parametrize("key", ["task.monitor", "model.head.pooling", "note"])
def test_interpolations_are_never_resolved(
    key: str, value: str, content: dict[str, Any], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THIS_USER", "swordfish")
    path = write_changed(project, content, lambda changed: put(changed["config"], key, value))
    with pytest.raises(UserError, match="would be replaced by something of this machine") as refused:
        polymask.load(str(path))
    assert "swordfish" not in str(refused.value)


def test_keys_are_looked_at_like_values() -> None:
    for key in ("${oc.env:HOME}", 1.5, ("a",), None, "_method_"):
        with pytest.raises(UserError, match="configuration is not valid"):
            check_config({"model": {key: 1}}, "x.pt")


def test_traps_for_whoever_walks_through_are_noticed() -> None:
    deep: list[Any] = []
    for _ in range(50):
        deep = [deep]
    loop: list[Any] = []
    loop.append(loop)
    wide: list[Any] = ["x"]
    for _ in range(30):
        wide = [wide] * 10
    for trap in (deep, loop, wide):
        with pytest.raises(UserError, match="too large or nested too deeply"):
            check_config({"model": {"head": trap}}, "x.pt")


def test_yaml_beside_a_checkpoint_changes_nothing(trained: Path, project: Path, marker: Path) -> None:
    path = write_changed(project, checkpoint_of(trained, whole=True), lambda changed: None)
    gadget = f"!!python/object/apply:os.system ['touch \"{marker}\"']"
    evil = f"model: {{_target_: spy_module.build}}\nrun_name: ../../x\nloss: {gadget}\n"
    for name in ("evil.yaml", "config.yaml"):
        path.with_name(name).write_text(evil)
    assert polymask.load(str(path), device="cpu").run_name == "evil"
    result = run("test", "run_name=evil", "tracker=none")
    assert result.folder == project / "results" / "test" / "evil"
    assert not marker.exists()


def test_only_the_one_reader_unpickles_and_only_the_factories_instantiate() -> None:
    source = {
        str(path.relative_to(Path(polymask.__file__).parent)): path.read_text()
        for path in Path(polymask.__file__).parent.rglob("*.py")
    }
    assert [name for name, text in source.items() if "torch.load(" in text] == ["utils/archives.py"]
    assert {name for name, text in source.items() if "read_tensors(" in text} == {
        "utils/archives.py",
        "training/checkpoint.py",
        "models/weights.py",
    }
    builder = re.compile(r"from hydra.utils import .*\binstantiate\b")
    assert [name for name, text in source.items() if builder.search(text)] == ["factories.py"]
