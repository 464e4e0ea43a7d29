from __future__ import annotations

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch

from polymask.errors import UserError
from polymask.models.encoders import check_encoder_name
from polymask.models.mask_class.classifier import lesion_probability
from polymask.models.mask_class.decoders import DECODERS
from polymask.models.mask_class.smp import build_smp


def build(**options):
    defaults = {"model": "unet", "encoder_name": "tu-test_resnet", "encoder_weights": None}
    return build_smp(**{**defaults, "num_masks": 1, "num_classes": 3, **options})


def images(height: int, width: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("model", DECODERS)
def test_every_decoder_takes_images_of_any_size(model):
    encoder = "tu-test_vit" if model == "dpt" else "tu-test_resnet"
    network = build(model=model, encoder_name=encoder, num_masks=2, head={"mask_attention": True})
    for height, width in ((65, 97), (32, 33)):
        outputs = network(images(height, width))
        assert outputs["mask_logits"].shape == (2, 2, height, width)
        assert outputs["class_logits"].shape == (2, 3)


@pytest.mark.parametrize("encoder", ["tu-test_convnext", "mit_b0", "tu-swin_tiny_patch4_window7_224"])
def test_transformers_and_their_kin_take_images_of_any_size(encoder):
    outputs = build(encoder_name=encoder).eval()(images(33, 70, batch=1))
    assert outputs["mask_logits"].shape == (1, 1, 33, 70)


@pytest.mark.parametrize("model", ["unet", "fpn"])
def test_without_padding_the_logits_are_those_of_the_library(model):
    network = build(model=model).eval()
    reference = DECODERS[model](encoder_name="tu-test_resnet", encoder_weights=None, classes=1).eval()
    reference.load_state_dict(
        {key: value for key, value in network.state_dict().items() if key in reference.state_dict()}
    )
    with torch.no_grad():
        assert torch.equal(network(images(64, 64))["mask_logits"], reference(images(64, 64)))


def test_padding_repeats_the_edge_at_the_bottom_and_the_right():
    network = build().eval()
    padded = np.pad(images(40, 70).numpy(), ((0, 0), (0, 0), (0, 24), (0, 26)), mode="edge")
    with torch.no_grad():
        expected = network(torch.from_numpy(padded))["mask_logits"][..., :40, :70]
        assert torch.equal(network(images(40, 70))["mask_logits"], expected)


def test_the_class_does_not_depend_on_cells_of_padding():
    network = build(head={"levels": [4]}).eval()  # stride 16
    padded = np.pad(images(40, 70).numpy(), ((0, 0), (0, 0), (0, 24), (0, 26)), mode="edge")
    with torch.no_grad():
        feature = network.encoder(torch.from_numpy(padded))[4][..., :3, :5]
        linear = network.classification_head.logits
        expected = feature.numpy().mean((2, 3)) @ linear.weight.numpy().T + linear.bias.numpy()
        found = network(images(40, 70))["class_logits"]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_mask_attention_looks_at_the_predicted_mask():
    network = build(head={"mask_attention": True}).eval()
    with torch.no_grad():
        outputs = network(images(64, 64))
        feature = network.encoder(images(64, 64))[-1].numpy()  # (2, 512, 2, 2)
        probability = 1 / (1 + np.exp(-outputs["mask_logits"].numpy()))
        weight = probability.reshape(2, 1, 2, 32, 2, 32).mean(axis=(3, 5))
        attended = (feature * weight).sum((2, 3)) / weight.sum((2, 3))
        vector = np.concatenate([feature.mean((2, 3)), attended], axis=1)
        linear = network.classification_head.logits
        expected = vector @ linear.weight.numpy().T + linear.bias.numpy()
    np.testing.assert_allclose(outputs["class_logits"].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_lesion_is_what_is_not_background():
    logits = torch.randn(2, 4, 3, 5)
    exponents = np.exp(logits.double().numpy())
    expected = exponents[:, 1:].sum(1, keepdims=True) / exponents.sum(1, keepdims=True)
    np.testing.assert_allclose(lesion_probability(logits).numpy(), expected, rtol=1e-5)


def test_masks_and_classes_can_each_be_left_out():
    assert set(build(num_classes=0).eval()(images(64, 64))) == {"mask_logits"}
    class_only = build(num_masks=0, model="none").eval()
    assert set(class_only(images(33, 45))) == {"class_logits"}
    assert not any(name.startswith("decoder") for name in class_only.state_dict())
    with pytest.raises(UserError, match="nothing to predict"):
        build(num_masks=0, num_classes=0)


def test_a_plain_transformer_classifies_without_decoder():
    network = build(num_masks=0, encoder_name="tu-test_vit", head={"levels": [-2, -1]}).eval()
    assert network(images(70, 50))["class_logits"].shape == (2, 3)


def test_every_trainable_parameter_takes_part():
    for options in ({"model": "pspnet"}, {"encoder_name": "efficientnet-b0"}):
        network = build(**options, freeze_backbone=True, unfreeze_at_epoch=1)
        network.start_epoch(1)
        sum(output.sum() for output in network(images(64, 64)).values()).backward()
        for name, parameter in network.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
        listed = {*network.encoder_parameters(), *network.other_parameters()}
        assert listed == {parameter for parameter in network.parameters() if parameter.requires_grad}


def state_of(network: torch.nn.Module, part: str) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items() if key.startswith(part)}


def changed(before: dict[str, torch.Tensor], network: torch.nn.Module) -> set[str]:
    after = network.state_dict()
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


def train_one_step(network: torch.nn.Module) -> None:
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    sum(output.square().sum() for output in network(images(64, 64)).values()).backward()
    optimizer.step()


def test_a_frozen_encoder_stands_still_until_it_is_unfrozen():
    # Not the smallest encoder: timm starts residual branches at zero, where a first step moves nothing.
    network = build(encoder_name="resnet18", freeze_backbone=True, unfreeze_at_epoch=2)
    for epoch in (0, 1):
        network.start_epoch(epoch)
        before, decoder = state_of(network, "encoder."), state_of(network, "decoder.")
        train_one_step(network)
        assert changed(before, network) == set()
        assert any(key.endswith("running_mean") for key in changed(decoder, network))
    network.start_epoch(2)
    before = state_of(network, "encoder.")
    train_one_step(network)
    assert changed(before, network) == set(before)


def test_a_frozen_encoder_without_epoch_is_never_unfrozen():
    network = build(freeze_backbone=True)
    network.start_epoch(1000)
    assert not any(parameter.requires_grad for parameter in network.encoder_parameters())
    assert all(parameter.requires_grad for parameter in network.other_parameters())
    assert not network.train().encoder.training
    assert network.decoder.training


def test_a_training_batch_too_small_for_batch_normalisation_is_explained():
    network = build(model="deeplabv3").train()
    with pytest.raises(UserError, match=r"a batch of 1 image of 64 x 64 pixels.*data\.batch_size"):
        network(images(64, 64, batch=1))


def test_images_may_have_other_channels():
    network = build(in_channels=4).eval()
    assert network(torch.randn(1, 4, 64, 64))["mask_logits"].shape == (1, 1, 64, 64)
    assert network.mean == (0.485, 0.456, 0.406, 0.485)


def test_every_encoder_of_the_library_is_accepted_by_name():
    names = smp.encoders.get_encoder_names()
    assert [check_encoder_name(name) for name in names] == names
    assert check_encoder_name("tu-resnet18.a1_in1k") == "tu-resnet18.a1_in1k"


@pytest.mark.parametrize("name", [5, None])
def test_an_encoder_name_of_another_type_is_told(name) -> None:
    with pytest.raises(UserError, match=f"model.encoder_name='{name}' is unknown"):
        build(encoder_name=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "unt"}, r"model\.model='unt'.*'unet'.*pspnet.*dpt"),
        (
            {"encoder_name": "resnet19"},
            r"model\.encoder_name='resnet19'.*resnet18.*nearest of \d+ .*get_encoder_names",
        ),
        ({"encoder_name": "tu-resnett18"}, r"model\.encoder_name='tu-resnett18'.*tu-resnet18"),
        ({"encoder_name": "tu-resnet18.x"}, r"no weights 'x' for it\. Allowed: tu-resnet18, tu-resnet18\.a1"),
        ({"encoder_name": "tu-test_vit"}, r"plain vision transformer.*model\.model=dpt"),
        (
            {"model": "dpt", "encoder_name": "resnet18"},
            r"dpt needs a plain vision transformer.*'resnet18' is not",
        ),
        ({"model": "dpt", "encoder_name": "tu-test_resnet"}, r"dpt needs a plain vision transformer"),
        ({"model": "dpt", "encoder_name": "tu-eva02_tiny_patch14_224"}, r"dpt needs patches of 8, 16 or 32"),
        (
            {"model": "deeplabv3", "encoder_name": "densenet121"},
            r"'densenet121' with model\.model=deeplabv3 does not work: .*dilated",
        ),
        (
            {"encoder_name": "tu-test_maxvit"},
            r"'tu-test_maxvit' with model.model=unet does not take images of every size",
        ),
        ({"encoder_name": "tu-levit_128s", "num_masks": 0}, r"'tu-levit_128s' without decoder does not work"),
        ({"encoder_depth": 4}, r"model=unet does not work: Model depth is 4.*decoder_channels"),
        ({"decoder_chanels": [1]}, r"model\.decoder_chanels is unknown.*'decoder_channels'"),
        ({"freeze_backbon": True}, r"model\.freeze_backbon is unknown.*'freeze_backbone'"),
        ({"activation": "sigmoid"}, r"model\.activation is unknown"),
        ({"model": "pspnet", "upsampling": 4}, r"leave model\.upsampling out"),
        ({"head": {"poling": "avg"}}, r"model\.head='poling'.*'pooling'"),
        ({"num_masks": 0, "head": {"mask_attention": True}}, r"mask_attention=true needs a mask"),
    ],
)
def test_mistakes_are_named_with_what_is_allowed(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_depth_and_width_of_the_decoder_are_options():
    network = build(encoder_depth=3, decoder_channels=[16, 8, 4]).eval()
    assert network(images(41, 64))["mask_logits"].shape == (2, 1, 41, 64)
    assert network.stride == 8
    psp = build(model="pspnet", encoder_depth=4).eval()
    assert psp(images(41, 64))["mask_logits"].shape == (2, 1, 41, 64)
