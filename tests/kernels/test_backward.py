"""Gradients of the operations: against the definition, torchvision, gradcheck, and bit for bit."""

from __future__ import annotations

import functools
import math

import grid
import oracle
import pytest
import torch
from torch import Tensor

import pwkernels
from pwkernels.testing import (
    Case,
    Inputs,
    assert_all_close,
    expected,
    make_inputs,
    poisoned_empty,
    relative_error,
    run,
    with_gradients,
)

HALVES = [torch.bfloat16, torch.float16]
DOUBLE_AND_SINGLE = [torch.float64, torch.float32]
EVERYTHING = grid.EVERYTHING
# The kernel divides its work by (frame, offset group), and few of these by pixels too.
MANY_TASKS = EVERYTHING.of(frames=9, size=(20, 17))
FEW_TASKS = EVERYTHING.of(frames=3, size=(20, 17), offset_groups=1)


def results(case: Case, inputs: Inputs, backend: str, only: str | None = None) -> dict[str, Tensor]:
    with poisoned_empty():
        return with_gradients(lambda leaves: run(case, leaves, backend), inputs, only)


def assert_identical(actual: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert actual.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(actual[name], wanted[name])] == []


@functools.cache
def oracle_results(name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    case = grid.TINY[name].of(dtype=dtype)
    return oracle.warp(case, make_inputs(case))


@functools.cache
def torchvision_results(name: str) -> dict[str, Tensor]:
    case = grid.LARGER[name]
    return expected(case, make_inputs(case))


@pytest.mark.parametrize("dtype", DOUBLE_AND_SINGLE, ids=str)
@pytest.mark.parametrize("name", grid.TINY)
def test_definition(name: str, dtype: torch.dtype, backend: str) -> None:
    case = grid.TINY[name].of(dtype=dtype)
    inputs = make_inputs(case)
    actual = results(case, inputs, backend)
    assert_all_close(actual, oracle_results(name, dtype))
    assert {n: g.dtype for n, g in actual.items() if n != "output"} == {
        n: t.dtype for n, t in inputs.named().items()
    }


@pytest.mark.parametrize("name", grid.LARGER)
def test_torchvision(name: str, backend: str) -> None:
    case = grid.LARGER[name]
    assert_all_close(results(case, make_inputs(case), backend), torchvision_results(name))


@pytest.mark.parametrize("offset_dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_half_precision(dtype: torch.dtype, offset_dtype: torch.dtype, backend: str) -> None:
    case = EVERYTHING.of(dtype=dtype, offset_dtype=offset_dtype, mask_dtype=dtype)
    inputs = make_inputs(case)
    actual = results(case, inputs, backend)
    assert actual["offsets[0]"].dtype == offset_dtype and actual["input"].dtype == dtype
    assert_all_close(actual, expected(case, inputs))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_is_float32_rounded_once(dtype: torch.dtype, cpu_variant: str) -> None:
    case = EVERYTHING.of(dtype=dtype)
    inputs = make_inputs(case)
    wanted = results(case, inputs.map(lambda _, tensor: tensor.float()), "cpu")
    actual = results(case, inputs, "cpu")
    assert_identical(actual, {name: tensor.to(dtype) for name, tensor in wanted.items()})


@pytest.mark.parametrize("position", [-1.0, 0.0, 2.0, 3.0])
def test_border_as_torchvision(position: float, backend: str) -> None:
    """At exactly -1 the value is 0 and the gradient of the offset is not; at H it is 0 too."""
    value, mask = torch.arange(1.0, 10, dtype=torch.float64).reshape(1, 1, 3, 3), torch.tensor(2.0)
    inputs = Inputs(
        input=value,
        offsets=[torch.tensor([position, 1.0]).double()[None, :, None, None]],
        weight=torch.ones(1, 1, 1, 1, 1).double(),
        masks=[mask.double()[None, None, None, None]],
        grad_output=torch.ones(1, 1, 1, 1).double(),
    )
    for axes in ((0, 1), (1, 0)):
        offset = inputs.offsets[0][:, list(axes)]
        turned = Inputs(**{**vars(inputs), "offsets": [offset]})
        case = grid.conv(kernel=(1, 1), stride=(9, 9), channels=1, out_channels=1, size=(3, 3))
        actual, wanted = results(case, turned, backend), expected(case, turned)
        assert_identical(actual, wanted)
        beyond = position in (-1.0, 3.0)
        assert (actual["output"].item() == 0) == beyond
        assert (actual["offsets[0]"][0, axes[0]].item() == 0) == (position == 3.0)


@pytest.mark.parametrize("tiny", [-1e-9, 1e-9, -1e-12, -1e-30, 0.0])
def test_cells_are_exact(tiny: float, backend: str) -> None:
    """``40 + tiny`` rounds to 40 in float32; the offset's gradient is that of its side."""
    case = Case(channels=1, out_channels=1, size=(64, 3), frames=1)
    inputs = make_inputs(case)
    inputs.offsets[0].fill_(tiny)
    inside = inputs.map(lambda _, tensor: tensor.double())
    inside.offsets[0].fill_(math.copysign(1e-7, tiny) if tiny else 0.0)
    wanted = expected(case, inside)["offsets[0]"]
    assert relative_error(results(case, inputs, backend)["offsets[0]"], wanted) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38, -3e9, 2.0**24])
def test_offsets_to_nowhere_have_zero_gradients(
    bad: float, dtype: torch.dtype, backend: str
) -> None:
    case = Case(size=(9, 11), offset_groups=2, dilations=(1, 3), masks=True, dtype=dtype)
    inputs, outside = make_inputs(case), make_inputs(case)
    rounded = torch.tensor(bad, dtype=torch.float64).to(dtype)  # infinite in float16
    for offsets, value in ((inputs.offsets, rounded), (outside.offsets, 1e4)):
        offsets[0][:, ::3, ::2] = value
        offsets[1][:, 1::4, :, ::3] = value
    actual = results(case, inputs, backend)
    assert_identical(actual, results(case, outside, backend))
    assert not actual["offsets[0]"][:, ::3, ::2].any()


@pytest.mark.parametrize("case", [MANY_TASKS, FEW_TASKS], ids=["many tasks", "few tasks"])
@pytest.mark.parametrize(
    "only", ["input", "offsets", "offsets[1]", "weight", "masks", "bias", "frame_weights"]
)
def test_each_gradient_alone(only: str, case: Case, cpu_variant: str) -> None:
    inputs = make_inputs(case)
    everything, alone = results(case, inputs, "cpu"), results(case, inputs, "cpu", only)
    if only == "weight":  # added up in other parts where the input's gradient is not wanted
        assert relative_error(alone["weight"], everything["weight"]) < 1e-6
        everything["weight"] = alone["weight"]
    assert_identical(alone, {n: t for n, t in everything.items() if n.startswith((only, "output"))})


def test_no_gradient_needed(backend: str) -> None:
    inputs = make_inputs(EVERYTHING)
    assert not run(EVERYTHING, inputs, backend).requires_grad
    with torch.no_grad():
        assert not run(EVERYTHING, inputs.leaves(), backend).requires_grad
    with torch.inference_mode():
        assert torch.equal(run(EVERYTHING, inputs, backend), run(EVERYTHING, inputs, backend))


def layouts(tensor: Tensor) -> dict[str, Tensor]:
    """The same values in other places of memory."""
    return {
        "transposed": tensor.mT.contiguous().mT,
        "channels last": tensor.movedim(1, -1).contiguous().movedim(-1, 1),
        "apart": tensor.repeat_interleave(2, -1)[..., ::2],
        "negated view": torch._neg_view(-tensor),
    }


@pytest.mark.parametrize("layout", ["transposed", "channels last", "apart", "negated view"])
@pytest.mark.parametrize("name", ["grad_output", "input", "offsets", "masks", "weight"])
def test_memory_layouts(name: str, layout: str, backend: str) -> None:
    inputs = make_inputs(EVERYTHING)
    moved = inputs.map(lambda n, t: layouts(t)[layout] if n.startswith(name) else t)
    actual, wanted = results(EVERYTHING, moved, backend), results(EVERYTHING, inputs, backend)
    for sum_by_torch in ("bias", "frame_weights"):  # in an order that follows the layout
        assert relative_error(actual.pop(sum_by_torch), wanted.pop(sum_by_torch)) < 1e-5
    assert_identical(actual, wanted)


def test_expanded_tensors(backend: str) -> None:
    """``out.sum()`` gives a gradient with strides of 0; gradients of what was expanded add up."""
    inputs = make_inputs(EVERYTHING)
    first = inputs.map(lambda n, t: t[:1] if n.startswith(("input", "offsets", "masks")) else t)

    def expand(name: str, tensor: Tensor) -> Tensor:
        return (
            tensor.expand(EVERYTHING.frames, -1, -1, -1)
            if tensor.dim() == 4 and len(tensor) == 1
            else tensor
        )

    first.grad_output = torch.ones(1, 1, 1, 1).expand(inputs.grad_output.shape)
    call = functools.partial(run, EVERYTHING, backend=backend)
    actual = with_gradients(lambda leaves: call(leaves.map(expand)), first)
    copied = first.map(lambda n, t: expand(n, t).contiguous())
    wanted = results(EVERYTHING, copied, backend)
    wanted = {n: w if w.shape == actual[n].shape else w.sum(0, True) for n, w in wanted.items()}
    assert all(relative_error(actual[name], wanted[name]) < 1e-5 for name in wanted)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    "name", ["everything", "runs and slices", "several waves of weight gradients"]
)
def test_threads_and_repetition_change_no_bit(name: str, deterministic: bool) -> None:
    case = grid.LARGER[name]
    inputs = make_inputs(case)
    before = torch.get_num_threads()
    outcomes = []
    try:
        torch.use_deterministic_algorithms(deterministic)
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            outcomes.append(with_gradients(lambda leaves: run(case, leaves, "cpu"), inputs))
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(False)
    for outcome in outcomes[1:]:
        assert_identical(outcome, outcomes[0])


GRADCHECK = {
    "everything": Case(
        channels=2,
        out_channels=2,
        groups=2,
        size=(2, 3),
        dilations=(1, 2),
        masks=True,
        bias=True,
        window=2,
        offset_groups=2,
    ),
    "conv": grid.conv(
        (1, 0),
        (1, 2),
        kernel=(2, 2),
        stride=(2, 1),
        channels=2,
        out_channels=3,
        size=(4, 4),
        masks=True,
    ),
    "far": Case(channels=2, out_channels=1, size=(3, 2), frames=1, offset_scale=4.0),
}


@pytest.mark.parametrize("name", GRADCHECK)
def test_gradcheck(name: str, backend: str) -> None:
    case = GRADCHECK[name].of(dtype=torch.float64, offsets="interior")
    leaves = make_inputs(case).leaves()
    tensors = tuple(leaves.named().values())
    names = list(leaves.named())

    def call(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        return run(case, leaves.map(lambda name, tensor: given.get(name, tensor)), backend)

    assert torch.autograd.gradcheck(call, tensors, fast_mode=backend == "reference")


def test_gradient_of_learned_frame_weights(backend: str) -> None:
    """A softmax of logits, the way in which weights of frames are learned."""
    case = EVERYTHING.of(dtype=torch.float64)
    inputs = make_inputs(case)
    logits = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def loss(logits: Tensor) -> Tensor:
        weighted = inputs.map(lambda n, t: logits.softmax(0) if n == "frame_weights" else t)
        return run(case, weighted, backend).square().sum()

    assert torch.autograd.gradcheck(loss, (logits,), rtol=1e-6)


@pytest.mark.parametrize("second", ["input", "offsets", "weight", "masks"])
def test_no_second_derivative_instead_of_a_wrong_one(second: str) -> None:
    leaves = make_inputs(EVERYTHING).leaves()
    output = run(EVERYTHING, leaves, "cpu")
    tensor = next(t for n, t in leaves.named().items() if n.startswith(second))
    (gradient,) = torch.autograd.grad(output.square().sum(), tensor, create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivative.*backend='reference'"):
        gradient.sum().backward()


def test_changed_in_place_before_backward_raises() -> None:
    leaves = make_inputs(EVERYTHING).leaves("weight")
    output = run(EVERYTHING, leaves, "cpu")
    leaves.offsets[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_default_device_does_not_matter() -> None:
    inputs = make_inputs(EVERYTHING)
    wanted = results(EVERYTHING, inputs, "cpu")
    with torch.device("meta"):
        actual = with_gradients(lambda leaves: run(EVERYTHING, leaves, "cpu"), inputs)
    assert_identical(actual, wanted)


def test_module_trains() -> None:
    """The offsets of an object that moved by two pixels are found by descent."""
    module = pwkernels.MultiDilationDeformWarp(1, dilations=(1,))
    yy, xx = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")

    def blob(y: float, x: float) -> Tensor:
        return torch.exp(-((yy - y) ** 2 + (xx - x) ** 2) / 18)[None, None]

    shift = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=0.1)
    for _ in range(100):
        offset = shift.repeat(9)[None, :, None, None].expand(1, 18, 16, 16)
        loss = (module(blob(8, 8), [offset]) - blob(6, 9)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(shift.detach(), torch.tensor([2.0, -1.0]), atol=0.05, rtol=0)
