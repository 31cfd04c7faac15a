"""Turned boxes: angles, boxes, the reference pose; samples whose pixels say where they are from."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posewarper.data.crops import (
    Augmentation,
    invert_matrices,
    transform_points,
    turned_crop_matrices,
)
from posewarper.data.dataset import PoseSamples
from posewarper.data.people import turned_boxes, usable_people
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.upright import (
    angles_vary,
    between,
    not_turned,
    reference_pose,
    rotations,
    upright_boxes,
)
from posewarper.data.video import FrameSource
from posewarper.heatmaps import decode
from posewarper.skeleton import Skeleton

# An upright body, no two axes alike: nose, left and right hand, tail.
BODY = np.array([[1.0, -10], [-6, -2], [5, -3], [-1, 12]])
FOUR = Skeleton("four", ("nose", "left_hand", "right_hand", "tail"), flip_pairs=((1, 2),))
angles = st.floats(-179, 179)
some_joints = st.sets(st.integers(0, 3), max_size=2)
places = st.tuples(st.floats(-300, 300), st.floats(-300, 300))


def placed(pose, degrees=0.0, size=1.0, at=(0.0, 0.0)):
    """The pose that has to be turned by so many degrees to stand as ``pose`` does."""
    pose = np.asarray(pose, float)
    turned = (pose[..., 0] + 1j * pose[..., 1]) * size * np.exp(1j * np.deg2rad(degrees))
    return np.stack([turned.real, turned.imag], -1) + at


def labels(*poses, hidden=()):
    """[P, J, 3]; ``hidden`` lists (pose, joint) without a label, whose places are of no meaning."""
    keypoints = np.concatenate([np.stack(poses), np.full((*np.shape(poses)[:2], 1), 2.0)], 2)
    for pose, joint in hidden:
        keypoints[pose, joint] = [np.nan, 7e5, 0]
    return keypoints


def apart(one, other):
    """Degrees between two angles."""
    return np.abs((np.asarray(one) - other + 180) % 360 - 180)


# ---- angles ----


@pytest.mark.parametrize(
    ("nose", "degrees"), [((0, -9), 0), ((9, 0), 90), ((0, 9), 180), ((-9, 0), -90), ((9, -9), 45)]
)
def test_known_angles(nose, degrees):
    """An animal that looks to the right is turned a quarter against the clock, as crops are."""
    keypoints = labels(np.add([nose, (0, 0)], [40, 30]))
    (angle,) = rotations(keypoints, [(0, -1), (0, 1)])
    assert apart(angle, degrees) < 1e-9
    # The rotation is that of crops: the nose comes out above the middle.
    box = np.array([[30.0, 20, 20, 20, angle]])
    (nose_in_crop, root), *_ = transform_points(
        keypoints[:, :, :2], turned_crop_matrices(box, (64, 64))
    )
    assert nose_in_crop[1] < root[1] - 10 and abs(nose_in_crop[0] - root[0]) < 1e-9


@given(angles, st.floats(0.05, 30), places, some_joints)
def test_angles_of_any_pose(degrees, size, at, hidden):
    keypoints = labels(placed(BODY, degrees, size, at), hidden=[(0, j) for j in hidden])
    # What is upright may itself be anywhere, and of any size.
    assert apart(rotations(keypoints, placed(BODY, 0, 3.0, (70, -9))), degrees)[0] < 1e-4


def test_angle_is_that_of_the_nearest_pose():
    random = np.random.default_rng(0)
    poses = random.normal(0, 9, (20, 4, 2))
    (found,) = (rotations(labels(*poses), BODY),)
    scan = np.arange(-180, 180, 0.25)
    wanted = BODY - BODY.mean(0)
    for pose, angle in zip(poses, found, strict=True):
        pose = pose - pose.mean(0)
        errors = [((placed(pose, -a) - wanted) ** 2).sum() for a in scan]
        assert apart(angle, scan[int(np.argmin(errors))]) <= 0.125 + 1e-9


def test_no_angle():
    one = labels(BODY, hidden=[(0, j) for j in (0, 1, 2)])
    none = labels(BODY, hidden=[(0, j) for j in range(4)])
    point = labels(np.tile([31.7, 2.3], (4, 1)))
    everybody = np.concatenate([one, none, point, labels(BODY)])
    np.testing.assert_array_equal(np.isnan(rotations(everybody, BODY)), [1, 1, 1, 0])
    boxes, degrees = upright_boxes(everybody, BODY)
    np.testing.assert_array_equal(np.isnan(boxes).any(1), [1, 1, 1, 0])
    np.testing.assert_array_equal(np.isnan(degrees), [1, 1, 1, 0])
    # A reference that tells nothing about the joints that are there.
    flat = BODY.copy()
    flat[:2] = 0
    assert np.isnan(rotations(labels(BODY, hidden=[(0, 2), (0, 3)]), flat)).all()
    assert rotations(np.zeros((0, 4, 3)), BODY).shape == (0,)
    assert [part.shape for part in upright_boxes(np.zeros((0, 4, 3)), BODY)] == [(0, 4), (0,)]


# ---- boxes ----


@given(angles, st.floats(0.3, 9), places, some_joints)
def test_boxes_turn_with_the_pose(degrees, size, at, hidden):
    hidden = [(0, j) for j in hidden]
    large = labels(BODY * 100, hidden=hidden)
    (box,), (zero,) = upright_boxes(large, BODY)
    x, y, w, h = box / 100
    assert abs(zero) < 1e-5
    pose = placed(BODY, degrees, size, at)
    (box,), (angle,) = upright_boxes(labels(pose, hidden=hidden), BODY)
    assert apart(angle, degrees) < 1e-4
    # Same shape, and its centre went where the pose did.
    np.testing.assert_allclose(box[2:], np.maximum([w * size, h * size], 2), rtol=1e-5)
    center = placed([x + w / 2, y + h / 2], degrees, size, at)
    np.testing.assert_allclose(box[:2] + box[2:] / 2, center, atol=1e-3)


@given(angles, st.sampled_from([(64, 96), (96, 64)]))
def test_crops_show_the_pose_upright_in_the_middle(degrees, crop_wh):
    pose = placed(BODY, degrees, 4.0, (200, 100))
    boxes, angle = upright_boxes(labels(pose), BODY, margin=1.0)
    turned = np.concatenate([boxes, angle[:, None]], 1)
    (inside,) = transform_points(pose[None], turned_crop_matrices(turned, crop_wh, padding=1.0))
    low, high = inside.min(0), inside.max(0)
    np.testing.assert_allclose((low + high) / 2, np.array(crop_wh) / 2, atol=1e-6)
    assert (low > -1e-6).all() and (high < np.array(crop_wh) + 1e-6).all()
    # It fills the crop in the direction that is the longer one for its shape.
    assert abs(((high - low) / crop_wh).max() - 1) < 1e-6
    assert abs(rotations(labels(inside), BODY)[0]) < 1e-5


@given(degrees=angles, size=st.floats(0.5, 20), at=places, hidden=some_joints)
def test_box_is_that_of_the_whole_body(degrees, size, at, hidden):
    pose = placed(BODY, degrees, size, at)
    whole, angle = upright_boxes(labels(pose), BODY)
    part, same = upright_boxes(labels(pose, hidden=[(0, joint) for joint in hidden]), BODY)
    np.testing.assert_allclose(part, whole, atol=1e-6 * size + 1e-8)
    assert apart(angle, same) < 1e-6


def test_margin_and_least_size():
    ((_, _, w, h),), _ = upright_boxes(labels(BODY * 10), BODY, margin=1.5)
    np.testing.assert_allclose([w, h], 1.5 * np.ptp(BODY * 10, 0))
    line = labels([[10.0, 0], [10, 3], [10, 6], [10, 9]])
    ((x, y, w, h),), _ = upright_boxes(line, line[0, :, :2])
    np.testing.assert_allclose([x, y, w, h], [9, 4.5 - 9 * 1.25 / 2, 2, 9 * 1.25])


# ---- the reference ----


def same_shape(one, other):
    """Whether two poses are the same but for place, size and angle."""
    one, other = (np.asarray(p) - np.mean(p, 0) for p in (one, other))
    (angle,) = rotations(labels(one), other)
    one = placed(one, -angle)
    one, other = one / np.linalg.norm(one), other / np.linalg.norm(other)
    return np.abs(one - other).max() < 1e-6


def test_reference_of_one_pose():
    reference = np.array(reference_pose(labels(placed(BODY, 80, 5.0, (300, 200)))))
    assert same_shape(reference, BODY)
    np.testing.assert_allclose(reference.mean(0), 0, atol=1e-12)
    assert abs((reference**2).sum(1).mean() - 1) < 1e-9
    # The longest axis is vertical: nothing is left of the correlation of x and y, and y spreads.
    assert abs(reference[:, 0] @ reference[:, 1]) < 1e-9
    assert (reference[:, 1] ** 2).sum() > (reference[:, 0] ** 2).sum()


@pytest.mark.parametrize("degrees", [-60, 0, 60])
def test_reference_stands_the_way_of_the_most_complete_label(degrees):
    upside_down = placed(BODY, degrees + 180)
    for pose, nose_above in ((placed(BODY, degrees), True), (upside_down, False)):
        others = [placed(BODY, a) for a in (170, 190)]
        keypoints = labels(*others, pose, hidden=[(0, 1), (1, 2)])
        reference = np.array(reference_pose(keypoints))
        assert (reference[0, 1] < reference[3, 1]) == nose_above


@given(
    st.lists(st.tuples(angles, st.floats(0.2, 20), st.floats(-400, 400)), min_size=3, max_size=6)
)
def test_reference_does_not_depend_on_place_size_and_angle(moves):
    random = np.random.default_rng(len(moves))
    poses = [BODY + random.normal(0, 0.7, BODY.shape) for _ in moves]
    moved = [placed(p, a, s, (t, -t)) for p, (a, s, t) in zip(poses, moves, strict=True)]
    one, other = reference_pose(labels(*poses)), reference_pose(labels(*moved))
    (angle,) = rotations(labels(one), other)
    assert min(apart(angle, 0), apart(angle, 180)) < 1e-4  # which way up may differ
    np.testing.assert_allclose(placed(one, -np.round(angle)), other, atol=1e-4)


def test_reference_of_labels_that_are_not_complete():
    """Copies of one pose, of each of which another part is labelled, give that pose exactly."""
    random = np.random.default_rng(1)
    body = random.normal(0, 10, (9, 2)) * [1, 3]
    poses = [
        placed(body, random.uniform(-180, 180), random.uniform(0.5, 9), random.uniform(-99, 99, 2))
        for _ in range(30)
    ]
    hidden = [(p, j) for p in range(30) for j in random.permutation(9)[:5].tolist()]
    assert same_shape(reference_pose(labels(*poses, hidden=hidden)), body)
    # People of whom one joint or none is labelled tell nothing, and do no harm.
    some = labels(*poses, hidden=hidden)
    few = labels(
        *poses[:2], hidden=[(p, j) for p in range(2) for j in range(9) if (p, j) != (0, 3)]
    )
    assert reference_pose(np.concatenate([few, some])) == reference_pose(some)
    # A joint that nobody has lies in the centre of the others.
    never = reference_pose(labels(*poses, hidden=[*hidden, *((p, 4) for p in range(30))]))
    assert never[4] == (0, 0)
    assert same_shape(np.delete(never, 4, 0), np.delete(body, 4, 0))


def test_reference_of_parts_that_share_too_little():
    """Front and back never seen together: where they belong is not known, nothing is invented."""
    body = np.concatenate([BODY, np.add(BODY, [0, 40])])
    front, back = [(0, j) for j in range(4)], [(1, j) for j in range(4, 8)]
    reference = np.array(reference_pose(labels(body, body, hidden=[*front, *back])))
    assert np.isfinite(reference).all()
    known = (reference != 0).any(1)
    assert known.sum() == 4


def test_no_reference():
    point = np.tile([5.1, 3.3], (4, 1))
    assert reference_pose(np.zeros((0, 4, 3))) is None
    assert reference_pose(labels(BODY, hidden=[(0, j) for j in (0, 1, 2)])) is None
    assert reference_pose(labels(point, point)) is None
    # One that tells something among others that do not.
    assert same_shape(reference_pose(labels(point, BODY, point)), BODY)


def test_angles_vary():
    assert not angles_vary([]) and not angles_vary([np.nan]) and not angles_vary([30.0] * 5)
    assert angles_vary([0, 90, 180, 270])
    assert not angles_vary([179, -179, 178, np.nan, -177])  # across the border of counting
    for spread, vary in ((10, False), (19, False), (21, True), (60, True)):
        # A wrapped normal distribution: its circular standard deviation is that of the normal one.
        quantiles = torch.special.ndtri(torch.linspace(0.0005, 0.9995, 1000)).numpy()
        assert angles_vary(200 + spread * quantiles) == vary
        assert not angles_vary(200 + spread * quantiles, least=90)


@pytest.mark.parametrize(
    ("first", "last", "middle"), [(10, 50, 20), (170, -150, 180), (-170, 150, 180), (350, 10, 355)]
)
def test_between_two_boxes_the_angle_takes_the_shorter_way(first, last, middle):
    box = between([0, 10, 20, 30, first], [40, 50, 60, 10, last], 0.25)
    np.testing.assert_allclose(box[:4], [10, 20, 30, 25])
    assert apart(box[4], middle) < 1e-9
    assert apart(between([0, 0, 1, 1, first], [0, 0, 1, 1, last], 1.0)[4], last) < 1e-9


# ---- samples ----

SIZE = 220, 160  # width and height; a pixel's red and green are its x and y, blue its frame


def blue(number):
    return 40 + 15 * number


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Thirteen frames that say where each of their pixels is."""
    root = tmp_path_factory.mktemp("frames")
    (root / "v").mkdir()
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    for number in range(13):
        image = np.stack([np.full_like(x, blue(number)), y, x], -1).astype(np.uint8)  # BGR
        cv2.imwrite(str(root / "v" / f"{number:06d}.png"), image)
    return root


def dataset(people, **columns):
    """People are (frame, track, degrees, centre of the joints); 0, 4, 8 are labelled."""
    video = Video("v", 13, 0, "%06d.png")
    numbers = [0, 4, 8]
    poses = [placed(BODY - BODY.mean(0), d, 2.0, at) for _, _, d, at in people]
    keypoints = labels(*poses)
    boxes = np.concatenate([keypoints[:, :, :2].min(1), np.ptp(keypoints[:, :, :2], axis=1)], 1)
    rows = [numbers.index(number) for number, _, _, _ in people]
    table = Frames.make((video,), [0, 0, 0], numbers, size_wh=SIZE)
    columns = {"track_id": [track for _, track, _, _ in people], **columns}
    return PoseDataset(FOUR, (video,), table, People.make(rows, keypoints, boxes, **columns))


MOVING = [(0, 1, 170, (70, 60)), (4, 1, -150, (110, 80)), (8, 1, 60, (140, 100))]
REFERENCE = tuple(map(tuple, BODY.tolist()))


def samples(data, root, **options):
    options = {"crop_wh": (64, 96), "sigma": 1.5, "rounded": False, "upright": REFERENCE, **options}
    return PoseSamples(data, FrameSource(root, dataset=data), **options)


def map_of(crop, number):
    """The map [2, 3] from image to crop, read from the pixels of a crop [3, H, W]."""
    x, y, of_frame = crop.numpy().astype(float)
    v, u = np.nonzero(of_frame == blue(number))
    assert len(u) > 300
    places = np.stack([u, v, np.ones(len(u))], 1)
    solution, *_ = np.linalg.lstsq(places, np.stack([x[v, u], y[v, u]], 1), rcond=None)
    return invert_matrices(solution.T[None])[0]


ALL = Augmentation(0.3, 40, 0.8, 0.5, half_body_probability=0.5, half_body_joints=2)
HALVES = replace(FOUR, upper_body=(0, 1, 2))


@pytest.mark.parametrize("upright", [REFERENCE, None])
def test_targets_lie_where_the_joints_are(frames, upright):
    data = replace(dataset(MOVING), skeleton=HALVES)
    of = samples(data, frames, augmentation=ALL, upright=upright)
    mirrored = turned = checked = 0
    for epoch in range(20):
        for index in range(3):
            sample = of.sample(index, epoch)
            row = sample["person"]
            crop = sample["crops"][0].float()
            places, heights = decode(sample["target"], "dark", 1.5)
            inside = ((sample["joints"] > 4) & (sample["joints"] < torch.tensor([56, 88]))).all(1)
            assert (heights[inside] > 0.85).all()
            inside = inside.numpy()
            checked += inside.sum()
            order = [0, 2, 1, 3] if sample["mirrored"] else [0, 1, 2, 3]
            wanted = data.people.keypoints[row, order, :2]
            in_crop = places.numpy() * 4
            np.testing.assert_allclose(in_crop[inside], sample["joints"].numpy()[inside], atol=0.4)
            matrix = map_of(sample["crops"][0], data.frames.number[data.people.frame[row]])
            assert (np.linalg.det(matrix[:, :2]) < 0) == sample["mirrored"]
            in_image = transform_points(sample["joints"][None], invert_matrices(matrix[None]))
            np.testing.assert_allclose(in_image[0], wanted, atol=0.3)
            mirrored += sample["mirrored"]
            turned += abs(sample["rotation"]) > 5
            assert crop.shape == (3, 96, 64)
    assert 10 < mirrored < 50 and turned > 20 and checked > 100


def test_poses_stand_upright_without_augmentation(frames):
    of = samples(dataset(MOVING), frames)
    for index in range(3):
        sample = of[index]
        angle = rotations(labels(sample["joints"].double().numpy()), BODY)
        assert abs(angle[0]) < 1e-3
        assert sample["rotation"] == pytest.approx(MOVING[index][2])
        middle = sample["joints"].numpy()
        np.testing.assert_allclose((middle.min(0) + middle.max(0)) / 2, [32, 48], atol=1e-3)


def test_mirrored_poses_stand_upright_too(frames):
    flip = Augmentation(0, 0, 0, 1.0, half_body_probability=0)
    of = samples(dataset(MOVING), frames, augmentation=flip)
    for index in range(3):
        joints = of[index]["joints"].double().numpy()
        assert of[index]["mirrored"]
        reflected = BODY[[0, 2, 1, 3]] * [-1, 1]
        assert abs(rotations(labels(joints), reflected)[0]) < 1e-3


def test_half_a_body_is_measured_in_the_turned_crop(frames):
    """The crop of a half has the same shape and size whichever way the animal lies."""
    half = Augmentation(0, 0, 0, 0, half_body_probability=1.0, half_body_joints=2)
    sizes = []
    for degrees in (0, 37, 90, -120):
        data = replace(dataset([(0, 1, degrees, (100, 80))]), skeleton=HALVES)
        sizes.append(samples(data, frames, augmentation=half)[0]["scale"].numpy())
    np.testing.assert_allclose(sizes, [sizes[0]] * 4, rtol=1e-9)


def box_at(track_boxes, number):
    """The interpolated box of MOVING, by hand: straight centres, shorter way round."""
    knots = [0, 4, 8]
    centers = track_boxes[:, :2] + track_boxes[:, 2:4] / 2
    x, y = (np.interp(number, knots, centers[:, axis]) for axis in (0, 1))
    angle = np.interp(number, knots, [170, 210, 60])  # -150 is 210; from there back to 60
    return x, y, angle


def corners(center, size, degrees):
    """Of a box that is turned about its centre, [4, 2]."""
    w, h = size / 2
    return placed([[-w, -h], [w, -h], [w, h], [-w, h]], degrees, 1.0, center)


@pytest.mark.parametrize("augmentation", [None, ALL])
def test_support_frames_show_their_own_box(frames, augmentation):
    """Corners of both boxes lie on the same pixels of both crops, whatever the augmentation."""
    data = dataset(MOVING)
    _, boxes = turned_boxes(data, REFERENCE)
    np.testing.assert_allclose(np.ptp(boxes[:, 2:4], axis=0), 0, atol=1e-9)
    size = boxes[0, 2:4]
    seen = set()
    for delta in (-3, -1, 0, 2, 4, 5):
        own = {"stage": "warp", "support_box": "own", "augmentation": augmentation}
        of = samples(data, frames, delta=delta, **own)
        for index, key in enumerate((0, 4, 8)):
            sample = of.sample(index, epoch=delta + 10)
            number = min(max(key + delta, 0), 12)
            assert sample["delta"] == number - key
            both = []
            for crop, n in zip(sample["crops"], (key, number), strict=True):
                x, y, angle = box_at(boxes, n)
                matrix = map_of(crop, n)
                both.append(corners((x, y), size, angle) @ matrix[:, :2].T + matrix[:, 2])
            np.testing.assert_allclose(both[0], both[1], atol=0.35)
            seen.add(number)
    assert {0, 1, 3, 6, 7, 10, 12} <= seen


def test_support_frames_in_the_key_box(frames):
    of = samples(dataset(MOVING), frames, stage="warp", delta=3, augmentation=ALL)
    for index, key in enumerate((0, 4, 8)):
        crops = of.sample(index, 1)["crops"]
        np.testing.assert_allclose(map_of(crops[0], key), map_of(crops[1], key + 3), atol=0.02)


def test_own_box_where_labels_do_not_reach(frames):
    """Somebody without a track, and across a labelled frame in which the person is not."""
    moving = MOVING[0], MOVING[2]  # absent from frame 4
    own = {"stage": "warp", "support_box": "own"}
    for people, delta, expected in (
        (moving, 3, 0),  # before the absence: the label's own box
        (moving, 4, 0),  # in it: nobody knows, so the key frame's
        (moving, 5, 1),  # after it: that of the next label
        ([(n, -1, d, at) for n, _, d, at in moving], 5, 0),  # who that is, nobody knows
        ([(n, -1, d, at) for n, _, d, at in moving], 2, 0),
    ):
        data = dataset(people)
        _, boxes = turned_boxes(data, REFERENCE)
        sample = samples(data, frames, delta=delta, **own)[0]
        of_key, of_support = turned_crop_matrices(boxes[[0, expected]], (64, 96))
        np.testing.assert_allclose(map_of(sample["crops"][0], 0), of_key, atol=0.3)
        np.testing.assert_allclose(map_of(sample["crops"][1], delta), of_support, atol=0.3)


def test_people_without_an_angle_have_their_own_box(frames):
    data = dataset(MOVING)
    keypoints = data.people.keypoints.copy()
    keypoints[1, 1:] = 0
    data = replace(data, people=replace(data.people, keypoints=keypoints))
    rows, boxes = turned_boxes(data, REFERENCE)
    np.testing.assert_array_equal(rows, [0, 1, 2])
    np.testing.assert_array_equal(boxes[1], [*usable_people(data)[1][1], 0])
    assert (boxes[[0, 2], 4] != 0).all()
    np.testing.assert_array_equal(turned_boxes(data)[1], not_turned(usable_people(data)[1]))
    assert torch.isfinite(samples(data, frames)[1]["joints"]).all()


def test_wrong_support_boxes(frames):
    with pytest.raises(ValueError, match="support_box: expected 'key' or 'own', got 'both'"):
        samples(dataset(MOVING), frames, support_box="both")
    twice = dataset([MOVING[0], MOVING[0]])
    samples(twice, frames, stage="warp")
    with pytest.raises(ValueError, match="second one of track 1"):
        samples(twice, frames, stage="warp", support_box="own")
