"""DeepLabCut's tables, as CSV and as HDF5: labels by image, and predictions by frame number.

One table has a row per frame and a column per coordinate, with a header of three or four rows:
scorer, individuals (of projects with several animals), bodyparts, coords. A row of labels is named
by its image, ``labeled-data/VIDEO/img012.png``, where the number is that of the frame in the video;
a row of predictions by the number of the frame, and there each joint also has a ``likelihood``.

Whether somebody looked at a row without coordinates the table does not say; it counts as not
labelled. The HDF5 file is what pandas writes; see ``pandas_hdf``.
"""

from __future__ import annotations

import csv
import math
import posixpath
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posewarper.data.entries import MOST_FRAMES, whole
from posewarper.data.formats.cells import cell_number, read_rows
from posewarper.data.formats.label_file import (
    LabelFile,
    LabelledPerson,
    normal_path,
    points_of,
    track_label,
)
from posewarper.data.tables import Floats, PoseDataset
from posewarper.files import whole_file

LEVELS = ("scorer", "individuals", "bodyparts", "coords")
_SCORER = "posewarper"
_FRAME = re.compile(r"[0-9]+(\.0*)?")
#: What the ensemble Kalman smoother (EKS) of Lightning Pose adds: medians and variances.
_OF_ENSEMBLES = re.compile(r"[xy]_(ens|posterior)_\w+")


@dataclass(eq=False)
class Table:
    """A table with named columns.

    Attributes:
        levels: names of the header's rows, of ``LEVELS``.
        columns: for each column its name in each level.
        index: for each row the number of the frame, or the parts of the image's path.
        values: [rows, columns] numbers, NaN where the table is empty.
    """

    levels: tuple[str, ...]
    columns: list[tuple[str, ...]]
    index: list[int | tuple[str, ...]]
    values: Floats


def read_csv(path: Path) -> LabelFile:
    """Labels or predictions from a CSV file.

    Raises:
        ValueError: it is no such table; names the row.
    """
    rows = read_rows(path)
    levels = [cells[0].lower() for _, cells in rows[:4]]
    depth = levels.index("coords") + 1 if "coords" in levels else 0
    if tuple(levels[:depth]) not in (LEVELS, (LEVELS[0], *LEVELS[2:])):
        raise ValueError(
            f"{path}: no table of DeepLabCut: expected rows 'scorer', 'bodyparts' and 'coords' "
            f"at the top, with several animals also 'individuals', got {levels}"
        )
    width = len(rows[0].cells)
    for line, cells in rows:
        if len(cells) != width:
            raise ValueError(f"{path}: row {line}: expected {width} cells, got {len(cells)}")
    header = [cells for _, cells in rows[:depth]]
    # The image's path may be spread over three columns, which have no name.
    start = next((i for i in range(1, width) if header[-1][i]), width)
    kept = [i for i in range(start, width) if not _is_note([names[i] for names in header])]
    index: list[int | tuple[str, ...]] = []
    values = np.full((len(rows) - depth, len(kept)), np.nan)
    for number, (line, cells) in enumerate(rows[depth:]):
        place = f"{path}: row {line}"
        parts = tuple(cells[:start])
        if start == 1 and _FRAME.fullmatch(parts[0]):
            index.append(whole(parts[0], f"{place}: frame", 0, MOST_FRAMES))
        else:
            index.append(parts)
        values[number] = [cell_number(cells[i], place) for i in kept]
    columns = [tuple(names[i] for names in header) for i in kept]
    return from_table(Table(tuple(levels[:depth]), columns, index, values), path)


def _is_note(names: Sequence[str]) -> bool:
    """Whether a column has a name but no coordinate, like "set" in files of Lightning Pose."""
    return all(not name or name.startswith("Unnamed") for name in names[1:])


def from_table(table: Table, path: Path) -> LabelFile:
    """What a table means. Joints have the order of its columns.

    Raises:
        ValueError: a joint has one coordinate and not the other, a row is listed twice.
    """
    level = {name: i for i, name in enumerate(table.levels)}
    has_individuals = "individuals" in level
    joints = tuple(dict.fromkeys(column[level["bodyparts"]] for column in table.columns))
    individuals = tuple(
        dict.fromkeys(column[level["individuals"]] for column in table.columns)
        if has_individuals
        else ("",)
    )
    twice = next((column for column, count in Counter(table.columns).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{path}: column {' '.join(twice)!r} is there twice")
    coordinates = np.full((len(table.index), len(individuals), len(joints), 3), np.nan)
    kinds = ("x", "y", "likelihood")
    for place, column in enumerate(table.columns):
        coord = column[level["coords"]]
        if _OF_ENSEMBLES.fullmatch(coord):
            continue
        if coord not in kinds:
            raise ValueError(f"{path}: column {column}: expected x, y or likelihood, got {coord!r}")
        who = individuals.index(column[level["individuals"]]) if has_individuals else 0
        joint = joints.index(column[level["bodyparts"]])
        coordinates[:, who, joint, kinds.index(coord)] = table.values[:, place]
    halves = np.isfinite(coordinates[..., 0]) != np.isfinite(coordinates[..., 1])
    if halves.any():
        row, _, joint = np.argwhere(halves)[0]
        raise ValueError(
            f"{path}: {_place(table.index[row])}: joint {joints[joint]!r} has only one of x and y"
        )

    predicted = any(column[level["coords"]] == "likelihood" for column in table.columns)
    labels = LabelFile(str(path), joints, tracks=list(individuals) if has_individuals else [])
    for key, people in zip(table.index, coordinates, strict=True):
        if isinstance(key, int):
            frame = labels.new_frame(_video_name(path), key)
        else:
            frame = labels.new_frame(_place(key))
        for name, places in zip(individuals, people, strict=True):
            points = points_of(places[:, :2])
            if (points[:, 2] > 0).any():
                scores = places[:, 2] if predicted else None
                frame.people.append(LabelledPerson(points, name or None, scores))
        frame.labelled = bool(frame.people)
    return labels


def _place(key: int | tuple[str, ...]) -> str:
    if isinstance(key, int):
        return f"frame {key}"
    return posixpath.join(*(normal_path(part) for part in key))


def _video_name(path: Path) -> str:
    """DeepLabCut names files of predictions after the video: ``clipDLC_resnet50_...``."""
    return path.stem.split("DLC")[0] or path.stem


def is_prediction(dataset: PoseDataset) -> bool:
    """Whether it becomes a table of predictions: one video, of which all people were predicted."""
    people = dataset.people
    return bool(len(people)) and bool(people.predicted.all()) and len(dataset.videos) == 1


def to_table(dataset: PoseDataset, path: Path, names: Mapping[int, str]) -> Table:
    """The table of a data set.

    One video of which all people were predicted becomes a table of predictions, with a row for
    every frame of it. Everything else becomes a table of labels: frames of a video file are then
    named as DeepLabCut names the images it takes out of it. There are rows of individuals if
    people have tracks, or if a frame has more than one; people without a track fill free places.

    Raises:
        ValueError: there is nobody in it.
    """
    people, frames, joints = dataset.people, dataset.frames, dataset.skeleton.joints
    if not len(people):
        raise ValueError(f"{path}: DeepLabCut's tables cannot hold a data set without people")
    predicted = is_prediction(dataset)
    by_frame = dataset.people_by_frame()
    most = max(len(rows) for rows in by_frame)
    labels = [track_label(track, dict(names)) for track in people.track_id.tolist()]
    several = most > 1 or any(label is not None for label in labels)
    individuals = sorted({label for label in labels if label is not None}, key=labels.index)
    free = (f"individual{i}" for i in range(1, len(people) + len(individuals) + 1))
    while len(individuals) < most:
        name = next(free)
        individuals += [name] if name not in individuals else []

    video = dataset.videos[0]
    rows = list(range(len(frames)))
    index: list[int | tuple[str, ...]]
    if predicted:
        index = list(range(video.frame_count))
        rows = (frames.number - video.first_frame).tolist()
    else:
        images = [image_of(dataset, row) for row in rows]
        inside = all(image[0] == "labeled-data" and len(image) == 3 for image in images)
        index = [image if inside else ("/".join(image),) for image in images]
    width = 3 if predicted else 2
    values = np.full((len(index), len(individuals), len(joints), width), np.nan)
    for row, in_frame in zip(rows, by_frame, strict=True):
        taken = [labels[person] for person in in_frame]
        unused = iter([i for i, name in enumerate(individuals) if name not in taken])
        for person, label in zip(in_frame.tolist(), taken, strict=True):
            place = next(unused) if label is None else individuals.index(label)
            labelled = people.keypoints[person, :, 2] > 0
            values[row, place, labelled, :2] = people.keypoints[person, labelled, :2]
            if predicted:
                values[row, place, :, 2] = people.joint_scores[person]
    coords = ("x", "y", "likelihood")[:width]
    columns: list[tuple[str, ...]] = [
        (_SCORER, name, joint, coord) if several else (_SCORER, joint, coord)
        for name in individuals
        for joint in joints
        for coord in coords
    ]
    levels = LEVELS if several else (LEVELS[0], *LEVELS[2:])
    return Table(levels, columns, index, values.reshape(len(index), -1))


def image_of(dataset: PoseDataset, row: int) -> tuple[str, ...]:
    """The parts of an image's path; of a video file, those of the image that DeepLabCut makes."""
    frames = dataset.frames
    video = dataset.videos[frames.video[row]]
    if video.is_file:
        digits = max(math.ceil(math.log10(max(video.frame_count, 2))), 1)
        image = f"img{frames.number[row]:0{digits}d}.png"
        return "labeled-data", posixpath.splitext(posixpath.basename(video.path))[0], image
    return tuple(frames.file_name[row].split("/"))


def write_csv(dataset: PoseDataset, path: Path, names: Mapping[int, str]) -> None:
    """Write ``to_table`` as CSV."""
    table = to_table(dataset, path, names)
    keys = [(str(key),) if isinstance(key, int) else key for key in table.index]
    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for level, name in enumerate(table.levels):
            cells = [column[level] for column in table.columns]
            writer.writerow([name, *[""] * (len(keys[0]) - 1), *cells])
        for key, numbers in zip(keys, table.values.tolist(), strict=True):
            writer.writerow([*key, *("" if math.isnan(n) else n for n in numbers)])
