"""Which joints change places in a mirror: told by names in every reader, or nothing is mirrored."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import yaml

from posewarper.data.annotations import from_coco
from posewarper.data.crops import Augmentation, Region
from posewarper.data.formats import load_labels
from posewarper.inference import PosePredictor
from posewarper.skeleton import COCO, POSETRACK, POSETRACK_EVAL, Skeleton, pairs_by_name
from tests.pose.random_models import random_model
from tests.pose.training_runs import run, write_videos

PAIRS = [
    ("paw_left", "paw_right"),
    ("L_eye", "R_eye"),
    ("eye_L", "eye_R"),
    ("LeftEye", "RightEye"),
    ("Left_eye", "Right_eye"),
    ("Left_eye", "right_eye"),
    ("lefteye", "righteye"),
    ("LEFT EAR", "RIGHT EAR"),
    ("front-left-paw", "front-right-paw"),
    ("l_wing", "r_wing"),
    ("wing_l", "wing_r"),
    ("wingL", "wingR"),
    ("lEar", "rEar"),
    ("LEar", "REar"),
    ("ear.l", "ear.r"),
    ("legL4", "legR4"),
    ("leg4l", "leg4r"),
    ("eyeLTop", "eyeRTop"),
    ("L_F_Paw", "R_F_Paw"),
    ("FL_paw", "FR_paw"),
    ("paw lf", "paw rf"),
    ("FLpaw", "FRpaw"),
    ("Lhip", "Rhip"),
    ("hipl", "hipr"),
    ("LEYE", "REYE"),
]

NO_PAIRS = [
    ("leg", "reg"),
    ("lip", "rip"),
    ("Leg", "Reg"),
    ("led", "red"),
    ("lock", "rock"),
    ("tail", "tair"),
    ("left_hand", "right_hand", "Right_hand"),
    ("l_l", "l_r", "r_l", "r_r"),
    ("left_ear", "right_eye"),
    ("left_ear", "R_ear"),
    ("links_ear", "rechts_ear"),
]


def coco(joints, **more):
    return {
        "images": [{"id": 1, "file_name": "v/1.png"}],
        "annotations": [],
        "categories": [{"id": 1, "name": "mouse", "keypoints": list(joints), **more}],
    }


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_pairs_of_every_spelling_in_every_reader(tmp_path, pair):
    joints = ("nose", *pair[::-1], "tail_base")  # the right one first
    assert pairs_by_name(joints) == ((2, 1),)
    assert from_coco(coco(joints), "x").skeleton.flip_pairs == ((2, 1),)
    assert Skeleton.from_mapping({"joints": joints}).flip_pairs == ((2, 1),)
    rows = ["scorer" + ",me" * 8, "bodyparts" + "".join(f",{j},{j}" for j in joints)]
    rows += ["coords" + ",x,y" * 4, "labeled-data/v/img1.png" + ",1,2" * 4]
    (tmp_path / "CollectedData_me.csv").write_text("\n".join(rows) + "\n")
    assert load_labels(tmp_path / "CollectedData_me.csv").skeleton.flip_pairs == ((2, 1),)


@pytest.mark.parametrize("joints", NO_PAIRS, ids=str)
def test_no_false_pairs(joints):
    assert pairs_by_name(joints) == ()
    assert "no mirror pairs" in Skeleton("x", joints).why_not_mirrored


@pytest.mark.parametrize("skeleton", [COCO, POSETRACK, POSETRACK_EVAL], ids=lambda s: s.name)
def test_known_skeletons_have_the_pairs_that_their_names_tell(skeleton):
    told = {frozenset(pair) for pair in pairs_by_name(skeleton.joints)}
    assert told == {frozenset(pair) for pair in skeleton.flip_pairs}
    assert skeleton.why_not_mirrored == ""


def test_what_a_file_says_goes_before_names():
    joints = ["left_a", "right_a", "x", "y"]
    assert from_coco(coco(joints, flip_pairs=[[2, 3]]), "x").skeleton.flip_pairs == ((2, 3),)
    assert from_coco(coco(joints, flip_pairs=[]), "x").skeleton.flip_pairs == ()
    said = {"joints": joints, "flip_pairs": [["x", "y"]]}
    assert Skeleton.from_mapping(said).flip_pairs == ((2, 3),)
    assert Skeleton.from_mapping({"joints": joints, "flip_pairs": []}).flip_pairs == ()


def test_pairs_across_categories():
    data = coco(["nose", "eye_L"])
    data["categories"].append({"id": 2, "name": "other", "keypoints": ["nose", "eye_R"]})
    data["annotations"] = [
        {"id": k, "image_id": 1, "category_id": k, "bbox": [0, 0, 9, 9], "keypoints": [1, 2, 2] * 2}
        for k in (1, 2)
    ]
    with pytest.warns(UserWarning, match="one skeleton of 3"):
        assert from_coco(data, "x").skeleton.flip_pairs == ((1, 2),)


def test_a_joint_has_one_partner():
    with pytest.raises(ValueError, match="flip_pairs: 'a' has two partners, 'b' and 'c'"):
        Skeleton("x", ("a", "b", "c"), ((0, 1), (0, 2)))
    assert Skeleton("x", ("a", "b"), ((0, 1), (1, 0))).mirrored == (1, 0)


@pytest.mark.parametrize(
    ("joints", "pairs", "mirrors"),
    [
        (("nose", "a", "b"), ((1, 2),), True),  # the nose lies on the middle line
        (("nose", "tail"), (), False),
        (("nose", "tail"), ((0, 0),), True),  # said expressly
        (("left_ear", "right_ear", "left_paw"), ((0, 1),), False),  # a paw that has no partner
        (("left_ear", "right_ear", "left_paw"), ((0, 1), (2, 2)), True),
        (("left_ear", "right_ear", "upright", "rear"), ((0, 1),), True),  # no sides
    ],
)
def test_crops_are_mirrored_only_where_pairs_are_known(joints, pairs, mirrors):
    skeleton, random = Skeleton("x", joints, pairs), np.random.default_rng(0)
    assert (skeleton.why_not_mirrored == "") == mirrors
    region = Region(np.array([50.0, 40.0]), np.array([0.3, 0.4]))
    count = len(joints)
    drawn = [
        Augmentation(0, 0, 0, 0.5, 0)
        .draw(random, region, np.ones((count, 2)), np.ones(count), skeleton, (64, 96), 200)
        .mirrored
        for _ in range(40)
    ]
    assert any(drawn) == mirrors
    assert not all(drawn)


@pytest.mark.usefixtures("one_thread")
def test_train_says_what_mirroring_does(tmp_path, caplog):
    write_videos(tmp_path / "set")
    place = tmp_path / "set" / "annotations" / "posetrack_train.json"
    data = json.loads(place.read_text())
    category = data["categories"][0]
    short = {"loop": {"epochs": 1, "batch_size": 16}, "val": False}
    caplog.set_level(logging.INFO, "posewarper.training")
    run(tmp_path / "set", tmp_path / "paired", **short)
    told = [r.getMessage() for r in caplog.records if "mirrored" in r.getMessage()]
    assert len(told) == 1
    assert "exchange left_ear and right_ear, left_shoulder and right_shoulder" in told[0]
    assert told[0].endswith("on the middle line: nose, head_bottom, head_top")
    category["keypoints"] = [f"point{i}" for i in range(len(category["keypoints"]))]
    for key in ("flip_pairs", "skeleton_name"):
        category.pop(key, None)
    place.write_text(json.dumps(data))
    caplog.clear()
    run(tmp_path / "set", tmp_path / "bare", **short)
    told = [r.getMessage() for r in caplog.records if "mirrored" in r.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("crops are not mirrored: the skeleton tells no mirror pairs among")
    assert "flip_pairs in a YAML file (--data.skeleton)" in told[0]


def test_flip_test_needs_pairs():
    model = random_model(joints=2, skeleton=Skeleton("x", ("a", "b")))
    with pytest.raises(ValueError, match="flip_test: the model's skeleton tells no mirror pairs"):
        PosePredictor(model, device="cpu", flip_test=True)


def test_yaml_without_pairs(tmp_path):
    path = tmp_path / "mouse.yaml"
    path.write_text(yaml.safe_dump({"joints": ["nose", "l_ear", "r_ear"]}))
    assert Skeleton.from_file(path).flip_pairs == ((1, 2),)
