"""The loss of masked autoencoders: squared errors of the patches that the encoder did not see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from polymask.models.vit_mae.network import Reconstruction

_CHANNELS = 3
_EPSILON = 1e-6


class Loss(nn.Module):
    """Mean squared error over the values of masked patches, for each image by itself.

    He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, section 3. A patch is normalised
    as in their code: its mean taken away, then divided by the root of its variance (over D - 1) plus 1e-6.

    Patches are (B, N, D): B images of N patches of D values, in the order row, column, channel. Masks are
    (B, N) with 1 = masked, 0 = seen by the encoder.

    Args:
        norm_pixels: Learn each patch apart from its own mean and contrast: better for what is fine-tuned
            later (He et al., table 1d), while a patch's colour is no longer learned.
    """

    gives = frozenset({"reconstruction"})

    def __init__(self, *, norm_pixels: bool = False) -> None:
        super().__init__()
        self.norm_pixels = norm_pixels

    def forward(self, patches: Tensor, found: Reconstruction) -> Tensor:
        """Return the loss of each image.

        Args:
            patches: (B, N, D) true patches, as the network saw them.
            found: What it predicted of them, and their mask.

        Returns:
            (B,) float32.
        """
        errors = (found.patches.float() - self.target(patches)).square().mean(dim=-1)
        return _masked_mean(errors, found.mask)

    def of_mean_image(self, patches: Tensor, mask: Tensor) -> Tensor:
        """Return the variance of the masked patches: what their mean colour everywhere would lose.

        A network that has learned nothing but colours has this loss.

        Args:
            patches: (B, N, D) true patches.
            mask: (B, N).

        Returns:
            (B,) float32.
        """
        colours = self.target(patches).unflatten(-1, (-1, _CHANNELS))  # (B, N, D / 3, 3)
        mean = _masked_mean(colours.mean(dim=2).movedim(-1, 0), mask)  # (3, B)
        errors = (colours - mean.T[:, None, None]).square().mean(dim=(2, 3))
        return _masked_mean(errors, mask)

    def target(self, patches: Tensor) -> Tensor:
        """Return what is to be predicted of (B, N, D) patches."""
        patches = patches.float()
        if not self.norm_pixels:
            return patches
        mean, deviation = _statistics(patches)
        return (patches - mean) / deviation

    def undo(self, predicted: Tensor, patches: Tensor) -> Tensor:
        """Return (B, N, D) predicted patches as patches of an image, with the contrast of the true ones."""
        if not self.norm_pixels:
            return predicted.float()
        mean, deviation = _statistics(patches.float())
        return predicted.float() * deviation + mean


def _statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (B, N, 1) of each patch."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + _EPSILON).sqrt()


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the masked of N patches: (..., B, N) values to (..., B)."""
    mask = mask.float()
    return (values * mask).sum(dim=-1) / mask.sum(dim=-1)
