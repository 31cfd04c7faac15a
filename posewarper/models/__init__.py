"""The model: backbone, warp head, checkpoints."""

from posewarper.models.checkpoints import (
    load_checkpoint,
    load_hrnet,
    load_posewarper,
    save_checkpoint,
)
from posewarper.models.folding import FoldedWarper, folded
from posewarper.models.hrnet import HEATMAP_STRIDE, HRNET_SIZES, HRNet, channels_last
from posewarper.models.pose_model import PoseModel, PoseSpec, load_model, save_model
from posewarper.models.warper import WINDOWS, PoseWarper, WarperConfig, Window

__all__ = [
    "HEATMAP_STRIDE",
    "HRNET_SIZES",
    "WINDOWS",
    "FoldedWarper",
    "HRNet",
    "PoseModel",
    "PoseSpec",
    "PoseWarper",
    "WarperConfig",
    "Window",
    "channels_last",
    "folded",
    "load_checkpoint",
    "load_hrnet",
    "load_model",
    "load_posewarper",
    "save_checkpoint",
    "save_model",
]
