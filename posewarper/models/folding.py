"""Copies of networks for inference: the same results, computed with less work.

BatchNorm is part of the convolution before it; channels come last in memory, which convolutions are
fastest in; in low precision weights are rounded once, not in every pass, as autocast does; and the
key frame's offset fields, which depend on weights and size alone, are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from posewarper.models.hrnet import HRNet, channels_last
from posewarper.models.warper import PoseWarper, Window
from pwkernels import offset_conv_warp

_Part = TypeVar("_Part", bound=nn.Module)


def folded(network: HRNet | PoseWarper, dtype: torch.dtype | None = None) -> HRNet | FoldedWarper:
    """A copy of a network for inference, in eval mode and without gradients.

    Results are those of the network in eval mode: in float32 within 1e-5 of the largest value,
    below it as under autocast.

    Args:
        network: it is not changed, and not looked at again: later training does not reach the copy.
        dtype: of the convolutions' weights, but for the backbone's last layer, which stays as it
            is; None: all do. Below float32 the copy is to be run under autocast of that dtype.
    """
    if isinstance(network, PoseWarper):
        return FoldedWarper(network, dtype)
    backbone = _folded_part(network, dtype)
    backbone.final_layer = _folded_part(network.final_layer, None)
    return backbone


class FoldedWarper(PoseWarper):
    """A PoseWarper for inference only, which keeps the key frame's offset fields.

    Args:
        network, dtype: see ``folded``.
    """

    def __init__(self, network: PoseWarper, dtype: torch.dtype | None = None) -> None:
        with torch.device("meta"):  # all parts are replaced
            super().__init__(network.config, backend=network.warp.backend)
        backbone = folded(network.backbone, dtype)
        assert isinstance(backbone, HRNet)
        self.backbone = backbone
        self.offset_feats = _folded_part(network.offset_feats, dtype)
        self.offsets = _folded_part(network.offsets, dtype)
        self.warp = copy.deepcopy(network.warp).requires_grad_(False)
        self._key_offsets: dict[object, list[Tensor]] = {}
        self.offset_weight: Tensor | None
        self.register_buffer("offset_weight", self._stacked_kernels(), persistent=False)
        self.register_load_state_dict_post_hook(_forget_old_weights)
        self.eval()

    def train(self, mode: bool = True) -> FoldedWarper:
        """Eval mode is the only one.

        Raises:
            ValueError: training mode was asked for.
        """
        if mode:
            raise ValueError("network: a copy for inference has no training mode; train the model")
        super().train(False)
        return self

    def _stacked_kernels(self) -> Tensor | None:
        """``[D, 2 * 9 * J, head_width, 3, 3]`` where one call is to do the head's whole end."""
        kernels: list[Tensor] = [c.get_parameter("weight") for c in self.offsets]
        usual = self.warp.backend in ("auto", "cpu")
        usual = usual and kernels[0].dtype in (torch.float32, torch.bfloat16)
        return torch.stack(kernels) if usual else None

    def offset_fields(self, difference: Tensor) -> list[Tensor]:
        return [planes(field) for field in super().offset_fields(difference)]

    def warp_by(
        self, difference: Tensor, moved: Tensor, frame_weights: Tensor | None = None
    ) -> Tensor:
        kernels = self.offset_weight
        if kernels is None or kernels.device.type != "cpu":
            return super().warp_by(difference, moved, frame_weights)
        return offset_conv_warp(
            self.offset_feats(difference),
            moved,
            kernels,
            self.warp.weight,
            dilations=self.warp.dilations,
            reduction=self.warp.reduction,
            frame_weights=frame_weights,
            backend=self.warp.backend,
        )

    def aggregate_heatmaps(
        self,
        heatmaps: Tensor,
        window: Window | None = None,
        key_offsets: Sequence[Tensor] | None = None,
    ) -> Tensor:
        if key_offsets is None and heatmaps.ndim == 5:
            key_offsets = self._kept_key_offsets(heatmaps)
        return super().aggregate_heatmaps(heatmaps, window, key_offsets)

    def _kept_key_offsets(self, heatmaps: Tensor) -> list[Tensor]:
        device = heatmaps.device
        mixed = torch.is_autocast_enabled(device.type)
        precision = torch.get_autocast_dtype(device.type) if mixed else heatmaps.dtype
        case = (*heatmaps.shape[-2:], precision, device)
        if case not in self._key_offsets:
            # Not inference tensors, which nothing that records gradients could use.
            with torch.inference_mode(False), torch.no_grad():
                like = torch.empty((), dtype=heatmaps.dtype, device=device)
                fields = self.key_offset_fields(like.expand(heatmaps.shape[-2:]))
            self._key_offsets[case] = fields
        return self._key_offsets[case]


def _forget_old_weights(warper: nn.Module, _: object) -> None:
    assert isinstance(warper, FoldedWarper)
    warper._key_offsets.clear()
    if warper.offset_weight is not None:
        warper.offset_weight = warper._stacked_kernels()


class Compiled(nn.Module):
    """A module of a folded network, run through ``torch.compile``.

    It is compiled in the first passes, which takes up to minutes: once for the first size of batch,
    and once more for all others. On a GPU it is replayed as CUDA graphs.

    Args:
        module: tensor in, tensor out; its weights do not change any more.
        device: where it runs.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.eager = module
        self.graphs = device.type == "cuda"
        options: dict[str, Any] = {"freezing": True, "triton.cudagraphs": self.graphs}
        self.compiled = torch.compile(module, options=options)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 0:
            return self.eager(x)
        if self.graphs:  # the next replay writes to the same memory
            torch.compiler.cudagraph_mark_step_begin()
            return self.compiled(x).clone()
        return self.compiled(x)


def fold_batch_norm(network: nn.Module) -> None:
    """Every BatchNorm that follows a convolution becomes part of its weight and bias, in place.

    Computed in float64 and rounded once. That the next registered layer is also the next one
    applied holds for all of this package's networks.
    """
    for module in network.modules():
        previous: nn.Module | None = None
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.BatchNorm2d) and isinstance(previous, nn.Conv2d):
                _fold(previous, layer)
                setattr(module, name, nn.Identity())
            previous = layer


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    weight = convolution.weight.detach()
    scale = (norm.running_var.double() + norm.eps).rsqrt()  # [C]
    if norm.affine:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        shift = shift + norm.bias.detach().double()
    if convolution.bias is not None:
        shift = shift + convolution.bias.detach().double() * scale
    folded_weight = weight.double() * scale[:, None, None, None]
    trained = convolution.weight.requires_grad
    convolution.weight = nn.Parameter(folded_weight.to(weight.dtype), trained)
    convolution.bias = nn.Parameter(shift.to(weight.dtype), trained)


def planes(maps: Tensor) -> Tensor:
    """``[N, C, h, w]`` with one plane after another in memory, as warps want their offsets.

    On a CPU maps with channels last are transposed frame by frame, for which PyTorch has a fast
    path that four axes miss.
    """
    last = maps.is_contiguous(memory_format=torch.channels_last)
    if maps.is_contiguous() or not last or maps.requires_grad or maps.device.type != "cpu":
        return maps.contiguous()
    out = torch.empty(maps.shape, dtype=maps.dtype)
    of_pixels = maps.permute(0, 2, 3, 1).flatten(1, 2)  # [N, h * w, C], no copy
    for frame, pixels in zip(out.flatten(2), of_pixels, strict=True):
        frame.copy_(pixels.t())
    return out


def _folded_part(part: _Part, dtype: torch.dtype | None) -> _Part:
    part = copy.deepcopy(part).eval().requires_grad_(False)
    fold_batch_norm(part)
    channels_last(part)
    return part if dtype is None else part.to(dtype)
