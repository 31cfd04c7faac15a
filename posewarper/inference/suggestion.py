"""Which frames to label next: where predicted labels are unsure, and no label is near.

T frames, J joints.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from posewarper.data.formats import LabelFormat, load_labels
from posewarper.data.tables import Bools, Floats, Ints, PoseDataset
from posewarper.data.video import FrameSource, times
from posewarper.files import whole_file

_WORST = 3  # joints that are named with a frame


@dataclass(frozen=True)
class UnsureJoint:
    """A joint that a label would make sure.

    Attributes:
        joint: its name.
        track_id: whose it is; -1 for people without a track.
        score: its confidence.
    """

    joint: str
    track_id: int
    score: float


@dataclass(frozen=True)
class Suggestion:
    """A frame that is worth labelling.

    Attributes:
        video: its name.
        frame: its number in the video.
        seconds: its time in the video, None if it is not known.
        gain: drop of the summed uncertainty; see ``choose_frames``.
        share: the same as a share of the uncertainty of all frames that is left by the labels.
        worst: the least sure joints, the least sure first.
    """

    video: str
    frame: int
    seconds: float | None
    gain: float
    share: float
    worst: tuple[UnsureJoint, ...]


def suggest(
    labels: Path,
    out: Path | None = None,
    count: int = 10,
    gap: int | None = None,
    images: Path | None = None,
    fps: float | None = None,
    format: LabelFormat | None = None,
) -> list[Suggestion]:
    """List the frames whose labelling would help most.

    Frames count for more where joints have low confidence, and for less where labels, or frames
    listed above them, are near. Frames with human labels are never listed.

    Args:
        labels: labels of every frame with confidences, as fit and propagate write them.
        out: also write the list, as .csv or .json.
        count: how many frames.
        gap: how many frames away a label still helps a little; by default the usual distance
            between the labelled frames.
        images: folder that the videos' paths start in; read for the times of frames of video files.
        fps: frames per second, for times without reading the videos.
        format: of the labels, where name and content do not tell.
    """
    if out is not None and out.suffix.lower() not in (".csv", ".json"):
        raise ValueError(f"out: expected a name that ends in .csv or .json, got {out.name!r}")
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps: expected a number above 0, got {fps}")
    dataset = load_labels(labels, format=format)
    chosen = choose_frames(dataset, count, gap)
    chosen = _with_times(chosen, dataset, images, fps)
    print(_table(chosen))
    if len(chosen) < count:
        print(f"{len(chosen)} frames in place of {count}: labels of others would not help")
    if out is not None:
        _write(chosen, out)
        print(f"-> {out}")
    return chosen


def choose_frames(
    dataset: PoseDataset, count: int = 10, gap: int | None = None
) -> list[Suggestion]:
    """The frames whose labelling would lower the uncertainty most, the most helpful one first.

    The uncertainty of a person in a frame is the root of the mean square of 1 - score over the
    joints that have scores, so that a few bad joints count for more than many fair ones. A label
    at a distance of d frames takes the share max(0, 1 - d / gap) of it away, from the same track of
    the same video (people without a track count as one); of several labels, the one that takes the
    most. The gain of a frame is what labelling everybody in it would take of what the human labels
    and the frames chosen before leave. Frames are chosen greedily; since gains only fall, the
    choice is at least 63 % as good as the best one. Of frames that are as good the first one is
    taken.

    Args:
        dataset: predicted people with ``joint_scores``, and those that were labelled by hand.
        count: how many frames, at least 1; fewer are found where no others help.
        gap: at least 1. By default the median distance between neighbouring frames with human
            labels; without such, the number of frames over ``count`` + 1.

    Raises:
        ValueError: nobody has confidences; a bad count or gap.
    """
    if count < 1 or (gap is not None and gap < 1):
        raise ValueError(f"count and gap: expected at least 1, got {count} and {gap}")
    if not dataset.people.predicted.any():
        raise ValueError(
            f"{dataset.source}: no confidences: expected predicted labels with a score for each "
            "joint, as fit and propagate write them, got "
            + (f"{len(dataset.people)} people without" if len(dataset.people) else "nobody")
        )
    reach = _usual_gap(dataset, count) if gap is None else gap
    videos = [_VideoState(dataset, v, reach) for v in range(len(dataset.videos))]
    total = sum(video.uncertainty() for video in videos)
    chosen: list[Suggestion] = []
    while len(chosen) < count:
        gains = [float(video.gain.max(initial=0.0)) for video in videos]
        best = int(np.argmax(gains))
        if gains[best] <= 1e-9 * max(total, 1.0):
            break
        place = int(videos[best].gain.argmax())
        name = dataset.videos[best].name
        number = place + videos[best].first
        worst = _worst_joints(dataset, best, number)
        chosen.append(Suggestion(name, number, None, gains[best], gains[best] / total, worst))
        videos[best].label(place)
    return chosen


class _VideoState:
    """Uncertainty of one video, and what labels would take of it.

    Attributes:
        first: number of the first frame.
        gain: [T] of labelling each frame, 0 for those that cannot be chosen.
    """

    def __init__(self, dataset: PoseDataset, position: int, gap: int):
        people, frames = dataset.people, dataset.frames
        rows = np.flatnonzero(frames.video[people.frame] == position)
        numbers = frames.number[people.frame[rows]]
        # Numbers outside the video's range occur in files of others.
        video = dataset.videos[position]
        self.first = int(min(numbers.min(initial=video.first_frame), video.first_frame))
        length = int(max(numbers.max(initial=self.first), video.last_frame)) - self.first + 1
        self._gap = gap
        self._tracks = np.unique(people.track_id[rows])
        shape = len(self._tracks), length
        self._unsure = np.zeros(shape)  # uncertainty, summed over the people of a track
        self._there = np.zeros(shape, np.bool_)
        self._left = np.ones(shape)  # share that labels do not take
        track = np.searchsorted(self._tracks, people.track_id[rows])
        place = numbers - self.first
        human = ~people.predicted[rows]
        np.add.at(self._unsure, (track, place), uncertainties(people.joint_scores[rows]))
        self._there[track, place] = True
        self._free: Bools = np.asarray(self._there.any(0))
        self._free[place[human]] = False
        for t, p in {(int(t), int(p)) for t, p in zip(track[human], place[human], strict=True)}:
            self._take(t, p)
        self.gain: Floats = np.zeros(length)
        self._update(0, length)

    def uncertainty(self) -> float:
        """What the labels leave."""
        return float((self._unsure * self._left).sum())

    def label(self, place: int) -> None:
        """Take a frame for labelled from now on."""
        self._free[place] = False
        for track in np.flatnonzero(self._there[:, place]).tolist():
            self._take(track, place)
        self._update(place - 2 * self._gap, place + 2 * self._gap + 1)

    def _take(self, track: int, place: int) -> None:
        start, stop = max(place - self._gap, 0), place + self._gap + 1
        part = self._left[track, start:stop]
        distance = np.abs(np.arange(start, start + len(part)) - place)
        np.minimum(part, distance / self._gap, out=part)

    def _update(self, start: int, stop: int) -> None:
        """Gains of the frames from ``start`` to before ``stop``."""
        length = self._unsure.shape[1]
        start, stop = max(start, 0), min(stop, length)
        gain = np.zeros((len(self._tracks), stop - start))
        farthest = min(self._gap, length) - 1
        for shift in range(-farthest, farthest + 1):
            low, high = max(start, -shift), min(stop, length - shift)  # of frames with a neighbour
            if low < high:
                other = slice(low + shift, high + shift)
                taken = np.maximum(self._left[:, other] - abs(shift) / self._gap, 0)
                gain[:, low - start : high - start] += self._unsure[:, other] * taken
        # A label of a frame is of those who are in it.
        gain *= self._there[:, start:stop]
        self.gain[start:stop] = np.where(self._free[start:stop], gain.sum(0), 0.0)


def uncertainties(scores: Floats) -> Floats:
    """Uncertainty [P], 0..1, of people whose joints have the confidences [P, J]: the root of the
    mean square of 1 - score over those that are not NaN; 0 where all are.
    """
    unsure = 1 - np.clip(scores, 0, 1)
    known = np.isfinite(scores)
    squares = np.where(known, unsure, 0) ** 2
    return np.asarray(np.sqrt(squares.sum(1) / np.maximum(known.sum(1), 1)))


def _usual_gap(dataset: PoseDataset, count: int) -> int:
    """The median distance between neighbouring labelled frames of a video."""
    frames, people = dataset.frames, dataset.people
    human = np.unique(people.frame[~people.predicted])
    distances: list[Ints] = []
    for position in range(len(dataset.videos)):
        numbers = np.sort(frames.number[human[frames.video[human] == position]])
        distances.append(np.diff(numbers))
    between = np.concatenate(distances)
    if len(between):
        return max(round(float(np.median(between))), 1)
    return max(len(np.unique(people.frame)) // (count + 1), 1)


def _worst_joints(dataset: PoseDataset, position: int, number: int) -> tuple[UnsureJoint, ...]:
    people = dataset.people
    row = dataset.frame_rows()[position, number]
    rows = np.flatnonzero(people.frame == row)
    scores = people.joint_scores[rows]
    known = np.argwhere(np.isfinite(scores))
    order = np.argsort(scores[tuple(known.T)], kind="stable")[:_WORST]
    return tuple(
        UnsureJoint(
            dataset.skeleton.joints[joint], int(people.track_id[rows[p]]), float(scores[p, joint])
        )
        for p, joint in known[order].tolist()
    )


def _with_times(
    chosen: Sequence[Suggestion], dataset: PoseDataset, images: Path | None, fps: float | None
) -> list[Suggestion]:
    """The suggestions with times: of the video file itself, if it is at hand, or by ``fps``."""
    videos = {video.name: video for video in dataset.videos}
    source = None if images is None else FrameSource(images)
    stamps: dict[str, Floats] = {}
    for name in dict.fromkeys(suggestion.video for suggestion in chosen):
        own_times = source is not None and source.file_of(videos[name]) is not None
        if own_times and fps is not None:
            raise ValueError(f"fps: {name} in {images} is a video file, which tells its own")
        if source is not None and (fps is not None or own_times):
            stamps[name] = times(source, videos[name], fps)
        elif fps is not None:
            stamps[name] = np.arange(videos[name].frame_count) / fps
    timed = []
    for suggestion in chosen:
        place = suggestion.frame - videos[suggestion.video].first_frame
        of_video = stamps.get(suggestion.video, np.zeros(0))
        seconds = float(of_video[place]) if 0 <= place < len(of_video) else None
        timed.append(replace(suggestion, seconds=seconds))
    return timed


def _table(chosen: Sequence[Suggestion]) -> str:
    """For a terminal, columns aligned."""
    header = ("video", "frame", "time", "gain", "least sure joints")
    lines: list[tuple[str, ...]] = [header]
    for s in chosen:
        time = "-" if s.seconds is None else f"{int(s.seconds // 60)}:{s.seconds % 60:05.2f}"
        lines.append((s.video, str(s.frame), time, f"{100 * s.share:.1f} %", _joints_text(s)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [cells[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(cells[1:4], widths[1:4], strict=True)]
            + [cells[4]]
        )
        for cells in lines
    )


def _joints_text(suggestion: Suggestion) -> str:
    return ", ".join(
        f"{worst.joint}"
        + (f" of {worst.track_id}" if worst.track_id >= 0 else "")
        + f" {worst.score:.2f}"
        for worst in suggestion.worst
    )


def _write(chosen: Sequence[Suggestion], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as partial:
        if out.suffix.lower() == ".json":
            text = json.dumps([asdict(s) for s in chosen], indent=2, allow_nan=False)
            partial.write_text(text + "\n", encoding="utf-8")
            return
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["video", "frame", "seconds", "gain", "share", "least_sure_joints"])
            for s in chosen:
                seconds = "" if s.seconds is None else s.seconds
                writer.writerow([s.video, s.frame, seconds, s.gain, s.share, _joints_text(s)])
