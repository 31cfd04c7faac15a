"""The warp and the width study under pytest-benchmark.

    pytest benchmarks/test_bench_warp.py     # every row, about half an hour on two cores
    pytest benchmarks --benchmark-disable    # do all suites run at all?

Each row is compared with torchvision in float64 on the same inputs before it is timed, and carries
the result. Rows of one case stand together, so that what disturbs the machine disturbs all of them.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import memory, timing
from benchmarks.cases import (
    CASES,
    DTYPES,
    WHATS,
    WIDTH_CASES,
    benchmark_inputs,
    compare,
    compulsory_bytes,
    reference,
    smoke,
)
from benchmarks.conftest import device_of
from benchmarks.implementations import implementations, make_calls
from pwkernels.testing import Case, Inputs

# torchvision's backward is single-threaded on CPU: half a minute a call.
_SLOW_CASES = ("training",)


@dataclass
class Row:
    name: str
    what: str
    dtype: str
    implementation: str
    device: str
    smoke: bool

    @property
    def case(self) -> Case:
        case = CASES[self.name].of(dtype=DTYPES[self.dtype])
        return smoke(case) if self.smoke else case

    @property
    def label(self) -> str:
        return f"{self.name}-{self.what}-{self.dtype}-{self.implementation}"

    @property
    def slow(self) -> bool:
        baseline = self.implementation == "torchvision" and self.device == "cpu"
        return baseline and self.name in _SLOW_CASES and self.what != "forward" and not self.smoke


def _rows(config: pytest.Config) -> list[Row]:
    device = device_of(config)
    is_smoke = config.getoption("--smoke") or config.getoption("benchmark_disable")
    dtypes = list(DTYPES) if device == "cuda" else ["float32"]
    rows = [
        Row(name, what, dtype, implementation, device, is_smoke)
        for name in config.getoption("--cases").split(",")
        if name != "none"
        for dtype in dtypes
        for what in WHATS
        for implementation in implementations(device, what, dtype)
    ]
    if not config.getoption("--no-width"):
        rows += [
            Row(name, what, "float32", implementation, device, is_smoke)
            for name in list(WIDTH_CASES)[: 2 if is_smoke else None]
            for what in (WHATS[0], WHATS[-1])
            for implementation in ("pwkernels-kernel", "torchvision")
        ]
    return [row for row in rows if config.getoption("--full") or not row.slow]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rows = _rows(metafunc.config)
    metafunc.parametrize("row", rows, ids=[row.label for row in rows])


class _Prepared:
    """Inputs and expected results of the latest case; the ones before are too large to keep."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.key: tuple[Any, ...] | None = None
        self.input_sets: list[Inputs] = []
        self.expected: dict[str, Tensor] = {}

    def get(self, row: Row) -> tuple[list[Inputs], dict[str, Tensor]]:
        key = (row.name, row.dtype)
        if self.key != key:
            self.input_sets, self.expected = [], {}
            first = benchmark_inputs(row.case, row.device)
            count = 1 if row.smoke else timing.set_count(first)
            others = (benchmark_inputs(row.case, row.device, i) for i in range(1, count))
            self.input_sets = [first, *others]
            self.expected = reference(row.case, first)
            self.key = key
        return self.input_sets, self.expected


@pytest.fixture(scope="session")
def prepared() -> _Prepared:
    return _Prepared()


@pytest.mark.benchmark(timer=timing.clock)
def test_bench(
    benchmark: Any, row: Row, prepared: _Prepared, request: pytest.FixtureRequest
) -> None:
    options = request.config.getoption
    if time.monotonic() - prepared.start > options("--stop-after"):
        pytest.skip("no time left (--stop-after)")
    input_sets, expected = prepared.get(row)
    calls = make_calls(row.implementation, row.case, input_sets, row.what)
    results = calls[0]()
    matches, error, worst = compare(row.case, results, expected)
    del results
    benchmark.group = f"{row.name} {row.what} {row.dtype}"
    benchmark.extra_info |= {
        "case": row.name,
        "what": row.what,
        "dtype": row.dtype,
        "implementation": row.implementation,
        "device": row.device,
        "threads": torch.get_num_threads(),
        "matches": matches,
        "relative_error": error,
        "worst_result": worst,
        "compulsory_bytes": compulsory_bytes(input_sets[0], row.what),
        "peak_extra_bytes": None,
    }
    run = timing.rotate(calls)
    if row.smoke:
        benchmark.pedantic(run, rounds=1)
        _require_match(row, matches, error, worst)
        return
    if not options("--no-memory"):
        benchmark.extra_info["peak_extra_bytes"] = (
            memory.growth_on_cuda(calls[0])
            if row.device == "cuda"
            else memory.peak_on_cpu(
                row.name, row.implementation, row.what, row.dtype, torch.get_num_threads()
            )
        )
    seconds = timing.duration(run)
    budget = options("--budget") / (2 if row.name in WIDTH_CASES else 1)
    rounds = timing.round_count(seconds, budget, least=3 if seconds < 20 else 1)
    warmups = min(5, rounds // 3)
    if row.device == "cuda" and row.name not in WIDTH_CASES:
        try:
            graph = timing.percentiles(timing.graph_seconds(calls))
            benchmark.extra_info["graph_ms"] = [1e3 * value for value in graph]
        except RuntimeError as error:  # the row still has its time per call
            warnings.warn(f"{row.label}: no CUDA graph: {error}", stacklevel=1)
    # On a GPU a round is one call as a user sees it: launch, kernels, and waiting for the result.
    benchmark.pedantic(run, rounds=rounds, warmup_rounds=warmups)
    _require_match(row, matches, error, worst)


def _require_match(row: Row, matches: bool, error: float, worst: str) -> None:
    """Fail the suite where our result is wrong. A baseline's is only reported."""
    if row.implementation.startswith("pwkernels"):
        assert matches, f"{worst}: relative error {error:.2e}"
