"""The warp that computes its own offsets: public function, operator, autograd.

    features       [N, F, H, W]
    offset_weight  [D, 2 * G * K, F, 3, 3]   one dilated convolution per dilation, without bias
    input, weight, frame_weights             as in ``multi_dilation_deform_warp``

The offset fields, D times 2 * G * K channels, are by far the largest tensors of a warp. Here they
are computed where they are used, for some pixels at a time, and never exist in memory.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op, register_vmap
from torch.nn.functional import conv2d

from pwkernels import checks, library, reference
from pwkernels.checks import (
    ArgumentError,
    check_map_size,
    check_offset_conv,
    check_pair,
    check_tensor,
)
from pwkernels.functional import multi_dilation_deform_warp
from pwkernels.geometry import Pair, WarpGeometry

logger = logging.getLogger("pwkernels")

BACKENDS = ("auto", "cpu", "triton", "unfused", "reference")

# Offsets and their gradients that the backward holds at a time, in elements of each.
_TILE = 2**24


def offset_conv_warp(
    features: Tensor,
    input: Tensor,
    offset_weight: Tensor,
    weight: Tensor,
    *,
    dilations: Sequence[int | tuple[int, int]],
    reduction: str = "mean",
    frame_weights: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """The fused warp with its offsets from D dilated 3 x 3 convolutions, which it computes itself.

    Equivalent to::

        offsets = [conv2d(features, offset_weight[d], padding=dilations[d], dilation=dilations[d])
                   for d in range(D)]
        out = multi_dilation_deform_warp(input, offsets, weight, dilations=dilations,
                                         reduction=reduction, frame_weights=frame_weights)

    without the offsets in memory. This is the whole end of PoseWarper's head (arXiv 1906.04016,
    section 3). There are no masks and no biases.

    Args:
        features: what the offsets are computed from, ``[N, F, H, W]``.
        input: maps ``[N, C, H, W]``.
        offset_weight: ``[D, 2 * G * kh * kw, F, 3, 3]``; G offset groups, G divides C.
        weight: ``[D, C_out, C / groups, kh, kw]``, kh and kw odd.
        dilations: D dilations, each an int or (h, w); of both convolutions.
        reduction: ``"mean"`` or ``"sum"`` over the dilations.
        frame_weights: ``[T]``; then N = B * T, and the result is the weighted sum over each
            window's frames, as in ``multi_dilation_deform_warp``.
        backend: ``"auto"`` (the compiled kernel of the tensors' device, and ``"unfused"`` where it
            cannot run the call), ``"cpu"``, ``"triton"``, ``"unfused"`` (PyTorch's convolution in
            the features' dtype, then the fused warp) or ``"reference"`` (plain PyTorch,
            differentiable twice).

    Returns:
        ``[N, C_out, H, W]``, with ``frame_weights`` ``[N / T, C_out, H, W]``; the input's dtype.

    Float32, bfloat16 and float16 tensors may be mixed: products are summed in float32, and the
    offsets are not rounded to the features' dtype (``"triton"`` rounds ``offset_weight`` to it). So
    the function does under ``torch.autocast`` what it does without. With bfloat16 features, give
    ``offset_weight`` in bfloat16 too: processors with AVX512-BF16 are then about twice as fast.
    Borders, special values and determinism: as the warp.

    Differentiable once in every tensor (twice with ``backend="reference"``). The backward computes
    the offsets again, of some frames and one dilation at a time: its memory beyond the gradients
    themselves does not grow with the batch.

    Raises:
        ArgumentError: (a ``ValueError`` and ``RuntimeError``) shapes, sizes, devices or options.
        ArgumentTypeError: (a ``TypeError`` and ``RuntimeError``) types or dtypes.
    """
    check_tensor("features", features, 4)
    check_tensor("input", input, 4)
    check_tensor("offset_weight", offset_weight, 5)
    check_tensor("weight", weight, 5)
    count = weight.shape[0]
    if not isinstance(dilations, Sequence) or len(dilations) != count:
        raise ArgumentError(f"dilations: expected {count}, one per weight, got {dilations!r}")
    if reduction not in ("mean", "sum"):
        raise ArgumentError(f"reduction: expected 'mean' or 'sum', got {reduction!r}")
    kernel_h, kernel_w = weight.shape[3:]
    if kernel_h % 2 == 0 or kernel_w % 2 == 0:
        raise ArgumentError(f"weight: expected odd kernel sides, got {kernel_h} x {kernel_w}")
    pairs = [check_pair(f"dilations[{d}]", dilation, 1) for d, dilation in enumerate(dilations)]
    if frame_weights is not None:
        check_tensor("frame_weights", frame_weights, 1)
    geometry = WarpGeometry.keeping_size((kernel_h, kernel_w), pairs)
    check_offset_conv(features, input, offset_weight, weight, frame_weights, geometry)

    chosen = _choose_backend(backend, features, input, offset_weight, weight)
    if chosen == "unfused":
        offsets = _offset_fields(features, offset_weight, geometry)
        return multi_dilation_deform_warp(
            input, offsets, weight, dilations=pairs, reduction=reduction,
            frame_weights=frame_weights,
        )  # fmt: skip
    # Mean and dtype are linear in tiny tensors: done here, where autograd sees them.
    dtype = torch.promote_types(input.dtype, torch.float32)
    weight = weight.to(dtype) * (1.0 / count if reduction == "mean" else 1.0)
    frame_weights = None if frame_weights is None else frame_weights.to(dtype)
    if chosen == "reference":
        offsets = _offset_fields(features.to(dtype), offset_weight, geometry)
        with _without_autocast(input):
            return reference.warp(input, offsets, [], weight, None, frame_weights, geometry)
    arguments = (features, input, offset_weight, weight, frame_weights)
    flat_dilations = geometry.flat_dilations()
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _operator(*arguments, flat_dilations, chosen)
    return _OffsetConvWarpFunction.apply(*arguments, flat_dilations, chosen)


def _pairs(flat_dilations: Sequence[int]) -> list[Pair]:
    return list(zip(flat_dilations[::2], flat_dilations[1::2], strict=True))


def _without_autocast(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    if tensor.is_meta:  # which autocast does not know
        return contextlib.nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


def _offset_fields(features: Tensor, offset_weight: Tensor, geometry: WarpGeometry) -> list[Tensor]:
    """D x [N, 2 * G * K, H, W] in the features' dtype."""
    kernels = offset_weight.to(features.dtype)
    with _without_autocast(features):
        return [
            conv2d(features, kernels[d], padding=dilation, dilation=dilation)
            for d, dilation in enumerate(geometry.dilations)
        ]


def _why_not(
    backend: str, features: Tensor, input: Tensor, offset_weight: Tensor, weight: Tensor
) -> str | None:
    """None if the compiled ``backend`` can run a call; else one sentence: why not."""
    reason = checks.why_not(backend, input, [])
    if reason is None and backend == "triton" and not input.is_meta:
        from pwkernels.gpu import offset_conv

        reason = offset_conv.why_not(features, input, offset_weight, weight)
    return reason


def _choose_backend(
    requested: str, features: Tensor, input: Tensor, offset_weight: Tensor, weight: Tensor
) -> str:
    if requested not in BACKENDS:
        raise ArgumentError(f"backend: expected one of {BACKENDS}, got {requested!r}")
    if requested in ("unfused", "reference"):
        return requested
    backend = requested
    if requested == "auto":
        backend = "triton" if input.device.type == "cuda" else "cpu"
    reason = _why_not(backend, features, input, offset_weight, weight)
    if reason is None:
        return backend
    if requested != "auto":
        raise ArgumentError(f"backend: {requested!r} cannot run this call: {reason}")
    if not torch.compiler.is_compiling():
        logger.debug("backend %r cannot run this call: %s", backend, reason)
    return "unfused"


# The operator takes what is left after the checks: weight and frame weights in the dtype of the
# arithmetic, with the mean over dilations in the weight.


@custom_op("pwkernels::offset_conv_warp", mutates_args=())
def _operator(
    features: Tensor,
    input: Tensor,
    offset_weight: Tensor,
    weight: Tensor,
    frame_weights: Tensor | None,
    dilations: Sequence[int],
    backend: str,
) -> Tensor:
    check_map_size(input)
    if backend == "cpu":
        from pwkernels.cpu import launch as offset_conv
    elif backend == "triton":
        from pwkernels.gpu import offset_conv  # type: ignore[no-redef]
    else:
        raise ValueError(f"backend: expected 'cpu' or 'triton', got {backend!r}")
    return offset_conv.offset_conv_warp(
        features, input, offset_weight, weight, frame_weights, _pairs(dilations)
    )


@_operator.register_fake
def _(features, input, offset_weight, weight, frame_weights, dilations, backend):
    frames = input.shape[0]
    windows = frames if frame_weights is None else frames // frame_weights.shape[0]
    return input.new_empty((windows, weight.shape[1], *input.shape[2:]))


def _gradients_by_tiles(
    grad_output: Tensor,
    features: Tensor,
    input: Tensor,
    offset_weight: Tensor,
    weight: Tensor,
    frame_weights: Tensor | None,
    geometry: WarpGeometry,
    needs: Sequence[bool],
    backend: str,
) -> list[Tensor]:
    """The offsets again, a tile at a time, with the gradients of the warp and the convolution.

    A tile is one dilation of some frames that have their place in the window in common, so that a
    frame weight is a factor of the tile's weight.
    """
    need_features, need_input, need_offset_weight, need_weight, need_frames = needs
    need_offsets = need_features or need_offset_weight
    frames, _, height, width = input.shape
    window = 1 if frame_weights is None else frame_weights.shape[0]
    # Sums are in the dtype of the arithmetic and are rounded once.
    arithmetic = weight.dtype
    kernels = offset_weight.to(arithmetic)
    grad_features = torch.zeros_like(features) if need_features else features.new_empty(0)
    grad_input = torch.zeros_like(input) if need_input else input.new_empty(0)
    grad_kernels = torch.zeros_like(kernels) if need_offset_weight else kernels.new_empty(0)
    grad_weight = torch.zeros_like(weight) if need_weight else weight.new_empty(0)
    grad_frames = weight.new_zeros(window if need_frames else 0)
    step = max(1, _TILE // (offset_weight.shape[1] * height * width))
    for t in range(window):
        for first in range(t, frames, step * window):
            tile = slice(first, first + step * window, window)
            windows = slice(first // window, first // window + step)
            tile_features, tile_input = features[tile].to(arithmetic), input[tile].to(arithmetic)
            tile_grad_output = grad_output[windows].to(arithmetic)
            sum_features = torch.zeros_like(tile_features) if need_features else None
            sum_input = torch.zeros_like(tile_input) if need_input else None
            for d, dilation in enumerate(geometry.dilations):
                offset = conv2d(tile_features, kernels[d], padding=dilation, dilation=dilation)
                kernel = weight[d : d + 1]
                scale = 1.0 if frame_weights is None else frame_weights[t]
                tile_grad_input, tile_grad_weight, grad_offset = library.deform_warp_backward(
                    tile_grad_output, tile_input, [offset], [], kernel * scale, None, [1, 1],
                    geometry.paddings[d], dilation,
                    [need_input, need_offsets, False, need_weight or need_frames], backend,
                )  # fmt: skip
                del offset
                if sum_input is not None:
                    sum_input += tile_grad_input
                if need_weight:
                    grad_weight[d : d + 1] += tile_grad_weight * scale
                if need_frames:
                    grad_frames[t] += (tile_grad_weight * kernel).sum()
                if need_offsets:
                    of_features, of_kernel, _ = torch.ops.aten.convolution_backward(
                        grad_offset, tile_features, kernels[d], None, [1, 1], dilation, dilation,
                        False, [0, 0], 1, [need_features, need_offset_weight, False],
                    )  # fmt: skip
                    if sum_features is not None:
                        sum_features += of_features
                    if need_offset_weight:
                        grad_kernels[d] += of_kernel
            if sum_features is not None:
                grad_features[tile] = sum_features
            if sum_input is not None:
                grad_input[tile] = sum_input
    return [
        grad_features,
        grad_input,
        grad_kernels.to(offset_weight.dtype),
        grad_weight,
        grad_frames,
    ]


# Gradients of the five tensors in one list, because that is the one nested return that every
# compiler of PyTorch handles; an empty tensor stands for what was not asked for.
@custom_op("pwkernels::offset_conv_warp_backward", mutates_args=())
def _backward_operator(
    grad_output: Tensor,
    features: Tensor,
    input: Tensor,
    offset_weight: Tensor,
    weight: Tensor,
    frame_weights: Tensor | None,
    dilations: Sequence[int],
    needs: Sequence[bool],
    backend: str,
) -> list[Tensor]:
    """Gradients of (features, input, offset_weight, weight, frame_weights), those in ``needs``."""
    with _without_autocast(input):  # the operator's own arithmetic, also in a call under it
        return _gradients_by_tiles(
            grad_output, features, input, offset_weight, weight, frame_weights,
            WarpGeometry.keeping_size((weight.shape[3], weight.shape[4]), _pairs(dilations)),
            needs, backend,
        )  # fmt: skip


@_backward_operator.register_fake
def _(
    grad_output,
    features,
    input,
    offset_weight,
    weight,
    frame_weights,
    dilations,
    needs,
    backend,
):
    window = 1 if frame_weights is None else frame_weights.shape[0]
    tensors = (features, input, offset_weight, weight)
    grads = [
        torch.empty_like(tensor) if needed else tensor.new_empty(0)
        for tensor, needed in zip(tensors, needs[:4], strict=True)
    ]
    return [*grads, weight.new_empty(window if needs[4] else 0)]


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.dilations, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad_output):
    needs = list(ctx.needs_input_grad[:5])
    compute = _OffsetConvWarpBackwardFunction.apply
    if torch.compiler.is_compiling():
        compute = _backward_operator
    grads = compute(grad_output, *ctx.saved_tensors, ctx.dilations, needs, ctx.backend)
    wanted = (grad if need else None for grad, need in zip(grads, needs, strict=True))
    return *wanted, None, None


_operator.register_autograd(_backward, setup_context=_setup_context)


# torch.func does not go through an operator's own autograd, so outside of a captured graph both
# operators are wrapped in autograd functions, which it knows.


class _OffsetConvWarpBackwardFunction(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments):
        return tuple(_backward_operator(*arguments))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(
            "the compiled offset_conv_warp has no second derivative; "
            "backend='reference' is differentiable any number of times"
        )


class _OffsetConvWarpFunction(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(features, input, offset_weight, weight, frame_weights, dilations, backend):
        arguments = (features, input, offset_weight, weight, frame_weights)
        return _operator(*arguments, dilations, backend)

    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_backward)


@register_vmap("pwkernels::offset_conv_warp")
def _vmap_forward(info, in_dims, *args):
    calls = library.vmapped_calls(args, in_dims, info.batch_size)
    return torch.stack([_operator(*call) for call in calls]), 0


@register_vmap("pwkernels::offset_conv_warp_backward")
def _vmap_backward(info, in_dims, *args):
    calls = library.vmapped_calls(args, in_dims, info.batch_size)
    grads = [_backward_operator(*call) for call in calls]
    stacked = [torch.stack(parts) for parts in zip(*grads, strict=True)]
    return stacked, [0] * len(stacked)
