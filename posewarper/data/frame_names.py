"""Which video and which frame the names of images stand for.

One name alone does not tell: ``clip_frame00010_30fps.png`` has two numbers, and tools for labelling
add random letters and digits. Names that lie in one folder are therefore read together.
"""

from __future__ import annotations

import posixpath
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence

#: Folder, pattern and frame number of an image; the first two tell videos apart.
Place = tuple[str, str, int]

_NUMBER = re.compile(r"\d+(?!\d*fps)", re.IGNORECASE)
_PADDED = re.compile(r"%0\d+d")
#: What tools add to the names of files that are uploaded: the name before that is group 1.
_ROBOFLOW = re.compile(r"(.+)_(?:png|jpe?g|bmp|webp|tiff?)\.rf\.[\w-]{8,}", re.IGNORECASE)
_LABEL_STUDIO = re.compile(r"[0-9a-f]{8}-(.+)")
_LABEL_STUDIO_OLD = re.compile(r"(.*\d.*)_(?![A-Za-z]*\d+$)[0-9A-Za-z]{7,8}", re.DOTALL)
_MIXED = re.compile(r"_\w*[a-z0-9][A-Z]\w*$")  # random letters, not a word
_MANY = 1_000_000  # frames of a video that nobody has
_SPARSE, _LONG = 1000, 100_000  # frames to a listed one, in a video of at least so many


def frame_of_file(file_name: str) -> Place:
    """Video, pattern and frame number that a path of an image stands for, seen alone.

    The number is the last one in the base name (a frame rate as in ``30fps`` is none):
    ``a/b/000012.jpg`` is frame 12 of video ``a/b`` with pattern ``%06d.jpg``. What stands before or
    after the number tells videos in one folder apart: ``a/left_7.png`` is frame 7 with pattern
    ``left_%d.png``. A name without digits is frame 0 of a video of its own.
    """
    folder, base = posixpath.split(file_name)
    stem, extension = posixpath.splitext(base)
    spans = _spans(stem)
    return _place(folder, stem, extension, spans[-1] if spans else None)


def frames_of_files(
    file_names: Sequence[str], originals: Mapping[str, str] | None = None
) -> list[Place]:
    """The same for images that belong to one data set, whose names explain each other.

    The number is the last one that varies: of ``a_frame1_v2.png``, ``a_frame7_v2.png``, ... it is
    the first one. What Roboflow and Label Studio add to names (``NAME_png.rf.HASH.jpg``,
    ``HASH-NAME.png``, ``NAME_HASH.png``) is not read; where two names differ in that alone, the
    images are of different videos. Numbers of one width ("099", "100") and numbers without leading
    zeros ("99", "100") make one video each.

    Args:
        file_names: paths of images; a path listed twice has the same place twice.
        originals: what images were called before a tool renamed them, by their path; base names.

    Returns:
        Video, pattern and number of each. The pattern is that of names without additions.
    """
    unique = list(dict.fromkeys(file_names))
    by_folder: dict[str, list[str]] = {}
    for name in unique:
        by_folder.setdefault(posixpath.dirname(name), []).append(name)
    places: dict[str, Place] = {}
    for folder, names in by_folder.items():
        given = [posixpath.basename((originals or {}).get(name, name)) for name in names]
        bases = _without_additions(given)
        read = _places(folder, bases)
        counts: dict[Place, int] = {}
        for place in read:
            counts[place] = counts.get(place, 0) + 1
        for name, base, place in zip(names, bases, read, strict=True):
            own = posixpath.basename(name)
            if counts[place] > 1 and base != own:  # copies of one image
                place = folder, own.replace("%", "%%"), place[2]
            places[name] = place
    return [places[name] for name in file_names]


def warn_implausible(numbers: Mapping[str, Iterable[int]], source: str) -> None:
    """Warn once where the numbers of images can hardly be those of frames.

    Args:
        numbers: of the images of each video, by its name.
        source: file or folder, for the message.
    """
    bad = []
    for video, listed in numbers.items():
        found = list(listed)
        last = max(found, default=0)
        span = last - min(found, default=0)
        if last > _MANY or span > max(_SPARSE * len(found), _LONG):
            bad.append((video, len(found), last))
    if bad:
        video, count, last = bad[0]
        others = f" (and {len(bad) - 1} videos like it)" if len(bad) > 1 else ""
        warnings.warn(
            f"{source}: the numbers in the names of images do not look like those of frames: "
            f"{count} of {video!r} up to number {last}{others}; name images by frame if they are "
            "to go to a video",
            stacklevel=4,
        )


def _spans(stem: str) -> list[tuple[int, int]]:
    """Where numbers stand in a name; only the frame rate, if there is nothing else."""
    found = [match.span() for match in _NUMBER.finditer(stem)]
    return found or [match.span() for match in re.finditer(r"\d+", stem)]


def _place(folder: str, stem: str, extension: str, span: tuple[int, int] | None) -> Place:
    if span is None:
        return folder, (stem + extension).replace("%", "%%"), 0
    digits = stem[slice(*span)]
    form = f"%0{len(digits)}d" if digits.startswith("0") and len(digits) > 1 else "%d"
    before, after = stem[: span[0]], stem[span[1] :] + extension
    return folder, f"{before.replace('%', '%%')}{form}{after.replace('%', '%%')}", int(digits)


def _without_additions(bases: Sequence[str]) -> list[str]:
    """Base names of one folder as they were before they were uploaded."""
    split = [posixpath.splitext(base) for base in bases]
    stems = [_ROBOFLOW.sub(r"\1", stem) if ".rf." in stem else stem for stem, _ in split]
    new = [i for i, stem in enumerate(stems) if _LABEL_STUDIO.fullmatch(stem)]
    # The same beginning again and again is a date, or the name of an experiment.
    hashes = [stems[i][:8] for i in new]
    if len({*hashes}) == len(hashes) and any(not text.isdecimal() for text in hashes):
        for i in new:
            stems[i] = stems[i][9:]
    old = [i for i, stem in enumerate(stems) if _LABEL_STUDIO_OLD.fullmatch(stem)]
    if 2 * sum(_MIXED.search(stems[i]) is not None for i in old) > len(old):
        for i in old:
            stems[i] = stems[i].rpartition("_")[0]
    return [stem + extension for stem, (_, extension) in zip(stems, split, strict=True)]


def _places(folder: str, bases: Sequence[str]) -> list[Place]:
    """Places of the names in one folder."""
    groups: dict[tuple[str, ...], list[int]] = {}
    split = [posixpath.splitext(base) for base in bases]
    for row, (stem, extension) in enumerate(split):
        groups.setdefault((*re.split(r"\d+", stem), extension), []).append(row)
    places: list[Place] = [(folder, "", 0)] * len(bases)
    for rows in groups.values():
        spans = [_spans(split[row][0]) for row in rows]
        numbers = {
            tuple(split[row][0][slice(*span)] for span in of_row)
            for row, of_row in zip(rows, spans, strict=True)
        }
        which = _number_of_frame(numbers)
        for row, of_row in zip(rows, spans, strict=True):
            places[row] = _place(folder, *split[row], of_row[which] if of_row else None)
    # A number whose width is not fixed ("9", "10") has one pattern, "%d"; where it is, the numbers
    # that start with another digit than 0 ("100000") have the width of their neighbours.
    padded = {_PADDED.sub("%d", p): p for _, p, _ in places if _PADDED.search(p)}
    return [(folder, padded.get(pattern, pattern), number) for _, pattern, number in places]


def _number_of_frame(names: set[tuple[str, ...]]) -> int:
    """Which of the numbers in names of one form, as texts, is that of the frame: the last one
    (-1), unless it makes nearly every image a video of its own and another one does not.
    """
    count = len(next(iter(names)))
    if count < 2 or len(names) < 2:
        return -1
    videos = [len({name[:i] + name[i + 1 :] for name in names}) for i in range(count)]
    best = min(range(count), key=lambda i: (videos[i], -i))
    padded = [any(n[i].startswith("0") and len(n[i]) > 1 for n in names) for i in range(count)]
    if 2 * videos[-1] <= len(names) or 2 * videos[best] > len(names):
        return -1
    return -1 if padded[-1] and not padded[best] else best
