"""What the machine at hand can do at best: copy bandwidth and matrix products."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator

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


def measure_cpu(side: int = 2048, seconds: float = 4.0) -> dict[str, float]:
    """Operations per second on all threads that torch has, the best of some rounds.

    Matrix products of 512 to ``side`` rows are tried, as the largest need not be the fastest, and a
    wide 3 x 3 convolution: it comes from another library than products, which may know the
    processor better.
    """
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        best = 0.0
        for operations, run in _heavy(side, dtype):
            run()
            end = time.perf_counter() + seconds / 4
            while (start := time.perf_counter()) < end:
                run()
                best = max(best, operations / (time.perf_counter() - start))
        found[f"{name}_operations_per_second"] = best
    return found


def _heavy(side: int, dtype: torch.dtype) -> Iterator[tuple[int, Callable[[], object]]]:
    """Operations of a call, and the call."""
    for rows in sorted({min(side, 512), min(side, 1024), side}):
        a, b = torch.randn(2, rows, rows).to(dtype)
        yield 2 * rows**3, functools.partial(torch.mm, a, b)
    channels = side // 8
    weight = torch.randn(channels, channels, 3, 3).to(dtype)
    maps = torch.randn(4, channels, 48, 48).to(dtype)
    last = torch.channels_last
    weight, maps = weight.contiguous(memory_format=last), maps.contiguous(memory_format=last)
    operations = 2 * weight.numel() * 4 * 48 * 48
    yield operations, functools.partial(torch.conv2d, maps, weight, padding=1)
