"""Small PoseTrack videos for tests, and a slow evaluator written from the rules alone."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from posewarper.skeleton import POSETRACK, POSETRACK_EVAL

Point = tuple[float, float, float | None]  # x, y, score
SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclass
class Person:
    points: dict[int, Point] = field(default_factory=dict)
    head: tuple[float, float, float, float] | None = (0, 0, 30, 40)  # corners; head size 30
    track: int | None = 0
    has_points: bool = True  # False: the 2017 layout without any 'annopoints'


@dataclass
class Frame:
    people: list[Person] = field(default_factory=list)
    ignore: list[list[tuple[float, float]]] = field(default_factory=list)


def person(x: float, y: float, *, joints: Sequence[int] = range(15), **more: Any) -> Person:
    """Joint i lies at (x + 10 i, y + 20 i)."""
    score = more.pop("score", None)
    return Person({i: (x + 10 * i, y + 20 * i, score) for i in joints}, **more)


def layout_2017(frames: Sequence[Frame]) -> dict[str, Any]:
    annolist = []
    for number, frame in enumerate(frames):
        people = []
        for item in frame.people:
            entry: dict[str, Any] = {}
            if item.has_points:
                points = []
                for joint, (x, y, score) in item.points.items():
                    points.append({"id": [joint], "x": [x], "y": [y]})
                    if score is not None:
                        points[-1]["score"] = [score]
                entry["annopoints"] = [{"point": points}]
            if item.head is not None:
                entry |= {k: [v] for k, v in zip(("x1", "y1", "x2", "y2"), item.head, strict=True)}
            if item.track is not None:
                entry["track_id"] = [item.track]
            people.append(entry)
        element: dict[str, Any] = {
            "image": [{"name": f"images/val/000001_mpii_test/{number:06d}.jpg"}],
            "annorect": people,
        }
        if frame.ignore:
            element["ignore_regions"] = [
                {"point": [{"x": [x], "y": [y]} for x, y in polygon]} for polygon in frame.ignore
            ]
        annolist.append(element)
    return {"annolist": annolist}


def layout_2018(frames: Sequence[Frame]) -> dict[str, Any]:
    images, annotations = [], []
    for number, frame in enumerate(frames):
        image = {
            "id": 10000010000 + number,
            "file_name": f"images/val/000001_mpii_test/{number:06d}.jpg",
            "is_labeled": bool(frame.people),
        }
        if frame.ignore:
            image["ignore_regions_x"] = [[x for x, _ in polygon] for polygon in frame.ignore]
            image["ignore_regions_y"] = [[y for _, y in polygon] for polygon in frame.ignore]
        images.append(image)
        for item in frame.people:
            assert item.has_points
            keypoints, scores = [0.0] * 51, [0.0] * 17
            for joint, (x, y, score) in item.points.items():
                slot = POSETRACK.index(POSETRACK_EVAL.joints[joint])
                keypoints[3 * slot : 3 * slot + 3] = [x, y, 1]
                scores[slot] = 0.0 if score is None else score
            scored = any(score is not None for _, _, score in item.points.values())
            entry: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "keypoints": keypoints,
                "scores": scores if scored else [],
            }
            if item.head is not None:
                x1, y1, x2, y2 = item.head
                entry["bbox_head"] = [x1, y1, x2 - x1, y2 - y1]
            if item.track is not None:
                entry["track_id"] = item.track
            annotations.append(entry)
    category = {"id": 1, "name": "person", "keypoints": list(POSETRACK.joints)}
    return {"images": images, "annotations": annotations, "categories": [category]}


LAYOUTS = {"posetrack17": layout_2017, "posetrack18": layout_2018}


def write_videos(
    folder: Path,
    videos: Sequence[tuple[Sequence[Frame], Sequence[Frame]]],
    layouts: tuple[str, str] = ("posetrack17", "posetrack17"),
) -> tuple[Path, Path]:
    """Write ground truth and predictions; returns the two folders."""
    folders = folder / "gt", folder / "pred"
    for index, (path, layout) in enumerate(zip(folders, layouts, strict=True)):
        path.mkdir(parents=True, exist_ok=True)
        for number, pair in enumerate(videos):
            data = LAYOUTS[layout](pair[index])
            (path / f"{number:06d}_mpii_test.json").write_text(json.dumps(data))
    return folders


def random_video(
    rng: random.Random, frames: int = 9, *, pointless: bool = True
) -> tuple[list[Frame], list[Frame]]:
    """People near each other with gaps of every kind; no two scores and no two ids are equal."""

    def polygon() -> list[tuple[float, float]]:
        cx, cy, size = rng.uniform(0, 300), rng.uniform(0, 300), rng.uniform(20, 120)
        angles = [k * 2 * math.pi / 5 for k in range(5)]
        radii = [size * rng.uniform(0.3, 1) for _ in angles]  # star-shaped, not convex
        return [
            (cx + r * math.cos(a), cy + r * math.sin(a)) for a, r in zip(angles, radii, strict=True)
        ]

    truth, predicted = [], []
    homes = [(rng.uniform(0, 60), rng.uniform(0, 60)) for _ in range(4)]
    for _ in range(frames):
        people, guesses = [], []
        unlabelled, nobody_found = rng.random() < 0.15, rng.random() < 0.15
        for track, (hx, hy) in enumerate(homes):
            if rng.random() < 0.3:
                continue
            joints = [j for j in range(15) if rng.random() < 0.8]
            item = person(hx, hy, joints=joints, track=track)
            size = rng.uniform(20, 60)
            item.head = (5, 5, 5 + 0.6 * size, 5 + 0.8 * size)
            if rng.random() < 0.1:
                item = Person(track=track, has_points=not (pointless and rng.random() < 0.5))
            people.append(item)
        for guess in range(5):
            if rng.random() < 0.3:
                continue
            hx, hy = rng.choice(homes)
            points: dict[int, Point] = {}
            for j in range(15):
                if rng.random() < 0.85:
                    x, y = rng.gauss(hx + 10 * j, 9), rng.gauss(hy + 20 * j, 9)
                    points[j] = (x, y, rng.random())
            guesses.append(Person(points, None, guess + (100 if rng.random() < 0.3 else 0)))
        ignore = [polygon() for _ in range(rng.randrange(3))] if rng.random() < 0.4 else []
        truth.append(Frame([] if unlabelled else people, ignore))
        predicted.append(Frame([] if nobody_found else guesses))
    return truth, predicted


def _winds_around(x: float, y: float, polygon: Sequence[tuple[float, float]]) -> bool:
    """Whether the polygon's corners, seen from the point, turn full circle."""
    total = 0.0
    for (ax, ay), (bx, by) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        turn = math.atan2(by - y, bx - x) - math.atan2(ay - y, ax - x)
        total += (turn + math.pi) % (2 * math.pi) - math.pi
    return abs(total) > math.pi


def slow_clean(
    truth: Sequence[Frame], predicted: Sequence[Frame]
) -> list[tuple[list[Person], list[Person]]]:
    """Per labelled frame the annotated and the predicted people that count."""
    result = []
    for gt, pred in zip(truth, predicted, strict=True):
        if not gt.people:
            continue
        sides = []
        for people in (gt.people, pred.people):
            people = [p for p in people if p.has_points]
            if gt.ignore:
                kept = []
                for p in people:
                    points = {
                        j: (x, y, s)
                        for j, (x, y, s) in p.points.items()
                        if not any(_winds_around(x, y, polygon) for polygon in gt.ignore)
                    }
                    if points:
                        kept.append(Person(points, p.head, p.track))
                people = kept
            sides.append(people)
        result.append((sides[0], sides[1]))
    return result


def slow_distance(gt: Person, pred: Person, joint: int) -> float | None:
    """In head sizes, if near enough."""
    if joint not in gt.points or joint not in pred.points:
        return None
    assert gt.head is not None
    x1, y1, x2, y2 = gt.head
    distance = math.dist(gt.points[joint][:2], pred.points[joint][:2])
    distance /= 0.6 * math.hypot(x2 - x1, y2 - y1)
    return distance if distance <= 0.5 else None


def slow_ap(
    videos: Sequence[tuple[Sequence[Frame], Sequence[Frame]]],
) -> list[tuple[float, float, float]]:
    """AP, precision and recall per joint in percent, for videos without equal scores."""
    pool: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    positives = [0] * 15
    for truth, predicted in videos:
        for people, guesses in slow_clean(truth, predicted):
            for p in people:
                for joint in p.points:
                    positives[joint] += 1
            fit = [
                [
                    Fraction(
                        sum(slow_distance(p, g, j) is not None for j in range(15)),
                        max(len(p.points), 1),
                    )
                    for p in people
                ]
                for g in guesses
            ]
            taken: dict[int, Person] = {}
            favourite = [row.index(max(row)) if row and max(row) else None for row in fit]
            for i, p in enumerate(people):
                fans = [k for k, best in enumerate(favourite) if best == i]
                if fans:
                    taken[max(fans, key=lambda k, i=i: (fit[k][i], -k))] = p
            for k, g in enumerate(guesses):
                for joint, (_, _, score) in g.points.items():
                    right = k in taken and slow_distance(taken[k], g, joint) is not None
                    pool[joint].append((score if score is not None else -9999.0, right))
    numbers = []
    for entries, total in zip(pool, positives, strict=True):
        entries.sort(reverse=True)
        right, precisions, hits = 0, [], []
        for rank, (_, good) in enumerate(entries, 1):
            right += good
            precisions.append(right / rank)
            hits.append(good)
        if not entries:
            numbers.append((0.0, 0.0, 0.0))
        elif not total:
            numbers.append((math.nan, 100 * precisions[-1], math.nan))
        else:
            area = sum(max(precisions[k:]) for k, good in enumerate(hits) if good) / total
            numbers.append((100 * area, 100 * precisions[-1], 100 * right / total))
    return numbers


def mot_frames(
    truth: Sequence[Frame], predicted: Sequence[Frame], joint: int
) -> list[tuple[list[int], list[int], dict[tuple[int, int], float]]]:
    """Per counted frame: ids of both sides and the distances of the pairs that may match."""
    frames = []
    for people, guesses in slow_clean(truth, predicted)[:-1]:
        if not people or not guesses:
            frames.append(([0], [0], {}))
            continue
        pairs = {
            (p.track, g.track): distance
            for p, g in itertools.product(people, guesses)
            if (distance := slow_distance(p, g, joint)) is not None
        }
        frames.append(
            (
                [p.track for p in people if joint in p.points],
                [g.track for g in guesses if joint in g.points],
                pairs,
            )
        )
    return frames


def slow_mot(
    frames: Sequence[tuple[list[int], list[int], dict[tuple[int, int], float]]],
) -> tuple[int, int, int, int, float]:
    """Objects, misses, switches, false positives, summed distance; by trying every assignment."""
    partner: dict[int, int] = {}
    objects = misses = switches = wrong = 0
    total = 0.0
    for gt, pred, pairs in frames:
        free_gt, free_pred = list(gt), list(pred)
        for g in gt:
            if g in partner and partner[g] in free_pred and (g, partner[g]) in pairs:
                total += pairs[g, partner[g]]
                free_gt.remove(g)
                free_pred.remove(partner[g])
        slots = [*free_pred, *[None] * len(free_gt)]
        best: tuple[int, float, list[tuple[int, int]]] = (0, 0.0, [])
        for order in itertools.permutations(slots, len(free_gt)):
            chosen = [
                (g, p)
                for g, p in zip(free_gt, order, strict=True)
                if p is not None and (g, p) in pairs
            ]
            key = (-len(chosen), sum(pairs[pair] for pair in chosen))
            if key < best[:2]:
                best = (*key, chosen)
        for g, p in best[2]:
            total += pairs[g, p]
            switches += partner.get(g, p) != p
            partner[g] = p
            free_gt.remove(g)
            free_pred.remove(p)
        objects += len(gt)
        misses += len(free_gt)
        wrong += len(free_pred)
    return objects, misses, switches, wrong, total
