"""The packets of a video file, and what the decoder makes of them.

P packets in the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posewarper.data.images import FrameError
from posewarper.data.tables import Bools, Ints
from posewarper.data.video_faults import why_no_video

if TYPE_CHECKING:
    import av

NONE = np.iinfo(np.int64).min  # of a time stamp that is not there


@dataclass(frozen=True, eq=False)
class Packets:
    """The packets of a file.

    Attributes:
        pts: [P] when the frame is shown, in ticks; the lowest number of all where it is not said.
        dts: [P] when it is decoded.
        place: [P] where it lies in the file, in bytes; -1 for unknown.
        size: [P] bytes; -1 for a packet that the file lists, but that is not there.
        key: [P] whether decoding can begin here.
        hidden: [P] whether the file says that this frame is decoded, but not shown.
        alone: [P] whether no other frame needs this one.
        cut: [P] whether a part of the packet is missing.
        tick: seconds of a tick.
        rate: frames per second that the header names; 0 for none.
        container: names of the format.
    """

    pts: Ints
    dts: Ints
    place: Ints
    size: Ints
    key: Bools
    hidden: Bools
    alone: Bools
    cut: Bools
    tick: float
    rate: float
    container: str

    def __len__(self) -> int:
        return len(self.pts)

    @cached_property
    def there(self) -> Ints:
        """Those that can be read."""
        return np.flatnonzero(self.size >= 0)


@dataclass(frozen=True, eq=False)
class Survey:
    """What the decoder makes of the first packets, or of all.

    Attributes:
        came: packet of each frame, in the order in which the decoder gives them.
        bad: packets that it cannot decode, or only in part.
        size: how many packets it was given.
        sound: how many frames came before the first sign of damage.
    """

    came: list[int]
    bad: set[int]
    size: int
    sound: int


def look(path: Path, size: int | None = None) -> tuple[Packets, Survey]:
    """Read all packets, and decode the first ones; None: all.

    With several threads the decoder says later which packet it cannot decode: where there is one,
    a single thread looks again.

    Raises:
        FrameError: the file is missing or no video.
    """
    packets, found = _look(path, size, None)
    return (
        _look(path, size, 1) if found.bad or packets.cut[: found.size].any() else (packets, found)
    )


def _look(path: Path, size: int | None, threads: int | None) -> tuple[Packets, Survey]:
    rows: list[tuple[int, ...]] = []
    came: list[int] = []
    bad: set[int] = set()
    sound: list[int] = []
    container, stream = opened(path, threads)
    with container:

        def decode(packet: av.Packet | None, row: int) -> None:
            for frame in frames_of(stream, packet):
                if frame is None or frame.is_corrupt:
                    sound.append(len(came))
                    bad.add(row if frame is None or frame.pts is None else frame.pts)
                if frame is not None:
                    came.append(-1 if frame.pts is None else frame.pts)

        quiet = stream.codec_context.name in ("vp8", "libvpx")
        for packet in packets_of(container, stream):
            row = len(rows)
            rows.append(_row(packet, quiet))
            if size is None or row < size:
                packet.pts = row  # which the frame that is decoded from it will have
                decode(packet, row)
            elif row == size:
                decode(None, row - 1)
        if rows and (size is None or len(rows) <= size):
            decode(None, len(rows) - 1)
        table = np.array(rows, np.int64).reshape(-1, 8)
        if container.format.name == "avi":
            table = _with_lost(table, stream)
        pts, dts, place, length, *flags = table.T
        key, hidden, alone, cut = (flag > 0 for flag in flags)
        tick, name = float(stream.time_base or 1), container.format.name
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        packets = Packets(pts, dts, place, length, key, hidden, alone, cut, tick, rate, name)
    there = packets.there
    seen = len(packets) if size is None or size >= len(there) else int(there[size])
    bad = {int(there[row]) for row in bad} | set(np.flatnonzero(packets.size[:seen] < 0).tolist())
    came = [int(there[row]) if 0 <= row < len(there) else -1 for row in came]
    return packets, Survey(came, bad, seen, sound[0] if sound else len(came))


def _row(packet: av.Packet, quiet: bool) -> tuple[int, ...]:
    # VP8 keeps pictures to predict from, which are not shown, in packets of their own: a bit says
    # so, and above it stands a length, or the packet is damaged.
    tag = int.from_bytes(bytes(packet)[:3], "little") if quiet else 0
    hidden = tag >> 5 > 0 and not tag >> 4 & 1
    return (
        NONE if packet.pts is None else packet.pts,
        NONE if packet.dts is None else packet.dts,
        -1 if packet.pos is None else packet.pos,
        packet.size,
        packet.is_keyframe,
        hidden or packet.is_discard,
        packet.is_disposable,
        packet.is_corrupt,
    )


def opened(
    path: Path, threads: int | None = None
) -> tuple[av.container.InputContainer, av.VideoStream]:
    """The file and the largest of its video streams.

    Args:
        path: the file.
        threads: of the decoder; None: as many as there are cores.

    Raises:
        FrameError: the file is missing or no video.
    """
    import av

    if not path.is_file() or not path.stat().st_size:
        raise FrameError(f"{path}: {why_no_video(path)}")
    try:
        # Absolute, or FFmpeg would take what is before a colon in the name for a protocol.
        container = av.open(str(path.absolute()), metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError):
        raise FrameError(f"{path}: {why_no_video(path)}") from None
    streams = [s for s in container.streams.video if s.codec_context is not None]
    streams = [s for s in streams if not _is_picture(s)] or streams
    if not streams or container.format.name == "image2" or container.format.name.endswith("_pipe"):
        container.close()
        raise FrameError(f"{path}: {why_no_video(path)}")
    stream = max(streams, key=lambda s: s.codec_context.width * s.codec_context.height)
    if threads is None:
        stream.thread_type = "AUTO"
    else:
        stream.codec_context.thread_count = threads
    return container, stream


def packets_of(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.Packet]:
    """The packets from here on; slots of AVI that are empty hold no frame. Ends at damage that
    cannot be passed over.
    """
    import av

    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except (av.FFmpegError, OSError):
        return


def frames_of(stream: av.VideoStream, packet: av.Packet | None) -> Iterator[av.VideoFrame | None]:
    """The frames that the decoder gives for a packet, None in place of an error. In place of a
    packet, None ends what was before; a new beginning may follow.
    """
    import av

    try:
        yield from stream.codec_context.decode(packet)
    except (av.FFmpegError, OSError):
        yield None
    if packet is None:
        stream.codec_context.flush_buffers()


def _is_picture(stream: av.VideoStream) -> bool:
    """Whether this is the cover of a film rather than its pictures."""
    return bool(stream.disposition.value & 1 << 10)


def _with_lost(table: Ints, stream: av.VideoStream) -> Ints:
    """The packets of an AVI file with those that its index names and that are not there."""
    header = 8  # bytes before a packet, where the index says that it begins
    index = getattr(stream, "index_entries", ())  # older versions of PyAV do not tell
    entries = [(e.pos + header, e.timestamp, e.is_keyframe) for e in index if e.size]
    places = {place: row for row, place in enumerate(table[:, 2].tolist())}
    known = {place for place, _, _ in entries}
    if len(entries) <= len(table) or (table[:, 1] == NONE).any() or not known.issuperset(places):
        return table
    rows = []
    for place, slot, key in entries:
        if place in places:
            row = table[places[place]].copy()
            row[:2] += slot - row[1]  # FFmpeg does not count what is lost
        elif place < table[-1, 2]:
            row = np.array([NONE, slot, place, -1, key, 0, 0, 1])
        else:
            break  # cut off
        rows.append(row)
    found = np.array(rows)
    first = found[found[:, 3] >= 0, 0].min()
    unused = sorted(set(range(first, first + len(found))) - set(found[:, 0].tolist()))
    lost = np.flatnonzero(found[:, 3] < 0)
    if len(unused) >= len(lost):
        found[lost, 0] = unused[: len(lost)]
    return found
