"""Predictions of other estimators in small files made here, and what is not read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from foreign_files import MOUSE, flat, numbers_of, write

from posewarper.data.formats import load_labels, save_labels
from posewarper.data.formats.estimators import ALPHAPOSE, OPENPOSE
from posewarper.skeleton import COCO, POSETRACK, Skeleton

# AlphaPose and COCO results


def test_alphapose(tmp_path):
    people = [
        {"image_id": "4.jpg", "category_id": 1, "keypoints": flat(17), "score": 2.5,
         "box": [1, 2, 30, 40], "idx": [1.0]},
        {"image_id": "4.jpg", "category_id": 1, "keypoints": flat(17, 50), "score": 1.5, "idx": 3},
        {"image_id": "12.jpg", "category_id": 1, "keypoints": [0, 0, 0, *flat(16)], "score": 1.0,
         "idx": [[1]]},
    ]  # fmt: skip
    found = load_labels(write(tmp_path / "alphapose-results.json", people))
    assert found.skeleton == COCO and numbers_of(found) == [4, 4, 12]
    np.testing.assert_array_equal(found.people.track_id, [1, 3, 1])
    np.testing.assert_array_equal(found.people.score, [2.5, 1.5, 1])
    np.testing.assert_array_equal(found.people.keypoints[1, 16], [66, 660, 2])
    np.testing.assert_array_equal(found.people.bbox[0], [1, 2, 30, 40])
    assert found.people.keypoints[2, 0, 2] == 0 and np.isnan(found.people.joint_scores[2, 0])
    assert (found.people.joint_scores[:2] == 0.5).all()


def test_ids_that_occur_twice_in_a_frame_are_no_tracks(tmp_path):
    people = [
        {"image_id": "1.jpg", "keypoints": flat(17, 9 * i), "score": 1, "idx": 0} for i in (1, 2)
    ]
    with pytest.warns(UserWarning, match=r"a.json: ids of people occur twice in a frame"):
        found = load_labels(write(tmp_path / "a.json", people))
    np.testing.assert_array_equal(found.people.track_id, [-1, -1])


def test_alphapose_in_the_layout_of_openpose(tmp_path):
    content = {"7.jpg": {"version": "x", "people": [{"pose_keypoints_2d": flat(18)}]}}
    found = load_labels(write(tmp_path / "a.json", content))
    assert found.skeleton.joints == OPENPOSE[18] and numbers_of(found) == [7]
    assert found.skeleton.joints[:3] == ("nose", "neck", "right_shoulder")
    taken = load_labels(tmp_path / "a.json", skeleton=COCO)  # by name, without the neck
    np.testing.assert_array_equal(taken.people.keypoints[0, COCO.index("right_shoulder")][0], 3)


def test_coco_results_want_to_be_named(tmp_path):
    """Ids of images are not numbers of frames unless somebody says so, and 17 joints may be an
    animal's."""
    people = [
        {"image_id": 3, "category_id": 1, "keypoints": flat(3, 5, 2), "score": 0.75},
        {"image_id": 3, "category_id": 1, "keypoints": [0, 0, 0, *flat(2, 5, 1)], "score": 0.5},
    ]
    path = write(tmp_path / "clip.json", people)
    with pytest.raises(ValueError, match=r"clip.json: COCO results .* say --format coco-results"):
        load_labels(path)
    with pytest.warns(UserWarning, match="does not name its 3 joints: .* keypoint_0 to keypoint_2"):
        found = load_labels(path, format="coco-results")
    assert found.videos[0].name == "clip" and numbers_of(found) == [3, 3]
    np.testing.assert_array_equal(found.people.keypoints[1, :, 2], [0, 2, 2])
    expected = [[0.75, 0.75, 0.75], [np.nan, 0.5, 0.5]]  # of the people: thirds are visibility
    np.testing.assert_array_equal(found.people.joint_scores, expected)
    named = load_labels(path, format="coco-results", skeleton=MOUSE)
    assert named.skeleton.joints == MOUSE.joints
    with pytest.raises(ValueError, match="3 joints without names, skeleton 'coco' has 17"):
        load_labels(path, format="coco-results", skeleton=COCO)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": [1, 2]}, r"result 0: expected key points"),
        ({"keypoints": [1, 2, float("nan")]}, r"result 0: expected key points"),
        ({"score": "high"}, r"result 0: score: expected a number, got 'high'"),
        ({"box": [1, 2]}, r"result 0: box: expected a list of 4"),
        ({"keypoints": flat(2)}, r"expected people with the same joints, got .* 2 and 3 joints"),
    ],
)
def test_damaged_results(change, message, tmp_path):
    good = {"image_id": "1.jpg", "keypoints": flat(3), "score": 1.0}
    path = write(tmp_path / "a.json", [{**good, **change}, {**good, "image_id": "2.jpg"}])
    with pytest.raises(ValueError, match=r"a.json: .*" + message):
        load_labels(path)


# MMPose


def mmpose_frame(number, *starts, **more):
    return {
        "frame_id": number,
        "instances": [
            {
                "keypoints": [[s + i, s * 10.0] for i in range(3)],
                "keypoint_scores": [0.25, 0.5, 0.75],
                "bbox": [[s, s, s + 20, s + 30]],
                "bbox_score": 0.875,
                **more,
            }
            for s in starts
        ],
    }


def test_mmpose_counts_from_1_in_its_demos_and_from_0_in_its_inferencer(tmp_path):
    frames = [mmpose_frame(1, 5.0, 50.0), mmpose_frame(2), mmpose_frame(3, 6.0)]
    names = {"0": "nose", "1": "ear", "2": "tail"}
    meta = {"dataset_name": "mouse", "keypoint_id2name": names, "skeleton_links": [[0, 1], [1, 2]]}
    path = write(tmp_path / "results_clip.json", {"meta_info": meta, "instance_info": frames})
    found = load_labels(path)
    assert found.skeleton == Skeleton("mouse", MOUSE.joints, (), ((0, 1), (1, 2)))
    assert found.videos[0].name == "clip" and numbers_of(found) == [0, 0, 2]
    assert found.frames.number.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(found.people.keypoints[1, 2], [52, 500, 2])
    np.testing.assert_array_equal(found.people.joint_scores[0], [0.25, 0.5, 0.75])
    np.testing.assert_array_equal(found.people.bbox[0], [5, 5, 20, 30])
    np.testing.assert_array_equal(found.people.score, [0.875] * 3)

    path = write(tmp_path / "clip.json", [mmpose_frame(0, 5.0), mmpose_frame(1, 6.0)])
    found = load_labels(path, skeleton=MOUSE)
    assert found.videos[0].name == "clip" and numbers_of(found) == [0, 1]
    assert found.skeleton.joints == MOUSE.joints


def test_mmpose_files_that_cannot_be_placed(tmp_path):
    one = mmpose_frame(0, 5.0)["instances"]
    with pytest.raises(ValueError, match=r"a.json: .*no 'frame_id'.*predictions for images"):
        load_labels(write(tmp_path / "a.json", one))
    three = [mmpose_frame(4, 5.0, keypoints=[[1, 2, 3]] * 3)]
    with pytest.raises(ValueError, match=r"b.json: frame_id 4: expected keypoints as pairs"):
        load_labels(write(tmp_path / "b.json", three))


# OpenPose


def test_openpose(tmp_path):
    first = {"people": [{"pose_keypoints_2d": flat(25)}, {"pose_keypoints_2d": [0] * 75}]}
    second = {"people": [{"pose_keypoints_2d": [0, 0, 0, *flat(24, 7, 0.25)]}]}
    folder = tmp_path / "json"
    write(folder / "clip_000000000003_keypoints.json", first)
    write(folder / "clip_000000000010_keypoints.json", {"people": []})
    write(folder / "clip_000000000011_keypoints.json", second)
    found = load_labels(folder)
    assert found.skeleton.joints == OPENPOSE[25] and len(set(OPENPOSE[25])) == 25
    assert found.skeleton.joints[8] == "mid_hip" and found.skeleton.joints[24] == "right_heel"
    assert found.frames.number.tolist() == [3, 10, 11] and numbers_of(found) == [3, 11]
    assert found.videos[0].name == "clip" and found.people.predicted.all()
    np.testing.assert_array_equal(found.people.keypoints[1, :2], [[0, 0, 0], [7, 70, 2]])
    np.testing.assert_array_equal(found.people.score, [0.5, 0.25])
    left = found.skeleton.flip_pairs
    assert {tuple(found.skeleton.joints[i] for i in pair) for pair in left} >= {
        ("left_hip", "right_hip")
    }
    share = {"people": [{"pose_keypoints_2d": [0.25, 0.5, 0.9] * 25}]}
    with pytest.raises(ValueError, match=r"a_keypoints.json: coordinates are fractions"):
        load_labels(write(tmp_path / "a_keypoints.json", share))
    one = load_labels(folder / "clip_000000000011_keypoints.json")
    assert numbers_of(one) == [11]


def test_conventions_are_those_of_coco_where_names_agree():
    for known in (ALPHAPOSE, OPENPOSE):
        for count, joints in known.items():
            assert len(joints) == len(set(joints)) == count
    assert ALPHAPOSE[17] == COCO.joints and set(COCO.joints) < set(OPENPOSE[25])
    assert set(POSETRACK.joints[5:]) < set(OPENPOSE[15])


# What is not read


def test_other_kinds_are_named_with_the_nearest_way_in(tmp_path):
    for name, content, message in [
        ("a.pickle", "x", "a pickle, which can run code"),
        ("a.mat", "x", "a MATLAB file: export it as a table"),
        ("a.tfrecord", "x", "a TFRecord: export the data set as COCO"),
        ("a.mp4", "x", "a video, no labels"),
        ("a.png", "x", "an image, no labels"),
        ("a.tar", "x", "an archive: unpack it"),
        ("a.pt", "x", "a model, no labels"),
        ("img1.txt", "0 0.5 0.5 0.1 0.1 0.5 0.5 2\n", "YOLO for one image: give the data.yaml"),
        ("via.json", {"_via_img_metadata": {}, "_via_settings": {}}, "a project of VIA"),
        ("via2.json", {"a.png1": {"filename": "a.png", "regions": []}}, "a project of VIA"),
        ("datumaro.json", {"info": {}, "categories": {}, "items": []}, "Datumaro: export it as"),
        ("super.json", {"size": {}, "objects": []}, "annotations of Supervisely"),
        ("old.json", {"skeletons": [], "labels": [], "videos": []}, "SLEAP before version 1.1"),
        ("track.json", [{"filename": "a", "annotations": [{"class": "point"}]}], "of AlphaTracker"),
        ("ml.json", [{"image": "a", "annotations": [{"coordinates": {}}]}], "CreateML's format"),
        (
            "boxes.yaml",
            "train: images\nnames: [a]\n",
            "kpt_shape: .* of boxes has no poses",
        ),
        ("boxes.json", [{"image_id": 1, "category_id": 1, "bbox": [], "score": 1}], "of boxes"),
        ("test.json", {"images": [], "categories": []}, "a COCO file without 'annotations'"),
        ("skeleton.yaml", "joints: [a, b]\n", "it lists joints: give it as the skeleton"),
        ("broken.yaml", "a: [", "no valid YAML"),
    ]:
        path = write(tmp_path / name, content)
        with pytest.raises(ValueError, match=f"{name}: .*{message}") as caught:
            load_labels(path)
        assert "\n" not in str(caught.value)


def test_folders_without_labels(tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "a.png").touch()
    with pytest.raises(ValueError, match=r"frames: .*these are images or videos, no labels"):
        load_labels(tmp_path / "frames")
    write(tmp_path / "clip" / "CollectedData_me.csv", "")
    with pytest.raises(ValueError, match=r"clip: .*perhaps CollectedData_me.csv"):
        load_labels(tmp_path / "clip")
    write(tmp_path / "task" / "export" / "annotations.xml", "")
    with pytest.raises(ValueError, match=r"task: .*perhaps export/annotations.xml"):
        load_labels(tmp_path / "task")
    with pytest.raises(FileNotFoundError, match="none: there is no such file or folder"):
        load_labels(tmp_path / "none")


def test_formats_that_are_only_read(tmp_path):
    person = {"image_id": "1.jpg", "keypoints": flat(17), "score": 1}
    found = load_labels(write(tmp_path / "a.json", [person]))
    with pytest.raises(ValueError, match="format 'alphapose' is read, not written; written"):
        save_labels(found, tmp_path / "b.json", format="alphapose")


def places_in(content, so_far=()):
    """The places of all values in the content of a JSON file; of lists the first two."""
    yield so_far
    inside = content.items() if isinstance(content, dict) else ()
    for key, value in [*inside] or [*enumerate(content[:2] if isinstance(content, list) else ())]:
        yield from places_in(value, (*so_far, key))


def with_value(content, place, value):
    if not place:
        return value
    copy = json.loads(json.dumps(content))
    inside = copy
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return copy


@pytest.mark.parametrize(
    ("format", "content"),
    [
        ("alphapose", [{"image_id": "4.jpg", "keypoints": flat(17), "score": 1, "idx": [1.0]}]),
        ("alphapose", {"7.jpg": {"people": [{"pose_keypoints_2d": flat(18)}]}}),
        ("coco-results", [{"image_id": 4, "keypoints": flat(17), "score": 1, "box": [1, 2, 3, 4]}]),
        ("mmpose", {"meta_info": {"keypoint_id2name": {"0": "a", "1": "b", "2": "c"}},
                    "instance_info": [mmpose_frame(1, 5.0)]}),
        ("mmpose", [mmpose_frame(1, 5.0, track_id=3)]),
        ("openpose", {"people": [{"pose_keypoints_2d": flat(25)}]}),
        ("labelme", {"imagePath": "a1.png", "imageWidth": 64, "imageHeight": 48, "shapes": [
            {"label": "nose", "points": [[1, 2]], "group_id": 0, "shape_type": "point"},
            {"label": "m", "points": [[1, 2], [3, 4]], "group_id": 0, "shape_type": "rectangle"}]}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_values_of_another_kind_end_in_one_line(format, content, tmp_path):
    """Any value of a file may be something else: it is read, or refused with the file's name."""
    load_labels(write(tmp_path / "a_keypoints.json", content), format=format)
    refused = 0
    for place in places_in(content):
        for value in (None, "x", -1.5, [], [[]], {"a": 1}):
            path = write(tmp_path / "a_keypoints.json", with_value(content, place, value))
            try:
                load_labels(path, format=format)
            except ValueError as error:
                assert "a_keypoints.json" in str(error) and "\n" not in str(error)
                refused += 1
    assert refused > 20
