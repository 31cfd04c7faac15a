"""Poses that other estimators found: AlphaPose, OpenPose, MMPose, and lists of COCO results.

They are people with scores. Most of these files do not name the joints. OpenPose and AlphaPose have
few models, which their number tells; otherwise joints are called ``keypoint_0`` and so on.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posewarper.data.entries import listing, mapping, number, objects, whole, whole_column
from posewarper.data.formats.label_file import LabelFile, LabelledFrame, LabelledPerson
from posewarper.data.tables import Floats
from posewarper.files import read_json, visible
from posewarper.skeleton import COCO, Skeleton

_HALPE = (
    *COCO.joints, "head", "neck", "hip", "left_big_toe", "right_big_toe", "left_small_toe",
    "right_small_toe", "left_heel", "right_heel",
)  # fmt: skip
_ARMS = (
    "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
)  # fmt: skip
_LEGS = ("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle")
_FACE = ("right_eye", "left_eye", "right_ear", "left_ear")
_FEET = (
    "left_big_toe", "left_small_toe", "left_heel", "right_big_toe", "right_small_toe",
    "right_heel",
)  # fmt: skip
_Names = Mapping[int, tuple[str, ...]]
#: Names by the number of joints: OpenPose's models MPI, COCO and BODY_25 ...
OPENPOSE: _Names = {
    15: ("head", "neck", *_ARMS, *_LEGS, "chest"),
    18: ("nose", "neck", *_ARMS, *_LEGS, *_FACE),
    25: ("nose", "neck", *_ARMS, "mid_hip", *_LEGS, *_FACE, *_FEET),
}
#: ... and AlphaPose's, COCO and Halpe.
ALPHAPOSE: _Names = {17: COCO.joints, 26: _HALPE}
_OPENPOSE_FILE = re.compile(r"(?P<stem>.*)_keypoints\.json")


def joint_names(
    count: int, skeleton: Skeleton | None, source: str, known: _Names | None = None
) -> tuple[str, ...]:
    """Names for ``count`` joints that a file does not name.

    Those that its tool always gives to so many joints (``known``), else those of ``skeleton``, in
    its order. A number alone tells nothing: animals have 17 joints, too.

    Raises:
        ValueError: ``skeleton`` has another number of joints.
    """
    if known is not None and count in known:
        return known[count]
    if skeleton is not None and len(skeleton) != count:
        raise ValueError(
            f"{source}: has {count} joints without names, skeleton {skeleton.name!r} has "
            f"{len(skeleton)}: expected as many, in the order of the file"
        )
    if skeleton is not None:
        return skeleton.joints
    warnings.warn(
        f"{source}: does not name its {count} joints: they are called keypoint_0 to "
        f"keypoint_{count - 1}; a skeleton with {count} joints, in this order, names them",
        stacklevel=6,
    )
    return tuple(f"keypoint_{i}" for i in range(count))


def triples(values: Any, place: str) -> Floats:
    """Points [J, 3] (x, y, score or visibility) of a flat list.

    Raises:
        ValueError: it is none; names ``place``.
    """
    try:
        flat = np.array(values, np.float64)
    except (TypeError, ValueError):
        flat = np.zeros(0)
    if flat.ndim != 1 or len(flat) == 0 or len(flat) % 3 or not np.isfinite(flat).all():
        raise ValueError(
            f"{place}: expected key points as x, y and score one after another, got "
            f"{str(values)[:60]}"
        )
    return flat.reshape(-1, 3)


def scored_person(points: Floats, score: float = np.nan) -> LabelledPerson:
    """A predicted person of points [J, 3] (x, y, score); (0, 0, 0) was not found.

    If the person has a score and all thirds are 0, 1 or 2, they are COCO's visibility, and every
    joint has the score of the person.
    """
    found = (points != 0).any(1)
    scores = points[:, 2]
    if np.isin(scores, (0, 1, 2)).all() and np.isfinite(score):
        found, scores = scores > 0, np.full(len(points), score)
    placed = np.where(found[:, None], points[:, :2], 0.0)
    person = np.column_stack([placed, np.where(found, 2.0, 0.0)])
    return LabelledPerson(person, None, np.where(found, scores, np.nan), score)


def read_results(path: Path, skeleton: Skeleton | None) -> LabelFile:
    """A list of people with ``image_id``, ``keypoints`` and ``score``: AlphaPose, COCO results.

    Integer ids are frames, counted from 0, of a video that is named like the file. (In COCO they
    are names of images in another file; ``detection.format_of`` refuses them.)

    Raises:
        ValueError: names the entry.
    """
    data = read_json(path)
    entries = objects(data if isinstance(data, list) else _by_image(data, path), str(path))
    labels = LabelFile(str(path), ())
    rows: list[tuple[LabelledFrame, LabelledPerson, Any]] = []
    for row, entry in enumerate(entries):
        place = f"{path}: result {row}"
        if not {"image_id", "keypoints"} <= set(entry):
            raise ValueError(
                f"{place}: expected 'image_id' and 'keypoints', got {sorted(map(str, entry))[:8]}"
            )
        image = entry["image_id"]
        if isinstance(image, str):
            frame = labels.frame(image)
        else:
            frame = labels.frame(path.stem, whole(image, f"{place}: image_id"))
        person = scored_person(triples(entry["keypoints"], place), _score(entry, "score", place))
        person.box = _box(entry.get("box", entry.get("bbox")), place)
        if (person.points[:, 2] > 0).any():
            rows.append((frame, person, _track(entry.get("idx", entry.get("track_id")))))
    _add(labels, rows, path)
    of_alphapose = all(frame.number is None for frame in labels.frames)
    openpose_layout = isinstance(data, dict)
    known = (OPENPOSE if openpose_layout else ALPHAPOSE) if of_alphapose else None
    _name_joints(labels, skeleton, known)
    return labels


def _by_image(data: Any, path: Path) -> list[dict[str, Any]]:
    """AlphaPose's other layouts, in which images are the keys, as a list of results."""
    entries = []
    for image, content in mapping(data, str(path)).items():
        place = f"{path}: {image}"
        found = mapping(content, place)
        for person in objects(found.get("people", found.get("bodies", [])), place):
            points = person.get("pose_keypoints_2d", person.get("joints"))
            entries.append({"image_id": image, "keypoints": points})
    if not entries:
        raise ValueError(f"{path}: no people in this file")
    return entries


def _add(
    labels: LabelFile, rows: Sequence[tuple[LabelledFrame, LabelledPerson, Any]], path: Path
) -> None:
    """Put people into their frames, with tracks unless one has two people in a frame."""
    keys = [(id(frame), track) for frame, _, track in rows if track is not None]
    tracked = len(set(keys)) == len(keys)
    if not tracked:
        warnings.warn(
            f"{path}: ids of people occur twice in a frame, so they are no tracks and are left out",
            stacklevel=6,
        )
    for frame, person, track in rows:
        person.track = str(track) if tracked and track is not None else None
        frame.people.append(person)


def _count(labels: LabelFile) -> int:
    """The number of joints.

    Raises:
        ValueError: there is nobody, or people have different numbers.
    """
    counts = sorted({len(person.points) for frame in labels.frames for person in frame.people})
    if len(counts) != 1:
        what = f"people with {' and '.join(map(str, counts))} joints" if counts else "nobody"
        raise ValueError(f"{labels.source}: expected people with the same joints, got {what}")
    return counts[0]


def _score(entry: Mapping[str, Any], key: str, place: str) -> float:
    value = entry.get(key)
    if value is None:
        return np.nan
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    return number(value, f"{place}: {key}")


def _box(values: Any, place: str) -> tuple[float, float, float, float] | None:
    if values is None:
        return None
    x, y, width, height = (number(v, f"{place}: box") for v in listing(values, f"{place}: box", 4))
    return x, y, width, height


def _track(value: Any) -> int | None:
    """An id, which may be a number with a point or lie in lists."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if known and float(value).is_integer() and value >= 0 else None


def read_mmpose(path: Path, skeleton: Skeleton | None) -> LabelFile:
    """Predictions of MMPose for a video: of its demos, or of its inferencer.

    The demos write a dictionary, name the joints and count frames from 1; the inferencer writes a
    list, names none and counts from 0.

    Raises:
        ValueError: names the frame.
    """
    data = read_json(path)
    content: Mapping[str, Any] = data if isinstance(data, dict) else {"instance_info": data}
    listed = objects(content.get("instance_info"), f"{path}: instance_info")
    meta = mapping(content.get("meta_info") or {}, f"{path}: meta_info")
    if any("frame_id" not in frame for frame in listed):
        raise ValueError(
            f"{path}: entries have no 'frame_id': these are MMPose's predictions for images, which "
            "do not name them; run it on the video"
        )
    numbers = whole_column([f["frame_id"] for f in listed], lambda row: f"{path}: frame_id {row}")
    first = 1 if isinstance(data, dict) and min(numbers, default=0) > 0 else 0
    labels = LabelFile(str(path), (), str(meta.get("dataset_name") or ""))
    video = path.stem.removeprefix("results_")
    rows: list[tuple[LabelledFrame, LabelledPerson, Any]] = []
    for entry, counted in zip(listed, numbers, strict=True):
        place = f"{path}: frame_id {counted}"
        frame = labels.frame(video, counted - first)
        for found in objects(entry.get("instances") or [], f"{place}: instances"):
            try:
                places = np.array(found["keypoints"], np.float64)
                scores = np.array(found["keypoint_scores"], np.float64)
                points = np.column_stack([places.reshape(-1, places.shape[-1])[:, :2], scores])
            except (KeyError, TypeError, ValueError, IndexError):
                raise ValueError(
                    f"{place}: expected 'keypoints' (x, y) and 'keypoint_scores'"
                ) from None
            if places.ndim != 2 or places.shape[1] != 2 or not np.isfinite(points).all():
                raise ValueError(f"{place}: expected keypoints as pairs of finite x, y")
            person = scored_person(points)
            person.score = _score(found, "bbox_score", place)
            box = found.get("bbox")
            box = box[0] if isinstance(box, list) and len(box) == 1 else box
            if box is not None:  # two corners
                left, top, right, bottom = _box(box, place) or (0.0,) * 4
                person.box = left, top, right - left, bottom - top
            rows.append((frame, person, _track(found.get("track_id"))))
    _add(labels, rows, path)
    count = _count(labels)
    names = meta.get("keypoint_id2name")
    if names:
        try:
            labels.joints = tuple(str(names[str(i)]) for i in range(count))
        except (KeyError, TypeError):
            raise ValueError(
                f"{path}: keypoint_id2name: expected names of 0 to {count - 1}, got {names}"
            ) from None
        links = meta.get("skeleton_links")
        labels.limbs = tuple(  # they are drawn, no more: those that are none are left out
            (int(link[0]), int(link[1]))
            for link in (links if isinstance(links, list) else [])
            if isinstance(link, list)
            and len(link) == 2
            and all(end in range(count) for end in link)
        )
    else:
        _name_joints(labels, skeleton, None)
    return labels


def read_openpose(path: Path, skeleton: Skeleton | None) -> LabelFile:
    """A folder of OpenPose's files, one per frame, ``VIDEO_000000000012_keypoints.json``, or one.

    The number in the name is that of the frame, from 0. People have no tracks.

    Raises:
        ValueError: names the file.
    """
    files = visible(path.glob("*_keypoints.json")) if path.is_dir() else [path]
    labels = LabelFile(str(path), ())
    for file in files:
        data = read_json(file)
        match = _OPENPOSE_FILE.fullmatch(file.name)
        numbered = re.fullmatch(r"(.*)_(\d{12})", match["stem"]) if match else None
        if numbered:
            frame = labels.frame(numbered[1], int(numbered[2]))
        else:
            frame = labels.frame((match["stem"] if match else file.stem) + ".jpg")
        people = mapping(data, str(file)).get("people") or []
        for row, found in enumerate(objects(people, f"{file}: people")):
            points = triples(found.get("pose_keypoints_2d"), f"{file}: person {row}")
            person = scored_person(points)
            if (person.points[:, 2] > 0).any():
                person.score = float(points[(points != 0).any(1), 2].mean())
                frame.people.append(person)
    places = [person.points[:, :2] for frame in labels.frames for person in frame.people]
    if places and max(float(abs(place).max()) for place in places) <= 1:
        raise ValueError(
            f"{path}: coordinates are fractions of the image, expected pixels: run OpenPose with "
            "keypoint_scale 0"
        )
    _name_joints(labels, skeleton, OPENPOSE)
    return labels


def _name_joints(labels: LabelFile, skeleton: Skeleton | None, known: _Names | None) -> None:
    """Give a file names of joints, and limbs between those that COCO connects."""
    labels.joints = joint_names(_count(labels), skeleton, labels.source, known)
    place = {joint: i for i, joint in enumerate(labels.joints)}
    limbs = [(COCO.joints[a], COCO.joints[b]) for a, b in COCO.limbs]
    labels.limbs = tuple((place[a], place[b]) for a, b in limbs if {a, b} <= set(place))
