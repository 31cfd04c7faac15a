"""Whether a file computes what PyTorch computes: on random images, through onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posewarper.export.graphs import INPUTS, Graph, Mode
from posewarper.heatmaps import decode
from posewarper.models import HEATMAP_STRIDE, PoseModel, Window

HEATMAP_TOLERANCE = 1e-4
JOINT_TOLERANCE = 0.01
_DRAWS = 8


@dataclass(frozen=True)
class Comparison:
    """A file's results against PyTorch's, in float32, for batches of 1 and 2.

    Attributes:
        heatmap_error: largest difference of heatmaps and scores, as a fraction of PyTorch's largest
            value (about 1 for trained models).
        joint_error: largest difference of a joint in pixels of the crop, among those compared.
        decoding_error: the same between the joints of the graph and those decoded in PyTorch from
            the graph's own heatmaps, all of them; None for graphs that do not decode.
        joints: how many were compared.
        undecided: how many more there were whose place changes under rounding errors of the size of
            ``heatmap_error``, as where two maxima are equally high.
    """

    heatmap_error: float
    joint_error: float
    decoding_error: float | None
    joints: int
    undecided: int

    def __str__(self) -> str:
        text = (
            f"heatmaps within {self.heatmap_error:.1e} of PyTorch's, relative to the largest; "
            f"{self.joints} joints within {self.joint_error:.1e} px of the crop"
        )
        if self.undecided:
            text += f", {self.undecided} not compared as rounding decides where they are"
        return text

    def faults(self) -> list[str]:
        """What is beyond the tolerances (NaN is); empty if nothing."""
        checked = [
            ("heatmaps", self.heatmap_error, HEATMAP_TOLERANCE),
            ("joints in pixels", self.joint_error, JOINT_TOLERANCE),
        ]
        if self.decoding_error is not None:
            checked.append(("decoding in pixels", self.decoding_error, JOINT_TOLERANCE))
        return [
            f"{name}: expected a difference of at most {limit}, got {error:.3g}"
            for name, error, limit in checked
            if not error <= limit
        ]


def random_inputs(
    model: PoseModel, mode: Mode, window: Window | None, bytes_in: bool, batch: int, seed: int
) -> tuple[Tensor, ...]:
    """Images that are smooth in some places and noise in others, and heatmaps."""
    generator = torch.Generator().manual_seed(seed)
    width, height = model.crop_wh
    leading = (batch,) if window is None else (batch, len(window))
    inputs = []
    for name in INPUTS[mode]:
        if name == "key_heatmaps":
            size = (batch, model.config.joints, *model.heatmap_hw)
            inputs.append(torch.rand(size, generator=generator))
            continue
        count = leading if name == "frames" else (batch,)
        coarse = torch.rand(math.prod(count), 3, 4, 4, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        noise = torch.rand(smooth.shape, generator=generator)
        images = (smooth + 0.2 * noise).clamp(0, 1).reshape(*count, 3, height, width)
        inputs.append((255 * images).round().byte() if bytes_in else 4 * images - 2)
    return tuple(inputs)


def compare(
    path: Path,
    model: PoseModel,
    mode: Mode,
    *,
    window: Window | None,
    refinement: str,
    decoded: bool,
    bytes_in: bool,
) -> Comparison:
    """Runs a file with onnxruntime, and the model as it is in PyTorch, both on the CPU.

    Args:
        path: the file.
        model, mode, window, bytes_in: what it was made from; see ``Graph``.
        refinement: how joints are decoded, here or in the file.
        decoded: whether the file decodes them.

    Raises:
        ValueError: onnxruntime is not installed, or refuses the file.
    """
    session = _session(path)
    own = Graph(model, mode, window=window, refinement=None, bytes_in=bytes_in, fold=False)
    heatmap_errors, joint_errors, decoding_errors, undecided = [], [], [], 0
    for batch in (1, 2):
        inputs = random_inputs(model, mode, window, bytes_in, batch, seed=batch)
        with torch.no_grad():
            expected = own.heatmaps(*inputs)
        outputs = _run(session, mode, inputs)
        heatmaps = outputs["heatmaps"]
        error = (heatmaps - expected).abs().max()

        def joints_of(maps: Tensor) -> Tensor:
            return decode(maps, refinement, model.sigma)[0] * HEATMAP_STRIDE

        joints, here = joints_of(expected), joints_of(heatmaps)
        if decoded:
            decoding_errors.append((outputs["joints"] - here).abs().max())
            here = outputs["joints"]
            of_scores = (outputs["scores"] - heatmaps.amax((2, 3))).abs().max()
            error = torch.maximum(error, of_scores)
        heatmap_errors.append(error if error == 0 else error / expected.abs().max())
        certain = _certain(expected, joints, float(error), joints_of)
        joint_errors.append((here - joints).abs().amax(-1)[certain])
        undecided += int((~certain).sum())
    compared = torch.cat(joint_errors)
    return Comparison(
        heatmap_error=float(torch.stack(heatmap_errors).max()),
        joint_error=float(compared.max()) if len(compared) else 0.0,
        decoding_error=float(torch.stack(decoding_errors).max()) if decoded else None,
        joints=len(compared),
        undecided=undecided,
    )


def _certain(
    heatmaps: Tensor, joints: Tensor, error: float, joints_of: Callable[[Tensor], Tensor]
) -> Tensor:
    """``[B, J]``: whether joints stay where they are under errors of a few times the size seen."""
    generator = torch.Generator().manual_seed(0)
    certain = torch.ones(joints.shape[:-1], dtype=torch.bool)
    for _ in range(_DRAWS):
        noise = 2 * torch.rand(heatmaps.shape, generator=generator) - 1
        moved = joints_of(heatmaps + 4 * error * noise) - joints
        certain &= moved.abs().amax(-1) <= JOINT_TOLERANCE
    return certain


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(
            f"{path.name}: the comparison with PyTorch needs onnxruntime 1.25 or later, which "
            "pip install 'posewarper[onnx]' brings for Python 3.11 and later; "
            "without it, compare has to be false"
        ) from None
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen classes of errors without a common one
        raise ValueError(
            f"onnxruntime {onnxruntime.__version__} does not load what was exported: {error}"
        ) from error


def _run(session: Any, mode: Mode, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    feeds = {name: x.numpy() for name, x in zip(INPUTS[mode], inputs, strict=True)}
    names = [output.name for output in session.get_outputs()]
    try:
        arrays = session.run(names, feeds)
    except Exception as error:  # as above
        raise ValueError(f"onnxruntime does not run what was exported: {error}") from error
    return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}
