"""torchvision's Mask R-CNN put together on any encoder, computing boxes and losses in float32."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from polymask.errors import UserError
from polymask.models.encoders import TIMM, build_encoder, check_encoder_name, checkpoint_blocks_of
from polymask.models.mask_rcnn.ignoring import Heads, ProposalNetwork, with_methods_of
from polymask.models.mask_rcnn.necks import NECKS
from polymask.models.pixels import Normalization

DETECTORS = ("resnet50_fpn", "resnet50_fpn_v2")
"""The backbones of torchvision's own Mask R-CNNs, for which there are weights of a whole detector."""

STRIDES = (4, 8, 16, 32)
"""Of the encoder's maps that the pyramid takes; it adds one of stride 64."""

_BOX_FEATURES = 1024
_BOX_SIZE = 7  # pixels of the maps that the box head sees of a box


def encoder_name(backbone: str) -> str:
    """Return the encoder that a backbone other than `DETECTORS` means: timm's of that name, else SMP's.

    Raises:
        UserError: There is none.
    """
    is_timm = not backbone.startswith(TIMM) and timm.is_model(backbone.partition(".")[0])
    return check_encoder_name(TIMM + backbone if is_timm else backbone)


class EncoderMaps(nn.Module):
    """An encoder of segmentation-models-pytorch that returns its maps by name, finest first."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the (B, C, H / stride, W / stride) maps."""
        maps = self.encoder(images)
        if isinstance(maps, tuple):  # plain transformers return tokens beside the maps
            maps = maps[0]
        return {str(number): level for number, level in enumerate(maps) if level.shape[1] > 0}


def build_body(
    backbone: str,
    *,
    weights: str | bool | None,
    taps: Sequence[int] | None = None,
    drop_path: float = 0.0,
    checkpoint_blocks: bool = False,
) -> nn.Module:
    """Return the encoder of a backbone.

    Args:
        backbone: One of `DETECTORS`, or an encoder.
        weights: What segmentation-models-pytorch or timm downloads.
        taps: Blocks of a plain transformer, counted from 1, that give the maps.
        drop_path: See `encoder_traits`.
        checkpoint_blocks: Let a plain transformer take less memory and more time in training.

    Raises:
        UserError: The encoder is not one for these options.
    """
    body: nn.Module
    if backbone in DETECTORS:
        # The map before the first layer is not for the pyramid; it tells which parameters come first.
        names = {"relu": "stem", **{f"layer{number}": str(number) for number in (1, 2, 3, 4)}}
        body = IntermediateLayerGetter(resnet50(weights=None), return_layers=names)
    else:
        name = encoder_name(backbone)
        encoder = build_encoder(name, weights=weights, in_channels=3, taps=taps, drop_path=drop_path)
        body = EncoderMaps(encoder)
    if checkpoint_blocks:
        checkpoint_blocks_of(body, backbone)
    return body


class Pyramid(nn.Module):
    """An encoder with a feature pyramid (Lin et al., CVPR 2017), under torchvision's names.

    Args:
        body: Returns (B, C, H / stride, W / stride) maps by name, finest first.
        out_channels: Channels of the pyramid.
        norm_layer: Normalisation after its convolutions, None for none.
        name: The backbone's name, for the message.
        neck: What brings the maps of a plain transformer to these strides, one of `NECKS`; None for nothing.

    Raises:
        UserError: There is no neck, and the encoder does not have one map of each of `STRIDES`.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        out_channels: int,
        norm_layer: type[nn.Module] | None,
        name: str,
        neck: str | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.out_channels = out_channels
        self.neck: nn.Module = nn.Identity()
        maps = trial(body)
        if neck is not None:  # between body and pyramid, so that the encoder is the transformer alone
            self.levels = list(maps)
            self.neck, self.fpn = NECKS[neck](maps[self.levels[-1]].shape[1], out_channels)
            return
        found = {round(_TRIAL / level.shape[-1]): (key, level.shape[1]) for key, level in maps.items()}
        if not set(STRIDES) <= set(found):
            raise UserError(
                f"model.backbone={name!r} has maps of stride {', '.join(map(str, sorted(found)))}; a feature "
                "pyramid needs 4, 8, 16 and 32: choose a convolutional or hierarchical encoder."
            )
        self.levels = [found[stride][0] for stride in STRIDES]
        self.fpn = FeaturePyramidNetwork(
            in_channels_list=[found[stride][1] for stride in STRIDES],
            out_channels=out_channels,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=norm_layer,
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return (B, C, H / stride, W / stride) float32 maps `0` to `3` and `pool`.

        torchvision takes the number format of the anchors from the maps, and 16 bits cannot hold the
        coordinates of a large image.
        """
        maps = self.body(images)
        chosen = enumerate(self.neck([maps[key] for key in self.levels]))
        pyramid = self.fpn(OrderedDict((str(number), level) for number, level in chosen))
        return OrderedDict((key, level.float()) for key, level in pyramid.items())


_TRIAL = 64


def trial(body: nn.Module) -> dict[str, Tensor]:
    """Return the maps of an image of 64 x 64 pixels, in evaluation mode, in which `body` is left."""
    return body.eval()(torch.zeros(1, 3, _TRIAL, _TRIAL))


class Transform(GeneralizedRCNNTransform):
    """torchvision's normalisation and resizing, with the statistics in the state dict and masks as bytes."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, *, min_size: Sequence[int], max_size: int, normalization: Normalization) -> None:
        mean, std = normalization
        super().__init__(tuple(min_size), max_size, list(mean), list(std))
        # Whoever rebuilds the network from a checkpoint does not load the weights that these belong to.
        self.register_buffer("pixel_mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("pixel_std", torch.tensor(std, dtype=torch.float32))

    def normalize(self, image: Tensor) -> Tensor:
        """Normalise one image of values in [0, 1], (3, H, W), or n of one size in a row, (3 n, H, W)."""
        number = len(image) // len(self.pixel_mean)
        mean, std = (values.repeat(number)[:, None, None] for values in (self.pixel_mean, self.pixel_std))
        return (image - mean) / std

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Resize an image with its boxes and masks; as float32, masks would take four times the memory.

        Of several images in a row, each is resized by itself: kernels may round otherwise for more channels.
        """
        names = [name for name in ("masks", "ignored") if target is not None and name in target]
        rest = None if target is None else {key: value for key, value in target.items() if key not in names}
        image, *others = image.split(len(self.pixel_mean))
        image, resized = super().resize(image, rest)
        if others:
            size = image.shape[-2:]
            like_it = [F.interpolate(other[None], size=size, mode="bilinear")[0] for other in others]
            image = torch.cat([image, *like_it])
        for name in names:
            masks = target[name][:, None]  # type: ignore[index]
            resized[name] = F.interpolate(masks, size=image.shape[-2:], mode="nearest")[:, 0]
        return image, resized


class ProposalHead(RPNHead):
    """torchvision's, with outputs in float32 under autocast, as boxes and losses need them."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return objectness and box offsets of each map."""
        objectness, offsets = super().forward(x)
        return [level.float() for level in objectness], [level.float() for level in offsets]


class BoxPredictor(FastRCNNPredictor):
    """torchvision's, with outputs in float32 under autocast."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits and box offsets."""
        logits, offsets = super().forward(x)
        return logits.float(), offsets.float()


class MaskPredictor(MaskRCNNPredictor):
    """torchvision's, with outputs in float32 under autocast, starting near a probability of one half.

    From torchvision's own initial weights, the first mask losses and their gradients drown all others.
    """

    def __init__(self, in_channels: int, hidden_size: int, num_outputs: int) -> None:
        super().__init__(in_channels, hidden_size, num_outputs)
        nn.init.normal_(self.mask_fcn_logits.weight, std=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Return mask logits."""
        return super().forward(x).float()


def build_detector(
    body: nn.Module,
    *,
    backbone: str,
    neck: str | None,
    normalization: Normalization,
    num_outputs: int,
    channels: int,
    hidden_size: int,
    anchor_sizes: Sequence[Sequence[int]],
    aspect_ratios: Sequence[float],
    min_size: Sequence[int],
    max_size: int,
    score_threshold: float,
    nms_threshold: float,
    detections_per_image: int,
    boxes_per_image: int,
    box_positive_fraction: float,
    rpn_positive_fraction: float,
) -> MaskRCNN:
    """Build a Mask R-CNN (He et al., ICCV 2017) with new pyramid and heads.

    Args:
        body: What `build_body` returned for `backbone`.
        backbone: `resnet50_fpn_v2` has a deeper proposal head and convolutions in the box head, with
            normalisation (Li et al., arXiv 2111.11429).
        neck: Of the pyramid.
        normalization: Of the pixels.
        num_outputs: Number of classes, the background included.
        channels: Of the pyramid and of the mask head.
        hidden_size: Of the mask predictor.
        anchor_sizes: Sizes in pixels for each of the five maps.
        aspect_ratios: Height over width of the anchors.
        min_size: Shorter side of the resized images in pixels; drawn from these in training, else the last.
        max_size: Longest side of the resized images.
        score_threshold: Least score of a detection.
        nms_threshold: IoU above which the lower-scoring detection of two is dropped.
        detections_per_image: Most detections.
        boxes_per_image: Proposals that the heads are trained on.
        box_positive_fraction: Largest share of objects among these.
        rpn_positive_fraction: Largest share of objects among the anchors that proposing is trained on.
    """
    is_v2 = backbone == "resnet50_fpn_v2"
    norm = nn.BatchNorm2d if is_v2 else None
    anchors = AnchorGenerator(
        tuple(tuple(level) for level in anchor_sizes), (tuple(aspect_ratios),) * len(anchor_sizes)
    )
    num_anchors = anchors.num_anchors_per_location()[0]
    box_head: nn.Module = TwoMLPHead(channels * _BOX_SIZE**2, _BOX_FEATURES)
    if is_v2:
        shape = (channels, _BOX_SIZE, _BOX_SIZE)
        box_head = FastRCNNConvFCHead(shape, [channels] * 4, [_BOX_FEATURES], norm_layer=norm)
    detector = MaskRCNN(
        Pyramid(body, out_channels=channels, norm_layer=norm, name=backbone, neck=neck),
        rpn_anchor_generator=anchors,
        rpn_head=ProposalHead(channels, num_anchors, conv_depth=2 if is_v2 else 1),
        box_head=box_head,
        box_predictor=BoxPredictor(_BOX_FEATURES, num_outputs),
        mask_head=MaskRCNNHeads(channels, [channels] * 4, 1, norm_layer=norm),
        mask_predictor=MaskPredictor(channels, hidden_size, num_outputs),
        box_score_thresh=score_threshold,
        box_nms_thresh=nms_threshold,
        box_detections_per_img=detections_per_image,
        box_batch_size_per_image=boxes_per_image,
        box_positive_fraction=box_positive_fraction,
        rpn_positive_fraction=rpn_positive_fraction,
    )
    detector.rpn = with_methods_of(ProposalNetwork, detector.rpn)
    detector.roi_heads = with_methods_of(Heads, detector.roi_heads)
    detector.transform = Transform(min_size=min_size, max_size=max_size, normalization=normalization)
    return detector
