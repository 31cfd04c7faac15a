"""Images whose numbers are not those of the frames that they show."""

from __future__ import annotations

import warnings

import arena
import cv2
import numpy as np
import pytest

from posewarper.cli import main
from posewarper.data.formats import load_labels
from posewarper.data.formats.pictures import Footage, Labelled, find_frames
from posewarper.data.video import VideoFile
from posewarper.fitting.inputs import read_inputs

SHOWN = (7, 19, 23, 38, 41, 56)  # frames that the labelled images show
TO_QUALITY_40 = (cv2.IMWRITE_JPEG_QUALITY, 40)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return arena.film(tmp_path_factory.mktemp("films") / "clip.mp4", range(60))


def project(folder, shown=SHOWN, name="img{:03d}.png", change=arena.frame, flags=(), numbers=None):
    """Labels beside images that are numbered one after another."""
    inside = folder / "labeled-data" / "clip"
    numbers = range(len(shown)) if numbers is None else numbers
    names = {name.format(i): number for i, number in zip(numbers, shown, strict=True)}
    arena.images(inside, names, change, flags)
    listed = {f"labeled-data/clip/{image}": number for image, number in names.items()}
    return arena.table(inside / "CollectedData_me.csv", listed)


def bright(number):
    return np.clip(arena.frame(number) * 1.2 + 10, 0, 255).astype(np.uint8)


def dim(number):
    return (arena.frame(number) * 0.6).astype(np.uint8)


@pytest.mark.parametrize(
    "how",
    [
        {}, {"change": bright}, {"change": dim}, {"change": lambda n: arena.frame(n, 9.0)},
        {"name": "img{}.jpg", "flags": TO_QUALITY_40},
    ],
    ids=["same", "brighter", "dimmer", "noise", "jpeg"],
)  # fmt: skip
def test_labels_go_to_the_frames_that_images_show(tmp_path, clip, how):
    found = read_inputs([clip], project(tmp_path, **how))
    data = found.dataset
    assert data.frames.number[data.people.frame].tolist() == list(SHOWN)
    for number, points in zip(SHOWN, data.people.keypoints, strict=True):
        np.testing.assert_allclose(points[0, :2], arena.place(number), atol=0.01)
    note = "are numbered 0, 1, 2, ... but show frames 7, 19, 23, ... of "
    assert sum(note in n for n in found.notes) == 1


def test_the_background_alone_would_not_tell(clip):
    """What made this necessary: wrong frames correlate with the images almost as true ones do."""
    file = VideoFile(clip)
    flat = [file.read(n).astype(float).ravel() for n in (0, *SHOWN)]
    assert np.corrcoef(flat)[0, 1:].min() > 0.8


def test_numbers_that_are_right_are_left_alone(tmp_path, clip):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_labels(project(tmp_path, numbers=SHOWN), video=clip)
    assert data.frames.number.tolist() == list(SHOWN)


def test_a_changed_image_stays_where_it_is_the_most_alike(tmp_path, clip):
    """A stamp of the time is in the image alone; still, no other frame is as near."""

    def covered(number):
        image = bright(number)
        cv2.putText(image, "12:30:59", (2, 10), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (0,) * 3)
        return image

    data = load_labels(project(tmp_path, numbers=SHOWN, change=covered), video=clip)
    assert data.frames.number.tolist() == list(SHOWN)


def test_another_encoding_of_the_video(tmp_path):
    small = arena.film(tmp_path / "clip.mp4", range(60), lambda n: cv2.GaussianBlur(
        arena.frame(n), (0, 0), 1.2))  # fmt: skip
    with pytest.warns(UserWarning, match=r"but show frames 7, 19, 23"):
        data = load_labels(project(tmp_path), video=small)
    assert data.frames.number.tolist() == list(SHOWN)


def test_images_of_frames_that_were_cut_out_of_the_video(tmp_path):
    short = arena.film(tmp_path / "clip.mp4", range(30))
    with pytest.raises(ValueError, match=r"csv: images are not those of the video: .*img003.png "
                       r"does not look like frame 3 of .*clip.mp4, nor like another"):  # fmt: skip
        load_labels(project(tmp_path), video=short)


def test_numbers_that_count_from_1(tmp_path, clip):
    path = project(tmp_path, numbers=[n + 1 for n in SHOWN])
    (path.parent / "img020.png").unlink()  # what is right for the others is right for this one
    with pytest.warns(UserWarning, match=r"numbered 8, 24, 39, ... but show frames 7, 23, 38, ..."):
        data = load_labels(path, video=clip)
    assert data.frames.number.tolist() == list(SHOWN)


def test_an_image_that_is_not_at_hand(tmp_path, clip):
    path = project(tmp_path)
    (path.parent / "img002.png").unlink()
    with pytest.raises(ValueError, match=r"not named by the frames of .*clip.mp4 that they show, "
                       r"and labeled-data/clip/img002.png is not at hand"):  # fmt: skip
        load_labels(path, video=clip)


def test_numbers_beyond_the_video_are_looked_for(tmp_path, clip):
    with pytest.warns(UserWarning, match=r"numbered 1000, 1001, 1002, ... but show frames 7, 19"):
        data = load_labels(project(tmp_path, numbers=range(1000, 1006)), video=clip)
    assert data.frames.number.tolist() == list(SHOWN)


def test_a_video_in_which_nothing_moves_is_told(tmp_path):
    still = arena.film(tmp_path / "clip.mp4", range(20), lambda _: arena.frame(3))
    with pytest.warns(UserWarning, match=r"clip.mp4: nothing moves in it, so images do not tell"):
        data = load_labels(project(tmp_path, change=lambda _: arena.frame(3)), video=still)
    assert data.frames.number.tolist() == list(range(len(SHOWN)))
    with pytest.raises(ValueError, match=r"img\d+.png does not look like frame"):
        load_labels(project(tmp_path, change=lambda n: 255 - arena.frame(n)), video=still)


def test_a_mouse_that_rests_is_no_doubt(tmp_path):
    """Frames that look the same are all right: the one of the name is taken."""
    resting = arena.film(tmp_path / "clip.mp4", range(60), lambda n: arena.frame(min(n, 30)))
    path = project(tmp_path, shown=(10, 30, 30), numbers=(10, 40, 50))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_labels(path, video=resting).frames.number.tolist() == [10, 40, 50]
    with pytest.warns(UserWarning, match=r"but show frames 10, "):
        found = load_labels(
            project(tmp_path / "b", shown=(10, 30, 30)), video=resting
        ).frames.number
    assert found[0] == 10 and found[1] != found[2] and (found[1:] >= 30).all()


def test_a_folder_of_all_images_is_searched_too(tmp_path):
    everything = arena.images(tmp_path / "all", {f"{n:06d}.png": n for n in range(60)})
    with pytest.warns(UserWarning, match=r"but show frames 7, 19, 23, ... of .*all"):
        data = load_labels(project(tmp_path), video=everything)
    assert data.frames.file_name[1].endswith("all/000019.png")


def test_the_labelled_video_itself_is_compared(tmp_path, clip):
    """Labels of a video file on a shortened copy of it."""
    arena.film(tmp_path / "films" / "clip.mp4", range(60))
    path = tmp_path / "labels.csv"
    path.write_text("video,frame,a.x,a.y\n" + "".join(f"films/clip.mp4,{n},9,9\n" for n in SHOWN))
    cut = arena.film(tmp_path / "cut.mp4", range(7, 60))
    with pytest.warns(UserWarning, match=r"but show frames 0, 12, 16, ... of .*cut.mp4"):
        data = load_labels(path, video=cut)
    assert data.frames.number.tolist() == [n - 7 for n in SHOWN]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_labels(path, video=clip)


def test_commands_that_take_a_video_say_it(tmp_path, clip, capsys):
    with pytest.warns(UserWarning, match=r"but show frames 7, 19, 23"):
        main(["convert", str(project(tmp_path)), str(tmp_path / "o.json"), "--video", str(clip)])
    assert load_labels(tmp_path / "o.json").frames.number.tolist() == list(SHOWN)


def test_images_of_another_size_than_the_video(tmp_path, clip):
    path = project(tmp_path, change=lambda n: arena.frame(n)[:100])
    with pytest.raises(ValueError, match=r"img000.png has 160x100 pixels, .*clip.mp4 has 160x120"):
        load_labels(path, video=clip)


def test_one_pass_over_the_frames(clip):
    """However many images are looked for, every frame is read once more, and in order."""
    file, read = VideoFile(clip), []
    footage = Footage(clip, range(60), lambda n: read.append(n) or file.read(n))
    images = {
        row: Labelled(f"{n}", lambda n=n: cv2.cvtColor(arena.frame(n), cv2.COLOR_BGR2RGB))
        for row, n in enumerate(SHOWN)
    }
    found = find_frames(images, [{row: row for row in images}], footage, "labels")
    assert list(found.numbers.values()) == list(SHOWN) and found.shift is None
    assert read[-60:] == list(range(60)) and len(read) < 60 + 16 + 5 * 8
