"""Values of files that others wrote, checked while they are read; errors say where they stand.

Single values for what occurs a few times, whole columns at once for what occurs a million times.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from posewarper.data.tables import Floats, Ints, PoseDataset

FARTHEST = 1e9  # coordinates, in pixels
LARGEST_SIDE = 10**7  # of an image, in pixels
MOST_FRAMES = 10**8  # of a video: 46 days at 25 frames per second
_INT64 = 2**63 - 1
_ID_IN_NAME = re.compile(r"(?:track_)?(0|[1-9][0-9]{0,17})")

Place = Callable[[int], str]


def mapping(value: Any, place: str) -> Mapping[str, Any]:
    """An object. Raises ValueError for anything else."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{place}: expected an object, got {shown(value)}")
    return value


def listing(value: Any, place: str, length: int | None = None) -> Sequence[Any]:
    """A list, of this length. Raises ValueError for anything else."""
    if not isinstance(value, list | tuple) or length not in (None, len(value)):
        what = "a list" if length is None else f"a list of {length}"
        raise ValueError(f"{place}: expected {what}, got {shown(value)}")
    return value


def objects(value: Any, place: str) -> list[Mapping[str, Any]]:
    """A list of objects. Raises ValueError for anything else; names the position."""
    for position, entry in enumerate(listing(value, place)):
        if not isinstance(entry, dict):
            raise ValueError(f"{place}[{position}]: expected an object, got {shown(entry)}")
    return list(value)


def text(value: Any, place: str) -> str:
    """Text that is not empty and can be a name. Raises ValueError for anything else."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"{place}: expected text, got {shown(value)}")
    return value


def number(value: Any, place: str, low: float = -FARTHEST, high: float = FARTHEST) -> float:
    """A finite number, also one that is written as text.

    Raises:
        ValueError: it is none, or does not lie in ``low`` to ``high``.
    """
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{place}: expected a number, got {shown(value)}") from None
    if not low <= found <= high:
        raise ValueError(f"{place}: expected {_range(low, high)}, got {shown(value)}")
    return found


def whole(value: Any, place: str, low: float = 0, high: float = _INT64) -> int:
    """A whole number; see ``number``."""
    if isinstance(value, int) and low <= value <= high:
        return int(value)
    found = number(value, place, low, high)
    if found != int(found):
        raise ValueError(f"{place}: expected a whole number, got {shown(value)}")
    return int(found)


def column(
    values: Sequence[Any],
    place: Place,
    *,
    width: int | None = None,
    low: float = -FARTHEST,
    high: float = FARTHEST,
    missing: bool = False,
) -> Floats:
    """Many values as an array [n], or lists of ``width`` values as [n, width]; see ``number``.

    Args:
        values: as a file has them.
        place: what errors call the value of a row.
        width: how long each list is.
        low: smallest number.
        high: largest number.
        missing: whether null and NaN are values too; they become NaN.
    """
    shape = (len(values),) if width is None else (len(values), width)
    if not values:
        return np.zeros(shape)
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.zeros(0)
    if array.shape == shape:
        fine = (array >= low) & (array <= high)
        if fine.all() or (missing and (fine | np.isnan(array)).all()):
            return array
    for row, value in enumerate(values):
        for part in [value] if width is None else listing(value, place(row), width):
            if not missing or not (part is None or (isinstance(part, float) and math.isnan(part))):
                number(part, place(row), low, high)
    raise ValueError(f"{place(0)}: expected numbers")  # each alone is one, all together are not


def whole_column(
    values: Sequence[Any], place: Place, low: float = 0, high: float = _INT64
) -> list[int]:
    """Many whole numbers; see ``whole``."""
    if all(type(value) is int for value in values) and (
        not values or (low <= min(values) and max(values) <= high)
    ):
        return list(values)
    return [whole(value, place(row), low, high) for row, value in enumerate(values)]


def id_keys(values: Sequence[Any], place: Place) -> list[Hashable]:
    """Ids by which entries name each other: numbers, also where they are written as text, or text.

    Raises:
        ValueError: one is neither; names its place.
    """
    if all(type(value) is int for value in values):
        return list(values)
    return [id_key(value, place(row)) for row, value in enumerate(values)]


def id_key(value: Any, place: str) -> Hashable:
    """One id; see ``id_keys``."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.strip():
        digits = value.strip().removeprefix("-")
        return int(value) if digits.isascii() and digits.isdigit() and len(digits) < 19 else value
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{place}: expected an id (a number or text), got {shown(value)}")
    return value


def ids(found: Sequence[Hashable]) -> Ints:
    """Numbers for keys: themselves, or 1, 2, ... in order of appearance if one is no number."""
    if all(isinstance(k, int) and -_INT64 <= k <= _INT64 for k in found):
        return np.array(found, np.int64)
    position: dict[Hashable, int] = {}
    return np.array([position.setdefault(k, len(position) + 1) for k in found], np.int64)


def ids_of_tracks(names: Sequence[str]) -> dict[int, str]:
    """The name of each track by the id that it gets.

    Names that are numbers, or ``track_`` and a number, keep these as ids; if not all are, ids are
    positions in order of appearance.
    """
    different = list(dict.fromkeys(names))
    matches = [_ID_IN_NAME.fullmatch(name) for name in different]
    numbers = [int(match[1]) for match in matches if match]
    if len({*numbers}) == len(different):
        return dict(zip(numbers, different, strict=True))
    return dict(enumerate(different))


def places(kind: str, entries: Sequence[Mapping[str, Any]], name: str, source: str) -> Place:
    """What messages call the value ``name`` of each of many entries."""

    def place(row: int) -> str:
        own = entries[row].get("id")
        which = f"number {row}" if own is None else shown(own)
        return f"{source}: {kind} {which}: {name!r}"

    return place


def check_frame_numbers(numbers: Sequence[int], names: Sequence[str], source: str) -> None:
    """Refuse numbers in names of images that cannot be those of frames.

    Raises:
        ValueError: one is larger than ``MOST_FRAMES``; names the image.
    """
    for own, name in zip(numbers, names, strict=True):
        if not 0 <= own <= MOST_FRAMES:
            raise ValueError(
                f"{source}: {name}: {shown(own)} cannot be the number of a frame (0 to "
                f"{MOST_FRAMES:,}); the last number in the name of an image is its number"
            )


def shown(value: Any) -> str:
    """A value for a message, shortened."""
    if value is None:
        return "null"
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and abs(value) > _INT64:
        return "a number with too many digits"
    found = repr(value)
    return found if len(found) <= 60 else found[:57] + "..."


def _range(low: float, high: float) -> str:
    if high >= _INT64:
        return f"a number of at least {low:g}"
    return f"a number from {low:g} to {high:g}"


def check_values(dataset: PoseDataset) -> None:
    """Refuse what no video and no animal has, in a data set that was read from a file.

    Raises:
        ValueError: a joint or box that lies beyond ``FARTHEST``, a box of negative size, another
            visibility than 0, 1 and 2, a score that is infinite, a side of an image or a length of
            a video that is negative or too large, a negative frame number. Names file and place.
    """
    frames, people, source = dataset.frames, dataset.people, dataset.source
    for video in dataset.videos:
        if not 0 <= video.frame_count <= MOST_FRAMES:
            raise ValueError(
                f"{source}: video {video.name!r}: expected 0 to {MOST_FRAMES:.0e} frames, got "
                f"{video.frame_count}"
            )
    in_frames = [
        ((frames.number < 0) | (frames.number > MOST_FRAMES), frames.number, "frame number"),
        (((frames.size_wh < 0) | (frames.size_wh > LARGEST_SIDE)).any(1), frames.size_wh, "size"),
    ]
    for bad, values, what in in_frames:
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"{source}: image {frames.image_id[row]} ({frames.file_name[row]}): {what} "
                f"{values[row].tolist()} is not possible"
            )
    points = people.keypoints
    visible, farthest = points[..., 2], np.abs(points[..., :2])
    in_people = [
        ((farthest > FARTHEST).any((1, 2)), farthest, f"a joint lies beyond {FARTHEST:g} pixels"),
        (
            ~((visible == 0) | (visible == 1) | (visible == 2)).all(1),
            visible,
            "the visibility of a joint is another number than 0 (not labelled), 1 (occluded) and 2 "
            "(visible); confidences are written in 'scores'",
        ),
        ((np.abs(people.bbox) > FARTHEST).any(1), people.bbox, f"'bbox' beyond {FARTHEST:g}"),
        ((people.bbox[:, 2:] < 0).any(1), people.bbox, "'bbox' has a negative width or height"),
        (np.isinf(people.head_box).any(1), people.head_box, "the head box is not finite"),
        (np.isinf(people.joint_scores).any(1), people.joint_scores, "'scores' are not finite"),
        (np.isinf(people.score), people.score, "'score' is not finite"),
    ]
    for bad, values, what in in_people:
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            numbers = np.unique(np.atleast_1d(values[row])).tolist()
            raise ValueError(
                f"{source}: annotation {people.annotation_id[row]} "
                f"(in {frames.file_name[people.frame[row]]}): {what}, got "
                f"{', '.join(f'{n:g}' for n in numbers[:6])}"
            )
