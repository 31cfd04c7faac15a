"""PCK of two data sets against a slow loop: pairing by track, three lengths, who is left out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.evaluation import aligned_keypoints, compare_datasets
from posewarper.skeleton import Skeleton

SKELETON = Skeleton("four", ("nose", "neck", "left_hand", "right_hand"))
THRESHOLDS = (0.05, 0.1, 0.3)


def dataset(places, tracks, keypoints, boxes, heads=None, videos=("a", "b"), source="truth.json"):
    """People at places (video, frame number)."""
    table = tuple(Video(name, 9) for name in videos)
    listed = sorted(set(places))
    frames = Frames.make(
        table, [videos.index(video) for video, _ in listed], [number for _, number in listed]
    )
    rows = [listed.index(place) for place in places]
    people = People.make(rows, keypoints, boxes, track_id=tracks, head_box=heads)
    return PoseDataset(SKELETON, table, frames, people, source)


@pytest.fixture
def pair():
    """Eight people far from the origin. The predicted ones come in another order, with the videos
    exchanged; the truth's last is not predicted, one predicted is not in the truth.
    """
    rng = np.random.default_rng(2)
    places = [("a", 0), ("a", 0), ("a", 4), ("a", 4), ("b", 0), ("b", 0), ("b", 4), ("b", 5)]
    tracks = [0, 7, 0, 7, 0, 7, 0, 0]  # the same ids in every frame and video
    keypoints = np.full((8, 4, 3), 2.0)
    keypoints[..., :2] = rng.uniform(900, 1050, (8, 4, 2))
    keypoints[:, 1, 2] = 1  # occluded joints count
    keypoints[[0, 3], 2] = 0
    keypoints[5, :3] = 0
    keypoints[5, 3] = 0
    boxes = np.concatenate([rng.uniform(800, 900, (8, 2)), rng.uniform(50, 200, (8, 2))], 1)
    corners = rng.uniform(900, 950, (8, 2))
    heads = np.concatenate([corners, corners + rng.uniform(30, 60, (8, 2))], 1)
    heads[2] = np.nan
    truth = dataset(places, tracks, keypoints, boxes, heads)

    order = [6, 3, 0, 5, 1, 4, 2]
    moved = keypoints[order] + [0, 0, 1]
    moved[..., :2] += rng.normal(0, 8, (7, 4, 2))
    moved[:, 0, 2] = [0, 1, 2, 1, 0, 2, 1]  # 0: not predicted
    extra = np.full((1, 4, 3), 1.0)
    predicted = dataset(
        [places[i] for i in order] + [("a", 5)],
        [tracks[i] for i in order] + [0],
        np.concatenate([moved, extra]),
        np.ones((8, 4)),  # boxes and heads of predictions are not looked at
        videos=("b", "a"),
        source="predicted.json",
    )
    return truth, predicted


def everybody(data):
    """Row by (video, frame, track)."""
    frames, people = data.frames, data.people
    return {
        (data.videos[frames.video[f]].name, frames.number[f], t): row
        for row, (f, t) in enumerate(zip(people.frame, people.track_id, strict=True))
    }


def length_of(truth, row, kind):
    people = truth.people
    if kind == "head":
        x1, y1, x2, y2 = people.head_box[row]
        return 0.6 * math.hypot(x2 - x1, y2 - y1)
    if kind == "box":
        return max(people.bbox[row, 2:])
    points = [k[:2] for k in people.keypoints[row] if k[2] > 0]
    return max((max(p[i] for p in points) - min(p[i] for p in points) for i in (0, 1)), default=0)


def slow_pck(truth, predicted, kind):
    """[K, J] percent, [J] labels, and labels without a length."""
    there = everybody(predicted)
    right, labels, excluded = np.zeros((len(THRESHOLDS), 4)), np.zeros(4), 0
    for key, row in everybody(truth).items():
        for joint in range(4):
            x, y, visible = truth.people.keypoints[row, joint]
            if visible == 0:
                continue
            length = length_of(truth, row, kind)
            if math.isnan(length):
                excluded += 1
                continue
            labels[joint] += 1
            if key not in there:
                continue
            u, v, found = predicted.people.keypoints[there[key], joint]
            for k, threshold in enumerate(THRESHOLDS):
                right[k, joint] += found > 0 and math.hypot(u - x, v - y) <= threshold * length
    return 100 * right / labels, labels, excluded


@pytest.mark.parametrize("lengths", ["head", "box", "extent"])
def test_pck_equals_the_slow_loop(pair, lengths):
    got = compare_datasets(*pair, lengths=lengths, thresholds=THRESHOLDS)
    expected, labels, excluded = slow_pck(*pair, lengths)
    np.testing.assert_allclose(got.pck, expected)
    assert got.labels.tolist() == labels.tolist() and got.joints == SKELETON.joints
    assert got.excluded == excluded == (4 if lengths == "head" else 0)
    assert got.mean[0] < got.mean[2] < 100  # the limits lie among the distances


def test_head_boxes_are_corners():
    """A head of 30 x 40 pixels at (1000, 2000): PCKh@0.5 allows 15 pixels, wherever it lies."""
    keypoints = np.array([[(1000, 2000, 1)] * 4], float)
    truth = dataset([("a", 0)], [0], keypoints, [(0, 0, 9, 9)], [(1000, 2000, 1030, 2040)])
    off = keypoints + np.array([(14.9, 0, 0), (0, 15.1, 0), (9, -12, 0), (30, 30, 0)])
    predicted = dataset([("a", 0)], [0], off, [(0, 0, 9, 9)])
    assert compare_datasets(truth, predicted).pck.tolist() == [[100, 0, 100, 0]]


def test_aligned_keypoints(pair):
    truth, predicted = pair
    found = aligned_keypoints(truth, predicted)
    assert found.shape == (8, 4, 2)
    for row, at in enumerate([2, 4, 6, 1, 5, 3, 0]):
        points = predicted.people.keypoints[at]
        for joint in range(4):
            expected = points[joint, :2] if points[joint, 2] > 0 else [np.nan] * 2
            np.testing.assert_array_equal(found[row, joint], expected)
    assert np.isnan(found[7]).all()  # nobody is predicted there
    assert np.isnan(found[:7]).all((1, 2)).sum() == 0 and np.isnan(found[6, 0]).all()


def test_nobody_is_predicted(pair):
    truth, predicted = pair
    nobody = predicted.select(people=np.zeros(0, np.int64))
    got = compare_datasets(truth, nobody, lengths="box")
    assert got.pck.tolist() == [[0] * 4] and got.labels.sum() == 4 * 8 - 2 - 4


def test_a_head_box_for_nobody(pair):
    truth, predicted = pair
    people = replace(truth.people, head_box=np.full((8, 4), np.nan))
    got = compare_datasets(replace(truth, people=people), predicted)
    assert np.isnan(got.pck).all() and got.labels.sum() == 0 and got.excluded == 26


def test_errors(pair):
    truth, predicted = pair
    with pytest.raises(ValueError, match=r"lengths: expected 'head', 'box' or 'extent', got 'arm'"):
        compare_datasets(truth, predicted, lengths="arm")
    other = replace(predicted, skeleton=Skeleton("other", ("nose", "neck", "right_hand", "tail")))
    with pytest.raises(ValueError, match=r"predicted\.json: expected the joints of truth\.json"):
        aligned_keypoints(truth, other)
    tracks = truth.people.track_id.copy()
    tracks[1] = 0  # as row 0, of the same frame
    twice = replace(truth, people=replace(truth.people, track_id=tracks))
    message = r"truth\.json: annotation 2: track_id 0 occurs twice in frame 0 of 'a'"
    for arguments in ((twice, predicted), (predicted, twice)):
        with pytest.raises(ValueError, match=message):
            compare_datasets(*arguments)
    tracks[1] = -1
    nobody = replace(truth, people=replace(truth.people, track_id=tracks))
    with pytest.raises(ValueError, match=r"truth\.json: annotation 2 has no track_id"):
        compare_datasets(nobody, predicted)
