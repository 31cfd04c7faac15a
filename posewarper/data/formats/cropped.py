"""Labels that count in pixels of a part of the frame, put on whole frames."""

from __future__ import annotations

import posixpath
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from posewarper.data.formats.deeplabcut_project import Crop, find_config, read_config, stem_of
from posewarper.data.tables import Ints, PoseDataset

Size = tuple[int, int]


def moved(dataset: PoseDataset, frames: Ints, by_xy: tuple[float, float]) -> PoseDataset:
    """The data set with everything in some of its frames moved: joints, boxes, ignore regions.

    Args:
        dataset: labels that count from the corner of a part of the frame.
        frames: rows of the frames.
        by_xy: where that corner is in the whole frame, in pixels.
    """
    people = dataset.people
    there = np.isin(people.frame, frames)
    by = np.array(by_xy, np.float64)
    keypoints = np.array(people.keypoints)
    labelled = there[:, None] & (keypoints[..., 2] > 0)
    keypoints[..., :2][labelled] += by
    bbox, head_box = np.array(people.bbox), np.array(people.head_box)
    bbox[there, :2] += by
    head_box[there] += np.concatenate([by, by])
    regions = dataset.frames.ignore
    corners = np.array(regions.points)
    for row in frames.tolist():
        first, last = regions.frame_start[row], regions.frame_start[row + 1]
        corners[regions.polygon_start[first] : regions.polygon_start[last]] += by
    return replace(
        dataset,
        people=replace(people, keypoints=keypoints, bbox=bbox, head_box=head_box),
        frames=replace(dataset.frames, ignore=replace(regions, points=corners)),
    )


def deeplabcut_crop(
    dataset: PoseDataset,
    rows: Ints,
    path: Path,
    size_wh: Size,
    size_of_images: Callable[[], Size | None],
) -> Crop | None:
    """The part of the frames that labels of DeepLabCut count in; None if it is the whole frame.

    The ``config.yaml`` beside or above the labels may name a part that was cut out. Whether the
    images were cut, their size tells; where they are not at hand, where the labels lie. A warning
    says what was decided.

    Args:
        dataset: labels.
        rows: of the frames of one video.
        path: of the video file or folder that they are put on.
        size_wh: of its frames.
        size_of_images: reads that of a labelled image; None if there is none.

    Raises:
        ValueError: ``config.yaml`` cannot be read; it cannot be told whether the images were cut.
    """
    labels = Path(dataset.source)
    config = find_config(labels) if len(rows) else None
    if config is None:
        return None
    project = read_config(config)
    folder = posixpath.dirname(dataset.frames.file_name[int(rows[0])])
    names = posixpath.basename(folder), labels.absolute().parent.name, stem_of(path.as_posix())
    crop = next((c for c in map(project.crop_of, names) if c is not None), None)
    if crop is None or size_wh in (crop.size_wh, (0, 0)):
        return None
    image_wh = size_of_images()
    x1, x2, y1, y2 = crop.x1, crop.x2, crop.y1, crop.y2
    part = f"x {x1} to {x2}, y {y1} to {y2} of {path} (config.yaml)"
    if image_wh is not None and image_wh != crop.size_wh:
        if image_wh == size_wh:
            warnings.warn(
                f"{labels}: not moved to {part}: the labelled images are whole frames", stacklevel=5
            )
        return None
    if x2 > size_wh[0] or y2 > size_wh[1]:
        raise ValueError(
            f"{config}: video_sets: crop {x1}, {x2}, {y1}, {y2} does not lie in the frames of "
            f"{path}, which have {size_wh[0]}x{size_wh[1]} pixels"
        )
    why = "the labelled images have its size"
    if image_wh is None:
        people = dataset.people
        here = people.keypoints[np.isin(people.frame, rows)]
        places = here[here[..., 2] > 0][:, :2]
        beyond_part = int(((places < -1) | (places > crop.size_wh)).any(1).sum())
        beyond_whole = int(((places < (x1, y1)) | (places > (x2, y2))).any(1).sum())
        if beyond_part and 4 * beyond_whole <= beyond_part:
            return None
        if not beyond_whole or 4 * beyond_part > beyond_whole:
            raise ValueError(
                f"{labels}: do labels count in pixels of the whole frame, or of {part}? Put the "
                "labelled images beside the labels, or take the crop out of config.yaml if they "
                "were not cut"
            )
        why = "that is where the labels lie; the labelled images are not at hand"
    warnings.warn(
        f"{labels}: labels are moved by ({x1}, {y1}) pixels, for they count in {part}: {why}",
        stacklevel=5,
    )
    return crop
