"""PoseTrack's evaluation: average precision per joint, and the door to the tracking numbers.

The rules are those of the official evaluator, so that its numbers come out. In short: a joint is
right within half a head size (0.6 times the diagonal of the head box); every prediction goes to the
person it fits best and every person takes the prediction that fits it best; all joints of a
prediction that nobody takes are wrong, and so are joints that its person does not have.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posewarper.evaluation.posetrack_files import (
    JOINTS,
    MISSING_SCORE,
    NO_TRACK,
    VideoPoses,
    check_frames,
    pair_files,
    read_video,
)
from posewarper.evaluation.posetrack_mot import (
    MotCounts,
    TrackingResult,
    count_video,
    duplicate_track,
)
from posewarper.evaluation.results import Table, group_means, mean_without_nan
from posewarper.skeleton import POSETRACK_EVAL

DISTANCE_LIMIT = 0.5  # head sizes, inclusive
TRACK_ID_LIMIT = 10000
_PAIRS_AT_ONCE = 1 << 16  # bounds the memory of one step: 8 MB per array


def strictly_inside(points: NDArray[np.float64], polygon: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points lie inside a polygon and not on its border (even-odd rule).

    Args:
        points: [N, 2]; NaN is outside.
        polygon: [K, 2] corners, closed by itself. Fewer than three have no inside.

    Returns:
        [N].
    """
    if len(polygon) < 3:
        return np.zeros(len(points), bool)
    x, y = points[:, None, 0], points[:, None, 1]  # [N, 1]
    (ax, ay), (bx, by) = polygon.T, np.roll(polygon, -1, axis=0).T  # [K]
    side = (bx - ax) * (y - ay) - (by - ay) * (x - ax)  # [N, K]
    on_border = (
        (side == 0)
        & (np.minimum(ax, bx) <= x)
        & (x <= np.maximum(ax, bx))
        & (np.minimum(ay, by) <= y)
        & (y <= np.maximum(ay, by))
    ).any(1)
    crossed = ((ay > y) != (by > y)) & ((side > 0) == (by > ay))
    return (crossed.sum(1) % 2 == 1) & ~on_border


def _without_ignored(
    video: VideoPoses, regions: dict[int, tuple[NDArray[np.float64], ...]]
) -> VideoPoses:
    """Drop joints inside regions, and in frames with regions the people without any joint."""
    if not regions or not len(video.frame):
        return video
    points = video.points.copy()
    affected = np.isin(video.frame, list(regions))
    for frame, polygons in regions.items():
        start, end = np.searchsorted(video.frame, [frame, frame + 1])
        flat = points[start:end].reshape(-1, 2)
        for polygon in polygons:
            flat[strictly_inside(flat, polygon)] = np.nan
        points[start:end] = flat.reshape(-1, JOINTS, 2)
    empty = affected & np.isnan(points[:, :, 0]).all(1)
    return replace(video, points=points).people(~empty)


def clean(truth: VideoPoses, predicted: VideoPoses) -> tuple[VideoPoses, VideoPoses]:
    """What is compared: labelled frames only, without the joints inside ignored regions.

    Frames whose ground truth lists no people are unlabelled; they go, with their predictions. In
    frames with ignored regions joints inside go from both sides, and then people without a joint.
    """
    kept = np.flatnonzero(truth.listed)
    place = np.full(len(truth.frame_names), -1)
    place[kept] = np.arange(len(kept))
    regions = {
        int(place[frame]): polygons
        for frame, polygons in truth.ignore_regions.items()
        if truth.listed[frame]
    }
    cleaned = []
    for video in (truth, predicted):
        labelled = video.people(place[video.frame] >= 0)
        labelled = replace(
            labelled,
            frame=place[labelled.frame],
            listed=np.ones(len(kept), bool),
            frame_names=tuple(video.frame_names[frame] for frame in kept),
            ignore_regions=regions,
        )
        cleaned.append(_without_ignored(labelled, regions))
    return cleaned[0], cleaned[1]


@dataclass(frozen=True, eq=False)
class Assignment:
    """What a video's predictions hit; G annotated and P predicted people.

    Attributes:
        label: [P, 15], predicted joints that are right.
        matches: all joints near enough, whoever is assigned to whom: row of the annotated person,
            row of the predicted one, joint, distance in head sizes; each [M].
    """

    label: NDArray[np.bool_]
    matches: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def _same_frame_pairs(
    gt_frame: NDArray[np.int64], pred_frame: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of an annotated and a predicted person of one frame: two arrays of rows."""
    first = np.searchsorted(gt_frame, pred_frame, "left")
    count = np.searchsorted(gt_frame, pred_frame, "right") - first
    pred_row = np.repeat(np.arange(len(pred_frame)), count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(first, count) + within, pred_row


def _first_of_each(key: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Marks the first entry of every run of equal keys."""
    return np.diff(key, prepend=-1) != 0


def assign(truth: VideoPoses, predicted: VideoPoses) -> Assignment:
    """Compare the predictions of a video with its ground truth; both from ``clean``.

    How well a prediction fits a person is the share of that person's joints that it hits. Ties
    go to the first in the file, on both sides.

    Raises:
        ValueError: an annotated person in a frame with predictions has no head box.
    """
    gt_row, pred_row = _same_frame_pairs(truth.frame, predicted.frame)
    gt_has = truth.present
    joints_of = gt_has.sum(1)
    headless = np.isnan(truth.head_size[gt_row]) & (joints_of[gt_row] > 0)
    if headless.any():
        frame = int(truth.frame[gt_row[headless][0]])
        raise ValueError(f"{truth.where(frame)}: a person has joints but no head box")

    hit = np.zeros((len(gt_row), JOINTS), bool)
    matches = []
    for start in range(0, max(len(gt_row), 1), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        offset = predicted.points[pred_row[part]] - truth.points[gt_row[part]]  # [N, 15, 2]
        with np.errstate(divide="ignore", invalid="ignore"):  # a head box may have no size
            distance = np.sqrt((offset**2).sum(-1)) / truth.head_size[gt_row[part], None]
        hit[part] = distance <= DISTANCE_LIMIT  # false for NaN: one of the two has no such joint
        pair, joint = np.nonzero(hit[part])
        matches.append((gt_row[part][pair], pred_row[part][pair], joint, distance[pair, joint]))
    rows, others, joints, distances = (np.concatenate(c) for c in zip(*matches, strict=True))

    fit = hit.sum(1) / np.maximum(joints_of[gt_row], 1)
    best = np.lexsort((gt_row, -fit, pred_row))  # each prediction's person
    best = best[_first_of_each(pred_row[best])]
    best = best[np.lexsort((pred_row[best], -fit[best], gt_row[best]))]  # each person's prediction
    best = best[_first_of_each(gt_row[best])]
    label = np.zeros((len(predicted.frame), JOINTS), bool)
    label[pred_row[best]] = hit[best]  # all false where even the best fit is none
    return Assignment(label, (rows, others, joints, distances))


def average_precision(
    scores: NDArray[np.float64], label: NDArray[np.bool_], positives: int
) -> tuple[float, float, float]:
    """Area under the precision-recall curve (every step, precision made monotone), in percent.

    Predictions of equal score count in the order given.

    Args:
        scores: [N].
        label: [N], whether the prediction is right.
        positives: how many there are to be found.

    Returns:
        AP, precision and recall of all predictions together. Without predictions all are 0;
        with predictions and no positives AP and recall are NaN.
    """
    if not len(scores):
        return 0.0, 0.0, 0.0
    right = np.cumsum(label[np.argsort(-scores, kind="stable")])
    precision = right / np.arange(1, len(right) + 1)
    if positives == 0:
        return np.nan, float(100 * precision[-1]), np.nan
    recall = right / positives
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    area = np.sum(np.diff(recall, prepend=0.0) * envelope)
    return float(100 * area), float(100 * precision[-1]), float(100 * recall[-1])


@dataclass(frozen=True, eq=False)
class PoseTrackResult:
    """Numbers per joint in percent, [15] in the order of ``POSETRACK_EVAL``; NaN = undefined.

    Attributes:
        ap: average precision.
        precision: share of the predicted joints that are right.
        recall: share of the annotated joints that are found.
        tracking: MOTA and its kin, if asked for.
        videos: how many.
        frames: labelled frames that were compared.
        neck: how the prediction files made joint 12 from 17 joints: "head_bottom",
            "shoulder_midpoint", "mixed", or None where no file says.
    """

    ap: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    tracking: TrackingResult | None
    videos: int
    frames: int
    neck: str | None
    joints: tuple[str, ...] = POSETRACK_EVAL.joints

    def groups(self, metric: str = "AP") -> dict[str, float]:
        """The columns Head Shoulder Elbow Wrist Hip Knee Ankle Mean of AP, precision, recall,
        or with tracking MOTA, MOTP, MOT precision, MOT recall.

        Raises:
            ValueError: there is no such metric.
        """
        values = self._metrics()
        if metric not in values:
            raise ValueError(f"metric: expected one of {', '.join(values)}, got {metric!r}")
        return group_means(values[metric], self.joints)

    @property
    def mean_ap(self) -> float:
        """Mean AP over the joints that have one."""
        return mean_without_nan(self.ap)

    def _metrics(self) -> dict[str, NDArray[np.float64]]:
        values = {"AP": self.ap, "precision": self.precision, "recall": self.recall}
        if self.tracking:
            values |= {
                "MOTA": self.tracking.mota,
                "MOTP": self.tracking.motp,
                "MOT precision": self.tracking.precision,
                "MOT recall": self.tracking.recall,
            }
        return values

    def table(self, per_joint: bool = False) -> Table:
        """One row per metric: the usual eight columns, then the 15 joints if asked for."""
        rows = {}
        for name, values in self._metrics().items():
            further = values.tolist() if per_joint else ()
            rows[name] = (*group_means(values, self.joints).values(), *further)
        columns = tuple(group_means(self.ap, self.joints))
        return Table((*columns, *self.joints) if per_joint else columns, rows)

    def as_dict(self) -> dict[str, Any]:
        """All numbers."""
        return {
            "neck": self.neck,
            "videos": self.videos,
            "frames": self.frames,
            "joints": list(self.joints),
            "groups": {name: self.groups(name) for name in self._metrics()},
            "AP": self.ap.tolist(),
            "precision": self.precision.tolist(),
            "recall": self.recall.tolist(),
            "tracking": self.tracking.as_dict() if self.tracking else None,
        }


def _check_tracks(video: VideoPoses, predictions: bool) -> None:
    """Track ids have to exist, stay below the official limit and differ within a frame."""
    for fault, what in (
        (video.track_id == NO_TRACK, "has no track id"),
        (video.track_id >= TRACK_ID_LIMIT, f"has a track id of {TRACK_ID_LIMIT} or more"),
    ):
        if fault.any():
            raise ValueError(
                f"{video.where(int(video.frame[fault][0]))}: a person {what}, which MOTA needs"
            )
    twice = duplicate_track(video.frame, video.track_id)
    if twice:
        message = f"{video.where(twice[0])}: track id {twice[1]} appears twice"
        if predictions:
            raise ValueError(message)
        warnings.warn(message, stacklevel=4)


def _precision_per_joint(
    predictions: Sequence[tuple[VideoPoses, NDArray[np.bool_]]], positives: NDArray[np.int64]
) -> NDArray[np.float64]:
    """AP, precision and recall of each joint, [15, 3], from cleaned predictions and their labels.

    The order of predictions of equal score is not defined officially (an unstable sort, whose
    result depends on the processor). Here the one further up in the image is first, then the one
    further left, so that neither the order of videos nor that of people changes a number.
    """
    scores = np.concatenate([video.scores for video, _ in predictions])  # [P, 15]
    points = np.concatenate([video.points for video, _ in predictions])
    labels = np.concatenate([label for _, label in predictions])
    numbers = []
    for joint in range(JOINTS):
        has = ~np.isnan(points[:, joint, 0])
        x, y = points[has, joint].T
        order = np.lexsort((x, y))
        numbers.append(
            average_precision(
                scores[has, joint][order], labels[has, joint][order], int(positives[joint])
            )
        )
    return np.array(numbers)


def evaluate_videos(
    videos: Iterable[tuple[VideoPoses, VideoPoses]], *, tracking: bool = False
) -> PoseTrackResult:
    """Evaluate pairs of ground truth and predictions; see ``evaluate_posetrack``."""
    predictions: list[tuple[VideoPoses, NDArray[np.bool_]]] = []
    positives = np.zeros(JOINTS, np.int64)
    counts = MotCounts.zeros(JOINTS)
    necks: set[str | None] = set()
    frames = 0
    unscored: str | None = None
    for truth, predicted in videos:
        check_frames(truth, predicted)
        if tracking:
            _check_tracks(truth, predictions=False)
            _check_tracks(predicted, predictions=True)
        necks.add(predicted.neck)
        truth, predicted = clean(truth, predicted)
        result = assign(truth, predicted)
        gt_has, pred_has = truth.present, predicted.present
        if unscored is None and (predicted.scores[pred_has] == MISSING_SCORE).any():
            unscored = predicted.source
        predictions.append((predicted, result.label))
        positives += gt_has.sum(0)
        frames += len(truth.frame_names)
        if tracking:
            counts += count_video(
                len(truth.frame_names),
                (truth.frame, gt_has, truth.track_id),
                (predicted.frame, pred_has, predicted.track_id),
                result.matches,
            )
    if not predictions:
        raise ValueError("videos: expected at least one")
    if unscored is not None:
        warnings.warn(
            f"{unscored}: joints without a score; they get {MISSING_SCORE:g}", stacklevel=2
        )
    numbers = _precision_per_joint(predictions, positives)
    return PoseTrackResult(
        numbers[:, 0],
        numbers[:, 1],
        numbers[:, 2],
        TrackingResult(counts) if tracking else None,
        len(predictions),
        frames,
        next(iter(necks)) if len(necks) == 1 else "mixed",
    )


def evaluate_posetrack(
    truth_dir: str | Path,
    prediction_dir: str | Path,
    *,
    tracking: bool = False,
    videos: Sequence[str] | None = None,
) -> PoseTrackResult:
    """AP per joint, and MOTA if asked for, of the predictions for a folder of videos.

    Both folders may hold PoseTrack17 or PoseTrack18 files; see ``posetrack_files``.

    Args:
        truth_dir: one file per video.
        prediction_dir: a file of the same name for each of them.
        tracking: also compute MOTA, MOTP, precision and recall of tracking; then people need
            track ids that differ within a frame. The last labelled frame of a video is left out
            there, as officially.
        videos: file names without ``.json``: only these; None = all.

    Raises:
        ValueError: a video, frame or joint is missing or unknown, an id is there twice, or a
            number is not finite; names the file and the id.
    """
    pairs = pair_files(truth_dir, prediction_dir, videos)
    return evaluate_videos(
        ((read_video(truth), read_video(predicted)) for truth, predicted in pairs),
        tracking=tracking,
    )
