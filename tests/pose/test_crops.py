"""Boxes, affine maps, mirroring and augmentation against hand-made values and slow loops."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from posewarper.data.crops import (
    Augmentation,
    Region,
    _motion_blurred,
    box_to_center_scale,
    clean_boxes,
    crop,
    crop_matrices,
    invert_matrices,
    mirror_joints,
    normalise,
    transform_points,
)
from posewarper.data.people import person_sizes
from posewarper.skeleton import POSETRACK, Skeleton

CROP_WH = (288, 384)


def three_points(center, scale, rotation, out_wh):
    """The 2019 construction, point by point."""
    width, r = scale[0] * 200, math.radians(rotation)

    def triple(c, w, angle):
        first = np.array(c, float)
        second = first + np.array([w / 2 * math.sin(angle), -w / 2 * math.cos(angle)])
        d = first - second
        return np.float32([first, second, second + np.array([-d[1], d[0]])])

    return cv2.getAffineTransform(
        triple(center, width, r), triple((out_wh[0] / 2, out_wh[1] / 2), out_wh[0], 0.0)
    )


def slow_crop(image, matrix, out_wh):
    """Bilinear, zero outside, one pixel at a time."""
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    out = np.zeros((out_wh[1], out_wh[0], 3))
    for v in range(out_wh[1]):
        for u in range(out_wh[0]):
            x, y, _ = inverse @ (u, v, 1)
            x0, y0 = math.floor(x), math.floor(y)
            for yy, wy in ((y0, y0 + 1 - y), (y0 + 1, y - y0)):
                for xx, wx in ((x0, x0 + 1 - x), (x0 + 1, x - x0)):
                    if 0 <= yy < image.shape[0] and 0 <= xx < image.shape[1]:
                        out[v, u] += wy * wx * image[yy, xx]
    return out


def smooth_image(height, width):
    rng = np.random.default_rng(1)
    small = rng.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(
    ("box", "size_wh", "expected", "inside"),
    [
        ((10, 20, 30, 40), (100, 100), (10, 20, 29, 39), True),
        ((-5, -6, 30, 40), (100, 100), (0, 0, 29, 39), True),  # x1 first, then the full width
        ((90, 95, 30, 40), (100, 100), (90, 95, 9, 4), True),
        ((10, 20, 0, 0), (100, 100), (10, 20, 0, 0), True),
        ((100, 20, 5, 5), (100, 100), None, False),
        ((90, 95, 30, 40), (0, 0), (90, 95, 29, 39), True),  # size not known
    ],
)
def test_clean_boxes(box, size_wh, expected, inside):
    cleaned, valid = clean_boxes([box], size_wh)
    assert valid.tolist() == [inside]
    if inside:
        assert cleaned[0].tolist() == list(expected)


def test_box_to_center_scale_by_hand():
    center, scale = box_to_center_scale([(100, 200, 60, 400), (0, 0, 300, 100)], CROP_WH)
    assert center.tolist() == [[130, 400], [150, 50]]
    # 400 high -> 300 wide; 300 wide -> 400 high; times 1.25 / 200
    np.testing.assert_allclose(scale, [[1.875, 2.5], [1.875, 2.5]])


@pytest.mark.parametrize("rotation", [0, 30, 90, -45, 180])
@pytest.mark.parametrize("out_wh", [CROP_WH, (72, 96)])
def test_matrices_equal_the_three_point_construction(rotation, out_wh):
    rng = np.random.default_rng(abs(rotation))
    center, scale = rng.uniform(0, 500, (4, 2)), rng.uniform(0.3, 3, (4, 2))
    got = crop_matrices(center, scale, out_wh, rotation)
    for i in range(4):
        expected = three_points(center[i], scale[i], rotation, out_wh)
        np.testing.assert_allclose(got[i], expected, rtol=1e-4, atol=1e-3)  # its points are float32


def test_matrix_by_hand():
    # 400 px wide region around (200, 300) turned by 90 degrees; zoom 288 / 400 = 0.72
    matrix = crop_matrices([(200, 300)], [(2.0, 2.0)], CROP_WH, 90)
    points = transform_points([[(200, 300), (400, 300), (200, 500)]], matrix)[0]
    np.testing.assert_allclose(points, [(144, 192), (144, 48), (288, 192)], atol=1e-9)


def test_inverse_maps_back():
    rng = np.random.default_rng(0)
    matrix = crop_matrices(rng.uniform(0, 99, (5, 2)), rng.uniform(0.5, 2, (5, 2)), (72, 96), 33.0)
    points = rng.uniform(-20, 90, (5, 17, 2))
    there = transform_points(points, matrix)
    np.testing.assert_allclose(transform_points(there, invert_matrices(matrix)), points, atol=1e-9)


@pytest.mark.parametrize("rotation", [0, 25, 90, -137])
def test_crops_equal_slow_sampling(rotation):
    image = smooth_image(60, 80)
    matrices = crop_matrices([(40, 30), (5, 55)], [(0.3, 0.4), (0.2, 0.3)], (36, 48), rotation)
    got = crop(image, matrices, (36, 48))
    assert got.shape == (2, 48, 36, 3) and got.dtype == np.uint8
    for one, matrix in zip(got, matrices, strict=True):
        # OpenCV rounds positions to 1/32 pixel
        difference = np.abs(one - slow_crop(image, matrix, (36, 48)))
        assert difference.max() <= 6 and difference.mean() < 0.8
    assert got[1].min() == 0  # outside the image


@pytest.mark.parametrize("rotation", [0, 40])
def test_mirrored_crop_equals_crop_of_mirrored_image(rotation):
    image = smooth_image(60, 81)
    region = Region(np.array([30.0, 31.5]), np.array([0.25, 0.3]), rotation, mirrored=True)
    got = crop(image, region.matrix((36, 48), 81), (36, 48))[0]
    plain = crop_matrices(region.center, region.scale, (36, 48), rotation)
    expected = crop(np.ascontiguousarray(image[:, ::-1]), plain, (36, 48))[0]
    assert np.abs(got.astype(int) - expected).max() <= 5
    # the same map for joints: mirror, then plain
    joints = np.array([[[3.0, 4], [50, 20]]])
    both = transform_points(joints, region.matrix((36, 48), 81))
    mirrored = joints * [-1, 1] + [80, 0]
    np.testing.assert_allclose(both, transform_points(mirrored, plain), atol=1e-9)


def test_mirror_joints_by_hand():
    joints = np.arange(34, dtype=float).reshape(17, 2) + 10
    visible = np.ones(17)
    visible[6] = 0
    got, seen = mirror_joints(joints, visible, POSETRACK, 100)
    assert got[0].tolist() == [99 - 10, 11]  # the nose stays the nose
    assert got[1].tolist() == [99 - 12, 13]  # head_bottom and head_top are no pair
    assert got[6].tolist() == [99 - 20, 21]  # right shoulder from left shoulder (5)
    assert got[5].tolist() == [0, 0] and seen[5] == 0  # left one from the right one, not visible
    again, _ = mirror_joints(got, seen, POSETRACK, 100)
    np.testing.assert_array_equal(again[:5], joints[:5])


def test_normalise_by_hand():
    pixels = torch.tensor([255, 0, 51], dtype=torch.uint8).view(3, 1, 1)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(normalise(pixels).flatten(), torch.tensor(expected))


class Fixed:
    """A generator that gives what it is told."""

    def __init__(self, normal=(), uniform=()):
        self.normal, self.uniform = list(normal), list(uniform)

    def standard_normal(self):
        return self.normal.pop(0)

    def random(self):
        return self.uniform.pop(0)


def draw(random, visible=None, joints=None, augmentation=None):
    region = Region(np.array([50.0, 60.0]), np.array([1.0, 2.0]))
    joints = np.zeros((17, 2)) if joints is None else joints
    visible = np.zeros(17) if visible is None else visible
    augmentation = augmentation or Augmentation()
    return augmentation.draw(random, region, joints, visible, POSETRACK, CROP_WH, 200)


def test_augmentation_by_hand():
    # scale 1 + 0.35 * 0.5; turned, 45 * -1; mirrored: 200 - 1 - 50
    got = draw(Fixed(normal=[0.5, -1.0], uniform=[0.59, 0.49]))
    np.testing.assert_allclose(got.scale, [1.175, 2.35])
    assert (got.rotation, got.mirrored, got.center.tolist()) == (-45, True, [149, 60])
    got = draw(Fixed(normal=[9.0], uniform=[0.61, 0.51]))
    np.testing.assert_allclose(got.scale, [1.35, 2.7])
    assert (got.rotation, got.mirrored, got.center.tolist()) == (0, False, [50, 60])
    assert draw(Fixed(normal=[-9.0, 9.0], uniform=[0, 1])).rotation == 90


def test_half_body_by_hand():
    joints = np.zeros((17, 2))
    joints[:11] = [(10 + i, 100 + 2 * i) for i in range(11)]
    joints[11:] = [(300 + 4 * i, 400 + i) for i in range(6)]
    rest = {"normal": [0.0], "uniform": [0.29, 0.7, 0.6]}  # no change of scale, not turned, upright
    upper = draw(Fixed([0.49, *rest["normal"]], rest["uniform"]), np.ones(17), joints)
    assert upper.center.tolist() == [15, 110]
    np.testing.assert_allclose(upper.scale, [15 / 200 * 1.5, 20 / 200 * 1.5])
    lower = draw(Fixed([0.5, *rest["normal"]], rest["uniform"]), np.ones(17), joints)
    assert lower.center.tolist() == [310, 402.5]
    np.testing.assert_allclose(lower.scale, [20 / 200 * 1.5, 20 / 0.75 / 200 * 1.5])
    few_lower = np.ones(17)
    few_lower[13:] = 0  # two of them: the upper half is taken after all
    assert draw(Fixed([0.5, 0.0], [0.29, 0.7, 0.6]), few_lower, joints).center.tolist() == [15, 110]
    eight = np.zeros(17)
    eight[:8] = 1  # not more than 8 joints: nothing is drawn
    assert draw(Fixed([0.0], [0.7, 0.6]), eight, joints).center.tolist() == [50, 60]


@pytest.mark.parametrize(("kind", "expected"), [("normal", 0.6915), ("uniform", 0.5)])
def test_half_body_statistics(kind, expected):
    joints = np.zeros((17, 2))
    joints[:11, 0], joints[11:, 0] = np.arange(11), 100 + np.arange(6)
    random, drawn = np.random.default_rng(0), []
    for _ in range(6000):
        augmentation = Augmentation(flip_probability=0, half_body_draw=kind)
        drawn.append(draw(random, np.ones(17), joints, augmentation).center[0])
    drawn = np.array(drawn)
    halves = drawn != 50
    assert abs(halves.mean() - 0.3) < 0.02
    assert abs((drawn[halves] < 50).mean() - expected) < 0.035


def test_draws_have_the_stated_distribution():
    random = np.random.default_rng(0)
    got = [draw(random) for _ in range(6000)]
    scale = np.array([g.scale[0] for g in got])
    rotation = np.array([g.rotation for g in got])
    assert scale.min() == pytest.approx(0.65) and scale.max() == pytest.approx(1.35)
    assert abs((scale < 0.6501).mean() - 0.1587) < 0.02  # beyond one deviation
    assert abs((rotation != 0).mean() - 0.6) < 0.02
    assert abs((np.abs(rotation) == 90).mean() - 0.6 * 0.0455) < 0.01
    assert abs(np.mean([g.mirrored for g in got]) - 0.5) < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip_probability": 1.1}, "flip_probability: expected 0 to 1, got 1.1"),
        ({"key_damage_probability": -0.1}, "key_damage_probability: expected 0 to 1"),
        ({"half_body_probability": math.nan}, "half_body_probability: expected 0 to 1"),
        ({"rotation_factor": -1.0}, "rotation_factor: expected 0 or more"),
        ({"rotation_factor": math.inf}, "rotation_factor: expected 0 or more"),
        ({"scale_factor": math.nan}, "scale_factor: expected 0 or more"),
        ({"scale_factor": 1.0}, "scale_factor: expected less than 1, got 1.0"),
        ({"half_body_draw": "even"}, "half_body_draw: expected one of normal, uniform, got 'even'"),
    ],
)
def test_bad_augmentation(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


SHAPES = [(384, 288), (96, 64), (16, 16), (9, 200), (200, 9), (5, 3)]


class Kind:
    """A generator that chooses one kind of damage."""

    def __init__(self, kind, seed):
        self._numbers, self._kind = np.random.default_rng(seed), kind

    def integers(self, *arguments):
        return self._kind if arguments == (3,) else self._numbers.integers(*arguments)

    def __getattr__(self, name):
        return getattr(self._numbers, name)


def noise(shape):
    return np.random.default_rng(3).integers(0, 256, (*shape, 3)).astype(np.uint8)


def test_no_damage_draws_nothing():
    random = np.random.default_rng(0)
    before, image = random.bit_generator.state, noise((96, 64))
    assert Augmentation().damaged(random, image) is image
    assert random.bit_generator.state == before


def test_how_often_crops_are_damaged():
    random, image = np.random.default_rng(0), noise((32, 24))
    augmentation = Augmentation(key_damage_probability=0.3)
    damaged = [augmentation.damaged(random, image) is not image for _ in range(2000)]
    assert abs(np.mean(damaged) - 0.3) < 0.04


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["motion", "focus", "cover"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_damage_is_seen_and_follows_from_the_seed(kind, shape):
    image, always = noise(shape), Augmentation(key_damage_probability=1)
    kept = image.copy()
    for seed in range(60):
        got = always.damaged(Kind(kind, seed), image)
        assert got.shape == image.shape and got.dtype == np.uint8
        assert (got != image).any()
        np.testing.assert_array_equal(got, always.damaged(Kind(kind, seed), image))
        changed = (got != image).any(2)
        if kind < 2:
            if min(shape) > 50:  # in small crops the border weighs more
                assert abs(got.mean() - image.mean()) < 2
            assert got.std() < image.std()
        else:
            rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
            inside = got[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].reshape(-1, 3)
            assert (inside == inside[0]).all()  # one rectangle of one colour
            largest = [max(1, int(0.6 * size)) for size in shape]
            assert len(rows) <= largest[0] and len(columns) <= largest[1]
    np.testing.assert_array_equal(image, kept)


def test_all_kinds_of_damage_occur():
    image, always = noise((96, 64)), Augmentation(key_damage_probability=1)
    random = np.random.default_rng(0)
    untouched = [(always.damaged(random, image) == image).all(2).mean() for _ in range(300)]
    # A rectangle leaves most pixels as they are, a blur hardly any.
    assert abs(np.mean(np.array(untouched) > 0.5) - 1 / 3) < 0.1


def test_motion_blur_has_a_direction():
    """A dot becomes a line of the drawn length and angle, of the same weight."""
    image = np.zeros((101, 101, 3), np.uint8)
    image[50, 50] = 255
    for angle in (0.0, 0.5, np.pi / 2, 2.5):
        blurred = _motion_blurred(image, 20.0, angle)[:, :, 0].astype(float)
        y, x = np.nonzero(blurred)
        assert np.hypot(np.ptp(x), np.ptp(y)) == pytest.approx(20, abs=1.5)
        across = (x - 50) * np.sin(angle) - (y - 50) * np.cos(angle)
        # filter2D correlates: the line is mirrored at the dot, which changes nothing
        assert np.abs(across).max() < 1.2
        assert blurred.sum() == pytest.approx(255, rel=0.06)


def test_no_half_body_without_halves():
    skeleton = Skeleton("tail", tuple("abcdefghij"))
    region = Region(np.array([50.0, 60.0]), np.array([1.0, 2.0]))
    random = Fixed([0.0], [0.9, 0.9])
    ones = np.ones((10, 2))
    got = Augmentation().draw(random, region, ones, np.ones(10), skeleton, CROP_WH, 200)
    assert got.center.tolist() == [50, 60]


def test_the_size_of_a_person_is_the_longer_side_around_the_labelled_joints():
    points = np.array(
        [[[0, 0], [30, 50], [900, 900]], [[7, 7]] * 3, [[1, 2], [11, 2], [5, 3]]], float
    )
    labelled = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1]], bool)
    np.testing.assert_array_equal(person_sizes(points, labelled), [50, 0, 10])
    missing = np.where(labelled[..., None], points, np.nan)
    np.testing.assert_array_equal(person_sizes(missing), [50, 0, 10])
    assert person_sizes(points[0], labelled[0]) == 50
    np.testing.assert_array_equal(person_sizes(points, np.zeros_like(labelled)), [0, 0, 0])
    assert person_sizes(np.zeros((0, 3, 2))).shape == (0,)
