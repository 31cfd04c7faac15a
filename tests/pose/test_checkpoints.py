"""Checkpoints: published layouts in and out, bit for bit, and a clear word about all others."""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from slow_model import TINY, filled, official_shapes, random_state
from torch import Tensor

from posewarper.models.checkpoints import (
    infer_config,
    infer_hrnet,
    load_checkpoint,
    load_hrnet,
    load_posewarper,
    read_state,
    save_checkpoint,
    to_official,
)
from posewarper.models.hrnet import HRNet
from posewarper.models.warper import WINDOWS, PoseWarper, WarperConfig

State = dict[str, Tensor]


def assert_same(got: State, expected: State) -> None:
    assert list(got) == list(expected)
    different = [key for key in got if not torch.equal(got[key], expected[key])]
    assert not different


def write(path: Path, content: object, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def mmpose_names(state: State) -> State:
    """The names in mmpose 0.x: the backbone apart, all else in the neck, counted from 0."""
    renamed = {}
    for key, tensor in state.items():
        if key.startswith("final_layer."):
            key = key.replace("final_layer", "neck.trans_layer")
        elif key.startswith("offset_feats."):
            key = f"neck.{key}"
        elif match := re.match(r"(offsets|deform_conv)(\d)\.weight", key):
            layers = {"offsets": "offset_layers", "deform_conv": "deform_conv_layers"}[match[1]]
            key = f"neck.{layers}.{int(match[2]) - 1}.weight"
        else:
            key = f"backbone.{key}"
        renamed[key] = tensor
    return renamed


WRAPPINGS: dict[str, Callable[[State], object]] = {
    "plain": lambda state: state,
    "module": lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
    "compiled module": lambda state: {f"_orig_mod.module.{k}": t for k, t in state.items()},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "best": 81.2},
    "model": lambda state: {"model": {"state_dict": state}, "optimizer": {"lr": 1e-4}},
    "mmpose": lambda state: {"meta": {"epoch": 20}, "state_dict": mmpose_names(state)},
    "mmpose module": lambda state: {f"module.{k}": t for k, t in mmpose_names(state).items()},
    "own": lambda state: filled(TINY, state).state_dict(),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS.values(), ids=WRAPPINGS)
def test_every_layout_gives_the_same_model(
    tmp_path: Path, wrapping: Callable[[State], object]
) -> None:
    state = random_state(TINY)
    model = load_posewarper(write(tmp_path / "weights.pth", wrapping(state)))
    assert not model.training
    assert dataclasses.asdict(model.config) == dataclasses.asdict(TINY)
    assert_same(model.state_dict(), filled(TINY, state).state_dict())


def test_round_trip_is_bit_exact(tmp_path: Path) -> None:
    state = random_state(TINY)
    first = write(tmp_path / "official.pth", state)
    model = load_posewarper(first)
    save_checkpoint(model, tmp_path / "ours.pth")
    written = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert_same(written, state)  # names, order, values
    assert {key: tuple(tensor.shape) for key, tensor in written.items()} == official_shapes(TINY)
    assert_same(load_posewarper(tmp_path / "ours.pth").state_dict(), model.state_dict())


def test_single_frame_round_trip(tmp_path: Path) -> None:
    state = random_state(TINY, head=False)
    model = load_hrnet(write(tmp_path / "single.pth", state))
    save_checkpoint(model, tmp_path / "ours.pth")
    assert_same(torch.load(tmp_path / "ours.pth", weights_only=True), state)


def test_written_file_is_no_larger_than_its_weights(tmp_path: Path) -> None:
    """Slices of the stacked kernels would each bring the whole stack along."""
    config = dataclasses.replace(TINY, joints=17)
    save_checkpoint(PoseWarper(config), tmp_path / "ours.pth")
    content = torch.load(tmp_path / "ours.pth", weights_only=True)
    kernel = content["deform_conv1.weight"]
    assert kernel.untyped_storage().nbytes() == kernel.numel() * 4


def test_files_of_old_pytorch(tmp_path: Path) -> None:
    """The container of PyTorch 1.1, and counters that PyTorch 0.4.0 did not have."""
    state = random_state(TINY)
    old = {k: t for k, t in state.items() if not k.endswith("num_batches_tracked")}
    path = write(tmp_path / "old.pth", old, _use_new_zipfile_serialization=False)
    got = to_official(load_posewarper(path).state_dict())
    assert_same({key: got[key] for key in old}, old)
    assert all(t == 0 for key, t in got.items() if key.endswith("num_batches_tracked"))
    del state["bn1.num_batches_tracked"]  # a single one is a damaged file
    with pytest.raises(ValueError, match=r"1 missing: bn1\.num_batches_tracked$"):
        load_posewarper(write(tmp_path / "damaged.pth", state))


@pytest.mark.parametrize("head", ["final_layer", "keypoint_head.final_layer", "head.final_layer"])
def test_single_frame_files_of_mmpose(tmp_path: Path, head: str) -> None:
    state = random_state(TINY, head=False)
    renamed = {
        key.replace("final_layer", head) if key.startswith("final_layer") else f"backbone.{key}": t
        for key, t in state.items()
    }
    assert_same(load_hrnet(write(tmp_path / "m.pth", renamed)).state_dict(), state)


def test_single_frame_model_of_a_full_file(tmp_path: Path) -> None:
    state = random_state(TINY)
    model = load_hrnet(write(tmp_path / "full.pth", state))
    backbone = {key: state[key] for key in official_shapes(TINY, head=False)}
    assert_same(model.state_dict(), backbone)


@pytest.mark.parametrize("head", [True, False], ids=["full file", "single-frame file"])
def test_backbone_of_a_second_stage(tmp_path: Path, head: bool) -> None:
    """The start of the second stage: the head keeps its identity."""
    state = random_state(TINY, head=head)
    model = PoseWarper(TINY)
    before = {key: t.clone() for key, t in model.state_dict().items() if "backbone" not in key}
    load_checkpoint(model, write(tmp_path / "stage1.pth", state), "backbone")
    backbone = {key: state[key] for key in official_shapes(TINY, head=False)}
    assert_same(model.backbone.state_dict(), backbone)
    assert_same({key: model.state_dict()[key] for key in before}, before)


def test_features_for_other_joints(tmp_path: Path) -> None:
    state = random_state(TINY, head=False)
    path = write(tmp_path / "coco.pth", state)
    model = dataclasses.replace(TINY, joints=9).hrnet()
    last = model.final_layer.weight.clone()
    with pytest.raises(ValueError, match=r"2 of another shape: final_layer\.weight \(3, 4, 1, 1\)"):
        load_checkpoint(model, path)
    load_checkpoint(model, path, "features")
    assert torch.equal(model.final_layer.weight, last)
    got = model.state_dict()
    assert all(torch.equal(got[k], t) for k, t in state.items() if "final_layer" not in k)


def test_sizes_of_the_released_model_are_inferred() -> None:
    with torch.device("meta"):
        state = to_official(PoseWarper().state_dict())
    assert len(state) == 2010
    assert infer_config(state) == WarperConfig()
    wide = WarperConfig(joints=15, width=32, head_width=64, head_blocks=4, dilations=(3, 6))
    with torch.device("meta"):
        state = to_official(PoseWarper(wide).state_dict())
    assert infer_config(state, dilations=(3, 6)) == wide
    assert infer_hrnet(state)["width"] == 32


def test_dilations_are_asked_for(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, dilations=(2, 5))
    path = write(tmp_path / "two.pth", random_state(config))
    with pytest.raises(ValueError, match=r"two\.pth: 2 deformable convolutions.*dilations"):
        load_posewarper(path)
    with pytest.raises(ValueError, match="dilations: expected 2"):
        load_posewarper(path, dilations=(1, 2, 3))
    model = load_posewarper(path, dilations=(2, 5), window=WINDOWS["paper"], backend="reference")
    assert model.config == dataclasses.replace(config, window=WINDOWS["paper"])
    assert model.warp.dilations == (2, 5)
    assert model.warp.backend == "reference"


def test_dtype_and_mode_of_the_model_stay(tmp_path: Path) -> None:
    state = random_state(TINY)
    model = PoseWarper(TINY).double().train()
    load_checkpoint(model, write(tmp_path / "w.pth", state))
    assert model.training
    assert model.warp.weight.dtype == torch.float64
    assert torch.equal(model.warp.weight[2].float(), state["deform_conv3.weight"])


def break_state(state: State, kind: str) -> State:
    if kind == "missing":
        del state["layer1.0.conv2.weight"]
    elif kind == "unexpected":
        state["layer9.weight"] = torch.zeros(1)
    elif kind == "shape":
        state["offsets2.weight"] = torch.zeros(1, 2)
    else:
        for key in [key for key in state if key.startswith("stage3.1.")]:
            del state[key]
        state["bn1.bias"] = torch.zeros(9)
    return state


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"w\.pth: the weights do not fit the model\. 1 missing: layer1\.0\.conv2\.w"),
        ("unexpected", r"1 unexpected: layer9\.weight$"),
        ("shape", r"1 of another shape: offsets2\.weight \(1, 2\) for \(54, 6, 3, 3\)$"),
        ("many", r"\d+ missing: (stage3\S+, ){9}stage3\S+ and \d+ more; 1 of another shape: bn1"),
    ],
)
def test_mismatches_are_named_and_nothing_is_loaded(
    tmp_path: Path, kind: str, message: str
) -> None:
    path = write(tmp_path / "w.pth", break_state(random_state(TINY), kind))
    model = PoseWarper(TINY)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        load_checkpoint(model, path)
    assert len(str(error.value)) < 2000
    assert_same(model.state_dict(), before)


def test_wrong_stage(tmp_path: Path) -> None:
    single = write(tmp_path / "single.pth", random_state(TINY, head=False))
    full = write(tmp_path / "full.pth", random_state(TINY))
    with pytest.raises(ValueError, match=r"single\.pth: a single-frame model without a warp head"):
        load_posewarper(single)
    with pytest.raises(ValueError, match=r"missing: offset_feats\.0\.conv1\.weight"):
        load_checkpoint(PoseWarper(TINY), single)
    with pytest.raises(ValueError, match=r"unexpected: offset_feats\.0\.conv1\.weight"):
        load_checkpoint(TINY.hrnet(), full)
    with pytest.raises(ValueError, match="part: expected one of"):
        load_checkpoint(TINY.hrnet(), full, "head")
    with pytest.raises(TypeError, match="HRNet or PoseWarper, not wrapped, got DataParallel"):
        load_checkpoint(torch.nn.DataParallel(PoseWarper(TINY)), full)  # type: ignore[arg-type]


class Anything:
    pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad.pth"),
        (b"<!DOCTYPE html><title>404</title>", "bad.pth: not a checkpoint"),
        (b"PK\x03\x04 a damaged zip", "bad.pth: not a checkpoint"),
        (pickle.dumps({"a": Anything()}, protocol=2), "bad.pth: not a checkpoint"),
    ],
    ids=["empty", "web page", "damaged", "pickle of a class"],
)
def test_files_that_are_no_checkpoints(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_state(path)
    assert "\n" not in str(error.value)


def test_cut_off_file(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.pth", random_state(TINY))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"cut\.pth: not a checkpoint that can be read"):
        load_posewarper(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "got list"),
        ({}, "got an empty one"),
        ({"epoch": 3, "lr": 0.1}, "got one with epoch, lr"),
        ({"fc.weight": torch.zeros(2, 2)}, r"no 'conv1\.weight'; there are fc\.weight"),
        ({"a.x": torch.zeros(1), "module.conv1.weight": torch.zeros(1)}, "there are a.x, module"),
    ],
)
def test_contents_that_are_no_model(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)other\\.pth.*{message}"):
        load_posewarper(write(tmp_path / "other.pth", content))


def test_first_layer_of_another_kind(tmp_path: Path) -> None:
    state = random_state(TINY)
    state["conv1.weight"] = torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"conv1\.weight: expected the weight of a convolution"):
        load_posewarper(write(tmp_path / "w.pth", state))


def test_two_names_for_one_weight(tmp_path: Path) -> None:
    state = random_state(TINY)
    state["backbone.conv1.weight"] = state["conv1.weight"]
    with pytest.raises(ValueError, match=r"w\.pth: two keys are the weight 'conv1\.weight'"):
        read_state(write(tmp_path / "w.pth", state))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_posewarper(tmp_path / "none.pth")
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        load_posewarper(tmp_path)


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    model = TINY.hrnet()
    save_checkpoint(model, path)
    before = path.read_bytes()

    def broken(state: State, file: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", broken)
        with pytest.raises(OSError, match="disk full"):
            save_checkpoint(model, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["weights.pth"]
    with pytest.raises(FileNotFoundError):
        save_checkpoint(model, tmp_path / "no folder" / "weights.pth")


def test_only_tensors_are_unpickled(tmp_path: Path) -> None:
    path = write(tmp_path / "code.pth", {"state_dict": {}, "hook": Anything()})
    with pytest.raises(ValueError, match=r"code\.pth: .*more than tensors"):
        read_state(path)


def test_wrapped_models_can_be_saved(tmp_path: Path) -> None:
    model = HRNet(joints=3, width=4, modules=(1,), blocks=1, stem_width=4, stem_blocks=1)
    save_checkpoint(torch.nn.DataParallel(model), tmp_path / "w.pth")  # type: ignore[arg-type]
    assert_same(load_hrnet(tmp_path / "w.pth").state_dict(), model.state_dict())
