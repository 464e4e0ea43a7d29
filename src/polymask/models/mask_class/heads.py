"""Classification from the feature maps of an encoder."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask.errors import UserError, choose, number, whole_number
from polymask.models.mask_class.metadata import MetadataEmbedding
from polymask.models.mask_class.pooling import POOLINGS, masked_average


class ClassificationHead(nn.Module):
    """Class logits from one or more encoder levels.

    Each level is pooled to a vector; the vectors, one after the other, go through a small perceptron.
    Explanations look at the maps as they are pooled: each passes through the module of `maps` for its level.

    Args:
        channels: Channels of every encoder level, level 0 (the finest) first.
        num_classes: Length of the logits.
        levels: The levels to use; -1 is the last, 0 is mostly the image itself.
        pooling: One of `polymask.models.mask_class.pooling.POOLINGS`.
        mask_attention: Append to each level's vector the average weighted by the predicted lesion
            probability, so that the class is judged on the lesion as well as on the whole image. No
            gradient flows into the probability: the classification loss must not bend the mask.
        hidden: Widths of hidden layers (ReLU) between the vector and the logits.
        dropout: Probability of dropping an input of each linear layer.
        metadata_sizes: Features of each column of metadata, see `MetadataEmbedding`; their vector stands
            beside those of the levels. Empty for an image alone.
        metadata_width: Length of this vector.
        metadata_dropout: Probability of forgetting a column of a sample in training.

    Raises:
        UserError: Unknown pooling, a level that does not exist or has no channels, or widths and
            probabilities outside their range.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        num_classes: int,
        levels: Sequence[int] = (-1,),
        pooling: str = "avg",
        mask_attention: bool = False,
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        metadata_sizes: Sequence[int] = (),
        metadata_width: int = 32,
        metadata_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        pooling_type = POOLINGS[choose("model.head.pooling", pooling, POOLINGS)]
        self.levels = _check_levels(levels, channels)
        _check_perceptron(hidden, dropout)
        self.mask_attention = mask_attention
        self.maps = nn.ModuleList(nn.Identity() for _ in self.levels)
        self.poolings = nn.ModuleList(pooling_type(channels[level]) for level in self.levels)
        factor = pooling_type.factor + mask_attention
        self.metadata: MetadataEmbedding | None = None
        if metadata_sizes:
            width = whole_number("model.head.metadata_width", metadata_width, least=1)
            forget = number("model.head.metadata_dropout", metadata_dropout, least=0, below=1)
            self.metadata = MetadataEmbedding(metadata_sizes, width=width, dropout=forget)
        width = self.metadata.width if self.metadata is not None else 0
        widths = [factor * sum(channels[level] for level in self.levels) + width, *hidden]
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(widths):
            layers += [nn.Dropout(dropout), nn.Linear(width_in, width_out), nn.ReLU()]
        self.perceptron = nn.Sequential(*layers, nn.Dropout(dropout))
        self.logits = nn.Linear(widths[-1], num_classes)

    def forward(
        self,
        features: Sequence[Tensor],
        mask_probability: Tensor | None = None,
        extent: tuple[float, float] = (1.0, 1.0),
        metadata: Tensor | None = None,
    ) -> Tensor:
        """Compute the logits.

        Args:
            features: All encoder levels, (B, C_l, H_l, W_l) each.
            mask_probability: Lesion probability (B, 1, H, W) over the area that `features` cover; only
                used, and then needed, with `mask_attention`.
            extent: Fraction of the height and of the width that is image. What lies beyond (bottom and
                right) is padding, and cells that hold nothing else are left out.
            metadata: (B, F) float32 features of the columns of `metadata_sizes`; None where nothing is known.

        Returns:
            Logits (B, num_classes).
        """
        if self.mask_attention and mask_probability is None:
            raise ValueError("mask_attention needs mask_probability")
        # Sums over a map of 256 x 256 lose most digits in bfloat16 and overflow in float16.
        with torch.autocast(device_type=features[0].device.type, enabled=False):
            vectors = []
            for level, seen, pooling in zip(self.levels, self.maps, self.poolings, strict=True):
                feature = seen(_crop(features[level].float(), extent))
                vectors.append(pooling(feature))
                if self.mask_attention and mask_probability is not None:
                    height, width = features[level].shape[-2:]
                    weight = F.adaptive_avg_pool2d(mask_probability.detach().float(), (height, width))
                    vectors.append(masked_average(feature, _crop(weight, extent)))
            if self.metadata is not None:
                vectors.append(self.metadata(metadata, len(vectors[0])).float())
            vector = torch.cat(vectors, dim=1)
        return self.logits(self.perceptron(vector.to(self.logits.weight.dtype)))

    @property
    def deepest(self) -> tuple[int, nn.Module]:
        """Return the deepest level that is pooled, and the module of `maps` that its map passes through."""
        return max(zip(self.levels, self.maps, strict=True), key=lambda pair: pair[0])


def _crop(feature: Tensor, extent: tuple[float, float]) -> Tensor:
    """Return the cells of (B, C, H, W) that touch the image; the tolerance absorbs rounding of `extent`."""
    rows, columns = (
        math.ceil(size * part - 1e-6) for size, part in zip(feature.shape[-2:], extent, strict=True)
    )
    return feature[..., :rows, :columns]


def _check_levels(levels: Sequence[int], channels: Sequence[int]) -> list[int]:
    """Return `levels` counted from 0."""
    count = len(channels)
    if not isinstance(levels, Sequence) or not levels:
        raise UserError(f"model.head.levels={levels!r} must be a list of at least one level, such as [-1].")
    for level in levels:
        if level not in range(-count, count):
            raise UserError(
                f"model.head.levels: {level} does not exist; the encoder has levels 0 to {count - 1}, "
                f"or -{count} to -1 counted from the last."
            )
        if channels[level] == 0:
            filled = [index for index, width in enumerate(channels) if width]
            raise UserError(f"model.head.levels: {level} is empty in this encoder; use some of {filled}.")
    return [level % count for level in levels]


def _check_perceptron(hidden: Sequence[int], dropout: float) -> None:
    """Refuse widths and probabilities that no perceptron can have."""
    if not isinstance(hidden, Sequence) or any(not isinstance(width, int) or width < 1 for width in hidden):
        raise UserError(f"model.head.hidden={hidden!r} must be a list of positive widths, such as [256].")
    number("model.head.dropout", dropout, least=0, below=1)
