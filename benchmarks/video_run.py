"""From a video file to a file of results, with the time of each part.

Ours is ``posewarper predict``: reading and writing have threads of their own, so that the parts may
add up to more than the whole. Callables are wrapped from outside; the product does not know.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch

from benchmarks.aggregating import precision_of
from benchmarks.baseline import BaselineWarper
from benchmarks.system_cases import Size, make_model, normalised
from benchmarks.timing import clock
from posewarper.data.crops import box_to_center_scale, crop, crop_matrices
from posewarper.data.formats import load_labels
from posewarper.data.synthetic import write_dataset
from posewarper.data.tables import Floats
from posewarper.inference.predictor import PosePredictor
from posewarper.models import PoseModel, save_model
from posewarper.streaming import command, poses
from posewarper.streaming.command import predict
from posewarper.streaming.writing import ResultFile

PARTS = ("decode", "crop", "network", "decode joints", "write")
WHATS = ("video", "video, held boxes")
IMPLEMENTATIONS = ("baseline", "posewarper", "posewarper-bf16")
HOLD = 8  # frames that a held box stays

#: Largest accepted share of joints that lie more than half a pixel from the baseline's. Where a
#: random network's two highest maxima are alike, roundings choose another one.
BOUNDS = {"fp32": 0.01, "bf16": 0.2}


@dataclass(frozen=True, eq=False)
class Clip:
    """A video, and where people are.

    Attributes:
        path: of the video file.
        box_file: the boxes, as a detector lists them; None: one person fills the frame.
        boxes: x, y, width, height [P, 4] by frame.
        model: file of the network.
    """

    path: Path
    box_file: Path | None
    boxes: Sequence[Floats]
    model: Path


def make_clip(folder: Path, size: Size, what: str, video: Path | None, frames: int) -> Clip:
    """A video of the user's whose frame is one person, or a synthetic one of two people."""
    model = folder / "model.pt"
    if not model.exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_model(make_model(size), model)
    if video is not None:
        capture = cv2.VideoCapture(str(video))
        width, height = (int(capture.get(p)) for p in (3, 4))
        capture.release()
        return Clip(video, None, [np.array([[0, 0, width, height]], float)] * frames, model)
    root = folder / "synthetic"
    if not root.exists():
        wh = (160, 120) if frames < HOLD else (960, 540)
        write_dataset(root, videos=1, frames=frames, size_wh=wh, as_video=True, progress=False)
    data = load_labels(root / "annotations" / "posetrack_train.json")
    people, bbox = data.people, data.people.bbox.copy()
    if what == WHATS[1]:
        for track in np.unique(people.track_id):
            rows = np.flatnonzero(people.track_id == track)
            chunk = people.frame[rows] // HOLD
            _, first, of_row = np.unique(chunk, return_index=True, return_inverse=True)
            bbox[rows] = bbox[rows][first][of_row]
    # A list of detections: boxes of labels would be clipped to the image.
    listed = [
        {"image_id": frame + 1, "bbox": box, "score": 1.0, "category_id": 1}
        for frame, box in zip(people.frame.tolist(), bbox.tolist(), strict=True)
    ]
    box_file = folder / f"{what}.json"
    box_file.write_text(json.dumps(listed))
    boxes = [bbox[people.frame == frame] for frame in range(len(data.frames))]
    return Clip(next(root.glob("images/**/*.mp4")), box_file, boxes, model)


class Split:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose time counts as the part's."""

        def wrapped(*arguments: Any, **options: Any) -> Any:
            start = clock() if part == "network" else time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                end = clock() if part == "network" else time.perf_counter()
                self.seconds[part] += end - start

        return wrapped

    def timed_items(self, part: str, items: Callable[..., Iterator[Any]]) -> Callable[..., Any]:
        """The same generator, whose time between two items counts."""

        def wrapped(*arguments: Any) -> Iterator[Any]:
            iterator = items(*arguments)
            following = self.timed(part, lambda: next(iterator, None))
            while (item := following()) is not None:
                yield item

        return wrapped

    def milliseconds_per(self, frames: int) -> dict[str, float]:
        """By part, for each frame."""
        return {part: 1e3 * self.seconds[part] / frames for part in PARTS}


def run_ours(
    clip: Clip, implementation: str, device: str, out: Path, frames: int
) -> tuple[float, Split]:
    """Seconds in all, and by part."""
    split = Split()

    def open_source(*arguments: Any, **options: Any) -> Any:
        source = opened(*arguments, **options)
        source.frames = split.timed_items("decode", source.frames)
        return source

    opened = command.open_source
    wrapped: list[tuple[Any, str, str]] = [
        (poses, "crop", "crop"),
        (PosePredictor, "heatmaps", "network"),
        (PosePredictor, "aggregate", "network"),
        (PosePredictor, "decode", "decode joints"),
        (ResultFile, "add", "write"),
        (ResultFile, "finish", "write"),
    ]
    with ExitStack() as patches:
        for owner, name, part in wrapped:
            function = split.timed(part, getattr(owner, name))
            patches.enter_context(mock.patch.object(owner, name, function))
        patches.enter_context(mock.patch.object(command, "open_source", open_source))
        start = clock()
        predict(
            str(clip.path), out, clip.model, frames=frames, device=device, progress=False,
            boxes="frame" if clip.box_file is None else "file", box_file=clip.box_file,
            precision=precision_of(implementation),  # type: ignore[arg-type]
        )  # fmt: skip
        return clock() - start, split


class BaselineVideo:
    """Person by person: T seeks and decodes, crops, the network, joints.

    Args:
        model: of the network.
        device: where to.
    """

    def __init__(self, model: PoseModel, device: str):
        self.model, self.device = model, device
        self.network = BaselineWarper(model).to(device)
        self.decoder = PosePredictor(model, device=device)  # for its joints alone

    def run(self, clip: Clip, out: Path, frames: int) -> tuple[float, Split]:
        """Seconds in all, and by part."""
        split, found = Split(), []
        begin = clock()
        capture = cv2.VideoCapture(str(clip.path))
        last = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) - 1
        network, wh = split.timed("network", self._network), self.model.crop_wh
        for number in range(frames):
            for box in clip.boxes[number]:
                center, scale = box_to_center_scale(box[None], wh, self.model.padding)
                matrices = crop_matrices(center, scale, wh)
                crops = []
                for delta in self.model.config.window.deltas:
                    read = split.timed("decode", self._read)
                    image = read(capture, min(max(number + delta, 0), last))
                    crops.append(split.timed("crop", crop)(image, matrices, wh)[0])
                heatmaps = network(np.stack(crops))
                joints, heights = split.timed("decode joints", self.decoder.decode)(
                    heatmaps, center, scale
                )
                heights = np.maximum(heights[0], 0)  # no maximum, no joint
                place = np.where(heights[:, None] > 0, joints[0], 0)
                found.append(
                    {"frame": number, "joints": place.tolist(), "scores": heights.tolist()}
                )
        split.timed("write", out.write_text)(json.dumps(found))
        return clock() - begin, split

    @staticmethod
    def _read(capture: cv2.VideoCapture, number: int) -> Any:
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        return cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)

    def _network(self, crops: Any) -> torch.Tensor:
        images = normalised(torch.from_numpy(np.moveaxis(crops, -1, 1)).to(self.device))
        with torch.no_grad():
            return self.network.aggregate(images[None])


def baseline_joints(out: Path) -> Floats:
    """``[P, J, 2]`` of a file of the baseline."""
    return np.array([person["joints"] for person in json.loads(out.read_text())])


def our_joints(out: Path) -> Floats:
    """``[P, J, 2]`` of a file of ``posewarper predict``."""
    return np.asarray(load_labels(out).people.keypoints[..., :2])


def share_apart(found: Floats, expected: Floats) -> float:
    """Share of joints that lie more than half a pixel from where they are expected."""
    if found.shape != expected.shape:
        return float("inf")
    return float((np.linalg.norm(found - expected, axis=-1) > 0.5).mean())
