"""From a model and a data set to files of poses: prediction, and the formats of evaluators."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

import numpy as np

from posewarper.data.annotations import save_coco
from posewarper.data.dataset import Boxes, annotated_boxes, load_detections
from posewarper.data.posetrack import load_annotations
from posewarper.data.tables import Ints, PoseDataset
from posewarper.data.video import FrameSource, Missing, fill_sizes
from posewarper.evaluation.prediction_datasets import Neck, official_names, write_predictions
from posewarper.inference.aggregation import Mode, PersonScore, Scoring, predict_boxes
from posewarper.inference.predictor import PosePredictor, Precision
from posewarper.models import WINDOWS, Window, load_model
from posewarper.skeleton import POSETRACK_EVAL, Skeleton, find_skeleton

OutFormat = Literal["dataset", "coco", "posetrack18", "posetrack17"]
WindowName = Literal["posetrack-2019", "posetrack-2019-causal", "paper", "paper-causal"]


def aggregate(
    model: Path,
    annotations: Path,
    out: Path,
    images: Path = Path("."),
    boxes: Path | None = None,
    box_threshold: float = 0.2,
    mode: Mode = "aggregate",
    window: WindowName | None = None,
    flip_test: bool = False,
    shift_flipped: bool = False,
    refinement: Literal["quarter", "dark", "none"] | None = None,
    nms: float | None = None,
    soft_nms: bool = False,
    sigmas: float | tuple[float, ...] | None = None,
    rescore: PersonScore = "product",
    weigh_joints: bool = True,
    format: OutFormat = "dataset",
    neck: Neck = "head_bottom",
    dummy_people: bool = False,
    missing: Missing = "error",
    device: str = "auto",
    precision: Precision = "fp32",
    batch_size: int = 64,
    workers: int | None = None,
    skeleton: str | None = None,
    crop_wh: tuple[int, int] | None = None,
    dilations: tuple[int, ...] | None = None,
    progress: bool = True,
) -> dict[str, PoseDataset]:
    """Predict the poses of all people of a data set from windows of frames.

    Nothing is written before all frames are done.

    Args:
        model: model file, folder of training, or weights in a published layout.
        annotations: COCO-style file, or folder of official PoseTrack files: videos, frames, and,
            without ``boxes``, the boxes of the labelled people.
        out: file to write (dataset, coco), or folder of one file per video (posetrack18,
            posetrack17). With mode both, a folder that holds "aggregate" and "single".
        images: folder that the paths of the frames start in.
        boxes: boxes of a detector, a JSON list of objects with bbox (x, y, width, height), score
            and image_name or image_id.
        box_threshold: detections with a lower score are left out.
        mode: aggregate: each pose decided by all frames of a window; single: by its frame alone;
            both: two results in one pass.
        window: frames and their weights; by default those of the model.
        flip_test: mean of the heatmaps of each crop and of its mirror image.
        shift_flipped: with flip_test, the mirrored heatmaps one pixel to the right.
        refinement: how maxima are decoded; by default as the model was made for.
        nms: of two people in a frame more similar than this (OKS, 0..1; 0.9 is usual) the one of
            the lower score is left out; by default nobody is.
        soft_nms: with nms, lower the score in place of leaving out.
        sigmas: with nms, standard deviations of the joints, one or one each; by default the
            skeleton's.
        rescore: score of a person: box: that of its box; joints: mean height of its maxima;
            product of both.
        weigh_joints: score of a joint: height of its maximum times score of the box, as in 2019;
            otherwise the height alone.
        format: dataset: COCO-style file that every command reads; coco: list of COCO keypoint
            results; posetrack18, posetrack17: files for the official evaluation.
        neck: with posetrack18 and posetrack17, the joint that is written as head_bottom; the
            system of 2019 wrote the middle of the shoulders.
        dummy_people: with posetrack18 and posetrack17, a person of score -100 in frames without
            people, as in 2019.
        missing: for a frame that is missing or damaged: stop (error); leave out the windows that
            it is in (skip); take the nearest frame that can be read (nearest), or the key frame of
            the window, as in 2019 (key).
        device: auto, cpu, cuda, cuda:1, ...
        precision: of the convolutions.
        batch_size: crops per pass of the network.
        workers: processes that read frames; by default none on a CPU, up to 4 on a GPU.
        skeleton: for weights alone, posetrack, coco or a YAML file; by default posetrack.
        crop_wh: for weights alone, width and height of crops in pixels; by default 288, 384.
        dilations: for weights alone, of the deformable convolutions.
        progress: show a progress bar.

    Returns:
        The poses, by "aggregate" and "single".

    Raises:
        ValueError: arguments that do not fit each other or the files; names them.
        OSError: a file cannot be read or written.
    """
    _check_out(out, folder=mode == "both" or format.startswith("posetrack"))
    loaded = load_model(
        model,
        skeleton=None if skeleton is None else find_skeleton(skeleton),
        crop_wh=crop_wh,
        dilations=dilations,
    )
    if format.startswith("posetrack"):
        _check_joints(loaded.skeleton, format)
    names = official_names(annotations) if annotations.is_dir() else None
    predictor = PosePredictor(
        loaded,
        device=device,
        precision=precision,
        flip_test=flip_test,
        shift_flipped=shift_flipped,
        refinement=refinement,
        batch_size=batch_size,
    )
    scoring = Scoring(weigh_joints, rescore, nms, soft_nms, sigmas)
    dataset = load_annotations(annotations)
    source = FrameSource(images, missing, dataset=dataset)
    chosen, tracks = _boxes(dataset, source, boxes, box_threshold)
    if workers is None:
        workers = 0 if predictor.device.type == "cpu" else min(4, os.cpu_count() or 1)
    result = predict_boxes(
        predictor,
        chosen,
        source,
        dataset,
        mode=mode,
        window=_window(window),
        scoring=scoring,
        track_id=tracks,
        workers=workers,
        progress=progress,
    )
    for name, poses in result.datasets.items():
        place = _place(out, name, format) if mode == "both" else out
        if format == "dataset":
            save_coco(poses, place)
        else:
            write_predictions(
                poses,
                place,
                format,
                truth=dataset,
                names=names,
                neck=neck,
                dummy_people=dummy_people,
            )
        frames = int(poses.frames.labelled.sum())
        print(f"{name}: {len(poses.people)} people in {frames} frames -> {place}")
    if result.left_out:
        print(result.summary(), file=sys.stderr)
    return dict(result.datasets)


def _boxes(
    dataset: PoseDataset, source: FrameSource, detections: Path | None, threshold: float
) -> tuple[Boxes, Ints | None]:
    """Boxes of a detector, or those of the annotations with their track ids."""
    if detections is not None:
        found = load_detections(detections, dataset, threshold)
        if not len(found):
            raise ValueError(f"{detections}: no detection has a score of {threshold} or more")
        return found, None
    if (dataset.frames.size_wh.min(1, initial=1) <= 0).any():
        dataset = fill_sizes(dataset, source)  # boxes are clipped to the image
    found = annotated_boxes(dataset)
    if not len(found):
        raise ValueError(
            f"{dataset.source}: none of {len(dataset.people)} people has a labelled joint and a "
            "box in the image; boxes of a detector are given with the option boxes"
        )
    return found, np.asarray(dataset.people.track_id[found.row])


def _window(name: str | None) -> Window | None:
    if name is None:
        return None
    if name not in WINDOWS:
        raise ValueError(f"window: expected one of {list(WINDOWS)}, got {name!r}")
    return WINDOWS[name]


def _place(out: Path, name: str, format: OutFormat) -> Path:
    return out / (name if format.startswith("posetrack") else f"{name}.json")


def _check_out(out: Path, folder: bool) -> None:
    """An error before the work, not after it."""
    if folder and out.is_file():
        raise ValueError(f"out: expected a folder to write to, got the file {out}")
    if not folder and out.is_dir():
        raise ValueError(f"out: expected a file to write, got the folder {out}")


def _check_joints(skeleton: Skeleton, format: str) -> None:
    missing = [joint for joint in POSETRACK_EVAL.joints if joint not in skeleton.joints]
    if missing:
        raise ValueError(
            f"format: {format} needs joints that the model does not have: {', '.join(missing)}; "
            "'dataset' and 'coco' take any"
        )
