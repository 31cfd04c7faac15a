"""Forward kernels.

A program owns one block of pixels, one block of outputs and one window. It walks over the
window's (frame, dilation) pairs and, for each, over the rows: one row is one offset group and one
tap, so all channels of the group share the row's coordinates. Two ways to mix channels:
``forward_rows`` keeps one accumulator per output and takes one row at a time (no padding of the
outputs, no shared memory), ``forward_dot`` takes ``BLOCK_R`` rows at a time into ``tl.dot``.

Where that gives too few programs to fill the device, pairs and rows are split over programs; they
write partial sums, which ``sum_partials`` adds in a fixed order.
"""

import triton
import triton.language as tl

from .sampling import load_mask, locate, pick, sample, zero_accumulators


@triton.jit
def _add_outer(
    accumulators, weight_ptr, samples, o_begin, o_stride,
    OUT_PER_GROUP: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """Add ``weight[o] * samples`` to the accumulator of every output of the block."""
    updated = ()
    for i in tl.static_range(BLOCK_O):
        o = o_begin + i
        if OUT_PER_GROUP % BLOCK_O != 0:
            o = tl.minimum(o, OUT_PER_GROUP - 1)  # the surplus is never stored
        weight = tl.load(weight_ptr + o * o_stride)
        updated = updated + (accumulators[i] + weight * samples,)
    return updated


@triton.jit
def forward_rows(
    out_ptr, input_ptr, offsets, masks, weight_ptr, bias_ptr, frame_weight_ptr,
    pads_h, pads_w, dilations_h, dilations_w,
    channels, height, width, out_channels, out_width, pixels, offset_groups, frames, windows,
    pair_splits, pairs_per_split, row_splits, rows_per_split,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, KERNEL_W: tl.constexpr, TAPS: tl.constexpr,
    PER_OFFSET_GROUP: tl.constexpr, IN_PER_GROUP: tl.constexpr, OUT_PER_GROUP: tl.constexpr,
    HAS_MASK: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_FRAME_WEIGHTS: tl.constexpr,
    PARTIAL: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """``out [windows, Co, P]``, or float32 ``[splits, windows, Co, P]`` where ``PARTIAL``."""
    blocks_per_group: tl.constexpr = (OUT_PER_GROUP + BLOCK_O - 1) // BLOCK_O
    pixel_blocks = tl.cdiv(pixels, BLOCK_P)
    pid = tl.program_id(0)
    p = (pid % pixel_blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
    rest = pid // pixel_blocks
    row_split = rest % row_splits
    rest = rest // row_splits
    pair_split = rest % pair_splits
    rest = rest // pair_splits
    out_blocks = blocks_per_group * (channels // IN_PER_GROUP)
    out_block = rest % out_blocks
    window = rest // out_blocks
    group = out_block // blocks_per_group
    o_begin = (out_block % blocks_per_group) * BLOCK_O

    valid = p < pixels
    base_y = (p // out_width) * STRIDE_H
    base_x = (p % out_width) * STRIDE_W
    plane = tl.cast(height, tl.int64) * width
    first_channel = group * IN_PER_GROUP
    row_end = tl.cdiv(first_channel + IN_PER_GROUP, PER_OFFSET_GROUP) * TAPS
    row_begin = (first_channel // PER_OFFSET_GROUP) * TAPS + row_split * rows_per_split
    row_end = tl.minimum(row_end, row_begin + rows_per_split)
    pair_begin = pair_split * pairs_per_split
    pair_end = tl.minimum(pair_begin + pairs_per_split, frames * len(offsets))

    accumulators = zero_accumulators(BLOCK_O, BLOCK_P)
    for pair in range(pair_begin, pair_end):
        t = pair // len(offsets)
        d = pair % len(offsets)
        n = tl.cast(window, tl.int64) * frames + t
        offset_ptr = pick(offsets, d) + n * (2 * TAPS) * offset_groups * pixels
        mask_ptr = pick(masks, d) + n * TAPS * offset_groups * pixels
        dilation_h = pick(dilations_h, d)
        dilation_w = pick(dilations_w, d)
        origin_y = base_y - pick(pads_h, d)
        origin_x = base_x - pick(pads_w, d)
        frame_ptr = input_ptr + n * channels * plane
        group_ptr = weight_ptr + (d * out_channels + group * OUT_PER_GROUP) * IN_PER_GROUP * TAPS
        for row in tl.range(row_begin, row_end, loop_unroll_factor=UNROLL):
            tap = row % TAPS
            cell, fy, fx, in00, in01, in10, in11 = locate(
                offset_ptr, row, tap, p, origin_y, origin_x, dilation_h, dilation_w,
                pixels, height, width, valid, KERNEL_W,
            )  # fmt: skip
            factor = 1.0
            if HAS_MASK:
                factor = load_mask(mask_ptr, row, p, pixels, valid)
            if HAS_FRAME_WEIGHTS:
                factor = factor * tl.load(frame_weight_ptr + t)
            if PER_OFFSET_GROUP == 1:
                channel = row // TAPS
                samples = sample(
                    frame_ptr + channel * plane, cell, fy, fx, width, in00, in01, in10, in11
                )
                accumulators = _add_outer(
                    accumulators, group_ptr + (channel - first_channel) * TAPS + tap,
                    samples * factor, o_begin, IN_PER_GROUP * TAPS, OUT_PER_GROUP, BLOCK_O,
                )  # fmt: skip
            else:
                # An offset group may reach into the neighbouring weight groups.
                start = (row // TAPS) * PER_OFFSET_GROUP
                stop = tl.minimum(start + PER_OFFSET_GROUP, first_channel + IN_PER_GROUP)
                for channel in range(tl.maximum(start, first_channel), stop):
                    samples = sample(
                        frame_ptr + channel * plane, cell, fy, fx, width, in00, in01, in10, in11
                    )
                    accumulators = _add_outer(
                        accumulators, group_ptr + (channel - first_channel) * TAPS + tap,
                        samples * factor, o_begin, IN_PER_GROUP * TAPS, OUT_PER_GROUP, BLOCK_O,
                    )  # fmt: skip

    slab = (row_split * pair_splits + pair_split) * windows + window if PARTIAL else window
    out_ptr += tl.cast(slab, tl.int64) * out_channels * pixels
    for i in tl.static_range(BLOCK_O):
        result = accumulators[i]
        o = group * OUT_PER_GROUP + o_begin + i
        limit = pixels
        if OUT_PER_GROUP % BLOCK_O != 0:
            limit = tl.where(o_begin + i < OUT_PER_GROUP, pixels, 0)
        if HAS_BIAS and not PARTIAL:
            result += tl.load(bias_ptr + o, mask=o_begin + i < OUT_PER_GROUP, other=0.0)
        pointers = out_ptr + tl.cast(o, tl.int64) * pixels + p
        tl.store(pointers, result.to(out_ptr.dtype.element_ty), mask=p < limit)


@triton.jit
def forward_dot(
    out_ptr, input_ptr, offsets, masks, weight_ptr, bias_ptr, frame_weight_ptr,
    pads_h, pads_w, dilations_h, dilations_w,
    channels, height, width, out_channels, out_width, pixels, offset_groups, frames, windows,
    pair_splits, pairs_per_split, row_splits, rows_per_split,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, KERNEL_W: tl.constexpr, TAPS: tl.constexpr,
    PER_OFFSET_GROUP: tl.constexpr, IN_PER_GROUP: tl.constexpr, OUT_PER_GROUP: tl.constexpr,
    HAS_MASK: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_FRAME_WEIGHTS: tl.constexpr,
    PARTIAL: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_R: tl.constexpr,
    NARROW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As ``forward_rows``; where ``NARROW``, the operands of the dot have the input's dtype."""
    blocks_per_group: tl.constexpr = (OUT_PER_GROUP + BLOCK_O - 1) // BLOCK_O
    pixel_blocks = tl.cdiv(pixels, BLOCK_P)
    pid = tl.program_id(0)
    p = (pid % pixel_blocks) * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    rest = pid // pixel_blocks
    row_split = rest % row_splits
    rest = rest // row_splits
    pair_split = rest % pair_splits
    rest = rest // pair_splits
    out_blocks = blocks_per_group * (channels // IN_PER_GROUP)
    out_block = rest % out_blocks
    window = rest // out_blocks
    group = out_block // blocks_per_group
    o = (out_block % blocks_per_group) * BLOCK_O + tl.arange(0, BLOCK_O)[:, None]

    valid = p < pixels
    base_y = (p // out_width) * STRIDE_H
    base_x = (p % out_width) * STRIDE_W
    plane = tl.cast(height, tl.int64) * width
    first_channel = group * IN_PER_GROUP
    row_end = tl.cdiv(first_channel + IN_PER_GROUP, PER_OFFSET_GROUP) * TAPS
    row_begin = (first_channel // PER_OFFSET_GROUP) * TAPS + row_split * rows_per_split
    row_end = tl.minimum(row_end, row_begin + rows_per_split)
    pair_begin = pair_split * pairs_per_split
    pair_end = tl.minimum(pair_begin + pairs_per_split, frames * len(offsets))
    row_idx = tl.arange(0, BLOCK_R)

    accumulator = tl.zeros([BLOCK_O, BLOCK_P], tl.float32)
    for pair in range(pair_begin, pair_end):
        t = pair // len(offsets)
        d = pair % len(offsets)
        n = tl.cast(window, tl.int64) * frames + t
        offset_ptr = pick(offsets, d) + n * (2 * TAPS) * offset_groups * pixels
        mask_ptr = pick(masks, d) + n * TAPS * offset_groups * pixels
        dilation_h = pick(dilations_h, d)
        dilation_w = pick(dilations_w, d)
        origin_y = base_y - pick(pads_h, d)
        origin_x = base_x - pick(pads_w, d)
        frame_ptr = input_ptr + n * channels * plane
        group_ptr = weight_ptr + (d * out_channels + group * OUT_PER_GROUP) * IN_PER_GROUP * TAPS
        for row_start in range(row_begin, row_end, BLOCK_R):
            row = row_start + row_idx
            tap = row % TAPS
            row_valid = row < row_end
            here = row_valid[:, None] & valid
            cell, fy, fx, in00, in01, in10, in11 = locate(
                offset_ptr, row[:, None], tap[:, None], p, origin_y, origin_x,
                dilation_h, dilation_w, pixels, height, width, here, KERNEL_W,
            )  # fmt: skip
            factor = 1.0
            if HAS_MASK:
                factor = load_mask(mask_ptr, row[:, None], p, pixels, here)
            if HAS_FRAME_WEIGHTS:
                factor = factor * tl.load(frame_weight_ptr + t)
            for j in range(PER_OFFSET_GROUP):
                channel = (row // TAPS) * PER_OFFSET_GROUP + j
                local = channel - first_channel
                mine = row_valid & (local >= 0) & (local < IN_PER_GROUP)
                wanted = mine[:, None]
                samples = sample(
                    frame_ptr + channel[:, None] * plane, cell, fy, fx, width,
                    in00 & wanted, in01 & wanted, in10 & wanted, in11 & wanted,
                ) * factor  # fmt: skip
                weight = tl.load(
                    group_ptr + o * (IN_PER_GROUP * TAPS) + (local * TAPS + tap)[None, :],
                    mask=(o < OUT_PER_GROUP) & mine[None, :],
                    other=0.0,
                )
                if NARROW:
                    weight = weight.to(input_ptr.dtype.element_ty)
                    samples = samples.to(input_ptr.dtype.element_ty)
                accumulator = tl.dot(weight, samples, accumulator, input_precision=PRECISION)

    slab = (row_split * pair_splits + pair_split) * windows + window if PARTIAL else window
    out_ptr += tl.cast(slab, tl.int64) * out_channels * pixels
    out_channel = group * OUT_PER_GROUP + o
    if HAS_BIAS and not PARTIAL:
        accumulator += tl.load(bias_ptr + out_channel, mask=o < OUT_PER_GROUP, other=0.0)
    pointers = out_ptr + tl.cast(out_channel, tl.int64) * pixels + p
    result = accumulator.to(out_ptr.dtype.element_ty)
    tl.store(pointers, result, mask=(o < OUT_PER_GROUP) & valid)


@triton.jit
def sum_partials(
    out_ptr, partial_ptr, bias_ptr, elements, out_channels, pixels, splits,
    HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """``out [windows, Co, P]`` = sum of ``partial [splits, windows, Co, P]``, plus the bias."""
    idx = tl.cast(tl.program_id(0), tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = idx < elements
    total = tl.zeros([BLOCK], tl.float32)
    for split in range(splits):
        pointers = partial_ptr + tl.cast(split, tl.int64) * elements + idx
        total += tl.load(pointers, mask=valid, other=0.0)
    if HAS_BIAS:
        total += tl.load(bias_ptr + (idx // pixels) % out_channels, mask=valid, other=0.0)
    tl.store(out_ptr + idx, total.to(out_ptr.dtype.element_ty), mask=valid)
