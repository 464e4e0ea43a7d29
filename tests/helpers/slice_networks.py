"""Small Mask R-CNNs on slices, beside the 2-D network of `detectors`."""

from __future__ import annotations

import torch
from detectors import batch

from polymask.models.mask_rcnn.model import build_model as build_plain_model
from polymask.models.slices.model import build_model

SMALL = {
    "backbone": "tu-test_resnet",
    "weights": None,
    "channels": 16,
    "min_size": 64,
    "max_size": 96,
    "boxes_per_image": 16,
    "detections_per_image": 8,
    "num_classes": 1,
    "anchor_sizes": [8, 16, 32, 48, 64],
}


def build(name="centre", *, slices=3, seed=0, fusion=None, **options):
    torch.manual_seed(seed)
    return build_model(slices=slices, fusion={"name": name, **(fusion or {})}, **SMALL | options)


def build_plain(seed=0, **options):
    torch.manual_seed(seed)
    return build_plain_model(**SMALL | options)


def stacks_of(slices=3, **options):
    """Grey stacks with noise for neighbours, their middle slices in three channels, and their objects."""
    images, target = batch(**options)
    middles = [image.mean(dim=0) for image in images]
    generator = torch.Generator().manual_seed(3)
    stacks = []
    for middle in middles:
        stack = torch.rand(slices, *middle.shape, generator=generator)
        stack[slices // 2] = middle
        stacks.append(stack)
    for number, objects in enumerate(target):
        objects["labels"] = objects["labels"] * 0
        objects["numbers"] = torch.arange(len(objects["labels"])) + 5 + number
    return stacks, [middle.expand(3, -1, -1) for middle in middles], target


def disturb(network, seed=1):
    """Give the fusion, and what leads into it, weights that no rule would give."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.fusion.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
