"""Every Triton kernel compiles for every target, without spills and within shared memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
# What separate processes compile, side by side.
SHARES = {
    "paper": ["--cases", "window", "grouped"],
    "others": ["--cases", "aggregate", "masked"],
    "deterministic": ["--cases", "window", "--kernels", "data", "--fixed-point"],
    "tf32": ["--cases", "masked", "--dtypes", "fp32", "--tf32"],
}
COUNTS = {"paper": 72, "others": 72, "deterministic": 12, "tf32": 12}


def _compile(arguments: list[str], cache: Path) -> list[dict]:
    # Triton decides at import whether it interprets, so this process cannot compile.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pwkernels.gpu.offline", "--json", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    caches = {name: tmp_path_factory.mktemp(f"triton_{name}") for name in SHARES}
    with ThreadPoolExecutor(2) as pool:
        jobs = {name: pool.submit(_compile, SHARES[name], caches[name]) for name in SHARES}
        return {name: job.result() for name, job in jobs.items()}


@pytest.mark.parametrize("share", SHARES)
def test_fits_every_target(compiled: dict[str, list[dict]], share: str) -> None:
    rows = compiled[share]
    assert len(rows) == COUNTS[share]
    bad = [row for row in rows if row["spills"] > 0 or row["shared"] > row["shared_limit"]]
    assert bad == []
    assert all(0 < row["registers"] <= (512 if "gfx" in row["target"] else 255) for row in rows)
