"""What ``test_bench_training`` times: steps of both stages, the data that they need, and both.

Ours goes through ``posewarper.training.loop.Training``, as ``posewarper train`` does. A step lasts
from one batch being asked for to the next.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.baseline_training import BaselineTraining
from benchmarks.system_cases import SIZES, Size, crop_sequence, make_model, normalised
from benchmarks.timing import clock
from posewarper.models import PoseModel
from posewarper.training import (
    DataConfig,
    LoopConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
)
from posewarper.training.loading import Batch
from posewarper.training.loop import Training
from posewarper.training.processes import Processes

STAGES = ("warp", "pose")
STEPS = tuple(f"{stage} step" for stage in STAGES)
IMPLEMENTATIONS = ("baseline", "posewarper", "posewarper-bf16")
_RATE = 1e-4

#: Largest accepted root mean square of the difference of all gradients from the baseline's, and
#: difference of the loss, both relative. Roundings pass through the network forwards and backwards,
#: and BatchNorm over a few samples makes them larger. A factor of two would be 0.5 or more.
BOUNDS = {"fp32": 1e-2, "bf16": 0.4}


def precision_of(implementation: str) -> str:
    """Of the convolutions."""
    return "bf16" if implementation.endswith("-bf16") else "fp32"


def batch_size(size: Size, stage: str) -> int:
    """Samples per step."""
    return size.pairs if stage == "warp" else size.singles


def start_model(size: Size, stage: str) -> PoseModel:
    """What both start from: with a warp head, or the backbone alone."""
    model = make_model(size)
    return model if stage == "warp" else replace(model, network=model.backbone)


def random_batch(size: Size, stage: str) -> Batch:
    """Crops, and targets of about the heatmaps' size."""
    count, frames = batch_size(size, stage), 2 if stage == "warp" else 1
    random = torch.Generator().manual_seed(2)
    crops = crop_sequence(size, count * frames).unflatten(0, (count, frames))
    joints, (height, width) = size.config.joints, size.crop_hw
    target = torch.rand((count, joints, height // 4, width // 4), generator=random)
    places = torch.rand((count, joints, 2), generator=random) * torch.tensor([width, height])
    return Batch(crops, target, torch.ones(count, joints), places, 0, [])


class Noted:
    """Batches for ``Training``: so many of an epoch, and when each was asked for.

    Args:
        of_epoch: gives the batches of an epoch.
        steps: per epoch.
        samples: how many there are.
    """

    seen = None

    def __init__(self, of_epoch: Callable[[int], Iterator[Batch]], steps: int, samples: int):
        self._of_epoch, self._steps = of_epoch, steps
        self.samples = range(samples)
        self.asked: list[float] = []

    def __len__(self) -> int:
        return self._steps

    def fingerprint(self) -> str:
        return ""

    def of_epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        batches = self._of_epoch(epoch)
        for _ in range(self._steps):
            self.asked.append(clock())
            yield next(batches)

    def seconds(self) -> list[float]:
        """Of each step but the first, which warms up."""
        return [end - start for start, end in pairwise(self.asked[1:])]


def repeated(batch: Batch) -> Callable[[int], Iterator[Batch]]:
    """The same batch for ever."""

    def of_epoch(epoch: int) -> Iterator[Batch]:
        while True:
            yield batch

    return of_epoch


def make_config(
    size: Size, stage: str, implementation: str, device: str, **options: Any
) -> RunConfig:
    """A run of the stage; options by group replace what is here."""
    defaults: dict[str, Any] = {
        "data": {"train": Path(), "images": Path()},
        "optimizer": {"kind": "adam", "lr": _RATE},
        "loop": {
            "epochs": 1, "batch_size": batch_size(size, stage), "device": device,
            "precision": precision_of(implementation),
        },
    }  # fmt: skip
    groups = {name: {**values, **options.pop(name, {})} for name, values in defaults.items()}
    return RunConfig(
        DataConfig(**groups["data"]),
        Path("unused"),
        stage,  # type: ignore[arg-type]
        Path("unused") if stage == "warp" else None,
        optimizer=OptimizerConfig(**groups["optimizer"]),
        schedule=ScheduleConfig(kind="constant"),
        loop=LoopConfig(**groups["loop"]),
        **options,
    )


def make_training(config: RunConfig, model: PoseModel, batches: Any) -> Training:
    """Our training in this process, which writes nothing."""
    processes = Processes(0, 1, 1, torch.device(config.loop.device))
    return Training(config, model, batches, None, processes, None, progress=False)


def prepare(
    size_name: str, stage: str, implementation: str, device: str, steps: int
) -> Callable[[], list[float]]:
    """A function that trains so many steps and gives the seconds of each but the first."""
    size = SIZES[size_name]
    model, batch = start_model(size, stage), random_batch(size, stage)
    noted = Noted(repeated(batch), steps, steps * batch_size(size, stage))
    if implementation != "baseline":
        config = make_config(size, stage, implementation, device)
        training = make_training(config, model, noted)

        def ours() -> list[float]:
            training.run()
            noted.asked.append(clock())
            return noted.seconds()

        return ours
    baseline = BaselineTraining(as_warper(model, size), stage, device, rate=_RATE)

    images = normalised(batch.crops)  # by the workers of its loader, so not in its time

    def plain() -> list[float]:
        for one in noted.of_epoch(0):
            baseline.step(images.to(device), one.target.to(device), one.weight.to(device))
        noted.asked.append(clock())
        return noted.seconds()

    return plain


def as_warper(model: PoseModel, size: Size) -> PoseModel:
    """With a head, which the baseline's network always has."""
    if model.warps:
        return model
    whole = make_model(size)
    whole.backbone.load_state_dict(model.backbone.state_dict())
    return whole


def step_seconds(
    size_name: str, stage: str, implementation: str, device: str, steps: int
) -> list[float]:
    """Seconds of steps after the first one."""
    return prepare(size_name, stage, implementation, device, steps)()


def expected_step(size: Size, stage: str, device: str) -> dict[str, Tensor]:
    """Loss and gradients of the baseline by our names: what one step of SGD of rate 1 moves."""
    model = as_warper(start_model(size, stage), size)
    baseline = BaselineTraining(model, stage, device, torch.optim.SGD, 1.0)
    before = copy.deepcopy(baseline.network)
    batch = random_batch(size, stage)
    images = normalised(batch.crops).to(device)
    loss = baseline.step(images, batch.target.to(device), batch.weight.to(device))
    moved = _moved(before, baseline.network)
    kernels = [moved.pop(name) for name in list(moved) if name.startswith("kernels.")]
    if kernels:
        moved["warp.weight"] = torch.stack(kernels)
    return {**moved, "loss": loss.cpu()}


def our_step(size: Size, stage: str, implementation: str, device: str) -> dict[str, Tensor]:
    """The same of ours."""
    model = start_model(size, stage)
    before = copy.deepcopy(model.network).to(device)
    config = make_config(
        size, stage, implementation, device, optimizer={"kind": "sgd", "lr": 1.0, "momentum": 0.0}
    )
    batches = Noted(repeated(random_batch(size, stage)), 1, batch_size(size, stage))
    training = make_training(config, model, batches)
    training.run()
    loss = torch.tensor(training.history[0]["train_loss"])
    return {**_moved(before, model.network), "loss": loss}


def _moved(before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    new = dict(after.named_parameters())
    return {
        name: (old.detach() - new[name].detach()).cpu()
        for name, old in before.named_parameters()
        if new[name].requires_grad
    }


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The larger of the relative differences of the loss and of all gradients; inf for any NaN."""
    if found.keys() != expected.keys():
        return float("inf")
    error = abs(float(found["loss"]) / float(expected["loss"]) - 1)
    names = [name for name in expected if name != "loss"]
    ours, theirs = (
        torch.cat([moved[name].flatten() for name in names]) for moved in (found, expected)
    )
    apart = float((ours - theirs).norm() / theirs.norm())
    return max(error, apart) if torch.isfinite(ours).all() else float("inf")
