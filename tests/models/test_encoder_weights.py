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


def build(weights, encoder_name="resnet18", **options):
    return build_smp(
        model="unet",
        encoder_name=encoder_name,
        encoder_weights=None if weights is None else str(weights),
        num_masks=options.pop("num_masks", 1),
        num_classes=options.pop("num_classes", 2),
        **options,
    )


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


def test_keys_that_do_not_fit_are_reported(tmp_path, encoder):
    weights = dict(encoder.state_dict())
    del weights["layer3.0.conv1.weight"]
    weights["extra.weight"] = torch.zeros(1)
    weights["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    torch.save(weights, tmp_path / "broken.pt")
    message = (
        r"broken\.pt does not fit the encoder: keys 1 missing \(layer3\.0\.conv1\.weight\); "
        r"1 unexpected \(extra\.weight\); "
        r"1 of another shape \(conv1\.weight \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)\)"
    )
    with pytest.raises(UserError, match=message):
        build(tmp_path / "broken.pt")


def test_weights_of_another_encoder_are_refused(tmp_path, encoder):
    torch.save(encoder.state_dict(), tmp_path / "resnet18.pt")
    with pytest.raises(UserError, match=r"does not fit the encoder: keys \d+ missing.*unexpected"):
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
