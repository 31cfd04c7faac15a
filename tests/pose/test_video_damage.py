"""Damaged videos, of which the rest keeps its numbers, and films of what no film can hold."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numbered_videos import encode, number_in, picture
from streamed_faces import FACE, Made, stream
from test_video_containers import part_of_mp4

from posewarper.data.images import image_files
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.video import FrameError, FrameSource, VideoFile
from posewarper.fitting.film import write_film
from posewarper.report.video_file import VideoWriter, film_of, fitted
from posewarper.report.viewer_source import fps_of
from posewarper.streaming import open_source

COUNT = 120
EVEN = np.arange(COUNT) * 40
LOSSY = {"tick": Fraction(1, 25)}


def made(path: Path, codec: str, **options: str) -> Path:
    slots = path.suffix == ".avi"
    stamps = EVEN // 40 if slots else EVEN
    return encode(path, stamps, codec, options, **(LOSSY if slots else {}))


def places(path: Path) -> list[tuple[int, int]]:
    """Where each packet lies in the file, and how long it is."""
    data, found = path.read_bytes(), []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                found.append(
                    (data.index(bytes(packet), sum(found[-1]) if found else 0), packet.size)
                )
    return found


def zero(path: Path, packet: int) -> Path:
    """Overwrite a packet, as a disk does that loses a block."""
    place, size = places(path)[packet]
    data = bytearray(path.read_bytes())
    data[place : place + size] = bytes(size)
    path.write_bytes(data)
    return path


def lose(path: Path, packet: int) -> Path:
    """Overwrite the name of a packet of an AVI file, so that readers pass over it."""
    place = places(path)[packet][0] - 8
    data = bytearray(path.read_bytes())
    assert data[place : place + 4] == b"00dc"
    data[place : place + 4] = b"JUNK"
    path.write_bytes(data)
    return path


def numbers(path: Path, order=range(COUNT)) -> dict[int, int | None]:
    file = VideoFile(path)
    images = {i: file.read(i) for i in order}
    return {i: None if image is None else number_in(image) for i, image in images.items()}


CASES = {
    "mjpeg.avi": (zero, 60, {"codec": "mjpeg", "strict": "-1"}, [60]),
    "mjpeg.mp4": (zero, 60, {"codec": "mjpeg", "strict": "-1"}, [60]),
    "first.avi": (zero, 0, {"codec": "mjpeg", "strict": "-1"}, [0]),
    "last.avi": (zero, 119, {"codec": "mjpeg", "strict": "-1"}, [119]),
    "h264.mp4": (zero, 66, {"codec": "libx264", "g": "12", "bf": "0"}, range(66, 72)),
    "first.mkv": (zero, 0, {"codec": "libx264", "g": "12", "bf": "0"}, range(8)),
    "mpeg4.avi": (zero, 66, {"codec": "mpeg4", "g": "12", "bf": "0"}, range(66, 72)),
    "lost-mjpeg.avi": (lose, 60, {"codec": "mjpeg", "strict": "-1"}, [60]),
    "lost-mpeg4.avi": (lose, 66, {"codec": "mpeg4", "g": "12", "bf": "0"}, range(66, 72)),
    "vp8.webm": (zero, 66, {"codec": "libvpx", "g": "12"}, range(66, 72)),
}


@pytest.mark.parametrize("name", CASES)
def test_damage_takes_no_number_from_the_others(name, tmp_path):
    harm, packet, options, gone = CASES[name]
    path = harm(made(tmp_path / name, **options), packet)
    found = numbers(path)
    missing = [i for i, number in found.items() if number is None]
    assert missing == list(gone)
    assert {i: n for i, n in found.items() if n is not None} == {
        i: i for i in range(COUNT) if i not in missing
    }
    shuffled = np.random.default_rng(0).permutation(COUNT).tolist()
    assert numbers(path, shuffled) == found
    message = VideoFile(path).damage()
    assert name in message and f"damaged: {len(missing)} of 120 frames cannot be" in message
    assert f"counted from 0: {missing[0]}" in message and " on, counted" not in message
    streamed = {
        frame.number: None if frame.image is None else number_in(frame.image)
        for frame in open_source(str(path)).frames(0)
    }
    assert streamed == found


def test_b_frames_and_damage(tmp_path):
    """What is predicted from the damaged frame goes, too; the picture is never another's."""
    for name, codec, extra in (
        ("a.mp4", "libx264", {"x264-params": "open-gop=1:b-adapt=0:scenecut=0:log=-1"}),
        ("a.avi", "mpeg4", {}),
        ("a.mpg", "mpeg2video", {}),
    ):
        slots = name != "a.mp4"
        stamps, tick = (EVEN // 40, Fraction(1, 25)) if slots else (EVEN, Fraction(1, 1000))
        path = encode(tmp_path / name, stamps, codec, {"g": "12", "bf": "2", **extra}, tick)
        path = path if name == "a.mpg" else zero(path, 66)
        found = numbers(path)
        missing = [i for i, number in found.items() if number is None]
        assert all(number in (None, i) for i, number in found.items()), name
        assert len(missing) == 0 if name == "a.mpg" else 2 <= len(missing) <= 18
        assert numbers(path, range(COUNT - 1, -1, -1)) == found


@pytest.mark.parametrize("policy", ["error", "skip", "nearest", "key"])
def test_policies(policy, tmp_path):
    zero(made(tmp_path / "v.avi", "mjpeg", strict="-1"), 60)
    source, video = FrameSource(tmp_path, policy), Video("v", COUNT, 0, "", "v.avi")
    assert number_in(source.read(video, 61)) == 61
    if policy == "error":
        with pytest.raises(FrameError, match=r"v\.avi: frame 60 is damaged and cannot be decoded$"):
            source.read(video, 60, key=59)
        return
    with pytest.warns(UserWarning, match="frame 60 is damaged"):
        image = source.read(video, 60, key=62)
    expected = {"skip": None, "nearest": 59, "key": 62}[policy]
    assert (None if image is None else number_in(image)) == expected


def test_a_frame_that_cannot_be_converted_is_missing(tmp_path, monkeypatch):
    from posewarper.data import video_file

    path = made(tmp_path / "v.avi", "mjpeg", strict="-1")

    def refuse(self, frame):
        raise ValueError("no such conversion")

    monkeypatch.setattr(video_file.Converter, "__call__", refuse)
    assert VideoFile(path).read(3) is None
    (frame, *_) = open_source(str(path)).frames(3)
    assert frame.image is None and "v.avi: frame 3" in frame.problem


def test_nothing_of_the_decoder_reaches_the_terminal(tmp_path, capfd):
    numbers(zero(made(tmp_path / "v.mp4", "libx264", g="12"), 66))
    for place in ("http://127.0.0.1:9/x.mp4", "rtsp://127.0.0.1:9/x", "99"):
        with pytest.raises(FrameError, match="OpenCV cannot read"):
            open_source(place)
    assert capfd.readouterr() == ("", "")


def bar(moment: int) -> np.ndarray:
    """A bright bar in one of eight places, which jumps to the next one at each moment."""
    image = np.full((48, 64, 3), 60, np.uint8)
    image[:, 8 * (moment % 8) :][:, :8] = 220
    return image


def place_of_bar(image: np.ndarray, line: int) -> int:
    return int(image[line].mean(-1).reshape(8, 8).mean(1).argmax())


def test_interlaced_frames(tmp_path):
    """Two moments in a frame, or one: then the lines of the second are filled in."""
    path = tmp_path / "v.mp4"
    options = {"flags": "+ilme+ildct", "qp": "10"}
    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=25, options=options)
        track.width, track.height, track.pix_fmt = 64, 48, "yuv420p"
        for number in range(60):
            image = bar(2 * number)  # PyAV's frames begin with their lower field
            image[::2] = bar(2 * number + 1)[::2]  # half a frame later
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    file, filled = VideoFile(path), VideoFile(path, deinterlace=True)
    assert file.frame_count() == filled.frame_count() == 60
    for number in (3, 40, 4, 0, 59):
        woven, whole = file.read(number), filled.read(number)
        first = 2 * number % 8
        assert place_of_bar(woven, 25) == place_of_bar(whole, 25) == first
        assert (place_of_bar(woven, 24), place_of_bar(whole, 24)) == (first + 1, first)
    shuffled = VideoFile(path, deinterlace=True)
    in_order = [filled.read(number) for number in range(60)]
    for number in np.random.default_rng(0).permutation(60).tolist():
        np.testing.assert_array_equal(shuffled.read(number), in_order[number])
    (tmp_path / "folder").mkdir()
    source = FrameSource(tmp_path, deinterlace=True)
    np.testing.assert_array_equal(source.read(Video("v", 60), 7), in_order[7])
    (frame, *_) = open_source(str(path), deinterlace=True).frames(7)
    np.testing.assert_array_equal(frame.image, in_order[7])


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)])
def test_mirrored_videos_come_as_they_are_shown(matrix, tmp_path):
    path = made(tmp_path / "v.mp4", "libx264")
    data = bytearray(path.read_bytes())
    at = part_of_mp4(data, b"tkhd") + 40
    a, b, c, d = (value << 16 for value in matrix)
    values = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    stored = VideoFile(path).read(77)
    path.write_bytes(data)
    shown = VideoFile(path).read(77)
    expected = {
        (-1, 0, 0, 1): stored[:, ::-1],
        (1, 0, 0, -1): stored[::-1],
        (0, 1, 1, 0): stored.transpose(1, 0, 2),
        (0, -1, -1, 0): stored[::-1, ::-1].transpose(1, 0, 2),
    }[matrix]
    np.testing.assert_array_equal(shown, expected)


def test_the_largest_of_several_streams(tmp_path):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        tracks = [container.add_stream("ffv1", rate=25) for _ in range(3)]
        for track, size in zip(tracks, (16, 64, 32), strict=True):
            track.width, track.height, track.pix_fmt = size, size * 3 // 4, "yuv420p"
        for number in range(10):
            for track in tracks:
                image = np.full((track.height, track.width, 3), 9 * number + 60, np.uint8)
                if track is tracks[1]:
                    image = picture(number)
                container.mux(track.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for track in tracks:
            container.mux(track.encode(None))
    assert numbers(path, range(10)) == {i: i for i in range(10)}


def test_rates_by_time_stamps(tmp_path):
    """Browsers record without a rate in the header, which OpenCV took for 1000 per second."""
    stamps = np.cumsum(np.random.default_rng(0).integers(28, 40, 60))
    path = encode(tmp_path / "v.webm", stamps, "libvpx", {"cpu-used": "8"})
    rate = 59_000 / (stamps[-1] - stamps[0])
    assert open_source(str(path)).fps == pytest.approx(rate, rel=1e-3)
    assert fps_of(tmp_path, Video("v", 60, 0, "", "v.webm")) == pytest.approx(rate, rel=1e-3)
    times = [frame.time for frame in open_source(str(path)).frames(0)]
    np.testing.assert_allclose(times, (stamps - stamps[0]) / 1000, atol=1e-3)


# --- folders and words that stand for videos


def test_hidden_files_are_no_frames(tmp_path):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"f{number}.png"), picture(number))
        (tmp_path / f"._f{number}.png").write_bytes(b"left by macOS")
    (tmp_path / "Thumbs.db").write_bytes(b"left by Windows")
    assert [path.name for path in image_files(tmp_path)] == ["f0.png", "f1.png", "f2.png"]
    frames = list(open_source(str(tmp_path)).frames(0))
    assert [number_in(frame.image) for frame in frames] == [0, 1, 2]


def test_words_that_stand_for_videos(tmp_path):
    for word in ("", " "):
        with pytest.raises(ValueError, match=r"video: expected a video file.*got an empty word"):
            open_source(word)
    with pytest.raises(FileNotFoundError, match=r"rtsp://.*http://.*got 'none\.mp4'"):
        open_source("none.mp4")
    cv2.imwrite(str(tmp_path / "mouse7.png"), picture(3))
    source = open_source(str(tmp_path / "mouse7.png"))
    assert source.video.name == "mouse7" and source.video.frame_count == 1
    assert [(f.number, f.file_name) for f in source.frames(0)] == [
        (7, f"{tmp_path.name}/mouse7.png")
    ]


# --- films


def test_films_of_what_h264_cannot_hold(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "posewarper"):
        writer = film_of(tmp_path / "a.mp4", 25, (9000, 60))
        assert writer.size_wh == (8192, 55) and "9000 x 60" in caplog.text
        caplog.clear()
        with film_of(tmp_path / "b.mp4", 1200, (64, 48)) as film:
            film.write(picture(1))
        assert "1000 frames per second in place of 1200" in caplog.text
    with pytest.raises(ValueError, match="fps"):
        film_of(tmp_path / "c.mp4", float("nan"), (64, 48))


def test_fitted():
    image = np.full((10, 20, 3), 200, np.uint8)
    assert fitted(image, (20, 10)) is image
    high = fitted(image, (20, 30))
    assert high.shape == (30, 20, 3) and (high[10:20] == 200).all() and high[:10].max() == 0
    wide = fitted(image, (40, 10))
    assert wide.shape == (10, 40, 3) and (wide[:, 10:30] == 200).all() and wide[:, 30:].max() == 0
    assert fitted(np.full((1, 9000, 3), 200, np.uint8), (8192, 1)).shape == (1, 8192, 3)


def test_poses_outlive_their_film(tmp_path, monkeypatch, caplog):
    """A disk that is full, or an encoder that fails: at any moment, also the last."""
    for moment in ("write", "__enter__", "__exit__"):
        real = getattr(VideoWriter, moment)

        def fail(self, *arguments, real=real, moment=moment):
            if moment == "__exit__":
                real(self, ValueError, ValueError("no"), None)
            raise OSError(28, "No space left on device")

        caplog.clear()
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "posewarper"):
            patch.setattr(VideoWriter, moment, fail)
            summary = stream(Made(9), tmp_path / "x.json", overlay=tmp_path / "o.mp4")
        assert summary.written and summary.frames == 9
        assert len(caplog.records) == 1 and "No space left" in caplog.text
        assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
        (tmp_path / "x.json").unlink()


def test_a_wide_film_of_a_wide_video(tmp_path, caplog):
    out, film = tmp_path / "x.json", tmp_path / "o.mp4"
    with caplog.at_level(logging.WARNING, "posewarper"):
        stream(Made(3, size_wh=(9000, 32)), out, overlay=film)
    assert len(caplog.records) == 1 and "8192" in caplog.text
    assert VideoFile(film).frame_count() == 3 and VideoFile(film).read(0).shape[1] == 8192


def test_films_of_fit(tmp_path, caplog):
    """Images of several sizes, and more than a thousand frames per second."""
    (tmp_path / "v").mkdir()
    sizes = [(64, 48), (64, 48), (32, 40), (64, 48)]
    for number, size in enumerate(sizes):
        image = cv2.resize(picture(number), size, interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(tmp_path / "v" / f"{number:06d}.png"), image)
    both = (Video("v", 4, 0, "%06d.png"), 25), (Video("w", 4, 0, "", "w.mp4"), 1000)
    for video, rate in both:
        if rate == 1000:
            encode(tmp_path / "w.mp4", np.arange(4), tick=Fraction(1, 1200))
            sizes = [(64, 48)] * 4
        frames = Frames.make((video,), [0] * 4, range(4), size_wh=sizes)
        people = People.make([0], np.ones((1, 3, 3)), np.ones((1, 4)))
        dataset = PoseDataset(FACE, (video,), frames, people)
        film = tmp_path / f"{video.name}-film.mp4"
        with caplog.at_level(logging.WARNING, "posewarper"):
            write_film(dataset, 0, FrameSource(tmp_path), film, progress=False)
        assert VideoFile(film).frame_count() == 4
        assert VideoFile(film).frame_rate() == pytest.approx(rate, rel=1e-3)
    assert "in place of 1200" in caplog.text and len(caplog.records) == 1
