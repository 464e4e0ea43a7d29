"""Subgroups against tests on their samples alone, against SciPy, and against tables made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import permutation_test
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from polymask.families.multitask.scorer import Scorer
from polymask.metrics.bootstrap import bootstrap_weights
from polymask.metrics.permutation import _permutations, holm, permutation_p_values
from polymask.metrics.subgroups import measure_subgroups, subgroups_of
from polymask.reporting.metrics_file import write_metrics

NAMES = ("balanced_accuracy", "auroc_macro")


def mean_score(rows: dict[str, np.ndarray], weights: np.ndarray | None) -> dict[str, np.ndarray]:
    weights = np.ones((1, len(rows["score"]))) if weights is None else weights
    total = weights.sum(axis=1)
    nothing = np.full(len(total), np.nan)
    return {"score": np.divide(weights @ rows["score"], total, out=nothing, where=total > 0)}


def mean_of(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (weights @ scores) / weights.sum(axis=1)


def scored(scores: list[float], **columns: list[str]) -> dict[str, np.ndarray]:
    ids = np.array([f"s{number:03}" for number in range(len(scores))])
    texts = {f"subgroup_{name}": np.array(values, dtype=str) for name, values in columns.items()}
    return {"ids": ids, "score": np.array(scores, dtype=float), **texts}


@pytest.fixture(scope="module")
def classified() -> tuple[dict[str, np.ndarray], list[str]]:
    """120 samples of 60 groups, their classes, probabilities, sex and age."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=120)
    probabilities = rng.dirichlet(np.ones(3), size=120)
    probabilities[np.arange(120), labels] += 0.2
    groups = [f"g{number // 2:02}" for number in range(120)]
    rows = {
        "ids": np.array([f"s{number:03}" for number in range(120)]),
        "label": labels,
        "class_probabilities": probabilities / probabilities.sum(axis=1, keepdims=True),
        "subgroup_sex": np.repeat(rng.choice(["female", "male", "unknown"], 60, p=[0.5, 0.4, 0.1]), 2),
        "subgroup_age": rng.choice(["<30", "30 to 49", ">=50"], 120),  # patients grow older
    }
    return rows, groups


def test_a_subgroup_is_what_a_test_on_its_samples_alone_gives(classified, tmp_path: Path) -> None:
    rows, groups = classified
    scorer = Scorer(["a", "b", "c"], multiclass=False)
    lines, _ = measure_subgroups(rows, groups, scorer.metrics, NAMES, smallest=3)
    assert list(dict.fromkeys((line.column, line.subgroup) for line in lines)) == [
        *(("sex", name) for name in ("female", "male", "unknown")),
        *(("age", name) for name in ("<30", "30 to 49", ">=50")),
    ]
    for line in lines:
        members = rows[f"subgroup_{line.column}"] == line.subgroup
        alone = {name: values[members] for name, values in rows.items()}
        own = [group for group, is_member in zip(groups, members, strict=True) if is_member]
        write_metrics(tmp_path, lambda w, r=alone: scorer.metrics(r, w), own, losses={}, details={})
        content = json.loads((tmp_path / "metrics.json").read_text())
        assert content["metrics"][line.metric] == {"value": line.value, "low": line.low, "high": line.high}
        assert (line.num_samples, line.num_groups) == (content["num_samples"], content["num_groups"])
    values = {(line.subgroup, line.metric): line.value for line in lines}
    male = rows["subgroup_sex"] == "male"
    labels, probabilities = rows["label"][male], rows["class_probabilities"][male]
    assert values["male", "balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(labels, probabilities.argmax(axis=1))
    )
    assert values["male", "auroc_macro"] == pytest.approx(
        roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    )


def test_differences_and_gaps_by_hand() -> None:
    names = ["a"] * 4 + ["b"] * 4 + ["c"] * 4 + ["unknown"] * 4
    scores = [1, 1, 1, 0, 0, 0, 1, 0, 1, 0, 1, 0, 5, 5, 5, 5]
    rows, groups = scored(scores, site=names), [f"g{number}" for number in range(16)]
    lines, (gap,) = measure_subgroups(rows, groups, mean_score, ["score", "absent"], smallest=4)
    found = {line.subgroup: line for line in lines}
    assert {name: line.value for name, line in found.items()} == {
        "a": 0.75,
        "b": 0.25,
        "c": 0.5,
        "unknown": 5,
    }
    assert found["a"].difference == 0.75 - 3 / 8  # without those of which nothing is known
    assert found["c"].difference == 0
    assert np.isnan([found["unknown"].difference, found["unknown"].p_value]).all()
    weights = bootstrap_weights(groups, 1000, seed=0)
    means = [mean_of(rows["score"][part], weights[:, part]) for part in np.r_[:12].reshape(3, 4)]
    assert (gap.largest, gap.smallest, gap.gap) == ("a", "b", 0.5)
    assert (gap.low, gap.high) == pytest.approx(np.nanquantile(means[0] - means[1], [0.025, 0.975]))
    others = mean_of(rows["score"][4:12], weights[:, 4:12])
    limits = np.nanquantile(means[0] - others, [0.025, 0.975])
    assert (found["a"].difference_low, found["a"].difference_high) == pytest.approx(limits)


def test_of_small_subgroups_there_are_counts_alone() -> None:
    rows = scored([1, 0, 1, 1, 0, 1], sex=["f", "f", "f", "m", "m", "m"])
    lines, gaps = measure_subgroups(rows, ["1", "1", "2", "3", "4", "5"], mean_score, ["score"], smallest=3)
    female, male = lines
    assert (female.num_samples, female.num_groups, male.num_groups) == (3, 2, 3)
    assert np.isnan([female.value, female.low, female.difference, female.p_value_holm]).all()
    assert male.value == pytest.approx(2 / 3)
    assert np.isnan([male.difference, male.p_value]).all()  # there is nobody to compare with
    assert gaps == []


def test_subgroups_have_an_order() -> None:
    bands = ["100 to 109", ">=110", "90 to 99", "unknown", "<90"]
    rows = scored([0] * 5, age=bands, site=["trunk", "unknown", "back", "back", "face"])
    found = [(each.column, each.name) for each in subgroups_of(rows, bands)]
    assert [name for column, name in found if column == "age"] == [
        "<90",
        "90 to 99",
        "100 to 109",
        ">=110",
        "unknown",
    ]
    assert [name for column, name in found if column == "site"] == ["back", "face", "trunk", "unknown"]


def test_p_values_are_those_of_scipy() -> None:
    rng = np.random.default_rng(1)
    members = np.arange(40) < 15
    rows = scored((rng.normal(size=40) + 0.4 * members).tolist())
    difference = rows["score"][members].mean() - rows["score"][~members].mean()
    groups = np.array([f"g{number}" for number in range(40)])
    found = permutation_p_values(rows, groups, members, mean_score, {"score": difference}, seed=0)
    expected = permutation_test(
        (rows["score"][members], rows["score"][~members]),
        lambda a, b, axis: np.abs(a.mean(axis=axis) - b.mean(axis=axis)),
        vectorized=True,
        n_resamples=20000,
        alternative="greater",
        rng=np.random.default_rng(0),
    )
    assert 0.01 < expected.pvalue < 0.2
    # Of 30 hits: a standard error of 18 %.
    assert found["score"] == pytest.approx(expected.pvalue, rel=0.5)


def test_a_small_subgroup_without_a_mistake_is_no_discovery() -> None:
    """All of 10 are right, of the others 90 %: the bootstrap is certain, but chance does this often."""
    scores = [1] * 10 + [0] * 40 + [1] * 360
    rows = scored(scores, site=["foot"] * 10 + ["back"] * 400)
    groups = [str(number) for number in range(410)]
    lines, _ = measure_subgroups(rows, groups, mean_score, ["score"], smallest=10)
    foot = next(line for line in lines if line.subgroup == "foot")
    assert foot.difference_low > 0
    assert foot.p_value > 0.2


def test_permutations_keep_groups_together() -> None:
    groups = np.array(list("aabbccddeeff") + ["m"] * 5)
    members = np.isin(groups, ["a", "b"])
    members[-5:] = [True, False, False, True, False]
    drawn = np.concatenate(list(_permutations(members, groups, seed=0)))
    assert drawn.shape == (10_000, 17)
    pairs = drawn[:, :12].reshape(-1, 6, 2)
    assert (pairs[..., 0] == pairs[..., 1]).all()
    assert (pairs[..., 0].sum(axis=1) == 2).all()
    assert (drawn[:, 12:].sum(axis=1) == 2).all()
    np.testing.assert_allclose(pairs[..., 0].mean(axis=0), 2 / 6, atol=0.02)
    np.testing.assert_allclose(drawn[:, 12:].mean(axis=0), 2 / 5, atol=0.02)
    assert len(np.unique(drawn, axis=0)) == 15 * 10


def test_groups_count_rather_than_samples() -> None:
    """Ten images of one patient are no ten witnesses."""
    scores = [1.0] * 30 + [0.0] * 30
    rows = scored(scores, sex=["f"] * 30 + ["m"] * 30)
    alone = [str(number) for number in range(60)]
    patients = [str(number // 10) for number in range(60)]
    (single, _), _ = measure_subgroups(rows, alone, mean_score, ["score"], smallest=3)
    (grouped, _), _ = measure_subgroups(rows, patients, mean_score, ["score"], smallest=3)
    assert single.p_value < 0.001
    assert grouped.p_value == pytest.approx(2 / 20, rel=0.5)  # 2 of the 20 ways to choose 3 of 6 patients


def test_both_sides_of_two_subgroups_are_one_test() -> None:
    rng = np.random.default_rng(0)
    sex, site = ["f", "m"] * 30, rng.choice(["x", "y", "z"], 60).tolist()
    rows = scored(rng.normal(size=60).tolist(), sex=sex, site=site)
    rows["score"][::2] += 1.2
    lines, _ = measure_subgroups(
        rows, [str(number) for number in range(60)], mean_score, ["score"], smallest=5
    )
    female, male = (line for line in lines if line.column == "sex")
    assert (female.difference, female.p_value) == (-male.difference, male.p_value)
    assert female.p_value_holm == male.p_value_holm == pytest.approx(4 * female.p_value)  # 1 + 3 tests


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, float("nan"), 0.7]) == pytest.approx([1.0, float("nan"), 1.0], nan_ok=True)
    assert holm([]) == []
