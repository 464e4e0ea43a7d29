"""What fits what, in one line that names options of the configuration."""

from __future__ import annotations

import re

import pytest
from configs import composed

from polymask.errors import UserError
from polymask.factories import build_family
from polymask.fitting import check_fit
from polymask.structures.gives import given_by, gives

DEFAULT = "the data set gives image and label and mask, the network gives label and mask, "


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            ["task=instance"],
            f"the task needs image and objects, but {DEFAULT}the loss gives label and mask: use data=coco or "
            "label_maps and model=mask_rcnn and loss=mask_rcnn, or with what there is task=classification or "
            "multitask or segmentation.",
        ),
        (
            ["model=unet_family"],
            "the task needs image and label and mask, but the network gives mask: use "
            "model=mobilenet_transposed or smp, or with what there is task=segmentation.",
        ),
        (
            ["loss=mask_rcnn"],
            "the task needs image and label and mask, but the loss gives objects: use loss=balanced or bce "
            "or dice_bce_ce or focal or jaccard or lovasz or tversky or uncertainty.",
        ),
    ],
)
def test_what_does_not_fit_is_said_with_the_options_that_do(choice: list[str], message: str) -> None:
    cfg = composed(*choice)
    with pytest.raises(UserError, match=re.escape(message)):
        check_fit(cfg, build_family(cfg, ["A", "B"]))


def test_every_experiment_fits() -> None:
    from configs import OPTIONS

    for option in (name for name in OPTIONS if name.startswith("experiment/")):
        cfg = composed(option.replace("/", "="))
        check_fit(cfg, build_family(cfg, ["A", "B"]))


def test_code_of_ones_own_that_says_nothing_fits() -> None:
    @gives("mask")
    def build() -> None: ...

    assert given_by(build, frozenset({"label"})) == {"mask"}
    assert given_by(print, frozenset({"label"})) == {"label"}


@pytest.mark.parametrize(
    ("target", "remedy"),
    [
        ("polymask.tasks.multitask.build_task", "it is called polymask.families.multitask.Family now."),
        ("polymask.tasks.nothing.build_task", "check the dotted path."),
    ],
)
def test_a_name_that_is_gone_is_told_with_the_one_of_today(target: str, remedy: str) -> None:
    cfg = composed(f"task._target_={target}")
    with pytest.raises(UserError, match=re.escape(f"task._target_={target!r} cannot be imported; {remedy}")):
        build_family(cfg, ["A", "B"])
