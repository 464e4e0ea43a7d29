"""The options of the configuration, and what goes with each."""

from __future__ import annotations

import operator
from copy import deepcopy
from functools import cache

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from polymask.utils.paths import CONFIG_DIR

ABSTRACT = {"data/image_mask", "data/instances", "data/volumes"}
"""Parts of other files, not options of a run."""

SEMANTIC = ["task=segmentation", "data=coco_masks"]
OBJECTS = ["task=instance", "model=mask_rcnn", "loss=mask_rcnn", "data=coco"]
VOLUMES = ["task=volumes", "model=slice_mask_rcnn", "loss=volumes", "data=ctc"]
PRETRAINING = ["task=pretraining", "model=vit_mae", "loss=reconstruction", "data=unlabelled"]
COMPANIONS = {
    **dict.fromkeys(["data/coco", "data/label_maps"], OBJECTS),
    **dict.fromkeys(["task/instance", "model/mask_rcnn", "loss/mask_rcnn", "transforms/instance"], OBJECTS),
    **dict.fromkeys(["data/coco_masks", "data/label_map_masks", "model/unet_family", "loss/bce"], SEMANTIC),
    **dict.fromkeys(
        [
            "task/pretraining",
            "model/vit_mae",
            "loss/reconstruction",
            "data/unlabelled",
            "transforms/pretraining",
        ],
        PRETRAINING,
    ),
    **dict.fromkeys(["data/ctc", "data/ctc_demo", "data/stacks", "transforms/volumes"], VOLUMES),
    **dict.fromkeys(["task/volumes", "model/slice_mask_rcnn", "loss/volumes"], VOLUMES),
    "data/isic2016": SEMANTIC[:1],
    **dict.fromkeys(["data/lesion_objects", "data/isic_objects", "transforms/lesion_objects"], OBJECTS),
}
"""What an option needs beside it."""

SMALL = {
    "encoder_name": "tu-test_resnet",
    "encoder_weights": None,
    "backbone": "tu-test_resnet",
    "weights": None,
    "size": "tiny",
    "decoder_depth": 1,
    "decoder_channels": [16, 16, 16, 16, 16],
}
"""Values of models that are small and need no download, where a model has the key."""

SMALL_VIT = {"backbone": "test_vit", "taps": [1, 3, 4, 6]}

OPTIONS = sorted(
    str(path.relative_to(CONFIG_DIR).with_suffix(""))
    for path in CONFIG_DIR.rglob("*.yaml")
    if path.parent != CONFIG_DIR
)


def make_small(model: DictConfig) -> None:
    """Replace what makes a model large, or what it would download."""
    is_vit = str(model.get("backbone")).startswith("vit_")
    for key, value in (SMALL | (SMALL_VIT if is_vit else {})).items():
        if key in model:
            model[key] = value
    if "channels" in model:  # one number, or one per level
        model.channels = 8 if isinstance(model.channels, int) else [8] * len(model.channels)


def composed(*overrides: str) -> DictConfig:
    """Return the configuration of a training with overrides, to be changed at will."""
    OmegaConf.register_new_resolver("project_root", lambda: ".", replace=True)
    OmegaConf.register_new_resolver("run_dir", lambda parent: parent, replace=True)
    OmegaConf.register_new_resolver("equal", operator.eq, replace=True)
    return deepcopy(_composed(*overrides))


@cache  # several tests look at every option
def _composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("config", overrides=list(overrides))
