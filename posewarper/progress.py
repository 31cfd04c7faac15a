"""Progress bars with an ETA: redrawn in a terminal, a line now and then in a file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

_SECONDS = 30.0  # between two lines in a file


class _Lines:
    """A stream in which every redrawn bar is a line of its own, and the last one is not twice."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._last = ""

    def write(self, text: str) -> None:
        line = text.strip()
        done = line.partition(" [")[0]  # without times and rates
        if done not in ("", self._last):
            self._stream.write(line + "\n")
            self._last = done

    def flush(self) -> None:
        self._stream.flush()


@contextlib.contextmanager
def progress_bar(
    shown: bool, *, total: int | None, unit: str, desc: str = "", initial: int = 0
) -> Iterator[tqdm[Any]]:
    """A bar on stderr while the block runs; messages of loggers appear above it.

    Where stderr is no terminal, a line every 30 seconds and one at the end.

    Args:
        shown: False: nothing is shown; the bar can be updated all the same.
        total: how many units there are; None: not known.
        unit: what is counted.
        desc: what stands before the bar.
        initial: how many units were done before.
    """
    terminal = sys.stderr.isatty()
    bar: tqdm[Any] = tqdm(
        total=total,
        unit=unit,
        desc=desc or None,
        initial=initial,
        disable=not shown,
        file=sys.stderr if terminal else _Lines(sys.stderr),
        mininterval=0.1 if terminal else _SECONDS,
        delay=0 if terminal else 1e-9,  # no line at the beginning
    )
    with logging_redirect_tqdm() if shown else contextlib.nullcontext(), bar:
        yield bar
        if not terminal:
            bar.refresh()
