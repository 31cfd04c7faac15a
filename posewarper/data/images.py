"""Image files: which of a folder are frames, and how one is read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class FrameError(ValueError):
    """A frame that is missing or cannot be decoded; the message names the file."""


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in the order of their names; none for a folder without.

    Hidden files are no images: macOS leaves a ``._x.jpg`` beside every ``x.jpg`` on foreign disks.

    Raises:
        OSError: the folder is missing or may not be read.
    """
    return sorted(filter(is_image, folder.iterdir()))


def is_image(path: Path) -> bool:
    """Whether a file in a folder counts as an image, by its name."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def decode_image(path: Path) -> Image:
    """An image file as RGB [H, W, 3] uint8; the orientation in its metadata is ignored.

    Raises:
        FrameError: it is missing, no image, or cut off; names the file. (OpenCV fills
            what is missing of a cut-off JPEG with grey.)
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"{path}: {error.strerror or error}") from None
    if _is_cut_off(data):
        raise FrameError(f"{path}: the image is cut off after {len(data)} bytes")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if image is None:
        raise FrameError(f"{path}: not an image that OpenCV can read ({len(data)} bytes)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def _is_cut_off(data: bytes) -> bool:
    """Whether the end marker of a JPEG or PNG is missing."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    if not data.startswith(b"\xff\xd8"):
        return False
    place = 2
    while place + 4 <= len(data):  # segments up to the image data: a thumbnail's end does not count
        if data[place] != 0xFF:
            return False  # for the decoder to judge
        if data[place + 1] == 0xDA:
            return data.find(b"\xff\xd9", place) < 0
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return True
