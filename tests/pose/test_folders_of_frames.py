"""Labels of video files on folders of images, and folders that are not all of one kind."""

from __future__ import annotations

import warnings

import arena
import cv2
import numpy as np
import pytest

from posewarper.data.annotations import save_coco
from posewarper.data.formats import load_labels
from posewarper.data.formats.attach import attach
from posewarper.data.formats.label_file import boxes_of_joints
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.video import FrameSource
from posewarper.fitting.inputs import read_inputs
from posewarper.skeleton import Skeleton


def labels(numbers, frames=12, path="clip.mp4", source="labels.csv", size=(0, 0)):
    video = Video("clip", frames, 0, "", path)
    points = np.array([[[10, 12, 2], [30, 20, 2]]] * len(numbers), float)
    rows = Frames.make([video], [0] * len(numbers), numbers, size_wh=size)
    people = People.make(range(len(numbers)), points, boxes_of_joints(points))
    return PoseDataset(Skeleton("mouse", ("nose", "tail")), (video,), rows, people, source)


def folder_of(folder, names, size=(64, 48)):
    folder.mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros((*size[::-1], 3), np.uint8))
    return folder


def names_of(dataset):
    return [name.rpartition("/")[2] for name in dataset.frames.file_name]


def test_every_second_image(tmp_path):
    """Frame 4 is img004.png, not the fifth of the images that there are."""
    folder = folder_of(tmp_path / "f", [f"img{n:03d}.png" for n in range(0, 12, 2)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names_of(attach(labels([0, 4, 10]), folder)) == [
            "img000.png", "img004.png", "img010.png"
        ]  # fmt: skip
    message = r"labels.csv: 2 of 4 frames of video 'clip' have no image in .*: clip/000003"
    with pytest.warns(UserWarning, match=message):
        found = attach(labels([2, 3, 4, 7]), folder)
    assert names_of(found) == ["img002.png", "img004.png"] and len(found.people) == 2
    with pytest.raises(ValueError, match=r"1 of 2 frames of video 'clip' do not exist"):
        attach(labels([4, 11]), folder)


def test_images_that_count_from_1(tmp_path):
    """As ffmpeg writes them: the first one is frame 0, also where frame 0 has no labels."""
    folder = folder_of(tmp_path / "f", [f"{n:06d}.png" for n in range(1, 13)])
    with pytest.warns(UserWarning, match=r"images are numbered from 1, .*go to image n \+ 1"):
        assert names_of(attach(labels([3, 11]), folder)) == ["000004.png", "000012.png"]


def test_as_many_images_as_frames_under_other_numbers(tmp_path):
    folder = folder_of(tmp_path / "f", [f"{n}.png" for n in range(1000, 1012)])
    assert names_of(attach(labels([3, 11]), folder)) == ["1003.png", "1011.png"]
    some = folder_of(tmp_path / "g", [f"{n}.png" for n in range(1000, 1010)])
    with pytest.raises(ValueError, match=r"2 of 2 frames of video 'clip' do not exist"):
        attach(labels([3, 9]), some)


def test_two_readings_are_refused(tmp_path):
    """Six images of frames 0, 2, ..., 10; and labels that know of six frames."""
    folder = folder_of(tmp_path / "f", [f"img{n:03d}.png" for n in range(0, 12, 2)])
    with pytest.raises(ValueError, match=r"labels.csv: frame 2 of 'clip' may be image img002.png "
                       r"of .* by its number, or img004.png, the image at this place"):  # fmt: skip
        attach(labels([0, 2, 4], frames=6), folder)


@pytest.mark.parametrize("step", [1, 2])
def test_two_readings_are_decided_by_pictures(tmp_path, step):
    """The same, where the video that was labelled lies beside the labels."""
    arena.film(tmp_path / "clip.mp4", range(6 if step == 2 else 12))
    images = {f"img{n:03d}.png": n if step == 1 else n // 2 for n in range(0, 12, 2)}
    folder = arena.images(tmp_path / "f", images)
    source = str(tmp_path / "labels.csv")
    found = attach(labels([0, 2, 4], frames=6, source=source), folder)
    numbers = [0, 2, 4] if step == 1 else [0, 4, 8]
    assert names_of(found) == [f"img{n:03d}.png" for n in numbers]


def test_images_of_several_sizes(tmp_path):
    folder = tmp_path / "labeled-data" / "clip"
    names = {f"img{n:03d}.png": n for n in (0, 3, 5, 9)}
    arena.images(folder, names, lambda n: arena.frame(n)[: 120 if n % 3 else 110])
    path = arena.table(folder / "c.csv", {f"labeled-data/clip/{n}": i for n, i in names.items()})
    arena.images(folder, {"img007.png": 7}, lambda n: arena.frame(n)[:, :150])  # not labelled
    data = read_inputs([folder], path).dataset
    sizes = [(160, 110), (160, 110), (160, 120), (150, 120), (160, 110)]
    np.testing.assert_array_equal(data.frames.size_wh, sizes)
    source = FrameSource(tmp_path / "labeled-data", dataset=data)
    assert source.read(data.videos[0], 7).shape == (120, 150, 3)
    np.testing.assert_array_equal(
        attach(load_labels(path), folder).frames.size_wh, np.delete(np.array(sizes), 3, 0)
    )


def test_labels_that_name_another_size(tmp_path):
    clip = arena.film(tmp_path / "clip.mp4", range(12))
    with pytest.raises(ValueError, match=r"labels.csv: frame 3 was labelled at 64x48 pixels, "
                       r".*clip.mp4 has 160x120; labels count in pixels"):  # fmt: skip
        attach(labels([3], size=(64, 48)), clip)
    with pytest.raises(ValueError, match=r"160x120 \(turned by the video's metadata\?\)"):
        attach(labels([3], size=(120, 160)), clip)


def test_names_of_several_patterns_in_one_folder(tmp_path):
    """Images of two cameras: two videos, each with its own frames."""
    shown = {"left_3.png": 3, "left_8.png": 8, "right_3.png": 33, "right_9.png": 39}
    folder = arena.images(tmp_path / "labeled-data" / "clip", {**shown, "left_5.png": 5})
    path = arena.table(folder / "c.csv", {f"labeled-data/clip/{n}": i for n, i in shown.items()})
    data = read_inputs([folder], path).dataset
    assert [v.name for v in data.videos] == ["clip/left_%d.png", "clip/right_%d.png"]
    assert data.frames.video.tolist() == [0, 0, 0, 1, 1]
    assert data.frames.number.tolist() == [3, 5, 8, 3, 9]
    assert data.frames.labelled.tolist() == [True, False, True, True, True]
    source = FrameSource(tmp_path / "labeled-data", dataset=data)
    for name, row in (("left_8.png", 2), ("right_3.png", 3)):
        image = source.read(data.videos[data.frames.video[row]], int(data.frames.number[row]))
        np.testing.assert_array_equal(image[..., ::-1], arena.frame(shown[name]))


def test_one_of_several_patterns_in_a_folder(tmp_path):
    folder = folder_of(tmp_path / "f", ["a_1.png", "a_2.png", "b_1.png", "b_2.png"])
    table = tmp_path / "x.csv"
    table.write_text("image,n.x,n.y\nf/b_2.png,1,2\n")
    found = attach(load_labels(table), folder)
    assert names_of(found) == ["b_2.png"] and found.videos[0].pattern == "b_%d.png"
    with pytest.raises(ValueError, match=r"f: which images are meant\? .* a_%d.png, b_%d.png"):
        attach(labels([1]), folder)
    unlike = folder_of(tmp_path / "g", ["first_1.png", "second_2.png"])  # one after another
    assert names_of(attach(labels([1, 2], frames=3), unlike)) == ["first_1.png", "second_2.png"]


def test_names_with_hashes_find_their_images(tmp_path):
    """Label Studio renamed what was uploaded; the folder has the files as they were."""
    folder = folder_of(tmp_path / "f", ["img003.png", "img010.png"])
    table = tmp_path / "x.csv"
    table.write_text("image,n.x,n.y\nu/cfcd2084-img010.png,1,2\nu/d3d94468-img003.png,1,2\n")
    assert names_of(attach(load_labels(table), folder)) == ["img003.png", "img010.png"]


def test_folders_that_count_from_1_go_to_files_that_count_from_0(tmp_path):
    video = Video("clip", 12, 1, "%06d.png", "clip")
    data = labels([3, 12])
    frames = Frames.make([video], [0, 0], [3, 12])
    save_coco(PoseDataset(data.skeleton, (video,), frames, data.people), tmp_path / "a.json")
    clip = arena.film(tmp_path / "films" / "clip.mp4", range(12))
    with pytest.warns(UserWarning, match=r"has frames 1 to 12, .*0 to 11: frame 1 goes to frame 0"):
        assert load_labels(tmp_path / "a.json", video=clip).frames.number.tolist() == [2, 11]
