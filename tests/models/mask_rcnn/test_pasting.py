from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from polymask.models.mask_rcnn.pasting import paste_masks, to_predictions
from polymask.structures import rle

SIZE = (45, 61)

BOXES = {
    "inside": [5.2, 7.9, 30.1, 25.5],
    "whole image": [0.0, 0.0, 61.0, 45.0],
    "over the left and upper edge": [-12.7, -3.2, 9.8, 8.1],
    "over the right and lower edge": [50.5, 30.5, 75.2, 60.0],
    "smaller than a pixel": [20.4, 20.4, 20.6, 20.7],
    "flat": [3.0, 10.0, 55.0, 10.9],
}


def masks(number: int) -> torch.Tensor:
    rough = torch.rand(number, 1, 5, 5, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.interpolate(rough, size=(28, 28), mode="bilinear")


@pytest.mark.parametrize("threshold", [0.5, 0.3])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_masks_are_those_of_torchvision(box, threshold):
    probabilities, boxes = masks(6), torch.tensor([box] * 6)
    expected = (paste_masks_in_image(probabilities, boxes, SIZE) >= threshold)[:, 0].numpy()
    found = paste_masks(probabilities[:, 0], boxes, SIZE, threshold)
    assert [tuple(mask["size"]) for mask in found] == [SIZE] * 6
    np.testing.assert_array_equal(np.stack([rle.decode(mask) for mask in found]), expected)
    assert expected.any() or box == BOXES["smaller than a pixel"]


def test_random_boxes_of_all_sizes():
    generator = torch.Generator().manual_seed(5)
    centres = torch.rand(40, 2, generator=generator) * torch.tensor([61.0, 45.0])
    halves = torch.rand(40, 2, generator=generator) * 30
    boxes = torch.cat([centres - halves, centres + halves], dim=1)
    expected = (paste_masks_in_image(masks(40), boxes, SIZE) >= 0.5)[:, 0].numpy()
    found = paste_masks(masks(40)[:, 0], boxes, SIZE)
    np.testing.assert_array_equal(np.stack([rle.decode(mask) for mask in found]), expected)


def test_boxes_beside_the_image_have_empty_masks():
    boxes = torch.tensor([[-30.0, 5.0, -10.0, 20.0], [70.0, 5.0, 90.0, 20.0], [5.0, 60.0, 20.0, 90.0]])
    found = paste_masks(torch.ones(3, 28, 28), boxes, SIZE)
    assert [rle.area(mask) for mask in found] == [0, 0, 0]


def test_predictions_lack_what_is_empty_and_end_at_the_edge():
    raw = {
        "boxes": torch.tensor([[-2.0, 4.0, 20.0, 50.0], [5.0, 5.0, 9.0, 9.0], [40.0, 2.0, 61.5, 12.0]]),
        "labels": torch.tensor([2, 1, 0]),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
        "masks": torch.stack([torch.ones(28, 28), torch.full((28, 28), 0.4), torch.ones(28, 28)]),
    }
    nothing = {name: value[:0] for name, value in raw.items()}
    first, second = to_predictions(["a", "b"], [raw, nothing], [SIZE, (8, 9)])
    assert (first.id, first.size, second.id, second.size) == ("a", SIZE, "b", (8, 9))
    np.testing.assert_array_equal(first.boxes, np.array([[0, 4, 20, 45], [40, 2, 61, 12]], np.float32))
    assert first.labels.tolist() == [2, 0]
    assert first.scores.tolist() == pytest.approx([0.9, 0.7])
    expected = np.zeros(SIZE, bool)
    expected[4:45, 0:20] = True
    overlap = rle.decode(first.masks[0])
    assert (overlap & expected).sum() / (overlap | expected).sum() > 0.95
    assert (second.boxes.shape, second.labels.shape, second.scores.shape) == ((0, 4), (0,), (0,))
    assert list(second.masks) == []
    assert (first.boxes.dtype, first.labels.dtype, first.scores.dtype) == (np.float32, np.int64, np.float32)
