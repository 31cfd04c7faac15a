"""The parts of predictions: the model's own results, in batches, on a device, in image pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_models import CROP_WH, random_model

from posewarper.data.crops import box_to_center_scale, normalise
from posewarper.inference import PosePredictor, choose_device
from posewarper.models import HRNet, Window
from posewarper.models.pose_model import as_warper

HW = (CROP_WH[1] // 4, CROP_WH[0] // 4)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return random_model()


def on_cpu(model, **options):
    return PosePredictor(model, device="cpu", **options)


def crops(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, CROP_WH[1], CROP_WH[0])
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def count_crops(monkeypatch):
    """Crops of each pass of the backbone from now on."""
    seen, forward = [], HRNet.forward
    monkeypatch.setattr(HRNet, "forward", lambda s, x: seen.append(len(x)) or forward(s, x))
    return seen


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_heatmaps_of_bytes_and_floats(model):
    images = crops(5)
    with torch.no_grad():
        expected = model.backbone(normalise(images))
    got = on_cpu(model).heatmaps(images)
    close(got, expected)
    assert got.shape == (5, 17, *HW) and got.dtype == torch.float32 and not got.requires_grad
    close(on_cpu(model).heatmaps(normalise(images)), expected)


@pytest.mark.parametrize("size", [1, 2, 64])
def test_batch_size(model, size, monkeypatch):
    seen = count_crops(monkeypatch)
    got = on_cpu(model, batch_size=size).heatmaps(crops(5))
    assert seen == {1: [1] * 5, 2: [2, 2, 1], 64: [5]}[size]
    close(got, on_cpu(model).heatmaps(crops(5)))


def test_no_crops(model):
    assert on_cpu(model).heatmaps(crops(0)).shape == (0, 17, *HW)
    maps = torch.zeros(0, 5, 17, *HW)
    assert on_cpu(model).aggregate(maps).shape == (0, 17, *HW)
    points, scores = on_cpu(model).decode(maps[:, 0], np.zeros((0, 2)), np.zeros((0, 2)))
    assert points.shape == (0, 17, 2) and scores.shape == (0, 17)


@pytest.mark.parametrize("shift", [False, True])
def test_flip_test(model, shift):
    images = crops(3)
    with torch.no_grad():
        upright = model.backbone(normalise(images))
        mirrored = model.backbone(normalise(images).flip(-1))
    back = mirrored[:, list(model.skeleton.mirrored)].flip(-1)
    if shift:
        back[..., 1:] = back[..., :-1].clone()
    got = on_cpu(model, flip_test=True, shift_flipped=shift).heatmaps(images)
    close(got, (upright + back) / 2)


def test_warp_and_aggregate_are_the_models(model):
    predictor = on_cpu(model, batch_size=3)
    maps = predictor.heatmaps(crops(8)).unflatten(0, (4, 2))  # windows of two frames
    window = Window((0, 1), (0.75, 0.25))
    with torch.inference_mode():
        moved = model.network.warp_heatmaps(maps[:, 0], maps[:, 1])
        other = model.network.warp_heatmaps(maps[:, 0], maps[:, 1], maps[:, 1].square())
        together = model.network.aggregate_heatmaps(maps, window)
    close(predictor.warp(maps[:, 0], maps[:, 1]), moved)
    close(predictor.warp(maps[:, 0], maps[:, 1], maps[:, 1].square()), other)
    close(predictor.aggregate(maps, window), together)
    assert (moved - other).abs().max() > 0.1 and (moved - together).abs().max() > 0.1


def test_the_window_is_by_default_the_models(model):
    predictor = on_cpu(model)
    maps = predictor.heatmaps(crops(5))[None]
    close(predictor.aggregate(maps), predictor.aggregate(maps, model.config.window))


def test_low_precision_is_near(model):
    images = crops(4)
    exact = on_cpu(model).heatmaps(images)
    rounded = on_cpu(model, precision="bf16").heatmaps(images)
    assert rounded.dtype == torch.float32
    error = (rounded - exact).abs().mean() / exact.abs().mean()
    assert 1e-4 < error < 0.05


def test_decode_in_image_pixels(model):
    """Heatmap pixel (x, y) is crop pixel (4 x, 4 y); the crop's corner is that of the region."""
    center, scale = box_to_center_scale([[100, 50, 40, 60], [0, 0, 30, 60]], CROP_WH, 1.25)
    maps = torch.zeros(2, 17, *HW)
    maps[0, :, 10, 4], maps[1, :, 20, 0] = 0.5, 0.25
    points, scores = on_cpu(model, refinement="none").decode(maps, center, scale)
    # 60 high and so 40 wide, times 1.25: 50 x 75 pixels for 64 x 96 of the crop; 0.78125 each
    np.testing.assert_allclose(points[0, 0], [120 - 25 + 16 * 0.78125, 80 - 37.5 + 40 * 0.78125])
    np.testing.assert_allclose(points[1, 5], [15 - 25, 30 - 37.5 + 80 * 0.78125])
    assert scores.tolist() == [[0.5] * 17, [0.25] * 17] and points.dtype == np.float64


def test_refinement(model):
    assert on_cpu(random_model(refinement="dark")).refinement == "dark"
    assert on_cpu(model, refinement="none").refinement == "none"
    maps = torch.zeros(1, 17, *HW)
    maps[0, :, 10, 6], maps[0, :, 10, 7] = 1.0, 0.5
    regions = {"center": [[100, 80]], "scale": [[0.32, 0.48]]}  # one crop pixel is one image pixel
    by = {r: on_cpu(model, refinement=r).decode(maps, **regions)[0] for r in ("none", "quarter")}
    np.testing.assert_allclose((by["quarter"] - by["none"])[0, 0], [1, 0])


def test_without_a_head():
    predictor = on_cpu(random_model(head=False))
    assert predictor.heatmaps(crops(2)).shape == (2, 17, *HW)
    with pytest.raises(ValueError, match="without a warp head"):
        predictor.aggregate(torch.zeros(1, 5, 17, *HW))
    with pytest.raises(ValueError, match="without a warp head"):
        predictor.warp(torch.zeros(1, 17, *HW), torch.zeros(1, 17, *HW))


def test_a_fresh_head_moves_nothing():
    """Offsets zero, kernels the identity: aggregation is the weighted mean of the frames."""
    start = random_model(head=False)
    predictor = on_cpu(as_warper(start, start.config))
    maps = predictor.heatmaps(crops(5))
    weights = torch.tensor(start.config.window.weights)
    close(predictor.aggregate(maps[None])[0], (maps * weights[:, None, None, None]).sum(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "precision: expected one of"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"device": "toaster"}, "device: expected 'auto', 'cpu', 'cuda', .., got 'toaster'"),
        ({"device": "xpu"}, "device: 'xpu' cannot be used here"),
        ({"refinement": "fine"}, "refinement: expected one of"),
    ],
)
def test_wrong_options(model, options, message):
    with pytest.raises(ValueError, match=message):
        PosePredictor(model, **{"device": "cpu", **options})


def test_device():
    assert choose_device("cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        assert choose_device().type == "cuda"
    else:
        assert choose_device().type == "cpu"
        with pytest.raises(ValueError, match="PyTorch finds no GPU here"):
            choose_device("cuda")
