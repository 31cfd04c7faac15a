"""Boxes that follow the poses which were found in them.

A box between two labels is interpolated, and one beyond the last label is that label's: both may
lose a person who turns around or walks away. Here the poses correct them.

J joints. Turned boxes as in ``data.upright``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from posewarper.data.people import Upright
from posewarper.data.tables import Floats, Video
from posewarper.data.tracks import Target
from posewarper.data.upright import rotations
from posewarper.data.video import FrameSource
from posewarper.inference.baselines import Estimator, Poses

_LEAST_SCORE = 0.3  # of joints that move a box
_LEAST_SHARE = 0.5  # of the label's joints that have to have it
_SIZES = 0.67, 1.5  # of a box, relative to that of its label
_STEP = 2  # frames beyond a label that share a box
_FAR, _LARGER, _TURNED = 0.12, 1.2, 20.0  # what makes a box worth another look: see ``_differs``


@dataclass(frozen=True, eq=False)
class Follow:
    """An estimator with other boxes.

    Between two labels, poses are found once; where they lie elsewhere than their box was thought
    to, they are found again in a box around them, and the surer result counts. Beyond the first or
    last label the box goes along: every few frames it is that of the last pose.

    Args:
        estimate: how poses are found in a box.
        upright: the pose that is upright in crops, as the model has it; without it boxes do not
            turn.
    """

    estimate: Estimator
    upright: Upright = None

    def __call__(
        self,
        video: Video,
        targets: Sequence[Target],
        source: FrameSource | None,
        advance: Callable[[int], object],
    ) -> Poses:
        """See ``Estimator``."""
        poses = Poses.unknown(targets)
        inner: list[int] = []
        outer: list[int] = []
        for row, target in enumerate(targets):
            track, number = target.track, target.number
            known = track.before(number) is not None and track.after(number) is not None
            (inner if known else outer).append(row)
        self._run(video, targets, inner, source, poses, advance)
        self._again(video, targets, inner, source, poses)
        forwards = [row for row in outer if targets[row].number > targets[row].key]
        backwards = [row for row in outer if targets[row].number < targets[row].key]
        for rows in (forwards, backwards):
            self._outwards(video, targets, rows, source, poses, advance)
        return poses

    def _run(
        self,
        video: Video,
        targets: Sequence[Target],
        rows: Sequence[int],
        source: FrameSource | None,
        poses: Poses,
        advance: Callable[[int], object],
    ) -> None:
        if rows:
            found = self.estimate(video, [targets[row] for row in rows], source, advance)
            poses.joints[rows], poses.scores[rows] = found.joints, found.scores

    def _again(
        self,
        video: Video,
        targets: Sequence[Target],
        rows: Sequence[int],
        source: FrameSource | None,
        poses: Poses,
    ) -> None:
        """A second look at people who are not where they were thought to be."""
        changed = {}
        for row in rows:
            box = self.box_around(targets[row], poses.joints[row], poses.scores[row])
            if box is not None and _differs(targets[row].crop_box, box):
                changed[row] = replace(targets[row], crop_box=box)
        if not changed:
            return
        found = self.estimate(video, list(changed.values()), source, lambda _: None)
        for row, joints, scores in zip(changed, found.joints, found.scores, strict=True):
            if _mean(scores) > _mean(poses.scores[row]):
                poses.joints[row], poses.scores[row] = joints, scores

    def _outwards(
        self,
        video: Video,
        targets: Sequence[Target],
        rows: Sequence[int],
        source: FrameSource | None,
        poses: Poses,
        advance: Callable[[int], object],
    ) -> None:
        """Away from the labels, a few frames of everybody at a time."""
        boxes: dict[tuple[int, int], Floats] = {}  # by label: absence gives a track several ends
        rounds: dict[int, list[int]] = {}
        for row in rows:
            rounds.setdefault((targets[row].distance - 1) // _STEP, []).append(row)
        for number in sorted(rounds):
            those = rounds[number]
            moved = [
                replace(target, crop_box=boxes.get(_label_of(target), target.crop_box))
                for target in (targets[row] for row in those)
            ]
            order = np.argsort([target.number for target in moved], kind="stable").tolist()
            found = self.estimate(video, [moved[i] for i in order], source, advance)
            for place, i in enumerate(order):
                row, joints, scores = those[i], found.joints[place], found.scores[place]
                poses.joints[row], poses.scores[row] = joints, scores
            for row in sorted(those, key=lambda r: targets[r].distance):
                box = self.box_around(targets[row], poses.joints[row], poses.scores[row])
                if box is not None:
                    boxes[_label_of(targets[row])] = box

    def box_around(self, target: Target, joints: Floats, scores: Floats) -> Floats | None:
        """The box [5] of a pose: that of its nearest label, moved, scaled and turned as the joints
        were; None where too few of them are sure.

        Args:
            target: whose labels it has.
            joints: [J, 2] that were found; NaN where not.
            scores: [J].
        """
        label = target.labels[0]
        labelled = target.track.keypoints[label, :, 2] > 0
        sure = labelled & (np.nan_to_num(scores) > _LEAST_SCORE) & np.isfinite(joints).all(1)
        if sure.sum() < max(2, _LEAST_SHARE * labelled.sum()):
            return None
        was, now = target.track.keypoints[label, sure, :2], joints[sure]
        box = target.track.crop_box[label]
        turn = 0.0
        if self.upright is not None:
            visible = np.ones((1, len(was), 1))
            turn = float(np.nan_to_num(rotations(np.concatenate([was[None], visible], 2), now)[0]))
        cos, sin = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
        spread = [np.sqrt(((p - p.mean(0)) ** 2).sum(1).mean()) for p in (was, now)]
        growth = np.clip(spread[1] / spread[0], *_SIZES) if spread[0] > 0 else 1.0
        arm = box[:2] + box[2:4] / 2 - was.mean(0)
        center = now.mean(0) + growth * np.array([[cos, sin], [-sin, cos]]) @ arm
        size = box[2:4] * growth
        return np.concatenate([center - size / 2, size, [box[4] - turn]])


def _label_of(target: Target) -> tuple[int, int]:
    """The nearest label: the track, and which of its labels."""
    return id(target.track), target.labels[0]


def _differs(old: Floats, new: Floats) -> bool:
    """Whether the centre, the size or the angle is another one: by a share of the longer side, by a
    factor, by degrees.
    """
    centers = [box[:2] + box[2:4] / 2 for box in (old, new)]
    shift = np.hypot(*(centers[1] - centers[0])) / max(old[2:4].max(), 1e-9)
    growth = new[2:4].max() / max(old[2:4].max(), 1e-9)
    turn = abs((new[4] - old[4] + 180) % 360 - 180)
    return bool(shift > _FAR or max(growth, 1 / growth) > _LARGER or turn > _TURNED)


def _mean(scores: Floats) -> float:
    """0 where nothing is known."""
    known = scores[np.isfinite(scores)]
    return float(known.mean()) if len(known) else 0.0
