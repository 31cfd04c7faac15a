"""Video files of all kinds: no shift of frames, upright, times, and what is said of bad ones."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_videos import encode, number_in, picture, write_video
from PIL import Image as PillowImage

from posewarper.data.formats.attach import attach
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.video import FrameError, FrameSource, VideoFile, fill_sizes, frame_rate, times
from posewarper.data.video_faults import missing_frames
from posewarper.report.video_file import VideoWriter
from posewarper.skeleton import Skeleton


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def part_of_mp4(data, name):
    """Where the content of the one box of this name starts."""
    assert data.count(name) == 1
    return data.index(name) + 4


def edit_list(path, skip):
    """Let a 25 Hz MP4 file start ``skip`` frames later, as cutting without encoding does."""
    data = bytearray(path.read_bytes())
    ticks = int.from_bytes(data[(at := part_of_mp4(data, b"mdhd") + 12) : at + 4], "big")
    at = part_of_mp4(data, b"elst") + 8  # one entry: duration, start, rate
    duration, start = (int.from_bytes(data[at + i : at + i + 4], "big") for i in (0, 4))
    data[at : at + 4] = (duration - skip * 40).to_bytes(4, "big")
    data[at + 4 : at + 8] = (start + skip * ticks // 25).to_bytes(4, "big")
    path.write_bytes(data)


EVEN = np.arange(150) * 40
UNEVEN = np.cumsum(np.random.default_rng(0).integers(5, 120, 150))
B_FRAMES = {"g": "30", "bf": "3"}
OPEN_GOP = {"x264-params": "open-gop=1:keyint=20:bframes=3:b-adapt=0:scenecut=0:log=-1"}
NEEDS_CARE = {
    "uneven.mp4": (UNEVEN, {"options": B_FRAMES}),
    "uneven.mkv": (UNEVEN, {"options": B_FRAMES}),
    "uneven.webm": (UNEVEN, {"codec": "libvpx-vp9", "options": {"g": "30", "cpu-used": "8"}}),
    "late.mp4": (5000 + EVEN, {"options": B_FRAMES}),
    "late.mkv": (5000 + EVEN, {"options": B_FRAMES}),
    "open-gop.mp4": (EVEN, {"options": OPEN_GOP}),
    "edit-list.mp4": (EVEN, {"options": B_FRAMES}),
    "sound.mp4": (EVEN, {"options": B_FRAMES, "audio": 8.0}),
    "sound.mkv": (EVEN, {"options": B_FRAMES, "audio": 8.0}),
    # AVI has no time stamps: with B-frames the order of the frames cannot be told from it. Without
    # them, frames that were left out leave empty slots.
    "b-frames.avi": (EVEN // 40, {"codec": "mpeg4", "options": {"bf": "2", "g": "12"}}),
    "slots.avi": ((UNEVEN - UNEVEN[0]) // 4, {"codec": "mpeg4", "options": {"g": "12"}}),
    "stream.mpg": (EVEN // 40, {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}}),
}


@pytest.mark.parametrize("name", NEEDS_CARE)
def test_no_silent_shift_of_frames(name, tmp_path):
    stamps, settings = NEEDS_CARE[name]
    slots = name in ("b-frames.avi", "slots.avi", "stream.mpg")
    tick = Fraction(1, 25) if slots else Fraction(1, 1000)
    path = encode(tmp_path / name, stamps, tick=tick, **settings)
    first = 0
    if name == "edit-list.mp4":
        first = 37  # between two key frames
        edit_list(path, first)
    count = 150 - first
    in_order = VideoFile(path)
    assert [number_in(in_order.read(i)) for i in range(count)] == list(range(first, 150))
    assert in_order.read(count) is None
    file = VideoFile(path)
    order = [count - 1, 3, 100, 99, 60, 59, 61, *np.random.default_rng(1).integers(0, count, 25)]
    assert [number_in(file.read(int(i))) - first for i in order] == order
    assert file.frame_count() == count and file.damage() is None
    seconds = (stamps[first:] - stamps[first]) * float(tick)
    np.testing.assert_allclose(file.times(), seconds, atol=2e-3)
    assert file.frame_rate() == pytest.approx((count - 1) / seconds[-1], rel=1e-3)


def turn(path, degrees):
    """Have an MP4 file shown turned clockwise, as phones write it."""
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    data = bytearray(path.read_bytes())
    at = part_of_mp4(data, b"tkhd") + 40
    matrix = [cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30]
    data[at : at + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in matrix)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos_come_upright_everywhere(degrees, tmp_path):
    path = turn(encode(tmp_path / "v.mp4", EVEN[:130], options=B_FRAMES), degrees)
    back = degrees // 90  # counterclockwise, which leads to the frame as it was stored
    shape = (48, 64, 3) if degrees == 180 else (64, 48, 3)
    file = VideoFile(path)
    for index in (0, 1, 120, 60, 119, 2):
        image = file.read(index)
        assert image.shape == shape and number_in(np.rot90(image, back)) == index
    video = Video("v", 130)
    image = FrameSource(tmp_path).read(video, 99)
    assert image.shape == shape and number_in(np.rot90(image, back)) == 99
    frames = Frames.make((video,), [0, 0], [4, 99])
    people = People.make([0], np.ones((1, 1, 3)), np.ones((1, 4)))
    dataset = PoseDataset(Skeleton("one", ("a",)), (video,), frames, people)
    assert (fill_sizes(dataset, FrameSource(tmp_path)).frames.size_wh == shape[1::-1]).all()
    attached = attach(dataset, path)
    assert (attached.frames.size_wh == shape[1::-1]).all()


def test_times_of_folders_and_files(tmp_path):
    (tmp_path / "folder").mkdir()
    encode(tmp_path / "file.mp4", UNEVEN, options=B_FRAMES)
    source, folder = FrameSource(tmp_path), Video("folder", 5, 3, "%06d.png")
    np.testing.assert_allclose(times(source, folder, 10), [0, 0.1, 0.2, 0.3, 0.4])
    assert frame_rate(source, folder, 10) == 10
    for function in (times, frame_rate):
        with pytest.raises(ValueError, match=r"fps: folder is a folder of images.*expected"):
            function(source, folder)
        with pytest.raises(ValueError, match="fps: expected a number above 0, got 0"):
            function(source, folder, 0)
    video = Video("file", 150, 1)
    np.testing.assert_allclose(times(source, video), (UNEVEN - UNEVEN[0]) / 1000, atol=1e-3)
    assert frame_rate(source, video, 10) == pytest.approx(149_000 / (UNEVEN[-1] - UNEVEN[0]))
    assert (times(source, Video("file", 20)) == times(source, video)[:20]).all()
    longer = times(source, Video("file", 152))
    assert (longer[:150] == times(source, video)).all()
    np.testing.assert_allclose(np.diff(longer[149:]), 1 / frame_rate(source, video))
    one = VideoFile(write_video(tmp_path / "one.mp4", 1))
    assert one.times().tolist() == [0] and one.frame_rate() == 25
    with pytest.raises(FrameError, match=r"none\.mp4: there is no such"):
        times(source, Video("none", 3, 0, "", "none.mp4"))


def test_neither_time_stamps_nor_a_frame_rate(tmp_path, monkeypatch):
    file = VideoFile(write_video(tmp_path / "v.mp4", 3))
    known = file._known()
    silent = replace(known, times=np.zeros(3), packets=replace(known.packets, rate=0.0))
    monkeypatch.setattr(file, "_index", silent)
    with pytest.raises(FrameError, match=r"v\.mp4: has no time stamps and names no frame rate"):
        file.times()


def test_a_colon_in_the_name(tmp_path, monkeypatch):
    encode(tmp_path / "v.mp4", EVEN[:5]).rename(tmp_path / "a:b.mp4")
    monkeypatch.chdir(tmp_path)  # "a:b.mp4" alone looks like an address
    file = VideoFile(Path("a:b.mp4"))
    assert number_in(file.read(4)) == 4 and file.damage() is None


FAST = {"g": "12", "bf": "0"}


@pytest.mark.parametrize("name", ["v.mkv", "sound.mkv", "v.webm", "v.avi", "b-frames.avi", "v.mp4"])
def test_a_file_that_is_cut_off(name, tmp_path):
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(name.split(".")[1], "libx264")
    tick = Fraction(1, 25) if name.endswith("avi") else Fraction(1, 1000)
    options = {"bf": "2", "g": "12"} if name == "b-frames.avi" else FAST
    options = {"cpu-used": "8", "g": "12"} if codec == "libvpx-vp9" else options
    path = tmp_path / name
    stamps = EVEN // 40 if name.endswith("avi") else EVEN
    encode(path, stamps, codec, options, tick, audio=9.0 if name == "sound.mkv" else 0)
    if name == "v.mp4":  # with the index at the front, or nothing could be read
        with VideoWriter(path, 25, (64, 48)) as video:
            for number in range(150):
                video.write(picture(number))
    assert VideoFile(path).damage() is None
    file = VideoFile(cut(path, 0.6))
    count = file.frame_count()
    assert 20 < count < 140
    assert [number_in(file.read(i)) for i in range(count - 4)] == list(range(count - 4))
    message = f"from number {count} on"
    assert name in file.damage() and message in file.damage()
    assert f"({count / 25:.1f} of 6.0 s are there)" in file.damage()
    video = Video("v", 150, 0, "", name)
    with pytest.raises(FrameError, match=rf"frame {count + 1} cannot be read.*{message}"):
        FrameSource(tmp_path).read(video, count + 1)


def test_a_hole_in_a_file(tmp_path):
    small = {"cluster_time_limit": "500"}  # parts of the file after the hole can be found again
    path = encode(tmp_path / "v.mkv", EVEN, options={"g": "1"}, file_options=small)
    data = bytearray(path.read_bytes())
    start, length = len(data) // 2, len(data) // 8
    data[start : start + length] = bytes(length)
    path.write_bytes(data)
    file = VideoFile(path)
    images = [file.read(i) for i in range(file.frame_count())]
    there = [i for i, image in enumerate(images) if image is not None]  # one is cut by the hole
    numbers = [number_in(images[i]) for i in there]
    hole = int(np.diff(numbers).argmax())
    assert numbers[hole + 1] > numbers[hole] + 8 and numbers[-1] == 149
    assert len(there) == len(images) - 1 and there[hole + 1] == there[hole] + 2
    assert f"cannot be decoded, counted from 0: {there[hole] + 1};" in file.damage()
    assert f"are missing after number {there[hole] + 1}, counted from 0" in file.damage()


def test_pauses_and_missed_frames_are_no_damage(tmp_path):
    stamps = EVEN + 40 * (EVEN // 40 // 60)  # a frame less at two places
    assert VideoFile(encode(tmp_path / "v.mkv", stamps)).damage() is None
    stamps = EVEN + 9000 * (EVEN > 3000)  # all frames that the header lists are there
    path = encode(tmp_path / "v.mp4", stamps)
    assert VideoFile(path).damage() is None
    assert missing_frames(path, EVEN) is None  # if only the last one were shown for that long


@pytest.fixture
def no_video(tmp_path):
    """One file or folder of each kind, all with the name of a video."""
    (tmp_path / "text.mp4").write_bytes(b"nothing")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    for suffix in (".png", ".jpg", ".gif"):
        PillowImage.fromarray(picture(1)).save(tmp_path / f"image{suffix}")
        (tmp_path / f"image{suffix}").rename(tmp_path / f"image{suffix[1:]}.mp4")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.rate, silence.pts = 8000, 0
        for frame in (silence, None):
            container.mux(stream.encode(frame))
    cut(encode(tmp_path / "cut.mp4", EVEN), 0.6)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.mp4", "there is no such video file$"),
        ("text.mp4", "not a video that FFmpeg can read, or cut off: "),
        ("empty.mp4", r"the file is empty \(0 bytes\)$"),
        ("folder.mp4", "a folder, where a video file is expected$"),
        ("imagepng.mp4", "an image, where a video is expected"),
        ("imagejpg.mp4", "an image, where a video is expected"),
        ("imagegif.mp4", "an image, where a video is expected"),
        ("sound.mp4", "holds sound but no pictures$"),
        ("cut.mp4", "not a video that FFmpeg can read, or cut off: "),
    ],
)
def test_files_that_are_no_videos(name, message, no_video):
    source, video = FrameSource(no_video), Video("x", 3, 0, "", name)
    for call in (
        lambda: source.read(video, 0),
        lambda: source.read(video, 60),
        lambda: source.prepare([video]),
        lambda: times(source, video),
        lambda: VideoFile(no_video / name).frame_count(),
        lambda: VideoFile(no_video / name).damage(),
    ):
        with pytest.raises(FrameError, match=rf"{name}: {message}"):
            call()


def test_not_one_frame_can_be_decoded(tmp_path):
    path = tmp_path / "v.mp4"
    with VideoWriter(path, 25, (64, 48)) as video:
        video.write(picture(1))
    cut(path, (path.read_bytes().index(b"mdat") + 8) / path.stat().st_size)
    with pytest.raises(FrameError, match=r"v\.mp4: a video, but none of its frames"):
        VideoFile(path).frame_count()
    with pytest.raises(FrameError, match=r"v\.mp4: a video, but none of its frames"):
        FrameSource(tmp_path).read(Video("v", 3), 0)
