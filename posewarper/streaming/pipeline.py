"""A video through the model: reading, the network, and writing at the same time.

    reading thread -> frames -> this thread: windows, boxes, network -> results -> writing thread

Both queues are short, so that memory does not depend on the length of the video, and the slowest of
the three sets the pace.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from posewarper.data.tables import Floats, Video
from posewarper.data.video import FrameError, Image
from posewarper.progress import progress_bar
from posewarper.streaming.boxes import Finder, FromFile, HeldBoxes
from posewarper.streaming.overlay import Overlay
from posewarper.streaming.people import Finisher, Result
from posewarper.streaming.poses import Job, Places, WindowPoses
from posewarper.streaming.sources import Frame, Source
from posewarper.streaming.threads import Channel, Stopped, Worker
from posewarper.streaming.windows import Options, Windows
from posewarper.streaming.writing import ResultFile
from posewarper.training.interrupts import Interrupts

log = logging.getLogger("posewarper.streaming")

_WAITING = 8  # frames and results in the queues
_TOGETHER = 16  # frames whose people go through the network together, at most
_TOLD = 5  # messages about frames
_PATIENCE = 10.0  # seconds for a camera or a disk that hangs


@dataclass
class Summary:
    """What became of a video.

    Attributes:
        frames: in which poses were looked for.
        people: that were found in them.
        left_out: numbers of frames whose window could not be read.
        interrupted: whether Ctrl-C or SIGTERM came.
        written: whether there is a file of results.
    """

    frames: int = 0
    people: int = 0
    left_out: list[int] = field(default_factory=list)
    interrupted: bool = False
    written: bool = False


@dataclass(frozen=True)
class _End:
    """No more frames: at the end of the video, when there are enough, or after an error."""

    of_video: bool
    error: Exception | None = None


def predict_stream(
    source: Source,
    find: Finder,
    poses: WindowPoses,
    finish: Finisher,
    out: ResultFile,
    *,
    options: Options | None = None,
    overlay: Path | None = None,
    held: HeldBoxes | None = None,
) -> Summary:
    """Poses of a video, written to a file and drawn on its frames.

    Results are those of ``inference.predict_boxes`` for the same boxes: at the ends of the video
    windows are clipped to it, and frames before ``start`` and after the last one still take part.

    Args:
        source: the frames.
        find: where people are.
        poses: the model and its window.
        finish: scores, tracks, smoothing.
        out: the file of the results; it appears whole or not at all.
        options: by default ``Options()``.
        overlay: MP4 file of the frames with the poses drawn on them; whole or not at all.
        held: holds boxes over some frames.

    Raises:
        FrameError: a frame is damaged, and ``missing`` says so; nothing can be read.
        KeyboardInterrupt: Ctrl-C or SIGTERM, in a video that has an end; after what was found is
            written, if ``keep_partial`` says so.
        ValueError: heatmaps that are not finite; no frame to look at.
        OSError: a file cannot be written.
    """
    options = options or Options()
    windows = Windows(source.video, poses.window, options)
    poses.forget()
    summary = Summary()
    problem: Exception | None = None
    whole = False
    frames: Channel[Frame | _End] = Channel(_WAITING)
    results: Channel[Result | None] = Channel(_WAITING)
    draw = Overlay(overlay, source.fps / options.every, finish.model.skeleton)
    reader = Worker("reading", lambda: _read(source, windows, frames), frames.stop)
    writer = Worker("writing", lambda: _write(results, out, draw), results.stop)
    total = windows.expected(source.video)
    with (
        Interrupts() as interrupts,
        out,
        progress_bar(options.progress, total=total, unit="frame", desc="poses") as bar,
    ):
        try:
            reader.start()
            writer.start()
            work = _Work(find, poses, finish, windows, held, batches=not source.live)
            arriving = _arriving(frames, interrupts, summary)
            try:
                for result in work.results(arriving):
                    results.put(result)
                    _count(result, summary)
                    bar.update()
            except Stopped:
                raise
            except Exception as error:
                problem = error
            if not summary.frames and problem is None and not summary.interrupted:
                problem = ValueError(
                    f"start: {source.video.name} has no frame {windows.start} or later"
                )
            whole = problem is None and not summary.interrupted
            keep = summary.frames and (options.keep_partial or source.live)
            if whole or keep:
                results.put(None)
                writer.join()
                if writer.error is None:
                    out.finish(_listed(source.video, windows))
                    summary.written = True
        except Stopped:
            pass  # the error of the other thread is raised below
        finally:
            frames.stop()
            results.stop()
            writer.join()
            reader.join(_PATIENCE)
    if summary.written and not whole:
        log.warning("%s: what was found in %d frames is written", out.path, summary.frames)
    for failure in (writer.error, reader.error, problem):
        if failure is not None:
            raise failure
    if len(summary.left_out) > _TOLD:
        log.warning("left out: %d frames in all", len(summary.left_out))
    if summary.interrupted and not source.live:
        raise KeyboardInterrupt
    return summary


class _Work:
    """What happens between reading and writing."""

    def __init__(
        self,
        find: Finder,
        poses: WindowPoses,
        finish: Finisher,
        windows: Windows,
        held: HeldBoxes | None,
        batches: bool,
    ):
        self.find, self.poses, self.finish, self.windows = find, poses, finish, windows
        self.held = held
        self._room = max(poses.predictor.batch_size // len(poses.window), 1)
        # A camera's people are not kept waiting for those of the next frame.
        self._at_once = find.needs_poses or not batches
        self._collected: list[tuple[Frame, Job | str]] = []
        self._size_wh = (0, 0)  # of the last frame
        self._sizes_told = False
        self._own_boxes = poses.aggregates and poses.predictor.model.support_box == "own"
        self._places: dict[int, Places] = {}  # of the last key frames

    def results(self, frames: Iterator[Frame | None]) -> Iterator[Result]:
        """Results of all key frames, in order; also those before an error, which is raised last."""
        problem = None
        try:
            for frame in frames:
                ready = self.windows.close() if frame is None else self.windows.add(frame)
                for key in ready:
                    self._collect(key)
                    if self._at_once or self._full():
                        yield from self._done()
        except (FrameError, OSError) as error:
            problem = error
        yield from self._done()
        if problem is not None:
            raise problem

    def _full(self) -> bool:
        people = sum(len(job.places) for _, job in self._collected if isinstance(job, Job))
        return len(self._collected) >= _TOGETHER or people >= self._room

    def _collect(self, key: Frame) -> None:
        numbers, images, wrong = self.windows.window(key.number)
        if wrong:
            if self.windows.options.missing == "error":
                raise FrameError(f"{wrong} (missing: error; skip leaves such frames out)")
            self._collected.append((key, wrong))
            return
        image = images[key.number]
        places = self.poses.settled(image, self.find.at(key.number, image))
        if self.held is not None:
            places = self.held(key.number, places)
        boxes = self._boxes(key.number, numbers, images, places) if self._own_boxes else {}
        self._collected.append((key, Job(numbers, images, key.number, places, boxes)))

    def _boxes(
        self,
        key: int,
        numbers: tuple[int, ...],
        images: Mapping[int, Image],
        places: Places,
    ) -> dict[int, Floats]:
        """Where the people of a key frame are in the other frames of its window, by frame."""
        self._places[key] = places
        self._places = {n: p for n, p in self._places.items() if n >= min(numbers)}
        boxes = {}
        for number in {*numbers} - {key}:
            there = self._places.get(number)
            if there is None and isinstance(self.find, FromFile):  # which knows the later ones
                there = self.find.at(number, images[number])
            if there is not None and len(there):
                boxes[number] = places.boxes_in(there)
        return boxes

    def _done(self) -> Iterator[Result]:
        found = iter(self.poses([job for _, job in self._collected if isinstance(job, Job)]))
        for key, job in self._collected:
            if isinstance(job, Job):
                image, here = job.images[job.key], next(found)
                here = here[self.find.learn(key.number, here)]
                self._size_wh = self._checked_size(key.number, (image.shape[1], image.shape[0]))
                yield self.finish(key, image, here)
            else:
                yield self.finish.nobody(key, self._size_wh, job)
        self._collected = []

    def _checked_size(self, number: int, size_wh: tuple[int, int]) -> tuple[int, int]:
        """The size of a frame; it is told once if it is another than before."""
        if self._size_wh not in ((0, 0), size_wh) and not self._sizes_told:
            self._sizes_told = True
            log.warning(
                "frame %d has %d x %d pixels, those before it %d x %d: poses are in pixels of "
                "their own frame; windows and boxes do not fit across such a change",
                number, *size_wh, *self._size_wh,
            )  # fmt: skip
        return size_wh


def _read(source: Source, windows: Windows, frames: Channel[Frame | _End]) -> None:
    """What the reading thread does. Its error comes in order, after the frames before it."""
    end = windows.end
    try:
        for frame in source.frames(windows.begin):
            frames.put(frame)
            if end is not None and frame.number >= end:
                frames.put(_End(of_video=False))
                return
        frames.put(_End(of_video=True))
    except Stopped:
        raise
    except Exception as error:
        frames.put(_End(of_video=False, error=error))


def _arriving(
    frames: Channel[Frame | _End], interrupts: Interrupts, summary: Summary
) -> Iterator[Frame | None]:
    """The frames, and None at the end of the video; nothing more after an interrupt.

    Raises:
        Stopped: the reading thread failed, and could not say so in order.
    """
    while True:
        try:
            frame = frames.get(lambda: interrupts.asked)
        except Stopped:
            if not interrupts.asked:
                raise
            summary.interrupted = True
            return
        if isinstance(frame, _End):
            if frame.error is not None:
                raise frame.error
            if frame.of_video:
                yield None
            return
        yield frame


def _write(results: Channel[Result | None], out: ResultFile, overlay: Overlay) -> None:
    """What the writing thread does."""
    with overlay:
        while (result := results.get()) is not None:
            out.add(result)
            overlay.add(result)


def _count(result: Result, summary: Summary) -> None:
    summary.frames += 1
    summary.people += len(result)
    if result.left_out:
        summary.left_out.append(result.number)
        if len(summary.left_out) <= _TOLD:
            log.warning("left out: %s", result.left_out)


def _listed(video: Video, windows: Windows) -> Video:
    """The video with as many frames as it has, which is known for sure once it has ended."""
    seen = windows.seen - video.first_frame + 1
    return replace(video, frame_count=seen if windows.ended else max(video.frame_count, seen))
