"""Whether a file computes what PyTorch computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from posewarper.export.graphs import Graph, Mode, Precision
from posewarper.export.inputs import random_inputs
from posewarper.heatmaps import decode
from posewarper.models import HEATMAP_STRIDE, PoseModel, Window
from posewarper.models.runtimes import not_loaded

#: Of heatmaps, as a share of the largest value where that is above 1, and of joints in pixels of
#: the crop.
TOLERANCES: dict[Precision, tuple[float, float]] = {"fp32": (1e-4, 0.01), "fp16": (1e-2, 0.25)}
_DECODING_TOLERANCE = 0.01  # pixels; it is done in float32 in any case
_DRAWS = 8

#: Runs a file: inputs in the order of ``INPUTS``, outputs by name.
Run = Callable[[tuple[Tensor, ...]], dict[str, Tensor]]


@dataclass(frozen=True)
class Comparison:
    """A file's results against PyTorch's in float32, for batches of 1 and 2.

    Attributes:
        heatmap_error: largest difference of heatmaps and scores.
        scaled_error: the same, divided by PyTorch's largest value where that is above 1, which it
            hardly is for trained models.
        joint_error: largest difference of a joint in pixels of the crop, among those compared.
        decoding_error: the same between the joints of the graph and those decoded in PyTorch from
            the graph's own heatmaps, all of them; None for graphs that do not decode.
        joints: how many were compared.
        undecided: how many more there were whose place changes under errors of the size of
            ``heatmap_error``, as where two maxima are equally high.
        random: on how many random inputs (crops, pairs or windows).
        real: on how many inputs from real frames.
        precision: of the file.
    """

    heatmap_error: float
    scaled_error: float
    joint_error: float
    decoding_error: float | None
    joints: int
    undecided: int
    random: int
    real: int = 0
    precision: Precision = "fp32"

    def __str__(self) -> str:
        text = f"{self.random} random and {self.real} real inputs: "
        text += f"heatmaps within {self.heatmap_error:.1e} of PyTorch's"
        if self.scaled_error < self.heatmap_error:
            text += f" ({self.scaled_error:.1e} of the largest value)"
        text += f"; {self.joints} joints within {self.joint_error:.1e} px of the crop"
        if self.undecided:
            text += f", {self.undecided} not compared as rounding decides where they are"
        heatmaps, joints = TOLERANCES[self.precision]
        return f"{text} (limits of {self.precision}: {heatmaps:g} and {joints:g} px)"

    def faults(self) -> list[str]:
        """What is beyond the tolerances (NaN is), or was not compared; empty if nothing."""
        heatmaps, joints = TOLERANCES[self.precision]
        checked = [
            ("heatmaps", self.scaled_error, heatmaps),
            ("joints in pixels", self.joint_error, joints),
        ]
        if self.decoding_error is not None:
            checked.append(("decoding in pixels", self.decoding_error, _DECODING_TOLERANCE))
        faults = [
            f"{name}: expected a difference of at most {limit}, got {error:.3g}"
            for name, error, limit in checked
            if not error <= limit
        ]
        if self.undecided and not self.joints:  # as when heatmaps are no larger than the error
            faults.append(f"joints: none of {self.undecided} could be compared")
        return faults

    def insist(self, path: Path) -> None:
        """Refuses a file that is not what it should be.

        Raises:
            ValueError: there are faults; names the file.
        """
        if faults := self.faults():
            raise ValueError(
                f"{path}: not written, as it differs from PyTorch: {'; '.join(faults)}"
            )


def compare(
    run: Run,
    model: PoseModel,
    mode: Mode,
    *,
    window: Window | None,
    refinement: str,
    decoded: bool,
    bytes_in: bool,
    precision: Precision = "fp32",
    dynamic_size: bool = False,
    real: Sequence[tuple[Tensor, ...]] = (),
) -> Comparison:
    """Runs a file, and the model as it is in PyTorch on the CPU, in float32.

    Args:
        run: runs the file; tensors on the CPU in and out. See ``onnx_runner``.
        model, mode, window, bytes_in: what it was made from; see ``Graph``.
        refinement: how joints are decoded, here or in the file.
        decoded: whether the file decodes them.
        precision: of the file.
        dynamic_size: whether the file takes crops of any size, and is run on two.
        real: batches of ``real_inputs``, beside the random ones.

    Raises:
        ValueError: of ``run``.
    """
    own = Graph(
        model, mode, window=window, refinement=refinement if decoded else None, bytes_in=bytes_in,
        fold=False,
    )  # fmt: skip
    tolerance = TOLERANCES[precision][1]
    (width, height), more = model.crop_wh, model.backbone.size_multiple if dynamic_size else 0
    random = [
        random_inputs(model, mode, window, bytes_in, batch=1, seed=1),
        random_inputs(
            model,
            mode,
            window,
            bytes_in,
            batch=2,
            seed=2,
            crop_wh=(width + more, height + 2 * more),
        ),
    ]
    heatmap_errors, scaled_errors, joint_errors, decoding_errors = [], [], [], []
    undecided = 0
    for inputs in (*random, *real):
        with torch.no_grad():
            results = own(*inputs)
            expected = results[2] if decoded else results  # heatmaps
        outputs = run(inputs)
        heatmaps = outputs["heatmaps"]
        error = (heatmaps - expected).abs().max()

        def joints_of(maps: Tensor) -> Tensor:
            return decode(maps, refinement, model.sigma)[0] * HEATMAP_STRIDE

        joints, here = joints_of(expected), joints_of(heatmaps)
        if decoded:
            decoding_errors.append((outputs["joints"] - here).abs().max())
            here = outputs["joints"]
            of_scores = (outputs["scores"] - results[1]).abs().max()
            error = torch.maximum(error, of_scores)
        heatmap_errors.append(error)
        scaled_errors.append(error / expected.abs().max().clamp_min(1))
        certain = _certain(expected, joints, float(error), joints_of, tolerance)
        joint_errors.append((here - joints).abs().amax(-1)[certain])
        undecided += int((~certain).sum())
    compared = torch.cat(joint_errors)
    return Comparison(
        heatmap_error=float(torch.stack(heatmap_errors).max()),
        scaled_error=float(torch.stack(scaled_errors).max()),
        joint_error=float(compared.max()) if len(compared) else 0.0,
        decoding_error=float(torch.stack(decoding_errors).max()) if decoded else None,
        joints=len(compared),
        undecided=undecided,
        random=sum(len(inputs[0]) for inputs in random),
        real=sum(len(inputs[0]) for inputs in real),
        precision=precision,
    )


def _certain(
    heatmaps: Tensor,
    joints: Tensor,
    error: float,
    joints_of: Callable[[Tensor], Tensor],
    tolerance: float,
) -> Tensor:
    """``[B, J]``: whether joints stay where they are under errors of a few times the size seen."""
    generator = torch.Generator().manual_seed(0)
    certain = torch.ones(joints.shape[:-1], dtype=torch.bool)
    for _ in range(_DRAWS):
        noise = 2 * torch.rand(heatmaps.shape, generator=generator) - 1
        moved = joints_of(heatmaps + 4 * error * noise) - joints
        certain &= moved.abs().amax(-1) <= tolerance
    return certain


def need_onnxruntime() -> None:
    """Raises ValueError where it is not installed."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        raise ValueError(
            "the comparison with PyTorch needs onnxruntime 1.25 or later, which "
            "pip install 'posewarper[onnx]' brings for Python 3.11 and later; "
            "without it, compare has to be false"
        ) from None


def onnx_runner(path: Path) -> Run:
    """Runs an ONNX file with onnxruntime on the CPU.

    There float16 is what weights are stored in; the arithmetic is in float32.

    Raises:
        ValueError: onnxruntime refuses the file, now or when it is run.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen classes of errors without a common one
        version = onnxruntime.__version__
        raise ValueError(not_loaded("what was exported", version, error)) from error
    inputs = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]

    def run(tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
        feeds = {name: x.numpy() for name, x in zip(inputs, tensors, strict=True)}
        try:
            arrays = session.run(outputs, feeds)
        except Exception as error:  # as above
            raise ValueError(f"onnxruntime does not run what was exported: {error}") from error
        return {name: torch.from_numpy(a) for name, a in zip(outputs, arrays, strict=True)}

    return run
