"""Suppression of people found twice, by the similarity of their joints (OKS), hard and soft.

P people of one frame, J joints. The similarity is COCO's object keypoint similarity, symmetric in
two people a and b:

    OKS = mean over joints of exp(-d^2 / (2 * (2 * sigma)^2 * (area_a + area_b) / 2))
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from posewarper.data.tables import Bools, Floats, Ints
from posewarper.skeleton import Skeleton


def joint_sigmas(skeleton: Skeleton, sigmas: float | Sequence[float] | None = None) -> Floats:
    """Standard deviations of the joints, [J].

    Args:
        skeleton: whose sigmas are taken if none are given.
        sigmas: one per joint, or one number for all.

    Raises:
        ValueError: there are none, or not one per joint, or one is not positive.
    """
    if sigmas is None and not skeleton.sigmas:
        raise ValueError(
            f"sigmas: the skeleton {skeleton.name!r} has none, which OKS needs: give one for all "
            f"joints, or {len(skeleton)}"
        )
    values = np.asarray(skeleton.sigmas if sigmas is None else sigmas, np.float64)
    if values.size == 1:
        values = np.full(len(skeleton), values.item())
    if values.shape != (len(skeleton),) or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(
            f"sigmas: expected one positive number, or {len(skeleton)} for skeleton "
            f"{skeleton.name!r}, got {sigmas}"
        )
    return values


def oks_between(
    points: npt.ArrayLike,
    areas: npt.ArrayLike,
    sigmas: npt.ArrayLike,
    present: npt.ArrayLike | None = None,
    rows: npt.ArrayLike | None = None,
) -> Floats:
    """Similarity of some people to all.

    Args:
        points: [P, J, 2] pixels.
        areas: [P] square pixels.
        sigmas: [J].
        present: [P, J] which joints were found; compared are joints that both people have. By
            default all.
        rows: [R] who is compared with all; by default everybody.

    Returns:
        [R, P] in 0..1; 0 where two people share no joint.

    Raises:
        ValueError: shapes.
    """
    points, areas, sigmas, here = _check(points, areas, sigmas, present)
    chosen = np.arange(len(points)) if rows is None else np.asarray(rows, np.int64).reshape(-1)
    squares = ((points[chosen, None] - points[None]) ** 2).sum(-1)  # [R, P, J]
    mean_area = (areas[chosen, None] + areas[None]) / 2 + np.spacing(1)  # [R, P]
    errors = squares / (8 * sigmas**2 * mean_area[..., None])
    shared = here[chosen, None] & here[None]  # [R, P, J]
    total = np.where(shared, np.exp(-errors), 0).sum(-1)
    return total / np.maximum(shared.sum(-1), 1)


def oks_nms(
    points: npt.ArrayLike,
    scores: npt.ArrayLike,
    areas: npt.ArrayLike,
    sigmas: npt.ArrayLike,
    threshold: float = 0.9,
    *,
    present: npt.ArrayLike | None = None,
) -> Ints:
    """Who stays: from the highest score down, everybody not too similar to one who stays.

    Args:
        points, areas, sigmas, present: see ``oks_between``.
        scores: [P] finite. Of equal ones the first row comes first.
        threshold: those more similar than this to a better one go; 0.9 in the HRNet code.

    Returns:
        Rows that stay, by falling score.

    Raises:
        ValueError: shapes, a score that is not finite, a threshold outside 0..1.
    """
    points, areas, sigmas, here = _check(points, areas, sigmas, present)
    left = np.argsort(-_check_scores(scores, len(points), threshold), kind="stable")
    kept = []
    while len(left):
        kept.append(left[0])
        similarity = oks_between(points[left], areas[left], sigmas, here[left], [0])[0]
        left = left[1:][similarity[1:] <= threshold]
    return np.array(kept, np.int64)


def soft_oks_nms(
    points: npt.ArrayLike,
    scores: npt.ArrayLike,
    areas: npt.ArrayLike,
    sigmas: npt.ArrayLike,
    threshold: float = 0.9,
    *,
    present: npt.ArrayLike | None = None,
    limit: int | None = None,
) -> tuple[Ints, Floats]:
    """Lower scores in place of removal: each one who is taken lowers those of similar people.

    Scores are multiplied by exp(-OKS^2 / threshold) (soft NMS, arXiv 1704.04503, equation 3, with
    OKS for overlap). Meant for scores that are not negative.

    Args:
        points, scores, areas, sigmas, threshold, present: see ``oks_nms``.
        limit: how many stay; the HRNet code takes 20. By default all.

    Returns:
        Rows by falling new score, and those scores.

    Raises:
        ValueError: as ``oks_nms``; a limit below 1.
    """
    points, areas, sigmas, here = _check(points, areas, sigmas, present)
    current = _check_scores(scores, len(points), threshold).copy()
    if threshold == 0:
        raise ValueError("threshold: expected above 0 for soft suppression, got 0")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected at least 1, got {limit}")
    left = np.arange(len(points))
    kept: list[int] = []
    while len(left) and (limit is None or len(kept) < limit):
        best = int(np.argmax(current[left]))  # the first of equal ones
        kept.append(int(left[best]))
        similarity = oks_between(points[left], areas[left], sigmas, here[left], [best])[0]
        stays = np.arange(len(left)) != best
        left = left[stays]
        current[left] *= np.exp(-(similarity[stays] ** 2) / threshold)
    rows = np.array(kept, np.int64)
    return rows, current[rows]


def _check(
    points: npt.ArrayLike,
    areas: npt.ArrayLike,
    sigmas: npt.ArrayLike,
    present: npt.ArrayLike | None,
) -> tuple[Floats, Floats, Floats, Bools]:
    points, areas = np.asarray(points, np.float64), np.asarray(areas, np.float64)
    sigmas = np.asarray(sigmas, np.float64)
    if points.ndim != 3 or points.shape[2] != 2:
        raise ValueError(f"points: expected [P, J, 2], got {list(points.shape)}")
    people, joints = points.shape[:2]
    here = np.ones((people, joints), np.bool_) if present is None else np.asarray(present, bool)
    for name, array, shape in (
        ("areas", areas, (people,)),
        ("sigmas", sigmas, (joints,)),
        ("present", here, (people, joints)),
    ):
        if array.shape != shape:
            raise ValueError(f"{name}: expected {list(shape)}, got {list(array.shape)}")
    return points, areas, sigmas, here


def _check_scores(scores: npt.ArrayLike, people: int, threshold: float) -> Floats:
    values = np.asarray(scores, np.float64)
    if values.shape != (people,) or not np.isfinite(values).all():
        raise ValueError(f"scores: expected {people} finite numbers, got {values.tolist()}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: expected 0..1, got {threshold}")
    return values
