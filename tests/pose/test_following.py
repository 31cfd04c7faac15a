"""Boxes that follow poses: with an estimator that knows the truth, sees what is in its box, and
keeps what it was asked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.tracks import Target, labels_of, targets_of
from posewarper.data.upright import between, upright_boxes
from posewarper.inference import following
from posewarper.inference.baselines import Poses
from posewarper.inference.following import Follow
from posewarper.skeleton import Skeleton

BODY = np.array([[1.0, -10], [-6, -2], [5, -3], [-1, 12]])
FOUR = Skeleton("four", ("nose", "left_hand", "right_hand", "tail"))
REFERENCE = tuple(map(tuple, BODY.tolist()))
VIDEO = Video("v", 40)
SIZE_WH = (4000, 4000)


@pytest.fixture(autouse=True)
def steps_of_four(monkeypatch):
    """Of frames beyond a label that share a box: what the tests count with."""
    monkeypatch.setattr(following, "_STEP", 4)


def placed(pose, degrees=0.0, size=1.0, at=(0.0, 0.0)):
    """The pose that has to be turned by so many degrees to stand as ``pose`` does."""
    pose = np.asarray(pose, float)
    turned = (pose[..., 0] + 1j * pose[..., 1]) * size * np.exp(1j * np.deg2rad(degrees))
    return np.stack([turned.real, turned.imag], -1) + at


def tracks_of(people, upright, empty=()):
    """People are (frame, track, pose [4, 2] or [4, 3]); frames in ``empty`` are labelled, too."""
    numbers = sorted({number for number, _, _ in people} | set(empty))
    keypoints = np.full((len(people), 4, 3), 2.0)
    for row, (_, _, pose) in enumerate(people):
        keypoints[row, :, : pose.shape[1]] = pose
    x_y = keypoints[:, :, :2]
    boxes = np.concatenate([x_y.min(1) - 3, np.ptp(x_y, axis=1) + 8], 1)
    frames = Frames.make((VIDEO,), np.zeros(len(numbers)), numbers, size_wh=SIZE_WH)
    rows = [numbers.index(number) for number, _, _ in people]
    table = People.make(rows, keypoints, boxes, track_id=[track for _, track, _ in people])
    (labels,) = labels_of(PoseDataset(FOUR, (VIDEO,), frames, table), upright)
    return labels


def targets_for(people, upright=REFERENCE, empty=(), **options):
    options = {"sources": "both", "box": "interpolated", **options}
    return targets_of(tracks_of(people, upright, empty), VIDEO, **options)


@dataclass
class Witness:
    """Tells the truth, and how sure it is.

    Attributes:
        truth: pose [4, 2] of a target.
        sure: scores [4] of a target.
        calls: the targets of each call.
    """

    truth: object
    sure: object = lambda target: np.full(4, 0.9)
    calls: list[list[Target]] = field(default_factory=list)

    def __call__(self, video, targets: Sequence[Target], source, advance) -> Poses:
        assert video is VIDEO and source == "source" and len(targets)
        assert [t.number for t in targets] == sorted(t.number for t in targets)
        self.calls.append(list(targets))
        poses = Poses.unknown(targets)
        for row, target in enumerate(targets):
            poses.joints[row], poses.scores[row] = self.truth(target), self.sure(target)
            advance(1)
        return poses

    def numbers(self):
        return [[target.number for target in call] for call in self.calls]


def follow(witness, targets, upright=REFERENCE):
    """Poses; everybody was counted once."""
    done = []
    poses = Follow(witness, upright)(VIDEO, targets, "source", done.append)
    assert sum(done) == len(targets)
    assert len(poses.joints) == len(poses.scores) == len(targets)
    return poses


def off_center(target):
    """How far the truth is from the middle of the box, of its longer side."""
    center = target.crop_box[:2] + target.crop_box[2:4] / 2
    return float(np.hypot(*(center - MIDDLE - walk(target)))) / target.crop_box[2:4].max()


MIDDLE = np.array([-0.5, 1.0])  # of the extent of BODY


def walk(target):
    """Along a curve; track 2 far away and the other way round."""
    sign = 1 if target.track.track_id != 2 else -1
    return sign * np.array([2.0, 0.02 * target.number]) * target.number + 1500


def walking(target):
    return BODY + walk(target)


@dataclass
class _At:
    """What ``walk`` wants to know."""

    track: object
    number: int


def person(number, track):
    @dataclass
    class Track:
        track_id: int

    return number, track, BODY + walk(_At(Track(track), number))


def moved(x, y):
    return BODY + np.array([x, y])


def of_pose(pose, upright=REFERENCE):
    boxes, degrees = upright_boxes(np.c_[pose, np.ones(4)][None], upright)
    return np.array([*boxes[0], *degrees])


# ---- between labels ----


def test_where_the_box_was_right_there_is_one_look():
    targets = targets_for([(4, 1, moved(100, 100)), (12, 1, moved(180, 100))])
    inner = [t for t in targets if 4 < t.number < 12]
    witness = Witness(lambda t: moved(60 + 10 * t.number, 100))
    poses = follow(witness, inner)
    assert witness.numbers() == [[5, 6, 7, 8, 9, 10, 11]]
    np.testing.assert_allclose([p[0, 0] for p in poses.joints], 61 + 10.0 * np.arange(5, 12))
    for target, asked in zip(inner, witness.calls[0], strict=True):
        np.testing.assert_array_equal(target.crop_box, asked.crop_box)
    assert follow(Witness(None), []).joints.shape[0] == 0


@pytest.mark.parametrize(
    ("pose", "again"),
    [
        (moved(3.2, 0), False),  # of 27.5 pixels
        (moved(3.4, 0), True),
        (BODY * 1.18, False),
        (BODY * 1.25, True),
        (BODY / 1.25, True),
        (placed(BODY, 19), False),
        (placed(BODY, -23), True),
    ],
)
def test_what_is_worth_another_look(pose, again):
    """Further than 12 % of the box's longer side, by a fifth, or by 20 degrees."""
    upright = REFERENCE
    targets = [t for t in targets_for([(4, 1, BODY), (6, 1, BODY)], upright) if t.number == 5]
    witness = Witness(lambda t: pose)
    follow(witness, targets, upright)
    assert len(witness.calls) == 1 + again
    if again:
        (target,) = witness.calls[1]
        np.testing.assert_allclose(target.crop_box, of_pose(pose, upright), atol=1e-9)


def test_the_surer_result_wins():
    """Four frames lie elsewhere; in the first the second look is surer, in the second it is not, in
    the third it is as sure, in the fourth it finds nothing."""
    targets = [t for t in targets_for([(0, 1, BODY + 50), (6, 1, BODY + 50)]) if 0 < t.number < 6]
    shift = {1: 30, 2: 30, 3: 30, 4: 30, 5: 0}
    looks = dict.fromkeys(shift, 0)

    def truth(target):
        return BODY + 50 + shift[target.number] + looks[target.number]

    def sure(target):
        looks[target.number] += 1
        first = looks[target.number] == 1
        return {
            1: [0.5, 0.5, 0.6, np.nan] if first else [0.9, 0.9, np.nan, 0.1],
            2: [0.5] * 4 if first else [0.4] * 4,
            3: [0.5] * 4,
            4: [0.5] * 4 if first else [np.nan] * 4,
            5: [0.5] * 4,
        }[target.number]

    witness = Witness(truth, sure)
    poses = follow(witness, targets)
    assert witness.numbers() == [[1, 2, 3, 4, 5], [1, 2, 3, 4]]
    np.testing.assert_array_equal(
        poses.joints[:, 0, 0] - 51, [31, 30, 30, 30, 0]
    )  # the second look adds one
    np.testing.assert_array_equal(poses.scores[0], [0.9, 0.9, np.nan, 0.1])
    np.testing.assert_array_equal(poses.scores[1:, 0], [0.5] * 4)


def test_frames_without_a_pose_get_no_second_look():
    targets = [t for t in targets_for([(0, 1, BODY), (3, 1, BODY)]) if 0 < t.number < 3]
    witness = Witness(
        lambda t: np.full((4, 2), np.nan) if t.number == 1 else BODY + 99,
        lambda t: np.full(4, np.nan if t.number == 1 else 0.29),
    )
    poses = follow(witness, targets)
    assert witness.numbers() == [[1, 2]]
    assert np.isnan(poses.joints[0]).all() and np.isfinite(poses.joints[1]).all()


# ---- beyond them ----


def test_outwards_in_steps_with_the_box_of_the_last_pose():
    """From labels in frames 10 and 14 to both ends of the video, four frames at a time."""
    people = [person(10, 1), person(14, 1)]
    targets = [t for t in targets_for(people) if not 10 < t.number < 14]
    witness = Witness(walking)
    poses = follow(witness, targets)
    forwards = [list(range(start, min(start + 4, 40))) for start in range(15, 40, 4)]
    backwards = [[6, 7, 8, 9], [2, 3, 4, 5], [0, 1]]
    assert witness.numbers() == forwards + backwards
    for call in witness.calls:
        for target in call:
            forward = target.number > 14
            last = call[0].number - 1 if forward else call[-1].number + 1
            expected = of_pose(BODY + walk(_At(target.track, last)))
            np.testing.assert_allclose(target.crop_box, expected, atol=1e-6)
    np.testing.assert_allclose(poses.joints, [walking(t) for t in targets])


def test_a_person_who_leaves_the_label_box_is_found_only_by_following():
    """What is seen is what lies in the box: without going along it is lost."""

    def sure(target):
        return np.full(4, 0.9 if off_center(target) < 0.6 else 0.05)

    targets = [t for t in targets_for([person(10, 1), person(14, 1)]) if t.number > 14]
    left = Witness(walking, sure)(VIDEO, targets, "source", lambda _: None)
    assert (left.scores[:, 0] > 0.5).sum() < 10
    assert (follow(Witness(walking, sure), targets).scores > 0.5).all()


def test_several_people_at_a_time_in_the_order_of_time():
    people = [person(5, 1), person(9, 1), person(9, 2)]  # the second is absent from frame 5
    targets = targets_for(people)
    witness = Witness(walking)
    follow(witness, targets)
    asked = [[(t.number, t.track.track_id) for t in call] for call in witness.calls]
    assert sorted(itertools.chain(*asked)) == sorted((t.number, t.track.track_id) for t in targets)
    inner, first, *_ = asked
    assert inner == [(6, 1), (7, 1), (8, 1)]
    assert first == [(number, track) for number in (10, 11, 12, 13) for track in (1, 2)]
    assert asked[-2:] == [[(1, 1), (2, 1), (3, 1), (4, 1), (6, 2), (7, 2), (8, 2)], [(0, 1)]]
    for call in witness.calls:
        for target in call:  # everybody's box is about their own pose
            assert off_center(target) < 0.6, (target.track.track_id, target.number)


def test_two_ends_of_one_track_do_not_mix():
    """Absent from frame 12: the track ends there, and begins again before frame 20."""
    people = [person(4, 1), person(12, 2), person(20, 1)]
    targets = [t for t in targets_for(people) if t.track.track_id == 1]
    assert {t.key for t in targets if t.number in (9, 25)} == {4, 20}
    witness = Witness(walking)
    follow(witness, targets)
    for call in witness.calls:
        for target in call:
            assert off_center(target) < 0.6, target.number
    # Round two goes on from frame 8 of the first part and from frame 24 of the second.
    (second,) = (call for call in witness.calls if any(t.number == 25 for t in call))
    assert [t.number for t in second] == [9, 10, 11, 25, 26, 27, 28]
    for target in second:
        last = 8 if target.key == 4 else 24
        expected = of_pose(BODY + walk(_At(target.track, last)))
        np.testing.assert_allclose(target.crop_box, expected, atol=1e-6)


@pytest.mark.parametrize("nothing", [0.3, np.nan])
def test_doubtful_poses_leave_the_box_where_it_is(nothing):
    """From frame 18 to 21 nothing is sure: the box of frame 17 serves until there is."""
    targets = [t for t in targets_for([person(10, 1), person(12, 1)]) if t.number > 12]
    doubtful = range(18, 22)
    witness = Witness(walking, lambda t: np.full(4, nothing if t.number in doubtful else 0.31))
    follow(witness, targets)
    last = {13: 12, 17: 16, 21: 17, 25: 24, 29: 28}
    for call in witness.calls[:5]:
        first = call[0].number
        for target in call:
            expected = of_pose(BODY + walk(_At(target.track, last[first])))
            np.testing.assert_allclose(target.crop_box, expected, atol=1e-6)


def test_people_without_a_track():
    """Each belongs to the labelled frame nearby, and is followed from there."""
    people = [person(4, -1), (4, -1, BODY + 3000), person(20, -1)]
    targets = targets_for(people)
    witness = Witness(lambda t: t.track.keypoints[0, :, :2] + 3.0 * (t.number - t.key))
    poses = follow(witness, targets)
    assert {t.number for t in targets if t.track.numbers[0] == 4} == {*range(13)} - {4}
    assert {t.number for t in targets if t.track.numbers[0] == 20} == {*range(13, 40)} - {20}
    for call in witness.calls:
        ways = {np.sign(t.number - t.key) for t in call}
        assert len(ways) == 1
        (way,) = ways
        for target in call:
            steps = 4 * ((target.distance - 1) // 4) * way
            expected = of_pose(target.track.keypoints[0, :, :2] + 3.0 * steps)
            np.testing.assert_allclose(target.crop_box, expected, atol=1e-6)
    assert np.isfinite(poses.joints).all()


def test_labels_predicted_again_lie_between_labels():
    targets = targets_for([person(4, 1), person(8, 1)], repredict=True, distance=1)
    witness = Witness(walking)
    follow(witness, targets)
    assert witness.numbers() == [[4, 5, 7, 8], [9], [3]]


# ---- the box around a pose ----


def target_with(label, upright):
    (target, *_) = targets_for([(10, 1, label)], upright)
    return target


@pytest.mark.parametrize("sure", [(0, 1, 2, 3), (0, 3), (1, 2, 3)])
@pytest.mark.parametrize("degrees", [0, 35, -170])
@pytest.mark.parametrize("size", [0.8, 1.0, 1.4])
def test_boxes_move_and_grow_and_turn_as_poses_do(degrees, size, sure):
    label = placed(BODY, 65, 3.0, (900, 700))
    target = target_with(label, REFERENCE)
    now = placed(label, degrees, size, (700, -300))
    scores = np.full(4, 0.2)
    scores[list(sure)] = 0.5
    joints = np.where(scores[:, None] > 0.3, now, np.nan)
    box = Follow(None, REFERENCE).box_around(target, joints, scores)
    expected = of_pose(now)
    np.testing.assert_allclose(box[:4], expected[:4], atol=1e-6)
    assert abs((box[4] - expected[4] + 180) % 360 - 180) < 1e-6


@pytest.mark.parametrize("size", [0.8, 1.0, 1.4])
def test_boxes_that_do_not_turn(size):
    label = BODY * 3 + 300
    target = target_with(label, None)
    around = Follow(None, None).box_around
    box = around(target, label * size + [5, 9], np.ones(4))
    # Scaling about the origin takes corners to corners.
    np.testing.assert_allclose(box[:2], target.crop_box[:2] * size + [5, 9])
    np.testing.assert_allclose(box[2:], [*target.crop_box[2:4] * size, 0])
    turned = around(target, placed(label, 80, size), np.ones(4))
    np.testing.assert_allclose(turned[2:], [*target.crop_box[2:4] * size, 0])
    arm = target.crop_box[:2] + target.crop_box[2:4] / 2 - label.mean(0)
    center = placed(label, 80, size).mean(0) + size * arm
    np.testing.assert_allclose(turned[:2] + turned[2:4] / 2, center)


@pytest.mark.parametrize(("size", "growth"), [(0.2, 0.67), (5.0, 1.5)])
def test_boxes_grow_and_shrink_within_limits(size, growth):
    label = BODY * 3 + 900
    target = target_with(label, REFERENCE)
    box = Follow(None, REFERENCE).box_around(target, label * size, np.ones(4))
    np.testing.assert_allclose(box[2:4], target.crop_box[2:4] * growth)
    arm = target.crop_box[:2] + target.crop_box[2:4] / 2 - label.mean(0)
    np.testing.assert_allclose(
        box[:2] + box[2:4] / 2, (label * size).mean(0) + growth * arm, atol=1e-9
    )


def test_too_little_to_tell_a_box():
    label = np.c_[BODY * 3 + 900, [2, 2, 2, 0]]  # three labelled joints
    target = target_with(label, REFERENCE)
    around, now = Follow(None, REFERENCE).box_around, label[:, :2] + 5
    assert around(target, now, np.array([0.9, 0.9, 0.9, 0.9])) is not None
    assert around(target, now, np.array([0.9, 0.3, 0.9, 0.0])) is not None  # two of three
    assert around(target, now, np.array([0.9, 0.3, 0.3, 0.9])) is None  # not a labelled one
    assert around(target, now, np.full(4, np.nan)) is None
    assert around(target, np.full((4, 2), np.nan), np.ones(4)) is None
    # Everything found on one point: that is where the box is, at the label's angle.
    point = around(target, np.full((4, 2), 77.0), np.ones(4))
    assert np.isfinite(point).all() and point[4] == pytest.approx(target.crop_box[4])
    np.testing.assert_allclose(point[2:4], target.crop_box[2:4] * 0.67)


def test_the_nearest_label_is_what_moves():
    """Between two labels of different shape, the box is that of the nearer one."""
    small, large = BODY + 500, BODY * 2 + 500
    targets = targets_for([(0, 1, small), (9, 1, large)])
    around = Follow(None, REFERENCE).box_around
    for target in targets:
        near, pose = (of_pose(small), small) if target.number <= 4 else (of_pose(large), large)
        np.testing.assert_allclose(around(target, pose, np.ones(4)), near, atol=1e-9)
        if target.number < 9:
            mean = between(of_pose(small), of_pose(large), target.number / 9)
            np.testing.assert_allclose(target.crop_box, mean)
