"""Bad calls: which error, and that it names the argument and what does not fit."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

import pwkernels
from pwkernels import ArgumentError, ArgumentTypeError, checks, cpu
from pwkernels.geometry import WarpGeometry

DOUBLE = torch.float64


def warp_arguments(**changes: object) -> dict:
    """A valid call of the warp, but for ``changes``: N = 2, C = 4, C_out = 6, G = 2, D = 2."""
    arguments = {
        "input": torch.randn(2, 4, 5, 6),
        "offsets": [torch.randn(2, 36, 5, 6) for _ in range(2)],
        "weight": torch.randn(2, 6, 4, 3, 3),
        "dilations": (1, 2),
        "masks": [torch.randn(2, 18, 5, 6) for _ in range(2)],
        "bias": torch.randn(2, 6),
        "frame_weights": torch.randn(2),
    }
    return arguments | changes


def conv_arguments(**changes: object) -> dict:
    """A valid call of ``deform_conv2d``, but for ``changes``."""
    arguments = {
        "input": torch.randn(2, 4, 5, 6),
        "offset": torch.randn(2, 36, 5, 6),
        "weight": torch.randn(6, 4, 3, 3),
        "bias": torch.randn(6),
        "padding": 1,
        "mask": torch.randn(2, 18, 5, 6),
    }
    return arguments | changes


def pair(*shape: int, **options: object) -> list[Tensor]:
    return [torch.zeros(shape, **options) for _ in range(2)]


WARP_ERRORS = {
    "input of 3 dimensions": (
        {"input": torch.zeros(4, 5, 6)},
        r"input: .*4 dimensions.*\(4, 5, 6\)",
    ),
    "input without channels": ({"input": torch.zeros(2, 0, 5, 6)}, r"input: .*\(2, 0, 5, 6\)"),
    "input without rows": ({"input": torch.zeros(2, 4, 0, 6)}, r"input: .*\(2, 4, 0, 6\)"),
    "input of other channels": (
        {"input": torch.zeros(2, 3, 5, 6)},
        r"weight: .*\(2, 6, 4, 3, 3\).*\(2, 3, 5, 6\)",
    ),
    "input on another device": (
        {"input": torch.zeros(2, 4, 5, 6, device="meta")},
        r": .*meta.*cpu",
    ),
    "weight of 4 dimensions": ({"weight": torch.zeros(6, 4, 3, 3)}, r"weight: .*\(6, 4, 3, 3\)"),
    "weight without outputs": (
        {"weight": torch.zeros(2, 0, 4, 3, 3), "bias": None},
        r"weight: .*\(2, 0, 4, 3, 3\)",
    ),
    "weight without dilations": (
        {
            "weight": torch.zeros(0, 6, 4, 3, 3),
            "offsets": [],
            "dilations": (),
            "masks": None,
            "bias": None,
        },
        r"weight: .*\(0, 6, 4, 3, 3\)",
    ),
    "outputs not a multiple of groups": (
        {"weight": torch.zeros(2, 5, 2, 3, 3), "bias": None},
        r"weight: .*\(2, 5, 2, 3, 3\).*\(2, 4, 5, 6\)",
    ),
    "even kernel": ({"weight": torch.zeros(2, 6, 4, 3, 2)}, r"weight: .*odd.*3 x 2"),
    "weight on another device": (
        {"weight": torch.zeros(2, 6, 4, 3, 3, device="meta")},
        r"weight: .*cpu.*meta",
    ),
    "one offset too few": ({"offsets": pair(2, 36, 5, 6)[:1]}, r"offsets: expected 2.*got 1"),
    "offsets of another kernel": (
        {"offsets": pair(2, 50, 5, 6)},
        r"offsets\[0\]: .*18.*\(2, 50, 5, 6\).*\(2, 6, 4, 3, 3\)",
    ),
    "offset groups that do not divide": (
        {"offsets": pair(2, 54, 5, 6)},
        r"offsets\[0\]: .*3 offset groups.*4 channels.*\(2, 54, 5, 6\).*\(2, 4, 5, 6\)",
    ),
    "offset of another size": (
        {"offsets": [torch.zeros(2, 36, 5, 6), torch.zeros(2, 36, 5, 5)]},
        r"offsets\[1\]: .*\(2, 36, 5, 6\).*\(2, 36, 5, 5\)",
    ),
    "offset of another batch": (
        {"offsets": [torch.zeros(1, 36, 5, 6), torch.zeros(1, 36, 5, 6)]},
        r"offsets\[0\]: .*\(2, 36, 5, 6\).*\(1, 36, 5, 6\)",
    ),
    "offset on another device": (
        {"offsets": [torch.zeros(2, 36, 5, 6), torch.zeros(2, 36, 5, 6, device="meta")]},
        r"offsets\[1\]: .*cpu.*meta",
    ),
    "masks of two channels per tap": (
        {"masks": pair(2, 36, 5, 6)},
        r"masks\[0\]: .*\(2, 18, 5, 6\).*\(2, 36, 5, 6\)",
    ),
    "no masks": ({"masks": []}, r"masks: expected 2.*got 0"),
    "mask of another size": (
        {"masks": [torch.zeros(2, 18, 5, 6), torch.zeros(2, 18, 6, 5)]},
        r"masks\[1\]: .*\(2, 18, 5, 6\).*\(2, 18, 6, 5\)",
    ),
    "three dilations": ({"dilations": (1, 2, 3)}, r"dilations: expected 2.*\(1, 2, 3\)"),
    "a dilation for all": ({"dilations": 3}, r"dilations: expected 2.*3"),
    "dilation 0": ({"dilations": (1, 0)}, r"dilations\[1\]: .*at least 1.*0"),
    "bias for one dilation": ({"bias": torch.zeros(1, 6)}, r"bias: .*\(2, 6\).*\(1, 6\)"),
    "bias of one dimension": ({"bias": torch.zeros(6)}, r"bias: .*2 dimensions.*\(6,\)"),
    "bias of other channels": ({"bias": torch.zeros(2, 4)}, r"bias: .*\(2, 6\).*\(2, 4\)"),
    "frame weights that do not divide": (
        {"frame_weights": torch.zeros(3)},
        r"frame_weights: .*3.*2.*\(3,\).*\(2, 4, 5, 6\)",
    ),
    "no frame weights": ({"frame_weights": torch.zeros(0)}, r"frame_weights: .*\(0,\)"),
    "unknown reduction": ({"reduction": "max"}, r"reduction: expected 'mean' or 'sum', got 'max'"),
    "unknown backend": ({"backend": "cuda"}, r"backend: expected one of .*'cpu'.*got 'cuda'"),
    "dilation beyond float32": ({"dilations": (1, 2**26)}, r"dilations\[1\]: .*67108864"),
    "padding beyond float32": (
        {
            "weight": torch.zeros(2, 6, 4, 5, 5),
            "offsets": pair(2, 50, 5, 6),
            "dilations": (2**23, 1),
        },
        r"dilations\[0\]: .*16777216",
    ),
}
WARP_TYPE_ERRORS = {
    "input is an array": ({"input": np.zeros((2, 4, 5, 6))}, r"input: .*torch.Tensor.*ndarray"),
    "input of integers": ({"input": torch.zeros(2, 4, 5, 6, dtype=torch.int64)}, r"input: .*int64"),
    "input complex": (
        {"input": torch.zeros(2, 4, 5, 6, dtype=torch.complex64)},
        r"input: .*complex64",
    ),
    "weight of integers": (
        {"weight": torch.ones(2, 6, 4, 3, 3, dtype=torch.int32)},
        r"weight: .*int32",
    ),
    "offsets in one tensor": ({"offsets": torch.zeros(2, 36, 5, 6)}, r"offsets: .*list.*Tensor"),
    "offset is None": ({"offsets": [torch.zeros(2, 36, 5, 6), None]}, r"offsets\[1\]: .*NoneType"),
    "offsets of integers": (
        {"offsets": pair(2, 36, 5, 6, dtype=torch.int64)},
        r"offsets\[0\]: .*int64",
    ),
    "masks of booleans": ({"masks": pair(2, 18, 5, 6, dtype=torch.bool)}, r"masks\[0\]: .*bool"),
    "masks in one tensor": ({"masks": torch.zeros(2, 18, 5, 6)}, r"masks: .*list.*Tensor"),
    "offsets in float64": (
        {"offsets": pair(2, 36, 5, 6, dtype=DOUBLE)},
        r"offsets\[0\]: .*float64.*float32",
    ),
    "input in float64": (
        {"input": torch.zeros(2, 4, 5, 6, dtype=DOUBLE)},
        r"weight: .*float32.*float64",
    ),
    "frame weights in float64": (
        {"frame_weights": torch.zeros(2, dtype=DOUBLE)},
        r"frame_weights: .*float64",
    ),
    "offsets of two dtypes": (
        {"offsets": [torch.zeros(2, 36, 5, 6), torch.zeros(2, 36, 5, 6).half()]},
        r"offsets\[1\]: .*float32.*float16",
    ),
    "frame weights in a list": (
        {"frame_weights": [0.5, 0.5]},
        r"frame_weights: .*torch.Tensor.*list",
    ),
    "dilation of a float": ({"dilations": (1, 2.0)}, r"dilations\[1\]: .*int.*2.0"),
    "dilation of three": ({"dilations": (1, (2, 2, 2))}, r"dilations\[1\]: .*pair.*\(2, 2, 2\)"),
}
CONV_ERRORS = {
    "input of 3 dimensions": (
        {"input": torch.zeros(4, 5, 6)},
        r"input: .*4 dimensions.*\(4, 5, 6\)",
    ),
    "weight of 3 dimensions": (
        {"weight": torch.zeros(6, 4, 3)},
        r"weight: .*4 dimensions.*\(6, 4, 3\)",
    ),
    "offset of 3 dimensions": (
        {"offset": torch.zeros(36, 5, 6)},
        r"offset: .*4 dimensions.*\(36, 5, 6\)",
    ),
    "mask of 3 dimensions": (
        {"mask": torch.zeros(18, 5, 6)},
        r"mask: .*4 dimensions.*\(18, 5, 6\)",
    ),
    "stride 0": ({"stride": 0}, r"stride: .*at least 1.*0"),
    "padding negative": ({"padding": (1, -1)}, r"padding: .*at least 0.*\(1, -1\)"),
    "dilation 0": ({"dilation": (0, 1)}, r"dilation: .*at least 1.*\(0, 1\)"),
    "weight of other channels": (
        {"weight": torch.zeros(6, 3, 3, 3)},
        r"weight: .*\(1, 6, 3, 3, 3\).*\(2, 4, 5, 6\)|weight: .*\(6, 3, 3, 3\).*\(2, 4, 5, 6\)",
    ),
    "offset of another kernel": (
        {"offset": torch.zeros(2, 50, 5, 6)},
        r"offset: .*18.*\(2, 50, 5, 6\)",
    ),
    "offset groups that do not divide": (
        {"offset": torch.zeros(2, 54, 5, 6), "mask": None},
        r"offset: .*3 offset groups.*\(2, 54, 5, 6\).*\(2, 4, 5, 6\)",
    ),
    "offset of another size": (
        {"offset": torch.zeros(2, 36, 5, 5)},
        r"offset: .*\(2, 36, 5, 6\).*\(2, 36, 5, 5\)",
    ),
    "offset of another batch": (
        {"offset": torch.zeros(1, 36, 5, 6)},
        r"offset: .*\(2, 36, 5, 6\).*\(1, 36, 5, 6\)",
    ),
    "mask of another size": (
        {"mask": torch.zeros(2, 18, 4, 6)},
        r"mask: .*\(2, 18, 5, 6\).*\(2, 18, 4, 6\)",
    ),
    "mask of another batch": (
        {"mask": torch.zeros(3, 18, 5, 6)},
        r"mask: .*\(2, 18, 5, 6\).*\(3, 18, 5, 6\)",
    ),
    "output too small": (
        {"padding": 0, "dilation": 3},
        r"input: too small.*-1 x 0.*\(2, 4, 5, 6\)",
    ),
}


def parametrize(table: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("changes", "message"), table.values(), ids=table)


def check(operation: Callable[..., Tensor], arguments: dict, kind: type, message: str) -> None:
    builtin = ValueError if kind is ArgumentError else TypeError
    with pytest.raises(kind, match=message) as raised:
        operation(**arguments)
    assert isinstance(raised.value, builtin) and isinstance(raised.value, RuntimeError)
    # The first word is the argument.
    name = re.match(r"(\w+)(\[\d\])?: ", str(raised.value))
    assert name is not None and name[1] in arguments


def test_the_calls_are_valid_without_changes() -> None:
    assert pwkernels.multi_dilation_deform_warp(**warp_arguments()).shape == (1, 6, 5, 6)
    assert pwkernels.deform_conv2d(**conv_arguments()).shape == (2, 6, 5, 6)
    assert torchvision_deform_conv2d(**conv_arguments()).shape == (2, 6, 5, 6)


@parametrize(WARP_ERRORS)
def test_warp(changes: dict, message: str) -> None:
    check(pwkernels.multi_dilation_deform_warp, warp_arguments(**changes), ArgumentError, message)


@parametrize(WARP_TYPE_ERRORS)
def test_warp_types(changes: dict, message: str) -> None:
    check(
        pwkernels.multi_dilation_deform_warp, warp_arguments(**changes), ArgumentTypeError, message
    )


@parametrize(CONV_ERRORS)
def test_deform_conv2d_and_torchvision_raise_runtime_errors(changes: dict, message: str) -> None:
    check(pwkernels.deform_conv2d, conv_arguments(**changes), ArgumentError, message)
    if changes.get("stride") == 0:
        return  # torchvision divides by it and ends the process
    with pytest.raises((RuntimeError, ValueError)):  # ours are both
        torchvision_deform_conv2d(**conv_arguments(**changes))


@pytest.mark.parametrize("name", ["input", "offset", "weight", "bias", "mask"])
def test_deform_conv2d_types(name: str) -> None:
    """torchvision's bias of a wrong size or dtype is not among its own checks; it is among ours."""
    arguments = conv_arguments()
    for wrong in (arguments[name].long(), arguments[name].double(), arguments[name].tolist()):
        if name == "input" and isinstance(wrong, Tensor) and wrong.dtype == DOUBLE:
            continue  # then every other argument is the wrong one
        with pytest.raises(ArgumentTypeError, match=f"{name}: "):
            pwkernels.deform_conv2d(**(arguments | {name: wrong}))
    if name == "bias":
        with pytest.raises(ArgumentError, match=r"bias: .*\(6,\).*\(4,\).*\(6, 4, 3, 3\)"):
            pwkernels.deform_conv2d(**(arguments | {name: torch.zeros(4)}))


@pytest.mark.parametrize("far", [2.0**23, -(2.0**23), 2.0**24, float("inf")])
@pytest.mark.parametrize("size", [2**22, 2**23, 2**23 + 1, 2**26, 2**33])
def test_positions_that_float32_cannot_hold(size: int, far: float, cpu_variant: str) -> None:
    """An error before the kernel could read beside the map."""
    arguments = {
        "input": torch.ones(1, 1, 3, 3),
        "offset": torch.full((1, 18, 3, 3), far),
        "weight": torch.ones(1, 1, 3, 3),
        "padding": size,
        "dilation": size,
    }
    if size > 2**23:
        check(pwkernels.deform_conv2d, arguments, ArgumentError, f"padding: .*{2**23}.*{size}")
    else:
        # Where a tap and its offset meet in the map, the sample is there.
        wanted = pwkernels.deform_conv2d(
            **{n: a.double() if isinstance(a, Tensor) else a for n, a in arguments.items()},
            backend="reference",
        )
        assert torch.equal(pwkernels.deform_conv2d(**arguments, backend="cpu"), wanted.float())


def test_triton_on_cpu_tensors_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        ArgumentError, match=r"backend: 'triton' cannot run this call: .*(GPU|Triton)"
    ):
        pwkernels.multi_dilation_deform_warp(**warp_arguments(), backend="triton")


def test_cpu_kernel_that_is_missing_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cpu, "why_unavailable", lambda: "it was not built: no compiler")
    with pytest.raises(
        ArgumentError, match=r"backend: 'cpu' cannot run this call: it was not built"
    ):
        pwkernels.deform_conv2d(**conv_arguments(), backend="cpu")
    with caplog.at_level(logging.DEBUG, logger="pwkernels"):
        assert pwkernels.deform_conv2d(**conv_arguments()).shape == (2, 6, 5, 6)
    assert [r.levelno for r in caplog.records] == [logging.DEBUG]
    assert "'cpu' cannot run this call: it was not built: no compiler" in caplog.text


def test_the_first_call_without_the_kernel_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "why_unavailable", lambda: "it was not built: no compiler")
    cpu.warn_if_unavailable.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"10 to 15 times slower: it was not built: no comp"):
        pwkernels.deform_conv2d(**conv_arguments())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pwkernels.deform_conv2d(**conv_arguments())
        cpu.warn_if_unavailable.cache_clear()
        pwkernels.deform_conv2d(**conv_arguments(), backend="reference")  # asked for
        monkeypatch.setattr(cpu, "why_unavailable", lambda: "left out with PWKERNELS_NO_CPU_KERNEL")
        pwkernels.deform_conv2d(**conv_arguments())
    cpu.warn_if_unavailable.cache_clear()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cuts an ELF file")
@pytest.mark.parametrize("share", [0.0, 0.00001, 0.5, 0.999])
def test_a_library_that_is_cut_off_is_not_loaded(share: float, tmp_path: Path) -> None:
    """Loading one ends the process by a bus error, hence in another process."""
    whole = cpu._LIBRARY.read_bytes()
    cut = tmp_path / "_warp.so"
    cut.write_bytes(whole[: int(share * len(whole))])
    code = (
        "import pathlib, sys, pwkernels.cpu as cpu; cpu._LIBRARY = pathlib.Path(sys.argv[1]); "
        "print(cpu.why_unavailable())"
    )
    done = subprocess.run([sys.executable, "-c", code, cut], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search("is cut off; install the package again|does not load", done.stdout)


def test_torchvision_that_is_missing_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reason = "torchvision does not import (broken)"
    monkeypatch.setattr(checks, "_torchvision_unavailable", lambda: reason)
    with pytest.raises(
        ArgumentError, match=re.escape(f"'torchvision' cannot run this call: {reason}")
    ):
        pwkernels.deform_conv2d(**conv_arguments(), backend="torchvision")
    monkeypatch.setattr(cpu, "why_unavailable", lambda: "it was not built")
    arguments = conv_arguments()
    with caplog.at_level(logging.DEBUG, logger="pwkernels"):
        output = pwkernels.deform_conv2d(**arguments)
    assert torch.equal(output, pwkernels.deform_conv2d(**arguments, backend="reference"))
    assert len(caplog.records) == 2 and reason in caplog.text


def test_nothing_is_logged_where_the_kernel_runs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="pwkernels"):
        pwkernels.deform_conv2d(**conv_arguments())
    assert not caplog.records


def test_maps_beyond_32_bit_indices_say_so() -> None:
    geometry = WarpGeometry((1, 1), (1, 1), ((0, 0),), ((1, 1),))
    for size in ((2**24, 1), (2**16, 2**15)):
        input = torch.zeros(1, 1, 1, 1).expand(1, 1, *size)
        reason = checks.why_not("cpu", input, [])
        assert reason is not None and f"{size[0]} x {size[1]}" in reason, geometry


@pytest.mark.parametrize("module", [pwkernels.MultiDilationDeformWarp, pwkernels.DeformConv2d])
def test_modules(module: type) -> None:
    size = () if module is pwkernels.MultiDilationDeformWarp else (3,)
    for channels in ((4, 6), (6, 4)):
        with pytest.raises(ArgumentError, match="groups"):
            module(*channels, *size, groups=3)
    with pytest.raises(ArgumentError, match="kernel_size"):
        module(4, 4, kernel_size=0)
    if not size:
        with pytest.raises(ArgumentError, match=r"kernel_size: expected odd sides, got \(3, 2\)"):
            module(4, 4, kernel_size=(3, 2))


def test_numpy_integers_are_integers() -> None:
    input, weight = torch.randn(1, 2, 6, 6), torch.randn(2, 2, 3, 3)
    offset = torch.zeros(1, 18, 6, 6)
    one = np.int64(1)
    out = pwkernels.deform_conv2d(input, offset, weight, None, one, (one, one), np.int32(1))
    torch.testing.assert_close(out, torch.nn.functional.conv2d(input, weight, padding=1))
