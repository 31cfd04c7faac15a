"""The report of the demo: one page with claims, tables, curves, frames and clips."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from posewarper.data.annotations import load_coco
from posewarper.data.tables import Ints, PoseDataset
from posewarper.data.video import FrameSource
from posewarper.demonstration.folder import DemoFolder
from posewarper.demonstration.measures import THRESHOLDS, Truth
from posewarper.demonstration.results import truths
from posewarper.evaluation import head_lengths
from posewarper.files import read_json
from posewarper.report import (
    Column,
    Picture,
    Report,
    Section,
    Table,
    captioned,
    distance_curves,
    draw_differences,
    draw_poses,
    learning_curves,
    side_by_side,
)
from posewarper.report.media import Image

_GROUPS = ("all", "clear", "blurred", "occluded")
_METHODS = {
    "warp": "warp: both labels, own evidence",
    "warp-both": "warp: both labels",
    "warp-nearest": "warp: nearest label (2019)",
    "single": "single-frame network",
    "flow": "flow: nearest label",
    "flow-both": "flow: both labels",
    "linear": "linear interpolation",
    "copy": "copy of the nearest label",
}
_MODELS = {
    "single": "single frames",
    "augmented": "single frames, trained on propagated labels too",
    "aggregate": "aggregated over 7 frames",
}
_PCKH = "PCKh@0.5 in percent, by group of joints; last column: PCKh@0.25."
_SHOWN_HEIGHT = 480  # pixels, of frames in the report


def write_page(folder: DemoFolder, settings: Mapping[str, Any]) -> None:
    """Write ``report.html`` from the files of a finished demo."""
    results = read_json(folder.root / "results.json")
    truth = truths(folder)
    source = FrameSource(folder.videos, cached_frames=64)
    seconds: dict[str, float] = results["seconds"]
    report = Report(
        "PoseWarper on synthetic videos",
        "From labels on every 7th frame to poses in every frame, measured against complete truth.",
        {
            "time": f"{sum(seconds.values()) / 60:.1f} min",
            "machine": f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads",
            "seed": str(settings["seed"]),
        },
    )
    for claim in results["claims"]:
        report.claim(
            claim["text"],
            claim["verdict"],
            {"gain in PCKh@0.5": f"{claim['mean']:+.1f}".replace("-", "−")},
            f"95 % interval over videos: {claim['low']:+.1f} to {claim['high']:+.1f}. Networks of "
            f"one seed, {settings['seed']}: other seeds differ a little more.",
        )
    _what_was_done(report, results, seconds)
    _propagation(report, results, folder, truth["train"], source)
    _augmentation(report, results, folder)
    _aggregation(report, results, folder, truth["val"], source)
    report.section("Settings").settings(settings, "Of this demo")
    report.write(folder.root / "report.html")


def _what_was_done(
    report: Report, results: Mapping[str, Any], seconds: Mapping[str, float]
) -> None:
    data = results["data"]
    section = report.section(
        "What was done",
        "Videos of moving people were drawn, with motion blur, defocus, occlusion and changing "
        "light. In the training videos every 7th frame kept its labels. From these alone a "
        "single-frame network (HRNet) and the warp head were trained, the labels spread to all "
        "other frames, and the network trained again on both. The validation videos show other "
        "people and are not used in training.",
    )
    rows = {
        name: [data[key]["videos"], data[key]["frames"], data[key]["labelled_frames"],
               data[key]["people"], data[key]["joints"]]
        for name, key in (
            ("training, sparse labels", "sparse"),
            ("training, with pseudo-labels", "augmented"),
            ("validation", "val"),
        )
    }  # fmt: skip
    names = ("videos", "frames", "labelled frames", "people", "joints")
    section.table(Table([Column(name, digits=0) for name in names], rows, "labels"))
    times = {title.partition(" ")[2]: [value] for title, value in seconds.items()}
    section.table(Table([Column("seconds")], times, "step"))


def _propagation(
    report: Report,
    results: Mapping[str, Any],
    folder: DemoFolder,
    truth: Truth,
    source: FrameSource,
) -> None:
    section = report.section(
        "Propagation: labels for every frame",
        "How close the propagated joints are to the hidden labels of the training videos. PCKh: "
        "the share of joints within half (or a quarter) of a head size. Every method gets the same "
        "labels; the network has been trained on these labels only.",
    )
    section.table(_pckh_table(results["propagation"], _METHODS), _PCKH)
    gaps = results["by_gap"]["gaps"]
    section.figure(
        distance_curves(
            {_METHODS[name]: results["by_gap"][name]
             for name in ("warp", "single", "flow", "linear", "copy")},
            gaps, label="PCKh@0.5, %", highlight=[_METHODS["warp"]], percent=False,
        ),
        "Accuracy by distance from the nearest label.",
    )  # fmt: skip
    spread = {
        name: load_coco(folder.propagated(name)) for name in ("warp", results["best_baseline"])
    }
    _examples(section, truth, spread, _METHODS, source)
    section.clip(
        _clip(truth, {"labels, propagated": spread["warp"]}, folder, source, "train"),
        8,
        "A training video. Labelled are frames 4, 11, 18, ... only; the rest is propagated.",
    )


def _augmentation(report: Report, results: Mapping[str, Any], folder: DemoFolder) -> None:
    section = report.section(
        "Augmentation: a better network from the same labels",
        "The same single-frame network, trained from scratch for as many steps on the sparse "
        "labels, and on these and the propagated ones. Measured on the validation videos.",
    )
    shown = {name: _MODELS[name] for name in ("augmented", "single")}
    section.table(_pckh_table(results["models"], shown), _PCKH)
    section.figure(
        learning_curves(
            {
                "sparse": folder.pose / "log.csv",
                "with pseudo-labels": folder.pose_augmented / "log.csv",
                "warp head": folder.warp / "log.csv",
            }
        ),
        "Training. PCK here: joints within a tenth of the person's size. The loss of the warp "
        "head is another one than that of the single-frame network.",
    )


def _aggregation(
    report: Report,
    results: Mapping[str, Any],
    folder: DemoFolder,
    truth: Truth,
    source: FrameSource,
) -> None:
    section = report.section(
        "Aggregation: each pose decided by seven frames",
        "The network and the warp head that the sparse labels have trained, on the validation "
        "videos: frame by frame, and with the heatmaps of three frames before and after warped to "
        "the frame.",
    )
    shown = {name: _MODELS[name] for name in ("aggregate", "single")}
    section.table(_pckh_table(results["models"], shown), _PCKH)
    gains = {
        group: [gain["mean"], gain["low"], gain["high"]]
        for group, gain in results["aggregation_gains"].items()
    }
    columns = [Column("gain"), Column("95 % from"), Column("to")]
    section.table(
        Table(columns, gains, "joints"), "Gain of aggregation in PCKh@0.5, percentage points."
    )
    predicted = {name: load_coco(folder.predicted(name)) for name in ("aggregate", "single")}
    _examples(section, truth, predicted, _MODELS, source)
    section.clip(
        _clip(
            truth,
            {"single frame": predicted["single"], "aggregated": predicted["aggregate"]},
            folder, source, "val",
        ),
        8,
        "A validation video: frame by frame, and aggregated.",
    )  # fmt: skip


def _pckh_table(tables: Mapping[str, Any], names: Mapping[str, str]) -> Table:
    """PCKh@0.5 by group, and the strict one of all joints."""
    usual, strict = (f"PCKh@{limit:g}" for limit in THRESHOLDS)
    rows = {
        title: [*(tables[name][usual][group] for group in _GROUPS), tables[name][strict]["all"]]
        for name, title in names.items()
    }
    columns = [
        *(Column(group, better="higher") for group in _GROUPS),
        Column(f"all, {strict.lstrip('PCKh')}", better="higher"),
    ]
    return Table(columns, rows, "method", highlight=[next(iter(rows))])


def _examples(
    section: Section,
    truth: Truth,
    predicted: Mapping[str, PoseDataset],
    names: Mapping[str, str],
    source: FrameSource,
    count: int = 4,
) -> None:
    """Frames side by side: two in which the first method is ahead the most, two the second."""
    first, second = predicted
    dataset = truth.dataset
    right = {
        name: ((truth.distances(of) <= THRESHOLDS[0]) & truth.groups["all"]).sum(1)
        for name, of in predicted.items()
    }
    ahead = np.bincount(
        dataset.people.frame, right[first] - right[second], minlength=len(dataset.frames)
    )
    order = np.argsort(-ahead, kind="stable").tolist()
    pictures = []
    for frame in [*order[: count // 2], *order[-(count // 2) :]]:
        panels = [_difference(truth, of, frame, source) for of in predicted.values()]
        captions = [names[name] for name in predicted]
        lead = int(ahead[frame])
        text = f"{dataset.frames.file_name[frame]}: {abs(lead)} joints more right "
        text += f"with {names[first] if lead >= 0 else names[second]}"
        pictures.append(Picture(side_by_side(panels, captions), text))
    section.text(
        "Where the two differ the most, in either direction. White: the truth. Blue: within half "
        "a head size; red: beyond it."
    )
    section.images(pictures, columns=1)


def _difference(truth: Truth, predicted: PoseDataset, frame: int, source: FrameSource) -> Image:
    dataset = truth.dataset
    rows = np.flatnonzero(dataset.people.frame == frame)
    image = _image(dataset, frame, source)
    found = _people(predicted, *_place(dataset, frame))
    tracks = predicted.people.track_id[found].tolist()
    guess = np.zeros((len(rows), len(dataset.skeleton), 3))
    for index, track in enumerate(dataset.people.track_id[rows].tolist()):
        if track in tracks:
            guess[index] = predicted.people.keypoints[found[tracks.index(track)]]
    return draw_differences(
        image, dataset.people.keypoints[rows], guess, dataset.skeleton,
        tolerance=THRESHOLDS[0] * head_lengths(dataset.people.head_box[rows]),
        upscale_to=_SHOWN_HEIGHT,
    )  # fmt: skip


def _clip(
    truth: Truth,
    predicted: Mapping[str, PoseDataset],
    folder: DemoFolder,
    source: FrameSource,
    split: str,
) -> Iterator[Image]:
    """All frames of the video in which the first prediction is of middling quality."""
    dense = load_coco(folder.dense(split))
    distances = truth.distances(next(iter(predicted.values())))
    right = ((distances <= THRESHOLDS[0]) & truth.groups["all"]).sum(1)
    videos = np.unique(truth.video)
    shares = [
        right[truth.video == v].sum() / max(truth.groups["all"][truth.video == v].sum(), 1)
        for v in videos
    ]
    video = int(videos[np.argsort(shares)[len(videos) // 2]])
    for frame in np.flatnonzero(dense.frames.video == video).tolist():
        image = _image(dense, frame, source)
        panels = []
        for name, of in predicted.items():
            rows = _people(of, *_place(dense, frame))
            people = of.people
            drawn = draw_poses(
                image, people.keypoints[rows], of.skeleton,
                scores=np.clip(people.joint_scores[rows], 0, 1),
                track_ids=people.track_id[rows], upscale_to=_SHOWN_HEIGHT,
            )  # fmt: skip
            human = len(rows) and not people.predicted[rows].any()
            panels.append(captioned(drawn, "labelled by hand" if human else name))
        yield side_by_side(panels)


def _place(dataset: PoseDataset, frame: int) -> tuple[str, int]:
    frames = dataset.frames
    return dataset.videos[frames.video[frame]].name, int(frames.number[frame])


def _people(dataset: PoseDataset, video: str, number: int) -> Ints:
    """Rows of the people of a frame."""
    names = [of.name for of in dataset.videos]
    frames = dataset.frames
    if video not in names:
        return np.zeros(0, np.int64)
    here = (frames.video == names.index(video)) & (frames.number == number)
    return np.flatnonzero(here[dataset.people.frame])


def _image(dataset: PoseDataset, frame: int, source: FrameSource) -> Image:
    video = dataset.videos[dataset.frames.video[frame]]
    image = source.read(video, int(dataset.frames.number[frame]))
    assert image is not None  # the source's policy is "error"
    return image
