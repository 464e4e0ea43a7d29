"""Which samples the gallery shows."""

from __future__ import annotations

import numpy as np

from polymask.reporting.page.gallery import chosen_cases, extremes


def test_the_worst_the_median_and_the_best() -> None:
    scores = np.array([0.9, 0.1, np.nan, 0.5, 0.3, 0.7, 0.6])
    assert extremes(scores, range(7), 1) == {1: "worst", 3: "median", 0: "best"}
    assert extremes(scores, range(7), 2) == {
        1: "worst",
        4: "worst",
        3: "median",
        6: "median",
        5: "best",
        0: "best",
    }


def test_of_few_samples_each_comes_once_and_the_worst_first() -> None:
    scores = np.array([0.2, 0.1])
    assert extremes(scores, range(2), 2) == {1: "worst", 0: "worst"}
    assert extremes(scores, range(2), 1) == {1: "worst", 0: "best"}
    assert extremes(scores, [0], 3) == {0: "worst"}
    assert extremes(np.array([np.nan]), [0], 3) == {}


def test_each_class_has_its_own() -> None:
    labels = [{0}] * 20 + [{0, 2}] + [{-1}] * 3
    chosen = chosen_cases(np.arange(24.0), labels)
    assert chosen[20] == ["all:best", "0:best", "2:worst"]
    assert chosen[10] == ["all:median", "0:median"]
    assert {word for words in chosen.values() for word in words if word.startswith("-1")} == set()


def test_many_classes_do_not_make_many_pictures() -> None:
    labels = [{index % 80} for index in range(800)]
    chosen = chosen_cases(np.arange(800.0), labels)
    assert 12 < len(chosen) <= 40
