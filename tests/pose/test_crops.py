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
    box_to_center_scale,
    clean_boxes,
    crop,
    crop_matrices,
    invert_matrices,
    mirror_joints,
    normalise,
    transform_points,
)
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


def test_no_half_body_without_halves():
    skeleton = Skeleton("tail", tuple("abcdefghij"))
    region = Region(np.array([50.0, 60.0]), np.array([1.0, 2.0]))
    random = Fixed([0.0], [0.9, 0.9])
    ones = np.ones((10, 2))
    got = Augmentation().draw(random, region, ones, np.ones(10), skeleton, CROP_WH, 200)
    assert got.center.tolist() == [50, 60]
