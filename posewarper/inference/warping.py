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
from itertools import islice

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
from posewarper.data.tables import Bools, Floats, Video
from posewarper.data.tracks import Target
from posewarper.data.video import FrameSource, Image
from posewarper.heatmaps import decode, encode
from posewarper.inference.baselines import Poses
from posewarper.inference.holding import check_finite
from posewarper.inference.predictor import PosePredictor
from posewarper.models import HEATMAP_STRIDE

_TOLERANCE = 2.0  # sigmas by which the way there and back may miss before a score falls much


@dataclass(frozen=True, eq=False)
class Warp:
    """Labels moved by the model; see the head of this file.

    With two labels, the mean of their warped maps by inverse distance. A joint that one label
    lacks, or that lies outside the box there, comes from the other alone. Opinions beside those of
    the labels are the frame's own heatmaps and, moved by the model, those of its neighbours.

    Args:
        predictor: with a model that has a warp head.
        own_weight: share of the opinions beside the labels' in the mean, 0 to 1.
        neighbours: frames on each side that take part in them, each as much as the frame itself.
        consistent: scores are the heights of the maxima times how well the way back leads to the
            labels: what was found is moved back to each labelled frame, and where it arrives d
            heatmap pixels from the label, the factor is exp(-d^2 / (2 (2 sigma)^2)), with the sigma
            of the targets; 0 where nothing arrives. Of two labels it is the mean by distance; of
            labels that ``fade``, to the power of what they still count. Without it: the heights.
        fade: labels further away than so many frames count less, by fade / distance, and what is
            beside them more; None for never. A head knows the distances that it was trained on.
        rounded: label heatmaps centred on the nearest heatmap pixel, as in 2019.

    Raises:
        ValueError: a model without a warp head.
    """

    predictor: PosePredictor
    own_weight: float = 0.0
    neighbours: int = 0
    consistent: bool = False
    fade: int | None = None
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
        crops = [
            [_own_crop(target), *self._label_crops(target), *self._neighbour_crops(video, target)]
            for target in targets
        ]
        heatmaps = _Heatmaps(self.predictor, video, source, [c for part in crops for c in part])
        poses = Poses.unknown(targets)
        step = self.predictor.batch_size
        for start in range(0, len(targets), step):
            part = slice(start, start + step)
            maps = iter(heatmaps.of([c for of_target in crops[part] for c in of_target]))
            of_targets = [list(islice(maps, len(of_target))) for of_target in crops[part]]
            self._estimate(targets[part], of_targets, _view(poses, part))
            advance(len(targets[part]))
        return poses

    @torch.inference_mode()
    def _estimate(
        self, targets: Sequence[Target], maps: Sequence[Sequence[Tensor | None]], poses: Poses
    ) -> None:
        """Fill in the poses of some targets from the heatmaps of their crops."""
        found: dict[int, _Evidence] = {}
        for row, (target, of_target) in enumerate(zip(targets, maps, strict=True)):
            evidence = self._evidence(target, of_target)
            if evidence is not None:
                found[row] = evidence
        if not found:
            return
        rows, evidences = list(found), list(found.values())
        own = torch.stack([evidence.own for evidence in evidences])  # [n, J, h, w]
        place_of = [place for place, evidence in enumerate(evidences) for _ in evidence.moves]
        places = torch.tensor(place_of, device=own.device)
        moves = [move for evidence in evidences for move in evidence.moves]  # m of them
        warped = self.predictor.warp(
            own[places],
            torch.stack([move.there for move in moves]),
            torch.stack([move.moved.to(own.device) for move in moves]),
        )  # [m, J, h, w]
        weights = torch.from_numpy(np.stack([move.weights for move in moves])).to(own)  # [m, J]
        rest = 1 - torch.zeros_like(own[:, :, 0, 0]).index_add_(0, places, weights)  # [n, J]
        mean = own * rest[:, :, None, None]
        mean.index_add_(0, places, warped * weights[:, :, None, None])
        known = np.stack([evidence.known for evidence in evidences])  # [n, J]
        _decode(self.predictor, mean, own, targets, rows, known, poses)
        if self.consistent:
            arrived = self._way_back(targets, rows, evidences, poses)
            poses.scores[rows] = np.where(known, poses.scores[rows] * arrived, np.nan)

    def _evidence(self, target: Target, maps: Sequence[Tensor | None]) -> _Evidence | None:
        """What is moved to the frame of a target; None if nothing is known about it."""
        last = 1 + len(target.labels)
        own, of_labels, around = maps[0], maps[1:last], maps[last:]
        painted, places, inside = self._paint(target)
        usable = inside & np.array([there is not None for there in of_labels])[:, None]
        shares = target.shares(usable)  # [L, J]
        if own is None or not shares.any():
            return None
        faded = 1.0 if self.fade is None else min(self.fade / max(target.distance, 1), 1.0)
        of_all = (1 - self.own_weight) * faded
        moves = [
            _Move(there, torch.from_numpy(paint), share * of_all, place, share)
            for there, paint, share, place in zip(of_labels, painted, shares, places, strict=True)
            if there is not None and share.any()
        ]
        seen = [there for there in around if there is not None]
        each = np.full(shares.shape[1], (1 - of_all) / (1 + len(seen)))
        moves += [_Move(there, there, each) for there in seen]
        return _Evidence(own, shares.max(0) > 0, faded, moves)

    def _way_back(
        self,
        targets: Sequence[Target],
        rows: Sequence[int],
        evidences: Sequence[_Evidence],
        poses: Poses,
    ) -> Floats:
        """[n, J] how near the labels the poses that were found arrive when they are moved back."""
        model = self.predictor.model
        boxes = np.stack([targets[row].crop_box for row in rows])
        matrices = turned_crop_matrices(boxes, model.crop_wh, model.padding)
        painted, _ = self._encode(transform_points(poses.joints[rows], matrices))
        place_of, moves = [], []
        for place, evidence in enumerate(evidences):
            for move in evidence.moves:
                if move.label is not None:
                    place_of.append(place)
                    moves.append(move)
        there = torch.stack([move.there for move in moves])
        own = torch.stack([evidences[place].own for place in place_of])
        back = self.predictor.warp(there, own, torch.from_numpy(painted[place_of]).to(own.device))
        arrived, heights = decode(back, self.predictor.refinement, model.sigma)  # [m, J, 2], [m, J]
        wanted = np.stack([move.label for move in moves if move.label is not None])
        squares = ((arrived.double().cpu().numpy() - wanted) ** 2).sum(2)
        near = np.exp(-squares / (2 * (_TOLERANCE * model.sigma) ** 2))
        near = np.where(heights.cpu().numpy() > 0, near, 0)
        shares = np.stack([move.shares for move in moves if move.shares is not None])
        mean = np.zeros(painted.shape[:2])
        np.add.at(mean, place_of, np.where(shares > 0, shares * near, 0))
        faded = np.array([evidence.faded for evidence in evidences])
        nearness: Floats = mean ** faded[:, None]
        return nearness

    def _label_crops(self, target: Target) -> list[_Crop]:
        """Crops of the labelled frames: with the target's box, or with their own."""
        track, labels = target.track, list(target.labels)
        own_boxes = self.predictor.model.support_box == "own"
        boxes = (
            track.crop_box[labels] if own_boxes else target.crop_box[None].repeat(len(labels), 0)
        )
        numbers = track.numbers[labels].tolist()
        return [_Crop(n, tuple(b), n) for n, b in zip(numbers, boxes.tolist(), strict=True)]

    def _neighbour_crops(self, video: Video, target: Target) -> list[_Crop]:
        """Crops of the frames around, as far as labels of the person reach."""
        if not self.neighbours or not self.own_weight:
            return []
        track, number = target.track, target.number
        own_boxes = self.predictor.model.support_box == "own"
        # A box that was corrected is the better one for the frames around, too.
        own_boxes &= np.array_equal(target.crop_box, track.interpolated_box(number))
        found = []
        for step in (-1, 1):
            for other in range(number + step, number + step * (self.neighbours + 1), step):
                nearest = track.nearest(other)
                if video.clip(other) != other or nearest is None:
                    break
                box = track.interpolated_box(other) if own_boxes else target.crop_box
                found.append(_Crop(other, tuple(box.tolist()), int(track.numbers[nearest])))
        return found

    def _paint(self, target: Target) -> tuple[npt.NDArray[np.float32], Floats, Bools]:
        """Heatmaps of the labels in their crops [L, J, h, w], places of the joints in these
        [L, J, 2], and which of them are inside.
        """
        model = self.predictor.model
        boxes = np.array([wanted.box for wanted in self._label_crops(target)])
        matrices = turned_crop_matrices(boxes, model.crop_wh, model.padding)
        joints = transform_points(target.keypoints[:, :, :2], matrices)
        painted, inside = self._encode(joints, target.keypoints[:, :, 2] > 0)
        return painted, joints / HEATMAP_STRIDE, inside

    def _encode(
        self, joints: Floats, visible: Bools | None = None
    ) -> tuple[npt.NDArray[np.float32], Bools]:
        """Heatmaps of joints in pixels of crops, and which of them are inside."""
        model = self.predictor.model
        there = np.isfinite(joints).all(-1) if visible is None else visible
        painted, _ = encode(
            joints, np.asarray(there, np.float32), model.heatmap_hw, model.sigma, HEATMAP_STRIDE,
            self.rounded,
        )  # fmt: skip
        return painted, np.asarray(painted.any((-2, -1)))


@dataclass(frozen=True, eq=False)
class _Move:
    """Something that is moved to a target's frame.

    Attributes:
        there: H of the frame that it comes from, [J, h, w].
        moved: what is moved, [J, h, w].
        weights: [J] in the mean.
        label: [J, 2] the joints in heatmap pixels, if it is a label.
        shares: [J] among the labels, if it is one; they sum to 1.
    """

    there: Tensor
    moved: Tensor
    weights: Floats
    label: Floats | None = None
    shares: Floats | None = None


@dataclass(frozen=True, eq=False)
class _Evidence:
    """What there is to find the pose of a target.

    Attributes:
        own: H of its frame, [J, h, w]; it counts what the weights of the others leave.
        known: [J] joints that a label tells about.
        faded: what labels count still, for their distance; at most 1.
        moves: from other frames.
    """

    own: Tensor
    known: Bools
    faded: float
    moves: Sequence[_Move]


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
                view = _view(poses, part)
                _decode(self.predictor, found, found, targets[part], rows, known, view)
            advance(len(targets[part]))
        return poses


def _decode(
    predictor: PosePredictor,
    maps: Tensor,
    own: Tensor,
    targets: Sequence[Target],
    rows: Sequence[int],
    known: Bools,
    poses: Poses,
) -> None:
    """Fill in ``rows`` of the poses from their maps [n, J, h, w], where ``known`` [n, J]; ``own``:
    H of the frames themselves, like the maps.
    """
    model = predictor.model
    boxes = np.stack([targets[row].crop_box for row in rows])
    center, scale = box_to_center_scale(boxes[:, :4], model.crop_wh, model.padding)
    check_finite(maps)
    joints, scores = predictor.decode(maps, center, scale, boxes[:, 4], own)
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
