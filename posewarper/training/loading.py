"""Batches for training and validation: order, shares of processes, workers, cache of frames.

The order of samples and their random draws follow from the seed alone. Neither the number of
processes nor that of workers changes them, and any batch of any epoch can be the first.
"""

from __future__ import annotations

import hashlib
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from posewarper.data.dataset import PoseSamples
from posewarper.data.tables import Ints, PoseDataset
from posewarper.data.video import FrameError, FrameSource, fill_sizes
from posewarper.models import PoseModel
from posewarper.training.config import RunConfig
from posewarper.training.processes import Processes

_FRAME_BYTES = 1280 * 720 * 3  # of frames whose size no file tells
_MOST_WORKERS = 16
_GRACE = 20.0  # seconds that workers live on after SIGTERM; torchrun kills after 30

#: A crop that is the same in every epoch: the sample, and how far the support frame lies from the
#: key frame; None is the key frame's own crop.
Place = tuple[int, int | None]


class Batch(NamedTuple):
    """B samples that could be read.

    Attributes:
        crops: ``[B, F, 3, H, W]`` uint8, the key frame first.
        target: ``[B, J, h, w]`` float32.
        weight: ``[B, J]`` float32.
        joints: ``[B, J, 2]`` float32, crop pixels.
        left_out: samples that could not be read.
        problems: messages about frames that nobody has heard of yet.
        error: why the batch could not be made; an exception would arrive from a worker with
            its traceback in the message.
        places: of each sample's key and support crop, where crops are the same in every epoch.
        with_crops: then, of each sample, whether ``crops`` has it.
    """

    crops: Tensor
    target: Tensor
    weight: Tensor
    joints: Tensor
    left_out: int
    problems: list[str]
    error: str = ""
    places: Sequence[tuple[Place, Place]] = ()
    with_crops: Sequence[bool] = ()

    def to(self, device: torch.device) -> Batch:
        """The same with its tensors on a device."""
        tensors = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("crops", "target", "weight", "joints")
        }
        return self._replace(**tensors)


class Seen:
    """Heatmaps of crops that come again in every epoch, kept until memory is used up.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: float):
        self._left, self._maps = limit, dict[Place, Tensor]()

    def __contains__(self, place: Place) -> bool:
        return place in self._maps

    def __getitem__(self, place: Place) -> Tensor:
        return self._maps[place]

    def __len__(self) -> int:
        return len(self._maps)

    def add(self, place: Place, maps: Tensor) -> None:
        """Keep ``[J, h, w]``, if there is room."""
        if maps.nbytes <= self._left:
            self._maps[place] = maps
            self._left -= maps.nbytes


class SampleBatches(Dataset[Batch]):
    """Batches by lists of (pass, sample, whether its crops are wanted): the pass decides the random
    draws.
    """

    def __init__(self, samples: PoseSamples):
        self.samples = samples
        self._told = 0

    def __getitem__(self, pick: tuple[int, int, bool]) -> Batch:
        return self.__getitems__([pick])

    def __getitems__(self, picks: list[tuple[int, int, bool]]) -> Batch:
        samples, error = self.samples, ""
        try:
            with warnings.catch_warnings():  # the loop reports problems, once
                warnings.simplefilter("ignore", UserWarning)
                read = [samples.sample(index, epoch, wanted) for epoch, index, wanted in picks]
        except FrameError as caught:
            read, error = [None] * len(picks), str(caught)
        present = [sample for sample in read if sample is not None]
        width, height = samples.crop_wh
        stride, joints = samples.heatmap_stride, len(samples.dataset.skeleton)
        shapes = {
            "crops": (1 if samples.stage == "pose" else 2, 3, height, width),
            "target": (joints, height // stride, width // stride),
            "weight": (joints,),
            "joints": (joints, 2),
        }
        tensors = {
            name: torch.stack(parts)
            if (parts := [sample[name] for sample in present if name in sample])
            else torch.zeros((0, *shape), dtype=torch.uint8 if name == "crops" else torch.float32)
            for name, shape in shapes.items()
        }
        messages = list(samples.source.problems.values())
        new, self._told = messages[self._told :], len(messages)
        kept = [
            (index, sample["delta"], wanted)
            for (_, index, wanted), sample in zip(picks, read, strict=True)
            if sample is not None
        ]
        return Batch(
            **tensors,
            left_out=len(read) - len(present),
            problems=new,
            error=error,
            places=[_places(index, delta) for index, delta, _ in kept],
            with_crops=[wanted for *_, wanted in kept],
        )


def _places(index: int, delta: int) -> tuple[Place, Place]:
    """Of the key and the support crop of a sample."""
    return (index, None), (index, delta)


class Order(Sampler[list[tuple[int, int]]]):
    """Which samples make up the batches of an epoch, and this process's share of each.

    Epochs follow each other in an endless sequence of passes over all samples, each shuffled in
    its own way.

    Args:
        count: samples.
        batch_size: of each process.
        processes: of which this one takes a share of every batch.
        shuffle_seed: None: the samples as they come, one pass, the same in each epoch.
        per_epoch: samples of an epoch; by default ``count``.

    Attributes:
        epoch: whose batches come next.
        first: how many of them to leave out.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        processes: Processes,
        shuffle_seed: int | None = None,
        per_epoch: int | None = None,
    ):
        self.count, self.batch_size, self.processes = count, batch_size, processes
        self.shuffle_seed, self.per_epoch = shuffle_seed, per_epoch or count
        self.epoch = self.first = 0

    def __len__(self) -> int:
        """Batches of an epoch, whether or not some are left out."""
        return -(-self.per_epoch // (self.batch_size * self.processes.count))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        picks = self.picks(self.epoch)
        rank, count = self.processes.rank, self.processes.count
        size = self.batch_size * count
        for start in range(self.first * size, len(picks), size):
            batch = picks[start : start + size]
            # In the last batch nobody has more than one sample more than the others.
            share = batch[len(batch) * rank // count : len(batch) * (rank + 1) // count]
            yield [(int(epoch), int(index)) for epoch, index in share]

    def picks(self, epoch: int) -> Ints:
        """(pass, sample) [per_epoch, 2] of an epoch, for all processes."""
        if self.shuffle_seed is None:
            return np.stack([np.zeros(self.count, np.int64), np.arange(self.count)], 1)
        start, end = epoch * self.per_epoch, (epoch + 1) * self.per_epoch
        parts = []
        for number in range(start // self.count, (end - 1) // self.count + 1):
            order = np.random.default_rng((self.shuffle_seed, number)).permutation(self.count)
            part = order[max(start - number * self.count, 0) : end - number * self.count]
            parts.append(np.stack([np.full(len(part), number), part], 1))
        return np.concatenate(parts)


class _Wanted(Sampler[list[tuple[int, int, bool]]]):
    """An order of samples, with whether the crops of each are wanted: not where both were seen."""

    def __init__(self, order: Order, samples: PoseSamples, seen: Seen | None):
        self.order, self.samples, self.seen = order, samples, seen

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[list[tuple[int, int, bool]]]:
        for batch in self.order:
            yield [(epoch, index, self._is_wanted(epoch, index)) for epoch, index in batch]

    def _is_wanted(self, epoch: int, index: int) -> bool:
        if self.seen is None:
            return True
        places = _places(index, self.samples.delta_of(index, epoch))
        return not all(place in self.seen for place in places)


class Batches:
    """The batches of one data set, from worker processes that live on between epochs.

    Args:
        samples: which.
        order: of them.
        workers: processes.
        device: batches are pinned for a GPU.
        seen: heatmaps that are known; batches lack the crops of samples of which both are. Only
            where crops are the same in every epoch.
    """

    def __init__(
        self,
        samples: PoseSamples,
        order: Order,
        workers: int,
        device: torch.device,
        seen: Seen | None = None,
    ):
        self.samples, self.order, self.seen = samples, order, seen
        self._loader = DataLoader(
            SampleBatches(samples),
            batch_sampler=_Wanted(order, samples, seen),
            collate_fn=_as_it_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            worker_init_fn=_start_worker,
        )

    def of_epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from ``first`` on."""
        self.order.epoch, self.order.first = epoch, first
        return iter(self._loader)

    def __len__(self) -> int:
        return len(self.order)

    def fingerprint(self) -> str:
        """Of what samples are made from: file names, boxes, keypoints, in their order."""
        dataset, rows = self.samples.dataset, self.samples.rows
        people, frames = dataset.people, dataset.frames
        used = people.frame[rows]
        digest = hashlib.sha256("\n".join(frames.file_name[i] for i in used.tolist()).encode())
        columns = [people.keypoints[rows], self.samples.center, self.samples.scale]
        if self.samples.rotation.any():
            columns.append(self.samples.rotation)
        if self.samples.support_box == "own":  # which is found by the track
            columns.append(people.track_id[rows].astype(np.float64))
        for numbers in columns:
            digest.update(np.ascontiguousarray(numbers, np.float64).tobytes())
        return digest.hexdigest()


def check_batch(model: PoseModel, samples: int, shared_norm: bool = False) -> None:
    """An error where the coarsest branch would normalise a single value.

    Args:
        model: whose backbone learns, if it has no warp head.
        samples: of the batch.
        shared_norm: whether other processes have values, too.

    Raises:
        ValueError: a batch of one sample, of which crops leave one pixel.
    """
    side = model.backbone.size_multiple
    if samples == 1 and model.crop_wh == (side, side) and not (model.warps or shared_norm):
        raise ValueError(
            "loop.batch_size: a batch of one sample, as the last of an epoch may be, has a single "
            f"value to normalise at crops of {side} x {side}; choose another loop.batch_size or "
            "loop.samples_per_epoch, or larger data.crop_wh"
        )


def training_batches(
    config: RunConfig,
    dataset: PoseDataset,
    processes: Processes,
    crops: dict[str, Any],
) -> Batches:
    """Shuffled and augmented; ``crops`` has what crops and targets are made by."""
    loop, data = config.loop, config.data
    workers = _workers(data.workers, processes)
    source = _source(config, dataset, config.data.images, workers)
    samples = PoseSamples(
        _with_sizes(dataset, source), source, stage=config.stage, delta=data.delta,
        delta_range=data.delta_range, augmentation=config.augmentation, rounded=data.rounded,
        score_power=data.score_power,
        seed=loop.seed, **crops,
    )  # fmt: skip
    order = Order(len(samples), loop.batch_size, processes, loop.seed, loop.samples_per_epoch)
    seen = _seen(config) if config.augmentation.changes_nothing else None
    return Batches(samples, order, workers, processes.device, seen)


def validation_batches(
    config: RunConfig,
    dataset: PoseDataset,
    processes: Processes,
    crops: dict[str, Any],
) -> Batches:
    """As they come, without augmentation, with the same support frames in every epoch."""
    data = config.data
    workers = _workers(data.workers, processes)
    source = _source(config, dataset, data.val_images or data.images, workers)
    samples = PoseSamples(
        _with_sizes(dataset, source), source, stage=config.stage, delta=data.delta,
        delta_range=data.delta_range, rounded=data.rounded, seed=config.loop.seed, **crops,
    )  # fmt: skip
    order = Order(len(samples), config.loop.batch_size, processes)
    return Batches(samples, order, workers, processes.device, _seen(config))


def _seen(config: RunConfig) -> Seen | None:
    """Room for the heatmaps of one data set."""
    sets = int(config.augmentation.changes_nothing) + int(config.data.val is not None)
    memory = config.data.heatmap_cache_mb * 2**20
    return Seen(memory / sets) if memory > 0 else None


def _source(config: RunConfig, dataset: PoseDataset, root: Any, workers: int) -> FrameSource:
    sizes = dataset.frames.size_wh.prod(1)
    known = sizes[sizes > 0]
    frame_bytes = 3 * float(known.mean()) if len(known) else _FRAME_BYTES
    sources = max(workers, 1) * (1 if config.data.val is None else 2)
    frames = int(config.data.cache_mb * 2**20 / sources / frame_bytes)
    data = config.data
    source = FrameSource(
        root, data.missing, dataset=dataset, cached_frames=frames, deinterlace=data.deinterlace
    )
    source.prepare(dataset.videos[i] for i in np.unique(dataset.frames.video).tolist())
    return source


def _with_sizes(dataset: PoseDataset, source: FrameSource) -> PoseDataset:
    """Boxes are clipped to the image, so its size has to be known."""
    return fill_sizes(dataset, source) if (dataset.frames.size_wh <= 0).any() else dataset


def _workers(wanted: int | None, processes: Processes) -> int:
    """On a GPU the processors have nothing else to do; on a CPU the network needs them."""
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = (cores or 1) // processes.local_count
    if processes.device.type == "cpu":
        return min(share // 4, _MOST_WORKERS)
    return max(1, min(share, _MOST_WORKERS))


def _as_it_is(batch: Any) -> Batch:
    return batch


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # one thread for each worker
    # Ctrl-C and the signals of batch systems reach all processes, and the training process wants to
    # end its step. But SIGTERM is also how Python ends workers that it then waits for.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _end_soon(number: int, frame: FrameType | None) -> None:
    """Lets SIGALRM end this process; a repeated signal does not put that off."""
    if signal.getitimer(signal.ITIMER_REAL)[0] == 0:
        signal.setitimer(signal.ITIMER_REAL, _GRACE)
