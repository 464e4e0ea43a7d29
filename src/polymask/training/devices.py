"""Which device and which number format a run uses."""

from __future__ import annotations

import re
from typing import Any

import torch

from polymask.errors import UserError, choose

_MEANT_DEVICES = dict.fromkeys(("gpu", "nvidia", "nvidia_gpu", "gpus"), "cuda") | {"0": "cuda:0"}
_MEANT_PRECISIONS = {
    **dict.fromkeys(("32", "float32", "float", "full"), "fp32"),
    **dict.fromkeys(("16", "float16", "half", "amp", "mixed"), "fp16"),
    **dict.fromkeys(("bfloat16", "b16"), "bf16"),
}
"""What other libraries call the same."""

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def select_device(name: str, *, local_rank: int = 0) -> torch.device:
    """Return the device for `auto` (CUDA when there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: Unknown, or not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = str(name).partition(":")
    if kind == "mps":
        raise UserError(
            f"trainer.device={name}: Apple's GPUs are not supported, only CUDA is; use trainer.device=cpu."
        )
    known = kind if kind in ("cpu", "cuda") and number.isdigit() else str(name)
    choose("trainer.device", known, ("auto", "cpu", "cuda"), meant=_MEANT_DEVICES | _numbered(str(name)))
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(number) if number.isdigit() else local_rank
    if index >= count:
        raise UserError(
            f"trainer.device={name} is not on this machine ({count} CUDA devices); use trainer.device=cpu."
        )
    return torch.device("cuda", index)


def _numbered(name: str) -> dict[str, str]:
    """Return what `cuda0`, `gpu:1` and the like mean."""
    match = re.fullmatch(r"(?:cuda|gpu)[:_-]?(\d+)", name.lower())
    return {name.lower(): f"cuda:{match[1]}"} if match else {}


def select_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the autocast type for `auto`, `fp32`, `bf16` or `fp16`.

    `auto` is bf16 where the hardware computes in it (CUDA from Ampere on; CPU with AMX or AVX512-BF16),
    else fp16 on CUDA, else fp32.

    Raises:
        UserError: Unknown, or fp16 on a CPU.
    """
    if name != "auto":
        dtype = PRECISIONS[choose("trainer.precision", name, ("auto", *PRECISIONS), meant=_MEANT_PRECISIONS)]
        if dtype == torch.float16 and device.type == "cpu":
            raise UserError("trainer.precision=fp16 needs a CUDA device; use bf16, fp32 or auto on a CPU.")
        return dtype
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _cpu_computes_in_bf16() else torch.float32


def _cpu_computes_in_bf16() -> bool:
    if not hasattr(torch.cpu, "get_capabilities"):  # older PyTorch cannot tell
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the autocast context for computing in `dtype` (off for fp32)."""
    enabled = dtype != torch.float32
    return torch.autocast(device.type, dtype=dtype if enabled else torch.bfloat16, enabled=enabled)


def move_batch(batch: Any, device: torch.device) -> Any:
    """Return the batch with its tensors on `device`, copied without waiting where memory is pinned.

    Args:
        batch: A tensor, or dicts and lists of tensors and other things, which stay as they are.
        device: Where to.
    """
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: move_batch(value, device) for key, value in batch.items()}
    if isinstance(batch, list) and batch and not isinstance(batch[0], str):
        return [move_batch(value, device) for value in batch]
    return batch
