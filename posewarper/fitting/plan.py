"""How large the network is, what it sees, and how long it learns, by the labels and the machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from posewarper.data.people import turned_boxes, usable_people
from posewarper.data.tables import Floats, PoseDataset
from posewarper.data.upright import angles_vary, reference_pose, rotations

_MULTIPLE = 16  # of which the sides of crops have to be, for a network with three branches
_LONG_SIDE = {"cpu": 208, "cuda": 256}  # pixels of crops
_SHORT_SIDE, _SMALLEST = 64, 96
_ENLARGED = 2.5  # a crop shows at most this much more pixels than the image has
_PADDING = 1.1  # boxes around joints have a margin already
_POSE_SAMPLES, _WARP_SAMPLES = 20_000, 7_000
_PIXELS = 160 * 208  # of the crops that these numbers of samples are meant for
_GAPS = 2, 12  # frames that the warp learns to bridge


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        upright: turn crops with the pose.
        crop_wh: pixels.
        padding: growth of boxes.
        width: channels of the finest branch of the network.
        reach: frames from a label that the warp head learns to bridge.
        pose_samples: crops that the network is trained on.
        warp_samples: pairs of crops that the warp head is trained on.
        flip: mirror samples; only where the skeleton tells which joints change places.
    """

    upright: bool
    crop_wh: tuple[int, int]
    padding: float
    width: int
    reach: int
    pose_samples: int
    warp_samples: int
    flip: bool


def make_plan(
    labels: PoseDataset, device: str, *, upright: bool | None = None, effort: float = 1.0
) -> Plan:
    """What suits these labels.

    Args:
        labels: human labels.
        device: "cpu" or "cuda".
        upright: by default where the labels stand at different angles.
        effort: factor on the numbers of samples.

    Raises:
        ValueError: ``effort`` is not positive; crops are to be turned, but no label tells an angle.
    """
    if not effort > 0:
        raise ValueError(f"effort: expected a number above 0, got {effort}")
    keypoints = labels.people.keypoints[usable_people(labels)[0]]
    reference = reference_pose(keypoints)
    if upright and reference is None:
        raise ValueError(f"upright: nobody in {labels.source} has two labelled joints")
    if upright is None:
        upright = reference is not None and angles_vary(rotations(keypoints, reference))
    crop_wh = _crop(turned_boxes(labels, reference if upright else None)[1], device)
    enough = effort * _PIXELS / (crop_wh[0] * crop_wh[1]) if device == "cpu" else effort
    return Plan(
        upright=upright,
        crop_wh=crop_wh,
        padding=_PADDING,
        width=16 if device == "cpu" else 32,
        reach=_reach(labels),
        pose_samples=round(_POSE_SAMPLES * min(enough, 2 * effort)),
        warp_samples=round(_WARP_SAMPLES * min(enough, 2 * effort)),
        flip=not labels.skeleton.why_not_mirrored,
    )


def _crop(boxes: Floats, device: str) -> tuple[int, int]:
    """Width and height for boxes of this shape, at most so large as they are worth."""
    sizes = np.median(boxes[:, 2:4], 0) * _PADDING
    longest = float(sizes.max())
    side = float(np.clip(_ENLARGED * longest, _SMALLEST, _LONG_SIDE[device]))
    width, height = (
        int(max(round(side * size / longest / _MULTIPLE) * _MULTIPLE, _SHORT_SIDE))
        for size in sizes.tolist()
    )
    return width, height


def _reach(labels: PoseDataset) -> int:
    """The usual distance between two labelled frames less one: the farther label of a frame."""
    frames, gaps = labels.frames, []
    for video in range(len(labels.videos)):
        numbers = np.sort(frames.number[(frames.video == video) & frames.labelled])
        gaps += np.diff(numbers).tolist()
    usual = float(np.median(gaps)) if gaps else float(_GAPS[1])
    return int(np.clip(usual - 1, *_GAPS))
