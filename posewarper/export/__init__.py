"""Trained models for other programs: ONNX files, and packages compiled ahead of time."""

from posewarper.export.command import export
from posewarper.export.comparison import Comparison
from posewarper.export.graphs import MODES, Mode
from posewarper.export.packages import to_package
from posewarper.export.writing import DEFORM_OPS, DeformOp, to_onnx

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
