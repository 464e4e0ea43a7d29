"""From `model.fusion` to the module that makes one image, or one image's maps, of n slices."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymask.errors import UserError, choose
from polymask.models.mask_rcnn.detector import STRIDES
from polymask.models.slices.early import EARLY, EarlyFusion, Maps
from polymask.models.slices.intensity import Intensity
from polymask.models.slices.late import LATE, LateFusion
from polymask.models.slices.options import one_of

_LEVELS = len(STRIDES) + 1  # maps of the pyramid


class Fusion(nn.Module):
    """A fusion, behind a learnable window of grey values where that is asked for.

    Args:
        rule: Early or late.
        intensity: Whether grey values go through `Intensity` first.
    """

    may_start_anew = True  # weights to start from may be those of a network that has none

    def __init__(self, rule: EarlyFusion | LateFusion, *, intensity: bool = False) -> None:
        super().__init__()
        self.rule = rule
        self.intensity = Intensity() if intensity else nn.Identity()

    @property
    def is_late(self) -> bool:
        """Whether maps are fused, rather than slices."""
        return self.rule.is_late

    def pictures(self, stacks: Sequence[Tensor]) -> list[Tensor]:
        """Return for each of (n, H, W) stacks in [0, 1] one (3, H, W) picture, or n of them (3 n, H, W).

        In float32: pixels of fewer bits would not be those of the slices any more.
        """
        with torch.autocast(stacks[0].device.type, enabled=False):
            return [self.rule.picture(self.intensity(stack.float())) for stack in stacks]

    def maps(self, pictures: Sequence[Maps]) -> Maps:
        """Return one pyramid of maps, made of those of the one picture or of the n pictures."""
        return self.rule.maps(pictures)


def is_late(options: Mapping[str, Any]) -> bool:
    """Return whether `model.fusion` means a fusion of maps."""
    return options.get("name") in LATE


def build_fusion(options: Mapping[str, Any], *, slices: int, channels: int) -> Fusion:
    """Build the fusion of n slices.

    Args:
        options: `model.fusion`: `name`, `intensity`, and options of the fusion of that name; None leaves one
            to the fusion.
        slices: n, odd.
        channels: Of the pyramid's maps.

    Raises:
        UserError: There is no such fusion, it has no such option, or a value is not valid.
    """
    given = {key: value for key, value in options.items() if value is not None}
    name = choose("model.fusion.name", str(given.pop("name", "centre")), (*EARLY, *LATE))
    intensity = one_of("model.fusion.intensity", given.pop("intensity", False), (False, True))
    _check_options(name, given)
    rule: EarlyFusion | LateFusion
    if name in EARLY:
        rule = EARLY[name](slices, **given)
    else:
        build = LATE[name]
        shared = one_of("model.fusion.shared", given.pop("shared", build.shared), (False, True))
        number = 1 if shared else _LEVELS
        rule = LateFusion([build(slices, channels=channels, **given) for _ in range(number)])
    return Fusion(rule, intensity=intensity)


def _check_options(name: str, given: Mapping[str, Any]) -> None:
    """Raise UserError when a fusion does not have one of the options that are given."""
    build: Callable[..., nn.Module] = {**EARLY, **LATE}[name]
    parameters = inspect.signature(build).parameters.values()
    known = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY and p.name != "channels"]
    known += ["shared"] if name in LATE else []
    for option, value in given.items():
        if option not in known:
            raise UserError(
                f"model.fusion.{option}={value!r} is not an option of model.fusion.name={name}, which has "
                f"{', '.join([*known, 'intensity'])}; leave it out (null)."
            )
