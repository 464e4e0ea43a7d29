"""Keys whose value is text: they take what is typed, whatever Hydra's grammar would read into it.

Without this, `run_name=20251203_0016` is the number 202512030016, `1e5` is 100000.0, and `=`, `(` or `~` in
a path are errors. So these values get Hydra's quotes first, and the shell's are all that one types.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.types import Quote, QuotedString

TEXT_KEYS = frozenset(
    {
        "calibration",
        "run_name",
        "init_from",
        "group_column",
        "group_pattern",
        "group_table",
        "local_save_dir",
        "run_a",
        "run_b",
        "source",
        "target",
        "data_dir",
        "test_dir",
        "data.attribute_table",
        "data.data_dir",
        "data.file_list",
        "data.cache_dir",
        "data.corrections",
        "data.crowd",
        "data.fit",
        "data.mask_orientation",
        "data.split_file",
        "data.sampler",
        "data.segmentation",
        "data.reader.annotations",
        "data.reader.crowd",
        "data.reader.group_column",
        "data.reader.group_pattern",
        "data.reader.group_table",
        "data.reader.masks.memory_dir",
        "data.reader.memory_dir",
        "data.reader.split",
        "data.reader.truth",
        "loss.class_weights",
        "loss.weighting",
        "model.backbone",
        "model.encoder_name",
        "model.encoder_weights",
        "model.model",
        "model.neck",
        "model.norm",
        "model.normalization",
        "model.size",
        "model.weights",
        "path",
        "task.calibration",
        "task.class_weights",
        "task.fit",
        "task.mode",
        "task.monitor",
        "task.segmentation",
        "tracker.experiment",
        "tracker.folder",
        "tracker.mlflow.experiment",
        "tracker.mlflow.tracking_uri",
        "tracker.tensorboard.folder",
        "tracker.tracking_uri",
        "trainer.device",
        "trainer.precision",
    }
)
"""Keys of one text. A test looks at the arguments of all that the YAML files build for missing ones."""

TEXT_LIST_KEYS = frozenset(
    {
        "classes",
        "data.classes",
        "data.reader.sequences",
        "data.subgroups",
        "runs",
        "running_metrics",
        "task.monitors",
    }
)
"""Keys of a list of texts."""

_OVERRIDE = re.compile(r"(?P<key>\+{0,2}(?P<name>[\w.]+))=(?P<value>.*)", re.DOTALL)
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_SWEEP_FUNCTION = re.compile(r"(?:choice|range|interval|glob|shuffle|sort|tag)\(.*\)", re.DOTALL)
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


def quoted_overrides(overrides: Sequence[str], *, sweep: bool) -> list[str]:
    """Return a command line with the values of text keys in Hydra's quotes.

    Args:
        overrides: The command line, such as `["run_name=1e5", "epochs=3"]`.
        sweep: Commas between values mean one run each (`-m`), rather than a comma in the text.
    """
    return [_quoted_override(text, sweep=sweep) for text in overrides]


def quote(text: str) -> str:
    """Return `text` as Hydra's grammar takes any text."""
    return QuotedString(text, Quote.single).with_quotes()


def _quoted_override(text: str, *, sweep: bool) -> str:
    match = _OVERRIDE.fullmatch(text)
    if match is None or match["name"] not in TEXT_KEYS | TEXT_LIST_KEYS:
        return text
    value, one = match["value"], _list_value if match["name"] in TEXT_LIST_KEYS else _text_value
    if not sweep:
        return f"{match['key']}={one(value)}"
    if _SWEEP_FUNCTION.fullmatch(value):
        return text
    return f"{match['key']}={','.join(one(part) for part in _parts(value))}"


def _text_value(value: str) -> str:
    """Return one text in quotes; null, interpolations and what is empty or quoted stay as they are."""
    as_it_is = value in ("", "null") or "${" in value or _QUOTED.fullmatch(value)
    return value if as_it_is else quote(value)


def _list_value(value: str) -> str:
    """Return `[a,b]` with quotes around its texts; anything but a list stays as it is."""
    if not (value.startswith("[") and value.endswith("]")):
        return value
    return f"[{','.join(_text_value(part) for part in _parts(value[1:-1]))}]"


def _parts(value: str) -> Iterator[str]:
    """Yield what stands between the commas that are in no quotes and no brackets."""
    part, closing, quotes = "", [], ""
    for letter in value:
        if quotes:
            quotes = "" if letter == quotes and not part.endswith("\\") else quotes
        elif letter in "'\"" and not part.strip():
            quotes = letter
        elif letter in _BRACKETS:
            closing.append(_BRACKETS[letter])
        elif closing and letter == closing[-1]:
            closing.pop()
        elif letter == "," and not closing:
            yield part.strip()
            part = ""
            continue
        part += letter
    yield part.strip()
