"""Loss terms on class logits (B, K) and labels (B,), and what they may know of imbalance.

The caller leaves out samples of unknown label. Class weights follow `torch.nn.functional.cross_entropy`:
the mean is sum_i w[y_i] loss_i / sum_i w[y_i], so a factor common to all weights changes nothing.

Labels may be soft, those of mixed images: (B, K) float shares t of the classes. Then the mean is
sum_ik t_ik w_k loss_ik / sum_ik t_ik w_k, with loss_ik that of label k; a row of zeros does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymask.errors import UserError, choose, number


class CrossEntropyLoss(nn.Module):
    """Cross-entropy of the softmax.

    With tau > 0 it is that of softmax(logits + tau log p), where p are the shares of the classes among the
    training images: the logits learn to be right if all classes were equally frequent, and what predicts is
    their plain softmax (Menon et al., "Long-tail learning via logit adjustment", ICLR 2021). For tau = 1 this
    is the balanced softmax, whose counts differ from shares by one factor only (Ren et al., "Balanced
    meta-softmax for long-tailed visual recognition", NeurIPS 2020).

    Args:
        label_smoothing: Share of each target that is spread evenly over all K classes, in [0, 1]
            (Szegedy et al., "Rethinking the Inception architecture", CVPR 2016). With class weights, the
            spread part of a class is weighted by that class, as torch does.
        logit_adjustment: tau, >= 0; 0 for none, and without `log_prior` nothing is adjusted either. Not with
            smoothing: what that spreads evenly is divided by the share of each class in the plain softmax, so
            rare ones would never be unlikely.
        weight_of_class: (K,) float weight of each class, None for equal weights.
        log_prior: (K,) float log p, None where it is not known, as in a test of a stored run.

    Raises:
        UserError: `label_smoothing` or `logit_adjustment` is out of range, or both are given.
    """

    soft_targets: ClassVar[bool] = True
    weight_of_class: Tensor | None
    log_prior: Tensor | None

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        logit_adjustment: float = 0.0,
        weight_of_class: Tensor | None = None,
        log_prior: Tensor | None = None,
    ) -> None:
        super().__init__()
        name = "CrossEntropyLoss.label_smoothing"
        self.label_smoothing = number(name, label_smoothing, least=0.0, most=1.0)
        self.logit_adjustment = number("CrossEntropyLoss.logit_adjustment", logit_adjustment, least=0.0)
        if label_smoothing and logit_adjustment:
            raise UserError(
                f"label_smoothing={label_smoothing} with logit_adjustment={logit_adjustment} would teach "
                "that rare classes are never unlikely: set label_smoothing=0 beside it."
            )
        self.register_buffer("weight_of_class", weight_of_class, persistent=False)
        self.register_buffer("log_prior", log_prior, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted mean over samples, a scalar.

        Args:
            logits: (B, K) float32, B >= 1.
            labels: (B,) int64 in [0, K), or (B, K) float32 shares of the classes.
        """
        if self.logit_adjustment and self.log_prior is not None:
            logits = logits + self.logit_adjustment * self.log_prior
        smoothing, weights = self.label_smoothing, self.weight_of_class
        if not labels.is_floating_point():
            return F.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
        spread = labels.sum(dim=1, keepdim=True) / labels.shape[1]  # 0 in a row that does not count
        smoothed = (1 - smoothing) * labels + smoothing * spread
        total = F.cross_entropy(logits, smoothed, weights, reduction="sum")
        return total / _at_least_tiny(_weighted(labels, weights).sum())


class FocalLoss(nn.Module):
    """Focal loss -(1 - p)^gamma log p of the true class's softmax probability p.

    Lin et al., "Focal loss for dense object detection", ICCV 2017. Class weights take the place of the
    paper's alpha; they divide the sum as they do in cross-entropy, the focal factor does not.

    Args:
        gamma: How much confident samples are played down, >= 0; 0 is cross-entropy.
        weight_of_class: (K,) float weight of each class, None for equal weights.

    Raises:
        UserError: `gamma` is negative.
    """

    soft_targets: ClassVar[bool] = True
    weight_of_class: Tensor | None

    def __init__(self, *, gamma: float = 2.0, weight_of_class: Tensor | None = None) -> None:
        super().__init__()
        self.gamma = number("FocalLoss.gamma", gamma, least=0.0)
        self.register_buffer("weight_of_class", weight_of_class, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted mean over samples, a scalar.

        Args:
            logits: (B, K) float32, B >= 1, K >= 2.
            labels: (B,) int64 in [0, K), or (B, K) float32 shares of the classes.
        """
        if labels.is_floating_point():
            weighted = _weighted(labels, self.weight_of_class)
            each = [focal(log_odds(logits, label), self.gamma) for label in constant_labels(labels)]
            return (weighted * torch.stack(each, dim=1)).sum() / _at_least_tiny(weighted.sum())
        losses = focal(log_odds(logits, labels), self.gamma)
        if self.weight_of_class is None:
            return losses.mean()
        weights = self.weight_of_class[labels]
        return (weights * losses).sum() / weights.sum()


def constant_labels(shares: Tensor) -> list[Tensor]:
    """Return for each class of soft targets (B, C, ...) hard ones (B, ...) int64 that all are this class."""
    empty = torch.empty_like(shares[:, 0], dtype=torch.int64)
    return [torch.full_like(empty, index) for index in range(shares.shape[1])]


def _weighted(labels: Tensor, weight_of_class: Tensor | None) -> Tensor:
    """Return soft labels (B, K) times the weights of their classes."""
    return labels if weight_of_class is None else labels * weight_of_class


def _at_least_tiny(total: Tensor) -> Tensor:
    """Return a divisor that is not 0 where nothing counts."""
    return total.clamp_min(torch.finfo(total.dtype).tiny)


def log_odds(logits: Tensor, target: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of the softmax probability p of the true class.

    From it, log p is logsigmoid(odds) and log(1 - p) is logsigmoid(odds) - odds, however near p is to 0 or 1.

    Args:
        logits: (B, C, ...) float32, C >= 2.
        target: (B, ...) int64 in [0, C).

    Returns:
        (B, ...) float32.
    """
    index = target.unsqueeze(1)
    others = logits.scatter(1, index, float("-inf"))
    return logits.gather(1, index).squeeze(1) - others.logsumexp(dim=1)


def focal(odds: Tensor, gamma: float) -> Tensor:
    """Return -(1 - p)^gamma log p elementwise, for odds = log(p / (1 - p)) of the true class."""
    # (1 - p)^gamma through its logarithm, since the power has an infinite slope at p = 1 for gamma < 1.
    log_p = F.logsigmoid(odds)
    return -torch.exp(gamma * (log_p - odds)) * log_p


def weigh_classes(
    counts: Sequence[int],
    scheme: str,
    *,
    beta: float = 0.9999,
    class_names: Sequence[str] | None = None,
) -> Tensor | None:
    """Compute the weights of K classes from their numbers of training images.

    Args:
        counts: (K,) training images per class, n_k.
        scheme: `none`; `balanced`: N / (K n_k), as scikit-learn does; `effective`: the inverse effective
            number of samples (1 - beta) / (1 - beta^n_k), scaled to mean 1 (Cui et al., "Class-balanced
            loss based on effective number of samples", CVPR 2019).
        beta: Of `effective`, in [0, 1): 0 gives equal weights, towards 1 they near 1 / n_k.
        class_names: (K,) names for the message, None to call classes by their index.

    Returns:
        (K,) float32, or None for `none`.

    Raises:
        UserError: The scheme is unknown, or a class without training images should be weighted.
    """
    formula = SCHEMES[choose("loss.class_weights", scheme, SCHEMES)]
    if formula is None:
        return None
    _check_counts(counts, class_names, f"loss.class_weights={scheme!r}", "loss.class_weights=none")
    return torch.from_numpy(formula(np.asarray(counts, dtype=np.float64), beta)).float()


def log_prior(counts: Sequence[int], key: str, *, class_names: Sequence[str] | None = None) -> Tensor:
    """Return the (K,) float32 logarithms of the shares of K classes among the training images.

    Args:
        counts: (K,) training images per class.
        key: What asks for them, for the message.
        class_names: (K,) names for the message, None to call classes by their index.

    Raises:
        UserError: A class has no training images: its logit would become minus infinity.
    """
    _check_counts(counts, class_names, key, f"{key}=0")
    shares = np.asarray(counts, dtype=np.float64) / sum(counts)
    return torch.from_numpy(np.log(shares)).float()


def _check_counts(counts: Sequence[int], class_names: Sequence[str] | None, wanted: str, off: str) -> None:
    """Refuse classes without training images, which `wanted` cannot take; `off` goes without it."""
    names = class_names if class_names is not None else [str(index) for index in range(len(counts))]
    empty = [name for name, count in zip(names, counts, strict=True) if count == 0]
    if empty:
        raise UserError(
            f"{wanted} needs training images of every class, but there are none of {', '.join(empty)}: "
            f"leave these classes out, change the split, or set {off}."
        )


def _balanced(counts: np.ndarray, beta: float) -> np.ndarray:
    """Weigh every class by the inverse of its share; `beta` is not used."""
    return counts.sum() / (len(counts) * counts)


def _effective(counts: np.ndarray, beta: float) -> np.ndarray:
    """Weigh every class by the inverse of its effective number of samples."""
    weights = (1.0 - beta) / (1.0 - beta**counts)
    return weights / weights.mean()


SCHEMES: dict[str, Callable[[np.ndarray, float], np.ndarray] | None] = {
    "none": None,
    "balanced": _balanced,
    "effective": _effective,
}
