"""Mask R-CNN on slices of a volume, each seen together with its neighbours."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypedDict, TypeVar

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from polymask.errors import UserError
from polymask.models.mask_rcnn.segmenter import MaskRCNNSegmenter, RawInstances, Target, in_mode
from polymask.models.slices.early import CHANNELS
from polymask.models.slices.embedding import EmbeddingHead, boxes_to_match, matching_loss
from polymask.models.slices.fusion import Fusion

Item = TypeVar("Item")


class Reference(TypedDict):
    """A neighbour: `image` (n, H, W) float32 in [0, 1], and `target`, the objects of its middle slice."""

    image: Tensor
    target: Target


class SliceMaps(NamedTuple):
    """What the backbone makes of one slice.

    Attributes:
        image: (1, 3, H', W'), normalised, resized and padded.
        resized: Height and width without the padding.
        size: Height and width of the slice itself.
        maps: (1, C, H' / stride, W' / stride) by name.
    """

    image: Tensor
    resized: tuple[int, int]
    size: tuple[int, int]
    maps: Mapping[str, Tensor]


class SliceSegmenter(MaskRCNNSegmenter):
    """A Mask R-CNN whose images are lists of B stacks (n, H, W) float32 in [0, 1], the slice in the middle.

    What it finds, and what it is told in training, are the objects of the middle slice.

    Args:
        plain: The 2-D network. Its modules become this one's, under the same names.
        slices: n, odd.
        build_parts: Builds `fusion` and `embedding` (None for none), drawing what is random from torch's
            global generator.
    """

    fusion: Fusion
    embedding: EmbeddingHead | None

    def __init__(
        self,
        plain: MaskRCNNSegmenter,
        *,
        slices: int,
        build_parts: Callable[[], Mapping[str, nn.Module | None]],
    ) -> None:
        self.__setstate__(vars(plain))
        self.slices = slices
        self._build_parts = build_parts
        for name, part in self._start().items():
            setattr(self, name, part)

    def _start(self) -> Mapping[str, nn.Module | None]:
        """Return the parts as they start; the generator is left alone, so that all else starts as in 2-D."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random_state)
            return self._build_parts()

    def reset_weights(self) -> None:
        """Return to the weights that the network started from, see the 2-D network."""
        super().reset_weights()
        for name, start in self._start().items():
            if start is not None:
                getattr(self, name).load_state_dict(start.state_dict())

    def forward(
        self,
        images: Sequence[Tensor],
        target: Sequence[Target],
        reference: Sequence[Reference] | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses of a training batch.

        Args:
            images: B stacks.
            target: The objects of their middle slices; with an embedding, also their `numbers` (N,) in the
                volume.
            reference: With an embedding, B stacks around neighbouring slices, with the objects of these.

        Returns:
            The five losses of the 2-D network, and `loss_embedding` if there is an embedding.

        Raises:
            UserError: There is an embedding and no reference, or a reference and no embedding.
        """
        batch, targets, features = self._features(images, target)
        losses, proposals = self._losses(batch, targets, features)
        if (self.embedding is None) != (reference is None):
            raise UserError(
                "data.reference, pairs of neighbouring slices, and model.embedding, what learns from them, "
                "go together: give both the same value, or none."
            )
        if self.embedding is None or reference is None:
            return losses
        boxes, numbers = boxes_to_match(proposals, [own["boxes"] for own in targets], _numbers(target))
        vectors = self._embed(self.embedding, batch, features, boxes)
        stacks, known = [one["image"] for one in reference], [one["target"] for one in reference]
        batch, targets, features = self._features(stacks, known)
        earlier = self._embed(self.embedding, batch, features, [own["boxes"] for own in targets])
        loss = matching_loss(vectors, numbers, earlier, _numbers(known))
        return losses | {"loss_embedding": loss}

    def predict_volume(self, slices: Iterable[Tensor], *, batch: int = 4) -> Iterator[RawInstances]:
        """Yield the detections in each slice of a volume, in order.

        Slices are asked for when they are needed; for those beyond the ends, the outermost stands in. A late
        fusion computes the maps of each slice once. At most 2 `batch` + n slices, or their maps, are kept.

        Args:
            slices: (H, W) float32 in [0, 1], of one size, on the network's device.
            batch: How many slices go through the network together.
        """
        if self.fusion.is_late:
            for stacks in chunks(windows(self._each_by_itself(slices, batch), self.slices), batch):
                yield from self._find_in_maps(stacks)
        else:
            for near in chunks(windows(slices, self.slices), batch):
                yield from self.predict([torch.stack(stack) for stack in near])

    def _each_by_itself(self, slices: Iterable[Tensor], batch: int) -> Iterator[SliceMaps]:
        for chunk in chunks(slices, batch):
            yield from self._maps_of_slices(chunk)

    @torch.no_grad()
    def _maps_of_slices(self, slices: Sequence[Tensor]) -> list[SliceMaps]:
        """Return what the backbone makes of each slice, without its neighbours."""
        with in_mode(self, training=False):
            batch, _ = self.detector.transform(self.fusion.pictures([image[None] for image in slices]))
            maps = self.detector.backbone(batch.tensors)
        return [
            SliceMaps(
                image=batch.tensors[row, None],
                resized=batch.image_sizes[row],
                size=(image.shape[0], image.shape[1]),
                maps={name: level[row, None] for name, level in maps.items()},
            )
            for row, image in enumerate(slices)
        ]

    @torch.no_grad()
    def _find_in_maps(self, stacks: Sequence[Sequence[SliceMaps]]) -> list[RawInstances]:
        """Return the detections in the middle slices of B stacks of n."""
        middle = [stack[self.slices // 2] for stack in stacks]
        pictures = [
            {name: torch.cat([stack[place].maps[name] for stack in stacks]) for name in middle[0].maps}
            for place in range(self.slices)
        ]
        batch = ImageList(torch.cat([one.image for one in middle]), [one.resized for one in middle])
        with in_mode(self, training=False):
            return self._find(batch, self.fusion.maps(pictures), [one.size for one in middle])

    def _features(
        self, images: Sequence[Tensor], target: Sequence[Target] | None = None
    ) -> tuple[ImageList, list[Target], dict[str, Tensor]]:
        for image in images:
            if len(image) != self.slices:
                raise UserError(
                    f"model.slices={self.slices} does not fit stacks of {len(image)} slices; leave it out, "
                    f"and give data.slices={self.slices}."
                )
        return super()._features(self.fusion.pictures(images), target)

    def _maps(self, tensors: Tensor) -> dict[str, Tensor]:
        # One pass for each slice, of as many images as in 2-D: kernels may round otherwise for other batches.
        pictures = [picture.contiguous() for picture in tensors.split(CHANNELS, dim=1)]
        return self.fusion.maps([self.detector.backbone(picture) for picture in pictures])

    def _detect(
        self, batch: ImageList, features: dict[str, Tensor], proposals: list[Tensor]
    ) -> list[dict[str, Tensor]]:
        found = super()._detect(batch, features, proposals)
        if self.embedding is None:
            return found
        vectors = self._embed(self.embedding, batch, features, [objects["boxes"] for objects in found])
        return [objects | {"embedding": own} for objects, own in zip(found, vectors, strict=True)]

    def _embed(
        self, head: EmbeddingHead, batch: ImageList, features: dict[str, Tensor], boxes: list[Tensor]
    ) -> list[Tensor]:
        """Return (N, D) vectors of the boxes (N, 4) in each resized image."""
        pooled = self.detector.roi_heads.box_roi_pool(features, boxes, batch.image_sizes)
        return list(head(pooled).split([len(own) for own in boxes]))


def windows(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """Yield `size` neighbours around each item, in order; beyond the ends the outermost item stands in."""
    near: deque[Item] = deque(maxlen=size)
    for item in items:
        near.extend([item] * (1 if near else 1 + size // 2))
        if len(near) == size:
            yield tuple(near)
    for _ in range(size // 2 if near else 0):
        near.append(near[-1])
        if len(near) == size:
            yield tuple(near)


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items, the last one of the rest."""
    rest = iter(items)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk


def _numbers(target: Sequence[Target]) -> list[Tensor]:
    """Return the numbers of the objects of each image, in the order in which the network is told them."""
    return [objects["numbers"][~objects["crowd"]] for objects in target]
