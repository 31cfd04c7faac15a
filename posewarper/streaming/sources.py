"""Frames in order, with number and time: of video files, folders of images, cameras and streams."""

from __future__ import annotations

import logging
import math
import os
import posixpath
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import cv2
import numpy as np

from posewarper.data.frame_names import frames_of_files
from posewarper.data.images import IMAGE_SUFFIXES, FrameError, Image, decode_image, image_files
from posewarper.data.tables import Video
from posewarper.data.video_file import VideoFile

log = logging.getLogger("posewarper.streaming")

# OpenCV's FFmpeg, for streams: what is wrong is said by us, once. It looks here when first used.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

DEFAULT_FPS = 25.0  # of folders, and of cameras that do not tell
_EXPECTED = (
    "a video file, a folder of images, an image, the number of a camera, or the URL of a stream "
    "(rtsp://..., http://...)"
)


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


def open_source(video: str, fps: float | None = None, *, deinterlace: bool = False) -> Source:
    """The frames that a word on the command line stands for.

    Args:
        video: video file, folder of images (whose names end in numbers), one image, number of a
            camera, or URL of a stream.
        fps: frames per second, where they are not known (folders) or wrong.
        deinterlace: fill in the lines of interlaced files; see ``data.video_file.VideoFile``.

    Raises:
        ValueError: it is none of these; two images have the same number; a rate that is not
            positive.
        FrameError: it cannot be read.
        FileNotFoundError: there is no such file.
    """
    if not video.strip():
        raise ValueError(f"video: expected {_EXPECTED}, got an empty word")
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps: expected a positive number, got {fps}")
    if "://" in video:  # first: URLs can be longer than names of files
        return _Live(video, name_of_stream(video), fps)
    path = Path(video)
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        return _Images(path, fps or DEFAULT_FPS)
    if path.is_file():
        return _VideoFile(path, fps, deinterlace)
    if video.isdecimal():
        return _Live(int(video), f"camera-{video}", fps)
    raise FileNotFoundError(f"video: expected {_EXPECTED}, got {video!r}, which is not there")


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
            names = [p.name for p in image_files(path)]
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
        name = folder.resolve().name if path.is_dir() else path.stem
        self.path: Path | None = folder
        where = folder.resolve().name
        self.video = Video(name, last - first + 1, first, pattern, "" if name == where else where)
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
    """A video file. Where frames are missing, a warning at the end says which."""

    live = False

    def __init__(self, path: Path, fps: float | None, deinterlace: bool):
        self.path: Path | None = path
        self._file = VideoFile(path, deinterlace=deinterlace)
        self._own_times = fps is None  # a rate that was given counts more than time stamps
        try:
            self.fps = fps or self._file.frame_rate()
        except FrameError:
            if not self._file.frame_count():
                raise
            self.fps = DEFAULT_FPS
        self.video = Video(path.stem, self._file.frame_count(), 0, "", path.name)

    def frames(self, first: int) -> Iterator[Frame]:
        count = self.video.frame_count
        seconds = np.arange(count) / self.fps
        if self._own_times and (np.diff(self._file.index()) > 0).all():
            seconds = self._file.times()
        for number in range(first, count):
            image, name = self._file.read(number), self.video.file_name(number)
            problem = "" if image is not None else f"{self.path}: frame {number} is damaged"
            yield Frame(number, float(seconds[number]), image, name, problem)
        damage = self._file.damage_seen()
        if damage is not None:
            log.warning("%s", damage)
        self._file.close()


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


def _open(place: int | str, name: str) -> cv2.VideoCapture:
    told = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(place, cv2.CAP_ANY if isinstance(place, int) else cv2.CAP_FFMPEG)
    finally:
        cv2.utils.logging.setLogLevel(told)
    if not capture.isOpened():
        what = "a camera" if isinstance(place, int) else "a video"
        raise FrameError(f"video: OpenCV cannot read {name} as {what}")
    return capture


def _rgb(image: object) -> Image:
    return np.asarray(cv2.cvtColor(np.asarray(image, np.uint8), cv2.COLOR_BGR2RGB), np.uint8)
