"""The data of training that is timed: synthetic images on disk, our batches, and plain ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks import training_steps
from benchmarks.baseline_training import BaselineTraining
from benchmarks.system_cases import SIZES, Size
from benchmarks.timing import clock
from posewarper.data.crops import Augmentation
from posewarper.data.dataset import PoseSamples
from posewarper.data.formats import load_labels
from posewarper.data.synthetic import write_dataset
from posewarper.data.tables import PoseDataset, Video
from posewarper.data.video import FrameSource, Image
from posewarper.training import RunConfig
from posewarper.training.loading import Batches, Order, training_batches
from posewarper.training.processes import Processes

_LABELS = "annotations/posetrack_train.json"
_AUGMENTATION = Augmentation(scale_factor=0.25, rotation_factor=30.0, half_body_probability=0.0)


def write(folder: Path, smoke: bool) -> None:
    """JPEG frames with two people each: 3 videos of 24 frames, 960 x 540."""
    if smoke:
        write_dataset(folder, videos=1, frames=4, size_wh=(96, 72), progress=False)
    else:
        write_dataset(folder, videos=3, frames=24, size_wh=(960, 540), progress=False)


def make_config(
    size: Size, stage: str, implementation: str, device: str, root: Path, **loop: Any
) -> RunConfig:
    """A run on the data set; ``loop`` may have ``workers``, which is an option of the data."""
    data: dict[str, Any] = {
        "train": root / _LABELS, "images": root, "crop_wh": size.crop_wh,
        "workers": loop.pop("workers", 0), **({"delta_range": 3} if stage == "warp" else {}),
    }  # fmt: skip
    damage = 0.4 if stage == "warp" else 0.0
    return training_steps.make_config(
        size, stage, implementation, device, data=data, loop=loop,
        augmentation=replace(_AUGMENTATION, key_damage_probability=damage),
    )  # fmt: skip


def our_batches(config: RunConfig, size: Size) -> Batches:
    """Those of ``posewarper train``."""
    processes = Processes(0, 1, 1, torch.device(config.loop.device))
    crops = {"crop_wh": size.crop_wh, "padding": 1.25, "sigma": 3.0}
    return training_batches(config, load_labels(config.data.train), processes, crops)


class _Decoded(FrameSource):
    """Frames that are decoded whenever somebody asks."""

    def read(self, video: Video, number: int, *, key: int | None = None) -> Image | None:
        image = cv2.imread(str(self.root / video.file_name(number)))
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


class _Plain(Dataset[Any]):
    """Samples one by one, normalised on the processor."""

    def __init__(self, samples: PoseSamples):
        self.samples = samples

    def __getitem__(self, pick: tuple[int, int]) -> Any:
        sample = self.samples.sample(pick[1], pick[0])
        assert sample is not None
        return sample["crops"], sample["target"], sample["weight"]


class PlainBatches:
    """The same samples in the same order, without what ours does about decoding and normalising.

    Crops and targets are made by our functions, so that both have the same pixels.
    """

    def __init__(self, config: RunConfig, size: Size):
        dataset: PoseDataset = load_labels(config.data.train)
        samples = PoseSamples(
            dataset, _Decoded(config.data.images), stage=config.stage, crop_wh=size.crop_wh,
            sigma=3.0, delta_range=config.data.delta_range, augmentation=config.augmentation,
            rounded=config.data.rounded, normalised=True, seed=config.loop.seed,
        )  # fmt: skip
        loop, workers = config.loop, config.data.workers or 0
        device = torch.device(loop.device)
        self.order = Order(
            len(samples), loop.batch_size, Processes(0, 1, 1, device), loop.seed,
            loop.samples_per_epoch,
        )  # fmt: skip
        self._loader = DataLoader(
            _Plain(samples), batch_sampler=self.order, num_workers=workers,
            persistent_workers=workers > 0, pin_memory=device.type == "cuda",
        )  # fmt: skip

    def of_epoch(self, epoch: int) -> Iterator[Any]:
        self.order.epoch, self.order.first = epoch, 0
        return iter(self._loader)


def make_batches(
    name: str, stage: str, implementation: str, device: str, root: Path, steps: int, workers: int
) -> tuple[RunConfig, Any]:
    """Batches of either kind, so many of an epoch, and the run that they are for."""
    size = SIZES[name]
    samples = steps * training_steps.batch_size(size, stage)
    config = make_config(
        size, stage, implementation, device, root, workers=workers, samples_per_epoch=samples,
        epochs=2,
    )  # fmt: skip
    make = PlainBatches if implementation == "baseline" else our_batches
    return config, make(config, size)


def data_seconds(batches: Any) -> tuple[list[float], list[float]]:
    """Seconds per batch of the first epoch, and of the second one, without any training."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for epoch, found in enumerate(seconds):
        start = clock()
        for _ in batches.of_epoch(epoch):
            found.append(clock() - start)
            start = clock()
    return seconds


def same_batches(found: Any, expected: Any) -> float:
    """Largest difference of crops (1 is the deviation of pixels) and targets in the first batch."""
    ours = next(found.of_epoch(0))
    crops, target, weight = next(expected.of_epoch(0))
    pairs = (
        (training_steps.normalised(ours.crops), crops),
        (ours.target, target),
        (ours.weight, weight),
    )
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return max(float((a - b).abs().max()) for a, b in pairs)


def training_seconds(
    name: str, stage: str, implementation: str, device: str, batches: Any, config: RunConfig
) -> list[float]:
    """Seconds per step with the data, after the first epoch."""
    size = SIZES[name]
    model = training_steps.start_model(size, stage)
    per_epoch = (config.loop.samples_per_epoch or 0) // config.loop.batch_size
    samples = config.loop.samples_per_epoch or 0
    noted = training_steps.Noted(batches.of_epoch, per_epoch, samples)
    if implementation != "baseline":
        training = training_steps.make_training(config, model, noted)
        training.run()
    else:
        baseline = BaselineTraining(training_steps.as_warper(model, size), stage, device)
        for epoch in range(config.loop.epochs):
            for crops, target, weight in noted.of_epoch(epoch):
                baseline.step(crops.to(device), target.to(device), weight.to(device))
    second = noted.asked[per_epoch:]
    return [end - start for start, end in pairwise(second)]
