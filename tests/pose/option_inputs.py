"""What the tests of options run commands on, and what they look for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from option_places import Place
from random_models import random_model

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.sparsify import every_kth
from posewarper.data.synthetic import write_dataset
from posewarper.models import save_checkpoint, save_model
from posewarper.report import VideoWriter


def write_inputs(root: Path) -> Path:
    """Two videos of people, one of them with labels of some frames, and models."""
    write_dataset(
        root / "data", videos={"train": 1, "val": 1}, frames=7, size_wh=(96, 72), progress=False
    )
    for split in ("train", "val"):
        dense = load_coco(root / "data" / "annotations" / f"posetrack_{split}.json")
        save_coco(dense, root / f"{split}.json")
        sparse = every_kth(dense, 4, 1)
        save_coco(sparse, root / f"sparse-{split}.json")
        (video,) = dense.videos
        (root / split).symlink_to(root / "data" / video.path)
        (root / "videos").mkdir(exist_ok=True)
        (root / "videos" / split).symlink_to(root / "data" / video.path)
        found = [
            {"image_name": name, "bbox": [10.0, 10, 50, 50], "score": score}
            for name in dense.frames.file_name
            for score in (0.3, 0.6, 0.9)
        ]
        (root / f"detected-{split}.json").write_text(json.dumps(found))
        plain = [{**one, "image_name": Path(one["image_name"]).name} for one in found]
        (root / f"boxes-{split}.json").write_text(json.dumps(plain))
    with VideoWriter(root / "clip.mp4", 25, (96, 72)) as film:
        for shade in range(4):
            film.write(np.full((72, 96, 3), shade, np.uint8))
    for name in ("same", "val_images"):
        (root / name).symlink_to(root / "data")
    for seed in range(2):
        save_model(random_model(seed), root / f"{seed}.pt")
        save_checkpoint(random_model(seed).network, root / f"{seed}.pth")
    return root


def exists(path: Path) -> Place:
    return lambda ran: path.exists()


def anything(value: object) -> bool:
    return True


def named(end: str):
    """Whether a data set, or the name of a file, ends so."""
    return lambda source: str(getattr(source, "source", source)).endswith(end)
