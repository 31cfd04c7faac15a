"""Label Studio's JSON of tasks with key points.

A task is an image; coordinates are percentages of its size. Key points belong to the rectangle that
a relation or ``parentID`` ties them to; those without one make up one person. Label Studio knows no
frames and no tracks: frames are told from file names, or from ``meta.video`` of the task as
sleap-io writes it, and the name of a track stands in the note of the rectangle, "track: NAME". A
task without annotations is not labelled; one with an empty annotation holds nobody.
"""

from __future__ import annotations

import posixpath
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from posewarper.data.formats.attach import IMAGE_SUFFIXES
from posewarper.data.formats.label_file import (
    LabelFile,
    LabelledFrame,
    LabelledPerson,
    points_of,
    track_label,
)
from posewarper.data.tables import PoseDataset
from posewarper.files import read_json, write_json

_UPLOAD = re.compile(r"[0-9a-f]{8}-")  # Label Studio puts it before the names of uploaded files
_TRACK = "track: "


def read_json_tasks(path: Path) -> LabelFile:
    """Labels from an export in Label Studio's format "JSON" (not "JSON-MIN").

    Of several annotations of a task the first that was not cancelled counts (a warning says so).
    Joints are in the order of their first use, or as a file that was written here lists them.

    Raises:
        ValueError: it is no such file; names the task.
    """
    tasks = read_json(path)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise ValueError(f"{path}: expected a list of tasks, as Label Studio exports them")
    results = [_results(task, f"{path}: task {_id(task, i)}") for i, task in enumerate(tasks)]
    joints: dict[str, None] = {}
    for task in tasks:
        joints.update(dict.fromkeys((task.get("meta") or {}).get("joints") or ()))
    for found in results:
        points = _of_type(found or [], "keypointlabels")
        joints.update(dict.fromkeys(name for p in points.values() if (name := _label(p))))
    if not joints:
        raise ValueError(f"{path}: no key points (keypointlabels) in {len(tasks)} tasks")
    labels = LabelFile(str(path), tuple(joints))
    for i, (task, found) in enumerate(zip(tasks, results, strict=True)):
        place = f"{path}: task {_id(task, i)}"
        frame = _frame(labels, task, place)
        frame.labelled = found is not None
        _read_people(labels, frame, found or [], place)
    return labels


def _id(task: Mapping[str, Any], position: int) -> Any:
    return task.get("id", position)


def _results(task: Mapping[str, Any], place: str) -> list[dict[str, Any]] | None:
    annotations = task.get("annotations", task.get("completions"))
    if not isinstance(annotations, list):
        raise ValueError(f"{place}: 'annotations' is missing: expected Label Studio's format JSON")
    kept = [a for a in annotations if isinstance(a, dict) and not a.get("was_cancelled")]
    if len(kept) > 1:
        warnings.warn(f"{place} has {len(kept)} annotations; the first is read", stacklevel=4)
    return list(kept[0].get("result") or []) if kept else None


def _of_type(results: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Mapping[str, Any]]:
    return {str(r.get("id", i)): r for i, r in enumerate(results) if r.get("type") == kind}


def _label(point: Mapping[str, Any]) -> str:
    names = point.get("value", {}).get("keypointlabels") or [""]
    return str(names[0])


def _frame(labels: LabelFile, task: Mapping[str, Any], place: str) -> LabelledFrame:
    video = (task.get("meta") or {}).get("video") or {}
    name = video.get("filename")
    shape = list(video.get("shape") or [])
    count, height, width, *_ = [*shape, 0, 0, 0]
    if isinstance(name, list):
        frame = labels.new_frame(str(name[int(video["frame_idx"])]))
    elif name and Path(name).suffix.lower() not in IMAGE_SUFFIXES:
        labels.frame_counts[str(name)] = int(count)
        frame = labels.new_frame(str(name), int(video["frame_idx"]))
    else:
        frame = labels.new_frame(_image(task, name, place))
    frame.size_wh = int(width), int(height)
    return frame


def _image(task: Mapping[str, Any], name: str | None, place: str) -> str:
    data = task.get("data") or {}
    urls = [value for key, value in data.items() if key == "image" and isinstance(value, str)]
    urls += [
        value
        for value in data.values()
        if isinstance(value, str) and Path(image_path(value)).suffix.lower() in IMAGE_SUFFIXES
    ]
    urls += [str(name)] if name else []
    if not urls:
        raise ValueError(f"{place}: 'data' names no image, got {data}")
    return image_path(urls[0])


def image_path(url: str) -> str:
    """Path of an image below the image root that a URL of Label Studio stands for.

    ``/data/local-files/?d=a/7.png`` is ``a/7.png``, ``/data/upload/3/0a1b2c3d-7.png`` is ``7.png``,
    and of other addresses the path counts.
    """
    parts = urlsplit(url)
    if parts.path.rstrip("/").endswith("local-files"):
        return parse_qs(parts.query).get("d", [""])[0].lstrip("/")
    path = unquote(parts.path)
    if "/upload/" in path:
        return _UPLOAD.sub("", posixpath.basename(path), count=1)
    return path.lstrip("/") if parts.scheme else path


def _read_people(
    labels: LabelFile, frame: LabelledFrame, results: Sequence[Mapping[str, Any]], place: str
) -> None:
    points, boxes = _of_type(results, "keypointlabels"), _of_type(results, "rectanglelabels")
    owner = {key: str(p["parentID"]) for key, p in points.items() if p.get("parentID") in boxes}
    for result in results:
        if result.get("type") == "relation":
            ends = str(result.get("from_id")), str(result.get("to_id"))
            for one, other in (ends, ends[::-1]):
                if one in points and other in boxes:
                    owner[one] = other
    for shape in (*points.values(), *boxes.values()):
        width, height = shape.get("original_width"), shape.get("original_height")
        if not width or not height:
            raise ValueError(f"{place}: 'original_width' and 'original_height' are missing")
        if shape.get("image_rotation"):
            raise ValueError(f"{place}: labels of a rotated image cannot be read")
        frame.size_wh = int(width), int(height)
    unit = np.array(frame.size_wh) / 100
    groups: list[str | None] = [*boxes, None]
    for group in groups:
        places = np.full((len(labels.joints), 2), np.nan)
        for point_key, point in points.items():
            if owner.get(point_key) != group or not _label(point):
                continue
            joint = labels.joints.index(_label(point))
            if np.isfinite(places[joint]).any():
                raise ValueError(f"{place}: joint {_label(point)!r} of one person occurs twice")
            places[joint] = np.array([point["value"]["x"], point["value"]["y"]]) * unit
        if np.isfinite(places).any():
            box = None if group is None else _box(boxes[group], frame.size_wh)
            track = None if group is None else _track(boxes[group])
            frame.people.append(LabelledPerson(points_of(places), track, box=box))


def _box(result: Mapping[str, Any], size_wh: tuple[int, int]) -> Any:
    """x, y, width, height in pixels; None for a rectangle that covers the image, to group only."""
    value = result["value"]
    if value.get("rotation") or min(value["width"], value["height"]) >= 100:
        return None
    width, height = size_wh
    x, y = value["x"] * width / 100, value["y"] * height / 100
    return x, y, value["width"] * width / 100, value["height"] * height / 100


def _track(result: Mapping[str, Any]) -> str | None:
    notes = (result.get("meta") or {}).get("text") or []
    notes = [notes] if isinstance(notes, str) else notes
    return next((str(n)[len(_TRACK) :] for n in notes if str(n).startswith(_TRACK)), None)


def write_json_tasks(dataset: PoseDataset, path: Path, names: Mapping[int, str]) -> None:
    """Write tasks that Label Studio imports with their annotations.

    The labelling interface wants ``KeyPointLabels`` with the joints' names called "keypoint-label",
    ``RectangleLabels`` with the label "instance" called "individuals", and an ``Image`` called
    "image".

    Raises:
        ValueError: the size of an image is not known.
    """
    frames = dataset.frames
    unknown = np.flatnonzero(frames.size_wh.min(1, initial=1) <= 0)
    if len(unknown):
        raise ValueError(
            f"{path}: Label Studio's coordinates are percentages of the image, but the size of "
            f"{len(unknown)} of {len(frames)} frames is not known, as of "
            f"{frames.file_name[unknown[0]]}; give the videos or images"
        )
    tasks = []
    for row, in_frame in enumerate(dataset.people_by_frame()):
        video = dataset.videos[frames.video[row]]
        width, height = frames.size_wh[row].tolist()
        index = int(frames.number[row]) if video.is_file else 0
        annotations = []
        if frames.labelled[row] or len(in_frame):
            result = [
                entry
                for person in in_frame.tolist()
                for entry in _entries(dataset, person, (width, height), dict(names))
            ]
            annotations = [{"result": result, "was_cancelled": False, "ground_truth": False}]
        tasks.append(
            {
                "id": row + 1,
                "data": {"image": frames.file_name[row]},
                "meta": {
                    "video": {
                        "filename": video.path if video.is_file else frames.file_name[row],
                        "frame_idx": index,
                        "shape": [video.frame_count if video.is_file else 1, height, width, 3],
                    },
                    "joints": list(dataset.skeleton.joints),
                },
                "annotations": annotations,
            }
        )
    write_json(path, tasks)


def _entries(
    dataset: PoseDataset, person: int, size_wh: tuple[int, int], names: dict[int, str]
) -> Iterator[dict[str, Any]]:
    """The rectangle of a person, its key points, and the relations between them."""
    people = dataset.people
    percent = 100 / np.array(size_wh)
    common = {
        "original_width": size_wh[0],
        "original_height": size_wh[1],
        "image_rotation": 0,
        "to_name": "image",
    }
    x, y = (people.bbox[person, :2] * percent).tolist()
    width, height = (people.bbox[person, 2:] * percent).tolist()
    track = track_label(int(people.track_id[person]), names)
    box = f"person-{person}"
    yield {
        **common,
        "id": box,
        "type": "rectanglelabels",
        "from_name": "individuals",
        "value": {
            "x": x,
            "y": y,
            "width": width,
            "height": height,
            "rotation": 0,
            "rectanglelabels": ["instance"],
        },
        **({} if track is None else {"meta": {"text": [_TRACK + track]}}),
    }
    for joint, (x, y, visibility) in enumerate(people.keypoints[person].tolist()):
        if visibility <= 0:
            continue
        key = f"person-{person}-{joint}"
        yield {
            **common,
            "id": key,
            "type": "keypointlabels",
            "from_name": "keypoint-label",
            "value": {
                "x": float(x * percent[0]),
                "y": float(y * percent[1]),
                "width": 0.5,
                "keypointlabels": [dataset.skeleton.joints[joint]],
            },
        }
        yield {"type": "relation", "from_id": key, "to_id": box, "direction": "right"}
