"""What a trained model is for: predicting, propagating labels, aggregating windows of frames."""

from posewarper.inference.aggregation import Predicted, Scoring, predict_boxes
from posewarper.inference.nms import joint_sigmas, oks_between, oks_nms, soft_oks_nms
from posewarper.inference.predictor import PRECISIONS, PosePredictor, choose_device

__all__ = [
    "PRECISIONS",
    "PosePredictor",
    "Predicted",
    "Scoring",
    "choose_device",
    "joint_sigmas",
    "oks_between",
    "oks_nms",
    "predict_boxes",
    "soft_oks_nms",
]
