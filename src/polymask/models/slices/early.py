"""Early fusions: n slices become one picture of three channels, which the network takes as it takes others.

Each computes its start by plain sums (`blend`) and adds what its weights have become since. So the result of
weights that say "the slice itself" is that slice to the last bit, also where convolutions and products of
matrices are rounded to fewer bits than the pixels have (TF32).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask.errors import UserError, whole_number
from polymask.models.slices.initialization import CENTRE, blend, shares
from polymask.models.slices.options import odd, one_of

Maps = dict[str, Tensor]
"""The (B, C, H / stride, W / stride) maps of a feature pyramid by name, finest first."""

CHANNELS = 3
"""Of the network's pictures."""


class EarlyFusion(nn.Module):
    """(B, n, H, W) slices of values in [0, 1] -> (B, 1 or 3, H, W); one channel is repeated."""

    is_late = False

    def picture(self, stack: Tensor) -> Tensor:
        """Return the (3, H, W) picture of (n, H, W) slices."""
        return self(stack[None])[0].expand(CHANNELS, -1, -1)

    def maps(self, pictures: Sequence[Maps]) -> Maps:
        """Return the maps of the one picture."""
        (maps,) = pictures
        return maps


class Centre(EarlyFusion):
    """y = x_c, the slice itself: the 2-D network."""

    def __init__(self, slices: int) -> None:
        super().__init__()
        self.place = slices // 2

    def forward(self, stack: Tensor) -> Tensor:
        """Return (B, 1, H, W)."""
        return stack[:, self.place, None]


class Stack(EarlyFusion):
    """y_o = x_o: three slices as the three channels, the usual 2.5D.

    Raises:
        UserError: There are not three slices.
    """

    def __init__(self, slices: int) -> None:
        super().__init__()
        if slices != CHANNELS:
            raise UserError(
                f"model.fusion.name=stack takes {CHANNELS} slices, one for each channel of the network, not "
                f"data.slices={slices}; give data.slices={CHANNELS} or another fusion."
            )

    def forward(self, stack: Tensor) -> Tensor:
        """Return (B, 3, H, W)."""
        return stack


class Conv(EarlyFusion):
    """y_o = sum_s K_os * x_s + b_o: a convolution of the slices, K k x k. outputs (n k^2 + 1) parameters.

    Args:
        slices: n.
        init: Start, see `shares`; it fills the middle of the kernels, b = 0.
        sigma: Of a gaussian start.
        kernel: k in pixels, odd.
        outputs: 1 or 3 channels.
    """

    start: Tensor

    def __init__(
        self,
        slices: int,
        *,
        init: str = CENTRE,
        sigma: float | None = None,
        kernel: int = 3,
        outputs: int = CHANNELS,
    ) -> None:
        super().__init__()
        self.shares = shares(init, slices, sigma)
        odd("model.fusion.kernel", kernel, why="it has a middle pixel")
        outputs = one_of("model.fusion.outputs", outputs, (1, CHANNELS))
        start = torch.zeros(outputs, slices, kernel, kernel)
        start[:, :, kernel // 2, kernel // 2] = torch.tensor(self.shares)
        self.register_buffer("start", start, persistent=False)
        self.weight = nn.Parameter(start.clone())
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, stack: Tensor) -> Tensor:
        """Return (B, outputs, H, W)."""
        learned = F.conv2d(stack, self.weight - self.start, self.bias, padding="same")
        return blend(stack, self.shares)[:, None] + learned


class SliceMLP(EarlyFusion):
    """y_o = sum_s W_os x_s + b_o at every pixel: a linear layer over the slices, outputs (n + 1) parameters.

    Args:
        slices: n.
        init: Start of W, see `shares`; b = 0.
        sigma: Of a gaussian start.
        outputs: 1 or 3 channels.
        hidden: Width of a second, hidden layer whose result is added, W2 GELU(W1 x + b1) + b2 with W2 = 0 and
            b2 = 0 at the start; None for none.
    """

    start: Tensor

    def __init__(
        self,
        slices: int,
        *,
        init: str = CENTRE,
        sigma: float | None = None,
        outputs: int = CHANNELS,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.shares = shares(init, slices, sigma)
        outputs = one_of("model.fusion.outputs", outputs, (1, CHANNELS))
        start = torch.tensor(self.shares).repeat(outputs, 1)
        self.register_buffer("start", start, persistent=False)
        self.weight = nn.Parameter(start.clone())
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.hidden = None if hidden is None else _hidden_layer(slices, hidden, outputs)

    def forward(self, stack: Tensor) -> Tensor:
        """Return (B, outputs, H, W)."""
        learned = F.conv2d(stack, (self.weight - self.start)[:, :, None, None], self.bias)
        if self.hidden is not None:
            learned = learned + self.hidden(stack)
        return blend(stack, self.shares)[:, None] + learned


def _hidden_layer(slices: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return two layers over the slices at every pixel, which give 0 at the start."""
    width = whole_number("model.fusion.hidden", hidden, least=1)
    last = nn.Conv2d(width, outputs, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv2d(slices, width, 1), nn.GELU(), last)


class WindowMLP(EarlyFusion):
    """y_o(q) = sum_s W_os[w(q)] x_s(q) + b_o[w(q)]: a linear layer over the slices per window w of pixels.

    There are outputs (n + 1) parameters per window. An image of another size is divided into as many windows.

    Args:
        slices: n.
        init: Start of every W, see `shares`; b = 0.
        sigma: Of a gaussian start.
        version: 1: `windows` x `windows` windows. 2: windows of `windows` x `windows` pixels.
        windows: Their number along a side (1), or their height and width in pixels (2).
        outputs: 1 or 3 channels.
        reference_size: Height and width in pixels of the images that version 2 divides into such windows;
            None for 512 x 512.
    """

    def __init__(
        self,
        slices: int,
        *,
        init: str = CENTRE,
        sigma: float | None = None,
        version: int = 1,
        windows: int = 8,
        outputs: int = CHANNELS,
        reference_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        start = torch.tensor(shares(init, slices, sigma))
        outputs = one_of("model.fusion.outputs", outputs, (1, CHANNELS))
        grid = _grid(version, windows, reference_size)
        self.weight = nn.Parameter(start[:, None, None].repeat(outputs, 1, *grid))
        self.bias = nn.Parameter(torch.zeros(outputs, *grid))

    def forward(self, stack: Tensor) -> Tensor:
        """Return (B, outputs, H, W)."""
        size = stack.shape[-2:]
        weight = F.interpolate(self.weight, size, mode="nearest-exact")  # (outputs, n, H, W)
        bias = F.interpolate(self.bias[None], size, mode="nearest-exact")
        return (weight * stack[:, None]).sum(dim=2) + bias


def _grid(version: int, windows: int, reference_size: Sequence[int] | None) -> list[int]:
    """Return the numbers of windows along height and width."""
    one_of("model.fusion.version", version, (1, 2))
    whole_number("model.fusion.windows", windows, least=1)
    if version == 1:
        if reference_size is not None:
            raise UserError(
                f"model.fusion.reference_size={list(reference_size)} is of no use to model.fusion.version=1, "
                "whose windows are a share of any image; leave it out (null)."
            )
        return [windows, windows]
    size = (512, 512) if reference_size is None else reference_size
    if isinstance(size, str) or not isinstance(size, Sequence) or len(size) != 2:
        raise UserError(f"model.fusion.reference_size={size!r} is not valid; give [height, width] in pixels.")
    return [math.ceil(whole_number("model.fusion.reference_size", side, least=1) / windows) for side in size]


class WindowMix(EarlyFusion):
    """One linear layer from all pixels of a window in all slices, n k^2, to the k^2 pixels of the result.

    It is shared by all windows. n k^4 + k^2 parameters.

    Args:
        slices: n.
        init: Start, see `shares`: W is the identity of a window's pixels times the share of the slice.
        sigma: Of a gaussian start.
        windows: k, height and width of a window in pixels.
    """

    start: Tensor

    def __init__(
        self, slices: int, *, init: str = CENTRE, sigma: float | None = None, windows: int = 8
    ) -> None:
        super().__init__()
        self.shares = shares(init, slices, sigma)
        self.side = whole_number("model.fusion.windows", windows, least=1)
        start = torch.tensor(self.shares)[None, :, None] * torch.eye(self.side**2)[:, None]
        self.register_buffer("start", start, persistent=False)
        self.weight = nn.Parameter(start.clone())  # (k^2 of the result, n, k^2 of the slices)
        self.bias = nn.Parameter(torch.zeros(self.side**2))

    def forward(self, stack: Tensor) -> Tensor:
        """Return (B, 1, H, W); windows that reach beyond the image see its border repeated."""
        height, width = stack.shape[-2:]
        below, right = -height % self.side, -width % self.side
        padded = F.pad(stack, (0, right, 0, below), mode="replicate")
        windows = padded.unflatten(3, (-1, self.side)).unflatten(2, (-1, self.side))
        pixels = windows.permute(0, 2, 4, 1, 3, 5).flatten(3)  # (B, rows, columns, n k^2)
        mixed = F.linear(pixels, (self.weight - self.start).flatten(1), self.bias)
        learned = mixed.unflatten(3, (self.side, self.side)).transpose(2, 3).flatten(3).flatten(1, 2)
        return (blend(stack, self.shares) + learned[:, :height, :width])[:, None]


class PixelAttention(EarlyFusion):
    """y = x_c + g (sum_s a_s x_s - x_c), a(q) = softmax_s(<q(q), k_s(q)> / sqrt(e) + t_s) at every pixel.

    Attention of the slice itself to its neighbours, at the same place. q and k_s are 3 x 3 convolutions of
    x_c and x_s to e channels. 20 e + n + 1 parameters.

    Args:
        slices: n.
        init: `centre`: g = 0. `mean`, `gaussian`: g = 1, q = 0, t_s = log p_s, so that a_s is the share p_s.
        sigma: Of a gaussian start.
        hidden: e.
    """

    def __init__(
        self, slices: int, *, init: str = CENTRE, sigma: float | None = None, hidden: int = 8
    ) -> None:
        super().__init__()
        start = shares(init, slices, sigma, allowed=(CENTRE, "mean", "gaussian"))
        whole_number("model.fusion.hidden", hidden, least=1)
        self.place = slices // 2
        self.query = nn.Conv2d(1, hidden, 3, padding=1)
        self.key = nn.Conv2d(1, hidden, 3, padding=1)
        self.offset = nn.Parameter(torch.zeros(slices))
        self.gate = nn.Parameter(torch.zeros(1))
        if init != CENTRE:
            nn.init.ones_(self.gate)
            nn.init.zeros_(self.query.weight)
            nn.init.zeros_(self.query.bias)  # type: ignore[arg-type]
            with torch.no_grad():
                self.offset.copy_(torch.tensor(start).clamp(min=1e-30).log())

    def forward(self, stack: Tensor) -> Tensor:
        """Return (B, 1, H, W)."""
        centre = stack[:, self.place]
        query = self.query(centre[:, None])[:, None]  # (B, 1, e, H, W)
        key = self.key(stack.flatten(0, 1)[:, None]).unflatten(0, stack.shape[:2])  # (B, n, e, H, W)
        score = (query * key).sum(dim=2) / math.sqrt(key.shape[2]) + self.offset[:, None, None]
        attended = (score.softmax(dim=1) * stack).sum(dim=1)
        return (centre + self.gate * (attended - centre))[:, None]


EARLY: dict[str, type[EarlyFusion]] = {
    "centre": Centre,
    "stack": Stack,
    "conv": Conv,
    "slice_mlp": SliceMLP,
    "window_mlp": WindowMLP,
    "window_mix": WindowMix,
    "pixel_attention": PixelAttention,
}
