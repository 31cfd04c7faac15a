"""Helpers shared by the kernels: where a tap samples the map, and what it finds there.

All of them work on blocks of any rank, so that a kernel may hold one row of taps (``[P]``) or
several (``[R, P]``) at a time.
"""

import triton
import triton.language as tl

# Farther than any map reaches, and far enough from 2**31 to add a tap's position to it.
FAR = tl.constexpr(1 << 30)


@triton.jit
def pick(values, index):
    """``values[index]`` for a run-time index into a tuple argument (all of one type).

    Selecting once per dilation keeps the loop over dilations rolled: one body to compile,
    whatever their number, and no table of pointers to copy to the device.
    """
    chosen = values[0]
    for i in tl.static_range(1, len(values)):
        chosen = tl.where(index == i, values[i], chosen)
    return chosen


@triton.jit
def split_offset(base, offset):
    """Integer cell and fraction of ``base + offset``; NaN and huge offsets land far outside.

    The cell is decided on the offset alone: ``base + offset`` rounds in float32, which would
    move samples across a cell border, where the offset gradient jumps.
    """
    bounded = tl.where(tl.abs(offset) < FAR, offset, -1.0 * FAR)
    whole = tl.floor(bounded)
    return base + whole.to(tl.int32), bounded - whole


@triton.jit
def inside(position, size):
    """``0 <= position < size`` in one comparison: as unsigned, negative numbers are large."""
    return position.to(tl.uint32, bitcast=True) < tl.cast(size, tl.uint32)


@triton.jit
def find_cells(
    dy, dx, tap, base_y, base_x, dilation_h, dilation_w, height, width, KERNEL_W: tl.constexpr
):
    """The cells that float32 offsets of ``tap`` point into.

    Returns the in-plane index of the top left corner, the two fractions, and for each corner (top
    left, top right, bottom left, bottom right) whether it lies inside the map.
    """
    y, fy = split_offset(base_y + (tap // KERNEL_W) * dilation_h, dy)
    x, fx = split_offset(base_x + (tap % KERNEL_W) * dilation_w, dx)
    top = inside(y, height)
    bottom = inside(y + 1, height)
    left = inside(x, width)
    right = inside(x + 1, width)
    return y * width + x, fy, fx, top & left, top & right, bottom & left, bottom & right


@triton.jit
def locate(
    offset_ptr, row, tap, p, base_y, base_x, dilation_h, dilation_w, pixels, height, width, valid,
    KERNEL_W: tl.constexpr,
):  # fmt: skip
    """Load the offsets of ``row`` (offset group and tap): ``find_cells`` of these.

    ``offset_ptr`` is the start of the frame.
    """
    idx = tl.cast(row, tl.int64) * 2 * pixels + p
    # An invalid lane reads an offset to nowhere, and needs no further test.
    dy = tl.load(offset_ptr + idx, mask=valid, other=-1.0 * FAR).to(tl.float32)
    dx = tl.load(offset_ptr + idx + pixels, mask=valid, other=-1.0 * FAR).to(tl.float32)
    return find_cells(dy, dx, tap, base_y, base_x, dilation_h, dilation_w, height, width, KERNEL_W)


@triton.jit
def load_corners(plane_ptr, cell, width, tl_in, tr_in, bl_in, br_in):
    """The four corner values in float32, zero where they lie outside the map."""
    pointers = plane_ptr + cell
    top_left = tl.load(pointers, mask=tl_in, other=0.0).to(tl.float32)
    top_right = tl.load(pointers + 1, mask=tr_in, other=0.0).to(tl.float32)
    bottom_left = tl.load(pointers + width, mask=bl_in, other=0.0).to(tl.float32)
    bottom_right = tl.load(pointers + width + 1, mask=br_in, other=0.0).to(tl.float32)
    return top_left, top_right, bottom_left, bottom_right


@triton.jit
def sample(plane_ptr, cell, fy, fx, width, tl_in, tr_in, bl_in, br_in):
    """The bilinear value. Weighted sums, not differences: those turn infinities into NaN."""
    v00, v01, v10, v11 = load_corners(plane_ptr, cell, width, tl_in, tr_in, bl_in, br_in)
    top = v00 * (1 - fx) + v01 * fx
    bottom = v10 * (1 - fx) + v11 * fx
    return top * (1 - fy) + bottom * fy


@triton.jit
def load_mask(mask_ptr, row, p, pixels, valid):
    """The modulation of ``row`` (offset group and tap) in float32."""
    idx = tl.cast(row, tl.int64) * pixels + p
    return tl.load(mask_ptr + idx, mask=valid, other=0.0).to(tl.float32)


@triton.jit
def zero_accumulators(COUNT: tl.constexpr, BLOCK_P: tl.constexpr):
    """``COUNT`` float32 accumulators as a tuple: a block would pad to a power of two."""
    accumulators = ()
    for _ in tl.static_range(COUNT):
        accumulators = accumulators + (tl.zeros([BLOCK_P], tl.float32),)
    return accumulators
