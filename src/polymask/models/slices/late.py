"""Late fusions: the network's maps of n slices become those of one, map by map.

As early fusions do, they start from plain sums and add what their weights have become since, so that the
start "the slice itself" gives its maps to the last bit, also under autocast.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask.errors import whole_number
from polymask.models.slices.early import CHANNELS, Maps
from polymask.models.slices.initialization import CENTRE, blend, shares
from polymask.models.slices.options import odd, one_of


class LateFusion(nn.Module):
    """Fuses each map of a pyramid.

    Args:
        levels: A module (B, n, C, H, W) -> (B, C, H, W) for each map, or one for all of them.
    """

    is_late = True

    def __init__(self, levels: Sequence[nn.Module]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)

    def picture(self, stack: Tensor) -> Tensor:
        """Return (3 n, H, W): each of (n, H, W) slices as a picture of its own."""
        return stack.repeat_interleave(CHANNELS, dim=0)

    def maps(self, pictures: Sequence[Maps]) -> Maps:
        """Return the maps of the middle one of n slices, made of the maps of all."""
        levels = zip(pictures[0], itertools.cycle(self.levels), strict=False)
        return OrderedDict(
            (name, level(torch.stack([maps[name] for maps in pictures], dim=1))) for name, level in levels
        )


class LevelMLP(nn.Module):
    """y = sum_s w_s F_s + b, alike for all channels or `per_channel`: n + 1 or C (n + 1) parameters a map.

    Args:
        slices: n.
        channels: C.
        init: Start of w, see `shares`; b = 0.
        sigma: Of a gaussian start.
        per_channel: Weights and shift of their own for each channel.
    """

    shared = False

    def __init__(
        self,
        slices: int,
        *,
        channels: int,
        init: str = CENTRE,
        sigma: float | None = None,
        per_channel: bool = False,
    ) -> None:
        super().__init__()
        start = torch.tensor(shares(init, slices, sigma))
        num_weights = channels if one_of("model.fusion.per_channel", per_channel, (False, True)) else 1
        self.weight = nn.Parameter(start[:, None].repeat(1, num_weights))  # (n, 1 or C)
        self.bias = nn.Parameter(torch.zeros(num_weights))

    def forward(self, maps: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        return (self.weight[:, :, None, None] * maps).sum(dim=1) + self.bias[:, None, None]


class LevelConv(nn.Module):
    """A convolution of n x k x k over slices and pixels: C (n k^2 + 1) parameters a map, or C (C n k^2 + 1).

    Args:
        slices: n.
        channels: C.
        init: Start, see `shares`: each channel is taken from itself, at the middle of the kernel.
        sigma: Of a gaussian start.
        kernel: k, odd.
        depthwise: Each channel sees itself alone; false: all channels.
    """

    shared = False
    start: Tensor

    def __init__(
        self,
        slices: int,
        *,
        channels: int,
        init: str = CENTRE,
        sigma: float | None = None,
        kernel: int = 3,
        depthwise: bool = True,
    ) -> None:
        super().__init__()
        self.shares = shares(init, slices, sigma)
        odd("model.fusion.kernel", kernel, why="it has a middle pixel")
        one_of("model.fusion.depthwise", depthwise, (False, True))
        self.groups = channels if depthwise else 1
        identity = torch.ones(channels, 1) if depthwise else torch.eye(channels)
        start = torch.zeros(*identity.shape, slices, kernel, kernel)
        start[..., kernel // 2, kernel // 2] = identity[..., None] * torch.tensor(self.shares)
        # The kernel spans all slices, so a convolution in 2-D of (C n) channels does; weights of five axes
        # have no place in a network whose layout is channels_last.
        self.register_buffer("start", start.flatten(1, 2), persistent=False)
        self.weight = nn.Parameter(self.start.clone())  # (C, n or C n, k, k)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        images = maps.transpose(1, 2).flatten(1, 2)  # (B, C n, H, W)
        learned = F.conv2d(images, self.weight - self.start, self.bias, padding="same", groups=self.groups)
        return blend(maps, self.shares) + learned


class LevelAttention(nn.Module):
    """y = F_c + W_o sum_s a_s v_s, a = softmax_s(<q, k_s> / sqrt(d) + t_s) at every place of a map.

    q = W_q F_c, k_s = W_k F_s, v_s = W_v F_s. 3 d (C + 1) + C (d + 1) + n parameters.

    Args:
        slices: n.
        channels: C.
        init: `centre` alone: W_o = 0.
        hidden: d.
    """

    shared = True

    def __init__(self, slices: int, *, channels: int, init: str = CENTRE, hidden: int = 64) -> None:
        super().__init__()
        shares(init, slices, allowed=(CENTRE,))
        whole_number("model.fusion.hidden", hidden, least=1)
        self.place = slices // 2
        self.query, self.key, self.value = (nn.Linear(channels, hidden) for _ in range(3))
        self.offset = nn.Parameter(torch.zeros(slices))
        self.out = nn.Linear(hidden, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        tokens = maps.movedim(2, -1)  # (B, n, H, W, C)
        query, key, value = self.query(tokens[:, self.place, None]), self.key(tokens), self.value(tokens)
        score = (query * key).sum(dim=-1) / math.sqrt(key.shape[-1]) + self.offset[:, None, None]
        attended = (score.softmax(dim=1)[..., None] * value).sum(dim=1)  # (B, H, W, d)
        return maps[:, self.place] + self.out(attended).movedim(-1, 1)


LATE: dict[str, type[LevelMLP] | type[LevelConv] | type[LevelAttention]] = {
    "level_mlp": LevelMLP,
    "level_conv": LevelConv,
    "level_attention": LevelAttention,
}
