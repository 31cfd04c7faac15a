"""What the readers of all formats fill: frames by place and number, people by joint names.

Coordinates stay as the file has them. ``LabelFile.dataset`` makes tables of it: it groups frames
into videos, numbers the tracks, makes boxes, and finds what contradicts itself.
"""

from __future__ import annotations

import posixpath
import warnings
from dataclasses import dataclass, field, replace

import numpy as np

from posewarper.data.entries import check_frame_numbers, check_values, ids_of_tracks
from posewarper.data.frame_names import Place, frames_of_files, warn_implausible
from posewarper.data.tables import Floats, Frames, People, PoseDataset, Video
from posewarper.skeleton import SKELETONS, Skeleton, pairs_by_name

#: Boxes of people for whom a file has none: the extent of their labelled joints times this.
BOX_GROWTH = 1.25

_NO_SIZE = (0, 0)


@dataclass(eq=False)
class LabelledPerson:
    """One person or animal in one frame.

    Attributes:
        points: [J, 3] x, y in pixels and visibility, as in ``People.keypoints``.
        track: its name in the file; None if it has none.
        scores: [J] confidence of predicted joints; None for human labels.
        score: of the person; NaN if there is none.
        box: x, y, width, height in pixels; None: made of the joints.
    """

    points: Floats
    track: str | None = None
    scores: Floats | None = None
    score: float = np.nan
    box: tuple[float, float, float, float] | None = None


@dataclass(eq=False)
class LabelledFrame:
    """One frame.

    Attributes:
        path: of the image; of the video file if ``number`` is given.
        number: which frame of the video file, from 0; None for an image.
        size_wh: in pixels; (0, 0) if not known.
        labelled: whether people in it were annotated.
        people: who is in it.
    """

    path: str
    number: int | None = None
    size_wh: tuple[int, int] = _NO_SIZE
    labelled: bool = True
    people: list[LabelledPerson] = field(default_factory=list)


@dataclass(eq=False)
class LabelFile:
    """Content of a label file of any format.

    Attributes:
        source: name of the file, for messages.
        joints: their names, in the order of the points.
        skeleton_name: what the file calls them; may be empty.
        limbs: pairs of indices that the file connects.
        flip_pairs: pairs of indices that the file calls symmetric.
        tracks: names of tracks in the order of the file; those that people have and that are not
            listed are added.
        frame_counts: how many frames a video file has, by path.
        image_sets: lists of images that each make up one video.
        box_growth: see ``BOX_GROWTH``.
    """

    source: str
    joints: tuple[str, ...]
    skeleton_name: str = ""
    limbs: tuple[tuple[int, int], ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
    tracks: list[str] = field(default_factory=list)
    frame_counts: dict[str, int] = field(default_factory=dict)
    image_sets: list[list[str]] = field(default_factory=list)
    box_growth: float = BOX_GROWTH
    _frames: dict[tuple[str, int | None], LabelledFrame] = field(default_factory=dict)

    def frame(self, path: str, number: int | None = None) -> LabelledFrame:
        """The frame of this place, which is listed from now on."""
        path = normal_path(path)
        key = path, number
        if key not in self._frames:
            self._frames[key] = LabelledFrame(path, number)
        return self._frames[key]

    def new_frame(self, path: str, number: int | None = None) -> LabelledFrame:
        """The same for formats in which a frame can occur only once.

        Raises:
            ValueError: it is there already.
        """
        if (normal_path(path), number) in self._frames:
            place = path if number is None else f"frame {number} of {path}"
            raise ValueError(f"{self.source}: {place} is listed twice")
        return self.frame(path, number)

    @property
    def frames(self) -> list[LabelledFrame]:
        """All frames, in the order of the file."""
        return list(self._frames.values())

    @property
    def track_names(self) -> dict[int, str]:
        """Name of each track by the id that it has in the data set; see ``ids_of_tracks``."""
        names = list(self.tracks)
        for frame in self._frames.values():
            names += [person.track for person in frame.people if person.track is not None]
        return ids_of_tracks(names)

    def dataset(self, skeleton: Skeleton | None = None) -> PoseDataset:
        """Tables of all this; frames sorted by video and number, videos in order of appearance.

        Raises:
            ValueError: nothing is labelled; a joint of ``skeleton`` is missing; a track has two
                people in one frame; a number is not finite.
        """
        people_of = [(frame, person) for frame in self._frames.values() for person in frame.people]
        if not people_of and not any(frame.labelled for frame in self._frames.values()):
            raise ValueError(f"{self.source}: no labels: nobody is labelled in any frame")
        skeleton, order = self._skeleton(skeleton)
        videos, places = self._videos()
        listed = sorted(self._frames.values(), key=lambda frame: places[id(frame)])
        row_of = {id(frame): row for row, frame in enumerate(listed)}
        numbers = [places[id(frame)][1] for frame in listed]
        check_frame_numbers(numbers, [frame.path for frame in listed], self.source)
        irregular = [
            None if frame.number is not None else frame.path for frame in listed
        ]  # a video file has no names of its own
        frames = Frames.make(
            videos,
            [places[id(frame)][0] for frame in listed],
            numbers,
            size_wh=np.array([frame.size_wh for frame in listed], np.int64).reshape(-1, 2),
            labelled=[frame.labelled or bool(frame.people) for frame in listed],
        )
        names = [name or own for name, own in zip(irregular, frames.file_name, strict=True)]
        frames = replace(frames, file_name=tuple(names))

        people_of.sort(key=lambda pair: row_of[id(pair[0])])
        joints, count = len(self.joints), len(people_of)
        points = np.array([p.points for _, p in people_of], np.float64).reshape(count, joints, 3)
        points = np.where(points[..., 2:] > 0, points, 0.0)
        boxes = boxes_of_joints(points, self.box_growth)
        for row, (_, person) in enumerate(people_of):
            if person.box is not None:
                boxes[row] = person.box
        nothing = np.full(joints, np.nan)
        scores = [nothing if p.scores is None else p.scores for _, p in people_of]
        ids = {name: i for i, name in self.track_names.items()}
        people = People.make(
            [row_of[id(frame)] for frame, _ in people_of],
            points[:, order],
            boxes,
            track_id=[-1 if p.track is None else ids[p.track] for _, p in people_of],
            joint_scores=np.array(scores, np.float64).reshape(count, joints)[:, order],
            score=[person.score for _, person in people_of],
        )
        dataset = PoseDataset(skeleton, videos, frames, people, self.source, self.track_names)
        check_values(dataset)
        check_tracks(dataset)
        return dataset

    def _skeleton(self, wanted: Skeleton | None) -> tuple[Skeleton, list[int]]:
        """The skeleton, and for each of its joints the place in this file."""
        if wanted is None:
            for known in SKELETONS.values():
                if known.joints == self.joints:
                    return known, list(range(len(known)))
            name = self.skeleton_name or self.source
            flips = self.flip_pairs or pairs_by_name(self.joints)
            if len(set(self.joints)) != len(self.joints):
                twice = next(j for j in self.joints if self.joints.count(j) > 1)
                raise ValueError(f"{self.source}: joint {twice!r} is there twice")
            wanted = Skeleton(name, self.joints, flips, self.limbs)
        missing = [joint for joint in wanted.joints if joint not in self.joints]
        if missing:
            raise ValueError(
                f"{self.source}: skeleton {wanted.name!r} has joints {missing}, the file has "
                f"{list(self.joints)}"
            )
        return wanted, [self.joints.index(joint) for joint in wanted.joints]

    def _videos(self) -> tuple[tuple[Video, ...], dict[int, tuple[int, int]]]:
        """The videos, and for each frame (by id) the position of its video and its number."""
        images = [f.path for f in self._frames.values() if f.number is None]
        in_sets = [normal_path(path) for paths in self.image_sets for path in paths]
        place_of = dict(zip([*images, *in_sets], frames_of_files([*images, *in_sets]), strict=True))
        parsed: dict[int, Place] = {
            id(frame): place_of[frame.path]
            if frame.number is None
            else (frame.path, "", frame.number)
            for frame in self._frames.values()
        }
        sets = [[place_of[normal_path(path)] for path in paths] for paths in self.image_sets]
        numbers: dict[tuple[str, str], list[int]] = {}
        for folder, pattern, number in parsed.values():
            numbers.setdefault((folder, pattern), []).append(number)
        extents = {k: (0, max(listed) + 1) for k, listed in numbers.items()}
        for places in sets:
            found = sorted(number for _, _, number in places)
            keys = {place[:2] for place in places}
            if len(keys) == 1 and keys <= set(numbers):
                first, count = found[0], found[-1] - found[0] + 1
                whole = len(found) == count  # images without gaps: a video, all of it
                extents[places[0][:2]] = (first, count) if whole else (0, found[-1] + 1)
        for path, count in self.frame_counts.items():
            known = normal_path(path), ""
            if known in extents:
                extents[known] = 0, max(count, extents[known][1])
        videos = make_videos(extents)
        named = {
            video.name: listed
            for video, ((_, pattern), listed) in zip(videos, numbers.items(), strict=True)
            if pattern
        }
        warn_implausible(named, self.source)
        position = {k: i for i, k in enumerate(extents)}
        return videos, {i: (position[place[:2]], place[2]) for i, place in parsed.items()}


def make_videos(extents: dict[tuple[str, str], tuple[int, int]]) -> tuple[Video, ...]:
    """Videos of (folder or file, pattern) with their first frame and number of frames."""
    folders = [folder for folder, pattern in extents if pattern]
    stems = [posixpath.splitext(path)[0] for path, pattern in extents if not pattern]
    videos = []
    for (path, pattern), (first, count) in extents.items():
        stem, suffix = posixpath.splitext(path)
        if pattern:
            name = posixpath.join(path, pattern) if folders.count(path) > 1 else path or "."
            videos.append(Video(name, count, first, pattern, path or "."))
        elif not suffix:  # only the name of a video is known: a folder, or a file of any type
            videos.append(Video(path, count, first))
        else:
            unique = stems.count(stem) == 1 and stem not in folders
            videos.append(Video(stem if unique else path, count, first, "", path))
    return tuple(videos)


def boxes_of_joints(points: Floats, growth: float = BOX_GROWTH) -> Floats:
    """Boxes [P, 4] (x, y, width, height) around the labelled joints of ``points`` [P, J, 3].

    The extent of the joints times ``growth`` about its centre, each side at least one pixel;
    people with fewer than two different places get width and height 0, so that they are not
    used for training.
    """
    labelled = points[..., 2:] > 0
    low = np.where(labelled, points[..., :2], np.inf).min(1, initial=np.inf)
    high = np.where(labelled, points[..., :2], -np.inf).max(1, initial=-np.inf)
    some = np.asarray(labelled.any((1, 2)))
    low, high = np.where(some[:, None], low, 0.0), np.where(some[:, None], high, 0.0)
    extent = high - low
    sides = np.where((extent > 0).any(1, keepdims=True), np.maximum(extent * growth, 1.0), 0.0)
    return np.concatenate([(low + high) / 2 - sides / 2, sides], 1)


def check_tracks(dataset: PoseDataset) -> None:
    """Raise ValueError where a track has two people in one frame."""
    people, frames = dataset.people, dataset.frames
    rows = np.flatnonzero(people.track_id >= 0)
    rows = rows[np.lexsort((people.track_id[rows], people.frame[rows]))]
    frame, track = people.frame[rows], people.track_id[rows]
    same = np.flatnonzero((frame[1:] == frame[:-1]) & (track[1:] == track[:-1]))
    if len(same):
        first, own = frame[same[0]], int(track[same[0]])
        raise ValueError(
            f"{dataset.source}: track {dataset.track_names.get(own, own)!r} occurs twice in frame "
            f"{frames.number[first]} of video {dataset.videos[frames.video[first]].name!r}"
        )


def warn_outside(dataset: PoseDataset) -> None:
    """Warn once if labelled joints lie outside of images whose size is known.

    By more than a pixel: some count from the corner of the image, others from a pixel's centre.
    """
    people = dataset.people
    size = dataset.frames.size_wh[people.frame][:, None]
    points, labelled = people.keypoints[..., :2], people.keypoints[..., 2] > 0
    outside = np.asarray(((points < -1) | (points > size)).any(2) & labelled & (size > 0).all(2))
    if outside.any():
        row, joint = np.argwhere(outside)[0]
        frame = people.frame[row]
        width, height = dataset.frames.size_wh[frame]
        x, y = points[row, joint]
        warnings.warn(
            f"{dataset.source}: {outside.sum()} of {labelled.sum()} labelled joints, of "
            f"{outside.any(1).sum()} people, lie outside the image; the first is "
            f"{dataset.skeleton.joints[joint]!r} at ({x:g}, {y:g}) in "
            f"{dataset.frames.file_name[frame]} of {width}x{height}",
            stacklevel=3,
        )


def normal_path(path: str) -> str:
    """With slashes only, and without ``./``."""
    path = path.replace("\\", "/")
    return posixpath.normpath(path) if path else path


def track_label(track: int, names: dict[int, str]) -> str | None:
    """What a track is called in a file; None for people without one."""
    return None if track < 0 else names.get(track, f"track_{track}")


def points_of(places: Floats, visible: Floats | None = None) -> Floats:
    """Points [J, 3] of places [J, 2], of which those that are NaN are not labelled."""
    known = np.asarray(np.isfinite(places).all(1))
    visibility = np.where(known, 2.0 if visible is None else visible, 0.0)
    return np.concatenate([np.where(known[:, None], places, 0.0), visibility[:, None]], 1)
