"""Which images are mixed, and how: options, draws, and what a loss must be able to take."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from polymask.errors import UserError
from polymask.families.multitask.family import Family
from polymask.families.multitask.loss import Loss
from polymask.families.multitask.mixing import Mixing
from polymask.losses import classification, segmentation

SIZE = (40, 60)


def drawn(num_images=4000, seed=0, **options):
    return Mixing(**options).draw(np.random.default_rng(seed), num_images, SIZE)


def test_nothing_is_mixed_by_default():
    assert Mixing().wanted == ""
    plan = drawn()
    assert not plan.blended.any()
    assert not plan.pasted.any()


def test_images_are_mixed_in_one_way_each_as_often_as_asked():
    plan = drawn(mixup=0.3, cutmix=0.5, mixup_alpha=1.0)
    assert not (plan.blended & plan.pasted).any()
    assert plan.blended.mean() == pytest.approx(0.3, abs=0.03)
    assert plan.pasted.mean() == pytest.approx(0.5, abs=0.05)  # a few boxes are empty


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_have_mean_and_variance_of_their_distribution(alpha):
    shares = drawn(mixup=1.0, mixup_alpha=alpha).shares
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_boxes_lie_within_the_image_and_leave_about_the_share_that_was_drawn():
    plan = drawn(cutmix=1.0, cutmix_alpha=50.0)  # shares near one half
    top, left, bottom, right = plan.boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (bottom <= SIZE[0]).all()
    assert (right <= SIZE[1]).all()
    whole = (top > 0) & (left > 0) & (bottom < SIZE[0]) & (right < SIZE[1])
    assert plan.areas[whole].mean() == pytest.approx(0.5 * SIZE[0] * SIZE[1], rel=0.1)
    assert np.ptp((top + bottom)[whole]) > 5
    assert np.ptp((left + right)[whole]) > 5


def test_equal_seeds_draw_equal_plans():
    options = {"num_images": 8, "mixup": 0.5, "cutmix": 0.5}
    one, same, other = drawn(**options), drawn(**options), drawn(seed=1, **options)
    np.testing.assert_array_equal(one.boxes, same.boxes)
    np.testing.assert_array_equal(one.shares, same.shares)
    assert (one.shares != other.shares).any()


def test_an_image_alone_has_no_partner():
    with pytest.raises(UserError, match=r"task\.mixing\.cutmix=0\.5 needs two images.*data\.batch_size"):
        drawn(1, cutmix=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup": 1.5}, r"task\.mixing\.mixup=1\.5 is not valid; give a probability"),
        ({"cutmix": "often"}, r"task\.mixing\.cutmix='often' is not valid; give a probability"),
        ({"mixup_alpha": 0}, r"task\.mixing\.mixup_alpha=0 is not valid; give a number above 0"),
        ({"mixup": 0.7, "cutmix": 0.5}, r"mixup=0\.7 and task\.mixing\.cutmix=0\.5 are more than 1 together"),
        ({"mixUp": 0.5}, r"task\.mixing\.mixUp is unknown\. Did you mean 'mixup'\?"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        Family(class_names=["A", "B"], mixing=options)


def test_training_metrics_of_mixed_images_are_refused():
    with pytest.raises(UserError, match=r"task\.training_metrics=true .* \(task\.mixing\.mixup=0\.1\)"):
        Family(class_names=["A", "B"], mixing={"mixup": 0.1}, training_metrics=True)
    assert Family(class_names=["A", "B"], mixing={"mixup": 0}, training_metrics=True).training_metrics


def loss_of(*, mask=None, label=None):
    def weighted(term):
        return {"weight": 1.0, "term": term}

    return Loss(
        segmentation={"own": weighted(mask or segmentation.DiceLoss())},
        classification={"other": weighted(label or classification.FocalLoss())},
    )


def test_terms_that_cannot_learn_from_mixed_truth_are_refused_where_they_would_have_to():
    everything = {"masks": True, "classes": True}
    lovasz, foreign = loss_of(mask=segmentation.LovaszLoss()), loss_of(label=nn.MultiMarginLoss())
    blending, pasting = Mixing(mixup=0.5), Mixing(cutmix=0.5)
    blending.check(loss_of(), **everything)
    pasting.check(lovasz, **everything)  # its masks stay whole
    blending.check(lovasz, masks=False, classes=True)
    Mixing().check(foreign, **everything)
    with pytest.raises(
        UserError, match=r"segmentation\.own cannot .* task\.mixing\.mixup=0\.5: use .*cutmix"
    ):
        blending.check(lovasz, **everything)
    with pytest.raises(UserError, match=r"classification\.other cannot .* of task\.mixing\.cutmix=0\.5"):
        pasting.check(foreign, **everything)
