"""Synthetic data sets on disk: complete, readable by everything else, whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from posewarper.data.annotations import load_coco
from posewarper.data.posetrack import load_posetrack
from posewarper.data.synthetic import load_truth, write_dataset
from posewarper.data.synthetic_motion import JOINTS
from posewarper.data.tables import PoseDataset
from posewarper.data.video import FrameSource
from posewarper.skeleton import POSETRACK


def write_small(folder: Path, **arguments: Any) -> dict[str, PoseDataset]:
    small: dict[str, Any] = {
        "videos": {"train": 2, "val": 1},
        "frames": 5,
        "size_wh": (96, 80),
        "seed": 4,
        "progress": False,
    }
    return write_dataset(folder, **{**small, **arguments})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_frame_folders_and_both_label_formats(tmp_path: Path) -> None:
    written = write_small(tmp_path / "set", image_format="png")
    assert sorted(written) == ["train", "val"]
    assert [p.name for p in tmp_path.iterdir()] == ["set"]  # nothing half-finished is left
    data = load_coco(tmp_path / "set" / "annotations" / "posetrack_train.json")
    assert len(data.videos) == 2 and len(data.frames) == 10
    assert data.frames.labelled.all()
    np.testing.assert_array_equal(data.people.keypoints, written["train"].people.keypoints)
    source = FrameSource(tmp_path / "set")
    for position, entry in enumerate(data.videos):
        truth = load_truth(tmp_path / "set" / "truth" / "train" / f"{Path(entry.name).name}.npz")
        assert truth["keypoints"].shape == (5, 2, JOINTS, 3)
        assert sorted(p.name for p in (tmp_path / "set" / entry.path).iterdir()) == [
            f"{number:06d}.png" for number in range(5)
        ]
        for number in range(5):
            image = source.read(entry, number)
            assert image is not None and image.shape == (80, 96, 3)
        rows = np.flatnonzero(data.frames.video[data.people.frame] == position)
        assert len(rows) == truth["present"].sum()
        for row in rows:
            number = data.frames.number[data.people.frame[row]]
            person = data.people.track_id[row]
            joints = data.people.keypoints[row]
            labelled = joints[:, 2] > 0
            expected = truth["keypoints"][number, person]
            np.testing.assert_allclose(joints[labelled], expected[labelled], atol=0.0051)
            np.testing.assert_allclose(
                data.people.head_box[row], truth["head_boxes"][number, person], atol=0.0051
            )
    arguments = json.loads((tmp_path / "set" / "synthetic.json").read_text())
    assert arguments["seed"] == 4 and arguments["difficulty"]["blur"] == 0.2


def test_official_files_are_complete(tmp_path: Path) -> None:
    write_small(tmp_path / "set")
    files = sorted((tmp_path / "set" / "annotations" / "train").iterdir())
    assert [f.name for f in files] == ["000001_synthetic.json", "000002_synthetic.json"]
    ids = set()
    for sequence, file in enumerate(files, start=1):
        content = json.loads(file.read_text())
        assert len(content["images"]) == 5
        for number, image in enumerate(content["images"]):
            assert image["id"] == image["frame_id"] == 10**10 + sequence * 10**4 + number
            assert image["vid_id"] == f"{sequence:06d}"
            assert image["nframes"] == 5 and image["is_labeled"]
            assert (tmp_path / "set" / image["file_name"]).is_file()
        images = {image["id"] for image in content["images"]}
        for person in content["annotations"]:
            assert person["image_id"] in images
            assert len(person["keypoints"]) == 51
            assert set(person["keypoints"][2::3]) <= {0, 1}
            assert len(person["bbox"]) == len(person["bbox_head"]) == 4
            assert {"id", "track_id", "scores", "category_id"} <= set(person)
            ids.add(person["id"])
        assert content["categories"][0]["keypoints"] == list(POSETRACK.joints)
    assert len(ids) > 5


def test_video_files_are_read_back(tmp_path: Path) -> None:
    written = write_small(tmp_path / "set", as_video=True, size_wh=(160, 120))["val"]
    (entry,) = written.videos
    assert entry.is_file
    capture = cv2.VideoCapture(str(tmp_path / "set" / entry.path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert len(frames) == 5 and frames[0].shape == (120, 160, 3)
    # The codec loses something, but the pictures are in place and in order.
    assert write_small(tmp_path / "png", image_format="png", size_wh=(160, 120))
    for number, frame in enumerate(frames):
        drawn = cv2.imread(str(tmp_path / "png" / entry.name / f"{number:06d}.png"))
        assert cv2.PSNR(frame, drawn) > 24
    # The official files name images, which FrameSource finds in the video.
    official = load_posetrack(tmp_path / "set" / "annotations" / "val" / "000003_synthetic.json")
    (listed,) = official.videos
    image = FrameSource(tmp_path / "set").read(listed, 3)
    assert image is not None
    np.testing.assert_array_equal(image[..., ::-1], frames[3])
    assert load_coco(tmp_path / "set" / "annotations" / "posetrack_val.json").videos == (entry,)


def test_writing_is_repeatable_and_longer_splits_begin_with_shorter_ones(tmp_path: Path) -> None:
    write_small(tmp_path / "a")
    write_small(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    write_small(tmp_path / "c", videos=3)
    first, longer = contents(tmp_path / "a"), contents(tmp_path / "c")
    shared = [name for name in first if "/train/" in name and name.startswith("images")]
    assert len(shared) == 10
    assert all(first[name] == longer[name] for name in shared)


def test_an_existing_folder_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="overwrite"):
        write_small(target)
    with pytest.raises(FileExistsError, match="not a synthetic data set"):
        write_small(target, overwrite=True)
    assert (target / "mine.txt").read_text() == "precious"
    (target / "synthetic.json").write_text("{}")
    write_small(target, overwrite=True)
    assert not (target / "mine.txt").exists()
    with pytest.raises(ValueError, match="videos: expected names of splits"):
        write_small(target, videos={"../up": 1}, overwrite=True)
    with pytest.raises(ValueError, match="image_format"):
        write_small(target, image_format="bmp", overwrite=True)
    assert (target / "synthetic.json").exists()


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(cv2, "imwrite", fail)
    with pytest.raises(KeyboardInterrupt):
        write_small(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
