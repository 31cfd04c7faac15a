"""Frames by video and number, from folders of images or from video files."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from posewarper.data.tables import Floats, PoseDataset, Video
from posewarper.data.video_faults import missing_frames, why_no_video

Image = npt.NDArray[np.uint8]
Missing = Literal["error", "skip", "nearest", "key"]

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg")
# Captures that were open when the process was forked. They are never closed: closing waits for
# decoder threads, which a forked process does not have.
_INHERITED: list[cv2.VideoCapture] = []
_JUMP = 48  # decoding this many frames is cheaper than seeking
_OPEN_FILES = 4  # of a source; each holds threads, memory and a file descriptor


class FrameError(ValueError):
    """A frame that is missing or cannot be decoded; the message names the file."""


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

    Attributes:
        root: as given.
        missing: "error" raises; "skip" gives None; "nearest" takes, in place of a support frame,
            the nearest frame of the video that can be read, the earlier one of two; "key" the key
            frame, as the 2019 system does. No other frame's pixels stand for a key frame, where
            labels and boxes are: a missing one is None with "nearest", and an error with "key".
            All but the first warn, once per frame, and are recorded in ``problems``.
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
    ):
        if missing not in get_args(Missing):
            raise ValueError(f"missing: expected one of {get_args(Missing)}, got {missing!r}")
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"root of the frames: {self.root} is no folder")
        self.missing: Missing = missing
        self.problems: dict[tuple[str, int], str] = {}
        self.decoded = 0
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
        """Index video files now (one pass over each), so that workers started later need not."""
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
            warnings.warn(f"{error} (policy: {self.missing})", stacklevel=3)
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
            damage = file.damage()
            raise FrameError(
                f"{file.path}: frame {number} cannot be read: the file has "
                f"{file.frame_count()} frames, the annotations say {video.frame_count} "
                f"from {video.first_frame}{'' if damage is None else '; ' + damage}"
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
            self._files[video.name] = None if found is None else VideoFile(found)
        return self._files[video.name]


class VideoFile:
    """Frames of one video file by index, exact also after a jump.

    Frames are counted as they are decoded, one after another: whatever the frame rate, an edit list
    or a start offset says, frame n is the same one in any order of reading, and the one that other
    tools which use OpenCV mean by n. Videos that are to be shown turned by 90, 180 or 270 degrees
    come upright, and sizes and coordinates are those of the upright frames; mirrored ones come as
    OpenCV reads them, not mirrored.

    OpenCV's own seeking trusts the frame rate, which fails where frames are not evenly spaced.
    Here one pass over the file notes the time stamp of every frame; after a jump the time stamp
    tells which frame came, and decoding goes on from there. Without usable time stamps (they do
    not grow), every jump starts at the beginning.
    """

    def __init__(self, path: Path):
        self.path = path
        self._times: Floats | None = None
        self._nominal_rate = 0.0
        self._damage: tuple[str | None] | None = None  # once it is known
        self._capture: cv2.VideoCapture | None = None
        self._owner = 0
        self._next = 0  # index of the frame that the next grab gives

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_capture": None}

    def read(self, index: int) -> Image | None:
        """Frame ``index`` (from 0) as RGB [H, W, 3] uint8; None if there is none.

        Raises:
            FrameError: the file is missing or no video.
        """
        if index < 0 or (self._times is not None and index >= len(self._times)):
            return None
        capture = self._open()
        if not self._next <= index <= self._next + _JUMP:
            capture = self._jump(index)
        while self._next <= index:
            if not capture.grab():
                self.close()
                return None
            self._next += 1
        done, image = capture.retrieve()
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if done else None  # type: ignore[return-value]

    def frame_count(self) -> int:
        """How many frames can be decoded; counts them once."""
        return len(self.index())

    def index(self) -> Floats:
        """Time stamps in milliseconds as the file has them, one per frame; zeros where it has none.

        Raises:
            FrameError: the file is missing or no video, or not one frame can be decoded.
        """
        if self._times is None:
            self.close()
            capture = self._open()
            times = []
            while capture.grab():
                times.append(capture.get(cv2.CAP_PROP_POS_MSEC))
            self._nominal_rate = capture.get(cv2.CAP_PROP_FPS)
            self.close()
            if not times:
                raise FrameError(f"{self.path}: a video, but none of its frames can be decoded")
            self._times = np.array(times)
        return self._times

    def times(self) -> Floats:
        """When each frame is shown, in seconds after the first; they grow.

        Evenly spaced by the frame rate that the file names, if it has no usable time stamps.

        Raises:
            FrameError: as ``index``; or the file has neither.
        """
        stamps = self.index()
        if _grow(stamps):
            return (stamps - stamps[0]) / 1000
        return np.arange(len(stamps)) / self._rate_named()

    def frame_rate(self) -> float:
        """Frames per second, on average.

        Raises:
            FrameError: as ``times``.
        """
        times = self.times()
        return (len(times) - 1) / times[-1] if len(times) > 1 else self._rate_named()

    def damage(self) -> str | None:
        """Which frames are missing of a file that is cut off or damaged, as a message; None if the
        file has what it promises, or promises nothing.

        Raises:
            FrameError: as ``index``.
        """
        if self._damage is None:
            self._damage = (missing_frames(self.path, self.index()),)
        return self._damage[0]

    def close(self) -> None:
        """Let go of the decoder; the next read opens the file again, and needs no new index."""
        if self._capture is not None and self._owner == os.getpid():
            self._capture.release()
        elif self._capture is not None:
            _INHERITED.append(self._capture)
        self._capture = None

    def _rate_named(self) -> float:
        if not (np.isfinite(self._nominal_rate) and self._nominal_rate > 0):
            raise FrameError(f"{self.path}: has no time stamps and names no frame rate")
        return self._nominal_rate

    def _jump(self, index: int) -> cv2.VideoCapture:
        """Leave the capture so that grabs from ``self._next`` on lead to ``index``."""
        # Near the beginning the index would cost more than decoding from there.
        times = self.index() if index > _JUMP else np.zeros(0)
        if index < len(times) and _grow(times):
            capture = self._open()
            for back in (1, 16, 64, 256):
                # The frame before is asked for, so that the wanted one is still to be grabbed.
                capture.set(cv2.CAP_PROP_POS_FRAMES, max(index - back, 0))
                if not capture.grab():
                    break
                here = np.flatnonzero(times == capture.get(cv2.CAP_PROP_POS_MSEC))
                if len(here) == 1 and here[0] < index:
                    self._next = int(here[0]) + 1
                    return capture
        self.close()
        return self._open()

    def _open(self) -> cv2.VideoCapture:
        # After a fork the open file, and with it the place in it, is shared with the parent.
        if self._capture is not None and self._owner != os.getpid():
            _INHERITED.append(self._capture)
            self._capture = None
        if self._capture is None:
            if not self.path.is_file() or not self.path.stat().st_size:
                raise FrameError(f"{self.path}: {why_no_video(self.path)}")
            # Worker processes share the cores already.
            alone = multiprocessing.parent_process() is None
            options = [] if alone else [cv2.CAP_PROP_N_THREADS, 1]
            # Absolute, or FFmpeg would take what is before a colon in the name for a protocol.
            capture = cv2.VideoCapture(str(self.path.absolute()), cv2.CAP_FFMPEG, options)
            # FFmpeg also reads images, as videos of one frame.
            one = capture.get(cv2.CAP_PROP_FRAME_COUNT) <= 1
            if not capture.isOpened() or (one and cv2.haveImageReader(str(self.path))):
                raise FrameError(f"{self.path}: {why_no_video(self.path)}")
            self._capture, self._owner, self._next = capture, os.getpid(), 0
        return self._capture


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


def _grow(stamps: Floats) -> bool:
    return bool((np.diff(stamps) > 0).all())


def _irregular_names(dataset: PoseDataset) -> dict[tuple[str, int], str]:
    frames, videos = dataset.frames, dataset.videos
    names = {}
    rows = zip(frames.video.tolist(), frames.number.tolist(), frames.file_name, strict=True)
    for position, number, name in rows:
        if name != videos[position].file_name(number):
            names[videos[position].name, number] = name
    return names


def decode_image(path: Path) -> Image:
    """An image file as RGB [H, W, 3] uint8; the orientation in its metadata is ignored.

    Raises:
        FrameError: it is missing, no image, or cut off; names the file. (OpenCV fills
            what is missing of a cut-off JPEG with grey.)
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"{path}: {error.strerror or error}") from None
    if _is_cut_off(data):
        raise FrameError(f"{path}: the image is cut off after {len(data)} bytes")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if image is None:
        raise FrameError(f"{path}: not an image that OpenCV can read ({len(data)} bytes)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def _is_cut_off(data: bytes) -> bool:
    """Whether the end marker of a JPEG or PNG is missing."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    if not data.startswith(b"\xff\xd8"):
        return False
    place = 2
    while place + 4 <= len(data):  # segments up to the image data: a thumbnail's end does not count
        if data[place] != 0xFF:
            return False  # for the decoder to judge
        if data[place + 1] == 0xDA:
            return data.find(b"\xff\xd9", place) < 0
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return True
