"""Poses drawn on frames, and frames put together to pictures.

    drawn = draw_poses(frame, people.keypoints, skeleton, scores=people.joint_scores)
    error = draw_differences(frame, truth, predicted, skeleton, tolerance=5.0)
    both = side_by_side([drawn, error], ["prediction", "distance from the truth"])

Images are RGB [H, W, 3] uint8 and never written to; pixel centres are whole numbers. The colours
are those of Okabe and Ito ("Color universal design", 2008), which people with the common forms of
colour blindness tell apart; a dark rim keeps them visible on any frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from posewarper.skeleton import Skeleton

Image = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (204, 121, 167),  # reddish purple
    (213, 94, 0),  # vermilion
    (0, 114, 178),  # blue
)
_RIM: Color = (16, 16, 16)
_TRUTH: Color = (255, 255, 255)
_NEAR, _FAR = PALETTE[1], PALETTE[5]
_STRIP: Color = (24, 26, 31)
_STRIP_TEXT: Color = (236, 238, 242)
_FAINTEST = 0.25  # a joint with score 0 is still seen
_FRACTION_BITS = 4  # OpenCV draws at sixteenths of a pixel
_FARTHEST = 30_000.0  # pixels; OpenCV's drawing overflows with coordinates beyond


def draw_poses(
    image: Image,
    keypoints: npt.ArrayLike,
    skeleton: Skeleton,
    *,
    scores: npt.ArrayLike | None = None,
    track_ids: npt.ArrayLike | None = None,
    boxes: npt.ArrayLike | None = None,
    color_by: Literal["person", "limb"] = "person",
    min_score: float = 0.0,
    upscale_to: int = 0,
    line_width: float | None = None,
) -> Image:
    """A copy of the image with limbs and joints.

    Args:
        image: RGB [H, W, 3] uint8.
        keypoints: [P, J, 3] x, y in pixels and visibility; joints with visibility 0 or with
            coordinates that are not finite are not drawn, nor are their limbs.
        skeleton: names the J joints and their limbs.
        scores: confidences [P, J]; 1 and more is drawn in full, less is fainter and smaller. NaN,
            as labels of humans have it, counts as 1.
        track_ids: [P], so that a person keeps the colour over a video; -1 for people without.
        boxes: [P, 4] x, y, width, height in pixels, drawn as thin frames; NaN for none.
        color_by: one colour for each person or for each limb.
        min_score: joints with a lower score are not drawn.
        upscale_to: small frames are enlarged by the smallest whole factor that makes their longer
            side at least this many pixels; 0 for none.
        line_width: of limbs in pixels of the result; by default from its size.

    Returns:
        RGB [H * f, W * f, 3] uint8, with f the factor of ``upscale_to``.

    Raises:
        ValueError: shapes that do not fit each other; names the argument.
    """
    points = _checked_keypoints("keypoints", keypoints, skeleton)
    count = len(points)
    confidence = np.ones(points.shape[:2])
    if scores is not None:
        given = _checked_shape("scores", scores, points.shape[:2])
        confidence = np.where(np.isnan(given), 1.0, given)
    tracks = np.full(count, -1)
    if track_ids is not None:
        tracks = _checked_shape("track_ids", track_ids, (count,)).astype(np.int64)
    if color_by not in ("person", "limb"):
        raise ValueError(f"color_by: expected 'person' or 'limb', got {color_by!r}")
    drawn = (points[..., 2] > 0) & np.isfinite(points).all(-1) & (confidence >= min_score)
    confidence = confidence.clip(0.0, 1.0)

    canvas = _Canvas(image, upscale_to, line_width)
    if boxes is not None:
        for person, box in enumerate(_checked_shape("boxes", boxes, (count, 4))):
            if np.isfinite(box).all():
                canvas.box(box, _person_color(tracks[person], person))
    for person in range(count):
        colors = _colors(skeleton, color_by, _person_color(tracks[person], person))
        places, certain = points[person, :, :2], confidence[person]
        for limb, (a, b) in enumerate(skeleton.limbs):
            if drawn[person, a] and drawn[person, b]:
                canvas.line(places[a], places[b], colors[0][limb], min(certain[a], certain[b]))
        for joint in np.flatnonzero(drawn[person]).tolist():
            canvas.dot(places[joint], colors[1][joint], certain[joint])
    return canvas.image


def draw_differences(
    image: Image,
    truth: npt.ArrayLike,
    predicted: npt.ArrayLike,
    skeleton: Skeleton,
    *,
    tolerance: npt.ArrayLike | None = None,
    upscale_to: int = 0,
    line_width: float | None = None,
) -> Image:
    """A copy of the image with a line from where each joint is to where it was predicted.

    The true pose is white. The predicted place of a joint is a dot, blue within the tolerance,
    red and with a heavy line beyond it; a cross marks a joint that was not predicted.

    Args:
        image: RGB [H, W, 3] uint8.
        truth: [P, J, 3] x, y in pixels and visibility; joints with 0 are left out.
        predicted: [P, J, 3], the same people in the same order; visibility 0 where the method
            says nothing.
        skeleton: names the J joints and their limbs.
        tolerance: pixels of ``image``, one number or one for each person [P]; without it all are
            drawn as near.
        upscale_to: see ``draw_poses``.
        line_width: see ``draw_poses``.

    Raises:
        ValueError: shapes that do not fit each other; names the argument.
    """
    right = _checked_keypoints("truth", truth, skeleton)
    said = _checked_keypoints("predicted", predicted, skeleton)
    if len(said) != len(right):
        raise ValueError(f"predicted: expected {len(right)} people as in truth, got {len(said)}")
    allowed = np.full(len(right), np.inf)
    if tolerance is not None:
        allowed = np.broadcast_to(np.asarray(tolerance, np.float64), allowed.shape)
    known = (right[..., 2] > 0) & np.isfinite(right).all(-1)
    given = (said[..., 2] > 0) & np.isfinite(said).all(-1)

    canvas = _Canvas(image, upscale_to, line_width)
    for person, joints in enumerate(right[..., :2]):
        for a, b in skeleton.limbs:
            if known[person, a] and known[person, b]:
                canvas.line(joints[a], joints[b], _TRUTH, 0.6, thickness=0.5)
    for person, joint in zip(*np.nonzero(known), strict=True):
        place = right[person, joint, :2]
        if not given[person, joint]:
            canvas.cross(place, _FAR)
            continue
        guess = said[person, joint, :2]
        near = bool(np.linalg.norm(guess - place) <= allowed[person])
        color = _NEAR if near else _FAR
        canvas.line(place, guess, color, 1.0, thickness=0.6 if near else 1.2)
        canvas.dot(place, _TRUTH, 0.8, size=0.7)
        canvas.dot(guess, color, 1.0, size=0.8 if near else 1.0)
    return canvas.image


def captioned(image: Image, text: str) -> Image:
    """The image below a dark strip with one line of text, which is cut if it does not fit.

    Raises:
        ValueError: this is no RGB uint8 image.
    """
    _check_image(image)
    text = " ".join(text.split())
    height, width = image.shape[:2]
    strip_height = max(18, round(0.085 * min(height, width)))
    size = max(10, round(0.62 * strip_height))
    margin = strip_height // 3
    strip = PillowImage.new("RGB", (width, strip_height), _STRIP)
    pen = ImageDraw.Draw(strip)
    while size > 9 and pen.textlength(text, _font(size)) > width - 2 * margin:
        size -= 1
    shown = text
    while shown and pen.textlength(shown, _font(size)) > width - 2 * margin:
        shown = shown.rstrip("…")[:-1] + "…" if len(shown) > 1 else ""
    pen.text((margin, strip_height / 2), shown, _STRIP_TEXT, _font(size), anchor="lm")
    return np.concatenate([np.asarray(strip, np.uint8), image])


def side_by_side(
    images: Iterable[Image],
    captions: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    gap: int = 6,
) -> Image:
    """Images in rows, each below its caption; smaller ones stand in the middle of their place.

    Args:
        images: RGB [H, W, 3] uint8, of any sizes.
        captions: one for each image; none if left out.
        columns: how many in a row; by default all.
        gap: pixels between images.

    Raises:
        ValueError: no image, something that is none, or as many captions as do not fit.
    """
    parts = list(images)
    if not parts:
        raise ValueError("images: expected one or more, got none")
    if captions is not None:
        if len(captions) != len(parts):
            raise ValueError(f"captions: expected {len(parts)}, one an image, got {len(captions)}")
        parts = [captioned(part, text) for part, text in zip(parts, captions, strict=True)]
    for part in parts:
        _check_image(part)
    if columns is not None and columns < 1:
        raise ValueError(f"columns: expected 1 or more, got {columns}")
    columns = min(columns or len(parts), len(parts))
    rows = -(-len(parts) // columns)
    height = max(part.shape[0] for part in parts)
    width = max(part.shape[1] for part in parts)
    sheet = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, 3), _STRIP, np.uint8
    )
    for index, part in enumerate(parts):
        row, column = divmod(index, columns)
        y = row * (height + gap) + (height - part.shape[0]) // 2
        x = column * (width + gap) + (width - part.shape[1]) // 2
        sheet[y : y + part.shape[0], x : x + part.shape[1]] = part
    return sheet


class _Canvas:
    """A copy of an image that shapes are blended into; coordinates are those of the original."""

    def __init__(self, image: Image, upscale_to: int, line_width: float | None):
        _check_image(image)
        self.factor = max(1, -(-upscale_to // max(image.shape[:2])))
        if self.factor == 1:
            self.image = image.copy()
        else:
            size_wh = (image.shape[1] * self.factor, image.shape[0] * self.factor)
            enlarged = cv2.resize(image, size_wh, interpolation=cv2.INTER_CUBIC)
            self.image = np.asarray(enlarged, np.uint8)
        automatic = max(1.0, 0.0085 * min(self.image.shape[:2]))
        self.width = automatic if line_width is None else line_width

    def line(
        self,
        start: npt.NDArray[Any],
        end: npt.NDArray[Any],
        color: Color,
        certain: float,
        *,
        thickness: float = 1.0,
    ) -> None:
        """A rimmed line; ``thickness`` is relative to that of limbs."""
        a, b = self._place(start), self._place(end)
        wide = max(1, round(self.width * thickness))
        rim = wide + 2 * max(1, round(self.width / 4))
        with _Blend(self.image, np.stack([a, b]), rim, _opacity(certain)) as area:
            if area is not None:
                for color_now, width in ((_RIM, rim), (color, wide)):
                    cv2.line(area.pixels, area.fixed(a), area.fixed(b), color_now, width,
                             cv2.LINE_AA, _FRACTION_BITS)  # fmt: skip

    def dot(
        self, place: npt.NDArray[Any], color: Color, certain: float, *, size: float = 1.0
    ) -> None:
        """A rimmed disc, smaller where less certain."""
        centre = self._place(place)
        radius = max(1.2, 1.25 * self.width * size * (0.6 + 0.4 * certain))
        rim = radius + max(0.8, self.width / 4)
        with _Blend(self.image, centre[None], 2 * rim, _opacity(certain)) as area:
            if area is not None:
                for color_now, r in ((_RIM, rim), (color, radius)):
                    cv2.circle(area.pixels, area.fixed(centre), round(r * 2**_FRACTION_BITS),
                               color_now, cv2.FILLED, cv2.LINE_AA, _FRACTION_BITS)  # fmt: skip

    def cross(self, place: npt.NDArray[Any], color: Color) -> None:
        """Two crossed lines."""
        arm = 1.8 * max(1.0, self.width) / self.factor
        for dx, dy in ((arm, arm), (arm, -arm)):
            step = np.array([dx, dy])
            self.line(place - step, place + step, color, 1.0, thickness=0.7)

    def box(self, box: npt.NDArray[Any], color: Color) -> None:
        """A thin rectangle of x, y, width, height."""
        corners = box[:2] + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * box[2:]
        for start, end in zip(corners, np.roll(corners, -1, 0), strict=True):
            self.line(start, end, color, 0.8, thickness=0.5)

    def _place(self, point: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Where a point of the original lies in the enlarged image."""
        place = (np.asarray(point, np.float64) + 0.5) * self.factor - 0.5
        return place.clip(-_FARTHEST, _FARTHEST)


class _Blend:
    """The part of an image around some points: what is drawn there is blended in at the end.

    None instead of a part where the points lie outside, so that nothing has to be drawn.
    """

    def __init__(self, image: Image, points: npt.NDArray[Any], width: float, opacity: float):
        reach = width / 2 + 3
        size_wh = np.array(image.shape[1::-1])
        low = np.floor(points.min(0) - reach).clip(0, size_wh).astype(int)
        high = np.ceil(points.max(0) + reach).clip(0, size_wh).astype(int)
        self.origin = low
        self.target = image[low[1] : high[1], low[0] : high[0]]
        self.opacity = opacity
        self.pixels = self.target.copy()

    def fixed(self, point: npt.NDArray[Any]) -> tuple[int, int]:
        """The point in OpenCV's fixed-point numbers, from the part's corner."""
        x, y = np.round((point - self.origin) * 2**_FRACTION_BITS)
        return int(x), int(y)

    def __enter__(self) -> _Blend | None:
        return self if self.target.size else None

    def __exit__(self, *_: object) -> None:
        if not self.target.size:
            return
        below = self.target.copy()  # OpenCV wants its arrays in one piece
        self.target[:] = cv2.addWeighted(self.pixels, self.opacity, below, 1 - self.opacity, 0)


def _opacity(certain: float) -> float:
    return _FAINTEST + (1 - _FAINTEST) * float(certain)


def _person_color(track: int, person: int) -> Color:
    return PALETTE[int(track if track >= 0 else person) % len(PALETTE)]


def _colors(
    skeleton: Skeleton, color_by: str, person: Color
) -> tuple[Sequence[Color], Sequence[Color]]:
    """The colours of the limbs and of the joints; a joint has that of its first limb."""
    limbs = [person] * len(skeleton.limbs)
    joints = [person] * len(skeleton)
    if color_by == "limb":
        limbs = [PALETTE[limb % len(PALETTE)] for limb in range(len(skeleton.limbs))]
        for limb, ends in reversed(list(enumerate(skeleton.limbs))):
            for joint in ends:
                joints[joint] = limbs[limb]
    return limbs, joints


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as it comes with matplotlib: the same letters on every machine."""
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size)


def _check_image(image: Image) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(
            f"image: expected RGB [H, W, 3] uint8, got {list(image.shape)} {image.dtype}"
        )


def _checked_shape(
    name: str, values: npt.ArrayLike, shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.shape != shape:
        raise ValueError(f"{name}: expected the shape {list(shape)}, got {list(array.shape)}")
    return array


def _checked_keypoints(
    name: str, values: npt.ArrayLike, skeleton: Skeleton
) -> npt.NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim != 3 or array.shape[1:] != (len(skeleton), 3):
        raise ValueError(
            f"{name}: expected [P, {len(skeleton)}, 3] for skeleton {skeleton.name!r}, "
            f"got {list(array.shape)}"
        )
    return array
