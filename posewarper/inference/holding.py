"""Crop boxes that are held over some frames, and heatmaps that serve every window they are in.

H of a frame depends on the frame and on its crop box alone. In a window all frames are cropped with
the key frame's box, so that a frame is seen anew by the backbone for every window that it is in,
unless boxes stay equal: where they do, H is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from posewarper.data.crops import invert_matrices, transform_points, turned_crop_matrices
from posewarper.data.tables import Bools, Floats, Ints
from posewarper.inference.predictor import Predictor
from posewarper.models import PoseSpec

_TURN = 15.0  # degrees by which a box may be turned against the one that is held


class KeptHeatmaps:
    """H by frame and box, computed once while window follows window.

    What none of the last key frames asked for is forgotten: memory does not grow with the length of
    a video.

    Args:
        predictor: what computes H.
        moments: how many key frames count as the last.
    """

    def __init__(self, predictor: Predictor, moments: int = 2):
        self.predictor, self.moments = predictor, moments
        self._maps: dict[Hashable, Tensor] = {}
        self._asked: dict[Hashable, int] = {}  # when last

    def of(
        self,
        keys: Sequence[Hashable],
        moments: Sequence[int],
        crops: Callable[[list[int]], Tensor],
    ) -> Tensor:
        """The heatmaps of some crops.

        Args:
            keys: what tells frame and box of each; equal ones are the same crop.
            moments: for each the place of its key frame in the order of key frames.
            crops: makes the crops of some of them, given their positions: ``[n, 3, H, W]``.

        Returns:
            ``[len(keys), J, h, w]`` on the predictor's device.

        Raises:
            ValueError: heatmaps that are not finite.
        """
        new: dict[Hashable, int] = {}
        for position, key in enumerate(keys):
            if key not in self._maps:
                new.setdefault(key, position)
        if new:
            heatmaps = self.predictor.heatmaps(crops(list(new.values())))
            check_finite(heatmaps)
            self._maps.update(zip(new, heatmaps, strict=True))
        found = torch.stack([self._maps[key] for key in keys])
        self._asked.update(zip(keys, moments, strict=True))
        oldest = max(moments) - self.moments
        for key in [key for key, moment in self._asked.items() if moment <= oldest]:
            del self._maps[key], self._asked[key]
        return found


def check_finite(heatmaps: Tensor) -> None:
    """Warps sample nothing where maps are not finite, and nobody would notice.

    Raises:
        ValueError: some value is not finite.
    """
    if not torch.isfinite(heatmaps).all():
        raise ValueError(
            "model: its heatmaps are not finite: the weights are damaged, or the precision is too "
            "low for them (fp32 and bf16 have the larger range)"
        )


def hold_boxes(number: Ints, track: Ints, box: Floats, hold: int, model: PoseSpec) -> Floats:
    """Boxes that change only every so many frames, of which all are known.

    Args:
        number: [n] frames.
        track: [n] who it is, once in a frame; boxes of people without a track (-1) stay.
        box: [n, 5], x, y, width, height in pixels, degrees.
        hold: for how many frames a box is held, at most.
        model: for crops.

    Returns:
        Boxes like ``box``: the frames of a track are taken in chunks of ``hold`` or, where the
        boxes of such a chunk do not fit the one in its middle, of fewer. Each chunk has the box of
        its frame in the middle.

    Raises:
        ValueError: ``hold`` is below 1; somebody is twice in a frame.
    """
    check_hold(hold)
    held = box.copy()
    for one in np.unique(track[track >= 0]):
        rows = np.flatnonzero(track == one)
        rows = rows[np.argsort(number[rows], kind="stable")]
        at, of_track = number[rows], box[rows]
        if (np.diff(at) == 0).any():
            twice = int(at[np.flatnonzero(np.diff(at) == 0)[0]])
            raise ValueError(f"hold: the track {one} is twice in frame {twice}")
        first = 0
        while first < len(rows):
            end = int(np.searchsorted(at, at[first] + hold))
            while True:
                middle = np.abs(at[first:end] - (at[first] + at[end - 1]) / 2).argmin()
                in_middle = of_track[first + middle]
                if end == first + 1 or fits(of_track[first:end], in_middle, model).all():
                    break
                end -= 1
            held[rows[first:end]] = in_middle
            first = end
    return held


def fits(box: Floats, held: Floats, model: PoseSpec) -> Bools:
    """Whether the crop of a held box will do for people in other boxes.

    Args:
        box: [n, 5] where they are.
        held: [5].
        model: for crops.

    Returns:
        [n]: the box, grown to the crop's shape, lies in the crop of the held one, is not much
        smaller than the held one, and not turned much against it.
    """
    width, height = model.crop_wh
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    back = invert_matrices(turned_crop_matrices(box, (width, height), 1.0))
    in_image = transform_points(np.repeat(corners[None], len(box), 0), back)
    matrix = turned_crop_matrices(held[None], (width, height), model.padding)
    in_crop = transform_points(in_image, np.repeat(matrix, len(box), 0))  # [n, 4, 2]
    inside = ((in_crop >= 0) & (in_crop <= [width, height])).all((1, 2))
    side = np.hypot(*(in_crop[:, 1] - in_crop[:, 0]).T)
    turn = np.abs((box[:, 4] - held[4] + 180) % 360 - 180)
    return inside & (side * model.padding**2 >= width) & (turn <= _TURN)


def check_hold(hold: int) -> None:
    """Raises ValueError for a number of frames below 1."""
    if hold < 1:
        raise ValueError(f"hold: expected 1 or more frames, got {hold}")
