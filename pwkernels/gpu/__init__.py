"""Triton kernels of the warp: ``launch`` runs them, ``configs`` chooses their block sizes.

Importing this package imports no Triton; ``pwkernels.gpu.launch`` does.
"""

from __future__ import annotations

import importlib.util
import os

import torch


def interpreting() -> bool:
    """Whether Triton kernels run in the interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def why_unavailable() -> str | None:
    """None where Triton kernels can run; else one sentence that says why they cannot."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (torch brings it on Linux)"
    if interpreting() or torch.cuda.is_available():
        return None
    return "there is no GPU that torch can use"
