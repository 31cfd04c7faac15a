"""The model: backbone, warp head, checkpoints."""

from posewarper.models.checkpoints import (
    load_checkpoint,
    load_hrnet,
    load_posewarper,
    save_checkpoint,
)
from posewarper.models.hrnet import HEATMAP_STRIDE, HRNET_SIZES, HRNet
from posewarper.models.warper import WINDOWS, PoseWarper, WarperConfig, Window

__all__ = [
    "HEATMAP_STRIDE",
    "HRNET_SIZES",
    "WINDOWS",
    "HRNet",
    "PoseWarper",
    "WarperConfig",
    "Window",
    "load_checkpoint",
    "load_hrnet",
    "load_posewarper",
    "save_checkpoint",
]
