"""Joints of a data set: names, mirror pairs, limbs, sigmas; PoseTrack, COCO, or the user's own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Skeleton:
    """An ordered set of J joints.

    Attributes:
        name: what it is called in messages.
        joints: J unique names; the order of channels, of keypoints in files, and of sigmas.
        flip_pairs: indices that change places when an image is mirrored. Where there are some, the
            other joints lie on the middle line; a joint paired with itself does so expressly.
        limbs: pairs of indices that are drawn as lines.
        sigmas: OKS standard deviations, one per joint, as in COCO (k = 2 * sigma).
        upper_body: indices for half-body augmentation; the others are the lower body.
    """

    name: str
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...] = ()
    limbs: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] = ()
    upper_body: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.joints)
        if count == 0 or len(set(self.joints)) != count:
            raise ValueError(
                f"skeleton {self.name!r}: expected at least one joint and unique names, "
                f"got {list(self.joints)}"
            )
        if self.sigmas and len(self.sigmas) != count:
            raise ValueError(
                f"skeleton {self.name!r}: expected {count} sigmas, got {len(self.sigmas)}"
            )
        flat = [i for pair in (*self.flip_pairs, *self.limbs) for i in pair] + [*self.upper_body]
        if any(not 0 <= i < count for i in flat):
            raise ValueError(
                f"skeleton {self.name!r}: indices must lie in 0..{count - 1}, "
                f"got {sorted(set(flat))}"
            )
        partners: dict[int, int] = {}
        for one, other in [*self.flip_pairs, *((b, a) for a, b in self.flip_pairs)]:
            if partners.setdefault(one, other) != other:
                raise ValueError(
                    f"skeleton {self.name!r}: flip_pairs: {self.joints[one]!r} has two partners, "
                    f"{self.joints[partners[one]]!r} and {self.joints[other]!r}"
                )

    def __len__(self) -> int:
        return len(self.joints)

    def index(self, joint: str) -> int:
        """Position of a joint.

        Raises:
            ValueError: there is no such joint; lists those that there are.
        """
        try:
            return self.joints.index(joint)
        except ValueError:
            raise ValueError(
                f"skeleton {self.name!r} has no joint {joint!r}; it has {', '.join(self.joints)}"
            ) from None

    @property
    def mirrored(self) -> tuple[int, ...]:
        """For each joint, the one that takes its place in a mirrored image."""
        order = list(range(len(self)))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return tuple(order)

    @cached_property  # every sample of a training asks
    def why_not_mirrored(self) -> str:
        """Why mirrored images would teach or tell wrong joints; empty where they would not."""
        if not self.flip_pairs:
            return f"no mirror pairs among its joints {', '.join(self.joints)}"
        paired = {i for pair in self.flip_pairs for i in pair}
        alone = [
            joint
            for i, joint in enumerate(self.joints)
            if i not in paired and any(clear for *_, clear in _sides(joint))
        ]
        return f"no partner for {', '.join(alone)}" if alone else ""

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], source: str = "skeleton") -> Skeleton:
        """From names: ``joints``, and optionally ``name``, ``flip_pairs``, ``limbs``, ``sigmas``,
        ``upper_body``, whose entries are joint names or indices. Without ``flip_pairs`` they are
        those that the names tell; see ``pairs_by_name``.

        Raises:
            ValueError: a key or joint that is not known; names ``source``.
        """
        known = {"name", "joints", "flip_pairs", "limbs", "sigmas", "upper_body"}
        if "joints" not in data or not set(data) <= known:
            raise ValueError(
                f"{source}: expected the key 'joints' and optionally {sorted(known - {'joints'})}, "
                f"got {sorted(data)}"
            )
        joints = tuple(str(joint) for joint in data["joints"])
        names = cls(str(data.get("name", source)), joints)

        def resolve(joint: str | int) -> int:
            return joint if isinstance(joint, int) else names.index(joint)

        def pairs(key: str) -> tuple[tuple[int, int], ...]:
            return tuple((resolve(a), resolve(b)) for a, b in data.get(key) or ())

        return cls(
            names.name,
            joints,
            pairs("flip_pairs") if "flip_pairs" in data else pairs_by_name(joints),
            pairs("limbs"),
            tuple(float(sigma) for sigma in data.get("sigmas") or ()),
            tuple(resolve(joint) for joint in data.get("upper_body") or ()),
        )

    @classmethod
    def from_file(cls, path: str | Path) -> Skeleton:
        """From a YAML or JSON file; see ``from_mapping``."""
        with open(path, encoding="utf-8") as file:
            data = yaml.safe_load(file)
        if not isinstance(data, Mapping):
            raise ValueError(f"{path}: expected a mapping with the key 'joints'")
        return cls.from_mapping(data, str(path))


# How names tell a side, beside "left" and "right" anywhere: a letter that is a word of its own
# ("l_wing", "wingL", "ear.l"), that stands before or after a part of a body ("Lhip", "hipl"), or
# that is one of two which make a word ("FL_paw", front left).
_WORD = re.compile(r"left|right", re.IGNORECASE)
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_TWO = re.compile(r"(?<![^\W_])(?:([LR])[FHB]|[FHB]([LR]))(?![^\W_])", re.IGNORECASE)
_BODY = (
    "ankle|antenna|arm|brow|calf|cheek|ear|elbow|eye|eyebrow|fin|finger|foot|hand|heel|hip|hoof|"
    "jaw|knee|leg|limb|lip|paw|shoulder|thigh|thumb|toe|whisker|wing|wrist"
)
_GLUED = re.compile(rf"([LR])(?:{_BODY})|(?:{_BODY})([LR])", re.IGNORECASE)


def _sides(joint: str) -> Iterator[tuple[str, str, bool]]:
    """Each reading of a name: the side ("l" or "r"), the name in lower case without it, and whether
    it is so clear that a partner must be missing where there is none.
    """
    marks = [
        (match.start(), match.end(), match[0], not _inside_word(joint, match))
        for match in _WORD.finditer(joint)
    ]
    for part in _PART.finditer(joint):
        if part[0].lower() in ("l", "r"):
            marks.append((part.start(), part.end(), part[0], True))
        elif glued := _GLUED.fullmatch(part[0]):
            side = 1 if glued[1] else 2
            start, end = part.start() + glued.start(side), part.start() + glued.end(side)
            marks.append((start, end, glued[side], False))
    for two in _TWO.finditer(joint):
        side = 1 if two[1] else 2
        marks.append((two.start(side), two.end(side), two[side], True))
    for start, end, mark, clear in marks:
        kind = "<side>" if len(mark) > 1 else "<s>"
        yield mark[0].lower(), (joint[:start] + kind + joint[end:]).lower(), clear


def _inside_word(joint: str, match: re.Match[str]) -> bool:
    """Whether letters of the same word go on around a match, as in "upright"."""
    return any(
        part.start() < match.start() < part.end() or part.start() < match.end() < part.end()
        for part in _PART.finditer(joint)
    )


def pairs_by_name(joints: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Mirror pairs that names tell: ``left`` and ``right`` anywhere (``left_ear``, ``EyeRight``),
    or letters for them (``L_ear``, ``wingL``, ``ear.l``, ``lEar``, ``Lhip``, ``FL_paw``).

    Returns:
        Indices of left and right. A joint with more than one possible partner has none.
    """
    of_rest: dict[str, dict[str, set[int]]] = {}
    for i, joint in enumerate(joints):
        for side, rest, _ in _sides(joint):
            of_rest.setdefault(rest, {"l": set(), "r": set()})[side].add(i)
    partners: dict[int, set[int]] = {i: set() for i in range(len(joints))}
    for found in of_rest.values():
        for left in found["l"]:
            partners[left] |= found["r"]
        for right in found["r"]:
            partners[right] |= found["l"]
    return tuple(
        (i, j)
        for i, own in partners.items()
        if len(own) == 1 and partners[j := min(own)] == {i} and _is_left(joints[i], joints[j])
    )


def _is_left(joint: str, other: str) -> bool:
    """Which of two partners is the left one."""
    rights = {rest for side, rest, _ in _sides(other) if side == "r"}
    return any(side == "l" and rest in rights for side, rest, _ in _sides(joint))


_COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072,
    0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
)  # fmt: skip
_LIMB_JOINTS = (
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip
_BODY_LIMBS = (
    (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12),
    (11, 13), (13, 15), (12, 14), (14, 16),
)  # fmt: skip
_BODY_PAIRS = ((5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))

COCO = Skeleton(
    "coco",
    ("nose", "left_eye", "right_eye", "left_ear", "right_ear", *_LIMB_JOINTS),
    ((1, 2), (3, 4), *_BODY_PAIRS),
    ((0, 1), (0, 2), (1, 3), (2, 4), *_BODY_LIMBS),
    _COCO_SIGMAS,
    tuple(range(11)),
)

# COCO's slots with the eyes replaced: a COCO model is fine-tuned in place. head_bottom and head_top
# are no mirror pair.
POSETRACK = Skeleton(
    "posetrack",
    ("nose", "head_bottom", "head_top", "left_ear", "right_ear", *_LIMB_JOINTS),
    ((3, 4), *_BODY_PAIRS),
    ((2, 0), (0, 1), (1, 5), (1, 6), *_BODY_LIMBS),
    _COCO_SIGMAS,
    tuple(range(11)),
)

# The 15 joints that the official evaluator scores, in its order; id 12 is head_bottom ("neck").
POSETRACK_EVAL = Skeleton(
    "posetrack-eval",
    (
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
        "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
        "head_bottom", "nose", "head_top",
    ),
    ((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9)),
    ((14, 13), (13, 12), (12, 8), (12, 9), (8, 7), (7, 6), (9, 10), (10, 11), (2, 3), (2, 1),
     (1, 0), (3, 4), (4, 5), (8, 2), (9, 3)),
)  # fmt: skip

SKELETONS = {skeleton.name: skeleton for skeleton in (COCO, POSETRACK)}


def find_skeleton(name_or_file: str) -> Skeleton:
    """One of ``SKELETONS`` by name, or that of a YAML file.

    Raises:
        ValueError: it is neither.
    """
    known = SKELETONS.get(name_or_file)
    if known is not None:
        return known
    if not Path(name_or_file).exists():
        raise ValueError(
            f"skeleton: expected {', '.join(SKELETONS)} or a YAML file, got {name_or_file!r}"
        )
    return Skeleton.from_file(name_or_file)
