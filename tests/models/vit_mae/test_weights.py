"""Names of weights, files to start from, and files for others."""

from __future__ import annotations

import logging
import os

import pytest
import timm
import torch
import yaml
from mae_reference import AuthorsMae, batch, timm_vit, tiny_mae
from timm.layers import resample_abs_pos_embed

from polymask.errors import UserError
from polymask.models.encoder_file import encoder_file
from polymask.models.encoders import build_encoder
from polymask.models.vit_mae.export import encoder_file as mae_encoder_file
from polymask.models.vit_mae.export import timm_encoder, write_encoder
from polymask.models.vit_mae.keys import timm_names, todays_names

STATISTICS = {"mean", "std"}


def weights_of(network):
    return {key: value for key, value in network.state_dict().items() if key not in STATISTICS}


def spelled_as_before(weights):
    """transformers' state dict of today under the names of 4.x and 5.0."""
    pairs = [
        ("vit.layers.", "vit.encoder.layer."),
        ("attention.o_proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
    ]
    old = {}
    for key, value in weights.items():
        for new, before in pairs:
            key = key.replace(new, before)
        old[key] = value
    return old


def save(weights, path):
    torch.save(weights, path)
    return str(path)


def stripped(weights):
    """What timm knows of a file."""
    return {key: value for key, value in weights.items() if not key.startswith("pixel_")}


@pytest.fixture(scope="module")
def network():
    return tiny_mae().eval()


@pytest.fixture
def unmasked(network):
    """The encoder with all patches left."""
    config = network.vit.config
    before, config.mask_ratio = config.mask_ratio, 0.0
    yield network
    config.mask_ratio = before


@pytest.mark.parametrize("order", ["fixed", "random"])
def test_the_encoder_in_timm_gives_the_tokens_of_transformers(unmasked, order):
    vit = timm_vit()
    vit.load_state_dict(stripped(timm_encoder(unmasked)), strict=True)
    images, noise = batch()
    pixels = unmasked.normalize(images)
    if order == "fixed":
        noise = torch.arange(16.0).expand(3, 16)
    seen = unmasked.vit(pixels, noise=noise)
    tokens, patches = seen.last_hidden_state, seen.last_hidden_state[:, 1:]
    back = seen.ids_restore[..., None].expand_as(patches)
    restored = torch.cat([tokens[:, :1], patches.gather(1, back)], dim=1)
    torch.testing.assert_close(vit.eval().forward_features(pixels), restored, rtol=0, atol=1e-5)
    assert (order == "fixed") == torch.allclose(tokens, restored)


def test_every_weight_of_the_encoder_is_accounted_for(network):
    encoder = {key: value for key, value in weights_of(network).items() if key.startswith("vit.")}
    exported = stripped(timm_encoder(network))
    assert set(exported) == set(timm_vit().state_dict())
    assert sum(map(torch.numel, exported.values())) == sum(map(torch.numel, encoder.values()))
    with pytest.raises(KeyError, match="pooler"):
        timm_names({**encoder, "vit.pooler.weight": torch.zeros(1)})


def test_the_names_are_those_of_transformers_today(network):
    """Whatever version is installed: checkpoints and files name weights as 5.24 does."""
    names = set(weights_of(network))
    part = (
        "layernorm_before",
        "layernorm_after",
        "mlp.fc1",
        "mlp.fc2",
        *(f"attention.{n}_proj" for n in "qkvo"),
    )
    stems = [f"vit.layers.{n}." for n in range(3)] + [f"decoder.decoder_layers.{n}." for n in range(2)]
    outside = ["vit.layernorm", "vit.embeddings.patch_embeddings.projection"]
    outside += [f"decoder.decoder_{name}" for name in ("embed", "norm", "pred")]
    owners = [*outside, *(stem + name for stem in stems for name in part)]
    alone = {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"}
    alone |= {"decoder.mask_token", "decoder.decoder_pos_embed"}
    assert names == alone | {f"{owner}.{kind}" for owner in owners for kind in ("weight", "bias")}


def test_a_version_with_other_names_keeps_and_takes_the_same_checkpoints():
    """A network whose modules are called as in transformers 4.x, inside of a larger module."""
    network, other = tiny_mae(seed=1), tiny_mae(seed=2)
    for layer in other.vit.layers:
        layer.add_module("intermediate", torch.nn.ModuleDict({"dense": layer.mlp.fc1}))
        layer.add_module("output", torch.nn.ModuleDict({"dense": layer.mlp.fc2}))
        del layer.mlp
    task = torch.nn.ModuleDict({"network": other})
    assert "network.vit.layers.0.intermediate.dense.weight" in dict(task.named_parameters())
    assert set(task.state_dict()) == {f"network.{key}" for key in network.state_dict()}
    task.load_state_dict(
        {f"network.{key}": value for key, value in network.state_dict().items()}, strict=True
    )
    assert torch.equal(other.vit.layers[2].output["dense"].weight, network.vit.layers[2].mlp.fc2.weight)


SPELLINGS = {
    "today": dict,
    "before": spelled_as_before,
    "in a wrapper": lambda weights: {"model": {f"module.{key}": value for key, value in weights.items()}},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_published_weights_of_transformers_are_loaded_whole(network, tmp_path, caplog, spelling):
    caplog.set_level(logging.INFO)
    path = save(SPELLINGS[spelling](weights_of(network)), tmp_path / "weights.bin")
    loaded = tiny_mae(seed=1, weights=path)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in network.state_dict().items())
    total = len(weights_of(network))
    assert f"{total} of {total} tensors loaded" in caplog.text
    untouched = tiny_mae(seed=1, weights=path, pretrained=False)
    assert not torch.equal(untouched.decoder.mask_token, network.decoder.mask_token)


def test_weights_of_the_authors_compute_what_their_network_does(tmp_path):
    torch.manual_seed(3)
    authors = AuthorsMae().eval()
    path = save({"model": authors.state_dict(), "epoch": 3}, tmp_path / "mae.pth")
    network = tiny_mae(weights=path).eval()
    images, noise = batch()
    pixels = network.normalize(images)
    patches, mask = network(pixels, noise)
    expected, expected_mask = authors(pixels, noise, 4)
    torch.testing.assert_close(patches, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(mask, expected_mask)


def test_an_encoder_alone_is_loaded_and_the_decoder_stays_new(network, tmp_path, caplog):
    weights = timm_encoder(network) | {"pixel_mean": torch.tensor([0.5, 0.4, 0.3])}
    loaded = tiny_mae(seed=1, weights=save(weights, tmp_path / "encoder.pth"))
    fresh = tiny_mae(seed=1)
    for key, value in weights_of(loaded).items():
        origin = network if key.startswith("vit.") else fresh
        assert torch.equal(value, origin.state_dict()[key]), key
    assert loaded.mean.tolist() == pytest.approx([0.5, 0.4, 0.3])
    assert "so the decoder starts anew" in caplog.text


def test_statistics_of_the_pixels_come_with_the_weights(network, tmp_path):
    whole = {f"model.{key}": value for key, value in network.state_dict().items()}
    whole["model.mean"] = torch.tensor([0.1, 0.2, 0.3])
    loaded = tiny_mae(weights=save({"model": whole}, tmp_path / "run.pt"))
    assert loaded.mean.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert torch.equal(loaded.decoder.mask_token, network.decoder.mask_token)


def test_a_decoder_of_another_size_starts_anew(network, tmp_path, caplog):
    path = save(weights_of(network), tmp_path / "weights.pth")
    loaded = tiny_mae(weights=path, decoder_hidden_size=32)
    assert torch.equal(loaded.vit.layernorm.weight, network.vit.layernorm.weight)
    assert "decoder.mask_token (1, 1, 16) instead of (1, 1, 32)" in caplog.text


def test_tables_of_another_image_size_are_resampled(network, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    loaded = tiny_mae(image_size=48, weights=save(weights_of(network), tmp_path / "weights.pth"))
    table = network.vit.get_parameter("embeddings.position_embeddings")
    expected = resample_abs_pos_embed(table, new_size=[6, 6], num_prefix_tokens=1)
    assert torch.equal(loaded.vit.get_parameter("embeddings.position_embeddings"), expected)
    assert "position_embeddings resampled to 36 patches" in caplog.text
    assert "decoder_pos_embed resampled to 36 patches" in caplog.text


def with_strange(weights):
    return {**weights, "vit.layers.0.scale.gamma": torch.ones(1)}


WRONG = {
    "another depth": ({"depth": 2}, dict, "16 tensors unexpected (vit.layers.2.attention.q_proj.weight, …)"),
    "another width": ({"hidden_size": 32}, dict, "vit.embeddings.cls_token (1, 1, 24) instead of (1, 1, 32)"),
    "another patch": ({"patch_size": 16}, dict, "of another shape (vit.embeddings.patch_embeddings"),
    "unknown layers": ({}, with_strange, "1 tensors unexpected (vit.layers.0.scale.gamma)"),
    "another network": ({}, lambda _: {"conv1.weight": torch.ones(1)}, "1 tensors unknown (conv1.weight)"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_weights_of_another_architecture_are_refused_in_one_line(network, tmp_path, case):
    options, change, message = WRONG[case]
    path = save(change(weights_of(network)), tmp_path / "weights.pth")
    with pytest.raises(UserError) as refused:
        tiny_mae(weights=path, **options)
    assert f"model.weights={path} does not fit the encoder" in str(refused.value)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_names_keep_their_weights_on_the_way_to_timm_and_back(network):
    encoder = {key: value for key, value in weights_of(network).items() if key.startswith("vit.")}
    back = todays_names({f"encoder.model.{key}": value for key, value in timm_names(encoder).items()})
    assert back.keys() == encoder.keys()
    assert all(torch.equal(back[key], encoder[key]) for key in encoder)


def test_the_file_is_what_timm_loads_after_the_statistics_are_taken_out(tmp_path):
    options = {"hidden_size": None, "num_heads": None, "depth": None, "size": "tiny", "patch_size": 16}
    network = tiny_mae(**options)
    path = tmp_path / "deep" / "ssl_vit_backbone.pth"
    write_encoder(network, path, {"epochs": 3, "val_loss": 0.25})
    content = torch.load(path, weights_only=True)
    assert content["pixel_mean"].tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert content["pos_embed"].abs().max() > 0.5
    described = yaml.safe_load(path.with_suffix(".yaml").read_text())
    assert described == {
        "architecture": "vit_tiny_patch16_224", "hidden_size": 192, "depth": 12, "num_heads": 3,
        "image_size": 32, "patch_size": 16, "mask_ratio": 0.75, "epochs": 3, "val_loss": 0.25,
    }  # fmt: skip
    torch.save(stripped(content), path)
    vit = timm.create_model(
        described["architecture"], img_size=32, num_classes=0, pretrained=False, checkpoint_path=str(path)
    )
    last = network.state_dict()["vit.layers.11.mlp.fc2.weight"]
    assert torch.equal(vit.blocks[11].mlp.fc2.weight, last)
    assert sorted(os.listdir(path.parent)) == ["ssl_vit_backbone.pth", "ssl_vit_backbone.yaml"]


def test_a_network_without_a_name_in_timm_is_told_by_its_numbers(network):
    facts = mae_encoder_file(network, norm_pixels=True).facts
    assert (facts["architecture"], facts["hidden_size"], facts["depth"]) == (None, 24, 3)
    assert facts["norm_pixels"] is True


def test_exported_weights_are_copies(network):
    timm_encoder(network)["pixel_mean"].zero_()
    assert network.mean.min() > 0


def test_encoders_of_timm_are_files_when_they_are_plain_transformers(tmp_path):
    vit = build_encoder("tu-test_vit", weights=None, in_channels=3)
    found = encoder_file(vit, torch.zeros(3), torch.ones(3))
    assert found is not None
    timm.create_model("test_vit", num_classes=0).load_state_dict(stripped(found.weights), strict=True)
    assert found.facts == {
        "architecture": "test_vit", "hidden_size": 64, "depth": 6, "num_heads": 2, "image_size": 160,
        "patch_size": 16,
    }  # fmt: skip
    for name in ("tu-test_resnet", "resnet18"):
        other = build_encoder(name, weights=None, in_channels=3)
        assert encoder_file(other, torch.zeros(3), torch.ones(3)) is None
