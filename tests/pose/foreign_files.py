"""Small files as other tools write them, and what the tests of their readers look at."""

from __future__ import annotations

import json

from posewarper.skeleton import Skeleton

MOUSE = Skeleton("mouse", ("nose", "ear", "tail"))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def numbers_of(found):
    return found.frames.number[found.people.frame].tolist()


def flat(count, start=1.0, score=0.5):
    """``count`` points: x = start, start + 1, ...; y = 10 x."""
    return [v for i in range(count) for v in (start + i, 10 * (start + i), score)]
