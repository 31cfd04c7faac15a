"""What was found, for people: poses on frames, clips, figures, and one HTML page with all of it."""

from posewarper.report.figures import (
    distance_curves,
    learning_curves,
    method_bars,
    pck_curves,
    read_log,
    risk_coverage,
    risk_coverage_curves,
)
from posewarper.report.media import Clip, Still, animation, still
from posewarper.report.overlays import (
    PALETTE,
    captioned,
    draw_differences,
    draw_poses,
    side_by_side,
)
from posewarper.report.page import Column, Picture, Report, Section, Table
from posewarper.report.video_file import VideoWriter

__all__ = [
    "PALETTE",
    "Clip",
    "Column",
    "Picture",
    "Report",
    "Section",
    "Still",
    "Table",
    "VideoWriter",
    "animation",
    "captioned",
    "distance_curves",
    "draw_differences",
    "draw_poses",
    "learning_curves",
    "method_bars",
    "pck_curves",
    "read_log",
    "risk_coverage",
    "risk_coverage_curves",
    "side_by_side",
    "still",
]
