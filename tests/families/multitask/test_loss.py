from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from polymask.errors import UserError
from polymask.families.multitask.loss import Loss, WeightedTerm
from polymask.losses import classification, segmentation


class Constant(nn.Module):
    """A term whose value is known: `value` times the mean of the logits, which the tests set to one."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, logits, target):
        return self.value * logits.mean()


class Product(nn.Module):
    """A term with a matrix product, which autocast would compute in bfloat16."""

    def forward(self, logits, target):
        return (logits @ logits.T).mean()


def constant(value, weight=1.0):
    return WeightedTerm(weight=weight, term=Constant(value))


def real_terms():
    return {
        "segmentation": {
            "dice": WeightedTerm(weight=1.0, term=segmentation.DiceLoss()),
            "bce": WeightedTerm(weight=0.5, term=segmentation.CrossEntropyLoss()),
        },
        "classification": {"ce": WeightedTerm(weight=1.0, term=classification.CrossEntropyLoss())},
    }


def make_batch(*, mask_rows=None, label_rows=None):
    generator = torch.Generator().manual_seed(0)
    outputs = {
        "mask_logits": torch.randn(4, 1, 8, 8, generator=generator).requires_grad_(),
        "class_logits": torch.randn(4, 3, generator=generator).requires_grad_(),
    }
    mask = torch.randint(0, 2, (4, 8, 8), generator=generator)
    label = torch.tensor([0, 1, 2, 1])
    if mask_rows is not None:
        mask[[row for row in range(4) if row not in mask_rows]] = 255
        mask_rows = torch.tensor(mask_rows, dtype=torch.int64)
    if label_rows is not None:
        label[[row for row in range(4) if row not in label_rows]] = -1
        label_rows = torch.tensor(label_rows, dtype=torch.int64)
    return outputs, {"mask": mask, "mask_rows": mask_rows, "label": label, "label_rows": label_rows}


def ones():
    outputs, batch = make_batch()
    return {name: torch.ones_like(logits).requires_grad_() for name, logits in outputs.items()}, batch


def test_fixed_loss_is_the_weighted_sum_by_hand():
    loss = Loss(
        segmentation={"a": constant(2.0, weight=3.0), "b": constant(5.0)},
        classification={"c": constant(7.0, weight=0.5)},
        segmentation_weight=10.0,
        classification_weight=0.1,
    )
    values = loss(*ones())
    assert {name: round(value.item(), 4) for name, value in values.items()} == {
        "loss": 110.35,
        "loss_segmentation": 11.0,
        "loss_classification": 3.5,
        "loss_a": 2.0,
        "loss_b": 5.0,
        "loss_c": 7.0,
    }
    assert [name for name, value in values.items() if value.requires_grad] == ["loss"]


def test_uncertainty_is_the_formula_of_kendall_by_hand():
    loss = Loss(
        segmentation={"a": constant(2.0)},
        classification={"c": constant(7.0)},
        weighting="uncertainty",
        classification_weight=3.0,
    )
    assert loss(*ones())["loss"].item() == pytest.approx(2 + 3 * 7)
    with torch.no_grad():
        loss.log_variances["segmentation"].fill_(0.4)
        loss.log_variances["classification"].fill_(-0.6)
    values = loss(*ones())
    expected = math.exp(-0.4) * 2 + 0.4 / 2 + 3 * (math.exp(0.6) * 7 - 0.6 / 2)
    assert values["loss"].item() == pytest.approx(expected, rel=1e-6)
    assert values["log_variance_segmentation"].item() == pytest.approx(0.4)
    assert values["log_variance_classification"].item() == pytest.approx(-0.6)
    assert values["loss_classification"].item() == 7
    values["loss"].backward()
    gradient = loss.log_variances["segmentation"].grad.item()
    assert gradient == pytest.approx(0.5 - math.exp(-0.4) * 2, rel=1e-6)


def test_uncertainty_settles_where_the_variance_is_twice_the_loss():
    loss = Loss(segmentation={"a": constant(0.1)}, classification={}, weighting="uncertainty")
    outputs, batch = ones()
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        loss({"mask_logits": outputs["mask_logits"]}, batch)["loss"].backward()
        optimizer.step()
    assert loss.log_variances["segmentation"].item() == pytest.approx(math.log(0.2), abs=1e-4)
    assert loss.log_variances["classification"].item() == 0


def test_logged_log_variances_do_not_follow_the_optimizer():
    loss = Loss(segmentation={"a": constant(1.0)}, classification={}, weighting="uncertainty")
    outputs, batch = ones()
    values = loss({"mask_logits": outputs["mask_logits"]}, batch)
    with torch.no_grad():
        loss.log_variances["segmentation"].fill_(1.0)
    assert values["log_variance_segmentation"].item() == 0


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_samples_without_target_equal_their_absence(weighting):
    outputs, batch = make_batch(mask_rows=[0, 2, 3], label_rows=[1, 2])
    loss = Loss(**real_terms(), weighting=weighting)
    values = loss(outputs, batch)
    expected = loss(
        {"mask_logits": outputs["mask_logits"][[0, 2, 3]], "class_logits": outputs["class_logits"][[1, 2]]},
        {
            "mask": batch["mask"][[0, 2, 3]],
            "mask_rows": None,
            "label": batch["label"][[1, 2]],
            "label_rows": None,
        },
    )
    for name, value in values.items():
        torch.testing.assert_close(value, expected[name], msg=name)
    values["loss"].backward()
    assert not outputs["mask_logits"].grad[1].any()
    assert not outputs["class_logits"].grad[[0, 3]].any()
    assert outputs["class_logits"].grad[[1, 2]].all()


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
@pytest.mark.parametrize(
    ("part", "rows", "logits"),
    [("segmentation", "mask_rows", "mask_logits"), ("classification", "label_rows", "class_logits")],
)
def test_a_part_without_any_target_adds_nothing_but_keeps_its_graph(weighting, part, rows, logits):
    outputs, batch = make_batch(**{rows: []})
    loss = Loss(**real_terms(), weighting=weighting)
    with torch.no_grad():
        for log_variance in loss.log_variances.values():
            log_variance.fill_(0.3)
    values = loss(outputs, batch)
    others = {name: tensor for name, tensor in outputs.items() if name != logits}
    torch.testing.assert_close(values["loss"], loss(others, batch)["loss"])
    assert values[f"loss_{part}"].item() == 0
    values["loss"].backward()
    assert torch.equal(outputs[logits].grad, torch.zeros_like(outputs[logits]))
    assert all(parameter.grad is not None for parameter in loss.parameters())


def test_a_batch_without_any_target_has_loss_zero_and_a_gradient():
    outputs, batch = make_batch(mask_rows=[], label_rows=[])
    values = Loss(**real_terms())(outputs, batch)
    values["loss"].backward()
    assert all(value.item() == 0 for value in values.values())
    assert all(not logits.grad.any() for logits in outputs.values())


def test_terms_of_an_output_that_the_network_lacks_are_not_used():
    outputs, batch = make_batch()
    loss = Loss(**real_terms())
    both = loss(outputs, batch)
    masks = loss({"mask_logits": outputs["mask_logits"]}, batch)
    classes = loss({"class_logits": outputs["class_logits"]}, batch)
    assert masks.keys() == {"loss", "loss_segmentation", "loss_dice", "loss_bce"}
    assert classes.keys() == {"loss", "loss_classification", "loss_ce"}
    torch.testing.assert_close(masks["loss"] + classes["loss"], both["loss"])


@pytest.mark.parametrize("part", ["segmentation", "classification"])
def test_an_output_without_terms_is_refused(part):
    terms = {**real_terms(), part: {}}
    with pytest.raises(UserError, match=rf"loss\.{part} holds no term"):
        Loss(**terms)(*make_batch())


def test_a_part_of_weight_zero_is_logged_but_has_no_gradient():
    outputs, batch = make_batch()
    values = Loss(**real_terms(), classification_weight=0.0)(outputs, batch)
    values["loss"].backward()
    assert values["loss_classification"] > 0
    assert not outputs["class_logits"].grad.any()
    torch.testing.assert_close(values["loss"].detach(), values["loss_segmentation"])


def test_the_loss_is_float32_under_autocast():
    outputs, batch = make_batch()
    outputs = {name: logits.detach().bfloat16() for name, logits in outputs.items()}
    terms = real_terms()
    terms["classification"]["product"] = WeightedTerm(weight=1.0, term=Product())
    loss = Loss(**terms)
    expected = loss({name: logits.float() for name, logits in outputs.items()}, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = loss(outputs, batch)
    for name, value in values.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("channels", [1, 2])
def test_masks_may_be_uint8(channels):
    outputs, batch = make_batch(mask_rows=[0, 1])
    outputs["mask_logits"] = outputs["mask_logits"].repeat(1, channels, 1, 1)
    loss = Loss(**real_terms())
    compact = {**batch, "mask": batch["mask"].to(torch.uint8)}
    assert torch.equal(loss(outputs, compact)["loss"], loss(outputs, batch)["loss"])


def test_class_weights_reach_the_classification_terms():
    weights = torch.tensor([0.1, 1.0, 5.0])
    outputs, batch = make_batch()
    loss = Loss(**real_terms(), weight_of_class=weights)
    expected = nn.functional.cross_entropy(outputs["class_logits"], batch["label"], weights)
    torch.testing.assert_close(loss(outputs, batch)["loss_ce"], expected.detach())
    assert loss.state_dict() == {}
    assert loss.to("meta").terms["classification"]["ce"].weight_of_class.device.type == "meta"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weighting": "learned"}, r"loss\.weighting='learned' is unknown.*fixed, uncertainty"),
        ({"segmentation_weight": -1.0}, r"loss\.segmentation_weight=-1\.0 is not valid"),
        ({"segmentation": {"a": constant(1.0, weight=-2.0)}}, r"loss\.segmentation\.a\.weight=-2\.0"),
        ({"segmentation": {"a": Constant(1.0)}}, r"loss\.segmentation\.a is not a weighted term"),
        (
            {"segmentation": {"a": {"wieght": 1.0, "term": Constant(1.0)}}},
            r"segmentation\.a is not a weighted",
        ),
        ({"segmentation": {"a": {"weight": 1.0, "term": {"smooth": 1.0}}}}, r"\.a is not a weighted term"),
        ({"segmentation": {"ce": constant(1.0)}}, r"the name ce can stand only once"),
        ({"segmentation": {"classification": constant(1.0)}}, r"the name classification can stand only once"),
        (
            {"classification": {"own": constant(1.0)}, "weight_of_class": torch.ones(3)},
            r"loss\.classification\.own cannot weigh classes.*loss\.class_weights=none",
        ),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(UserError, match=message):
        Loss(**{**real_terms(), **change})
