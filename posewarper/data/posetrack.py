"""Official annotations of PoseTrack17 and PoseTrack18: a folder with one JSON file per video."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from posewarper.data.annotations import (
    frame_of_file,
    from_coco,
    load_coco,
    plain,
    read_json,
    region_columns,
    write_json,
)
from posewarper.data.formats import load_labels
from posewarper.data.tables import Floats, Frames, Ints, People, PoseDataset, Regions, Video
from posewarper.skeleton import POSETRACK, POSETRACK_EVAL, Skeleton

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
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"{path}: no JSON files in this folder")
    parts, is_17 = [], False
    for file in files:
        data = read_json(file)
        if isinstance(data, dict) and "annolist" in data:
            parts.append(_read_17(data["annolist"], str(file), renamed))
            is_17 = True
        elif isinstance(data, dict) and {"images", "annotations"} <= set(data):
            parts.append(_read_18(data, str(file)))
        else:
            raise ValueError(
                f"{file}: neither PoseTrack17 ('annolist') nor PoseTrack18 ('images' and "
                "'annotations')"
            )
    if is_17:  # its files have no ids
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
    for annotation in data["annotations"]:
        if not annotation.get("bbox"):
            joints = np.array(annotation.get("keypoints") or [], np.float64).reshape(-1, 3)
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


def _read_17(annolist: Sequence[Mapping[str, Any]], source: str, renamed: bool) -> PoseDataset:
    names = [
        str(_scalar(_scalar(element.get("image"), {}).get("name"), "")) for element in annolist
    ]
    if not names or not all(names):
        raise ValueError(f"{source}: element {len(names) and names.index('')} names no image")
    folders = {posixpath.dirname(name) for name in names}
    if len(folders) > 1:
        raise ValueError(f"{source}: expected one video, got frames in {sorted(folders)}")
    folder = folders.pop()
    digits = all(re.fullmatch(r"\d{8}\.jpg", posixpath.basename(name)) for name in names)
    numbers = [frame_of_file(n)[2] if digits else i for i, n in enumerate(names, start=1)]
    path = folder.removeprefix("images/") if renamed else folder
    count = max(len(names), *numbers)
    video = Video(path, count, 1, "%08d.jpg", path)
    rows, keypoints, boxes, heads, tracks, scores, totals = [], [], [], [], [], [], []
    for row, element in enumerate(annolist):
        for rect in element.get("annorect") or []:
            joints, of_joints = _joints_17(rect, f"{source}: image {names[row]}")
            rows.append(row)
            keypoints.append(joints)
            boxes.append(_extent(joints[joints[:, 2] > 0, :2], 1.0, _BOX_GROWTH_17))
            heads.append([float(_scalar(rect.get(k), np.nan)) for k in ("x1", "y1", "x2", "y2")])
            tracks.append(int(_scalar(rect.get("track_id"), -1)))
            scores.append(of_joints)
            totals.append(float(_scalar(rect.get("score"), np.nan)))
    frames = Frames.make(
        [video],
        np.zeros(len(names), np.int64),
        numbers,
        labelled=[
            bool(_scalar(element.get("is_labeled"), bool(element.get("annorect"))))
            for element in annolist
        ],
        frame_id=[
            int(_scalar(element.get("imgnum"), number))
            for element, number in zip(annolist, numbers, strict=True)
        ],
        file_name=None if renamed else names,
        original_file_name=names,
        ignore=Regions.make([_regions_17(element) for element in annolist]),
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
    return PoseDataset(POSETRACK, (video,), frames, people, source)


def _joints_17(rect: Mapping[str, Any], place: str) -> tuple[Floats, Floats]:
    """Keypoints [17, 3] and their scores [17], NaN where there is none."""
    joints, scores = np.zeros((len(POSETRACK), 3)), np.full(len(POSETRACK), np.nan)
    points = _scalar(rect.get("annopoints"), {}).get("point") or []
    for point in points:
        joint = int(_scalar(point.get("id"), -1))
        if not 0 <= joint < len(_SLOT_17):
            raise ValueError(f"{place}: joint id {joint}, expected 0..{len(_SLOT_17) - 1}")
        visible = 2 if int(_scalar(point.get("is_visible"), 1)) else 1
        joints[_SLOT_17[joint]] = _scalar(point["x"]), _scalar(point["y"]), visible
        scores[_SLOT_17[joint]] = _scalar(point.get("score"), np.nan)
    return joints, scores


def _regions_17(element: Mapping[str, Any]) -> list[Floats]:
    regions = []
    for region in element.get("ignore_regions") or []:
        points = region.get("point") or []
        xs = [x for point in points for x in np.atleast_1d(point["x"])]
        ys = [y for point in points for y in np.atleast_1d(point["y"])]
        regions.append(np.array((xs, ys), np.float64).T)
    return regions


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
                "track_id": int(people.track_id[person]),
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


def load_annotations(path: str | Path, skeleton: Skeleton | None = None) -> PoseDataset:
    """A folder of official PoseTrack17 or PoseTrack18 files, or one file of labels.

    COCO-style files and those of other tools; see ``formats.load_labels``.

    Raises:
        FileNotFoundError: there is nothing there.
        ValueError: it cannot be read as that; names file and id.
    """
    path = Path(path)
    if path.is_dir():
        return load_posetrack(path)
    if path.suffix == ".json":
        return load_coco(path, skeleton)
    return load_labels(path, skeleton=skeleton)
