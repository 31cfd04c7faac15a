"""PoseWarper: pose estimation in video, learned from sparse labels (arXiv 1906.04016)."""

__version__ = "0.1.0"
