"""The labelled frames from which propagation is judged on PoseTrack."""

from __future__ import annotations

import numpy as np
import pytest

from posewarper.data.sparsify import longest_runs, posetrack_protocol
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.skeleton import Skeleton

ONE = Skeleton("one", ("a",))


def make(*labelled, length=60, first=1):
    """A video for each list of labelled frames, all frames listed, one person per labelled one."""
    videos = tuple(Video(f"v{i}", length, first) for i in range(len(labelled)))
    video = np.repeat(np.arange(len(labelled)), length)
    number = np.tile(np.arange(first, first + length)[::-1], len(labelled))
    is_labelled = [n in labelled[v] for v, n in zip(video.tolist(), number.tolist(), strict=True)]
    rows = np.flatnonzero(is_labelled)
    frames = Frames.make(videos, video, number, labelled=is_labelled)
    people = People.make(rows, np.ones((len(rows), 1, 3)), np.ones((len(rows), 4)))
    return PoseDataset(ONE, videos, frames, people)


def left(dataset):
    """Labelled frames of each video."""
    frames = dataset.frames
    assert set(np.unique(dataset.people.frame)) == set(np.flatnonzero(frames.labelled))
    return [
        sorted(frames.number[frames.labelled & (frames.video == v)].tolist())
        for v in range(len(dataset.videos))
    ]


def test_longest_run():
    dataset = make([1, 5, 6, 7, 20, 21], [3, 4, 9, 10], [], [2])
    assert left(longest_runs(dataset)) == [[5, 6, 7], [3, 4], [], [2]]
    assert len(longest_runs(dataset).frames) == len(dataset.frames)


def test_every_seventh_from_the_fourth():
    run = list(range(10, 40))  # 30 frames: places 3, 10, 17, 24 of 0..29, and 29, 5 behind 24
    assert left(posetrack_protocol(make([2, 3, *run, 50]))) == [[13, 20, 27, 34, 39]]
    run = list(range(10, 38))  # 28 frames: 27 is 3 behind 24
    assert left(posetrack_protocol(make(run))) == [[13, 20, 27, 34]]


@pytest.mark.parametrize("length", range(24))
def test_frames_are_near_a_label(length):
    """Whatever the length of the run, nothing is farther than 3 frames from a label at its ends."""
    run = list(range(5, 5 + length))
    (chosen,) = left(posetrack_protocol(make(run)))
    assert bool(chosen) == bool(run) and set(chosen) <= set(run)
    if length > 3:  # with shorter runs the 2019 system stops
        seventh = [run[i] for i in range(3, length, 7)]
        end = [run[-1]] if run[-1] > seventh[-1] + 3 else []
        assert chosen == seventh + end
    assert all(min(abs(n - c) for c in chosen) <= 3 for n in run)


def test_other_steps():
    run = list(range(1, 11))
    assert left(posetrack_protocol(make(run), 4)) == [[3, 7, 10]]
    assert left(posetrack_protocol(make(run), 1)) == [run]
    assert left(posetrack_protocol(make([1, 2]), 30)) == [[2]]
    with pytest.raises(ValueError, match=r"step >= 1, got 0"):
        posetrack_protocol(make(run), 0)
