"""Mixing a batch on its device: the images of a plan, and what is true of the mixture.

Blending and pasting are one formula: of each pixel a share `kept` is the image's own, the rest its partner's.
Masks are mixed by the very same shares. Pixels to which an ignored one contributes are ignored, and an image
of which one label is unknown does not count in the classes.

How much each class counts is the share of mixup. With cutmix it follows what is seen of the lesions, in
pixels, where both masks show one, for a label must not be earned by pasted skin; if nothing is left of either
lesion, the image does not count in the classes. Where a mask is missing or empty it is the share of the area,
as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from polymask.families.base import Batch
from polymask.families.multitask.dataset import rows_of
from polymask.families.multitask.mixing import Mixing, Plan
from polymask.losses.segmentation import one_hot
from polymask.structures.masks import IGNORE
from polymask.structures.samples import TitledSample


class Mixer:
    """Mixes the training batches of a task.

    Args:
        mixing: How.
        num_masks: Channels C of the masks' logits.
        num_classes: Number of classes K.
    """

    def __init__(self, mixing: Mixing, *, num_masks: int, num_classes: int) -> None:
        self.mixing, self.num_masks, self.num_classes = mixing, num_masks, num_classes
        self.start_epoch()

    def start_epoch(self) -> None:
        """Begin to draw anew.

        From the seed that the epoch gave torch, which follows from (seed, epoch, process): so an interrupted
        run draws the same again, and what dropout draws stays what it would be without mixing.
        """
        self._random = np.random.default_rng(torch.initial_seed())

    def __call__(self, images: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        """Return a batch with some of its images mixed, without waiting for the device.

        Args:
            images: (B, 3, H, W) float32.
            batch: See `dataset.collate`; `mask` (B, H, W) int64.

        Returns:
            The images; and the batch, whose `label` is soft, (B, K) float32, and whose `mask` is so, too,
            (B, C, H, W) float32, if an image of it was blended. Its `image` is as it was.
        """
        height, width = images.shape[2:]
        plan = self.mixing.draw(self._random, len(images), (height, width))
        if not (plan.blended | plan.pasted).any():
            return images, batch
        return mix(images, batch, plan, num_masks=self.num_masks, num_classes=self.num_classes)


def mix(
    images: Tensor, batch: Batch, plan: Plan, *, num_masks: int, num_classes: int
) -> tuple[Tensor, Batch]:
    """Mix a batch by a plan, see `Mixer`."""
    device, mask = images.device, batch["mask"]
    numbers = np.column_stack([plan.shares, 1 - plan.areas / (plan.size[0] * plan.size[1]), plan.boxes])
    share, area_share, *box = _on_device(torch.from_numpy(numbers).float(), device).unbind(dim=1)
    kept = _kept(share, box, plan.size)
    label_share, counts = _label_shares(mask, kept, share * area_share, is_pasted=box[0] < box[2])
    rows = _rows(plan, np.array(batch["masked"]), np.array(batch["labelled"]))
    mixed = {
        "mask": _mixed_masks(mask, kept, num_masks) if plan.blended.any() else _pasted_masks(mask, kept),
        "label": _with_partner(_labels(batch["label"], num_classes), label_share) * counts.unsqueeze(1),
        **{name: None if found is None else _on_device(found, device) for name, found in rows.items()},
    }
    if "metadata" in batch:  # of a mixed image as of a person in between, as mixup has it of all inputs
        mixed["metadata"] = _with_partner(batch["metadata"], label_share)
    return _with_partner(images, kept), {**batch, **mixed}


def mixed_samples(batch: Batch, mixing: Mixing, class_names: Sequence[str]) -> list[TitledSample]:
    """Return the images of a batch, still uint8, as training would mix them, and where they show a lesion."""
    height, width = batch["image"].shape[1:3]
    plan = mixing.draw(np.random.default_rng(0), len(batch["ids"]), (height, width))
    mask = torch.where(batch["mask"] == IGNORE, IGNORE, (batch["mask"] > 0).long())
    images = batch["image"].permute(0, 3, 1, 2).float()
    images, mixed = mix(images, {**batch, "mask": mask}, plan, num_masks=1, num_classes=len(class_names))
    pictures = images.permute(0, 2, 3, 1).round().byte().numpy()
    mask = mixed["mask"].squeeze(1)
    masks = torch.where(mask == IGNORE, IGNORE, (mask > 0).long()).byte().numpy()
    counted = range(len(pictures)) if mixed["label_rows"] is None else mixed["label_rows"].tolist()
    words = [_words(shares, class_names) for shares in mixed["label"].tolist()]
    titles = [f"{id_}: {words[row]}" if row in counted else id_ for row, id_ in enumerate(batch["ids"])]
    return [TitledSample(*sample) for sample in zip(titles, pictures, masks, strict=True)]


def _words(shares: Sequence[float], class_names: Sequence[str]) -> str:
    """Return the shares of the classes of an image, such as "0.70 MEL, 0.30 NV"."""
    found = [f"{share:.2f} {name}" for share, name in zip(shares, class_names, strict=True) if share]
    return ", ".join(found) or "no class"


def _rows(plan: Plan, masked: np.ndarray, labelled: np.ndarray) -> dict[str, Tensor | None]:
    """Return `mask_rows` and `label_rows` of a mixed batch, of (B,) bool that say what the images have."""
    partner_masked, partner_labelled = np.roll(masked, 1), np.roll(labelled, 1)
    masks = np.where(plan.blended, masked & partner_masked, masked | (plan.pasted & partner_masked))
    labels = labelled & (partner_labelled | ~(plan.blended | plan.pasted))
    return {"mask_rows": rows_of(masks.tolist()), "label_rows": rows_of(labels.tolist())}


def _on_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy to the device without waiting for it, which takes pinned memory on a GPU."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def _kept(share: Tensor, box: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Return what of each pixel is the image's own, (B, H, W), from shares (B,) and edges of boxes (B,)."""
    top, left, bottom, right = (edge.view(-1, 1, 1) for edge in box)
    row = torch.arange(size[0], device=share.device).view(1, -1, 1)
    column = torch.arange(size[1], device=share.device).view(1, 1, -1)
    outside = (row < top) | (row >= bottom) | (column < left) | (column >= right)
    return outside * share.view(-1, 1, 1)


def _with_partner(values: Tensor, own: Tensor) -> Tensor:
    """Return (B, ...) values mixed with those of the partners; shares `own` (B,) or, of images, (B, H, W)."""
    weights = own.view(-1, *[1] * (values.dim() - own.dim()), *own.shape[1:])
    return torch.lerp(values.roll(1, 0), values, weights)


def _mixed_masks(mask: Tensor, kept: Tensor, num_masks: int) -> Tensor:
    """Return soft masks (B, C, H, W) float32, 255 in all channels where a part of the pixel is ignored."""
    partner = mask.roll(1, 0)
    ignored = ((mask == IGNORE) & (kept > 0)) | ((partner == IGNORE) & (kept < 1))
    shares = _with_partner(one_hot(mask, num_masks).float(), kept)
    return shares.masked_fill(ignored.unsqueeze(1), IGNORE)


def _pasted_masks(mask: Tensor, kept: Tensor) -> Tensor:
    """Return masks (B, H, W) of which boxes are the partners'; nothing is blended."""
    return torch.where(kept > 0, mask, mask.roll(1, 0))


def _labels(label: Tensor, num_classes: int) -> Tensor:
    """Return labels (B,) as (B, K) float32; unknown ones are of no class."""
    return (label.unsqueeze(1) == torch.arange(num_classes, device=label.device)).float()


def _label_shares(mask: Tensor, kept: Tensor, share: Tensor, *, is_pasted: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much each image's own label counts, and whether either counts at all.

    Args:
        mask: (B, H, W) int64, 255 = ignore.
        kept: (B, H, W) what of each pixel is the image's own.
        share: (B,) share of blended images, or of the area.
        is_pasted: (B,) which images have a box of another.

    Returns:
        (B,) float32 in [0, 1], and (B,) bool.
    """
    lesion = ((mask > 0) & (mask != IGNORE)).float()
    has_lesion = lesion.sum(dim=(1, 2)) > 0
    own = (lesion * kept).sum(dim=(1, 2))
    seen = own + (lesion.roll(1, 0) * (1 - kept)).sum(dim=(1, 2))
    by_lesions = is_pasted & has_lesion & has_lesion.roll(1, 0)
    return torch.where(by_lesions, own / seen.clamp_min(1), share), ~by_lesions | (seen > 0)
