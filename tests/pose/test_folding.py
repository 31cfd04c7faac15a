"""Copies of networks for inference: the same results as the networks themselves."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from random_models import CROP_WH, random_model
from torch import nn

from posewarper.inference import PosePredictor
from posewarper.models import FoldedWarper, PoseWarper, Window, folded, folding
from posewarper.models.devices import autocast
from posewarper.models.folding import planes

pytestmark = pytest.mark.usefixtures("one_thread")

WINDOW = Window((-2, -1, 0, 1, 2), (0.10, 0.25, 0.30, 0.25, 0.10))


@pytest.fixture(scope="module")
def network():
    return random_model().network


def images(count, seed=0, dtype=torch.float32, height=CROP_WH[1]):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, height, CROP_WH[0], generator=generator).to(dtype)


def windows(network, count=2):
    """H of windows of five frames."""
    with torch.no_grad():
        return network.heatmaps(images(5 * count)).unflatten(0, (count, 5))


def assert_near(got, expected, share=1e-5):
    assert got.shape == expected.shape and got.dtype == expected.dtype
    assert (got - expected).abs().max() < share * expected.abs().max()


def by_all_frames(network, heatmaps, window):
    """As in 2019: every frame, the key frame too, through the whole head."""
    total = torch.zeros_like(heatmaps[:, 0])
    key = heatmaps[:, window.key_index]
    for i, weight in enumerate(window.weights):
        total += weight * network.warp_heatmaps(key, heatmaps[:, i])
    return total


def passes(module, monkeypatch):
    """How many maps went through the difference network, call by call, from now on."""
    seen, forward = [], module.offset_feats.forward
    monkeypatch.setattr(module.offset_feats, "forward", lambda x: seen.append(len(x)) or forward(x))
    return seen


def test_copy_equals_the_network(network):
    copied, maps = folded(network), windows(network)
    with torch.no_grad():
        assert_near(copied.heatmaps(images(3)), network.heatmaps(images(3)))
        for moved in (None, maps[:, 2]):
            pair = maps[:, 0], maps[:, 1], moved
            assert_near(copied.warp_heatmaps(*pair), network.warp_heatmaps(*pair))
        expected = by_all_frames(network, maps, WINDOW)
        for _ in range(2):  # the second time from what was kept
            assert_near(copied.aggregate_heatmaps(maps, WINDOW), expected)
        assert_near(network.aggregate_heatmaps(maps, WINDOW), expected)
        assert_near(copied.aggregate(images(10).unflatten(0, (2, 5)), WINDOW), expected)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_both_ends_of_the_head(backend, monkeypatch):
    """The warp with its own offset convolutions, and without."""
    network = random_model().network
    network.warp.backend = backend
    calls, fused = [], folding.offset_conv_warp
    monkeypatch.setattr(
        folding, "offset_conv_warp", lambda *a, **k: calls.append(1) or fused(*a, **k)
    )
    maps = windows(network)
    with torch.no_grad():
        got = folded(network).aggregate_heatmaps(maps, WINDOW)
        assert_near(got, by_all_frames(network, maps, WINDOW))
    assert len(calls) == (1 if backend == "auto" else 0)


def test_single_frame_network():
    network = random_model(head=False).network
    with torch.no_grad():
        assert_near(folded(network)(images(3)), network(images(3)))


def test_rounded_once():
    """In float64 the copy differs by its order of operations alone."""
    network = random_model().network.double()
    with torch.no_grad():
        got, expected = (
            n.heatmaps(images(2, dtype=torch.float64)) for n in (folded(network), network)
        )
    assert_near(got, expected, 1e-13)


def test_what_is_in_the_copy(network):
    before = copy.deepcopy(network.state_dict())
    copied = folded(network)
    assert isinstance(copied, FoldedWarper) and not copied.training
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copied.modules())
    assert not any(p.requires_grad or p.is_meta for p in copied.parameters())
    layouts = {
        m.weight.is_contiguous(memory_format=torch.channels_last)
        for m in copied.modules()
        if isinstance(m, nn.Conv2d)
    }
    assert layouts == {True}
    assert all(p.requires_grad for p in network.parameters())
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(ValueError, match="no training mode"):
        copied.train()
    assert copied.eval() is copied


@pytest.mark.parametrize(
    ("window", "others"),
    [
        (WINDOW, 4),
        (Window((0,), (0.5,)), 0),
        (Window((1, 0, -1), (0.5, 0.0, 2.0)), 2),
        (Window((-1, 0, 1), (0.0, 0.5, 0.5)), 1),
    ],
    ids=["2019", "key only", "key without weight", "other without weight"],
)
def test_only_what_has_weight_is_computed(network, window, others, monkeypatch):
    maps = windows(network)[:, : len(window)]
    copied = folded(network)
    with torch.no_grad():
        expected = by_all_frames(network, maps, window)
        copied.aggregate_heatmaps(maps, window)
        seen = passes(copied, monkeypatch)
        assert_near(copied.aggregate_heatmaps(maps, window), expected)
        assert seen == ([2 * others] if others else [])
        mutable = passes(network, monkeypatch)
        assert_near(network.aggregate_heatmaps(maps, window), expected)
        key = [1] if window.weights[window.key_index] else []  # for all windows together
        assert mutable == ([2 * others] if others else []) + key


def test_frames_that_are_the_key_frame(network):
    """As at the ends of a video, where windows are clipped."""
    maps = windows(network)
    maps[:, :2] = maps[:, 2:3]
    with torch.no_grad():
        got, expected = (
            folded(network).aggregate_heatmaps(maps, WINDOW),
            by_all_frames(network, maps, WINDOW),
        )
    assert_near(got, expected)


def test_key_offsets_are_kept_by_size_and_precision(network, monkeypatch):
    copied = folded(network)
    seen = passes(copied, monkeypatch)
    with torch.inference_mode():
        for height, new in ((96, 1), (96, 0), (64, 1), (96, 0), (64, 0)):
            maps = network.heatmaps(images(5, height=height))[None]
            seen.clear()
            got = copied.aggregate_heatmaps(maps, WINDOW)
            assert sorted(seen) == [1] * new + [4]
            assert_near(got, by_all_frames(network, maps, WINDOW))
        with autocast(torch.device("cpu"), "bf16"):
            seen.clear()
            copied.aggregate_heatmaps(maps, WINDOW)
            assert sorted(seen) == [1, 4]
    # kept in inference mode, and of use where gradients are recorded
    recorded = maps.clone().requires_grad_()
    copied.aggregate_heatmaps(recorded, WINDOW).sum().backward()
    assert recorded.grad.abs().max() > 0


def test_other_weights_are_loaded(network):
    """Nothing stays of what was computed from the weights before."""
    maps, other = windows(network), copy.deepcopy(network)
    with torch.no_grad():
        for convolution in other.offsets:
            convolution.weight.mul_(-2)
    copied, expected = folded(network), folded(other)
    before = copied.aggregate_heatmaps(maps, WINDOW)
    copied.load_state_dict(expected.state_dict())
    got = copied.aggregate_heatmaps(maps, WINDOW)
    assert_near(got, expected.aggregate_heatmaps(maps, WINDOW))
    assert (got - before).abs().max() > 1e-3 * before.abs().max()


def test_nothing_is_kept_of_a_network_that_learns():
    network = random_model().network
    maps = windows(network)
    with torch.no_grad():
        copied, before = folded(network), by_all_frames(network, maps, WINDOW)
        assert_near(network.aggregate_heatmaps(maps, WINDOW), before)
        for parameter in network.offset_feats.parameters():
            parameter.mul_(1.5)
        after = by_all_frames(network, maps, WINDOW)
        assert (after - before).abs().max() > 0.1 * before.abs().max()
        assert_near(network.aggregate_heatmaps(maps, WINDOW), after)
        assert_near(copied.aggregate_heatmaps(maps, WINDOW), before)
        assert_near(folded(network).aggregate_heatmaps(maps, WINDOW), after)


def test_training_sees_all_frames(monkeypatch):
    """BatchNorm takes its statistics from the key frames' maps, too, as in 2019."""
    network = random_model().network.train()
    maps = windows(network)
    seen = passes(network, monkeypatch)
    got = network.aggregate_heatmaps(maps, WINDOW)
    key = maps[:, 2:3]
    offsets = network.offset_fields((key - maps).flatten(0, 1))
    expected = network.warp(maps.flatten(0, 1), offsets, frame_weights=torch.tensor(WINDOW.weights))
    assert_near(got, expected)
    assert seen == [10, 10]


def test_low_precision(network):
    """Near float32, as near as autocast of the network itself; the last layer is not rounded."""
    copied = folded(network, torch.bfloat16)
    kinds = {name: p.dtype for name, p in copied.named_parameters() if not name.startswith("warp")}
    full = {name for name, dtype in kinds.items() if dtype == torch.float32}
    assert full == {"backbone.final_layer.weight", "backbone.final_layer.bias"}
    assert set(kinds.values()) == {torch.float32, torch.bfloat16}
    with torch.inference_mode():
        exact = network.heatmaps(images(10))
        with autocast(torch.device("cpu"), "bf16"):
            rounded = copied.heatmaps(images(10))
            usual = network.heatmaps(images(10))
            mine = copied.aggregate_heatmaps(exact.unflatten(0, (2, 5)), WINDOW)
        expected = network.aggregate_heatmaps(exact.unflatten(0, (2, 5)), WINDOW)
    assert rounded.dtype == mine.dtype == torch.float32

    def error(maps, truth):
        return (maps - truth).abs().mean() / truth.abs().mean()

    assert 1e-4 < error(rounded, exact) < min(0.02, 1.5 * error(usual, exact))
    assert error(mine, expected) < 0.05


@pytest.mark.parametrize("shape", [(3, 5, 4, 7), (1, 306, 24, 16), (2, 1, 3, 3), (0, 4, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_planes(shape, dtype):
    maps = torch.arange(math.prod(shape)).reshape(shape).to(dtype)
    last = maps.contiguous(memory_format=torch.channels_last)
    for given in (maps, last, last[:, :, 1:]):
        got = planes(given)
        assert got.is_contiguous() and torch.equal(got, given)


def test_compiled(network, monkeypatch):
    """All convolutions of backbone and difference network are compiled; empty batches are not."""
    compiled = []

    def compile(module, options):
        assert options["freezing"]
        compiled.append(type(module).__name__)
        return module

    monkeypatch.setattr(torch, "compile", compile)
    model = random_model()
    plain = PosePredictor(model, device="cpu")
    fast = PosePredictor(model, device="cpu", compile=True, batch_size=6)
    assert compiled == ["HRNet", "Sequential"]
    crops = images(10)
    maps = plain.heatmaps(crops)
    assert_near(fast.heatmaps(crops), maps)
    expected = plain.aggregate(maps.unflatten(0, (2, 5)))
    assert_near(fast.aggregate(maps.unflatten(0, (2, 5))), expected)
    assert fast.heatmaps(crops[:0]).shape == (0, *maps.shape[1:])


def test_predictor_leaves_the_model(network):
    model = random_model()
    predictor = PosePredictor(model, device="cpu", precision="bf16")
    assert isinstance(model.network, PoseWarper) and not isinstance(model.network, FoldedWarper)
    assert {p.dtype for p in model.network.parameters()} == {torch.float32}
    assert isinstance(predictor.network, FoldedWarper)
