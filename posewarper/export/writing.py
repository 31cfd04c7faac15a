"""Files of ONNX: graphs of standard operators, with what they mean in their properties."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from posewarper.export.capturing import captured
from posewarper.export.comparison import Comparison, compare, need_onnxruntime, onnx_runner
from posewarper.export.graphs import FRAME_HEATMAPS, MODES, PRECISIONS, Graph, Mode, Precision
from posewarper.export.inputs import random_inputs, real_inputs
from posewarper.files import whole_file
from posewarper.heatmaps import REFINEMENTS
from posewarper.models import PoseModel, Window
from posewarper.models.pose_model import ONNX_SUFFIX
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
    precision: Precision = "fp32",
    dynamic_size: bool = False,
    compare_results: bool = True,
    images: str | Path | None = None,
) -> Comparison | None:
    """Write one use of a model as an ONNX file, and compare it with PyTorch.

    The batch is dynamic. Inputs and their shapes are those of ``export.graphs``; the outputs are
    ``heatmaps [B, J, h, w]`` float32, before them, with ``decode``, ``joints [B, J, 2]``, x and y
    in pixels of the crop, and ``scores [B, J]``, the heights of the maxima. In mode "aggregate" the
    tensor ``frame_heatmaps [B * T, J, h, w]`` float32 inside cuts the graph in two: see
    ``onnx.utils.Extractor``. The model's property "posewarper" tells as JSON what ``describe``
    returns.

    Args:
        model: the model, on any device; it is not changed.
        path: the file, ``.onnx``; it appears whole, checked and compared, or not at all.
        mode: "single", "pair" (the support frame's pose moved to the key frame), "propagate" (the
            key frame's heatmaps moved to the support frame) or "aggregate".
        deform_op: "DeformConv", or "GridSample" for runtimes without it; see
            ``pwkernels.onnx_translation.table``. Without effect on "single", which has neither.
        opset: of the file; by default the first one that has the operator, 19 or 18.
        decode: whether joints and scores are outputs, too.
        refinement: of the decoding, see ``heatmaps.decode``; by default the model's.
        normalise: whether images are RGB bytes, uint8, and the graph normalises them. Otherwise
            they are float32, as ``data.crops.normalise`` returns them.
        fold: BatchNorm as part of the convolutions; for "aggregate" of a fixed size also the offset
            fields of the key frame as constants.
        window: of "aggregate"; by default the model's.
        precision: "fp32", or "fp16": weights in float16, and arithmetic where it may be; see
            ``half.to_half``. Inputs and outputs are the same.
        dynamic_size: whether crops may have any height and width that are multiples of the
            backbone's ``size_multiple``; otherwise they have the model's size.
        compare_results: whether the file is compared with PyTorch, which needs onnxruntime.
        images: a video, an image or a folder of images, of which crops are compared beside random
            images; see ``inputs.real_inputs``.

    Returns:
        The comparison with PyTorch in float32, which is within ``comparison.TOLERANCES``: heatmaps
        1e-4 * max(1, largest value), joints 0.01 pixels; for "fp16" 1e-2 and 0.25. None if there
        was none.

    Raises:
        ValueError: options that are unknown or do not go together, a package that is missing, or
            a file that fails the checker or the comparison. There is no new file then.
        OSError: the file cannot be written, or there are no such images.
    """
    path = Path(path)
    opset = _checked(model, path, mode, deform_op, opset, refinement, window)
    _check_precision(precision, fold)
    if compare_results:
        need_onnxruntime()
    if images is not None and not compare_results:
        raise ValueError("images: they are for the comparison, which compare = false leaves out")
    refinement = model.refinement if refinement is None else refinement
    if mode == "aggregate":
        window = model.config.window if window is None else window
    real = [] if images is None else real_inputs(Path(images), model, mode, window, normalise)
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
        precision=precision,
        dynamic_size=dynamic_size,
    )
    inputs = random_inputs(model, mode, window, normalise, batch=2, seed=0)
    proto = captured(graph.eval(), inputs, opset=opset, table=table, dynamic_size=dynamic_size)
    about = describe(
        model,
        mode,
        window=window,
        refinement=refinement,
        decode=decode,
        normalise=normalise,
        precision=precision,
        dynamic_size=dynamic_size,
    )
    onnx.helper.set_model_props(proto, {PROPERTY: json.dumps(about)})
    proto.producer_name, proto.producer_version = PROPERTY, _version()
    # Sizes of what is inside, which quantisers ask for; not those of the exporter, see _name_sizes.
    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
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
            onnx_runner(partial),
            model,
            mode,
            window=window,
            refinement=refinement,
            decoded=decode,
            bytes_in=normalise,
            precision=precision,
            dynamic_size=dynamic_size,
            real=real,
        )
        comparison.insist(path)
    return comparison


def describe(
    model: PoseModel,
    mode: Mode,
    *,
    window: Window | None,
    refinement: str,
    decode: bool,
    normalise: bool,
    precision: Precision = "fp32",
    dynamic_size: bool = False,
) -> dict[str, Any]:
    """What a program has to know about a file: plain values.

    Returns:
        format, version (of this package), mode, skeleton (name, joints, flip_pairs, limbs, sigmas),
        crop_wh and heatmap_wh (the model's), dynamic_size (whether there may be others) and
        size_multiple (of their height and width), padding (growth of boxes), input ("uint8" RGB or
        "float32" normalised), precision ("fp32" or "fp16"), decodes, refinement, sigma, window
        (deltas and weights, or null), frame_heatmaps (name of the tensor to cut the graph at, or
        null), upright, support_box, softmax: see ``PoseModel``.
    """
    height, width = model.heatmap_hw
    return {
        "format": FORMAT,
        "version": _version(),
        "mode": mode,
        "skeleton": asdict(model.skeleton),
        "crop_wh": model.crop_wh,
        "heatmap_wh": (width, height),
        "dynamic_size": dynamic_size,
        "size_multiple": model.backbone.size_multiple,
        "padding": model.padding,
        "input": "uint8" if normalise else "float32",
        "precision": precision,
        "decodes": decode,
        "refinement": refinement,
        "sigma": model.sigma,
        "window": None if window is None else asdict(window),
        "frame_heatmaps": FRAME_HEATMAPS if mode == "aggregate" else None,
        "upright": model.upright,
        "support_box": model.support_box,
        "softmax": model.softmax,
    }


def _version() -> str:
    try:
        return metadata.version("posewarper")
    except metadata.PackageNotFoundError:
        return "not installed"


def check_use(
    model: PoseModel, path: Path, mode: str, refinement: str | None, window: Window | None
) -> None:
    """What holds for files of all formats: a use that the model has, and a place for the file.

    Raises:
        ValueError: an option is not known, or does not go with the others.
        FileNotFoundError: there is no folder for the file.
        PermissionError: nothing can be written to it.
    """
    for name, value, known in (
        ("mode", mode, MODES),
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
    if path.is_dir() or not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: expected a file in a folder that exists")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path}: its folder cannot be written to")


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
    check_use(model, path, mode, refinement, window)
    if path.suffix.lower() != ONNX_SUFFIX:  # others are taken for models of PyTorch
        raise ValueError(f"{path}: ONNX files have the suffix {ONNX_SUFFIX}")
    if deform_op not in DEFORM_OPS:
        raise ValueError(f"deform_op: expected one of {DEFORM_OPS}, got {deform_op!r}")
    first = 18 if mode == "single" else _FIRST_OPSET[deform_op]
    if opset is None:
        opset = _FIRST_OPSET[deform_op]
    if not first <= opset <= _LAST_OPSET:
        raise ValueError(
            f"opset: expected {first} to {_LAST_OPSET} for mode {mode!r} and deform_op "
            f"{deform_op!r}, got {opset}"
        )
    return opset


def _check_precision(precision: str, fold: bool) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {PRECISIONS}, got {precision!r}")
    if precision == "fp16" and not fold:
        raise ValueError(
            "fold: expected true with precision 'fp16', as the statistics of BatchNorm may be "
            "beyond its range"
        )
