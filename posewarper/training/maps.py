"""The part of a network that learns, as one module: what is compiled and shared by processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from posewarper.data.crops import normalise
from posewarper.models import HRNet, PoseWarper


def learned_part(network: HRNet | PoseWarper, fixed: bool, channels_last: bool) -> nn.Module:
    """What gives the loss its logits or heatmaps.

    Args:
        network: in use.
        fixed: of a PoseWarper whose backbone is: its head alone, from heatmaps of pairs.
        channels_last: the layout of crops.
    """
    if fixed and isinstance(network, PoseWarper):
        return PairsToMaps(network)
    return CropsToMaps(network, channels_last)


class PairsToMaps(nn.Module):
    """From heatmaps of both frames to warped ones.

    Args:
        network: in use.
    """

    def __init__(self, network: PoseWarper):
        super().__init__()
        self.network = network

    def forward(self, heatmaps: Tensor) -> Tensor:
        """Those of key and support frames, ``[B, 2, J, h, w] -> [B, J, h, w]``."""
        key, support = heatmaps.unbind(1)
        return self.network.warp_by(key - support, support.contiguous())


class CropsToMaps(nn.Module):
    """From the crops of a batch to what the loss compares: logits, or warped heatmaps.

    Args:
        network: in use.
        channels_last: the layout of what goes into it.
    """

    def __init__(self, network: HRNet | PoseWarper, channels_last: bool):
        super().__init__()
        self.network = network
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, crops: Tensor) -> Tensor:
        """``[B, F, 3, H, W]`` uint8 ``-> [B, J, h, w]``."""
        # Bytes are reordered, not the four times larger numbers.
        images = [
            normalise(frame.contiguous(memory_format=self.layout)) for frame in crops.unbind(1)
        ]
        if isinstance(self.network, PoseWarper):
            return self.network(*images)
        return self.network.logits(*images)
