"""Videos of animals seen from above, drawn with a few strokes: every joint is known exactly."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from posewarper.data.formats.label_file import boxes_of_joints
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.skeleton import Skeleton

#: An L: tail, middle and head in a line, and a wing beside the head, whose side tells left.
ANIMAL = Skeleton("animal", ("tail", "middle", "head", "wing"), (), ((0, 1), (1, 2), (2, 3)))
_BODY = np.array([[0, 20], [0, 0], [0, -20], [14, -20]], float)  # head up
_COLOURS = ((40, 40, 200), (40, 160, 40), (200, 60, 40), (180, 40, 180))
SIZE_WH = (128, 112)


def joints_at(frame: int, frames: int, animal: int = 0, turns: float = 1.0) -> np.ndarray:
    """[4, 2] pixels: animals walk in circles of their own, head first."""
    angle = 2 * np.pi * turns * frame / frames + 2 * animal
    cos, sin = np.cos(angle), np.sin(angle)
    center = np.array([64 + 14 * cos, 56 + 14 * sin])
    return _BODY @ np.array([[cos, sin], [-sin, cos]]) + center


def draw(poses: list[np.ndarray]) -> np.ndarray:
    """RGB [H, W, 3] of animals on a ground with some texture."""
    ground = np.random.default_rng(0).integers(170, 215, (14, 16, 3), np.uint8)
    image = cv2.resize(ground, SIZE_WH, interpolation=cv2.INTER_CUBIC)
    for joints in poses:
        places = [tuple(map(int, np.round(joint * 16))) for joint in joints]
        for first, last in ANIMAL.limbs:
            cv2.line(image, places[first], places[last], (70, 60, 50), 7, cv2.LINE_AA, 4)
        for place, colour in zip(places, _COLOURS, strict=True):
            cv2.circle(image, place, 4 * 16, colour, -1, cv2.LINE_AA, 4)
    return image


def write_animals(
    folder: Path, frames: int, animals: int = 1, turns: float = 1.0, video: str = ""
) -> PoseDataset:
    """Images ``000000.png``, .. in a folder, or a video file in it with this name, and all labels.

    Paths in the labels start at ``folder.parent``.
    """
    poses = [
        [joints_at(frame, frames, animal, turns) for animal in range(animals)]
        for frame in range(frames)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    entry = Video(folder.name, frames, 0, "%06d.png")
    if video:
        entry = Video(Path(video).stem, frames, 0, "", f"{folder.name}/{video}")
        file = cv2.VideoWriter(str(folder / video), cv2.VideoWriter.fourcc(*"mp4v"), 10, SIZE_WH)
        for of_frame in poses:
            file.write(cv2.cvtColor(draw(of_frame), cv2.COLOR_RGB2BGR))
        file.release()
    else:
        for number, of_frame in enumerate(poses):
            image = cv2.cvtColor(draw(of_frame), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(folder / f"{number:06d}.png"), image)
    points = np.full((frames * animals, 4, 3), 2.0)
    points[:, :, :2] = np.array(poses).reshape(-1, 4, 2)
    numbers = np.repeat(np.arange(frames), animals)
    return PoseDataset(
        ANIMAL,
        (entry,),
        Frames.make((entry,), np.zeros(frames, int), np.arange(frames), size_wh=SIZE_WH),
        People.make(
            numbers, points, boxes_of_joints(points), track_id=np.tile(np.arange(animals), frames)
        ),
    )
