"""The 2019 system by its description: names and shapes of its weights, and what it computes.

Written on top of plain functions and torchvision, without the package's own code: a second opinion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from posewarper.models.warper import PoseWarper, WarperConfig

DILATIONS = (3, 6, 12, 18, 24)
# Of "key<TAB>shape" for the 2010 entries of the released model, in the order of its state_dict.
RELEASED_SHA256 = "1eb2655ab49af033e94a4d0f4e231341eb9d95afc03fcdb39a291746084575e0"

TINY = WarperConfig(
    joints=3, width=4, modules=(1, 2, 1), blocks=2, stem_width=4, stem_blocks=2, head_width=6,
    head_blocks=3,
)  # fmt: skip


def official_shapes(config: WarperConfig, head: bool = True) -> dict[str, tuple[int, ...]]:
    """Keys and shapes in order."""
    return dict(_official_shapes(config, head))


def _official_shapes(config: WarperConfig, head: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    stem, joints = config.stem_width, config.joints
    yield from _conv_bn("conv1", "bn1", stem, 3, 3)
    yield from _conv_bn("conv2", "bn2", stem, stem, 3)
    for k in range(config.stem_blocks):
        name, inputs = f"layer1.{k}.", stem if k == 0 else 4 * stem
        yield from _conv_bn(f"{name}conv1", f"{name}bn1", stem, inputs, 1)
        yield from _conv_bn(f"{name}conv2", f"{name}bn2", stem, stem, 3)
        yield from _conv_bn(f"{name}conv3", f"{name}bn3", 4 * stem, stem, 1)
        if k == 0:
            yield from _conv_bn(f"{name}downsample.0", f"{name}downsample.1", 4 * stem, inputs, 1)
    widths = [config.width * 2**b for b in range(len(config.modules) + 1)]
    for stage, modules in enumerate(config.modules, 2):
        new = f"transition{stage - 1}.{stage - 1}.0."
        if stage == 2:
            first = "transition1.0."
            yield from _conv_bn(f"{first}0", f"{first}1", widths[0], 4 * stem, 3)
        before = 4 * stem if stage == 2 else widths[stage - 2]
        yield from _conv_bn(f"{new}0", f"{new}1", widths[stage - 1], before, 3)
        for m in range(modules):
            name = f"stage{stage}.{m}."
            for b in range(stage):
                for k in range(config.blocks):
                    block, width = f"{name}branches.{b}.{k}.", widths[b]
                    yield from _conv_bn(f"{block}conv1", f"{block}bn1", width, width, 3)
                    yield from _conv_bn(f"{block}conv2", f"{block}bn2", width, width, 3)
            last = stage == len(widths) and m == modules - 1
            for i in range(1 if last else stage):
                for j in range(stage):
                    path = f"{name}fuse_layers.{i}.{j}."
                    if j > i:
                        yield from _conv_bn(f"{path}0", f"{path}1", widths[i], widths[j], 1)
                    for t in range(i - j):
                        out = widths[i] if t == i - j - 1 else widths[j]
                        yield from _conv_bn(f"{path}{t}.0", f"{path}{t}.1", out, widths[j], 3)
    yield "final_layer.weight", (joints, config.width, 1, 1)
    yield "final_layer.bias", (joints,)
    if not head:
        return
    for k in range(config.head_blocks):
        name, inputs = f"offset_feats.{k}.", joints if k == 0 else config.head_width
        yield from _conv_bn(f"{name}conv1", f"{name}bn1", config.head_width, inputs, 3)
        yield from _conv_bn(f"{name}conv2", f"{name}bn2", config.head_width, config.head_width, 3)
        if k == 0:
            yield from _conv_bn(
                f"{name}downsample.0", f"{name}downsample.1", config.head_width, joints, 1
            )
    for i in range(1, len(config.dilations) + 1):
        yield f"offsets{i}.weight", (18 * joints, config.head_width, 3, 3)
    for i in range(1, len(config.dilations) + 1):
        yield f"deform_conv{i}.weight", (joints, joints, 3, 3)


def _conv_bn(
    conv: str, norm: str, out: int, inputs: int, kernel: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{conv}.weight", (out, inputs, kernel, kernel)
    for name in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{name}", (out,)
    yield f"{norm}.num_batches_tracked", ()


def random_state(config: WarperConfig, head: bool = True) -> dict[str, Tensor]:
    """Weights under which every part matters: heatmaps of about 1, offsets of some pixels."""
    state = {}
    for key, shape in official_shapes(config, head).items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif key.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight")):
            state[key] = torch.rand(shape) + 0.5
        elif len(shape) == 1:
            state[key] = (
                torch.rand(shape) - 0.3 if key.endswith(".weight") else torch.randn(shape) / 5
            )
        else:
            fan_in = shape[1] * shape[2] * shape[3]
            scale = 3.0 if key.startswith("offsets") else 1.0
            state[key] = torch.randn(shape) * scale / fan_in**0.5
    return state


def filled(config: WarperConfig, state: dict[str, Tensor], **options: object) -> PoseWarper:
    """A model in eval mode with official weights put in by hand."""
    model = PoseWarper(config, **options)  # type: ignore[arg-type]
    own = {key: tensor for key, tensor in state.items() if key.startswith("offset_feats.")}
    for key, tensor in state.items():
        if match := re.match(r"offsets(\d+)\.weight", key):
            own[f"offsets.{int(match[1]) - 1}.weight"] = tensor
        elif not key.startswith(("offset_feats.", "deform_conv")):
            own[f"backbone.{key}"] = tensor
    count = len(config.dilations)
    own["warp.weight"] = torch.stack([state[f"deform_conv{i + 1}.weight"] for i in range(count)])
    model.load_state_dict(own)
    return model.eval()


class SlowModel:
    """H, the offsets and the warp in float64 from official weights.

    Args:
        state: the weights.
        dilations: of the warp.
        batch_stats: prefixes of the layers whose BatchNorm normalises by the batch.
    """

    def __init__(
        self,
        state: dict[str, Tensor],
        dilations: tuple[int, ...] = DILATIONS,
        batch_stats: tuple[str, ...] = (),
    ) -> None:
        self.state = {key: tensor.double() for key, tensor in state.items()}
        self.dilations = dilations
        self.batch_stats = batch_stats

    def norm(self, x: Tensor, name: str) -> Tensor:
        if name.startswith(self.batch_stats):
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        else:
            mean, var = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        scale = self.state[f"{name}.weight"] / (var + 1e-5).sqrt()
        shift = self.state[f"{name}.bias"] - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]

    def conv(self, x: Tensor, name: str, stride: int = 1, norm: str | None = None) -> Tensor:
        weight = self.state[f"{name}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return x if norm is None else self.norm(x, norm)

    def block(self, x: Tensor, name: str) -> Tensor:
        shortcut = x
        if f"{name}.downsample.0.weight" in self.state:
            shortcut = self.conv(x, f"{name}.downsample.0", norm=f"{name}.downsample.1")
        depth = 3 if f"{name}.conv3.weight" in self.state else 2
        for i in range(1, depth):
            x = self.conv(x, f"{name}.conv{i}", norm=f"{name}.bn{i}").relu()
        return (self.conv(x, f"{name}.conv{depth}", norm=f"{name}.bn{depth}") + shortcut).relu()

    def chain(self, x: Tensor, name: str) -> Tensor:
        k = 0
        while f"{name}.{k}.conv1.weight" in self.state:
            x = self.block(x, f"{name}.{k}")
            k += 1
        return x

    def heatmaps(self, images: Tensor) -> Tensor:
        x = images.double()
        for i in (1, 2):
            x = self.conv(x, f"conv{i}", 2, f"bn{i}").relu()
        x = self.chain(x, "layer1")
        maps: list[Tensor] = []
        stage = 2
        while f"stage{stage}.0.branches.0.0.conv1.weight" in self.state:
            if stage == 2:
                maps = [self.conv(x, "transition1.0.0", 1, "transition1.0.1").relu()]
            new = f"transition{stage - 1}.{stage - 1}.0"
            maps.append(self.conv(x if stage == 2 else maps[-1], f"{new}.0", 2, f"{new}.1").relu())
            m = 0
            while f"stage{stage}.{m}.branches.0.0.conv1.weight" in self.state:
                maps = self.exchange(maps, f"stage{stage}.{m}")
                m += 1
            stage += 1
        bias = self.state["final_layer.bias"]
        return self.conv(maps[0], "final_layer") + bias[:, None, None]

    def exchange(self, maps: list[Tensor], name: str) -> list[Tensor]:
        maps = [self.chain(x, f"{name}.branches.{b}") for b, x in enumerate(maps)]
        outputs = []
        for i in range(len(maps)):
            if not any(key.startswith(f"{name}.fuse_layers.{i}.") for key in self.state):
                continue
            total = torch.zeros_like(maps[i])
            for j, x in enumerate(maps):
                path = f"{name}.fuse_layers.{i}.{j}"
                if j > i:
                    x = self.conv(x, f"{path}.0", norm=f"{path}.1")
                    for axis in (2, 3):
                        x = x.repeat_interleave(2 ** (j - i), axis)
                for t in range(i - j):
                    x = self.conv(x, f"{path}.{t}.0", 2, f"{path}.{t}.1")
                    x = x if t == i - j - 1 else x.relu()
                total = total + x
            outputs.append(total.relu())
        return outputs

    def warp(self, moved: Tensor, difference: Tensor) -> Tensor:
        features = self.chain(difference, "offset_feats")
        total = torch.zeros_like(moved)
        for i, dilation in enumerate(self.dilations, 1):
            weight = self.state[f"offsets{i}.weight"]
            offset = F.conv2d(features, weight, padding=dilation, dilation=dilation)
            kernel = self.state[f"deform_conv{i}.weight"]
            total = total + deform_conv2d(
                moved, offset, kernel, None, padding=dilation, dilation=dilation
            )
        return total / len(self.dilations)

    def forward_pair(self, key: Tensor, support: Tensor) -> Tensor:
        """Pose at the key frame from the support frame."""
        both = self.heatmaps(torch.cat([key, support]))
        h_key, h_support = both[: len(key)], both[len(key) :]
        return self.warp(h_support, h_key - h_support)

    def reverse_pair(self, key: Tensor, support: Tensor, labels: Tensor | None) -> Tensor:
        """Pose at the support frame from labels, or the prediction, of the key frame."""
        h_key, h_support = self.heatmaps(key), self.heatmaps(support)
        return self.warp(h_key if labels is None else labels.double(), h_support - h_key)

    def aggregate_2019(
        self, key: Tensor, before1: Tensor, before2: Tensor, after1: Tensor, after2: Tensor
    ) -> Tensor:
        """Five frames with the frame order and weights of the released model."""
        h_key = self.heatmaps(key)
        total = torch.zeros_like(h_key)
        for weight, frame in zip(
            (0.30, 0.25, 0.10, 0.25, 0.10), (key, before1, before2, after1, after2), strict=True
        ):
            h_frame = self.heatmaps(frame)
            total = total + weight * self.warp(h_frame, h_key - h_frame)
        return total
