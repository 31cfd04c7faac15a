"""From what a decoder gives to RGB pictures to be shown: colours, fields, orientation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from posewarper.data.images import Image

if TYPE_CHECKING:
    import av
    import av.filter

Numbered = tuple[int, "av.VideoFrame"]

# Matrix of the colours by what the file says (numbers of H.273) as libswscale numbers them. Whoever
# says nothing, or that it is RGB, gets BT.601, as from FFmpeg's own program.
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_BT601 = 5
_UNSPECIFIED, _LIMITED, _FULL = 0, 1, 2


class Converter:
    """Makes RGB [H, W, 3] uint8 of the frames of a file."""

    def __init__(self) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._reformat = VideoReformatter().reformat
        self._interpolation = Interpolation.BICUBIC  # as FFmpeg's own program

    def __call__(self, frame: av.VideoFrame) -> Image:
        """A frame in the colours that its file means, turned as it says.

        Raises:
            av.FFmpegError, ValueError: libswscale cannot convert it.
        """
        stated = int(frame.color_range)
        plain = frame.format.is_rgb or frame.format.name.startswith(("gray", "ya"))
        full = (plain and stated == _UNSPECIFIED) or frame.format.name.startswith("yuvj")
        rgb = self._reformat(
            frame,
            format="rgb24",
            interpolation=self._interpolation,
            src_colorspace=_MATRICES.get(int(frame.colorspace), _BT601),
            dst_colorspace=_BT601,
            src_color_range=_FULL if full or stated == _FULL else _LIMITED,
            dst_color_range=_FULL,
        )
        return _upright(np.asarray(rgb.to_ndarray(), np.uint8), frame)


def deinterlaced(frames: Iterable[Numbered]) -> Iterator[Numbered]:
    """The same frames, one for one; of interlaced ones the second field's lines are filled in from
    the first and from the frames before and after.
    """
    graph, kind = None, None
    numbers: deque[int] = deque()
    for number, frame in frames:
        here = frame.width, frame.height, frame.format.name
        if graph is None or here != kind:
            if graph is not None:
                yield from _filtered(graph, None, numbers)
            graph, kind = _filter_graph(frame), here
        numbers.append(number)
        yield from _filtered(graph, frame, numbers)
    if graph is not None:
        yield from _filtered(graph, None, numbers)


def _filter_graph(frame: av.VideoFrame) -> av.filter.Graph:
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    fill = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    graph.link_nodes(source, fill, graph.add("buffersink")).configure()
    return graph


def _filtered(
    graph: av.filter.Graph, frame: av.VideoFrame | None, numbers: deque[int]
) -> Iterator[Numbered]:
    """What the filter gives for a frame, or at the end; it is a frame behind."""
    import av

    graph.push(frame)
    while numbers:
        try:
            done = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        assert isinstance(done, av.VideoFrame)
        yield numbers.popleft(), done


def _upright(image: Image, frame: av.VideoFrame) -> Image:
    """Turned and mirrored by the frame's display matrix, if by quarters of a turn."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    a, b, _, c, d = np.sign(np.frombuffer(bytes(matrix), np.int32)[:5]).tolist()
    turned: npt.NDArray[np.uint8] = image
    if a == d == 0 and b and c:  # columns become rows
        turned, a, d = image.transpose(1, 0, 2), c, b
    elif b or c or not (a and d):
        return image
    return np.ascontiguousarray(turned[::d, ::a])
