"""The README's table of ``posewarper fit``, from the results of the fits that were run.

posewarper fit flies.mp4 --labels every-7th.json --truth dense.json --out flies
cp flies/results.json "benchmarks/results/own-video/two flies, real.json"     # the name is shown
python -m benchmarks.own_video_table          # --check: change nothing, compare
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.report import keep_readme

FOLDER = results.FOLDER / "own-video"
BEGIN, END = "<!-- own-video:begin -->", "<!-- own-video:end -->"
_METHODS = {
    "warp": "**posewarper fit**",
    "single": "single-frame network",
    "flow": "optical flow",
    "flow-both": "optical flow, both sides",
    "linear": "interpolation",
    "copy": "copy",
}
# Steps that serve the comparison only.
_NOT_COUNTED = ("measure",)


def load(folder: Path = FOLDER) -> dict[str, Any]:
    """Results by the name of the video."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def section(found: dict[str, Any]) -> str:
    """The table as Markdown."""
    if not found:
        return "No results yet."
    lines = [
        "Labels of the other frames, compared with the truth: share of joints within 0.02 / 0.05 / "
        "0.1 of the size of the animal or person. The single-frame network is the one that `fit` "
        "trains. Minutes on two cores; one seed each.",
        "",
        "| video | labelled | minutes | " + " | ".join(_METHODS.values()) + " |",
        "| :-- | --: | --: |" + " --: |" * len(_METHODS),
    ]
    for name, result in found.items():
        seconds = sum(
            value
            for title, value in result["seconds"].items()
            if not any(word in title for word in _NOT_COUNTED)
        )
        cells = [
            " / ".join(f"{value:.3f}".lstrip("0") for value in of_method["pck"].values())
            for of_method in (result["hidden"][method] for method in _METHODS)
        ]
        labelled = f"{result['labelled_by_hand']} of {result['frames']}"
        lines.append(f"| {name} | {labelled} | {seconds / 60:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    return keep_readme(
        arguments,
        "benchmarks.own_video_table",
        FOLDER,
        lambda folder: section(load(folder)),
        (BEGIN, END),
    )


if __name__ == "__main__":
    sys.exit(main())
