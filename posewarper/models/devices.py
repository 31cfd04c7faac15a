"""Where a network runs, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16
}  # fmt: skip


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Convolutions in this precision; "fp32" leaves everything as it is."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def choose_device(name: str = "auto", option: str = "device") -> torch.device:
    """A device by name; "auto" is the GPU if there is one.

    Args:
        name: auto, cpu, cuda, cuda:1, ..
        option: what messages call it.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"{option}: expected 'auto', 'cpu', 'cuda', .., got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{option}: {name!r} was asked for, but PyTorch finds no GPU here")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{option}: {name!r} cannot be used here ({reason})") from None
    return device
