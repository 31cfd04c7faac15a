"""Damaged files of every format: a data set or one line that names the file, nothing else."""

from __future__ import annotations

import copy
import json
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posewarper.data.formats import load_labels, save_labels
from posewarper.data.posetrack import save_posetrack
from posewarper.data.tables import Frames, People, PoseDataset, Regions, Video
from posewarper.skeleton import POSETRACK, Skeleton

MUTATIONS = 120  # of each file; the time of all is a few seconds
FLY = Skeleton("fly", ("nose", "left_ear", "right_ear"), ((1, 2),), ((0, 1), (0, 2)))
STRANGE: list[Any] = [
    None, [], {}, "", "x", "3", -1, 0, 1, -7, 1e300, float("inf"), float("nan"), 10**30, True, [1],
    [None], {"a": 1}, [[1, 2]], "\ud800", "%s%d%d", "a/b\0c.jpg", 2.5, "../..", "9" * 400, [[]],
    "nan", "1e5", "None",
]  # fmt: skip
PIECES = [
    b",", b'"', b"\n", b"-", b"9" * 40, b"e999", b"\xff", b"\0", b"nan", b"inf", b";", b"\xc3\xa9",
]  # fmt: skip


def people(skeleton: Skeleton, *, file: bool = False, predicted: bool = False) -> PoseDataset:
    """Five people in three frames of a video, of two tracks."""
    rng, joints = np.random.default_rng(0), len(skeleton)
    video = Video("d/clip", 20, 0, "", "d/clip.mp4") if file else Video("d/000012_x", 20)
    regions = Regions.make([[[[1, 2], [3, 4], [5, 6]]], [], []])
    frames = Frames.make((video,), [0, 0, 0], [0, 3, 7], size_wh=(640, 480), ignore=regions)
    points = np.full((5, joints, 3), 2.0)
    points[..., :2] = rng.uniform(10, 400, (5, joints, 2)).round(2)
    found = People.make(
        [0, 0, 1, 1, 2], points, [[5, 6, 100, 120]] * 5, track_id=[0, 1, 0, 1, 0],
        joint_scores=rng.uniform(0, 1, (5, joints)) if predicted else None,
        head_box=[[1, 2, 30, 40]] * 5,
    )  # fmt: skip
    return PoseDataset(skeleton, (video,), frames, found, "x", {0: "bob", 1: "ann"})


def foreign(path: Path) -> None:
    """COCO as other tools write it: CVAT's attributes, two categories, no table of videos."""
    save_labels(people(FLY), path)
    data = json.loads(path.read_text())
    del data["videos"]
    for image in data["images"]:
        for key in ("video_id", "frame_number", "nframes", "frame_id", "is_labeled"):
            del image[key]
    for annotation in data["annotations"]:
        annotation["attributes"] = {"track_id": annotation.pop("track_id"), "keyframe": True}
    mouse = {"id": 2, "name": "mouse", "keypoints": ["nose", "tail"], "skeleton": [[1, 2]]}
    data["categories"].append(mouse)
    points = [1, 2, 2, 3, 4, 1]
    more = {"id": 9, "image_id": 3, "category_id": 2, "bbox": [1, 2, 3, 4], "keypoints": points}
    data["annotations"].append(more)
    path.write_text(json.dumps(data))


def official(path: Path, kind: Any) -> None:
    (file,) = save_posetrack(people(POSETRACK), path.parent / "folder", kind)
    file.rename(path)


FILES: dict[str, Any] = {
    "own.json": lambda path: save_labels(people(FLY), path),
    "foreign.json": foreign,
    "posetrack18.json": lambda path: official(path, "posetrack18"),
    "posetrack17.json": lambda path: official(path, "posetrack17"),
    "studio.json": lambda path: save_labels(people(FLY), path, format="label-studio"),
    "labels.csv": lambda path: save_labels(people(FLY), path),
    "predictions.csv": lambda path: save_labels(people(FLY, file=True, predicted=True), path),
    "dlc.csv": lambda path: save_labels(people(FLY), path, format="deeplabcut"),
    "dlc.h5": lambda path: save_labels(people(FLY), path),
    "images.xml": lambda path: save_labels(people(FLY), path),
    "video.xml": lambda path: save_labels(people(FLY, file=True), path),
}


def other_content(content: Any, rng: random.Random) -> Any:
    """JSON in which one to three values are gone, doubled, or something else."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places: list[tuple[Any, Any]] = []

        def walk(entry: Any, places: list[tuple[Any, Any]] = places) -> None:
            some = entry.items() if isinstance(entry, dict) else enumerate(entry[:30])
            for key, value in some:
                places.append((entry, key))
                if isinstance(value, dict | list):
                    walk(value)

        walk(content)
        if not places:
            break
        entry, key = rng.choice(places)
        action = rng.randrange(6)
        if action == 0:
            entry.pop(key)
        elif action == 1 and isinstance(entry, list):
            entry.insert(key, copy.deepcopy(entry[key]))
        else:
            entry[key] = rng.choice(STRANGE)
    return content


def other_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes with bits turned, pieces or lines gone, doubled or put in, or without their end."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not data:
            break
        at, action = rng.randrange(len(data)), rng.randrange(6)
        lines = data.split(b"\n")
        line = rng.randrange(len(lines))
        if action == 0:
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif action == 1:
            data = data[:at] + data[at + rng.choice((1, 3, 50)) :]
        elif action == 2:
            data = data[:at] + rng.choice(PIECES) + data[at:]
        elif action == 3:
            data = b"\n".join(lines[:line] + lines[line + 1 :])
        elif action == 4:
            data = b"\n".join(lines[: line + 1] + lines[line:])
        else:
            data = data[:at]
    return data


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(name, tmp_path):
    if name.endswith(".h5"):
        pytest.importorskip("h5py", reason="the extra labels is not installed")
    path = tmp_path / name
    FILES[name](path)
    good = path.read_bytes()
    assert load_labels(path).people.keypoints[..., 2].any()
    outcomes = {"read": 0, "refused": 0}
    for seed in range(MUTATIONS):
        rng = random.Random(seed)
        if path.suffix == ".json" and seed % 3:
            path.write_text(json.dumps(other_content(json.loads(good), rng)))
        else:
            path.write_bytes(other_bytes(good, rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = load_labels(path)
        except (ValueError, OSError) as error:
            assert str(path) in str(error), f"seed {seed}: {error!r}"
            assert "\n" not in str(error), f"seed {seed}: {error!r}"
            outcomes["refused"] += 1
        else:
            assert np.isfinite(found.people.keypoints).all(), f"seed {seed}"
            assert np.abs(found.people.keypoints[..., :2]).max(initial=0) <= 1e9, f"seed {seed}"
            assert found.frames.number.min(initial=0) >= 0, f"seed {seed}"
            outcomes["read"] += 1
    assert min(outcomes.values()) > 5, outcomes
