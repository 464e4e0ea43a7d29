"""A network with one encoder, a mask decoder and a classification head, either of which may be absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask.errors import UserError
from polymask.models.mask_class.heads import ClassificationHead


class SegmentationClassifier(nn.Module):
    """Predicts masks and classes of images of any size.

    Decoders demand sizes divisible by their stride, and some a smallest size. The network pads images at the
    bottom and the right and crops the logits back. It repeats the edge pixels: unlike reflection this works
    however small the image is against the padding, and unlike zeros it draws no edge where there is none.

    Args:
        encoder: Returns feature maps, finest first, or a tuple of these and what else the decoder takes.
        decoder: Takes what the encoder returns; None for a network without masks.
        segmentation_head: Turns the decoder's map into mask logits of the padded size; None without masks.
        classification_head: None for a network without classes.
        normalization: Mean and standard deviation per channel that the encoder expects of pixels in [0, 1].
        stride: Padded sizes are multiples of this.
        min_size: Smallest padded height and width.
        freeze_backbone: From the first `start_epoch` on, keep the encoder's parameters and normalisation
            statistics as they are...
        unfreeze_at_epoch: ...until this epoch (counted from 0); None for ever.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        encoder: nn.Module,
        decoder: nn.Module | None,
        segmentation_head: nn.Module | None,
        classification_head: ClassificationHead | None,
        normalization: tuple[Sequence[float], Sequence[float]],
        stride: int,
        min_size: int = 1,
        freeze_backbone: bool = False,
        unfreeze_at_epoch: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.segmentation_head = segmentation_head
        self.classification_head = classification_head
        # In the state dict: whoever rebuilds the network from a checkpoint leaves `encoder_weights` out.
        self.register_buffer("pixel_mean", torch.tensor(normalization[0], dtype=torch.float32))
        self.register_buffer("pixel_std", torch.tensor(normalization[1], dtype=torch.float32))
        self.stride = stride
        self.min_size = min_size
        self.freeze_backbone = freeze_backbone
        self.unfreeze_at_epoch = unfreeze_at_epoch
        self._frozen = False
        self._never_trained = {name for name, value in self.named_parameters() if not value.requires_grad}

    @property
    def mean(self) -> tuple[float, ...]:
        """Return the mean per channel that the encoder expects of pixels in [0, 1]."""
        return tuple(round(value, 6) for value in self.pixel_mean.tolist())

    @property
    def std(self) -> tuple[float, ...]:
        """Return the standard deviation per channel that the encoder expects of pixels in [0, 1]."""
        return tuple(round(value, 6) for value in self.pixel_std.tolist())

    def forward(self, images: Tensor, metadata: Tensor | None = None) -> dict[str, Tensor]:
        """Predict.

        Args:
            images: (B, C, H, W), normalised with `mean` and `std`.
            metadata: (B, F) features for the head, None where it takes none or nothing is known.

        Returns:
            `mask_logits` (B, num_masks, H, W) if the network has a decoder, and `class_logits`
            (B, num_classes) if it has a head.

        Raises:
            UserError: A training batch of one image, where a normalisation layer needs more.
        """
        try:
            return self._predict(images, metadata)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                f"a batch of {len(images)} image of {images.shape[-2]} x {images.shape[-1]} pixels is too "
                "small for this network's batch normalisation: use data.batch_size of at least 2, or larger "
                "images."
            ) from error

    def _predict(self, images: Tensor, metadata: Tensor | None) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        padding = (0, self._padded(width) - width, 0, self._padded(height) - height)
        encoded = self.encoder(F.pad(images, padding, mode="replicate") if any(padding) else images)
        inputs = encoded if isinstance(encoded, tuple) else (encoded,)
        outputs: dict[str, Tensor] = {}
        probability = None
        if self.decoder is not None and self.segmentation_head is not None:
            outputs["mask_logits"] = self.segmentation_head(self.decoder(*inputs))[..., :height, :width]
        if self.classification_head is not None:
            if self.classification_head.mask_attention:
                # Zero in the padding, so that mask attention does not look there.
                probability = F.pad(lesion_probability(outputs["mask_logits"]), padding)
            extent = height / self._padded(height), width / self._padded(width)
            outputs["class_logits"] = self.classification_head(inputs[0], probability, extent, metadata)
        return outputs

    def _padded(self, size: int) -> int:
        """Return the smallest size that the decoder takes and `size` fits in."""
        return -(-max(size, self.min_size) // self.stride) * self.stride

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the encoder's parameters, frozen ones too, for a learning rate of their own."""
        return self._parameters_where(encoder=True)

    def other_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of decoder and heads."""
        return self._parameters_where(encoder=False)

    def _parameters_where(self, *, encoder: bool) -> list[nn.Parameter]:
        return [
            value
            for name, value in self.named_parameters()
            if name.startswith("encoder.") == encoder and name not in self._never_trained
        ]

    def start_epoch(self, epoch: int) -> None:
        """Freeze or unfreeze the encoder as is due in `epoch`, counted from 0."""
        self._frozen = self.freeze_backbone and (
            self.unfreeze_at_epoch is None or epoch < self.unfreeze_at_epoch
        )
        for parameter in self.encoder_parameters():
            parameter.requires_grad_(not self._frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> SegmentationClassifier:
        """Set the training mode; a frozen encoder stays in evaluation mode, or its statistics would move."""
        super().train(mode)
        if self._frozen:
            self.encoder.eval()
        return self

    def rest_unused(self, outputs: Mapping[str, Tensor]) -> None:
        """Exclude from training, for good, the parameters on which none of `outputs` depends.

        Encoders bring some along (the stages below PSPNet's, the last convolution of EfficientNet). They
        would make DistributedDataParallel wait for gradients that never come.

        Args:
            outputs: What `forward` returned, with all parameters trainable.
        """
        trained = {name: value for name, value in self.named_parameters() if value.requires_grad}
        total = torch.stack([output.float().sum() for output in outputs.values()]).sum()
        gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
        for (name, parameter), gradient in zip(trained.items(), gradients, strict=True):
            if gradient is None:
                parameter.requires_grad_(False)
                self._never_trained.add(name)


def lesion_probability(mask_logits: Tensor) -> Tensor:
    """Return the probability (B, 1, H, W), float32, that a pixel is not background.

    Args:
        mask_logits: (B, 1, H, W): logits of the lesion; (B, C, H, W): logits of C classes, of which class
            0 is the background.
    """
    logits = mask_logits.float()
    if logits.shape[1] == 1:
        return logits.sigmoid()
    return 1 - logits.softmax(dim=1)[:, :1]
