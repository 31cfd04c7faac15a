"""Every Triton kernel on real hardware against torchvision in float64 on the CPU.

Kernels: by rows and by ``tl.dot``, forward, data and weight, and what ``configs`` chooses. Each
case runs twice in deterministic mode with memory that is filled with NaN (same bits? every element
written?) and once in the default mode.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks import gpu_offset_conv
from benchmarks.cases import bounds, errors
from pwkernels.testing import (
    STANDARD_CASES,
    Case,
    Inputs,
    expected,
    make_inputs,
    poisoned_empty,
    run,
    with_gradients,
)

FIVE = STANDARD_CASES["window"].dilations
CASES = {
    "plain": Case(),
    "heatmaps": Case(2, 17, 17, (12, 9), FIVE[:2], 17, bias=True),
    "window of 3": Case(6, 5, 5, (11, 9), FIVE, 5, window=3, bias=True),
    "masked window": Case(4, 4, 6, (6, 8), FIVE[:2], window=2, masks=True),
    "widening": Case(2, 3, 7, offset_groups=3, masks=True),
    "groups": Case(2, 6, 4, groups=2, offset_groups=3, masks=True, bias=True),
    "groups across": Case(2, 6, 6, (8, 5), ((1, 2), (2, 1)), groups=3, offset_groups=2),
    "depthwise": Case(2, 6, 6, groups=6, offset_groups=2),
    "stride 2": Case(2, 4, 6, (9, 12), stride=(2, 2), paddings=((1, 1),), masks=True),
    "stride 2 x 1, kernel 3 x 5": Case(
        size=(9, 12), stride=(2, 1), kernel=(3, 5), paddings=((0, 2),)
    ),
    "kernel 1 x 1": Case(kernel=(1, 1), masks=True),
    "kernel 2 x 4": Case(size=(9, 8), kernel=(2, 4), paddings=((1, 0),), bias=True),
    "one row": Case(size=(1, 11), offset_groups=2),
    "one column": Case(size=(11, 1), offset_groups=4, masks=True),
    "one pixel": Case(1, 4, 4, (1, 1)),
    "one channel": Case(2, 1, 1, masks=True),
    "48 channels, 12 groups": Case(2, 48, 48, (20, 17), (3,), 12),
    "129 channels": Case(1, 129, 65, (9, 7), (2,), 3, masks=True),
    "zero offsets": Case(offsets="zero", masks=True, offset_groups=4),
    "integer offsets": Case(
        2, 4, 4, dilations=FIVE[:2], offsets="integer", masks=True, offset_groups=4
    ),
    "far offsets": Case(offset_scale=40.0, masks=True),
    "empty batch": Case(frames=0, masks=True),
    "many pixels": Case(3, 17, 17, (131, 67), FIVE[:3], 17, masks=True, bias=True),
    **{name: case for name, case in STANDARD_CASES.items() if name != "training"},
}
FORCED = (
    "plain",
    "window of 3",
    "masked window",
    "groups across",
    "widening",
    "stride 2",
    "many pixels",
)
TINY = {
    "plain": Case(1, 2, 3, (4, 5)),
    "window of 2": Case(2, 3, 3, (4, 5), FIVE[:2], 3, window=2, masks=True, bias=True),
    "groups": Case(1, 4, 4, (3, 5), groups=2, offset_groups=4),
}
DTYPES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"dtype": torch.bfloat16},
    "fp16": {"dtype": torch.float16},
    "bf16, fp32 offsets": {"dtype": torch.bfloat16, "offset_dtype": torch.float32},
}
MODES = ("default", "rows", "dot")


def _forced(mode: str, interpreted: bool) -> dict[str, Any]:
    """Odd configurations, with the work split among programs."""
    from pwkernels.gpu.configs import Config

    if mode == "dot":
        pixels = 256 if interpreted else 64
        return {kernel: Config(True, pixels, 16, 16, splits=3) for kernel in _KERNELS}
    pixels = 256 if interpreted else 128
    return {
        "forward": Config(False, pixels, 5, unroll=2, splits=3),
        "data": Config(False, pixels, 32, splits=2),
        "weight": Config(False, pixels, 5, 2, splits=3),
    }


_KERNELS = ("forward", "data", "weight")


@contextlib.contextmanager
def _configs(mode: str) -> Iterator[None]:
    from pwkernels.gpu import launch

    if mode == "default":
        yield
        return
    forced = _forced(mode, launch.INTERPRETED)
    with mock.patch.object(launch, "choose", lambda kernel, arch, work: forced[kernel]):
        yield


def _worst(
    results: dict[str, Tensor], wanted: dict[str, Tensor], half_dot: bool
) -> tuple[float, str]:
    """The largest error as a share of its bound, and the result that it is in."""
    if results.keys() != wanted.keys():
        return math.inf, f"results are {sorted(results)}"
    shares = {}
    for name, error in errors(results, wanted).items():
        forward, gradient = bounds(results[name].dtype, half_dot)
        shares[name] = error / (forward if name == "output" else gradient)
    name = max(shares, key=shares.__getitem__)
    return shares[name], name


def _reference(name: str, case: Case, inputs: Inputs) -> dict[str, Tensor]:
    """In float64; large cases on the GPU, where torchvision has float64 kernels too."""
    if name not in STANDARD_CASES or inputs.input.device.type == "cpu":
        return {n: t.to(inputs.input.device) for n, t in expected(case, inputs).items()}
    from benchmarks.cases import reference

    return reference(case, inputs)


def check(task: tuple[str, str, str, bool]) -> dict[str, Any]:
    """One case in one dtype and mode; a dictionary that says what was found."""
    name, dtype, mode, tiny = task
    case = (TINY if tiny else CASES)[name].of(**DTYPES[dtype])
    found: dict[str, Any] = {"case": name, "dtype": dtype, "mode": mode}
    half_dot = case.dtype != torch.float32 and (
        mode == "dot" or case.out_channels // case.groups > 32
    )
    try:
        inputs = make_inputs(case, seed=7, device="cpu" if tiny else "cuda")
        wanted = _reference(name, case, inputs)

        def call() -> dict[str, Tensor]:
            return with_gradients(lambda leaves: run(case, leaves, "triton"), inputs)

        with _configs(mode):
            with poisoned_empty():
                first, second = call(), call()
            default = call()
        differing = [n for n in first if not torch.equal(first[n], second[n])]
        shares = [_worst(results, wanted, half_dot) for results in (first, default)]
        share, worst = max(shares)
        found |= {
            "error_share": share,  # of the bound: above 1 is wrong
            "worst_result": worst,
            "not_deterministic": differing,
            "ok": share <= 1 and not differing,
        }
    except Exception as error:
        found |= {"ok": False, "exception": f"{type(error).__name__}: {str(error)[-600:]}"}
    return found


def tasks(tiny: bool) -> list[tuple[str, str, str, bool]]:
    """All (case, dtype, mode); forced modes for the cases that reach every branch."""
    if tiny:  # interpreted, a case takes seconds
        found = [(name, "fp32", "default", True) for name in TINY]
        found += [("plain", "bf16, fp32 offsets", "default", True)]
        return found + [("plain", "fp32", mode, True) for mode in MODES[1:]]
    found = [(name, dtype, "default", False) for name in CASES for dtype in DTYPES]
    return found + [(n, d, mode, False) for n in FORCED for d in DTYPES for mode in MODES[1:]]


def check_all(tiny: bool = False, workers: int = 1) -> list[dict[str, Any]]:
    """Results of all tasks; several processes share the work, which is compiling mostly."""
    # Those of the offset convolutions take longest to compile, and come first.
    offset_conv_tasks = gpu_offset_conv.tasks(tiny)
    if workers <= 1:
        found = [gpu_offset_conv.check(task) for task in offset_conv_tasks]
        return found + [check(task) for task in tasks(tiny)]
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        found_first = pool.map(gpu_offset_conv.check, offset_conv_tasks)
        found_then = pool.map(check, tasks(tiny))
        return [*found_first, *found_then]
