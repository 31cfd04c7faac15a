"""HRNet: names and sizes of the published models, and what it computes."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from slow_model import RELEASED_SHA256, TINY, SlowModel, official_shapes, random_state

from posewarper.models.hrnet import HRNET_SIZES, HRNet
from posewarper.models.warper import WarperConfig

pytestmark = pytest.mark.usefixtures("one_thread")


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(**arguments: Any) -> HRNet:
    with torch.device("meta"):
        return HRNet(**arguments)


def tiny(state: dict[str, torch.Tensor]) -> HRNet:
    model = TINY.hrnet()
    model.load_state_dict(state)
    return model.eval()


def test_description_of_the_released_keys_is_right() -> None:
    """The rules of slow_model give the listing of the released model, byte for byte."""
    shapes = official_shapes(WarperConfig())
    listing = "".join(f"{key}\t{shape}\n" for key, shape in shapes.items())
    assert hashlib.sha256(listing.encode()).hexdigest() == RELEASED_SHA256
    assert len(shapes) == 2010
    assert len(official_shapes(WarperConfig(), head=False)) == 1754


@pytest.mark.parametrize(
    "config",
    [WarperConfig(), WarperConfig(width=32, joints=15), TINY, WarperConfig(modules=(1, 1))],
    ids=["w48", "w32 of 15 joints", "tiny", "three branches"],
)
def test_keys_shapes_and_order(config: WarperConfig) -> None:
    with torch.device("meta"):
        state = config.hrnet().state_dict()
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    assert list(shapes.items()) == list(official_shapes(config, head=False).items())


def test_parameter_counts() -> None:
    assert count(on_meta(**HRNET_SIZES["w48"])) == 63_595_745
    assert round(count(on_meta(**HRNET_SIZES["w32"])) / 1e6, 1) == 28.5
    assert count(on_meta(**HRNET_SIZES["w16"])) < 2e6
    assert count(on_meta(**HRNET_SIZES["w8"])) < 1e5


def test_output_is_a_quarter_of_the_image() -> None:
    assert on_meta()(torch.empty(2, 3, 384, 288, device="meta")).shape == (2, 17, 96, 72)


def test_equals_the_description() -> None:
    state = random_state(TINY, head=False)
    images = torch.randn(2, 3, 64, 96)
    expected = SlowModel(state).heatmaps(images)
    assert expected.std() > 0.05
    torch.testing.assert_close(tiny(state).double()(images.double()), expected)
    single = tiny(state)(images).double()
    assert (single - expected).abs().max() < 1e-5 * expected.abs().max()
    batch = SlowModel(state, batch_stats=("",)).heatmaps(images)
    torch.testing.assert_close(tiny(state).double().train()(images.double()), batch)


def test_channels_last_changes_nothing() -> None:
    model = tiny(random_state(TINY, head=False)).double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = model(images)
    last = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(images.to(memory_format=torch.channels_last)), expected)


def test_every_parameter_is_used() -> None:
    model = tiny(random_state(TINY, head=False)).train()
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    unused = [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert not unused


def test_autocast_gives_float32_heatmaps_near_the_exact_ones() -> None:
    model = tiny(random_state(TINY, head=False))
    images = torch.randn(1, 3, 64, 64)
    exact = model(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(images)
    assert low.dtype == torch.float32
    assert 0 < (low - exact).abs().max() < 0.1 * exact.abs().max()


def test_empty_batch() -> None:
    assert TINY.hrnet().eval()(torch.empty(0, 3, 64, 64)).shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 64, 64), r"expected \[B, 3, H, W\], got \(1, 4, 64, 64\)"),
        ((3, 64, 64), r"expected \[B, 3, H, W\]"),
        ((1, 3, 64, 80), "multiples of 32, got 64 x 80"),
    ],
)
def test_wrong_images(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TINY.hrnet()(torch.empty(shape))


@pytest.mark.parametrize(
    "arguments", [{"joints": 0}, {"modules": ()}, {"modules": (1, 0)}, {"blocks": -1}]
)
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        HRNet(**arguments)


def test_initialisation() -> None:
    model = TINY.hrnet()
    assert 0.0005 < model.conv2.weight.std() < 0.002
    assert model.bn1.weight.eq(1).all()
    assert model.final_layer.bias is not None
    assert model.final_layer.bias.eq(0).all()
