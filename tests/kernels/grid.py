"""Shapes chosen by hand, by name: what each of them could break is in its name."""

from __future__ import annotations

from pwkernels.testing import POSEWARPER_DILATIONS, Case


def conv(padding: tuple[int, int] = (0, 0), dilation: int | tuple[int, int] = 1, **fields) -> Case:
    """A case of ``deform_conv2d``, which has paddings of its own."""
    return Case(paddings=(padding,), dilations=(dilation,), **fields)


EVERYTHING = Case(
    frames=6,
    channels=6,
    out_channels=4,
    size=(5, 7),
    dilations=(1, 3),
    offset_groups=3,
    groups=2,
    masks=True,
    bias=True,
    window=3,
)
TINY = {
    "plain": Case(frames=1, size=(4, 5)),
    "one pixel": Case(size=(1, 1), masks=True, bias=True),
    "one row": Case(size=(1, 11), offset_groups=2, dilations=(1, 4)),
    "one column": Case(size=(11, 1), offset_groups=4, dilations=(2, 3), masks=True),
    "one channel": Case(channels=1, out_channels=1, size=(3, 5), masks=True),
    "3 to 7 channels": Case(channels=3, out_channels=7, size=(4, 3), offset_groups=3),
    "7 to 1 channels": Case(channels=7, out_channels=1, size=(4, 3), offset_groups=7),
    "everything": EVERYTHING.of(size=(3, 4)),
    "depthwise": Case(channels=6, out_channels=6, groups=6, size=(4, 3), offset_groups=2),
    "depthwise, two each": Case(channels=3, out_channels=6, groups=3, size=(4, 3), masks=True),
    "groups across offset groups": Case(
        channels=6,
        out_channels=6,
        groups=3,
        offset_groups=2,
        size=(4, 3),
        dilations=((1, 2), (2, 1)),
    ),
    "offset groups within groups": Case(
        channels=6, out_channels=4, groups=2, offset_groups=6, size=(3, 4), masks=True
    ),
    "sum of dilations": Case(dilations=(1, 2, 3), reduction="sum", size=(4, 4), bias=True),
    "kernel 1x1": Case(kernel=(1, 1), size=(4, 5), dilations=(1, 2), masks=True),
    "kernel 3x5": Case(kernel=(3, 5), size=(5, 4), dilations=((2, 1),), offset_groups=2),
    "kernel 5x5": Case(kernel=(5, 5), channels=2, size=(4, 4), masks=True, bias=True),
    "kernel 1x9": Case(kernel=(1, 9), channels=2, size=(4, 4), offset_groups=2),
    "frames of one": Case(window=1, frames=3, size=(3, 4), bias=True),
    "batch 0": Case(frames=0, masks=True, bias=True),
    "batch 0 of windows": Case(frames=0, window=3, bias=True),
    "conv 2x2": conv(kernel=(2, 2), size=(4, 5), masks=True, bias=True),
    "conv 4x3, stride 2x3": conv((3, 1), (1, 2), kernel=(4, 3), stride=(2, 3), size=(6, 9)),
    "conv stride 3, padding 2x0": conv((2, 0), stride=(3, 1), size=(7, 6), offset_groups=2),
    "conv with more padding than map": conv((7, 5), 2, stride=(2, 2), size=(2, 3), masks=True),
    "conv to one pixel": conv(kernel=(3, 5), size=(3, 5), offset_groups=4, bias=True),
    "conv 7x7": conv((3, 3), kernel=(7, 7), channels=2, out_channels=2, size=(4, 4)),
    "conv batch 0": conv((1, 1), frames=0, masks=True, bias=True),
    "integer offsets": Case(size=(4, 5), offsets="integer", masks=True, offset_groups=2),
    "zero offsets": Case(size=(4, 5), offsets="zero", masks=True, dilations=(1, 2)),
    "far offsets": Case(size=(4, 5), offset_scale=30.0, offset_groups=2, bias=True),
}
HEATMAPS = Case(channels=17, out_channels=17, offset_groups=17, size=(12, 9))
LARGER = {
    "heatmaps": HEATMAPS.of(dilations=POSEWARPER_DILATIONS),
    "heatmaps, masks and bias": HEATMAPS.of(dilations=(3, 6, 9), masks=True, bias=True),
    "heatmaps, one offset group": HEATMAPS.of(offset_groups=1, dilations=(3, 24)),
    "windows of heatmaps": HEATMAPS.of(frames=10, window=5, dilations=(3, 6), size=(6, 5)),
    "everything": EVERYTHING.of(frames=9, size=(13, 11)),
    "12 groups of 4": Case(
        channels=48, out_channels=48, offset_groups=12, dilations=(3,), frames=1
    ),
    "several runs of pixels": Case(
        channels=2, out_channels=3, size=(31, 37), offset_groups=2, frames=1
    ),
    "runs and slices": Case(channels=4, out_channels=4, size=(40, 41), frames=1, masks=True),
    "150 outputs": Case(channels=3, out_channels=150, frames=1, size=(9, 9), bias=True),
    "several waves of weight gradients": Case(
        channels=64, out_channels=64, size=(40, 20), frames=3, offset_groups=2
    ),
    "several chunks of planes": conv(
        kernel=(1, 1), stride=(4, 4), size=(300, 180), frames=10, offset_groups=4
    ),
    "conv stride 2": conv((1, 1), stride=(2, 2), size=(33, 35), channels=6, offset_groups=3),
    "conv 5x5, groups": conv(
        (4, 2),
        (2, 1),
        kernel=(5, 5),
        channels=6,
        out_channels=9,
        groups=3,
        size=(12, 10),
        masks=True,
    ),
}
