"""The boxes in which a job on a data set looks: a detector's, or those of the annotations."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from posewarper.data.dataset import Boxes, annotated_boxes, load_detections
from posewarper.data.formats import load_labels
from posewarper.data.tables import Ints, PoseDataset
from posewarper.data.video import FrameSource, fill_sizes
from posewarper.skeleton import Skeleton

BOX_THRESHOLD = 0.2  # of the published results


def load_frames(path: Path, skeleton: Skeleton) -> PoseDataset:
    """Annotations of which frames and boxes count: with the joints that the file names, whichever
    they are; where it names none, with those of ``skeleton``.

    Args:
        path: file of any known format, or folder of official PoseTrack files.
        skeleton: of the model.

    Raises:
        ValueError: a file is damaged; names it.
        OSError: a file cannot be read.
    """
    return load_labels(path, unnamed=skeleton, poses=False)


def given_boxes(
    dataset: PoseDataset, source: FrameSource, detections: Path | None, threshold: float
) -> tuple[Boxes, Ints | None]:
    """Boxes of a detector, or those of the annotations with their track ids.

    Args:
        dataset: videos, frames, labelled people.
        source: for the sizes of images that the data set does not tell.
        detections: see ``load_detections``; None: the boxes of the labelled people.
        threshold: detections with a lower score are left out.

    Raises:
        ValueError: there is no box; names the file.
        OSError: a file cannot be read.
    """
    if detections is not None:
        found = load_detections(detections, dataset, threshold)
        if not len(found):
            raise ValueError(f"{detections}: no detection has a score of {threshold} or more")
        return found, None
    if (dataset.frames.size_wh.min(1, initial=1) <= 0).any():
        dataset = fill_sizes(dataset, source)  # boxes are clipped to the image
    found = annotated_boxes(dataset)
    if not len(found):
        raise ValueError(
            f"{dataset.source}: none of {len(dataset.people)} people has a labelled joint and a "
            "box in the image; boxes of a detector are given with the option boxes"
        )
    return found, np.asarray(dataset.people.track_id[found.row])
