"""What every ratio of the system is against: the design of 2019, written plainly.

    network    fp32, eager, NCHW; every frame of every window goes through backbone and head, the
               key frame included, whose difference is zero; five deformable convolutions of
               torchvision and their mean; then the weighted sum
    training   frames decoded sample by sample, normalised one by one; Adam (baseline_training.py,
               training_data.py)
    video      a seek, a decode and a crop for every frame of every person's window (video_run.py)

Two things are kinder to it than the published system was. Its frozen backbone normalises by stored
statistics, as ours does, so that outputs can be compared. And as its parameters want no gradient,
autograd keeps nothing of the backbone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from posewarper.models import PoseModel, PoseWarper, Window


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    padding = kernel // 2
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class _Block(nn.Module):
    """Convolutions with BatchNorm, and a shortcut: the basic and the bottleneck block."""

    def __init__(self, inputs: int, widths: list[int], kernels: list[int]) -> None:
        super().__init__()
        self.count = len(widths)
        before = inputs
        for index, (width, kernel) in enumerate(zip(widths, kernels, strict=True), 1):
            convolution, norm = _conv_bn(before, width, kernel)
            self.add_module(f"conv{index}", convolution)
            self.add_module(f"bn{index}", norm)
            before = width
        self.relu = nn.ReLU(inplace=True)
        same = inputs == widths[-1]
        self.downsample = None if same else nn.Sequential(*_conv_bn(inputs, widths[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for index in range(1, self.count + 1):
            out = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(out))
            if index < self.count:
                out = self.relu(out)
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def _basic(inputs: int, width: int) -> _Block:
    return _Block(inputs, [width, width], [3, 3])


class _Exchange(nn.Module):
    """Branches of basic blocks, and sums over all of them in each size."""

    def __init__(self, widths: list[int], blocks: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(_basic(width, width) for _ in range(blocks))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._path(widths, source, target) for source in range(len(widths)))
            for target in range(outputs)
        )
        self.relu = nn.ReLU(inplace=True)

    @staticmethod
    def _path(widths: list[int], source: int, target: int) -> nn.Module:
        if source == target:
            return nn.Identity()
        if source > target:
            up = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
            return nn.Sequential(*_conv_bn(widths[source], widths[target], 1), up)
        steps = [
            nn.Sequential(*_conv_bn(widths[source], widths[source], 3, 2), nn.ReLU(inplace=True))
            for _ in range(target - source - 1)
        ]
        return nn.Sequential(*steps, nn.Sequential(*_conv_bn(widths[source], widths[target], 3, 2)))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [
            self.relu(sum(path(x) for path, x in zip(paths, maps, strict=True)))  # type: ignore
            for paths in self.fuse_layers
        ]


class _Backbone(nn.Module):
    """HRNet with its last layer, images ``[B, 3, H, W] -> [B, J, H / 4, W / 4]``."""

    def __init__(self, joints: int, width: int, modules: Any, blocks: int, stem: int, first: int):
        super().__init__()
        self.conv1, self.bn1 = _conv_bn(3, stem, 3, 2)
        self.conv2, self.bn2 = _conv_bn(stem, stem, 3, 2)
        self.relu = nn.ReLU(inplace=True)
        bottlenecks = [
            _Block(stem if index == 0 else 4 * stem, [stem, stem, 4 * stem], [1, 3, 1])
            for index in range(first)
        ]
        self.layer1 = nn.Sequential(*bottlenecks)
        widths, self.stages = [width], len(modules)
        for stage, count in enumerate(modules, 1):
            widths = [*widths, 2 * widths[-1]]
            new = [*_conv_bn(4 * stem if stage == 1 else widths[-2], widths[-1], 3, 2)]
            branch = nn.Sequential(nn.Sequential(*new, nn.ReLU(inplace=True)))
            kept: list[nn.Module] = [nn.Identity() for _ in widths[:-1]]
            if stage == 1:
                kept = [nn.Sequential(*_conv_bn(4 * stem, width, 3), nn.ReLU(inplace=True))]
            self.add_module(f"transition{stage}", nn.ModuleList([*kept, branch]))
            outputs = [len(widths)] * count
            if stage == self.stages:
                outputs[-1] = 1
            exchanges = [_Exchange(widths, blocks, out) for out in outputs]
            self.add_module(f"stage{stage + 1}", nn.Sequential(*exchanges))
        self.final_layer = nn.Conv2d(width, joints, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.relu(self.bn2(self.conv2(x)))
        maps = [self.layer1(x)]
        for stage in range(1, self.stages + 1):
            sources = [maps[0], maps[0]] if stage == 1 else [*maps, maps[-1]]
            layers = getattr(self, f"transition{stage}")
            maps = [layer(x) for layer, x in zip(layers, sources, strict=True)]
            maps = getattr(self, f"stage{stage + 1}")(maps)
        return self.final_layer(maps[0])


class BaselineWarper(nn.Module):
    """The network, with the weights of a model.

    Args:
        model: with a warp head; nothing of it is shared.
    """

    def __init__(self, model: PoseModel) -> None:
        super().__init__()
        config = model.config
        self.dilations, self.window = config.dilations, config.window
        self.backbone = _Backbone(
            config.joints, config.width, config.modules, config.blocks, config.stem_width,
            config.stem_blocks,
        )  # fmt: skip
        width = config.head_width
        self.offset_feats = nn.Sequential(
            _basic(config.joints, width),
            *(_basic(width, width) for _ in range(config.head_blocks - 1)),
        )
        self.offsets = nn.ModuleList(
            nn.Conv2d(width, 18 * config.joints, 3, padding=d, dilation=d, bias=False)
            for d in config.dilations
        )
        shape = (config.joints, config.joints, 3, 3)
        self.kernels = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for _ in config.dilations)
        assert isinstance(model.network, PoseWarper)
        state = {key: value.clone() for key, value in model.network.state_dict().items()}
        for index, kernel in enumerate(state.pop("warp.weight")):
            state[f"kernels.{index}"] = kernel
        self.load_state_dict(state)
        self.eval()

    def warped(self, target: Tensor, source: Tensor) -> Tensor:
        """H(source) ``[N, J, h, w]`` moved to the target frame."""
        features = self.offset_feats(target - source)
        total = torch.zeros_like(source)
        for offsets, kernel, d in zip(self.offsets, self.kernels, self.dilations, strict=True):
            total += deform_conv2d(source, offsets(features), kernel, padding=d, dilation=d)
        return total / len(self.dilations)

    def forward(self, key: Tensor, support: Tensor) -> Tensor:
        """The pose in the key frame from the support frame: what stage warp trains."""
        key_maps, support_maps = self.backbone(torch.cat([key, support])).chunk(2)
        return self.warped(key_maps, support_maps)

    def aggregate(self, frames: Tensor, window: Window | None = None) -> Tensor:
        """The pose in the key frame from crops of all frames, ``[B, T, 3, H, W]``."""
        window = window or self.window
        heatmaps = self.backbone(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        keys = heatmaps[:, [window.key_index] * len(window)]
        moved = self.warped(keys.flatten(0, 1), heatmaps.flatten(0, 1)).view_as(heatmaps)
        weights = torch.tensor(window.weights, device=moved.device).view(-1, 1, 1, 1)
        return (moved * weights).sum(1)
