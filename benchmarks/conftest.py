"""Options of the benchmark suite, and the order of its rows."""

from __future__ import annotations

import time

import pytest
import torch

from benchmarks.system_cases import ON_CPU, ON_GPU, SIZES
from pwkernels.testing import STANDARD_CASES

_START = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("warp benchmarks")
    group.addoption("--smoke", action="store_true", help="tiny shapes, one round, no memory")
    group.addoption(
        "--full", action="store_true", help="also rows that take torchvision minutes (training)"
    )
    group.addoption("--device", choices=("auto", "cpu", "cuda"), default="auto")
    group.addoption(
        "--cases", default=",".join(STANDARD_CASES), help="comma-separated names; 'none' for none"
    )
    group.addoption("--no-width", action="store_true", help="leave out the study of wide channels")
    group.addoption("--no-memory", action="store_true", help="leave out peak memory")
    group.addoption("--budget", type=float, default=5.0, help="seconds of timing per row")
    group.addoption(
        "--stop-after", type=float, default=float("inf"), help="seconds; later rows are skipped"
    )
    group.addoption("--sizes", help="of the system, comma-separated; 'none' for none")
    group.addoption(
        "--video", help="a file for the suite of aggregation; by default a synthetic one"
    )
    group.addoption(
        "--compiled", action="store_true", help="also torch.compile, in the suite of aggregation"
    )
    group.addoption("--threads", type=int, default=0, help="0: as many as torch takes")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--threads"):
        torch.set_num_threads(config.getoption("--threads"))


def device_of(config: pytest.Config) -> str:
    """The device that is measured."""
    device = config.getoption("--device")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def out_of_time(config: pytest.Config) -> bool:
    """Whether ``--stop-after`` has passed since the suites began."""
    return time.monotonic() - _START > config.getoption("--stop-after")


def is_smoke(config: pytest.Config) -> bool:
    """Whether the rows only have to run."""
    return bool(config.getoption("--smoke") or config.getoption("benchmark_disable"))


def sizes_of(config: pytest.Config, device: str) -> list[str]:
    """Names of the system's sizes to measure."""
    chosen = config.getoption("--sizes")
    if chosen is None:
        return ["smoke"] if is_smoke(config) else list(ON_GPU if device == "cuda" else ON_CPU)
    names = [name for name in chosen.split(",") if name != "none"]
    if unknown := set(names) - set(SIZES):
        raise pytest.UsageError(f"--sizes: expected some of {', '.join(SIZES)}, got {unknown}")
    return names
