from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from accumulator_ranks import IDS, accumulate, make_rows, run_rank
from torch import nn
from torchmetrics import Metric
from warm_scripts import run_ranks

from polymask.metrics.accumulator import Accumulator


def assert_sorted_rows(computed, rows):
    order = [IDS.index(name) for name in sorted(IDS)]
    assert computed["ids"].tolist() == sorted(IDS)
    assert computed.keys() == {"ids", *rows}
    for name, tensor in rows.items():
        np.testing.assert_array_equal(computed[name], tensor.numpy()[order])


@pytest.mark.parametrize("batches", [[[0, 1, 2, 3, 4]], [[0, 1], [2, 3], [4]], [[4], [1, 0], [3, 2]]])
def test_rows_are_sorted_whatever_the_batches(batches):
    assert_sorted_rows(accumulate(*batches).compute(), make_rows())


def test_types():
    accumulator = Accumulator()
    accumulator.update(
        ["a", "b"],
        half=torch.tensor([0.5, 0.25], dtype=torch.bfloat16, requires_grad=True),
        double=torch.tensor([1.0, 2.0], dtype=torch.float64),
        label=torch.tensor([1, -1]),
        found=torch.tensor([True, False]),
    )
    computed = accumulator.compute()
    types = {name: str(values.dtype) for name, values in computed.items() if name != "ids"}
    assert types == {"half": "float32", "double": "float64", "label": "int64", "found": "bool"}
    assert computed["half"].tolist() == [0.5, 0.25]


def test_rows_are_copies():
    buffer = torch.tensor([1.0, 2.0])
    accumulator = Accumulator()
    accumulator.update(["a", "b"], value=buffer)
    accumulator.update(["c", "d"], value=buffer.mul_(10))
    assert accumulator.compute()["value"].tolist() == [1, 2, 10, 20]


def test_update_never_waits_for_the_device():
    # Tensors on "meta" hold no values: anything that would have to look at one fails.
    Accumulator().update(["a", "b"], value=torch.zeros(2, 3, device="meta"))


def test_strange_ids_come_back():
    ids = ["", "ü/名前 b", "a\nb", "\udcff", "z" * 300]  # the fourth: a file name that is not UTF-8
    accumulator = Accumulator()
    accumulator.update(ids, value=torch.arange(5))
    accumulator.update([], value=torch.arange(0))
    computed = accumulator.compute()
    assert computed["ids"].tolist() == sorted(ids)
    assert computed["value"].tolist() == [ids.index(name) for name in sorted(ids)]


def test_names_keep_their_order_and_may_be_those_of_a_module():
    accumulator = Accumulator()
    names = ["update", "device", "training", "rows"]
    accumulator.update(["a"], **{name: torch.tensor([1]) for name in names})
    assert list(accumulator.compute()) == ["ids", *names]


def test_rows_go_on_after_compute():
    accumulator = accumulate([0, 1])
    assert accumulator.compute()["ids"].tolist() == ["s01", "s03"]
    rows = make_rows()
    for batch in ([2, 3], [4]):
        accumulator.update([IDS[i] for i in batch], **{name: rows[name][batch] for name in rows})
    assert_sorted_rows(accumulator.compute(), rows)
    assert_sorted_rows(accumulator.compute(), rows)


def test_task_moves_the_rows_and_its_checkpoints_leave_them_out():
    task = nn.Linear(2, 1)
    expected = list(task.state_dict())
    task.accumulator = accumulate([0, 1, 2], [3, 4])
    assert isinstance(task.accumulator, Metric)
    assert list(task.state_dict()) == expected
    assert len(list(task.parameters())) == 2
    assert not list(task.buffers())
    copied = deepcopy(task)
    task.accumulator.reset()
    copied.double().eval()
    assert_sorted_rows(copied.accumulator.compute(), make_rows())
    copied.to("meta")
    assert all(rows.is_meta for state in copied.accumulator.metric_state.values() for rows in state)


def test_reset_forgets_rows_and_names():
    accumulator = accumulate([0, 1])
    accumulator.reset()
    assert accumulator.compute().keys() == {"ids"}
    assert accumulator.compute()["ids"].shape == (0,)
    accumulator.update(["a"], other=torch.zeros(1))
    assert accumulator.compute().keys() == {"ids", "other"}


def test_repeated_sample_is_refused():
    with pytest.raises(ValueError, match="1 samples were evaluated more than once, first 's01'"):
        accumulate([0, 1], [1, 2]).compute()


def test_batches_that_disagree_are_refused():
    accumulator = accumulate([0, 1])
    with pytest.raises(
        ValueError, match=r"rows hold \['counts', 'probabilities'\], the new batch \['counts'\]"
    ):
        accumulator.update(["x"], counts=torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match=r"counts has shape \(1, 2, 3\), expected 2 rows"):
        accumulator.update(["x", "y"], probabilities=torch.zeros(2, 3), counts=torch.zeros(1, 2, 3))
    assert accumulator.compute()["ids"].tolist() == ["s01", "s03"]


def test_two_processes_equal_one(tmp_path):
    run_ranks(run_rank, tmp_path)
    for rank in (0, 1):
        computed = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for name in ("uneven", "one_sided", "growing"):
            assert_sorted_rows(computed[name], make_rows())
        assert computed["none"].keys() == {"ids"}
        assert "first 's03'" in computed["refused"]["padded"]
        assert "name0" in computed["refused"]["other"]
        assert "(3,)" in computed["refused"]["shape"]
        types = computed["every_type"]
        assert types.pop("ids").tolist() == ["ü", "\udcff"]
        expected = {"bfloat16": "float32"}
        for name, values in types.items():
            assert str(values.dtype) == expected.get(name, name)
            assert values.tolist() == [[0, 1], [1, 0]]


def test_repeated_samples_all_count_where_they_are_allowed():
    rows = Accumulator(repeats=True)
    rows.update(["b", "a"], value=torch.tensor([1.0, 2.0]))
    rows.update(["b"], value=torch.tensor([3.0]))
    assert rows.compute()["ids"].tolist() == ["a", "b", "b"]
    assert rows.compute()["value"].tolist() == [2.0, 1.0, 3.0]


def test_rows_of_another_type_or_shape_than_before_are_refused():
    rows = Accumulator()
    rows.update(["a"], count=torch.tensor([1]))
    for other in (torch.tensor([2.7]), torch.tensor([[1, 2]])):
        with pytest.raises(ValueError, match=r"rows hold .*int64.*, the new batch"):
            rows.update(["b"], count=other)
    assert rows.compute()["count"].tolist() == [1]


def test_one_process_leaves_rows_where_they_are():
    rows = Accumulator().to("meta")
    rows.update(["a", "b"], value=torch.tensor([1.0, 2.0]))
    assert rows.compute()["value"].tolist() == [1.0, 2.0]  # of a device without memory they would be lost
