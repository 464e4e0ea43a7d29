from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

from polymask.errors import UserError
from polymask.models.mask_class.unet_family import NETWORKS, build_unet
from polymask.training.ema import WeightAverage

SMALL = [4, 8, 8, 8, 8]


def build(model: str = "unet", **options):
    return build_unet(**{"model": model, "num_masks": 1, "num_classes": 0, "channels": SMALL, **options})


def images(height: int, width: int, batch: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("model", NETWORKS)
def test_images_of_any_size_give_logits_of_their_size(model):
    network = build(model, num_masks=4)
    for training in (True, False):
        network.train(training)
        for height, width in ((65, 97), (32, 48), (5, 1)):
            outputs = network(images(height, width))
            assert set(outputs) == {"mask_logits"}
            assert outputs["mask_logits"].shape == (2, 4, height, width)


@pytest.mark.parametrize("model", NETWORKS)
def test_padding_repeats_the_edge_at_the_bottom_and_the_right(model):
    network = build(model).eval()
    padded = np.pad(images(40, 70).numpy(), ((0, 0), (0, 0), (0, 8), (0, 10)), mode="edge")
    with torch.no_grad():
        expected = network(torch.from_numpy(padded))["mask_logits"][..., :40, :70]
        assert torch.equal(network(images(40, 70))["mask_logits"], expected)


@pytest.mark.parametrize("model", NETWORKS)
def test_every_parameter_is_trained_and_listed_once(model):
    network = build(model)
    network.start_epoch(0)
    network(images(64, 64))["mask_logits"].square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
    listed = [*network.encoder_parameters(), *network.other_parameters()]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(network.parameters())


@pytest.mark.parametrize("model", NETWORKS)
def test_gradients_reach_the_first_layer(model):
    network = build(model).eval()
    network(images(64, 64))["mask_logits"].square().mean().backward()
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    assert first.in_channels == 3
    assert first.weight.grad.abs().max() > 0


@pytest.mark.parametrize("model", NETWORKS)
def test_weights_are_held_under_one_name_and_averages_leave_them_alone(model):
    network = build(model)
    tensors = list(network.state_dict().values())
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)
    average = WeightAverage(network, decay=0.9)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1
    average.update()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with average.applied():
        pass
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_default_networks_have_about_as_many_parameters_each():
    counts = [
        sum(parameter.numel() for parameter in build(model, channels=(32, 64, 128, 256, 512)).parameters())
        for model in NETWORKS
    ]
    assert max(counts) < 1.03 * min(counts)


def test_the_residual_network_is_that_of_the_library():
    from monai.networks.nets.dynunet import DynUNet

    network = build("residual_dynunet").eval()
    reference = DynUNet(
        2, 3, 1, [3] * 5, [1, 2, 2, 2, 2], [2] * 4, filters=SMALL, deep_supervision=False, res_block=True
    ).eval()
    skip_layers, output = network.decoder
    reference.skip_layers.load_state_dict(skip_layers.state_dict())
    reference.output_block.load_state_dict(output.state_dict())
    with torch.no_grad():
        assert torch.equal(network(images(64, 96))["mask_logits"], reference(images(64, 96)))


@pytest.mark.parametrize("model", NETWORKS)
def test_dropout_changes_training_only_and_never_the_logits_themselves(model):
    network = build(model, dropout=0.5)
    network.eval()
    assert torch.equal(network(images(64, 64))["mask_logits"], network(images(64, 64))["mask_logits"])
    network.train()
    first, second = network(images(64, 64))["mask_logits"], network(images(64, 64))["mask_logits"]
    assert not torch.equal(first, second)
    assert (first != 0).all()


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm2d), ("instance", nn.InstanceNorm2d)])
@pytest.mark.parametrize("model", ["unet", "residual_dynunet"])
def test_normalisation_is_an_option(model, norm, kind):
    layers = [module for module in build(model, norm=norm).modules() if "Norm" in type(module).__name__]
    assert layers
    assert all(isinstance(layer, kind) for layer in layers)


def test_depth_and_channels_of_images_are_options():
    network = build("attention_unet", channels=[4, 8, 8], in_channels=4).eval()
    assert network.stride == 4
    assert network(images(41, 64, channels=4))["mask_logits"].shape == (2, 1, 41, 64)
    assert network.mean == (0.485, 0.456, 0.406, 0.485)
    assert network.std == (0.229, 0.224, 0.225, 0.229)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "atention_unet"}, r"model\.model='atention_unet'.*'attention_unet'.*residual_dynunet"),
        ({"num_classes": 3}, r"no classification head, but 3 classes.*task=segmentation"),
        ({"num_masks": 0}, r"num_masks=0: nothing to predict"),
        ({"encoder_weights": "imagenet"}, r"'imagenet'.*no pretrained weights"),
        ({"channels": [8, 16, 32]}, r"channels=\[8, 16, 32\] must list the channels of 5 levels"),
        ({"model": "residual_dynunet", "channels": [8, 16]}, r"channels of 3 to 8 levels"),
        ({"channels": 32}, r"model\.channels=32 must list"),
        ({"channels": [8, 8, 8, 8, 0]}, r"model\.channels=0 is not valid"),
        ({"norm": "group"}, r"model\.norm of unet='group' is unknown.*instance, batch"),
        ({"model": "attention_unet", "norm": "instance"}, r"model\.norm of attention_unet.*Allowed: batch"),
        ({"dropout": 1.0}, r"model\.dropout=1.0 is not valid; give a number of at least 0 and below 1"),
    ],
)
def test_mistakes_are_named_with_what_is_allowed(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets.basic_unet", None)
    with pytest.raises(UserError, match=r"needs MONAI.*pip install polymask\[unets\]") as raised:
        build()
    assert "\n" not in str(raised.value)
