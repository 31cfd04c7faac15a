"""Operations (a multiply-add is two) of the network and its parts, and what a call does of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torchvision  # noqa: F401  # its operators
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baseline import BaselineWarper
from benchmarks.system_cases import Size, crop_sequence, normalised
from posewarper.models import PoseModel
from pwkernels import offset_conv_warp  # noqa: F401  # its operators

PER_SAMPLE = 8  # of a bilinear sample: two interpolations in x, one in y, and where it lies


def _warp(x: Tensor, weight: Tensor, output_hw: Any) -> int:
    """Sampling and mixing, for all frames and dilations."""
    outputs, inputs, *kernel = weight.shape[-4:]
    dilations = weight.shape[0] if weight.ndim == 5 else 1
    places = dilations * x.shape[0] * math.prod(output_hw) * math.prod(kernel)
    return places * (PER_SAMPLE * x.shape[1] + 2 * outputs * inputs)


def _offsets(features: Tensor, offset_weight: Tensor) -> int:
    """The convolutions of all offset fields."""
    return 2 * offset_weight.numel() * features.shape[0] * math.prod(features.shape[2:])


# By operator. A backward counts as two forwards, as that of a convolution does: the gradients of
# weights and of places each take about one.


def _torchvision(x: Any, weight: Any, *_: Any, out_val: Any, **__: Any) -> int:
    return _warp(x, weight, out_val.shape[2:])


def _torchvision_backward(grad: Any, x: Any, weight: Any, *_: Any, **__: Any) -> int:
    return 2 * _warp(x, weight, grad.shape[2:])


def _ours(x: Any, offsets: Any, masks: Any, weight: Any, *_: Any, out_val: Any, **__: Any) -> int:
    return _warp(x, weight, out_val.shape[2:])


def _ours_backward(
    grad: Any, x: Any, offsets: Any, masks: Any, weight: Any, *_: Any, **__: Any
) -> int:
    return 2 * _warp(x, weight, grad.shape[2:])


def _both(
    features: Any, x: Any, offset_weight: Any, weight: Any, *_: Any, out_val: Any, **__: Any
) -> int:
    return _offsets(features, offset_weight) + _warp(x, weight, out_val.shape[2:])


def _both_backward(
    grad: Any, features: Any, x: Any, offset_weight: Any, weight: Any, *_: Any, **__: Any
) -> int:
    # It computes the offsets once more.
    return 3 * _offsets(features, offset_weight) + 2 * _warp(x, weight, grad.shape[2:])


_FORMULAS: dict[str, Callable[..., int]] = {
    "torchvision::deform_conv2d": _torchvision,
    "torchvision::_deform_conv2d_backward": _torchvision_backward,
    "pwkernels::deform_warp": _ours,
    "pwkernels::deform_warp_backward": _ours_backward,
    "pwkernels::offset_conv_warp": _both,
    "pwkernels::offset_conv_warp_backward": _both_backward,
}
for _formula in _FORMULAS.values():
    _formula._get_raw = True  # type: ignore[attr-defined]  # of tensors, not of their shapes


def _registered() -> dict[Any, Callable[..., int]]:
    found = {}
    for name, formula in _FORMULAS.items():
        namespace, _, operator = name.partition("::")
        found[getattr(getattr(torch.ops, namespace), operator)] = formula
    return found


def count(call: Callable[[], object]) -> int:
    """Operations of convolutions, matrix products and warps in a call."""
    with FlopCounterMode(display=False, custom_mapping=_registered()) as counter:
        call()
    return int(counter.get_total_flops())


def by_part(model: PoseModel, size: Size) -> dict[str, int]:
    """Operations per frame of each part, in the order of the computation."""
    network = BaselineWarper(model)
    crop = normalised(crop_sequence(size, 1))
    with torch.no_grad():
        heatmaps = network.backbone(crop)
        features = network.offset_feats(heatmaps)
        parts = {
            "backbone": count(lambda: network.backbone(crop)),
            "difference network": count(lambda: network.offset_feats(heatmaps)),
            "offset convolutions": count(lambda: [layer(features) for layer in network.offsets]),
            "deformable convolutions": 0,
        }
        whole = count(lambda: network.warped(heatmaps, heatmaps))
    parts["deformable convolutions"] = (
        whole - parts["difference network"] - parts["offset convolutions"]
    )
    return parts
