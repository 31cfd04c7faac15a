"""Streams: who is who, smoothing, scores."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
from streamed_faces import (
    IMAGE,
    Made,
    model_of_faces,
    poses_at,
    stream,
    write_clip,
)

from posewarper.data.annotations import load_coco
from posewarper.inference import Scoring
from posewarper.inference.smoothing import OneEuro
from posewarper.models import save_model
from posewarper.streaming import choices, predict
from posewarper.streaming.boxes import (
    Detected,
    FromFile,
)
from posewarper.streaming.people import Finisher
from posewarper.streaming.poses import Places
from posewarper.streaming.sources import Frame
from posewarper.streaming.tracking import BoxTracker

# Threads that wait for each other would wait for ever: better a failure.
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(60)]


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip")


def test_tracks():
    pytest.importorskip("trackers")
    track = BoxTracker(10.0, 0.5)
    ids = []
    for step in range(6):
        boxes = np.array([[10.0 + 3 * step, 10, 20, 40], [100 - 3 * step, 12, 20, 40]])
        order = [0, 1] if step % 2 else [1, 0]
        ids.append(track(boxes[order], np.array([0.9, 0.8]))[np.argsort(order)])
    assert ids[0].tolist() == [-1, -1]
    assert {*ids[1].tolist()} == {0, 1} and all((i == ids[1]).all() for i in ids[1:])
    assert track(np.zeros((0, 4)), np.zeros(0)).tolist() == []


class _Detections:
    """What of ``supervision.Detections`` is used."""

    def __init__(self, xyxy, confidence, data, tracker_id=None):
        self.xyxy, self.confidence, self.data, self.tracker_id = xyxy, confidence, data, tracker_id

    def __len__(self):
        return len(self.xyxy)


class _Tracker:
    """In place of ByteTrack: ids by the left side; in another order, and not of everybody."""

    made: ClassVar[list[dict]] = []

    def __init__(self, **options):
        self.made.append(options)

    def update(self, given):
        rows = np.flatnonzero(given.confidence >= 0.5)[::-1]
        ids = given.xyxy[rows, 0].astype(int)
        assert (given.xyxy[:, 2:] > given.xyxy[:, :2]).all()  # corners, not sizes
        return _Detections(
            given.xyxy[rows], given.confidence[rows], {"row": given.data["row"][rows]}, ids
        )


@pytest.fixture
def other_tracker(monkeypatch):
    """Instead of the libraries, whether they are there or not."""
    monkeypatch.setattr(_Tracker, "made", [])
    for name, content in (("supervision", "Detections"), ("trackers", "ByteTrackTracker")):
        module = ModuleType(name)
        setattr(module, content, {"Detections": _Detections, "ByteTrackTracker": _Tracker}[content])
        monkeypatch.setitem(sys.modules, name, module)
    return _Tracker.made


def test_ids_go_to_the_right_people(other_tracker):
    """Whatever order the library gives them back in."""
    track = BoxTracker(12.5, 0.4)
    boxes = np.array([[30.0, 5, 4, 20], [7, 5, 4, 20], [50, 5, 4, 20]])
    assert track(boxes, np.array([0.9, 0.6, 0.1])).tolist() == [30, 7, -1]
    assert track(np.zeros((0, 4)), np.zeros(0)).tolist() == []
    assert track(boxes[:1], np.array([0.1])).tolist() == [-1]
    (options,) = other_tracker
    assert options["frame_rate"] == 12.5 and options["minimum_consecutive_frames"] == 1
    assert options["track_activation_threshold"] == options["high_conf_det_threshold"] == 0.4


def test_the_command_tracks(clip, tmp_path, monkeypatch, other_tracker):
    """After double people went; at the rate of the frames that are looked at; then it smooths."""
    save_model(model_of_faces(), tmp_path / "face.pt")
    boxes = np.array([[30.0, 5, 30, 35], [5, 5, 30, 35], [5, 5, 30, 35]])
    scores = np.array([0.9, 0.8, 0.7])
    monkeypatch.setattr(choices, "person_detector", lambda *_: lambda image: (boxes, scores))
    smoothed = []
    monkeypatch.setattr(
        OneEuro,
        "__call__",
        lambda self, track, time, points, valid: smoothed.append(track) or points,
    )
    predict(
        str(clip), tmp_path / "x.json", tmp_path / "face.pt", boxes="detector", track=True,
        smooth=True, nms=0.99, rescore="box", fps=10.0, every=2, mode="single", progress=False,
    )  # fmt: skip
    people = load_coco(tmp_path / "x.json").people
    assert people.track_id.tolist() == [30, 5] * 2 and people.score.tolist() == [0.9, 0.8] * 2
    assert smoothed == [30, 5] * 2 and other_tracker[0]["frame_rate"] == 5


def test_tracks_in_results(tmp_path):
    pytest.importorskip("trackers")
    model = model_of_faces()
    boxes = np.array([[5.0, 5, 20, 30], [35, 5, 20, 30]])
    find = Detected(lambda image: (boxes, np.array([0.9, 0.8])), model)
    finish = Finisher(model, Scoring(), BoxTracker(10.0, 0.5))
    stream(Made(4), tmp_path / "x.json", find=find, model=model, finish=finish)
    assert load_coco(tmp_path / "x.json").people.track_id.tolist() == [-1, -1] + [0, 1] * 3


def test_tracks_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(ValueError, match=r"pip install 'posewarper\[track\]'"):
        BoxTracker(10.0, 0.5)


def test_the_command_without_the_library(clip, tmp_path, monkeypatch):
    """Says so before it looks at a frame."""
    save_model(model_of_faces(), tmp_path / "face.pt")
    monkeypatch.setitem(sys.modules, "trackers", None)
    monkeypatch.setattr(choices, "person_detector", lambda *_: pytest.fail)
    with pytest.raises(ValueError, match=r"track: needs the package trackers .*\[track\]"):
        predict(str(clip), tmp_path / "x.json", tmp_path / "face.pt", boxes="detector", track=True)
    assert not (tmp_path / "x.json").exists()


def test_ids_that_two_people_have():
    """Are not taken for tracks."""
    two = Places.make([[10.0, 10, 20, 20], [80, 10, 20, 20]], None, [7, 7])
    assert not FromFile({0: two}).tracks and FromFile({0: two[[0]], 1: two[[1]]}).tracks
    assert not FromFile({0: Places.make([[10.0, 10, 20, 20]])}).tracks


def test_smoothing():
    """By the filter, with the times of the frames; whoever was away begins anew."""
    model = model_of_faces()
    finish, one = Finisher(model, Scoring(), smoother=OneEuro(0.5, 0.0)), OneEuro(0.5, 0.0)
    present = np.ones(3, np.bool_)
    for number in (0, 1, 3, 6, 7):
        places = Places.make([[10.0 + 5 * number, 10, 20, 20]] * 2, None, [4, -1])
        poses = poses_at(places, [0.5, 0.5])
        if number == 6:
            poses = poses[np.array([1])]
            one = OneEuro(0.5, 0.0)
        frame = Frame(number, 0.1 * number**2, IMAGE, "")
        got = finish(frame, IMAGE, poses).keypoints
        np.testing.assert_array_equal(got[-1, :, :2], poses.points[-1])  # no track, no filter
        if number != 6:
            want = one(4, frame.time, poses.points[0], present)
            np.testing.assert_allclose(got[0, :, :2], want)
            assert (np.abs(want - poses.points[0]).max() > 1) == (number in (1, 3))


def test_scores():
    """Heights times the score of the box, and where no maximum is positive nothing."""
    model = model_of_faces()
    poses = poses_at(Places.make([[10.0, 10, 20, 20]], [0.5]), [0.8])
    poses.heights[0, 2] = -0.3
    frame = Frame(0, 0.0, IMAGE, "")
    for scoring, joints, person in (
        (Scoring(), 0.4, 1.6 / 3 * 0.5),
        (Scoring(False), 0.8, 1.6 / 3 * 0.5),
        (Scoring(True, "box"), 0.4, 0.5),
        (Scoring(True, "joints"), 0.4, 1.6 / 3),
    ):
        got = Finisher(model, scoring)(frame, IMAGE, poses)
        np.testing.assert_allclose(got.joint_scores, [[joints, joints, 0]])
        np.testing.assert_allclose(got.score, [person])
        assert got.keypoints[0, :, 2].tolist() == [2, 2, 0] and (got.keypoints[0, 2] == 0).all()
        assert got.bbox.tolist() == [[10, 10, 20, 20]] and got.size_wh == (200, 100)
