"""Joints as heatmaps and back: Gaussian targets, and coordinates with sub-pixel refinement.

Coordinates are (x, y). Heatmap pixel (x, y) stands for image pixel (stride * x, stride * y).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

REFINEMENTS = ("quarter", "dark", "none")


def encode(
    joints: NDArray[np.floating],
    visibility: NDArray[np.floating],
    heatmap_hw: tuple[int, int],
    sigma: float = 3.0,
    stride: float = 4.0,
    rounded: bool = True,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Gaussian targets of height 1, as in 2019.

    A Gaussian is cut to the square of ``int(3 * sigma)`` pixels around the nearest heatmap pixel,
    ``int(joint / stride + 0.5)``, where ``int`` drops the fraction (so that -0.5 counts as 0).

    Args:
        joints: ``[..., 2]``, (x, y) in pixels of the crop.
        visibility: ``[...]``, weight of each joint in the loss; 0 for unlabelled ones, whose
            coordinates are ignored.
        heatmap_hw: h, w.
        sigma: standard deviation in heatmap pixels.
        stride: crop pixels per heatmap pixel.
        rounded: centred on that pixel, as in 2019. Otherwise on the joint itself, which keeps what
            small heatmaps would round away.

    Returns:
        ``[..., h, w]`` float32, zero where nothing is painted, and the weights ``[...]`` float32:
        the visibility, but 0 if the whole square lies outside. Painted are joints of a weight
        above 0.5. With ``rounded``, a square that ends one pixel before the map keeps its weight,
        with an empty map, as in 2019.

    Raises:
        ValueError: shapes, sizes, or a coordinate of a visible joint that is not finite.
    """
    joints = np.asarray(joints, dtype=np.float64)
    weights = np.array(visibility, dtype=np.float32)
    if joints.shape != (*weights.shape, 2):
        raise ValueError(
            f"joints: expected the shape of visibility {weights.shape} and 2, got {joints.shape}"
        )
    height, width = heatmap_hw
    if height < 1 or width < 1 or not sigma > 0 or not stride > 0:
        raise ValueError(
            f"heatmap_hw, sigma, stride: expected positive, got {heatmap_hw}, {sigma}, {stride}"
        )
    if not np.isfinite(joints[weights > 0]).all():
        raise ValueError("joints: expected finite coordinates of all visible joints")

    radius = int(3 * sigma)
    far = np.where(np.isfinite(joints), joints, 0) / stride + 0.5
    centre = np.trunc(np.clip(far, -1e9, 1e9)).astype(np.int64)  # [..., 2]
    # In 2019 the end of the square, one pixel beyond it, is compared, so that a square that ends
    # just before the map keeps its weight; and int() drops fractions of 3 * sigma towards zero.
    if rounded:
        first, beyond = np.trunc(centre - 3 * sigma), np.trunc(centre + 3 * sigma + 1)
    else:
        first, beyond = centre - radius, centre + radius
    inside = ((beyond >= 0) & (first < (width, height))).all(-1)  # [...]
    weights = np.where(inside, weights, np.float32(0))

    steps = np.arange(-radius, radius + 1)
    painted = np.flatnonzero(weights > 0.5)  # [n]
    fraction = 0.0 if rounded else (far - 0.5 - centre).reshape(-1, 2)[painted].T[..., None]
    squares = ((steps - fraction) ** 2).astype(np.float32)  # [k], or [2, n, k]
    row, column = (squares, squares) if rounded else (squares[1], squares[0])
    patch = np.exp(-(row[..., :, None] + column[..., None, :]) / np.float32(2 * sigma**2))
    x, y = (centre.reshape(-1, 2)[painted].T[..., None] + steps)[:, :, None]  # [n, 1, k] each
    y = y.swapaxes(1, 2)  # [n, k, 1]
    on_map = (x >= 0) & (x < width) & (y >= 0) & (y < height)  # [n, k, k]

    targets = np.zeros((weights.size, height, width), np.float32)
    index, y, x = (array[on_map] for array in np.broadcast_arrays(painted[:, None, None], y, x))
    targets[index, y, x] = np.broadcast_to(patch, on_map.shape)[on_map]
    return targets.reshape(*weights.shape, height, width), weights


def decode(
    heatmaps: Tensor, refinement: str = "quarter", dark_sigma: float = 3.0
) -> tuple[Tensor, Tensor]:
    """Coordinates and scores of the maxima.

    Args:
        heatmaps: ``[..., h, w]``, on any device; computed in float32 (float64 as it is).
        refinement: beyond the pixel of the maximum (the first one of equal ones):
            ``"quarter"``: a quarter of a pixel in x towards the higher neighbour, nothing for equal
            ones, and so in y; only for maxima at 1 < x < w - 1 and 1 < y < h - 1, as in 2019.
            ``"dark"``: to the maximum of the parabola through the logarithm of the blurred map
            (distribution-aware coordinates, arXiv 1910.06278, section 3.2), at most one pixel; none
            at the border and where the parabola has no maximum.
            ``"none"``.
        dark_sigma: of the blur, in heatmap pixels: that of the training targets.

    Returns:
        (x, y) in heatmap pixels ``[..., 2]``, and the maxima ``[...]``. Where the maximum is not
        positive the coordinates are (0, 0).

    Raises:
        ValueError: shape or options.
    """
    if heatmaps.ndim < 2 or 0 in heatmaps.shape[-2:]:
        raise ValueError(f"heatmaps: expected [..., h, w], got {tuple(heatmaps.shape)}")
    if refinement not in REFINEMENTS:
        raise ValueError(f"refinement: expected one of {REFINEMENTS}, got {refinement!r}")
    if not dark_sigma > 0:
        raise ValueError(f"dark_sigma: expected positive, got {dark_sigma}")
    leading, (height, width) = heatmaps.shape[:-2], heatmaps.shape[-2:]
    maps = heatmaps.reshape(-1, height, width)  # [n, h, w]; n stays symbolic in captured graphs
    if maps.dtype != torch.float64:
        maps = maps.float()
    flat = maps.flatten(1)  # [n, h * w]
    index = flat.argmax(1)  # [n]
    scores = flat.gather(1, index[:, None])[:, 0]  # [n]
    found = scores > 0
    index = torch.where(found, index, 0)
    y = index // width
    x = index - width * y  # not %, which a captured graph of any width cannot have
    coordinates = torch.stack([x, y], -1).to(maps.dtype)  # [n, 2]
    if refinement == "quarter":
        inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
        step = 0.25 * _slope(maps, x, y).sign()
    elif refinement == "dark":
        inner = found & (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
        step = _dark_step(maps, x, y, dark_sigma)
    if refinement != "none":
        coordinates = torch.where(inner[:, None], coordinates + step, coordinates)
    return coordinates.reshape(*leading, 2), scores.reshape(leading)


def softmax_scores(peaks: Tensor, own_peaks: Tensor | None = None) -> Tensor:
    """Scores from 0 to 1 of the peaks of maps that are a spatial softmax.

    Such maps have a fixed sum. Where the border of a crop cuts the Gaussian off, or the joint lies
    outside the crop, the same sum stands in fewer pixels and the peak is higher than 1: it tells
    nothing about certainty.

    Args:
        peaks: maxima of the maps ``[...]``.
        own_peaks: where these are means of several frames' maps, the maxima of the map of the
            frame itself ``[...]``; what is above 1 there is taken out of ``peaks``, too.

    Returns:
        ``[...]``.
    """
    if own_peaks is not None:
        peaks = peaks / own_peaks.clamp_min(1)
    return peaks.clamp_max(1)


def merge_flipped(
    heatmaps: Tensor, flipped: Tensor, mirrored: Sequence[int], shift: bool = False
) -> Tensor:
    """Mean of the heatmaps of an image and of its mirror image (flip test).

    Args:
        heatmaps: ``[..., J, h, w]``.
        flipped: heatmaps of the mirrored image, as they came from the model.
        mirrored: for each joint the one that takes its place; see ``Skeleton.mirrored``.
        shift: moves the mirrored maps one pixel to the right (the first column stays): what makes
            up for pixel 0 of a heatmap lying on pixel 0 of the crop, not in the middle of four.

    Returns:
        ``[..., J, h, w]``.

    Raises:
        ValueError: the shapes differ, or ``mirrored`` is no order of J joints.
    """
    if heatmaps.ndim < 3 or heatmaps.shape != flipped.shape:
        raise ValueError(
            f"flipped: expected the heatmaps' shape {tuple(heatmaps.shape)} ([..., J, h, w]), "
            f"got {tuple(flipped.shape)}"
        )
    if sorted(mirrored) != list(range(heatmaps.shape[-3])):
        raise ValueError(
            f"mirrored: expected an order of {heatmaps.shape[-3]} joints, got {mirrored}"
        )
    back = flipped[..., list(mirrored), :, :].flip(-1)  # [..., J, h, w]
    if shift:
        back = torch.cat([back[..., :1], back[..., :-1]], -1)
    return 0.5 * (heatmaps + back)


def _slope(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Differences ``[n, 2]`` of the neighbours in x and y; of no meaning at the border."""
    around = _patches(maps, x, y, 1)  # [n, 3, 3]
    return torch.stack([around[:, 1, 2] - around[:, 1, 0], around[:, 2, 1] - around[:, 0, 1]], -1)


def _dark_step(maps: Tensor, x: Tensor, y: Tensor, sigma: float) -> Tensor:
    """Newton's step ``[n, 2]`` on the logarithm of the map blurred by a Gaussian.

    The blur is needed in the 3 x 3 pixels around the maximum only.
    """
    height, width = maps.shape[1:]
    radius = math.ceil(3 * sigma)
    steps = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-(steps**2) / (2 * sigma**2))  # [2 r + 1]

    def blur(position: Tensor, size: int) -> Tensor:
        """``[n, 3, 2 r + 3]`` to the left of patches: the kernel, centred at -1, 0, 1.

        Near the border it is cut on both sides: what lies outside is not known, and zeros in its
        place would pull the maximum inwards.
        """
        room = torch.minimum(position, size - 1 - position) - 1  # [n]
        cut = kernel * (steps.abs() <= room[:, None])  # [n, 2 r + 1]
        return torch.stack([torch.nn.functional.pad(cut, (i, 2 - i)) for i in range(3)], 1)

    patches = _patches(maps, x, y, radius + 1)  # [n, 2 r + 3, 2 r + 3]
    around = blur(y, height) @ patches @ blur(x, width).mT  # [n, 3, 3]
    # The logarithm's curvature does not depend on the map's scale; the bound keeps it finite.
    tiny = 1e-10 * maps.amax((1, 2)).clamp_min(torch.finfo(maps.dtype).tiny)[:, None, None]
    blurred = torch.log(torch.maximum(around, tiny))  # [n, 3, 3]

    centre = blurred[:, 1, 1]
    gradient_x = (blurred[:, 1, 2] - blurred[:, 1, 0]) / 2
    gradient_y = (blurred[:, 2, 1] - blurred[:, 0, 1]) / 2
    xx = blurred[:, 1, 2] - 2 * centre + blurred[:, 1, 0]
    yy = blurred[:, 2, 1] - 2 * centre + blurred[:, 0, 1]
    xy = (blurred[:, 2, 2] - blurred[:, 2, 0] - blurred[:, 0, 2] + blurred[:, 0, 0]) / 4
    determinant = xx * yy - xy * xy
    concave = (determinant > 0) & (xx < 0)
    determinant = torch.where(concave, determinant, 1)
    step = torch.stack([xy * gradient_y - yy * gradient_x, xy * gradient_x - xx * gradient_y], -1)
    step = (step / determinant[:, None]).clamp(-1, 1)
    return torch.where(concave[:, None], step, 0)


def _patches(maps: Tensor, x: Tensor, y: Tensor, radius: int) -> Tensor:
    """The ``[n, 2 r + 1, 2 r + 1]`` pixels around (x, y) of maps ``[n, h, w]``; 0 outside."""
    height, width = maps.shape[1:]
    steps = torch.arange(-radius, radius + 1, device=maps.device)
    columns, rows = x[:, None] + steps, y[:, None] + steps  # [n, 2 r + 1] each
    frame = torch.arange(maps.shape[0], device=maps.device)[:, None, None]
    values = maps[
        frame, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    ]
    inside_y, inside_x = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    return torch.where(inside_y[:, :, None] & inside_x[:, None, :], values, 0)
