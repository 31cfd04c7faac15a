"""The shape arithmetic of a (multi-dilation) deformable convolution, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Pair = tuple[int, int]


def same_padding(kernel_hw: Sequence[int], dilation_hw: Sequence[int]) -> Pair:
    """Padding that keeps the size of the map at stride 1; both kernel sides must be odd."""
    return (
        (kernel_hw[0] - 1) // 2 * dilation_hw[0],
        (kernel_hw[1] - 1) // 2 * dilation_hw[1],
    )


@dataclass(frozen=True)
class WarpGeometry:
    """Kernel size, stride, and one (padding, dilation) per summed deformable convolution.

    Tap ``(i, j)`` of dilation ``d`` at output ``(oy, ox)`` samples the map at
    ``y = oy * stride_h - padding_h[d] + i * dilation_h[d] + dy`` and likewise for ``x``.
    """

    kernel_hw: Pair
    stride: Pair
    paddings: tuple[Pair, ...]
    dilations: tuple[Pair, ...]

    @classmethod
    def keeping_size(cls, kernel_hw: Pair, dilations: Sequence[Pair]) -> WarpGeometry:
        """Of convolutions whose output has the size of the map; both kernel sides must be odd."""
        paddings = tuple(same_padding(kernel_hw, dilation) for dilation in dilations)
        return cls(kernel_hw, (1, 1), paddings, tuple(dilations))

    @classmethod
    def from_flat(
        cls,
        kernel_hw: Sequence[int],
        stride: Sequence[int],
        paddings: Sequence[int],
        dilations: Sequence[int],
    ) -> WarpGeometry:
        """From the flat integer lists that an operator schema can carry (h, w, h, w, ...)."""
        return cls(
            (kernel_hw[0], kernel_hw[1]),
            (stride[0], stride[1]),
            tuple(zip(paddings[::2], paddings[1::2], strict=True)),
            tuple(zip(dilations[::2], dilations[1::2], strict=True)),
        )

    @property
    def taps(self) -> int:
        """K, the number of taps of the kernel."""
        return self.kernel_hw[0] * self.kernel_hw[1]

    def output_hw(self, input_hw: Sequence[int], index: int = 0) -> Pair:
        """Size of the output of dilation ``index`` for a map of ``input_hw``."""
        sizes = (
            (size + 2 * padding - (dilation * (kernel - 1) + 1)) // stride + 1
            for size, padding, dilation, kernel, stride in zip(
                input_hw,
                self.paddings[index],
                self.dilations[index],
                self.kernel_hw,
                self.stride,
                strict=True,
            )
        )
        height, width = sizes
        return height, width

    def flat_paddings(self) -> list[int]:
        """(h, w) of every dilation in one list, as an operator schema carries them."""
        return [side for pair in self.paddings for side in pair]

    def flat_dilations(self) -> list[int]:
        """(h, w) of every dilation in one list, as an operator schema carries them."""
        return [side for pair in self.dilations for side in pair]
