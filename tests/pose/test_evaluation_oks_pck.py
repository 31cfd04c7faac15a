"""OKS AP with values worked out by hand, PCK against a loop."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posewarper.evaluation import (
    box_lengths,
    evaluate_oks,
    evaluate_pck,
    head_lengths,
    point_extents,
    to_json,
    torso_lengths,
    write_coco_results,
    write_csv,
)
from posewarper.evaluation.oks import OKS_METRICS
from posewarper.skeleton import COCO, POSETRACK, Skeleton

SIGMA = 0.1
PAIR = Skeleton("pair", ("left", "right"), sigmas=(SIGMA, SIGMA))


def truth(*boxes: float, joints: int = 2, **more: Any) -> dict[str, Any]:
    """One image per box side; each with one person, joints at (10 k, 0), labelled."""
    return {
        "images": [{"id": k} for k, _ in enumerate(boxes, 1)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {
                "id": k,
                "image_id": k,
                "category_id": 1,
                "bbox": [0, 0, side, side],
                "keypoints": [v for j in range(joints) for v in (10.0 * j, 0.0, 2)],
                **more,
            }
            for k, side in enumerate(boxes, 1)
        ],
    }


def found(image: int, shift: float, score: float = 0.5, joints: int = 2) -> dict[str, Any]:
    keypoints = [v for j in range(joints) for v in (10.0 * j, shift, 1)]
    return {"image_id": image, "category_id": 1, "keypoints": keypoints, "score": score}


def shift_for(oks: float, area: float) -> float:
    """OKS = exp(-d^2 / (2 area k^2)), k = 2 sigma."""
    return math.sqrt(-math.log(oks) * 2 * area) * 2 * SIGMA


def test_ten_numbers_by_hand(capfd: pytest.CaptureFixture[str]) -> None:
    """Medium person with OKS 0.72: right at 0.50 to 0.70, five of ten; large one with 0.99."""
    results = [found(1, shift_for(0.72, 50**2), 0.9), found(2, shift_for(0.99, 100**2), 0.8)]
    result = evaluate_oks(truth(50, 100), results, skeleton=PAIR)
    # Over 0.70 the first in rank is wrong: precision 1/2 up to recall 1/2, at 51 of 101 points.
    half = 100 * 0.5 * 51 / 101
    assert result.values == pytest.approx(
        {
            "AP": (100 * 5 + half * 5) / 10,
            "AP50": 100,
            "AP75": half,
            "APM": 50,
            "APL": 100,
            "AR": 75,
            "AR50": 100,
            "AR75": 50,
            "ARM": 50,
            "ARL": 100,
        }
    )
    assert tuple(result.values) == OKS_METRICS
    assert result.images == 2
    assert capfd.readouterr() == ("", "")


def test_area_is_taken_where_given() -> None:
    results = [found(1, shift_for(0.72, 2000.0))]
    values = evaluate_oks(truth(50, area=2000.0), results, skeleton=PAIR).values
    assert values["AP"] == pytest.approx(50)
    assert math.isnan(values["APL"])
    assert math.isnan(values["ARL"])
    results = [found(1, shift_for(0.72, 2000.0) * 1.01 / 0.99)]
    bigger = evaluate_oks(truth(50), results, skeleton=PAIR).values  # 2500 instead
    assert bigger["AP"] > 50


def test_sigmas_replace_those_of_the_skeleton() -> None:
    results = [found(1, shift_for(0.72, 50**2))]
    values = evaluate_oks(truth(50), results, skeleton=PAIR, sigmas=(1.0, 1.0)).values
    assert values["AP"] == pytest.approx(100)
    with pytest.raises(ValueError, match=r"sigmas: expected 2 positive numbers .* got \[\]"):
        evaluate_oks(truth(50), results, skeleton=Skeleton("bare", ("a", "b")))


def test_no_results() -> None:
    values = evaluate_oks(truth(50), [], skeleton=PAIR).values
    assert values["AP"] == values["AR"] == values["APM"] == 0


def test_arguments_stay_as_they_are() -> None:
    gt, results = truth(50), [found(1, 0)]
    before = copy.deepcopy((gt, results))
    evaluate_oks(gt, results, skeleton=PAIR)
    assert (gt, results) == before


def test_written_results_are_read(tmp_path: Path) -> None:
    gt = truth(80, 90, joints=17)
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    points = np.stack([[(10.0 * j, 0.0) for j in range(17)]] * 2)
    points[1, 3] = np.nan
    write_coco_results(
        tmp_path / "results.json", [1, 2], points, np.full((2, 17), 0.25), [0.5, 0.75]
    )
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored[0]["keypoints"][3:6] == [10, 0, 0.25]
    assert stored[1]["keypoints"][9:12] == [0, 0, 0]
    assert [entry["score"] for entry in stored] == [0.5, 0.75]
    for skeleton in (COCO, POSETRACK):
        result = evaluate_oks(tmp_path / "gt.json", tmp_path / "results.json", skeleton=skeleton)
        assert result.values["AP50"] == pytest.approx(100)
    write_csv(result, tmp_path / "oks.csv")
    assert (tmp_path / "oks.csv").read_text().startswith("metric,AP,AP50,AP75,")
    assert json.loads(to_json(result))["images"] == 2
    with pytest.raises(ValueError, match=r"points: expected the shape \[1, 17, 2\]"):
        write_coco_results(tmp_path / "x.json", [1], points, np.zeros((1, 17)), [1])
    with pytest.raises(ValueError, match="scores: expected finite numbers"):
        write_coco_results(tmp_path / "x.json", [1], points[:1], np.full((1, 17), np.nan), [1])


def broken(entry: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (entry | changes).items() if value is not ...}


@pytest.mark.parametrize(
    "result, message",
    [
        (broken(found(1, 0), image_id=5), "result 0 has image id 5, which the ground truth lacks"),
        (broken(found(1, 0), category_id=2), r"result 0 has category id 2; .* \[1\]"),
        (broken(found(1, 0), score=...), "result 0: needs a finite 'score', got None"),
        (broken(found(1, 0), score=math.nan), "result 0: needs a finite 'score', got nan"),
        (found(1, 0, joints=3), "result 0: expected 6 numbers in 'keypoints', got 9"),
        (found(1, math.inf), "result 0: 'keypoints' are not finite"),
    ],
)
def test_wrong_results(tmp_path: Path, result: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="results: " + message):
        evaluate_oks(truth(50), [result], skeleton=PAIR)
    path = tmp_path / "r.json"
    path.write_text(json.dumps([result]))
    with pytest.raises(ValueError, match=r"r\.json: " + message):
        evaluate_oks(truth(50), path, skeleton=PAIR)


def test_wrong_ground_truth(tmp_path: Path) -> None:
    gt = truth(50, 60)
    gt["annotations"][1]["id"] = 1
    with pytest.raises(ValueError, match="truth: annotation 1: annotations need ids, and each"):
        evaluate_oks(gt, [], skeleton=PAIR)
    gt = truth(50)
    gt["annotations"][0]["image_id"] = 9
    with pytest.raises(ValueError, match="truth: annotation 1 refers to image id 9"):
        evaluate_oks(gt, [], skeleton=PAIR)
    gt = truth(50, 60)
    gt["images"][1]["id"] = 1
    with pytest.raises(ValueError, match="truth: image id 1 appears twice"):
        evaluate_oks(gt, [], skeleton=PAIR)
    with pytest.raises(ValueError, match="truth: expected an object with images"):
        evaluate_oks({}, [], skeleton=PAIR)
    (tmp_path / "gt.json").write_text("{")
    with pytest.raises(ValueError, match=r"gt\.json: no valid JSON"):
        evaluate_oks(tmp_path / "gt.json", [], skeleton=PAIR)


def test_pck_by_hand() -> None:
    """Limit 5 pixels at 0.5: distances 5 and 5.1; one not predicted, one not labelled."""
    gt = np.zeros((2, 2, 2))
    gt[1, 1] = np.nan
    guess = np.array([[(3.0, 4.0), (5.1, 0.0)], [(np.nan, np.nan), (0.0, 0.0)]])
    result = evaluate_pck(guess, gt, 10.0, skeleton=PAIR, thresholds=(0.5, 0.51, 0.4))
    assert result.pck.tolist() == [[50, 0], [50, 100], [0, 0]]
    assert result.labels.tolist() == [2, 1]
    assert result.mean.tolist() == [25, 75, 0]
    assert result.pooled == pytest.approx([100 / 3, 200 / 3, 0])
    assert result.table(per_joint=True).columns == ("Mean", "Pooled", "left", "right")
    assert list(result.table().rows) == ["PCK@0.5", "PCK@0.51", "PCK@0.4"]


def test_pck_of_people_without_a_length() -> None:
    gt = np.zeros((2, 2, 2))
    labelled = np.array([[True, False], [True, True]])
    lengths = [1.0, np.nan]
    result = evaluate_pck(gt, gt, lengths, skeleton=PAIR, labelled=labelled)
    assert result.labels.tolist() == [1, 0]
    assert result.excluded == 2
    assert result.pck[0, 0] == 100
    assert math.isnan(result.pck[0, 1])
    assert result.mean.tolist() == result.pooled.tolist() == [100]
    assert json.loads(to_json(result))["pck"] == [[100, None]]


def test_lengths() -> None:
    assert head_lengths([(5, 5, 35, 45)]).tolist() == [30]
    assert box_lengths([(5, 5, 30, 40), (0, 0, 9, 2)]).tolist() == [40, 9]
    points = np.full((2, 17, 2), np.nan)
    points[0, COCO.index("left_shoulder")] = 0, 0
    points[0, COCO.index("right_hip")] = 3, 4
    assert torso_lengths(points, COCO)[0] == 5
    assert math.isnan(torso_lengths(points, COCO)[1])
    assert torso_lengths(points, COCO, ends=("right_hip", "right_hip"))[0] == 0
    assert point_extents(points)[0] == 4
    assert math.isnan(point_extents(points)[1])
    points[0, 0] = 100, 100
    labelled = ~np.isnan(points).any(-1)
    assert point_extents(points, labelled)[0] == 100
    labelled[0, 0] = False
    assert point_extents(points, labelled)[0] == 4


def test_pck_equals_a_loop() -> None:
    rng = np.random.default_rng(0)
    gt = rng.normal(0, 10, (40, 17, 2))
    gt[rng.random((40, 17)) < 0.3] = np.nan
    guess = gt + rng.normal(0, 3, gt.shape)
    guess[rng.random((40, 17)) < 0.1] = np.nan
    lengths = rng.uniform(5, 15, 40)
    thresholds = (0.1, 0.2, 0.5)
    result = evaluate_pck(guess, gt, lengths, skeleton=COCO, thresholds=thresholds)
    for k, threshold in enumerate(thresholds):
        for joint in range(17):
            right = total = 0
            for n in range(40):
                if not math.isnan(gt[n, joint, 0]):
                    total += 1
                    right += math.dist(gt[n, joint], guess[n, joint]) <= threshold * lengths[n]
            assert result.pck[k, joint] == pytest.approx(100 * right / total)


def test_wrong_arguments_of_pck() -> None:
    gt = np.zeros((3, 2, 2))
    with pytest.raises(ValueError, match=r"expected the shape \[N, 17, 2\] for skeleton 'coco'"):
        evaluate_pck(gt, gt, 1.0, skeleton=COCO)
    with pytest.raises(ValueError, match=r"lengths: expected one number or \[3\], got \[2\]"):
        evaluate_pck(gt, gt, [1.0, 2.0], skeleton=PAIR)
    with pytest.raises(ValueError, match=r"lengths: expected positive numbers, .* got 0\.0"):
        evaluate_pck(gt, gt, [1.0, 0.0, 1.0], skeleton=PAIR)
    with pytest.raises(ValueError, match="thresholds: expected positive numbers"):
        evaluate_pck(gt, gt, 1.0, skeleton=PAIR, thresholds=())
    with pytest.raises(ValueError, match=r"labelled: expected the shape \[3, 2\], got \[2\]"):
        evaluate_pck(gt, gt, 1.0, skeleton=PAIR, labelled=[True, True])
    gt[1, 0] = np.nan
    with pytest.raises(ValueError, match="person 1, joint 0 is labelled but has no place"):
        evaluate_pck(gt, gt, 1.0, skeleton=PAIR, labelled=np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"boxes: expected the shape \[N, 4\], got \[4\]"):
        head_lengths([1, 2, 3, 4])
