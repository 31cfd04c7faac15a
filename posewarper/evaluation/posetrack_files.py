"""PoseTrack files of one video: ground truth and predictions of 2017 and 2018 as arrays.

Both layouts hold one video per file; a file says by its keys which it is. The 2017 layout names
joints by the numbers of ``POSETRACK_EVAL``, the 2018 layout by the names in its category. Writing
is in ``prediction_files``.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posewarper.files import visible
from posewarper.skeleton import POSETRACK_EVAL

JOINTS = len(POSETRACK_EVAL)
MISSING_SCORE = -9999.0  # what the official evaluator takes for a joint without a score
NO_TRACK = np.iinfo(np.int64).min
NECK_KEY = "neck_convention"  # our own key in written predictions; other readers ignore it


@dataclass(frozen=True, eq=False)
class VideoPoses:
    """The people of a video of T frames, P people in all frames together, sorted by frame.

    Attributes:
        name: the file's name without its ending.
        source: the file, for messages.
        layout: "posetrack17" or "posetrack18".
        frame_names: T image names as the file has them.
        listed: [T], whether the frame lists any people, be they without joints.
        frame: [P], the frame of each person, 0..T-1, ascending; in a frame as in the file.
        points: [P, 15, 2], x and y in pixels in the order of ``POSETRACK_EVAL``; NaN = no joint.
        scores: [P, 15], ``MISSING_SCORE`` where the file has none.
        track_id: [P], ``NO_TRACK`` where the file has none.
        head_size: [P], 0.6 times the diagonal of the head box in pixels; NaN without a head box.
        ignore_regions: for frames that have any, their polygons, each [K, 2] in pixels.
        neck: how joint 12 was made from 17 joints, if the file says so.
    """

    name: str
    source: str
    layout: str
    frame_names: tuple[str, ...]
    listed: NDArray[np.bool_]
    frame: NDArray[np.int64]
    points: NDArray[np.float64]
    scores: NDArray[np.float64]
    track_id: NDArray[np.int64]
    head_size: NDArray[np.float64]
    ignore_regions: Mapping[int, tuple[NDArray[np.float64], ...]]
    neck: str | None = None

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which joints each person has, [P, 15]."""
        return ~np.isnan(self.points[:, :, 0])

    def people(self, keep: NDArray[np.bool_]) -> VideoPoses:
        """Only the people where ``keep`` [P] is true."""
        return replace(
            self,
            frame=self.frame[keep],
            points=self.points[keep],
            scores=self.scores[keep],
            track_id=self.track_id[keep],
            head_size=self.head_size[keep],
        )

    def where(self, frame: int) -> str:
        """The file and a frame in it, for messages."""
        return f"{self.source}: frame {frame} ({self.frame_names[frame]})"


@dataclass
class _People:
    """Columns that grow while a file is read."""

    frame: list[int]
    points: list[Any]
    scores: list[Any]
    track_id: list[int]
    head_size: list[float]


def pair_files(
    truth_dir: str | Path, prediction_dir: str | Path, videos: Iterable[str] | None = None
) -> list[tuple[Path, Path]]:
    """Ground-truth files with their prediction files, which have the same names.

    Args:
        truth_dir: every ``*.json`` in it is the ground truth of a video.
        prediction_dir: may hold further files, which are ignored.
        videos: names without ``.json``: only these and in this order; None = all, sorted by name.

    Raises:
        ValueError: a folder does not exist, there is no ground truth, or a video of ``videos``
            has none, or videos have no predictions; lists them.
    """
    truth_dir, prediction_dir = Path(truth_dir), Path(prediction_dir)
    for what, folder in (("ground truth", truth_dir), ("predictions", prediction_dir)):
        if not folder.is_dir():
            raise ValueError(f"{what}: {folder} is not a folder")
    if videos is None:
        truths = visible(truth_dir.glob("*.json"))
    else:
        truths = [truth_dir / f"{name}.json" for name in videos]
    if not truths:
        raise ValueError(f"ground truth: {truth_dir} has no file *.json")
    pairs = [(truth, prediction_dir / truth.name) for truth in truths]
    for what, index in (("ground truth", 0), ("predictions", 1)):
        missing = [pair[index].name for pair in pairs if not pair[index].is_file()]
        if missing:
            listed = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
            raise ValueError(
                f"{what}: {pairs[0][index].parent} lacks {len(missing)} of {len(pairs)} videos: "
                f"{listed}"
            )
    return pairs


def read_video(path: str | Path) -> VideoPoses:
    """Read ground truth or predictions of one video in either layout.

    Raises:
        ValueError: no valid JSON, or not in one of the two layouts; unknown or missing joints,
            frames or images; duplicate ids; coordinates or scores that are not finite. Names the
            file and the frame or id.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no valid JSON: {error}") from None
    if isinstance(data, dict) and "annolist" in data:
        layout, read = "posetrack17", _read_2017
    elif isinstance(data, dict) and "images" in data:
        layout, read = "posetrack18", _read_2018
    else:
        raise ValueError(
            f"{path}: expected an object with 'annolist' (PoseTrack17) or 'images' (PoseTrack18)"
        )
    people = _People([], [], [], [], [])
    try:
        names, listed, regions = read(data, str(path), people)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: not in the layout {layout}: {reason}") from error
    order = np.argsort(np.array(people.frame, np.int64), kind="stable")
    neck = data.get(NECK_KEY)
    poses = VideoPoses(
        path.stem,
        str(path),
        layout,
        tuple(names),
        np.array(listed, bool),
        np.array(people.frame, np.int64)[order],
        np.array(people.points, np.float64).reshape(-1, JOINTS, 2)[order],
        np.array(people.scores, np.float64).reshape(-1, JOINTS)[order],
        np.array(people.track_id, np.int64)[order],
        np.array(people.head_size, np.float64)[order],
        regions,
        neck if isinstance(neck, str) else None,
    )
    wrong = np.isinf(poses.points).any(-1) | ~np.isfinite(poses.scores)
    if wrong.any():
        person, joint = np.argwhere(wrong)[0]
        x, y = poses.points[person, joint]
        raise ValueError(
            f"{poses.where(int(poses.frame[person]))}: {POSETRACK_EVAL.joints[joint]} is not "
            f"finite: x {x}, y {y}, score {poses.scores[person, joint]}"
        )
    return poses


def _scalar(value: Any, where: str, key: str) -> Any:
    """A number that the 2017 layout wraps in a list of one."""
    if isinstance(value, list):
        if len(value) != 1:
            raise ValueError(f"{where}: '{key}' must be one number or a list of one, got {value}")
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}: '{key}' must be a number, got {value!r}")
    return value


def _points_2017(points: Any, where: str) -> tuple[list[list[float]], list[float]]:
    """Coordinates and scores of one person in the order of ``POSETRACK_EVAL``."""
    xy = [[np.nan, np.nan]] * JOINTS
    scores = [MISSING_SCORE] * JOINTS
    seen: set[int] = set()
    for point in points or ():
        try:
            if point["id"] in (None, []):
                continue  # official ground truth has such points; nobody reads them
            joint = _scalar(point["id"], where, "id")
            if joint not in range(JOINTS):
                raise ValueError(f"{where}: joint id {joint}; expected 0..{JOINTS - 1}")
            if joint in seen:
                raise ValueError(f"{where}: joint id {joint} appears twice for one person")
            seen.add(joint)
            x, y = _scalar(point["x"], where, "x"), _scalar(point["y"], where, "y")
        except (KeyError, TypeError):
            raise ValueError(f"{where}: a point needs 'id', 'x' and 'y', got {point!r}") from None
        if x != x or y != y:
            raise ValueError(f"{where}: joint id {joint} is not finite: x {x}, y {y}")
        joint = int(joint)
        xy[joint] = [x, y]
        if "score" in point:
            scores[joint] = _scalar(point["score"], where, "score")
    return xy, scores


def _read_2017(
    data: Mapping[str, Any], source: str, people: _People
) -> tuple[list[str], list[bool], dict[int, tuple[NDArray[np.float64], ...]]]:
    names, listed, regions = [], [], {}
    for frame, element in enumerate(data["annolist"]):
        try:
            image = element["image"]
            name = (image[0] if isinstance(image, list) else image)["name"]
            rectangles = element["annorect"] or []
        except (KeyError, IndexError, TypeError):
            raise ValueError(
                f"{source}: frame {frame}: needs 'image' with a name and the list 'annorect'"
            ) from None
        where = f"{source}: frame {frame} ({name})"
        names.append(str(name))
        listed.append(len(rectangles) > 0)
        for rectangle in rectangles:
            annotated = rectangle.get("annopoints")
            first = annotated[0] if isinstance(annotated, list) and annotated else annotated
            if not first or "point" not in first:
                continue  # a person without joints counts nowhere
            xy, scores = _points_2017(first["point"], where)
            people.frame.append(frame)
            people.points.append(xy)
            people.scores.append(scores)
            track = rectangle.get("track_id")
            people.track_id.append(NO_TRACK if track is None else _track(track, where))
            corners = [rectangle.get(key) for key in ("x1", "y1", "x2", "y2")]
            if any(corner is None for corner in corners):
                people.head_size.append(np.nan)
            else:
                x1, y1, x2, y2 = (_scalar(c, where, "x1, y1, x2, y2") for c in corners)
                people.head_size.append(0.6 * float(np.linalg.norm((x2 - x1, y2 - y1))))
        polygons = []
        for region in element.get("ignore_regions") or ():
            points = region.get("point") or ()
            polygons.append([[_scalar(p[k], where, k) for k in ("x", "y")] for p in points])
        if polygons:
            regions[frame] = tuple(np.array(p, np.float64).reshape(-1, 2) for p in polygons)
    return names, listed, regions


def _track(value: Any, where: str) -> int:
    track = _scalar(value, where, "track_id")
    if track != int(track):
        raise ValueError(f"{where}: track id {track} is not a whole number")
    return int(track) if track >= 0 else NO_TRACK  # some tools write -1 for people without one


def _duplicate(ids: Sequence[Any]) -> Any:
    """The first id that appears twice; None where all differ."""
    if len(set(ids)) == len(ids):
        return None
    return next(value for value, count in Counter(ids).items() if count > 1)


def _columns_2018(data: Mapping[str, Any], source: str) -> tuple[list[int], int]:
    """For each joint of ``POSETRACK_EVAL`` its place in the file, and the file's joint count."""
    categories = data.get("categories")
    if not isinstance(categories, list) or len(categories) != 1:
        raise ValueError(f"{source}: expected one entry in 'categories'")
    names = categories[0].get("keypoints") or []
    missing = [joint for joint in POSETRACK_EVAL.joints if joint not in names]
    if missing or _duplicate(names) is not None:
        raise ValueError(
            f"{source}: the category's keypoints must be unique and hold the joints of PoseTrack; "
            f"missing {', '.join(missing) or 'none'}, got {', '.join(map(str, names))}"
        )
    return [names.index(joint) for joint in POSETRACK_EVAL.joints], len(names)


def _read_2018(
    data: Mapping[str, Any], source: str, people: _People
) -> tuple[list[str], list[bool], dict[int, tuple[NDArray[np.float64], ...]]]:
    columns, count = _columns_2018(data, source)
    images = data["images"]
    annotations = data.get("annotations")
    if not isinstance(annotations, list):
        raise ValueError(f"{source}: expected the list 'annotations'")
    for number, image in enumerate(images):
        if "id" not in image or "file_name" not in image:
            raise ValueError(f"{source}: image {number} needs 'id' and 'file_name'")
    for what, entries in (("image", images), ("annotation", annotations)):
        twice = _duplicate([entry["id"] for entry in entries if "id" in entry])
        if twice is not None:
            raise ValueError(f"{source}: {what} id {twice} appears twice")
    names = [str(image["file_name"]) for image in images]
    folders = sorted({str(PurePosixPath(name).parent) for name in names})
    if len(folders) > 1:
        raise ValueError(
            f"{source}: expected the frames of one video, got images of {', '.join(folders[:3])}"
        )
    position = {image["id"]: frame for frame, image in enumerate(images)}
    listed = [False] * len(images)
    for number, annotation in enumerate(annotations):
        image_id = annotation.get("image_id")
        where = f"{source}: annotation {annotation.get('id', f'number {number}')}"
        if image_id not in position:
            raise ValueError(f"{where} refers to image id {image_id}, which is not in 'images'")
        where = f"{where} (image id {image_id})"
        xy, scores = _points_2018(annotation, columns, count, where)
        people.frame.append(position[image_id])
        people.points.append(xy)
        people.scores.append(scores)
        track = annotation.get("track_id")
        people.track_id.append(NO_TRACK if track is None else _track(track, where))
        head = annotation.get("bbox_head")
        if head is None:
            people.head_size.append(np.nan)
        elif len(head) != 4:
            raise ValueError(f"{where}: 'bbox_head' must be [x, y, width, height], got {head}")
        else:
            # Corner minus corner, as the official tool has it: the last digits decide at the limit.
            size = (head[0] + head[2]) - head[0], (head[1] + head[3]) - head[1]
            people.head_size.append(0.6 * float(np.linalg.norm(size)))
        listed[position[image_id]] = True
    regions = {}
    for frame, image in enumerate(images):
        xs, ys = image.get("ignore_regions_x") or [], image.get("ignore_regions_y") or []
        if [len(x) for x in xs] != [len(y) for y in ys]:
            raise ValueError(
                f"{source}: image {image['id']}: ignore_regions_x and _y differ in their lengths"
            )
        if xs:
            regions[frame] = tuple(
                np.array([x, y], np.float64).T.reshape(-1, 2) for x, y in zip(xs, ys, strict=True)
            )
    return names, listed, regions


def _points_2018(
    annotation: Mapping[str, Any], columns: list[int], count: int, where: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates [15, 2] and scores [15] of one person."""
    keypoints = annotation.get("keypoints")
    if not isinstance(keypoints, list) or len(keypoints) != 3 * count:
        got = len(keypoints) if isinstance(keypoints, list) else keypoints
        raise ValueError(f"{where}: expected {3 * count} numbers in 'keypoints', got {got}")
    try:
        triples = np.array(keypoints, np.float64).reshape(count, 3)[columns]
    except (TypeError, ValueError):
        raise ValueError(f"{where}: 'keypoints' must be numbers, got {keypoints}") from None
    if not np.isfinite(triples).all():
        joint = POSETRACK_EVAL.joints[int(np.argwhere(~np.isfinite(triples))[0, 0])]
        raise ValueError(f"{where}: {joint} is not finite")
    xy = triples[:, :2]
    xy[~triples.any(1)] = np.nan  # all three zero: no joint
    scores = annotation.get("scores")
    if not scores:
        return xy, np.full(JOINTS, MISSING_SCORE)
    try:
        values = np.array(scores, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: 'scores' must be numbers, got {scores}") from None
    if values.shape != (count,):
        raise ValueError(f"{where}: expected {count} numbers in 'scores', got {len(scores)}")
    return xy, values[columns]


def check_frames(truth: VideoPoses, predicted: VideoPoses) -> None:
    """Check that both files are about the same frames, which are compared by their place.

    Raises:
        ValueError: another number of frames; or both are of the 2018 layout and an image has
            another file name. In other pairs of layouts, whose names differ between official files,
            a warning says so if the numbers in them differ.
    """
    if len(truth.frame_names) != len(predicted.frame_names):
        raise ValueError(
            f"{predicted.source}: {len(predicted.frame_names)} frames, but its ground truth "
            f"{truth.source} has {len(truth.frame_names)}"
        )
    strict = truth.layout == predicted.layout == "posetrack18"
    names = zip(truth.frame_names, predicted.frame_names, strict=True)
    for frame, (expected, got) in enumerate(names):
        if strict and PurePosixPath(expected).name != PurePosixPath(got).name:
            raise ValueError(
                f"{predicted.where(frame)}: the ground truth has {expected} in this place"
            )
        if not strict and _number(expected) != _number(got):
            warnings.warn(
                f"{predicted.where(frame)}: the ground truth has {expected} in this place; frames "
                "are compared by their place, so both files have to list the same ones",
                stacklevel=3,
            )
            return


def _number(name: str) -> int | None:
    """The last number in the name of an image, None if there is none."""
    found = re.findall(r"\d+", PurePosixPath(name).stem)
    return int(found[-1]) if found else None
