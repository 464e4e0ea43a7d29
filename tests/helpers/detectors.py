"""Small Mask R-CNNs, and images of bright squares that they can learn from."""

from __future__ import annotations

import torch

from polymask.models.mask_rcnn.model import build_model


def build(**options):
    small = {"backbone": "tu-test_resnet", "weights": None, "channels": 16, "min_size": 64, "max_size": 128}
    small |= {"hidden_size": 16, "boxes_per_image": 32, "detections_per_image": 20}
    torch.manual_seed(options.pop("seed", 0))
    return build_model(**{**small, "num_classes": 2, "anchor_sizes": [8, 16, 32, 48, 64], **options})


def batch(numbers=(3, 1), sizes=((64, 80), (70, 52))):
    """Images with bright squares, and their objects."""
    generator = torch.Generator().manual_seed(2)
    images = [torch.rand(3, *size, generator=generator) * 0.3 for size in sizes]
    target = []
    for image, number in zip(images, numbers, strict=True):
        boxes = torch.tensor([[4.0, 6, 24, 30], [30, 10, 50, 44], [10, 36, 40, 60]])[:number]
        masks = torch.zeros(number, *image.shape[1:], dtype=torch.uint8)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = 1
            image[:, y0:y1, x0:x1] += 0.6
        labels = torch.arange(number) % 2
        crowd = torch.zeros(number, dtype=torch.bool)
        target.append({"boxes": boxes, "labels": labels, "masks": masks, "crowd": crowd})
    return images, target


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **tolerance)


def copies(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def train_one_step(network, images, target):
    network.train()
    parameters = [*network.encoder_parameters(), *network.other_parameters()]
    optimizer = torch.optim.SGD(parameters, lr=1e-3)
    sum(network(images, target).values()).backward()
    optimizer.step()
    optimizer.zero_grad()
