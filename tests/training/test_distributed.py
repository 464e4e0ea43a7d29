from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_worker import SCENARIOS, run_rank, run_scenario
from stub_task import NUM_VAL, StubTask, evaluate, make_trainer, val_loader
from warm_scripts import run_ranks

from polymask.training.checkpoint import inference_weights, load_checkpoint
from polymask.training.distributed import Processes, leave, processes

WITHOUT_BATCH_NORM = [name for name in SCENARIOS if not name.startswith("batch_norm")]
WITH_BATCH_NORM = [name for name in SCENARIOS if name.startswith("batch_norm")]


def free_port() -> int:
    with socket.socket() as open_socket:
        open_socket.bind(("127.0.0.1", 0))
        return open_socket.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes wrote: results in 0.pt and 1.pt, checkpoints below 0/ and 1/."""
    folder, port = tmp_path_factory.mktemp("distributed"), free_port()
    run_ranks(run_rank, folder, port)
    return folder


@pytest.fixture(scope="module")
def ranks(folder) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> dict[str, Any]:
    """The same trainings in one process with the whole batch."""
    folder = tmp_path_factory.mktemp("single")
    return {name: run_scenario(Processes(), folder / name, **SCENARIOS[name]) for name in WITHOUT_BATCH_NORM}


@pytest.mark.parametrize("name", WITHOUT_BATCH_NORM)
def test_two_processes_train_as_one_with_the_whole_batch(ranks, single, name):
    for found in ranks:
        for key, expected in single[name]["weights"].items():
            torch.testing.assert_close(found[name]["weights"][key], expected, rtol=1e-9, atol=1e-12)
        for row, expected in zip(found[name]["history"], single[name]["history"], strict=True):
            for key in ("epoch", "learning_rate", "val/loss", "val/bias"):
                assert row[key] == pytest.approx(expected[key], rel=1e-6), key


def test_points_of_the_step_log_are_means_over_the_processes(ranks, single):
    expected = single["steps"]["points"]
    assert [point["step"] for point in expected] == [3, 6, 9, 12]
    for found in ranks:
        for point, one in zip(found["steps"]["points"], expected, strict=True):
            assert {name: value for name, value in point.items() if name != "time"} == pytest.approx(
                {name: value for name, value in one.items() if name != "time"}, rel=1e-6
            )


def test_plateau_moved_in_the_test_above(single):
    rates = [row["learning_rate"] for row in single["plateau"]["history"]]
    assert rates[-1] < rates[0]


@pytest.mark.parametrize("name", SCENARIOS)
def test_processes_hold_the_same_weights_bit_for_bit(ranks, name):
    for key, tensor in ranks[0][name]["weights"].items():
        if "running" not in key:  # each process gathers its own statistics during an epoch
            assert torch.equal(tensor, ranks[1][name]["weights"][key]), key


@pytest.mark.parametrize("name", SCENARIOS)
def test_processes_agree_on_metrics_and_see_each_sample_once(ranks, name):
    main, other = (found[name] for found in ranks)
    assert main["num_seen"] + other["num_seen"] == NUM_VAL
    for row, expected in zip(other["history"], main["history"], strict=True):
        assert (row["val/loss"], row["val/bias"]) == (expected["val/loss"], expected["val/bias"])


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_validation_metrics_are_those_of_the_saved_weights(folder, ranks, name):
    content = load_checkpoint(folder / "0" / name / "run.last.pt")
    task = StubTask(batch_norm=True)
    task.load_state_dict(inference_weights(content))
    alone = evaluate(make_trainer(), task, val_loader(), title="val")
    for found in ranks:
        newest = found[name]["history"][-1]
        assert newest["val/loss"] == pytest.approx(float(alone["loss"]), rel=1e-6)
        assert newest["val/bias"] == pytest.approx(float(alone["bias"]), rel=1e-6)


def test_main_process_writes_the_best_by_each_metric(folder):
    kept = load_checkpoint(folder / "0" / "monitors" / "run@bias.pt")["training"]
    assert (kept["epoch"], kept["best_epochs"]) == (2, {"val/bias": 2})


def test_main_process_alone_writes_and_logs(folder, ranks):
    assert {path.name for path in (folder / "0").iterdir()} == set(SCENARIOS)
    assert not (folder / "1").exists()
    assert {ranks[0][name]["num_logged"] for name in SCENARIOS} == {3}
    assert {ranks[1][name]["num_logged"] for name in SCENARIOS} == {0}


def test_share_gives_all_the_value_of_the_main_process(ranks):
    assert [found["shared"] for found in ranks] == [{"name": "from 0"}] * 2


def test_each_process_evaluates_all_samples_alone_after_leaving(ranks):
    expected = evaluate(make_trainer(), StubTask(), val_loader(), title="test")
    for found in ranks:
        assert found["alone"] == pytest.approx({name: float(value) for name, value in expected.items()})


def test_single_process_is_the_main_one_and_joins_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes() as own:
        assert own == Processes(rank=0, local_rank=0, world_size=1)
        assert own.is_main
        assert own.share("value") == "value"
    leave()  # nothing to leave is no error


def test_rank_decides_who_is_main():
    assert not Processes(rank=1, local_rank=0, world_size=2).is_main
