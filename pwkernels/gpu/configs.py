"""Launch configurations as data: a table of measured ones, and a default for everything else.

The table ``configs.json`` maps ``table_key(...)`` to the fields of a ``Config``; ``tune`` writes
it. Nothing here imports Triton.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("configs.json")
KERNELS = ("forward", "data", "weight")
OFFSET_CONV = "offset_conv"

# More outputs than this in one tuple of accumulators would not stay in registers.
_MOST_ROW_OUTPUTS = 32


@dataclass(frozen=True)
class Config:
    """How one kernel is launched.

    Attributes:
        use_dot: mix channels by ``tl.dot`` (needs padding to powers of two) or by outer products
            of single rows.
        block_p: pixels of a program, a power of two.
        block_o: outputs of a program; with ``use_dot`` a power of two >= 16. Not read by
            ``offset_conv``, which has all outputs in one block.
        block_r: rows of a step; with ``use_dot`` a power of two >= 16. Without, only the weight
            kernel reads it.
        unroll: unrolling of the loop over single rows.
        splits: programs that share one block of the result; 0 = as many as fill the device.
        block_r2: of ``offset_conv``, whose programs have ``block_r`` and ``block_r2`` rows: a power
            of two >= 16, or 0.
        block_s: of ``offset_conv``: rows that are sampled at a time, a power of two >= 16.
        block_f: of ``offset_conv``: features of a step, a power of two >= 16.
    """

    use_dot: bool = False
    block_p: int = 128
    block_o: int = 32
    block_r: int = 1
    unroll: int = 1
    num_warps: int = 4
    num_stages: int = 1
    splits: int = 0
    block_r2: int = 0
    block_s: int = 16
    block_f: int = 0


@dataclass(frozen=True)
class Workload:
    """What a choice of configuration depends on.

    Attributes:
        dtype: of the input: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        pixels: of one output plane.
        narrow: the operands of a dot are cheap for tensor cores (half precision, or TF32 allowed).
        features: of the offset convolution, whose dtype and ``narrow`` are those of the features;
            0 without one.
    """

    dtype: str
    channels: int
    out_channels: int
    groups: int
    offset_groups: int
    taps: int
    dilations: int
    pixels: int
    narrow: bool
    features: int = 0

    @property
    def out_per_group(self) -> int:
        """Outputs of one weight group."""
        return self.out_channels // self.groups


def table_key(kernel: str, arch: str, work: Workload) -> str:
    """Key of the table: all that changes the code of a kernel, not the size of the map."""
    return (
        f"{kernel}/{arch}/{work.dtype}{'' if work.narrow else '-exact'}/c{work.channels}"
        f"-o{work.out_channels}-w{work.groups}-g{work.offset_groups}-k{work.taps}"
        f"-d{work.dilations}{f'-f{work.features}' if work.features else ''}"
    )


@functools.lru_cache(maxsize=1)
def load_table(path: Path = TABLE) -> dict[str, Config]:
    """The measured configurations; empty where there is no table."""
    if not path.exists():
        return {}
    return {key: Config(**fields) for key, fields in json.loads(path.read_text()).items()}


def save_table(table: dict[str, Config], path: Path) -> None:
    """Write a table that ``load_table`` reads."""
    fields = {key: dataclasses.asdict(config) for key, config in sorted(table.items())}
    path.write_text(json.dumps(fields, indent=2) + "\n")


def _power_of_two(value: int, low: int, high: int) -> int:
    return min(max(1 << max(value - 1, 0).bit_length(), low), high)


def _even_block(outputs: int) -> int:
    """A block of outputs that fits in registers and wastes little: 40 becomes 2 blocks of 20."""
    blocks = -(-outputs // _MOST_ROW_OUTPUTS)
    return -(-outputs // blocks)


def default_config(kernel: str, arch: str, work: Workload) -> Config:
    """A configuration that compiles without spills everywhere; no claim to be the fastest.

    ``arch`` is ``"sm_90"`` and the like, ``"gfx942"`` and the like, or ``"interpreter"``.
    """
    outputs = work.out_per_group
    # Below this width most of a padded dot is waste. Exact float32 has no tensor cores to gain.
    use_dot = outputs > (32 if work.narrow else 64)
    if kernel == OFFSET_CONV:
        return _default_offset_conv(arch, work)
    if arch == "interpreter":
        # Interpreted, a step costs much the same whatever its size.
        rows = work.taps * (work.channels if kernel == "weight" else work.offset_groups)
        block_o = _power_of_two(outputs if kernel != "data" else work.out_channels, 16, 256)
        return Config(
            True, _power_of_two(work.pixels, 16, 1024), block_o, _power_of_two(rows, 16, 256)
        )
    if kernel == "data" and work.groups > 1:
        use_dot = False  # it would multiply by the zeros of other groups
    if use_dot:
        block_o = _power_of_two(outputs, 16, 64)
        if work.dtype == "fp32":
            return Config(True, 32, block_o, 16)
        # A wave of AMD's has 64 lanes.
        return Config(True, 64, block_o, 16, num_warps=4 if arch.startswith("gfx") else 8)
    block_o = _even_block(outputs)
    narrow = block_o <= 20
    if kernel == "weight":
        return Config(False, 128, block_o, 3 if narrow else 2)
    # Two pixels per thread share the loads of weights and the arithmetic of addresses.
    return Config(False, 256 if narrow and work.groups == 1 else 128, block_o)


def row_blocks(rows: int, widest: int) -> tuple[int, int]:
    """Two powers of two (the second may be 0) that cover ``rows`` with little waste.

    153 rows become 128 + 32, or with ``widest=64`` twice 64 + 16: in both cases 160.
    """
    sizes = [1 << n for n in range(4, widest.bit_length())]
    pairs = [(first, second) for first in sizes for second in (0, *sizes) if second < first]

    def waste(pair: tuple[int, int]) -> tuple[int, int]:
        programs = -(-rows // sum(pair))
        return programs * sum(pair), programs

    return min(pairs, key=waste)


def _default_offset_conv(arch: str, work: Workload) -> Config:
    rows = work.offset_groups * work.taps
    if arch == "interpreter":
        first, second = row_blocks(rows, 256)
        block_p = _power_of_two(work.pixels, 32, 1024)
        block_f = _power_of_two(work.features, 16, 256)
        return Config(True, block_p, 16, first, block_r2=second, block_s=256, block_f=block_f)
    if work.dtype == "fp32":
        block_p, widest, most_features, stages = 64, 32, 16, 2
    elif arch in ("sm_90", "sm_100", "sm_103"):  # tensor cores that read from shared memory
        block_p, widest, most_features, stages = 128, 128, 64, 3
    else:
        block_p, widest, most_features, stages = 128, 64, 32, 2 if arch.startswith("gfx") else 3
    first, second = row_blocks(rows, widest)
    # As many warps as leave each thread 80 accumulators: the rest is for the samples. Blackwell's
    # accumulators have a memory of their own, and Triton needs 4 or 8 warps to use it.
    lanes = 64 if arch.startswith("gfx") else 32
    most_warps = 8 if arch in ("sm_100", "sm_103") else 16
    warps = _power_of_two(-(-2 * block_p * (first + second) // (80 * lanes)), 4, most_warps)
    return Config(
        True, block_p, 16, first, num_warps=warps, num_stages=stages,
        block_r2=second, block_f=_power_of_two(work.features, 16, most_features),
    )  # fmt: skip


def choose(kernel: str, arch: str, work: Workload) -> Config:
    """The measured configuration of this kernel, architecture and shape, or the default one."""
    table = {} if arch == "interpreter" else load_table()
    found = table.get(table_key(kernel, arch, work))
    return found if found is not None else default_config(kernel, arch, work)
