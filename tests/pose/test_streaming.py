"""Poses of videos as they stream by: the same as those of data sets, in every kind of input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from random_models import random_model

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.dataset import Boxes, annotated_boxes
from posewarper.data.formats import load_labels, save_labels
from posewarper.data.synthetic import write_dataset
from posewarper.data.video import FrameError, FrameSource, VideoFile
from posewarper.evaluation.prediction_datasets import write_predictions
from posewarper.inference import PosePredictor, Scoring, predict_boxes
from posewarper.models import WINDOWS, Window, save_model
from posewarper.skeleton import Skeleton
from posewarper.streaming import open_source, predict
from posewarper.streaming.sources import name_of_stream

FRAMES = 7

# Threads that wait for each other would wait for ever: better a failure.
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A video of two people, as a folder of images and as a file, their labels, and models."""
    root = tmp_path_factory.mktemp("streaming")
    for name, options in (("folder", {"image_format": "png"}), ("file", {"as_video": True})):
        write_dataset(
            root / name, videos={"val": 1}, frames=FRAMES, size_wh=(128, 96), people=2,
            progress=False, seed=4, **options,
        )  # fmt: skip
    save_model(random_model(), root / "model.pt")
    save_model(random_model(head=False), root / "single.pt")
    return root


def labels_of(root, kind):
    return root / kind / "annotations" / "posetrack_val.json"


def video_of(root, kind):
    folder = root / kind / "images" / "val"
    return folder / ("000001_synthetic.mp4" if kind == "file" else "000001_synthetic")


def run(root, out, kind="folder", **options):
    options = {"model": root / "model.pt", "device": "cpu", "progress": False, **options}
    video = options.pop("video", video_of(root, kind))
    return predict(str(video), out, **options)


def expected(root, kind, window, keep=None, **options):
    """What ``predict_boxes`` finds in the boxes of the labels."""
    dataset = load_coco(labels_of(root, kind))
    if keep is not None:
        dataset = dataset.select(people=np.isin(dataset.frames.number[dataset.people.frame], keep))
    boxes = annotated_boxes(dataset)
    return predict_boxes(
        PosePredictor(random_model(), device="cpu"),
        boxes,
        FrameSource(root / kind, dataset=dataset),
        dataset,
        mode="single" if window is None else "aggregate",
        window=window,
        track_id=dataset.people.track_id[boxes.row],
        progress=False,
        **options,
    ).datasets["single" if window is None else "aggregate"]


def assert_same(got, want):
    """People of the same frames, ids and boxes, joints within a thousandth of a pixel."""
    np.testing.assert_array_equal(
        got.frames.number[got.people.frame], want.frames.number[want.people.frame]
    )
    np.testing.assert_array_equal(got.people.track_id, want.people.track_id)
    np.testing.assert_allclose(got.people.bbox, want.people.bbox, atol=1e-3)
    np.testing.assert_allclose(got.people.keypoints, want.people.keypoints, atol=1e-3)
    np.testing.assert_allclose(got.people.joint_scores, want.people.joint_scores, atol=1e-5)
    np.testing.assert_allclose(got.people.score, want.people.score, atol=1e-5)


WIDE = Window((0, -3, 2, -1), (0.4, 0.1, 0.3, 0.2))


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize(
    ("options", "window"),
    [
        ({"mode": "single"}, None),
        ({}, WINDOWS["posetrack-2019"]),
        ({"causal": True}, WINDOWS["posetrack-2019-causal"]),
        ({"window": "paper"}, WINDOWS["paper"]),
        ({"window": "paper-causal", "batch_size": 5}, WINDOWS["paper-causal"]),
    ],
    ids=["single", "model's window", "past of it", "paper", "paper, past"],
)
def test_equals_predict_boxes(root, tmp_path, kind, options, window):
    """At the ends of the video, too, where windows are clipped."""
    summary = run(root, tmp_path / "x.json", kind, box_file=labels_of(root, kind), **options)
    got, want = load_coco(tmp_path / "x.json"), expected(root, kind, window)
    assert summary.frames == FRAMES and summary.people == len(want.people) > FRAMES
    assert_same(got, want)
    # the test would see another window
    other = expected(root, kind, WIDE)
    assert np.abs(other.people.keypoints - want.people.keypoints).max() > 1


def test_first_and_last_are_near_the_ends(root, tmp_path):
    """Frames before ``start`` and after the last one are part of windows; ``every`` too."""
    run(root, tmp_path / "x.json", box_file=labels_of(root, "folder"), start=2, frames=2, every=2)
    got = load_coco(tmp_path / "x.json")
    assert_same(got, expected(root, "folder", WINDOWS["posetrack-2019"], keep=[2, 4]))
    assert got.frames.number.tolist() == [2, 4] and got.videos[0].frame_count == FRAMES
    assert got.frames.image_id.tolist() == [3, 5]
    with pytest.raises(ValueError, match="no frame 70 or later"):
        run(root, tmp_path / "y.json", boxes="frame", start=70)
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_nms_and_scores(root, tmp_path):
    options = {"nms": 0.05, "rescore": "joints", "weigh_joints": False}
    run(root, tmp_path / "x.json", box_file=labels_of(root, "folder"), **options)
    scoring = Scoring(False, "joints", 0.05)
    want = expected(root, "folder", WINDOWS["posetrack-2019"], scoring=scoring)
    assert 0 < len(want.people) < 13  # who is left of those in the boxes
    assert_same(load_coco(tmp_path / "x.json"), want)


def test_whole_frame(root, tmp_path):
    run(root, tmp_path / "x.json", boxes="frame")
    got = load_coco(tmp_path / "x.json")
    np.testing.assert_array_equal(got.people.bbox, [[0, 0, 128, 96]] * FRAMES)
    labels = load_coco(labels_of(root, "folder"))
    zeros, numbers = np.zeros(FRAMES, np.int64), np.arange(FRAMES)
    boxes = Boxes(labels.videos, zeros, numbers, got.people.bbox, np.ones(FRAMES), numbers)
    want = predict_boxes(
        PosePredictor(random_model(), device="cpu"), boxes,
        FrameSource(root / "folder", dataset=labels), labels, progress=False, track_id=zeros,
    ).datasets["aggregate"]  # fmt: skip
    assert_same(got, want)


def test_detections(root, tmp_path):
    """A detector's list, by name and by id, for a folder and a file."""
    video = load_coco(labels_of(root, "folder")).videos[0]
    for kind, entry in (
        ("folder", {"image_name": "000003.png"}),
        ("folder", {"image_name": f"{Path(video.name).name}/000003.png"}),
        ("file", {"image_name": f"{Path(video.name).name}/000003.jpg"}),
        ("file", {"image_id": 4}),
    ):
        found = [{**entry, "bbox": [30, 20, 40, 60], "score": score} for score in (0.4, 0.9)]
        (tmp_path / "found.json").write_text(json.dumps(found))
        run(root, tmp_path / "x.json", kind, box_file=tmp_path / "found.json", rescore="box")
        got = load_coco(tmp_path / "x.json")
        assert got.frames.number[got.people.frame].tolist() == [3]
        assert got.people.score.tolist() == [0.9] and got.people.track_id.tolist() == [-1]
        assert got.frames.labelled.tolist() == [n == 3 for n in range(FRAMES)]
    (tmp_path / "found.json").write_text(json.dumps([{**found[0], "image_id": 400}]))
    with pytest.raises(ValueError, match=r"found\.json"):
        run(root, tmp_path / "y.json", "file", box_file=tmp_path / "found.json")


def test_the_result_is_what_other_commands_read(root, tmp_path):
    """The file has all frames, and its paths lead to them."""
    run(root, tmp_path / "x.json", "file", boxes="frame")
    run(root, tmp_path / "y.json", "folder", boxes="frame")
    for name, kind in (("x", "file"), ("y", "folder")):
        got = load_coco(tmp_path / f"{name}.json")
        assert got.people.predicted.all() and got.frames.labelled.all()
        assert got.videos[0].frame_count == FRAMES == len(got.frames)
        assert (got.frames.size_wh == (128, 96)).all()
        source = FrameSource(video_of(root, kind).parent, dataset=got)
        frames = list(open_source(str(video_of(root, kind))).frames(0))
        for frame in frames:
            np.testing.assert_array_equal(source.read(got.videos[0], frame.number), frame.image)
        save_coco(got, tmp_path / "again.json")
        again = json.loads((tmp_path / "again.json").read_text())
        assert again == json.loads((tmp_path / f"{name}.json").read_text())


def test_other_formats(root, tmp_path):
    """As those functions write them that hold everything in memory."""
    boxes = {"box_file": labels_of(root, "folder")}
    run(root, tmp_path / "x.json", **boxes)
    dataset = load_coco(tmp_path / "x.json")
    run(root, tmp_path / "c.json", format="coco", **boxes)
    write_predictions(dataset, tmp_path / "c2.json", "coco")
    assert json.loads((tmp_path / "c.json").read_text()) == json.loads(
        (tmp_path / "c2.json").read_text()
    )
    run(root, tmp_path / "p.json", format="posetrack18", **boxes)
    (path,) = write_predictions(dataset, tmp_path / "official", "posetrack18")
    assert json.loads((tmp_path / "p.json").read_text()) == json.loads(path.read_text())
    run(root, tmp_path / "t.csv", **boxes)
    save_labels(dataset, tmp_path / "t2.csv")
    assert (tmp_path / "t.csv").read_text() == (tmp_path / "t2.csv").read_text()
    again = load_labels(tmp_path / "t.csv")
    np.testing.assert_array_equal(again.people.keypoints, dataset.people.keypoints)
    np.testing.assert_array_equal(again.people.joint_scores, dataset.people.joint_scores)


def test_overlay(root, tmp_path):
    run(root, tmp_path / "x.json", "file", boxes="frame", overlay=tmp_path / "o.mp4", every=2)
    drawn, plain = VideoFile(tmp_path / "o.mp4"), VideoFile(video_of(root, "file"))
    assert drawn.frame_count() == 4
    for index in range(4):
        other = drawn.read(index).astype(int)
        differs = [(np.abs(other - plain.read(n)).max(-1) > 60).mean() for n in range(FRAMES)]
        assert int(np.argmin(differs)) == 2 * index  # its own frame below
        assert differs[2 * index] > 0.01  # with something drawn on it


def test_stream(root, tmp_path):
    """By URL; past frames only, and numbers from 0."""
    url = "file://" + str(video_of(root, "file"))
    run(root, tmp_path / "x.json", video=url, boxes="frame")
    run(root, tmp_path / "y.json", "file", boxes="frame", causal=True)
    got, want = load_coco(tmp_path / "x.json"), load_coco(tmp_path / "y.json")
    assert_same(got, want)
    assert got.videos[0].frame_count == FRAMES
    assert name_of_stream("rtsp://user:secret@10.0.0.7:554/live/1?key=k") == "10.0.0.7/live/1"


def test_long_urls(tmp_path):
    """Longer than names of files can be."""
    with pytest.raises(FrameError, match="OpenCV cannot read"):
        open_source(f"file://{tmp_path}/{'a' * 300}?key={'b' * 300}")


def test_frames_that_arrive_together(root, monkeypatch):
    """Times of a camera grow, even where the clock stands still."""
    monkeypatch.setattr("posewarper.streaming.sources.time.monotonic", lambda: 3.0)
    frames = list(open_source("file://" + str(video_of(root, "file"))).frames(0))
    times = [frame.time for frame in frames]
    assert len(times) == FRAMES and times[0] == 0 and (np.diff(times) > 0).all()


def test_without_a_name_for_the_results(root, tmp_path, monkeypatch, capsys):
    """They are called like the video; what is there is never replaced unasked."""
    monkeypatch.chdir(tmp_path)
    image = next(video_of(root, "folder").glob("*03.png"))
    for video, options, name in (
        (video_of(root, "file"), {}, "000001_synthetic.json"),
        (video_of(root, "folder"), {"format": "csv"}, "000001_synthetic.csv"),
        (image, {}, f"{image.stem}.json"),
        ("file://" + str(video_of(root, "file")), {}, "poses.json"),
    ):
        options = {"mode": "single", "boxes": "frame", "video": video, **options}
        assert run(root, None, **options).written
        assert capsys.readouterr().out.endswith(f" -> {name}\n")
        before = (tmp_path / name).read_bytes()
        with pytest.raises(ValueError, match=f"out: {name} exists already; give a name"):
            run(root, None, **options, frames=1)
        assert (tmp_path / name).read_bytes() == before
        run(root, Path(name), **options, rescore="box")  # asked for
        assert (tmp_path / name).read_bytes() != before
    assert len(list(tmp_path.iterdir())) == 4


def test_models_of_folders(root, tmp_path):
    """Of a fit and of a training; both give what their file gives."""
    for name in ("model.pt", "best.pt"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        shutil.copy(root / "model.pt", folder / name)
        run(root, tmp_path / "x.json", boxes="frame", model=folder)
        run(root, tmp_path / "y.json", boxes="frame", model=folder / name)
        assert (tmp_path / "x.json").read_bytes() == (tmp_path / "y.json").read_bytes()
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"neither model\.pt, which fit .* nor best\.pt"):
        run(root, tmp_path / "z.json", boxes="frame", model=tmp_path / "none")


def test_bad_input(root, tmp_path):
    out = tmp_path / "x.json"
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "two").mkdir()
    for name in ("a_1.png", "b_1.png"):
        cv2.imwrite(str(tmp_path / "two" / name), np.zeros((8, 8, 3), np.uint8))
    save_model(random_model(joints=2, skeleton=Skeleton("t", ("nose", "tail"))), tmp_path / "t.pt")
    labels = labels_of(root, "folder")
    for message, options in (
        ("there is no file|which is not there", {"video": "nothing.mp4"}),
        ("no images in the folder", {"video": tmp_path / "empty"}),
        ("broken.mp4: not a video that FFmpeg can read", {"video": tmp_path / "broken.mp4"}),
        ("have the same number", {"video": tmp_path / "two"}),
        ("OpenCV cannot read camera-99", {"video": "99"}),
        ("model: expected", {"model": None}),
        ("needs a model with a warp head", {"model": root / "single.pt", "mode": "aggregate"}),
        ("window: goes with mode aggregate", {"mode": "single", "window": "paper"}),
        ("posetrack18 needs joints", {"model": tmp_path / "t.pt", "format": "posetrack18"}),
        ("wants a name that ends in .csv", {"format": "csv"}),
        ("overlay: expected a name that ends in .mp4", {"overlay": tmp_path / "x.avi"}),
        ("boxes 'file' needs one", {"boxes": "file"}),
        ("box_file: goes with", {"boxes": "frame", "box_file": labels}),
        ("start_box: goes with", {"boxes": "frame", "start_box": (0, 0, 5, 5)}),
        ("start_box: expected x, y", {"start_box": (0, 0, 0, 5)}),
        ("have track ids already", {"boxes": "frame", "track": True}),
        ("every: expected 1 or more", {"every": 0}),
        ("frames: expected 1 or more", {"frames": 0}),
        ("start: the first frame is 0", {"boxes": "frame", "start": -1}),
        ("fps: expected a positive", {"fps": 0.0}),
        ("missing: expected one of", {"missing": "nearest"}),
        ("box_threshold: expected 0 to 1", {"box_threshold": 2.0}),
        ("min_cutoff", {"boxes": "frame", "smooth": True, "min_cutoff": 0.0}),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run(root, out, **options)
    with pytest.raises(ValueError, match="got the folder"):
        (tmp_path / "folder.json").mkdir()
        run(root, tmp_path / "folder.json")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ValueError, match="overlay: expected a file"):
        run(root, out, boxes="frame", overlay=tmp_path / "folder.mp4")
    video = shutil.copy(video_of(root, "file"), tmp_path / "v.mp4")
    with pytest.raises(ValueError, match="is the video itself"):
        run(root, out, boxes="frame", video=video, overlay=tmp_path / "two" / ".." / "v.mp4")
    own = shutil.copy(labels, tmp_path / "own.json")
    with pytest.raises(ValueError, match="is the box_file; choose another"):
        run(root, Path(own), box_file=tmp_path / "own.json")
    with pytest.raises(ValueError, match=r"track: everybody in .* has a track id already"):
        run(root, out, box_file=labels, track=True)
    assert not out.exists()
    # models of two joints predict what is asked of them
    assert run(root, out, model=tmp_path / "t.pt", boxes="frame").people == FRAMES
