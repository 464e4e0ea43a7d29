"""Instance segmentation as a task: losses, metrics against pycocotools, predictions, pictures."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from instance_files import CATEGORY_IDS, CLASSES, CROWDED, EMPTY, write_coco
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from polymask.data.sources import read_coco
from polymask.errors import UserError
from polymask.families.instances.dataset import InstanceDataset, collate_instances
from polymask.families.instances.family import Family
from polymask.families.instances.loss import Loss
from polymask.families.instances.task import Task
from polymask.models.mask_rcnn.model import build_model
from polymask.structures import rle
from polymask.structures.objects import FoundObjects

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools and NumPy 2

SCORER = Family(class_names=CLASSES).scorer
TERMS = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}
MODEL: dict[str, Any] = {
    "backbone": "tu-test_resnet",
    "weights": None,
    "anchor_sizes": [8, 12, 16, 24, 32],
    "min_size": 64,
    "max_size": 96,
    "channels": 16,
    "hidden_size": 16,
    "boxes_per_image": 32,
    "detections_per_image": 20,
    "score_threshold": 0.01,
}


def make_task(
    *, model: dict[str, Any] | None = None, loss: dict[str, float] | None = None, **options: Any
) -> Task:
    torch.manual_seed(0)
    return Family(class_names=CLASSES, **options).build_task(
        build_model=partial(build_model, **(MODEL | (model or {}))),
        build_loss=partial(Loss, **(loss or {})),
        class_counts=None,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "coco", num_images=12)


@pytest.fixture(scope="module")
def records(folder: Path) -> list:
    return read_coco(folder, classes=CLASSES)[0]


@pytest.fixture(scope="module")
def batches(records: list) -> list[dict]:
    data = InstanceDataset(records)
    items = [data[0, index, 0] for index in range(len(records))]
    return [collate_instances(items[start : start + 4]) for start in range(0, len(items), 4)]


@pytest.fixture(scope="module")
def found(batches: list[dict]) -> tuple[Task, list[FoundObjects], dict[str, float]]:
    """A task that has learned a little, what it finds in all images, and its metrics."""
    task = make_task(score_threshold=0.3)
    task.start_epoch(0)
    optimizer = torch.optim.AdamW(task.parameters(), lr=2e-3)
    for step in range(24):
        optimizer.zero_grad()
        task.training_step(batches[step % len(batches)])["loss"].backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
    predictions = [prediction for batch in batches for prediction in task.evaluation_step(batch)]
    return task, predictions, SCORER.point_estimates(task.evaluation())


def test_training_step_gives_the_weighted_sum_of_torchvisions_five(batches: list[dict]) -> None:
    weights = {"loss_mask": 3.0, "loss_objectness": 0.5, "loss_box_reg": 0.0}
    task = make_task(loss=weights)
    task.start_epoch(0)
    torch.manual_seed(1)
    parts = task.training_step(batches[0])
    assert parts.keys() == TERMS | {"loss"}
    assert not any(parts[name].requires_grad for name in TERMS)
    torch.manual_seed(1)
    detector = task.model.detector
    targets = [
        {name: objects[name][~objects["crowd"]] for name in ("boxes", "masks")}
        | {"labels": 1 + objects["labels"][~objects["crowd"]]}
        | {"ignored": objects["masks"][objects["crowd"]]}
        for objects in batches[0]["target"]
    ]
    assert batches[0]["target"][CROWDED]["crowd"].any()
    expected = detector([image.permute(2, 0, 1) / 255 for image in batches[0]["image"]], targets)
    for name in TERMS:
        torch.testing.assert_close(parts[name], expected[name].detach())
    total = sum(weights.get(name, 1.0) * value.item() for name, value in expected.items())
    assert parts["loss"].item() == pytest.approx(total, rel=1e-5)
    parts["loss"].backward()
    groups = task.parameter_groups()
    assert all(any(p.grad is not None for p in groups[name]) for name in ("encoder", "rest"))
    assert sum(map(len, groups.values())) == len(list(task.parameters()))


def evaluate_with_pycocotools(
    folder: Path, results: list[dict], kind: str, *, label: int | None = None
) -> np.ndarray:
    """Return COCO's twelve numbers; boxes and areas of the truth are taken from its masks."""
    truth = COCO()
    truth.dataset = json.loads((folder / "annotations.json").read_text())
    truth.createIndex()
    for annotation in truth.dataset["annotations"]:
        runs = truth.annToRLE(annotation)
        annotation["bbox"], annotation["area"] = coco_mask.toBbox(runs).tolist(), int(coco_mask.area(runs))
    file = folder / f"{kind}.json"
    file.write_text(json.dumps(results))
    evaluation = COCOeval(truth, truth.loadRes(str(file)), kind)
    if label is not None:
        evaluation.params.catIds = [CATEGORY_IDS[label]]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return np.where(evaluation.stats < 0, np.nan, evaluation.stats)


def as_results(predictions: list[FoundObjects], records: list, kind: str) -> list[dict[str, Any]]:
    number = {record.id: 100 + index for index, record in enumerate(records)}  # as write_coco counts them
    results = []
    for found_ in predictions:
        for index, (x0, y0, x1, y1) in enumerate(found_.boxes.tolist()):
            runs = {**found_.masks[index], "counts": found_.masks[index]["counts"].decode()}
            place = {"bbox": [x0, y0, x1 - x0, y1 - y0]} if kind == "bbox" else {"segmentation": runs}
            category, score = CATEGORY_IDS[found_.labels[index]], float(found_.scores[index])
            results.append({"image_id": number[found_.id], "category_id": category, "score": score, **place})
    return results


@pytest.mark.parametrize(("kind", "name"), [("segm", "mask"), ("bbox", "box")])
def test_metrics_of_an_evaluation_equal_those_of_pycocotools(
    kind: str, name: str, found: tuple, folder: Path, records: list
) -> None:
    _, predictions, metrics = found
    results = as_results(predictions, records, kind)
    stats = evaluate_with_pycocotools(folder, results, kind)
    assert stats[1] > 0.02  # something was found, so that there is something to compare
    suffixes = ("", "50", "75", "_small", "_medium", "_large")
    for suffix, value in zip(suffixes, stats[:6], strict=True):
        assert metrics[f"{name}_ap{suffix}"] == pytest.approx(value, abs=1e-9, nan_ok=True)
    for label, class_name in enumerate(CLASSES):
        stats = evaluate_with_pycocotools(folder, results, kind, label=label)
        assert metrics[f"{name}_ap_{class_name}"] == pytest.approx(stats[0], abs=1e-9, nan_ok=True)
        assert metrics[f"{name}_ap50_{class_name}"] == pytest.approx(stats[1], abs=1e-9, nan_ok=True)


def test_losses_of_an_evaluation_are_means_over_images(found: tuple, batches: list[dict]) -> None:
    task, _, metrics = found
    losses = [task.model.evaluate(images(batch), batch["target"])[0] for batch in batches]
    for name in TERMS:
        assert metrics[name] == pytest.approx(np.mean([float(terms[name]) for terms in losses]), rel=1e-5)
    assert metrics["loss"] == pytest.approx(sum(metrics[name] for name in TERMS), rel=1e-5)


def images(batch: dict) -> list[torch.Tensor]:
    return [image.permute(2, 0, 1) / 255 for image in batch["image"]]


def test_evaluation_is_repeatable_and_leaves_network_and_random_numbers_alone(batches: list[dict]) -> None:
    task = make_task(model={"normalization": "batch"})
    task.start_epoch(0)
    before = copy.deepcopy(task.state_dict())
    assert any("running_mean" in name for name in before)
    state = torch.get_rng_state()
    all_rows = []
    for order in (batches, batches[::-1]):
        task.reset()
        for batch in order:
            task.evaluation_step(batch)
        all_rows.append(task.evaluation())
        torch.rand(3)  # numbers drawn elsewhere change nothing
    np.testing.assert_equal(*all_rows)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert task.model.training
    torch.set_rng_state(state)
    task.evaluation_step(batches[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_an_application_finds_what_evaluation_finds_without_a_target(
    found: tuple, batches: list[dict], records: list
) -> None:
    task, predictions, _ = found
    by_id = {prediction.id: prediction for prediction in predictions}
    sizes = {record.id: record.truth.size for record in records}
    application = Family(class_names=CLASSES).application({"batch_size": 2}, {})
    for batch in batches:
        for prediction in application.predict(task, application.collate(batch["ids"], batch["image"])):
            expected = by_id[prediction.id]
            assert prediction.size == expected.size == sizes[prediction.id]
            assert prediction.masks == expected.masks
            for name in ("boxes", "labels", "scores"):
                np.testing.assert_array_equal(getattr(prediction, name), getattr(expected, name))
            assert (np.diff(prediction.scores) <= 0).all()


def test_scores_of_each_image_equal_a_count_of_pixels(found: tuple, records: list) -> None:
    task, predictions, metrics = found
    rows = task.evaluation()
    scores = SCORER.scores(rows)
    assert list(scores) == ["dice_lesion", "top_mask_iou"]
    by_id = {prediction.id: prediction for prediction in predictions}
    assert rows["ids"].tolist() == [record.id for record in records]
    for index, record in enumerate(records):
        objects, prediction = record.read_objects().to_target(), by_id[record.id]
        true, crowd = (objects["masks"][objects["crowd"] == is_].any(axis=0) for is_ in (False, True))
        valid = true | ~crowd
        masks = [rle.decode(mask) & valid for mask in prediction.masks]
        sure = [mask for mask, score in zip(masks, prediction.scores, strict=True) if score >= 0.3]
        union = np.any(sure, axis=0) if sure else np.zeros(record.truth.size, bool)
        total = union.sum() + true.sum()
        dice = 2 * (union & true).sum() / total if total else 1.0
        assert scores["dice_lesion"][index] == pytest.approx(dice)
        iou = (masks[0] & true).sum() / (masks[0] | true).sum() if true.any() else np.nan
        assert scores["top_mask_iou"][index] == pytest.approx(iou, nan_ok=True, rel=1e-6)
    assert np.isnan(scores["top_mask_iou"]).tolist() == [index == EMPTY for index in range(len(records))]
    assert scores["dice_lesion"].mean() == pytest.approx(metrics["dice_lesion_image"])
    assert scores["dice_lesion"].max() > 0.3


def test_sample_metrics_of_stored_rows_are_those_of_the_evaluation(found: tuple) -> None:
    task, _, metrics = found
    weights = np.stack([np.ones(12), 2 * np.ones(12), np.eye(12)[0]])
    rows = task.evaluation()
    values = SCORER.metrics(rows, weights)
    stored = {name: value for name, value in metrics.items() if not name.startswith("loss")}
    assert values.keys() == stored.keys()
    for name, value in stored.items():
        assert values[name][:2] == pytest.approx([value, value], nan_ok=True)
    first = {name: values[:1] for name, values in rows.items()}
    for name, value in SCORER.metrics(first).items():
        assert values[name][2] == pytest.approx(value[0], nan_ok=True), name


def test_picture_shows_truth_and_only_sure_objects(records: list) -> None:
    record = records[0]
    mask = np.zeros(record.truth.size, np.uint8)
    mask[10:30, 5:25] = 1
    prediction = FoundObjects(
        id=record.id,
        size=record.truth.size,
        boxes=np.array([[5, 10, 25, 30]], np.float32),
        labels=np.array([1]),
        scores=np.array([0.6], np.float32),
        masks=[rle.encode(mask)],
    )
    sure, unsure = (
        Family(class_names=CLASSES, score_threshold=threshold).picture(prediction, record)
        for threshold in (0.5, 0.7)
    )
    assert sure.dtype == np.uint8
    assert sure.shape == unsure.shape
    half = sure.shape[1] // 2
    np.testing.assert_array_equal(sure[:, :half], unsure[:, :half])  # the truth
    height, width = record.truth.size
    tile = sure[sure.shape[0] - half * height // width :, half:]  # without the heading
    changed = (tile != unsure[-len(tile) :, half:]).any(axis=-1)
    changed = cv2.resize(changed.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    assert changed[mask > 0].mean() > 0.9
    assert changed[:, 60:].max() == 0  # the object lies left, its name beside it


@pytest.mark.parametrize(
    ("monitor", "mode", "expected"),
    [
        ("val/mask_ap50", "auto", "max"),
        ("val/loss_mask", "auto", "min"),
        ("val/count_error", "min", "min"),
    ],
)
def test_direction_of_the_monitored_metric(monitor: str, mode: str, expected: str) -> None:
    assert make_task(monitor=monitor, mode=mode).mode == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 1.5}, r"task\.score_threshold=1\.5 is not valid"),
        ({"score_threshold": -0.1}, r"task\.score_threshold=-0\.1 is not valid"),
        ({"max_detections": 0}, r"task\.max_detections=0 is not valid"),
        ({"pixel_size": 0}, r"data\.pixel_size=0 is not valid; give micrometres per pixel above 0, or null"),
        ({"pixel_size": "abc"}, r"data\.pixel_size='abc' is not valid"),
        ({"mode": "up"}, r"task\.mode='up' is unknown"),
        ({"loss": {"loss_mask": -1.0}}, r"loss\.loss_mask=-1\.0 is not valid"),
        ({"model": {"aspect_ratios": 2.0}}, r"model\.aspect_ratios=2\.0 is not valid; it must be a list"),
        ({"model": {"anchor_sizes": 8}}, r"model\.anchor_sizes=8 is not valid; it must be a list"),
        ({"model": {"min_size": []}}, r"model\.min_size=\[\] is not valid; it must be a list"),
        ({"model": {"min_size": "big"}}, r"model\.min_size='big' is not valid; it must be a list"),
    ],
)
def test_values_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_task(**options)
