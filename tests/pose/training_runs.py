"""A small data set and small runs, for the tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from posewarper.data.crops import Augmentation
from posewarper.data.synthetic import write_dataset
from posewarper.training import (
    DataConfig,
    LoopConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingResult,
    train,
)

BACKBONE = {"width": 8, "modules": (1, 1), "blocks": 1, "stem_width": 16, "stem_blocks": 1}
HEAD = {"head_width": 16, "head_blocks": 2, "dilations": (1, 2, 4)}
SOFTMAX = {"model": {**BACKBONE, "softmax_sigma": 1.5}, "loss": {"kind": "cross_entropy"}}


def write_videos(folder: Path) -> None:
    """30 people to learn from and 16 to validate on."""
    write_dataset(
        folder, videos={"train": 2, "val": 1}, frames=8, size_wh=(96, 72), seed=3, progress=False
    )


def run(
    root: Path,
    out: Path,
    stage: str = "pose",
    init: Path | None = None,
    *,
    data: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    loss: dict[str, Any] | None = None,
    optimizer: dict[str, Any] | None = None,
    schedule: dict[str, Any] | None = None,
    loop: dict[str, Any] | None = None,
    val: bool = True,
    **others: Any,
) -> TrainingResult:
    """``train`` on what ``write_videos`` wrote, with small defaults."""
    labels = root / "annotations"
    crops = {"crop_wh": (64, 96), "sigma": 1.5} if stage == "pose" else {}
    given = {
        "train": labels / "posetrack_train.json",
        "val": labels / "posetrack_val.json" if val else None,
        "images": root,
        "workers": 0,
    }
    return train(
        DataConfig(**{**given, **crops, **(data or {})}),
        out,
        stage,  # type: ignore[arg-type]
        init,
        model=ModelConfig(**((BACKBONE if stage == "pose" else HEAD) if model is None else model)),
        augmentation=Augmentation(scale_factor=0.2, rotation_factor=20),
        loss=LossConfig(**(loss or {})),
        optimizer=OptimizerConfig(**{"lr": 1e-3, **(optimizer or {})}),
        schedule=ScheduleConfig(**(schedule or {})),
        loop=LoopConfig(**{"epochs": 2, "batch_size": 8, "device": "cpu", **(loop or {})}),
        progress=False,
        **others,
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a model file."""
    return torch.load(path, weights_only=True)["model"]


def losses(result: TrainingResult) -> list[tuple[Any, ...]]:
    """What a run learned and how well, without times."""
    names = ("epoch", "step", "lr", "train_loss", "train_pck", "val_loss", "val_pck")
    return [tuple(row[name] for name in names) for row in result.history]
