"""Ctrl-C and SIGTERM as a wish that training grants at the end of a step."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

#: Seconds after a first Ctrl-C from which on a second one is meant. Terminals and launchers send
#: the same signal twice within milliseconds.
FORCE_AFTER = 2.0


class Interrupts:
    """While this context lasts, signals are noted; only a later second Ctrl-C ends at once.

    Only Python's main thread hears signals; in other threads nothing changes.

    Attributes:
        asked: whether a signal came.
    """

    def __init__(self) -> None:
        self.asked = False
        self._first: float | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._first is not None and now - self._first >= FORCE_AFTER:
                raise KeyboardInterrupt
            self._first = self._first or now
