"""Values of the operations: against the definition, torchvision, and exactly."""

from __future__ import annotations

import contextlib
import functools
import math
import mmap

import grid
import oracle
import pytest
import torch
from torch import Tensor
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

import pwkernels
from pwkernels import cpu
from pwkernels.testing import (
    Case,
    Inputs,
    assert_close,
    cpu_instruction_sets,
    instruction_set,
    make_inputs,
    poisoned_empty,
    relative_error,
    run,
    run_torchvision,
)

HALVES = [torch.bfloat16, torch.float16]
DOUBLE_AND_SINGLE = [torch.float64, torch.float32]


def by_name(cases: dict[str, Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", cases)


@functools.cache
def oracle_output(name: str, dtype: torch.dtype) -> Tensor:
    case = grid.TINY[name].of(dtype=dtype)
    return oracle.warp(case, make_inputs(case))["output"]


@functools.cache
def torchvision_output(name: str) -> Tensor:
    case = grid.LARGER[name]
    return run_torchvision(case, make_inputs(case).map(lambda _, t: t.double()))


def test_every_variant_is_tested() -> None:
    assert cpu.why_unavailable() is None
    assert cpu_instruction_sets()[0] == cpu.instruction_set()
    assert cpu_instruction_sets()[-1] == "baseline"


@pytest.mark.parametrize("dtype", DOUBLE_AND_SINGLE, ids=str)
@by_name(grid.TINY)
def test_definition(name: str, dtype: torch.dtype, backend: str) -> None:
    case = grid.TINY[name].of(dtype=dtype)
    with poisoned_empty():
        output = run(case, make_inputs(case), backend)
    assert output.dtype == dtype and output.is_contiguous()
    assert_close(output, oracle_output(name, dtype), dtype, "output")


@by_name(grid.LARGER)
def test_torchvision(name: str, backend: str) -> None:
    case = grid.LARGER[name]
    with poisoned_empty():
        output = run(case, make_inputs(case), backend)
    assert_close(output, torchvision_output(name), case.dtype, "output")


DTYPES = {
    "bf16": {"dtype": torch.bfloat16},
    "fp16": {"dtype": torch.float16},
    "bf16, offsets and masks fp32": {
        "dtype": torch.bfloat16,
        "offset_dtype": torch.float32,
        "mask_dtype": torch.float32,
    },
    "fp16, weight fp32": {"dtype": torch.float16, "weight_dtype": torch.float32},
    "fp32, offsets bf16, masks fp16": {
        "offset_dtype": torch.bfloat16,
        "mask_dtype": torch.float16,
    },
    "fp32, weight bf16": {"weight_dtype": torch.bfloat16},
}


@pytest.mark.parametrize("dtypes", DTYPES.values(), ids=DTYPES)
def test_half_precision(dtypes: dict, backend: str) -> None:
    case = grid.EVERYTHING.of(**dtypes)
    inputs = make_inputs(case)
    with poisoned_empty():
        output = run(case, inputs, backend)
    wanted = run_torchvision(case, inputs.map(lambda _, t: t.double()))
    assert output.dtype == case.dtype
    assert_close(output, wanted, case.dtype, "output")


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_is_float32_rounded_once(dtype: torch.dtype, cpu_variant: str) -> None:
    """Every number of the type, through the conversions of the compiled kernel."""
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    values = bits.view(dtype)
    values = values[values.isfinite()]
    for weight in (1.0, 1 + 2.0**-11, 1 + 2.0**-8, 0.9999, 1 / 3, 3.7e-3, 1e-4):
        output = pwkernels.deform_conv2d(
            values[:, None, None, None],
            torch.zeros(len(values), 2, 1, 1),
            torch.full((1, 1, 1, 1), weight),
            backend="cpu",
        )
        torch.testing.assert_close(
            output.flatten(), (values.float() * weight).to(dtype), rtol=0, atol=0
        )


@pytest.mark.parametrize("weight", [1e4, -1e36])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_overflows_to_infinity(
    dtype: torch.dtype, weight: float, backend: str
) -> None:
    inputs = torch.tensor([1e3, -1e3, math.nan]).to(dtype)
    output = pwkernels.deform_conv2d(
        inputs[:, None, None, None],
        torch.zeros(3, 2, 1, 1),
        torch.full((1, 1, 1, 1), weight),
        backend=backend,
    )
    wanted = (inputs.float() * weight).to(dtype)
    torch.testing.assert_close(output.flatten(), wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_zero_offsets_and_identity_return_the_input(
    count: int, dtype: torch.dtype, backend: str
) -> None:
    dilations = (3, 6, 12, 24)[:count]
    module = pwkernels.MultiDilationDeformWarp(5, dilations=dilations, backend=backend).to(dtype)
    input = torch.randn(2, 5, 8, 7).to(dtype)
    offsets = [torch.zeros(2, 5 * 18, 8, 7, dtype=dtype)] * count
    assert torch.equal(module(input, offsets), input)


@pytest.mark.parametrize("shift", [(0, 0), (2, -1), (-3, 4), (1, 0), (-7, 0), (0, 9)], ids=str)
def test_integer_offsets_shift_the_map(shift: tuple[int, int], backend: str) -> None:
    (dy, dx), (height, width) = shift, (7, 9)
    input = torch.randn(2, 3, height, width)
    offset = torch.tensor([dy, dx], dtype=torch.float32)[:, None, None].expand(2, 2, height, width)
    output = pwkernels.deform_conv2d(input, offset, torch.eye(3)[:, :, None, None], backend=backend)
    padded = torch.nn.functional.pad(input, (10, 10, 10, 10))
    assert torch.equal(output, padded[:, :, 10 + dy : 10 + dy + height, 10 + dx : 10 + dx + width])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_border(dtype: torch.dtype, backend: str) -> None:
    """Linear to 0 over one pixel beyond the map, 0 from there on."""
    positions = torch.tensor([-1.5, -1, -0.75, -0.25, 0, 1.5, 2, 2.25, 2.75, 3, 3.5], dtype=dtype)
    wanted = torch.tensor([0, 0, 0.25, 0.75, 1, 1, 1, 0.75, 0.25, 0, 0], dtype=dtype)
    output = pwkernels.deform_conv2d(
        torch.ones(len(positions) ** 2, 1, 3, 3, dtype=dtype),
        torch.cartesian_prod(positions, positions)[:, :, None, None],
        torch.ones(1, 1, 1, 1, dtype=dtype),
        stride=(5, 5),
        backend=backend,
    )
    assert torch.equal(output.flatten(), torch.outer(wanted, wanted).flatten())


BAD_OFFSETS = [math.nan, math.inf, -math.inf, 1e38, -1e38, 3e9, -(2.0**31), 2.0**24]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("bad", BAD_OFFSETS)
def test_offsets_to_nowhere_sample_zero(bad: float, dtype: torch.dtype, backend: str) -> None:
    case = Case(size=(9, 11), offset_groups=2, dilations=(1, 3), masks=True, dtype=dtype)
    inputs, outside = make_inputs(case), make_inputs(case)
    rounded = torch.tensor(bad, dtype=torch.float64).to(dtype)  # infinite in float16
    for offsets, value in ((inputs.offsets, rounded), (outside.offsets, 1e4)):
        offsets[0][:, ::3, ::2] = value
        offsets[1][:, 1::4, :, ::3] = value
    assert torch.equal(run(case, inputs, backend), run(case, outside, backend))


def test_bad_input_stays_visible(backend: str) -> None:
    case = Case(size=(9, 11), offset_scale=0.3)
    inputs = make_inputs(case)
    inputs.input[1, 2, 4, 4] = math.nan
    output = run(case, inputs, backend)
    assert output[1].isnan().any() and not output[0].isnan().any()


def layouts(tensor: Tensor) -> dict[str, Tensor]:
    """The same values in other places of memory."""
    apart = torch.full([2 * size for size in tensor.shape], math.nan, dtype=tensor.dtype)
    apart = apart[tuple(slice(None, None, 2) for _ in tensor.shape)]
    return {
        "transposed": tensor.mT.contiguous().mT,
        "frames innermost": tensor.movedim(0, -1).contiguous().movedim(-1, 0),
        "channels last": tensor.movedim(1, -1).contiguous().movedim(-1, 1),
        "apart": apart.copy_(tensor),
        "negated view": torch._neg_view(-tensor),
    }


@pytest.mark.parametrize(
    "layout", ["transposed", "frames innermost", "channels last", "apart", "negated view"]
)
def test_memory_layouts(layout: str, backend: str) -> None:
    case = grid.EVERYTHING.of(window=None)
    inputs = make_inputs(case)
    moved = inputs.map(lambda _, t: layouts(t)[layout] if t.dim() >= 4 else t)
    assert moved.input.is_neg() or not moved.input.is_contiguous()
    assert torch.equal(run(case, moved, backend), run(case, inputs, backend))


@pytest.mark.parametrize("shape", ["1chw", "n1hw", "nc1w", "nch1", "1111"])
def test_expanded_tensors(shape: str, backend: str) -> None:
    case = grid.EVERYTHING

    def first(_: str, tensor: Tensor) -> Tensor:
        if tensor.dim() != 4:
            return tensor
        part = tensor[tuple(slice(1) if axis == "1" else slice(None) for axis in shape)]
        return part.expand(tensor.shape)

    expanded = make_inputs(case).map(first)
    assert 0 in expanded.input.stride() and 0 in expanded.offsets[1].stride()
    copied = expanded.map(lambda _, tensor: tensor.contiguous())
    assert torch.equal(run(case, expanded, backend), run(case, copied, backend))


@contextlib.contextmanager
def reserved(elements: int) -> Tensor:
    """A tensor of bfloat16 in address space without memory: the pages that are written get some."""
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    yield torch.frombuffer(mmap.mmap(-1, 2 * elements, flags=flags), dtype=torch.bfloat16)


FAR = 2**31 + 2**12


@pytest.mark.parametrize("huge", ["input", "offsets[1]", "masks[0]"])
def test_more_than_2_to_the_31_elements(huge: str, backend: str) -> None:
    case = grid.EVERYTHING.of(frames=3, dtype=torch.bfloat16, size=(6, 5))
    inputs = make_inputs(case)
    with reserved(3 * FAR) as memory:

        def spread(name: str, tensor: Tensor) -> Tensor:
            if name != huge:
                return tensor
            channels, width = tensor.shape[1], tensor.shape[3]
            steps = (FAR, FAR // channels // 16 * 16, width, 1)
            return memory.as_strided(tensor.shape, steps).copy_(tensor)

        output = run(case, inputs.map(spread), backend)
        results = pwkernels_gradients(case, inputs.map(spread), backend)
    assert torch.equal(output, run(case, inputs, backend))
    for name, gradient in pwkernels_gradients(case, inputs, backend).items():
        assert torch.equal(results[name], gradient), name


def pwkernels_gradients(case: Case, inputs: Inputs, backend: str) -> dict[str, Tensor]:
    leaves = inputs.leaves()
    names = leaves.named()
    grads = torch.autograd.grad(run(case, leaves, backend), names.values(), inputs.grad_output)
    return dict(zip(names, grads, strict=True))


@pytest.mark.parametrize("threads", [2, 3])
@by_name(
    {
        n: grid.LARGER[n]
        for n in ("everything", "several runs of pixels", "several chunks of planes")
    }
)
def test_threads_change_no_bit(name: str, threads: int) -> None:
    case = grid.LARGER[name]
    inputs = make_inputs(case)
    outputs = []
    before = torch.get_num_threads()
    try:
        for count in (1, threads, threads):
            torch.set_num_threads(count)
            outputs.append(run(case, inputs, "cpu"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_variants_agree() -> None:
    """To rounding: they add in vectors of different lengths."""
    case = grid.LARGER["heatmaps"]
    inputs = make_inputs(case)
    outputs = []
    for name in cpu_instruction_sets():
        with instruction_set(name):
            outputs.append(run(case, inputs, "cpu"))
    assert all(relative_error(output, outputs[0]) < 2e-6 for output in outputs)


def test_same_as_torchvision_with_its_arguments() -> None:
    """Positional, as a call looks after the change of an import."""
    case = grid.conv((2, 1), (2, 1), kernel=(3, 2), stride=(1, 2), masks=True, bias=True)
    inputs = make_inputs(case)
    args = (
        inputs.input,
        inputs.offsets[0],
        inputs.weight[0],
        inputs.bias[0],
        (1, 2),
        (2, 1),
        (2, 1),
    )
    ours = pwkernels.deform_conv2d(*args, inputs.masks[0])
    assert relative_error(ours, torchvision_deform_conv2d(*args, inputs.masks[0])) < 1e-5
    same = pwkernels.deform_conv2d(
        inputs.input[:, :, :3, :2], inputs.offsets[0][:, :, :1, :1], inputs.weight[0]
    )
    wanted = torchvision_deform_conv2d(
        inputs.input[:, :, :3, :2], inputs.offsets[0][:, :, :1, :1], inputs.weight[0]
    )
    assert relative_error(same, wanted) < 1e-5
