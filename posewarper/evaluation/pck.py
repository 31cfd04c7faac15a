"""PCK: the share of joints that lie within a fraction of some length of the person.

With the head size as the length it is PCKh. A joint on the limit is right, a labelled joint without
a prediction is wrong, and a joint without a label counts nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posewarper.data.people import person_sizes
from posewarper.evaluation.results import Table, mean_without_nan
from posewarper.skeleton import Skeleton


def head_lengths(head_boxes: ArrayLike) -> NDArray[np.float64]:
    """Head sizes as MPII and PoseTrack have them: 0.6 times the diagonal of the head box.

    Args:
        head_boxes: [N, 4] as x1, y1, x2, y2 in pixels, like ``People.head_box``; NaN where there
            is none.

    Returns:
        [N] in pixels; NaN where there is no head box.
    """
    corners = _boxes(head_boxes)
    return 0.6 * np.hypot(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])


def box_lengths(boxes: ArrayLike) -> NDArray[np.float64]:
    """Extents of people: the longer side of the box.

    Args:
        boxes: [N, 4] as x, y, width, height in pixels.

    Returns:
        [N] in pixels.
    """
    return _boxes(boxes)[:, 2:].max(axis=1)


def point_extents(points: ArrayLike, labelled: ArrayLike | None = None) -> NDArray[np.float64]:
    """Extents of people without boxes: the longer side of the box around the labelled joints.

    Args:
        points: [N, J, 2] in pixels, NaN where there is no label.
        labelled: [N, J].

    Returns:
        [N] in pixels; NaN for a person without labels.
    """
    xy = _labelled_points(points, labelled)
    some = np.asarray(np.isfinite(xy).any((1, 2)))
    return np.where(some, person_sizes(xy), np.nan)


def torso_lengths(
    points: ArrayLike,
    skeleton: Skeleton,
    labelled: ArrayLike | None = None,
    ends: tuple[str, str] = ("left_shoulder", "right_hip"),
) -> NDArray[np.float64]:
    """Distances between two joints, by default across the torso.

    Args:
        points: [N, J, 2] in pixels, NaN where there is no label.
        skeleton: J joints.
        labelled: [N, J].
        ends: names of the two joints.

    Returns:
        [N] in pixels; NaN where one of the two has no label.

    Raises:
        ValueError: the skeleton has no such joint.
    """
    xy = _labelled_points(points, labelled)
    first, second = (skeleton.index(joint) for joint in ends)
    return np.linalg.norm(xy[:, first] - xy[:, second], axis=-1)


def _boxes(boxes: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(boxes, np.float64)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes: expected the shape [N, 4], got {list(array.shape)}")
    return array


def _labelled_points(points: ArrayLike, labelled: ArrayLike | None) -> NDArray[np.float64]:
    """[N, J, 2] with NaN for both coordinates of a joint without a label."""
    xy = np.array(points, np.float64)
    if xy.ndim != 3 or xy.shape[2] != 2:
        raise ValueError(f"points: expected the shape [N, J, 2], got {list(xy.shape)}")
    known = ~np.isnan(xy).any(-1)
    if labelled is not None:
        flags = np.asarray(labelled, bool)
        if flags.shape != known.shape:
            raise ValueError(
                f"labelled: expected the shape {list(known.shape)}, got {list(flags.shape)}"
            )
        if (flags & ~known).any():
            person, joint = np.argwhere(flags & ~known)[0]
            raise ValueError(f"truth: person {person}, joint {joint} is labelled but has no place")
        known &= flags
    xy[~known] = np.nan
    return xy


@dataclass(frozen=True, eq=False)
class PckResult:
    """PCK in percent at K thresholds.

    Attributes:
        joints: J names.
        thresholds: K fractions of the length.
        pck: [K, J]; NaN for a joint without labels.
        labels: [J], labelled joints that were counted.
        excluded: labelled joints that were not, because their person has no length.
    """

    joints: tuple[str, ...]
    thresholds: tuple[float, ...]
    pck: NDArray[np.float64]
    labels: NDArray[np.int64]
    excluded: int

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean over the joints that have labels, [K]."""
        return np.array([mean_without_nan(row) for row in self.pck])

    @property
    def pooled(self) -> NDArray[np.float64]:
        """Share of all labelled joints, whichever they are, [K]; NaN without labels."""
        right = np.nansum(self.pck * self.labels, axis=1)
        return right / self.labels.sum() if self.labels.sum() else np.full(len(right), np.nan)

    def table(self, per_joint: bool = False) -> Table:
        """One row per threshold: mean of the joints, all labels pooled; then joints if asked."""
        rows = {
            f"PCK@{threshold:g}": (float(mean), float(pooled), *(row.tolist() if per_joint else ()))
            for threshold, mean, pooled, row in zip(
                self.thresholds, self.mean, self.pooled, self.pck, strict=True
            )
        }
        return Table(("Mean", "Pooled", *(self.joints if per_joint else ())), rows)

    def as_dict(self) -> dict[str, Any]:
        """All numbers."""
        return {
            "joints": list(self.joints),
            "thresholds": list(self.thresholds),
            "pck": self.pck.tolist(),
            "mean": self.mean.tolist(),
            "pooled": self.pooled.tolist(),
            "labels": self.labels.tolist(),
            "excluded": self.excluded,
        }


def evaluate_pck(
    predicted: ArrayLike,
    truth: ArrayLike,
    lengths: ArrayLike,
    *,
    skeleton: Skeleton,
    thresholds: Sequence[float] = (0.5,),
    labelled: ArrayLike | None = None,
) -> PckResult:
    """PCK of N people whose predictions are known to belong to them.

    Args:
        predicted: [N, J, 2] in pixels; NaN = no prediction.
        truth: [N, J, 2] in pixels; NaN = no label.
        lengths: what distances are divided by, in pixels: one number, or [N] from
            ``head_lengths`` (then it is PCKh), ``box_lengths``, ``point_extents`` or
            ``torso_lengths``. NaN leaves a person out.
        skeleton: J joints.
        thresholds: fractions of the length.
        labelled: [N, J], joints to count; None = all in ``truth`` that are not NaN.

    Raises:
        ValueError: shapes do not fit, a length or a threshold is not positive, or a labelled
            joint has no place.
    """
    xy = _labelled_points(truth, labelled)
    guess = np.asarray(predicted, np.float64)
    if guess.shape != xy.shape or xy.shape[1] != len(skeleton):
        raise ValueError(
            f"predicted, truth: expected the shape [N, {len(skeleton)}, 2] for skeleton "
            f"{skeleton.name!r}, got {list(guess.shape)} and {list(xy.shape)}"
        )
    size = np.asarray(lengths, np.float64)
    if size.shape not in ((), (len(xy),)):
        raise ValueError(f"lengths: expected one number or [{len(xy)}], got {list(size.shape)}")
    if (size <= 0).any() or np.isinf(size).any():
        raise ValueError(
            f"lengths: expected positive numbers, or NaN to leave a person out; got "
            f"{float(size[(size <= 0) | np.isinf(size)].flat[0])}"
        )
    limits = np.asarray(thresholds, np.float64)
    if limits.ndim != 1 or not len(limits) or not (limits > 0).all():
        raise ValueError(f"thresholds: expected positive numbers, got {thresholds}")
    size = np.broadcast_to(size, len(xy))[:, None]  # [N, 1]
    known = ~np.isnan(xy[:, :, 0])
    counted = known & ~np.isnan(size)
    distance = np.linalg.norm(guess - xy, axis=-1) / size  # [N, J], NaN is never right
    right = (distance <= limits[:, None, None]) & counted  # [K, N, J]
    labels = counted.sum(0)
    pck = np.where(labels > 0, 100 * right.sum(1) / np.maximum(labels, 1), np.nan)
    return PckResult(
        skeleton.joints, tuple(limits.tolist()), pck, labels, int((known & ~counted).sum())
    )
