"""A still camera above an arena, in which one mouse walks: every frame looks like every other."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

SIZE = (160, 120)


def place(number):
    """Where the mouse is in a frame: no two of the first hundred are close."""
    return 80 + 60 * np.cos(0.9 * number), 60 + 40 * np.sin(0.37 * number + 0.4)


def frame(number, noise=2.0):
    """A frame as BGR [H, W, 3] uint8."""
    fixed = np.random.default_rng(5)
    image = cv2.resize(fixed.integers(40, 220, (6, 8, 3), np.uint8), SIZE).astype(float)
    image += np.random.default_rng(number).normal(0, noise, image.shape)
    x, y = place(number)
    cv2.ellipse(image, (round(x), round(y)), (11, 6), 40 * number, 0, 360, (25, 25, 25), -1)
    return np.clip(image, 0, 255).astype(np.uint8)


def film(path: Path, numbers, change=frame):
    """A video file of these frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25, SIZE)
    for number in numbers:
        writer.write(change(number))
    writer.release()
    return path


def images(folder: Path, names, change=frame, flags=()):
    """Images by name, of these frames."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, number in names.items():
        cv2.imwrite(str(folder / name), change(number), flags)
    return folder


def table(path: Path, names, joints=("nose", "tail"), points=None):
    """Labels as DeepLabCut writes them: the mouse of frame n in the image that shows it.

    Args:
        names: path of each image below the project, and the frame that it shows.
        points: by default where the mouse is; x and y of both joints by frame.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        "scorer" + ",me" * 2 * len(joints),
        "bodyparts," + ",".join(f"{joint},{joint}" for joint in joints),
        "coords" + ",x,y" * len(joints),
    ]
    for name, number in names.items():
        x, y = place(number)
        own = (x, y, x + 5, y + 3) if points is None else points(number)
        rows.append(f"{name}," + ",".join(f"{value:.2f}" for value in own))
    path.write_text("\n".join(rows) + "\n")
    return path
