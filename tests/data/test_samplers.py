from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from torch.utils.data import Dataset

from polymask.data.module import EpochLoader
from polymask.data.samplers import EvaluationBatches, TrainBatches
from polymask.errors import UserError


def draw(epoch: int = 0, **arguments) -> list[list[tuple[int, int, int]]]:
    """The batches of one epoch; `num_samples` and the arguments of TrainBatches."""
    batches = TrainBatches(arguments.pop("num_samples", 40), **({"batch_size": 8, "seed": 0} | arguments))
    batches.start_epoch(epoch)
    drawn = list(batches)
    assert len(drawn) == len(batches)
    return drawn


def indices(batches: list[list[tuple[int, int, int]]]) -> list[int]:
    return [index for batch in batches for _, index, _ in batch]


def test_every_sample_comes_once_in_another_order_each_epoch():
    first, second = draw(0), draw(1)
    assert sorted(indices(first)) == sorted(indices(second)) == list(range(40))
    assert indices(first) != indices(second) != list(range(40))
    assert {key[0] for batch in first for key in batch} == {0}
    assert {(key[0], key[2]) for batch in second for key in batch} == {(1, 0)}


def test_last_batch_that_is_not_full_is_left_out():
    batches = draw(num_samples=43)
    assert [len(batch) for batch in batches] == [8] * 5
    assert len(set(indices(batches))) == 40


def test_which_samples_are_left_out_changes_from_epoch_to_epoch():
    left_out = [set(range(43)) - set(indices(draw(epoch, num_samples=43))) for epoch in range(4)]
    assert len(set.union(*left_out)) > 3


def test_seeds_differ_and_equal_seeds_agree():
    assert draw(seed=1) == draw(seed=1)
    assert draw(seed=1) != draw(seed=2)
    # A seed and an epoch that only add up to the same number must not give the same order.
    assert indices(draw(1, seed=2)) != indices(draw(2, seed=1))


def test_epoch_depends_on_its_number_only_and_not_on_those_before():
    batches = TrainBatches(40, batch_size=8, seed=0)
    course = []
    for epoch in range(4):
        batches.start_epoch(epoch)
        course.append(list(batches))
    assert draw(3) == course[3]
    batches.start_epoch(3)
    assert list(itertools.islice(batches, 2)) == course[3][:2]  # broken off
    assert list(batches) == course[3]


@pytest.mark.parametrize("weights", [None, [1.0] * 30 + [9.0] * 10])
@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_together_draw_what_one_process_would(world_size, weights):
    single = draw(2, num_samples=40, batch_size=8, weights=weights)
    share = {"num_samples": 40, "batch_size": 8 // world_size, "weights": weights, "world_size": world_size}
    ranks = [draw(2, rank=rank, **share) for rank in range(world_size)]
    assert [len(rank) for rank in ranks] == [len(single)] * world_size
    for number, batch in enumerate(single):
        shares = [rank[number] for rank in ranks]
        assert [len(part) for part in shares] == [8 // world_size] * world_size
        assert sorted(key for part in shares for key in part) == sorted(batch)


# Epochs of a number of batches


def stream(num_epochs: int, length: int, **arguments) -> list[list[list[tuple[int, int, int]]]]:
    """The batches of each of the first epochs."""
    return [draw(epoch, batches_per_epoch=length, **arguments) for epoch in range(num_epochs)]


@pytest.mark.parametrize("weights", [None, [1.0] * 35 + [9.0] * 8])
@pytest.mark.parametrize("length", [1, 3, 5, 7, 12])
def test_epochs_of_a_length_are_slices_of_the_row_of_passes(length, weights):
    share = {"num_samples": 43, "weights": weights}
    epochs = stream(8, length, **share)
    assert [len(epoch) for epoch in epochs] == [length] * 8
    passes = [batch for number in range(20) for batch in draw(number, **share)]
    assert [batch for epoch in epochs for batch in epoch] == passes[: 8 * length]


def test_nothing_is_skipped_or_doubled_inside_of_a_pass():
    drawn = [key for epoch in stream(5, 3) for batch in epoch for key in batch]  # 15 batches: 3 passes of 5
    for number in range(3):
        assert sorted(index for found, index, _ in drawn if found == number) == list(range(40))


def test_processes_together_draw_the_same_epochs_of_a_length():
    single = stream(4, 7)
    ranks = [stream(4, 7, batch_size=4, rank=rank, world_size=2) for rank in range(2)]
    for epoch, whole in enumerate(single):
        together = [sorted(a + b) for a, b in zip(ranks[0][epoch], ranks[1][epoch], strict=True)]
        assert together == [sorted(batch) for batch in whole]


def test_more_processes_than_samples_are_told_in_one_line():
    with pytest.raises(UserError, match="3 processes cannot share 2 training samples"):
        draw(num_samples=2, world_size=3, batches_per_epoch=4)


class Keys(Dataset):
    """Items that are their keys."""

    def __getitem__(self, key):
        return key


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_processes_live_on_and_draw_the_same_epochs(num_workers):
    loader = EpochLoader(
        Keys(),
        batch_sampler=TrainBatches(10, batch_size=4, seed=0, batches_per_epoch=3),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        collate_fn=list,
    )
    for epoch in (2, 0, 1):
        loader.start_epoch(epoch)
        assert len(loader) == 3
        assert list(loader) == draw(epoch, num_samples=10, batch_size=4, batches_per_epoch=3)


def test_weighted_draws_follow_the_weights():
    labels = np.array([0] * 90 + [1] * 10)
    weights = np.where(labels == 0, 1 / 90, 1 / 10).tolist()
    drawn = [index for e in range(50) for index in indices(draw(e, num_samples=100, weights=weights))]
    # 4800 draws with probability 1/2: standard deviation 0.007.
    assert np.mean(labels[drawn] == 1) == pytest.approx(0.5, abs=0.03)
    counts = Counter(drawn)
    assert counts.keys() == set(range(100))
    assert np.std([counts[index] for index in range(90, 100)]) < 40  # 240 expected each


def test_sample_drawn_again_in_an_epoch_gets_another_repeat():
    keys = [key for batch in draw(5, weights=[1.0] * 38 + [50.0] * 2) for key in batch]
    assert len(set(keys)) == len(keys)
    repeats: dict[int, list[int]] = {}
    for _, index, repeat in keys:
        repeats.setdefault(index, []).append(repeat)
    assert max(map(len, repeats.values())) > 5
    assert all(sorted(found) == list(range(len(found))) for found in repeats.values())


@pytest.mark.parametrize(("num_samples", "world_size"), [(1, 1), (5, 1), (5, 2), (7, 4)])
def test_data_smaller_than_a_batch_still_trains(num_samples, world_size):
    share = {"num_samples": num_samples, "batch_size": 32, "world_size": world_size}
    ranks = [draw(rank=rank, **share) for rank in range(world_size)]
    assert [len(rank) for rank in ranks] == [1] * world_size
    assert {len(rank[0]) for rank in ranks} == {num_samples // world_size}
    drawn = [index for rank in ranks for index in indices(rank)]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("num_samples", [1, 7, 8, 9, 33])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_evaluation_takes_every_sample_once_in_the_batches_of_one_process(num_samples, world_size):
    single = list(EvaluationBatches(num_samples, batch_size=4))
    assert [key for batch in single for key in batch] == [(0, index, 0) for index in range(num_samples)]
    assert all(len(batch) == 4 for batch in single[:-1])
    together = []
    for rank in range(world_size):
        batches = EvaluationBatches(num_samples, batch_size=4, rank=rank, world_size=world_size)
        assert len(batches) == len(list(batches))
        together += list(batches)
    assert sorted(together) == single
