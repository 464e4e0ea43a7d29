"""A plain decoder: transposed convolutions from the encoder's deepest map back to the image's size.

It has no skip connections, so what it reaches depends on what the encoder's last map still knows: the
point of comparing a frozen with a fine-tuned encoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from polymask.models.encoders import build_encoder


class TransposedDecoder(nn.Module):
    """Doubles height and width once per entry of `channels`.

    Each step is a transposed convolution (kernel 4, stride 2, padding 1: exactly twice the size, and the
    kernel is a multiple of the stride, which avoids checkerboard patterns; Odena et al., "Deconvolution and
    checkerboard artifacts", Distill 2016), batch normalisation and ReLU.

    Args:
        in_channels: Channels of the encoder's deepest map.
        channels: Output channels of each step.
    """

    def __init__(self, *, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        widths = [in_channels, *channels]
        self.steps = nn.Sequential(*map(_step, widths[:-1], widths[1:]))

    def forward(self, features: Sequence[Tensor], tokens: Any = None) -> Tensor:
        """Return (B, channels[-1], H, W) of the encoder's last map; a transformer's tokens are not used."""
        return self.steps(features[-1])


class TransposedNetwork(nn.Module):
    """Encoder, `TransposedDecoder`, dropout and a 1 x 1 convolution; with the signature of SMP's networks.

    Args:
        encoder_name: An encoder of segmentation-models-pytorch, or `tu-` and the name of a timm model.
        encoder_depth: Stages of the encoder, None for all.
        encoder_weights: Name of the weights to download, True for `tu-` encoders, None for random ones.
        decoder_channels: Output channels of each step; as many steps as the stride has factors of two.
        decoder_dropout: Share of the channels of the last map that are dropped in training.
        in_channels: Channels of the images.
        classes: Channels of the mask logits.
        drop_path: See `encoder_traits`.

    Raises:
        ValueError: The number of steps does not lead back to the image's size.
    """

    def __init__(
        self,
        *,
        encoder_name: str = "mobilenet_v2",
        encoder_depth: int | None = None,
        encoder_weights: str | bool | None = "imagenet",
        decoder_channels: Sequence[int] = (512, 256, 128, 64, 32),
        decoder_dropout: float = 0.2,
        in_channels: int = 3,
        classes: int = 1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = build_encoder(
            encoder_name,
            weights=encoder_weights,
            in_channels=in_channels,
            depth=encoder_depth,
            drop_path=drop_path,
        )
        stride = self.encoder.output_stride
        if 2 ** len(decoder_channels) != stride:
            steps = math.log2(stride)
            remedy = f"give {steps:.0f} numbers" if steps.is_integer() else "take another encoder"
            raise ValueError(
                f"model.decoder_channels={list(decoder_channels)} doubles the size {len(decoder_channels)} "
                f"times, but the encoder's stride is {stride}: {remedy}"
            )
        self.decoder = TransposedDecoder(in_channels=self.encoder.out_channels[-1], channels=decoder_channels)
        self.segmentation_head = nn.Sequential(
            nn.Dropout2d(decoder_dropout), nn.Conv2d(decoder_channels[-1], classes, kernel_size=1)
        )


def _step(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        # Without a bias: the normalisation that follows has one.
        nn.ConvTranspose2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
