"""Results drawn on their frames, as a video."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

from posewarper.data.video import Image
from posewarper.report.overlays import draw_poses
from posewarper.report.video_file import VideoWriter
from posewarper.skeleton import Skeleton
from posewarper.streaming.people import Result


class Overlay:
    """Draws results on their frames; None in place of a path: nothing."""

    def __init__(self, path: Path | None, fps: float, skeleton: Skeleton):
        self._path, self._fps, self._skeleton = path, fps, skeleton
        self._writer: VideoWriter | None = None
        self._last: Image | None = None
        self._black = 0  # frames before the first one that can be read

    def add(self, result: Result, held: ExitStack) -> None:
        """Draw a frame; in place of one that cannot be read stands the one before, or black."""
        if self._path is None:
            return
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
            self._writer = held.enter_context(VideoWriter(self._path, self._fps, size_wh))
            for _ in range(self._black):
                self._writer.write(np.zeros_like(drawn))
        if drawn.shape[1::-1] != self._writer.size_wh:  # a folder of images of several sizes
            drawn = np.asarray(cv2.resize(drawn, self._writer.size_wh), np.uint8)
        self._writer.write(drawn)
        self._last = drawn
