"""Similarity of people and suppression, against the formula written out person by person."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posewarper.inference.nms import joint_sigmas, oks_between, oks_nms, soft_oks_nms
from posewarper.skeleton import POSETRACK, Skeleton

SIGMAS = np.array([0.026, 0.079, 0.107])


def slow_oks(a, b, area_a, area_b, sigmas, shared):
    """The formula of the HRNet code, joint by joint."""
    values = []
    for joint, sigma in enumerate(sigmas):
        if shared[joint]:
            variance = (2 * sigma) ** 2
            square = (a[joint][0] - b[joint][0]) ** 2 + (a[joint][1] - b[joint][1]) ** 2
            values.append(math.exp(-square / variance / ((area_a + area_b) / 2) / 2))
    return sum(values) / len(values) if values else 0.0


def crowd(seed, count):
    """People in a few places, so that some are alike and some are not."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 200, (3, 1, 2))
    points = places[rng.integers(0, 3, count)] + rng.normal(0, 4, (count, 3, 2))
    present = rng.random((count, 3)) < 0.8
    return points, rng.uniform(200, 2000, count), rng.random(count).round(1), present


def test_values_by_hand():
    points = np.zeros((2, 1, 2))
    points[1, 0] = 3, 4
    # d^2 = 25, variance (2 * 0.1)^2 = 0.04, mean area (100 + 300) / 2 = 200
    got = oks_between(points, [100, 300], [0.1])
    np.testing.assert_allclose(got, [[1, math.exp(-25 / 16)], [math.exp(-25 / 16), 1]])


@pytest.mark.parametrize("seed", range(3))
def test_similarity_equals_the_formula(seed):
    points, areas, _, present = crowd(seed, 7)
    present[0] = False  # shares no joint with anybody
    got = oks_between(points, areas, SIGMAS, present)
    for a in range(7):
        for b in range(7):
            shared = present[a] & present[b]
            expected = slow_oks(points[a], points[b], areas[a], areas[b], SIGMAS, shared)
            assert got[a, b] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(oks_between(points, areas, SIGMAS, present, [4, 2]), got[[4, 2]])


@given(st.integers(0, 10_000), st.integers(0, 12), st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]))
def test_hard_suppression_is_greedy(seed, count, threshold):
    points, areas, scores, present = crowd(seed, count)
    kept = oks_nms(points, scores, areas, SIGMAS, threshold, present=present)
    expected: list[int] = []
    for row in sorted(range(count), key=lambda row: (-scores[row], row)):
        similar = [
            slow_oks(
                points[row], points[other], areas[row], areas[other], SIGMAS,
                present[row] & present[other],
            )
            for other in expected
        ]  # fmt: skip
        if all(value <= threshold for value in similar):
            expected.append(row)
    assert kept.tolist() == expected


@given(st.integers(0, 10_000), st.integers(0, 10), st.sampled_from([0.2, 0.5, 0.9]))
def test_soft_suppression_lowers_scores(seed, count, threshold):
    points, areas, scores, present = crowd(seed, count)
    rows, lowered = soft_oks_nms(points, scores, areas, SIGMAS, threshold, present=present)
    left, current, expected = list(range(count)), scores.tolist(), []
    while left:
        best = max(left, key=lambda row: (current[row], -row))
        left.remove(best)
        expected.append((best, current[best]))
        for row in left:
            oks = slow_oks(
                points[row], points[best], areas[row], areas[best], SIGMAS,
                present[row] & present[best],
            )  # fmt: skip
            current[row] *= math.exp(-(oks**2) / threshold)
    assert rows.tolist() == [row for row, _ in expected]
    np.testing.assert_allclose(lowered, [score for _, score in expected], rtol=1e-9)
    assert (np.diff(lowered) <= 1e-12).all()


def test_limit_of_soft_suppression():
    points, areas, scores, _ = crowd(1, 30)
    everybody, _ = soft_oks_nms(points, scores, areas, SIGMAS)
    some, _ = soft_oks_nms(points, scores, areas, SIGMAS, limit=20)
    assert len(everybody) == 30 and some.tolist() == everybody[:20].tolist()


def test_arguments_stay_as_they_are():
    points, areas, scores, present = crowd(2, 8)
    before = scores.copy()
    soft_oks_nms(points, scores, areas, SIGMAS, present=present)
    np.testing.assert_array_equal(scores, before)


def test_sigmas():
    assert joint_sigmas(POSETRACK).tolist() == list(POSETRACK.sigmas)
    assert joint_sigmas(POSETRACK, 0.05).tolist() == [0.05] * 17
    tail = Skeleton("tail", ("nose", "tail"))
    assert joint_sigmas(tail, (0.1, 0.2)).tolist() == [0.1, 0.2]
    with pytest.raises(ValueError, match="'tail' has none, which OKS needs"):
        joint_sigmas(tail)
    for wrong in ((0.1, 0.2, 0.3), -1.0, (0.1, float("nan"))):
        with pytest.raises(ValueError, match="sigmas: expected one positive number, or 2"):
            joint_sigmas(tail, wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": np.zeros((2, 3))}, r"points: expected \[P, J, 2\], got \[2, 3\]"),
        ({"areas": [1.0]}, r"areas: expected \[2\], got \[1\]"),
        ({"sigmas": [0.1] * 4}, r"sigmas: expected \[3\], got \[4\]"),
        ({"present": np.ones((2, 2))}, r"present: expected \[2, 3\], got \[2, 2\]"),
        ({"scores": [1.0, float("nan")]}, "scores: expected 2 finite numbers"),
        ({"scores": [1.0]}, "scores: expected 2 finite numbers"),
        ({"threshold": 1.1}, "threshold: expected 0..1, got 1.1"),
    ],
)
@pytest.mark.parametrize("suppress", [oks_nms, soft_oks_nms])
def test_errors(suppress, change, message):
    good = {"points": np.zeros((2, 3, 2)), "scores": [1, 2], "areas": [1, 1], "sigmas": SIGMAS}
    with pytest.raises(ValueError, match=message):
        suppress(**good | change)


def test_errors_of_soft_suppression():
    good = {"points": np.zeros((2, 3, 2)), "scores": [1, 2], "areas": [1, 1], "sigmas": SIGMAS}
    with pytest.raises(ValueError, match="above 0"):
        soft_oks_nms(**good, threshold=0)
    with pytest.raises(ValueError, match="limit: expected at least 1, got 0"):
        soft_oks_nms(**good, limit=0)
