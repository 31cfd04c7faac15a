"""Which frame of a video a labelled image shows, by what moves in it.

Names lie: images are numbered in the order in which they were taken out, or from 1, and one video
looks like another by name only. With a still camera the background alone makes all frames look
alike (correlation 0.85 to 0.89 with a mouse in an arena), so only what differs from the background
is compared: the share of it that two pictures do not have in common, 0 for the same frame, 1 for
frames in which nothing is at the same place. Measured on five videos, two of them drawn:

    the true frame: the image as it is, as JPEG of quality 40, darker, with noise    0.00 to 0.10
    brighter, so that whites are lost                                                0.01 to 0.17
    the video encoded again, H.264 at crf 28, and brighter                           0.02 to 0.16
    the same at crf 40                                                               0.08 to 0.28
    frames more than five away, the least share of all in a video                    0.13 to 0.62

In all but one of 346 comparisons the true frame had the least share; once, at crf 40, the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from posewarper.data.formats.deeplabcut_project import Crop
from posewarper.data.tables import Bools, Floats
from posewarper.data.video import FrameError, Image, VideoFile, decode_image
from posewarper.progress import progress_bar

Grey = npt.NDArray[np.uint8]

_COMPARED = 8  # images that are compared with the frames that their names tell
_BACKGROUND = 16  # frames of which the background is made, and those of the images
_SHIFTS = (-2, -1, 0, 1, 2)  # frames by which all numbers of a video may be off
_LOOKED_FOR = 500  # images that are looked for in all frames, at most
_LONG = 1000  # frames; to look through them takes long enough to be shown
_WIDTH, _MANY_IMAGES = 320, 50  # of compared pictures; half of it where many are looked for
_MOVING = 15  # grey levels that a pixel has to differ by from the background
_FEW = 8  # pixels; less than that is noise
# The share that two pictures do not have in common is, at most:
_SURE = 0.1  # of images that are all where their numbers say
_SAME = 0.2  # of an image and the frame that is found for it
_LIKE_OTHERS, _LEAST = 4, 0.05  # and so many times what is usual for these images, or this
_OWN = 0.5  # of an image and the frame of its number, if no other is as near,
_BETTER = 0.1  # and so much less than of most frames
_AGAIN = 0.02  # frames whose shares differ by less show the same
_ALIKE = 0.7  # correlation, at least, of an image with a video in which nothing moves


@dataclass(frozen=True, eq=False)
class Footage:
    """Frames that labels are put on: of a video file, or the images of a folder by number.

    Attributes:
        path: video file or folder.
        numbers: of the frames that there are, in order.
        read: a frame as RGB [H, W, 3] uint8 by its number; None if it cannot be decoded.
    """

    path: Path
    numbers: Sequence[int]
    read: Callable[[int], Image | None]

    @classmethod
    def of_file(cls, file: VideoFile, crop: Crop | None = None) -> Footage:
        """Frames of a video file, or the part of them that was cut out for labelling."""

        def read(number: int) -> Image | None:
            image = file.read(number)
            if image is None or crop is None:
                return image
            return image[crop.y1 : crop.y2, crop.x1 : crop.x2]

        return cls(file.path, range(file.frame_count()), read)

    @classmethod
    def of_folder(cls, path: Path, images: Mapping[int, str], crop: Crop | None = None) -> Footage:
        """Images of a folder by number, or the part of them that was cut out for labelling."""

        def read(number: int) -> Image | None:
            try:
                image = decode_image(path / images[number])
            except FrameError:
                return None
            return image if crop is None else image[crop.y1 : crop.y2, crop.x1 : crop.x2]

        return cls(path, sorted(images), read)


@dataclass(frozen=True, eq=False)
class Labelled:
    """A labelled image at hand.

    Attributes:
        name: for messages.
        read: it as RGB [H, W, 3] uint8; None, or FrameError, if it cannot be decoded.
    """

    name: str
    read: Callable[[], Image | None]

    def picture(self) -> Image | None:
        """The image; None if it cannot be decoded: others are there to compare."""
        try:
            return self.read()
        except FrameError:
            return None


@dataclass(frozen=True)
class Found:
    """Which frames labelled images show.

    Attributes:
        numbers: of the frame of each image that was looked for, by its row.
        shift: what all numbers are off by; None if there is no such thing.
        still: whether nothing moves, so that the images tell nothing.
    """

    numbers: Mapping[int, int]
    shift: int | None
    still: bool = False


def find_frames(
    images: Mapping[int, Labelled],
    readings: Sequence[Mapping[int, int]],
    footage: Footage,
    labels: str,
) -> Found:
    """The frame that each image shows.

    Up to eight images are compared with the frames of each reading of their numbers, and with the
    two before and after. Only where none fits, all images are looked for in all frames, in one
    pass. An image whose own frame is the most alike of all stays there however changed it is;
    otherwise two pictures of one frame have to agree in four fifths of what moves, and in more if
    the other images do.

    Args:
        images: labelled images by row of the labels; at least one.
        readings: what the numbers of images may mean, the likeliest first: frames by row.
        footage: frames to look in.
        labels: name of the label file, for messages.

    Raises:
        ValueError: an image has another size than the frames, or is no frame of this video.
    """
    rows = _some(sorted(images), _LOOKED_FOR)
    chosen = _some(rows, _COMPARED)
    compared = {row: picture for row in chosen if (picture := images[row].picture()) is not None}
    claimed = [[reading.get(row) for row in compared] for reading in readings]
    search = _Search(footage, {n for of in claimed for n in of if n is not None}, _width(len(rows)))
    for row, picture in compared.items():
        search.check_size(picture, images[row].name, labels)
    queries = {row: search.query(picture) for row, picture in compared.items()}
    if search.still:
        return _still(search, images, queries, readings[0], labels)
    for reading in readings:
        shift = search.shift_of(queries, reading)
        if shift is not None:
            return Found({row: reading[row] + shift for row in rows if row in reading}, shift)

    for row in rows:
        if row not in queries and (picture := images[row].picture()) is not None:
            search.check_size(picture, images[row].name, labels)
            queries[row] = search.query(picture)
    numbers = search.everywhere(queries, readings[0], images, labels)
    shifts = {number - readings[0].get(row, -1) for row, number in numbers.items()}
    return Found(numbers, shifts.pop() if len(shifts) == 1 else None)


def _some(rows: Sequence[int], most: int) -> list[int]:
    """Evenly chosen ones, the first and the last among them."""
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]


def _width(images: int) -> int:
    return _WIDTH if images <= _MANY_IMAGES else _WIDTH // 2


def _still(
    search: _Search,
    images: Mapping[int, Labelled],
    queries: Mapping[int, _Query],
    reading: Mapping[int, int],
    labels: str,
) -> Found:
    alike = {row: _correlation(query.grey, search.background) for row, query in queries.items()}
    if alike and np.median(list(alike.values())) < _ALIKE:
        row = min(alike, key=lambda row: alike[row])
        raise ValueError(_no_frame(labels, images[row].name, reading.get(row), search.footage.path))
    return Found(dict(reading), 0, still=True)


def _no_frame(labels: str, name: str, number: int | None, path: Path) -> str:
    own = "any frame" if number is None else f"frame {number}"
    return (
        f"{labels}: images are not those of the video: {name} does not look like {own} of {path}"
        f"{'' if number is None else ', nor like another one'}; give the video that the images "
        "were taken out of, or the folder of the images"
    )


@dataclass(frozen=True, eq=False)
class _Query:
    """A labelled image, with the background in its brightness.

    Attributes:
        grey: [h, w].
        background: [h, w].
        apart: [h, w] differences between the two.
    """

    grey: Grey
    background: Grey
    apart: Grey

    @classmethod
    def make(cls, grey: Grey, background: Grey) -> _Query:
        levelled = _levelled(background, grey)
        return cls(grey, levelled, cv2.absdiff(grey, levelled))  # type: ignore[arg-type]

    def share(self, frame: Grey) -> float:
        """The share of what moves that a frame [h, w] does not have in common with the image."""
        frame = _levelled(frame, self.grey)
        apart = cv2.max(cv2.absdiff(frame, self.background), self.apart)
        moving = cv2.compare(apart, _MOVING, cv2.CMP_GE)  # type: ignore[call-overload]
        if cv2.countNonZero(moving) < _FEW:
            return 0.0  # nobody there, in both
        pairs = (frame, self.grey), (frame, self.background), (self.grey, self.background)
        between, here, there = (cv2.norm(a, b, cv2.NORM_L1, moving) for a, b in pairs)
        return between / (here + there)


class _Search:
    """The footage in small grey pictures, with its background."""

    def __init__(self, footage: Footage, wanted: set[int], width: int):
        self.footage = footage
        self._width = width
        self._size: tuple[int, int] | None = None
        background = set(_some(footage.numbers, _BACKGROUND))
        there = set(background)
        for number in sorted(wanted):  # VideoFile reads neighbours without a jump
            there |= {number + shift for shift in _SHIFTS}
        known = set(footage.numbers)
        raw = {n: grey for n in sorted(there & known) if (grey := self._small(n)) is not None}
        if not raw:
            raise FrameError(f"{footage.path}: no frame can be decoded")
        sampled = [grey for n, grey in raw.items() if n in wanted | background]
        self.background: Grey = np.median(np.stack(sampled), 0).astype(np.uint8)
        self._near = raw
        self.still = all(
            np.count_nonzero(cv2.absdiff(grey, self.background) >= _MOVING) < _FEW
            for grey in self._near.values()
        )

    def check_size(self, image: Image, name: str, labels: str) -> None:
        height, width = image.shape[:2]
        if self._size is not None and self._size != (width, height):
            raise ValueError(
                f"{labels}: {name} has {width}x{height} pixels, {self.footage.path} has "
                f"{self._size[0]}x{self._size[1]}; labels count in pixels of the video"
            )

    def query(self, image: Image) -> _Query:
        return _Query.make(_small(image, self._width), self.background)

    def shift_of(self, queries: Mapping[int, _Query], reading: Mapping[int, int]) -> int | None:
        """What the numbers of all images are off by, two at most; None if no such thing fits."""
        shares = np.full((len(queries), len(_SHIFTS)), np.inf)
        errors = np.zeros(len(_SHIFTS))
        for place, (row, query) in enumerate(queries.items()):
            frames = [self._near.get(reading.get(row, -9) + shift) for shift in _SHIFTS]
            there = [frame is not None for frame in frames]
            shares[place, there] = [query.share(f) for f in frames if f is not None]
            if all(there):
                levelled = np.stack([_levelled(f, query.grey) for f in frames if f is not None])
                errors += _differences(query.grey, levelled)
        own = _SHIFTS.index(0)
        fits: Bools = np.asarray((shares <= _SURE).all(0))
        best = int(errors.argmin())
        if fits[best] and (errors[best] < 0.5 * errors[own] or (not fits[own] and errors.any())):
            return _SHIFTS[best]
        return 0 if fits[own] else None

    def everywhere(
        self,
        queries: Mapping[int, _Query],
        reading: Mapping[int, int],
        images: Mapping[int, Labelled],
        labels: str,
    ) -> dict[int, int]:
        """The frame of each image, of all frames; each frame is that of one image only."""
        numbers = list(self.footage.numbers)
        shares = np.full((len(queries), len(numbers)), np.inf, np.float32)
        shown, count = len(numbers) >= _LONG, len(numbers)
        with progress_bar(shown, total=count, unit="frame", desc="labelled images") as bar:
            for column, number in enumerate(numbers):
                grey = self._small(number)
                if grey is not None:
                    shares[:, column] = [query.share(grey) for query in queries.values()]
                bar.update()
        column_of = {number: column for column, number in enumerate(numbers)}
        typical = np.median(shares, 1)
        # All images were saved in one way: what is the same for one of them is so for the others.
        usual = float(np.quantile(shares.min(1), 0.25))
        limit = max(_LEAST, _LIKE_OTHERS * usual)
        found: dict[int, int] = {}
        nowhere = []
        rows = list(queries)
        for place in np.argsort(shares.min(1), kind="stable").tolist():
            row, of_image = rows[place], shares[place]
            best, own = int(of_image.argmin()), column_of.get(reading.get(row, -1))
            enough = min(_SAME, limit)
            if own is not None and of_image[own] <= of_image[best] + _AGAIN:
                best, enough = own, max(enough, min(typical[place] - _BETTER, limit, _OWN))
            if of_image[best] <= enough:
                found[row] = numbers[best]
                shares[:, best] = np.inf
            else:
                nowhere.append(row)
        if nowhere:
            row = min(nowhere)
            name = images[row].name
            raise ValueError(_no_frame(labels, name, reading.get(row), self.footage.path))
        return dict(sorted(found.items()))

    def _small(self, number: int) -> Grey | None:
        image = self.footage.read(number)
        if image is None:
            return None
        size = image.shape[1], image.shape[0]
        self._size = self._size or size
        return _small(image, self._width) if size == self._size else None


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file in pixels; its first bytes say.

    Raises:
        FrameError: it cannot be read.
    """
    try:
        with PillowImage.open(path) as image:
            return image.size
    except (OSError, ValueError, PillowImage.DecompressionBombError):
        height, width = decode_image(path).shape[:2]
        return width, height


def _small(image: Image, width: int) -> Grey:
    width = min(width, image.shape[1])
    height = max(round(image.shape[0] * width / image.shape[1]), 1)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _levelled(picture: Grey, like: Grey) -> Grey:
    """A picture with the brightness and contrast of another one, where they differ by much."""
    (mean, spread), (wanted, wanted_spread) = (cv2.meanStdDev(p) for p in (picture, like))
    gain = float(wanted_spread[0, 0] / max(spread[0, 0], 1e-6))
    if spread[0, 0] < 1 or not 1 / 3 < gain < 3:
        gain = 1.0
    offset = float(wanted[0, 0]) - gain * float(mean[0, 0])
    if abs(gain - 1) < 0.02 and abs(offset) < 2:
        return picture
    table = np.clip(np.arange(256) * gain + offset, 0, 255).round().astype(np.uint8)
    return cv2.LUT(picture, table)  # type: ignore[return-value]


def _correlation(first: Grey, second: Grey) -> float:
    """Of two pictures; 1 for plain ones, which tell nothing."""
    a, b = first - first.mean(), second - second.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 1.0


def _differences(image: Grey, frames: Grey) -> Floats:
    """Mean difference of an image from each of the frames [S, h, w], over the pixels that change
    the most among these, so that a small animal counts; zeros where nothing changes.
    """
    greys = frames.astype(np.float32)
    change = greys.max(0) - greys.min(0)
    moving = change >= max(float(np.quantile(change, 0.98)), _MOVING)
    if not moving.any():
        return np.zeros(len(frames))
    return np.abs(greys - image)[:, moving].mean(1).astype(np.float64)
