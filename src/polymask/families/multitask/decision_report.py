"""The part of a test report that helps to decide: calibration before and after, and operating points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from polymask.families.multitask.decisions import Decisions, calibrated_classes, raw
from polymask.metrics.bootstrap import bootstrap_weights, percentile_interval
from polymask.metrics.calibration import (
    Bins,
    calibration_metrics,
    equal_width_bins,
    log_loss,
    per_class_calibration,
    predicted_class,
    risk_coverage,
)
from polymask.metrics.operating_points import (
    MEASURES,
    called,
    exact_intervals,
    group_scores,
    group_truth,
    net_benefit,
    rates,
)
from polymask.metrics.pixel_calibration import pixel_bins, pixel_calibration, tempered_histogram
from polymask.reporting.decision_figures import (
    DecisionCurve,
    Reliability,
    band,
    plot_decision_curves,
    plot_reliability,
    plot_risk_coverage,
    reliability,
)
from polymask.reporting.metrics_file import Measured
from polymask.structures.samples import Rows
from polymask.utils.files import write_text

_REPLICATES = 1000
_ALL, _PIXELS = "all classes", "lesion pixels"
_GRID = np.linspace(0.01, 0.99, 99)
CALIBRATION_MEASURES = ("ece", "ece_equal_mass", "brier", "log_loss")


class DecisionReport:
    """Writes `calibration.csv`, `operating_points.csv` and their figures into the folder of a test report.

    Args:
        folder: Where to write.
        class_names: Names of the K classes.
        choices: What validation samples decided.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], choices: Decisions) -> None:
        self.folder, self.class_names, self.choices = folder, list(class_names), choices

    def write(self, rows: Rows, groups: Sequence[str], measured: Measured) -> None:
        """Write all that the rows have something to say of.

        Args:
            rows: Those of the test, decided.
            groups: (N,) group of each sample.
            measured: Their metrics with intervals.
        """
        weights = bootstrap_weights(groups, _REPLICATES, seed=0)
        table: list[dict[str, Any]] = []
        if "class_probabilities" in rows and (rows["label"] >= 0).any():
            table += self._calibration_of_classes(rows, weights)
            self._risk_coverage(rows, weights, measured)
            self._operating_points(rows, weights, measured)
        if "pixel_histogram" in rows and rows["pixel_histogram"].any():
            table += self._calibration_of_pixels(rows, weights)
        if table:
            self._write_table(table, "calibration.csv")

    def _calibration_of_classes(self, rows: Rows, weights: np.ndarray) -> list[dict[str, Any]]:
        """Plot reliability diagrams; return lines for the classes and each of them."""
        labels, predicted = rows["label"], raw(rows, "class_probabilities")
        temperatures = self.choices.temperatures
        after = self.choices.calibration if self.choices.calibration in temperatures else "temperature"
        lines, panels = [], dict[str, list[Reliability]]()
        for kind, temperature in {"none": None, **temperatures}.items():
            probabilities = calibrated_classes(predicted, temperature)
            value, replicates = (self._measures(labels, probabilities, of) for of in (None, weights))
            for place, of in enumerate((_ALL, *self.class_names)):
                one_each = place > 0 and isinstance(temperature, np.ndarray) and temperature.ndim > 0
                shown = temperature[place - 1] if one_each else temperature  # type: ignore[index]
                lines.append(_line(of, kind, shown, value[of], replicates[of]))
            if kind in ("none", after):
                for of, bins in self._bins(labels, probabilities, weights).items():
                    label = "as predicted" if kind == "none" else kind.replace("_", " ")
                    panels.setdefault(of, []).append(reliability(label, *bins))
        plot_reliability(panels, self.folder / "calibration.png", "Reliability of class probabilities")
        return lines

    def _measures(
        self, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None
    ) -> dict[str, dict[str, np.ndarray]]:
        """Return the measures of all classes and of each."""
        names = self.class_names
        values = {
            **calibration_metrics(labels, probabilities, weights),
            **log_loss(labels, probabilities, weights),
            **per_class_calibration(labels, probabilities, names, weights),
        }
        found = {_ALL: {name: values[name] for name in CALIBRATION_MEASURES}}
        return found | {of: {name: values[f"{name}_{of}"] for name in ("ece", "brier")} for of in names}

    def _bins(
        self, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
    ) -> dict[str, tuple[Bins, Bins]]:
        """Return bins and their replicates of the predicted class and of each class that occurs."""
        confidence, correct, weights = predicted_class(labels, probabilities, weights)
        known, ones = labels >= 0, np.ones((1, len(confidence)))
        events = {_ALL: (confidence, correct)}
        for index, name in enumerate(self.class_names):
            if (labels == index).any():
                events[name] = probabilities[known, index], labels[known] == index
        return {
            of: (equal_width_bins(*event, ones), equal_width_bins(*event, weights))
            for of, event in events.items()
        }

    def _calibration_of_pixels(self, rows: Rows, weights: np.ndarray) -> list[dict[str, Any]]:
        """Plot the reliability of the mask's probabilities; return its lines."""
        kinds: dict[str, tuple[float | None, np.ndarray, np.ndarray]] = {}
        kinds["none"] = None, raw(rows, "pixel_histogram"), raw(rows, "pixel_squared_error")
        temperature = self.choices.mask_temperature
        if temperature is not None:
            kinds["temperature"] = temperature, *tempered_histogram(raw(rows, "pixel_histogram"), temperature)
        lines, curves = [], []
        for kind, (shown, histogram, squares) in kinds.items():
            values, replicates = (_of_pixels(histogram, squares, of) for of in (None, weights))
            lines.append(_line(_PIXELS, kind, shown, values, replicates))
            label = "as predicted" if kind == "none" else kind
            bins = (pixel_bins(histogram, of) for of in (np.ones((1, len(histogram))), weights))
            curves.append(reliability(label, *bins))
        path = self.folder / "calibration_pixels.png"
        plot_reliability({_PIXELS: curves}, path, "Reliability of pixels")
        return lines

    def _risk_coverage(self, rows: Rows, weights: np.ndarray, measured: Measured) -> None:
        samples = rows["label"], rows["class_probabilities"]
        grid = np.linspace(0.02, 1, 99)
        coverage, risk = risk_coverage(*predicted_class(*samples))
        drawn = risk_coverage(*predicted_class(*samples, weights))
        replicates = [np.interp(grid, *curve) for curve in zip(*drawn, strict=True)]
        plot_risk_coverage(
            grid,
            band(np.interp(grid, coverage[0], risk[0]), np.array(replicates)),
            measured.values["aurc"],
            self.folder / "risk_coverage.png",
        )

    def _operating_points(self, rows: Rows, weights: np.ndarray, measured: Measured) -> None:
        choices, probabilities, curves = self.choices, rows["class_probabilities"], {}
        table = []
        for point, threshold in choices.thresholds.items():
            truth = group_truth(choices.validation["label"], point.classes)
            scores = group_scores(choices.validation_scores, point.classes)
            seen = rates(called(scores, truth, threshold))
            positive = rows[point.column][:, 1]
            table.append(
                {
                    "of": point.of,
                    "classes": " ".join(self.class_names[index] for index in point.classes),
                    "wanted": f"{point.kind} {point.wanted:g}",
                    "calibration": choices.calibration,
                    "threshold": threshold,
                    "num_positive": int((positive == 1).sum()),
                    "num_negative": int((positive == 0).sum()),
                    **{f"val_{name}": float(seen[name][0]) for name in ("sensitivity", "specificity")},
                    **_columns(measured, point.key),
                    **_exact_columns(rows[point.column]),
                }
            )
            curves[point.of] = _decision_curve(
                group_scores(probabilities, point.classes), group_truth(rows["label"], point.classes), weights
            )
        if table:
            self._write_table(table, "operating_points.csv")
            plot_decision_curves(curves, self.folder / "decision_curves.png")

    def _write_table(self, lines: Sequence[Mapping[str, Any]], name: str) -> None:
        text = pd.DataFrame(list(lines)).to_csv(index=False, float_format="%.6g")
        write_text(self.folder / name, text)


def _decision_curve(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> DecisionCurve:
    benefit, everybody = net_benefit(scores, truth, _GRID)
    drawn, _ = net_benefit(scores, truth, _GRID, weights)
    return DecisionCurve(_GRID, band(benefit[0], drawn), everybody[0])


def _line(
    of: str,
    kind: str,
    temperature: float | np.ndarray | None,
    values: Mapping[str, np.ndarray],
    replicates: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    line: dict[str, Any] = {"of": of, "calibration": kind}
    several = isinstance(temperature, np.ndarray) and temperature.ndim > 0  # each has its own line
    line["temperature"] = None if several else temperature
    for name in CALIBRATION_MEASURES:
        low, high = percentile_interval(replicates[name]) if name in values else (None, None)
        line |= {name: float(values[name][0]) if name in values else None}
        line |= {f"{name}_low": low, f"{name}_high": high}
    return line


def _columns(measured: Measured, key: str) -> dict[str, float]:
    columns: dict[str, float] = {}
    for measure in MEASURES:
        name = f"{measure}_{key}"
        low, high = measured.intervals[name]
        columns |= {measure: measured.values[name], f"{measure}_low": low, f"{measure}_high": high}
    return columns


def _exact_columns(decisions: np.ndarray) -> dict[str, float]:
    columns: dict[str, float] = {}
    values = rates(decisions)
    for kind, (low, high) in exact_intervals(decisions).items():
        name = f"{kind}_exact"  # with its value once more, so that a page shows the three as one
        columns |= {name: float(values[kind][0]), f"{name}_low": low, f"{name}_high": high}
    return columns


def _of_pixels(
    histogram: np.ndarray, squares: np.ndarray, weights: np.ndarray | None
) -> dict[str, np.ndarray]:
    values = pixel_calibration(histogram, squares, weights, "x")
    return {"ece": values["ece_x_pooled"], "brier": values["brier_x_pooled"]}
