"""Files of others before evaluation: what would give a wrong number is counted anew, or refused."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

from posewarper.cli import main
from posewarper.data.annotations import from_coco, save_coco
from posewarper.evaluation import compare_datasets, evaluate_oks, evaluate_posetrack
from posewarper.skeleton import POSETRACK_EVAL, Skeleton

PAIR = Skeleton("pair", ("left", "right"), sigmas=(0.1, 0.1))
SIDE = 50.0


def truth(**more):
    """Three images with a person each, joints at (10, 20) and (30, 40)."""
    return {
        "images": [{"id": k} for k in (1, 2, 3)],
        "categories": [{"id": 1, "name": "mouse"}],
        "annotations": [
            {
                "id": k, "image_id": k, "category_id": 1, "bbox": [0, 0, SIDE, SIDE],
                "keypoints": [10, 20, 2, 30, 40, 2], **more,
            }
            for k in (1, 2, 3)
        ],
    }  # fmt: skip


def results(shift=0.0):
    points = [10, 20 + shift, 1, 30, 40 + shift, 1]
    return [
        {"image_id": k, "category_id": 1, "keypoints": points, "score": k / 10} for k in (1, 2, 3)
    ]


def off(oks):
    """A shift by which OKS = exp(-d^2 / (2 area (2 sigma)^2)) is this."""
    return math.sqrt(-math.log(oks) * 2 * SIDE**2) * 0.2


def test_an_annotation_of_id_0_is_matched():
    data = truth()
    for k, annotation in enumerate(data["annotations"]):
        annotation["id"] = k
    values = evaluate_oks(data, results(), skeleton=PAIR).values
    assert values["AP"] == values["AR"] == values["AP50"] == pytest.approx(100)


@pytest.mark.parametrize("more", [{"area": 0}, {"area": 0.0}, {"area": None}, {}])
def test_area_0_is_that_of_the_box(more):
    """OKS 0.72 is right at 0.50 to 0.70: five thresholds of ten."""
    values = evaluate_oks(truth(**more), results(off(0.72)), skeleton=PAIR).values
    assert values["AP"] == values["AR"] == pytest.approx(50)
    assert values["APM"] == pytest.approx(50)


@pytest.mark.parametrize("count", [0, 7, None])
def test_labelled_joints_are_counted(count):
    values = evaluate_oks(truth(num_keypoints=count), results(), skeleton=PAIR).values
    assert values["AP"] == pytest.approx(100)
    bare = truth(num_keypoints=2)
    bare["annotations"][0]["keypoints"] = [0] * 6  # nobody to be found there: ignored
    assert evaluate_oks(bare, results()[1:], skeleton=PAIR).values["AR"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"area": 0, "bbox": [5, 5, 0, 9]}, "annotation 1: 'area' and the box are of size 0"),
        ({"area": -3}, "annotation 1: 'area': expected 0 or more, got -3"),
        ({"area": float("nan")}, "annotation 1: 'area': expected 0 or more, got nan"),
        ({"bbox": [1, 2, 3]}, r"annotation 1: needs 'bbox' of four numbers, got \[1, 2, 3\]"),
        ({"bbox": [1, 2, "3", 4]}, "annotation 1: needs 'bbox' of four numbers"),
        ({"category_id": 7}, r"annotation 1 has category id 7; listed are \[1\]"),
        ({"keypoints": [1, "2", 2, 3, 4, 2]}, "annotation 1: 'keypoints' are not finite"),
    ],
)
def test_what_cannot_be_measured_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        evaluate_oks(truth(**more), results(), skeleton=PAIR)
    nobody = {"area": 0, "bbox": [0, 0, 0, 0], "keypoints": [0] * 6}  # labels nothing
    assert math.isnan(evaluate_oks(truth(**nobody), [], skeleton=PAIR).values["AP"])


def test_entries_that_are_none():
    with pytest.raises(ValueError, match="truth: image number 0 has no id"):
        evaluate_oks({**truth(), "images": [{}]}, [], skeleton=PAIR)
    with pytest.raises(ValueError, match="truth: annotation number 1 is no object"):
        evaluate_oks({**truth(), "annotations": [3]}, [], skeleton=PAIR)
    with pytest.raises(ValueError, match="results: result 0 is no object"):
        evaluate_oks(truth(), ["a"], skeleton=PAIR)


def people(heads):
    data = truth(track_id=0)
    for k, image in enumerate(data["images"]):
        image["file_name"] = f"v/{k:06}.jpg"
    data["categories"][0]["keypoints"] = ["left", "right"]
    for annotation in data["annotations"][:heads]:
        annotation["head_box"] = [0, 0, 30, 40]
    return from_coco(data, "truth.json")


def test_pck_says_what_divides_in_place_of_heads(tmp_path):
    labels = people(heads=1)
    with pytest.warns(UserWarning, match=r"truth\.json: 4 of 6 labelled .* no head box .*"):
        assert compare_datasets(labels, labels).excluded == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compare_datasets(labels, labels, lengths="box").excluded == 0
        assert compare_datasets(people(heads=3), labels).pooled.tolist() == [100]
    save_coco(people(heads=0), tmp_path / "a.json")
    place = str(tmp_path / "a.json")
    said = "6 of 6 labelled joints count nowhere, .* --lengths box or --lengths extent"
    with pytest.warns(UserWarning, match=said):
        assert main(["evaluate", place, place, "--metric", "pck"]) == 0


def video(numbers, form):
    """A file of PoseTrack17 with one person, who walks one pixel per frame."""
    annolist = [
        {
            "image": [{"name": form % n}],
            "annorect": [
                {
                    "x1": [0], "y1": [0], "x2": [30], "y2": [40], "track_id": [0], "score": [0.9],
                    "annopoints": [
                        {
                            "point": [
                                {"id": [j], "x": [10.0 * j + n], "y": [5.0], "score": [0.9]}
                                for j in range(len(POSETRACK_EVAL))
                            ]
                        }
                    ],
                }
            ],
        }
        for n in numbers
    ]  # fmt: skip
    return {"annolist": annolist}


@pytest.mark.parametrize(
    ("numbers", "warned"), [((1, 2, 3), ""), ((1, 3, 2), "2"), ((2, 3, 4), "1")]
)
def test_names_of_frames_that_disagree(tmp_path, numbers, warned):
    for folder, form, listed in (("t", "v/%08d.jpg", (1, 2, 3)), ("p", "other/%05d.jpg", numbers)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "v.json").write_text(json.dumps(video(listed, form)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate_posetrack(tmp_path / "t", tmp_path / "p")
    told = [str(one.message) for one in caught]
    assert len(told) == bool(warned)
    if warned:
        assert f"the ground truth has v/{int(warned):08}.jpg in this place" in told[0]


def test_boxes_of_predictions_do_not_count():
    labels = people(heads=0)
    moved = replace(labels, people=replace(labels.people, bbox=np.zeros((3, 4))))
    assert compare_datasets(labels, moved, lengths="box").pooled.tolist() == [100]
