"""Load and save labels by file type."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from posewarper.data.annotations import from_coco, save_coco
from posewarper.data.formats import (
    cvat,
    deeplabcut,
    label_studio,
    pandas_hdf,
    plain_csv,
    sleap_nwb,
)
from posewarper.data.formats.attach import Videos, attach
from posewarper.data.formats.label_file import (
    LabelFile,
    boxes_of_joints,
    check_tracks,
    warn_outside,
)
from posewarper.data.tables import PoseDataset
from posewarper.files import read_json
from posewarper.skeleton import Skeleton

LabelFormat = Literal["coco", "csv", "cvat", "deeplabcut", "label-studio", "nwb", "sleap"]
FORMATS: tuple[LabelFormat, ...] = get_args(LabelFormat)

_KNOWN = (
    "COCO or Label Studio (.json), DeepLabCut (.csv, .h5), a plain table (.csv), "
    "SLEAP (.slp), NWB (.nwb), CVAT (.xml)"
)
_WHEN_SCORES = " unless everybody is predicted, in one video"
_HDF_SUFFIXES = (".h5", ".hdf5", ".hdf")


def load_labels(
    path: str | Path,
    *,
    video: Videos | None = None,
    skeleton: Skeleton | None = None,
    format: LabelFormat | None = None,
) -> PoseDataset:
    """Read labels of any known format.

    Frames of video files count from 0. Images are frames of a video if their names end in numbers
    (``annotations.frame_of_file``); a video in a folder then lasts at least to the last number that
    is listed. Boxes that a format does not have are the extent of the labelled joints times 1.25.
    Track ids are positions in the file's list of tracks, or the numbers in names like ``track_3``
    (``load_track_names``). What each format can say: docs/formats.md.

    Args:
        path: file with labels.
        video: video file or folder of images that the labels are of; of several videos, a mapping
            from their names or paths in the file. By default they are where the file says.
        skeleton: joints to read, by name; by default those of the file. Files other than COCO's do
            not tell sigmas and the upper body, and some not even limbs and mirror pairs.
        format: if it cannot be told from the file.

    Raises:
        FileNotFoundError: there is no such file, or no such video.
        ValueError: the format cannot be told or read, or the library for it is missing; nothing is
            labelled; a joint or a frame that does not exist; a track twice in a frame. Names the
            file.
    """
    path = _existing(path)
    chosen = format or _format_of(path)
    if chosen == "coco":
        content = cvat.with_cvat_attributes(read_json(path))
        dataset = from_coco(content, str(path), skeleton)
        if not len(dataset.people) and not dataset.frames.labelled.any():
            raise ValueError(f"{path}: no labels: nobody is labelled in any frame")
        check_tracks(dataset, {})
        dataset = _with_boxes(dataset)
    else:
        dataset = _read(path, chosen).dataset(skeleton)
    if video is not None:
        dataset = attach(dataset, video)
    warn_outside(dataset)
    return dataset


def load_track_names(path: str | Path, *, format: LabelFormat | None = None) -> dict[int, str]:
    """Names of the tracks of a label file, by the track ids that ``load_labels`` gives them; COCO
    files have none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the format cannot be told or read.
    """
    path = _existing(path)
    chosen = format or _format_of(path)
    return {} if chosen == "coco" else _read(path, chosen).track_names


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
        track_names: what tracks are called; others are ``track_`` and the id.

    Raises:
        ValueError: the format cannot be told, does not go with the ending, or cannot hold this data
            set; a name stands for two tracks; the library for it is missing.
    """
    path = Path(path)
    chosen, suffix = format_to_write(path, format), path.suffix.lower()
    names = dict(track_names or {})
    if len(set(names.values())) != len(names):
        raise ValueError(f"track_names: expected different names, got {names}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if chosen == "coco":
        save_coco(dataset, path)
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
        sleap_nwb.write_nwb(dataset, path, names)
    elif chosen == "sleap":
        sleap_nwb.write_slp(dataset, path, names)
    elif suffix == ".csv":
        deeplabcut.write_csv(dataset, path, names)
    else:
        pandas_hdf.write_hdf(dataset, path, names)


def format_to_write(path: str | Path, format: LabelFormat | None = None) -> LabelFormat:
    """The format in which ``save_labels`` writes a file.

    Raises:
        ValueError: it cannot be told, or does not go with the ending.
    """
    path = Path(path)
    by_suffix: dict[str, LabelFormat] = {
        ".json": "coco",
        ".csv": "csv",
        ".slp": "sleap",
        ".nwb": "nwb",
        ".xml": "cvat",
        **dict.fromkeys(_HDF_SUFFIXES, "deeplabcut"),
    }
    suffix = path.suffix.lower()
    if format is None and suffix not in by_suffix:
        raise ValueError(f"{path}: expected a name that ends like {_KNOWN}")
    chosen = format or by_suffix[suffix]
    _check_format(chosen)
    suffixes = {
        "coco": (".json",),
        "csv": (".csv",),
        "cvat": (".xml",),
        "deeplabcut": (".csv", *_HDF_SUFFIXES),
        "label-studio": (".json",),
        "nwb": (".nwb",),
        "sleap": (".slp",),
    }[chosen]
    if suffix not in suffixes:
        raise ValueError(f"{path}: format {chosen!r} wants a name that ends in {suffixes[0]}")
    return chosen


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
    if path.is_dir():
        raise ValueError(f"{path}: expected a file with labels, got a folder")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    return path


def _check_format(format: str) -> None:
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")


def _read(path: Path, format: LabelFormat) -> LabelFile:
    _check_format(format)
    if format == "deeplabcut":
        if path.suffix.lower() in _HDF_SUFFIXES:
            return pandas_hdf.read_hdf(path)
        return deeplabcut.read_csv(path)
    if format == "label-studio":
        return label_studio.read_json_tasks(path)
    if format == "sleap":
        return sleap_nwb.read_slp(path)
    if format == "nwb":
        return sleap_nwb.read_nwb(path)
    return plain_csv.read_csv(path) if format == "csv" else cvat.read_xml(path)


def _format_of(path: Path) -> LabelFormat:
    """The format, by the ending of the name and, where several share it, by the content."""
    suffix = path.suffix.lower()
    if suffix in (".slp", ".nwb", ".xml"):
        return {".slp": "sleap", ".nwb": "nwb", ".xml": "cvat"}[suffix]  # type: ignore[return-value]
    if suffix == ".csv":
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            return "deeplabcut" if file.read(7).lower() == "scorer," else "csv"
    if suffix in _HDF_SUFFIXES:
        return "deeplabcut"
    if suffix == ".json":
        data = read_json(path)
        if isinstance(data, dict) and {"images", "annotations"} <= set(data):
            return "coco"
        tasks = data if isinstance(data, list) else []
        if tasks and all(
            isinstance(t, dict) and {"annotations", "completions"} & set(t) for t in tasks
        ):
            return "label-studio"
        found = f"keys {sorted(data)[:8]}" if isinstance(data, dict) else f"a {type(data).__name__}"
        raise ValueError(
            f"{path}: neither COCO ('images' and 'annotations') nor Label Studio (a list of tasks "
            f"with 'annotations'), got {found}"
        )
    if suffix == ".zip":
        raise ValueError(f"{path}: unpack it; it is the file in it that holds the labels")
    raise ValueError(f"{path}: labels of which tool? Expected {_KNOWN}")
