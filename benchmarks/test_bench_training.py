"""Training of both stages: steps, the data that they need, and both together.

    python -m benchmarks.run --suite system                 # this and the suite of aggregation
    pytest benchmarks/test_bench_training.py --sizes small

Rows "warp step" and "pose step" train on a batch that is there; "data" makes batches of images on
disk, without any training, in the first epoch and in a later one; "training" does both. A row's
loss and gradients (of data: pixels and targets) are compared with the baseline's before it counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import memory, operations, system_memory, timing, training_data, training_steps
from benchmarks.conftest import device_of, is_smoke, out_of_time, sizes_of
from benchmarks.system_cases import SIZES, Size

_SAME_PIXELS = 1e-5  # of normalised crops


@dataclass
class Row:
    name: str
    stage: str
    kind: str
    implementation: str
    device: str
    workers: int = 0

    @property
    def size(self) -> Size:
        return SIZES[self.name]

    @property
    def what(self) -> str:
        workers = f", {self.workers} workers" if self.kind == "data" else ""
        return f"{self.stage} {self.kind}{workers}"

    @property
    def label(self) -> str:
        return f"{self.name}-{self.what}-{self.implementation}".replace(" ", "_")


def _rows(config: pytest.Config) -> list[Row]:
    device = device_of(config)
    names = training_steps.IMPLEMENTATIONS
    rows = []
    for name in sizes_of(config, device):
        for stage in training_steps.STAGES:
            rows += [Row(name, stage, "step", one, device) for one in names]
            workers = 8 if device == "cuda" else 0  # as the product chooses on two cores
            rows += [  # data have no precision
                Row(name, stage, "data", one, device, workers) for one in names[:2]
            ]
            if not name.startswith("w") or device == "cuda":
                rows += [Row(name, stage, "training", one, device, workers) for one in names]
    return rows


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rows = _rows(metafunc.config)
    metafunc.parametrize("row", rows, ids=[row.label for row in rows])


class _Prepared:
    """The images, and what the baseline's first step gave."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._expected, self._errors = folder, {}, {}  # type: ignore[var-annotated]

    def error(self, row: Row) -> float:
        """Difference of loss and gradients from the baseline's."""
        key = row.name, row.stage, row.implementation
        if key not in self._errors:
            first = key[:2]
            if first not in self._expected:
                self._expected = {
                    first: training_steps.expected_step(row.size, row.stage, row.device)
                }
            found = self._expected[first]
            if row.implementation != "baseline":
                found = training_steps.our_step(row.size, row.stage, row.implementation, row.device)
            self._errors[key] = training_steps.difference(found, self._expected[first])
        return self._errors[key]

    def root(self, smoke: bool) -> Path:
        root = self.folder / "images"
        if not root.exists():
            training_data.write(root, smoke)
        return root


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> _Prepared:
    return _Prepared(tmp_path_factory.mktemp("training"))


def test_training(
    benchmark: Any, row: Row, prepared: _Prepared, request: pytest.FixtureRequest
) -> None:
    if out_of_time(request.config):
        pytest.skip("no time left (--stop-after)")
    smoke, budget = is_smoke(request.config), request.config.getoption("--budget")
    benchmark.extra_info |= {
        "suite": "training",
        "case": row.name,
        "what": row.what,
        "implementation": row.implementation,
        "dtype": training_steps.precision_of(row.implementation),
        "device": row.device,
        "threads": torch.get_num_threads(),
        "items": training_steps.batch_size(row.size, row.stage),
        "peak_extra_bytes": None,
    }
    if row.kind == "data":
        error, bound, seconds, more = _data(row, prepared, smoke)
    else:
        error = prepared.error(row)
        bound = training_steps.BOUNDS[training_steps.precision_of(row.implementation)]
        make = _step if row.kind == "step" else _together
        seconds, more = make(row, prepared, smoke, budget)
        if row.kind == "step" and not smoke and not request.config.getoption("--no-memory"):
            more["peak_extra_bytes"] = _peak(row)
    benchmark.extra_info |= more | {
        "matches": error <= bound,
        "relative_error": error,
        "bound": bound,
        "seconds": seconds,
    }
    benchmark.pedantic(lambda: None, rounds=1)  # the row's times are its steps'
    assert error <= bound, f"differs from the baseline by {error:.2e}"


def _step(
    row: Row, prepared: _Prepared, smoke: bool, budget: float
) -> tuple[list[float], dict[str, Any]]:
    place = row.name, row.stage, row.implementation, row.device
    if smoke:
        return training_steps.step_seconds(*place, steps=2), {}
    once: list[float] = []
    two = training_steps.prepare(*place, steps=2)
    done = operations.count(lambda: once.extend(two())) // 2
    steps = timing.round_count(once[0], budget, least=2 if once[0] > 3 else 3, most=50)
    return training_steps.step_seconds(*place, steps=steps + 1), {"operations": done}


def _data(
    row: Row, prepared: _Prepared, smoke: bool
) -> tuple[float, float, list[float], dict[str, Any]]:
    steps = 3 if smoke else max(4, 144 // training_steps.batch_size(row.size, row.stage))
    steps *= 1 + row.workers
    place = row.name, row.stage, row.implementation, row.device, prepared.root(smoke), steps
    _, batches = training_data.make_batches(*place, row.workers)
    first, later = training_data.data_seconds(batches)
    error = 0.0
    if row.implementation != "baseline":
        _, ours = training_data.make_batches(*place, 0)
        _, plain = training_data.make_batches(*place[:2], "baseline", *place[3:], 0)
        error = training_data.same_batches(ours, plain)
    # Workers prepare batches while the first one is waited for: only the whole epoch says how fast
    # they are. Without them that batch alone waits for the first frames.
    times = [sum(later) / len(later)] * 3 if row.workers else later[1:]
    return error, _SAME_PIXELS, times, {"first_epoch_ms": 1e3 * sum(first) / len(first)}


def _together(
    row: Row, prepared: _Prepared, smoke: bool, budget: float
) -> tuple[list[float], dict[str, Any]]:
    place = row.name, row.stage, row.implementation, row.device
    steps = 3
    if not smoke:
        (once,) = training_steps.step_seconds(*place, steps=2)
        steps = timing.round_count(once, budget, least=4, most=20)
    config, batches = training_data.make_batches(*place, prepared.root(smoke), steps, row.workers)
    return training_data.training_seconds(*place, batches, config), {}


def _peak(row: Row) -> int | None:
    if row.device != "cuda":
        return system_memory.peak(row.name, row.what, row.implementation, torch.get_num_threads())
    call = training_steps.prepare(row.name, row.stage, row.implementation, "cuda", steps=1)

    def steps() -> dict[str, torch.Tensor]:
        call()
        return {}

    return memory.growth_on_cuda(steps)
