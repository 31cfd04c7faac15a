"""A plain table: one row per person, with the column names of SLEAP's analysis CSV.

``video_path, image, frame_idx, track, instance.score``, then for each joint ``NAME.x, NAME.y`` and,
if any has them, ``NAME.score`` and ``NAME.visibility`` (1: occluded). Empty cells are joints that
are not labelled; a row with nothing but its frame is a labelled frame without people. ``image`` is
the path of an image; where it is empty or missing, ``frame_idx`` counts from 0 in ``video_path``.
Frames that are not labelled are not written.

sleap-io's table of frames is read, too: a row per frame, ``inst0.NAME.x`` or ``TRACK.NAME.x`` for
each person.
"""

from __future__ import annotations

import csv
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posewarper.data.entries import MOST_FRAMES
from posewarper.data.formats.cells import cell_number, read_rows
from posewarper.data.formats.label_file import LabelFile, LabelledPerson, points_of, track_label
from posewarper.data.tables import PoseDataset
from posewarper.files import whole_file

_FRAME_COLUMNS = ("frame_idx", "frame")
_VIDEO_COLUMNS = ("video_path", "video")
_SCORES = ("score", "likelihood", "confidence", "conf", "probability", "prob")
_OF_PERSON = ("instance.score", *_SCORES)
_OTHER_COLUMNS = (
    "",
    "index",
    "video_idx",
    "track_score",
    "tracking_score",
    "instance.tracking_score",
)
_NO_TRACK = ("", "untracked", "none", "nan", "na", "null")
_INDEXED = re.compile(r"inst\d+")


@dataclass(frozen=True)
class _Group:
    """Columns of one person, by position, -1 for those that are missing.

    Attributes:
        track: the name that stands in the header; None if a column has it.
        track_column: of the track.
        score: of the person's score.
        joints: for each joint the columns of x, y, score and visibility.
    """

    track: str | None
    track_column: int
    score: int
    joints: list[tuple[int, int, int, int]]


def read_csv(path: Path) -> LabelFile:
    """Labels or predictions from a plain table; also the tables of SLEAP and sleap-io.

    Joints have the order of the columns. Without a column ``video_path`` or ``image`` the video is
    named like the file.

    Raises:
        ValueError: columns are missing or there twice, or a cell is no number; names the row.
    """
    rows = read_rows(path)
    header = rows[0].cells if len(rows) > 1 else []
    frame_column = next((name for name in _FRAME_COLUMNS if name in header), "")
    joints, groups = _groups(header, path)
    if not joints or not (frame_column or "image" in header):
        hint = ""
        if {"node", "x", "y"} <= {*header}:
            hint = ": a row per point; sleap-io also writes a row per animal (format 'instances')"
        raise ValueError(
            f"{path}: expected a table with a column 'frame_idx' (or 'image') and columns "
            f"'JOINT.x' and 'JOINT.y', got {header or 'no rows'}{hint}"
        )
    place_of = {name: i for i, name in enumerate(header)}
    labels = LabelFile(str(path), joints)
    for line, cells in rows[1:]:
        place = f"{path}: row {line}"
        if len(cells) > len(header) and any(cells[len(header) :]):
            raise ValueError(f"{place}: expected {len(header)} cells, got {len(cells)}")
        cells = [*cells, *[""] * (len(header) - len(cells))]
        image = cells[place_of["image"]] if "image" in place_of else ""
        if image:
            frame = labels.frame(image)
        else:
            videos = [cells[place_of[name]] for name in _VIDEO_COLUMNS if name in place_of]
            cell = cells[place_of[frame_column]] if frame_column else ""
            index = cell_number(cell, f"{place}: {frame_column}", 0, MOST_FRAMES)
            if index != index or index != int(index):
                raise ValueError(
                    f"{place}: {frame_column}: expected the number of a frame, got {cell!r}"
                )
            frame = labels.frame(next(filter(None, videos), path.stem), int(index))
        for group in groups:
            person = _person(cells, group, joints, header, place)
            if person is not None:
                frame.people.append(person)
    return labels


def _groups(header: Sequence[str], path: Path) -> tuple[tuple[str, ...], list[_Group]]:
    """The joints, and the columns of each person of a row.

    Raises:
        ValueError: a column is there twice, or people have different joints.
    """
    twice = next((name for name, count in Counter(header).items() if count > 1 and name), None)
    if twice is not None:
        raise ValueError(f"{path}: column {twice!r} is there twice")
    place = {name: i for i, name in enumerate(header)}
    points = [name[:-2] for name in header if name.endswith(".x") and name[:-2] + ".y" in place]
    prefixes = list(dict.fromkeys(name.partition(".")[0] for name in points))
    # The table of frames has scores of people beside their joints, and no column for the track.
    wide = bool(prefixes) and all(
        _INDEXED.fullmatch(p) or f"{p}.track_score" in place for p in prefixes
    )
    if not wide or any("." not in name for name in points):
        used, groups = _used(place, "", points), [_group(place, "", None, points)]
        _warn_unused(header, used, path)
        return tuple(points), groups
    joints = list(dict.fromkeys(name.partition(".")[2] for name in points))
    groups, used = [], set()
    for prefix in prefixes:
        missing = [joint for joint in joints if f"{prefix}.{joint}" not in points]
        if missing:
            raise ValueError(f"{path}: {prefix!r} has no columns of the joint {missing[0]!r}")
        track = None if _INDEXED.fullmatch(prefix) else prefix
        groups.append(_group(place, prefix + ".", track, joints))
        used |= _used(place, prefix + ".", joints)
    _warn_unused(header, used, path)
    return tuple(joints), groups


def _group(
    place: Mapping[str, int], prefix: str, track: str | None, joints: Sequence[str]
) -> _Group:
    def first(*names: str) -> int:
        return next((place[prefix + name] for name in names if prefix + name in place), -1)

    return _Group(
        track,
        first("track"),
        first(*_OF_PERSON),
        [
            (
                first(f"{joint}.x"),
                first(f"{joint}.y"),
                first(*(f"{joint}.{name}" for name in _SCORES)),
                first(f"{joint}.visibility"),
            )
            for joint in joints
        ],
    )


def _used(place: Mapping[str, int], prefix: str, joints: Sequence[str]) -> set[str]:
    kinds = ("x", "y", "visibility", *_SCORES)
    used = {f"{prefix}{joint}.{kind}" for joint in joints for kind in kinds}
    return used | {prefix + name for name in ("track", *_OF_PERSON, *_OTHER_COLUMNS)}


def _warn_unused(header: Sequence[str], used: set[str], path: Path) -> None:
    known = {*used, *_FRAME_COLUMNS, *_VIDEO_COLUMNS, *_OTHER_COLUMNS, "image"}
    unused = [name for name in header if name not in known and not name.startswith("Unnamed")]
    if unused:
        warnings.warn(
            f"{path}: columns that are not read: {', '.join(map(repr, unused[:8]))}"
            f"{', ...' if len(unused) > 8 else ''} (scores are JOINT.score or JOINT.likelihood)",
            stacklevel=5,
        )


def _person(
    cells: Sequence[str], group: _Group, joints: Sequence[str], header: Sequence[str], place: str
) -> LabelledPerson | None:
    """The person of a row; None where it has no joint."""

    def numbers(which: int) -> np.ndarray:
        columns = [own[which] for own in group.joints]
        found = [
            np.nan if i < 0 else cell_number(cells[i], f"{place}: {header[i]}") for i in columns
        ]
        return np.array(found, np.float64)

    places = np.stack([numbers(0), numbers(1)], 1)
    for row in np.flatnonzero(np.isfinite(places[:, 0]) != np.isfinite(places[:, 1])).tolist():
        if not all(cells[i] for i in group.joints[row][:2]):
            raise ValueError(f"{place}: joint {joints[row]!r} has only one of x and y")
        places[row] = np.nan  # the cell says itself that there is no number
        warnings.warn(
            f"{place}: joint {joints[row]!r} has only one of x and y, the other is not available: "
            "it counts as not labelled",
            stacklevel=5,
        )
    if not np.isfinite(places).any():
        return None
    scores, visible = numbers(2), numbers(3)
    score = group.score
    track = cells[group.track_column] if group.track_column >= 0 else group.track or ""
    return LabelledPerson(
        points_of(places, np.where(np.isfinite(visible), visible, 2.0)),
        None if track.lower() in _NO_TRACK else track,
        scores if np.isfinite(scores).any() else None,
        np.nan if score < 0 else cell_number(cells[score], f"{place}: {header[score]}"),
    )


def write_csv(dataset: PoseDataset, path: Path, names: Mapping[int, str]) -> None:
    """Write the table of a data set; see the module for what it holds."""
    people, frames, joints = dataset.people, dataset.frames, dataset.skeleton.joints
    kinds = ["x", "y"]
    kinds += ["score"] if people.predicted.any() else []
    kinds += ["visibility"] if (people.keypoints[..., 2] == 1).any() else []
    columns = [f"{joint}.{kind}" for joint in joints for kind in kinds]
    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video_path", "image", "frame_idx", "track", "instance.score", *columns])
        for row, in_frame in enumerate(dataset.people_by_frame()):
            video = dataset.videos[frames.video[row]]
            image = "" if video.is_file else frames.file_name[row]
            place = [video.path, image, int(frames.number[row])]
            if not len(in_frame) and frames.labelled[row]:
                writer.writerow([*place, "", "", *[""] * len(columns)])
            for person in in_frame.tolist():
                cells: list[object] = []
                for joint, (x, y, visibility) in enumerate(people.keypoints[person].tolist()):
                    labelled = visibility > 0
                    score = people.joint_scores[person, joint]
                    cells += [x, y] if labelled else ["", ""]
                    if "score" in kinds:
                        cells.append(float(score) if np.isfinite(score) else "")
                    if "visibility" in kinds:
                        cells.append(int(visibility) if labelled else "")
                score = people.score[person]
                track = track_label(int(people.track_id[person]), dict(names)) or ""
                writer.writerow([*place, track, float(score) if np.isfinite(score) else "", *cells])
