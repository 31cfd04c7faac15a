"""Streams: last poses, boxes of files, detectors, tracks, and what options choose."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from streamed_faces import (
    FACE,
    IMAGE,
    TALL,
    Made,
    model_of_faces,
    poses_at,
    see_three_peaks,
    stream,
)

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.crops import box_to_center_scale, crop, turned_crop_matrices
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.upright import upright_boxes
from posewarper.inference import PosePredictor
from posewarper.models import Window
from posewarper.streaming import open_source
from posewarper.streaming.box_files import load_boxes
from posewarper.streaming.boxes import (
    Detected,
    FixedBoxes,
    FromFile,
    LastPose,
    Somewhere,
    overlaps,
)
from posewarper.streaming.poses import Job, Places, WindowPoses, box_of_pose

# Threads that wait for each other would wait for ever: better a failure.
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(60)]


@pytest.fixture
def three_peaks(monkeypatch):
    see_three_peaks(monkeypatch)


# Last poses


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
    """A box of unknown angle is tried at eight; poses are looked at again in boxes around them."""
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
    assert [len(t) for t in tried] == [8, 1] * 2
    assert sorted({*tried[0][:, 4]}) == [0, 45, 90, 135, 180, 225, 270, 315]
    np.testing.assert_allclose(settled.box[1], [30, 30, 9, 9, 77])
    np.testing.assert_allclose(settled.box[[0, 2], 4] % 360, [145, 325])


@pytest.mark.parametrize("upright", [None, TALL])
def test_a_search_of_the_frame(monkeypatch, upright):
    """Boxes all over it; a first look may be wrong, the closer one decides."""
    model = model_of_faces(upright=upright)
    poses = WindowPoses(PosePredictor(model, device="cpu"), None)
    looks = []

    def alone(image, places):
        looks.append(places.box.copy())
        found = poses_at(places, np.full(len(places), 0.3))
        centre = places.box[:, :2] + places.box[:, 2:4] / 2
        right = np.abs(centre - (150, 37.5)).max(1) < 2
        wrong = np.abs(centre - (50, 50)).max(1) < 2
        first = len(looks) == 1
        found.heights[right], found.heights[wrong] = 0.8, 0.9 if first else 0.4
        return found

    monkeypatch.setattr(poses, "alone", alone)
    (box,) = poses.settled(IMAGE, Somewhere().at(0, IMAGE)).box
    angles = 1 if upright is None else 8
    assert len(looks[0]) == (1 + 9 + 49) * angles and len(looks[1]) == 8
    corners = looks[0][::angles, :4]
    assert corners[0].tolist() == [0, 0, 200, 100]
    assert corners[1:10, 2:].tolist() == [[100, 50]] * 9
    assert corners[10:, 2:].tolist() == [[50, 25]] * 49
    assert (corners[:, :2] >= 0).all() and (corners[:, :2] + corners[:, 2:] <= (200, 100)).all()
    np.testing.assert_allclose(box[:2] + box[2:4] / 2, (150, 37.5), atol=2)


def test_the_search_is_not_made_in_every_frame():
    """At once after a track ended, then only every so often; the id stays."""
    model, asked = model_of_faces(), []

    class Noted(Somewhere):
        def at(self, number, image):
            asked.append(number)
            return Places.make([[10.0, 10, 20, 20]], None, [0])

    find = LastPose(Noted(), model, lost_below=0.3, again=4)
    seen = {0, 1, 7}
    for number in range(16):
        places = find.at(number, IMAGE)
        find.learn(number, poses_at(places, [0.5 if number in seen else 0.1] * len(places)))
        assert set(places.track_id.tolist()) <= {0}
    assert asked == [0, 4, 8, 12]


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


def test_a_frame_is_looked_at_twice(tmp_path, three_peaks):
    """The first time to find out where to look: the box is around a pose, not the frame."""
    model = model_of_faces()
    find = LastPose(Somewhere(), model, lost_below=-1.0)
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
