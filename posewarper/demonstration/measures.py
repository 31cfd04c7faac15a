"""How far predictions of the demo are from the complete truth, and whether a difference is one.

P people of the truth, J joints, V videos.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from posewarper.data.synthetic import load_truth
from posewarper.data.tables import Bools, Floats, Ints, PoseDataset
from posewarper.evaluation import aligned_keypoints, head_lengths

#: Limits of PCKh, in head sizes: the usual one, and a strict one.
THRESHOLDS = (0.5, 0.25)
_DRAWS = 2000


@dataclass(frozen=True, eq=False)
class Truth:
    """The joints that count, and what is special about each.

    Attributes:
        dataset: people of the frames that count.
        video: [P].
        gap: [P] frames to the nearest label of the same person; -1 without labels.
        groups: by name masks [P, J] of labelled joints: "all", "blurred" (frames with motion blur
            or out of focus), "occluded" (joints hidden behind something), "clear" (neither).
    """

    dataset: PoseDataset
    video: Ints
    gap: Ints
    groups: Mapping[str, Bools]

    @classmethod
    def of_split(cls, root: Path, split: str, dense: PoseDataset, sparse: PoseDataset) -> Truth:
        """Truth of a split of the synthetic videos below ``root``.

        Args:
            root: folder of ``write_dataset``.
            split: name.
            dense: its complete labels.
            sparse: with the frames labelled that do not count; without labels all frames count.
        """
        given = _places(sparse, sparse.frames.labelled)
        keys = _keys(dense)
        hidden = np.array([key[:2] not in given for key in keys])
        kept = dense.select(people=hidden)
        labels: dict[tuple[int, int], list[int]] = {}
        for video, number, track in _keys(sparse):
            labels.setdefault((video, track), []).append(number)
        places = _keys(kept)
        gap = [
            min((abs(number - n) for n in labels.get((video, track), ())), default=-1)
            for video, number, track in places
        ]
        blurred = np.zeros(len(places), np.bool_)
        flags = [_blurred(root, split, video.name) for video in kept.videos]
        for row, (video, number, _) in enumerate(places):
            blurred[row] = flags[video][number]
        visibility = kept.people.keypoints[:, :, 2]
        counted = visibility > 0
        occluded = visibility == 1
        groups = {
            "all": counted,
            "blurred": counted & blurred[:, None],
            "occluded": counted & occluded,
            "clear": counted & ~blurred[:, None] & ~occluded,
        }
        return cls(kept, np.array([key[0] for key in places]), np.array(gap), groups)

    def distances(self, predicted: PoseDataset) -> Floats:
        """Of every joint in head sizes, [P, J]; infinite where it was not predicted."""
        found = aligned_keypoints(self.dataset, predicted)
        people = self.dataset.people
        length = head_lengths(people.head_box)[:, None]
        distance = np.linalg.norm(found - people.keypoints[:, :, :2], axis=-1) / length
        return np.where(np.isnan(distance), np.inf, distance)

    def pck(self, distances: Floats, group: str = "all", threshold: float = THRESHOLDS[0]) -> float:
        """Share of the joints of a group that lie within so many head sizes, in percent."""
        counted = self.groups[group]
        return float(100 * (distances[counted] <= threshold).mean()) if counted.any() else np.nan

    def by_gap(self, distances: Floats, gaps: npt.ArrayLike) -> Floats:
        """PCKh@0.5 in percent of the people so many frames from their nearest label."""
        shares = []
        for gap in np.asarray(gaps).tolist():
            counted = self.groups["all"] & (self.gap == gap)[:, None]
            right = distances[counted] <= THRESHOLDS[0]
            shares.append(100 * right.mean() if len(right) else np.nan)
        return np.array(shares)

    def gain(self, better: Floats, worse: Floats, group: str = "all") -> Gain:
        """How much PCKh@0.5 rises from one prediction to another, on the same joints.

        The interval is a bootstrap over videos, as joints of one video go wrong together.
        """
        counted = self.groups[group]
        change = (better <= THRESHOLDS[0]).astype(float) - (worse <= THRESHOLDS[0])
        videos = np.unique(self.video)
        rows = [self.video == video for video in videos]
        rise = np.array([change[row][counted[row]].sum() for row in rows])
        joints = np.array([counted[row].sum() for row in rows])
        draws = np.random.default_rng(0).integers(0, len(videos), (_DRAWS, len(videos)))
        shares = 100 * rise[draws].sum(1) / np.maximum(joints[draws].sum(1), 1)
        low, high = np.percentile(shares, (2.5, 97.5)).tolist()
        return Gain(float(100 * rise.sum() / max(joints.sum(), 1)), low, high)


@dataclass(frozen=True)
class Gain:
    """A difference of two PCKh in percentage points, with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether it is above zero: "true", "false", or "mixed": too few videos."""
        if self.low > 0:
            return "true"
        return "mixed" if self.mean > 0 else "false"

    def __str__(self) -> str:
        text = f"{self.mean:+.1f} points (95 % interval {self.low:+.1f} to {self.high:+.1f})"
        return text.replace("-", "−")


def _keys(dataset: PoseDataset) -> list[tuple[int, int, int]]:
    """Position of the video, number of the frame and track id of each person."""
    frames, people = dataset.frames, dataset.people
    columns = (frames.video[people.frame], frames.number[people.frame], people.track_id)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _places(dataset: PoseDataset, rows: Bools) -> set[tuple[int, int]]:
    frames = dataset.frames
    return set(zip(frames.video[rows].tolist(), frames.number[rows].tolist(), strict=True))


def _blurred(root: Path, split: str, video: str) -> Bools:
    truth = load_truth(root / "truth" / split / f"{Path(video).name}.npz")
    return np.asarray(truth["blurred"] | truth["defocused"], np.bool_)
