"""The command ``posewarper export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from posewarper.export.comparison import Comparison
from posewarper.export.graphs import Mode, Precision
from posewarper.export.packages import to_package
from posewarper.export.writing import DeformOp, to_onnx
from posewarper.models import WINDOWS, PoseModel, load_model, save_model
from posewarper.models.weight_files import SAFETENSORS
from posewarper.skeleton import find_skeleton

WindowName = Literal["posetrack-2019", "posetrack-2019-causal", "paper", "paper-causal"]
Refinement = Literal["quarter", "dark", "none"]


def export(
    model: Path,
    out: Path | None = None,
    mode: Mode | None = None,
    format: Literal["onnx", "aoti", "safetensors"] = "onnx",
    deform_op: DeformOp = "DeformConv",
    opset: int | None = None,
    decode: bool = True,
    refinement: Refinement | None = None,
    normalise: bool = True,
    fold: bool = True,
    window: WindowName | None = None,
    precision: Precision = "fp32",
    dynamic_size: bool = False,
    compare: bool = True,
    images: Path | None = None,
    device: str = "cpu",
    skeleton: str | None = None,
    crop_wh: tuple[int, int] | None = None,
    dilations: tuple[int, ...] | None = None,
) -> Comparison | None:
    """Write a trained model as a file that runs without this package, and compare the two.

    What the file wants and returns, and a program that uses it: docs/deployment.md.

    Args:
        model: a model file, a folder of training (its best model), or published weights.
        out: file to write, .onnx, of aoti .pt2; by default beside the model, named after it and the
            mode.
        mode: single: a frame alone; pair: a support frame's pose moved to the key frame; propagate:
            the key frame's heatmaps moved to a support frame; aggregate: a window of frames. By
            default aggregate for models with a warp head, else single.
        format: onnx, for programs without PyTorch; aoti: compiled ahead of time for this kind of
            machine by a C++ compiler; runs in PyTorch with pwkernels imported; safetensors: the
            model itself, weights and what they mean, for all that reads such files.
        deform_op: the operator that moves heatmaps: DeformConv, or GridSample for runtimes that do
            not have it.
        opset: of the file; by default the first one that has the operator.
        decode: joints and scores as outputs, beside the heatmaps.
        refinement: how they are decoded; by default as the model was made for.
        normalise: images are RGB bytes; otherwise floats that are already normalised.
        fold: BatchNorm folded into the convolutions, and what does not depend on images into
            constants.
        window: frames and weights of aggregate; by default those of the model.
        precision: fp16: weights in half the space, and arithmetic in half precision where it may
            be; inputs and outputs stay as they are.
        dynamic_size: crops of any height and width that the network can have, not only the model's.
        compare: compare with PyTorch, for onnx in onnxruntime; a file that differs is not written.
        images: a video, an image or a folder of images; crops of some frames are compared, too.
            Otherwise random images alone.
        device: of aoti: cpu, cuda, cuda:1; where the file runs.
        skeleton: for weights alone, posetrack (the default of PoseWarper's), coco or a YAML file.
        crop_wh: for weights alone, size of crops; by default the file's name tells, or 288, 384.
        dilations: for weights alone, of the deformable convolutions.
    """
    if format != "onnx":
        for name, value, default in (
            ("deform_op", deform_op, "DeformConv"),
            ("opset", opset, None),
            ("precision", precision, "fp32"),
            ("dynamic_size", dynamic_size, False),
        ):
            if value != default:
                raise ValueError(
                    f"{name}: only format 'onnx' has it, got {value!r} with {format!r}"
                )
    if format != "aoti" and device != "cpu":
        raise ValueError(f"device: only format 'aoti' has one, got {device!r} with {format!r}")
    loaded = load_model(
        model,
        skeleton=None if skeleton is None else find_skeleton(skeleton),
        crop_wh=crop_wh,
        dilations=dilations,
    )
    if format == "safetensors":
        _save(loaded, _beside(model, SAFETENSORS) if out is None else out)
        return None
    if mode is None:
        mode = "aggregate" if loaded.warps else "single"
    if window is not None and window not in WINDOWS:
        raise ValueError(f"window: expected one of {list(WINDOWS)}, got {window!r}")
    if out is None:
        out = _beside(model, f"-{mode}.{'onnx' if format == 'onnx' else 'pt2'}")
    options: dict[str, Any] = {
        "mode": mode,
        "decode": decode,
        "refinement": refinement,
        "normalise": normalise,
        "fold": fold,
        "window": None if window is None else WINDOWS[window],
        "compare_results": compare,
        "images": images,
    }
    if format == "aoti":
        comparison = to_package(loaded, out, device=device, **options)
    else:
        comparison = to_onnx(
            loaded,
            out,
            deform_op=deform_op,
            opset=opset,
            precision=precision,
            dynamic_size=dynamic_size,
            **options,
        )
    print("not compared with PyTorch" if comparison is None else comparison)
    print(f"{mode}, {out.stat().st_size / 1e6:.1f} MB -> {out}")
    return comparison


def _beside(model: Path, ending: str) -> Path:
    """A file in the place of the model, or in its folder, named after it."""
    source = model / "best" if model.is_dir() else model
    return source.with_name(f"{source.stem}{ending}")


def _save(model: PoseModel, out: Path) -> None:
    if out.suffix.lower() != SAFETENSORS:
        raise ValueError(f"out: expected a name that ends in {SAFETENSORS}, got {out.name!r}")
    save_model(model, out)
    print(f"{out.stat().st_size / 1e6:.1f} MB -> {out}")
