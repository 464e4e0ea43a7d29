"""Which training images are mixed in pairs, and how: the options, and what is drawn for a batch.

Two methods, each for a share of the images, with a partner from the same batch and process:

- mixup blends two images: Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018.
- cutmix pastes a box of one into the other: Yun et al., "CutMix: Regularization strategy to train strong
  classifiers with localizable features", ICCV 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from polymask.errors import UserError, number

if TYPE_CHECKING:
    from polymask.families.multitask.loss import Loss


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Which training images are mixed, and how: the options `task.mixing`.

    Attributes:
        mixup: Probability that an image is blended with another, in [0, 1].
        cutmix: Probability that a box of another is pasted into it; both together at most 1.
        mixup_alpha: Each image's own share is drawn from Beta(alpha, alpha), alpha > 0; 0.2 as in the paper.
        cutmix_alpha: Likewise; 1 as in the paper: all shares are equally likely.

    Raises:
        UserError: A value is out of range.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_alpha: float = 0.2
    cutmix_alpha: float = 1.0

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            number(f"task.mixing.{name}", getattr(self, name), least=0, most=1, what="a probability")
            number(f"task.mixing.{name}_alpha", getattr(self, f"{name}_alpha"), above=0)
        if self.mixup + self.cutmix > 1:
            raise UserError(
                f"task.mixing.mixup={self.mixup} and task.mixing.cutmix={self.cutmix} are more than 1 "
                "together, but an image is mixed in one way: give e.g. 0.5 and 0.5."
            )

    @property
    def wanted(self) -> str:
        """Return what is asked for, as key=value, or "" for nothing."""
        shares = {"task.mixing.mixup": self.mixup, "task.mixing.cutmix": self.cutmix}
        return next((f"{key}={share}" for key, share in shares.items() if share), "")

    def check(self, loss: Loss, *, masks: bool, classes: bool) -> None:
        """Stop when a term of the loss cannot learn from what is true of mixed images.

        Args:
            loss: The loss.
            masks: Whether masks are learned; only those of mixup become shares.
            classes: Whether classes are.

        Raises:
            UserError: There is such a term.
        """
        if self.mixup and masks and (hard := loss.hard_terms("segmentation")):
            raise UserError(
                f"loss.segmentation.{hard[0]} cannot learn from the blended masks of task.mixing.mixup="
                f"{self.mixup}: use task.mixing.cutmix, whose masks stay whole, or terms such as those of "
                "loss=dice_bce_ce."
            )
        if self.wanted and classes and (hard := loss.hard_terms("classification")):
            raise UserError(
                f"loss.classification.{hard[0]} cannot learn from the mixed classes of {self.wanted}: use "
                "the terms of polymask.losses.classification, or leave task.mixing out."
            )

    def draw(self, random: np.random.Generator, num_images: int, size: tuple[int, int]) -> Plan:
        """Draw how the images of a batch are mixed.

        Args:
            random: Where chance comes from.
            num_images: B, at least 2.
            size: (height, width) of the images.

        Raises:
            UserError: An image is alone.
        """
        if num_images < 2:
            raise UserError(
                f"{self.wanted} needs two images in a batch, but there is one: raise data.batch_size, or "
                "leave task.mixing out."
            )
        chance = random.random(num_images)
        shares = random.beta(self.mixup_alpha, self.mixup_alpha, num_images).astype(np.float32)
        boxes = _draw_boxes(random, random.beta(self.cutmix_alpha, self.cutmix_alpha, num_images), size)
        is_mixup = chance < self.mixup
        is_cutmix = ~is_mixup & (chance < self.mixup + self.cutmix)
        return Plan(
            shares=np.where(is_mixup, shares, np.float32(1)), boxes=boxes * is_cutmix[:, None], size=size
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the B images of a batch are mixed, each with the one before it, the first with the last.

    A batch comes in random order, so that one is any other image.

    Attributes:
        shares: (B,) float32 share of the image itself where it is blended, 1 elsewhere.
        boxes: (B, 4) int64 top, left, bottom, right of what is pasted, ends exclusive; empty for nothing.
        size: (height, width) of the images.
    """

    shares: np.ndarray
    boxes: np.ndarray
    size: tuple[int, int]

    @property
    def blended(self) -> np.ndarray:
        """Return which images are blended, (B,) bool."""
        return self.shares < 1

    @property
    def pasted(self) -> np.ndarray:
        """Return which images get a box of another, (B,) bool."""
        return self.areas > 0

    @property
    def areas(self) -> np.ndarray:
        """Return the pixels of the boxes, (B,)."""
        top, left, bottom, right = self.boxes.T
        return (bottom - top) * (right - left)


def _draw_boxes(random: np.random.Generator, shares: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draw boxes (B, 4) that leave about `shares` (B,) of the image, cut off where they leave it."""
    sides = np.array(size)
    centres = random.integers(sides, size=(len(shares), 2))
    half = (0.5 * np.sqrt(1 - shares)[:, None] * sides).astype(np.int64)
    return np.concatenate([(centres - half).clip(min=0), np.minimum(centres + half, sides)], axis=1)
