"""Poses in frames without labels, found by the network: labels moved, or single frames.

For a person labelled in frame k, and another frame t (section 3 of the paper, in reverse):

    H(k), H(t)     heatmaps of both frames in one box
    painted        heatmaps of the label in that box
    warped         painted, moved by the model as the pose moved from k to t
    joints in t    maxima of warped; their heights are the scores

J joints, L labels of a target, h and w of heatmaps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from posewarper.data.crops import (
    box_to_center_scale,
    crop,
    transform_points,
    turned_crop_matrices,
)
from posewarper.data.tables import Bools, Video
from posewarper.data.tracks import Target
from posewarper.data.video import FrameSource, Image
from posewarper.heatmaps import encode
from posewarper.inference.aggregation import check_finite
from posewarper.inference.baselines import Poses
from posewarper.inference.predictor import PosePredictor
from posewarper.models import HEATMAP_STRIDE


@dataclass(frozen=True, eq=False)
class Warp:
    """Labels moved by the model; see the head of this file.

    With two labels, the mean of their warped maps by inverse distance. A joint that one label
    lacks, or that lies outside the box there, comes from the other alone.

    Args:
        predictor: with a model that has a warp head.
        own_weight: share of the frame's own heatmaps in the mean, 0 to 1.
        rounded: label heatmaps centred on the nearest heatmap pixel, as in 2019.

    Raises:
        ValueError: a model without a warp head.
    """

    predictor: PosePredictor
    own_weight: float = 0.0
    rounded: bool = False

    def __post_init__(self) -> None:
        self.predictor.warper  # noqa: B018  refuses a model without a warp head

    def __call__(
        self,
        video: Video,
        targets: Sequence[Target],
        source: FrameSource | None,
        advance: Callable[[int], object],
    ) -> Poses:
        """See ``Estimator``."""
        crops = [[_own_crop(target), *self._label_crops(target)] for target in targets]
        heatmaps = _Heatmaps(self.predictor, video, source, [c for part in crops for c in part])
        poses = Poses.unknown(targets)
        step = self.predictor.batch_size
        for start in range(0, len(targets), step):
            part = slice(start, start + step)
            maps = heatmaps.of([c for of_target in crops[part] for c in of_target])
            self._estimate(targets[part], maps, _view(poses, part))
            advance(len(targets[part]))
        return poses

    @torch.inference_mode()
    def _estimate(
        self, targets: Sequence[Target], maps: Sequence[Tensor | None], poses: Poses
    ) -> None:
        """Fill in the poses of some targets from their frame's and their labels' heatmaps."""
        model = self.predictor.model
        own, pair_of, sources, moved, shares = [], [], [], [], []
        rows: list[int] = []
        place = 0
        for row, target in enumerate(targets):
            here, of_labels = maps[place], maps[place + 1 : place + 1 + len(target.labels)]
            place += 1 + len(target.labels)
            painted, inside = self._paint(target)
            usable = inside & np.array([h is not None for h in of_labels])[:, None]
            share = target.shares(usable)
            if here is None or not share.any():
                continue
            for label, there in enumerate(of_labels):
                if there is not None and share[label].any():
                    pair_of.append(len(rows))
                    sources.append(there)
                    moved.append(painted[label])
                    shares.append(share[label])
            own.append(here)
            rows.append(row)
        if not rows:
            return
        device = own[0].device
        own_maps, pairs = torch.stack(own), torch.tensor(pair_of, device=device)  # [n, J, h, w]
        warped = self.predictor.warp(
            own_maps[pairs], torch.stack(sources), torch.from_numpy(np.stack(moved))
        )  # [m, J, h, w]
        weights = torch.from_numpy(np.stack(shares)).to(device, torch.float32)[:, :, None, None]
        mean = torch.zeros_like(own_maps).index_add_(0, pairs, warped * weights)
        if self.own_weight:
            mean = (1 - self.own_weight) * mean + self.own_weight * own_maps
        known = np.zeros((len(rows), len(model.skeleton)), np.bool_)
        np.logical_or.at(known, np.array(pair_of), np.stack(shares) > 0)
        _decode(self.predictor, mean, targets, rows, known, poses)

    def _label_crops(self, target: Target) -> list[_Crop]:
        return _label_crops(target, self.predictor.model.support_box == "own")

    def _paint(self, target: Target) -> tuple[npt.NDArray[np.float32], Bools]:
        """Heatmaps of the labels in their crops [L, J, h, w], and which joints are in those."""
        model = self.predictor.model
        boxes = np.array([c.box for c in self._label_crops(target)])
        matrices = turned_crop_matrices(boxes, model.crop_wh, model.padding)
        joints = transform_points(target.keypoints[:, :, :2], matrices)
        visible = (target.keypoints[:, :, 2] > 0).astype(np.float32)
        painted, weight = encode(
            joints, visible, model.heatmap_hw, model.sigma, HEATMAP_STRIDE, self.rounded
        )
        return painted, weight > 0


@dataclass(frozen=True, eq=False)
class Single:
    """What the single-frame network sees in each frame, in the box that a label gives: what the
    labels' motion adds is measured against it.
    """

    predictor: PosePredictor

    def __call__(
        self,
        video: Video,
        targets: Sequence[Target],
        source: FrameSource | None,
        advance: Callable[[int], object],
    ) -> Poses:
        """See ``Estimator``."""
        crops = [_own_crop(target) for target in targets]
        heatmaps = _Heatmaps(self.predictor, video, source, crops)
        poses = Poses.unknown(targets)
        step = self.predictor.batch_size
        for start in range(0, len(targets), step):
            part = slice(start, start + step)
            maps = heatmaps.of(crops[part])
            rows = [row for row, there in enumerate(maps) if there is not None]
            if rows:
                known = np.ones((len(rows), len(self.predictor.model.skeleton)), np.bool_)
                found = torch.stack([there for there in maps if there is not None])
                _decode(self.predictor, found, targets[part], rows, known, _view(poses, part))
            advance(len(targets[part]))
        return poses


def _decode(
    predictor: PosePredictor,
    maps: Tensor,
    targets: Sequence[Target],
    rows: Sequence[int],
    known: Bools,
    poses: Poses,
) -> None:
    """Fill in ``rows`` of the poses from their maps [n, J, h, w], where ``known`` [n, J]."""
    model = predictor.model
    boxes = np.stack([targets[row].crop_box for row in rows])
    center, scale = box_to_center_scale(boxes[:, :4], model.crop_wh, model.padding)
    check_finite(maps)
    joints, scores = predictor.decode(maps, center, scale, boxes[:, 4])
    poses.joints[rows] = np.where(known[:, :, None], joints, np.nan)
    poses.scores[rows] = np.where(known, scores, np.nan)


def _view(poses: Poses, part: slice) -> Poses:
    return Poses(poses.joints[part], poses.scores[part])


@dataclass(frozen=True)
class _Crop:
    """A box in a frame, and the labelled frame that it belongs to, for frames that are missing."""

    number: int
    box: tuple[float, ...]
    key: int


def _own_crop(target: Target) -> _Crop:
    return _Crop(target.number, tuple(target.crop_box.tolist()), target.key)


def _label_crops(target: Target, own_boxes: bool) -> list[_Crop]:
    """Crops of the labelled frames: with the target's box, or with their own."""
    track, labels = target.track, list(target.labels)
    boxes = track.crop_box[labels] if own_boxes else target.crop_box[None].repeat(len(labels), 0)
    return [
        _Crop(n, tuple(box), n)
        for n, box in zip(track.numbers[labels].tolist(), boxes.tolist(), strict=True)
    ]


class _Heatmaps:
    """H of crops of one video: each is computed once, and kept while it is still to be asked for.

    So are frames while crops of them are. The order of requests is the order of time, so that
    memory does not grow with the length of the video.
    """

    def __init__(
        self,
        predictor: PosePredictor,
        video: Video,
        source: FrameSource | None,
        crops: Sequence[_Crop],
    ):
        if source is None:
            raise ValueError("source: this method needs the frames of the videos")
        self.predictor, self.video, self.source = predictor, video, source
        self._uses = Counter(crops)
        self._crops_left = Counter(wanted.number for wanted in self._uses)
        self._maps: dict[_Crop, Tensor | None] = {}
        self._images: dict[int, Image] = {}

    def of(self, crops: Sequence[_Crop]) -> list[Tensor | None]:
        """[J, h, w] of each crop; None where the source skips the frame."""
        new = [wanted for wanted in dict.fromkeys(crops) if wanted not in self._maps]
        pixels, present = [], []
        for wanted in sorted(new, key=lambda w: w.number):
            self._maps[wanted] = None
            image = self._image(wanted)
            if image is not None:
                pixels.append(self._cut(image, wanted))
                present.append(wanted)
        if present:
            stacked = torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.stack(pixels), -1, 1)))
            maps = self.predictor.heatmaps(stacked)
            check_finite(maps)
            self._maps.update(zip(present, maps, strict=True))
        found = [self._maps[wanted] for wanted in crops]
        self._uses.subtract(crops)
        for wanted in set(crops):
            if not self._uses[wanted]:
                del self._maps[wanted]
        for wanted in set(new) & set(self._maps):
            there = self._maps[wanted]
            # A copy: what was computed together would stay together in memory.
            self._maps[wanted] = None if there is None else there.clone()
        return found

    def _image(self, wanted: _Crop) -> Image | None:
        number = wanted.number
        self._crops_left[number] -= 1
        image = self._images.pop(number, None)
        if image is None:
            image = self.source.read(self.video, number, key=wanted.key)
        # What stands in for a missing frame may depend on the key frame: it is not kept.
        replaced = (self.video.name, number) in self.source.problems
        if image is not None and self._crops_left[number] and not replaced:
            self._images[number] = image
        return image

    def _cut(self, image: Image, wanted: _Crop) -> Image:
        model = self.predictor.model
        matrix = turned_crop_matrices(wanted.box, model.crop_wh, model.padding)
        return crop(image, matrix, model.crop_wh)[0]
