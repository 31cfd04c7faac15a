"""The measured cases: names, inputs, expected results, and the bytes that any version must move."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from pwkernels.testing import (
    STANDARD_CASES,
    Case,
    Inputs,
    make_inputs,
    run_torchvision,
    tolerances,
    with_gradients,
)

# Offsets are odd multiples of 1 / (2 * _GRID). Positions are then exact in float32, so that no
# implementation samples another cell than the float64 reference by rounding: the gradient of an
# offset jumps from cell to cell, and one jump would hide every other error.
_GRID = 256

WHATS = ("forward", "forward+backward", "forward+backward+input")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# One dilation and ever more channels: where does the matrix product begin to dominate?
_WIDTHS = (16, 32, 64, 128, 256, 512)
WIDTH_CASES = {
    f"width-c{c}-g{groups}": Case(
        frames=2, channels=c, out_channels=c, size=(48, 36), offset_groups=groups
    )
    for c in _WIDTHS
    for groups in (1, c // 4)
}
CASES = {**STANDARD_CASES, **WIDTH_CASES}


def smoke(case: Case) -> Case:
    """The same kind of case, so small that a run of it only shows that the code works."""
    groups = {1: 1, case.channels: 4}.get(case.offset_groups, 2)
    return case.of(
        frames=2,
        channels=4,
        out_channels=4,
        size=(9, 7),
        dilations=case.dilations[:2],
        offset_groups=groups,
    )


def benchmark_inputs(case: Case, device: str, index: int = 0) -> Inputs:
    """Random inputs with offsets on the grid; ``index`` draws another set."""

    def on_grid(name: str, tensor: Tensor) -> Tensor:
        if not name.startswith("offsets"):
            return tensor
        return ((tensor.float() * _GRID).floor_().add_(0.5) / _GRID).to(tensor.dtype)

    return make_inputs(case, index, device).map(on_grid)


def leaves(inputs: Inputs, what: str) -> dict[str, Tensor]:
    """The tensors whose gradients ``what`` measures."""
    if what == "forward":
        return {}
    with_input = what.endswith("+input")
    return {name: t for name, t in inputs.named().items() if with_input or name != "input"}


def require_grad(inputs: Inputs, what: str) -> None:
    """Let exactly the tensors require a gradient that ``what`` measures."""
    wanted = leaves(inputs, what)
    for name, tensor in inputs.named().items():
        tensor.requires_grad_(name in wanted)


def reference(case: Case, inputs: Inputs) -> dict[str, Tensor]:
    """Output and all gradients by torchvision in float64 on the inputs' device, kept in float32."""
    doubles = inputs.map(lambda _, tensor: tensor.detach().double())
    results = with_gradients(functools.partial(run_torchvision, case), doubles)
    return {name: result.float() for name, result in results.items()}


def bounds(dtype: torch.dtype, half_dot: bool = False) -> tuple[float, float]:
    """Largest accepted (forward, gradient) error, relative to the largest value.

    ``half_dot``: tensor cores multiply half operands, so samples and weights are rounded as well as
    the result. As in any half-precision convolution, that is a few roundings instead of one.
    """
    forward, gradient = tolerances(dtype)
    many = 4 if half_dot and dtype in (torch.bfloat16, torch.float16) else 1
    return many * forward, many * gradient


def errors(results: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference of each result relative to the largest expected value, inf for any NaN.

    ``pwkernels.testing.relative_error`` on the tensors' device: the tensors here are large.
    """
    found = {}
    for name, result in results.items():
        if result.shape != expected[name].shape:
            found[name] = math.inf
        elif result.numel() == 0:
            found[name] = 0.0
        else:
            difference = float(
                (result.detach().to(expected[name].dtype) - expected[name]).abs().amax()
            )
            largest = float(expected[name].abs().amax()) or 1.0
            found[name] = difference / largest if math.isfinite(difference) else math.inf
    return found


def compare(
    case: Case, results: dict[str, Tensor], expected: dict[str, Tensor]
) -> tuple[bool, float, str]:
    """Whether all results are within their bounds; the worst error, and the result it is in."""
    forward, gradient = bounds(case.dtype, half_dot=case.out_channels // case.groups > 32)
    found = errors(results, expected)
    shares = {n: e / (forward if n == "output" else gradient) for n, e in found.items()}
    worst = max(shares, key=shares.__getitem__)
    return shares[worst] <= 1, found[worst], worst


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def input_bytes(inputs: Inputs) -> int:
    """Bytes of one set of inputs."""
    return tensor_bytes(inputs.named().values())


def compulsory_bytes(inputs: Inputs, what: str) -> int:
    """The fewest bytes that ``what`` moves through memory when each tensor is touched once a pass.

    Forward: all inputs are read and the output is written. The backward, a pass of its own, reads
    them and the output's gradient, and writes the gradients that were asked for.
    """
    assert inputs.grad_output is not None
    one_pass = input_bytes(inputs) + tensor_bytes([inputs.grad_output])
    if what == "forward":
        return one_pass
    return 2 * one_pass + tensor_bytes(leaves(inputs, what).values())
