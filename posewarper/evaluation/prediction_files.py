"""Writing predictions: PoseTrack files of both years, one per video, and COCO keypoint results."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posewarper.evaluation.posetrack_files import NECK_KEY
from posewarper.evaluation.results import write_text
from posewarper.skeleton import COCO, POSETRACK, POSETRACK_EVAL, Skeleton

LAYOUTS = ("posetrack18", "posetrack17")
NECKS = ("head_bottom", "shoulder_midpoint")
_SOURCES = {"mpii": 1, "bonn": 2, "mpiinew": 3}


@dataclass(frozen=True, eq=False)
class _People:
    """P people with J joints, checked; see ``write_posetrack``."""

    frame: NDArray[np.int64]
    points: NDArray[np.float64]
    scores: NDArray[np.float64]
    track_id: NDArray[np.int64]
    person_score: NDArray[np.float64]


def posetrack_frame_id(image_name: str) -> int | None:
    """The id that PoseTrack18 gives a frame: source, six digits of the video, four of the frame.

    Args:
        image_name: for example ``images/val/000342_mpii_test/000017.jpg``, which has the id
            10003420017.

    Returns:
        None for names that are not made this way.
    """
    path = PurePosixPath(image_name)
    video = re.match(r"(\d{1,6})_(mpiinew|mpii|bonn)(_|$)", path.parent.name)
    frame = re.fullmatch(r"\d+", path.stem)
    if not video or not frame or int(path.stem) > 9999:
        return None
    return _SOURCES[video[2]] * 10**10 + int(video[1]) * 10**4 + int(path.stem)


def _image_ids(frame_names: Sequence[str]) -> list[int]:
    """PoseTrack18's ids where all names allow it, else 1, 2, ..."""
    official = [posetrack_frame_id(name) for name in frame_names]
    known = [value for value in official if value is not None]
    if len(known) == len(frame_names) == len(set(known)):
        return known
    return list(range(1, len(frame_names) + 1))


def _check_shape(name: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.shape != shape:
        raise ValueError(f"{name}: expected the shape {list(shape)}, got {list(array.shape)}")
    if np.isinf(array).any() or (name != "points" and np.isnan(array).any()):
        raise ValueError(f"{name}: expected finite numbers")
    return array


def _with_neck(people: _People, skeleton: Skeleton, neck: str) -> _People:
    """Put the middle of the shoulders in place of head_bottom, with the mean of their scores."""
    if neck == "head_bottom":
        return people
    points, scores = people.points.copy(), people.scores.copy()
    shoulders = [skeleton.index("left_shoulder"), skeleton.index("right_shoulder")]
    points[:, skeleton.index("head_bottom")] = points[:, shoulders].mean(1)
    scores[:, skeleton.index("head_bottom")] = scores[:, shoulders].mean(1)
    return _People(people.frame, points, scores, people.track_id, people.person_score)


def _with_dummies(people: _People, frames: int, skeleton: Skeleton) -> _People:
    """Add to each frame without people one with the right ankle at (0, 0), score -100, track 0."""
    empty = np.setdiff1d(np.arange(frames), people.frame)
    points = np.full((len(empty), len(skeleton), 2), np.nan)
    points[:, skeleton.index("right_ankle")] = 0
    low = np.full(len(empty), -100.0)
    order = np.argsort(np.concatenate([people.frame, empty]), kind="stable")
    return _People(
        np.concatenate([people.frame, empty])[order],
        np.concatenate([people.points, points])[order],
        np.concatenate([people.scores, np.repeat(low[:, None], len(skeleton), 1)])[order],
        np.concatenate([people.track_id, np.zeros(len(empty), np.int64)])[order],
        np.concatenate([people.person_score, low])[order],
    )


def write_posetrack(
    path: str | Path,
    frame_names: Sequence[str],
    frame: ArrayLike,
    points: ArrayLike,
    scores: ArrayLike,
    *,
    track_id: ArrayLike | None = None,
    person_score: ArrayLike | None = None,
    layout: str = "posetrack18",
    neck: str = "head_bottom",
    image_ids: Sequence[int] | None = None,
    dummy_people: bool = False,
    skeleton: Skeleton = POSETRACK,
) -> None:
    """Write the predictions of one video of T frames, P people in all frames together.

    Args:
        path: where to; named like the video's ground truth, so that evaluators find it.
        frame_names: T image names, as in the ground truth: all its frames in the same order.
        frame: [P], 0..T-1.
        points: [P, J, 2] in pixels; NaN = this joint is not predicted.
        scores: [P, J].
        track_id: [P], negative for people without one, who get ids that nobody else has in their
            frame, above those of the tracks. None: nobody has one. Then ids are 0, 1, ... in each
            frame. Such ids, which the layouts demand, say nothing about tracks.
        person_score: [P]; None = mean of the scores of the predicted joints.
        layout: "posetrack18" or "posetrack17". The latter has no ears.
        neck: what is written as head_bottom: the joint of that name, or "shoulder_midpoint", the
            middle of both shoulders with the mean of their scores, as the system of 2019 did.
            Stands in the file.
        image_ids: T ids for the 2018 layout; None = made from the names as officially, or else
            1, 2, ...
        dummy_people: give frames without people a right ankle at (0, 0) with score -100, as the
            system of 2019 did. Without a predicted person a frame counts otherwise in MOTA.
        skeleton: J joints, among them the 15 of the evaluation.

    Raises:
        ValueError: shapes do not fit, a frame is not there, or an option is not known.
        OSError: the file cannot be written.
    """
    if layout not in LAYOUTS or neck not in NECKS:
        raise ValueError(
            f"expected layout of {LAYOUTS} and neck of {NECKS}, got {layout!r} and {neck!r}"
        )
    for joint in POSETRACK_EVAL.joints:
        skeleton.index(joint)
    frames, joints = len(frame_names), len(skeleton)
    frame = np.asarray(frame, np.int64).reshape(-1)
    if ((frame < 0) | (frame >= frames)).any():
        raise ValueError(f"frame: expected 0..{frames - 1}, got {frame.min()}..{frame.max()}")
    count = len(frame)
    order = np.argsort(frame, kind="stable")
    frame = frame[order]
    place = np.arange(count) - np.searchsorted(frame, frame)
    points = _check_shape("points", points, (count, joints, 2))[order]
    scores = _check_shape("scores", scores, (count, joints))[order]
    if track_id is not None:
        place = _with_all_ids(frame, _check_shape("track_id", track_id, (count,))[order])
    absent = np.isnan(points[:, :, 0]) | np.isnan(points[:, :, 1])
    points[absent] = np.nan
    present = ~absent
    if person_score is None:
        total = np.where(present, scores, 0).sum(1) / np.maximum(present.sum(1), 1)
    else:
        total = _check_shape("person_score", person_score, (count,))[order]
    people = _with_neck(_People(frame, points, scores, place, total), skeleton, neck)
    if dummy_people:
        people = _with_dummies(people, frames, skeleton)
    if layout == "posetrack17":
        data = _layout_2017(frame_names, people, skeleton)
    else:
        ids = _image_ids(frame_names) if image_ids is None else [int(i) for i in image_ids]
        if len(ids) != frames or len(set(ids)) != frames:
            raise ValueError(f"image_ids: expected {frames} different ids, got {image_ids}")
        data = _layout_2018(frame_names, ids, people, skeleton)
    write_text(path, json.dumps(data | {NECK_KEY: neck}, allow_nan=False))


def _with_all_ids(frame: NDArray[np.int64], track_id: ArrayLike) -> NDArray[np.int64]:
    """Ids for people without one, in order of frames: above all tracks, different in a frame."""
    tracks = np.array(track_id, np.int64)
    without = np.flatnonzero(tracks < 0)
    own = frame[without]
    tracks[without] = (
        np.arange(len(own)) - np.searchsorted(own, own) + max(tracks.max(initial=-1), -1) + 1
    )
    return tracks


def _layout_2017(frame_names: Sequence[str], people: _People, skeleton: Skeleton) -> dict[str, Any]:
    annolist: list[dict[str, Any]] = [
        {"image": [{"name": name}], "imgnum": [number], "annorect": []}
        for number, name in enumerate(frame_names, 1)
    ]
    columns = [skeleton.index(joint) for joint in POSETRACK_EVAL.joints]
    points, scores = people.points[:, columns].tolist(), people.scores[:, columns].tolist()
    for row, frame in enumerate(people.frame.tolist()):
        point = [
            {"id": [joint], "x": [x], "y": [y], "score": [score]}
            for joint, ((x, y), score) in enumerate(zip(points[row], scores[row], strict=True))
            if x == x and y == y
        ]
        person = {
            "annopoints": [{"point": point}],
            "score": [float(people.person_score[row])],
            "track_id": [int(people.track_id[row])],
        }
        annolist[frame]["annorect"].append(person)
    return {"annolist": annolist}


def _layout_2018(
    frame_names: Sequence[str], image_ids: list[int], people: _People, skeleton: Skeleton
) -> dict[str, Any]:
    # Readers know files with these 17 joints, or with the 15 of the evaluation, only.
    names = (
        POSETRACK.joints if set(POSETRACK.joints) <= {*skeleton.joints} else POSETRACK_EVAL.joints
    )
    columns = [skeleton.index(joint) for joint in names]
    points = people.points[:, columns]
    present = ~np.isnan(points[:, :, 0])
    triples = np.dstack([np.where(present[..., None], points, 0), present]).reshape(
        len(points), 3 * len(names)
    )
    scores = np.where(present, people.scores[:, columns], 0)
    return {
        "images": [
            {
                "id": image_id,
                "frame_id": image_id,
                "file_name": name,
                "vid_id": PurePosixPath(name).parent.name.split("_")[0],
                "nframes": len(frame_names),
            }
            for image_id, name in zip(image_ids, frame_names, strict=True)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image_ids[frame],
                "category_id": 1,
                "track_id": int(people.track_id[number - 1]),
                "keypoints": triples[number - 1].tolist(),
                "scores": scores[number - 1].tolist(),
                "score": float(people.person_score[number - 1]),
            }
            for number, frame in enumerate(people.frame.tolist(), 1)
        ],
        "categories": [
            {"supercategory": "person", "id": 1, "name": "person", "keypoints": list(names)}
        ],
    }


def write_coco_results(
    path: str | Path,
    image_id: Sequence[int],
    points: ArrayLike,
    scores: ArrayLike,
    person_score: ArrayLike,
    *,
    category_id: int = 1,
    skeleton: Skeleton = COCO,
) -> None:
    """Write P people as a list of COCO keypoint results.

    Args:
        path: where to.
        image_id: [P], ids of the ground truth's images.
        points: [P, J, 2] in pixels; NaN = this joint is not predicted, written as zeros.
        scores: [P, J], the third number of each keypoint.
        person_score: [P], what ranks the people.
        category_id: as in the ground truth.
        skeleton: J joints in the order of the ground truth.

    Raises:
        ValueError: shapes do not fit.
        OSError: the file cannot be written.
    """
    count, joints = len(image_id), len(skeleton)
    xy = _check_shape("points", points, (count, joints, 2))
    confidence = _check_shape("scores", scores, (count, joints))
    total = _check_shape("person_score", person_score, (count,)).tolist()
    triples = np.dstack([xy, confidence])
    triples[np.isnan(xy).any(-1)] = 0
    results = [
        {
            "image_id": int(image),
            "category_id": category_id,
            "keypoints": keypoints,
            "score": score,
        }
        for image, keypoints, score in zip(
            image_id, triples.reshape(count, 3 * joints).tolist(), total, strict=True
        )
    ]
    write_text(path, json.dumps(results, allow_nan=False))
