"""PoseTrack17 and PoseTrack18 files: golden values, round trips, errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from posewarper.data.annotations import load_coco
from posewarper.data.posetrack import load_posetrack, save_posetrack
from posewarper.data.tables import Frames, People, PoseDataset, Regions, Video
from posewarper.evaluation.posetrack_files import read_video
from posewarper.skeleton import POSETRACK, POSETRACK_EVAL, Skeleton

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "posetrack18_sample" / "annotations"


def point(i, x, y, **more):
    return {"id": [i], "x": [x], "y": [y], **more}


def element_17(name, rects=(), labelled=1, regions=(), imgnum=1):
    return {
        "image": [{"name": name}],
        "imgnum": [imgnum],
        "annorect": list(rects),
        "is_labeled": [labelled],
        "ignore_regions": [
            {"point": [{"x": [x], "y": [y]} for x, y in region]} for region in regions
        ],
    }


@pytest.fixture
def folder_17(tmp_path):
    """A video of four frames, the second with two people."""
    rect = {
        "x1": [10], "y1": [20], "x2": [40], "y2": [60], "track_id": [5],
        "annopoints": [{"point": [
            point(13, 30, 40, is_visible=[1], score=[]),  # nose
            point(12, 35, 80, is_visible=[0]),  # neck
            point(0, 10.5, 239),  # right ankle
        ]}],
    }  # fmt: skip
    bare = {"x1": [1], "y1": [2], "x2": [3], "y2": [4], "track_id": [6], "annopoints": []}
    name = "images/bonn_5sec/000342_mpii/{:08d}.jpg"
    triangle = [(0, 0), (9, 0), (9, 9.5)]
    elements = [
        element_17(name.format(1), labelled=0, imgnum=1),
        element_17(name.format(2), [rect, bare], regions=[triangle, triangle], imgnum=2),
        element_17(name.format(3), labelled=1, imgnum=3),
        element_17(name.format(4), labelled=0, imgnum=4),
    ]
    folder = tmp_path / "val"
    folder.mkdir()
    (folder / "000342_mpii.json").write_text(json.dumps({"annolist": elements}))
    return folder


def test_read_17(folder_17):
    got = load_posetrack(folder_17)
    assert got.skeleton is POSETRACK
    assert got.videos == (Video("bonn_5sec/000342_mpii", 4, 1, "%08d.jpg"),)
    frames, people = got.frames, got.people
    assert frames.number.tolist() == [1, 2, 3, 4]
    assert frames.labelled.tolist() == [False, True, True, False]
    assert frames.file_name[1] == "bonn_5sec/000342_mpii/00000002.jpg"
    assert frames.original_file_name[1] == "images/bonn_5sec/000342_mpii/00000002.jpg"
    assert [len(frames.ignore.of(f)) for f in range(4)] == [0, 2, 0, 0]
    assert frames.ignore.of(1)[1].tolist() == [[0, 0], [9, 0], [9, 9.5]]
    assert people.frame.tolist() == [1, 1] and people.track_id.tolist() == [5, 6]
    assert people.head_box.tolist() == [[10, 20, 40, 60], [1, 2, 3, 4]]
    assert people.keypoints[0, 0].tolist() == [30, 40, 2]
    assert people.keypoints[0, 1].tolist() == [35, 80, 1]
    assert people.keypoints[0, 16].tolist() == [10.5, 239, 2]
    assert (people.keypoints[0, :, 2] > 0).sum() == 3
    # extent 10.5..36 x 40..240, times 1.2 about (23.25, 140)
    np.testing.assert_allclose(people.bbox[0], [7.95, 20, 30.6, 240])
    np.testing.assert_allclose(people.area, [30.6 * 240, 0])


def test_17_round_trip(folder_17, tmp_path):
    first = load_posetrack(folder_17)
    (path,) = save_posetrack(first, tmp_path / "out", "posetrack17")
    assert path.name == "000342_mpii.json"
    before = json.loads((folder_17 / path.name).read_text())["annolist"]
    after = json.loads(path.read_text())["annolist"]
    for a, b in zip(before, after, strict=True):
        for key in ("image", "imgnum", "is_labeled", "ignore_regions"):
            assert a[key] == b[key]
        assert len(a["annorect"]) == len(b["annorect"])
    points = {p["id"][0]: p for p in after[1]["annorect"][0]["annopoints"][0]["point"]}
    assert points[12] == point(12, 35, 80, is_visible=[0])
    assert points[0] == point(0, 10.5, 239, is_visible=[1]) and set(points) == {0, 12, 13}
    again = load_posetrack(tmp_path / "out")
    np.testing.assert_array_equal(again.people.keypoints, first.people.keypoints)
    np.testing.assert_array_equal(again.people.bbox, first.people.bbox)
    assert again.frames.file_name == first.frames.file_name


def test_17_original_names(tmp_path):
    elements = [element_17(f"images/b/v/{n:04d}_crop.jpg") for n in (7, 9, 12)]
    (tmp_path / "v.json").write_text(json.dumps({"annolist": elements}))
    got = load_posetrack(tmp_path)
    assert got.frames.number.tolist() == [1, 2, 3]
    assert got.frames.file_name[2] == "b/v/00000003.jpg"
    original = load_posetrack(tmp_path, renamed=False)
    assert original.frames.file_name[2] == "images/b/v/0012_crop.jpg"
    assert original.videos[0].path == "images/b/v"


def test_17_several_files_have_ids_that_go_on(folder_17):
    text = (folder_17 / "000342_mpii.json").read_text().replace("000342_mpii", "000999_mpii")
    (folder_17 / "000999_mpii.json").write_text(text)
    got = load_posetrack(folder_17)
    assert got.frames.image_id.tolist() == list(range(1, 9))
    assert got.people.annotation_id.tolist() == [1, 2, 3, 4]
    assert got.people.frame.tolist() == [1, 1, 5, 5]


def dataset_18():
    videos = (Video("images/val/000342_mpii_test", 3), Video("images/val/001_bonn", 2))
    frame_id = np.array([10003420000, 10003420001, 10003420002, 20000010000])
    frames = Frames.make(
        videos,
        [0, 0, 0, 1],
        [0, 1, 2, 0],
        image_id=frame_id,
        frame_id=frame_id,
        size_wh=(64, 48),
        labelled=[1, 0, 1, 1],
        ignore=Regions.make([[], [], [[(1, 2), (3, 4), (5, 6.25)]], []]),
    )
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(1, 40, (3, 17, 3)).round(4)
    keypoints[..., 2] = rng.integers(0, 2, (3, 17))
    keypoints[:, 3:5] = 0
    people = People.make(
        [0, 2, 3],
        keypoints * (keypoints[..., 2:] > 0),
        rng.uniform(1, 40, (3, 4)),
        head_box=[(1, 2, 3.5, 9), [np.nan] * 4, (4, 4, 6, 8)],
        track_id=[0, 3, 1],
        annotation_id=[1000342000000, 1000342000203, 2000001000001],
    )
    return PoseDataset(POSETRACK, videos, frames, people)


def same(a, b, columns):
    for table, names in columns.items():
        for name in names:
            x, y = getattr(getattr(a, table), name), getattr(getattr(b, table), name)
            np.testing.assert_array_equal(x, y, err_msg=name)


def test_18_round_trip(tmp_path):
    first = dataset_18()
    paths = save_posetrack(first, tmp_path, "posetrack18")
    assert [p.name for p in paths] == ["000342_mpii_test.json", "001_bonn.json"]
    raw = json.loads(paths[0].read_text())
    assert raw["images"][0]["vid_id"] == "000342" and raw["images"][1]["is_labeled"] is False
    assert raw["annotations"][0]["bbox_head"] == [1, 2, 2.5, 7]
    assert "area" not in raw["annotations"][0] and "bbox_head" not in raw["annotations"][1]
    again = load_posetrack(tmp_path)
    assert again.videos == first.videos
    same(again, first, {
        "frames": ("video", "number", "image_id", "frame_id", "size_wh", "labelled", "file_name"),
        "people": tuple(vars(first.people)),
    })  # fmt: skip
    assert again.frames.ignore.of(2)[0].tolist() == [[1, 2], [3, 4], [5, 6.25]]


def test_18_to_17_and_back(tmp_path):
    first = dataset_18()
    save_posetrack(first, tmp_path, "posetrack17")
    got = load_posetrack(tmp_path, renamed=False)
    assert [v.first_frame for v in got.videos] == [1, 1]
    mine, other = first.people.keypoints.copy(), got.people.keypoints.copy()
    assert set(np.unique(other[..., 2])) == {0, 2}
    mine[..., 2] *= 2
    np.testing.assert_array_equal(mine, other)
    same(got, first, {"people": ("head_box", "track_id", "frame"), "frames": ("file_name",)})


@pytest.mark.parametrize("kind", ["posetrack17", "posetrack18"])
def test_scores_are_kept(kind, tmp_path):
    """Pseudo-labels do not become human labels on the way."""
    first = dataset_18()
    seen = first.people.keypoints[..., 2] > 0
    scores = np.where(seen, np.random.default_rng(1).uniform(0.1, 1, seen.shape), np.nan)
    scores[1] = np.nan  # a human label
    people = replace(first.people, joint_scores=scores, score=np.array([0.5, np.nan, 0.25]))
    save_posetrack(replace(first, people=people), tmp_path, kind)
    got = load_posetrack(tmp_path, renamed=False).people
    assert got.predicted.tolist() == [True, False, True]
    np.testing.assert_array_equal(got.score, people.score)
    assert seen[[0, 2]].sum() > 10
    np.testing.assert_array_equal(got.joint_scores[seen], scores[seen])
    # the evaluation reads the same
    mine = [POSETRACK.index(joint) for joint in POSETRACK_EVAL.joints]
    for path, row in zip(sorted(tmp_path.iterdir()), (0, 2), strict=True):
        there = seen[row, mine]
        np.testing.assert_array_equal(read_video(path).scores[0, there], scores[row, mine][there])


def test_predicted_people_without_joints(tmp_path):
    """In PoseTrack17 nothing would tell them from human labels; ears are not part of it."""
    first = dataset_18()
    keypoints, scores = first.people.keypoints.copy(), np.full((3, 17), np.nan)
    keypoints[0], scores[0] = 0, 0
    people = replace(first.people, keypoints=keypoints, joint_scores=scores)
    for kind, expected in (("posetrack18", [True, False, False]), ("posetrack17", [False, False])):
        save_posetrack(replace(first, people=people), tmp_path / kind, kind)
        assert load_posetrack(tmp_path / kind).people.predicted.tolist() == expected


def test_18_box_that_is_missing(tmp_path):
    (path, _) = save_posetrack(dataset_18(), tmp_path, "posetrack18")
    raw = json.loads(path.read_text())
    keypoints = np.zeros((17, 3))
    keypoints[[0, 5, 9]] = [(10, 20, 1), (30, 60, 1), (20, 30, 1)]
    raw["annotations"][0].update(bbox=[], keypoints=keypoints.ravel().tolist())
    path.write_text(json.dumps(raw))
    got = load_posetrack(path)  # a single file
    np.testing.assert_allclose(got.people.bbox[0], [7, 14, 26, 52])  # 20 x 40, times 1.3
    np.testing.assert_allclose(got.people.area[0], 26 * 52)


def test_real_18_round_trip(tmp_path):
    if not SAMPLE.exists():
        pytest.skip(f"the PoseTrack18 sample is not there: {SAMPLE}")
    first = load_posetrack(SAMPLE / "val")
    save_posetrack(first, tmp_path, "posetrack18")
    for path in sorted((SAMPLE / "val").iterdir()):
        before, after = (json.loads((d / path.name).read_text()) for d in (path.parent, tmp_path))
        for image in before["images"]:
            image.pop("mask_file")
        for content in (before, after):
            content["categories"][0].pop("skeleton")  # limbs are a matter of drawing
        assert after == before
    # the same people as in the converted file
    whole = load_coco(SAMPLE / "test_posetrack18_val.json")
    order = np.argsort(whole.people.annotation_id)
    mine = np.argsort(first.people.annotation_id)
    for name in ("bbox", "area", "keypoints", "head_box", "track_id"):
        a, b = getattr(first.people, name), getattr(whole.people, name)
        np.testing.assert_array_equal(a[mine], b[order], err_msg=name)


def test_skeletons_that_do_not_fit(tmp_path):
    skeleton = Skeleton("two", ("nose", "tail"))
    videos = (Video("a/v", 1), Video("b/v", 1))
    none = People.make([0], np.ones((1, 2, 3)), np.ones((1, 4)))
    dataset = PoseDataset(skeleton, videos[:1], Frames.make(videos, [0], [0]), none)
    with pytest.raises(ValueError, match="no joint 'right_ankle'"):
        save_posetrack(dataset, tmp_path, "posetrack17")
    dataset = PoseDataset(skeleton, videos, Frames.make(videos, [0, 1], [0, 0]), none)
    with pytest.raises(ValueError, match=r"two videos would be written to v\.json"):
        save_posetrack(dataset, tmp_path, "posetrack18")
    with pytest.raises(ValueError, match="kind"):
        save_posetrack(dataset, tmp_path, "posetrack19")
    assert len(POSETRACK_EVAL) == 15


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no valid JSON"),
        ("{}", "neither PoseTrack17"),
        ('{"annolist": []}', "names no image"),
        (json.dumps({"annolist": [element_17("a/1.jpg"), element_17("b/2.jpg")]}), "one video"),
        (
            json.dumps({"annolist": [
                element_17("a/1.jpg", [{"annopoints": [{"point": [point(15, 1, 1)]}]}])
            ]}),
            "a/1.jpg: joint id 15",
        ),
    ],
)  # fmt: skip
def test_errors_name_the_file(content, message, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=f"x.json.*{message}"):
        load_posetrack(tmp_path)


def test_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no JSON files"):
        load_posetrack(tmp_path)
