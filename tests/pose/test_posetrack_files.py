"""Reading and writing PoseTrack files: both layouts agree, every fault has one clear message."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from posetrack_scenes import (
    LAYOUTS,
    SHARED_DATA,
    Frame,
    Person,
    layout_2017,
    layout_2018,
    person,
    write_videos,
)

from posewarper.evaluation import evaluate_posetrack, read_video, write_posetrack
from posewarper.evaluation.posetrack_files import MISSING_SCORE, NO_TRACK
from posewarper.evaluation.prediction_files import posetrack_frame_id
from posewarper.skeleton import COCO, POSETRACK, POSETRACK_EVAL

NAMES = [f"images/val/000342_mpii_test/{k:06d}.jpg" for k in range(3)]
BOTH = ("posetrack17", "posetrack18")


def scene() -> list[Frame]:
    first = person(3.25, -4, joints=range(0, 15, 2), score=0.5, track=12, head=(10, 20, 40, 60))
    second = person(0, 0, score=0.25, track=None, head=None)
    third = person(7, 8, joints=[3], track=4)
    return [Frame([first, second], [[(0, 0), (9, 0), (9, 9)]]), Frame(), Frame([third])]


@pytest.mark.parametrize("layout", BOTH)
def test_both_layouts_are_read_alike(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "000001_mpii_test.json"
    path.write_text(json.dumps(LAYOUTS[layout](scene())))
    video = read_video(path)
    assert video.name == "000001_mpii_test"
    assert video.layout == layout
    assert len(video.frame_names) == 3
    assert video.listed.tolist() == [True, False, True]
    assert video.frame.tolist() == [0, 0, 2]
    assert video.track_id.tolist() == [12, NO_TRACK, 4]
    assert video.head_size[[0, 2]].tolist() == [30, 30]
    assert math.isnan(video.head_size[1])
    assert video.present.sum(1).tolist() == [8, 15, 1]
    assert video.points[0, 4].tolist() == [43.25, 76]
    assert video.points[2, 3].tolist() == [37, 68]
    assert np.isnan(video.points[2, 4]).all()
    assert video.scores[0, 0] == 0.5
    assert video.scores[2, 3] == MISSING_SCORE
    assert video.ignore_regions[0][0].tolist() == [[0, 0], [9, 0], [9, 9]]
    assert list(video.ignore_regions) == [0]
    assert video.neck is None


def test_joints_of_the_2018_layout_are_found_by_name(tmp_path: Path) -> None:
    """Ears go; a joint is absent only if all its three numbers are zero; order is free."""
    data = layout_2018([Frame([person(1, 2, score=0.5)])])
    names = data["categories"][0]["keypoints"]
    order = list(reversed(range(17)))
    data["categories"][0]["keypoints"] = [names[i] for i in order]
    entry = data["annotations"][0]
    triples = np.array(entry["keypoints"]).reshape(17, 3)
    triples[POSETRACK.index("nose")] = 0, 0, 1
    triples[POSETRACK.index("left_hip")] = 5, 0, 0
    triples[POSETRACK.index("left_knee")] = 0, 0, 0
    triples[POSETRACK.index("left_ear")] = 50, 60, 1
    entry["keypoints"] = triples[order].ravel().tolist()
    entry["scores"] = [k / 100 for k in order]
    path = tmp_path / "video.json"
    path.write_text(json.dumps(data))
    video = read_video(path)
    joint = POSETRACK_EVAL.index
    assert video.points[0, joint("nose")].tolist() == [0, 0]
    assert video.points[0, joint("left_hip")].tolist() == [5, 0]
    assert np.flatnonzero(~video.present[0]).tolist() == [joint("left_knee")]
    assert video.scores[0, joint("left_wrist")] == POSETRACK.index("left_wrist") / 100
    assert video.points[0, joint("head_bottom")].tolist() == [121, 242]


def test_real_files() -> None:
    folder = SHARED_DATA / "posetrack18_sample" / "annotations" / "val"
    if not folder.is_dir():
        pytest.skip("the folder with the sample of PoseTrack18 is not here")
    videos = [read_video(path) for path in sorted(folder.glob("*.json"))]
    assert sum(int((v.frame >= 0).sum()) for v in videos) == 14
    assert all(np.isfinite(v.head_size).all() for v in videos)
    assert all(v.ignore_regions for v in videos)


def predictions() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    points = rng.uniform(1, 100, (3, 17, 2))
    points[1, POSETRACK.index("left_knee")] = np.nan
    return {
        "frame_names": NAMES,
        "frame": [2, 0, 2],
        "points": points,
        "scores": rng.uniform(0, 1, (3, 17)),
        "track_id": [5, 6, 7],
    }


@pytest.mark.parametrize("neck", ["head_bottom", "shoulder_midpoint"])
@pytest.mark.parametrize("layout", BOTH)
def test_written_files_are_read_back(tmp_path: Path, layout: str, neck: str) -> None:
    given = predictions()
    path = tmp_path / "000342_mpii_test.json"
    write_posetrack(path, **given, layout=layout, neck=neck)
    video = read_video(path)
    assert (video.layout, video.neck) == (layout, neck)
    assert video.frame_names == tuple(NAMES)
    assert video.frame.tolist() == [0, 2, 2]
    assert video.track_id.tolist() == [6, 5, 7]
    points, scores = given["points"], given["scores"]
    if neck == "shoulder_midpoint":  # slots 5 and 6 are the shoulders, slot 1 is head_bottom
        points, scores = points.copy(), scores.copy()
        points[:, 1] = (points[:, 5] + points[:, 6]) / 2
        scores[:, 1] = (scores[:, 5] + scores[:, 6]) / 2
    columns = [16, 14, 12, 11, 13, 15, 10, 8, 6, 5, 7, 9, 1, 0, 2]
    rows = [1, 0, 2]
    np.testing.assert_array_equal(video.points, points[rows][:, columns])
    known = video.present
    np.testing.assert_array_equal(video.scores[known], scores[rows][:, columns][known])
    assert np.argwhere(~known).tolist() == [[0, POSETRACK_EVAL.index("left_knee")]]


def test_the_2018_layout_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "video.json"
    write_posetrack(path, **predictions())
    data = json.loads(path.read_text())
    assert [image["id"] for image in data["images"]] == [10003420000, 10003420001, 10003420002]
    assert [image["file_name"] for image in data["images"]] == NAMES
    assert data["images"][0]["vid_id"] == "000342"
    assert data["categories"][0]["keypoints"] == list(POSETRACK.joints)
    entry = data["annotations"][0]
    assert (entry["image_id"], entry["track_id"]) == (10003420000, 6)
    slot = POSETRACK.index("left_knee")
    assert entry["keypoints"][3 * slot : 3 * slot + 3] == [0, 0, 0]
    assert entry["scores"][slot] == 0
    scores = np.delete(predictions()["scores"][1], slot)
    assert entry["score"] == pytest.approx(scores.mean())
    write_posetrack(path, **predictions(), image_ids=[7, 8, 9], person_score=[1, 2, 3])
    data = json.loads(path.read_text())
    assert [entry["image_id"] for entry in data["annotations"]] == [7, 9, 9]
    assert [entry["score"] for entry in data["annotations"]] == [2, 1, 3]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("images/val/000342_mpii_test/000017.jpg", 10003420017),
        ("images/train/015301_mpii_train/000000.jpg", 10153010000),
        ("bonn_5sec/020910_bonn/0001.jpg", 20209100001),
        ("images/val/000001_mpiinew_test/000120.jpg", 30000010120),
        ("images/val/holiday/000120.jpg", None),
        ("images/val/000001_mpii_test/first.jpg", None),
    ],
)
def test_frame_ids(name: str, expected: int | None) -> None:
    assert posetrack_frame_id(name) == expected


def test_other_names_get_running_ids(tmp_path: Path) -> None:
    given = predictions() | {"frame_names": ["holiday/a.jpg", "holiday/b.jpg", "holiday/c.jpg"]}
    write_posetrack(tmp_path / "video.json", **given)
    data = json.loads((tmp_path / "video.json").read_text())
    assert [image["id"] for image in data["images"]] == [1, 2, 3]


@pytest.mark.parametrize("layout", BOTH)
def test_dummies_for_frames_without_people(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "video.json"
    write_posetrack(path, **predictions(), layout=layout, dummy_people=True)
    video = read_video(path)
    assert video.frame.tolist() == [0, 1, 2, 2]
    assert np.argwhere(video.present[1]).tolist() == [[0]]
    assert video.points[1, 0].tolist() == [0, 0]
    assert video.scores[1, 0] == -100
    assert video.track_id.tolist() == [6, 0, 5, 7]


def test_no_people_at_all(tmp_path: Path) -> None:
    for layout in BOTH:
        path = tmp_path / f"{layout}.json"
        write_posetrack(path, NAMES, [], np.zeros((0, 17, 2)), np.zeros((0, 17)), layout=layout)
        assert read_video(path).points.shape == (0, 15, 2)
        assert len(read_video(path).frame_names) == 3


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layout": "coco"}, "got 'coco' and 'head_bottom'"),
        ({"neck": "none"}, "got 'posetrack18' and 'none'"),
        ({"frame": [0, 3, 1]}, r"frame: expected 0\.\.2, got 0\.\.3"),
        ({"frame": [0, 1]}, r"points: expected the shape \[2, 17, 2\], got \[3, 17, 2\]"),
        ({"scores": np.zeros((3, 15))}, r"scores: expected the shape \[3, 17\], got \[3, 15\]"),
        ({"scores": np.full((3, 17), np.nan)}, "scores: expected finite numbers"),
        ({"points": np.full((3, 17, 2), np.inf)}, "points: expected finite numbers"),
        ({"track_id": [1]}, r"track_id: expected the shape \[3\], got \[1\]"),
        ({"image_ids": [1, 2, 1]}, r"image_ids: expected 3 different ids, got \[1, 2, 1\]"),
        ({"skeleton": COCO}, "skeleton 'coco' has no joint 'head_bottom'"),
    ],
)
def test_wrong_arguments_of_the_writer(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_posetrack(tmp_path / "video.json", **(predictions() | change))
    assert not list(tmp_path.iterdir())


def test_neck_convention_reaches_the_result(tmp_path: Path) -> None:
    joints = np.zeros((1, 17, 2))
    joints[0] = [(20.0 * k, 30.0 * k) for k in range(17)]
    truth, guess = tmp_path / "gt", tmp_path / "pred"
    truth.mkdir()
    guess.mkdir()
    columns = [POSETRACK.index(joint) for joint in POSETRACK_EVAL.joints]
    points = {k: (*joints[0, slot].tolist(), None) for k, slot in enumerate(columns)}
    necks = {"a": "head_bottom", "b": "shoulder_midpoint"}
    for name, neck in necks.items():
        (truth / f"{name}.json").write_text(json.dumps(layout_2017([Frame([Person(points)])])))
        write_posetrack(guess / f"{name}.json", NAMES[:1], [0], joints, np.ones((1, 17)), neck=neck)
    for name, neck in necks.items():
        result = evaluate_posetrack(truth, guess, videos=[name])
        assert result.neck == result.as_dict()["neck"] == neck
        right = [100.0] * 15
        if neck == "shoulder_midpoint":
            right[POSETRACK_EVAL.index("head_bottom")] = 0.0
        assert result.ap.tolist() == right
    assert evaluate_posetrack(truth, guess).neck == "mixed"


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Sets the value at a path: the last of the arguments."""

    def change(data: Any) -> None:
        for key in path[:-2]:
            data = data[key]
        data[path[-2]] = path[-1]

    return change


POINT = ("annolist", 0, "annorect", 0, "annopoints", 0, "point", 1)
PERSON = ("annotations", 1)
IN_FRAME_0 = r"frame 0 \(images/val/000001_mpii_test/000000\.jpg\): "


@pytest.mark.parametrize(
    "layout, change, message",
    [
        (2017, put(*POINT, "id", [15]), IN_FRAME_0 + r"joint id 15; expected 0\.\.14"),
        (2017, put(*POINT, "id", [0]), IN_FRAME_0 + "joint id 0 appears twice for one person"),
        (2017, put(*POINT, "x", [math.nan]), IN_FRAME_0 + "joint id 2 is not finite: x nan"),
        (2017, put(*POINT, "y", [math.inf]), IN_FRAME_0 + r"right_hip is not .*: x 23\.25, y inf"),
        (2017, put(*POINT, "score", [math.nan]), IN_FRAME_0 + "right_hip .* score nan"),
        (2017, put(*POINT, {"id": [1]}), IN_FRAME_0 + "a point needs 'id', 'x' and 'y', got"),
        (2017, put(*POINT, "x", [1, 2]), IN_FRAME_0 + r"'x' must be one number .* got \[1, 2\]"),
        (2017, put(*POINT, "x", ["1"]), IN_FRAME_0 + "'x' must be a number, got '1'"),
        (2017, put("annolist", 1, {"annorect": []}), "frame 1: needs 'image' with a name and"),
        (2017, put("annolist", 0, "annorect", 0, "track_id", [1.5]), IN_FRAME_0 + r"track id 1\.5"),
        (2017, put("annolist", 3), "not in the layout posetrack17"),
        (2018, put(*PERSON, "image_id", 7), "annotation 2 refers to image id 7, which is not in"),
        (2018, put(*PERSON, "id", 1), "annotation id 1 appears twice"),
        (2018, put("images", 1, "id", 10000010000), "image id 10000010000 appears twice"),
        (2018, put("images", 1, {"id": 3}), "image 1 needs 'id' and 'file_name'"),
        (2018, put("images", 1, "file_name", "images/val/other/1.jpg"), "expected the frames"),
        (2018, put(*PERSON, "keypoints", [1, 2, 3]), "annotation 2 .* expected 51 .* got 3"),
        (2018, put(*PERSON, "keypoints", ["a"] * 51), "annotation 2 .* must be numbers"),
        (2018, put(*PERSON, "keypoints", 0, math.nan), "annotation 2 .* nose is not finite"),
        (2018, put(*PERSON, "scores", [1.0] * 15), "annotation 2 .* expected 17 numbers .* got 15"),
        (2018, put(*PERSON, "bbox_head", [1, 2]), r"annotation 2 .* 'bbox_head' .* \[1, 2\]"),
        (2018, put("categories", 0, "keypoints", 0, "neb"), ".* missing nose, got neb, head"),
        (2018, put("categories", []), "expected one entry in 'categories'"),
        (2018, put("annotations", None), "expected the list 'annotations'"),
        (2018, put("images", 0, "ignore_regions_x", [[1]]), "image 10000010000: ignore_regions_x"),
    ],
)  # fmt: skip
def test_faults_of_files(
    tmp_path: Path, layout: int, change: Callable[[Any], None], message: str
) -> None:
    data = (layout_2017 if layout == 2017 else layout_2018)(scene())
    change(data)
    path = tmp_path / "video.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"video\.json: " + message):
        read_video(path)


def test_faults_of_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "video.json"
    for text, message in (
        ("{", "no valid JSON"),
        ("[]", r"expected an object with 'annolist' \(PoseTrack17\) or 'images'"),
        ("{}", "expected an object with 'annolist'"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"video\.json: " + message):
            read_video(path)


def test_points_without_a_joint_are_passed_over(tmp_path: Path) -> None:
    data = layout_2017(scene())
    data["annolist"][0]["annorect"][0]["annopoints"][0]["point"][1]["id"] = None
    path = tmp_path / "video.json"
    path.write_text(json.dumps(data))
    assert read_video(path).present.sum(1).tolist() == [7, 15, 1]


def test_missing_videos_and_frames(tmp_path: Path) -> None:
    frames = [Frame([person(0, 0, score=1)])] * 2
    truth, guess = write_videos(tmp_path, [(frames, frames), (frames, frames)])
    (guess / "000001_mpii_test.json").write_text(json.dumps(layout_2017(frames[:1])))
    with pytest.raises(ValueError, match=r"pred.000001.*: 1 frames, but .*gt.000001.* has 2"):
        evaluate_posetrack(truth, guess)
    (guess / "000001_mpii_test.json").unlink()
    with pytest.raises(ValueError, match=r"pred lacks 1 of 2 videos: 000001_mpii_test\.json"):
        evaluate_posetrack(truth, guess)
    assert evaluate_posetrack(truth, guess, videos=["000000_mpii_test"]).mean_ap == 100
    with pytest.raises(ValueError, match=r"gt lacks 1 of 1 videos: 9\.json"):
        evaluate_posetrack(truth, guess, videos=["9"])
    with pytest.raises(ValueError, match=r"predictions: .*nowhere is not a folder"):
        evaluate_posetrack(truth, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"ground truth: .* has no file \*\.json"):
        evaluate_posetrack(tmp_path, guess)


def test_frames_of_another_order(tmp_path: Path) -> None:
    frames = [Frame([person(0, 0, score=1)])] * 2
    truth, guess = write_videos(tmp_path, [(frames, frames)], ("posetrack18", "posetrack18"))
    path = guess / "000000_mpii_test.json"
    data = json.loads(path.read_text())
    data["images"].reverse()
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"frame 0 \(.*000001\.jpg\): .* has .*000000\.jpg in"):
        evaluate_posetrack(truth, guess)


def test_missing_head_box(tmp_path: Path) -> None:
    frames = [Frame(), Frame([person(0, 0, score=1, head=None)])]
    folders = write_videos(tmp_path, [(frames, frames)])
    with pytest.raises(
        ValueError, match=r"gt.000000.*: frame 0 \(.*/000001\.jpg\): .* no head box"
    ):
        evaluate_posetrack(*folders)
