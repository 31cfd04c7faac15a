"""SLEAP's .slp files, through sleap-io.

SLEAP trains on visible points only, and keeps coordinates of invisible ones that nobody placed. So
invisible points are not labelled, and every labelled joint is written as a visible point.

A video can be a crop of its file, and points then count from the corner of the crop. They are read
as points of the file, which is the video that everybody else opens.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from posewarper.data.formats.label_file import (
    LabelFile,
    LabelledFrame,
    LabelledPerson,
    points_of,
    track_label,
)
from posewarper.data.formats.optional import import_optional
from posewarper.data.images import IMAGE_SUFFIXES
from posewarper.data.tables import PoseDataset
from posewarper.files import whole_file


def read_slp(path: Path) -> LabelFile:
    """A SLEAP project or its predictions.

    Frames with people, and those marked as negative, are labelled; empty ones and suggestions are
    listed. Predictions count where no user label of the same track, or made from them, is there.
    Of files with embedded images the frame numbers are those of the original video.

    Raises:
        ValueError: it cannot be read, people have different skeletons, or sleap-io is missing.
    """
    sleap_io = import_optional("sleap_io", path)
    try:
        project = sleap_io.load_slp(str(path), open_videos=False)
    except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{path}: sleap-io cannot read this file: {text}") from None
    skeleton = _skeleton(project, path)
    labels = LabelFile(
        str(path),
        tuple(skeleton.node_names),
        skeleton.name or "",
        tuple((int(a), int(b)) for a, b in skeleton.edge_inds),
        tuple(sorted((int(min(pair)), int(max(pair))) for pair in skeleton.symmetry_inds)),
        [track.name for track in project.tracks],
    )
    for video in project.videos:
        _note_video(labels, _original(video))
        if any(_corner(video)):
            warnings.warn(
                f"{path}: the points of a crop of {_original(video).filename} are moved by "
                f"{_corner(video)} pixels (x, y), to where they are in the whole video",
                stacklevel=4,
            )
    for listed in project.labeled_frames:
        frame = _frame(labels, listed.video, int(listed.frame_idx))
        for instance in [*listed.user_instances, *listed.unused_predictions]:
            person = _person(instance, _corner(listed.video))
            if (person.points[:, 2] > 0).any():
                frame.people.append(person)
        frame.labelled = bool(frame.people) or bool(listed.is_negative)
    seen = {id(frame) for frame in labels.frames}
    for suggestion in project.suggestions:
        frame = _frame(labels, suggestion.video, int(suggestion.frame_idx))
        frame.labelled = frame.labelled and id(frame) in seen
    return labels


def _skeleton(project: Any, path: Path) -> Any:
    """The skeleton that people have; others may be in the file, unused."""
    skeletons = {tuple(skeleton.node_names): skeleton for skeleton in project.skeletons}
    used = {
        tuple(instance.skeleton.node_names)
        for frame in project.labeled_frames
        for instance in frame.instances
    }
    chosen = used or set(skeletons)
    if len(chosen) != 1:
        raise ValueError(
            f"{path}: expected people of one skeleton, got {len(chosen)} "
            f"({sorted(list(s) for s in chosen)})"
        )
    return skeletons[chosen.pop()]


def _original(video: Any) -> Any:
    """The video that an embedded one was taken from."""
    return video.original_video or video


def _corner(video: Any) -> tuple[int, int]:
    """Where the upper left corner of a cropped video is in its file."""
    left, top = video.backend_metadata.get("crop", (0, 0))[:2]
    return int(left), int(top)


def _shape(video: Any) -> tuple[int, int, int]:
    """Frames, width and height; 0 where the file does not say."""
    shape = video.backend_metadata.get("shape")
    if shape is None or len(shape) < 3:
        return 0, 0, 0
    return int(shape[0] or 0), int(shape[2] or 0), int(shape[1] or 0)


def _note_video(labels: LabelFile, video: Any) -> None:
    if isinstance(video.filename, list):
        labels.image_sets.append([str(name) for name in video.filename])
    elif _shape(video)[0]:
        labels.frame_counts[str(video.filename)] = _shape(video)[0]


def _frame(labels: LabelFile, video: Any, index: int) -> LabelledFrame:
    original = _original(video)
    if isinstance(original.filename, list):
        if not 0 <= index < len(original.filename):
            raise ValueError(
                f"{labels.source}: frame {index} of a list of {len(original.filename)} images"
            )
        frame = labels.frame(str(original.filename[index]))
    else:
        frame = _frame_of(labels, str(original.filename), index)
    frame.size_wh = _shape(original)[1:] if any(_shape(original)) else _shape(video)[1:]
    return frame


def _frame_of(labels: LabelFile, path: str, index: int) -> LabelledFrame:
    """Frame of a video file, or a video of one image."""
    image = Path(path).suffix.lower() in IMAGE_SUFFIXES
    return labels.frame(path, None if image else index)


def _person(instance: Any, corner: tuple[int, int]) -> LabelledPerson:
    points = instance.points
    places = np.where(points["visible"][:, None], points["xy"] + corner, np.nan)
    track = None if instance.track is None else instance.track.name
    if "score" not in points.dtype.names:
        return LabelledPerson(points_of(places), track)
    scores = np.where(np.isfinite(places).all(1), points["score"], np.nan)
    return LabelledPerson(points_of(places), track, scores, float(instance.score))


def write_slp(dataset: PoseDataset, path: Path, names: Mapping[int, str]) -> None:
    """Write a SLEAP project: people with scores as predictions, labelled frames without people as
    negative, frames that are not labelled as suggestions.

    Raises:
        ValueError: sleap-io is missing.
    """
    sleap_io = import_optional("sleap_io", path)
    project = _project(sleap_io, dataset, path, names)
    with whole_file(path) as partial:
        sleap_io.save_slp(project, str(partial), embed=False, verbose=False)


def _project(sleap_io: Any, dataset: PoseDataset, path: Path, names: Mapping[int, str]) -> Any:
    frames, people, skeleton = dataset.frames, dataset.people, dataset.skeleton
    nodes = sleap_io.Skeleton(
        nodes=list(skeleton.joints),
        edges=[(skeleton.joints[a], skeleton.joints[b]) for a, b in skeleton.limbs],
        symmetries=[
            (skeleton.joints[a], skeleton.joints[b]) for a, b in skeleton.flip_pairs if a != b
        ],
        name=skeleton.name,
    )
    images = [image_numbers(dataset, i, path) for i in range(len(dataset.videos))]
    videos = [_sleap_video(sleap_io, dataset, i, found) for i, found in enumerate(images)]
    places = [{number: i for i, number in enumerate(found)} for found in images]
    ids = sorted({int(track) for track in people.track_id if track >= 0})
    tracks = {track: sleap_io.Track(track_label(track, dict(names))) for track in ids}
    listed, suggestions = [], []
    for row, in_frame in enumerate(dataset.people_by_frame()):
        position, number = int(frames.video[row]), int(frames.number[row])
        place = {"video": videos[position], "frame_idx": places[position].get(number, number)}
        instances = []
        for person in in_frame.tolist():
            points = people.keypoints[person]
            labelled = points[:, 2] > 0
            common = {"skeleton": nodes, "track": tracks.get(int(people.track_id[person]))}
            located = np.where(labelled[:, None], points[:, :2], np.nan)
            if people.predicted[person]:
                scores = np.nan_to_num(people.joint_scores[person])
                score = people.score[person]
                instances.append(
                    sleap_io.PredictedInstance.from_numpy(
                        located,
                        point_scores=scores,
                        score=float(score if np.isfinite(score) else scores[labelled].mean()),
                        **common,
                    )
                )
            else:
                instances.append(sleap_io.Instance.from_numpy(located, **common))
        if instances or frames.labelled[row]:
            empty = not instances
            listed.append(sleap_io.LabeledFrame(**place, instances=instances, is_negative=empty))
        else:
            suggestions.append(sleap_io.SuggestionFrame(**place))
    return sleap_io.Labels(
        listed,
        videos=videos,
        tracks=list(tracks.values()),
        skeletons=[nodes],
        suggestions=suggestions,
    )


def _sleap_video(
    sleap_io: Any, dataset: PoseDataset, position: int, images: Mapping[int, str]
) -> Any:
    """A video that is named and not opened; a folder is the list of its images."""
    video = dataset.videos[position]
    width, height = size_of(dataset, position)
    if video.is_file:
        metadata: dict[str, Any] = {"type": "MediaVideo", "filename": video.path}
        filename: Any = video.path
    else:
        filename = list(images.values())
        metadata = {"type": "ImageVideo", "filename": filename[0], "filenames": filename}
    if width and height:  # SLEAP cannot open a video whose shape is there and empty
        count = video.frame_count if video.is_file else len(images)
        metadata.update(shape=[count, height, width, 3], grayscale=False)
    return sleap_io.Video(filename=filename, backend_metadata=metadata, open_backend=False)


def size_of(dataset: PoseDataset, position: int) -> tuple[int, int]:
    """Width and height of a video's frames in pixels; 0 if not known."""
    sizes = dataset.frames.size_wh[dataset.frames.video == position]
    width, height = (sizes.max(0) if len(sizes) else np.zeros(2)).tolist()
    return int(width), int(height)


def image_numbers(dataset: PoseDataset, position: int, out: Path) -> dict[int, str]:
    """The images of a folder by number, in order; nothing for a video file.

    Those that the data set lists, and those that are there, seen from here or from ``out``: a list
    with files that do not exist could not be opened.
    """
    video, frames = dataset.videos[position], dataset.frames
    if video.is_file:
        return {}
    rows = np.flatnonzero(frames.video == position).tolist()
    images = {int(frames.number[row]): frames.file_name[row] for row in rows}
    for number in range(video.first_frame, video.last_frame + 1):
        name = video.file_name(number)
        if number not in images and (Path(name).is_file() or (out.parent / name).is_file()):
            images[number] = name
    return dict(sorted(images.items())) or {video.first_frame: video.file_name(video.first_frame)}
