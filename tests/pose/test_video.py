"""Frames from folders and from video files: exactness, caching, what happens to damaged ones."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numbered_videos import number_in, picture, write_video

from posewarper.data import video_index
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.video import FrameError, FrameSource, VideoFile, decode_image, fill_sizes
from posewarper.data.video_packets import look
from posewarper.skeleton import Skeleton

SAMPLE = Path(__file__).parents[3] / "shared" / "data"


def write_folder(folder, numbers, pattern="%06d.png"):
    folder.mkdir(parents=True)
    for number in numbers:
        cv2.imwrite(str(folder / (pattern % number)), picture(number))


def test_images_are_rgb_and_not_writable(tmp_path):
    (tmp_path / "v").mkdir()
    cv2.imwrite(str(tmp_path / "v" / "000003.png"), np.full((4, 5, 3), (10, 20, 30), np.uint8))
    image = FrameSource(tmp_path).read(Video("v", 9, 0, "%06d.png"), 3)
    assert image.shape == (4, 5, 3) and image[0, 0].tolist() == [30, 20, 10]
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0] = 0


def test_orientation_in_the_file_is_ignored(tmp_path):
    ok, data = cv2.imencode(".jpg", picture(1))
    assert ok
    tag = bytes.fromhex("ffe1002245786966000049492a0008000000010012010300010000000600000000000000")
    (tmp_path / "x.jpg").write_bytes(data.tobytes()[:2] + tag + data.tobytes()[2:])
    assert cv2.imread(str(tmp_path / "x.jpg")).shape == (64, 48, 3)  # turned by those who heed it
    assert decode_image(tmp_path / "x.jpg").shape == (48, 64, 3)


@pytest.mark.parametrize("codec", ["mp4v", "MJPG"])
def test_any_order_gives_the_right_frame(codec, tmp_path):
    path = write_video(tmp_path / ("v.mp4" if codec == "mp4v" else "v.avi"), 200, codec)
    file = VideoFile(path)
    order = [0, 1, 2, 150, 149, 151, 3, 199, 60, 0, 120, 59, 180, 10, 198, 100, 99]
    assert [number_in(file.read(i)) for i in order] == order
    assert file.frame_count() == 200
    assert file.read(200) is None and file.read(-1) is None
    assert number_in(file.read(7)) == 7


def test_order_without_usable_time_stamps(tmp_path, monkeypatch):
    file = VideoFile(write_video(tmp_path / "v.mp4", 120))
    known = file._known()
    monkeypatch.setattr(file, "_index", replace(known, times=np.zeros(120), mark=None))
    assert [number_in(file.read(i)) for i in (100, 30, 119, 118)] == [100, 30, 119, 118]


def test_an_index_decodes_only_the_beginning(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(video_index, "look", lambda *a: given.append(a[1:]) or look(*a))
    file = VideoFile(write_video(tmp_path / "v.mp4", 200))
    assert file.frame_count() == 200 and given == [(video_index._TRIAL,)]
    assert [number_in(file.read(i)) for i in (40, 7, 20, 150)] == [40, 7, 20, 150] and len(
        given
    ) == 1


@pytest.mark.parametrize(
    "name",
    [
        "mirror_mouse/videos/test_vid.mp4",
        "posetrack18_sample/videos/000001_mpiinew_test/000001_mpiinew_test.mp4",
    ],
)
def test_real_videos_are_frame_exact(name):
    path = SAMPLE / name
    if not path.exists():
        pytest.skip(f"the video is not there: {path}")
    capture = cv2.VideoCapture(str(path))
    in_order = []
    while True:
        done, frame = capture.read()
        if not done:
            break
        in_order.append(hash(frame[..., ::-1].tobytes()))
    file = VideoFile(path)
    order = np.random.default_rng(0).integers(0, len(in_order), 25)
    assert [hash(file.read(int(i)).tobytes()) for i in order] == [in_order[i] for i in order]


def test_video_file_in_place_of_a_folder(tmp_path):
    write_video(tmp_path / "clip.mp4", 10)
    source = FrameSource(tmp_path)
    assert number_in(source.read(Video("clip", 10), 4)) == 4
    one = FrameSource(tmp_path)
    assert number_in(one.read(Video("x", 10, 1, "", "clip.mp4"), 4)) == 3  # counted from 1


def descriptors(folder):
    """Files of a folder that this process holds open; None where the system does not say."""
    listing = Path("/proc/self/fd")
    if not listing.is_dir():
        return None
    targets = (os.path.realpath(path) for path in listing.iterdir())
    return sum(target.startswith(f"{folder}{os.sep}") for target in targets)


def test_few_files_stay_open(tmp_path):
    videos = [Video(f"v{i}", 60) for i in range(12)]
    for i, video in enumerate(videos):
        write_video(tmp_path / f"{video.name}.mp4", 60 if i < 2 else 6)
    source = FrameSource(tmp_path)

    def opened():
        files = [source.file_of(video) for video in videos]
        return [i for i, file in enumerate(files) if file._run is not None]

    source.prepare(videos)
    assert opened() == []
    for video in videos:
        assert number_in(source.read(video, 3)) == 3
    assert opened() == [8, 9, 10, 11] and descriptors(tmp_path.resolve()) in (4, None)
    source.read(videos[8], 5)  # from now on 9 is the one used longest ago
    index = source.file_of(videos[0])._index
    assert number_in(source.read(videos[0], 55)) == 55 and opened() == [0, 8, 10, 11]
    assert source.file_of(videos[0])._index is index  # closed files keep their index
    assert number_in(source.read(videos[0], 56)) == 56
    assert number_in(pickle.loads(pickle.dumps(source)).read(videos[1], 50)) == 50


def decoder_threads(path):
    file = VideoFile(path)
    file.read(0)
    return file._run.threads


def test_decoders_end_with_their_files(tmp_path):
    """At once, not when garbage is collected: that may come in a fork, without their threads."""
    path = write_video(tmp_path / "v.mp4", 60)
    listing = Path("/proc/self/task")
    if not listing.is_dir():
        pytest.skip("the system does not list threads")
    gc.disable()
    try:
        before = len(list(listing.iterdir()))
        for deinterlace in (False, True):
            file = VideoFile(path, deinterlace=deinterlace)
            assert [number_in(file.read(i)) for i in (3, 50, 5)] == [3, 50, 5]
            del file
            assert len(list(listing.iterdir())) <= before
    finally:
        gc.enable()


def report_decoder_threads(path, queue):
    queue.put(decoder_threads(path))


def test_worker_processes_have_one_decoder_thread_per_file(tmp_path):
    path = write_video(tmp_path / "v.mp4", 3)
    assert (decoder_threads(path) > 1) == (cv2.getNumberOfCPUs() > 1)  # as many as there are cores
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    worker = context.Process(target=report_decoder_threads, args=(path, queue))
    worker.start()
    worker.join()
    assert worker.exitcode == 0 and queue.get() == 1


def test_frames_are_decoded_once(tmp_path):
    write_folder(tmp_path / "v", range(6))
    source = FrameSource(tmp_path, cached_frames=3)
    video = Video("v", 6, 0, "%06d.png")
    for number in (0, 1, 2, 1, 0, 2):
        source.read(video, number)
    assert source.decoded == 3
    source.read(video, 3)  # pushes 1 out, which was used longest ago
    source.read(video, 0)
    assert source.decoded == 4
    source.read(video, 1)
    assert source.decoded == 5


def test_irregular_file_names(tmp_path):
    write_folder(tmp_path / "v", [1, 2], "%04d_crop.png")
    videos = (Video("v", 2, 1, "%08d.png"),)
    names = ["v/0001_crop.png", "v/0002_crop.png"]
    frames = Frames.make(videos, [0, 0], [1, 2], file_name=names)
    people = People.make([0], np.ones((1, 1, 3)), np.ones((1, 4)))
    dataset = PoseDataset(Skeleton("one", ("a",)), videos, frames, people)
    source = FrameSource(tmp_path, dataset=dataset)
    assert number_in(source.read(videos[0], 2)) == 2
    sized = fill_sizes(dataset, source)
    assert sized.frames.size_wh.tolist() == [[64, 48], [64, 48]]
    os.remove(tmp_path / names[0])
    assert fill_sizes(dataset, FrameSource(tmp_path, dataset=dataset)).frames.size_wh[0, 0] == 64
    os.remove(tmp_path / names[1])
    with pytest.raises(FrameError, match="0001_crop"):
        fill_sizes(dataset, FrameSource(tmp_path, dataset=dataset))


@pytest.fixture
def damaged(tmp_path):
    """Frames 0..5, of which 2 is missing, 3 is cut off, and 4 is no image."""
    folder = tmp_path / "v"
    write_folder(folder, [0, 1, 5], "%06d.jpg")
    data = cv2.imencode(".jpg", picture(3))[1].tobytes()
    (folder / "000003.jpg").write_bytes(data[: len(data) * 2 // 3])
    (folder / "000004.jpg").write_bytes(b"this is no picture")
    return tmp_path


VIDEO = Video("v", 6)


@pytest.mark.parametrize(
    ("number", "message"),
    [(2, "No such file"), (3, "cut off"), (4, "not an image")],
)
def test_error_names_the_file(damaged, number, message):
    source = FrameSource(damaged)
    with pytest.raises(FrameError, match=rf"00000{number}\.jpg.*{message}"):
        source.read(VIDEO, number, key=0)
    assert not source.problems


def test_skip(damaged):
    source = FrameSource(damaged, "skip")
    with pytest.warns(UserWarning, match=r"000003\.jpg.*skip") as caught:
        assert source.read(VIDEO, 3) is None
        assert source.read(VIDEO, 3) is None
    assert len(caught) == 1 and list(source.problems) == [("v", 3)]
    assert number_in(source.read(VIDEO, 5)) == 5


@pytest.mark.filterwarnings("ignore:.*policy")
def test_nearest_and_key(damaged):
    nearest = FrameSource(damaged, "nearest")
    assert [number_in(nearest.read(VIDEO, n)) for n in (2, 3, 4)] == [1, 1, 5]
    key = FrameSource(damaged, "key")
    assert number_in(key.read(VIDEO, 3, key=5)) == 5
    assert number_in(key.read(VIDEO, 3, key=0)) == 0  # not what stood in before
    for wrong in (3, None):
        with pytest.raises(FrameError, match="000003"):
            key.read(VIDEO, 3, key=wrong)
    with pytest.raises(FrameError, match="000004"):
        key.read(VIDEO, 3, key=4)
    with pytest.raises(FrameError, match="000002"):
        FrameSource(damaged, "nearest").read(Video("w", 6), 2)


def test_no_other_frame_stands_for_a_key_frame(damaged):
    source = FrameSource(damaged, "nearest")
    with pytest.warns(UserWarning, match=r"000003\.jpg.*nearest"):
        assert source.read(VIDEO, 3, key=3) is None
    assert list(source.problems) == [("v", 3)]
    assert number_in(source.read(VIDEO, 3, key=5)) == 1  # as a support frame it is replaced
    assert source.read(VIDEO, 3, key=3) is None  # still


def test_video_shorter_than_its_annotations(tmp_path):
    write_video(tmp_path / "v.mp4", 10)
    video = Video("v", 15)
    with pytest.raises(FrameError, match=r"v\.mp4: frame 12.*has 10 frames.*say 15"):
        FrameSource(tmp_path).read(video, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert number_in(FrameSource(tmp_path, "nearest").read(video, 12)) == 9


def test_thumbnails_and_appended_data_do_not_hide_or_fake_a_cut(tmp_path):
    data = cv2.imencode(".jpg", picture(3))[1].tobytes()
    thumbnail = b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data
    whole = data[:2] + thumbnail + data[2:]
    (tmp_path / "x.jpg").write_bytes(whole + b"appended \xff\xda")
    assert number_in(decode_image(tmp_path / "x.jpg")) == 3
    (tmp_path / "x.jpg").write_bytes(whole[:-200])
    with pytest.raises(FrameError, match="cut off"):
        decode_image(tmp_path / "x.jpg")


def test_cut_off_png(tmp_path):
    data = cv2.imencode(".png", picture(3))[1].tobytes()
    (tmp_path / "x.png").write_bytes(data[:-20])
    with pytest.raises(FrameError, match="cut off"):
        decode_image(tmp_path / "x.png")
    (tmp_path / "x.jpg").write_bytes(b"")
    with pytest.raises(FrameError, match="0 bytes"):
        decode_image(tmp_path / "x.jpg")


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="missing: expected"):
        FrameSource(tmp_path, "ignore")
    with pytest.raises(ValueError, match="no folder"):
        FrameSource(tmp_path / "none")


def test_copies_read_on_their_own(tmp_path):
    write_video(tmp_path / "v.mp4", 120)
    source, video = FrameSource(tmp_path), Video("v", 120)
    source.prepare([video])
    source.read(video, 100)
    copy = pickle.loads(pickle.dumps(source))
    assert number_in(copy.read(video, 70)) == 70 and number_in(source.read(video, 101)) == 101
    child = os.fork()
    if child == 0:  # shares the open file with this process
        os._exit(0 if number_in(source.read(video, 5)) == 5 else 1)
    assert number_in(source.read(video, 102)) == 102
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
