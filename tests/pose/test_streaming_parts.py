"""Streams: damaged frames, threads, interrupts, memory, windows."""

from __future__ import annotations

import errno
import logging
import os
import signal
import struct
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numbered_videos import encode
from streamed_faces import FACE, Made, model_of_faces, see_three_peaks, stream

from posewarper.data.annotations import load_coco
from posewarper.data.tables import Video
from posewarper.data.video import FrameError, VideoFile
from posewarper.inference import PosePredictor, Scoring
from posewarper.inference.smoothing import OneEuro
from posewarper.models import Window
from posewarper.streaming import Options, open_source, predict_stream, writing
from posewarper.streaming.boxes import (
    Detected,
    FixedBoxes,
    LastPose,
)
from posewarper.streaming.people import Finisher
from posewarper.streaming.poses import WindowPoses
from posewarper.streaming.sources import Frame
from posewarper.streaming.windows import Windows
from posewarper.streaming.writing import ResultFile

# Threads that wait for each other would wait for ever: better a failure.
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(60)]


@pytest.fixture
def three_peaks(monkeypatch):
    see_three_peaks(monkeypatch)


# Damaged frames


def test_damaged_frames(tmp_path):
    """The windows that they are in are left out; single frames lose themselves only."""
    out, window = tmp_path / "x.json", Window.equal(-1, 0)
    with pytest.raises(FrameError, match="frame 5 is damaged"):
        stream(Made(9, {5}), out, window=window)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FrameError, match="frame 5 is damaged"):
        stream(Made(9, {5}), out, window=window, keep_partial=True)
    assert load_coco(out).frames.number.tolist() == [0, 1, 2, 3, 4]
    summary = stream(Made(9, {5}), out, window=window, missing="skip")
    assert summary.left_out == [5, 6] and summary.frames == 9 and summary.people == 7
    got = load_coco(out)
    assert got.frames.number.tolist() == list(range(9))  # nothing shifts
    assert np.flatnonzero(~got.frames.labelled).tolist() == [5, 6]
    assert stream(Made(9, {5}), out, missing="skip").left_out == [5]
    assert stream(Made(9, {5}), out, every=2).left_out == []  # nobody needs it


def test_damaged_frames_in_the_overlay(tmp_path):
    """Others keep their place: the frame before stands there, and black at the beginning."""
    path = tmp_path / "o.mp4"
    source = Made(6, {0, 1, 4})
    stream(source, tmp_path / "x.json", missing="skip", overlay=path)
    film = VideoFile(path)
    pictures = [film.read(number).astype(int) for number in range(film.frame_count())]
    assert len(pictures) == 6 and max(pictures[0].max(), pictures[1].max()) < 30
    moved = [np.abs(a - b).mean() for a, b in pairwise(pictures)]
    assert moved[3] < 8 and min(moved[1], moved[2], moved[4]) > 15


def test_gaps_in_a_folder(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in (3, 4, 5, 9, 10):
        cv2.imwrite(str(folder / f"frame_{number:02d}.png"), np.full((48, 64, 3), number, np.uint8))
    (folder / "frame_10.png").write_bytes(b"damaged")
    source, out = open_source(str(folder), fps=2.0), tmp_path / "x.json"
    frames = list(source.frames(4))
    assert [(f.number, f.time) for f in frames] == [(4, 0.5), (5, 1.0), (9, 3.0), (10, 3.5)]
    assert [f.image is None for f in frames] == [False, False, False, True]
    assert (frames[2].image == 9).all() and "frame_10.png" in frames[3].problem
    assert frames[0].file_name == "clip/frame_04.png"
    with pytest.raises(FrameError, match="frame 6 is missing, which frame 5 needs"):
        stream(source, out, window=Window.equal(0, 1))
    summary = stream(source, out, window=Window.equal(-1, 0), missing="skip")
    assert summary.left_out == [9, 10] and summary.people == 3  # 3 has itself before it
    assert load_coco(out).frames.image_id.tolist() == [1, 2, 3, 7, 8]
    assert load_coco(out).videos[0] == Video("clip", 8, 3, "frame_%02d.png", "clip")
    assert stream(source, out, missing="skip", frames=2, start=4).frames == 2


def test_frames_without_time_stamps_or_end(tmp_path):
    """Times grow; a file that says too much about its length is told on."""
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20, (64, 48))
    for number in range(6):
        writer.write(np.full((48, 64, 3), 40 * number, np.uint8))
    writer.release()
    for fps in (None, 5.0):
        times = [frame.time for frame in open_source(str(tmp_path / "a.avi"), fps).frames(0)]
        np.testing.assert_allclose(times, np.arange(6) / (fps or 20), atol=1e-6)


def test_a_file_that_is_cut_off(tmp_path, caplog):
    """What can be read is used, and a warning tells from where on it cannot."""
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20, (64, 48))
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    for number in range(20):
        writer.write(np.roll(noise, number, 1))
    writer.release()
    data = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "b.avi").write_bytes(data[: len(data) // 2])
    count = VideoFile(tmp_path / "b.avi").frame_count()
    assert 5 < count < 15
    with caplog.at_level(logging.WARNING, "posewarper.streaming"):
        stream(open_source(str(tmp_path / "b.avi")), tmp_path / "x.json")
    assert f"frames cannot be read from number {count} on" in caplog.text
    got = load_coco(tmp_path / "x.json")
    assert len(got.frames) == got.videos[0].frame_count == count


def test_videos_that_are_turned_or_uneven(tmp_path):
    """Frames, numbers and times are those that the rest of the software has."""
    pts = [0, 40, 45, 90, 200, 210, 300, 500, 520, 700]
    path = encode(tmp_path / "odd.mp4", pts, options={"bf": "2"})
    turned = bytearray(path.read_bytes())
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    place = turned.rindex(matrix)  # of the track, not of the whole film
    turned[place : place + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(turned)
    for name, shape in (("odd", (48, 64, 3)), ("turned", (64, 48, 3))):
        file = VideoFile(tmp_path / f"{name}.mp4")
        frames = list(open_source(str(tmp_path / f"{name}.mp4")).frames(0))
        assert len(frames) == len(pts) == file.frame_count()
        np.testing.assert_allclose(
            [frame.time for frame in frames], np.array(pts) / 1000, atol=2e-3
        )
        for frame in frames:
            assert frame.image.shape == shape
            np.testing.assert_array_equal(frame.image, file.read(frame.number))


def test_frames_of_several_sizes(tmp_path, caplog):
    """Poses are in the pixels of their frame; the film has one size; it is said once."""
    folder = tmp_path / "clip"
    folder.mkdir()
    sizes = [(64, 48), (64, 48), (128, 96), (32, 40)]
    for number, (width, height) in enumerate(sizes):
        image = np.full((height, width, 3), 50 * number, np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    with caplog.at_level(logging.WARNING, "posewarper.streaming"):
        stream(open_source(str(folder)), tmp_path / "x.json", overlay=tmp_path / "o.mp4")
    assert [r.message for r in caplog.records if "frame 2 has 128 x 96" in r.message]
    assert len(caplog.records) == 1
    got = load_coco(tmp_path / "x.json")
    assert [tuple(size) for size in got.frames.size_wh] == sizes
    np.testing.assert_array_equal(got.people.bbox[:, 2:], sizes)
    film = VideoFile(tmp_path / "o.mp4")
    assert film.frame_count() == 4 and film.read(2).shape == (48, 64, 3)


def test_frames_that_are_left_out_have_a_size(tmp_path):
    stream(Made(3, {1}), tmp_path / "x.json", window=Window.equal(0, 1), missing="skip")
    got = load_coco(tmp_path / "x.json")
    assert got.frames.labelled.tolist() == [False, False, True]
    assert (got.frames.size_wh[[0, 2]] == (64, 48)).all()


def test_one_frame_per_second(tmp_path):
    """Times, and the speed of the film."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((48, 64, 3), 60 * number, np.uint8))
    source = open_source(str(folder), fps=1.0)
    assert [frame.time for frame in source.frames(0)] == [0, 1, 2, 3]
    model = model_of_faces()
    finish = Finisher(model, Scoring(), smoother=OneEuro())
    stream(source, tmp_path / "x.json", overlay=tmp_path / "o.mp4", model=model, finish=finish)
    assert VideoFile(tmp_path / "o.mp4").times().tolist() == [0, 1, 2, 3]


# Threads


def test_errors_of_every_thread_come_once(tmp_path, monkeypatch):
    out = tmp_path / "x.json"
    with pytest.raises(OSError, match="disk on fire"):
        stream(Made(500, error=OSError("disk on fire")), out)
    monkeypatch.setattr(ResultFile, "add", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    source = Made(10_000)
    with pytest.raises(OSError, match="disk full"):
        stream(source, out)
    assert len(source.asked) < 100  # it ended soon
    monkeypatch.undo()

    def explode(number, image):
        if number == 3:
            raise RuntimeError("detector")
        return np.zeros((0, 4)), np.zeros(0)

    source = Made(10_000)
    with pytest.raises(RuntimeError, match="detector"):
        numbers = iter(range(10_000))
        find = Detected(lambda image: explode(next(numbers), image), model_of_faces())
        stream(source, out, find=find)
    assert len(source.asked) < 100
    assert list(tmp_path.iterdir()) == []


class Gone(BaseException):
    """What no thread reckons with."""


@pytest.mark.parametrize("live", [True, False])
def test_a_reader_that_breaks_down(tmp_path, live):
    """Nobody waits for it for ever, and a part is not taken for the whole."""
    out = tmp_path / "x.json"
    out.write_text("old")
    with pytest.raises(Gone):
        stream(Made(40, live=live, error=Gone()), out, overlay=tmp_path / "o.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"] and out.read_text() == "old"
    assert not {"reading", "writing"} & {thread.name for thread in threading.enumerate()}


def test_what_was_read_before_an_error_is_kept(tmp_path):
    """All of it, for whoever wants it."""
    for error in (OSError("disk on fire"), FrameError("no more")):
        with pytest.raises(type(error), match=str(error)):
            stream(Made(21, error=error), tmp_path / "x.json", keep_partial=True)
        assert load_coco(tmp_path / "x.json").frames.number.tolist() == list(range(21))


class FullDisk:
    """A file of which only the beginning is written, from some write on."""

    def __init__(self, file, writes):
        self._file, self._writes = file, writes

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def write(self, text):
        self._writes -= 1
        if self._writes < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._file.write(text)

    def flush(self):
        self.write("")

    def close(self):
        self._file.close()
        self.write("")  # as files do that have something left to write


@pytest.mark.parametrize(("ending", "writes"), [(".lines", 5), (".lines", 20), (".partial", 7)])
def test_a_full_disk(tmp_path, monkeypatch, ending, writes):
    """One error, which names the file; nothing is left, and what was there stays."""
    out, film = tmp_path / "x.json", tmp_path / "o.mp4"
    out.write_text("old")

    def opened(path, *args, **options):
        file = open(path, *args, **options)  # noqa: SIM115  closed by whoever opened it
        return FullDisk(file, writes) if str(path).endswith(ending) else file

    monkeypatch.setattr(writing, "open", opened, raising=False)
    with pytest.raises(OSError, match="No space left on device") as caught:
        stream(Made(20), out, overlay=film)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(out)
    assert out.read_text() == "old"
    # The film is done when the results are brought together.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.mp4"] * (
        ending != ".lines" or writes == 20
    ) + ["x.json"]


def test_a_folder_that_is_not_there(tmp_path):
    """It is made; where that cannot be, the error comes before the first frame."""
    stream(Made(2), tmp_path / "a" / "b" / "x.json")
    assert len(load_coco(tmp_path / "a" / "b" / "x.json").frames) == 2
    (tmp_path / "file").write_text("")
    source = Made(2)
    with pytest.raises(OSError, match="file"):
        stream(source, tmp_path / "file" / "x.json")
    assert source.asked == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("live", [True, False])
def test_a_second_interrupt_ends_at_once(tmp_path, monkeypatch, live):
    """Nothing more is written; two at the same moment count as one."""
    out, film = tmp_path / "x.json", tmp_path / "o.mp4"
    model, after = model_of_faces(), signal.getsignal(signal.SIGINT)

    def run():
        seen = iter(range(1000))

        def detect(image):
            if next(seen) == 5:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return np.array([[5.0, 5, 30, 30]]), np.ones(1)

        find = Detected(detect, model)
        stream(Made(1000, live=live), out, find=find, model=model, overlay=film, keep_partial=True)

    if live:
        run()
    else:
        with pytest.raises(KeyboardInterrupt):
            run()
    before = out.read_bytes()
    assert len(load_coco(out).frames) >= 5
    film.unlink()
    monkeypatch.setattr("posewarper.training.interrupts.FORCE_AFTER", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert out.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert not {"reading", "writing"} & {thread.name for thread in threading.enumerate()}
    assert signal.getsignal(signal.SIGINT) == after


def test_queues_are_short(tmp_path):
    """Reading does not run ahead of the rest."""
    ahead = []
    source = Made(200)

    def detect(image):
        ahead.append(source.asked[-1] - len(ahead))
        return np.array([[5.0, 5, 30, 30]]), np.ones(1)

    stream(source, tmp_path / "x.json", find=Detected(detect, model_of_faces()))
    assert len(ahead) == 200 and max(ahead) < 12


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupt(tmp_path, live, keep):
    """Of a camera it is the end; otherwise what was found is kept if wanted."""
    source = Made(
        100_000, live=live, before=lambda n: n == 30 and os.kill(os.getpid(), signal.SIGINT)
    )
    out, options = tmp_path / "x.json", {"keep_partial": keep, "overlay": tmp_path / "o.mp4"}
    if live:
        assert stream(source, out, **options).interrupted
    else:
        with pytest.raises(KeyboardInterrupt):
            stream(source, out, **options)
    written = ["o.mp4", "x.json"] if live or keep else []
    assert sorted(p.name for p in tmp_path.iterdir()) == written
    if written:
        got = load_coco(out)
        assert got.frames.number.tolist() == list(range(len(got.frames)))
        assert 10 < len(got.frames) < 200
        assert (got.videos[0].frame_count == 100_000) == (not live)


def test_a_camera_is_not_kept_waiting(tmp_path):
    """With past frames only, a pose is there before the next frame comes."""
    found = []

    class Noted(Finisher):
        def __call__(self, frame, image, poses):
            found.append(frame.number)
            return super().__call__(frame, image, poses)

    lag = []

    def wait(number):
        until = time.monotonic() + 5
        while len(found) < number - 1 and max(lag, default=0) <= 1 and time.monotonic() < until:
            time.sleep(0.005)
        lag.append(number - len(found))

    model = model_of_faces()
    source = Made(12, live=True, before=wait)
    stream(
        source, tmp_path / "x.json", window=Window.equal(-1, 0), model=model,
        finish=Noted(model, Scoring()),
    )  # fmt: skip
    assert found == list(range(12)) and max(lag) <= 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory as Linux tells it")
def test_memory_does_not_grow(tmp_path, three_peaks):
    """3000 frames: the second half needs no more than the first."""
    path = tmp_path / "long.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    for number in range(3000):
        writer.write(np.roll(noise, number, 1))
    writer.release()
    model = model_of_faces()
    used = {}

    class Measured(Finisher):
        def __call__(self, frame, image, poses):
            if frame.number % 20 == 0:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                used[frame.number] = pages * os.sysconf("SC_PAGE_SIZE")
            return super().__call__(frame, image, poses)

    summary = predict_stream(
        open_source(str(path)),
        LastPose(FixedBoxes([(10, 10, 30, 30)], model), model, lost_below=0.1),
        WindowPoses(PosePredictor(model, device="cpu"), Window.equal(-1, 0, 1)),
        Measured(model, Scoring(), smoother=OneEuro()),
        ResultFile(tmp_path / "x.json", "dataset", FACE),
        options=Options(progress=False),
        overlay=tmp_path / "o.mp4",
    )
    assert summary.people == 3000
    first = max(value for number, value in used.items() if 200 <= number < 1500)
    second = max(value for number, value in used.items() if number >= 1500)
    assert second < first + 4e6
    assert len(load_coco(tmp_path / "x.json").frames) == 3000


# Windows


def test_windows_hold_what_they_need():
    windows = Windows(Video("v", 100), Window.equal(-2, 0, 3), Options(start=10, frames=2, every=5))
    assert (windows.begin, windows.end) == (8, 18)
    ready = []
    for number in range(8, 19):
        for key in windows.add(Frame(number, 0.0, np.zeros((1, 1, 3), np.uint8), "")):
            numbers, images, wrong = windows.window(key.number)
            ready.append((number, key.number, numbers, sorted(images), wrong))
        assert len(windows._held) <= 8
    assert ready == [
        (13, 10, (8, 10, 13), [8, 10, 13], ""),
        (18, 15, (13, 15, 18), [13, 15, 18], ""),
    ]
    assert windows.expected(Video("v", 12)) == 1 and windows.expected(Video("v", 0)) == 2
