"""Official annotations of PoseTrack17 and PoseTrack18: a folder with one JSON file per video."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from posewarper.data.annotations import (
    from_coco,
    plain,
    read_json,
    region_columns,
    write_json,
)
from posewarper.data.entries import (
    check_values,
    column,
    listing,
    mapping,
    number,
    objects,
    places,
    shown,
    text,
    whole,
)
from posewarper.data.frame_names import frame_of_file
from posewarper.data.tables import Floats, Frames, Ints, People, PoseDataset, Regions, Video
from posewarper.files import visible
from posewarper.skeleton import POSETRACK, POSETRACK_EVAL

Format = Literal["posetrack17", "posetrack18"]

# Slot of the model for each of the 15 joints that PoseTrack17 counts.
_SLOT_17 = [POSETRACK.index(joint) for joint in POSETRACK_EVAL.joints]
_BOX_GROWTH_17, _BOX_GROWTH_18 = 1.2, 1.3


def load_posetrack(path: str | Path, *, renamed: bool = True) -> PoseDataset:
    """Read a folder of official annotation files, or one file; each may be of either format.

    PoseTrack18: boxes as they are (without one: extent of the labelled joints times 1.3), area =
    width * height, frames count from 0.

    PoseTrack17: the box is the extent of the labelled joints, one pixel added on the right and
    below, times 1.2 about its centre, not clipped; people without joints have area 0. Labelled
    joints have visibility 2, those that are marked as not visible 1. Frames count from 1: by their
    names if all are eight digits, else by position. Files do not say how large images are
    (``video.fill_sizes`` does).

    Scores of joints and people are read from both: who has them was predicted.

    Args:
        path: folder or file.
        renamed: PoseTrack17's images are named ``%08d.jpg`` below folders without ``images/``,
            as the 2019 system wants them; if false, as in the official files.

    Raises:
        FileNotFoundError: there is no such folder, or no JSON file in it.
        ValueError: a file is of neither format, or damaged; names file and id.
    """
    path = Path(path)
    files = visible(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(
            f"{path}: no JSON files in this folder, as PoseTrack has them; nor is it a DeepLabCut "
            "project (config.yaml) or a YOLO-pose data set (data.yaml)"
        )
    parts, is_17 = [], False
    for file in files:
        data = read_json(file)
        if not isinstance(data, dict):
            raise ValueError(f"{file}: expected an object, got {shown(data)}")
        if "annolist" in data:
            parts.append(_read_17(data["annolist"], str(file), renamed))
            is_17 = True
        elif {"images", "annotations"} <= set(data):
            parts.append(_read_18(data, str(file)))
        else:
            raise ValueError(
                f"{file}: neither PoseTrack17 ('annolist') nor PoseTrack18 ('images' and "
                "'annotations')"
            )
    if is_17 or _same_ids(parts):  # files of 2017, and predictions, have no ids of a whole folder
        parts = [part.renumbered() for part in parts]
        parts = _unique_ids(parts)
    return PoseDataset.concatenate(parts, str(path))


def save_posetrack(dataset: PoseDataset, folder: str | Path, kind: Format) -> list[Path]:
    """Write one official file per video, named like the last folder of the video.

    Only listed frames are written. PoseTrack18 keeps the joints of the data set's skeleton and
    knows no difference between visibility 1 and 2; PoseTrack17 has 15 joints, no ears, no boxes.
    Predicted people have scores, as in files of predictions: PoseTrack18 a number per joint, 0 for
    one without score; PoseTrack17 a number in each joint, without joints there is no such person.

    Returns:
        The files, one per video.

    Raises:
        ValueError: two videos have the same last folder; another ``kind``; joints that
            PoseTrack17 needs are missing.
    """
    if kind not in ("posetrack17", "posetrack18"):
        raise ValueError(f"kind: expected 'posetrack17' or 'posetrack18', got {kind!r}")
    names = [posixpath.basename(video.name) for video in dataset.videos]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{dataset.source}: two videos would be written to {twice}.json")
    people_of = dataset.people_by_frame()
    paths = []
    for position, name in enumerate(names):
        rows = np.flatnonzero(dataset.frames.video == position)
        rows = rows[np.argsort(dataset.frames.number[rows], kind="stable")]
        if kind == "posetrack18":
            content = _as_18(dataset, position, rows, people_of)
        else:
            content = _as_17(dataset, rows, people_of)
        paths.append(Path(folder) / f"{name}.json")
        write_json(paths[-1], content)
    return paths


def _same_ids(parts: Sequence[PoseDataset]) -> bool:
    images = np.concatenate([part.frames.image_id for part in parts])
    people = np.concatenate([part.people.annotation_id for part in parts])
    return len(np.unique(images)) < len(images) or len(np.unique(people)) < len(people)


def _unique_ids(parts: Sequence[PoseDataset]) -> list[PoseDataset]:
    """Ids that go on from file to file."""
    shifted = []
    images = annotations = 0
    for part in parts:
        frames, people = part.frames, part.people
        shifted.append(
            PoseDataset(
                part.skeleton,
                part.videos,
                Frames(**{**vars(frames), "image_id": frames.image_id + images}),
                People(**{**vars(people), "annotation_id": people.annotation_id + annotations}),
                part.source,
            )
        )
        images, annotations = images + len(frames), annotations + len(people)
    return shifted


def _read_18(data: dict[str, Any], source: str) -> PoseDataset:
    annotations = []
    listed = objects(data["annotations"], f"{source}: 'annotations'")
    for row, annotation in enumerate(listed):
        if not annotation.get("bbox"):
            place = places("annotation", listed, "keypoints", source)(row)
            numbers = listing(annotation.get("keypoints") or [], place)
            points = column(numbers, lambda _, place=place: place)  # type: ignore[misc]
            joints = points[: len(points) // 3 * 3].reshape(-1, 3)
            box = _extent(joints[joints[:, 2] > 0, :2], 0.0, _BOX_GROWTH_18)
            annotation = {**annotation, "bbox": box.tolist()}
        annotations.append(annotation)
    return from_coco({**data, "annotations": annotations}, source, first_frame=0)


def _extent(points: Floats, pixel: float, growth: float) -> Floats:
    """Box x, y, w, h around points [n, 2], grown about its centre; zeros without points."""
    if not len(points):
        return np.zeros(4)
    low, high = points.min(0), points.max(0) + pixel
    size = (high - low) * growth
    return np.concatenate([(low + high) / 2 - size / 2, size])


def _scalar(value: Any, default: Any = None) -> Any:
    """PoseTrack17 wraps every number in a list, which is empty where there is none."""
    if isinstance(value, list):
        return _scalar(value[0], default) if value else default
    return default if value is None else value


def _read_17(data: Any, source: str, renamed: bool) -> PoseDataset:
    annolist = objects(data, f"{source}: 'annolist'")
    names = []
    for position, element in enumerate(annolist):
        image = mapping(_scalar(element.get("image"), {}), f"{source}: element {position}: 'image'")
        name = _scalar(image.get("name"), "")
        if not name:
            raise ValueError(f"{source}: element {position} names no image")
        names.append(text(name, f"{source}: element {position}: name of the image"))
    if not names:
        raise ValueError(f"{source}: element 0 names no image")
    folders = {posixpath.dirname(name) for name in names}
    if len(folders) > 1:
        raise ValueError(f"{source}: expected one video, got frames in {sorted(folders)}")
    folder = folders.pop()
    digits = all(re.fullmatch(r"\d{8}\.jpg", posixpath.basename(name)) for name in names)
    numbers = [frame_of_file(n)[2] if digits else i for i, n in enumerate(names, start=1)]
    path = folder.removeprefix("images/") if renamed else folder
    count = max(len(names), *numbers)
    video = Video(path or ".", count, 1, "%08d.jpg", path or ".")
    rows, keypoints, boxes, heads, tracks, scores, totals = [], [], [], [], [], [], []
    for row, element in enumerate(annolist):
        place = f"{source}: image {names[row]}"
        for rect in objects(element.get("annorect") or [], f"{place}: 'annorect'"):
            joints, of_joints = _joints_17(rect, place)
            rows.append(row)
            keypoints.append(joints)
            boxes.append(_extent(joints[joints[:, 2] > 0, :2], 1.0, _BOX_GROWTH_17))
            heads.append([_number_17(rect, key, place, np.nan) for key in ("x1", "y1", "x2", "y2")])
            track = _scalar(rect.get("track_id"), -1)
            tracks.append(max(whole(track, f"{place}: 'track_id'", -(2**62), 2**62), -1))
            scores.append(of_joints)
            totals.append(_number_17(rect, "score", place, np.nan))
    frames = Frames.make(
        [video],
        np.zeros(len(names), np.int64),
        numbers,
        labelled=[
            bool(_scalar(element.get("is_labeled"), bool(element.get("annorect"))))
            for element in annolist
        ],
        frame_id=[
            whole(_scalar(element.get("imgnum"), own), f"{source}: image {name}: 'imgnum'")
            for element, own, name in zip(annolist, numbers, names, strict=True)
        ],
        file_name=None if renamed else names,
        original_file_name=names,
        ignore=Regions.make(
            [
                _regions_17(element, f"{source}: image {name}: 'ignore_regions'")
                for element, name in zip(annolist, names, strict=True)
            ]
        ),
    )
    people = People.make(
        rows,
        np.array(keypoints, np.float64).reshape(-1, len(POSETRACK), 3),
        np.array(boxes, np.float64),
        head_box=np.array(heads, np.float64),
        track_id=tracks,
        joint_scores=np.array(scores, np.float64).reshape(-1, len(POSETRACK)),
        score=totals,
    )
    dataset = PoseDataset(POSETRACK, (video,), frames, people, source)
    check_values(dataset)
    return dataset


def _number_17(entry: Mapping[str, Any], key: str, place: str, default: Any = None) -> float:
    """A number in a list of its own; ``default`` where there is none."""
    value = _scalar(entry.get(key), default)
    if isinstance(value, float) and np.isnan(value) and default is not None:
        return float("nan")
    return number(value, f"{place}: {key!r}")


def _joints_17(rect: Mapping[str, Any], place: str) -> tuple[Floats, Floats]:
    """Keypoints [17, 3] and their scores [17], NaN where there is none."""
    joints, scores = np.zeros((len(POSETRACK), 3)), np.full(len(POSETRACK), np.nan)
    annotated = mapping(_scalar(rect.get("annopoints"), {}), f"{place}: 'annopoints'")
    for point in objects(annotated.get("point") or [], f"{place}: 'point'"):
        joint = whole(_scalar(point.get("id"), -1), f"{place}: 'id' of a point", -(2**31), 2**31)
        if not 0 <= joint < len(_SLOT_17):
            raise ValueError(f"{place}: joint id {joint}, expected 0..{len(_SLOT_17) - 1}")
        visible = 2 if _number_17(point, "is_visible", place, 1) else 1
        x, y = _number_17(point, "x", place), _number_17(point, "y", place)
        joints[_SLOT_17[joint]] = x, y, visible
        scores[_SLOT_17[joint]] = _number_17(point, "score", place, np.nan)
    return joints, scores


def _regions_17(element: Mapping[str, Any], place: str) -> list[Floats]:
    regions = []
    for region in objects(element.get("ignore_regions") or [], place):
        points = objects(region.get("point") or [], f"{place}: 'point'")
        xy = [[value for p in points for value in _listed(p.get(axis))] for axis in ("x", "y")]
        both = [column(values, lambda _: place) for values in xy]
        if len(both[0]) != len(both[1]):
            raise ValueError(f"{place}: x and y differ in number")
        regions.append(np.array(both, np.float64).T)
    return regions


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _as_18(
    dataset: PoseDataset, position: int, rows: Ints, people_of: Sequence[Ints]
) -> dict[str, Any]:
    frames, people, video = dataset.frames, dataset.people, dataset.videos[position]
    predicted = people.predicted
    digits = re.match(r"\d+", posixpath.basename(video.name))
    images, annotations = [], []
    for row in rows.tolist():
        image_id = int(frames.image_id[row])
        images.append(
            {
                "has_no_densepose": True,
                "is_labeled": bool(frames.labelled[row]),
                "file_name": frames.file_name[row],
                "nframes": video.frame_count,
                "frame_id": int(frames.frame_id[row]),
                "vid_id": digits.group() if digits else f"{position:06d}",
                **region_columns(frames.ignore, row),
                "id": image_id,
                "width": int(frames.size_wh[row, 0]),
                "height": int(frames.size_wh[row, 1]),
            }
        )
        for person in people_of[row].tolist():
            keypoints = people.keypoints[person].copy()
            keypoints[:, 2] = keypoints[:, 2] > 0
            annotation = {
                "keypoints": plain(keypoints.reshape(-1)),
                "image_id": image_id,
                "bbox": plain(people.bbox[person]),
                "scores": plain(np.nan_to_num(people.joint_scores[person]))
                if predicted[person]
                else [],
                "category_id": 1,
                "id": int(people.annotation_id[person]),
                "iscrowd": bool(people.crowd[person]),
                "num_keypoints": int(keypoints[:, 2].sum()),
            }
            if people.track_id[person] >= 0:  # -1 would be one track of many people to evaluators
                annotation["track_id"] = int(people.track_id[person])
            head = people.head_box[person]
            if np.isfinite(head).all():
                annotation["bbox_head"] = plain(np.concatenate([head[:2], head[2:] - head[:2]]))
            if np.isfinite(people.score[person]):
                annotation["score"] = float(people.score[person])
            annotations.append(annotation)
    category = {
        "supercategory": "person",
        "id": 1,
        "name": "person",
        "keypoints": list(dataset.skeleton.joints),
        "skeleton": [[a + 1, b + 1] for a, b in dataset.skeleton.limbs],
    }
    return {"categories": [category], "images": images, "annotations": annotations}


def _as_17(dataset: PoseDataset, rows: Ints, people_of: Sequence[Ints]) -> dict[str, Any]:
    frames, people = dataset.frames, dataset.people
    slots = [dataset.skeleton.index(joint) for joint in POSETRACK_EVAL.joints]
    # PoseTrack18 has no mark for hidden joints: all of its labelled ones count as visible.
    seen = 2 if (people.keypoints[:, :, 2] > 1).any() else 1
    predicted = people.predicted
    elements = []
    for row in rows.tolist():
        rects = []
        for person in people_of[row].tolist():
            joints, scores = people.keypoints[person][slots], people.joint_scores[person][slots]
            points = [
                {
                    "id": [joint],
                    "x": plain(joints[joint, :1]),
                    "y": plain(joints[joint, 1:2]),
                    "is_visible": [int(joints[joint, 2] >= seen)],
                    **({"score": plain(scores[[joint]])} if np.isfinite(scores[joint]) else {}),
                }
                for joint in np.flatnonzero(joints[:, 2] > 0).tolist()
            ]
            if predicted[person] and not points:
                continue  # nothing would tell it from a human label
            rect: dict[str, Any] = {"annopoints": [{"point": points}]}
            if people.track_id[person] >= 0:
                rect["track_id"] = [int(people.track_id[person])]
            if np.isfinite(people.score[person]):
                rect["score"] = [float(people.score[person])]
            head = people.head_box[person]
            if np.isfinite(head).all():
                corners = zip(("x1", "y1", "x2", "y2"), plain(head), strict=True)
                rect.update({key: [value] for key, value in corners})
            rects.append(rect)
        elements.append(
            {
                "image": [{"name": frames.original_file_name[row] or frames.file_name[row]}],
                "imgnum": [int(frames.frame_id[row])],
                "annorect": rects,
                "ignore_regions": [
                    {"point": [{"x": [x], "y": [y]} for x, y in plain(polygon)]}
                    for polygon in frames.ignore.of(row)
                ],
                "is_labeled": [int(frames.labelled[row])],
            }
        )
    return {"annolist": elements}
