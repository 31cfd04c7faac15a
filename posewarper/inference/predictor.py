"""A model on a device: crops in, joints in image pixels out.

B crops, T frames of a window, J joints, h = H / 4 and w = W / 4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy.typing as npt
import torch
from torch import Tensor, nn

from posewarper.data.crops import crop_matrices, invert_matrices, normalise, transform_points
from posewarper.data.tables import Floats
from posewarper.heatmaps import REFINEMENTS, decode, merge_flipped, softmax_scores
from posewarper.models import (
    HEATMAP_STRIDE,
    FoldedWarper,
    PoseModel,
    PoseSpec,
    Window,
    folded,
)
from posewarper.models.devices import (
    PRECISIONS,
    Precision,
    autocast,
    choose_device,
    usable_precision,
)
from posewarper.models.folding import Compiled


class Predictor(ABC):
    """The parts of a prediction, whatever runs the network.

    People and frames are the business of the modules beside this.

    Args:
        model: what crops and joints mean.
        device: where heatmaps are.
        flip_test, shift_flipped, refinement, batch_size: see ``PosePredictor``.

    Raises:
        ValueError: an option is not known, or does not go with another.
    """

    def __init__(
        self,
        model: PoseSpec,
        device: torch.device,
        *,
        flip_test: bool,
        shift_flipped: bool,
        refinement: str | None,
        batch_size: int,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if refinement is not None and refinement not in REFINEMENTS:
            raise ValueError(f"refinement: expected one of {REFINEMENTS}, got {refinement!r}")
        if shift_flipped and not flip_test:
            raise ValueError("shift_flipped: goes with flip_test, whose mirrored heatmaps it moves")
        if flip_test and (why := model.skeleton.why_not_mirrored):
            raise ValueError(f"flip_test: the model's skeleton tells {why}")
        self.model = model
        self.device = device
        self.flip_test, self.shift_flipped = flip_test, shift_flipped
        self.refinement = model.refinement if refinement is None else refinement
        self.batch_size = batch_size

    @abstractmethod
    def heatmaps(self, crops: Tensor) -> Tensor:
        """H of each crop.

        Args:
            crops: ``[B, 3, H, W]`` RGB, uint8 or normalised float.

        Returns:
            ``[B, J, h, w]`` float32 on the device.
        """

    @abstractmethod
    def aggregate(self, heatmaps: Tensor, window: Window | None = None) -> Tensor:
        """Windows of heatmaps brought together; see ``PoseWarper.aggregate_heatmaps``.

        Args:
            heatmaps: H of the window's frames in the order of its deltas, ``[B, T, J, h, w]``.
            window: by default the model's.

        Returns:
            ``[B, J, h, w]`` float32 on the device.
        """

    def decode(
        self,
        heatmaps: Tensor,
        center: npt.ArrayLike,
        scale: npt.ArrayLike,
        rotation: npt.ArrayLike = 0.0,
        own: Tensor | None = None,
    ) -> tuple[Floats, Floats]:
        """Joints in pixels of the image.

        Args:
            heatmaps: ``[B, J, h, w]``.
            center, scale: ``[B, 2]`` each, of the crops; see ``data.crops``.
            rotation: of the crops, ``[B]`` or one for all, degrees.
            own: H of the frames themselves ``[B, J, h, w]``, where ``heatmaps`` are means over
                several frames.

        Returns:
            x, y ``[B, J, 2]`` and the scores ``[B, J]``: the heights of the maxima, of a softmax
            as ``heatmaps.softmax_scores``.
        """
        places, scores = decode(heatmaps, self.refinement, self.model.sigma)
        if self.model.softmax:
            scores = softmax_scores(scores, None if own is None else own.amax((-2, -1)))
        back = invert_matrices(crop_matrices(center, scale, self.model.crop_wh, rotation))
        in_crop = places.double().cpu().numpy() * HEATMAP_STRIDE
        return transform_points(in_crop, back), scores.double().cpu().numpy()

    def _merged(self, heatmaps: Tensor, flipped: Tensor) -> Tensor:
        """Mean of the heatmaps of crops and of their mirror images."""
        return merge_flipped(heatmaps, flipped, self.model.skeleton.mirrored, self.shift_flipped)

    @torch.inference_mode()
    def _in_batches(
        self, run: Callable[..., Tensor], *inputs: Tensor, step: int | None = None
    ) -> Tensor:
        """``run`` on parts of the inputs, on the device."""
        parts = self._parts(inputs, step or self.batch_size)
        return torch.cat([run(*part) for part in parts])

    def _parts(self, inputs: Sequence[Tensor], step: int) -> Iterator[list[Tensor]]:
        """So many rows of the inputs at a time, on the device; at least one part."""
        for part in _split(inputs, step):
            yield [tensor.to(self.device) for tensor in part]


class PosePredictor(Predictor):
    """A model whose network runs in PyTorch.

    Args:
        model: the model; what runs is a copy of its network, see ``models.folded``.
        device: "auto", "cpu", "cuda", "cuda:1".
        precision: of the convolutions; heatmaps are float32 in any case. "fp32", with a warning, on
            a processor that takes far longer in another one.
        flip_test: mean of the heatmaps of a crop and of its mirror image.
        shift_flipped: the mirrored heatmaps one pixel to the right; see ``merge_flipped``.
        refinement: how maxima are decoded; by default as the model was made for.
        batch_size: crops per pass.
        compile: the backbone and the difference network go through ``torch.compile``, which takes
            up to minutes at first; see ``models.folding.Compiled``.

    Raises:
        ValueError: an option is not known, or there is no such device.
    """

    model: PoseModel

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
        compile: bool = False,
    ):
        if precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {list(PRECISIONS)}, got {precision!r}")
        super().__init__(
            model,
            choose_device(device),
            flip_test=flip_test,
            shift_flipped=shift_flipped,
            refinement=refinement,
            batch_size=batch_size,
        )
        self.precision: Precision = usable_precision(self.device, precision)
        dtype = None if self.precision == "fp32" else PRECISIONS[self.precision]
        network = folded(model.network, dtype).to(self.device)
        self.network = network
        self._backbone: nn.Module = network
        if isinstance(network, FoldedWarper):
            self._backbone = network.backbone
        if compile:
            self._backbone = Compiled(self._backbone, self.device)
            if isinstance(network, FoldedWarper):
                network.offset_feats = Compiled(network.offset_feats, self.device)

    @property
    def warper(self) -> FoldedWarper:
        """The network, which has to have a warp head.

        Raises:
            ValueError: it has none.
        """
        if not isinstance(self.network, FoldedWarper):
            raise ValueError(
                "model: a single-frame model without a warp head: it predicts frame by frame only"
            )
        return self.network

    def heatmaps(self, crops: Tensor) -> Tensor:
        def run(part: Tensor) -> Tensor:
            images = part.contiguous(memory_format=torch.channels_last)  # bytes are moved faster
            if images.dtype == torch.uint8:
                images = normalise(images)
            heatmaps = self._backbone(images).float()
            if self.flip_test:
                heatmaps = self._merged(heatmaps, self._backbone(images.flip(-1)).float())
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
        step = max(self.batch_size // heatmaps.shape[1], 1)
        return self._in_batches(
            lambda part: self.warper.aggregate_heatmaps(part, window).float(), heatmaps, step=step
        )

    def _in_batches(
        self, run: Callable[..., Tensor], *inputs: Tensor, step: int | None = None
    ) -> Tensor:
        with autocast(self.device, self.precision):
            return super()._in_batches(run, *inputs, step=step)

    def _parts(self, inputs: Sequence[Tensor], step: int) -> Iterator[list[Tensor]]:
        if self.device.type != "cuda" or all(tensor.is_cuda for tensor in inputs):
            yield from super()._parts(inputs, step)
            return
        # Each part is copied while the GPU computes with the one before.
        beside, main = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        ahead: list[Tensor] = []
        for part in _split(inputs, step):
            with torch.cuda.stream(beside):
                copied = [t if t.is_cuda else t.pin_memory() for t in part]
                copied = [t.to(self.device, non_blocking=True) for t in copied]
            if ahead:
                yield ahead
            main.wait_stream(beside)
            for tensor in copied:
                tensor.record_stream(main)
            ahead = copied
        yield ahead


def _split(inputs: Sequence[Tensor], step: int) -> Iterator[list[Tensor]]:
    """Parts of so many rows, at least one part."""
    for i in range(0, max(len(inputs[0]), 1), step):
        yield [tensor[i : i + step] for tensor in inputs]
