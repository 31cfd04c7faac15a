"""The operator on the Triton kernels: opcheck, gradients, compile; on CPU interpreted."""

from __future__ import annotations

import pytest
import torch
from interpreted import DEVICE, test_in_a_process_that_interprets  # noqa: F401

from pwkernels import library
from pwkernels.testing import (
    Case,
    Inputs,
    assert_close,
    expected,
    make_inputs,
    run,
    with_gradients,
)

CASE = Case(
    channels=4, out_channels=2, size=(3, 4), dilations=(1, 2), masks=True, bias=True, window=2
)


def arguments(inputs: Inputs) -> tuple:
    geometry = CASE.geometry
    return (
        inputs.input,
        inputs.offsets,
        inputs.masks,
        inputs.weight,
        None if inputs.bias is None else inputs.bias[0],
        inputs.frame_weights,
        list(geometry.stride),
        geometry.flat_paddings(),
        geometry.flat_dilations(),
        "triton",
    )


def test_opcheck() -> None:
    inputs = make_inputs(CASE, device=DEVICE)
    torch.library.opcheck(library.deform_warp, arguments(inputs.leaves()))
    input, offsets, masks, weight, _, frame_weights, *sizes, backend = arguments(inputs)
    torch.library.opcheck(
        library.deform_warp_backward,
        (
            inputs.grad_output,
            input,
            offsets,
            masks,
            weight,
            frame_weights,
            *sizes,
            [True] * 4,
            backend,
        ),
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_gradients(compiled: bool) -> None:
    """All of them, through the public operation."""
    inputs = make_inputs(CASE, device=DEVICE)

    def call(leaves: Inputs) -> torch.Tensor:
        return run(CASE, leaves, "triton")

    if compiled:
        torch.compiler.reset()
        call = torch.compile(call, fullgraph=True, backend="aot_eager")
    wanted = expected(CASE, inputs)
    actual = with_gradients(call, inputs)
    assert actual.keys() == wanted.keys()
    for name, tensor in actual.items():
        assert_close(tensor.cpu(), wanted[name], CASE.dtype, name)
