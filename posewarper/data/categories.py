"""Which joints the people of a COCO-style file have: its categories, as one skeleton.

Categories that share a joint make one skeleton, joints of one name being the same joint; each
person has those of its category. Of categories that share none, one counts.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posewarper.data.entries import id_key, listing, number, objects, whole
from posewarper.skeleton import POSETRACK, SKELETONS, Skeleton, pairs_by_name

_OWN = {"flip_pairs", "sigmas", "upper_body"}  # keys that only files of this project have


@dataclass(frozen=True)
class Category:
    """One entry of ``categories``.

    Attributes:
        id: None if it has none.
        name: for messages.
        joints: names of its key points; empty for a category of boxes.
        entry: all that the file says of it.
    """

    id: Hashable | None
    name: str
    joints: tuple[str, ...]
    entry: Mapping[str, Any]


@dataclass(frozen=True)
class Joints:
    """The skeleton of a file, and where its joints are in the annotations.

    Attributes:
        skeleton: what is read.
        kept: [P] rows of the annotations that are read.
        kinds: for each way to list key points: rows of ``kept``, how many key points, and pairs of
            the place in the list and the joint.
    """

    skeleton: Skeleton
    kept: Sequence[int] | None
    kinds: list[tuple[Sequence[int] | None, int, list[tuple[int, int]]]]


def read_categories(data: Mapping[str, Any], source: str) -> list[Category]:
    """The categories of a COCO-style file; one without a name or joints if it lists none.

    Raises:
        ValueError: an entry is damaged, or has a joint twice; names it.
    """
    found = []
    for position, entry in enumerate(
        objects(data.get("categories") or [], f"{source}: 'categories'")
    ):
        name = str(entry.get("name") or f"number {position}")
        place = f"{source}: category {name!r}"
        names = listing(entry.get("keypoints") or [], f"{place}: 'keypoints'")
        for joint in names:
            if not isinstance(joint, str | int):
                raise ValueError(f"{place}: 'keypoints': expected names, got {joint!r}")
        joints = tuple(map(str, names))
        if len(set(joints)) != len(joints):
            twice = next(joint for joint, count in Counter(joints).items() if count > 1)
            raise ValueError(f"{place}: expected unique names, key point {twice!r} is there twice")
        own = None if entry.get("id") is None else id_key(entry["id"], f"{place}: 'id'")
        found.append(Category(own, name, joints, entry))
    if len(found) > 1:
        for category in found:
            if category.id is None:
                raise ValueError(f"{source}: category {category.name!r} lacks 'id'")
    again = [c.name for i, c in enumerate(found) if c.id in [b.id for b in found[:i]]]
    if again:
        raise ValueError(f"{source}: the id of category {again[0]!r} is that of an earlier one")
    return found or [Category(None, "", (), {})]


def choose_joints(
    categories: Sequence[Category],
    annotations: Sequence[Mapping[str, Any]],
    source: str,
    wanted: Skeleton | None = None,
    unnamed: Skeleton | None = None,
) -> Joints:
    """The joints that are read, and from which annotations.

    Args:
        categories: of the file.
        annotations: of the file.
        source: its name.
        wanted: joints to read, by name where the file has names.
        unnamed: joints of a file that names none, by default the 17 of PoseTrack.

    Raises:
        ValueError: a joint of ``wanted`` is missing, or a category is not listed.
    """
    named = [category for category in categories if category.joints]
    if not named:
        skeleton = wanted or unnamed or POSETRACK
        places = [(i, i) for i in range(len(skeleton))]
        return Joints(skeleton, None, [(None, len(skeleton), places)])
    of = _category_of(categories, annotations, named, source)
    counts = Counter(of) if of is not None else Counter({categories.index(named[0]): 1})
    used = [c for c in named if counts[categories.index(c)]] or named[:1]
    if wanted is None:
        together = _together(used)
        skeleton = _skeleton(together, source)
    else:
        everything = tuple(dict.fromkeys(joint for c in named for joint in c.joints))
        missing = [joint for joint in wanted.joints if joint not in everything]
        if missing:
            raise ValueError(
                f"{source}: skeleton {wanted.name!r} has joints {missing}, the file has "
                f"{list(everything)}"
            )
        skeleton = wanted
        together = [category for category in used if {*category.joints} & {*wanted.joints}]
    _warn(categories, together, counts if of is not None else Counter(), source, len(skeleton))
    index = {joint: i for i, joint in enumerate(skeleton.joints)}

    def places_of(category: Category) -> list[tuple[int, int]]:
        return [(i, index[j]) for i, j in enumerate(category.joints) if j in index]

    if of is None:
        return Joints(skeleton, None, [(None, len(c.joints), places_of(c)) for c in named[:1]])
    chosen = {categories.index(category) for category in together}
    kept = [row for row, position in enumerate(of) if position in chosen]
    layouts: dict[tuple[str, ...], list[int]] = {}
    for place, row in enumerate(kept):
        layouts.setdefault(categories[of[row]].joints, []).append(place)
    first = {category.joints: category for category in reversed(together)}
    whole_file = len(layouts) == 1
    kinds: list[tuple[Sequence[int] | None, int, list[tuple[int, int]]]] = [
        (None if whole_file else rows, len(joints), places_of(first[joints]))
        for joints, rows in layouts.items()
    ]
    return Joints(skeleton, None if len(kept) == len(annotations) else kept, kinds)


def _category_of(
    categories: Sequence[Category],
    annotations: Sequence[Mapping[str, Any]],
    named: Sequence[Category],
    source: str,
) -> list[int] | None:
    """Position of the category of each annotation; None where there is but one, without an id."""
    if len(categories) == 1 and categories[0].id is None:
        return None
    position = {category.id: i for i, category in enumerate(categories)}
    default = position[named[0].id]
    found = []
    for row, annotation in enumerate(annotations):
        own = annotation.get("category_id")
        place = default if own is None else position.get(own if type(own) is int else None, -1)
        if place < 0:
            where = f"{source}: annotation {annotation.get('id', f'number {row}')}"
            place = position.get(id_key(own, f"{where}: 'category_id'"), -1)
            if place < 0:
                raise ValueError(
                    f"{where} is of category {own!r}, which is not listed; listed are "
                    f"{', '.join(f'{c.id!r} ({c.name})' for c in categories[:8])}"
                )
        found.append(place)
    return found


def _together(used: Sequence[Category]) -> list[Category]:
    """The first category and those that share a joint with it, or with one that does."""
    chosen, names = [used[0]], {*used[0].joints}
    while more := [c for c in used if c not in chosen and names & {*c.joints}]:
        chosen += more
        names.update(joint for category in more for joint in category.joints)
    return [category for category in used if category in chosen]


def _warn(
    categories: Sequence[Category],
    together: Sequence[Category],
    counts: Mapping[int, int],
    source: str,
    joints: int,
) -> None:
    """Say which categories were made one skeleton, and which were left out."""

    def listed(some: Sequence[Category]) -> str:
        return ", ".join(
            f"{c.name!r} ({counts[categories.index(c)]} annotations, "
            f"{'no key points' if not c.joints else 'key points ' + ', '.join(c.joints[:6])})"
            for c in some[:6]
        )

    left = [c for i, c in enumerate(categories) if c not in together and counts.get(i)]
    if left:
        why = "" if all(not c.joints for c in left) else "; a skeleton with other joints reads them"
        warnings.warn(f"{source}: left out are categories {listed(left)}{why}", stacklevel=5)
    if len({frozenset(category.joints) for category in together}) > 1:
        warnings.warn(
            f"{source}: categories with different joints are read as one skeleton of {joints}: "
            f"{listed(together)}; a skeleton of fewer joints chooses",
            stacklevel=5,
        )


def _skeleton(together: Sequence[Category], source: str) -> Skeleton:
    """One skeleton of categories that share joints."""
    joints = tuple(dict.fromkeys(joint for c in together for joint in c.joints))
    entries = [category.entry for category in together]
    if not any(_OWN & set(entry) for entry in entries):
        for known in SKELETONS.values():
            if known.joints == joints:
                return known
    index = {joint: i for i, joint in enumerate(joints)}
    limbs, flips, upper = [], [], []
    for category in together:
        own = [index[joint] for joint in category.joints]
        place = f"{source}: category {category.name!r}"
        limbs += [(own[a], own[b]) for a, b in _limbs(category, source)]
        pairs = category.entry.get("flip_pairs")
        sides = pairs_by_name(category.joints) if pairs is None else _pairs(pairs, len(own), place)
        flips += [(own[a], own[b]) for a, b in sides]
        listed = listing(category.entry.get("upper_body") or [], f"{place}: 'upper_body'")
        upper += [own[whole(i, f"{place}: 'upper_body'", 0, len(own) - 1)] for i in listed]
    sigmas = entries[0].get("sigmas") or []
    if len({category.joints for category in together}) > 1:
        sigmas = []
    if not any("flip_pairs" in entry for entry in entries):  # also across categories
        flips = list(pairs_by_name(joints))
    place = f"{source}: category {together[0].name!r}: 'sigmas'"
    values = listing(sigmas, place, len(joints) if sigmas else None)
    skeleton = Skeleton(
        str(entries[0].get("skeleton_name") or entries[0].get("name") or source),
        joints,
        tuple(dict.fromkeys(flips)),
        tuple(dict.fromkeys(limbs)),
        tuple(number(value, place, 1e-6, 1e3) for value in values),
        tuple(dict.fromkeys(upper)),
    )
    known_one = SKELETONS.get(skeleton.name)
    return known_one if known_one == skeleton else skeleton


def _pairs(pairs: Any, count: int, place: str) -> list[tuple[int, int]]:
    where = f"{place}: 'flip_pairs'"
    both = [listing(pair, where, 2) for pair in listing(pairs, where)]
    return [(whole(a, where, 0, count - 1), whole(b, where, 0, count - 1)) for a, b in both]


def _limbs(category: Category, source: str) -> list[tuple[int, int]]:
    """Lines between joints, by index from 0. They are for drawing: what is wrong is left out.

    COCO counts from 1. A list with a 0 counts from 0; one that could be either is taken as COCO's,
    with a warning. Names are understood, too.
    """
    joints, count = category.joints, len(category.joints)
    given = category.entry.get("skeleton") or []
    found = given if isinstance(given, list) else [given]
    pairs = [tuple(pair) for pair in found if isinstance(pair, list)]
    place = {joint: i + 1 for i, joint in enumerate(joints)}
    indices = [tuple(place.get(e, -1) if isinstance(e, str) else e for e in pair) for pair in pairs]
    good = [p for p in indices if len(p) == 2 and all(type(i) is int for i in p)]
    named = any(isinstance(e, str) for pair in pairs for e in pair)
    flat = [i for pair in good for i in pair]
    base = 0 if 0 in flat and not named else 1
    limbs = [(a - base, b - base) for a, b in good if all(0 <= i - base < count for i in (a, b))]
    where = f"{source}: category {category.name!r}: "
    if len(limbs) != len(found):
        warnings.warn(
            f"{where}limbs are left out that are no pairs of key points (they are only drawn)",
            stacklevel=6,
        )
    own = _OWN & set(category.entry)
    if base == 1 and flat and max(flat) < count and min(flat) >= 1 and not named and not own:
        warnings.warn(
            f"{where}its limbs could count from 0 or from 1; they are read as COCO's, from 1, and "
            f"the first joins {joints[limbs[0][0]]!r} and {joints[limbs[0][1]]!r} (they are only "
            "drawn)",
            stacklevel=6,
        )
    return limbs
