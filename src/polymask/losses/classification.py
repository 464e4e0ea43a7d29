"""Loss terms on class logits (B, K) and labels (B,), and the class weights against imbalance.

The caller leaves out samples of unknown label. Class weights follow `torch.nn.functional.cross_entropy`:
the mean is sum_i w[y_i] loss_i / sum_i w[y_i], so a factor common to all weights changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymask.errors import UserError, choose, number


class CrossEntropyLoss(nn.Module):
    """Cross-entropy of the softmax.

    Args:
        label_smoothing: Share of each target that is spread evenly over all K classes, in [0, 1]
            (Szegedy et al., "Rethinking the Inception architecture", CVPR 2016). With class weights, the
            spread part of a class is weighted by that class, as torch does.
        weight_of_class: (K,) float weight of each class, None for equal weights.

    Raises:
        UserError: `label_smoothing` is out of range.
    """

    weight_of_class: Tensor | None

    def __init__(self, *, label_smoothing: float = 0.0, weight_of_class: Tensor | None = None) -> None:
        super().__init__()
        name = "CrossEntropyLoss.label_smoothing"
        self.label_smoothing = number(name, label_smoothing, least=0.0, most=1.0)
        self.register_buffer("weight_of_class", weight_of_class, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted mean over samples, a scalar.

        Args:
            logits: (B, K) float32, B >= 1.
            labels: (B,) int64 in [0, K).
        """
        return F.cross_entropy(logits, labels, self.weight_of_class, label_smoothing=self.label_smoothing)


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

    weight_of_class: Tensor | None

    def __init__(self, *, gamma: float = 2.0, weight_of_class: Tensor | None = None) -> None:
        super().__init__()
        self.gamma = number("FocalLoss.gamma", gamma, least=0.0)
        self.register_buffer("weight_of_class", weight_of_class, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted mean over samples, a scalar.

        Args:
            logits: (B, K) float32, B >= 1, K >= 2.
            labels: (B,) int64 in [0, K).
        """
        losses = focal(log_odds(logits, labels), self.gamma)
        if self.weight_of_class is None:
            return losses.mean()
        weights = self.weight_of_class[labels]
        return (weights * losses).sum() / weights.sum()


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
    names = class_names if class_names is not None else [str(index) for index in range(len(counts))]
    empty = [name for name, count in zip(names, counts, strict=True) if count == 0]
    if empty:
        raise UserError(
            f"loss.class_weights={scheme!r} needs training images of every class, but there are none of "
            f"{', '.join(empty)}: leave these classes out, change the split, or set loss.class_weights=none."
        )
    return torch.from_numpy(formula(np.asarray(counts, dtype=np.float64), beta)).float()


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
