"""Load and save labels by file type."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from posewarper.data.annotations import from_coco, save_coco, without_collection
from posewarper.data.formats import (
    cvat,
    deeplabcut,
    deeplabcut_folder,
    estimators,
    jabs,
    label_studio,
    labelme,
    nwb,
    pandas_hdf,
    plain_csv,
    sleap,
    sleap_analysis,
    yolo,
)
from posewarper.data.formats.attach import Videos, attach
from posewarper.data.formats.detection import (
    LabelFormat,
    check_format,
    folder_format,
    format_of,
    format_to_write,
)
from posewarper.data.formats.label_file import (
    LabelFile,
    boxes_of_joints,
    check_tracks,
    warn_outside,
)
from posewarper.data.posetrack import load_posetrack
from posewarper.data.tables import PoseDataset
from posewarper.files import read_json, visible
from posewarper.skeleton import POSETRACK, Skeleton

_WHEN_SCORES = " unless everybody is predicted, in one video"


def load_labels(
    path: str | Path,
    *,
    video: Videos | None = None,
    skeleton: Skeleton | None = None,
    format: LabelFormat | None = None,
    unnamed: Skeleton | None = None,
    poses: bool = True,
    renamed: bool = True,
) -> PoseDataset:
    """Read labels of any known format; every command reads its files so.

    Frames of video files count from 0. Images are frames of a video if there are numbers in their
    names (``frame_names.frames_of_files``); a video in a folder then lasts at least to the last
    number that is listed. Boxes that a format does not have are the extent of the labelled joints
    times 1.25. Track ids are positions in the file's list of tracks, or the numbers in names like
    ``track_3``; names are in ``PoseDataset.track_names``. What each format can say:
    docs/formats.md.

    Args:
        path: file with labels; folder of official PoseTrack files (``load_posetrack``), of a
            DeepLabCut project, a YOLO-pose data set, or of the files of OpenPose or LabelMe.
        video: video file or folder of images that the labels are of; of several videos, a mapping
            from their names or paths in the file. By default they are where the file says.
        skeleton: joints to read, by name; by default those of the file. Files other than COCO's do
            not tell sigmas and the upper body, and some not even limbs and mirror pairs. It names
            the joints of files that do not name them and have as many, in their order.
        format: if it cannot be told from the file.
        unnamed: joints of a COCO-style file that names none; by default PoseTrack's.
        poses: whether a file without key points is refused; false where its frames or boxes are
            what is wanted.
        renamed: see ``load_posetrack``.

    Raises:
        FileNotFoundError: there is no such file, or no such video.
        ValueError: the format cannot be told or read, or the library for it is missing; nothing is
            labelled; a joint or a frame that does not exist; a track twice in a frame. Names the
            file.
    """
    path = _existing(path)
    try:
        with without_collection():
            dataset = _load(path, skeleton, format, unnamed, poses, renamed)
    except (TypeError, OverflowError) as error:  # a value of a kind that no check expects
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path}: cannot be read, a value in it is of an unexpected kind or size ({reason})"
        ) from error
    if video is not None:
        dataset = attach(dataset, video)
    warn_outside(dataset)
    return dataset


def _load(
    path: Path,
    skeleton: Skeleton | None,
    format: LabelFormat | None,
    unnamed: Skeleton | None,
    poses: bool,
    renamed: bool,
) -> PoseDataset:
    """The labels of a file that is there; see ``load_labels``."""
    # The content of a JSON file is read once, to know the format and to read the labels.
    content = read_json(path) if path.suffix.lower() == ".json" and path.is_file() else None
    if format is None and _is_posetrack(path, content):
        return _with_joints(load_posetrack(path, renamed=renamed), skeleton)
    if not renamed:
        raise ValueError(f"renamed: goes with files of PoseTrack17, got {path}")
    chosen = format or format_of(path, content)
    if chosen == "coco":
        return _read_coco(path, content, skeleton, unnamed, poses)
    return _read(path, chosen, skeleton).dataset(skeleton)


def _is_posetrack(path: Path, content: Any) -> bool:
    """Whether it is a folder of official files, or one file of PoseTrack17."""
    if path.is_dir():
        first = next(iter(visible(path.glob("*.json"))), None)
        if first is None or folder_format(path) is not None:
            return False
        content = read_json(first)
        return isinstance(content, dict) and (
            "annolist" in content or {"images", "annotations"} <= set(content)
        )
    return isinstance(content, dict) and "annolist" in content


def _read_coco(
    path: Path, content: Any, skeleton: Skeleton | None, unnamed: Skeleton | None, poses: bool
) -> PoseDataset:
    content = cvat.with_cvat_attributes(read_json(path) if content is None else content)
    dataset = from_coco(content, str(path), skeleton, unnamed=unnamed)
    people = dataset.people
    if poses and not len(people) and not dataset.frames.labelled.any():
        raise ValueError(f"{path}: no labels: nobody is labelled in any frame")
    if poses and len(people) and not (people.keypoints[..., 2] > 0).any():
        names = [str(category.get("name")) for category in content.get("categories") or []]
        raise ValueError(
            f"{path}: {len(people)} boxes, but no key points: nobody has a labelled joint (the "
            f"categories are {', '.join(names[:8]) or 'not listed'}); COCO files of poses have "
            "'keypoints' in each annotation, and their names in its category. If each category is "
            "a joint, export the labels of the tool as key points"
        )
    # In files of pseudo-labels from 2019 several images of one name each have the same people.
    if len(dataset.frames) == len(content["images"]):
        try:
            check_tracks(dataset)
        except ValueError as error:
            if dataset.skeleton != POSETRACK:
                raise
            warnings.warn(str(error), stacklevel=4)  # training on PoseTrack asks for no tracks
    own_length = any("nframes" in image for image in content["images"])
    return dataset if own_length else _with_boxes(dataset)  # PoseTrack's boxes stay as they are


def _with_joints(dataset: PoseDataset, skeleton: Skeleton | None) -> PoseDataset:
    """The joints of a skeleton; official files of PoseTrack have theirs."""
    if skeleton is None or skeleton.joints == dataset.skeleton.joints:
        return dataset
    missing = [joint for joint in skeleton.joints if joint not in dataset.skeleton.joints]
    if missing:
        raise ValueError(
            f"{dataset.source}: skeleton {skeleton.name!r} has joints {missing}, the files have "
            f"{list(dataset.skeleton.joints)}"
        )
    order, people = [dataset.skeleton.index(j) for j in skeleton.joints], dataset.people
    people = replace(
        people, keypoints=people.keypoints[:, order], joint_scores=people.joint_scores[:, order]
    )
    return replace(dataset, skeleton=skeleton, people=people)


def load_track_names(path: str | Path, *, format: LabelFormat | None = None) -> dict[int, str]:
    """Names of the tracks of a label file, by the track ids that ``load_labels`` gives them, which
    has them as ``track_names`` of the data set.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the format cannot be told or read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ``load_labels`` has said it
        return dict(load_labels(path, format=format, poses=False).track_names)


def save_labels(
    dataset: PoseDataset,
    path: str | Path,
    *,
    format: LabelFormat | None = None,
    track_names: Mapping[int, str] | None = None,
) -> None:
    """Write labels for another tool, as a whole or not at all.

    What a format cannot hold is left out; docs/formats.md has the list.

    Args:
        dataset: labels or predictions.
        path: file to write; its folder is made.
        format: by default that of the ending: .json COCO, .csv a plain table, .h5 DeepLabCut, .slp
            SLEAP, .nwb NWB, .xml CVAT.
        track_names: what tracks are called, by default as in the data set; others are ``track_``
            and the id.

    Raises:
        ValueError: the format cannot be told, does not go with the ending, or cannot hold this data
            set; a name stands for two tracks; the library for it is missing.
    """
    path = Path(path)
    chosen, suffix = format_to_write(path, format), path.suffix.lower()
    names = dict(dataset.track_names if track_names is None else track_names)
    if len(set(names.values())) != len(names):
        raise ValueError(f"track_names: expected different names, got {names}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if chosen == "coco":
        save_coco(replace(dataset, track_names=names), path)
        return
    some = np.asarray((dataset.people.keypoints[..., 2] > 0).any(1))
    if not some.all():
        warnings.warn(
            f"{path}: {(~some).sum()} of {len(some)} people have no labelled joint and are left "
            "out",
            stacklevel=2,
        )
        dataset = dataset.select(people=some)
    if dataset.people.predicted.any() and not _keeps_scores(dataset, chosen):
        warnings.warn(
            f"{path}: predicted people are written without scores, as if labelled by hand: format "
            f"{chosen!r} has no place for them{_WHEN_SCORES if chosen == 'deeplabcut' else ''}",
            stacklevel=2,
        )
    if chosen == "csv":
        plain_csv.write_csv(dataset, path, names)
    elif chosen == "cvat":
        cvat.write_xml(dataset, path, names)
    elif chosen == "label-studio":
        label_studio.write_json_tasks(dataset, path, names)
    elif chosen == "nwb":
        nwb.write_nwb(dataset, path, names)
    elif chosen == "sleap":
        sleap.write_slp(dataset, path, names)
    elif suffix == ".csv":
        deeplabcut.write_csv(dataset, path, names)
    else:
        pandas_hdf.write_hdf(dataset, path, names)


def _with_boxes(dataset: PoseDataset) -> PoseDataset:
    """Boxes around the joints in place of empty ones, as CVAT writes them for tracks."""
    people = dataset.people
    own = boxes_of_joints(people.keypoints)
    empty = np.asarray((people.bbox[:, 2:] <= 0).any(1) & (own[:, 2:] > 0).all(1))
    boxes = np.where(empty[:, None], own, people.bbox)
    area = np.where(empty, own[:, 2] * own[:, 3], people.area)
    return replace(dataset, people=replace(people, bbox=boxes, area=area))


def _keeps_scores(dataset: PoseDataset, format: LabelFormat) -> bool:
    if format == "deeplabcut":
        return deeplabcut.is_prediction(dataset)
    return format in ("csv", "sleap")


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    return path


def _read(path: Path, format: LabelFormat, skeleton: Skeleton | None) -> LabelFile:
    """Content of a file or folder; ``skeleton`` names the joints that it does not name."""
    check_format(format)
    if format == "deeplabcut" and path.suffix.lower() != ".csv":
        return pandas_hdf.read_hdf(path)
    unnamed = {
        "alphapose": estimators.read_results,
        "coco-results": estimators.read_results,
        "mmpose": estimators.read_mmpose,
        "openpose": estimators.read_openpose,
        "yolo": yolo.read_yolo,
    }
    if format in unnamed:
        return unnamed[format](path, skeleton)
    readers = {
        "csv": plain_csv.read_csv,
        "cvat": cvat.read_xml,
        "deeplabcut": deeplabcut.read_csv,
        "deeplabcut-project": deeplabcut_folder.read_project,
        "jabs": jabs.read_jabs,
        "label-studio": label_studio.read_json_tasks,
        "labelme": labelme.read_labelme,
        "nwb": nwb.read_nwb,
        "sleap": sleap.read_slp,
        "sleap-analysis": sleap_analysis.read_analysis,
    }
    return readers[format](path)
