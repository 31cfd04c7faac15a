"""Labels of each person along a video, and which of them tell about which other frames.

n labels of a person, J joints; L labels that tell about one frame, 1 or 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from posewarper.data.people import Upright, turned_boxes
from posewarper.data.tables import Bools, Floats, Ints, PoseDataset, Video
from posewarper.data.upright import between

Sources = Literal["nearest", "both"]
CropBox = Literal["label", "interpolated"]
Leaving = Literal["label", "halfway"]


@dataclass(frozen=True, eq=False)
class Track:
    """One person's labels in one video, in the order of time.

    Attributes:
        track_id: -1 for somebody who is known in one frame only.
        rows: [n] rows of ``dataset.people``.
        numbers: [n] labelled frames.
        keypoints: [n, J, 3] x, y in pixels, visibility.
        bbox: [n, 4] x, y, width, height in pixels, as in the file.
        crop_box: [n, 5] where to look: the same, clipped to the image as for training, and 0; or a
            box that is turned with the pose. See ``data.upright``.
        head_box: [n, 4] corners in pixels, NaN where there is none.
        absent: labelled frames of the video in which the person is not. Labels are not carried
            across them.
    """

    track_id: int
    rows: Ints
    numbers: Ints
    keypoints: Floats
    bbox: Floats
    crop_box: Floats
    head_box: Floats
    absent: Ints

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, number: int) -> int | None:
        """Which label is of this frame."""
        place = int(np.searchsorted(self.numbers, number))
        return place if place < len(self) and self.numbers[place] == number else None

    def before(self, number: int) -> int | None:
        """The last label at or before a frame; None where the person left since."""
        place = int(np.searchsorted(self.numbers, number, "right")) - 1
        return None if place < 0 or self._left(self.numbers[place], number) else place

    def after(self, number: int) -> int | None:
        """The first label at or after a frame; None where the person was away until then."""
        place = int(np.searchsorted(self.numbers, number))
        gone = place == len(self) or self._left(number, self.numbers[place])
        return None if gone else place

    def nearest(self, number: int) -> int | None:
        """The nearer one of both, the earlier one of two as near."""
        before, after = self.before(number), self.after(number)
        if before is None or after is None:
            return after if before is None else before
        return before if number - self.numbers[before] <= self.numbers[after] - number else after

    def interpolated_box(self, number: int) -> Floats:
        """[5] the crop box between the labels before and after; where there is one label, its box.

        Raises:
            ValueError: no label tells about this frame.
        """
        before, after = self.before(number), self.after(number)
        if before is None and after is None:
            raise ValueError(f"number: no label of track {self.track_id} reaches frame {number}")
        first = after if before is None else before
        last = first if after is None else after
        gap = self.numbers[last] - self.numbers[first]
        share = (number - self.numbers[first]) / gap if gap else 0.0
        return between(self.crop_box[first], self.crop_box[last], float(share))

    def reach(self, video: Video) -> tuple[int, int]:
        """First and last frame that labels may tell about: up to where the person is absent."""
        earlier = self.absent[self.absent < self.numbers[0]]
        later = self.absent[self.absent > self.numbers[-1]]
        return (
            int(earlier[-1]) + 1 if len(earlier) else video.first_frame,
            int(later[0]) - 1 if len(later) else video.last_frame,
        )

    def _left(self, first: Any, last: Any) -> bool:
        """Whether the person is absent from a labelled frame from ``first`` to ``last``."""
        start = np.searchsorted(self.absent, first)
        return bool(start != np.searchsorted(self.absent, last, "right"))


@dataclass(frozen=True, eq=False)
class VideoLabels:
    """The labels of one video.

    Attributes:
        video: position in ``dataset.videos``.
        labelled: labelled frames, in the order of time; nobody may be in them.
        tracks: everybody who has a label.
    """

    video: int
    labelled: Ints
    tracks: tuple[Track, ...]


def human_labels(dataset: PoseDataset) -> PoseDataset:
    """The data set without predicted people; frames in which everybody was predicted are not
    labelled any more, frames with people in any case are.
    """
    people, frames = dataset.people, dataset.frames
    human = ~people.predicted
    everybody = np.bincount(people.frame, minlength=len(frames))
    left = np.bincount(people.frame[human], minlength=len(frames))
    labelled = (left > 0) | (frames.labelled & (everybody == 0))
    return replace(dataset, frames=replace(frames, labelled=labelled), people=people[human])


def labels_of(dataset: PoseDataset, upright: Upright = None) -> list[VideoLabels]:
    """The labels of each video, in the order of ``dataset.videos``.

    Labels are people that serve for training (``usable_people``). The same track id in two frames
    is the same person. Somebody who is annotated without being usable, without joints for
    instance, is no label, but not absent either.

    Args:
        dataset: without predicted people; see ``human_labels``.
        upright: the pose that is upright in crops, for turned boxes.

    Raises:
        ValueError: a track id occurs twice in a frame; names the annotation.
    """
    people, frames = dataset.people, dataset.frames
    rows, boxes = turned_boxes(dataset, upright)
    crop_box = np.full((len(people), 5), np.nan)
    crop_box[rows] = boxes
    usable = np.zeros(len(people), np.bool_)
    usable[rows] = True

    persons: list[dict[tuple[int, int], list[int]]] = [{} for _ in dataset.videos]
    order = np.argsort(frames.number[people.frame], kind="stable")
    for row in order.tolist():
        track_id = int(people.track_id[row])
        person = (track_id, -1) if track_id >= 0 else (-1, row)
        persons[int(frames.video[people.frame[row]])].setdefault(person, []).append(row)

    found = []
    for position in range(len(dataset.videos)):
        labelled = np.unique(frames.number[(frames.video == position) & frames.labelled])
        tracks = []
        for (track_id, _), of_person in persons[position].items():
            everywhere = np.array(of_person)
            numbers = frames.number[people.frame[everywhere]]
            twice = np.flatnonzero(np.diff(numbers) == 0)
            if len(twice):
                second = people.annotation_id[everywhere[twice[0] + 1]]
                raise ValueError(
                    f"{dataset.source}: annotation {second} is the second one of track {track_id} "
                    f"in frame {numbers[twice[0]]} of video "
                    f"{dataset.videos[position].name!r}"
                )
            chosen = everywhere[usable[everywhere]]
            if len(chosen):
                tracks.append(
                    Track(
                        track_id,
                        chosen,
                        frames.number[people.frame[chosen]],
                        people.keypoints[chosen],
                        people.bbox[chosen],
                        crop_box[chosen],
                        people.head_box[chosen],
                        np.setdiff1d(labelled, numbers),
                    )
                )
        found.append(VideoLabels(position, labelled, tuple(tracks)))
    return found


@dataclass(frozen=True, eq=False)
class Target:
    """A person in a frame, whose pose is wanted.

    Attributes:
        track: the person.
        number: the frame.
        labels: L positions in ``track`` of the labels that tell about it, the nearest first.
        weights: [L] of the labels, inverse to their distance; their sum is 1.
        crop_box: [5] for the network, turned; in pixels and degrees.
    """

    track: Track
    number: int
    labels: tuple[int, ...]
    weights: Floats
    crop_box: Floats

    @property
    def key(self) -> int:
        """The nearest labelled frame."""
        return int(self.track.numbers[self.labels[0]])

    @property
    def distance(self) -> int:
        """Frames between the nearest label and this frame."""
        return abs(self.number - self.key)

    @property
    def keypoints(self) -> Floats:
        """[L, J, 3] of the labels."""
        return self.track.keypoints[list(self.labels)]

    @property
    def visibility(self) -> Floats:
        """[J] that of the nearest label that has the joint, 0 where none has."""
        visible = self.keypoints[:, :, 2]
        first = (visible > 0).argmax(0)
        return np.take_along_axis(visible, first[None], 0)[0]

    def shares(self, usable: Bools) -> Floats:
        """[L, J] shares of the labels in each joint; they sum to 1, or to 0 where no label serves.

        Labels serve where ``usable`` [L, J] is true and they have the joint.
        """
        weights = self.weights[:, None] * (usable & (self.keypoints[:, :, 2] > 0))
        total = weights.sum(0)
        shares: Floats = weights / np.where(total > 0, total, 1)
        return shares


def targets_of(
    labels: VideoLabels,
    video: Video,
    *,
    sources: Sources = "nearest",
    box: CropBox = "label",
    distance: int | None = None,
    leaving: Leaving = "label",
    repredict: bool = False,
) -> list[Target]:
    """The frames to which the labels of a video are to spread, in the order of time.

    Args:
        labels: of the video.
        video: for its first and last frame.
        sources: the nearest label of the person, or those before and after.
        box: the nearest label's, or interpolated between those before and after.
        distance: to the nearest label, at most; None for any.
        leaving: how long somebody is carried on who is absent from the next labelled frame: until
            that frame, or halfway to it. Halfway in any case for people without a track: the next
            labelled frame has them again, under no name.
        repredict: labelled frames, too, from their own label.
    """
    labelled = set(labels.labelled.tolist())
    targets = []
    for track in labels.tracks:
        halfway = leaving == "halfway" or track.track_id < 0
        first, last = track.reach(video)
        for number in range(first, last + 1):
            own, nearest = track.at(number), track.nearest(number)
            if number in labelled:
                if repredict and own is not None:
                    targets.append(Target(track, number, (own,), np.ones(1), track.crop_box[own]))
                continue
            if nearest is None:
                continue
            gap = abs(number - int(track.numbers[nearest]))
            if distance is not None and gap > distance:
                continue
            if halfway and _nearer_absence(track, number, nearest):
                continue
            used, weights = _labels_for(track, number, nearest, sources)
            between = box == "interpolated"
            crop = track.interpolated_box(number) if between else track.crop_box[nearest]
            targets.append(Target(track, number, used, weights, crop))
    return sorted(targets, key=lambda target: target.number)


def _nearer_absence(track: Track, number: int, nearest: int) -> bool:
    """Whether a labelled frame without the person is nearer than the label; of two as near, the
    earlier one counts.
    """
    if not len(track.absent):
        return False
    label = int(track.numbers[nearest])
    return bool(
        min((abs(int(other) - number), int(other)) for other in _around(track.absent, number))
        < (abs(label - number), label)
    )


def _around(numbers: Ints, number: int) -> Sequence[int]:
    """The neighbours of a number among sorted ones."""
    place = int(np.searchsorted(numbers, number))
    return numbers[max(place - 1, 0) : place + 1].tolist()


def _labels_for(
    track: Track, number: int, nearest: int, sources: Sources
) -> tuple[tuple[int, ...], Floats]:
    before, after = track.before(number), track.after(number)
    if sources == "nearest" or before is None or after is None:
        return (nearest,), np.ones(1)
    other = after if nearest == before else before
    gaps = np.abs(track.numbers[[nearest, other]] - number)
    return (nearest, other), gaps[::-1] / gaps.sum()
