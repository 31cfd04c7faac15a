"""Labels onto videos, formats by file, and what happens without the libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from posewarper.data.annotations import save_coco
from posewarper.data.formats import load_labels, load_track_names, save_labels
from posewarper.data.formats.attach import attach
from posewarper.data.formats.label_file import boxes_of_joints, pairs_by_name
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.skeleton import Skeleton

SHARED = Path(__file__).parents[3] / "shared" / "data"


def labels(videos, video, numbers, size=(0, 0)):
    points = np.array([[[10, 12, 2], [30, 20, 2]]] * len(numbers), float)
    frames = Frames.make(videos, video, numbers, size_wh=size)
    people = People.make(range(len(numbers)), points, boxes_of_joints(points))
    return PoseDataset(Skeleton("mouse", ("nose", "tail")), videos, frames, people, "labels.csv")


def film(path, frames=6):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()
    return path


def images(folder, names):
    folder.mkdir()
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros((48, 64, 3), np.uint8))
    return folder


def test_video_file_to_folder_takes_images_in_order(tmp_path):
    folder = images(tmp_path / "out", ["f10.png", "f2.png", "f7.png"])
    data = attach(labels((Video("clip", 3, 0, "", "clip.mp4"),), [0, 0], [0, 2]), folder)
    assert data.videos == (Video(folder.as_posix(), 9, 2, "f%d.png"),)
    np.testing.assert_array_equal(data.frames.number, [2, 10])
    assert data.frames.file_name[1] == f"{folder.as_posix()}/f10.png"
    np.testing.assert_array_equal(data.frames.size_wh, [(64, 48)] * 2)


def test_folder_to_folder_goes_by_name_or_else_by_number(tmp_path):
    data = labels((Video("a", 9, 0, "img%03d.png"),), [0, 0], [4, 8])
    same = images(tmp_path / "same", ["img004.png", "img008.png"])
    other = images(tmp_path / "other", [f"{n:06d}.jpg" for n in range(3, 10)])
    assert attach(data, same).frames.file_name[0] == f"{same.as_posix()}/img004.png"
    found = attach(data, {"a": other})
    assert found.frames.file_name == tuple(f"{other.as_posix()}/00000{n}.jpg" for n in (4, 8))
    assert found.videos[0].first_frame == 3 and found.videos[0].frame_count == 7


def test_one_of_several_videos(tmp_path):
    videos = (Video("x/a", 3, 0, "", "x/a.mp4"), Video("x/b", 3, 0, "", "x/b.mp4"))
    data = labels(videos, [0, 1], [1, 2])
    path = film(tmp_path / "new.mp4")
    for name in ("x/b", "x/b.mp4", "b.mp4", "b"):
        found = attach(data, {name: path})
        assert found.videos[0] == videos[0] and found.videos[1].path == path.as_posix()
        assert found.videos[1].frame_count == 6
        np.testing.assert_array_equal(found.frames.size_wh, [(0, 0), (64, 48)])
    with pytest.raises(ValueError, match=r"video: one path is given, but the labels are of 2"):
        attach(data, path)
    with pytest.raises(ValueError, match=r"video: 'c' stands for 0 of the videos"):
        attach(data, {"c": path})


def test_frames_that_do_not_exist(tmp_path):
    path = film(tmp_path / "new.mp4")
    data = labels((Video("clip", 9, 0, "", "clip.mp4"),), [0, 0, 0], [5, 6, 8])
    message = (
        r"labels.csv: 2 of 3 frames of video 'clip' do not exist .*clip/000006.jpg, clip/000008"
    )
    with pytest.raises(ValueError, match=message):
        attach(data, path)
    with pytest.raises(ValueError, match=r"2 of 3 frames"):
        attach(data, images(tmp_path / "six", [f"{n}.png" for n in range(6)]))
    with pytest.raises(FileNotFoundError, match=r"nothing.mp4: there is no such video"):
        attach(data, tmp_path / "nothing.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: no images in this folder"):
        attach(data, tmp_path / "empty")


def test_labels_outside_of_the_image_warn_once(tmp_path):
    data = labels((Video("clip", 6, 0, "", "clip.mp4"),), [0, 0], [1, 2])
    data.people.keypoints[:, 1, 0] = 70
    data.people.keypoints[0, 0, 1] = -3
    save_labels(data, tmp_path / "a.csv")
    with pytest.warns(UserWarning) as caught:
        load_labels(tmp_path / "a.csv", video=film(tmp_path / "clip.mp4"))
    assert len(caught) == 1
    assert (
        "a.csv: 3 of 4 labelled joints, of 2 people, lie outside the image; the first is 'nose' at "
        "(10, -3)" in str(caught[0].message)
    )


def test_images_in_one_folder_that_differ_in_more_than_the_number(tmp_path):
    names = ["d/left_3.png", "d/right_3.png", "d/left_12.png", "e/010.png", "e/002.png"]
    text = "image,a.x,a.y\n" + "".join(f"{name},1,2\n" for name in names)
    (tmp_path / "a.csv").write_text(text)
    found = load_labels(tmp_path / "a.csv")
    assert [video.name for video in found.videos] == ["d/left_%d.png", "d/right_%d.png", "e"]
    assert found.frames.file_name == ("d/left_3.png", "d/left_12.png", "d/right_3.png", "e/002.png",
                                      "e/010.png")  # fmt: skip
    np.testing.assert_array_equal(found.frames.number, [3, 12, 3, 2, 10])


def test_joints_that_a_file_does_not_have(tmp_path):
    save_labels(labels((Video("a", 9),), [0], [4]), tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"a.csv: skeleton 'x' has joints \['paw'\], the file has"):
        load_labels(tmp_path / "a.csv", skeleton=Skeleton("x", ("nose", "paw")))


def test_empty_labels(tmp_path):
    data = labels((Video("a", 9),), [0], [4])
    nobody = data.select(people=np.zeros(1, np.bool_)).with_labels_of(np.zeros(1, np.bool_))
    save_coco(nobody, tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a.json: no labels"):
        load_labels(tmp_path / "a.json")
    (tmp_path / "a.csv").write_text("scorer,m,m\nbodyparts,a,a\ncoords,x,y\na/b/1.png,,\n")
    with pytest.raises(ValueError, match=r"a.csv: no labels"):
        load_labels(tmp_path / "a.csv")


def test_a_track_twice_in_a_coco_file(tmp_path):
    data = labels((Video("a", 9),), [0], [4])
    twice = data.people[np.array([0, 0])]
    twice.track_id[:] = 5
    twice.annotation_id[:] = 1, 2
    data = PoseDataset(data.skeleton, data.videos, data.frames, twice)
    save_coco(data, tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a.json: track 5 occurs twice in frame 4 of video 'a'"):
        load_labels(tmp_path / "a.json")


def test_formats_that_cannot_be_told(tmp_path):
    for name, text, message in [
        ("a.json", '{"frames": [], "fps": 3}', r"neither COCO .* got keys \['fps', 'frames'\]"),
        ("b.json", "[]", "neither COCO .* got a list"),
        ("c.json", "[", "no valid JSON"),
        ("d.txt", "", "labels of which tool"),
        ("e.zip", "", "unpack it"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=name + ": .*" + message):
            load_labels(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"none.slp: there is no such file"):
        load_labels(tmp_path / "none.slp")
    with pytest.raises(ValueError, match=r"got a folder"):
        load_labels(tmp_path)
    with pytest.raises(ValueError, match=r"format: expected one of coco, csv, .*got 'dlc'"):
        load_labels(tmp_path / "a.json", format="dlc")
    data = labels((Video("a", 9),), [0], [4])
    with pytest.raises(ValueError, match=r"a.txt: expected a name that ends like COCO"):
        save_labels(data, tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"format 'sleap' wants a name that ends in .slp"):
        save_labels(data, tmp_path / "a.csv", format="sleap")
    with pytest.raises(ValueError, match="track_names: expected different names"):
        save_labels(data, tmp_path / "a.csv", track_names={0: "x", 1: "x"})
    save_coco(data, tmp_path / "coco.json")
    assert load_track_names(tmp_path / "coco.json") == {}


def test_damaged_binary_files(tmp_path):
    pytest.importorskip("sleap_io")
    for name in ("a.slp", "a.nwb", "a.h5"):
        (tmp_path / name).write_bytes(b"no HDF5")
        with pytest.raises(ValueError, match=name + ": "):
            load_labels(tmp_path / name)


def test_hdf_files_of_other_tools(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["tracks"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"a.h5: holds no table of pandas; of HDF5"):
        load_labels(tmp_path / "a.h5")


def test_without_the_libraries(tmp_path, monkeypatch):
    for module in ("sleap_io", "h5py", "pynwb"):
        monkeypatch.setitem(sys.modules, module, None)
    data = labels((Video("a", 9),), [0], [4])
    for name in ("a.slp", "a.nwb", "a.h5"):
        with pytest.raises(ValueError, match=name + r": .*pip install 'posewarper\[labels\]'"):
            save_labels(data, tmp_path / name)
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=name + r": .*pip install 'posewarper\[labels\]'"):
            load_labels(tmp_path / name)


def test_the_libraries_are_imported_on_demand():
    code = (
        "import sys, posewarper.data, posewarper.data.formats;"
        "print(sorted({'sleap_io', 'h5py', 'pynwb', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_mirror_pairs_by_name():
    assert pairs_by_name(["nose", "left_ear", "right_ear", "EyeLeft", "EyeRight"]) == (
        (1, 2),
        (3, 4),
    )
    assert pairs_by_name(["wingL", "wingR", "legL4", "legR4", "L_eye", "R_eye", "footL_2"]) == (
        (0, 1),
        (2, 3),
        (4, 5),
    )
    assert pairs_by_name(["paw1LH", "paw1RH", "LED", "RED", "tail", "left_paw"]) == ()


def test_boxes_of_joints():
    points = np.zeros((4, 3, 3))
    points[0] = [[10, 20, 2], [30, 20, 1], [99, 99, 0]]  # flat: a pixel high
    points[1, 0] = [5, 6, 2]  # one place has no box
    points[3] = [[0, 0, 2], [8, 4, 2], [4, 4, 2]]
    expected = [[7.5, 19.5, 25, 1], [5, 6, 0, 0], [0, 0, 0, 0], [-1, -0.5, 10, 5]]
    np.testing.assert_allclose(boxes_of_joints(points), expected)


def test_a_json_file_of_another_kind():
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data")
    with pytest.raises(ValueError, match=r"flies.json: neither COCO"):
        load_labels(SHARED / "flies" / "flies.json")


def test_label_studio_is_told_from_coco(tmp_path):
    tasks = [{"id": 1, "data": {"image": "a.png"}, "annotations": []}]
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match="no key points"):
        load_labels(tmp_path / "a.json")
