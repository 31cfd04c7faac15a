"""Predictions that are a data set, in the formats that others evaluate."""

from __future__ import annotations

import posixpath
import warnings
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from posewarper.data.tables import Bools, Floats, Ints, PoseDataset
from posewarper.evaluation.prediction_files import write_coco_results, write_posetrack
from posewarper.files import read_json, visible

Format = Literal["posetrack18", "posetrack17", "coco"]
Neck = Literal["head_bottom", "shoulder_midpoint"]

_HUMAN_SCORE = 1.0  # of joints without a score, which a human labelled


def official_names(folder: str | Path) -> dict[str, str]:
    """What official PoseTrack files of either year are called, by the folder of their images.

    PoseTrack17's files are not named like the videos. Folders are without ``images/`` in front.

    Raises:
        FileNotFoundError: there is no JSON file in the folder.
        ValueError: a file is no official one, or two are of one video; names them.
    """
    folder = Path(folder)
    names: dict[str, str] = {}
    for path in visible(folder.glob("*.json")):
        data = read_json(path)
        try:
            if "annolist" in data:
                image = data["annolist"][0]["image"]
                name = (image[0] if isinstance(image, list) else image)["name"]
            else:
                name = data["images"][0]["file_name"]
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"{path}: not an official PoseTrack file with images") from None
        video = _short(posixpath.dirname(name))
        if video in names:
            raise ValueError(f"{path}: of the same video {video!r} as {names[video]}.json")
        names[video] = path.stem
    if not names:
        raise FileNotFoundError(f"{folder}: no JSON files in this folder")
    return names


def write_predictions(
    dataset: PoseDataset,
    out: str | Path,
    format: Format = "posetrack18",
    *,
    truth: PoseDataset | None = None,
    names: dict[str, str] | None = None,
    neck: Neck = "head_bottom",
    dummy_people: bool = False,
) -> list[Path]:
    """Write predicted people as files that evaluators read.

    Joints of visibility 0 count as not predicted. Joints without a score (human labels) get 1,
    people without one the mean of their joints'. Track ids are written if everybody in a video has
    one; otherwise people are counted within each frame.

    Args:
        dataset: the predictions.
        out: folder of one file per video (PoseTrack), or the file of COCO keypoint results.
        format: of the files.
        truth: what they are to be compared with: its videos and frames are written, in its order,
            also those without people. By default those of ``dataset``. People in other frames are
            left out, with a warning.
        names: names of files without ``.json``, as ``official_names`` gives them; by default the
            last folders of the videos.
        neck, dummy_people: see ``write_posetrack``.

    Returns:
        The files.

    Raises:
        ValueError: another format; two videos of one name; joints that the format needs and the
            skeleton lacks.
        OSError: a file cannot be written.
    """
    if format not in get_args(Format):
        raise ValueError(f"format: expected one of {get_args(Format)}, got {format!r}")
    truth = dataset if truth is None else truth
    rows, frame = _people_in(dataset, truth)
    people = dataset.people[rows]
    present = people.keypoints[:, :, 2] > 0
    points = np.where(present[..., None], people.keypoints[:, :, :2], np.nan)
    scores = np.where(np.isfinite(people.joint_scores), people.joint_scores, _HUMAN_SCORE)
    total = np.where(np.isfinite(people.score), people.score, _mean(scores, present))
    out, skeleton = Path(out), dataset.skeleton
    (out.parent if format == "coco" else out).mkdir(parents=True, exist_ok=True)
    if format == "coco":
        image_id = truth.frames.image_id[frame].tolist()
        write_coco_results(out, image_id, points, scores, total, skeleton=skeleton)
        return [out]

    files = [_file_name(video.name, names) for video in truth.videos]
    if len(set(files)) != len(files):
        twice = next(name for name in files if files.count(name) > 1)
        raise ValueError(f"{truth.source}: two videos would be written to {twice}.json")
    frames, paths = truth.frames, []
    for position, name in enumerate(files):
        of_video = np.flatnonzero(frames.video == position)
        place = np.full(len(frames), -1)
        place[of_video] = np.arange(len(of_video))
        here = frames.video[frame] == position
        images = [
            (frames.original_file_name[row] if format == "posetrack17" else "")
            or frames.file_name[row]
            for row in of_video.tolist()
        ]
        paths.append(out / f"{name}.json")
        write_posetrack(
            paths[-1],
            images,
            place[frame[here]],
            points[here],
            scores[here],
            track_id=people.track_id[here],
            person_score=total[here],
            layout=format,
            neck=neck,
            dummy_people=dummy_people,
            skeleton=skeleton,
        )
    return paths


def _people_in(dataset: PoseDataset, truth: PoseDataset) -> tuple[Ints, Ints]:
    """Rows of the people in frames that ``truth`` lists, and the rows of those frames there."""
    people = dataset.people
    if truth is dataset:
        return np.arange(len(people)), people.frame
    row_of = {
        (truth.videos[video].name, number): row
        for (video, number), row in truth.frame_rows().items()
    }
    places = [
        (dataset.videos[video].name, number)
        for video, number in zip(
            dataset.frames.video.tolist(), dataset.frames.number.tolist(), strict=True
        )
    ]
    of_frame = np.array([row_of.get(place, -1) for place in places], np.int64)
    frame = of_frame[people.frame]
    rows = np.flatnonzero(frame >= 0)
    if len(rows) < len(people):
        warnings.warn(
            f"{len(people) - len(rows)} of {len(people)} people are in frames that {truth.source} "
            "does not list, and are left out",
            stacklevel=3,
        )
    return rows, frame[rows]


def _mean(scores: Floats, present: Bools) -> Floats:
    return np.where(present, scores, 0).sum(1) / np.maximum(present.sum(1), 1)


def _file_name(video: str, names: dict[str, str] | None) -> str:
    if names is None:
        return posixpath.basename(video)
    if _short(video) not in names:
        raise ValueError(f"names: no file of video {video!r}; there are {', '.join(names)}")
    return names[_short(video)]


def _short(folder: str) -> str:
    return folder.removeprefix("images/")
