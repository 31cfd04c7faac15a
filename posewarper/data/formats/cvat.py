"""CVAT's XML 1.1, of images and of videos, and what its COCO files have in addition.

Skeletons are read, and single points where a file has no skeletons: their labels are the joints,
and those with one ``group_id`` are one person. Points that are ``outside`` are not labelled,
``occluded`` ones have visibility 1. In a file of a video only key frames count: CVAT computes all
other positions from them. Where nobody is drawn the file does not say whether somebody looked.
"""

from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posewarper.data.entries import LARGEST_SIDE, MOST_FRAMES, number, text, whole
from posewarper.data.formats.label_file import LabelFile, LabelledPerson, track_label
from posewarper.data.images import IMAGE_SUFFIXES
from posewarper.data.tables import PoseDataset
from posewarper.files import whole_file

Element = ElementTree.Element
_LABEL = "animal"  # name of the skeleton in files that are written here, if it has none
_TRACK = "track_id"
_VIDEO_FRAME = re.compile(r"(?:.*/)?frame_(\d+)")
_TITLE = "posewarper"


def read_xml(path: Path) -> LabelFile:
    """Labels from "CVAT for images 1.1" or "CVAT for video 1.1".

    Frame numbers are those of the original video, as CVAT writes them in exports of a task. Images
    of a video task (``frame_000012``) are frames of the video that the task is named after.

    Raises:
        ValueError: it is no such file, has skeletons with different joints, or no points.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # also encodings
        raise ValueError(f"{path}: no valid XML: {error}") from None
    if root.tag != "annotations":
        raise ValueError(f"{path}: expected CVAT's <annotations>, got <{root.tag}>")
    shapes = "skeleton" if root.find(".//skeleton") is not None else "points"
    kinds = _kinds(root, shapes, path)
    joints = kinds[0]
    name = next((e.get("label") or "" for e in root.iter("skeleton") if e.get("label")), "")
    if not name and shapes == "skeleton":
        name = next((e.get("label") or "" for e in root.iter("track")), "")
    labels = LabelFile(str(path), joints, name, _limbs(root, joints))
    source = root.findtext(".//meta//source") or ""
    video = source if Path(source).suffix.lower() not in ("", *IMAGE_SUFFIXES) else ""
    stop = root.findtext(".//meta//stop_frame")
    if video and stop and stop.strip():
        place = f"{path}: <stop_frame>"
        labels.frame_counts[video] = whole(stop.strip(), place, 0, MOST_FRAMES) + 1
    if root.find("track") is not None:
        if root.findtext(".//meta//mode") == "annotation":
            warnings.warn(
                f"{path}: a task of images, exported as a video: its frames are the images in "
                "their order in the task, from 0, not frames of a video; export it as "
                '"CVAT for images" to keep the names of the images',
                stacklevel=4,
            )
        tasks = {track.get("task_id") for track in root.findall("track")}
        if len(tasks) > 1:
            raise ValueError(
                f"{path}: tracks of {len(tasks)} tasks, whose frames the file does not tell apart: "
                "export the tasks one by one"
            )
        _read_tracks(labels, root, shapes, video or Path(path).stem)
    _read_images(labels, root, shapes, video)
    return labels


def _kinds(root: Element, shapes: str, path: Path) -> list[tuple[str, ...]]:
    """The joints, in the order of the task's labels, or of first use."""
    if shapes == "points":
        used = [e.get("label") or "" for e in root.iter("points")]
        used += [t.get("label") or "" for t in root.iter("track") if t.find("points") is not None]
        joints = tuple(dict.fromkeys(name for name in used if name))
        if not joints:
            raise ValueError(f"{path}: neither skeletons nor points in this file")
        return [joints]
    found: dict[str, dict[str, None]] = {}
    for owner in [*root.iter("image"), *root.iter("track")]:
        for skeleton in owner.findall("skeleton"):
            name = skeleton.get("label") or owner.get("label") or ""
            points = [p.get("label") or "" for p in skeleton.findall("points")]
            found.setdefault(name, {}).update(dict.fromkeys(points))
    kinds = {}
    for name, used_names in found.items():
        declared = [
            label.findtext("name") or ""
            for label in root.iter("label")
            if label.findtext("parent") == name
        ]
        unknown = [joint for joint in used_names if declared and joint not in declared]
        if unknown:
            raise ValueError(
                f"{path}: skeleton {name!r} has points {unknown}, the task's labels are {declared}"
            )
        kinds[name] = tuple(declared or used_names)
    if len(set(kinds.values())) != 1:
        raise ValueError(f"{path}: expected skeletons with the same joints, got {kinds}")
    return list(kinds.values())


def _limbs(root: Element, joints: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The edges of the drawing that the task's labels have, where it names its nodes."""
    for label in root.iter("label"):
        drawing = label.findtext("svg")
        if not drawing:
            continue
        tags = [
            dict(re.findall(r"""([\w-]+)=["']([^"']*)["']""", tag))
            for tag in re.findall(r"<[^/][^>]*>", drawing)
        ]
        node = {t["data-node-id"]: t.get("data-label-name") for t in tags if "data-node-id" in t}
        edges = [
            (node.get(t["data-node-from"]), node.get(t["data-node-to"]))
            for t in tags
            if {"data-node-from", "data-node-to"} <= set(t)
        ]
        place = {joint: i for i, joint in enumerate(joints)}
        if edges and all(a in place and b in place for a, b in edges):
            return tuple((place[str(a)], place[str(b)]) for a, b in edges)
    return ()


def _read_images(labels: LabelFile, root: Element, shapes: str, video: str) -> None:
    for image in root.findall("image"):
        place = f"{labels.source}: image {image.get('id', '')}"
        name = text(image.get("name"), f"{place}: 'name'")
        match = _VIDEO_FRAME.fullmatch(str(Path(name).with_suffix("")))
        if video and match:
            frame = labels.new_frame(video, whole(match[1], f"{place}: frame", 0, MOST_FRAMES))
        else:
            frame = labels.new_frame(name)
        frame.size_wh = _size(image.get("width"), image.get("height"), place)
        if shapes == "skeleton":
            for skeleton in image.findall("skeleton"):
                track = next(
                    (a.text for a in skeleton.findall("attribute") if a.get("name") == _TRACK), None
                )
                person = _person(labels, skeleton.findall("points"))
                if person is not None:
                    person.track = track or None
                    frame.people.append(person)
        else:
            groups: dict[str, list[Element]] = {}
            for point in image.findall("points"):
                groups.setdefault(point.get("group_id") or "", []).append(point)
            found = [_person(labels, points) for points in groups.values()]
            frame.people += [person for person in found if person is not None]
        frame.labelled = bool(frame.people)


def _read_tracks(labels: LabelFile, root: Element, shapes: str, video: str) -> None:
    size = root.find(".//meta//original_size")
    width, height = (0, 0) if size is None else (size.findtext("width"), size.findtext("height"))
    singles: dict[tuple[int, str], list[Element]] = {}
    for track in root.findall("track"):
        for shape in track.findall(shapes):
            place = f"{labels.source}: track {track.get('id', '')}: 'frame'"
            number = whole(shape.get("frame"), place, 0, MOST_FRAMES)
            points = shape.findall("points") if shapes == "skeleton" else [shape]
            if not any(e.get("keyframe", "1") == "1" for e in (shape, *points)):
                continue
            if shapes == "points":
                shape.set("label", track.get("label") or "")
                singles.setdefault((number, track.get("group_id") or ""), []).append(shape)
                continue
            person = _person(labels, points)
            if person is not None:
                person.track = track.get("id")
                labels.frame(video, number).people.append(person)
    for (number, _), points in singles.items():
        person = _person(labels, points)
        if person is not None:
            labels.frame(video, number).people.append(person)
    size_wh = _size(width, height, f"{labels.source}: <original_size>")
    for frame in labels.frames:
        frame.size_wh = size_wh


def _size(width: str | int | None, height: str | int | None, place: str) -> tuple[int, int]:
    """Width and height in pixels; 0 where they are not given."""
    sides = [whole(side or 0, f"{place}: size", 0, LARGEST_SIDE) for side in (width, height)]
    return sides[0], sides[1]


def _person(labels: LabelFile, points: Sequence[Element]) -> LabelledPerson | None:
    """A person of points; None if all of them are outside."""
    array = np.zeros((len(labels.joints), 3))
    for point in points:
        label = point.get("label") or ""
        if label not in labels.joints:
            raise ValueError(f"{labels.source}: a point without a label, or of label {label!r}")
        joint = labels.joints.index(label)
        if point.get("outside") == "1":
            continue
        if array[joint, 2]:
            raise ValueError(
                f"{labels.source}: joint {labels.joints[joint]!r} of one person occurs twice"
            )
        x_y = (point.get("points") or "").split(";")[0].split(",")
        place = f"{labels.source}: joint {labels.joints[joint]!r}"
        if len(x_y) != 2:
            raise ValueError(f"{place}: expected 'x,y', got {point.get('points')!r}")
        x, y = (number(value, f"{place}: expected 'x,y'") for value in x_y)
        array[joint] = x, y, 1 if point.get("occluded") == "1" else 2
    return LabelledPerson(array) if array[:, 2].any() else None


def with_cvat_attributes(data: Any) -> Any:
    """Content of a COCO file, with what CVAT keeps in ``attributes`` where COCO files have it:
    tracks get their ids, shapes between key frames go.
    """
    annotations = data.get("annotations") if isinstance(data, dict) else None
    if not isinstance(annotations, list) or not any(_attributes(a) for a in annotations):
        return data
    changed = []
    for annotation in annotations:
        attributes = _attributes(annotation)
        if attributes.get("keyframe", True):
            track = {_TRACK: attributes[_TRACK]} if _TRACK in attributes else {}
            changed.append({**track, **annotation} if track else annotation)
    return {**data, "annotations": changed}


def _attributes(annotation: Any) -> Mapping[str, Any]:
    found = annotation.get("attributes") if isinstance(annotation, dict) else None
    return found if isinstance(found, dict) else {}


def write_xml(dataset: PoseDataset, path: Path, names: Mapping[int, str]) -> None:
    """Write "CVAT for video 1.1" for one video file, else "CVAT for images 1.1".

    The task in CVAT must have a skeleton label of the same name, with points named like the joints.
    In files of images the track is an attribute ``track_id``; in files of a video people without a
    track become tracks of one frame, and names of tracks become numbers.

    Raises:
        ValueError: there is nobody in it.
    """
    if not len(dataset.people):
        raise ValueError(f"{path}: CVAT's files cannot hold labels without people")
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    as_video = len(dataset.videos) == 1 and dataset.videos[0].is_file
    _write_meta(root, dataset, as_video)
    if as_video:
        _write_tracks(root, dataset)
    else:
        _write_images(root, dataset, names)
    ElementTree.indent(root)
    with whole_file(path) as partial:
        ElementTree.ElementTree(root).write(partial, encoding="utf-8", xml_declaration=True)


def _write_meta(root: Element, dataset: PoseDataset, as_video: bool) -> None:
    video, skeleton = dataset.videos[0], dataset.skeleton
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    texts = {"name": _TITLE, "mode": "interpolation" if as_video else "annotation"}
    if as_video:
        texts |= {"size": str(video.frame_count), "start_frame": "0"}
        texts |= {"stop_frame": str(video.frame_count - 1), "source": video.path}
    for name, content in texts.items():
        ElementTree.SubElement(task, name).text = content
    if as_video and len(dataset.frames):
        size = ElementTree.SubElement(task, "original_size")
        for name, value in zip(("width", "height"), dataset.frames.size_wh.max(0), strict=True):
            ElementTree.SubElement(size, name).text = str(value)
    listed = ElementTree.SubElement(task, "labels")
    label = ElementTree.SubElement(listed, "label")
    ElementTree.SubElement(label, "name").text = skeleton.name or _LABEL
    ElementTree.SubElement(label, "type").text = "skeleton"
    nodes = [
        f'<circle data-type="element node" data-node-id="{i + 1}" data-label-name="{joint}"/>'
        for i, joint in enumerate(skeleton.joints)
    ]
    edges = [
        f'<line data-type="edge" data-node-from="{a + 1}" data-node-to="{b + 1}"/>'
        for a, b in skeleton.limbs
    ]
    ElementTree.SubElement(label, "svg").text = "".join(edges + nodes)
    for joint in skeleton.joints:
        label = ElementTree.SubElement(listed, "label")
        ElementTree.SubElement(label, "name").text = joint
        ElementTree.SubElement(label, "type").text = "points"
        ElementTree.SubElement(label, "parent").text = skeleton.name or _LABEL


def _write_images(root: Element, dataset: PoseDataset, names: Mapping[int, str]) -> None:
    frames, people = dataset.frames, dataset.people
    for row, in_frame in enumerate(dataset.people_by_frame()):
        width, height = frames.size_wh[row].tolist()
        image = {"id": str(row), "name": frames.file_name[row]}
        image |= {"width": str(width), "height": str(height)}
        element = ElementTree.SubElement(root, "image", image)
        for person in in_frame.tolist():
            shape = {"label": dataset.skeleton.name or _LABEL, "source": "manual", "z_order": "0"}
            skeleton = ElementTree.SubElement(element, "skeleton", shape)
            _write_points(skeleton, dataset, person)
            track = track_label(int(people.track_id[person]), dict(names))
            if track is not None:
                ElementTree.SubElement(skeleton, "attribute", {"name": _TRACK}).text = track


def _write_tracks(root: Element, dataset: PoseDataset) -> None:
    """One track per id. At the next labelled frame without it a track is switched off, since CVAT
    would go on drawing it.
    """
    people, frames = dataset.people, dataset.frames
    ids = people.track_id.copy()
    single = np.flatnonzero(ids < 0)
    ids[single] = np.arange(len(single)) + max(int(ids.max(initial=-1)), -1) + 1
    labelled = frames.labelled.copy()
    labelled[people.frame] = True
    known = np.sort(frames.number[labelled])
    for track in sorted(set(ids.tolist())):
        rows = np.flatnonzero(ids == track)
        rows = rows[np.argsort(frames.number[people.frame[rows]])]
        shape = {"id": str(track), "label": dataset.skeleton.name or _LABEL, "source": "manual"}
        element = ElementTree.SubElement(root, "track", shape)
        own = frames.number[people.frame[rows]]
        for row, at in zip(rows.tolist(), own.tolist(), strict=True):
            place = {"frame": str(at), "keyframe": "1", "z_order": "0"}
            skeleton = ElementTree.SubElement(element, "skeleton", place)
            _write_points(skeleton, dataset, row, keyframe="1")
            later = known[known > at]
            if len(later) and later[0] not in own:
                place = {**place, "frame": str(later[0])}
                end = ElementTree.SubElement(element, "skeleton", place)
                _write_points(end, dataset, row, keyframe="1", outside="1")


def _write_points(
    skeleton: Element, dataset: PoseDataset, person: int, outside: str = "", **more: str
) -> None:
    """All points of a skeleton, as CVAT wants them; those without a label are outside."""
    points = dataset.people.keypoints[person]
    labelled = points[:, 2] > 0
    middle = points[labelled, :2].mean(0) if labelled.any() else np.zeros(2)
    for joint, (x, y, visibility) in zip(dataset.skeleton.joints, points.tolist(), strict=True):
        if visibility <= 0:
            x, y = middle.tolist()
        entry = {
            "label": joint,
            "outside": outside or str(int(visibility <= 0)),
            "occluded": str(int(visibility == 1)),
            "points": f"{x!r},{y!r}",
            **more,
        }
        ElementTree.SubElement(skeleton, "points", entry)
