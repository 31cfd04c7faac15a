"""Frames to label next: where confidence is low, spread out, and never a labelled one."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest

from posewarper.data.annotations import save_coco
from posewarper.data.formats.label_file import boxes_of_joints
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.inference.suggestion import choose_frames, suggest, uncertainties
from posewarper.skeleton import Skeleton

JOINTS = Skeleton("mouse", ("nose", "ear", "tail"))


def dense(scores, labelled=(), tracks=None, names=("clip",), first=0):
    """Videos in which each track of the list has scores [T] or [T, 3] (NaN: not there)."""
    scores = [np.asarray(s, float) for s in scores]
    tracks = [(0, 0)] if tracks is None else tracks  # (video, id)
    length = len(scores[0])
    videos = tuple(Video(name, length, first, "", f"{name}.mp4") for name in names)
    place, kept, ids = [], [], []
    for (video, track), of_track in zip(tracks, scores, strict=True):
        joints = np.broadcast_to(of_track.reshape(length, -1), (length, 3))
        for t in np.flatnonzero(np.isfinite(joints).any(1)).tolist():
            place.append(video * length + t)
            kept.append(np.full(3, np.nan) if (video, t + first) in labelled else joints[t])
            ids.append(track)
    order = np.argsort(place, kind="stable")
    points = np.tile([[[9.0, 9, 2], [20, 12, 2], [30, 30, 2]]], (len(place), 1, 1))
    frames = Frames.make(
        videos,
        np.repeat(range(len(videos)), length),
        np.tile(np.arange(length) + first, len(videos)),
        size_wh=(64, 48),
    )
    people = People.make(
        np.array(place)[order],
        points,
        boxes_of_joints(points),
        track_id=np.array(ids)[order],
        joint_scores=np.array(kept)[order],
    )
    return PoseDataset(JOINTS, videos, frames, people, "labels.json")


def bump(length=200, centre=120, width=20.0, base=0.05, height=0.8):
    t = np.arange(length)
    return 1 - (base + height * np.exp(-0.5 * ((t - centre) / width) ** 2))


def test_uncertainty_counts_bad_joints_for_more():
    scores = np.array([[0.5, 0.5], [1.0, 0.0], [np.nan, 0.2], [np.nan, np.nan], [1.3, 1.0]])
    np.testing.assert_allclose(uncertainties(scores), [0.5, np.sqrt(0.5), 0.8, 0, 0])


def test_chosen_frames_lie_in_the_bump_and_are_spread():
    labelled = {(0, t) for t in range(0, 200, 10)}
    found = choose_frames(dense([bump()], labelled), count=6)
    numbers = [s.frame for s in found]
    assert len(numbers) == 6 and all(abs(n - 120) <= 40 for n in numbers)
    assert numbers[0] in range(110, 131)
    assert not {(0, n) for n in numbers} & labelled
    apart = np.diff(sorted(numbers))
    assert apart.min() >= 5
    gains = [s.gain for s in found]
    assert gains == sorted(gains, reverse=True)
    # They lie between the labels, not beside them.
    assert all(2 < n % 10 < 8 for n in numbers)


def test_they_lower_the_uncertainty_more_than_even_or_random_ones():
    """By the stated rule, written down once more."""
    labelled = {(0, t) for t in range(0, 200, 20)}
    scores = np.minimum(bump(centre=60), bump(centre=150, width=8))
    unsure = np.sqrt(np.square(1 - scores))
    chosen = choose_frames(dense([scores], labelled), count=5)

    def left(extra):
        at = np.array(sorted({t for _, t in labelled} | set(extra)))
        nearest = np.abs(np.arange(200)[:, None] - at).min(1)
        spared = unsure * np.minimum(nearest / 20, 1)
        spared[[t for _, t in labelled]] = 0  # these have no scores
        return spared.sum()

    ours = left([s.frame for s in chosen])
    assert left([]) - ours == pytest.approx(sum(s.gain for s in chosen))
    assert sum(s.share for s in chosen) == pytest.approx(1 - ours / left([]))
    assert ours < left([10, 50, 90, 130, 170])
    random = np.random.default_rng(0)
    assert all(ours < left(random.choice(200, 5, replace=False).tolist()) for _ in range(100))


@pytest.mark.parametrize("seed", range(4))
def test_greedy_choice_is_the_best_single_frame_each_time(seed):
    """Against gains computed frame by frame, with two tracks that come and go."""
    random = np.random.default_rng(seed)
    scores = [random.random((30, 3)), random.random((30, 3))]
    scores[1][8:15] = np.nan
    scores[0][random.integers(0, 30, 4), 1] = np.nan
    labelled = {(0, int(t)) for t in random.choice(30, 3, replace=False)}
    data = dense(scores, labelled, [(0, 4), (0, 9)])
    gap = int(random.integers(1, 9))
    known = {4: set(), 9: set()}
    unsure = {4: np.zeros(30), 9: np.zeros(30)}
    there = {4: set(), 9: set()}
    for frame, track, of in zip(
        data.people.frame.tolist(),
        data.people.track_id.tolist(),
        data.people.joint_scores,
        strict=True,
    ):
        there[track].add(frame)
        if (0, frame) in labelled:
            known[track].add(frame)
        else:
            unsure[track][frame] = np.sqrt(np.nanmean((1 - of) ** 2))

    def left(labels):
        sums = 0.0
        for track, at in labels.items():
            for t in range(30):
                share = min([1.0, *(abs(t - n) / gap for n in at)])
                sums += unsure[track][t] * share
        return sums

    for suggestion in choose_frames(data, 8, gap):
        before = left(known)
        gains = {
            t: before - left({k: at | ({t} & there[k]) for k, at in known.items()})
            for t in range(30)
            if (0, t) not in labelled
        }
        assert suggestion.gain == pytest.approx(max(gains.values()))
        assert gains[suggestion.frame] == pytest.approx(max(gains.values()))
        known = {k: at | ({suggestion.frame} & there[k]) for k, at in known.items()}


def test_never_a_labelled_frame_and_nothing_twice():
    labelled = {(0, t) for t in (3, 4, 5, 12)}
    scores = np.full(20, 0.2)
    found = choose_frames(dense([scores], labelled), count=50, gap=1)
    assert sorted(s.frame for s in found) == [t for t in range(20) if (0, t) not in labelled]
    wide = choose_frames(dense([scores], labelled), count=50, gap=10**9)
    assert not {(0, s.frame) for s in wide} & labelled


def test_certain_frames_are_not_listed():
    scores = np.ones(40)
    scores[20:23] = 0.3
    found = choose_frames(dense([scores], {(0, 0), (0, 39)}), count=10, gap=4)
    assert found[0].frame == 21
    assert all(17 < s.frame < 26 for s in found) and len(found) < 10


def test_several_videos_and_tracks():
    calm, wild = np.full(60, 0.9), bump(60, 30, 4.0)
    data = dense(
        [calm, wild, calm, calm], set(), [(0, 0), (1, 0), (1, 1), (0, 1)], ("a", "b"), first=1
    )
    found = choose_frames(data, 1, gap=5)
    assert found[0].video == "b" and found[0].frame == 31
    assert [w.track_id for w in found[0].worst] == [0, 0, 0]
    # Two who are unsure in different frames: a frame that shows both helps both.
    one, other = np.full(60, 0.9), np.full(60, 0.9)
    one[10:20], other[14:24] = 0.4, 0.4
    found = choose_frames(dense([one, other], set(), [(0, 0), (0, 1)]), 1, gap=3)
    assert 14 <= found[0].frame < 20


def test_a_label_of_one_track_tells_nothing_about_another():
    scores = np.full((2, 21), 0.5)
    scores[1, :10] = np.nan  # the second one comes later
    data = dense(scores, {(0, 5)}, [(0, 0), (0, 1)])
    found = choose_frames(data, 2, gap=20)
    assert found[0].frame >= 10


def test_frames_that_lack_a_track_do_not_help_it():
    one, other = np.ones(13), np.full(13, np.nan)
    one[6] = 0.9  # of the two, this frame alone shows the first one unsure, and not the second
    other[[3, 4, 5, 7, 8, 9]] = 0.2
    found = choose_frames(dense([one, other], set(), [(0, 0), (0, 1)]), 1, gap=5)
    assert found[0].frame == 5


def test_frames_of_which_part_is_labelled_are_not_listed():
    one, other = np.full(12, 0.9), np.full(12, 0.9)
    other[6] = 0.1
    data = dense([one, other], set(), [(0, 0), (0, 1)])
    row = np.flatnonzero((data.people.frame == 6) & (data.people.track_id == 0))
    data.people.joint_scores[row] = np.nan
    assert 6 not in [s.frame for s in choose_frames(data, 12, gap=2)]


def test_the_default_gap_is_the_distance_of_the_labels():
    labelled = {(0, t) for t in (0, 8, 16, 24, 60)}
    data = dense([bump(80, 40, 10)], labelled)
    assert choose_frames(data, 4) == choose_frames(data, 4, gap=8)
    nobody = dense([bump(80, 40, 10)])
    assert choose_frames(nobody, 4) == choose_frames(nobody, 4, gap=16)
    assert choose_frames(dense([[0.5]]), 4)[0].frame == 0


def test_worst_joints():
    scores = np.full((30, 3), 0.95)
    scores[15] = 0.5, 0.1, 0.3
    found = choose_frames(dense([scores], {(0, 0), (0, 29)}), 1, gap=2)
    assert [(w.joint, w.score) for w in found[0].worst] == [
        ("ear", 0.1),
        ("tail", 0.3),
        ("nose", 0.5),
    ]


def test_command(tmp_path, capsys):
    save_coco(dense([bump()], {(0, t) for t in range(0, 200, 10)}), tmp_path / "labels.json")
    found = suggest(tmp_path / "labels.json", tmp_path / "out" / "next.csv", count=3, fps=25)
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].split() == ["video", "frame", "time", "gain", "least", "sure", "joints"]
    first = found[0]
    assert first.seconds == first.frame / 25
    assert lines[1].split()[:4] == ["clip", str(first.frame), f"0:{first.seconds:05.2f}",
                                    f"{100 * first.share:.1f}"]  # fmt: skip
    assert "nose of 0 0." in lines[1]
    with open(tmp_path / "out" / "next.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frame"]) for row in rows] == [s.frame for s in found]
    again = suggest(tmp_path / "labels.json", tmp_path / "next.json", count=3)
    data = json.loads((tmp_path / "next.json").read_text())
    assert [entry["frame"] for entry in data] == [s.frame for s in again]
    assert [entry["frame"] for entry in data] == [s.frame for s in found]
    assert data[0]["seconds"] is None and data[0]["worst"][0]["joint"] == "nose"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["next.csv"]


def test_times_come_from_the_video_file(tmp_path):
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 8, (64, 48)
    )
    for _ in range(30):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    save_coco(dense([bump(30, 16, 3)], {(0, 0), (0, 29)}), tmp_path / "labels.json")
    found = suggest(tmp_path / "labels.json", count=1, images=tmp_path)
    assert found[0].seconds == pytest.approx(found[0].frame / 8)
    with pytest.raises(ValueError, match="is no folder"):
        suggest(tmp_path / "labels.json", images=tmp_path / "nothing")


def test_bad_input(tmp_path):
    human = dense([np.full(5, 0.5)], {(0, t) for t in range(5)})
    save_coco(human, tmp_path / "human.json")
    with pytest.raises(ValueError, match=r"human.json: no confidences: .*got 5 people without"):
        suggest(tmp_path / "human.json")
    data = dense([np.full(5, 0.5)])
    save_coco(data, tmp_path / "dense.json")
    for count, gap in ((0, None), (3, 0)):
        with pytest.raises(ValueError, match="count and gap: expected at least 1"):
            suggest(tmp_path / "dense.json", count=count, gap=gap)
    with pytest.raises(ValueError, match=r"out: expected a name that ends in .csv or .json"):
        suggest(tmp_path / "dense.json", tmp_path / "next.txt")
    with pytest.raises(ValueError, match="fps: expected a number above 0, got 0"):
        suggest(tmp_path / "dense.json", fps=0)
    with pytest.raises(FileNotFoundError, match=r"none.json"):
        suggest(tmp_path / "none.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dense.json", "human.json"]
