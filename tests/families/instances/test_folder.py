"""`predict_files` with the application that finds objects: threads, files that go on, tables of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from polymask.families.instances.family import Family
from polymask.families.instances.task import Task
from polymask.inference.folder import Summary, predict_files
from polymask.inference.predictor import Predictor
from polymask.models.mask_rcnn.pasting import to_predictions
from polymask.structures.objects import FoundObjects

BOXES = {"a.png": (5, 8, 45, 38), "sub/b.jpg": (20, 10, 52, 50), "sub/c.png": None}  # x0, y0, x1, y1


class BrightBox(nn.Module):
    """Finds the bright rectangle of an image, if there is one."""

    def predict(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        found = []
        for image in images:
            rows, columns = torch.nonzero(image.mean(dim=0) > 0.5, as_tuple=True)
            ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else []
            boxes = torch.tensor([[float(end) for end in ends]] if ends else [], dtype=torch.float32)
            count = int(bool(ends))
            found.append(
                {
                    "boxes": boxes.reshape(count, 4),
                    "labels": torch.ones(count, dtype=torch.int64),
                    "scores": torch.full((count,), 0.75),
                    "masks": torch.ones(count, 28, 28),
                }
            )
        return found

    def to_objects(
        self, ids: list[str], found: list[Any], sizes: list[tuple[int, int]]
    ) -> list[FoundObjects]:
        return to_predictions(ids, found, sizes)


def write_images(folder: Path) -> None:
    for index, (name, box) in enumerate(BOXES.items()):
        image = np.full((60 + 4 * index, 80, 3), 20, np.uint8)
        if box is not None:
            image[box[1] : box[3], box[0] : box[2]] = 230
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), image)


def run(source: Path, folder: Path, names: list[str]) -> Summary:
    weights = source.parent / "weights.pt"
    weights.write_bytes(b"weights")
    predictor = Predictor(
        task=Task(model=BrightBox(), loss=None, num_classes=2, monitor="val/loss", mode="min"),
        application=Family(class_names=["Fiber", "Film"], pixel_size=2.0).application({"batch_size": 2}, {}),
        run_name="boxes",
        path=weights,
        device="cpu",
        precision="fp32",
    )
    return predict_files(
        predictor, source, [Path(name) for name in names], folder, num_workers=0, batch_size=2
    )


def test_a_folder_of_images_of_different_sizes(tmp_path: Path) -> None:
    source, whole, halves = tmp_path / "images", tmp_path / "whole", tmp_path / "halves"
    write_images(source)
    run(source, whole, list(BOXES))
    table = pd.read_csv(whole / "predictions.csv", index_col="file")
    assert table["count_Film"].to_dict() == {"a.png": 1, "sub/b.jpg": 1, "sub/c.png": 0}
    objects = pd.read_csv(whole / "instances.csv")
    for row in objects.to_dict("records"):
        x0, y0, x1, y1 = BOXES[row["image"]]
        area = (x1 - x0) * (y1 - y0)
        np.testing.assert_allclose([row["x0"], row["y0"], row["x1"], row["y1"]], (x0, y0, x1, y1), atol=2)
        assert abs(row["area_pixels"] - area) < 0.12 * area
        assert row["area_um2"] == 4 * row["area_pixels"]
        assert table.loc[row["image"], "covered_pixels"] == row["area_pixels"]
        numbers = cv2.imread(
            str(whole / "label_maps" / Path(row["image"]).with_suffix(".tif")), cv2.IMREAD_UNCHANGED
        )
        assert (numbers == 1).sum() == row["area_pixels"]
        assert numbers.shape == cv2.imread(str(source / row["image"])).shape[:2]
    results = json.loads((whole / "instances.json").read_text())
    assert [(each["image_id"], each["category_id"]) for each in results] == [("a.png", 2), ("sub/b.jpg", 2)]

    assert run(source, halves, ["a.png"]).predicted == 1
    summary = run(source, halves, list(BOXES))
    assert (summary.predicted, summary.skipped) == (2, 1)
    for name in ("instances.csv", "instances.json", "predictions.csv"):
        assert (halves / name).read_bytes() == (whole / name).read_bytes()
