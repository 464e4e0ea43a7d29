from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from polymask.losses import classification, segmentation

CONFIG = Path(__file__).parents[3] / "config"
ALL = sorted(path.stem for path in (CONFIG / "loss").glob("*.yaml"))
PRESETS = [
    name for name in ALL if name not in ("mask_rcnn", "reconstruction", "volumes")
]  # of masks and classes
NO_CLASSES = ("bce",)

all_presets = pytest.mark.parametrize("preset", PRESETS)


def compose_loss(preset, *overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG)):
        return compose(overrides=[f"+loss={preset}", *overrides]).loss


def make_batch(channels):
    generator = torch.Generator().manual_seed(0)
    outputs = {
        "mask_logits": torch.randn(3, channels, 8, 8, generator=generator).requires_grad_(),
        "class_logits": torch.randn(3, 4, generator=generator).requires_grad_(),
    }
    mask = torch.randint(0, max(channels, 2), (3, 8, 8), generator=generator)
    mask[0, 0] = 255
    return outputs, {"mask": mask, "mask_rows": None, "label": torch.tensor([0, 3, 1]), "label_rows": None}


def test_every_preset_is_known():
    of_classes = ["balanced", "balanced_softmax", "logit_adjusted"]
    of_masks = ["bce", "dice_bce_ce", "focal", "jaccard", "lovasz", "tversky", "uncertainty"]
    assert sorted([*of_classes, *of_masks]) == PRESETS


@pytest.mark.parametrize("preset", ALL)
def test_a_preset_says_when_to_use_it(preset):
    first = (CONFIG / "loss" / f"{preset}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")


@all_presets
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5, 0.5])])
@pytest.mark.parametrize("convert", ["none", "all"])
def test_a_preset_gives_a_finite_loss_and_gradients(preset, channels, weights, convert):
    outputs, batch = make_batch(channels)
    if preset in NO_CLASSES:
        del outputs["class_logits"]
        weights = None
    loss = instantiate(compose_loss(preset), weight_of_class=weights, _convert_=convert)
    values = loss(outputs, batch)
    values["loss"].backward()
    assert values["loss"] > 0
    assert all(value.isfinite() for value in values.values())
    assert all(logits.grad.isfinite().all() and logits.grad.any() for logits in outputs.values())
    assert all(parameter.grad is not None for parameter in loss.parameters())


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5, 0.5])])
def test_the_default_is_dice_plus_bce_plus_cross_entropy(weights):
    outputs, batch = make_batch(1)
    values = instantiate(compose_loss("dice_bce_ce"), weight_of_class=weights)(outputs, batch)
    masks = (outputs["mask_logits"], batch["mask"])
    cross_entropy = classification.CrossEntropyLoss(label_smoothing=0.05, weight_of_class=weights)
    expected = segmentation.DiceLoss()(*masks) + segmentation.CrossEntropyLoss()(*masks)
    expected = expected + cross_entropy(outputs["class_logits"], batch["label"])
    torch.testing.assert_close(values["loss"], expected)


def test_the_derived_presets_change_one_thing():
    default = compose_loss("dice_bce_ce")
    assert compose_loss("balanced") == {**default, "class_weights": "balanced"}
    assert compose_loss("uncertainty") == {**default, "weighting": "uncertainty"}
    term = "loss.classification.ce.term"
    adjusted = compose_loss("dice_bce_ce", f"{term}.label_smoothing=0.0", f"+{term}.logit_adjustment=1.0")
    assert compose_loss("logit_adjusted") == compose_loss("balanced_softmax") == adjusted


def test_adjusted_logits_know_how_frequent_the_classes_are():
    outputs, batch = make_batch(1)
    counts = {"NV": 70, "BKL": 20, "MEL": 8, "DF": 2}
    values = instantiate(compose_loss("logit_adjusted"), class_counts=counts)(outputs, batch)
    logits = outputs["class_logits"] + torch.tensor([0.7, 0.2, 0.08, 0.02]).log()
    expected = torch.nn.functional.cross_entropy(logits, batch["label"])
    torch.testing.assert_close(values["loss_ce"], expected.detach())
    later = instantiate(compose_loss("logit_adjusted"))(outputs, batch)  # a test of the stored run
    plain = torch.nn.functional.cross_entropy(outputs["class_logits"], batch["label"])
    torch.testing.assert_close(later["loss_ce"], plain.detach())


def test_adjusted_logits_and_class_weights_are_refused_together():
    config = compose_loss("logit_adjusted", "loss.class_weights=balanced")
    with pytest.raises(
        InstantiationException, match=r"class_weights=balanced and .*logit_adjustment=1\.0 both"
    ):
        instantiate(config)


def test_weights_are_set_from_the_command_line():
    config = compose_loss("dice_bce_ce", "loss.segmentation.dice.weight=3", "loss.classification_weight=0")
    values = instantiate(config, weight_of_class=None)(*make_batch(1))
    torch.testing.assert_close(values["loss"].detach(), 3 * values["loss_dice"] + values["loss_bce"])
