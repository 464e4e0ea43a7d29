"""Every YAML file of every group composes and builds what it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from configs import ABSTRACT, COMPANIONS, OPTIONS, composed, make_small
from instance_files import write_coco, write_label_maps
from isic_files import write_isic2016
from lesion_files import write_lesions
from omegaconf import DictConfig, OmegaConf
from volume_files import write_ctc, write_volume_folders

from polymask import factories
from polymask.fitting import check_fit
from polymask.run_config import _take_over, plain
from polymask.trust import check_config
from polymask.utils.paths import CONFIG_DIR

GROUPS = {
    "data": 16,
    "debug": 2,
    "experiment": 17,
    "loss": 13,
    "model": 6,
    "optimizer": 3,
    "scheduler": 7,
    "task": 6,
    "tracker": 4,
    "trainer": 2,
    "transforms": 8,
}
"""Number of files per group: a file added without a test of its own fails here first."""


def test_every_group_is_known_with_its_number_of_files() -> None:
    found = {
        folder.name: len(list(folder.rglob("*.yaml"))) for folder in CONFIG_DIR.iterdir() if folder.is_dir()
    }
    assert found == GROUPS


@pytest.mark.parametrize("option", [name for name in OPTIONS if name not in ABSTRACT])
def test_option_composes_and_builds(option: str, tmp_path: Path, project: Path) -> None:
    group, _, name = option.partition("/")
    others = [text for text in COMPANIONS.get(option, []) if not text.startswith(f"{group}=")]
    cfg = composed(*others, f"{group}={name}")
    cfg.data.data_dir = str(tmp_path / "files")
    check_config(plain(cfg), "its.pt")  # a checkpoint that holds it may name what it names
    write_files(cfg.data)
    make_small(cfg.model)
    built = build_all(cfg)
    assert built["schedule"] is not None
    assert built["optimizer"].param_groups


def write_files(data: DictConfig) -> None:
    """Write a data set of the layout that the configuration reads."""
    # Objects are made of the masks of another layout, whose reader is named inside.
    folder, reader = Path(data.data_dir), data.reader.get("masks", data.reader)._target_
    if "ctc_demo" in reader:
        data.reader.update({"num_frames": 5, "num_objects": 3, "shape": [8, 32, 32]})
    elif "ctc" in reader:
        write_ctc(folder, frames=5)
    elif "volume_folders" in reader:
        write_volume_folders(folder, volumes=12)
    elif "demo" in reader:
        data.reader.num_images = 42
    elif "ham10000" in reader:
        write_lesions(folder)
        data.classes = ["MEL", "NV", "BKL"] if "masks" not in data.reader else []
    elif "isic2016" in reader:
        write_isic2016(folder)
    elif "images" in reader:
        write_lesions(folder)
    elif "coco" in reader:
        write_coco(folder, num_images=12)
    else:
        write_label_maps(folder, num_images=12)


def build_all(cfg: DictConfig) -> dict[str, Any]:
    """Build all objects of a run, as `runs.train` does."""
    data = factories.build_data(cfg)
    family = factories.build_family(cfg, data.classes)
    check_fit(cfg, family)
    task = factories.build_task(cfg, family, class_counts=data.class_counts("train"), pretrained=True)
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


@pytest.mark.parametrize(
    "choice", ["experiment=nuclei_mask_rcnn", "experiment=unet_family_unet", "model=mobilenet_transposed"]
)
def test_overfit_goes_with_every_kind_of_model(choice: str, tmp_path: Path, project: Path) -> None:
    cfg = composed(choice, "debug=overfit")
    cfg.data.data_dir = str(tmp_path / "files")
    write_files(cfg.data)
    make_small(cfg.model)
    assert build_all(cfg)["trainer"].settings.patience is None


@pytest.mark.parametrize("loss", ["balanced", "balanced_softmax"])
def test_both_remedies_for_imbalance_warn(
    loss: str, lesion_folder: Path, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = ["model.encoder_name=tu-test_resnet", "model.encoder_weights=null"]
    cfg = composed(*network, f"loss={loss}", "data.sampler=weighted")
    family = factories.build_family(cfg, ["A", "B"])
    factories.build_task(cfg, family, class_counts=[3, 1], pretrained=True)
    assert "both balance the classes" in caplog.text


@pytest.mark.parametrize("experiment", ["isic2016_frozen", "unet_family_unet"])
def test_mixed_images_go_with_every_network_of_masks_and_classes(
    experiment: str, tmp_path: Path, project: Path
) -> None:
    mixing = ["task.mixing.mixup=0.5", "task.mixing.cutmix=0.5", "task.training_metrics=false"]
    cfg = composed(f"experiment={experiment}", *mixing)
    cfg.data.data_dir = str(tmp_path / "files")
    write_files(cfg.data)
    make_small(cfg.model)
    assert build_all(cfg)["task"].mixer.mixing.wanted == "task.mixing.mixup=0.5"


def test_data_of_objects_bring_transforms_that_do_not_double_them() -> None:
    assert composed("data=coco").transforms.affine.border_mode == 0
    assert composed("data=label_maps", "transforms=none").transforms == {}
    assert composed("experiment=microplastics_mask_rcnn").transforms.affine.border_mode == 0
    assert composed("data=demo").transforms.affine.border_mode == 4


def test_a_frozen_random_encoder_is_warned_of(caplog: pytest.LogCaptureFixture, project: Path) -> None:
    frozen = ["model.encoder_name=resnet18", "model.encoder_weights=null", "model.freeze_backbone=true"]
    cfg = composed(*frozen)
    family = factories.build_family(cfg, ["A", "B"])
    factories.build_task(cfg, family, pretrained=True)
    assert "keeps random weights" in caplog.text
    caplog.clear()
    factories.build_task(cfg, family, pretrained=False)  # weights follow
    assert "keeps random weights" not in caplog.text


@pytest.mark.parametrize(
    ("key", "on", "off"), [("calibration", "temperature", None), ("explain", True, False)]
)
def test_what_a_run_asked_for_may_be_taken_back(key, on, off):
    stored = OmegaConf.create({"task": {key: on}})
    _take_over(stored, key, off)
    assert stored.task[key] == off
    of_an_earlier_version = OmegaConf.create({"task": {}})
    _take_over(of_an_earlier_version, key, off)
    assert key not in of_an_earlier_version.task
    _take_over(of_an_earlier_version, key, on)
    assert of_an_earlier_version.task[key] == on
