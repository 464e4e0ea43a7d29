from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polymask.errors import UserError
from polymask.training.devices import autocast, move_batch, select_device, select_precision

CPU = torch.device("cpu")
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="looks at a machine without CUDA")


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_cpu(name):
    assert select_device(name, local_rank=3) == CPU


def test_auto_is_cuda_where_there_is_one():
    assert select_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@without_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_cuda_that_is_not_there_is_a_user_error(name):
    with pytest.raises(UserError, match=f"trainer.device={name} is not on this machine .0 CUDA devices."):
        select_device(name)


@pytest.mark.gpu
def test_cuda_number_wins_over_the_local_rank():
    assert select_device("cuda:0", local_rank=9) == torch.device("cuda", 0)
    assert select_device("cuda", local_rank=0) == torch.device("cuda", 0)
    with pytest.raises(UserError, match="is not on this machine"):
        select_device("cuda", local_rank=torch.cuda.device_count())


@pytest.mark.parametrize("name", ["gpu", "cuda:one", "cuda:", 0, None])
def test_unknown_device_is_a_user_error(name):
    with pytest.raises(UserError, match=r"trainer\.device='.*' is unknown\..* Allowed: auto, cpu, cuda\."):
        select_device(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("gpu", "cuda"), ("GPU", "cuda"), ("nvidia", "cuda"), ("cuda0", "cuda:0"), ("gpu:1", "cuda:1")],
)
def test_other_words_for_a_device(name, meant):
    with pytest.raises(UserError, match=f"Did you mean '{meant}'"):
        select_device(name)


def test_apples_gpus_are_answered():
    with pytest.raises(UserError, match=r"Apple's GPUs are not supported.* use trainer\.device=cpu"):
        select_device("mps")


@pytest.mark.parametrize(("name", "meant"), [("32", "fp32"), (16, "fp16"), ("bfloat16", "bf16")])
def test_other_words_for_a_precision(name, meant):
    with pytest.raises(UserError, match=f"Did you mean '{meant}'"):
        select_precision(name, CPU)


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_by_name(name, dtype):
    assert select_precision(name, CPU) == dtype


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="nowhere to read the instructions from")
def test_auto_precision_of_a_cpu_follows_its_instructions():
    flags = set(Path("/proc/cpuinfo").read_text().split())
    expected = torch.bfloat16 if {"amx_bf16", "avx512_bf16"} & flags else torch.float32
    assert select_precision("auto", CPU) == expected


def test_fp16_on_a_cpu_is_a_user_error():
    with pytest.raises(UserError, match=r"trainer\.precision=fp16 needs a CUDA device; use bf16, fp32"):
        select_precision("fp16", CPU)


def test_fp16_on_cuda():
    assert select_precision("fp16", torch.device("cuda", 0)) == torch.float16


@pytest.mark.parametrize("name", ["fp8", 16])
def test_unknown_precision_is_a_user_error(name):
    with pytest.raises(UserError, match=r"trainer\.precision=.* Allowed: auto, fp32, bf16, fp16"):
        select_precision(name, CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_computes_in_the_type(dtype):
    with autocast(CPU, dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_move_batch_moves_tensors_and_leaves_the_rest():
    batch = {"ids": ["a"], "image": torch.ones(1), "mask_rows": None}
    moved = move_batch(batch, torch.device("meta"))
    assert moved["image"].device.type == "meta"
    assert moved["ids"] == ["a"]
    assert moved["mask_rows"] is None
    assert batch["image"].device.type == "cpu"
