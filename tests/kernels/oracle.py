"""The warp and its gradients by the definition, one sample at a time, in Python floats."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pwkernels.testing import Case, Inputs


def corners(
    y: float, x: float, height: int, width: int
) -> Iterator[tuple[int, int, float, float, float]]:
    """(row, column, weight, d weight / dy, d weight / dx) of the corners that are inside the map.

    At exactly y == -1 the weight of row 0 is 0 and its derivative is not: torchvision's rule.
    """
    top, left = math.floor(y), math.floor(x)
    fy, fx = y - top, x - left
    for row, wy, dy in ((top, 1 - fy, -1.0), (top + 1, fy, 1.0)):
        for column, wx, dx in ((left, 1 - fx, -1.0), (left + 1, fx, 1.0)):
            if 0 <= row < height and 0 <= column < width:
                yield row, column, wy * wx, dy * wx, wy * dx


def warp(case: Case, inputs: Inputs) -> dict[str, Tensor]:
    """Output and gradients, named as ``pwkernels.testing.with_gradients`` names them."""
    height, width = case.size
    geometry = case.geometry
    kernel_w, (stride_h, stride_w) = geometry.kernel_hw[1], geometry.stride
    out_h, out_w = geometry.output_hw(case.size)
    count, taps, window = len(case.dilations), geometry.taps, case.window or 1
    scale = 1 / count if case.reduction == "mean" else 1.0
    inputs = inputs.map(lambda _, tensor: tensor.double())
    lists = {name: tensor.tolist() for name, tensor in inputs.named().items()}
    grads = {name: torch.zeros_like(tensor).tolist() for name, tensor in inputs.named().items()}
    values, weight, grad_output = lists["input"], lists["weight"], inputs.grad_output.tolist()
    output = torch.zeros(inputs.grad_output.shape, dtype=torch.float64).tolist()
    outputs_per_group = case.out_channels // case.groups
    channels_per_group = case.channels // case.groups
    positions = [(oy, ox) for oy in range(out_h) for ox in range(out_w)]

    for n in range(case.frames):
        b, t = divmod(n, window)
        frame_weight = lists["frame_weights"][t] if case.window else 1.0
        for d in range(count):
            (dil_h, dil_w), (pad_h, pad_w) = geometry.dilations[d], geometry.paddings[d]
            offset, grad_offset = lists[f"offsets[{d}]"][n], grads[f"offsets[{d}]"][n]
            for c in range(case.channels):
                group = c // channels_per_group
                outputs = range(group * outputs_per_group, (group + 1) * outputs_per_group)
                for k in range(taps):
                    i, j = divmod(k, kernel_w)
                    tap = c // (case.channels // case.offset_groups) * taps + k
                    for oy, ox in positions:
                        dy, dx = offset[2 * tap][oy][ox], offset[2 * tap + 1][oy][ox]
                        if not (math.isfinite(dy) and math.isfinite(dx)):
                            continue
                        y = oy * stride_h - pad_h + i * dil_h + dy
                        x = ox * stride_w - pad_w + j * dil_w + dx
                        found = list(corners(y, x, height, width))
                        sample = sum(w * values[n][c][row][col] for row, col, w, _, _ in found)
                        mask = lists[f"masks[{d}]"][n][tap][oy][ox] if case.masks else 1.0

                        column = 0.0  # gradient of the masked sample
                        for o in outputs:
                            tap_weight = weight[d][o][c % channels_per_group][i][j]
                            gradient = grad_output[b][o][oy][ox] * scale
                            output[b][o][oy][ox] += (
                                scale * frame_weight * tap_weight * mask * sample
                            )
                            column += frame_weight * tap_weight * gradient
                            grads["weight"][d][o][c % channels_per_group][i][j] += (
                                frame_weight * mask * sample * gradient
                            )
                            if case.window:
                                grads["frame_weights"][t] += tap_weight * mask * sample * gradient
                        if case.masks:
                            grads[f"masks[{d}]"][n][tap][oy][ox] += column * sample
                        for row, col, w, w_dy, w_dx in found:
                            grads["input"][n][c][row][col] += column * mask * w
                            value = column * mask * values[n][c][row][col]
                            grad_offset[2 * tap][oy][ox] += value * w_dy
                            grad_offset[2 * tap + 1][oy][ox] += value * w_dx
            if case.bias:
                for o in range(case.out_channels):
                    for oy, ox in positions:
                        gradient = grad_output[b][o][oy][ox] * scale
                        output[b][o][oy][ox] += scale * frame_weight * lists["bias"][d][o]
                        grads["bias"][d][o] += frame_weight * gradient
                        if case.window:
                            grads["frame_weights"][t] += lists["bias"][d][o] * gradient

    shapes = {name: tensor.shape for name, tensor in inputs.named().items()}
    results = {n: torch.tensor(g, dtype=torch.float64).reshape(shapes[n]) for n, g in grads.items()}
    shaped = torch.tensor(output, dtype=torch.float64).reshape(inputs.grad_output.shape)
    return {"output": shaped, **results}
