"""The folder of a run: what training writes, and how it finds its way back.

last.pt         all that training needs to go on as if it had not stopped
best.pt         model with the best validation score (without validation: the newest)
final.pt        model after the last epoch
config.yaml     the configuration; can be given to ``--config`` again
versions.json   of Python, PyTorch and others
log.csv         a row per epoch
tensorboard/    the same numbers as events
"""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from posewarper.files import whole_file
from posewarper.models import PoseModel, save_model
from posewarper.models.pose_model import BEST
from posewarper.models.weight_files import read_content

FORMAT = 1
_VERSIONS = ("posewarper", "torch", "torchvision", "numpy", "opencv-python-headless")
LAST, FINAL = "last.pt", "final.pt"
COLUMNS = (
    "epoch", "step", "lr", "train_loss", "train_pck", "val_loss", "val_pck", "samples_per_second",
    "seconds",
)  # fmt: skip


class RunFolder:
    """Where a run is written to. Only the first process has one.

    Args:
        path: made if it is not there.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._events: SummaryWriter | None = None

    def clear(self) -> None:
        """Forget a former run; files that are not of a run stay."""
        for name in (LAST, BEST, FINAL, "log.csv", "config.yaml", "versions.json"):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / "tensorboard", ignore_errors=True)

    def write_setting(self, config: Mapping[str, Any], device: torch.device) -> None:
        """``config.yaml`` and ``versions.json``."""
        with whole_file(self.path / "config.yaml") as partial:
            partial.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
        versions = {
            "python": platform.python_version(),
            "platform": platform.platform(),
            **{name: _version(name) for name in _VERSIONS},
            "cuda": torch.version.cuda,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        }
        with whole_file(self.path / "versions.json") as partial:
            partial.write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")

    def save_state(self, state: Mapping[str, Any]) -> None:
        """``last.pt``; the former one stays until the new one is whole."""
        with whole_file(self.path / LAST) as partial, open(partial, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())

    def save_model(self, model: PoseModel, name: str) -> None:
        """``best.pt`` or ``final.pt``."""
        save_model(model, self.path / name)

    def write_log(self, history: Sequence[Mapping[str, Any]]) -> None:
        """``log.csv`` as a whole: after a crash no row is there twice."""
        path = self.path / "log.csv"
        with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(history)

    def add_events(self, row: Mapping[str, Any]) -> None:
        """One row for TensorBoard."""
        step = row["step"]
        if self._events is None:
            self._events = SummaryWriter(str(self.path / "tensorboard"), purge_step=step)
        for name, value in row.items():
            if name not in ("epoch", "step") and value != "":
                self._events.add_scalar(name.replace("_", "/", 1), value, step)
        self._events.flush()

    def close(self) -> None:
        """Ends the file of events."""
        if self._events is not None:
            self._events.close()


def _version(name: str) -> str | None:
    """Of an installed package; None for one that runs from its source tree."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def read_state_file(folder: Path) -> dict[str, Any] | None:
    """The content of ``last.pt``, or None if there is none.

    Raises:
        ValueError: it is damaged or of a newer version; names the file.
    """
    path = folder / LAST
    if not path.exists():
        return None
    state = read_content(path)
    if not isinstance(state, dict) or "format" not in state or "position" not in state:
        raise ValueError(f"{path}: expected the state of a run; --restart true starts over")
    if state["format"] > FORMAT:
        raise ValueError(
            f"{path}: written by a newer version of posewarper (format {state['format']}, this "
            f"one reads up to {FORMAT})"
        )
    return state


def check_data(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Compare what a run began with and what is there now; older versions noted less.

    Raises:
        ValueError: they differ; says in what.
    """
    for name, value in new.items():
        was = old.get(name, value)
        if was == value:
            continue
        differ = f"its run had {was} {name}, now there are {value}"
        if name.startswith("fingerprint"):
            what = name.removeprefix("fingerprint of ")
            differ = f"its run began with other files, boxes or keypoints in {what}"
        raise ValueError(f"{folder}: {differ}; --restart true starts over")
