from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torchmetrics.functional import classification as tm

from polymask.errors import UserError
from polymask.metrics.bootstrap import bootstrap_weights
from polymask.metrics.classification import classification_metrics, confusion_matrix, per_class_metrics

NAMES = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]


def make_samples(num_samples=150, num_classes=7, decimals=None, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(num_classes, num_samples, p=rng.dirichlet(np.full(num_classes, 2.0)))
    logits = rng.normal(size=(num_samples, num_classes)) + 1.5 * np.eye(num_classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, probabilities if decimals is None else probabilities.round(decimals)


def without(labels, probabilities, in_truth=(), in_prediction=()):
    """Remove classes from the truth, and others from what is predicted."""
    keep = ~np.isin(labels, in_truth)
    probabilities = probabilities[keep].copy()
    probabilities[:, list(in_prediction)] *= 0.01
    return labels[keep], probabilities


CASES = {
    "plain": make_samples(),
    "ties": make_samples(decimals=1),
    "binary": make_samples(num_classes=2, seed=3),
    "absent from the truth": without(*make_samples(seed=1), in_truth=[2]),
    "never predicted": without(*make_samples(seed=2), in_prediction=[5]),
    "absent from both": without(*make_samples(decimals=2, seed=4), in_truth=[2, 4], in_prediction=[2, 6]),
}


def sklearn_ranking(function, labels, probabilities, weights):
    """Score each class against the rest; NaN where it has no positives or no negatives."""
    scores = []
    for index in range(probabilities.shape[1]):
        truth = labels == index
        mixed = 0 < truth.sum() < len(truth)
        scores.append(function(truth, probabilities[:, index], sample_weight=weights) if mixed else np.nan)
    return scores


def sklearn_metrics(labels, probabilities, weights=None):
    predicted = probabilities.argmax(axis=1)
    in_truth = np.isin(np.arange(probabilities.shape[1]), labels)
    recall = sk.recall_score(
        labels, predicted, average=None, labels=np.flatnonzero(in_truth), sample_weight=weights
    )
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted, sample_weight=weights),
        "balanced_accuracy": recall.mean(),
    }
    scores = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}
    for name, function in scores.items():
        for average in ("macro", "weighted"):
            expected[f"{name}_{average}"] = function(
                labels, predicted, average=average, zero_division=0, sample_weight=weights
            )
    rankings = {"auroc": sk.roc_auc_score, "average_precision": sk.average_precision_score}
    for name, function in rankings.items():
        expected[f"{name}_macro"] = np.nanmean(sklearn_ranking(function, labels, probabilities, weights))
    return expected


def assert_equal(metrics, expected, replicate=0):
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name][replicate], value, rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_point_estimate_equals_sklearn(case):
    labels, probabilities = CASES[case]
    metrics = classification_metrics(labels, probabilities)
    assert all(value.shape == (1,) for value in metrics.values())
    assert_equal(metrics, sklearn_metrics(labels, probabilities))


@pytest.mark.parametrize("case", ["plain", "ties", "binary"])
def test_point_estimate_equals_torchmetrics(case):
    labels, probabilities = CASES[case]
    num_classes = probabilities.shape[1]
    samples = torch.from_numpy(probabilities), torch.from_numpy(labels)
    expected = {
        "accuracy": tm.multiclass_accuracy(*samples, num_classes, average="micro"),
        "balanced_accuracy": tm.multiclass_accuracy(*samples, num_classes, average="macro"),
        "auroc_macro": tm.multiclass_auroc(*samples, num_classes),
        "average_precision_macro": tm.multiclass_average_precision(*samples, num_classes),
    }
    metrics = classification_metrics(labels, probabilities)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], float(value), rtol=1e-6, err_msg=name)


def test_balanced_accuracy_equals_sklearn():
    labels, probabilities = CASES["plain"]
    expected = sk.balanced_accuracy_score(labels, probabilities.argmax(axis=1))
    assert classification_metrics(labels, probabilities)["balanced_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize("case", CASES)
def test_replicates_equal_sklearn_with_sample_weight_and_with_repeated_rows(case):
    labels, probabilities = CASES[case]
    weights = bootstrap_weights([str(i // 3) for i in range(len(labels))], num_replicates=8, seed=0)
    metrics = classification_metrics(labels, probabilities, weights)
    for replicate, counts in enumerate(weights):
        drawn = counts > 0
        weighted = sklearn_metrics(labels[drawn], probabilities[drawn], counts[drawn])
        assert_equal(metrics, weighted, replicate)
        rows = np.repeat(np.arange(len(labels)), counts.astype(int))
        assert_equal(metrics, sklearn_metrics(labels[rows], probabilities[rows]), replicate)


def test_float32_probabilities_that_saturate_tie_as_in_sklearn():
    labels, probabilities = make_samples(seed=6)
    sharp = (probabilities**60).astype(np.float32)
    sharp /= sharp.sum(axis=1, keepdims=True)
    assert len(np.unique(sharp[:, 0])) < len(sharp)
    assert_equal(classification_metrics(labels, sharp), sklearn_metrics(labels, sharp))


def test_many_replicates_equal_few():
    # More elements than are treated at once: the replicates on both sides of every cut must be right.
    labels, probabilities = make_samples(num_samples=700, num_classes=3)
    weights = bootstrap_weights([str(i) for i in range(700)], num_replicates=3100, seed=0)
    metrics = classification_metrics(labels, probabilities, weights)
    for replicate in (0, 1497, 1498, 2995, 2996, 3099):
        rows = np.repeat(np.arange(700), weights[replicate].astype(int))
        assert_equal(metrics, sklearn_metrics(labels[rows], probabilities[rows]), replicate)


def test_unknown_labels_are_left_out():
    labels, probabilities = make_samples()
    weights = bootstrap_weights([str(i) for i in range(len(labels))], num_replicates=4, seed=0)
    known = np.arange(len(labels)) % 4 != 0
    probabilities[~known] = np.nan
    metrics = classification_metrics(np.where(known, labels, -1), probabilities, weights)
    for replicate, counts in enumerate(weights[:, known].astype(int)):
        rows = np.repeat(np.flatnonzero(known), counts)
        assert_equal(metrics, sklearn_metrics(labels[rows], probabilities[rows]), replicate)


@pytest.mark.parametrize("case", ["plain", "ties", "absent from both"])
def test_per_class_metrics_equal_sklearn(case):
    labels, probabilities = CASES[case]
    metrics = per_class_metrics(labels, probabilities, NAMES)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        labels, probabilities.argmax(axis=1), labels=range(7), zero_division=np.nan
    )
    auroc = sklearn_ranking(sk.roc_auc_score, labels, probabilities, None)
    expected = {"precision": precision, "recall": recall, "f1": f1, "auroc": auroc}
    assert len(metrics) == 4 * 7
    for score, values in expected.items():
        for name, value in zip(NAMES, values, strict=True):
            np.testing.assert_allclose(metrics[f"{score}_{name}"], [value], err_msg=f"{score}_{name}")


def test_per_class_metrics_of_replicates():
    labels, probabilities = make_samples()
    weights = bootstrap_weights([str(i) for i in range(len(labels))], num_replicates=3, seed=0)
    metrics = per_class_metrics(labels, probabilities, NAMES, weights)
    for replicate, counts in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(len(labels)), counts)
        alone = per_class_metrics(labels[rows], probabilities[rows], NAMES)
        for name, value in alone.items():
            np.testing.assert_allclose(metrics[name][replicate], value[0], rtol=1e-12, err_msg=name)


def test_undefined_metrics_are_nan():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2]])
    for metrics in (
        classification_metrics(np.array([-1, -1]), probabilities),
        classification_metrics(np.empty(0, np.int64), np.empty((0, 2))),
        per_class_metrics(np.array([-1, -1]), probabilities, ["a", "b"]),
    ):
        assert all(np.isnan(value).all() and value.shape == (1,) for value in metrics.values())
    one_class = classification_metrics(np.array([0, 0]), probabilities)
    assert np.isnan(one_class["auroc_macro"])
    assert np.isnan(one_class["average_precision_macro"])
    assert one_class["recall_macro"] == 1


def test_all_scores_tied_is_chance():
    labels = np.array([0, 1, 1, 1])
    metrics = classification_metrics(labels, np.full((4, 2), 0.5))
    assert metrics["auroc_macro"] == 0.5
    assert metrics["average_precision_macro"] == 0.5  # the mean of the shares 1/4 and 3/4


def test_confusion_matrix_equals_sklearn():
    labels, probabilities = CASES["absent from both"]
    predicted = probabilities.argmax(axis=1)
    expected = sk.confusion_matrix(labels, predicted, labels=range(7))
    with_unknown = np.append(labels, [-1, -1]), np.append(predicted, [0, 3])
    matrix = confusion_matrix(*with_unknown, num_classes=7)
    np.testing.assert_array_equal(matrix, expected)
    assert matrix.dtype == np.int64


def test_probabilities_that_are_not_finite_are_refused():
    probabilities = np.array([[0.5, 0.5], [np.nan, 0.1], [np.inf, 0.0]])
    with pytest.raises(UserError, match="2 of 3 samples have probabilities that are not finite"):
        classification_metrics(np.array([0, 1, 1]), probabilities)


@pytest.mark.parametrize("label", [-2, 2])
def test_labels_out_of_range_are_refused(label):
    with pytest.raises(ValueError, match=r"expected -1\.\.1"):
        classification_metrics(np.array([0, label]), np.full((2, 2), 0.5))


def test_shapes_that_disagree_are_refused():
    with pytest.raises(ValueError, match=r"are not \(N,\), \(N, C\)"):
        classification_metrics(np.zeros(3, np.int64), np.full((2, 2), 0.5))


@pytest.mark.parametrize("names", [["a", "macro"], ["weighted", "a"], ["a", "a"]])
def test_class_names_that_would_share_a_key_are_refused(names):
    with pytest.raises(UserError, match="rename the class"):
        per_class_metrics(np.array([0, 1]), np.full((2, 2), 0.5), names)


def test_number_of_class_names_is_checked():
    with pytest.raises(ValueError, match="3 class names for 2 classes"):
        per_class_metrics(np.array([0, 1]), np.full((2, 2), 0.5), ["a", "b", "c"])
