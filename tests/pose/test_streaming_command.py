"""Streams: the detector, and what options choose."""

from __future__ import annotations

import json
import logging
import re
from urllib.error import URLError

import jsonargparse
import numpy as np
import pytest
import torch
from random_models import random_model
from streamed_faces import (
    IMAGE,
    TALL,
    model_of_faces,
    write_clip,
)

from posewarper.data.annotations import load_coco
from posewarper.models import save_model
from posewarper.skeleton import COCO
from posewarper.streaming import choices, detector, predict

# Threads that wait for each other would wait for ever: better a failure.
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(60)]


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip")


def test_person_detector(tmp_path, monkeypatch):
    """Only people, only sure ones, with corners as x, y, width, height."""

    class Network(torch.nn.Module):
        def forward(self, images):
            assert images[0].shape == (3, 100, 200) and images[0].max() <= 1
            boxes = torch.tensor([[10.0, 20, 40, 80], [1, 1, 5, 5], [50, 50, 60, 60]])
            labels, scores = torch.tensor([1, 18, 1]), torch.tensor([0.9, 0.99, 0.3])
            return [{"boxes": boxes, "labels": labels, "scores": scores}]

    import torchvision.models

    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: Network())
    torch.save({}, tmp_path / "w.pth")
    name = "ssdlite320_mobilenet_v3_large"
    detect = detector.person_detector(name, tmp_path / "w.pth", torch.device("cpu"), 0.5)
    boxes, scores = detect(IMAGE)
    assert boxes.tolist() == [[10, 20, 30, 60]]
    np.testing.assert_allclose(scores, [0.9])
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"detector_weights: .*w\.pth does not fit ssdlite320"):
        detector.person_detector(name, tmp_path / "w.pth", torch.device("cpu"), 0.5)
    (tmp_path / "w.pth").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"detector_weights: .*w\.pth"):
        detector.person_detector(name, tmp_path / "w.pth", torch.device("cpu"), 0.5)
    with pytest.raises(FileNotFoundError):
        detector.person_detector(name, tmp_path / "none.pth", torch.device("cpu"), 0.5)


def test_detector_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def refuse(*_, **__):
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(ValueError) as caught:
        detector.person_detector(
            "fasterrcnn_mobilenet_v3_large_320_fpn", None, torch.device("cpu"), 0.5
        )
    text = str(caught.value)
    assert "https://download.pytorch.org/models/fasterrcnn_mobilenet_v3_large_320_fpn" in text
    assert str(tmp_path / "checkpoints") in text and "detector_weights" in text
    assert "no route" in text


def test_what_is_chosen(clip, tmp_path, monkeypatch, caplog):
    """People by the detector, other skeletons by the whole frame, a file whenever there is one."""
    save_model(model_of_faces(), tmp_path / "face.pt")
    save_model(random_model(skeleton=COCO), tmp_path / "coco.pt")
    save_model(model_of_faces(support_box="own"), tmp_path / "own.pt")
    save_model(model_of_faces(origin={"people_per_frame": 2}), tmp_path / "two.pt")
    boxes = np.array([[10.0, 5, 30, 35]])
    monkeypatch.setattr(choices, "person_detector", lambda *_: lambda image: (boxes, np.ones(1)))
    found = [{"image_name": "1.png", "bbox": [1, 1, 30, 30], "score": 1}]
    (tmp_path / "b.json").write_text(json.dumps(found))
    wanted = [
        ("face", {}, r"frames \[-2.*last pose, beginning with a search"),
        ("coco", {}, "last pose, beginning with those of the detector"),
        ("coco", {"boxes": "detector"}, "boxes: those of the detector fasterrcnn_mob"),
        ("coco", {"start_box": (1, 2, 30, 30)}, "beginning with start_box"),
        ("two", {"start_box": [(1, 2, 30, 30), (30, 9, 30, 30)]}, "beginning with start_box$"),
        (
            "two",
            {},
            r"up to 2 people or animals .* --start_box \[\[x.* --boxes last-pose --box_file",
        ),
        (
            "coco",
            {"box_file": tmp_path / "b.json"},
            r"those of .*b\.json, which has .* in 1 frames",
        ),
        ("coco", {"box_file": tmp_path / "b.json", "boxes": "last-pose"}, r"beginning .*b\.json"),
        ("own", {"boxes": "frame"}, "single frames"),
        ("own", {"boxes": "frame", "mode": "aggregate"}, r"frames \[-2, -1, 0\]"),
        ("face", {"causal": True}, r"frames \[-2, -1, 0\]"),
    ]
    for name, options, message in wanted:
        caplog.clear()
        with caplog.at_level(logging.INFO, "posewarper.streaming"):
            follows = options.get("boxes", "last-pose") == "last-pose" and {*options} != {
                "box_file"
            }
            lost = {"lost_below": -1.0} if follows else {}
            predict(
                str(clip), tmp_path / "x.json", tmp_path / f"{name}.pt", progress=False,
                **options, **lost,
            )  # fmt: skip
        assert re.search(message, caplog.text), caplog.text
        people = load_coco(tmp_path / "x.json").people
        assert len(people) > 0
        if name == "two" and options:
            assert {*people.track_id.tolist()} == {0, 1}
    for options, message in (
        ({"boxes": "detector"}, "file with track ids, or last-pose"),
        ({"boxes": "last-pose", "causal": False}, "causal windows of every frame"),
        ({"boxes": "last-pose", "every": 2}, "causal windows of every frame"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(
                str(clip), tmp_path / "y.json", tmp_path / "own.pt", mode="aggregate", **options
            )
    with pytest.raises(ValueError, match="smooth: needs track ids"):
        predict(str(clip), tmp_path / "y.json", tmp_path / "coco.pt", boxes="detector", smooth=True)


def test_command_line(clip, tmp_path, capsys):
    save_model(model_of_faces(upright=TALL), tmp_path / "face.pt")
    arguments = (
        f"{clip} --out {tmp_path}/out.csv --model {tmp_path}/face.pt --mode aggregate "
        f"--causal true --boxes last-pose --start_box [2,3,40,40] --lost_below -1 --smooth true "
        f"--fps 12.5 --overlay {tmp_path}/o.mp4 --start 1 --frames 2 --every 1 --missing skip "
        "--device cpu --keep_partial true --nms 0.9 --sigmas 0.05 --progress false --batch_size 4"
    )
    got = jsonargparse.auto_cli(
        {"predict": predict}, args=["predict", *arguments.split()], as_positional=True
    )
    assert got.frames == 2 and got.people == 2 and got.written
    assert capsys.readouterr().out == f"2 people in 2 frames -> {tmp_path}/out.csv\n"
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3
    assert (tmp_path / "o.mp4").stat().st_size > 0
