"""Exported files in half precision and for crops of any size, and what they are compared on."""

from __future__ import annotations

from dataclasses import replace

import cv2
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
    run,
    write_clip,
)
from random_models import CROP_WH, random_model

from posewarper.data.crops import box_to_center_scale, crop, crop_matrices, normalise
from posewarper.export import Comparison, comparison, graphs, to_onnx
from posewarper.export.inputs import real_inputs
from posewarper.heatmaps import decode
from posewarper.models import Window

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.usefixtures("one_thread")

ASYMMETRIC = Window((1, 0, -3), (0.2, 0.5, 0.4))


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def little():
    return little_model()


def test_half_precision(model, tmp_path):
    path = tmp_path / "model.onnx"
    result = to_onnx(model, path, mode="aggregate", precision="fp16", decode=False)
    assert result.precision == "fp16" and 1e-5 < result.scaled_error < 5e-3
    assert result.joint_error < 0.25 and result.joints > 40
    assert "limits of fp16: 0.01 and 0.25 px" in str(result)
    inputs = inputs_of("aggregate", 3)
    outputs = run(path, **inputs)
    assert outputs["heatmaps"].dtype == torch.float32
    close(outputs["heatmaps"], expected(model, "aggregate", inputs), 5e-3)
    # The features in float16, too, which onnxruntime does not have on the CPU.
    graph = graphs.Graph(
        model, "aggregate", window=model.config.window, refinement=None, bytes_in=True, fold=True,
        precision="fp16",
    )  # fmt: skip
    with torch.no_grad():
        close(graph.heatmaps(*inputs.values()), expected(model, "aggregate", inputs), 1e-2)
    assert described(path)["precision"] == "fp16"
    assert_cuts(path, model, tmp_path, 5e-3)

    proto = onnx.shape_inference.infer_shapes(onnx.load(path))
    assert_simple(proto)
    count = {2: 0, 4: 0}  # of numbers by their bytes
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f":
            count[array.itemsize] += array.size
    assert count[4] < 0.03 * count[2]  # the kernels of the warp
    dtypes = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    in_float = [n for n in convolutions if dtypes[n.output[0]] == onnx.TensorProto.FLOAT]
    offsets = {node.input[2] for node in proto.graph.node if node.op_type == "DeformConv"}
    # The backbone's last layer, and the offset fields.
    assert len(in_float) == 1 + 3 and {node.output[0] for node in in_float[1:]} < offsets
    assert len(convolutions) == 32


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("single", {"precision": "fp16", "decode": False}),
        ("pair", {"decode": False}),
        ("propagate", {"refinement": "dark"}),
        ("aggregate", {"deform_op": "GridSample", "decode": False, "window": ASYMMETRIC}),
    ],
)
def test_crops_of_any_size(model, little, tmp_path, mode, options):
    model = model if mode == "single" else little
    path = tmp_path / "model.onnx"
    result = to_onnx(model, path, mode=mode, dynamic_size=True, **options)
    assert result.joints > 40
    about, window = described(path), options.get("window")
    assert about["dynamic_size"] is True and about["crop_wh"] == list(CROP_WH)
    assert about["size_multiple"] == model.backbone.size_multiple
    assert_simple(onnx.load(path))
    shapes = {x.name: x.shape for x in onnxruntime.InferenceSession(path).get_outputs()}
    assert shapes["heatmaps"] == ["batch", 17, "height/4", "width/4"]
    half = "precision" in options
    assert ("joints" in shapes) == options.get("decode", True)
    for batch, crop_wh in ((2, (96, 48)), (1, (32, 112)), (3, CROP_WH)):
        inputs = inputs_of(mode, batch, crop_wh, len(window or range(5)))
        outputs = run(path, **inputs)
        if window is None:
            maps = expected(model, mode, inputs)
        else:
            with torch.no_grad():
                maps = model.network.aggregate(normalise(inputs["frames"]), window)
        assert maps.shape == (batch, 17, crop_wh[1] // 4, crop_wh[0] // 4)
        close(outputs["heatmaps"], maps, 5e-3 if half else 2e-5)
        if "joints" in outputs:
            refinement = options.get("refinement", "quarter")
            places, scores = decode(outputs["heatmaps"], refinement, model.sigma)
            torch.testing.assert_close(outputs["joints"], 4 * places, rtol=0, atol=2e-3)
            torch.testing.assert_close(outputs["scores"], scores, rtol=0, atol=0)
    if window is not None:
        assert about["window"] == {"deltas": [1, 0, -3], "weights": [0.2, 0.5, 0.4]}


def test_crops_of_real_frames(model, tmp_path):
    video, frames = write_clip(tmp_path)
    matrices = crop_matrices(
        *box_to_center_scale([[0, 0, 120, 90]], model.crop_wh, 1.0), model.crop_wh
    )
    wholes = [crop(frame, matrices, model.crop_wh)[0].transpose(2, 0, 1) for frame in frames]
    batches = real_inputs(video, model, "aggregate", ASYMMETRIC, True)
    assert [tuple(x.shape for x in batch) for batch in batches] == [((2, 3, 3, 96, 64),)] * 3
    # Frame 0 and its neighbours; then the last frame, as there is no frame 20.
    assert np.array_equal(batches[0][0][0], np.stack([wholes[i] for i in (1, 0, 0)]))
    assert np.array_equal(batches[1][0][0], np.stack([wholes[3]] * 3))
    assert not np.array_equal(batches[0][0][1], batches[0][0][0])
    assert all(float(batch[0][1].float().std()) > 10 for batch in batches)

    for number, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"{number:03d}.png"), frame[:, :, ::-1])
    ((key, support, maps), *_) = real_inputs(tmp_path, model, "propagate", None, False)
    assert torch.equal(key[0], normalise(torch.from_numpy(wholes[0])))
    assert torch.equal(support[0], normalise(torch.from_numpy(wholes[1])))
    assert maps.shape == (2, 17, 24, 16) and maps.max() == 1 and maps.min() == 0
    ((crops,), *_) = real_inputs(tmp_path / "002.png", model, "single", None, True)
    assert np.array_equal(crops[0], wholes[2])


def test_images_that_cannot_be_read(model, tmp_path):
    with pytest.raises(ValueError, match="images: no images in the folder"):
        to_onnx(model, tmp_path / "model.onnx", mode="single", images=tmp_path)
    video = tmp_path / "broken.mp4"
    video.write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"broken\.mp4"):
        to_onnx(model, tmp_path / "model.onnx", mode="single", images=video)
    assert list(tmp_path.iterdir()) == [video]


def test_errors_of_comparison(little):
    """Of a file that adds 3e-5 to random and as much as it is told to real images."""
    own = graphs.Graph(
        little, "single", window=None, refinement=None, bytes_in=True, fold=False
    )  # fmt: skip
    real, added = images(2), 0.0

    def differing(inputs):
        with torch.no_grad():
            maps = own.heatmaps(*inputs)
        return {"heatmaps": maps + (added if inputs[0] is real else 3e-5)}

    def compared(**options):
        return comparison.compare(
            differing, little, "single", window=None, refinement="none", decoded=False,
            bytes_in=True, **options,
        )  # fmt: skip

    largest = float(own.heatmaps(real).abs().max())
    assert largest > 1.1
    result = compared(real=[(real,)])
    assert result.random == 3 and result.real == 2 and not result.faults()
    assert result.heatmap_error == pytest.approx(3e-5, rel=0.1)
    added = 1.1e-4  # beyond 1e-4, but not of the largest value
    result = compared(real=[(real,)])
    assert result.heatmap_error == pytest.approx(1.1e-4, rel=0.1)
    assert result.scaled_error == pytest.approx(1.1e-4 / largest, rel=0.1)
    assert not result.faults() and "of the largest value" in str(result)
    added = 3e-3
    assert len(compared(real=[(real,)]).faults()) == 1
    assert not compared(real=[(real,)], precision="fp16").faults()
    added = float("nan")
    (fault, *_) = compared(real=[(real,)], precision="fp16").faults()
    assert fault == "heatmaps: expected a difference of at most 0.01, got nan"


def test_faults():
    good = Comparison(1e-6, 1e-6, 1e-5, 0.0, joints=51, undecided=0, random=3)
    assert not good.faults()
    for name in ("scaled_error", "joint_error", "decoding_error"):
        for value in (0.02, float("nan")):
            assert len(replace(good, **{name: value}).faults()) == 1
    half = replace(good, scaled_error=9e-3, joint_error=0.2, precision="fp16")
    assert not half.faults() and len(replace(half, decoding_error=0.2).faults()) == 1
    assert "51 joints" in str(good) and "not compared" not in str(good)
    assert "2 not compared" in str(replace(good, undecided=2))
    assert "3 random and 6 real inputs" in str(replace(good, real=6))


def test_wrong_heatmaps_below_the_limit_are_no_success():
    model = random_model(head=False)
    layer = model.backbone.final_layer
    with torch.no_grad():
        layer.weight.mul_(1e-6)
        layer.bias.mul_(1e-6)

    def faults(factor):
        def run(inputs):
            return {"heatmaps": factor * model.backbone(normalise(inputs[0])).detach()}

        options = {"window": None, "refinement": "quarter", "decoded": False, "bytes_in": True}
        return comparison.compare(run, model, "single", **options).faults()

    assert faults(1.0) == []
    assert faults(-1.0) == ["joints: none of 51 could be compared"]


def test_joints_that_rounding_decides():
    maps = torch.zeros(1, 2, 12, 10)
    maps[0, :, 5, 4], maps[0, :, 5, 5], maps[0, :, 4, 4] = 1.0, 0.6, 0.5
    maps[0, 1, 9, 8] = 1.0 - 1e-7

    def joints_of(heatmaps):
        return decode(heatmaps, "quarter")[0] * 4

    # Of the first all neighbours differ, the second has two maxima.
    certain = comparison._certain(maps, joints_of(maps), 1e-6, joints_of, 0.01)
    assert certain.tolist() == [[True, False]]
