"""The sizes of the system that are measured: networks, crops, videos; and their random weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from posewarper.models import PoseModel, PoseWarper, WarperConfig


@dataclass(frozen=True)
class Size:
    """A network and how much of it is measured at a time.

    Attributes:
        config: of the network.
        crop_wh: width and height of crops.
        windows: key frames per call, one after the other in time.
        pairs: samples per training step of stage warp.
        singles: of stage pose.
    """

    config: WarperConfig
    crop_wh: tuple[int, int]
    windows: int
    pairs: int
    singles: int

    @property
    def crop_hw(self) -> tuple[int, int]:
        """Height and width of crops."""
        return self.crop_wh[1], self.crop_wh[0]


_TINY = WarperConfig(
    width=8, modules=(1, 1), blocks=1, stem_width=16, stem_blocks=1, head_width=16, head_blocks=2,
    dilations=(1, 2, 4),
)  # fmt: skip

#: "small" is what the recipes small-pose and small-warp train, "w48-384x288" the released model.
SIZES = {
    "smoke": Size(_TINY, (64, 96), windows=2, pairs=2, singles=2),
    "small": Size(
        replace(_TINY, width=16, head_width=32, head_blocks=4, dilations=(1, 3, 6)),
        (96, 128), windows=8, pairs=32, singles=32,
    ),
    "w32-256x192": Size(WarperConfig(width=32), (192, 256), windows=8, pairs=4, singles=8),
    "w48-384x288": Size(WarperConfig(), (288, 384), windows=16, pairs=16, singles=32),
}  # fmt: skip
ON_CPU, ON_GPU = ("small", "w32-256x192"), ("small", "w32-256x192", "w48-384x288")


def make_model(size: Size, seed: int = 0) -> PoseModel:
    """A model with random weights under which every part matters, in eval mode.

    Activations keep their scale through all layers, as in a trained network: running statistics
    are those of random crops. Heatmaps are of about 1, offsets of about a pixel, and no kernel of
    the warp is the identity.
    """
    config, random = size.config, torch.Generator().manual_seed(seed)
    network = PoseWarper(config)
    with torch.no_grad():
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d):
                fan_in = layer.weight[0].numel()
                layer.weight.normal_(0, math.sqrt(2 / fan_in), generator=random)
            elif isinstance(layer, nn.BatchNorm2d):
                ends_block = name.endswith((".bn2", ".bn3"))  # the shortcut is the larger part
                low, high = (0.1, 0.3) if ends_block else (0.4, 1.0)
                layer.weight.uniform_(low, high, generator=random)
                layer.bias.normal_(0, 0.1, generator=random)
                layer.momentum = None  # statistics of all that is seen
        joints = config.joints
        network.warp.weight.normal_(0, 0.5 / math.sqrt(9 * joints), generator=random)
        network.warp.weight[..., 1, 1] += torch.eye(joints)
        network.train()
        heatmaps = network.backbone(normalised(crop_sequence(size, 2, seed)))
        spread = heatmaps.std()
        _scale(network.backbone.final_layer, spread)
        difference = (heatmaps[:1] - heatmaps[1:]) / spread
        for offsets, one in zip(network.offset_fields(difference), network.offsets, strict=True):
            _scale(one, offsets.std())
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1
    return PoseModel(network.eval(), config, crop_wh=size.crop_wh)


def _scale(layer: nn.Module, spread: Tensor) -> None:
    for parameter in layer.parameters():
        parameter /= spread


def crop_sequence(size: Size, frames: int, seed: int = 0) -> Tensor:
    """Crops of one held box in successive frames, ``[F, 3, H, W]`` uint8: blobs that move."""
    height, width = size.crop_hw
    random = torch.Generator().manual_seed(seed + 1)
    coarse = torch.rand(1, 3, height // 8, width // 8 + frames, generator=random)
    scene = nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")[0]
    parts = [scene[:, :, 3 * frame : 3 * frame + width] for frame in range(frames)]
    noise = 0.05 * torch.randn((frames, 3, height, width), generator=random)
    return ((torch.stack(parts) + noise).clamp(0, 1) * 255).to(torch.uint8)


def normalised(crops: Tensor) -> Tensor:
    """Crops as networks want them: mean and deviation of ImageNet."""
    mean = torch.tensor([0.485, 0.456, 0.406], device=crops.device)[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225], device=crops.device)[:, None, None]
    return (crops.float() / 255 - mean) / deviation
