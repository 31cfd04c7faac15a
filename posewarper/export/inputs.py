"""Images that a file and its model are compared on: random ones, and crops of real frames."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from posewarper.data.crops import box_to_center_scale, crop, crop_matrices, normalise
from posewarper.data.images import IMAGE_SUFFIXES, Image, decode_image, image_files
from posewarper.data.video_file import VideoFile
from posewarper.export.graphs import INPUTS, Mode
from posewarper.heatmaps import encode
from posewarper.models import HEATMAP_STRIDE, PoseModel, Window

_KEYS = (0, 20, 40)  # frames near the start, so that long videos need not be read


def random_inputs(
    model: PoseModel,
    mode: Mode,
    window: Window | None,
    bytes_in: bool,
    batch: int,
    seed: int,
    crop_wh: tuple[int, int] | None = None,
) -> tuple[Tensor, ...]:
    """Images that are smooth in some places and noise in others, and heatmaps.

    Args:
        model, mode, window, bytes_in: see ``Graph``.
        batch: B.
        seed: of all that is random.
        crop_wh: width and height; by default the model's.
    """
    generator = torch.Generator().manual_seed(seed)
    width, height = model.crop_wh if crop_wh is None else crop_wh
    leading = (batch,) if window is None else (batch, len(window))
    inputs = []
    for name in INPUTS[mode]:
        if name == "key_heatmaps":
            hw = height // HEATMAP_STRIDE, width // HEATMAP_STRIDE
            inputs.append(torch.rand((batch, model.config.joints, *hw), generator=generator))
            continue
        count = leading if name == "frames" else (batch,)
        coarse = torch.rand(math.prod(count), 3, 4, 4, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        noise = torch.rand(smooth.shape, generator=generator)
        images = (smooth + 0.2 * noise).clamp(0, 1).reshape(*count, 3, height, width)
        inputs.append((255 * images).round().byte() if bytes_in else 4 * images - 2)
    return tuple(inputs)


def real_inputs(
    path: Path, model: PoseModel, mode: Mode, window: Window | None, bytes_in: bool
) -> list[tuple[Tensor, ...]]:
    """Crops of some frames: of each key frame all of it, and a random part of it.

    Support frames are the window's, or the next frame; where the video has ended, its last frame.
    Heatmaps of the key frame are Gaussians in random places, as if painted from labels.

    Args:
        path: a video file, an image, or a folder of images, which are frames in the order of their
            names.
        model, mode, window, bytes_in: see ``Graph``.

    Returns:
        Batches of two, one per key frame.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it holds no images, or they cannot be read; names it.
    """
    deltas = window.deltas if window is not None else (0, 1)
    read = _reader(path, {key + delta for key in _KEYS for delta in deltas})
    random = np.random.default_rng(0)
    batches = []
    for key in _KEYS:
        height, width = read(key).shape[:2]
        part = random.uniform(0.2, 0.6, 2) * (width, height)
        corner = random.random(2) * ((width, height) - part)
        boxes = np.array([[0, 0, width, height], [*corner, *part]])
        matrices = crop_matrices(*box_to_center_scale(boxes, model.crop_wh, 1.0), model.crop_wh)
        crops = [crop(read(key + delta), matrices, model.crop_wh) for delta in deltas]
        images = torch.from_numpy(np.stack(crops, 1)).movedim(-1, -3)  # [2, T, 3, H, W]
        images = images.contiguous() if bytes_in else normalise(images)
        values = {"frames": images, "crops": images[:, 0], "key": images[:, 0]}
        if "support" in INPUTS[mode]:
            values["support"] = images[:, 1]
        if "key_heatmaps" in INPUTS[mode]:
            joints = random.random((2, model.config.joints, 2)) * model.crop_wh
            visible = np.ones(joints.shape[:2])
            maps, _ = encode(joints, visible, model.heatmap_hw, model.sigma, HEATMAP_STRIDE)
            values["key_heatmaps"] = torch.from_numpy(maps)
        batches.append(tuple(values[name].contiguous() for name in INPUTS[mode]))
    return batches


def _reader(path: Path, numbers: set[int]) -> Callable[[int], Image]:
    """Some frames by number from 0; those beyond either end are the first and the last one."""
    if path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES:
        return _video_reader(path, numbers)
    if path.is_dir():
        files = image_files(path)
        if not files:
            raise ValueError(
                f"images: no images in the folder {path} ({', '.join(IMAGE_SUFFIXES)})"
            )
    elif path.is_file():
        files = [path]
    else:
        raise FileNotFoundError(f"images: there is no file or folder {path}")
    return lambda number: decode_image(files[min(max(number, 0), len(files) - 1)])


def _video_reader(path: Path, numbers: set[int]) -> Callable[[int], Image]:
    """As ``_reader``; in place of a damaged frame stands the one before."""
    file, frames = VideoFile(path), dict[int, Image]()
    last = min(max(numbers), file.frame_count() - 1)
    kept: Image | None = None
    for number in range(last + 1):
        image = file.read(number)
        kept = kept if image is None else image
        if kept is not None and (number in numbers or number in (0, last)):
            frames[number] = kept
    file.close()
    if kept is None:
        raise ValueError(f"images: no frame of {path} can be decoded")
    first = frames[min(frames)]
    return lambda number: frames.get(min(max(number, 0), last), first)
