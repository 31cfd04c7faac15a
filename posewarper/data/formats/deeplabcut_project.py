"""DeepLabCut's ``config.yaml``: what a project tells about its videos, joints and animals."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PureWindowsPath
from typing import Any

import yaml

CONFIG = "config.yaml"
_LABELS_FOLDER = "labeled-data"


@dataclass(frozen=True)
class Crop:
    """The part of a video's frames that was cut out, in pixels of the whole frame; ``x2`` and
    ``y2`` are no longer in it.
    """

    x1: int
    x2: int
    y1: int
    y2: int

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.x2 - self.x1, self.y2 - self.y1


@dataclass(frozen=True)
class DeepLabCutProject:
    """What ``config.yaml`` says.

    Attributes:
        path: of the file.
        scorer: who labelled; part of the names of the label files.
        joints: bodyparts of one animal, then those that exist once in the image.
        individuals: names of the animals; empty in projects with one animal.
        unique_joints: those of ``joints`` that belong to nobody (corners of the arena).
        limbs: pairs of joints that the project connects; only pairs of known joints.
        video_sets: for each video, by its path as the file has it, the part of the frames that may
            have been cut out for labelling; None if the file does not say.
    """

    path: Path
    scorer: str
    joints: tuple[str, ...]
    individuals: tuple[str, ...]
    unique_joints: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...]
    video_sets: Mapping[str, Crop | None]

    @property
    def label_folder(self) -> Path:
        """Where each video has a folder with its labelled images and their labels."""
        return self.path.parent / _LABELS_FOLDER

    def crop_of(self, video: str) -> Crop | None:
        """The crop of a video; ``video`` is its name without folder and suffix, which is also the
        name of its folder in ``labeled-data``. None if it is not listed, or has none.
        """
        found = {crop for path, crop in self.video_sets.items() if stem_of(path) == video}
        return found.pop() if len(found) == 1 else None


def stem_of(path: str) -> str:
    """Name of a video without folder and suffix; Windows paths are understood everywhere."""
    return posixpath.splitext(PureWindowsPath(path).name)[0]


def find_config(labels: Path) -> Path | None:
    """The ``config.yaml`` beside a file of labels, or in one of the two folders above it (labels
    lie in ``PROJECT/labeled-data/VIDEO/``).
    """
    folder = labels.absolute().parent
    places = [folder, *folder.parents][:3]
    return next((f / CONFIG for f in places if _is_of_project(f / CONFIG)), None)


def _is_of_project(path: Path) -> bool:
    """Whether it is there and looks like one: many tools call a file ``config.yaml``."""
    return path.is_file() and b"video_sets" in path.read_bytes()


def read_config(path: str | Path) -> DeepLabCutProject:
    """Read the ``config.yaml`` of a DeepLabCut project.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no configuration of DeepLabCut, or a part of it has another form than
            DeepLabCut writes; names the file and the key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        with open(path, encoding="utf-8-sig") as file:
            content = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    if not is_project(content):
        raise ValueError(
            f"{path}: no configuration of DeepLabCut: expected the keys 'scorer', 'bodyparts' and "
            "'video_sets'"
        )
    several = bool(content.get("multianimalproject"))
    unique = _names(content, "uniquebodyparts", path) if several else ()
    joints = _names(content, "multianimalbodyparts" if several else "bodyparts", path) + unique
    if not joints:
        raise ValueError(f"{path}: the project has no bodyparts")
    return DeepLabCutProject(
        path,
        str(content["scorer"]),
        joints,
        _names(content, "individuals", path) if several else (),
        unique,
        tuple(_limbs(content, joints, path)),
        _video_sets(content, path),
    )


def is_project(content: Any) -> bool:
    """Whether the content of a YAML file is that of a DeepLabCut project."""
    return isinstance(content, dict) and {"scorer", "bodyparts", "video_sets"} <= set(content)


def _names(content: Mapping[str, Any], key: str, path: Path) -> tuple[str, ...]:
    names = content.get(key)
    if names is None:
        return ()
    if not isinstance(names, list) or not all(isinstance(n, str | int | float) for n in names):
        raise ValueError(f"{path}: {key}: expected a list of names, got {names!r}")
    found = tuple(str(name) for name in names)
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path}: {key}: {twice!r} is there twice")
    return found


def _limbs(
    content: Mapping[str, Any], joints: tuple[str, ...], path: Path
) -> Iterator[tuple[str, str]]:
    limbs = content.get("skeleton") or []
    if not isinstance(limbs, list):
        raise ValueError(f"{path}: skeleton: expected a list of pairs of bodyparts, got {limbs!r}")
    for limb in limbs:
        if not isinstance(limb, list):
            raise ValueError(f"{path}: skeleton: expected pairs of bodyparts, got {limb!r}")
        # A chain of more than two is drawn as its pairs; other names are left from the template.
        for first, second in pairwise(limb):
            if str(first) in joints and str(second) in joints:
                yield str(first), str(second)


def _video_sets(content: Mapping[str, Any], path: Path) -> dict[str, Crop | None]:
    listed = content["video_sets"]
    if not isinstance(listed, dict):  # the template has a sentence there
        return {}
    found: dict[str, Crop | None] = {}
    for video, entry in listed.items():
        crop = entry.get("crop") if isinstance(entry, dict) else None
        found[str(video)] = None if crop is None else _crop(crop, f"{path}: video_sets: {video}")
    return found


def _crop(text: Any, place: str) -> Crop:
    parts = text if isinstance(text, list) else str(text).split(",")
    try:
        x1, x2, y1, y2 = (int(float(part)) for part in parts)
    except (TypeError, ValueError, OverflowError):
        x1 = x2 = y1 = y2 = 0
    if not (0 <= x1 < x2 and 0 <= y1 < y2):
        raise ValueError(f"{place}: crop: expected 'x1, x2, y1, y2' in pixels, got {text!r}")
    return Crop(x1, x2, y1, y2)
