"""Files of ONNX: graphs of standard operators, with what they mean in their properties."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from posewarper.export.comparison import Comparison, compare, random_inputs
from posewarper.export.graphs import INPUTS, MODES, Graph, Mode
from posewarper.files import whole_file
from posewarper.heatmaps import REFINEMENTS
from posewarper.models import PoseModel, Window
from pwkernels import onnx_translation

DeformOp = Literal["DeformConv", "GridSample"]
DEFORM_OPS: tuple[str, ...] = get_args(DeformOp)

#: Key of the property, and version of its content.
PROPERTY = "posewarper"
FORMAT = 1

#: The first opset that PyTorch's exporter writes, and the first with DeformConv.
_FIRST_OPSET = {"DeformConv": 19, "GridSample": 18}
_LAST_OPSET = 23  # of PyTorch's exporter


def to_onnx(
    model: PoseModel,
    path: str | Path,
    *,
    mode: Mode,
    deform_op: DeformOp = "DeformConv",
    opset: int | None = None,
    decode: bool = True,
    refinement: str | None = None,
    normalise: bool = True,
    fold: bool = True,
    window: Window | None = None,
    compare_results: bool = True,
) -> Comparison | None:
    """Write one use of a model as an ONNX file, and compare it with PyTorch.

    The batch is dynamic; crops have the model's size. Inputs and their shapes are those of
    ``export.graphs``; the outputs are ``heatmaps [B, J, h, w]`` float32, before them, with
    ``decode``, ``joints [B, J, 2]``, x and y in pixels of the crop, and ``scores [B, J]``, the
    heights of the maxima. The model's property "posewarper" tells as JSON what ``describe``
    returns.

    Args:
        model: the model, on any device; it is not changed.
        path: the file; it appears whole, checked and compared, or not at all.
        mode: "single", "pair" (the support frame's pose moved to the key frame), "propagate" (the
            key frame's heatmaps moved to the support frame) or "aggregate".
        deform_op: "DeformConv", or "GridSample" for runtimes without it; see
            ``pwkernels.onnx_translation.table``. Without effect on "single", which has neither.
        opset: of the file; by default the first one that has the operator, 19 or 18.
        decode: whether joints and scores are outputs, too.
        refinement: of the decoding, see ``heatmaps.decode``; by default the model's.
        normalise: whether images are RGB bytes, uint8, and the graph normalises them. Otherwise
            they are float32, as ``data.crops.normalise`` returns them.
        fold: BatchNorm as part of the convolutions; for "aggregate" also the offset fields of the
            key frame as constants.
        window: of "aggregate"; by default the model's.
        compare_results: whether the file is compared with PyTorch, which needs onnxruntime.

    Returns:
        The comparison, which is within its tolerances: heatmaps 1e-4 of the largest value, joints
        0.01 pixels; None if there was none.

    Raises:
        ValueError: options that are unknown or do not go together, a package that is missing, or
            a file that fails the checker or the comparison. There is no new file then.
        OSError: the file cannot be written.
    """
    path = Path(path)
    opset = _checked(model, path, mode, deform_op, opset, refinement, window)
    refinement = model.refinement if refinement is None else refinement
    if mode == "aggregate":
        window = model.config.window if window is None else window
    try:
        table: Any = onnx_translation.table(deform_op)
        import onnx
    except ImportError as error:
        raise ValueError(f"{path}: {error}") from None
    graph = Graph(
        model,
        mode,
        window=window,
        refinement=refinement if decode else None,
        bytes_in=normalise,
        fold=fold,
    )
    inputs = random_inputs(model, mode, window, normalise, batch=2, seed=0)
    proto = _captured(graph, inputs, mode, decode, opset, table)
    about = describe(
        model, mode, window=window, refinement=refinement, decode=decode, normalise=normalise
    )
    onnx.helper.set_model_props(proto, {PROPERTY: json.dumps(about)})
    proto.producer_name, proto.producer_version = PROPERTY, _version()
    with whole_file(path) as partial:
        with open(partial, "wb") as file:
            file.write(proto.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        try:
            onnx.checker.check_model(str(partial), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ValueError(f"{path}: the graph is no valid ONNX: {error}") from error
        if not compare_results:
            return None
        comparison = compare(
            partial,
            model,
            mode,
            window=window,
            refinement=refinement,
            decoded=decode,
            bytes_in=normalise,
        )
        if comparison.faults():
            raise ValueError(
                f"{path}: not written, as it differs from PyTorch: "
                + "; ".join(comparison.faults())
            )
    return comparison


def describe(
    model: PoseModel,
    mode: Mode,
    *,
    window: Window | None,
    refinement: str,
    decode: bool,
    normalise: bool,
) -> dict[str, Any]:
    """What a program has to know about a file: plain values.

    Returns:
        format, version (of this package), mode, skeleton (name, joints, flip_pairs, limbs, sigmas),
        crop_wh, heatmap_wh, padding (growth of boxes), input ("uint8" RGB or "float32"
        normalised), decodes, refinement, sigma, window (deltas and weights, or null), upright,
        support_box: see ``PoseModel``.
    """
    height, width = model.heatmap_hw
    return {
        "format": FORMAT,
        "version": _version(),
        "mode": mode,
        "skeleton": asdict(model.skeleton),
        "crop_wh": model.crop_wh,
        "heatmap_wh": (width, height),
        "padding": model.padding,
        "input": "uint8" if normalise else "float32",
        "decodes": decode,
        "refinement": refinement,
        "sigma": model.sigma,
        "window": None if window is None else asdict(window),
        "upright": model.upright,
        "support_box": model.support_box,
    }


def _version() -> str:
    try:
        return metadata.version("posewarper")
    except metadata.PackageNotFoundError:
        return "not installed"


def _checked(
    model: PoseModel,
    path: Path,
    mode: str,
    deform_op: str,
    opset: int | None,
    refinement: str | None,
    window: Window | None,
) -> int:
    """The opset, if the options are known and go together; an error before any work."""
    for name, value, known in (
        ("mode", mode, MODES),
        ("deform_op", deform_op, DEFORM_OPS),
        ("refinement", refinement or "quarter", REFINEMENTS),
    ):
        if value not in known:
            raise ValueError(f"{name}: expected one of {known}, got {value!r}")
    if mode != "single" and not model.warps:
        raise ValueError(
            f"mode: {mode!r} needs a model with a warp head; this one is a single-frame model, "
            "which has mode 'single' only"
        )
    if window is not None and mode != "aggregate":
        raise ValueError(f"window: only mode 'aggregate' has one, got mode {mode!r}")
    first = 18 if mode == "single" else _FIRST_OPSET[deform_op]
    if opset is None:
        opset = _FIRST_OPSET[deform_op]
    if not first <= opset <= _LAST_OPSET:
        raise ValueError(
            f"opset: expected {first} to {_LAST_OPSET} for mode {mode!r} and deform_op "
            f"{deform_op!r}, got {opset}"
        )
    if path.is_dir() or not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: expected a file in a folder that exists")
    return opset


def _captured(
    graph: Graph,
    inputs: tuple[torch.Tensor, ...],
    mode: Mode,
    decode: bool,
    opset: int,
    table: Any,
) -> Any:
    """The graph as a proto, constants folded.

    Raises:
        ValueError: the exporter fails, or writes another opset.
    """
    from onnxscript import optimizer

    batch = torch.export.Dim("batch")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        try:
            program = torch.onnx.export(
                graph.eval(),
                inputs,
                dynamo=True,
                opset_version=opset,
                custom_translation_table=table,
                input_names=list(INPUTS[mode]),
                output_names=["joints", "scores", "heatmaps"] if decode else ["heatmaps"],
                dynamic_shapes=(tuple({0: batch} for _ in inputs),),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            raise ValueError(f"mode: {mode!r} cannot be exported: {cause}") from error
    assert program is not None
    optimizer.optimize(program.model, input_size_limit=10**7)
    proto = program.model_proto
    written = {imported.domain: imported.version for imported in proto.opset_import}
    if written != {"": opset}:
        raise ValueError(f"opset: asked for {opset}, but the exporter wrote {written}")
    for value in proto.graph.input:  # where capturing fails, the exporter tries fixed sizes
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ValueError(f"mode: {mode!r} could not be captured for batches of any size")
    return proto
