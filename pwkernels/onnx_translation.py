"""How deformable convolutions appear in an ONNX graph: as standard operators only.

::

    from pwkernels import onnx_translation

    torch.onnx.export(
        model, args, "model.onnx", dynamo=True, opset_version=19,
        custom_translation_table=onnx_translation.table(),
    )

The table translates ``pwkernels::deform_warp``, which is what captured calls of ``deform_conv2d``,
``multi_dilation_deform_warp`` and their modules consist of, ``pwkernels::offset_conv_warp``, and
``torchvision::deform_conv2d``.
Calls with ``backend="reference"`` are captured as plain operators and need no table.

Operators: https://onnx.ai/onnx/operators/onnx__DeformConv.html (opset 19) and
https://onnx.ai/onnx/operators/onnx__GridSample.html (opset 16; opset 20 renames its mode).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pwkernels import library, offset_conv  # noqa: F401  register the operators
from pwkernels.checks import MAX_SIDE, ArgumentError
from pwkernels.geometry import Pair, WarpGeometry

DEFORM_OPS = ("DeformConv", "GridSample")

# Offsets beyond this are outside any map.
_FAR = 2 * MAX_SIDE

# Values of the graph: onnxscript, whose class they have, is needed for an export alone.
Value = Any
Translation = Callable[..., Value]


def table(deform_op: str = "DeformConv") -> dict[Callable[..., Any], Translation]:
    """The ``custom_translation_table`` for ``torch.onnx.export(..., dynamo=True)``.

    Everything that the operations offer is translated: masks, bias, groups of the weight, offset
    groups, stride, padding, dilations, frame weights, mean and sum. Batch, height and width may be
    dynamic; channels and kernel may not. The arithmetic is in the dtype that PyTorch's is in,
    float32 (or float64): float16 and bfloat16 maps are cast in the graph.

    Args:
        deform_op: ``"DeformConv"``: one node of that operator per dilation, and their ``Sum``; for
            ``opset_version`` 19 and later. ``"GridSample"``: the same sum for runtimes that lack
            ``DeformConv``, from one ``GridSample`` and one 1x1 ``Conv`` per dilation; slower, and
            with a buffer of all samples, ``[N, C * kh * kw, H_out, W_out]``.

    Returns:
        Operator to translation. To join with others: ``{**table(), **others}``.

    Offsets that are NaN, infinite or huge: in PyTorch such samples are 0, and so they are in the
    ``"GridSample"`` graph. The standard does not say what ``DeformConv`` makes of them; onnxruntime
    does the same.

    Raises:
        ArgumentError: an unknown ``deform_op``. Also during the export, as the cause of the
            exporter's own error and before it writes a file: ``DeformConv`` with an opset below
            19, dynamic channels or kernel, dynamic stride, padding or dilation.
        ImportError: the extra ``onnx`` is not installed.
    """
    if deform_op not in DEFORM_OPS:
        raise ArgumentError(f"deform_op: expected one of {DEFORM_OPS}, got {deform_op!r}")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"the export to ONNX needs onnx and onnxscript ({error}): "
            "pip install 'posewarper[onnx]'"
        ) from error
    convolve = _deform_conv if deform_op == "DeformConv" else _grid_sample

    # The exporter calls these with the arguments of the operators, by position.

    def deform_warp(
        input: Value,
        offsets: Sequence[Value],
        masks: Sequence[Value],
        weight: Value,
        bias: Value | None,
        frame_weights: Value | None,
        stride: Sequence[int],
        paddings: Sequence[int],
        dilations: Sequence[int],
        backend: str,
    ) -> Value:
        return _warp(
            convolve, input, offsets, masks, weight, bias, frame_weights,
            stride, paddings, dilations,
        )  # fmt: skip

    def deform_conv2d(
        input: Value,
        weight: Value,
        offset: Value,
        mask: Value,
        bias: Value,
        stride_h: int,
        stride_w: int,
        pad_h: int,
        pad_w: int,
        dilation_h: int,
        dilation_w: int,
        groups: int,
        offset_groups: int,
        use_mask: bool,
    ) -> Value:
        masks = [mask] if use_mask else []  # else an empty tensor stands for none
        return _warp(
            convolve, input, [offset], masks, weight, bias, None,
            (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w),
        )  # fmt: skip

    def offset_conv_warp(
        features: Value,
        input: Value,
        offset_weight: Value,
        weight: Value,
        frame_weights: Value | None,
        dilations: Sequence[int],
        backend: str,
    ) -> Value:
        kernel_hw = (_fixed("weight", weight, 3), _fixed("weight", weight, 4))
        pairs = list(zip(dilations[::2], dilations[1::2], strict=True))
        paddings = WarpGeometry.keeping_size(kernel_hw, pairs).flat_paddings()
        return _warp(
            convolve, input, _offset_fields(features, offset_weight, pairs, weight.dtype), [],
            weight, None, frame_weights, (1, 1), paddings, dilations,
        )  # fmt: skip

    translations: dict[Callable[..., Any], Translation] = {
        torch.ops.pwkernels.deform_warp.default: deform_warp,
        torch.ops.pwkernels.offset_conv_warp.default: offset_conv_warp,
    }
    try:
        import torchvision.ops  # noqa: F401
    except Exception:  # a torchvision built for another torch fails in many ways
        return translations
    translations[torch.ops.torchvision.deform_conv2d.default] = deform_conv2d
    return translations


@dataclass(frozen=True)
class _Convolution:
    """One deformable convolution of the sum; all of its values have one dtype.

    ``weight`` is ``[C_out, C / groups, kh, kw]``; ``geometry`` has one dilation.
    """

    input: Value
    offset: Value
    mask: Value | None
    weight: Value
    bias: Value | None
    channels: int
    out_channels: int
    groups: int
    offset_groups: int
    geometry: WarpGeometry
    onnx_dtype: Any

    @property
    def dtype(self) -> np.dtype:
        return self.onnx_dtype.numpy()

    @property
    def padding(self) -> Pair:
        return self.geometry.paddings[0]

    @property
    def dilation(self) -> Pair:
        return self.geometry.dilations[0]


def _warp(
    convolve: Callable[[_Convolution], Value],
    input: Value,
    offsets: Sequence[Value],
    masks: Sequence[Value],
    weight: Value,
    bias: Value | None,
    frame_weights: Value | None,
    stride: Sequence[int],
    paddings: Sequence[int],
    dilations: Sequence[int],
) -> Value:
    """The sum over dilations and frames; ``weight`` is ``[D, C_out, C / groups, kh, kw]``.

    Without its first dimension it is that of a single convolution.
    """
    op = _operators()
    several = len(weight.shape) == 5
    out_channels, group_channels, *kernel_hw = (
        _fixed("weight", weight, axis) for axis in range(len(weight.shape) - 4, len(weight.shape))
    )
    channels = _fixed("input", input, 1)
    taps = kernel_hw[0] * kernel_hw[1]
    for name, sizes in (("stride", stride), ("padding", paddings), ("dilation", dilations)):
        if not all(isinstance(size, int) for size in sizes):
            raise ArgumentError(f"{name}: ONNX has it as an attribute, so it cannot be dynamic")
    arithmetic = weight.dtype

    def cast(value: Value, dtype: Any = arithmetic) -> Value:
        return value if value.dtype == dtype else op.Cast(value, to=dtype)

    geometry = WarpGeometry.from_flat(kernel_hw, stride, paddings, dilations)
    maps = cast(input)
    parts = []
    for index, offset in enumerate(offsets):
        first = index == 0 and frame_weights is None
        parts.append(
            convolve(
                _Convolution(
                    input=maps,
                    offset=cast(offset),
                    mask=cast(masks[index]) if masks else None,
                    weight=op.Gather(weight, _constant(index), axis=0) if several else weight,
                    bias=bias if first else None,  # it is added once, whatever the sum's length
                    channels=channels,
                    out_channels=out_channels,
                    groups=channels // group_channels,
                    offset_groups=_fixed("offset", offset, 1) // (2 * taps),
                    geometry=WarpGeometry(
                        geometry.kernel_hw,
                        geometry.stride,
                        geometry.paddings[index : index + 1],
                        geometry.dilations[index : index + 1],
                    ),
                    onnx_dtype=arithmetic,
                )
            )
        )
    total = parts[0] if len(parts) == 1 else op.Sum(*parts)
    if frame_weights is not None:
        window = _fixed("frame_weights", frame_weights, 0)
        out_hw = op.Shape(offsets[0], start=2)
        framed = op.Reshape(total, op.Concat(_constant([-1, window, out_channels]), out_hw, axis=0))
        factors = op.Reshape(cast(frame_weights), _constant([window, 1, 1, 1]))
        total = op.ReduceSum(op.Mul(framed, factors), _constant([1]), keepdims=0)
        if bias is not None:
            total = op.Add(total, op.Reshape(bias, _constant([out_channels, 1, 1])))
    return total if input.dtype == arithmetic else op.Cast(total, to=input.dtype)


def _offset_fields(
    features: Value, offset_weight: Value, dilations: Sequence[Pair], dtype: Any
) -> list[Value]:
    """Offsets of ``offset_conv_warp``, one ordinary convolution each."""
    from onnxscript import ir

    op = _operators()
    batch, _, height, width = features.shape

    def cast(value: Value) -> Value:
        return value if value.dtype == dtype else op.Cast(value, to=dtype)

    maps, kernels = cast(features), cast(offset_weight)
    fields = []
    for index, dilation in enumerate(dilations):
        kernel = op.Gather(kernels, _constant(index), axis=0)
        pads = (*dilation, *dilation)
        field = op.Conv(maps, kernel, None, kernel_shape=(3, 3), dilations=dilation, pads=pads)
        # Of nodes within a translation the exporter infers neither.
        field.shape = ir.Shape((batch, offset_weight.shape[1], height, width))
        field.dtype = dtype
        fields.append(field)
    return fields


def _deform_conv(convolution: _Convolution) -> Value:
    """By the operator of that name, which orders offset and mask channels as PyTorch's does."""
    from onnxscript import evaluator, opset19

    recorder = evaluator.default()  # the exporter's, which knows what opset is asked for
    opset = getattr(getattr(recorder, "opset", None), "version", 19)
    if opset < 19:
        raise ArgumentError(
            f"opset_version: DeformConv exists from 19 on, got {opset} or less; "
            'use that, or deform_op="GridSample"'
        )
    return opset19.DeformConv(
        convolution.input,
        convolution.weight,
        convolution.offset,
        convolution.bias,
        convolution.mask,
        kernel_shape=convolution.geometry.kernel_hw,
        strides=convolution.geometry.stride,
        pads=(*convolution.padding, *convolution.padding),
        dilations=convolution.dilation,
        group=convolution.groups,
        offset_group=convolution.offset_groups,
    )


def _grid_sample(convolution: _Convolution) -> Value:
    """By GridSample of all taps at once and a 1x1 convolution of channels times taps.

    GridSample with ``align_corners=0`` and zero padding samples at ``((n + 1) * size - 1) / 2`` for
    a coordinate n, and takes corners outside the map as 0: the border rule of the deformable
    convolution, for maps of any size (``align_corners=1`` would divide by ``size - 1``).
    """
    op = _operators()
    geometry, channels = convolution.geometry, convolution.channels
    groups, taps = convolution.offset_groups, geometry.taps
    out_hw = op.Shape(convolution.offset, start=2)
    out_h = op.Shape(convolution.offset, start=2, end=3)
    pixels = op.Mul(out_h, op.Shape(convolution.offset, start=3))  # P = H_out * W_out

    def shaped(value: Value, *sizes: int) -> Value:
        return op.Reshape(value, op.Concat(_constant(sizes), pixels, axis=0))

    # Offsets are (dy, dx) and GridSample takes (x, y): the maps, far smaller, are transposed.
    planes = op.Reshape(convolution.input, _constant([-1, channels // groups, 0, 0]))
    planes = op.Transpose(planes, perm=(0, 1, 3, 2))
    offset = shaped(convolution.offset, -1, taps, 2)
    near = op.Less(op.Abs(offset), _constant(_FAR, convolution.dtype))  # false for NaN
    offset = op.Where(near, offset, _constant(-2 * _FAR, convolution.dtype))
    start, scale = _normalized(convolution, out_hw)
    grid = op.Add(op.Mul(offset, scale), shaped(start, taps, 2))  # [N * G, K, 2, P]
    grid = op.Transpose(grid, perm=(0, 1, 3, 2))
    samples = op.GridSample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=0)
    if convolution.mask is not None:
        samples = op.Mul(samples, shaped(convolution.mask, -1, 1, taps))  # [N * G, C / G, K, P]
    kernel = (convolution.out_channels, channels // convolution.groups * taps, 1, 1)
    output = op.Conv(
        shaped(samples, -1, channels * taps, 1),
        op.Reshape(convolution.weight, _constant(kernel)),
        convolution.bias,
        group=convolution.groups,
    )
    return op.Reshape(output, op.Concat(_constant([-1, convolution.out_channels]), out_hw, axis=0))


def _normalized(convolution: _Convolution, out_hw: Value) -> tuple[Value, Value]:
    """GridSample's coordinates of all taps without offsets, and of one pixel of offset.

    ``[K, 2, H_out, W_out]`` and ``[2, 1]``, (y, x). In a graph of fixed sizes these are constants,
    which the exporter's optimizer or the runtime computes once.
    """
    op = _operators()
    dtype, geometry = convolution.dtype, convolution.geometry
    sizes = op.Cast(op.Shape(convolution.input, start=2), to=convolution.onnx_dtype)
    sizes_of_maps = op.Reshape(sizes, _constant([2, 1, 1]))

    def positions(axis: int) -> Value:
        """Of the outputs along an axis, before padding: [2, H_out, 1] or [2, 1, W_out]."""
        count = op.Gather(out_hw, _constant(axis), axis=0)
        steps = op.Range(_constant(0), count, _constant(1))
        steps = op.Reshape(op.Cast(steps, to=convolution.onnx_dtype), shapes[axis])
        unit = np.eye(2)[axis].reshape(2, 1, 1) * geometry.stride[axis]
        return op.Mul(steps, _constant(unit, dtype))

    two, one = _constant(2, dtype), _constant(1, dtype)
    shapes = _constant([-1, 1]), _constant([1, -1])
    rows, columns = np.indices(geometry.kernel_hw).reshape(2, -1)
    taps = np.stack((rows, columns), 1) * geometry.dilations[0] - geometry.paddings[0]
    taps = _constant(taps[:, :, None, None], dtype)
    position = op.Add(op.Add(positions(0), positions(1)), taps)
    # (2 * position + 1) / size - 1, with a single rounding
    start = op.Div(op.Sub(op.Mul(position, two), op.Sub(sizes_of_maps, one)), sizes_of_maps)
    return start, op.Div(two, op.Reshape(sizes, _constant([2, 1])))


def _operators() -> Any:
    """The operators that both forms share; the exporter converts them to the opset asked for."""
    from onnxscript import opset18

    return opset18


def _constant(value: Any, dtype: Any = np.int64) -> Value:
    """A tensor in the graph."""
    import onnx_ir

    return _operators().Constant(value=onnx_ir.tensor(np.asarray(value, dtype)))


def _fixed(name: str, value: Value, axis: int) -> int:
    """A size that has to be known when the graph is written."""
    size = value.shape[axis]
    if not isinstance(size, int):
        raise ArgumentError(
            f"{name}: expected a fixed size in dimension {axis}, got {size}, which is dynamic; "
            "ONNX can have dynamic batch, height and width"
        )
    return size
