"""Whole projects of DeepLabCut: the labels of all videos, found by ``config.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from posewarper.data.formats import deeplabcut, pandas_hdf
from posewarper.data.formats.deeplabcut_project import CONFIG, read_config
from posewarper.data.formats.label_file import LabelFile, LabelledPerson


def read_project(path: Path) -> LabelFile:
    """The labels in ``labeled-data/*/CollectedData_SCORER.csv`` (or ``.h5``) of a project.

    Args:
        path: ``config.yaml`` or its folder.

    Raises:
        FileNotFoundError: nothing is labelled yet.
        ValueError: tables have other joints, or one folder has several; names the file.
    """
    project = read_config(path / CONFIG if path.is_dir() else path)
    folders = sorted({p.parent for p in project.label_folder.glob("*/CollectedData_*.*")})
    tables = [_table(folder, project.scorer) for folder in folders]
    if not tables:
        raise FileNotFoundError(
            f"{project.path}: no labels: there is no labeled-data/VIDEO/CollectedData_SCORER.csv "
            "beside it"
        )
    parts = [
        deeplabcut.read_csv(table) if table.suffix == ".csv" else pandas_hdf.read_hdf(table)
        for table in tables
    ]
    joints = parts[0].joints
    limbs = [(joints.index(a), joints.index(b)) for a, b in project.limbs if {a, b} <= set(joints)]
    whole = LabelFile(str(project.path), joints, limbs=tuple(limbs))
    for part in parts:
        if set(part.joints) != set(joints):
            raise ValueError(
                f"{part.source}: expected the bodyparts {list(joints)} of {parts[0].source}, got "
                f"{list(part.joints)}"
            )
        order = [part.joints.index(joint) for joint in joints]
        whole.tracks += [track for track in part.tracks if track not in whole.tracks]
        for listed in part.frames:
            frame = whole.new_frame(listed.path, listed.number)
            frame.size_wh, frame.labelled = listed.size_wh, listed.labelled
            frame.people = [_ordered(person, order) for person in listed.people]
    return whole


def _table(folder: Path, scorer: str) -> Path:
    """The table of a folder, that of the project's scorer if there are several."""
    found = sorted(folder.glob("CollectedData_*.csv")) or sorted(folder.glob("CollectedData_*.h5"))
    own = [p for p in found if p.stem == f"CollectedData_{scorer}"]
    if len(own or found) != 1:
        names = ", ".join(p.name for p in found)
        raise ValueError(f"{folder}: expected labels of one scorer, got {names}")
    return (own or found)[0]


def _ordered(person: LabelledPerson, order: Sequence[int]) -> LabelledPerson:
    scores = None if person.scores is None else np.asarray(person.scores)[order]
    return replace(person, points=person.points[order], scores=scores)
