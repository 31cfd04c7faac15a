"""A model on a device: crops in, joints in image pixels out.

B crops, T frames of a window, J joints, h = H / 4 and w = W / 4.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy.typing as npt
import torch
from torch import Tensor

from posewarper.data.crops import crop_matrices, invert_matrices, normalise, transform_points
from posewarper.data.tables import Floats
from posewarper.heatmaps import REFINEMENTS, decode, merge_flipped
from posewarper.models import HEATMAP_STRIDE, PoseModel, PoseWarper, Window, channels_last
from posewarper.models.devices import PRECISIONS, Precision, autocast, choose_device


class PosePredictor:
    """The parts of all predictions; people and frames are the business of the modules beside this.

    Args:
        model: the model; its network is moved to the device.
        device: "auto", "cpu", "cuda", "cuda:1".
        precision: of the convolutions; heatmaps are float32 in any case.
        flip_test: mean of the heatmaps of a crop and of its mirror image.
        shift_flipped: the mirrored heatmaps one pixel to the right; see ``merge_flipped``.
        refinement: how maxima are decoded; by default as the model was made for.
        batch_size: crops per pass.

    Raises:
        ValueError: an option is not known, or there is no such device.
    """

    def __init__(
        self,
        model: PoseModel,
        *,
        device: str = "auto",
        precision: Precision = "fp32",
        flip_test: bool = False,
        shift_flipped: bool = False,
        refinement: str | None = None,
        batch_size: int = 64,
    ):
        if precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {list(PRECISIONS)}, got {precision!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if refinement is not None and refinement not in REFINEMENTS:
            raise ValueError(f"refinement: expected one of {REFINEMENTS}, got {refinement!r}")
        self.model = model
        self.device = choose_device(device)
        self.precision: Precision = precision
        self.flip_test, self.shift_flipped = flip_test, shift_flipped
        self.refinement = model.refinement if refinement is None else refinement
        self.batch_size = batch_size
        self.network = model.network.eval().to(self.device)
        channels_last(self.network)

    @property
    def warper(self) -> PoseWarper:
        """The network, which has to have a warp head.

        Raises:
            ValueError: it has none.
        """
        if not isinstance(self.network, PoseWarper):
            raise ValueError(
                "model: a single-frame model without a warp head: it predicts frame by frame only"
            )
        return self.network

    def heatmaps(self, crops: Tensor) -> Tensor:
        """H of each crop.

        Args:
            crops: ``[B, 3, H, W]`` RGB, uint8 or normalised float.

        Returns:
            ``[B, J, h, w]`` float32 on the device.
        """
        backbone = self.model.backbone

        def run(part: Tensor) -> Tensor:
            images = part.to(self.device, non_blocking=True)
            if images.dtype == torch.uint8:
                images = normalise(images)
            images = images.contiguous(memory_format=torch.channels_last)
            heatmaps = backbone(images).float()
            if self.flip_test:
                flipped = backbone(images.flip(-1)).float()
                mirrored = self.model.skeleton.mirrored
                heatmaps = merge_flipped(heatmaps, flipped, mirrored, self.shift_flipped)
            return heatmaps

        return self._in_batches(run, crops)

    def warp(self, target: Tensor, source: Tensor, moved: Tensor | None = None) -> Tensor:
        """Moves heatmaps from source to target frames; see ``PoseWarper.warp_heatmaps``.

        Args:
            target, source: H of both frames, ``[B, J, h, w]``.
            moved: what is moved; without it ``source``.

        Returns:
            ``[B, J, h, w]`` float32 on the device.
        """
        moved = source if moved is None else moved
        return self._in_batches(
            lambda t, s, m: self.warper.warp_heatmaps(t, s, m).float(), target, source, moved
        )

    def aggregate(self, heatmaps: Tensor, window: Window | None = None) -> Tensor:
        """Windows of heatmaps brought together; see ``PoseWarper.aggregate_heatmaps``.

        Args:
            heatmaps: H of the window's frames in the order of its deltas, ``[B, T, J, h, w]``.
            window: by default the model's.

        Returns:
            ``[B, J, h, w]`` float32 on the device.
        """
        step = max(self.batch_size // heatmaps.shape[1], 1)
        return self._in_batches(
            lambda part: self.warper.aggregate_heatmaps(part, window).float(), heatmaps, step=step
        )

    def decode(
        self,
        heatmaps: Tensor,
        center: npt.ArrayLike,
        scale: npt.ArrayLike,
        rotation: npt.ArrayLike = 0.0,
    ) -> tuple[Floats, Floats]:
        """Joints in pixels of the image.

        Args:
            heatmaps: ``[B, J, h, w]``.
            center, scale: ``[B, 2]`` each, of the crops; see ``data.crops``.
            rotation: of the crops, ``[B]`` or one for all, degrees.

        Returns:
            x, y ``[B, J, 2]`` and the heights of the maxima ``[B, J]``.
        """
        places, scores = decode(heatmaps, self.refinement, self.model.sigma)
        back = invert_matrices(crop_matrices(center, scale, self.model.crop_wh, rotation))
        in_crop = places.double().cpu().numpy() * HEATMAP_STRIDE
        return transform_points(in_crop, back), scores.double().cpu().numpy()

    @torch.inference_mode()
    def _in_batches(
        self, run: Callable[..., Tensor], *inputs: Tensor, step: int | None = None
    ) -> Tensor:
        """``run`` on parts of the inputs, on the device, in the precision asked for."""
        step = step or self.batch_size
        with autocast(self.device, self.precision):
            parts = [
                run(*(tensor[i : i + step].to(self.device) for tensor in inputs))
                for i in range(0, max(len(inputs[0]), 1), step)
            ]
        return torch.cat(parts)
