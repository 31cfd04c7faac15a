"""PoseWarper (arXiv 1906.04016): a pose moves from one frame of a video to another.

    H(frame)   heatmaps of the backbone              [B, J, h, w]    h = H / 4, w = W / 4
    d          H(target) - H(source)                 [B, J, h, w]
    offsets    D dilated convolutions of residual blocks over d, (dy, dx) per joint and tap
                                                     D x [B, 2 * 9 * J, h, w]
    warp       mean of D deformable 3 x 3 convolutions of source's heatmaps, one dilation and
               one offset field each                 [B, J, h, w]

One model, four uses; "key" is the labelled frame or the frame whose pose is wanted, "support" its
neighbour:

    model.heatmaps(images)                        single frame      H(key)
    model(key, support)                           training          d = H(key) - H(support), moves
                                                                    H(support) to the key
    model.propagate(key, support, key_heatmaps)   labels spread     d = H(support) - H(key), moves
                                                                    key_heatmaps to the support
    model.aggregate(frames, window)               a video's poses   weighted sum of every frame's
                                                                    heatmaps moved to the key
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from posewarper.models.hrnet import BasicBlock, HRNet, check_hrnet, initialise
from pwkernels import MultiDilationDeformWarp

TAPS = 9  # of the 3 x 3 deformable convolutions


@dataclass(frozen=True)
class Window:
    """Frames that decide together about the key frame, and their weights.

    Attributes:
        deltas: frame numbers relative to the key frame, which is 0 and has to be there.
        weights: of each frame's warped heatmaps; not negative. The 2019 scores assume a sum of 1.
    """

    deltas: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if 0 not in self.deltas or len(set(self.deltas)) != len(self.deltas):
            raise ValueError(f"deltas: expected different ones, 0 among them, got {self.deltas}")
        if len(self.weights) != len(self.deltas):
            raise ValueError(
                f"weights: expected {len(self.deltas)}, one per delta, got {len(self.weights)}"
            )
        if not all(math.isfinite(w) and w >= 0 for w in self.weights) or sum(self.weights) == 0:
            raise ValueError(
                f"weights: expected finite numbers, not negative, not all 0, got {self.weights}"
            )

    def __len__(self) -> int:
        return len(self.deltas)

    @property
    def key_index(self) -> int:
        """Where in the window the key frame is."""
        return self.deltas.index(0)

    @classmethod
    def equal(cls, *deltas: int) -> Window:
        """All frames with the same weight, 1 in total."""
        return cls(deltas, (1 / len(deltas),) * len(deltas) if deltas else ())

    def used(self) -> Window:
        """The key frame and those whose weight is above 0, with the weights as they are."""
        kept = [(d, w) for d, w in zip(self.deltas, self.weights, strict=True) if d == 0 or w > 0]
        return Window(tuple(d for d, _ in kept), tuple(w for _, w in kept))

    def past(self) -> Window:
        """The key frame and those before it, with the weights scaled to 1: for live video."""
        kept = [(d, w) for d, w in zip(self.deltas, self.weights, strict=True) if d <= 0]
        total = sum(w for _, w in kept)
        if total == 0:
            raise ValueError(f"weights: all 0 for the past frames of {self}")
        return Window(tuple(d for d, _ in kept), tuple(w / total for _, w in kept))


_POSETRACK_2019 = Window((-2, -1, 0, 1, 2), (0.10, 0.25, 0.30, 0.25, 0.10))
_PAPER = Window.equal(-3, -2, -1, 0, 1, 2, 3)

#: The released model's window, the paper's, and both with past frames only.
WINDOWS = {
    "posetrack-2019": _POSETRACK_2019,
    "posetrack-2019-causal": _POSETRACK_2019.past(),
    "paper": _PAPER,
    "paper-causal": _PAPER.past(),
}


@dataclass(frozen=True)
class WarperConfig:
    """What a model is built from; the defaults are the released model's.

    Attributes:
        joints: J.
        width, modules, blocks, stem_width, stem_blocks, softmax_sigma: of the backbone; see
            ``HRNet``.
        head_width: channels of the residual blocks over the difference of heatmaps.
        head_blocks: how many blocks.
        dilations: one offset convolution and one deformable convolution each.
        window: what ``aggregate`` uses if it is not told.

    Raises:
        ValueError: a number that is not positive; names it.
    """

    joints: int = 17
    width: int = 48
    modules: tuple[int, ...] = (1, 4, 3)
    blocks: int = 4
    stem_width: int = 64
    stem_blocks: int = 4
    softmax_sigma: float | None = None
    head_width: int = 128
    head_blocks: int = 20
    dilations: tuple[int, ...] = (3, 6, 12, 18, 24)
    window: Window = _POSETRACK_2019

    def __post_init__(self) -> None:
        check_hrnet(*self._backbone)
        for name, number in (("head_width", self.head_width), ("head_blocks", self.head_blocks)):
            if number < 1:
                raise ValueError(f"{name}: expected at least 1, got {number!r}")
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"dilations: expected positive numbers, got {self.dilations}")

    @property
    def _backbone(self) -> tuple[Any, ...]:
        """The arguments of ``HRNet``."""
        return (
            self.joints, self.width, self.modules, self.blocks, self.stem_width, self.stem_blocks,
            self.softmax_sigma,
        )  # fmt: skip

    def hrnet(self) -> HRNet:
        """The backbone alone: the single-frame model of the first stage of training."""
        return HRNet(*self._backbone)


class PoseWarper(nn.Module):
    """The backbone and the warp head.

    At the start the offsets are zero and the deformable convolutions the identity, so that every
    frame's heatmaps stay as they are; training moves on from there (section 3 of the paper).

    Args:
        config: sizes; see ``WarperConfig``.
        backbone_batch_stats: what a frozen backbone's BatchNorm does in training mode. False: it
            normalises by its stored statistics and keeps them. True: as in 2019, where it
            normalised by those of the batch (both frames of all pairs) and kept updating them.
        backend: of the warp; see ``pwkernels.multi_dilation_deform_warp``.

    Attributes:
        backbone: ``HRNet``.
        offset_feats: residual blocks, ``[N, J, h, w] -> [N, head_width, h, w]``.
        offsets: D convolutions ``head_width -> 2 * 9 * J``, each with its dilation.
        warp: the fused warp with ``weight [D, J, J, 3, 3]``.
    """

    def __init__(
        self,
        config: WarperConfig | None = None,
        *,
        backbone_batch_stats: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        config = WarperConfig() if config is None else config
        self.config = config
        self.backbone_batch_stats = backbone_batch_stats
        self.backbone_frozen = False
        width, joints = config.head_width, config.joints
        self.backbone = config.hrnet()
        self.offset_feats: nn.Module = nn.Sequential(
            BasicBlock(joints, width),
            *(BasicBlock(width, width) for _ in range(config.head_blocks - 1)),
        )
        self.offsets = nn.ModuleList(
            nn.Conv2d(width, 2 * TAPS * joints, 3, padding=dilation, dilation=dilation, bias=False)
            for dilation in config.dilations
        )
        self.warp = MultiDilationDeformWarp(joints, dilations=config.dilations, backend=backend)
        self.reset_head()

    def reset_head(self) -> None:
        """Makes the warp the identity: N(0, 0.001), offsets zero, kernels identity."""
        initialise(self.offset_feats)
        for convolution in self.offsets:
            assert isinstance(convolution, nn.Conv2d)
            nn.init.zeros_(convolution.weight)
        self.warp.reset_parameters()

    def freeze_backbone(self, frozen: bool = True) -> PoseWarper:
        """The backbone gets no gradient (and runs without recording), or gets one again."""
        self.backbone.requires_grad_(not frozen)
        self.backbone_frozen = frozen
        return self.train(self.training)

    def train(self, mode: bool = True) -> PoseWarper:
        """As ever, but for the BatchNorm of a frozen backbone: see ``backbone_batch_stats``."""
        super().train(mode)
        if self.backbone_frozen and not self.backbone_batch_stats:
            self.backbone.eval()
        return self

    # The parts. ``propagate``, ``aggregate`` and ``forward`` below are compositions of them, and so
    # are faster schedules: heatmaps of a frame serve every window that the frame is in.

    def heatmaps(self, images: Tensor) -> Tensor:
        """H, a single frame at a time.

        Args:
            images: ``[B, 3, H, W]``, as ``HRNet.forward`` wants them.

        Returns:
            ``[B, J, h, w]``; with a frozen backbone without gradient, also to the images.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.backbone_frozen):
            return self.backbone(images)

    def offset_fields(self, difference: Tensor) -> list[Tensor]:
        """Displacements in heatmap pixels.

        Args:
            difference: H(target) - H(source), ``[N, J, h, w]``.

        Returns:
            One tensor ``[N, 2 * 9 * J, h, w]`` per dilation: (dy, dx) per tap, taps row-major,
            joint-major.
        """
        features = self.offset_feats(difference)  # [N, head_width, h, w]
        fields = [convolution(features) for convolution in self.offsets]
        if not torch.is_grad_enabled():
            return fields
        # Planes, as the warp reads them: once, where its backward would reorder them again.
        return [field.contiguous() for field in fields]

    def warp_heatmaps(self, target: Tensor, source: Tensor, moved: Tensor | None = None) -> Tensor:
        """Moves heatmaps as the pose moved from the source to the target frame.

        Args:
            target: H(target), ``[N, J, h, w]``.
            source: H(source), same shape.
            moved: what is moved, in the source frame; without it H(source) itself.

        Returns:
            Heatmaps in the target frame, ``[N, J, h, w]``.
        """
        return self.warp_by(target - source, source if moved is None else moved)

    def warp_by(
        self, difference: Tensor, moved: Tensor, frame_weights: Tensor | None = None
    ) -> Tensor:
        """The head as a whole: offset fields of a difference, and the warp by them.

        Args:
            difference: H(target) - H(source), ``[N, J, h, w]``.
            moved: heatmaps in the source frame, same shape.
            frame_weights: ``[T]``; then N = B * T, and each window's frames are summed with them.

        Returns:
            ``[N, J, h, w]``, with ``frame_weights`` ``[B, J, h, w]``.
        """
        offsets = self.offset_fields(difference)  # D x [N, 2 * 9 * J, h, w]
        return self.warp(moved, offsets, frame_weights=frame_weights)

    def key_offset_fields(self, heatmaps: Tensor) -> list[Tensor]:
        """Offset fields of a key frame, whose difference is zero: in eval mode they depend on the
        weights and the size alone.

        Args:
            heatmaps: ``[..., h, w]``, for size, dtype and device.

        Returns:
            D x ``[1, 2 * 9 * J, h, w]``.
        """
        zero = heatmaps.new_zeros(1, self.config.joints, *heatmaps.shape[-2:])
        return self.offset_fields(zero)

    def aggregate_heatmaps(
        self,
        heatmaps: Tensor,
        window: Window | None = None,
        key_offsets: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Every frame of a window moved to the key frame, and their weighted sum.

        The key frame takes part in the same way, with a difference of zero (what 2019 does): it is
        not passed on as it is. Frames of weight 0 are not looked at.

        Args:
            heatmaps: H of the window's frames in the order of ``window.deltas``,
                ``[B, T, J, h, w]``.
            window: deltas and weights; without it the configuration's.
            key_offsets: in eval mode, ``key_offset_fields`` of this size, where the caller has
                kept them.

        Returns:
            Heatmaps in the key frame, ``[B, J, h, w]``.

        Raises:
            ValueError: not as many frames as the window has.
        """
        window = self.config.window if window is None else window
        if heatmaps.ndim != 5 or heatmaps.shape[1] != len(window):
            raise ValueError(
                f"heatmaps: expected [B, {len(window)}, J, h, w] for the deltas {window.deltas}, "
                f"got {tuple(heatmaps.shape)}"
            )
        key = heatmaps[:, window.key_index]  # [B, J, h, w]
        if self.training:  # BatchNorm of the head sees all frames of the batch, as it did in 2019
            return self._weighted_sum(key, heatmaps, range(len(window)), window)
        # The key frames' offset fields are the same for all windows: they need no batch.
        own_weight = window.weights[window.key_index]
        others = [
            i for i, weight in enumerate(window.weights) if weight > 0 and i != window.key_index
        ]
        total = self._weighted_sum(key, heatmaps, others, window) if others else None
        if total is not None and own_weight == 0:
            return total
        fields = self.key_offset_fields(key) if key_offsets is None else key_offsets
        spread = [field.expand(key.shape[0], -1, -1, -1) for field in fields]
        own = self.warp(key, spread, frame_weights=_weights_of(key, [own_weight]))
        return own if total is None else total + own

    def _weighted_sum(
        self, key: Tensor, heatmaps: Tensor, frames: Sequence[int], window: Window
    ) -> Tensor:
        """Of some frames of a window, each moved to the key frame: ``[B, J, h, w]``."""
        sources = torch.stack([heatmaps[:, i] for i in frames], 1)  # [B, S, J, h, w]
        differences = key[:, None] - sources
        weights = _weights_of(heatmaps, [window.weights[i] for i in frames])
        return self.warp_by(differences.flatten(0, 1), sources.flatten(0, 1), weights)

    # The uses.

    def forward(self, key: Tensor, support: Tensor) -> Tensor:
        """The pose in the key frame from the support frame: what training minimises the error of.

        Args:
            key: crops of the key frames, ``[B, 3, H, W]``.
            support: the same boxes in other frames, ``[B, 3, H, W]``.

        Returns:
            H(support) moved to the key frames, ``[B, J, h, w]``.

        Raises:
            ValueError: the shapes differ.
        """
        key_heatmaps, support_heatmaps = self._pair_heatmaps(key, support)
        return self.warp_heatmaps(key_heatmaps, support_heatmaps)

    def propagate(self, key: Tensor, support: Tensor, key_heatmaps: Tensor | None = None) -> Tensor:
        """The pose in the support frame from the key frame: how labels spread.

        Args:
            key: crops of the labelled frames, ``[B, 3, H, W]``.
            support: the same boxes in other frames, ``[B, 3, H, W]``.
            key_heatmaps: targets painted from the labels, ``[B, J, h, w]``; without them the
                backbone's own heatmaps of the key frames.

        Returns:
            The heatmaps moved to the support frames, ``[B, J, h, w]``.

        Raises:
            ValueError: the shapes do not fit.
        """
        predicted, support_heatmaps = self._pair_heatmaps(key, support)
        if key_heatmaps is not None and key_heatmaps.shape != predicted.shape:
            raise ValueError(
                f"key_heatmaps: expected {tuple(predicted.shape)}, got {tuple(key_heatmaps.shape)}"
            )
        return self.warp_heatmaps(support_heatmaps, predicted, key_heatmaps)

    def aggregate(self, frames: Tensor, window: Window | None = None) -> Tensor:
        """The pose in the key frame, decided by all frames of a window.

        Args:
            frames: crops of one box in the window's frames, in the order of ``window.deltas``,
                ``[B, T, 3, H, W]``.
            window: deltas and weights; without it the configuration's.

        Returns:
            Heatmaps in the key frame, ``[B, J, h, w]``.

        Raises:
            ValueError: not as many frames as the window has.
        """
        window = self.config.window if window is None else window
        if frames.ndim != 5 or frames.shape[1] != len(window):
            raise ValueError(
                f"frames: expected [B, {len(window)}, 3, H, W] for the deltas {window.deltas}, "
                f"got {tuple(frames.shape)}"
            )
        heatmaps = self.heatmaps(frames.flatten(0, 1))  # [B * T, J, h, w]
        return self.aggregate_heatmaps(heatmaps.unflatten(0, frames.shape[:2]), window)

    def _pair_heatmaps(self, key: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
        """H(key), H(support): one pass of both, as batch statistics depend on what is together."""
        if key.shape != support.shape:
            raise ValueError(
                f"support: expected the key frames' shape {tuple(key.shape)}, "
                f"got {tuple(support.shape)}"
            )
        heatmaps = self.heatmaps(torch.cat([key, support]))  # [2 B, J, h, w]
        pairs = key.shape[0]  # len() would make a captured graph have one batch size
        return heatmaps[:pairs], heatmaps[pairs:]


def _weights_of(heatmaps: Tensor, weights: Sequence[float]) -> Tensor:
    """On the heatmaps' device; never rounded to less than float32."""
    dtype = torch.promote_types(heatmaps.dtype, torch.float32)
    return torch.tensor(weights, dtype=dtype, device=heatmaps.device)
