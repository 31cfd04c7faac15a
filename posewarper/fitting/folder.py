"""The folder of a fit: its files, and what it was made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posewarper.data.tables import Video
from posewarper.models.pose_model import FITTED
from posewarper.steps import StepFolder
from posewarper.training.run_folder import FINAL

_MADE = (
    "inputs", "runs", "labels.json", FITTED, "comparison.npz", "overlays", "results.json",
    "report.html",
)  # fmt: skip


class FitFolder(StepFolder):
    """Where the files of a fit are.

    Raises:
        ValueError: the folder holds a fit with other settings, or something else.
    """

    def __init__(self, root: Path, settings: Mapping[str, Any], restart: bool):
        super().__init__(root, "fit", settings, _MADE, restart)
        self.human = root / "inputs" / "labels.json"
        self.training = root / "inputs" / "training.json"
        self.truth = root / "inputs" / "truth.json"
        self.pose, self.warp = root / "runs" / "pose", root / "runs" / "warp"
        self.trained = self.warp / FINAL
        self.labels = root / "labels.json"
        self.model = root / FITTED
        self.comparison = root / "comparison.npz"
        self.results = root / "results.json"
        self.report = root / "report.html"

    def overlay(self, video: Video) -> Path:
        """The film of a video."""
        return self.root / "overlays" / f"{video.name}.mp4"


def identity(paths: Sequence[Path]) -> dict[str, str]:
    """What tells whether files changed: of small ones the content, else size and time of change;
    of folders the names inside.
    """
    found = {}
    for path in paths:
        if path.is_dir():
            text = "\n".join(sorted(p.name for p in path.iterdir())).encode()
        elif path.stat().st_size < 50_000_000:
            text = path.read_bytes()
        else:
            text = f"{path.stat().st_size} {path.stat().st_mtime_ns}".encode()
        found[str(path)] = hashlib.sha256(text).hexdigest()[:16]
    return found
