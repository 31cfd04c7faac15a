"""Sparse selections and statistics."""

from __future__ import annotations

import numpy as np
import pytest

from posewarper.data.sparsify import choose_videos, every_kth, frames_per_video, statistics
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.skeleton import Skeleton

TWO = Skeleton("two", ("a", "b"))


def make(lengths=(10, 7, 3), hidden=()):
    """Videos of these lengths, frames in reverse order, one person per frame; ``hidden`` holds
    (video, number) of frames that are not labelled."""
    videos = tuple(Video(f"v{i}", n) for i, n in enumerate(lengths))
    video = np.repeat(np.arange(len(lengths)), lengths)
    number = np.concatenate([np.arange(n)[::-1] for n in lengths])
    labelled = [pair not in hidden for pair in zip(video.tolist(), number.tolist(), strict=True)]
    rows = np.flatnonzero(labelled)
    keypoints = np.ones((len(rows), 2, 3))
    keypoints[:, 1, 2] = np.arange(len(rows)) % 2
    frames = Frames.make(videos, video, number, labelled=labelled)
    boxes = np.ones((len(rows), 4))
    people = People.make(rows, keypoints, boxes, track_id=np.arange(len(rows)) % 3)
    return PoseDataset(TWO, videos, frames, people)


def labelled(dataset):
    """Numbers of labelled frames per video; checks that only those have people."""
    frames = dataset.frames
    with_people = np.zeros(len(frames), bool)
    with_people[dataset.people.frame] = True
    np.testing.assert_array_equal(with_people, frames.labelled)
    return [
        sorted(frames.number[frames.labelled & (frames.video == v)].tolist())
        for v in range(len(dataset.videos))
    ]


def test_every_kth():
    assert labelled(every_kth(make(), 4)) == [[0, 4, 8], [0, 4], [0]]
    assert labelled(every_kth(make(), 4, offset=2)) == [[2, 6], [2, 6], [2]]
    hidden = {(0, 0), (0, 1), (0, 5)}  # of the labelled 2 3 4 6 7 8 9 each third
    assert labelled(every_kth(make(hidden=hidden), 3)) == [[2, 6, 9], [0, 3, 6], [0]]
    assert len(every_kth(make(), 4).frames) == 20  # the others stay, unlabelled


def test_frames_per_video_even():
    assert labelled(frames_per_video(make(), 1)) == [[5], [3], [1]]
    assert labelled(frames_per_video(make(), 2)) == [[2, 7], [1, 5], [0, 2]]
    assert labelled(frames_per_video(make(), 5))[2] == [0, 1, 2]  # all that there are


def test_frames_per_video_random():
    first = labelled(frames_per_video(make(), 3, "random", seed=1))
    assert [len(v) for v in first] == [3, 3, 3]
    assert first == labelled(frames_per_video(make(), 3, "random", seed=1))
    others = {str(labelled(frames_per_video(make(), 3, "random", seed=s))) for s in range(8)}
    assert len(others) > 4
    # a video's choice does not depend on its neighbours
    alone = make().select(videos=np.array([1]))
    assert labelled(frames_per_video(alone, 3, "random", seed=1))[0] == first[1]


def test_frames_without_people_are_not_chosen():
    dataset = make((3,)).select(people=np.array([0]))  # row 0 is frame 2
    assert labelled(frames_per_video(dataset, 1)) == [[2]]


def test_choose_videos():
    hidden = {(2, n) for n in range(3)}
    dataset = make((2,) * 30, hidden)
    names = [[v.name for v in choose_videos(dataset, n, seed=3).videos] for n in (5, 5, 12)]
    assert names[0] == names[1] and set(names[0]) < set(names[2])
    assert names[2] == sorted(names[2], key=lambda name: int(name[1:]))  # order of the file
    assert all("v2" not in chosen for chosen in names)
    chosen = choose_videos(dataset, 5, seed=3)
    assert (len(chosen.frames), len(chosen.people)) == (10, 10)
    assert choose_videos(dataset, 29).videos == tuple(v for v in dataset.videos if v.name != "v2")


@pytest.mark.parametrize(
    "call",
    [
        lambda d: every_kth(d, 0),
        lambda d: every_kth(d, 2, -1),
        lambda d: frames_per_video(d, 0),
        lambda d: frames_per_video(d, 1, "middle"),
        lambda d: choose_videos(d, 4),
    ],
)
def test_bad_arguments(call):
    with pytest.raises(ValueError, match="expected"):
        call(make())


def test_statistics():
    dataset = every_kth(make(), 4)
    got = statistics(dataset)
    assert (got.videos, got.frames, got.labelled_frames, got.people) == (3, 20, 6, 6)
    assert got.labelled_share == pytest.approx(0.3)
    # video 0 has rows 9, 5, 1 (tracks 0, 2, 1), video 1 rows 16, 12 (1, 0), video 2 row 19 (1)
    assert got.tracks == 6
    assert got.visible["a"] == 1 and got.visible["b"] == pytest.approx(4 / 6)
    assert got.joints == 6 + 4
    assert set(got.as_dict()) >= {"videos", "labelled_share"}
    assert statistics(make().select(people=np.array([], int))).people == 0
