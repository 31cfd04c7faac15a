"""Who of the annotated people serves as a sample, and where to look for them.

P people, J joints.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from posewarper.data.crops import clean_boxes
from posewarper.data.tables import Bools, Floats, Ints, PoseDataset
from posewarper.data.upright import not_turned, upright_boxes

#: The pose [J, 2] that stands upright in turned crops; None where crops are not turned.
Upright = tuple[tuple[float, float], ...] | None


def person_sizes(points: npt.ArrayLike, labelled: npt.ArrayLike | None = None) -> Floats:
    """Size of each person in pixels: the longer side of the box around the labelled joints.

    What "size of the person" or "of the animal" means wherever distances are divided by it.

    Args:
        points: [..., J, 2] in pixels.
        labelled: [..., J]; by default the joints that are not NaN.

    Returns:
        [...]; 0 where fewer than two different places are labelled.
    """
    xy = np.asarray(points, np.float64)
    known: Bools = (
        np.isfinite(xy) if labelled is None else np.asarray(labelled, np.bool_)[..., None]
    )
    low = np.where(known, xy, np.inf).min(-2, initial=np.inf)  # [..., 2]
    high = np.where(known, xy, -np.inf).max(-2, initial=-np.inf)
    sides = np.where(high >= low, high, 0.0) - np.where(high >= low, low, 0.0)
    return np.asarray(sides.max(-1), np.float64)


def usable_people(dataset: PoseDataset) -> tuple[Ints, Floats]:
    """Rows of the people that serve as samples, and their boxes [P, 4] clipped to the image.

    As in 2019: no crowds, an area above 0, a box of which something lies in the image, and at least
    one labelled joint. Nor is a box without a width, a height, or more than a pixel one to crop.
    """
    people = dataset.people
    boxes, inside = clean_boxes(people.bbox, dataset.frames.size_wh[people.frame])
    labelled = (people.keypoints[:, :, 2] > 0).any(1)
    sized = (people.bbox[:, 2:] > 0).all(1) & (boxes[:, 2:] > 0).any(1)
    rows = np.flatnonzero(inside & sized & labelled & (people.area > 0) & ~people.crowd)
    return rows, boxes[rows]


def left_out(dataset: PoseDataset) -> str:
    """Who is labelled and yet no sample, in a line; empty if nobody."""
    people = dataset.people
    labelled = (people.keypoints[:, :, 2] > 0).any(1) & ~people.crowd
    rows = np.setdiff1d(np.flatnonzero(labelled), usable_people(dataset)[0])
    if not len(rows):
        return ""
    some = ", ".join(str(people.annotation_id[row]) for row in rows[:5])
    return (
        f"{dataset.source}: {len(rows)} of {labelled.sum()} labelled people are left out, as their "
        f"boxes have no size, no area or nothing in the image: annotation {some}"
        + (", ..." if len(rows) > 5 else "")
    )


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
