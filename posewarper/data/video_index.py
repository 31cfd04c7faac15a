"""Which packet of a video file holds which frame.

A packet is what the encoder made of one frame, in the order in which it has to be decoded; its time
stamp says when the frame is shown. So the packets alone, which are read without decoding, tell how
many frames there are and their order, and where one cannot be decoded the others keep theirs.

That is checked against the decoder: on the first frames, and on all where time stamps are missing
or guessed (AVI, raw streams). Where packets and frames do not belong together, frames are counted
as they are decoded, and every jump starts at the beginning.

P packets in the order of the file; N frames in the order in which they are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from posewarper.data.images import FrameError
from posewarper.data.tables import Floats, Ints
from posewarper.data.video_faults import why_no_video
from posewarper.data.video_packets import NONE, Packets, Survey, look

if TYPE_CHECKING:
    import av

_TRIAL = 24  # packets that are decoded to see whether each holds one frame
_DELAY = 16  # packets between decoding and showing, at most


@dataclass(frozen=True, eq=False)
class Index:
    """Which packet holds which frame.

    Attributes:
        packets: all of the stream.
        number: [P] the frame that a packet holds; -1 for none.
        row: [N] the packet that holds a frame.
        times: [N] milliseconds at which frames are shown; zeros if the file does not say.
        mark: [P] what a packet is recognised by after a jump; None: not at all, so that every jump
            starts at the beginning.
        counted: whether frames are counted as they come, since packets do not tell their numbers.
        damaged: numbers of frames that cannot be decoded, as far as is known.
        complete: whether that is known of all of them.
    """

    packets: Packets
    number: Ints
    row: Ints
    times: Floats
    mark: Ints | None
    counted: bool = False
    damaged: frozenset[int] = frozenset()
    complete: bool = False

    def __len__(self) -> int:
        return len(self.row)

    def keys_before(self, number: int) -> Iterator[int]:
        """Packets from which decoding leads to a frame, the nearest first."""
        for at in range(int(np.searchsorted(self.keys, self.row[number], "right")) - 1, -1, -1):
            key = int(self.keys[at])
            if self.number[key] <= number:  # or it is shown after the frame
                yield key

    @cached_property
    def keys(self) -> Ints:
        """Packets at which decoding can begin."""
        return np.flatnonzero(self.packets.key)

    def row_of(self, packet: av.Packet) -> int:
        """Which packet this is that was read after a jump; -1 for none.

        The size must be the same, too: after a jump, some formats hand out time stamps of others.
        """
        mark = packet.pos if self.packets.container == "avi" else packet.pts
        order, marks = self._marks
        at = len(marks) if mark is None else int(np.searchsorted(marks, mark))
        row = int(order[at]) if at < len(marks) and marks[at] == mark else -1
        return row if self.packets.size[row] == packet.size else -1

    @cached_property
    def _marks(self) -> tuple[Ints, Ints]:
        assert self.mark is not None
        order = np.argsort(self.mark)
        return order, self.mark[order]


def read_index(path: Path) -> Index:
    """Read all packets, and decode as many frames as are needed to know what they hold.

    Raises:
        FrameError: the file is missing or no video, or none of its frames can be decoded.
    """
    packets, found = look(path, _TRIAL)
    if len(packets) <= 1 and cv2.haveImageReader(str(path)):  # FFmpeg also reads images
        raise FrameError(f"{path}: {why_no_video(path)}")
    # AVI has slots in place of time stamps, from which FFmpeg guesses them.
    guessed = packets.container == "avi" and not packets.key.all()
    index = None if guessed else _by_stamps(packets, found)
    if index is None:
        if found.size < len(packets):
            packets, found = look(path)
        index = _by_stamps(packets, found) or _by_decoding(packets, found)
    if not len(index) or (not found.came and len(check(path, index).damaged) == len(index)):
        raise FrameError(f"{path}: a video, but none of its frames can be decoded")
    return index


def check(path: Path, index: Index) -> Index:
    """The same index, with all frames known that cannot be decoded: decodes the whole file."""
    return index if index.complete else _with_damage(index, look(path)[1])


def _tainted(packets: Packets, bad: set[int]) -> set[int]:
    """These packets, and those that are predicted from them: all up to the next one at which
    decoding can begin, and those after it that are shown before it.
    """
    keys = np.flatnonzero(packets.key)
    tainted: set[int] = set()
    for row in sorted(bad):
        if row >= len(packets) or row in tainted:
            continue
        tainted.add(row)
        if packets.alone[row]:
            continue
        if packets.size[row] < 0:  # whether it was shown before or after these, nobody can tell
            recent = np.arange(max(row - _DELAY, 0), row)
            tainted.update(recent[packets.pts[recent] >= packets.dts[row]].tolist())
        following = keys[keys > row]
        end = int(following[0]) if len(following) else len(packets)
        tainted.update(range(row, end))
        if end < len(packets):
            after = int(following[1]) if len(following) > 1 else len(packets)
            earlier = packets.pts[end:after] < packets.pts[end]
            tainted.update((end + np.flatnonzero(earlier)).tolist())
    return tainted


def _damaged(packets: Packets, found: Survey, index: Index) -> set[int]:
    """Packets whose frames do not come, or not whole."""
    shown = np.flatnonzero(index.number[: found.size] >= 0).tolist()
    return _tainted(packets, found.bad | (set(shown) - set(found.came)))


def _by_stamps(packets: Packets, trial: Survey) -> Index | None:
    """Numbers by time stamps; None if the trial contradicts them."""
    pts, keys = packets.pts, np.flatnonzero(packets.key)
    shown = ~packets.hidden
    if (pts[shown] == NONE).any() or not len(keys):
        return None
    # What comes before the first frame that can be decoded needs frames that were cut off; where a
    # file begins with damage, it is damaged. Only recorded streams are cut anywhere.
    cut = 0 not in trial.bad or packets.container in ("mpegts", "mpeg")
    first = int(keys[0]) if cut else 0
    came = np.isin(np.arange(len(packets)), trial.came)
    early = (pts < pts[first]) & (np.arange(len(packets)) < trial.size)
    shown &= ~((np.arange(len(packets)) < first) | (early & ~came))
    if len(np.unique(pts[shown])) != shown.sum():
        return None
    order = [row for row in trial.came if shown[row]]
    lost = set(np.flatnonzero(shown[: trial.size]).tolist()) - set(order)
    if len(order) < len(trial.came) or (np.diff(pts[order]) <= 0).any():
        return None
    if lost - _tainted(packets, trial.bad):
        return None
    rows = np.flatnonzero(shown)
    index = _make(packets, rows[np.argsort(pts[rows], kind="stable")])
    return _with_damage(index, trial)


def _with_damage(index: Index, found: Survey) -> Index:
    """The index with the damage that a look at all packets has found."""
    if found.size < len(index.packets):
        return index
    damaged = index.number[sorted(_damaged(index.packets, found, index))]
    return replace(index, damaged=frozenset(damaged[damaged >= 0].tolist()), complete=True)


def _by_decoding(packets: Packets, found: Survey) -> Index:
    """Numbers in the order in which all frames come."""
    came = found.came
    if len(set(came)) != len(came) or not all(0 <= row < len(packets) for row in came):
        count, nothing = found.sound, np.zeros(0, np.int64)
        return Index(packets, nothing, np.arange(count), np.zeros(count), None, True, complete=True)
    lost = sorted(_tainted(packets, found.bad) - set(came))
    order = list(came)
    for row in lost:  # where it would have come: after the last frame of an earlier packet
        before = [at for at, other in enumerate(order) if other < row]
        order.insert(before[-1] + 1 if before else 0, row)
    return _with_damage(_make(packets, np.array(order, np.int64)), found)


def _make(packets: Packets, row: Ints) -> Index:
    number = np.full(len(packets), -1)
    number[row] = np.arange(len(row))
    stamps = packets.pts[row]
    if not (np.diff(stamps) > 0).all():
        stamps = np.sort(packets.dts[row])  # AVI: numbers of slots, in the order of the file
    known = len(row) and (stamps != NONE).all() and (np.diff(stamps) > 0).all()
    times = stamps.astype(np.float64) * (packets.tick * 1000) if known else np.zeros(len(row))
    mark = packets.place if packets.container == "avi" else packets.pts
    unique = len(np.unique(mark)) == len(mark) and (mark != NONE).all()
    return Index(packets, number, row, times, mark if unique else None)
