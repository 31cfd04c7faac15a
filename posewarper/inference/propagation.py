"""Labels of some frames of a video spread to its other frames (section 4.1 of the paper).

As in 2019: every frame from its nearest label, in that label's box. Beyond 2019: from the labels
before and after it, with the frame's own heatmaps as a third opinion. Beside it, the baselines.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tqdm import tqdm

from posewarper.data.annotations import save_coco
from posewarper.data.posetrack import load_annotations
from posewarper.data.tables import PoseDataset
from posewarper.data.video import FrameSource, Missing, fill_sizes
from posewarper.inference.baselines import Estimator, Flow, Poses, Preset, copy_labels
from posewarper.inference.predictor import PosePredictor, Precision
from posewarper.inference.pseudo_labels import Counts, with_predictions
from posewarper.inference.tracks import (
    CropBox,
    Leaving,
    Sources,
    human_labels,
    labels_of,
    targets_of,
)
from posewarper.inference.warping import Single, Warp
from posewarper.models import load_model

Method = Literal["warp", "copy", "linear", "flow", "single"]
WITH_NETWORK = ("warp", "single")


@dataclass(frozen=True, eq=False)
class Propagator:
    """Spreads labels: how poses are found, and which labels tell about which frames.

    Args:
        estimate: how poses are found.
        sources, box, distance, leaving, repredict, threshold, progress: see ``propagate_labels``;
            all of them with a value.

    Raises:
        ValueError: an option that is not known or does not go with another; names it.
    """

    estimate: Estimator
    sources: Sources = "nearest"
    box: CropBox = "label"
    distance: int | None = None
    leaving: Leaving = "label"
    repredict: bool = False
    threshold: float = 0.0
    progress: bool = True

    def __post_init__(self) -> None:
        for name, value, values in (
            ("sources", self.sources, get_args(Sources)),
            ("box", self.box, get_args(CropBox)),
            ("leaving", self.leaving, get_args(Leaving)),
        ):
            if value not in values:
                raise ValueError(f"{name}: expected one of {values}, got {value!r}")
        if self.distance is not None and self.distance < 1:
            raise ValueError(f"distance: expected at least 1 frame, got {self.distance}")
        if not self.threshold >= 0:
            raise ValueError(f"threshold: expected 0 or more, got {self.threshold}")
        if isinstance(self.estimate, Warp) and (self.sources, self.box) == ("both", "label"):
            raise ValueError(
                "box: expected 'interpolated' with two labels, whose warped maps need one box, "
                "got 'label'"
            )

    def __call__(
        self, dataset: PoseDataset, source: FrameSource | None
    ) -> tuple[PoseDataset, Counts]:
        """The data set with labels on other frames, too; and counts. See ``propagate_labels``."""
        labels = human_labels(dataset)
        if source is not None and not labels.frames.size_wh.all():
            labels = fill_sizes(labels, source)
        targets = [
            targets_of(
                of_video,
                labels.videos[of_video.video],
                sources=self.sources,
                box=self.box,
                distance=self.distance,
                leaving=self.leaving,
                repredict=self.repredict,
            )
            for of_video in labels_of(labels)
        ]
        poses = []
        total = sum(len(of_video) for of_video in targets)
        with tqdm(total=total, unit="pose", desc="propagate", disable=not self.progress) as bar:
            for video, of_video in zip(labels.videos, targets, strict=True):
                known = Poses.unknown(of_video)
                if of_video:
                    known = self.estimate(video, of_video, source, bar.update)
                poses.append(known)
        return with_predictions(labels, targets, poses, self.threshold)


def make_propagator(
    method: Method = "warp",
    predictor: PosePredictor | None = None,
    *,
    sources: Sources | None = None,
    own_weight: float = 0.0,
    box: CropBox | None = None,
    distance: int | None = None,
    leaving: Leaving = "label",
    repredict: bool = False,
    rounded: bool = False,
    preset: Preset = "medium",
    threshold: float = 0.0,
    progress: bool = True,
) -> Propagator:
    """Options as in ``propagate_labels``, put together."""
    if method not in get_args(Method):
        raise ValueError(f"method: expected one of {get_args(Method)}, got {method!r}")
    fixed: dict[str, Sources] = {"copy": "nearest", "linear": "both"}
    if sources is not None and sources != fixed.get(method, sources):
        raise ValueError(f"sources: {method!r} has {fixed[method]!r}, got {sources!r}")
    if own_weight and method != "warp":
        raise ValueError(f"own_weight: goes with 'warp' only, got {own_weight} for {method!r}")
    estimate: Estimator
    if method == "warp":
        estimate = Warp(_needed(predictor, method), own_weight, rounded)
    elif method == "single":
        estimate = Single(_needed(predictor, method))
    elif method == "flow":
        estimate = Flow(preset)
    else:
        estimate = copy_labels
    sources = sources or fixed.get(method, "nearest")
    box = box or ("interpolated" if sources == "both" else "label")
    return Propagator(estimate, sources, box, distance, leaving, repredict, threshold, progress)


def _needed(predictor: PosePredictor | None, method: str) -> PosePredictor:
    if predictor is None:
        raise ValueError(f"predictor: method {method!r} needs a model, got none")
    return predictor


def propagate_labels(
    dataset: PoseDataset,
    source: FrameSource | None,
    method: Method = "warp",
    *,
    predictor: PosePredictor | None = None,
    sources: Sources | None = None,
    own_weight: float = 0.0,
    box: CropBox | None = None,
    distance: int | None = None,
    leaving: Leaving = "label",
    repredict: bool = False,
    rounded: bool = False,
    preset: Preset = "medium",
    threshold: float = 0.0,
    progress: bool = True,
) -> PoseDataset:
    """Spread the labels of labelled frames to the other frames of their videos.

    Human labels stay as they are, with their ids; predicted people that the data set has already
    are forgotten. A person is who has the same track id in two labelled frames of a video; labels
    do not cross a labelled frame in which the person is not. People without a track id are carried
    to those frames only whose nearest labelled frame is theirs. Joints that no label of the person
    around has stay unlabelled, and so do joints that are found outside the image.

    Args:
        dataset: some frames labelled. Joints as the model has them.
        source: frames; "copy" and "linear" do without.
        method: "warp": the label moved by the model. "single": the network's own prediction in each
            frame. "copy": the nearest label as it is. "linear": interpolated in time between the
            labels before and after. "flow": carried by dense optical flow.
        predictor: for "warp" and "single".
        sources: the nearest label, or the mean of those before and after, weighted by inverse
            distance; by default the nearest, with "linear" both.
        own_weight: with "warp", share of the frame's own heatmaps in the mean, 0 to 1. 1/3 with
            both sources is the mean of three opinions.
        box: in which the network looks: that of the nearest label, as in 2019, or interpolated
            between those before and after; by default the label's for one source and interpolated
            for both.
        distance: of a frame to its nearest label, at most; None for any.
        leaving: somebody who is absent from the next labelled frame is carried up to that frame
            ("label") or halfway, as in 2019.
        repredict: replace labelled frames by the prediction from their own label, as in 2019.
        rounded: with "warp", label heatmaps centred on the nearest heatmap pixel, as in 2019.
        preset: of the optical flow.
        threshold: joints have to have a higher score.
        progress: show a progress bar.

    Returns:
        All frames of the videos that have labels; those with people are labelled. Predicted
        people have ``joint_scores`` (NaN for joints without label), and their mean as ``score``.

    Raises:
        ValueError: an option, or a model that does not fit; a track id twice in one frame.
        FrameError: a frame that cannot be read, if the source's policy says so.
    """
    run = make_propagator(
        method, predictor, sources=sources, own_weight=own_weight, box=box, distance=distance,
        leaving=leaving, repredict=repredict, rounded=rounded, preset=preset, threshold=threshold,
        progress=progress,
    )  # fmt: skip
    check_joints(dataset, predictor)
    return run(dataset, source)[0]


def check_joints(dataset: PoseDataset, predictor: PosePredictor | None) -> None:
    """The model predicts the joints that are labelled.

    Raises:
        ValueError: it does not.
    """
    if predictor is not None and predictor.model.skeleton.joints != dataset.skeleton.joints:
        raise ValueError(
            f"{dataset.source}: expected the joints of the model, "
            f"{list(predictor.model.skeleton.joints)}, got {list(dataset.skeleton.joints)}"
        )


def load_inputs(
    model: Path,
    labels: Path,
    images: Path | None,
    method: Method,
    missing: Missing,
    device: str,
    precision: Precision,
    flip_test: bool,
    batch_size: int,
) -> tuple[PosePredictor | None, PoseDataset, FrameSource | None]:
    """What the commands work on, from files; the model only if the method needs it."""
    predictor = None
    if method in WITH_NETWORK:
        predictor = PosePredictor(
            load_model(model),
            device=device,
            precision=precision,
            flip_test=flip_test,
            batch_size=batch_size,
        )
    skeleton = None if predictor is None else predictor.model.skeleton
    dataset = load_annotations(labels, skeleton)
    check_joints(dataset, predictor)  # files of PoseTrack are read with its own joints
    source = None if images is None else FrameSource(images, missing, dataset=dataset)
    return predictor, dataset, source


def report(counts: Counts, source: FrameSource | None, out: Path) -> None:
    """Print what was done."""
    print(
        f"{counts.labelled_frames} labelled frames -> {counts.predicted_frames} more, "
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


def propagate(
    model: Path,
    labels: Path,
    out: Path,
    images: Path | None = None,
    method: Method = "warp",
    sources: Sources | None = None,
    own_weight: float = 0.0,
    box: CropBox | None = None,
    distance: int | None = None,
    leaving: Leaving = "label",
    repredict: bool = False,
    rounded: bool = False,
    preset: Preset = "medium",
    threshold: float = 0.0,
    missing: Missing = "error",
    device: str = "auto",
    precision: Precision = "fp32",
    flip_test: bool = False,
    batch_size: int = 64,
    progress: bool = True,
) -> PoseDataset:
    """Spread the labels of some frames of each video to its other frames.

    Args:
        model: model file or folder of a training; not read by copy, linear and flow.
        labels: COCO-style file, or folder of official PoseTrack files, with sparse labels.
        out: COCO-style file to write: all frames; predicted people have scores.
        images: folder that the frames' paths start in; copy and linear do without.
        method: warp: labels moved by the model; single: the network's prediction frame by frame;
            copy: the nearest label; linear: interpolation in time; flow: dense optical flow.
        sources: the nearest label, or both around a frame; by default the nearest.
        own_weight: with warp, share of the frame's own heatmaps, 0 to 1.
        box: in which the network looks: the nearest label's (default of one source), or
            interpolated between two labels (default of both).
        distance: of a frame to its nearest label, at most; any by default.
        leaving: carry somebody who is absent from the next labelled frame up to it, or halfway.
        repredict: replace labels by predictions from themselves, as in 2019.
        rounded: label heatmaps centred on whole heatmap pixels, as in 2019.
        preset: of the optical flow.
        threshold: joints have to have a higher score.
        missing: a frame that cannot be read is an error, is skipped, or is replaced by the nearest
            or by the labelled frame.
        device: auto, cpu, cuda, cuda:1.
        precision: of the convolutions.
        flip_test: mean of the heatmaps of a crop and its mirror image.
        batch_size: crops per pass.
        progress: show a progress bar.
    """
    predictor, dataset, source = load_inputs(
        model, labels, images, method, missing, device, precision, flip_test, batch_size
    )
    run = make_propagator(
        method, predictor, sources=sources, own_weight=own_weight, box=box, distance=distance,
        leaving=leaving, repredict=repredict, rounded=rounded, preset=preset, threshold=threshold,
        progress=progress,
    )  # fmt: skip
    spread, counts = run(dataset, source)
    save_coco(spread, out)
    report(counts, source, out)
    return spread
