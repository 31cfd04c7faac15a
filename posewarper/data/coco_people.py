"""The people of a COCO-style file as columns: frames, boxes, key points, scores, tracks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from posewarper.data.categories import Joints
from posewarper.data.entries import (
    FARTHEST,
    Place,
    column,
    id_key,
    id_keys,
    ids,
    ids_of_tracks,
    listing,
    places,
    shown,
    text,
    whole,
    whole_column,
)
from posewarper.data.tables import Floats, Ints, People

_NO_HEAD = [float("nan")] * 4
_NO_BOX = [0.0] * 4


def read_people(
    annotations: Sequence[Mapping[str, Any]],
    row_of: Mapping[Hashable, int],
    joints: Joints,
    source: str,
) -> tuple[People, dict[int, str]]:
    """The people, and the names of their tracks where these are no numbers."""

    def values(name: str) -> list[Any]:
        return [annotation.get(name) for annotation in annotations]

    def place(name: str) -> Place:
        return places("annotation", annotations, name, source)

    if not any("id" in annotation for annotation in annotations):  # predictions have none
        annotations = [{**annotation, "id": i} for i, annotation in enumerate(annotations, 1)]
    for row, annotation in enumerate(annotations):
        if "id" not in annotation or "image_id" not in annotation:
            raise ValueError(
                f"{source}: annotation {annotation.get('id', f'number {row}')} lacks 'id' or "
                "'image_id'"
            )
    of_image = id_keys(values("image_id"), place("image_id"))
    try:
        frame = [row_of[own] for own in of_image]
    except KeyError:
        row = next(row for row, own in enumerate(of_image) if own not in row_of)
        raise ValueError(
            f"{source}: annotation {annotations[row]['id']} belongs to image {of_image[row]}, "
            "which is missing"
        ) from None
    boxes = column([box or _NO_BOX for box in values("bbox")], place("bbox"), width=4, missing=True)
    own_area = (boxes[:, 2] * boxes[:, 3]).tolist()
    areas = [
        own if area is None else area for area, own in zip(values("area"), own_area, strict=True)
    ]
    points = _read_keypoints(values("keypoints"), joints, source, annotations)
    scores = _joint_scores(annotations, joints, source)
    # Files of predictions may have the confidence of a joint in place of its visibility.
    predicted = np.asarray(np.isfinite(scores).any(1, keepdims=True))
    confidence = predicted & (points[..., 2] > 0) & (points[..., 2] < 1)
    points[confidence, 2] = 1.0
    crowds = values("iscrowd")
    tracks, names = _read_tracks(values("track_id"), place("track_id"))
    people = People.make(
        frame,
        points,
        boxes,
        area=column(areas, place("area"), high=FARTHEST**2, missing=True),
        head_box=_head_boxes(annotations, place),
        track_id=tracks,
        annotation_id=ids(id_keys(values("id"), place("id"))),
        crowd=[bool(crowd) for crowd in crowds],
        joint_scores=scores,
        score=column(
            [np.nan if score is None else score for score in values("score")],
            place("score"), missing=True,
        ),
    )  # fmt: skip
    return people, names


def _read_keypoints(
    listed: Sequence[Any],
    joints: Joints,
    source: str,
    annotations: Sequence[Mapping[str, Any]],
) -> Floats:
    """Key points [P, J, 3] of the skeleton, of lists that may hold others and in another order."""
    whole_size = len(joints.skeleton)
    points = np.zeros((len(listed), whole_size, 3))
    for rows, count, slots in joints.kinds:
        none = [0.0] * (3 * count)
        some = range(len(listed)) if rows is None else rows
        values = [listed[row] or none for row in some]

        def place(row: int, some: Sequence[int] = some) -> str:
            return places("annotation", annotations, "keypoints", source)(some[row])

        for i, value in enumerate(values):
            if len(listing(value, place(i)) if type(value) is not list else value) != 3 * count:
                raise ValueError(
                    f"{source}: annotation {annotations[some[i]]['id']} has {len(value)} numbers "
                    f"in 'keypoints', expected 3 * {count}"
                )
        found = column(values, place, width=3 * count, missing=True).reshape(-1, count, 3)
        unlabelled = (found[..., 2] == 0) | np.isnan(found).all(2)  # they may be null
        found[unlabelled & np.isnan(found).any(2)] = 0.0
        if rows is None and slots == [(i, i) for i in range(whole_size)] and count == whole_size:
            return found
        from_file, to_joint = [a for a, _ in slots], [b for _, b in slots]
        points[np.array(some, np.int64)[:, None], to_joint] = found[:, from_file]
    return points


def _joint_scores(annotations: Sequence[Mapping[str, Any]], joints: Joints, source: str) -> Floats:
    """``scores`` [P, J], the list that PoseTrack18 has (empty in its labels); null is NaN."""
    scores = np.full((len(annotations), len(joints.skeleton)), np.nan)
    for rows, count, slots in joints.kinds:
        some = range(len(annotations)) if rows is None else rows
        given = [row for row in some if annotations[row].get("scores")]

        def place(i: int, given: Sequence[int] = given) -> str:
            return places("annotation", annotations, "scores", source)(given[i])

        if not given:
            continue
        for row in given:
            numbers = annotations[row]["scores"]
            if not isinstance(numbers, list) or len(numbers) != count:
                got = f"{len(numbers)} numbers" if isinstance(numbers, list) else shown(numbers)
                raise ValueError(
                    f"{source}: annotation {annotations[row]['id']} has {got} in 'scores', "
                    f"expected {count}"
                )
        found = column(
            [annotations[row]["scores"] for row in given], place, width=count, missing=True
        )
        from_file, to_joint = [a for a, _ in slots], [b for _, b in slots]
        scores[np.array(given, np.int64)[:, None], to_joint] = found[:, from_file]
    return scores


def _read_tracks(values: Sequence[Any], place: Callable[[int], str]) -> tuple[Ints, dict[int, str]]:
    """Ids of tracks, -1 for people without one (absent, null, or negative as some tools write it),
    and their names, if not all are numbers.
    """
    if all(type(value) is int for value in values):
        whole_column(values, place, -(2**63))
        return np.maximum(np.array(values, np.int64), -1), {}
    found = [None if v is None or v == "" else id_key(v, place(i)) for i, v in enumerate(values)]
    if all(track is None or isinstance(track, int) for track in found):
        numbers = [-1 if track is None else max(int(track), -1) for track in found]  # type: ignore[call-overload]
        return np.array(whole_column(numbers, place, -1), np.int64), {}
    names = ids_of_tracks([str(track) for track in found if track is not None])
    of_name = {name: track for track, name in names.items()}
    return np.array([-1 if t is None else of_name[str(t)] for t in found], np.int64), names


def names_of_tracks(data: Mapping[str, Any], source: str) -> dict[int, str]:
    """``tracks``, the table that files have whose tracks have names."""
    table = data.get("tracks")
    if not isinstance(table, list) or not all(
        isinstance(track, dict) and {"id", "name"} <= set(track) for track in table
    ):
        return {}  # other tools may call something else so
    place = f"{source}: 'tracks'"
    names = {whole(track["id"], place): text(track["name"], place) for track in table}
    if len({*names.values()}) != len(table):
        raise ValueError(f"{place}: expected different ids and names")
    return names


def _head_boxes(annotations: Sequence[Mapping[str, Any]], place: Callable[[str], Place]) -> Floats:
    """Corners from ``head_box`` (corners, 2019) or ``bbox_head`` (x, y, w, h, PoseTrack18)."""
    corners = column(
        [annotation.get("head_box") or _NO_HEAD for annotation in annotations],
        place("head_box"), width=4, missing=True,
    )  # fmt: skip
    sizes = [a.get("bbox_head") if not a.get("head_box") else None for a in annotations]
    if any(sizes):
        boxes = column(
            [size or _NO_HEAD for size in sizes], place("bbox_head"), width=4, missing=True
        )
        boxes[:, 2:] += boxes[:, :2]
        some = np.array([bool(size) for size in sizes])
        corners[some] = boxes[some]
    return corners
