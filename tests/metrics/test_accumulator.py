from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from polymask.metrics.accumulator import Accumulator

IDS = ["s03", "s01", "s04", "s00", "s02"]


def make_rows():
    generator = torch.Generator().manual_seed(0)
    return {
        "probabilities": torch.rand(5, 3, generator=generator),
        "counts": torch.arange(5 * 2 * 3).reshape(5, 2, 3),
    }


def accumulate(*batches):
    accumulator = Accumulator()
    rows = make_rows()
    for batch in batches:
        accumulator.update([IDS[i] for i in batch], **{name: rows[name][batch] for name in rows})
    return accumulator


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
    assert types == {"half": "float32", "double": "float32", "label": "int64", "found": "bool"}
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


def run_rank(rank, folder):
    """What each of two processes does; its findings go to files for the test to read."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    uneven = accumulate([3, 0], [2]) if rank == 0 else accumulate([4, 1])
    np.savez(folder / f"uneven{rank}.npz", **uneven.compute())
    one_sided = accumulate([0, 1, 2, 3, 4]) if rank == 1 else Accumulator()
    np.savez(folder / f"one_sided{rank}.npz", **one_sided.compute())
    padded = accumulate([0, 1, 2]) if rank == 0 else accumulate([3, 4, 0])
    other = Accumulator()
    other.update([f"r{rank}"], **{f"name{rank}": torch.zeros(1)})
    for name, accumulator in (("padded", padded), ("other", other)):
        try:
            accumulator.compute()
        except ValueError as error:
            (folder / f"{name}{rank}.txt").write_text(str(error))
    distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    multiprocessing.spawn(run_rank, args=(tmp_path,), nprocs=2)
    for rank in (0, 1):
        assert_sorted_rows(dict(np.load(tmp_path / f"uneven{rank}.npz")), make_rows())
        assert_sorted_rows(dict(np.load(tmp_path / f"one_sided{rank}.npz")), make_rows())
        assert "first 's03'" in (tmp_path / f"padded{rank}.txt").read_text()
        assert "name0" in (tmp_path / f"other{rank}.txt").read_text()


def test_repeated_samples_all_count_where_they_are_allowed():
    rows = Accumulator(repeats=True)
    rows.update(["b", "a"], value=torch.tensor([1.0, 2.0]))
    rows.update(["b"], value=torch.tensor([3.0]))
    assert rows.compute()["ids"].tolist() == ["a", "b", "b"]
    assert rows.compute()["value"].tolist() == [2.0, 1.0, 3.0]
