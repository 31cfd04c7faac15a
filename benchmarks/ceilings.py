"""What the machine at hand can do at best: copy bandwidth and matrix products."""

from __future__ import annotations

import statistics
import time
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

    Of the GPU, on random data: both run faster on zeros than on anything that a user has.
    """
    copied = torch.randn(2, copy_bytes // 4, device="cuda")
    copy_seconds = _median_seconds(lambda: copied[1].copy_(copied[0]))
    a, b = torch.randn(2, side, side, device="cuda", dtype=torch.bfloat16)
    product_seconds = _median_seconds(lambda: a @ b)
    return {
        "copy_bytes_per_second": 2 * copy_bytes / copy_seconds,
        "bf16_operations_per_second": 2 * side**3 / product_seconds,
    }


def measure_cpu(side: int = 2048, seconds: float = 3.0) -> dict[str, float]:
    """Operations per second of ``a @ b`` on all threads that torch has, the best of some rounds.

    Products of 512 to ``side`` rows are tried: the largest need not be the fastest.
    """
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        best = 0.0
        for rows in {min(side, 512), min(side, 1024), side}:
            a, b = torch.randn(2, rows, rows).to(dtype)
            a @ b
            end = time.perf_counter() + seconds / 3
            while (start := time.perf_counter()) < end:
                a @ b
                best = max(best, 2 * rows**3 / (time.perf_counter() - start))
        found[f"{name}_operations_per_second"] = best
    return found
