"""Weights as others publish them: what a file tells is used, what it does not tell is asked for."""

from __future__ import annotations

import dataclasses
import pickle
import sys
import types

import cv2
import numpy as np
import pytest
import torch
from random_models import CROP_WH, SMALL, random_model
from slow_model import TINY, official_shapes, random_state

from posewarper.cli import main
from posewarper.models import load_checkpoint, load_hrnet, load_model, save_checkpoint, save_model
from posewarper.models.checkpoints import read_state
from posewarper.models.weight_files import read_content
from posewarper.skeleton import COCO, POSETRACK, Skeleton
from tests.pose.training_runs import run, weights, write_videos

pytestmark = pytest.mark.usefixtures("one_thread")


def single(path, joints=17):
    save_checkpoint(random_model(joints=17, head=False).network, path)
    if joints != 17:
        state = random_state(dataclasses.replace(SMALL, joints=joints), head=False)
        torch.save(state, path)
    return path


def same(a, b):
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


# Joints and crops.


def test_joints_of_single_frame_weights_are_asked_for(tmp_path):
    path = single(tmp_path / "pose_hrnet_w32_256x192.pth")
    with pytest.raises(
        ValueError,
        match=r"w32_256x192\.pth: weights alone do not tell which its 17 joints are: --skeleton "
        r"coco, posetrack or a YAML file; files of this name are COCO's$",
    ):
        load_model(path)
    other = single(tmp_path / "final_state.pth", joints=16)
    with pytest.raises(ValueError, match=r"its 16 joints .*, and which crops .*--crop_wh 192,256"):
        load_model(other)
    with pytest.raises(ValueError, match=r"final_state\.pth: skeleton: expected 16 joints, .* 17"):
        load_model(other, skeleton=COCO, crop_wh=CROP_WH)


@pytest.mark.parametrize(
    ("name", "crop_wh"),
    [
        ("pose_hrnet_w32_256x192.pth", (192, 256)),
        ("pose_hrnet_w48_384x288.pth", (288, 384)),
        ("td-hm_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth", (192, 256)),
        ("hrnet_w32_animalpose_256x256-1aa7f075_20210426.pth", (256, 256)),
    ],
)
def test_crops_by_the_name_of_the_file(tmp_path, name, crop_wh, recwarn):
    model = load_model(single(tmp_path / name), skeleton=COCO)
    assert model.crop_wh == crop_wh and model.skeleton is COCO
    told = [str(warning.message) for warning in recwarn]
    if crop_wh == (288, 384):
        assert told == []
    else:
        assert len(told) == 1
        assert f"crops {crop_wh[0]} wide and {crop_wh[1]} high, by the name" in told[0]
    recwarn.clear()
    assert load_model(tmp_path / name, skeleton=COCO, crop_wh=CROP_WH).crop_wh == CROP_WH
    assert len(recwarn) == 0


@pytest.mark.parametrize("name", ["weights.pth", "a_256x192_or_384x288.pth", "s2x1024x1024.pth"])
def test_crops_are_asked_for_where_the_name_tells_none(tmp_path, name):
    with pytest.raises(ValueError, match=r"do not tell which crops it was trained on: --crop_wh"):
        load_model(single(tmp_path / name), skeleton=POSETRACK)


def test_weights_with_a_warp_head_are_posetrack_s(tmp_path):
    path = tmp_path / "PoseWarper_posetrack18.pth"
    save_checkpoint(random_model().network, path)
    model = load_model(path, dilations=SMALL.dilations)
    assert model.skeleton is POSETRACK and model.crop_wh == (288, 384)
    save_checkpoint(random_model(joints=3, skeleton=Skeleton("x", tuple("abc"))).network, path)
    with pytest.raises(ValueError, match="which its 3 joints are"):
        load_model(path, dilations=SMALL.dilations)


def test_commands_say_what_they_need(tmp_path, capsys):
    path = single(tmp_path / "pose_hrnet_w32_256x192.pth")
    (tmp_path / "v").mkdir()
    cv2.imwrite(str(tmp_path / "v" / "000001.png"), np.zeros((90, 120, 3), np.uint8))
    for command in (["predict", str(tmp_path / "v"), "--model"], ["export"]):
        assert main([*command, str(path)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "--skeleton coco" in said
    out = tmp_path / "coco.safetensors"
    options = ["--skeleton", "coco", "--crop_wh", "64,96", "--format", "safetensors"]
    assert main(["export", str(path), "--out", str(out), *options]) == 0
    model = load_model(out)
    assert model.skeleton == COCO and model.crop_wh == (64, 96)


# What is beside the weights.


class Anything:
    pass


def published(state):
    """As mmpose 1.x and HRNet's training write it."""
    return {
        "meta": {"dataset_meta": {"sigmas": np.array([0.1, 0.2]), "id": np.int64(3)}},
        "epoch": 210,
        "model": "pose_hrnet",
        "best_state_dict": state,
        "state_dict": {f"module.{key}": tensor for key, tensor in state.items()},
        "perf": np.float64(0.75),
        "names": np.array(["nose", "eye"]),
        "optimizer": {"lr": np.float32(0.5), "seen": np.zeros(3, bool)},
    }


@pytest.mark.parametrize("folder", ["core", "_core"])
@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_and_arrays_of_numpy(tmp_path, zipped, folder):
    state, path = random_state(TINY, head=False), tmp_path / "checkpoint.pth"
    package = "_core" if hasattr(np, "_core") else "core"
    if folder == package or zipped:
        torch.save(published(state), path, _use_new_zipfile_serialization=zipped)
    if folder != package:  # what the other NumPy calls it
        content = pickle.dumps(published({}), protocol=2)
        old, new = (f"numpy.{name}.multiarray".encode() for name in (package, folder))
        assert old in content
        path.write_bytes(b"")
        _as_torch_would(path, content.replace(old, new))
        assert read_content(path)["perf"] == 0.75
        return
    same(load_hrnet(path).state_dict(), state)
    content = read_content(path)
    assert content["perf"] == 0.75 and content["names"].tolist() == ["nose", "eye"]
    assert content["meta"]["dataset_meta"]["sigmas"].tolist() == [0.1, 0.2]


def _as_torch_would(path, pickled):
    """A file of PyTorch whose pickle is this."""
    import zipfile

    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3\n")


def test_logs_of_mmengine_are_passed_over(tmp_path):
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = type(
        "HistoryBuffer", (), {"__module__": module.__name__, "__qualname__": "HistoryBuffer"}
    )
    log = module.HistoryBuffer()
    log.values = np.arange(4.0)
    names = ["mmengine", "mmengine.logging", module.__name__]
    sys.modules.update(dict.fromkeys(names, module))
    state, path = random_state(TINY, head=False), tmp_path / "epoch_210.pth"
    try:
        torch.save({"message_hub": {"loss": log}, "state_dict": state}, path)
    finally:
        for name in names:
            del sys.modules[name]
    same(load_hrnet(path).state_dict(), state)


@pytest.mark.parametrize("zipped", [True, False])
def test_other_things_are_named_with_the_remedy(tmp_path, zipped):
    path = tmp_path / "w.pth"
    torch.save({"hook": Anything()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ValueError, match=r"w\.pth: .*more than tensors in it \(\S*Anything\).*weights_only=False"
    ) as error:
        read_state(path)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


def test_arrays_of_objects_run_nothing(tmp_path):
    class Touch:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    torch.save({"a": np.array([Touch()], object)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="more than tensors"):
        read_content(tmp_path / "w.pth")
    assert not (tmp_path / "touched").exists()


# Safetensors.


@pytest.mark.parametrize("head", [True, False])
def test_safetensors(tmp_path, head):
    from safetensors.torch import load_file

    upright = tuple((float(i), i / 3) for i in range(17))
    model = random_model(head=head, upright=upright, sigma=1.75, origin={"epoch": 3})
    path = tmp_path / "m.safetensors"
    save_model(model, path)
    back = load_model(path)
    same(back.network.state_dict(), model.network.state_dict())
    for name in ("config", "skeleton", "crop_wh", "padding", "sigma", "upright", "origin"):
        assert getattr(back, name) == getattr(model, name)
    save_checkpoint(model.network, tmp_path / "w.safetensors")
    save_checkpoint(model.network, tmp_path / "w.pth")
    same(load_file(tmp_path / "w.safetensors"), torch.load(tmp_path / "w.pth", weights_only=True))
    options = {"skeleton": COCO, "crop_wh": CROP_WH, "dilations": SMALL.dilations if head else None}
    same(
        load_model(tmp_path / "w.safetensors", **options).network.state_dict(),
        model.network.state_dict(),
    )


def test_damaged_safetensors(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(FileNotFoundError, match=r"m\.safetensors"):
        read_content(path)
    save_model(random_model(head=False), path)
    whole = path.read_bytes()
    for content in (b"", b"<html>", whole[:100], whole[:-10]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"m\.safetensors: not a checkpoint") as error:
            load_model(path)
        assert "\n" not in str(error.value)


# Features of other networks.


def imagenet(config=TINY):
    """Keys of an HRNet for classification: all outputs of the last module, and its head."""
    state = random_state(config, head=False)
    del state["final_layer.weight"], state["final_layer.bias"]
    stage, module = len(config.modules) + 1, config.modules[-1] - 1
    for key in ("1.0.0.0.weight", "3.3.0.weight", "2.0.1.1.running_var"):
        state[f"stage{stage}.{module}.fuse_layers.{key}"] = torch.zeros(2)
    for key in ("incre_modules.0.0.conv1.weight", "downsamp_modules.0.0.bias", "classifier.bias"):
        state[key] = torch.zeros(2)
    state["final_layer.0.weight"] = torch.zeros(4, 4, 1, 1)
    return state


@pytest.mark.parametrize("names", ["timm", "mmpretrain", "backbone alone"])
def test_features_of_a_network_for_images(tmp_path, names):
    state = imagenet()
    own = {k: t for k, t in state.items() if k in official_shapes(TINY, head=False)}
    if names == "mmpretrain":
        state = {f"backbone.{k}": t for k, t in own.items()}
        for key in ("head.fc.weight", "neck.increase_layers.0.0.conv1.weight"):
            state[key] = torch.zeros(3)
    elif names == "backbone alone":
        state = own
    path = tmp_path / "hrnet_w18.pth"
    torch.save(state, path)
    model = dataclasses.replace(TINY, joints=9).hrnet()
    last = model.final_layer.weight.clone()
    load_checkpoint(model, path, "features")
    got = model.state_dict()
    assert torch.equal(model.final_layer.weight, last)
    assert len(own) == len(got) - 2
    same({key: got[key] for key in own}, own)
    with pytest.raises(ValueError, match=r"no 'final_layer\.weight'; its features .* features$"):
        load_hrnet(path)


@pytest.mark.parametrize("key", ["stage3.0.fuse_layers.4.0.0.weight", "stage5.0.x.weight"])
def test_features_fit_exactly(tmp_path, key):
    state = {**imagenet(), key: torch.zeros(2)}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=f"1 unexpected: {key}"):
        load_checkpoint(TINY.hrnet(), tmp_path / "w.pth", "features")


def test_training_from_weights_of_others(tmp_path):
    write_videos(tmp_path / "set")
    small = dataclasses.replace(SMALL, joints=17)
    torch.save(imagenet(small), tmp_path / "imagenet.pth")
    once = {"loop": {"epochs": 1, "samples_per_epoch": 8}, "model": {}, "val": False}
    with pytest.raises(ValueError, match="train --init_part features"):
        run(tmp_path / "set", tmp_path / "a", init=tmp_path / "imagenet.pth", **once)
    result = run(
        tmp_path / "set", tmp_path / "b", init=tmp_path / "imagenet.pth", init_part="features",
        optimizer={"lr": 1e-12}, **once,
    )  # fmt: skip
    got, given = weights(result.final), imagenet(small)
    assert torch.allclose(
        got["conv1.weight"], read_state(tmp_path / "imagenet.pth")["conv1.weight"]
    )
    assert got["final_layer.weight"].shape[0] == 17 and given.keys() - got.keys()
    single(tmp_path / "mpii.pth", joints=16)
    with pytest.raises(
        ValueError, match=r"expected 16 joints, as .*mpii\.pth has, got 17 .*; --init_part features"
    ):
        run(tmp_path / "set", tmp_path / "c", init=tmp_path / "mpii.pth", **once)
