"""How good propagated labels are: hide some labels, spread the others, compare.

H hidden people, J joints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posewarper.data.people import person_sizes
from posewarper.data.tables import Bools, Floats, Ints, PoseDataset, Video
from posewarper.data.tracks import Target, Track, VideoLabels, labels_of, targets_of
from posewarper.data.video import FrameSource
from posewarper.files import whole_file
from posewarper.inference import PosePredictor, PropagationOptions, make_propagator

THRESHOLDS = (0.02, 0.05, 0.1)  # shares of a person's size
_FEW = 20  # labelled frames, of which none is hidden unless somebody asks for it
_SHARE = 0.1

#: What the network's labels are compared with: name -> options of ``PropagationOptions``.
BASELINES: dict[str, dict[str, object]] = {
    "single": {"method": "single", "box": "interpolated", "follow": True},
    "flow": {"method": "flow"},
    "flow-both": {"method": "flow", "sources": "both"},
    "linear": {"method": "linear"},
    "copy": {"method": "copy"},
}


def hidden_frames(labels: PoseDataset, share: float | None) -> Bools:
    """Labelled frames to hide, a mask of ``labels.frames``.

    They are spread evenly, and never the first or last one of a video, so that there are labels on
    both sides. Somebody in them has a track of which labels are left, or nothing could be compared.

    Args:
        labels: human labels.
        share: of the labelled frames, 0 to 0.5; None: a tenth, or none where labels are few or
            nobody could be compared.

    Raises:
        ValueError: ``share`` is out of its range; no video has three labelled frames, or nobody a
            track.
    """
    if share is not None and not 0 <= share <= 0.5:
        raise ValueError(f"holdout: expected a share of the labels, 0 to 0.5, got {share}")
    frames = labels.frames
    asked = bool(share)
    hidden = np.zeros(len(frames), np.bool_)
    if share is None:
        share = _SHARE if frames.labelled.sum() >= _FEW else 0.0
    for video in range(len(labels.videos)):
        rows = np.flatnonzero((frames.video == video) & frames.labelled)
        inner = rows[np.argsort(frames.number[rows])][1:-1]
        # Of neighbours at most one: a frame between two hidden ones would have no label near.
        count = min(round(share * len(rows)), (len(inner) + 1) // 2)
        if count:
            places = (np.arange(count) + 0.5) * len(inner) / count
            hidden[inner[places.astype(int)]] = True
    if asked and not hidden.any():
        raise ValueError(
            f"holdout: expected at least three labelled frames in a video of {labels.source} and "
            f"a share that is one of them, got {share}"
        )
    if hidden.any() and not comparable(labels.with_labels_of(frames.labelled & ~hidden), labels):
        if asked:
            raise ValueError(
                f"holdout: nobody in the frames to hide has a track id that {labels.source} has in "
                "other frames, so there would be nobody to compare with"
            )
        hidden[:] = False
    return hidden


def comparable(labels: PoseDataset, truth: PoseDataset) -> int:
    """How many people ``compare`` can compare."""
    return sum(
        len(_wanted(of_video, labels.videos[of_video.video], truth)[0])
        for of_video in labels_of(labels)
    )


@dataclass(frozen=True, eq=False)
class Comparison:
    """Errors of the labels that each method gives to hidden people.

    Attributes:
        methods: names.
        errors: [M, H, J] distance / size of the person; infinite where the method found nothing,
            NaN where nothing is labelled.
        scores: [M, H, J] confidences; 0 where nothing was found.
        sizes: [H] pixels: the median over the person's labels of the longer side of the box around
            the joints.
        distances: [H] frames to the nearest label that was used.
        videos: [H] position.
        numbers: [H] frames.
        skipped: hidden people who could not be compared: of unknown track, or too far from labels.
    """

    methods: tuple[str, ...]
    errors: Floats
    scores: Floats
    sizes: Floats
    distances: Ints
    videos: Ints
    numbers: Ints
    skipped: int

    def pck(self, method: str, threshold: float) -> float:
        """Share of the labelled joints within a distance."""
        errors = self.errors[self.methods.index(method)]
        known = errors[~np.isnan(errors)]
        return float((known <= threshold).mean())

    def median(self, method: str, pixels: bool = False) -> float:
        """Median error, as a share of the size or in pixels."""
        errors = self.errors[self.methods.index(method)]
        scaled = errors * self.sizes[:, None] if pixels else errors
        return float(np.median(scaled[~np.isnan(errors)]))

    def save(self, path: Path) -> None:
        """All of it, as a file of numpy."""
        with whole_file(path) as partial, open(partial, "wb") as file:
            np.savez_compressed(file, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Comparison:
        """What ``save`` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            columns = {name: stored[name] for name in stored.files}
        names = tuple(str(name) for name in columns.pop("methods"))
        return cls(methods=names, skipped=int(columns.pop("skipped")), **columns)


def compare(
    labels: PoseDataset,
    truth: PoseDataset,
    source: FrameSource,
    options: Mapping[str, Mapping[str, object]],
    predictor: PosePredictor,
    progress: bool = True,
) -> Comparison | None:
    """Spread labels to the frames of other labels in every way, and compare.

    Args:
        labels: that are spread.
        truth: the same videos, by name; people in frames that ``labels`` does not have.
        source: frames.
        options: method -> arguments of ``PropagationOptions``; the first one's targets count.
        predictor: for the methods with a network.
        progress: show progress bars.

    Returns:
        None where nobody could be compared.
    """
    found: dict[str, list[tuple[Floats, Floats]]] = {name: [] for name in options}
    hidden: list[_Hidden] = []
    skipped = 0
    for of_video in labels_of(labels, predictor.model.upright):
        video = labels.videos[of_video.video]
        wanted, lost = _wanted(of_video, video, truth)
        skipped += lost
        if not wanted:
            continue
        hidden += wanted
        for name, arguments in options.items():
            run = make_propagator(PropagationOptions(**arguments), predictor, progress)  # type: ignore[arg-type]
            targets = targets_of(
                of_video, video, sources=run.options.labels_used, box=run.options.box_used
            )
            by_person = {(id(t.track), t.number): t for t in targets}
            those = [by_person[id(h.track), h.number] for h in wanted]
            poses = run.estimate(video, those, source, lambda _: None)
            found[name].append((poses.joints, poses.scores))
    if not hidden:
        return None
    places = np.stack([h.keypoints for h in hidden])  # [H, J, 3]
    sizes = np.array([h.size for h in hidden])
    errors, scores = [], []
    for parts in found.values():
        joints = np.concatenate([part[0] for part in parts])
        error = np.linalg.norm(joints - places[:, :, :2], axis=2) / sizes[:, None]
        error = np.where(np.isfinite(joints).all(2), error, np.inf)
        errors.append(np.where(places[:, :, 2] > 0, error, np.nan))
        scores.append(np.nan_to_num(np.concatenate([part[1] for part in parts])))
    return Comparison(
        tuple(options),
        np.stack(errors),
        np.stack(scores),
        sizes,
        np.array([h.distance for h in hidden]),
        np.array([h.video for h in hidden]),
        np.array([h.number for h in hidden]),
        skipped,
    )


@dataclass(frozen=True, eq=False)
class _Hidden:
    """A person whose label was hidden."""

    track: Track
    video: int
    number: int
    keypoints: Floats
    size: float
    distance: int


def _wanted(labels: VideoLabels, video: Video, truth: PoseDataset) -> tuple[list[_Hidden], int]:
    """Hidden people of a video, in the order of time, and how many cannot be compared."""
    position = [other.name for other in truth.videos].index(video.name)
    by_track = _same_people(labels, truth, position)
    targets: dict[tuple[int, int], Target] = {
        (id(target.track), target.number): target
        for target in targets_of(labels, video, sources="both", box="interpolated")
    }
    people, frames = truth.people, truth.frames
    labelled = set(labels.labelled.tolist())
    found, skipped = [], 0
    for row in np.flatnonzero(frames.video[people.frame] == position).tolist():
        number = int(frames.number[people.frame[row]])
        if number in labelled or not (people.keypoints[row, :, 2] > 0).any():
            continue
        track = by_track.get(int(people.track_id[row]))
        target = None if track is None else targets.get((id(track), number))
        if track is None or target is None:
            skipped += 1
            continue
        found.append(
            _Hidden(
                track, labels.video, number, people.keypoints[row], _size(track), target.distance
            )
        )
    return sorted(found, key=lambda hidden: hidden.number), skipped


def _same_people(labels: VideoLabels, truth: PoseDataset, position: int) -> dict[int, Track]:
    """The track of each track id of the truth: that with the same id or, where the truth names
    people otherwise, the one that lies on them in the frames that both have.
    """
    by_id = {track.track_id: track for track in labels.tracks if track.track_id >= 0}
    people, frames = truth.people, truth.frames
    rows = np.flatnonzero((frames.video[people.frame] == position) & (people.track_id >= 0))
    votes: dict[int, dict[int, int]] = {}
    for row in rows.tolist():
        number, keypoints = int(frames.number[people.frame[row]]), people.keypoints[row]
        nearest = min(
            (
                (_distance(track.keypoints[at], keypoints), name)
                for name, track in by_id.items()
                for at in [track.at(number)]
                if at is not None
            ),
            default=None,
        )
        if nearest is not None and nearest[0] < 0.1 * _size(by_id[nearest[1]]):
            of_person = votes.setdefault(int(people.track_id[row]), {})
            of_person[nearest[1]] = of_person.get(nearest[1], 0) + 1
    if votes:
        return {theirs: by_id[max(ours, key=ours.__getitem__)] for theirs, ours in votes.items()}
    return by_id


def _distance(first: Floats, second: Floats) -> float:
    """Mean over the joints that both have."""
    both = (first[:, 2] > 0) & (second[:, 2] > 0)
    if not both.any():
        return float("inf")
    return float(np.linalg.norm(first[both, :2] - second[both, :2], axis=1).mean())


def _size(track: Track) -> float:
    sizes = person_sizes(track.keypoints[..., :2], track.keypoints[..., 2] > 0)
    return max(float(np.median(sizes)), 1.0)
