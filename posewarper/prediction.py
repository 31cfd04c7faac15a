"""The three jobs as commands: from a model and annotations to files of poses.

Inference, and the formats of evaluators, which inference does not know.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

from posewarper.data.annotations import save_coco
from posewarper.data.dataset import Boxes
from posewarper.data.formats import load_labels
from posewarper.data.given_boxes import BOX_THRESHOLD, given_boxes, load_frames
from posewarper.data.tables import Ints, PoseDataset
from posewarper.data.tracks import CropBox, Leaving, Sources
from posewarper.data.video import FrameSource, Missing
from posewarper.evaluation.prediction_datasets import Neck, official_names, write_predictions
from posewarper.files import check_place
from posewarper.inference.aggregation import Mode, PersonScore, Predicted, Scoring, predict_boxes
from posewarper.inference.augmentation import augment_labels
from posewarper.inference.baselines import Preset
from posewarper.inference.loading import load_predictor
from posewarper.inference.predictor import PosePredictor, Precision
from posewarper.inference.propagation import (
    WITH_NETWORK,
    WITHOUT_FRAMES,
    Method,
    PropagationOptions,
    check_joints,
    make_propagator,
)
from posewarper.inference.pseudo_labels import Counts
from posewarper.inference.shared_aggregation import predict_shared
from posewarper.models import WINDOWS, Window, load_model
from posewarper.models.pose_model import model_file
from posewarper.shares import join_sharing
from posewarper.skeleton import POSETRACK_EVAL, Skeleton

OutFormat = Literal["dataset", "coco", "posetrack18", "posetrack17"]
WindowName = Literal["posetrack-2019", "posetrack-2019-causal", "paper", "paper-causal"]

# Options of aggregate on which joints do not depend: processes may go on with others.
_HARMLESS = (
    "out", "format", "neck", "dummy_people", "device", "batch_size", "compile", "workers",
    "progress",
)  # fmt: skip


def propagate(
    labels: Path,
    out: Path,
    model: Path | None = None,
    images: Path | None = None,
    method: Method = "warp",
    sources: Sources | None = None,
    own_weight: float = 0.0,
    neighbours: int = 0,
    consistent: bool = False,
    fade: int | None = None,
    box: CropBox | None = None,
    follow: bool = False,
    flow_weight: float = 0.0,
    distance: int | None = None,
    leaving: Leaving = "label",
    repredict: bool = False,
    rounded: bool = False,
    preset: Preset = "medium",
    threshold: float = 0.0,
    format: OutFormat = "dataset",
    truth: Path | None = None,
    missing: Missing = "error",
    device: str = "auto",
    precision: Precision = "fp32",
    flip_test: bool = False,
    batch_size: int = 64,
    progress: bool = True,
) -> PoseDataset:
    """Spread the labels of some frames of each video to its other frames.

    Args:
        labels: COCO-style file, or folder of official PoseTrack files, with sparse labels.
        out: file to write (dataset, coco), or folder of one file per video (posetrack18,
            posetrack17): all frames; predicted people have scores.
        model: model file or folder of a training; copy, linear and flow do without.
        images: folder that the frames' paths start in; copy and linear do without.
        method: warp: labels moved by the model; single: the network's prediction frame by frame;
            copy: the nearest label; linear: interpolation in time; flow: dense optical flow.
        sources: the nearest label, or both around a frame; by default the nearest.
        own_weight: with warp, share of the frame's own heatmaps, 0 to 1.
        neighbours: with warp, frames on each side whose heatmaps, moved, share that share.
        consistent: with warp, scores also tell whether the way there and back leads to the label.
        fade: with warp, labels further away than so many frames count less.
        box: in which the network looks: the nearest label's (default of one source), or
            interpolated between two labels (default of both).
        follow: with a network, boxes are corrected by the poses found in them.
        flow_weight: with a network, share of where optical flow carries the nearest label, for
            joints on which both agree.
        distance: of a frame to its nearest label, at most; any by default.
        leaving: carry somebody who is absent from the next labelled frame up to it, or halfway.
        repredict: replace labels by predictions from themselves, as in 2019.
        rounded: label heatmaps centred on whole heatmap pixels, as in 2019.
        preset: of the optical flow.
        threshold: joints have to have a higher score.
        format: dataset: COCO-style file that every command reads; coco: list of COCO keypoint
            results; posetrack18, posetrack17: files for the official evaluation, in which labels
            have the score 1.
        truth: with the other formats, annotations that the result is to be compared with: its
            frames are written, and its ids and names of files; by default all frames.
        missing: a frame that cannot be read is an error, is skipped, or is replaced by the nearest
            or by the labelled frame; nothing replaces a labelled frame.
        device: auto, cpu, cuda, cuda:1.
        precision: of the convolutions.
        flip_test: mean of the heatmaps of a crop and its mirror image.
        batch_size: crops per pass.
        progress: show a progress bar.

    Raises:
        ValueError: arguments that do not fit each other or the files; names them.
        OSError: a file cannot be read or written.
    """
    options = PropagationOptions(
        method, sources=sources, own_weight=own_weight, neighbours=neighbours,
        consistent=consistent, fade=fade, box=box, follow=follow, flow_weight=flow_weight,
        distance=distance, leaving=leaving, repredict=repredict, rounded=rounded, preset=preset,
        threshold=threshold,
    )  # fmt: skip
    check_place(out, folder=format.startswith("posetrack"))
    if truth is not None and format == "dataset":
        raise ValueError("truth: goes with the formats coco, posetrack18 and posetrack17")
    predictor, dataset, source = _inputs(
        model, labels, images, method, missing, device, precision, flip_test, batch_size
    )
    compared = None if truth is None else load_labels(truth)
    if compared is not None:
        there, here = ([video.name for video in d.videos] for d in (compared, dataset))
        if not {*there} & {*here}:
            raise ValueError(f"truth: {truth} has videos {there[:3]}, and {labels} has {here[:3]}")
    if format.startswith("posetrack"):
        _check_joints(dataset.skeleton, format, str(labels))
    spread, counts = make_propagator(options, predictor, progress)(dataset, source)
    _write(spread, out, format, compared, truth or labels)
    _report(counts, source, out)
    return spread


def augment(
    labels: Path,
    out: Path,
    model: Path | None = None,
    images: Path | None = None,
    distance: int = 3,
    threshold: float = 0.2,
    method: Method = "warp",
    sources: Sources | None = None,
    own_weight: float = 0.0,
    neighbours: int = 0,
    consistent: bool = False,
    fade: int | None = None,
    box: CropBox | None = None,
    follow: bool = False,
    flow_weight: float = 0.0,
    leaving: Leaving = "label",
    rounded: bool = False,
    preset: Preset = "medium",
    missing: Missing = "error",
    device: str = "auto",
    precision: Precision = "fp32",
    flip_test: bool = False,
    batch_size: int = 64,
    progress: bool = True,
) -> PoseDataset:
    """Make a larger training set: sparse labels, and pseudo-labels on the frames near them.

    Args:
        labels: COCO-style file, or folder of official PoseTrack files, with sparse labels.
        out: COCO-style file to write, for training; people with pseudo-labels have scores.
        model: model file or folder of a training; copy, linear and flow do without.
        images: folder that the frames' paths start in; copy and linear do without.
        distance: of a frame to its nearest label, at most.
        threshold: joints have to have a higher score.
        method: warp: labels moved by the model; single: the network's prediction frame by frame;
            copy: the nearest label; linear: interpolation in time; flow: dense optical flow.
        sources: the nearest label, or both around a frame; by default the nearest.
        own_weight: with warp, share of the frame's own heatmaps, 0 to 1.
        neighbours: with warp, frames on each side whose heatmaps, moved, share that share.
        consistent: with warp, scores also tell whether the way there and back leads to the label.
        fade: with warp, labels further away than so many frames count less.
        box: in which the network looks: the nearest label's (default of one source), or
            interpolated between two labels (default of both).
        follow: with a network, boxes are corrected by the poses found in them.
        flow_weight: with a network, share of where optical flow carries the nearest label, for
            joints on which both agree.
        leaving: carry somebody who is absent from the next labelled frame up to it, or halfway.
        rounded: label heatmaps centred on whole heatmap pixels, as in 2019.
        preset: of the optical flow.
        missing: a frame that cannot be read is an error, is skipped, or is replaced by the nearest
            or by the labelled frame; nothing replaces a labelled frame.
        device: auto, cpu, cuda, cuda:1.
        precision: of the convolutions.
        flip_test: mean of the heatmaps of a crop and its mirror image.
        batch_size: crops per pass.
        progress: show a progress bar.

    Raises:
        ValueError: arguments that do not fit each other or the files; names them.
        OSError: a file cannot be read or written.
    """
    options: dict[str, Any] = {
        "sources": sources, "own_weight": own_weight, "neighbours": neighbours,
        "consistent": consistent, "fade": fade, "box": box, "follow": follow,
        "flow_weight": flow_weight, "distance": distance,
        "leaving": leaving, "rounded": rounded, "preset": preset, "threshold": threshold,
    }  # fmt: skip
    PropagationOptions(method, **options)  # an error now, not after the model is loaded
    check_place(out, folder=False)
    predictor, dataset, source = _inputs(
        model, labels, images, method, missing, device, precision, flip_test, batch_size
    )
    larger, counts = augment_labels(
        dataset, source, method, predictor=predictor, progress=progress, **options
    )
    save_coco(larger, out)
    _report(counts, source, out)
    return larger


def aggregate(
    annotations: Path,
    out: Path,
    model: Path | None = None,
    images: Path | None = None,
    boxes: Path | None = None,
    box_threshold: float = BOX_THRESHOLD,
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
    precision: Precision | None = None,
    hold: int = 1,
    batch_size: int = 64,
    compile: bool = False,
    workers: int | None = None,
    skeleton: str | None = None,
    crop_wh: tuple[int, int] | None = None,
    dilations: tuple[int, ...] | None = None,
    progress: bool = True,
) -> dict[str, PoseDataset]:
    """Predict the poses of all people of a data set from windows of frames.

    Nothing is written before all frames are done. The videos are shared among the processes of
    torchrun; what they have done is kept beside ``out`` until all is, and is not done again.

    Args:
        annotations: COCO-style file, or folder of official PoseTrack files: videos, frames, and,
            without ``boxes``, the boxes of the labelled people.
        out: file to write (dataset, coco), or folder of one file per video (posetrack18,
            posetrack17). With mode both, a folder that holds "aggregate" and "single".
        model: model file, folder of training, weights in a published layout, or a file of export
            (.onnx, mode aggregate or single); it has to be given.
        images: folder that the paths of the frames start in; it has to be given.
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
            the window, as in 2019 (key). A key frame itself is left out with nearest, and an error
            with key.
        device: auto, cpu, cuda, cuda:1, ...
        precision: of the convolutions; by default fp32, of .onnx files their own.
        hold: frames over which the box of a person with a track id is held, so that each frame's
            heatmaps serve several windows: faster, and less accurate the longer.
        batch_size: crops per pass of the network.
        compile: run the convolutions through torch.compile, which takes up to minutes at first.
        workers: processes that read frames; by default none on a CPU, up to 4 on a GPU.
        skeleton: for weights alone, posetrack (the default of PoseWarper's), coco or a YAML file.
        crop_wh: for weights alone, size of crops; by default the file's name tells, or 288, 384.
        dilations: for weights alone, of the deformable convolutions.
        progress: show a progress bar.

    Returns:
        The poses, by "aggregate" and "single"; in processes of torchrun other than the first none.

    Raises:
        ValueError: arguments that do not fit each other or the files; names them.
        OSError: a file cannot be read or written.
    """
    settings = {name: value for name, value in locals().items() if name not in _HARMLESS}
    check_place(out, folder=mode == "both" or format.startswith("posetrack"))
    scoring = Scoring(weigh_joints, rescore, nms, soft_nms, sigmas)
    if boxes is None and box_threshold != BOX_THRESHOLD:
        raise ValueError("box_threshold: goes with boxes of a detector, and none are given")
    if window is not None and mode == "single":
        raise ValueError("window: goes with the modes aggregate and both, got single")
    if not format.startswith("posetrack") and (neck != "head_bottom" or dummy_people):
        option = "dummy_people" if dummy_people else "neck"
        raise ValueError(f"{option}: goes with the formats posetrack18 and 17, got {format!r}")
    model, images = _given(model, "mode", mode), _folder(images, "mode", mode)
    sharing = join_sharing()
    device = sharing.device(device)
    predictor = load_predictor(
        model,
        device=device,
        precision=precision,
        flip_test=flip_test,
        shift_flipped=shift_flipped,
        refinement=refinement,
        batch_size=batch_size,
        skeleton=skeleton,
        crop_wh=crop_wh,
        dilations=dilations,
        compile=compile,
    )
    joints = predictor.model.skeleton
    if format.startswith("posetrack"):
        _check_joints(joints, format, "the model")
    dataset = load_frames(annotations, joints)
    source = FrameSource(images, missing, dataset=dataset)
    chosen, tracks = given_boxes(dataset, source, boxes, box_threshold)
    if workers is None:
        cores = (os.cpu_count() or 1) // sharing.local_count
        workers = 0 if predictor.device.type == "cpu" else max(min(4, cores), 1)

    def predict(boxes: Boxes, dataset: PoseDataset, tracks: Ints | None) -> Predicted:
        return predict_boxes(
            predictor,
            boxes,
            source,
            dataset,
            mode=mode,
            window=_window(window),
            scoring=scoring,
            track_id=tracks,
            hold=hold,
            workers=workers,
            progress=progress and sharing.store is None,
        )

    parts = out.with_name(f".{out.name}.parts")
    if predictor.device.type == "cpu":
        sharing.divide_threads()
    settings = {**settings, "model": model_file(model)}
    result = predict_shared(
        predict, chosen, dataset, tracks, parts=parts, out=out, settings=settings, sharing=sharing
    )
    if result is None:
        return {}
    for name, poses in result.datasets.items():
        place = _place(out, name, format) if mode == "both" else out
        _write(poses, place, format, dataset, annotations, neck, dummy_people)
        frames = int(poses.frames.labelled.sum())
        print(f"{name}: {len(poses.people)} people in {frames} frames -> {place}")
    if result.summary():
        print(result.summary(), file=sys.stderr)
    if sharing.store is not None:
        shutil.rmtree(parts)
    return dict(result.datasets)


def _given(model: Path | None, option: str, value: str) -> Path:
    if model is None:
        raise ValueError(f"model: {option} {value!r} needs a model, got none")
    return model


def _folder(images: Path | None, option: str, value: str) -> Path:
    if images is None:
        raise ValueError(f"images: {option} {value!r} needs the folder of the frames, got none")
    if not images.is_dir():
        raise ValueError(f"images: expected the folder of the frames, got {images}, which is none")
    return images


def _inputs(
    model: Path | None,
    labels: Path,
    images: Path | None,
    method: Method,
    missing: Missing,
    device: str,
    precision: Precision,
    flip_test: bool,
    batch_size: int,
) -> tuple[PosePredictor | None, PoseDataset, FrameSource | None]:
    """What propagation and augmentation work on; what the method does not need may be absent, and
    the model is then not read.
    """
    needed = _given(model, "method", method) if method in WITH_NETWORK else None
    if flip_test and needed is None:
        raise ValueError(f"flip_test: goes with {WITH_NETWORK}, got method {method!r}")
    if images is not None or method not in WITHOUT_FRAMES:
        images = _folder(images, "method", method)
    predictor = None
    if needed is not None:
        predictor = PosePredictor(
            load_model(needed),
            device=device,
            precision=precision,
            flip_test=flip_test,
            batch_size=batch_size,
        )
    skeleton = None if predictor is None else predictor.model.skeleton
    dataset = load_labels(labels, skeleton=skeleton)
    check_joints(dataset, predictor)  # files of PoseTrack are read with its own joints
    source = None if images is None else FrameSource(images, missing, dataset=dataset)
    return predictor, dataset, source


def _write(
    poses: PoseDataset,
    place: Path,
    format: OutFormat,
    truth: PoseDataset | None,
    truth_at: Path,
    neck: Neck = "head_bottom",
    dummy_people: bool = False,
) -> None:
    if format == "dataset":
        save_coco(poses, place)
        return
    names = official_names(truth_at) if truth_at.is_dir() else None
    write_predictions(
        poses, place, format, truth=truth, names=names, neck=neck, dummy_people=dummy_people
    )


def _report(counts: Counts, source: FrameSource | None, out: Path) -> None:
    """Print what propagation did."""
    again = f" ({counts.repredicted_frames} predicted again)" if counts.repredicted_frames else ""
    print(
        f"{counts.labelled_frames} labelled frames{again} -> {counts.predicted_frames} more, "
        f"{counts.people} people, {counts.joints} joints -> {out}"
    )
    if counts.joints_lost or counts.people_lost:
        print(
            f"left out: {counts.joints_lost} joints without a maximum, outside the image or with "
            f"too low a score; {counts.people_lost} people of whom nothing was left"
        )
    if source is not None and source.problems:
        print(f"{len(source.problems)} frames could not be read (policy: {source.missing}):")
        for problem in list(source.problems.values())[:10]:
            print(f"  {problem}")


def _window(name: str | None) -> Window | None:
    if name is None:
        return None
    if name not in WINDOWS:
        raise ValueError(f"window: expected one of {list(WINDOWS)}, got {name!r}")
    return WINDOWS[name]


def _place(out: Path, name: str, format: OutFormat) -> Path:
    return out / (name if format.startswith("posetrack") else f"{name}.json")


def _check_joints(skeleton: Skeleton, format: str, whose: str) -> None:
    missing = [joint for joint in POSETRACK_EVAL.joints if joint not in skeleton.joints]
    if missing:
        raise ValueError(
            f"format: {format} needs joints that {whose} does not have: {', '.join(missing)}; "
            "'dataset' and 'coco' take any"
        )
