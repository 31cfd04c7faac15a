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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from posewarper.data.entries import (
    LARGEST_SIDE,
    MOST_FRAMES,
    listing,
    mapping,
    number,
    objects,
    shown,
    text,
    whole,
)
from posewarper.data.formats.label_file import (
    LabelFile,
    LabelledFrame,
    LabelledPerson,
    points_of,
    track_label,
)
from posewarper.data.images import IMAGE_SUFFIXES
from posewarper.data.tables import PoseDataset
from posewarper.files import read_json, write_json

_UPLOAD = re.compile(r"[0-9a-f]{8}-")  # Label Studio puts it before the names of uploaded files
_TRACK = "track: "


def read_json_tasks(path: Path) -> LabelFile:
    """Labels from an export in Label Studio's format "JSON" (not "JSON-MIN").

    Of several annotations of a task the first that was not cancelled counts (a warning says so);
    where there is none, the first prediction, whose people have its score.
    Joints are in the order of their first use, or as a file that was written here lists them.

    Raises:
        ValueError: it is no such file; names the task.
    """
    tasks = read_json(path)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise ValueError(f"{path}: expected a list of tasks, as Label Studio exports them")
    names = [f"{path}: task {shown(task.get('id', i))}" for i, task in enumerate(tasks)]
    found = [_results(task, place) for task, place in zip(tasks, names, strict=True)]
    joints: dict[str, None] = {}
    for task, place in zip(tasks, names, strict=True):
        listed = _object(task, "meta", place).get("joints") or []
        where = f"{place}: 'joints'"
        joints.update(dict.fromkeys(text(joint, where) for joint in listing(listed, where)))
    for results, place in zip(found, names, strict=True):
        points = _of_type(results.entries, "keypointlabels")
        joints.update(dict.fromkeys(n for p in points.values() if (n := _label(p, place))))
    if not joints:
        raise ValueError(f"{path}: no key points (keypointlabels) in {len(tasks)} tasks")
    labels = LabelFile(str(path), tuple(joints))
    paths = _image_paths(tasks, names)
    ordered = []
    for task, results, image, place in zip(tasks, found, paths, names, strict=True):
        frame = _frame(labels, task, image, place)
        frame.labelled = results.labelled
        if _read_people(labels, frame, results, place):
            ordered.append(place)
    if ordered:
        warnings.warn(
            f"{ordered[0]} and {len(ordered) - 1} more have key points of several people without "
            "rectangles, told apart by their order (a joint that comes again begins the next "
            "person): draw a rectangle around each and tie its key points to it to be sure",
            stacklevel=4,
        )
    without = sum(results.labelled and results.score is not None for results in found)
    if without:
        warnings.warn(
            f"{path}: {without} tasks have predictions but no annotations: their people are read "
            "as predicted, not as labelled by hand",
            stacklevel=4,
        )
    return labels


@dataclass(frozen=True)
class _Results:
    """What was drawn in a task.

    Attributes:
        labelled: whether there is an annotation or a prediction.
        entries: shapes and relations.
        score: of the prediction, 1 if it has none; None for annotations.
    """

    labelled: bool
    entries: list[Mapping[str, Any]]
    score: float | None = None


def _object(entry: Mapping[str, Any], key: str, place: str) -> Mapping[str, Any]:
    """A part of an entry; empty where it is missing."""
    return mapping(entry.get(key) or {}, f"{place}: {key!r}")


def _results(task: Mapping[str, Any], place: str) -> _Results:
    annotations = task.get("annotations", task.get("completions"))
    if not isinstance(annotations, list):
        raise ValueError(f"{place}: 'annotations' is missing: expected Label Studio's format JSON")
    kept = [a for a in annotations if isinstance(a, dict) and not a.get("was_cancelled")]
    if len(kept) > 1:
        warnings.warn(f"{place} has {len(kept)} annotations; the first is read", stacklevel=4)
    score = None
    if not kept:
        predictions = task.get("predictions") or []
        kept = [p for p in listing(predictions, f"{place}: 'predictions'") if isinstance(p, dict)]
        if not kept or not any(p.get("result") for p in kept):
            return _Results(False, [])
        given = kept[0].get("score")
        score = 1.0 if given is None else number(given, f"{place}: 'score'")
    return _Results(True, objects(kept[0].get("result") or [], f"{place}: 'result'"), score)


def _of_type(results: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Mapping[str, Any]]:
    return {str(r.get("id", i)): r for i, r in enumerate(results) if r.get("type") == kind}


def _label(point: Mapping[str, Any], place: str) -> str:
    names = _object(point, "value", place).get("keypointlabels") or [""]
    return str(listing(names, f"{place}: 'keypointlabels'")[0])


def _frame(
    labels: LabelFile, task: Mapping[str, Any], image: str | None, place: str
) -> LabelledFrame:
    video = _object(_object(task, "meta", place), "video", place)
    name = video.get("filename")
    shape = list(listing(video.get("shape") or [], f"{place}: 'shape'"))
    sides = [
        whole(value or 0, f"{place}: 'shape'", 0, high)
        for value, high in zip(
            [*shape, 0, 0, 0][:3], (MOST_FRAMES, LARGEST_SIDE, LARGEST_SIDE), strict=True
        )
    ]
    if image is not None:
        frame = labels.new_frame(image)
    else:
        index = whole(video.get("frame_idx"), f"{place}: 'frame_idx'", 0, MOST_FRAMES)
        if isinstance(name, list):
            if index >= len(name):
                raise ValueError(f"{place}: 'frame_idx' {index}, but {len(name)} images")
            frame = labels.new_frame(text(name[index], f"{place}: 'filename'"))
        else:
            labels.frame_counts[str(name)] = sides[0]
            frame = labels.new_frame(str(name), index)
    frame.size_wh = sides[2], sides[1]
    return frame


def _image_paths(tasks: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str | None]:
    """Path of the image of each task; None for a frame of a video.

    What Label Studio puts before the name of an uploaded file goes, unless names would then be
    the same: images of several videos, which only that tells apart.
    """
    urls: list[str | None] = []
    for task, place in zip(tasks, names, strict=True):
        name = _object(_object(task, "meta", place), "video", place).get("filename")
        of_video = isinstance(name, list) or (
            name and Path(str(name)).suffix.lower() not in IMAGE_SUFFIXES
        )
        urls.append(None if of_video else _image(task, name, place))
    paths = [None if url is None else image_path(url) for url in urls]
    counts = Counter(paths)
    different = {url for url in urls if url is not None and counts[image_path(url)] > 1}
    twice = {image_path(url) for url in different}
    if len(twice) == len(different):
        return paths  # the same images twice, or none
    warnings.warn(
        f"{names[0].rpartition(': task')[0]}: {len(different)} uploaded images share "
        f"{len(twice)} names, such as {min(twice)!r}: they keep what Label Studio put before these",
        stacklevel=5,
    )
    return [
        path
        if url is None or path not in twice
        else posixpath.basename(unquote(urlsplit(url).path))
        for url, path in zip(urls, paths, strict=True)
    ]


def _image(task: Mapping[str, Any], name: Any, place: str) -> str:
    data = _object(task, "data", place)
    urls = [value for key, value in data.items() if key == "image" and isinstance(value, str)]
    urls += [
        value
        for value in data.values()
        if isinstance(value, str) and Path(image_path(value)).suffix.lower() in IMAGE_SUFFIXES
    ]
    urls += [str(name)] if name else []
    urls = [url for url in urls if image_path(url)]
    if not urls:
        raise ValueError(f"{place}: 'data' names no image, got {shown(dict(data))}")
    return urls[0]


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


def _read_people(labels: LabelFile, frame: LabelledFrame, results: _Results, place: str) -> bool:
    """Add the people of a task; returns whether only the order of key points tells them apart."""
    entries = results.entries
    points, boxes = _of_type(entries, "keypointlabels"), _of_type(entries, "rectanglelabels")
    parents = {key: str(point.get("parentID") or "") for key, point in points.items()}
    owner = {key: parent for key, parent in parents.items() if parent in boxes}
    for entry in entries:
        if entry.get("type") == "relation":
            ends = str(entry.get("from_id")), str(entry.get("to_id"))
            for one, other in (ends, ends[::-1]):
                if one in points and other in boxes:
                    owner[one] = other
    for shape in (*points.values(), *boxes.values()):
        if shape.get("image_rotation"):
            raise ValueError(f"{place}: labels of a rotated image cannot be read")
        if not shape.get("original_width") or not shape.get("original_height"):
            raise ValueError(f"{place}: 'original_width' and 'original_height' are missing")
        width, height = (
            whole(shape[key], f"{place}: {key!r}", 1, LARGEST_SIDE)
            for key in ("original_width", "original_height")
        )
        frame.size_wh = width, height
    unit = np.array(frame.size_wh) / 100
    groups: list[tuple[str | None, list[str]]] = [
        (box, [key for key in points if owner.get(key) == box]) for box in boxes
    ]
    ordered = _without_box(points, owner, place)
    groups += [(None, group) for group in ordered]
    for box, keys in groups:
        places = np.full((len(labels.joints), 2), np.nan)
        scores = np.full(len(labels.joints), np.nan)
        for key in keys:
            name = _label(points[key], place)
            if not name:
                continue
            joint = labels.joints.index(name)
            if np.isfinite(places[joint]).any():
                raise ValueError(f"{place}: joint {name!r} of one person occurs twice")
            value = _object(points[key], "value", place)
            where = f"{place}: joint {name!r}"
            places[joint] = [number(value.get(axis), f"{where}: {axis!r}") for axis in "xy"] * unit
            own = points[key].get("score")
            scores[joint] = results.score if own is None else number(own, f"{where}: 'score'")
        if np.isfinite(places).any():
            around = None if box is None else _box(boxes[box], frame.size_wh, place)
            track = None if box is None else _track(boxes[box], place)
            frame.people.append(
                LabelledPerson(
                    points_of(places),
                    track,
                    None if results.score is None else scores,
                    np.nan if results.score is None else results.score,
                    around,
                )
            )
    return len(ordered) > 1


def _without_box(
    points: Mapping[str, Mapping[str, Any]], owner: Mapping[str, str], place: str
) -> list[list[str]]:
    """Key points that belong to no rectangle, by person: one, or several where joints come again.

    They are in the order in which they were drawn, animal by animal: a joint that came before
    begins the next. That is a guess where joints are missing, so it needs at least two of each.
    """
    people: list[list[str]] = [[]]
    seen: set[str] = set()
    for key in points:
        if key in owner or not (name := _label(points[key], place)):
            continue
        if name in seen:
            people.append([])
            seen.clear()
        people[-1].append(key)
        seen.add(name)
    if len(people) > 1 and min(map(len, people)) < 2:
        return [[key for person in people for key in person]]  # refused as one person
    return people


def _box(result: Mapping[str, Any], size_wh: tuple[int, int], place: str) -> Any:
    """x, y, width, height in pixels; None for a rectangle that covers the image, to group only."""
    value = _object(result, "value", place)
    x, y, across, down = (
        number(value.get(key), f"{place}: rectangle: {key!r}")
        for key in ("x", "y", "width", "height")
    )
    if value.get("rotation") or min(across, down) >= 100:
        return None
    width, height = size_wh
    return x * width / 100, y * height / 100, across * width / 100, down * height / 100


def _track(result: Mapping[str, Any], place: str) -> str | None:
    notes = _object(result, "meta", place).get("text") or []
    notes = notes if isinstance(notes, list) else [notes]
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
