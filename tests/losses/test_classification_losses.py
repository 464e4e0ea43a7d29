from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from polymask.errors import UserError
from polymask.losses.classification import CrossEntropyLoss, FocalLoss, log_prior, weigh_classes

WEIGHTS = torch.tensor([0.5, 1.0, 4.0, 0.0])


def make_case():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 4, generator=generator), torch.randint(0, 4, (12,), generator=generator)


def test_cross_entropy_equals_scikit_learn():
    logits, labels = make_case()
    probabilities = logits.double().softmax(dim=1).numpy()
    plain = log_loss(labels, probabilities, labels=range(4))
    weighted = log_loss(labels, probabilities, labels=range(4), sample_weight=WEIGHTS[labels].numpy())
    assert CrossEntropyLoss()(logits, labels).item() == pytest.approx(plain, rel=1e-5)
    assert CrossEntropyLoss(weight_of_class=WEIGHTS)(logits, labels).item() == pytest.approx(
        weighted, rel=1e-5
    )


def test_label_smoothing_is_cross_entropy_with_spread_targets():
    logits, labels = make_case()
    spread = 0.9 * np.eye(4)[labels] + 0.1 / 4
    expected = -(spread * logits.double().log_softmax(dim=1).numpy()).sum(axis=1).mean()
    assert CrossEntropyLoss(label_smoothing=0.1)(logits, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_equals_its_formula(gamma, weights):
    logits, labels = make_case()
    p = logits.double().softmax(dim=1).numpy()[np.arange(12), labels]
    sample_weights = np.ones(12) if weights is None else weights.numpy()[labels]
    expected = np.average(-((1 - p) ** gamma) * np.log(p), weights=sample_weights)
    value = FocalLoss(gamma=gamma, weight_of_class=weights)(logits, labels).item()
    assert value == pytest.approx(expected, rel=1e-5)


def test_focal_with_gamma_zero_is_cross_entropy():
    logits, labels = make_case()
    torch.testing.assert_close(
        FocalLoss(gamma=0, weight_of_class=WEIGHTS)(logits, labels), F.cross_entropy(logits, labels, WEIGHTS)
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_of_sure_logits_has_finite_gradients(gamma):
    logits, labels = make_case()
    logits = (1e4 * logits).requires_grad_()
    FocalLoss(gamma=gamma)(logits, labels).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("term", [CrossEntropyLoss, FocalLoss])
def test_class_weights_move_with_the_term_but_are_not_saved(term):
    built = term(weight_of_class=WEIGHTS)
    assert built.state_dict() == {}
    assert built.to("meta").weight_of_class.device.type == "meta"


def test_scheme_none_gives_no_weights():
    assert weigh_classes([3, 0], "none") is None


def test_balanced_equals_scikit_learn():
    counts = [10, 3, 250]
    labels = np.repeat(np.arange(3), counts)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    weights = weigh_classes(counts, "balanced")
    assert weights.dtype == torch.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_effective_divides_by_the_effective_number_of_samples():
    # With beta = 1/2 the effective numbers of 1, 2 and 3 images are 1, 1 + 1/2 and 1 + 1/2 + 1/4.
    inverse = np.array([1, 2 / 3, 4 / 7])
    weights = weigh_classes([1, 2, 3], "effective", beta=0.5)
    np.testing.assert_allclose(weights, inverse / inverse.mean(), rtol=1e-6)
    np.testing.assert_allclose(weigh_classes([1, 2, 3], "effective", beta=0.0), np.ones(3))


@pytest.mark.parametrize("scheme", ["balanced", "effective"])
def test_a_class_without_training_images_is_named(scheme):
    with pytest.raises(UserError, match=r"none of df: .*loss\.class_weights=none"):
        weigh_classes([4, 0, 2], scheme, class_names=["akiec", "df", "mel"])
    with pytest.raises(UserError, match=r"none of 1:"):
        weigh_classes([4, 0, 2], scheme)


def test_an_unknown_scheme_lists_the_allowed_ones():
    with pytest.raises(
        UserError, match=r"loss\.class_weights='balance'.*'balanced'.*none, balanced, effective"
    ):
        weigh_classes([1, 2], "balance")


def test_label_smoothing_out_of_range_is_refused():
    with pytest.raises(UserError, match=r"label_smoothing=1\.5 is not valid; give .* at most 1"):
        CrossEntropyLoss(label_smoothing=1.5)


SOFT_TERMS = {
    "ce": CrossEntropyLoss,
    "smoothed": partial(CrossEntropyLoss, label_smoothing=0.1),
    "adjusted": partial(CrossEntropyLoss, logit_adjustment=1.5, log_prior=torch.tensor([-0.2, -3, -2, -5])),
    "focal": FocalLoss,
}
soft_terms = pytest.mark.parametrize("term", SOFT_TERMS.values(), ids=SOFT_TERMS.keys())


@soft_terms
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_soft_labels_that_are_whole_give_the_loss_of_hard_ones(term, weights):
    logits, labels = make_case()
    built = term(weight_of_class=weights)
    torch.testing.assert_close(built(logits, F.one_hot(labels, 4).float()), built(logits, labels))


@soft_terms
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_soft_labels_of_mixup_give_its_formula(term, weights):
    logits, labels = make_case()
    partners = labels.roll(1)  # as often as before, so both losses divide by the same sum of weights
    soft = 0.3 * F.one_hot(labels, 4) + 0.7 * F.one_hot(partners, 4)
    built = term(weight_of_class=weights)
    expected = 0.3 * built(logits, labels) + 0.7 * built(logits, partners)
    torch.testing.assert_close(built(logits, soft), expected)


@soft_terms
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_a_soft_label_of_zeros_equals_its_absence(term, weights):
    logits, labels = make_case()
    logits = logits.requires_grad_()
    soft = F.one_hot(labels, 4).float() * (torch.arange(12) > 4).unsqueeze(1)
    built = term(weight_of_class=weights)
    loss = built(logits, soft)
    torch.testing.assert_close(loss, built(logits[5:], labels[5:]))
    loss.backward()
    assert not logits.grad[:5].any()
    assert logits.grad[5:].any()
    assert built(logits, torch.zeros_like(soft)).item() == 0


def test_adjusted_logits_with_tau_one_are_the_balanced_softmax():
    logits, labels = make_case()
    counts = np.array([500, 20, 3, 1])
    powers = counts * np.exp(logits.double().numpy())  # equation 3 of Ren et al.
    expected = -np.log(powers[np.arange(12), labels] / powers.sum(axis=1)).mean()
    term = CrossEntropyLoss(logit_adjustment=1.0, log_prior=log_prior(counts.tolist(), "a.key"))
    assert term(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_adjusted_logits_follow_the_pairwise_margins_of_menon():
    logits, labels = make_case()
    shares, z = np.array([0.7, 0.2, 0.08, 0.02]), logits.double().numpy()
    margins = (shares[None] / shares[labels][:, None]) ** 0.5  # equation 10: (p_j / p_y) ** tau
    gaps = z - z[np.arange(12), labels][:, None]
    expected = np.log((margins * np.exp(gaps)).sum(axis=1)).mean()
    term = CrossEntropyLoss(logit_adjustment=0.5, log_prior=torch.tensor(shares).log().float())
    assert term(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_who_knows_only_frequencies_learns_to_favour_no_class():
    counts = [60, 25, 10, 5]
    labels = torch.arange(4).repeat_interleave(torch.tensor(counts))
    term = CrossEntropyLoss(logit_adjustment=1.0, log_prior=log_prior(counts, "a.key"))
    logits = torch.zeros(4, requires_grad=True)  # of every image alike
    term(logits.expand(100, 4), labels).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(4), atol=1e-6, rtol=0)
    plain = torch.zeros(4, requires_grad=True)
    CrossEntropyLoss(logit_adjustment=1.0)(plain.expand(100, 4), labels).backward()  # no prior is known
    assert plain.grad.abs().max() > 0.1


def test_adjustment_needs_images_of_every_class_and_a_strength():
    with pytest.raises(
        UserError, match=r"a\.key needs training images of every class.*none of df: .*a\.key=0"
    ):
        log_prior([4, 0, 2], "a.key", class_names=["akiec", "df", "mel"])
    with pytest.raises(UserError, match=r"label_smoothing=0\.1 with logit_adjustment=1 .*label_smoothing=0 "):
        CrossEntropyLoss(logit_adjustment=1, label_smoothing=0.1)
    with pytest.raises(UserError, match=r"logit_adjustment=-1 is not valid; give a number of at least 0"):
        CrossEntropyLoss(logit_adjustment=-1)
