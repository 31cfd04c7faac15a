"""Joints of the network, drawn to where optical flow carries the nearest label.

Heatmaps know where a joint is, within a pixel of theirs, which is several of the image; flow
drifts, but over a few frames it is exact to a fraction of a pixel. Where both agree, their mean is
better than either (docs/lab-notes.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from posewarper.data.people import person_sizes
from posewarper.data.tables import Video
from posewarper.data.tracks import Target
from posewarper.data.video import FrameSource
from posewarper.inference.baselines import Estimator, Flow, Poses

_NEAR = 0.05  # of the person's size: what is farther apart does not agree


@dataclass(frozen=True, eq=False)
class WithFlow:
    """An estimator, refined by flow. Scores stay.

    Args:
        estimate: how poses are found.
        weight: share of the flow in the mean, 0 to 1, where it arrives within 0.05 of the size of
            the person (the longer side of the box around the label's joints).
        reach: frames to the nearest label beyond which flow is not asked; None for any.
        flow: how labels are carried.
    """

    estimate: Estimator
    weight: float
    reach: int | None = None
    flow: Flow = field(default_factory=Flow)

    def __call__(
        self,
        video: Video,
        targets: Sequence[Target],
        source: FrameSource | None,
        advance: Callable[[int], object],
    ) -> Poses:
        """See ``Estimator``."""
        poses = self.estimate(video, targets, source, advance)
        rows = [
            row
            for row, target in enumerate(targets)
            if target.distance > 0 and (self.reach is None or target.distance <= self.reach)
        ]
        if not rows:
            return poses
        nearest = [
            replace(targets[row], labels=targets[row].labels[:1], weights=np.ones(1))
            for row in rows
        ]
        carried = self.flow(video, nearest, source, lambda _: None).joints
        found = poses.joints[rows]
        labels = np.stack([target.keypoints[0] for target in nearest])  # [n, J, 3]
        sizes = person_sizes(labels[:, :, :2], labels[:, :, 2] > 0)[:, None]
        agree = np.linalg.norm(carried - found, axis=2) < _NEAR * sizes  # not where one is NaN
        mean = (1 - self.weight) * found + self.weight * carried
        poses.joints[rows] = np.where(agree[:, :, None], mean, found)
        return poses
