"""The Triton kernels against torchvision in float64; on CPU through the Triton interpreter."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from interpreted import DEVICE, test_in_a_process_that_interprets  # noqa: F401
from torchvision.ops import deform_conv2d

from pwkernels.geometry import WarpGeometry
from pwkernels.gpu import launch
from pwkernels.gpu.configs import Config
from pwkernels.gradients import Needs
from pwkernels.testing import poisoned_empty

EVERYTHING = Needs(True, True, True, True)
ROWS = {
    "forward": Config(False, 1024, 5, unroll=2, splits=3),
    "data": Config(False, 1024, 32, splits=2),
    "weight": Config(False, 256, 5, 2, splits=3),
}
DOT = {
    "forward": Config(True, 256, 16, 16, splits=3),
    "data": Config(True, 256, 16, 16, splits=2),
    "weight": Config(True, 256, 16, 16, splits=3),
}
CONFIGS = {"default": None, "rows": ROWS, "dot": DOT}


@dataclasses.dataclass
class Case:
    """Shapes of one warp; ``kind`` says what the offsets are like."""

    channels: tuple[int, int] = (4, 6)
    size: tuple[int, int] = (7, 9)
    frames: int = 2
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    dilations: tuple[tuple[int, int], ...] = ((1, 1),)
    groups: int = 1
    offset_groups: int = 1
    window: int = 0
    mask: bool = False
    bias: bool = False
    kind: str = "random"
    dtype: torch.dtype = torch.float32
    offset_dtype: torch.dtype = torch.float32
    mask_dtype: torch.dtype = torch.float32

    def geometry(self) -> WarpGeometry:
        sides = [(k - 1) // 2 for k in self.kernel]
        pads = tuple((sides[0] * dh, sides[1] * dw) for dh, dw in self.dilations)
        return WarpGeometry(self.kernel, self.stride, pads, self.dilations)

    def tensors(self) -> dict:
        generator = torch.Generator().manual_seed(self.channels[1])

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        geometry, (c_in, c_out) = self.geometry(), self.channels
        out_hw = geometry.output_hw(self.size)
        groups_taps = self.offset_groups * geometry.taps
        count = len(self.dilations)
        shape = (self.frames, 2 * groups_taps, *out_hw)
        offsets = [normal(*shape) * 3 for _ in range(count)]
        if self.kind == "zero":
            offsets = [torch.zeros(shape) for _ in range(count)]
        elif self.kind == "integer":
            offsets = [offset.round() for offset in offsets]
        elif self.kind == "huge":
            offsets = [torch.where(offset > 2, offset * 1e5, offset) for offset in offsets]
        masks = [normal(self.frames, groups_taps, *out_hw) for _ in range(count)]
        windows = self.frames // self.window if self.window else self.frames
        weight = normal(count, c_out, c_in // self.groups, *self.kernel)
        return {
            "input": normal(self.frames, c_in, *self.size).to(DEVICE, self.dtype),
            "offsets": [offset.to(DEVICE, self.offset_dtype) for offset in offsets],
            "masks": [m.to(DEVICE, self.mask_dtype) for m in masks] if self.mask else [],
            "weight": weight.to(DEVICE),
            "bias": normal(c_out).to(DEVICE) if self.bias else None,
            "frame_weights": normal(self.window).to(DEVICE) if self.window else None,
            "grad": normal(windows, c_out, *out_hw).to(DEVICE, self.dtype),
        }


def reference(case: Case, tensors: dict) -> tuple[torch.Tensor, dict]:
    """Output and gradients of torchvision's operators, composed, in float64 on the CPU."""

    def leaf(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.detach().cpu().double().requires_grad_()

    x, weight = leaf(tensors["input"]), leaf(tensors["weight"])
    offsets, masks = map(leaf, tensors["offsets"]), map(leaf, tensors["masks"])
    offsets, masks = list(offsets), list(masks)
    geometry = case.geometry()
    out = sum(
        deform_conv2d(
            x, offsets[d], weight[d], None, geometry.stride, geometry.paddings[d],
            geometry.dilations[d], masks[d] if masks else None,
        )
        for d in range(len(offsets))
    )  # fmt: skip
    if case.window:
        fw = tensors["frame_weights"].cpu().double()
        out = torch.einsum("t,btcyx->bcyx", fw, out.unflatten(0, (-1, case.window)))
    if case.bias:
        out = out + tensors["bias"].cpu().double()[:, None, None]
    out.backward(tensors["grad"].cpu().double())
    return out.detach(), {
        "input": x.grad,
        "offsets": [offset.grad for offset in offsets],
        "masks": [mask.grad for mask in masks],
        "weight": weight.grad,
    }


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference relative to the largest reference value; infinite if any is NaN."""
    assert got.shape == wanted.shape
    if wanted.numel() == 0:
        return 0.0
    worst = (got.cpu().double() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30)
    return float(worst) if math.isfinite(worst) else math.inf


@pytest.fixture(autouse=True)
def poison():
    """Fill every ``torch.empty`` with NaN, so that an element that is never written shows."""
    with poisoned_empty():
        yield


def run_forward(case: Case, tensors: dict, configs=None) -> torch.Tensor:
    names = ("input", "offsets", "masks", "weight", "bias", "frame_weights")
    return launch.forward(*(tensors[n] for n in names), case.geometry(), configs=configs)


def run_backward(
    case: Case, tensors: dict, needs=EVERYTHING, deterministic=False, configs=None
) -> dict:
    names = ("grad", "input", "offsets", "masks", "weight", "frame_weights")
    return launch.backward(
        *(tensors[n] for n in names), case.geometry(),
        needs=needs, deterministic=deterministic, configs=configs,
    )._asdict()  # fmt: skip


def check(case: Case, configs=None, deterministic=False, forward_tol=1e-5, grad_tol=1e-4) -> dict:
    """Compare forward and all gradients; returns the errors."""
    tensors = case.tensors()
    out, grads = reference(case, tensors)
    got_out = run_forward(case, tensors, configs)
    got = run_backward(case, tensors, deterministic=deterministic, configs=configs)
    assert got_out.dtype == got["input"].dtype == case.dtype
    assert got["weight"].dtype == torch.float32
    assert all(grad.dtype == case.offset_dtype for grad in got["offsets"])
    assert all(grad.dtype == case.mask_dtype for grad in got["masks"])
    assert len(got["masks"]) == len(grads["masks"])
    errors = {"forward": error(got_out, out)}
    for name in ("input", "weight"):
        errors[name] = error(got[name], grads[name])
    for name in ("offsets", "masks"):
        for d, (one, wanted) in enumerate(zip(got[name], grads[name], strict=True)):
            errors[f"{name}[{d}]"] = error(one, wanted)
    limits = {name: forward_tol if name == "forward" else grad_tol for name in errors}
    assert {n: e for n, e in errors.items() if e > limits[n]} == {}, errors
    return errors


FIVE = ((3, 3), (6, 6), (12, 12), (18, 18), (24, 24))
CASES = {
    "plain": Case(),
    "heatmaps": Case((17, 17), (12, 9), dilations=FIVE[:2], offset_groups=17, bias=True),
    "window": Case((5, 5), (11, 9), 6, dilations=FIVE, offset_groups=5, window=3, bias=True),
    "masked window": Case((4, 6), (6, 8), 4, dilations=FIVE[:2], window=2, mask=True),
    "widening": Case((3, 7), offset_groups=3, mask=True),
    "groups": Case((6, 4), groups=2, offset_groups=3, mask=True, bias=True),
    "groups across": Case((6, 6), groups=3, offset_groups=2, dilations=((1, 2), (2, 1))),
    "depthwise": Case((6, 6), groups=6, offset_groups=2),
    "half as many offsets": Case((6, 5), offset_groups=3, mask=True),
    "stride 2": Case(stride=(2, 2), size=(9, 12), mask=True),
    "stride 2 x 1": Case(stride=(2, 1), kernel=(3, 5), size=(9, 12)),
    "kernel 1x1": Case(kernel=(1, 1), mask=True),
    "kernel 3x5": Case(kernel=(3, 5), dilations=((2, 1),)),
    "one row": Case(size=(1, 11), offset_groups=2),
    "one column": Case(size=(11, 1), offset_groups=4, mask=True),
    "one pixel": Case(size=(1, 1), frames=1),
    "one channel": Case((1, 1), mask=True),
    "wide": Case((8, 40), (5, 5), frames=1, offset_groups=4),
    "zero offsets": Case(kind="zero", mask=True, offset_groups=4),
    "integer offsets": Case(kind="integer", mask=True, dilations=FIVE[:2], offset_groups=4),
    "huge offsets": Case(kind="huge", mask=True),
}  # fmt: skip


# Interpreted, kernels that take one row at a time are slow: small cases, or a GPU.
SMALL = {
    "plain": CASES["plain"],
    "window": Case((3, 3), (4, 5), 2, (1, 3), dilations=FIVE[:3], window=2, mask=True, bias=True),
    "widening": Case((3, 7), (4, 5), 1, (2, 2), offset_groups=3, mask=True),
    "groups": Case((4, 4), (4, 5), 1, (3, 1), groups=2, offset_groups=4, bias=True),
    "groups across": Case((6, 6), (4, 5), 1, (1, 2), groups=3, offset_groups=2),
    "stride 2": Case((2, 3), (5, 6), 1, (3, 2), (2, 2), mask=True),
    "one pixel": Case((2, 2), (1, 1), 1),
    "integer offsets": Case((2, 2), (5, 6), 1, kind="integer", offset_groups=2),
}


@pytest.mark.parametrize("mode", ["default", "dot"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_agrees_with_torchvision(case: Case, mode: str) -> None:
    check(case, CONFIGS[mode])


@pytest.mark.parametrize(
    "case", (SMALL if DEVICE == "cpu" else CASES).values(), ids=SMALL if DEVICE == "cpu" else CASES
)
def test_row_kernels_agree_with_torchvision(case: Case) -> None:
    check(case, ROWS)


HALF = {
    "bf16": (torch.bfloat16, torch.bfloat16, torch.bfloat16, 1.2e-2),
    "fp16": (torch.float16, torch.float16, torch.float16, 1.5e-3),
    "bf16, fp32 offsets": (torch.bfloat16, torch.float32, torch.float16, 1.2e-2),
    "fp16, fp32 offsets": (torch.float16, torch.float32, torch.float32, 1.5e-3),
    "fp32, bf16 offsets": (torch.float32, torch.bfloat16, torch.float32, 1.2e-2),
}


@pytest.mark.parametrize("mode", ["rows", "dot"])
@pytest.mark.parametrize("dtypes", HALF.values(), ids=HALF)
def test_half_precision(dtypes: tuple, mode: str) -> None:
    dtype, offset_dtype, mask_dtype, tolerance = dtypes
    case = dataclasses.replace(
        SMALL["window"], dtype=dtype, offset_dtype=offset_dtype, mask_dtype=mask_dtype
    )
    check(case, CONFIGS[mode], forward_tol=tolerance, grad_tol=tolerance)


@pytest.mark.parametrize("mode", ["rows", "dot"])
def test_offsets_of_several_dtypes(mode: str) -> None:
    case = SMALL["window"]
    tensors = case.tensors()
    tensors["offsets"][1] = tensors["offsets"][1].bfloat16()
    out, grads = reference(case, tensors)
    assert error(run_forward(case, tensors, CONFIGS[mode]), out) < 1e-5
    got = run_backward(case, tensors, configs=CONFIGS[mode])["offsets"]
    assert [grad.dtype for grad in got] == [torch.float32, torch.bfloat16, torch.float32]
    assert error(got[0], grads["offsets"][0]) < 1e-4
    assert error(got[1], grads["offsets"][1]) < 1e-2


@pytest.mark.parametrize("mode", ["rows", "dot"])
@pytest.mark.parametrize("name", ["window", "widening"])
def test_deterministic(name: str, mode: str) -> None:
    errors = check(SMALL[name], CONFIGS[mode], deterministic=True)
    assert errors["input"] < 1e-6
    # The interpreter adds in a fixed order; on a GPU this would catch a race.
    tensors = SMALL[name].tensors()
    first, second = (
        run_backward(SMALL[name], tensors, deterministic=True, configs=CONFIGS[mode])
        for _ in range(2)
    )
    assert torch.equal(first["input"], second["input"])
    assert torch.equal(first["weight"], second["weight"])


def test_deterministic_sum_ignores_the_order_of_additions() -> None:
    """Another split of the work adds in another order, and must not change a bit."""
    case = SMALL["integer offsets"]
    tensors = case.tensors()
    some, other = (
        run_backward(
            case, tensors, Needs(True, False, False, False), True,
            {"data": Config(False, block_p, 32, splits=splits)},
        )["input"]
        for block_p, splits in ((64, 1), (16, 2))
    )  # fmt: skip
    assert torch.equal(some, other)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e30])
def test_deterministic_over_the_range_of_float32(scale: float) -> None:
    case = Case()
    tensors = case.tensors()
    tensors["grad"] *= scale
    _, grads = reference(case, tensors)
    got = run_backward(case, tensors, deterministic=True)["input"]
    assert float((got.cpu() - grads["input"]).abs().max() / grads["input"].abs().max()) < 1e-6


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_non_finite_gradients_stay_visible_when_deterministic(bad: float) -> None:
    case = Case()
    tensors = case.tensors()
    tensors["grad"][0, 0, 3, 3] = bad
    assert run_backward(case, tensors, deterministic=True)["input"].isnan().any()
    tensors["grad"].zero_()
    assert run_backward(case, tensors, deterministic=True)["input"].abs().max() == 0


@pytest.mark.parametrize("mode", ["rows", "dot"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38, -3e9])
def test_offsets_to_nowhere_give_zero(bad: float, mode: str) -> None:
    """Compared with a finite offset far outside: torchvision must never see a NaN offset."""
    case = Case((2, 3), (4, 5), 1, mask=True, offset_groups=2)
    tensors = case.tensors()
    outside = [offset.clone() for offset in tensors["offsets"]]
    tensors["offsets"][0][:, ::3, ::2] = bad
    outside[0][:, ::3, ::2] = -1e4
    got = (
        run_forward(case, tensors, CONFIGS[mode]),
        run_backward(case, tensors, configs=CONFIGS[mode]),
    )
    out, grads = reference(case, {**tensors, "offsets": outside})
    assert error(got[0], out) < 1e-5
    for name in ("input", "weight"):
        assert error(got[1][name], grads[name]) < 1e-4
    for name in ("offsets", "masks"):
        assert error(got[1][name][0], grads[name][0]) < 1e-4
    assert (got[1]["offsets"][0][:, ::3, ::2] == 0).all()


@pytest.mark.parametrize("offset", [-1e-9, 1e-9, -1e-12, 0.0])
def test_cells_are_those_of_float64(offset: float) -> None:
    """``40 + offset`` rounds to 40 in float32; the offset gradient there depends on the side."""
    case = Case((1, 1), (64, 3), frames=1, dilations=((1, 1),))
    tensors = case.tensors()
    tensors["offsets"][0].fill_(offset)
    _, grads = reference(case, tensors)
    got = run_backward(case, tensors)
    assert error(got["offsets"][0], grads["offsets"][0]) < 1e-5


@pytest.mark.parametrize("mode", ["default", "dot"])
@pytest.mark.parametrize("wanted", [*Needs._fields, "none"])
def test_only_what_is_needed(wanted: str, mode: str) -> None:
    case = CASES["masked window"]
    tensors = case.tensors()
    needs = Needs(*(name == wanted for name in Needs._fields))
    everything = run_backward(case, tensors, configs=CONFIGS[mode])
    got = run_backward(case, tensors, needs=needs, configs=CONFIGS[mode])
    for name, value in got.items():
        if name != wanted:
            assert value is None or value == []
        elif isinstance(value, list):
            assert len(value) == 2
            assert all(map(torch.equal, value, everything[name]))
        else:
            torch.testing.assert_close(value, everything[name])


def test_non_contiguous_tensors() -> None:
    case = CASES["widening"]
    tensors = case.tensors()
    strided = dict(tensors)
    for name in ("input", "grad"):
        strided[name] = tensors[name].to(memory_format=torch.channels_last)
    strided["offsets"] = [
        o.transpose(2, 3).contiguous().transpose(2, 3) for o in tensors["offsets"]
    ]
    strided["weight"] = tensors["weight"].transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(run_forward(case, strided), run_forward(case, tensors))
    got, wanted = run_backward(case, strided), run_backward(case, tensors)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("window", [0, 3])
def test_empty_batch(window: int) -> None:
    case = Case(frames=0, window=window, mask=True)
    tensors = case.tensors()
    assert run_forward(case, tensors).shape == (0, 6, 7, 9)
    for deterministic in (False, True):
        got = run_backward(case, tensors, deterministic=deterministic)
        assert got["input"].shape == (0, 4, 7, 9)
        assert got["offsets"][0].shape == (0, 18, 7, 9)
        assert (got["weight"] == 0).all() and got["weight"].shape == tensors["weight"].shape
