"""Clocks, repetition counts, and the time of a captured CUDA graph."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from benchmarks.cases import input_bytes
from benchmarks.implementations import Call
from pwkernels.testing import Inputs

# Input sets together are this many bytes at least, so that no run finds its inputs in a cache (the
# last-level caches of an H200 and of the CPUs at hand have 60 and 32 MB).
ROTATED_BYTES = 256 << 20


def clock() -> float:
    """Seconds; on a machine with a GPU after all of its work is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def set_count(inputs: Inputs, most: int = 64) -> int:
    """How many sets of such inputs have to be rotated."""
    return min(most, 1 + (ROTATED_BYTES - 1) // max(1, input_bytes(inputs)))


def rotate(calls: Sequence[Call]) -> Callable[[], None]:
    """A function that runs the calls in turn and drops their results."""
    order: Iterator[Call] = itertools.cycle(calls)

    def run() -> None:
        next(order)()

    return run


def duration(run: Callable[[], object]) -> float:
    """Seconds of one run."""
    start = clock()
    run()
    return clock() - start


def round_count(seconds: float, budget: float, least: int, most: int = 100) -> int:
    """Rounds that fit in ``budget`` seconds, within bounds."""
    return max(least, min(most, int(budget / max(seconds, 1e-9))))


def percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    """p20, p50 and p80."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return cuts[1], cuts[4], cuts[7]


def graph_seconds(calls: Sequence[Call], rounds: int = 50) -> list[float]:
    """Seconds of each call as a captured CUDA graph: the kernels without Python and launches.

    A round replays the graphs of all input sets one after the other, which gives one value.
    """
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls:
            for _ in range(2):
                call()
    torch.cuda.synchronize()
    graphs = []
    for call in calls:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            results = call()
        graphs.append((graph, results))  # the results are the graph's memory
    seconds = []
    for index in range(rounds + 5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for graph, _ in graphs:
            graph.replay()
        end.record()
        end.synchronize()
        if index >= 5:
            seconds.append(start.elapsed_time(end) / 1e3 / len(graphs))
    return seconds
