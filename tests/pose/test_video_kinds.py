"""Videos of many kinds: the number and the colours that were drawn come back, in any order."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_videos import encode, number_in
from video_kinds import COPIES, FFMPEG, KINDS, decoded, drawn, make, number_drawn

from posewarper.data.video import VideoFile
from posewarper.streaming import open_source

needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="the program ffmpeg is not here")


def check_order(path: Path, expected: list[int], number=number_in) -> None:
    """In order, in random order, and as ``predict`` reads it: the same pictures."""
    file = VideoFile(path)
    in_order = [file.read(i) for i in range(file.frame_count())]
    assert [number(image) for image in in_order] == expected
    assert file.read(len(expected)) is None and file.damage() is None
    again = VideoFile(path)
    for i in np.random.default_rng(0).permutation(len(expected)).tolist():
        np.testing.assert_array_equal(again.read(i), in_order[i], err_msg=f"{path.name}: {i}")
    for frame, image in zip(open_source(str(path)).frames(0), in_order, strict=True):
        np.testing.assert_array_equal(frame.image, image)


STAMPS = np.arange(60) * 40
SLOTS = {"tick": Fraction(1, 25)}
MADE = {
    "h264.mp4": ("libx264", {"g": "20", "bf": "2"}),
    "h264.ts": ("libx264", {"g": "20", "bf": "2"}),
    "h264.avi": ("libx264", {"g": "20", "bf": "2"}),
    "h264.h264": ("libx264", {"g": "20", "bf": "2"}),
    "fields.mp4": ("libx264", {"g": "20", "bf": "2", "flags": "+ilme+ildct"}),
    "fields.mpg": ("mpeg2video", {"g": "12", "bf": "2", "flags": "+ilme+ildct"}),
    "hevc.mp4": ("libx265", {"preset": "ultrafast", "x265-params": "keyint=20:log-level=0"}),
    "mpeg4.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "vp8.webm": ("libvpx", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9.webm": ("libvpx-vp9", {"g": "20", "cpu-used": "8"}),
    "av1.mp4": ("libsvtav1", {"g": "20", "preset": "12"}),
}


@pytest.mark.parametrize("name", MADE)
def test_numbers(name, tmp_path):
    codec, options = MADE[name]
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no encoder {codec}")
    stamped = name.endswith((".mp4", ".webm", ".ts"))
    settings = {} if stamped else SLOTS
    path = encode(tmp_path / name, STAMPS // (1 if stamped else 40), codec, options, **settings)
    check_order(path, list(range(60)))


WEIGHTS = {"bt601": (5, 0.299, 0.114), "bt709": (1, 0.2126, 0.0722), "bt2020": (9, 0.2627, 0.0593)}


def planes(rgb: np.ndarray, red: float, blue: float, full: bool) -> np.ndarray:
    """Y, Cb, Cr [3, H, W] uint8 of RGB by the formulas of the standards."""
    r, g, b = np.moveaxis(rgb / 255, -1, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    narrow = (np.array([219, 224, 224]), np.array([16, 128, 128]))
    scale, offset = (np.full(3, 255), np.array([0, 128, 128])) if full else narrow
    coded = np.stack([y, cb, cr]) * scale[:, None, None] + offset[:, None, None]
    return coded.round().clip(0, 255).astype(np.uint8)


def lossless(path: Path, frame: av.VideoFrame, matrix: int = 2, full: bool | None = None) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
        context = stream.codec_context
        context.colorspace, context.color_range = matrix, {None: 0, False: 1, True: 2}[full]
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return path


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_matrix_and_range(name, full, tmp_path):
    """Within two rounded steps of eight bits, whose weights reach 2."""
    matrix, red, blue = WEIGHTS[name]
    frame = av.VideoFrame.from_ndarray(planes(drawn(77), red, blue, full), format="yuv444p")
    image = VideoFile(lossless(tmp_path / "v.mkv", frame, matrix, full)).read(0)
    assert np.abs(image.astype(int) - drawn(77)).max() <= 3


def test_nothing_said_means_bt601_and_limited(tmp_path):
    frame = av.VideoFrame.from_ndarray(planes(drawn(77), 0.299, 0.114, False), format="yuv444p")
    image = VideoFile(lossless(tmp_path / "v.mkv", frame)).read(0)
    assert np.abs(image.astype(int) - drawn(77)).max() <= 3


def test_gray_of_8_and_16_bits(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    for name, data in (("gray", ramp), ("gray16le", ramp.astype(np.uint16) * 257)):
        frame = av.VideoFrame.from_ndarray(data, format=name)
        image = VideoFile(lossless(tmp_path / f"{name}.mkv", frame)).read(0)
        assert np.abs(image - ramp[..., None].astype(int)).max() <= 1


# --- everything that the program ffmpeg makes, against what it reads


def flat(image: np.ndarray) -> np.ndarray:
    """Where a drawing is plain within four pixels: elsewhere the pixels of colour, which are
    larger, and their exact place decide.
    """
    places = [(y, x) for y in range(-4, 5) for x in range(-4, 5)]
    near = np.stack([np.roll(image, place, (0, 1)) for place in places])
    return (near.max(0).astype(int) - near.min(0)).max(-1) <= 3


@pytest.mark.slow
@needs_ffmpeg
@pytest.mark.parametrize("name", (*KINDS, *COPIES))
def test_as_ffmpeg_reads_it(name, tmp_path):
    try:
        path = make(name, tmp_path)
    except RuntimeError as error:
        pytest.skip(f"this ffmpeg cannot make it: {error}")
    back = {"turned-90": 3, "turned-180": 2, "turned-270": 1}.get(name, 0)
    file = VideoFile(path)
    height, width = file.read(0).shape[:2]
    theirs = decoded(path, (width, height))
    begin = {"edit-list": 28, "edit-list-mkv": 20, "cut-transport": 24}.get(name, 0)
    check_order(
        path,
        list(range(begin, begin + len(theirs))),
        lambda image: number_drawn(np.rot90(image, back)),
    )
    for i, other in list(enumerate(theirs))[::7]:
        ours = file.read(i)
        plain = flat(other)
        assert plain.sum() > 200
        # FFmpeg's versions round differently by 2 or 3 levels of 255.
        assert np.abs(ours.astype(int) - other)[plain].max() <= 3
        assert np.abs(ours.astype(int) - other).mean() <= 1
