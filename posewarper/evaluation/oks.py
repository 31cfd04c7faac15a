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
    if not _numbers(keypoints):
        raise ValueError(f"{where}: 'keypoints' are not finite")
    return keypoints


def _complete_truth(data: Any, source: str, joints: int) -> dict[str, Any]:
    """Check the ground truth and add what COCO files have and others lack; the input stays."""
    if not isinstance(data, Mapping) or not {"images", "annotations", "categories"} <= set(data):
        raise ValueError(f"{source}: expected an object with images, annotations and categories")
    images = _ids(data["images"], f"{source}: image")
    categories = _ids(data["categories"], f"{source}: category")
    seen, annotations = set(), []
    for number, annotation in enumerate(data["annotations"], 1):
        if not isinstance(annotation, Mapping):
            raise ValueError(f"{source}: annotation number {number} is no object")
        where = f"{source}: annotation {annotation.get('id')}"
        if annotation.get("id") is None or annotation["id"] in seen:
            raise ValueError(f"{where}: annotations need ids, and each only once")
        seen.add(annotation["id"])
        if annotation.get("image_id") not in images:
            raise ValueError(f"{where} refers to image id {annotation.get('image_id')}")
        if annotation.get("category_id") not in categories:
            raise ValueError(
                f"{where} has category id {annotation.get('category_id')}; listed are "
                f"{sorted(categories)}"
            )
        keypoints = _check_keypoints(annotation, joints, where)
        labelled = sum(v > 0 for v in keypoints[2::3])
        annotations.append(
            {
                "iscrowd": 0,
                **annotation,
                "id": number,  # pycocotools takes a match with 0 for none
                "area": _area(annotation, labelled, where),
                "num_keypoints": labelled,
            }
        )
    return {
        "images": list(data["images"]),
        "annotations": annotations,
        "categories": list(data["categories"]),
    }


def _ids(entries: Any, what: str) -> set[Any]:
    """The ids of a table.

    Raises:
        ValueError: an entry has none, or that of another one.
    """
    seen = set()
    for number, entry in enumerate(entries):
        own = entry.get("id") if isinstance(entry, Mapping) else None
        if not isinstance(own, int | str):
            raise ValueError(f"{what} number {number} has no id")
        if own in seen:
            raise ValueError(f"{what} id {own} appears twice")
        seen.add(own)
    return seen


def _area(annotation: Mapping[str, Any], labelled: int, where: str) -> float:
    """What distances are divided by: ``area``, or that of the box where it is missing or 0."""
    box = annotation.get("bbox")
    if not isinstance(box, list | tuple) or len(box) != 4 or not _numbers(box):
        raise ValueError(f"{where}: needs 'bbox' of four numbers, got {box!r}")
    given = annotation.get("area")
    if given is not None and not (_numbers([given]) and given >= 0):
        raise ValueError(f"{where}: 'area': expected 0 or more, got {given!r}")
    own = float(given or max(box[2], 0) * max(box[3], 0))
    if own == 0 and labelled and not annotation.get("iscrowd"):
        raise ValueError(
            f"{where}: 'area' and the box are of size 0, by which distances are divided; give one "
            "of them a size"
        )
    return own


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and np.isfinite(v) for v in values)


def _checked_results(
    data: Any, source: str, joints: int, truth: Mapping[str, Any]
) -> list[dict[str, Any]]:
    if not isinstance(data, list):
        raise ValueError(f"{source}: expected a list of results")
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    for number, entry in enumerate(data):
        where = f"{source}: result {number}"
        if not isinstance(entry, Mapping):
            raise ValueError(f"{where} is no object")
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
            missing or 0 the box's is taken; ``num_keypoints`` is counted.
        results: COCO keypoint results, a file or its content; may be empty.
        skeleton: J joints; says the sigmas.
        sigmas: J standard deviations in place of the skeleton's.

    Raises:
        ValueError: no sigmas, another number of keypoints, unknown or duplicate ids, or numbers
            that are not finite, or people without a size; names the file and the id.
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
