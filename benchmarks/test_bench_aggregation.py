"""People's poses from windows of frames: the network alone, and from a video file to results.

    python -m benchmarks.run --suite system                 # this and the suite of training
    pytest benchmarks/test_bench_aggregation.py --sizes small --video clip.mp4

Every row is against ``benchmarks.baseline`` with the same weights on the same input in the same
run, and is compared with it before it is timed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import aggregating, memory, operations, system_memory, timing, video_run
from benchmarks.conftest import device_of, is_smoke, out_of_time, sizes_of
from benchmarks.system_cases import SIZES, Size
from posewarper.models import load_model


@dataclass
class Row:
    name: str
    what: str
    implementation: str
    device: str

    @property
    def size(self) -> Size:
        return SIZES[self.name]

    @property
    def label(self) -> str:
        return f"{self.name}-{self.what}-{self.implementation}".replace(" ", "_")

    def about(self, error: float, bound: float) -> dict[str, Any]:
        """What every row of the system says."""
        return {
            "suite": "aggregation",
            "case": self.name,
            "what": self.what,
            "implementation": self.implementation,
            "dtype": aggregating.precision_of(self.implementation),
            "device": self.device,
            "threads": torch.get_num_threads(),
            "matches": error <= bound,
            "relative_error": error,
            "bound": bound,
        }


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    config = metafunc.config
    network = metafunc.function.__name__ == "test_network"
    device = device_of(config)
    rows = [
        Row(name, what, implementation, device)
        for name in sizes_of(config, device)
        for what in (aggregating.WHATS if network else video_run.WHATS)
        for implementation in (
            aggregating.implementations(what, config.getoption("--compiled"))
            if network
            else video_run.IMPLEMENTATIONS
        )
        # Large networks take minutes on a processor, and tell no more than alone.
        if network or (name in ("smoke", "small") or device == "cuda")
        # In a video that is given one box is held in any case.
        if network or what == "video" or not config.getoption("--video")
    ]
    metafunc.parametrize("row", rows, ids=[row.label for row in rows])


@pytest.fixture(scope="module")
def prepared() -> aggregating.Prepared:
    return aggregating.Prepared()


@pytest.mark.benchmark(timer=timing.clock)
def test_network(
    benchmark: Any, row: Row, prepared: aggregating.Prepared, request: pytest.FixtureRequest
) -> None:
    if out_of_time(request.config):
        pytest.skip("no time left (--stop-after)")
    options = request.config.getoption
    prepared.get(row.name, row.size, row.what, row.device)
    crops = prepared.crops
    call = aggregating.make_call(row.implementation, prepared.model, row.device)
    compiled, error = "-compiled" in row.implementation, 0.0
    if row.implementation == "baseline":
        done, seconds = prepared.operations, prepared.seconds
    elif compiled:  # of which no operation can be seen
        error = aggregating.difference(call(crops), prepared.expected)
        done, seconds = None, timing.duration(lambda: call(crops))
    else:
        error = aggregating.difference(call(crops), prepared.expected)
        _, done, seconds = aggregating.counted(call, crops)  # without what is done only once
    bound = aggregating.BOUNDS[aggregating.precision_of(row.implementation)]
    about = row.about(error, bound)
    benchmark.extra_info |= about | {
        "items": aggregating.key_frames(row.size, row.what),
        "operations": done,
        "peak_extra_bytes": None,
    }
    if row.implementation == "baseline" and row.what == aggregating.WHATS[0]:
        benchmark.extra_info["operations_by_part"] = operations.by_part(prepared.model, row.size)
    if is_smoke(request.config):
        benchmark.pedantic(call, (crops,), rounds=1)
    else:
        if row.what == "windows" and not compiled and not options("--no-memory"):
            benchmark.extra_info["peak_extra_bytes"] = (
                memory.growth_on_cuda(lambda: {"heatmaps": call(crops)})
                if row.device == "cuda"
                else system_memory.peak(
                    row.name, row.what, row.implementation, torch.get_num_threads()
                )
            )
        if seconds < 2:  # the first call warmed up
            seconds = timing.duration(lambda: call(crops))
        least = 2 if seconds > 3 else 3 if seconds > 1 else 5
        rounds = timing.round_count(seconds, options("--budget"), least=least)
        benchmark.pedantic(call, (crops,), rounds=rounds)
    assert about["matches"], f"differs from the baseline by {error:.2e}"


class _Expected:
    """The clip and the baseline's joints of the latest case."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder, ("", "")

    def get(self, row: Row, video: Path | None, frames: int) -> None:
        if self.key != (row.name, row.what):
            self.clip = video_run.make_clip(
                self.folder / row.name, row.size, row.what, video, frames
            )
            self.baseline = video_run.BaselineVideo(load_model(self.clip.model), row.device)
            self.run = self.baseline.run(self.clip, self.folder / "baseline.json", frames)
            self.joints = video_run.baseline_joints(self.folder / "baseline.json")
            self.key = row.name, row.what


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> _Expected:
    return _Expected(tmp_path_factory.mktemp("videos"))


def test_video(
    benchmark: Any, row: Row, expected: _Expected, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if out_of_time(request.config):
        pytest.skip("no time left (--stop-after)")
    video = request.config.getoption("--video")
    if video is not None and not Path(video).is_file():
        pytest.skip(f"--video: there is no file {video}")
    smoke = is_smoke(request.config)
    frames = 4 if smoke else 48 if row.device == "cuda" else 24
    expected.get(row, None if video is None else Path(video), frames)
    out, runs = tmp_path / "poses.json", []

    def run() -> None:
        if row.implementation == "baseline":
            runs.append(expected.baseline.run(expected.clip, out, frames))
        else:
            runs.append(
                video_run.run_ours(expected.clip, row.implementation, row.device, out, frames)
            )

    benchmark.pedantic(run, rounds=1 if smoke else 3)
    joints = video_run.baseline_joints if row.implementation == "baseline" else video_run.our_joints
    error = video_run.share_apart(joints(out), expected.joints)
    _, split = sorted(runs, key=lambda one: one[0])[len(runs) // 2]
    about = row.about(error, video_run.BOUNDS[aggregating.precision_of(row.implementation)])
    benchmark.extra_info |= about | {
        "items": sum(len(boxes) for boxes in expected.clip.boxes[:frames]),
        "frames": frames,
        "video": "synthetic" if video is None else Path(video).name,
        "seconds": [one for one, _ in runs],
        "split_ms": split.milliseconds_per(frames),
    }
    assert about["matches"], f"{100 * error:.1f} % of the joints differ from the baseline's"
