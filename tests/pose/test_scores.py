"""Scores of models whose heatmaps are a spatial softmax: 0 to 1, also at the border of crops."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_files import run
from random_models import random_model
from torch import Tensor

from posewarper.export import to_onnx
from posewarper.heatmaps import softmax_scores
from posewarper.inference import PosePredictor
from posewarper.models import PoseModel, PoseWarper

SIGMA = 2.0


def softmax_model(seed: int = 0) -> PoseModel:
    plain = random_model(seed)
    config = replace(plain.config, softmax_sigma=SIGMA)
    network = PoseWarper(config).eval()
    network.load_state_dict(plain.network.state_dict())
    return PoseModel(network, config, crop_wh=plain.crop_wh, sigma=SIGMA)


def squeezed(x: float, y: float, height: int = 24, width: int = 16) -> Tensor:
    """What a sure softmax says of a joint at (x, y), inside the map or not, in its usual scale."""
    columns, rows = torch.arange(width) - x, torch.arange(height) - y
    gauss = torch.exp(-(columns**2 + rows[:, None] ** 2) / (2 * SIGMA**2))
    return gauss / gauss.sum() * (2 * math.pi * SIGMA**2)


def test_peaks_of_a_cut_softmax_are_no_scores() -> None:
    inside, edge, outside = squeezed(8, 12), squeezed(0, 12), squeezed(-6, -6)
    peaks = torch.stack([inside.max(), edge.max(), outside.max()])
    assert peaks[0] == pytest.approx(1, abs=1e-3) and peaks[1] > 1.5 and peaks[2] > 10
    scores = softmax_scores(peaks)
    assert scores.tolist() == pytest.approx([1, 1, 1], abs=1e-3) and scores.max() <= 1


def test_what_squeezes_the_own_map_does_not_lift_the_mean() -> None:
    """Two joints of which the other frames say nothing: a share of .6 is own evidence."""
    predictor = PosePredictor(softmax_model(), device="cpu")
    own = torch.stack([squeezed(8, 12), squeezed(-3, 12)])[None]
    own = torch.cat([own, own.new_full((1, 15, 24, 16), 0.001)], 1)
    mean = 0.6 * own
    joints, scores = predictor.decode(mean, [[32, 48]], [[0.48, 0.48]], own=own)
    assert joints.shape == (1, 17, 2)
    assert scores[0, :2].tolist() == pytest.approx([0.6, 0.6], abs=1e-3)
    assert mean[0, 1].max() > 1  # what it would be


def test_scores_of_other_models_are_the_peaks_as_in_2019() -> None:
    predictor = PosePredictor(random_model(), device="cpu")
    maps = torch.full((1, 17, 24, 16), 0.1)
    maps[:, :, 12, 8] = 1.7
    _, scores = predictor.decode(maps, [[32, 48]], [[0.48, 0.48]])
    np.testing.assert_allclose(scores, 1.7, rtol=1e-6)


@pytest.mark.parametrize("mode", ["single", "aggregate"])
def test_exported_scores_are_the_same(mode: str, tmp_path: Path) -> None:
    model = softmax_model()
    with torch.no_grad():  # peaks above 1, so that the rule matters
        for parameter in model.backbone.final_layer.parameters():
            parameter *= 30
    path = tmp_path / "model.onnx"
    to_onnx(model, path, mode=mode, normalise=False)
    frames = len(model.window) if mode == "aggregate" else 1
    generator = torch.Generator().manual_seed(0)
    crops = torch.randn(2, frames, 3, 96, 64, generator=generator)
    name = "frames" if mode == "aggregate" else "crops"
    outputs = run(path, **{name: crops if mode == "aggregate" else crops[:, 0]})
    predictor = PosePredictor(model, device="cpu")
    maps = predictor.heatmaps(crops.flatten(0, 1)).unflatten(0, (2, frames))
    own = maps[:, model.window.key_index] if mode == "aggregate" else maps[:, 0]
    fused = predictor.aggregate(maps) if mode == "aggregate" else own
    _, expected = predictor.decode(fused, [[32, 48]] * 2, [[0.48, 0.48]] * 2, own=own)
    assert own.amax() > 1 and expected.max() <= 1
    np.testing.assert_allclose(outputs["scores"], expected, atol=1e-3)
