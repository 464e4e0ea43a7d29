from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from polymask.errors import UserError
from polymask.families.multitask.application import Application
from polymask.families.multitask.predictions import ImageResult


def result(mask: np.ndarray | None, **options: Any) -> ImageResult:
    values = {"multiclass": False, "class_probabilities": None, "predicted_class": None}
    return ImageResult(mask=mask, **{**values, **options})


def test_the_main_mask_is_the_foreground_of_any_class() -> None:
    own = Application({"batch_size": 2}, {}, class_names=["NV", "MEL"], multiclass=True)
    mask = np.array([[0, 1], [2, 0]], np.uint8)
    found = own.main_mask(result(mask, multiclass=True, predicted_class="MEL"))
    np.testing.assert_array_equal(found.mask, [[False, True], [True, False]])
    assert found.what == "MEL"
    assert own.main_mask(result(mask)).what == "foreground"
    assert own.main_mask(result(np.zeros_like(mask), predicted_class="NV")).what == ""
    with pytest.raises(UserError, match="predicts classes and no masks"):
        own.main_mask(result(None, predicted_class="NV"))
