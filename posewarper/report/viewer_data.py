"""What the viewer's page knows of the people in its frames, as plain lists that go into JSON.

One person is ``{"t": track or -1, "x": [J], "y": [J]}`` with null where a joint is not labelled,
and where there are any: ``"s"`` [J] confidences (null for human labels), ``"p"`` the person's
score, ``"b"`` the box x, y, width, height, ``"m"`` position among the frame's people of the other
label file of the one that stands for the same person. Pixels of the frame as it is in the video.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from posewarper.data.people import person_sizes
from posewarper.data.tables import Floats, PoseDataset


def people_of_frames(
    dataset: PoseDataset, video: int, numbers: Sequence[int]
) -> list[list[dict[str, Any]]]:
    """The people in these frames of a video, by track, those without a track last; see above.

    Args:
        dataset: labels, predictions, or both.
        video: position of the video.
        numbers: of the frames; those that the data set does not list have nobody.
    """
    rows, by_frame = dataset.frame_rows(), dataset.people_by_frame()
    people = dataset.people
    predicted = people.predicted
    shown = []
    for number in numbers:
        row = rows.get((video, number))
        entries = []
        here = [] if row is None else by_frame[row].tolist()
        here.sort(key=lambda person: (people.track_id[person] < 0, people.track_id[person]))
        for person in here:
            joints = people.keypoints[person]
            there = joints[:, 2] > 0
            entry: dict[str, Any] = {
                "t": int(people.track_id[person]),
                "x": numbers_or_null(np.where(there, joints[:, 0], np.nan), 2),
                "y": numbers_or_null(np.where(there, joints[:, 1], np.nan), 2),
            }
            if predicted[person]:
                scores = np.where(there, people.joint_scores[person], np.nan)
                entry["s"] = numbers_or_null(scores, 3)
            if np.isfinite(people.score[person]):
                entry["p"] = round(float(people.score[person]), 3)
            if (people.bbox[person, 2:] > 0).all():
                entry["b"] = numbers_or_null(people.bbox[person], 1)
            entries.append(entry)
        shown.append(entries)
    return shown


def human_frames(dataset: PoseDataset, video: int, numbers: Sequence[int]) -> list[int]:
    """Positions in ``numbers`` of the frames with labels by humans.

    A labelled frame without people counts where the data set holds no predictions; where it does,
    it is not known who found nobody.
    """
    rows, by_frame = dataset.frame_rows(), dataset.people_by_frame()
    predicted = dataset.people.predicted
    only_human = not predicted.any()
    found = []
    for position, number in enumerate(numbers):
        row = rows.get((video, number))
        if row is None:
            continue
        someone = bool((~predicted[by_frame[row]]).any())
        if someone or (only_human and bool(dataset.frames.labelled[row])):
            found.append(position)
    return found


def add_matches(
    people: Sequence[Sequence[dict[str, Any]]], others: Sequence[Sequence[dict[str, Any]]]
) -> None:
    """Find for each person the one of the other file in the same frame, and note it as ``"m"``.

    Pairs are those with the least sum of mean distances between their joints; nobody is paired
    with somebody farther away than the two are large.
    """
    for first, second in zip(people, others, strict=True):
        if not first or not second:
            continue
        points, other_points = _points(first), _points(second)
        distance = np.linalg.norm(points[:, None] - other_points[None], axis=-1)  # [P, Q, J]
        known = np.isfinite(distance)
        mean = np.where(known, distance, 0).sum(-1) / np.maximum(known.sum(-1), 1)
        reach = np.maximum(person_sizes(points)[:, None], person_sizes(other_points)[None])
        allowed = known.any(-1) & (mean <= reach)
        cost = np.where(allowed, mean, 1e6 + np.where(known.any(-1), mean, 1e6))
        for a, b in zip(*linear_sum_assignment(cost), strict=True):
            if allowed[a, b]:
                first[a]["m"] = int(b)


def with_joints_of(other: PoseDataset, dataset: PoseDataset) -> PoseDataset:
    """The other labels with the joints of the first, by name; those that it lacks are unlabelled.

    Raises:
        ValueError: they have no joint in common.
    """
    own, names = other.skeleton.joints, dataset.skeleton.joints
    if not set(own) & set(names):
        raise ValueError(
            f"compare: {other.source} has none of the joints of {dataset.source} "
            f"({', '.join(names)}); it has {', '.join(own)}"
        )
    if own == names:
        return other
    slots = np.array([own.index(name) if name in own else -1 for name in names])
    keypoints = other.people.keypoints[:, slots]
    keypoints[:, slots < 0] = 0
    scores = other.people.joint_scores[:, slots]
    scores[:, slots < 0] = np.nan
    people = replace(other.people, keypoints=keypoints, joint_scores=scores)
    return replace(other, skeleton=dataset.skeleton, people=people)


def same_video(other: PoseDataset, dataset: PoseDataset, video: int) -> int | None:
    """Position in the other data set of a video, by its name or path, or else by the last part of
    it without suffix; single videos of two files are the same one. None if there is none.
    """
    if len(other.videos) == 1 and len(dataset.videos) == 1:
        return 0
    wanted = dataset.videos[video]
    for position, candidate in enumerate(other.videos):
        if candidate.name == wanted.name or candidate.path == wanted.path:
            return position
    same = [i for i, v in enumerate(other.videos) if short_name(v.name) == short_name(wanted.name)]
    return same[0] if len(same) == 1 else None


def short_name(name: str) -> str:
    """The last part of a video's name or path, without suffix."""
    return posixpath.splitext(posixpath.basename(name.rstrip("/")))[0]


def numbers_or_null(values: npt.NDArray[Any], digits: int) -> list[float | None]:
    """Rounded numbers; None, JSON's null, where they are not finite."""
    rounded = np.round(np.asarray(values, np.float64), digits)
    return [value if math.isfinite(value) else None for value in rounded.tolist()]


def _points(people: Sequence[dict[str, Any]]) -> Floats:
    """Joints [P, J, 2], NaN where there are none."""
    return np.array([[person["x"], person["y"]] for person in people], np.float64).swapaxes(1, 2)
