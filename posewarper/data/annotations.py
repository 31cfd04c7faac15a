"""Annotation files in COCO's style: those of the 2019 system, and any whose images are frames.

Written files hold what others expect, and in addition a table ``videos`` and, in the category,
mirror pairs, sigmas and the upper body, so that a file that was written here is read back without
loss.
"""

from __future__ import annotations

import gc
import math
import posixpath
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from posewarper.data.categories import choose_joints, read_categories
from posewarper.data.coco_people import names_of_tracks, read_people
from posewarper.data.entries import (
    LARGEST_SIDE,
    MOST_FRAMES,
    check_frame_numbers,
    check_values,
    column,
    id_key,
    id_keys,
    ids,
    listing,
    objects,
    places,
    shown,
    text,
    whole,
    whole_column,
)
from posewarper.data.frame_names import frames_of_files, warn_implausible
from posewarper.data.tables import Floats, Frames, PoseDataset, Regions, Video, starts
from posewarper.files import read_json, write_json
from posewarper.skeleton import Skeleton


def load_coco(
    path: str | Path, skeleton: Skeleton | None = None, *, first_frame: int | None = None
) -> PoseDataset:
    """Read a COCO-style file whose images are frames of videos.

    Commands read what a user gives them through ``formats.load_labels``, which calls this.

    What may be absent, and what stands in for it: ``videos`` and ``frame_id``: the paths of the
    images (``frame_names.frames_of_files``); ``nframes``: the last frame that the file lists;
    ``bbox``: zeros; ``area``: that of the box (2019 demands it, PoseTrack18's own files lack it);
    ``is_labeled``: whether somebody is annotated in the frame. Annotations without keypoints count
    as people with no labelled joint. Several categories: ``categories``. Ids may be text. Two
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
    with without_collection():
        return from_coco(read_json(path), str(path), skeleton, first_frame)


@contextmanager
def without_collection() -> Iterator[None]:
    """Read millions of lists, none of which is garbage before the end: it saves a third of the
    time not to look for it.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def from_coco(
    data: Any,
    source: str,
    skeleton: Skeleton | None = None,
    first_frame: int | None = None,
    *,
    unnamed: Skeleton | None = None,
) -> PoseDataset:
    """Content of a COCO-style file; see ``load_coco``. ``source`` is its name in messages,
    ``unnamed`` the joints of a file that names none.
    """
    if not isinstance(data, dict) or not {"images", "annotations"} <= set(data):
        raise ValueError(f"{source}: expected an object with 'images' and 'annotations'")
    annotations = objects(data["annotations"], f"{source}: 'annotations'")
    joints = choose_joints(read_categories(data, source), annotations, source, skeleton, unnamed)
    if joints.kept is not None:
        annotations = [annotations[row] for row in joints.kept]
    images = _read_images(objects(data["images"], f"{source}: 'images'"), source)
    image_keys = id_keys([image["id"] for image in images], places("image", images, "id", source))
    images, image_keys, row_of = _merge_images(images, image_keys, source)
    people, track_names = read_people(annotations, row_of, joints, source)
    people_in = np.bincount(people.frame, minlength=len(images)) > 0
    tabled = _with_videos(data, images, source)
    videos, video, number = _read_videos({**data, "videos": tabled}, images, first_frame, source)
    check_frame_numbers(number, [image["file_name"] for image in images], source)
    frames = Frames.make(
        videos,
        video,
        number,
        size_wh=np.array(
            [(image.get("width") or 0, image.get("height") or 0) for image in images], np.int64
        ).reshape(-1, 2),
        labelled=[
            bool(image.get("is_labeled", any_in))
            for image, any_in in zip(images, people_in.tolist(), strict=True)
        ],
        image_id=ids(image_keys),
        frame_id=[
            n if image.get("frame_id") is None else image["frame_id"]
            for image, n in zip(images, number, strict=True)
        ],
        file_name=[image["file_name"] for image in images],
        original_file_name=[image.get("original_file_name") or "" for image in images],
        ignore=read_regions(images, source),
    )
    names = names_of_tracks(data, source) | track_names
    dataset = PoseDataset(joints.skeleton, videos, frames, people, source, names)
    check_values(dataset)
    return dataset


#: Whole numbers of an image, if it has them, and the largest that they may be.
_IMAGE_NUMBERS = {
    "width": LARGEST_SIDE,
    "height": LARGEST_SIDE,
    "nframes": MOST_FRAMES,
    "frame_number": MOST_FRAMES,
    "frame_id": 2**62,
}


def _read_images(images: list[Mapping[str, Any]], source: str) -> list[Mapping[str, Any]]:
    """The images, of which those keys are checked that are read; whole numbers are whole."""
    for row, image in enumerate(images):
        if "id" not in image or "file_name" not in image:
            raise ValueError(
                f"{source}: image {image.get('id', f'number {row}')} lacks 'id' or 'file_name'"
            )
        if (
            type(image["file_name"]) is not str
            or not image["file_name"]
            or "\0" in image["file_name"]
        ):
            text(image["file_name"], places("image", images, "file_name", source)(row))
        if type(image.get("original_file_name") or "") is not str:
            raise ValueError(f"{source}: image {image['id']}: 'original_file_name' is no text")
    changed: dict[int, dict[str, Any]] = {}
    for name, high in _IMAGE_NUMBERS.items():
        rows = [row for row, image in enumerate(images) if image.get(name) is not None]
        values = [images[row][name] for row in rows]
        place = places("image", images, name, source)
        found = whole_column(values, lambda i, rows=rows, place=place: place(rows[i]), 0, high)  # type: ignore[misc]
        if found != values or any(type(value) is not int for value in values):
            for row, value in zip(rows, found, strict=True):
                changed.setdefault(row, {})[name] = value
    return [
        {**image, **changed[row]} if row in changed else image for row, image in enumerate(images)
    ]


def _with_videos(
    data: Mapping[str, Any], images: list[Mapping[str, Any]], source: str
) -> list[dict[str, Any]]:
    """The table ``videos`` of a file that was written here, checked; none for other files."""
    if not data.get("videos") or not all("video_id" in i and "frame_number" in i for i in images):
        return []
    table = []
    for position, video in enumerate(objects(data["videos"], f"{source}: 'videos'")):
        place = f"{source}: video {shown(video.get('name', position))}"
        name = text(video.get("name"), f"{place}: 'name'")
        found = {
            "id": id_key(video.get("id"), f"{place}: 'id'"),
            "name": name,
            "nframes": whole(video.get("nframes"), f"{place}: 'nframes'", 0, MOST_FRAMES),
            "first_frame": whole(video.get("first_frame", 0), f"{place}: 'first_frame'", 0, 2**31),
            "pattern": video.get("pattern", "%06d.jpg"),
            "path": text(video.get("path", name), f"{place}: 'path'"),
        }
        try:
            Video(name, 1, 0, found["pattern"]).file_name(1)
        except (TypeError, ValueError, AttributeError):
            raise ValueError(
                f"{place}: 'pattern': expected a name with one %d or %06d, got "
                f"{shown(found['pattern'])}"
            ) from None
        table.append(found)
    for row, image in enumerate(images):
        if image["frame_number"] is None or type(image["video_id"]) is not int:
            place = places("image", images, "video_id", source)(row)
            whole(image["frame_number"], places("image", images, "frame_number", source)(row))
            images[row] = {**image, "video_id": id_key(image["video_id"], place)}
    return table


def _merge_images(
    images: list[Mapping[str, Any]], image_keys: list[Hashable], source: str
) -> tuple[list[Mapping[str, Any]], list[Hashable], dict[Hashable, int]]:
    """Images and their keys without those whose file came before, and the row of each key."""
    first: dict[str, Hashable] = {}
    merged: dict[Hashable, Hashable] = {}
    for image, own in zip(images, image_keys, strict=True):
        kept = first.setdefault(image["file_name"], own)
        if kept != own:
            merged[own] = kept
    if merged:
        warnings.warn(
            f"{source}: {len(merged)} images have the file name of an earlier one and are taken "
            "for it",
            stacklevel=4,
        )
        rows = [
            row
            for row, (image, own) in enumerate(zip(images, image_keys, strict=True))
            if first[image["file_name"]] == own
        ]
        images, image_keys = [images[row] for row in rows], [image_keys[row] for row in rows]
    row_of = {own: row for row, own in enumerate(image_keys)}
    row_of.update({own: row_of[kept] for own, kept in merged.items()})
    return images, image_keys, row_of


def read_regions(images: Sequence[Mapping[str, Any]], source: str) -> Regions:
    """``ignore_regions_x`` and ``_y`` of images, PoseTrack18's lists of polygons."""
    all_x: list[Any] = []
    all_y: list[Any] = []
    counts = []
    for image in images:
        xs, ys = image.get("ignore_regions_x") or [], image.get("ignore_regions_y") or []
        place = f"{source}: ignore regions of image {image['id']}"
        xs, ys = listing(xs, place), listing(ys, place)
        if xs and not isinstance(xs[0], list):  # one polygon, not in a list of its own
            xs, ys = [xs], [ys]
        if [len(listing(x, place)) for x in xs] != [len(listing(y, place)) for y in ys]:
            raise ValueError(f"{place}: x and y differ")
        all_x += xs
        all_y += ys
        counts.append(len(xs))
    flat = [
        column(list(chain.from_iterable(part)), lambda _: f"{source}: ignore regions")
        for part in (all_x, all_y)
    ]
    return Regions(np.stack(flat, 1), starts([len(x) for x in all_x]), starts(counts))


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
    places = frames_of_files([image["file_name"] for image in images], _originals(images))
    keys = [(folder, pattern) for folder, pattern, _ in places]
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
    warn_implausible(
        {v.name: [numbers[row] for row in rows[k]] for v, k in zip(videos, rows, strict=True)},
        source,
    )
    position_of = {key: i for i, key in enumerate(rows)}
    return videos, [position_of[key] for key in keys], numbers


def _originals(images: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What images that Roboflow renamed were called before, by their paths."""
    names = {}
    for image in images:
        extra = image.get("extra")
        before = extra.get("name") if isinstance(extra, Mapping) else None
        if isinstance(before, str) and before and ".rf." in image["file_name"]:
            names[image["file_name"]] = before
    return names


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
        **({"tracks": _tracks(dataset)} if dataset.track_names else {}),
    }


def _tracks(dataset: PoseDataset) -> list[dict[str, Any]]:
    """Names of tracks, of those that somebody has."""
    there = {*dataset.people.track_id.tolist()}
    return [{"id": t, "name": name} for t, name in dataset.track_names.items() if t in there]


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
