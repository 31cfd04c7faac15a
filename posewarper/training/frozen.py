"""Stage warp with a backbone that does not learn: its heatmaps are data, not part of the step.

The backbone runs as a folded copy, without gradients, both frames of all pairs together. What
learns is given heatmaps. Crops that come again in every epoch need no second pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from posewarper.data.crops import normalise
from posewarper.models import HRNet, folded
from posewarper.models.devices import PRECISIONS, autocast
from posewarper.training.config import LoopConfig
from posewarper.training.loading import Batch, Seen

# Unknown crops go through the backbone so many at a time: the sums of a convolution may depend on
# the size of its batch, and a run that goes on, with an empty cache, is to be the same bit by bit.
_CHUNK = 16


class FrozenBackbone:
    """Heatmaps of pairs.

    Args:
        backbone: it is copied: later changes do not matter.
        device: where it is.
        loop: precision, layout, and whether to compile.
    """

    def __init__(self, backbone: HRNet, device: torch.device, loop: LoopConfig):
        self.device, self.precision = device, loop.precision
        dtype = PRECISIONS[loop.precision]
        copy: nn.Module = folded(backbone, None if dtype == torch.float32 else dtype)
        self._layout = torch.channels_last if loop.channels_last else torch.contiguous_format
        copy.to(memory_format=self._layout)  # type: ignore[call-overload]
        self._copy = torch.compile(copy) if loop.compile else copy

    @torch.no_grad()
    def heatmaps(self, crops: Tensor) -> Tensor:
        """``[N, 3, H, W]`` uint8 ``-> [N, J, h, w]`` float32."""
        # Bytes are reordered, not the four times larger numbers.
        images = normalise(crops.contiguous(memory_format=self._layout))
        with autocast(self.device, self.precision):
            return self._copy(images).float()

    def pairs(self, batch: Batch, seen: Seen | None = None) -> Tensor:
        """``[B, 2, J, h, w]`` of a batch on the device.

        Args:
            batch: crops of all samples, or of those that ``seen`` had not when it was made.
            seen: heatmaps of crops that come again; what is new is added.
        """
        if seen is None:
            count = len(batch.crops)
            maps = self.heatmaps(batch.crops.transpose(0, 1).flatten(0, 1))
            return maps.unflatten(0, (2, count)).transpose(0, 1)
        own = batch.places
        rows = itertools.compress(range(len(own)), batch.with_crops)
        new = {
            place: (crop, frame)
            for crop, row in enumerate(rows)
            for frame, place in enumerate(own[row])
            if place not in seen
        }
        found = dict(zip(new, self._in_chunks(batch.crops, list(new.values())), strict=True))
        for place, maps in found.items():
            seen.add(place, maps)
        known = [found[p] if p in found else seen[p] for pair in own for p in pair]
        if not known:
            return self.pairs(batch)
        return torch.stack(known).to(self.device).unflatten(0, (len(own), 2))

    def _in_chunks(self, crops: Tensor, wanted: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Heatmaps ``[J, h, w]`` in main memory of some of the crops ``[B, 2, 3, H, W]``."""
        maps: list[Tensor] = []
        for start in range(0, len(wanted), _CHUNK):
            part = wanted[start : start + _CHUNK]
            images = crops.new_zeros((_CHUNK, *crops.shape[2:]))
            images[: len(part)] = crops.flatten(0, 1)[
                [2 * sample + frame for sample, frame in part]
            ]
            # Clones, or one that is kept would keep its whole chunk.
            maps += [one.clone() for one in self.heatmaps(images)[: len(part)].cpu().contiguous()]
        return maps
