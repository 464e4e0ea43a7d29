from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from polymask.errors import UserError
from polymask.families.instances.family import Family
from polymask.families.instances.loss import Loss
from polymask.models.classical import build_model
from polymask.structures import rle


def batch() -> dict:
    """One image with a dark square, which is its one object, and an even one without any."""
    image = torch.full((60, 80, 3), 200, dtype=torch.uint8)
    image[20:40, 30:60] = 60
    mask = torch.zeros(1, 60, 80, dtype=torch.uint8)
    mask[0, 20:40, 30:60] = 1
    boxes = torch.tensor([[30.0, 20.0, 60.0, 40.0]])
    some = {
        "boxes": boxes,
        "labels": torch.zeros(1, dtype=torch.long),
        "masks": mask,
        "crowd": torch.zeros(1).bool(),
    }
    none = {name: values[:0] for name, values in some.items()}
    return {"ids": ["a", "b"], "image": [image, torch.full_like(image, 90)], "target": [some, none]}


def test_the_region_is_the_one_object_of_its_image() -> None:
    family = Family(class_names=["spot"])
    task = family.build_task(build_model=build_model, build_loss=Loss, class_counts=None)
    found, nothing = task.evaluation_step(batch())
    truth = batch()["target"][0]["masks"][0].numpy() > 0
    mask = rle.decode(found.masks[0]) > 0
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9
    assert (found.labels.tolist(), found.scores.tolist()) == ([0], [1.0])
    assert (len(nothing), nothing.size) == (0, (60, 80))
    metrics = family.scorer.point_estimates(task.evaluation())
    assert metrics["mask_ap50"] == pytest.approx(1)
    assert metrics["count_error"] == 0
    again = family.application({"batch_size": 2}, {}).predict(task, batch())
    assert again[0].masks == found.masks


def test_as_a_mask_it_is_sure_of_every_pixel() -> None:
    model = build_model(num_masks=1, num_classes=0)
    images = torch.stack([image.permute(2, 0, 1) / 255 for image in batch()["image"]])
    logits = model(images)["mask_logits"]
    assert logits.shape == (2, 1, 60, 80)
    np.testing.assert_array_equal(logits[0, 0] > 0, model.predict(images)[0])
    assert torch.equal(logits[1], torch.full((1, 60, 80), -10.0))


@pytest.mark.parametrize("outputs", [{"num_classes": 2}, {"num_masks": 4, "num_classes": 3}])
def test_it_knows_no_classes(outputs: dict) -> None:
    with pytest.raises(UserError, match="the baseline finds one region and knows no classes"):
        partial(build_model, **outputs)()
