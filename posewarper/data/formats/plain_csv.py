"""A plain table: one row per person, with the column names of SLEAP's analysis CSV.

``video_path, image, frame_idx, track, instance.score``, then for each joint ``NAME.x, NAME.y`` and,
if any has them, ``NAME.score`` and ``NAME.visibility`` (1: occluded). Empty cells are joints that
are not labelled; a row with nothing but its frame is a labelled frame without people. ``image`` is
the path of an image; where it is empty or missing, ``frame_idx`` counts from 0 in ``video_path``.
Frames that are not labelled are not written.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from posewarper.data.formats.label_file import LabelFile, LabelledPerson, points_of, track_label
from posewarper.data.tables import PoseDataset
from posewarper.files import whole_file

_FRAME_COLUMNS = ("frame_idx", "frame")
_VIDEO_COLUMNS = ("video_path", "video")
_SCORE_COLUMNS = ("instance.score", "score")
_NO_TRACK = ("", "untracked", "None", "nan")


def read_csv(path: Path) -> LabelFile:
    """Labels or predictions from a plain table; also SLEAP's analysis CSV.

    Joints have the order of the columns. Without a column ``video_path`` or ``image`` the video is
    named like the file.

    Raises:
        ValueError: columns are missing, or a cell is no number; names the row.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, strict=True))
    header = list(rows[0]) if rows else []
    joints = tuple(
        name[:-2] for name in header if name.endswith(".x") and name[:-2] + ".y" in header
    )
    frame_column = next((name for name in _FRAME_COLUMNS if name in header), "")
    if not joints or not (frame_column or "image" in header):
        raise ValueError(
            f"{path}: expected a table with a column 'frame_idx' (or 'image') and columns "
            f"'JOINT.x' and 'JOINT.y', got {header if rows else 'no rows'}"
        )
    labels = LabelFile(str(path), joints)
    for number, row in enumerate(rows):
        place = f"{path}: row {number + 2}"
        image = (row.get("image") or "").strip()
        video = next((row[name] for name in _VIDEO_COLUMNS if row.get(name)), path.stem)
        if image:
            frame = labels.frame(image)
        else:
            index = _number(row, frame_column, place)
            if index is None or index < 0 or index != int(index):
                raise ValueError(
                    f"{place}: {frame_column}: expected the number of a frame, got "
                    f"{row.get(frame_column)!r}"
                )
            frame = labels.frame(video, int(index))
        x_y = [[_number(row, f"{joint}.{axis}", place) for axis in "xy"] for joint in joints]
        for joint, (x, y) in zip(joints, x_y, strict=True):
            if (x is None) != (y is None):
                raise ValueError(f"{place}: joint {joint!r} has only one of x and y")
        places = np.array(x_y, np.float64)
        if not np.isfinite(places).any():
            continue
        scores = np.array([_number(row, f"{j}.score", place) for j in joints], np.float64)
        visible = np.array([_number(row, f"{j}.visibility", place) for j in joints], np.float64)
        score = next((_number(row, name, place) for name in _SCORE_COLUMNS if row.get(name)), None)
        track = (row.get("track") or "").strip()
        frame.people.append(
            LabelledPerson(
                points_of(places, np.where(np.isfinite(visible), visible, 2.0)),
                None if track in _NO_TRACK else track,
                scores if np.isfinite(scores).any() else None,
                np.nan if score is None else score,
            )
        )
    return labels


def _number(row: Mapping[str, str | None], name: str, place: str) -> float | None:
    cell = (row.get(name) or "").strip()
    if not cell or cell.lower() == "nan":
        return None
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"{place}: {name}: expected a number, got {cell!r}") from None


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
