"""Results drawn on their frames, as a video."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType

import numpy as np

from posewarper.data.images import Image
from posewarper.report.overlays import draw_poses
from posewarper.report.video_file import VideoWriter, film_of, fitted
from posewarper.skeleton import Skeleton
from posewarper.streaming.people import Result

log = logging.getLogger("posewarper.streaming")


class Overlay:
    """Draws results on their frames; None in place of a path: nothing.

    A context manager: the film appears when the block ends well. Poses are never lost to it: where
    it cannot be written, one warning says why, and nothing is drawn any more.
    """

    def __init__(self, path: Path | None, fps: float, skeleton: Skeleton):
        self._path, self._fps, self._skeleton = path, fps, skeleton
        self._writer: VideoWriter | None = None
        self._last: Image | None = None
        self._black = 0  # frames before the first one that can be read

    def __enter__(self) -> Overlay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.__exit__(kind, error, trace)
        except Exception as failure:
            if failure is not error:
                self._give_up(failure)

    def add(self, result: Result) -> None:
        """Draw a frame; in place of one that cannot be read stands the one before, or black."""
        if self._path is None:
            return
        try:
            self._draw(result)
        except Exception as failure:
            self.__exit__(type(failure), failure, failure.__traceback__)
            self._give_up(failure)

    def _give_up(self, failure: Exception) -> None:
        log.warning("overlay: there is no film %s: %s", self._path, failure)
        self._path = None

    def _draw(self, result: Result) -> None:
        drawn = self._last
        if result.image is not None:
            drawn = draw_poses(
                result.image,
                result.keypoints,
                self._skeleton,
                scores=result.joint_scores,
                track_ids=result.track_id,
            )
        if drawn is None:
            self._black += 1
            return
        if self._writer is None:
            size_wh = (drawn.shape[1], drawn.shape[0])
            assert self._path is not None
            self._writer = film_of(self._path, self._fps, size_wh).__enter__()
            for _ in range(self._black):
                self._writer.write(fitted(np.zeros_like(drawn), self._writer.size_wh))
        self._writer.write(fitted(drawn, self._writer.size_wh))
        self._last = drawn
