"""Building from configuration values, and starting from a 2-D network."""

from __future__ import annotations

import inspect

import pytest
import torch
from omegaconf import OmegaConf
from slice_networks import SMALL, build, build_plain
from torch import nn

from polymask.errors import UserError
from polymask.models.mask_rcnn import build_model as build_plain_model
from polymask.models.slices import build_model
from polymask.structures.gives import given_by
from polymask.training.checkpoint import load_weights, new_parts
from polymask.utils.paths import CONFIG_DIR


def test_it_takes_all_options_of_the_2d_network_and_four_more():
    own, plain = (list(inspect.signature(build).parameters) for build in (build_model, build_plain_model))
    assert set(own) == {*plain, "slices", "fusion", "embedding"}
    assert all(p.kind == p.KEYWORD_ONLY for p in inspect.signature(build_model).parameters.values())
    assert given_by(build_model, frozenset()) == {"volume"}


def test_the_file_has_all_options_and_builds_the_2d_network():
    content = OmegaConf.load(CONFIG_DIR / "model" / "slice_mask_rcnn.yaml")
    assert {"name", "intensity"} <= set(content.fusion)
    content.slices, content.embedding = 3, False
    del content["_target_"], content["defaults"]
    network = build_model(**SMALL, **OmegaConf.to_container(content))
    assert network.fusion.state_dict() == {}
    assert network.embedding is None


def test_settings_of_the_detector_arrive():
    network = build("conv", rpn_positive_fraction=0.3, box_positive_fraction=0.4)
    assert network.detector.rpn.fg_bg_sampler.positive_fraction == 0.3
    assert network.detector.roi_heads.fg_bg_sampler.positive_fraction == 0.4
    usual = build_plain().detector
    assert usual.rpn.fg_bg_sampler.positive_fraction == 0.5
    assert usual.roi_heads.fg_bg_sampler.positive_fraction == 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slices": 4}, r"data\.slices=4 is not valid; give an odd number"),
        ({"slices": 0}, r"data\.slices=0 is not valid"),
        ({"slices": True}, r"data\.slices=True is not valid"),
        ({"embedding": "yes"}, r"model\.embedding='yes' is not valid; give false or true"),
        ({"channels": 0}, r"model\.channels=0"),
        (
            {"name": "level_mlp", "normalization": "batch"},
            r"=batch does not fit model\.fusion\.name=level_mlp",
        ),
        (
            {"rpn_positive_fraction": 0.0},
            r"model\.rpn_positive_fraction=0\.0 is not valid; .* above 0 and at",
        ),
        ({"box_positive_fraction": 1.5}, r"model\.box_positive_fraction=1\.5 is not valid"),
        ({"normalization": "instance"}, r"model\.normalization='instance'"),
        ({"name": "mean"}, r"model\.fusion\.name='mean' is unknown"),
    ],
)
def test_what_is_not_allowed_is_one_line(options, message):
    values = {**SMALL, "slices": 3, **options}
    with pytest.raises(UserError, match=message) as caught:
        build_model(fusion={"name": values.pop("name", "conv")}, **values)
    assert "\n" not in str(caught.value)


def test_early_fusion_may_have_batch_normalisation():
    network = build("conv", normalization="batch")
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


def test_mistakes_in_the_fusion_are_told_before_weights_are_read():
    with pytest.raises(UserError, match=r"model\.fusion\.kernel=2"):
        build_model(slices=3, fusion={"name": "conv", "kernel": 2}, **SMALL | {"weights": "/no/such/file.pt"})


class Task(nn.Module):
    """Holds a network under the name that all tasks of Mask R-CNN give it."""

    def __init__(self, model):
        super().__init__()
        self.model = model


@pytest.mark.parametrize("name", ["window_mlp", "level_attention"])
def test_weights_of_a_2d_network_are_a_start_without_further_flags(name):
    plain, task = Task(build_plain(seed=5)), Task(build(name, embedding=True))
    start = {key: value.clone() for key, value in task.state_dict().items()}
    weights = plain.state_dict()
    absent = new_parts(task, weights)
    assert absent == ["model.fusion", "model.embedding"]
    assert load_weights(task, weights, source="2d.pt", absent=absent) == []
    for key, value in task.state_dict().items():
        assert torch.equal(value, weights.get(key, start[key])), key
    image = torch.rand(64, 80)
    stack = torch.stack([torch.rand(64, 80), image, torch.rand(64, 80)])
    (found,), (expected,) = task.model.predict([stack]), plain.model.predict([image.expand(3, -1, -1)])
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_run_of_its_own_must_have_all_weights():
    task, other = Task(build("conv")), Task(build("conv", slices=5))
    assert new_parts(task, task.state_dict()) == []
    assert new_parts(Task(build("centre")), {}) == []
    with pytest.raises(UserError, match=r"missing model\.fusion\.rule\.weight"):
        load_weights(task, Task(build_plain()).state_dict(), source="2d.pt")
    with pytest.raises(UserError, match=r"shape of model\.fusion\.rule\.weight"):
        load_weights(task, other.state_dict(), source="5.pt", absent=new_parts(task, other.state_dict()))
