"""The README's tables of the demo, from the results of all seeds that were run.

posewarper demo --out demo --seed 3
cp demo/results.json benchmarks/results/demo/seed-3.json
python -m benchmarks.demo_table          # --check: change nothing, compare
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.report import keep_readme

FOLDER = results.FOLDER / "demo"
BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"
_GROUPS = ("all", "clear", "blurred", "occluded")
_PROPAGATION = {
    "warp": "**warp: both labels and the frame's own heatmaps**",
    "warp-nearest": "warp: nearest label (2019)",
    "single": "single-frame network, trained on the same labels",
    "flow": "dense optical flow from the nearest label",
    "flow-both": "dense optical flow from both labels",
    "linear": "linear interpolation",
    "copy": "copy of the nearest label",
}
_MODELS = {
    "single": "single frames, trained on the sparse labels",
    "augmented": "**single frames, trained on propagated labels too**",
    "aggregate": "**aggregated over 7 frames**, trained on the sparse labels",
}


def load(folder: Path = FOLDER) -> dict[int, Any]:
    """Results by seed."""
    found = sorted(folder.glob("seed-*.json"), key=lambda path: int(path.stem.split("-")[1]))
    return {int(path.stem.split("-")[1]): json.loads(path.read_text()) for path in found}


def _spread(values: Sequence[float], digits: int = 1) -> str:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def _pckh(found: dict[int, Any], kind: str, names: dict[str, str]) -> list[str]:
    lines = [
        "| | " + " | ".join((*_GROUPS, "all, PCKh@0.25")) + " |",
        "| :-- |" + " --: |" * (len(_GROUPS) + 1),
    ]
    for name, title in names.items():
        tables = [result[kind][name] for result in found.values()]
        cells = [_spread([table["PCKh@0.5"][group] for table in tables]) for group in _GROUPS]
        cells.append(_spread([table["PCKh@0.25"]["all"] for table in tables]))
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def section(found: dict[int, Any]) -> str:
    """The tables as Markdown."""
    if not found:
        return "No results yet."
    seeds = ", ".join(map(str, found))
    held = [
        sum(result["claims"][claim]["low"] > 0 for result in found.values()) for claim in range(3)
    ]
    gains = [
        _spread([result["claims"][claim]["mean"] for result in found.values()])
        for claim in range(3)
    ]
    minutes = _spread([sum(result["seconds"].values()) / 60 for result in found.values()])
    first = next(iter(found.values()))["data"]
    lines = [
        f"PCKh@0.5 in percent, mean (lowest–highest) of the seeds {seeds}, all that were run "
        f"with these settings; {minutes} minutes each on two cores. "
        f"{first['sparse']['labelled_frames']} of "
        f"{first['sparse']['frames']} frames are labelled.",
        "",
        "Labels of the other frames of the same videos (1):",
        "",
        *_pckh(found, "propagation", _PROPAGATION),
        "",
        "Poses in new videos (2, 3):",
        "",
        *_pckh(found, "models", _MODELS),
        "",
        f"Gain over the best baseline: (1) {gains[0]}, (2) {gains[1]}, (3) {gains[2]} points. The "
        f"95 % interval over videos lies above zero for {held[0]}, {held[1]} and {held[2]} of "
        f"{len(found)} seeds.{_strict(found)}",
    ]
    return "\n".join(lines)


def _strict(found: dict[int, Any]) -> str:
    """What has to be said where a baseline is ahead at the strict limit."""

    def mean(name: str) -> float:
        values = [result["propagation"][name]["PCKh@0.25"]["all"] for result in found.values()]
        return sum(values) / len(values)

    ahead = [name for name in ("flow", "flow-both", "single") if mean(name) > mean("warp")]
    return f" At the strict limit {' and '.join(ahead)} gives closer labels." if ahead else ""


def main(arguments: Sequence[str] | None = None) -> int:
    return keep_readme(
        arguments,
        "benchmarks.demo_table",
        FOLDER,
        lambda folder: section(load(folder)),
        (BEGIN, END),
    )


if __name__ == "__main__":
    sys.exit(main())
