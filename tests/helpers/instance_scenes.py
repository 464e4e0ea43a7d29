"""Scenes of random objects, and their evaluation by pycocotools on written files."""

from __future__ import annotations

import contextlib
import io
import json
import warnings

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from polymask.metrics.instance_matching import match_image
from polymask.structures.objects import FoundObjects, TrueObjects


def encode(mask):
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def decode(mask):
    with warnings.catch_warnings():  # pycocotools asks numpy for copies in a way that is going out of use
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco_mask.decode(mask).astype(bool)


def ellipse(size, center, radii):
    rows, columns = np.ogrid[: size[0], : size[1]]
    return ((rows - center[0]) / radii[0]) ** 2 + ((columns - center[1]) / radii[1]) ** 2 <= 1


def corners(masks):
    """Return the smallest boxes (N, 4) x0, y0, x1, y1 around bool masks."""
    boxes = []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return np.array(boxes, np.float32).reshape(-1, 4)


def make_prediction(id_, size, masks, labels, scores, boxes=None):
    order = np.argsort(-np.asarray(scores, np.float32), kind="stable")
    boxes = corners(masks) if boxes is None else np.asarray(boxes, np.float32).reshape(-1, 4)
    return FoundObjects(
        id=id_,
        size=size,
        boxes=boxes[order],
        labels=np.asarray(labels, np.int64)[order],
        scores=np.asarray(scores, np.float32)[order],
        masks=[encode(masks[index]) for index in order],
    )


def make_truth(size, masks, labels, crowd=None):
    return TrueObjects(
        size=size,
        boxes=corners(masks),
        labels=np.asarray(labels, np.int64),
        masks=[encode(mask) for mask in masks],
        crowd=np.zeros(len(masks), bool) if crowd is None else np.asarray(crowd, bool),
    )


def _jittered(rng, shape):
    """Move and stretch an ellipse (row, column, two radii) by nothing up to a third of its size."""
    spread = shape[2:].mean() * rng.choice([0, 0.02, 0.1, 0.3])
    moved = shape + rng.normal(0, 1, 4) * spread
    return np.array([*moved[:2], *moved[2:].clip(2)])


def random_scene(rng, id_, *, num_classes, tied=False, max_true=14, max_found=25):
    """An image with objects of all areas, some a crowd; found well or badly, twice or not at all."""
    size = (int(rng.integers(150, 240)), int(rng.integers(200, 300)))

    def draw():
        return np.array([*rng.uniform(0, size), *np.exp(rng.uniform(np.log(3), np.log(110), 2))])

    shapes = [draw() for _ in range(rng.integers(0, max_true + 1))]
    labels = rng.integers(0, num_classes, len(shapes))
    true = [ellipse(size, shape[:2], shape[2:]) for shape in shapes]
    found, guesses, scores = [], [], []
    for _ in range(rng.integers(0, max_found + 1)):
        source = rng.integers(len(shapes)) if shapes and rng.random() < 0.8 else None
        shape = draw() if source is None else _jittered(rng, shapes[source])
        mask = ellipse(size, shape[:2], shape[2:])
        if mask.any():
            right = source is not None and rng.random() < 0.8
            found.append(mask)
            guesses.append(labels[source] if right else rng.integers(num_classes))
            scores.append(rng.uniform(0.2, 1) if right else rng.uniform(0, 0.8))
    scores = np.round(scores, 1) if tied else scores
    boxes = corners(found) + rng.normal(0, 1, (len(found), 4)).astype(np.float32)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    crowd = rng.random(len(true)) < 0.15
    return make_prediction(id_, size, found, guesses, scores, boxes), make_truth(size, true, labels, crowd)


def random_scenes(num_images, seed, **options):
    rng = np.random.default_rng(seed)
    return [random_scene(rng, f"image_{index:03}", **options) for index in range(num_images)]


def _box(box):
    x0, y0, x1, y1 = (float(value) for value in box)
    return [x0, y0, x1 - x0, y1 - y0]


def _text(mask):
    return {"size": list(mask["size"]), "counts": mask["counts"].decode()}


def write_coco(folder, scenes, num_classes):
    """Write truth.json, mask.json and box.json.

    The results for masks name no boxes, because COCO would then take the areas of those for the masks'.
    """
    images, annotations, results = [], [], {"mask": [], "box": []}
    for image_id, (prediction, truth) in enumerate(scenes, start=1):
        images.append({"id": image_id, "height": truth.size[0], "width": truth.size[1]})
        for box, label, mask, crowd in zip(truth.boxes, truth.labels, truth.masks, truth.crowd, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(label) + 1,
                    "bbox": _box(box),
                    "segmentation": _text(mask),
                    "area": int(coco_mask.area(mask)),
                    "iscrowd": int(crowd),
                }
            )
        for box, label, score, mask in zip(
            prediction.boxes, prediction.labels, prediction.scores, prediction.masks, strict=True
        ):
            result = {"image_id": image_id, "category_id": int(label) + 1, "score": float(score)}
            results["mask"].append({**result, "segmentation": _text(mask)})
            results["box"].append({**result, "bbox": _box(box)})
    categories = [{"id": index + 1, "name": str(index)} for index in range(num_classes)]
    truth_file = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "truth.json").write_text(json.dumps(truth_file))
    for kind, content in results.items():
        (folder / f"{kind}.json").write_text(json.dumps(content))


def coco_evaluation(folder, kind, max_detections=(100,)):
    """Run pycocotools on what `write_coco` wrote."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))
        found = truth.loadRes(str(folder / f"{kind}.json"))
        evaluation = COCOeval(truth, found, {"mask": "segm", "box": "bbox"}[kind])
        evaluation.params.maxDets = list(max_detections)
        evaluation.evaluate()
        evaluation.accumulate()
        if len(max_detections) == 3:
            evaluation.summarize()
    return evaluation


def stacked_rows(scenes, num_classes, *, max_detections=100, score_threshold=0.5):
    """Return the rows of all scenes as the accumulator would."""
    rows = [
        match_image(
            prediction,
            truth,
            num_classes=num_classes,
            max_detections=max_detections,
            score_threshold=score_threshold,
        )
        for prediction, truth in scenes
    ]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
