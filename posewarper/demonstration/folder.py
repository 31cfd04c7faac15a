"""The folder of a demo: its files, and its settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from posewarper.data.synthetic import Difficulty
from posewarper.steps import StepFolder

_MADE = (
    "videos", "labels", "runs", "propagated", "predictions", "results.json", "report.html",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What a demo is made of; see ``demo``."""

    seed: int
    train_videos: int
    val_videos: int
    frames: int
    people: int
    pose_samples: int
    warp_samples: int
    threshold: float
    difficulty: Difficulty


class DemoFolder(StepFolder):
    """Where the files of a demo are.

    Raises:
        ValueError: the folder holds a demo with other settings, or something else.
    """

    def __init__(self, root: Path, settings: Settings, restart: bool):
        super().__init__(root, "demo", asdict(settings), _MADE, restart)
        self.videos = root / "videos"
        self.sparse = root / "labels" / "sparse.json"
        self.augmented = root / "labels" / "augmented.json"
        self.pose, self.warp = root / "runs" / "pose", root / "runs" / "warp"
        self.pose_augmented = root / "runs" / "pose-augmented"

    def dense(self, split: str) -> Path:
        """Complete labels of a split of the videos."""
        return self.videos / "annotations" / f"posetrack_{split}.json"

    def propagated(self, name: str) -> Path:
        """Labels of all frames of the training videos, by one of ``PROPAGATIONS``."""
        return self.root / "propagated" / f"{name}.json"

    def predicted(self, name: str) -> Path:
        """Poses of the validation videos: single, aggregate or augmented."""
        return self.root / "predictions" / f"{name}.json"
