"""How results of any metric are shown and stored: text table, JSON, CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from posewarper.files import whole_file

# What the columns of the usual PoseTrack table are the means of.
JOINT_GROUPS: Mapping[str, tuple[str, ...]] = {
    "Head": ("head_top", "head_bottom", "nose"),
    "Shoulder": ("right_shoulder", "left_shoulder"),
    "Elbow": ("right_elbow", "left_elbow"),
    "Wrist": ("right_wrist", "left_wrist"),
    "Hip": ("right_hip", "left_hip"),
    "Knee": ("right_knee", "left_knee"),
    "Ankle": ("right_ankle", "left_ankle"),
}


@dataclass(frozen=True)
class Table:
    """Numbers with names: one row per metric, one value per column; NaN where nothing is known."""

    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]

    def text(self, digits: int = 1) -> str:
        """The table for a terminal, columns aligned, "-" for NaN; ends without a line break."""
        lines = [["", *self.columns]]
        for name, values in self.rows.items():
            lines.append([name, *("-" if math.isnan(v) else f"{v:.{digits}f}" for v in values)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                [cells[0].ljust(widths[0])]
                + [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
            ).rstrip()
            for cells in lines
        )

    def csv(self) -> str:
        """The table as CSV: first the column names, "metric" being the first, then the rows."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("metric", *self.columns))
        writer.writerows((name, *map(float, values)) for name, values in self.rows.items())
        return text.getvalue()


class Result(Protocol):
    """What the results of all metrics can do."""

    def table(self, per_joint: bool = False) -> Table:
        """The numbers that a paper prints; ``per_joint`` adds what lies behind them."""

    def as_dict(self) -> dict[str, Any]:
        """All numbers, made of dicts, lists, strings and numbers only."""


def mean_without_nan(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Mean of the values that are not NaN; NaN where there is none."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else math.nan


def group_means(values: NDArray[np.float64], joints: Sequence[str]) -> dict[str, float]:
    """The columns Head Shoulder Elbow Wrist Hip Knee Ankle Mean from values per joint.

    A column with a NaN joint is NaN, as in the official evaluator. Mean is the mean over all
    joints that are not NaN, not the mean of the seven columns.

    Args:
        values: [J].
        joints: J names, among them the 15 of ``JOINT_GROUPS``.

    Raises:
        ValueError: a joint of a column is missing.
    """
    position = {joint: i for i, joint in enumerate(joints)}
    missing = [name for names in JOINT_GROUPS.values() for name in names if name not in position]
    if missing:
        raise ValueError(f"joints: expected the joints of PoseTrack, missing {', '.join(missing)}")
    groups = {
        group: float(np.mean([values[position[name]] for name in names]))
        for group, names in JOINT_GROUPS.items()
    }
    return groups | {"Mean": mean_without_nan(values)}


def write_text(path: str | Path, text: str) -> None:
    """Write a file as a whole or not at all; see ``whole_file``."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN: null takes its place."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(result: Result) -> str:
    """All numbers of a result as JSON; null where a number is not defined."""
    return json.dumps(_without_nan(result.as_dict()), indent=2, allow_nan=False) + "\n"


def write_json(result: Result, path: str | Path) -> None:
    """Write ``to_json``; see ``write_text``."""
    write_text(path, to_json(result))


def write_csv(result: Result, path: str | Path) -> None:
    """Write the table with all its columns as CSV; see ``write_text``."""
    write_text(path, result.table(per_joint=True).csv())
