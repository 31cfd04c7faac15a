"""The command ``predict``: a trained model on new video."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from posewarper.inference.aggregation import PersonScore, Scoring
from posewarper.inference.loading import load_predictor
from posewarper.inference.predictor import Precision
from posewarper.inference.smoothing import BETA, MIN_CUTOFF, OneEuro
from posewarper.models.pose_model import model_file
from posewarper.prediction import WindowName
from posewarper.shares import Sharing, join_sharing, process_count
from posewarper.streaming.choices import (
    BOX_THRESHOLD,
    DETECT_EVERY,
    DETECTOR,
    LOST_BELOW,
    Box,
    BoxesFrom,
    BoxOptions,
    choose_hold,
    choose_window,
)
from posewarper.streaming.detector import DetectorName
from posewarper.streaming.many import OnError, check_places, find_videos, predict_many
from posewarper.streaming.merging import check_merge
from posewarper.streaming.people import Finisher
from posewarper.streaming.pipeline import Summary, predict_stream
from posewarper.streaming.poses import WindowPoses
from posewarper.streaming.sources import Source, open_source
from posewarper.streaming.tracking import BoxTracker
from posewarper.streaming.windows import Options, Unreadable
from posewarper.streaming.writing import Format, ResultFile, choose_format

log = logging.getLogger("posewarper.streaming")

# Options on which poses do not depend: a folder of results may be gone on with others.
_HARMLESS = ("video", "out", "device", "batch_size", "compile", "progress", "on_error", "merge")


def predict(
    video: str,
    out: Path | None = None,
    model: Path | None = None,
    mode: Literal["aggregate", "single"] | None = None,
    window: WindowName | None = None,
    causal: bool | None = None,
    boxes: BoxesFrom | None = None,
    box_file: Path | None = None,
    start_box: Box | list[Box] | None = None,
    box_threshold: float = BOX_THRESHOLD,
    lost_below: float = LOST_BELOW,
    detector: DetectorName = DETECTOR,
    detector_weights: Path | None = None,
    detect_every: int = DETECT_EVERY,
    track: bool = False,
    smooth: bool = False,
    min_cutoff: float = MIN_CUTOFF,
    beta: float = BETA,
    format: Format | None = None,
    overlay: Path | None = None,
    start: int | None = None,
    frames: int | None = None,
    every: int = 1,
    fps: float | None = None,
    deinterlace: bool = False,
    missing: Unreadable = "error",
    keep_partial: bool = False,
    flip_test: bool = False,
    shift_flipped: bool = False,
    refinement: Literal["quarter", "dark", "none"] | None = None,
    nms: float | None = None,
    sigmas: float | tuple[float, ...] | None = None,
    rescore: PersonScore = "product",
    weigh_joints: bool = True,
    device: str = "auto",
    precision: Precision | None = None,
    hold: int = 1,
    batch_size: int = 64,
    compile: bool = False,
    skeleton: str | None = None,
    crop_wh: tuple[int, int] | None = None,
    dilations: tuple[int, ...] | None = None,
    on_error: OnError = "skip",
    merge: Path | None = None,
    progress: bool = True,
) -> Summary:
    """Predict the poses in a video of any length, from a file, a camera or a stream; or in many.

    The file of the results appears when all is done; with a camera or a stream, Ctrl-C ends it.
    Many videos are shared among the processes of torchrun, and what is done is not done again.

    Args:
        video: video file, folder of images, number of a camera ("0"), or URL of a stream. Many: a
            pattern in quotes ("videos/*.mp4"), or a .txt file of one video per line.
        out: file to write, for many videos a folder; a file that is there is replaced in the end.
            By default the name of the video with .json (.csv with format csv) in the current
            folder, poses.json for cameras and streams, where no such file is.
        model: model file, folder of fit or of training, weights in a published layout, or a file
            of export (.onnx, mode aggregate or single); it has to be given.
        mode: aggregate: each pose decided by a window of frames; single: by its frame alone. By
            default aggregate, if the model can and was trained with one box for all frames.
        window: frames and their weights; by default those of the model.
        causal: of the window past frames only, so that no pose waits for a later frame; by default
            with cameras, streams, and models that want each frame's own box but get no box_file.
        boxes: where people are: file: in the boxes of box_file, and only in the frames that it has;
            detector: where torchvision's detector finds people; last-pose: around the pose of the
            frame before; frame: one person, who fills the frame. By default file if there is one,
            else last-pose.
        box_file: labels in any known format, or a detector's list as aggregate reads it; for many
            videos labels of them all, or a folder of files that are called like the results. With
            last-pose, where to begin (labels of the first frame are enough) and how to go on
            whenever it has boxes.
        start_box: with last-pose, x, y, width, height in pixels where to begin, of one person or
            a list of several. Otherwise people (with joints as in PoseTrack or COCO) are first
            found by the detector, and of anything else one is searched for all over the frame.
        box_threshold: boxes of a detector with a lower score are left out.
        lost_below: with last-pose, a track ends where the mean height of its joints' maxima is
            lower; what was found there is left out.
        detector: of torchvision; the first is fast, the third sees more.
        detector_weights: file of its weights; by default torchvision downloads them once.
        detect_every: with last-pose, look for more people after so many frames, or search again for
            the one that was lost.
        track: give track ids to people of a detector or a file (needs the extra track).
        smooth: one-euro filter against jitter, for people with track ids.
        min_cutoff: of the filter, Hz at rest.
        beta: of the filter, Hz per body length per second.
        format: dataset: COCO-style file that every command reads; coco: list of COCO keypoint
            results; posetrack18: file for the official evaluation; csv: a table. By default by the
            ending of out.
        overlay: MP4 file to write, the frames with the poses drawn on them; for many videos a
            folder.
        start: number of the first frame; those of a file count from 0, images have their own.
        frames: how many frames at most.
        every: one of how many frames.
        fps: frames per second, where the video does not say (images) or is wrong.
        deinterlace: fill in the lines of interlaced video, whose frames show two moments.
        missing: for a damaged frame: stop (error), or leave out the windows that it is in (skip).
        keep_partial: write what was found before an error or Ctrl-C; with cameras and streams
            always.
        flip_test: mean of the heatmaps of each crop and of its mirror image.
        shift_flipped: with flip_test, the mirrored heatmaps one pixel to the right.
        refinement: how maxima are decoded; by default as the model was made for.
        nms: of two people in a frame more similar than this (OKS, 0..1; 0.9 is usual) the one of
            the lower score is left out; by default nobody is.
        sigmas: with nms, standard deviations of the joints, one or one each; by default the
            skeleton's.
        rescore: score of a person: box: that of its box; joints: mean height of its maxima;
            product of both.
        weigh_joints: score of a joint: height of its maximum times score of the box, as in 2019;
            otherwise the height alone.
        device: auto, cpu, cuda, cuda:1, ...
        precision: of the convolutions; by default fp32, of .onnx files their own.
        hold: frames over which the box of a person with a track id is held, so that each frame's
            heatmaps serve several windows: faster, and less accurate the longer.
        batch_size: crops per pass of the network.
        compile: run the convolutions through torch.compile, which takes up to minutes at first.
        skeleton: for weights alone, posetrack (the default of PoseWarper's), coco or a YAML file.
        crop_wh: for weights alone, size of crops; by default the file's name tells, or 288, 384.
        dilations: for weights alone, of the deformable convolutions.
        on_error: of many videos, after one that cannot be read: go on (skip), or stop.
        merge: of many videos, also write the results as one file, a dataset or a table.
        progress: show a progress bar.

    Returns:
        How many frames and people there were, and what was left out.

    Raises:
        ValueError: arguments that do not fit each other or the files; names them.
        OSError: a file cannot be read or written.
    """
    settings = {name: value for name, value in locals().items() if name not in _HARMLESS}
    if model is None:
        raise ValueError("model: expected a model file or the folder of a training, got none")
    options = Options(
        start, frames, every, missing, keep_partial, progress and process_count() == 1
    )
    scoring = Scoring(weigh_joints, rescore, nms, False, sigmas)
    if smooth:
        OneEuro(min_cutoff, beta)  # an error now, not after the model is loaded
    elif (min_cutoff, beta) != (MIN_CUTOFF, BETA):
        name = "beta" if min_cutoff == MIN_CUTOFF else "min_cutoff"
        raise ValueError(f"{name}: goes with smooth, whose filter it sets")
    starts = [start_box] if isinstance(start_box, tuple) else start_box
    where = BoxOptions(
        boxes, box_file, starts, box_threshold, lost_below, detector, detector_weights,
        detect_every, track, smooth,
    )  # fmt: skip
    several = find_videos(video)
    sharing = Sharing()
    if several is None:
        _check_alone(merge)
        source = open_source(video, fps, deinterlace=deinterlace)
        out = _default_out(video, source, format) if out is None else out
        _check_places(out, overlay, source, box_file)
    else:
        out = check_places(several, out, overlay, box_file)
        if merge is not None:
            check_merge(merge, format or "dataset")
        if keep_partial:
            raise ValueError("keep_partial: goes with one video, not with many")
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
    loaded = predictor.model
    suffix = ".csv" if format == "csv" else ".json"
    first = out if several is None else out / f"any{suffix}"
    chosen = choose_format(first, format, loaded.skeleton)

    def run(source: Source, out: Path, overlay: Path | None, where: BoxOptions) -> Summary:
        from_file = where.read(source, loaded)
        wanted = choose_window(loaded, mode, window, causal, source.live, where, from_file, every)
        from_file, held = choose_hold(hold, where, from_file, loaded, wanted)
        find, why = where.finder(from_file, loaded, predictor.device)
        tracker = BoxTracker(source.fps / every, box_threshold) if track else None
        smoother = OneEuro(min_cutoff, beta) if smooth else None
        what = "single frames" if wanted is None else f"windows of the frames {list(wanted.deltas)}"
        log.info("%s: %s; boxes: %s", source.video.name, what, why)
        return predict_stream(
            source,
            find,
            WindowPoses(predictor, wanted),
            Finisher(loaded, scoring, tracker, smoother),
            ResultFile(out, chosen, loaded.skeleton),
            options=options,
            overlay=overlay,
            held=held,
        )

    if several is None:
        summary = run(source, out, overlay, where)
        written = out if summary.written else "nothing written"
        print(f"{summary.people} people in {summary.frames} frames -> {written}")
        if summary.left_out:
            print(f"left out: {len(summary.left_out)} frames that could not be read")
        return summary

    def run_one(video: str, out: Path, overlay: Path | None, box_file: Path | None) -> Summary:
        source = open_source(video, fps, deinterlace=deinterlace)
        _check_places(out, overlay, source, box_file)
        return run(source, out, overlay, replace(where, box_file=box_file))

    if box_file is None:  # what fails for every video is said once
        choose_window(loaded, mode, window, causal, False, where, None, every)
        where.finder(None, loaded, predictor.device)
    if predictor.device.type == "cpu":
        sharing.divide_threads()
    return predict_many(
        several,
        out,
        run_one,
        suffix=suffix,
        settings={**settings, "model": model_file(model)},
        overlay=overlay,
        box_file=box_file,
        on_error=on_error,
        merge=merge,
        sharing=sharing,
    )


def _check_alone(merge: Path | None) -> None:
    if merge is not None:
        raise ValueError("merge: goes with many videos, not with one")
    if process_count() > 1:
        raise ValueError(
            f"video: one video is not shared among processes, and torchrun started "
            f"{process_count()}; give a pattern or a list of many"
        )


def _default_out(video: str, source: Source, format: Format | None) -> Path:
    """In the current folder; never a file that is there, which may be the labels of the video.

    Raises:
        ValueError: there is such a file.
    """
    name = source.video.name
    if source.path is None:
        name = "poses"
    elif Path(video).is_file():
        name = Path(video).stem
    out = Path(f"{name}.csv" if format == "csv" else f"{name}.json")
    if out.exists():
        raise ValueError(f"out: {out} exists already; give a name (this one, to replace it)")
    return out


def _check_places(out: Path, overlay: Path | None, source: Source, box_file: Path | None) -> None:
    """An error before the work, not after it."""
    if out.is_dir():
        raise ValueError(f"out: expected a file to write, got the folder {out}")
    if box_file is not None and out.exists() and box_file.exists() and out.samefile(box_file):
        raise ValueError(f"out: {out} is the box_file; choose another name")
    if overlay is None:
        return
    if overlay.suffix.lower() != ".mp4":
        raise ValueError(f"overlay: expected a name that ends in .mp4, got {overlay}")
    if overlay.is_dir():
        raise ValueError(f"overlay: expected a file to write, got the folder {overlay}")
    if source.path is not None and overlay.exists() and overlay.samefile(source.path):
        raise ValueError(f"overlay: {overlay} is the video itself")
    try:
        overlay.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"overlay: {overlay.parent}: no folder can be made there: {reason}") from None
    if not os.access(overlay.parent, os.W_OK):
        raise OSError(f"overlay: {overlay.parent}: nothing may be written there (no permission)")
