"""Every option of the commands that predict and spread labels reaches what acts on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from option_inputs import anything, exists, write_inputs
from option_places import Case, Cases, On, Place, check

from posewarper.models import WINDOWS
from posewarper.streaming.boxes import WholeFrame

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def kind(path: Path) -> Place:
    """Whether a JSON file has a list, as COCO's results are."""
    return lambda ran: type(json.loads(path.read_text())) if path.exists() else None


def at_most(limit: int):
    return lambda value: value <= limit


def eager(module, device):
    """In place of what compiles."""
    return module


class Numbers:
    """In place of a tracker, whose library need not be there."""

    def __init__(self, fps, threshold):
        self.threshold = threshold

    def __call__(self, boxes, scores):
        return np.arange(len(boxes))


def see_nobody(name, weights, device, threshold):
    """In place of a detector, which would be downloaded."""
    return lambda image: (np.array([[20.0, 10, 40, 50]]), np.ones(1))


PREDICTOR = "posewarper.inference.predictor"
NETWORK: dict[str, On] = {
    "flip_test": On(True, f"{PREDICTOR}:merge_flipped(mirrored)", anything),
    "shift_flipped": On(True, f"{PREDICTOR}:merge_flipped(shift)"),
    "refinement": On("dark", f"{PREDICTOR}:decode(refinement)"),
    "precision": On("bf16", f"{PREDICTOR}:autocast(precision)"),
    "batch_size": On(3, f"{PREDICTOR}:_split(step)", at_most(3)),
    "device": On("cpu", f"{PREDICTOR}:choose_device(name)"),
    "compile": On(True, f"{PREDICTOR}:Compiled(device)", anything),
}
COMPILED = {f"{PREDICTOR}:Compiled": eager}
WEIGHTS = {
    "dilations": On([2, 3, 5], "posewarper.models.folding:FoldedWarper.warp.dilations"),
}
OF_WEIGHTS = {"dilations": [1, 2, 4], "crop_wh": [96, 128]}


def predict_cases(root: Path, out: Path) -> list[Case]:
    command, people = "posewarper.streaming.command", "posewarper.streaming.people"
    stream, windows = "posewarper.streaming.pipeline", "posewarper.streaming.windows:Windows"
    detector = "posewarper.streaming.choices:person_detector"
    last_pose = "posewarper.streaming.boxes:LastPose"
    boxes = "posewarper.streaming.box_files"
    base = {"video": root / "train", "out": out / "plain.json", "model": root / "0.pt"}
    from_file = {**base, "box_file": root / "train.json"}
    detected = {**base, "box_file": root / "boxes-train.json"}
    stubs = {
        f"{command}:BoxTracker": Numbers,
        "posewarper.streaming.choices:person_detector": see_nobody,
    }
    scored = f"{people}:Finisher.scoring"
    return [
        Case(
            {
                "video": On(root / "val", f"{stream}:_read(source)", is_video(root / "val")),
                "out": On(out / "poses.json", exists(out / "poses.json"), True),
                "model": On(root / "1.pth", "posewarper.models.pose_model:read_content(path)"),
                "window": On(
                    "paper", "posewarper.streaming.poses:WindowPoses.window", is_window("paper")
                ),
                "box_file": On(root / "val.json", f"{boxes}:load_labels(path)"),
                "smooth": On(True, f"{people}:Finisher.smoother", anything),
                "min_cutoff": On(0.25, f"{people}:Finisher.smoother.min_cutoff"),
                "beta": On(3.5, f"{people}:Finisher.smoother.beta"),
                "format": On("coco", kind(out / "poses.json"), lambda found: found is list),
                "overlay": On(out / "film.mp4", exists(out / "film.mp4"), True),
                "every": On(2, f"{windows}.options.every"),
                "fps": On(10.0, "posewarper.streaming.overlay:VideoWriter(fps)", 5.0),
                "missing": On("skip", f"{windows}.options.missing"),
                "keep_partial": On(True, f"{windows}.options.keep_partial"),
                "nms": On(0.85, f"{people}:oks_nms(threshold)"),
                "sigmas": On(0.07, f"{people}:oks_nms(sigmas)", [0.07] * 17),
                "rescore": On("joints", f"{scored}.person_score"),
                "weigh_joints": On(False, f"{scored}.weigh_joints"),
                "hold": On(3, "posewarper.streaming.boxes:hold_boxes(hold)"),
                "skeleton": On(
                    "posetrack", "posewarper.inference.loading:find_skeleton(name_or_file)"
                ),
                "crop_wh": On([64, 96], "posewarper.streaming.poses:crop(out_wh)"),
                "progress": On(False, f"{stream}:progress_bar(shown)"),
                **NETWORK,
                **WEIGHTS,
            },
            {**from_file, "model": root / "0.pth", **OF_WEIGHTS},
            COMPILED,
        ),
        Case(
            {
                "boxes": On("frame", f"{stream}:_Work.find", lambda f: type(f) is WholeFrame),
                "causal": On(True, "posewarper.streaming.poses:WindowPoses.window", is_past),
                "start": On(2, f"{windows}.start"),
                "frames": On(2, f"{windows}.end", anything),
            },
            base,
            stubs,
        ),
        Case(
            {
                "mode": On("single", "posewarper.streaming.poses:WindowPoses.aggregates", False),
                "start_box": On(
                    [22, 10, 40, 50],
                    "posewarper.streaming.boxes:FixedBoxes(boxes)",
                    [[22, 10, 40, 50]],
                ),
                "lost_below": On(-1.0, f"{last_pose}.lost_below"),
            },
            {**base, "start_box": [20, 10, 40, 50]},
        ),
        Case({"detect_every": On(7, f"{last_pose}.again")}, base, stubs),
        Case(
            {"deinterlace": On(True, "posewarper.streaming.sources:VideoFile.deinterlace")},
            {**base, "video": root / "clip.mp4", "boxes": "frame"},
        ),
        Case(
            {
                "track": On(True, f"{people}:Finisher.tracker", anything),
                "box_threshold": On(
                    0.75,
                    f"{boxes}:load_detections(threshold)",
                    also=(f"{people}:Finisher.tracker.threshold",),
                ),
            },
            detected,
            stubs,
        ),
        Case(
            {
                "detector": On("ssdlite320_mobilenet_v3_large", f"{detector}(name)"),
                "detector_weights": On(root / "0.pth", f"{detector}(weights)"),
                "box_threshold": On(0.75, f"{detector}(threshold)"),
            },
            {**base, "boxes": "detector"},
            stubs,
        ),
        Case(
            {
                "on_error": On("stop", "posewarper.streaming.many:_one(on_error)"),
                "merge": On(out / "all.json", exists(out / "all.json"), True),
            },
            {**base, "video": root / "videos/*", "out": out / "many", "boxes": "frame"},
        ),
    ]


def aggregate_cases(root: Path, out: Path) -> list[Case]:
    job = "posewarper.inference.aggregation"
    writing = "posewarper.prediction:write_predictions"
    base = {
        "annotations": root / "train.json",
        "out": out / "plain.json",
        "model": root / "0.pt",
        "images": root / "data",
    }
    return [
        Case(
            {
                "annotations": On(root / "val.json", "posewarper.prediction:load_frames(path)"),
                "out": On(out / "poses.json", exists(out / "poses.json"), True),
                "model": On(root / "1.pth", "posewarper.models.pose_model:read_content(path)"),
                "images": On(root / "same", "posewarper.prediction:FrameSource(root)"),
                "boxes": On(
                    root / "detected-val.json", "posewarper.data.given_boxes:load_detections(path)"
                ),
                "box_threshold": On(0.5, "posewarper.data.given_boxes:load_detections(threshold)"),
                "window": On(
                    "paper", f"{PREDICTOR}:PosePredictor.aggregate(window)", is_window("paper")
                ),
                "nms": On(0.85, f"{job}:oks_nms(threshold)"),
                "sigmas": On(0.07, f"{job}:oks_nms(sigmas)", [0.07] * 17),
                "rescore": On(
                    "joints",
                    f"{job}:_Found.as_dataset(scoring)",
                    lambda s: s.person_score == "joints",
                ),
                "weigh_joints": On(
                    False, f"{job}:_Found.as_dataset(scoring)", lambda s: not s.weigh_joints
                ),
                "format": On("coco", kind(out / "poses.json"), lambda found: found is list),
                "missing": On("nearest", "posewarper.prediction:FrameSource.missing"),
                "workers": On(1, f"{job}:DataLoader.num_workers"),
                "skeleton": On(
                    "posetrack", "posewarper.inference.loading:find_skeleton(name_or_file)"
                ),
                "crop_wh": On([64, 96], f"{job}:Windows(crop_wh)"),
                "progress": On(False, f"{job}:progress_bar(shown)"),
                **NETWORK,
                **WEIGHTS,
            },
            {**base, "model": root / "0.pth", **OF_WEIGHTS, "boxes": root / "detected-train.json"},
            COMPILED,
        ),
        Case(
            {
                "mode": On("both", exists(out / "both" / "single"), True),
                "hold": On(3, f"{job}:hold_boxes(hold)"),
                "nms": On(0.85, f"{job}:soft_oks_nms(threshold)"),
                "soft_nms": On(True, f"{job}:soft_oks_nms(threshold)", anything),
                "format": On("posetrack18", f"{writing}(format)"),
                "neck": On("shoulder_midpoint", f"{writing}(neck)"),
                "dummy_people": On(True, f"{writing}(dummy_people)"),
            },
            {**base, "out": out / "both"},
        ),
    ]


def propagation(root: Path, out: Path) -> tuple[dict[str, On], dict[str, On], dict[str, On]]:
    """What propagate and augment share: with the model's warp, with the network alone, and
    without a network.
    """
    warp, flow = "posewarper.inference.warping", "posewarper.inference.baselines"
    targets = "posewarper.inference.propagation:targets_of"
    make = "posewarper.inference.propagation"
    first = {
        "labels": On(
            root / "sparse-val.json",
            f"{make}:Propagator.__call__(dataset)",
            lambda d: d.source.endswith("sparse-val.json"),
        ),
        "out": On(out / "labels.json", exists(out / "labels.json"), True),
        "model": On(root / "1.pt", "posewarper.models.pose_model:read_content(path)"),
        "images": On(root / "same", "posewarper.prediction:FrameSource(root)"),
        "sources": On("both", f"{targets}(sources)"),
        "own_weight": On(0.4, f"{warp}:Warp.own_weight"),
        "neighbours": On(1, f"{warp}:Warp.neighbours"),
        "consistent": On(True, f"{warp}:Warp.consistent"),
        "fade": On(2, f"{warp}:Warp.fade", also=(f"{make}:WithFlow.reach",)),
        "rounded": On(True, f"{warp}:encode(rounded)"),
        "box": On("interpolated", f"{targets}(box)"),
        "follow": On(True, f"{make}:Follow.estimate", anything),
        "flow_weight": On(0.3, f"{make}:WithFlow.weight"),
        "preset": On("fast", f"{flow}:Flow.preset"),
        "distance": On(1, f"{targets}(distance)"),
        "leaving": On("halfway", f"{targets}(leaving)"),
        "threshold": On(0.001, "posewarper.inference.propagation:with_predictions(threshold)"),
        "missing": On("skip", "posewarper.prediction:FrameSource.missing"),
        "progress": On(False, "posewarper.inference.propagation:progress_bar(shown)"),
        **{n: NETWORK[n] for n in ("flip_test", "precision", "batch_size", "device")},
    }
    second = {"method": On("single", f"{warp}:Single.predictor", anything)}
    return first, second, {"method": On("flow", f"{flow}:Flow.__call__(targets)", anything)}


def spread_from(root: Path, out: Path) -> dict[str, Path]:
    """What propagate and augment need besides."""
    return {
        "labels": root / "sparse-train.json",
        "out": out / "plain.json",
        "model": root / "0.pt",
        "images": root / "data",
    }


def propagate_cases(root: Path, out: Path) -> list[Case]:
    first, *methods = propagation(root, out)
    base = spread_from(root, out)
    written = {
        "format": On("coco", kind(out / "labels.json"), lambda found: found is list),
        "truth": On(
            root / "val.json",
            "posewarper.prediction:write_predictions(truth)",
            lambda t: t.source.endswith("val.json"),
        ),
        "repredict": On(True, "posewarper.inference.propagation:targets_of(repredict)"),
    }
    return [Case({**first, **written}, base), *(Case(method, base) for method in methods)]


def augment_cases(root: Path, out: Path) -> list[Case]:
    first, *methods = propagation(root, out)
    base = spread_from(root, out)
    return [Case(first, base), *(Case(method, base) for method in methods)]


def is_video(path: Path):
    return lambda source: source.path == path


def is_window(name: str):
    return lambda window: window.used() == WINDOWS[name].used()


def is_past(window) -> bool:
    return max(window.deltas) == 0


TABLE: dict[str, Cases] = {
    "predict": predict_cases,
    "aggregate": aggregate_cases,
    "propagate": propagate_cases,
    "augment": augment_cases,
}


@pytest.mark.parametrize("command", TABLE)
def test_every_option_arrives(command, root, tmp_path, monkeypatch, capfd):
    check(command, TABLE[command], root, tmp_path, monkeypatch, capfd)
