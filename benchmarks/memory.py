"""Peak memory of one call beyond its inputs, outputs and gradients.

    python -m benchmarks.memory --case window --implementation pwkernels --what forward

prints one JSON object. On CPU it is the growth of the process's resident set, so every measurement
needs a process of its own (``peak_on_cpu`` starts one).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.cases import CASES, DTYPES, WHATS, benchmark_inputs, smoke, tensor_bytes
from benchmarks.implementations import Call, make_calls
from pwkernels.testing import Case

ROOT = Path(__file__).parent.parent
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def can_measure() -> bool:
    """Whether the system tells the peak of a process."""
    return _STATUS.exists() and os.access(_CLEAR_REFS, os.W_OK)


def growth_on_cpu(call: Call) -> int:
    """Growth of the resident set's peak during ``call``, without its results."""
    ctypes.CDLL(None).malloc_trim(0)  # free pages that stayed in the heap would hide the first ones
    _CLEAR_REFS.write_text("5")  # the peak becomes the present size
    before = _status_bytes("VmRSS")
    results = call()
    grown = _status_bytes("VmHWM") - before
    return max(0, grown - tensor_bytes(results.values()))


def growth_on_cuda(call: Call) -> int:
    """Growth of allocated memory's peak during ``call``, without its results; it must have run."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = call()
    torch.cuda.synchronize()
    grown = torch.cuda.max_memory_allocated() - before
    return max(0, grown - tensor_bytes(results.values()))


def measure(case: Case, implementation: str, what: str, device: str) -> int | None:
    """Extra bytes of one call in this process; None where the system does not tell."""
    if device == "cpu" and not can_measure():
        return None
    # Libraries, thread pools and compiled kernels are not the call's.
    small = smoke(case).of(size=(24, 18))
    make_calls(implementation, small, [benchmark_inputs(small, device)], what)[0]()
    inputs = benchmark_inputs(case, device)
    (call,) = make_calls(implementation, case, [inputs], what)
    if device == "cuda":
        call()  # kernels of this shape are compiled and libraries have their workspaces
        return growth_on_cuda(call)
    return growth_on_cpu(call)


def peak_on_cpu(name: str, implementation: str, what: str, dtype: str, threads: int) -> int | None:
    """``measure`` of a case in a new process."""
    return peak_of_module(
        "benchmarks.memory", "--case", name, "--implementation", implementation, "--what", what,
        "--dtype", dtype, "--threads", str(threads),
    )  # fmt: skip


def peak_of_module(module: str, *arguments: str) -> int | None:
    """What a module prints as ``peak_extra_bytes`` in a new process."""
    # Every tensor in pages of its own that go back when it is freed, whatever was freed before.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"the measurement of memory failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])["peak_extra_bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, default="window", metavar="NAME")
    parser.add_argument("--implementation", default="pwkernels")
    parser.add_argument("--what", choices=WHATS, default="forward")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument("--smoke", action="store_true", help="a tiny shape")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    case = CASES[options.case].of(dtype=DTYPES[options.dtype])
    if options.smoke:
        case = smoke(case)
    extra = measure(case, options.implementation, options.what, options.device)
    row = {
        "case": options.case,
        "implementation": options.implementation,
        "what": options.what,
        "dtype": options.dtype,
        "peak_extra_bytes": extra,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
