"""LabelMe's files: one JSON per image, with points that ``group_id`` puts together as a person.

Points without a group are one person. Groups are numbered within an image, so they are no tracks.
"""

from __future__ import annotations

import posixpath
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from posewarper.data.entries import text, whole
from posewarper.data.formats.label_file import LabelFile, LabelledPerson, normal_path
from posewarper.files import read_json, visible


def read_labelme(path: Path) -> LabelFile:
    """A folder of LabelMe's files, or one; joints in the order in which they first appear.

    A rectangle of a group is the box of its person; other shapes are left out (a warning).

    Raises:
        ValueError: names the file and the shape.
    """
    files = visible(path.rglob("*.json")) if path.is_dir() else [path]
    root = path if path.is_dir() else path.parent
    images = [(file, data) for file in files if is_labelme(data := read_json(file))]
    joints: dict[str, int] = {}
    for file, data in images:
        for shape in data["shapes"]:
            if shape.get("shape_type") == "point":
                joints.setdefault(text(shape.get("label"), f"{file}: label"), len(joints))
    labels = LabelFile(str(path), tuple(joints))
    if not joints:
        raise ValueError(f"{path}: no key points: none of the shapes is of shape_type 'point'")
    other: dict[str, int] = {}
    for file, data in images:
        folder = file.parent.relative_to(root).as_posix()
        frame = labels.new_frame(
            posixpath.join(folder, normal_path(text(data["imagePath"], f"{file}: imagePath")))
        )
        width, height = (
            whole(data.get(key) or 0, f"{file}: {key}") for key in ("imageWidth", "imageHeight")
        )
        frame.size_wh = width, height
        people: dict[Any, LabelledPerson] = {}
        boxes: dict[Any, tuple[float, float, float, float]] = {}
        for number, shape in enumerate(data["shapes"]):
            place = f"{file}: shape {number}"
            kind, group = shape.get("shape_type"), shape.get("group_id")
            group = None if group is None else whole(group, f"{place}: group_id")
            if kind == "rectangle" and group is not None:
                low, high = (f(_points(shape, place, 2), 0) for f in (np.min, np.max))
                boxes[group] = (*low.tolist(), *(high - low).tolist())
            if kind != "point":
                other[str(kind)] = other.get(str(kind), 0) + (kind != "rectangle")
                continue
            person = people.setdefault(group, LabelledPerson(np.zeros((len(joints), 3))))
            joint = joints[str(shape.get("label"))]
            if person.points[joint, 2]:
                raise ValueError(
                    f"{place}: joint {shape.get('label')!r} of group {group} is there twice; give "
                    "the points of each person a group_id of their own"
                )
            person.points[joint] = *_points(shape, place, 1)[0], 2
        for group, person in people.items():
            person.box = boxes.get(group)
            frame.people.append(person)
    left = ", ".join(f"{count} of type {kind!r}" for kind, count in other.items() if count)
    if left:
        warnings.warn(f"{path}: shapes that are no key points are left out: {left}", stacklevel=4)
    return labels


def is_labelme(data: Any) -> bool:
    """Whether the content of a JSON file is LabelMe's."""
    return (
        isinstance(data, Mapping)
        and {"shapes", "imagePath"} <= set(data)
        and isinstance(data["shapes"], list)
        and all(isinstance(shape, Mapping) for shape in data["shapes"])
    )


def _points(shape: Mapping[str, Any], place: str, count: int) -> np.ndarray:
    try:
        points = np.array(shape["points"], np.float64)
    except (KeyError, TypeError, ValueError):
        points = np.zeros(0)
    if points.shape != (count, 2) or not np.isfinite(points).all():
        raise ValueError(
            f"{place}: expected {count} of x, y in 'points', got {str(shape.get('points'))[:60]}"
        )
    return points
