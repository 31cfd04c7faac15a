"""Exported files against the model's own methods: onnxruntime runs them."""

from __future__ import annotations

import ast
import copy
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_files import (
    assert_cuts,
    assert_simple,
    close,
    described,
    expected,
    images,
    inputs_of,
    little_model,
    operators,
    run,
    write_clip,
)
from random_models import CROP_WH, random_model

from posewarper.data.crops import box_to_center_scale, crop, crop_matrices, normalise
from posewarper.export import export, graphs, to_onnx, writing
from posewarper.heatmaps import decode
from posewarper.inference import PosePredictor
from posewarper.models import Window, save_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.usefixtures("one_thread")

DOCUMENT = Path(__file__).parents[2] / "docs" / "deployment.md"
ASYMMETRIC = Window((1, 0, -3), (0.2, 0.5, 0.4))


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def little():
    return little_model()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def aggregate_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "aggregate.onnx"
    return path, to_onnx(model, path, mode="aggregate")


@pytest.mark.parametrize(
    ("mode", "refinement", "deform_op"),
    [
        ("single", "quarter", "DeformConv"),
        ("pair", "none", "DeformConv"),
        ("propagate", "quarter", "GridSample"),
        ("aggregate", "quarter", "DeformConv"),
    ],
)
def test_every_mode(model, little, aggregate_file, tmp_path, mode, refinement, deform_op):
    if mode == "aggregate":
        path, result = aggregate_file
    else:
        path = tmp_path / "model.onnx"
        model = model if mode == "single" else little
        result = to_onnx(model, path, mode=mode, deform_op=deform_op, refinement=refinement)
    assert list(path.parent.iterdir()) == [path]
    assert result.joints + result.undecided == 17 * 3  # batches of 1 and 2
    assert result.random == 3 and result.real == 0
    assert result.undecided <= 3
    assert 0 < result.scaled_error < 2e-5
    assert result.joint_error < 0.01 and result.decoding_error < 0.01

    proto = onnx.load(path)
    assert [(x.domain, x.version) for x in proto.opset_import] == [
        ("", 19 if deform_op == "DeformConv" else 18)
    ]
    assert {node.domain for node in proto.graph.node} == {""}
    assert not proto.functions
    count = operators(path)
    warps = {"single": 0, "aggregate": 6}.get(mode, 2)  # dilations; the key frame on its own
    assert count[deform_op] == warps
    assert count["DeformConv"] + count["GridSample"] == warps
    assert_simple(proto)

    for batch in (1, 3):
        inputs = inputs_of(mode, batch)
        outputs = run(path, **inputs)
        assert list(outputs) == ["joints", "scores", "heatmaps"]
        close(outputs["heatmaps"], expected(model, mode, inputs))
        places, scores = decode(outputs["heatmaps"], refinement, model.sigma)
        torch.testing.assert_close(outputs["joints"], 4 * places, rtol=0, atol=1e-3)
        torch.testing.assert_close(outputs["scores"], scores, rtol=0, atol=0)


def test_plain_heatmaps_of_floats_without_folding(little, tmp_path):
    path, mode = tmp_path / "model.onnx", "aggregate"
    result = to_onnx(little, path, mode=mode, decode=False, normalise=False, fold=False, opset=22)
    assert result.decoding_error is None and result.joints > 45
    assert onnx.load(path).opset_import[0].version == 22
    inputs = {name: normalise(x) for name, x in inputs_of(mode, 3).items()}
    outputs = run(path, **inputs)
    assert list(outputs) == ["heatmaps"]
    close(outputs["heatmaps"], expected(little, mode, inputs))
    about = described(path)
    assert about["input"] == "float32" and about["decodes"] is False


def test_window_of_the_key_frame_alone(little, tmp_path):
    path, window = tmp_path / "model.onnx", Window.equal(0)
    to_onnx(little, path, mode="aggregate", window=window, decode=False)
    frames = images(2, 1)
    with torch.no_grad():
        maps = little.network.aggregate(normalise(frames), window)
    close(run(path, frames=frames)["heatmaps"], maps)


def test_single_frame_model_after_a_prediction(little, tmp_path):
    network = copy.deepcopy(little.backbone)
    model = replace(little, network=network, refinement="dark")
    PosePredictor(model, device="cpu")  # may change the layout of the weights
    path = tmp_path / "model.onnx"
    assert to_onnx(model, path, mode="single", decode=False).joints > 45
    assert described(path)["refinement"] == "dark"


def test_a_graph_cut_in_two(model, aggregate_file, tmp_path):
    assert_cuts(aggregate_file[0], model, tmp_path)


def test_model_stays_as_it_was(model, aggregate_file):
    before = random_model().network.state_dict()
    after = model.network.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert model.network.warp.backend == "auto"


def test_description(model, aggregate_file):
    path, _ = aggregate_file
    about = described(path)
    assert about["mode"] == "aggregate" and about["format"] == 1
    assert re.fullmatch(r"\d+\.\d+.*", about["version"])
    assert about["skeleton"]["joints"] == list(model.skeleton.joints)
    assert about["crop_wh"] == list(CROP_WH) and about["heatmap_wh"] == [16, 24]
    assert about["dynamic_size"] is False and about["size_multiple"] == 16
    assert about["padding"] == 1.25 and about["input"] == "uint8" and about["decodes"] is True
    assert about["window"]["deltas"] == [-2, -1, 0, 1, 2]
    assert about["upright"] is None and about["support_box"] == "key"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "warp"}, "mode: expected one of"),
        ({"deform_op": "deformconv"}, "deform_op: expected one of"),
        ({"refinement": "half"}, "refinement: expected one of"),
        ({"opset": 18}, "opset: expected 19 to 23 .*'DeformConv', got 18"),
        ({"opset": 17, "deform_op": "GridSample"}, "opset: expected 18 to 23"),
        ({"opset": 24}, "opset: expected 19 to 23"),
        ({"mode": "pair", "window": ASYMMETRIC}, "window: only mode 'aggregate' has one"),
        ({"precision": "bf16"}, "precision: expected one of"),
        ({"precision": "fp16", "fold": False}, "fold: expected true with precision 'fp16'"),
        ({"images": ".", "compare_results": False}, "images: they are for the comparison"),
        ({"images": "no-such.mp4"}, "images: there is no file or folder no-such.mp4"),
    ],
)
def test_bad_options(model, tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        to_onnx(model, tmp_path / "model.onnx", **{"mode": "aggregate", **options})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["pair", "propagate", "aggregate"])
def test_single_frame_model_does_not_warp(tmp_path, mode):
    with pytest.raises(ValueError, match="needs a model with a warp head"):
        to_onnx(random_model(head=False), tmp_path / "model.onnx", mode=mode)
    assert not list(tmp_path.iterdir())


def test_no_folder(model, tmp_path):
    for path in (tmp_path, tmp_path / "none" / "model.onnx"):
        with pytest.raises(FileNotFoundError, match="expected a file in a folder that exists"):
            to_onnx(model, path, mode="single")


def test_a_file_that_would_be_taken_for_something_else(model, tmp_path):
    path = tmp_path / "model.pt"
    path.write_text("the model")
    with pytest.raises(ValueError, match=r"model\.pt: ONNX files have the suffix \.onnx"):
        to_onnx(model, path, mode="single")
    assert path.read_text() == "the model"


def test_a_folder_that_cannot_be_written_to(model, tmp_path, monkeypatch):
    monkeypatch.setattr(writing.os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(PermissionError, match=r"model\.onnx: its folder cannot be written to"):
        to_onnx(model, tmp_path / "model.onnx", mode="single")


def test_a_full_disk(aggregate_file, model, tmp_path, monkeypatch):
    def full(number):
        raise OSError(28, "No space left on device")

    proto = onnx.load(aggregate_file[0])
    monkeypatch.setattr(writing, "captured", lambda *_, **__: proto)
    monkeypatch.setattr(writing.os, "fsync", full)
    path = tmp_path / "model.onnx"
    path.write_text("older")
    with pytest.raises(OSError, match="No space left"):
        to_onnx(model, path, mode="aggregate")
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]


def test_a_file_that_differs_is_not_written(model, aggregate_file, tmp_path, monkeypatch):
    proto = onnx.load(aggregate_file[0])
    (weight,) = (x for x in proto.graph.initializer if x.name.endswith("final_layer.weight"))
    values = 1.001 * onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), weight.name))
    monkeypatch.setattr(writing, "captured", lambda *_, **__: proto)
    path = tmp_path / "model.onnx"
    path.write_text("older")
    with pytest.raises(ValueError, match=r"not written, as it differs .*heatmaps: expected"):
        to_onnx(model, path, mode="aggregate")
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]


def test_a_batch_that_cannot_be_dynamic_is_refused(little, tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "normalise", lambda x: normalise(x) * float(x.shape[0]))
    with pytest.raises(ValueError, match=r"mode: 'single' (could not be captured|cannot be)"):
        to_onnx(little, tmp_path / "model.onnx", mode="single", decode=False)
    assert not list(tmp_path.iterdir())


def test_without_packages(model, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"pip install 'posewarper\[onnx\]'"):
        to_onnx(model, path, mode="single")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="the comparison with PyTorch needs onnxruntime"):
        to_onnx(model, path, mode="single")
    assert not list(tmp_path.iterdir())


def test_command(clip, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    save_model(random_model(head=False), folder / "best.pt")
    result = export(folder, decode=False, images=clip[0])
    path = folder / "best-single.onnx"
    printed = capsys.readouterr().out
    assert str(result) in printed and f"-> {path}" in printed
    assert "3 random and 6 real inputs" in printed
    assert described(path)["mode"] == "single"
    with pytest.raises(ValueError, match="window: expected one of"):
        export(folder, window="long")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    proto = onnx.load(path)
    monkeypatch.setattr(writing, "captured", lambda *_, **__: proto)
    out = tmp_path / "other.onnx"
    assert export(folder / "best.pt", out, decode=False, compare=False) is None
    assert out.exists() and "not compared" in capsys.readouterr().out


def test_script_of_the_document(model, aggregate_file, clip, tmp_path):
    text = DOCUMENT.read_text(encoding="utf-8")
    script = re.search(r"<!-- script -->\n```python\n(.*?)```", text, re.DOTALL)[1]
    imported = {
        name.name.partition(".")[0]
        for node in ast.walk(ast.parse(script))
        if isinstance(node, ast.Import)
        for name in node.names
    }
    assert imported == {"json", "sys", "cv2", "numpy", "onnxruntime"}
    assert len([line for line in script.splitlines() if line]) <= 25

    video, frames = clip
    (tmp_path / "pose.py").write_text(script)
    box, frame = (30.0, 10.0, 40.0, 66.0), 1
    command = [sys.executable, "pose.py", aggregate_file[0], video, frame, *box]
    done = subprocess.run(
        [str(word) for word in command], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == list(model.skeleton.joints)

    predictor = PosePredictor(model, device="cpu")
    center, scale = box_to_center_scale([box], model.crop_wh, model.padding)
    matrices = crop_matrices(center, scale, model.crop_wh)
    window = [0, 0, 1, 2, 3]  # the frame before the first is the first
    crops = np.concatenate([crop(frames[i], matrices, model.crop_wh) for i in window])
    maps = predictor.heatmaps(torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous())
    joints, scores = predictor.decode(predictor.aggregate(maps[None]), center, scale)
    printed = np.array([[float(x) for x in row[1:]] for row in rows])
    np.testing.assert_allclose(printed[:, :2], joints[0], atol=0.02)
    np.testing.assert_allclose(printed[:, 2], scores[0], atol=2e-3)
