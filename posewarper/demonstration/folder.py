"""The folder of a demo: its files, its settings, and which steps are done."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posewarper.data.annotations import read_json, write_json
from posewarper.data.synthetic import Difficulty

_SETTINGS = "settings.json"
_KNOWN_BY = {"seed", "train_videos", "val_videos", "difficulty"}
_FOLDERS = ("videos", "labels", "runs", "propagated", "predictions")
_FILES = ("seconds.json", "results.json", "report.html")


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


class DemoFolder:
    """Where the files of a demo are, which of its steps are done, and how long they took.

    Raises:
        ValueError: the folder holds a demo with other settings, or something else.
    """

    def __init__(self, root: Path, settings: Settings, restart: bool):
        self.root = root
        self.videos = root / "videos"
        self.sparse = root / "labels" / "sparse.json"
        self.augmented = root / "labels" / "augmented.json"
        self.pose, self.warp = root / "runs" / "pose", root / "runs" / "warp"
        self.pose_augmented = root / "runs" / "pose-augmented"
        self._seconds = root / "seconds.json"
        self._prepare(asdict(settings), restart)

    def dense(self, split: str) -> Path:
        """Complete labels of a split of the videos."""
        return self.videos / "annotations" / f"posetrack_{split}.json"

    def propagated(self, name: str) -> Path:
        """Labels of all frames of the training videos, by one of ``PROPAGATIONS``."""
        return self.root / "propagated" / f"{name}.json"

    def predicted(self, name: str) -> Path:
        """Poses of the validation videos: single, aggregate or augmented."""
        return self.root / "predictions" / f"{name}.json"

    @property
    def seconds(self) -> dict[str, float]:
        """What each step took."""
        return read_json(self._seconds) if self._seconds.exists() else {}

    def run(self, title: str, outputs: Sequence[Path], work: Callable[[], None]) -> None:
        """A step, unless all that it makes is there."""
        if all(path.exists() for path in outputs):
            return
        print(f"{title} ...", flush=True)
        start = time.perf_counter()
        work()
        spent = self.seconds
        spent[title] = spent.get(title, 0.0) + time.perf_counter() - start
        write_json(self._seconds, spent)

    def _prepare(self, settings: dict[str, Any], restart: bool) -> None:
        place = self.root / _SETTINGS
        if place.exists():
            known = read_json(place)
            settings = json.loads(json.dumps(settings))  # lists in place of tuples
            if known == settings and not restart:
                return
            if not restart:
                changed = [
                    f"{name}: {known.get(name)} -> {value}"
                    for name, value in settings.items()
                    if known.get(name) != value
                ]
                raise ValueError(
                    f"{self.root}: holds a demo with other settings ({'; '.join(changed)}); "
                    "choose another folder, or --restart true to start over"
                )
            self._clear(known)
        elif self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise ValueError(f"out: {self.root} exists and holds no demo; choose another folder")
        write_json(place, settings)

    def _clear(self, known: Any) -> None:
        """Remove what a demo made, and nothing else: a wrong folder must not be lost."""
        if not isinstance(known, dict) or not set(known) >= _KNOWN_BY:
            raise ValueError(f"out: {self.root} holds no demo; choose another folder")
        for name in _FOLDERS:
            shutil.rmtree(self.root / name, ignore_errors=True)
        for name in _FILES:
            (self.root / name).unlink(missing_ok=True)
