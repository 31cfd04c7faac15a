"""What the options of ``predict`` stand for, and which of them do not go together."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from posewarper.inference.holding import check_hold
from posewarper.models import WINDOWS, PoseSpec, Window
from posewarper.skeleton import COCO, POSETRACK
from posewarper.streaming.box_files import has_detections, load_boxes
from posewarper.streaming.boxes import (
    Detected,
    Finder,
    FixedBoxes,
    FromFile,
    HeldBoxes,
    LastPose,
    Somewhere,
    WholeFrame,
)
from posewarper.streaming.detector import DetectorName, person_detector
from posewarper.streaming.sources import Source

log = logging.getLogger("posewarper.streaming")

Box = tuple[float, float, float, float]  # x, y, width, height in pixels
BoxesFrom = Literal["file", "detector", "last-pose", "frame"]

BOX_THRESHOLD, LOST_BELOW, DETECT_EVERY = 0.5, 0.2, 30
DETECTOR: DetectorName = "fasterrcnn_mobilenet_v3_large_320_fpn"


@dataclass(frozen=True)
class BoxOptions:
    """Where people are; see ``predict`` for what each option means.

    Raises:
        ValueError: options that do not go together, or are out of their range.
    """

    boxes: BoxesFrom | None
    box_file: Path | None
    start_box: list[Box] | None
    box_threshold: float
    lost_below: float
    detector: DetectorName
    detector_weights: Path | None
    detect_every: int
    track: bool
    smooth: bool

    def __post_init__(self) -> None:
        if self.boxes not in (None, *get_args(BoxesFrom)):
            raise ValueError(
                f"boxes: expected one of {', '.join(get_args(BoxesFrom))}, got {self.boxes!r}"
            )
        if not 0 <= self.box_threshold <= 1:
            raise ValueError(f"box_threshold: expected 0 to 1, got {self.box_threshold}")
        if self.detect_every < 1:
            raise ValueError(f"detect_every: expected 1 or more, got {self.detect_every}")
        given = self.start_box is not None or self.box_file is not None
        if self.kind == "last-pose" and given and self.detect_every != DETECT_EVERY:
            raise ValueError(
                "detect_every: goes with a detector or a search; boxes that are given count "
                "whenever there are some"
            )
        if self.kind != "last-pose":
            for name, value, default in (
                ("lost_below", self.lost_below, LOST_BELOW),
                ("detect_every", self.detect_every, DETECT_EVERY),
            ):
                if value != default:
                    raise ValueError(f"{name}: goes with boxes last-pose, got {self.kind!r}")
        if self.kind in ("file", "frame") or self.box_file is not None or self.start_box:
            self._refuse_detector(f"boxes {self.kind!r} from what is given ask none")
        if self.kind == "frame" or self.start_box:
            self._refuse_threshold("no boxes have scores here")
        if self.box_file is not None and self.kind not in ("file", "last-pose"):
            raise ValueError(f"box_file: goes with boxes file and last-pose, got {self.kind!r}")
        if self.box_file is None and self.kind == "file":
            raise ValueError("box_file: boxes 'file' needs one, got none")
        if self.start_box is not None and (self.kind != "last-pose" or self.box_file is not None):
            raise ValueError("start_box: goes with boxes last-pose without a box_file")
        if self.track and self.kind in ("last-pose", "frame"):
            raise ValueError(f"track: boxes {self.kind!r} have track ids already")
        if self.smooth and self.kind == "detector" and not self.track:
            raise ValueError("smooth: needs track ids; track gives them (or boxes last-pose)")

    @property
    def kind(self) -> BoxesFrom:
        """What was asked for, or a file if there is one, else the last pose."""
        given = self.box_file is not None and self.start_box is None
        return self.boxes or ("file" if given else "last-pose")

    def read(self, source: Source, model: PoseSpec) -> FromFile | None:
        """The boxes of the file, if there is one.

        Raises:
            ValueError: see ``load_boxes``; smoothing needs track ids, and it has none; tracking
                would replace those that it has.
        """
        if self.box_file is None:
            return None
        found = load_boxes(self.box_file, source, model, self.box_threshold)
        if self.smooth and self.kind == "file" and not (self.track or found.tracks):
            raise ValueError(
                f"smooth: needs track ids, which not everybody in {self.box_file} has; track gives "
                "them (or boxes last-pose)"
            )
        if not has_detections(self.box_file):
            self._refuse_threshold(f"those of {self.box_file} are labels, all of which count")
        if self.track and found.tracks:
            raise ValueError(f"track: everybody in {self.box_file} has a track id already")
        return found

    def finder(
        self, from_file: FromFile | None, model: PoseSpec, device: torch.device
    ) -> tuple[Finder, str]:
        """Who says where people are, and the same in words.

        Raises:
            ValueError: see ``person_detector`` and ``FixedBoxes``.
        """
        if self.kind == "frame":
            return WholeFrame(model), "the whole frame"
        if self.kind == "file" and from_file is not None:
            frames = len(from_file.places)
            return from_file, f"those of {self.box_file}, which has some in {frames} frames"
        by_detector = f"those of the detector {self.detector}"
        if self.kind == "detector":
            return self._detected(model, device), by_detector
        start: Finder
        if from_file is not None:
            start, why = from_file, f"those of {self.box_file}"
        elif self.start_box is not None:
            start, why = FixedBoxes(self.start_box, model), "start_box"
        elif any(model.skeleton.joints == known.joints for known in (POSETRACK, COCO)):
            start, why = self._detected(model, device), by_detector
        else:
            self._refuse_detector("the joints of this model are not those of people")
            self._refuse_threshold("no boxes have scores here")
            start, why = Somewhere(), "a search of the frame (for one person or animal)"
            trained_on = model.origin.get("people_per_frame")
            if isinstance(trained_on, int) and trained_on > 1:
                log.warning(
                    "boxes: the model has learned from up to %d people or animals in a frame, but "
                    "one is searched for. Say where they begin: --start_box "
                    "[[x,y,width,height],...], or --boxes last-pose --box_file with labels of the "
                    "first frame", trained_on,
                )  # fmt: skip
        find = LastPose(start, model, self.lost_below, self.detect_every)
        return find, f"around the last pose, beginning with {why}"

    def _refuse_detector(self, why: str) -> None:
        for name, value, default in (
            ("detector", self.detector, DETECTOR),
            ("detector_weights", self.detector_weights, None),
        ):
            if value != default:
                raise ValueError(f"{name}: goes with a detector, and {why}")

    def _refuse_threshold(self, why: str) -> None:
        if self.box_threshold != BOX_THRESHOLD and not self.track:
            raise ValueError(f"box_threshold: goes with boxes of a detector, and {why}")

    def _detected(self, model: PoseSpec, device: torch.device) -> Detected:
        detect = person_detector(self.detector, self.detector_weights, device, self.box_threshold)
        return Detected(detect, model)


def choose_window(
    model: PoseSpec,
    mode: str | None,
    name: str | None,
    causal: bool | None,
    live: bool,
    where: BoxOptions,
    from_file: FromFile | None,
    every: int,
) -> Window | None:
    """The window to aggregate over; None for single frames.

    Raises:
        ValueError: the mode or the window is not known, the model has no warp head, or wants boxes
            that nobody knows.
    """
    if mode not in (None, "aggregate", "single"):
        raise ValueError(f"mode: expected aggregate or single, got {mode!r}")
    if name is not None and name not in WINDOWS:
        raise ValueError(f"window: expected one of {', '.join(WINDOWS)}, got {name!r}")
    if mode is None:
        mode = "aggregate" if name or (model.warps and model.support_box == "key") else "single"
    if mode == "single":
        if name is not None:
            raise ValueError("window: goes with mode aggregate, got single")
        if causal:
            raise ValueError("causal: goes with mode aggregate; single frames wait for no other")
        return None
    model.check_window()
    knows_all = where.kind == "file" and from_file is not None and from_file.tracks
    if causal is None:
        causal = not model.window_fixed and (live or (model.support_box == "own" and not knows_all))
    window = model.window if name is None else WINDOWS[name]
    window = window.past() if causal else window
    model.check_window(window)
    if model.support_box == "own" and not knows_all:
        own = "mode: aggregate with this model (support_box own) needs each person's box in all"
        if where.kind not in ("last-pose", "frame"):
            raise ValueError(f"{own} frames: from a file with track ids, or last-pose; or single")
        if max(window.deltas) > 0 or every > 1:
            raise ValueError(f"{own} frames: without a file, causal windows of every frame")
    return window


def choose_hold(
    hold: int,
    where: BoxOptions,
    from_file: FromFile | None,
    model: PoseSpec,
    window: Window | None,
) -> tuple[FromFile | None, HeldBoxes | None]:
    """Who holds boxes over some frames: the boxes of a file are so in advance, those around the
    last pose as they come; the whole frame never changes.

    Raises:
        ValueError: boxes that cannot be held, or holding them would gain nothing.
    """
    check_hold(hold)
    if hold == 1:
        return from_file, None
    if window is None:
        raise ValueError("hold: goes with mode aggregate; single frames share nothing")
    if model.support_box == "own":
        raise ValueError(
            "hold: this model (support_box own) crops every frame of a window with a box of its "
            "own, so that windows share what they can in any case"
        )
    if where.kind == "detector":
        raise ValueError(
            "hold: boxes of a detector have no track ids, which say whose box is held; boxes file "
            "and last-pose have"
        )
    if where.kind == "file" and from_file is not None:
        return from_file.held(hold, model), None
    return from_file, HeldBoxes(hold, model) if where.kind == "last-pose" else None
