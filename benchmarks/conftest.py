"""Options of the benchmark suite, and the order of its rows."""

from __future__ import annotations

import pytest
import torch

from pwkernels.testing import STANDARD_CASES


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
