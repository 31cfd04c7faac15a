"""Training as in 2019, written plainly; see ``benchmarks.baseline``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.baseline import BaselineWarper
from posewarper.models import PoseModel


class BaselineTraining:
    """Steps of one stage, with Adam.

    Args:
        model: where it starts.
        stage: "pose": all of the backbone, from single frames; "warp": the head, from pairs.
        device: where to.
        optimizer: class of ``torch.optim``.
        rate: of learning.
    """

    def __init__(
        self, model: PoseModel, stage: str, device: str, optimizer: Any = torch.optim.Adam,
        rate: float = 1e-4,
    ) -> None:  # fmt: skip
        self.stage = stage
        warper = BaselineWarper(model).to(device)
        self.network: nn.Module = warper if stage == "warp" else warper.backbone
        self.network.train()
        if stage == "warp":
            warper.backbone.requires_grad_(False).eval()
        self.optimizer = optimizer([p for p in self.network.parameters() if p.requires_grad], rate)

    def step(self, images: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """One step; the loss, behaviour of 2019.

        Args:
            images: normalised crops ``[B, F, 3, H, W]``, the key frame first.
            target: ``[B, J, h, w]``.
            weight: of joints, ``[B, J]``.
        """
        output = self.network(*images.unbind(1))
        error = (weight[:, :, None, None] * (output - target)) ** 2
        loss = 0.5 * error.mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()
