"""Files of results of any length: kept beside the result while frames come, joined at the end.

The formats are those of ``save_coco``, ``save_labels`` and ``write_predictions``, which hold all in
memory; tests compare with what they write.

J joints.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, get_args

from posewarper.data.annotations import category_of
from posewarper.data.formats.label_file import track_label
from posewarper.data.tables import Video
from posewarper.evaluation.posetrack_files import NECK_KEY
from posewarper.files import whole_file
from posewarper.skeleton import POSETRACK, POSETRACK_EVAL, Skeleton
from posewarper.streaming.people import Result

Format = Literal["dataset", "coco", "posetrack18", "csv"]
Record = dict[str, Any]

_DECIMALS = 4  # of pixels
_SCORE_DECIMALS = 6


def choose_format(out: Path, format: Format | None, skeleton: Skeleton) -> Format:
    """The format that was asked for, or the one that the file's name ends in.

    Raises:
        ValueError: it is not known, does not go with the ending, or needs joints that the skeleton
            does not have.
    """
    suffix = out.suffix.lower()
    if format is None:
        format = "csv" if suffix == ".csv" else "dataset"
    if format not in get_args(Format):
        raise ValueError(f"format: expected one of {', '.join(get_args(Format))}, got {format!r}")
    wanted = ".csv" if format == "csv" else ".json"
    if suffix != wanted:
        raise ValueError(f"out: format {format!r} wants a name that ends in {wanted}, got {out}")
    lacking = [joint for joint in POSETRACK_EVAL.joints if joint not in skeleton.joints]
    if format == "posetrack18" and lacking:
        raise ValueError(
            f"format: posetrack18 needs joints that the model does not have: {', '.join(lacking)}"
        )
    return format


class ResultFile:
    """Takes results frame by frame; the file appears when ``finish`` was called, whole.

    A context manager. Memory does not grow with the number of results: they wait in a file of JSON
    lines beside ``path``, which is removed in any case.

    Args:
        path: file to write; its folder is made.
        format: see ``choose_format``.
        skeleton: the J joints.
    """

    def __init__(self, path: Path, format: Format, skeleton: Skeleton):
        self.path, self.format, self.skeleton = path, format, skeleton
        self._spool = path.with_name(f".{path.name}.{os.getpid()}.lines")

    def __enter__(self) -> ResultFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._spool, "w", encoding="utf-8")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # the disk may be full; whoever wrote was told
            self._file.close()
        self._spool.unlink(missing_ok=True)

    def add(self, result: Result) -> None:
        """One more frame.

        Raises:
            OSError: the disk is full; names the file.
        """
        with _naming(self.path):
            self._file.write(json.dumps(_record(result), allow_nan=False) + "\n")

    def finish(self, video: Video) -> None:
        """Write the file; ``video`` as the data set shall list it.

        Raises:
            OSError: it cannot be written; names it.
        """
        write: Callable[..., Iterator[str]] = {
            "dataset": _dataset,
            "coco": _coco_results,
            "posetrack18": _posetrack18,
            "csv": _table,
        }[self.format]
        with _naming(self.path):
            self._file.flush()
        with (
            _naming(self.path),
            whole_file(self.path) as partial,
            open(partial, "w", newline="", encoding="utf-8") as file,
        ):
            for part in write(video, self.skeleton, self._records):
                file.write(part)

    def _records(self) -> Iterator[Record]:
        with open(self._spool, encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Of a full disk the system does not say which file did not fit."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _record(result: Result) -> Record:
    return {
        "number": result.number,
        "file_name": result.file_name,
        "size_wh": list(result.size_wh),
        "people": [
            {
                "keypoints": result.keypoints[row].round(_DECIMALS).tolist(),
                "scores": result.joint_scores[row].round(_SCORE_DECIMALS).tolist(),
                "score": round(float(result.score[row]), _SCORE_DECIMALS),
                "bbox": result.bbox[row].round(_DECIMALS).tolist(),
                "track_id": int(result.track_id[row]),
            }
            for row in range(len(result))
        ],
    }


def _dataset(
    video: Video, skeleton: Skeleton, records: Callable[[], Iterator[Record]]
) -> Iterator[str]:
    """COCO-style, as ``save_coco`` writes it."""
    listed = {
        "id": 1,
        "name": video.name,
        "nframes": video.frame_count,
        "first_frame": video.first_frame,
        "pattern": video.pattern,
        "path": video.path,
    }
    yield f'{{"videos": {_text([listed])}, "images": '
    yield from _array(
        {
            "id": _image_id(record, video),
            "file_name": record["file_name"],
            "width": record["size_wh"][0],
            "height": record["size_wh"][1],
            "video_id": 1,
            "frame_number": record["number"],
            "frame_id": record["number"],
            "nframes": video.frame_count,
            "is_labeled": bool(record["people"]),
            "ignore_regions_x": [],
            "ignore_regions_y": [],
        }
        for record in records()
    )
    yield ', "annotations": '
    yield from _array(
        {
            "id": number,
            "image_id": _image_id(record, video),
            "category_id": 1,
            "bbox": person["bbox"],
            "area": round(person["bbox"][2] * person["bbox"][3], _DECIMALS),
            "iscrowd": 0,
            "keypoints": [value for triple in person["keypoints"] for value in triple],
            "num_keypoints": sum(triple[2] > 0 for triple in person["keypoints"]),
            "track_id": person["track_id"],
            "head_box": [],
            "scores": person["scores"],
            "score": person["score"],
        }
        for number, (record, _, person) in enumerate(_people(records), 1)
    )
    yield f', "categories": {_text([category_of(skeleton)])}}}'


def _coco_results(
    video: Video, skeleton: Skeleton, records: Callable[[], Iterator[Record]]
) -> Iterator[str]:
    """A list of COCO keypoint results, whose third numbers are scores."""
    yield from _array(
        {
            "image_id": _image_id(record, video),
            "category_id": 1,
            "keypoints": [
                value
                for (x, y, visible), score in zip(
                    person["keypoints"], person["scores"], strict=True
                )
                for value in ((x, y, score) if visible else (0.0, 0.0, 0.0))
            ],
            "score": person["score"],
        }
        for record, _, person in _people(records)
    )


def _posetrack18(
    video: Video, skeleton: Skeleton, records: Callable[[], Iterator[Record]]
) -> Iterator[str]:
    """PoseTrack18's layout, with its 17 joints or the 15 of the evaluation."""
    names = POSETRACK.joints
    if not {*names} <= {*skeleton.joints}:
        names = POSETRACK_EVAL.joints
    columns = [skeleton.index(joint) for joint in names]
    tracked = all(person["track_id"] >= 0 for _, _, person in _people(records))
    yield '{"images": '
    yield from _array(
        {
            "id": _image_id(record, video),
            "frame_id": _image_id(record, video),
            "file_name": record["file_name"],
            "vid_id": PurePosixPath(record["file_name"]).parent.name.split("_")[0],
            "nframes": video.frame_count,
        }
        for record in records()
    )
    yield ', "annotations": '
    yield from _array(
        {
            "id": number,
            "image_id": _image_id(record, video),
            "category_id": 1,
            "track_id": person["track_id"] if tracked else place,
            "keypoints": [
                value
                for x, y, visible in (person["keypoints"][column] for column in columns)
                for value in (x, y, float(visible > 0))
            ],
            "scores": [person["scores"][column] for column in columns],
            "score": person["score"],
        }
        for number, (record, place, person) in enumerate(_people(records), 1)
    )
    category = {"supercategory": "person", "id": 1, "name": "person", "keypoints": list(names)}
    yield f', "categories": {_text([category])}, "{NECK_KEY}": "head_bottom"}}'


def _table(
    video: Video, skeleton: Skeleton, records: Callable[[], Iterator[Record]]
) -> Iterator[str]:
    """The plain table of ``data.formats``; frames without people have no row."""
    columns = [f"{joint}.{kind}" for joint in skeleton.joints for kind in ("x", "y", "score")]
    lines = _Lines()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(["video_path", "image", "frame_idx", "track", "instance.score", *columns])
    yield lines.last
    for record, _, person in _people(records):
        image = "" if video.is_file else record["file_name"]
        track = track_label(person["track_id"], {}) or ""
        cells: list[object] = []
        for (x, y, visible), score in zip(person["keypoints"], person["scores"], strict=True):
            cells += [x, y, score] if visible else ["", "", score]
        table.writerow([video.path, image, record["number"], track, person["score"], *cells])
        yield lines.last


class _Lines:
    """What ``csv.writer`` writes to."""

    last = ""

    def write(self, line: str) -> None:
        self.last = line


def _people(records: Callable[[], Iterator[Record]]) -> Iterator[tuple[Record, int, Record]]:
    """Frames, places in the frame from 0, and people."""
    for record in records():
        for place, person in enumerate(record["people"]):
            yield record, place, person


def _array(entries: Iterable[Record]) -> Iterator[str]:
    yield "["
    for place, entry in enumerate(entries):
        yield (", " if place else "") + _text(entry)
    yield "]"


def _text(value: object) -> str:
    return json.dumps(value, allow_nan=False)


def _image_id(record: Record, video: Video) -> int:
    """1 for the first frame of the video."""
    return int(record["number"]) - video.first_frame + 1
