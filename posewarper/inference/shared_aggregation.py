"""``predict_boxes`` video by video, by several processes; what is done is not done again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.dataset import Boxes
from posewarper.data.tables import Ints, People, PoseDataset
from posewarper.files import write_json
from posewarper.inference.aggregation import Predicted, frames_with
from posewarper.shares import Sharing, plain_settings, read_note, settled_folder

#: ``predict_boxes`` for boxes, the videos and frames that they are in, and their track ids.
PredictVideo = Callable[[Boxes, PoseDataset, Ints | None], Predicted]


def predict_shared(
    predict: PredictVideo,
    boxes: Boxes,
    dataset: PoseDataset,
    track_id: Ints | None,
    *,
    parts: Path,
    out: Path,
    settings: Mapping[str, Any],
    sharing: Sharing,
) -> Predicted | None:
    """Poses of all videos, each predicted by one process, the one with most boxes first; without
    other processes all at once.

    People and frames are the same in both cases, in the same order.

    Args:
        predict: does one video, or all.
        boxes: of all videos.
        dataset: videos and frames that the boxes refer to.
        track_id: [B] of the boxes.
        parts: folder for the poses of each video, which the next run finds after an interrupt; the
            caller removes it.
        out: what is made, in messages.
        settings: options that the poses depend on; parts with others are refused.
        sharing: with whom the videos are shared.

    Returns:
        In the first process the poses, in the others None.

    Raises:
        ValueError: see ``settled_folder``, and whatever ``predict`` raises.
    """
    if sharing.store is None:
        return predict(boxes, dataset, track_id)
    nobody = People.make([], np.zeros((0, len(dataset.skeleton), 3)), [])
    frames, _ = frames_with(dataset, boxes)
    listed = replace(dataset, frames=frames, people=nobody)
    count = np.bincount(boxes.video, minlength=len(dataset.videos))
    with ExitStack() as held:

        def prepare() -> list[int]:
            held.enter_context(settled_folder(parts, out, plain_settings(settings)))
            order = np.argsort(-count, kind="stable").tolist()
            return [v for v in order if count[v] and not (parts / f"{v}.json").exists()]

        todo = sharing.from_first(prepare)
        for number in sharing.take(len(todo)):
            video = todo[number]
            _save(_one(predict, boxes, listed, track_id, video), video, parts)
        if not sharing.is_first:
            return None
        sharing.wait()
        return _merged(np.flatnonzero(count).tolist(), listed, parts)


def _one(
    predict: PredictVideo, boxes: Boxes, listed: PoseDataset, track_id: Ints | None, video: int
) -> Predicted:
    rows = np.flatnonzero(boxes.video == video)
    of_video = Boxes(
        (boxes.videos[video],),
        np.zeros_like(rows),
        boxes.number[rows],
        boxes.bbox[rows],
        boxes.score[rows],
        boxes.row[rows],
    )
    tracks = None if track_id is None else track_id[rows]
    return predict(of_video, listed.select(videos=np.array([video])), tracks)


def _save(found: Predicted, video: int, parts: Path) -> None:
    """The note comes last: what it tells of is there, whole."""
    for name, poses in found.datasets.items():
        save_coco(poses, parts / f"{video}.{name}.json")
    (name_of_video,) = {video.name for poses in found.datasets.values() for video in poses.videos}
    note = {
        "modes": list(found.datasets),
        "left_out": found.left_out,
        # a source remembers those of the videos before, too
        "unreadable": [place for place in found.unreadable if place[0] == name_of_video],
    }
    write_json(parts / f"{video}.json", note)


def _merged(videos: list[int], listed: PoseDataset, parts: Path) -> Predicted:
    notes = [read_note(parts / f"{video}.json") for video in videos]
    row_of = listed.frame_rows()
    datasets = {}
    for name in notes[0]["modes"]:
        poses = [load_coco(parts / f"{video}.{name}.json") for video in videos]
        skeleton = poses[0].skeleton
        start, numbered = 0, []
        for part in poses:
            ids = np.arange(start + 1, start + 1 + len(part.people))
            start += len(ids)
            numbered.append(replace(part, people=replace(part.people, annotation_id=ids)))
        joined = PoseDataset.concatenate(numbered, str(parts))
        places = zip(
            np.array(videos)[joined.frames.video].tolist(),
            joined.frames.number.tolist(),
            strict=True,
        )
        rows = np.array([row_of[place] for place in places], np.int64)
        frame = rows[joined.people.frame]
        order = np.argsort(frame, kind="stable")
        people = replace(
            joined.people[order],
            frame=frame[order],
            annotation_id=np.arange(1, len(order) + 1),
        )
        labelled = np.zeros(len(listed.frames), np.bool_)
        labelled[people.frame] = True
        frames = replace(listed.frames, labelled=labelled)
        source = f"poses of {listed.source}"
        datasets[name] = PoseDataset(skeleton, listed.videos, frames, people, source)
    left_out, unreadable = (
        [(str(name), int(number)) for note in notes for name, number in note[kind]]
        for kind in ("left_out", "unreadable")
    )
    return Predicted(datasets, tuple(left_out), tuple(sorted(unreadable)))
