from __future__ import annotations

import numpy as np
import pytest

from polymask.errors import UserError
from polymask.metrics.bootstrap import bootstrap_weights, percentile_interval
from polymask.metrics.classification import classification_metrics
from polymask.metrics.segmentation import segmentation_metrics

GROUPS = ["b", "a", "b", "c", "d", "c", "c", "e", "f"]


def test_weights_draw_whole_groups_as_many_as_there_are():
    weights = bootstrap_weights(GROUPS, num_replicates=200, seed=3)
    assert weights.shape == (200, len(GROUPS))
    assert weights.dtype == np.float64
    first_of_group = [GROUPS.index(name) for name in sorted(set(GROUPS))]
    for replicate in weights:
        assert len({(group, weight) for group, weight in zip(GROUPS, replicate, strict=True)}) == 6
        assert replicate[first_of_group].sum() == 6


def test_draws_are_multinomial():
    # The number of draws of one of G groups has mean 1 and variance 1 - 1/G.
    weights = bootstrap_weights(["a", "b", "c", "d"], num_replicates=40_000, seed=0)
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.02)
    np.testing.assert_allclose(weights.var(axis=0), 0.75, atol=0.02)


def test_draws_depend_on_seed_but_not_on_the_order_of_samples():
    order = np.random.default_rng(0).permutation(len(GROUPS))
    weights = bootstrap_weights(GROUPS, 50, seed=1)
    shuffled = bootstrap_weights([GROUPS[i] for i in order], 50, seed=1)
    np.testing.assert_array_equal(weights[:, order], shuffled)
    assert not np.array_equal(weights, bootstrap_weights(GROUPS, 50, seed=2))


def test_no_samples_give_no_weights():
    assert bootstrap_weights([], 5, seed=0).shape == (5, 0)


def test_replicates_equal_metrics_of_duplicated_rows():
    rng = np.random.default_rng(5)
    groups = [f"lesion_{i}" for i in rng.integers(0, 25, 40)]
    labels, probabilities = rng.integers(0, 3, 40), rng.dirichlet(np.ones(3), 40)
    counts = rng.integers(0, 50, (40, 2, 3))
    weights = bootstrap_weights(groups, 60, seed=11)
    metrics = classification_metrics(labels, probabilities, weights)
    metrics |= segmentation_metrics(counts, weights, ["lesion"])
    looped: dict[str, list[float]] = {name: [] for name in metrics}
    for replicate in weights:
        rows = [i for i, times in enumerate(replicate) for _ in range(int(times))]
        again = classification_metrics(labels[rows], probabilities[rows])
        again |= segmentation_metrics(counts[rows], None, ["lesion"])
        for name, value in again.items():
            looped[name].append(value.item())
    for name, values in metrics.items():
        np.testing.assert_allclose(values, looped[name], rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(
            percentile_interval(values), np.quantile(looped[name], [0.025, 0.975]), rtol=1e-12
        )


def test_interval_leaves_out_undefined_replicates():
    values = np.array([np.nan, *np.arange(101.0), np.nan])
    assert percentile_interval(values) == pytest.approx((2.5, 97.5))
    assert percentile_interval(values, level=0.5) == pytest.approx((25, 75))


def test_interval_of_nothing_is_nan():
    assert np.isnan(percentile_interval(np.full(4, np.nan))).all()
    assert np.isnan(percentile_interval(np.empty(0))).all()


@pytest.mark.parametrize("level", [0, 1, 95])
def test_bad_level_is_refused(level):
    with pytest.raises(UserError, match=rf"level={level} is not valid; give a share above 0 and below 1"):
        percentile_interval(np.arange(3.0), level)


def test_bad_number_of_replicates_is_refused():
    with pytest.raises(UserError, match="num_replicates=0"):
        bootstrap_weights(GROUPS, 0, seed=0)


@pytest.mark.parametrize("shape", [(4,), (2, 5)])
def test_weights_of_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(replicates, 4\)"):
        segmentation_metrics(np.zeros((4, 2, 3), np.int64), np.ones(shape), ["lesion"])
