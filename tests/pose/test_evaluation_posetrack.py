"""PoseTrack AP: every rule by hand, random scenes against a slow evaluator, real references."""

from __future__ import annotations

import csv
import json
import math
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from posetrack_scenes import (
    SHARED_DATA,
    Frame,
    Person,
    person,
    random_video,
    slow_ap,
    write_videos,
)

from posewarper.evaluation import evaluate_posetrack, to_json, write_csv, write_json
from posewarper.evaluation.posetrack_ap import PoseTrackResult, average_precision, strictly_inside
from posewarper.evaluation.results import group_means
from posewarper.skeleton import POSETRACK_EVAL

BOTH = ("posetrack17", "posetrack18")


def evaluate(
    folder: Path, truth: list[Frame], predicted: list[Frame], layout: str = "posetrack17"
) -> PoseTrackResult:
    return evaluate_posetrack(*write_videos(folder, [(truth, predicted)], (layout, layout)))


@pytest.mark.parametrize("layout", BOTH)
def test_golden_vector(tmp_path: Path, layout: str) -> None:
    near = Person({i: (10 * i + (14 if i < 5 else 16), 20 * i, 0.9) for i in range(15)})
    far = person(5000, 5000, score=0.95)
    result = evaluate(tmp_path, [Frame([person(0, 0)])], [Frame([near, far])], layout)
    assert result.ap.tolist() == [50.0] * 5 + [0.0] * 10
    assert result.precision.tolist() == [50.0] * 5 + [0.0] * 10
    assert result.recall.tolist() == [100.0] * 5 + [0.0] * 10
    assert list(result.groups().values())[:-1] == [0, 0, 0, 0, 50, 50, 25]
    assert result.mean_ap == result.groups()["Mean"] == pytest.approx(50 / 3)
    assert result.neck is None
    assert (result.videos, result.frames) == (1, 1)


@pytest.mark.parametrize("shift, right", [(15.0, True), (15.0001, False)])
def test_half_a_head_size_is_still_right(tmp_path: Path, shift: float, right: bool) -> None:
    result = evaluate(tmp_path, [Frame([person(0, 0)])], [Frame([person(shift, 0, score=1)])])
    assert result.mean_ap == (100 if right else 0)


@pytest.mark.parametrize("layout", BOTH)
def test_ignored_regions(tmp_path: Path, layout: str) -> None:
    """Joint 1 at (10, 20) on an edge and joint 2 at (20, 40) on a corner stay, joint 3 goes."""
    region = [(10.0, 0.0), (10.0, 40.0), (20.0, 40.0), (20.0, 70.0), (60.0, 70.0), (60.0, 0.0)]
    truth = [Frame([person(0, 0, joints=[1, 2, 3])], [region])]
    guess = [Frame([person(0, 0, joints=[1, 2, 3], score=1), person(20, 0, joints=[1], score=2)])]
    result = evaluate(tmp_path, truth, guess, layout)
    # The second person lies inside and is gone; else it would rank first and be wrong.
    assert result.ap[1:4].tolist() == [100, 100, 0]  # joint 3: neither labels nor predictions
    assert result.recall[3] == 0


def test_strictly_inside() -> None:
    square = np.array([(0.0, 0), (4, 0), (4, 4), (2, 2), (0, 4)])  # notched from below
    inside = [(1.0, 1.0), (2, 1.999), (3.5, 3.0), (0.1, 3.8)]
    outside = [
        (2.0, 2.0),
        (0, 0),
        (4, 2),
        (2, 0),
        (2, 3),
        (-1, 0),
        (5, 4),
        (3, 3),
        (np.nan, np.nan),
    ]
    for polygon in (square, square[::-1]):
        assert strictly_inside(np.array(inside), polygon).all()
        assert not strictly_inside(np.array(outside), polygon).any()
    bow = np.array([(0.0, 0), (4, 4), (4, 0), (0, 4)])  # crosses itself
    points = np.array([(0.5, 2.0), (3.5, 2.0), (2.0, 1.0), (2.0, 2.0)])
    assert strictly_inside(points, bow).tolist() == [True, True, False, False]
    assert not strictly_inside(points, bow[:2]).any()


@pytest.mark.parametrize("layout", BOTH)
def test_unlabelled_frames_go_with_their_predictions(tmp_path: Path, layout: str) -> None:
    truth = [Frame([person(0, 0)]), Frame()]
    guess = [Frame([person(0, 0, score=0.5)]), Frame([person(0, 0, score=0.9)])]
    result = evaluate(tmp_path, truth, guess, layout)
    assert result.mean_ap == 100
    assert result.frames == 1


@pytest.mark.parametrize("layout", BOTH)
def test_frames_whose_people_have_no_joints_count(tmp_path: Path, layout: str) -> None:
    nobody = Person(has_points=layout == "posetrack18")
    truth = [Frame([person(0, 0)]), Frame([nobody])]
    guess = [Frame([person(0, 0, score=0.5)]), Frame([person(0, 0, score=0.9)])]
    result = evaluate(tmp_path, truth, guess, layout)
    assert result.ap.tolist() == [50.0] * 15
    assert result.frames == 2


def test_joints_that_the_person_lacks_are_wrong(tmp_path: Path) -> None:
    truth = [Frame([person(0, 0, joints=range(14))]), Frame([person(0, 0)])]
    guess = [Frame([person(0, 0, score=0.9)]), Frame([person(0, 0, score=0.5)])]
    result = evaluate(tmp_path, truth, guess)
    assert result.ap.tolist() == [100.0] * 14 + [50.0]


def test_missed_people_lower_the_recall(tmp_path: Path) -> None:
    truth = [Frame([person(0, 0), person(900, 0)]), Frame([person(0, 0)])]
    result = evaluate(tmp_path, truth, [Frame([person(0, 0, score=1)]), Frame()])
    assert result.recall == pytest.approx(100 / 3)
    assert result.ap == pytest.approx(100 / 3)


def test_each_prediction_keeps_only_its_best_person(tmp_path: Path) -> None:
    """Both have the first person as their best: one is wrong, although it fits the second, too."""
    truth = [Frame([person(0, 0), person(10, 0)])]
    guess = [Frame([person(-2, 0, score=0.8), person(4, 0, score=0.9)])]
    # With head size 30 the limit is 15 pixels: both predictions hit all joints of both people. On
    # ties the first person is a prediction's best, and the first prediction a person's.
    result = evaluate(tmp_path, truth, guess)
    assert result.precision.tolist() == [50.0] * 15
    assert result.ap.tolist() == [25.0] * 15  # the one that is right ranks second, of two people


def test_the_better_fit_wins_over_the_order(tmp_path: Path) -> None:
    half = Person({i: (10.0 * i + (0 if i < 8 else 99), 20.0 * i, 0.9) for i in range(15)})
    truth = [Frame([person(0, 0)])]
    result = evaluate(tmp_path, truth, [Frame([half, person(0, 0, score=0.8)])])
    assert result.ap.tolist() == [50.0] * 15  # all of "half" is wrong


def test_a_fit_is_a_share_of_the_annotated_joints(tmp_path: Path) -> None:
    """2 of 2 joints beat 8 of 15."""
    truth = [Frame([person(0, 0), person(20, 0, joints=[0, 1])])]
    guess = Person({i: (10.0 * i + (10 if i < 8 else 99), 20.0 * i, 0.9) for i in range(15)})
    result = evaluate(tmp_path, truth, [Frame([guess])])
    assert result.precision.tolist() == [100.0] * 2 + [0.0] * 13
    assert result.recall.tolist() == [50.0] * 2 + [0.0] * 13


def test_missing_scores_rank_last(tmp_path: Path) -> None:
    truth = [Frame([person(0, 0)]), Frame([person(0, 0)])]
    guess = [Frame([person(0, 0)]), Frame([person(99, 0, score=-100)])]
    with pytest.warns(UserWarning, match=r"000000_mpii_test\.json: joints without a score"):
        result = evaluate(tmp_path, truth, guess)
    assert result.ap.tolist() == [25.0] * 15


def test_precision_is_made_monotone() -> None:
    scores, label = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    # Recall 1/4 at precision 1, 2/4 at 2/3; without monotone precision the same, here.
    assert average_precision(scores, label, 4) == pytest.approx((100 * (1 + 2 / 3) / 4, 50, 50))
    label = np.array([False, True, True, False])
    # Precisions 0, 1/2, 2/3, 1/2: both steps count with 2/3.
    assert average_precision(scores, label, 2) == pytest.approx((100 * 2 / 3, 50, 100))
    assert average_precision(scores[::-1], label[::-1], 2)[0] == pytest.approx(100 * 2 / 3)


def test_nothing_to_find_and_nothing_found(tmp_path: Path) -> None:
    none = np.zeros(0)
    assert average_precision(none, none.astype(bool), 0) == (0, 0, 0)
    assert average_precision(none, none.astype(bool), 3) == (0, 0, 0)
    undefined = average_precision(np.ones(1), np.zeros(1, bool), 0)
    assert [math.isnan(value) for value in undefined] == [True, False, True]

    result = evaluate(
        tmp_path, [Frame([person(0, 0, joints=range(14))])], [Frame([person(0, 0, score=1)])]
    )
    assert math.isnan(result.ap[14])
    assert result.mean_ap == 100  # joint 14 is left out
    assert math.isnan(result.groups()["Head"])  # and the column that it belongs to is unknown
    assert "-" in result.table().text()
    assert json.loads(to_json(result))["AP"][14] is None


def test_equal_scores_count_from_top_to_bottom_whatever_the_order(tmp_path: Path) -> None:
    truth = Frame([person(0, 0, joints=[0])])
    right, low, high = (Person({0: (0.0, y, 0.5)}) for y in (0.0, 100.0, -100.0))
    numbers = {
        name: evaluate(tmp_path / f"{name}{flip}", [truth], [Frame(people[::flip])]).ap[0]
        for name, people in (("low", [right, low]), ("high", [right, high]))
        for flip in (1, -1)
    }
    assert numbers == {"low": 100.0, "high": 50.0}


def test_degenerate_head_box_never_matches(tmp_path: Path) -> None:
    truth = [Frame([person(0, 0, head=(5, 5, 5, 5))])]
    assert evaluate(tmp_path, truth, [Frame([person(0, 0, score=1)])]).mean_ap == 0


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("layouts", [BOTH[:1] * 2, BOTH[1:] * 2, BOTH, BOTH[::-1]])
def test_equal_to_slow_evaluator(tmp_path: Path, seed: int, layouts: tuple[str, str]) -> None:
    rng = random.Random(seed)
    videos = [random_video(rng, pointless="posetrack18" not in layouts) for _ in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate_posetrack(*write_videos(tmp_path, videos, layouts))
    expected = np.array(slow_ap(videos))
    assert np.nanmin(expected[:, 0]) > 1, "the scenes are meant to have hits"
    actual = np.stack([result.ap, result.precision, result.recall], 1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9)


def test_blocks_of_pairs_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(5)
    folders = write_videos(tmp_path, [random_video(rng, 20) for _ in range(2)])
    whole = evaluate_posetrack(*folders, tracking=True)
    monkeypatch.setattr("posewarper.evaluation.posetrack_ap._PAIRS_AT_ONCE", 7)
    blocks = evaluate_posetrack(*folders, tracking=True)
    assert to_json(blocks) == to_json(whole)


@pytest.mark.parametrize("case", ["case_a_gt_as_pred", "case_b_real3_small", "case_c_real3_large"])
def test_official_reference(case: str) -> None:
    folder = SHARED_DATA / "poseval" / case
    if not folder.is_dir():
        pytest.skip("the folder with the official evaluator's outputs is not here")
    expected = json.loads((folder / "reference.json").read_text())
    result = evaluate_posetrack(folder / "gt", folder / "pred")
    assert result.frames == expected["n_gt_frames_after_cleanup"]
    for name, values in (
        ("AP_per_joint", result.ap),
        ("precision_per_joint", result.precision),
        ("recall_per_joint", result.recall),
        ("AP_groups", list(result.groups().values())),
    ):
        wanted = expected[name]
        wanted = list(wanted.values()) if isinstance(wanted, dict) else wanted
        np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-6, err_msg=name)


def test_columns_are_means_of_their_joints() -> None:
    columns = group_means(np.arange(15.0), POSETRACK_EVAL.joints)
    assert columns == {
        "Head": 13, "Shoulder": 8.5, "Elbow": 8.5, "Wrist": 8.5, "Hip": 2.5, "Knee": 2.5,
        "Ankle": 2.5, "Mean": 7,
    }  # fmt: skip
    with pytest.raises(ValueError, match="missing head_top"):
        group_means(np.arange(14.0), POSETRACK_EVAL.joints[:14])


def test_results_are_stored(tmp_path: Path) -> None:
    truth, guess = [Frame([person(0, 0)])] * 2, [Frame([person(5, 0, score=1)])] * 2
    folders = write_videos(tmp_path, [(truth, guess)])
    result = evaluate_posetrack(*folders, tracking=True)
    lines = result.table().text().splitlines()
    assert lines[0].split() == "Head Shoulder Elbow Wrist Hip Knee Ankle Mean".split()
    assert lines[1].split() == ["AP"] + ["100.0"] * 8
    assert [line.split("  ")[0] for line in lines[4:]] == [
        "MOTA", "MOTP", "MOT precision", "MOT recall",
    ]  # fmt: skip

    write_json(result, tmp_path / "result.json")
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["AP"] == [100.0] * 15
    assert stored["groups"]["MOTP"]["Mean"] == pytest.approx(100 * (1 - 5 / 30))
    assert stored["tracking"]["total"]["MOTA"] == 100
    assert stored["neck"] is None

    write_csv(result, tmp_path / "result.csv")
    rows = list(csv.DictReader((tmp_path / "result.csv").open()))
    assert [row["metric"] for row in rows][:2] == ["AP", "precision"]
    assert float(rows[0]["left_wrist"]) == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "gt", "pred", "result.csv", "result.json",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"metric: expected one of AP, .* got 'ap'"):
        result.groups("ap")


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = evaluate(tmp_path, [Frame([person(0, 0)])], [Frame([person(0, 0, score=1)])])
    target = tmp_path / "result.json"
    target.write_text("old")

    def no_space(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", no_space)
    with pytest.raises(OSError, match="no space left"):
        write_json(result, target)
    assert target.read_text() == "old"
    assert not list(tmp_path.glob(".*"))
