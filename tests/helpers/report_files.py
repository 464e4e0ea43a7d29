"""A results folder made by hand, and what is known of its run."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from polymask.reporting.course import Course
from polymask.reporting.page.facts import RunFacts, Subset
from polymask.reporting.page.gallery import Samples

HOSTILE = "<b>&\"'"
CLASSES = ["MEL", HOSTILE]
SUBGROUPS = f"""subgroup,num_samples,accuracy,accuracy_low,accuracy_high
sex=female,12,0.75,0.5,0.875
{HOSTILE},3,,,
"""
METRICS = {
    "accuracy": {"value": 0.8125, "low": 0.7, "high": 0.93751234567},
    "auroc_macro": {"value": None, "low": None, "high": None},
    "hd95": {"value": 12.3456, "low": 9.5, "high": 20.0},
    "recall_MEL": {"value": 0.5, "low": 0.25, "high": 0.75},
    f"recall_{HOSTILE}": {"value": 1.0, "low": 1.0, "high": 1.0},
}


def write_report_files(folder: Path) -> None:
    """Write what a test may leave, with figures and tables that are known and others."""
    content = {
        "num_samples": 16,
        "num_groups": 9,
        "split_sha256": "5e1f",
        "intervals": "95 % bootstrap",
        "losses": {"loss": 0.625, "loss_ce": None},
        "metrics": METRICS,
    }
    (folder / "metrics.json").write_text(json.dumps(content))
    lines = [f"s{number},{CLASSES[number % 2]}" for number in range(16)]
    quoted = "\n".join(
        f'{line.split(",", 1)[0]},"{line.split(",", 1)[1].replace(chr(34), chr(34) * 2)}"' for line in lines
    )
    (folder / "per_sample.csv").write_text(f"id,predicted\n{quoted}\n")
    (folder / "subgroups.csv").write_text(SUBGROUPS.replace(HOSTILE, '"<b>&""\'"'))
    (folder / "unheard_of.csv").write_text("name,value\n" + "".join(f"row {n},{n}\n" for n in range(50)))
    for name in ("roc_curves.png", "calibration_after.png", "unheard_of.png"):
        cv2.imwrite(str(folder / name), np.full((30, 40, 3), 200, np.uint8))


def samples(number: int = 16, *, size: tuple[int, int] = (24, 48)) -> Samples:
    """Samples of two classes in turn, the score of each its number; pictures of noise take much room."""
    random = np.random.default_rng(0)
    return Samples(
        ids=[f"s{index}" for index in range(number)],
        scores={"closeness": np.arange(number) / number},
        labels=[frozenset({index % 2}) for index in range(number)],
        class_names=CLASSES,
        picture=lambda id_: random.integers(0, 256, (*size, 3), np.uint8),
    )


def facts(**others: object) -> RunFacts:
    """What is known of a run whose names are hostile."""
    known = {
        "name": HOSTILE,
        "config": {"seed": 7, "tracker.uri": "https://me:secret@host/x"},
        "groups": {"data": "demo", "debug": "None"},
        "class_names": CLASSES,
        "predicts": ["label", "mask"],
        "split_sha256": "5e1f",
        "data_name": "pictures",
        "subsets": [Subset(name="test", num_samples=16, num_groups=9, class_counts=[8, 8])],
        "course": Course(
            history=[{"epoch": 1, "epoch_seconds": 60.0}, {"epoch": 2, "epoch_seconds": 65.0}], best_epoch=2
        ),
    }
    return RunFacts(**(known | others))
