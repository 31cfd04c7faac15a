"""Poses of some people in some frames: crops of windows, network, decoding.

The same as ``inference.predict_boxes`` does for data sets: a person is cropped from all frames of
the window with the box of the key frame, and H of each different crop is computed once. Models that
want each frame cropped with its own box (``support_box``) get that.

P people of a frame, J joints, T frames of a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from posewarper.data.crops import box_to_center_scale, crop, turned_crop_matrices
from posewarper.data.formats.label_file import boxes_of_joints
from posewarper.data.tables import Bools, Floats, Ints, starts
from posewarper.data.upright import not_turned, upright_boxes
from posewarper.data.video import Image
from posewarper.inference.holding import KeptHeatmaps, check_finite
from posewarper.inference.predictor import Predictor
from posewarper.models import PoseSpec, Window

SINGLE = Window.equal(0)

_ANGLES: Floats = np.arange(8, dtype=np.float64) * 45  # degrees, tried where nobody knows them
_PARTS = (1, 2, 4)  # of the frame's sides, for boxes that are tried where nobody knows the place
_CLOSER = 8  # of these are looked at again
_SURE = 0.3  # of a person's highest maximum: joints below it do not count for the next box


@dataclass(frozen=True, eq=False)
class Places:
    """Where people are in one frame.

    Attributes:
        box: [P, 5] x, y, width, height in pixels and degrees; see ``data.upright``. NaN degrees say
            that the angle is to be found out, nothing but NaN that the place is, too.
        score: [P] of the box.
        track_id: [P], -1 for people without one.
    """

    box: Floats
    score: Floats
    track_id: Ints

    @classmethod
    def make(
        cls,
        box: Floats,
        score: Floats | None = None,
        track_id: Ints | None = None,
    ) -> Places:
        """From columns, boxes [P, 4] or [P, 5]; by default scores of 1 and no tracks."""
        box = np.asarray(box, np.float64)
        box = not_turned(box) if box.size == 0 or box.shape[1] == 4 else box
        return cls(
            box,
            np.ones(len(box)) if score is None else np.asarray(score, np.float64),
            np.full(len(box), -1) if track_id is None else np.asarray(track_id, np.int64),
        )

    def __len__(self) -> int:
        return len(self.box)

    def boxes_in(self, other: Places) -> Floats:
        """Boxes [P, 5] of these people in another frame; their own here, where they are not in it
        or nobody knows their angle.
        """
        box = self.box.copy()
        for row, track in enumerate(self.track_id.tolist()):
            there = np.flatnonzero((other.track_id == track) & np.isfinite(other.box).all(1))
            if track >= 0 and len(there):
                box[row] = other.box[there[0]]
        return box

    def __getitem__(self, rows: Ints | Bools) -> Places:
        return Places(self.box[rows], self.score[rows], self.track_id[rows])


@dataclass(frozen=True, eq=False)
class Poses:
    """People of one frame, with the places in which they were found.

    Attributes:
        points: [P, J, 2] x, y in pixels.
        heights: [P, J] of the maxima.
        places: where the network looked.
    """

    points: Floats
    heights: Floats
    places: Places

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, rows: Ints | Bools) -> Poses:
        return Poses(self.points[rows], self.heights[rows], self.places[rows])

    @property
    def mean_height(self) -> Floats:
        """[P] mean of the maxima that are positive, over all joints."""
        return np.where(self.heights > 0, self.heights, 0).mean(1)


@dataclass(frozen=True, eq=False)
class Job:
    """A key frame whose window is complete.

    Attributes:
        numbers: T frames, clipped to the video.
        images: those frames.
        key: number of the key frame.
        places: whose poses are wanted.
        boxes: where these people are in other frames, [P, 5] by frame; where it says nothing, in
            the place of the key frame. Poses are found in the crop of the key frame in any case.
    """

    numbers: tuple[int, ...]
    images: Mapping[int, Image]
    key: int
    places: Places
    boxes: Mapping[int, Floats] = field(default_factory=dict)


class WindowPoses:
    """Poses of a video, decided by windows of frames, or by single frames.

    Args:
        predictor: the model.
        window: its frames and weights; None for single frames.
    """

    def __init__(self, predictor: Predictor, window: Window | None):
        self.predictor = predictor
        self.aggregates = window is not None
        window = SINGLE if window is None else window
        self.window = window if predictor.model.window_fixed else window.used()
        self._kept = KeptHeatmaps(predictor)
        self._jobs = 0  # that were done

    def __call__(self, jobs: Sequence[Job]) -> list[Poses]:
        """The poses of each job's people.

        Raises:
            ValueError: heatmaps that are not finite.
        """
        joints = len(self.predictor.model.skeleton)
        points, heights = np.zeros((0, joints, 2)), np.zeros((0, joints))
        if any(len(job.places) for job in jobs):
            windows = self._windows(jobs)
            own = windows[:, self.window.key_index]
            if self.aggregates:
                maps = self.predictor.aggregate(windows, self.window)  # [B, J, h, w]
            else:
                maps = own
            boxes = np.concatenate([job.places.box for job in jobs])
            points, heights = self._decode(maps, boxes, own)
        self._jobs += len(jobs)
        parts = starts([len(job.places) for job in jobs])
        return [
            Poses(points[a:b], heights[a:b], job.places)
            for job, a, b in zip(jobs, parts[:-1], parts[1:], strict=True)
        ]

    def forget(self) -> None:
        """Another video begins: numbers mean other frames."""
        self._kept = KeptHeatmaps(self.predictor)

    def alone(self, image: Image, places: Places) -> Poses:
        """Poses from one frame alone."""
        if not len(places):
            joints = len(self.predictor.model.skeleton)
            return Poses(np.zeros((0, joints, 2)), np.zeros((0, joints)), places)
        crops = list(crop(image, self._matrices(places.box), self._crop_wh))
        maps = self._heatmaps(crops)
        return Poses(*self._decode(maps, places.box, maps), places)

    def settled(self, image: Image, places: Places) -> Places:
        """The places, with boxes around poses in place of those that are only roughly known.

        Where crops are turned, the surest of eight angles counts. Where the place is not known,
        boxes all over the frame are tried; the surest poses are looked at again, each in a box
        around it, and the one that then is surest counts.
        """
        box = places.box.copy()
        for row in np.flatnonzero(np.isnan(box[:, 4])).tolist():
            tried = self.alone(image, Places.make(self._to_try(box[row], image)))
            heights = tried.mean_height.reshape(-1, len(self._angles))  # places, angles
            angle, sure = heights.argmax(1), heights.max(1)
            best = np.argsort(-sure, kind="stable")[:_CLOSER]
            best = best * len(self._angles) + angle[best]
            around = box_of_pose(tried[best], self.predictor.model)
            known = np.isfinite(around).all(1)
            if known.any():
                around = around[known]
                closer = self.alone(image, Places.make(around))
                box[row] = around[closer.mean_height.argmax()]
            else:
                box[row] = tried.places.box[best[0]]
        return Places(box, places.score, places.track_id)

    def _to_try(self, box: Floats, image: Image) -> Floats:
        """Boxes [n, 5] in place of one of which the angle, or all, is not known."""
        boxes = box[None, :4]
        if np.isnan(boxes).any():
            boxes = _all_over((image.shape[1], image.shape[0]))
        angles = self._angles
        return np.c_[np.repeat(boxes, len(angles), 0), np.tile(angles, len(boxes))]

    @property
    def _angles(self) -> Floats:
        return _ANGLES[:1] if self.predictor.model.upright is None else _ANGLES

    def _windows(self, jobs: Sequence[Job]) -> Tensor:
        """H of every person's window, ``[B, T, J, h, w]``; of every frame and box once."""
        wanted: list[tuple[Image, Floats]] = []  # of each different frame of each window
        keys: list[tuple[int, bytes]] = []
        moments: list[int] = []
        index: list[Ints] = []
        for moment, job in enumerate(jobs, self._jobs):
            numbers, of_frame = np.unique(job.numbers, return_inverse=True)
            for person in range(len(job.places)):
                index.append(len(keys) + of_frame)
                for number in numbers.tolist():
                    box = job.boxes.get(number, job.places.box)[person]
                    wanted.append((job.images[number], box))
                    keys.append((number, box.tobytes()))
                    moments.append(moment)

        def crops(positions: list[int]) -> Tensor:
            parts = [wanted[position] for position in positions]
            matrices = self._matrices(np.stack([box for _, box in parts]))
            return _stacked(
                [
                    crop(image, matrix[None], self._crop_wh)[0]
                    for (image, _), matrix in zip(parts, matrices, strict=True)
                ]
            )

        heatmaps = self._kept.of(keys, moments, crops)
        return heatmaps[torch.from_numpy(np.stack(index)).to(heatmaps.device)]

    def _heatmaps(self, crops: Sequence[Image]) -> Tensor:
        heatmaps = self.predictor.heatmaps(_stacked(crops))
        check_finite(heatmaps)
        return heatmaps

    def _decode(self, maps: Tensor, boxes: Floats, own: Tensor) -> tuple[Floats, Floats]:
        check_finite(maps)
        padding = self.predictor.model.padding
        center, scale = box_to_center_scale(boxes[:, :4], self._crop_wh, padding)
        return self.predictor.decode(maps, center, scale, boxes[:, 4], own)

    def _matrices(self, boxes: Floats) -> Floats:
        return turned_crop_matrices(boxes, self._crop_wh, self.predictor.model.padding)

    @property
    def _crop_wh(self) -> tuple[int, int]:
        return self.predictor.model.crop_wh


def _stacked(crops: Sequence[Image]) -> Tensor:
    """``[n, 3, H, W]``, with channels last in memory, as the network likes them."""
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


def _all_over(size_wh: tuple[int, int]) -> Floats:
    """Boxes [n, 4] of the whole frame, and of parts of it that overlap by half."""
    boxes = []
    for parts in _PARTS:
        width, height = size_wh[0] / parts, size_wh[1] / parts
        at = np.arange(2 * parts - 1) / 2
        boxes += [(x * width, y * height, width, height) for y in at for x in at]
    return np.array(boxes)


def box_of_pose(poses: Poses, model: PoseSpec) -> Floats:
    """Boxes [P, 5] to look for the same people in the next frame.

    Around the joints of which the network is surest, with the margin that boxes of labels have;
    turned for models that want that. NaN where such joints do not lie in two places.
    """
    heights = poses.heights
    sure = (heights > 0) & (heights >= _SURE * heights.max(1, initial=0, keepdims=True))
    keypoints = np.concatenate([poses.points, 2.0 * sure[..., None]], 2)
    if model.upright is not None:
        box, degrees = upright_boxes(keypoints, model.upright)
        return np.concatenate([box, degrees[:, None]], 1)
    box = boxes_of_joints(keypoints)
    box[(sure.sum(1) < 2) | (box[:, 2:] <= 0).any(1)] = np.nan
    return not_turned(box)


def extents(poses: Poses) -> Floats:
    """Boxes [P, 4] around all joints that were found, not turned; NaN for people without any."""
    found = poses.heights > 0
    box = boxes_of_joints(np.concatenate([poses.points, 2.0 * found[..., None]], 2))
    box[~found.any(1)] = np.nan
    return box
