"""Wrong classes and masks among the demo images are found: the experiment of docs/label_review.md."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from polymask import cli
from polymask.data.demo.reader import write_demo_dataset

SHARE = 0.05
SETTINGS = ["experiment=demo", "data.image_size=64", "epochs=12", "data.num_folds=3", "tracker=none"]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def spoil(root: Path) -> tuple[set[str], set[str]]:
    """Give 28 of the 560 images another class (by corrections), and 28 others the masks of one another."""
    folder = root / "data/demo"
    write_demo_dataset(folder)
    rows = read(folder / "metadata.csv")
    rng = random.Random(0)
    chosen = rng.sample(rows, 56)
    lines = ["id,action,value,note"]
    for row in chosen[:28]:
        other = rng.choice(sorted({each["dx"] for each in rows} - {row["dx"]}))
        lines.append(f"{row['image_id']},relabel,{other},flipped")
    (root / "flips.csv").write_text("\n".join(lines) + "\n")
    paths = [folder / "masks" / f"{row['image_id']}_segmentation.png" for row in chosen[28:]]
    masks = [path.read_bytes() for path in paths]
    for path, mask in zip(paths, [*masks[1:], masks[0]], strict=True):
        path.write_bytes(mask)
    ids = [row["image_id"] for row in chosen]
    return set(ids[:28]), set(ids[28:])


@pytest.mark.slow
def test_flipped_labels_and_swapped_masks_come_first(project: Path) -> None:
    flipped, swapped = spoil(project)
    for fold in range(3):
        options = [f"data.fold={fold}", f"run_name=study_{fold}", "data.corrections=flips.csv"]
        cli.run("train", [*SETTINGS, *options])
    folder = cli.run("review", ["study_*", "num_pictures=0", "tracker=none"]).folder
    for name, wrong in (("labels", flipped), ("masks", swapped)):
        first = [row["id"] for row in read(folder / f"{name}.csv")][: round(SHARE * 560)]
        precision = sum(id_ in wrong for id_ in first) / len(first)
        assert precision > 5 * SHARE, name  # of which chance would be SHARE
