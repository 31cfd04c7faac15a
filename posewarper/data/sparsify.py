"""Sparse labels from dense ones: which frames and which videos remain labelled; statistics.

Frames are chosen per video, from a seed and the name of the video, so that the choice does not
depend on which other videos a data set holds. Frames that lose their label stay in the data set,
without people.
"""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from posewarper.data.tables import Ints, PoseDataset


def every_kth(dataset: PoseDataset, step: int, offset: int = 0) -> PoseDataset:
    """Keep the labels of labelled frames ``offset``, ``offset + step``, ... of each video, counted
    in the order of time.

    Raises:
        ValueError: ``step`` below 1 or ``offset`` below 0.
    """
    if step < 1 or offset < 0:
        raise ValueError(f"expected step >= 1 and offset >= 0, got {step} and {offset}")
    kept = [rows[offset::step] for rows in _labelled_rows(dataset)]
    return dataset.with_labels_of(_joined(kept))


def frames_per_video(
    dataset: PoseDataset,
    count: int,
    spread: Literal["even", "random"] = "even",
    seed: int = 0,
) -> PoseDataset:
    """Keep the labels of ``count`` frames of each video, among those that hold a person; all of
    them where a video has fewer.

    Args:
        dataset: what to choose from.
        count: N, at least 1.
        spread: "even": the middles of N equal parts of the list of frames; "random": a seeded
            choice without repetition.
        seed: for "random".

    Raises:
        ValueError: another ``spread``, or ``count`` below 1.
    """
    if count < 1 or spread not in ("even", "random"):
        raise ValueError(
            f"expected count >= 1 and spread 'even' or 'random', got {count} and {spread!r}"
        )
    kept = []
    for video, rows in zip(dataset.videos, _labelled_rows(dataset, people=True), strict=True):
        if len(rows) <= count:
            places = np.arange(len(rows))
        elif spread == "even":
            places = (2 * np.arange(count) + 1) * len(rows) // (2 * count)
        else:
            random = np.random.default_rng((seed, zlib.crc32(video.name.encode())))
            places = np.sort(random.choice(len(rows), count, replace=False))
        kept.append(rows[places])
    return dataset.with_labels_of(_joined(kept))


def longest_runs(dataset: PoseDataset) -> PoseDataset:
    """Keep the labels of the longest run of consecutive labelled frames of each video, the first
    one of runs as long: the densely labelled part, on which the 2019 system judges propagation.
    """
    return dataset.with_labels_of(_joined(_longest_runs(dataset)))


def posetrack_protocol(dataset: PoseDataset, step: int = 7) -> PoseDataset:
    """Keep the labels from which the 2019 system propagates on PoseTrack's validation set.

    Of the longest run of consecutive labelled frames: number ``step // 2`` from 0 (3 for a step of
    7), then every ``step``-th; and the last one, if it lies more than ``step // 2`` frames behind
    the last of these. Of a run too short for any, with which the 2019 system stopped, the middle
    one. What comes of it is to be compared with ``longest_runs``.

    Raises:
        ValueError: ``step`` below 1.
    """
    if step < 1:
        raise ValueError(f"expected step >= 1, got {step}")
    reach = step // 2
    kept = []
    for rows in _longest_runs(dataset):
        places = np.arange(reach, len(rows), step)
        if len(places) and len(rows) - 1 - places[-1] > reach:
            places = np.append(places, len(rows) - 1)
        if len(rows) and not len(places):
            places = np.array([len(rows) // 2])
        kept.append(rows[places])
    return dataset.with_labels_of(_joined(kept))


def choose_videos(dataset: PoseDataset, count: int, seed: int = 0) -> PoseDataset:
    """Keep ``count`` of the videos in which somebody is labelled; the others go altogether.

    With the same seed a smaller choice is part of a larger one.

    Raises:
        ValueError: there are fewer such videos, or ``count`` is below 1.
    """
    labelled = [i for i, rows in enumerate(_labelled_rows(dataset, people=True)) if len(rows)]
    if not 1 <= count <= len(labelled):
        raise ValueError(
            f"{dataset.source}: expected 1 to {len(labelled)} videos with labels, got {count}"
        )
    order = np.random.default_rng(seed).permutation(len(labelled))[:count]
    return dataset.select(videos=np.sort(np.asarray(labelled)[order]))


@dataclass(frozen=True)
class Statistics:
    """What a data set holds.

    Attributes:
        videos: how many.
        frames: of these videos, labelled or not.
        labelled_frames: annotated frames.
        labelled_share: labelled frames / frames.
        people: annotated people.
        tracks: different (video, track id); people without an id do not count.
        joints: labelled joints.
        visible: per joint, the share of people for whom it is labelled.
    """

    videos: int
    frames: int
    labelled_frames: int
    labelled_share: float
    people: int
    tracks: int
    joints: int
    visible: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def statistics(dataset: PoseDataset) -> Statistics:
    """Count videos, frames, people and joints."""
    people, frames = dataset.people, dataset.frames
    total = sum(video.frame_count for video in dataset.videos)
    labelled = int(frames.labelled.sum())
    known = people.track_id >= 0
    tracks = np.stack([frames.video[people.frame], people.track_id], 1)[known]
    seen = people.keypoints[:, :, 2] > 0
    share = seen.mean(0) if len(people) else np.zeros(len(dataset.skeleton))
    return Statistics(
        len(dataset.videos),
        total,
        labelled,
        labelled / total if total else 0.0,
        len(people),
        len(np.unique(tracks, axis=0)),
        int(seen.sum()),
        dict(zip(dataset.skeleton.joints, share.tolist(), strict=True)),
    )


def _labelled_rows(dataset: PoseDataset, people: bool = False) -> list[Ints]:
    """Rows of labelled frames of each video, in the order of time; those with people, if asked."""
    frames = dataset.frames
    wanted = frames.labelled.copy()
    if people:
        wanted &= np.bincount(dataset.people.frame, minlength=len(frames)) > 0
    rows = np.flatnonzero(wanted)
    rows = rows[np.lexsort((frames.number[rows], frames.video[rows]))]
    counts = np.bincount(frames.video[rows], minlength=len(dataset.videos))
    return np.split(rows, np.cumsum(counts)[:-1]) if len(dataset.videos) else []


def _longest_runs(dataset: PoseDataset) -> list[Ints]:
    """Rows of the longest run of consecutive labelled frames of each video."""
    runs = []
    for rows in _labelled_rows(dataset):
        gaps = np.flatnonzero(np.diff(dataset.frames.number[rows]) > 1) + 1
        runs.append(max(np.split(rows, gaps), key=len))
    return runs


def _joined(rows: list[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *rows])
