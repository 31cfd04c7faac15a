"""Samples and windows: pairs, clipping, augmentation shared by both frames, seeds, detections."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from posewarper.data.annotations import load_coco
from posewarper.data.crops import Augmentation, normalise
from posewarper.data.dataset import (
    PoseSamples,
    Windows,
    annotated_boxes,
    load_detections,
    usable_people,
)
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.video import FrameError, FrameSource
from posewarper.heatmaps import encode
from posewarper.skeleton import POSETRACK

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "posetrack18_sample"
SMALL = {"crop_wh": (36, 48)}


@pytest.fixture
def videos(tmp_path):
    """Two videos of five frames, numbered from 0 and 1, grey values 10, 30, ... and 100, 120, ...;
    two people in the first and the last frame of each."""
    names = ("a", "b")
    for name, first, base in (("a", 0, 10), ("b", 1, 100)):
        (tmp_path / name).mkdir()
        for number in range(first, first + 5):
            grey = np.full((60, 80, 3), base + 20 * (number - first), np.uint8)
            cv2.imwrite(str(tmp_path / name / f"{number:06d}.png"), grey)
    table = tuple(Video(name, 5, first, "%06d.png") for first, name in enumerate(names))
    frames = Frames.make(table, [0, 0, 1, 1], [0, 4, 1, 5], size_wh=(80, 60))
    keypoints = np.zeros((8, 17, 3))
    keypoints[..., 0] = np.linspace(20, 55, 17)
    keypoints[..., 1] = np.linspace(12, 45, 17)
    keypoints[..., 2] = 2
    keypoints[:, 3:5] = 0
    boxes = np.tile([18.0, 10, 40, 38], (8, 1))
    people = People.make(np.repeat(range(4), 2), keypoints, boxes)
    return PoseDataset(POSETRACK, table, frames, people), tmp_path


def grey(crop):
    """Value in the middle of a crop [3, H, W]."""
    return int(crop[0, crop.shape[1] // 2, crop.shape[2] // 2])


def test_single_frame_sample(videos):
    dataset, root = videos
    samples = PoseSamples(dataset, FrameSource(root), crop_wh=(288, 384))
    assert len(samples) == 8
    sample = samples[0]
    assert sample["crops"].shape == (1, 3, 384, 288) and sample["crops"].dtype == torch.uint8
    # the box loses a pixel: 39 x 37 -> 52 high, times 1.25: 48.75 x 65; centre (37.5, 28.5)
    np.testing.assert_allclose(sample["center"], [37.5, 28.5])
    np.testing.assert_allclose(sample["scale"], [48.75 / 200, 65 / 200])
    zoom = 288 / 48.75
    joints = dataset.people.keypoints[0, :, :2]
    expected = (joints - [37.5, 28.5]) * zoom + [144, 192]
    expected[3:5] = 0
    np.testing.assert_allclose(sample["joints"], expected, rtol=1e-5)
    target, weight = encode(expected, sample["visible"].numpy(), (96, 72))
    np.testing.assert_array_equal(sample["target"], target)
    np.testing.assert_array_equal(sample["weight"], weight)
    assert sample["visible"].tolist() == [1] * 3 + [0] * 2 + [1] * 12  # 2 counts as 1
    assert sample["delta"] == 0 and sample["person"] == 0
    row, column = np.unravel_index(int(sample["target"][0].argmax()), (96, 72))
    assert (column, row) == (int(expected[0, 0] / 4 + 0.5), int(expected[0, 1] / 4 + 0.5))


def test_support_frames_are_clipped_to_the_video(videos):
    dataset, root = videos
    for delta, expected in ((-3, 0), (3, 3), (7, 4)):
        samples = PoseSamples(dataset, FrameSource(root), stage="warp", delta=delta, **SMALL)
        sample = samples[0]  # frame 0 of 0..4
        assert sample["delta"] == expected
        assert [grey(c) for c in sample["crops"]] == [10, 10 + 20 * expected]
    samples = PoseSamples(dataset, FrameSource(root), stage="warp", delta=2, **SMALL)
    assert [grey(c) for c in samples[6]["crops"]] == [180, 180]  # frame 5 of 1..5
    samples = PoseSamples(dataset, FrameSource(root), stage="warp", delta=-2, **SMALL)
    assert [grey(c) for c in samples[6]["crops"]] == [180, 140]


def test_delta_is_uniform_and_includes_zero(videos):
    dataset, root = videos
    frames = Frames.make(dataset.videos, [0], [2], size_wh=(80, 60))  # the middle: nothing clipped
    people = dataset.people[np.array([0])]
    middle = PoseDataset(POSETRACK, dataset.videos, frames, people)
    samples = PoseSamples(middle, FrameSource(root), stage="warp", **SMALL)
    drawn = [samples.sample(0, epoch)["delta"] for epoch in range(600)]
    counts = np.bincount(np.array(drawn) + 2, minlength=5)
    assert len(counts) == 5 and (np.abs(counts - 120) < 40).all()


def test_both_frames_share_box_and_augmentation(videos):
    dataset, root = videos
    rng = np.random.default_rng(0)
    pattern = rng.integers(0, 255, (60, 80, 3)).astype(np.uint8)
    for path in sorted((root / "a").iterdir()):
        cv2.imwrite(str(path), pattern)
    samples = PoseSamples(
        dataset, FrameSource(root), stage="warp", delta=1, augmentation=Augmentation(), **SMALL
    )
    seen = set()
    for epoch in range(12):
        sample = samples.sample(0, epoch)
        assert sample["delta"] == 1 and torch.equal(*sample["crops"])
        seen.add((round(sample["rotation"], 3), sample["mirrored"]))
    assert len(seen) > 4 and {m for _, m in seen} == {True, False}


def test_damage_meets_the_key_frame_of_a_pair_alone(videos):
    dataset, root = videos
    for path in sorted((root / "a").iterdir()):
        noise = np.random.default_rng(int(path.stem)).integers(0, 255, (60, 80, 3), np.uint8)
        cv2.imwrite(str(path), noise)

    def draw(stage, probability, epoch):
        augmentation = Augmentation(key_damage_probability=probability)
        options = {"stage": stage, "augmentation": augmentation, **SMALL}
        return PoseSamples(dataset, FrameSource(root), **options).sample(0, epoch)

    for epoch in range(12):
        plain, damaged = draw("warp", 0.0, epoch), draw("warp", 1.0, epoch)
        assert not torch.equal(plain["crops"][0], damaged["crops"][0])
        assert torch.equal(
            plain["crops"][1], damaged["crops"][1]
        )  # also where it is frame 0 itself
        for name in ("target", "joints", "rotation", "delta"):  # all other draws are the same
            assert np.array_equal(plain[name], damaged[name])
        plain, damaged = draw("pose", 0.0, epoch), draw("pose", 1.0, epoch)
        assert torch.equal(plain["crops"], damaged["crops"])


def test_joints_follow_the_augmented_image(videos):
    """A white dot at a joint is found at the joint's place in every crop."""
    dataset, root = videos
    image = np.zeros((60, 80, 3), np.uint8)
    left_wrist = dataset.people.keypoints[0, 9, :2]
    x, y = np.round(left_wrist).astype(int)
    dataset.people.keypoints[:, 9, :2] = x, y
    image[y - 1 : y + 2, x - 1 : x + 2] = 255
    for path in sorted((root / "a").iterdir()):
        cv2.imwrite(str(path), image)
    samples = PoseSamples(
        dataset, FrameSource(root), augmentation=Augmentation(half_body_probability=1)
    )
    found = 0
    for epoch in range(10):
        sample = samples.sample(0, epoch)
        bright = np.argwhere(sample["crops"][0, 0].numpy() > 200)
        joint = 10 if sample["mirrored"] else 9  # left and right change places
        place = sample["joints"][joint].numpy()
        inside = (place > 10).all() and (place < np.array([278, 374])).all()
        if inside:
            np.testing.assert_allclose(bright.mean(0)[::-1], place, atol=1.0)
            found += 1
    assert found >= 4


def test_pseudo_labels_count_by_their_scores(videos):
    dataset, root = videos
    scores = np.full((8, 17), np.nan)
    scores[1] = np.linspace(0.2, 1.1, 17)
    people = replace(dataset.people, joint_scores=scores)
    scored, source = replace(dataset, people=people), FrameSource(root)
    plain = PoseSamples(dataset, source, **SMALL)
    for power, flip in ((0.0, 0), (2.0, 0), (2.0, 1)):
        turned = Augmentation(0, 0, 0, flip, 0)
        samples = PoseSamples(scored, source, **SMALL, score_power=power, augmentation=turned)
        assert torch.equal(samples[0]["weight"], plain[0]["weight"])  # labelled by hand
        order = list(POSETRACK.mirrored) if flip else slice(None)
        expected = plain[1]["weight"].numpy() * scores[1].clip(0, 1) ** power
        np.testing.assert_allclose(samples[1]["weight"], expected[order], rtol=1e-6)


def test_normalised_crops(videos):
    dataset, root = videos
    raw = PoseSamples(dataset, FrameSource(root), **SMALL)[2]["crops"]
    ready = PoseSamples(dataset, FrameSource(root), normalised=True, **SMALL)[2]["crops"]
    torch.testing.assert_close(ready, normalise(raw))


def test_who_is_a_sample(videos):
    dataset, root = videos
    people = dataset.people
    people.area[0] = 0
    people.crowd[1] = True
    people.keypoints[2, :, 2] = 0
    people.bbox[3] = 90, 10, 20, 20  # outside
    people.bbox[4] = -10, -10, 30, 30
    rows, boxes = usable_people(dataset)
    assert rows.tolist() == [4, 5, 6, 7] and boxes[0].tolist() == [0, 0, 29, 29]
    assert annotated_boxes(dataset).row.tolist() == [4, 5, 6, 7]
    with pytest.raises(ValueError, match="no sample: none of 3 people"):
        PoseSamples(dataset.select(people=np.arange(3)), FrameSource(root))
    for bad in ({"stage": "both"}, {"seed": -1}, {"delta_range": -1}):
        with pytest.raises(ValueError, match="expected"):
            PoseSamples(dataset, FrameSource(root), **bad)


class Epochs(Dataset):
    """Samples by (epoch, index)."""

    def __init__(self, samples):
        self.samples = samples

    def __getitem__(self, pick):
        epoch, index = pick
        return self.samples.sample(index, epoch)


def test_workers_never_repeat_and_change_nothing(videos):
    dataset, root = videos
    samples = PoseSamples(
        dataset,
        FrameSource(root),
        stage="warp",
        augmentation=Augmentation(half_body_probability=0),  # then all scales come from one box
        seed=5,
        **SMALL,
    )

    def two_epochs(workers):
        picks = [(epoch, index) for epoch in range(2) for index in range(8)]
        loader = DataLoader(Epochs(samples), batch_size=2, sampler=picks, num_workers=workers)
        batches = list(loader)
        return {
            key: torch.cat([batch[key] for batch in batches]) for key in ("scale", "delta", "crops")
        }

    alone, pair = two_epochs(0), two_epochs(2)
    assert all(torch.equal(alone[key], pair[key]) for key in alone)
    drawn = pair["scale"][:, 0]  # same boxes: only the draw differs
    inner = drawn[(drawn != drawn.min()) & (drawn != drawn.max())]  # clipped draws may be equal
    assert len(set(inner.tolist())) == len(inner) >= 8
    other = PoseSamples(dataset, FrameSource(root), augmentation=Augmentation(), seed=6, **SMALL)
    assert other[0]["scale"][0] != samples[0]["scale"][0]


@pytest.mark.filterwarnings("ignore:.*policy")
def test_missing_frames_by_policy(videos):
    dataset, root = videos
    (root / "a" / "000001.png").unlink()
    options = {"stage": "warp", "delta": 1, **SMALL}
    with pytest.raises(FrameError, match="000001"):
        PoseSamples(dataset, FrameSource(root), **options)[0]
    key = PoseSamples(dataset, FrameSource(root, "key"), **options)[0]
    assert [grey(c) for c in key["crops"]] == [10, 10]
    skipping = PoseSamples(dataset, FrameSource(root, "skip"), **options)
    assert skipping[0] is None and skipping[2]["person"] == 2


@pytest.mark.filterwarnings("ignore:.*policy")
@pytest.mark.parametrize("stage", ["pose", "warp"])
def test_targets_never_go_with_another_frames_pixels(videos, stage):
    dataset, root = videos
    (root / "a" / "000000.png").unlink()
    options = {"stage": stage, "delta": 1, **SMALL}
    source = FrameSource(root, "nearest")
    nearest = PoseSamples(dataset, source, **options)
    assert nearest[0] is None and list(source.problems) == [("a", 0)]
    assert grey(nearest[2]["crops"][0]) == 90  # frame 4
    with pytest.raises(FrameError, match="000000"):
        PoseSamples(dataset, FrameSource(root, "key"), **options)[0]
    # As a support frame it is replaced, by frame 1.
    back = PoseSamples(dataset, source, **{**options, "delta": -4})[2]
    assert [grey(c) for c in back["crops"]] == ([90] if stage == "pose" else [90, 30])


def test_frames_shared_by_people_are_decoded_once(videos):
    dataset, root = videos
    source = FrameSource(root)
    samples = PoseSamples(dataset, source, stage="warp", delta=1, **SMALL)
    for index in (0, 1):
        samples[index]
    assert source.decoded == 2


def test_windows(videos):
    dataset, root = videos
    source = FrameSource(root, cached_frames=1)
    windows = list(Windows(annotated_boxes(dataset), source, **SMALL))
    assert [(w.video, w.number) for w in windows] == [(0, 0), (0, 4), (1, 1), (1, 5)]
    assert windows[0].numbers == (0, 0, 0, 1, 2) and windows[3].numbers == (5, 4, 3, 5, 5)
    assert windows[3].crops.shape == (2, 5, 3, 48, 36) and windows[3].boxes.tolist() == [6, 7]
    assert [grey(c) for c in windows[3].crops[1]] == [180, 160, 140, 180, 180]
    np.testing.assert_allclose(windows[0].center, [[37.5, 28.5]] * 2)
    sample = PoseSamples(dataset, FrameSource(root), **SMALL)[6]
    assert torch.equal(windows[3].crops[0, 0], sample["crops"][0])


def detection(name, score=0.9, **more):
    return {"image_name": name, "bbox": [18, 10, 40, 38], "score": score, "category_id": 1, **more}


def test_windows_over_detections(videos):
    dataset, root = videos
    entries = [detection(f"a/{n:06d}.png", nframes=5, frame_id=n) for n in (3, 0, 1, 2, 4, 1)]
    entries += [detection("a/000000.png", 0.1), detection("a/000000.png", category_id=2)]
    (root / "d.json").write_text(json.dumps(entries))
    boxes = load_detections(root / "d.json", dataset)
    assert boxes.number.tolist() == [3, 0, 1, 2, 4, 1] and boxes.row.tolist() == [0, 1, 2, 3, 4, 5]
    assert boxes.bbox[0].tolist() == [18, 10, 40, 38]  # not clipped
    source = FrameSource(root, cached_frames=1)
    windows = list(Windows(boxes, source, (0, -2, 2), **SMALL))
    assert [w.number for w in windows] == [0, 1, 2, 3, 4]
    assert source.decoded == 5  # each frame once
    assert [w.boxes.tolist() for w in windows] == [[1], [2, 5], [3], [0], [4]]
    assert [grey(c) for c in windows[3].crops[0]] == [70, 30, 90]
    loader = DataLoader(Windows(boxes, FrameSource(root), **SMALL), batch_size=None, num_workers=2)
    assert sorted(w.number for w in loader) == [0, 1, 2, 3, 4]


@pytest.mark.filterwarnings("ignore:.*policy")
def test_windows_with_missing_frames(videos):
    dataset, root = videos
    (root / "a" / "000002.png").unlink()
    (root / "d.json").write_text(json.dumps([detection(f"a/{n:06d}.png") for n in (1, 3)]))
    boxes = load_detections(root / "d.json", dataset)
    for policy, expected in (("key", [[30, 30], [70, 90]]), ("nearest", [[30, 30], [70, 90]])):
        got = list(Windows(boxes, FrameSource(root, policy), (0, 1), **SMALL))
        assert [[grey(c) for c in w.crops[0]] for w in got] == expected
    got = list(Windows(boxes, FrameSource(root, "key"), (0, 1, -1), **SMALL))
    # frame 2 is replaced by the key frame of each window, not by that of an earlier one
    assert [grey(c) for c in got[1].crops[0]] == [70, 90, 70]
    assert [w.number for w in Windows(boxes, FrameSource(root, "skip"), (0, 1), **SMALL)] == [3]
    (root / "a" / "000003.png").unlink()
    got = list(Windows(boxes, FrameSource(root, "nearest"), (0, 1, 2), **SMALL))
    assert [w.number for w in got] == [1]  # without a key frame there is no window
    assert [grey(c) for c in got[0].crops[0]] == [30, 30, 90]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "expected a list"),
        ([detection("a/000000.png"), detection("c/000000.png")], "detection 1: 'c/000000.png'"),
        ([detection("a/000007.png")], "detection 0: frame 7 of 'a', whose frames are 0 to 4"),
        ([{"bbox": [1, 2, 3, 4]}], "detection 0 lacks 'score'"),
        ([{"bbox": [1, 2, 3, 4], "score": 1, "image_id": 99}], "detection 0: 99 belongs to no"),
    ],
)
def test_detection_errors(videos, entries, message):
    dataset, root = videos
    (root / "d.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=f"d.json.*{message}"):
        load_detections(root / "d.json", dataset)


def test_detections_of_other_videos(videos):
    dataset, root = videos
    entries = [detection("c/000000.png"), detection("b/000003.png")]
    (root / "d.json").write_text(json.dumps(entries))
    boxes = load_detections(root / "d.json", dataset, other_videos=True)
    assert boxes.row.tolist() == [1] and boxes.number.tolist() == [3]


def test_real_sample():
    if not SAMPLE.exists():
        pytest.skip(f"the PoseTrack18 sample is not there: {SAMPLE}")
    annotations = SAMPLE / "annotations"
    dataset = load_coco(annotations / "test_posetrack18_val.json")
    detections = annotations / "test_posetrack18_human_detections.json"
    scores = [entry["score"] for entry in json.loads(detections.read_text())]
    boxes = load_detections(detections, dataset)
    assert len(boxes) == sum(score >= 0.2 for score in scores)
    source = FrameSource(SAMPLE)
    (first, *_) = Windows(boxes, source, (0,), crop_wh=(72, 96))
    assert first.crops.shape[1:] == (1, 3, 96, 72)
    samples = PoseSamples(dataset, source, augmentation=Augmentation())
    assert len(samples) == 14
    assert samples[0]["weight"].sum() > 5 and samples[0]["target"].max() == 1
