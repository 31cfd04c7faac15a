"""Whom labels reach, against a slow search frame by frame; what becomes of ids, boxes, frames.

The poses are copies and interpolations here: every method shares these rules.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.dataset import usable_people
from posewarper.data.tables import Frames, People, PoseDataset, Regions, Video
from posewarper.data.tracks import labels_of
from posewarper.inference.baselines import Poses
from posewarper.inference.propagation import (
    PropagationOptions,
    Propagator,
    make_propagator,
    propagate_labels,
)
from posewarper.skeleton import Skeleton

THREE = Skeleton("three", ("nose", "left_hand", "right_hand"))
ONE_VIDEO = (Video("v", 12),)
BASE = np.array([[50.0, 20], [40, 60], [60, 60]])  # box 30, 10, 40, 60
HEAD = np.array([45.0, 12, 55, 28])

copied = partial(propagate_labels, source=None, method="copy", progress=False)
linear = partial(propagate_labels, source=None, method="linear", progress=False)


def make(people, videos=ONE_VIDEO, empty=(), **columns):
    """People are (video, frame, track, (dx, dy)); frames in ``empty`` are labelled without people.
    Listed are labelled frames only, from the last to the first."""
    places = sorted({(v, n) for v, n, _, _ in people} | set(empty), reverse=True)
    frames = Frames.make(videos, [v for v, _ in places], [n for _, n in places], size_wh=(200, 150))
    shifts = np.array([shift for _, _, _, shift in people], float).reshape(-1, 1, 2)
    keypoints = np.concatenate([BASE + shifts, np.full((len(people), 3, 1), 2.0)], 2)
    columns = {
        "bbox": np.concatenate([shifts[:, 0] + [30, 10], np.tile([40.0, 60], (len(people), 1))], 1),
        "head_box": np.tile(shifts[:, 0], 2) + HEAD,
        "track_id": [track for _, _, track, _ in people],
        "keypoints": keypoints,
        **columns,
    }
    rows = [places.index((v, n)) for v, n, _, _ in people]
    return PoseDataset(THREE, tuple(videos), frames, People.make(rows, **columns))


def found(dataset, video=0):
    """{(frame, track): x of the nose}; checks what holds for every result."""
    frames, people = dataset.frames, dataset.people
    assert (np.diff(frames.number)[np.diff(frames.video) == 0] > 0).all()
    with_people = np.bincount(people.frame, minlength=len(frames)) > 0
    assert (frames.labelled | ~with_people).all()
    predicted = people.predicted
    assert np.isfinite(people.score[predicted]).all() and np.isnan(people.score[~predicted]).all()
    seen = people.keypoints[:, :, 2] > 0
    assert (np.isfinite(people.joint_scores[predicted]) == seen[predicted]).all()
    assert seen.any(1)[predicted].all()
    places = {}
    for row in np.flatnonzero(frames.video[people.frame] == video).tolist():
        person = int(frames.number[people.frame[row]]), int(people.track_id[row])
        assert person not in places or person[1] == -1
        places[person] = float(people.keypoints[row, 0, 0])
    return places


def test_every_frame_gets_the_nearest_label_the_earlier_of_two():
    dataset = make([(0, 3, 7, (0, 0)), (0, 9, 7, (10, 0))])
    places = found(copied(dataset))
    assert places == {(n, 7): 50 if n <= 6 else 60 for n in range(12)}


def test_interpolation_is_linear_between_labels_and_constant_beyond():
    dataset = make([(0, 2, 7, (0, 0)), (0, 7, 7, (10, -5)), (0, 9, 7, (20, 0))])
    result = linear(dataset)
    assert len(result.people) == 12
    for row, frame in enumerate(result.people.frame.tolist()):
        number = result.frames.number[frame]
        shift = [np.interp(number, [2, 7, 9], of) for of in ([0, 10, 20], [0, -5, 0])]
        np.testing.assert_allclose(result.people.keypoints[row, :, :2], BASE + shift, atol=1e-9)
        np.testing.assert_allclose(result.people.bbox[row], [30 + shift[0], 10 + shift[1], 40, 60])
        head = HEAD + np.tile(shift, 2)
        np.testing.assert_allclose(result.people.head_box[row], head)


def test_human_labels_stay_as_they_are():
    dataset = make(
        [(0, 3, 7, (0, 0)), (0, 3, -1, (60, 0)), (0, 9, 7, (10, 0))],
        annotation_id=[40, 7, 12], area=[5.0, 6, 7], score=np.full(3, np.nan),
    )  # fmt: skip
    result = copied(dataset)
    kept = result.people[~result.people.predicted]
    order = [int(np.flatnonzero(kept.annotation_id == i)[0]) for i in (40, 7, 12)]
    for field in fields(People):
        if field.name != "frame":
            expected, got = getattr(dataset.people, field.name), getattr(kept, field.name)[order]
            np.testing.assert_array_equal(got, expected, err_msg=field.name)
    assert result.frames.number[kept.frame[order]].tolist() == [3, 3, 9]
    new = result.people.annotation_id[result.people.predicted]
    assert new.min() == 41 and len(set(new.tolist())) == len(new)
    again = copied(result)  # what was predicted before is forgotten
    for field in fields(People):
        np.testing.assert_array_equal(
            getattr(again.people, field.name), getattr(result.people, field.name)
        )


def test_somebody_who_leaves_is_not_carried_across():
    dataset = make(
        [(0, 1, 1, (0, 0)), (0, 1, 2, (9, 0)), (0, 7, 2, (9, 0)), (0, 10, 1, (5, 0))],
        empty=[(0, 11)],
    )
    places = found(copied(dataset))
    assert {n for n, track in places if track == 1} == {0, 1, 2, 3, 4, 5, 6, 8, 9, 10}
    assert {n for n, track in places if track == 2} == {*range(10)}
    places = found(copied(dataset, leaving="halfway"))
    # Frame 4 is as far from 1 as from 7: the earlier one counts.
    assert {n for n, track in places if track == 1} == {0, 1, 2, 3, 4, 9, 10}
    assert {n for n, track in places if track == 2} == {*range(9)}


def test_people_without_a_track_belong_to_their_nearest_labelled_frame():
    dataset = make([(0, 3, -1, (0, 0)), (0, 3, -1, (30, 0)), (0, 9, -1, (10, 0))])
    for method in (copied, linear):
        result = method(dataset)
        of_frame = result.people_by_frame()
        noses = [sorted(result.people.keypoints[rows, 0, 0].tolist()) for rows in of_frame]
        assert noses == [[50, 80]] * 7 + [[60]] * 5
        assert set(result.people.track_id.tolist()) == {-1}


def slow_search(dataset, sources, distance, leaving):
    """For each video {(frame, person): labelled frames that tell about it}, by looking outwards
    from every frame, one step at a time."""
    frames, people = dataset.frames, dataset.people
    result = []
    for v, video in enumerate(dataset.videos):
        inside = {}  # labelled frame -> people
        for row in np.flatnonzero((frames.video == v) & frames.labelled).tolist():
            inside[int(frames.number[row])] = {
                (int(t), 0) if t >= 0 else (-1, int(i))
                for t, i in zip(
                    people.track_id[people.frame == row].tolist(),
                    people.annotation_id[people.frame == row].tolist(),
                    strict=True,
                )
            }
        persons = set().union(*inside.values()) if inside else set()
        told = {}
        for number in range(video.first_frame, video.last_frame + 1):
            for person in persons if number not in inside else ():
                steps, met = {}, {}
                for way in (-1, 1):
                    n = number + way
                    while video.first_frame <= n <= video.last_frame and n not in inside:
                        n += way
                    if n in inside:
                        met[way] = abs(n - number)
                        # a frame on whose way the person is not missed
                        if person in inside[n]:
                            steps[way] = n
                if not steps:
                    continue
                near = min(steps.values(), key=lambda n: (abs(n - number), n))
                if distance is not None and abs(near - number) > distance:
                    continue
                any_near = min(met.items(), key=lambda item: (item[1], item[0]))[0]
                if (leaving == "halfway" or person[0] < 0) and any_near not in steps:
                    continue
                both = sources == "both"
                told[number, person] = sorted(steps.values()) if both else [near]
        result.append(told)
    return result


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sources", ("nearest", "both"))
def test_labels_reach_the_frames_that_a_slow_search_finds(seed, sources):
    rng = np.random.default_rng(seed)
    videos = tuple(Video(f"v{i}", 20, i) for i in range(3))
    people, empty = [], []
    for v in range(3):
        for n in rng.choice(20, rng.integers(0, 7), replace=False) + v:
            tracks = [t for t in (-1, 0, 1, 2) if rng.random() < 0.6]
            people += [(v, int(n), t, (int(n), 10 * t)) for t in tracks]
            empty += [] if tracks else [(v, int(n))]
    dataset = make(people, videos, empty)
    method = copied if sources == "nearest" else linear
    for distance, leaving in ((None, "label"), (None, "halfway"), (3, "label"), (1, "halfway")):
        result = method(dataset, distance=distance, leaving=leaving)
        for v, told in enumerate(slow_search(dataset, sources, distance, leaving)):
            expected = {}
            for (number, (track, _)), numbers in told.items():
                x = np.interp(number, numbers, [50.0 + n for n in numbers])
                expected[number, track] = pytest.approx(x)
            for row in np.flatnonzero(dataset.frames.video[dataset.people.frame] == v):
                number = int(dataset.frames.number[dataset.people.frame[row]])
                expected[number, int(dataset.people.track_id[row])] = 50.0 + number
            assert found(result, v) == expected


def test_few_labels_and_short_videos():
    one = make([(0, 5, 1, (0, 0))])
    assert set(found(copied(one))) == set(found(linear(one))) == {(n, 1) for n in range(12)}
    assert set(found(copied(one, distance=2))) == {(n, 1) for n in range(3, 8)}
    assert len(copied(one, distance=2).frames) == 12  # the others are there, unlabelled
    alone = make([(0, 0, 1, (0, 0))], (Video("v", 1),))
    assert found(copied(alone)) == {(0, 1): 50.0}
    one_based = make([(0, 1, 1, (0, 0)), (0, 4, 1, (3, 0))], (Video("v", 4, 1),))
    assert found(linear(one_based)) == {(n, 1): pytest.approx(49.0 + n) for n in range(1, 5)}
    nobody = make([], empty=[(0, 3)])
    assert len(copied(nobody).people) == 0


def test_ids_of_new_frames():
    videos = (Video("a", 4), Video("b", 3, 1))
    dataset = make([(0, 2, 1, (0, 0)), (1, 1, 1, (0, 0))], videos)
    official = replace(dataset.frames, frame_id=np.array([20001, 10002]))
    result = copied(replace(dataset, frames=official)).frames
    assert result.frame_id.tolist() == [10000, 10001, 10002, 10003, 20001, 20002, 20003]
    assert result.image_id.tolist() == [3, 4, 2, 5, 1, 6, 7]  # those of the file stay
    same = replace(official, image_id=official.frame_id)
    result = copied(replace(dataset, frames=same)).frames
    assert result.image_id.tolist() == result.frame_id.tolist()
    assert result.file_name[0] == "a/000000.jpg" and result.file_name[-1] == "b/000003.jpg"
    assert (result.size_wh == (200, 150)).all()


def test_rows_of_the_file_keep_their_columns(tmp_path):
    dataset = make([(0, 2, 1, (0, 0)), (0, 9, 1, (4, 0))])
    polygons = [[], [np.array([[1.0, 2], [3, 4], [5, 0]])]]
    names = ("v/000009.jpg", "v/000002.jpg")
    frames = replace(dataset.frames, ignore=Regions.make(polygons), original_file_name=names)
    result = copied(replace(dataset, frames=frames))
    assert [len(result.frames.ignore.of(row)) for row in range(12)] == [0, 0, 1] + [0] * 9
    np.testing.assert_array_equal(result.frames.ignore.of(2)[0], polygons[1][0])
    assert result.frames.original_file_name[2] == names[1]
    save_coco(result, tmp_path / "out.json")
    again = load_coco(tmp_path / "out.json")
    for table in ("frames", "people"):
        for field in fields(getattr(result, table)):
            if field.name != "ignore":
                np.testing.assert_array_equal(
                    getattr(getattr(again, table), field.name),
                    getattr(getattr(result, table), field.name),
                    err_msg=field.name,
                )


def test_joints_without_label_and_joints_of_one_side():
    dataset = make([(0, 2, 1, (0, 0)), (0, 8, 1, (12, 0))])
    dataset.people.keypoints[0, 1, 2] = 0  # left hand: in frame 8 only
    dataset.people.keypoints[1, 2, 2] = 1  # right hand: hidden in frame 8
    dataset.people.keypoints[:, 0, 2] = 0, 0  # nose: nowhere
    in_four = copied(dataset).people[np.array([4])]
    assert in_four.keypoints[0].tolist() == [[0, 0, 0], [0, 0, 0], [60, 60, 2]]
    result = linear(dataset)
    in_four, in_six = (result.people[np.array([n])].keypoints[0].tolist() for n in (4, 6))
    assert in_four == [[0, 0, 0], [52, 60, 2], [64, 60, 2]]
    assert in_six == [[0, 0, 0], [52, 60, 2], [68, 60, 1]]  # visibility of the nearer label
    np.testing.assert_allclose(result.people.joint_scores[4], [np.nan, 1 / 3, 1 / 3])
    assert result.people.score[4] == pytest.approx(1 / 3)


def test_joints_outside_the_image_and_people_who_are_gone():
    dataset = make([(0, 2, 1, (0, 0)), (0, 7, 1, (-100, 0)), (0, 8, 1, (-200, 0))])
    dataset.people.bbox[2] = 0, 0, 40, 60  # a box in the image, the joints outside
    result = linear(dataset)
    by_frame = {int(n): row for row, n in enumerate(result.frames.number[result.people.frame])}
    person = result.people[np.array([by_frame[4]])]  # 40 to the left
    assert person.keypoints[0].tolist() == [[10, 20, 2], [0, 60, 2], [20, 60, 2]]
    assert person.bbox[0].tolist() == [0, 10, 30, 60]  # cut
    person = result.people[np.array([by_frame[5]])]  # 60 to the left
    assert person.keypoints[0].tolist() == [[0, 0, 0], [0, 0, 0], [0, 60, 2]]
    assert np.isfinite(person.joint_scores[0]).tolist() == [False, False, True]
    # the box is still that of the whole person: margins of the right hand in frame 2
    assert person.bbox[0].tolist() == [0, 10, 10, 60]
    # beyond frame 8 nothing is left of the person
    assert (
        set(by_frame) == {0, 1, 2, 3, 4, 5, 6, 7, 8} - {6} and not result.frames.labelled[9:].any()
    )


def test_boxes_grow_with_the_joints():
    class Doubled:
        """Joints twice as far from each other, and moved."""

        def __call__(self, video, targets, source, advance):
            poses = Poses.unknown(targets)
            poses.joints[:] = (BASE - BASE.mean(0)) * 2 + BASE.mean(0) + [10, 20]
            poses.scores[:] = 0.5
            return poses

    result, counts = Propagator(Doubled(), progress=False)(make([(0, 2, 1, (0, 0))]), None)
    person = result.people[np.array([0])]
    joints = person.keypoints[0, :, :2]
    low, high = joints.min(0), joints.max(0)
    corners = person.bbox[0, :2], person.bbox[0, :2] + person.bbox[0, 2:]
    # margins 10, 10, 10, 10 around BASE, doubled, cut at y = 0
    np.testing.assert_allclose(corners[0], np.maximum(low - 20, 0))
    np.testing.assert_allclose(corners[1], high + 20)
    shift = joints[0] - BASE[0]  # the nose's
    np.testing.assert_allclose(person.head_box[0], HEAD + np.tile(shift, 2))
    assert (counts.people, counts.joints) == (11, 33)
    assert (counts.predicted_frames, counts.repredicted_frames) == (11, 0)


def test_a_box_is_never_empty():
    """All that is left is a joint in the corner pixel, and the rest of the box is outside."""

    class Corner:
        def __call__(self, video, targets, source, advance):
            poses = Poses.unknown(targets)
            poses.joints[:, 2] = -0.25, -0.25
            poses.scores[:, 2] = 0.5
            return poses

    dataset = make([(0, 2, 1, (0, 0))])
    dataset.people.bbox[:] = 40, 20, 20, 40  # ends at the right hand
    result, _ = Propagator(Corner(), progress=False)(dataset, None)
    predicted = result.people[result.people.predicted]
    assert len(predicted) == 11 and (predicted.keypoints[:, :, 2] > 0).sum() == 11
    assert predicted.bbox.tolist() == [[0, 0, 2, 2]] * 11
    assert len(usable_people(result)[0]) == 12


def test_labels_that_are_none():
    """Crowds and people without joints stay, spread nowhere, and are not absent."""
    dataset = make(
        [(0, 2, 1, (0, 0)), (0, 6, 1, (0, 0)), (0, 10, 1, (8, 0)), (0, 2, 2, (30, 0))],
        crowd=[False, False, False, True],
    )
    dataset.people.keypoints[1, :, 2] = 0
    result = linear(dataset)
    assert {track: x for (n, track), x in found(result).items() if n == 4} == {1: 52.0}
    assert len(result.people) == 13 and result.people.crowd.sum() == 1
    (of_video,) = labels_of(dataset)
    assert [track.numbers.tolist() for track in of_video.tracks] == [[2, 10]]


def test_labels_around_a_frame():
    dataset = make([(0, 2, 1, (0, 0)), (0, 6, 1, (8, 4)), (0, 10, 1, (0, 0))], empty=[(0, 8)])
    (of_video,) = labels_of(dataset)
    (track,) = of_video.tracks
    assert of_video.labelled.tolist() == [2, 6, 8, 10] and track.absent.tolist() == [8]
    around = {n: (track.before(n), track.after(n), track.nearest(n)) for n in range(12)}
    assert around[0] == (None, 0, 0) and around[2] == (0, 0, 0)
    assert around[4] == (0, 1, 0) and around[5] == (0, 1, 1)
    assert around[7] == (1, None, 1)
    assert around[8] == (None, None, None) and around[9] == (None, 2, 2)
    # the box of training: cut to the image, and a pixel smaller
    np.testing.assert_allclose(track.interpolated_box(5), [36, 13, 39, 59, 0])
    np.testing.assert_allclose(track.interpolated_box(7), [38, 14, 39, 59, 0])
    with pytest.raises(ValueError, match="no label of track 1 reaches frame 8"):
        track.interpolated_box(8)


def test_labels_predicted_again():
    dataset = make([(0, 2, 1, (0, 0)), (0, 6, 1, (0, 0)), (0, 2, 5, (30, 0))])
    dataset.people.keypoints[2, :, 2] = 0  # no label: it stays
    result = copied(dataset, repredict=True)
    assert len(result.people) == 13
    assert result.people.predicted.sum() == 12 and result.people.track_id[3] == 1
    human = result.people[~result.people.predicted]
    assert human.annotation_id.tolist() == [3]
    at_label = result.people[result.people.predicted & (result.people.frame == 6)]
    np.testing.assert_allclose(at_label.joint_scores, 1)
    options = PropagationOptions("copy", repredict=True)
    _, counts = make_propagator(options, progress=False)(dataset, None)
    assert (counts.labelled_frames, counts.repredicted_frames, counts.predicted_frames) == (
        2,
        2,
        10,
    )


def test_a_track_twice_in_one_frame():
    dataset = make([(0, 2, 1, (0, 0)), (0, 2, 1, (5, 0))], annotation_id=[4, 8])
    with pytest.raises(ValueError, match=r"annotation 8 is the second one of track 1 in frame 2"):
        copied(dataset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "swim"}, "method: expected one of .* got 'swim'"),
        ({"method": "copy", "sources": "both"}, "sources: 'copy' has 'nearest', got 'both'"),
        ({"method": "flow", "sources": "all"}, "sources: expected one of"),
        ({"method": "copy", "own_weight": 0.5}, "own_weight: goes with 'warp' only"),
        ({"method": "copy", "distance": 0}, "distance: expected at least 1 frame, got 0"),
        ({"method": "copy", "threshold": float("nan")}, "threshold: expected 0 or more"),
        ({"method": "copy", "leaving": "never"}, "leaving: expected one of"),
        ({"method": "copy", "box": "big"}, "box: expected one of"),
        ({"method": "flow", "preset": "slow"}, "preset: expected one of"),
        ({"method": "warp"}, "predictor: method 'warp' needs a model"),
        ({"method": "flow"}, "source: optical flow needs the frames"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        propagate_labels(make([(0, 2, 1, (0, 0))]), None, **options, progress=False)
