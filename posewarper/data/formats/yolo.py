"""Data sets of Ultralytics for YOLO-pose: ``data.yaml``, images, and a text file beside each.

A line is a person: class, box and key points, all as fractions of the image. So the images have to
be there: without their sizes there are no pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, UnidentifiedImageError

from posewarper.data.entries import listing, text, whole
from posewarper.data.formats.estimators import joint_names
from posewarper.data.formats.label_file import LabelFile, LabelledPerson
from posewarper.data.images import is_image
from posewarper.files import visible
from posewarper.skeleton import COCO, Skeleton

_SPLITS = ("train", "val", "test")
_ORIENTATION = 0x0112  # EXIF; 1: as it is stored


def read_yolo(path: Path, skeleton: Skeleton | None) -> LabelFile:
    """All splits of a data set; an image without a text file is listed and not labelled.

    Key points whose thirds are not 0, 1 or 2 were predicted, and these are their scores.

    Args:
        path: ``data.yaml`` or its folder.
        skeleton: names of the joints, where ``data.yaml`` has none (``kpt_names``).

    Raises:
        FileNotFoundError: the images of a split are not there.
        ValueError: names the file and the line.
    """
    if path.is_dir():
        path = next(p for p in (path / "data.yaml", path / "data.yml") if p.is_file())
    config = read_config(path)
    joints, dimensions = _key_points(config, path, skeleton)
    labels = LabelFile(str(path), joints, flip_pairs=_flip_pairs(config, joints, path))
    classes: set[str] = set()
    files = [image for split in _SPLITS for image in _images(config, split, path)]
    if not files:
        raise ValueError(f"{path}: names no images: expected 'train', 'val' or 'test'")
    for image in dict.fromkeys(files):
        lines = _labels_of(image)
        frame = labels.frame(_relative(image, path.parent))
        frame.labelled = lines.is_file()
        if not frame.labelled:
            continue
        frame.size_wh = _size(image)
        content = lines.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(content.splitlines(), 1):
            if line.strip():
                place = f"{lines}: line {number}"
                name, person = _person(line, len(joints), dimensions, frame.size_wh, place)
                classes.add(name)
                if (person.points[:, 2] > 0).any():
                    frame.people.append(person)
    if len(classes) > 1:
        warnings.warn(f"{path}: {len(classes)} classes become one, of one skeleton", stacklevel=4)
    return labels


def read_config(path: Path) -> Mapping[str, Any]:
    """Content of a YAML file with a mapping.

    Raises:
        ValueError: it is none.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, Mapping):
        raise ValueError(f"{path}: expected a mapping, got {str(config)[:60]!r}")
    return config


def _key_points(
    config: Mapping[str, Any], path: Path, skeleton: Skeleton | None
) -> tuple[tuple[str, ...], int]:
    """Names of the joints, and whether each has two or three numbers."""
    shape = config.get("kpt_shape")
    if not (
        isinstance(shape, Sequence)
        and len(shape) == 2
        and all(isinstance(n, int) for n in shape)
        and shape[0] > 0
        and shape[1] in (2, 3)
    ):
        raise ValueError(
            f"{path}: expected kpt_shape: [joints, 2 or 3], as data sets for YOLO-pose have it, "
            f"got {shape!r}{' (a data set of boxes has no poses)' if shape is None else ''}"
        )
    names = config.get("kpt_names", config.get("node_names"))
    if isinstance(names, Mapping):  # by class
        names = next(iter(names.values()), None)
    if names is not None:
        listed = listing(names, f"{path}: kpt_names", shape[0])
        return tuple(str(name) for name in listed), shape[1]
    # COCO's own mirror pairs are COCO's joints.
    known = {17: COCO.joints} if config.get("flip_idx") == list(COCO.mirrored) else None
    return joint_names(shape[0], skeleton, str(path), known), shape[1]


def _flip_pairs(
    config: Mapping[str, Any], joints: Sequence[str], path: Path
) -> tuple[tuple[int, int], ...]:
    found = config.get("flip_idx") or []
    order = [whole(i, f"{path}: flip_idx") for i in listing(found, f"{path}: flip_idx")]
    if order and sorted(order) != list(range(len(joints))):
        raise ValueError(f"{path}: flip_idx: expected the joints in another order, got {order}")
    return tuple((i, j) for i, j in enumerate(order) if i < j and order[j] == i)


def _images(config: Mapping[str, Any], split: str, path: Path) -> list[Path]:
    """The images of a split, which is a folder, a list of images, or several of them."""
    entries = config.get(split) or []
    images: list[Path] = []
    for value in [entries] if isinstance(entries, str) else listing(entries, f"{path}: {split}"):
        entry = text(value, f"{path}: {split}")
        # ``path`` may be of another machine; Roboflow's folders start one level too high.
        bases = [path.parent / str(config.get("path") or "."), path.parent]
        tried = [base / e for base in bases for e in (entry, entry.removeprefix("../"))]
        place = next((p for p in tried if p.exists()), None)
        if place is None:
            raise FileNotFoundError(
                f"{path}: {split}: there is no {tried[-1]}; labels are fractions of images, whose "
                "sizes are needed: put the images there"
            )
        if place.is_file():
            lines = [line.strip() for line in place.read_text(encoding="utf-8").splitlines()]
            images += [place.parent / line for line in lines if line]
        else:
            images += sorted(filter(is_image, place.rglob("*")))
            _check_complete(place, path)
    return images


def _check_complete(folder: Path, path: Path) -> None:
    """Raise where labels of a folder have no image."""
    texts = _labels_of(folder / "x").parent
    stems = {p.relative_to(folder).with_suffix("") for p in folder.rglob("*")}
    for lines in visible(texts.rglob("*.txt")) if texts != folder else []:
        if lines.relative_to(texts).with_suffix("") not in stems:
            raise FileNotFoundError(
                f"{path}: {lines} has no image in {folder}; labels are fractions of images, whose "
                "sizes are needed"
            )


def _labels_of(image: Path) -> Path:
    """Where YOLO looks for the labels of an image: the last ``images`` becomes ``labels``."""
    parts = list(image.with_suffix(".txt").parts)
    where = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if where:
        parts[where[-1]] = "labels"
    return Path(*parts)


def _relative(image: Path, folder: Path) -> str:
    try:
        return image.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return image.as_posix()


def _size(image: Path) -> tuple[int, int]:
    try:
        with Image.open(image) as opened:
            size, turned = opened.size, opened.getexif().get(_ORIENTATION, 1) != 1
    except UnidentifiedImageError:
        raise ValueError(f"{image}: cannot be read as an image, whose size is needed") from None
    if turned:  # YOLO turns it, ``decode_image`` does not
        raise ValueError(f"{image}: is to be turned (EXIF orientation); save it as it is shown")
    return size


def _person(
    line: str, joints: int, dimensions: int, size_wh: tuple[int, int], place: str
) -> tuple[str, LabelledPerson]:
    """Class and person of a line."""
    try:
        numbers = np.array(line.split(), np.float64)
    except ValueError:
        raise ValueError(f"{place}: expected numbers, got {line.strip()[:60]!r}") from None
    wanted = 5 + joints * dimensions
    if len(numbers) != wanted or not np.isfinite(numbers).all():
        what = " (a box without key points)" if len(numbers) == 5 else ""
        raise ValueError(
            f"{place}: expected {wanted} finite numbers (class, box, {joints} key points of "
            f"{dimensions}), got {len(numbers)}{what}"
        )
    if (abs(numbers[1:3]) > 2).any():
        raise ValueError(f"{place}: expected fractions of the image, got {numbers[1:5].tolist()}")
    points = numbers[5:].reshape(joints, dimensions)
    places = points[:, :2] * size_wh
    centre, sides = numbers[1:3] * size_wh, numbers[3:5] * size_wh
    thirds = points[:, 2] if dimensions == 3 else np.where((points != 0).any(1), 2.0, 0.0)
    predicted = not np.isin(thirds, (0, 1, 2)).all()
    there = (points != 0).any(1) if predicted else thirds > 0
    visible = np.full(joints, 2.0) if predicted else thirds
    person = LabelledPerson(
        np.column_stack([np.where(there[:, None], places, 0.0), np.where(there, visible, 0.0)]),
        scores=np.where(there, thirds, np.nan) if predicted else None,
        box=(*(centre - sides / 2).tolist(), *sides.tolist()),
    )
    return line.split()[0], person
