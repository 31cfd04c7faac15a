"""What tests and benchmarks share: cases, their inputs, tolerances, comparison."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from unittest import mock

import torch
from torch import Tensor

from pwkernels.functional import deform_conv2d, multi_dilation_deform_warp
from pwkernels.geometry import Pair, WarpGeometry, same_padding

POSEWARPER_DILATIONS = (3, 6, 12, 18, 24)


@dataclass(frozen=True)
class Case:
    """All that defines a call of the warp, or of ``deform_conv2d`` where ``paddings`` is given.

    Attributes:
        frames: N; with ``window`` a multiple of it.
        dilations: an int or (h, w) for each convolution.
        paddings: (h, w) for each convolution; None keeps the size of the map.
        window: T, the length of ``frame_weights``; None for no frame weights.
        offset_dtype, mask_dtype, weight_dtype: None for ``dtype``.
        offsets: ``"random"`` (normal, times ``offset_scale``), ``"integer"``, ``"zero"``, or
            ``"interior"`` (0.1 or more from an integer, where the warp is differentiable).
    """

    frames: int = 2
    channels: int = 4
    out_channels: int = 4
    size: Pair = (7, 9)
    dilations: tuple[int | Pair, ...] = (1,)
    offset_groups: int = 1
    groups: int = 1
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    paddings: tuple[Pair, ...] | None = None
    masks: bool = False
    bias: bool = False
    window: int | None = None
    reduction: str = "mean"
    dtype: torch.dtype = torch.float32
    offset_dtype: torch.dtype | None = None
    mask_dtype: torch.dtype | None = None
    weight_dtype: torch.dtype | None = None
    offsets: str = "random"
    offset_scale: float = 2.0

    def of(self, **changes: object) -> Case:
        """Return the case with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    @property
    def geometry(self) -> WarpGeometry:
        """Kernel, stride, paddings and dilations as the backends take them."""
        pairs = tuple(d if isinstance(d, tuple) else (d, d) for d in self.dilations)
        paddings = self.paddings or tuple(same_padding(self.kernel, pair) for pair in pairs)
        return WarpGeometry(self.kernel, self.stride, paddings, pairs)


# The calls whose speed counts: PoseWarper at inference and in training, DCPose, FAMI, one dilation.
WINDOW = Case(
    frames=5,
    channels=17,
    out_channels=17,
    size=(96, 72),
    dilations=POSEWARPER_DILATIONS,
    offset_groups=17,
)
TRAINING = WINDOW.of(frames=16)
DCPOSE = WINDOW.of(frames=1, dilations=(3, 6, 9, 12, 15), masks=True, bias=True)
FAMI = WINDOW.of(frames=1, channels=48, out_channels=48, dilations=(3,), offset_groups=12)
SINGLE = WINDOW.of(dilations=(3,))
STANDARD_CASES = {
    "window": WINDOW,
    "training": TRAINING,
    "dcpose": DCPOSE,
    "fami": FAMI,
    "single": SINGLE,
}


@dataclass
class Inputs:
    """The tensors of a call, weight and bias in the shapes of the warp: ``[D, C_out, ...]``."""

    input: Tensor
    offsets: list[Tensor]
    weight: Tensor
    masks: list[Tensor] = field(default_factory=list)
    bias: Tensor | None = None
    frame_weights: Tensor | None = None
    grad_output: Tensor | None = None

    def named(self) -> dict[str, Tensor]:
        """Every tensor that has a gradient, by name."""
        named: dict[str, Tensor | None] = {"input": self.input, "weight": self.weight}
        named |= {f"offsets[{d}]": offset for d, offset in enumerate(self.offsets)}
        named |= {f"masks[{d}]": mask for d, mask in enumerate(self.masks)}
        named |= {"bias": self.bias, "frame_weights": self.frame_weights}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def map(self, function: Callable[[str, Tensor], Tensor]) -> Inputs:
        """The same call with ``function(name, tensor)`` for every tensor."""

        def optional(name: str, tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else function(name, tensor)

        return Inputs(
            input=function("input", self.input),
            offsets=[function(f"offsets[{d}]", t) for d, t in enumerate(self.offsets)],
            weight=function("weight", self.weight),
            masks=[function(f"masks[{d}]", t) for d, t in enumerate(self.masks)],
            bias=optional("bias", self.bias),
            frame_weights=optional("frame_weights", self.frame_weights),
            grad_output=optional("grad_output", self.grad_output),
        )

    def leaves(self, only: str | None = None) -> Inputs:
        """Detached; those whose name starts with ``only`` (else all) require gradients."""
        return self.map(
            lambda name, tensor: tensor.detach().requires_grad_(
                name != "grad_output" and name.startswith(only or "")
            )
        )


def make_inputs(case: Case, seed: int = 0, device: str | torch.device = "cpu") -> Inputs:
    """Random tensors of a case, the same on every device, with the gradient of its output."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype or case.dtype)

    geometry = case.geometry
    count, taps = len(case.dilations), geometry.taps
    out_hw = geometry.output_hw(case.size)

    def offset() -> Tensor:
        shape = (case.frames, 2 * case.offset_groups * taps, *out_hw)
        value = torch.randn(shape, generator=generator) * case.offset_scale
        if case.offsets == "integer":
            value = value.round()
        elif case.offsets == "zero":
            value = torch.zeros_like(value)
        elif case.offsets == "interior":
            value = value.floor() + 0.1 + 0.8 * torch.rand(shape, generator=generator)
        elif case.offsets != "random":
            raise ValueError(f"offsets: unknown kind {case.offsets!r}")
        return value.to(device, case.offset_dtype or case.dtype)

    windows = case.frames // (case.window or 1)
    return Inputs(
        input=normal(case.frames, case.channels, *case.size),
        offsets=[offset() for _ in range(count)],
        weight=normal(
            count,
            case.out_channels,
            case.channels // case.groups,
            *case.kernel,
            dtype=case.weight_dtype,
        ),
        masks=[
            normal(case.frames, case.offset_groups * taps, *out_hw, dtype=case.mask_dtype)
            for _ in range(count if case.masks else 0)
        ],
        bias=normal(count, case.out_channels, dtype=case.weight_dtype) if case.bias else None,
        frame_weights=normal(case.window, dtype=case.weight_dtype) if case.window else None,
        grad_output=normal(windows, case.out_channels, *out_hw),
    )


def run(case: Case, inputs: Inputs, backend: str = "auto") -> Tensor:
    """The public operation on the tensors of a case."""
    if case.paddings is None:
        return multi_dilation_deform_warp(
            inputs.input,
            inputs.offsets,
            inputs.weight,
            dilations=case.dilations,
            masks=inputs.masks or None,
            bias=inputs.bias,
            reduction=case.reduction,
            frame_weights=inputs.frame_weights,
            backend=backend,
        )
    return deform_conv2d(
        inputs.input,
        inputs.offsets[0],
        inputs.weight[0],
        None if inputs.bias is None else inputs.bias[0],
        stride=case.stride,
        padding=case.paddings[0],
        dilation=case.dilations[0],
        mask=inputs.masks[0] if inputs.masks else None,
        backend=backend,
    )


def run_torchvision(case: Case, inputs: Inputs) -> Tensor:
    """The definition of a case, by ``torchvision.ops.deform_conv2d``; offsets must be finite."""
    from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

    geometry = case.geometry
    maps = [
        torchvision_deform_conv2d(
            inputs.input,
            inputs.offsets[d],
            inputs.weight[d],
            None if inputs.bias is None else inputs.bias[d],
            geometry.stride,
            geometry.paddings[d],
            geometry.dilations[d],
            inputs.masks[d] if inputs.masks else None,
        )
        for d in range(len(case.dilations))
    ]
    stacked = torch.stack(maps)
    out = stacked.mean(0) if case.reduction == "mean" else stacked.sum(0)
    if inputs.frame_weights is not None:
        weights = inputs.frame_weights[:, None, None, None]
        out = (out.unflatten(0, (-1, len(weights))) * weights).sum(1)
    return out


def with_gradients(
    call: Callable[[Inputs], Tensor], inputs: Inputs, only: str | None = None
) -> dict[str, Tensor]:
    """``{"output": ..., name: gradient}`` of a call; of the names that start with ``only``."""
    leaves = inputs.leaves(only)
    output = call(leaves)
    output.backward(inputs.grad_output)
    results = {"output": output.detach()}
    results |= {n: t.grad for n, t in leaves.named().items() if t.grad is not None}
    return results


def expected(case: Case, inputs: Inputs) -> dict[str, Tensor]:
    """Output and gradients by torchvision in float64, from the values in the inputs' dtypes."""
    doubles = inputs.map(lambda _, tensor: tensor.detach().cpu().double())
    return with_gradients(functools.partial(run_torchvision, case), doubles)


# Largest error relative to the largest value. Half precision: one rounding of a float32 result.
_TOLERANCES = {
    torch.float64: (1e-12, 1e-12),
    torch.float32: (1e-5, 1e-4),
    torch.float16: (2**-11 + 1e-5, 2**-11 + 1e-4),
    torch.bfloat16: (2**-8 + 1e-5, 2**-8 + 1e-4),
}


def tolerances(dtype: torch.dtype) -> tuple[float, float]:
    """Bounds of (forward, gradient) errors in ``dtype``, relative to the largest value."""
    return _TOLERANCES[dtype]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value (1 if that is 0); NaN is infinite."""
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {tuple(actual.shape)} and {tuple(expected.shape)}")
    if expected.numel() == 0:
        return 0.0
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    if not (actual.isfinite().all() and expected.isfinite().all()):
        return float("inf")
    scale = expected.abs().max().item()
    return (actual - expected).abs().max().item() / (scale or 1.0)


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype, what: str) -> None:
    """Within ``tolerances(dtype)``: the forward one for ``what="output"``, else the gradients'."""
    forward, gradient = tolerances(dtype)
    bound = forward if what == "output" else gradient
    error = relative_error(actual, expected)
    if not error <= bound:
        difference = (actual.detach().cpu().double() - expected.cpu().double()).abs()
        worst = difference.nan_to_num(float("inf")).argmax()
        at = tuple(int(i) for i in torch.unravel_index(worst, difference.shape))
        raise AssertionError(
            f"{what}: relative error {error:.3g} above {bound:.3g} for {dtype}; at {at} of shape "
            f"{tuple(actual.shape)}: got {actual[at].item():.9g}, "
            f"expected {expected[at].item():.9g}"
        )


def assert_all_close(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Results of ``with_gradients`` agree in names and, each by the dtype it has, in values."""
    if actual.keys() != expected.keys():
        raise AssertionError(f"results {sorted(actual)}, expected {sorted(expected)}")
    for name, tensor in actual.items():
        assert_close(tensor, expected[name], tensor.dtype, name)


@contextlib.contextmanager
def poisoned_empty() -> Iterator[None]:
    """Fill the memory of ``torch.empty`` and its like with NaN, so that unwritten elements fail."""
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


@functools.cache
def cpu_instruction_sets() -> tuple[str, ...]:
    """The variants of the compiled CPU kernel that this processor runs, best first."""
    from pwkernels.cpu import launch

    inputs = make_inputs(Case(frames=1, size=(1, 1), kernel=(1, 1)))
    geometry = WarpGeometry((1, 1), (1, 1), ((0, 0),), ((1, 1),))
    supported = []
    for name in ("avx512", "avx2", "baseline"):
        try:
            launch.forward(
                inputs.input,
                inputs.offsets,
                [],
                inputs.weight,
                None,
                None,
                geometry,
                instruction_set=name,
            )
        except RuntimeError as error:
            if "not supported by this processor" not in str(error):
                raise
        else:
            supported.append(name)
    return tuple(supported)


@contextlib.contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Make the compiled CPU kernel run its variant ``name``."""
    from pwkernels.cpu import launch

    forward = functools.partial(launch.forward, instruction_set=name)
    backward = functools.partial(launch.backward, instruction_set=name)
    offset_conv_warp = functools.partial(launch.offset_conv_warp, instruction_set=name)
    with mock.patch.multiple(
        launch, forward=forward, backward=backward, offset_conv_warp=offset_conv_warp
    ):
        yield
