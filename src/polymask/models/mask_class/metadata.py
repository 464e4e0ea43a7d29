"""Metadata of a person, such as age and sex, as features beside those of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MetadataEmbedding(nn.Module):
    """A layer on the features of a `MetadataEncoding`: each category, and what is not known, has its vector.

    In training each column of a sample is forgotten now and then, so that the network also learns what to say
    when nothing is known, even where every training sample has all values.

    Args:
        sizes: Features of each column; the first of a column says that nothing is known.
        width: Length of the vector.
        dropout: Probability of forgetting a column of a sample in training.
    """

    unknown: Tensor
    column_of: Tensor

    def __init__(self, sizes: Sequence[int], *, width: int, dropout: float) -> None:
        super().__init__()
        self.layer = nn.Linear(sum(sizes), width)
        self.width, self.dropout, self.num_columns = width, dropout, len(sizes)
        nothing = torch.cat([torch.eye(size)[0] for size in sizes])
        self.register_buffer("unknown", nothing, persistent=False)
        columns = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        self.register_buffer("column_of", columns, persistent=False)

    def forward(self, metadata: Tensor | None, num_samples: int) -> Tensor:
        """Return (B, width) vectors.

        Args:
            metadata: (B, F) float32 features, None where nothing is known of any sample.
            num_samples: B.
        """
        if metadata is None:
            metadata = self.unknown.expand(num_samples, -1)
        if self.training and self.dropout:
            drawn = torch.rand(num_samples, self.num_columns, device=metadata.device)
            metadata = torch.where((drawn < self.dropout)[:, self.column_of], self.unknown, metadata)
        return self.layer(metadata.to(self.layer.weight.dtype)).relu()
