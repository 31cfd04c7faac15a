"""Labels onto the videos at hand: where they lie, how many frames they have, how large they are."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from posewarper.data.annotations import frame_of_file
from posewarper.data.tables import PoseDataset, Video
from posewarper.data.video import VideoFile, decode_image

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

VideoPath = str | Path
Videos = VideoPath | Mapping[str, VideoPath]


def attach(dataset: PoseDataset, videos: Videos) -> PoseDataset:
    """The same labels on other video files or folders of images.

    Frame numbers stay, so that images which were taken out of a video and are named by their number
    in it find their way back to it; in a folder, the file name decides, or the number if no name is
    found there. Only where labels of a video file go to a folder, frame n becomes the n-th image in
    the order of numbers. Sizes are read where the labels lack them.

    Args:
        dataset: labels.
        videos: video file or folder of images, if the labels are of one video; else a mapping from
            the video's name or path in the labels, or the last part of it with or without suffix.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a name is not among the videos; one path is given for several videos; labels
            name frames that do not exist.
    """
    for position, path in _choose(dataset, videos).items():
        dataset = _replace_video(dataset, position, Path(path))
    return dataset


def _choose(dataset: PoseDataset, videos: Videos) -> dict[int, VideoPath]:
    listed = dataset.videos
    if not isinstance(videos, Mapping):
        if len(listed) != 1:
            names = ", ".join(repr(video.name) for video in listed[:6])
            raise ValueError(
                f"{dataset.source}: video: one path is given, but the labels are of {len(listed)} "
                f"videos ({names}{', ...' if len(listed) > 6 else ''})"
            )
        return {0: videos}
    chosen: dict[int, VideoPath] = {}
    for name, path in videos.items():
        found = [i for i, video in enumerate(listed) if name in (video.name, video.path)]
        if not found:
            last = [posixpath.basename(video.path) for video in listed]
            found = [i for i, p in enumerate(last) if name in (p, posixpath.splitext(p)[0])]
        if len(found) != 1:
            raise ValueError(
                f"{dataset.source}: video: {name!r} stands for {len(found)} of the videos "
                f"{[video.name for video in listed]}, expected one"
            )
        chosen[found[0]] = path
    return chosen


def _replace_video(dataset: PoseDataset, position: int, path: Path) -> PoseDataset:
    frames, old = dataset.frames, dataset.videos[position]
    rows = np.flatnonzero(frames.video == position)
    numbers, names = np.array(frames.number), list(frames.file_name)
    if path.is_dir():
        new, images = _folder(path)
        if old.is_file:
            in_order = sorted(images)
            _check(dataset, rows, [n if n in range(len(images)) else None for n in numbers[rows]])
            numbers[rows] = [in_order[n] for n in numbers[rows].tolist()]
        else:
            by_name = {name: number for number, name in images.items()}
            found: list[int | None]
            found = [by_name.get(posixpath.basename(names[row])) for row in rows.tolist()]
            if all(number is None for number in found):  # the same frames under other names
                found = [n if n in images else None for n in numbers[rows].tolist()]
            _check(dataset, rows, found)
            numbers[rows] = [number for number in found if number is not None]
        for row in rows.tolist():
            names[row] = posixpath.join(new.path, images[int(numbers[row])])
        first_image = path / images[int(numbers[rows[0]])] if len(rows) else None
        size = (0, 0) if first_image is None else decode_image(first_image).shape[1::-1]
    elif path.is_file():
        file = VideoFile(path)
        count = file.frame_count()
        new = Video(path.with_suffix("").as_posix(), count, 0, "", path.as_posix())
        _check(dataset, rows, [n if n in range(count) else None for n in numbers[rows].tolist()])
        for row in rows.tolist():
            names[row] = new.file_name(int(numbers[row]))
        image = file.read(0)
        size = (0, 0) if image is None else image.shape[1::-1]
    else:
        raise FileNotFoundError(f"{path}: there is no such video file or folder of images")
    sizes = np.array(frames.size_wh)
    unknown = rows[sizes[rows].min(1, initial=1) <= 0]
    sizes[unknown] = size
    videos = (*dataset.videos[:position], new, *dataset.videos[position + 1 :])
    frame_id = np.array(frames.frame_id)
    frame_id[rows] = np.where(frame_id[rows] == frames.number[rows], numbers[rows], frame_id[rows])
    frames = replace(
        frames, number=numbers, frame_id=frame_id, file_name=tuple(names), size_wh=sizes
    )
    return replace(dataset, videos=videos, frames=frames)


def _folder(path: Path) -> tuple[Video, dict[int, str]]:
    """A folder as a video, and its images by number."""
    names = sorted(p.name for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not names:
        raise ValueError(f"{path}: no images in this folder ({', '.join(IMAGE_SUFFIXES)})")
    places = [frame_of_file(name) for name in names]
    images = {number: name for name, (_, _, number) in zip(names, places, strict=True)}
    if len(images) != len(names):
        raise ValueError(f"{path}: two of the images {names[:4]}, ... have the same number")
    pattern = next((p for _, p, _ in places if "%0" in p), places[0][1])
    first, last = min(images), max(images)
    return Video(path.as_posix(), last - first + 1, first, pattern), images


def _check(dataset: PoseDataset, rows: np.ndarray, found: list[int | None]) -> None:
    names = [
        dataset.frames.file_name[row]
        for row, number in zip(rows.tolist(), found, strict=True)
        if number is None
    ]
    if names:
        video = dataset.videos[dataset.frames.video[rows[0]]].name
        raise ValueError(
            f"{dataset.source}: {len(names)} of {len(rows)} frames of video {video!r} do not exist "
            f"in the video given: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        )
