"""A use of a model as one module of tensors in, tensors out: what becomes the graph of a file.

B crops or pairs or windows, T frames of a window, J joints, h = H / 4 and w = W / 4.

    mode        inputs                                        heatmaps [B, J, h, w] of
    single      crops [B, 3, H, W]                            ``PoseWarper.heatmaps``
    pair        key, support [B, 3, H, W]                     ``PoseWarper.forward``
    propagate   key, support; key_heatmaps [B, J, h, w]       ``PoseWarper.propagate``
    aggregate   frames [B, T, 3, H, W]                        ``PoseWarper.aggregate``

The graph of "aggregate" has two parts, which a program can run one at a time: frame_heatmaps
[B * T, J, h, w] of the images, and what follows from them, their sizes included.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from posewarper.data.crops import normalise
from posewarper.export.half import to_half
from posewarper.heatmaps import decode, softmax_scores
from posewarper.models import HEATMAP_STRIDE, PoseModel, PoseWarper, Window
from posewarper.models.folding import fold_batch_norm

Mode = Literal["single", "pair", "propagate", "aggregate"]
MODES: tuple[str, ...] = get_args(Mode)

Precision = Literal["fp32", "fp16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

#: Names of the inputs of each mode.
INPUTS: dict[str, tuple[str, ...]] = {
    "single": ("crops",),
    "pair": ("key", "support"),
    "propagate": ("key", "support", "key_heatmaps"),
    "aggregate": ("frames",),
}

#: Where the graph of "aggregate" can be cut in two.
FRAME_HEATMAPS = "frame_heatmaps"


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
        precision: "fp16": see ``half.to_half``; needs ``fold``.
        dynamic_size: the key frame's offset fields, which depend on the size, are no constants.

    ``forward`` returns heatmaps ``[B, J, h, w]``, or joints, scores and heatmaps: joints
    ``[B, J, 2]`` are x, y in pixels of the crop, scores ``[B, J]`` the heights of the maxima, of a
    softmax as ``heatmaps.softmax_scores``.
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
        precision: Precision = "fp32",
        dynamic_size: bool = False,
    ) -> None:
        super().__init__()
        self.mode = mode
        self.window = window
        self.joints = model.config.joints
        self.size_multiple = model.backbone.size_multiple
        self.refinement, self.sigma = refinement, model.sigma
        self.bytes_in = bytes_in
        self.softmax = model.softmax
        network = model.backbone if mode == "single" else model.network
        self.network = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
        if isinstance(self.network, PoseWarper):
            self.network.warp.backend = "auto"  # others may be captured as something else
        if fold:
            fold_batch_norm(self.network)
        self.key_offsets: list[str] = []  # names of buffers
        if fold and window is not None and not dynamic_size:
            with torch.no_grad():
                fields = self._warper.key_offset_fields(torch.zeros(model.heatmap_hw))
            for index, field in enumerate(fields):  # D x [1, 2 * 9 * J, h, w]
                stored = field.half() if precision == "fp16" else field
                self.register_buffer(f"key_offsets{index}", stored)
                self.key_offsets.append(f"key_offsets{index}")
        if precision == "fp16":
            to_half(self.network)

    @property
    def _warper(self) -> PoseWarper:
        assert isinstance(self.network, PoseWarper)
        return self.network

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        if self.mode == "aggregate":
            return self._of_frame_heatmaps(self._frame_heatmaps(*inputs))
        heatmaps = self.heatmaps(*inputs)
        return self._results(heatmaps, heatmaps)

    def heatmaps(self, *inputs: Tensor) -> Tensor:
        """Of the use: ``[B, J, h, w]``."""
        if self.mode == "aggregate":
            return self._aggregated(self._frame_heatmaps(*inputs))
        count = 2 if self.mode == "propagate" else len(inputs)
        images = [normalise(x) if self.bytes_in else x for x in inputs[:count]]
        if self.mode == "single":
            return self.network(images[0])
        if self.mode == "pair":
            return self._warper(images[0], images[1])
        return self._warper.propagate(images[0], images[1], inputs[2])

    def parts(self) -> list[Part]:
        """What is captured one after another: each part's inputs are the outputs of the former."""
        outputs = ("heatmaps",) if self.refinement is None else ("joints", "scores", "heatmaps")
        if self.window is None:
            return [Part(self, self.forward, INPUTS[self.mode], outputs)]
        return [
            Part(self, self._frame_heatmaps, INPUTS[self.mode], (FRAME_HEATMAPS,)),
            Part(self, self._of_frame_heatmaps, (FRAME_HEATMAPS,), outputs),
        ]

    def _frame_heatmaps(self, frames: Tensor) -> Tensor:
        images = normalise(frames) if self.bytes_in else frames
        return self._warper.heatmaps(images.flatten(0, 1))  # [B * T, J, h, w]

    def _of_frame_heatmaps(self, maps: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        assert self.window is not None
        own = maps.unflatten(0, (-1, len(self.window)))[:, self.window.key_index]
        return self._results(self._aggregated(maps), own)

    def _results(self, heatmaps: Tensor, own: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        if self.refinement is None:
            return heatmaps
        joints, scores = decode(heatmaps, self.refinement, self.sigma)
        if self.softmax:
            scores = softmax_scores(scores, own.amax((2, 3)))
        return joints * HEATMAP_STRIDE, scores, heatmaps

    def _aggregated(self, maps: Tensor) -> Tensor:
        """``PoseWarper.aggregate_heatmaps`` of maps ``[B * T, J, h, w]``."""
        assert self.window is not None
        heatmaps = maps.unflatten(0, (-1, len(self.window)))  # [B, T, J, h, w]
        fields = [self.get_buffer(name).float() for name in self.key_offsets]
        return self._warper.aggregate_heatmaps(heatmaps, self.window, fields or None)


class Part(nn.Module):
    """A method of a graph as a module, with the names of its inputs and outputs."""

    def __init__(
        self,
        graph: Graph,
        method: Callable[..., Tensor | tuple[Tensor, ...]],
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.owner, self.method = graph, method
        self.inputs, self.outputs = inputs, outputs

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.method(*inputs)
