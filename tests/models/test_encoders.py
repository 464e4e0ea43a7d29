from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from polymask.errors import UserError
from polymask.models.encoders import build_encoder, encoder_layers
from polymask.models.mask_class.smp import build_smp
from polymask.training.optimizers import adamw, by_layer


def build(name, **options):
    torch.manual_seed(0)
    return build_encoder(f"tu-{name}", weights=None, in_channels=3, **options)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "vit_tiny_patch16_224"])
def test_rates_and_decay_of_layers_are_those_of_timm(name):
    encoder, head = build(name), nn.Linear(2, 2)
    groups = {"encoder": list(encoder.parameters()), "rest": list(head.parameters())}
    optimizer = adamw(
        by_layer(groups, encoder_layers(encoder)), learning_rate=0.5, weight_decay=0.05, layer_decay=0.7
    )
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    model = timm.create_model(name, num_classes=2)  # its head is one layer more
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    layers = param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.7)
    expected = {names[id(p)]: (0.5 * g["lr_scale"], g["weight_decay"]) for g in layers for p in g["params"]}
    assert len({rate for rate, _ in expected.values()}) == len(model.blocks) + 2
    for key, parameter in encoder.model.named_parameters():
        assert found.pop(id(parameter)) == pytest.approx(expected[key]), key
    assert found == {id(head.weight): expected["head.weight"], id(head.bias): expected["head.bias"]}


def test_an_encoder_with_a_pyramid_has_no_such_layers():
    with pytest.raises(UserError, match=r"optimizer\.layer_decay is for .*vit_.*optimizer\.layer_decay=null"):
        encoder_layers(build("test_resnet"))


def test_frozen_layers_keep_their_number():
    encoder = build("test_vit")
    trained = [p for name, p in encoder.named_parameters() if "blocks.5" in name or "blocks.2" in name]
    groups = by_layer({"encoder": trained, "rest": []}, encoder_layers(encoder))
    assert [name for name, members in groups.items() if members] == ["encoder/03", "encoder/06"]
    rates = {g["name"]: g["lr"] for g in adamw(groups, learning_rate=1.0, layer_decay=0.5).param_groups}
    assert rates == {
        "encoder/03_weights": 0.5**4,
        "encoder/03_vectors": 0.5**4,
        "encoder/06_weights": 0.5,
        "encoder/06_vectors": 0.5,
    }


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("dpt", {"decoder_intermediate_channels": [8] * 4, "decoder_fusion_channels": 8}),
        ("transposed", {"decoder_channels": [8] * 4}),
    ],
)
def test_options_of_training_reach_a_transformer_of_the_multitask_system(model, options):
    plain, checkpointed = (
        build_network(model, drop_path=0.5, checkpoint_blocks=on, **options) for on in (False, True)
    )
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in plain.encoder.model.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    found = []
    for network in (plain, checkpointed):
        torch.manual_seed(1)
        network(torch.rand(2, 3, 32, 32))["mask_logits"].square().mean().backward()
        found.append([p.grad for p in network.encoder_parameters()])
    assert len(found[0]) > 70
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert [b.encoder.model.grad_checkpointing for b in (plain, checkpointed)] == [False, True]
    layers = encoder_layers(plain.encoder)
    assert len(layers) == 7
    assert {p for layer in layers for p in layer} >= set(plain.encoder_parameters())


def build_network(model, encoder_name="tu-test_vit", **options):
    torch.manual_seed(0)
    outputs = {"encoder_weights": None, "num_masks": 1, "num_classes": 0}
    return build_smp(model=model, encoder_name=encoder_name, **outputs, **options)


def test_paths_are_dropped_in_any_encoder_of_timm_that_can():
    encoder = build("test_convnext", drop_path=0.3)
    assert max(getattr(module, "drop_prob", 0.0) for module in encoder.modules()) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("encoder_name", "options", "message"),
    [
        (
            "resnet18",
            {"drop_path": 0.1},
            r"model\.drop_path=0\.1 is for .*model\.encoder_name='resnet18' use 0",
        ),
        ("tu-vgg11", {"drop_path": 0.1}, r"model\.drop_path=0\.1 is for .*'tu-vgg11' use 0"),
        ("tu-test_resnet", {"drop_path": -1}, r"model\.drop_path=-1 is not valid"),
        (
            "resnet18",
            {"checkpoint_blocks": True},
            r"model\.checkpoint_blocks=true is for .*'resnet18' use false",
        ),
    ],
)
def test_options_of_training_that_an_encoder_lacks(encoder_name, options, message):
    with pytest.raises(UserError, match=message) as caught:
        build_network("unet", encoder_name, **options)
    assert "\n" not in str(caught.value)
