"""The operations as modules with parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pwkernels.checks import ArgumentError, check_pair
from pwkernels.functional import deform_conv2d, multi_dilation_deform_warp


class MultiDilationDeformWarp(nn.Module):
    """The fused warp with its weights; see ``pwkernels.multi_dilation_deform_warp``.

    Starts as the identity when ``in_channels == out_channels``: centre tap 1 on the diagonal of
    every kernel, all else 0, so that zero offsets leave the input as it is
    (with ``reduction="mean"``).

    Args:
        in_channels, out_channels: C and C_out; ``out_channels`` defaults to ``in_channels``.
        dilations: one deformable convolution each; PoseWarper's are (3, 6, 12, 18, 24).
        kernel_size: odd, an int or (h, w).
        groups: groups of the weight.
        bias: whether each convolution has a bias.
        reduction: ``"mean"`` or ``"sum"`` over the dilations.

    Attributes:
        weight: ``[D, C_out, C / groups, kh, kw]``.
        bias: ``[D, C_out]`` or None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        dilations: Sequence[int] = (3, 6, 12, 18, 24),
        kernel_size: int | tuple[int, int] = 3,
        groups: int = 1,
        bias: bool = False,
        reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        if in_channels % groups != 0 or out_channels % groups != 0:
            raise ArgumentError(
                f"groups: expected a divisor of in_channels {in_channels} and out_channels "
                f"{out_channels}, got {groups}"
            )
        kernel_hw = check_pair("kernel_size", kernel_size, 1)
        if kernel_hw[0] % 2 == 0 or kernel_hw[1] % 2 == 0:
            raise ArgumentError(f"kernel_size: expected odd sides, got {kernel_size!r}")
        self.dilations = tuple(dilations)
        self.groups = groups
        self.reduction = reduction
        self.backend = backend
        shape = (len(self.dilations), out_channels, in_channels // groups, *kernel_hw)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[:2])) if bias else None
        self.reset_parameters()

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> MultiDilationDeformWarp:
        # Module.to(memory_format=torch.channels_last) takes a weight of five dimensions for one
        # that has such a format; it gets one of four, which has.
        def of_four(tensor: Tensor) -> Tensor:
            if tensor.dim() != 5:
                return fn(tensor)
            return fn(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2]).contiguous()

        return super()._apply(of_four, recurse)

    def reset_parameters(self) -> None:
        """Identity initialisation; the bias starts at zero."""
        _, out_channels, group_channels, height, width = self.weight.shape
        with torch.no_grad():
            self.weight.zero_()
            for channel in range(min(out_channels, group_channels * self.groups)):
                # Grouped weights count input channels within the group of their output.
                group = channel // (out_channels // self.groups)
                index = channel - group * group_channels
                if 0 <= index < group_channels:
                    self.weight[:, channel, index, height // 2, width // 2] = 1.0
            if self.bias is not None:
                self.bias.zero_()

    def forward(
        self,
        input: Tensor,
        offsets: Sequence[Tensor],
        masks: Sequence[Tensor] | None = None,
        frame_weights: Tensor | None = None,
    ) -> Tensor:
        """Shapes as in ``pwkernels.multi_dilation_deform_warp``."""
        return multi_dilation_deform_warp(
            input,
            offsets,
            self.weight,
            dilations=self.dilations,
            masks=masks,
            bias=self.bias,
            reduction=self.reduction,
            frame_weights=frame_weights,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        _, out_channels, group_channels, height, width = self.weight.shape
        return (
            f"{group_channels * self.groups}, {out_channels}, dilations={self.dilations}, "
            f"kernel_size=({height}, {width}), groups={self.groups}, "
            f"bias={self.bias is not None}, reduction={self.reduction!r}"
        )


class DeformConv2d(nn.Module):
    """Deformable convolution with arguments and state_dict of ``torchvision.ops.DeformConv2d``.

    ``backend`` is as in ``pwkernels.multi_dilation_deform_warp``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if in_channels % groups != 0:
            raise ArgumentError(
                f"in_channels: expected a multiple of groups {groups}, got {in_channels}"
            )
        if out_channels % groups != 0:
            raise ArgumentError(
                f"out_channels: expected a multiple of groups {groups}, got {out_channels}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = check_pair("kernel_size", kernel_size, 1)
        self.stride = check_pair("stride", stride, 1)
        self.padding = check_pair("padding", padding, 0)
        self.dilation = check_pair("dilation", dilation, 1)
        self.groups = groups
        self.backend = backend
        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels // groups, *self.kernel_size)
        )
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """PyTorch's initialisation of convolutions."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """Shapes as in ``pwkernels.deform_conv2d``."""
        return deform_conv2d(
            input,
            offset,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            mask=mask,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}, bias={self.bias is not None}"
        )
