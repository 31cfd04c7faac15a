"""Calls of the compiled CPU kernel on torch tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from pwkernels import cpu
from pwkernels.geometry import Pair, WarpGeometry
from pwkernels.gradients import Grads, Needs

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


class _Tensor4(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("strides", ctypes.c_int64 * 4)]


class _WarpArgs(ctypes.Structure):
    """Mirror of ``WarpArgs`` in ``src/warp.h``; fields in the same order."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                "windows frames_per_window channels height width "
                "out_channels out_height out_width groups offset_groups dilation_count "
                "kernel_h kernel_w stride_h stride_w"
            ).split()
        ),
        ("paddings", ctypes.POINTER(ctypes.c_int64)),
        ("dilations", ctypes.POINTER(ctypes.c_int64)),
        ("input_dtype", ctypes.c_int32),
        ("offset_dtype", ctypes.c_int32),
        ("mask_dtype", ctypes.c_int32),
        ("num_threads", ctypes.c_int32),
        ("input", _Tensor4),
        ("offsets", ctypes.POINTER(_Tensor4)),
        ("masks", ctypes.POINTER(_Tensor4)),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("frame_weights", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("grad_output", ctypes.c_void_p),
        ("grad_input", ctypes.c_void_p),
        ("grad_offsets", ctypes.POINTER(ctypes.c_void_p)),
        ("grad_masks", ctypes.POINTER(ctypes.c_void_p)),
        ("grad_weight", ctypes.c_void_p),
    ]


class _OffsetConvArgs(ctypes.Structure):
    """Mirror of ``OffsetConvArgs`` in ``src/warp.h``; fields in the same order."""

    _fields_ = [
        ("warp", _WarpArgs),
        ("features", _Tensor4),
        ("features_dtype", ctypes.c_int32),
        ("offset_weight_dtype", ctypes.c_int32),
        ("feature_channels", ctypes.c_int64),
        ("offset_weight", ctypes.c_void_p),
    ]


def _tensor4(tensor: Tensor) -> _Tensor4:
    return _Tensor4(tensor.data_ptr(), (ctypes.c_int64 * 4)(*tensor.stride()))


def _with_contiguous_maps(tensor: Tensor) -> Tensor:
    """``tensor`` where each [H, W] map is contiguous (outer strides are free); else a copy."""
    _, _, height, width = tensor.shape
    columns_ok = width == 1 or tensor.stride(3) == 1
    rows_ok = height == 1 or tensor.stride(2) == width
    return tensor if columns_ok and rows_ok else tensor.contiguous()


class _Call:
    """The arguments of one call; keeps every temporary alive until the call has returned."""

    def __init__(
        self,
        input: Tensor,
        offsets: Sequence[Tensor],
        masks: Sequence[Tensor],
        weight: Tensor,
        frame_weights: Tensor | None,
        geometry: WarpGeometry,
        offset_channels: int,
    ) -> None:
        frames, channels, height, width = input.shape
        dilation_count, out_channels, weight_channels, kernel_h, kernel_w = weight.shape
        window = 1 if frame_weights is None else frame_weights.shape[0]
        out_h, out_w = geometry.output_hw((height, width))
        self.output_shape = (frames // window, out_channels, out_h, out_w)
        self._keep: list[object] = []
        self.args = _WarpArgs(
            windows=frames // window,
            frames_per_window=window,
            channels=channels,
            height=height,
            width=width,
            out_channels=out_channels,
            out_height=out_h,
            out_width=out_w,
            groups=channels // weight_channels,
            offset_groups=offset_channels // (2 * kernel_h * kernel_w),
            dilation_count=dilation_count,
            kernel_h=kernel_h,
            kernel_w=kernel_w,
            stride_h=geometry.stride[0],
            stride_w=geometry.stride[1],
            paddings=self._int64([side for pair in geometry.paddings for side in pair]),
            dilations=self._int64([side for pair in geometry.dilations for side in pair]),
            input_dtype=_DTYPES[input.dtype],
            offset_dtype=_DTYPES[offsets[0].dtype] if offsets else 0,
            mask_dtype=_DTYPES[masks[0].dtype] if masks else 0,
            num_threads=torch.get_num_threads(),
            input=_tensor4(input),
            offsets=self._tensors(offsets) if offsets else None,
            masks=self._tensors(masks) if masks else None,
            weight=self.pointer(weight),
            frame_weights=self.pointer(frame_weights),
        )

    def _int64(self, values: Sequence[int]) -> ctypes.Array:
        return (ctypes.c_int64 * len(values))(*values)

    def _tensors(self, tensors: Sequence[Tensor]) -> ctypes.Array:
        usable = [_with_contiguous_maps(tensor) for tensor in tensors]
        self._keep.append(usable)
        return (_Tensor4 * len(usable))(*map(_tensor4, usable))

    def pointer(self, tensor: Tensor | None) -> int | None:
        """Address of a contiguous copy of ``tensor`` (of itself where it is contiguous)."""
        if tensor is None:
            return None
        contiguous = tensor.contiguous()
        self._keep.append(contiguous)
        return contiguous.data_ptr()

    def pointers(self, tensors: Sequence[Tensor]) -> ctypes.Array:
        return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))

    def run(
        self, entry: str, instruction_set: str | None, args: ctypes.Structure | None = None
    ) -> None:
        function = getattr(cpu.library(), entry)
        isa = instruction_set.encode() if instruction_set else None
        status = function(ctypes.byref(args or self.args), isa)
        if status == 1:
            raise MemoryError(
                f"{entry}: out of memory for the scratch of {self.args.num_threads} threads"
            )
        if status != 0:
            raise RuntimeError(
                f"{entry}: instruction set {instruction_set!r} is not supported by this processor"
            )


def forward(
    input: Tensor,
    offsets: Sequence[Tensor],
    masks: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    frame_weights: Tensor | None,
    geometry: WarpGeometry,
    *,
    instruction_set: str | None = None,
) -> Tensor:
    """The warp of ``library.deform_warp`` on CPU tensors whose arguments were checked.

    ``instruction_set`` forces one of the compiled variants (for tests); None takes the best.
    """
    offset_channels = offsets[0].shape[1]
    call = _Call(input, offsets, masks, weight, frame_weights, geometry, offset_channels)
    output = input.new_empty(call.output_shape)
    call.args.bias = call.pointer(bias)
    call.args.output = output.data_ptr()
    call.run("pw_warp_forward", instruction_set)
    return output


def offset_conv_warp(
    features: Tensor,
    input: Tensor,
    offset_weight: Tensor,
    weight: Tensor,
    frame_weights: Tensor | None,
    dilations: Sequence[Pair],
    *,
    instruction_set: str | None = None,
) -> Tensor:
    """The forward of ``pwkernels.offset_conv_warp`` on CPU tensors whose arguments were checked."""
    geometry = WarpGeometry.keeping_size((weight.shape[3], weight.shape[4]), dilations)
    call = _Call(input, [], [], weight, frame_weights, geometry, offset_weight.shape[1])
    output = input.new_empty(call.output_shape)
    call.args.output = output.data_ptr()
    args = _OffsetConvArgs(
        warp=call.args,
        features=_tensor4(features),
        features_dtype=_DTYPES[features.dtype],
        offset_weight_dtype=_DTYPES[offset_weight.dtype],
        feature_channels=features.shape[1],
        offset_weight=call.pointer(offset_weight),
    )
    call.run("pw_offset_conv_warp", instruction_set, args)
    return output


def backward(
    grad_output: Tensor,
    input: Tensor,
    offsets: Sequence[Tensor],
    masks: Sequence[Tensor],
    weight: Tensor,
    frame_weights: Tensor | None,
    geometry: WarpGeometry,
    *,
    needs: Needs,
    instruction_set: str | None = None,
) -> Grads:
    """The gradients named by ``needs``; bit-identical for any number of threads."""
    offset_channels = offsets[0].shape[1]
    call = _Call(input, offsets, masks, weight, frame_weights, geometry, offset_channels)
    grads = Grads(
        input=torch.empty(input.shape, dtype=input.dtype) if needs.input else None,
        offsets=[torch.empty(t.shape, dtype=t.dtype) for t in offsets] if needs.offsets else [],
        masks=[torch.empty(t.shape, dtype=t.dtype) for t in masks] if needs.masks else [],
        weight=torch.empty(weight.shape, dtype=weight.dtype) if needs.weight else None,
    )
    call.args.grad_output = call.pointer(grad_output)
    call.args.grad_input = grads.input.data_ptr() if grads.input is not None else None
    call.args.grad_offsets = call.pointers(grads.offsets) if grads.offsets else None
    call.args.grad_masks = call.pointers(grads.masks) if grads.masks else None
    call.args.grad_weight = grads.weight.data_ptr() if grads.weight is not None else None
    call.run("pw_warp_backward", instruction_set)
    return grads
