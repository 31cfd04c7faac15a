"""The warp with its offset convolutions inside: the offsets never reach memory.

For every (frame, dilation) pair a program computes the offsets of one block of pixels by an
implicit product of matrices, ``[pixels, 9 * F] x [9 * F, 2 * rows]`` (a row is one offset group and
one tap, as in ``forward``). The epilogue samples the map there and mixes channels by a second,
small product. Rows come in two blocks, each a power of two: 17 maps of 9 taps are 153 rows, and
128 + 32 wastes less than 256.

Features are read channels-last, which makes the blocks of both operands contiguous in F. A program
does some of the pairs (and of the rows); partial sums are added in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..geometry import same_padding
from . import launch
from .configs import OFFSET_CONV, Config, Workload, choose
from .sampling import FAR, find_cells, inside, pick, sample


@triton.jit
def _mix(
    accumulator, offsets, frame_ptr, weight_ptr, factor,
    row_begin, p_begin, pad_h, pad_w, dilation_h, dilation_w, height, width,
    ROWS: tl.constexpr, KERNEL_W: tl.constexpr, TAPS: tl.constexpr,
    PER_OFFSET_GROUP: tl.constexpr, IN_PER_GROUP: tl.constexpr, OUT_PER_GROUP: tl.constexpr,
    OUT_CHANNELS: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_O: tl.constexpr,
    NARROW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add what the offsets ``[2 * R, P]`` of a block of rows sample, mixed, to ``[O, P]``."""
    rows: tl.constexpr = offsets.shape[0] // 2
    block_p: tl.constexpr = offsets.shape[1]
    if rows > BLOCK_S:  # all at once would not stay in registers
        halves = tl.permute(tl.reshape(offsets, [2, rows, block_p]), [1, 2, 0])
        offsets, offsets2 = tl.split(halves)
        accumulator = _mix(
            accumulator, offsets, frame_ptr, weight_ptr, factor,
            row_begin, p_begin, pad_h, pad_w, dilation_h, dilation_w, height, width,
            ROWS, KERNEL_W, TAPS, PER_OFFSET_GROUP, IN_PER_GROUP, OUT_PER_GROUP, OUT_CHANNELS,
            BLOCK_S, BLOCK_O, NARROW, PRECISION,
        )  # fmt: skip
        return _mix(
            accumulator, offsets2, frame_ptr, weight_ptr, factor,
            row_begin + rows // 2, p_begin, pad_h, pad_w, dilation_h, dilation_w, height, width,
            ROWS, KERNEL_W, TAPS, PER_OFFSET_GROUP, IN_PER_GROUP, OUT_PER_GROUP, OUT_CHANNELS,
            BLOCK_S, BLOCK_O, NARROW, PRECISION,
        )  # fmt: skip
    else:
        # The product leaves 8 pixels of 4 rows in a warp. In lines of 32 pixels, as the loads
        # below want them, neighbouring lanes sample neighbouring places. Gathering a line from
        # itself changes no value; it makes the compiler move two tensors, the offsets, to that
        # layout, instead of every operand of every load.
        per_row: tl.constexpr = block_p // 32
        lines: tl.constexpr = rows * per_row
        dy, dx = tl.split(tl.permute(tl.reshape(offsets, [rows, 2, block_p]), [0, 2, 1]))
        itself = tl.broadcast_to(tl.arange(0, 32)[None, :], [lines, 32])
        dy = tl.gather(tl.reshape(dy, [lines, 32]), itself, 1)
        dx = tl.gather(tl.reshape(dx, [lines, 32]), itself, 1)
        line = tl.arange(0, lines)[:, None]
        row = row_begin + line // per_row
        p = p_begin + (line % per_row) * 32 + tl.arange(0, 32)[None, :]
        cell, fy, fx, in00, in01, in10, in11 = find_cells(
            tl.where(row < ROWS, dy, -1.0 * FAR), dx, row % TAPS, p // width - pad_h,
            p % width - pad_w, dilation_h, dilation_w, height, width, KERNEL_W,
        )  # fmt: skip
        first_channel = row // TAPS * PER_OFFSET_GROUP
        row = row_begin + tl.arange(0, rows)[None, :]
        o = tl.arange(0, BLOCK_O)[:, None]
        for j in tl.range(PER_OFFSET_GROUP, num_stages=1):
            plane = (first_channel + j) * (height * width)
            samples = sample(frame_ptr, plane + cell, fy, fx, width, in00, in01, in10, in11)
            # Zero where the output belongs to another weight group than the channel.
            local = row // TAPS * PER_OFFSET_GROUP + j - o // OUT_PER_GROUP * IN_PER_GROUP
            weight = tl.load(
                weight_ptr + o * (IN_PER_GROUP * TAPS) + local * TAPS + row % TAPS,
                mask=(row < ROWS) & (o < OUT_CHANNELS) & (local >= 0) & (local < IN_PER_GROUP),
                other=0.0,
            )
            weight = weight * factor
            if NARROW:
                weight = weight.to(frame_ptr.dtype.element_ty)
                samples = samples.to(frame_ptr.dtype.element_ty)
            samples = tl.reshape(samples, [rows, block_p])
            accumulator = tl.dot(weight, samples, accumulator, input_precision=PRECISION)
        return accumulator


@triton.jit
def _add_tap(
    offsets, patch, weight_ptr, row_begin, f,
    ROWS: tl.constexpr, FEATURES: tl.constexpr, BLOCK_F: tl.constexpr,
    NARROW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the product of ``patch [P, F]`` and one tap's weights to ``offsets [P, 2 * R]``."""
    column = 2 * row_begin + tl.arange(0, offsets.shape[1])
    column = tl.minimum(column, 2 * ROWS - 1)  # of the surplus nothing is sampled
    pointers = weight_ptr + (column * (9 * FEATURES))[None, :] + f[:, None]
    if FEATURES % BLOCK_F == 0:
        weight = tl.load(pointers)
    else:
        weight = tl.load(pointers, mask=(f < FEATURES)[:, None], other=0.0)
    if not NARROW:
        weight = weight.to(tl.float32)
    return tl.dot(patch, weight, offsets, input_precision=PRECISION)


@triton.jit
def offset_conv_forward(
    out_ptr, features_ptr, input_ptr, offset_weight_ptr, weight_ptr, frame_weight_ptr,
    pads_h, pads_w, dilations_h, dilations_w,
    channels, height, width, pixels, frames, windows, pair_splits, pairs_per_split, row_splits,
    FEATURES: tl.constexpr, ROWS: tl.constexpr, KERNEL_W: tl.constexpr, TAPS: tl.constexpr,
    PER_OFFSET_GROUP: tl.constexpr, IN_PER_GROUP: tl.constexpr, OUT_PER_GROUP: tl.constexpr,
    OUT_CHANNELS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_R2: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_O: tl.constexpr,
    NARROW_FEATURES: tl.constexpr, NARROW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``out [windows, Co, P]``, or float32 ``[splits, windows, Co, P]``.

    features ``[N, P, F]``, offset weight ``[D, rows, 2, 9, F]`` of the same dtype. Where
    ``NARROW_FEATURES`` (``NARROW``), the first (second) product's operands have the dtype of the
    features (of the input), else float32.
    """
    pixel_blocks = tl.cdiv(pixels, BLOCK_P)
    pid = tl.program_id(0)
    pixel_block = pid % pixel_blocks
    p = pixel_block * BLOCK_P + tl.arange(0, BLOCK_P)
    rest = pid // pixel_blocks
    row_split = rest % row_splits
    rest = rest // row_splits
    pair_split = rest % pair_splits
    window = rest // pair_splits

    # Pixels beyond the last are computed like any other (every load is bounded by the map) and
    # never stored.
    y = p // width
    x = p % width
    first_row = row_split * (BLOCK_R + BLOCK_R2)
    pair_begin = pair_split * pairs_per_split
    pair_end = tl.minimum(pair_begin + pairs_per_split, frames * len(dilations_h))
    f_idx = tl.arange(0, BLOCK_F)
    feature_blocks: tl.constexpr = (FEATURES + BLOCK_F - 1) // BLOCK_F

    accumulator = tl.zeros([BLOCK_O, BLOCK_P], tl.float32)
    for pair in range(pair_begin, pair_end):
        t = pair // len(dilations_h)
        d = pair % len(dilations_h)
        n = tl.cast(window, tl.int64) * frames + t
        dilation_h = pick(dilations_h, d)
        dilation_w = pick(dilations_w, d)
        features_frame = features_ptr + n * pixels * FEATURES
        offset_weights = offset_weight_ptr + d * (ROWS * 18 * FEATURES)
        offsets = tl.zeros([BLOCK_P, 2 * BLOCK_R], tl.float32)
        if BLOCK_R2 > 0:
            offsets2 = tl.zeros([BLOCK_P, 2 * BLOCK_R2], tl.float32)
        for step in range(9 * feature_blocks):
            tap = step // feature_blocks
            f = (step % feature_blocks) * BLOCK_F + f_idx
            source_y = y + (tap // 3 - 1) * dilation_h
            source_x = x + (tap % 3 - 1) * dilation_w
            wanted = (inside(source_y, height) & inside(source_x, width))[:, None]
            if FEATURES % BLOCK_F != 0:
                wanted = wanted & (f < FEATURES)[None, :]
            places = ((source_y * width + source_x) * FEATURES)[:, None] + f[None, :]
            patch = tl.load(features_frame + places, mask=wanted, other=0.0)
            if not NARROW_FEATURES:
                patch = patch.to(tl.float32)
            tap_weights = offset_weights + tap * FEATURES
            offsets = _add_tap(
                offsets, patch, tap_weights, first_row, f,
                ROWS, FEATURES, BLOCK_F, NARROW_FEATURES, PRECISION,
            )  # fmt: skip
            if BLOCK_R2 > 0:
                offsets2 = _add_tap(
                    offsets2, patch, tap_weights, first_row + BLOCK_R, f,
                    ROWS, FEATURES, BLOCK_F, NARROW_FEATURES, PRECISION,
                )  # fmt: skip

        factor = tl.load(frame_weight_ptr + t)
        # Adds 0; but what depends on the pair is not computed before the loop, to be kept in
        # registers throughout the product.
        p_begin = pixel_block * BLOCK_P + tl.minimum(pair, 0)
        row_begin = first_row + tl.minimum(pair, 0)
        pad_h = pick(pads_h, d)
        pad_w = pick(pads_w, d)
        frame_ptr = input_ptr + n * channels * pixels
        pair_weights = weight_ptr + d * (OUT_CHANNELS * IN_PER_GROUP * TAPS)
        accumulator = _mix(
            accumulator, tl.trans(offsets), frame_ptr, pair_weights, factor,
            row_begin, p_begin, pad_h, pad_w, dilation_h, dilation_w, height, width,
            ROWS, KERNEL_W, TAPS, PER_OFFSET_GROUP, IN_PER_GROUP, OUT_PER_GROUP, OUT_CHANNELS,
            BLOCK_S, BLOCK_O, NARROW, PRECISION,
        )  # fmt: skip
        if BLOCK_R2 > 0:
            accumulator = _mix(
                accumulator, tl.trans(offsets2), frame_ptr, pair_weights, factor,
                row_begin + BLOCK_R, p_begin, pad_h, pad_w, dilation_h, dilation_w, height, width,
                ROWS, KERNEL_W, TAPS, PER_OFFSET_GROUP, IN_PER_GROUP, OUT_PER_GROUP, OUT_CHANNELS,
                BLOCK_S, BLOCK_O, NARROW, PRECISION,
            )  # fmt: skip

    slab = (row_split * pair_splits + pair_split) * windows + window
    out_ptr += tl.cast(slab, tl.int64) * OUT_CHANNELS * pixels
    o = tl.arange(0, BLOCK_O)[:, None]
    pointers = out_ptr + o * pixels + p[None, :]
    wanted = (o < OUT_CHANNELS) & (p < pixels)[None, :]
    tl.store(pointers, accumulator.to(out_ptr.dtype.element_ty), mask=wanted)


# More outputs would not stay in registers beside the offsets.
MOST_OUTPUTS = 64
_INT32 = 2**31


def why_not(features: Tensor, input: Tensor, offset_weight: Tensor, weight: Tensor) -> str | None:
    """None if ``offset_conv_warp`` can run a call; else one sentence that says why it cannot."""
    if weight.shape[1] > MOST_OUTPUTS:
        return f"it has at most {MOST_OUTPUTS} outputs, and weight has {weight.shape[1]}"
    for name, tensor in (("features", features), ("input", input)):
        if tensor[:1].numel() >= _INT32:
            return f"its indices within a frame have 32 bits, and {name} is {tuple(tensor.shape)}"
    for name, tensor in (("offset_weight", offset_weight), ("weight", weight)):
        if tensor.numel() >= _INT32:
            return f"its indices of weights have 32 bits, and {name} is {tuple(tensor.shape)}"
    return None


def workload(
    features: Tensor, input: Tensor, offset_weight: Tensor, weight: Tensor, allow_tf32: bool
) -> Workload:
    """What the choice of a configuration depends on."""
    channels, taps = input.shape[1], weight.shape[3] * weight.shape[4]
    return Workload(
        dtype=launch.DTYPE_NAMES[features.dtype],
        channels=channels,
        out_channels=weight.shape[1],
        groups=channels // weight.shape[2],
        offset_groups=offset_weight.shape[1] // (2 * taps),
        taps=taps,
        dilations=weight.shape[0],
        pixels=input.shape[2] * input.shape[3],
        narrow=allow_tf32 or features.dtype != torch.float32,
        features=features.shape[1],
    )


def plan(
    features: Tensor,
    input: Tensor,
    offset_weight: Tensor,
    weight: Tensor,
    frame_weights: Tensor | None,
    dilations: Sequence[tuple[int, int]],
    *,
    config: Config | None = None,
    target: launch.Target | None = None,
    allow_tf32: bool | None = None,
) -> tuple[Tensor, list[launch.Launch]]:
    """The output (not yet computed) and the launches that compute it; see ``offset_conv_warp``.

    ``target`` and ``allow_tf32`` default to the input's device and PyTorch's matmul precision.
    """
    if allow_tf32 is None:
        allow_tf32 = torch.get_float32_matmul_precision() != "highest"
    target = launch.target_of(input) if target is None else target
    frames, channels, height, width = input.shape
    count, out_channels, in_per_group, kernel_h, kernel_w = weight.shape
    work = workload(features, input, offset_weight, weight, allow_tf32)
    rows = work.offset_groups * work.taps
    if frame_weights is None:
        frame_weights = weight.new_ones(1)
    window = frame_weights.numel()
    windows = frames // window
    config = config or choose(OFFSET_CONV, target.arch, work)

    out = input.new_empty((windows, out_channels, height, width))
    pixel_blocks = triton.cdiv(work.pixels, config.block_p)
    row_splits = triton.cdiv(rows, config.block_r + config.block_r2)
    programs = pixel_blocks * row_splits * windows
    most = launch.FORWARD_PARTIAL_BYTES // max(1, 4 * out.numel() * row_splits)
    wanted = launch.wanted_splits(target, config, programs)
    pair_splits, pairs_per_split = launch.share(window * count, wanted, max(1, most))
    splits = pair_splits * row_splits
    partial = out
    if splits > 1:
        partial = out.new_empty((splits, *out.shape), dtype=torch.float32)

    exact = target.arch.startswith(("gfx", "interp")) or not allow_tf32
    compiled = target.arch != "interpreter"  # which cannot compute with bfloat16
    pads_h, pads_w = zip(*(same_padding((kernel_h, kernel_w), d) for d in dilations), strict=True)
    dilations_h, dilations_w = zip(*dilations, strict=True)
    arguments: dict[str, Any] = {
        "out_ptr": partial,
        "features_ptr": features.permute(0, 2, 3, 1).contiguous(),
        "input_ptr": input.contiguous(),
        "offset_weight_ptr": offset_weight.to(features.dtype).permute(0, 1, 3, 4, 2).contiguous(),
        "weight_ptr": weight.contiguous(),
        "frame_weight_ptr": frame_weights.contiguous(),
        "pads_h": pads_h,
        "pads_w": pads_w,
        "dilations_h": dilations_h,
        "dilations_w": dilations_w,
        "channels": channels,
        "height": height,
        "width": width,
        "pixels": work.pixels,
        "frames": window,
        "windows": windows,
        "pair_splits": pair_splits,
        "pairs_per_split": pairs_per_split,
        "row_splits": row_splits,
        "FEATURES": work.features,
        "ROWS": rows,
        "KERNEL_W": kernel_w,
        "TAPS": work.taps,
        "PER_OFFSET_GROUP": channels // work.offset_groups,
        "IN_PER_GROUP": in_per_group,
        "OUT_PER_GROUP": work.out_per_group,
        "OUT_CHANNELS": out_channels,
        "BLOCK_P": config.block_p,
        "BLOCK_F": config.block_f,
        "BLOCK_R": config.block_r,
        "BLOCK_R2": config.block_r2,
        "BLOCK_S": config.block_s,
        "BLOCK_O": max(16, triton.next_power_of_2(out_channels)),
        "NARROW_FEATURES": compiled and features.dtype != torch.float32,
        "NARROW": compiled and input.dtype != torch.float32,
        "PRECISION": "ieee" if exact else "tf32",
    }
    launches = [
        launch.Launch(
            offset_conv_forward, programs * pair_splits, arguments, config.num_warps,
            config.num_stages,
        )
    ]  # fmt: skip
    if splits > 1:
        launches.append(launch.plan_sum(out, partial, weight, False))
    return out, launches


def offset_conv_warp(
    features: Tensor,
    input: Tensor,
    offset_weight: Tensor,
    weight: Tensor,
    frame_weights: Tensor | None,
    dilations: Sequence[tuple[int, int]],
    *,
    config: Config | None = None,
) -> Tensor:
    """The warp with its offset convolutions, ``[B, Co, H, W]`` in the input's dtype.

    The offsets are summed and used in float32; the offset weight is rounded to the features' dtype
    as a convolution in that dtype would. Float32 features are multiplied exactly (slowly), or in
    TF32 where ``torch.set_float32_matmul_precision`` allows it. The same bits from run to run.

    Args:
        features: ``[B * T, F, H, W]``; channels-last ones are read in place.
        input: ``[B * T, C, H, W]``.
        offset_weight: ``[D, 2 * G * K, F, 3, 3]``, taken in place where it is stored channels-last.
        weight: float32 ``[D, Co, C / groups, kh, kw]``, with the mean over dilations in it.
        frame_weights: float32 ``[T]``; None for T = 1.
        dilations: D times (h, w), of the offset convolution and of the warp.
        config: overrides the chosen configuration.

    Arguments are trusted: check them before, and ask ``why_not``.
    """
    with launch.guard(input):
        out, launches = plan(
            features, input, offset_weight, weight, frame_weights, dilations, config=config
        )
        for one in launches:
            one.run()
    return out
