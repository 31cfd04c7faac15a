"""Every command reads a file of labels in the same way: ``formats.load_labels``."""

from __future__ import annotations

import ast
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import posewarper
from posewarper import cli
from posewarper.data.formats import load_labels, load_track_names, save_labels
from posewarper.data.given_boxes import load_frames
from posewarper.data.posetrack import save_posetrack
from posewarper.data.sparsify import statistics
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.evaluation.prediction_files import write_posetrack
from posewarper.report import viewer_source
from posewarper.skeleton import POSETRACK, Skeleton

#: Who may read COCO-style files by another way: files that the program itself has written.
OWN_FILES = {
    "data/annotations.py", "data/posetrack.py", "data/formats/labels.py",
    "demonstration/page.py", "demonstration/results.py", "demonstration/run.py", "fitting/run.py",
    "inference/shared_aggregation.py", "streaming/merging.py",
}  # fmt: skip


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def cvat_coco(path: Path) -> Path:
    """Five frames of one mouse in track 7, of which CVAT computed three; boxes in a category of
    their own come first.
    """
    shapes = [
        {
            "id": 2 * i + kind,
            "image_id": i,
            "category_id": kind,
            "bbox": [9, 9, 30, 40] if kind else [0, 0, 0, 0],
            "keypoints": [10 + i, 12, 2, 38, 48, 2] if kind else [],
            "attributes": {"track_id": 7, "keyframe": i in (1, 5)},
        }
        for i in range(1, 6)
        for kind in (0, 1)
    ]
    categories = [
        {"id": 0, "name": "box", "keypoints": [], "skeleton": []},
        {"id": 1, "name": "mouse", "keypoints": ["nose", "tail"], "skeleton": [[2, 1]]},
    ]
    images = [{"id": i, "file_name": f"clip/{i:06d}.png"} for i in range(1, 6)]
    return write(path, {"images": images, "annotations": shapes, "categories": categories})


def label_studio(path: Path) -> Path:
    common = {"type": "keypointlabels", "original_width": 100, "original_height": 50}
    points = [
        {**common, "id": name, "value": {"x": x, "y": 20, "keypointlabels": [name]}}
        for name, x in (("nose", 10), ("tail", 60))
    ]
    task = {"id": 1, "data": {"image": "/data/upload/1/clip/000003.png"}}
    return write(path, [{**task, "annotations": [{"result": points}]}])


def table(path: Path) -> Path:
    path.write_text("frame_idx,track,nose.x,nose.y,tail.x,tail.y\n3,ann,1,2,3,4\n3,bob,5,6,7,8\n")
    return path


def official(folder: Path) -> Path:
    video = Video("images/val/000012_x", 9)
    points = np.ones((1, 17, 3)) * 5
    points[..., 2] = 1
    frames = Frames.make((video,), [0], [3], size_wh=(64, 48))
    people = People.make([0], points, [[1, 2, 30, 40]], track_id=[4])
    save_posetrack(PoseDataset(POSETRACK, (video,), frames, people), folder, "posetrack18")
    return folder


FILES = {
    "cvat.json": (cvat_coco, 2, [7]),
    "studio.json": (label_studio, 1, []),
    "table.csv": (table, 2, [0, 1]),
    "official": (official, 1, [4]),
}


def of(dataset: PoseDataset) -> tuple[object, ...]:
    people, frames = dataset.people, dataset.frames
    columns = (people.keypoints, people.bbox, people.track_id, people.frame, frames.number)
    return dataset.skeleton.joints, dataset.videos, *(column.tolist() for column in columns)


@pytest.mark.filterwarnings("ignore:.*left out are categories:UserWarning")
@pytest.mark.parametrize("name", FILES)
def test_all_commands_see_the_same(name, tmp_path, capsys):
    make, people, tracks = FILES[name]
    path = make(tmp_path / name)
    wanted = load_labels(path)
    assert len(wanted.people) == people
    assert sorted({*wanted.people.track_id[wanted.people.track_id >= 0].tolist()}) == tracks
    assert cli.stats(path) == statistics(wanted).as_dict()
    assert of(cli.convert(path, tmp_path / "out.json")) == of(wanted)
    assert of(load_labels(tmp_path / "out.json")) == of(wanted)
    assert of(load_frames(path, POSETRACK)) == of(wanted)
    assert of(viewer_source.load_videos(path, None, None, None)[0]) == of(wanted)
    sparse = cli.sparsify(path, tmp_path / "sparse.json", every=1)
    assert of(sparse) == of(wanted)


def test_there_is_no_other_way_in():
    """No module reads COCO-style or official files by itself, except those that wrote them."""
    root = Path(posewarper.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = {a.name for a in node.names} if isinstance(node, ast.ImportFrom) else set()
            if names & {"load_coco", "from_coco", "load_posetrack"}:
                found.add(path.relative_to(root).as_posix())
    assert found <= OWN_FILES


def test_a_file_is_read_once(tmp_path, monkeypatch):
    from posewarper.data.formats import detection, labels

    read, path = [], cvat_coco(tmp_path / "a.json")
    plain = labels.read_json
    for module in (labels, detection):
        monkeypatch.setattr(module, "read_json", lambda p: read.append(p) or plain(p))
    with pytest.warns(UserWarning, match="'box' .5 annotations|'box' .2 annotations"):
        cli.convert(path, tmp_path / "b.json")
    assert read == [path]


def test_names_of_tracks_survive(tmp_path):
    path = table(tmp_path / "a.csv")
    for step in ("a.json", "b.csv", "c.json"):
        cli.convert(path, tmp_path / step)
        path = tmp_path / step
        assert load_labels(path).track_names == load_track_names(path) == {0: "ann", 1: "bob"}
    assert json.loads(path.read_text())["tracks"] == [
        {"id": 0, "name": "ann"},
        {"id": 1, "name": "bob"},
    ]
    save_labels(load_labels(path), tmp_path / "d.csv")
    assert "bob" in (tmp_path / "d.csv").read_text()


def test_official_files_keep_their_boxes_and_tracks(tmp_path):
    """Of 2019: an empty box stays empty, a track twice is a warning, a frame of two images none."""
    points = [5, 6, 2, 25, 36, 2] + [5, 6, 2] * 15
    images = [{"id": i, "file_name": "v/00000001.jpg", "nframes": 3} for i in (1, 2)]
    people = [
        {"id": i, "image_id": i, "bbox": [0, 0, 0, 0], "keypoints": points, "track_id": 1}
        for i in (1, 2)
    ]
    category = {"id": 1, "name": "person", "keypoints": list(POSETRACK.joints)}
    data = {"images": images, "annotations": people, "categories": [category]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = load_labels(write(tmp_path / "a.json", data))
    assert len(caught) == 1 and "images have the file name" in str(caught[0].message)
    assert found.people.frame.tolist() == [0, 0] and not found.people.bbox.any()
    people[1]["image_id"] = 1
    del images[1]
    with pytest.warns(UserWarning, match=r"a.json: track 1 occurs twice in frame 1 of video 'v'"):
        assert len(load_labels(write(tmp_path / "a.json", data)).people) == 2
    own = {**category, "keypoints": [f"j{i}" for i in range(17)]}
    with pytest.raises(ValueError, match=r"a.json: track 1 occurs twice"):
        load_labels(write(tmp_path / "a.json", {**data, "categories": [own]}))


def test_one_file_of_posetrack17_and_other_joints(tmp_path):
    path = official(tmp_path / "18")
    cli.convert(path, tmp_path / "17", to="posetrack17")
    (file,) = (tmp_path / "17").glob("*.json")
    assert load_labels(file).people.track_id.tolist() == [4]
    two = load_labels(path, skeleton=Skeleton("two", ("head_top", "nose")))
    assert two.people.keypoints.shape == (1, 2, 3)
    with pytest.raises(ValueError, match=r"18: skeleton 'x' has joints \['paw'\]"):
        load_labels(path, skeleton=Skeleton("x", ("paw",)))


def test_people_without_a_track_in_posetrack_files(tmp_path):
    """They have no track_id: -1 would be one track of all of them, and twice in a frame."""
    video = Video("v", 2)
    points = np.full((3, 17, 3), 2.0)
    people = People.make([0, 0, 1], points, np.ones((3, 4)), track_id=[-1, -1, 6])
    frames = Frames.make((video,), [0, 0], [0, 1])
    data = PoseDataset(POSETRACK, (video,), frames, people)
    for kind in ("posetrack18", "posetrack17"):
        (path,) = save_posetrack(data, tmp_path / kind, kind)
        assert "-1" not in path.read_text()
        assert load_labels(path.parent).people.track_id.tolist() == [-1, -1, 6]
    # Files of others have -1.
    (path,) = (tmp_path / "posetrack18").glob("*.json")
    content = json.loads(path.read_text())
    content["annotations"][0]["track_id"] = content["annotations"][1]["track_id"] = -1
    assert load_labels(write(path, content).parent).people.track_id.tolist() == [-1, -1, 6]


def test_ids_that_predictions_need(tmp_path):
    """Evaluators demand an id of everybody: those of tracks stay, others are no track's."""
    names, points = ["v/000000.jpg", "v/000001.jpg"], np.ones((4, 17, 2))
    for tracks, wanted in (([-1, 3, -1, -1], [4, 3, 4, 5]), ([-1] * 4, [0, 1, 0, 1])):
        write_posetrack(
            tmp_path / "v.json", names, [0, 0, 1, 1], points, np.ones((4, 17)), track_id=tracks
        )
        people = json.loads((tmp_path / "v.json").read_text())["annotations"]
        assert [person["track_id"] for person in people] == wanted


def test_predictions_of_posetrack18_without_ids(tmp_path):
    for name in ("a", "b"):
        data = {
            "images": [{"id": 1, "file_name": f"images/{name}/000000.jpg"}],
            "annotations": [
                {"image_id": 1, "keypoints": [4, 5, 0.5] * 17, "scores": [0.5] * 17, "track_id": 0}
            ],
            "categories": [{"id": 1, "name": "person", "keypoints": list(POSETRACK.joints)}],
        }
        write(tmp_path / f"{name}.json", data)
    found = load_labels(tmp_path)
    assert len(found.people) == 2 and found.people.predicted.all()
    assert (found.people.keypoints[..., 2] == 1).all()  # the third number was a confidence
