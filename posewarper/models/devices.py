"""Where a network runs, and in which precision."""

from __future__ import annotations

import functools
import logging
import time
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import nn

log = logging.getLogger("posewarper.models")

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16
}  # fmt: skip
#: A processor without the instructions takes 4 to 25 times as long, one with them half the time.
_TOO_SLOW = 3.0


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Convolutions in this precision; "fp32" leaves everything as it is."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def usable_precision(
    device: torch.device, precision: Precision, option: str = "precision"
) -> Precision:
    """The precision, or "fp32" with a line of warning where a processor takes far longer in it.

    Args:
        device: GPUs take what they are given.
        precision: what was asked for.
        option: what the message calls it.
    """
    if device.type != "cpu" or precision == "fp32":
        return precision
    slower = _slowdown(precision)
    if slower < _TOO_SLOW:
        return precision
    log.warning(
        "%s: this processor takes %.0f times as long in %s as in fp32: fp32 is used",
        option, slower, precision,
    )  # fmt: skip
    return "fp32"


@functools.cache
def _slowdown(precision: Precision) -> float:
    """How many times as long a small network takes on this processor as in fp32; measured, as
    what PyTorch makes of an instruction set is not to be read off its name.
    """
    layers = [nn.Conv2d(32, 32, 3, padding=1) for _ in range(2)]
    network = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    images = torch.zeros(1, 32, 48, 48).contiguous(memory_format=torch.channels_last)

    def seconds(precision: Precision) -> float:
        taken = []
        with torch.inference_mode(), autocast(torch.device("cpu"), precision):
            for _ in range(4):
                start = time.perf_counter()
                network(images)
                taken.append(time.perf_counter() - start)
        return min(taken)

    return seconds(precision) / seconds("fp32")


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
