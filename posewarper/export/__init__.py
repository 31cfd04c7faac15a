"""Trained models for other programs: ONNX files, and packages compiled ahead of time."""

import sys
from types import ModuleType
from typing import Any

from posewarper.export.command import export
from posewarper.export.comparison import Comparison
from posewarper.export.graphs import MODES, Mode
from posewarper.export.packages import to_package
from posewarper.export.writing import DEFORM_OPS, DeformOp, to_onnx


class _Callable(ModuleType):
    """``posewarper.export(...)`` is the command, as for the other commands, and its modules are
    here.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        return export(*args, **options)


sys.modules[__name__].__class__ = _Callable

__all__ = [
    "DEFORM_OPS",
    "MODES",
    "Comparison",
    "DeformOp",
    "Mode",
    "export",
    "to_onnx",
    "to_package",
]
