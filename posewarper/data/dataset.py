"""Samples for training, and windows of frames for inference, as torch data sets.

J joints, P people, F frames of a sample or window (the key frame first), H and W of the crop.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from posewarper.data.crops import (
    Augmentation,
    Region,
    box_to_center_scale,
    compose,
    crop,
    crop_matrices,
    invert_matrices,
    mirror_joints,
    normalise,
    transform_points,
    turned_crop_matrices,
)
from posewarper.data.entries import id_key, listing, mapping, text
from posewarper.data.entries import number as finite
from posewarper.data.frame_names import frames_of_files
from posewarper.data.people import Upright, turned_boxes, usable_people
from posewarper.data.tables import Floats, Ints, PoseDataset, Video
from posewarper.data.tracks import Track, labels_of
from posewarper.data.video import FrameSource, Image
from posewarper.files import read_json
from posewarper.heatmaps import encode

Stage = Literal["pose", "warp"]
SupportBox = Literal["key", "own"]


class PoseSamples(Dataset[dict[str, Any] | None]):
    """One sample per labelled person: crops of one frame ("pose") or of two ("warp"), and targets.

    In stage "warp" the second frame is the support frame, ``delta`` frames away and clipped to the
    video; it is cropped with the augmentation of the key frame, and with its box or one of its own.
    Of its labels nothing else is used. A sample is a dictionary:

    =============  ==================================================================
    crops          [F, 3, H, W] RGB, uint8 or, if ``normalised``, float32
    target         [J, H / 4, W / 4] float32 heatmaps of the key frame
    weight         [J] float32, 0 for joints that are not labelled or lie outside
    joints         [J, 2] float32, x and y in the crop; (0, 0) where not visible
    visible        [J] float32, 0 or 1
    center, scale  [2] float64, of the region; in the mirrored image, if it is
    rotation       degrees
    mirrored       whether the images were mirrored
    delta          support frame - key frame, after clipping; 0 in stage "pose"
    person         row in ``dataset.people``
    =============  ==================================================================

    What is random follows from (seed, epoch, index) alone: the number of workers changes nothing,
    and no worker repeats another one's draws. ``samples[index]`` draws as in epoch 0; loops over
    several epochs call ``sample``. With the policy "skip" a sample whose frames are missing is
    None; with "nearest", one whose key frame is: targets never go with another frame's pixels.

    Args:
        dataset: annotations.
        source: frames.
        stage: one frame or a pair.
        crop_wh: size of the crop.
        heatmap_stride: crop pixels per heatmap pixel.
        sigma: of the targets, in heatmap pixels.
        delta: a fixed distance of the support frame; None draws one of -range..range, 0
            included, all alike.
        delta_range: the largest distance drawn.
        augmentation: None for none.
        padding: growth of boxes.
        upright: the pose that is upright in crops, which are turned; see ``data.upright``.
        support_box: whether the support frame is cropped with the key frame's box ("key"), as in
            2019, or with its own ("own"): that of its label, or interpolated between the labels of
            the track around it; with the key frame's where no label of the track tells.
        rounded: centre targets on the nearest heatmap pixel, as in 2019; see ``heatmaps.encode``.
        score_power: weights of pseudo-labels are their scores (0..1) to this power.
        normalised: float crops, ready for the model. Bytes move four times less data; then the
            device normalises (``crops.normalise``).
        seed: not negative.

    Raises:
        ValueError: nobody in the data set can serve as a sample; a bad stage, support box, range or
            seed; with boxes of their own, a track id twice in a frame.
    """

    def __init__(
        self,
        dataset: PoseDataset,
        source: FrameSource,
        *,
        stage: Stage = "pose",
        crop_wh: tuple[int, int] = (288, 384),
        heatmap_stride: int = 4,
        sigma: float = 3.0,
        delta: int | None = None,
        delta_range: int = 2,
        augmentation: Augmentation | None = None,
        padding: float = 1.25,
        upright: Upright = None,
        support_box: SupportBox = "key",
        rounded: bool = True,
        score_power: float = 0.0,
        normalised: bool = False,
        seed: int = 0,
    ):
        if stage not in ("pose", "warp"):
            raise ValueError(f"stage: expected 'pose' or 'warp', got {stage!r}")
        if support_box not in get_args(SupportBox):
            raise ValueError(f"support_box: expected 'key' or 'own', got {support_box!r}")
        if delta_range < 0 or seed < 0:
            raise ValueError(f"delta_range and seed: expected >= 0, got {delta_range} and {seed}")
        self.rows, boxes = turned_boxes(dataset, upright)
        if not len(self.rows):
            raise ValueError(
                f"{dataset.source}: no sample: none of {len(dataset.people)} people has a labelled "
                "joint, an area above 0 and a box in the image"
            )
        self.dataset, self.source, self.stage = dataset, source, stage
        self.crop_wh, self.heatmap_stride, self.sigma = crop_wh, heatmap_stride, sigma
        self.rounded = rounded
        self.delta, self.delta_range = delta, delta_range
        self.support_box = support_box
        self.augmentation, self.normalised, self.seed = augmentation, normalised, seed
        self.score_power = score_power
        self.center, self.scale = box_to_center_scale(boxes[:, :4], crop_wh, padding)
        self.rotation, self.padding = boxes[:, 4], padding
        self._tracks: dict[int, Track] = {}
        if stage == "warp" and support_box == "own":
            everybody = (t for of_video in labels_of(dataset, upright) for t in of_video.tracks)
            self._tracks = {row: track for track in everybody for row in track.rows.tolist()}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any] | None:
        return self.sample(index, 0)

    def delta_of(self, index: int, epoch: int) -> int:
        """How far a sample's support frame lies from its key frame; 0 in stage "pose"."""
        _, number, support = self._frames_of(index, self._random(index, epoch))
        return support - number

    def sample(self, index: int, epoch: int, with_crops: bool = True) -> dict[str, Any] | None:
        """A sample with the random draws of an epoch.

        Args:
            index: which.
            epoch: not negative.
            with_crops: False: without "crops", and no frame is read; only where augmentation does
                not mirror.
        """
        random = self._random(index, epoch)
        row = int(self.rows[index])
        people, frames = self.dataset.people, self.dataset.frames
        video, number, support = self._frames_of(index, random)
        width = int(frames.size_wh[people.frame[row], 0])
        images: list[Image] = []
        if with_crops:
            numbers = [number, support] if self.stage == "warp" else [number]
            read = [self.source.read(video, n, key=number) for n in numbers]
            images = [image for image in read if image is not None]
            if len(images) < len(read):
                return None
            width = images[0].shape[1]

        joints, visible = people.keypoints[row, :, :2], people.keypoints[row, :, 2] > 0
        skeleton = self.dataset.skeleton
        region = own = Region(self.center[index], self.scale[index], float(self.rotation[index]))
        if self.augmentation is not None:
            region = self.augmentation.draw(
                random, region, joints, visible, skeleton, self.crop_wh, width
            )
        matrix = region.matrix(self.crop_wh, width)
        matrices = [matrix]
        if self.stage == "warp":
            varied = compose(matrix, invert_matrices(own.matrix(self.crop_wh, width)))
            matrices.append(self._support_matrix(row, support, matrix, varied))
        crops = [crop(i, m, self.crop_wh)[0] for i, m in zip(images, matrices, strict=False)]
        if crops and self.augmentation is not None and self.stage == "warp":
            crops[0] = self.augmentation.damaged(random, crops[0])
        if region.mirrored:
            joints, visible = mirror_joints(joints, visible, skeleton, width)
        upright = crop_matrices(region.center, region.scale, self.crop_wh, region.rotation)
        joints = transform_points(joints[None], upright)[0] * visible[:, None]
        heatmap_hw = (
            self.crop_wh[1] // self.heatmap_stride,
            self.crop_wh[0] // self.heatmap_stride,
        )
        target, weight = encode(
            joints,
            visible.astype(np.float32),
            heatmap_hw,
            self.sigma,
            self.heatmap_stride,
            self.rounded,
        )
        weight = weight * self._certainty(row, region.mirrored)
        pixels = {"crops": _as_tensor(np.stack(crops), self.normalised)} if crops else {}
        return {
            **pixels,
            "target": torch.from_numpy(target),
            "weight": torch.from_numpy(weight),
            "joints": torch.from_numpy(joints.astype(np.float32)),
            "visible": torch.from_numpy(visible.astype(np.float32)),
            "center": torch.from_numpy(region.center.copy()),
            "scale": torch.from_numpy(region.scale.copy()),
            "rotation": region.rotation,
            "mirrored": region.mirrored,
            "delta": support - number,
            "person": row,
        }

    def _support_matrix(self, row: int, number: int, matrix: Floats, varied: Floats) -> Floats:
        """The map [1, 2, 3] from the support frame to its crop.

        Args:
            row: of the person.
            number: of the frame.
            matrix: the key frame's map.
            varied: what the augmentation does to crops, as a map from crop to crop.
        """
        track = self._tracks.get(row)
        if track is None or (track.before(number) is None and track.after(number) is None):
            return matrix
        box = track.interpolated_box(number)
        return compose(varied, turned_crop_matrices(box, self.crop_wh, self.padding))

    def _certainty(self, row: int, mirrored: bool) -> npt.NDArray[np.float32]:
        """Weights [J] of pseudo-labels: their scores to the power ``score_power``; 1 for others."""
        scores = np.nan_to_num(self.dataset.people.joint_scores[row], nan=1.0).clip(0, 1)
        order = list(self.dataset.skeleton.mirrored) if mirrored else slice(None)
        return (scores[order] ** self.score_power).astype(np.float32)

    def _random(self, index: int, epoch: int) -> np.random.Generator:
        """What a sample draws from."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return np.random.default_rng((self.seed, epoch, index))

    def _frames_of(self, index: int, random: np.random.Generator) -> tuple[Video, int, int]:
        """The video, and the numbers of the key and the support frame: a sample's first draw."""
        frame = int(self.dataset.people.frame[self.rows[index]])
        position = int(self.dataset.frames.video[frame])
        video, number = self.dataset.videos[position], int(self.dataset.frames.number[frame])
        if self.stage == "pose":
            return video, number, number
        return video, number, video.clip(number + self._draw_delta(random))

    def _draw_delta(self, random: np.random.Generator) -> int:
        if self.delta is not None:
            return self.delta
        return int(random.integers(-self.delta_range, self.delta_range + 1))


@dataclass(frozen=True, eq=False)
class Boxes:
    """People to find the poses of, B rows.

    Attributes:
        videos: what ``video`` counts in.
        video: [B] position of the video.
        number: [B] key frame.
        bbox: [B, 4] x, y, width, height in pixels.
        score: [B] of the box; 1 for annotated ones.
        row: [B] where it comes from: row of ``dataset.people``, or position in the detection file.
    """

    videos: tuple[Video, ...]
    video: Ints
    number: Ints
    bbox: Floats
    score: Floats
    row: Ints

    def __len__(self) -> int:
        return len(self.video)


def annotated_boxes(dataset: PoseDataset) -> Boxes:
    """The boxes of ``usable_people``, score 1."""
    rows, bbox = usable_people(dataset)
    frame = dataset.people.frame[rows]
    frames = dataset.frames
    return Boxes(
        dataset.videos, frames.video[frame], frames.number[frame], bbox, np.ones(len(rows)), rows
    )


def load_detections(
    path: str | Path, dataset: PoseDataset, threshold: float = 0.2, *, other_videos: bool = False
) -> Boxes:
    """Boxes of a detector: a JSON list of objects with ``bbox`` (x, y, w, h), ``score`` and
    ``image_name``, the path of the frame below the image root, or ``image_id``, as in ``dataset``.

    Entries of a category other than 1, and boxes with a lower score than the threshold, are left
    out; boxes are not clipped. Frames may be detected that ``dataset`` does not list.

    Args:
        path: JSON file.
        dataset: for the videos.
        threshold: 0.2 in the published results.
        other_videos: whether to leave out frames of videos that are not in ``dataset``, not reject
            them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a list; a video or frame is not in the data set. Names file and
            entry.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of detections")
    frames = dataset.frames
    places = list(zip(frames.video.tolist(), frames.number.tolist(), strict=True))
    by_name = dict(zip(frames.file_name, places, strict=True))
    by_id: dict[Hashable, tuple[int, int]] = dict(
        zip(frames.image_id.tolist(), places, strict=True)
    )
    by_pattern = {(video.path, video.pattern): i for i, video in enumerate(dataset.videos)}
    by_folder = {video.name: i for i, video in enumerate(dataset.videos)}
    names = [str(e["image_name"]) for e in entries if isinstance(e, dict) and "image_name" in e]
    place_of = dict(zip(names, frames_of_files(names), strict=True))
    found: list[tuple[int, int]] = []
    kept: list[int] = []
    boxes: list[list[float]] = []
    scores: list[float] = []
    for position, entry in enumerate(entries):
        name = f"{path}: detection {position}"
        if not {"bbox", "score"} <= set(mapping(entry, name)):
            raise ValueError(f"{name} lacks 'score' or a 'bbox' of 4 numbers")
        box = [finite(n, f"{name}: 'bbox'") for n in listing(entry["bbox"], f"{name}: 'bbox'", 4)]
        if min(box[2:]) < 0:
            raise ValueError(f"{name}: 'bbox' has a negative width or height: {box}")
        score = finite(entry["score"], f"{name}: 'score'")
        if entry.get("category_id", 1) != 1 or score < threshold:
            continue
        if "image_name" in entry:
            image = text(entry["image_name"], f"{name}: 'image_name'")
            place = by_name.get(image)
            if place is None:
                folder, pattern, at = place_of[image]
                video = by_pattern.get((folder, pattern), by_folder.get(folder))
                place = None if video is None else (video, at)
        else:
            place = by_id.get(id_key(entry.get("image_id"), f"{name}: 'image_id'"))
        if place is None and not other_videos:
            raise ValueError(
                f"{name}: {entry.get('image_name') or entry.get('image_id')!r} belongs to no video "
                f"of {dataset.source}"
            )
        if place is not None:
            video_at = dataset.videos[place[0]]
            if not video_at.first_frame <= place[1] <= video_at.last_frame:
                raise ValueError(
                    f"{name}: frame {place[1]} of {video_at.name!r}, whose frames are "
                    f"{video_at.first_frame} to {video_at.last_frame}"
                )
            found.append(place)
            kept.append(position)
            boxes.append(box)
            scores.append(score)
    video_number = np.array(found, np.int64).reshape(-1, 2)
    return Boxes(
        dataset.videos,
        video_number[:, 0],
        video_number[:, 1],
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(scores, np.float64),
        np.array(kept, np.int64),
    )


@dataclass(frozen=True, eq=False)
class Window:
    """A key frame's people, each cropped from all frames of the window with its own box.

    Attributes:
        video: position of the video.
        number: the key frame.
        boxes: [P] rows of the boxes.
        numbers: [F] frames that the crops come from, clipped to the video.
        crops: [P, F, 3, H, W] RGB, uint8 or normalised float32.
        center: [P, 2] pixels.
        scale: [P, 2] width and height / 200 pixels.
    """

    video: int
    number: int
    boxes: Ints
    numbers: tuple[int, ...]
    crops: torch.Tensor
    center: Floats
    scale: Floats


class Windows(IterableDataset[Window]):
    """All windows of videos, in the order of time, one per frame that has boxes.

    Each frame is decoded once and held while windows need it. Worker processes share out the
    videos: load with ``DataLoader(..., batch_size=None)``. A window with a missing frame that the
    source's policy does not replace is left out; key frames are never replaced.

    Args:
        boxes: whose poses are wanted.
        source: frames.
        offsets: frames of the window relative to the key frame, in the order of the crops.
        crop_wh: size of the crops.
        padding: growth of boxes.
        normalised: float crops, ready for the model.
    """

    def __init__(
        self,
        boxes: Boxes,
        source: FrameSource,
        offsets: Sequence[int] = (0, -1, -2, 1, 2),
        *,
        crop_wh: tuple[int, int] = (288, 384),
        padding: float = 1.25,
        normalised: bool = False,
    ):
        self.boxes, self.source, self.offsets = boxes, source, tuple(offsets)
        self.crop_wh, self.normalised = crop_wh, normalised
        self.center, self.scale = box_to_center_scale(boxes.bbox, crop_wh, padding)

    def __iter__(self) -> Iterator[Window]:
        info = get_worker_info()
        start, step = (info.id, info.num_workers) if info is not None else (0, 1)
        for video in np.unique(self.boxes.video).tolist()[start::step]:
            yield from self._of_video(video)

    def _of_video(self, position: int) -> Iterator[Window]:
        video = self.boxes.videos[position]
        rows = np.flatnonzero(self.boxes.video == position)
        held: dict[int, Image] = {}
        for number in np.unique(self.boxes.number[rows]).tolist():
            numbers = tuple(video.clip(number + offset) for offset in self.offsets)
            images = {}
            for n in numbers:
                image = held[n] if n in held else self.source.read(video, n, key=number)
                if image is not None:
                    images[n] = image
            # What stands in for a missing frame may be this window's key frame: it is not held.
            held = {
                n: image
                for n, image in (held | images).items()
                if n >= min(numbers) and (video.name, n) not in self.source.problems
            }
            of_frame = rows[self.boxes.number[rows] == number]
            if all(n in images for n in numbers):
                yield self._window(position, number, of_frame, numbers, images)

    def _window(
        self,
        position: int,
        number: int,
        rows: Ints,
        numbers: tuple[int, ...],
        images: Mapping[int, Image],
    ) -> Window:
        center, scale = self.center[rows], self.scale[rows]
        matrices = crop_matrices(center, scale, self.crop_wh)
        by_frame = {n: crop(i, matrices, self.crop_wh) for n, i in images.items()}
        crops = np.stack([by_frame[n] for n in numbers], 1)
        tensor = _as_tensor(crops, self.normalised)
        return Window(position, number, rows, numbers, tensor, center, scale)


def _as_tensor(crops: npt.NDArray[np.uint8], normalised: bool) -> torch.Tensor:
    """Bytes [..., H, W, 3] as a tensor [..., 3, H, W]."""
    tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(crops, -1, -3)))
    return normalise(tensor) if normalised else tensor
