"""Machines of another kind: processors without instructions for low precision, no POSIX."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch
from random_models import random_model

from posewarper.inference import PosePredictor
from posewarper.models import devices

_WITHOUT_POSIX = """
import importlib, pkgutil, sys
import psutil, torch  # they have ways of their own for each system
for name in ("fcntl", "grp", "posix_ipc", "pwd", "resource", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
import posewarper, pwkernels
for package in (posewarper, pwkernels):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith(("__main__", "._warp")):
            importlib.import_module(found.name)
"""


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_processor_that_is_slow_in_a_precision_takes_fp32(
    precision: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "_slowdown", lambda _: 16.0)
    model = random_model()
    with caplog.at_level(logging.WARNING, "posewarper"):
        predictor = PosePredictor(model, device="cpu", precision=precision)  # type: ignore[arg-type]
    assert [record.getMessage() for record in caplog.records] == [
        f"precision: this processor takes 16 times as long in {precision} as in fp32: fp32 is used"
    ]
    crops = torch.zeros(1, 3, 96, 64)
    expected = PosePredictor(model, device="cpu").heatmaps(crops)
    assert predictor.precision == "fp32" and torch.equal(predictor.heatmaps(crops), expected)


def test_a_processor_with_the_instructions_takes_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "_slowdown", lambda _: 0.5)
    with caplog.at_level(logging.WARNING, "posewarper"):
        predictor = PosePredictor(random_model(), device="cpu", precision="bf16")
    assert predictor.precision == "bf16" and not caplog.records


def test_the_slowdown_is_measured() -> None:
    devices._slowdown.cache_clear()
    assert 0.01 < devices._slowdown("bf16") < 1000 and devices._slowdown("fp32") < 10


def test_nothing_of_posix_is_needed_to_import() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _WITHOUT_POSIX], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
