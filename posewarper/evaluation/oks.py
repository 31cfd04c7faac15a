"""OKS average precision (COCO keypoints) through pycocotools, for any skeleton with sigmas."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from posewarper.evaluation.results import Table
from posewarper.skeleton import COCO as COCO_SKELETON
from posewarper.skeleton import Skeleton

OKS_METRICS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


@dataclass(frozen=True)
class OksResult:
    """The ten COCO keypoint numbers in percent; NaN where no person is of that size.

    Attributes:
        values: by the names of ``OKS_METRICS``: AP and AR over the OKS thresholds 0.50, 0.55,
            ..., 0.95, at 0.50, at 0.75, of medium (32² to 96² pixels) and of large people.
        images: how many were evaluated.
    """

    values: Mapping[str, float]
    images: int

    def table(self, per_joint: bool = False) -> Table:
        """One row with the ten numbers; OKS has none per joint."""
        return Table(OKS_METRICS, {"OKS": tuple(self.values[name] for name in OKS_METRICS)})

    def as_dict(self) -> dict[str, Any]:
        """All numbers."""
        return {"images": self.images, **self.values}


def _load(source: Any, what: str) -> tuple[Any, str]:
    """The content of a file, or the object itself; and what to call it in messages."""
    if not isinstance(source, str | Path):
        return source, what
    try:
        return json.loads(Path(source).read_bytes()), str(source)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{what}: {source}: no valid JSON: {error}") from None


def _check_keypoints(entry: Mapping[str, Any], joints: int, where: str) -> list[float]:
    keypoints = entry.get("keypoints")
    if not isinstance(keypoints, list) or len(keypoints) != 3 * joints:
        got = len(keypoints) if isinstance(keypoints, list) else keypoints
        raise ValueError(f"{where}: expected {3 * joints} numbers in 'keypoints', got {got}")
    if not np.isfinite(keypoints).all():
        raise ValueError(f"{where}: 'keypoints' are not finite")
    return keypoints


def _complete_truth(data: Any, source: str, joints: int) -> dict[str, Any]:
    """Check the ground truth and add what COCO files have and others lack; the input stays."""
    if not isinstance(data, Mapping) or not {"images", "annotations", "categories"} <= set(data):
        raise ValueError(f"{source}: expected an object with images, annotations and categories")
    images = [image["id"] for image in data["images"]]
    if len(set(images)) != len(images):
        twice = next(i for i in images if images.count(i) > 1)
        raise ValueError(f"{source}: image id {twice} appears twice")
    known, seen, annotations = set(images), set(), []
    for annotation in data["annotations"]:
        where = f"{source}: annotation {annotation.get('id')}"
        if annotation.get("id") is None or annotation["id"] in seen:
            raise ValueError(f"{where}: annotations need ids, and each only once")
        seen.add(annotation["id"])
        if annotation.get("image_id") not in known:
            raise ValueError(f"{where} refers to image id {annotation.get('image_id')}")
        keypoints = _check_keypoints(annotation, joints, where)
        if "bbox" not in annotation:
            raise ValueError(f"{where}: needs 'bbox'")
        defaults = {
            "iscrowd": 0,
            "area": annotation["bbox"][2] * annotation["bbox"][3],
            "num_keypoints": sum(v > 0 for v in keypoints[2::3]),
        }
        annotations.append({**defaults, **annotation})
    return {
        "images": list(data["images"]),
        "annotations": annotations,
        "categories": list(data["categories"]),
    }


def _checked_results(
    data: Any, source: str, joints: int, truth: Mapping[str, Any]
) -> list[dict[str, Any]]:
    if not isinstance(data, list):
        raise ValueError(f"{source}: expected a list of results")
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    for number, entry in enumerate(data):
        where = f"{source}: result {number}"
        if entry.get("image_id") not in images:
            raise ValueError(
                f"{where} has image id {entry.get('image_id')}, which the ground truth lacks"
            )
        if entry.get("category_id") not in categories:
            raise ValueError(
                f"{where} has category id {entry.get('category_id')}; "
                f"the ground truth has {sorted(categories)}"
            )
        if not isinstance(entry.get("score"), int | float) or not np.isfinite(entry["score"]):
            raise ValueError(f"{where}: needs a finite 'score', got {entry.get('score')!r}")
        _check_keypoints(entry, joints, where)
    return [dict(entry) for entry in data]


def evaluate_oks(
    truth: str | Path | Mapping[str, Any],
    results: str | Path | Sequence[Mapping[str, Any]],
    *,
    skeleton: Skeleton = COCO_SKELETON,
    sigmas: Sequence[float] | None = None,
) -> OksResult:
    """Evaluate keypoint results as COCO does, at most 20 people per image.

    Args:
        truth: COCO-style annotations with J keypoints, a file or its content. Where ``area`` is
            missing the box's is taken; where ``num_keypoints`` is missing it is counted.
        results: COCO keypoint results, a file or its content; may be empty.
        skeleton: J joints; says the sigmas.
        sigmas: J standard deviations in place of the skeleton's.

    Raises:
        ValueError: no sigmas, another number of keypoints, unknown or duplicate ids, or numbers
            that are not finite; names the file and the id.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    deviations = np.array(skeleton.sigmas if sigmas is None else sigmas, np.float64)
    if deviations.shape != (len(skeleton),) or not (deviations > 0).all():
        raise ValueError(
            f"sigmas: expected {len(skeleton)} positive numbers for skeleton {skeleton.name!r}, "
            f"got {deviations.tolist()}"
        )
    data, source = _load(truth, "truth")
    dataset = _complete_truth(data, source, len(skeleton))
    data, source = _load(results, "results")
    entries = _checked_results(data, source, len(skeleton), dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dataset
        coco.createIndex()
        if entries:
            found = coco.loadRes(entries)
        else:  # loadRes looks at the first entry
            found = COCO()
            found.dataset = {**dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(coco, found, "keypoints")
        evaluation.params.kpt_oks_sigmas = deviations
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = {
        name: float(value) * 100 if value >= 0 else float("nan")  # -1: nothing to measure
        for name, value in zip(OKS_METRICS, evaluation.stats, strict=True)
    }
    return OksResult(values, len(dataset["images"]))
