"""Labels that count in pixels of a part of the frame."""

from __future__ import annotations

import warnings

import arena
import numpy as np
import pytest

from posewarper.data.formats import load_labels
from posewarper.data.formats.cropped import moved
from posewarper.data.tables import Frames, People, PoseDataset, Regions, Video
from posewarper.fitting.inputs import read_inputs
from posewarper.skeleton import Skeleton

X1, X2, Y1, Y2 = 10, 150, 15, 115
SHOWN = (7, 19, 23, 38)


def cut(number):
    return arena.frame(number)[Y1:Y2, X1:X2]


def in_part(number):
    """Where the mouse is, counted from the corner of the part."""
    x, y = arena.place(number)
    return x - X1, y - Y1, x - X1 + 5, y - Y1 + 3


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return arena.film(tmp_path_factory.mktemp("films") / "clip.mp4", range(60))


def project(folder, crop=f"{X1}, {X2}, {Y1}, {Y2}", change=cut, points=in_part, numbers=SHOWN):
    config = "scorer: me\nbodyparts: [nose, tail]\nvideo_sets:\n  C:\\v\\clip.mp4:\n    crop: "
    (folder / "config.yaml").write_text(f"{config}{crop}\n")
    inside = folder / "labeled-data" / "clip"
    names = {f"img{i:03d}.png": shown for i, shown in zip(numbers, SHOWN, strict=True)}
    if change is not None:
        arena.images(inside, names, change)
    listed = {f"labeled-data/clip/{name}": number for name, number in names.items()}
    return arena.table(inside / "CollectedData_me.csv", listed, points=points)


def right(dataset):
    assert dataset.frames.number.tolist() == list(SHOWN)
    for number, points in zip(SHOWN, dataset.people.keypoints, strict=True):
        np.testing.assert_allclose(points[0, :2], arena.place(number), atol=0.01)
    return True


def test_cut_images_on_the_whole_video(tmp_path, clip):
    path = project(tmp_path)
    with pytest.warns(UserWarning, match=r"labels are moved by \(10, 15\) pixels, for they "
                      r"count in x 10 to 150, y 15 to 115 of .*clip.mp4 "):  # fmt: skip
        data = load_labels(path, video=clip)
    assert right(data) and (data.frames.size_wh == arena.SIZE).all()
    centre = data.people.bbox[:, :2] + data.people.bbox[:, 2:] / 2
    np.testing.assert_allclose(centre, data.people.keypoints[..., :2].mean(1), atol=1e-6)
    found = read_inputs([clip], path)
    assert any("labels are moved by (10, 15)" in note for note in found.notes)


def test_cut_images_with_numbers_in_order(tmp_path, clip):
    """Both at once: the part of the frames is compared."""
    with pytest.warns(UserWarning) as caught:
        assert right(load_labels(project(tmp_path, numbers=range(4)), video=clip))
    assert sum("but show frames 7, 19, 23, ..." in str(w.message) for w in caught) == 1


def test_cut_images_as_they_are(tmp_path):
    path = project(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_labels(path, video=path.parent)
    np.testing.assert_allclose(data.people.keypoints[0, 0, :2], in_part(7)[:2], atol=0.01)


def test_whole_images_of_a_project_that_names_a_part(tmp_path, clip):
    """DeepLabCut cuts only if it is asked to."""
    path = project(tmp_path, change=arena.frame, points=None)
    with pytest.warns(UserWarning, match=r"not moved to x 10 .*: the labelled images are whole"):
        assert right(load_labels(path, video=clip))


def test_a_part_that_is_all(tmp_path, clip):
    path = project(tmp_path, crop="0, 160, 0, 120", change=arena.frame, points=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert right(load_labels(path, video=clip))


def test_where_the_labels_lie_tells_if_the_images_are_not_there(tmp_path, clip):
    path = project(tmp_path, change=None, points=lambda n: (1.0, 2.0, 3.0, 4.0 + n))
    with pytest.warns(UserWarning, match=r"moved by \(10, 15\) .*not at hand"):
        data = load_labels(path, video=clip)
    np.testing.assert_allclose(data.people.keypoints[0], [[11, 17, 2], [13, 26, 2]])
    project(tmp_path, change=None, points=lambda n: (145.0, 50.0, 146.0, 105.0))
    with pytest.warns(UserWarning, match=r"in pixels of the whole frame"):
        data = load_labels(path, video=clip)
    np.testing.assert_allclose(data.people.keypoints[0, 0, :2], [145, 50])
    project(tmp_path, change=None, points=lambda n: (50.0, 50.0, 60.0, 60.0))
    with pytest.raises(ValueError, match=r"do labels count in pixels of the whole frame, or of x "
                       r"10 .*\? Put the labelled images beside the labels"):  # fmt: skip
        load_labels(path, video=clip)


def test_a_part_that_is_not_in_the_video(tmp_path, clip):
    path = project(tmp_path, crop="100, 240, 15, 115")
    with pytest.raises(ValueError, match=r"config.yaml: video_sets: crop 100, 240, 15, 115 does "
                       r"not lie in the frames of .*clip.mp4, which have 160x120"):  # fmt: skip
        load_labels(path, video=clip)


def test_images_of_neither_size(tmp_path, clip):
    path = project(tmp_path, crop="20, 150, 15, 115")
    with pytest.raises(ValueError, match=r"img007.png has 140x100 pixels, .*clip.mp4 has 160x120"):
        load_labels(path, video=clip)


def test_a_configuration_of_something_else(tmp_path, clip):
    path = project(tmp_path, change=arena.frame, points=None)
    (tmp_path / "config.yaml").write_text("a: [")
    assert right(load_labels(path, video=clip))


def test_labels_left_of_the_frame_make_one_think_of_a_part(tmp_path, clip):
    path = project(tmp_path, change=None, points=lambda n: (-20.0, 60.0, 5.0, 60.0))
    (tmp_path / "config.yaml").unlink()
    with pytest.warns(UserWarning, match=r"some lie left of it or above: if parts of the frames"):
        load_labels(path, video=clip)


def test_a_damaged_image_is_passed_over(tmp_path, clip):
    path = project(tmp_path)
    image = path.parent / "img007.png"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.warns(UserWarning, match=r"moved by \(10, 15\)"):
        assert right(load_labels(path, video=clip))


def test_everything_in_a_frame_moves():
    points = np.array([[[1, 2, 2], [0, 0, 0]], [[3, 4, 1], [5, 6, 2]]], float)
    video, regions = Video("a", 9), Regions.make([[[[0, 0], [2, 0], [2, 2]]], [[[5, 5]]]])
    frames = Frames.make([video], [0, 0], [3, 4], ignore=regions)
    people = People.make([0, 1], points, [[1, 1, 2, 2]] * 2, head_box=[[1, 2, 3, 4], [np.nan] * 4])
    data = PoseDataset(Skeleton("m", ("a", "b")), (video,), frames, people)
    found = moved(data, np.array([0]), (10, 20))
    np.testing.assert_array_equal(found.people.keypoints[0], [[11, 22, 2], [0, 0, 0]])
    np.testing.assert_array_equal(found.people.keypoints[1], points[1])
    np.testing.assert_array_equal(found.people.bbox, [[11, 21, 2, 2], [1, 1, 2, 2]])
    np.testing.assert_array_equal(found.people.head_box[0], [11, 22, 13, 24])
    np.testing.assert_array_equal(found.frames.ignore.of(0)[0], [[10, 20], [12, 20], [12, 22]])
    np.testing.assert_array_equal(found.frames.ignore.of(1)[0], [[5, 5]])
    np.testing.assert_array_equal(data.people.bbox[0], [1, 1, 2, 2])  # not in place
