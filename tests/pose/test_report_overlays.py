"""Poses drawn on frames: in the right place and colour, and nothing where nothing is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from posewarper.report import PALETTE, captioned, draw_differences, draw_poses, side_by_side
from posewarper.skeleton import POSETRACK, Skeleton

LINE = Skeleton("line", ("a", "b", "c"), limbs=((0, 1), (1, 2)))
GREY = np.full((80, 120, 3), 90, np.uint8)


def person(*joints: tuple[float, float, float]) -> NDArray[np.float64]:
    return np.array([joints], np.float64)


def changed(image: NDArray[np.uint8], ground: NDArray[np.uint8] = GREY) -> NDArray[np.bool_]:
    return np.asarray((image != ground).any(-1))


def test_joints_and_limbs_are_where_the_keypoints_are() -> None:
    before = GREY.copy()
    drawn = draw_poses(GREY, person((20, 30, 2), (80, 30, 1), (80, 60, 2)), LINE, line_width=3)
    np.testing.assert_array_equal(GREY, before)  # the frame is not written to
    assert drawn.shape == GREY.shape and drawn.dtype == np.uint8
    for x, y in ((20, 30), (80, 30), (80, 60), (50, 30), (80, 45)):
        assert tuple(drawn[y, x]) == PALETTE[0], (x, y)
    ys, xs = np.nonzero(changed(drawn))
    assert ys.min() > 22 and ys.max() < 68 and xs.min() > 12 and xs.max() < 88
    assert not changed(drawn)[40:55, 20:70].any()  # inside the angle


def test_what_is_not_labelled_is_not_drawn() -> None:
    without_middle = draw_poses(GREY, person((20, 30, 2), (80, 30, 0), (80, 60, 2)), LINE)
    assert not changed(without_middle)[:, 40:70].any()  # neither the joint nor its limbs
    assert changed(without_middle)[30, 20] and changed(without_middle)[60, 80]
    nothing = person((20, 30, 0), (np.nan, 30, 2), (80, np.inf, 2))
    np.testing.assert_array_equal(draw_poses(GREY, nothing, LINE), GREY)
    np.testing.assert_array_equal(draw_poses(GREY, np.zeros((0, 3, 3)), LINE), GREY)


def test_places_are_exact_to_a_fraction_of_a_pixel_also_when_enlarged() -> None:
    black = np.zeros((60, 90, 3), np.uint8)
    one = Skeleton("one", ("a",))
    for upscale_to, factor in ((0, 1), (90, 1), (91, 2), (270, 3)):
        drawn = draw_poses(black, person((40.3, 25.8, 2)), one, upscale_to=upscale_to)
        assert drawn.shape == (60 * factor, 90 * factor, 3)
        weight = drawn.astype(float).sum(-1)
        ys, xs = np.indices(weight.shape)
        centre = np.array([(weight * xs).sum(), (weight * ys).sum()]) / weight.sum()
        expected = (np.array([40.3, 25.8]) + 0.5) * factor - 0.5
        np.testing.assert_allclose(centre, expected, atol=0.15)


def test_confidence_is_opacity_and_size() -> None:
    joints = person((20, 40, 2), (60, 40, 2), (100, 40, 2))
    apart = Skeleton("apart", LINE.joints)

    def strength(score: float) -> float:
        drawn = draw_poses(GREY, joints, apart, scores=np.full((1, 3), score))
        return float(np.abs(drawn.astype(float) - GREY).sum())

    strengths = [strength(score) for score in (0.0, 0.3, 0.6, 1.0)]
    assert strengths[0] > 0 and (np.diff(strengths) > 0).all()
    assert strength(np.nan) == strength(1.7) == strengths[-1]  # labels of humans have no score
    drawn = draw_poses(GREY, joints, LINE, scores=[[0.9, 0.1, 0.9]], min_score=0.2)
    assert changed(drawn)[40, 20] and not changed(drawn)[40, 30:90].any()


def test_people_keep_the_colour_of_their_track() -> None:
    two = np.concatenate([person((20, 40, 2), (20, 60, 2), (20, 70, 0))] * 2)
    two[1, :, 0] = 90
    drawn = draw_poses(GREY, two, LINE, track_ids=[3, 9])
    assert tuple(drawn[40, 20]) == PALETTE[3] and tuple(drawn[40, 90]) == PALETTE[9 % len(PALETTE)]
    again = draw_poses(GREY, two[::-1], LINE, track_ids=[9, 3])
    np.testing.assert_array_equal(again, drawn)
    unknown = draw_poses(GREY, two, LINE, track_ids=[-1, -1])
    assert tuple(unknown[40, 20]) == PALETTE[0] and tuple(unknown[40, 90]) == PALETTE[1]


def test_colour_by_limb() -> None:
    joints = person((20, 30, 2), (80, 30, 2), (80, 60, 2))
    drawn = draw_poses(GREY, joints, LINE, color_by="limb", line_width=3)
    assert tuple(drawn[30, 50]) == PALETTE[0] and tuple(drawn[45, 80]) == PALETTE[1]
    assert tuple(drawn[30, 80]) == PALETTE[0]  # a joint has the colour of its first limb


def test_boxes() -> None:
    nobody = person((20, 30, 0), (0, 0, 0), (0, 0, 0))
    drawn = draw_poses(GREY, nobody, LINE, boxes=[[30, 20, 40, 30]])
    seen = changed(drawn)
    assert seen[20, 50] and seen[50, 50] and seen[35, 30] and seen[35, 70]
    assert not seen[25:45, 35:65].any()
    without = draw_poses(GREY, nobody, LINE, boxes=[[np.nan] * 4])
    np.testing.assert_array_equal(without, GREY)


@pytest.mark.parametrize("far", [1e3, 1e9, -1e15])
def test_joints_outside_the_image(far: float) -> None:
    drawn = draw_poses(GREY, person((60, 40, 2), (far, 40, 2), (far, far, 2)), LINE)
    right, left = changed(drawn)[40, 75:], changed(drawn)[40, :45]
    assert (right.all() and not left.any()) if far > 0 else not right.any()


def test_differences_are_lines_from_the_truth_to_the_prediction() -> None:
    apart = Skeleton("apart", LINE.joints)
    truth = person((20, 20, 2), (60, 20, 2), (100, 20, 2))
    said = person((24, 20, 2), (60, 60, 2), (100, 20, 0))
    drawn = draw_differences(GREY, truth, said, apart, tolerance=5, line_width=3)
    near, far = PALETTE[1], PALETTE[5]
    assert tuple(drawn[20, 24]) == near
    assert tuple(drawn[60, 60]) == far and tuple(drawn[40, 60]) == far
    assert tuple(drawn[20, 100]) == far  # the cross of a joint that was not predicted
    all_near = draw_differences(GREY, truth, said, apart, line_width=3)
    assert tuple(all_near[60, 60]) == near
    twice = (np.concatenate([truth] * 2), np.concatenate([said] * 2))
    of_each = draw_differences(GREY, *twice, apart, tolerance=[5, 50], line_width=3)
    assert tuple(of_each[60, 60]) == near  # the second one's tolerance, drawn last
    hidden = truth * [1, 1, 0]
    np.testing.assert_array_equal(draw_differences(GREY, hidden, said, apart), GREY)


def test_captions_and_sheets() -> None:
    with_text = captioned(GREY, "Größe")
    strip = with_text[: -len(GREY)]
    np.testing.assert_array_equal(with_text[-len(GREY) :], GREY)
    assert strip.max() > 200 and strip.min() < 40  # light letters on a dark ground
    np.testing.assert_array_equal(captioned(GREY, " Größe\n"), with_text)
    long = captioned(GREY, "a name that is much too long for such a small picture " * 3)
    assert long.shape == with_text.shape
    assert long[: len(strip), -4:].max() < 60  # it was cut before the border
    sheet = side_by_side([GREY, GREY[:40, :60] + 1, GREY], columns=2, gap=10)
    assert sheet.shape == (2 * 80 + 10, 2 * 120 + 10, 3)
    np.testing.assert_array_equal(sheet[:80, :120], GREY)
    np.testing.assert_array_equal(sheet[20:60, 160:220], GREY[:40, :60] + 1)
    np.testing.assert_array_equal(sheet[90:, :120], GREY)
    row = side_by_side([GREY, GREY], ["one", "two"])
    assert row.shape == (len(with_text), 246, 3)


FIVE = np.zeros((1, 5, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": GREY.astype(float)}, r"image: expected RGB \[H, W, 3\] uint8, got .* float64"),
        ({"image": GREY[..., 0]}, r"image: expected RGB"),
        ({"keypoints": FIVE}, r"keypoints: expected \[P, 17, 3\] .*'posetrack', got \[1, 5, 3\]"),
        ({"scores": np.ones((2, 17))}, r"scores: expected the shape \[1, 17\], got \[2, 17\]"),
        ({"track_ids": [1, 2]}, r"track_ids: expected the shape \[1\], got \[2\]"),
        ({"boxes": [1, 2, 3, 4]}, r"boxes: expected the shape \[1, 4\], got \[4\]"),
        ({"color_by": "side"}, r"color_by: expected 'person' or 'limb', got 'side'"),
    ],
)
def test_bad_input(arguments: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"image": GREY, "keypoints": np.zeros((1, 17, 3)), "skeleton": POSETRACK}
    with pytest.raises(ValueError, match=message):
        draw_poses(**{**good, **arguments})


def test_bad_input_of_sheets_and_differences() -> None:
    with pytest.raises(ValueError, match="images: expected one or more, got none"):
        side_by_side([])
    with pytest.raises(ValueError, match="captions: expected 1, one an image, got 2"):
        side_by_side([GREY], ["a", "b"])
    with pytest.raises(ValueError, match="columns: expected 1 or more, got 0"):
        side_by_side([GREY], columns=0)
    with pytest.raises(ValueError, match="predicted: expected 2 people as in truth, got 1"):
        draw_differences(GREY, np.zeros((2, 3, 3)), np.zeros((1, 3, 3)), LINE)
