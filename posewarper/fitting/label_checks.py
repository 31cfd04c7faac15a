"""Whether labels make sense: numbers, joints, people."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from posewarper.data.annotations import read_json
from posewarper.data.crops import clean_boxes
from posewarper.data.formats import LabelFormat
from posewarper.data.formats.label_file import boxes_of_joints
from posewarper.data.people import person_sizes
from posewarper.data.tables import Bools, Floats, PoseDataset

#: Two people closer than this, in sizes, are probably one, labelled twice.
_SAME = 0.03


def check_text(labels: Path, format: LabelFormat | None) -> None:
    """Find what is hard to place once a file is read: coordinates in a COCO file that are no
    numbers.

    Raises:
        ValueError: names file, frame and joint.
    """
    if labels.suffix.lower() == ".json" and format in (None, "coco") and labels.is_file():
        content = read_json(labels)
        if isinstance(content, dict) and {"images", "annotations"} <= set(content):
            _check_numbers(labels, content)


def _check_numbers(labels: Path, content: dict[str, Any]) -> None:
    joints = list((content.get("categories") or [{}])[0].get("keypoints") or ())
    names = {image.get("id"): image.get("file_name") for image in content["images"]}
    for annotation in content["annotations"]:
        for place, value in enumerate(annotation.get("keypoints") or ()):
            if isinstance(value, int | float) and math.isfinite(value):
                continue
            joint = place // 3
            name = repr(joints[joint]) if joint < len(joints) else f"number {joint}"
            raise ValueError(
                f"{labels}: image {names.get(annotation.get('image_id'))}, annotation "
                f"{annotation.get('id')}: {'x, y, visibility'.split(', ')[place % 3]} of joint "
                f"{name} is {value!r}, expected a number (0, 0, 0: not labelled)"
            )


def clean_people(dataset: PoseDataset, notes: list[str]) -> PoseDataset:
    """People of whom every labelled joint lies in the image, nobody twice, with boxes that serve.

    Joints outside the image become unlabelled. Somebody with exactly the same joints as another
    one in the frame is left out; if joints are almost the same, a note says so. People with fewer
    than two different joints get area 0 and stay; the others get a box around their joints where
    theirs is empty, outside the image, or was around joints outside.

    Args:
        dataset: labels, with the sizes of their images.
        notes: to which is added what was done.

    Raises:
        ValueError: coordinates are fractions of the image; two tracks have the same joints.
    """
    people = dataset.people
    size = dataset.frames.size_wh[people.frame][:, None]
    labelled = people.keypoints[..., 2] > 0
    places = people.keypoints[..., :2]
    known = places[labelled]
    if len(known) and known.min() >= 0 and known.max() <= 1:
        raise ValueError(
            f"{dataset.source}: all joints lie between 0 and 1: expected pixels, got fractions of "
            "the image"
        )
    # Tools count from the corner of the image or from the centre of a pixel; a pixel of leeway.
    outside = np.asarray(((places < -1) | (places > size)).any(2) & labelled)
    if outside.any():
        row, joint = np.argwhere(outside)[0]
        x, y = places[row, joint]
        notes.append(
            f"{dataset.source}: {outside.sum()} of {labelled.sum()} labelled joints, of "
            f"{outside.any(1).sum()} people, lie outside the image and count as not labelled; the "
            f"first is {dataset.skeleton.joints[joint]!r} at ({x:g}, {y:g}) in "
            f"{_frame(dataset, row)} of {size[row, 0, 0]}x{size[row, 0, 1]} pixels"
        )
    keypoints = np.where(outside[..., None], 0.0, people.keypoints)
    dataset = _with_boxes(dataset, keypoints, np.asarray(outside.any(1)))
    return _without_doubles(dataset, notes)


def _with_boxes(dataset: PoseDataset, keypoints: Floats, changed: Bools) -> PoseDataset:
    """The data set with these joints, boxes around them where needed, and area 0 for who cannot
    serve.
    """
    people = dataset.people
    own = boxes_of_joints(keypoints)
    serves = (own[:, 2:] > 0).all(1)
    _, inside = clean_boxes(people.bbox, dataset.frames.size_wh[people.frame])
    bad = serves & (changed | ~inside | (people.bbox[:, 2:] <= 0).any(1))
    bbox = np.where(bad[:, None], own, people.bbox)
    area = np.where(serves, bbox[:, 2] * bbox[:, 3], 0.0)
    return replace(dataset, people=replace(people, keypoints=keypoints, bbox=bbox, area=area))


def _without_doubles(dataset: PoseDataset, notes: list[str]) -> PoseDataset:
    people = dataset.people
    labelled = people.keypoints[..., 2] > 0
    sizes = person_sizes(people.keypoints[..., :2], labelled)
    keep = np.ones(len(people), np.bool_)
    near: list[int] = []
    for rows in dataset.people_by_frame():
        for place, row in enumerate(rows.tolist()):
            for other in rows[:place].tolist():
                common = labelled[row] & labelled[other]
                if common.sum() < 2 or people.crowd[[row, other]].any():
                    continue
                apart = people.keypoints[row, common, :2] - people.keypoints[other, common, :2]
                distance = np.linalg.norm(apart, axis=1).mean()
                same = not distance and (labelled[row] == labelled[other]).all()
                tracks = {int(people.track_id[row]), int(people.track_id[other])} - {-1}
                if same and len(tracks) == 2:
                    raise ValueError(
                        f"{dataset.source}: tracks {min(tracks)} and {max(tracks)} have the same "
                        f"joints in {_frame(dataset, row)}"
                    )
                if same:
                    keep[row if people.track_id[other] >= 0 or not tracks else other] = False
                elif distance < _SAME * max(sizes[row], sizes[other]):
                    near.append(row)
    if not keep.all():
        gone = np.flatnonzero(~keep)
        notes.append(
            f"{dataset.source}: {len(gone)} people are labelled twice with the same joints and are "
            f"left out once; the first in {_frame(dataset, int(gone[0]))}"
        )
    if near:
        notes.append(
            f"{dataset.source}: {len(near)} people have nearly the same joints as another one in "
            f"the frame, the first in {_frame(dataset, near[0])}: are they labelled twice?"
        )
    few = keep & (people.area <= 0) & ~people.crowd
    if few.any():
        notes.append(
            f"{dataset.source}: {few.sum()} people have fewer than two joints at different places "
            f"and are not used; the first in {_frame(dataset, int(np.flatnonzero(few)[0]))}"
        )
    return dataset.select(people=keep)


def _frame(dataset: PoseDataset, person: int) -> str:
    row = int(dataset.people.frame[person])
    video = dataset.videos[dataset.frames.video[row]]
    return f"frame {dataset.frames.number[row]} of video {video.name!r}"
