"""The configuration of a run: its name, its stored form, and what a later command may change in it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from polymask.errors import UserError
from polymask.utils.files import write_text

log = logging.getLogger(__name__)

ANYTIME = (
    "run_name",
    "local_save_dir",
    "data.data_dir",
    "data.num_workers",
    "data.cache_dir",
    "trainer.device",
    "trainer.threads",
    "tracker",
    "preview_epochs",
    "preview_images",
    "running_metrics",
)
"""Keys that change neither the course of a run nor what it is: names, places, machinery."""
RESUME_MAY_CHANGE = (
    *ANYTIME,
    "resume",
    "epochs",
    "trainer.patience",
    "trainer.log_every_steps",
    "test_after_training",
)
"""Keys whose change leaves the course of an interrupted run as it was."""
TEST_MAY_CHANGE = (
    *ANYTIME,
    "data.batch_size",
    "data.eval_batch_size",
    "data.pixel_size",
    "data.voxel_size",
    "data.reader",
    "data.crowd",
    "data.split_file",
    "data.corrections",
    "data.mask_values",
    "data.mask_orientation",
    "data.subgroups",
    "data.subgroup_bands",
    "data.smallest_subgroup",
    "data.attribute_table",
    "task.linking",
    "task.surface_tolerances",
    "trainer.precision",
    "trainer.limit_batches",
    "out_of_fold",
    "calibration",
    "explain",
    "task.calibration",
    "task.class_groups",
    "task.operating_points",
    "task.score_threshold",
)
"""Keys that a test may set, because the weights stay what they are."""
_OF_EVERY_INFERENCE = {"data.data_dir", "data.file_list", "data.batch_size", "data.num_workers"}
_OF_THE_FAMILY = ("data", "task", "tta", "calibration", "abstain_below", "explain")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the resolved configuration as plain containers."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def chosen_groups() -> dict[str, str]:
    """Return the chosen option of every configuration group, such as {"data": "demo"}."""
    if not HydraConfig.initialized():
        return {}
    choices = HydraConfig.get().runtime.choices
    return {name: str(choice) for name, choice in choices.items() if not name.startswith("hydra/")}


def typed_overrides() -> list[str]:
    """Return the keys that were given on the command line."""
    if not HydraConfig.initialized():
        return []
    return [re.split("=", text.lstrip("+~"))[0].split("@")[0] for text in HydraConfig.get().overrides.task]


def stored_config(
    content: Mapping[str, Any],
    cfg: DictConfig,
    *,
    may_change: Sequence[str],
    command: str,
) -> DictConfig:
    """Return the configuration of a stored run with what was typed now on top.

    Args:
        content: A checkpoint of the run, with its `config` and its choice of `groups`.
        cfg: The configuration of this command.
        may_change: Keys (or the start of keys) that this command may change.
        command: Name of the command, for the message.

    Raises:
        UserError: A typed key would change what must stay.
    """
    result, groups = OmegaConf.create(content["config"]), content["groups"]
    choices = chosen_groups()
    for key, place in content.get("moved", {}).items():
        if not _is_below(key, typed_overrides()):
            log.warning(
                "%s=%s of the checkpoint lies outside of the project, so %s is used; type %s=%s to use it.",
                key,
                place,
                OmegaConf.select(result, key) or "the default",
                key,
                place,
            )
    for key in typed_overrides():
        if key in choices:
            old, new = groups.get(key, "None"), choices[key]
        else:
            old, new = OmegaConf.select(result, key), OmegaConf.select(cfg, key)
            if _is_below(key, may_change):
                OmegaConf.update(result, key, new)
                _take_over(result, key, new)
                continue
        if key == "tracker" and new != old:
            result.tracker = cfg.tracker
        elif old != new:
            raise UserError(
                f"{command} keeps the run's {key}={old} and cannot change it to {new}. It may "
                f"change: {', '.join(may_change)}. For another setting "
                "start a new run, with init_from= to keep weights."
            )
    return result


def family_options(cfg: DictConfig) -> dict[str, Any]:
    """Return what of an inference's configuration is for the family of the run, which knows its own keys."""
    values = {name: value for name, value in plain(cfg).items() if name in _OF_THE_FAMILY}
    return {key: value for key, value in flatten(values).items() if key not in _OF_EVERY_INFERENCE}


def _take_over(config: DictConfig, key: str, value: Any) -> None:
    """Let the task have a value that its file takes from elsewhere, by the same name."""
    section, _, name = key.rpartition(".")
    # Tasks of earlier versions have neither of the two yet, and need none where false or null is typed.
    is_asked = key in ("calibration", "explain") and value
    if (section in ("", "data") and name in config.task) or is_asked:
        config.task[name] = value


def _is_below(key: str, parents: Iterable[str]) -> bool:
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)


def write_config(cfg: DictConfig, *paths: Path) -> None:
    """Write the resolved configuration as YAML."""
    text = OmegaConf.to_yaml(OmegaConf.create(plain(cfg)))
    for path in paths:
        write_text(path, text)
