"""The PoseTraining of NWB files (extension ndx-pose): labels by frame; subjects are the tracks.

A file holds a group for every person in every frame. pynwb makes an object of each, 7 ms a person;
so it only writes the rest of the file, and the people are written and read as groups of HDF5.
Predictions (PoseEstimation) are in ``nwb_predictions``.
"""

from __future__ import annotations

import re
import uuid
import warnings
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from posewarper.data.formats.label_file import LabelFile, LabelledPerson, points_of, track_label
from posewarper.data.formats.nwb_predictions import read_estimations
from posewarper.data.formats.optional import import_optional, open_hdf
from posewarper.data.formats.sleap import image_numbers, size_of
from posewarper.data.images import IMAGE_SUFFIXES
from posewarper.data.tables import PoseDataset
from posewarper.files import whole_file

_MOST_TRACKS = 256  # the id of a person is one byte
_SOFT_LINK = 1  # h5py.h5l.TYPE_SOFT
_RATE = 30.0  # frames per second: a file wants a number, labels do not tell one


def read_nwb(path: Path) -> LabelFile:
    """The labels (PoseTraining) of an NWB file, or the predictions (PoseEstimation) of one.

    Raises:
        ValueError: there is neither, or there are several skeletons; h5py is missing.
    """
    h5py = import_optional("h5py", path)
    with open_hdf(path, "an NWB file") as file:
        trainings = list(groups_of(file, "PoseTraining"))
        if trainings:
            return _read_training(h5py, file, trainings, path)
        estimations = list(groups_of(file, "PoseEstimation"))
        if estimations:
            return read_estimations(estimations, path)
    raise ValueError(
        f"{path}: expected PoseTraining (labels) or PoseEstimation (predictions) of the extension "
        "ndx-pose in a processing module; this NWB file has neither"
    )


def groups_of(file: Any, kind: str) -> Iterator[Any]:
    """The groups of a neurodata type in all processing modules."""
    for module in file.get("processing", {}).values():
        for group in module.values():
            if type_of(group) == kind:
                yield group


def type_of(group: Any) -> str:
    """The neurodata type of a group; empty if it has none."""
    return str(group.attrs.get("neurodata_type", ""))


def texts(dataset: Any) -> list[str]:
    """Strings of an HDF5 data set, or of none."""
    return [] if dataset is None else [str(text) for text in dataset.asstr()[:]]


def _read_training(h5py: Any, file: Any, trainings: list[Any], path: Path) -> LabelFile:
    subjects: list[str] = []
    for group in file.get("general", {}).values():
        if type_of(group) == "SubjectsTable":
            subjects = texts(group["subject_id"])
    skeletons: dict[tuple[str, ...], tuple[str, Any]] = {}
    people: dict[str, tuple[str, ...]] = {}  # joints, by the place of the skeleton in the file
    labels = LabelFile(str(path), (), tracks=subjects)
    for training in trainings:
        series: dict[str, list[str]] = {}
        for video in training["source_videos"].values():
            names = series[video.name] = texts(video["external_file"])
            if len(names) > 1:
                labels.image_sets.append(names)
            elif "num_samples" in video:
                labels.frame_counts[names[0]] = int(video["num_samples"][()])
        for listed in _in_order(training["training_frames"]):
            video = listed.get("source_video")
            index = listed.attrs.get("source_video_frame_index")
            if video is None or index is None:
                name = listed.name.rpartition("/")[2]
                raise ValueError(f"{path}: {name} does not say of which video and frame it is")
            names = series.get(video.name) or texts(video["external_file"])
            frame = _frame(labels, names, int(index))
            if "dimension" in video:
                width, height = video["dimension"][:].tolist()
                frame.size_wh = int(width), int(height)
            for instance in _in_order(listed["skeleton_instances"]):
                link, where = _skeleton_link(instance, path)
                if where not in people:
                    skeleton = instance[link]
                    people[where] = tuple(texts(skeleton["nodes"]))
                    skeletons.setdefault(people[where], (where.rpartition("/")[2], skeleton))
                frame.people += _person(h5py, instance, len(people[where]), subjects, path)
    if len(skeletons) != 1:
        raise ValueError(
            f"{path}: expected people of one skeleton, got {len(skeletons)} "
            f"({[list(s) for s in skeletons]})"
        )
    labels.joints, (labels.skeleton_name, skeleton) = next(iter(skeletons.items()))
    edges = skeleton["edges"][:].reshape(-1, 2).tolist() if "edges" in skeleton else []
    joints = range(len(labels.joints))
    labels.limbs = tuple((int(a), int(b)) for a, b in edges if a in joints and b in joints)
    return labels


def _in_order(group: Any) -> list[Any]:
    """Its groups, ``frame_9`` before ``frame_10``."""
    names = [(int(n[1]) if (n := re.search(r"(\d+)$", name)) else 0, name) for name in group]
    return [group[name] for _, name in sorted(names)]


def _frame(labels: LabelFile, names: list[str], index: int) -> Any:
    if len(names) == 1:
        image = Path(names[0]).suffix.lower() in IMAGE_SUFFIXES
        return labels.frame(names[0], None if image else index)
    if not 0 <= index < len(names):
        raise ValueError(f"{labels.source}: frame {index} of a list of {len(names)} images")
    return labels.frame(names[index])


def _skeleton_link(instance: Any, path: Path) -> tuple[str, str]:
    """Name of the link to the skeleton, which is the skeleton's, and where it leads."""
    link = next((key for key in instance if not key.startswith("node_")), None)
    if link is None:
        raise ValueError(f"{path}: {instance.name} has no skeleton")
    soft = instance.id.links.get_info(link.encode()).type == _SOFT_LINK
    return link, instance.id.links.get_val(link.encode()).decode() if soft else instance.name


def _person(
    h5py: Any, instance: Any, joints: int, subjects: list[str], path: Path
) -> list[LabelledPerson]:
    """The person, or nobody where no joint is labelled."""
    places = np.array(_values(h5py, instance, b"node_locations"), np.float64)
    if places.shape != (joints, 2):
        raise ValueError(
            f"{path}: {instance.name}: expected x and y of {joints} joints, got coordinates of "
            f"shape {list(places.shape)}"
        )
    if b"node_visibility" in instance.id:
        places[~_values(h5py, instance, b"node_visibility").astype(np.bool_)] = np.nan
    points = points_of(places)
    number = instance.attrs.get("id") if subjects else None
    track = subjects[number] if number is not None and int(number) < len(subjects) else None
    return [LabelledPerson(points, track)] if (points[:, 2] > 0).any() else []


def _values(h5py: Any, group: Any, name: bytes) -> Any:
    """A data set of a group, read without h5py's objects: a third of the time."""
    dataset = h5py.h5d.open(group.id, name)
    values = np.empty(dataset.shape, dataset.dtype)
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values


def write_nwb(dataset: PoseDataset, path: Path, names: Mapping[int, str]) -> None:
    """Write an NWB file with the PoseTraining of the labelled frames.

    Tracks become subjects if everybody has one. Scores, and that people were predicted, are not
    written.

    Raises:
        ValueError: there is nobody in it, more than 256 tracks, or pynwb is missing.
    """
    h5py = import_optional("h5py", path)
    people = dataset.people
    tracks = sorted({int(track) for track in people.track_id})
    if not len(people):
        raise ValueError(f"{path}: an NWB file cannot hold labels without people")
    if len(tracks) > _MOST_TRACKS:
        raise ValueError(f"{path}: an NWB file holds at most {_MOST_TRACKS} tracks")
    subjects: list[str] = []
    if tracks[0] >= 0:
        subjects = [str(track_label(track, dict(names))) for track in tracks]
    elif tracks[-1] >= 0:
        warnings.warn(f"{path}: NWB: no tracks are written, some people have none", stacklevel=3)
    with whole_file(path) as partial:
        images = _write_frame(dataset, path, partial, subjects)
        with h5py.File(partial, "r+") as file:
            _write_people(dataset, file, images, tracks if subjects else [])


def _write_frame(
    dataset: PoseDataset, path: Path, partial: Path, subjects: list[str]
) -> list[dict[int, str]]:
    """Write everything but people, and one frame with one person as an example of the layout.

    Returns the images of each video by number.
    """
    pynwb = import_optional("pynwb", path)
    ndx_pose = import_optional("ndx_pose", path)
    skeleton = ndx_pose.Skeleton(
        name=re.sub("[/:]", "_", dataset.skeleton.name),  # NWB's names must not have these
        nodes=list(dataset.skeleton.joints),
        edges=np.array(dataset.skeleton.limbs, np.uint8).reshape(-1, 2),
    )
    images = [image_numbers(dataset, i, path) for i in range(len(dataset.videos))]
    series = []
    for position, (video, listed) in enumerate(zip(dataset.videos, images, strict=True)):
        external = [video.path] if video.is_file else list(listed.values())
        series.append(
            pynwb.image.ImageSeries(
                name=f"video_{position}",
                description="no description",
                unit="NA",
                format="external",
                external_file=external,
                dimension=list(size_of(dataset, position)),
                rate=_RATE,
                starting_frame=list(range(len(external))),
                num_samples=max(video.frame_count if video.is_file else len(external), 1),
            )
        )
    count = len(dataset.skeleton)
    instance = ndx_pose.SkeletonInstance(
        name="instance_0",
        id=np.uint8(0),
        node_locations=np.zeros((count, 2)),
        node_visibility=np.ones(count, np.bool_),
        skeleton=skeleton,
    )
    frame = ndx_pose.TrainingFrame(
        name="frame_0",
        skeleton_instances=ndx_pose.SkeletonInstances(skeleton_instances=[instance]),
        source_video=series[0],
        source_video_frame_index=np.uint32(0),
    )
    about = {
        "session_description": "pose labels",
        "identifier": _id(),
        "session_start_time": datetime.now().astimezone(),
    }
    if subjects:
        several = import_optional("ndx_multisubjects", path)
        content = several.NdxMultiSubjectsNWBFile(**about)
        table = several.SubjectsTable(description="the tracks of the labels")
        for name in subjects:
            table.add_row(subject_id=name, sex="U", species="unknown")
        content.subjects_table = table
    else:
        content = pynwb.NWBFile(**about)
    module = content.create_processing_module("behavior", "processed behavioral data")
    module.add(ndx_pose.Skeletons(skeletons=[skeleton]))
    module.add(
        ndx_pose.PoseTraining(
            training_frames=ndx_pose.TrainingFrames(training_frames=[frame]),
            source_videos=ndx_pose.SourceVideos(image_series=series),
        )
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the name of the partial file
        with pynwb.NWBHDF5IO(str(partial), mode="w") as file:
            file.write(content)
    return images


def _write_people(
    dataset: PoseDataset, file: Any, images: list[dict[int, str]], tracks: list[int]
) -> None:
    """Write all people into copies of the example."""
    h5py = import_optional("h5py", file.filename)
    frames, people = dataset.frames, dataset.people
    training = next(groups_of(file, "PoseTraining"))
    group = training["training_frames"]
    file.move(f"{group.name}/frame_0", "/example")
    file.move("example/skeleton_instances/instance_0", "/person")
    example, person = file["example"], file["person"]
    places = [{number: i for i, number in enumerate(listed)} for listed in images]
    rows_of = dataset.people_by_frame()
    listed = [row for row in range(len(frames)) if frames.labelled[row] or len(rows_of[row])]
    for index, row in enumerate(listed):
        position, number = int(frames.video[row]), int(frames.number[row])
        file.copy(example, group, f"frame_{index}")
        frame = group[f"frame_{index}"]
        del frame["source_video"]
        frame["source_video"] = h5py.SoftLink(f"{training.name}/source_videos/video_{position}")
        place = places[position].get(number, number)
        _set(h5py, frame, source_video_frame_index=np.uint32(place), object_id=_id())
        inside = frame["skeleton_instances"]
        _set(h5py, inside, object_id=_id())
        for order, who in enumerate(rows_of[row].tolist()):
            track = tracks.index(int(people.track_id[who])) if tracks else order
            points = people.keypoints[who]
            labelled = points[:, 2] > 0
            file.copy(person, inside, f"instance_{order}")
            instance = inside[f"instance_{order}"]
            _set(h5py, instance, id=np.uint8(track % _MOST_TRACKS), object_id=_id())
            located = np.where(labelled[:, None], points[:, :2], np.nan)
            for name, values in ((b"node_locations", located), (b"node_visibility", labelled)):
                h5py.h5d.open(instance.id, name).write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    del file["example"], file["person"]


def _id() -> str:
    return str(uuid.uuid4())


def _set(h5py: Any, group: Any, **attributes: Any) -> None:
    """Give attributes that are there other values."""
    for name, value in attributes.items():
        attribute = h5py.h5a.open(group.id, name.encode())
        kind = h5py.string_dtype() if isinstance(value, str) else value.dtype
        attribute.write(np.array(value, kind))
