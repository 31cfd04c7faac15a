"""Poses that were found, as people of a data set: boxes, heads, frames, ids.

The bookkeeping that all ways of spreading labels share, so that they differ in their poses alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from posewarper.data.people import person_sizes
from posewarper.data.tables import Bools, Floats, Frames, Ints, People, PoseDataset, Regions
from posewarper.data.tracks import Target
from posewarper.inference.baselines import Poses
from posewarper.skeleton import Skeleton

_HEAD = {"nose", "head", "eye", "ear", "neck"}  # words in the names of joints that move with it
_LEAST_SIDE = 2.0  # pixels of a box: training takes one off, and a crop needs an extent


@dataclass(frozen=True)
class Counts:
    """What became of the labels that were to spread.

    Attributes:
        labelled_frames: frames with human labels, also those that were predicted again.
        predicted_frames: other frames with predicted people.
        repredicted_frames: labelled frames with predicted people in place of their labels.
        people: predicted.
        people_lost: of whom no joint was left, or whose frame could not be read.
        joints: predicted.
        joints_lost: labelled ones that were not found, lie outside the image, or have a score
            not above the threshold.
    """

    labelled_frames: int
    predicted_frames: int
    repredicted_frames: int
    people: int
    people_lost: int
    joints: int
    joints_lost: int


def with_predictions(
    dataset: PoseDataset,
    targets: Sequence[Sequence[Target]],
    poses: Sequence[Poses],
    threshold: float = 0.0,
) -> tuple[PoseDataset, Counts]:
    """The data set with predicted people in it, and all frames of the videos that have labels.

    Joints that lie outside the image or have a score not above the threshold become unlabelled,
    (0, 0) with visibility 0; people of whom no joint is left are left out. The others carry on
    track id, visibility, and, moved with their joints, box and head box of their labels. The box is
    cut to the image, and at least two pixels wide and high. A target in a labelled frame takes the
    place of its label.

    Args:
        dataset: human labels.
        targets: of each video of ``dataset``.
        poses: of these.
        threshold: scores have to be above it; not negative.
    """
    size_wh = _sizes(dataset)
    covered = [video for video, of_video in enumerate(targets) if of_video]
    complete = _with_all_frames(dataset, covered, size_wh)
    row_of = complete.frame_rows()

    found: list[_Found] = []
    frame_rows, replaced = [], []
    lost = joints_lost = 0
    for video, (of_video, known) in enumerate(zip(targets, poses, strict=True)):
        for target, joints, scores in zip(of_video, known.joints, known.scores, strict=True):
            visible = target.visibility
            keep = (visible > 0) & np.isfinite(joints).all(1) & (scores > max(threshold, 0))
            keep &= _inside(joints, size_wh[video])
            joints_lost += int((visible > 0).sum() - keep.sum())
            if not keep.any():
                lost += 1
                continue
            found.append(_found(target, joints, scores, keep, size_wh[video], dataset.skeleton))
            frame_rows.append(row_of[video, target.number])
            label = target.track.at(target.number)
            if label is not None:
                replaced.append(int(target.track.rows[label]))
    result = _with_people(complete, found, frame_rows, replaced)
    again = set(np.flatnonzero(complete.frames.labelled).tolist())
    counts = Counts(
        int(dataset.frames.labelled.sum()),
        len(set(frame_rows) - again),
        len(set(frame_rows) & again),
        len(found),
        lost,
        int(sum((person.keypoints[:, 2] > 0).sum() for person in found)),
        joints_lost,
    )
    return result, counts


@dataclass(frozen=True, eq=False)
class _Found:
    """One predicted person."""

    track_id: int
    keypoints: Floats
    scores: Floats
    bbox: Floats
    head_box: Floats


def _found(
    target: Target,
    joints: Floats,
    scores: Floats,
    keep: Bools,
    size_wh: Ints,
    skeleton: Skeleton,
) -> _Found:
    """A person from the joints that are kept; at least one is."""
    keypoints = np.zeros((len(joints), 3))
    keypoints[keep, :2] = joints[keep]
    keypoints[keep, 2] = target.visibility[keep]
    low, high, head = _boxes(target, joints, keep, skeleton)
    limit = np.where(size_wh > 0, size_wh, np.inf)
    low = np.maximum(np.minimum(low, limit - _LEAST_SIDE), 0)
    high = np.maximum(np.minimum(high, limit), low + _LEAST_SIDE)
    return _Found(
        target.track.track_id,
        keypoints,
        np.where(keep, scores, np.nan),
        np.concatenate([low, high - low]),
        head,
    )


def _boxes(
    target: Target, joints: Floats, keep: Bools, skeleton: Skeleton
) -> tuple[Floats, Floats, Floats]:
    """Corners of the box [2], [2] and head box [4] of a target with these joints.

    From each label: around the kept joints the margins that the label's box has around the same
    joints, grown as the size has; so the box is that of the whole person even where few joints are
    kept. The head box keeps its size and moves as the joints of the head did, or, if
    there are none, all joints. Several labels: the mean by their weights.
    """
    is_head = np.array([bool(_HEAD & set(name.split("_"))) for name in skeleton.joints])
    boxes, heads = [], []
    for label, weight in zip(target.labels, target.weights.tolist(), strict=True):
        common = keep & (target.track.keypoints[label, :, 2] > 0)
        if not common.any():
            continue
        was, now = target.track.keypoints[label, common, :2], joints[common]
        bbox = target.track.bbox[label]
        # Few joints tell little about size: the margins at most double.
        sizes = person_sizes(np.stack([was, now]))
        growth = np.clip(sizes[1] / sizes[0] if sizes[0] > 0 else 1.0, 0.5, 2.0)
        low = now.min(0) - (was.min(0) - bbox[:2]) * growth
        high = now.max(0) + (bbox[:2] + bbox[2:] - was.max(0)) * growth
        boxes.append((weight, np.concatenate([low, high])))
        head_box = target.track.head_box[label]
        if np.isfinite(head_box).all():
            of_head = is_head[common]
            moved = (now - was)[of_head if of_head.any() else slice(None)].mean(0)
            heads.append((weight, head_box + np.tile(moved, 2)))
    box = _mean(boxes)
    # Joints that one label has lie outside the box of the other.
    low = np.minimum(box[:2], joints[keep].min(0))
    high = np.maximum(box[2:], joints[keep].max(0))
    return low, high, _mean(heads) if heads else np.full(4, np.nan)


def _mean(weighted: Sequence[tuple[float, Floats]]) -> Floats:
    mean: Floats = np.average([v for _, v in weighted], axis=0, weights=[w for w, _ in weighted])
    return mean


def _inside(joints: Floats, size_wh: Ints) -> Bools:
    """[J] which joints lie in the image, whose size may be (0, 0) for unknown."""
    limit = np.where(size_wh > 0, size_wh, np.inf)
    # From pixel centre to pixel centre, and half a pixel around: the whole area of the image.
    return np.asarray(((joints >= -0.5) & (joints < limit - 0.5)).all(1))


def _sizes(dataset: PoseDataset) -> Ints:
    """Width and height of each video, [V, 2]; (0, 0) where no frame tells."""
    sizes = np.zeros((len(dataset.videos), 2), np.int64)
    np.maximum.at(sizes, dataset.frames.video, dataset.frames.size_wh)
    return sizes


def _with_all_frames(dataset: PoseDataset, videos: Sequence[int], size_wh: Ints) -> PoseDataset:
    """Rows also for frames that the file does not list, unlabelled, in the order of time.

    Their frame ids count as those of the listed frames of the video; their image ids are the frame
    ids where the file has it so (PoseTrack18), else they follow the largest one.
    """
    frames = dataset.frames
    known = dataset.frame_rows()
    shift = {
        int(v): int(frames.frame_id[row] - frames.number[row]) for (v, _), row in known.items()
    }
    missing = [
        (position, number)
        for position in videos
        for number in range(
            dataset.videos[position].first_frame, dataset.videos[position].last_frame + 1
        )
        if (position, number) not in known
    ]
    video = np.array([v for v, _ in missing], np.int64)
    number = np.array([n for _, n in missing], np.int64)
    frame_id = number + np.array([shift.get(v, 0) for v, _ in missing], np.int64)
    image_id = frame_id
    everything = np.concatenate([frames.image_id, image_id])
    if (frames.image_id != frames.frame_id).any() or len(np.unique(everything)) < len(everything):
        image_id = frames.image_id.max(initial=0) + 1 + np.arange(len(missing))
    extra = Frames.make(
        dataset.videos, video, number, size_wh=size_wh[video], labelled=np.zeros(len(missing)),
        image_id=image_id, frame_id=frame_id,
    )  # fmt: skip
    ignore = frames.ignore
    no_polygons = np.full(len(missing), ignore.frame_start[-1])
    joined = Frames(
        np.concatenate([frames.video, extra.video]),
        np.concatenate([frames.number, extra.number]),
        np.concatenate([frames.image_id, extra.image_id]),
        np.concatenate([frames.frame_id, extra.frame_id]),
        np.concatenate([frames.size_wh, extra.size_wh]),
        np.concatenate([frames.labelled, extra.labelled]),
        frames.file_name + extra.file_name,
        frames.original_file_name + extra.original_file_name,
        Regions(ignore.points, ignore.polygon_start, np.append(ignore.frame_start, no_polygons)),
    )
    order = np.lexsort((joined.number, joined.video))
    new_row = np.empty(len(order), np.int64)
    new_row[order] = np.arange(len(order))
    people = replace(dataset.people, frame=new_row[dataset.people.frame])
    return replace(dataset, frames=joined[order], people=people)


def _with_people(
    dataset: PoseDataset,
    found: Sequence[_Found],
    frame_rows: Sequence[int],
    replaced: Sequence[int],
) -> PoseDataset:
    """The data set with more people, without the rows ``replaced``, sorted by frame."""
    joints = len(dataset.skeleton)
    first_id = dataset.people.annotation_id.max(initial=0) + 1
    keep = np.ones(len(dataset.people), np.bool_)
    keep[list(replaced)] = False
    old = dataset.people[keep]
    scores = np.array([person.scores for person in found]).reshape(-1, joints)
    new = People.make(
        np.array(frame_rows, np.int64),
        np.array([person.keypoints for person in found]).reshape(-1, joints, 3),
        np.array([person.bbox for person in found]).reshape(-1, 4),
        head_box=np.array([person.head_box for person in found]).reshape(-1, 4),
        track_id=[person.track_id for person in found],
        annotation_id=first_id + np.arange(len(found)),
        joint_scores=scores,
        score=np.array([np.nanmean(person.scores) for person in found]),
    )
    columns = {
        name: np.concatenate([getattr(old, name), getattr(new, name)])
        for name in People.__dataclass_fields__
    }
    people = People(**columns)
    labelled = dataset.frames.labelled.copy()
    labelled[new.frame] = True
    return replace(
        dataset,
        frames=replace(dataset.frames, labelled=labelled),
        people=people[np.argsort(people.frame, kind="stable")],
    )
