"""Pseudo-labels: a larger training set from sparse labels (section 4.2 of the paper).

Labels spread to the frames near them; what the model is sure of joins the human labels, and the
single-frame network is trained again on both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from posewarper.data.tables import PoseDataset
from posewarper.data.video import FrameSource
from posewarper.inference.predictor import PosePredictor
from posewarper.inference.propagation import (
    Method,
    PropagationOptions,
    check_joints,
    make_propagator,
)
from posewarper.inference.pseudo_labels import Counts


def augment_labels(
    dataset: PoseDataset,
    source: FrameSource | None,
    method: Method = "warp",
    *,
    predictor: PosePredictor | None = None,
    distance: int = 3,
    threshold: float = 0.2,
    progress: bool = True,
    **options: Any,
) -> tuple[PoseDataset, Counts]:
    """A data set with human labels and pseudo-labels around them.

    Unlike in 2019, labelled frames get no pseudo-labels, nor do frames outside the video; people
    get one in each frame, however many labels it comes from; and boxes move with the joints.

    Args:
        dataset: sparse labels.
        source: frames; "copy" and "linear" do without.
        method: see ``PropagationOptions``.
        predictor: for "warp" and "single".
        distance: of a frame to its nearest label, at most; at least 1.
        threshold: joints with a score not above it are not labelled, people without joints left
            out.
        progress: show a progress bar.
        options: the others of ``PropagationOptions``, without ``repredict``.

    Returns:
        The data set: its own frames, and those with pseudo-labels. Pseudo-labelled people have
        ``joint_scores`` (``people.predicted``). And counts.

    Raises:
        TypeError: ``repredict`` is given.
        ValueError: an option, or a model that does not fit; heatmaps that are not finite.
        FrameError: a frame that cannot be read, if the source's policy says so.
    """
    chosen = PropagationOptions(
        method, distance=distance, threshold=threshold, repredict=False, **options
    )
    run = make_propagator(chosen, predictor, progress)
    check_joints(dataset, predictor)
    spread, counts = run(dataset, source)
    listed = np.isin(spread.frames.image_id, dataset.frames.image_id)
    return spread.select(frames=listed | spread.frames.labelled), counts
