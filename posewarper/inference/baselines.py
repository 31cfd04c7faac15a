"""Labels spread without a network: copied, interpolated, or carried by dense optical flow.

What every way of spreading labels is measured against. Each is an ``Estimator``: it tells where the
joints are, and leaves people, tracks, boxes and frames to ``propagation``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import map_coordinates

from posewarper.data.tables import Bools, Floats, Video
from posewarper.data.tracks import Target, Track
from posewarper.data.video import FrameSource, Image

Grey = npt.NDArray[np.uint8]
Preset = Literal["ultrafast", "fast", "medium"]

_PRESETS: dict[str, int] = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
_BLOCK = 32  # frames that are read forwards and kept, to be gone through backwards


@dataclass(frozen=True, eq=False)
class Poses:
    """Joints of n targets.

    Attributes:
        joints: [n, J, 2] x, y in pixels of the image; NaN where nothing is known.
        scores: [n, J] confidence; NaN there, too.
    """

    joints: Floats
    scores: Floats

    @classmethod
    def unknown(cls, targets: Sequence[Target]) -> Poses:
        """To be filled in."""
        joints = targets[0].keypoints.shape[1] if targets else 0
        return cls(
            np.full((len(targets), joints, 2), np.nan), np.full((len(targets), joints), np.nan)
        )


class Estimator(Protocol):
    """Tells where the joints are."""

    def __call__(
        self,
        video: Video,
        targets: Sequence[Target],
        source: FrameSource | None,
        advance: Callable[[int], object],
    ) -> Poses:
        """Poses of one video.

        Args:
            video: which.
            targets: people in its frames, in the order of time.
            source: frames.
            advance: told how many targets are done, again and again; for a progress bar.
        """


def copy_labels(
    video: Video,
    targets: Sequence[Target],
    source: FrameSource | None,
    advance: Callable[[int], object],
) -> Poses:
    """The nearest label as it is; where a target has two labels, their linear interpolation in
    time, for each joint that both have.

    The score is 1 / (1 + frames to the nearest label). No frame is read.
    """
    poses = Poses.unknown(targets)
    for row, target in enumerate(targets):
        places = target.keypoints[:, :, :2]
        poses.joints[row] = _blend(target, places)
        poses.scores[row] = _by_distance(target, poses.joints[row])
    advance(len(targets))
    return poses


@dataclass
class Flow:
    """Labels carried from frame to frame by dense optical flow (DIS, arXiv 1603.03590).

    Each joint moves by the flow at its place, interpolated bilinearly, through all frames between
    the label and the target. Where a target has two labels, the mean of what comes from both sides,
    weighted by inverse distance. The score is 1 / (1 + frames to the nearest label). A frame that
    the source skips is stepped over, and gets no pose.

    Args:
        preset: of OpenCV's DIS flow; the slower, the more accurate.

    Raises:
        ValueError: there is no such preset.
    """

    preset: Preset = "medium"

    def __post_init__(self) -> None:
        if self.preset not in get_args(Preset):
            raise ValueError(f"preset: expected one of {get_args(Preset)}, got {self.preset!r}")

    def __call__(
        self,
        video: Video,
        targets: Sequence[Target],
        source: FrameSource | None,
        advance: Callable[[int], object],
    ) -> Poses:
        """See ``Estimator``."""
        if source is None:
            raise ValueError("source: optical flow needs the frames of the videos")
        places = [np.full((len(t.labels), t.keypoints.shape[1], 2), np.nan) for t in targets]
        forward: dict[tuple[int, int], _Journey] = {}
        backward: dict[tuple[int, int], _Journey] = {}
        for row, target in enumerate(targets):
            for slot, label in enumerate(target.labels):
                start = int(target.track.numbers[label])
                journeys = forward if target.number >= start else backward
                journey = journeys.setdefault(
                    (id(target.track), label), _Journey.of(target.track, label)
                )
                journey.stops.setdefault(target.number, []).append((row, slot))
        flow = cv2.DISOpticalFlow.create(_PRESETS[self.preset])
        for journeys, step in ((forward, 1), (backward, -1)):
            _travel(list(journeys.values()), step, video, source, flow, places)
            advance(len(targets) // 2 if step == 1 else len(targets) - len(targets) // 2)
        poses = Poses.unknown(targets)
        for row, target in enumerate(targets):
            poses.joints[row] = _blend(target, places[row])
            poses.scores[row] = _by_distance(target, poses.joints[row])
        return poses


def _blend(target: Target, places: Floats) -> Floats:
    """[J, 2] mean of what the labels say, [L, J, 2], weighted for each joint; NaN where none says
    anything.
    """
    known: Bools = np.asarray(np.isfinite(places).all(2))
    shares = target.shares(known)
    mean = (shares[:, :, None] * np.where(known[:, :, None], places, 0)).sum(0)
    any_label: Bools = shares.max(0) > 0
    return np.where(any_label[:, None], mean, np.nan)


def _by_distance(target: Target, joints: Floats) -> Floats:
    return np.where(np.isfinite(joints).all(1), 1 / (1 + target.distance), np.nan)


@dataclass
class _Journey:
    """A label's joints on their way through the frames.

    Attributes:
        start: the labelled frame.
        joints: [J, 2] where they are now.
        stops: frame -> (target, slot) that want to know where they are there.
    """

    start: int
    joints: Floats
    stops: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    @classmethod
    def of(cls, track: Track, label: int) -> _Journey:
        return cls(int(track.numbers[label]), track.keypoints[label, :, :2])

    def end(self, step: int) -> int:
        """The last stop."""
        return max(self.stops) if step > 0 else min(self.stops)


def _travel(
    journeys: Sequence[_Journey],
    step: int,
    video: Video,
    source: FrameSource,
    flow: cv2.DISOpticalFlow,
    places: list[Floats],
) -> None:
    """All journeys of one direction at once, so that every flow field is computed once."""
    waiting: dict[int, list[_Journey]] = {}
    numbers: set[int] = set()
    for journey in journeys:
        waiting.setdefault(journey.start, []).append(journey)
        numbers.update(range(journey.start, journey.end(step) + step, step))
    on_the_way: list[_Journey] = []
    previous: tuple[int, Grey] | None = None
    for number, image in _greys(video, source, numbers, set(waiting), step):
        if image is None:
            continue
        if previous is not None and previous[1].shape != image.shape:
            for journey in on_the_way:  # nothing leads from one size to another
                journey.joints = np.full_like(journey.joints, np.nan)
        elif on_the_way and previous is not None:
            joints = np.concatenate([journey.joints for journey in on_the_way])
            field = np.asarray(flow.calc(previous[1], image, None), np.float32)  # type: ignore[call-overload]
            moved = _advect(joints, field)
            parts = np.split(moved, len(on_the_way))
            for journey, part in zip(on_the_way, parts, strict=True):
                journey.joints = part
        on_the_way += waiting.get(number, [])
        for journey in on_the_way:
            for row, slot in journey.stops.get(number, []):
                places[row][slot] = journey.joints
        on_the_way = [j for j in on_the_way if (j.end(step) - number) * step > 0]
        previous = number, image


def _advect(joints: Floats, field: npt.NDArray[np.float32]) -> Floats:
    """Joints [n, 2] moved by the flow [H, W, 2] at their places; outside, by that at the border."""
    at = joints[:, ::-1].T  # y, x
    moves = [map_coordinates(field[:, :, axis], at, order=1, mode="nearest") for axis in (0, 1)]
    moved: Floats = joints + np.stack(moves, 1)
    return moved


def _greys(
    video: Video, source: FrameSource, numbers: set[int], keys: set[int], step: int
) -> Iterator[tuple[int, Grey | None]]:
    """Grey frames in the order of time or against it; None where the source skips one.

    Video files are read forwards in any case: against time in blocks.
    """
    order = sorted(numbers, reverse=step < 0)
    key: int | None = None
    key_of = {}
    for number in order:
        key = key_of[number] = number if number in keys else key
    block = 1 if step > 0 else _BLOCK
    for start in range(0, len(order), block):
        part = order[start : start + block]
        images = {n: _grey(source.read(video, n, key=key_of[n])) for n in sorted(part)}
        yield from ((n, images[n]) for n in part)


def _grey(image: Image | None) -> Grey | None:
    if image is None:
        return None
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
