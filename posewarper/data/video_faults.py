"""What is wrong with a video file, for messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import av

_SLACK = 2  # frames; a header may announce a few that are never shown
_GAP = 8  # times the usual distance of frames; cameras leave out a few where it is dark


def why_no_video(path: Path) -> str:
    """The reason why FFmpeg cannot read a video from this place, in words."""
    if path.is_dir():
        return "a folder, where a video file is expected"
    if not path.exists():
        return "there is no such video file"
    if not path.is_file():
        return "neither a file nor a folder"
    if not path.stat().st_size:
        return "the file is empty (0 bytes)"
    if cv2.haveImageReader(str(path)):
        return "an image, where a video is expected; images are read from a folder of them"
    import av

    try:
        with av.open(str(path.absolute())) as container:
            video, audio = container.streams.video, container.streams.audio
            if not video:
                return "holds sound but no pictures" if audio else "holds no pictures"
            return f"not a video that FFmpeg can read (codec {video[0].codec_context.name})"
    except PermissionError:
        return "may not be read (no permission)"
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return f"not a video that FFmpeg can read, or cut off: {reason}"


def missing_frames(path: Path, stamps: npt.NDArray[np.float64]) -> str | None:
    """Which frames are missing of a file that is cut off or damaged, in words; None if none are.

    Told from what the file's header promises; some formats, such as MPEG streams, promise nothing.
    A gap in the middle shows only where frames are evenly spaced otherwise.

    Args:
        path: the file.
        stamps: [n] milliseconds of the frames that can be decoded; they do not grow where the file
            has none.
    """
    import av

    try:
        with av.open(str(path.absolute())) as container:
            stream = max(container.streams.video, key=lambda s: s.width * s.height)
            listed, end = stream.frames, _promised_end(container, stream)
    except (av.FFmpegError, OSError, ValueError):
        return None
    count, steps = len(stamps), np.diff(stamps)
    if count < 2 or not (steps > 0).all():
        if listed - count <= _SLACK:
            return None
        return (
            f"{path}: cut off or damaged: {count} of {listed} frames can be read; if others than "
            "the last are missing, frame numbers after them are too small"
        )
    # Not by number alone: an edit list hides frames, and AVI lists slots that may be empty.
    step = max(float(np.median(steps)), float(steps[-1])) / 1000
    last, start = float(stamps[-1]) / 1000 + step, float(stamps[0]) / 1000
    if end - last > 1.5 * step and not 0 < listed <= count:
        return (
            f"{path}: cut off or damaged: frames cannot be read from number {count} on, counted "
            f"from 0 ({last - start:.1f} of {end - start:.1f} s are there)"
        )
    even = float(np.median(steps))
    longest = int(steps.argmax())
    if (
        steps[longest] > _GAP * even
        and np.mean(np.abs(steps - even) < 2) > 0.98
        and not 0 < listed <= count
    ):
        return (
            f"{path}: damaged or with a pause: about {steps[longest] / even - 1:.0f} frames are "
            f"missing after number {longest}, counted from 0; numbers after it may be too small"
        )
    return None


def _promised_end(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Seconds at which the last frame ends, as the header says; 0 for unknown."""
    if "matroska" in container.format.name:
        # The whole file's end is that of the sound, where sound is longer.
        tag = stream.metadata.get("DURATION", "")
        if tag.count(":") == 2:
            hours, minutes, seconds = tag.split(":")
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        if len(container.streams) == 1 and container.duration is not None:
            return container.duration / 1_000_000
        return 0.0
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        return float(stream.frames / stream.average_rate)  # FFmpeg corrects the duration of a part
    if stream.duration is None or stream.time_base is None:
        return 0.0
    return float((stream.duration + (stream.start_time or 0)) * stream.time_base)


def listed(numbers: Sequence[int], most: int = 5) -> str:
    """Numbers that grow, in words: "3, 7 to 12, 20"; the first few stretches of them."""
    stretches: list[list[int]] = []
    for number in numbers:
        if stretches and number == stretches[-1][1] + 1:
            stretches[-1][1] = number
        else:
            stretches.append([number, number])
    words = [f"{a}" if a == b else f"{a} to {b}" for a, b in stretches[:most]]
    return ", ".join(words) + (", ..." if len(stretches) > most else "")
