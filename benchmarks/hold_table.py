"""What holding crop boxes costs in accuracy, and how many passes of the backbone it saves.

posewarper demo --out demo               # trained networks, and new videos of which all is known
python -m benchmarks.hold_table --demo demo     # measures, and writes the table of docs/predict.md
python -m benchmarks.hold_table                 # the table again; --check: change nothing, compare

People of the demo's new videos are predicted from windows of frames in their true boxes, which are
held in both ways that there are: those of a file, known in advance, and those around the last pose,
for which the true boxes stand in here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import results
from benchmarks.report import keep
from posewarper.data.annotations import load_coco
from posewarper.data.dataset import Boxes, annotated_boxes
from posewarper.data.tables import Floats, Ints, PoseDataset
from posewarper.data.video import FrameSource
from posewarper.evaluation import aligned_keypoints, evaluate_pck, head_lengths
from posewarper.files import write_json
from posewarper.inference import PosePredictor, predict_boxes
from posewarper.inference.holding import hold_boxes
from posewarper.models import PoseModel, load_model
from posewarper.streaming.boxes import HeldBoxes, overlaps
from posewarper.streaming.poses import Places

HOLDS = (1, 2, 4, 8, 16)
FILE = results.FOLDER / "hold.json"
PAGE = results.ROOT / "docs" / "predict.md"
MARKERS = "<!-- hold:begin -->", "<!-- hold:end -->"
_THRESHOLDS = (0.5, 0.25)


class _Counting(PosePredictor):
    """Counts the crops that pass through the backbone."""

    crops = 0

    def heatmaps(self, crops: Tensor) -> Tensor:
        self.crops += len(crops)
        return super().heatmaps(crops)


def measure(demo: Path, videos: int | None = None) -> dict[str, Any]:
    """The numbers of the table.

    Args:
        demo: folder of ``posewarper demo``.
        videos: how many videos, at most.

    Returns:
        Rows by way ("file", "last pose"), and what they were measured on.
    """
    model = load_model(demo / "runs" / "warp")
    truth = load_coco(demo / "videos" / "annotations" / "posetrack_val.json")
    if videos is not None:
        truth = truth.select(videos=np.arange(min(videos, len(truth.videos))))
    boxes = annotated_boxes(truth)
    tracks = truth.people.track_id[boxes.row]
    rows: dict[str, list[dict[str, Any]]] = {"file": [], "last pose": []}
    for way, of_way in rows.items():
        for hold in HOLDS:
            held = _held_in_advance if way == "file" else _held_as_they_come
            given = held(boxes, tracks, hold, model)
            of_way.append({"hold": hold, **_row(model, truth, boxes, given, tracks, demo)})
            print(way, of_way[-1], flush=True)
    fps = json.loads((demo / "videos" / "synthetic.json").read_text(encoding="utf-8")).get("fps")
    return {
        "videos": len(truth.videos),
        "people": len(boxes),
        "fps": fps,
        "window": list(model.config.window.deltas),
        "thresholds": list(_THRESHOLDS),
        "rows": rows,
    }


def _held_in_advance(boxes: Boxes, tracks: Ints, hold: int, model: PoseModel) -> Floats:
    held = boxes.bbox.copy()
    for video in np.unique(boxes.video):
        rows = boxes.video == video
        places = Places.make(boxes.bbox[rows])
        box = hold_boxes(boxes.number[rows], tracks[rows], places.box, hold, model)
        held[rows] = box[:, :4]
    return held


def _held_as_they_come(boxes: Boxes, tracks: Ints, hold: int, model: PoseModel) -> Floats:
    held = boxes.bbox.copy()
    for video in np.unique(boxes.video):
        holder = HeldBoxes(hold, model)
        for number in np.unique(boxes.number[boxes.video == video]).tolist():
            rows = np.flatnonzero((boxes.video == video) & (boxes.number == number))
            places = Places.make(boxes.bbox[rows], track_id=tracks[rows])
            held[rows] = holder(number, places).box[:, :4]
    return held


def _row(
    model: PoseModel, truth: PoseDataset, boxes: Boxes, held: Floats, tracks: Ints, demo: Path
) -> dict[str, Any]:
    predictor = _Counting(model, device="cpu")
    found = predict_boxes(
        predictor,
        replace(boxes, bbox=held),
        FrameSource(demo / "videos", cached_frames=256),
        truth,
        track_id=tracks,
        progress=False,
    )
    points = aligned_keypoints(truth, found.datasets["aggregate"])
    people = truth.people
    labelled = people.keypoints[:, :, 2] > 0
    lengths = head_lengths(people.head_box)
    pck = evaluate_pck(
        points,
        np.where(labelled[..., None], people.keypoints[:, :, :2], np.nan),
        lengths,
        skeleton=truth.skeleton,
        thresholds=_THRESHOLDS,
    )
    overlap = [overlaps(a, b[None])[0] for a, b in zip(boxes.bbox, held, strict=True)]
    return {
        "pckh": pck.pooled.tolist(),
        "passes": predictor.crops / len(boxes),
        "overlap": float(np.mean(overlap)),
    }


def section(found: dict[str, Any]) -> str:
    """The table as Markdown."""
    limits = " / ".join(f"{limit:g}" for limit in found["thresholds"])
    lines = [
        f"Synthetic videos of the demo at {found['fps']:g} frames per second, "
        f"{found['people']} boxes of people in {found['videos']} videos, one seed, windows of "
        f"{len(found['window'])} frames; passes of the backbone per person and frame, and PCKh@"
        f"{limits} in percent:",
        "",
        "| `--hold` | passes | boxes of a file | passes | boxes around the last pose |",
        "| --: | --: | --: | --: | --: |",
    ]
    for pair in zip(found["rows"]["file"], found["rows"]["last pose"], strict=True):
        cells = []
        for row in pair:
            scores = " / ".join(f"{value:.1f}" for value in row["pckh"])
            cells += [f"{row['passes']:.2f}", scores]
        lines.append(f"| {pair[0]['hold']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hold_table")
    parser.add_argument("--demo", type=Path, help="folder of a demo: measure")
    parser.add_argument("--videos", type=int, help="how many of its videos, at most")
    parser.add_argument("--results", type=Path, default=FILE)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="change nothing, compare")
    options = parser.parse_args(arguments)
    if options.demo is not None:
        write_json(options.results, measure(options.demo, videos=options.videos))
    found = json.loads(options.results.read_text(encoding="utf-8"))
    return keep(options.page, section(found), MARKERS, "benchmarks.hold_table", options.check)


if __name__ == "__main__":
    torch.set_num_threads(min(torch.get_num_threads(), 2))
    sys.exit(main())
