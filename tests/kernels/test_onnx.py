"""Exported graphs against PyTorch: onnxruntime and the ONNX reference evaluator run them."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import grid
import numpy as np
import pytest
import torch
import torchvision.ops
from torch import Tensor, nn

import pwkernels
from pwkernels import onnx_translation
from pwkernels.testing import (
    FAMI,
    WINDOW,
    Case,
    Inputs,
    assert_close,
    make_inputs,
    relative_error,
    run,
    run_torchvision,
)

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")  # the extra has none for Python 3.10

DYNAMIC = torch.export.Dim.DYNAMIC
# The forms at the first opset that has them without a conversion.
FORMS = {"DeformConv": 19, "GridSample": 18}
parametrize_forms = pytest.mark.parametrize(("deform_op", "opset"), FORMS.items(), ids=FORMS)


class Warp(nn.Module):
    """The operation of a case with its weights as parameters; the maps are the graph's inputs."""

    def __init__(self, case: Case, inputs: Inputs, operation: Any = run) -> None:
        super().__init__()
        self.case, self.operation = case, operation
        for name in ("weight", "bias", "frame_weights"):
            tensor = getattr(inputs, name)
            self.register_parameter(name, None if tensor is None else nn.Parameter(tensor))

    def forward(self, input: Tensor, offsets: list[Tensor], masks: list[Tensor]) -> Tensor:
        inputs = Inputs(input, offsets, self.weight, masks, self.bias, self.frame_weights)
        return self.operation(self.case, inputs)


def export(model: nn.Module, arguments: tuple[Any, ...], form: str, opset: int, **options: Any):
    """The model's file as a proto, checked: by ONNX itself, and standard operators only."""
    program = torch.onnx.export(
        model.eval(),
        arguments,
        dynamo=True,
        opset_version=opset,
        custom_translation_table=onnx_translation.table(form),
        verbose=False,
        **options,
    )
    proto = program.model_proto
    onnx.checker.check_model(proto, full_check=True)
    assert [(imported.domain, imported.version) for imported in proto.opset_import] == [("", opset)]
    assert not proto.functions
    assert {node.domain for node in proto.graph.node} == {""}
    return proto


def operators(proto: Any) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def feeds(proto: Any, tensors: Sequence[Tensor]) -> dict[str, np.ndarray]:
    names = [value.name for value in proto.graph.input]
    return {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}


def onnxruntime_outputs(proto: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [torch.from_numpy(array) for array in session.run(None, feeds(proto, tensors))]


def onnxruntime_output(proto: Any, tensors: Sequence[Tensor]) -> Tensor:
    (output,) = onnxruntime_outputs(proto, tensors)
    return output


def maps(inputs: Inputs) -> list[Tensor]:
    return [inputs.input, *inputs.offsets, *inputs.masks]


def arguments(inputs: Inputs) -> tuple[Any, ...]:
    return inputs.input, inputs.offsets, inputs.masks


def check(case: Case, form: str, opset: int) -> Any:
    """Export a case; its output by onnxruntime is that of float64 arithmetic."""
    inputs = make_inputs(case)
    proto = export(Warp(case, inputs), arguments(inputs), form, opset)
    expected = run(case, inputs.map(lambda _, tensor: tensor.double()), backend="reference")
    output = onnxruntime_output(proto, maps(inputs))
    assert output.dtype == case.dtype
    assert_close(output, expected, case.dtype, "output")
    return proto


class Warps(nn.Module):
    """All of the small cases in one graph: an export takes its time, whatever it exports."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = {name: make_inputs(case) for name, case in grid.TINY.items()}
        self.warps = nn.ModuleList(Warp(case, self.inputs[n]) for n, case in grid.TINY.items())

    def forward(self, arguments: list[tuple[Any, ...]]) -> list[Tensor]:
        return [warp(*each) for warp, each in zip(self.warps, arguments, strict=True)]


@functools.cache
def outputs_of_small_cases(form: str) -> tuple[Counter[str], dict[str, Tensor]]:
    model = Warps()
    arguments_of_all = [arguments(inputs) for inputs in model.inputs.values()]
    proto = export(model, (arguments_of_all,), form, FORMS[form])
    tensors = [tensor for inputs in model.inputs.values() for tensor in maps(inputs)]
    return operators(proto), dict(zip(grid.TINY, onnxruntime_outputs(proto, tensors), strict=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", grid.TINY)
def test_onnxruntime_agrees(name: str, form: str) -> None:
    case = grid.TINY[name]
    doubles = make_inputs(case).map(lambda _, tensor: tensor.double())
    output = outputs_of_small_cases(form)[1][name]
    assert_close(output, run(case, doubles, backend="reference"), torch.float32, "output")


@pytest.mark.parametrize("form", FORMS)
def test_one_node_per_dilation(form: str) -> None:
    counts = outputs_of_small_cases(form)[0]
    dilations = [len(case.dilations) for case in grid.TINY.values()]
    assert {name: counts[name] for name in (*FORMS, "Sum")} == {
        **dict.fromkeys(FORMS, 0),
        form: sum(dilations),
        "Sum": sum(count > 1 for count in dilations),
    }


@pytest.mark.parametrize("case", [WINDOW.of(frames=1), FAMI], ids=["posewarper", "fami"])
@parametrize_forms
def test_maps_of_real_size(case: Case, deform_op: str, opset: int) -> None:
    check(case, deform_op, opset)


@pytest.mark.parametrize(
    ("form", "opset"),
    [("DeformConv", 20), ("DeformConv", 22), ("DeformConv", 23)]
    + [("GridSample", opset) for opset in (16, 17, 19, 20, 22)],
)
def test_opsets(form: str, opset: int) -> None:
    check(grid.EVERYTHING, form, opset)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    case = grid.EVERYTHING.of(dtype=dtype)
    assert operators(check(case, "DeformConv", 19))["Cast"] == (6 if dtype == torch.float16 else 0)
    if dtype == torch.float16:  # for float64 onnxruntime has no Conv
        check(case, "GridSample", 18)


def test_parameters_of_half_precision() -> None:
    # The arithmetic is in float32: the tolerance is one of that and of one rounding at the end.
    check(grid.EVERYTHING.of(weight_dtype=torch.float16), "DeformConv", 19)


@parametrize_forms
def test_bfloat16_is_exported(deform_op: str, opset: int) -> None:
    case = grid.EVERYTHING.of(dtype=torch.bfloat16)
    inputs = make_inputs(case)
    proto = export(Warp(case, inputs), arguments(inputs), deform_op, opset)
    bfloat16 = onnx.TensorProto.BFLOAT16
    values = [*proto.graph.input, *proto.graph.output]
    assert {value.type.tensor_type.elem_type for value in values} == {bfloat16}
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    named = {
        value.name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            tensor.view(torch.int16).numpy(), bfloat16
        )
        for value, tensor in zip(proto.graph.input, maps(inputs), strict=True)
    }
    (output,) = session.run_with_ort_values(None, named)
    actual = torch.from_dlpack(output._ortvalue.to_dlpack())  # NumPy has no such dtype
    expected = run(case, inputs.map(lambda _, tensor: tensor.double()), backend="reference")
    assert_close(actual, expected, torch.bfloat16, "output")


def dynamic_shapes(inputs: Inputs, sizes: dict[int, Any]) -> tuple[Any, ...]:
    return sizes, [sizes] * len(inputs.offsets), [sizes] * len(inputs.masks)


@pytest.mark.parametrize(
    ("case", "dynamic", "tried"),
    [
        (
            grid.EVERYTHING.of(frames=2, window=None),
            {0: DYNAMIC},
            [{"frames": 1}, {"frames": 5}, {"frames": 0}],
        ),
        (
            grid.EVERYTHING.of(frames=6, window=3),
            {0: 3 * torch.export.Dim("windows")},
            [{"frames": 3}, {"frames": 15}],
        ),
        (
            grid.EVERYTHING.of(frames=2, window=None),
            {0: DYNAMIC, 2: DYNAMIC, 3: DYNAMIC},
            [
                {"frames": 1, "size": (7, 3)},
                {"frames": 5, "size": (1, 1)},
                {"frames": 3, "size": (20, 17)},
            ],
        ),
    ],
    ids=["batch", "windows", "batch, height and width"],
)
@parametrize_forms
@pytest.mark.filterwarnings("ignore:# The axis name")
def test_dynamic_sizes(
    case: Case, dynamic: dict[int, Any], tried: list[dict[str, Any]], deform_op: str, opset: int
) -> None:
    inputs = make_inputs(case)
    model = Warp(case, inputs)
    shapes = dynamic_shapes(inputs, dynamic)
    proto = export(model, arguments(inputs), deform_op, opset, dynamic_shapes=shapes)
    for seed, changes in enumerate(tried):
        other = make_inputs(case.of(**changes), seed + 1)
        output = onnxruntime_output(proto, maps(other))
        assert_close(output, model(*arguments(other)), torch.float32, "output")


@parametrize_forms
def test_offsets_that_are_no_numbers(deform_op: str, opset: int) -> None:
    # Of DeformConv the standard says nothing; this is onnxruntime's behaviour.
    case = Case(channels=3, out_channels=2, offset_groups=3, frames=1)
    inputs = make_inputs(case)
    model = Warp(case, inputs)
    proto = export(model, arguments(inputs), deform_op, opset)
    for value in (float("nan"), float("inf"), -float("inf"), -3e38, 2.0**31, 2e7):
        inputs.offsets[0].view(-1)[::5] = value
        output = onnxruntime_output(proto, maps(inputs))
        assert_close(output, model(*arguments(inputs)), torch.float32, "output")


EVALUATED = {
    "everything": grid.EVERYTHING.of(
        frames=2, window=2, channels=4, out_channels=2, offset_groups=2, size=(2, 3)
    ),
    "conv": grid.conv(
        (2, 0), (1, 2), kernel=(2, 3), stride=(3, 1), size=(4, 7), channels=2, frames=1, bias=True
    ),
}


# Opset 20: the evaluator knows GridSample's mode only by the name that it has from there on.
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", EVALUATED.values(), ids=EVALUATED)
def test_reference_evaluator_agrees(case: Case, form: str) -> None:
    inputs = make_inputs(case)
    model = Warp(case, inputs)
    proto = export(model, arguments(inputs), form, 20)
    evaluator = onnx.reference.ReferenceEvaluator(proto)
    output = torch.from_numpy(evaluator.run(None, feeds(proto, maps(inputs)))[0])
    assert_close(output, model(*arguments(inputs)), torch.float32, "output")


def node_tests() -> dict[str, tuple[Any, list[np.ndarray], np.ndarray]]:
    """Node, inputs and output of the operator's tests in the ONNX package, by name."""
    from onnx.backend.test.case.node import deformconv

    tests = {}

    def expect(node: Any, inputs: list[np.ndarray], outputs: list[np.ndarray], name: str) -> None:
        tests[name] = (node, inputs, outputs[0])

    with mock.patch.object(deformconv, "expect", expect):
        for name, export_tests in vars(deformconv.DeformConv).items():
            if name.startswith("export"):
                export_tests.__func__()
    return tests


@pytest.mark.parametrize("name", node_tests())
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_node_tests_of_the_standard(name: str, backend: str) -> None:
    node, arrays, expected = node_tests()[name]
    x, weight, offset, *rest = [torch.from_numpy(array) for array in arrays]
    assert len(rest) in (0, 2)
    bias, mask = rest or (None, None)
    options = {attr.name: onnx.helper.get_attribute_value(attr) for attr in node.attribute}
    pad_h, pad_w, *pads_end = options["pads"]
    assert pads_end == [pad_h, pad_w]
    assert set(options) <= {"kernel_shape", "pads", "offset_group"}  # the others follow from shapes
    output = pwkernels.deform_conv2d(
        x, offset, weight, bias, padding=(pad_h, pad_w), mask=mask, backend=backend
    )
    assert_close(output, torch.from_numpy(expected), torch.float32, "output")


def test_there_are_node_tests() -> None:
    assert len(node_tests()) >= 4


TORCHVISION_CASES = {
    "everything": grid.EVERYTHING,
    "conv": grid.conv((1, 0), (1, 2), kernel=(2, 3), stride=(2, 1), masks=True, offset_groups=2),
    "without mask and bias": grid.conv((1, 1), groups=2),
}


@pytest.mark.parametrize("case", TORCHVISION_CASES.values(), ids=TORCHVISION_CASES)
@parametrize_forms
def test_torchvision_operator(case: Case, deform_op: str, opset: int) -> None:
    inputs = make_inputs(case)
    model = Warp(case, inputs, run_torchvision)
    proto = export(model, arguments(inputs), deform_op, opset)
    assert operators(proto)[deform_op] == len(case.dilations)
    output = onnxruntime_output(proto, maps(inputs))
    assert_close(output, model(*arguments(inputs)), torch.float32, "output")


class Predicting(nn.Module):
    """Modules as a network has them: convolutions predict the offsets and a mask."""

    def __init__(self, deform: nn.Module, dilations: Sequence[int] | None) -> None:
        super().__init__()
        self.deform = deform
        count = 1 if dilations is None else len(dilations)
        self.single = dilations is None
        self.offsets = nn.ModuleList(nn.Conv2d(6, 36, 3, padding=1) for _ in range(count))
        self.masks = nn.ModuleList(nn.Conv2d(6, 18, 3, padding=1) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        offsets = [layer(x) for layer in self.offsets]
        masks = [layer(x).sigmoid() for layer in self.masks]
        if self.single:
            return self.deform(x, offsets[0], masks[0])
        return self.deform(x, offsets, masks)


@pytest.mark.parametrize("kind", ["warp", "pwkernels", "torchvision"])
@parametrize_forms
def test_modules(kind: str, deform_op: str, opset: int) -> None:
    torch.manual_seed(0)
    deform: nn.Module
    if kind == "warp":
        deform = pwkernels.MultiDilationDeformWarp(6, 4, dilations=(1, 3), bias=True)
        nn.init.normal_(deform.weight)
    elif kind == "pwkernels":
        deform = pwkernels.DeformConv2d(6, 4, 3, padding=1)
    else:
        deform = torchvision.ops.DeformConv2d(6, 4, 3, padding=1)
    model = Predicting(deform, (1, 3) if kind == "warp" else None).eval()
    x = torch.randn(2, 6, 7, 9)
    proto = export(model, (x,), deform_op, opset, dynamic_shapes=({0: DYNAMIC},))
    assert operators(proto)[deform_op] == (2 if kind == "warp" else 1)
    x = torch.randn(3, 6, 7, 9)
    with torch.no_grad():
        assert_close(onnxruntime_output(proto, [x]), model(x), torch.float32, "output")


@pytest.mark.parametrize("backend", ["torchvision", "reference"])
def test_backend_asked_for_by_name(backend: str) -> None:
    # These are captured as torchvision's operator and as plain ones.
    case = grid.EVERYTHING
    inputs = make_inputs(case)
    model = Warp(case, inputs, lambda case, inputs: run(case, inputs, backend))
    proto = export(model, arguments(inputs), "DeformConv", 19)
    assert operators(proto)["DeformConv"] == (2 if backend == "torchvision" else 0)
    output = onnxruntime_output(proto, maps(inputs))
    assert_close(output, run(case, inputs), torch.float32, "output")


def test_comparisons_can_fail() -> None:
    case = grid.EVERYTHING
    inputs = make_inputs(case)
    proto = export(Warp(case, inputs), arguments(inputs), "DeformConv", 19)
    for name in inputs.named():
        if name in ("weight", "bias", "frame_weights"):
            continue
        moved = inputs.map(lambda n, t, name=name: t + 1e-3 if n == name else t)
        assert relative_error(onnxruntime_output(proto, maps(moved)), run(case, inputs)) > 1e-5


@pytest.mark.parametrize("deform_op", ["deformconv", "", None, "GridSample "])
def test_unknown_form(deform_op: Any) -> None:
    with pytest.raises(pwkernels.ArgumentError, match=r"deform_op: expected one of .*, got"):
        onnx_translation.table(deform_op)


def root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def refused(
    tmp_path: Path, case: Case, form: str, opset: int, dynamic: dict[int, Any] | None = None
) -> BaseException:
    """Why an export to a file fails; nothing is written."""
    inputs = make_inputs(case)
    path = tmp_path / "model.onnx"
    with pytest.raises(Exception, match="Failed to convert") as caught:
        torch.onnx.export(
            Warp(case, inputs).eval(),
            arguments(inputs),
            path,
            dynamo=True,
            opset_version=opset,
            custom_translation_table=onnx_translation.table(form),
            verbose=False,
            dynamic_shapes=None if dynamic is None else dynamic_shapes(inputs, dynamic),
        )
    assert not list(tmp_path.iterdir())
    return root_cause(caught.value)


@pytest.mark.parametrize("opset", [17, 18])
def test_opset_without_the_operator(tmp_path: Path, opset: int) -> None:
    error = refused(tmp_path, Case(), "DeformConv", opset)
    assert isinstance(error, pwkernels.ArgumentError)
    assert str(error).startswith("opset_version: DeformConv exists from 19 on")


@parametrize_forms
def test_dynamic_channels(tmp_path: Path, deform_op: str, opset: int) -> None:
    error = refused(tmp_path, Case(), deform_op, opset, {1: DYNAMIC})
    assert isinstance(error, pwkernels.ArgumentError)
    assert str(error).startswith("input: expected a fixed size in dimension 1")


def test_padding_that_follows_the_size() -> None:
    class Padded(nn.Module):
        def forward(self, x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
            return pwkernels.deform_conv2d(x, offset, weight, padding=(x.shape[2] // 4, 0))

    inputs = make_inputs(grid.conv((2, 0), size=(8, 5), frames=1))
    with pytest.raises(Exception, match="Failed to convert") as caught:
        export(
            Padded(),
            (inputs.input, inputs.offsets[0], inputs.weight[0]),
            "DeformConv",
            19,
            dynamic_shapes=({2: DYNAMIC}, {2: DYNAMIC}, None),
        )
    assert str(root_cause(caught.value)).startswith("padding: ONNX has it as an attribute")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_without_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install 'posewarper\[onnx\]'"):
        onnx_translation.table()


def test_table_joins_others_and_needs_no_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    operators = torch.ops.pwkernels
    ours = {operators.deform_warp.default, operators.offset_conv_warp.default}
    theirs = torch.ops.torchvision.deform_conv2d.default
    assert set(onnx_translation.table()) == {*ours, theirs}
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    assert set(onnx_translation.table()) == ours


def test_nothing_of_onnx_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, pwkernels.onnx_translation as t\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'onnx', 'onnxscript', 'onnx_ir', 'onnxruntime'}, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
