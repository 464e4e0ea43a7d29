from __future__ import annotations

import pytest
import torch
from torch import nn

from polymask.errors import UserError
from polymask.models.mask_class.smp import build_smp


def build(**options):
    defaults = {"model": "transposed", "encoder_name": "mobilenet_v2", "encoder_weights": None}
    return build_smp(**{**defaults, "num_masks": 1, "num_classes": 0, **options})


def test_layers_are_those_of_the_study():
    network = build(decoder_channels=[512, 256, 128, 64, 32])
    convolutions = [m for m in network.decoder.modules() if isinstance(m, nn.ConvTranspose2d)]
    widths = [(c.in_channels, c.out_channels) for c in convolutions]
    assert widths == [(1280, 512), (512, 256), (256, 128), (128, 64), (64, 32)]
    assert {(c.kernel_size, c.stride, c.padding) for c in convolutions} == {((4, 4), (2, 2), (1, 1))}
    dropout, head = network.segmentation_head
    assert isinstance(dropout, nn.Dropout2d)
    assert (head.in_channels, head.out_channels, head.kernel_size) == (32, 1, (1, 1))


def test_only_the_deepest_map_is_decoded():
    network = build().eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        deepest = network.encoder(images)[-1]
        assert deepest.shape == (1, 1280, 2, 3)
        by_hand = deepest
        for step in network.decoder.steps:
            by_hand = step(by_hand)
        expected = network.segmentation_head(by_hand)
        assert expected.shape == (1, 1, 64, 96)
        assert torch.equal(network(images)["mask_logits"], expected)


@pytest.mark.parametrize(
    ("encoder", "channels"),
    [
        ("tu-mobilenetv3_small_050", [64, 48, 32, 24, 16]),
        ("tu-test_convnext", [64, 48, 32, 24, 16]),
        ("tu-test_vit", [64, 48, 32, 16]),
        ("resnet18", [32, 32, 32, 32, 32]),
    ],
)
def test_other_encoders_stand_in(encoder, channels):
    network = build(encoder_name=encoder, decoder_channels=channels)
    outputs = network(torch.randn(2, 3, 65, 97))
    assert outputs["mask_logits"].shape == (2, 1, 65, 97)
    outputs["mask_logits"].mean().backward()
    assert all(p.grad is not None for p in network.other_parameters())


def test_a_head_can_stand_beside_it():
    assert build(num_classes=3)(torch.randn(2, 3, 64, 64))["class_logits"].shape == (2, 3)


def test_wrong_number_of_channels_is_one_line():
    with pytest.raises(UserError, match="stride is 32: give 5 numbers"):
        build(decoder_channels=[64, 32])


def test_frozen_encoder_keeps_weights_and_statistics():
    network = build(encoder_name="resnet18", freeze_backbone=True).train()
    before = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(torch.randn(2, 3, 64, 64))["mask_logits"].mean().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in network.encoder.state_dict().items())
