"""Fused multi-dilation deformable warps: Triton on GPUs, compiled C++ on CPUs."""

from pwkernels.checks import ArgumentError, ArgumentTypeError
from pwkernels.functional import deform_conv2d, multi_dilation_deform_warp
from pwkernels.modules import DeformConv2d, MultiDilationDeformWarp
from pwkernels.offset_conv import offset_conv_warp

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "DeformConv2d",
    "MultiDilationDeformWarp",
    "deform_conv2d",
    "multi_dilation_deform_warp",
    "offset_conv_warp",
]
