"""Results of many videos as one file."""

from __future__ import annotations

import csv
import os
import posixpath
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.tables import PoseDataset
from posewarper.files import whole_file


def check_merge(merge: Path, format: str) -> None:
    """Whether results of a format can be one file.

    Raises:
        ValueError: they cannot, or the name has another ending than they.
    """
    if format not in ("dataset", "csv"):
        raise ValueError(
            f"merge: expected format dataset or csv, got {format!r}, whose numbers of images count "
            "within a video ('posewarper convert' writes other formats from a dataset)"
        )
    wanted = ".csv" if format == "csv" else ".json"
    if merge.suffix.lower() != wanted or merge.is_dir():
        raise ValueError(f"merge: expected a file whose name ends in {wanted}, got {merge}")


def merge_results(
    videos: Sequence[tuple[str, Path]], base: Path, folder: Path, merge: Path
) -> None:
    """Write the results of videos as one data set or one table, sorted by name.

    Videos are called by the names of their results. A data set is held in memory, a table is not.

    Args:
        videos: name of the results, without an ending, and the video.
        base: folder that paths of frames shall start in.
        folder: of the results.
        merge: file to write, .json or .csv.

    Raises:
        ValueError: a file of results is damaged, or they have other joints; names it.
        OSError: a file cannot be read or written.
    """
    above = {name: Path(os.path.relpath(video.parent, base)).as_posix() for name, video in videos}
    merge.parent.mkdir(parents=True, exist_ok=True)
    if merge.suffix.lower() == ".csv":
        _merge_tables(above, folder, merge)
        return
    parts, images, people = [], 0, 0
    for name, parent in sorted(above.items()):
        part = _placed(load_coco(folder / f"{name}.json"), name, parent).renumbered()
        frames = replace(part.frames, image_id=part.frames.image_id + images)
        everybody = replace(part.people, annotation_id=part.people.annotation_id + people)
        parts.append(replace(part, frames=frames, people=everybody))
        images, people = images + len(frames), people + len(everybody)
    save_coco(PoseDataset.concatenate(parts, str(merge)), merge)


def _placed(part: PoseDataset, name: str, parent: str) -> PoseDataset:
    """The data set of one video with the video's name and place among many."""
    (video,) = part.videos
    placed = replace(video, name=name, path=_below(parent, video.path))
    numbers = part.frames.number.tolist()
    names = tuple(placed.file_name(number) for number in numbers)
    if not video.is_file:  # names of images need not follow a pattern
        names = tuple(_below(parent, file_name) for file_name in part.frames.file_name)
    frames = replace(part.frames, file_name=names, video=np.zeros_like(part.frames.video))
    return replace(part, videos=(placed,), frames=frames)


def _merge_tables(above: dict[str, str], folder: Path, merge: Path) -> None:
    with whole_file(merge) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        header = None
        for name, parent in sorted(above.items()):
            place = folder / f"{name}.csv"
            with open(place, newline="", encoding="utf-8") as part:
                rows = csv.reader(part)
                columns = next(rows, None)
                if header is None and columns is not None:
                    header = columns
                    table.writerow(header)
                if columns is None or columns != header:
                    raise ValueError(f"{place}: expected the columns {header}, got {columns}")
                for video, image, *others in rows:
                    image = image and _below(parent, image)
                    table.writerow([_below(parent, video), image, *others])


def _below(parent: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(parent, path))
