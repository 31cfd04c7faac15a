"""Optimiser, learning rate, moving average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from posewarper.training.config import OptimizerConfig, ScheduleConfig


def make_optimizer(config: OptimizerConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Of the parameters that want a gradient. Unless ``decay_all``, those of one dimension (biases,
    scales of normalisation) do not decay, nor do the warp's kernels: they start as the identity,
    and smaller ones lower all heatmaps.
    """
    decaying: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decays = config.decay_all or (parameter.ndim > 1 and name != "warp.weight")
            (decaying if decays else others).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((decaying, config.weight_decay), (others, 0.0))
        if parameters
    ]
    if config.kind == "sgd":
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov
        )
    kind = torch.optim.AdamW if config.kind == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr)


def learning_rate(
    schedule: ScheduleConfig, highest: float, step: int, steps_per_epoch: int, epochs: int
) -> float:
    """The rate of one step of a run.

    Args:
        schedule: its shape.
        highest: the rate without drops.
        step: from 0.
        steps_per_epoch: optimiser steps of each epoch.
        epochs: of the run.
    """
    total = steps_per_epoch * epochs
    warm = round(schedule.warmup * total)
    if step < warm:
        return highest * (step + 1) / warm
    if schedule.kind == "cosine":
        return highest * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(total - warm, 1)))
    if schedule.kind == "step":
        epoch = step // steps_per_epoch
        return highest * schedule.factor ** sum(epoch >= m for m in schedule.milestones)
    return highest


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential average of weights and of running statistics; early on it forgets faster, so
    that the initial weights do not linger in short runs.
    """

    def update(averages: Sequence[Tensor], values: Sequence[Tensor], count: Tensor | int) -> None:
        seen = int(count)
        now = min(decay, (1 + seen) / (10 + seen))
        get_ema_multi_avg_fn(now)(averages, values, count)

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)


def is_finite(*modules: nn.Module) -> bool:
    """Whether all parameters and buffers are numbers."""
    tensors = [tensor for module in modules for tensor in module.state_dict().values()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())
