"""Poses for all people of a data set: each decided by a window of frames, or by its frame alone.

Every person is cropped from all frames of the window with the box of the key frame, H of each
different crop is computed once, the warped heatmaps are summed and decoded (behaviour of 2019; the
paper's section 3.3). A single-frame prediction is the decoded H of the key frame, so both together
cost no more than the first.

P people, B boxes, J joints, T frames of a window, h and w of the heatmaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from posewarper.data.crops import PIXELS_PER_SCALE
from posewarper.data.dataset import Boxes, Windows
from posewarper.data.dataset import Window as FrameWindow
from posewarper.data.tables import Bools, Floats, Frames, Ints, People, PoseDataset, Regions, starts
from posewarper.data.upright import not_turned
from posewarper.data.video import FrameError, FrameSource
from posewarper.inference.holding import KeptHeatmaps, check_finite, check_hold, hold_boxes
from posewarper.inference.nms import joint_sigmas, oks_nms, soft_oks_nms
from posewarper.inference.predictor import Predictor
from posewarper.models import PoseSpec, Window
from posewarper.progress import progress_bar

Mode = Literal["aggregate", "single", "both"]
PersonScore = Literal["product", "box", "joints"]

_KEY_ONLY = Window.equal(0)


@dataclass(frozen=True)
class Scoring:
    """What scores mean, and who is suppressed. The defaults are those of 2019.

    Attributes:
        weigh_joints: a joint's score is the height of its maximum times the score of the box, as
            in the result files of 2019; otherwise the height alone.
        person_score: "product": mean height of the joints' maxima times the score of the box, as
            is usual with COCO; "box": the latter; "joints": the former.
        nms: similarity (OKS) above which the lower-scored of two people in a frame goes; None
            keeps everybody, as 2019 did. See ``nms.oks_nms``; a person's area is that of its crop.
        soft_nms: lower scores in place of removal; see ``nms.soft_oks_nms``.
        sigmas: of the joints, for OKS; by default the skeleton's.

    Raises:
        ValueError: an option is out of its range.
    """

    weigh_joints: bool = True
    person_score: PersonScore = "product"
    nms: float | None = None
    soft_nms: bool = False
    sigmas: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.person_score not in get_args(PersonScore):
            raise ValueError(
                f"person_score: expected one of {get_args(PersonScore)}, got {self.person_score!r}"
            )
        if self.nms is not None and not 0 < self.nms <= 1:
            raise ValueError(f"nms: expected None or a number in 0..1, not 0, got {self.nms}")
        if self.soft_nms and self.nms is None:
            raise ValueError("soft_nms: needs a number for nms")
        if self.sigmas is not None and self.nms is None:
            raise ValueError("sigmas: needs a number for nms")


@dataclass(frozen=True, eq=False)
class Predicted:
    """What ``predict_boxes`` found.

    Attributes:
        datasets: by "aggregate" and "single", whichever were asked for.
        left_out: name of the video and number of each key frame that was left out because a frame
            of its window is missing (policy "skip"), or it is itself ("nearest").
        unreadable: the same of each frame that could not be read.
    """

    datasets: Mapping[str, PoseDataset]
    left_out: tuple[tuple[str, int], ...]
    unreadable: tuple[tuple[str, int], ...] = ()

    def summary(self) -> str:
        """What was left out and could not be read, for people; empty if there is nothing."""
        lines = []
        for frames, what in (
            (self.left_out, "frames left out, as frames are missing"),
            (self.unreadable, "frames could not be read"),
        ):
            by_video: dict[str, list[str]] = {}
            for name, number in frames:
                by_video.setdefault(name, []).append(str(number))
            listed = "; ".join(f"{name}: {', '.join(of)}" for name, of in by_video.items())
            if frames:
                lines.append(f"{len(frames)} {what}: {listed}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class _Crops:
    """One person: crops of the different frames of the window, and which of them each frame is."""

    box: int
    moment: int  # place of the key frame in the order of key frames
    video: int
    numbers: tuple[int, ...]  # U frames
    crops: Tensor  # [U, 3, H, W] uint8
    index: Ints  # [T], 0..U-1
    center: Floats  # [2]
    scale: Floats  # [2]


def predict_boxes(
    predictor: Predictor,
    boxes: Boxes,
    source: FrameSource,
    dataset: PoseDataset,
    *,
    mode: Mode = "aggregate",
    window: Window | None = None,
    scoring: Scoring | None = None,
    track_id: npt.ArrayLike | None = None,
    hold: int = 1,
    workers: int = 0,
    progress: bool = True,
) -> Predicted:
    """Poses of people whose boxes are known.

    The results have all frames of ``dataset``, in its order, and after them those that have boxes
    but are not listed there. ``labelled`` is true where people were found. People are sorted by
    frame, then as the boxes were. They have

    =============  ==================================================================
    keypoints      x and y in pixels, visibility 2; all 0 where no maximum is positive
    joint_scores   see ``Scoring.weigh_joints``; 0 where no maximum is positive
    score          see ``Scoring.person_score``, after soft suppression
    bbox           the box as it was used
    track_id       as given, else -1
    =============  ==================================================================

    Args:
        predictor: the model.
        boxes: from ``annotated_boxes`` or ``load_detections``.
        source: frames. With the policy "skip" a key frame is left out if any frame of its window
            is missing, with "nearest" if it is itself.
        dataset: videos and frames that the boxes refer to.
        mode: "aggregate": each pose from a window of frames; "single": from its frame alone, as
            any backbone does; "both" of them.
        window: frames and weights; by default the model's.
        scoring: by default ``Scoring()``.
        track_id: [B] of the boxes, to be carried to the people.
        hold: frames over which the box of a track is held, so that each frame's heatmaps serve
            several windows; see ``holding.hold_boxes``. With 1 every frame has its own.
        workers: processes that read frames and crop; each takes whole videos.
        progress: show a progress bar.

    Raises:
        ValueError: a single-frame model is to aggregate; a model that wants other boxes than these,
            turned ones or one for each frame of the window; boxes without an extent, or of other
            videos; OKS without sigmas; heatmaps that are not finite.
        FrameError: a frame is missing, with the policy "error"; names its file.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode: expected one of {get_args(Mode)}, got {mode!r}")
    names = ("aggregate", "single") if mode == "both" else (mode,)
    model, scoring = predictor.model, scoring or Scoring()
    if "aggregate" in names:
        model.check_window(window, mode)
        window = model.window if window is None else window
        window = window if model.window_fixed else window.used()
    else:
        window = _KEY_ONLY
    _check_crops(model, "aggregate" in names)
    if scoring.nms is not None:
        joint_sigmas(model.skeleton, scoring.sigmas)  # an error now, not after hours
    _check_boxes(boxes, dataset)
    tracks = np.asarray(np.full(len(boxes), -1) if track_id is None else track_id, np.int64)
    if tracks.shape != (len(boxes),):
        raise ValueError(f"track_id: expected [{len(boxes)}], got {list(tracks.shape)}")

    if hold != 1:
        boxes = _held(boxes, tracks, hold, model)

    found = {name: _Found.empty(len(boxes), len(model.skeleton)) for name in names}
    done = np.zeros(len(boxes), np.bool_)
    scale = np.zeros((len(boxes), 2))
    if hold == 1:
        together = max(predictor.batch_size // len(window), 1)
    else:  # most of a window is there already
        together = max(predictor.batch_size // 2, 1)
    kept = KeptHeatmaps(predictor, 2 * max(workers, 1))  # whose videos take turns
    stream = _stream(boxes, source, window, predictor, workers, progress)
    for people in _batches(stream, together):
        rows = np.array([person.box for person in people])
        done[rows], scale[rows] = True, np.stack([person.scale for person in people])
        heatmaps = _window_heatmaps(kept, people)  # [B, T, J, h, w]
        own = heatmaps[:, window.key_index]
        for name in names:
            if name == "aggregate":
                maps = predictor.aggregate(heatmaps, window)
            else:
                maps = own
            check_finite(maps)
            center = np.stack([person.center for person in people])
            found[name].put(rows, *predictor.decode(maps, center, scale[rows], own=own))

    frames, row_of = frames_with(dataset, boxes)
    frame = np.array([row_of[place] for place in _places(boxes)], np.int64)
    area = (scale * PIXELS_PER_SCALE).prod(1)
    base = PoseDataset(
        model.skeleton,
        dataset.videos,
        frames,
        People.make([], np.zeros((0, len(model.skeleton), 3)), []),
        f"poses of {dataset.source}",
    )
    missing = sorted({place for place, ok in zip(_places(boxes), done, strict=True) if not ok})
    left_out = tuple((dataset.videos[video].name, number) for video, number in missing)
    return Predicted(
        {
            name: found[name].as_dataset(base, boxes, frame, tracks, area, done, scoring)
            for name in names
        },
        left_out,
        tuple(sorted(source.problems)),
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """Joints of all boxes, as decoded."""

    points: Floats  # [B, J, 2] pixels
    heights: Floats  # [B, J] of the maxima

    @classmethod
    def empty(cls, boxes: int, joints: int) -> _Found:
        return cls(np.zeros((boxes, joints, 2)), np.zeros((boxes, joints)))

    def put(self, rows: Ints, points: Floats, heights: Floats) -> None:
        self.points[rows], self.heights[rows] = points, heights

    def as_dataset(
        self,
        base: PoseDataset,
        boxes: Boxes,
        frame: Ints,
        tracks: Ints,
        area: Floats,
        done: Bools,
        scoring: Scoring,
    ) -> PoseDataset:
        """``base`` with the people of this result, scored and suppressed."""
        present = self.heights > 0
        heights = np.where(present, self.heights, 0)  # [B, J]
        mean = heights.mean(1)
        score = {"product": mean * boxes.score, "box": boxes.score, "joints": mean}[
            scoring.person_score
        ].copy()
        rows = np.flatnonzero(done)
        rows = rows[np.argsort(frame[rows], kind="stable")]
        if scoring.nms is not None:
            sigmas = joint_sigmas(base.skeleton, scoring.sigmas)
            stays = []
            for of_frame in _groups(rows, frame[rows]):
                points, scores = self.points[of_frame], score[of_frame]
                areas, here = area[of_frame], present[of_frame]
                if scoring.soft_nms:
                    kept, lowered = soft_oks_nms(
                        points, scores, areas, sigmas, scoring.nms, present=here
                    )
                    score[of_frame[kept]] = lowered
                else:
                    kept = oks_nms(points, scores, areas, sigmas, scoring.nms, present=here)
                stays.append(of_frame[np.sort(kept)])
            rows = np.concatenate(stays) if stays else rows
        weights = boxes.score[:, None] if scoring.weigh_joints else 1.0
        keypoints = np.concatenate([self.points, np.full((*present.shape, 1), 2.0)], 2)
        people = People.make(
            frame[rows],
            np.where(present[..., None], keypoints, 0)[rows],
            boxes.bbox[rows],
            track_id=tracks[rows],
            joint_scores=(heights * weights)[rows],
            score=score[rows],
        )
        labelled = np.zeros(len(base.frames), np.bool_)
        labelled[people.frame] = True
        return replace(base, frames=replace(base.frames, labelled=labelled), people=people)


_Problems = dict[tuple[str, int], str]  # as ``FrameSource.problems``


class _Guarded(IterableDataset[FrameWindow | _Problems | FrameError]):
    """Windows, and in the end what was missing, which the source of a worker process knows alone;
    an error comes as such, which a worker process would wrap in a trace.
    """

    def __init__(self, windows: Windows):
        self.windows = windows

    def __iter__(self) -> Iterator[FrameWindow | _Problems | FrameError]:
        try:
            yield from self.windows
            yield self.windows.source.problems
        except FrameError as error:
            yield error


def _stream(
    boxes: Boxes,
    source: FrameSource,
    window: Window,
    predictor: Predictor,
    workers: int,
    progress: bool,
) -> Iterator[_Crops]:
    """All people, window by window."""
    model = predictor.model
    videos = np.unique(boxes.video).tolist()
    workers = min(workers, len(videos))
    if workers > 0:
        source.prepare(boxes.videos[video] for video in videos)
    windows = Windows(boxes, source, window.deltas, crop_wh=model.crop_wh, padding=model.padding)
    loader = DataLoader(_Guarded(windows), batch_size=None, num_workers=workers)
    total, moment = len(set(_places(boxes))), 0
    with progress_bar(progress, total=total, unit="frame", desc="poses") as bar:
        for item in loader:
            if isinstance(item, FrameError):
                raise item
            if isinstance(item, dict):
                source.problems.update(item)
                continue
            bar.update()
            # Frames that are clipped to the video occur several times in a window.
            numbers, first, index = np.unique(item.numbers, return_index=True, return_inverse=True)
            frames = tuple(numbers.tolist())
            for person, box in enumerate(item.boxes.tolist()):
                crops = item.crops[person, first]
                center, scale = item.center[person], item.scale[person]
                yield _Crops(box, moment, item.video, frames, crops, index, center, scale)
            moment += 1


def _held(boxes: Boxes, tracks: Ints, hold: int, model: PoseSpec) -> Boxes:
    """The boxes with those of tracks held; ids are those of a video.

    Raises:
        ValueError: nobody has a track.
    """
    check_hold(hold)
    if not (tracks >= 0).any():
        raise ValueError(f"hold: {hold} frames need boxes with track ids, and there are none")
    bbox = boxes.bbox.copy()
    for video in np.unique(boxes.video):
        rows = boxes.video == video
        turned = not_turned(bbox[rows])
        held = hold_boxes(boxes.number[rows], tracks[rows], turned, hold, model)
        bbox[rows] = held[:, :4]
    return replace(boxes, bbox=bbox)


def _batches(people: Iterable[_Crops], size: int) -> Iterator[list[_Crops]]:
    iterator = iter(people)
    while batch := list(islice(iterator, size)):
        yield batch


def _window_heatmaps(kept: KeptHeatmaps, people: Sequence[_Crops]) -> Tensor:
    """H of every frame of the windows, ``[B, T, J, h, w]``; of every different crop once."""
    first = starts([len(person.crops) for person in people])
    crops = torch.cat([person.crops for person in people])
    keys, moments = [], []
    for person in people:
        region = person.center.tobytes() + person.scale.tobytes()
        keys += [(person.video, number, region) for number in person.numbers]
        moments += [person.moment] * len(person.numbers)
    heatmaps = kept.of(keys, moments, lambda positions: crops[positions])
    index = np.stack([at + p.index for at, p in zip(first[:-1], people, strict=True)])
    return heatmaps[torch.from_numpy(index).to(heatmaps.device)]


def _check_crops(model: PoseSpec, windows: bool) -> None:
    """One box for each person, which is not turned, is what there is."""
    if model.upright is not None:
        raise ValueError(
            "model: it wants crops that are turned with the pose (data.upright), and boxes tell no "
            "angle; 'posewarper predict' finds it"
        )
    if windows and model.support_box == "own":
        raise ValueError(
            "model: its warp head wants every frame of a window cropped with a box of its own "
            "(data.support_box own), and there is only that of the key frame; 'posewarper predict' "
            "finds the others, and mode 'single' needs none"
        )


def _check_boxes(boxes: Boxes, dataset: PoseDataset) -> None:
    if boxes.videos != dataset.videos:
        raise ValueError(f"boxes: they belong to other videos than those of {dataset.source}")
    if not len(boxes):
        raise ValueError(f"boxes: there is none in {dataset.source}")
    size = boxes.bbox[:, 2:]
    bad = ~np.isfinite(boxes.bbox).all(1) | (size < 0).any(1) | (size.max(1) <= 0)
    bad |= ~np.isfinite(boxes.score)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"boxes: expected finite numbers and a size above 0, got {boxes.bbox[row].tolist()} "
            f"with score {boxes.score[row]} in frame {boxes.number[row]} of "
            f"{boxes.videos[boxes.video[row]].name!r}"
        )


def _places(boxes: Boxes) -> list[tuple[int, int]]:
    """Position of the video and number of the frame of each box."""
    return list(zip(boxes.video.tolist(), boxes.number.tolist(), strict=True))


def _groups(rows: Ints, keys: Ints) -> list[Ints]:
    """Rows in groups of equal keys, which are sorted."""
    return np.split(rows, np.flatnonzero(np.diff(keys)) + 1) if len(rows) else []


def frames_with(dataset: PoseDataset, boxes: Boxes) -> tuple[Frames, dict[tuple[int, int], int]]:
    """The frames of a data set and those of the boxes, and the row of each (video, number).

    What a file does not list it says nothing about: the size is that of a listed frame of the same
    video, the frame's id as far from the number as there, the image's id new.
    """
    frames, row_of = dataset.frames, dataset.frame_rows()
    new = sorted(set(_places(boxes)) - set(row_of))
    if not new:
        return frames, row_of
    like = {int(video): row for row, video in reversed(list(enumerate(frames.video)))}
    sizes, frame_ids = [], []
    for video, number in new:
        row = like.get(video)
        sizes.append((0, 0) if row is None else tuple(frames.size_wh[row].tolist()))
        shift = 0 if row is None else int(frames.frame_id[row] - frames.number[row])
        frame_ids.append(number + shift)
    start = int(frames.image_id.max(initial=0)) + 1
    names = [dataset.videos[video].file_name(number) for video, number in new]
    added = np.array(new, np.int64)
    joined = Frames.make(
        dataset.videos,
        np.concatenate([frames.video, added[:, 0]]),
        np.concatenate([frames.number, added[:, 1]]),
        size_wh=np.concatenate([frames.size_wh, np.array(sizes, np.int64)]),
        labelled=np.concatenate([frames.labelled, np.zeros(len(new), np.bool_)]),
        image_id=np.concatenate([frames.image_id, np.arange(start, start + len(new))]),
        frame_id=np.concatenate([frames.frame_id, np.array(frame_ids, np.int64)]),
        file_name=(*frames.file_name, *names),
        original_file_name=(*frames.original_file_name, *("",) * len(new)),
        ignore=Regions.make(
            [frames.ignore.of(row) for row in range(len(frames))] + [[] for _ in new]
        ),
    )
    return joined, row_of | {place: len(frames) + i for i, place in enumerate(new)}
