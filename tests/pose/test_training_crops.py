"""Turned crops and boxes of their own as parts of a model: chosen in training, kept in its file,
refused where they cannot be had."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import random_model
from training_runs import BACKBONE, HEAD, run, write_videos

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.dataset import annotated_boxes
from posewarper.data.people import usable_people
from posewarper.data.upright import reference_pose
from posewarper.data.video import FrameSource
from posewarper.inference import PosePredictor, predict_boxes
from posewarper.models import load_model, save_model
from posewarper.prediction import aggregate
from posewarper.skeleton import POSETRACK
from posewarper.training import DataConfig, ModelConfig
from posewarper.training.config import RunConfig
from posewarper.training.loop import Training
from posewarper.training.starting import start

pytestmark = pytest.mark.usefixtures("one_thread")

POSE = tuple((float(j % 3), float(j)) for j in range(17))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos") / "set"
    write_videos(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Model files: single-frame and with a head, plain and turned, by name."""
    folder = tmp_path_factory.mktemp("models")
    for name, options in {
        "plain": {"head": False},
        "turned": {"head": False, "upright": POSE},
        "key": {},
        "own": {"support_box": "own", "upright": POSE},
    }.items():
        save_model(random_model(sigma=1.5, **options), folder / f"{name}.pt")
    state = torch.load(folder / "plain.pt", weights_only=True)["model"]
    torch.save(state, folder / "weights.pth")
    return folder


def started(root, init=None, stage="pose", model=None, init_part="all", **data):
    """The model that a run would start with."""
    sizes = ModelConfig(**(BACKBONE if init is None else {}) | (model or {}))
    files = {"train": root / "annotations" / "posetrack_train.json", "images": root}
    crops = {"crop_wh": (64, 96), "sigma": 1.5}
    config = RunConfig(
        DataConfig(**files | crops | data), root / "out", stage, init, init_part, model=sizes
    )
    return start(config)[0]


def of_labels(root, joints=slice(None)):
    labels = load_coco(root / "annotations" / "posetrack_train.json")
    return reference_pose(labels.people.keypoints[usable_people(labels)[0]][:, joints])


# ---- what training starts with ----


def test_a_fresh_model(root):
    assert started(root).upright is None and started(root, upright=False).upright is None
    assert started(root, upright=True).upright == of_labels(root)
    assert started(root).support_box == "key"


@pytest.mark.parametrize("stage", ["pose", "warp"])
def test_as_the_model_before(root, models, stage):
    for name, upright in (("plain", None), ("turned", POSE)):
        init = models / f"{name}.pt"
        assert started(root, init, stage).upright == upright
        assert started(root, init, stage, upright=upright is not None).upright == upright
    # Weights alone tell nothing: what is wanted holds, as for the size of crops.
    assert started(root, models / "weights.pth", stage).upright is None
    bare = started(root, models / "weights.pth", stage, upright=True)
    assert bare.upright == of_labels(root)


def test_stage_pose_may_turn_crops_or_stop_it(root, models):
    assert started(root, models / "plain.pt", upright=True).upright == of_labels(root)
    assert started(root, models / "turned.pt", upright=False).upright is None


@pytest.mark.parametrize(
    ("name", "upright", "message"),
    [
        ("plain", True, "data.upright: expected false, as the crops of .*plain.pt are not turned"),
        ("turned", False, "data.upright: expected true, as the crops of .*turned.pt are turned"),
    ],
)
def test_stage_warp_has_the_crops_of_its_backbone(root, models, name, upright, message):
    with pytest.raises(ValueError, match=message):
        started(root, models / f"{name}.pt", "warp", upright=upright)


def test_features_for_other_joints(root, models, tmp_path):
    """They were learned from turned crops; what is upright is told in the new joints."""
    skeleton = tmp_path / "arms.yaml"
    names = ["left_wrist", "nose", "left_elbow"]
    skeleton.write_text(f"joints: [{', '.join(names)}]\n")
    joints = [POSETRACK.joints.index(name) for name in names]
    new = {"init_part": "features", "skeleton": str(skeleton)}
    assert started(root, models / "plain.pt", **new).upright is None
    for options in ({}, {"upright": True}):
        model = started(root, models / "turned.pt", **new, **options)
        np.testing.assert_allclose(model.upright, of_labels(root, joints), atol=1e-9)
    assert started(root, models / "turned.pt", **new, upright=False).upright is None
    same = started(root, models / "turned.pt", init_part="features")
    assert same.upright == POSE


def test_labels_that_tell_no_direction(root, tmp_path):
    labels = load_coco(root / "annotations" / "posetrack_train.json")
    keypoints = labels.people.keypoints.copy()
    keypoints[:, 1:] = 0
    people = replace(labels.people, keypoints=keypoints)
    save_coco(replace(labels, people=people), tmp_path / "one.json")
    with pytest.raises(ValueError, match=r"data.upright: .*one.json.*nobody has two labelled"):
        started(root, train=tmp_path / "one.json", upright=True)


def test_support_boxes(root, models):
    for name in ("plain", "turned"):
        init = models / f"{name}.pt"
        assert started(root, init, "warp").support_box == "key"
        assert started(root, init, "warp", support_box="own").support_box == "own"
    # A head that goes on sees what it saw; a new one may see anything.
    for name, own, other in (("key", "key", "own"), ("own", "own", "key")):
        init = models / f"{name}.pt"
        assert started(root, init, "warp").support_box == own
        assert started(root, init, "warp", support_box=own).support_box == own
        message = rf"data.support_box: expected '{own}', which the head of .*{name}.pt .*reset_head"
        with pytest.raises(ValueError, match=message):
            started(root, init, "warp", support_box=other)
        new = {"reset_head": True}
        assert started(root, init, "warp", new).support_box == own
        assert started(root, init, "warp", new, support_box=other).support_box == other
        # The head is left out, and with it what it wants.
        assert started(root, init).support_box == "key"


def test_wrong_options():
    paths = {"train": Path("a"), "images": Path("b")}
    with pytest.raises(ValueError, match=r"data.support_box: expected one of key, own, got 'both'"):
        DataConfig(**paths, support_box="both")
    with pytest.raises(ValueError, match=r"data.support_box: expected stage warp"):
        RunConfig(DataConfig(**paths, support_box="own"), Path("o"))


# ---- runs ----


def test_a_run_stores_it_and_goes_on(root, tmp_path, monkeypatch):
    """Both stages in turned crops, the second with boxes of their own; a run of another kind in
    the same folder is refused."""
    loop = {"epochs": 1, "samples_per_epoch": 8}
    pose = run(root, tmp_path / "pose", data={"upright": True}, loop=loop)
    reference = load_model(pose.best).upright
    np.testing.assert_allclose(reference, of_labels(root))
    with pytest.raises(ValueError, match=r"another configuration .*data.upright: True -> None"):
        run(root, tmp_path / "pose", loop=loop)
    own = {"support_box": "own"}
    crops = []
    begin = Training.__init__

    def watched(self, config, model, train, *others):
        crops.append((train.samples.rotation, train.samples._tracks))
        begin(self, config, model, train, *others)

    monkeypatch.setattr(Training, "__init__", watched)
    warp = run(root, tmp_path / "warp", "warp", pose.folder, data=own, loop=loop)
    for path in (warp.best, warp.final):
        model = load_model(path)
        assert model.upright == reference and model.support_box == "own" and model.warps
    longer = run(root, tmp_path / "warp", "warp", pose.folder, data=own, loop={**loop, "epochs": 2})
    assert longer.epochs == 2 and load_model(longer.final).support_box == "own"
    with pytest.raises(ValueError, match=r"another configuration .*data.support_box: own -> None"):
        run(root, tmp_path / "warp", "warp", pose.folder, loop={**loop, "epochs": 2})
    assert len(crops) == 2
    for rotation, tracks in crops:  # samples are made so, too
        assert np.abs(rotation).max() > 1 and len(tracks) == len(rotation)
    more = run(root, tmp_path / "more", "warp", warp.folder, loop=loop, model=HEAD)
    assert load_model(more.final).support_box == "own"


# ---- files ----


def test_model_files(models, tmp_path):
    for name, upright, box in (("key", None, "key"), ("own", POSE, "own"), ("turned", POSE, "key")):
        model = load_model(models / f"{name}.pt")
        assert model.upright == upright and model.support_box == box
        save_model(model, tmp_path / "again.pt")
        again = load_model(tmp_path / "again.pt")
        assert again.upright == upright and again.support_box == box
    content = torch.load(models / "own.pt", weights_only=True)
    assert content["posewarper"]["format"] == 2


def test_files_of_the_first_format(models, tmp_path):
    content = torch.load(models / "key.pt", weights_only=True)
    about = content["posewarper"]
    about["format"] = 1
    del about["upright"], about["support_box"]
    torch.save(content, tmp_path / "old.pt")
    model, same = load_model(tmp_path / "old.pt"), load_model(models / "key.pt")
    assert model.upright is None and model.support_box == "key"
    assert model.origin == same.origin and model.crop_wh == same.crop_wh
    images = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        assert torch.equal(model.network.heatmaps(images), same.network.heatmaps(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"upright": POSE[:5]}, "upright: expected 17 places, one for each joint, got 5"),
        ({"support_box": "mine"}, "support_box: expected 'key' or 'own', got 'mine'"),
    ],
)
def test_parts_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        random_model(**options)


# ---- aggregation, which has one box that is not turned ----


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("own", "aggregate", "crops that are turned with the pose .* 'posewarper predict'"),
        ("turned", "single", "crops that are turned with the pose .* 'posewarper predict'"),
        ("straight", "aggregate", "a box of its own .* 'posewarper predict'"),
        ("straight", "both", "a box of its own .*mode 'single' needs none"),
    ],
)
def test_models_that_want_other_boxes(root, models, tmp_path, name, mode, message):
    if name == "straight":
        model = replace(load_model(models / "own.pt"), upright=None)
        save_model(model, models / "straight.pt")
    labels = root / "annotations" / "posetrack_val.json"
    options = {"model": models / f"{name}.pt", "images": root, "progress": False}
    with pytest.raises(ValueError, match=f"model: .*{message}"):
        aggregate(labels, tmp_path / "out", mode=mode, **options)
    assert not (tmp_path / "out").exists()


def test_single_frames_do_without_boxes_of_their_own(root, models):
    data = load_coco(root / "annotations" / "posetrack_val.json")
    data = data.select(people=np.arange(len(data.people)) < 2)
    found = [
        predict_boxes(
            PosePredictor(model, device="cpu"), annotated_boxes(data),
            FrameSource(root, dataset=data), data, mode="single", progress=False,
        ).datasets["single"].people
        for model in (random_model(support_box="own"), random_model())
    ]  # fmt: skip
    assert len(found[0]) > 0
    np.testing.assert_array_equal(found[0].keypoints, found[1].keypoints)
