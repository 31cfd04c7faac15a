"""Find the fastest configurations on the GPU at hand, and write them as a table.

    python -m pwkernels.gpu.tune --case window aggregate --out pwkernels/gpu/configs.json

Every candidate's result is compared with the default configuration's before it is timed; the time
is the median of ``triton.testing.do_bench``. A table that exists is extended.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import triton

from ..gradients import Needs
from . import launch, offset_conv
from .configs import (
    KERNELS,
    OFFSET_CONV,
    TABLE,
    Config,
    Workload,
    default_config,
    load_table,
    row_blocks,
    save_table,
    table_key,
)
from .offline import CASES, DTYPES, case_tensors, offset_conv_tensors, prepare_case

# Candidates may sum in another order, in half precision by dot: not bit for bit the same.
_TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 4e-3}


def candidates(kernel: str, outputs: int) -> Iterator[Config]:
    """Configurations worth timing for ``outputs`` outputs per weight group."""
    if outputs <= 32:
        row_outputs = [outputs]
    else:
        row_outputs = sorted({-(-outputs // -(-outputs // most)) for most in (16, 24, 32)})
    rows_per_step = (1, 2, 3) if kernel == "weight" else (1,)
    unrolls = (1,) if kernel == "weight" else (1, 3)
    for block_p, block_o, block_r, unroll, warps, splits in itertools.product(
        (128, 256, 512, 1024), row_outputs, rows_per_step, unrolls, (2, 4, 8), (0, 1)
    ):
        if 32 * warps <= block_p <= 128 * warps:
            yield Config(False, block_p, block_o, block_r, unroll, warps, 1, splits)
    widest = 1 << max(4, (outputs - 1).bit_length())
    for block_p, block_o, block_r, warps, stages in itertools.product(
        (32, 64, 128), sorted({min(widest, 32), min(widest, 64), min(widest, 128)}),
        (16, 32), (4, 8), (1, 2),
    ):  # fmt: skip
        yield Config(True, block_p, block_o, block_r, 1, warps, stages, 0)


def offset_conv_candidates(rows: int) -> Iterator[Config]:
    """Configurations of the kernel with the offset convolutions worth timing for ``rows`` rows.

    Blocks of 128 pixels x 320 offsets fill the registers of a multiprocessor; smaller ones read
    more from the L2 cache but let one program sample while another multiplies.
    """
    for block_p, widest, block_f, block_s, warps, stages in itertools.product(
        (64, 128), (64, 128), (32, 64), (16, 32), (4, 8, 16), (2, 3, 4)
    ):
        first, second = row_blocks(rows, widest)
        # Accumulators per thread: fewer leave tensor cores idle, more do not fit.
        if 40 <= 2 * block_p * (first + second) // (32 * warps) <= 160:
            yield Config(
                True, block_p, 16, first, num_warps=warps, num_stages=stages,
                block_r2=second, block_s=block_s, block_f=block_f,
            )  # fmt: skip


def _planned(
    kernel: str, call: launch.Call, tensors: dict[str, Any], config: Config, needs: Needs
) -> tuple[list[torch.Tensor], list[launch.Launch]]:
    """What a kernel writes, and the launches that write it."""
    if kernel == "forward":
        out, launches = launch.plan_forward(call, tensors["bias"], config)
        return [out], launches
    if kernel == "data":
        buffers, launches = launch.plan_data(call, tensors["grad_output"], needs, False, config)
        wanted = [*buffers.offsets] if needs.offsets else []
        wanted += [*buffers.masks] if needs.masks and call.masks else []
        return wanted + ([buffers.input] if needs.input else []), launches
    partial, launches = launch.plan_weight(call, tensors["grad_output"], config)
    return [partial], launches


_Planner = Callable[[Config], tuple[list[torch.Tensor], list[launch.Launch]]]


def _planner(
    kernel: str, case: str, dtype: str, needs: Needs
) -> tuple[str, Workload, Iterator[Config], _Planner]:
    """Architecture, workload, candidates, and what plans the kernel with one of them."""
    if kernel == OFFSET_CONV:
        tensors = offset_conv_tensors(CASES[case], DTYPES[dtype], "cuda")
        names = ("features", "input", "offset_weight", "weight")
        features, input, offset_weight, weight = (tensors[name] for name in names)
        allow_tf32 = torch.get_float32_matmul_precision() != "highest"
        work = offset_conv.workload(features, input, offset_weight, weight, allow_tf32)

        def planned(config: Config) -> tuple[list[torch.Tensor], list[launch.Launch]]:
            out, launches = offset_conv.plan(**tensors, config=config)
            return [out], launches

        arch = launch.target_of(input).arch
        return arch, work, offset_conv_candidates(work.offset_groups * work.taps), planned
    tensors = case_tensors(CASES[case], DTYPES[dtype], "cuda")
    call = prepare_case(tensors)
    return (
        call.target.arch,
        call.work,
        candidates(kernel, call.work.out_per_group),
        lambda config: _planned(kernel, call, tensors, config, needs),
    )


def _run(kernel: str, outputs: list[torch.Tensor], launches: list[launch.Launch]) -> list:
    for one in launches:
        one.run()
    return [outputs[0].sum(0)] if kernel == "weight" else outputs


def _difference(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    """Largest difference relative to the largest value; infinite where anything is not finite."""
    worst = 0.0
    for one, other in zip(got, wanted, strict=True):
        error = (one.float() - other.float()).abs().max() / other.float().abs().max()
        worst = max(worst, float(error) if bool(error.isfinite()) else float("inf"))
    return worst


def tune(
    kernel: str, case: str, dtype: str, needs_input: bool = False
) -> tuple[str, Config, dict[str, float]]:
    """Key, fastest configuration, and the milliseconds of every candidate that agrees.

    ``needs_input`` also times the scatter of the input gradient in the data kernel.
    """
    needs = Needs(needs_input, True, True, False)
    arch, work, possible, planned = _planner(kernel, case, dtype, needs)
    default = default_config(kernel, arch, work)
    wanted = [tensor.clone() for tensor in _run(kernel, *planned(default))]
    times: dict[Config, float] = {}
    for config in dict.fromkeys([default, *possible]):
        try:
            outputs, launches = planned(config)
            error = _difference(_run(kernel, outputs, launches), wanted)
        except (triton.runtime.errors.OutOfResources, triton.errors.TritonError) as reason:
            print(f"  does not launch: {config}: {str(reason).splitlines()[0]}", file=sys.stderr)
            continue
        if error > _TOLERANCE[dtype]:
            print(f"  WRONG by {error:.1e}: {config}", file=sys.stderr)
            continue
        times[config] = triton.testing.do_bench(
            lambda launches=launches: [one.run() for one in launches], return_mode="median"
        )
    best = min(times, key=times.__getitem__)
    print(
        f"{case} {kernel} {dtype}: {times[best] * 1e3:.1f} us (default {times[default] * 1e3:.1f} "
        f"us, {len(times)} candidates) {best}"
    )
    measured = {json.dumps(asdict(config)): time for config, time in times.items()}
    return table_key(kernel, arch, work), best, measured


def main() -> None:
    """Command line; exits with a message where there is no GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m pwkernels.gpu.tune", description="Time launch configurations on this GPU."
    )
    parser.add_argument("--case", nargs="+", default=["window"], choices=list(CASES))
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument(
        "--kernel", nargs="+", default=list(KERNELS), choices=(*KERNELS, OFFSET_CONV)
    )
    parser.add_argument("--needs-input", action="store_true", help="with the input's gradient")
    parser.add_argument("--out", type=Path, default=TABLE, help=f"table (default {TABLE})")
    parser.add_argument("--times", type=Path, help="also write all times, as JSON")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("tuning times kernels on a GPU, and PyTorch sees none here")
    if launch.INTERPRETED:
        sys.exit("tuning needs compiled kernels: unset TRITON_INTERPRET")
    table = dict(load_table(options.out))
    times: dict[str, dict[str, float]] = {}
    for case, kernel, dtype in itertools.product(options.case, options.kernel, options.dtype):
        key, best, times[f"{kernel}/{case}/{dtype}"] = tune(
            kernel, case, dtype, options.needs_input
        )
        table[key] = best
        save_table(table, options.out)  # after each: a long run may be cut short
    if options.times:
        options.times.write_text(json.dumps(times, indent=1) + "\n")


if __name__ == "__main__":
    main()
