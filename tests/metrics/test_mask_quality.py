"""What of a single sample's truth contradicts its prediction, by hand and by PyTorch's own cross-entropy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from polymask.metrics.mask_quality import mask_agreement_rows, mask_disagreement, object_disagreement
from polymask.metrics.segmentation import confusion_per_sample, lesion_confusion_per_sample


def test_binary_masks_by_hand():
    probabilities = torch.tensor([[[[0.95, 0.05], [0.95, 0.5]]], [[[0.9, 0.2], [0.6, 0.4]]]])
    target = torch.tensor([[[0, 1], [1, 255]], [[255, 255], [255, 255]]])
    rows = mask_agreement_rows(probabilities, target)
    assert rows["mask_contradictions"].tolist() == [2, 0]  # the ignored pixels do not count
    expected = -(2 * np.log(0.05) + np.log(0.95)) / 3
    assert rows["mask_surprise"][0].item() == pytest.approx(expected, rel=1e-5)
    assert rows["mask_surprise"][1].isnan()  # no mask, nothing to be surprised of


def test_surprise_of_classes_is_the_cross_entropy_of_each_sample():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(3, 4, 8, 8, generator=generator)
    target = torch.randint(0, 4, (3, 8, 8), generator=generator)
    target[0, :2] = 255
    rows = mask_agreement_rows(logits.softmax(dim=1), target)
    for index in range(3):
        one = slice(index, index + 1)
        loss = functional.cross_entropy(logits[one], target[one], ignore_index=255)
        assert rows["mask_surprise"][index].item() == pytest.approx(loss.item(), rel=1e-4)
    of_true = logits.softmax(dim=1).gather(1, target.clamp(max=3)[:, None])[:, 0]
    expected = ((of_true <= 0.1) & (target != 255)).sum(dim=(1, 2))
    assert rows["mask_contradictions"].tolist() == expected.tolist()
    assert expected.min() > 0


def rows_of(probabilities: torch.Tensor, target: torch.Tensor) -> dict[str, np.ndarray]:
    predicted = (probabilities[:, 0] > 0.5).long()
    rows = {
        "confusion": confusion_per_sample(predicted, target, 2),
        "lesion_confusion": lesion_confusion_per_sample(predicted, target),
        **mask_agreement_rows(probabilities, target),
    }
    return {name: values.numpy() for name, values in rows.items()}


def test_a_mask_of_another_place_is_suspicious_and_an_uncertain_rim_is_not():
    sure = torch.full((1, 1, 10, 10), 0.01)
    sure[..., 2:6, 2:6] = 0.99
    sure[..., 6, 2:6] = 0.7  # a rim that the model is not sure of
    rim, other = torch.zeros(2, 10, 10, dtype=torch.long)
    rim[2:6, 2:6] = 1
    other[6:10, 6:10] = 1
    nothing = torch.full((10, 10), 255)
    found = mask_disagreement(rows_of(sure.expand(3, -1, -1, -1), torch.stack([rim, other, nothing])))
    assert list(found) == ["contradicted", "surprise", "overlap_missing"]
    # Elsewhere: 16 missed and 16 false pixels of 36 in truth or prediction, of which the rim's 4 are unsure.
    np.testing.assert_allclose(found["contradicted"], [0, 32 / 36, np.nan])
    np.testing.assert_allclose(found["overlap_missing"], [1 - 32 / 36, 1, np.nan])
    assert np.isnan(found["surprise"][2])


def test_tests_of_earlier_versions_have_the_overlap_alone():
    rows = rows_of(torch.full((1, 1, 4, 4), 0.9), torch.ones(1, 4, 4, dtype=torch.long))
    del rows["mask_surprise"], rows["mask_contradictions"]
    assert {name: values.tolist() for name, values in mask_disagreement(rows).items()} == {
        "overlap_missing": [0]
    }


def test_objects_that_no_annotation_explains():
    # Image 0: sure of two objects, one of them annotated; image 1: nothing found of two true objects.
    rows = {
        "detection_scores": np.array([[0.95, 0.92, 0.5], [0, 0, 0]], np.float32),
        "detection_hits": np.zeros((2, 3, 2, 4), np.int16),
        "detection_alarms": np.zeros((2, 3, 2, 4), np.int16),
        "num_true": np.array([[[1, 0, 0, 1]], [[2, 0, 0, 2]]]),
        "num_hits": np.array([[1], [0]]),
        "union_confusion": np.array([[[80, 0, 10], [10, 10, 0]], [[80, 20, 0], [0, 0, 20]]]),
    }
    rows["detection_hits"][0, 0, 0, 0] = 0b11
    rows["detection_alarms"][0, 1:, 0, 0] = 0b1
    found = object_disagreement(rows)
    assert found["unexplained"].tolist() == [0.5, 0]
    assert found["missed"].tolist() == [0, 1]
    np.testing.assert_allclose(found["overlap_missing"], [1 - 20 / 30, 1])
