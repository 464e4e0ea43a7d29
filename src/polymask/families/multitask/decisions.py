"""What validation samples decide of masks and classes: temperatures, and thresholds of operating points."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from polymask.errors import UserError, choose, listed, nearest, number
from polymask.metrics.operating_points import (
    KINDS,
    OperatingPoint,
    called,
    group_scores,
    group_truth,
    threshold_for,
)
from polymask.metrics.pixel_calibration import fit_pixel_temperature, tempered_histogram
from polymask.metrics.rows import RAW
from polymask.metrics.temperature import (
    at_bound,
    fit_temperature,
    fit_temperature_per_class,
    tempered,
)
from polymask.structures.samples import Rows

log = logging.getLogger(__name__)

CALIBRATIONS = ("none", "temperature", "temperature_per_class")
_COLUMNS = ("label", "class_probabilities")


class Decisions:
    """Decides by validation rows, once it has them: see `validation`.

    Args:
        class_names: Names of the K classes.
        calibration: Of `CALIBRATIONS`: which probabilities count. None is `none`.
        class_groups: Names of groups and of the classes in them.
        operating_points: Class or group to `sensitivity` or `specificity` to one or several wanted values.

    Attributes:
        validation: What `kept` returned; {} where nothing is known.

    Raises:
        UserError: A name is unknown, or a value not allowed.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        calibration: str | None,
        class_groups: Mapping[str, Sequence[str]] | None,
        operating_points: Mapping[str, Mapping[str, Any]] | None,
    ) -> None:
        self.class_names = list(class_names)
        self.calibration = choose("calibration", calibration or "none", CALIBRATIONS)
        self.groups = _groups(self.class_names, class_groups or {})
        self.points = _points(self.groups, operating_points or {})
        self.validation: Rows = {}

    @property
    def undecided(self) -> str:
        """Return what was asked for and needs validation rows, as key=value; "" when there are some."""
        if self.validation:
            return ""
        if self.calibration != "none":
            return f"calibration={self.calibration}"
        return "task.operating_points" if self.points else ""

    def kept(self, rows: Rows) -> Rows:
        """Return what must be known of validation rows: labels, class probabilities, histogram of pixels."""
        kept = {name: rows[name] for name in _COLUMNS if name in rows}
        if "pixel_histogram" in rows:
            kept["pixel_histogram"] = rows["pixel_histogram"].sum(axis=0)
        return kept

    def decided(self, rows: Rows) -> Rows:
        """Return the rows of a test, calibrated as was asked for, with a column per operating point."""
        if not self.validation:
            return rows
        rows = dict(rows)
        if self.calibration != "none":
            rows = self._calibrated(rows)
        if "class_probabilities" in rows:
            for point, threshold in self.thresholds.items():
                scores = group_scores(rows["class_probabilities"], point.classes)
                rows[point.column] = called(scores, group_truth(rows["label"], point.classes), threshold)
        return rows

    def temperature_of(self, kind: str) -> float | np.ndarray | None:
        """Return the temperature of class probabilities, one or (K,), of a kind of calibration.

        Returns:
            None where probabilities stay as they are.

        Raises:
            UserError: Nothing is known of validation samples.
        """
        if choose("calibration", kind, CALIBRATIONS) == "none":
            return None
        if not self.validation:
            raise UserError(
                f"calibration={kind} needs what the run's validation samples said, of which this checkpoint "
                f"knows nothing: run polymask test with calibration={kind} once, which adds it."
            )
        return self.temperatures.get(kind)

    @cached_property
    def temperatures(self) -> dict[str, float | np.ndarray]:
        """Temperature, one or (K,), of each kind of calibration; {} without classes."""
        if "class_probabilities" not in self.validation:
            return {}
        samples = self.validation["label"], self.validation["class_probabilities"]
        counts = np.bincount(samples[0][samples[0] >= 0].astype(int), minlength=len(self.class_names))
        absent = [name for name, count in zip(self.class_names, counts, strict=True) if not count]
        if len(absent) == len(counts):
            if self.calibration != "none":
                log.warning("no validation sample has a known class: class probabilities stay uncalibrated.")
            return {}
        found: dict[str, float | np.ndarray] = {
            "temperature": fit_temperature(*samples),
            "temperature_per_class": fit_temperature_per_class(*samples),
        }
        if absent and self.calibration == "temperature_per_class":
            log.warning(
                "the validation samples have no %s: the temperature of all stands in.", ", ".join(absent)
            )
        if self.calibration != "none" and at_bound(found[self.calibration]):
            log.warning("%s is at its bound: too few validation samples are wrong to tell.", self.calibration)
        return found

    @cached_property
    def mask_temperature(self) -> float | None:
        """Temperature of the pixels of masks; None where validation samples have none."""
        if "pixel_histogram" not in self.validation:
            return None
        temperature = fit_pixel_temperature(self.validation["pixel_histogram"])
        return None if np.isnan(temperature) else temperature

    @cached_property
    def thresholds(self) -> dict[OperatingPoint, float]:
        """Threshold of each operating point, on the probabilities that count; NaN if unknown."""
        if "class_probabilities" not in self.validation:
            return {}
        scores, labels = self.validation_scores, self.validation["label"]
        found = {
            point: threshold_for(
                group_scores(scores, point.classes),
                group_truth(labels, point.classes),
                point.kind,
                point.wanted,
            )
            for point in self.points
        }
        lacking = sorted({point.of for point, threshold in found.items() if np.isnan(threshold)})
        if lacking:
            log.warning(
                "the validation samples have no %s, or nothing else: it has no threshold.", ", ".join(lacking)
            )
        return found

    @property
    def validation_scores(self) -> np.ndarray:
        """Class probabilities (N, K) of the validation samples, calibrated where these count."""
        probabilities = self.validation["class_probabilities"]
        return calibrated_classes(probabilities, self.temperatures.get(self.calibration))

    def _calibrated(self, rows: Rows) -> Rows:
        new: Rows = {}
        if "class_probabilities" in rows:
            temperature = self.temperature_of(self.calibration)
            new["class_probabilities"] = calibrated_classes(rows["class_probabilities"], temperature)
        if "pixel_histogram" in rows and self.mask_temperature is not None:
            new["pixel_histogram"], new["pixel_squared_error"] = tempered_histogram(
                rows["pixel_histogram"], self.mask_temperature
            )
        return rows | {f"{name}{RAW}": rows[name] for name in new} | new


def raw(rows: Rows, name: str) -> np.ndarray:
    """Return a column as the network predicted it, whether or not `decided` has calibrated it."""
    return rows.get(f"{name}{RAW}", rows[name])


def calibrated_classes(probabilities: np.ndarray, temperature: float | np.ndarray | None) -> np.ndarray:
    """Return (N, K) class probabilities at a temperature, as they are for None."""
    if temperature is None:
        return probabilities
    return tempered(torch.from_numpy(probabilities), temperature).numpy()


def _groups(class_names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, ...]]:
    """Return the class indices of each group, and of each class by its own name."""
    found: dict[str, tuple[int, ...]] = {name: (index,) for index, name in enumerate(class_names)}
    if not isinstance(groups, Mapping):
        raise UserError(
            f"task.class_groups={groups!r} is not valid; give names of groups with their classes, such as "
            f"{{group: [{', '.join(class_names[:2])}]}}."
        )
    for group, names in groups.items():
        if group in class_names:
            raise UserError(f"task.class_groups.{group} is the name of a class; name the group otherwise.")
        if not isinstance(names, Sequence) or isinstance(names, str) or not names:
            raise UserError(
                f"task.class_groups.{group}={names!r} is no list of classes; give some of "
                f"{', '.join(class_names)}, such as [{', '.join(class_names[:2])}]."
            )
        chosen = [choose(f"task.class_groups.{group}", str(name), class_names) for name in names]
        found[str(group)] = tuple(class_names.index(name) for name in dict.fromkeys(chosen))
    return found


def _points(
    groups: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Mapping[str, Any]]
) -> list[OperatingPoint]:
    points = []
    if not isinstance(wanted, Mapping):
        raise UserError(
            f"task.operating_points={wanted!r} is not valid; give a class or group with what is wanted, such "
            "as {MEL: {sensitivity: 0.95}}."
        )
    if wanted and not groups:
        raise UserError("task.operating_points is of no use to a run that predicts no classes; leave it out.")
    for of, kinds in wanted.items():
        key = f"task.operating_points.{of}"
        if of not in groups:
            raise UserError(
                f"{key}: {of!r} is neither a class nor one of task.class_groups.{nearest(of, groups)} "
                f"{listed(of, groups)}"
            )
        if not isinstance(kinds, Mapping):
            raise UserError(
                f"{key}={kinds!r} is not valid; give {{sensitivity: 0.95}} or {{specificity: 0.9}}."
            )
        for kind, values in kinds.items():
            choose(key, str(kind), KINDS)
            for value in values if isinstance(values, Sequence) and not isinstance(values, str) else [values]:
                share = number(f"{key}.{kind}", value, above=0, most=1, what="a share")
                points.append(OperatingPoint(str(of), groups[of], str(kind), float(share)))
    return points
