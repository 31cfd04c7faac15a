"""From a person's box to a crop: centre and scale, affine matrices, augmentation, mirroring.

The geometry is that of the 2019 system: sizes W and H, not W - 1 and H - 1, so a crop is a fraction
of a pixel off from one by aligned corners ("unbiased" processing), and checkpoints expect it.

P people, J joints. Boxes are x, y, width, height in pixels of the image; ``center`` is [P, 2] x, y
in pixels, ``scale`` [P, 2] width and height of the source region in units of 200 pixels, as files
of the 2019 system have it; rotations are degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch

from posewarper.data.tables import Bools, Floats
from posewarper.skeleton import Skeleton

Images = npt.NDArray[np.uint8]

HalfBodyDraw = Literal["normal", "uniform"]

PIXELS_PER_SCALE = 200.0
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def clean_boxes(bbox: npt.ArrayLike, size_wh: npt.ArrayLike) -> tuple[Floats, Bools]:
    """Ground-truth boxes clipped to the image, as the 2019 system reads them.

    Args:
        bbox: [P, 4].
        size_wh: [P, 2] or [2] size of the image; where it is (0, 0), unknown, only the left and
            upper sides are clipped.

    Returns:
        Boxes [P, 4] whose right and lower sides are the last pixels inside, so one pixel smaller
        than given, and [P] whether anything is left of each.
    """
    bbox = np.asarray(bbox, np.float64).reshape(-1, 4)
    size = np.broadcast_to(np.asarray(size_wh, np.float64), (len(bbox), 2))
    last = np.where(size > 0, size - 1, np.inf)
    low = np.maximum(bbox[:, :2], 0)
    high = np.minimum(last, low + np.maximum(bbox[:, 2:] - 1, 0))
    return np.concatenate([low, high - low], 1), (high >= low).all(1)


def box_to_center_scale(
    bbox: npt.ArrayLike, crop_wh: tuple[int, int], padding: float = 1.25
) -> tuple[Floats, Floats]:
    """Centre and scale of boxes [P, 4], whose shorter sides grow to the shape of the crop."""
    bbox = np.asarray(bbox, np.float64).reshape(-1, 4)
    size_wh = _fill_aspect(bbox[:, 2:], crop_wh)
    return bbox[:, :2] + bbox[:, 2:] / 2, size_wh / PIXELS_PER_SCALE * padding


def _fill_aspect(size_wh: Floats, crop_wh: tuple[int, int]) -> Floats:
    aspect = crop_wh[0] / crop_wh[1]
    width, height = size_wh[..., 0], size_wh[..., 1]
    return np.stack([np.maximum(width, height * aspect), np.maximum(height, width / aspect)], -1)


def turned_crop_matrices(
    boxes: npt.ArrayLike, out_wh: tuple[int, int], padding: float = 1.25
) -> Floats:
    """Maps [P, 2, 3] from image to crop for turned boxes [P, 5] (``data.upright``)."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 5)
    center, scale = box_to_center_scale(boxes[:, :4], out_wh, padding)
    return crop_matrices(center, scale, out_wh, boxes[:, 4])


def crop_matrices(
    center: npt.ArrayLike,
    scale: npt.ArrayLike,
    out_wh: tuple[int, int],
    rotation: npt.ArrayLike = 0.0,
    mirror_width: npt.ArrayLike | None = None,
) -> Floats:
    """Maps from image to crop, [P, 2, 3].

    Three points fix the map in the 2019 system: the centre goes to (W/2, H/2), the point half the
    source width above it (turned by the rotation) to half the crop's width above, and the third
    makes a right angle. That is the similarity which is written down here at once; only the width
    of ``scale`` matters.

    Args:
        center: [P, 2].
        scale: [P, 2].
        out_wh: size of the crop, or of the heatmap.
        rotation: [P] or one, degrees.
        mirror_width: [P] or one: widths of images that are mirrored first, x -> W - 1 - x
            (``center`` is the centre in the mirrored image); 0 or None where they are not.
    """
    center = np.asarray(center, np.float64).reshape(-1, 2)
    width = np.asarray(scale, np.float64).reshape(-1, 2)[:, 0] * PIXELS_PER_SCALE
    angle = np.deg2rad(np.broadcast_to(np.asarray(rotation, np.float64), width.shape))
    zoom = out_wh[0] / width
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    linear = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)  # [P, 2, 2]
    shift = np.array([out_wh[0] / 2, out_wh[1] / 2]) - (linear @ center[:, :, None])[..., 0]
    if mirror_width is not None:
        mirrored = np.broadcast_to(np.asarray(mirror_width, np.float64), width.shape)
        on = mirrored > 0
        shift = shift + np.where(on, mirrored - 1, 0)[:, None] * linear[:, :, 0]
        linear = linear * np.where(on[:, None, None], np.array([[-1.0, 1.0]]), 1.0)
    return np.concatenate([linear, shift[:, :, None]], 2)


def invert_matrices(matrices: Floats) -> Floats:
    """The maps back, [P, 2, 3]."""
    linear = np.linalg.inv(matrices[:, :, :2])
    return np.concatenate([linear, -linear @ matrices[:, :, 2:]], 2)


def compose(outer: Floats, inner: Floats) -> Floats:
    """The maps [P, 2, 3] that do what ``inner`` does, then ``outer``."""
    linear = outer[:, :, :2] @ inner[:, :, :2]
    shift = (outer[:, :, :2] @ inner[:, :, 2:])[..., 0] + outer[:, :, 2]
    return np.concatenate([linear, shift[:, :, None]], 2)


def transform_points(points: npt.ArrayLike, matrices: Floats) -> Floats:
    """Points [P, J, 2] of each person, mapped by that person's matrix."""
    points = np.asarray(points, np.float64)
    return points @ matrices[:, :, :2].transpose(0, 2, 1) + matrices[:, None, :, 2]


def crop(image: Images, matrices: Floats, out_wh: tuple[int, int]) -> Images:
    """Crops [P, H, W, 3] of one image [H', W', 3]: bilinear, black outside the image."""
    crops = np.empty((len(matrices), out_wh[1], out_wh[0], image.shape[2]), np.uint8)
    for matrix, out in zip(matrices, crops, strict=True):
        cv2.warpAffine(image, matrix, out_wh, dst=out, flags=cv2.INTER_LINEAR)
    return crops


def mirror_joints(
    joints: npt.ArrayLike, visible: npt.ArrayLike, skeleton: Skeleton, width: float
) -> tuple[Floats, npt.NDArray[Any]]:
    """Joints [..., J, 2] and visibility [..., J] in the mirrored image.

    Left and right change places; joints that are not visible become (0, 0).
    """
    order = list(skeleton.mirrored)
    visible = np.asarray(visible)[..., order]
    joints = np.array(joints, np.float64)[..., order, :]
    joints[..., 0] = width - 1 - joints[..., 0]
    return joints * (visible > 0)[..., None], visible


def normalise(crops: torch.Tensor) -> torch.Tensor:
    """RGB bytes [..., 3, H, W] to what the backbone expects: ImageNet's mean 0 and deviation 1."""
    mean = torch.tensor(IMAGENET_MEAN, device=crops.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, device=crops.device)[:, None, None]
    return (crops.to(torch.float32) / 255 - mean) / std


@dataclass(frozen=True)
class Region:
    """Which part of an image one crop shows.

    Attributes:
        center: [2] x, y in the (mirrored, if so) image.
        scale: [2] width and height / 200 pixels.
        rotation: degrees.
        mirrored: whether the image is mirrored first.
    """

    center: Floats
    scale: Floats
    rotation: float = 0.0
    mirrored: bool = False

    def matrix(self, out_wh: tuple[int, int], image_width: int) -> Floats:
        """The map from the image as it is (not mirrored) to the crop, [1, 2, 3]."""
        width = image_width if self.mirrored else 0
        return crop_matrices(self.center, self.scale, out_wh, self.rotation, width)


@dataclass(frozen=True)
class Augmentation:
    """How training crops vary; the defaults are those of the 2019 system.

    Attributes:
        scale_factor: s in scale * clip(1 + s * normal, 1 - s, 1 + s); below 1.
        rotation_factor: r in clip(r * normal, -2 r, 2 r) degrees.
        rotation_probability: how often a crop is turned at all.
        flip_probability: how often it is mirrored; never where the skeleton does not tell which
            joints change places (``Skeleton.why_not_mirrored``).
        half_body_probability: how often only half of the body is shown, among people
            with more than ``half_body_joints`` visible joints.
        half_body_joints: see there.
        half_body_draw: "normal": the upper half where a normal number is below 0.5, which is
            69 % of the draws, as in 2019; "uniform": half of the draws.
        key_damage_probability: how often, in stage warp, the key frame's crop alone is blurred or
            partly covered, so that the warp learns to find the pose where the key frame shows
            little. Not in 2019.

    Raises:
        ValueError: a probability outside 0..1, a factor below 0 or infinite, a scale factor that
            shrinks to nothing, or another draw; names it.
    """

    scale_factor: float = 0.35
    rotation_factor: float = 45.0
    rotation_probability: float = 0.6
    flip_probability: float = 0.5
    half_body_probability: float = 0.3
    half_body_joints: int = 8
    half_body_draw: HalfBodyDraw = "normal"
    key_damage_probability: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_probability") and not 0 <= value <= 1:
                raise ValueError(f"{name}: expected 0 to 1, got {value!r}")
            if name.endswith("_factor") and not 0 <= value < np.inf:
                raise ValueError(f"{name}: expected 0 or more, got {value!r}")
        if self.scale_factor >= 1:
            raise ValueError(f"scale_factor: expected less than 1, got {self.scale_factor!r}")
        if self.half_body_draw not in get_args(HalfBodyDraw):
            raise ValueError(
                f"half_body_draw: expected one of {', '.join(get_args(HalfBodyDraw))}, "
                f"got {self.half_body_draw!r}"
            )

    @property
    def changes_nothing(self) -> bool:
        """Whether crops are the same in every epoch."""
        turns = self.rotation_factor * self.rotation_probability
        others = self.flip_probability, self.half_body_probability, self.key_damage_probability
        return not any((self.scale_factor, turns, *others))

    def draw(
        self,
        random: np.random.Generator,
        region: Region,
        joints: npt.ArrayLike,
        visible: npt.ArrayLike,
        skeleton: Skeleton,
        crop_wh: tuple[int, int],
        image_width: int,
    ) -> Region:
        """One person's varied region.

        Args:
            random: the only source of randomness.
            region: the person's own, not mirrored. What is drawn is added to its rotation.
            joints: [J, 2] pixels.
            visible: [J]; above 0 is visible.
            skeleton: for the halves of the body, without ``upper_body`` there is no half body; and
                for whether images may be mirrored.
            crop_wh: size of the crop; for its shape.
            image_width: pixels.
        """
        center, scale = region.center, region.scale
        visible = np.asarray(visible) > 0
        enough = skeleton.upper_body and visible.sum() > self.half_body_joints
        if enough and random.random() < self.half_body_probability:
            half = self._half_body(
                random, np.asarray(joints), visible, skeleton, crop_wh, region.rotation
            )
            if half is not None:
                center, scale = half
        s, r = self.scale_factor, self.rotation_factor
        scale = scale * np.clip(1 + s * random.standard_normal(), 1 - s, 1 + s)
        turned = random.random() < self.rotation_probability
        rotation = float(np.clip(r * random.standard_normal(), -2 * r, 2 * r)) if turned else 0.0
        mirrored = random.random() < self.flip_probability and not skeleton.why_not_mirrored
        own = -region.rotation if mirrored else region.rotation
        if mirrored:
            center = np.array([image_width - 1 - center[0], center[1]])
        return Region(center, scale, own + rotation, mirrored)

    def damaged(self, random: np.random.Generator, image: Images) -> Images:
        """The crop [H, W, 3] of a key frame: as often as ``key_damage_probability`` says blurred by
        motion, out of focus, or covered in part by a rectangle of one colour; otherwise as it is.

        Lengths are shares of the longer side, but never so short that small crops stay as they are.
        """
        # No draw where the option is off: other draws stay what they were.
        if not self.key_damage_probability or random.random() >= self.key_damage_probability:
            return image
        size = max(image.shape[:2])
        kind = random.integers(3)
        if kind == 0:
            length = max(random.uniform(0.03, 0.1) * size, 3.0)
            return _motion_blurred(image, length, random.uniform(0, np.pi))
        if kind == 1:
            sigma = max(random.uniform(0.006, 0.024) * size, 0.5)
            return _as_bytes(cv2.GaussianBlur(image, (0, 0), sigma))
        covered = image.copy()
        hw = np.array(image.shape[:2])
        extent = np.maximum((random.uniform(0.15, 0.6, 2) * hw).astype(int), 1)
        low = (random.random(2) * hw - extent / 2).astype(int)  # the centre is in the crop
        (top, left), (bottom, right) = low.clip(0), low + extent
        covered[top:bottom, left:right] = random.integers(0, 256, 3)
        return covered

    def _half_body(
        self,
        random: np.random.Generator,
        joints: Floats,
        visible: Bools,
        skeleton: Skeleton,
        crop_wh: tuple[int, int],
        rotation: float,
    ) -> tuple[Floats, Floats] | None:
        is_upper = np.zeros(len(skeleton), np.bool_)
        is_upper[list(skeleton.upper_body)] = True
        upper, lower = joints[visible & is_upper], joints[visible & ~is_upper]
        value = random.standard_normal() if self.half_body_draw == "normal" else random.random()
        if value < 0.5 and len(upper) > 2:
            chosen = upper
        else:
            chosen = lower if len(lower) > 2 else upper
        if len(chosen) < 2 or not np.ptp(chosen, 0).any():  # all in one place have no size
            return None
        turn = crop_matrices((0, 0), (1, 1), (200, 200), rotation)[0, :, :2]  # no zoom
        size_wh = _fill_aspect(np.ptp(chosen @ turn.T, 0), crop_wh)
        return chosen.mean(0), size_wh / PIXELS_PER_SCALE * 1.5


def _motion_blurred(image: Images, length: float, angle: float) -> Images:
    """Mean over a line about so many pixels long, at so many radians."""
    radius = int(np.ceil(length / 2))
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    reach = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    ends = [tuple(np.rint(radius + side * reach).astype(int).tolist()) for side in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    return _as_bytes(cv2.filter2D(image, -1, kernel / kernel.sum()))


def _as_bytes(image: Any) -> Images:
    return np.asarray(image, np.uint8)
