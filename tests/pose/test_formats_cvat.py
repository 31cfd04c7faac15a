"""CVAT's files: XML of videos and of images, and its COCO export."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from posewarper.data.formats import load_labels, load_track_names, save_labels
from posewarper.data.formats.label_file import boxes_of_joints
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.skeleton import Skeleton

CVAT_LABELS = """<labels>
<label><name>mouse</name><type>skeleton</type>
<svg>&lt;line data-type="edge" data-node-from="1" data-node-to="2"&gt;&lt;/line&gt;&lt;circle
 data-node-id="1" data-label-name="tail"&gt;&lt;/circle&gt;&lt;circle data-node-id="2"
 data-label-name="nose"&gt;&lt;/circle&gt;</svg></label>
<label><name>nose</name><type>points</type><parent>mouse</parent></label>
<label><name>tail</name><type>points</type><parent>mouse</parent></label></labels>"""
CVAT_VIDEO = f"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><size>4</size><mode>interpolation</mode>
<start_frame>0</start_frame><stop_frame>11</stop_frame>{CVAT_LABELS}
<original_size><width>64</width><height>48</height></original_size>
<source>clip.mp4</source></task></meta>
<track id="5" label="mouse" source="manual">
<skeleton frame="2" keyframe="1" z_order="0">
<points label="tail" keyframe="1" outside="0" occluded="1" points="1.00,2.00"></points>
<points label="nose" keyframe="1" outside="0" occluded="0" points="3.00,4.00"></points></skeleton>
<skeleton frame="3" keyframe="0" z_order="0">
<points label="tail" keyframe="0" outside="0" occluded="1" points="1.50,2.00"></points>
<points label="nose" keyframe="0" outside="0" occluded="0" points="3.50,4.00"></points></skeleton>
<skeleton frame="6" keyframe="0" z_order="0">
<points label="tail" keyframe="0" outside="0" occluded="0" points="5.00,6.00"></points>
<points label="nose" keyframe="1" outside="1" occluded="0" points="7.00,8.00"></points></skeleton>
<skeleton frame="8" keyframe="1" z_order="0">
<points label="tail" keyframe="1" outside="1" occluded="0" points="5.00,6.00"></points>
<points label="nose" keyframe="1" outside="1" occluded="0" points="7.00,8.00"></points></skeleton>
</track></annotations>"""


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def one_animal(video, numbers, *, size=(64, 48)):
    """A nose and a tail in some frames of one video."""
    points = np.array([[[10 + n, 12, 2], [30, 20 + n, 2]] for n in range(len(numbers))], float)
    frames = Frames.make((video,), [0] * len(numbers), numbers, size_wh=size)
    people = People.make(range(len(numbers)), points, boxes_of_joints(points))
    return PoseDataset(Skeleton("mouse", ("nose", "tail")), (video,), frames, people)


def film(path, frames=12):
    """A video of 64x48 whose frame n has the grey value 20 n."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()
    return path


def test_cvat_video(tmp_path):
    found = load_labels(write(tmp_path / "annotations.xml", CVAT_VIDEO))
    assert found.skeleton.joints == ("nose", "tail") and found.skeleton.limbs == ((1, 0),)
    assert found.skeleton.name == "mouse"
    assert found.videos == (Video("clip", 12, 0, "", "clip.mp4"),)
    np.testing.assert_array_equal(found.frames.number, [2, 6])  # key frames in which it is there
    np.testing.assert_array_equal(found.people.track_id, [5, 5])
    expected = [[[3, 4, 2], [1, 2, 1]], [[0, 0, 0], [5, 6, 2]]]
    np.testing.assert_array_equal(found.people.keypoints, expected)
    np.testing.assert_array_equal(found.frames.size_wh, [(64, 48)] * 2)


def test_cvat_tracks_end_where_the_animal_is_gone(tmp_path):
    data = one_animal(Video("clip", 30, 0, "", "clip.mp4"), [2, 11, 20])
    data = replace(data, people=replace(data.people, track_id=np.array([0, 1, 0])))
    save_labels(data, tmp_path / "a.xml")
    text = (tmp_path / "a.xml").read_text()
    shapes = [line.split('"')[1] for line in text.splitlines() if "<skeleton" in line]
    assert shapes == ["2", "11", "20", "11", "20"]  # track 0 ends at 11, track 1 at 20
    assert text.count('outside="1"') == 4


def test_cvat_images(tmp_path):
    text = f"""<annotations><version>1.1</version><meta><task>{CVAT_LABELS}</task></meta>
    <image id="0" name="a/000005.jpg" width="64" height="48">
    <skeleton label="mouse" source="manual" z_order="0">
    <points label="nose" source="manual" outside="0" occluded="1" points="1.0,2.5"></points>
    <points label="tail" source="manual" outside="1" occluded="0" points="1.0,2.5"></points>
    <attribute name="track_id">bob</attribute></skeleton></image>
    <image id="1" name="a/000006.jpg" width="64" height="48"></image></annotations>"""
    path = write(tmp_path / "annotations.xml", text)
    found = load_labels(path)
    assert found.videos == (Video("a", 7, 0, "%06d.jpg"),)
    np.testing.assert_array_equal(found.people.keypoints, [[[1, 2.5, 1], [0, 0, 0]]])
    np.testing.assert_array_equal(found.frames.labelled, [True, False])
    assert load_track_names(path) == {0: "bob"}
    # images of a video task
    text = text.replace("</task>", "<source>clip.mp4</source></task>").replace("a/000", "frame_000")
    found = load_labels(write(path, text))
    assert found.videos[0].path == "clip.mp4"
    np.testing.assert_array_equal(found.frames.number, [5, 6])


def test_cvat_points_without_skeletons(tmp_path):
    text = """<annotations><version>1.1</version><meta></meta>
    <image id="0" name="5.jpg" width="64" height="48">
    <points label="nose" occluded="0" points="1.0,2.5" group_id="1"></points>
    <points label="tail" occluded="0" points="3,4" group_id="1"></points>
    <points label="nose" occluded="0" points="5,6" group_id="2"></points></image></annotations>"""
    found = load_labels(write(tmp_path / "annotations.xml", text))
    expected = [[[1, 2.5, 2], [3, 4, 2]], [[5, 6, 2], [0, 0, 0]]]
    np.testing.assert_array_equal(found.people.keypoints, expected)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('<points label="tail"', '<points label="paw"', r"'mouse' has points \['paw'\]"),
        ('label="nose" keyframe="1"', 'label="tail" keyframe="1"', "joint 'tail' .* occurs twice"),
        ("3.00,4.00", "3.00", "joint 'nose': expected 'x,y', got '3.00'"),
        ("</annotations>", "", "no valid XML"),
        ("annotations>", "annotation>", "expected CVAT's <annotations>, got"),
        ("</track>", '</track><track id="1" label="m" task_id="2"/>', "tracks of 2 tasks"),
    ],
)
def test_damaged_cvat_files(old, new, message, tmp_path):
    text = (
        CVAT_VIDEO.replace("<annotations>", "<annotation>") if "annotation>" in new else CVAT_VIDEO
    )
    path = write(tmp_path / "annotations.xml", text.replace(old, new))
    with pytest.raises(ValueError, match=r"annotations.xml: .*" + message):
        load_labels(path)


def test_cvat_coco_export(tmp_path):
    """Tracks in ``attributes``, shapes between key frames, empty boxes, a category of boxes."""
    common = {"category_id": 2, "segmentation": [], "iscrowd": 0, "area": 0, "bbox": [0, 0, 0, 0]}
    attributes = {"occluded": False, "track_id": 3, "keyframe": True}
    points = {"keypoints": [10, 10, 2, 20, 30, 1], "num_keypoints": 2}
    content = {
        "categories": [
            {"id": 1, "name": "cage", "supercategory": ""},
            {"id": 2, "name": "mouse", "keypoints": ["tail", "nose"], "skeleton": [[1, 2]]},
        ],
        "images": [
            {"id": i, "width": 64, "height": 48, "file_name": f"frame_{i:06d}.PNG"} for i in (1, 2)
        ],
        "annotations": [
            {"id": 1, "image_id": 1, **common, **points, "attributes": attributes},
            {"id": 2, "image_id": 2, **common, **points, "attributes": {"keyframe": False}},
        ],
    }
    path = write(tmp_path / "person_keypoints_default.json", json.dumps(content))
    found = load_labels(path, video=film(tmp_path / "clip.mp4"))
    assert found.skeleton.joints == ("tail", "nose") and len(found.people) == 1
    assert found.people.track_id[0] == 3 and found.frames.number[0] == 1
    np.testing.assert_allclose(found.people.bbox[0], [8.75, 7.5, 12.5, 25])
    assert found.people.area[0] == 12.5 * 25
    assert found.videos[0].frame_count == 12
