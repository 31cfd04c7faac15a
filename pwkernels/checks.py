"""Rules for arguments, and which backend can run a call (one function says whether and why not).

Errors are of two classes that are also ``RuntimeError``, because that is what
``torchvision.ops.deform_conv2d`` raises: code that caught its errors catches ours.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from pwkernels import cpu, gpu
from pwkernels.geometry import WarpGeometry

logger = logging.getLogger("pwkernels")

BACKENDS = ("auto", "cpu", "triton", "reference", "torchvision")
LOW_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FLOAT_DTYPES = (*LOW_DTYPES, torch.float64)

# Positions are computed in float32, which is exact for integers up to 2**24.
MAX_SIDE = 2**23
# Indices within one map are 32-bit.
MAX_MAP = 2**31 - 1


class ArgumentError(ValueError, RuntimeError):
    """A shape, size, device or option that does not fit; names what was expected and what came."""


class ArgumentTypeError(TypeError, RuntimeError):
    """An argument of the wrong Python type or tensor dtype."""


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def check_tensor(name: str, value: object, dim: int | None = None) -> Tensor:
    """``value`` if it is a floating-point tensor with ``dim`` dimensions.

    Raises:
        ArgumentTypeError: not a tensor, or not float32, bfloat16, float16 or float64.
        ArgumentError: another number of dimensions.
    """
    if not isinstance(value, Tensor):
        raise ArgumentTypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in FLOAT_DTYPES:
        raise ArgumentTypeError(
            f"{name}: expected a dtype of {', '.join(map(str, FLOAT_DTYPES))}, got {value.dtype}"
        )
    if dim is not None and value.dim() != dim:
        raise ArgumentError(f"{name}: expected {dim} dimensions, got shape {_shape(value)}")
    return value


def check_pair(name: str, value: int | Sequence[int], minimum: int) -> tuple[int, int]:
    """An int or a pair of ints as (h, w), each at least ``minimum``."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(side, (Integral, torch.SymInt)) for side in pair):
        raise ArgumentTypeError(f"{name}: expected an int or a pair of ints, got {value!r}")
    # NumPy's integers become Python's; symbolic ones stay symbolic.
    pair = tuple(side if isinstance(side, (int, torch.SymInt)) else int(side) for side in pair)
    if pair[0] < minimum or pair[1] < minimum:
        raise ArgumentError(f"{name}: expected at least {minimum}, got {value!r}")
    return pair


def check_warp(
    input: Tensor,
    offsets: Sequence[Tensor],
    masks: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    frame_weights: Tensor | None,
    geometry: WarpGeometry,
    *,
    offset_name: str = "offsets[{}]",
    mask_name: str = "masks[{}]",
    padding_name: str = "dilations[{}]",
) -> None:
    """Everything that every backend relies on. ``weight`` is [D, C_out, C/groups, kh, kw].

    Raises:
        ArgumentError: shapes, sizes or devices do not fit together.
        ArgumentTypeError: a dtype is not supported, or float64 is mixed with another dtype.
    """
    frames, _, height, width = input.shape
    dilation_count, _, _, kernel_h, kernel_w = weight.shape
    _check_weight(input, weight)
    offset_groups = _check_offset_groups(
        offset_name.format(0), offsets[0], input, kernel_h * kernel_w, weight
    )
    offset_channels = offsets[0].shape[1]
    for index in range(dilation_count):
        _check_padding(padding_name.format(index), geometry, index)
        out_hw = geometry.output_hw((height, width), index)
        if out_hw[0] <= 0 or out_hw[1] <= 0:
            raise ArgumentError(
                f"input: too small, the output would be {out_hw[0]} x {out_hw[1]}; got input "
                f"{_shape(input)}, kernel {kernel_h} x {kernel_w}, stride {geometry.stride}, "
                f"padding {geometry.paddings[index]}, dilation {geometry.dilations[index]}"
            )
        _check_shape(
            offset_name.format(index), offsets[index], (frames, offset_channels, *out_hw), input
        )
        if masks:
            _check_shape(
                mask_name.format(index),
                masks[index],
                (frames, offset_groups * kernel_h * kernel_w, *out_hw),
                input,
            )
    _check_window(input, frame_weights)
    named = [("input", input), ("weight", weight), ("bias", bias), ("frame_weights", frame_weights)]
    named += [(offset_name.format(i), t) for i, t in enumerate(offsets)]
    named += [(mask_name.format(i), t) for i, t in enumerate(masks)]
    _check_devices_and_dtypes(named, input)
    for name, group in ((offset_name, offsets), (mask_name, masks)):
        for index, tensor in enumerate(group):
            if tensor.dtype != group[0].dtype:
                raise ArgumentTypeError(
                    f"{name.format(index)}: expected the dtype of {name.format(0)}, "
                    f"{group[0].dtype}, got {tensor.dtype}"
                )


def check_offset_conv(
    features: Tensor,
    input: Tensor,
    offset_weight: Tensor,
    weight: Tensor,
    frame_weights: Tensor | None,
    geometry: WarpGeometry,
) -> None:
    """Everything that every backend of ``offset_conv_warp`` relies on.

    Raises:
        ArgumentError: shapes, sizes or devices do not fit together.
        ArgumentTypeError: a dtype is not supported, or float64 is mixed with another dtype.
    """
    _check_weight(input, weight)
    count, feature_channels = weight.shape[0], features.shape[1]
    if feature_channels == 0:
        raise ArgumentError(f"features: expected F of at least 1, got shape {_shape(features)}")
    _check_shape("features", features, (input.shape[0], feature_channels, *input.shape[2:]), input)
    expected = (count, offset_weight.shape[1], feature_channels, 3, 3)
    if tuple(offset_weight.shape) != expected:
        raise ArgumentError(
            f"offset_weight: expected shape {expected}, got {_shape(offset_weight)} for features "
            f"{_shape(features)} and weight {_shape(weight)}"
        )
    _check_offset_groups("offset_weight", offset_weight, input, geometry.taps, weight)
    for index in range(count):
        _check_padding(f"dilations[{index}]", geometry, index)
        if max(geometry.dilations[index]) > MAX_SIDE:  # also the offset convolution's padding
            raise ArgumentError(
                f"dilations[{index}]: expected at most {MAX_SIDE}, got {geometry.dilations[index]}"
            )
    _check_window(input, frame_weights)
    named = {"features": features, "input": input, "offset_weight": offset_weight}
    _check_devices_and_dtypes(
        [*named.items(), ("weight", weight), ("frame_weights", frame_weights)], input
    )


def _check_weight(input: Tensor, weight: Tensor) -> None:
    channels, height, width = input.shape[1:]
    _, out_channels, weight_channels, kernel_h, kernel_w = weight.shape
    if weight.shape[0] == 0 or kernel_h * kernel_w == 0 or out_channels * weight_channels == 0:
        raise ArgumentError(f"weight: expected no empty dimension, got shape {_shape(weight)}")
    if channels == 0 or height == 0 or width == 0:
        raise ArgumentError(f"input: expected C, H and W of at least 1, got shape {_shape(input)}")
    if channels % weight_channels != 0:
        raise ArgumentError(
            f"weight: its {weight_channels} input channels do not divide the {channels} channels "
            f"of input; got weight {_shape(weight)} and input {_shape(input)}"
        )
    groups = channels // weight_channels
    if out_channels % groups != 0:
        raise ArgumentError(
            f"weight: its {out_channels} output channels are not a multiple of the {groups} groups "
            f"that follow from weight {_shape(weight)} and input {_shape(input)}"
        )


def _check_offset_groups(
    name: str, offset: Tensor, input: Tensor, taps: int, weight: Tensor
) -> int:
    """G, from the dimension 1 of offsets or of the weight of their convolution."""
    channels, offset_channels = input.shape[1], offset.shape[1]
    if offset_channels == 0 or offset_channels % (2 * taps) != 0:
        raise ArgumentError(
            f"{name}: expected dimension 1 to be a multiple of 2 * kh * kw = "
            f"{2 * taps}, got shape {_shape(offset)} for weight {_shape(weight)}"
        )
    offset_groups = offset_channels // (2 * taps)
    if channels % offset_groups != 0:
        raise ArgumentError(
            f"{name}: its {offset_groups} offset groups do not divide the "
            f"{channels} channels of input; got shapes "
            f"{_shape(offset)} and {_shape(input)}"
        )
    return offset_groups


def _check_padding(name: str, geometry: WarpGeometry, index: int) -> None:
    if max(geometry.paddings[index]) > MAX_SIDE:
        raise ArgumentError(
            f"{name}: expected a padding of at most {MAX_SIDE}, got "
            f"{geometry.paddings[index]} for dilation {geometry.dilations[index]}"
        )


def _check_window(input: Tensor, frame_weights: Tensor | None) -> None:
    if frame_weights is not None:
        frames, window = input.shape[0], frame_weights.shape[0]
        if window == 0 or frames % window != 0:
            raise ArgumentError(
                f"frame_weights: its length {window} does not divide the {frames} frames of input; "
                f"got frame_weights {_shape(frame_weights)} and input {_shape(input)}"
            )


def _check_devices_and_dtypes(named: Sequence[tuple[str, Tensor | None]], input: Tensor) -> None:
    for name, tensor in named:
        if tensor is None:
            continue
        if tensor.device != input.device:
            raise ArgumentError(
                f"{name}: expected the device of input, {input.device}, got {tensor.device}"
            )
        if (tensor.dtype == torch.float64) != (input.dtype == torch.float64):
            raise ArgumentTypeError(
                f"{name}: float64 does not mix with other dtypes; got {tensor.dtype} "
                f"and input {input.dtype}"
            )


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...], input: Tensor) -> None:
    for size, wanted in zip(tensor.shape, expected, strict=True):
        if size != wanted:
            raise ArgumentError(
                f"{name}: expected shape {expected}, got {_shape(tensor)} for input {_shape(input)}"
            )


@torch.compiler.assume_constant_result
def _cpu_unavailable() -> str | None:
    return cpu.why_unavailable()


@torch.compiler.assume_constant_result
def _triton_unavailable() -> str | None:
    return gpu.why_unavailable()


@torch.compiler.assume_constant_result
def _interpreting() -> bool:
    return gpu.interpreting()


@torch.compiler.assume_constant_result
def _torchvision_unavailable() -> str | None:
    try:
        import torchvision.ops  # noqa: F401
    except Exception as error:  # a torchvision built for another torch fails in many ways
        return f"torchvision does not import ({error})"
    return None


def _too_large(height: int, width: int) -> str | None:
    if height > MAX_SIDE or width > MAX_SIDE or (height + 4) * (width + 4) > MAX_MAP:
        return f"a map of {height} x {width} is larger than the kernel's 32-bit indices allow"
    return None


def check_map_size(input: Tensor) -> None:
    """What an operator asks before it runs.

    Raises:
        ArgumentError: the compiled kernels cannot index maps of this size.
    """
    if reason := _too_large(input.shape[2], input.shape[3]):
        raise ArgumentError(f"input: {reason}")


def why_not(backend: str, input: Tensor, offsets: Sequence[Tensor]) -> str | None:
    """None if ``backend`` can run a call with valid arguments; else one sentence: why not."""
    device = input.device.type
    height, width = input.shape[2:]
    if backend == "reference":
        return None
    if backend == "torchvision":
        return _torchvision_unavailable()
    if device == "meta":
        return None
    # A graph for maps of any size is to have no bound in it: the operator looks when it runs.
    if not torch.compiler.is_compiling() and (reason := _too_large(height, width)):
        return reason
    if backend == "cpu":
        if device != "cpu":
            return f"the tensors are on {input.device}"
        return _cpu_unavailable()
    if reason := _triton_unavailable():
        return reason
    if input.dtype == torch.float64:
        return "the Triton kernels do not compute in float64"
    if device == "cpu" and not _interpreting():
        return "the tensors are on cpu (Triton needs a GPU, or TRITON_INTERPRET=1 from the start)"
    if device not in ("cpu", "cuda"):
        return f"the tensors are on {input.device}"
    return None


def choose_backend(
    requested: str, input: Tensor, offsets: Sequence[Tensor], *, wide: bool = False
) -> str:
    """The backend that runs a call.

    ``auto`` takes the compiled kernel of the tensors' device; torchvision where ``wide`` says that
    the matrix product dominates; else the reference.

    Raises:
        ArgumentError: an unknown name, or a backend asked for by name that cannot run the call.
    """
    if requested not in BACKENDS:
        raise ArgumentError(f"backend: expected one of {BACKENDS}, got {requested!r}")
    if requested != "auto":
        if reason := why_not(requested, input, offsets):
            raise ArgumentError(f"backend: {requested!r} cannot run this call: {reason}")
        return requested
    compiled = "triton" if input.device.type == "cuda" else "cpu"
    order = ("torchvision", compiled) if wide else (compiled, "torchvision")
    for backend in order:
        reason = why_not(backend, input, offsets)
        if reason is None:
            return backend
        if not torch.compiler.is_compiling():
            logger.debug("backend %r cannot run this call: %s", backend, reason)
            if input.device.type == "cpu":
                cpu.warn_if_unavailable()
    return "reference"
