"""Numbers for predictions: PoseTrack AP and MOTA, OKS AP, PCK; prediction files; result files."""

from posewarper.evaluation.datasets import aligned_keypoints, compare_datasets
from posewarper.evaluation.oks import OksResult, evaluate_oks
from posewarper.evaluation.pck import (
    PckResult,
    box_lengths,
    evaluate_pck,
    head_lengths,
    point_extents,
    torso_lengths,
)
from posewarper.evaluation.posetrack_ap import PoseTrackResult, evaluate_posetrack, evaluate_videos
from posewarper.evaluation.posetrack_files import VideoPoses, read_video
from posewarper.evaluation.posetrack_mot import TrackingResult
from posewarper.evaluation.prediction_datasets import official_names, write_predictions
from posewarper.evaluation.prediction_files import write_coco_results, write_posetrack
from posewarper.evaluation.results import Table, to_json, write_csv, write_json

__all__ = [
    "OksResult",
    "PckResult",
    "PoseTrackResult",
    "Table",
    "TrackingResult",
    "VideoPoses",
    "aligned_keypoints",
    "box_lengths",
    "compare_datasets",
    "evaluate_oks",
    "evaluate_pck",
    "evaluate_posetrack",
    "evaluate_videos",
    "head_lengths",
    "official_names",
    "point_extents",
    "read_video",
    "to_json",
    "torso_lengths",
    "write_coco_results",
    "write_csv",
    "write_json",
    "write_posetrack",
    "write_predictions",
]
