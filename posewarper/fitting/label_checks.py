"""Whether labels make sense: numbers, joints, people, and the images that were labelled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from posewarper.data.annotations import read_json
from posewarper.data.crops import clean_boxes
from posewarper.data.formats import LabelFormat
from posewarper.data.formats.label_file import boxes_of_joints
from posewarper.data.people import person_sizes
from posewarper.data.tables import Bools, Floats, PoseDataset
from posewarper.data.video import FrameError, VideoFile, decode_image

#: Two people closer than this, in sizes, are probably one, labelled twice.
_SAME = 0.03
_SHIFTS = (-2, -1, 0, 1, 2)  # frames by which numbers of images may be off
_PICTURES = 8  # labelled images that are compared with the video
_WIDTH = 320  # at which they are compared
_MOVING = 15  # grey levels that a pixel has to change by to tell one frame from the next
_ALIKE = 0.7  # correlation of two pictures of the same frame, at least

Picture = npt.NDArray[np.float32]


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


def check_pictures(
    before: PoseDataset,
    after: PoseDataset,
    paths: Sequence[Path],
    labels: Path,
    notes: list[str],
) -> None:
    """Compare labelled images with the frames of video files that their labels were put on.

    Images are often numbered from 1, and frames from 0; and one video looks like another by name
    only. Where the images lie beside the labels, up to eight of each video are compared with their
    frames and the two before and after; where they do not, a note says how numbers are understood.

    Args:
        before: the labels as in the file.
        after: the same on the videos given.
        paths: of these videos.
        labels: the file.
        notes: to which the note is added.

    Raises:
        ValueError: the images have another size, are other pictures, or are those of frames
            before or after. Names image and frame.
    """
    for position, path in enumerate(paths):
        rows = np.flatnonzero(before.frames.video == position)
        if before.videos[position].is_file or not path.is_file():
            continue  # frames by number or images by name
        rows = rows[np.linspace(0, len(rows) - 1, min(_PICTURES, len(rows))).round().astype(int)]
        names = [before.frames.file_name[row] for row in rows.tolist()]
        images = [_find(name, labels) for name in names]
        numbers = after.frames.number[rows].tolist()
        pairs = [(i, n) for i, n in zip(images, numbers, strict=True) if i is not None]
        if not pairs:
            notes.append(
                f"{path}: frames are counted from 0: labels of {names[0]} go to frame {numbers[0]}"
            )
            continue
        _compare(pairs, VideoFile(path), labels)


def _find(name: str, labels: Path) -> Path | None:
    """Where a labelled image is: below the folder of the labels, one of the three above, or
    beside the labels.
    """
    above = [labels.absolute().parent, *labels.absolute().parent.parents][:4]
    places = [folder / name for folder in above] + [above[0] / Path(name).name]
    return next((place for place in places if place.is_file()), None)


def _compare(pairs: Sequence[tuple[Path, int]], file: VideoFile, labels: Path) -> None:
    """Raise ValueError where images [(image, number), ...] are not the frames of a video."""
    alike: list[float] = []
    errors = np.zeros(len(_SHIFTS))  # of the images, if numbers are off by this much
    for path, number in sorted(pairs, key=lambda pair: pair[1]):
        try:
            image = decode_image(path)
        except FrameError:
            continue  # it is not needed
        frames = [file.read(number + shift) for shift in _SHIFTS]
        own = frames[_SHIFTS.index(0)]
        if own is not None and own.shape != image.shape:
            raise ValueError(
                f"{labels}: {path} has {image.shape[1]}x{image.shape[0]} pixels, {file.path} has "
                f"{own.shape[1]}x{own.shape[0]}; labels count in pixels of the video"
            )
        if own is not None:
            alike.append(_correlation(_small(image), _small(own)))
        there = [frame for frame in frames if frame is not None]
        if len(there) == len(_SHIFTS):
            errors += _differences(_small(image), np.stack([_small(frame) for frame in there]))
    name, number = pairs[0]
    if alike and np.median(alike) < _ALIKE:
        raise ValueError(
            f"{labels}: images are not those of the video: {name} does not look like frame "
            f"{number} of {file.path}"
        )
    best = int(errors.argmin())
    if errors[best] < 0.5 * errors[_SHIFTS.index(0)]:
        raise ValueError(
            f"{labels}: images are shifted against the video: {name} is frame "
            f"{number + _SHIFTS[best]} of {file.path}, which counts from 0, not frame {number}; "
            "rename the images, or give the folder of all images as the video"
        )


def _small(image: npt.NDArray[np.uint8]) -> Picture:
    height = max(round(image.shape[0] * _WIDTH / image.shape[1]), 1)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (_WIDTH, height), interpolation=cv2.INTER_AREA).astype(np.float32)


def _correlation(first: Picture, second: Picture) -> float:
    """Of two pictures; 1 for plain ones, which tell nothing."""
    a, b = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 1.0


def _differences(image: Picture, frames: Picture) -> Floats:
    """Mean difference of an image from each of the frames [S, H, W], over the pixels that change
    the most among these, so that a small animal counts; zeros where nothing changes.
    """
    change = frames.max(0) - frames.min(0)
    moving = change >= max(float(np.quantile(change, 0.98)), _MOVING)
    if not moving.any():
        return np.zeros(len(frames))
    return np.abs(frames - image)[:, moving].mean(1).astype(np.float64)
