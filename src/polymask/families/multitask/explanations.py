"""Where the network looked when it chose a class: Grad-CAM of the class head.

Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization", ICCV
2017: of the map A (C, h, w) that the head pools and the logit y of a class,

    weight_k = mean over all cells of dy / dA_k        heat = relu(sum over k of weight_k A_k)

The gradient flows through the head alone, whose inputs are kept while the network predicts as it always does:
what it predicts cannot change, a frozen encoder needs no gradient, and an explanation costs little.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask.errors import UserError
from polymask.metrics.temperature import tempered
from polymask.models.mask_class.heads import ClassificationHead

HeadInputs = Mapping[str, Any]
"""Arguments of `ClassificationHead.forward` by name."""
FOLDER = "explanations"
"""Of the maps of a test, and of the pictures of an inference."""
_NO_FLIP: Sequence[tuple[int, ...]] = ((),)


def wants_explanations(value: object, *, predicts_classes: bool) -> bool:
    """Return whether `explain` asks for explanations, where they can be made.

    Raises:
        UserError: It is neither true nor false, there is no class to explain, or captum is not installed.
    """
    if value is None or value is False:
        return False
    if value is not True:
        raise UserError(f"explain={value!r} is not valid; give true or false.")
    if not predicts_classes:
        raise UserError(
            "explain=true explains classes, of which this run predicts none: leave it out, or use "
            "task=multitask or classification."
        )
    if find_spec("captum") is None:
        raise UserError("explain=true needs captum, which is not installed: pip install 'polymask[explain]'")
    return True


class Explainer:
    """Explains the class that is called the most probable one, after calibration.

    Args:
        temperature: Of class probabilities, one or (K,); None where they stay as the network predicts them.
    """

    def __init__(self, temperature: float | np.ndarray | None = None) -> None:
        self.temperature = temperature

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[list[HeadInputs]]:
        """Keep what the class head is given, one entry for each pass through the network within the block.

        Raises:
            UserError: The network does not say what its class head looks at.
        """
        kept: list[HeadInputs] = []
        head = _head(model)
        signature = inspect.signature(head.forward)

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            kept.append(given.arguments)

        hook = head.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            yield kept
        finally:
            hook.remove()

    def maps(
        self,
        model: nn.Module,
        kept: Sequence[HeadInputs],
        probabilities: Tensor,
        size: Sequence[int],
        flips: Sequence[tuple[int, ...]] = _NO_FLIP,
    ) -> Tensor:
        """Return the explanations of a batch.

        Args:
            model: The network.
            kept: What `watch` kept of each pass.
            probabilities: (B, K) of the classes, before calibration.
            size: (height, width) of the network's input.
            flips: Axes along which the images of each pass were flipped; the maps are averaged over them.

        Returns:
            (B, height, width) float32 in [0, 1], the largest value of each image 1; 0 everywhere where
            nothing speaks for the class.
        """
        if self.temperature is not None:
            probabilities = tempered(probabilities, self.temperature)
        classes = probabilities.argmax(dim=1)
        passes = zip(kept, flips, strict=True)
        heat = torch.stack(
            [grad_cam(_head(model), given, classes, size).flip(axes) for given, axes in passes]
        )
        heat = heat.mean(dim=0)
        return heat / heat.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)


def grad_cam(head: ClassificationHead, given: HeadInputs, classes: Tensor, size: Sequence[int]) -> Tensor:
    """Return Grad-CAM at the deepest map that a class head pools, enlarged to the network's input.

    Args:
        head: The head, in evaluation mode; its parameters get no gradient.
        given: What it was given, from any precision and mode of gradients.
        classes: (B,) int64 class to explain of each image.
        size: (height, width) of the images, without the padding that only the network saw.

    Returns:
        (B, height, width) float32, not negative, in units of the logit.
    """
    from captum.attr import LayerGradCam  # late, as it is an extra

    level, seen = head.deepest
    # Evaluations and inferences switch gradients off, in two ways, and may compute in half precision.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(classes.device.type, enabled=False):
        features = [
            feature.detach().clone() if place in head.levels else feature
            for place, feature in enumerate(given["features"])
        ]
        own = {
            name: value.detach().clone() if isinstance(value, Tensor) else value
            for name, value in given.items()
        }
        # `forward`, so that whoever watches the head does not see this pass.
        method = LayerGradCam(lambda _: head.forward(**(own | {"features": features})), seen)
        cells = method.attribute(features[level], target=classes.clone(), relu_attributions=True).detach()
    return _enlarged(cells.float(), features[level].shape[-2:], given["extent"], size)[:, 0]


def _enlarged(
    cells: Tensor, whole: Sequence[int], extent: tuple[float, float], size: Sequence[int]
) -> Tensor:
    """Enlarge the (B, 1, h, w) cells that were pooled to the (height, width) of the images.

    Args:
        cells: Values.
        whole: Cells of the whole map, with those that hold nothing but padding.
        extent: Share of its height and width that is image.
        size: Of the images.
    """
    covered = [
        math.ceil(side * pixels / share / most - 1e-6)
        for side, pixels, share, most in zip(cells.shape[-2:], size, extent, whole, strict=True)
    ]
    enlarged = F.interpolate(cells, covered, mode="bilinear", align_corners=False)
    return enlarged[..., : size[0], : size[1]]


def _head(model: nn.Module) -> ClassificationHead:
    head = getattr(model, "classification_head", None)
    if not isinstance(head, ClassificationHead):
        raise UserError(
            f"explain=true needs a network with a classification_head that is a ClassificationHead, which "
            f"{type(model).__name__} has not; leave it out."
        )
    return head
