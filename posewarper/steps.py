"""A folder that a command makes in steps: what is there after an interrupt is not made again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posewarper.files import read_json, write_json

_SETTINGS, _SECONDS = "settings.json", "seconds.json"


class StepFolder:
    """Where the files of a command are, which of its steps are done, and how long they took.

    Args:
        root: the folder; it is made.
        kind: what it holds, in messages ("demo").
        settings: plain values of which the files are made; another run with the same settings goes
            on, one with others is refused.
        made: names of all files and folders that the steps make in it; nothing else is removed.
        restart: remove them and start over.

    Raises:
        ValueError: the folder holds something else, or was made with other settings.
    """

    def __init__(
        self,
        root: Path,
        kind: str,
        settings: Mapping[str, Any],
        made: Sequence[str],
        restart: bool = False,
    ):
        self.root, self.kind, self.made = root, kind, tuple(made)
        self._prepare({"kind": kind, **settings}, restart)

    @property
    def seconds(self) -> dict[str, float]:
        """What each step took so far."""
        path = self.root / _SECONDS
        return read_json(path) if path.exists() else {}

    def run(self, title: str, outputs: Sequence[Path], work: Callable[[], None]) -> None:
        """A step, unless all that it makes is there."""
        if all(path.exists() for path in outputs):
            return
        print(f"{title} ...", flush=True)
        start = time.perf_counter()
        try:
            work()
        finally:
            spent = self.seconds
            spent[title] = spent.get(title, 0.0) + time.perf_counter() - start
            write_json(self.root / _SECONDS, spent)

    def _prepare(self, settings: dict[str, Any], restart: bool) -> None:
        place = self.root / _SETTINGS
        if place.exists():
            known = read_json(place)
            if not isinstance(known, dict) or known.get("kind") != self.kind:
                raise ValueError(f"out: {self.root} holds no {self.kind}; choose another folder")
            settings = json.loads(json.dumps(settings))  # lists in place of tuples
            if known == settings and not restart:
                return
            if not restart:
                changed = [
                    f"{name}: {known.get(name)} -> {settings.get(name)}"
                    for name in sorted({*known, *settings})
                    if known.get(name) != settings.get(name)
                ]
                raise ValueError(
                    f"{self.root}: holds a {self.kind} with other settings ({'; '.join(changed)}); "
                    "choose another folder, or --restart true to start over"
                )
            self._clear()
        elif self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise ValueError(
                f"out: {self.root} exists and holds no {self.kind}; choose another folder"
            )
        write_json(place, settings)

    def _clear(self) -> None:
        for name in (*self.made, _SECONDS):
            path = self.root / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
