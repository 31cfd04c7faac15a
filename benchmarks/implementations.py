"""What is measured: our kernels, and what a user would write without them."""

from __future__ import annotations

import functools
import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import leaves, require_grad
from pwkernels.testing import Case, Inputs

Forward = Callable[[Inputs], Tensor]
Call = Callable[[], dict[str, Tensor]]

# The compiled kernel that "auto" has to take, or the numbers would be those of a fallback.
COMPILED = {"cpu": "cpu", "cuda": "triton"}


def _pwkernels(case: Case, backend: str) -> Forward:
    from pwkernels import multi_dilation_deform_warp

    def forward(inputs: Inputs) -> Tensor:
        return multi_dilation_deform_warp(
            inputs.input,
            inputs.offsets,
            inputs.weight,
            dilations=case.dilations,
            masks=inputs.masks or None,
            bias=inputs.bias,
            backend=backend,
        )

    return forward


def _torchvision(case: Case) -> Forward:
    from torchvision.ops import deform_conv2d

    geometry = case.geometry

    def forward(inputs: Inputs) -> Tensor:
        maps = [
            deform_conv2d(
                inputs.input,
                inputs.offsets[d],
                inputs.weight[d],
                None if inputs.bias is None else inputs.bias[d],
                padding=geometry.paddings[d],
                dilation=geometry.dilations[d],
                mask=inputs.masks[d] if inputs.masks else None,
            )
            for d in range(len(inputs.offsets))
        ]
        return torch.stack(maps).mean(0) if len(maps) > 1 else maps[0]

    return forward


def onnx_model(case: Case, inputs: Inputs) -> bytes:
    """An ONNX model: one standard DeformConv node per dilation and their Mean."""
    from onnx import TensorProto, checker, helper, numpy_helper

    def value(name: str, tensor: Tensor) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(tensor.shape))

    nodes, initializers = [], []
    graph_inputs = [value("input", inputs.input)]
    geometry = case.geometry
    for d, (pad_h, pad_w) in enumerate(geometry.paddings):
        weight = inputs.weight[d].detach().numpy()
        initializers.append(numpy_helper.from_array(weight, f"weight{d}"))
        names = ["input", f"weight{d}", f"offset{d}", "", ""]
        graph_inputs.append(value(f"offset{d}", inputs.offsets[d]))
        if inputs.bias is not None:
            names[3] = f"bias{d}"
            bias = inputs.bias[d].detach().numpy()
            initializers.append(numpy_helper.from_array(bias, f"bias{d}"))
        if inputs.masks:
            names[4] = f"mask{d}"
            graph_inputs.append(value(f"mask{d}", inputs.masks[d]))
        while not names[-1]:
            names.pop()
        nodes.append(
            helper.make_node(
                "DeformConv",
                names,
                [f"map{d}"],
                kernel_shape=list(case.kernel),
                pads=[pad_h, pad_w, pad_h, pad_w],
                dilations=list(geometry.dilations[d]),
                group=case.groups,
                offset_group=case.offset_groups,
            )
        )
    nodes.append(helper.make_node("Mean", [f"map{d}" for d in range(len(nodes))], ["output"]))
    outputs = [value("output", inputs.grad_output)]
    graph = helper.make_graph(nodes, "warp", graph_inputs, outputs, initializers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9, producer_name="benchmark"
    )
    checker.check_model(model)
    return model.SerializeToString()


def _onnxruntime(case: Case, inputs: Inputs) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        onnx_model(case, inputs), options, providers=["CPUExecutionProvider"]
    )

    def forward(inputs: Inputs) -> Tensor:
        feeds = {"input": inputs.input.numpy()}
        feeds |= {f"offset{d}": offset.numpy() for d, offset in enumerate(inputs.offsets)}
        feeds |= {f"mask{d}": mask.numpy() for d, mask in enumerate(inputs.masks)}
        return torch.from_numpy(session.run(None, feeds)[0])

    return forward


def _onnxruntime_runs_deform_conv() -> bool:
    """From 1.25 on, which does not exist for Python 3.10; everywhere else it has to be there."""
    try:
        major, minor = importlib.metadata.version("onnxruntime").split(".")[:2]
    except importlib.metadata.PackageNotFoundError:
        if sys.version_info >= (3, 11):
            raise
        return False
    return (int(major), int(minor)) >= (1, 25)


def implementations(device: str, what: str, dtype: str) -> list[str]:
    """What can be compared on a device, in the order of measurement."""
    names = ["pwkernels"]
    if dtype != "bfloat16":  # torchvision has no kernel for it
        names.append("torchvision")
    wanted = device == "cpu" and what == "forward" and dtype == "float32"
    if wanted and _onnxruntime_runs_deform_conv():
        names.append("onnxruntime")
    return names


def make_forward(implementation: str, case: Case, inputs: Inputs) -> Forward:
    """The forward of an implementation.

    Raises:
        RuntimeError: our kernels are asked for and cannot run.
        ValueError: an unknown implementation.
    """
    if implementation in ("pwkernels", "pwkernels-kernel"):
        from pwkernels.checks import why_not

        compiled = COMPILED[inputs.input.device.type]
        if reason := why_not(compiled, inputs.input, inputs.offsets):
            raise RuntimeError(f"no compiled kernel: {reason}")
        return _pwkernels(case, "auto" if implementation == "pwkernels" else compiled)
    if implementation == "torchvision":
        return _torchvision(case)
    if implementation == "onnxruntime":
        return _onnxruntime(case, inputs)
    raise ValueError(f"unknown implementation {implementation!r}")


def make_calls(
    implementation: str, case: Case, input_sets: Sequence[Inputs], what: str
) -> list[Call]:
    """Per set of inputs a function that runs ``what`` once and returns its results by name."""
    for inputs in input_sets:
        require_grad(inputs, what)
    forward = make_forward(implementation, case, input_sets[0])

    def call(inputs: Inputs) -> dict[str, Tensor]:
        if what == "forward":
            with torch.no_grad():
                return {"output": forward(inputs)}
        output = forward(inputs)
        wanted = leaves(inputs, what)
        gradients = torch.autograd.grad(output, list(wanted.values()), inputs.grad_output)
        return {"output": output.detach(), **dict(zip(wanted, gradients, strict=True))}

    return [functools.partial(call, inputs) for inputs in input_sets]
