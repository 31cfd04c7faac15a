"""PoseWarper: each use of it against the description of the 2019 system, and how it trains."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from slow_model import TINY, SlowModel, filled, official_shapes, random_state
from torch import Tensor

from posewarper.models.hrnet import HRNET_SIZES
from posewarper.models.warper import WINDOWS, PoseWarper, WarperConfig, Window

SMALL_STEPS = dataclasses.replace(TINY, dilations=(1, 2, 4))
BACKBONE_AND_HEAD = ("",)  # prefixes, see SlowModel
HEAD = ("offset_feats.",)


pytestmark = pytest.mark.usefixtures("one_thread")


def crops(*leading: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*leading, 3, 64, 96, dtype=dtype)


def labels(batch: int) -> Tensor:
    return torch.rand(batch, TINY.joints, 16, 24, dtype=torch.float64)


@pytest.fixture(params=[TINY, SMALL_STEPS], ids=["released dilations", "three dilations"])
def pair_of_models(request: pytest.FixtureRequest) -> tuple[PoseWarper, SlowModel]:
    """The model and the slow one with the same random weights, in float64."""
    config = request.param
    state = random_state(config)
    return filled(config, state).double(), SlowModel(state, config.dilations)


def test_random_weights_move_poses(pair_of_models: tuple[PoseWarper, SlowModel]) -> None:
    """The comparisons below would show little if offsets were far below or above a pixel."""
    model, _ = pair_of_models
    h = model.heatmaps(crops(4))
    for field in model.offset_fields(h[:2] - h[2:]):
        assert 0.5 < field.std() < 20


def test_single_frame(pair_of_models: tuple[PoseWarper, SlowModel]) -> None:
    model, slow = pair_of_models
    images = crops(2)
    torch.testing.assert_close(model.heatmaps(images), slow.heatmaps(images))


def test_support_to_key(pair_of_models: tuple[PoseWarper, SlowModel]) -> None:
    model, slow = pair_of_models
    key, support = crops(2), crops(2)
    torch.testing.assert_close(model(key, support), slow.forward_pair(key, support))


@pytest.mark.parametrize("labelled", [True, False])
def test_key_to_support(pair_of_models: tuple[PoseWarper, SlowModel], labelled: bool) -> None:
    model, slow = pair_of_models
    key, support = crops(2), crops(2)
    given = labels(2) if labelled else None
    expected = slow.reverse_pair(key, support, given)
    torch.testing.assert_close(model.propagate(key, support, given), expected)


def test_aggregation_of_2019(pair_of_models: tuple[PoseWarper, SlowModel]) -> None:
    model, slow = pair_of_models
    frames = crops(2, 5)  # -2, -1, 0, 1, 2
    before2, before1, key, after1, after2 = frames.unbind(1)
    expected = slow.aggregate_2019(key, before1, before2, after1, after2)
    torch.testing.assert_close(model.aggregate(frames), expected)
    # Frames in the released order, with their weights in that order.
    order = Window((0, -1, -2, 1, 2), (0.30, 0.25, 0.10, 0.25, 0.10))
    frames = torch.stack([key, before1, before2, after1, after2], 1)
    torch.testing.assert_close(model.aggregate(frames, order), expected)


@pytest.mark.parametrize(
    "window",
    [
        WINDOWS["paper"],
        WINDOWS["posetrack-2019-causal"],
        Window((0,), (1.0,)),
        Window((5, 0, -1), (0.5, 0.0, 2.0)),
    ],
    ids=["paper", "2019, past only", "key only", "any order, sum and zeros"],
)
def test_aggregation_over_any_window(window: Window) -> None:
    state = random_state(SMALL_STEPS)
    model, slow = filled(SMALL_STEPS, state).double(), SlowModel(state, SMALL_STEPS.dilations)
    frames = crops(2, len(window))
    key = slow.heatmaps(frames[:, window.deltas.index(0)])
    expected = torch.zeros_like(key)
    for i, weight in enumerate(window.weights):
        h = slow.heatmaps(frames[:, i])
        expected += weight * slow.warp(h, key - h)
    torch.testing.assert_close(model.aggregate(frames, window), expected)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_single_precision(backend: str) -> None:
    state = random_state(TINY)
    model, slow = filled(TINY, state, backend=backend), SlowModel(state)
    frames = crops(2, 5, dtype=torch.float32)
    before2, before1, key, after1, after2 = frames.unbind(1)
    given = labels(2).float()
    for got, expected in (
        (model(key, after1), slow.forward_pair(key, after1)),
        (model.propagate(key, after1, given), slow.reverse_pair(key, after1, given)),
        (model.aggregate(frames), slow.aggregate_2019(key, before1, before2, after1, after2)),
    ):
        assert got.dtype == torch.float32
        assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def test_heatmaps_once_for_all_windows() -> None:
    """A frame's heatmaps may serve several windows: the parts give what the whole gives."""
    model = filled(TINY, random_state(TINY)).double()
    video = crops(1, 6)
    window = Window((-1, 0, 1), (0.2, 0.5, 0.3))
    h = model.heatmaps(video[0])  # [6, J, h, w]
    windows = h.unfold(0, 3, 1).movedim(-1, 1)  # [4, 3, J, h, w]
    together = model.aggregate_heatmaps(windows, window)
    for i in range(4):
        alone = model.aggregate(video[:, i : i + 3], window)
        torch.testing.assert_close(together[i : i + 1], alone)


def identity_model() -> PoseWarper:
    model = PoseWarper(TINY).eval()
    torch.nn.init.normal_(model.backbone.final_layer.weight)
    torch.nn.init.normal_(model.backbone.final_layer.bias)
    return model


def test_starts_as_the_identity() -> None:
    model = identity_model()
    key, support = crops(2, dtype=torch.float32), crops(2, dtype=torch.float32)
    h = model.heatmaps(support)
    # Five times a fifth: each of the five sums is rounded once.
    torch.testing.assert_close(model(key, support), h, rtol=4e-7, atol=0)
    given = labels(2).float()
    torch.testing.assert_close(model.propagate(key, support, given), given, rtol=4e-7, atol=0)
    one = PoseWarper(dataclasses.replace(TINY, dilations=(3,)))
    assert torch.equal(one.warp_heatmaps(h + 1, h), h)
    double = model.double()
    h = double.heatmaps(support.double())
    assert (double(key.double(), support.double()) - h).abs().max() < 1e-14


def test_identity_averages_the_frames() -> None:
    model = identity_model()
    frames = crops(2, 5, dtype=torch.float32)
    h = model.heatmaps(frames.flatten(0, 1)).unflatten(0, (2, 5))
    weights = torch.tensor([0.10, 0.25, 0.30, 0.25, 0.10])[:, None, None, None]
    torch.testing.assert_close(model.aggregate(frames), (h * weights).sum(1))


def test_sizes_of_the_released_model() -> None:
    with torch.device("meta"):
        model = PoseWarper().freeze_backbone()
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert sum(sizes.values()) == 71_154_350
    assert sum(trained.values()) == 7_558_605
    assert {name.split(".")[0] for name in trained} == {"offset_feats", "offsets", "warp"}
    assert sum(p.numel() for p in model.offset_feats.parameters()) == 5_783_040
    assert trained["offsets.0.weight"] == 352_512
    assert trained["warp.weight"] == 5 * 2601
    frames = torch.empty(2, 5, 3, 384, 288, device="meta")
    assert model.aggregate(frames).shape == (2, 17, 96, 72)


def test_gradients_with_frozen_backbone() -> None:
    model = filled(TINY, random_state(TINY)).freeze_backbone().train()
    images = crops(2, dtype=torch.float32).requires_grad_()
    model(images, crops(2, dtype=torch.float32)).square().sum().backward()
    for name, parameter in model.named_parameters():
        if name.startswith("backbone."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    assert images.grad is None


def test_gradients_without_freezing_and_after_thawing() -> None:
    model = filled(TINY, random_state(TINY)).freeze_backbone().freeze_backbone(False).train()
    model(crops(2, dtype=torch.float32), crops(2, dtype=torch.float32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert all(module.training for module in model.modules())


def test_first_step_trains_offsets_and_kernels() -> None:
    """With zero offset convolutions only they and the kernels learn at first: no dead start."""
    model = identity_model().freeze_backbone().train()
    h = torch.randn(4, TINY.joints, 16, 24)
    model.warp_heatmaps(h[:2], h[2:]).square().sum().backward()
    for name in ("offsets.0.weight", "offsets.4.weight", "warp.weight"):
        grad = model.get_parameter(name).grad
        assert grad is not None
        assert grad.abs().sum() > 0, name


@pytest.mark.parametrize("batch_stats", [False, True], ids=["stored", "batch, as in 2019"])
def test_batch_norm_of_frozen_backbone(batch_stats: bool) -> None:
    state = random_state(TINY)
    model = filled(TINY, state, backbone_batch_stats=batch_stats).double().freeze_backbone()
    model.train()
    buffers = {name: buffer.clone() for name, buffer in model.backbone.named_buffers()}
    key, support = crops(2), crops(2)
    out = model(key, support)

    slow = SlowModel(state, batch_stats=BACKBONE_AND_HEAD if batch_stats else HEAD)
    torch.testing.assert_close(out, slow.forward_pair(key, support))
    changed = {n for n, b in model.backbone.named_buffers() if not torch.equal(b, buffers[n])}
    assert changed == (set(buffers) if batch_stats else set())
    if batch_stats:  # statistics of key and support frames together
        stem = torch.nn.functional.conv2d(
            torch.cat([key, support]), state["conv1.weight"].double(), stride=2, padding=1
        )
        mean = 0.9 * buffers["bn1.running_mean"] + 0.1 * stem.mean((0, 2, 3))
        torch.testing.assert_close(model.backbone.bn1.running_mean, mean)

    # Order of the calls, eval, and thawing.
    assert model.eval().backbone.training is False
    assert model.train().backbone.training is batch_stats
    assert model.freeze_backbone(False).backbone.training is True
    assert model.offset_feats.training is True


def test_autocast_trains_like_single_precision() -> None:
    model = filled(TINY, random_state(TINY)).freeze_backbone().train()
    key, support = crops(2, dtype=torch.float32), crops(2, dtype=torch.float32)
    target = torch.rand(2, TINY.joints, 16, 24)

    def loss_and_gradient() -> tuple[Tensor, Tensor]:
        model.zero_grad()
        loss = (model(key, support) - target).square().mean()
        loss.backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return loss.detach(), torch.cat(grads)

    loss, gradient = loss_and_gradient()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(key, support).dtype == torch.float32
        low_loss, low_gradient = loss_and_gradient()
    assert abs(low_loss - loss) < 0.02 * loss
    assert torch.cosine_similarity(low_gradient, gradient, 0) > 0.8


def test_head_compiles_without_breaks() -> None:
    model = filled(TINY, random_state(TINY)).freeze_backbone().train()
    compiled = torch.compile(model.warp_heatmaps, fullgraph=True, backend="aot_eager")
    h = torch.randn(4, TINY.joints, 16, 24)
    expected = model.warp_heatmaps(h[:2], h[2:])
    expected.sum().backward()
    gradient = model.offsets[0].get_parameter("weight").grad
    model.zero_grad()
    got = compiled(h[:2], h[2:])
    got.sum().backward()
    torch.testing.assert_close(got, expected)
    assert gradient is not None
    torch.testing.assert_close(model.offsets[0].get_parameter("weight").grad, gradient)


def test_small_presets_run() -> None:
    for name in ("w8", "w16"):
        config = WarperConfig(
            **{"joints": 5, "head_width": 8, "head_blocks": 1, **HRNET_SIZES[name]}
        )
        model = PoseWarper(config).eval()
        assert model.aggregate(torch.randn(1, 5, 3, 64, 64)).shape == (1, 5, 16, 16)


def test_parameters_match_the_published_layout_one_to_one() -> None:
    numbers = sum(torch.Size(shape).numel() for shape in official_shapes(TINY).values())
    assert sum(tensor.numel() for tensor in PoseWarper(TINY).state_dict().values()) == numbers


def test_windows() -> None:
    released = WINDOWS["posetrack-2019"]
    by_delta = dict(zip(released.deltas, released.weights, strict=True))
    assert by_delta == {0: 0.30, -1: 0.25, -2: 0.10, 1: 0.25, 2: 0.10}
    assert WINDOWS["paper"].deltas == (-3, -2, -1, 0, 1, 2, 3)
    assert set(WINDOWS["paper"].weights) == {1 / 7}
    assert WINDOWS["paper-causal"] == Window.equal(-3, -2, -1, 0)
    causal = WINDOWS["posetrack-2019-causal"]
    assert causal.deltas == (-2, -1, 0)
    assert causal.weights == pytest.approx((0.10 / 0.65, 0.25 / 0.65, 0.30 / 0.65))
    for window in WINDOWS.values():
        assert sum(window.weights) == pytest.approx(1)
        assert window.deltas[window.key_index] == 0
    assert WarperConfig().window is released


@pytest.mark.parametrize(
    ("deltas", "weights", "message"),
    [
        ((-1, 1), (0.5, 0.5), "0 among them"),
        ((0, 1, 1), (0.5, 0.2, 0.3), "different ones"),
        ((), (), "0 among them"),
        ((0, 1), (1.0,), "expected 2"),
        ((0, 1), (1.0, float("nan")), "finite"),
        ((0, 1), (1.0, -0.5), "not negative"),
        ((0, 1), (0.0, 0.0), "not all 0"),
    ],
)
def test_wrong_windows(deltas: tuple[int, ...], weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Window(deltas, weights)


def test_past_of_a_window_without_one() -> None:
    with pytest.raises(ValueError, match="past"):
        Window((0, 1), (0.0, 1.0)).past()


@pytest.mark.parametrize(
    "arguments",
    [{"joints": 0}, {"head_width": 0}, {"head_blocks": 0}, {"dilations": ()}, {"dilations": (0,)}],
)
def test_wrong_configurations(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        WarperConfig(**arguments)


def test_wrong_inputs() -> None:
    model = PoseWarper(TINY)
    images = torch.randn(2, 3, 64, 64)
    with pytest.raises(ValueError, match=r"support: expected .*\(2, 3, 64, 64\), got \(1,"):
        model(images, images[:1])
    with pytest.raises(ValueError, match=r"key_heatmaps: expected \(2, 3, 16, 16\), got"):
        model.propagate(images, images, torch.zeros(2, 3, 64, 64))
    with pytest.raises(ValueError, match=r"frames: expected \[B, 5, 3, H, W\] .*got \(1, 4,"):
        model.aggregate(torch.randn(1, 4, 3, 64, 64))
    with pytest.raises(ValueError, match=r"heatmaps: expected \[B, 2, J, h, w\]"):
        model.aggregate_heatmaps(torch.randn(1, 3, 3, 16, 16), Window.equal(0, 1))
