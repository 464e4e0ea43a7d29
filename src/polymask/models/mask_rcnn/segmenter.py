"""Training, evaluation and prediction with a Mask R-CNN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.models.detection.transform import resize_boxes

from polymask.errors import UserError
from polymask.models.batch_norm import batch_norms
from polymask.models.mask_rcnn.detector import trial
from polymask.models.mask_rcnn.pasting import to_predictions
from polymask.structures.objects import FoundObjects

Target = dict[str, Tensor]
"""The objects of an image: `boxes` (N, 4) float32 x0, y0, x1, y1 in pixels, `labels` (N,) int64 from 0,
`masks` (N, H, W) uint8, `crowd` (N,) bool."""

RawInstances = dict[str, Tensor]
"""Detections in an image, best first: `boxes` (N, 4) float32 x0, y0, x1, y1 in the image's own pixels,
`labels` (N,) int64 from 0, `scores` (N,) float32, `masks` (N, M, M) float32 probabilities in the boxes."""


class MaskRCNNSegmenter(nn.Module):
    """Finds the objects in images of any size, with box, class and mask (He et al., ICCV 2017).

    Images are lists of B float32 tensors (3, H, W) with values in [0, 1]; the network normalises and resizes
    them itself.

    Args:
        build_detector: Builds the network with the weights that it starts from, drawing what is random from
            torch's global generator.
        trainable_layers: How many of the encoder's stages are trained, counted from the deepest; None: all.
        freeze_normalization: Keep the statistics of all batch normalisation as they are, and in the encoder
            its scales and shifts, too.

    Raises:
        UserError: The encoder has fewer stages.
    """

    def __init__(
        self,
        *,
        build_detector: Callable[[], MaskRCNN],
        trainable_layers: int | None = None,
        freeze_normalization: bool,
    ) -> None:
        super().__init__()
        self._build_detector = build_detector
        self._random_state = torch.get_rng_state()
        self.detector = build_detector()
        self.freeze_normalization = freeze_normalization
        self._trained = self._names_to_train(trainable_layers)
        self.start_epoch(0)

    @property
    def encoder(self) -> nn.Module:
        """Return the encoder without the pyramid."""
        return self.detector.backbone.body

    @property
    def pixel_mean(self) -> Tensor:
        """Return the (3,) mean that is taken from pixels of values in [0, 1]."""
        return self.detector.transform.pixel_mean

    @property
    def pixel_std(self) -> Tensor:
        """Return the (3,) standard deviation by which they are divided then."""
        return self.detector.transform.pixel_std

    def forward(self, images: Sequence[Tensor], target: Sequence[Target]) -> dict[str, Tensor]:
        """Return the losses of a training batch.

        Args:
            images: B images.
            target: Their objects; crowd regions are no objects, and what lies in them is no background.

        Returns:
            `loss_objectness`, `loss_rpn_box_reg`, `loss_classifier`, `loss_box_reg`, `loss_mask`: float32
            scalars, without objects 0 where there is nothing to learn.
        """
        batch, targets, features = self._features(images, target)
        losses, _ = self._losses(batch, targets, features)
        return losses

    @torch.no_grad()
    def evaluate(
        self, images: Sequence[Tensor], target: Sequence[Target]
    ) -> tuple[dict[str, Tensor], list[RawInstances]]:
        """Return the losses of `forward` and the detections of `predict` from one pass of the backbone.

        The network is in evaluation mode. The anchors and boxes that enter the losses are drawn from a fixed
        seed, so the losses depend on nothing but batch and weights; the global generators are left alone.
        Images of one size go together: beside larger ones they would be padded, and the padding would change
        what is found in them.
        """
        found: dict[int, RawInstances] = {}
        sums: dict[str, Tensor] = {}
        with in_mode(self, training=False):
            for rows in _of_one_size(images):
                with _fixed_randomness(images[0].device):
                    losses, raw = self._evaluate([images[row] for row in rows], [target[row] for row in rows])
                found |= zip(rows, raw, strict=True)
                sums = {name: sums.get(name, 0.0) + len(rows) * value for name, value in losses.items()}
        means = {name: value / len(images) for name, value in sums.items()}
        return means, [found[row] for row in range(len(images))]

    def _evaluate(
        self, images: Sequence[Tensor], target: Sequence[Target]
    ) -> tuple[dict[str, Tensor], list[RawInstances]]:
        """Evaluate images of one size."""
        batch, targets, features = self._features(images, target)
        proposals, samples, losses = self._propose(batch, features, targets)
        heads = self.detector.roi_heads
        with _training_flag(heads):
            _, head_losses = heads(features, samples, batch.image_sizes, targets)
        raw = self._detect(batch, features, proposals)
        return head_losses | losses, _own_pixels(raw, batch, [_size(image) for image in images])

    @torch.no_grad()
    def predict(self, images: Sequence[Tensor]) -> list[RawInstances]:
        """Return the detections in each of B images; they do not depend on the other images."""
        found: dict[int, RawInstances] = {}
        with in_mode(self, training=False):
            for rows in _of_one_size(images):
                batch, _, features = self._features([images[row] for row in rows])
                sizes = [_size(images[row]) for row in rows]
                found |= zip(rows, self._find(batch, features, sizes), strict=True)
        return [found[row] for row in range(len(images))]

    def _features(
        self, images: Sequence[Tensor], target: Sequence[Target] | None = None
    ) -> tuple[ImageList, list[Target], dict[str, Tensor]]:
        """Return images and objects normalised and resized, no objects without a target, and the maps."""
        batch, targets = self.detector.transform(list(images), None if target is None else _countable(target))
        return batch, targets or [], self._maps(batch.tensors)

    def _maps(self, tensors: Tensor) -> dict[str, Tensor]:
        """Return the pyramid's maps of a batch that is normalised, resized and padded."""
        return self.detector.backbone(tensors)

    def _losses(
        self, batch: ImageList, targets: list[Target], features: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return the losses of training, and the proposals (P, 4) in each resized image, best first."""
        proposals, losses = self.detector.rpn(batch, features, targets)
        _, head_losses = self.detector.roi_heads(features, proposals, batch.image_sizes, targets)
        return head_losses | losses, proposals

    def _find(
        self, batch: ImageList, features: dict[str, Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[RawInstances]:
        """Return the detections in images of these (height, width)."""
        proposals, _ = self.detector.rpn(batch, features)
        return _own_pixels(self._detect(batch, features, proposals), batch, sizes)

    def _detect(
        self, batch: ImageList, features: dict[str, Tensor], proposals: list[Tensor]
    ) -> list[dict[str, Tensor]]:
        """Return torchvision's detections, in the pixels of the resized images."""
        found, _ = self.detector.roi_heads(features, proposals, batch.image_sizes)
        return found

    def _propose(
        self, batch: ImageList, features: dict[str, Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
        """Return proposals as in prediction, proposals as in training, and the losses of proposing.

        The network of torchvision does one or the other; here the layers run once for both.
        """
        rpn, maps = self.detector.rpn, list(features.values())
        by_level = rpn.head(maps)
        anchors = rpn.anchor_generator(batch, maps)
        anchors_per_level = [level[0].numel() for level in by_level[0]]
        objectness, offsets = concat_box_prediction_layers(*by_level)
        boxes = rpn.box_coder.decode(offsets, anchors).view(len(anchors), -1, 4)
        choose = partial(rpn.filter_proposals, boxes, objectness, batch.image_sizes, anchors_per_level)
        proposals, _ = choose()
        with _training_flag(rpn):  # keeps more of them
            samples, _ = choose()
        labels, matched = rpn.assign_targets_to_anchors(anchors, targets)
        regression_targets = rpn.box_coder.encode(matched, anchors)
        loss_objectness, loss_boxes = rpn.compute_loss(objectness, offsets, labels, regression_targets)
        return proposals, samples, {"loss_objectness": loss_objectness, "loss_rpn_box_reg": loss_boxes}

    def to_objects(
        self, ids: Sequence[str], found: Sequence[RawInstances], sizes: Sequence[tuple[int, int]]
    ) -> list[FoundObjects]:
        """Return what `evaluate` or `predict` found in B images with masks of the images' (height, width)."""
        return to_predictions(ids, found, sizes)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the encoder that are trained, for a learning rate of their own."""
        return [value for name, value in self.encoder.named_parameters() if name in self._trained]

    def other_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of pyramid, proposal network and heads."""
        encoder = set(self.encoder.parameters())
        return [value for value in self.parameters() if value not in encoder]

    def start_epoch(self, epoch: int) -> None:
        """Freeze what is not trained; it is the same in every epoch, counted from 0."""
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(name in self._trained)
        self.train(self.training)

    def train(self, mode: bool = True) -> MaskRCNNSegmenter:
        """Set the training mode; frozen normalisation stays in evaluation mode, to keep its statistics."""
        super().train(mode)
        inside = set(self.encoder.modules())
        for layer in batch_norms(self).values():
            if self.freeze_normalization or (layer in inside and not layer.weight.requires_grad):
                layer.eval()
        return self

    def reset_weights(self) -> None:
        """Return to the weights that the network started from, pretrained or random, as for another fold.

        The network is built once more, from the same state of the random generator, and then forgotten, so
        that no copy of the weights has to be kept. Optimizers stay valid.
        """
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random_state)
            start = self._build_detector()
        self.detector.load_state_dict(start.state_dict())

    def _names_to_train(self, trainable_layers: int | None) -> set[str]:
        """Return the names of the encoder's parameters that are trained."""
        stages = _stages(self.encoder)
        if trainable_layers is None:
            trainable_layers = len(stages)
        if trainable_layers > len(stages):
            raise UserError(
                f"model.trainable_layers={trainable_layers} is not valid; the encoder has {len(stages)} "
                "stages, null trains them all."
            )
        names = set().union(*stages[len(stages) - trainable_layers :])
        if self.freeze_normalization:
            for layer in batch_norms(self.encoder):
                names -= {f"{layer}.weight", f"{layer}.bias"}
        return names


def _stages(encoder: nn.Module) -> list[set[str]]:
    """Return the names of the parameters of each stage: those on which its map depends, but no earlier one.

    A parameter on which no map depends, such as that of a layer behind the last, is in none of them.
    """
    with torch.enable_grad():
        maps = [level for level in trial(encoder).values() if level.requires_grad]
        left, stages = dict(encoder.named_parameters()), []
        for level in maps:
            if not left:
                break
            gradients = torch.autograd.grad(
                level.sum(), list(left.values()), retain_graph=True, allow_unused=True
            )
            stage = {name for name, value in zip(left, gradients, strict=True) if value is not None}
            left = {name: value for name, value in left.items() if name not in stage}
            stages.append(stage)
    return [stage for stage in stages if stage]


def _countable(target: Sequence[Target]) -> list[Target]:
    """Return torchvision's targets, labels from 1 because 0 is its background; crowd regions as `ignored`."""
    targets = []
    for objects in target:
        crowd = objects["crowd"]
        boxes, labels, masks = (objects[name][~crowd] for name in ("boxes", "labels", "masks"))
        ignored = objects["masks"][crowd]
        targets.append({"boxes": boxes, "labels": labels + 1, "masks": masks, "ignored": ignored})
    return targets


def _own_pixels(
    found: Sequence[dict[str, Tensor]], batch: ImageList, sizes: Sequence[tuple[int, int]]
) -> list[RawInstances]:
    """Return detections in resized images as detections in the images themselves."""
    return [
        objects
        | {
            "boxes": resize_boxes(objects["boxes"], resized, size),
            "labels": objects["labels"] - 1,
            "masks": objects["masks"][:, 0],
        }
        for objects, resized, size in zip(found, batch.image_sizes, sizes, strict=True)
    ]


def _of_one_size(images: Sequence[Tensor]) -> list[list[int]]:
    """Return the indices of the images of each size."""
    rows: dict[tuple[int, int], list[int]] = {}
    for row, image in enumerate(images):
        rows.setdefault(_size(image), []).append(row)
    return list(rows.values())


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Let a module be in training or evaluation mode inside the block."""
    before = module.training
    if before != training:
        module.train(training)
    try:
        yield
    finally:
        if before != training:
            module.train(before)


@contextmanager
def _training_flag(module: nn.Module) -> Iterator[None]:
    """Let one of torchvision's modules compute losses, while the layers in it stay in evaluation mode."""
    module.training = True
    try:
        yield
    finally:
        module.training = False


@contextmanager
def _fixed_randomness(device: torch.device) -> Iterator[None]:
    """Let the block draw the same numbers every time, and the rest of the program as if it drew none."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(0)
        for used in devices:
            torch.cuda.default_generators[used.index].manual_seed(0)
        yield
