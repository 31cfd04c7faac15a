"""Small models with random weights under which every part matters, ready for prediction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from slow_model import filled, random_state

from posewarper.models import PoseModel, WarperConfig

SMALL = WarperConfig(
    width=8, modules=(1, 1), blocks=1, stem_width=16, stem_blocks=1, head_width=16, head_blocks=2,
    dilations=(1, 2, 4),
)  # fmt: skip
CROP_WH = (64, 96)


def random_model(
    seed: int = 0, *, joints: int = 17, head: bool = True, **options: Any
) -> PoseModel:
    """With a warp head, or without one."""
    config = replace(SMALL, joints=joints)
    torch.manual_seed(seed)
    network = filled(config, random_state(config))
    options = {"crop_wh": CROP_WH, **options}
    return PoseModel(network if head else network.backbone, config, **options)
