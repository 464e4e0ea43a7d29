from __future__ import annotations

import re
import urllib.request

import pytest
import timm
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from polymask.errors import UserError
from polymask.models.mask_rcnn.model import build_model

SMALL = {"num_classes": 2, "min_size": 64, "max_size": 128}


def build(**options):
    torch.manual_seed(options.pop("seed", 0))
    return build_model(**{**SMALL, "backbone": "resnet18", "channels": 16, **options})


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """An empty cache on a machine without a network; returns the folder of its files."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "torch" / "hub" / "checkpoints"


def give_statistics(network: nn.Module) -> nn.Module:
    """Let every normalisation layer differ from a new one, some variances being tiny."""
    generator = torch.Generator().manual_seed(4)
    for name, value in network.named_buffers():
        if name.endswith("running_mean"):
            value.normal_(std=0.1, generator=generator)
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        if name.endswith("layer2.0.bn1.running_var"):
            value[0] = 1e-5
    return network.eval()


def with_first_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict under the names that torchvision's first weights have."""
    renamed = {}
    for key, value in state.items():
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        key = re.sub(r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2.", key)
        key = re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", key)
        renamed[key] = value
    return renamed


def features(network: nn.Module) -> dict[str, torch.Tensor]:
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        return network.backbone(images)


def test_coco_weights_come_from_the_cache_with_all_but_the_predictors(torch_home):
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None)
    original = give_statistics(MaskRCNN(backbone, num_classes=91))
    overwrite_eps(original, 0.0)  # as torchvision does for these weights
    state = with_first_names(original.state_dict())
    torch.save(state, torch_home / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")
    torch.manual_seed(1)
    network = build_model(**SMALL).eval()
    expected = features(original)
    for name, level in features(network.detector).items():
        assert (level - expected[name]).abs().max() < 1e-4 * expected[name].abs().max()
    found, expected = network.detector.state_dict(), original.state_dict()
    for part in ("rpn.", "roi_heads.box_head.", "roi_heads.mask_head.", "backbone.fpn."):
        assert all(torch.equal(found[key], expected[key]) for key in expected if key.startswith(part))
    assert found["roi_heads.box_predictor.cls_score.weight"].shape == (3, 1024)
    assert found["roi_heads.mask_predictor.mask_fcn_logits.weight"].shape == (3, 256, 1, 1)
    trained = {name for name, value in network.encoder.named_parameters() if value.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"layer2", "layer3", "layer4"}
    assert not any(".bn" in name for name in trained)

    start = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        for value in network.parameters():
            value.add_(1.0)
    network.reset_weights()
    assert all(torch.equal(value, start[name]) for name, value in network.state_dict().items())

    # What a checkpoint is loaded into looks the same, without any file.
    (torch_home / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth").unlink()
    rebuilt = build_model(**SMALL, pretrained=False).eval()
    rebuilt.load_state_dict(start)
    assert {name for name, value in rebuilt.encoder.named_parameters() if value.requires_grad} == trained
    torch.testing.assert_close(features(rebuilt.detector), features(network.detector))


def test_the_second_version_has_its_statistics_frozen_too(torch_home):
    original = give_statistics(maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None))
    torch.save(original.state_dict(), torch_home / "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth")
    network = build_model(**SMALL, backbone="resnet50_fpn_v2").train()
    torch.testing.assert_close(features(network.detector), features(original))  # though in training mode
    boxes = torch.randn(3, 256, 7, 7)
    with torch.no_grad():
        expected = original.roi_heads.box_head(boxes)
        torch.testing.assert_close(network.detector.roi_heads.box_head(boxes), expected)


def test_imagenet_weights_are_of_the_encoder_alone(torch_home):
    original = give_statistics(resnet50(weights=None))
    torch.save(original.state_dict(), torch_home / "resnet50-0676ba61.pth")
    network = build_model(**SMALL, weights="imagenet").eval()
    expected = original.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in network.encoder.state_dict().items())


@pytest.mark.parametrize("weights", ["coco", "imagenet"])
def test_without_a_network_the_ways_out_are_named(torch_home, weights):
    ways = rf"model\.weights={weights}: .*model\.weights=null.*model\.weights=/path/to/file.*TORCH_HOME"
    with pytest.raises(UserError, match=ways) as caught:
        build_model(**SMALL, weights=weights)
    assert "\n" not in str(caught.value)


def test_group_normalisation_is_not_for_pretrained_weights(torch_home):
    with pytest.raises(UserError, match=r"model\.normalization=group does not fit model\.weights=coco"):
        build_model(**SMALL, normalization="group")


def test_names_of_weights_that_do_not_exist():
    with pytest.raises(UserError, match=r"model\.weights='cocoa' is unknown\. Did you mean 'coco'\?"):
        build_model(**SMALL, weights="cocoa")
    with pytest.raises(UserError, match=r"model\.weights='ms' is unknown.*imagenet"):
        build(backbone="mobilenet_v2", weights="ms")
    with pytest.raises(UserError, match=r"model\.weights=/absent\.pt: there is no such file"):
        build(weights="/absent.pt")


def test_a_file_of_the_encoder_is_loaded(tmp_path):
    original = give_statistics(timm.create_model("resnet18"))
    torch.save(original.state_dict(), tmp_path / "resnet18.pth")
    network = build(weights=str(tmp_path / "resnet18.pth"))
    found, expected = network.encoder.encoder.model.state_dict(), original.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    assert network.freeze_normalization
    with pytest.raises(
        UserError,
        match=r"does not fit model\.backbone=mobilenet_v2: .*Use the file of the same model\.backbone",
    ):
        build(backbone="mobilenet_v2", weights=str(tmp_path / "resnet18.pth"))


def test_a_checkpoint_is_loaded_with_its_normalisation_and_predictors(tmp_path):
    original = build(weights=None, seed=3)
    original.detector.transform.pixel_mean.copy_(torch.tensor([0.5, 0.25, 0.125]))
    state = {f"model.{key}": value for key, value in original.state_dict().items()}
    torch.save({"model": {**state, "loss.weight": torch.ones(1)}, "epoch": 3}, tmp_path / "run.pt")
    network = build(weights=str(tmp_path / "run.pt"), normalization="group")
    expected = original.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


def test_predictors_of_other_classes_are_left_out_with_a_note(tmp_path, caplog):
    original = build(weights=None, seed=3, num_classes=5)
    torch.save(original.state_dict(), tmp_path / "run.pt")
    fresh = build(weights=None, normalization="group").state_dict()
    network = build(weights=str(tmp_path / "run.pt"), normalization="group")
    assert "roi_heads.box_predictor are for other" in caplog.text
    assert "roi_heads.mask_predictor are for other" in caplog.text
    expected = original.state_dict()
    for key, value in network.state_dict().items():
        predictor = "_predictor." in key
        assert torch.equal(value, (fresh if predictor else expected)[key]), key


def test_a_file_of_another_network_is_refused(tmp_path):
    torch.save(build(weights=None).state_dict(), tmp_path / "group.pt")
    with pytest.raises(UserError, match=r"does not fit model\.backbone: keys \d+ missing .*normalization"):
        build(weights=str(tmp_path / "group.pt"), normalization="frozen")
    with pytest.raises(UserError, match=r"does not fit model\.backbone: size mismatch for backbone\.fpn"):
        build(weights=str(tmp_path / "group.pt"), normalization="group", channels=32)
