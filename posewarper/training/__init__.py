"""Training of both stages: the single-frame model, and the warp head on top of it."""

from posewarper.training.command import TrainingResult, train
from posewarper.training.config import (
    DataConfig,
    LoopConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
)
from posewarper.training.recipes import recipe_names, recipe_path

__all__ = [
    "DataConfig",
    "LoopConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RunConfig",
    "ScheduleConfig",
    "TrainingResult",
    "recipe_names",
    "recipe_path",
    "train",
]
