"""Checkpoints in the layout of the published PoseWarper files, and of those that share its weights.

The layout is a plain ``state_dict``: the backbone's keys (also those of the published HRNet pose
files), ``offset_feats.*``, then ``offsets{1..D}.weight [2 * 9 * J, width, 3, 3]`` and
``deform_conv{1..D}.weight [J, J, 3, 3]``, one for each dilation. Read are, besides:

* names with ``module.`` or ``_orig_mod.`` in front (DataParallel, torch.compile);
* a ``state_dict`` or ``model`` inside a larger file, also as training leaves them;
* safetensors;
* mmpose's names for the same weights (``backbone.``, ``neck.``, ``keypoint_head.``, ``head.``);
* this package's own, ``PoseWarper.state_dict()``.

* as features, networks of the same family for images as a whole (ImageNet's HRNets, also timm's and
  mmpretrain's) and backbones alone.

A file fits exactly or not at all; of the last kind what heatmaps have no use for is left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posewarper.models.hrnet import HRNet
from posewarper.models.warper import PoseWarper, WarperConfig, Window
from posewarper.models.weight_files import read_content, write_content

State = dict[str, Tensor]

#: Parts of a model that ``load_checkpoint`` fills.
PARTS = ("all", "backbone", "features")

_RELEASED_DILATIONS = (3, 6, 12, 18, 24)
_HEAD_KEY = re.compile(r"offset_feats\.|offsets\d+\.|deform_conv\d+\.")
_LISTED = 10  # keys of each kind that an error names

# What networks for classification have beyond the features of the finest branch.
_CLASSIFIER = re.compile(
    r"(incre_modules|downsamp_modules|final_layer|classifier|fc|head|"
    r"neck\.(increase_layers|downsample_layers|final_layer))\."
)
_FUSED = re.compile(r"stage(\d+)\.(\d+)\.fuse_layers\.(\d+)\.")

# Other names for the same weights, once wrappers are gone. Numbered ones count from 0.
_RENAMED = (
    (re.compile(r"^backbone\."), ""),
    (re.compile(r"^(?:neck\.trans_layer|keypoint_head\.final_layer|head\.final_layer)\."),
     "final_layer."),
    (re.compile(r"^neck\.offset_feats\."), "offset_feats."),
)  # fmt: skip
_NUMBERED = (
    (re.compile(r"^(?:neck\.offset_layers|offsets)\.(\d+)\."), "offsets"),
    (re.compile(r"^neck\.deform_conv_layers\.(\d+)\."), "deform_conv"),
)


def load_posewarper(
    path: str | Path,
    *,
    dilations: tuple[int, ...] | None = None,
    window: Window | None = None,
    backbone_batch_stats: bool = False,
    backend: str = "auto",
) -> PoseWarper:
    """A model with the sizes and weights of a file, on the CPU, in eval mode.

    Args:
        path: the file.
        dilations: of the deformable convolutions, which no file tells. Without it the released
            model's if there are five of them; else it has to be given.
        window, backbone_batch_stats, backend: see ``WarperConfig`` and ``PoseWarper``.

    Raises:
        ValueError: no checkpoint, not this model's, or not fitting; names file and keys.
        OSError: the file cannot be read.
    """
    state = read_state(path)
    config = infer_config(state, path, dilations)
    if window is not None:
        config = dataclasses.replace(config, window=window)
    model = PoseWarper(config, backbone_batch_stats=backbone_batch_stats, backend=backend)
    _fill(model, state, "all", path)
    return model.eval()


def load_hrnet(path: str | Path) -> HRNet:
    """The single-frame model of a file, on the CPU, in eval mode; a warp head is left out.

    Raises:
        ValueError, OSError: as ``load_posewarper``.
    """
    state = read_state(path)
    model = HRNet(**infer_hrnet(state, path))
    _fill(model, state, "backbone", path)
    return model.eval()


def load_checkpoint(model: HRNet | PoseWarper, path: str | Path, part: str = "all") -> None:
    """Fills a model, or a part of it, from a file. The model is untouched if the file does not fit.

    Args:
        model: the model; its device and dtype stay.
        path: the file.
        part: ``"all"``: model and file have the same weights. ``"backbone"``: the file may have a
            warp head too, which is left out; a ``PoseWarper``'s head stays as it is: the start of
            the second stage of training. ``"features"``: also without the last layer, in both: for
            other joints than the file's.

    Raises:
        ValueError: no checkpoint, or keys or shapes that differ; names file and keys.
        TypeError: the model is of another kind, or wrapped (DataParallel, torch.compile).
        OSError: the file cannot be read.
    """
    if part not in PARTS:
        raise ValueError(f"part: expected one of {PARTS}, got {part!r}")
    if not isinstance(model, (HRNet, PoseWarper)):
        raise TypeError(
            f"model: expected HRNet or PoseWarper, not wrapped, got {type(model).__name__}"
        )
    _fill(model, read_state(path), part, path)


def save_checkpoint(model: HRNet | PoseWarper, path: str | Path) -> None:
    """Writes the weights in the published layout.

    The file appears whole or not at all; it is PyTorch's, or safetensors if its name ends so.

    Raises:
        OSError: the file cannot be written.
    """
    write_content(to_official(model.state_dict()), path)


def read_state(path: str | Path) -> State:
    """All tensors of a file under their published names.

    Raises:
        ValueError: the file is no checkpoint of tensors, or two of its keys are the same weight.
        OSError: the file cannot be read.
    """
    content = read_content(path)
    state = _find_tensors(content)
    if not state:
        raise ValueError(f"{path}: expected a dictionary of tensors, got {_describe(content)}")
    try:
        return to_official(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def to_official(state: Mapping[str, Tensor]) -> State:
    """Published names for the weights of any layout that the module's docstring lists.

    The order is kept; stacked kernels ``warp.weight [D, J, J, 3, 3]`` become D tensors.

    Raises:
        ValueError: two keys are the same weight.
    """
    for prefix in ("module.", "_orig_mod.") * 2:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    official: State = {}
    for key, tensor in state.items():
        named = {_rename(key): tensor}
        if key == "warp.weight" and tensor.ndim == 5:
            named = {f"deform_conv{d}.weight": kernel for d, kernel in enumerate(tensor, 1)}
        for name, value in named.items():
            if name in official:
                raise ValueError(f"two keys are the weight {name!r}, one of them {key!r}")
            official[name] = value
    return official


def infer_hrnet(
    state: Mapping[str, Tensor], source: str | Path = "state", joints: int | None = None
) -> dict[str, Any]:
    """The arguments of ``HRNet`` for weights under published names.

    Args:
        state: the weights.
        source: what messages call them.
        joints: of the network to be, which takes the features alone; by default those of the last
            layer.

    Raises:
        ValueError: this is no HRNet, or none with heatmaps; names ``source`` and the first key
            missed.
    """
    last = "final_layer.weight"
    needed = ["conv1.weight", "transition1.0.0.weight"]
    features = [*needed, "layer1.0.conv1.weight", "stage2.0.branches.0.0.conv1.weight"]
    for key in features if joints is not None else [*needed, last, *features[2:]]:
        if key not in state:
            without = all(key in state for key in features)
            raise ValueError(
                f"{source}: not the weights of an HRNet for heatmaps: there is no {key!r}; "
                + (
                    "its features can be trained for poses: train --init_part features"
                    if without
                    else f"there are {_listing(state)}"
                )
            )
    stem_width, width = (_out_channels(state, key, source) for key in needed)
    if joints is None:
        joints = _out_channels(state, last, source)
    stages = _count(state, r"stage(\d+)\.", first=2)
    return {
        "joints": joints,
        "width": width,
        "modules": tuple(_count(state, rf"stage{s}\.(\d+)\.") for s in range(2, 2 + stages)),
        "blocks": _count(state, r"stage2\.0\.branches\.0\.(\d+)\."),
        "stem_width": stem_width,
        "stem_blocks": _count(state, r"layer1\.(\d+)\."),
    }


def infer_config(
    state: Mapping[str, Tensor],
    source: str | Path = "state",
    dilations: tuple[int, ...] | None = None,
    head: bool = True,
) -> WarperConfig:
    """The sizes of a ``PoseWarper`` from its weights under published names.

    Args:
        state: the weights.
        source: what messages call them.
        dilations: as in ``load_posewarper``.
        head: False: of a single-frame model; the head's sizes are the defaults.

    Raises:
        ValueError: no PoseWarper, or the dilations are missing or too few or too many.
    """
    backbone = infer_hrnet(state, source)
    if not head:
        return WarperConfig(**backbone)
    first = "offset_feats.0.conv1.weight"
    count = _count(state, r"offsets(\d+)\.weight", first=1)
    if first not in state or count == 0:
        raise ValueError(
            f"{source}: a single-frame model without a warp head (no {first!r} or no "
            "'offsets1.weight'); load_hrnet reads it, and load_checkpoint(part='backbone') starts "
            "a PoseWarper from it"
        )
    if dilations is None:
        dilations = _RELEASED_DILATIONS
        if count != len(dilations):
            raise ValueError(
                f"{source}: {count} deformable convolutions, whose dilations no file tells; "
                "give the argument dilations"
            )
    if len(dilations) != count:
        raise ValueError(f"dilations: expected {count}, as many as {source} has, got {dilations}")
    return WarperConfig(
        **backbone,
        head_width=_out_channels(state, first, source),
        head_blocks=_count(state, r"offset_feats\.(\d+)\."),
        dilations=dilations,
    )


def _fill(model: HRNet | PoseWarper, state: State, part: str, source: str | Path) -> None:
    """Copies a part of ``state`` (published names) into a model, after comparing all shapes."""
    own = model.state_dict()
    expected = _select(to_official(own), part)
    found = _select(state, part)
    if part == "features":
        last = max((m[1], m[2]) for key in expected if (m := _FUSED.match(key)))
        found = {key: t for key, t in found.items() if not _not_for_heatmaps(key, last)}
    # Files from before PyTorch 0.4.1 lack these counters, which nothing here reads.
    if not any(key.endswith("num_batches_tracked") for key in found):
        for key, tensor in expected.items():
            if key.endswith("num_batches_tracked"):
                found[key] = torch.zeros_like(tensor)
    _compare(expected, found, source)
    filled = {}
    for key, tensor in own.items():
        if key == "warp.weight":
            names = [f"deform_conv{d}.weight" for d in range(1, 1 + len(tensor))]
            if names[0] in found:
                filled[key] = torch.stack([found[name] for name in names])
        elif (name := _rename(key)) in found:
            filled[key] = found[name]
    model.load_state_dict({**own, **filled}, strict=True)


def _compare(expected: State, found: State, source: str | Path) -> None:
    """Raises ValueError that names the keys and shapes in which two sets of weights differ."""
    problems = []
    for title, keys in (
        ("missing", [key for key in expected if key not in found]),
        ("unexpected", [key for key in found if key not in expected]),
    ):
        if keys:
            problems.append(f"{len(keys)} {title}: {_listing(keys)}")
    shapes = [
        f"{key} {tuple(found[key].shape)} for {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in found and found[key].shape != tensor.shape
    ]
    if shapes:
        problems.append(f"{len(shapes)} of another shape: {_listing(shapes)}")
    if problems:
        raise ValueError(f"{source}: the weights do not fit the model. " + "; ".join(problems))


def _select(state: Mapping[str, Tensor], part: str) -> State:
    return {
        key: tensor
        for key, tensor in state.items()
        if not (part != "all" and _HEAD_KEY.match(key))
        and not (part == "features" and key.startswith("final_layer."))
    }


def _not_for_heatmaps(key: str, last: tuple[str, str]) -> bool:
    """Whether a network for classification needs this beyond features: its head, and what ``last``,
    the number of the last stage and module, makes of coarser branches.
    """
    fused = _FUSED.match(key)
    coarser = fused is not None and (fused[1], fused[2]) == last and fused[3] != "0"
    return coarser or _CLASSIFIER.match(key) is not None


def _rename(key: str) -> str:
    for pattern, name in _RENAMED:
        key = pattern.sub(name, key)
    for pattern, name in _NUMBERED:
        if match := pattern.match(key):
            key = f"{name}{int(match[1]) + 1}.{key[match.end() :]}"
    return key


def _find_tensors(content: object) -> State:
    """The dictionary of tensors in a file, also inside ``state_dict`` or ``model``; else none."""
    if not isinstance(content, Mapping):
        return {}
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            return _find_tensors(content[key])
    tensors = all(isinstance(value, Tensor) for value in content.values())
    return dict(content) if tensors and all(isinstance(key, str) for key in content) else {}


def _describe(content: object) -> str:
    if isinstance(content, Mapping):
        return f"one with {_listing(str(key) for key in content)}" if content else "an empty one"
    return type(content).__name__


def _listing(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _count(state: Iterable[str], pattern: str, first: int = 0) -> int:
    """How many numbers follow each other without a gap from ``first`` on in matching keys."""
    numbers = {int(match[1]) for key in state if (match := re.match(pattern, key))}
    count = 0
    while first + count in numbers:
        count += 1
    return count


def _out_channels(state: Mapping[str, Tensor], key: str, source: str | Path) -> int:
    if state[key].ndim != 4:
        raise ValueError(
            f"{source}: {key}: expected the weight of a convolution, "
            f"got shape {tuple(state[key].shape)}"
        )
    return state[key].shape[0]
