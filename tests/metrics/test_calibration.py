"""Calibration against torchmetrics and scikit-learn, and by hand; temperatures against scipy on logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.metrics import brier_score_loss
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from polymask.errors import UserError
from polymask.metrics.calibration import (
    calibration_error,
    calibration_metrics,
    equal_mass_bins,
    log_loss,
    per_class_calibration,
    risk_coverage,
)
from polymask.metrics.pixel_calibration import (
    fit_pixel_temperature,
    pixel_calibration,
    pixel_rows,
    tempered_histogram,
)
from polymask.metrics.temperature import (
    at_bound,
    fit_temperature,
    fit_temperature_per_class,
    tempered,
    tempered_binary,
)

NAMES = ["a", "b", "c", "d"]
ONE = np.ones((1, 1))


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return 3 * np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def labels(logits: np.ndarray) -> np.ndarray:
    """Classes that come as often as a temperature of 2.5 says."""
    random, truth = np.random.default_rng(1), torch.from_numpy(logits / 2.5).softmax(1).numpy()
    return np.array([random.choice(4, p=row / row.sum()) for row in truth.astype(np.float64)])


@pytest.fixture(scope="module")
def probabilities(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).softmax(1).numpy()


def test_errors_are_those_of_torchmetrics_and_scikit_learn(
    labels: np.ndarray, probabilities: np.ndarray
) -> None:
    found = calibration_metrics(labels, probabilities) | per_class_calibration(labels, probabilities, NAMES)
    predictions, truth = torch.from_numpy(probabilities), torch.from_numpy(labels)
    assert found["ece"] == pytest.approx(float(multiclass_calibration_error(predictions, truth, 4, 15)))
    squares = 0.0
    for index, name in enumerate(NAMES):
        own = predictions[:, index].contiguous(), (truth == index).long()
        assert found[f"ece_{name}"] == pytest.approx(float(binary_calibration_error(*own, 15)))
        brier = brier_score_loss(labels == index, probabilities[:, index])
        assert found[f"brier_{name}"] == pytest.approx(brier)
        squares += brier
    assert found["brier"] == pytest.approx(squares)
    assert log_loss(labels, probabilities)["log_loss"] == pytest.approx(
        float(cross_entropy(predictions.log(), truth)), rel=1e-5
    )


def test_certainty_has_a_bin_of_its_own_as_in_torchmetrics() -> None:
    values, truth = np.array([1.0, 1.0, 0.96, 0.95], np.float32), np.array([1, 0, 1, 1])
    probabilities = np.stack([1 - values, values], axis=1)
    expected = multiclass_calibration_error(torch.from_numpy(probabilities), torch.from_numpy(truth), 2, 15)
    assert calibration_metrics(truth, probabilities)["ece"] == pytest.approx(float(expected))


def test_bins_of_equal_mass_by_hand() -> None:
    confidence = np.array([0.9, 0.1, 0.6, 0.5, 0.2, 0.8])
    events = np.array([True, False, False, True, True, True])
    bins = equal_mass_bins(confidence, events, np.ones((1, 6)), num_bins=3)
    np.testing.assert_allclose(bins.weight, [[2, 2, 2]])
    np.testing.assert_allclose(bins.confidence, [[0.3, 1.1, 1.7]])
    np.testing.assert_allclose(bins.events, [[1, 1, 2]])
    assert calibration_error(bins) == pytest.approx((0.7 + 0.1 + 0.3) / 6)
    # Of five, a bin of a half holds two and a half: the middle one is in both.
    bins = equal_mass_bins(confidence[:5], events[:5], np.ones((1, 5)), num_bins=2)
    np.testing.assert_allclose(bins.confidence, [[0.1 + 0.2 + 0.25, 0.25 + 0.6 + 0.9]])
    np.testing.assert_allclose(bins.events, [[0 + 1 + 0.5, 0.5 + 0 + 1]])


def test_a_weight_counts_a_sample_so_many_times(labels: np.ndarray, probabilities: np.ndarray) -> None:
    weights = np.random.default_rng(2).integers(0, 4, size=(3, 300)).astype(float)
    probabilities = probabilities.round(2)  # with ties
    weighted = per_class_calibration(labels, probabilities, NAMES, weights)
    weighted |= calibration_metrics(labels, probabilities, weights)
    for replicate, counts in enumerate(weights.astype(int)):
        drawn = labels.repeat(counts), probabilities.repeat(counts, axis=0)
        repeated = per_class_calibration(*drawn, NAMES) | calibration_metrics(*drawn)
        for name, values in repeated.items():
            assert weighted[name][replicate] == pytest.approx(values[0]), name


def test_risk_and_coverage_by_hand() -> None:
    confidence, correct = np.array([0.5, 0.9, 0.7, 0.7]), np.array([False, True, True, False])
    coverage, risk = risk_coverage(confidence, correct, np.ones((1, 4)))
    np.testing.assert_allclose(coverage, [[0.25, 0.75, 1]])
    np.testing.assert_allclose(risk, [[0, 1 / 3, 0.5]])


def test_samples_of_unknown_class_and_no_samples_at_all(
    labels: np.ndarray, probabilities: np.ndarray
) -> None:
    some = np.where(np.arange(300) < 40, labels, -1)
    assert calibration_metrics(some, probabilities)["ece"] == pytest.approx(
        calibration_metrics(labels[:40], probabilities[:40])["ece"]
    )
    nothing = np.full(300, -1)
    found = per_class_calibration(nothing, probabilities, NAMES) | calibration_metrics(nothing, probabilities)
    assert all(np.isnan(values).all() for values in found.values())
    assert np.isnan(fit_temperature(nothing, probabilities))
    assert np.isnan(fit_temperature_per_class(nothing, probabilities)).all()
    with pytest.raises(UserError, match="same key"):
        per_class_calibration(labels, probabilities, ["a", "b", "c", "equal_mass"])


def test_the_temperature_is_what_scipy_finds_on_logits(
    labels: np.ndarray, logits: np.ndarray, probabilities: np.ndarray
) -> None:
    truth = torch.from_numpy(labels)

    def loss(temperature: np.ndarray) -> float:
        return float(cross_entropy(torch.from_numpy(logits).double() / float(temperature[0]), truth))

    expected = minimize(loss, [1.0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12}).x[0]
    temperature = fit_temperature(labels, probabilities)
    assert temperature == pytest.approx(expected, rel=1e-3)
    assert temperature == pytest.approx(2.5, rel=0.15)  # what the labels were drawn with
    calibrated = tempered(torch.from_numpy(probabilities), temperature).numpy()
    np.testing.assert_allclose(calibrated, torch.from_numpy(logits / temperature).softmax(1), atol=1e-5)
    assert (calibrated.argmax(1) == probabilities.argmax(1)).all()
    before, after = (calibration_metrics(labels, p)["ece"] for p in (probabilities, calibrated))
    assert after < before / 3


def test_a_temperature_per_class_is_what_scipy_finds_without_gradients(
    labels: np.ndarray, probabilities: np.ndarray
) -> None:
    log_p, truth = torch.from_numpy(probabilities).double().log(), torch.from_numpy(labels)

    def loss(scale: np.ndarray) -> float:
        return float(cross_entropy(log_p * torch.from_numpy(scale), truth))

    options = {"xatol": 1e-5, "fatol": 1e-10, "maxiter": 4000, "maxfev": 4000}
    expected = 1 / minimize(loss, np.full(4, 0.5), method="Nelder-Mead", options=options).x
    np.testing.assert_allclose(fit_temperature_per_class(labels, probabilities), expected, rtol=0.01)


def test_a_class_that_validation_lacks_gets_the_temperature_of_all(
    labels: np.ndarray, probabilities: np.ndarray
) -> None:
    without = np.where(labels == 3, -1, labels)
    found = fit_temperature_per_class(without, probabilities)
    assert found[3] == pytest.approx(fit_temperature(without, probabilities))
    assert not at_bound(found)


def test_where_all_are_right_the_temperature_is_at_its_bound(probabilities: np.ndarray) -> None:
    temperature = fit_temperature(probabilities.argmax(axis=1), probabilities)
    assert temperature < 0.06
    assert at_bound(temperature)


@pytest.fixture(scope="module")
def pixels() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    probabilities = (4 * torch.randn((3, 24, 32), generator=random)).sigmoid()
    truth = (torch.rand((3, 24, 32), generator=random) < tempered_binary(probabilities, 2.0)).long()
    truth[0, :5] = 255
    probabilities[1, 0] = torch.tensor([0.0, 1.0]).repeat(16)
    return probabilities, 3 * truth.clamp(max=1) * (truth != 255) + 255 * (truth == 255)


def test_pixels_of_histograms_are_those_of_torchmetrics(pixels: tuple[torch.Tensor, torch.Tensor]) -> None:
    probabilities, target = pixels
    rows = {name: values.numpy() for name, values in pixel_rows(probabilities, target).items()}
    weights = np.array([[1.0, 1, 1], [0, 2, 1]])
    found = pixel_calibration(rows["pixel_histogram"], rows["pixel_squared_error"], weights, "x")
    for replicate, chosen in enumerate(([0, 1, 2], [1, 1, 2])):
        valid = target[chosen] != 255
        values, truth = probabilities[chosen][valid], (target[chosen] != 0)[valid].long()
        expected = float(binary_calibration_error(values, truth, 15))
        # Pixels of exactly 1 have a bin of their own in torchmetrics.
        assert found["ece_x_pooled"][replicate] == pytest.approx(expected, abs=2e-3)
        brier = brier_score_loss(truth.numpy(), values.numpy())
        assert found["brier_x_pooled"][replicate] == pytest.approx(brier, rel=1e-5)
    assert rows["pixel_histogram"][0, :, 0].sum() == 19 * 32


def test_the_temperature_of_pixels_is_nearly_that_of_the_pixels_themselves(
    pixels: tuple[torch.Tensor, torch.Tensor],
) -> None:
    probabilities, target = pixels[0][2], pixels[1][2]
    histogram = pixel_rows(probabilities[None], target[None])["pixel_histogram"].numpy()
    flat = torch.stack([1 - probabilities.flatten(), probabilities.flatten()], dim=1).numpy()
    exact = fit_temperature((target.flatten() != 0).long().numpy(), flat)
    temperature = fit_pixel_temperature(histogram[0])
    assert temperature == pytest.approx(exact, rel=0.02)
    found, squares = tempered_histogram(histogram, temperature)
    after = tempered_binary(probabilities, temperature)
    expected = binary_calibration_error(after.flatten(), (target.flatten() != 0).long(), 15)
    values = pixel_calibration(found, squares, None, "x")
    assert values["ece_x_pooled"] == pytest.approx(float(expected), abs=0.01)
    brier = brier_score_loss((target != 0).flatten().numpy(), after.flatten().numpy())
    assert values["brier_x_pooled"] == pytest.approx(brier, abs=2e-3)
    assert np.isnan(fit_pixel_temperature(np.zeros_like(histogram[0])))
