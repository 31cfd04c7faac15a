"""SLEAP's .slp files and the PoseTraining of NWB files, through sleap-io and pynwb.

SLEAP trains on visible points only, and keeps coordinates of invisible ones that nobody placed. So
invisible points are not labelled, and every labelled joint is written as a visible point.

sleap-io 0.9 cannot read the lists of images and the subjects that it writes to NWB files, so they
are read with pynwb. Predictions in NWB files (PoseEstimation) have times, not frame numbers, and
are not read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from posewarper.data.formats.attach import IMAGE_SUFFIXES
from posewarper.data.formats.label_file import (
    LabelFile,
    LabelledFrame,
    LabelledPerson,
    points_of,
    track_label,
)
from posewarper.data.formats.optional import import_optional
from posewarper.data.tables import PoseDataset, Video
from posewarper.files import whole_file

_NWB_TRACKS = 256  # sleap-io stores them as bytes


def read_slp(path: Path) -> LabelFile:
    """A SLEAP project or its predictions.

    Frames with people, and those marked as negative, are labelled; empty ones and suggestions are
    listed. Predictions count where no user label of the same track, or made from them, is there.
    Of files with embedded images the frame numbers are those of the original video.

    Raises:
        ValueError: it cannot be read, has no or several skeletons, or sleap-io is missing.
    """
    sleap_io = import_optional("sleap_io", path)
    try:
        project = sleap_io.load_slp(str(path), open_videos=False)
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: sleap-io cannot read this file: {error}") from None
    skeletons = {tuple(skeleton.node_names): skeleton for skeleton in project.skeletons}
    if len(skeletons) != 1:
        raise ValueError(
            f"{path}: expected one skeleton, got {len(skeletons)} ({[list(s) for s in skeletons]})"
        )
    joints, skeleton = next(iter(skeletons.items()))
    labels = LabelFile(
        str(path),
        joints,
        skeleton.name or "",
        tuple((int(a), int(b)) for a, b in skeleton.edge_inds),
        tuple(sorted((int(min(pair)), int(max(pair))) for pair in skeleton.symmetry_inds)),
        [track.name for track in project.tracks],
    )
    for video in project.videos:
        _note_video(labels, _original(video))
    for listed in project.labeled_frames:
        frame = _frame(labels, listed.video, int(listed.frame_idx))
        for instance in [*listed.user_instances, *listed.unused_predictions]:
            person = _person(instance)
            if (person.points[:, 2] > 0).any():
                frame.people.append(person)
        frame.labelled = bool(frame.people) or bool(listed.is_negative)
    seen = {id(frame) for frame in labels.frames}
    for suggestion in project.suggestions:
        frame = _frame(labels, suggestion.video, int(suggestion.frame_idx))
        frame.labelled = frame.labelled and id(frame) in seen
    return labels


def _original(video: Any) -> Any:
    """The video that an embedded one was taken from."""
    return video.original_video or video


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


def _person(instance: Any) -> LabelledPerson:
    points = instance.points
    places = np.where(points["visible"][:, None], points["xy"], np.nan)
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
    project = _project(sleap_io, dataset, names)
    with _whole_file(path) as partial:
        sleap_io.save_slp(project, str(partial), embed=False, verbose=False)


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """``whole_file`` with a name that ends like ``path``, as sleap-io and pynwb want it."""
    with whole_file(path) as partial:
        written = partial.with_name(partial.name + path.suffix)
        try:
            yield written
            written.replace(partial)
        finally:
            written.unlink(missing_ok=True)


def _project(sleap_io: Any, dataset: PoseDataset, names: Mapping[int, str]) -> Any:
    frames, people, skeleton = dataset.frames, dataset.people, dataset.skeleton
    nodes = sleap_io.Skeleton(
        nodes=list(skeleton.joints),
        edges=[(skeleton.joints[a], skeleton.joints[b]) for a, b in skeleton.limbs],
        symmetries=[(skeleton.joints[a], skeleton.joints[b]) for a, b in skeleton.flip_pairs],
        name=skeleton.name,
    )
    videos = [_sleap_video(sleap_io, dataset, i) for i in range(len(dataset.videos))]
    ids = sorted({int(track) for track in people.track_id if track >= 0})
    tracks = {track: sleap_io.Track(track_label(track, dict(names))) for track in ids}
    listed, suggestions = [], []
    for row, in_frame in enumerate(dataset.people_by_frame()):
        position = int(frames.video[row])
        place = {
            "video": videos[position],
            "frame_idx": int(frames.number[row]) - dataset.videos[position].first_frame,
        }
        instances = []
        for person in in_frame.tolist():
            points = people.keypoints[person]
            labelled = points[:, 2] > 0
            common = {"skeleton": nodes, "track": tracks.get(int(people.track_id[person]))}
            places = np.where(labelled[:, None], points[:, :2], np.nan)
            if people.predicted[person]:
                scores = np.nan_to_num(people.joint_scores[person])
                score = people.score[person]
                instances.append(
                    sleap_io.PredictedInstance.from_numpy(
                        places,
                        point_scores=scores,
                        score=float(score if np.isfinite(score) else scores[labelled].mean()),
                        **common,
                    )
                )
            else:
                instances.append(sleap_io.Instance.from_numpy(places, **common))
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


def _sleap_video(sleap_io: Any, dataset: PoseDataset, position: int) -> Any:
    """A video that is named and not opened; a folder is the list of all its images."""
    video = dataset.videos[position]
    sizes = dataset.frames.size_wh[dataset.frames.video == position]
    width, height = (sizes.max(0) if len(sizes) else np.zeros(2)).tolist()
    shape = [video.frame_count, int(height), int(width), 3]
    if video.is_file:
        metadata = {"type": "MediaVideo", "filename": video.path}
        filename: Any = video.path
    else:
        filename = images_of(dataset, position)
        metadata = {"type": "ImageVideo", "filename": filename[0], "filenames": filename}
    known = {"shape": shape, "grayscale": False} if width and height else {"shape": None}
    return sleap_io.Video(
        filename=filename, backend_metadata={**metadata, **known}, open_backend=False
    )


def images_of(dataset: PoseDataset, position: int) -> list[str]:
    """The paths of all images of a video, of listed frames as the data set has them."""
    video, frames = dataset.videos[position], dataset.frames
    listed = {
        int(frames.number[row]): frames.file_name[row]
        for row in np.flatnonzero(frames.video == position)
    }
    numbers = range(video.first_frame, video.last_frame + 1)
    return [listed.get(number) or video.file_name(number) for number in numbers]


def read_nwb(path: Path) -> LabelFile:
    """The PoseTraining of an NWB file (extension ndx-pose); subjects are the tracks.

    Raises:
        ValueError: there is none, or several skeletons; pynwb or ndx-pose is missing.
    """
    pynwb = import_optional("pynwb", path)
    import_optional("ndx_pose", path)  # makes its types known to pynwb
    try:
        with warnings.catch_warnings(), pynwb.NWBHDF5IO(str(path), mode="r") as file:
            warnings.simplefilter("ignore")  # namespaces of other versions
            content = file.read()
            behaviour = content.processing.get("behavior")
            if behaviour is None or "PoseTraining" not in behaviour.data_interfaces:
                raise ValueError(
                    f"{path}: expected PoseTraining in the processing module 'behavior', as label "
                    "files have it; predictions (PoseEstimation) have no frame numbers"
                )
            table = getattr(content, "subjects_table", None)
            subjects = [] if table is None else [str(name) for name in table["subject_id"][:]]
            return _read_training(path, behaviour["PoseTraining"], subjects)
    except (KeyError, OSError, TypeError) as error:
        raise ValueError(f"{path}: pynwb cannot read this file: {error}") from None


def _read_training(path: Path, training: Any, subjects: list[str]) -> LabelFile:
    frames = list(training.training_frames.training_frames.values())
    instances = [list(f.skeleton_instances.skeleton_instances.values()) for f in frames]
    skeletons = {
        tuple(str(n) for n in i.skeleton.nodes[:]): i.skeleton for f in instances for i in f
    }
    if len(skeletons) != 1:
        raise ValueError(
            f"{path}: expected people of one skeleton, got {len(skeletons)} "
            f"({[list(s) for s in skeletons]})"
        )
    joints, skeleton = next(iter(skeletons.items()))
    edges = [] if skeleton.edges is None else np.array(skeleton.edges[:]).reshape(-1, 2).tolist()
    limbs = tuple((int(a), int(b)) for a, b in edges)
    labels = LabelFile(str(path), joints, skeleton.name, limbs, tracks=list(subjects))
    for series in training.source_videos.image_series.values():
        names = [str(name) for name in series.external_file[:]]
        if len(names) > 1:
            labels.image_sets.append(names)
        elif getattr(series, "num_samples", None):
            labels.frame_counts[names[0]] = int(series.num_samples)
    for listed, people in zip(frames, instances, strict=True):
        series = listed.source_video
        if series is None or listed.source_video_frame_index is None:
            raise ValueError(f"{path}: {listed.name} does not say of which video and frame it is")
        names = [str(name) for name in series.external_file[:]]
        index = int(listed.source_video_frame_index)
        if len(names) > 1:
            frame = labels.frame(names[index])
        else:
            frame = _frame_of(labels, names[0], index)
        if series.dimension is not None:
            width, height = np.array(series.dimension[:]).tolist()
            frame.size_wh = int(width), int(height)
        for instance in people:
            places = np.array(instance.node_locations[:], np.float64)
            if instance.node_visibility is not None:
                hidden = ~np.array(instance.node_visibility[:], np.bool_)
                places[hidden] = np.nan
            track = None
            if instance.id is not None and int(instance.id) < len(subjects):
                track = subjects[int(instance.id)]
            points = points_of(places[:, :2])
            if (points[:, 2] > 0).any():
                frame.people.append(LabelledPerson(points, track))
    return labels


def write_nwb(dataset: PoseDataset, path: Path, names: Mapping[int, str]) -> None:
    """Write an NWB file with the PoseTraining of the labelled frames.

    Tracks become subjects if everybody has one. Scores, and that people were predicted, are not
    written.

    Raises:
        ValueError: there is nobody in it, more than 256 tracks, or sleap-io is missing.
    """
    sleap_io = import_optional("sleap_io", path)
    annotations = import_optional("sleap_io.io.nwb_annotations", path)
    reading = import_optional("sleap_io.io.video_reading", path)
    people = dataset.people
    if not len(people):
        raise ValueError(f"{path}: an NWB file cannot hold labels without people")
    if (people.track_id >= _NWB_TRACKS).any() or len(set(people.track_id)) > _NWB_TRACKS:
        raise ValueError(f"{path}: an NWB file holds at most {_NWB_TRACKS} tracks")
    tracked = bool((people.track_id >= 0).all())
    if not tracked and (people.track_id >= 0).any():
        warnings.warn(f"{path}: NWB: no tracks are written, some people have none", stacklevel=3)
    human = _human(dataset)
    project = _project(sleap_io, human, names)
    for position, video in enumerate(project.videos):
        entry: Video = dataset.videos[position]
        # sleap-io wants a reader, which it does not use when it knows the shape.
        if entry.is_file:
            video.backend = reading.MediaVideo(filename=video.filename, plugin="opencv")
        else:
            video.backend = reading.ImageVideo(filename=video.filename)
        if video.backend_metadata.get("shape") is None:
            video.backend_metadata["shape"] = [entry.frame_count, 0, 0, 3]
    with _whole_file(path) as partial:
        annotations.save_labels(project, str(partial), use_multisubjects=tracked)


def _human(dataset: PoseDataset) -> PoseDataset:
    """The same people as if a human had labelled them."""
    scores = np.full_like(dataset.people.joint_scores, np.nan)
    return replace(dataset, people=replace(dataset.people, joint_scores=scores))
