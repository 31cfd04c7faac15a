"""The ``posewarper`` command: one function per subcommand, which Python can call as well."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from json import dumps as json_text
from pathlib import Path
from typing import Any, Literal

import jsonargparse

from posewarper import evaluation
from posewarper.data import sparsify as sparse
from posewarper.data.annotations import load_coco, save_coco
from posewarper.data.posetrack import load_annotations, load_posetrack, save_posetrack
from posewarper.data.synthetic import Difficulty, write_dataset
from posewarper.data.tables import PoseDataset
from posewarper.data.video import FrameSource, fill_sizes
from posewarper.evaluation.results import Result
from posewarper.skeleton import POSETRACK, find_skeleton


def stats(annotations: Path, json: bool = False) -> dict[str, Any]:
    """Count videos, frames, people and labelled joints.

    Args:
        annotations: COCO-style file, or folder of official PoseTrack files.
        json: print JSON in place of a table.
    """
    numbers = sparse.statistics(load_annotations(annotations)).as_dict()
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
    to: Literal["coco", "posetrack17", "posetrack18"] = "coco",
    images: Path | None = None,
    renamed: bool = True,
) -> PoseDataset:
    """Convert annotations between the official PoseTrack formats and one COCO-style file.

    Args:
        source: folder of official PoseTrack17 or PoseTrack18 files, or a COCO-style file.
        out: file to write (coco), or folder of one file per video.
        to: format to write.
        images: folder that the frames' paths start in; read for the sizes of images, which
            PoseTrack17's files do not tell.
        renamed: PoseTrack17's frames have been renamed to eight digits, as the 2019 system wants.
    """
    if source.is_dir():
        dataset = load_posetrack(source, renamed=renamed)
    else:
        dataset = load_coco(source)
    if images is not None:
        dataset = fill_sizes(dataset, FrameSource(images))
    if to == "coco":
        save_coco(dataset, out)
    else:
        save_posetrack(dataset, out, to)
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
        seed: of the draws.
    """
    if every is not None and frames is not None:
        raise ValueError("every, frames: expected one of them, got both")
    if every is None and frames is None and videos is None:
        raise ValueError("expected at least one of every, frames and videos")
    dataset = load_annotations(annotations)
    if videos is not None:
        dataset = sparse.choose_videos(dataset, videos, seed)
    if every is not None:
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
    thresholds: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5),
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
    result: Result
    if metric == "posetrack":
        result = evaluation.evaluate_posetrack(truth, predictions, tracking=tracking)
        print(f"neck of the predictions: {result.neck or 'not stated'}")
    elif metric == "oks":
        result = evaluation.evaluate_oks(truth, predictions, skeleton=find_skeleton(skeleton))
    else:
        result = evaluation.compare_datasets(
            load_coco(truth), load_coco(predictions), lengths=lengths, thresholds=thresholds
        )
    print(result.table(per_joint).text())
    if out is not None:
        write = evaluation.write_json if out.suffix == ".json" else evaluation.write_csv
        write(result, out)
    return result


COMMANDS: dict[str, Any] = {
    "stats": stats,
    "convert": convert,
    "sparsify": sparsify,
    "synthesize": synthesize,
    "evaluate": evaluate,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; bad input gives one line on stderr and the exit status 2."""
    try:
        jsonargparse.auto_cli(
            COMMANDS,
            args=None if arguments is None else list(arguments),
            prog="posewarper",
            description=__doc__,
            as_positional=True,
        )
        sys.stdout.flush()
    except BrokenPipeError:  # "posewarper stats ... | head": the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("posewarper: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"posewarper: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
