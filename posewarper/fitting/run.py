"""``posewarper fit``: a few labelled frames of a video in, a pose in every frame out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.crops import Augmentation
from posewarper.data.formats import (
    LabelFormat,
    format_to_write,
    load_track_names,
    save_labels,
)
from posewarper.data.tables import PoseDataset
from posewarper.data.video import FrameSource, times
from posewarper.files import read_json, whole_file, write_json
from posewarper.fitting.comparison import (
    BASELINES,
    Comparison,
    comparable,
    compare,
    hidden_frames,
)
from posewarper.fitting.film import write_film
from posewarper.fitting.folder import FitFolder, identity
from posewarper.fitting.inputs import Inputs, read_inputs
from posewarper.fitting.page import write_page
from posewarper.fitting.plan import Plan, make_plan
from posewarper.inference import PosePredictor, propagate_labels
from posewarper.inference.smoothing import smooth as smooth_labels
from posewarper.models import load_model
from posewarper.models.devices import choose_device
from posewarper.training import (
    DataConfig,
    LoopConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    train,
)

_SIGMA = 1.5  # heatmap pixels
_FLOW_WEIGHT = 0.3  # of optical flow, where it agrees; measured there, too
_OWN_WEIGHT = 0.6  # of what the network sees in the frame itself; measured in docs/lab-notes.md


def fit(
    videos: Path | list[Path],
    labels: Path | None = None,
    out: Path = Path("fit"),
    skeleton: str | None = None,
    format: LabelFormat | None = None,
    holdout: float | None = None,
    truth: Path | None = None,
    upright: bool | None = None,
    effort: float = 1.0,
    smooth: bool = False,
    export: Path | None = None,
    film: bool = True,
    fps: float | None = None,
    deinterlace: bool = False,
    missing: Literal["error", "skip"] = "error",
    predicted_as_labels: bool = False,
    seed: int = 0,
    device: str = "auto",
    restart: bool = False,
    progress: bool = True,
) -> PoseDataset:
    """Label a few frames of any video, get a pose in every frame.

    Trains a small network and its warp head on the labelled frames and their neighbours, and gives
    every other frame the pose that the labels around it, moved by the warp, and the frame itself
    agree on. Leaves in ``out``: labels.json (every frame, with confidences), model.pt (for
    ``predict``), overlays/ (films), report.html. The same command goes on after an interrupt.

    Args:
        videos: video files or folders of images.
        labels: sparse labels: COCO, DeepLabCut, SLEAP, Label Studio, CVAT, NWB or CSV; it has to be
            given.
        out: folder to write to.
        skeleton: posetrack, coco, or a YAML file with joints, limbs and mirror pairs; by default
            the joints of the labels.
        format: of the labels, where name and content do not tell.
        holdout: share of the labelled frames that is hidden during training, to measure with; by
            default 0.1 of 20 labelled frames and more, but none with ``truth``. The final labels
            start from all.
        truth: labels of other frames that the result is to be compared with; they teach nothing.
        upright: turn crops with the pose, as is good for animals seen from above; by default where
            the labels stand at different angles.
        effort: factor on the length of both trainings.
        smooth: smooth joints over time (one-euro filter).
        export: also write the labels here, in the format that the name says.
        film: write films with the poses drawn in.
        fps: frames per second of folders of images, for films; by default 25.
        deinterlace: fill in the lines of interlaced video, whose frames show two moments.
        missing: stop at a frame that cannot be read (error), or go on without it (skip).
        predicted_as_labels: take labels with scores for labels of a human.
        seed: of the networks and the order of samples.
        device: auto, cpu, cuda, cuda:1.
        restart: start over in a folder that holds a fit.
        progress: show progress bars.

    Returns:
        The dense labels.

    Raises:
        ValueError: input that does not fit; names the file, and frame and joint where there is one.
        OSError: a file cannot be read or written.
    """
    if labels is None:
        raise ValueError("labels: a file with labels of some frames has to be given, got none")
    if fps is not None and not 0 < fps <= 1000:
        raise ValueError(f"fps: expected a number above 0 and at most 1000, got {fps}")
    if export is not None:
        format_to_write(export)
    paths = [videos] if isinstance(videos, Path) else list(videos)
    inputs = read_inputs(
        paths, labels, skeleton, format=format, predicted_as_labels=predicted_as_labels
    )
    if fps is not None and all(video.is_file for video in inputs.dataset.videos):
        raise ValueError("fps: goes with folders of images; video files tell their own")
    kind = choose_device(device).type
    plan = make_plan(inputs.dataset, kind, upright=upright, effort=effort)
    if holdout is None and truth is not None:
        holdout = 0.0  # the truth is there to measure with
    hidden = hidden_frames(inputs.dataset, holdout)
    expected = None if truth is None else _read_truth(truth, inputs, skeleton, hidden)
    settings = {
        **identity([*paths, labels, *([] if truth is None else [truth])]),
        **asdict(plan), "holdout": int(hidden.sum()), "smooth": smooth, "film": film,
        "fps": fps, "missing": missing, "seed": seed, "device": kind,
        "skeleton": asdict(inputs.dataset.skeleton), "predicted_as_labels": predicted_as_labels,
        **({"deinterlace": True} if deinterlace else {}),
    }  # fmt: skip
    folder = FitFolder(out, settings, restart)
    job = _Fit(
        folder, inputs, plan, hidden, expected, smooth, fps, deinterlace, missing, seed, device,
        progress,
    )  # fmt: skip
    for note in inputs.notes:
        print(f"note: {note}")
    print(job.summary())
    steps = job.steps(film)
    for number, (title, outputs, work) in enumerate(steps, 1):
        folder.run(f"{number}/{len(steps)} {title}", outputs, work)
    dense = load_coco(folder.labels)
    if export is not None:
        save_labels(dense, export, track_names=load_track_names(labels, format=format) or None)
        print(f"labels: {export}")
    job.conclude()
    return dense


def _read_truth(
    truth: Path, inputs: Inputs, skeleton: str | None, hidden: np.ndarray[Any, np.dtype[np.bool_]]
) -> PoseDataset:
    """Labels to compare with, of the same videos and joints."""
    dataset = inputs.dataset
    paths = [inputs.root / video.path for video in dataset.videos]
    expected = read_inputs(paths, truth, skeleton, predicted_as_labels=True).dataset
    if expected.skeleton.joints != dataset.skeleton.joints:
        raise ValueError(
            f"truth: expected the joints {list(dataset.skeleton.joints)}, got "
            f"{list(expected.skeleton.joints)}"
        )
    if not comparable(dataset.with_labels_of(dataset.frames.labelled & ~hidden), expected):
        raise ValueError(
            f"truth: {truth} has nobody to compare with: expected people in other frames than "
            "those of the labels, with the track ids of the labels"
        )
    return expected


class _Fit:
    """The steps, and what they share."""

    def __init__(
        self,
        folder: FitFolder,
        inputs: Inputs,
        plan: Plan,
        hidden: np.ndarray[Any, np.dtype[np.bool_]],
        truth: PoseDataset | None,
        smooth: bool,
        fps: float | None,
        deinterlace: bool,
        missing: Literal["error", "skip"],
        seed: int,
        device: str,
        progress: bool,
    ):
        self.folder, self.inputs, self.plan, self.truth = folder, inputs, plan, truth
        self.hidden, self.smooth, self.fps, self.seed = hidden, smooth, fps, seed
        self.device, self.progress, self.deinterlace = device, progress, deinterlace
        dataset = inputs.dataset
        gaps = sum(video.frame_count for video in dataset.videos) > len(dataset.frames)
        # Numbers that no image has are known and were told; they are no reason to stop.
        self.missing = "skip" if gaps else missing

    def summary(self) -> str:
        """What there is, and what will be done, in a sentence or two."""
        dataset, plan = self.inputs.dataset, self.plan
        labelled = int(dataset.frames.labelled.sum())
        tracks = {
            (int(v), int(t))
            for v, t in zip(
                dataset.frames.video[dataset.people.frame], dataset.people.track_id, strict=True
            )
            if t >= 0
        }
        crops = f"{plan.crop_wh[0]}x{plan.crop_wh[1]}" + (", turned" if plan.upright else "")
        return (
            f"{len(dataset.videos)} videos, {len(dataset.frames)} frames, {labelled} labelled"
            f" ({int(self.hidden.sum())} of them hidden to measure with), {len(dataset.people)} "
            f"people in {len(tracks)} tracks, {len(dataset.skeleton)} joints; crops {crops}; "
            f"{plan.pose_samples} + {plan.warp_samples} samples"
        )

    def steps(self, film: bool) -> list[tuple[str, Sequence[Path], Callable[[], None]]]:
        """Title, files and work of each."""
        folder, dataset = self.folder, self.inputs.dataset
        known = [folder.human, folder.training]
        steps: list[tuple[str, Sequence[Path], Callable[[], None]]] = [
            ("read the labels", known, self.prepare),
            ("train the network", [folder.pose / "final.pt"], self.train_pose),
            ("train the warp head", [folder.trained], self.train_warp),
            ("keep the model", [folder.model], self.keep_model),
        ]
        if self.truth is not None or self.hidden.any():
            steps.append(("measure on hidden labels", [folder.comparison], self.measure))
        steps.append(("spread the labels", [folder.labels], self.spread))
        if film:
            for position, video in enumerate(dataset.videos):
                path = folder.overlay(video)
                steps.append((f"film {video.name}", [path], partial(self.film, position, path)))
        steps.append(("write the report", [folder.results, folder.report], self.report))
        return steps

    def prepare(self) -> None:
        """Labels as files: all of them, and those that are not hidden."""
        dataset, folder = self.inputs.dataset, self.folder
        folder.human.parent.mkdir(exist_ok=True)
        if self.truth is not None:
            save_coco(self.truth, folder.truth)
        save_coco(dataset.with_labels_of(dataset.frames.labelled & ~self.hidden), folder.training)
        save_coco(dataset, folder.human)

    def train_pose(self) -> None:
        """The single-frame network."""
        plan = self.plan
        train(
            replace(
                self._data(), crop_wh=plan.crop_wh, padding=plan.padding, sigma=_SIGMA,
                upright=plan.upright,
            ),
            out=self.folder.pose,
            model=ModelConfig(
                width=plan.width, modules=(1, 1), blocks=1, stem_width=16, stem_blocks=1,
                softmax_sigma=_SIGMA, refinement="dark",
            ),
            loss=LossConfig(kind="cross_entropy"),
            optimizer=OptimizerConfig(kind="adamw", lr=3e-3, weight_decay=1e-2),
            **self._length(plan.pose_samples),
        )  # fmt: skip

    def train_warp(self) -> None:
        """The warp head on top of it."""
        train(
            replace(self._data(), delta_range=self.plan.reach, support_box="own"),
            out=self.folder.warp,
            stage="warp",
            init=self.folder.pose / "final.pt",
            model=ModelConfig(head_width=32, head_blocks=4, dilations=(1, 3, 6)),
            optimizer=OptimizerConfig(kind="adamw", lr=2e-3, weight_decay=1e-2),
            **self._length(self.plan.warp_samples),
        )  # fmt: skip

    def keep_model(self) -> None:
        """The finished model, beside the results."""
        with whole_file(self.folder.model) as copy:
            shutil.copyfile(self.folder.trained, copy)

    def measure(self) -> None:
        """Hidden labels, spread in every way."""
        folder = self.folder
        labels = load_coco(folder.training)
        truth = load_coco(folder.human if self.truth is None else folder.truth)
        result = compare(
            labels, truth, self._frames(), {"warp": self._options(), **BASELINES},
            self._predictor(), self.progress,
        )  # fmt: skip
        if result is None:
            raise ValueError(
                "holdout, truth: nobody to compare with: hidden people need a track id, and labels "
                "of the same track in other frames"
            )
        result.save(folder.comparison)

    def spread(self) -> None:
        """Every label to the other frames."""
        source = self._frames()
        dense = propagate_labels(
            load_coco(self.folder.human), source, predictor=self._predictor(),
            progress=self.progress, **self._options(),
        )  # fmt: skip
        if self.smooth:
            dense = smooth_labels(dense, [times(source, v, self._fps(v)) for v in dense.videos])
        save_coco(dense, self.folder.labels)
        if source.problems:
            print(f"{len(source.problems)} frames could not be read and have no pose")

    def film(self, position: int, path: Path) -> None:
        """A video with the poses in it."""
        dense = load_coco(self.folder.labels)
        fps = self._fps(dense.videos[position])
        write_film(dense, position, self._frames(), path, fps=fps, progress=self.progress)

    def report(self) -> None:
        """Numbers, and the page."""
        folder = self.folder
        comparison = Comparison.load(folder.comparison) if folder.comparison.exists() else None
        source = self._frames()
        dense = load_coco(folder.labels)
        seconds = [times(source, video, self._fps(video)) for video in dense.videos]
        results = write_page(folder, dense, comparison, source, seconds, self.inputs.notes)
        write_json(folder.results, results)

    def conclude(self) -> None:
        """Say where everything is, and how good."""
        results = read_json(self.folder.results)
        for method, numbers in results.get("hidden", {}).items():
            pck = " / ".join(f"{value:.3f}" for value in numbers["pck"].values())
            median = numbers["median_px"]
            error = "none found" if median is None else f"median error {median:.1f} px"
            print(f"{method:<10} PCK {pck}   {error}")
        for path in (self.folder.labels, self.folder.model, self.folder.report):
            print(path)

    def _data(self) -> DataConfig:
        return DataConfig(
            train=self.folder.training, images=self.inputs.root, rounded=False,
            missing=self.missing, deinterlace=self.deinterlace,
            cache_mb=psutil.virtual_memory().available // 3 // 2**20,
        )  # fmt: skip

    def _length(self, samples: int) -> dict[str, Any]:
        """How long a training is, and what goes for both."""
        plan = self.plan
        return {
            "augmentation": Augmentation(
                scale_factor=0.2,
                rotation_factor=15.0 if plan.upright else 30.0,
                flip_probability=0.5 if plan.flip else 0.0,
                half_body_probability=0.0,
            ),
            "schedule": ScheduleConfig(kind="cosine", warmup=0.15),
            "loop": LoopConfig(
                epochs=10, samples_per_epoch=-(-samples // 10), batch_size=16, precision="bf16",
                seed=self.seed, device=self.device,
            ),
            "progress": self.progress,
        }  # fmt: skip

    def _options(self) -> dict[str, Any]:
        return {
            "method": "warp", "sources": "both", "own_weight": _OWN_WEIGHT, "consistent": True,
            "fade": self.plan.reach, "follow": True, "flow_weight": _FLOW_WEIGHT,
        }  # fmt: skip

    def _predictor(self) -> PosePredictor:
        model = load_model(self.folder.model)
        return PosePredictor(model, device=self.device, precision="bf16", batch_size=32)

    def _frames(self) -> FrameSource:
        dataset = self.inputs.dataset
        return FrameSource(
            self.inputs.root, self.missing, dataset=dataset, cached_frames=64,
            deinterlace=self.deinterlace,
        )  # fmt: skip

    def _fps(self, video: Any) -> float | None:
        """Of folders, which do not say themselves."""
        return None if video.is_file else (self.fps or 25.0)
