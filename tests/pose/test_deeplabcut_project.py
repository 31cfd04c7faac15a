"""DeepLabCut's ``config.yaml``."""

from __future__ import annotations

import pytest

from posewarper.data.formats.deeplabcut_project import Crop, find_config, read_config

ONE = """
Task: x
scorer: me
multianimalproject: false
video_sets:
  /data/clip.mp4:
    crop: 40, 280, 60, 220
  ? C:\\Users\\me\\long name\\other.clip.avi
  : crop: 0, 640, 0, 480
  /data/plain.mp4:
bodyparts: [nose, ear, 3]
skeleton: [[nose, ear], [ear, '3'], [bodypart1, bodypart2], [objectA, nose]]
"""
SEVERAL = """
scorer: me
multianimalproject: true
individuals: [mouse1, mouse2]
uniquebodyparts: [corner]
multianimalbodyparts: [nose, tail]
bodyparts: MULTI!
skeleton:
- - nose
  - tail
video_sets: WILL BE AUTOMATICALLY UPDATED
"""


def write(folder, text):
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_project_with_one_animal(tmp_path):
    project = read_config(write(tmp_path, ONE))
    assert project.joints == ("nose", "ear", "3") and project.individuals == ()
    assert project.limbs == (("nose", "ear"), ("ear", "3"))  # the others are the template's
    assert project.crop_of("clip") == Crop(40, 280, 60, 220)
    assert project.crop_of("clip").size_wh == (240, 160)
    assert project.crop_of("other.clip") == Crop(0, 640, 0, 480)
    assert project.crop_of("plain") is None and project.crop_of("nothing") is None
    assert project.label_folder == tmp_path / "labeled-data"


def test_a_project_with_several_animals(tmp_path):
    project = read_config(write(tmp_path, SEVERAL))
    assert project.joints == ("nose", "tail", "corner") and project.unique_joints == ("corner",)
    assert project.individuals == ("mouse1", "mouse2")
    assert project.limbs == (("nose", "tail"),) and project.video_sets == {}


def test_two_videos_of_one_name_with_other_crops_tell_nothing(tmp_path):
    text = ONE.replace("/data/plain.mp4:", "/more/clip.mp4: {crop: '0, 240, 0, 160'}")
    assert read_config(write(tmp_path, text)).crop_of("clip") is None


def test_where_the_configuration_is_looked_for(tmp_path):
    labels = tmp_path / "labeled-data" / "clip" / "CollectedData_me.csv"
    labels.parent.mkdir(parents=True)
    assert find_config(labels) is None
    path = write(tmp_path, ONE)
    assert find_config(labels) == path
    assert find_config(labels.parent / "deeper" / "a.csv") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scorer: [", r"config.yaml: no YAML: "),
        ("a: 1", r"config.yaml: no configuration of DeepLabCut: expected the keys 'scorer'"),
        (ONE.replace("[nose, ear, 3]", "MULTI!"), r"bodyparts: expected a list of names"),
        (ONE.replace("[nose, ear, 3]", "[nose, nose]"), r"bodyparts: 'nose' is there twice"),
        (ONE.replace("[nose, ear, 3]", "[]"), r"has no bodyparts"),
        (ONE.replace("40, 280, 60", "40, 20, 60"), r"clip.mp4: crop: expected 'x1, x2, y1, y2'"),
        (ONE.replace("40, 280, 60", "40, 280"), r"got '40, 280, 220'"),
        (ONE.replace("[[nose, ear],", "[nose,"), r"skeleton: expected pairs of bodyparts"),
    ],
)
def test_what_is_no_configuration(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_config(write(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.yaml: there is no such file"):
        read_config(tmp_path / "config.yaml")
