"""Poses of JABS, the Jackson Laboratory's behaviour system (``VIDEO_pose_est_v2.h5`` to ``v8``).

Twelve joints of a mouse in every frame; coordinates are (y, x), and a confidence of 0 means that a
joint was not found. Version 2 holds one mouse, version 3 several with ids of tracklets, later
versions with lasting ids.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from posewarper.data.formats.label_file import LabelFile
from posewarper.data.formats.optional import open_hdf
from posewarper.data.formats.trajectories import add_trajectories

JOINTS = (
    "nose", "left_ear", "right_ear", "base_neck", "left_front_paw", "right_front_paw",
    "center_spine", "left_rear_paw", "right_rear_paw", "base_tail", "mid_tail", "tip_tail",
)  # fmt: skip
_LIMBS = ((3, 0), (3, 6), (6, 9), (9, 10), (10, 11), (0, 1), (0, 2), (6, 4), (6, 5), (9, 7), (9, 8))


def read_jabs(path: Path) -> LabelFile:
    """Predictions for every frame of a video.

    Raises:
        ValueError: arrays are missing or have other shapes; h5py is missing.
    """
    with open_hdf(path, "poses of JABS") as file:
        group = file["poseest"]
        missing = [name for name in ("points", "confidence") if name not in group]
        if missing:
            raise ValueError(f"{path}: a pose file of JABS without poseest/{missing[0]}")
        points = group["points"][()].astype(np.float64)
        confidence = group["confidence"][()].astype(np.float64)
        version = int(np.ravel(group.attrs.get("version", 2 if points.ndim == 3 else 3))[0])
        ids_name = "instance_track_id" if version == 3 else "instance_embed_id"
        ids = group[ids_name][()].astype(np.int64) if ids_name in group else None
        counts = group["instance_count"][()] if version == 3 and "instance_count" in group else None
        if points.ndim == 3:  # one mouse
            points, confidence = points[:, None], confidence[:, None]
            ids, counts = None, None
        if points.shape[2:] != (len(JOINTS), 2) or confidence.shape != points.shape[:3]:
            raise ValueError(
                f"{path}: expected points [frames, mice, {len(JOINTS)}, 2] and their "
                f"confidence, got {list(points.shape)} and {list(confidence.shape)}"
            )
        if points.shape[1] > 1 and (ids is None or ids.shape != points.shape[:2]):
            raise ValueError(f"{path}: several mice without poseest/{ids_name} of their shape")
        # A slot beyond the count of a frame, or with id 0 from version 4 on, holds nobody.
        if counts is not None:
            confidence[np.arange(points.shape[1]) >= counts.reshape(-1, 1)] = 0
        if ids is not None and version > 3:
            confidence[ids <= 0] = 0
        places = np.where(confidence[..., None] > 0, points[..., ::-1], np.nan)
        labels = LabelFile(str(path), JOINTS, "mouse", _LIMBS)
        video = re.sub(r"_pose_est_v\d+$", "", path.stem)
        labels.frame_counts[video] = len(places)
        names = np.array([None], object) if ids is None else ids.astype(str).astype(object)
        add_trajectories(labels, video, np.arange(len(places)), places, confidence, names=names)
        return labels
