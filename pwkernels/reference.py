"""The warp in plain PyTorch: readable, differentiable any number of times, in any float dtype.

Two independent forms: ``warp`` samples with ordinary tensor operations, and ``torchvision_warp``
composes calls of ``torchvision.ops.deform_conv2d``. The fast backends are tested against both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pwkernels.geometry import WarpGeometry

# Offsets beyond this are outside any map; the bound keeps the integer arithmetic exact.
_FAR = 2.0**30


def _cells(offset: Tensor, base: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Integer cell, clamped to [-2, size], and fraction in it, along one axis.

    The cell is decided exactly, as position + floor(offset), not by a rounded sum. Offsets that are
    NaN or infinite end outside the map, with zero gradient.
    """
    offset = torch.where(offset > -_FAR, offset, -_FAR)  # false for NaN
    offset = torch.where(offset < _FAR, offset, _FAR)
    whole = offset.detach().floor()
    cell = (whole.to(torch.int64) + base).clamp(-2, size)
    return cell, offset - whole


def _corner(planes: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """planes [N, G, C/G, H, W] at integer (y, x) [N, G, K, P], zero outside; [N, G, C/G, K, P]."""
    n, g, per_group, height, width = planes.shape
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    idx = y.clamp(0, max(height - 1, 0)) * width + x.clamp(0, max(width - 1, 0))
    flat = planes.reshape(n, g, per_group, height * width)
    idx = idx.flatten(2)[:, :, None].expand(-1, -1, per_group, -1)
    values = flat.gather(3, idx).reshape(n, g, per_group, *y.shape[2:])
    return torch.where(inside[:, :, None], values, values.new_zeros(()))


def sample(input: Tensor, offset: Tensor, geometry: WarpGeometry, dilation_index: int) -> Tensor:
    """Bilinear samples ``[N, C, K, H_out, W_out]`` of every tap of one deformable convolution."""
    n, channels, height, width = input.shape
    taps = geometry.taps
    out_h, out_w = geometry.output_hw((height, width))
    groups = offset.shape[1] // (2 * taps)
    offset = offset.reshape(n, groups, taps, 2, out_h * out_w)
    (pad_h, pad_w) = geometry.paddings[dilation_index]
    (dil_h, dil_w) = geometry.dilations[dilation_index]
    arange = lambda size, step: torch.arange(size, device=input.device) * step  # noqa: E731
    rows = arange(out_h, geometry.stride[0]).repeat_interleave(out_w)
    columns = arange(out_w, geometry.stride[1]).repeat(out_h)
    tap_y = arange(geometry.kernel_hw[0], dil_h).repeat_interleave(geometry.kernel_hw[1]) - pad_h
    tap_x = arange(geometry.kernel_hw[1], dil_w).repeat(geometry.kernel_hw[0]) - pad_w

    y0, fy = _cells(offset[:, :, :, 0], tap_y[:, None] + rows, height)
    x0, fx = _cells(offset[:, :, :, 1], tap_x[:, None] + columns, width)
    fy, fx = fy[:, :, None], fx[:, :, None]
    planes = input.reshape(n, groups, channels // groups, height, width)
    top = _corner(planes, y0, x0) * (1 - fx) + _corner(planes, y0, x0 + 1) * fx
    bottom = _corner(planes, y0 + 1, x0) * (1 - fx) + _corner(planes, y0 + 1, x0 + 1) * fx
    return (top * (1 - fy) + bottom * fy).reshape(n, channels, taps, out_h, out_w)


def _finish(frames: Tensor, bias: Tensor | None, frame_weights: Tensor | None) -> Tensor:
    """Sum frames [N, C_out, H, W] over each window, if there are windows, and add the bias."""
    if frame_weights is not None:
        window = frame_weights.shape[0]
        framed = frames.unflatten(0, (frames.shape[0] // window, window))
        frames = (framed * frame_weights.reshape(1, -1, 1, 1, 1)).sum(1)
    return frames if bias is None else frames + bias.reshape(1, -1, 1, 1)


def warp(
    input: Tensor,
    offsets: Sequence[Tensor],
    masks: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    frame_weights: Tensor | None,
    geometry: WarpGeometry,
) -> Tensor:
    """The sum over dilations and frames that ``library.deform_warp`` computes, with its arguments.

    Low-precision inputs are computed in the weight's dtype and the result is cast to the input's.
    """
    dtype = weight.dtype
    maps = input.to(dtype)  # once, so that autograd adds up the dilations' gradients in `dtype`
    n = input.shape[0]
    groups = input.shape[1] // weight.shape[2]
    total: Tensor | None = None
    for index, (offset, kernel) in enumerate(zip(offsets, weight, strict=True)):
        columns = sample(maps, offset.to(dtype), geometry, index)
        if masks:
            mask = masks[index].to(dtype)
            per_group = input.shape[1] // (mask.shape[1] // geometry.taps)
            shaped = mask.unflatten(1, (-1, geometry.taps))
            columns = columns * shaped.repeat_interleave(per_group, dim=1)
        out_hw = columns.shape[3:]
        columns = columns.flatten(3).unflatten(1, (groups, -1)).flatten(2, 3)
        matrices = kernel.reshape(groups, kernel.shape[0] // groups, -1)
        part = (matrices @ columns).reshape(n, kernel.shape[0], *out_hw)
        total = part if total is None else total + part
    assert total is not None
    return _finish(total, bias, frame_weights).to(input.dtype)


def torchvision_warp(
    input: Tensor,
    offsets: Sequence[Tensor],
    masks: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    frame_weights: Tensor | None,
    geometry: WarpGeometry,
) -> Tensor:
    """The same sum as one ``torchvision.ops.deform_conv2d`` call per dilation.

    Offsets that are NaN or infinite are moved outside the map first: torchvision's CPU kernel reads
    outside its memory for them.

    Raises:
        ImportError: torchvision is missing or does not load.
    """
    from torchvision.ops import deform_conv2d

    dtype = weight.dtype
    maps = input.to(dtype)  # once, so that autograd adds up the dilations' gradients in `dtype`
    total: Tensor | None = None
    for index, (offset, kernel) in enumerate(zip(offsets, weight, strict=True)):
        offset = offset.to(dtype)  # before the bound, which float16 does not have
        part = deform_conv2d(
            maps,
            torch.where(offset.isfinite(), offset, -_FAR),
            kernel,
            stride=geometry.stride,
            padding=geometry.paddings[index],
            dilation=geometry.dilations[index],
            mask=masks[index].to(dtype) if masks else None,
        )
        total = part if total is None else total + part
    assert total is not None
    return _finish(total, bias, frame_weights).to(input.dtype)
