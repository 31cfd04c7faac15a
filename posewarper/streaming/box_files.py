"""Boxes from files: labels of any known format, and lists of detections.

P people of a frame.
"""

from __future__ import annotations

import posixpath
from dataclasses import replace
from pathlib import Path

import numpy as np

from posewarper.data.annotations import read_json
from posewarper.data.crops import clean_boxes
from posewarper.data.dataset import load_detections
from posewarper.data.formats import load_labels
from posewarper.data.formats.attach import attach
from posewarper.data.tables import Floats, Frames, Ints, People, PoseDataset, Video
from posewarper.data.upright import upright_boxes
from posewarper.data.video import VideoFile
from posewarper.models import PoseSpec
from posewarper.skeleton import Skeleton
from posewarper.streaming.boxes import FromFile, unknown_angle
from posewarper.streaming.poses import Places
from posewarper.streaming.sources import Source


def load_boxes(path: Path, source: Source, model: PoseSpec, threshold: float) -> FromFile:
    """Boxes of a file for the frames of a video.

    Args:
        path: labels of any known format (``data.formats.load_labels``), of this video or of several
            of which one is called like it; or a detector's list (``data.dataset.load_detections``)
            whose ``image_name`` is VIDEO/NUMBER.jpg, or the name of the image in the folder, or
            whose ``image_id`` is 1 for the first frame.
        source: the video, which must have an end.
        model: for whether crops are turned: then the labels' joints tell the angle.
        threshold: detections with a lower score are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no boxes, is of another video, or names frames that do not exist.
    """
    if source.path is None:
        raise ValueError(
            "box_file: goes with a video file or a folder of images, not with a stream"
        )
    if has_detections(path):
        return _detections(path, source, model, threshold)
    dataset = load_labels(path, poses=False)
    dataset = attach(_only(dataset, source.video), source.path)
    people, frames = dataset.people, dataset.frames
    boxes, inside = clean_boxes(people.bbox, frames.size_wh[people.frame])
    rows = np.flatnonzero(inside & ~people.crowd & (people.bbox[:, 2:] > 0).all(1))
    if not len(rows):
        raise ValueError(f"box_file: {path} has no box that lies in its image")
    box = np.concatenate([boxes, np.full((len(boxes), 1), unknown_angle(model))], 1)[rows]
    if model.upright is not None and dataset.skeleton.joints == model.skeleton.joints:
        around, degrees = upright_boxes(people.keypoints[rows], model.upright)
        known = np.isfinite(degrees)
        box[known] = np.concatenate([around, degrees[:, None]], 1)[known]
    return _by_number(frames.number[people.frame[rows]], box, None, people.track_id[rows])


def has_detections(path: Path) -> bool:
    """Whether a file is a detector's list, whose boxes have scores, and not one of labels."""
    listed = path.suffix.lower() == ".json" and isinstance(content := read_json(path), list)
    return bool(listed and content and isinstance(content[0], dict) and "bbox" in content[0])


def _detections(path: Path, source: Source, model: PoseSpec, threshold: float) -> FromFile:
    video, names = source.video, None
    if source.path is not None and source.path.is_file():
        # What containers say about the number of frames may be wrong.
        video = replace(video, frame_count=VideoFile(source.path).frame_count())
    numbers = np.arange(video.first_frame, video.last_frame + 1)
    entries = read_json(path)
    given = [entry.get("image_name") for entry in entries if isinstance(entry, dict)]
    if given and all(isinstance(name, str) and "/" not in name for name in given):
        names = [posixpath.basename(video.file_name(number)) for number in numbers.tolist()]
    frames = Frames.make([video], np.zeros(len(numbers)), numbers, file_name=names)
    nobody = People.make([], np.zeros((0, 1, 3)), [])
    dataset = PoseDataset(Skeleton("boxes", ("box",)), (video,), frames, nobody, str(source.path))
    found = load_detections(path, dataset, threshold)
    some = (found.bbox[:, 2:] > 0).all(1)
    if not some.any():
        raise ValueError(f"box_file: {path} has no box with a score of {threshold} or more")
    box = np.concatenate([found.bbox, np.full((len(found), 1), unknown_angle(model))], 1)
    return _by_number(found.number[some], box[some], found.score[some], None)


def _by_number(number: Ints, box: Floats, score: Floats | None, track_id: Ints | None) -> FromFile:
    everybody = Places.make(box, score, track_id)
    return FromFile({n: everybody[np.flatnonzero(number == n)] for n in np.unique(number).tolist()})


def _only(dataset: PoseDataset, video: Video) -> PoseDataset:
    """The labels of the video, by its name where there are several."""
    if len(dataset.videos) == 1:
        return dataset
    wanted = video.name, posixpath.basename(video.path)
    here = np.array(
        [
            {posixpath.basename(known.name), posixpath.basename(known.path)} & {*wanted} != set()
            for known in dataset.videos
        ]
    )
    if here.sum() != 1:
        raise ValueError(
            f"box_file: {here.sum()} of the videos in {dataset.source} are called {video.name!r}, "
            f"expected one; it has {', '.join(v.name for v in dataset.videos[:5])}"
        )
    return dataset.select(videos=here)
