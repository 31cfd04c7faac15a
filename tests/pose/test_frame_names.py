"""Which part of the names of images is the number of the frame."""

from __future__ import annotations

import json
import warnings

import cv2
import numpy as np
import pytest

from posewarper.data.annotations import load_coco
from posewarper.data.dataset import load_detections
from posewarper.data.formats import load_labels
from posewarper.data.frame_names import frame_of_file, frames_of_files
from posewarper.streaming.sources import open_source

HASHES = [
    "cfcd208495d565ef66e7dff9f98764da", "d3d9446802a44259755d38e6d163e820",
    "98f13708210194c475687be6106a3b84", "34173cb38f07f89ddbebc2ac9128303f",
]  # fmt: skip
NUMBERS = (0, 10, 20, 110)


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        ([f"clip_frame{n:05d}_30fps.png" for n in NUMBERS], "clip_frame%05d_30fps.png"),
        ([f"clip_frame{n}_30fps.png" for n in NUMBERS], "clip_frame%d_30fps.png"),
        ([f"clip2_frame{n:03d}_v1.png" for n in NUMBERS], "clip2_frame%03d_v1.png"),
        ([f"f{n:03d}_v01.png" for n in NUMBERS], "f%03d_v01.png"),
        ([f"a-{n:04d}_jpg.rf.{h}.jpg" for n, h in zip(NUMBERS, HASHES, strict=True)], "a-%04d.jpg"),
        ([f"{h[:8]}-img{n:03d}.png" for n, h in zip(NUMBERS, HASHES, strict=True)], "img%03d.png"),
        (["img000_Zo0W18z.png", "img010_bC3dEf7.png", "img020_aaBc12x.png", "img110.png"],
         "img%03d.png"),
    ],
)  # fmt: skip
def test_the_number_is_what_varies(names, pattern):
    assert frames_of_files(names) == [("", pattern, n) for n in NUMBERS]


@pytest.mark.parametrize(
    "names",
    [
        [f"{n:06d}.jpg" for n in NUMBERS],
        [f"{n}.jpg" for n in NUMBERS],
        ["img010.png", "img1000.png"],
        ["left_7.png", "right_7.png", "left_8.png"],
        [f"cam{cam}_{n:03d}.png" for cam in (1, 2, 3) for n in (7, 8)],
        [f"cam{cam}_007.png" for cam in (1, 2, 3)],  # three cameras, one moment
        [f"mouse{n}_frame12.png" for n in (1, 1)],
        [f"20230105-{n:03d}.png" for n in NUMBERS] + ["20230106-000.png"],  # dates are no hashes
        [f"deadbeef-{n:03d}.png" for n in NUMBERS],  # nor is what all names begin with
        [f"img_frame{n}.png" for n in (12, 13, 14)],  # nor words of seven letters
        [f"img1_{n:07d}.png" for n in NUMBERS],
        ["still.png", "5%_01.jpg"],
        ["vid_2021_0001.png"],
    ],
)
def test_healthy_names_are_read_as_when_they_are_alone(names):
    for place, name in zip(frames_of_files(names), names, strict=True):
        alone = frame_of_file(name)
        assert place[::2] == alone[::2]
        assert place[1].replace("%03d", "%d") == alone[1].replace("%03d", "%d")


def test_folders_are_read_one_by_one():
    names = ["a/f1_v2.png", "b/f1_v2.png", "b/f1_v3.png", "a/f7_v2.png"]
    assert frames_of_files(names) == [
        ("a", "f%d_v2.png", 1), ("b", "f1_v%d.png", 2), ("b", "f1_v%d.png", 3),
        ("a", "f%d_v2.png", 7),
    ]  # fmt: skip


def test_copies_of_one_image_are_of_different_videos():
    """Roboflow writes several versions of an image."""
    names = [f"a-0010_jpg.rf.{h}.jpg" for h in HASHES[:2]]
    places = frames_of_files(names)
    assert [place[2] for place in places] == [10, 10] and len({p[1] for p in places}) == 2
    assert [place[1] for place in places] == names


def coco(path, names, extra=()):
    images = [
        {"id": i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)
    ]
    for image, name in zip(images, extra, strict=False):
        image["extra"] = {"name": name}
    people = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 3, 4],
         "keypoints": [10, 12, 2, 20, 22, 2]}
        for i in range(len(names))
    ]  # fmt: skip
    category = {"id": 1, "name": "mouse", "keypoints": ["nose", "tail"]}
    path.write_text(json.dumps({"images": images, "annotations": people, "categories": [category]}))
    return path


def test_roboflow_says_what_an_image_was_called(tmp_path):
    names = [f"x_jpg.rf.{h}.jpg" for h in HASHES]
    extra = [f"frame_{n}.jpg" for n in NUMBERS]
    data = load_coco(coco(tmp_path / "a.json", names, extra))
    assert [v.pattern for v in data.videos] == ["frame_%d.jpg"] and data.videos[
        0
    ].frame_count == 111
    np.testing.assert_array_equal(data.frames.number, NUMBERS)
    assert data.frames.file_name == tuple(names)  # where the images are


def test_numbers_that_are_none_of_frames_are_told(tmp_path):
    message = r"a.json: .*those of frames: 1 of .*up to number 9120302 \(and 1 videos like it\)"
    with pytest.warns(UserWarning, match=message):
        load_coco(coco(tmp_path / "a.json", ["a_x9120302.png", "b_x9120303.png"]))
    text = "image,a.x,a.y\n" + "".join(f"d/{n}.png,1,2\n" for n in (7, 200_007))
    (tmp_path / "a.csv").write_text(text)
    with pytest.warns(UserWarning, match=r"a.csv: .*2 of 'd' up to number 200007; name images by"):
        load_labels(tmp_path / "a.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_coco(coco(tmp_path / "b.json", ["0.png", "90000.png"]))  # an hour at 25 per second


def test_predict_and_boxes_read_names_the_same_way(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    names = [f"f{n}_30fps_v2.png" for n in (3, 4, 10)]
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros((8, 8, 3), np.uint8))
    source = open_source(str(folder), 25.0)
    assert [frame.number for frame in source.frames(0)] == [3, 4, 10]
    data = load_coco(coco(tmp_path / "a.json", [f"clip/{name}" for name in names[:2]]))
    boxes = [{"image_name": f"clip/{n}", "bbox": [0, 0, 2, 2], "score": 1.0} for n in names[:2]]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    assert load_detections(tmp_path / "boxes.json", data).number.tolist() == [3, 4]
