"""The warp as a PyTorch operator: schema, fake, autograd, vmap.

The operator takes what is left after the argument checks of ``functional``: a weight
``[D, C_out, C/groups, kh, kw]`` and a bias ``[C_out]`` in the dtype of the arithmetic, with the
mean over dilations already in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op, register_vmap

from pwkernels.checks import check_map_size
from pwkernels.geometry import WarpGeometry
from pwkernels.gradients import Needs


def _launch(backend: str) -> Any:
    if backend == "cpu":
        from pwkernels.cpu import launch
    elif backend == "triton":
        from pwkernels.gpu import launch  # type: ignore[no-redef]
    else:
        raise ValueError(f"backend: expected 'cpu' or 'triton', got {backend!r}")
    return launch


def _geometry(
    weight: Tensor, stride: Sequence[int], paddings: Sequence[int], dilations: Sequence[int]
) -> WarpGeometry:
    return WarpGeometry.from_flat(weight.shape[3:], stride, paddings, dilations)


@custom_op("pwkernels::deform_warp", mutates_args=())
def deform_warp(
    input: Tensor,
    offsets: Sequence[Tensor],
    masks: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    frame_weights: Tensor | None,
    stride: Sequence[int],
    paddings: Sequence[int],
    dilations: Sequence[int],
    backend: str,
) -> Tensor:
    """Sum over dilations (and frames) of deformable convolutions; see the module's docstring."""
    check_map_size(input)
    geometry = _geometry(weight, stride, paddings, dilations)
    return _launch(backend).forward(input, offsets, masks, weight, bias, frame_weights, geometry)


@deform_warp.register_fake
def _(input, offsets, masks, weight, bias, frame_weights, stride, paddings, dilations, backend):
    frames = input.shape[0]
    windows = frames if frame_weights is None else frames // frame_weights.shape[0]
    out_h, out_w = _geometry(weight, stride, paddings, dilations).output_hw(input.shape[2:])
    return input.new_empty((windows, weight.shape[1], out_h, out_w))


# One flat list of gradients, because that is the one nested return that every compiler of PyTorch
# handles: [input, weight, *offsets, *masks]; an empty tensor stands for what was not asked for.
@custom_op("pwkernels::deform_warp_backward", mutates_args=())
def deform_warp_backward(
    grad_output: Tensor,
    input: Tensor,
    offsets: Sequence[Tensor],
    masks: Sequence[Tensor],
    weight: Tensor,
    frame_weights: Tensor | None,
    stride: Sequence[int],
    paddings: Sequence[int],
    dilations: Sequence[int],
    needs: Sequence[bool],
    backend: str,
) -> list[Tensor]:
    """Gradients of ``deform_warp``; ``needs`` is (input, offsets, masks, weight)."""
    deterministic = {}
    if backend == "triton":
        deterministic["deterministic"] = torch.are_deterministic_algorithms_enabled()
    grads = _launch(backend).backward(
        grad_output,
        input,
        offsets,
        masks,
        weight,
        frame_weights,
        _geometry(weight, stride, paddings, dilations),
        needs=Needs(*needs),
        **deterministic,
    )
    return [
        input.new_empty(0) if grads.input is None else grads.input,
        weight.new_empty(0) if grads.weight is None else grads.weight,
        *(grads.offsets or [offset.new_empty(0) for offset in offsets]),
        *(grads.masks or [mask.new_empty(0) for mask in masks]),
    ]


@deform_warp_backward.register_fake
def _(
    grad_output,
    input,
    offsets,
    masks,
    weight,
    frame_weights,
    stride,
    paddings,
    dilations,
    needs,
    backend,
):
    def like(tensor: Tensor, needed: bool) -> Tensor:
        return tensor.new_empty(tensor.shape if needed else (0,))

    wanted = Needs(*needs)
    return [
        like(input, wanted.input),
        like(weight, wanted.weight),
        *(like(offset, wanted.offsets) for offset in offsets),
        *(like(mask, wanted.masks) for mask in masks),
    ]


_Sizes = Sequence[list[int]]  # stride, paddings, dilations
_Saved = tuple[Tensor, list[Tensor], list[Tensor], Tensor, Tensor | None, _Sizes, str]


def _gradients(
    grad_output: Tensor,
    input: Tensor,
    offsets: list[Tensor],
    masks: list[Tensor],
    weight: Tensor,
    frame_weights: Tensor | None,
    sizes: _Sizes,
    backend: str,
    *needs: bool,
) -> tuple[Tensor | None, list[Any], list[Any], Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of (input, offsets, masks, weight, bias, frame_weights), those in ``needs``."""
    need_input, need_offsets, need_masks, need_weight, need_bias, need_frames = needs
    grad_bias = grad_output.sum((0, 2, 3), dtype=weight.dtype) if need_bias else None
    grad_frames = None
    if need_frames and frame_weights is not None:
        # The frames before they are summed, not rounded to the input's dtype; an extra forward,
        # asked for by learned weights only. No einsum: autocast would do it in half precision.
        frames = deform_warp(
            input.to(weight.dtype), offsets, masks, weight, None, None, *sizes, backend
        )
        frames = frames.unflatten(0, (-1, frame_weights.shape[0]))
        grad_frames = (frames * grad_output[:, None]).sum((0, 2, 3, 4))
    grad_input, grad_weight = None, None
    grad_offsets: list[Any] = [None] * len(offsets)
    grad_masks: list[Any] = [None] * len(masks)
    if need_input or need_offsets or need_masks or need_weight:
        op_needs = [need_input, need_offsets, need_masks, need_weight]
        if torch.compiler.is_compiling():
            grads = deform_warp_backward(
                grad_output, input, offsets, masks, weight, frame_weights, *sizes, op_needs, backend
            )
        else:
            options = (sizes, op_needs, backend, len(offsets))
            grads = _DeformWarpBackwardFunction.apply(
                grad_output, input, weight, frame_weights, options, *offsets, *masks
            )
        grad_input, grad_weight, *grad_maps = grads
        if need_offsets:
            grad_offsets = grad_maps[: len(offsets)]
        if need_masks:
            grad_masks = grad_maps[len(offsets) :]
    return (
        grad_input if need_input else None,
        grad_offsets,
        grad_masks,
        grad_weight if need_weight else None,
        grad_bias,
        grad_frames,
    )


def _save(ctx, input, offsets, masks, weight, frame_weights, sizes, backend) -> None:
    ctx.save_for_backward(input, weight, frame_weights, *offsets, *masks)
    ctx.dilation_count = len(offsets)
    ctx.sizes = sizes
    ctx.backend = backend


def _saved(ctx) -> _Saved:
    input, weight, frame_weights, *maps = ctx.saved_tensors
    offsets, masks = maps[: ctx.dilation_count], maps[ctx.dilation_count :]
    return input, offsets, masks, weight, frame_weights, ctx.sizes, ctx.backend


def _op_setup_context(ctx, inputs, output) -> None:
    input, offsets, masks, weight, _, frame_weights, *sizes, backend = inputs
    _save(ctx, input, offsets, masks, weight, frame_weights, tuple(sizes), backend)


def _op_backward(ctx, grad_output):
    needs = [any(n) if isinstance(n, (list, tuple)) else n for n in ctx.needs_input_grad[:6]]
    # stride, paddings, dilations and backend have no gradient
    return *_gradients(grad_output, *_saved(ctx), *needs), None, None, None, None


deform_warp.register_autograd(_op_backward, setup_context=_op_setup_context)


# torch.func does not go through an operator's own autograd, so outside of a captured graph both
# operators are wrapped in autograd functions, which it knows.


class _DeformWarpBackwardFunction(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad_output, input, weight, frame_weights, options, *maps):
        sizes, needs, backend, count = options
        offsets, masks = list(maps[:count]), list(maps[count:])
        grads = deform_warp_backward(
            grad_output, input, offsets, masks, weight, frame_weights, *sizes, needs, backend
        )
        return tuple(grads)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(
            "the compiled deformable warp has no second derivative; "
            "backend='reference' is differentiable any number of times"
        )


class _DeformWarpFunction(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(input, weight, bias, frame_weights, sizes, backend, dilation_count, *maps):
        offsets, masks = list(maps[:dilation_count]), list(maps[dilation_count:])
        return deform_warp(input, offsets, masks, weight, bias, frame_weights, *sizes, backend)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        input, weight, _, frame_weights, sizes, backend, dilation_count, *maps = inputs
        offsets, masks = maps[:dilation_count], maps[dilation_count:]
        _save(ctx, input, offsets, masks, weight, frame_weights, sizes, backend)

    @staticmethod
    def backward(ctx, grad_output):
        input, weight, bias, frames, _, _, _, *maps = ctx.needs_input_grad
        count = ctx.dilation_count
        needs = [input, any(maps[:count]), any(maps[count:]), weight, bias, frames]
        grads = _gradients(grad_output, *_saved(ctx), *needs)
        grad_input, grad_offsets, grad_masks, grad_weight, grad_bias, grad_frames = grads
        return (
            grad_input,
            grad_weight,
            grad_bias,
            grad_frames,
            None,
            None,
            None,
            *grad_offsets,
            *grad_masks,
        )


def warp(
    input: Tensor,
    offsets: list[Tensor],
    masks: list[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    frame_weights: Tensor | None,
    geometry: WarpGeometry,
    backend: str,
) -> Tensor:
    """``deform_warp`` while a graph is captured; else the function that ``torch.func`` knows."""
    sizes = [list(geometry.stride), geometry.flat_paddings(), geometry.flat_dilations()]
    if torch.jit.is_tracing():  # where sizes of tensors, the kernel's too, are tensors
        sizes = [[int(side) for side in part] for part in sizes]
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return deform_warp(input, offsets, masks, weight, bias, frame_weights, *sizes, backend)
    return _DeformWarpFunction.apply(
        input, weight, bias, frame_weights, sizes, backend, len(offsets), *offsets, *masks
    )


def _slices(value: Any, dim: Any, index: int) -> Any:
    """The ``index``-th element of a vmapped argument (a list of tensors has a list of dims)."""
    if isinstance(value, (list, tuple)) and isinstance(dim, (list, tuple)):
        return [_slices(item, item_dim, index) for item, item_dim in zip(value, dim, strict=True)]
    return value if dim is None else value.select(dim, index)


def vmapped_calls(args: Sequence[Any], in_dims: Sequence[Any], count: int) -> list[list[Any]]:
    """The arguments of the ``count`` calls that a vmapped call stands for."""
    return [[_slices(a, d, i) for a, d in zip(args, in_dims, strict=True)] for i in range(count)]


@register_vmap("pwkernels::deform_warp")
def _vmap_forward(info, in_dims, *args):
    weight_dims = in_dims[3:6]
    if any(dim is not None for dim in weight_dims):
        calls = vmapped_calls(args, in_dims, info.batch_size)
        return torch.stack([deform_warp(*call) for call in calls]), 0

    # With shared weights the mapped dimension joins the batch: windows stay together.
    def fold(tensor: Tensor, dim: int | None) -> Tensor:
        if dim is None:
            tensor = tensor.expand(info.batch_size, *tensor.shape)
        else:
            tensor = tensor.movedim(dim, 0)
        return tensor.reshape(-1, *tensor.shape[2:])

    input, offsets, masks, *rest = args
    offset_dims = in_dims[1] or [None] * len(offsets)
    mask_dims = in_dims[2] or [None] * len(masks)
    output = deform_warp(
        fold(input, in_dims[0]),
        [fold(t, d) for t, d in zip(offsets, offset_dims, strict=True)],
        [fold(t, d) for t, d in zip(masks, mask_dims, strict=True)],
        *rest,
    )
    return output.unflatten(0, (info.batch_size, -1)), 0


@register_vmap("pwkernels::deform_warp_backward")
def _vmap_backward(info, in_dims, *args):
    # The weight's gradient is one per mapped element: nothing to share between them.
    calls = vmapped_calls(args, in_dims, info.batch_size)
    grads = [deform_warp_backward(*call) for call in calls]
    stacked = [torch.stack(parts) for parts in zip(*grads, strict=True)]
    return stacked, [0] * len(stacked)
