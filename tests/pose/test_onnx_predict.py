"""Predictions by exported files: the same as by PyTorch."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from random_models import random_model
from streamed_faces import TALL, model_of_faces, write_clip

from posewarper.data.crops import normalise
from posewarper.data.synthetic import write_dataset
from posewarper.export import to_onnx
from posewarper.inference import OnnxPredictor, PosePredictor, load_predictor, onnx_predictor
from posewarper.models import WINDOWS, Window, load_model, save_model
from posewarper.prediction import aggregate
from posewarper.streaming import predict, sources

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# Threads that wait for each other would wait for ever: better a failure.
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(300)]

CAUSAL = WINDOWS["posetrack-2019-causal"]
SKEWED = Window((-2, -1, 0, 1, 2), (0.05, 0.1, 0.3, 0.2, 0.35))  # shows frames in a wrong order


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A video of two people with labels, another one, and models as files of both kinds."""
    root = tmp_path_factory.mktemp("onnx")
    write_dataset(
        root / "data", videos={"val": 1}, frames=4, size_wh=(128, 96), people=2,
        image_format="png", progress=False, seed=4,
    )  # fmt: skip
    write_clip(root / "clip")
    model = random_model()
    model = replace(model, config=replace(model.config, window=SKEWED))
    faces = model_of_faces(upright=TALL, support_box="own")
    save_model(model, root / "model.pt")
    save_model(faces, root / "faces.pt")
    for name, of, options in (
        ("aggregate", model, {"mode": "aggregate"}),
        ("single", model, {"mode": "single", "decode": False, "normalise": False}),
        ("faces", faces, {"mode": "aggregate", "decode": False, "window": CAUSAL}),
    ):
        to_onnx(of, root / f"{name}.onnx", compare_results=False, **options)
    return root


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 96, 64), dtype=torch.uint8, generator=generator)


def changed(root, tmp_path, without="", **about):
    """A copy of the aggregate file that says something else about itself."""
    proto = onnx.load(root / "aggregate.onnx")
    told = {**json.loads(proto.metadata_props[0].value), **about}
    told.pop(without, None)
    proto.metadata_props[0].value = json.dumps(told)
    onnx.save(proto, tmp_path / "changed.onnx")
    return tmp_path / "changed.onnx"


def assert_same(got, want, tolerance=0.01):
    """Values of JSON: numbers with a point within the tolerance, all others equal."""
    assert type(got) is type(want)
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        got, want = list(got.values()), list(want.values())
    if isinstance(want, list):
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            assert_same(a, b, tolerance)
    elif isinstance(want, float):
        assert abs(got - want) <= tolerance
    else:
        assert got == want


def places(content):
    return np.array([p["keypoints"] for p in content["annotations"]])


def predicted(root, tmp_path, model, video="data/images/val/000001_synthetic", **options):
    """What the command writes."""
    out = tmp_path / "out.json"
    predict(str(root / video), out, root / model, device="cpu", progress=False, **options)
    return json.loads(out.read_text())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("aggregate", {}),
        ("aggregate", {"flip_test": True, "batch_size": 7, "refinement": "dark"}),
        ("aggregate", {"mode": "single"}),
        ("single", {"mode": "single", "flip_test": True, "shift_flipped": True}),
    ],
)
def test_predict(root, tmp_path, name, options):
    """The whole file of results: people, ids, boxes; joints within a hundredth of a pixel."""
    labels = root / "data/annotations/posetrack_val.json"
    want = predicted(root, tmp_path, "model.pt", box_file=labels, **options)
    got = predicted(root, tmp_path, f"{name}.onnx", box_file=labels, **options)
    assert len(want["annotations"]) > 4
    assert_same(got, want)
    # the test would see another mode
    mode = "aggregate" if options.get("mode") else "single"
    other = predicted(root, tmp_path, "model.pt", box_file=labels, **{**options, "mode": mode})
    assert np.abs(places(other) - places(want)).max() > 1


@pytest.mark.parametrize("start_box", [None, (30.0, 20.0, 70.0, 60.0)], ids=["searched", "given"])
def test_last_pose(root, tmp_path, start_box):
    """Each box follows from the pose before, turned; other frames have boxes of their own."""
    options = {
        "mode": "aggregate", "lost_below": -1.0, "start_box": start_box,
        **({} if start_box else {"detect_every": 2}),
    }  # fmt: skip
    want = predicted(root, tmp_path, "faces.pt", causal=True, **options)
    got = predicted(root, tmp_path, "faces.onnx", **options)
    assert len(want["annotations"]) == 4
    assert np.ptp(places(want), 0).max() > 1
    assert_same(got, want)
    # the test would see frames that are all cropped alike
    model = replace(load_model(root / "faces.pt"), support_box="key")
    save_model(model, tmp_path / "key.pt")
    other = predicted(root, tmp_path, tmp_path / "key.pt", causal=True, **options)
    assert np.abs(places(other) - places(want)).max() > 1


def test_default_of_a_camera_is_the_window_of_the_file(root, tmp_path, monkeypatch):
    monkeypatch.setattr(sources._Images, "live", True)
    got = predicted(root, tmp_path, "aggregate.onnx", boxes="frame")
    monkeypatch.undo()
    assert_same(got, predicted(root, tmp_path, "model.pt", boxes="frame"))


@pytest.mark.parametrize(("name", "mode"), [("aggregate", "both"), ("single", "single")])
def test_aggregate(root, tmp_path, name, mode):
    found = {}
    for model in ("model.pt", f"{name}.onnx"):
        found[model] = aggregate(
            root / "data/annotations/posetrack_val.json", tmp_path / model, root / model,
            root / "data", mode=mode, flip_test=True, batch_size=11, device="cpu", progress=False,
        )  # fmt: skip
    files = ["aggregate.json", "single.json"] if mode == "both" else [""]
    for file in files:
        got, want = (json.loads((tmp_path / model / file).read_text()) for model in found)
        assert len(want["annotations"]) > 4
        assert_same(got, want)


def test_heatmaps(root):
    """In batches that are no multiples of the window, and of none; floats are normalised before."""
    model = load_model(root / "model.pt")
    torch_predictor = PosePredictor(model, device="cpu")
    predictor = load_predictor(root / "aggregate.onnx", device="cpu", batch_size=6)
    crops = images(8)
    want = torch_predictor.heatmaps(crops)
    torch.testing.assert_close(predictor.heatmaps(crops), want, rtol=0, atol=1e-5)
    assert predictor.heatmaps(crops[:0]).shape == (0, 17, 24, 16)
    windows = want[torch.tensor([[0, 1, 2, 3, 4], [4, 4, 5, 6, 7]])]
    got = predictor.aggregate(windows)
    torch.testing.assert_close(got, torch_predictor.aggregate(windows), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"crops: .*aggregate\.onnx takes uint8, got torch"):
        predictor.heatmaps(normalise(crops))


def test_a_file_of_floats(root):
    crops = images(2)
    with torch.no_grad():
        want = load_model(root / "model.pt").backbone(normalise(crops))
    predictor = OnnxPredictor(root / "single.onnx", device="cpu")
    for given in (crops, normalise(crops)):
        torch.testing.assert_close(predictor.heatmaps(given), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fixed", [False, True])
def test_every_crop_once(root, tmp_path, monkeypatch, fixed):
    """Where the graph wants whole windows, batches are filled up, once each."""
    if fixed:
        monkeypatch.setattr(onnx_predictor, "_images_together", lambda part, frames: frames)
    shapes = []
    original = OnnxPredictor._run
    monkeypatch.setattr(
        OnnxPredictor,
        "_run",
        lambda self, part, values: (
            shapes.append((part, len(values.flatten(0, -4)))) or original(self, part, values)
        ),
    )
    predictor = OnnxPredictor(root / "aggregate.onnx", device="cpu", batch_size=12)
    want = PosePredictor(load_model(root / "model.pt"), device="cpu").heatmaps(images(23))
    torch.testing.assert_close(predictor.heatmaps(images(23)), want, rtol=0, atol=1e-5)
    assert shapes == [(0, n) for n in ((10, 10, 5) if fixed else (12, 11))]


def test_what_the_file_says(root):
    spec, model = OnnxPredictor(root / "faces.onnx").model, load_model(root / "faces.pt")
    for name in (
        "skeleton", "crop_wh", "padding", "sigma", "refinement", "upright", "support_box", "warps",
        "heatmap_hw",
    ):  # fmt: skip
        assert getattr(spec, name) == getattr(model, name)
    assert spec.window == CAUSAL != model.window
    assert not OnnxPredictor(root / "single.onnx").model.warps


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("aggregate", {"skeleton": "coco"}, r"skeleton: goes with weights alone, and .*\.onnx"),
        ("aggregate", {"crop_wh": (64, 96)}, "crop_wh: goes with weights alone"),
        ("aggregate", {"dilations": (1, 2, 4)}, "dilations: goes with weights alone"),
        ("aggregate", {"precision": "bf16"}, r"precision: .*\.onnx computes in fp32, got 'bf16'"),
        ("aggregate", {"window": "paper"}, r"window.*exported for the frames \[-2, -1, 0, 1, 2\]"),
        ("aggregate", {"causal": True}, r"causal: .*takes no others, got \[-2, -1, 0\]"),
        ("single", {"mode": "aggregate"}, r"mode: 'aggregate' needs an ONNX file of mode agg.*sin"),
        ("single", {"window": "paper"}, "mode: 'aggregate' needs an ONNX file"),
        ("single", {"device": "gpu"}, "device: expected 'auto', 'cpu'"),
        ("single", {"device": "mps"}, "device: ONNX files run on 'cpu' and 'cuda', got 'mps'"),
        ("single", {"batch_size": 0}, "batch_size: expected at least 1"),
        ("single", {"refinement": "half"}, "refinement: expected one of"),
    ],
)
def test_refused(root, tmp_path, name, options, message):
    options = {"device": "cpu", **options}
    with pytest.raises(ValueError, match=message):
        predict(str(root / "clip"), tmp_path / "x.json", root / f"{name}.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_refused_by_aggregate(root, tmp_path):
    arguments = (root / "data/annotations/posetrack_val.json", tmp_path / "x.json")
    for name, options, message in (
        ("aggregate", {"window": "paper-causal"}, "window.*takes no others"),
        ("single", {"mode": "both"}, "mode: 'both' needs an ONNX file of mode aggregate"),
        ("faces", {}, "model: it wants crops that are turned"),
    ):
        model = root / f"{name}.onnx"
        with pytest.raises(ValueError, match=message):
            aggregate(*arguments, model, root / "data", device="cpu", progress=False, **options)
    with pytest.raises(ValueError, match="an ONNX file, which only predict and aggregate take"):
        load_model(root / "single.onnx")
    predictor = OnnxPredictor(root / "aggregate.onnx")
    with pytest.raises(ValueError, match=r"window.*takes no others"):
        predictor.aggregate(torch.zeros(1, 2, 17, 24, 16), Window.equal(0, 1))


def test_files_that_are_none_of_these(root, tmp_path):
    whole = (root / "single.onnx").read_bytes()
    for content in (b"nonsense", whole[: len(whole) // 2]):
        (tmp_path / "a.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.onnx: not an ONNX file, or a damaged one"):
            OnnxPredictor(tmp_path / "a.onnx")
    proto = onnx.load(root / "single.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"a\.onnx: without the property 'posewarper'"):
        OnnxPredictor(tmp_path / "a.onnx")
    with pytest.raises(FileNotFoundError, match=r"none\.onnx: no such file"):
        OnnxPredictor(tmp_path / "none.onnx")
    for about, message in (
        ({"mode": "pair"}, r"of mode single or aggregate, and .*changed\.onnx is of mode pair"),
        ({"format": 99}, r"changed\.onnx: written by a newer version"),
        ({"without": "format"}, r"changed\.onnx: its property 'posewarper' is damaged"),
        ({"skeleton": 3}, r"changed\.onnx: its property 'posewarper' is damaged"),
        ({"skeleton": {"name": "x", "joints": ["a"]}}, "skeleton: expected 17 joints.*got 1"),
        ({"crop_wh": [64]}, r"changed\.onnx: its property 'posewarper' is damaged"),
        ({"crop_wh": [64.5, 96]}, "crop_wh: expected numbers above 0, got"),
        ({"padding": 0}, "damaged.*padding: expected numbers above 0, got 0"),
        ({"sigma": "2"}, "damaged.*sigma: expected numbers above 0, got '2'"),
        ({"support_box": "other"}, "damaged.*support_box: expected 'key' or 'own'"),
        ({"mode": "single"}, r"changed\.onnx: expected the tensors crops and heatmaps"),
    ):
        with pytest.raises(ValueError, match=message):
            OnnxPredictor(changed(root, tmp_path, **about))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_packages(root, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"{package}.*pip install 'posewarper\[onnx\]'"):
        load_predictor(root / "single.onnx")


def test_gpu(root, monkeypatch):
    """Asked for and not there: an error. Not asked for: the CPU."""
    there = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" in there:
        pytest.skip("this onnxruntime has it")
    with pytest.raises(ValueError, match=r"device: 'cuda:1'.*no CUDAExecutionProvider.*-gpu has"):
        OnnxPredictor(root / "single.onnx", device="cuda:1")
    # one that is installed, but whose libraries of CUDA are missing
    listed = ["CUDAExecutionProvider", *there]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(ValueError, match=r"device: 'cuda' was asked for, but .* cannot use it here"),
    ):
        OnnxPredictor(root / "single.onnx", device="cuda")
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        predictor = OnnxPredictor(root / "single.onnx")
    assert predictor.device.type == "cpu" and len(predictor.heatmaps(images(2))) == 2
