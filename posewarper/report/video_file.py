"""Video files that play everywhere: H.264 in MP4, written frame by frame.

    with VideoWriter("overlay.mp4", fps=25, size_wh=(640, 480)) as video:
        for frame in frames:
            video.write(frame)

``film_of`` opens one for pictures of any size and rate.

PyAV brings the encoder. OpenCV's own writer is no substitute: the H.264 encoder is missing from its
wheels for Linux and Windows, and browsers do not play the codecs that are there.
"""

from __future__ import annotations

import contextlib
import logging
import math
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import numpy.typing as npt

from posewarper.files import whole_file

if TYPE_CHECKING:
    import av

Image = npt.NDArray[np.uint8]

log = logging.getLogger("posewarper.report")

_CODEC: Final = "libx264"
_QUALITY = {"crf": "20", "preset": "veryfast"}
_LARGEST_SIDE = 8192  # of what decoders of level 6.2 take
_RATES = 1e-4, 1000.0  # frames per second that players still understand
# BT.601, narrow range. Readers that heed the tags show the right colours with any matrix, and those
# that do not, such as OpenCV, mostly take this one. The other two numbers say BT.709, which is what
# sRGB has for its primaries and is closest to for its curve.
_MATRIX, _PRIMARIES, _TRANSFER, _NARROW = 6, 1, 1, 1


class VideoWriter:
    """Writes an MP4 file that browsers and QuickTime play: H.264, 4:2:0, index at the front.

    A context manager. The file appears when the block ends well; after an error or an interrupt in
    it nothing is left, and an older file of that name stays as it was. Frames are encoded as they
    come, and few are held: memory does not grow with the length of the video.

    H.264 wants even sizes: of an odd one the last column or row is repeated, so that coordinates
    stay and the file is a pixel larger.

    Args:
        path: ends in ``.mp4``.
        fps: frames per second.
        size_wh: width and height of the frames in pixels.

    Raises:
        ValueError: another suffix, a rate that is not positive or above 1000, a size that is not
            between 1 and 8192; when the block ends, no frame was written.
        FileNotFoundError: the folder does not exist.
        RuntimeError: PyAV was built without an H.264 encoder.
    """

    def __init__(self, path: str | Path, fps: float, size_wh: tuple[int, int]):
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise ValueError(f"path: expected a file name that ends in .mp4, got {self.path}")
        if not (math.isfinite(fps) and 0 < fps <= 1000):
            raise ValueError(f"fps: expected a number above 0 and at most 1000, got {fps}")
        if len(size_wh) != 2 or not all(1 <= side <= _LARGEST_SIDE for side in size_wh):
            raise ValueError(
                f"size_wh: expected width and height from 1 to {_LARGEST_SIDE}, got {size_wh}"
            )
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"{self.path}: there is no folder {self.path.parent}")
        self.size_wh = int(size_wh[0]), int(size_wh[1])
        # Finds 30000/1001 in 29.97003, and whatever is closest for rates below one per second.
        self._rate = Fraction(float(fps)).limit_denominator(1001 if fps >= 1 else 100_000)
        if not self._rate:
            raise ValueError(f"fps: expected at least one frame in 100000 seconds, got {fps}")
        self._written = 0
        self._held = contextlib.ExitStack()
        self._container: av.container.OutputContainer | None = None
        self._stream: av.VideoStream | None = None

    def __enter__(self) -> VideoWriter:
        # Imported here because OpenCV brings its own FFmpeg: on macOS, having both in one process
        # prints a warning, which only those should see who read or write videos.
        import av

        if _CODEC not in av.codecs_available:
            raise RuntimeError(f"this build of PyAV ({av.__version__}) has no encoder {_CODEC}")
        with self._held as held:
            partial = held.enter_context(whole_file(self.path))
            try:
                container = av.open(
                    str(partial), "w", format="mp4", options={"movflags": "+faststart"}
                )
            except OSError as error:
                raise OSError(f"{self.path}: {error.strerror or error}") from None
            # Closing twice does nothing; this is for the case of an error.
            held.callback(container.close)
            stream = container.add_stream(_CODEC, rate=self._rate, options=dict(_QUALITY))
            stream.width, stream.height = (side + side % 2 for side in self.size_wh)
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.colorspace, context.color_range = _MATRIX, _NARROW
            context.color_primaries, context.color_trc = _PRIMARIES, _TRANSFER
            self._container, self._stream, self._written = container, stream, 0
            self._held = held.pop_all()
        return self

    def write(self, rgb: Image) -> None:
        """Add a frame.

        Args:
            rgb: [H, W, 3] uint8 of the size given; not changed, and free to be reused.

        Raises:
            ValueError: another size or type; or the writer is not open.
        """
        import av

        if self._container is None or self._stream is None:
            raise ValueError(f'{self.path}: not open; use "with VideoWriter(...) as video"')
        width, height = self.size_wh
        if rgb.shape != (height, width, 3) or rgb.dtype != np.uint8:
            raise ValueError(
                f"rgb: expected [{height}, {width}, 3] uint8, got {list(rgb.shape)} {rgb.dtype}"
            )
        if width % 2 or height % 2:
            rgb = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        picture = picture.reformat(
            format="yuv420p", dst_colorspace="ITU601", dst_color_range="MPEG"
        )
        picture.pts, picture.time_base = self._written, 1 / self._rate
        self._container.mux(self._stream.encode(picture))
        self._written += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        container, stream = self._container, self._stream
        self._container = self._stream = None
        if error is not None:
            self._held.__exit__(kind, error, trace)  # the partial file goes
            return
        with self._held:
            assert container is not None and stream is not None
            if not self._written:
                raise ValueError(f"{self.path}: no frame was written")
            container.mux(stream.encode(None))
            container.close()


def film_of(path: str | Path, fps: float, size_wh: tuple[int, int]) -> VideoWriter:
    """A writer for pictures of this size in a film that H.264 can hold: smaller, where they are too
    large, and at another rate, where they come too fast or too slowly. Says so.

    Args:
        path, fps, size_wh: as for ``VideoWriter``.

    Raises:
        ValueError, FileNotFoundError: as ``VideoWriter``, for the other reasons.
    """
    shrunk = min(_LARGEST_SIDE / max(size_wh), 1.0)
    film_wh = max(round(size_wh[0] * shrunk), 1), max(round(size_wh[1] * shrunk), 1)
    if shrunk < 1:
        log.warning(
            "%s: pictures of %d x %d pixels are drawn at %d x %d, since H.264 ends at %d",
            path, *size_wh, *film_wh, _LARGEST_SIDE,
        )  # fmt: skip
    rate = min(max(fps, _RATES[0]), _RATES[1])
    if rate != fps:
        log.warning("%s: plays %g frames per second in place of %g", path, rate, fps)
    return VideoWriter(path, rate, film_wh)


def fitted(image: Image, size_wh: tuple[int, int]) -> Image:
    """A picture of any size on one of this size: scaled to fit, black beside it."""
    height, width = image.shape[:2]
    if (width, height) == size_wh:
        return image
    scale = min(size_wh[0] / width, size_wh[1] / height)
    inside = (
        min(max(round(width * scale), 1), size_wh[0]),
        min(max(round(height * scale), 1), size_wh[1]),
    )
    result = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    left, top = (size_wh[0] - inside[0]) // 2, (size_wh[1] - inside[1]) // 2
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(image, inside, interpolation=how)
    result[top : top + inside[1], left : left + inside[0]] = scaled
    return result
