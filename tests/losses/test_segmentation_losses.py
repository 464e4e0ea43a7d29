from __future__ import annotations

import functools

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from sklearn.metrics import f1_score, jaccard_score
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from polymask.errors import UserError
from polymask.losses.segmentation import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    LovaszLoss,
    TverskyLoss,
)

TERMS = {
    "ce": CrossEntropyLoss,
    "focal": FocalLoss,
    "focal_alpha": functools.partial(FocalLoss, gamma=0.5, alpha=0.25),
    "dice": DiceLoss,
    "dice_image": functools.partial(DiceLoss, per_image=True),
    "jaccard": JaccardLoss,
    "jaccard_image": functools.partial(JaccardLoss, per_image=True),
    "tversky": TverskyLoss,
    "tversky_image": functools.partial(TverskyLoss, per_image=True),
    "lovasz": LovaszLoss,
    "lovasz_image": functools.partial(LovaszLoss, per_image=True),
}
PER_IMAGE = {name: term for name, term in TERMS.items() if name.endswith("_image")}
OVERLAPS = {
    "dice": (DiceLoss, 0.5, 0.5),
    "jaccard": (JaccardLoss, 1.0, 1.0),
    "tversky": (TverskyLoss, 0.3, 0.7),
}

all_terms = pytest.mark.parametrize("term", TERMS.values(), ids=TERMS.keys())
both_modes = pytest.mark.parametrize("channels", [1, 3])


def make_case(channels, *, images=3, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, channels, size, size, generator=generator)
    target = torch.randint(0, max(channels, 2), (images, size, size), generator=generator)
    return logits, target


def probabilities_of(logits):
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def class_masks(logits, target):
    """Yield the probabilities and the truth of every class that a loss looks at, as float64 arrays."""
    probabilities = probabilities_of(logits.double()).numpy()
    for channel in range(logits.shape[1]):
        truth = target.numpy() == (1 if logits.shape[1] == 1 else channel)
        yield probabilities[:, channel], truth.astype(float)


def loss_and_gradient(term, logits, target):
    logits = logits.clone().requires_grad_()
    loss = term(logits, target)
    loss.backward()
    return loss.detach(), logits.grad


def smp_loss(name, logits, target, **options):
    mode = "binary" if logits.shape[1] == 1 else "multiclass"
    return getattr(smp.losses, name)(mode, **options)(logits, target)


@both_modes
@pytest.mark.parametrize("name", OVERLAPS)
def test_overlap_losses_equal_their_formula(name, channels):
    term, alpha, beta = OVERLAPS[name]
    logits, target = make_case(channels)
    losses = []
    for predicted, truth in class_masks(logits, target):
        hits = (predicted * truth).sum()
        wrong = alpha * (predicted * (1 - truth)).sum() + beta * ((1 - predicted) * truth).sum()
        losses.append(1 - (hits + 0.5) / (hits + wrong + 0.5))
    assert term(smooth=0.5)(logits, target).item() == pytest.approx(np.mean(losses), rel=1e-5)


@both_modes
def test_losses_equal_those_of_smp_where_these_are_defined(channels):
    logits, target = make_case(channels)
    expected = {
        "dice": smp_loss("DiceLoss", logits, target, smooth=1.0),
        "jaccard": smp_loss("JaccardLoss", logits, target, smooth=1.0),
        "tversky": smp_loss("TverskyLoss", logits, target, smooth=1.0, alpha=0.3, beta=0.7),
        "lovasz": smp_loss("LovaszLoss", logits, target),
        "lovasz_image": smp_loss("LovaszLoss", logits, target, per_image=True),
    }
    for name, value in expected.items():
        torch.testing.assert_close(TERMS[name]()(logits, target), value, msg=name)


@pytest.mark.parametrize(("term", "score"), [(DiceLoss, f1_score), (JaccardLoss, jaccard_score)])
@both_modes
def test_sure_predictions_give_the_metric_of_scikit_learn(term, score, channels):
    logits, target = make_case(channels)
    if channels == 1:
        predicted, average = (logits[:, 0] > 0).long(), "binary"
    else:
        predicted, average = logits.argmax(dim=1), "macro"
        logits = F.one_hot(predicted, channels).permute(0, 3, 1, 2).float()
    sure = torch.where(logits > 0, 100.0, -100.0)
    expected = 1 - score(target.flatten(), predicted.flatten(), average=average)
    assert term(smooth=1e-6)(sure, target).item() == pytest.approx(expected, abs=1e-6)


def test_absent_classes_are_left_out_of_the_mean():
    logits, target = make_case(4)
    target = target.clamp(max=1)
    two = [
        1 - 2 * (predicted * truth).sum() / (predicted.sum() + truth.sum())
        for predicted, truth in list(class_masks(logits, target))[:2]
    ]
    assert DiceLoss(smooth=1e-6)(logits, target).item() == pytest.approx(np.mean(two), rel=1e-5)


def test_cross_entropy_equals_torch_over_valid_pixels():
    logits, target = make_case(1)
    target[:, :3] = 255
    valid = target != 255
    expected = F.binary_cross_entropy_with_logits(logits[:, 0][valid], target[valid].float())
    torch.testing.assert_close(CrossEntropyLoss()(logits, target), expected)
    logits, target = make_case(3)
    target[:, :3] = 255
    torch.testing.assert_close(
        CrossEntropyLoss()(logits, target), F.cross_entropy(logits, target, ignore_index=255)
    )


@both_modes
@pytest.mark.parametrize(("gamma", "alpha"), [(0.0, None), (0.5, None), (2.0, 0.25), (3.0, 0.9)])
def test_focal_equals_its_formula(channels, gamma, alpha):
    logits, target = make_case(channels)
    probabilities = probabilities_of(logits.double()).numpy()
    losses = []
    for image, row, column in np.ndindex(*target.shape):
        label = int(target[image, row, column])
        vector = probabilities[image, :, row, column]
        p = vector[label] if channels > 1 else (vector[0] if label else 1 - vector[0])
        weight = 1.0 if alpha is None else (alpha if label else 1 - alpha)
        losses.append(-weight * (1 - p) ** gamma * np.log(p))
    value = FocalLoss(gamma=gamma, alpha=alpha)(logits, target).item()
    assert value == pytest.approx(np.mean(losses), rel=1e-5)


def test_binary_focal_equals_torchvision():
    logits, target = make_case(1)
    expected = sigmoid_focal_loss(logits[:, 0], target.float(), alpha=0.25, gamma=2, reduction="mean")
    torch.testing.assert_close(FocalLoss(alpha=0.25)(logits, target), expected)


def lovasz_by_definition(errors, truth):
    """Sum the sorted errors, each times the growth of the Jaccard loss of the set of wrong pixels."""
    total, before, wrong = 0.0, 0.0, np.zeros(len(truth), dtype=bool)
    for pixel in np.argsort(-errors, kind="stable"):
        wrong[pixel] = True
        predicted = truth ^ wrong
        after = 1 - (truth & predicted).sum() / (truth | predicted).sum()
        total += errors[pixel] * (after - before)
        before = after
    return total


@pytest.mark.parametrize("foreground", [0, 1, 30, 64])
def test_binary_lovasz_equals_its_definition(foreground):
    logits, _ = make_case(1, images=1)
    truth = np.arange(64) < foreground
    margins = logits.flatten().double().numpy() * np.where(truth, 1, -1)
    expected = lovasz_by_definition(np.maximum(1 - margins, 0), truth)
    target = torch.from_numpy(truth).long().reshape(1, 8, 8)
    assert LovaszLoss()(logits, target).item() == pytest.approx(expected, rel=1e-5)


def test_multiclass_lovasz_equals_its_definition():
    logits, target = make_case(4)
    target = target.clamp(max=2)
    present = list(class_masks(logits, target))[:3]
    expected = [
        lovasz_by_definition(np.abs(truth - predicted).ravel(), truth.ravel() > 0)
        for predicted, truth in present
    ]
    assert LovaszLoss()(logits, target).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_lovasz_gradient_is_exact_among_many_pixels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 512, 512, generator=generator)
    target = (torch.rand(1, 512, 512, generator=generator) < 0.1).long()
    _, gradient = loss_and_gradient(LovaszLoss(), logits, target)
    truth, signs = target.flatten().numpy(), 2.0 * target.flatten().numpy() - 1
    errors = 1 - logits.flatten().numpy() * signs.astype(np.float32)
    order = np.argsort(-errors, kind="stable")
    inter = truth.sum() - truth[order].cumsum(dtype=np.float64)
    jaccard = 1 - inter / (truth.sum() + (1 - truth[order]).cumsum(dtype=np.float64))
    expected = np.zeros(len(truth))
    expected[order] = np.diff(jaccard, prepend=0.0) * (errors[order] > 0)
    np.testing.assert_allclose(gradient.flatten().numpy() * -signs, expected, rtol=1e-4, atol=1e-12)


@all_terms
@both_modes
def test_ignored_pixels_equal_a_crop(term, channels):
    logits, target = make_case(channels)
    ignored = target.clone()
    ignored[:, :, 5:] = 255
    loss, gradient = loss_and_gradient(term(), logits, ignored)
    expected, expected_gradient = loss_and_gradient(term(), logits[..., :5], target[..., :5])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient[..., :5], expected_gradient)
    assert not gradient[..., 5:].any()


@all_terms
@both_modes
def test_an_ignored_image_equals_its_absence(term, channels):
    logits, target = make_case(channels)
    target[1] = 255
    kept = torch.tensor([0, 2])
    torch.testing.assert_close(term()(logits, target), term()(logits[kept], target[kept]))


@all_terms
@both_modes
def test_all_ignored_is_zero_with_zero_gradient(term, channels):
    logits, target = make_case(channels)
    loss, gradient = loss_and_gradient(term(), logits, torch.full_like(target, 255))
    assert loss.item() == 0
    assert loss.shape == ()
    assert torch.equal(gradient, torch.zeros_like(logits))


@all_terms
@both_modes
def test_a_mask_without_foreground_pulls_the_foreground_down(term, channels):
    logits, target = make_case(channels)
    loss, gradient = loss_and_gradient(term(), logits, torch.zeros_like(target))
    foreground = gradient if channels == 1 else gradient[:, 1:]
    assert loss > 0
    assert gradient.isfinite().all()
    assert (foreground >= 0).all()
    assert foreground.sum() > 0


@all_terms
@both_modes
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_have_finite_gradients(term, channels, scale):
    logits, target = make_case(channels)
    loss, gradient = loss_and_gradient(term(), scale * logits, target)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@all_terms
@both_modes
def test_a_perfect_prediction_costs_nothing(term, channels):
    _, target = make_case(channels)
    truth = target.unsqueeze(1) if channels == 1 else F.one_hot(target, channels).permute(0, 3, 1, 2)
    logits = torch.where(truth > 0, 50.0, -50.0)
    assert term()(logits, target).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("term", PER_IMAGE.values(), ids=PER_IMAGE.keys())
@both_modes
def test_per_image_is_the_mean_over_images(term, channels):
    logits, target = make_case(channels)
    target[0, :, 4:] = 255
    single = [term()(logits[i : i + 1], target[i : i + 1]) for i in range(len(target))]
    torch.testing.assert_close(term()(logits, target), torch.stack(single).mean())


@all_terms
@both_modes
def test_gradients_equal_finite_differences(term, channels):
    logits, target = make_case(channels, images=2, size=4)
    target[0, 0] = 255
    assert torch.autograd.gradcheck(lambda x: term()(x, target), logits.double().requires_grad_())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: DiceLoss(smooth=0.0),
            r"DiceLoss\.smooth=0\.0 is not valid; give a number of at least 1e-06",
        ),
        (lambda: TverskyLoss(alpha=-1), r"TverskyLoss\.alpha=-1 is not valid"),
        (lambda: FocalLoss(gamma=float("nan")), r"FocalLoss\.gamma=nan is not valid"),
        (
            lambda: FocalLoss(alpha="a"),
            r"FocalLoss\.alpha='a' is not valid; give .* at most 1",
        ),
    ],
)
def test_options_out_of_range_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.gpu
@all_terms
@both_modes
def test_terms_on_cuda_equal_the_cpu_without_waiting_for_the_device(term, channels):
    logits, target = make_case(channels)
    target[0, 0] = 255
    expected, expected_gradient = loss_and_gradient(term(), logits, target)
    on_device = logits.cuda(), target.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss, gradient = loss_and_gradient(term(), *on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(loss.cpu(), expected)
    torch.testing.assert_close(gradient.cpu(), expected_gradient)


@pytest.mark.gpu
@all_terms
@both_modes
def test_terms_on_cuda_have_deterministic_kernels(term, channels):
    logits, target = make_case(channels)
    torch.use_deterministic_algorithms(True)
    try:
        loss, _ = loss_and_gradient(term(), logits.cuda(), target.cuda())
    finally:
        torch.use_deterministic_algorithms(False)
    assert loss.isfinite()


SOFT_TERMS = {name: term for name, term in TERMS.items() if not name.startswith("lovasz")}
MEANS_OVER_PIXELS = [SOFT_TERMS[name] for name in ("ce", "focal", "focal_alpha")]
soft_terms = pytest.mark.parametrize("term", SOFT_TERMS.values(), ids=SOFT_TERMS.keys())


def as_shares(target, channels):
    """Return whole targets in the form of soft ones."""
    classes = torch.arange(channels).view(1, -1, 1, 1) if channels > 1 else torch.ones(1, 1, 1, 1)
    return (target.unsqueeze(1) == classes).float().masked_fill((target == 255).unsqueeze(1), 255)


def test_terms_say_whether_they_take_soft_targets():
    assert all(term().soft_targets for term in SOFT_TERMS.values())
    assert not hasattr(LovaszLoss(), "soft_targets")


@soft_terms
@both_modes
def test_soft_targets_that_are_whole_give_loss_and_gradient_of_hard_ones_bit_for_bit(term, channels):
    logits, target = make_case(channels)
    logits[0, :, 0] = 200.0  # probabilities of 0 and 1 exactly
    target[1, :3] = 255
    target[2] = 255
    found = loss_and_gradient(term(), logits, as_shares(target, channels))
    expected = loss_and_gradient(term(), logits, target)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("term", MEANS_OVER_PIXELS)
@both_modes
def test_mean_over_pixels_of_blended_masks_is_the_formula_of_mixup(term, channels):
    logits, target = make_case(channels)
    partner = target.roll(1, 0)
    blended = 0.3 * as_shares(target, channels) + 0.7 * as_shares(partner, channels)
    expected = 0.3 * term()(logits, target) + 0.7 * term()(logits, partner)
    torch.testing.assert_close(term()(logits, blended), expected)


@pytest.mark.parametrize("name", OVERLAPS)
@both_modes
def test_overlap_with_shares_is_the_semimetric_formula(name, channels):
    term, alpha, beta = OVERLAPS[name]
    logits, target = make_case(channels)
    shares = 0.4 * as_shares(target, channels) + 0.6 * as_shares(target.roll(1, 0), channels)
    p, t = probabilities_of(logits.double()).numpy(), shares.double().numpy()
    axes = (0, 2, 3)
    common = (p + t - np.abs(p - t)).sum(axes) / 2
    wrong = alpha * (p.sum(axes) - common) + beta * (t.sum(axes) - common)
    expected = 1 - ((common + 1) / (common + wrong + 1)).mean()
    assert term(smooth=1.0)(logits, shares).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", OVERLAPS)
def test_overlap_is_at_its_least_where_probabilities_are_the_shares(name):
    generator = torch.Generator().manual_seed(0)
    shares = 0.1 + 0.8 * torch.rand(2, 1, 6, 6, generator=generator)
    term = OVERLAPS[name][0]()
    assert term(shares.logit(), shares).item() == pytest.approx(0, abs=1e-6)
    for factor in (0.5, 2.0, 100.0):  # unsure, too sure, 0 and 1
        assert term(factor * shares.logit(), shares).item() > 0.05


@soft_terms
@both_modes
def test_ignored_pixels_of_soft_targets_equal_their_absence(term, channels):
    logits, target = make_case(channels)
    shares = 0.3 * as_shares(target, channels) + 0.7 * as_shares(target.roll(1, 0), channels)
    ignored = shares.clone()
    ignored[..., 5:] = 255
    found, gradient = loss_and_gradient(term(), logits, ignored)
    torch.testing.assert_close(found, term()(logits[..., :5], shares[..., :5]))
    assert not gradient[..., 5:].any()
    nothing, gradient = loss_and_gradient(term(), logits, torch.full_like(shares, 255.0))
    assert nothing == 0
    assert not gradient.any()
