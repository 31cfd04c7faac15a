"""Labels onto the videos at hand: where they lie, how many frames they have, how large they are."""

from __future__ import annotations

import posixpath
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from posewarper.data.formats.cropped import deeplabcut_crop, moved
from posewarper.data.formats.deeplabcut_project import Crop
from posewarper.data.formats.pictures import Footage, Found, Labelled, find_frames, image_size
from posewarper.data.frame_names import frames_of_files
from posewarper.data.images import IMAGE_SUFFIXES, decode_image, image_files
from posewarper.data.tables import Bools, Ints, PoseDataset, Video
from posewarper.data.video import VideoFile

_ANY = "%d"  # pattern of a video whose images are named in several ways

VideoPath = str | Path
Videos = VideoPath | Mapping[str, VideoPath]


def attach(dataset: PoseDataset, videos: Videos) -> PoseDataset:
    """The same labels on other video files or folders of images.

    Frame numbers stay, so that images which were taken out of a video and are named by their number
    in it find their way back to it; in a folder, the file name decides, or the number if no name is
    found there. Labels of frame n of a video file go to the image with this number; to the n-th one
    where images are numbered from 1, or where there are as many as frames and the numbers do not
    fit. Labels of frames between images are left out.

    Where labelled images (or the video file that was labelled) lie near the labels, they are
    compared with the frames, and labels go to the frames that the images show. Labels of a cropped
    DeepLabCut project are moved to where the crop is. Sizes are read where the labels lack them.
    What was decided, warnings say.

    Args:
        dataset: labels.
        videos: video file or folder of images, if the labels are of one video; else a mapping from
            the video's name or path in the labels, or the last part of it with or without suffix.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a name is not among the videos; one path is given for several videos; labels
            name frames that do not exist, were made at another size, or may belong to either of
            two images; images show none of the frames.
    """
    for position, path in _choose(dataset, videos).items():
        dataset = _replace_video(dataset, position, Path(path))
    return dataset


def _choose(dataset: PoseDataset, videos: Videos) -> dict[int, VideoPath]:
    listed = dataset.videos
    if not isinstance(videos, Mapping):
        if len(listed) != 1:
            names = ", ".join(repr(video.name) for video in listed[:6])
            raise ValueError(
                f"{dataset.source}: video: one path is given, but the labels are of {len(listed)} "
                f"videos ({names}{', ...' if len(listed) > 6 else ''})"
            )
        return {0: videos}
    chosen: dict[int, VideoPath] = {}
    for name, path in videos.items():
        found = [i for i, video in enumerate(listed) if name in (video.name, video.path)]
        if not found:
            last = [posixpath.basename(video.path) for video in listed]
            found = [i for i, p in enumerate(last) if name in (p, posixpath.splitext(p)[0])]
        if len(found) != 1:
            raise ValueError(
                f"{dataset.source}: video: {name!r} stands for {len(found)} of the videos "
                f"{[video.name for video in listed]}, expected one"
            )
        chosen[found[0]] = path
    return chosen


@dataclass(frozen=True, eq=False)
class _Target:
    """What labels of one video are put on.

    Attributes:
        path: video file or folder.
        video: the same in a data set.
        images: of a folder, by number.
        file: of a video file.
    """

    path: Path
    video: Video
    images: Mapping[int, str]
    file: VideoFile | None

    @classmethod
    def of_file(cls, path: Path) -> _Target:
        file = VideoFile(path)
        stem = path.with_suffix("").as_posix()
        return cls(path, Video(stem, file.frame_count(), 0, "", path.as_posix()), {}, file)

    def has(self, number: int) -> bool:
        return number in self.images if self.file is None else 0 <= number <= self.video.last_frame

    def size_wh(self, number: int) -> tuple[int, int]:
        """Width and height of a frame."""
        if self.file is None:
            return image_size(self.path / self.images[number])
        return self.file.size_wh()

    def footage(self, crop: Crop | None) -> Footage:
        if self.file is not None:
            return Footage.of_file(self.file, crop)
        return Footage.of_folder(self.path, self.images, crop)


def _replace_video(dataset: PoseDataset, position: int, path: Path) -> PoseDataset:
    old = dataset.videos[position]
    rows = np.flatnonzero(dataset.frames.video == position)
    if path.is_dir():
        target = _folder(path, dataset, rows)
    elif path.is_file():
        target = _Target.of_file(path)
    else:
        raise FileNotFoundError(f"{path}: there is no such video file or folder of images")
    readings = _readings(dataset, old, rows, target)
    at_hand = _at_hand(dataset, old, rows, target)
    crop = None if old.is_file else _crop(dataset, rows, target, at_hand, readings[0])
    found = _found(dataset, old, rows, target, readings, at_hand, crop)
    keep = _existing(dataset, rows, target, found)
    if not keep.all():
        kept = np.ones(len(dataset.frames), np.bool_)
        kept[rows[~keep]] = False
        dataset = dataset.select(frames=kept)
        rows = np.flatnonzero(dataset.frames.video == position)
        found = found[keep]
    if crop is not None:
        dataset = moved(dataset, rows, (crop.x1, crop.y1))
    return _renamed(dataset, position, rows, target, found, cropped=crop is not None)


def _renamed(
    dataset: PoseDataset,
    position: int,
    rows: Ints,
    target: _Target,
    found: Ints,
    *,
    cropped: bool,
) -> PoseDataset:
    """The data set with another video, and with its numbers, names and sizes of frames."""
    frames = dataset.frames
    numbers, names = np.array(frames.number), list(frames.file_name)
    numbers[rows] = found
    sizes = np.array(frames.size_wh)
    if cropped:
        sizes[rows] = 0
    size = target.size_wh(0) if target.file is not None and len(rows) else (0, 0)
    for row, number in zip(rows.tolist(), found.tolist(), strict=True):
        names[row] = target.video.file_name(number)
        if target.file is None:
            names[row] = posixpath.join(target.video.path, target.images[number])
            size = target.size_wh(number)
        width, height = sizes[row].tolist()
        if min(width, height) <= 0:
            sizes[row] = size
        elif (width, height) != size and min(size) > 0:
            turned = " (turned by the video's metadata?)" if (height, width) == size else ""
            raise ValueError(
                f"{dataset.source}: frame {number} was labelled at {width}x{height} pixels, "
                f"{target.path} has {size[0]}x{size[1]}{turned}; labels count in pixels of the "
                "video"
            )
    videos = (*dataset.videos[:position], target.video, *dataset.videos[position + 1 :])
    frame_id = np.array(frames.frame_id)
    frame_id[rows] = np.where(frame_id[rows] == frames.number[rows], numbers[rows], frame_id[rows])
    frames = replace(
        frames, number=numbers, frame_id=frame_id, file_name=tuple(names), size_wh=sizes
    )
    return replace(dataset, videos=videos, frames=frames)


def images_of(path: Path, pattern: str) -> dict[int, str]:
    """Names of the images in a folder that make up one video, by number.

    Args:
        path: folder.
        pattern: of the names, as ``attach`` gives it to the video: where images of several patterns
            make up the video, it is none of theirs.
    """
    groups = _images_by_pattern(path)
    if pattern in groups:
        return groups[pattern]
    return {number: name for images in groups.values() for number, name in images.items()}


def _images_by_pattern(path: Path) -> dict[str, dict[int, str]]:
    names = [p.name for p in image_files(path)]
    if not names:
        raise ValueError(f"{path}: no images in this folder ({', '.join(IMAGE_SUFFIXES)})")
    groups: dict[str, dict[int, str]] = {}
    for name, (_, pattern, number) in zip(names, frames_of_files(names), strict=True):
        other = groups.setdefault(pattern, {}).setdefault(number, name)
        if other != name:
            raise ValueError(f"{path}: images {other} and {name} have the same number")
    return groups


def _folder(path: Path, dataset: PoseDataset, rows: Ints) -> _Target:
    """A folder as a video: its images, or, if they are named in several ways, those that are named
    like the labels' images.
    """
    groups = _images_by_pattern(path)
    wanted = {posixpath.basename(dataset.frames.file_name[row]) for row in rows.tolist()}
    named = [pattern for pattern, images in groups.items() if wanted & {*images.values()}]
    pattern = (named or list(groups))[0] if len(named) == 1 or len(groups) == 1 else _ANY
    images = images_of(path, pattern)
    if len(images) < sum(map(len, groups.values())) and pattern == _ANY:
        raise ValueError(
            f"{path}: which images are meant? Several have the same number: they are called "
            f"{', '.join(sorted(groups)[:4])}; put those of one video in a folder of their own"
        )
    first, last = min(images), max(images)
    only = len(groups) == 1 or pattern == _ANY
    name = path.as_posix() if only else posixpath.join(path.as_posix(), pattern)
    video = Video(name, last - first + 1, first, pattern, path.as_posix())
    return _Target(path, video, images, None)


def _readings(
    dataset: PoseDataset, old: Video, rows: Ints, target: _Target
) -> list[dict[int, int]]:
    """What numbers of frames may mean in the target, the likeliest first: numbers there by row."""
    numbers = dict(zip(rows.tolist(), dataset.frames.number[rows].tolist(), strict=True))
    if not old.is_file and target.file is None:
        by_name = {name: number for number, name in target.images.items()}
        names = {row: posixpath.basename(dataset.frames.file_name[row]) for row in numbers}
        named = {row: by_name[name] for row, name in names.items() if name in by_name}
        if named:
            return [named]
    there = sorted(target.images) or range(target.video.frame_count)
    if not old.is_file:
        # 1 to n are the same frames as 0 to n - 1: others do not exist.
        if (old.first_frame, there[0], old.frame_count) == (1, 0, len(there)) and (
            there[-1] == len(there) - 1
        ):
            warnings.warn(
                f"{dataset.source}: {old.name!r} has frames 1 to {old.frame_count}, {target.path} "
                f"0 to {there[-1]}: frame 1 goes to frame 0",
                stacklevel=4,
            )
            return [{row: number - 1 for row, number in numbers.items()}]
        return [numbers]
    if target.file is not None:
        return [numbers]
    contiguous = there[-1] - there[0] + 1 == len(there)
    in_order = {row: there[n] for row, n in numbers.items() if 0 <= n < len(there)}
    nth = len(in_order) == len(numbers) and (
        len(there) == old.frame_count or (contiguous and there[0] == 1)
    )
    inside = all(there[0] <= n <= there[-1] for n in numbers.values())
    by_number = inside and any(n in target.images for n in numbers.values())
    if nth and contiguous and there[0] == 1:
        warnings.warn(
            f"{target.path}: images are numbered from 1, frames from 0: labels of frame n go to "
            "image n + 1",
            stacklevel=4,
        )
        return [in_order]
    if nth and by_number and in_order != numbers:
        return [numbers, in_order]
    return [in_order if nth else numbers]


def _at_hand(dataset: PoseDataset, old: Video, rows: Ints, target: _Target) -> dict[int, Labelled]:
    """Labelled images that lie near the labels and are not the target's own, by row."""
    labels = Path(dataset.source)
    if old.is_file:
        path = _find(old.path, labels)
        if path is None or (target.path.is_file() and path.samefile(target.path)):
            return {}
        file = VideoFile(path)
        numbers = dataset.frames.number[rows].tolist()
        return {
            row: Labelled(f"frame {number} of {path}", partial(file.read, number))
            for row, number in zip(rows.tolist(), numbers, strict=True)
        }
    found = {}
    for row in rows.tolist():
        path = _find(dataset.frames.file_name[row], labels)
        if path is not None and path.parent.resolve() != target.path.resolve():
            found[row] = Labelled(str(path), partial(decode_image, path))
    return found


def _find(name: str, labels: Path) -> Path | None:
    """Where a labelled image is: below the folder of the labels, one of the three above, or
    beside the labels.
    """
    folder = labels.absolute() if labels.is_dir() else labels.absolute().parent
    above = [folder, *folder.parents][:4]
    places = [folder / name for folder in above] + [above[0] / posixpath.basename(name)]
    return next((place for place in places if place.is_file()), None)


def _crop(
    dataset: PoseDataset,
    rows: Ints,
    target: _Target,
    at_hand: Mapping[int, Labelled],
    reading: Mapping[int, int],
) -> Crop | None:
    """The part of the target's frames that the labels count in; None: the whole frame."""
    number = next((n for n in reading.values() if target.has(n)), None)
    if number is None:
        return None

    def size_of_images() -> tuple[int, int] | None:
        pictures = (image.picture() for image in at_hand.values())
        picture = next((picture for picture in pictures if picture is not None), None)
        if picture is not None:
            return picture.shape[1], picture.shape[0]
        width, height = dataset.frames.size_wh[rows[0]].tolist()
        return (width, height) if min(width, height) > 0 else None

    return deeplabcut_crop(dataset, rows, target.path, target.size_wh(number), size_of_images)


def _found(
    dataset: PoseDataset,
    old: Video,
    rows: Ints,
    target: _Target,
    readings: list[dict[int, int]],
    at_hand: Mapping[int, Labelled],
    crop: Crop | None,
) -> Ints:
    """The number in the target of every row, by the pictures where they are at hand; -1 where
    there is none.
    """
    reading = readings[0]
    name = dataset.frames.file_name[int(rows[0])] if len(rows) else ""
    if at_hand:
        shown = find_frames(at_hand, readings, target.footage(crop), dataset.source)
        if shown.still:
            warnings.warn(
                f"{target.path}: nothing moves in it, so images do not tell whether labels of "
                f"{name} go to frame {reading.get(int(rows[0]))}",
                stacklevel=4,
            )
        reading = _of_all(dataset, rows, readings, shown, target)
        other = [row for row in shown.numbers if shown.numbers[row] != readings[0].get(row)]
        if other:
            listed = [dataset.frames.number[other].tolist(), [reading[row] for row in other]]
            told, seen = (", ".join(map(str, n[:3])) + ", ..." * (len(n) > 3) for n in listed)
            warnings.warn(
                f"{dataset.source}: images of {old.name!r} are numbered {told} but show frames "
                f"{seen} of {target.path}: labels were put there",
                stacklevel=4,
            )
    elif len(readings) > 1:
        row = next(r for r in rows.tolist() if readings[0][r] != readings[1][r])
        one, two = (target.images.get(r[row], f"none ({r[row]})") for r in readings)
        raise ValueError(
            f"{dataset.source}: frame {dataset.frames.number[row]} of {old.name!r} may be image "
            f"{one} of {target.path} by its number, or {two}, the image at this place in the "
            "folder; put the video beside the labels, or give images the numbers of their frames"
        )
    elif target.file is not None and not old.is_file and len(rows):
        pixels = "" if crop is not None else ", in pixels of the whole frame"
        here = dataset.people.keypoints[np.isin(dataset.people.frame, rows)]
        if pixels and (here[here[..., 2] > 0][:, :2] < -1).any():
            pixels += (
                "; some lie left of it or above: if parts of the frames were cut out for labels, "
                "put the labelled images and DeepLabCut's config.yaml beside the labels"
            )
        warnings.warn(
            f"{target.path}: frames are counted from 0: labels of {name} go to frame "
            f"{reading[int(rows[0])]}{pixels}",
            stacklevel=4,
        )
    return np.array([reading.get(row, -1) for row in rows.tolist()], np.int64)


def _of_all(
    dataset: PoseDataset,
    rows: Ints,
    readings: list[dict[int, int]],
    shown: Found,
    target: _Target,
) -> dict[int, int]:
    """The same for rows whose images are not at hand: by the reading or the shift that is right for
    the others.
    """
    right = next(
        (r for r in readings if all(r.get(row) == n for row, n in shown.numbers.items())), None
    )
    if right is not None:
        return right
    everything = dict(shown.numbers)
    for row in rows.tolist():
        if row not in everything and shown.shift is None:
            raise ValueError(
                f"{dataset.source}: images are not named by the frames of {target.path} that they "
                f"show, and {dataset.frames.file_name[row]} is not at hand or one of too many: put "
                "it where the others are, or name images by frame"
            )
        if row not in everything and row in readings[0]:
            everything[row] = readings[0][row] + (shown.shift or 0)
    return everything


def _existing(dataset: PoseDataset, rows: Ints, target: _Target, found: Ints) -> Bools:
    """Which rows have a frame in the target; those that fall into gaps between its images have
    none.

    Raises:
        ValueError: a frame does not exist, and not because of a gap.
    """
    there = np.array([target.has(number) for number in found.tolist()], np.bool_)
    if there.all():
        return there
    names = [dataset.frames.file_name[row] for row in rows[~there].tolist()]
    listed = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
    video = dataset.videos[dataset.frames.video[rows[0]]]
    first, last = target.video.first_frame, target.video.last_frame
    if not video.is_file or not there.any() or not ((found >= first) & (found <= last)).all():
        raise ValueError(
            f"{dataset.source}: {len(names)} of {len(rows)} frames of video {video.name!r} do not "
            f"exist in the video given: {listed}"
        )
    warnings.warn(
        f"{dataset.source}: {len(names)} of {len(rows)} frames of video {video.name!r} have no "
        f"image in {target.path}, their labels are left out: {listed}",
        stacklevel=4,
    )
    return there
