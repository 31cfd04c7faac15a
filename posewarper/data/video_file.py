"""The frames of one video file by number, exact in any order of reading. PyAV decodes them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from posewarper.data.images import FrameError, Image
from posewarper.data.tables import Floats
from posewarper.data.video_colors import Converter, Numbered, deinterlaced
from posewarper.data.video_faults import listed, missing_frames
from posewarper.data.video_index import Index, check, read_index
from posewarper.data.video_packets import frames_of, opened, packets_of

if TYPE_CHECKING:
    import av

# What was open when the process was forked. It is never closed: closing waits for threads, of the
# decoder and of the conversion, which a forked process does not have.
_INHERITED: list[object] = []
_JUMP = 8  # decoding this many frames is cheaper than seeking


class VideoFile:
    """Frames of one video file by index, exact also after a jump.

    Frame n is the n-th of the frames that the file shows, in the order of their time stamps:
    whatever the frame rate, an edit list or a start offset says, it is the same one in any order of
    reading, and the one that other tools mean which count frames while they decode. A frame that is
    damaged keeps its number, so that those after it keep theirs. Of several video streams the
    largest is read. Videos that are to be shown turned or mirrored come so, and sizes and
    coordinates are those of these frames.

    The first read makes an index of the packets (``data.video_index``). A jump goes to the key
    frame before the frame, and counts packets from there.

    Args:
        path: the file.
        deinterlace: fill in the lines of the second field of interlaced frames (bwdif); otherwise
            such frames show two moments, in every other line.
    """

    def __init__(self, path: Path, *, deinterlace: bool = False):
        self.path = path
        self.deinterlace = deinterlace
        self._index: Index | None = None
        self._run: _Run | None = None
        self._damage: tuple[str | None] | None = None  # of a cut, once it is known

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None}

    def read(self, index: int) -> Image | None:
        """Frame ``index`` (from 0) as RGB [H, W, 3] uint8; None if there is none, or if it is
        damaged.

        Raises:
            FrameError: the file is missing or no video.
        """
        known = self._known()
        if not 0 <= index < len(known) or index in known.damaged:
            return None
        image = self._found(index)
        if image is None and not self._known().complete:
            self._check()
            return self.read(index)
        return image

    def frame_count(self) -> int:
        """How many frames there are, damaged ones included."""
        return len(self._known())

    def index(self) -> Floats:
        """Time stamps in milliseconds as the file has them, one per frame; zeros where it has none.

        Raises:
            FrameError: the file is missing or no video, or not one frame can be decoded.
        """
        return self._known().times

    def times(self) -> Floats:
        """When each frame is shown, in seconds after the first; they grow.

        Evenly spaced by the frame rate that the file names, if it has no usable time stamps.

        Raises:
            FrameError: as ``index``; or the file has neither.
        """
        stamps = self.index()
        if len(stamps) and (np.diff(stamps) > 0).all():
            return (stamps - stamps[0]) / 1000
        return np.arange(len(stamps)) / self._rate_named()

    def frame_rate(self) -> float:
        """Frames per second, on average.

        Raises:
            FrameError: as ``times``.
        """
        times = self.times()
        return (len(times) - 1) / times[-1] if len(times) > 1 else self._rate_named()

    def damage(self) -> str | None:
        """Which frames are missing of a file that is cut off or damaged, as a message; None if the
        file has what it promises, or promises nothing. Decodes all frames, once.

        Raises:
            FrameError: as ``index``.
        """
        self._check()
        return self.damage_seen()

    def damage_seen(self) -> str | None:
        """As ``damage``, as far as it was met while reading: decodes nothing."""
        known = self._known()
        if self._damage is None:
            self._damage = (missing_frames(self.path, known.times),)
        parts = [self._damage[0]] if self._damage[0] else []
        if known.damaged:
            parts.insert(
                0,
                f"{self.path}: damaged: {len(known.damaged)} of {len(known)} frames cannot be "
                f"decoded, counted from 0: {listed(sorted(known.damaged))}",
            )
        return "; ".join(parts) or None

    def size_wh(self) -> tuple[int, int]:
        """Width and height of the first frame that can be decoded.

        Raises:
            FrameError: none can; or as ``index``.
        """
        for number in range(self.frame_count()):
            image = self.read(number)
            if image is not None:
                return image.shape[1], image.shape[0]
        raise FrameError(f"{self.path}: a video, but none of its frames can be decoded")

    def close(self) -> None:
        """Let go of the decoder; the next read opens the file again, and needs no new index."""
        if self._run is not None:
            self._run.close()
        self._run = None

    def _known(self) -> Index:
        if self._index is None:
            self._index = read_index(self.path)
        return self._index

    def _check(self) -> None:
        self._index = check(self.path, self._known())
        self.close()

    def _rate_named(self) -> float:
        rate = self._known().packets.rate
        if not (np.isfinite(rate) and rate > 0):
            raise FrameError(f"{self.path}: has no time stamps and names no frame rate")
        return rate

    def _found(self, number: int) -> Image | None:
        """The frame, if the decoder gives it whole: from here, else from a key frame before it."""
        if self._run is not None and self._run.owner != os.getpid():
            # The open file, and with it the place in it, is shared with the parent.
            self.close()
        if self._run is not None and self._run.leads_to(number):
            image = self._run.read(number)
            if image is not None or not self._known().complete:
                return image
        for start in self._starts(number):
            if self._run is None or not start:
                self.close()
                # Worker processes share the cores already.
                threads = None if multiprocessing.parent_process() is None else 1
                self._run = _Run(self.path, self._known(), threads, self.deinterlace)
            self._run.begin(start)
            image = self._run.read(number)
            if image is not None:
                return image
        return None

    def _starts(self, number: int) -> Iterator[int]:
        """Packets from which decoding may lead to a frame, the nearest first, the first last."""
        known = self._known()
        if known.mark is not None and not known.counted:
            # To fill in lines, the frame before is needed, too.
            wanted = max(number - self.deinterlace, 0)
            keys = list(islice(known.keys_before(wanted), 4))
            yield from (keys[back] for back in (0, 1, 3) if back < len(keys) and keys[back])
        yield 0


class _Run:
    """A way through the frames of a file.

    Args:
        path: the file.
        index: which packet holds which frame.
        threads: of the decoder; None: as many as there are cores.
        deinterlace: as for ``VideoFile``.
    """

    def __init__(self, path: Path, index: Index, threads: int | None, deinterlace: bool):
        self.owner = os.getpid()  # the process that opened the file
        self._index, self._deinterlace = index, deinterlace
        self._decoder = _Decoder(path, index, threads)
        self._frames: Iterator[Numbered] = iter(())
        self._ahead: Numbered | None = None  # a frame that came, but was not asked for
        self._next = 0  # no earlier one will come
        self._converter = Converter()

    def begin(self, start: int) -> None:
        """Go to a packet: one at which decoding can begin; the first one only of a fresh run."""
        frames = self._decoder.frames(start)
        self._frames = deinterlaced(frames) if self._deinterlace else frames
        self._ahead, self._next = None, max(int(self._index.number[start]), 0) if start else 0

    @property
    def threads(self) -> int:
        """Of the decoder."""
        return self._decoder.threads

    def close(self) -> None:
        """Let go of the file."""
        if self.owner == os.getpid():
            self._decoder.close()
        else:
            _INHERITED.append((self._decoder, self._frames, self._ahead, self._converter))

    def __del__(self) -> None:
        if hasattr(self, "_converter"):
            self.close()

    def leads_to(self, number: int) -> bool:
        """Whether going on is the shortest way to a frame."""
        if number < self._next:
            return False
        if number <= self._next + _JUMP or self._index.mark is None:
            return True
        key = next(self._index.keys_before(number), 0)
        return int(self._index.number[key]) <= self._next + _JUMP

    def read(self, number: int) -> Image | None:
        """The frame; None if it does not come, or not whole."""
        import av

        while True:
            if self._ahead is None:
                self._ahead = next(self._frames, None)
            if self._ahead is None or self._ahead[0] > number:
                return None
            here, frame = self._ahead
            self._ahead, self._next = None, here + 1
            if here == number:
                try:
                    return self._converter(frame)
                except (av.FFmpegError, ValueError, OSError):
                    return None


class _Decoder:
    """An open file and its decoder. A generator of its frames must not refer to who holds it: both
    would wait for the garbage collector, which may come after a fork.

    Args:
        path, index, threads: as for ``_Run``.
    """

    def __init__(self, path: Path, index: Index, threads: int | None):
        self._index = index
        self._container, self._stream = opened(path, threads)

    @property
    def threads(self) -> int:
        """How many decode."""
        return int(self._stream.codec_context.thread_count)

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    def frames(self, start: int) -> Iterator[Numbered]:
        """Frames with their numbers, from a packet on. Ends at the first sign of damage, unless it
        is known which frames are damaged.
        """
        if start:
            self._stream.codec_context.flush_buffers()
        counted, damaged = 0, False
        for packet in chain(self._packets(start), [None]):
            if packet is not None and packet.is_corrupt and not self._index.complete:
                return
            if packet is not None and packet.pts in self._index.damaged:
                damaged = True
                continue
            # After damage nothing is left that frames could be predicted from.
            anew = packet is not None and packet.is_keyframe and damaged
            damaged = False
            steps = (
                frames_of(self._stream, step) for step in ([None, packet] if anew else [packet])
            )
            for frame in chain.from_iterable(steps):
                if frame is None or frame.is_corrupt:
                    if not self._index.complete:
                        return
                    continue
                number = counted if self._index.counted else frame.pts
                counted += 1
                if number is not None and number >= 0:
                    yield number, frame

    def _packets(self, start: int) -> Iterator[av.Packet]:
        """The packets from one on; the number of its frame stands in place of the time stamp."""
        packets = packets_of(self._container, self._stream)
        if self._index.counted:
            yield from packets
            return
        if start:
            packets = self._after_jump(start)
        rows = self._index.packets.there
        for row, packet in zip(rows[rows >= start].tolist(), packets, strict=False):
            if start and self._index.row_of(packet) != row:
                return  # not where it should be; another start is tried
            packet.pts = int(self._index.number[row])
            yield packet

    def _after_jump(self, start: int) -> Iterator[av.Packet]:
        """The packets from one on; none if it is not found."""
        import av

        table = self._index.packets
        for stamp in dict.fromkeys((int(table.pts[start]), int(table.dts[start]))):
            try:
                self._container.seek(stamp, stream=self._stream)
            except (av.FFmpegError, OSError):
                continue
            for packet in packets_of(self._container, self._stream):
                row = self._index.row_of(packet)
                if row == start:
                    yield packet
                    yield from packets_of(self._container, self._stream)
                    return
                if row > start:
                    break  # too far
