"""The model that training starts from, and the annotations in its joints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from posewarper.data.dataset import SupportBox
from posewarper.data.formats import load_labels
from posewarper.data.people import Upright, usable_people
from posewarper.data.tables import PoseDataset
from posewarper.data.upright import reference_pose
from posewarper.models import (
    HRNet,
    PoseModel,
    PoseWarper,
    WarperConfig,
    load_checkpoint,
    load_model,
)
from posewarper.models.checkpoints import infer_hrnet, read_state
from posewarper.models.pose_model import BEST, PUBLISHED_CROP, as_warper, size_in_name
from posewarper.models.weight_files import read_content
from posewarper.skeleton import Skeleton, find_skeleton
from posewarper.training.config import RunConfig

_CROPS = ("crop_wh", "padding", "sigma")


def start(config: RunConfig) -> tuple[PoseModel, PoseDataset, PoseDataset | None]:
    """The model, the training set, and the validation set if there is one.

    Raises:
        ValueError: files or options that contradict each other; names them.
        OSError: a file cannot be read.
    """
    init = None if config.init is None else _Init(config.init)
    wanted = None if config.data.skeleton is None else find_skeleton(config.data.skeleton)
    if wanted is None and init is not None and config.init_part == "all":
        wanted = init.skeleton
    train = _annotations(config.data.train, wanted)
    val = None if config.data.val is None else _annotations(config.data.val, train.skeleton)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.loop.seed)
        if init is None:
            model = _fresh(config, train.skeleton)
        elif config.init_part == "features":
            model = _with_new_joints(config, init, train.skeleton)
        else:
            model = _continued(config, init, train.skeleton)
        if config.stage == "warp" and not model.warps:
            model = as_warper(model, model.config)
    model = replace(
        model,
        upright=_upright(config, init, train),
        support_box=_support_box(config, init),
    )
    if config.model.refinement is not None:
        model = replace(model, refinement=config.model.refinement)
    return model, train, val


class _Init:
    """The file to start from, and what it says about itself.

    Attributes:
        path: the file; in a folder of training its best model.
        model: what it tells about joints and crops; None of weights alone.
        skeleton: its joints, if it tells them.
    """

    def __init__(self, path: Path):
        self.path = path / BEST if path.is_dir() else path
        if not self.path.is_file():
            raise FileNotFoundError(f"init: {self.path}: there is no such model file")
        content = read_content(self.path)
        described = isinstance(content, Mapping) and "posewarper" in content
        self.model = load_model(self.path) if described else None
        self.skeleton = None if self.model is None else self.model.skeleton


def _annotations(path: Path, skeleton: Skeleton | None) -> PoseDataset:
    dataset = load_labels(path, skeleton=skeleton)
    if skeleton is not None and dataset.skeleton.joints != skeleton.joints:
        raise ValueError(
            f"{path}: expected the joints of {skeleton.name!r}, {list(skeleton.joints)}, got "
            f"{list(dataset.skeleton.joints)}"
        )
    return dataset


def _upright(config: RunConfig, init: _Init | None, train: PoseDataset) -> Upright:
    """What is upright in crops: what it was to the model that training starts from, or else what it
    is in these labels. In stage warp that model's crops are given.
    """
    own, joints, wanted = None, None, config.data.upright
    if init is not None and init.model is not None:
        own, joints = init.model.upright, init.model.skeleton.joints
        turned = own is not None
        if config.stage == "warp" and wanted not in (None, turned):
            raise ValueError(
                f"data.upright: expected {str(turned).lower()}, as the crops of {init.path} are"
                f"{'' if turned else ' not'} turned, got {str(wanted).lower()}"
            )
        wanted = turned if wanted is None else wanted
    if not wanted:
        return None
    if own is not None and joints == train.skeleton.joints:
        return own
    reference = reference_pose(train.people.keypoints[usable_people(train)[0]])
    if reference is None:
        raise ValueError(
            f"data.upright: {train.source}: nobody has two labelled joints in different places"
        )
    return reference


def _support_box(config: RunConfig, init: _Init | None) -> SupportBox:
    """Of a head that is kept, what it was trained with; of a new one what is wanted."""
    wanted, model = config.data.support_box, None if init is None else init.model
    if config.stage != "warp":
        return "key"  # there is no head
    if init is None or model is None or not model.warps:
        return wanted or "key"
    if _keeps_head(config) and wanted not in (None, model.support_box):
        raise ValueError(
            f"data.support_box: expected {model.support_box!r}, which the head of {init.path} was "
            f"trained with, got {wanted!r}; --model.reset_head true starts with a new head"
        )
    return wanted or model.support_box


def _fresh(config: RunConfig, skeleton: Skeleton) -> PoseModel:
    sizes = WarperConfig(joints=len(skeleton), **{**config.model.backbone(), **config.model.head()})
    return PoseModel(sizes.hrnet(), sizes, skeleton, **_crops(config))


def _with_new_joints(config: RunConfig, init: _Init, skeleton: Skeleton) -> PoseModel:
    """The features of a model, and a new last layer."""
    if init.model is not None:
        model = load_model(init.path)
        sizes, crops = model.config, {name: getattr(model, name) for name in _CROPS}
    else:
        found = infer_hrnet(read_state(init.path), init.path, joints=len(skeleton))
        sizes, crops = WarperConfig(**found), {}
    _check_sizes(config, sizes, init, free=("softmax_sigma",))
    softmax = config.model.backbone().get("softmax_sigma", sizes.softmax_sigma)
    sizes = replace(sizes, joints=len(skeleton), softmax_sigma=softmax, **config.model.head())
    network = sizes.hrnet()
    load_checkpoint(network, init.path, "features")
    return PoseModel(network, sizes, skeleton, **{**crops, **_crops(config)})


def _continued(config: RunConfig, init: _Init, skeleton: Skeleton) -> PoseModel:
    """All of a model; of a warper its backbone alone in stage pose, or if the head is to be new."""
    model = _loaded(config, init, skeleton)
    described = init.model is not None
    fixed = config.stage == "warp" and described
    _check_sizes(config, model.config, init, free=() if described else ("softmax_sigma",))
    for name in _CROPS:
        given, own = getattr(config.data, name), getattr(model, name)
        if fixed and given is not None and given != own:
            raise ValueError(f"data.{name}: expected {own}, which {init.path} has, got {given}")
    head = config.model.head()
    softmax = config.model.backbone().get("softmax_sigma", model.config.softmax_sigma)
    if model.warps and _keeps_head(config):
        for name in ("head_width", "head_blocks", "dilations"):
            own = getattr(model.config, name)
            if head.get(name, own) != own:
                raise ValueError(
                    f"model.{name}: expected {own}, which the head of {init.path} has, got "
                    f"{head[name]}; --model.reset_head true starts with a new head"
                )
        sizes = replace(model.config, softmax_sigma=softmax, **head)
        network: HRNet | PoseWarper = PoseWarper(sizes)
        network.load_state_dict(model.network.state_dict())
    else:
        sizes = replace(model.config, softmax_sigma=softmax, **head)
        network = sizes.hrnet()
        network.load_state_dict(model.backbone.state_dict())
    return replace(model, network=network, config=sizes, **_crops(config))


def _loaded(config: RunConfig, init: _Init, skeleton: Skeleton) -> PoseModel:
    """The file's model; of weights alone without the head, where it is not needed."""
    if init.model is not None:
        model = load_model(init.path)
        if skeleton.joints != model.skeleton.joints:
            raise ValueError(
                f"data.skeleton: expected the joints of {init.path}, "
                f"{list(model.skeleton.joints)}, got {list(skeleton.joints)}; --init_part features "
                "keeps all but the last layer"
            )
        return model
    sizes = WarperConfig(**infer_hrnet(read_state(init.path), init.path))
    if len(skeleton) != sizes.joints:
        raise ValueError(
            f"data.skeleton: expected {sizes.joints} joints, as {init.path} has, got "
            f"{len(skeleton)} ({skeleton.name!r}); --init_part features keeps all but the last "
            "layer"
        )
    if _keeps_head(config):
        crop_wh = config.data.crop_wh or size_in_name(init.path) or PUBLISHED_CROP
        return load_model(
            init.path, skeleton=skeleton, crop_wh=crop_wh, dilations=config.model.dilations
        )
    network = sizes.hrnet()
    load_checkpoint(network, init.path, "backbone")
    return PoseModel(network, sizes, skeleton, **_crops(config))


def _keeps_head(config: RunConfig) -> bool:
    return config.stage == "warp" and not config.model.reset_head


def _crops(config: RunConfig) -> dict[str, Any]:
    """What the configuration says about crops and targets."""
    given = {name: getattr(config.data, name) for name in _CROPS}
    return {name: value for name, value in given.items() if value is not None}


def _check_sizes(config: RunConfig, own: WarperConfig, init: _Init, free: tuple[str, ...]) -> None:
    for name, given in config.model.backbone().items():
        if name not in free and given != getattr(own, name):
            raise ValueError(
                f"model.{name}: expected {getattr(own, name)}, which {init.path} has, got {given}"
            )
