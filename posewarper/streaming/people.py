"""From decoded poses to people as they are written: scores, doubles, tracks, smoothing.

P people of a frame, J joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from posewarper.data.crops import PIXELS_PER_SCALE, box_to_center_scale
from posewarper.data.tables import Bools, Floats, Ints
from posewarper.data.video import Image
from posewarper.inference.aggregation import Scoring
from posewarper.inference.nms import joint_sigmas, oks_nms, soft_oks_nms
from posewarper.inference.smoothing import OneEuro
from posewarper.models import PoseSpec
from posewarper.streaming.poses import Poses, extents
from posewarper.streaming.sources import Frame
from posewarper.streaming.tracking import BoxTracker


@dataclass(frozen=True, eq=False)
class Result:
    """What is written about one frame.

    Attributes:
        number: of the frame.
        time: seconds since the beginning of the video.
        file_name: path below the folder that the video lies in.
        size_wh: width and height in pixels.
        image: the frame, for the overlay.
        keypoints: [P, J, 3] x, y in pixels, visibility 2; all 0 where no maximum is positive.
        joint_scores: [P, J].
        score: [P].
        bbox: [P, 4] the box in which the network looked; around the joints, where that was turned.
        track_id: [P], -1 for people without one.
        left_out: what is wrong with the frame or its window, if no pose could be found.
    """

    number: int
    time: float
    file_name: str
    size_wh: tuple[int, int]
    image: Image | None
    keypoints: Floats
    joint_scores: Floats
    score: Floats
    bbox: Floats
    track_id: Ints
    left_out: str = ""

    def __len__(self) -> int:
        return len(self.keypoints)


class Finisher:
    """Makes people of poses, frame after frame; scores as ``inference.predict_boxes`` gives them.

    Args:
        model: for the size of crops and the sigmas.
        scoring: what scores mean, and who is suppressed.
        tracker: gives ids to people who have none; None: they have none.
        smoother: moves joints of people with ids; None: joints stay.
    """

    def __init__(
        self,
        model: PoseSpec,
        scoring: Scoring,
        tracker: BoxTracker | None = None,
        smoother: OneEuro | None = None,
    ):
        self.model, self.scoring = model, scoring
        self.tracker, self.smoother = tracker, smoother
        self._sigmas = None
        if scoring.nms is not None:
            self._sigmas = joint_sigmas(model.skeleton, scoring.sigmas)
        self._smoothed: set[int] = set()  # tracks of the frame before

    def __call__(self, frame: Frame, image: Image, poses: Poses) -> Result:
        """The people of a frame, whose pixels are ``image``."""
        heights, places = np.where(poses.heights > 0, poses.heights, 0), poses.places
        present = poses.heights > 0
        mean = heights.mean(1)
        score = {"product": mean * places.score, "box": places.score, "joints": mean}[
            self.scoring.person_score
        ].copy()
        rows = np.arange(len(poses))
        if self._sigmas is not None and len(poses):
            _, scale = box_to_center_scale(
                places.box[:, :4], self.model.crop_wh, self.model.padding
            )
            areas, threshold = (scale * PIXELS_PER_SCALE).prod(1), self.scoring.nms or 1.0
            args = poses.points, score, areas, self._sigmas, threshold
            if self.scoring.soft_nms:
                kept, lowered = soft_oks_nms(*args, present=present)
                score[kept] = lowered
            else:
                kept = oks_nms(*args, present=present)
            rows = np.sort(kept)
        box = places.box[:, :4].copy()
        turned = places.box[:, 4] != 0
        around = extents(poses)
        box[turned] = np.where(np.isfinite(around), around, box)[turned]
        ids = places.track_id[rows]
        if self.tracker is not None:
            ids = self.tracker(box[rows], places.score[rows])
        points = self._smooth(frame.time, ids, poses.points[rows], present[rows])
        keypoints = np.concatenate([points, np.full((*present[rows].shape, 1), 2.0)], 2)
        weights = places.score[rows, None] if self.scoring.weigh_joints else 1.0
        return Result(
            frame.number,
            frame.time,
            frame.file_name,
            (image.shape[1], image.shape[0]),
            image,
            np.where(present[rows, :, None], keypoints, 0.0),
            heights[rows] * weights,
            score[rows],
            box[rows],
            ids,
        )

    def nobody(self, frame: Frame, size_wh: tuple[int, int], problem: str) -> Result:
        """A frame in which no pose could be looked for; the size is for those without pixels."""
        joints = len(self.model.skeleton)
        return Result(
            frame.number,
            frame.time,
            frame.file_name,
            size_wh if frame.image is None else (frame.image.shape[1], frame.image.shape[0]),
            frame.image,
            np.zeros((0, joints, 3)),
            np.zeros((0, joints)),
            np.zeros(0),
            np.zeros((0, 4)),
            np.zeros(0, np.int64),
            problem,
        )

    def _smooth(self, time: float, ids: Ints, points: Floats, present: Bools) -> Floats:
        if self.smoother is None:
            return points
        smooth = points.copy()
        for row, track in enumerate(ids.tolist()):
            if track >= 0:
                smooth[row] = self.smoother(track, time, points[row], present[row])
        here = {track for track in ids.tolist() if track >= 0}
        for track in self._smoothed - here:  # so that memory does not grow with every track
            self.smoother.forget(track)
        self._smoothed = here
        return smooth
