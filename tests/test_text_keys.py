"""Text keys take what is typed; which keys are text follows from what the YAML files build."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from polymask.text_keys import TEXT_KEYS, TEXT_LIST_KEYS, quote, quoted_overrides
from polymask.utils.paths import CONFIG_DIR

FROM_CODE = {
    "data.reader.classes",
    "data.reader.data_dir",
    "data.reader.masks.classes",
    "scheduler.mode",
    "task.class_names",
}
"""Arguments that the code gives, so nobody types them."""


def composed(*overrides: str) -> DictConfig:
    OmegaConf.register_new_resolver("project_root", lambda: ".", replace=True)
    OmegaConf.register_new_resolver("run_dir", lambda parent: parent, replace=True)
    OmegaConf.register_new_resolver("equal", operator.eq, replace=True)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("config", overrides=quoted_overrides(overrides, sweep=False))


def annotated(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Every argument of what a node and those below it build, with its annotation."""
    for key in node:
        below = node._get_node(key)
        if isinstance(below, DictConfig):
            yield from annotated(below, f"{prefix}{key}.")
    target = str(node._get_node("_target_") or "")
    if target.startswith("polymask"):
        found = get_object(target)
        parents = inspect.getmro(found) if inspect.isclass(found) else ()
        for function in [vars(p)["__init__"] for p in parents if "__init__" in vars(p)] or [found]:
            if function is not object.__init__:
                for parameter in inspect.signature(function).parameters.values():
                    yield f"{prefix}{parameter.name}", str(parameter.annotation)


def test_all_texts_that_the_configurations_build_with_are_in_the_table() -> None:
    texts, lists = set(), set()
    for path in CONFIG_DIR.glob("*/*.yaml"):
        for key, annotation in annotated(OmegaConf.load(path), f"{path.parent.name}."):
            if annotation in ("str", "str | None", "str | Path", "str | Path | None"):
                texts.add(key)
            elif annotation.startswith(("Sequence[str]", "list[str]")):
                lists.add(key)
    assert len(texts) > 20
    assert texts - FROM_CODE <= TEXT_KEYS, "add these keys to TEXT_KEYS"
    assert lists - FROM_CODE <= TEXT_LIST_KEYS, "add these keys to TEXT_LIST_KEYS"


TYPED = [
    "20251203_0016", "1e5", "2018_07", "2025", "true", "007", "a,b", "NULL", "~/ham", "/d/HAM (1)",
    "models/epoch=3.pt", "a_lr=0.1", "it's", r"(\d+)_'x", r"(.+)\'", "a\\", "[1,2]", "{a:1}", " x ", "ü",
    "50%",
]  # fmt: skip


@pytest.mark.parametrize("text", TYPED)
def test_text_arrives_as_typed(text: str) -> None:
    overrides = quoted_overrides([f"run_name={text}", f"++data.data_dir={text}"], sweep=False)
    first, second = OverridesParser.create().parse_overrides(overrides)
    for parsed in (first, second):
        assert getattr(parsed.value(), "text", parsed.value()) == text


def test_null_quotes_and_interpolations_keep_their_meaning() -> None:
    typed = ["run_name=null", "init_from='a b'", 'local_save_dir="x=1"', "seed=7", "data.data_dir=d${seed}"]
    cfg = composed(*typed)
    assert (cfg.run_name, cfg.init_from, cfg.local_save_dir, cfg.seed) == (None, "a b", "x=1", 7)
    assert cfg.data.data_dir == "d7"


def test_lists_of_text() -> None:
    assert composed("data.classes=[MEL,1e5,007,Film (blue),'a,b']").data.classes == [
        "MEL",
        "1e5",
        "007",
        "Film (blue)",
        "a,b",
    ]
    assert composed("data.classes=[]").data.classes == []


@pytest.mark.parametrize(
    ("typed", "runs"),
    [
        ("run_name=a,1e5, b", ["a", "1e5", "b"]),
        ("run_name='x,y',z", ["x,y", "z"]),
        ("run_name=choice(a,b)", ["a", "b"]),
        ("data.data_dir=/d/HAM (1,2),/e", ["/d/HAM (1,2)", "/e"]),
    ],
)
def test_in_a_sweep_commas_stand_between_runs(typed: str, runs: list[str]) -> None:
    (override,) = OverridesParser.create().parse_overrides(quoted_overrides([typed], sweep=True))
    assert [text.strip("'") for text in override.sweep_string_iterator()] == runs


def test_a_sweep_of_lists() -> None:
    typed = quoted_overrides(["data.classes=[A,B],[A,1e5]"], sweep=True)
    (override,) = OverridesParser.create().parse_overrides(typed)
    assert list(override.sweep_string_iterator()) == ["['A','B']", "['A','1e5']"]


def test_other_keys_are_left_alone() -> None:
    typed = ["epochs=1e5", "~data.reader", "seed=1,2", "data=demo"]
    assert quoted_overrides(typed, sweep=True) == typed
    assert quote("it's") == r"'it\'s'"
