"""What a trained model is for: predicting, propagating labels, aggregating windows of frames."""

from posewarper.data.tracks import labels_of
from posewarper.inference.aggregation import Predicted, Scoring, predict_boxes
from posewarper.inference.augmentation import augment_labels
from posewarper.inference.loading import load_predictor
from posewarper.inference.nms import joint_sigmas, oks_between, oks_nms, soft_oks_nms
from posewarper.inference.onnx_predictor import OnnxPredictor
from posewarper.inference.predictor import PRECISIONS, PosePredictor, Predictor, choose_device
from posewarper.inference.propagation import (
    PropagationOptions,
    Propagator,
    make_propagator,
    propagate_labels,
)

__all__ = [
    "PRECISIONS",
    "OnnxPredictor",
    "PosePredictor",
    "Predicted",
    "Predictor",
    "PropagationOptions",
    "Propagator",
    "Scoring",
    "augment_labels",
    "choose_device",
    "joint_sigmas",
    "labels_of",
    "load_predictor",
    "make_propagator",
    "oks_between",
    "oks_nms",
    "predict_boxes",
    "propagate_labels",
    "soft_oks_nms",
]
