"""Mask R-CNN for instance segmentation, from configuration values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn
from torchvision.models.detection import MaskRCNN

from polymask.errors import UserError, choose, number, whole_number
from polymask.models.batch_norm import batch_norms, set_statistics, to_group_norm
from polymask.models.encoders import TIMM, encoder_traits
from polymask.models.mask_rcnn.detector import DETECTORS, STRIDES, build_body, build_detector, encoder_name
from polymask.models.mask_rcnn.necks import choose_neck
from polymask.models.mask_rcnn.segmenter import MaskRCNNSegmenter
from polymask.models.mask_rcnn.weights import load_coco, load_file, load_imagenet, own_keys
from polymask.models.pixels import IMAGENET, Normalization, expected_normalization
from polymask.models.weights import check_weights_name, hub_access, is_file, read_state_dict
from polymask.structures.gives import gives

NORMALIZATIONS = ("auto", "frozen", "group", "batch")
_LEVELS = len(STRIDES) + 1


@gives("objects")
def build_model(
    *,
    backbone: str = "resnet50_fpn",
    weights: str | None = "coco",
    num_classes: int,
    normalization: str = "auto",
    trainable_layers: int | None = None,
    neck: str | None = None,
    taps: Sequence[int] | None = None,
    drop_path: float = 0.0,
    checkpoint_blocks: bool = False,
    anchor_sizes: Sequence[int | Sequence[int]] = (32, 64, 128, 256, 512),
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    detections_per_image: int = 100,
    boxes_per_image: int = 512,
    box_positive_fraction: float = 0.25,
    rpn_positive_fraction: float = 0.5,
    hidden_size: int = 256,
    channels: int = 256,
    pretrained: bool = True,
) -> MaskRCNNSegmenter:
    """Build a Mask R-CNN with predictors for `num_classes`.

    Args:
        backbone: `resnet50_fpn` or `resnet50_fpn_v2` of torchvision, or any encoder of timm or
            segmentation-models-pytorch, which gets a feature pyramid.
        weights: `coco` (the whole detector, for torchvision's two), `imagenet` or another name that the
            encoder's library knows (the encoder alone), None for random weights, or the path of a file with
            the state dict of a detector or an encoder.
        num_classes: Number of classes without the background, which the network adds.
        normalization: `frozen` keeps the statistics of the weights, and the encoder's scales, as they are;
            `group` replaces batch normalisation by group normalisation; `batch` learns from each batch, which
            takes batches far larger than 2. `auto` is frozen with weights and group without.
        trainable_layers: How many of the encoder's stages are trained, counted from the deepest. None for 3
            with weights; for all without, and in a plain vision transformer, whose position table lies in
            front and has a new size to learn.
        neck: What makes maps of stride 4 to 32 of a plain vision transformer, whose own are of stride 16:
            `taps` takes four blocks, `simple` the last. None for `taps`; other encoders have none.
        taps: These four blocks, counted from 1; None for the ends of the four quarters.
        drop_path: Stochastic depth of timm's encoders, see `polymask.models.encoders.encoder_traits`.
        checkpoint_blocks: Let a plain vision transformer take less memory and more time in training.
        anchor_sizes: Sizes of the anchors in pixels of the resized image, for each of the five maps (strides
            4, 8, 16, 32, 64); a list of sizes for a map that has several.
        aspect_ratios: Height over width of the anchors.
        min_size: Images are resized until the shorter side is so long in pixels; of several sizes training
            draws one per image and evaluation takes the last.
        max_size: Most pixels of the longer side; it wins over `min_size`.
        score_threshold: Least score of a detection.
        nms_threshold: IoU above which the lower-scoring detection of two of one class is dropped.
        detections_per_image: Most detections of an image.
        boxes_per_image: Boxes per image on which the heads are trained.
        box_positive_fraction: Largest share of objects among them; the others are background.
        rpn_positive_fraction: Largest share of objects among the 256 anchors per image on which proposing is
            trained.
        hidden_size: Hidden layer of the mask predictor.
        channels: Channels of the pyramid and the heads on it; 256 in all published weights.
        pretrained: False builds the network that `weights` mean without loading them, for a checkpoint's.

    Raises:
        UserError: A value that is not allowed, or weights that do not exist or fit.
    """
    has_weights = weights is not None
    with own_keys():
        name = backbone if backbone in DETECTORS else encoder_name(backbone)
        traits = encoder_traits(name, drop_path=drop_path)
        neck, taps = choose_neck(backbone, traits, neck, taps)
    choose("model.normalization", normalization, NORMALIZATIONS)
    if normalization == "auto":
        normalization = "frozen" if has_weights else "group"
    if trainable_layers is not None:
        whole_number("model.trainable_layers", trainable_layers, least=0)
    sizes = _values("model.min_size", [min_size] if isinstance(min_size, int) else min_size)
    share = partial(number, above=0, most=1)
    options = {
        "neck": neck,
        "num_outputs": whole_number("model.num_classes", num_classes, least=1) + 1,
        "channels": whole_number("model.channels", channels, least=1),
        "hidden_size": whole_number("model.hidden_size", hidden_size, least=1),
        "anchor_sizes": _anchor_sizes(anchor_sizes),
        "aspect_ratios": [
            number("model.aspect_ratios", ratio, least=1e-3)
            for ratio in _values("model.aspect_ratios", aspect_ratios)
        ],
        "min_size": [whole_number("model.min_size", size, least=32) for size in sizes],
        "max_size": whole_number("model.max_size", max_size, least=max(sizes)),
        "score_threshold": number("model.score_threshold", score_threshold, least=0, most=1),
        "nms_threshold": number("model.nms_threshold", nms_threshold, least=0, most=1),
        "detections_per_image": whole_number("model.detections_per_image", detections_per_image, least=1),
        "boxes_per_image": whole_number("model.boxes_per_image", boxes_per_image, least=1),
        "box_positive_fraction": share("model.box_positive_fraction", box_positive_fraction),
        "rpn_positive_fraction": share("model.rpn_positive_fraction", rpn_positive_fraction),
    }
    body = partial(build_body, backbone, taps=taps, drop_path=drop_path, checkpoint_blocks=checkpoint_blocks)
    start = weights if pretrained else None
    build = partial(_build, backbone, name, start, normalization, pretrained, body, options)
    all_layers = not has_weights or traits.plain
    return MaskRCNNSegmenter(
        build_detector=build,
        trainable_layers=3 if trainable_layers is None and not all_layers else trainable_layers,
        freeze_normalization=normalization == "frozen",
    )


def _build(
    backbone: str,
    name: str,
    weights: str | None,
    normalization: str,
    initialize: bool,
    make_body: Callable[..., nn.Module],
    options: dict[str, Any],
) -> MaskRCNN:
    """Build the detector with its weights: the same in the same state of the random generator."""
    with own_keys():
        whole = backbone in DETECTORS
        if weights == "coco" and not whole:
            raise UserError(
                f"model.weights=coco exists only for model.backbone={' and '.join(DETECTORS)}; with "
                f"{backbone} use imagenet, null or a file."
            )
        if whole and weights is not None and not is_file(weights):
            choose("model.weights", weights, ("coco", "imagenet", "null", "/path/to/file"))
        source = read_state_dict(weights) if weights is not None and is_file(weights) else {}
        named = weights if weights is not None and not is_file(weights) else None
        body, statistics = _body_with_weights(make_body, name, None if whole else named)
        if source:
            statistics = expected_normalization(name, weights, source)
        if normalization == "group" and named is not None and batch_norms(body):
            raise UserError(
                f"model.normalization=group does not fit model.weights={weights}, which were trained with "
                "batch normalisation: use auto or frozen, or model.weights=null."
            )
        detector = build_detector(body, backbone=backbone, normalization=statistics, **options)
        if normalization == "group":
            to_group_norm(detector)
        if whole and named is not None:
            {"coco": load_coco, "imagenet": load_imagenet}[named](detector, backbone)
        elif source:
            load_file(detector, source, str(weights), backbone=backbone)
        elif weights is None and normalization == "frozen" and initialize:
            set_statistics(body)
        return detector


def _body_with_weights(
    make_body: Callable[..., nn.Module], name: str, weights: str | None
) -> tuple[nn.Module, Normalization]:
    """Return the encoder, and the statistics of pixels that named weights of its library expect."""
    if weights is None:
        return make_body(weights=None), IMAGENET
    check_weights_name(name, weights)
    with hub_access(name, weights):
        body = make_body(weights=True if name.startswith(TIMM) else weights)
        return body, expected_normalization(name, weights)


def _anchor_sizes(sizes: Sequence[int | Sequence[int]]) -> list[list[int]]:
    """Return one list per map, all of one length, which the proposal head's shared layers demand."""
    levels = _values("model.anchor_sizes", sizes)
    lists = [[size] if isinstance(size, int) else _values("model.anchor_sizes", size) for size in levels]
    if len(lists) != _LEVELS or len({len(level) for level in lists}) != 1:
        raise UserError(
            f"model.anchor_sizes={levels} is not valid; it must have {_LEVELS} entries, one for each "
            "map of stride 4, 8, 16, 32 and 64, all numbers or all lists of one length."
        )
    return [[whole_number("model.anchor_sizes", size, least=1) for size in level] for level in lists]


def _values(key: str, values: Any) -> list[Any]:
    """Return the entries of a list.

    Raises:
        UserError: It is no list, or empty.
    """
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise UserError(f"{key}={values!r} is not valid; it must be a list of at least one number.")
    return list(values)
