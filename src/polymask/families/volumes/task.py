"""Objects of volumes: trained on slices with their neighbours, evaluated on whole volumes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from polymask.data.images import resize_mask
from polymask.families.base import Batch
from polymask.families.network import NetworkTask
from polymask.families.volumes.dataset import Slicing, numbered_target
from polymask.families.volumes.finding import find_volume, link_volume
from polymask.families.volumes.linking import Linking
from polymask.families.volumes.loss import Loss
from polymask.families.volumes.predictions import SliceObjects
from polymask.metrics.volumes import match_volume, slice_rows
from polymask.models.mask_rcnn.segmenter import Target
from polymask.models.slices.segmenter import Reference, SliceSegmenter, chunks
from polymask.structures.volumes import FoundVolume, LoadedVolume, VolumeView, slice_stack

View = VolumeView | LoadedVolume

_SLICES_AT_ONCE = 4


class Task(NetworkTask):
    """Finds sections of objects in slices and links them to objects.

    Args:
        model: The network.
        loss: Weights of its losses.
        linking: How sections become objects.
        every_slice: Of the annotated slices of a volume every so many enter the losses of an evaluation, as
            they do in training.
        num_classes: Number of classes K, without the background.
        score_threshold: Least score of a section that counts.
        link_at: Thresholds with which the sections of an evaluation are linked anew, for choosing one.
        monitor: Metric that decides the best checkpoint.
        mode: `min` or `max`.
    """

    has_fixed_shapes = False
    model: SliceSegmenter
    loss: Loss

    def __init__(
        self,
        *,
        model: SliceSegmenter,
        loss: Loss,
        linking: Linking,
        every_slice: int = 1,
        num_classes: int = 1,
        score_threshold: float = 0.5,
        link_at: Sequence[float] = (),
        monitor: str = "val/seg",
        mode: str = "max",
    ) -> None:
        super().__init__()
        self.model, self.loss, self.linking = model, loss, linking
        self.every_slice, self.num_classes = every_slice, num_classes
        self.score_threshold, self.link_at = score_threshold, link_at
        self.monitor, self.mode = monitor, mode

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return `loss` and its terms; with a head that tells sections, of pairs of slices."""
        neighbours = batch.get("reference")
        reference = None
        if neighbours is not None:
            images = self.stacks([one["image"] for one in neighbours])
            reference = [
                Reference(image=image, target=one["target"])
                for image, one in zip(images, neighbours, strict=True)
            ]
        return self.loss(self.model(self.stacks(batch["image"]), batch["target"], reference))

    def evaluation_step(self, batch: Batch) -> list[FoundVolume]:
        """Find the objects of whole volumes, and collect losses and the comparison with the true objects."""
        names = ("ids", "volume", "truth", "annotated")
        return [self._evaluate(*volume) for volume in zip(*(batch[name] for name in names), strict=True)]

    def _evaluate(self, id_: str, view: View, truth_view: View, annotated: np.ndarray) -> FoundVolume:
        volume, truth = view.open(), truth_view.open()
        sections: list[SliceObjects] = []
        found = find_volume(
            id_,
            self.model,
            map(self.pixels, volume),
            seen=volume.shape[1:],
            shape=truth.shape,
            linking=self.linking,
            score_threshold=self.score_threshold,
            look=sections.append,
        )
        measured = match_volume(found, truth, annotated) | slice_rows(sections, truth, annotated)
        if self.link_at:
            # Where not every object is known nobody counts them, so there is nothing to choose by.
            nothing = dict.fromkeys(("linked_found", "linked_hits"), np.zeros(len(self.link_at), np.int64))
            is_complete = bool(measured["is_complete"])
            measured |= self._link_again(sections, truth, annotated) if is_complete else nothing
        rows = {name: torch.from_numpy(value[None]) for name, value in measured.items()}
        self.accumulator.update([id_], **self._losses(volume, truth, annotated), **rows)
        return found

    def _link_again(
        self, sections: Sequence[SliceObjects], truth: np.ndarray, annotated: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return the objects, and those that match, of each of the thresholds; one volume at a time."""
        scores = np.concatenate([objects.scores for objects in sections])
        known: dict[int, tuple[int, int]] = {}  # by number of sections: no score may lie between thresholds
        counts = []
        for threshold in self.link_at:
            enough = int(np.count_nonzero(scores >= threshold))
            if enough not in known:
                found = link_volume(
                    "", sections, shape=truth.shape, linking=self.linking, score_threshold=threshold
                )
                row = match_volume(found, truth, annotated, places=max(1, len(found.scores)))
                known[enough] = int(row["num_found"]), int(np.count_nonzero(row["volume_hits"] & 1))
            counts.append(known[enough])
        return dict(zip(("linked_found", "linked_hits"), np.array(counts).T, strict=True))

    def _losses(self, volume: np.ndarray, truth: np.ndarray, annotated: np.ndarray) -> dict[str, Tensor]:
        """Return the (1,) mean losses of the slices on which training would look."""
        sums: dict[str, Tensor] = {}
        places = Slicing(every=self.every_slice).chosen(annotated).tolist()
        # Always the same slices together, whatever the batch: the losses of a volume are its own.
        for chunk in chunks(places, _SLICES_AT_ONCE):
            images = [torch.from_numpy(slice_stack(volume, z, self.model.slices)) for z in chunk]
            target = [self._target(truth[z], volume.shape[1:]) for z in chunk]
            terms, _ = self.model.evaluate(self.stacks(images), target)
            sums = {name: sums.get(name, 0) + len(chunk) * value for name, value in self.loss(terms).items()}
        return {name: (total / len(places))[None] for name, total in sums.items()}

    def _target(self, labels: np.ndarray, size: tuple[int, int]) -> Target:
        """Return the objects of a slice of (H0, W0) labels at the size at which the network sees it."""
        target = numbered_target(resize_mask(np.array(labels), size)[..., None])
        return {name: torch.from_numpy(value).to(self._device) for name, value in target.items()}

    def stacks(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Return (n, H, W) float32 stacks in [0, 1] of (H, W, n) uint8; the network normalises by itself."""
        return [image.to(self._device).permute(2, 0, 1).float().div_(255) for image in images]

    def pixels(self, page: np.ndarray) -> Tensor:
        """Return a (H, W) uint8 slice as the network takes it: float32 in [0, 1], on its device."""
        return torch.from_numpy(np.array(page)).to(self._device).float().div_(255)

    @property
    def _device(self) -> torch.device:
        return self.model.pixel_mean.device
