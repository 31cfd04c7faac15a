"""The same network in several runtimes, on the same crops: PyTorch, compiled or not, and files.

    python -m benchmarks.runtime_table --measure --sizes small
    pytest benchmarks/test_bench_runtimes.py --benchmark-disable     # --full: compiled ones, too

A call takes RGB bytes and returns heatmaps and joints. "eager" is what the commands of the library
do; the other three run the graph of ``posewarper export``, BatchNorm folded. Every row is
compared with the model as it is, in float32, before it is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import timing
from benchmarks.conftest import device_of, is_smoke, sizes_of
from benchmarks.implementations import _onnxruntime_runs_deform_conv
from benchmarks.system_cases import SIZES, Size, crop_sequence, make_model
from posewarper.export.graphs import Graph
from posewarper.export.packages import to_package
from posewarper.export.writing import to_onnx
from posewarper.heatmaps import decode
from posewarper.inference.predictor import PosePredictor
from posewarper.models import HEATMAP_STRIDE, PoseModel, channels_last

IMPLEMENTATIONS = ("eager", "compiled", "onnxruntime", "aoti")
MODES = ("single", "aggregate")
BATCHES = (1, 8)
BOUND = 1e-4  # of heatmaps, as a share of the largest value where that is above 1
_COMPILED = ("compiled", "aoti")  # half a minute and more before the first call

Call = Callable[[Tensor], Tensor]  # images in, heatmaps [B, J, h, w] out


@dataclass
class Row:
    size: str
    mode: str
    batch: int
    implementation: str
    device: str

    @property
    def label(self) -> str:
        return f"{self.size}-{self.mode}-{self.batch}-{self.implementation}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    device = device_of(config)
    leave_out = {"onnxruntime"} if device == "cuda" or not _onnxruntime_runs_deform_conv() else {""}
    if is_smoke(config) and not config.getoption("--full"):
        leave_out |= set(_COMPILED)
    rows = [
        Row(size, mode, batch, implementation, device)
        for size in sizes_of(config, device)
        for mode in MODES
        for batch in BATCHES[: 1 if is_smoke(config) else None]
        for implementation in IMPLEMENTATIONS
        if implementation not in leave_out
    ]
    metafunc.parametrize("row", rows, ids=[row.label for row in rows])


class _Prepared:
    """Model, images and calls of the latest size and mode, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key: tuple[str, str] = ("", "")

    def get(self, row: Row) -> tuple[Call, float, Tensor, Tensor]:
        """The call, seconds that it took to make, images, the heatmaps that they have to give."""
        if self.key != (row.size, row.mode):
            size: Size = SIZES[row.size]
            self.model = make_model(size)
            frames = crop_sequence(size, max(BATCHES) + 4)
            starts = range(max(BATCHES))
            self.images = (
                frames[: max(BATCHES)]
                if row.mode == "single"
                else torch.stack([frames[i : i + 5] for i in starts])
            )
            graph = _graph(self.model, row.mode, fold=False)
            with torch.no_grad():
                self.expected = torch.cat([graph.heatmaps(x[None]) for x in self.images])
            self.calls: dict[str, tuple[Call, float]] = {}
            self.key = row.size, row.mode
        if row.implementation not in self.calls:
            start = time.perf_counter()
            call = _make_call(row, self.model, self.folder)
            self.calls[row.implementation] = call, time.perf_counter() - start
        call, seconds = self.calls[row.implementation]
        images = self.images[: row.batch].contiguous().to(row.device)
        return call, seconds, images, self.expected[: row.batch]


def _graph(model: PoseModel, mode: str, fold: bool) -> Graph:
    window = model.config.window if mode == "aggregate" else None
    graph = Graph(model, mode, window=window, refinement=model.refinement, bytes_in=True, fold=fold)
    return graph.eval()


def _make_call(row: Row, model: PoseModel, folder: Path) -> Call:
    file = folder / f"{row.size}-{row.mode}"
    if row.implementation == "eager":
        predictor = PosePredictor(model, device=row.device)

        def eager(images: Tensor) -> Tensor:
            heatmaps = predictor.heatmaps(images.reshape(-1, *images.shape[-3:]))
            if row.mode == "aggregate":
                heatmaps = predictor.aggregate(heatmaps.unflatten(0, images.shape[:2]))
            places, _ = decode(heatmaps, model.refinement, model.sigma)
            places *= HEATMAP_STRIDE
            return heatmaps

        return eager
    if row.implementation == "compiled":
        graph = _graph(model, row.mode, fold=True).to(row.device)
        channels_last(graph.network)
        compiled = torch.compile(graph, fullgraph=True)

        def run_compiled(images: Tensor) -> Tensor:
            with torch.no_grad():
                return compiled(images)[-1]

        return run_compiled
    if row.implementation == "onnxruntime":
        import onnxruntime

        file = file.with_suffix(".onnx")
        to_onnx(model, file, mode=row.mode, compare_results=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        (name,) = [value.name for value in session.get_inputs()]
        outputs = ["joints", "scores", "heatmaps"]
        return lambda images: torch.from_numpy(session.run(outputs, {name: images.numpy()})[-1])
    file = file.with_suffix(".pt2")
    to_package(model, file, mode=row.mode, device=row.device, compare_results=False)
    package = torch._inductor.aoti_load_package(str(file))
    return lambda images: package(images)[-1]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> _Prepared:
    return _Prepared(tmp_path_factory.mktemp("runtimes"))


@pytest.mark.benchmark(timer=timing.clock)
def test_runtime(
    benchmark: Any, row: Row, prepared: _Prepared, request: pytest.FixtureRequest
) -> None:
    call, seconds, images, expected = prepared.get(row)
    start = time.perf_counter()
    heatmaps = call(images).cpu()
    seconds += time.perf_counter() - start
    error = float((heatmaps - expected).abs().max() / expected.abs().max().clamp_min(1))
    benchmark.group = f"{row.size} {row.mode} {row.batch}"
    benchmark.extra_info |= {
        "case": row.size,
        "what": row.mode,
        "batch": row.batch,
        "implementation": row.implementation,
        "dtype": "float32",
        "device": row.device,
        "threads": torch.get_num_threads(),
        "matches": error <= BOUND,
        "relative_error": error,
        "bound": BOUND,
        "preparation_seconds": seconds,
    }
    assert error <= BOUND, f"heatmaps differ by {error:.2e} of the largest value"
    if is_smoke(request.config):
        benchmark.pedantic(call, (images,), rounds=1)
        return
    once = timing.duration(lambda: call(images))
    rounds = timing.round_count(once, request.config.getoption("--budget"), least=3)
    benchmark.pedantic(call, (images,), rounds=rounds, warmup_rounds=1)
