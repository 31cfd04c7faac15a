"""What training cannot learn from is left out by name, or ends in one line."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from posewarper.data.formats import labels, load_labels
from posewarper.data.people import left_out, usable_people
from tests.pose.training_runs import SOFTMAX, run, write_videos

pytestmark = pytest.mark.usefixtures("one_thread")
ONCE = {"loop": {"epochs": 1, "batch_size": 16}, "val": False}


@pytest.fixture
def root(tmp_path):
    write_videos(tmp_path / "set")
    return tmp_path / "set"


def labels_of(root):
    return root / "annotations" / "posetrack_train.json"


def test_boxes_without_a_size_are_no_samples(root):
    dataset = load_labels(labels_of(root))
    assert left_out(dataset) == ""
    rows = usable_people(dataset)[0]
    boxes = dataset.people.bbox.copy()
    boxes[rows[0], 2:] = 0
    boxes[rows[1], 2] = -8
    boxes[rows[2], 3] = 0
    boxes[rows[3]] = [20, 20, 1, 1]  # a pixel, of which 2019 makes a box of size 0
    damaged = replace(dataset, people=replace(dataset.people, bbox=boxes))
    np.testing.assert_array_equal(usable_people(damaged)[0], rows[4:])
    said = left_out(damaged)
    assert f"4 of {len(rows)} labelled people are left out" in said
    first = ", ".join(str(dataset.people.annotation_id[row]) for row in rows[:4])
    assert said.endswith(f"annotation {first}")


def test_train_names_who_is_left_out(root, tmp_path, caplog):
    data = json.loads(labels_of(root).read_text())
    own = data["annotations"][3]
    own["bbox"] = [20.0, 20.0, 1.0, 1.0]
    labels_of(root).write_text(json.dumps(data))
    caplog.set_level(logging.INFO, "posewarper.training")
    run(root, tmp_path / "run", **ONCE)
    told = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert len(told) == 1
    assert "posetrack_train.json: 1 of 31 labelled people are left out" in told[0]
    assert told[0].endswith(f"annotation {own['id']}")


@pytest.mark.parametrize("kind", [{}, SOFTMAX], ids=["mse", "cross entropy"])
def test_no_joint_in_any_crop(root, tmp_path, kind):
    data = json.loads(labels_of(root).read_text())
    for annotation in data["annotations"]:
        annotation["bbox"] = [2, 2, 3, 3]
        points = np.array(annotation["keypoints"], float).reshape(-1, 3)
        points[:, :2] = 60
        annotation["keypoints"] = points.ravel().tolist()
    labels_of(root).write_text(json.dumps(data))
    with pytest.raises(
        ValueError, match=r"epoch 1: no labelled joint of .*posetrack_train\.json lies in a crop"
    ):
        run(root, tmp_path / "run", **ONCE, **kind)
    assert not (tmp_path / "run" / "best.pt").exists()


@pytest.mark.parametrize(("batch_size", "samples"), [(16, 17), (1, 4)])
def test_a_single_value_to_normalise(root, tmp_path, batch_size, samples):
    loop = {"epochs": 1, "batch_size": batch_size, "samples_per_epoch": samples}
    with pytest.raises(ValueError, match=r"loop\.batch_size: a batch of one sample.*16 x 16"):
        run(root, tmp_path / "a", data={"crop_wh": (16, 16)}, loop=loop, val=False)
    loop = {**loop, "batch_size": 8, "samples_per_epoch": 10}
    run(root, tmp_path / "b", data={"crop_wh": (16, 16)}, loop=loop, val=False)
    loop = {**loop, "samples_per_epoch": 9}  # larger maps have more values than one
    run(root, tmp_path / "c", data={"crop_wh": (32, 16)}, loop=loop, val=False)


@pytest.mark.parametrize("error", [TypeError("no len()"), OverflowError("too large")])
def test_values_that_no_reader_expects(root, monkeypatch, error):
    def broken(*arguments, **options):
        raise error

    monkeypatch.setattr(labels, "from_coco", broken)
    with pytest.raises(ValueError, match=r"posetrack_train\.json: cannot be read, .*\((no|too) "):
        load_labels(labels_of(root))
