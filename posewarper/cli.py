"""The ``posewarper`` command: one function per subcommand, which Python can call as well."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from json import dumps as json_text
from pathlib import Path
from typing import Any, Literal

import jsonargparse

from posewarper import __version__, evaluation
from posewarper.arguments import Parser
from posewarper.data import sparsify as sparse
from posewarper.data.annotations import save_coco
from posewarper.data.formats import (
    LabelFormat,
    load_labels,
    save_labels,
)
from posewarper.data.posetrack import save_posetrack
from posewarper.data.synthetic import Difficulty, write_dataset
from posewarper.data.tables import PoseDataset
from posewarper.data.video import FrameSource, fill_sizes
from posewarper.evaluation.results import Result
from posewarper.skeleton import POSETRACK, find_skeleton

_THRESHOLDS = (0.05, 0.1, 0.2, 0.5)


def stats(annotations: Path, json: bool = False) -> dict[str, Any]:
    """Count videos, frames, people and labelled joints.

    Args:
        annotations: COCO-style file, or folder of official PoseTrack files.
        json: print JSON in place of a table.
    """
    numbers = sparse.statistics(load_labels(annotations)).as_dict()
    if json:
        print(json_text(numbers, indent=2))
        return numbers
    visible = numbers["visible"]
    for name, value in numbers.items():
        if name != "visible":
            text = f"{100 * value:.1f} %" if name == "labelled_share" else f"{value:,}"
            print(f"{name.replace('_', ' '):<16} {text:>12}")
    print("labelled joints per person:")
    for joint, share in visible.items():
        print(f"  {joint:<14} {100 * share:>12.1f} %")
    return numbers


def convert(
    source: Path,
    out: Path,
    to: LabelFormat | Literal["posetrack17", "posetrack18"] | None = None,
    format: LabelFormat | None = None,
    video: Path | None = None,
    skeleton: str | None = None,
    images: Path | None = None,
    renamed: bool = True,
) -> PoseDataset:
    """Convert labels between PoseTrack's official files, COCO-style files and those of other tools.

    What each format keeps: docs/formats.md.

    Args:
        source: folder of official PoseTrack17 or PoseTrack18 files, or file or folder of any tool.
        out: file to write, or, for the PoseTrack formats, folder of one file per video.
        to: format to write; by default what the name of ``out`` ends in, else coco.
        format: of ``source``, where its name and content do not tell.
        video: the video file or folder of frames that the labels belong to, where they do not say.
        skeleton: posetrack, coco or a YAML file with the joints to take.
        images: folder that the frames' paths start in; read for the sizes of images, which
            PoseTrack17's files do not tell.
        renamed: PoseTrack17's frames have been renamed to eight digits, as the 2019 system wants.
    """
    joints = None if skeleton is None else find_skeleton(skeleton)
    dataset = load_labels(source, video=video, skeleton=joints, format=format, renamed=renamed)
    if images is not None:
        dataset = fill_sizes(dataset, FrameSource(images))
    if to is None and not out.suffix:
        to = "coco"
    if to == "posetrack17" or to == "posetrack18":
        save_posetrack(dataset, out, to)
    else:
        save_labels(dataset, out, format=to)
    print(f"{len(dataset.videos)} videos, {len(dataset.people)} people -> {out}")
    return dataset


def sparsify(
    annotations: Path,
    out: Path,
    every: int | None = None,
    offset: int = 0,
    frames: int | None = None,
    spread: Literal["even", "random"] = "even",
    videos: int | None = None,
    protocol: Literal["posetrack", "posetrack-truth"] | None = None,
    seed: int = 0,
) -> PoseDataset:
    """Make sparse labels from dense ones; frames that lose their label stay in the file.

    Args:
        annotations: COCO-style file, or folder of official PoseTrack files.
        out: COCO-style file to write.
        every: keep every k-th labelled frame of each video.
        offset: the first labelled frame that ``every`` keeps, from 0.
        frames: keep this many labelled frames of each video.
        spread: whether ``frames`` are spread evenly or drawn at random.
        videos: keep this many videos, drawn at random.
        protocol: posetrack: every 7th frame (or every ``every``-th) of the longest labelled run of
            each video, from its fourth frame on, as in the published evaluation of propagation;
            posetrack-truth: that whole run, against which the evaluation compares.
        seed: of the draws.
    """
    if frames is not None and (every is not None or protocol is not None):
        raise ValueError("every, protocol, frames: expected frames or the others, got both")
    if all(option is None for option in (every, frames, videos, protocol)):
        raise ValueError("expected at least one of every, frames, videos and protocol")
    if offset and every is None and protocol is None:
        raise ValueError(f"offset: goes with every, got {offset} without it")
    if protocol == "posetrack-truth" and every is not None:
        raise ValueError(f"every: protocol {protocol!r} keeps the whole run, got {every}")
    if spread != "even" and frames is None:
        raise ValueError(f"spread: goes with frames, got {spread!r} without them")
    if seed and videos is None and spread != "random":
        raise ValueError("seed: goes with videos and spread 'random'; nothing else is drawn")
    dataset = load_labels(annotations)
    if videos is not None:
        dataset = sparse.choose_videos(dataset, videos, seed)
    if protocol is not None:
        if offset:
            raise ValueError(f"offset: protocol {protocol!r} has its own, got {offset}")
        if protocol == "posetrack":
            dataset = sparse.posetrack_protocol(dataset, 7 if every is None else every)
        else:
            dataset = sparse.longest_runs(dataset)
    elif every is not None:
        dataset = sparse.every_kth(dataset, every, offset)
    if frames is not None:
        dataset = sparse.frames_per_video(dataset, frames, spread, seed)
    save_coco(dataset, out)
    left = sparse.statistics(dataset)
    print(
        f"{left.videos} videos, {left.labelled_frames} of {left.frames} frames labelled, "
        f"{left.people} people -> {out}"
    )
    return dataset


def synthesize(
    out: Path,
    train: int = 8,
    val: int = 2,
    frames: int = 60,
    width: int = 320,
    height: int = 240,
    people: int = 2,
    seed: int = 0,
    fps: float = 15.0,
    difficulty: Difficulty | None = None,
    video: bool = False,
    overwrite: bool = False,
) -> dict[str, PoseDataset]:
    """Render videos of moving people with complete ground truth.

    Args:
        out: folder to make.
        train: videos of the split "train".
        val: videos of the split "val"; 0 for none.
        frames: of each video.
        width: of the images in pixels.
        height: of the images in pixels.
        people: in each video.
        seed: of everything.
        fps: frames per second.
        difficulty: how fast people move, how much is blurred, defocused, hidden.
        video: write MP4 files in place of folders of images.
        overwrite: replace a data set that exists.
    """
    splits = {"train": train, "val": val}
    return write_dataset(
        out,
        videos={name: count for name, count in splits.items() if count},
        frames=frames,
        size_wh=(width, height),
        people=people,
        seed=seed,
        fps=fps,
        difficulty=difficulty,
        as_video=video,
        overwrite=overwrite,
    )


def evaluate(
    truth: Path,
    predictions: Path,
    metric: Literal["posetrack", "oks", "pck"] = "posetrack",
    tracking: bool = False,
    skeleton: str = POSETRACK.name,
    thresholds: tuple[float, ...] = _THRESHOLDS,
    lengths: Literal["head", "box", "extent"] = "head",
    per_joint: bool = False,
    out: Path | None = None,
) -> Result:
    """Compare predictions with ground truth.

    Args:
        truth: folder of official PoseTrack files (posetrack); COCO-style file (oks, pck).
        predictions: folder with a file of the same name for each video (posetrack); COCO keypoint
            results (oks); COCO-style file with the same frames and track ids (pck).
        metric: AP as the official evaluator of PoseTrack; AP as COCO; share of joints within
            a distance.
        tracking: with posetrack, also MOTA, MOTP, precision and recall of the tracks.
        skeleton: with oks, posetrack, coco or a YAML file with joints and sigmas.
        thresholds: with pck, distances as fractions of the length.
        lengths: with pck, what distances are divided by: 0.6 times the diagonal of the head box
            (PCKh), the larger side of the box, or of the labelled joints' extent.
        per_joint: print every joint.
        out: also write all numbers, as .json or .csv.
    """
    if out is not None and out.suffix not in (".json", ".csv"):
        raise ValueError(f"out: expected a name that ends in .json or .csv, got {out.name!r}")
    for option, value, default, of in (
        ("tracking", tracking, False, "posetrack"),
        ("skeleton", skeleton, POSETRACK.name, "oks"),
        ("thresholds", tuple(thresholds), _THRESHOLDS, "pck"),
        ("lengths", lengths, "head", "pck"),
    ):
        if value != default and metric != of:
            raise ValueError(f"{option}: goes with metric {of}, got {metric!r}")
    result: Result
    if metric == "posetrack":
        result = evaluation.evaluate_posetrack(truth, predictions, tracking=tracking)
        print(f"neck of the predictions: {result.neck or 'not stated'}")
    elif metric == "oks":
        result = evaluation.evaluate_oks(truth, predictions, skeleton=find_skeleton(skeleton))
    else:
        result = evaluation.compare_datasets(
            load_labels(truth), load_labels(predictions), lengths=lengths, thresholds=thresholds
        )
    print(result.table(per_joint).text())
    if out is not None:
        write = evaluation.write_json if out.suffix == ".json" else evaluation.write_csv
        write(result, out)
    return result


#: Where the functions of the subcommands are. Those that need PyTorch are imported on demand.
COMMANDS: dict[str, str] = {
    "demo": "posewarper.demonstration",
    "train": "posewarper.training",
    "fit": "posewarper.fitting",
    "suggest": "posewarper.inference.suggestion",
    "predict": "posewarper.streaming",
    "view": "posewarper.report.viewer",
    "propagate": "posewarper.prediction",
    "augment": "posewarper.prediction",
    "aggregate": "posewarper.prediction",
    "export": "posewarper.export",
    "evaluate": "posewarper.cli",
    "stats": "posewarper.cli",
    "convert": "posewarper.cli",
    "sparsify": "posewarper.cli",
    "synthesize": "posewarper.cli",
}


def command(name: str) -> Callable[..., Any]:
    """The function of a subcommand."""
    function: Callable[..., Any] = getattr(importlib.import_module(COMMANDS[name]), name)
    return function


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; bad input gives one line on stderr and the exit status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    wanted = given[:1] if given and given[0] in COMMANDS else list(COMMANDS)
    if given[:1] == ["--version"]:
        print(f"posewarper {__version__}")
        return 0
    warnings.formatwarning = _as_one_line
    logging.basicConfig(format="%(message)s")
    logging.getLogger("posewarper").setLevel(logging.INFO)
    try:
        jsonargparse.auto_cli(
            {name: command(name) for name in wanted},
            args=_with_recipes(given),
            prog="posewarper",
            description="Pose in video from a few labelled frames (PoseWarper, arXiv 1906.04016).",
            as_positional=True,
            parser_class=Parser,
        )
        sys.stdout.flush()
    except BrokenPipeError:  # "posewarper stats ... | head": the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("posewarper: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            text = f"{error.filename}: {error.strerror}"
        print(f"posewarper: error: {text}", file=sys.stderr)
        return 2
    return 0


def _as_one_line(
    message: Warning | str, category: object, filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as people read it: without the line of Python that it comes from."""
    return f"posewarper: warning: {message}\n"


def _with_recipes(arguments: list[str]) -> list[str]:
    """``train --config NAME`` with the file of the recipe of this name, unless NAME is a file."""
    if arguments[:1] != ["train"]:
        return arguments
    from posewarper.training import recipe_names, recipe_path

    known = recipe_names()
    changed = list(arguments)
    for place, argument in enumerate(arguments):
        option, equals, name = argument.partition("=")
        if option == "--config" and not equals and place + 1 < len(arguments):
            place, option, name = place + 1, "", arguments[place + 1]
        elif not (option == "--config" and equals):
            continue
        if name in known and not Path(name).exists():
            changed[place] = f"{option}{equals}{recipe_path(name)}"
        elif not Path(name).exists():
            raise ValueError(
                f"config: expected a YAML file or one of {', '.join(known)}, got {name!r}"
            )
    return changed


if __name__ == "__main__":
    sys.exit(main())
