"""The public operations: contract, argument checks, choice of backend.

    input    [N, C, H, W]
    offset   [N, 2 * G * K, H_out, W_out]   (dy, dx) per tap, taps row-major, group-major
    mask     [N, G * K, H_out, W_out]       multiplies the samples as it is
    weight   [C_out, C / groups, kh, kw]    K = kh * kw

Samples are bilinear, zero outside the map. Float32, bfloat16 and float16 tensors may be mixed: all
arithmetic is in float32 and the result has the input's dtype (float64 goes with float64 alone). It
follows that the functions do under ``torch.autocast`` what they do without.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from pwkernels import library, reference
from pwkernels.checks import (
    ArgumentError,
    ArgumentTypeError,
    check_pair,
    check_tensor,
    check_warp,
    choose_backend,
)
from pwkernels.geometry import WarpGeometry


def multi_dilation_deform_warp(
    input: Tensor,
    offsets: Sequence[Tensor],
    weight: Tensor,
    *,
    dilations: Sequence[int | tuple[int, int]],
    masks: Sequence[Tensor] | None = None,
    bias: Tensor | None = None,
    reduction: str = "mean",
    frame_weights: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """D deformable convolutions with different dilations, averaged or summed, in one pass.

    Equivalent to (with ``padding[d] = dilations[d] * (k - 1) // 2``, which keeps the size)::

        maps = [deform_conv2d(input, offsets[d], weight[d], bias[d], padding=padding[d],
                              dilation=dilations[d], mask=masks[d]) for d in range(D)]
        out = torch.stack(maps).mean(0)
        out = (out.unflatten(0, (-1, T)) * frame_weights[:, None, None, None]).sum(1)  # if given

    without im2col buffers and temporaries per dilation. This is the warp of PoseWarper
    (arXiv 1906.04016, section 3) and, with masks and bias, that of DCPose (arXiv 2103.07254).

    Args:
        input: maps ``[N, C, H, W]``.
        offsets: D tensors ``[N, 2 * G * kh * kw, H, W]``, in pixels; G offset groups, G divides C.
        weight: ``[D, C_out, C / groups, kh, kw]``, kh and kw odd.
        dilations: D dilations, each an int or (h, w).
        masks: D tensors ``[N, G * kh * kw, H, W]``, used as they are (no sigmoid).
        bias: ``[D, C_out]``, one per convolution, reduced like the maps.
        reduction: ``"mean"`` or ``"sum"`` over the dilations.
        frame_weights: ``[T]``; then N = B * T, frame t of window b is ``input[b * T + t]``, and the
            result is the weighted sum over each window's frames.
        backend: ``"auto"`` (the compiled kernel of the tensors' device), ``"cpu"``, ``"triton"``,
            ``"reference"`` (plain PyTorch, differentiable twice) or ``"torchvision"``.

    Returns:
        ``[N, C_out, H, W]``, with ``frame_weights`` ``[N / T, C_out, H, W]``; the input's dtype.

    Border and special values: as torchvision, gradients included: at exactly y == -1 the value is
    0 and the offset's gradient is not. The cell of a sample is decided exactly, as integer position
    plus floor(offset). NaN, infinite and huge offsets sample outside the map: value 0, gradient 0.
    Where maps, weights or masks are not finite, outputs that depend on them are not to be relied
    on: they may be finite where torchvision's are not, as corners of weight 0 are left out.

    Determinism: on CPU always bit-identical, for any number of threads. On a GPU everything but the
    input's gradient is; that one is too under ``torch.use_deterministic_algorithms(True)``, with
    integer instead of floating-point atomics.

    Differentiable once in every tensor; a second derivative and forward-mode raise, except with
    ``backend="reference"``.

    Raises:
        ArgumentError: (a ``ValueError`` and ``RuntimeError``) shapes, sizes, devices or options.
        ArgumentTypeError: (a ``TypeError`` and ``RuntimeError``) types or dtypes.
    """
    tensors = (input, weight, bias, frame_weights, *_listed(offsets), *_listed(masks))
    if has_torch_function(tensors):  # torch.fx traces with objects that are no tensors
        return handle_torch_function(
            multi_dilation_deform_warp, tensors, input, offsets, weight, dilations=dilations,
            masks=masks, bias=bias, reduction=reduction, frame_weights=frame_weights,
            backend=backend,
        )  # fmt: skip
    check_tensor("input", input, 4)
    check_tensor("weight", weight, 5)
    count = weight.shape[0]
    offsets = _tensor_list("offsets", offsets, count)
    mask_list = [] if masks is None else _tensor_list("masks", masks, count)
    if not isinstance(dilations, Sequence) or len(dilations) != count:
        raise ArgumentError(f"dilations: expected {count}, one per weight, got {dilations!r}")
    if reduction not in ("mean", "sum"):
        raise ArgumentError(f"reduction: expected 'mean' or 'sum', got {reduction!r}")
    kernel_hw = (weight.shape[3], weight.shape[4])
    if kernel_hw[0] % 2 == 0 or kernel_hw[1] % 2 == 0:
        raise ArgumentError(
            f"weight: expected odd kernel sides, got {kernel_hw[0]} x {kernel_hw[1]}"
        )
    pairs = [check_pair(f"dilations[{d}]", dilation, 1) for d, dilation in enumerate(dilations)]
    geometry = WarpGeometry.keeping_size(kernel_hw, pairs)
    if frame_weights is not None:
        check_tensor("frame_weights", frame_weights, 1)
    if bias is not None:
        check_tensor("bias", bias, 2)
        if bias.shape[0] != count or bias.shape[1] != weight.shape[1]:
            raise ArgumentError(
                f"bias: expected shape ({count}, {weight.shape[1]}), got {tuple(bias.shape)} "
                f"for weight {tuple(weight.shape)}"
            )
    check_warp(input, offsets, mask_list, weight, bias, frame_weights, geometry)

    # Bias, mean and dtype are linear in tiny tensors: done here, where autograd sees them.
    dtype = _arithmetic_dtype(input)
    scale = 1.0 / count if reduction == "mean" else 1.0
    frame_weights = None if frame_weights is None else frame_weights.to(dtype)
    if bias is not None:
        bias = bias.to(dtype).sum(0) * scale
        if frame_weights is not None:
            bias = bias * frame_weights.sum()
    weight = weight.to(dtype) * scale
    chosen = choose_backend(backend, input, offsets)
    return _run(chosen, input, offsets, mask_list, weight, bias, frame_weights, geometry)


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = (1, 1),
    padding: int | tuple[int, int] = (0, 0),
    dilation: int | tuple[int, int] = (1, 1),
    mask: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Deformable convolution, in place of ``torchvision.ops.deform_conv2d``: change the import.

    Deformable ConvNets v2 (arXiv 1811.11168) with a mask, v1 (arXiv 1703.06211) without.

    Args:
        input: maps ``[N, C, H, W]``.
        offset: ``[N, 2 * G * kh * kw, H_out, W_out]``, in pixels; G offset groups, G divides C.
        weight: ``[C_out, C / groups, kh, kw]``.
        bias: ``[C_out]``.
        stride, padding, dilation: an int or (h, w).
        mask: ``[N, G * kh * kw, H_out, W_out]``, used as it is.
        backend: as in ``multi_dilation_deform_warp``; ``"auto"`` gives calls that are dominated by
            their matrix product (many channels, on a GPU) to torchvision where it is installed.

    Returns:
        ``[N, C_out, H_out, W_out]`` in the input's dtype.

    Borders, special values, determinism, derivatives, errors: see ``multi_dilation_deform_warp``.
    """
    tensors = (input, offset, weight, bias, mask)
    if has_torch_function(tensors):  # torch.fx traces with objects that are no tensors
        return handle_torch_function(
            deform_conv2d, tensors, input, offset, weight, bias, stride=stride, padding=padding,
            dilation=dilation, mask=mask, backend=backend,
        )  # fmt: skip
    check_tensor("input", input, 4)
    check_tensor("offset", offset, 4)
    check_tensor("weight", weight, 4)
    if mask is not None:
        check_tensor("mask", mask, 4)
    if bias is not None:
        check_tensor("bias", bias, 1)
        if bias.shape[0] != weight.shape[0]:
            raise ArgumentError(
                f"bias: expected shape ({weight.shape[0]},), got {tuple(bias.shape)} "
                f"for weight {tuple(weight.shape)}"
            )
    geometry = WarpGeometry(
        (weight.shape[2], weight.shape[3]),
        check_pair("stride", stride, 1),
        (check_pair("padding", padding, 0),),
        (check_pair("dilation", dilation, 1),),
    )
    masks = [] if mask is None else [mask]
    check_warp(
        input,
        [offset],
        masks,
        weight[None],
        bias,
        None,
        geometry,
        offset_name="offset",
        mask_name="mask",
        padding_name="padding",
    )
    dtype = _arithmetic_dtype(input)
    chosen = choose_backend(backend, input, [offset], wide=_is_wide(input, weight))
    return _run(
        chosen,
        input,
        [offset],
        masks,
        weight.to(dtype)[None],
        None if bias is None else bias.to(dtype),
        None,
        geometry,
    )


def _listed(tensors: object) -> Sequence[object]:
    return tensors if isinstance(tensors, (list, tuple)) else [tensors]


def _is_wide(input: Tensor, weight: Tensor) -> bool:
    """Whether the matrix product dominates: then a library's product wins over the fusion."""
    return input.device.type == "cuda" and weight.shape[0] * weight.shape[1] >= 128 * 128


def _arithmetic_dtype(input: Tensor) -> torch.dtype:
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def _tensor_list(name: str, tensors: object, count: int) -> list[Tensor]:
    if not isinstance(tensors, (list, tuple)):
        raise ArgumentTypeError(
            f"{name}: expected a list of {count} tensors, got {type(tensors).__name__}"
        )
    if len(tensors) != count:
        raise ArgumentError(f"{name}: expected {count} tensors, one per weight, got {len(tensors)}")
    return [check_tensor(f"{name}[{i}]", tensor, 4) for i, tensor in enumerate(tensors)]


def _run(
    backend: str,
    input: Tensor,
    offsets: list[Tensor],
    masks: list[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    frame_weights: Tensor | None,
    geometry: WarpGeometry,
) -> Tensor:
    if backend in ("cpu", "triton"):
        return library.warp(input, offsets, masks, weight, bias, frame_weights, geometry, backend)
    compose = reference.warp if backend == "reference" else reference.torchvision_warp
    arguments = (input, offsets, masks, weight, bias, frame_weights, geometry)
    if input.device.type == "meta":  # which autocast does not know
        return compose(*arguments)
    with torch.autocast(input.device.type, enabled=False):
        return compose(*arguments)
