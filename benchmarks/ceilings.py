"""What the GPU at hand can do at best: copy bandwidth and matrix products."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch


def _median_seconds(run: Callable[[], object], rounds: int = 20) -> float:
    for _ in range(3):
        run()
    seconds = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return statistics.median(seconds)


def measure(copy_bytes: int = 4 << 30, side: int = 8192) -> dict[str, float]:
    """Bytes per second (read plus written) of a large copy; operations per second of ``a @ b``.

    On random data: both run faster on zeros than on anything that a user has.
    """
    copied = torch.randn(2, copy_bytes // 4, device="cuda")
    copy_seconds = _median_seconds(lambda: copied[1].copy_(copied[0]))
    a, b = torch.randn(2, side, side, device="cuda", dtype=torch.bfloat16)
    product_seconds = _median_seconds(lambda: a @ b)
    return {
        "copy_bytes_per_second": 2 * copy_bytes / copy_seconds,
        "bf16_operations_per_second": 2 * side**3 / product_seconds,
    }
