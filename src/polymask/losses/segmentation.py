"""Loss terms on mask logits (B, C, H, W) float32 and masks (B, H, W) int64.

C = 1 is binary (targets 0 and 1, probabilities by sigmoid); C > 1 is multiclass (targets 0..C-1, 0 =
background, probabilities by softmax). Pixels of target 255 are ignored: a loss equals the loss of the other
pixels alone, and is 0 with zero gradient where none is left. Other target values are not checked, since
looking at them would stall the device.

Most terms (`soft_targets`) also take the masks of blended images: (B, C, H, W) float32 shares of foreground
(C = 1) or of the classes, 255 in all channels = ignore. Terms that are a mean over pixels then take the mean
over the classes of each pixel, too; those of overlap are at their least where probabilities equal the shares.

Why these are not the terms of segmentation_models_pytorch 0.6, whose formulas they share:

- Dice, Jaccard, Tversky: a binary mask without foreground has no gradient there, absent classes count as
  perfect in the mean over classes, and there is no mean over images.
- Cross-entropy: ignored pixels count in the denominator.
- Focal: NaN when all pixels are ignored; multiclass is one sigmoid per class, although the prediction is a
  softmax; selecting pixels by a mask waits for the device.
- Lovasz: multiclass gives an empty tensor when all pixels are ignored; selecting pixels waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymask.errors import number
from polymask.losses.classification import constant_labels, focal, log_odds
from polymask.structures.masks import IGNORE

SMALLEST_SMOOTH = 1.0e-6  # far below a pixel, far above the smallest float32


class CrossEntropyLoss(nn.Module):
    """Mean cross-entropy over valid pixels: of the sigmoid for C = 1, of the softmax for C > 1."""

    soft_targets: ClassVar[bool] = True

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return a scalar for logits (B, C, H, W) and target (B, H, W) or (B, C, H, W), 255 = ignore."""
        if logits.shape[1] == 1:
            truth = _truth(target, 1)[:, 0].to(logits.dtype)
            losses = F.binary_cross_entropy_with_logits(logits[:, 0], truth, reduction="none")
        elif target.is_floating_point():
            losses = -(_truth(target, logits.shape[1]) * logits.log_softmax(dim=1)).sum(dim=1)
        else:
            # Not F.cross_entropy, which has no deterministic CUDA kernel for images.
            index = target.masked_fill(target == IGNORE, 0).unsqueeze(1)
            losses = -logits.log_softmax(dim=1).gather(1, index).squeeze(1)
        return _mean_over_valid(losses, target)


class FocalLoss(nn.Module):
    """Mean of -a (1 - p)^gamma log p over valid pixels, with p the probability of the true class.

    Lin et al., "Focal loss for dense object detection", ICCV 2017. The sum is divided by the number of valid
    pixels, not by that of foreground pixels.

    Args:
        gamma: How much confident pixels are played down, >= 0; 0 is cross-entropy.
        alpha: In [0, 1]: a is alpha on foreground and 1 - alpha on background; None for a = 1.

    Raises:
        UserError: An argument is out of range.
    """

    soft_targets: ClassVar[bool] = True

    def __init__(self, *, gamma: float = 2.0, alpha: float | None = None) -> None:
        super().__init__()
        self.gamma = number("FocalLoss.gamma", gamma, least=0.0)
        self.alpha = None if alpha is None else number("FocalLoss.alpha", alpha, least=0.0, most=1.0)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return a scalar for logits (B, C, H, W) and target (B, H, W) or (B, C, H, W), 255 = ignore."""
        if target.is_floating_point():
            return _mean_over_valid(_mean_over_classes(lambda one: self._of(logits, one), target), target)
        return _mean_over_valid(self._of(logits, target), target)

    def _of(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each pixel (B, H, W) for hard targets of that shape."""
        losses = focal(_pixel_log_odds(logits, target), self.gamma)
        if self.alpha is not None:
            losses = losses * torch.where(target > 0, self.alpha, 1.0 - self.alpha)
        return losses


class DiceLoss(nn.Module):
    """1 - (2 TP + 2 smooth) / (2 TP + FP + FN + 2 smooth), with soft counts; see `TverskyLoss`.

    Milletari et al., "V-Net: fully convolutional neural networks for volumetric medical image segmentation",
    3DV 2016; the probabilities in the denominator are not squared here, so the loss at probabilities 0 and 1
    is that of the Dice metric.

    Args:
        smooth: In pixels, above 0.
        per_image: Take the mean over images, instead of pooling the pixels of the batch.

    Raises:
        UserError: `smooth` is not above 0.
    """

    soft_targets: ClassVar[bool] = True

    def __init__(self, *, smooth: float = 1.0, per_image: bool = False) -> None:
        super().__init__()
        self.smooth = number("DiceLoss.smooth", smooth, least=SMALLEST_SMOOTH)
        self.per_image = per_image

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return a scalar for logits (B, C, H, W) and target (B, H, W) or (B, C, H, W), 255 = ignore."""
        return _overlap_loss(logits, target, 0.5, 0.5, self.smooth, self.per_image)


class JaccardLoss(nn.Module):
    """1 - (TP + smooth) / (TP + FP + FN + smooth), with soft counts; see `TverskyLoss`.

    Rahman and Wang, "Optimizing intersection-over-union in deep neural networks for image segmentation",
    ISVC 2016.

    Args:
        smooth: In pixels, above 0.
        per_image: Take the mean over images, instead of pooling the pixels of the batch.

    Raises:
        UserError: `smooth` is not above 0.
    """

    soft_targets: ClassVar[bool] = True

    def __init__(self, *, smooth: float = 1.0, per_image: bool = False) -> None:
        super().__init__()
        self.smooth = number("JaccardLoss.smooth", smooth, least=SMALLEST_SMOOTH)
        self.per_image = per_image

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return a scalar for logits (B, C, H, W) and target (B, H, W) or (B, C, H, W), 255 = ignore."""
        return _overlap_loss(logits, target, 1.0, 1.0, self.smooth, self.per_image)


class TverskyLoss(nn.Module):
    """1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth), with soft counts of pixels.

    Salehi et al., "Tversky loss function for image segmentation using 3D fully convolutional deep networks",
    MLMI 2017. For C > 1 it is the mean over the classes, background included, that occur in the target. For
    C = 1 a target without foreground pulls all probabilities down, weakly once many pixels are wrong: join
    a pixelwise term to it.

    Args:
        alpha: Weight of false positives, >= 0; the paper found 0.3 and 0.7 best for small lesions.
        beta: Weight of false negatives, >= 0.
        smooth: In pixels, above 0; it keeps the loss defined and smooth where few pixels are foreground.
        per_image: Take the mean over images, instead of pooling the pixels of the batch.

    Raises:
        UserError: An argument is out of range.
    """

    soft_targets: ClassVar[bool] = True

    def __init__(
        self, *, alpha: float = 0.3, beta: float = 0.7, smooth: float = 1.0, per_image: bool = False
    ) -> None:
        super().__init__()
        self.alpha = number("TverskyLoss.alpha", alpha, least=0.0)
        self.beta = number("TverskyLoss.beta", beta, least=0.0)
        self.smooth = number("TverskyLoss.smooth", smooth, least=SMALLEST_SMOOTH)
        self.per_image = per_image

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return a scalar for logits (B, C, H, W) and target (B, H, W) or (B, C, H, W), 255 = ignore."""
        return _overlap_loss(logits, target, self.alpha, self.beta, self.smooth, self.per_image)


class LovaszLoss(nn.Module):
    """Lovasz extension of the Jaccard loss: hinge of the logits for C = 1, of softmax errors for C > 1.

    Berman et al., "The Lovasz-Softmax loss: a tractable surrogate for the optimization of the
    intersection-over-union measure in neural networks", CVPR 2018. For C > 1 it is the mean over the classes,
    background included, that occur in the target. For C = 1 a target without foreground gives the largest
    hinge, a gradient on one pixel only: join a pixelwise term to it. A pixel is foreground or not: it is
    defined for sets, so there are no soft targets.

    Args:
        per_image: Take the mean over images, instead of pooling the pixels of the batch.
    """

    def __init__(self, *, per_image: bool = False) -> None:
        super().__init__()
        self.per_image = per_image

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return a scalar for logits (B, C, H, W) and target (B, H, W), 255 = ignore."""
        valid = (target != IGNORE).unsqueeze(1)
        truth = one_hot(target, logits.shape[1])
        if logits.shape[1] == 1:
            errors = F.relu(1.0 - torch.where(truth, logits, -logits))
        else:
            errors = (truth.float() - logits.softmax(dim=1)).abs()
        # Ignored pixels may stay: neither foreground nor background, they weigh nothing and shift no weight.
        rows = [_sortable(tensor, self.per_image) for tensor in (errors, truth, valid & ~truth)]
        counted = rows[1].any(-1) if logits.shape[1] > 1 else _sortable(valid, self.per_image).any(-1)
        return _mean_over_rows(_lovasz_extension(*rows), counted)


def one_hot(target: Tensor, num_channels: int) -> Tensor:
    """Return which pixels of (B, H, W) belong to each channel, bool (B, C, H, W); ignored ones to none."""
    if num_channels == 1:
        return (target == 1).unsqueeze(1)
    classes = torch.arange(num_channels, device=target.device)
    return target.unsqueeze(1) == classes.view(1, -1, 1, 1)


def _truth(target: Tensor, num_channels: int) -> Tensor:
    """Return what of each pixel is of each channel (B, C, H, W), bool or shares; of ignored ones nothing."""
    if target.is_floating_point():
        return target.masked_fill(target == IGNORE, 0.0)
    return one_hot(target, num_channels)


def _mean_over_classes(loss_of: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """Return the mean of `loss_of(hard target)` over the classes of each pixel of a soft one (B, C, H, W)."""
    shares = _truth(target, target.shape[1])
    if shares.shape[1] == 1:
        shares = torch.cat([1 - shares, shares], dim=1)
    losses = [loss_of(one) for one in constant_labels(shares)]
    return (shares * torch.stack(losses, dim=1)).sum(dim=1)


def _valid(target: Tensor) -> Tensor:
    """Return which pixels count, bool (B, H, W)."""
    return (target[:, 0] if target.is_floating_point() else target) != IGNORE


def _pixel_log_odds(logits: Tensor, target: Tensor) -> Tensor:
    """Return log(p / (1 - p)) (B, H, W) of the true class's probability; anything finite where ignored."""
    if logits.shape[1] == 1:
        return torch.where(target == 1, logits[:, 0], -logits[:, 0])
    return log_odds(logits, target.masked_fill(target == IGNORE, 0))


def _mean_over_valid(losses: Tensor, target: Tensor) -> Tensor:
    """Average (B, H, W) over the valid pixels; 0 when there are none."""
    valid = _valid(target)
    return losses.masked_fill(~valid, 0.0).sum() / valid.sum().clamp_min(1)


def _mean_over_rows(losses: Tensor, counted: Tensor) -> Tensor:
    """Average (R, C) over the counted classes of each row, then over rows with any; 0 when there are none."""
    row_losses = (losses * counted).sum(-1) / counted.sum(-1).clamp_min(1)
    return row_losses.sum() / counted.any(-1).sum().clamp_min(1)


def _overlap_loss(
    logits: Tensor, target: Tensor, alpha: float, beta: float, smooth: float, per_image: bool
) -> Tensor:
    """Return the formula of `TverskyLoss`, of which Dice (1/2, 1/2) and Jaccard (1, 1) are cases.

    What probability p and share t have in common is min(p, t), which is p t for t = 0 and 1. With p t the
    best answer to a share of 0.6 would be 1 (Wang et al., "Dice semimetric losses: optimizing the Dice score
    with soft labels", MICCAI 2023, and "Jaccard metric losses", NeurIPS 2023: (p + t - |p - t|) / 2).
    """
    several = logits.shape[1] > 1
    valid = _valid(target).unsqueeze(1)
    truth = _truth(target, logits.shape[1])
    probabilities = (logits.softmax(dim=1) if several else logits.sigmoid()) * valid
    dims = (2, 3) if per_image else (0, 2, 3)
    common = torch.minimum(probabilities, truth) if truth.is_floating_point() else probabilities * truth
    hits, positives, real = common.sum(dims), probabilities.sum(dims), truth.sum(dims)
    errors = alpha * (positives - hits) + beta * (real - hits)
    # Without a channel of its own for background, a binary target without foreground counts too.
    counted = real > 0 if several else valid.sum(dims) > 0
    return _mean_over_rows(errors / (hits + errors + smooth), counted)


def _sortable(tensor: Tensor, per_image: bool) -> Tensor:
    """Turn (B, C, H, W) into one row of pixels per image and class (B, C, P), or per class (1, C, P)."""
    if per_image:
        return tensor.flatten(2)
    return tensor.transpose(0, 1).flatten(1).unsqueeze(0)


def _lovasz_extension(errors: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
    """Evaluate the extension on rows (R, C, P) of errors and of two disjoint bool masks; returns (R, C).

    The k-th largest error weighs as much as the Jaccard loss 1 - I / U grows when that pixel becomes wrong.
    Written out, that is 1 / U for foreground and I / (U (U - 1)) for background: differences of the ratio
    itself, as in the paper's Algorithm 1, drown in float32 rounding among millions of pixels.
    """
    sorted_errors, order = errors.sort(dim=-1, descending=True, stable=True)
    with torch.no_grad():
        foreground, background = foreground.gather(-1, order), background.gather(-1, order)
        real = foreground.sum(-1, keepdim=True)
        intersection = real - foreground.cumsum(-1)
        union = real + background.cumsum(-1)
        growth = intersection / (union * (union - 1)).clamp_min(1)
        # Without foreground the first wrong pixel takes the Jaccard loss from 0 to 1, the others add nothing.
        growth = torch.where((real == 0) & (union == 1), 1.0, growth)
        weights = foreground / union.clamp_min(1) + growth * background
    return (sorted_errors * weights).sum(-1)
