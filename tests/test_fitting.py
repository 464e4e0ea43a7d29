"""What fits what, in one line that names options of the configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from configs import composed
from omegaconf import OmegaConf

from polymask import fitting
from polymask.errors import UserError
from polymask.factories import build_data, build_family, build_task
from polymask.fitting import check_fit
from polymask.structures.gives import given_by, gives
from polymask.utils.paths import CONFIG_DIR

DEFAULT = "the data set gives image and label and mask, the network gives label and mask, "


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            ["task=instance"],
            f"the task needs image and objects, but {DEFAULT}the loss gives label and mask: use data=coco or "
            "isic_objects or label_maps or lesion_objects and model=mask_rcnn and loss=mask_rcnn, or with "
            "what there is task=classification or multitask or segmentation.",
        ),
        (
            ["model=unet_family"],
            "the task needs image and label and mask, but the network gives mask: use "
            "model=mobilenet_transposed or smp, or with what there is task=segmentation.",
        ),
        (
            ["loss=mask_rcnn"],
            "the task needs image and label and mask, but the loss gives objects: use loss=balanced or "
            "balanced_softmax or bce or dice_bce_ce or focal or jaccard or logit_adjusted or lovasz or "
            "tversky or uncertainty.",
        ),
    ],
)
def test_what_does_not_fit_is_said_with_the_options_that_do(choice: list[str], message: str) -> None:
    cfg = composed(*choice)
    with pytest.raises(UserError, match=re.escape(message)):
        check_fit(cfg, build_family(cfg, ["A", "B"]))


def test_every_experiment_fits() -> None:
    from configs import OPTIONS

    for option in (name for name in OPTIONS if name.startswith("experiment/")):
        cfg = composed(option.replace("/", "="))
        check_fit(cfg, build_family(cfg, ["A", "B"]))


def test_code_of_ones_own_that_says_nothing_fits() -> None:
    @gives("mask")
    def build() -> None: ...

    assert given_by(build, frozenset({"label"})) == {"mask"}
    assert given_by(print, frozenset({"label"})) == {"label"}


@pytest.mark.parametrize(
    ("target", "remedy"),
    [
        ("polymask.tasks.multitask.build_task", "it is called polymask.families.multitask.Family now."),
        ("polymask.tasks.nothing.build_task", "check the dotted path."),
    ],
)
def test_a_name_that_is_gone_is_told_with_the_one_of_today(target: str, remedy: str) -> None:
    cfg = composed(f"task._target_={target}")
    with pytest.raises(UserError, match=re.escape(f"task._target_={target!r} cannot be imported; {remedy}")):
        build_family(cfg, ["A", "B"])


@pytest.mark.parametrize(
    ("section", "name", "remedy"),
    [
        (
            "model",
            "polymask.models.smp_models.build_model",
            "it is called polymask.models.mask_class.build_smp",
        ),
        ("loss", "nowhere.Loss", "check the dotted path."),
    ],
)
def test_a_network_or_loss_that_is_not_there_is_one_line(section: str, name: str, remedy: str) -> None:
    cfg = composed(f"{section}._target_={name}")
    with pytest.raises(
        UserError, match=re.escape(f"{section}._target_={name!r} cannot be imported; {remedy}")
    ):
        check_fit(cfg, build_family(cfg, ["A", "B"]))


def test_files_of_ones_own_that_are_no_options_do_not_spoil_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {
        "model/part.yaml": "channels: 3",
        "model/above.yaml": "defaults: [/model/smp, _self_]",
        "model/empty.yaml": "",
        "loss/gone.yaml": "_target_: polymask.losses.multitask.MultitaskLoss",
        "task/broken.yaml": "a: [",
        "task/greedy.yaml": "_target_: polymask.families.multitask.Family\nmode: up",
    }
    for name, text in own.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(fitting, "_folders", lambda: [CONFIG_DIR, tmp_path])
    cfg = composed("model=unet_family", "loss=mask_rcnn")
    with pytest.raises(
        UserError, match="use model=above or mobilenet_transposed or smp and loss=balanced or balanced_s"
    ):
        check_fit(cfg, build_family(cfg, ["A", "B"]))


def test_a_builder_of_ones_own_need_not_know_of_pretrained_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_nets.py").write_text(
        "from polymask.models.mask_class import build_smp\n"
        "def build(*, num_masks, num_classes):\n"
        "    options = dict(model='unet', encoder_name='tu-test_resnet', encoder_weights=None)\n"
        "    return build_smp(num_masks=num_masks, num_classes=num_classes, **options)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cfg = composed("model._target_=own_nets.build")
    cfg.model = {"_target_": "own_nets.build"}
    family = build_family(cfg, ["A", "B"])
    check_fit(cfg, family)
    assert build_task(cfg, family, pretrained=False).model is not None


def test_a_loss_of_ones_own_need_not_know_of_class_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_losses.py").write_text(
        "import torch\n"
        "class Own(torch.nn.Module):\n"
        "    gives = frozenset({'mask', 'label'})\n"
        "    def __init__(self, *, weight_of_class=None):\n"
        "        super().__init__()\n"
        "        self.weights = weight_of_class\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cfg = composed("model.encoder_name=tu-test_resnet", "model.encoder_weights=null")
    cfg.loss = {"_target_": "own_losses.Own"}
    family = build_family(cfg, ["A", "B"])
    task = build_task(cfg, family, class_counts=[3, 4], pretrained=False)
    assert type(task.loss).__name__ == "Own"


@pytest.mark.parametrize(("key", "value"), [("explain", True), ("calibration", "temperature")])
def test_what_only_some_families_can_do_is_refused_by_the_others(key: str, value: object) -> None:
    cfg = composed("task=instance", "data=label_maps", "model=mask_rcnn", "loss=mask_rcnn")
    OmegaConf.set_struct(cfg, False)
    cfg[key] = cfg.task[key] = value  # as a test of a stored run takes it over
    message = f"{key}={str(value).lower()} is of no use to polymask.families.instances.Family; leave it out."
    with pytest.raises(UserError, match=re.escape(message)):
        build_family(cfg, ["A"])


def test_a_reader_takes_what_every_reader_must() -> None:
    words = "data.crowd=ignore is of no use to polymask.data.demo.read_demo; leave it out."
    with pytest.raises(UserError, match=re.escape(words)):
        build_data(composed("data=demo", "+data.crowd=ignore"))
    cfg = composed("data=ham10000")
    cfg.data.reader = {"_target_": "builtins.sorted", "_partial_": True}
    with pytest.raises(UserError, match=r"builtins.sorted does not take classes and allow_absent;"):
        build_data(cfg)
