"""Several training processes that act as one: who is who, sums, BatchNorm over all of them.

Processes come from ``torchrun``; without it there is one. Gradients and statistics travel by NCCL
on GPUs and by Gloo on CPUs. Counts that Python needs travel by Gloo in any case, so that no GPU has
to be waited for.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from posewarper.models.devices import choose_device


@dataclass(frozen=True)
class Processes:
    """One process, the one that runs, among all of them.

    Attributes:
        rank: number of this one; 0 writes files.
        count: how many there are.
        local_count: how many on this machine.
        device: that this one computes on.
        control: the group for counts; None for a single process.
    """

    rank: int
    count: int
    local_count: int
    device: torch.device
    control: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Sums over all processes, in float64."""
        if self.count == 1:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return tensor.tolist()

    def any(self, *facts: object) -> list[bool]:
        """Of each fact, whether it holds in any process."""
        return [total > 0 for total in self.sums([float(bool(fact)) for fact in facts])]

    def first_text(self, text: str) -> str:
        """The text of the first process whose text is not empty."""
        if self.count == 1:
            return text
        texts: list[Any] = [None] * self.count
        dist.all_gather_object(texts, text, group=self.control)
        return next(filter(None, texts), "")

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier(group=self.control)

    def copy_buffers(self, module: nn.Module) -> None:
        """Running statistics of the first process to all."""
        if self.count > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)


@contextmanager
def join(device: str = "auto") -> Iterator[Processes]:
    """Meet the other processes of ``torchrun``, if any, and part from them at the end.

    Raises:
        ValueError: there is no such device, or one for all processes of ``torchrun``.
    """
    alone = not dist.is_initialized() and "WORLD_SIZE" not in os.environ
    if alone:
        own = choose_device(device, "loop.device")
    else:
        own = _own_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if own.type == "cuda":
        own = torch.device("cuda", own.index or 0)
        torch.cuda.set_device(own)
    if alone:
        yield Processes(0, 1, 1, own)
        return
    started = not dist.is_initialized()
    if started:
        dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        control = dist.new_group(backend="gloo")
        count = dist.get_world_size()
        local_count = int(os.environ.get("LOCAL_WORLD_SIZE", count))
        yield Processes(dist.get_rank(), count, local_count, own, control)
    finally:
        if started:
            dist.destroy_process_group()


def _own_device(name: str, local_rank: int) -> torch.device:
    """The device of one of the processes of this machine."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda:"):
        raise ValueError(
            f"loop.device: expected cuda with torchrun, where every process takes its own GPU, got "
            f"{name!r}"
        )
    if name == "cuda" and 0 < torch.cuda.device_count() <= local_rank:
        raise ValueError(
            f"loop.device: process {local_rank} of this machine finds only "
            f"{torch.cuda.device_count()} GPUs; start as many processes as there are GPUs"
        )
    return choose_device(f"cuda:{local_rank}" if name == "cuda" else name, "loop.device")


def share_gradients(module: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The module with gradients that are means over all processes; buffers stay as they are."""
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    # The first name is that from PyTorch 2.15 on.
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(
        module,
        device_ids=[device.index] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **options,
    )


class _SumOfAll(torch.autograd.Function):
    """The sum of a tensor over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _SumOfAll.forward(ctx, gradients[0])


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that normalises by the statistics of all processes, for CPUs.

    torch's ``SyncBatchNorm`` does that on GPUs only. Processes may have batches of different sizes,
    also none.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        sums = torch.cat([x.sum((0, 2, 3)), x.new_tensor([x.numel() / self.num_features])])
        sums = _SumOfAll.apply(sums)  # [C + 1]
        count = sums[-1].detach().clamp_min(1)
        mean = sums[:-1] / count
        centred = x - mean[:, None, None]
        # Two passes: the difference of mean squares would lose digits.
        variance = _SumOfAll.apply(centred.square().sum((0, 2, 3))) / count
        self._track(mean.detach(), variance.detach(), count)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        output = torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None])
        return output.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked += 1
        unbiased = variance * count / (count - 1).clamp_min(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)


def share_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with BatchNorm over all processes; parameters and buffers stay the same."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                shared = SharedBatchNorm2d(child.num_features, child.eps, child.momentum)
                shared.weight, shared.bias = child.weight, child.bias
                shared.running_mean, shared.running_var = child.running_mean, child.running_var
                shared.num_batches_tracked = child.num_batches_tracked
                shared.train(child.training)
                setattr(module, name, shared)
    return network
