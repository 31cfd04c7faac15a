"""Data sets and projects of other tools, in small files made here."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from foreign_files import MOUSE, numbers_of, write

from posewarper.data.formats import load_labels, load_track_names
from posewarper.skeleton import COCO, Skeleton

# LabelMe


def labelme(image, *shapes, **more):
    listed = [
        {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}}
        for kind, label, group, points in shapes
    ]
    size = {"imageWidth": 64, "imageHeight": 48, "imageData": None}
    return {"version": "5.5.0", "flags": {}, "shapes": listed, "imagePath": image, **size, **more}


def test_labelme(tmp_path):
    folder = tmp_path / "labels"
    write(
        folder / "img003.json",
        labelme(
            "img003.png",
            ("point", "tail", 1, [[1, 2]]),
            ("point", "nose", 0, [[3, 4]]),
            ("point", "tail", 0, [[5, 6]]),
            ("rectangle", "mouse", 0, [[20, 30], [2, 3]]),
            ("polygon", "floor", None, [[0, 0], [1, 1], [2, 0]]),
        ),
    )
    write(folder / "img007.json", labelme("img007.png", ("point", "nose", None, [[7.5, 8]])))
    write(folder / "img009.json", labelme("img009.png"))
    with pytest.warns(UserWarning, match="no key points are left out: 1 of type 'polygon'"):
        found = load_labels(folder)
    assert found.skeleton.joints == ("tail", "nose") and numbers_of(found) == [3, 3, 7]
    assert found.frames.number.tolist() == [3, 7, 9] and found.frames.labelled.all()
    expected = [[[1, 2, 2], [0, 0, 0]], [[5, 6, 2], [3, 4, 2]], [[0, 0, 0], [7.5, 8, 2]]]
    np.testing.assert_array_equal(found.people.keypoints, expected)
    np.testing.assert_array_equal(found.people.bbox[1], [2, 3, 18, 27])
    assert found.frames.size_wh.tolist() == [[64, 48]] * 3 and not found.people.predicted.any()
    assert (found.people.track_id == -1).all()


def test_labelme_files_that_do_not_tell_who_is_who(tmp_path):
    twice = labelme("a1.png", ("point", "nose", None, [[1, 2]]), ("point", "nose", None, [[3, 4]]))
    with pytest.raises(ValueError, match=r"a1.json: shape 1: joint 'nose' of group None .* twice"):
        load_labels(write(tmp_path / "a1.json", twice))
    damaged = labelme("a2.png", ("point", "nose", None, [[1, None]]))
    with pytest.raises(ValueError, match=r"a2.json: shape 0: expected 1 of x, y in 'points'"):
        load_labels(write(tmp_path / "a2.json", damaged))
    without = labelme("a3.png", ("polygon", "mouse", None, [[0, 0], [1, 1], [2, 0]]))
    with pytest.raises(ValueError, match=r"a3.json: no key points: none of the shapes"):
        load_labels(write(tmp_path / "a3.json", without))


# YOLO


def yolo(root, *, extra="kpt_names: {0: [nose, ear, tail]}", shape="[3, 3]"):
    """Images 100x50 and their labels: two people, nobody, and one without a text file."""
    for name in ("img000", "img010", "img020"):
        (root / "images" / "train").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(
            str(root / "images" / "train" / f"{name}.png"), np.zeros((50, 100, 3), np.uint8)
        )
    people = (
        "0 0.5 0.5 0.2 0.4 0.1 0.2 2 0.3 0.4 1 0 0 0\n0 0.5 0.5 1 1 0.5 0.5 2 0.6 0.6 2 1 1 2\n"
    )
    write(root / "labels" / "train" / "img000.txt", people)
    write(root / "labels" / "train" / "img010.txt", "")
    text = f"path: .\ntrain: images/train\nval: images/train\nkpt_shape: {shape}\nnames: [mouse]\n"
    return write(root / "data.yaml", text + extra + "\n")


def test_yolo(tmp_path):
    path = yolo(
        tmp_path / "set", extra="kpt_names: {0: [a_left, a_right, tail]}\nflip_idx: [1, 0, 2]"
    )
    for place in (path, path.parent):
        found = load_labels(place)
        assert found.skeleton.joints == ("a_left", "a_right", "tail")
        assert found.skeleton.flip_pairs == ((0, 1),)
        assert found.frames.file_name == tuple(f"images/train/img0{n}0.png" for n in range(3))
        np.testing.assert_array_equal(found.frames.labelled, [True, True, False])
        np.testing.assert_allclose(
            found.people.keypoints,
            [[[10, 10, 2], [30, 20, 1], [0, 0, 0]], [[50, 25, 2], [60, 30, 2], [100, 50, 2]]],
        )
        np.testing.assert_allclose(found.people.bbox, [[40, 15, 20, 20], [0, 0, 100, 50]])
        assert not found.people.predicted.any() and (found.people.track_id == -1).all()


def test_yolo_with_two_numbers_a_joint_and_predictions(tmp_path):
    path = yolo(tmp_path / "a", shape="[3, 2]")
    text = tmp_path / "a" / "labels" / "train" / "img000.txt"
    write(text, "0 0.5 0.5 0.2 0.4 0.1 0.2 0 0 0.5 1\n")
    np.testing.assert_allclose(
        load_labels(path).people.keypoints, [[[10, 10, 2], [0, 0, 0], [50, 50, 2]]]
    )
    path = yolo(tmp_path / "b")
    text = tmp_path / "b" / "labels" / "train" / "img000.txt"
    write(text, "0 0.5 0.5 0.2 0.4 0.1 0.2 0.75 0.3 0.4 0.5 0 0 0\n")
    found = load_labels(path)
    assert found.people.predicted.all()
    np.testing.assert_array_equal(found.people.joint_scores, [[0.75, 0.5, np.nan]])


def test_yolo_s_joints_have_names_only_where_the_file_tells(tmp_path):
    with pytest.warns(UserWarning, match="does not name its 3 joints"):
        assert load_labels(yolo(tmp_path, extra="")).skeleton.joints[0] == "keypoint_0"
    assert load_labels(tmp_path, skeleton=MOUSE).skeleton.joints == MOUSE.joints
    line = "0 0.5 0.5 0.2 0.4" + " 0.5 0.5 2" * 17
    path = yolo(tmp_path / "coco", shape="[17, 3]", extra=f"flip_idx: {list(COCO.mirrored)}")
    write(tmp_path / "coco" / "labels" / "train" / "img000.txt", line)
    assert load_labels(path).skeleton == COCO
    path = yolo(tmp_path / "dogs", shape="[17, 3]", extra="")
    write(tmp_path / "dogs" / "labels" / "train" / "img000.txt", line)
    with pytest.warns(UserWarning, match="does not name its 17 joints"):
        load_labels(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2 0.4", r"line 1: expected 14 finite numbers .* got 5 \(a box without key"),
        ("0 0.5 0.5 0.2 0.4" + " 0.5" * 10, "line 1: expected 14 finite numbers"),
        ("0 0.5 0.5 0.2 0.4" + " nan" * 9, "line 1: expected 14 finite numbers"),
        ("0 0.5 0.5 0.2 0.4" + " x" * 9, "line 1: expected numbers"),
        ("0 320 240 64 48" + " 9" * 9, "line 1: expected fractions of the image"),
    ],
)
def test_damaged_yolo_labels(line, message, tmp_path):
    path = yolo(tmp_path)
    write(tmp_path / "labels" / "train" / "img000.txt", line)
    with pytest.raises(ValueError, match=r"img000.txt: " + message):
        load_labels(path)


def test_yolo_without_its_images(tmp_path):
    path = yolo(tmp_path)
    (tmp_path / "images" / "train" / "img000.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"data.yaml: .*img000.txt has no image in .*train"):
        load_labels(path)
    write(path, path.read_text().replace("images/train", "../other"))
    with pytest.raises(FileNotFoundError, match=r"data.yaml: train: there is no .*other; .*sizes"):
        load_labels(path)
    write(path, "train: images\nnames: [mouse]\n")
    with pytest.raises(ValueError, match=r"data.yaml: expected kpt_shape: \[joints, 2 or 3\]"):
        load_labels(path)


# SLEAP's analysis files and JABS


def test_analysis_files_of_sleap_in_any_order_of_axes(tmp_path):
    h5py = pytest.importorskip("h5py")
    places = np.arange(2 * 2 * 3 * 5, dtype=float).reshape(2, 2, 3, 5)  # track, xy, node, frame
    places[1, :, :, 2] = places[:, :, :, 4] = np.nan
    places[0, :, 1, 0] = np.nan
    scores = np.linspace(0.1, 0.9, 30).reshape(2, 3, 5)
    scores[0, :, 3] = np.nan  # labelled by hand
    orders = {"sleap.h5": None, "standard.h5": ["frame", "track", "node", "xy"]}
    for name, order in orders.items():
        with h5py.File(tmp_path / name, "w") as file:
            for key, values, axes in (
                ("tracks", places, ["track", "xy", "node", "frame"]),
                ("point_scores", scores, ["track", "node", "frame"]),
                ("instance_scores", scores.mean(1), ["track", "frame"]),
            ):
                wanted = [axis for axis in order or axes if axis in axes]
                file[key] = values.transpose([axes.index(axis) for axis in wanted])
                if order:
                    file[key].attrs["dims"] = json.dumps(wanted)
            file["track_occupancy"] = np.ones((5, 2), np.uint8)
            file["node_names"] = [b"nose", b"ear", b"tail"]
            file["track_names"] = [b"bob", b"ann"]
            file["edge_inds"] = [[0, 2]]
            file["video_path"] = "films/clip.mp4"
        found = load_labels(tmp_path / name)
        assert found.skeleton.joints == MOUSE.joints and found.skeleton.limbs == ((0, 2),)
        assert found.videos[0].path == "films/clip.mp4" and found.videos[0].frame_count == 5
        assert load_track_names(tmp_path / name) == {0: "bob", 1: "ann"}
        assert numbers_of(found) == [0, 0, 1, 1, 2, 3, 3]
        np.testing.assert_array_equal(found.people.track_id, [0, 1, 0, 1, 0, 0, 1])
        np.testing.assert_array_equal(found.people.keypoints[1, :, :2], places[1, :, :, 0].T)
        np.testing.assert_array_equal(found.people.keypoints[0, 1], [0, 0, 0])
        np.testing.assert_array_equal(found.people.predicted, [True] * 5 + [False, True])
        np.testing.assert_allclose(found.people.joint_scores[6], scores[1, :, 3])
        np.testing.assert_allclose(found.people.score[1], scores[1, :, 0].mean())


def test_files_are_told_by_their_content(tmp_path):
    """Whatever they are called: some tools' endings are unknown here, and people rename files."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "clip.analysis", "w") as file:
        file["tracks"], file["node_names"] = np.ones((1, 2, 1, 5)), [b"nose"]
        file["point_scores"] = np.ones((1, 1, 5))
    assert len(load_labels(tmp_path / "clip.analysis").people) == 5
    content = labelme("img3.png", ("point", "nose", None, [[1, 2]]))
    assert numbers_of(load_labels(write(tmp_path / "img3.lmj", content))) == [3]


def test_damaged_analysis_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["tracks"], file["node_names"] = np.ones((2, 2, 3, 5)), [b"nose"]
        file["track_names"] = [b"bob", b"ann"]
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["tracks"], file["node_names"] = np.ones((1, 2, 3, 5)), [b"a", b"b", b"c"]
    with pytest.warns(UserWarning, match="old.h5: tracks without scores"):
        found = load_labels(tmp_path / "old.h5")
    assert found.people.predicted.all() and found.videos[0].name == "old"
    with pytest.raises(ValueError, match=r"a.h5: expected 'tracks' of 2 tracks, 1 joints and x, y"):
        load_labels(tmp_path / "a.h5")


def test_sleap_io_reads_the_same_analysis_file(tmp_path):
    sio = pytest.importorskip("sleap_io")
    skeleton = sio.Skeleton(["nose", "tail"], [("nose", "tail")])
    track = sio.Track("bob")
    video = sio.Video(filename="clip.mp4", open_backend=False)
    video.backend_metadata = {"shape": (9, 48, 64, 1)}
    listed = [
        sio.LabeledFrame(
            video=video,
            frame_idx=n,
            instances=[
                sio.PredictedInstance.from_numpy(
                    np.array([[n, 1.0], [2, 3]]),
                    skeleton=skeleton,
                    track=track,
                    score=0.5,
                    point_scores=np.array([0.25, 0.75]),
                )
            ],
        )
        for n in (2, 5)
    ]
    project = sio.Labels(listed, videos=[video], tracks=[track], skeletons=[skeleton])
    sio.save_analysis_h5(project, str(tmp_path / "a.h5"))
    found = load_labels(tmp_path / "a.h5")
    assert numbers_of(found) == [2, 5]
    np.testing.assert_array_equal(found.people.keypoints[:, 0, 0], [2, 5])
    np.testing.assert_array_equal(found.people.joint_scores, [[0.25, 0.75]] * 2)


def test_jabs(tmp_path):
    """Places are (y, x); slots are no animals, ids are."""
    h5py = pytest.importorskip("h5py")
    points = np.zeros((3, 2, 12, 2), np.uint16)
    points[..., 0], points[..., 1] = 7, np.arange(12)  # y, x
    points[1] += 100
    confidence = np.full((3, 2, 12), 0.5, np.float32)
    confidence[0, 0, 3] = 0
    with h5py.File(tmp_path / "clip_pose_est_v4.h5", "w") as file:
        group = file.create_group("poseest")
        group.attrs["version"] = np.array([4, 0], np.uint16)
        group["points"], group["confidence"] = points, confidence
        group["instance_embed_id"] = np.array([[1, 2], [2, 1], [0, 2]], np.uint32)
    found = load_labels(tmp_path / "clip_pose_est_v4.h5")
    assert found.videos[0].name == "clip" and found.videos[0].frame_count == 3
    assert found.skeleton.joints[0] == "nose" and found.skeleton.flip_pairs[0] == (1, 2)
    assert numbers_of(found) == [0, 0, 1, 1, 2]
    np.testing.assert_array_equal(found.people.track_id, [1, 2, 2, 1, 2])
    np.testing.assert_array_equal(found.people.keypoints[0, 3], [0, 0, 0])
    np.testing.assert_array_equal(found.people.keypoints[0, 4], [4, 7, 2])
    np.testing.assert_array_equal(found.people.keypoints[2, 4], [104, 107, 2])
    with h5py.File(tmp_path / "clip_pose_est_v3.h5", "w") as file:
        group = file.create_group("poseest")
        group.attrs["version"] = np.array([3, 0], np.uint16)
        group["points"], group["confidence"] = points, confidence
        group["instance_track_id"] = np.array([[0, 1], [0, 9], [5, 1]], np.uint32)
        group["instance_count"] = np.array([2, 1, 2], np.uint8)
    found = load_labels(tmp_path / "clip_pose_est_v3.h5")
    np.testing.assert_array_equal(found.people.track_id, [0, 1, 0, 5, 1])
    with h5py.File(tmp_path / "one_pose_est_v2.h5", "w") as file:
        file["poseest/points"], file["poseest/confidence"] = points[:, 0], confidence[:, 0]
    assert load_labels(tmp_path / "one_pose_est_v2.h5").people.track_id.tolist() == [-1] * 3


# Whole projects of DeepLabCut


def dlc_table(*rows, joints=("nose", "tail")):
    head = [
        "scorer,,," + ",".join(["me"] * 2 * len(joints)),
        "bodyparts,,," + ",".join(j for joint in joints for j in (joint, joint)),
        "coords,,," + ",".join(["x", "y"] * len(joints)),
    ]
    return "\n".join([*head, *rows]) + "\n"


def test_a_whole_project_of_deeplabcut(tmp_path):
    config = "Task: mice\nscorer: me\nbodyparts: [nose, tail]\nskeleton: [[tail, nose]]\n"
    config += "video_sets: {}\n"
    write(tmp_path / "config.yaml", config)
    a, b = (tmp_path / "labeled-data" / name for name in ("a", "b"))
    write(a / "CollectedData_me.csv", dlc_table("labeled-data,a,img03.png,1,2,3,4"))
    write(a / "CollectedData_you.csv", dlc_table("labeled-data,a,img03.png,9,9,9,9"))
    row = "labeled-data,b,img10.png,5,6,7,8"
    write(b / "CollectedData_me.csv", dlc_table(row, joints=("tail", "nose")))
    for place in (tmp_path, tmp_path / "config.yaml"):
        found = load_labels(place)
        assert found.skeleton == Skeleton(found.skeleton.name, ("nose", "tail"), (), ((1, 0),))
        assert [video.path for video in found.videos] == ["labeled-data/a", "labeled-data/b"]
        assert found.frames.number.tolist() == [3, 10]
        expected = [[[1, 2], [3, 4]], [[7, 8], [5, 6]]]
        np.testing.assert_array_equal(found.people.keypoints[..., :2], expected)
    write(b / "CollectedData_me.csv", dlc_table(row, joints=("tail", "ear")))
    with pytest.raises(ValueError, match=r"b.CollectedData_me.csv: expected the bodyparts"):
        load_labels(tmp_path)
    write(tmp_path / "config.yaml", config.replace("scorer: me", "scorer: her"))
    with pytest.raises(ValueError, match=r"a: expected labels of one scorer, got .*_you.csv"):
        load_labels(tmp_path)
