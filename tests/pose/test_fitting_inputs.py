"""Labels and videos that belong together, and everything that may be wrong with them."""

from __future__ import annotations

import csv
import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.formats import save_labels
from posewarper.data.formats.label_file import boxes_of_joints
from posewarper.data.people import usable_people
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.video import FrameSource
from posewarper.fitting.inputs import read_inputs
from posewarper.skeleton import Skeleton

SHARED = Path(__file__).parents[3] / "shared" / "data"
SKELETON = Skeleton("mouse", ("nose", "left_ear", "right_ear"), ((1, 2),), ((0, 1),))
SIZE = (96, 64)


def picture(number, look=0):
    """A textured background, of which there are several, and a square that moves."""
    random = np.random.default_rng(look)
    image = cv2.resize(random.integers(0, 255, (8, 12, 3), np.uint8), SIZE)
    x = 5 + 6 * (number % 12)
    image[20:34, x : x + 14] = 255
    return image


def film(path, frames=12, look=0, first=0, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, size)
    for number in range(first, first + frames):
        writer.write(cv2.resize(picture(number, look), size))
    writer.release()
    return path


def images(folder, names, look=0):
    folder.mkdir(parents=True)
    for name in names:
        digits = "".join(c for c in Path(name).stem if c.isdigit())
        cv2.imwrite(str(folder / name), picture(int(digits), look))
    return folder


def pose(x=30.0, y=30.0, grow=1.0):
    return np.array([[0, 0, 2], [10, 5, 2], [-8, 6, 1]]) * (grow, grow, 1) + (x, y, 0)


def labels(videos, poses, **columns):
    """Labels: (position of the video, number, [poses]) for each frame."""
    rows = [row for row, (_, _, of) in enumerate(poses) for _ in of]
    points = np.array([p for _, _, of in poses for p in of], float).reshape(-1, 3, 3)
    size = columns.pop("size_wh", (0, 0))
    frames = Frames.make(videos, [v for v, _, _ in poses], [n for _, n, _ in poses], size_wh=size)
    people = People.make(rows, points, boxes_of_joints(points), **columns)
    return PoseDataset(SKELETON, tuple(videos), frames, people)


def saved(path, *frames, videos=None, **columns):
    """A COCO file of labels; of one video file, if nothing else is said."""
    videos = (Video("clip", 12, 0, "", "clip.mp4"),) if videos is None else videos
    poses = [(0, *f) if len(f) == 2 else f for f in frames]
    save_coco(labels(videos, poses, **columns), path)
    return path


@pytest.fixture
def clip(tmp_path):
    return film(tmp_path / "films" / "clip.mp4")


@pytest.fixture
def some(tmp_path):
    """Labels of one mouse in three frames of ``clip``."""
    return saved(tmp_path / "some.json", *((n, [pose(20 + n)]) for n in (2, 5, 9)))


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_every_frame_of_a_video_file_from_0(clip, some):
    found = read_inputs([clip], some)
    data = found.dataset
    assert found.root == clip.parent
    assert data.videos == (Video("clip", 12, 0, "", "clip.mp4"),)
    assert data.frames.number.tolist() == list(range(12))
    assert np.flatnonzero(data.frames.labelled).tolist() == [2, 5, 9]
    assert data.people.frame.tolist() == [2, 5, 9]
    assert len(set(data.frames.image_id.tolist())) == 12
    np.testing.assert_array_equal(data.frames.size_wh, [SIZE] * 12)
    np.testing.assert_allclose(data.people.keypoints[1], pose(25))
    assert data.people.track_id.tolist() == [0, 0, 0]
    assert found.notes == ("clip: one in every frame: all labels are track 0",)
    assert len(usable_people(data)[0]) == 3
    source = FrameSource(found.root, dataset=data)
    image = source.read(data.videos[0], 7).astype(float)
    assert np.abs(image - picture(7)[..., ::-1]).mean() < 8 < np.abs(image - image[::-1]).mean()


def test_image_folder_with_gaps_and_names_of_its_own(tmp_path):
    names = ["f3.png", "f4.jpg", "f6.png", "f10.png"]
    folder = images(tmp_path / "x" / "mouse", names)
    path = saved(
        tmp_path / "a.json",
        (4, [pose()]),
        (10, [pose()]),
        videos=(Video("elsewhere/mouse", 11, 0, "f%d.jpg"),),
    )
    edited(path, lambda c: c["images"][1].update(file_name="elsewhere/mouse/f10.png"))
    found = read_inputs([folder], path)
    data = found.dataset
    assert data.frames.number.tolist() == [3, 4, 6, 10]
    assert data.frames.file_name == tuple(f"mouse/{name}" for name in names)
    assert data.frames.labelled.tolist() == [False, True, False, True]
    assert any("4 of the frames 3 to 10 have no image: 5, 7, 8, 9" in n for n in found.notes)
    source = FrameSource(found.root, dataset=data)
    for number in (3, 4, 6, 10):
        assert source.read(data.videos[0], number).shape == (64, 96, 3)


def test_what_is_found_can_be_written_and_read_again(tmp_path, clip, some):
    data = read_inputs([clip], some).dataset
    save_coco(data, tmp_path / "again.json")
    again = load_coco(tmp_path / "again.json")
    assert again.videos == data.videos and again.frames.file_name == data.frames.file_name
    np.testing.assert_array_equal(again.people.keypoints, data.people.keypoints)
    np.testing.assert_array_equal(again.frames.labelled, data.frames.labelled)
    rerun = read_inputs([clip], tmp_path / "again.json").dataset
    np.testing.assert_array_equal(rerun.frames.image_id, data.frames.image_id)
    np.testing.assert_array_equal(rerun.people.keypoints, data.people.keypoints)


def test_several_videos_by_the_ends_of_their_paths(tmp_path):
    paths = [
        film(tmp_path / "films" / who / f"{name}.mp4", look=look)
        for look, (who, name) in enumerate((("m1", "clip"), ("m2", "clip"), ("m2", "other")))
    ]
    videos = tuple(Video(f"old/{n}", 12, 0, "", f"old/{n}.mp4") for n in ("m2/clip", "m1/clip"))
    path = saved(
        tmp_path / "a.json", (0, 3, [pose(30)]), (0, 9, [pose(31)]), (1, 4, [pose(50)]),
        videos=videos,
    )  # fmt: skip
    found = read_inputs(paths[:2], path)
    data = found.dataset
    assert found.root == tmp_path / "films"
    assert [v.path for v in data.videos] == ["m2/clip.mp4", "m1/clip.mp4"]
    assert [v.name for v in data.videos] == ["m2/clip", "m1/clip"]
    where = [data.videos[v].name for v in data.frames.video[data.people.frame]]
    assert where == ["m2/clip", "m2/clip", "m1/clip"]
    assert data.frames.number[data.people.frame].tolist() == [3, 9, 4]
    assert any(n.startswith("m1/clip: only frame 4 is labelled") for n in found.notes)

    one = read_inputs(paths[1:2], path)
    assert one.dataset.videos[0].path == "clip.mp4" and len(one.dataset.people) == 2
    assert any("1 labels of 1 videos that were not given are left out: old/m1/clip" in n
               for n in one.notes)  # fmt: skip

    with pytest.raises(ValueError, match=r"m2/other.mp4: .*a.json has no labels of this video; "
                       r"its videos are 'old/m2/clip', 'old/m1/clip'"):  # fmt: skip
        read_inputs(paths, path)
    with pytest.raises(ValueError, match=r"videos: .*m1/clip.mp4 is given twice"):
        read_inputs([paths[0], paths[0]], path)
    moved = film(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match=r"not clear which labels .*clip.mp4 could be 'old/m2/cl"):
        read_inputs([moved], path)


def test_the_longer_agreement_of_paths_decides(tmp_path):
    given = [film(tmp_path / "clip.mp4", 6), film(tmp_path / "m1" / "clip.mp4", 12, look=1)]
    videos = tuple(Video(f"{n}/clip", 12, 0, "", f"{n}/clip.mp4") for n in ("m1", "m2"))
    path = saved(tmp_path / "a.json", (0, 9, [pose(30)]), (1, 3, [pose(31)]), videos=videos)
    data = read_inputs(given, path).dataset
    assert [(v.path, v.frame_count) for v in data.videos] == [("m1/clip.mp4", 12), ("clip.mp4", 6)]
    assert data.frames.number[data.people.frame].tolist() == [9, 3]


def test_order_and_flags_of_the_file_do_not_matter(clip, some):
    def mix(content):
        content["annotations"].reverse()
        content["images"].reverse()
        content["images"][0]["is_labeled"] = False  # somebody is annotated in it

    data = read_inputs([clip], edited(some, mix)).dataset
    assert data.people.frame.tolist() == [2, 5, 9]
    np.testing.assert_allclose(data.people.keypoints[2], pose(29))
    assert np.flatnonzero(data.frames.labelled).tolist() == [2, 5, 9]


def test_coco_style_folders_below_one_folder(tmp_path):
    names = [f"{n:04d}.png" for n in range(6)]
    for look, name in enumerate(("train/a", "train/b", "train/unlabelled")):
        images(tmp_path / "images" / name, names, look)
    path = saved(
        tmp_path / "a.json",
        (0, 1, [pose(30)]),
        (0, 4, [pose(30)]),
        (1, 2, [pose(40)]),
        (1, 5, [pose(42)]),
        videos=(Video("train/a", 6, 0, "%04d.png"), Video("train/b", 6, 0, "%04d.png")),
    )
    expected = [("a", 6), ("b", 6)]
    for given in (
        [tmp_path / "images"],
        [tmp_path / "images" / "train"],
        [tmp_path / "images" / "train" / "b", tmp_path / "images" / "train" / "a"],
    ):
        found = read_inputs(given, path)
        assert [(v.name, v.frame_count) for v in found.dataset.videos] == expected
        assert found.root == tmp_path / "images" / "train"
        assert len(found.dataset.frames) == 12 and len(found.dataset.people) == 4
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no images in this folder, and no videos"):
        read_inputs([tmp_path / "empty"], path)


def test_one_video_may_have_another_name(tmp_path, some):
    found = read_inputs([film(tmp_path / "renamed.mp4")], some)
    assert any("the labels of 'clip' are taken for" in n for n in found.notes)


def test_deeplabcut_images_are_frames_of_the_video(tmp_path, clip):
    names = [f"img{n:02d}.png" for n in (2, 5, 9)]
    images(tmp_path / "labeled-data" / "clip", names)
    rows = ["scorer,me,me,me,me", "bodyparts,nose,nose,tail,tail", "coords,x,y,x,y"]
    rows += [f"labeled-data/clip/{name},20,30,40,35" for name in names]
    path = tmp_path / "CollectedData.csv"
    path.write_text("\n".join(rows) + "\n")
    data = read_inputs([clip], path).dataset
    assert data.frames.number[data.people.frame].tolist() == [2, 5, 9]
    beside = read_inputs([clip], Path(path).rename(tmp_path / "labeled-data" / "clip" / "c.csv"))
    assert beside.dataset.frames.number[beside.dataset.people.frame].tolist() == [2, 5, 9]


def test_images_that_count_from_1_are_found_out(tmp_path, clip):
    """As ffmpeg numbers them: 000001.png is frame 0."""
    folder = images(tmp_path / "out", [])
    for number in range(12):
        cv2.imwrite(str(folder / f"{number + 1:06d}.png"), picture(number))
    path = saved(
        tmp_path / "a.json",
        *((n, [pose()]) for n in (3, 6, 10)),
        videos=(Video("out", 12, 1, "%06d.png"),),
    )
    data = read_inputs([clip], path).dataset
    assert data.frames.number[data.people.frame].tolist() == [2, 5, 9]
    found = read_inputs([folder], path).dataset  # the images themselves
    assert found.frames.number[found.people.frame].tolist() == [3, 6, 10]
    for image in folder.iterdir():
        image.unlink()
    found = read_inputs([clip], path)  # 12 frames and images 1 to 12
    assert found.dataset.frames.number[found.dataset.people.frame].tolist() == [2, 5, 9]
    assert any("'out' has frames 1 to 12, " in n and "to frame 0" in n for n in found.notes)
    path = saved(tmp_path / "b.json", (3, [pose()]), videos=(Video("out", 4, 0, "%06d.png"),))
    notes = read_inputs([clip], path).notes
    assert any("counted from 0: labels of out/000003.png go to frame 3" in n for n in notes)


def test_images_of_another_video_and_of_another_size(tmp_path, clip):
    images(tmp_path / "clip", ["2.png", "5.png", "9.png"], look=7)
    frames = ((n, [pose()]) for n in (2, 5, 9))
    path = saved(tmp_path / "a.json", *frames, videos=(Video("clip", 12, 0, "%d.png"),))
    with pytest.raises(ValueError, match=r"clip/2.png does not look like frame 2 of .*clip.mp4"):
        read_inputs([clip], path)
    for n in (2, 5, 9):
        cv2.imwrite(str(tmp_path / "clip" / f"{n}.png"), picture(n)[:40])
    with pytest.raises(ValueError, match=r"clip/2.png has 96x40 pixels, .*clip.mp4 has 96x64"):
        read_inputs([clip], path)


def test_sizes_that_do_not_agree(tmp_path, clip):
    path = saved(tmp_path / "a.json", (2, [pose()]), (4, [pose()]), size_wh=(192, 128))
    with pytest.raises(ValueError, match=r"a.json: frame 2 was labelled at 192x128 pixels, .*"
                       r"clip.mp4 has 96x64; labels"):  # fmt: skip
        read_inputs([clip], path)
    path = saved(tmp_path / "b.json", (2, [pose()]), (4, [pose()]), size_wh=SIZE[::-1])
    with pytest.raises(ValueError, match="turned by the video's metadata"):
        read_inputs([clip], path)


def turned(path):
    """Have the metadata of an MP4 file say that the video is to be turned by 90 degrees."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version 0: the matrix comes after 40 bytes
    one = 1 << 16
    data[start : start + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 64 * one, 0, 1 << 30)
    path.write_bytes(data)
    return path


def test_a_turned_video_is_read_upright(tmp_path):
    path = turned(film(tmp_path / "clip.mp4"))
    data = read_inputs([path], saved(tmp_path / "a.json", *((n, [pose()]) for n in (1, 8)))).dataset
    np.testing.assert_array_equal(data.frames.size_wh, [(64, 96)] * 12)
    image = FrameSource(tmp_path).read(data.videos[0], 3)
    expected = cv2.rotate(picture(3), cv2.ROTATE_90_CLOCKWISE)[..., ::-1]
    assert np.abs(image.astype(float) - expected).mean() < 8
    assert np.abs(image.astype(float) - expected[::-1, ::-1]).mean() > 30


def test_unreadable_videos(tmp_path, some, clip):
    broken = tmp_path / "clip.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"clip.mp4: not a video"):
        read_inputs([broken], some)
    with pytest.raises(FileNotFoundError, match=r"none.mp4: there is no such video file"):
        read_inputs([tmp_path / "none.mp4"], some)
    with pytest.raises(ValueError, match=r"videos: expected at least one"):
        read_inputs([], some)
    with pytest.raises(FileNotFoundError, match=r"none.json: there is no such file"):
        read_inputs([clip], tmp_path / "none.json")


def test_a_labelled_image_that_is_damaged(tmp_path):
    folder = images(tmp_path / "clip", ["1.png", "2.png", "3.png"])
    path = saved(
        tmp_path / "a.json", (1, [pose()]), (3, [pose()]), videos=(Video("clip", 4, 0, "%d.png"),)
    )
    (folder / "3.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"clip/3.png: not an image"):
        read_inputs([folder], path)


def test_frames_that_do_not_exist(tmp_path, clip):
    path = saved(tmp_path / "a.json", (2, [pose()]), (12, [pose()]))
    with pytest.raises(ValueError, match=r"a.json: 1 of 2 frames of video 'clip' do not exist"):
        read_inputs([clip], path)
    # One that is listed and not labelled does no harm.
    edited(path, lambda c: c["annotations"].pop())
    edited(path, lambda c: c["images"][1].update(is_labeled=False))
    assert len(read_inputs([clip], path).dataset.people) == 1


def test_empty_labels(tmp_path, clip):
    path = saved(tmp_path / "a.json", (2, []), (4, []))
    with pytest.raises(ValueError, match=r"a.json: no labels: nobody is labelled"):
        read_inputs([clip], path)


def test_frames_that_show_nobody_stay_labelled(tmp_path, clip):
    path = saved(tmp_path / "a.json", (2, [pose()]), (4, []), (7, [pose()]))
    data = read_inputs([clip], path).dataset
    assert np.flatnonzero(data.frames.labelled).tolist() == [2, 4, 7]


def test_predictions_are_no_labels(tmp_path, clip):
    scores = np.array([[0.9] * 3, [np.nan] * 3, [np.nan] * 3])
    frames = ((2, [pose()]), (4, [pose()]), (6, [pose()]))
    path = saved(tmp_path / "a.json", *frames, joint_scores=scores, score=[0.5, np.nan, np.nan])
    found = read_inputs([clip], path)
    assert np.flatnonzero(found.dataset.frames.labelled).tolist() == [4, 6]
    assert "1 of 3 people have scores, so they were predicted, not labelled" in found.notes[0]
    taken = read_inputs([clip], path, predicted_as_labels=True)
    assert len(taken.dataset.people) == 3 and not taken.dataset.people.predicted.any()
    assert "they are taken for labels" in taken.notes[0]
    everybody = saved(tmp_path / "b.json", *frames, joint_scores=np.full((3, 3), 0.4))
    with pytest.raises(ValueError, match=r"b.json: no labels: everybody in it was predicted"):
        read_inputs([clip], everybody)


def test_one_labelled_frame(tmp_path, clip):
    found = read_inputs([clip], saved(tmp_path / "a.json", (2, [pose(), pose(60)])))
    assert any(
        "clip: only frame 2 is labelled: other frames have a label on one side only, and this "
        "video gives 2 examples to learn from" in note
        for note in found.notes
    )


def test_joints_outside_the_image(tmp_path, clip):
    poses = [pose(), pose(), pose(), pose()]
    poses[3][0, :2] = -0.8, -3  # out
    poses[0][1, :2] = 97, 20  # one of three: out
    poses[1][:, 0] += 100  # all
    poses[2][2, :2] = 96, 64  # the last corner is inside
    path = saved(tmp_path / "a.json", *((2 * n, [p]) for n, p in enumerate(poses)))
    found = read_inputs([clip], path)
    note = next(n for n in found.notes if "outside" in n)
    assert "a.json: 5 of 12 labelled joints, of 3 people, lie outside the image" in note
    assert "'left_ear' at (97, 20) in frame 0 of video 'clip' of 96x64 pixels" in note
    people = found.dataset.people
    assert (people.keypoints[..., 2] > 0).sum(1).tolist() == [2, 0, 3, 2]
    np.testing.assert_array_equal(people.keypoints[0, 1], 0)
    np.testing.assert_allclose(people.bbox[0], boxes_of_joints(people.keypoints)[0])
    assert usable_people(found.dataset)[0].tolist() == [0, 2, 3]
    assert people.area[1] == 0
    poses = [pose(500)]
    with pytest.raises(ValueError, match=r"c.json: none of the 1 labels of video 'clip' can serve"):
        read_inputs([clip], saved(tmp_path / "c.json", (1, poses)))


def test_people_with_fewer_than_two_joints_are_kept_and_not_used(tmp_path, clip):
    lone, twice = pose(), pose()
    lone[1:] = 0
    twice[:, :2] = 40
    frames = ((2, [lone]), (4, [pose()]), (6, [twice]), (8, [pose()]))
    found = read_inputs([clip], saved(tmp_path / "a.json", *frames))
    assert len(found.dataset.people) == 4
    assert usable_people(found.dataset)[0].tolist() == [1, 3]
    assert any("2 people have fewer than two joints at different places" in n for n in found.notes)
    assert any("the first in frame 2 of video 'clip'" in n for n in found.notes)


def test_boxes_and_areas_that_do_not_serve(tmp_path, clip):
    path = saved(tmp_path / "a.json", *((n, [pose()]) for n in (2, 4, 6, 8)))

    def spoil(content):
        content["annotations"][0].update(area=0)
        content["annotations"][1].update(bbox=[400, 400, 20, 20])
        content["annotations"][2].update(bbox=[0, 0, 0, 0], area=0)

    data = read_inputs([clip], edited(path, spoil)).dataset
    assert usable_people(data)[0].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(data.people.bbox, boxes_of_joints(data.people.keypoints))


def test_somebody_twice_in_a_frame(tmp_path, clip):
    frames = ((2, [pose(), pose()]), (5, [pose(31)]))
    found = read_inputs([clip], saved(tmp_path / "a.json", *frames))
    assert len(found.dataset.people) == 2 and found.dataset.people.track_id.tolist() == [0, 0]
    assert any("1 people are labelled twice with the same joints" in n for n in found.notes)
    assert any("the first in frame 2 of video 'clip'" in n for n in found.notes)
    named = read_inputs([clip], saved(tmp_path / "b.json", *frames, track_id=[-1, 4, 4])).dataset
    assert named.people.track_id.tolist() == [4, 4]
    with pytest.raises(ValueError, match=r"tracks 0 and 4 have the same joints in frame 2 of vid"):
        read_inputs([clip], saved(tmp_path / "c.json", *frames, track_id=[4, 0, 4]))
    with pytest.raises(
        ValueError, match=r"d.json: track 4 occurs twice in frame 2 of video 'clip'"
    ):
        read_inputs([clip], saved(tmp_path / "d.json", *frames, track_id=[4, 4, 4]))
    near = ((2, [pose(), pose(30.1)]), (5, [pose(31)]))
    found = read_inputs([clip], saved(tmp_path / "e.json", *near))
    assert len(found.dataset.people) == 3
    assert any("nearly the same joints as another one" in n for n in found.notes)


def test_numbers_that_are_none(tmp_path, clip):
    path = saved(tmp_path / "a.json", (2, [pose()]), (4, [pose()]))
    spoiled = json.loads(path.read_text())
    for value, shown in ((float("nan"), "nan"), (None, "None"), ("3", "'3'")):
        spoiled["annotations"][1]["keypoints"][4] = value
        path.write_text(json.dumps(spoiled))
        with pytest.raises(ValueError, match=r"a.json: image clip/000004.jpg, annotation 2: y of "
                           rf"joint 'left_ear' is {shown}, expected a number"):  # fmt: skip
            read_inputs([clip], path)


def test_fractions_in_place_of_pixels(tmp_path, clip):
    path = saved(tmp_path / "a.json", (2, [pose(0.4, 0.3, 0.01)]), (4, [pose(0.5, 0.3, 0.01)]))
    with pytest.raises(ValueError, match="between 0 and 1: expected pixels, got fractions"):
        read_inputs([clip], path)


def test_joints_named_twice(tmp_path, clip):
    rows = [
        ["scorer", "me", "me", "me", "me"],
        ["bodyparts", "nose", "nose", "nose", "nose"],
        ["coords", "x", "y", "x", "y"],
        ["labeled-data/clip/img2.png", 1, 2, 3, 4],
    ]
    with open(tmp_path / "dlc.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(ValueError, match=r"dlc.csv: column 'me nose x' is there twice"):
        read_inputs([clip], tmp_path / "dlc.csv")
    (tmp_path / "plain.csv").write_text("frame_idx,nose.x,nose.y,nose.x,nose.y\n1,2,3,4,5\n")
    with pytest.raises(ValueError, match=r"plain.csv: column 'nose.x' is there twice"):
        read_inputs([clip], tmp_path / "plain.csv")
    path = saved(tmp_path / "a.json", (2, [pose()]))
    edited(path, lambda c: c["categories"][0].update(keypoints=["nose", "nose", "tail"]))
    with pytest.raises(ValueError, match=r"a.json: .*unique names"):
        read_inputs([clip], path)


def test_skeleton_files(tmp_path, clip, some):
    def skeleton(text):
        (tmp_path / "skeleton.yaml").write_text(text)
        return tmp_path / "skeleton.yaml"

    given = skeleton("joints: [right_ear, nose]\nlimbs: [[right_ear, nose]]\n")
    found = read_inputs([clip], some, given)
    assert found.dataset.skeleton.joints == ("right_ear", "nose")
    np.testing.assert_allclose(found.dataset.people.keypoints[0], pose(22)[[2, 0]])
    assert any("joints left_ear are not in skeleton" in n for n in found.notes)
    same = read_inputs([clip], some, skeleton("joints: [right_ear, left_ear, nose]"))
    assert not any("not in skeleton" in n for n in same.notes)
    with pytest.raises(ValueError, match=r"some.json: skeleton .* has joints \['tail'\], the file"):
        read_inputs([clip], some, skeleton("joints: [nose, tail]"))
    with pytest.raises(ValueError, match=r"unique names"):
        read_inputs([clip], some, skeleton("joints: [nose, nose]"))
    for text in ("joints: [", "joints: 3", "- nose"):
        with pytest.raises(ValueError, match="skeleton"):
            read_inputs([clip], some, skeleton(text))
    with pytest.raises(ValueError, match=r"skeleton: expected posetrack|skeleton: expected coco"):
        read_inputs([clip], some, tmp_path / "none.yaml")
    with pytest.raises(ValueError, match=r"coco' has joints \[.*'left_eye'"):
        read_inputs([clip], some, "coco")
    with pytest.raises(ValueError, match=r"at least two joints, .*got \['nose'\]"):
        read_inputs([clip], some, skeleton("joints: [nose]"))


def test_a_file_without_names_takes_those_of_the_skeleton(tmp_path, clip):
    names = [f"j{i}" for i in range(17)]
    (tmp_path / "s.yaml").write_text(f"joints: {names}\n")
    points = np.stack([np.arange(17) * 3 + 5, np.arange(17) * 2 + 5, np.full(17, 2)], 1)
    content = {
        "images": [{"id": 1, "file_name": "clip/000004.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 1, "bbox": [5, 5, 50, 34], "keypoints": points.ravel().tolist()}
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    found = read_inputs([clip], tmp_path / "a.json", tmp_path / "s.yaml")
    assert found.dataset.skeleton.joints == tuple(names)
    assert not any("left out" in note for note in found.notes)


def test_tracks_are_linked_and_said(tmp_path, clip):
    frames = ((n, [pose(20 + n), pose(70)]) for n in (1, 4, 7))
    found = read_inputs([clip], saved(tmp_path / "a.json", *frames))
    assert found.dataset.people.track_id.tolist() == [0, 1] * 3
    assert "clip: 6 labels without a track were linked: 2 new tracks" in found.notes
    frames = ((n, [pose(20 + n), pose(70)]) for n in (1, 4, 7))
    given = read_inputs([clip], saved(tmp_path / "b.json", *frames, track_id=[5, 3] * 3))
    assert given.dataset.people.track_id.tolist() == [5, 3] * 3 and given.notes == ()


def test_a_video_without_usable_labels_among_others(tmp_path):
    paths = [film(tmp_path / f"{name}.mp4") for name in "ab"]
    lone = pose()
    lone[1:] = 0
    path = saved(
        tmp_path / "l.json", (0, 2, [pose()]), (1, 3, [lone]),
        videos=(Video("a", 12, 0, "", "a.mp4"), Video("b", 12, 0, "", "b.mp4")),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"none of the 1 labels of video 'b' can serve"):
        read_inputs(paths, path)


def test_a_video_that_is_cut_off_says_so(tmp_path):
    whole = film(tmp_path / "clip.avi", 30)
    (tmp_path / "cut").mkdir()
    cut = tmp_path / "cut" / "clip.avi"
    data = whole.read_bytes()
    cut.write_bytes(data[: int(0.8 * len(data))])
    found = read_inputs([cut], saved(tmp_path / "a.json", (1, [pose()]), (3, [pose()])))
    count = found.dataset.videos[0].frame_count
    assert 3 < count < 29
    assert any(f"cannot be read from number {count} on" in n for n in found.notes)


@pytest.mark.parametrize("name", ["a.csv", "a.xml"])
def test_other_formats(tmp_path, clip, some, name):
    save_labels(load_coco(some), tmp_path / name)
    data = read_inputs([clip], tmp_path / name).dataset
    assert data.frames.number[data.people.frame].tolist() == [2, 5, 9]
    np.testing.assert_allclose(data.people.keypoints[1], pose(25), atol=0.01)


def test_real_mouse():
    folder = SHARED / "mirror_mouse"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data")
    found = read_inputs([folder / "labeled-data"], folder / "CollectedData.csv")
    data = found.dataset
    assert len(data.frames) == 93 and data.frames.labelled.sum() == 90
    assert len(data.people) == 90 and len(usable_people(data)[0]) == 90
    assert (data.people.track_id == 0).all()
    with pytest.raises(ValueError, match=r"img01.png does not look like frame 1 of .*test_vid"):
        read_inputs([folder / "videos" / "test_vid.mp4"], folder / "CollectedData.csv")
