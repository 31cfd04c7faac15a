"""The kernel with the offset convolutions compiles for every target, without spills.

And as intended: matrix units do its products, and addresses of samples are computed in the layout
that they are loaded in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
# Instructions of the matrix units.
PRODUCTS = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05.mma", "gfx942": "v_mfma"}
# Triton decides at import whether it interprets, so this process may not be able to compile.
PROGRAM = """
import dataclasses, json, sys
from pwkernels.gpu import offline
target, dtype = sys.argv[1:]
info = offline.compile_kernel("offset_conv", target, dtype, "window")
planned = offline.plan("offset_conv", target, offline.DTYPES[dtype], offline.CASES["window"])
asm = offline.compile_launch(planned, target).asm
found = dataclasses.asdict(info) | {
    "launchable": info.launchable,
    "code": asm.get("ptx") or asm.get("amdgcn"),
    "moved_pointers": [
        line for line in asm["ttgir"].splitlines()
        if "ttg.convert_layout" in line and "x!tt.ptr" in line
    ],
}
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "dtype"), [*((target, "bf16") for target in PRODUCTS), ("sm_90", "fp32")]
)
def test_fits_every_target(target: str, dtype: str, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, target, dtype],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    code = found.pop("code")
    assert found["launchable"], found
    assert found["moved_pointers"] == []
    if dtype == "bf16":
        assert PRODUCTS[target] in code
