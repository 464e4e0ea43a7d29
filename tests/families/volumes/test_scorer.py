from __future__ import annotations

import numpy as np
import pytest
import torch
from volume_files import draw_balls

from polymask.families.volumes.scorer import Scorer
from polymask.metrics.accumulator import Accumulator
from polymask.metrics.volumes import match_volume, slice_rows
from polymask.structures.objects import FoundObjects
from polymask.structures.volumes import FoundVolume

SHAPE = (5, 20, 30)
NOTHING = FoundObjects(
    id="z",
    size=SHAPE[1:],
    boxes=np.zeros((0, 4), np.float32),
    labels=np.zeros(0, np.int64),
    masks=[],
    scores=np.zeros(0, np.float32),
)


@pytest.fixture(scope="module")
def rows():
    """Rows of three volumes, found worse and worse, as an evaluation gathers them."""
    accumulator = Accumulator()
    truth = draw_balls(SHAPE, np.array([[2, 9, 8, 2.2, 6, 6], [2, 10, 22, 2.2, 6, 6]]))
    for shift in (2, 0, 1):
        labels = np.roll(truth, 2 * shift, axis=1)
        found = FoundVolume(
            id=f"01/t{shift:03}",
            labels=labels,
            scores=np.array([0.9, 0.8], np.float32),
            classes=np.zeros(2, np.int64),
        )
        every = np.ones(len(truth), bool)
        row = match_volume(found, truth, every) | slice_rows([NOTHING] * len(truth), truth, every)
        accumulator.update(
            [found.id], **{name: torch.from_numpy(np.stack([value])) for name, value in row.items()}
        )
    return accumulator.compute()


def test_headline_is_measured(rows):
    metrics = Scorer().metrics(rows)
    assert set(Scorer.headline) <= metrics.keys()
    assert all(values.shape == (1,) for values in metrics.values())


def test_scores_are_the_metrics_of_single_volumes(rows):
    scores = Scorer().scores(rows)
    assert list(scores) == ["seg", "det"]
    for index, weights in enumerate(np.eye(3)):
        alone = Scorer().metrics(rows, weights[None])
        assert [values[index] for values in scores.values()] == [alone["seg"][0], alone["det"][0]]
    assert scores["seg"][0] == 1 > scores["seg"][1] > scores["seg"][2] > 0


def test_sums_keep_their_digits(rows):
    """Jaccard indices of single precision would be off by 1e-8."""
    assert rows["seg_sum"].dtype == np.float64
    assert float(np.float32(rows["seg_sum"][1])) != rows["seg_sum"][1]


def test_truth_does_not_depend_on_what_was_found(rows):
    first, second = ({name: values[[index]] for name, values in rows.items()} for index in (0, 2))
    truths = [Scorer().truth(of_one, same_grid=False)["objects"].tolist() for of_one in (first, second)]
    assert truths[0] == truths[1] == [[5, 2, 10]]
