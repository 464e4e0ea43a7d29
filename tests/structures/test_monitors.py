from __future__ import annotations

import pytest

from polymask.errors import UserError
from polymask.structures.monitors import parse_monitors


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], {}),
        (None, {}),
        (["val/dice", "val/loss_bce"], {"val/dice": "max", "val/loss_bce": "min"}),
        (["val/seg:min", "val/loss_x:max"], {"val/seg": "min", "val/loss_x": "max"}),
        (
            ["val/count_error", "val/detection_ece", "val/brier", "val/hd95_px_lesion", "val/count_bias:max"],
            dict.fromkeys(["val/count_error", "val/detection_ece", "val/brier", "val/hd95_px_lesion"], "min")
            | {"val/count_bias": "max"},
        ),
        (["val/precision_macro", "val/recall_MEL"], {"val/precision_macro": "max", "val/recall_MEL": "max"}),
        (["val/dice", "val/loss", "val/dice"], {"val/dice": "max"}),  # that of the run, and twice
        (["val/iou", "val/dice_a:b"], {"val/iou": "max", "val/dice_a:b": "max"}),  # a class called a:b
    ],
)
def test_each_metric_has_the_better_direction_once(entries, expected):
    found = parse_monitors(entries, besides="val/loss")
    assert list(found.items()) == list(expected.items())


@pytest.mark.parametrize("entries", ["val/dice", [1], [None], [""], {"val/dice": 1.0, 2: 3}, 5])
def test_what_is_no_list_of_texts_is_told(entries):
    with pytest.raises(UserError, match=r"^task\.monitors=.* must be a list of metrics, such as \[val/dice"):
        parse_monitors(entries, besides="val/loss")


def test_two_directions_of_one_metric_are_told():
    with pytest.raises(UserError, match=r"names val/x as both min and max"):
        parse_monitors(["val/x:min", "val/x"], besides="val/loss")


def test_what_is_best_at_zero_needs_a_direction():
    with pytest.raises(UserError, match=r"val/count_bias, which is best at 0"):
        parse_monitors(["val/count_bias"], besides="val/loss")
