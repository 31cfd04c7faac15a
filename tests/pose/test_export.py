"""Exported files against the model's own methods: onnxruntime runs them."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from random_models import CROP_WH, random_model

from posewarper.data.crops import box_to_center_scale, normalise
from posewarper.export import Comparison, comparison, export, graphs, to_onnx
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


def images(*leading, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (*leading, 3, CROP_WH[1], CROP_WH[0])
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def run(path, **inputs):
    """The outputs by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == list(inputs)
    names = [value.name for value in session.get_outputs()]
    arrays = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
    return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}


def operators(path):
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def described(path):
    (entry,) = onnx.load(path).metadata_props
    assert entry.key == "posewarper"
    return json.loads(entry.value)


def close(a, b):
    scale = float(b.abs().max())
    torch.testing.assert_close(a, b, rtol=0, atol=2e-5 * scale)


def inputs_of(mode, batch):
    maps = torch.rand(batch, 17, CROP_WH[1] // 4, CROP_WH[0] // 4)
    return {
        "single": {"crops": images(batch)},
        "pair": {"key": images(batch), "support": images(batch, seed=1)},
        "propagate": {
            "key": images(batch), "support": images(batch, seed=1), "key_heatmaps": maps
        },
        "aggregate": {"frames": images(batch, 5)},
    }[mode]  # fmt: skip


@torch.no_grad()
def expected(model, mode, inputs):
    """By the model's own methods, without anything of the package."""
    network = model.network
    tensors = [normalise(x) if x.dtype == torch.uint8 else x for x in inputs.values()]
    if mode == "single":
        return model.backbone(*tensors)
    return {"pair": network, "propagate": network.propagate, "aggregate": network.aggregate}[mode](
        *tensors
    )


@pytest.fixture(scope="module")
def aggregate_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "aggregate.onnx"
    return path, to_onnx(model, path, mode="aggregate")


@pytest.mark.parametrize("deform_op", ["DeformConv", "GridSample"])
@pytest.mark.parametrize(
    ("mode", "refinement"),
    [("single", "quarter"), ("pair", "dark"), ("propagate", "none"), ("aggregate", "quarter")],
)
def test_every_mode(model, tmp_path, mode, refinement, deform_op):
    path = tmp_path / "model.onnx"
    result = to_onnx(model, path, mode=mode, deform_op=deform_op, refinement=refinement)
    assert list(tmp_path.iterdir()) == [path]
    assert result.joints + result.undecided == 17 * 3  # batches of 1 and 2
    assert result.undecided <= 3
    assert 0 < result.heatmap_error < 2e-5
    assert result.joint_error < 0.01 and result.decoding_error < 0.01

    proto = onnx.load(path)
    assert [(x.domain, x.version) for x in proto.opset_import] == [
        ("", 19 if deform_op == "DeformConv" else 18)
    ]
    assert {node.domain for node in proto.graph.node} == {""}
    assert not proto.functions
    count = operators(path)
    warps = {"single": 0, "aggregate": 6}.get(mode, 3)  # dilations; the key frame on its own
    assert count[deform_op] == warps
    assert count["DeformConv"] + count["GridSample"] == warps
    assert count["BatchNormalization"] == 0

    for batch in (1, 3):
        inputs = inputs_of(mode, batch)
        outputs = run(path, **inputs)
        assert list(outputs) == ["joints", "scores", "heatmaps"]
        close(outputs["heatmaps"], expected(model, mode, inputs))
        places, scores = decode(outputs["heatmaps"], refinement, model.sigma)
        torch.testing.assert_close(outputs["joints"], 4 * places, rtol=0, atol=1e-3)
        torch.testing.assert_close(outputs["scores"], scores, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["single", "aggregate"])
def test_plain_heatmaps_of_floats_without_folding(model, tmp_path, mode):
    path = tmp_path / "model.onnx"
    result = to_onnx(model, path, mode=mode, decode=False, normalise=False, fold=False, opset=22)
    assert result.decoding_error is None and result.joints > 45
    assert onnx.load(path).opset_import[0].version == 22
    assert operators(path)["DeformConv"] == (0 if mode == "single" else 3)
    inputs = {name: normalise(x) for name, x in inputs_of(mode, 3).items()}
    outputs = run(path, **inputs)
    assert list(outputs) == ["heatmaps"]
    close(outputs["heatmaps"], expected(model, mode, inputs))
    about = described(path)
    assert about["input"] == "float32" and about["decodes"] is False


def test_another_window(model, tmp_path):
    path = tmp_path / "model.onnx"
    to_onnx(model, path, mode="aggregate", window=ASYMMETRIC)
    frames = images(2, 3)
    with torch.no_grad():
        maps = model.network.aggregate(normalise(frames), ASYMMETRIC)
    close(run(path, frames=frames)["heatmaps"], maps)
    assert described(path)["window"] == {"deltas": [1, 0, -3], "weights": [0.2, 0.5, 0.4]}


def test_window_of_the_key_frame_alone(model, tmp_path):
    path = tmp_path / "model.onnx"
    to_onnx(model, path, mode="aggregate", window=Window.equal(0))
    frames = images(2, 1)
    with torch.no_grad():
        maps = model.network.aggregate(normalise(frames), Window.equal(0))
    close(run(path, frames=frames)["heatmaps"], maps)


def test_single_frame_model(tmp_path):
    model = random_model(head=False, refinement="dark")
    path = tmp_path / "model.onnx"
    assert to_onnx(model, path, mode="single").joints > 45
    assert described(path)["refinement"] == "dark"


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
    ],
)
def test_bad_options(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
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


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    def damaging(network):
        fold(network)
        network.final_layer.weight.mul_(1.001)

    fold = graphs.fold_batch_norm
    monkeypatch.setattr(graphs, "fold_batch_norm", damaging)
    path = tmp_path / "model.onnx"
    path.write_text("older")
    with pytest.raises(ValueError, match=r"not written, as it differs .*heatmaps: expected"):
        to_onnx(random_model(head=False), path, mode="single")
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]


def test_weights_that_are_no_numbers(tmp_path):
    model = random_model(head=False)
    model.network.final_layer.bias.data[3] = float("nan")
    with pytest.raises(ValueError, match=r"at most 0\.0001, got nan"):
        to_onnx(model, tmp_path / "model.onnx", mode="single")
    assert not list(tmp_path.iterdir())


def test_after_a_prediction(tmp_path):
    model = random_model(head=False)
    PosePredictor(model, device="cpu")  # changes the layout of the weights
    assert to_onnx(model, tmp_path / "model.onnx", mode="single").undecided <= 3


def test_a_batch_that_cannot_be_dynamic_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "normalise", lambda x: normalise(x) * float(x.shape[0]))
    with pytest.raises(ValueError, match=r"mode: 'single' (could not be captured|cannot be)"):
        to_onnx(random_model(head=False), tmp_path / "model.onnx", mode="single")
    assert not list(tmp_path.iterdir())


def test_faults():
    good = Comparison(1e-6, 1e-5, 0.0, 51, 0)
    assert not good.faults()
    for name in ("heatmap_error", "joint_error", "decoding_error"):
        for value in (0.02, float("nan")):
            changed = Comparison(**{**vars(good), name: value})
            assert len(changed.faults()) == 1
    assert "51 joints" in str(good) and "not compared" not in str(good)
    assert "2 not compared" in str(Comparison(1e-6, 1e-5, None, 49, 2))


def test_joints_that_rounding_decides():
    maps = torch.zeros(1, 2, 12, 10)
    maps[0, :, 5, 4], maps[0, :, 5, 5], maps[0, :, 4, 4] = 1.0, 0.6, 0.5
    maps[0, 1, 9, 8] = 1.0 - 1e-7

    def joints_of(heatmaps):
        return decode(heatmaps, "quarter")[0] * 4

    # Of the first all neighbours differ, the second has two maxima.
    certain = comparison._certain(maps, joints_of(maps), 1e-6, joints_of)
    assert certain.tolist() == [[True, False]]


def test_without_packages(model, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="the comparison with PyTorch needs onnxruntime"):
        to_onnx(random_model(head=False), path, mode="single")
    assert not path.exists()
    assert to_onnx(random_model(head=False), path, mode="single", compare_results=False) is None
    assert path.exists()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"pip install 'posewarper\[onnx\]'"):
        to_onnx(model, path, mode="single")


def test_command(tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    save_model(random_model(head=False), folder / "best.pt")
    result = export(folder)
    path = folder / "best-single.onnx"
    printed = capsys.readouterr().out
    assert str(result) in printed and f"-> {path}" in printed
    assert described(path)["mode"] == "single"
    with pytest.raises(ValueError, match="window: expected one of"):
        export(folder, window="long")
    out = tmp_path / "other.onnx"
    assert export(folder / "best.pt", out, compare=False) is None
    assert out.exists() and "not compared" in capsys.readouterr().out


def test_script_of_the_document(model, aggregate_file, tmp_path):
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

    rng = np.random.default_rng(0)
    video, size_wh = tmp_path / "clip.avi", (120, 90)
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 25, size_wh)
    for _ in range(4):
        writer.write(cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), size_wh))
    writer.release()
    (tmp_path / "pose.py").write_text(script)
    box, frame = (30.0, 10.0, 40.0, 66.0), 1
    command = [sys.executable, "pose.py", aggregate_file[0], video, frame, *box]
    done = subprocess.run(
        [str(word) for word in command], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == list(model.skeleton.joints)

    from posewarper.data.crops import crop, crop_matrices

    capture, frames = cv2.VideoCapture(str(video)), []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    assert len(frames) == 4
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
