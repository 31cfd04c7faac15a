"""Tests of Triton kernels without a GPU: again, in a process that interprets from the start.

Triton decides at its import whether it interprets, and torchvision imports it. A test file that
wants this imports ``test_in_a_process_that_interprets``: that test then runs, in a process without
GPU and interpreter, in place of all others of the file (see ``conftest.py``).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RELAY = DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1"


def test_in_a_process_that_interprets(request: pytest.FixtureRequest) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(request.path)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    summary = done.stdout.splitlines()[-1]
    print(summary)
    assert re.match(r"\d+ passed(, 1 deselected)?( in|, \d+ warning)", summary), summary
