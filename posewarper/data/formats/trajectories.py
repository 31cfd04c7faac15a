"""Predictions as arrays over the frames of one video: what SLEAP's analysis files, JABS and NWB
have in common.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from posewarper.data.formats.label_file import LabelFile, LabelledPerson, points_of
from posewarper.data.tables import Floats, Ints


def add_trajectories(
    labels: LabelFile,
    video: str,
    numbers: Ints,
    places: Floats,
    scores: Floats,
    *,
    names: Sequence[str | None] | NDArray[np.object_],
    person_scores: Floats | None = None,
) -> None:
    """Add one video, of which every frame that is given is listed.

    Args:
        labels: where to.
        video: its path.
        numbers: [T] the frames, from 0.
        places: [T, N, J, 2] x, y in pixels of N tracks; NaN where a joint was not found.
        scores: [T, N, J] of the joints; people without a single one count as labelled by hand.
        names: of the tracks, [N] or for every frame [T, N]; None: of a person without one.
        person_scores: [T, N], NaN where there is none.
    """
    found = np.asarray(np.isfinite(places).all(3))
    scores = np.where(found, scores, np.nan)
    there = np.asarray(found.any(2))
    who = np.broadcast_to(np.asarray(names, object), there.shape)
    for row, number in enumerate(numbers.tolist()):
        frame = labels.frame(video, number)
        frame.labelled = bool(there[row].any())
        for track in np.flatnonzero(there[row]).tolist():
            score = np.nan if person_scores is None else person_scores[row, track]
            points = points_of(places[row, track])
            frame.people.append(LabelledPerson(points, who[row, track], scores[row, track], score))
