"""Targets and decoding: worked examples, and the rules written out one joint at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from posewarper.heatmaps import decode, encode, merge_flipped
from posewarper.skeleton import POSETRACK

HW = (24, 18)


def slow_target(
    x: float, y: float, weight: float, hw: tuple[int, int], sigma: float, stride: float
) -> tuple[NDArray[np.float32], float]:
    """One joint by the rules of 2019, pixel by pixel in Python floats."""
    centre_x, centre_y = int(x / stride + 0.5), int(y / stride + 0.5)
    radius = int(3 * sigma)
    target = np.zeros(hw, np.float32)
    # as 2019 has it: corners by int(), the right and lower one a pixel beyond the square
    ends = [int(centre + 3 * sigma + 1) for centre in (centre_x, centre_y)]
    begins = [int(centre - 3 * sigma) for centre in (centre_x, centre_y)]
    reaches = min(ends) >= 0 and begins[0] < hw[1] and begins[1] < hw[0]
    for row in range(centre_y - radius, centre_y + radius + 1):
        for column in range(centre_x - radius, centre_x + radius + 1):
            if 0 <= row < hw[0] and 0 <= column < hw[1]:
                squared = (row - centre_y) ** 2 + (column - centre_x) ** 2
                if weight > 0.5:
                    target[row, column] = math.exp(-squared / (2 * sigma**2))
    return target, weight if reaches else 0.0


def encode_one(x: float, y: float, weight: float = 1.0) -> tuple[NDArray[np.float32], float]:
    targets, weights = encode(np.array([x, y]), np.array(weight), HW)
    return targets, float(weights)


def peak(target: NDArray[np.float32]) -> tuple[int, int]:
    assert target.max() == 1.0
    y, x = np.unravel_index(target.argmax(), target.shape)
    return int(x), int(y)


@pytest.mark.parametrize(
    ("x", "y", "centre"),
    [
        (36.0, 48.0, (9, 12)),
        (37.9, 45.9, (9, 11)),  # 9.475 + 0.5, 11.475 + 0.5
        (38.0, 46.0, (10, 12)),  # halves go up: 9.5 + 0.5 = 10
        (34.0, 42.0, (9, 11)),  # also even ones: 8.5 + 0.5 = 9
        (0.0, 0.0, (0, 0)),
        (-2.0, -1.0, (0, 0)),  # -0.5 + 0.5 = 0
        (-5.9, -3.0, (0, 0)),  # -1.475 + 0.5 = -0.975, cut to 0: rounding would give -1
        (69.9, 93.9, (17, 23)),
    ],
)
def test_centres(x: float, y: float, centre: tuple[int, int]) -> None:
    target, weight = encode_one(x, y)
    assert peak(target) == centre
    assert weight == 1.0


def test_values_and_extent() -> None:
    target, _ = encode_one(36.0, 48.0)  # centre (9, 12), square 0..18 x 3..21 on a map 18 x 24
    assert target.dtype == np.float32
    assert target[12, 10] == np.float32(math.exp(-1 / 18))
    assert target[14, 12] == pytest.approx(math.exp(-13 / 18), rel=3e-7)
    assert target[3, 9] == pytest.approx(math.exp(-4.5), rel=1e-6)
    assert target[21, 0] == pytest.approx(math.exp(-9), rel=1e-6)
    assert (target[2] == 0).all()
    assert (target[22] == 0).all()
    assert (target[3:22] > 0).all()


@pytest.mark.parametrize(
    ("x", "y", "weight"),
    [
        (-40.0, 48.0, 1.0),  # -10 + 0.5 = -9.5, cut to -9: the last column of the square is 0
        (-45.9, 48.0, 1.0),  # -10.975, cut to -10: the square ends at -1, the weight stays
        (-42.0, 197.0, 0.0),  # below the map
        (-46.0, 48.0, 0.0),  # -11
        (36.0, -45.9, 1.0),
        (36.0, -46.0, 0.0),
        (105.9, 48.0, 1.0),  # 26 - 9 = 17, the last column
        (106.0, 48.0, 0.0),
        (36.0, 129.9, 1.0),  # 32 - 9 = 23, the last row
        (36.0, 130.0, 0.0),
        (1e30, 48.0, 0.0),
        (36.0, -1e30, 0.0),
    ],
)
def test_weight_is_zero_if_wholly_outside(x: float, y: float, weight: float) -> None:
    target, got = encode_one(x, y)
    assert got == weight
    assert bool(target.any()) == (weight > 0 and min(x, y) > -42)


def test_what_is_painted() -> None:
    joints = np.full((5, 2), 36.0)
    joints[1] = np.nan
    visibility = np.array([1.0, 0.0, 0.5, 0.51, 2.0])
    targets, weights = encode(joints, visibility, HW)
    assert weights.tolist() == np.float32(visibility).tolist()
    assert targets.any((1, 2)).tolist() == [True, False, False, True, True]
    assert visibility[4] == 2.0  # the argument stays


@given(
    st.lists(
        st.tuples(
            st.floats(-80, 160), st.floats(-80, 180), st.sampled_from([0.0, 0.4, 0.5, 0.6, 1.0])
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([1.0, 2.0, 2.5, 3.0]),
    st.sampled_from([2.0, 4.0]),
)
def test_equals_the_rules(
    people: Sequence[tuple[float, float, float]], sigma: float, stride: float
) -> None:
    values = np.array(people)
    targets, weights = encode(values[:, :2], values[:, 2], HW, sigma, stride)
    for i, (x, y, weight) in enumerate(people):
        target, expected = slow_target(x, y, weight, HW, sigma, stride)
        assert weights[i] == np.float32(expected)
        np.testing.assert_allclose(targets[i], target, rtol=3e-7)
        assert ((targets[i] > 0) == (target > 0)).all()


def test_any_leading_shape() -> None:
    joints = np.random.default_rng(0).uniform(0, 70, (2, 3, 4, 2)).astype(np.float32)
    visibility = np.ones((2, 3, 4), bool)
    targets, weights = encode(joints, visibility, HW)
    assert targets.shape == (2, 3, 4, *HW)
    assert weights.dtype == np.float32
    for index in np.ndindex(2, 3, 4):
        single, _ = encode(joints[index], visibility[index], HW)
        assert np.array_equal(targets[index], single)
    targets, weights = encode(np.zeros((0, 17, 2)), np.zeros((0, 17)), HW)
    assert targets.shape == (0, 17, *HW)
    assert weights.shape == (0, 17)


@pytest.mark.parametrize(
    ("joints", "visibility", "options", "message"),
    [
        (np.zeros((2, 3)), np.zeros(2), {}, r"joints: expected the shape of visibility \(2,\)"),
        (np.zeros((2, 2)), np.zeros(3), {}, "joints: expected the shape"),
        (np.zeros((1, 2)), np.ones(1), {"sigma": 0.0}, "expected positive"),
        (np.zeros((1, 2)), np.ones(1), {"stride": math.nan}, "expected positive"),
        (np.full((1, 2), np.nan), np.ones(1), {}, "finite"),
        (np.array([[0, np.inf]]), np.ones(1), {}, "finite"),
    ],
)
def test_wrong_joints(
    joints: NDArray[np.float64],
    visibility: NDArray[np.float64],
    options: dict[str, float],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        encode(joints, visibility, HW, **options)


def heatmap(points: dict[tuple[int, int], float], hw: tuple[int, int] = HW) -> Tensor:
    """Zero but for the values at (x, y)."""
    map_ = torch.zeros(hw)
    for (x, y), value in points.items():
        map_[y, x] = value
    return map_


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ({(5, 7): 0.8, (6, 7): 0.4, (4, 7): 0.1}, (5.25, 7.0)),
        ({(5, 7): 0.8, (4, 7): 0.4, (5, 8): 0.1}, (4.75, 7.25)),
        ({(5, 7): 0.8, (5, 6): 1e-30}, (5.0, 6.75)),
        ({(5, 7): 0.8, (4, 7): 0.3, (6, 7): 0.3}, (5.0, 7.0)),  # equal neighbours
        ({(5, 7): 0.8, (9, 7): 0.8}, (5.0, 7.0)),  # equal maxima: the first one
        ({(9, 6): 0.8, (5, 7): 0.8}, (9.0, 6.0)),
        ({(2, 2): 0.8, (3, 2): 0.1, (2, 3): 0.1}, (2.25, 2.25)),  # first pixel with 1 < p
        ({(1, 7): 0.8, (2, 7): 0.1, (1, 8): 0.1}, (1.0, 7.0)),  # neither coordinate moves
        ({(5, 1): 0.8, (6, 1): 0.1}, (5.0, 1.0)),
        ({(16, 22): 0.8, (15, 22): 0.1, (16, 21): 0.1}, (15.75, 21.75)),  # w - 2, h - 2
        ({(17, 7): 0.8, (16, 7): 0.1}, (17.0, 7.0)),  # w - 1
        ({(5, 23): 0.8, (6, 23): 0.1}, (5.0, 23.0)),
        ({(0, 0): 0.8, (1, 0): 0.1}, (0.0, 0.0)),
        ({(17, 23): 1e-30}, (17.0, 23.0)),
    ],
)
def test_quarter_offset(
    points: dict[tuple[int, int], float], expected: tuple[float, float]
) -> None:
    coordinates, score = decode(heatmap(points))
    assert tuple(coordinates.tolist()) == expected
    assert score == heatmap(points).max()
    plain, _ = decode(heatmap(points), "none")
    assert tuple(plain.tolist()) == tuple(round(value) for value in expected)


@pytest.mark.parametrize("refinement", ["quarter", "dark", "none"])
@pytest.mark.parametrize("value", [0.0, -0.0, -3.0])
def test_nothing_found(refinement: str, value: float) -> None:
    """No positive value: the corner, whatever is around; the score is what it is."""
    map_ = torch.full(HW, -5.0)
    map_[7, 5] = value
    coordinates, score = decode(map_, refinement)
    assert coordinates.tolist() == [0.0, 0.0]
    assert score == value


def slow_decode(map_: NDArray[np.float32]) -> tuple[float, float, float]:
    height, width = map_.shape
    best = (0, 0)
    for y in range(height):
        for x in range(width):
            if map_[y, x] > map_[best[1], best[0]]:
                best = (x, y)
    score = float(map_[best[1], best[0]])
    if score <= 0:
        return 0.0, 0.0, score
    x, y = best
    if not (1 < x < width - 1 and 1 < y < height - 1):
        return float(x), float(y), score
    step_x = float(np.sign(map_[y, x + 1] - map_[y, x - 1]))
    step_y = float(np.sign(map_[y + 1, x] - map_[y - 1, x]))
    return x + 0.25 * step_x, y + 0.25 * step_y, score


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 7))
def test_decode_equals_the_rules(seed: int, height: int, width: int) -> None:
    """Few different values: ties, borders and maps without a positive value are frequent."""
    rng = np.random.default_rng(seed)
    maps = rng.integers(-2, rng.integers(0, 4), (3, 2, height, width), endpoint=True)
    coordinates, scores = decode(torch.from_numpy(maps.astype(np.float32)))
    assert coordinates.shape == (3, 2, 2)
    for index in np.ndindex(3, 2):
        expected = slow_decode(maps[index].astype(np.float32))
        assert (*coordinates[index].tolist(), float(scores[index])) == expected


def test_decode_dtypes_and_layouts() -> None:
    maps = torch.rand(2, 3, *HW)
    expected, scores = decode(maps)
    last, _ = decode(maps.to(memory_format=torch.channels_last))
    assert torch.equal(last, expected)
    low, low_scores = decode(maps.bfloat16())
    assert low.dtype == low_scores.dtype == torch.float32
    assert torch.equal(low, decode(maps.bfloat16().float())[0])
    double, double_scores = decode(maps.double())
    assert double.dtype == torch.float64
    assert torch.equal(double_scores.float(), scores)
    empty, none = decode(torch.zeros(0, 17, *HW))
    assert empty.shape == (0, 17, 2)
    assert none.shape == (0, 17)


def test_not_a_number_is_not_found() -> None:
    coordinates, score = decode(torch.full(HW, math.nan))
    assert coordinates.tolist() == [0.0, 0.0]
    assert score.isnan()


def test_targets_decode_to_their_centres() -> None:
    centres = np.random.default_rng(1).integers(2, 16, (50, 2))
    targets, _ = encode(4.0 * centres, np.ones(50), HW)
    for refinement in ("quarter", "dark", "none"):
        coordinates, scores = decode(torch.from_numpy(targets), refinement)
        np.testing.assert_allclose(coordinates.numpy(), centres, atol=2e-3)
        assert scores.eq(1).all()


def gaussians(
    centres: Tensor, sigma: float, hw: tuple[int, int], height: float = 1.0, ratio: float = 1.0
) -> Tensor:
    """Sampled at the pixels, ``[n, h, w]``; ``ratio`` turns them into tilted ellipses."""
    y, x = torch.meshgrid(torch.arange(hw[0]), torch.arange(hw[1]), indexing="ij")
    dx, dy = x - centres[:, :1, None], y - centres[:, 1:, None]
    across, along = (dx + dy) / math.sqrt(2), (dx - dy) / math.sqrt(2) / ratio
    return height * torch.exp(-(across**2 + along**2) / (2 * sigma**2))


@pytest.mark.parametrize("height", [1e-20, 0.3, 1.0, 100.0])
@pytest.mark.parametrize(("sigma", "ratio"), [(2.0, 1.0), (3.0, 1.0), (3.0, 1.3)])
def test_dark_finds_the_centres_of_gaussians(sigma: float, ratio: float, height: float) -> None:
    centres = 30 + 10 * torch.rand(200, 2, dtype=torch.float64)
    maps = gaussians(centres, sigma, (72, 72), height, ratio)
    coordinates, scores = decode(maps, "dark", dark_sigma=sigma)
    assert (coordinates - centres).abs().max() < 2e-3
    assert torch.equal(scores, maps.amax((1, 2)))
    single, _ = decode(maps.float(), "dark", dark_sigma=sigma)
    assert (single - centres).abs().max() < 5e-3
    quarter, _ = decode(maps)
    assert (quarter - centres).abs().max() > 0.2


def test_dark_sees_through_noise() -> None:
    """The blur is what makes the second derivative usable."""
    centres = 30 + 10 * torch.rand(200, 2)
    maps = gaussians(centres, 3.0, (72, 72)) + 0.05 * torch.rand(200, 72, 72)
    error = {
        name: (decode(maps, name)[0] - centres).norm(dim=1).mean() for name in ("dark", "quarter")
    }
    assert error["dark"] < 0.5 * error["quarter"]


@pytest.mark.parametrize("distance", [1, 2, 4, 7])
def test_dark_near_borders(distance: int) -> None:
    """What lies outside is not taken for zero."""
    centres = distance - 0.5 + torch.rand(200, 2, dtype=torch.float64)
    centres[100:] = torch.tensor([71, 95]) - centres[100:]
    maps = gaussians(centres, 3.0, (96, 72))
    assert (decode(maps, "dark")[0] - centres).abs().max() < 0.02


def test_dark_at_borders_and_without_a_maximum() -> None:
    corner = gaussians(torch.tensor([[0.3, 10.0], [17.0, 23.0]]), 3.0, HW)
    assert decode(corner, "dark")[0].tolist() == [[0.0, 10.0], [17.0, 23.0]]
    near = gaussians(torch.tensor([[1.2, 10.3]]), 3.0, HW)
    coordinates, _ = decode(near, "dark")
    assert (coordinates - torch.tensor([[1.0, 10.0]])).abs().max() <= 1
    flat = torch.ones(1, *HW)
    assert decode(flat, "dark")[0].tolist() == [[0.0, 0.0]]
    negative = torch.full((1, *HW), -1.0)
    negative[0, 10, 10] = 1.0
    assert decode(negative, "dark")[0].isfinite().all()


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((5,), {}, r"heatmaps: expected \[\.\.\., h, w\], got \(5,\)"),
        ((2, 0, 4), {}, "heatmaps: expected"),
        ((4, 4), {"refinement": "half"}, "refinement: expected one of"),
        ((4, 4), {"dark_sigma": 0.0}, "dark_sigma: expected positive"),
    ],
)
def test_wrong_heatmaps(shape: tuple[int, ...], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(torch.zeros(shape), **options)  # type: ignore[arg-type]


def test_flip_merge_undoes_the_mirror() -> None:
    maps = torch.rand(2, 17, *HW)
    mirrored_image = maps.flip(-1)[:, list(POSETRACK.mirrored)]
    assert torch.equal(merge_flipped(maps, mirrored_image, POSETRACK.mirrored), maps)


def test_flip_merge_by_hand() -> None:
    maps = torch.tensor([[[0.0, 0, 0, 0]], [[4.0, 4, 4, 4]]])  # [2, 1, 4]
    flipped = torch.tensor([[[1.0, 2, 3, 4]], [[5.0, 6, 7, 8]]])
    got = merge_flipped(maps, flipped, (1, 0))
    assert (2 * got).tolist() == [[[8, 7, 6, 5]], [[8, 7, 6, 5]]]
    got = merge_flipped(maps, flipped, (1, 0), shift=True)
    assert (2 * got).tolist() == [[[8, 8, 7, 6]], [[8, 8, 7, 6]]]
    with pytest.raises(ValueError, match="mirrored: expected an order of 2 joints"):
        merge_flipped(maps, flipped, (0, 0))
    with pytest.raises(ValueError, match="flipped: expected"):
        merge_flipped(maps, flipped[:1], (1, 0))


def test_the_joint_of_the_full_size_that_2019_keeps() -> None:
    """(-42, 197) in a crop of 288x384: its square ends just before the map."""
    targets, weight = encode(np.array([-42.0, 197.0]), np.array(1.0), (96, 72))
    assert weight == 1.0 and not targets.any()
    targets, weight = encode(np.array([-42.0, 197.0]), np.array(1.0), (96, 72), rounded=False)
    assert weight == 0.0 and not targets.any()
