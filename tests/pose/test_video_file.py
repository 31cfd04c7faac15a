"""Written videos: they read back, in order and in the right colours, and appear whole or never."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_videos import number_in, picture

from posewarper.data.video import VideoFile
from posewarper.report.video_file import VideoWriter

COLORS = {
    "red": (220, 30, 30),
    "green": (30, 200, 60),
    "blue": (40, 60, 220),
    "orange": (230, 159, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}


def plain(color, height=48, width=64):
    return np.full((height, width, 3), color, np.uint8)


def write(path, frames, fps=25.0):
    with VideoWriter(path, fps, frames[0].shape[1::-1]) as video:
        for frame in frames:
            video.write(frame)
    return path


def decoded_by_pyav(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def boxes(path):
    """Names of the outermost parts of an MP4 file, in order."""
    data, place, names = path.read_bytes(), 0, []
    while place < len(data):
        names.append(data[place + 4 : place + 8].decode())
        place += int.from_bytes(data[place : place + 4], "big")
    return names


def test_every_frame_comes_back_in_order(tmp_path):
    path = write(tmp_path / "v.mp4", [picture(i) for i in range(130)])
    file = VideoFile(path)
    assert file.frame_count() == 130
    assert [number_in(file.read(i)) for i in range(130)] == list(range(130))
    assert [number_in(file.read(i)) for i in (129, 4, 77)] == [129, 4, 77]
    assert [number_in(frame) for frame in decoded_by_pyav(path)] == list(range(130))


@pytest.mark.parametrize("size_wh", [(64, 48), (320, 240), (1280, 720)], ids=lambda s: f"{s[0]}")
def test_colours(size_wh, tmp_path):
    width, height = size_wh
    path = write(tmp_path / "v.mp4", [plain(color, height, width) for color in COLORS.values()])
    file = VideoFile(path)
    for images in ([file.read(i) for i in range(len(COLORS))], decoded_by_pyav(path)):
        for color, image in zip(COLORS.values(), images, strict=True):
            assert np.abs(image.reshape(-1, 3).astype(int) - color).max() <= 4


def test_what_players_need(tmp_path):
    path = write(tmp_path / "v.mp4", [picture(i) for i in range(30)], fps=30000 / 1001)
    with av.open(str(path)) as container:
        (stream,) = container.streams
        context = stream.codec_context
        assert context.name == "h264" and context.pix_fmt == "yuv420p"
        assert (context.colorspace, context.color_range) == (6, 1)  # the colours' matrix is named
        assert stream.average_rate == Fraction(30000, 1001)
        assert float(stream.duration * stream.time_base) == pytest.approx(30 * 1001 / 30000)
    assert boxes(path)[0] == "ftyp" and boxes(path).index("moov") < boxes(path).index("mdat")


@pytest.mark.parametrize(("width", "height"), [(65, 48), (64, 47), (65, 47), (1, 1)])
def test_odd_sizes_are_padded(width, height, tmp_path):
    frame = plain((20, 40, 60), height, width)
    frame[:, -1] = frame[-1, :] = (200, 200, 200)
    image = VideoFile(write(tmp_path / "v.mp4", [frame] * 3)).read(2)
    assert image.shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(image[-1, -1].astype(int) - 200).max() <= 8
    if width > 1:
        assert np.abs(image[height // 2, width // 2].astype(int) - (20, 40, 60)).max() <= 8
        assert np.abs(image[: height - 2, : width - 2].astype(int) - (20, 40, 60)).mean() < 8


@pytest.mark.parametrize("fps", [0.5, 12.5, 29.97, 250.0])
def test_rate(fps, tmp_path):
    path = write(tmp_path / "v.mp4", [picture(i) for i in range(8)], fps)
    times = VideoFile(path).index() / 1000
    assert np.diff(times) == pytest.approx(1 / fps, rel=1e-3)
    assert times[-1] - times[0] == pytest.approx(7 / fps, rel=1e-3)


def test_numbers_of_numpy(tmp_path):
    with VideoWriter(tmp_path / "v.mp4", np.float32(25), tuple(np.array([64, 48]))) as video:
        video.write(picture(1)[::-1][::-1])  # not contiguous
    assert number_in(VideoFile(tmp_path / "v.mp4").read(0)) == 1


def test_frames_may_be_reused(tmp_path):
    frame = np.empty((48, 64, 3), np.uint8)
    with VideoWriter(tmp_path / "v.mp4", 25, (64, 48)) as video:
        for number in range(60):  # more than the encoder looks ahead
            frame[:] = picture(number)
            kept = frame.copy()
            video.write(frame)
            assert (frame == kept).all()
    file = VideoFile(tmp_path / "v.mp4")
    assert [number_in(file.read(i)) for i in range(60)] == list(range(60))


def test_nothing_is_left_after_an_error(tmp_path):
    path = tmp_path / "v.mp4"
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), VideoWriter(path, 25, (64, 48)) as video:
            for number in range(60):
                video.write(picture(number))
            assert [p.name for p in tmp_path.iterdir()] != ["v.mp4"]
            raise error
        assert list(tmp_path.iterdir()) == []
    write(path, [picture(7)])
    with pytest.raises(ValueError, match="rgb: expected"), VideoWriter(path, 25, (64, 48)) as video:
        video.write(picture(1))
        video.write(picture(1)[1:])
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]
    assert number_in(VideoFile(path).read(0)) == 7


def test_no_frames_is_an_error(tmp_path):
    path = tmp_path / "v.mp4"
    with pytest.raises(ValueError, match="no frame"), VideoWriter(path, 25, (64, 48)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_frames_leave_memory_while_they_are_written(tmp_path):
    """Not gathered until the end: the file beside the target grows."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 96, 128, 3), np.uint8)
    sizes = []
    with VideoWriter(tmp_path / "v.mp4", 25, (128, 96)) as video:
        for number in range(240):
            video.write(noise[number % 8])
            sizes.append(sum(p.stat().st_size for p in tmp_path.iterdir()))
    whole = (tmp_path / "v.mp4").stat().st_size
    assert sizes[120] > whole / 5 and sizes[-1] > whole / 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("v.avi", 25, (64, 48)), ValueError, r"\.mp4, got"),
        (("v.mp4", 0, (64, 48)), ValueError, "fps: expected.*got 0"),
        (("v.mp4", float("nan"), (64, 48)), ValueError, "fps"),
        (("v.mp4", 1e-7, (64, 48)), ValueError, "fps"),
        (("v.mp4", 1e6, (64, 48)), ValueError, "fps"),
        (("v.mp4", 25, (0, 48)), ValueError, "size_wh"),
        (("v.mp4", 25, (64, 9000)), ValueError, "size_wh"),
        (("none/v.mp4", 25, (64, 48)), FileNotFoundError, "no folder.*none"),
    ],
)
def test_bad_arguments(arguments, error, message, tmp_path):
    name, fps, size_wh = arguments
    with pytest.raises(error, match=message):
        VideoWriter(tmp_path / name, fps, size_wh)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "frame", [picture(0).astype(np.float32), picture(0)[..., 0], picture(0, 50)]
)
def test_bad_frames(frame, tmp_path):
    message = r"rgb: expected \[48, 64, 3\] uint8, got"
    with VideoWriter(tmp_path / "v.mp4", 25, (64, 48)) as video:
        video.write(picture(0))
        with pytest.raises(ValueError, match=message):
            video.write(frame)


def test_writing_outside_the_block(tmp_path):
    video = VideoWriter(tmp_path / "v.mp4", 25, (64, 48))
    with pytest.raises(ValueError, match="not open"):
        video.write(picture(0))
    with video:
        video.write(picture(0))
    with pytest.raises(ValueError, match="not open"):
        video.write(picture(0))


BESIDE_OPENCV = """
import sys
{order}
import numpy as np
from posewarper.report.video_file import VideoWriter
source = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG)
count = 0
with VideoWriter(sys.argv[2], 25, (64, 48)) as video:
    while True:
        done, image = source.read()
        if not done:
            break
        video.write(np.ascontiguousarray(image[..., ::-1]))
        count += 1
print(count, "av" in sys.modules)
"""


@pytest.mark.parametrize("order", ["import av\nimport cv2", "import cv2\nimport av", "import cv2"])
def test_beside_opencv(order, tmp_path):
    """Both bring an FFmpeg; one decodes while the other encodes, whichever was loaded first."""
    path = write(tmp_path / "v.mp4", [picture(i) for i in range(80)])
    script = BESIDE_OPENCV.format(order=order)
    command = [sys.executable, "-c", script, str(path), str(tmp_path / "w.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout) == (0, "80 True\n"), done.stderr
    file = VideoFile(tmp_path / "w.mp4")
    assert [number_in(file.read(i)) for i in (79, 0, 40)] == [79, 0, 40]


def test_encoder_is_loaded_only_when_needed():
    code = "import sys, posewarper.report.video_file; print('av' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == "False\n", done.stderr
