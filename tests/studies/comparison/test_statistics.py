from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from polymask.errors import UserError
from polymask.metrics.classification import classification_metrics
from polymask.metrics.segmentation import pixel_accuracy, segmentation_metrics
from polymask.studies.comparison.statistics import (
    MetricComparison,
    Rows,
    compare_samples,
    swaps_are_exhaustive,
)

SETTINGS = {"num_replicates": 200, "num_permutations": 200, "seed": 0}


def mean_metric(rows: Rows, weights: np.ndarray | None) -> dict[str, np.ndarray]:
    weights = np.ones((1, len(rows["ids"]))) if weights is None else weights
    return {"mean": weights @ rows["score"] / weights.sum(axis=1)}


def rows_of(score: Sequence[float], **more: np.ndarray) -> Rows:
    return {"ids": np.array([f"s{i:04d}" for i in range(len(score))]), "score": np.array(score), **more}


def compare(a: Rows, b: Rows, groups: Sequence[str] | None = None, **options: int) -> MetricComparison:
    (found,) = compare_samples(mean_metric, a, b, groups or a["ids"].tolist(), **(SETTINGS | options))
    return found


def task_metrics(rows: Rows, weights: np.ndarray | None) -> dict[str, np.ndarray]:
    """All metrics of a multi-task run with several classes of pixels."""
    confusion = rows["confusion"]
    return {
        **segmentation_metrics(confusion, weights, ["x", "y", "z"], rows["lesion_confusion"]),
        **pixel_accuracy(confusion, weights),
        **classification_metrics(rows["label"], rows["class_probabilities"], weights),
    }


def task_rows(num_samples: int, seed: int, *, quality: float = 1.0) -> Rows:
    """Rows with all that may be missing: unknown labels, no masks, absent classes, ties."""
    truth, own = np.random.default_rng(0), np.random.default_rng(seed)
    label = truth.integers(-1, 3, num_samples)
    confusion = own.integers(0, 60, (num_samples, 4, 3))
    confusion[truth.random(num_samples) < 0.2] = 0
    confusion[truth.random(num_samples) < 0.5, 2] = 0
    probabilities = own.dirichlet(np.ones(3), num_samples) + quality * np.eye(4)[label][:, :3]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return {
        "ids": np.array([f"s{i:03d}" for i in range(num_samples)]),
        "label": label,
        "class_probabilities": probabilities.round(2),
        "confusion": confusion,
        "lesion_confusion": confusion[:, 1:].sum(axis=1),
    }


def test_p_value_of_a_case_done_by_hand() -> None:
    # Sums of +-1 +-2 +-4: 7 only for the observed signs and their opposites, 2 of 8.
    found = compare(rows_of([0.0, 0.0, 0.0]), rows_of([0.1, 0.2, 0.4]))
    assert found.p_value == pytest.approx(2 / 8)
    assert (found.value_a, found.value_b) == pytest.approx((0, 0.7 / 3))
    # 1 + 2 - 4 = -1: of 7, 5, 3, 1 and their opposites all are at least as large.
    assert compare(rows_of([0.0, 0.0, 0.4]), rows_of([0.1, 0.2, 0.0])).p_value == 1
    # -1 + 2 + 4 = 5: of 7, 5, 3, 1 two are.
    assert compare(rows_of([0.1, 0.0, 0.0]), rows_of([0.0, 0.2, 0.4])).p_value == pytest.approx(1 / 2)


def test_all_swaps_give_the_p_value_of_scipy() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(7), rng.random(7) + 0.2
    expected = stats.permutation_test(
        (a, b), lambda x, y, axis: (y - x).mean(axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    assert compare(rows_of(a), rows_of(b)).p_value == pytest.approx(expected.pvalue)


def test_drawn_swaps_give_nearly_the_p_value_of_all() -> None:
    rng = np.random.default_rng(2)
    a = rng.random(13)
    rows_a, rows_b = rows_of(a), rows_of(a + rng.normal(0.05, 0.1, 13))
    exact = compare(rows_a, rows_b, num_permutations=2**12).p_value
    drawn = [compare(rows_a, rows_b, num_permutations=2**12 - 1, seed=seed).p_value for seed in range(4)]
    assert 0.01 < exact < 0.5
    assert len(set(drawn)) > 1
    np.testing.assert_allclose(drawn, exact, atol=4 * np.sqrt(exact / 4095))


def test_interval_is_that_of_scipys_paired_bootstrap() -> None:
    rng = np.random.default_rng(3)
    a = rng.random(60)
    b = a + rng.normal(0.1, 0.2, 60)
    found = compare(rows_of(a), rows_of(b), num_replicates=20_000)
    expected = stats.bootstrap(
        (a, b),
        lambda x, y, axis: (y - x).mean(axis=axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.003)
    assert found.low < found.difference < found.high
    # Pairing matters: of two independent draws the interval would be several times as wide.
    assert found.high - found.low < 0.5 * 4 * np.sqrt((a.var() + b.var()) / 60)


def test_groups_are_drawn_and_swapped_as_a_whole() -> None:
    rng = np.random.default_rng(4)
    groups = [f"g{i // 5}" for i in range(30)]
    a = rng.random(30)
    b = a + np.repeat(rng.normal(0.1, 0.2, 6), 5)
    found = compare(rows_of(a), rows_of(b), groups, num_replicates=4000)
    differences = (b - a).reshape(6, 5).mean(axis=1)
    every = [abs(np.dot(signs, differences)) for signs in product([1, -1], repeat=6)]
    assert found.p_value == pytest.approx(np.mean(np.array(every) >= abs(differences.sum()) - 1e-12))
    means = differences[np.random.default_rng(9).integers(6, size=(4000, 6))].mean(axis=1)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)
    single = compare(rows_of(a), rows_of(b), num_replicates=4000)
    assert single.high - single.low < 0.7 * (found.high - found.low)


def test_equal_runs_do_not_differ() -> None:
    rows = task_rows(40, seed=1)
    results = compare_samples(task_metrics, rows, rows, rows["ids"].tolist(), **SETTINGS)
    assert [result.name for result in results] == list(task_metrics(rows, None))
    for result in results:
        assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1), result.name


def test_a_clearly_better_run_gets_the_least_p_value() -> None:
    rng = np.random.default_rng(5)
    a = rng.random(50)
    found = compare(rows_of(a), rows_of(a + 0.5 + 0.1 * rng.random(50)), num_permutations=999)
    assert found.p_value == 1 / 1000
    assert 0.5 <= found.low <= found.high <= 0.6
    worse = compare(rows_of(a + 0.5), rows_of(a), num_permutations=999)
    assert worse.p_value == 1 / 1000
    assert worse.high < 0


@pytest.mark.parametrize("num_permutations", [64, 63], ids=["all", "drawn"])
def test_runs_without_any_true_difference_get_evenly_spread_p_values(num_permutations: int) -> None:
    rng = np.random.default_rng(6)
    p_values = []
    for seed in range(150):
        a, b = rng.random((2, 7))
        options = {"num_permutations": num_permutations, "num_replicates": 1, "seed": seed}
        p_values.append(compare(rows_of(a), rows_of(b), **options).p_value)
    for level in (0.1, 0.3, 0.5):
        assert np.mean(np.array(p_values) <= level) == pytest.approx(level, abs=0.1)


def test_swaps_as_weights_equal_swapped_rows_for_every_metric() -> None:
    rows_a, rows_b = task_rows(6, seed=1, quality=0.5), task_rows(6, seed=2, quality=2)
    groups = ["p", "q", "q", "r", "r", "s"]
    results = compare_samples(task_metrics, rows_a, rows_b, groups, **SETTINGS)
    every: dict[str, list[float]] = {result.name: [] for result in results}
    for choice in product([False, True], repeat=4):
        swapped = np.array([dict(zip("pqrs", choice, strict=True))[group] for group in groups])
        taken = [
            {
                name: np.array([two[name][i] if s else one[name][i] for i, s in enumerate(swapped)])
                for name in one
            }
            for one, two in ((rows_a, rows_b), (rows_b, rows_a))
        ]
        own, other = (task_metrics(rows, None) for rows in taken)
        for name, values in every.items():
            values.append(other[name][0] - own[name][0])
    assert len(results) > 20
    for result in results:
        differences = np.abs(np.array(every[result.name]))
        defined = differences[~np.isnan(differences)]
        assert result.difference == pytest.approx(every[result.name][0], nan_ok=True)
        expected = np.mean(defined >= abs(result.difference) - 1e-9)
        assert result.p_value == pytest.approx(
            np.nan if np.isnan(result.difference) else expected, nan_ok=True
        )


def test_auroc_of_two_runs_swapped_by_hand() -> None:
    rng = np.random.default_rng(7)
    labels = np.array([0, 1] * 4)
    scores = rng.random((2, 8)).round(1)
    rows = [
        {"ids": np.array(list("abcdefgh")), "label": labels, "p": np.stack([1 - s, s], axis=1)}
        for s in scores
    ]
    results = compare_samples(
        lambda r, w: classification_metrics(r["label"], r["p"], w), *rows, list("abcdefgh"), **SETTINGS
    )
    (found,) = (result for result in results if result.name == "auroc_macro")
    observed = roc_auc_score(labels, scores[1]) - roc_auc_score(labels, scores[0])
    assert found.difference == pytest.approx(observed)
    larger = 0
    for choice in product([False, True], repeat=8):
        one, two = np.where(choice, scores[::-1], scores)
        larger += abs(roc_auc_score(labels, two) - roc_auc_score(labels, one)) >= abs(observed) - 1e-12
    assert found.p_value == pytest.approx(larger / 256)


def test_undefined_metrics_have_no_interval_and_no_p_value() -> None:
    rows = {"ids": np.array(["a", "b"]), "label": np.array([0, 0]), "p": np.array([[0.9, 0.1], [0.2, 0.8]])}
    results = compare_samples(
        lambda r, w: classification_metrics(r["label"], r["p"], w), rows, rows, ["a", "b"], **SETTINGS
    )
    (auroc,) = (result for result in results if result.name == "auroc_macro")
    assert np.isnan([auroc.value_a, auroc.difference, auroc.low, auroc.high, auroc.p_value]).all()


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    a = rng.random(20)
    rows = rows_of(a), rows_of(a + rng.normal(0.05, 0.2, 20))
    whole = compare(*rows, num_replicates=3000, num_permutations=3000)
    groups = [*rows[0]["ids"].tolist()[:8], *["rest"] * 12]
    every = compare(*rows, groups, num_permutations=256)
    monkeypatch.setattr("polymask.studies.comparison.statistics._CHUNK_ELEMENTS", 20 * 100)
    again = compare(*rows, num_replicates=3000, num_permutations=3000)
    assert again.p_value == pytest.approx(whole.p_value, abs=0.03)
    assert (again.low, again.high) == pytest.approx((whole.low, whole.high), abs=0.01)
    assert compare(*rows, groups, num_permutations=256).p_value == every.p_value


def test_the_seed_decides() -> None:
    rng = np.random.default_rng(9)
    a = rng.random(40)
    rows = rows_of(a), rows_of(a + rng.normal(0.02, 0.2, 40))
    assert compare(*rows, seed=1) == compare(*rows, seed=1)
    assert compare(*rows, seed=1) != compare(*rows, seed=2)


def test_rows_that_only_one_run_has_do_not_matter() -> None:
    a, b = rows_of([0.1, 0.5, 0.3]), rows_of([0.2, 0.4, 0.9])
    more = {"loss_dice": np.zeros(3)}, {"loss_focal": np.ones((3, 2))}
    assert compare({**a, **more[0]}, {**b, **more[1]}) == compare(a, b)


def test_a_metric_of_one_run_only_is_left_out() -> None:
    a, b = rows_of([0.1, 0.5]), rows_of([0.2, 0.4], extra=np.zeros(2))

    def metrics(rows: Rows, weights: np.ndarray | None) -> dict[str, np.ndarray]:
        found = mean_metric(rows, weights)
        return found | {"more": found["mean"]} if "extra" in rows else found

    results = compare_samples(metrics, a, b, ["a", "b"], **SETTINGS)
    assert [result.name for result in results] == ["mean"]


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 1]])
def test_other_samples_are_refused(order: list[int]) -> None:
    rows = rows_of([0.1, 0.2, 0.3])
    other = {name: values[order] for name, values in rows.items()}
    with pytest.raises(ValueError, match="different samples or in another order"):
        compare(rows, other)


@pytest.mark.parametrize("key", ["num_replicates", "num_permutations"])
def test_numbers_out_of_range_are_refused(key: str) -> None:
    rows = rows_of([0.1, 0.2])
    with pytest.raises(UserError, match=f"{key}=0 is not valid"):
        compare(rows, rows, **{key: 0})


@pytest.mark.parametrize(("num_groups", "num_permutations"), [(1, 1), (3, 4), (12, 2048), (5, 100)])
def test_few_groups_are_swapped_in_all_ways(num_groups: int, num_permutations: int) -> None:
    assert swaps_are_exhaustive(num_groups, num_permutations)
    assert not swaps_are_exhaustive(num_groups + 8, num_permutations)
