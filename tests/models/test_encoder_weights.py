from __future__ import annotations

import json

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from polymask.errors import UserError
from polymask.models.mask_class.smp import build_smp
from polymask.models.mask_rcnn.model import build_model


def build(weights, encoder_name="resnet18", **options):
    return build_smp(
        model=options.pop("model", "unet"),
        encoder_name=encoder_name,
        encoder_weights=None if weights is None else str(weights),
        num_masks=options.pop("num_masks", 1),
        num_classes=options.pop("num_classes", 2),
        **options,
    )


SMALL_DPT = {"decoder_intermediate_channels": [8] * 4, "decoder_fusion_channels": 8}


@pytest.fixture(scope="module")
def encoder():
    return smp.encoders.get_encoder("resnet18", weights=None)


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("prefix", ["", "encoder.", "model.encoder.", "module.backbone."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_with_any_prefix_is_loaded(tmp_path, encoder, prefix, suffix):
    weights = {prefix + key: value for key, value in encoder.state_dict().items()}
    weights[f"{prefix}fc.weight"] = torch.zeros(1000, 512)
    if prefix:
        weights["decoder.conv1.weight"] = torch.zeros(1)
    save = save_file if suffix == ".safetensors" else torch.save
    save(weights, tmp_path / f"weights{suffix}")
    network = build(tmp_path / f"weights{suffix}")
    assert_same_weights(network.encoder.state_dict(), encoder.state_dict())


def test_a_checkpoint_of_a_whole_model_is_loaded_with_its_normalisation(tmp_path):
    first = build(None)
    first.pixel_mean.copy_(torch.tensor([0.5, 0.25, 0.125]))
    weights = {f"model.{key}": value for key, value in first.state_dict().items()}
    torch.save({"model": weights, "epoch": 3, "config": {"seed": 1}}, tmp_path / "run.pt")
    second = build(tmp_path / "run.pt", num_classes=0)
    assert_same_weights(second.encoder.state_dict(), first.encoder.state_dict())
    assert second.mean == (0.5, 0.25, 0.125)


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet"])
def test_the_file_of_a_timm_model_fits_its_pyramid(tmp_path, name):
    original = timm.create_model(name).eval()
    torch.save(original.state_dict(), tmp_path / "timm.pth")
    network = build(tmp_path / "timm.pth", encoder_name=f"tu-{name}").eval()
    images = torch.randn(1, 3, 64, 64)
    expected = original.forward_intermediates(images, intermediates_only=True)
    torch.testing.assert_close(network.encoder(images)[-1], expected[-1])


def test_the_file_of_a_plain_transformer_fits(tmp_path):
    original = timm.create_model("test_vit").eval()
    torch.save(original.state_dict(), tmp_path / "vit.pt")
    network = build(tmp_path / "vit.pt", encoder_name="tu-test_vit", num_masks=0)
    expected = original.state_dict()
    found = network.encoder.model.state_dict()
    assert found.keys() == {key for key in expected if not key.startswith("head.")}
    assert all(torch.equal(found[key], expected[key]) for key in found)


STATISTICS = {"pixel_mean": torch.tensor([0.5, 0.25, 0.125]), "pixel_std": torch.tensor([0.5, 0.25, 0.2])}


def write_vit(path, name="test_vit", **options):
    """Write the file of a pre-trained transformer: timm's names, and the statistics of the pixels."""
    torch.manual_seed(3)
    model = timm.create_model(name, num_classes=0, **options).eval()
    torch.save({**model.state_dict(), **STATISTICS}, path)
    return model


def build_both(path):
    """Both systems with the encoder of one file; returns the transformers, and the networks."""
    dpt = build(path, encoder_name="tu-test_vit", model="dpt", **SMALL_DPT)
    detector = build_model(backbone="test_vit", neck="simple", weights=str(path), num_classes=1, channels=8)
    return [dpt.encoder.model, detector.encoder.encoder.model], [dpt, detector.detector.transform]


def test_one_file_serves_both_systems_and_its_positions_are_resampled(tmp_path, caplog):
    original = write_vit(tmp_path / "vit.pth", img_size=64)
    with caplog.at_level("INFO"):
        transformers, networks = build_both(tmp_path / "vit.pth")
    report = (
        "vit.pth: 78 of 78 keys loaded; 1 resampled (pos_embed from 4 x 4 to 10 x 10 patches); 2 left out"
    )
    assert caplog.text.count(f"{report} (pixel_mean, pixel_std)") == 2
    images = torch.rand(2, 3, 160, 160)
    same_size = timm.create_model("test_vit", num_classes=0, img_size=64).eval()
    same_size.load_state_dict(original.state_dict())
    same_size.set_input_size((160, 160))  # timm's own way to resample
    for transformer in transformers:
        torch.testing.assert_close(transformer.pos_embed, same_size.pos_embed)
        with torch.no_grad():
            found, expected = (m.eval().forward_features(images) for m in (transformer, same_size))
        torch.testing.assert_close(found, expected)
    for network in networks:
        assert torch.equal(network.pixel_mean, STATISTICS["pixel_mean"])
        assert torch.equal(network.pixel_std, STATISTICS["pixel_std"])


def test_a_file_of_the_same_size_is_loaded_as_it_is(tmp_path, caplog):
    original = write_vit(tmp_path / "vit.pth")
    with caplog.at_level("INFO"):
        transformers, _ = build_both(tmp_path / "vit.pth")
    assert "78 of 78 keys loaded; 2 left out (pixel_mean, pixel_std)" in caplog.text
    assert "resampled" not in caplog.text
    for transformer in transformers:
        assert_same_weights(transformer.state_dict(), original.state_dict())


def test_the_last_norm_which_no_map_passes_may_be_absent(tmp_path, caplog):
    state = write_vit(tmp_path / "vit.pth").state_dict()
    torch.save(
        {key: value for key, value in state.items() if not key.startswith("norm.")}, tmp_path / "no.pt"
    )
    with caplog.at_level("INFO"):
        build_both(tmp_path / "no.pt")
    assert caplog.text.count("76 of 78 keys loaded; 2 missing (model.norm.weight, model.norm.bias)") == 2


def test_without_prefix_tokens_all_positions_are_resampled(tmp_path):
    """In this transformer the class tokens have no row in the table."""
    write_vit(tmp_path / "vit.pth", "test_vit2", img_size=(96, 96))
    network = build(tmp_path / "vit.pth", encoder_name="tu-test_vit2", num_masks=0)
    assert network.encoder.model.pos_embed.shape == (1, 101, 64)


@pytest.mark.parametrize(
    ("options", "holds"),
    [
        ({"depth": 4}, "4 blocks of 64 channels on patches of 16 pixels"),
        ({"embed_dim": 32}, "6 blocks of 32 channels on patches of 16 pixels"),
        ({"patch_size": 8}, "6 blocks of 64 channels on patches of 8 pixels"),
        ({"depth": 8, "img_size": 64}, "8 blocks of 64 channels on patches of 16 pixels"),
    ],
)
def test_a_transformer_of_another_build_is_refused_with_both_builds(tmp_path, options, holds):
    write_vit(tmp_path / "vit.pth", **options)
    with pytest.raises(UserError) as caught:
        build(tmp_path / "vit.pth", encoder_name="tu-test_vit", num_masks=0)
    message = str(caught.value)
    assert (
        "vit.pth does not fit model.encoder_name=tu-test_vit: the file holds a vision transformer" in message
    )
    assert f"of {holds}, the encoder has 6 blocks of 64 channels on patches of 16 pixels." in message
    with pytest.raises(UserError, match=r"model\.weights=.* does not fit model\.backbone=test_vit: the file"):
        build_model(backbone="test_vit", neck="simple", weights=str(tmp_path / "vit.pth"), num_classes=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"blocks.0.ls1.gamma": torch.ones(64)}, r"1 unexpected \(blocks\.0\.ls1\.gamma\)"),
        (lambda state: {"pos_embed": torch.zeros(1, 13, 64)}, r"pos_embed \(1, 13, 64\) instead of \(1, 101"),
        (lambda state: {"pos_embed": state["pos_embed"][..., :32]}, r"instead of \(1, 101, 64\)"),
    ],
)
def test_nothing_of_a_transformer_is_dropped_in_silence(tmp_path, change, message):
    state = write_vit(tmp_path / "vit.pth").state_dict()
    torch.save(state | change(state), tmp_path / "other.pt")
    with pytest.raises(UserError, match=message) as caught:
        build(tmp_path / "other.pt", encoder_name="tu-test_vit", num_masks=0)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_architecture_is_no_transformer(tmp_path, encoder):
    torch.save(encoder.state_dict(), tmp_path / "resnet18.pt")
    with pytest.raises(UserError, match=r"=tu-test_vit: keys 76 missing \(.*unexpected \(.*conv1") as caught:
        build(tmp_path / "resnet18.pt", encoder_name="tu-test_vit", num_masks=0)
    assert "\n" not in str(caught.value)


def test_keys_that_do_not_fit_are_reported(tmp_path, encoder):
    weights = dict(encoder.state_dict())
    del weights["layer3.0.conv1.weight"]
    weights["extra.weight"] = torch.zeros(1)
    weights["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    torch.save(weights, tmp_path / "broken.pt")
    message = (
        r"broken\.pt does not fit model\.encoder_name=resnet18: keys 1 missing \(layer3\.0\.conv1\.weight\); "
        r"1 unexpected \(extra\.weight\); "
        r"1 of another shape \(conv1\.weight \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)\)"
    )
    with pytest.raises(UserError, match=message):
        build(tmp_path / "broken.pt")


def test_weights_of_another_encoder_are_refused(tmp_path, encoder):
    torch.save(encoder.state_dict(), tmp_path / "resnet18.pt")
    with pytest.raises(
        UserError, match=r"does not fit model\.encoder_name=mobilenet_v2: keys \d+ missing.*unexpected"
    ):
        build(tmp_path / "resnet18.pt", encoder_name="mobilenet_v2")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pt", None, r"absent\.pt: there is no such file.*model\.encoder_weights=null"),
        ("text.pt", b"hello", "not a file of weights"),
        ("text.safetensors", b"hello", "not a file of weights"),
        ("empty.pt", {"epoch": 1}, "holds no state dict"),
        ("list.pt", [1, 2], "holds no state dict"),
    ],
)
def test_files_that_hold_no_weights_are_refused(tmp_path, name, content, message):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / name)
    with pytest.raises(UserError, match=message):
        build(tmp_path / name)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UserError, match=r"model\.encoder_weights='imagnet'.*imagenet, ssl, swsl, null"):
        build("imagnet")
    with pytest.raises(UserError, match=r"timm has no pretrained weights for 'tu-darknet17'"):
        build("imagenet", encoder_name="tu-darknet17")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A machine on which nothing was ever downloaded."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("encoder_name", ["resnet18", "tu-resnet18"])
def test_offline_the_three_ways_out_are_named(empty_cache, monkeypatch, encoder_name):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    ways = r"HF_HUB_OFFLINE is set.*encoder_weights=null.*encoder_weights=/path/to/file.*HF_HOME"
    with pytest.raises(UserError, match=ways):
        build("imagenet", encoder_name=encoder_name)


def test_a_hub_that_does_not_answer_is_named_and_not_asked_again(empty_cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"no connection to http://127\.0\.0\.1:9"):
        build("imagenet")
    assert constants.HF_HUB_OFFLINE is False


def test_a_filled_cache_is_enough(empty_cache, monkeypatch, encoder):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    settings = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
    repository = "models--" + settings["repo_id"].replace("/", "--")
    snapshot = empty_cache / repository / "snapshots" / settings["revision"]
    snapshot.mkdir(parents=True)
    save_file(encoder.state_dict(), snapshot / "model.safetensors")
    statistics = {"mean": [127.5, 51.0, 25.5], "std": [51.0, 51.0, 51.0], "input_range": [0, 255]}
    (snapshot / "config.json").write_text(json.dumps(statistics))
    network = build("imagenet")
    assert_same_weights(network.encoder.state_dict(), encoder.state_dict())
    assert network.mean == (0.5, 0.2, 0.1)
    assert network.std == (0.2, 0.2, 0.2)


def test_normalisation_comes_with_the_weights_of_a_checkpoint(tmp_path):
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pt")
    trained = build(tmp_path / "vit.pt", encoder_name="tu-test_vit", num_masks=0)
    config = timm.models.get_pretrained_cfg("test_vit")
    assert (trained.mean, trained.std) == (tuple(config.mean), tuple(config.std)) == ((0.5,) * 3, (0.5,) * 3)
    rebuilt = build(None, encoder_name="tu-test_vit", num_masks=0)
    assert rebuilt.mean == (0.485, 0.456, 0.406)
    rebuilt.load_state_dict(trained.state_dict())
    assert rebuilt.mean == trained.mean


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"model_state_dict": weights, "optimizer_state_dict": optimizer_state(), "epoch": 3},
        lambda weights: {"net": weights, "acc": 0.9, "epoch": torch.tensor(3)},
        lambda weights: {"state_dict": weights, "state_dict_ema": {}, "step": torch.tensor(3)},
        lambda weights: {"model": {"state_dict": weights}},
        lambda weights: {"module": weights},
        lambda weights: {"teacher": weights},
        lambda weights: {"anything": weights, "config": {"lr": 0.1, "classes": ["a"]}},
        lambda weights: {"checkpoint": {"my_net": weights}},
        lambda weights: {"model": weights, "ema": {"num_updates": 3, **weights}},
    ],
)
def test_weights_inside_of_dicts_are_found(tmp_path, encoder, wrap):
    torch.save(wrap(encoder.state_dict()), tmp_path / "wrapped.pt")
    assert_same_weights(build(tmp_path / "wrapped.pt").encoder.state_dict(), encoder.state_dict())


def optimizer_state():
    return {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}


def test_of_several_weights_the_one_that_is_meant_must_be_named(tmp_path, encoder):
    content = {"teacher": encoder.state_dict(), "student": encoder.state_dict(), "epoch": 3}
    torch.save(content, tmp_path / "both.pt")
    message = r"both\.pt: the file holds several state dicts \(teacher, student\); save the one that is meant"
    with pytest.raises(UserError, match=message):
        build(tmp_path / "both.pt")


def test_a_flipped_bit_in_weights_is_told(tmp_path, encoder):
    path = tmp_path / "w.pt"
    torch.save({"net": encoder.state_dict()}, path)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"w\.pt: not a file of weights only \(the checksum of"):
        build(path)
