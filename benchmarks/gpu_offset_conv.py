"""The warp that computes its own offsets, on a GPU: checks, and times beside two passes.

The other way to the same result is what users write without it: D convolutions in bfloat16 on
channels-last tensors, whose offsets the fused warp then reads. ``gpu_run`` calls both parts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from benchmarks.cases import bounds, errors
from benchmarks.memory import growth_on_cuda
from benchmarks.timing import graph_seconds, percentiles
from pwkernels import multi_dilation_deform_warp, offset_conv_warp
from pwkernels.testing import (
    STANDARD_CASES,
    Case,
    Inputs,
    make_inputs,
    poisoned_empty,
    run_torchvision,
)

WINDOW = STANDARD_CASES["window"].of(window=5)
# Of each the number of features, and the warp, whose offsets are not used.
CASES = {
    "plain": (16, Case(2, 3, 4, (7, 9), (1, 2), 3)),
    "heatmaps": (32, Case(2, 17, 17, (24, 18), (3, 6), 17)),
    "33 features": (33, Case(2, 5, 5, (13, 11), (1, 2), 5)),
    "one feature": (1, Case(2, 5, 5, (13, 11), (1, 2), 5)),
    "window of 3": (48, Case(6, 5, 5, (11, 9), WINDOW.dilations, 5, window=3, reduction="sum")),
    "groups": (16, Case(2, 6, 4, groups=2, offset_groups=3)),
    "groups across": (16, Case(2, 6, 6, (8, 5), ((1, 2), (2, 1)), 2, groups=3)),
    "depthwise": (16, Case(2, 6, 6, groups=6, offset_groups=2)),
    "64 outputs": (64, Case(2, 64, 64, (28, 28), (1,), 4)),
    "kernel 3 x 5": (16, Case(2, 3, 4, kernel=(3, 5), offset_groups=3)),
    "one row": (16, Case(2, 4, 4, (1, 11), offset_groups=2)),
    "one pixel": (16, Case(1, 4, 4, (1, 1))),
    "empty batch": (16, Case(0)),
    "far offsets": (16, Case(offset_scale=40.0)),
    "many pixels": (64, Case(3, 17, 17, (131, 67), (3, 6, 12), 17)),
    "window": (128, WINDOW),
}
TINY = {"plain": (3, Case(1, 2, 3, (4, 5), (1, 2), 2, window=1))}
DTYPES: dict[str, dict[str, torch.dtype]] = {
    "fp32": {},
    "bf16": {"features": torch.bfloat16, "input": torch.bfloat16},
    "fp16": {"features": torch.float16, "input": torch.float16},
    "fp32, bf16 features": {"features": torch.bfloat16},
    "bf16, fp32 features": {"input": torch.bfloat16},
}
_EVERY_DTYPE = ("heatmaps", "window")
_FORCED = "small blocks"
_SMALL_BLOCKS = ("heatmaps", "window of 3")


@dataclass
class Tensors:
    """The tensors of a call; ``weight`` and ``frame_weights`` float32, on one device."""

    features: Tensor
    input: Tensor
    offset_weight: Tensor
    weight: Tensor
    frame_weights: Tensor | None

    def fused(self, case: Case, backend: str = "triton") -> Tensor:
        """By the kernel."""
        return offset_conv_warp(
            self.features, self.input, self.offset_weight, self.weight, dilations=case.dilations,
            reduction=case.reduction, frame_weights=self.frame_weights, backend=backend,
        )  # fmt: skip

    def offsets(self, case: Case) -> list[Tensor]:
        """D offsets by convolutions in the features' dtype."""
        return [
            conv2d(self.features, self.offset_weight[d], padding=dilation, dilation=dilation)
            for d, dilation in enumerate(case.geometry.dilations)
        ]

    def composed(self, case: Case) -> Tensor:
        """By convolutions, then the fused warp."""
        return multi_dilation_deform_warp(
            self.input, self.offsets(case), self.weight, dilations=case.dilations,
            reduction=case.reduction, frame_weights=self.frame_weights, backend="triton",
        )  # fmt: skip


def make_tensors(
    case: Case, features: int, dtypes: dict[str, torch.dtype], device: str, seed: int = 0
) -> Tensors:
    """Random and channels-last; offsets have the case's ``offset_scale``."""
    inputs = make_inputs(case.of(offset_groups=1), seed, device)  # its offsets are not used
    generator = torch.Generator().manual_seed(seed)
    kind = dtypes.get("features", torch.float32)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    rows = 2 * case.offset_groups * case.geometry.taps
    kernels = normal(len(case.dilations), rows, features, 3, 3)
    kernels *= case.offset_scale / (9 * features) ** 0.5
    maps = normal(case.frames, features, *case.size)
    return Tensors(
        maps.to(device, kind, memory_format=torch.channels_last),
        inputs.input.to(dtypes.get("input", torch.float32)),
        kernels.to(device, kind),
        inputs.weight,
        inputs.frame_weights,
    )


def _reference(case: Case, tensors: Tensors) -> Tensor:
    """In float64 on the tensors' device."""
    frame_weights = tensors.frame_weights
    doubles = Tensors(
        tensors.features.double(), tensors.input.double(), tensors.offset_weight.double(),
        tensors.weight.double(), None if frame_weights is None else frame_weights.double(),
    )  # fmt: skip
    offsets = doubles.offsets(case)
    inputs = Inputs(doubles.input, offsets, doubles.weight, frame_weights=doubles.frame_weights)
    return run_torchvision(case, inputs)


@contextlib.contextmanager
def _small_blocks(wanted: bool) -> Iterator[None]:
    """Two blocks of rows, pieces of them, several blocks of features, partial sums."""
    if not wanted:
        yield
        return
    from pwkernels.gpu import offset_conv
    from pwkernels.gpu.configs import Config

    config = Config(True, 32, 16, 32, splits=3, num_stages=2, block_r2=16, block_f=16)
    with mock.patch.object(offset_conv, "choose", lambda kernel, arch, work: config):
        yield


def check(task: tuple[str, str, str, bool]) -> dict[str, Any]:
    """One case in one dtype and mode, as ``gpu_correctness.check``."""
    name, dtype, mode, tiny = task
    features, case = (TINY if tiny else CASES)[name]
    found: dict[str, Any] = {"case": f"offset conv, {name}", "dtype": dtype, "mode": mode}
    try:
        tensors = make_tensors(case, features, DTYPES[dtype], "cpu" if tiny else "cuda", 7)
        with _small_blocks(mode == _FORCED), poisoned_empty():
            first, second = tensors.fused(case), tensors.fused(case)
        share = errors({"output": first}, {"output": _reference(case, tensors)})["output"]
        # Half operands of the second product, or float32 offsets that differ by a few roundings.
        half = tensors.input.dtype != torch.float32
        share /= bounds(tensors.input.dtype, half_dot=half)[0]
        same = torch.equal(first, second)
        found |= {
            "error_share": share,
            "worst_result": "output",
            "not_deterministic": [] if same else ["output"],
            "ok": share <= 1 and same,
        }
    except Exception as error:
        found |= {"ok": False, "exception": f"{type(error).__name__}: {str(error)[-600:]}"}
    return found


def tasks(tiny: bool) -> list[tuple[str, str, str, bool]]:
    """All (case, dtype, mode). A kernel takes long to compile: not every combination."""
    if tiny:
        return [("plain", "fp32", "default", True), ("plain", "bf16", "default", True)]
    found = [(name, dtype, "default", False) for name in CASES for dtype in ("fp32", "bf16")]
    found += [(n, dtype, "default", False) for n in _EVERY_DTYPE for dtype in list(DTYPES)[2:]]
    return found + [(n, dtype, _FORCED, False) for n in _SMALL_BLOCKS for dtype in DTYPES]


def measure(sets: int = 8) -> list[dict[str, Any]]:
    """Seconds (as captured graphs) and peak memory of PoseWarper's head in bfloat16, both ways."""
    rows = []
    for name, case in {"window": WINDOW, "frames": STANDARD_CASES["window"]}.items():
        inputs = [make_tensors(case, 128, DTYPES["bf16"], "cuda", seed) for seed in range(sets)]
        pairs = len(case.dilations) * case.frames * case.size[0] * case.size[1]
        operations = 2 * pairs * 2 * case.offset_groups * case.geometry.taps * 9 * 128
        for way in ("fused", "composed"):
            calls = [
                lambda one=one, way=way, case=case: {"output": getattr(one, way)(case)}
                for one in inputs
            ]
            calls[0]()
            p20, p50, p80 = percentiles(graph_seconds(calls))
            rows.append(
                {
                    "case": name,
                    "way": way,
                    "seconds_p20": p20,
                    "seconds_p50": p50,
                    "seconds_p80": p80,
                    "operations_per_second": operations / p50,
                    "peak_extra_bytes": growth_on_cuda(calls[0]),
                }
            )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text, and how often the fused way is faster."""
    lines = [f"{'case':8} {'way':9} {'us':>8} {'TFLOP/s':>8} {'peak MB':>8}"]
    lines += [
        f"{row['case']:8} {row['way']:9} {row['seconds_p50'] * 1e6:8.1f} "
        f"{row['operations_per_second'] / 1e12:8.0f} {row['peak_extra_bytes'] / 1e6:8.1f}"
        for row in rows
    ]
    for fused, composed in zip(rows[::2], rows[1::2], strict=True):
        ratio = composed["seconds_p50"] / fused["seconds_p50"]
        lines.append(f"{fused['case']}: composed / fused = {ratio:.2f}")
    return "\n".join(lines)
