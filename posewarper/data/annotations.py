"""Annotation files in COCO's style: those of the 2019 system, and any whose images are frames.

Written files hold what others expect, and in addition a table ``videos`` and, in the category,
mirror pairs, sigmas and the upper body, so that a file that was written here is read back without
loss.
"""

from __future__ import annotations

import gc
import math
import posixpath
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from posewarper.data.tables import Floats, Frames, People, PoseDataset, Regions, Video, starts
from posewarper.files import read_json, write_json
from posewarper.skeleton import POSETRACK, SKELETONS, Skeleton

_NUMBERED = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)(?P<suffix>\D*)", re.DOTALL)
_NO_HEAD = [float("nan")] * 4


def frame_of_file(file_name: str) -> tuple[str, str, int]:
    """Video, pattern and frame number that a path of an image stands for.

    The number is the last one in the base name: ``a/b/000012.jpg`` is frame 12 of video ``a/b``
    with pattern ``%06d.jpg``. What stands before or after the number tells videos in one folder
    apart: ``a/left_7.png`` is frame 7 with pattern ``left_%d.png``. A name without digits is frame
    0 of a video of its own.
    """
    folder, base = posixpath.split(file_name)
    stem, extension = posixpath.splitext(base)
    match = _NUMBERED.fullmatch(stem)
    if match is None:
        return folder, base.replace("%", "%%"), 0
    digits = match["number"]
    form = f"%0{len(digits)}d" if digits.startswith("0") and len(digits) > 1 else "%d"
    before, after = match["prefix"].replace("%", "%%"), (match["suffix"] + extension)
    return folder, f"{before}{form}{after.replace('%', '%%')}", int(digits)


def load_coco(
    path: str | Path, skeleton: Skeleton | None = None, *, first_frame: int | None = None
) -> PoseDataset:
    """Read a COCO-style file whose images are frames of videos.

    What may be absent, and what stands in for it: ``videos`` and ``frame_id``: the path of the
    image (``frame_of_file``); ``nframes``: the last frame that the file lists; ``area``: that of
    the box (the 2019 system demands it, PoseTrack18's own files lack it); ``is_labeled``: whether
    somebody is annotated in the frame. Annotations without keypoints count as people with no
    labelled joint. Other categories than the first are read if they have the same keypoints. Two
    images of one file name are one frame (a warning says so): the 2019 files of pseudo-labels have
    such pairs; they also name frames outside the video, so give ``first_frame`` for them.

    Args:
        path: JSON file.
        skeleton: joints to read, by name where the file has names; by default those that
            the file names, or the 17 of PoseTrack if it names none.
        first_frame: number of the first frame of each video. By default 0 if any frame has this
            number, else 1 if the file names have eight digits (PoseTrack17) or if the last
            frame's number is ``nframes``, else 0.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of this kind; names the file and the id.
    """
    collecting = gc.isenabled()
    gc.disable()  # millions of lists, none of which is garbage before the end: a third of the time
    try:
        return from_coco(read_json(path), str(path), skeleton, first_frame)
    finally:
        if collecting:
            gc.enable()


def from_coco(
    data: Any, source: str, skeleton: Skeleton | None = None, first_frame: int | None = None
) -> PoseDataset:
    """Content of a COCO-style file; see ``load_coco``. ``source`` is its name in messages."""
    if not isinstance(data, dict) or not {"images", "annotations"} <= set(data):
        raise ValueError(f"{source}: expected an object with 'images' and 'annotations'")
    category = (data.get("categories") or [{}])[0]
    skeleton, order, in_file = _choose_skeleton(category, skeleton, source)
    images = data["images"]
    for image in images:
        if "id" not in image or "file_name" not in image:
            raise ValueError(f"{source}: image {image.get('id', image)} lacks 'id' or 'file_name'")
    images, merged = _merge_images(images, source)
    annotations = data["annotations"]
    if category:  # others, of which one file may hold many, have other joints
        same = [
            entry["id"]
            for entry in data["categories"]
            if entry.get("keypoints") == category.get("keypoints")
        ]
        annotations = [a for a in annotations if a.get("category_id", same[0]) in same]
    row_of = {image["id"]: row for row, image in enumerate(images)}
    row_of.update({i: row_of[first] for i, first in merged.items()})
    people = _read_people(annotations, row_of, in_file, source)
    people_in = np.bincount(people.frame, minlength=len(images)) > 0
    videos, video, number = _read_videos(data, images, first_frame, source)
    frames = Frames.make(
        videos,
        video,
        number,
        size_wh=np.array(
            [(image.get("width") or 0, image.get("height") or 0) for image in images], np.int64
        ).reshape(-1, 2),
        labelled=[
            image.get("is_labeled", any_in)
            for image, any_in in zip(images, people_in.tolist(), strict=True)
        ],
        image_id=[image["id"] for image in images],
        frame_id=[image.get("frame_id", n) for image, n in zip(images, number, strict=True)],
        file_name=[image["file_name"] for image in images],
        original_file_name=[image.get("original_file_name", "") for image in images],
        ignore=read_regions(images, source),
    )
    if order != list(range(in_file)):
        people = replace(
            people,
            keypoints=people.keypoints[:, order],
            joint_scores=people.joint_scores[:, order],
        )
    return PoseDataset(skeleton, videos, frames, people, source)


def _merge_images(
    images: list[dict[str, Any]], source: str
) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """Images without those whose file came before, and for the latter the ids of the former."""
    first: dict[str, int] = {}
    merged: dict[int, int] = {}
    for image in images:
        kept = first.setdefault(image["file_name"], image["id"])
        if kept != image["id"]:
            merged[image["id"]] = kept
    if not merged:
        return images, {}
    warnings.warn(
        f"{source}: {len(merged)} images have the file name of an earlier one and are taken for it",
        stacklevel=4,
    )
    return [image for image in images if first[image["file_name"]] == image["id"]], merged


def read_regions(images: Sequence[Mapping[str, Any]], source: str) -> Regions:
    """``ignore_regions_x`` and ``_y`` of images, PoseTrack18's lists of polygons."""
    all_x: list[list[float]] = []
    all_y: list[list[float]] = []
    counts = []
    for image in images:
        xs, ys = image.get("ignore_regions_x") or [], image.get("ignore_regions_y") or []
        if xs and not isinstance(xs[0], list):  # one polygon, not in a list of its own
            xs, ys = [xs], [ys]
        if [len(x) for x in xs] != [len(y) for y in ys]:
            raise ValueError(f"{source}: ignore regions of image {image['id']}: x and y differ")
        all_x += xs
        all_y += ys
        counts.append(len(xs))
    flat = [np.array(list(chain.from_iterable(part)), np.float64) for part in (all_x, all_y)]
    return Regions(np.stack(flat, 1), starts([len(x) for x in all_x]), starts(counts))


def _choose_skeleton(
    category: Mapping[str, Any], wanted: Skeleton | None, source: str
) -> tuple[Skeleton, list[int], int]:
    """The skeleton, for each of its joints the slot in the file, and the number of slots."""
    named = _read_skeleton(category, source)
    if wanted is None:
        wanted = named or POSETRACK
    if named is None:
        return wanted, list(range(len(wanted))), len(wanted)
    missing = [joint for joint in wanted.joints if joint not in named.joints]
    if missing:
        raise ValueError(
            f"{source}: skeleton {wanted.name!r} has joints {missing}, the file has "
            f"{list(named.joints)}"
        )
    return wanted, [named.index(joint) for joint in wanted.joints], len(named)


def _read_skeleton(category: Mapping[str, Any], source: str) -> Skeleton | None:
    joints = tuple(category.get("keypoints") or ())
    if not joints:
        return None
    extra = {"flip_pairs", "sigmas", "upper_body"} & set(category)
    if not extra:
        for known in SKELETONS.values():
            if known.joints == joints:
                return known
    place = {joint: i for i, joint in enumerate(joints)}
    sides = [(i, place.get("right" + j[4:], -1)) for j, i in place.items() if j[:4] == "left"]
    skeleton = Skeleton(
        str(category.get("skeleton_name") or category.get("name") or source),
        joints,
        tuple((a, b) for a, b in category.get("flip_pairs", [s for s in sides if s[1] >= 0])),
        tuple((a - 1, b - 1) for a, b in category.get("skeleton") or ()),
        tuple(category.get("sigmas") or ()),
        tuple(category.get("upper_body") or ()),
    )
    known_one = SKELETONS.get(skeleton.name)
    return known_one if known_one == skeleton else skeleton


def _read_videos(
    data: Mapping[str, Any],
    images: Sequence[Mapping[str, Any]],
    first_frame: int | None,
    source: str,
) -> tuple[tuple[Video, ...], list[int], list[int]]:
    """The videos, and for each image the position of its video and its number there."""
    if data.get("videos") and all("video_id" in i and "frame_number" in i for i in images):
        table = data["videos"]
        videos = tuple(
            Video(v["name"], v["nframes"], v["first_frame"], v["pattern"], v["path"]) for v in table
        )
        position = {v["id"]: i for i, v in enumerate(table)}
        for image in images:
            if image["video_id"] not in position:
                raise ValueError(
                    f"{source}: image {image['id']} lies in video {image['video_id']}, "
                    "which is not listed"
                )
        of_image = [position[image["video_id"]] for image in images]
        return videos, of_image, [image["frame_number"] for image in images]
    places = [frame_of_file(image["file_name"]) for image in images]
    # A number whose width is not fixed ("9", "10") has one pattern, "%d"; where it is, the numbers
    # that start with another digit than 0 ("100000") have the width of their neighbours.
    padded = {
        (folder, re.sub(r"%0\d+d", "%d", pattern)): pattern
        for folder, pattern, _ in places
        if re.search(r"%0\d+d", pattern)
    }
    keys = [(folder, padded.get((folder, pattern), pattern)) for folder, pattern, _ in places]
    numbers = [number for _, _, number in places]
    rows: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    folders = [folder for folder, _ in rows]
    known = [max(int(images[row].get("nframes") or 0) for row in rows[key]) for key in rows]
    last = [max(numbers[row] for row in rows[key]) for key in rows]
    if first_frame is None:
        eight = any("%08d" in pattern for _, pattern in rows)
        one_based = eight or any(a == b for a, b in zip(known, last, strict=True))
        first_frame = 1 if one_based and 0 not in numbers else 0
    videos = tuple(
        Video(
            posixpath.join(folder, pattern) if folders.count(folder) > 1 else folder or ".",
            max(total, end + 1 - first_frame),
            first_frame,
            pattern,
            folder or ".",
        )
        for (folder, pattern), total, end in zip(rows, known, last, strict=True)
    )
    position_of = {key: i for i, key in enumerate(rows)}
    return videos, [position_of[key] for key in keys], numbers


def _read_people(
    annotations: Sequence[Mapping[str, Any]],
    row_of: Mapping[int, int],
    joints: int,
    source: str,
) -> People:
    boxes, keypoints, heads = [], [], []
    none = [0.0] * (3 * joints)
    for annotation in annotations:
        name = f"{source}: annotation {annotation.get('id', annotation)}"
        for key, length in (("id", 0), ("image_id", 0), ("bbox", 4)):
            if key not in annotation or (length and len(annotation[key]) != length):
                raise ValueError(f"{name}: {key!r} is missing or has not {length} numbers")
        if annotation["image_id"] not in row_of:
            raise ValueError(f"{name} belongs to image {annotation['image_id']}, which is missing")
        numbers = annotation.get("keypoints") or none
        if len(numbers) != 3 * joints:
            raise ValueError(
                f"{name} has {len(numbers)} numbers in 'keypoints', expected 3 * {joints}"
            )
        boxes.append(annotation["bbox"])
        keypoints.append(numbers)
        heads.append(_head_box(annotation))
    boxes_array = np.array(boxes, np.float64).reshape(-1, 4)
    area = boxes_array[:, 2] * boxes_array[:, 3]
    return People.make(
        [row_of[a["image_id"]] for a in annotations],
        np.array(keypoints, np.float64).reshape(-1, joints, 3),
        boxes_array,
        area=[a.get("area", own) for a, own in zip(annotations, area.tolist(), strict=True)],
        head_box=heads,
        track_id=[a.get("track_id", -1) for a in annotations],
        annotation_id=[a["id"] for a in annotations],
        crowd=[bool(a.get("iscrowd", 0)) for a in annotations],
        joint_scores=_joint_scores(annotations, joints, source),
        score=[np.nan if a.get("score") is None else a["score"] for a in annotations],
    )


def _joint_scores(annotations: Sequence[Mapping[str, Any]], joints: int, source: str) -> Floats:
    """``scores`` [P, joints], the list that PoseTrack18 has (empty in its labels); null is NaN."""
    scores = np.full((len(annotations), joints), np.nan)
    for row, annotation in enumerate(annotations):
        numbers = annotation.get("scores")
        if not numbers:
            continue
        if len(numbers) != joints:
            raise ValueError(
                f"{source}: annotation {annotation['id']} has {len(numbers)} numbers in 'scores', "
                f"expected {joints}"
            )
        scores[row] = [np.nan if number is None else number for number in numbers]
    return scores


def _head_box(annotation: Mapping[str, Any]) -> Sequence[float]:
    """Corners from ``head_box`` (corners, 2019) or ``bbox_head`` (x, y, w, h, PoseTrack18)."""
    if annotation.get("head_box"):
        return annotation["head_box"]
    if annotation.get("bbox_head"):
        x, y, width, height = annotation["bbox_head"]
        return [x, y, x + width, y + height]
    return _NO_HEAD


def save_coco(dataset: PoseDataset, path: str | Path) -> None:
    """Write a data set as one COCO-style file (atomic); ``load_coco`` reads it back without loss.

    Raises:
        ValueError: a number is not finite.
    """
    write_json(path, _as_coco(dataset))


def category_of(skeleton: Skeleton) -> dict[str, Any]:
    """The entry of ``categories`` for a skeleton; limbs count from 1, as in COCO."""
    return {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(skeleton.joints),
        "skeleton": [[a + 1, b + 1] for a, b in skeleton.limbs],
        "skeleton_name": skeleton.name,
        "flip_pairs": [list(pair) for pair in skeleton.flip_pairs],
        "sigmas": list(skeleton.sigmas),
        "upper_body": list(skeleton.upper_body),
    }


def region_columns(regions: Regions, frame: int) -> dict[str, list[list[float]]]:
    """``ignore_regions_x`` and ``_y`` of one frame."""
    polygons = [plain(polygon.T) for polygon in regions.of(frame)]
    return {
        "ignore_regions_x": [x for x, _ in polygons],
        "ignore_regions_y": [y for _, y in polygons],
    }


def plain(array: Floats) -> Any:
    """Nested lists of a float array [..., n], whole numbers as integers."""
    if array.ndim == 1:
        return [int(value) if value.is_integer() else value for value in array.tolist()]
    if array.ndim == 2:
        return [[int(v) if v.is_integer() else v for v in row] for row in array.tolist()]
    return [plain(part) for part in array]


def _as_coco(dataset: PoseDataset) -> dict[str, Any]:
    frames, videos = dataset.frames, dataset.videos
    return {
        "videos": [
            {
                "id": i + 1,
                "name": video.name,
                "nframes": video.frame_count,
                "first_frame": video.first_frame,
                "pattern": video.pattern,
                "path": video.path,
            }
            for i, video in enumerate(videos)
        ],
        "images": [
            {
                "id": int(frames.image_id[row]),
                "file_name": frames.file_name[row],
                **(
                    {"original_file_name": frames.original_file_name[row]}
                    if frames.original_file_name[row]
                    else {}
                ),
                "width": int(frames.size_wh[row, 0]),
                "height": int(frames.size_wh[row, 1]),
                "video_id": video + 1,
                "frame_number": number,
                "frame_id": int(frames.frame_id[row]),
                "nframes": videos[video].frame_count,
                "is_labeled": bool(frames.labelled[row]),
                **region_columns(frames.ignore, row),
            }
            for row, (video, number) in enumerate(
                zip(frames.video.tolist(), frames.number.tolist(), strict=True)
            )
        ],
        "annotations": list(_people_entries(dataset)),
        "categories": [category_of(dataset.skeleton)],
    }


def _people_entries(dataset: PoseDataset) -> Iterator[dict[str, Any]]:
    people = dataset.people
    keypoints = plain(people.keypoints.reshape(len(people), 3 * len(dataset.skeleton)))
    visible = (people.keypoints[:, :, 2] > 0).sum(1).tolist()
    image_ids = dataset.frames.image_id[people.frame].tolist()
    boxes, areas, predicted = plain(people.bbox), plain(people.area), people.predicted
    heads = [plain(head) if np.isfinite(head).all() else [] for head in people.head_box]
    for row in range(len(people)):
        yield {
            "id": int(people.annotation_id[row]),
            "image_id": image_ids[row],
            "category_id": 1,
            "bbox": boxes[row],
            "area": areas[row],
            "iscrowd": int(people.crowd[row]),
            "keypoints": keypoints[row],
            "num_keypoints": visible[row],
            "track_id": int(people.track_id[row]),
            "head_box": heads[row],
            **({"scores": _or_null(people.joint_scores[row])} if predicted[row] else {}),
            **({"score": float(people.score[row])} if np.isfinite(people.score[row]) else {}),
        }


def _or_null(values: Floats) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
