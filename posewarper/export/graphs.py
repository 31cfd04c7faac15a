"""A use of a model as one module of tensors in, tensors out: what becomes the graph of a file.

B crops or pairs or windows, T frames of a window, J joints, h = H / 4 and w = W / 4.

    mode        inputs                                        heatmaps [B, J, h, w] of
    single      crops [B, 3, H, W]                            ``PoseWarper.heatmaps``
    pair        key, support [B, 3, H, W]                     ``PoseWarper.forward``
    propagate   key, support; key_heatmaps [B, J, h, w]       ``PoseWarper.propagate``
    aggregate   frames [B, T, 3, H, W]                        ``PoseWarper.aggregate``
"""

from __future__ import annotations

import copy
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from posewarper.data.crops import normalise
from posewarper.heatmaps import decode
from posewarper.models import HEATMAP_STRIDE, PoseModel, PoseWarper, Window

Mode = Literal["single", "pair", "propagate", "aggregate"]
MODES: tuple[str, ...] = get_args(Mode)

#: Names of the inputs of each mode.
INPUTS: dict[str, tuple[str, ...]] = {
    "single": ("crops",),
    "pair": ("key", "support"),
    "propagate": ("key", "support", "key_heatmaps"),
    "aggregate": ("frames",),
}


class Graph(nn.Module):
    """One use of a model, on the CPU, with weights of its own.

    Args:
        model: the model; it is not changed.
        mode: the use.
        window: of "aggregate".
        refinement: how joints are decoded; None: heatmaps are the only output.
        bytes_in: whether images come as RGB bytes, which the graph normalises.
        fold: the graph of a file: BatchNorm is part of the convolutions, and the key frame's offset
            fields, which do not depend on the images, are constants. Otherwise the model as it is.

    ``forward`` returns heatmaps ``[B, J, h, w]``, or joints, scores and heatmaps: joints
    ``[B, J, 2]`` are x, y in pixels of the crop, scores ``[B, J]`` the heights of the maxima.
    """

    def __init__(
        self,
        model: PoseModel,
        mode: Mode,
        *,
        window: Window | None,
        refinement: str | None,
        bytes_in: bool,
        fold: bool,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.window = window
        self.refinement, self.sigma = refinement, model.sigma
        self.bytes_in = bytes_in
        network = model.backbone if mode == "single" else model.network
        self.network = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
        if isinstance(self.network, PoseWarper):
            self.network.warp.backend = "auto"  # others may be captured as something else
        self.split = fold and window is not None and len(window) > 1
        if fold:
            fold_batch_norm(self.network)
        if self.split:
            zero = torch.zeros(1, model.config.joints, *model.heatmap_hw)
            with torch.no_grad():
                fields = self._warper.offset_fields(zero)  # D x [1, 2 * 9 * J, h, w]
            for index, field in enumerate(fields):
                self.register_buffer(f"key_offsets{index}", field)

    @property
    def _warper(self) -> PoseWarper:
        assert isinstance(self.network, PoseWarper)
        return self.network

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        heatmaps = self.heatmaps(*inputs)
        if self.refinement is None:
            return heatmaps
        joints, scores = decode(heatmaps, self.refinement, self.sigma)
        return joints * HEATMAP_STRIDE, scores, heatmaps

    def heatmaps(self, *inputs: Tensor) -> Tensor:
        """Of the use: ``[B, J, h, w]``."""
        count = 2 if self.mode == "propagate" else len(inputs)
        images = [normalise(x) if self.bytes_in else x for x in inputs[:count]]
        if self.mode == "single":
            return self.network(images[0])
        if self.mode == "pair":
            return self._warper(images[0], images[1])
        if self.mode == "propagate":
            return self._warper.propagate(images[0], images[1], inputs[2])
        return self._aggregated(images[0]) if self.split else self._whole(images[0])

    def _whole(self, frames: Tensor) -> Tensor:
        return self._warper.aggregate(frames, self.window)

    def _aggregated(self, frames: Tensor) -> Tensor:
        """``PoseWarper.aggregate`` without the key frame's pass through the head."""
        window, warper = self.window, self._warper
        assert window is not None
        at = window.key_index
        count = len(window)
        heatmaps = warper.heatmaps(frames.flatten(0, 1)).unflatten(0, (-1, count))
        key = heatmaps[:, at]  # [B, J, h, w]
        others = torch.cat([heatmaps[:, :at], heatmaps[:, at + 1 :]], 1)  # [B, T - 1, J, h, w]
        offsets = warper.offset_fields((key[:, None] - others).flatten(0, 1))
        weights = [w for i, w in enumerate(window.weights) if i != at]
        moved = warper.warp(
            others.flatten(0, 1), offsets, frame_weights=torch.tensor(weights)
        )  # [B, J, h, w]
        own = [
            self.get_buffer(f"key_offsets{i}").expand(key.shape[0], -1, -1, -1)
            for i in range(len(warper.offsets))
        ]
        return moved + window.weights[at] * warper.warp(key, own)


def fold_batch_norm(network: nn.Module) -> None:
    """Every BatchNorm that follows a convolution becomes part of its weight and bias, in place.

    That the next registered layer is also the next one applied holds for all of this package's
    networks; the comparison of each export would show it if not.
    """
    for module in network.modules():
        previous: tuple[str, nn.Module] | None = None
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.BatchNorm2d) and previous is not None:
                place, convolution = previous
                if isinstance(convolution, nn.Conv2d):
                    setattr(module, place, fuse_conv_bn_eval(convolution, layer))
                    setattr(module, name, nn.Identity())
            previous = name, layer
