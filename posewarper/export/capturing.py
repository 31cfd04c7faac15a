"""A graph as an ONNX proto: captured, simplified, and with names for the sizes that are dynamic."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from posewarper.export.graphs import FRAME_HEATMAPS, Graph, Part
from posewarper.models import HEATMAP_STRIDE

_FOLDED = 10**7  # elements of the largest input of an operator that is computed beforehand


def captured(
    graph: Graph, inputs: tuple[Tensor, ...], *, opset: int, table: Any, dynamic_size: bool
) -> Any:
    """The graph; the batch is dynamic.

    Parts are captured one at a time and joined. So the second part of "aggregate" takes its sizes
    from the frames' heatmaps alone, and a program can cut the file there.

    Args:
        graph: in eval mode.
        inputs: an example with a batch above 1.
        opset: of the file.
        table: of ``pwkernels.onnx_translation``.
        dynamic_size: whether height and width of images are dynamic, too.

    Raises:
        ValueError: the exporter fails, or writes something else than asked for.
    """
    from onnx import compose

    whole: Any = None
    for part in graph.parts():
        if part.inputs == (FRAME_HEATMAPS,):
            batch, frames, _, height, width = inputs[0].shape
            hw = height // HEATMAP_STRIDE, width // HEATMAP_STRIDE
            inputs = (torch.zeros(batch * frames, graph.joints, *hw),)
        proto = _captured_part(part, inputs, opset, table, dynamic_size)
        if whole is None:
            whole = proto
            continue
        proto = compose.add_prefix(proto, "key/", rename_inputs=False, rename_outputs=False)
        whole = compose.merge_models(whole, proto, io_map=[(name, name) for name in part.inputs])
        del whole.opset_import[1:]  # one entry of each part
    _name_sizes(whole, graph, dynamic_size)
    return whole


def _captured_part(
    part: Part, inputs: tuple[Tensor, ...], opset: int, table: Any, dynamic_size: bool
) -> Any:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from onnxscript import optimizer

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        try:
            program = torch.onnx.export(
                part.eval(),
                inputs,
                dynamo=True,
                opset_version=opset,
                custom_translation_table=table,
                input_names=list(part.inputs),
                output_names=list(part.outputs),
                dynamic_shapes=(_dynamic_sizes(part, inputs, dynamic_size),),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            raise ValueError(f"mode: {part.owner.mode!r} cannot be exported: {cause}") from error
    assert program is not None
    optimizer.optimize_ir(program.model, input_size_limit=_FOLDED, should_fold=_is_folded)
    ClearMetadataAndDocStringPass()(program.model)  # lines of source, with the names of its folders
    proto = program.model_proto
    written = {imported.domain: imported.version for imported in proto.opset_import}
    if written != {"": opset}:
        raise ValueError(f"opset: asked for {opset}, but the exporter wrote {written}")
    return proto


def _is_folded(node: Any) -> bool | None:
    """None leaves it to the optimizer; weights in float16 stay so in the file."""
    if node.op_type == "Cast" and node.inputs[0].dtype is not None:
        return None if node.inputs[0].dtype.itemsize >= node.outputs[0].dtype.itemsize else False
    return None


def _dynamic_sizes(
    part: Part, inputs: tuple[Tensor, ...], dynamic_size: bool
) -> tuple[dict[int, Any], ...]:
    """Of each input the sizes that vary, and what they are multiples of."""
    dim = torch.export.Dim
    batch, rows, columns = dim("batch"), dim("rows"), dim("columns")
    sizes = []
    for name, tensor in zip(part.inputs, inputs, strict=True):
        is_image = name not in ("key_heatmaps", FRAME_HEATMAPS)
        frames = len(part.owner.window or (0,)) if name == FRAME_HEATMAPS else 1
        varying = {0: batch if frames == 1 else frames * batch}
        if dynamic_size:
            multiple = part.owner.size_multiple // (1 if is_image else HEATMAP_STRIDE)
            varying |= {tensor.ndim - 2: multiple * rows, tensor.ndim - 1: multiple * columns}
        sizes.append(varying)
    return tuple(sizes)


def _name_sizes(proto: Any, graph: Graph, dynamic_size: bool) -> None:
    """One name per dynamic size. Shapes inside, where the parts' names differ, are left to readers,
    but for the place to cut at.

    Raises:
        ValueError: a size that should be dynamic is fixed.
    """
    cuts = [value for value in proto.graph.value_info if value.name == FRAME_HEATMAPS]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(cuts)
    for value in (*proto.graph.input, *cuts, *proto.graph.output):
        sizes = value.type.tensor_type.shape.dim
        names = {0: "batch" if value not in cuts else f"{len(graph.window or ())}*batch"}
        if dynamic_size and value.name not in ("joints", "scores"):
            of = f"/{HEATMAP_STRIDE}" if value.name.endswith("heatmaps") else ""
            names |= {len(sizes) - 2: f"height{of}", len(sizes) - 1: f"width{of}"}
        for axis, name in names.items():
            # Where capturing fails, the exporter tries fixed sizes.
            if not sizes[axis].dim_param:
                raise ValueError(
                    f"mode: {graph.mode!r} could not be captured for a {name} of any size"
                )
            sizes[axis].dim_param = name
