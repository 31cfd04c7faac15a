"""A synthetic data set on disk: videos, labels in both JSON formats, complete ground truth.

from posewarper.data.synthetic import write_dataset
write_dataset("synthetic", videos={"train": 16, "val": 4}, frames=60, seed=0)

synthetic/
    images/train/000001_synthetic/000000.jpg    or 000001_synthetic.mp4 there
    annotations/posetrack_train.json            all videos of a split, COCO style, 2019 system
    annotations/train/000001_synthetic.json     one video, official PoseTrack18 format
    truth/train/000001_synthetic.npz            the arrays of SyntheticVideo, for evaluation
    synthetic.json                              the arguments that it was made with
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from tqdm import tqdm

from posewarper.data.annotations import save_coco
from posewarper.data.posetrack import save_posetrack
from posewarper.data.synthetic_scene import Image
from posewarper.data.synthetic_video import Difficulty, SyntheticVideo, generate_video
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.video_file import VideoFile
from posewarper.files import write_json
from posewarper.progress import progress_bar
from posewarper.skeleton import POSETRACK

__all__ = ["Difficulty", "SyntheticVideo", "generate_video", "load_truth", "write_dataset"]

_ARGUMENTS = "synthetic.json"  # what the data set was made from
_MAX_FRAMES = 10_000  # PoseTrack's frame ids have four digits for the frame
_TRUTH = ("keypoints", "boxes", "head_boxes", "present", "track_ids", "blurred", "defocused")


def write_dataset(
    out_dir: str | Path,
    *,
    videos: int | Mapping[str, int] = 8,
    frames: int = 60,
    size_wh: tuple[int, int] = (320, 240),
    people: int = 2,
    seed: int = 0,
    fps: float = 15.0,
    difficulty: Difficulty | None = None,
    as_video: bool = False,
    image_format: Literal["jpg", "png"] = "jpg",
    occluded: Literal["keep", "drop"] = "keep",
    ears: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, PoseDataset]:
    """Write a data set; the folder appears when it is complete, not before.

    The videos and labels depend on nothing but the arguments; a longer split begins with the videos
    of a shorter one. PNG frames hold exactly what ``generate_video`` draws; JPEG (quality 95) and
    MP4 (MPEG-4 part 2, the one encoder that every OpenCV has) lose a little.

    Args:
        out_dir: folder to make.
        videos: how many, or how many of each split; a plain number is the split "train".
        frames: of each video.
        size_wh: of the images in pixels.
        people: in each video.
        seed: of all.
        fps: frames per second.
        difficulty: by default ``Difficulty()``.
        as_video: one MP4 file for each video instead of a folder of images.
        image_format: of the frames in folders.
        occluded: whether hidden joints are labelled, see ``SyntheticVideo.labels``.
        ears: whether ears are labelled; in PoseTrack they never are.
        overwrite: replace a folder that exists.
        progress: show a progress bar.

    Returns:
        What was written to ``annotations``, by split.

    Raises:
        FileExistsError: ``out_dir`` exists, is not empty, and may not be overwritten.
        ValueError: an argument is out of its range.
        OSError: a file cannot be written.
    """
    out_dir = Path(out_dir)
    splits = dict(videos) if isinstance(videos, Mapping) else {"train": videos}
    for split, count in splits.items():
        if not split or split != Path(split).name or count < 1:
            raise ValueError(
                f"videos: expected names of splits and 1 or more, got {split!r}: {count}"
            )
    if not 1 <= frames <= _MAX_FRAMES:
        raise ValueError(f"frames: expected 1 to {_MAX_FRAMES}, got {frames}")
    if image_format not in ("jpg", "png"):
        raise ValueError(f"image_format: expected 'jpg' or 'png', got {image_format!r}")
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        if not overwrite:
            raise FileExistsError(f"{out_dir} exists and is not empty; overwrite=True replaces it")
        if not (out_dir / _ARGUMENTS).exists():  # a slip of the keyboard must not cost a folder
            raise FileExistsError(f"{out_dir} is not a synthetic data set: it is not replaced")
    difficulty = Difficulty() if difficulty is None else difficulty

    out_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = out_dir.with_name(f".{out_dir.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    written: dict[str, PoseDataset] = {}
    total = frames * sum(splits.values())
    sequence = 0
    try:
        with progress_bar(progress, total=total, unit="frame", desc=out_dir.name) as bar:
            for split, count in splits.items():
                parts = []
                for index in range(count):
                    sequence += 1
                    video = generate_video(
                        _video_seed(seed, split, index), frames=frames, size_wh=size_wh,
                        people=people, fps=fps, difficulty=difficulty,
                    )  # fmt: skip
                    entry = _entry(
                        split, f"{sequence:06d}_synthetic", frames, as_video, image_format
                    )
                    _write_frames(video, partial / entry.path, entry.pattern, bar)
                    truth = partial / "truth" / split / f"{sequence:06d}_synthetic.npz"
                    truth.parent.mkdir(parents=True, exist_ok=True)
                    np.savez_compressed(truth, **{name: getattr(video, name) for name in _TRUTH})
                    parts.append((entry, sequence, video))
                data = _dataset(parts, occluded, ears, f"{out_dir}: {split}")
                save_coco(data, partial / "annotations" / f"posetrack_{split}.json")
                save_posetrack(
                    _with_official_ids(data), partial / "annotations" / split, "posetrack18"
                )
                written[split] = data
        arguments = {
            "videos": splits, "frames": frames, "size_wh": list(size_wh), "people": people,
            "seed": seed, "fps": fps, "as_video": as_video, "image_format": image_format,
            "occluded": occluded, "ears": ears,
            "difficulty": asdict(difficulty),
        }  # fmt: skip
        write_json(partial / _ARGUMENTS, arguments)
        if out_dir.exists():
            _remove(out_dir)
        os.replace(partial, out_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written


def _with_official_ids(data: PoseDataset) -> PoseDataset:
    """In PoseTrack18's own files images have the id of their frame, and people ids made from it."""
    frames, people = data.frames, data.people
    person_id = frames.frame_id[people.frame] * 1000 + people.track_id
    return replace(
        data,
        frames=replace(frames, image_id=frames.frame_id),
        people=replace(people, annotation_id=person_id),
    )


def load_truth(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a ``SyntheticVideo`` from a file below ``truth``, by name."""
    with np.load(path) as arrays:
        return {name: arrays[name] for name in _TRUTH}


def _video_seed(seed: int, split: str, index: int) -> int:
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, got {seed}")
    sequence = np.random.SeedSequence((seed, index, *split.encode()))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _entry(split: str, name: str, frames: int, as_video: bool, image_format: str) -> Video:
    folder = f"images/{split}/{name}"
    if as_video:
        return Video(folder, frames, 0, "", f"{folder}.mp4")
    return Video(folder, frames, 0, f"%06d.{image_format}")


def _write_frames(video: SyntheticVideo, path: Path, pattern: str, bar: tqdm) -> None:
    """Images into a folder, or, where there is no pattern, one MP4 file."""
    if pattern:
        path.mkdir(parents=True)
        options = [cv2.IMWRITE_JPEG_QUALITY, 95] if pattern.endswith(".jpg") else []
        for index, image in enumerate(video.frames()):
            file = path / (pattern % index)
            if not cv2.imwrite(str(file), _to_bgr(image), options):
                raise OSError(f"{file}: OpenCV cannot write this image")
            bar.update()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), codec, video.fps, video.size_wh)
    if not writer.isOpened():
        raise OSError(f"{path}: OpenCV cannot write MP4 here; as_video=False writes images")
    try:
        for image in video.frames():
            writer.write(_to_bgr(image))
            bar.update()
    finally:
        writer.release()
    # The writer reports no errors; a full disk shows only in the file.
    count = VideoFile(path).frame_count()
    if count != len(video):
        raise OSError(f"{path}: {count} of {len(video)} frames were written")


def _to_bgr(image: Image) -> Image:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)


def _dataset(
    parts: list[tuple[Video, int, SyntheticVideo]],
    occluded: Literal["keep", "drop"],
    ears: bool,
    source: str,
) -> PoseDataset:
    """All frames of all videos, labelled."""
    videos = tuple(entry for entry, _, _ in parts)
    of_video = np.repeat(np.arange(len(parts)), [len(video) for _, _, video in parts])
    number = np.concatenate([np.arange(len(video)) for _, _, video in parts])
    sequence = np.array([sequence for _, sequence, _ in parts])[of_video]
    # PoseTrack18's ids: source (1), six digits of the video, four of the frame.
    frame_id = 10**10 + sequence * _MAX_FRAMES + number
    frames = Frames.make(videos, of_video, number, size_wh=parts[0][2].size_wh, frame_id=frame_id)
    rows, keypoints, boxes, heads, tracks = [], [], [], [], []
    start = 0
    for _, _, video in parts:
        labels, labelled = video.labels(occluded=occluded, ears=ears)
        frame, person = np.nonzero(labelled)
        rows.append(start + frame)
        keypoints.append(labels[frame, person])
        boxes.append(video.boxes[frame, person])
        heads.append(video.head_boxes[frame, person])
        tracks.append(video.track_ids[person])
        start += len(video)
    # Hundredths of a pixel are enough, and files stay small.
    people = People.make(
        np.concatenate(rows), np.concatenate(keypoints).round(2), np.concatenate(boxes).round(2),
        head_box=np.concatenate(heads).round(2), track_id=np.concatenate(tracks),
    )  # fmt: skip
    return PoseDataset(POSETRACK, videos, frames, people, source)
