"""Frames by video and number, from folders of images or from video files."""

from __future__ import annotations

import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from posewarper.data.images import FrameError as FrameError
from posewarper.data.images import Image as Image
from posewarper.data.images import decode_image as decode_image
from posewarper.data.tables import Floats, PoseDataset, Video
from posewarper.data.video_file import VideoFile as VideoFile

Missing = Literal["error", "skip", "nearest", "key"]

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg")
_OPEN_FILES = 4  # of a source; each holds threads, memory and a file descriptor
_TOLD = 5  # warnings about frames of a video; all are recorded


class FrameSource:
    """Reads frames, and says what happens where one is missing or damaged.

    Where the folder of a video does not exist but a video file of the same name does
    (``clip.mp4`` for ``clip``), frames come from the file. The last frames read are kept, so that
    people and windows that share a frame do not decode it again. So are the video files read last
    kept open, a few of them. Copies in worker processes open their own files, each with one
    decoder thread.

    Args:
        root: folder that paths of videos start from.
        missing: see below.
        dataset: for file names that do not follow the pattern of their video.
        cached_frames: how many frames are kept; at least one.
        deinterlace: fill in the lines of interlaced files; see ``VideoFile``.

    Attributes:
        root: as given.
        missing: "error" raises; "skip" gives None; "nearest" takes, in place of a support frame,
            the nearest frame of the video that can be read, the earlier one of two; "key" the key
            frame, as the 2019 system does. No other frame's pixels stand for a key frame, where
            labels and boxes are: a missing one is None with "nearest", and an error with "key".
            All but the first warn, once per frame and of up to five frames of a video, and are
            recorded in ``problems``.
        problems: message per missing frame (name of the video, number).
        decoded: how many frames were decoded so far.

    Raises:
        ValueError: ``missing`` is none of these; the root does not exist.
    """

    def __init__(
        self,
        root: str | Path,
        missing: Missing = "error",
        *,
        dataset: PoseDataset | None = None,
        cached_frames: int = 16,
        deinterlace: bool = False,
    ):
        if missing not in get_args(Missing):
            raise ValueError(f"missing: expected one of {get_args(Missing)}, got {missing!r}")
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"root of the frames: {self.root} is no folder")
        self.missing: Missing = missing
        self.problems: dict[tuple[str, int], str] = {}
        self._told: Counter[str] = Counter()
        self.decoded = 0
        self._deinterlace = deinterlace
        self._names = {} if dataset is None else _irregular_names(dataset)
        self._cached_frames = cached_frames
        self._cache: OrderedDict[tuple[str, int], Image] = OrderedDict()
        self._files: dict[str, VideoFile | None] = {}
        self._opened: OrderedDict[str, VideoFile] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict(), "_opened": OrderedDict()}

    def read(self, video: Video, number: int, *, key: int | None = None) -> Image | None:
        """A frame as RGB [H, W, 3] uint8, not to be written to.

        Args:
            video: where it lies.
            number: which it is.
            key: the key frame that it supports, or ``number`` for the key frame itself; for the
                policies "nearest" and "key". None: none, so that any frame is near enough.

        Returns:
            The frame, or None if it is missing and the policy is "skip", or "nearest" and it is
            the key frame.

        Raises:
            FrameError: it is missing or damaged, and the policy is "error" or there is nothing
                else to take.
        """
        try:
            return self._read_exact(video, number)
        except FrameError as error:
            return self._instead(video, number, key, error)

    def prepare(self, videos: Iterable[Video]) -> None:
        """Index video files now, so that workers started later need not."""
        for video in videos:
            file = self.file_of(video)
            if file is not None:
                file.index()

    def _instead(
        self, video: Video, number: int, key: int | None, error: FrameError
    ) -> Image | None:
        if self.missing == "error" or (self.missing == "key" and key in (None, number)):
            raise error
        if (video.name, number) not in self.problems:
            self.problems[video.name, number] = str(error)
            self._told[video.name] += 1
            if self._told[video.name] <= _TOLD:
                warnings.warn(f"{error} (policy: {self.missing})", stacklevel=3)
            elif self._told[video.name] == _TOLD + 1:
                warnings.warn(
                    f"{video.name}: more of its frames cannot be read (policy: {self.missing})",
                    stacklevel=3,
                )
        if self.missing == "skip" or (self.missing == "nearest" and key == number):
            return None
        if self.missing == "key" and key is not None:
            return self._read_exact(video, key)
        for distance in range(1, video.frame_count):
            for other in (number - distance, number + distance):
                if video.first_frame <= other <= video.last_frame:
                    try:
                        return self._read_exact(video, other)
                    except FrameError:
                        continue
        raise error

    def _read_exact(self, video: Video, number: int) -> Image:
        place = (video.name, number)
        image = self._cache.get(place)
        if image is None:
            file = self.file_of(video)
            if file is not None:
                image = self._from_file(file, video, number)
            else:
                image = decode_image(
                    self.root / (self._names.get(place) or video.file_name(number))
                )
            image.flags.writeable = False
            self.decoded += 1
            self._cache[place] = image
            while len(self._cache) > max(self._cached_frames, 1):
                self._cache.popitem(last=False)
        self._cache.move_to_end(place)
        return image

    def _from_file(self, file: VideoFile, video: Video, number: int) -> Image:
        self._opened[video.name] = file
        self._opened.move_to_end(video.name)
        if len(self._opened) > _OPEN_FILES:
            self._opened.popitem(last=False)[1].close()
        image = file.read(number - video.first_frame)
        if image is None:
            damage = file.damage_seen()
            count = file.frame_count()
            if 0 <= number - video.first_frame < count:
                raise FrameError(f"{file.path}: frame {number} is damaged and cannot be decoded")
            raise FrameError(
                f"{file.path}: frame {number} cannot be read: the file has {count} frames, the "
                f"annotations say {video.frame_count} from {video.first_frame}"
                f"{'' if damage is None else '; ' + damage}"
            )
        return image

    def file_of(self, video: Video) -> VideoFile | None:
        """The file that holds the video's frames; None for a folder of images."""
        if video.name not in self._files:
            path = self.root / video.path
            found = path if video.is_file else None
            if not video.is_file and not path.is_dir():
                names = (path.with_name(path.name + suffix) for suffix in VIDEO_SUFFIXES)
                found = next((name for name in names if name.is_file()), None)
            self._files[video.name] = (
                None if found is None else VideoFile(found, deinterlace=self._deinterlace)
            )
        return self._files[video.name]


def times(source: FrameSource, video: Video, fps: float | None = None) -> Floats:
    """Seconds of all frames of a video, from its first frame on.

    Args:
        source: where the video lies.
        video: a file, or a folder of images.
        fps: frames per second, for folders; a file says itself when its frames are shown.

    Returns:
        [frame_count]; they grow. Frames that the annotations list but the file lacks go on at its
        mean rate.

    Raises:
        ValueError: a folder without ``fps``; ``fps`` is not positive.
        FrameError: the file cannot be read.
    """
    file = source.file_of(video)
    if file is None:
        return np.arange(video.frame_count) / frame_rate(source, video, fps)
    known = file.times()
    beyond = np.arange(1, video.frame_count - len(known) + 1) / file.frame_rate()
    return np.concatenate([known, known[-1] + beyond])[: video.frame_count]


def frame_rate(source: FrameSource, video: Video, fps: float | None = None) -> float:
    """Frames per second of a video, on average. Arguments and errors as for ``times``."""
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps: expected a number above 0, got {fps}")
    file = source.file_of(video)
    if file is not None:
        return file.frame_rate()
    if fps is None:
        raise ValueError(
            f"fps: {video.name} is a folder of images, which do not say when they were taken; "
            "expected their frames per second"
        )
    return float(fps)


def fill_sizes(dataset: PoseDataset, source: FrameSource) -> PoseDataset:
    """Sizes of frames for which the file did not say them, from the first listed frame of the same
    video that can be read.

    Raises:
        FrameError: none of them can.
    """
    frames = dataset.frames
    size_wh = np.array(frames.size_wh)
    unknown = size_wh.min(axis=1) <= 0
    for position in np.unique(frames.video[unknown]).tolist():
        rows = np.flatnonzero(frames.video == position)
        error: FrameError | None = None
        for row in rows.tolist():
            try:
                image = source.read(dataset.videos[position], int(frames.number[row]))
            except FrameError as caught:
                error = error or caught
                continue
            if image is not None:
                size_wh[rows[unknown[rows]]] = image.shape[1], image.shape[0]
                break
        else:
            raise error or FrameError(f"{dataset.videos[position].name}: no frame can be read")
    return replace(dataset, frames=replace(frames, size_wh=size_wh))


def _irregular_names(dataset: PoseDataset) -> dict[tuple[str, int], str]:
    frames, videos = dataset.frames, dataset.videos
    names = {}
    rows = zip(frames.video.tolist(), frames.number.tolist(), frames.file_name, strict=True)
    for position, number, name in rows:
        if name != videos[position].file_name(number):
            names[videos[position].name, number] = name
    return names
