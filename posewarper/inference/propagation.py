"""Labels of some frames of a video spread to its other frames (section 4.1 of the paper).

As in 2019: every frame from its nearest label, in that label's box. Beyond 2019: from the labels
before and after it, with the frame's own heatmaps as a third opinion. Beside it, the baselines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from posewarper.data.people import Upright
from posewarper.data.tables import PoseDataset
from posewarper.data.tracks import (
    CropBox,
    Leaving,
    Sources,
    human_labels,
    labels_of,
    targets_of,
)
from posewarper.data.video import FrameSource, fill_sizes
from posewarper.inference.baselines import Estimator, Flow, Poses, Preset, copy_labels
from posewarper.inference.following import Follow
from posewarper.inference.predictor import PosePredictor
from posewarper.inference.pseudo_labels import Counts, with_predictions
from posewarper.inference.refining import WithFlow
from posewarper.inference.warping import Single, Warp
from posewarper.progress import progress_bar

Method = Literal["warp", "copy", "linear", "flow", "single"]
WITH_NETWORK = ("warp", "single")
WITHOUT_FRAMES = ("copy", "linear")

_FIXED_SOURCES: dict[str, Sources] = {"copy": "nearest", "linear": "both"}


@dataclass(frozen=True)
class PropagationOptions:
    """How labels are spread.

    Args:
        method: "warp": the label moved by the model. "single": the network's own prediction in each
            frame. "copy": the nearest label as it is. "linear": interpolated in time between the
            labels before and after. "flow": carried by dense optical flow.
        sources: the nearest label, or the mean of those before and after, weighted by inverse
            distance; by default the nearest, with "linear" both.
        own_weight: with "warp", share of the frame's own heatmaps in the mean, 0 to 1. 1/3 with
            both sources is the mean of three opinions.
        neighbours: with "warp", frames on each side whose heatmaps, moved, share that share.
        consistent: with "warp", scores also tell whether the way there and back leads to the label;
            see ``Warp``.
        fade: with "warp", labels further away than so many frames count less, by fade / distance,
            and what is beside them more; None for never.
        box: in which the network looks: that of the nearest label, as in 2019, or interpolated
            between those before and after; by default the label's for one source and interpolated
            for both.
        follow: with a network, boxes are corrected by the poses that are found, and go along with
            somebody beyond the last label; see ``Follow``.
        flow_weight: with a network, share of where optical flow carries the nearest label, for
            joints on which both agree, and, with ``fade``, up to so many frames; see ``WithFlow``.
        distance: of a frame to its nearest label, at most; None for any.
        leaving: somebody who is absent from the next labelled frame is carried up to that frame
            ("label") or halfway, as in 2019.
        repredict: replace labelled frames by the prediction from their own label, as in 2019.
        rounded: with "warp", label heatmaps centred on the nearest heatmap pixel, as in 2019.
        preset: of the optical flow.
        threshold: joints have to have a higher score.

    Raises:
        ValueError: an option that is not known or does not go with another; names it.
    """

    method: Method = "warp"
    sources: Sources | None = None
    own_weight: float = 0.0
    neighbours: int = 0
    consistent: bool = False
    fade: int | None = None
    box: CropBox | None = None
    follow: bool = False
    flow_weight: float = 0.0
    distance: int | None = None
    leaving: Leaving = "label"
    repredict: bool = False
    rounded: bool = False
    preset: Preset = "medium"
    threshold: float = 0.0

    def __post_init__(self) -> None:
        for name, value, values in (
            ("method", self.method, get_args(Method)),
            ("sources", self.sources, (*get_args(Sources), None)),
            ("box", self.box, (*get_args(CropBox), None)),
            ("leaving", self.leaving, get_args(Leaving)),
        ):
            if value not in values:
                raise ValueError(f"{name}: expected one of {values}, got {value!r}")
        fixed = _FIXED_SOURCES.get(self.method)
        if fixed and self.sources not in (None, fixed):
            raise ValueError(f"sources: {self.method!r} has {fixed!r}, got {self.sources!r}")
        if not 0 <= self.own_weight <= 1:
            raise ValueError(f"own_weight: expected 0 to 1, got {self.own_weight}")
        if self.own_weight and self.method != "warp":
            raise ValueError(
                f"own_weight: goes with 'warp' only, got {self.own_weight} for {self.method!r}"
            )
        if self.neighbours < 0:
            raise ValueError(f"neighbours: expected 0 or more, got {self.neighbours}")
        if self.neighbours and not self.own_weight:
            raise ValueError("neighbours: they share in own_weight, which is 0")
        if self.fade is not None and self.fade < 1:
            raise ValueError(f"fade: expected at least 1 frame, got {self.fade}")
        if self.fade is not None and self.method != "warp":
            raise ValueError(f"fade: goes with 'warp' only, got {self.method!r}")
        if not 0 <= self.flow_weight <= 1:
            raise ValueError(f"flow_weight: expected 0 to 1, got {self.flow_weight}")
        if self.flow_weight and self.method not in WITH_NETWORK:
            raise ValueError(f"flow_weight: goes with {WITH_NETWORK}, got {self.method!r}")
        if self.follow and self.method not in WITH_NETWORK:
            raise ValueError(f"follow: goes with {WITH_NETWORK}, got {self.method!r}")
        if self.consistent and self.method != "warp":
            raise ValueError(f"consistent: goes with 'warp' only, got {self.method!r}")
        if self.rounded and self.method != "warp":
            raise ValueError(f"rounded: goes with 'warp' only, got {self.method!r}")
        if self.box is not None and self.method not in WITH_NETWORK:
            raise ValueError(f"box: goes with {WITH_NETWORK}, got {self.method!r}")
        if self.preset != "medium" and self.method != "flow" and not self.flow_weight:
            raise ValueError(
                f"preset: goes with 'flow' and with flow_weight, got {self.preset!r} for "
                f"{self.method!r}"
            )
        if self.distance is not None and self.distance < 1:
            raise ValueError(f"distance: expected at least 1 frame, got {self.distance}")
        if not self.threshold >= 0:
            raise ValueError(f"threshold: expected 0 or more, got {self.threshold}")
        if (self.method, self.sources, self.box) == ("warp", "both", "label"):
            raise ValueError(
                "box: expected 'interpolated' with two labels, whose warped maps need one box, "
                "got 'label'"
            )

    @property
    def labels_used(self) -> Sources:
        """``sources``, or its default."""
        return self.sources or _FIXED_SOURCES.get(self.method, "nearest")

    @property
    def box_used(self) -> CropBox:
        """``box``, or its default."""
        return self.box or ("interpolated" if self.labels_used == "both" else "label")


@dataclass(frozen=True, eq=False)
class Propagator:
    """Spreads labels: how poses are found, and which labels tell about which frames.

    Args:
        estimate: how poses are found.
        options: which labels tell about which frames; the method's own options are in ``estimate``.
        progress: show a progress bar.
        upright: the pose that is upright in crops; as the model has it.
    """

    estimate: Estimator
    options: PropagationOptions = field(default_factory=PropagationOptions)
    progress: bool = True
    upright: Upright = None

    def __call__(
        self, dataset: PoseDataset, source: FrameSource | None
    ) -> tuple[PoseDataset, Counts]:
        """The data set with labels on other frames, too; and counts. See ``propagate_labels``."""
        labels = human_labels(dataset)
        if source is not None and not labels.frames.size_wh.all():
            labels = fill_sizes(labels, source)
        options = self.options
        targets = [
            targets_of(
                of_video,
                labels.videos[of_video.video],
                sources=options.labels_used,
                box=options.box_used,
                distance=options.distance,
                leaving=options.leaving,
                repredict=options.repredict,
            )
            for of_video in labels_of(labels, self.upright)
        ]
        poses = []
        total = sum(len(of_video) for of_video in targets)
        with progress_bar(self.progress, total=total, unit="pose", desc="propagate") as bar:
            for video, of_video in zip(labels.videos, targets, strict=True):
                known = Poses.unknown(of_video)
                if of_video:
                    known = self.estimate(video, of_video, source, bar.update)
                poses.append(known)
        return with_predictions(labels, targets, poses, options.threshold)


def make_propagator(
    options: PropagationOptions, predictor: PosePredictor | None = None, progress: bool = True
) -> Propagator:
    """What finds poses in the way that the options say.

    Raises:
        ValueError: there is no model, or none with a warp head, and the method needs it; there is
            no such preset of the flow.
    """
    estimate: Estimator
    if options.method in WITH_NETWORK:
        if predictor is None:
            raise ValueError(f"predictor: method {options.method!r} needs a model, got none")
        if options.method == "warp":
            estimate = Warp(
                predictor, options.own_weight, options.neighbours, options.consistent,
                options.fade, options.rounded,
            )  # fmt: skip
        else:
            estimate = Single(predictor)
        if options.follow:
            estimate = Follow(estimate, predictor.model.upright)
        if options.flow_weight:
            flow = Flow(options.preset)
            estimate = WithFlow(estimate, options.flow_weight, options.fade, flow)
    elif options.method == "flow":
        estimate = Flow(options.preset)
    else:
        estimate = copy_labels
    upright = None if predictor is None else predictor.model.upright
    return Propagator(estimate, options, progress, upright)


def propagate_labels(
    dataset: PoseDataset,
    source: FrameSource | None,
    method: Method = "warp",
    *,
    predictor: PosePredictor | None = None,
    progress: bool = True,
    **options: Any,
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
        method: see ``PropagationOptions``.
        predictor: for "warp" and "single".
        progress: show a progress bar.
        options: the others of ``PropagationOptions``.

    Returns:
        All frames of the videos that have labels; those with people are labelled. Predicted
        people have ``joint_scores`` (NaN for joints without label), and their mean as ``score``.

    Raises:
        ValueError: an option, or a model that does not fit; a track id twice in one frame;
            heatmaps that are not finite.
        FrameError: a frame that cannot be read, if the source's policy says so.
    """
    run = make_propagator(PropagationOptions(method, **options), predictor, progress)
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
