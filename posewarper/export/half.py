"""Half precision: float16 where rounding to 11 bits costs nothing, float32 where it would."""

from __future__ import annotations

from torch import Tensor, nn

from posewarper.models import HRNet, PoseWarper


def to_half(network: HRNet | PoseWarper) -> None:
    """Weights in float16, in place; inputs and outputs stay float32.

    Computed in float16 are the backbone's features and the residual blocks of the head: nearly all
    of the arithmetic. In float32, from weights stored in float16: the last layer of the backbone,
    so that neighbouring pixels of a heatmap have no ties, and the offset fields, whose numbers are
    places. What follows is float32 as ever: differences of heatmaps and the warp, with its weights.

    Args:
        network: with BatchNorm folded into its convolutions, whose running variance may be beyond
            the range of float16.
    """
    backbone = network.backbone if isinstance(network, PoseWarper) else network
    backbone.half()
    backbone.conv1 = nn.Sequential(_Half(), backbone.conv1)  # type: ignore[assignment]
    backbone.final_layer = _InFloat(backbone.final_layer)  # type: ignore[assignment]
    if isinstance(network, PoseWarper):
        network.offset_feats = nn.Sequential(_Half(), network.offset_feats.half())
        network.offsets = nn.ModuleList(_InFloat(layer.half()) for layer in network.offsets)


class _Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.half()


class _InFloat(nn.Module):
    """A convolution computed in float32."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        assert isinstance(layer, nn.Conv2d)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        bias = None if layer.bias is None else layer.bias.float()
        return nn.functional.conv2d(
            x.float(), layer.weight.float(), bias, layer.stride, layer.padding, layer.dilation
        )
