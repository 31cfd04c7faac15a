"""Peak memory of one call of the system beyond the model, its inputs and results.

    python -m benchmarks.system_memory --size small --what windows --implementation posewarper
    python -m benchmarks.system_memory --size small --what "warp step" --implementation baseline

prints one JSON object; see ``benchmarks.memory``. That of training has gradients and the state of
the optimiser in it.
"""

from __future__ import annotations

import argparse
import json

import torch

from benchmarks import aggregating, training_steps
from benchmarks.implementations import Call
from benchmarks.memory import can_measure, growth_on_cpu, peak_of_module
from benchmarks.system_cases import SIZES


def make_call(size_name: str, what: str, implementation: str, device: str) -> Call:
    """A call of a suite, warmed up at the smallest size."""
    if what in aggregating.WHATS:
        for name in ("smoke", size_name):
            size = SIZES[name]
            model = aggregating.make_model(size)
            crops = aggregating.make_crops(size, what)
            run = aggregating.make_call(implementation, model, device)
            if name == "smoke":
                run(crops)
        return lambda: {"heatmaps": run(crops)}
    stage = what.split()[0]
    training_steps.step_seconds("smoke", stage, implementation, device, steps=2)
    prepared = training_steps.prepare(size_name, stage, implementation, device, steps=2)

    def steps() -> dict[str, torch.Tensor]:
        prepared()
        return {}

    return steps


def peak(size: str, what: str, implementation: str, threads: int) -> int | None:
    """The peak of a call on the CPU in a process of its own; None where nobody can tell."""
    return peak_of_module(
        "benchmarks.system_memory", "--size", size, "--what", what, "--implementation",
        implementation, "--threads", str(threads),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument(
        "--what", choices=(*aggregating.WHATS, *training_steps.STEPS), required=True
    )
    parser.add_argument("--implementation", default="posewarper")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    extra = None
    if can_measure():
        extra = growth_on_cpu(make_call(options.size, options.what, options.implementation, "cpu"))
    print(json.dumps({**vars(options), "peak_extra_bytes": extra}))


if __name__ == "__main__":
    main()
