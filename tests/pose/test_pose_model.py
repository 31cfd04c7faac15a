"""Model files: what they hold, what is read besides, and parts that models and predictions use."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import torch
from random_models import CROP_WH, SMALL, random_model

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.heatmaps import decode, encode
from posewarper.models import (
    HRNet,
    PoseModel,
    PoseWarper,
    WarperConfig,
    Window,
    load_hrnet,
    load_model,
    load_posewarper,
    save_checkpoint,
    save_model,
)
from posewarper.models.pose_model import as_warper
from posewarper.skeleton import POSETRACK, Skeleton

RAT = Skeleton(
    "rat", ("nose", "left_paw", "right_paw"), ((1, 2),), ((0, 1),), (0.1, 0.2, 0.2), (0,)
)


pytestmark = pytest.mark.usefixtures("one_thread")


def images(count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, CROP_WH[1], CROP_WH[0], generator=generator)


@torch.no_grad()
def results(model):
    """Heatmaps, and of a model with a head those that it aggregates, too."""
    found = [model.backbone(images())]
    if model.warps:
        found.append(model.network.aggregate(images(5)[None]))
    return found


def assert_same_results(a, b):
    for one, two in zip(results(a), results(b), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("head", [True, False])
def test_round_trip(head, tmp_path):
    model = random_model(
        joints=3, head=head, skeleton=RAT, padding=1.1, sigma=1.5, refinement="dark",
        origin={"data": "rats.json", "epochs": 3, "seeds": [1, 2]},
    )  # fmt: skip
    save_model(model, tmp_path / "model.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    back = load_model(tmp_path / "model.pt")
    for name in ("config", "skeleton", "crop_wh", "padding", "sigma", "refinement", "origin"):
        assert getattr(back, name) == getattr(model, name)
    assert type(back.network) is (PoseWarper if head else HRNet)
    assert back.warps == head and back.heatmap_hw == (24, 16) and not back.network.training
    assert_same_results(model, back)


def test_window_and_softmax_come_back(tmp_path):
    config = WarperConfig(
        **{**vars(SMALL), "softmax_sigma": 1.5, "window": Window((0, 3), (0.5, 0.5))}
    )
    model = PoseModel(config.hrnet().eval(), config, crop_wh=CROP_WH)
    save_model(model, tmp_path / "model.pt")
    back = load_model(tmp_path / "model.pt")
    assert back.config == config and back.backbone.softmax_sigma == 1.5
    assert_same_results(model, back)


def test_file_is_a_checkpoint_too(tmp_path):
    """Programs that want weights only find them under their published names."""
    model = random_model()
    save_model(model, tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert {"conv1.weight", "offsets1.weight", "deform_conv3.weight"} <= set(content["model"])
    warper = load_posewarper(tmp_path / "model.pt", dilations=SMALL.dilations)
    hrnet = load_hrnet(tmp_path / "model.pt")
    with torch.no_grad():
        assert torch.equal(hrnet(images()), results(model)[0])
        assert torch.equal(warper.aggregate(images(5)[None]), results(model)[1])


def test_folder_of_training(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no model in this folder: neither model\.pt, .* nor best\.pt"
    ):
        load_model(tmp_path)
    save_model(random_model(), tmp_path / "best.pt")
    assert_same_results(load_model(tmp_path), random_model())


@pytest.mark.parametrize("head", [True, False])
def test_weights_alone(head, tmp_path):
    model = random_model(head=head)
    save_checkpoint(model.network, tmp_path / "weights.pth")
    if head:
        with pytest.raises(ValueError, match="3 deformable convolutions, whose dilations no file"):
            load_model(tmp_path / "weights.pth")
    else:
        with pytest.raises(ValueError, match="weights alone do not tell which its 17 joints are"):
            load_model(tmp_path / "weights.pth")
    told = {"dilations": SMALL.dilations, "skeleton": None if head else POSETRACK}
    back = load_model(tmp_path / "weights.pth", crop_wh=CROP_WH, **told)
    assert back.skeleton is POSETRACK and back.crop_wh == CROP_WH and back.warps == head
    assert (back.padding, back.sigma, back.refinement) == (1.25, 3.0, "quarter")
    assert_same_results(back, model)
    (tmp_path / "weights.pth").rename(tmp_path / "weights_384x288.pth")
    usual = load_model(tmp_path / "weights_384x288.pth", **told)
    assert usual.crop_wh == (288, 384) and usual.heatmap_hw == (96, 72)
    with pytest.raises(ValueError, match="skeleton: expected 17 joints"):
        load_model(tmp_path / "weights_384x288.pth", dilations=SMALL.dilations, skeleton=RAT)


def test_arguments_that_contradict_the_file(tmp_path):
    save_model(random_model(), tmp_path / "m.pt")
    same = {"skeleton": POSETRACK, "crop_wh": CROP_WH, "dilations": SMALL.dilations}
    assert load_model(tmp_path / "m.pt", **same).warps
    for name, value in (("skeleton", RAT), ("crop_wh", (32, 32)), ("dilations", (1, 2))):
        with pytest.raises(ValueError, match=rf"{name}: expected .*, which .*m\.pt has, got"):
            load_model(tmp_path / "m.pt", **{name: value})


def change(path, **about):
    content = torch.load(path, weights_only=True)
    content["posewarper"].update(about)
    torch.save(content, path)


def test_files_that_are_no_models(tmp_path):
    path = tmp_path / "m.pt"
    model = random_model()
    save_model(model, path)
    change(path, format=3)
    with pytest.raises(ValueError, match=r"m\.pt: written by a newer version .*format 3"):
        load_model(path)
    save_model(model, path)
    change(path, config={"joints": 17})
    with pytest.raises(ValueError, match=r"m\.pt: its description of the model is damaged"):
        load_model(path)
    save_model(model, path)
    change(path, config={**vars(SMALL), "width": 4, "window": vars(SMALL.window)})
    with pytest.raises(ValueError, match=r"m\.pt: the weights do not fit the model"):
        load_model(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"m\.pt: not a checkpoint that can be read"):
        load_model(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        load_model(tmp_path / "absent.pt")


def test_code_in_a_file_is_not_run(tmp_path):
    class Touch:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    with open(tmp_path / "m.pt", "wb") as file:
        pickle.dump({"model": Touch()}, file, protocol=2)
    torch.save({"model": {"a": torch.zeros(1)}, "posewarper": Touch()}, tmp_path / "n.pt")
    for name in ("m.pt", "n.pt"):
        with pytest.raises(ValueError, match=name):
            load_model(tmp_path / name)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skeleton": RAT}, r"skeleton: expected 17 joints, as the network has, got 3 \('rat'\)"),
        ({"crop_wh": (64, 90)}, "crop_wh: expected multiples of 16"),
        ({"crop_wh": (0, 96)}, "crop_wh: expected multiples of 16"),
        ({"refinement": "fine"}, "refinement: expected one of"),
    ],
)
def test_parts_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        random_model(**options)


def test_a_new_head():
    start = random_model(head=False)
    wanted = WarperConfig(head_width=8, head_blocks=1, dilations=(2, 5), window=Window.equal(0, 1))
    model = as_warper(start, wanted)
    assert model.warps and not start.warps and model.skeleton == start.skeleton
    assert model.config.width == SMALL.width and model.config.dilations == (2, 5)
    assert model.network.config == model.config and model.config.window.deltas == (0, 1)
    with torch.no_grad():
        assert torch.equal(model.backbone.eval()(images()), start.backbone(images()))
    # its own copy: training one leaves the other as it is
    next(model.backbone.parameters()).data.zero_()
    assert next(start.backbone.parameters()).abs().sum() > 0


def test_spatial_softmax():
    """exp(l) / sum, times what makes a Gaussian of that width 1 high."""
    sigma = 2.0
    network = SMALL.hrnet()
    network.softmax_sigma = sigma
    logits = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(0)) * 4
    maps = network.heatmaps_of(logits)
    shares = logits.exp() / logits.exp().sum((2, 3), keepdim=True)
    torch.testing.assert_close(maps, shares * 2 * math.pi * sigma**2)
    torch.testing.assert_close(maps.sum((2, 3)), torch.full((2, 3), 2 * math.pi * sigma**2))
    # the logits of a Gaussian give that Gaussian
    y, x = torch.meshgrid(torch.arange(41.0), torch.arange(31.0), indexing="ij")
    squares = (x - 15) ** 2 + (y - 20) ** 2
    gaussian = network.heatmaps_of((-squares / (2 * sigma**2))[None, None])
    torch.testing.assert_close(gaussian[0, 0], torch.exp(-squares / (2 * sigma**2)))


def test_softmax_is_part_of_the_network():
    config = WarperConfig(**{**vars(SMALL), "softmax_sigma": 1.5})
    torch.manual_seed(0)
    network = config.hrnet().eval()
    with torch.no_grad():
        logits = network.logits(images())
        assert torch.equal(network(images()), network.heatmaps_of(logits))
        assert not torch.equal(network(images()), logits)
        network.softmax_sigma = None
        assert torch.equal(network(images()), logits)
    with pytest.raises(ValueError, match="softmax_sigma: expected None or a positive number"):
        WarperConfig(softmax_sigma=0.0)


def test_targets_centred_on_the_joints():
    joints = np.array([[33.3, 50.9], [38.0, 46.0], [-6.0, 30.0], [36.0, 1e9]])
    visibility = np.array([1, 1, 1, 1.0])
    exact, weight = encode(joints, visibility, (24, 18), sigma=2.0, rounded=False)
    assert weight.tolist() == [1, 1, 1, 0] and not exact[3].any()
    y, x = np.mgrid[:24, :18]
    radius = 6
    for joint in range(3):
        centre = np.trunc(joints[joint] / 4 + 0.5)
        dx, dy = x - joints[joint, 0] / 4, y - joints[joint, 1] / 4
        gaussian = np.exp(-(dx**2 + dy**2) / (2 * 2.0**2))
        inside = (abs(x - centre[0]) <= radius) & (abs(y - centre[1]) <= radius)
        np.testing.assert_allclose(exact[joint], gaussian * inside, rtol=1e-5, atol=1e-7)
    # on a pixel's middle there is nothing to round
    whole = joints[:1].round() // 4 * 4
    np.testing.assert_array_equal(
        encode(whole, [1.0], (24, 18), rounded=False)[0], encode(whole, [1.0], (24, 18))[0]
    )


def test_exact_targets_decode_to_their_joints():
    rng = np.random.default_rng(0)
    joints = rng.uniform(24, 72, (50, 2))
    for rounded, bound in ((False, 0.05), (True, 2.0)):
        targets, _ = encode(joints, np.ones(50), (24, 24), sigma=1.5, rounded=rounded)
        places, _ = decode(torch.from_numpy(targets), "dark", 1.5)
        error = np.abs(places.numpy() * 4 - joints).max()
        assert error < bound
    assert error > 1.5  # rounding costs up to half a heatmap pixel


def test_scores_of_people_come_back(tmp_path):
    """Predicted people, a partly scored one, and one that a human labelled."""
    videos = (Video("v", 3),)
    keypoints = np.zeros((4, 3, 3))
    keypoints[..., 2] = 2
    scores = np.array([[0.1, 0.2, 1 / 3], [0.5, np.nan, 0.0], [np.nan] * 3, [np.nan] * 3])
    people = People.make(
        [0, 1, 2, 2], keypoints, np.ones((4, 4)), joint_scores=scores,
        score=[0.25, np.nan, np.nan, 0.75],
    )  # fmt: skip
    assert people.predicted.tolist() == [True, True, False, False]
    dataset = PoseDataset(RAT, videos, Frames.make(videos, [0] * 3, [0, 1, 2]), people)
    save_coco(dataset, tmp_path / "x.json")
    entries = json.loads((tmp_path / "x.json").read_text())["annotations"]
    assert entries[1]["scores"] == [0.5, None, 0.0] and "score" not in entries[1]
    assert "scores" not in entries[3] and entries[3]["score"] == 0.75
    back = load_coco(tmp_path / "x.json")
    np.testing.assert_array_equal(back.people.joint_scores, scores)
    np.testing.assert_array_equal(back.people.score, people.score)
    # by name: a file's other order, or a part of its joints
    part = Skeleton("part", ("right_paw", "nose"))
    np.testing.assert_array_equal(
        load_coco(tmp_path / "x.json", part).people.joint_scores, scores[:, [2, 0]]
    )
    entries[0]["scores"] = [0.1]
    content = json.loads((tmp_path / "x.json").read_text()) | {"annotations": entries}
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="annotation 1 has 1 numbers in 'scores', expected 3"):
        load_coco(tmp_path / "x.json")


def test_scores_default_to_nothing():
    people = People.make([0, 0], np.zeros((2, 3, 3)), np.ones((2, 4)))
    assert np.isnan(people.joint_scores).all() and people.joint_scores.shape == (2, 3)
    assert np.isnan(people.score).all() and not people.predicted.any()
    assert people[np.array([1])].joint_scores.shape == (1, 3)
