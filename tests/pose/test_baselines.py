"""Labels carried by optical flow: on textures that move as we say, against a loop that follows one
joint at a time, and, with the other baselines, on real animals."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from posewarper.data.sparsify import every_kth
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.video import FrameSource
from posewarper.inference.propagation import propagate_labels
from posewarper.skeleton import Skeleton

FLIES = Path(__file__).parents[3] / "shared" / "data" / "flies"
TWO = Skeleton("two", ("nose", "hand"))
BASE = np.array([[70.0, 50], [95, 62]])
STEP = np.array([2.0, -1.25])  # pixels per frame
WH = (160, 112)

flow = partial(propagate_labels, method="flow", progress=False)


@pytest.fixture(autouse=True)
def one_thread():
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


def texture():
    """Smooth spots, larger than the image."""
    noise = np.random.default_rng(0).uniform(0, 255, (240, 320, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


def moved(number):
    """The texture at a frame: shifted by STEP for each frame since frame 10."""
    x, y = -50 + STEP * (number - 10)
    return cv2.warpAffine(texture(), np.array([[1, 0, x], [0, 1, y]]), WH)


def turned(number):
    """Turned by two degrees per frame and pulsating: motion that differs from place to place."""
    zoom = 1 + 0.05 * np.sin(number)
    matrix = cv2.getRotationMatrix2D((160, 120), 2 * number, zoom) - [[0, 0, 80], [0, 0, 64]]
    return cv2.warpAffine(texture(), matrix, WH)


def clip(folder, draw, count, first=0):
    """Frames in a folder "v" of ``folder``."""
    (folder / "v").mkdir()
    for number in range(first, first + count):
        cv2.imwrite(str(folder / "v" / f"{number:04d}.png"), draw(number)[:, :, ::-1])
    return Video("v", count, first, "%04d.png")


def labelled(video, *numbers, keypoints=None):
    """One person, in these frames, where the texture of ``moved`` has it."""
    shifts = STEP * (np.array(numbers)[:, None, None] - 10)
    keypoints = (
        BASE + shifts if keypoints is None else np.broadcast_to(keypoints, (len(numbers), 2, 2))
    )
    keypoints = np.concatenate([keypoints, np.full((*keypoints.shape[:2], 1), 2.0)], 2)
    boxes = np.tile([60.0, 40, 50, 35], (len(numbers), 1)) + np.pad(shifts[:, 0], ((0, 0), (0, 2)))
    frames = Frames.make((video,), np.zeros(len(numbers)), numbers, size_wh=WH)
    people = People.make(np.arange(len(numbers)), keypoints, boxes, track_id=[3] * len(numbers))
    return PoseDataset(TWO, (video,), frames, people)


def by_number(dataset):
    """{frame: [J, 3]}"""
    numbers = dataset.frames.number[dataset.people.frame].tolist()
    return dict(zip(numbers, dataset.people.keypoints, strict=True))


@pytest.mark.parametrize(("preset", "limit"), [("fast", 1.5), ("medium", 0.5)])
def test_flow_follows_a_texture_that_moves(tmp_path, preset, limit):
    video = clip(tmp_path, moved, 20, first=1)
    dataset = labelled(video, 10)
    result = flow(dataset, FrameSource(tmp_path), preset=preset)
    found = by_number(result)
    assert set(found) == set(range(1, 21))
    error = {n: np.abs(k[:, :2] - BASE - STEP * (n - 10)).max() for n, k in found.items()}
    assert max(error.values()) < limit  # after ten steps; a copy is off by 20
    assert np.linalg.norm(STEP) * 10 > 20
    scores = result.people.joint_scores[np.flatnonzero(result.frames.number != 10)]
    expected = [1 / (1 + abs(n - 10)) for n in range(1, 21) if n != 10]
    np.testing.assert_allclose(scores[:, 0], expected)
    boxes = result.people.bbox  # moved with the joints
    np.testing.assert_allclose(boxes[14, :2], np.array([60, 40]) + 5 * STEP, atol=1)


def follow(root, video, numbers, start, joints, missing=()):
    """Joints at every frame from ``start`` to ``numbers[-1]``, one joint and step at a time."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    steps = [n for n in numbers if n not in missing]
    images = {n: cv2.imread(str(root / video.file_name(n)))[:, :, ::-1] for n in steps}
    greys = {
        n: cv2.cvtColor(np.ascontiguousarray(i), cv2.COLOR_RGB2GRAY) for n, i in images.items()
    }
    places = {start: joints}
    for before, after in pairwise(steps):
        field = dis.calc(greys[before], greys[after], None)
        height, width = field.shape[:2]
        next_places = []
        for x, y in places[before]:
            cx, cy = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
            left, top = min(int(cx), width - 2), min(int(cy), height - 2)
            a, b = cx - left, cy - top
            move = (1 - b) * ((1 - a) * field[top, left] + a * field[top, left + 1])
            move = move + b * ((1 - a) * field[top + 1, left] + a * field[top + 1, left + 1])
            next_places.append([x + move[0], y + move[1]])
        places[after] = np.array(next_places)
    return places


def check(found, places):
    for number, joints in places.items():
        inside = ((joints > -0.5) & (joints < np.array(WH) - 0.5)).all(1)
        np.testing.assert_array_equal(found[number][:, 2] > 0, inside)
        np.testing.assert_allclose(found[number][inside, :2], joints[inside], atol=1e-3)


def test_one_label_against_the_loop(tmp_path):
    """More frames than are read at once when time runs backwards."""
    video = clip(tmp_path, turned, 60)
    dataset = labelled(video, 45, keypoints=BASE)
    source = FrameSource(tmp_path)
    found = by_number(flow(dataset, source))
    check(found, follow(tmp_path, video, list(range(45, -1, -1)), 45, BASE))
    check(found, follow(tmp_path, video, list(range(45, 60)), 45, BASE))
    assert np.abs(found[0] - found[45]).max() > 5


def test_both_labels_against_the_loop(tmp_path):
    video = clip(tmp_path, turned, 12)
    other = BASE + np.array([6, 3])
    dataset = labelled(video, 2, 9, keypoints=np.stack([BASE, other]))
    dataset.people.keypoints[1, 1, 2] = 0  # the hand is labelled in frame 2 only
    found = by_number(flow(dataset, FrameSource(tmp_path), sources="both"))
    forward = follow(tmp_path, video, list(range(2, 12)), 2, BASE)
    backward = follow(tmp_path, video, list(range(9, -1, -1)), 9, other)
    later = follow(tmp_path, video, list(range(9, 12)), 9, other)
    for n in range(3, 9):
        nose = ((9 - n) * forward[n][0] + (n - 2) * backward[n][0]) / 7
        np.testing.assert_allclose(found[n][:, :2], [nose, forward[n][1]], atol=1e-3)
    for n in (10, 11):  # beyond the last label: that label alone
        np.testing.assert_allclose(found[n][0, :2], later[n][0], atol=1e-3)
        assert found[n][1].tolist() == [0, 0, 0]


def test_missing_frames_are_stepped_over(tmp_path):
    video = clip(tmp_path, turned, 12)
    for number in (3, 7):
        (tmp_path / video.file_name(number)).unlink()
    dataset = labelled(video, 5, keypoints=BASE)
    with pytest.warns(UserWarning, match="policy: skip"):
        found = by_number(flow(dataset, FrameSource(tmp_path, "skip")))
    assert set(found) == set(range(12)) - {3, 7}
    check(found, follow(tmp_path, video, list(range(5, 12)), 5, BASE, missing={7}))
    check(found, follow(tmp_path, video, list(range(5, -1, -1)), 5, BASE, missing={3}))


def test_a_label_whose_frame_is_missing(tmp_path):
    video = clip(tmp_path, turned, 9)
    (tmp_path / video.file_name(4)).unlink()
    dataset = labelled(video, 4, 7, keypoints=BASE)
    with pytest.warns(UserWarning, match="policy: skip"):
        one = flow(dataset, FrameSource(tmp_path, "skip"))
        both = flow(dataset, FrameSource(tmp_path, "skip"), sources="both")
    assert set(by_number(one)) == {4, 6, 7, 8}
    assert set(by_number(both)) == {4, 5, 6, 7, 8}


def test_frames_of_different_sizes(tmp_path):
    video = clip(tmp_path, moved, 9)
    cv2.imwrite(str(tmp_path / video.file_name(6)), np.zeros((50, 60, 3), np.uint8))
    found = by_number(flow(labelled(video, 4), FrameSource(tmp_path)))
    assert set(found) == {0, 1, 2, 3, 4, 5}  # nothing leads to another size, or back from it


def test_only_frames_that_are_needed_are_read(tmp_path):
    video = clip(tmp_path, moved, 9, first=6)
    for number in (6, 13, 14):
        (tmp_path / video.file_name(number)).unlink()
    found = by_number(flow(labelled(video, 10), FrameSource(tmp_path), distance=2))
    assert set(found) == {8, 9, 10, 11, 12}


def test_joints_that_leave_the_image(tmp_path):
    video = clip(tmp_path, moved, 20, first=10)
    start = np.array([[139.0, 60], [80, 8]])  # outside after 10 and 7 steps
    result = flow(labelled(video, 10, keypoints=start), FrameSource(tmp_path))
    found = by_number(result)
    seen = {n: (k[:, 2] > 0).tolist() for n, k in found.items()}
    assert all(seen[n] == [True, True] for n in range(10, 15))
    assert seen[18] == [True, False] and found[18][1].tolist() == [0, 0, 0]
    assert set(found) <= set(range(10, 24))  # then nothing is left of the person
    assert len(result.frames) == 20 and not result.frames.labelled[-6:].any()


def test_video_file(tmp_path):
    """As from single images, up to what compression does."""
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, WH)
    for number in range(40):
        writer.write(moved(number % 20)[:, :, ::-1])  # jumps back once
    writer.release()
    video = Video("clip", 40, 0, "", "clip.mp4")
    found = by_number(flow(labelled(video, 10), FrameSource(tmp_path), distance=9))
    error = [np.abs(k[:, :2] - BASE - STEP * (n - 10)).max() for n, k in found.items()]
    assert len(error) == 19 and max(error) < 0.7


@pytest.fixture(scope="module")
def flies():
    """The first 15 frames: two flies, 13 joints; poses that a good network found."""
    if not FLIES.is_dir():
        pytest.skip("real data (../shared/data/flies) is not here")
    frames = json.loads((FLIES / "flies.json").read_bytes())["frames"][:15]
    rows, tracks, keypoints = [], [], []
    for row, frame in enumerate(frames):
        for person in frame["people"]:
            joints = np.array(person["kpts"], float)
            good = np.isfinite(joints).all(1) & (np.nan_to_num(joints[:, 2]) > 0.3)
            keypoints.append(
                np.concatenate([joints[:, :2], 2.0 * good[:, None]], 1) * good[:, None]
            )
            keypoints[-1] = np.nan_to_num(keypoints[-1])
            rows.append(row)
            tracks.append(person["track"])
    points = np.array(keypoints)
    seen = points[:, :, 2:] > 0
    low = np.where(seen, points[:, :, :2], np.inf).min(1)
    high = np.where(seen, points[:, :, :2], -np.inf).max(1)
    video = Video("flies", 15, 0, "", "flies.mp4")
    skeleton = Skeleton("fly", tuple(f"j{i}" for i in range(13)))
    table = Frames.make((video,), np.zeros(15), np.arange(15), size_wh=(1024, 1024))
    boxes = np.concatenate([low, high - low], 1)
    return PoseDataset(skeleton, (video,), table, People.make(rows, points, boxes, track_id=tracks))


def errors(result, truth):
    """Distances of the predicted joints to the truth, divided by the animals' median extent."""
    rows = {
        key: row
        for row, key in enumerate(
            zip(truth.people.frame.tolist(), truth.people.track_id.tolist(), strict=True)
        )
    }
    predicted = result.people[result.people.predicted]
    numbers = result.frames.number[predicted.frame].tolist()
    keys = zip(numbers, predicted.track_id.tolist(), strict=True)
    true = truth.people.keypoints[[rows[key] for key in keys]]
    both = (true[..., 2] > 0) & (predicted.keypoints[..., 2] > 0)
    extent = np.median(truth.people.bbox[:, 2:].max(1))
    distance = np.linalg.norm(true[..., :2] - predicted.keypoints[..., :2], axis=2)[both]
    return distance / extent, both.sum() / (true[..., 2] > 0).sum()


def test_baselines_on_flies(flies):
    """Flow beats interpolation, and that beats copies, on animals that walk."""
    sparse = every_kth(flies, 7)
    share = {}
    for method in ("copy", "linear", "flow"):
        source, options = (
            (FrameSource(FLIES), {"preset": "ultrafast"}) if method == "flow" else (None, {})
        )
        result = propagate_labels(sparse, source, method, progress=False, **options)
        error, found = errors(result, flies)
        assert found > 0.9 and len(result.frames) == 15 and len(result.people) == 30
        share[method] = (error < 0.05).mean()
    assert share["flow"] > share["linear"] + 0.02 > share["copy"] + 0.04
