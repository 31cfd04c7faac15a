"""Plans and runs the kernels: tensors in, tensors out.

A plan (``plan_forward``, ``plan_data``, ``plan_weight``) allocates and says which kernel runs with
which arguments; it also works on ``meta`` tensors, which is how ``offline`` compiles for devices
that are not there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..geometry import WarpGeometry
from ..gradients import Grads, Needs
from . import backward as backward_kernels
from . import forward as forward_kernels
from .configs import Config, Workload, choose

# Bounds on memory beyond inputs, outputs and gradients (bytes).
FORWARD_PARTIAL_BYTES = 16 << 20
WEIGHT_PARTIAL_BYTES = 8 << 20

# Programs per processor that a launch aims at: enough warps to hide the latency of the gathers.
_PROGRAMS_PER_PROCESSOR = 8
_SUM_BLOCK = 1024

DTYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}

# Decided where the kernels were decorated, i.e. by TRITON_INTERPRET at import.
INTERPRETED = not isinstance(forward_kernels.forward_rows, triton.runtime.JITFunction)


class Launch(NamedTuple):
    """One kernel launch: ``grid`` programs with ``arguments``."""

    kernel: Any
    grid: int
    arguments: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 1

    def run(self) -> None:
        """Launch on the current device."""
        if self.grid > 0:
            self.kernel[(self.grid,)](
                **self.arguments, num_warps=self.num_warps, num_stages=self.num_stages
            )


class Target(NamedTuple):
    """What a plan needs to know about the device: architecture name and processor count."""

    arch: str
    processors: int


@functools.lru_cache(maxsize=64)
def _device_target(index: int) -> Target:
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip:
        arch = properties.gcnArchName.split(":")[0]
    else:
        arch = f"sm_{properties.major}{properties.minor}"
    return Target(arch, properties.multi_processor_count)


def target_of(tensor: Tensor) -> Target:
    """The target that a tensor's device stands for."""
    if INTERPRETED:
        return Target("interpreter", 0)
    index = tensor.device.index
    return _device_target(torch.cuda.current_device() if index is None else index)


class Call(NamedTuple):
    """The tensors of one warp, contiguous, and everything derived from their shapes."""

    input: Tensor
    offsets: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    weight: Tensor
    frame_weights: Tensor | None
    geometry: WarpGeometry
    target: Target
    work: Workload
    output_hw: tuple[int, int]
    windows: int

    @property
    def frames(self) -> int:
        """Frames of one window."""
        return 1 if self.frame_weights is None else self.frame_weights.numel()

    def precision(self) -> str:
        """``input_precision`` of the dots."""
        exact = self.target.arch.startswith(("gfx", "interp")) or not self.work.narrow
        return "ieee" if exact or self.work.dtype != "fp32" else "tf32"

    def narrow_operands(self) -> bool:
        """Whether dots take half operands (the interpreter cannot compute with bfloat16)."""
        return self.work.dtype != "fp32" and self.target.arch != "interpreter"

    def shape_arguments(self) -> dict[str, Any]:
        """The arguments that all kernels share."""
        geometry, work = self.geometry, self.work
        pads_h, pads_w = zip(*geometry.paddings, strict=True)
        dilations_h, dilations_w = zip(*geometry.dilations, strict=True)
        return {
            "input_ptr": self.input,
            "offsets": self.offsets,
            "masks": self.masks or self.offsets,  # never read without HAS_MASK
            "frame_weight_ptr": self.weight if self.frame_weights is None else self.frame_weights,
            "pads_h": pads_h,
            "pads_w": pads_w,
            "dilations_h": dilations_h,
            "dilations_w": dilations_w,
            "channels": work.channels,
            "height": self.input.shape[2],
            "width": self.input.shape[3],
            "out_channels": work.out_channels,
            "out_width": self.output_hw[1],
            "pixels": work.pixels,
            "offset_groups": work.offset_groups,
            "frames": self.frames,
            "STRIDE_H": geometry.stride[0],
            "STRIDE_W": geometry.stride[1],
            "KERNEL_W": geometry.kernel_hw[1],
            "TAPS": geometry.taps,
            "PER_OFFSET_GROUP": work.channels // work.offset_groups,
            "IN_PER_GROUP": work.channels // work.groups,
            "OUT_PER_GROUP": work.out_per_group,
            "HAS_MASK": bool(self.masks),
            "HAS_FRAME_WEIGHTS": self.frame_weights is not None,
        }


def _uniform(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Contiguous, and of one dtype: a kernel picks among them at run time."""
    if len({tensor.dtype for tensor in tensors}) > 1:
        tensors = [tensor.float() for tensor in tensors]
    return tuple(tensor.contiguous() for tensor in tensors)


def prepare(
    input: Tensor,
    offsets: Sequence[Tensor],
    masks: Sequence[Tensor],
    weight: Tensor,
    frame_weights: Tensor | None,
    geometry: WarpGeometry,
    target: Target | None = None,
    allow_tf32: bool | None = None,
) -> Call:
    """Make the tensors contiguous and derive what the plans need.

    ``target`` and ``allow_tf32`` default to the input's device and PyTorch's matmul precision.
    """
    if allow_tf32 is None:
        allow_tf32 = torch.get_float32_matmul_precision() != "highest"
    frames, channels = input.shape[:2]
    output_hw = geometry.output_hw(input.shape[2:])
    work = Workload(
        dtype=DTYPE_NAMES[input.dtype],
        channels=channels,
        out_channels=weight.shape[1],
        groups=channels // weight.shape[2],
        offset_groups=offsets[0].shape[1] // (2 * geometry.taps),
        taps=geometry.taps,
        dilations=len(offsets),
        pixels=output_hw[0] * output_hw[1],
        narrow=allow_tf32 or input.dtype != torch.float32,
    )
    if frame_weights is not None:
        frame_weights = frame_weights.to(torch.float32).contiguous()
    return Call(
        input.contiguous(), _uniform(offsets), _uniform(masks),
        weight.to(torch.float32).contiguous(), frame_weights, geometry,
        target_of(input) if target is None else target, work, output_hw,
        frames if frame_weights is None else frames // frame_weights.numel(),
    )  # fmt: skip


def share(total: int, wanted: int, most: int | None = None) -> tuple[int, int]:
    """Even shares of ``total`` pieces: how many splits, and the pieces of each.

    At least ``wanted`` splits if ``most`` (default: any number) allows it: 5 pieces wanted in 4
    become 5, where 2 + 2 + 1 would leave one program waiting for the others.
    """
    share = max(1, total // max(1, wanted))
    if most is not None and -(-total // share) > most:
        share = -(-total // most)
    return max(1, -(-total // share)), share


def wanted_splits(target: Target, config: Config, programs: int) -> int:
    """Into how many parts the work has to be split to fill the device."""
    if config.splits:
        return config.splits
    return -(-_PROGRAMS_PER_PROCESSOR * target.processors // max(programs, 1))


def plan_forward(
    call: Call, bias: Tensor | None, config: Config | None = None
) -> tuple[Tensor, list[Launch]]:
    """The output (not yet computed) and the launches that compute it."""
    work = call.work
    config = config or choose("forward", call.target.arch, work)
    out = call.input.new_empty((call.windows, work.out_channels, *call.output_hw))
    pixel_blocks = triton.cdiv(work.pixels, config.block_p)
    out_blocks = work.groups * triton.cdiv(work.out_per_group, config.block_o)
    programs = pixel_blocks * out_blocks * call.windows

    per_group, per_offset_group = (work.channels // n for n in (work.groups, work.offset_groups))
    rows = work.taps * max(
        -(-(first + per_group) // per_offset_group) - first // per_offset_group
        for first in range(0, work.channels, per_group)
    )
    pairs = call.frames * work.dilations
    most = max(1, FORWARD_PARTIAL_BYTES // max(1, 4 * out.numel()))
    wanted = wanted_splits(call.target, config, programs)
    pair_splits, pairs_per_split = share(pairs, wanted, most)
    # A split of the rows below one kernel's taps is not worth its partial sum.
    most_rows = max(1, min(most // pair_splits, rows // work.taps))
    row_splits, rows_per_split = share(rows, min(wanted // pair_splits, most_rows), most_rows)
    splits = pair_splits * row_splits

    target = out
    if splits > 1:
        target = out.new_empty((splits, *out.shape), dtype=torch.float32)
    bias_tensor = call.weight if bias is None else bias.to(torch.float32).contiguous()
    arguments = {
        **call.shape_arguments(),
        "out_ptr": target,
        "weight_ptr": call.weight,
        "bias_ptr": bias_tensor,
        "windows": call.windows,
        "pair_splits": pair_splits,
        "pairs_per_split": pairs_per_split,
        "row_splits": row_splits,
        "rows_per_split": rows_per_split,
        "HAS_BIAS": bias is not None,
        "PARTIAL": splits > 1,
        "BLOCK_P": config.block_p,
        "BLOCK_O": config.block_o,
        **_mode_arguments(call, config),
    }
    kernel = forward_kernels.forward_dot if config.use_dot else forward_kernels.forward_rows
    launches = [Launch(kernel, programs * splits, arguments, config.num_warps, config.num_stages)]
    if splits > 1:
        launches.append(plan_sum(out, target, bias_tensor, bias is not None))
    return out, launches


def plan_sum(out: Tensor, partial: Tensor, bias: Tensor, has_bias: bool) -> Launch:
    """The launch that adds partial sums ``[splits, *out.shape]``, in their order, to ``out``."""
    arguments = {
        "out_ptr": out,
        "partial_ptr": partial,
        "bias_ptr": bias,
        "elements": out.numel(),
        "out_channels": out.shape[1],
        "pixels": out.shape[2] * out.shape[3],
        "splits": partial.shape[0],
        "HAS_BIAS": has_bias,
        "BLOCK": _SUM_BLOCK,
    }
    return Launch(forward_kernels.sum_partials, triton.cdiv(out.numel(), _SUM_BLOCK), arguments)


def _mode_arguments(call: Call, config: Config) -> dict[str, Any]:
    if not config.use_dot:
        return {"UNROLL": config.unroll}
    return {
        "BLOCK_R": config.block_r,
        "NARROW": call.narrow_operands(),
        "PRECISION": call.precision(),
    }


class DataBuffers(NamedTuple):
    """Where the data kernel writes; stand-ins (never written) for what is not wanted."""

    offsets: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    input: Tensor
    scale: Tensor


def plan_data(
    call: Call, grad_output: Tensor, needs: Needs, fixed_point: bool, config: Config | None = None
) -> tuple[DataBuffers, list[Launch]]:
    """Buffers of the gradients of offsets, masks and input, and the launch that fills them.

    With ``fixed_point`` the caller fills ``scale`` before the launch.
    """
    work = call.work
    config = config or choose("data", call.target.arch, work)
    new = call.input.new_empty
    kind = torch.int64 if fixed_point else torch.float32
    buffers = DataBuffers(
        tuple(map(torch.empty_like, call.offsets)) if needs.offsets else call.offsets,
        tuple(map(torch.empty_like, call.masks)) if needs.masks and call.masks else call.offsets,
        call.input.new_zeros(call.input.shape, dtype=kind) if needs.input else new(1, dtype=kind),
        new(1, dtype=torch.float32),
    )
    pixel_blocks = triton.cdiv(work.pixels, config.block_p)
    programs = pixel_blocks * work.dilations * call.input.shape[0]
    wanted = wanted_splits(call.target, config, programs)
    row_splits, rows_per_split = share(
        work.offset_groups * work.taps, min(wanted, work.offset_groups), work.offset_groups
    )
    arguments = {
        **call.shape_arguments(),
        "grad_out_ptr": grad_output,
        "weight_ptr": call.weight,
        "grad_offsets": buffers.offsets,
        "grad_masks": buffers.masks,
        "grad_input_ptr": buffers.input,
        "scale_ptr": buffers.scale,
        "row_splits": row_splits,
        "rows_per_split": rows_per_split,
        "NEED_INPUT": needs.input,
        "NEED_OFFSETS": needs.offsets,
        "NEED_MASKS": needs.masks and bool(call.masks),
        "FIXED_POINT": fixed_point,
        "BLOCK_P": config.block_p,
        **_mode_arguments(call, config),
    }
    if config.use_dot:
        kernel: Any = backward_kernels.data_dot
        arguments["BLOCK_O"] = config.block_o
    else:
        kernel = backward_kernels.data_rows
        arguments["PRELOAD"] = work.groups == 1 and work.out_channels <= config.block_o
    return buffers, [
        Launch(kernel, programs * row_splits, arguments, config.num_warps, config.num_stages)
    ]


def plan_weight(
    call: Call, grad_output: Tensor, config: Config | None = None
) -> tuple[Tensor, list[Launch]]:
    """Partial sums ``[splits, *weight.shape]`` of the weight gradient, and their launch."""
    work = call.work
    config = config or choose("weight", call.target.arch, work)
    items = call.input.shape[0] * triton.cdiv(work.pixels, config.block_p)
    rows = work.channels // work.groups * work.taps
    programs = (
        work.dilations * work.groups
        * triton.cdiv(work.out_per_group, config.block_o) * triton.cdiv(rows, config.block_r)
    )  # fmt: skip
    most = max(1, WEIGHT_PARTIAL_BYTES // (4 * call.weight.numel()))
    splits, items_per_split = share(items, wanted_splits(call.target, config, programs), most)
    partial = call.weight.new_empty((splits, *call.weight.shape))
    arguments = {
        **call.shape_arguments(),
        "out_ptr": partial,
        "grad_out_ptr": grad_output,
        "items": items,
        "splits": splits,
        "items_per_split": items_per_split,
        "BLOCK_P": config.block_p,
        "BLOCK_O": config.block_o,
        "BLOCK_R": config.block_r,
        **_mode_arguments(call, config),
    }
    arguments.pop("UNROLL", None)
    kernel = backward_kernels.weight_dot if config.use_dot else backward_kernels.weight_rows
    return partial, [
        Launch(kernel, programs * splits, arguments, config.num_warps, config.num_stages)
    ]


def guard(tensor: Tensor) -> AbstractContextManager[Any]:
    """Makes the tensor's device the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _run(launches: Sequence[Launch]) -> None:
    for launch in launches:
        launch.run()


def forward(
    input: Tensor,
    offsets: Sequence[Tensor],
    masks: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None,
    frame_weights: Tensor | None,
    geometry: WarpGeometry,
    *,
    configs: Mapping[str, Config] | None = None,
) -> Tensor:
    """The warp ``[B, Co, Ho, Wo]`` in the input's dtype; the same bits from run to run.

    Shapes as in ``docs``: input ``[B*T, C, H, W]``, D offsets ``[B*T, 2*G*K, Ho, Wo]``, D or no
    masks ``[B*T, G*K, Ho, Wo]``, weight ``[D, Co, C/groups, kh, kw]``, bias ``[Co]``,
    frame_weights ``[T]``. Arguments are trusted: check them before. ``configs`` overrides the
    chosen configurations (keys of ``configs.KERNELS``).
    """
    with guard(input):
        call = prepare(input, offsets, masks, weight, frame_weights, geometry)
        out, launches = plan_forward(call, bias, (configs or {}).get("forward"))
        _run(launches)
    return out


def backward(
    grad_output: Tensor,
    input: Tensor,
    offsets: Sequence[Tensor],
    masks: Sequence[Tensor],
    weight: Tensor,
    frame_weights: Tensor | None,
    geometry: WarpGeometry,
    *,
    needs: Needs,
    deterministic: bool,
    configs: Mapping[str, Config] | None = None,
) -> Grads:
    """The gradients that ``needs`` asks for; ``grad_output [B, Co, Ho, Wo]`` of the input's dtype.

    With ``deterministic`` they have the same bits from run to run. Without, only the input's
    gradient may differ, by the order of its float32 additions.
    """
    configs = configs or {}
    grad_input, grad_weight = None, None
    grad_offsets: list[Tensor] = []
    grad_masks: list[Tensor] = []
    with guard(input):
        call = prepare(input, offsets, masks, weight, frame_weights, geometry)
        grad_output = grad_output.to(input.dtype).contiguous()
        if needs.input or needs.offsets or (needs.masks and masks):
            fixed_point = deterministic and needs.input
            buffers, launches = plan_data(
                call, grad_output, needs, fixed_point, configs.get("data")
            )
            if fixed_point:
                buffers.scale.copy_(fixed_point_scale(call, grad_output))
            _run(launches)
            if needs.input:
                grad_input = buffers.input.to(torch.float32)
                if fixed_point:
                    grad_input.div_(buffers.scale)
                grad_input = grad_input.to(input.dtype)
            if needs.offsets:
                grad_offsets = _like(buffers.offsets, offsets)
            if needs.masks and masks:
                grad_masks = _like(buffers.masks, masks)
        if needs.weight:
            partial, launches = plan_weight(call, grad_output, configs.get("weight"))
            _run(launches)
            grad_weight = partial.sum(0) if partial.shape[0] != 1 else partial[0]
    return Grads(grad_input, grad_offsets, grad_masks, grad_weight)


def _like(gradients: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    return [grad.to(tensor.dtype) for grad, tensor in zip(gradients, tensors, strict=True)]


def fixed_point_scale(call: Call, grad_output: Tensor) -> Tensor:
    """Scale (a power of two, float32 scalar) of the integers that the input gradient is summed in.

    A cell receives at most one corner of every tap of every output pixel, each no larger than
    ``bound``: so ``62 - log2(count * bound)`` bits cannot overflow, and some forty of them lie
    below the bound for maps of 100 x 100. Stays on the device. NaN where the bound is not finite,
    which makes the whole gradient NaN instead of finite garbage.
    """
    work = call.work
    if grad_output.numel() == 0:
        return torch.ones((), device=grad_output.device)

    def largest(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([tensor.abs().amax().double() for tensor in tensors]).amax()

    bound = call.weight.double().abs().sum(1).amax() * largest([grad_output])
    if call.masks:
        bound = bound * largest(call.masks)
    if call.frame_weights is not None:
        bound = bound * largest([call.frame_weights])
    count = work.dilations * work.taps * work.pixels
    exponent = torch.floor(62 - torch.log2(bound * count)).clamp(-126, 126)
    scale = torch.where(bound > 0, torch.exp2(exponent), torch.ones_like(bound))
    return torch.where(torch.isfinite(bound), scale, torch.full_like(bound, torch.nan)).float()


PLANS: dict[str, Callable[..., Any]] = {
    "forward": plan_forward,
    "data": plan_data,
    "weight": plan_weight,
}
