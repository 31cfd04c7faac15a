"""Who of the annotated people serves as a sample, and where to look for them.

P people, J joints.
"""

from __future__ import annotations

import numpy as np

from posewarper.data.crops import clean_boxes
from posewarper.data.tables import Floats, Ints, PoseDataset
from posewarper.data.upright import not_turned, upright_boxes

#: The pose [J, 2] that stands upright in turned crops; None where crops are not turned.
Upright = tuple[tuple[float, float], ...] | None


def usable_people(dataset: PoseDataset) -> tuple[Ints, Floats]:
    """Rows of the people that serve as samples, and their boxes [P, 4] clipped to the image.

    As in 2019: no crowds, an area above 0, a box of which something lies in the image, and at least
    one labelled joint.
    """
    people = dataset.people
    boxes, inside = clean_boxes(people.bbox, dataset.frames.size_wh[people.frame])
    labelled = (people.keypoints[:, :, 2] > 0).any(1)
    rows = np.flatnonzero(inside & labelled & (people.area > 0) & ~people.crowd)
    return rows, boxes[rows]


def turned_boxes(dataset: PoseDataset, upright: Upright = None) -> tuple[Ints, Floats]:
    """Rows of the people that serve as samples, and the boxes [P, 5] of their crops.

    Without ``upright`` these are the boxes of ``usable_people``, at 0 degrees; so they are for
    people of whom too few joints are labelled to tell an angle. See ``data.upright``.
    """
    rows, boxes = usable_people(dataset)
    turned = not_turned(boxes)
    if upright is not None:
        around, degrees = upright_boxes(dataset.people.keypoints[rows], upright)
        known = np.isfinite(degrees)
        turned[known] = np.concatenate([around, degrees[:, None]], 1)[known]
    return rows, turned
