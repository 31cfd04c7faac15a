"""Boxes that are turned, so that a pose stands upright in its crop.

An animal seen from above lies at any angle. A network that sees it always the same way round has
less to learn: with a few dozen labels that decides (docs/lab-notes.md). The angle of a pose is that
of the rotation which brings it closest to a reference pose (orthogonal Procrustes problem).

P people, J joints. A turned box is x, y, width, height in pixels of the box before it is turned,
and the degrees by which it is then turned about its own centre, counted as in
``crops.crop_matrices``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from posewarper.data.tables import Bools, Floats

_MARGIN = 1.25  # of a box around joints, as for labels without boxes
_LEAST_JOINTS = 2  # of which an angle is known
_LEAST_SIDE = 2.0  # pixels
_NO_LENGTH = 1e-9  # pixels
_ROUNDS = 10


def rotations(keypoints: npt.ArrayLike, reference: npt.ArrayLike) -> Floats:
    """Degrees [P] that turn poses into the direction of the reference.

    Args:
        keypoints: [P, J, 3] x, y, visibility.
        reference: [J, 2] the pose that is upright; only its shape and direction count.

    Returns:
        -180 to 180; NaN where nothing tells the angle: fewer than two labelled joints, or all of
        them on one point.
    """
    labels: Floats = np.asarray(keypoints, np.float64)
    there: Bools = np.asarray(labels[:, :, 2] > 0)
    pose = _centred(labels[:, :, :2], there)
    wanted = _centred(np.broadcast_to(np.asarray(reference, np.float64), pose.shape), there)
    along = (pose * wanted).sum((1, 2))
    across = (pose[..., 1] * wanted[..., 0] - pose[..., 0] * wanted[..., 1]).sum(1)
    angle: Floats = np.rad2deg(np.arctan2(across, along))
    nothing = np.hypot(along, across) <= _NO_LENGTH * np.sqrt((wanted**2).sum((1, 2)))
    return np.where(nothing | (there.sum(1) < _LEAST_JOINTS), np.nan, angle)


def upright_boxes(
    keypoints: npt.ArrayLike, reference: npt.ArrayLike, margin: float = _MARGIN
) -> tuple[Floats, Floats]:
    """Turned boxes around poses, in two parts.

    Joints without a label count where the reference pose has them, turned, scaled and moved onto
    those with one: a box is that of the whole body, however much of it is labelled.

    Args:
        keypoints: [P, J, 3].
        reference: [J, 2].
        margin: by which the extent of the joints grows.

    Returns:
        x, y, width, height [P, 4] and degrees [P]; both NaN for poses without an angle, see
        ``rotations``.
    """
    labels: Floats = np.asarray(keypoints, np.float64)
    degrees = rotations(labels, reference)
    there: Bools = np.asarray((labels[:, :, 2] > 0) & np.isfinite(degrees)[:, None])
    turn = _matrices(np.nan_to_num(degrees))  # [P, 2, 2]
    turned = labels[:, :, :2] @ turn.transpose(0, 2, 1)
    turned = np.where(there[..., None], turned, _guessed(turned, there, reference))
    known = np.isfinite(degrees)[:, None]
    low, high = (np.where(known, side, np.nan) for side in (turned.min(1), turned.max(1)))
    size = np.maximum((high - low) * margin, _LEAST_SIDE)
    center = (((low + high) / 2)[:, None] @ turn)[:, 0]  # turned back
    return np.concatenate([center - size / 2, size], 1), degrees


def reference_pose(keypoints: npt.ArrayLike) -> tuple[tuple[float, float], ...] | None:
    """The mean pose [J, 2] of labels, after they were turned and scaled alike.

    It stands as tall as it can: the longest axis is vertical, and of both ways up it is the one
    that is nearer to the label with the most joints. Its size is 1 (root of the mean square
    distance of the joints from their centre).

    Args:
        keypoints: [P, J, 3].

    Returns:
        None where no pose has two labelled joints in different places. Joints that are never
        labelled together with others that tell where they belong lie in the centre.
    """
    labels: Floats = np.asarray(keypoints, np.float64)
    labels = labels[_size(_centred(labels[:, :, :2], labels[:, :, 2] > 0)) > _NO_LENGTH]
    if not len(labels):
        return None
    there: Bools = np.asarray(labels[:, :, 2] > 0)
    poses = np.where(there[..., None], labels[:, :, :2], 0)
    first = int(there.sum(1).argmax())
    # Where joints lie is known from the pose with the most of them, then from all that share two.
    reference, known = _centred(poses, there)[first], there[first]
    for _ in range(_ROUNDS):
        common = there & known
        angles = rotations(np.concatenate([poses, common[..., None]], 2), reference)
        fits = np.isfinite(angles)
        turns = _matrices(np.nan_to_num(angles)).transpose(0, 2, 1)
        target = np.broadcast_to(reference, poses.shape)
        scale = _size(_centred(target, common)) / np.maximum(_size(_centred(poses, common)), 1e-9)
        placed = (poses - _means(poses, common)) @ turns * scale[:, None, None]
        counts: Bools = there & fits[:, None]
        placed = np.where(counts[..., None], placed + _means(target, common), 0)
        known = np.asarray(counts.any(0))
        reference = placed.sum(0) / np.maximum(counts.sum(0), 1)[:, None]
        reference = np.where(known[:, None], reference - reference[known].mean(0), 0)
        reference = reference / max(float(np.sqrt((reference[known] ** 2).sum(1).mean())), 1e-9)
    _, vectors = np.linalg.eigh(reference.T @ reference)
    x, y = vectors[:, 1]  # the longest axis
    upright = reference @ _matrices(np.rad2deg(np.arctan2([x], [y])) * -1)[0].T
    if (upright * _centred(poses, there)[first]).sum() < 0:
        upright = -upright
    return tuple((float(px), float(py)) for px, py in upright)


def angles_vary(degrees: npt.ArrayLike, least: float = 20.0) -> bool:
    """Whether poses stand at different angles: their circular standard deviation is above ``least``
    degrees. NaN are left out.
    """
    angle = np.deg2rad(np.asarray(degrees, np.float64))
    angle = angle[np.isfinite(angle)]
    if not len(angle):
        return False
    length = float(np.hypot(np.cos(angle).mean(), np.sin(angle).mean()))
    return bool(np.sqrt(-2 * np.log(min(max(length, 1e-12), 1.0))) > np.deg2rad(least))


def between(first: npt.ArrayLike, last: npt.ArrayLike, share: float) -> Floats:
    """A turned box [5] between two: its centre moves in a straight line, the angle takes the
    shorter way.
    """
    first, last = np.asarray(first, np.float64), np.asarray(last, np.float64)
    mean = (1 - share) * first + share * last
    way = (last[4] - first[4] + 180) % 360 - 180
    mean[4] = first[4] + share * way
    return mean


def not_turned(boxes: npt.ArrayLike) -> Floats:
    """Boxes [P, 4] as turned boxes [P, 5] of 0 degrees."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([boxes, np.zeros((len(boxes), 1))], 1)


def _guessed(turned: Floats, there: Bools, reference: npt.ArrayLike) -> Floats:
    """[P, J, 2] the reference pose, brought to the joints that are there by scale and shift."""
    wanted = np.broadcast_to(np.asarray(reference, np.float64), turned.shape)
    of_wanted, of_turned = (_size(_centred(places, there)) for places in (wanted, turned))
    scale = of_turned / np.maximum(of_wanted, _NO_LENGTH)
    around = _means(turned, there)
    guessed: Floats = around + scale[:, None, None] * (wanted - _means(wanted, there))
    return guessed


def _matrices(degrees: Floats | Sequence[float]) -> Floats:
    """[P, 2, 2] rotations as in ``crops.crop_matrices``."""
    angle = np.deg2rad(np.asarray(degrees, np.float64))
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)


def _means(places: Floats, there: Bools) -> Floats:
    """[P, 1, 2] mean of the joints that are there; (0, 0) of none."""
    count = np.maximum(there.sum(1), 1)[:, None, None]
    mean: Floats = np.where(there[..., None], places, 0).sum(1, keepdims=True) / count
    return mean


def _centred(places: Floats, there: Bools) -> Floats:
    """[P, J, 2] minus the mean of the joints that are there; the others (0, 0)."""
    return np.where(there[..., None], places - _means(places, there), 0)


def _size(centred: Floats) -> Floats:
    """[P] root of the summed squares of the distances from the centre."""
    size: Floats = np.sqrt((centred**2).sum((1, 2)))
    return size
