"""Joints smoothed over time with the one-euro filter, and how much they jitter.

The filter (Casiez, Roussel, Vogel: "1€ Filter", CHI 2012) is a low-pass filter whose cutoff grows
with the speed: joints at rest do not tremble, fast ones hardly lag. It looks at the past only, so
it also serves a camera. The package OneEuroFilter filters one number per object; here all joints
of a person go at once, joints come and go, and labels of humans are kept.

J joints, P people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from posewarper.data.people import person_sizes
from posewarper.data.tables import Bools, Floats, Ints, PoseDataset

MIN_CUTOFF = 1.0
BETA = 20.0  # as much trembling as in the motion itself, where joints are 1 % of the body off


@dataclass
class _State:
    """Of one track: [J] known, [J, 2] position and velocity in pixels, seconds, pixels."""

    time: float
    known: Bools
    position: Floats
    velocity: Floats
    length: float


class OneEuro:
    """One-euro filter of the joints of any number of tracks.

    Speeds are measured in body lengths per second, so that the defaults fit any resolution and
    distance. Both coordinates of a joint share one cutoff, which makes the result independent of
    the direction of movement. The joint's cutoff in Hz is
    ``min_cutoff + beta * (speed / length)``.

    Args:
        min_cutoff: Hz, of a joint at rest; less is calmer, and lags more.
        beta: Hz per body length per second; more lets fast joints through sooner.
        d_cutoff: Hz, of the filter of the speed and of the body's length.

    Raises:
        ValueError: a cutoff that is not positive, a negative ``beta``.
    """

    def __init__(self, min_cutoff: float = MIN_CUTOFF, beta: float = BETA, d_cutoff: float = 1.0):
        for name, value in (("min_cutoff", min_cutoff), ("d_cutoff", d_cutoff)):
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a frequency above 0 Hz, got {value}")
        if not (np.isfinite(beta) and beta >= 0):
            raise ValueError(f"beta: expected 0 or more, got {beta}")
        self.min_cutoff = min_cutoff
        self.beta = beta
        self.d_cutoff = d_cutoff
        self._tracks: dict[int, _State] = {}

    def __call__(
        self,
        track_id: int,
        time_s: float,
        keypoints: npt.ArrayLike,
        valid: npt.ArrayLike,
        *,
        exact: npt.ArrayLike | None = None,
        length: float | None = None,
    ) -> Floats:
        """Joints of a person in the next frame.

        Args:
            track_id: who it is.
            time_s: when, in seconds from any start; steps may differ.
            keypoints: [J, 2] x, y in pixels; anything where not valid.
            valid: [J] which joints there are. One that was missing in the call before starts
                afresh, without memory.
            exact: [J] joints that are known to be right, such as labels. They stay, and the filter
                goes on from there.
            length: of the body in pixels; by default the longer side of the box around the valid
                joints. Only slow changes of it take effect.

        Returns:
            [J, 2] smoothed; joints that are not valid as they came.

        Raises:
            ValueError: a time that is not finite or not after the last one of the track; another
                number of joints; a valid joint that is not finite.
        """
        points, valid = np.array(keypoints, np.float64), np.array(valid, np.bool_)  # kept: copies
        if points.shape != (len(valid), 2):
            raise ValueError(
                f"keypoints: expected [J, 2] for {len(valid)} joints, got {list(points.shape)}"
            )
        if not np.isfinite(time_s):
            raise ValueError(f"time_s: expected seconds, got {time_s}")
        if not np.isfinite(points[valid]).all():
            raise ValueError(f"keypoints: valid joints of track {track_id} are not finite")
        if length is None:
            extent = float(person_sizes(points, valid))
        else:
            extent = length
        old = self._tracks.get(track_id)
        if old is None:
            self._tracks[track_id] = _State(time_s, valid, points, np.zeros_like(points), extent)
            return points.copy()
        if len(old.known) != len(valid):
            raise ValueError(
                f"keypoints: expected {len(old.known)} joints as before, got {len(valid)}"
            )
        step = time_s - old.time
        if step <= 0:
            raise ValueError(
                f"time_s: expected more than {old.time} of the frame before, got {time_s}"
            )
        going = (old.known & valid)[:, None]
        slow = float(_share(self.d_cutoff, step))
        body = _follow(old.length, extent, slow)
        before = np.where(going, old.position, points)
        rate = np.where(going, (points - before) / step, 0.0)  # [J, 2]
        velocity = np.where(going, old.velocity + slow * (rate - old.velocity), 0.0)
        speed = np.linalg.norm(velocity, axis=1) / body if body > 0 else np.zeros(len(valid))
        share = _share(self.min_cutoff + self.beta * speed, step)
        if exact is not None:
            share = np.where(np.asarray(exact, np.bool_), 1.0, share)
        smooth = np.where(going, before + share[:, None] * (points - before), points)
        self._tracks[track_id] = _State(time_s, valid, smooth, velocity, body)
        return smooth.copy()

    def forget(self, track_id: int) -> None:
        """Let go of a track that left; should it come back, it starts afresh."""
        self._tracks.pop(track_id, None)


@dataclass(frozen=True, eq=False)
class Jitter:
    """How much joints tremble, in body lengths.

    Measured for each joint that a track has in three frames in a row: twice the distance of the
    middle place from where it would be if the joint went evenly from the first to the third. With
    evenly spaced frames this is the length of the second difference. It is divided by the body's
    length, the median over the track of the longer side of the box around the joints.

    True movement counts, too, and more so the fewer frames there are per second: at 25 per second
    the mean is .03 for people who walk and dance, .05 for fruit flies. Joints that are off by s
    body lengths (standard deviation, in x and in y, independent between frames) add: alone they
    give 3.1 s. So the figure is for comparing poses of one video.

    Attributes:
        mean: over everything measured; jumps dominate it. NaN if nothing was measured.
        median: the same; what most frames look like.
        joints: [J] means.
        counts: [J] how many places were measured.
    """

    mean: float
    median: float
    joints: Floats
    counts: Ints


def smooth(
    dataset: PoseDataset,
    times: Sequence[Floats],
    *,
    min_cutoff: float = MIN_CUTOFF,
    beta: float = BETA,
    d_cutoff: float = 1.0,
) -> PoseDataset:
    """Smooth the predicted joints of each track with the one-euro filter.

    Joints without a score are labels of humans: they stay as they are, and the filter goes on from
    them. Joints of people without a track id stay, too. A joint that is missing in a frame that was
    annotated starts afresh after it. Boxes, scores and visibilities stay.

    Args:
        dataset: dense labels.
        times: for each of its videos, in order, the seconds of the frames, first frame first.
        min_cutoff: see ``OneEuro``.
        beta: see ``OneEuro``.
        d_cutoff: see ``OneEuro``.

    Returns:
        The same with other coordinates.

    Raises:
        ValueError: an option; times that are missing, do not grow or are not finite; a track id
            twice in one frame.
    """
    people, frames = dataset.people, dataset.frames
    seconds, extents = _seconds(dataset, times), _extents(dataset)
    visible = people.keypoints[:, :, 2] > 0
    labels = visible & np.isnan(people.joint_scores)
    keypoints = people.keypoints.copy()
    of_frame = dataset.people_by_frame()
    for video in range(len(dataset.videos)):
        one_euro = OneEuro(min_cutoff, beta, d_cutoff)
        before: set[int] = set()
        rows = np.flatnonzero(frames.video == video)
        for frame in rows[np.argsort(frames.number[rows])].tolist():
            here = [row for row in of_frame[frame].tolist() if people.track_id[row] >= 0]
            present = {int(people.track_id[row]) for row in here}
            if len(present) < len(here):
                raise ValueError(
                    f"{dataset.source}: a track id occurs twice in {frames.file_name[frame]}"
                )
            if frames.labelled[frame]:
                for track in before - present:
                    one_euro.forget(track)
                before = present
            else:
                before |= present
            for row in here:
                keypoints[row, :, :2] = one_euro(
                    int(people.track_id[row]), float(seconds[frame]), keypoints[row, :, :2],
                    visible[row], exact=labels[row], length=float(extents[row]),
                )  # fmt: skip
    return replace(dataset, people=replace(people, keypoints=keypoints))


def jitter(dataset: PoseDataset, times: Sequence[Floats]) -> Jitter:
    """How much the joints of the tracks tremble, labels of humans among them.

    Args:
        dataset: dense labels; where frames are missing nothing is measured.
        times: for each of its videos, in order, the seconds of the frames, first frame first.

    Raises:
        ValueError: times that are missing, do not grow or are not finite; a track id twice in one
            frame.
    """
    people, frames = dataset.people, dataset.frames
    seconds, extents = _seconds(dataset, times), _extents(dataset)
    joints = len(dataset.skeleton)
    measured = [np.zeros((0, joints))]  # NaN where a joint is missing
    video, number = frames.video[people.frame], frames.number[people.frame]
    order = np.lexsort((number, people.track_id, video))
    order = order[people.track_id[order] >= 0]
    tracks = np.stack([video, people.track_id], 1)[order]
    for rows in np.split(order, np.flatnonzero((np.diff(tracks, axis=0) != 0).any(1)) + 1):
        steps = np.diff(number[rows])
        if (steps == 0).any():
            name = frames.file_name[people.frame[rows[:-1][steps == 0][0]]]
            raise ValueError(f"{dataset.source}: a track id occurs twice in {name}")
        known = extents[rows] > 0
        if not known.any():
            continue
        points = people.keypoints[rows, :, :2].copy()
        points[people.keypoints[rows, :, 2] <= 0] = np.nan
        time = seconds[people.frame[rows]]
        middle = np.flatnonzero((steps[:-1] == 1) & (steps[1:] == 1)) + 1
        share = (time[middle] - time[middle - 1]) / (time[middle + 1] - time[middle - 1])
        share = share[:, None, None]
        even = (1 - share) * points[middle - 1] + share * points[middle + 1]
        off = 2 * np.linalg.norm(points[middle] - even, axis=-1)
        measured.append(off / np.median(extents[rows][known]))
    values = np.concatenate(measured)
    there = np.isfinite(values)
    counts = there.sum(0)
    sums = np.where(there, values, 0.0).sum(0)
    means = np.divide(sums, counts, out=np.full(joints, np.nan), where=counts > 0)
    if not counts.any():
        return Jitter(np.nan, np.nan, means, counts)
    every = values[there]
    return Jitter(float(every.mean()), float(np.median(every)), means, counts)


def _seconds(dataset: PoseDataset, times: Sequence[Floats]) -> Floats:
    """[F] of each frame."""
    if len(times) != len(dataset.videos):
        raise ValueError(
            f"times: expected one array for each of {len(dataset.videos)} videos, got {len(times)}"
        )
    frames = dataset.frames
    seconds = np.zeros(len(frames))
    for position, (video, of_video) in enumerate(zip(dataset.videos, times, strict=True)):
        of_video = np.asarray(of_video, np.float64)
        if of_video.ndim != 1 or not (
            np.isfinite(of_video).all() and (np.diff(of_video) > 0).all()
        ):
            raise ValueError(
                f"times: expected seconds that grow from frame to frame for video {video.name!r}"
            )
        rows = np.flatnonzero(frames.video == position)
        places = frames.number[rows] - video.first_frame
        outside = (places < 0) | (places >= len(of_video))
        if outside.any():
            raise ValueError(
                f"times: {len(of_video)} for video {video.name!r} from frame {video.first_frame}, "
                f"but frame {frames.number[rows][outside][0]} is listed"
            )
        seconds[rows] = of_video[places]
    return seconds


def _extents(dataset: PoseDataset) -> Floats:
    """[P] sizes in pixels; of people with fewer than two joints the longer side of their box."""
    people = dataset.people
    shown = people.keypoints[:, :, 2] > 0
    extent = person_sizes(people.keypoints[:, :, :2], shown)
    return np.asarray(np.where(extent > 0, extent, people.bbox[:, 2:].max(1)), np.float64)


def _follow(old: float, new: float, share: float) -> float:
    """A length in pixels, moved towards a new one; 0 stands for none."""
    if old <= 0 or new <= 0:
        return max(old, new)
    return old + share * (new - old)


def _share(cutoff: npt.ArrayLike, step: float) -> Floats:
    """Of the new value in the smoothed one: a first-order low-pass filter, paper's equation 4."""
    turns = 2 * np.pi * np.asarray(cutoff, np.float64) * step
    return np.asarray(turns / (turns + 1))
