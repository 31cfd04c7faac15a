"""The PoseEstimation of NWB files (extension ndx-pose): predictions by time.

A container holds one animal, with a series of places for each joint. Series have times in the
session, and not the numbers of frames. Those who write such files give every frame of the video a
row, so rows are frames, counted from 0 at the first; a joint that was not found may have no row,
and then its times tell which are missing. Only sleap-io's own times count frames of the video.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from posewarper.data.formats.label_file import LabelFile
from posewarper.data.formats.trajectories import add_trajectories
from posewarper.data.tables import Floats, Ints

_SLEAP_MODULE = "SLEAP_VIDEO_"
_UNTRACKED = "untracked"
_TOLERANCE = 0.1  # of the time between two frames


def read_estimations(containers: list[Any], path: Path) -> LabelFile:
    """Predictions from the groups of type PoseEstimation; each is a track of its video.

    Raises:
        ValueError: joints differ, coordinates are not in two dimensions, or the times do not tell
            which frames they are of.
    """
    by_video: dict[str, list[Any]] = {}
    for container in containers:
        by_video.setdefault(_video_of(container, path) or path.stem, []).append(container)
    first = _series(containers[0], path)
    joints = range(len(first))
    limbs = tuple(pair for pair in _limbs(containers[0]) if pair[0] in joints and pair[1] in joints)
    labels = LabelFile(str(path), tuple(first), limbs=limbs)
    unscored = False
    for video, group in by_video.items():
        tracks = [_series(container, path) for container in group]
        for container, series in zip(group, tracks, strict=True):
            if set(series) != set(first):
                raise ValueError(
                    f"{path}: expected the joints {list(first)} in {container.name}, got "
                    f"{list(series)}"
                )
        numbers, rows = _frames_of([s for series in tracks for s in series.values()], path, video)
        places = np.full((len(numbers), len(group), len(first), 2), np.nan)
        scores = np.full(places.shape[:3], np.nan)
        of_series = iter(rows)
        for track, series in enumerate(tracks):
            at = {joint: next(of_series) for joint in series}
            for joint, name in enumerate(first):
                one = series[name]
                places[at[name], track, joint] = one["data"][:]
                if "confidence" in one:
                    scores[at[name], track, joint] = one["confidence"][:]
                else:
                    unscored, scores[at[name], track, joint] = True, 1.0
        names = [_track(container, len(group)) for container in group]
        add_trajectories(labels, video, numbers, places, scores, names=names)
        labels.frame_counts[video] = int(numbers[-1]) + 1
        labels.tracks += [n for n in names if n is not None and n not in labels.tracks]
    if unscored:
        warnings.warn(
            f"{path}: predictions without confidence: joints get the score 1", stacklevel=5
        )
    return labels


def _video_of(container: Any, path: Path) -> str | None:
    """The path of the video: of the series that is linked, or from older files' list."""
    series = container.get("source_video")
    for place, name in ((series, "external_file"), (container, "original_videos")):
        videos = place[name].asstr()[:].tolist() if place is not None and name in place else []
        if len(videos) > 1:
            raise ValueError(
                f"{path}: {container.name} names {len(videos)} videos ({', '.join(videos[:4])}) "
                "and does not tell of which its coordinates are"
            )
        if videos:
            return str(videos[0])
    return None


def _skeleton_of(container: Any) -> Any:
    """Where nodes and edges are: in a skeleton that is linked, in older files in the container."""
    for name in container:  # the link has the name of the skeleton
        group = container.get(name)
        if group is not None and group.attrs.get("neurodata_type") == "Skeleton":
            return group
    return container


def _series(container: Any, path: Path) -> dict[str, Any]:
    """The series of a container by joint, in the order of its skeleton."""
    series = {
        name: group
        for name, group in container.items()
        if group is not None and group.attrs.get("neurodata_type") == "PoseEstimationSeries"
    }
    for name, group in series.items():
        if group["data"].ndim != 2 or group["data"].shape[1] != 2:
            raise ValueError(
                f"{path}: {container.name}/{name}: expected x and y, got coordinates of shape "
                f"{list(group['data'].shape)}"
            )
    if not series:
        raise ValueError(f"{path}: {container.name} holds no PoseEstimationSeries")
    nodes = _skeleton_of(container).get("nodes")
    order = list(series) if nodes is None else [str(node) for node in nodes.asstr()[:]]
    prefix = "PoseEstimationSeries"  # some put it before the joint's name
    named: dict[str, Any] = {}
    for node in order:
        match = [key for key in (node, prefix + node) if key in series]
        camel = prefix + "".join(part[:1].upper() + part[1:] for part in node.split("_"))
        match += [camel] if camel in series else []
        if match:
            named[node] = series[match[0]]
    return named if len(named) == len(series) else series


def _limbs(container: Any) -> tuple[tuple[int, int], ...]:
    holder = _skeleton_of(container)
    edges = holder["edges"][:] if "edges" in holder else np.zeros((0, 2))
    return tuple((int(a), int(b)) for a, b in edges.reshape(-1, 2).tolist())


def _track(container: Any, count: int) -> str | None:
    name = container.name.rpartition("/")[2].removeprefix("track=")
    return None if name == _UNTRACKED or (count == 1 and "=" not in container.name) else name


def _times(series: Any) -> tuple[Floats, float]:
    """Time of each row, and the time between two frames if the file tells."""
    if "timestamps" in series:
        return np.asarray(series["timestamps"][:], np.float64), np.nan
    start = series["starting_time"]
    step = 1 / float(start.attrs["rate"])
    return float(start[()]) + step * np.arange(len(series["data"]), dtype=np.float64), step


def _frames_of(series: list[Any], path: Path, video: str) -> tuple[Ints, list[Ints]]:
    """The numbers of all frames of a video, and for each series the places of its rows there."""
    times, steps = zip(*(_times(one) for one in series), strict=True)
    every = np.unique(np.concatenate(times))
    if not len(every):
        raise ValueError(f"{path}: there are no rows for video {video}")
    if not np.isfinite(every).all():
        raise ValueError(f"{path}: some times of video {video} are no numbers")
    told = [step for step in steps if np.isfinite(step)]
    gaps = np.diff(every)
    step = told[0] if told else float(np.median(gaps)) if len(gaps) else 1.0
    # Series with a rate repeat times with rounding: they are one time.
    first = np.concatenate([[True], gaps > _TOLERANCE * step])
    every, place = every[first], np.cumsum(first) - 1
    by_count = (every - every[0]) / step
    numbers = np.round(by_count).astype(np.int64)
    regular = bool((abs(by_count - numbers) <= _TOLERANCE).all())
    whole = all(len(one) == len(every) for one in times)
    if not regular and whole:  # a camera that does not keep its rate; every frame has a row
        numbers = np.arange(len(every))
    elif not regular or len(np.unique(numbers)) != len(numbers):
        raise ValueError(
            f"{path}: the times of video {video} do not tell which frames they are of: they are "
            f"not multiples of {step:g} s, and some joints have fewer rows than others; write a "
            "row for every frame (NaN where a joint was not found)"
        )
    if _SLEAP_MODULE in series[0].name and step == 1.0 and every[0] == round(every[0]):
        numbers = numbers + int(every[0])
    else:
        warnings.warn(
            f"{path}: predictions have times, not frame numbers: the first, {every[0]:g} s, is "
            f"taken for frame 0 of {video}, the last for frame {numbers[-1]}",
            stacklevel=6,
        )
    all_times = np.unique(np.concatenate(times))
    return numbers, [place[np.searchsorted(all_times, one)] for one in times]
