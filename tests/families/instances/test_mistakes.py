"""Mistakes with data sets of objects: one line that names the remedy, exit status 2, nothing left behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from commands import fails
from instance_files import write_coco, write_label_maps
from lesion_files import write_lesions

from polymask import cli

TINY = [
    "data.num_workers=0",
    "data.fractions=[1.0,0.0,0.0]",
    "data.overfit_samples=6",  # so that training looks at every image
    "data.cache_dir=null",
    "model.backbone=tu-test_resnet",
    "model.weights=null",
    "model.min_size=64",
    "model.max_size=96",
    "model.channels=16",
    "model.hidden_size=16",
    "model.aspect_ratios=[1.0]",
    "model.boxes_per_image=16",
    "model.detections_per_image=10",
    "trainer.device=cpu",
    "trainer.precision=fp32",
    "transforms=none",
    "tracker=none",
    "epochs=1",
    "run_name=mistaken",
]
COCO = ["experiment=mask_rcnn", *TINY]
MAPS = ["experiment=mask_rcnn", "data=label_maps", *TINY]


@pytest.fixture
def coco_folder(project: Path) -> Path:
    return write_coco(project / "data" / "coco")


def change(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Return what changes the content of the annotation file."""

    def apply(folder: Path) -> None:
        path = folder / "annotations.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(edit(content) or content))

    return apply


def replace_image(folder: Path) -> None:
    cv2.imwrite(str(folder / "images" / "photo0_tile0.png"), np.zeros((50, 40, 3), np.uint8))


def replace_label_map(folder: Path) -> None:
    cv2.imwrite(str(folder / "labels" / "photo0_tile0.png"), np.ones((50, 40), np.uint8))


def remove_images(folder: Path) -> None:
    for name in ("photo0_tile0.png", "photo2_tile1.png"):
        (folder / "images" / name).unlink()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            change(lambda content: content["annotations"][0].update(category_id=4)),
            "annotations have a category_id that is not in the file (allowed: 3, 5, 7, 9), e.g. annotation 1 "
            "with category_id=4",
        ),
        (
            change(lambda content: content["annotations"][2].update(image_id=7)),
            "annotations have a image_id that is not in the file, e.g. annotation 3 with image_id=7",
        ),
        (
            change(lambda content: content["annotations"][2]["segmentation"].update(size=[3, 5])),
            "has run lengths of size [3, 5] (height, width) but its image is",
        ),
        (replace_image, "but their image photo0_tile0.png is 40 x 50; both must have one size."),
        (remove_images, "2 of 6 images of"),
        (
            change(lambda content: list(content["annotations"])),
            "is not a COCO annotation file: it has no list images and no list annotations and no list "
            "categories. Give the annotation file, not a file of results.",
        ),
        (lambda folder: (folder / "annotations.json").write_text("{oops"), "annotations.json is not JSON"),
        (lambda folder: (folder / "annotations.json").unlink(), "has no annotations.json or _annotations"),
    ],
)
def test_files_of_coco(
    edit: Callable[[Path], Any],
    message: str,
    coco_folder: Path,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit(coco_folder)
    printed = fails(capsys, "train", *COCO, f"data.data_dir={coco_folder}")
    assert message in printed
    if edit is remove_images:
        assert "photo0_tile0.png" in printed
        assert "photo2_tile1.png" in printed
    assert not list(project.glob("models/checkpoints/*.pt"))


def mark_crowds(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1


U_NET = [
    "data=coco_masks",
    "task=segmentation",
    "data.image_size=64",
    "data.num_workers=0",
    "data.cache_dir=null",
    "data.fractions=[1.0,0.0,0.0]",
    "data.overfit_samples=6",
    "model.encoder_name=tu-test_resnet",
    "+model.decoder_channels=[32,16,16,8,8]",
    "model.encoder_weights=null",
    "trainer.device=cpu",
    "tracker=none",
]
NORMALIZE = "+transforms.normalize={_target_: albumentations.Normalize}"


@pytest.mark.parametrize("family", [COCO, U_NET], ids=["objects", "masks"])
def test_crowds_alone_and_transforms_that_change_types(
    family: list[str], coco_folder: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*family, f"data.data_dir={coco_folder}"]
    printed = fails(capsys, "train", *arguments, NORMALIZE)
    assert "transforms: Normalize turns the image from uint8 into float32" in printed
    change(mark_crowds)(coco_folder)
    assert "data.crowd=objects takes each region as one object" in fails(capsys, "train", *arguments)
    assert not list(project.glob("models/checkpoints/*.pt"))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (replace_label_map, "photo0_tile0.png are 40 x 50 pixels but their image photo0_tile0.png is"),
        (
            lambda folder: (folder / "labels" / "photo1_tile0.png").unlink(),
            "1 of 6 images of",
        ),
        (
            lambda folder: (folder / "labels" / "photo1_tile0.png").write_bytes(b"no image"),
            "cannot read label map",
        ),
    ],
)
def test_files_of_label_maps(
    edit: Callable[[Path], Any], message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_label_maps(project / "data" / "maps")
    edit(folder)
    assert message in fails(capsys, "train", *MAPS, f"data.data_dir={folder}")
    assert not list(project.glob("models/checkpoints/*.pt"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["data=ham10000", "task=instance"],
            "use data=coco or isic_objects or label_maps or lesion_objects and model=mask_rcnn and "
            "loss=mask_rcnn, or with what there is task=",
        ),
        (
            ["data=ham10000", *COCO[:1], *TINY],
            "use data=coco or isic_objects or label_maps or lesion_objects.",
        ),
        (
            ["data=coco", "task=segmentation", "model.encoder_weights=null", "data.num_workers=0"],
            "the data set gives image and objects: use data=coco_masks or demo or ham10000",
        ),
        (["data=coco", "task=instance"], "use model=mask_rcnn and loss=mask_rcnn."),
        (["data=coco", "task=instance", "model=mask_rcnn", "model.weights=null"], "loss=mask_rcnn"),
        ([*COCO, "data.image_size=64"], "set model.min_size and model.max_size instead"),
        ([*COCO, "data.pixel_size=0"], "data.pixel_size=0 is not valid"),
        ([*COCO, "data.classes=[Fiber,Fragmen]"], "Did you mean 'Fragment'?"),
        (
            [*COCO, "model.backbone=resnet19"],
            "model.backbone='resnet19' is unknown. Did you mean 'resnet18'?",
        ),
        (
            [*COCO, "model.backbone=resnet18", "model.weights=coco"],
            "with resnet18 use imagenet, null or a file",
        ),
        ([*COCO, "model.weights=nowhere.pt"], "nowhere.pt"),
        ([*COCO, "model.anchor_sizes=[8,16]"], "it must have 5 entries"),
        ([*COCO, "model.trainable_layers=9"], "the encoder has 5 stages"),
        ([*COCO, "model.min_sise=3"], "min_sise"),
        ([*COCO, "transforms=default"], "transforms.affine.border_mode=0"),
        ([*COCO, "task.score_threshold=2"], "task.score_threshold=2 is not valid"),
        ([*COCO, "task.monitor=val/mask_ap5"], "val/mask_ap50"),
        ([*COCO, "loss.loss_mask=-1"], "loss.loss_mask=-1 is not valid"),
        ([*MAPS, "data.classes=[A,B]"], "use COCO annotations (data=coco) for several"),
    ],
)
def test_settings(
    arguments: list[str],
    message: str,
    coco_folder: Path,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = coco_folder
    if "data=ham10000" in arguments:
        folder = write_lesions(project / "data" / "lesions")
        arguments = [*arguments, "data.classes=[MEL,NV,BKL]"]
    elif "data=label_maps" in arguments:
        folder = write_label_maps(project / "data" / "maps")
    arguments = [*arguments, f"data.data_dir={folder}", "tracker=none"]
    arguments = list(dict.fromkeys(arguments))
    assert message in fails(capsys, "train", *arguments)
    assert not list(project.glob("models/checkpoints/*.pt"))


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (["model.backbone=resnet50_fpn", "model.weights=coco"], "TORCH_HOME"),
        (["model.backbone=resnet50_fpn_v2", "model.weights=coco"], "TORCH_HOME"),
        (["model.backbone=resnet50_fpn", "model.weights=imagenet"], "TORCH_HOME"),
        (["model.backbone=resnet18", "model.weights=imagenet"], "HF_HOME"),
    ],
)
def test_without_network_the_offline_options_are_named_within_seconds(
    options: list[str],
    remedy: str,
    coco_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there, also where there is a network
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    started = time.monotonic()
    printed = fails(capsys, "train", *COCO, f"data.data_dir={coco_folder}", *options)
    assert time.monotonic() - started < 30
    for option in ("model.weights=null", "model.weights=/path/to/file", remedy):
        assert option in printed


def test_flips_in_inference_are_refused_and_do_not_stand_in_the_way_of_the_next_command(
    coco_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.run("train", [*COCO, f"data.data_dir={coco_folder}", "test_after_training=false"])
    infer = ["run_name=mistaken", f"data.data_dir={coco_folder / 'images'}", "data.num_workers=0"]
    message = "tta=true is of no use to mistaken, which takes"
    assert message in fails(capsys, "infer", *infer, "tta=true")
    assert cli.run("infer", infer).predicted == 6
