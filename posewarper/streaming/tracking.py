"""Who is who in the next frame, for boxes that do not tell: ByteTrack (arXiv 2110.06864).

The library is ``trackers`` (Apache-2.0, extra ``track``). It was chosen over Norfair (BSD), which
demands NumPy below 2, and over BoxMOT, whose licence is the AGPL. It is imported on demand.
"""

from __future__ import annotations

import warnings

import numpy as np

from posewarper.data.tables import Floats, Ints


class BoxTracker:
    """Track ids for boxes, frame by frame.

    A person has no id (-1) in the first frame that it is seen in, and none while the score of its
    box is below ``threshold`` unless it goes on with a track. Tracks are remembered for a second.

    Args:
        fps: frames that are tracked per second.
        threshold: boxes with at least this score begin tracks; others only continue them.

    Raises:
        ValueError: the library is not installed; names the extra.
    """

    def __init__(self, fps: float, threshold: float):
        try:
            import supervision
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise ValueError(
                f"track: needs the package trackers (missing: {error.name}), which "
                "pip install 'posewarper[track]' brings"
            ) from None
        self._detections = supervision.Detections
        self._tracker = ByteTrackTracker(
            frame_rate=fps,
            track_activation_threshold=threshold,
            high_conf_det_threshold=threshold,
            minimum_consecutive_frames=1,
        )

    def __call__(self, boxes: Floats, scores: Floats) -> Ints:
        """Ids of the people of the next frame.

        Args:
            boxes: [P, 4] x, y, width, height in pixels.
            scores: [P].

        Returns:
            [P], -1 for people without one.
        """
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        given = self._detections(
            xyxy=corners.reshape(-1, 4), confidence=scores, data={"row": np.arange(len(boxes))}
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            found = self._tracker.update(given)
        ids = np.full(len(boxes), -1, np.int64)
        if len(found):
            ids[np.asarray(found.data["row"], np.int64)] = np.asarray(found.tracker_id, np.int64)
        return ids
