"""A network together with what its crops and joints mean: all that a prediction needs, in one file.

The file is a dictionary: ``model``, the weights in the published layout, so that everything that
reads such files reads these too; and ``posewarper``, the rest as plain values. Weights alone, as
2019 and mmpose wrote them, are read as well. Those of PoseWarper, with a warp head and 17 joints,
mean PoseTrack's joints and crops of 288 x 384; those of single-frame networks do not tell their
joints, and the size of their crops by the name of the file at most.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from posewarper.heatmaps import REFINEMENTS
from posewarper.models.checkpoints import (
    infer_config,
    load_checkpoint,
    read_state,
    to_official,
)
from posewarper.models.hrnet import HEATMAP_STRIDE, HRNet
from posewarper.models.warper import PoseWarper, WarperConfig, Window
from posewarper.models.weight_files import read_content, write_content
from posewarper.skeleton import POSETRACK, Skeleton

SupportBox = Literal["key", "own"]

FORMAT = 2
BEST = "best.pt"  # what a folder of training offers for prediction
FITTED = "model.pt"  # and what a folder of fit does
ONNX_SUFFIX = ".onnx"
PUBLISHED_CROP = 288, 384  # width, height


class PoseSpec:
    """What crops and joints mean: what cropping and decoding need, whatever runs the network.

    Attributes:
        skeleton: the J joints.
        crop_wh: width and height of crops in pixels.
        padding: growth of boxes before they are cropped.
        sigma: of the targets, in heatmap pixels; also the width of the blur in "dark".
        refinement: how maxima are decoded; see ``heatmaps.decode``.
        upright: the pose [J, 2] that stands upright in crops, which are turned with the person;
            None where they are not. See ``data.upright``.
        support_box: how the warp head wants frames of other times: cropped with the key frame's
            box ("key", as in 2019), or each with its own ("own").
        origin: what it was trained on and how, as plain values; for people, not for programs.
    """

    skeleton: Skeleton
    crop_wh: tuple[int, int]
    padding: float
    sigma: float
    refinement: str
    upright: tuple[tuple[float, float], ...] | None
    support_box: SupportBox
    origin: Mapping[str, Any]

    @property
    def softmax(self) -> bool:
        """Whether heatmaps are a spatial softmax, whose peaks are no scores as they are; see
        ``heatmaps.softmax_scores``.
        """
        raise NotImplementedError

    @property
    def warps(self) -> bool:
        """Whether there is a warp head, without which there is single-frame prediction only."""
        raise NotImplementedError

    @property
    def window(self) -> Window:
        """Frames that are brought together by default, if it warps."""
        raise NotImplementedError

    @property
    def window_fixed(self) -> bool:
        """Whether it takes no other window."""
        return False

    @property
    def heatmap_hw(self) -> tuple[int, int]:
        """Height and width of heatmaps."""
        return self.crop_wh[1] // HEATMAP_STRIDE, self.crop_wh[0] // HEATMAP_STRIDE

    def check_window(self, window: Window | None = None, mode: str = "aggregate") -> None:
        """An error before the work, where windows of frames cannot be brought together.

        Args:
            window: the frames and their weights; None for those that there are.
            mode: what was asked for, for the message.

        Raises:
            ValueError: there is no warp head, or it cannot do with such windows.
        """
        if not self.warps:
            raise ValueError(
                f"mode: {mode!r} needs a model with a warp head; this one is a single-frame model, "
                "which predicts in mode 'single'"
            )

    def check_values(self) -> None:
        """Whether each value is one that there is.

        Raises:
            ValueError: it is not; names it.
        """
        if self.refinement not in REFINEMENTS:
            raise ValueError(f"refinement: expected one of {REFINEMENTS}, got {self.refinement!r}")
        if self.upright is not None and len(self.upright) != len(self.skeleton):
            raise ValueError(
                f"upright: expected {len(self.skeleton)} places, one for each joint, "
                f"got {len(self.upright)}"
            )
        if self.support_box not in get_args(SupportBox):
            raise ValueError(f"support_box: expected 'key' or 'own', got {self.support_box!r}")


@dataclass(frozen=True, eq=False)
class PoseModel(PoseSpec):
    """A network and how it wants its input.

    Attributes:
        network: in eval mode; ``HRNet`` for single frames, ``PoseWarper`` for all uses.
        config: sizes that the network was built from; of an ``HRNet`` those of its backbone count.

    The others are those of ``PoseSpec``.

    Raises:
        ValueError: the parts do not fit each other.
    """

    network: HRNet | PoseWarper
    config: WarperConfig
    skeleton: Skeleton = POSETRACK
    crop_wh: tuple[int, int] = PUBLISHED_CROP
    padding: float = 1.25
    sigma: float = 3.0
    refinement: str = "quarter"
    upright: tuple[tuple[float, float], ...] | None = None
    support_box: SupportBox = "key"
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.skeleton) != self.config.joints:
            raise ValueError(
                f"skeleton: expected {self.config.joints} joints, as the network has, "
                f"got {len(self.skeleton)} ({self.skeleton.name!r})"
            )
        multiple = self.backbone.size_multiple
        if any(size < multiple or size % multiple for size in self.crop_wh):
            raise ValueError(f"crop_wh: expected multiples of {multiple}, got {self.crop_wh}")
        self.check_values()

    @property
    def backbone(self) -> HRNet:
        """The single-frame network."""
        return self.network.backbone if isinstance(self.network, PoseWarper) else self.network

    @property
    def softmax(self) -> bool:
        return self.backbone.softmax_sigma is not None

    @property
    def warps(self) -> bool:
        return isinstance(self.network, PoseWarper)

    @property
    def window(self) -> Window:
        return self.config.window


def save_model(model: PoseModel, path: str | Path) -> None:
    """Write a model; the file appears whole or not at all. A name that ends in .safetensors makes
    such a file.

    Raises:
        OSError: the file cannot be written.
    """
    state = to_official(model.network.state_dict())
    about = {
        "format": FORMAT,
        "warps": model.warps,
        "config": asdict(model.config),
        "skeleton": asdict(model.skeleton),
        "crop_wh": model.crop_wh,
        "padding": model.padding,
        "sigma": model.sigma,
        "refinement": model.refinement,
        "upright": model.upright,
        "support_box": model.support_box,
        "origin": dict(model.origin),
    }
    write_content(state, path, about)


def load_model(
    path: str | Path,
    *,
    skeleton: Skeleton | None = None,
    crop_wh: tuple[int, int] | None = None,
    dilations: tuple[int, ...] | None = None,
    device: str | torch.device = "cpu",
    backend: str = "auto",
) -> PoseModel:
    """A model for prediction, in eval mode.

    Args:
        path: a file of ``save_model``, a folder of training (its best model) or of fit, or weights
            in any layout that ``models.checkpoints`` lists.
        skeleton, crop_wh, dilations: for weights alone: what they do not tell. By default, with a
            warp head, PoseTrack's 17 joints, 288 x 384, and the released model's dilations; single-
            frame weights need the skeleton, and where the file's name has no size, crops, too.
        device: where to.
        backend: of the warp; see ``pwkernels.multi_dilation_deform_warp``.

    Raises:
        ValueError: not a model, one of a newer version, or one that contradicts an argument; names
            the file.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if path.suffix.lower() == ONNX_SUFFIX:
        raise ValueError(f"{path}: an ONNX file, which only predict and aggregate take")
    content = read_content(path)
    about = content.get("posewarper") if isinstance(content, Mapping) else None
    if about is None:
        model = _from_weights(path, skeleton, crop_wh, dilations, backend)
    else:
        model = _from_description(about, path, backend)
        for name, given, own in (
            ("skeleton", skeleton and skeleton.joints, model.skeleton.joints),
            ("crop_wh", crop_wh and tuple(crop_wh), model.crop_wh),
            ("dilations", dilations and tuple(dilations), model.config.dilations),
        ):
            if given and given != own:
                raise ValueError(f"{name}: expected {own}, which {path} has, got {given}")
        load_checkpoint(model.network, path)
    model.network.eval().to(device)
    return model


def model_file(path: Path) -> Path:
    """What ``load_model`` reads of a folder; the path itself where it is no folder of a model."""
    return next((path / n for n in (BEST, FITTED) if (path / n).is_file()), path)


def _in_folder(folder: Path) -> Path:
    path = model_file(folder)
    if path != folder:
        return path
    raise FileNotFoundError(
        f"{folder}: no model in this folder: neither {FITTED}, which fit leaves, nor {BEST}, which "
        "train leaves"
    )


def _from_description(about: Mapping[str, Any], path: Path, backend: str) -> PoseModel:
    """The model that a file describes, with fresh weights."""
    try:
        if about["format"] > FORMAT:
            raise ValueError(
                f"{path}: written by a newer version of posewarper (format {about['format']}, "
                f"this one reads up to {FORMAT})"
            )
        window = Window(**{key: tuple(v) for key, v in about["config"]["window"].items()})
        config = WarperConfig(**{**as_tuples(about["config"]), "window": window})
        network = PoseWarper(config, backend=backend) if about["warps"] else config.hrnet()
        return PoseModel(
            network,
            config,
            Skeleton(**as_tuples(about["skeleton"])),
            tuple(about["crop_wh"]),
            about["padding"],
            about["sigma"],
            about["refinement"],
            as_tuples(about.get("upright")),  # since format 2
            about.get("support_box", "key"),
            about["origin"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: its description of the model is damaged ({error!r})") from error


def _from_weights(
    path: Path,
    skeleton: Skeleton | None,
    crop_wh: tuple[int, int] | None,
    dilations: tuple[int, ...] | None,
    backend: str,
) -> PoseModel:
    """The model of a file that holds weights only."""
    state = read_state(path)
    has_head = any(key.startswith("offset_feats.") for key in state)
    config = infer_config(state, path, dilations, head=has_head)
    named = size_in_name(path)
    if has_head and config.joints == len(POSETRACK):
        skeleton = skeleton or POSETRACK
    if has_head:
        named = named or PUBLISHED_CROP
    missing = []
    if skeleton is None:
        official = config.joints == 17 and path.name.startswith("pose_hrnet_w")
        coco = "; files of this name are COCO's" if official else ""
        missing.append(
            f"which its {config.joints} joints are: --skeleton coco, posetrack or a YAML file{coco}"
        )
    if crop_wh is None and named is None:
        missing.append("which crops it was trained on: --crop_wh 192,256 or 288,384, for instance")
    if skeleton is None or missing:
        raise ValueError(f"{path}: weights alone do not tell {', and '.join(missing)}")
    if len(skeleton) != config.joints:
        raise ValueError(
            f"{path}: skeleton: expected {config.joints} joints, as the network has, got "
            f"{len(skeleton)} ({skeleton.name!r})"
        )
    if crop_wh is None:
        crop_wh = named or PUBLISHED_CROP
        if crop_wh != PUBLISHED_CROP:
            warnings.warn(
                f"{path}: crops {crop_wh[0]} wide and {crop_wh[1]} high, by the name of the file; "
                "--crop_wh tells another size",
                stacklevel=3,
            )
    network = PoseWarper(config, backend=backend) if has_head else config.hrnet()
    model = PoseModel(network, config, skeleton, crop_wh)
    load_checkpoint(network, path)
    return model


def size_in_name(path: Path) -> tuple[int, int] | None:
    """Width and height of crops by the name of a published file, which has the height first, as in
    ``pose_hrnet_w32_256x192.pth``; None if it tells none.
    """
    sizes = re.findall(r"(?<![\dA-Za-z])(\d{2,4})x(\d{2,4})(?!\d)", path.name)
    found = {(int(width), int(height)) for height, width in sizes}
    return found.pop() if len(found) == 1 else None


def as_warper(model: PoseModel, config: WarperConfig, backend: str = "auto") -> PoseModel:
    """The model with a new warp head beside its backbone: the start of the second stage.

    Args:
        model: a single-frame model, or one whose head is to be forgotten.
        config: of whose values the head's are taken: head_width, head_blocks, dilations, window.
        backend: of the warp.
    """
    head = {
        name: getattr(config, name) for name in ("head_width", "head_blocks", "dilations", "window")
    }
    merged = replace(model.config, **head)
    network = PoseWarper(merged, backend=backend)
    network.backbone.load_state_dict(model.backbone.state_dict())
    return replace(model, network=network, config=merged)


def as_tuples(value: Any) -> Any:
    """Lists at any depth as tuples."""
    if isinstance(value, Mapping):
        return {key: as_tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(as_tuples(item) for item in value)
    return value
