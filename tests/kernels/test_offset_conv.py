"""Values and gradients of ``offset_conv_warp``: against its definition in float64, and exactly."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from offset_conv_calls import CALLS, EVERYTHING, NAMES, Call, doubles, expected, results
from torch import Tensor

from pwkernels import offset_conv
from pwkernels.testing import (
    Case,
    assert_all_close,
    assert_close,
    poisoned_empty,
    relative_error,
)

HALVES = [torch.bfloat16, torch.float16]
by_name = pytest.mark.parametrize("name", CALLS)


@contextlib.contextmanager
def poisoned_malloc() -> Iterator[None]:
    """New memory of the C library holds huge numbers (glibc; elsewhere nothing happens)."""
    perturb, byte = -6, 0x80  # M_PERTURB: 0x7f7f7f7f is 3.4e38, 0x7f7f is 3.4e38 in bfloat16
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(perturb, byte)
    try:
        yield
    finally:
        if mallopt is not None:
            mallopt(perturb, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@by_name
def test_definition(name: str, dtype: torch.dtype, backend: str) -> None:
    # The numbers are float32's: those of float64 rounded.
    call = CALLS[name].of(dtype=dtype)
    with poisoned_empty(), poisoned_malloc():
        output = call.run(call.tensors(), backend)
    assert output.dtype == dtype and output.is_contiguous()
    assert_close(output, expected(name)["output"], dtype, "output")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@by_name
def test_gradients(name: str, dtype: torch.dtype) -> None:
    call = CALLS[name].of(dtype=dtype)
    with poisoned_empty():
        actual = results(functools.partial(call.run, backend="cpu"), call.tensors(),
                         call.grad_output())  # fmt: skip
    assert_all_close(actual, expected(name))


DTYPES = {
    "bf16": (torch.bfloat16, None),
    "fp16": (torch.float16, None),
    "bf16, offset_weight fp32": (torch.bfloat16, torch.float32),
    "fp16, offset_weight bf16": (torch.float16, torch.bfloat16),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("dtype", "kernel_dtype"), DTYPES.values(), ids=DTYPES)
def test_half_precision_offsets_are_not_rounded(
    dtype: torch.dtype, kernel_dtype: torch.dtype, layout: torch.memory_format, backend: str
) -> None:
    for features, size in ((5, (5, 7)), (32, (9, 30))):
        call = Call(EVERYTHING.case.of(dtype=dtype, size=size), features, 0, kernel_dtype)
        tensors = call.tensors()
        tensors["features"] = tensors["features"].to(memory_format=layout)
        wanted = call.definition(doubles(tensors))
        with poisoned_empty(), poisoned_malloc():
            output = call.run(tensors, backend)
            precise = call.run({**tensors, "input": tensors["input"].float()}, backend)
        assert output.dtype == dtype and precise.dtype == torch.float32
        assert_close(output, wanted, dtype, "output")
        assert_close(precise, wanted, torch.float32, "output")


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_half_precision_gradients(dtype: torch.dtype) -> None:
    call = EVERYTHING.of(dtype=dtype)
    tensors = call.tensors()
    actual = results(call.run, tensors, call.grad_output())
    assert {n: t.dtype for n, t in actual.items()} == dict.fromkeys(actual, dtype)
    assert_all_close(
        actual, results(call.definition, doubles(tensors), call.grad_output().double())
    )


def test_features_that_are_not_numbers_sample_outside(cpu_variant: str) -> None:
    """A NaN reaches the 3 x 3 offsets around it, and there the value is 0; infinities too."""
    call = Call(Case(frames=1, size=(9, 11)), features=3)
    tensors = call.tensors()
    tensors["features"][0, 1, 4, 5] = float("nan")
    output = call.run(tensors, "cpu")
    assert (output[0, :, 3:6, 4:7] == 0).all() and output.isfinite().all()
    changed = output != call.run(call.tensors(), "cpu")
    assert not changed[0, :, 6:].any() and not changed[0, :, :, 7:].any()


def layouts(tensor: Tensor) -> dict[str, Tensor]:
    apart = torch.full([2 * size for size in tensor.shape], torch.nan, dtype=tensor.dtype)
    apart = apart[tuple(slice(None, None, 2) for _ in tensor.shape)]
    return {
        "channels last": tensor.movedim(1, -1).contiguous().movedim(-1, 1),
        "transposed": tensor.mT.contiguous().mT,
        "apart": apart.copy_(tensor),
        "frames apart": torch.cat([tensor, tensor], 1)[:, : tensor.shape[1]],
        "negated view": torch._neg_view(-tensor),
    }


@pytest.mark.parametrize("layout", layouts(torch.zeros(1, 1, 1, 1)))
def test_memory_layouts(layout: str, backend: str) -> None:
    call = Call(Case(size=(13, 11), channels=2, offset_groups=2), features=6)
    tensors = call.tensors()
    moved = {
        n: None if t is None else layouts(t)[layout] if t.dim() == 4 else t.mT.contiguous().mT
        for n, t in tensors.items()
    }
    bound = 0 if backend == "cpu" else 1e-6  # torch's convolution depends on the layout
    assert relative_error(call.run(moved, backend), call.run(tensors, backend)) <= bound


@pytest.mark.parametrize("expanded", NAMES[:4])
def test_expanded_tensors(expanded: str) -> None:
    call = EVERYTHING
    tensors = call.tensors()
    tensors[expanded] = tensors[expanded][:1].expand(tensors[expanded].shape)
    copied = {n: t.contiguous() for n, t in tensors.items()}
    assert torch.equal(call.run(tensors, "cpu"), call.run(copied, "cpu"))
    for name, value in results(call.run, tensors, call.grad_output()).items():
        wanted = results(call.run, copied, call.grad_output())[name]
        assert relative_error(value, wanted) < 1e-6, name


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["everything", "runs that cross rows", "heatmaps"])
def test_threads_change_no_bit(name: str, cpu_variant: str) -> None:
    """Although the runs are shorter for more of them."""
    call = CALLS[name]
    outputs = []
    for count in (1, 2, 3, 16):
        with threads(count):
            outputs.append(call.run(call.tensors(), "cpu"))
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_many_windows_in_several_chunks() -> None:
    call = Call(Case(frames=12, size=(120, 90), channels=4, window=2), features=2)
    tensors = call.tensors()
    tensors["features"] = tensors["features"].to(memory_format=torch.channels_last)
    assert_close(call.run(tensors, "cpu"), call.expected(), torch.float32, "output")


def test_no_offsets_in_memory() -> None:
    """The offsets of the call would take 300 MB."""
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        pytest.skip("needs Linux to ask for the peak of the memory")

    def peak() -> int:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])

    joints = Case(frames=16, channels=17, out_channels=17, offset_groups=17, size=(64, 48))
    call = Call(joints.of(dilations=(3, 6, 12, 18, 24)), features=1)
    tensors = call.tensors()
    peaks = {}
    for backend in ("cpu", "unfused"):
        clear.write_text("5")  # the peak is that of now
        before = peak()
        call.run(tensors, backend)
        peaks[backend] = peak() - before
    assert peaks["cpu"] < 60_000 and peaks["unfused"] > 200_000


@pytest.mark.parametrize("tile", [1, 2 * 54 * 5 * 7, 2**24])
@pytest.mark.parametrize("only", [NAMES, *((name,) for name in NAMES)], ids=str)
def test_gradients_in_tiles(tile: int, only: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any size; those that are not asked for are not computed."""
    monkeypatch.setattr(offset_conv, "_TILE", tile)
    call = EVERYTHING
    actual = results(call.run, call.tensors(), call.grad_output(), only)
    wanted = expected("everything")
    assert_all_close(actual, {n: wanted[n] for n in ("output", *only)})


def test_gradcheck() -> None:
    case = Case(frames=2, channels=2, out_channels=1, size=(3, 2), window=2, dtype=torch.float64)
    call = Call(case, features=2)
    tensors = {n: t.requires_grad_() for n, t in call.tensors().items()}

    def function(*values: Tensor) -> Tensor:
        return call.run(dict(zip(NAMES, values, strict=True)))

    torch.autograd.gradcheck(function, tuple(tensors.values()), eps=1e-7, atol=1e-5)


def test_unfused_is_the_composition() -> None:
    call = EVERYTHING
    tensors = call.tensors()
    assert_close(call.run(tensors, "unfused"), call.expected(), torch.float32, "output")
    low = {n: t.bfloat16() for n, t in tensors.items()}
    with torch.autocast("cpu", torch.bfloat16):
        under = call.run(low, "unfused")
    assert torch.equal(under, call.run(low, "unfused")) and under.dtype == torch.bfloat16
