"""Labels to the files of other tools and back: what survives in which format, and real data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from posewarper.data.formats import load_labels, load_track_names, save_labels
from posewarper.data.formats.detection import WRITTEN
from posewarper.data.formats.label_file import boxes_of_joints
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.skeleton import POSETRACK, Skeleton

SHARED = Path(__file__).parents[3] / "shared" / "data"
# Not in alphabetical order: libraries sort the names of joints.
MOUSE = Skeleton(
    "mouse", ("nose", "left_ear", "right_ear", "tail.base"), ((1, 2),), ((0, 1), (0, 3))
)
FILES = {
    "coco": "labels.json",
    "csv": "labels.csv",
    "cvat": "annotations.xml",
    "deeplabcut": "CollectedData_me.csv",
    "deeplabcut-hdf": "CollectedData_me.h5",
    "label-studio": "tasks.json",
    "nwb": "labels.nwb",
    "sleap": "labels.slp",
}
WITH_LIBRARY = ("deeplabcut-hdf", "nwb", "sleap")
# What a format says of frames in which nobody is drawn.
EMPTY_FRAMES = ("coco", "csv", "label-studio", "nwb", "sleap")
LENGTHS = ("coco", "cvat", "label-studio", "nwb", "sleap")  # of video files
UNKNOWN_SIZES = ("csv", "deeplabcut", "deeplabcut-hdf")
NO_TRACKLESS = ("deeplabcut", "deeplabcut-hdf")  # where others have tracks, in a file of images


def every_format(names=FILES):
    return pytest.mark.parametrize("name", names)


def save(dataset, name, folder, **more):
    if name in WITH_LIBRARY:
        pytest.importorskip("h5py" if name == "deeplabcut-hdf" else "sleap_io")
    path = Path(folder) / FILES[name]
    save_labels(dataset, path, format=name.removesuffix("-hdf"), **more)
    return path


def animals(videos, video, number, people, *, skeleton=MOUSE, size=(64, 48), labelled=None):
    """A data set; ``people`` are pairs of the row of the frame and the track id."""
    frames = Frames.make(videos, video, number, size_wh=size, labelled=labelled)
    rng = np.random.default_rng(3)
    points = np.full((len(people), len(skeleton), 3), 2.0)
    points[..., :2] = rng.uniform(2, 45, (len(people), len(skeleton), 2))
    for row in range(len(people)):  # everybody lacks another joint
        points[row, row % len(skeleton)] = 0
    frame, track = zip(*people, strict=True)
    boxes = boxes_of_joints(points)
    return PoseDataset(skeleton, videos, frames, People.make(frame, points, boxes, track_id=track))


@pytest.fixture
def images():
    """Two folders of images, two animals with tracks, a frame without anybody, one unlabelled."""
    videos = (
        Video("labeled-data/a", 121, 0, "img%03d.png"),
        Video("labeled-data/b", 8, 0, "img%03d.png"),
    )
    frames = [(0, 3), (0, 99), (0, 110), (0, 120), (1, 7)]
    people = [(0, 0), (0, 1), (1, 1), (4, 0), (4, 1)]
    labelled = [True, True, True, False, True]
    return animals(videos, *zip(*frames, strict=True), people, labelled=labelled)


@pytest.fixture
def clip():
    """One video file, two animals with tracks."""
    videos = (Video("films/clip", 200, 0, "", "films/clip.mp4"),)
    return animals(videos, [0, 0, 0], [0, 7, 120], [(0, 0), (0, 1), (1, 1), (2, 0), (2, 1)])


def same_people(found, expected):
    assert found.skeleton.joints == expected.skeleton.joints
    labelled = expected.people.keypoints[..., 2:] > 0
    np.testing.assert_array_equal(found.people.keypoints[..., 2:] > 0, labelled)
    np.testing.assert_allclose(
        found.people.keypoints[..., :2], expected.people.keypoints[..., :2] * labelled, atol=1e-9
    )
    np.testing.assert_allclose(found.people.bbox, expected.people.bbox, atol=1e-9)
    np.testing.assert_array_equal(found.people.track_id, expected.people.track_id)
    np.testing.assert_array_equal(
        numbers(found)[found.people.frame], numbers(expected)[expected.people.frame]
    )


def numbers(dataset):
    """Video and number of each frame, [F, 2]."""
    return np.stack([dataset.frames.video, dataset.frames.number], 1)


@every_format()
def test_round_trip_of_images(images, name, tmp_path):
    found = load_labels(save(images, name, tmp_path), format=name.removesuffix("-hdf"))
    same_people(found, images)
    assert [v.path for v in found.videos] == ["labeled-data/a", "labeled-data/b"]
    assert [v.pattern for v in found.videos] == ["img%03d.png"] * 2
    listed = images.frames
    keep = np.array([True, True, True, True, True])
    keep[3] = name not in ("csv", "nwb")
    np.testing.assert_array_equal(numbers(found), numbers(images)[keep])
    assert found.frames.file_name == tuple(np.array(listed.file_name)[keep])
    expected = listed.labelled.copy()
    expected[2] &= name in EMPTY_FRAMES
    np.testing.assert_array_equal(found.frames.labelled, expected[keep])
    if name not in UNKNOWN_SIZES:
        np.testing.assert_array_equal(found.frames.size_wh, [(64, 48)] * keep.sum())


@every_format()
def test_round_trip_of_a_video_file(clip, name, tmp_path):
    found = load_labels(save(clip, name, tmp_path))
    same_people(found, clip)
    np.testing.assert_array_equal(found.frames.number, [0, 7, 120])
    if name.startswith("deeplabcut"):  # names images
        assert found.videos[0].path == "labeled-data/clip"
    else:
        count = 200 if name in LENGTHS else 121
        assert found.videos == (replace(clip.videos[0], frame_count=count),)


@every_format([name for name in FILES if name != "coco"])
def test_names_of_tracks(images, name, tmp_path):
    names = {0: "Bob", 1: "Ann"}
    path = save(images, name, tmp_path, track_names=names)
    assert load_track_names(path) == names
    np.testing.assert_array_equal(load_labels(path).people.track_id, images.people.track_id)


@every_format()
def test_ids_of_tracks_survive_without_names(clip, name, tmp_path):
    people = replace(clip.people, track_id=np.array([7, 4, 4, 7, 4]))
    found = load_labels(save(replace(clip, people=people), name, tmp_path))
    by_x = np.argsort(found.people.keypoints[..., 0].max(1))
    expected = people.track_id[np.argsort(people.keypoints[..., 0].max(1))]
    np.testing.assert_array_equal(found.people.track_id[by_x], expected)


@every_format()
def test_people_without_tracks(images, name, tmp_path):
    people = replace(images.people, track_id=np.full(5, -1))
    found = load_labels(save(replace(images, people=people), name, tmp_path))
    if name in NO_TRACKLESS:  # a column for each
        assert sorted(found.people.track_id.tolist()) == [0, 0, 0, 1, 1]
    else:
        np.testing.assert_array_equal(found.people.track_id, people.track_id)


@every_format()
def test_boxes_sizes_and_order_do_not_depend_on_rows(clip, name, tmp_path):
    """Frames and people in any order come back sorted by frame."""
    order = np.array([4, 0, 3, 2, 1])
    frames = clip.frames[np.array([2, 0, 1])]
    place = np.array([1, 2, 0])  # row of the old frames
    people = clip.people[order]
    mixed = replace(clip, frames=frames, people=replace(people, frame=place[people.frame]))
    found = load_labels(save(mixed, name, tmp_path))
    if name == "coco":  # keeps the order of the file
        np.testing.assert_array_equal(found.frames.number, [120, 0, 7])
    else:
        np.testing.assert_array_equal(found.frames.number, [0, 7, 120])
    key = found.frames.number[found.people.frame] * 10 + found.people.track_id
    by_key = np.argsort(key)
    expected = clip.people.keypoints * (clip.people.keypoints[..., 2:] > 0)
    np.testing.assert_allclose(found.people.keypoints[by_key], expected, atol=1e-9)


@every_format()
def test_scores_of_predictions(clip, name, tmp_path):
    rng = np.random.default_rng(1)
    labelled = clip.people.keypoints[..., 2] > 0
    scores = np.where(labelled, rng.uniform(0.1, 1, (5, 4)), np.nan)
    people = replace(clip.people, joint_scores=scores, score=rng.uniform(0.1, 1, 5))
    predicted = replace(clip, people=people)
    if name in ("cvat", "label-studio", "nwb"):
        with pytest.warns(UserWarning, match="written without scores"):
            path = save(predicted, name, tmp_path)
        assert not load_labels(path).people.predicted.any()
        return
    found = load_labels(save(predicted, name, tmp_path))
    np.testing.assert_allclose(
        np.nan_to_num(found.people.joint_scores), np.nan_to_num(scores), rtol=1e-6
    )
    assert found.people.predicted.all()
    if not name.startswith("deeplabcut"):
        np.testing.assert_allclose(found.people.score, people.score, rtol=1e-6)
        return
    assert found.videos[0].frame_count == 200 and len(found.frames) == 200  # a row per frame
    np.testing.assert_array_equal(np.flatnonzero(found.frames.labelled), [0, 7, 120])
    np.testing.assert_array_equal(found.frames.number[found.people.frame], [0, 0, 7, 120, 120])


@every_format(["coco", "csv", "cvat"])
def test_occluded_joints_stay_occluded(images, name, tmp_path):
    points = images.people.keypoints.copy()
    points[1, [0, 2], 2] = 1
    occluded = replace(images, people=replace(images.people, keypoints=points))
    found = load_labels(save(occluded, name, tmp_path))
    np.testing.assert_array_equal(found.people.keypoints[..., 2], points[..., 2])


@every_format(["sleap", "nwb", "deeplabcut", "label-studio"])
def test_occluded_joints_stay_labelled(images, name, tmp_path):
    points = images.people.keypoints.copy()
    points[points[..., 2] > 0] = np.minimum(points[points[..., 2] > 0], [99, 99, 1])
    occluded = replace(images, people=replace(images.people, keypoints=points))
    found = load_labels(save(occluded, name, tmp_path))
    np.testing.assert_array_equal(found.people.keypoints[..., 2], 2 * (points[..., 2] > 0))


def test_limbs_and_mirror_pairs(images, tmp_path):
    turned = Skeleton("mouse", ("a", "b", "c", "d"), ((1, 2),), ((0, 1), (0, 3)))
    images = replace(images, skeleton=turned)  # names that tell no pairs
    for name, limbs, pairs in [
        ("coco", True, True),
        ("sleap", True, True),
        ("nwb", True, False),
        ("cvat", True, False),
        ("label-studio", False, False),
        ("csv", False, False),
        ("deeplabcut", False, False),
    ]:
        found = load_labels(save(images, name, tmp_path)).skeleton
        assert found.limbs == (turned.limbs if limbs else ()), name
        assert found.flip_pairs == (turned.flip_pairs if pairs else ()), name
    known = load_labels(save(images, "csv", tmp_path), skeleton=turned)
    assert known.skeleton == turned


def test_known_skeletons_are_recognised(tmp_path):
    people = animals((Video("a", 3),), [0], [1], [(0, 0)], skeleton=POSETRACK)
    for name in FILES:
        assert load_labels(save(people, name, tmp_path)).skeleton == POSETRACK


def test_some_joints_in_another_order(images, tmp_path):
    wanted = Skeleton("part", ("tail.base", "nose"))
    for name in FILES:
        found = load_labels(save(images, name, tmp_path), skeleton=wanted)
        expected = images.people.keypoints[:, [3, 0]]
        np.testing.assert_allclose(
            found.people.keypoints, expected * (expected[..., 2:] > 0), atol=1e-9
        )


def test_boxes_of_a_format_that_has_them(images, tmp_path):
    boxes = images.people.bbox + np.array([-1, -2, 3, 4])
    own = replace(images, people=replace(images.people, bbox=boxes))
    for name in ("coco", "label-studio"):
        found = load_labels(save(own, name, tmp_path), format=name)
        np.testing.assert_allclose(found.people.bbox, boxes, atol=1e-9)
    made = load_labels(save(own, "csv", tmp_path))
    np.testing.assert_allclose(made.people.bbox, images.people.bbox, atol=1e-9)


def test_people_without_joints_are_left_out(images, tmp_path):
    points = images.people.keypoints.copy()
    points[2] = 0
    lonely = replace(images, people=replace(images.people, keypoints=points))
    for name in FILES:
        if name == "coco":
            assert len(load_labels(save(lonely, name, tmp_path)).people) == 5
            continue
        with pytest.warns(UserWarning, match="1 of 5 people have no labelled joint"):
            path = save(lonely, name, tmp_path)
        assert len(load_labels(path).people) == 4


def test_a_failed_save_leaves_the_old_file(images, tmp_path):
    nobody = images.select(people=np.zeros(5, np.bool_))
    for name in ("cvat", "deeplabcut", "deeplabcut-hdf", "nwb"):
        path = save(images, name, tmp_path)
        before = path.read_bytes()
        with pytest.raises(ValueError, match="without people"):
            save(nobody, name, tmp_path)
        assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 4  # nothing half-written


def test_every_format_is_tested():
    assert {name.removesuffix("-hdf") for name in FILES} == set(WRITTEN)


def flies(count):
    """The first frames of a real video of two flies, predicted by a model."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data")
    content = json.loads((SHARED / "flies" / "flies.json").read_text())
    limbs = tuple(tuple(limb) for limb in content["skeleton"])
    skeleton = Skeleton("fly", tuple(content["keypoints"]), (), limbs)
    listed = content["frames"][:count]
    people = [(row, p) for row, frame in enumerate(listed) for p in frame["people"]]
    points = np.array([p["kpts"] for _, p in people], np.float64)
    found = np.isfinite(points).all(2)
    scores = np.where(found, points[..., 2], np.nan)
    points = np.where(found[..., None], np.dstack([points[..., :2], np.full(found.shape, 2.0)]), 0)
    size = content["width"], content["height"]
    videos = (Video("flies", len(content["frames"]), 0, "", "flies.mp4"),)
    return PoseDataset(
        skeleton,
        videos,
        Frames.make(videos, np.zeros(count), [f["frame"] for f in listed], size_wh=size),
        People.make(
            [row for row, _ in people],
            points,
            boxes_of_joints(points),
            track_id=[p["track"] for _, p in people],
            joint_scores=scores,
        ),
    )


@every_format()
def test_real_flies(name, tmp_path):
    data = flies(40)
    if name in ("cvat", "label-studio", "nwb"):
        human = replace(data.people, joint_scores=np.full_like(data.people.joint_scores, np.nan))
        data = replace(data, people=human)
    found = load_labels(save(data, name, tmp_path))
    assert found.frames.labelled.sum() == 40
    one, other = (
        d.people.keypoints[np.lexsort([d.people.track_id, d.frames.number[d.people.frame]])]
        for d in (found, data)
    )
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_real_mice():
    """Hand labels of DeepLabCut, one animal, images."""
    folder = SHARED / "mirror_mouse"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data")
    mice = load_labels(folder / "CollectedData.csv", video=folder / "labeled-data")
    assert len(mice.skeleton) == 17 and mice.skeleton.joints[:2] == ("paw1LH_top", "paw2LF_top")
    assert len(mice.people) == len(mice.frames) == 90 and mice.frames.labelled.all()
    np.testing.assert_allclose(mice.people.keypoints[0, 0], [77.25, 36.25, 2])
    assert mice.people.keypoints[0, 4, 2] == 0  # tailBase_top of the first image
    assert (mice.frames.size_wh == mice.frames.size_wh[0]).all() and mice.frames.size_wh.min() > 0
    assert (mice.people.track_id == -1).all()
    assert mice.frames.file_name[0] == (folder / "labeled-data" / "img01.png").as_posix()
