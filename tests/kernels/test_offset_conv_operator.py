"""``offset_conv_warp`` within PyTorch: opcheck, compile, export, autocast, torch.func; errors."""

from __future__ import annotations

import functools
import io
import logging
from dataclasses import replace

import pytest
import torch
from offset_conv_calls import CALLS, EVERYTHING, NAMES, Call, expected, results
from torch import Tensor
from torch.func import grad, vmap

import pwkernels
from pwkernels import ArgumentError, ArgumentTypeError, cpu
from pwkernels.testing import assert_close, relative_error


@pytest.fixture
def fresh_compiler() -> None:
    torch.compiler.reset()


def arguments(call: Call) -> tuple[Tensor | None, ...]:
    leaves = {n: None if t is None else t.requires_grad_() for n, t in call.tensors().items()}
    return tuple(leaves[name] for name in NAMES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["plain", "everything"])
def test_opcheck(name: str, dtype: torch.dtype) -> None:
    call = CALLS[name].of(dtype=dtype, weight_dtype=torch.float32)
    dilations = call.case.geometry.flat_dilations()
    torch.library.opcheck(
        torch.ops.pwkernels.offset_conv_warp.default, (*arguments(call), dilations, "cpu")
    )


@pytest.mark.parametrize("needs", [[True] * 5, [True, False, False, False, True]], ids=str)
def test_opcheck_backward(needs: list[bool]) -> None:
    call = EVERYTHING
    tensors = [t.detach() for t in arguments(call)]
    torch.library.opcheck(
        torch.ops.pwkernels.offset_conv_warp_backward.default,
        (call.grad_output(), *tensors, call.case.geometry.flat_dilations(), needs, "cpu"),
    )


@pytest.mark.parametrize(
    ("backend", "autocast"), [("auto", False), ("auto", True), ("unfused", True)]
)
def test_compile(autocast: bool, backend: str, fresh_compiler: None) -> None:
    call = EVERYTHING
    compiled = torch.compile(
        functools.partial(call.run, backend=backend), fullgraph=True, backend="aot_eager"
    )
    wanted = expected("everything")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        actual = results(compiled, call.tensors(), call.grad_output())
    if autocast and backend != "auto":  # their backwards are torch's, under autocast
        actual, wanted = {"": actual["output"]}, {"": wanted["output"]}
    for name, value in actual.items():
        assert relative_error(value, wanted[name]) < 1e-4, name


class Everything(torch.nn.Module):
    def forward(self, *tensors: Tensor) -> Tensor:
        return EVERYTHING.run(dict(zip(NAMES, tensors, strict=True)))


class Module(torch.nn.Module):
    def forward(self, *tensors: Tensor) -> Tensor:
        return EVERYTHING.of(window=None).run(dict(zip(NAMES, (*tensors, None), strict=True)))


def test_export_with_any_batch() -> None:
    call = EVERYTHING.of(window=None)
    values = tuple(call.tensors().values())[:4]
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(Module(), values, dynamic_shapes=((batch, batch, None, None),))
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(torch.ops.pwkernels.offset_conv_warp.default) == 1
    stored = io.BytesIO()
    torch.export.save(program, stored)
    stored.seek(0)
    loaded = torch.export.load(stored).module()
    other = tuple(call.of(frames=2).tensors().values())[:4]
    assert torch.equal(loaded(*other), Module()(*other))


@pytest.mark.parametrize(("deform_op", "opset"), [("DeformConv", 19), ("GridSample", 18)])
def test_onnx(deform_op: str, opset: int) -> None:
    """Ordinary convolutions, and the warp's graph after them."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from pwkernels import onnx_translation

    module = Everything().eval()
    values = tuple(EVERYTHING.tensors().values())
    program = torch.onnx.export(
        module, values, dynamo=True, opset_version=opset, verbose=False,
        custom_translation_table=onnx_translation.table(deform_op),
    )  # fmt: skip
    proto = program.model_proto
    assert {node.domain for node in proto.graph.node} == {""}
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    names = [entry.name for entry in session.get_inputs()]
    feeds = {name: value.numpy() for name, value in zip(names, values, strict=True)}
    (output,) = session.run(None, feeds)
    assert relative_error(torch.from_numpy(output), module(*values)) < 1e-4


@pytest.mark.parametrize("backend", ["auto", "cpu", "triton", "unfused", "reference"])
def test_meta_tensors(backend: str) -> None:
    call = EVERYTHING
    meta = {n: t.to("meta") for n, t in call.tensors().items()}
    actual = results(
        functools.partial(call.run, backend=backend), meta, call.grad_output().to("meta")
    )
    wanted = expected("everything")
    assert {n: t.shape for n, t in actual.items()} == {n: t.shape for n, t in wanted.items()}


def test_autocast_changes_nothing() -> None:
    call = EVERYTHING
    wanted = results(call.run, call.tensors(), call.grad_output())
    with torch.autocast("cpu", torch.bfloat16):
        actual = results(call.run, call.tensors(), call.grad_output())
    assert all(torch.equal(actual[n], wanted[n]) for n in wanted)


def test_torch_func() -> None:
    """vmap of the operation and of its gradient, against a loop."""
    call = EVERYTHING
    stack = {n: torch.stack([replace(call, seed=s).tensors()[n] for s in range(2)]) for n in NAMES}
    others, grad_output = call.tensors(), call.grad_output()

    def loss(features: Tensor, kernels: Tensor) -> Tensor:
        tensors = {**others, "features": features, "offset_weight": kernels}
        return (call.run(tensors, "cpu") * grad_output).sum()

    given = stack["features"], stack["offset_weight"]
    gradients = grad(loss, argnums=(0, 1))
    for function in (loss, gradients):
        mapped = vmap(function)(*given)
        for index in range(2):
            one = function(given[0][index], given[1][index])
            for actual, wanted in zip(
                mapped if isinstance(mapped, tuple) else [mapped],
                one if isinstance(one, tuple) else [one],
                strict=True,
            ):
                assert relative_error(actual[index], wanted) < 1e-5


def test_second_derivative_raises() -> None:
    call = CALLS["plain"]
    tensors = call.tensors()
    features = tensors["features"].requires_grad_()
    for backend in ("reference", "cpu"):
        output = call.run(tensors, backend).square().sum()
        (gradient,) = torch.autograd.grad(output, features, create_graph=True)
        if backend == "reference":
            gradient.sum().backward()
        else:
            with pytest.raises(RuntimeError):
                gradient.sum().backward()


# Errors.

ERRORS = {
    "features of 3 dimensions": ({"features": torch.zeros(5, 5, 7)}, r"features: .*\(5, 5, 7\)"),
    "features of another size": (
        {"features": torch.zeros(6, 5, 7, 5)},
        r"features: .*\(6, 5, 5, 7\).*\(6, 5, 7, 5\)",
    ),
    "features of another batch": ({"features": torch.zeros(3, 5, 5, 7)}, r"features: .*\(3, 5,"),
    "no features": ({"features": torch.zeros(6, 0, 5, 7)}, r"features: .*F of at least 1"),
    "input of 3 dimensions": ({"input": torch.zeros(6, 5, 7)}, r"input: .*4 dimensions"),
    "offset_weight of one dilation": (
        {"offset_weight": torch.zeros(54, 5, 3, 3)},
        r"offset_weight: .*5 dimensions.*\(54, 5, 3, 3\)",
    ),
    "offset_weight of other features": (
        {"offset_weight": torch.zeros(2, 54, 4, 3, 3)},
        r"offset_weight: .*\(2, 54, 5, 3, 3\).*\(2, 54, 4, 3, 3\)",
    ),
    "offset_weight of 5x5": (
        {"offset_weight": torch.zeros(2, 54, 5, 5, 5)},
        r"offset_weight: .*\(2, 54, 5, 3, 3\).*\(2, 54, 5, 5, 5\)",
    ),
    "offset_weight of half a tap": (
        {"offset_weight": torch.zeros(2, 45, 5, 3, 3)},
        r"offset_weight: .*18.*\(2, 45, 5, 3, 3\)",
    ),
    "offset groups that do not divide": (
        {"offset_weight": torch.zeros(2, 72, 5, 3, 3)},
        r"offset_weight: .*4 offset groups.*6 channels",
    ),
    "weight of an even kernel": (
        {"weight": torch.zeros(2, 4, 3, 2, 3)},
        r"weight: .*odd kernel sides.*2 x 3",
    ),
    "weight of other channels": ({"weight": torch.zeros(2, 4, 4, 3, 3)}, r"weight: .*divide"),
    "three dilations": ({"dilations": (1, 2, 3)}, r"dilations: expected 2.*\(1, 2, 3\)"),
    "dilation 0": ({"dilations": (1, 0)}, r"dilations\[1\]: .*at least 1.*0"),
    "dilation beyond float32": ({"dilations": (1, 2**26)}, r"dilations\[1\]: .*67108864"),
    "frame weights that do not divide": (
        {"frame_weights": torch.zeros(4)},
        r"frame_weights: .*4.*6",
    ),
    "unknown reduction": ({"reduction": "max"}, r"reduction: expected 'mean' or 'sum', got 'max'"),
    "unknown backend": ({"backend": "torchvision"}, r"backend: expected one of .*'torchvision'"),
    "features on another device": (
        {"features": torch.zeros(6, 5, 5, 7, device="meta")},
        r"features: .*cpu.*meta",
    ),
}
TYPE_ERRORS = {
    "features of integers": (
        {"features": torch.zeros(6, 5, 5, 7, dtype=torch.int64)},
        r"features: .*int64",
    ),
    "features in a list": ({"features": [1.0]}, r"features: .*torch.Tensor.*list"),
    "offset_weight in float64": (
        {"offset_weight": torch.zeros(2, 54, 5, 3, 3, dtype=torch.float64)},
        r"offset_weight: .*float64.*float32",
    ),
    "frame weights in a list": ({"frame_weights": [1.0]}, r"frame_weights: .*list"),
    "dilation of a float": ({"dilations": (1, 2.0)}, r"dilations\[1\]: .*int.*2.0"),
}


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [(ArgumentError, *e) for e in ERRORS.values()]
    + [(ArgumentTypeError, *e) for e in TYPE_ERRORS.values()],
    ids=[*ERRORS, *TYPE_ERRORS],
)
def test_errors(kind: type, changes: dict, message: str) -> None:
    given = {**EVERYTHING.tensors(), "dilations": (1, 3), **changes}
    with pytest.raises(kind, match="^" + message):
        pwkernels.offset_conv_warp(**given)


def test_auto_without_the_kernel(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Runs unfused and says why; the kernel asked for by name is an error."""
    monkeypatch.setattr(cpu, "why_unavailable", lambda: "it was not built: no compiler")
    with caplog.at_level(logging.DEBUG, logger="pwkernels"):
        output = EVERYTHING.run(EVERYTHING.tensors())
    assert "it was not built: no compiler" in caplog.text
    assert_close(output, expected("everything")["output"], torch.float32, "output")
    with pytest.raises(ArgumentError, match=r"^backend: 'cpu' cannot run this call: it was not"):
        EVERYTHING.run(EVERYTHING.tensors(), "cpu")


def test_triton_on_cpu_tensors_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        ArgumentError, match=r"^backend: 'triton' cannot run this call: .*(GPU|Tri)"
    ):
        EVERYTHING.run(EVERYTHING.tensors(), "triton")
