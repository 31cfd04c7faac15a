"""Which frames of a video are looked at, and which are held until their windows are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from posewarper.data.tables import Video
from posewarper.data.video import Image
from posewarper.models import Window
from posewarper.streaming.sources import Frame

Unreadable = Literal["error", "skip"]


@dataclass(frozen=True)
class Options:
    """Which frames, and what happens to those that cannot be read.

    Attributes:
        start: number of the first frame; None: that of the video.
        frames: in how many frames poses are looked for, at most.
        every: in one of how many frames; windows hold all frames.
        missing: a damaged frame is an error, or the windows that it is in are left out.
        keep_partial: after an error or an interrupt what was found is written. Of a camera or a
            stream it always is.
        progress: show a progress bar.

    Raises:
        ValueError: an option is out of its range.
    """

    start: int | None = None
    frames: int | None = None
    every: int = 1
    missing: Unreadable = "error"
    keep_partial: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        for name, value in (("every", self.every), ("frames", self.frames)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected 1 or more, got {value}")
        if self.missing not in get_args(Unreadable):
            raise ValueError(
                f"missing: expected one of {', '.join(get_args(Unreadable))}, got {self.missing!r}"
            )


class Windows:
    """Takes frames in order and gives key frames back when all of their window is there.

    Args:
        video: for its first frame.
        window: of the model.
        options: which frames are key frames.

    Attributes:
        begin: the first frame that is needed.
        end: the last one; None: that of the video.
        seen: number of the last frame that came.
        ended: whether the video did, so that ``seen`` is its last frame.

    Raises:
        ValueError: the start lies before the video.
    """

    def __init__(self, video: Video, window: Window, options: Options):
        self.first, self.options, self.deltas = video.first_frame, options, window.deltas
        self.start = self.first if options.start is None else options.start
        if self.start < self.first:
            raise ValueError(f"start: the first frame is {self.first}, got {options.start}")
        self.begin = max(self.first, self.start + min(self.deltas))
        self.end: int | None = None
        if options.frames is not None:
            self.end = self.start + (options.frames - 1) * options.every + max(self.deltas)
        self.seen = self.begin - 1
        self.ended = False
        self._held: dict[int, Frame] = {}
        self._waiting: deque[Frame] = deque()

    def add(self, frame: Frame) -> Iterator[Frame]:
        """One more frame; gives the key frames that are ready."""
        self.seen = frame.number
        self._held[frame.number] = frame
        if self._is_key(frame.number):
            self._waiting.append(frame)
        yield from self._ready()

    def close(self) -> Iterator[Frame]:
        """There are no more frames: windows are clipped to the last one."""
        self.ended = True
        yield from self._ready()

    def window(self, key: int) -> tuple[tuple[int, ...], dict[int, Image], str]:
        """The frames of a window in the order of its deltas, their images, and what is wrong."""
        high = self.seen if self.ended else np.inf
        numbers = tuple(int(max(self.first, min(key + delta, high))) for delta in self.deltas)
        images = {}
        for number in numbers:
            frame = self._held.get(number)
            if frame is None:
                return numbers, {}, f"frame {number} is missing, which frame {key} needs"
            if frame.image is None:
                return numbers, {}, frame.problem
            images[number] = frame.image
        return numbers, images, ""

    def expected(self, video: Video) -> int | None:
        """In how many frames poses will be looked for; None if nobody knows."""
        asked, every = self.options.frames, self.options.every
        if not video.frame_count:
            return asked
        there = -(-max(video.last_frame + 1 - self.start, 0) // every)
        return there if asked is None else min(there, asked)

    def _is_key(self, number: int) -> bool:
        steps, rest = divmod(number - self.start, self.options.every)
        asked = self.options.frames
        return steps >= 0 and rest == 0 and (asked is None or steps < asked)

    def _ready(self) -> Iterator[Frame]:
        while self._waiting:
            key = self._waiting[0]
            if not self.ended and self.seen < key.number + max(self.deltas):
                break
            yield self._waiting.popleft()
        oldest = self._waiting[0].number if self._waiting else self.seen + 1
        needed = oldest + min(self.deltas)
        for number in [n for n in self._held if n < needed]:
            # The last frame stays: windows are clipped to it, should the video end here.
            if number != self.seen:
                del self._held[number]
