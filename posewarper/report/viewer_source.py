"""Which videos and frames the viewer shows, and where they lie."""

from __future__ import annotations

import fnmatch
import math
import os
from pathlib import Path
from typing import Literal

import numpy as np

from posewarper.data.formats import load_labels
from posewarper.data.formats.attach import attach
from posewarper.data.tables import PoseDataset, Video
from posewarper.data.video import VIDEO_SUFFIXES, FrameError, VideoFile
from posewarper.report.viewer_data import (
    human_frames,
    same_video,
    short_name,
    with_joints_of,
)

WhichFrames = Literal["all", "annotated", "human"]

_FPS_OF_IMAGES = 25.0


def load_videos(
    labels: Path, video: Path | None, name: str | None, compare: Path | None
) -> tuple[PoseDataset, PoseDataset | None, dict[int, str]]:
    """The chosen videos of the labels, the other labels with the same joints, and track names.

    Raises:
        FileNotFoundError: there is no such file or video.
        ValueError: a file that cannot be read, no video of this name, or other labels that have
            none of the videos or none of the joints.
    """
    dataset = _chosen(load_labels(labels), name, "name")
    if video is not None:
        dataset = attach(dataset, video)
    tracks = dict(dataset.track_names)
    if compare is None:
        return dataset, None, tracks
    other = load_labels(compare)
    if video is not None:
        if len(other.videos) > 1:
            other = _chosen(other, dataset.videos[0].name if name is None else name, "compare")
        other = attach(other, video)
    if all(same_video(other, dataset, position) is None for position in range(len(dataset.videos))):
        raise ValueError(
            f"compare: {other.source} has none of the videos of {dataset.source}: "
            f"{_listed(other)} and {_listed(dataset)}"
        )
    return dataset, with_joints_of(other, dataset), tracks


def _chosen(dataset: PoseDataset, name: str | None, argument: str) -> PoseDataset:
    """The videos of this name, or else those of which it is the last part, or whose names match."""
    if name is None:
        return dataset
    names = [video.name for video in dataset.videos]
    for same in (
        [n == name for n in names],
        [short_name(n) == short_name(name) for n in names],
        [fnmatch.fnmatchcase(n, name) for n in names],
    ):
        if any(same):
            return dataset.select(videos=np.array(same))
    raise ValueError(
        f"{argument}: {dataset.source} has no video {name!r}; it has {_listed(dataset)}"
    )


def _listed(dataset: PoseDataset) -> str:
    names = [video.name for video in dataset.videos]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def root_of(dataset: PoseDataset, images: Path | None, video: Path | None, labels: Path) -> Path:
    """The folder that the frames' paths start in.

    Args:
        dataset: labels whose videos are looked for.
        images: the folder, if the user gave it.
        video: what the user attached the labels to; its path starts in the current folder.
        labels: file or folder of the labels.

    Raises:
        FileNotFoundError: it is no folder, or no video is found in those that are tried.
    """
    if images is not None:
        if not images.is_dir():
            raise FileNotFoundError(f"images: expected a folder, got {images}")
        return images
    if video is not None:
        return Path()
    tried = list(dict.fromkeys([labels.parent, labels.parent.parent, Path()]))
    for folder in tried:
        if any(_is_below(folder, dataset, position) for position in range(len(dataset.videos))):
            return folder
    raise FileNotFoundError(
        f"{dataset.source}: no frames of video {_listed(dataset)} below "
        f"{', '.join(str(folder.absolute()) for folder in tried)}: give images, the folder that "
        "the paths start in, or video"
    )


def _is_below(folder: Path, dataset: PoseDataset, position: int) -> bool:
    video = dataset.videos[position]
    if _video_file(folder, video) is not None:
        return True
    listed = np.flatnonzero(dataset.frames.video == position)[:20].tolist()
    if any((folder / dataset.frames.file_name[row]).is_file() for row in listed):
        return True
    return video.path != "." and not video.is_file and (folder / video.path).is_dir()


def _video_file(root: Path, video: Video) -> Path | None:
    """The file that ``FrameSource`` reads the video from; None for a folder of images."""
    path = root / video.path
    if video.is_file:
        return path if path.is_file() else None
    if path.is_dir():
        return None
    files = (path.with_name(path.name + suffix) for suffix in VIDEO_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def frame_numbers(
    dataset: PoseDataset, position: int, root: Path, which: WhichFrames,
    first: int | None, last: int | None, every: int,
) -> list[int]:  # fmt: skip
    """Numbers of the frames to show, ascending.

    Of a folder with images of less than half of its frames, such as those that were taken out of a
    video to be labelled, only the images that are there or listed are shown; otherwise a frame
    without an image is one that is missing.

    Args:
        dataset: labels.
        position: of the video.
        root: folder that paths start in.
        which: see ``view``.
        first: the lowest number, if any.
        last: the highest.
        every: every k-th of what is left.
    """
    video, table = dataset.videos[position], dataset.frames
    listed = set(table.number[table.video == position].tolist())
    if which == "annotated":
        rows = np.unique(dataset.people.frame)
        chosen = set(table.number[rows[table.video[rows] == position]].tolist())
    elif which == "human":
        in_order = sorted(listed)
        chosen = {in_order[at] for at in human_frames(dataset, position, in_order)}
    else:
        every_number = range(video.first_frame, video.last_frame + 1)
        chosen = listed | set(every_number)
        folder = root / video.path
        if not video.is_file and folder.is_dir():
            there = set(os.listdir(folder))
            known = {n for n in every_number if os.path.basename(video.file_name(n)) in there}
            known |= listed
            if len(known) < len(every_number) / 2:
                chosen = known
            elif video.first_frame == 0 and 0 not in known and 1 in known:
                chosen.discard(0)  # the labels did not say that images count from 1
    low = -math.inf if first is None else first
    high = math.inf if last is None else last
    return [number for number in sorted(chosen) if low <= number <= high][::every]


def fps_of(root: Path, video: Video) -> float:
    """Frames per second of a video file, on average; 25 for folders and files that do not tell."""
    file = _video_file(root, video)
    if file is None:
        return _FPS_OF_IMAGES
    try:
        return round(VideoFile(file).frame_rate(), 3)
    except FrameError:
        return _FPS_OF_IMAGES
