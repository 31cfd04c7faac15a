"""Images and clips inside a page: compressed, bounded in size, as data URIs.

Clips are animated WebP, which every browser since 2020 shows without plug-ins or codecs of the
system. Pillow writes it; matplotlib and torchvision bring Pillow with them. OpenCV writes
animations only in its newest versions, and what its video writers encode differs between builds.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import features

Image = npt.NDArray[np.uint8]

_QUALITIES = (75, 55, 35)  # tried in this order until a clip is small enough
_SMALLEST_SIDE = 48  # pixels; below nothing can be seen


@dataclass(frozen=True)
class Still:
    """One compressed image.

    Attributes:
        uri: ``data:image/...`` with the file in base64.
        width: pixels.
        height: pixels.
    """

    uri: str
    width: int
    height: int

    @property
    def data(self) -> bytes:
        """The file."""
        return base64.b64decode(self.uri.partition(",")[2])


@dataclass(frozen=True)
class Clip(Still):
    """A compressed animation that repeats for ever.

    Attributes:
        frames: how many there are.
        seconds: how long one round takes.
        poster: its first frame, for print and for readers who want nothing to move.
    """

    frames: int
    seconds: float
    poster: Still


def still(image: Image, *, quality: int = 85, max_side: int = 1600) -> Still:
    """Compress an image as WebP.

    Args:
        image: RGB [H, W, 3] uint8.
        quality: 1 (small) to 100 (good); 101 keeps every pixel as it is.
        max_side: larger images are shrunk to this many pixels.

    Raises:
        ValueError: this is no image, or OpenCV cannot write WebP.
    """
    small = _shrunk(image, max_side)
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not done:
        raise ValueError(f"image: OpenCV cannot write {list(small.shape)} as WebP")
    return Still(_uri("webp", data.tobytes()), small.shape[1], small.shape[0])


def animation(
    frames: Iterable[Image],
    fps: float,
    *,
    max_bytes: int = 3_000_000,
    max_side: int = 1280,
    max_frames: int = 240,
) -> Clip:
    """Compress frames as an animation that plays at their speed and is not larger than allowed.

    A longer video keeps its length: every second frame is left out as often as necessary. A clip
    that is too large gets a lower quality, then fewer pixels.

    Args:
        frames: RGB [H, W, 3] uint8, all of one size; read one after another.
        fps: frames per second.
        max_bytes: of the file; in the page it takes a third more.
        max_side: larger frames are shrunk to this many pixels.
        max_frames: how many are kept at most.

    Returns:
        Animated WebP; animated GIF where Pillow was built without WebP.

    Raises:
        ValueError: there is no frame, sizes differ, ``fps`` is not positive, or the frames do not
            fit into ``max_bytes`` at any quality.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps: expected a positive number, got {fps}")
    kept, step = _thinned(frames, max_side, max_frames)
    ends = np.round(1000 * step / fps * np.arange(1, len(kept) + 1)).astype(int)
    durations = np.maximum(np.diff(ends, prepend=0), 1)  # whole milliseconds that do not drift
    kind = "webp" if features.check("webp") else "gif"
    size = 0
    while True:
        for quality in _QUALITIES:
            data = _encoded(kept, durations, kind, quality)
            size = len(data)
            if size <= max_bytes:
                height, width = kept[0].shape[:2]
                seconds = float(durations.sum()) / 1000
                poster = still(kept[0], quality=quality)
                return Clip(_uri(kind, data), width, height, len(kept), seconds, poster)
            if kind == "gif":  # which knows no quality
                break
        side = int(max(kept[0].shape[:2]) * min(0.8, 0.95 * math.sqrt(max_bytes / size)))
        if side < _SMALLEST_SIDE:
            raise ValueError(
                f"max_bytes: {len(kept)} frames do not fit into {max_bytes} bytes; "
                f"they take {size} at {kept[0].shape[1]}x{kept[0].shape[0]} pixels"
            )
        kept = [_shrunk(frame, side) for frame in kept]


def _thinned(frames: Iterable[Image], max_side: int, max_frames: int) -> tuple[list[Image], int]:
    """At most ``max_frames`` frames, equally far apart, and how far; holds no more than these."""
    if max_frames < 1:
        raise ValueError(f"max_frames: expected 1 or more, got {max_frames}")
    kept: list[Image] = []
    step = 1
    shape: tuple[int, ...] | None = None
    for index, frame in enumerate(frames):
        if shape is not None and frame.shape != shape:
            raise ValueError(
                f"frames: expected all of the size of the first, {list(shape)}, "
                f"got {list(frame.shape)} for frame {index}"
            )
        shape = frame.shape
        if index % step:
            continue
        if len(kept) == max_frames:
            kept, step = kept[::2], 2 * step
            if index % step:
                continue
        kept.append(_shrunk(frame, max_side))
    if not kept:
        raise ValueError("frames: expected one or more, got none")
    return kept, step


def _encoded(
    frames: list[Image], durations: npt.NDArray[np.int64], kind: str, quality: int
) -> bytes:
    file = io.BytesIO()
    images = (PillowImage.fromarray(frame) for frame in frames)
    next(images).save(
        file, kind.upper(), save_all=True, append_images=images, duration=durations.tolist(),
        loop=0, quality=quality, method=3,
    )  # fmt: skip
    return file.getvalue()


def _shrunk(image: Image, max_side: int) -> Image:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(
            f"image: expected RGB [H, W, 3] uint8, got {list(image.shape)} {image.dtype}"
        )
    if max_side < 1:
        raise ValueError(f"max_side: expected 1 or more, got {max_side}")
    factor = max_side / max(image.shape[:2])
    if factor >= 1:
        return image
    size_wh = [max(1, round(side * factor)) for side in image.shape[1::-1]]
    return np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), np.uint8)


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
