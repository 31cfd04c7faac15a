"""A predictor from a file, whichever kind of file it is."""

from __future__ import annotations

from pathlib import Path

from posewarper.inference.onnx_predictor import OnnxPredictor
from posewarper.inference.predictor import PosePredictor, Precision, Predictor
from posewarper.models import load_model
from posewarper.models.pose_model import ONNX_SUFFIX
from posewarper.skeleton import find_skeleton


def load_predictor(
    path: str | Path,
    *,
    device: str = "auto",
    precision: Precision | None = None,
    flip_test: bool = False,
    shift_flipped: bool = False,
    refinement: str | None = None,
    batch_size: int = 64,
    compile: bool = False,
    skeleton: str | None = None,
    crop_wh: tuple[int, int] | None = None,
    dilations: tuple[int, ...] | None = None,
) -> Predictor:
    """A model that is ready to predict.

    Args:
        path: a file of ``posewarper export`` whose name ends in .onnx, which onnxruntime runs; or
            what ``load_model`` takes, which PyTorch runs.
        device: see ``PosePredictor`` and ``OnnxPredictor``.
        precision: of the convolutions; by default "fp32", of ONNX files their own.
        flip_test, shift_flipped, refinement, batch_size, compile: see ``PosePredictor``; ONNX files
            are not compiled.
        skeleton: for weights alone, by name or YAML file; see ``find_skeleton``.
        crop_wh, dilations: for weights alone; see ``load_model``.

    Raises:
        ValueError: not a model, or options that do not go with it.
        OSError: a file cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() != ONNX_SUFFIX:
        model = load_model(
            path,
            skeleton=None if skeleton is None else find_skeleton(skeleton),
            crop_wh=crop_wh,
            dilations=dilations,
        )
        return PosePredictor(
            model,
            device=device,
            precision=precision or "fp32",
            flip_test=flip_test,
            shift_flipped=shift_flipped,
            refinement=refinement,
            batch_size=batch_size,
            compile=compile,
        )
    if compile:
        raise ValueError(f"compile: goes with PyTorch, and onnxruntime runs {path}")
    of_weights = {"skeleton": skeleton, "crop_wh": crop_wh, "dilations": dilations}
    for name, value in of_weights.items():
        if value is not None:
            raise ValueError(f"{name}: goes with weights alone, and {path} tells its own")
    return OnnxPredictor(
        path,
        device=device,
        precision=precision,
        flip_test=flip_test,
        shift_flipped=shift_flipped,
        refinement=refinement,
        batch_size=batch_size,
    )
