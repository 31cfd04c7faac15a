"""Annotations of videos as columns of numpy arrays: videos, frames, people.

The columns keep the order of the file that they were read from. Rows refer to each other by
position: ``people.frame`` is a row of ``frames``, ``frames.video`` a position in ``videos``.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from posewarper.skeleton import Skeleton

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_NUMBER = re.compile(r"%(0\d+)?d")


@dataclass(frozen=True)
class Video:
    """One video: a folder of numbered images, or a video file.

    Attributes:
        name: unique; by convention the folder of its frames below the image root.
        frame_count: how many frames it has, labelled or not.
        first_frame: number of its first frame: 1 in PoseTrack17, 0 in PoseTrack18.
        pattern: printf pattern of the file names in the folder, ``%08d.jpg`` in PoseTrack17;
            empty when the frames lie in a video file.
        path: the folder or the video file, below the image root; ``name`` if not given.
    """

    name: str
    frame_count: int
    first_frame: int = 0
    pattern: str = "%06d.jpg"
    path: str = ""

    def __post_init__(self) -> None:
        if not self.path:
            object.__setattr__(self, "path", self.name)

    @property
    def is_file(self) -> bool:
        """Whether the frames lie in a video file."""
        return not self.pattern

    @property
    def last_frame(self) -> int:
        """Number of its last frame."""
        return self.first_frame + self.frame_count - 1

    def clip(self, number: int) -> int:
        """The nearest frame number that exists, as the 2019 system clips support frames."""
        return max(self.first_frame, min(number, self.last_frame))

    def file_name(self, number: int) -> str:
        """Path of a frame below the image root; a name only, where the video is one file."""
        if self.is_file:
            return posixpath.join(self.name, f"{number:06d}.jpg")
        return posixpath.normpath(posixpath.join(self.path, self._base_name(number)))

    def _base_name(self, number: int) -> str:
        if _NUMBER.search(self.pattern) is None:  # a single image
            return self.pattern.replace("%%", "%")
        return self.pattern % number


@dataclass(frozen=True, eq=False)
class Regions:
    """Polygons per frame, ragged.

    Attributes:
        points: [Q, 2] float64 (x, y) in pixels, of all polygons one after another.
        polygon_start: [R + 1] first point of each polygon.
        frame_start: [F + 1] first polygon of each frame.
    """

    points: Floats
    polygon_start: Ints
    frame_start: Ints

    @classmethod
    def make(cls, polygons: Sequence[Sequence[npt.ArrayLike]]) -> Regions:
        """From a list per frame of polygons [n, 2]."""
        flat = [np.asarray(p, np.float64).reshape(-1, 2) for frame in polygons for p in frame]
        points = np.concatenate(flat) if flat else np.zeros((0, 2))
        return cls(points, starts([len(p) for p in flat]), starts([len(f) for f in polygons]))

    @classmethod
    def none(cls, frames: int) -> Regions:
        """No polygon in any frame."""
        return cls(np.zeros((0, 2)), np.zeros(1, np.int64), np.zeros(frames + 1, np.int64))

    def __len__(self) -> int:
        return len(self.frame_start) - 1

    def of(self, frame: int) -> list[Floats]:
        """The polygons [n, 2] of one frame."""
        start = self.polygon_start
        rows = range(self.frame_start[frame], self.frame_start[frame + 1])
        return [self.points[start[r] : start[r + 1]] for r in rows]

    def __getitem__(self, frames: Ints) -> Regions:
        if not len(self.points):
            return Regions.none(len(frames))
        return Regions.make([self.of(int(frame)) for frame in frames])


@dataclass(frozen=True, eq=False)
class Frames:
    """The frames that a file speaks of, F rows.

    Attributes:
        video: [F] position in the list of videos.
        number: [F] number of the frame in its video, the one in its file name.
        image_id: [F] unique id of the image in the file.
        frame_id: [F] id that the data set gives to the frame: 11 digits in PoseTrack18, the number
            elsewhere.
        size_wh: [F, 2] width and height in pixels; (0, 0) where the file does not say.
        labelled: [F] whether people in it were annotated. A labelled frame may hold no people.
        file_name: F paths below the image root.
        original_file_name: F paths before frames were renamed, or empty strings.
        ignore: regions in which people were not annotated.
    """

    video: Ints
    number: Ints
    image_id: Ints
    frame_id: Ints
    size_wh: Ints
    labelled: Bools
    file_name: tuple[str, ...]
    original_file_name: tuple[str, ...]
    ignore: Regions

    @classmethod
    def make(
        cls,
        videos: Sequence[Video],
        video: npt.ArrayLike,
        number: npt.ArrayLike,
        *,
        size_wh: npt.ArrayLike | None = None,
        labelled: npt.ArrayLike | None = None,
        image_id: npt.ArrayLike | None = None,
        frame_id: npt.ArrayLike | None = None,
        file_name: Sequence[str] | None = None,
        original_file_name: Sequence[str] | None = None,
        ignore: Regions | None = None,
    ) -> Frames:
        """From columns; what is left out is: sizes unknown, all labelled, image ids from 1, frame
        ids equal to the numbers, file names by the pattern of the video, no ignore regions.

        ``size_wh`` may also be one pair for all.
        """
        video, number = np.asarray(video, np.int64), np.asarray(number, np.int64)
        count = len(video)
        if file_name is None:
            file_name = [
                videos[v].file_name(n) for v, n in zip(video.tolist(), number.tolist(), strict=True)
            ]
        size = np.asarray((0, 0) if size_wh is None else size_wh, np.int64)
        return cls(
            video,
            number,
            _column(image_id, np.arange(1, count + 1)),
            _column(frame_id, number),
            np.broadcast_to(size, (count, 2)),
            np.asarray(np.ones(count) if labelled is None else labelled, np.bool_),
            tuple(file_name),
            ("",) * count if original_file_name is None else tuple(original_file_name),
            Regions.none(count) if ignore is None else ignore,
        )

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self, rows: npt.NDArray[Any]) -> Frames:
        """The rows with these positions, or where a mask is true."""
        return Frames(**_take(self, rows))


@dataclass(frozen=True, eq=False)
class People:
    """Annotated people, P rows with J joints each.

    Attributes:
        frame: [P] row of the frame.
        bbox: [P, 4] x, y, width, height in pixels, as in the file (not clipped).
        area: [P] square pixels; people with area 0 are not used for training.
        keypoints: [P, J, 3] x, y in pixels and visibility: 0 not labelled, 1 labelled (in COCO:
            occluded), 2 labelled and visible.
        head_box: [P, 4] x1, y1, x2, y2 in pixels, NaN where there is none.
        track_id: [P] who it is within a video, -1 if not known.
        annotation_id: [P] unique id in the file.
        crowd: [P] the box holds a group; not used for training.
        joint_scores: [P, J] confidence of joints that were predicted; NaN for human labels.
        score: [P] of the person or its box; NaN where nobody gave one.
    """

    frame: Ints
    bbox: Floats
    area: Floats
    keypoints: Floats
    head_box: Floats
    track_id: Ints
    annotation_id: Ints
    crowd: Bools
    joint_scores: Floats
    score: Floats

    @classmethod
    def make(
        cls,
        frame: npt.ArrayLike,
        keypoints: npt.ArrayLike,
        bbox: npt.ArrayLike,
        *,
        area: npt.ArrayLike | None = None,
        head_box: npt.ArrayLike | None = None,
        track_id: npt.ArrayLike | None = None,
        annotation_id: npt.ArrayLike | None = None,
        crowd: npt.ArrayLike | None = None,
        joint_scores: npt.ArrayLike | None = None,
        score: npt.ArrayLike | None = None,
    ) -> People:
        """From columns; what is left out is: area = width * height, no head boxes, no tracks, ids
        from 1, no crowds, no scores.
        """
        frame = np.asarray(frame, np.int64)
        count = len(frame)
        bbox = np.asarray(bbox, np.float64).reshape(count, 4)
        no_head = np.full((count, 4), np.nan)
        points = np.asarray(keypoints, np.float64)
        no_scores = np.full(points.shape[:2], np.nan)
        return cls(
            frame,
            bbox,
            np.asarray(bbox[:, 2] * bbox[:, 3] if area is None else area, np.float64),
            points,
            np.asarray(no_head if head_box is None else head_box, np.float64).reshape(count, 4),
            _column(track_id, np.full(count, -1)),
            _column(annotation_id, np.arange(1, count + 1)),
            np.asarray(np.zeros(count) if crowd is None else crowd, np.bool_),
            np.asarray(no_scores if joint_scores is None else joint_scores, np.float64),
            np.asarray(np.full(count, np.nan) if score is None else score, np.float64),
        )

    @property
    def predicted(self) -> Bools:
        """Who was not labelled by a human, [P]: some joint has a score."""
        return np.asarray(np.isfinite(self.joint_scores).any(1), np.bool_)

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, rows: npt.NDArray[Any]) -> People:
        """The rows with these positions, or where a mask is true."""
        return People(**_take(self, rows))


@dataclass(frozen=True, eq=False)
class PoseDataset:
    """Videos, their frames, the people in them, and which joints those have.

    Attributes:
        source: the file or folder that it was read from, for messages.
        track_names: names of tracks by their ids, where the file has names.

    Raises:
        ValueError: columns of different lengths, rows that refer to nothing, duplicate ids, a frame
            listed twice, numbers that are not finite. Names ``source`` and the id.
    """

    skeleton: Skeleton
    videos: tuple[Video, ...]
    frames: Frames
    people: People
    source: str = "annotations"
    track_names: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        frames, people = self.frames, self.people
        _check_lengths(frames, "frames", self.source)
        _check_lengths(people, "people", self.source)
        joints = len(self.skeleton)
        if people.keypoints.shape[1:] != (joints, 3):
            raise ValueError(
                f"{self.source}: expected keypoints [P, {joints}, 3] for skeleton "
                f"{self.skeleton.name!r}, got {list(people.keypoints.shape)}"
            )
        _check_rows(frames.video, len(self.videos), "frame", frames.image_id, self.source)
        _check_rows(people.frame, len(frames), "person", people.annotation_id, self.source)
        names = [video.name for video in self.videos]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{self.source}: video {twice!r} is listed twice")
        for kind, ids in (("image", frames.image_id), ("annotation", people.annotation_id)):
            row = _second(ids[:, None])
            if row is not None:
                raise ValueError(f"{self.source}: {kind} id {ids[row]} occurs more than once")
        row = _second(np.stack([frames.video, frames.number], 1))
        if row is not None:
            raise ValueError(
                f"{self.source}: image {frames.image_id[row]} ({frames.file_name[row]}) is frame "
                f"{frames.number[row]} of video {names[frames.video[row]]!r}, which an earlier "
                "image is too"
            )
        for name in ("bbox", "area", "keypoints"):
            column = getattr(people, name)
            bad = ~np.isfinite(column).all(axis=tuple(range(1, column.ndim)))
            if bad.any():
                raise ValueError(
                    f"{self.source}: {name} of annotation {people.annotation_id[bad][0]} "
                    "is not finite"
                )

    def select(
        self,
        *,
        videos: npt.NDArray[Any] | None = None,
        frames: npt.NDArray[Any] | None = None,
        people: npt.NDArray[Any] | None = None,
    ) -> PoseDataset:
        """A part, by masks or by rows. Frames of videos that go, and people of frames that go, go
        too; videos stay when their frames go. Rows are renumbered, ids stay.
        """
        keep_video = _mask(videos, len(self.videos))
        keep_frame = _mask(frames, len(self.frames)) & keep_video[self.frames.video]
        keep_person = _mask(people, len(self.people)) & keep_frame[self.people.frame]
        new_video, new_frame = np.cumsum(keep_video) - 1, np.cumsum(keep_frame) - 1
        kept_frames, kept_people = self.frames[keep_frame], self.people[keep_person]
        return replace(
            self,
            videos=tuple(v for v, keep in zip(self.videos, keep_video, strict=True) if keep),
            frames=replace(kept_frames, video=new_video[kept_frames.video]),
            people=replace(kept_people, frame=new_frame[kept_people.frame]),
        )

    def with_labels_of(self, frames: npt.NDArray[Any]) -> PoseDataset:
        """The same videos and frames, of which only these (a mask or rows) remain labelled: the
        people of the others go.
        """
        labelled = _mask(frames, len(self.frames)) & self.frames.labelled
        people = self.people[labelled[self.people.frame]]
        return replace(self, frames=replace(self.frames, labelled=labelled), people=people)

    def renumbered(self) -> PoseDataset:
        """Image and annotation ids 1, 2, 3, ...: the 2019 scripts take id - 1 for the position."""
        return replace(
            self,
            frames=replace(self.frames, image_id=np.arange(1, len(self.frames) + 1)),
            people=replace(self.people, annotation_id=np.arange(1, len(self.people) + 1)),
        )

    @staticmethod
    def concatenate(parts: Sequence[PoseDataset], source: str) -> PoseDataset:
        """Data sets of the same joints one after another; ids are kept.

        Raises:
            ValueError: there is none; skeletons differ; a video or an id occurs in two.
        """
        if not parts:
            raise ValueError(f"{source}: nothing to read")
        for part in parts:
            if part.skeleton.joints != parts[0].skeleton.joints:
                raise ValueError(f"{part.source}: other joints than in {parts[0].source}")
        video_base = starts([len(part.videos) for part in parts])
        frame_base = starts([len(part.frames) for part in parts])
        frames, people = _join([part.frames for part in parts]), _join([p.people for p in parts])
        video_shift = np.repeat(video_base[:-1], np.diff(frame_base))
        frame_shift = np.repeat(frame_base[:-1], [len(part.people) for part in parts])
        return PoseDataset(
            parts[0].skeleton,
            tuple(video for part in parts for video in part.videos),
            replace(frames, video=frames.video + video_shift),
            replace(people, frame=people.frame + frame_shift),
            source,
        )

    def frame_rows(self) -> dict[tuple[int, int], int]:
        """Row of each frame by (position of the video, number of the frame)."""
        keys = zip(self.frames.video.tolist(), self.frames.number.tolist(), strict=True)
        return {key: row for row, key in enumerate(keys)}

    def people_by_frame(self) -> list[Ints]:
        """For each frame the rows of its people, in the order of the file."""
        order = np.argsort(self.people.frame, kind="stable")
        counts = np.bincount(self.people.frame, minlength=len(self.frames))
        return np.split(order, np.cumsum(counts)[:-1]) if len(self.frames) else []


_Table = TypeVar("_Table", Frames, People)


def starts(lengths: Sequence[int]) -> Ints:
    """Where parts of these lengths begin, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(np.int64)


def _column(values: npt.ArrayLike | None, default: Ints) -> Ints:
    return np.asarray(default if values is None else values, np.int64)


def _take(table: Frames | People, rows: npt.NDArray[Any]) -> dict[str, Any]:
    index = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
    taken: dict[str, Any] = {}
    for field in fields(table):
        column = getattr(table, field.name)
        if isinstance(column, tuple):
            taken[field.name] = tuple(column[row] for row in index.tolist())
        else:
            taken[field.name] = column[index]
    return taken


def _join(tables: Sequence[_Table]) -> _Table:
    joined: dict[str, Any] = {}
    for field in fields(tables[0]):
        columns = [getattr(table, field.name) for table in tables]
        if isinstance(columns[0], tuple):
            joined[field.name] = tuple(value for column in columns for value in column)
        elif isinstance(columns[0], Regions):
            joined[field.name] = Regions(
                np.concatenate([regions.points for regions in columns]),
                starts([n for regions in columns for n in np.diff(regions.polygon_start)]),
                starts([n for regions in columns for n in np.diff(regions.frame_start)]),
            )
        else:
            joined[field.name] = np.concatenate(columns)
    return type(tables[0])(**joined)


def _mask(rows: npt.NDArray[Any] | None, count: int) -> Bools:
    mask = np.ones(count, np.bool_)
    if rows is not None:
        mask[:] = False
        mask[rows] = True
    return mask


def _check_lengths(table: Frames | People, name: str, source: str) -> None:
    lengths = {field.name: len(getattr(table, field.name)) for field in fields(table)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{source}: columns of {name} differ in length: {lengths}")


def _check_rows(rows: Ints, count: int, kind: str, ids: Ints, source: str) -> None:
    bad = (rows < 0) | (rows >= count)
    if bad.any():
        raise ValueError(f"{source}: {kind} {ids[bad][0]} refers to row {rows[bad][0]} of {count}")


def _second(keys: Ints) -> int | None:
    """A row [n, k] that occurred before."""
    if not len(keys):
        return None
    order = np.lexsort(keys.T)
    same = (keys[order][1:] == keys[order][:-1]).all(1)
    return int(order[1:][same].min()) if same.any() else None
