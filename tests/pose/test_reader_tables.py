"""Tables as people save them, and what Label Studio and CVAT leave out: read right, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posewarper.data.formats import load_labels, save_labels

PLAIN = (
    "frame_idx,track,nose.x,nose.y,Schw\u00e4nz.x,Schw\u00e4nz.y\n0,ann,1.5,2,3,4\n7,ben,5,6,,\n"
)
DLC = (
    "scorer,me,me,me,me\nbodyparts,nose,nose,tail,tail\ncoords,x,y,x,y\n"
    "labeled-data/clip/img003.png,1.5,2,3,4\nlabeled-data/clip/img012.png,5,6,,\n"
)


def joints(path: Path) -> list[Any]:
    return load_labels(path).people.keypoints.tolist()


WANTED = [[[1.5, 2, 2], [3, 4, 2]], [[5, 6, 2], [0, 0, 0]]]


@pytest.mark.parametrize("text", [PLAIN, DLC], ids=["plain", "deeplabcut"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_encodings(text, encoding, tmp_path, recwarn):
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    assert joints(tmp_path / "a.csv") == WANTED and not len(recwarn)


def test_other_encodings_are_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(PLAIN.encode("cp1252"))
    with pytest.warns(UserWarning, match=r"a.csv: is not UTF-8 and is read as Windows-1252"):
        found = load_labels(tmp_path / "a.csv")
    assert found.skeleton.joints == ("nose", "Schw\u00e4nz")
    for data in (
        b"frame_idx,a.x\x81,a.y\n1,2,3\n",
        b"\xff\xfea\x00b",
        b"frame_idx,a.x,a.y\n1,\0,2",
    ):
        (tmp_path / "b.csv").write_bytes(data)
        with pytest.raises(ValueError, match=r"b.csv: no (valid )?text"):
            load_labels(tmp_path / "b.csv")


@pytest.mark.parametrize("text", [PLAIN, DLC], ids=["plain", "deeplabcut"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (",", ";"), (",", "\t"), (",", " , "), ("\n", "\r\n"), ("\n", "\n\n"),
        (",,\n", ",NA,NA\n"), (",,\n", ",NaN,null\n"), (",,\n", ",#N/A,-\n"),
    ],
)  # fmt: skip
def test_separators_and_empty_cells(text, old, new, tmp_path):
    (tmp_path / "a.csv").write_text(text.replace(old, new), newline="", encoding="utf-8")
    assert joints(tmp_path / "a.csv") == WANTED


@pytest.mark.parametrize("text", [PLAIN, DLC], ids=["plain", "deeplabcut"])
def test_quotes_and_decimal_commas(text, tmp_path):
    quoted = [",".join(f'"{cell}"' for cell in row.split(",")) for row in text.splitlines()]
    (tmp_path / "a.csv").write_text("\n".join(quoted), encoding="utf-8")
    assert joints(tmp_path / "a.csv") == WANTED
    commas = text.replace(",", ";").replace("1.5", "1,5")
    (tmp_path / "a.csv").write_text(commas, encoding="utf-8")
    assert joints(tmp_path / "a.csv") == WANTED
    (tmp_path / "a.csv").write_text(commas.replace("1,5", "1.234,5"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"a.csv: row \d: .*expected a number, got '1.234,5'"):
        load_labels(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frame_idx,a.x,a.y,a.x\n0,1,2,3\n", r"column 'a.x' is there twice"),
        ("frame_idx,a.x,a.y\n0,1,2,3\n", r"row 2: expected 3 cells, got 4"),
        ('frame_idx,a.x,a.y\n0,"1,2\n', r"line 2: no valid table"),
        ("frame_idx,node,x,y\n0,a,1,2\n", r"expected a table .*a row per point; sleap-io also"),
        ("frame_idx,a.x,a.y\ninf,1,2\n", r"row 2: frame_idx: .* 0 to 1e\+08, got 'inf'"),
        ("frame_idx,a.x,a.y\n1e30,1,2\n", r"row 2: frame_idx: .* got '1e30'"),
        ("frame_idx,a.x,a.y\n-3,1,2\n", r"row 2: frame_idx: .* got '-3'"),
        ("frame_idx,a.x,a.y\n0,1e300,2\n", r"row 2: a.x: .* got '1e300'"),
        ("frame_idx,a.x,a.y,score\n0,1,2,inf\n", r"row 2: score: .* got 'inf'"),
        ("frame_idx,a.x,a.y,a.visibility\n0,1,2,7\n", r"another number than 0 .*, got 7"),
        ("scorer,m,m\nbodyparts,n\ncoords,x,y\na/b/1.png,1,2\n", r"row 2: expected 3 cells, got 2"),
        (
            "scorer,m,m,m\nbodyparts,n,n,n\ncoords,x,y,x\n1,1,2,3\n",
            r"column 'm n x' is there twice",
        ),
        ("scorer,m,m\nbodyparts,n,n\ncoords,x,y\n999999999999,1,2\n", r"row 4: frame: expected a"),
        ("scorer,m,m,m\nbodyparts,n,n,n\ncoords,x,y,z\n1,1,2,3\n", r"likelihood, got 'z'"),
    ],
)
def test_damaged_tables(text, message, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=r"a\.csv: .*" + message):
        load_labels(tmp_path / "a.csv")


# Predictions


@pytest.mark.parametrize("name", ["score", "likelihood", "confidence", "conf", "prob"])
def test_scores_by_any_name_make_predictions(name, tmp_path):
    text = f"frame_idx,a.x,a.y,b.x,b.y,a.{name},b.{name},{name}\n0,1,2,3,4,0.5,0.25,0.75\n"
    (tmp_path / "a.csv").write_text(text)
    found = load_labels(tmp_path / "a.csv").people
    assert found.joint_scores.tolist() == [[0.5, 0.25]] and found.score.tolist() == [0.75]


def test_columns_that_are_not_read_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("frame_idx,a.x,a.y,a.p_value,mood\n0,1,2,0.5,good\n")
    with pytest.warns(UserWarning, match=r"a.csv: columns that are not read: 'a.p_value', 'mood'"):
        assert not load_labels(tmp_path / "a.csv").people.predicted.any()


def test_half_a_joint_that_says_so(tmp_path):
    (tmp_path / "a.csv").write_text("frame_idx,a.x,a.y,b.x,b.y\n0,NA,2,3,4\n")
    with pytest.warns(UserWarning, match=r"row 2: joint 'a' has only one of x and y, the other is"):
        assert joints(tmp_path / "a.csv") == [[[0, 0, 0], [3, 4, 2]]]


def test_sleap_io_s_table_of_frames(tmp_path):
    people = [f"inst{i}.{c}" for i in (0, 1) for c in ("track", "score", "n.x", "n.y", "n.score")]
    rows = ["4,ann,,1,2,,ben,,3,4,", "5,ben,0.5,7,8,0.25,,,,,"]
    (tmp_path / "a.csv").write_text("\n".join([",".join(["frame_idx", *people]), *rows]))
    found = load_labels(tmp_path / "a.csv")
    assert found.skeleton.joints == ("n",) and found.track_names == {0: "ann", 1: "ben"}
    assert found.people.keypoints[:, 0, 0].tolist() == [1, 3, 7]
    assert found.people.track_id.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(found.people.joint_scores[:, 0], [np.nan, np.nan, 0.25])
    # By track: the names of the animals are in the header.
    people = [f"{t}.{c}" for t in ("ann", "ben") for c in ("track_score", "score", "n.x", "n.y")]
    (tmp_path / "b.csv").write_text(",".join(["frame_idx", *people]) + "\n4,,,1,2,,,3,4\n")
    found = load_labels(tmp_path / "b.csv")
    assert found.skeleton.joints == ("n",) and found.track_names == {0: "ann", 1: "ben"}
    (tmp_path / "c.csv").write_text(
        "frame_idx,inst0.n.x,inst0.n.y,inst1.m.x,inst1.m.y\n4,1,2,3,4\n"
    )
    with pytest.raises(ValueError, match=r"c.csv: 'inst0' has no columns of the joint 'm'"):
        load_labels(tmp_path / "c.csv")


def test_predictions_of_lightning_pose(tmp_path):
    text = (
        "scorer,m,m,m,set\nbodyparts,n,n,n,\ncoords,x,y,likelihood,\n"
        "labeled-data/c/img3.png,1,2,0.5,train\n"
    )
    (tmp_path / "a.csv").write_text(text)
    found = load_labels(tmp_path / "a.csv")
    assert found.people.joint_scores.tolist() == [[0.5]] and found.frames.number.tolist() == [3]
    kinds = ("x", "y", "likelihood", "x_ens_median", "y_ens_var", "x_posterior_var")
    rows = ["scorer" + ",k" * 6, "bodyparts" + ",n" * 6, ",".join(("coords", *kinds))]
    (tmp_path / "b.csv").write_text("\n".join([*rows, "0,1,2,0.5,9,9,9", "1.0,3,4,0.25,9,9,9"]))
    found = load_labels(tmp_path / "b.csv")
    assert found.people.keypoints[:, 0].tolist() == [[1, 2, 2], [3, 4, 2]]
    assert found.people.joint_scores.tolist() == [[0.5], [0.25]]
    assert found.frames.number.tolist() == [0, 1]


# Label Studio


def point(key: str, label: str, x: Any, y: Any, **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "keypointlabels": [label]}
    size = {"original_width": 100, "original_height": 200}
    return {"id": key, "type": "keypointlabels", "value": value, **size, **more}


def studio(path: Path, *results: Any, url: str = "/data/upload/1/clip/%06d.png") -> Path:
    tasks = [
        {"id": i, "data": {"image": url % i if "%" in url else url}, "annotations": [{"result": r}]}
        for i, r in enumerate(results, 1)
    ]
    path.write_text(json.dumps(tasks))
    return path


def test_people_without_rectangles(tmp_path):
    both = [point(f"{a}{n}", n, 10 * a, 5) for a in (1, 2) for n in ("nose", "tail")]
    with pytest.warns(UserWarning, match=r"a.json: task 1 and 0 more have key points of several"):
        found = load_labels(studio(tmp_path / "a.json", both))
    assert found.people.keypoints.tolist() == [[[x, 10, 2], [x, 10, 2]] for x in (10, 20)]
    # With one joint left of an animal nobody can tell whose it is.
    with pytest.raises(ValueError, match=r"a.json: task 1: joint 'nose' of one person occurs"):
        load_labels(studio(tmp_path / "a.json", both[:3]))


def test_predictions_in_place_of_annotations(tmp_path):
    path = studio(
        tmp_path / "a.json", [point("a", "nose", 1, 2), point("b", "tail", 3, 4, score=0.25)]
    )
    (task,) = json.loads(path.read_text())
    task["predictions"] = [{"result": task["annotations"][0]["result"], "score": 0.5}]
    task["annotations"] = []
    path.write_text(json.dumps([task]))
    with pytest.warns(UserWarning, match=r"a.json: 1 tasks have predictions but no annotations"):
        found = load_labels(path)
    assert found.people.joint_scores.tolist() == [[0.5, 0.25]] and found.people.score == [0.5]


def test_uploads_of_one_name(tmp_path):
    """Frames of two videos, which only the prefix of Label Studio tells apart."""
    nose = [point("a", "nose", 1, 2)]
    path = studio(tmp_path / "a.json", nose, nose)
    tasks = json.loads(path.read_text())
    for task, prefix in zip(tasks, ("00000001", "0000004d"), strict=True):
        task["data"]["image"] = f"/data/upload/1/{prefix}-img000.png"
    path.write_text(json.dumps(tasks))
    with pytest.warns(UserWarning, match=r"a.json: 2 uploaded images share 1 names, such as 'img0"):
        found = load_labels(path)
    assert found.frames.file_name == ("00000001-img000.png", "0000004d-img000.png")
    with pytest.raises(ValueError, match=r"a.json: clip/5.png is listed twice"):
        load_labels(studio(path, nose, nose, url="clip/5.png"))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, r"'result'\[0\]: expected an object, got null"),
        (point("a", "nose", None, 2), r"joint 'nose': 'x': expected a number, got null"),
        (point("a", "nose", 1, "2%"), r"joint 'nose': 'y': expected a number, got '2%'"),
        (point("a", "nose", 1, 2, original_width="w"), r"'original_width': .* got 'w'"),
        (point("a", "nose", 1, 2, original_width=10**9), r"'original_width': .* got 1000000000"),
        (point("a", "nose", 1, 2, value=5), r"'value': expected an object, got 5"),
    ],
)
def test_damaged_tasks(result, message, tmp_path):
    with pytest.raises(ValueError, match=r"a\.json: task 1: " + message):
        load_labels(studio(tmp_path / "a.json", [result]))


def test_frames_of_videos_in_tasks(tmp_path):
    path = studio(tmp_path / "a.json", [point("a", "nose", 1, 2)])
    (task,) = json.loads(path.read_text())
    for video, message in (
        ({"filename": "v.mp4", "shape": [3, 4, 5, 1]}, r"'frame_idx': expected a number, got null"),
        ({"filename": ["a.png"], "frame_idx": 4}, r"'frame_idx' 4, but 1 images"),
        ({"filename": "v.mp4", "frame_idx": 1, "shape": [10**12]}, r"'shape': expected a number"),
        ({"filename": "v.mp4", "frame_idx": 1, "shape": 5}, r"'shape': expected a list, got 5"),
    ):
        path.write_text(json.dumps([{**task, "meta": {"video": video}}]))
        with pytest.raises(ValueError, match=r"a\.json: task 1: " + message):
            load_labels(path)


# CVAT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<image id="0" name="a1.png" width="64px"><points label="a" points="1,2"/></image>',
         r"image 0: size: expected a number, got '64px'"),
        ('<image id="0"><points label="a" points="1,2"/></image>',
         r"image 0: 'name': expected text, got null"),
        ('<track id="0" label="a"><points frame="-5" points="1,2"/></track>',
         r"track 0: 'frame': expected a number from 0 .*, got '-5'"),
        ('<track id="0" label="a"><points points="1,2"/></track>',
         r"track 0: 'frame': expected a number, got null"),
        ('<image id="0" name="a1.png"><points label="a" points="1,nan"/></image>',
         r"joint 'a': expected 'x,y'.*, got 'nan'"),
        ('<meta><task><stop_frame>-2</stop_frame><source>a.mp4</source></task></meta>'
         '<image id="0" name="a1.png"><points label="a" points="1,2"/></image>',
         r"<stop_frame>: expected a number from 0"),
    ],
)  # fmt: skip
def test_damaged_xml(text, message, tmp_path):
    (tmp_path / "a.xml").write_text(f"<annotations>{text}</annotations>")
    with pytest.raises(ValueError, match=r"a\.xml: " + message):
        load_labels(tmp_path / "a.xml")


def test_image_tasks_exported_as_video(tmp_path):
    text = (
        "<annotations><meta><task><mode>annotation</mode></task></meta>"
        '<track id="0" label="a"><points frame="3" keyframe="1" points="1,2"/></track>'
        "</annotations>"
    )
    (tmp_path / "a.xml").write_text(text)
    with pytest.warns(UserWarning, match=r'a.xml: a task of images, .*"CVAT for images"'):
        assert load_labels(tmp_path / "a.xml").frames.number.tolist() == [3]


def test_damaged_hdf5_files(tmp_path):
    h5py = pytest.importorskip("h5py", reason="the extra labels is not installed")
    (tmp_path / "a.csv").write_text(PLAIN, encoding="utf-8")
    save_labels(load_labels(tmp_path / "a.csv"), tmp_path / "a.h5")
    assert len(load_labels(tmp_path / "a.h5").people) == 2
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["df_with_missing/axis0_label1"][...] = 77  # there are two names
    with pytest.raises(ValueError, match=r"a.h5: cannot be read as a table of pandas: IndexError"):
        load_labels(tmp_path / "a.h5")
