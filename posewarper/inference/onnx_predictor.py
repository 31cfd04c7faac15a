"""A model in a file of ``posewarper export``, which onnxruntime runs in place of PyTorch.

Files of mode "aggregate" are cut in two where the frames' heatmaps are, so that H of each different
crop is computed once, as by the network itself. B crops, T frames of a window, J joints, h = H / 4
and w = W / 4.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posewarper.data.crops import normalise
from posewarper.inference.predictor import Predictor
from posewarper.models import PoseSpec, Window
from posewarper.models.pose_model import SupportBox, as_tuples
from posewarper.models.runtimes import not_loaded
from posewarper.skeleton import Skeleton

_PROPERTY = "posewarper"  # of the file, JSON; see ``export.describe``
_FORMAT = 1  # the newest that is known here
_IMAGES = {"single": "crops", "aggregate": "frames"}  # the input of each mode that predicts
_FRAME_HEATMAPS = "frame_heatmaps"  # [B * T, J, h, w] in files of "aggregate"
_DTYPES = {"uint8": torch.uint8, "float32": torch.float32}
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@dataclass(frozen=True, eq=False, kw_only=True)
class OnnxSpec(PoseSpec):
    """What a file says about itself.

    Attributes:
        path: of the file.
        mode: "single" or "aggregate".
        of_softmax: see ``softmax``.
        only_window: the frames of "aggregate", which takes no others; of "single" the frame itself.
        input: "uint8": RGB; "float32": normalised.
        precision: of the convolutions.

    The others are those of ``PoseSpec``.

    Raises:
        ValueError: an attribute is out of its range.
    """

    path: Path
    mode: str
    input: str
    precision: str
    skeleton: Skeleton
    crop_wh: tuple[int, int]
    padding: float
    sigma: float
    refinement: str
    upright: tuple[tuple[float, float], ...] | None
    support_box: SupportBox
    of_softmax: bool
    only_window: Window
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check_values()

    @property
    def softmax(self) -> bool:
        return self.of_softmax

    @property
    def warps(self) -> bool:
        return self.mode == "aggregate"

    @property
    def window(self) -> Window:
        return self.only_window

    @property
    def window_fixed(self) -> bool:
        return True

    def check_window(self, window: Window | None = None, mode: str = "aggregate") -> None:
        if not self.warps:
            raise ValueError(
                f"mode: {mode!r} needs an ONNX file of mode aggregate, and {self.path} is of mode "
                "single"
            )
        if window is not None and not _alike(window, self.window):
            raise ValueError(
                f"window, causal: {self.path} was exported for the frames "
                f"{list(self.window.deltas)} with the weights {list(self.window.weights)} and "
                f"takes no others, got {list(window.deltas)} with {list(window.weights)}; export "
                "has the option window"
            )


class OnnxPredictor(Predictor):
    """Single frames and windows as ``PosePredictor`` does them, by a file that onnxruntime runs.

    Args:
        path: a file of ``posewarper export``, of mode single or aggregate.
        device: "cpu", "cuda", "cuda:1"; "auto" is the GPU if the installed onnxruntime can use one.
        precision: that of the file, which is the default; it has no other.
        flip_test, shift_flipped, refinement, batch_size: see ``PosePredictor``.

    Raises:
        ValueError: onnx or onnxruntime is not installed, or cannot use the device; the file is
            damaged, or none of these; an option that is not the file's, or not known.
        OSError: the file cannot be read.
    """

    model: OnnxSpec

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "auto",
        precision: str | None = None,
        flip_test: bool = False,
        shift_flipped: bool = False,
        refinement: str | None = None,
        batch_size: int = 64,
    ):
        path = Path(path)
        onnx, runtime = _packages(path)
        providers = _providers(device, runtime)
        proto = _read(path, onnx)
        spec = _described(proto, path)
        _check_joints(proto, spec, path)
        if precision not in (None, spec.precision):
            raise ValueError(f"precision: {path} computes in {spec.precision}, got {precision!r}")
        images = _IMAGES[spec.mode]
        cuts = [(images, _FRAME_HEATMAPS), (_FRAME_HEATMAPS, "heatmaps")]
        self._sessions = []
        self._group = 1  # images that have to go together
        for names in cuts if spec.warps else [(images, "heatmaps")]:
            part = _part(proto, names, path, onnx)
            if names == cuts[0]:
                self._group = _images_together(part, len(spec.window))
            self._sessions.append(_session(part, providers, path, runtime))
        on_gpu = self._sessions[0].get_providers()[0] == _CUDA
        if device.startswith("cuda") and not on_gpu:
            raise ValueError(
                f"device: {device!r} was asked for, but onnxruntime cannot use it here; are CUDA "
                "and cuDNN installed in the versions that it wants?"
            )
        # Where PyTorch decodes, which may be one without CUDA.
        place = device.replace("auto", "cuda") if on_gpu and torch.cuda.is_available() else "cpu"
        super().__init__(
            spec,
            torch.device(place),
            flip_test=flip_test,
            shift_flipped=shift_flipped,
            refinement=refinement,
            batch_size=batch_size,
        )

    def heatmaps(self, crops: Tensor) -> Tensor:
        def run(part: Tensor) -> Tensor:
            images = part
            if images.dtype == torch.uint8 and self.model.input == "float32":
                images = normalise(images)
            if images.dtype != _DTYPES[self.model.input]:
                raise ValueError(
                    f"crops: {self.model.path} takes {self.model.input}, got {images.dtype}"
                )
            heatmaps = self._of_images(images)
            if self.flip_test:
                heatmaps = self._merged(heatmaps, self._of_images(images.flip(-1)))
            return heatmaps

        return self._in_batches(
            run, crops, step=max(self.batch_size // self._group, 1) * self._group
        )

    def aggregate(self, heatmaps: Tensor, window: Window | None = None) -> Tensor:
        self.model.check_window(window)
        step = max(self.batch_size // heatmaps.shape[1], 1)
        return self._in_batches(lambda part: self._run(1, part.flatten(0, 1)), heatmaps, step=step)

    def _of_images(self, images: Tensor) -> Tensor:
        """H of images as the file wants them, ``[B, J, h, w]``."""
        if not self.model.warps:
            return self._run(0, images)
        missing = -len(images) % self._group
        padded = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
        return self._run(0, padded.unflatten(0, (-1, self._group)))[: len(images)]

    def _run(self, part: int, values: Tensor) -> Tensor:
        """One part of the file; an empty batch, which not every operator takes, is left out."""
        if not len(values):
            return torch.zeros(0, len(self.model.skeleton), *self.model.heatmap_hw).to(self.device)
        session = self._sessions[part]
        name = session.get_inputs()[0].name
        try:
            (heatmaps,) = session.run(None, {name: np.ascontiguousarray(values.cpu().numpy())})
        except Exception as error:  # onnxruntime's have no class in common
            raise ValueError(f"{self.model.path}: onnxruntime does not run it: {error}") from error
        return torch.from_numpy(heatmaps).to(self.device)


def _packages(path: Path) -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"model: {path} needs onnx and onnxruntime ({error}): pip install 'posewarper[onnx]', "
            "which brings both for Python 3.11 and later"
        ) from None
    return onnx, onnxruntime


def _providers(device: str, runtime: Any) -> list[Any]:
    """What onnxruntime is to compute with, the first that can.

    Raises:
        ValueError: it cannot use the device.
    """
    there = runtime.get_available_providers()
    if device == "auto":
        return [name for name in (_CUDA, _CPU) if name in there]
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: expected 'auto', 'cpu', 'cuda', .., got {device!r}") from None
    if wanted.type == "cpu":
        return [_CPU]
    if wanted.type != "cuda":
        raise ValueError(f"device: ONNX files run on 'cpu' and 'cuda', got {device!r}")
    if _CUDA not in there:
        raise ValueError(
            f"device: {device!r} was asked for, but the installed onnxruntime has no {_CUDA} (the "
            "package onnxruntime-gpu has)"
        )
    return [(_CUDA, {"device_id": wanted.index or 0}), _CPU]


def _read(path: Path, onnx: Any) -> Any:
    """The content of a file.

    Raises:
        ValueError: it is no ONNX.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    content = path.read_bytes()
    try:
        return onnx.load_model_from_string(content)
    except Exception as error:  # DecodeError of protobuf, which is no dependency of its own
        raise ValueError(f"{path}: not an ONNX file, or a damaged one ({error})") from error


def _described(proto: Any, path: Path) -> OnnxSpec:
    """What the file says about itself.

    Raises:
        ValueError: nothing, something damaged, or of a newer version or another use.
    """
    told = {entry.key: entry.value for entry in proto.metadata_props}
    if _PROPERTY not in told:
        raise ValueError(
            f"{path}: without the property {_PROPERTY!r}, which tells what crops and joints mean; "
            "files of posewarper export have it"
        )
    damaged = f"{path}: its property {_PROPERTY!r} is damaged"
    try:
        about = as_tuples(json.loads(told[_PROPERTY]))
        version, mode = int(about["format"]), about["mode"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{damaged} ({error!r})") from error
    if version > _FORMAT:
        raise ValueError(
            f"{path}: written by a newer version of posewarper (format {version}, this one reads "
            f"up to {_FORMAT})"
        )
    if mode not in _IMAGES:
        raise ValueError(
            f"model: expected an ONNX file of mode single or aggregate, and {path} is of mode "
            f"{mode}"
        )
    try:
        window = about["window"]
        _DTYPES[about["input"]]
        _check_numbers(about)
        return OnnxSpec(
            path=path,
            mode=mode,
            input=about["input"],
            precision=about.get("precision", "fp32"),
            skeleton=Skeleton(**about["skeleton"]),
            crop_wh=about["crop_wh"],
            padding=about["padding"],
            sigma=about["sigma"],
            refinement=about["refinement"],
            upright=about["upright"],
            support_box=about["support_box"],
            of_softmax=about["softmax"],
            only_window=Window.equal(0) if window is None else Window(**window),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{damaged} ({error!r})") from error


def _check_numbers(about: Mapping[str, Any]) -> None:
    """Raises ValueError for numbers that nothing can be cropped or decoded with."""
    width, height = about["crop_wh"]
    for name, value, kind in (
        ("crop_wh", width, int),
        ("crop_wh", height, int),
        ("padding", about["padding"], (int, float)),
        ("sigma", about["sigma"], (int, float)),
    ):
        if not isinstance(value, kind) or not 0 < value < math.inf:
            raise ValueError(f"{name}: expected numbers above 0, got {about[name]!r}")


def _check_joints(proto: Any, spec: OnnxSpec, path: Path) -> None:
    """Raises ValueError where the graph has heatmaps of other joints than the property tells."""
    for value in proto.graph.output:
        sizes = value.type.tensor_type.shape.dim
        if value.name == "heatmaps" and len(sizes) == 4:
            count = sizes[1].dim_value
            if count and count != len(spec.skeleton):
                raise ValueError(
                    f"{path}: its property {_PROPERTY!r} is damaged (skeleton: expected {count} "
                    f"joints as in the graph, got {len(spec.skeleton)})"
                )


def _part(proto: Any, names: tuple[str, str], path: Path, onnx: Any) -> Any:
    """The graph from one tensor to another.

    Raises:
        ValueError: the file has no such tensors.
    """
    try:
        return onnx.utils.Extractor(proto).extract_model(names[:1], names[1:])
    except ValueError as error:
        raise ValueError(
            f"{path}: expected the tensors {names[0]} and {names[1]} ({error}); files of another "
            "version of posewarper have to be exported again"
        ) from error


def _images_together(part: Any, frames: int) -> int:
    """How many images have to come together: those of a window, or any number.

    Where nothing in the graph asks for sizes, it can flatten [B, T, 3, H, W] only as [-1, 3, H, W],
    and T can be 1. Otherwise groups of crops that belong to nobody's window have to be filled up.
    """
    if any(node.op_type == "Shape" for node in part.graph.node):
        return frames
    part.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    del part.graph.value_info[:]
    return 1


def _session(part: Any, providers: list[Any], path: Path, runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        return runtime.InferenceSession(part.SerializeToString(), options, providers=providers)
    except Exception as error:  # onnxruntime's have no class in common
        raise ValueError(not_loaded(str(path), runtime.__version__, error)) from error


def _alike(a: Window, b: Window) -> bool:
    """Whether windows are the same but for rounding, as of weights that are scaled to 1 again."""
    return a.deltas == b.deltas and np.allclose(a.weights, b.weights, rtol=0, atol=1e-6)
