"""Puts images together again from a quarter of their patches (He et al., CVPR 2022)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from polymask.errors import UserError
from polymask.families import base
from polymask.families.base import Batch
from polymask.families.pretraining.loss import Loss
from polymask.families.pretraining.predictions import ReconstructedImage, reconstructed_images

if TYPE_CHECKING:
    from polymask.models.encoder_file import EncoderFile
    from polymask.models.vit_mae.network import MaskedAutoencoder


class Task(base.Task):
    """Learns from images alone; of a batch it looks at `ids` and `image` and nothing else.

    Args:
        model: Predicts the patches that it does not see.
        loss: Of these patches.
        monitor: Metric that decides the best checkpoint.
        mode: `min` or `max`.
    """

    def __init__(
        self, *, model: MaskedAutoencoder, loss: Loss, monitor: str = "val/loss", mode: str = "min"
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.monitor, self.mode = monitor, mode

    def start_epoch(self, epoch: int) -> None:
        """Switch to training mode."""
        self.train()

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return what is trained of the encoder and of the decoder.

        Fixed tables of positions are left out, as no step may ever move them. Tokens, (1, 1, d), are weights
        like all others, and decay as in the published recipe.
        """
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        of_encoder = set(self.model.encoder.parameters())
        return {
            "encoder": [parameter for parameter in trained if parameter in of_encoder],
            "rest": [parameter for parameter in trained if parameter not in of_encoder],
        }

    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return `loss`; which patches are masked comes from torch's generator, seeded for every epoch."""
        pixels = self.pixels(batch)
        noise = torch.rand(len(pixels), self.model.num_patches, device=pixels.device)
        found = self.model(pixels, noise)
        return {"loss": self.loss(self.model.patchify(pixels), found).mean()}

    def evaluation_step(self, batch: Batch) -> list[ReconstructedImage]:
        """Collect the losses of each image, whose mask follows from its id alone."""
        pixels = self.pixels(batch)
        noise = noise_of(batch["ids"], self.model.num_patches).to(pixels.device)
        found = self.model(pixels, noise)
        patches = self.model.patchify(pixels)
        self.accumulator.update(
            batch["ids"],
            loss=self.loss(patches, found),
            loss_mean_image=self.loss.of_mean_image(patches, found.mask),
        )
        made = self.model.unpatchify(self.loss.undo(found.patches, patches))
        masked = self.model.unpatchify(found.mask[..., None].expand_as(patches))[:, :1] > 0
        return reconstructed_images(
            batch["ids"], batch["image"], masked.permute(0, 2, 3, 1), self._to_bytes(made)
        )

    def exported_encoder(self) -> EncoderFile:
        """Return the encoder, for which all of this is done, under timm's names."""
        from polymask.models.vit_mae.export import encoder_file

        return encoder_file(self.model, norm_pixels=self.loss.norm_pixels)

    def pixels(self, batch: Batch) -> Tensor:
        """Return (B, 3, H, W) normalised images of a (B, H, W, 3) uint8 batch.

        Raises:
            UserError: The images keep their own sizes.
        """
        images = batch["image"]
        if not isinstance(images, Tensor):
            raise UserError(
                "images of this data set keep their own sizes, but the network takes images of one size: use "
                "data=unlabelled with data.data_dir=<the folder of these images>."
            )
        return self.model.normalize(images)

    def _to_bytes(self, pixels: Tensor) -> Tensor:
        """Return (B, 3, H, W) normalised pixels as (B, H, W, 3) from 0 to 255."""
        mean, std = (values.view(1, 3, 1, 1) for values in (self.model.mean, self.model.std))
        return (pixels.float() * std + mean).mul(255).permute(0, 2, 3, 1)


def noise_of(ids: Sequence[str], num_patches: int) -> Tensor:
    """Return (B, N) noise in [0, 1), each row a function of its id and nothing else.

    So the masks of an evaluation, and its losses, are the same in every epoch, batch and process.
    """
    return torch.stack([_noise(id_, num_patches) for id_ in ids])


def _noise(id_: str, num_patches: int) -> Tensor:
    digest = hashlib.sha256(id_.encode("utf-8", "surrogateescape")).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
    return torch.rand(num_patches, generator=generator)
