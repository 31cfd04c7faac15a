"""Everything that needs a GPU, in one call of less than ten minutes: check, tune, measure.

    python -m benchmarks.gpu_run --commit $(git rev-parse --short HEAD)
    python -m benchmarks.gpu_run --only correctness
    python -m benchmarks.gpu_run --only system     # training and aggregation: a call of its own
    python -m benchmarks.gpu_run --dry-run     # no GPU: the checks, on tiny shapes, interpreted

Results are written to the folder $OUT (or --out): ``correctness.json``, ``configs.json`` (the tuned
table, also put into this checkout's ``pwkernels/gpu/``, so that the measurements use it),
``offset-conv.json`` and the results file for ``benchmarks/results``. Nothing is installed, nothing
timed if a result is wrong.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PARTS = ("correctness", "tune", "bench", "system")
_ROOT = Path(__file__).parent.parent
_TUNED_CASES = ("window", "single", "fami")


def _remaining(deadline: float) -> float:
    return max(1.0, deadline - time.monotonic())


def correctness(out: Path, tiny: bool, workers: int) -> bool:
    """Run the checks, save them, print what failed; whether all is well."""
    from benchmarks import gpu_correctness

    found = gpu_correctness.check_all(tiny, workers)
    (out / "correctness.json").write_text(json.dumps(found, indent=1) + "\n")
    bad = [one for one in found if not one["ok"]]
    for one in bad:
        what = one.get("exception")
        if what is None:
            what = f"{one['worst_result']}: {one['error_share']:.2g} of the bound"
            if one["not_deterministic"]:
                what += f"; differs from run to run: {', '.join(one['not_deterministic'])}"
        print(f"WRONG  {one['case']:32} {one['dtype']:20} {one['mode']:8} {what}")
    shares = [one["error_share"] for one in found if "error_share" in one]
    largest = f"largest error {max(shares):.2g} of its bound" if shares else "none ran to its end"
    print(f"correctness: {len(found) - len(bad)} of {len(found)} right, {largest}")
    return not bad


def tune(out: Path, deadline: float) -> None:
    """Time the candidates of every kernel, each in a process; first all at once to compile them."""
    if importlib.util.find_spec("pwkernels.gpu.tune") is None:
        print("tune: there is no pwkernels.gpu.tune; default configurations are measured")
        return
    from pwkernels.gpu import configs, offline

    cases = [name for name in _TUNED_CASES if name in offline.CASES]
    command = [sys.executable, "-m", "pwkernels.gpu.tune"]
    jobs = [
        ["--case", case, "--kernel", kernel, "--dtype", dtype]
        for case in cases
        for dtype in ("fp32", "bf16")
        for kernel in configs.KERNELS
    ]
    # First: it has the most to gain, and compiles the longest.
    jobs.insert(0, ["--case", "aggregate", "--kernel", configs.OFFSET_CONV, "--dtype", "bf16"])
    # Compiling takes minutes, timing seconds: this run only fills Triton's cache on disk.
    with tempfile.TemporaryDirectory() as folder:
        running = [
            subprocess.Popen(
                [*command, *job, "--out", f"{folder}/{index}.json"],
                cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for index, job in enumerate(jobs)
        ]  # fmt: skip
        for process in running:
            try:
                process.wait(_remaining(deadline - 90))
            except subprocess.TimeoutExpired:
                process.kill()
    for index, job in enumerate(jobs):
        times = out / "tune-times" / f"{index}.json"
        times.parent.mkdir(exist_ok=True)
        try:
            subprocess.run(
                [*command, *job, "--times", str(times)], cwd=_ROOT, timeout=_remaining(deadline)
            )
        except subprocess.TimeoutExpired:
            print(f"tune: no time left for {' '.join(job)} and what follows")
            break
    merged: dict[str, Any] = {}
    for path in sorted((out / "tune-times").glob("*.json")):
        merged |= json.loads(path.read_text())
    shutil.rmtree(out / "tune-times", ignore_errors=True)  # one file is easier to fetch
    (out / "tune-times.json").write_text(json.dumps(merged, indent=1) + "\n")
    if configs.TABLE.exists():
        shutil.copy(configs.TABLE, out / "configs.json")


def offset_conv(out: Path) -> None:
    """Time the warp that computes its own offsets beside convolutions and the fused warp."""
    from benchmarks import gpu_offset_conv

    rows = gpu_offset_conv.measure()
    (out / "offset-conv.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(gpu_offset_conv.table(rows))


def bench(out: Path, commit: str | None, budget: float, deadline: float) -> bool:
    """Run the suite, which prints its table; whether all rows were right."""
    command = [sys.executable, "-m", "benchmarks.run", "--device", "cuda", "--out", str(out)]
    command += ["--full", f"--budget={budget}", f"--stop-after={_remaining(deadline - 20)}"]
    command += ["--commit", commit] if commit else []
    return subprocess.run(command, cwd=_ROOT).returncode == 0


def system(out: Path, commit: str | None, budget: float, deadline: float) -> bool:
    """Run the suites of training and aggregation; whether all rows were right."""
    command = [sys.executable, "-m", "benchmarks.run", "--suite", "system", "--device", "cuda"]
    command += ["--out", str(out / "system"), f"--budget={budget}"]
    command += [f"--stop-after={_remaining(deadline - 60)}"]
    command += ["--commit", commit] if commit else []
    return subprocess.run(command, cwd=_ROOT).returncode == 0


def _print_machine() -> None:
    import torch

    from benchmarks import results

    described = " ".join(f"{name} {version}" for name, version in results.versions().items())
    print(described)
    if torch.cuda.is_available():
        print(results.machine("cuda"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS[:-1]))
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu-results")))
    parser.add_argument("--commit", help="what to record where there is no git repository")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop by then")
    parser.add_argument("--budget", type=float, default=0.4, help="seconds of timing per row")
    parser.add_argument("--workers", type=int, default=min(12, os.cpu_count() or 1))
    parser.add_argument(
        "--dry-run", action="store_true", help="checks on tiny shapes, without a GPU"
    )
    options = parser.parse_args()
    start = time.monotonic()
    deadline = start + 60 * options.minutes
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    import torch

    if not options.dry_run and not torch.cuda.is_available():
        print("no GPU that torch can use: nothing to do here (--dry-run checks the code)")
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    _print_machine()
    right = True
    if options.dry_run or "correctness" in options.only:
        right = correctness(options.out, options.dry_run, 1 if options.dry_run else options.workers)
        print(f"[{time.monotonic() - start:.0f} s]", flush=True)
    if options.dry_run or not right:
        return 0 if right else 1
    if "tune" in options.only:
        # What is left after this has to do for the suite.
        tune(options.out, deadline - (270 if "bench" in options.only else 5))
        print(f"[{time.monotonic() - start:.0f} s]", flush=True)
    if "bench" in options.only:
        offset_conv(options.out)
        print(f"[{time.monotonic() - start:.0f} s]", flush=True)
        right = bench(options.out, options.commit, options.budget, deadline)
        print(f"[{time.monotonic() - start:.0f} s]", flush=True)
    if "system" in options.only:
        right = system(options.out, options.commit, options.budget, deadline) and right
        print(f"[{time.monotonic() - start:.0f} s]", flush=True)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
