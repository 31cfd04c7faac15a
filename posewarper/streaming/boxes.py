"""Where people are: from a file, a detector, the last pose, or somewhere in the frame.

P people of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from posewarper.data.tables import Bools, Floats
from posewarper.data.video import Image
from posewarper.inference.holding import check_hold, fits, hold_boxes
from posewarper.inference.nms import oks_between
from posewarper.models import PoseSpec
from posewarper.streaming.detector import Detect
from posewarper.streaming.poses import Places, Poses, box_of_pose, extents

_SAME = 0.3  # intersection over union of boxes of the same person
_DOUBLE = 0.8  # similarity (OKS) of the poses of two tracks that follow the same person
_SIGMA = 0.05  # of joints whose skeleton has none
NOBODY = Places.make(np.zeros((0, 4)))


class Finder(Protocol):
    """Says where people are, frame by frame.

    Attributes:
        needs_poses: whether it wants to hear about the poses of a frame before the next one.
    """

    needs_poses: bool

    def at(self, number: int, image: Image) -> Places:
        """The places of a frame; frames come in order."""

    def learn(self, number: int, poses: Poses) -> Bools:
        """Hear what was found there; says who stays, [P]."""


class _Independent:
    """Of which the places do not depend on poses."""

    needs_poses = False

    def learn(self, number: int, poses: Poses) -> Bools:
        return np.ones(len(poses), np.bool_)


class WholeFrame(_Independent):
    """One person, of whom the whole frame is the box.

    Args:
        model: for whether crops are turned.
    """

    def __init__(self, model: PoseSpec):
        self._angle = unknown_angle(model)

    def at(self, number: int, image: Image) -> Places:
        height, width = image.shape[:2]
        return Places.make(
            np.array([[0, 0, width, height, self._angle]]), track_id=np.zeros(1, np.int64)
        )


class Somewhere(_Independent):
    """One person, in a place that is to be found out."""

    def at(self, number: int, image: Image) -> Places:
        return Places.make(np.full((1, 5), np.nan), track_id=np.zeros(1, np.int64))


class FixedBoxes(_Independent):
    """The same boxes in every frame: what a last pose starts from.

    Args:
        boxes: [P, 4] x, y, width, height in pixels.
        model: for whether crops are turned.

    Raises:
        ValueError: a box without an extent.
    """

    def __init__(self, boxes: Sequence[Sequence[float]], model: PoseSpec):
        array = np.asarray(boxes, np.float64).reshape(-1, 4)
        if not len(array) or not (np.isfinite(array).all() and (array[:, 2:] > 0).all()):
            raise ValueError(f"start_box: expected x, y, width, height above 0, got {boxes}")
        angles = np.full((len(array), 1), unknown_angle(model))
        self._places = Places.make(np.concatenate([array, angles], 1))

    def at(self, number: int, image: Image) -> Places:
        return self._places


class Detected(_Independent):
    """Boxes of a detector.

    Args:
        detect: the detector.
        model: for whether crops are turned.
    """

    def __init__(self, detect: Detect, model: PoseSpec):
        self._detect, self._angle = detect, unknown_angle(model)

    def at(self, number: int, image: Image) -> Places:
        boxes, scores = self._detect(image)
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        some = (boxes[:, 2:] > 0).all(1)
        angles = np.full((int(some.sum()), 1), self._angle)
        return Places.make(np.concatenate([boxes[some], angles], 1), np.asarray(scores)[some])


class FromFile(_Independent):
    """Boxes of a file, in the frames that it has; nothing is interpolated.

    Args:
        places: by number of the frame.
    """

    def __init__(self, places: Mapping[int, Places]):
        self.places = places

    @property
    def tracks(self) -> bool:
        """Whether everybody has a track id, which nobody else in the frame has."""
        ids = [places.track_id for places in self.places.values()]
        return all((i >= 0).all() and len(np.unique(i)) == len(i) for i in ids)

    def held(self, hold: int, model: PoseSpec) -> FromFile:
        """The same with the boxes of tracks held over some frames; see ``hold_boxes``.

        Raises:
            ValueError: not everybody has a track id.
        """
        if not self.tracks:
            raise ValueError(f"hold: {hold} frames need a box_file with track ids for everybody")
        numbers = sorted(self.places)
        counts = [len(self.places[number]) for number in numbers]
        track = np.concatenate([self.places[number].track_id for number in numbers])
        box = np.concatenate([self.places[number].box for number in numbers])
        box = hold_boxes(np.repeat(numbers, counts), track, box, hold, model)
        ends = np.cumsum(counts)[:-1]
        return FromFile(
            {
                number: replace(self.places[number], box=part)
                for number, part in zip(numbers, np.split(box, ends), strict=True)
            }
        )

    def at(self, number: int, image: Image) -> Places:
        return self.places.get(number, NOBODY)


class LastPose:
    """Boxes around the poses of the frame before.

    A track ends when the mean height of its maxima falls below ``lost_below``, when too little of
    the pose is left to make a box of, when the box leaves the image, or when another track has the
    same pose and a higher score.

    Args:
        start: who says where to begin. Boxes of a file count whenever it has some; a detector is
            asked at the beginning, after a track ended, and every ``again`` frames; boxes that are
            given, when nobody is followed; the frame is searched then, too, but not more often than
            every ``again`` frames.
        model: for boxes, and for how alike two poses are.
        lost_below: see above.
        again: see above.
    """

    needs_poses = True

    def __init__(self, start: Finder, model: PoseSpec, lost_below: float, again: int = 30):
        if again < 1:
            raise ValueError(f"detect_every: expected 1 or more, got {again}")
        self.start, self.model, self.lost_below, self.again = start, model, lost_below, again
        self.ended = 0  # tracks that were lost
        self._box: dict[int, Floats] = {}  # where to look, by track
        self._extent: dict[int, Floats] = {}  # of the last pose, not turned
        self._next_id = 0
        self._asked: int | None = None
        self._lost_some = False

    def at(self, number: int, image: Image) -> Places:
        size_wh = np.array([image.shape[1], image.shape[0]])
        for track, box in list(self._box.items()):
            center = box[:2] + box[2:4] / 2
            if ((center < 0) | (center > size_wh)).any():
                self._end(track)
        if self._asks(number):
            self._begin(self.start.at(number, image))
            self._asked, self._lost_some = number, False
        ids = sorted(self._box)
        boxes = np.array([self._box[i] for i in ids]).reshape(-1, 5)
        return Places.make(boxes, track_id=np.array(ids, np.int64))

    def learn(self, number: int, poses: Poses) -> Bools:
        mean = poses.mean_height
        boxes = box_of_pose(poses, self.model)
        around = extents(poses)
        stays = (mean >= self.lost_below) & np.isfinite(boxes).all(1)
        stays &= ~self._doubles(poses, around, mean, stays)
        for row, track in enumerate(poses.places.track_id.tolist()):
            if stays[row]:
                self._box[track], self._extent[track] = boxes[row], around[row]
            else:
                self._end(track)
        return stays

    def _end(self, track: int) -> None:
        self._box.pop(track, None)
        self._extent.pop(track, None)
        self._lost_some = True
        self.ended += 1

    def _asks(self, number: int) -> bool:
        if isinstance(self.start, FromFile):
            return True
        due = self._asked is None or number - self._asked >= self.again
        if not isinstance(self.start, Detected):
            return not self._box and (due or not isinstance(self.start, Somewhere))
        return not self._box or self._lost_some or due

    def _begin(self, places: Places) -> None:
        """Follow people whom nobody follows yet; boxes of a file replace guessed ones."""
        labelled = isinstance(self.start, FromFile)
        taken: set[int] = set()
        for box, given in zip(places.box, places.track_id.tolist(), strict=True):
            track = given if given in self._box else self._like(box, taken)
            if track is None:
                track = given if given >= 0 else self._next_id
                self._box[track] = box
            elif labelled:
                self._box[track] = box
            taken.add(track)
            self._next_id = max(self._next_id, track + 1)

    def _like(self, box: Floats, taken: set[int]) -> int | None:
        """The track whose last pose lies where the box is."""
        free = [track for track in self._extent if track not in taken]
        if not free:
            return None
        overlap = overlaps(box[:4], np.array([self._extent[track] for track in free]))
        best = int(overlap.argmax())
        return free[best] if overlap[best] >= _SAME else None

    def _doubles(self, poses: Poses, around: Floats, mean: Floats, stays: Bools) -> Bools:
        """Who has the pose of somebody with a higher score (of equal ones the first), [P]."""
        double = np.zeros(len(poses), np.bool_)
        rows = np.flatnonzero(stays)
        if len(rows) < 2:
            return double
        sigmas = self.model.skeleton.sigmas or (_SIGMA,) * len(self.model.skeleton)
        areas = around[rows, 2] * around[rows, 3]
        found = poses.heights[rows] > 0
        alike = oks_between(poses.points[rows], areas, sigmas, found)
        for place in np.argsort(-mean[rows], kind="stable"):
            if not double[rows[place]]:
                others = rows[(alike[place] > _DOUBLE) & (np.arange(len(rows)) != place)]
                double[others[mean[others] <= mean[rows[place]]]] = True
        return double


class HeldBoxes:
    """Holds the box of a track while it fits (``holding.fits``), at most for some frames.

    Args:
        hold: frames.
        model: for crops.
    """

    def __init__(self, hold: int, model: PoseSpec):
        check_hold(hold)
        self.hold, self.model = hold, model
        self._held: dict[int, tuple[int, Floats]] = {}  # since when, and the box; by track

    def __call__(self, number: int, places: Places) -> Places:
        """The places of a frame with boxes that are held; frames come in order."""
        box = places.box.copy()
        held = {}
        for row, track in enumerate(places.track_id.tolist()):
            since, of_track = self._held.get(track, (number - self.hold, box[row]))
            if number - since >= self.hold or not fits(box[row : row + 1], of_track, self.model)[0]:
                since, of_track = number, box[row].copy()
            if track >= 0:
                held[track] = since, of_track
                box[row] = of_track
        self._held = held
        return Places(box, places.score, places.track_id)


def overlaps(box: Floats, others: Floats) -> Floats:
    """Intersection over union of a box [4] and others [n, 4], all x, y, width, height."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    shared = np.maximum(high - low, 0).prod(1)
    union: Floats = box[2:].prod() + others[:, 2:].prod(1) - shared
    return shared / np.maximum(union, 1e-9)


def unknown_angle(model: PoseSpec) -> float:
    """Degrees of boxes that are not turned: NaN, to be found out, where crops are."""
    return 0.0 if model.upright is None else float("nan")
