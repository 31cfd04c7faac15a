"""MOTA, MOTP, precision and recall per joint, by the rules of PoseTrack's evaluator.

Every joint is tracked for itself (CLEAR MOT, Bernardin and Stiefelhagen 2008). What this evaluator
does in its own way: the last labelled frame of a video is not counted; and in a frame without any
annotated person, or without any predicted one, each joint has one miss and one false positive,
however many people there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from posewarper.evaluation.results import mean_without_nan


class JointTracker:
    """The bookkeeping for one joint of one video: who was matched with whom last.

    Attributes:
        detections: number of matches, switches included.
        switches: how many of them have another partner than that object's last match.
        distance: sum of the distances of all matches.
    """

    def __init__(self) -> None:
        self.detections = 0
        self.switches = 0
        self.distance = 0.0
        self._partner: dict[int, int] = {}

    def update(self, pairs: Iterable[tuple[int, int, int, int, float]]) -> None:
        """Count one frame.

        First each object keeps the partner of its last match, however long ago, where that pair
        is among ``pairs``. The others are matched so that as many as possible have a partner and
        the sum of their distances is smallest.

        Args:
            pairs: what may be matched: row and track id of an annotated person in the frame's
                list, row and track id of a predicted one, distance. Sorted by the first.
        """
        rows: set[int] = set()
        columns: set[int] = set()
        open_pairs = []
        for pair in pairs:
            row, truth, column, predicted, distance = pair
            if self._partner.get(truth) == predicted and row not in rows and column not in columns:
                rows.add(row)
                columns.add(column)
                self.detections += 1
                self.distance += distance
            else:
                open_pairs.append(pair)
        open_pairs = [p for p in open_pairs if p[0] not in rows and p[2] not in columns]
        for _, truth, _, predicted, distance in _shortest(open_pairs):
            self.detections += 1
            self.distance += distance
            self.switches += self._partner.get(truth, predicted) != predicted
            self._partner[truth] = predicted


def _shortest(
    pairs: list[tuple[int, int, int, int, float]],
) -> list[tuple[int, int, int, int, float]]:
    """The most pairs without a common row or column and, among such choices, the nearest."""
    rows = sorted({pair[0] for pair in pairs})
    columns = sorted({pair[2] for pair in pairs})
    if len(rows) == len(columns) == len(pairs):
        return pairs  # nobody has a choice
    cost = np.full((len(rows), len(columns)), np.nan)
    where = {}
    for pair in pairs:
        place = rows.index(pair[0]), columns.index(pair[2])
        cost[place] = pair[4]
        where[place] = pair
    # One forbidden pair costs more than all allowed ones together.
    forbidden = 1 + 2 * min(cost.shape) * float(np.nanmax(cost))
    chosen = linear_sum_assignment(np.where(np.isnan(cost), forbidden, cost))
    return [
        where[place] for place in zip(*(c.tolist() for c in chosen), strict=True) if place in where
    ]


@dataclass
class MotCounts:
    """Events per joint, summed over videos; all [J].

    Attributes:
        objects: annotated joints.
        predictions: predicted joints.
        detections: matches, switches included.
        switches: matches with another partner than before.
        distance: sum of the distances of all matches, in head sizes.
    """

    objects: NDArray[np.int64]
    predictions: NDArray[np.int64]
    detections: NDArray[np.int64]
    switches: NDArray[np.int64]
    distance: NDArray[np.float64]

    @classmethod
    def zeros(cls, joints: int) -> MotCounts:
        """Nothing counted yet."""
        none = np.zeros(joints, np.int64)
        return cls(none, none, none, none, np.zeros(joints))

    def __add__(self, other: MotCounts) -> MotCounts:
        return MotCounts(
            self.objects + other.objects,
            self.predictions + other.predictions,
            self.detections + other.detections,
            self.switches + other.switches,
            self.distance + other.distance,
        )

    @property
    def misses(self) -> NDArray[np.int64]:
        """Annotated joints without a partner, [J]."""
        return self.objects - self.detections

    @property
    def false_positives(self) -> NDArray[np.int64]:
        """Predicted joints without a partner, [J]."""
        return self.predictions - self.detections


@dataclass(frozen=True, eq=False)
class TrackingResult:
    """Tracking numbers per joint in percent, all [J]; NaN where there is nothing to measure.

    Attributes:
        counts: the events that the numbers are made from.
        mota: 100 * (1 - (misses + switches + false positives) / objects).
        motp: 100 * (1 - mean distance of the matches in head sizes); 0 without a match.
        precision: detections among the predicted joints.
        recall: detections among the annotated joints.
    """

    counts: MotCounts
    mota: NDArray[np.float64] = field(init=False)
    motp: NDArray[np.float64] = field(init=False)
    precision: NDArray[np.float64] = field(init=False)
    recall: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        c = self.counts
        objects = np.where(c.objects > 0, c.objects, np.nan)
        predictions = np.where(c.predictions > 0, c.predictions, np.nan)
        errors = c.misses + c.switches + c.false_positives
        matched = c.detections > 0
        distance = c.distance / np.maximum(c.detections, 1)
        for name, value in (
            ("mota", 100 * (1 - errors / objects)),
            ("motp", np.where(matched, 100 * (1 - distance), 0.0)),
            ("precision", 100 * c.detections / predictions),
            ("recall", 100 * c.detections / objects),
        ):
            object.__setattr__(self, name, value)

    def totals(self) -> dict[str, float]:
        """Means over the joints, those with NaN left out: MOTA, MOTP, precision, recall."""
        return {
            "MOTA": mean_without_nan(self.mota),
            "MOTP": mean_without_nan(self.motp),
            "precision": mean_without_nan(self.precision),
            "recall": mean_without_nan(self.recall),
        }

    def as_dict(self) -> dict[str, Any]:
        """Totals, numbers per joint and counts."""
        c = self.counts
        return {
            "total": self.totals(),
            "MOTA": self.mota.tolist(),
            "MOTP": self.motp.tolist(),
            "precision": self.precision.tolist(),
            "recall": self.recall.tolist(),
            "objects": c.objects.tolist(),
            "misses": c.misses.tolist(),
            "switches": c.switches.tolist(),
            "false_positives": c.false_positives.tolist(),
        }


def _joints_per_frame(
    frame: NDArray[np.int64], present: NDArray[np.bool_], frames: int
) -> NDArray[np.int64]:
    """How many people have each joint in each frame, [T, J]."""
    counts = np.zeros((frames, present.shape[1]), np.int64)
    np.add.at(counts, frame, present)
    return counts


def count_video(
    frames: int,
    truth: tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]],
    predicted: tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]],
    matches: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]],
) -> MotCounts:
    """Count the events of one video, its last frame left out.

    Args:
        frames: T, the number of labelled frames.
        truth: of the G annotated people of the video: frame [G], ascending; which joints they
            have [G, J]; track id [G].
        predicted: the same of the P predicted people.
        matches: the M joints that are near enough to be matched, in any order: row of the
            annotated person [M], row of the predicted person [M], joint [M], distance [M].
    """
    (gt_frame, gt_has, gt_id), (pred_frame, pred_has, pred_id) = truth, predicted
    gt_row, pred_row, joint, distance = matches
    counted = max(frames - 1, 0)
    joints = gt_has.shape[1]
    objects = _joints_per_frame(gt_frame, gt_has, frames)[:counted]
    predictions = _joints_per_frame(pred_frame, pred_has, frames)[:counted]
    alone = (np.bincount(gt_frame, minlength=frames)[:counted] == 0) | (
        np.bincount(pred_frame, minlength=frames)[:counted] == 0
    )
    objects[alone] = predictions[alone] = 1

    trackers = [JointTracker() for _ in range(joints)]
    frame_of = gt_frame[gt_row]
    order = np.lexsort((pred_row, gt_row, joint, frame_of))
    order = order[frame_of[order] < counted]
    rows = list(
        zip(
            gt_row[order].tolist(),
            gt_id[gt_row[order]].tolist(),
            pred_row[order].tolist(),
            pred_id[pred_row[order]].tolist(),
            distance[order].tolist(),
            strict=True,
        )
    )
    group = frame_of[order] * joints + joint[order]
    bounds = [*np.flatnonzero(np.diff(group, prepend=-1)).tolist(), len(rows)]
    for start, end in itertools.pairwise(bounds):
        trackers[joint[order[start]]].update(rows[start:end])
    return MotCounts(
        objects.sum(0),
        predictions.sum(0),
        np.array([tracker.detections for tracker in trackers], np.int64),
        np.array([tracker.switches for tracker in trackers], np.int64),
        np.array([tracker.distance for tracker in trackers]),
    )


def duplicate_track(
    frame: Sequence[int] | NDArray[np.int64], track_id: Sequence[int] | NDArray[np.int64]
) -> tuple[int, int] | None:
    """The first frame and track id that two people of one frame share; None where all differ."""
    seen: set[tuple[int, int]] = set()
    for pair in zip(np.asarray(frame).tolist(), np.asarray(track_id).tolist(), strict=True):
        if pair in seen:
            return pair
        seen.add(pair)
    return None
