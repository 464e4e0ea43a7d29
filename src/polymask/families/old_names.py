"""Checkpoints of earlier formats: what has another name today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMES_OF_FORMAT_1: Mapping[str, str] = {
    "polymask.tasks.multitask.build_task": "polymask.families.multitask.Family",
    "polymask.tasks.instance.build_task": "polymask.families.instances.Family",
    "polymask.losses.multitask.MultitaskLoss": "polymask.families.multitask.Loss",
    "polymask.losses.instance.InstanceLoss": "polymask.families.instances.Loss",
    "polymask.models.smp_models.build_model": "polymask.models.mask_class.build_smp",
    "polymask.models.unet_family.build_model": "polymask.models.mask_class.build_unet",
    "polymask.models.mask_rcnn.build_model": "polymask.models.mask_rcnn.build_model",
    "polymask.data.module.ImageMaskData": "polymask.families.multitask.Samples",
    "polymask.data.semantic.ObjectMaskData": "polymask.families.multitask.Samples",
    "polymask.data.instance_module.InstanceData": "polymask.families.instances.Samples",
    "polymask.data.ham10000.read_records": "polymask.data.sources.read_ham10000",
    "polymask.data.isic2016.read_records": "polymask.data.sources.read_isic2016",
    "polymask.data.coco.read_records": "polymask.data.sources.read_coco",
    "polymask.data.semantic.read_coco": "polymask.data.sources.read_coco",
    "polymask.data.label_maps.read_records": "polymask.data.sources.read_label_maps",
    "polymask.data.semantic.read_label_maps": "polymask.data.sources.read_label_maps",
    "polymask.data.synthetic.read_records": "polymask.data.demo.read_demo",
}

_OPTIONS_OF_FORMAT_1: Mapping[str, Mapping[str, Any]] = {
    # The union of objects needs no single ones, so its reader never asked what an object is.
    "polymask.data.semantic.read_label_maps": {"split": "values"},
}
"""Old name -> options that its successor must be told."""


def update_names(config: Mapping[str, Any]) -> None:
    """Give a configuration of format 1 today's names, where it names something of ours that has moved.

    Args:
        config: A stored configuration, not checked yet; it is changed.
    """
    for section in ("task", "loss", "model", "data"):
        node = config[section]
        for part in (node, node.get("reader")):
            old = part.get("_target_") if isinstance(part, dict) else None
            if isinstance(old, str) and old in _NAMES_OF_FORMAT_1:
                part.update(_OPTIONS_OF_FORMAT_1.get(old, {}), _target_=_NAMES_OF_FORMAT_1[old])


def name_today(old: str) -> str | None:
    """Return what a name of format 1 has become, None when it was none."""
    return _NAMES_OF_FORMAT_1.get(old)
