"""COCO-style files: what is read, derived, rejected, and written back; loading time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pycocotools.coco
import pytest

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.frame_names import frame_of_file
from posewarper.data.tables import Frames, People, PoseDataset, Regions, Video
from posewarper.skeleton import COCO, POSETRACK, Skeleton

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "posetrack18_sample"
TAIL = Skeleton(
    "mouse", ("left_ear", "right_ear", "tail"), ((0, 1),), ((0, 2), (1, 2)), (0.1, 0.1, 0.2), (0, 1)
)


def image(i, name, **more):
    return {"id": i, "file_name": name, "width": 640, "height": 480, **more}


def person(i, image_id, keypoints=None, **more):
    keypoints = [1.5, 2, 1] * 17 if keypoints is None else keypoints
    return {
        "id": i,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [1, 2, 30, 40],
        "keypoints": keypoints,
        **more,
    }


def write(path, images, annotations, **more):
    more.setdefault("categories", [{"id": 1, "name": "person"}])
    path.write_text(json.dumps({"images": images, "annotations": annotations, **more}))
    return path


@pytest.fixture
def example():
    """Two videos (one of them a file), regions, head boxes, tracks, a crowd, an empty frame."""
    videos = (Video("a/clip", 9, 1, "%08d.jpg"), Video("b", 5, 0, "", "b.mp4"))
    frames = Frames.make(
        videos,
        [0, 0, 1],
        [1, 7, 4],
        size_wh=[(64, 48), (64, 48), (32, 32)],
        labelled=[True, False, True],
        image_id=[5, 9, 2],
        frame_id=[100, 700, 4],
        original_file_name=["x/1_crop.jpg", "", ""],
        ignore=Regions.make([[[(0, 0), (5, 0), (5, 5.5)]], [], [[(1, 2)] * 3, [(3, 4)] * 4]]),
    )
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(0, 60, (3, 3, 3)).round(3)
    keypoints[..., 2] = [[0, 1, 2], [2, 2, 0], [1, 1, 1]]
    people = People.make(
        [0, 2, 0],
        keypoints,
        rng.uniform(0, 60, (3, 4)),
        area=[3, 0.5, 7],
        head_box=[(1, 2, 3, 4), [np.nan] * 4, (0.5, 0, 9, 9)],
        track_id=[4, -1, 0],
        annotation_id=[30, 10, 20],
        crowd=[False, True, False],
    )
    return PoseDataset(TAIL, videos, frames, people)


def assert_equal(a, b):
    assert a.skeleton == b.skeleton and a.videos == b.videos
    for table in ("frames", "people"):
        for name, column in vars(getattr(a, table)).items():
            other = getattr(getattr(b, table), name)
            if isinstance(column, Regions):
                for key, values in vars(column).items():
                    np.testing.assert_array_equal(values, getattr(other, key), err_msg=key)
            else:
                np.testing.assert_array_equal(column, other, err_msg=name)


def test_round_trip_is_exact(example, tmp_path):
    save_coco(example, tmp_path / "new" / "x.json")
    assert_equal(load_coco(tmp_path / "new" / "x.json"), example)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.json"]  # nothing left over
    raw = json.loads((tmp_path / "new" / "x.json").read_text())
    assert raw["images"][2]["file_name"] == "b/000004.jpg"
    assert raw["images"][0]["nframes"] == 9 and raw["images"][0]["frame_id"] == 100
    assert raw["annotations"][0]["head_box"] == [1, 2, 3, 4]
    assert raw["annotations"][0]["num_keypoints"] == 2
    assert raw["annotations"][1]["head_box"] == [] and raw["annotations"][1]["iscrowd"] == 1
    assert raw["categories"][0]["skeleton"] == [[1, 3], [2, 3]]  # counted from 1


def test_written_file_serves_pycocotools(example, tmp_path):
    save_coco(example, tmp_path / "x.json")
    reader = pycocotools.coco.COCO(str(tmp_path / "x.json"))
    assert reader.getAnnIds(imgIds=[5], iscrowd=False) == [30, 20]


def test_known_skeletons_come_back(tmp_path):
    for skeleton in (POSETRACK, COCO):
        videos = (Video("v", 1),)
        empty = People.make([], np.zeros((0, 17, 3)), [])
        dataset = PoseDataset(skeleton, videos, Frames.make(videos, [0], [0]), empty)
        save_coco(dataset, tmp_path / "x.json")
        assert load_coco(tmp_path / "x.json").skeleton is skeleton


def test_interrupted_write_leaves_the_old_file(example, tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    save_coco(example, path)
    before = path.read_bytes()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        save_coco(example, path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_2019_posetrack17_style(tmp_path):
    images = [
        image(1, "bonn_5sec/000342_mpii/00000004.jpg", nframes=30, frame_id=4),
        image(2, "bonn_5sec/000342_mpii/00000011.jpg", nframes=30, frame_id=11),
        image(3, "mpii/1/00000002.jpg", nframes=5, frame_id=2),
    ]
    people = [
        person(1, 1, area=12.5, track_id=3, head_box=[1, 2, 3, 4], iscrowd=0),
        person(2, 3, area=0, head_box=[]),
    ]
    got = load_coco(write(tmp_path / "x.json", images, people))
    assert got.skeleton is POSETRACK
    assert got.videos == (
        Video("bonn_5sec/000342_mpii", 30, 1, "%08d.jpg"),
        Video("mpii/1", 5, 1, "%08d.jpg"),
    )
    assert got.frames.number.tolist() == [4, 11, 2]
    assert got.frames.labelled.tolist() == [True, False, True]  # nobody is annotated in the second
    assert got.people.area.tolist() == [12.5, 0] and got.people.track_id.tolist() == [3, -1]
    assert (
        got.people.head_box[0].tolist() == [1, 2, 3, 4] and np.isnan(got.people.head_box[1]).all()
    )
    clip = got.videos[0]
    assert [clip.clip(n) for n in (-1, 0, 1, 30, 31)] == [1, 1, 1, 30, 30]
    assert clip.file_name(31) == "bonn_5sec/000342_mpii/00000031.jpg"


def test_2019_posetrack18_style(tmp_path):
    name = "images/val/000342_mpii_test/{:06d}.jpg"
    images = [image(1, name.format(3), nframes=9, frame_id=10003420003, is_labeled=True)]
    got = load_coco(write(tmp_path / "x.json", images, [person(7, 1, bbox_head=[10, 20, 30, 40])]))
    assert got.videos == (Video("images/val/000342_mpii_test", 9, 0, "%06d.jpg"),)
    assert [got.videos[0].clip(n) for n in (-1, 0, 8, 9)] == [0, 0, 8, 8]
    assert got.frames.number.tolist() == [3] and got.frames.frame_id.tolist() == [10003420003]
    assert got.people.area.tolist() == [1200]  # of the box, as the file has none
    assert got.people.head_box[0].tolist() == [10, 20, 40, 60]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a/b/000012.jpg", ("a/b", "%06d.jpg", 12)),
        ("a/img7.png", ("a", "img%d.png", 7)),
        ("cam2_007_x.jp2", ("", "cam2_%03d_x.jp2", 7)),
        ("a/0.jpg", ("a", "%d.jpg", 0)),
        ("a/5%/still.jpg", ("a/5%", "still.jpg", 0)),
        ("a/5%_01.jpg", ("a", "5%%_%02d.jpg", 1)),
    ],
)
def test_frame_of_file(name, place):
    assert frame_of_file(name) == place
    assert Video("v", 1, 0, place[1], place[0] or ".").file_name(place[2]) == name


def test_names_that_tell_videos_apart(tmp_path):
    names = ["d/l_9.png", "d/l_10.png", "d/r_9.png", "e/0999.jpg", "e/1000.jpg", "still.jpg"]
    images = [image(i, name) for i, name in enumerate(names)]
    got = load_coco(write(tmp_path / "x.json", images, []))
    assert [(v.name, v.pattern, v.frame_count) for v in got.videos] == [
        ("d/l_%d.png", "l_%d.png", 11),
        ("d/r_%d.png", "r_%d.png", 10),
        ("e", "%04d.jpg", 1001),
        (".", "still.jpg", 1),
    ]
    for row, name in enumerate(names):
        video = got.videos[got.frames.video[row]]
        assert video.file_name(int(got.frames.number[row])) == name


def test_images_of_one_file_are_one_frame(tmp_path):
    """As in the 2019 files of pseudo-labels, which do not merge with labelled frames."""
    images = [image(i, f"v/{n:08d}.jpg", nframes=9) for i, n in ((1, 4), (2, 5), (3, 4))]
    path = write(tmp_path / "x.json", images, [person(1, 2), person(2, 3), person(3, 1)])
    with pytest.warns(UserWarning, match=r"x\.json: 1 images have the file name"):
        got = load_coco(path)
    assert got.frames.number.tolist() == [4, 5] and got.frames.labelled.all()
    assert got.people.frame.tolist() == [1, 0, 0]


def test_first_frame(tmp_path):
    images = [image(1, "v/001.png", nframes=3), image(2, "v/003.png", nframes=3)]
    path = write(tmp_path / "x.json", images, [])
    assert load_coco(path).videos == (Video("v", 3, 1, "%03d.png"),)  # frame 3 of 3
    assert load_coco(path, first_frame=0).videos[0].frame_count == 4
    images[0]["file_name"] = "v/000.png"
    assert load_coco(write(path, images, [])).videos[0].first_frame == 0


def test_skeleton_of_the_file(tmp_path):
    category = {"id": 3, "name": "fly", "keypoints": ["head", "left_wing", "right_wing"]}
    other = {"id": 4, "name": "car", "keypoints": ["wheel"]}
    points = [1, 2, 2, 3, 4, 1, 5, 6, 0]
    people = [person(1, 1, points, category_id=3), person(2, 1, [1, 1, 1], category_id=4)]
    path = write(tmp_path / "x.json", [image(1, "v/0.jpg")], people, categories=[category, other])
    got = load_coco(path)
    assert got.skeleton.joints == ("head", "left_wing", "right_wing")
    assert got.skeleton.flip_pairs == ((1, 2),)
    assert got.people.keypoints.tolist() == [[[1, 2, 2], [3, 4, 1], [5, 6, 0]]]
    part = load_coco(path, Skeleton("part", ("right_wing", "head")))  # by name
    assert part.people.keypoints.tolist() == [[[5, 6, 0], [1, 2, 2]]]
    with pytest.raises(ValueError, match=r"x.json.*'tail'"):
        load_coco(path, TAIL)


@pytest.mark.parametrize(
    ("images", "people", "message"),
    [
        ([image(4, "v/0.jpg"), image(4, "v/1.jpg")], [], "image id 4 occurs more than once"),
        ([image(4, "v/0.jpg"), image(4, "v/0.jpg")], [], "image id 4 occurs more than once"),
        ([image(4, "v/007.jpg"), image(5, "v/7.jpg")], [], r"image 5 \(v/7.jpg\) is frame 7"),
        ([image(1, "v/0.jpg")], [person(8, 1), person(8, 1)], "annotation id 8 occurs more"),
        ([image(1, "v/0.jpg")], [person(8, 3)], "annotation 8 belongs to image 3"),
        ([image(1, "v/0.jpg")], [person(8, 1, [1, 2])], r"annotation 8 has 2 numbers.*3 \* 17"),
        ([image(1, "v/0.jpg")], [person(8, 1, bbox=[1, 2, 3])], "annotation 8: 'bbox'"),
        ([image(1, "v/0.jpg")], [person(8, 1, bbox=[1, 2, 3, np.nan])], "annotation 8 is not fin"),
        ([{"id": 3}], [], "image 3 lacks"),
        ([image(6, "v/0.jpg", ignore_regions_x=[[1, 2]])], [], "ignore regions of image 6"),
    ],
)
def test_errors_name_file_and_id(images, people, message, tmp_path):
    with pytest.raises(ValueError, match=f"x.json.*{message}"):
        load_coco(write(tmp_path / "x.json", images, people))


def test_files_that_are_not_coco(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_coco(tmp_path / "none.json")
    for text, message in (("{", "no valid JSON"), ("[]", "expected an object"), ("\xff", "JSON")):
        (tmp_path / "x.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=f"x.json.*{message}"):
            load_coco(tmp_path / "x.json")


def test_people_without_keypoints(tmp_path):
    path = write(tmp_path / "x.json", [image(1, "v/0.jpg")], [person(1, 1, [])])
    assert not load_coco(path).people.keypoints.any()


def test_select_and_concatenate(example):
    part = example.select(videos=np.array([1]))
    assert part.videos == example.videos[1:] and part.frames.image_id.tolist() == [2]
    assert part.people.annotation_id.tolist() == [10] and part.people.frame.tolist() == [0]
    assert [len(p) for p in part.frames.ignore.of(0)] == [3, 4]
    rest = example.select(videos=np.array([True, False]))
    both = PoseDataset.concatenate([rest, part], "both")
    assert both.people.annotation_id.tolist() == [30, 20, 10]
    assert both.people.frame.tolist() == [0, 0, 2]
    assert [len(both.frames.ignore.of(f)) for f in range(3)] == [1, 0, 2]
    assert [rows.tolist() for rows in both.people_by_frame()] == [[0, 1], [], [2]]
    assert both.frame_rows() == {(0, 1): 0, (0, 7): 1, (1, 4): 2}
    assert both.renumbered().frames.image_id.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="both: video 'b' is listed twice"):
        PoseDataset.concatenate([part, part], "both")


def test_labels_taken_away(example):
    got = example.with_labels_of(np.array([2]))
    assert got.frames.labelled.tolist() == [False, False, True]
    assert got.people.annotation_id.tolist() == [10]
    assert not example.with_labels_of(np.array([1])).frames.labelled.any()  # was not labelled


def test_real_sample(tmp_path):
    path = SAMPLE / "annotations" / "test_posetrack18_val.json"
    if not path.exists():
        pytest.skip(f"the PoseTrack18 sample is not there: {SAMPLE}")
    got = load_coco(path)
    assert got.skeleton is POSETRACK
    assert [(v.frame_count, v.first_frame) for v in got.videos] == [(140, 0), (101, 0), (149, 0)]
    assert len(got.people) == 14 and got.people.track_id.min() == 0
    assert got.people.head_box[0].tolist() == [378, 503, 422, 556]
    assert len(got.frames.ignore.of(0)) == 4
    save_coco(got, tmp_path / "x.json")
    assert_equal(load_coco(tmp_path / "x.json"), got)


def test_loading_time(tmp_path):
    """100,000 people in 50,000 frames; the time of the process, as others may share the machine."""
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(0, 700, (500, 51)).round(3)
    keypoints[:, 2::3] = 2
    regions = [rng.integers(0, 999, 20).tolist()] * 2
    frame = image(0, "NAME", nframes=100, ignore_regions_x=regions, ignore_regions_y=regions)
    frame_text = json.dumps(frame).replace('"id": 0', '"id": %d').replace("NAME", "v/%06d/%06d.jpg")
    texts = []
    for row in keypoints.tolist():
        entry = person(0, 0, row, area=6.5, track_id=3, head_box=[1.5, 2.5, 30.25, 40.5])
        text = json.dumps(entry).replace('"image_id": 0', '"image_id": %d')
        texts.append(text.replace('"id": 0', '"id": %d'))
    with open(tmp_path / "x.json", "w") as file:
        images = ",".join(frame_text % (i, i // 100, i % 100) for i in range(50_000))
        people = ",".join(texts[i % 500] % (i, i // 2) for i in range(100_000))
        file.write(f'{{"images": [{images}], "annotations": [{people}], "categories": []}}')
    start = time.process_time()
    got = load_coco(tmp_path / "x.json")
    seconds = time.process_time() - start
    assert (len(got.videos), len(got.frames), len(got.people)) == (500, 50_000, 100_000)
    np.testing.assert_array_equal(got.people.keypoints[99_999].ravel(), keypoints[-1])
    assert got.frames.ignore.of(49_999)[1][3].tolist() == [regions[0][3]] * 2
    assert seconds < 5
