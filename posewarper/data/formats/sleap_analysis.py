"""SLEAP's analysis files (HDF5): all frames of one video as arrays.

SLEAP itself writes the axes in the order of MATLAB, [track, xy, node, frame]; sleap-io names them
in the attribute ``dims`` and can write others.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from posewarper.data.formats.label_file import LabelFile
from posewarper.data.formats.optional import open_hdf
from posewarper.data.formats.trajectories import add_trajectories
from posewarper.data.tables import Floats

_AXES = ("frame", "track", "node", "xy")
_OF_SLEAP = {
    "tracks": ("track", "xy", "node", "frame"),
    "point_scores": ("track", "node", "frame"),
    "instance_scores": ("track", "frame"),
}


def read_analysis(path: Path) -> LabelFile:
    """Predictions, and labels as people without scores; frames without anybody are not labelled.

    Raises:
        ValueError: arrays are missing or do not fit each other; h5py is missing.
    """
    with open_hdf(path, "an analysis file of SLEAP") as file:
        missing = [name for name in ("tracks", "node_names") if name not in file]
        if missing:
            raise ValueError(f"{path}: no analysis file of SLEAP: {missing} are missing in it")
        places = _array(file, "tracks", path)  # [T, N, J, 2]
        joints = tuple(_texts(file, "node_names"))
        names: list[str | None] = [*_texts(file, "track_names")] or [None] * places.shape[1]
        found = places.shape[1:]
        if found != (len(names), len(joints), 2):
            raise ValueError(
                f"{path}: expected 'tracks' of {len(names)} tracks, {len(joints)} joints and x, y, "
                f"got {list(found)} (order of axes: {list(_order(file, 'tracks', path))})"
            )
        scores = np.ones(places.shape[:3])
        people = np.full(places.shape[:2], np.nan)
        if "point_scores" in file:
            scores = _array(file, "point_scores", path)
        else:  # older files; they hold predictions, as a rule
            warnings.warn(f"{path}: tracks without scores: joints get the score 1", stacklevel=4)
        if "instance_scores" in file:
            people = _array(file, "instance_scores", path)
        if scores.shape != places.shape[:3] or people.shape != places.shape[:2]:
            raise ValueError(f"{path}: the scores do not have the shape of the tracks")
        limbs = _pairs(file, "edge_inds", joints, path)
        mirror = json.loads(_text(file.attrs.get("skeleton_symmetries", "[]")))
        video = _text(file["video_path"][()]) if "video_path" in file else ""
        name = _text(file.attrs.get("skeleton_name", ""))
        shape = json.loads(_text(file.attrs.get("video_backend_metadata", "{}"))).get("shape")
        pairs = sorted(
            tuple(sorted(joints.index(joint) for joint in pair))
            for pair in mirror
            if set(pair) <= set(joints)
        )
        flips = tuple((pair[0], pair[1]) for pair in pairs)
        labels = LabelFile(
            str(path), joints, name, limbs, flips, [n for n in names if n is not None]
        )
        video = video or path.name.split(".")[0]
        labels.frame_counts[video] = len(places)
        frames = np.arange(len(places))
        add_trajectories(labels, video, frames, places, scores, names=names, person_scores=people)
        for frame in labels.frames if shape else ():
            frame.size_wh = int(shape[2]), int(shape[1])
        return labels


def _order(file: Any, name: str, path: Path) -> tuple[str, ...]:
    """The axes of an array, by name."""
    told = file[name].attrs.get("dims")
    order = _OF_SLEAP[name] if told is None else tuple(json.loads(_text(told)))
    if sorted(order) != sorted(_OF_SLEAP[name]) or len(order) != file[name].ndim:
        raise ValueError(
            f"{path}: {name}: expected the axes {list(_OF_SLEAP[name])} in any order, got "
            f"{list(order)} for {file[name].ndim} axes"
        )
    return order


def _array(file: Any, name: str, path: Path) -> Floats:
    """An array with its axes in the order of ``_AXES``."""
    order = _order(file, name, path)
    wanted = [order.index(axis) for axis in _AXES if axis in order]
    return np.ascontiguousarray(np.transpose(file[name][()], wanted), np.float64)


def _pairs(
    file: Any, name: str, joints: tuple[str, ...], path: Path
) -> tuple[tuple[int, int], ...]:
    if name not in file:
        return ()
    pairs = np.asarray(file[name][()]).reshape(-1, 2).tolist()
    if any(not 0 <= int(i) < len(joints) for pair in pairs for i in pair):
        raise ValueError(f"{path}: {name}: expected indices of {len(joints)} joints, got {pairs}")
    return tuple((int(a), int(b)) for a, b in pairs)


def _texts(file: Any, name: str) -> list[str]:
    return [_text(text) for text in file[name][()].tolist()] if name in file else []


def _text(text: Any) -> str:
    return text.decode() if isinstance(text, bytes) else str(text)
