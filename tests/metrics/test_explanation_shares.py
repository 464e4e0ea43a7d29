from __future__ import annotations

import numpy as np
import pytest

from polymask.metrics.explanations import (
    CHANCE,
    INSIDE,
    TIMES_CHANCE,
    count_explained,
    explanation_metrics,
    inside_share,
)


def test_the_share_of_a_map_by_hand() -> None:
    heat = np.array([[1, 2, 0, 9], [3, 0, 0, 9]], np.float32)
    mask = np.array([[1, 0, 0, 255], [2, 0, 0, 255]], np.uint8)  # two classes of lesion, a column to ignore
    assert inside_share(heat, mask) == (pytest.approx(4 / 6), pytest.approx(2 / 6))


def test_an_even_map_has_the_share_of_chance() -> None:
    mask = (np.random.default_rng(0).random((30, 40)) < 0.3).astype(np.uint8)
    inside, chance = inside_share(np.full(mask.shape, 0.25, np.float32), mask)
    assert inside == pytest.approx(chance) == mask.mean()


@pytest.mark.parametrize(("heat", "mask"), [(0.0, 1), (1.0, 0), (1.0, 255)])
def test_nothing_to_find_and_nothing_found_are_no_shares(heat: float, mask: int) -> None:
    shares = inside_share(np.full((3, 4), heat, np.float32), np.full((3, 4), mask, np.uint8))
    assert np.isnan(shares).all()


def test_metrics_are_means_of_the_images_that_have_a_share() -> None:
    rows = {
        "ids": np.array(["a", "b", "c"]),
        INSIDE: np.array([0.9, np.nan, 0.3]),
        CHANCE: np.array([0.2, np.nan, 0.1]),
    }
    once = explanation_metrics(rows)
    assert once[INSIDE] == pytest.approx(0.6)
    assert once[CHANCE] == pytest.approx(0.15)
    assert once[TIMES_CHANCE] == pytest.approx(4)
    drawn = explanation_metrics(rows, np.array([[0, 1, 2], [3, 5, 0], [0, 3, 0]]))
    np.testing.assert_allclose(drawn[INSIDE], [0.3, 0.9, np.nan])
    np.testing.assert_allclose(drawn[TIMES_CHANCE], [3, 4.5, np.nan])
    assert count_explained(rows) == {"num_explained": 2}
    assert explanation_metrics({"ids": rows["ids"]}) == count_explained({"ids": rows["ids"]}) == {}
