"""The numbers of the demo: what ``results.json`` holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from posewarper.data.annotations import load_coco
from posewarper.data.sparsify import statistics
from posewarper.data.tables import Floats
from posewarper.demonstration.folder import DemoFolder
from posewarper.demonstration.measures import THRESHOLDS, Gain, Truth

#: Baselines of propagation, all of which it has to beat.
BASELINES = ("single", "copy", "linear", "flow", "flow-both")
MODELS = ("single", "augmented", "aggregate")


def truths(folder: DemoFolder) -> dict[str, Truth]:
    """The hidden labels of the training videos, and all of the validation videos."""
    dense, sparse = load_coco(folder.dense("train")), load_coco(folder.sparse)
    val = load_coco(folder.dense("val"))
    nothing = val.with_labels_of(np.zeros(len(val.frames), np.bool_))
    return {
        "train": Truth.of_split(folder.videos, "train", dense, sparse),
        "val": Truth.of_split(folder.videos, "val", val, nothing),
    }


def measure(folder: DemoFolder, propagations: Sequence[str]) -> dict[str, Any]:
    """Everything that the report says in numbers; PCKh in percent, gains in points."""
    truth = truths(folder)
    spread = {
        name: truth["train"].distances(load_coco(folder.propagated(name))) for name in propagations
    }
    found = {name: truth["val"].distances(load_coco(folder.predicted(name))) for name in MODELS}
    # Few people are further away: those who were outside the image in a labelled frame.
    gaps = np.intersect1d(truth["train"].gap, np.arange(1, 5))
    best = max(BASELINES, key=lambda name: truth["train"].pck(spread[name]))
    gains = [
        truth["train"].gain(spread["warp"], spread[best]),
        truth["val"].gain(found["augmented"], found["single"]),
        truth["val"].gain(found["aggregate"], found["single"]),
    ]
    hard = {
        group: truth["val"].gain(found["aggregate"], found["single"], group)
        for group in ("blurred", "occluded", "clear")
    }
    return {
        "data": {
            "sparse": statistics(load_coco(folder.sparse)).as_dict(),
            "augmented": statistics(load_coco(folder.augmented)).as_dict(),
            "val": statistics(load_coco(folder.dense("val"))).as_dict(),
        },
        "propagation": {name: _table(truth["train"], d) for name, d in spread.items()},
        "by_gap": {
            "gaps": gaps.tolist(),
            **{name: truth["train"].by_gap(d, gaps).tolist() for name, d in spread.items()},
        },
        "models": {name: _table(truth["val"], d) for name, d in found.items()},
        "aggregation_gains": {group: _gain(gain) for group, gain in hard.items()},
        "best_baseline": best,
        "claims": [
            {"text": text, **_gain(gain), "verdict": gain.verdict, "gain": str(gain)}
            for text, gain in zip(
                (
                    f"Propagated labels are better than the best of {len(BASELINES)} baselines "
                    f"({best})",
                    "Training on propagated labels is better than on the sparse ones alone",
                    "Aggregation over a window is better than single frames",
                ),
                gains,
                strict=True,
            )
        ],
        "seconds": folder.seconds,
    }


def _table(truth: Truth, distances: Floats) -> dict[str, dict[str, float]]:
    """PCKh by limit and group of joints."""
    return {
        f"PCKh@{limit:g}": {group: truth.pck(distances, group, limit) for group in truth.groups}
        for limit in THRESHOLDS
    }


def _gain(gain: Gain) -> dict[str, float]:
    return {"mean": gain.mean, "low": gain.low, "high": gain.high}
