"""Boxes that are held, and heatmaps that serve every window that they are in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_models import random_model
from streamed_faces import Made, model_of_faces, stream

from posewarper.data.annotations import load_coco
from posewarper.data.dataset import annotated_boxes
from posewarper.data.synthetic import write_dataset
from posewarper.data.video import FrameSource
from posewarper.inference import PosePredictor, predict_boxes
from posewarper.inference.holding import KeptHeatmaps, hold_boxes
from posewarper.models import WINDOWS, HRNet, PoseModel, Window, save_model
from posewarper.streaming import predict
from posewarper.streaming.boxes import FixedBoxes, FromFile, HeldBoxes
from posewarper.streaming.poses import Job, Places, WindowPoses

# Threads that wait for each other would wait for ever: better a failure.
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(60)]

FRAMES = 9
WINDOW = WINDOWS["posetrack-2019"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A video of two people, their labels, and a model."""
    root = tmp_path_factory.mktemp("held")
    write_dataset(
        root / "data", videos={"val": 1}, frames=FRAMES, size_wh=(128, 96), people=2,
        image_format="png", progress=False, seed=4,
    )  # fmt: skip
    save_model(random_model(), root / "model.pt")
    return root


def labels_of(root):
    return root / "data" / "annotations" / "posetrack_val.json"


def tracked(root, still=False):
    """The boxes of the labels and their tracks; ``still``: each track in its first box."""
    dataset = load_coco(labels_of(root))
    boxes = annotated_boxes(dataset)
    tracks = dataset.people.track_id[boxes.row]
    if still:
        first = {t: boxes.bbox[np.flatnonzero(tracks == t)[0]] for t in set(tracks.tolist())}
        boxes = replace(boxes, bbox=np.array([first[t] for t in tracks.tolist()]))
    return dataset, boxes, tracks


def aggregated(root, boxes, tracks, dataset, **options):
    of_job = {name: options.pop(name) for name in ("hold", "workers") if name in options}
    found = predict_boxes(
        PosePredictor(random_model(), device="cpu", **options),
        boxes,
        FrameSource(root / "data", dataset=dataset),
        dataset,
        track_id=tracks,
        progress=False,
        **of_job,
    )
    return found.datasets["aggregate"].people


@pytest.fixture
def crops_seen(monkeypatch):
    """Crops of each pass of the backbone."""
    seen, forward = [], HRNet.forward
    monkeypatch.setattr(HRNet, "forward", lambda s, x: seen.append(len(x)) or forward(s, x))
    return seen


@pytest.fixture
def forgetful(monkeypatch):
    """Makes every call compute all heatmaps anew, from then on."""

    def of(self, keys, moments, crops):
        return self.predictor.heatmaps(crops(list(range(len(keys)))))

    return lambda: monkeypatch.setattr(KeptHeatmaps, "of", of)


def test_chunks():
    number = np.array([3, 0, 1, 2, 4, 9, 10, 1, 2])
    track = np.array([0, 0, 0, 0, 0, 0, 0, 7, -1])
    box = np.c_[number * 10.0, track, np.full((9, 2), 1000), np.zeros(9)]
    model = model_of_faces()
    held = hold_boxes(number, track, box, 3, model)
    # 0 1 2 | 3 4 | 9 10: the middle, of two the first
    assert held[:, 0].tolist() == [30, 10, 10, 10, 30, 90, 90, 10, 20]
    np.testing.assert_array_equal(held[:, 1:], box[:, 1:])
    np.testing.assert_array_equal(hold_boxes(number, track, box, 1, model), box)
    assert hold_boxes(number, track, box, 99, model)[:7, 0].tolist() == [40] * 7  # nearest to 5
    # crops are an eighth wider on each side
    small = np.c_[box[:, :2], np.full((9, 2), 160), box[:, 4]]
    assert hold_boxes(number, track, small, 99, model)[:7, 0].tolist() == [20] * 5 + [90] * 2
    with pytest.raises(ValueError, match="hold: expected 1 or more frames, got 0"):
        hold_boxes(number, track, box, 0, model)
    with pytest.raises(ValueError, match="track 0 is twice in frame 4"):
        hold_boxes(np.array([4, 4]), np.array([0, 0]), box[:2], 2, model)


def around(*numbers):
    """Frames of the windows of these."""
    return {min(max(n + d, 0), FRAMES - 1) for n in numbers for d in WINDOW.deltas}


class _Counted:
    """Heatmaps that tell which crop they are of."""

    def __init__(self):
        self.seen = []

    def heatmaps(self, crops):
        self.seen.append(crops[:, 0].tolist())
        return crops[:, :, None, None].float()


def test_kept_while_asked_for():
    predictor = _Counted()
    kept = KeptHeatmaps(predictor)

    def ask(keys, moments):
        rows = torch.tensor(keys)[:, None]
        return kept.of(keys, moments, lambda positions: rows[positions]).flatten().tolist()

    assert ask([1, 2, 1, 3], [0, 0, 0, 0]) == [1, 2, 1, 3]
    assert ask([2, 3, 4], [1, 1, 1]) == [2, 3, 4]
    assert ask([5, 1], [2, 2]) == [5, 1]
    assert ask([2], [3]) == [2]
    assert ask([3, 2], [4, 4]) == [3, 2]  # 3 was not asked for by the last two key frames
    assert predictor.seen == [[1, 2, 3], [4], [5], [3]]
    assert sorted(kept._maps) == sorted(kept._asked) == [2, 3]


def test_heatmaps_have_to_be_finite():
    predictor = _Counted()
    with pytest.raises(ValueError, match="not finite"):
        KeptHeatmaps(predictor).of([1], [0], lambda _: torch.full((1, 1), torch.nan))


# Data sets


@pytest.mark.parametrize("options", [{}, {"batch_size": 5}, {"workers": 1}], ids=str)
def test_each_frame_once_in_equal_boxes(root, crops_seen, forgetful, options):
    dataset, boxes, tracks = tracked(root, still=True)
    got = aggregated(root, boxes, tracks, dataset, **options)
    assert sum(crops_seen) == 2 * FRAMES
    crops_seen.clear()
    forgetful()
    want = aggregated(root, boxes, tracks, dataset, **options)
    assert sum(crops_seen) == sum(len(around(n)) for n in boxes.number.tolist()) > 60
    np.testing.assert_allclose(got.keypoints, want.keypoints, atol=1e-5)
    np.testing.assert_allclose(got.joint_scores, want.joint_scores, rtol=1e-5)


def test_held_boxes_are_used(root, crops_seen):
    """As if they had been given, and each chunk adds the rest of its windows only."""
    dataset, boxes, tracks = tracked(root)
    got = aggregated(root, boxes, tracks, dataset, hold=4)
    turned = np.c_[boxes.bbox, np.zeros(len(boxes))]
    held = hold_boxes(boxes.number, tracks, turned, 4, random_model())[:, :4]
    chunks = np.unique(held, axis=0)
    assert 5 <= len(chunks) < 12 and len(np.unique(boxes.bbox, axis=0)) > 12
    numbers = [boxes.number[(held == chunk).all(1)].tolist() for chunk in chunks]
    assert sum(crops_seen) == sum(len(around(*of_chunk)) for of_chunk in numbers) < 50
    want = aggregated(root, replace(boxes, bbox=held), tracks, dataset)
    np.testing.assert_array_equal(got.bbox, held)
    np.testing.assert_allclose(got.keypoints, want.keypoints, atol=1e-5)
    with pytest.raises(ValueError, match="hold: 4 frames need boxes with track ids"):
        aggregated(root, boxes, None, dataset, hold=4)
    with pytest.raises(ValueError, match="hold: expected 1 or more frames, got 0"):
        aggregated(root, boxes, tracks, dataset, hold=0)


# Streams


def test_stream_sees_each_frame_once(tmp_path, crops_seen, forgetful):
    """Whatever comes of holding, boxes that do not change are cropped once per frame."""
    model = model_of_faces()
    find = FixedBoxes([[0, 0, 40, 40], [20, 10, 30, 30]], model)
    options = {"window": WINDOW, "model": model, "find": find}
    stream(Made(12), tmp_path / "a.json", **options)
    assert sum(crops_seen) == 2 * 12
    stream(Made(12), tmp_path / "again.json", **options)
    crops_seen.clear()
    forgetful()
    stream(Made(12), tmp_path / "b.json", **options)
    assert sum(crops_seen) == 2 * (12 * 5 - 6)  # at the ends a window has a frame twice
    a, b = (load_coco(tmp_path / f"{name}.json").people for name in "ab")
    np.testing.assert_allclose(a.keypoints, b.keypoints, atol=1e-5)
    np.testing.assert_allclose(a.joint_scores, b.joint_scores, rtol=1e-5)


def test_boxes_of_their_own_are_shared_without_holding(crops_seen):
    """Every frame has one box, whichever window it is in."""
    model = random_model(support_box="own")
    poses = WindowPoses(PosePredictor(model, device="cpu"), Window.equal(-1, 0))
    random = np.random.default_rng(0)
    images = {n: random.integers(0, 256, (96, 128, 3), np.uint8) for n in range(6)}
    boxes = {n: np.array([[10.0 + n, 5, 40, 60, 0]]) for n in images}
    for n in range(1, 6):
        poses([Job((n - 1, n), images, n, Places.make(boxes[n]), {n - 1: boxes[n - 1]})])
    assert sum(crops_seen) == 6


def test_another_video_is_another(crops_seen):
    model = random_model()
    poses = WindowPoses(PosePredictor(model, device="cpu"), Window.equal(0))
    black, white = (np.full((96, 128, 3), v, np.uint8) for v in (0, 255))
    places = Places.make(np.array([[10.0, 5, 40, 60]]))

    def found(image):
        return poses([Job((0,), {0: image}, 0, places)])[0].heights

    first = found(black)
    np.testing.assert_array_equal(found(white), first)  # the number is all that is looked at
    poses.forget()
    assert np.abs(found(white) - first).max() > 1e-3


@pytest.mark.parametrize("hold", [1, 3])
def test_stream_equals_the_data_set(root, tmp_path, hold):
    dataset, boxes, tracks = tracked(root)
    out = tmp_path / "x.json"
    predict(
        str(root / "data" / "images" / "val" / "000001_synthetic"), out, root / "model.pt",
        box_file=labels_of(root), hold=hold, device="cpu", progress=False,
    )  # fmt: skip
    got = load_coco(out).people
    want = aggregated(root, boxes, tracks, dataset, hold=hold)
    np.testing.assert_array_equal(got.track_id, want.track_id)
    np.testing.assert_allclose(got.bbox, want.bbox, atol=1e-3)
    np.testing.assert_allclose(got.keypoints, want.keypoints, atol=1e-3)


def test_what_cannot_be_held(root, tmp_path):
    def run(**options):
        options = {"model": root / "model.pt", "device": "cpu", "progress": False, **options}
        video = root / "data" / "images" / "val" / "000001_synthetic"
        predict(str(video), tmp_path / "x.json", **options)

    for options, message in (
        ({"hold": 0}, "hold: expected 1 or more frames, got 0"),
        ({"mode": "single", "boxes": "frame"}, "hold: goes with mode aggregate"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**{"hold": 4, **options})
    nobody = FromFile({0: Places.make(np.ones((2, 4)))})
    with pytest.raises(ValueError, match="hold: 4 frames need a box_file with track ids"):
        nobody.held(4, model_of_faces())
    assert list(tmp_path.iterdir()) == []


def test_from_file():
    places = {
        n: Places.make(np.array([[n, 0, 10, 10], [50 - n, 0, 10, 20]]), track_id=np.array([4, 2]))
        for n in range(5)
    }
    held = FromFile(places).held(2, model_of_faces())
    assert [held.places[n].box[0, 0] for n in range(5)] == [0, 0, 2, 2, 4]
    assert [held.places[n].box[1, 0] for n in range(5)] == [50, 50, 48, 48, 46]
    assert held.places[1].track_id.tolist() == [4, 2] and held.places[1].box.shape == (2, 5)


def face_boxes(*boxes, track=(0,)):
    box = np.array(boxes, np.float64)
    return Places.make(box, track_id=np.array(track, np.int64))


def test_held_while_they_fit():
    """Crops are square, and 1.25 as wide as the box."""
    model: PoseModel = model_of_faces()
    held = HeldBoxes(4, model)

    def at(number, *box, angle=0.0):
        return held(number, face_boxes([*box, angle])).box[0].tolist()

    first = [100.0, 100.0, 40.0, 40.0, 0.0]
    assert at(0, *first[:4]) == first
    assert at(1, 104, 97, 40, 40) == first  # 5 pixels of margin on each side
    assert at(2, 100, 100, 33, 33) == first
    assert at(3, 96, 104, 40, 40) == first
    renewed = [103.0, 103.0, 40.0, 40.0, 0.0]
    assert at(4, *renewed[:4]) == renewed  # its time is over
    assert at(5, 103, 109, 40, 40) == [103, 109, 40, 40, 0]  # too far
    assert at(6, 105, 111, 30, 30) == [105, 111, 30, 30, 0]  # too small
    assert at(7, 101, 107, 39, 39) == [101, 107, 39, 39, 0]  # too large
    assert at(8, 103, 109, 33, 33, angle=10) == [101, 107, 39, 39, 0]
    assert at(9, 103, 109, 33, 33, angle=20) == [103, 109, 33, 33, 20]  # turned
    assert at(10, 103, 109, 33, 33, angle=-350) == [103, 109, 33, 33, 20]


def test_tracks_are_held_one_by_one():
    held = HeldBoxes(3, model_of_faces())
    a, b = [100, 100, 40, 40, 0], [200, 100, 40, 40, 0]
    moved_a, moved_b = [101, 100, 40, 40, 0], [201, 100, 40, 40, 0]
    held(0, face_boxes(a))
    both = held(1, face_boxes(moved_b, moved_a, track=(1, 0)))
    np.testing.assert_array_equal(both.box, [moved_b, a])
    held(2, face_boxes(b, track=(1,)))  # 0 is lost
    again = held(3, face_boxes(moved_a, b, track=(0, 1)))
    np.testing.assert_array_equal(again.box, [moved_a, moved_b])
    for box in (a, moved_a):  # nobody knows who it is
        np.testing.assert_array_equal(held(4, face_boxes(box, track=(-1,))).box, [box])
