"""Compile the kernels for devices that are not there, and read what they would need.

``python -m pwkernels.gpu.offline`` prints registers, spills, stack and shared memory per kernel,
dtype, case and target (``--json`` for programs). A kernel that compiles may still not launch: its
shared memory must fit (``SHARED_LIMITS``) and its spills should be 0. Needs no GPU, and must run
without ``TRITON_INTERPRET``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ..geometry import WarpGeometry, same_padding
from ..gradients import Needs
from . import launch, offset_conv
from .configs import KERNELS, OFFSET_CONV, Config

# Shared memory that one program may have, in bytes.
SHARED_LIMITS = {
    "sm_80": 166912,
    "sm_86": 101376,
    "sm_89": 101376,
    "sm_90": 232448,
    "sm_100": 232448,
    "sm_120": 101376,
    "gfx90a": 65536,
    "gfx942": 65536,
}
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
DTYPES = {name: dtype for dtype, name in launch.DTYPE_NAMES.items()}

_EVERYTHING = Needs(True, True, True, True)

# Any GPU of the present fits; it decides only how the work is split.
_PROCESSORS = 132


@dataclass(frozen=True)
class Case:
    """A typical warp: D dilations of a 3x3 kernel over ``frames`` maps of ``size``.

    ``features`` is what its offset convolutions read, where the warp computes its offsets itself.
    """

    channels: int
    size: tuple[int, int]
    frames: int
    dilations: tuple[int, ...]
    offset_groups: int
    groups: int = 1
    window: bool = False
    mask: bool = False
    features: int = 128

    def geometry(self) -> WarpGeometry:
        """The geometry of the case."""
        dilations = tuple((d, d) for d in self.dilations)
        pads = tuple(same_padding((3, 3), dilation) for dilation in dilations)
        return WarpGeometry((3, 3), (1, 1), pads, dilations)


_PAPER = (3, 6, 12, 18, 24)
CASES = {
    "window": Case(17, (96, 72), 5, _PAPER, 17),
    "aggregate": Case(17, (96, 72), 5, _PAPER, 17, window=True),
    "masked": Case(64, (56, 56), 8, (1,), 1, mask=True),
    "grouped": Case(64, (56, 56), 8, (1, 2), 4, groups=4),
}


@dataclass(frozen=True)
class CompiledInfo:
    """What a compiled kernel needs: registers per thread, bytes of everything else."""

    kernel: str
    target: str
    dtype: str
    case: str
    registers: int
    spills: int
    stack: int
    shared: int
    shared_limit: int
    num_warps: int
    use_dot: bool

    @property
    def launchable(self) -> bool:
        """No spills, and the shared memory fits."""
        return self.spills == 0 and self.shared <= self.shared_limit


def case_tensors(case: Case, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Random tensors of a case (``device="meta"``: shapes only); offsets have the input's dtype."""
    (height, width), taps = case.size, 9

    def normal(*shape: int, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=torch.float32).to(kind)

    def fields(per_tap: int) -> list[torch.Tensor]:
        shape = (case.frames, per_tap * case.offset_groups * taps, height, width)
        return [normal(*shape) for _ in case.dilations]

    windows = 1 if case.window else case.frames
    weight_shape = (len(case.dilations), case.channels, case.channels // case.groups, 3, 3)
    return {
        "grad_output": normal(windows, case.channels, height, width),
        "input": normal(case.frames, case.channels, height, width),
        "offsets": fields(2),
        "masks": fields(1) if case.mask else [],
        "weight": normal(*weight_shape, kind=torch.float32),
        "bias": normal(case.channels, kind=torch.float32),
        "frame_weights": normal(case.frames, kind=torch.float32) if case.window else None,
        "geometry": case.geometry(),
    }


def prepare_case(
    tensors: dict[str, Any], target: launch.Target | None = None, allow_tf32: bool | None = None
) -> launch.Call:
    """``launch.prepare`` on the tensors of a case."""
    names = ("input", "offsets", "masks", "weight", "frame_weights", "geometry")
    return launch.prepare(**{n: tensors[n] for n in names}, target=target, allow_tf32=allow_tf32)


def offset_conv_tensors(case: Case, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Random arguments of ``offset_conv.plan`` for a case; offsets of a few pixels."""
    (height, width), count = case.size, len(case.dilations)

    def normal(*shape: int, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=torch.float32).to(kind)

    features = normal(case.frames, case.features, height, width)
    kernels = normal(count, 2 * case.offset_groups * 9, case.features, 3, 3)
    weight_shape = (count, case.channels, case.channels // case.groups, 3, 3)
    return {
        "features": features.contiguous(memory_format=torch.channels_last),
        "input": normal(case.frames, case.channels, height, width),
        "offset_weight": kernels * (2 / (9 * case.features) ** 0.5),
        "weight": normal(*weight_shape, kind=torch.float32),
        "frame_weights": normal(case.frames, kind=torch.float32) if case.window else None,
        "dilations": case.geometry().dilations,
    }


def plan(
    name: str,
    arch: str,
    dtype: torch.dtype,
    case: Case,
    config: Config | None = None,
    needs: Needs = _EVERYTHING,
    fixed_point: bool = False,
    allow_tf32: bool = False,
) -> launch.Launch:
    """The launch of one kernel (of ``configs.KERNELS``, or ``offset_conv``) on shapes alone."""
    target = launch.Target(arch, _PROCESSORS)
    if name == OFFSET_CONV:
        shapes = offset_conv_tensors(case, dtype, "meta")
        return offset_conv.plan(**shapes, config=config, target=target, allow_tf32=allow_tf32)[1][0]
    tensors = case_tensors(case, dtype, "meta")
    call = prepare_case(tensors, target, allow_tf32)
    if name == "forward":
        return launch.plan_forward(call, tensors["bias"], config)[1][0]
    if name == "data":
        return launch.plan_data(call, tensors["grad_output"], needs, fixed_point, config)[1][0]
    return launch.plan_weight(call, tensors["grad_output"], config)[1][0]


_TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
}


def _describe(value: Any, path: tuple[int, ...], constants: dict, attributes: dict) -> Any:
    """Signature of one argument, specialised as a real launch would."""
    if isinstance(value, tuple):
        return tuple(
            _describe(item, (*path, i), constants, attributes) for i, item in enumerate(value)
        )
    aligned = [["tt.divisibility", 16]]
    if isinstance(value, torch.Tensor):
        attributes[path] = aligned
        return "*" + _TYPES[value.dtype]
    if value == 1:
        constants[path] = 1
        return "constexpr"
    if value % 16 == 0:
        attributes[path] = aligned
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def compile_launch(planned: launch.Launch, arch: str) -> Any:
    """Compile a planned launch for ``arch``; Triton's compiled kernel, with its ``asm``."""
    if launch.INTERPRETED:
        raise RuntimeError("offline compilation needs TRITON_INTERPRET to be unset")
    constants: dict = {}
    attributes: dict = {}
    signature: dict[str, Any] = {}
    for i, parameter in enumerate(planned.kernel.params):
        value = planned.arguments[parameter.name]
        if parameter.is_constexpr:
            constants[(i,)] = value
            signature[parameter.name] = "constexpr"
        else:
            signature[parameter.name] = _describe(value, (i,), constants, attributes)
    if arch.startswith("sm_"):
        target = GPUTarget("cuda", int(arch[3:]), 32)
    else:
        target = GPUTarget("hip", arch, 64)
    source = ASTSource(
        fn=planned.kernel, signature=signature, constexprs=constants, attrs=attributes
    )
    options = {"num_warps": planned.num_warps, "num_stages": planned.num_stages}
    return triton.compile(source, target=target, options=options)


_NVIDIA_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def _spills(ptx: str) -> int:
    """Bytes spilled, by the first assembler of Triton's that understands this PTX."""
    real_arch = re.search(r"^\.target\s+(\w+)", ptx, re.MULTILINE)
    if real_arch is None:
        raise RuntimeError("the PTX names no target")
    complaint = "no assembler found"
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        for tool in ("ptxas-blackwell", "ptxas"):  # newest first
            if not (_NVIDIA_TOOLS / tool).exists():
                continue
            done = subprocess.run(
                [_NVIDIA_TOOLS / tool, "-v", f"-arch={real_arch[1]}", "-o", "/dev/null", file.name],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode == 0:
                return _number(r"(\d+) bytes spill", done.stderr)
            complaint = done.stderr
    raise RuntimeError(f"ptxas failed: {complaint}")


def _number(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return max(map(int, found)) if found else 0


def resources(compiled: Any, arch: str) -> dict[str, int]:
    """``registers``, ``spills`` and ``stack`` of a compiled kernel."""
    if arch.startswith("gfx"):
        text = compiled.asm["amdgcn"]
        return {
            "registers": _number(r"\.vgpr_count:\s+(\d+)", text),
            # Scalar registers spill into lanes of vector registers, not into memory.
            "spills": _number(r"\.vgpr_spill_count:\s+(\d+)", text),
            "stack": _number(r"\.private_segment_fixed_size:\s+(\d+)", text),
        }
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = subprocess.run(
            [_NVIDIA_TOOLS / "cuobjdump", "--dump-resource-usage", file.name],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    return {
        "registers": _number(r"REG:(\d+)", text),
        "spills": _spills(compiled.asm["ptx"]),
        "stack": _number(r"STACK:(\d+)", text),
    }


def compile_kernel(
    name: str, target: str, dtype: str, case: str, config: Config | None = None, **variant: Any
) -> CompiledInfo:
    """Compile kernel ``name`` of a case of ``CASES`` and say what it needs.

    ``variant`` goes to ``plan`` (``needs``, ``fixed_point``, ``allow_tf32``); ``config`` defaults
    to the one that a launch on that target would choose.

    Raises:
        RuntimeError: under ``TRITON_INTERPRET``.
    """
    planned = plan(name, target, DTYPES[dtype], CASES[case], config, **variant)
    compiled = compile_launch(planned, target)
    return CompiledInfo(
        kernel=name,
        target=target,
        dtype=dtype,
        case=case,
        shared=compiled.metadata.shared,
        shared_limit=SHARED_LIMITS[target],
        num_warps=planned.num_warps,
        use_dot="dot" in planned.kernel.__name__ or name == OFFSET_CONV,
        **resources(compiled, target),
    )


def main() -> None:
    """Print the table, or one JSON list."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m pwkernels.gpu.offline")
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=list(SHARED_LIMITS))
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--kernels", nargs="+", default=KERNELS, choices=(*KERNELS, OFFSET_CONV))
    parser.add_argument("--fixed-point", action="store_true", help="deterministic input gradient")
    parser.add_argument("--tf32", action="store_true", help="as if PyTorch allowed TF32")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [
        compile_kernel(
            kernel, target, dtype, case,
            fixed_point=options.fixed_point, allow_tf32=options.tf32,
        )
        for case in options.cases for kernel in options.kernels
        for target in options.targets for dtype in options.dtypes
    ]  # fmt: skip
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(f"{'case':10} {'kernel':11} {'target':7} {'dtype':5} {'mode':4}  regs spill stack shared")
    for row in rows:
        print(
            f"{row.case:10} {row.kernel:11} {row.target:7} {row.dtype:5} "
            f"{'dot' if row.use_dot else 'rows':4} {row.registers:5} {row.spills:5} "
            f"{row.stack:5} {row.shared:6}{'' if row.launchable else '  does not fit'}"
        )


if __name__ == "__main__":
    main()
