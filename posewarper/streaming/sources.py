"""Frames in order, with number and time: of video files, folders of images, cameras and streams."""

from __future__ import annotations

import logging
import math
import posixpath
import time
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import cv2
import numpy as np

from posewarper.data.formats.attach import IMAGE_SUFFIXES
from posewarper.data.frame_names import frames_of_files
from posewarper.data.tables import Video
from posewarper.data.video import FrameError, Image, decode_image
from posewarper.data.video_faults import missing_frames, why_no_video

log = logging.getLogger("posewarper.streaming")

DEFAULT_FPS = 25.0  # of folders, and of cameras that do not tell


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        number: in its video.
        time: seconds since the beginning of the video.
        image: RGB [H, W, 3] uint8; None if it is damaged.
        file_name: path below the folder that the video lies in.
        problem: what is wrong with it; names the file.
    """

    number: int
    time: float
    image: Image | None
    file_name: str
    problem: str = ""


class Source(Protocol):
    """Frames of one video.

    Attributes:
        video: how data sets call it; ``frame_count`` is what the file says, 0 if nobody knows.
        path: the file or folder; None for cameras and streams.
        fps: frames per second, roughly where they are not evenly spaced.
        live: whether frames come as they happen, from a camera or a stream.
    """

    video: Video
    path: Path | None
    fps: float
    live: bool

    def frames(self, first: int) -> Iterator[Frame]:
        """The frames from a number on, in order; a number may be missing.

        Raises:
            FrameError: nothing can be read.
        """


def open_source(video: str, fps: float | None = None) -> Source:
    """The frames that a word on the command line stands for.

    Args:
        video: video file, folder of images (whose names end in numbers), one image, number of a
            camera, or URL of a stream.
        fps: frames per second, where they are not known (folders) or wrong.

    Raises:
        ValueError: it is none of these; two images have the same number; a rate that is not
            positive.
        FrameError: OpenCV cannot read it.
        FileNotFoundError: there is no such file.
    """
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps: expected a positive number, got {fps}")
    if "://" in video:  # first: URLs can be longer than names of files
        return _Live(video, name_of_stream(video), fps)
    path = Path(video)
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        return _Images(path, fps or DEFAULT_FPS)
    if path.is_file():
        return _VideoFile(path, fps)
    if video.isdecimal():
        return _Live(int(video), f"camera-{video}", fps)
    raise FileNotFoundError(
        f"video: expected a video file, a folder of images, the number of a camera or the URL of a "
        f"stream, got {video!r}, which is not there"
    )


def name_of_stream(url: str) -> str:
    """What a stream is called in files and messages: without the password of the camera."""
    parts = urlsplit(url)
    return f"{parts.hostname or ''}{parts.path}".strip("/") or "stream"


class _Images:
    """A folder of images, or one image."""

    live = False

    def __init__(self, path: Path, fps: float):
        if path.is_dir():
            folder = path
            names = sorted(p.name for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            if not names:
                raise ValueError(
                    f"video: no images in the folder {path} ({', '.join(IMAGE_SUFFIXES)})"
                )
        elif path.is_file():
            folder, names = path.parent, [path.name]
        else:
            raise FileNotFoundError(f"video: there is no file {path}")
        places = frames_of_files(names)
        self._names: Mapping[int, str] = {
            number: name for name, (_, _, number) in zip(names, places, strict=True)
        }
        if len(self._names) != len(names):
            raise ValueError(
                f"video: images in {path} have the same number, for example two of "
                f"{', '.join(names[:4])}; the last number that varies says which "
                "frame it is"
            )
        pattern = next((p for _, p, _ in places if "%0" in p), places[0][1])
        first, last = min(self._names), max(self._names)
        name = folder.resolve().name
        self.path: Path | None = folder
        self.video = Video(name, last - first + 1, first, pattern)
        self.fps = fps

    def frames(self, first: int) -> Iterator[Frame]:
        assert self.path is not None
        for number in sorted(n for n in self._names if n >= first):
            name = self._names[number]
            seconds = (number - self.video.first_frame) / self.fps
            below = posixpath.join(self.video.path, name)
            try:
                image = decode_image(self.path / name)
            except FrameError as error:
                yield Frame(number, seconds, None, below, str(error))
            else:
                yield Frame(number, seconds, image, below)


class _VideoFile:
    """A video file, from its beginning to its end: no index is needed.

    Frames are counted as ``data.video.VideoFile`` counts them. Where some are missing, a warning at
    the end says which.
    """

    live = False

    def __init__(self, path: Path, fps: float | None):
        capture = _open_file(path)
        told = capture.get(cv2.CAP_PROP_FPS)
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        self.path: Path | None = path
        self._own_times = fps is None  # a rate that was given counts more than time stamps
        self.fps = fps or (told if math.isfinite(told) and 0 < told <= 1000 else DEFAULT_FPS)
        self.video = Video(path.stem, max(count, 0), 0, "", path.name)

    def frames(self, first: int) -> Iterator[Frame]:
        assert self.path is not None
        capture = _open_file(self.path)
        number, last_time, stamps = 0, -math.inf, array("d")  # eight bytes a frame
        try:
            while capture.grab():
                stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC))
                seconds = (stamps[-1] - stamps[0]) / 1000
                if not self._own_times or not seconds > last_time:  # no usable time stamps
                    seconds = max(number / self.fps, last_time + 1e-3)
                last_time = seconds
                if number >= first:
                    name = self.video.file_name(number)
                    done, image = capture.retrieve()
                    if done:
                        yield Frame(number, seconds, _rgb(image), name)
                    else:
                        problem = f"{self.path}: frame {number} cannot be decoded"
                        yield Frame(number, seconds, None, name, problem)
                number += 1
        finally:
            capture.release()
        if not number:
            raise FrameError(f"{self.path}: a video, but none of its frames can be decoded")
        damage = missing_frames(self.path, np.array(stamps))
        if damage is not None:
            log.warning("%s", damage)


class _Live:
    """A camera or a stream; numbers count the frames, times are those of their arrival."""

    live = True
    path: Path | None = None

    def __init__(self, device: int | str, name: str, fps: float | None):
        self._capture = _open(device, name)
        told = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps or (told if math.isfinite(told) and 0 < told <= 240 else DEFAULT_FPS)
        self.video = Video(name, 0, 0, "", name)

    def frames(self, first: int) -> Iterator[Frame]:
        start, last, number = None, -math.inf, 0
        try:
            while self._capture.grab():
                now = time.monotonic()
                start = now if start is None else start
                last = seconds = max(now - start, last + 1e-3)  # some clocks take large steps
                if number >= first:
                    name = self.video.file_name(number)
                    done, image = self._capture.retrieve()
                    problem = "" if done else f"{self.video.name}: frame {number} is damaged"
                    pixels = _rgb(image) if done else None
                    yield Frame(number, seconds, pixels, name, problem)
                number += 1
        finally:
            self._capture.release()
        if not number:
            raise FrameError(f"{self.video.name}: no frame came")


def _open_file(path: Path) -> cv2.VideoCapture:
    if not path.stat().st_size:
        raise FrameError(f"{path}: {why_no_video(path)}")
    # Absolute, or FFmpeg would take what is before a colon in the name for a protocol.
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise FrameError(f"{path}: {why_no_video(path)}")
    return capture


def _open(place: int | str, name: str) -> cv2.VideoCapture:
    backend = cv2.CAP_ANY if isinstance(place, int) else cv2.CAP_FFMPEG
    capture = cv2.VideoCapture(place, backend)
    if not capture.isOpened():
        what = "a camera" if isinstance(place, int) else "a video"
        raise FrameError(f"video: OpenCV cannot read {name} as {what}")
    return capture


def _rgb(image: object) -> Image:
    return np.asarray(cv2.cvtColor(np.asarray(image, np.uint8), cv2.COLOR_BGR2RGB), np.uint8)
