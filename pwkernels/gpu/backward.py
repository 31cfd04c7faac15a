"""Backward kernels.

``data_*``: gradients of offsets, masks and input. A program owns one block of pixels of one frame
and one dilation and a range of rows (offset group and tap). The gradient of a sample is a product
with the output gradient; the sum over an offset group's channels stays in registers, so offset and
mask gradients are written once, and the input gradient is scattered with atomics.

``weight_*``: a program owns some rows (channel and tap) of one dilation and a block of outputs, and
sums over a share of all pixels of all frames; the shares are added in a fixed order afterwards.
"""

import triton
import triton.language as tl

from .sampling import load_corners, load_mask, locate, pick, sample, zero_accumulators


@triton.jit
def _scatter(
    plane_ptr, cell, width, fy, fx, value, in00, in01, in10, in11, scale,
    FIXED_POINT: tl.constexpr,
):  # fmt: skip
    """Add ``value`` to the four corners, by their bilinear weights.

    ``FIXED_POINT``: as multiples of ``1 / scale`` in 64-bit integers, whose sum does not depend
    on the order of the additions.
    """
    top = value * (1 - fy)
    bottom = value * fy
    v00 = top * (1 - fx)
    v01 = top * fx
    v10 = bottom * (1 - fx)
    v11 = bottom * fx
    if FIXED_POINT:
        v00 = (v00 * scale).to(tl.int64)
        v01 = (v01 * scale).to(tl.int64)
        v10 = (v10 * scale).to(tl.int64)
        v11 = (v11 * scale).to(tl.int64)
    pointers = plane_ptr + cell
    tl.atomic_add(pointers, v00, mask=in00, sem="relaxed")
    tl.atomic_add(pointers + 1, v01, mask=in01, sem="relaxed")
    tl.atomic_add(pointers + width, v10, mask=in10, sem="relaxed")
    tl.atomic_add(pointers + width + 1, v11, mask=in11, sem="relaxed")


@triton.jit
def _load_outputs(grad_ptr, p, pixels, valid, COUNT: tl.constexpr):
    """The output gradients of all ``COUNT`` outputs at the block's pixels, as a tuple."""
    grads = ()
    for o in tl.static_range(COUNT):
        pointers = grad_ptr + tl.cast(o, tl.int64) * pixels + p
        grads = grads + (tl.load(pointers, mask=valid, other=0.0).to(tl.float32),)
    return grads


@triton.jit
def _sample_gradient(
    grads, grad_ptr, weight_ptr, o_stride, p, pixels, valid,
    OUT_PER_GROUP: tl.constexpr, PRELOAD: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Gradient of one channel's samples: sum over the outputs of weight times their gradient."""
    total = tl.zeros([BLOCK_P], tl.float32)
    if PRELOAD:
        for o in tl.static_range(OUT_PER_GROUP):
            total += tl.load(weight_ptr + o * o_stride) * grads[o]
    else:
        for o in range(OUT_PER_GROUP):
            pointers = grad_ptr + tl.cast(o, tl.int64) * pixels + p
            grad = tl.load(pointers, mask=valid, other=0.0).to(tl.float32)
            total += tl.load(weight_ptr + o * o_stride) * grad
    return total


@triton.jit
def data_rows(
    grad_out_ptr, input_ptr, offsets, masks, weight_ptr, frame_weight_ptr,
    grad_offsets, grad_masks, grad_input_ptr, scale_ptr,
    pads_h, pads_w, dilations_h, dilations_w,
    channels, height, width, out_channels, out_width, pixels, offset_groups, frames,
    row_splits, rows_per_split,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, KERNEL_W: tl.constexpr, TAPS: tl.constexpr,
    PER_OFFSET_GROUP: tl.constexpr, IN_PER_GROUP: tl.constexpr, OUT_PER_GROUP: tl.constexpr,
    HAS_MASK: tl.constexpr, HAS_FRAME_WEIGHTS: tl.constexpr,
    NEED_INPUT: tl.constexpr, NEED_OFFSETS: tl.constexpr, NEED_MASKS: tl.constexpr,
    FIXED_POINT: tl.constexpr, PRELOAD: tl.constexpr, BLOCK_P: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """One row at a time; ``PRELOAD`` (one weight group) keeps the output gradients in registers."""
    pixel_blocks = tl.cdiv(pixels, BLOCK_P)
    pid = tl.program_id(0)
    p = (pid % pixel_blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
    rest = pid // pixel_blocks
    row_split = rest % row_splits
    rest = rest // row_splits
    d = rest % len(offsets)
    frame = rest // len(offsets)
    n = tl.cast(frame, tl.int64)

    valid = p < pixels
    base_y = (p // out_width) * STRIDE_H - pick(pads_h, d)
    base_x = (p % out_width) * STRIDE_W - pick(pads_w, d)
    dilation_h = pick(dilations_h, d)
    dilation_w = pick(dilations_w, d)
    plane = tl.cast(height, tl.int64) * width
    offset_start = n * (2 * TAPS) * offset_groups * pixels
    mask_start = n * TAPS * offset_groups * pixels
    offset_ptr = pick(offsets, d) + offset_start
    mask_ptr = pick(masks, d) + mask_start
    grad_offset_ptr = pick(grad_offsets, d) + offset_start
    grad_mask_ptr = pick(grad_masks, d) + mask_start
    grad_out_ptr += (n // frames) * out_channels * pixels
    dilation_weight_ptr = weight_ptr + d * out_channels * IN_PER_GROUP * TAPS
    scale = 1.0
    if FIXED_POINT:
        scale = tl.load(scale_ptr)
    grads = ()
    if PRELOAD:
        grads = _load_outputs(grad_out_ptr, p, pixels, valid, OUT_PER_GROUP)

    row_begin = row_split * rows_per_split
    row_end = tl.minimum(row_begin + rows_per_split, offset_groups * TAPS)
    for row in tl.range(row_begin, row_end, loop_unroll_factor=UNROLL):
        tap = row % TAPS
        cell, fy, fx, in00, in01, in10, in11 = locate(
            offset_ptr, row, tap, p, base_y, base_x, dilation_h, dilation_w,
            pixels, height, width, valid, KERNEL_W,
        )  # fmt: skip
        factor = 1.0
        if HAS_FRAME_WEIGHTS:
            factor = tl.load(frame_weight_ptr + frame % frames)
        modulation = 1.0
        if HAS_MASK:
            modulation = load_mask(mask_ptr, row, p, pixels, valid)
        grad_y = tl.zeros([BLOCK_P], tl.float32)
        grad_x = tl.zeros([BLOCK_P], tl.float32)
        grad_mask = tl.zeros([BLOCK_P], tl.float32)
        for j in range(PER_OFFSET_GROUP):
            channel = (row // TAPS) * PER_OFFSET_GROUP + j
            group = channel // IN_PER_GROUP
            local = (channel % IN_PER_GROUP) * TAPS + tap
            grad = factor * _sample_gradient(
                grads,
                grad_out_ptr + tl.cast(group * OUT_PER_GROUP, tl.int64) * pixels,
                dilation_weight_ptr + group * (OUT_PER_GROUP * IN_PER_GROUP * TAPS) + local,
                IN_PER_GROUP * TAPS, p, pixels, valid, OUT_PER_GROUP, PRELOAD, BLOCK_P,
            )  # fmt: skip
            plane_idx = (n * channels + channel) * plane
            if NEED_OFFSETS or NEED_MASKS:
                v00, v01, v10, v11 = load_corners(
                    input_ptr + plane_idx, cell, width, in00, in01, in10, in11
                )
                top = v00 * (1 - fx) + v01 * fx
                bottom = v10 * (1 - fx) + v11 * fx
                # Each corner is masked on its own: exactly at y == -1 the value is zero and
                # this slope is not.
                grad_y += grad * (bottom - top)
                grad_x += grad * ((v01 - v00) * (1 - fy) + (v11 - v10) * fy)
                grad_mask += grad * (top * (1 - fy) + bottom * fy)
            if NEED_INPUT:
                _scatter(
                    grad_input_ptr + plane_idx, cell, width, fy, fx, grad * modulation,
                    in00, in01, in10, in11, scale, FIXED_POINT,
                )  # fmt: skip
        if NEED_OFFSETS:
            idx = tl.cast(row, tl.int64) * 2 * pixels + p
            kind = grad_offset_ptr.dtype.element_ty
            tl.store(grad_offset_ptr + idx, (grad_y * modulation).to(kind), mask=valid)
            tl.store(grad_offset_ptr + idx + pixels, (grad_x * modulation).to(kind), mask=valid)
        if NEED_MASKS:
            idx = tl.cast(row, tl.int64) * pixels + p
            tl.store(grad_mask_ptr + idx, grad_mask.to(grad_mask_ptr.dtype.element_ty), mask=valid)


@triton.jit
def data_dot(
    grad_out_ptr, input_ptr, offsets, masks, weight_ptr, frame_weight_ptr,
    grad_offsets, grad_masks, grad_input_ptr, scale_ptr,
    pads_h, pads_w, dilations_h, dilations_w,
    channels, height, width, out_channels, out_width, pixels, offset_groups, frames,
    row_splits, rows_per_split,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, KERNEL_W: tl.constexpr, TAPS: tl.constexpr,
    PER_OFFSET_GROUP: tl.constexpr, IN_PER_GROUP: tl.constexpr, OUT_PER_GROUP: tl.constexpr,
    HAS_MASK: tl.constexpr, HAS_FRAME_WEIGHTS: tl.constexpr,
    NEED_INPUT: tl.constexpr, NEED_OFFSETS: tl.constexpr, NEED_MASKS: tl.constexpr,
    FIXED_POINT: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr,
    BLOCK_R: tl.constexpr, NARROW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As ``data_rows``, ``BLOCK_R`` rows at a time; a grouped weight is taken as a dense one."""
    pixel_blocks = tl.cdiv(pixels, BLOCK_P)
    pid = tl.program_id(0)
    p = (pid % pixel_blocks) * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
    rest = pid // pixel_blocks
    row_split = rest % row_splits
    rest = rest // row_splits
    d = rest % len(offsets)
    frame = rest // len(offsets)
    n = tl.cast(frame, tl.int64)

    valid = p < pixels
    base_y = (p // out_width) * STRIDE_H - pick(pads_h, d)
    base_x = (p % out_width) * STRIDE_W - pick(pads_w, d)
    dilation_h = pick(dilations_h, d)
    dilation_w = pick(dilations_w, d)
    plane = tl.cast(height, tl.int64) * width
    offset_start = n * (2 * TAPS) * offset_groups * pixels
    mask_start = n * TAPS * offset_groups * pixels
    offset_ptr = pick(offsets, d) + offset_start
    mask_ptr = pick(masks, d) + mask_start
    grad_offset_ptr = pick(grad_offsets, d) + offset_start
    grad_mask_ptr = pick(grad_masks, d) + mask_start
    grad_out_ptr += (n // frames) * out_channels * pixels
    dilation_weight_ptr = weight_ptr + d * out_channels * IN_PER_GROUP * TAPS
    scale = 1.0
    if FIXED_POINT:
        scale = tl.load(scale_ptr)
    output_idx = tl.arange(0, BLOCK_O)
    row_idx = tl.arange(0, BLOCK_R)

    row_begin = row_split * rows_per_split
    row_end = tl.minimum(row_begin + rows_per_split, offset_groups * TAPS)
    for row_start in range(row_begin, row_end, BLOCK_R):
        rows = row_start + row_idx
        row = rows[:, None]
        tap = row % TAPS
        here = (row < row_end) & valid
        cell, fy, fx, in00, in01, in10, in11 = locate(
            offset_ptr, row, tap, p, base_y, base_x, dilation_h, dilation_w,
            pixels, height, width, here, KERNEL_W,
        )  # fmt: skip
        factor = 1.0
        if HAS_FRAME_WEIGHTS:
            factor = tl.load(frame_weight_ptr + frame % frames)
        modulation = 1.0
        if HAS_MASK:
            modulation = load_mask(mask_ptr, row, p, pixels, here)
        grad_y = tl.zeros([BLOCK_R, BLOCK_P], tl.float32)
        grad_x = tl.zeros([BLOCK_R, BLOCK_P], tl.float32)
        grad_mask = tl.zeros([BLOCK_R, BLOCK_P], tl.float32)
        for j in range(PER_OFFSET_GROUP):
            channel = (row // TAPS) * PER_OFFSET_GROUP + j
            grad = tl.zeros([BLOCK_R, BLOCK_P], tl.float32)
            local = (channel % IN_PER_GROUP) * TAPS + tap
            for o_start in range(0, out_channels, BLOCK_O):
                o = o_start + output_idx
                same_group = (o // OUT_PER_GROUP)[None, :] == channel // IN_PER_GROUP
                weight = tl.load(
                    dilation_weight_ptr + o[None, :] * (IN_PER_GROUP * TAPS) + local,
                    mask=same_group & (o < out_channels)[None, :] & (row < row_end),
                    other=0.0,
                )
                grad_out = tl.load(
                    grad_out_ptr + tl.cast(o, tl.int64)[:, None] * pixels + p,
                    mask=(o < out_channels)[:, None] & valid,
                    other=0.0,
                )
                if NARROW:
                    weight = weight.to(input_ptr.dtype.element_ty)
                else:
                    grad_out = grad_out.to(tl.float32)
                grad = tl.dot(weight, grad_out, grad, input_precision=PRECISION)
            grad = grad * factor
            plane_idx = (n * channels + channel) * plane
            if NEED_OFFSETS or NEED_MASKS:
                v00, v01, v10, v11 = load_corners(
                    input_ptr + plane_idx, cell, width, in00, in01, in10, in11
                )
                top = v00 * (1 - fx) + v01 * fx
                bottom = v10 * (1 - fx) + v11 * fx
                grad_y += grad * (bottom - top)
                grad_x += grad * ((v01 - v00) * (1 - fy) + (v11 - v10) * fy)
                grad_mask += grad * (top * (1 - fy) + bottom * fy)
            if NEED_INPUT:
                _scatter(
                    grad_input_ptr + plane_idx, cell, width, fy, fx, grad * modulation,
                    in00, in01, in10, in11, scale, FIXED_POINT,
                )  # fmt: skip
        if NEED_OFFSETS:
            idx = tl.cast(row, tl.int64) * 2 * pixels + p
            kind = grad_offset_ptr.dtype.element_ty
            tl.store(grad_offset_ptr + idx, (grad_y * modulation).to(kind), mask=here)
            tl.store(grad_offset_ptr + idx + pixels, (grad_x * modulation).to(kind), mask=here)
        if NEED_MASKS:
            idx = tl.cast(row, tl.int64) * pixels + p
            tl.store(grad_mask_ptr + idx, grad_mask.to(grad_mask_ptr.dtype.element_ty), mask=here)


@triton.jit
def weight_rows(
    out_ptr, grad_out_ptr, input_ptr, offsets, masks, frame_weight_ptr,
    pads_h, pads_w, dilations_h, dilations_w,
    channels, height, width, out_channels, out_width, pixels, offset_groups, frames,
    items, splits, items_per_split,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, KERNEL_W: tl.constexpr, TAPS: tl.constexpr,
    PER_OFFSET_GROUP: tl.constexpr, IN_PER_GROUP: tl.constexpr, OUT_PER_GROUP: tl.constexpr,
    HAS_MASK: tl.constexpr, HAS_FRAME_WEIGHTS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """``out [splits, D, Co, C/groups, K]``; one accumulator per output and row of the block."""
    blocks_per_group: tl.constexpr = (OUT_PER_GROUP + BLOCK_O - 1) // BLOCK_O
    rows: tl.constexpr = IN_PER_GROUP * TAPS
    row_blocks: tl.constexpr = (rows + BLOCK_R - 1) // BLOCK_R
    pid = tl.program_id(0)
    split = pid % splits
    rest = pid // splits
    first_row = (rest % row_blocks) * BLOCK_R
    rest = rest // row_blocks
    o_begin = (rest % blocks_per_group) * BLOCK_O
    rest = rest // blocks_per_group
    groups = channels // IN_PER_GROUP
    group = rest % groups
    d = rest // groups

    pad_h = pick(pads_h, d)
    pad_w = pick(pads_w, d)
    dilation_h = pick(dilations_h, d)
    dilation_w = pick(dilations_w, d)
    offset_start_ptr = pick(offsets, d)
    mask_start_ptr = pick(masks, d)
    plane = tl.cast(height, tl.int64) * width
    pixel_blocks = tl.cdiv(pixels, BLOCK_P)
    accumulators = zero_accumulators(BLOCK_O * BLOCK_R, BLOCK_P)
    item_begin = split * items_per_split
    for item in range(item_begin, tl.minimum(item_begin + items_per_split, items)):
        frame = item // pixel_blocks
        n = tl.cast(frame, tl.int64)
        p = (item % pixel_blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
        valid = p < pixels
        base_y = (p // out_width) * STRIDE_H - pad_h
        base_x = (p % out_width) * STRIDE_W - pad_w
        offset_ptr = offset_start_ptr + n * (2 * TAPS) * offset_groups * pixels
        mask_ptr = mask_start_ptr + n * TAPS * offset_groups * pixels
        factor = 1.0
        if HAS_FRAME_WEIGHTS:
            factor = tl.load(frame_weight_ptr + frame % frames)
        row_samples = ()
        for i in tl.static_range(BLOCK_R):
            row = tl.minimum(first_row + i, rows - 1)  # the surplus is never stored
            channel = group * IN_PER_GROUP + row // TAPS
            offset_row = (channel // PER_OFFSET_GROUP) * TAPS + row % TAPS
            cell, fy, fx, in00, in01, in10, in11 = locate(
                offset_ptr, offset_row, row % TAPS, p, base_y, base_x, dilation_h, dilation_w,
                pixels, height, width, valid, KERNEL_W,
            )  # fmt: skip
            samples = factor * sample(
                input_ptr + (n * channels + channel) * plane,
                cell, fy, fx, width, in00, in01, in10, in11,
            )  # fmt: skip
            if HAS_MASK:
                samples = samples * load_mask(mask_ptr, offset_row, p, pixels, valid)
            row_samples = row_samples + (samples,)
        grad_ptr = grad_out_ptr + (n // frames) * out_channels * pixels + p
        updated = ()
        for o in tl.static_range(BLOCK_O):
            local = o_begin + o
            if OUT_PER_GROUP % BLOCK_O != 0:
                local = tl.minimum(local, OUT_PER_GROUP - 1)
            idx = tl.cast(group * OUT_PER_GROUP + local, tl.int64) * pixels
            grad = tl.load(grad_ptr + idx, mask=valid, other=0.0).to(tl.float32)
            for i in tl.static_range(BLOCK_R):
                updated = updated + (accumulators[o * BLOCK_R + i] + grad * row_samples[i],)
        accumulators = updated

    slab = (split * len(offsets) + d) * out_channels + group * OUT_PER_GROUP + o_begin
    out_ptr += tl.cast(slab, tl.int64) * rows + first_row
    for o in tl.static_range(BLOCK_O):
        for i in tl.static_range(BLOCK_R):
            inside = (o_begin + o < OUT_PER_GROUP) & (first_row + i < rows)
            total = tl.sum(accumulators[o * BLOCK_R + i], axis=0)
            tl.store(out_ptr + o * rows + i, total, mask=inside)


@triton.jit
def weight_dot(
    out_ptr, grad_out_ptr, input_ptr, offsets, masks, frame_weight_ptr,
    pads_h, pads_w, dilations_h, dilations_w,
    channels, height, width, out_channels, out_width, pixels, offset_groups, frames,
    items, splits, items_per_split,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, KERNEL_W: tl.constexpr, TAPS: tl.constexpr,
    PER_OFFSET_GROUP: tl.constexpr, IN_PER_GROUP: tl.constexpr, OUT_PER_GROUP: tl.constexpr,
    HAS_MASK: tl.constexpr, HAS_FRAME_WEIGHTS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_R: tl.constexpr,
    NARROW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As ``weight_rows``, with the sum over pixels as ``tl.dot``."""
    blocks_per_group: tl.constexpr = (OUT_PER_GROUP + BLOCK_O - 1) // BLOCK_O
    rows: tl.constexpr = IN_PER_GROUP * TAPS
    row_blocks: tl.constexpr = (rows + BLOCK_R - 1) // BLOCK_R
    pid = tl.program_id(0)
    split = pid % splits
    rest = pid // splits
    row = ((rest % row_blocks) * BLOCK_R + tl.arange(0, BLOCK_R))[:, None]
    rest = rest // row_blocks
    o = ((rest % blocks_per_group) * BLOCK_O + tl.arange(0, BLOCK_O))[:, None]
    rest = rest // blocks_per_group
    groups = channels // IN_PER_GROUP
    group = rest % groups
    d = rest // groups

    pad_h = pick(pads_h, d)
    pad_w = pick(pads_w, d)
    dilation_h = pick(dilations_h, d)
    dilation_w = pick(dilations_w, d)
    offset_start_ptr = pick(offsets, d)
    mask_start_ptr = pick(masks, d)
    plane = tl.cast(height, tl.int64) * width
    pixel_blocks = tl.cdiv(pixels, BLOCK_P)
    channel = group * IN_PER_GROUP + row // TAPS
    tap = row % TAPS
    offset_row = (channel // PER_OFFSET_GROUP) * TAPS + tap
    accumulator = tl.zeros([BLOCK_O, BLOCK_R], tl.float32)
    item_begin = split * items_per_split
    for item in range(item_begin, tl.minimum(item_begin + items_per_split, items)):
        frame = item // pixel_blocks
        n = tl.cast(frame, tl.int64)
        p = (item % pixel_blocks) * BLOCK_P + tl.arange(0, BLOCK_P)[None, :]
        valid = p < pixels
        here = valid & (row < rows)
        cell, fy, fx, in00, in01, in10, in11 = locate(
            offset_start_ptr + n * (2 * TAPS) * offset_groups * pixels, offset_row, tap, p,
            (p // out_width) * STRIDE_H - pad_h, (p % out_width) * STRIDE_W - pad_w,
            dilation_h, dilation_w, pixels, height, width, here, KERNEL_W,
        )  # fmt: skip
        samples = sample(
            input_ptr + (n * channels + channel) * plane,
            cell, fy, fx, width, in00, in01, in10, in11,
        )  # fmt: skip
        if HAS_MASK:
            mask_ptr = mask_start_ptr + n * TAPS * offset_groups * pixels
            samples = samples * load_mask(mask_ptr, offset_row, p, pixels, here)
        if HAS_FRAME_WEIGHTS:
            samples = samples * tl.load(frame_weight_ptr + frame % frames)
        out_channel = (n // frames) * out_channels + group * OUT_PER_GROUP + o
        grad = tl.load(
            grad_out_ptr + out_channel * pixels + p, mask=valid & (o < OUT_PER_GROUP), other=0.0
        )
        if NARROW:
            samples = samples.to(input_ptr.dtype.element_ty)
        else:
            grad = grad.to(tl.float32)
        accumulator = tl.dot(grad, tl.trans(samples), accumulator, input_precision=PRECISION)

    slab = (split * len(offsets) + d) * out_channels + group * OUT_PER_GROUP + o
    row_of_out = tl.trans(row)
    tl.store(
        out_ptr + tl.cast(slab, tl.int64) * rows + row_of_out,
        accumulator,
        mask=(o < OUT_PER_GROUP) & (row_of_out < rows),
    )
