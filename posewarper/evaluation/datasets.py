"""PCK of one set of annotations against another, people paired by frame and track id."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from posewarper.data.tables import PoseDataset
from posewarper.evaluation.pck import (
    PckResult,
    box_lengths,
    evaluate_pck,
    head_lengths,
    point_extents,
)

_Key = tuple[str, int, int]


def _people_by_key(dataset: PoseDataset) -> dict[_Key, int]:
    """Row of each person by video, frame number and track id.

    Raises:
        ValueError: a person without a track id, or two with the same one in a frame.
    """
    frames, people = dataset.frames, dataset.people
    rows: dict[_Key, int] = {}
    for row, (frame, track) in enumerate(
        zip(people.frame.tolist(), people.track_id.tolist(), strict=True)
    ):
        place = f"{dataset.source}: annotation {people.annotation_id[row]}"
        if track < 0:
            raise ValueError(f"{place} has no track_id, by which people are paired")
        key = (dataset.videos[frames.video[frame]].name, int(frames.number[frame]), track)
        if key in rows:
            raise ValueError(
                f"{place}: track_id {track} occurs twice in frame {key[1]} of {key[0]!r}"
            )
        rows[key] = row
    return rows


def aligned_keypoints(truth: PoseDataset, predicted: PoseDataset) -> NDArray[np.float64]:
    """Where the joints of the truth's people were predicted, [P, J, 2] in pixels; NaN: nowhere.

    People are paired by video, frame number and track id. Predicted people whom the truth lacks
    count nowhere.

    Raises:
        ValueError: other joints, or track ids that are missing or not unique.
    """
    if truth.skeleton.joints != predicted.skeleton.joints:
        raise ValueError(
            f"{predicted.source}: expected the joints of {truth.source}, "
            f"{list(truth.skeleton.joints)}, got {list(predicted.skeleton.joints)}"
        )
    places = _people_by_key(predicted)
    found = np.full(truth.people.keypoints[:, :, :2].shape, np.nan)
    for key, row in _people_by_key(truth).items():
        place = places.get(key)
        if place is not None:
            keypoints = predicted.people.keypoints[place]
            found[row] = np.where(keypoints[:, 2:] > 0, keypoints[:, :2], np.nan)
    return found


def compare_datasets(
    truth: PoseDataset,
    predicted: PoseDataset,
    *,
    lengths: Literal["head", "box", "extent"] = "head",
    thresholds: Sequence[float] = (0.5,),
) -> PckResult:
    """PCK of predicted annotations; people of the truth that are not predicted count as wrong.

    Args:
        truth: labelled people with track ids.
        predicted: people with the same joints and track ids; joints of visibility 0 are missing.
        lengths: see ``head_lengths`` (PCKh), ``box_lengths``, ``point_extents``.
        thresholds: fractions of the length.

    Raises:
        ValueError: other joints, or track ids that are missing or not unique.
    """
    guess = aligned_keypoints(truth, predicted)
    points = truth.people.keypoints  # [P, J, 3]
    labelled = points[:, :, 2] > 0
    size: NDArray[np.float64]
    if lengths == "head":
        size = head_lengths(truth.people.head_box)
    elif lengths == "box":
        size = box_lengths(truth.people.bbox)
    elif lengths == "extent":
        size = point_extents(points[:, :, :2], labelled)
    else:
        raise ValueError(f"lengths: expected 'head', 'box' or 'extent', got {lengths!r}")
    size = np.where(size > 0, size, np.nan)  # an empty box, or a single joint, tells no length
    result = evaluate_pck(
        guess,
        points[:, :, :2],
        size,
        skeleton=truth.skeleton,
        thresholds=thresholds,
        labelled=labelled,
    )
    if result.excluded:
        without = {"head": "head box", "box": "box", "extent": "extent"}[lengths]
        others = " or ".join(f"--lengths {name}" for name in ("box", "extent") if name != lengths)
        warnings.warn(
            f"{truth.source}: {result.excluded} of {labelled.sum()} labelled joints count nowhere, "
            f"as their people have no {without} to divide by; {others} divides by something else",
            stacklevel=2,
        )
    return result
