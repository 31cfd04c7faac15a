"""Streams: last poses, boxes of files, detectors, tracks, and what options choose."""

from __future__ import annotations

import json
import logging
import re
import sys
from urllib.error import URLError

import cv2
import jsonargparse
import numpy as np
import pytest
import torch
from random_models import random_model
from streamed_faces import FACE, TALL, Made, model_of_faces, see_three_peaks, stream

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.crops import box_to_center_scale, crop, turned_crop_matrices
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.upright import upright_boxes
from posewarper.inference import PosePredictor, Scoring
from posewarper.inference.smoothing import OneEuro
from posewarper.models import Window, save_model
from posewarper.skeleton import COCO
from posewarper.streaming import choices, detector, open_source, predict
from posewarper.streaming.box_files import load_boxes
from posewarper.streaming.boxes import (
    Detected,
    FixedBoxes,
    FromFile,
    LastPose,
    WholeFrame,
    overlaps,
)
from posewarper.streaming.people import Finisher
from posewarper.streaming.poses import Job, Places, Poses, WindowPoses, box_of_pose
from posewarper.streaming.sources import Frame
from posewarper.streaming.tracking import BoxTracker

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def three_peaks(monkeypatch):
    see_three_peaks(monkeypatch)


# Last poses


def poses_at(places, heights, spread=10.0, angles=None):
    """Faces in the centre of the places, turned."""
    centre = places.box[:, :2] + places.box[:, 2:4] / 2
    face = np.array(TALL) - (np.min(TALL, 0) + np.max(TALL, 0)) / 2
    points = np.repeat(face[None] * spread, len(places), 0)
    if angles is not None:
        a = np.deg2rad(angles)
        turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]).transpose(2, 0, 1)
        points = points @ turn
    heights = np.repeat(np.asarray(heights, float)[:, None], 3, 1)
    return Poses(points + centre[:, None], heights, places)


IMAGE = np.zeros((100, 200, 3), np.uint8)


def test_boxes_follow_poses():
    model = model_of_faces()
    find = LastPose(FixedBoxes([(50, 40, 20, 20)], model), model, lost_below=0.3)
    places = find.at(0, IMAGE)
    assert places.box.tolist() == [[50, 40, 20, 20, 0]] and places.track_id.tolist() == [0]
    poses = poses_at(places, [0.5])
    poses.points[:] += (7, 3)
    assert find.learn(0, poses).tolist() == [True]
    after = find.at(1, IMAGE)
    low, high = poses.points[0].min(0), poses.points[0].max(0)
    size = (high - low) * 1.25
    np.testing.assert_allclose(after.box[0], [*((low + high - size) / 2), *size, 0])
    # lost: begins again, as somebody else
    assert find.learn(1, poses_at(after, [0.2])).tolist() == [False]
    again = find.at(2, IMAGE)
    assert again.box.tolist() == [[50, 40, 20, 20, 0]] and again.track_id.tolist() == [1]
    assert find.ended == 1
    # gone from the image: ended, too
    poses = poses_at(again, [0.5])
    poses.points[:] += (0, 300)
    find.learn(2, poses)
    assert find.at(3, IMAGE).track_id.tolist() == [2] and find.ended == 2


def test_joints_that_are_not_sure_do_not_count():
    model = model_of_faces()
    poses = poses_at(Places.make([[0, 0, 20, 20.0]]), [1.0])
    poses.points[0, 2], poses.heights[0, 2] = (500, 500), 0.1
    box = box_of_pose(poses, model)[0]
    assert box[0] + box[2] < 50
    poses.heights[0, 1] = -1.0  # one joint left
    assert np.isnan(box_of_pose(poses, model)).any()


def test_turned_boxes():
    model = model_of_faces(upright=TALL)
    poses = poses_at(Places.make([[0, 0, 20, 20.0], [60, 0, 20, 20]]), [1, 1], angles=[30, -170])
    boxes = box_of_pose(poses, model)
    keypoints = np.concatenate([poses.points, np.full((2, 3, 1), 2)], 2)
    box, degrees = upright_boxes(keypoints, TALL)
    np.testing.assert_allclose(boxes, np.c_[box, degrees])
    np.testing.assert_allclose(np.abs(degrees), [30, 170])


def test_the_surest_angle_is_taken(monkeypatch):
    """A box of unknown angle is tried at eight."""
    model = model_of_faces(upright=TALL)
    poses = WindowPoses(PosePredictor(model, device="cpu"), None)
    tried = []

    def alone(image, places):
        tried.append(places.box.copy())
        off = (places.box[:, 4] - np.array([135, 315])[(places.box[:, 0] > 50).astype(int)]) % 360
        heights = 1 - np.minimum(off, 360 - off) / 360
        return poses_at(places, heights, angles=places.box[:, 4] + 10)

    monkeypatch.setattr(poses, "alone", alone)
    nan = np.nan
    given = Places.make(np.array([[0, 0, 20, 20, nan], [30, 30, 9, 9, 77], [80, 0, 20, 20, nan]]))
    settled = poses.settled(IMAGE, given)
    assert [len(t) for t in tried] == [16]
    assert sorted({*tried[0][:, 4]}) == [0, 45, 90, 135, 180, 225, 270, 315]
    np.testing.assert_allclose(settled.box[1], [30, 30, 9, 9, 77])
    np.testing.assert_allclose(settled.box[[0, 2], 4] % 360, [145, 325])


def test_turned_crops_give_turned_poses(tmp_path):
    """A turned image with boxes turned like it gives the same pose, turned."""
    model = model_of_faces(upright=TALL)
    poses = WindowPoses(PosePredictor(model, device="cpu"), None)
    image = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 3)
    turned = cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)
    place = {0: (np.array([[20.0, 24, 32, 30, 0]]), image)}
    place[90] = (np.array([[80 - 24 - 30 - 0.0 + (30 - 32) / 2, 20 + (32 - 30) / 2, 32, 30, 90]]),
                 turned)  # fmt: skip
    found = {}
    for angle, (box, of) in place.items():
        found[angle] = poses([Job((0,), {0: of}, 0, Places.make(box))])[0]
    x, y = found[0].points[0].T
    np.testing.assert_allclose(found[90].points[0], np.stack([80 - y, x], 1), atol=2.5)
    assert np.abs(found[90].points - found[0].points).max() > 10


def test_two_tracks_of_one_pose_become_one():
    model = model_of_faces()
    find = LastPose(FixedBoxes([(10, 10, 20, 20), (60, 10, 20, 20)], model), model, 0.1)
    places = find.at(0, IMAGE)
    both = Places(places.box[[0, 0]], places.score, places.track_id)
    assert find.learn(0, poses_at(both, [0.5, 0.7])).tolist() == [False, True]
    assert find.at(1, IMAGE).track_id.tolist() == [1]
    assert find.learn(1, poses_at(both[[1]], [0.5])).tolist() == [True]


def test_a_detector_is_asked_for_newcomers():
    """At the beginning, every so often, and after somebody was lost; ids are never given twice."""
    model, asked, seen = model_of_faces(), [], {}

    def detect(image):
        asked.append(number)
        boxes = seen[max(n for n in seen if n <= number)]
        return np.array(boxes, float).reshape(-1, 4), np.full(len(boxes), 0.9)

    find = LastPose(Detected(detect, model), model, lost_below=0.3, again=5)
    seen[0] = [(10, 10, 20, 20)]
    seen[3] = [(11, 11, 20, 20), (100, 10, 20, 20)]
    seen[9] = [(100, 10, 20, 20), (150, 50, 20, 20)]
    ids = {}
    for number in range(12):
        places = find.at(number, IMAGE)
        ids[number] = places.track_id.tolist()
        heights = np.where((places.track_id == 0) & (number == 8), 0.0, 0.5)
        find.learn(number, poses_at(places, heights))
    assert asked == [0, 5, 9]
    assert ids[0] == ids[4] == [0] and ids[5] == ids[8] == [0, 1] and ids[9] == ids[11] == [1, 2]


def test_boxes_of_a_file_go_first():
    """They begin tracks and put right those that wander off."""
    model = model_of_faces()
    file = FromFile({
        2: Places.make([[10.0, 10, 20, 20], [80, 10, 20, 20]], None, [7, -1]),
        4: Places.make([[12.0, 14, 20, 20]], None, [7]),
        5: Places.make([[84.0, 10, 20, 20]], None, [-1]),
    })  # fmt: skip
    find = LastPose(file, model, lost_below=0.0)
    assert len(find.at(0, IMAGE)) == 0
    places = find.at(2, IMAGE)
    assert places.track_id.tolist() == [7, 8]
    find.learn(2, poses_at(places, [0.5, 0.5]))
    places = find.at(4, IMAGE)
    assert places.box[0].tolist() == [12, 14, 20, 20, 0] and places.track_id.tolist() == [7, 8]
    places = find.at(5, IMAGE)
    assert places.box[1].tolist() == [84, 10, 20, 20, 0] and places.track_id.tolist() == [7, 8]


def test_overlaps():
    others = np.array([[0.0, 0, 10, 10], [5, 0, 10, 10], [20, 0, 5, 5]])
    np.testing.assert_allclose(overlaps(others[0], others), [1, 1 / 3, 0])


def test_whole_frame_is_looked_at_twice(tmp_path, three_peaks):
    """The first time to find out where to look: the box is around a pose, not the frame."""
    model = model_of_faces()
    find = LastPose(WholeFrame(model, rough=True), model, lost_below=-1.0)
    stream(Made(3), tmp_path / "x.json", find=find, model=model)
    got = load_coco(tmp_path / "x.json")
    # The crop of the frame is 80 x 80 pixels, of which the pose takes half; the box has a margin.
    np.testing.assert_allclose(got.people.bbox[0], [7, -1, 50, 50], atol=1)
    assert got.people.track_id.tolist() == [0, 0, 0]


def test_who_is_lost_is_left_out(tmp_path, three_peaks):
    """And looked for again in the next frame."""
    model = model_of_faces()
    for limit, people in ((0.9, 3), (1.1, 0)):
        find = LastPose(FixedBoxes([(10, 10, 30, 30)], model), model, lost_below=limit)
        summary = stream(Made(3), tmp_path / "x.json", find=find, model=model)
        assert (summary.people, summary.frames) == (people, 3) and find.ended == 3 - people


def test_boxes_of_the_right_video(tmp_path):
    """Labels of several videos, found by name; their joints tell the angles."""
    model = model_of_faces(upright=TALL)
    places = Places.make([[10.0, 5, 30, 30], [30, 8, 30, 30]], None, [4, 5])
    poses = poses_at(places, [1, 1], angles=[20, -120])
    keypoints = np.concatenate([poses.points, np.full((2, 3, 1), 2)], 2)
    videos = (Video("a/clip", 3, 0, "%d.png"), Video("b/other", 3, 0, "%d.png"))
    frames = Frames.make(videos, [0, 1, 1], [1, 0, 2], size_wh=(64, 48))
    people = People.make([0, 2], keypoints, places.box[:, :4], track_id=[4, 5])
    save_coco(PoseDataset(FACE, videos, frames, people), tmp_path / "labels.json")
    expected = np.c_[upright_boxes(keypoints, TALL)[0], [20, -120]]
    for name, number, row in (("clip", 1, 0), ("other", 2, 1)):
        (tmp_path / name).mkdir()
        for n in range(3):
            cv2.imwrite(str(tmp_path / name / f"{n}.png"), np.zeros((48, 64, 3), np.uint8))
        found = load_boxes(tmp_path / "labels.json", open_source(str(tmp_path / name)), model, 0.5)
        assert list(found.places) == [number] and found.tracks
        np.testing.assert_allclose(found.places[number].box, expected[[row]], atol=1e-6)
        assert found.places[number].track_id.tolist() == [4 + row]
        assert len(found.at(1 - number % 2 + 5, IMAGE)) == 0
    (tmp_path / "clip").rename(tmp_path / "third")
    with pytest.raises(ValueError, match=r"0 of the videos in .* are called 'third'"):
        load_boxes(tmp_path / "labels.json", open_source(str(tmp_path / "third")), model, 0.5)
    # without turned crops the boxes are those of the file, as training has them
    plain = load_boxes(
        tmp_path / "labels.json", open_source(str(tmp_path / "other")), model_of_faces(), 0.5
    )
    assert plain.places[2].box.tolist() == [[30, 8, 29, 29, 0]]


# Each frame's own box


@pytest.mark.parametrize("of", ["last pose", "file"])
def test_own_boxes_of_all_frames(tmp_path, of):
    """By hand: H of each frame in its own box, brought together in the key frame's crop."""
    model = model_of_faces(support_box="own")
    window = Window((-1, 0, 1), (0.3, 0.4, 0.3))
    given = {
        n: Places.make(np.array([[5.0 + 3 * n, 4, 30, 30], [20, 10 - n, 25, 30]]), None, [3, 8])
        for n in range(5)
    }
    given[2] = given[2][np.array([1])]  # the first is away
    find = FromFile(given)
    if of == "last pose":
        window = window.past()
        find = LastPose(find, model, lost_below=-1.0)
    out = tmp_path / "x.json"
    stream(Made(5), out, find=find, window=window, model=model)
    got = load_coco(out)
    predictor = PosePredictor(model, device="cpu")
    images = [frame.image for frame in Made(5).frames(0)]
    people = got.people
    boxes = {
        (int(f), int(t)): np.array([*b, 0.0])
        for f, t, b in zip(people.frame, people.track_id, people.bbox, strict=True)
    }
    assert len(boxes) >= 7
    for row, (number, track) in enumerate(boxes):
        key = boxes[number, track]
        maps = []
        for delta in window.deltas:
            there = min(max(number + delta, 0), 4)
            matrix = turned_crop_matrices(boxes.get((there, track), key), (64, 64), model.padding)
            pixels = torch.from_numpy(crop(images[there], matrix, (64, 64)).transpose(0, 3, 1, 2))
            maps.append(predictor.heatmaps(pixels.contiguous())[0])
        together = predictor.aggregate(torch.stack(maps)[None], window)
        center, scale = box_to_center_scale(key[None, :4], (64, 64), model.padding)
        points, heights = predictor.decode(together, center, scale)
        found = heights[0] > 0
        np.testing.assert_allclose(people.keypoints[row, found, :2], points[0, found], atol=0.05)
    key_only = model_of_faces()
    stream(Made(5), out, find=FromFile(given), window=window, model=key_only)
    other = load_coco(out).people.keypoints
    assert other.shape != people.keypoints.shape or np.abs(other - people.keypoints).max() > 1


# Tracks and smoothing


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


# The detector, and the command's choices


def test_person_detector(tmp_path, monkeypatch):
    """Only people, only sure ones, with corners as x, y, width, height."""

    class Network(torch.nn.Module):
        def forward(self, images):
            assert images[0].shape == (3, 100, 200) and images[0].max() <= 1
            boxes = torch.tensor([[10.0, 20, 40, 80], [1, 1, 5, 5], [50, 50, 60, 60]])
            labels, scores = torch.tensor([1, 18, 1]), torch.tensor([0.9, 0.99, 0.3])
            return [{"boxes": boxes, "labels": labels, "scores": scores}]

    import torchvision.models

    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: Network())
    torch.save({}, tmp_path / "w.pth")
    name = "ssdlite320_mobilenet_v3_large"
    detect = detector.person_detector(name, tmp_path / "w.pth", torch.device("cpu"), 0.5)
    boxes, scores = detect(IMAGE)
    assert boxes.tolist() == [[10, 20, 30, 60]]
    np.testing.assert_allclose(scores, [0.9])
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"detector_weights: .*w\.pth does not fit ssdlite320"):
        detector.person_detector(name, tmp_path / "w.pth", torch.device("cpu"), 0.5)
    (tmp_path / "w.pth").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"detector_weights: .*w\.pth"):
        detector.person_detector(name, tmp_path / "w.pth", torch.device("cpu"), 0.5)
    with pytest.raises(FileNotFoundError):
        detector.person_detector(name, tmp_path / "none.pth", torch.device("cpu"), 0.5)


def test_detector_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def refuse(*_, **__):
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(ValueError) as caught:
        detector.person_detector(
            "fasterrcnn_mobilenet_v3_large_320_fpn", None, torch.device("cpu"), 0.5
        )
    text = str(caught.value)
    assert "https://download.pytorch.org/models/fasterrcnn_mobilenet_v3_large_320_fpn" in text
    assert str(tmp_path / "checkpoints") in text and "detector_weights" in text
    assert "no route" in text


@pytest.fixture
def clip(tmp_path):
    (tmp_path / "clip").mkdir()
    for number in range(3):
        image = np.full((48, 64, 3), 60 * number, np.uint8)
        cv2.imwrite(str(tmp_path / "clip" / f"{number}.png"), image)
    return tmp_path / "clip"


def test_what_is_chosen(clip, tmp_path, monkeypatch, caplog):
    """People by the detector, other skeletons by the whole frame, a file whenever there is one."""
    save_model(model_of_faces(), tmp_path / "face.pt")
    save_model(random_model(skeleton=COCO), tmp_path / "coco.pt")
    save_model(model_of_faces(support_box="own"), tmp_path / "own.pt")
    boxes = np.array([[10.0, 5, 30, 35]])
    monkeypatch.setattr(choices, "person_detector", lambda *_: lambda image: (boxes, np.ones(1)))
    found = [{"image_name": "1.png", "bbox": [1, 1, 30, 30], "score": 1}]
    (tmp_path / "b.json").write_text(json.dumps(found))
    wanted = [
        ("face", {}, r"frames \[-2.*last pose, beginning with the whole frame"),
        ("coco", {}, "last pose, beginning with those of the detector"),
        ("coco", {"boxes": "detector"}, "boxes: those of the detector fasterrcnn_mob"),
        ("coco", {"start_box": (1, 2, 30, 30)}, "beginning with start_box"),
        ("coco", {"box_file": tmp_path / "b.json"}, r"boxes: those of .*b\.json"),
        ("coco", {"box_file": tmp_path / "b.json", "boxes": "last-pose"}, r"beginning .*b\.json"),
        ("own", {"boxes": "frame"}, "single frames"),
        ("own", {"boxes": "frame", "mode": "aggregate"}, r"frames \[-2, -1, 0\]"),
        ("face", {"causal": True}, r"frames \[-2, -1, 0\]"),
    ]
    for name, options, message in wanted:
        caplog.clear()
        with caplog.at_level(logging.INFO, "posewarper.streaming"):
            predict(
                str(clip), tmp_path / "x.json", tmp_path / f"{name}.pt", lost_below=-1.0,
                progress=False, **options,
            )  # fmt: skip
        assert re.search(message, caplog.text), caplog.text
        assert load_coco(tmp_path / "x.json").people.keypoints.shape[0] > 0
    for options, message in (
        ({"boxes": "detector"}, "file with track ids, or last-pose"),
        ({"boxes": "last-pose", "causal": False}, "causal windows of every frame"),
        ({"boxes": "last-pose", "every": 2}, "causal windows of every frame"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(
                str(clip), tmp_path / "y.json", tmp_path / "own.pt", mode="aggregate", **options
            )
    with pytest.raises(ValueError, match="smooth: needs track ids"):
        predict(str(clip), tmp_path / "y.json", tmp_path / "coco.pt", boxes="detector", smooth=True)


def test_command_line(clip, tmp_path, capsys):
    save_model(model_of_faces(upright=TALL), tmp_path / "face.pt")
    arguments = (
        f"{clip} {tmp_path}/out.csv --model {tmp_path}/face.pt --mode aggregate --causal true "
        f"--boxes last-pose --start_box [2,3,40,40] --lost_below -1 --smooth true --fps 12.5 "
        f"--overlay {tmp_path}/o.mp4 --start 1 --frames 2 --every 1 --missing skip --device cpu "
        "--keep_partial true --nms 0.9 --sigmas 0.05 --progress false --batch_size 4"
    )
    got = jsonargparse.auto_cli(
        {"predict": predict}, args=["predict", *arguments.split()], as_positional=True
    )
    assert got.frames == 2 and got.people == 2 and got.written
    assert capsys.readouterr().out == f"2 people in 2 frames -> {tmp_path}/out.csv\n"
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3
    assert (tmp_path / "o.mp4").stat().st_size > 0
