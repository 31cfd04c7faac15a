"""The warp with its offset convolutions in Triton against torchvision in float64; interpreted."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from interpreted import DEVICE, test_in_a_process_that_interprets  # noqa: F401
from torch import Tensor
from torch.nn.functional import conv2d
from torchvision.ops import deform_conv2d

import pwkernels
from pwkernels.gpu import offset_conv
from pwkernels.gpu.configs import Config, row_blocks
from pwkernels.testing import poisoned_empty, relative_error

# Two blocks of rows that are sampled in pieces, more than one block of features, partial sums.
PIECES = Config(True, 64, 16, 32, splits=2, block_r2=16, block_s=16, block_f=16)
# More than one block of pixels and of rows.
BLOCKS = Config(True, 32, 16, 16, splits=1, block_s=16, block_f=16)


@dataclasses.dataclass
class Case:
    """Shapes of one call; ``scale`` is the typical offset in pixels."""

    channels: tuple[int, int] = (3, 4)
    features: int = 5
    size: tuple[int, int] = (7, 9)
    frames: int = 1
    kernel: tuple[int, int] = (3, 3)
    dilations: tuple[tuple[int, int], ...] = ((1, 1), (2, 2))
    groups: int = 1
    offset_groups: int = 3
    window: int = 0
    scale: float = 2.0
    config: Config | None = None

    def tensors(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor | None]:
        """Features, input and offset weight are exact in ``dtype``. Offsets are sums of multiples
        of 1/4096, exact in any order of summation, so that far ones are no less so than near ones.
        """
        generator = torch.Generator().manual_seed(self.features)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        count, (c_in, c_out), taps = len(self.dilations), self.channels, math.prod(self.kernel)
        offset_weight = normal(count, 2 * self.offset_groups * taps, self.features, 3, 3)
        offset_weight *= self.scale / (9 * self.features) ** 0.5
        features = normal(self.frames, self.features, *self.size)
        features, offset_weight = (t.mul(64).round().div(64) for t in (features, offset_weight))
        tensors = {
            "features": features.to(dtype),
            "input": normal(self.frames, c_in, *self.size).to(dtype),
            "offset_weight": offset_weight.to(dtype),
            "weight": normal(count, c_out, c_in // self.groups, *self.kernel),
            "frame_weights": normal(self.window) if self.window else None,
        }
        return {n: None if t is None else t.to(DEVICE) for n, t in tensors.items()}


def reference(case: Case, tensors: dict[str, Tensor | None], outside: bool = False) -> Tensor:
    """Composed in float64 on the CPU; with ``outside``, offsets that are not finite are far."""
    doubles = {n: None if t is None else t.detach().cpu().double() for n, t in tensors.items()}
    total: Tensor | float = 0.0
    for d, (dilation_h, dilation_w) in enumerate(case.dilations):
        dilation = (dilation_h, dilation_w)
        offset = conv2d(
            doubles["features"], doubles["offset_weight"][d], padding=dilation, dilation=dilation
        )
        if outside:
            offset = torch.where(offset.isfinite(), offset, -1e4)
        padding = [(k - 1) // 2 * side for k, side in zip(case.kernel, dilation, strict=True)]
        total = total + deform_conv2d(
            doubles["input"], offset, doubles["weight"][d], None, 1, tuple(padding), dilation
        )
    assert isinstance(total, Tensor)
    if case.window:
        total = total.unflatten(0, (-1, case.window))
        total = (total * doubles["frame_weights"][:, None, None, None]).sum(1)
    return total


def run(case: Case, tensors: dict[str, Tensor | None]) -> Tensor:
    """The kernel, writing into memory that is filled with NaN."""
    with poisoned_empty():
        return offset_conv.offset_conv_warp(**tensors, dilations=case.dilations, config=case.config)


FIVE = ((3, 3), (6, 6), (12, 12), (18, 18), (24, 24))
CASES = {
    "plain": Case(),
    "heatmaps": Case((17, 17), 16, (12, 9), offset_groups=17, dilations=FIVE[:1]),
    "five dilations": Case((2, 2), 8, (11, 9), offset_groups=2, dilations=FIVE),
    "windows": Case((3, 3), 4, (5, 6), 4, window=2, dilations=((2, 2),)),
    "pieces": Case((5, 6), 20, (5, 9), 2, offset_groups=5, window=2, dilations=((3, 3),),
                   config=PIECES),
    "blocks": Case((3, 17), 6, (5, 7), dilations=((1, 1),), config=BLOCKS),
    "channels share offsets": Case((6, 7), 4, offset_groups=2, dilations=((2, 2),)),
    "groups": Case((6, 4), groups=2, dilations=((2, 2),)),
    "groups across": Case((6, 6), groups=3, offset_groups=2, dilations=((1, 2), (2, 1))),
    "depthwise": Case((4, 4), groups=4, offset_groups=2, dilations=((1, 1),)),
    "kernel 1x1": Case(kernel=(1, 1), dilations=((2, 2),)),
    "kernel 3x5": Case(kernel=(3, 5), dilations=((2, 1),)),
    "one row": Case(size=(1, 11), features=3),
    "one column": Case(size=(11, 1), features=33),
    "one pixel": Case(size=(1, 1), features=1),
    "far outside": Case(scale=20.0, dilations=((1, 1),)),
    "40 outputs": Case((2, 40), offset_groups=1, dilations=((1, 1),)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_agrees_with_torchvision(case: Case) -> None:
    tensors = case.tensors()
    out = run(case, tensors)
    assert out.dtype == torch.float32 and out.is_contiguous()
    assert relative_error(out, reference(case, tensors)) < 3e-6


# The interpreter cuts float32 to bfloat16 where a GPU rounds.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 1.2e-2), (torch.float16, 1.5e-3)]
)
def test_half_precision(dtype: torch.dtype, tolerance: float) -> None:
    case = CASES["channels share offsets"]
    tensors = case.tensors(dtype)
    wanted = reference(case, tensors)
    out = run(case, tensors)
    assert out.dtype == dtype
    assert relative_error(out, wanted) < tolerance
    # Only the input decides on the result's dtype; the offsets are never rounded.
    tensors["input"] = tensors["input"].float()
    out = run(case, tensors)
    assert out.dtype == torch.float32
    assert relative_error(out, wanted) < 3e-6


def test_offset_weight_is_rounded_to_the_dtype_of_the_features() -> None:
    case = CASES["kernel 1x1"]
    tensors = case.tensors()
    tensors["features"] = tensors["features"].bfloat16()
    rounded = {**tensors, "offset_weight": tensors["offset_weight"].bfloat16()}
    assert torch.equal(run(case, tensors), run(case, rounded))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e38, -3e9])
def test_offsets_to_nowhere_sample_nothing(bad: float) -> None:
    case = dataclasses.replace(CASES["plain"], dilations=((1, 1),))
    tensors = case.tensors()
    tensors["features"][0, 2, 3, 4] = bad
    out = run(case, tensors)
    assert out.isfinite().all()
    assert relative_error(out, reference(case, tensors, outside=True)) < 3e-6


def test_what_lies_beside_the_frame_is_never_read() -> None:
    """Read in place, between frames of NaN."""
    case = dataclasses.replace(CASES["far outside"], config=BLOCKS)
    tensors = case.tensors()
    wanted = run(case, tensors)
    for name, order, back in (
        ("features", (0, 2, 3, 1), (0, 3, 1, 2)),
        ("input", (0, 1, 2, 3), (0, 1, 2, 3)),
    ):
        frame = tensors[name].permute(order)
        surrounded = torch.full_like(frame, math.nan).repeat(3, 1, 1, 1)
        surrounded[1:2] = frame
        tensors[name] = surrounded[1:2].permute(back)
    assert torch.equal(run(case, tensors), wanted)


def test_strided_tensors() -> None:
    case = CASES["channels share offsets"]
    tensors = case.tensors()
    strided = dict(tensors)
    for name in ("features", "input"):
        strided[name] = tensors[name].to(memory_format=torch.channels_last)
    for name in ("offset_weight", "weight"):
        strided[name] = tensors[name].transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(run(case, strided), run(case, tensors))


@pytest.mark.parametrize("window", [0, 3])
def test_empty_batch(window: int) -> None:
    case = Case(frames=0, window=window)
    assert run(case, case.tensors()).shape == (0, 4, 7, 9)


def test_calls_that_it_cannot_run() -> None:
    def why_not(outputs: int = 4, side: int = 8) -> str | None:
        def meta(*shape: int) -> Tensor:
            return torch.empty(shape, device="meta")

        maps = meta(2, 128, side, side), meta(2, 3, side, side)
        return offset_conv.why_not(*maps, meta(1, 54, 128, 3, 3), meta(1, outputs, 3, 3, 3))

    assert why_not() is None and why_not(64) is None
    assert "65" in why_not(65)
    assert "features" in why_not(side=4096) and why_not(side=4095) is None


@pytest.mark.parametrize(
    ("rows", "widest", "expected"),
    [(153, 128, (128, 32)), (153, 64, (64, 16)), (9, 128, (16, 0)), (117, 128, (128, 0)),
     (144, 128, (128, 16)), (306, 128, (128, 32))],
)  # fmt: skip
def test_blocks_of_rows(rows: int, widest: int, expected: tuple[int, int]) -> None:
    assert row_blocks(rows, widest) == expected


def test_public_function() -> None:
    """Through the operator, with a gradient (the offsets are computed again there)."""
    case = Case((2, 2), 3, (4, 5), 2, offset_groups=2, window=2, dilations=((1, 1),))
    tensors = case.tensors()
    results = []
    for backend in ("triton", "reference"):
        leaves = {n: t.detach().clone().requires_grad_() for n, t in tensors.items()}
        out = pwkernels.offset_conv_warp(**leaves, dilations=case.dilations, backend=backend)
        out.square().sum().backward()
        results.append((out, leaves["features"].grad))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
