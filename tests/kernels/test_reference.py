"""The plain reference and the torchvision composition, on which the other tests lean."""

from __future__ import annotations

import grid
import oracle
import pytest
import torch
from torch import Tensor

from pwkernels.testing import (
    STANDARD_CASES,
    Case,
    assert_all_close,
    assert_close,
    expected,
    make_inputs,
    poisoned_empty,
    relative_error,
    run,
    with_gradients,
)

# "interior": where the second derivatives exist.
SMOOTH = Case(
    frames=1,
    channels=2,
    out_channels=2,
    size=(2, 2),
    masks=True,
    bias=True,
    dtype=torch.float64,
    offsets="interior",
    kernel=(1, 3),
)


@pytest.mark.parametrize("name", grid.TINY)
def test_torchvision_and_the_definition_agree(name: str) -> None:
    """Else no other comparison with either would mean anything."""
    case = grid.TINY[name].of(dtype=torch.float64)
    inputs = make_inputs(case)
    assert_all_close(expected(case, inputs), oracle.warp(case, inputs))


@pytest.mark.parametrize("backend", ["reference", "torchvision"])
@pytest.mark.parametrize("seed", range(3))
def test_float64(seed: int, backend: str) -> None:
    case = grid.LARGER["everything"].of(dtype=torch.float64, offset_scale=1.0 + 5 * seed)
    inputs = make_inputs(case, seed)
    actual = with_gradients(lambda leaves: run(case, leaves, backend), inputs)
    assert_all_close(actual, expected(case, inputs))


@pytest.mark.parametrize(
    "change", [{}, {"window": 1}, {"reduction": "sum", "dilations": (1, 2)}], ids=str
)
def test_differentiable_twice(change: dict) -> None:
    case = SMOOTH.of(**change)
    leaves = make_inputs(case).leaves()
    names = list(leaves.named())

    def call(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        return run(case, leaves.map(lambda name, tensor: given.get(name, tensor)), "reference")

    assert torch.autograd.gradgradcheck(call, tuple(leaves.named().values()), fast_mode=True)


def test_forward_mode() -> None:
    inputs = make_inputs(SMOOTH)
    tangent = torch.randn_like(inputs.offsets[0])

    def call(offset: Tensor) -> Tensor:
        return run(SMOOTH, inputs.map(lambda n, t: offset if n == "offsets[0]" else t), "reference")

    _, actual = torch.func.jvp(call, (inputs.offsets[0],), (tangent,))
    step = 1e-6 * tangent
    difference = call(inputs.offsets[0] + step) - call(inputs.offsets[0] - step)
    assert relative_error(actual, difference / 2e-6) < 1e-7


@pytest.mark.parametrize("backend", ["reference", "torchvision"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_offsets_that_are_not_finite(dtype: torch.dtype, backend: str) -> None:
    case = Case(size=(5, 4), masks=True, dtype=dtype)
    inputs = make_inputs(case)
    bad = torch.tensor([float("nan"), float("inf"), -float("inf")], dtype=dtype)
    inputs.offsets[0][:, ::2, 1:4, 2] = bad
    actual = with_gradients(lambda leaves: run(case, leaves, backend), inputs)
    wanted = oracle.warp(case, inputs)
    for name, tensor in actual.items():
        assert_close(tensor, wanted[name], dtype, name)
    assert not actual["offsets[0]"][:, ::2, 1:4, 2].any()


def test_torchvision_backend_runs_bfloat16() -> None:
    """Which torchvision itself does not."""
    case = grid.EVERYTHING.of(dtype=torch.bfloat16)
    inputs = make_inputs(case)
    assert_close(
        run(case, inputs, "torchvision"), run(case, inputs, "cpu"), torch.bfloat16, "output"
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_new_memory_is_poisoned(dtype: torch.dtype) -> None:
    tensor = torch.ones(3, dtype=dtype)
    with poisoned_empty():
        fresh = [torch.empty(3, dtype=dtype), tensor.new_empty(3), torch.empty_like(tensor)]
    assert all(memory.isnan().all() for memory in fresh)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("wrong", [1 + 1e-3, float("nan"), float("inf")])
def test_comparison_fails(wrong: float) -> None:
    wanted = torch.tensor([1.0, -0.5], dtype=torch.float64)
    actual = torch.tensor([wrong, -0.5])
    with pytest.raises(AssertionError, match=r"^input: .*at \(0,\).*expected 1$"):
        assert_close(actual, wanted, torch.float32, "input")
    with pytest.raises(AssertionError, match="results"):
        assert_all_close({"output": actual, "input": actual}, {"output": actual})
    assert_all_close({"output": wanted.float()}, {"output": wanted})
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0


def test_standard_cases() -> None:
    """Of the shapes that are compared in speed, and the same on every call."""
    case = STANDARD_CASES["dcpose"]
    inputs = make_inputs(case)
    assert inputs.offsets[4].shape == (1, 2 * 17 * 9, 96, 72) and inputs.masks[4].shape[1] == 153
    assert torch.equal(make_inputs(case).offsets[4], inputs.offsets[4])
    assert {name: (c.frames, c.channels) for name, c in STANDARD_CASES.items()} == {
        "window": (5, 17),
        "training": (16, 17),
        "dcpose": (1, 17),
        "fami": (1, 48),
        "single": (5, 17),
    }
    assert_close(run(case, inputs, "cpu"), run(case, inputs, "reference"), torch.float32, "output")
