"""Every YAML file of every group composes and builds what it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from polymask import factories
from polymask.utils.paths import CONFIG_DIR

GROUPS = {
    "data": 3,
    "debug": 2,
    "experiment": 2,
    "loss": 7,
    "model": 1,
    "optimizer": 3,
    "scheduler": 6,
    "task": 3,
    "tracker": 2,
    "trainer": 2,
    "transforms": 3,
}
"""Number of files per group: a file added without a test of its own fails here first."""

ABSTRACT = {"data/image_mask"}
"""Parts of other files, not options of a run."""

OPTIONS = sorted(
    str(path.relative_to(CONFIG_DIR).with_suffix(""))
    for path in CONFIG_DIR.rglob("*.yaml")
    if path.parent != CONFIG_DIR
)


def composed(*overrides: str) -> DictConfig:
    OmegaConf.register_new_resolver("project_root", lambda: ".", replace=True)
    OmegaConf.register_new_resolver("run_dir", lambda parent: parent, replace=True)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def test_every_group_is_known_with_its_number_of_files() -> None:
    found = {
        folder.name: len(list(folder.rglob("*.yaml"))) for folder in CONFIG_DIR.iterdir() if folder.is_dir()
    }
    assert found == GROUPS


@pytest.mark.parametrize("option", [name for name in OPTIONS if name not in ABSTRACT])
def test_option_composes_and_builds(option: str, lesion_folder: Path, project: Path) -> None:
    group, _, name = option.partition("/")
    fast = ["model.encoder_name=resnet18", "model.encoder_weights=null", "data.classes=[MEL,NV,BKL]"]
    cfg = composed(f"{group}={name}", *fast, "data.image_size=64")
    cfg.data.data_dir = str(lesion_folder)
    cfg.data.reader = composed().data.reader
    built = build_all(cfg)
    assert built["schedule"] is not None
    assert built["optimizer"].param_groups


def build_all(cfg: DictConfig) -> dict[str, Any]:
    """Build all objects of a run, as `runs.train` does."""
    data = factories.build_data(cfg)
    task = factories.build_task(
        cfg, class_names=data.classes, class_counts=data.class_counts("train"), pretrained=True
    )
    optimizer = factories.build_optimizer(cfg, task)
    return {
        "task": task,
        "optimizer": optimizer,
        "schedule": factories.build_schedule(cfg, optimizer, steps_per_epoch=5, mode=task.mode),
        "trainer": factories.build_trainer(cfg),
        "tracker": factories.build_tracker(cfg),
    }


def test_groups_show_their_own_values() -> None:
    cfg = composed("trainer=cpu_small", "data=demo")
    assert (cfg.trainer.device, cfg.model.encoder_weights, cfg.data.data_dir) == ("cpu", None, "data/demo")
    # The command line wins over what a group sets.
    assert composed("trainer=cpu_small", "model.encoder_name=resnet34").model.encoder_name == "resnet34"


def test_both_remedies_for_imbalance_warn(
    lesion_folder: Path, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = composed(
        "model.encoder_name=resnet18", "model.encoder_weights=null", "loss=balanced", "data.sampler=weighted"
    )
    factories.build_task(cfg, class_names=["A", "B"], class_counts=[3, 1], pretrained=True)
    assert "both balance the classes" in caplog.text
