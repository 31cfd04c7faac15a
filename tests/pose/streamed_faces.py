"""Faces of three joints in videos that are made by hand."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from random_models import random_model

from posewarper.data.tables import Video
from posewarper.inference import PosePredictor, Scoring
from posewarper.skeleton import Skeleton
from posewarper.streaming import Options, predict_stream
from posewarper.streaming.boxes import (
    WholeFrame,
)
from posewarper.streaming.people import Finisher
from posewarper.streaming.poses import Poses, WindowPoses
from posewarper.streaming.sources import Frame
from posewarper.streaming.writing import ResultFile

FACE = Skeleton("face", ("left", "right", "chin"), ((0, 1),), ((0, 2), (1, 2)), (0.05,) * 3)
IMAGE = np.zeros((100, 200, 3), np.uint8)
TALL = ((-0.5, -0.6), (0.5, -0.6), (0.0, 1.2))  # chin down


def model_of_faces(**options):
    return random_model(joints=3, skeleton=FACE, crop_wh=(64, 64), **options)


class Made:
    """A source made by hand: frames of noise, the damaged ones None; may end with an error."""

    path = None
    fps = 10.0

    def __init__(self, count, damaged=(), live=False, error=None, before=None, size_wh=(64, 48)):
        self.video = Video("made", 0 if live else count, 0, "", "made.mp4")
        self.count, self.damaged, self.live, self.error = count, damaged, live, error
        self.before = before or (lambda number: None)
        random = np.random.default_rng(0)
        self.noise = random.integers(0, 256, (size_wh[1], size_wh[0], 3), np.uint8)
        self.asked = []

    def frames(self, first):
        for number in range(first, self.count):
            self.asked.append(number)
            self.before(number)
            image = np.roll(self.noise, number, 1)
            problem = f"frame {number} is damaged" if number in self.damaged else ""
            name = self.video.file_name(number)
            yield Frame(number, number / self.fps, None if problem else image, name, problem)
        if self.error is not None:
            raise self.error


def see_three_peaks(monkeypatch):
    """In place of the network, which takes most of the time: a pose in the middle of each crop."""
    peaks = torch.zeros(3, 16, 16)
    peaks[[0, 1, 2], [4, 4, 12], [4, 12, 8]] = 1.0

    def heatmaps(self, crops):
        return peaks.repeat(len(crops), 1, 1, 1)

    monkeypatch.setattr(PosePredictor, "heatmaps", heatmaps)
    monkeypatch.setattr(PosePredictor, "aggregate", lambda self, maps, window: maps.mean(1))


def stream(
    source, out, *, find=None, window=None, model=None, finish=None, overlay=None, **options
):
    model = model or model_of_faces()
    predictor = PosePredictor(model, device="cpu")
    return predict_stream(
        source,
        find or WholeFrame(model),
        WindowPoses(predictor, window),
        finish or Finisher(model, Scoring()),
        ResultFile(out, "dataset", model.skeleton),
        options=Options(progress=False, **options),
        overlay=overlay,
    )


def poses_at(places, heights, spread=10.0, angles=None):
    """Faces in the centre of the places, turned."""
    centre = places.box[:, :2] + places.box[:, 2:4] / 2
    face = np.array(TALL) - (np.min(TALL, 0) + np.max(TALL, 0)) / 2
    points = np.repeat(face[None] * spread, len(places), 0)
    if angles is not None:
        a = np.deg2rad(angles)
        turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]).transpose(2, 0, 1)
        points = points @ turn
    heights = np.repeat(np.asarray(heights, float)[:, None], 3, 1)
    return Poses(points + centre[:, None], heights, places)


def write_clip(folder):
    """Three grey frames of 64 x 48."""
    folder.mkdir()
    for number in range(3):
        image = np.full((48, 64, 3), 60 * number, np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder
