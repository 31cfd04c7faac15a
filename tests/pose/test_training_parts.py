"""Parts of training: configuration, recipes, order of samples, losses, scores, schedule."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import jsonargparse
import numpy as np
import pytest
import torch
import yaml

from posewarper.data.annotations import load_coco
from posewarper.data.crops import Augmentation
from posewarper.data.dataset import PoseSamples
from posewarper.data.video import FrameSource
from posewarper.heatmaps import encode
from posewarper.models import HRNET_SIZES, PoseWarper, WarperConfig
from posewarper.skeleton import POSETRACK
from posewarper.training import (
    DataConfig,
    LoopConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    recipe_names,
    recipe_path,
    train,
)
from posewarper.training.config import differences
from posewarper.training.loading import Order
from posewarper.training.losses import HeatmapLoss, joints_found
from posewarper.training.optimization import (
    is_finite,
    learning_rate,
    make_optimizer,
    moving_average,
)
from posewarper.training.processes import Processes, join
from tests.pose.training_runs import write_videos

DATA = DataConfig(Path("train.json"), Path("images"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataConfig(Path("a"), Path("b"), sigma=0.0), "data.sigma: expected a positive"),
        (lambda: DataConfig(Path("a"), Path("b"), crop_wh=(0, 96)), "data.crop_wh: .* at least 1"),
        (lambda: DataConfig(Path("a"), Path("b"), delta_range=-1), "data.delta_range"),
        (lambda: DataConfig(Path("a"), Path("b"), missing="drop"), "data.missing: .* error, skip"),
        (lambda: ModelConfig(size="w64"), "model.size: expected one of w48, w32, w16, w8"),
        (lambda: ModelConfig(dilations=()), "model.dilations"),
        (lambda: ModelConfig(window="all"), "model.window: expected one of posetrack-2019"),
        (lambda: LossConfig("mae"), "loss.kind: expected one of mse, cross_entropy, got 'mae'"),
        (lambda: LossConfig(joint_weights={"nose": -1.0}), "loss.joint_weights: nose"),
        (lambda: OptimizerConfig(lr=math.nan), "optimizer.lr"),
        (lambda: OptimizerConfig(ema=1.0), "optimizer.ema: expected 0 or more and below 1"),
        (lambda: ScheduleConfig(milestones=(15, 10)), "schedule.milestones: expected growing"),
        (lambda: ScheduleConfig(warmup=1.5), "schedule.warmup"),
        (
            lambda: ScheduleConfig("cosine", milestones=(3,)),
            r"schedule.milestones: expected none with schedule.kind cosine, got \[3\]",
        ),
        (lambda: OptimizerConfig(nesterov=True), "optimizer.nesterov: expected sgd"),
        (lambda: LoopConfig(batch_size=0), "loop.batch_size: expected at least 1, got 0"),
        (lambda: LoopConfig(precision="fp8"), "loop.precision"),
        (lambda: RunConfig(DATA, Path("o"), "warp"), "init: stage warp starts from a single-frame"),
        (lambda: RunConfig(DATA, Path("o"), init_part="features"), "init_part: 'features' needs"),
        (
            lambda: RunConfig(DATA, Path("o"), model=ModelConfig(reset_head=True)),
            "model.reset_head",
        ),
        (lambda: RunConfig(DATA, Path("o"), "both"), "stage: expected one of pose, warp"),
        (
            lambda: RunConfig(DATA, Path("o"), "warp", Path("i"), loss=LossConfig("cross_entropy")),
            "loss.kind: expected 'mse' in stage warp",
        ),
        (
            lambda: train(DATA, Path("o"), loss=LossConfig("cross_entropy")),
            "loss.kind: cross_entropy needs model.softmax_sigma",
        ),
        (
            lambda: train(DATA, Path("o"), loop=LoopConfig(device="gpu")),
            "loop.device: expected 'auto', 'cpu', 'cuda'",
        ),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train.json"):
        train(DATA, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"init: .*best.pt"):
        train(DATA, tmp_path / "run", init=tmp_path)
    assert not (tmp_path / "run").exists()


def command(*arguments):
    """The arguments of ``train`` that a command line stands for."""
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(train, as_positional=True)
    options = parser.parse_args([str(part) for part in arguments])
    # the second one is the name before jsonargparse 4.49
    return (getattr(parser, "instantiate", None) or parser.instantiate_classes)(options)


NEEDED = ("--data.train", "t.json", "--data.images", "frames", "--out", "o")


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_configurations(name, tmp_path):
    options = command("--config", recipe_path(name), *NEEDED)
    names = [field.name for field in dataclasses.fields(RunConfig)]
    given = {key: options[key] for key in names if options.get(key) is not None}
    if options.stage == "warp":
        with pytest.raises(ValueError, match="init"):
            RunConfig(**given)
        given["init"] = Path("pose")
    config = RunConfig(**given)
    assert config.data.train == Path("t.json") and config.out == Path("o")
    assert name.endswith("warp") == (config.stage == "warp")
    # what a run writes down is a configuration again
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.plain()))
    again = command("--config", tmp_path / "config.yaml")
    assert RunConfig(**{key: again[key] for key in names}) == config


def test_recipes_of_2019():
    options = command("--config", recipe_path("posetrack17-pose"), *NEEDED)
    assert WarperConfig(**options.model.backbone()) == WarperConfig()
    assert options.augmentation == Augmentation()
    rates = [learning_rate(options.schedule, 1e-4, 7 * epoch, 7, 10) for epoch in range(10)]
    np.testing.assert_allclose(rates, [1e-4] * 4 + [1e-5] * 2 + [1e-6] * 4)
    options = command("--config", recipe_path("posetrack18-warp"), *NEEDED)
    assert options.model.head()["dilations"] == (3, 6, 12, 18, 24)
    rates = [learning_rate(options.schedule, 1e-4, 7 * epoch, 7, 20) for epoch in range(20)]
    np.testing.assert_allclose(rates, [1e-4] * 9 + [1e-5] * 5 + [1e-6] * 6)
    assert (options.loop.epochs, options.loop.batch_size) == (20, 8)


def test_unknown_recipe():
    assert {"posetrack17-warp", "small-pose"} <= set(recipe_names())
    with pytest.raises(ValueError, match=r"recipe: expected one of posetrack17-pose, .*'resnet'"):
        recipe_path("resnet")


def test_command_line_overrides_a_recipe():
    options = command(
        "--config", recipe_path("small-pose"), *NEEDED, "--optimizer.lr", "5e-5",
        "--augmentation.flip_probability", "0", "--loss.joint_weights", '{"nose": 2}',
    )  # fmt: skip
    assert options.optimizer.lr == 5e-5 and options.optimizer.kind == "adamw"
    assert options.augmentation.flip_probability == 0
    assert options.augmentation.rotation_factor == 30
    assert options.loss.joint_weights == {"nose": 2}


def test_differences():
    old = RunConfig(DATA, Path("o")).plain()
    new = RunConfig(
        dataclasses.replace(DATA, workers=3, sigma=2.0), Path("p"), loop=LoopConfig(epochs=30)
    ).plain()
    assert differences(old, new) == ["data.sigma: None -> 2.0"]
    del old["model"]["reset_head"], old["init_part"], old["schedule"]  # of an older version
    assert differences(old, new) == ["data.sigma: None -> 2.0"]
    init, head = Path("i"), ModelConfig(reset_head=True)
    new = RunConfig(DATA, Path("o"), "warp", init, model=head, loss=LossConfig("mse", {"nose": 2}))
    old = new.plain()
    assert differences(old, new.plain()) == []
    del old["model"]["reset_head"]
    assert differences(old, new.plain()) == ["model.reset_head: False -> True"]


def test_model_sizes():
    config = ModelConfig(size="w16", blocks=3, head_width=8)
    assert config.backbone() == {**HRNET_SIZES["w16"], "blocks": 3}
    assert config.head() == {"head_width": 8}


def one_of(rank, count):
    return Processes(rank, count, count, torch.device("cpu"))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_processes_share_the_same_batches(count):
    whole = Order(11, 2 * count, one_of(0, 1), shuffle_seed=5)
    parts = [Order(11, 2, one_of(rank, count), shuffle_seed=5) for rank in range(count)]
    for order in (whole, *parts):
        order.epoch = 3
    for batch, *shares in zip(whole, *parts, strict=True):
        assert [pick for share in shares for pick in share] == batch
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert len(whole) == len(parts[0]) == len(list(parts[0]))


def test_order_is_shuffled_passes_without_end():
    order = Order(10, 4, one_of(0, 1), shuffle_seed=1, per_epoch=7)
    picks = np.concatenate([order.picks(epoch) for epoch in range(10)])
    assert len(picks) == 70
    for number in range(7):  # whatever the epochs' borders, each pass has every sample once
        assert sorted(picks[picks[:, 0] == number, 1]) == list(range(10))
    assert list(picks[:, 0]) == sorted(picks[:, 0])
    assert list(picks[:10, 1]) != list(picks[10:20, 1]) != list(range(10))
    order.epoch = 4
    complete = list(order)
    order.first = 1
    assert list(order) == complete[1:] and len(order) == 2


def test_order_without_shuffling():
    order = Order(5, 2, one_of(0, 1))
    for epoch in range(2):
        order.epoch = epoch
        assert list(order) == [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4)]]


def test_squared_error_is_that_of_2019():
    generator = torch.Generator().manual_seed(0)
    output, target = torch.rand(2, 3, 17, 6, 5, generator=generator)
    weight = (torch.rand(3, 17, generator=generator) > 0.3).float()
    loss = HeatmapLoss(LossConfig(), POSETRACK)
    by_joint = [
        0.5 * torch.nn.functional.mse_loss(
            weight[:, j, None, None] * output[:, j], weight[:, j, None, None] * target[:, j]
        )
        for j in range(17)
    ]  # fmt: skip
    expected = sum(by_joint) / 17
    assert loss.denominator(weight, target) == 3
    torch.testing.assert_close(loss(output, target, weight) / 3, expected)


def test_joint_weights():
    loss = HeatmapLoss(LossConfig(joint_weights={"left_wrist": 1.5, "nose": 0}), POSETRACK)
    maps = torch.zeros(1, 17, 4, 4)
    error = torch.zeros(1, 17, 4, 4)
    error[0, 9] = 1
    plain = HeatmapLoss(LossConfig(), POSETRACK)(error, maps, torch.ones(1, 17))
    torch.testing.assert_close(loss(error, maps, torch.ones(1, 17)), 1.5**2 * plain)
    error[0, 0] = 7
    torch.testing.assert_close(loss(error, maps, torch.ones(1, 17)), 1.5**2 * plain)
    with pytest.raises(ValueError, match="'posetrack' has no joint 'tail'"):
        HeatmapLoss(LossConfig(joint_weights={"tail": 1}), POSETRACK)


def test_cross_entropy():
    config = LossConfig("cross_entropy", {"right_ear": 0.5})
    loss = HeatmapLoss(config, POSETRACK)
    joints = np.full((2, 17, 2), 20.0)
    target, _ = encode(joints, np.ones((2, 17)), (12, 10), 1.5, rounded=False)
    target = torch.from_numpy(target)
    weight = torch.zeros(2, 17)
    weight[0, 0] = weight[1, 4] = 1
    assert loss.denominator(weight, target) == 1.5
    weight[0, 1] = 1  # a joint outside, with an empty map
    target[0, 1] = 0
    assert loss.denominator(weight, target) == 1.5
    uniform = loss(torch.zeros(2, 17, 12, 10), target, weight) / 1.5
    assert float(uniform) == pytest.approx(math.log(120))
    perfect = loss(target.clamp_min(1e-30).log(), target, weight) / 1.5
    share = target[0, 0] / target[0, 0].sum()
    entropy = -(share * share.clamp_min(1e-30).log()).sum()
    assert float(perfect) == pytest.approx(float(entropy), rel=1e-4)


def test_losses_of_parts_add_up():
    generator = torch.Generator().manual_seed(0)
    output, target = torch.rand(2, 5, 17, 6, 5, generator=generator)
    weight = (torch.rand(5, 17, generator=generator) > 0.3).float()
    for kind in ("mse", "cross_entropy"):
        loss = HeatmapLoss(LossConfig(kind), POSETRACK)
        parts = [slice(0, 4), slice(4, 5), slice(5, 5)]  # nothing is a part too
        total = sum(loss(output[p], target[p], weight[p]) for p in parts)
        whole = loss.denominator(weight, target)
        assert sum(loss.denominator(weight[p], target[p]) for p in parts) == whole
        torch.testing.assert_close(total, loss(output, target, weight))


def test_joints_found():
    joints = torch.tensor([[[20.0, 24.0], [40.0, 40.0], [8.0, 8.0]]])
    target, _ = encode(joints.numpy(), np.ones((1, 3)), (16, 16), 2.0)
    heatmaps = torch.from_numpy(target)
    off = joints + torch.tensor([[[3.9, 0.0], [4.1, 0.0], [0.0, 0.0]]])
    found, labelled = joints_found(heatmaps, off, torch.tensor([[1.0, 1, 0]]), 4, 40.0)
    assert (float(found), float(labelled)) == (1, 2)  # within 4 pixels; the third has no label


def test_learning_rate():
    schedule = ScheduleConfig("step", milestones=(10, 15))
    rates = [learning_rate(schedule, 1.0, step, 3, 20) for step in range(60)]
    np.testing.assert_allclose(rates, [1.0] * 30 + [0.1] * 15 + [0.01] * 15)
    schedule = ScheduleConfig("cosine", warmup=0.25)
    rates = [learning_rate(schedule, 2.0, step, 10, 4) for step in range(40)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 5)
    assert rates[10] == 2 and rates[25] == pytest.approx(1) and 0 < rates[39] < 0.01
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert {learning_rate(ScheduleConfig("constant"), 3.0, s, 5, 2) for s in range(10)} == {3.0}


def test_scales_and_biases_do_not_decay():
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3))
    network[0].bias.requires_grad_(False)
    optimizer = make_optimizer(OptimizerConfig("adamw", weight_decay=0.1), network)
    groups = [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    assert groups == [(1, 0.1), (2, 0.0)]
    everything = make_optimizer(
        OptimizerConfig("sgd", weight_decay=0.1, decay_all=True, momentum=0.5), network
    )
    assert [len(group["params"]) for group in everything.param_groups] == [3]
    assert everything.param_groups[0]["momentum"] == 0.5


def test_kernels_of_the_warp_do_not_decay():
    """They are the identity at first; smaller ones would lower all heatmaps."""
    sizes = WarperConfig(
        width=8, modules=(1, 1), blocks=1, stem_width=16, stem_blocks=1, head_width=16,
        head_blocks=1, dilations=(1, 2),
    )  # fmt: skip
    network = PoseWarper(sizes).freeze_backbone()
    config = OptimizerConfig("adamw", lr=0.1, weight_decay=0.5)
    for decay_all, expected in ((False, 1.0), (True, 0.95)):
        network.reset_head()
        optimizer = make_optimizer(dataclasses.replace(config, decay_all=decay_all), network)
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        assert float(network.warp.weight.detach().max()) == pytest.approx(expected)


def test_finite():
    layer = torch.nn.BatchNorm2d(2)
    assert is_finite(layer, torch.nn.Conv2d(1, 1, 1))
    layer.running_var[1] = math.inf
    assert not is_finite(torch.nn.Conv2d(1, 1, 1), layer)


def test_device_of_a_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"loop.device: expected cuda with torchrun, .*'cuda:1'"):
        join("cuda:1").__enter__()


def test_moving_average_forgets_the_start():
    layer = torch.nn.BatchNorm2d(1)
    average = moving_average(layer, 0.9)
    for step in range(1, 200):
        with torch.no_grad():
            layer.weight.fill_(step)
            layer.running_mean.fill_(-step)
        average.update_parameters(layer)
    # a moving average of a ramp lags by decay / (1 - decay)
    assert average.module.weight.item() == pytest.approx(199 - 9, abs=0.1)
    assert float(average.module.running_mean) == pytest.approx(-190, abs=0.1)


def test_samples_of_any_epoch_and_exact_targets(tmp_path):
    write_videos(tmp_path / "set")
    dataset = load_coco(tmp_path / "set" / "annotations" / "posetrack_train.json")
    source = FrameSource(tmp_path / "set")
    options = {"crop_wh": (64, 96), "sigma": 1.5, "augmentation": Augmentation()}
    samples = PoseSamples(dataset, source, **options, rounded=False)
    assert torch.equal(samples[2]["crops"], samples.sample(2, 0)["crops"])
    assert not torch.equal(samples[2]["crops"], samples.sample(2, 7)["crops"])
    sample = samples.sample(2, 7)
    target, _ = encode(
        sample["joints"].numpy(), sample["visible"].numpy(), (24, 16), 1.5, rounded=False
    )
    np.testing.assert_allclose(sample["target"], target, atol=1e-5)
    nearest = PoseSamples(dataset, source, **options).sample(2, 7)["target"]
    assert not torch.equal(nearest, sample["target"])
