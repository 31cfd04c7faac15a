"""What stands in COCO-style files is read as it is meant, or refused with its place."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posewarper.data.dataset import load_detections
from posewarper.data.entries import ids_of_tracks
from posewarper.data.formats import load_labels, save_labels
from posewarper.data.given_boxes import load_frames
from posewarper.data.posetrack import load_posetrack
from posewarper.skeleton import COCO, POSETRACK, Skeleton

GOOD: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "clip/000001.jpg", "width": 64, "height": 48}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "track_id": 0,
            "bbox": [1, 2, 30, 40],
            "keypoints": [3, 4, 2, 20, 30, 2],
        }
    ],
    "categories": [{"id": 1, "name": "fly", "keypoints": ["a", "b"], "skeleton": [[1, 2]]}],
}
VIDEO = {"id": 1, "name": "v", "nframes": 3, "first_frame": 0, "pattern": "%06d.jpg", "path": "v"}


def changed(path: Path, *places: Any) -> Path:
    """``GOOD`` with other values: pairs of a place, ``images.0.width``, and what stands there;
    ... takes it out.
    """
    data = copy.deepcopy(GOOD)
    for place, value in zip(places[::2], places[1::2], strict=True):
        *parents, last = [int(p) if p.isdigit() else p for p in place.split(".")]
        entry: Any = data
        for parent in parents:
            entry = entry[parent]
        if value is ...:
            del entry[last]
        else:
            entry[last] = value
    path.write_text(json.dumps(data))
    return path


A, IMAGE, CATEGORY = "annotations.0.", "images.0.", "categories.0."


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("annotations", None, r"'annotations': expected a list, got null"),
        ("annotations", {"1": 2}, r"'annotations': expected a list, got an object of 1"),
        ("annotations.0", None, r"'annotations'\[0\]: expected an object, got null"),
        ("images", None, r"'images': expected a list, got null"),
        ("images.0", "x", r"'images'\[0\]: expected an object, got 'x'"),
        ("categories", {"1": {}}, r"'categories': expected a list, got an object"),
        (A + "bbox", ["1", "2", "3", "x"], r"annotation 1: 'bbox': expected a number, got 'x'"),
        (A + "bbox", 5, r"annotation 1: 'bbox': expected a list of 4, got 5"),
        (A + "bbox", [1, 2, -30, 40], r"annotation 1 .*'bbox' has a negative width or height"),
        (A + "bbox", [1, 2, 1e10, 40], r"annotation 1: 'bbox': .*1e\+09, got 10000000000.0"),
        (A + "bbox", [[1], 2, 3, 4], r"annotation 1: 'bbox': expected a number, got a list"),
        (A + "image_id", [1], r"annotation 1: 'image_id': expected an id .*, got a list of 1"),
        (A + "image_id", True, r"annotation 1: 'image_id': expected an id .*, got True"),
        (A + "image_id", 7, r"annotation 1 belongs to image 7, which is missing"),
        (A + "image_id", ..., r"annotation 1 lacks 'id' or 'image_id'"),
        (A + "category_id", 5, r"annotation 1 is of category 5, which is not listed; .*1 \(fly\)"),
        (A + "track_id", float("inf"), r"annotation 1: 'track_id': expected an id .*, got inf"),
        (A + "track_id", 0.5, r"annotation 1: 'track_id': expected an id .*, got 0.5"),
        (A + "track_id", 2**70, r"annotation 1: 'track_id': .* got a number with too many digits"),
        (A + "area", "big", r"annotation 1: 'area': expected a number, got 'big'"),
        (A + "score", float("inf"), r"annotation 1: 'score': expected a number from .*, got inf"),
        (A + "scores", [0.5, float("inf")], r"annotation 1: 'scores': .*, got inf"),
        (A + "scores", [0.5], r"annotation 1 has 1 numbers in 'scores', expected 2"),
        (A + "head_box", [1, 2], r"annotation 1: 'head_box': expected a list of 4"),
        (A + "bbox_head", [1, 2], r"annotation 1: 'bbox_head': expected a list of 4"),
        (A + "keypoints", "abcdef", r"annotation 1: 'keypoints': expected a list, got 'abcdef'"),
        (A + "keypoints", [3, 4, "x", 1, 2, 2], r"annotation 1: 'keypoints': .* got 'x'"),
        (A + "keypoints", [1e300, 4, 2, 1, 2, 2], r"annotation 1: 'keypoints': .* got 1e\+300"),
        (A + "keypoints", [3, 4, 7.5, 1, 2, -3], r"annotation 1 \(in clip/000001.jpg\): the vis"),
        (A + "keypoints", [3, 4, 0.5, 1, 2, 0.25], r"confidences are written in 'scores', got"),
        (A + "keypoints", [None, 4, 2, 1, 2, 2], r"keypoints of annotation 1 is not finite"),
        (IMAGE + "file_name", 12, r"image 1: 'file_name': expected text, got 12"),
        (IMAGE + "file_name", "9" * 40 + ".png", r"cannot be the number of a frame"),
        (IMAGE + "file_name", "a\0.png", r"image 1: 'file_name': expected text, got 'a.x00.png'"),
        (IMAGE + "width", "640px", r"image 1: 'width': expected a number, got '640px'"),
        (IMAGE + "width", -64, r"image 1: 'width': expected a number from 0 to 1e\+07, got -64"),
        (IMAGE + "width", 1e18, r"image 1: 'width': expected a number from 0 to 1e\+07"),
        (IMAGE + "width", 6.5, r"image 1: 'width': expected a whole number, got 6.5"),
        (IMAGE + "nframes", 10**15, r"image 1: 'nframes': .*, got 1000000000000000"),
        (IMAGE + "ignore_regions_x", [["a"]], r"ignore regions of image 1: x and y differ"),
        (CATEGORY + "keypoints", [None, "b"], r"category 'fly': 'keypoints': expected names"),
        (CATEGORY + "keypoints", ["a", "a"], r"category 'fly': .* key point 'a' is there twice"),
        (CATEGORY + "flip_pairs", [[0, 2]], r"category 'fly': 'flip_pairs': .*, got 2"),
        (CATEGORY + "flip_pairs", [[0]], r"category 'fly': 'flip_pairs': expected a list of 2"),
        (CATEGORY + "sigmas", [0.1], r"category 'fly': 'sigmas': expected a list of 2"),
        (CATEGORY + "sigmas", [0.1, -1], r"category 'fly': 'sigmas': .*, got -1"),
    ],
)
def test_nonsense_is_refused_with_its_place(place, value, message, tmp_path):
    with pytest.raises(ValueError, match=r"/x\.json: .*" + message) as caught:
        load_labels(changed(tmp_path / "x.json", place, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("nframes", "three", "'nframes': expected a number, got 'three'"),
        ("nframes", 10**9, "'nframes': expected a number from 0 to 1e.08"),
        ("name", None, "'name': expected text, got null"),
        ("pattern", "%d%d.jpg", "'pattern': expected a name with one %d or %06d, got '%d%d.jpg'"),
        ("pattern", 5, "'pattern': expected a name with one %d or %06d, got 5"),
        ("path", 5, "'path': expected text, got 5"),
        ("id", [1], "'id': expected an id"),
        ("id", 3, "image 1 lies in video 1, which is not listed"),
    ],
)
def test_tables_of_videos(key, value, message, tmp_path):
    where = (IMAGE + "video_id", 1, IMAGE + "frame_number", 0)
    with pytest.raises(ValueError, match=r"x\.json: .*" + message):
        load_labels(changed(tmp_path / "x.json", "videos", [{**VIDEO, key: value}], *where))
    video = {k: v for k, v in VIDEO.items() if k != "path"}
    found = load_labels(changed(tmp_path / "x.json", "videos", [{**video, "nframes": "3"}], *where))
    assert found.videos[0].path == "v" and found.videos[0].frame_count == 3
    where = (IMAGE + "video_id", 1, IMAGE + "frame_number", -7)
    with pytest.raises(ValueError, match=r"image 1: 'frame_number': .* got -7"):
        load_labels(changed(tmp_path / "x.json", "videos", [VIDEO], *where))


def test_json_that_cannot_be_read(tmp_path):
    deep = '{"images": ' + "[" * 100_000 + "]" * 100_000 + "}"
    for text in (deep, '{"images": ' + "9" * 5000 + "}", "{", '{"a": "\xff"}'):
        (tmp_path / "x.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=r"x\.json: no valid JSON: "):
            load_labels(tmp_path / "x.json")


# Good files that were refused


def test_ids_that_are_text(tmp_path):
    plain = load_labels(changed(tmp_path / "x.json"))
    for image, own, category in (("1", "1", "1"), ("a-f", "b", "c"), (1.0, 1.0, 1.0)):
        path = changed(
            tmp_path / "x.json", IMAGE + "id", image, A + "image_id", image, A + "id", own,
            A + "category_id", category, CATEGORY + "id", category,
        )  # fmt: skip
        found = load_labels(path)
        assert found.frames.image_id.tolist() == found.people.annotation_id.tolist() == [1]
        np.testing.assert_array_equal(found.people.keypoints, plain.people.keypoints)
    mixed = changed(tmp_path / "x.json", A + "image_id", "1", A + "category_id", "1")
    assert len(load_labels(mixed).people) == 1


def test_tracks_that_are_names_or_missing(tmp_path):
    for value, tracks, names in (
        ("anna", [0], {0: "anna"}), ("track_5", [5], {5: "track_5"}), ("7", [7], {}),
        (None, [-1], {}), ("", [-1], {}), (-3, [-1], {}), (..., [-1], {}), (2.0, [2], {}),
    ):  # fmt: skip
        found = load_labels(changed(tmp_path / "x.json", A + "track_id", value))
        assert found.people.track_id.tolist() == tracks and found.track_names == names
    assert ids_of_tracks(["b", "a", "b"]) == {0: "b", 1: "a"}


def test_boxes_that_are_missing_are_made_of_the_joints(tmp_path):
    for value in (None, [], ..., [0, 0, 0, 0]):
        found = load_labels(changed(tmp_path / "x.json", A + "bbox", value))
        np.testing.assert_allclose(found.people.bbox, [[0.875, 0.75, 21.25, 32.5]])
    points = [3, 4, 2, None, None, None]
    found = load_labels(changed(tmp_path / "x.json", A + "keypoints", points))
    assert found.people.keypoints.tolist() == [[[3, 4, 2], [0, 0, 0]]]


def test_one_category_needs_no_id(tmp_path):
    assert len(load_labels(changed(tmp_path / "x.json", CATEGORY + "id", ...)).people) == 1
    named = load_labels(changed(tmp_path / "x.json", CATEGORY + "keypoints", [0, 1]))
    assert named.skeleton.joints == ("0", "1")
    two = [{**GOOD["categories"][0], "name": "a"}, {"name": "b"}]
    with pytest.raises(ValueError, match=r"x.json: category 'b' lacks 'id'"):
        load_labels(changed(tmp_path / "x.json", "categories", two))
    two[1]["id"] = 1
    with pytest.raises(ValueError, match=r"x.json: the id of category 'b' is that of an earlier"):
        load_labels(changed(tmp_path / "x.json", "categories", two))


# Limbs, which are only drawn


@pytest.mark.parametrize(
    ("limbs", "wanted", "warning"),
    [
        ([[1, 2], [2, 3]], ((0, 1), (1, 2)), None),
        ([[0, 1], [1, 2]], ((0, 1), (1, 2)), None),
        ([["n", "e"], ["e", "t"]], ((0, 1), (1, 2)), None),
        ([[1, 2]], ((0, 1),), r"could count from 0 or from 1; .* the first joins 'n' and 'e'"),
        ([[1, 2, 3], [2, 3]], ((1, 2),), "limbs are left out"),
        ([[1, 9], [2, 3]], ((1, 2),), "limbs are left out"),
        ([["n", "paw"], None, "x", [None, 1], [2, 3]], ((1, 2),), "limbs are left out"),
        ("n-e", (), "limbs are left out"),
        ({"a": 1}, (), "limbs are left out"),
        (None, (), None),
    ],
)
def test_limbs_never_stop_anything(limbs, wanted, warning, tmp_path, recwarn):
    path = changed(
        tmp_path / "x.json", CATEGORY + "keypoints", ["n", "e", "t"], CATEGORY + "skeleton", limbs,
        A + "keypoints", [3, 4, 2] * 3,
    )  # fmt: skip
    found = load_labels(path)
    assert found.skeleton.limbs == wanted and len(found.people) == 1
    messages = [str(w.message) for w in recwarn]
    assert len(messages) == (warning is not None)
    if warning is not None:
        assert messages[0].startswith(f"{path}: category 'fly': ")
        assert re.search(warning, messages[0])
    save_labels(found, tmp_path / "own.json")  # which says how it counts
    recwarn.clear()
    assert load_labels(tmp_path / "own.json").skeleton.limbs == wanted and not len(recwarn)


# Categories


def categories(path: Path, *joints: list[str], boxes: bool = False) -> Path:
    """A person of each category in one frame; with ``boxes`` also one of a category of boxes."""
    names = [{"id": i, "name": f"c{i}", "keypoints": own} for i, own in enumerate(joints, 1)]
    people = [
        {
            "id": i,
            "image_id": 1,
            "category_id": i,
            "bbox": [1, 2, 3, 4],
            "keypoints": [v for j, _ in enumerate(own) for v in (10 * i, j + 1, 2)],
        }
        for i, own in enumerate(joints, 1)
    ]
    if boxes:
        names.insert(0, {"id": 9, "name": "box"})
        people.insert(0, {"id": 9, "image_id": 1, "category_id": 9, "bbox": [1, 2, 3, 4]})
    return changed(path, "categories", names, "annotations", people)


def test_categories_with_the_same_joints_in_another_order(tmp_path, recwarn):
    found = load_labels(categories(tmp_path / "x.json", ["a", "b"], ["b", "a"]))
    assert found.skeleton.joints == ("a", "b") and not len(recwarn)
    expected = [[[10, 1, 2], [10, 2, 2]], [[20, 2, 2], [20, 1, 2]]]
    assert found.people.keypoints.tolist() == expected


def test_categories_that_share_joints_are_one_skeleton(tmp_path):
    path = categories(tmp_path / "x.json", ["a", "b"], ["c", "b"], ["c"])
    with pytest.warns(UserWarning, match=r"x.json: .*one skeleton of 3: 'c1' \(1 annotations, key"):
        found = load_labels(path)
    assert found.skeleton.joints == ("a", "b", "c")
    assert found.people.keypoints[..., 0].tolist() == [[10, 10, 0], [0, 20, 20], [0, 0, 30]]
    with pytest.warns(UserWarning, match=r"left out are categories 'c1' \(1 annotations"):
        part = load_labels(path, skeleton=Skeleton("c", ("c",)))
    assert part.people.annotation_id.tolist() == [2, 3]
    with pytest.raises(ValueError, match=r"x.json: skeleton 'd' has joints \['d'\]"):
        load_labels(path, skeleton=Skeleton("d", ("d",)))


def test_categories_that_share_nothing_are_named(tmp_path):
    path = categories(tmp_path / "x.json", ["a", "b"], ["c"])
    with pytest.warns(UserWarning, match=r"left out are categories 'c2' \(1 annotations, key po"):
        assert load_labels(path).skeleton.joints == ("a", "b")
    with pytest.warns(UserWarning, match=r"left out are categories 'c1'"):
        other = load_labels(path, skeleton=Skeleton("other", ("c",)))
    assert other.people.keypoints.tolist() == [[[20, 1, 2]]]


def test_boxes_beside_key_points_are_named(tmp_path):
    with pytest.warns(UserWarning, match=r"left out are categories 'box' \(1 annotations, no key"):
        assert len(load_labels(categories(tmp_path / "x.json", ["a"], boxes=True)).people) == 1


def test_files_without_key_points(tmp_path):
    """They are no labels of poses, but boxes and frames to predict in."""
    path = changed(
        tmp_path / "x.json", "categories", [{"id": 1, "name": "nose"}], A + "keypoints", ...
    )
    with pytest.raises(ValueError, match=r"x.json: 1 boxes, but no key points: .* are nose\)"):
        load_labels(path)
    assert load_labels(path, poses=False).people.bbox.tolist() == [[1, 2, 30, 40]]
    assert len(load_frames(path, POSETRACK).people) == 1
    unnamed = changed(path, "categories", [], A + "keypoints", [1, 2, 2] * 17)
    assert load_labels(unnamed).skeleton is POSETRACK
    assert load_frames(unnamed, COCO).skeleton is COCO


# PoseTrack17

REGION = {"point": [{"x": [1], "y": [2]}]}


@pytest.mark.parametrize(
    ("rect", "more", "message"),
    [
        (None, {}, r"'annorect'\[0\]: expected an object, got null"),
        ({"annopoints": [5]}, {}, r"'annopoints': expected an object, got 5"),
        ({"annopoints": [{"point": [None]}]}, {}, r"'point'\[0\]: expected an object"),
        ({"annopoints": [{"point": [{"id": [0], "y": [2]}]}]}, {}, r"'x': .*, got null"),
        ({"annopoints": [{"point": [{"id": ["a"]}]}]}, {}, r"'id' of a point: .*, got 'a'"),
        ({"track_id": ["a"]}, {}, r"'track_id': expected a number, got 'a'"),
        ({"x1": [float("inf")]}, {}, r"'x1': expected a number from .*, got inf"),
        ({}, {"ignore_regions": [{"point": [{"x": [1]}]}]}, r"'ignore_regions': .*got null"),
        ({}, {"imgnum": ["a"]}, r"'imgnum': expected a number, got 'a'"),
    ],
)
def test_damaged_files_of_2017(rect, more, message, tmp_path):
    image = {"image": [{"name": "images/v/00000001.jpg"}], "annorect": [rect], **more}
    (tmp_path / "x.json").write_text(json.dumps({"annolist": [image]}))
    with pytest.raises(ValueError, match=r"x\.json: image images/v/00000001.jpg: " + message):
        load_posetrack(tmp_path / "x.json")


# Boxes of a detector


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (None, r"detection 0: expected an object, got null"),
        ({"bbox": None}, r"detection 0: 'bbox': expected a list of 4, got null"),
        ({"bbox": [1, 2, 3]}, r"detection 0: 'bbox': expected a list of 4, got a list of 3"),
        ({"bbox": [1, 2, 3, "w"]}, r"detection 0: 'bbox': expected a number, got 'w'"),
        ({"bbox": [1, 2, 3, -4]}, r"detection 0: 'bbox' has a negative width or height"),
        ({"score": float("inf")}, r"detection 0: 'score': .*, got inf"),
        ({"image_name": 5}, r"detection 0: 'image_name': expected text, got 5"),
        ({"image_name": ..., "image_id": [1]}, r"detection 0: 'image_id': expected an id"),
    ],
)
def test_damaged_detections(entry, message, tmp_path):
    good = {"image_name": "clip/000001.jpg", "bbox": [1, 2, 3, 4], "score": 0.9}
    changes = {} if entry is None else {**good, **entry}
    content = None if entry is None else {k: v for k, v in changes.items() if v is not ...}
    (tmp_path / "d.json").write_text(json.dumps([content]))
    with pytest.raises(ValueError, match=r"d\.json: " + message):
        load_detections(tmp_path / "d.json", load_labels(changed(tmp_path / "x.json")))
    (tmp_path / "d.json").write_text(json.dumps([good, {**good, "image_id": "1"}]))
    assert len(load_detections(tmp_path / "d.json", load_labels(tmp_path / "x.json"))) == 2
