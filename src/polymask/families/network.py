"""What tasks share that train one network and know which part of it is the encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from polymask.families import base

if TYPE_CHECKING:
    from polymask.models.encoder_file import EncoderFile


class NetworkTask(base.Task):
    """A task of a network and a loss.

    Attributes:
        model: The network: `encoder`, `encoder_parameters`, `other_parameters`, `start_epoch`, and what it
            expects of pixels in [0, 1], `pixel_mean` and `pixel_std`.
        loss: Its parameters are learned, too, where it has some.
    """

    model: Any
    loss: nn.Module

    def start_epoch(self, epoch: int) -> None:
        """Switch to training mode; what the network freezes in this epoch is frozen."""
        self.train()
        self.model.start_epoch(epoch)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the encoder's parameters and all others, those of the loss included."""
        rest = [*self.model.other_parameters(), *self.loss.parameters()]
        return {"encoder": list(self.model.encoder_parameters()), "rest": rest}

    def encoder_layers(self) -> list[list[nn.Parameter]]:
        """Return the parameters of the embeddings and of each block of a plain transformer."""
        from polymask.models.encoders import encoder_layers  # late, as its libraries are: compare needs none

        return encoder_layers(self.model.encoder)

    def exported_encoder(self) -> EncoderFile | None:
        """Return the encoder where it is a vision transformer."""
        from polymask.models.encoder_file import encoder_file

        return encoder_file(self.model.encoder, self.model.pixel_mean, self.model.pixel_std)
