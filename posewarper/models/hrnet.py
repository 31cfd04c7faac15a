"""HRNet for heatmaps (arXiv 1902.09212): the backbone of PoseWarper, with its 1 x 1 head.

The names of the modules are those of the published pose checkpoints, so that ``state_dict`` keys
are equal to theirs: conv1, bn1, conv2, bn2, layer1, transition1.., stage2.., final_layer.

    images [B, 3, H, W]
      stem       two 3 x 3 convolutions of stride 2 and bottleneck blocks     [B, 4 S, H/4, W/4]
      stage2..   S2, S3, S4: modules of 2, 3, 4 parallel branches; branch b has width 2^b C and
                 stride 4 * 2^b; each module ends with an exchange between all its branches
      head       1 x 1 convolution of the finest branch                       [B, J, H/4, W/4]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: Arguments of ``HRNet`` by name. w48 and w32 are the published ones, the others are for CPUs.
HRNET_SIZES: dict[str, dict[str, Any]] = {
    "w48": {"width": 48, "modules": (1, 4, 3), "blocks": 4, "stem_width": 64, "stem_blocks": 4},
    "w32": {"width": 32, "modules": (1, 4, 3), "blocks": 4, "stem_width": 64, "stem_blocks": 4},
    "w16": {"width": 16, "modules": (1, 1, 1), "blocks": 2, "stem_width": 32, "stem_blocks": 2},
    "w8": {"width": 8, "modules": (1, 1), "blocks": 1, "stem_width": 16, "stem_blocks": 1},
}

HEATMAP_STRIDE = 4  # image pixels per heatmap pixel


def conv_bn(
    in_width: int, out_width: int, kernel: int, stride: int = 1, relu: bool = True
) -> nn.Sequential:
    """Convolution of "same" padding without bias, BatchNorm, and optionally ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_width, out_width, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_width),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a residual: ``[B, in, h, w] -> [B, out, h, w]``.

    The shortcut is a 1 x 1 convolution with BatchNorm where the widths differ.
    """

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, out_width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_width)
        self.downsample = (
            None if in_width == out_width else conv_bn(in_width, out_width, 1, relu=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions and a residual: ``[B, in, h, w] -> [B, 4 inner, h, w]``."""

    def __init__(self, in_width: int, inner_width: int) -> None:
        super().__init__()
        out_width = 4 * inner_width
        self.conv1 = nn.Conv2d(in_width, inner_width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner_width)
        self.conv2 = nn.Conv2d(inner_width, inner_width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner_width)
        self.conv3 = nn.Conv2d(inner_width, out_width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            None if in_width == out_width else conv_bn(in_width, out_width, 1, relu=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)


class ExchangeModule(nn.Module):
    """Parallel branches of basic blocks, then every output is a sum over all branches.

    Args:
        widths: channels of each branch, finest first; each is half as high and wide as the former.
        blocks: basic blocks per branch.
        outputs: how many branches go on; the last module of the network needs the finest only.
    """

    def __init__(self, widths: Sequence[int], blocks: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width) for _ in range(blocks))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(exchange_path(widths, source, target) for source in range(len(widths)))
            for target in range(outputs)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        outputs = []
        for paths in self.fuse_layers:
            assert isinstance(paths, nn.ModuleList)
            total = paths[0](maps[0])
            for path, x in zip(paths[1:], maps[1:], strict=True):
                total = total + path(x)
            outputs.append(self.relu(total))
        return outputs


def exchange_path(widths: Sequence[int], source: int, target: int) -> nn.Module:
    """From one branch to the size and width of another."""
    if source == target:
        return nn.Identity()
    if source > target:  # up: 1 x 1 convolution, then nearest
        return nn.Sequential(
            *conv_bn(widths[source], widths[target], 1, relu=False),
            nn.Upsample(scale_factor=2 ** (source - target), mode="nearest"),
        )
    steps = target - source  # down: a 3 x 3 convolution of stride 2 for each halving
    return nn.Sequential(
        *(conv_bn(widths[source], widths[source], 3, 2) for _ in range(steps - 1)),
        conv_bn(widths[source], widths[target], 3, 2, relu=False),
    )


class HRNet(nn.Module):
    """Heatmaps of one person's joints from a crop.

    Args:
        joints: J, channels of the result.
        width: C, channels of the finest branch; branch b has ``2^b`` times as many.
        modules: exchange modules of stage 2, 3, ..; stage s has s branches.
        blocks: basic blocks per branch and module.
        stem_width: S, channels of the stem; the bottleneck blocks give 4 S.
        stem_blocks: bottleneck blocks.
        softmax_sigma: None: the last layer's outputs are the heatmaps, as published. A standard
            deviation in heatmap pixels: heatmaps are a softmax over all pixels, scaled so that a
            Gaussian of this width has the height 1. Learns faster from few labels, by
            cross-entropy of ``logits``.

    Attributes:
        size_multiple: height and width of images have to be multiples of it; 32 for 4 branches.

    Raises:
        ValueError: an argument is not positive.
    """

    def __init__(
        self,
        joints: int = 17,
        width: int = 48,
        modules: Sequence[int] = (1, 4, 3),
        blocks: int = 4,
        stem_width: int = 64,
        stem_blocks: int = 4,
        softmax_sigma: float | None = None,
    ) -> None:
        super().__init__()
        check_hrnet(joints, width, modules, blocks, stem_width, stem_blocks, softmax_sigma)
        self.joints = joints
        self.softmax_sigma = softmax_sigma
        self.size_multiple = HEATMAP_STRIDE * 2 ** len(modules)  # stride of the coarsest branch
        self.conv1 = nn.Conv2d(3, stem_width, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.conv2 = nn.Conv2d(stem_width, stem_width, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(stem_width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(
            Bottleneck(stem_width, stem_width),
            *(Bottleneck(4 * stem_width, stem_width) for _ in range(stem_blocks - 1)),
        )

        self.stages = tuple(range(2, 2 + len(modules)))
        widths = [width]
        for stage, count in zip(self.stages, modules, strict=True):
            widths = [*widths, 2 * widths[-1]]
            self.add_module(f"transition{stage - 1}", self._transition(stage, widths, stem_width))
            outputs = [len(widths)] * count
            if stage == self.stages[-1]:
                outputs[-1] = 1
            self.add_module(
                f"stage{stage}",
                nn.Sequential(*(ExchangeModule(widths, blocks, out) for out in outputs)),
            )
        self.final_layer = nn.Conv2d(width, joints, 1)
        self.reset_parameters()

    @staticmethod
    def _transition(stage: int, widths: list[int], stem_width: int) -> nn.ModuleList:
        """Into a stage: from the stem two new branches, later one more from the coarsest branch."""
        if stage == 2:
            fine = conv_bn(4 * stem_width, widths[0], 3)
            return nn.ModuleList([fine, nn.Sequential(conv_bn(4 * stem_width, widths[1], 3, 2))])
        new = nn.Sequential(conv_bn(widths[-2], widths[-1], 3, 2))
        return nn.ModuleList([*(nn.Identity() for _ in widths[:-1]), new])

    def reset_parameters(self) -> None:
        """Convolutions N(0, 0.001) and zero bias, BatchNorm one and zero, as in 2019."""
        initialise(self)

    def features(self, images: Tensor) -> Tensor:
        """Maps of the finest branch: images ``[B, 3, H, W] -> [B, C, H/4, W/4]``."""
        x = self.relu(self.bn1(self.conv1(images)))  # [B, S, H/2, W/2]
        x = self.relu(self.bn2(self.conv2(x)))  # [B, S, H/4, W/4]
        maps = [self.layer1(x)]  # [B, 4 S, H/4, W/4]
        for stage in self.stages:
            transition = self.get_submodule(f"transition{stage - 1}")
            assert isinstance(transition, nn.ModuleList)
            # The coarsest map is the source of the new branch; in stage 2 of both.
            sources = maps * 2 if stage == 2 else [*maps, maps[-1]]
            maps = [layer(x) for layer, x in zip(transition, sources, strict=True)]
            maps = self.get_submodule(f"stage{stage}")(maps)  # branch b: [B, 2^b C, ...]
        return maps[0]  # [B, C, H/4, W/4]

    def forward(self, images: Tensor) -> Tensor:
        """Heatmaps: ``logits`` as they are, or their spatial softmax; see ``softmax_sigma``."""
        return self.heatmaps_of(self.logits(images))

    def heatmaps_of(self, logits: Tensor) -> Tensor:
        """``[B, J, h, w]`` from ``logits`` of the same shape."""
        if self.softmax_sigma is None:
            return logits
        shares = logits.flatten(2).softmax(-1).view_as(logits)
        return shares * (2 * math.pi * self.softmax_sigma**2)

    def logits(self, images: Tensor) -> Tensor:
        """Outputs of the last layer, not bounded.

        Args:
            images: ``[B, 3, H, W]``, RGB, normalised with the mean and deviation of ImageNet.

        Returns:
            ``[B, J, H/4, W/4]``. Under autocast float32: the last layer is not worth rounding
            to 8 bits, which would make ties between neighbouring pixels.

        Raises:
            ValueError: the shape, or sizes that are no multiples of ``size_multiple``.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images: expected [B, 3, H, W], got {tuple(images.shape)}")
        if images.shape[2] % self.size_multiple or images.shape[3] % self.size_multiple:
            raise ValueError(
                f"images: expected height and width in multiples of {self.size_multiple}, "
                f"got {images.shape[2]} x {images.shape[3]}"
            )
        x = self.features(images)
        device = x.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self.final_layer(x.to(self.final_layer.weight.dtype))
        return self.final_layer(x)


def initialise(module: nn.Module) -> None:
    """Convolutions N(0, 0.001) with zero bias, BatchNorm as the identity with fresh statistics."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.001)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()


def channels_last(module: nn.Module) -> None:
    """Convolutions' weights in the layout that is fastest for them, in place.

    ``Module.to(memory_format=...)`` refuses modules that hold a warp, whose weight has five axes.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def check_hrnet(
    joints: int,
    width: int,
    modules: Sequence[int],
    blocks: int,
    stem_width: int,
    stem_blocks: int,
    softmax_sigma: float | None,
) -> None:
    """Raises ValueError for arguments of ``HRNet`` that are not positive; names them."""
    if softmax_sigma is not None and not softmax_sigma > 0:
        raise ValueError(f"softmax_sigma: expected None or a positive number, got {softmax_sigma}")
    numbers = {
        "joints": joints,
        "width": width,
        "blocks": blocks,
        "stem_width": stem_width,
        "stem_blocks": stem_blocks,
        **{f"modules[{i}]": count for i, count in enumerate(modules)},
    }
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}: expected at least 1, got {number!r}")
    if len(modules) == 0:
        raise ValueError("modules: expected the number of modules of at least one stage")
