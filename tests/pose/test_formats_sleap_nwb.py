"""SLEAP and NWB files: what other libraries open of ours, and what is read of theirs."""

from __future__ import annotations

import time
import warnings
from datetime import datetime, timezone

import cv2
import numpy as np
import pytest

from posewarper.data.formats import load_labels, load_track_names, save_labels
from posewarper.data.formats.label_file import boxes_of_joints
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.skeleton import Skeleton

MOUSE = Skeleton("mouse", ("nose", "tail"), (), ((0, 1),))


def animals(video, numbers, *, tracks=None, size=(0, 0), skeleton=MOUSE):
    """An animal in each of some frames of one video."""
    count = len(numbers)
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 40, (count, len(skeleton), 2))
    points = np.concatenate([places, np.full((count, len(skeleton), 1), 2.0)], 2)
    frames = Frames.make((video,), [0] * count, numbers, size_wh=size)
    people = People.make(range(count), points, boxes_of_joints(points), track_id=tracks)
    return PoseDataset(skeleton, (video,), frames, people)


# SLEAP


def test_sleap_opens_images_whose_size_was_not_known(tmp_path, monkeypatch):
    """Only images that are labelled or there are listed, and SLEAP shows them."""
    sio = pytest.importorskip("sleap_io")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip").mkdir()
    for number in (3, 7, 8):
        cv2.imwrite(f"clip/{number:04d}.png", np.full((24, 32, 3), 10 * number, np.uint8))
    save_labels(animals(Video("clip", 10, 0, "%04d.png"), [3, 7]), tmp_path / "a.slp")
    assert sio.load_slp(str(tmp_path / "a.slp"), open_videos=False).videos[0].shape is None
    project = sio.load_slp(str(tmp_path / "a.slp"))
    (video,) = project.videos
    assert video.filename == [f"clip/{number:04d}.png" for number in (3, 7, 8)]
    assert video.shape[:3] == (3, 24, 32)
    assert [int(frame.image.mean()) for frame in project] == [30, 70]


def test_points_of_a_crop_are_read_as_points_of_the_video(tmp_path):
    sio = pytest.importorskip("sleap_io")
    writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(4):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    crop = sio.load_video(str(tmp_path / "a.mp4")).crop((10, 20, 50, 40))
    skeleton = sio.Skeleton(["nose", "tail"])
    animal = sio.Instance.from_numpy(np.array([[1.0, 2], [np.nan, 0]]), skeleton=skeleton)
    project = sio.Labels([sio.LabeledFrame(video=crop, frame_idx=2, instances=[animal])])
    sio.save_slp(project, str(tmp_path / "a.slp"), embed=False, verbose=False)
    with pytest.warns(UserWarning, match=r"a.slp: .*crop of .*a.mp4 are moved by \(10, 20\)"):
        found = load_labels(tmp_path / "a.slp")
    np.testing.assert_array_equal(found.people.keypoints, [[[11, 22, 2], [0, 0, 0]]])
    assert found.frames.size_wh.tolist() == [[64, 48]] and found.frames.number.tolist() == [2]


def test_a_skeleton_that_nobody_has_does_not_matter(tmp_path):
    sio = pytest.importorskip("sleap_io")
    mouse, fly = sio.Skeleton(["nose", "tail"], name="mouse"), sio.Skeleton(["a"], name="fly")
    video = sio.Video(filename="a.mp4", open_backend=False)
    one = sio.Instance.from_numpy(np.ones((2, 2)), skeleton=mouse)
    other = sio.Instance.from_numpy(np.ones((1, 2)), skeleton=fly)
    for name, instances in (("one.slp", [one]), ("two.slp", [one, other])):
        listed = [sio.LabeledFrame(video=video, frame_idx=0, instances=instances)]
        project = sio.Labels(listed, videos=[video], skeletons=[fly, mouse])
        sio.save_slp(project, str(tmp_path / name), embed=False, verbose=False)
    assert load_labels(tmp_path / "one.slp").skeleton.joints == ("nose", "tail")
    with pytest.raises(ValueError, match=r"two.slp: expected people of one skeleton, got 2"):
        load_labels(tmp_path / "two.slp")


# NWB: labels


def test_pynwb_reads_what_is_written(tmp_path):
    pynwb = pytest.importorskip("pynwb")
    pytest.importorskip("ndx_pose")
    skeleton = Skeleton("a folder/labels: 1.csv", MOUSE.joints, (), MOUSE.limbs)
    numbers = list(range(0, 24, 2))
    data = animals(Video("clip", 30, 0, "%04d.png"), numbers, size=(64, 48), skeleton=skeleton)
    save_labels(data, tmp_path / "a.nwb")
    assert pynwb.validate(path=str(tmp_path / "a.nwb")) == []
    with pynwb.NWBHDF5IO(str(tmp_path / "a.nwb"), "r") as file:
        training = file.read().processing["behavior"]["PoseTraining"]
        images = list(training.source_videos["video_0"].external_file[:])
        frames = training.training_frames.training_frames
        assert len(frames) == 12 and len({frame.object_id for frame in frames.values()}) == 12
        for row, points in enumerate(data.people.keypoints):
            frame = frames[f"frame_{row}"]
            assert images[frame.source_video_frame_index] == f"clip/{numbers[row]:04d}.png"
            (animal,) = frame.skeleton_instances.skeleton_instances.values()
            assert list(animal.skeleton.nodes) == ["nose", "tail"]
            np.testing.assert_array_equal(animal.node_locations[:], points[:, :2])
            np.testing.assert_array_equal(animal.node_visibility[:], [True, True])
    found = load_labels(tmp_path / "a.nwb")
    np.testing.assert_array_equal(found.people.keypoints, data.people.keypoints)
    np.testing.assert_array_equal(found.frames.number, numbers)  # frame_9 is before frame_10


def test_what_sleap_io_writes_to_nwb(tmp_path):
    sio = pytest.importorskip("sleap_io")
    annotations = pytest.importorskip("sleap_io.io.nwb_annotations")
    reading = pytest.importorskip("sleap_io.io.video_reading")
    skeleton = sio.Skeleton(["nose", "tail"], [("nose", "tail")], name="mouse")
    tracks = [sio.Track("bob"), sio.Track("ann")]
    places = np.array([[1.0, 2], [np.nan, np.nan]])
    video = sio.Video(filename="clip.mp4", open_backend=False)
    video.backend = reading.MediaVideo(filename="clip.mp4", plugin="opencv")
    video.backend_metadata = {"shape": (20, 48, 64, 3)}
    listed = [
        sio.LabeledFrame(
            video=video,
            frame_idx=number,
            instances=[
                sio.Instance.from_numpy(places + i, skeleton=skeleton, track=track)
                for i, track in enumerate(tracks[: 1 + number])
            ],
        )
        for number in range(12)
    ]
    project = sio.Labels(listed, videos=[video], tracks=tracks, skeletons=[skeleton])
    annotations.save_labels(project, str(tmp_path / "a.nwb"), use_multisubjects=True)
    found = load_labels(tmp_path / "a.nwb")
    assert found.skeleton == Skeleton("mouse", ("nose", "tail"), (), ((0, 1),))
    assert found.videos[0].path == "clip.mp4" and found.videos[0].frame_count == 20
    assert load_track_names(tmp_path / "a.nwb") == {0: "bob", 1: "ann"}
    np.testing.assert_array_equal(found.people.track_id, [0, *[0, 1] * 11])
    np.testing.assert_array_equal(found.people.keypoints[1:3, 0], [[1, 2, 2], [2, 3, 2]])
    np.testing.assert_array_equal(found.people.keypoints[:, 1], 0)


def test_tracks_of_nwb_are_subjects_in_order(tmp_path):
    pytest.importorskip("pynwb")
    data = animals(Video("clip", 9, 0, "", "clip.mp4"), [1, 3, 4], tracks=[900, 7, 900])
    save_labels(data, tmp_path / "a.nwb")
    found = load_labels(tmp_path / "a.nwb")
    np.testing.assert_array_equal(found.people.track_id, [900, 7, 900])


def test_people_of_nwb_keep_their_order(tmp_path):
    """``instance_9`` comes before ``instance_10``."""
    pytest.importorskip("pynwb")
    points = np.concatenate([np.arange(48.0).reshape(12, 2, 2), np.full((12, 2, 1), 2)], 2)
    video = Video("clip", 9, 0, "", "clip.mp4")
    people = People.make([0] * 12, points, boxes_of_joints(points))
    save_labels(
        PoseDataset(MOUSE, (video,), Frames.make((video,), [0], [4]), people), tmp_path / "a.nwb"
    )
    np.testing.assert_array_equal(load_labels(tmp_path / "a.nwb").people.keypoints, points)


def test_many_people_in_nwb_take_little_time(tmp_path):
    """pynwb takes 8 ms for a person; here it is less than 1 (2 leave room for a busy machine)."""
    pytest.importorskip("pynwb")
    data = animals(Video("clip", 1500, 0, "", "clip.mp4"), list(range(1500)))
    save_labels(animals(data.videos[0], [0]), tmp_path / "first.nwb")  # imports
    start = time.process_time()
    save_labels(data, tmp_path / "a.nwb")
    found = load_labels(tmp_path / "a.nwb")
    assert time.process_time() - start < 1500 * 2e-3
    np.testing.assert_array_equal(found.people.keypoints, data.people.keypoints)


# NWB: predictions


def estimation(path, series, *, name="PoseEstimation", module="behavior", video=None):
    """Write a file with PoseEstimation; ``series``: by joint, places, scores and times or rate."""
    pynwb = pytest.importorskip("pynwb")
    ndx_pose = pytest.importorskip("ndx_pose")
    content = pynwb.NWBFile("a session", "x", datetime(2026, 1, 1, tzinfo=timezone.utc))
    skeleton = ndx_pose.Skeleton(name="mouse", nodes=list(series), edges=np.array([[0, 1]]))
    made = [
        ndx_pose.PoseEstimationSeries(
            name=joint, data=places, unit="pixels", reference_frame="corner", confidence=scores,
            **({"timestamps": times} if isinstance(times, list) else {**times}),
        )
        for joint, (places, scores, times) in series.items()
    ]  # fmt: skip
    if video is not None:
        content.add_acquisition(video)
    box = content.create_processing_module(module, "poses")
    box.add(ndx_pose.Skeletons(skeletons=[skeleton]))
    box.add(
        ndx_pose.PoseEstimation(
            name=name,
            pose_estimation_series=made,
            **({"original_videos": ["clip.mp4"]} if video is None else {"source_video": video}),
            skeleton=skeleton,
            source_software="x",
        )
    )
    with pynwb.NWBHDF5IO(str(path), "w") as file:
        file.write(content)
    return path


def test_predictions_of_nwb_with_a_rate(tmp_path):
    places = np.arange(20, dtype=float).reshape(10, 2)
    places[4] = np.nan
    scores = np.linspace(0.1, 1, 10)
    rate = {"rate": 30.0, "starting_time": 12.5}
    series = {"nose": (places, scores, rate), "tail": (places + 1, scores / 2, rate)}
    path = estimation(tmp_path / "a.nwb", series)
    with pytest.warns(UserWarning, match=r"12.5 s, is taken for frame 0 of clip.mp4.*frame 9"):
        found = load_labels(path)
    assert found.skeleton.joints == ("nose", "tail") and found.skeleton.limbs == ((0, 1),)
    assert found.videos[0].path == "clip.mp4" and found.videos[0].frame_count == 10
    numbers = [0, 1, 2, 3, 5, 6, 7, 8, 9]
    np.testing.assert_array_equal(found.frames.number[found.people.frame], numbers)
    np.testing.assert_array_equal(found.people.keypoints[:, 1, :2], places[numbers] + 1)
    np.testing.assert_allclose(found.people.joint_scores[:, 1], scores[numbers] / 2)
    assert (found.people.track_id == -1).all()


def test_predictions_of_nwb_with_missing_rows(tmp_path):
    """A joint without rows for some frames; a camera that does not keep its rate."""
    times = [0.0, 0.1, 0.2, 0.3, 0.4]
    some = [times[0], times[1], times[4]]
    path = estimation(
        tmp_path / "a.nwb",
        {
            "nose": (np.ones((5, 2)), np.full(5, 0.5), times),
            "tail": (np.array([[1.0, 1], [2, 2], [3, 3]]), np.full(3, 0.5), some),
        },
    )
    with pytest.warns(UserWarning, match="taken for frame 0"):
        found = load_labels(path)
    np.testing.assert_array_equal(found.people.keypoints[:, 1, 0], [1, 2, 0, 0, 3])
    uneven = [0.0, 0.1, 0.23, 0.3, 0.47]
    both = {joint: (np.ones((5, 2)), np.full(5, 0.5), uneven) for joint in ("nose", "tail")}
    with pytest.warns(UserWarning, match="the last for frame 4"):
        found = load_labels(estimation(tmp_path / "b.nwb", both))
    np.testing.assert_array_equal(found.frames.number, range(5))
    lost = {**both, "tail": (np.ones((3, 2)), np.full(3, 0.5), [0.0, 0.23, 0.3])}
    with pytest.raises(ValueError, match=r"c.nwb: the times of video clip.mp4 do not tell"):
        load_labels(estimation(tmp_path / "c.nwb", lost))


def test_predictions_of_nwb_by_the_video_that_is_linked(tmp_path):
    """The order of the joints is that of the skeleton, not of the alphabet."""
    pynwb = pytest.importorskip("pynwb")
    series = pynwb.image.ImageSeries(
        name="film", unit="NA", format="external", external_file=["films/b.avi"], rate=30.0,
        starting_frame=[0], num_samples=3,
    )  # fmt: skip
    rate = {"rate": 30.0, "starting_time": 0.0}
    places = {joint: np.full((3, 2), i) for i, joint in enumerate(("tail", "ear", "nose"), 1)}
    both = {joint: (place, np.full(3, 0.5), rate) for joint, place in places.items()}
    path = estimation(tmp_path / "a.nwb", both, video=series)
    with pytest.warns(UserWarning, match="taken for frame 0"):
        found = load_labels(path)
    assert found.skeleton.joints == ("tail", "ear", "nose")
    assert found.videos == (Video("films/b", 3, 0, "", "films/b.avi"),)
    np.testing.assert_array_equal(found.people.keypoints[0, :, 0], [1, 2, 3])


def test_sleap_io_s_predictions_in_nwb_keep_their_frames(tmp_path):
    sio = pytest.importorskip("sleap_io")
    predictions = pytest.importorskip("sleap_io.io.nwb_predictions")
    skeleton = sio.Skeleton(["nose", "tail"], [("nose", "tail")], name="mouse")
    tracks = [sio.Track("bob"), sio.Track("ann")]
    video = sio.Video(filename="clip.mp4", open_backend=False)
    places = np.array([[1.0, 2], [3, 4]])

    def animal(number, i):
        return sio.PredictedInstance.from_numpy(
            places * number + i,
            skeleton=skeleton,
            track=tracks[i],
            score=0.5,
            point_scores=np.array([0.25, 0.75]),
        )

    who = {0: (0,), 1: (0,), 2: (0, 1), 3: (1,), 4: (1,), 5: (0,)}
    listed = [
        sio.LabeledFrame(video=video, frame_idx=n, instances=[animal(n, i) for i in there])
        for n, there in who.items()
    ]
    project = sio.Labels(listed, videos=[video], tracks=tracks, skeletons=[skeleton])
    predictions.write_nwb(project, str(tmp_path / "a.nwb"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = load_labels(tmp_path / "a.nwb")
    names = load_track_names(tmp_path / "a.nwb")
    rows = zip(found.people.frame, found.people.track_id, found.people.keypoints, strict=True)
    got = {
        (int(found.frames.number[frame]), names[int(track)]): points[:, :2].tolist()
        for frame, track, points in rows
    }
    expected = {(n, ("bob", "ann")[i]): places * n + i for n, there in who.items() for i in there}
    assert got == {key: value.tolist() for key, value in expected.items()}
    np.testing.assert_allclose(found.people.joint_scores, [[0.25, 0.75]] * 7)
    project.labeled_frames = project.labeled_frames[1:4]  # frames 1 to 3
    times = {"video_timestamps": np.arange(6.0)}
    predictions.write_nwb(project, str(tmp_path / "b.nwb"), pose_estimation_metadata=times)
    found = load_labels(tmp_path / "b.nwb")
    np.testing.assert_array_equal(found.frames.number, [1, 2, 3])


def test_predictions_of_several_videos_are_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    rate = {"rate": 30.0, "starting_time": 0.0}
    both = {joint: (np.ones((5, 2)), np.full(5, 0.5), rate) for joint in ("nose", "tail")}
    path = estimation(tmp_path / "a.nwb", both)
    with h5py.File(path, "r+") as file:
        group = file["processing/behavior/PoseEstimation"]
        del group["original_videos"]
        group["original_videos"] = ["a.mp4", "b.mp4"]
    with pytest.raises(ValueError, match=r"a.nwb: .*names 2 videos \(a.mp4, b.mp4\)"):
        load_labels(path)


def test_3d_predictions_are_refused(tmp_path):
    rate = {"rate": 30.0, "starting_time": 0.0}
    both = {joint: (np.ones((5, 3)), np.full(5, 0.5), rate) for joint in ("nose", "tail")}
    with pytest.raises(ValueError, match=r"a.nwb: .*expected x and y, got .*\[5, 3\]"):
        load_labels(estimation(tmp_path / "a.nwb", both))
