"""Reading video files: ``posewarper.data.video_file`` beside OpenCV, in order and after jumps.

    python -m benchmarks.video_reading [FILE ...] [--frames 200] [--repeats 3]

Without a file two H.264 clips are made, 1920x1080 and 320x240. Milliseconds per frame, of the clock
and of all cores together, are the median of the repeats; opening the file, and our index, count. In
order: from the beginning. Jumps: to random frames; OpenCV is sent there by number, which is exact
only where frames are evenly spaced.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks.results import cpu_name
from posewarper.data.video_file import VideoFile
from posewarper.report.video_file import VideoWriter

SIZES = ((1920, 1080), (320, 240))
JUMPS = 40


def make_clip(folder: Path, size_wh: tuple[int, int], frames: int) -> Path:
    """A moving pattern with some noise."""
    path, (width, height) = folder / f"{size_wh[0]}x{size_wh[1]}.mp4", size_wh
    random = np.random.default_rng(0)
    grid = random.integers(0, 256, (height // 20 + 2, width // 20 + 2, 3), np.uint8)
    large = cv2.resize(grid, (width + 128, height + 64), interpolation=cv2.INTER_CUBIC)
    noise = random.integers(0, 12, (height, width, 3), np.uint8)
    with VideoWriter(path, 25, size_wh) as video:
        for number in range(frames):
            x, y = 3 * number % 128, number % 64
            video.write(cv2.add(large[y : y + height, x : x + width], np.roll(noise, number, 1)))
    return path


def in_order_by_opencv(path: Path, count: int) -> None:
    """Frames 0 to count - 1, as RGB."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    for _ in range(count):
        cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
    capture.release()


def in_order(path: Path, count: int) -> None:
    """The same, by us."""
    file = VideoFile(path)
    for number in range(count):
        assert file.read(number) is not None
    file.close()


def jumps_by_opencv(path: Path, count: int) -> None:
    """Random frames, as RGB."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    for number in _places(count):
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
    capture.release()


def jumps(path: Path, count: int) -> None:
    """The same, by us."""
    file = VideoFile(path)
    for number in _places(count):
        assert file.read(number) is not None
    file.close()


def _places(count: int) -> list[int]:
    return np.random.default_rng(1).integers(0, count, JUMPS).tolist()


def rows(path: Path, frames: int, repeats: int) -> Iterator[str]:
    """A row of a table for each way of reading."""
    count = min(VideoFile(path).frame_count(), frames)
    for what, opencv, ours, per in (
        ("in order", in_order_by_opencv, in_order, count),
        ("jumps", jumps_by_opencv, jumps, JUMPS),
    ):
        medians = []
        for function in (opencv, ours):
            seconds = []
            for _ in range(repeats + 1):
                start = time.perf_counter(), time.process_time()
                function(path, count)
                end = time.perf_counter(), time.process_time()
                seconds.append([b - a for a, b in zip(start, end, strict=True)])
            medians += [1e3 * statistics.median(of) / per for of in zip(*seconds[1:], strict=True)]
        yield f"| {path.name} | {what} | " + " | ".join(f"{value:.2f}" for value in medians) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    print(f"{cpu_name()}\n")
    print("| video | | OpenCV | its cores | posewarper | its cores |")
    print("| :-- | :-- | --: | --: | --: | --: |")
    with tempfile.TemporaryDirectory() as folder:
        clips = given.files or [make_clip(Path(folder), size, given.frames) for size in SIZES]
        for path in clips:
            for row in rows(path, given.frames, given.repeats):
                print(row, flush=True)


if __name__ == "__main__":
    main()
