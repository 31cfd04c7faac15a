"""Pseudo-labels: a larger training set from sparse labels (section 4.2 of the paper).

Labels spread to the frames near them; what the model is sure of joins the human labels, and the
single-frame network is trained again on both.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from posewarper.data.annotations import save_coco
from posewarper.data.tables import PoseDataset
from posewarper.data.video import FrameSource, Missing
from posewarper.inference.baselines import Preset
from posewarper.inference.predictor import PosePredictor, Precision
from posewarper.inference.propagation import (
    Method,
    check_joints,
    load_inputs,
    make_propagator,
    report,
)
from posewarper.inference.pseudo_labels import Counts
from posewarper.inference.tracks import CropBox, Leaving, Sources


def augment_labels(
    dataset: PoseDataset,
    source: FrameSource | None,
    method: Method = "warp",
    *,
    predictor: PosePredictor | None = None,
    distance: int = 3,
    threshold: float = 0.2,
    sources: Sources | None = None,
    own_weight: float = 0.0,
    box: CropBox | None = None,
    leaving: Leaving = "label",
    rounded: bool = False,
    preset: Preset = "medium",
    progress: bool = True,
) -> tuple[PoseDataset, Counts]:
    """A data set with human labels and pseudo-labels around them.

    Unlike in 2019, labelled frames get no pseudo-labels, nor do frames outside the video; people
    get one in each frame, from their nearest label; and boxes move with the joints.

    Args:
        dataset: sparse labels.
        source: frames.
        distance: of a frame to its nearest label, at most; at least 1.
        threshold: joints with a score not above it are not labelled, people without joints left
            out.
        method, predictor, sources, own_weight, box, leaving, rounded, preset, progress: see
            ``propagate_labels``.

    Returns:
        The data set: its own frames, and those with pseudo-labels. Pseudo-labelled people have
        ``joint_scores`` (``people.predicted``). And counts.

    Raises:
        ValueError: an option, or a model that does not fit.
        FrameError: a frame that cannot be read, if the source's policy says so.
    """
    run = make_propagator(
        method, predictor, sources=sources, own_weight=own_weight, box=box, distance=distance,
        leaving=leaving, rounded=rounded, preset=preset, threshold=threshold, progress=progress,
    )  # fmt: skip
    check_joints(dataset, predictor)
    spread, counts = run(dataset, source)
    listed = np.isin(spread.frames.image_id, dataset.frames.image_id)
    return spread.select(frames=listed | spread.frames.labelled), counts


def augment(
    model: Path,
    labels: Path,
    out: Path,
    images: Path | None = None,
    distance: int = 3,
    threshold: float = 0.2,
    method: Method = "warp",
    sources: Sources | None = None,
    own_weight: float = 0.0,
    box: CropBox | None = None,
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
        model: model file or folder of a training; not read by copy, linear and flow.
        labels: COCO-style file, or folder of official PoseTrack files, with sparse labels.
        out: COCO-style file to write, for training; people with pseudo-labels have scores.
        images: folder that the frames' paths start in; copy and linear do without.
        distance: of a frame to its nearest label, at most.
        threshold: joints have to have a higher score.
        method: warp: labels moved by the model; single: the network's prediction frame by frame;
            copy: the nearest label; linear: interpolation in time; flow: dense optical flow.
        sources: the nearest label, or both around a frame; by default the nearest.
        own_weight: with warp, share of the frame's own heatmaps, 0 to 1.
        box: in which the network looks: the nearest label's (default of one source), or
            interpolated between two labels (default of both).
        leaving: carry somebody who is absent from the next labelled frame up to it, or halfway.
        rounded: label heatmaps centred on whole heatmap pixels, as in 2019.
        preset: of the optical flow.
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
    larger, counts = augment_labels(
        dataset, source, method, predictor=predictor, distance=distance, threshold=threshold,
        sources=sources, own_weight=own_weight, box=box, leaving=leaving, rounded=rounded,
        preset=preset, progress=progress,
    )  # fmt: skip
    save_coco(larger, out)
    report(counts, source, out)
    return larger
