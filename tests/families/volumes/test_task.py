"""Volumes as a task, with an untrained network: losses, sections, linking, rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from slice_networks import SMALL
from torch import Tensor
from volume_files import write_ctc

from polymask.data.images import resize_mask
from polymask.data.inspection import FileMemory
from polymask.data.sources import read_ctc
from polymask.errors import UserError
from polymask.families.volumes.data import Samples
from polymask.families.volumes.family import Family
from polymask.families.volumes.linking import Linker, Linking
from polymask.families.volumes.loss import Loss
from polymask.families.volumes.predictions import SliceObjects, sections_of, slice_objects
from polymask.families.volumes.task import Task
from polymask.metrics.volumes import match_volume
from polymask.models.mask_rcnn.pasting import paste_masks
from polymask.models.slices.model import build_model
from polymask.structures import rle

SIZE = (40, 44)
SHAPE = (5, *SIZE)
TERMS = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}


def make_task(
    fusion: str = "slice_mlp",
    *,
    embedding: bool = False,
    loss: dict[str, float] | None = None,
    **options: Any,
) -> Task:
    torch.manual_seed(0)
    small = SMALL | {"min_size": 48, "score_threshold": 0.0}
    del small["num_classes"]
    task = Family(class_names=["cell"], score_threshold=0.4, **options).build_task(
        build_model=partial(build_model, slices=3, fusion={"name": fusion}, embedding=embedding, **small),
        build_loss=partial(Loss, **(loss or {})),
        class_counts=None,
    )
    task.start_epoch(0)
    # Untrained masks are near one half, and empty where they are below.
    torch.nn.init.constant_(task.model.detector.roi_heads.mask_predictor.mask_fcn_logits.bias, 0.3)
    return task


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ctc(tmp_path_factory.mktemp("data") / "ctc", sequences=1, shape=SHAPE)


def batch_of(
    folder: Path, *, training: bool, indices: Sequence[int] = (0,), **options: Any
) -> dict[str, Any]:
    samples = Samples(reader=read_ctc, data_dir=str(folder), **options)
    samples.look(samples.records, FileMemory(None, folder))
    make = samples.training_dataset if training else samples.dataset
    data: Any = make(samples.records, augmentation=None, cache_dir=None, seed=0)
    return samples.collate([data[0, index, 0] for index in indices])


def test_a_training_step_gives_the_weighted_sum_of_the_networks_losses(folder: Path) -> None:
    batch = batch_of(folder, training=True, indices=(1, 2), reference=True)
    task = make_task(embedding=True, loss={"loss_mask": 3.0, "loss_embedding": 0.5})
    torch.manual_seed(1)
    parts = task.training_step(batch)
    assert parts.keys() == TERMS | {"loss", "loss_embedding"}
    stacks = [image.permute(2, 0, 1) / 255 for image in batch["image"]]
    assert [stack.shape for stack in stacks] == [(3, *SIZE)] * 2
    reference = [
        {"image": one["image"].permute(2, 0, 1) / 255, "target": one["target"]} for one in batch["reference"]
    ]
    torch.manual_seed(1)
    terms = task.model(stacks, batch["target"], reference)
    weights = {"loss_mask": 3.0, "loss_embedding": 0.5}
    total = sum(weights.get(name, 1.0) * value.item() for name, value in terms.items())
    assert parts["loss"].item() == pytest.approx(total, rel=1e-5)
    assert parts["loss_embedding"].item() == pytest.approx(terms["loss_embedding"].item())
    assert terms["loss_embedding"].item() > 0


def plain_volume(task: Task, volume: np.ndarray, size: tuple[int, int], linking: Linking) -> np.ndarray:
    """What is found in a volume, as plainly as it can be written."""
    slices = [torch.from_numpy(page.copy()) / 255 for page in volume]
    pages, linker = [], Linker(linking, size)
    scale = torch.tensor([size[1] / volume.shape[2], size[0] / volume.shape[1]] * 2)
    for z, middle in enumerate(slices):
        stack = torch.stack([slices[max(z - 1, 0)], middle, slices[min(z + 1, len(slices) - 1)]])
        (raw,) = task.model.predict([stack])
        sure = raw["scores"] >= task.score_threshold
        masks = paste_masks(raw["masks"][sure], raw["boxes"][sure] * scale, size)
        page, kept = np.zeros(size, np.uint16), []
        for number, mask in enumerate(masks):
            whole = rle.decode(mask)
            left = whole & (page == 0)
            if left.any() and left.sum() / whole.sum() >= linking.min_visible:
                kept.append(number)
                page[left] = len(kept)
        embedding = raw["embedding"][sure][kept].numpy() if "embedding" in raw else None
        linker.add(page, raw["scores"][sure][kept].numpy(), raw["labels"][sure][kept].numpy(), embedding)
        pages.append(page)
    return np.stack([numbers[page] for page, numbers in zip(pages, linker.finish().numbers, strict=True)])


@pytest.mark.parametrize(
    ("fusion", "name", "image_size"),
    [("slice_mlp", "overlap", None), ("level_mlp", "embedding", None), ("centre", "overlap", (56, 48))],
)
def test_an_evaluation_finds_and_measures_whole_volumes(
    folder: Path, fusion: str, name: str, image_size: tuple[int, int] | None
) -> None:
    options = {"min_slices": 1, "name": name}
    task = make_task(fusion, embedding=name == "embedding", linking=options, every_slice=2).eval()
    indices = (0, 1) if name == "embedding" else (1,)
    batch = batch_of(folder, training=False, indices=indices, image_size=image_size)
    predictions = task.evaluation_step(batch)
    rows = task.evaluation()
    assert rows["ids"].tolist() == batch["ids"] == [found.id for found in predictions]
    for place, found in enumerate(predictions):
        volume, truth = (batch[key][place].open() for key in ("volume", "truth"))
        assert found.labels.shape == truth.shape == SHAPE  # whatever the network saw
        expected = plain_volume(task, volume, SIZE, Linking(**options))
        assert (found.labels != expected).mean() < 1e-3  # slices go through the network in other batches
        assert np.unique(found.labels)[-1] == len(found.scores) == len(found.classes) > 0
        measured = match_volume(found, truth, batch["annotated"][place])
        for row, value in measured.items():
            np.testing.assert_array_equal(rows[row][place], value, err_msg=row)
        losses = plain_losses(task, volume, truth)
        for loss, value in losses.items():
            assert rows[loss][place] == pytest.approx(value, rel=1e-4), loss
    assert (rows["slice_num_true"] > 0).all()


def plain_losses(task: Task, volume: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Mean losses of slices 1 and 3, every second one, with masks as the network sees them."""
    stacks, target = [], []
    for z in (1, 3):
        stacks.append(torch.from_numpy(volume[z - 1 : z + 2].copy()) / 255)
        labels = resize_mask(np.array(truth[z]), volume.shape[1:])
        masks = np.stack([labels == number for number in np.unique(labels)[1:]]).astype(np.uint8)
        boxes = [rle.box(rle.encode(mask)) for mask in masks]
        count = len(masks)
        target.append(
            {
                "boxes": torch.tensor(boxes, dtype=torch.float32),
                "labels": torch.zeros(count, dtype=torch.int64),
                "masks": torch.from_numpy(masks),
                "crowd": torch.zeros(count, dtype=torch.bool),
            }
        )
    terms, _ = task.model.evaluate(stacks, target)
    return {name: value.item() for name, value in task.loss(terms).items()}


def test_sparse_truth_is_compared_where_it_is(tmp_path: Path) -> None:
    folder = write_ctc(tmp_path / "ctc", sequences=1, shape=SHAPE, dense=False)
    task = make_task(every_slice=1).eval()
    batch = batch_of(folder, training=False)
    assert batch["annotated"][0].tolist() == [False, True, False, True, False]
    task.evaluation_step(batch)
    rows = task.evaluation()
    assert (rows["num_annotated"], rows["is_complete"]) == (2, 0)
    losses = plain_losses(task, batch["volume"][0].open(), batch["truth"][0].open())
    assert rows["loss"][0] == pytest.approx(losses["loss"], rel=1e-4)


def test_linking_by_embeddings_needs_a_network_that_has_some() -> None:
    with pytest.raises(UserError, match=r"task\.linking\.name=embedding needs a network that embeds"):
        make_task(linking={"name": "embedding"})


def raw_objects(boxes: list[list[float]], scores: list[float], **more: Tensor) -> dict[str, Tensor]:
    return {
        "boxes": torch.tensor(boxes),
        "scores": torch.tensor(scores),
        "labels": torch.zeros(len(boxes), dtype=torch.int64),
        "masks": torch.ones(len(boxes), 28, 28),
        **more,
    }


def test_masks_have_the_size_of_the_file_and_empty_ones_are_left_out() -> None:
    embedding = torch.arange(6.0).reshape(3, 2)
    boxes = [[4.0, 2, 12, 8], [20.0, 2, 20, 2], [0.0, 10, 10, 20]]
    raw = raw_objects(boxes, [0.9, 0.8, 0.3], embedding=embedding)
    raw["masks"][1] = 0
    objects = slice_objects("x", raw, seen=(20, 40), size=(40, 120))  # twice as high, three times as wide
    assert isinstance(objects, SliceObjects)
    np.testing.assert_array_equal(objects.boxes, [[12, 4, 36, 16], [0, 20, 30, 40]])
    np.testing.assert_array_equal(objects.embedding, embedding[[0, 2]])
    np.testing.assert_allclose(objects.scores, [0.9, 0.3], rtol=1e-6)
    assert [mask["size"] for mask in objects.masks] == [[40, 120]] * 2
    inside = rle.decode(objects.masks[0])
    assert inside[5:15, 13:35].all()
    assert not inside[:3].any()


def test_the_surer_section_lies_on_top_and_those_that_do_not_count_are_left_out() -> None:
    boxes = [[0.0, 0, 20, 20], [10.0, 0, 30, 20], [10.0, 20, 30, 30]]
    objects = slice_objects("x", raw_objects(boxes, [0.9, 0.6, 0.5]), seen=(32, 32), size=(32, 32))
    sections = sections_of(objects, 0.6, min_visible=0.25)
    assert sections.labels.dtype == np.uint16
    assert np.unique(sections.labels).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(sections.labels == 1, rle.decode(objects.masks[0]))
    assert sections.labels[10, 25] == 2
    assert sections.scores.shape == sections.classes.shape == (2,)
    assert sections.embedding is None


def test_a_second_detection_of_an_object_leaves_no_ring() -> None:
    boxes = [[4.0, 4, 20, 20], [3.0, 3, 21, 21], [10.0, 8, 30, 20]]  # the second is the first, a pixel wider
    objects = slice_objects("x", raw_objects(boxes, [0.9, 0.8, 0.7]), seen=(32, 32), size=(32, 32))
    sections = sections_of(objects, 0.5, min_visible=0.25)
    np.testing.assert_array_equal(sections.scores, objects.scores[[0, 2]])
    first, last = (rle.decode(objects.masks[number]) for number in (0, 2))
    np.testing.assert_array_equal(sections.labels, np.where(first, 1, np.where(last, 2, 0)))
    assert len(sections_of(objects, 0.5, min_visible=0.0).scores) == 3
    half = (last & ~first).sum() / last.sum()
    assert len(sections_of(objects, 0.5, min_visible=half).scores) == 2
    assert len(sections_of(objects, 0.5, min_visible=half + 1e-6).scores) == 1


def test_the_encoder_is_exported_where_it_is_a_vision_transformer() -> None:
    options = SMALL | {"backbone": "test_vit", "taps": [1, 3, 4, 6], "slices": 3}
    model = build_model(fusion={"name": "level_mlp"}, **options)
    found = Task(model=model, loss=Loss(), linking=Linking()).exported_encoder()
    assert found is not None
    assert found.facts["architecture"] == "test_vit"
    # Nothing of fusion, pyramid and heads: just what timm's own network takes.
    weights = {name: value for name, value in found.weights.items() if not name.startswith("pixel_")}
    size = found.facts["image_size"]
    timm.create_model("test_vit", num_classes=0, img_size=size).load_state_dict(weights, strict=True)
    assert make_task().exported_encoder() is None
