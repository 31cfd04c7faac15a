"""Work in threads that feed each other through short queues, and stop together."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_LOOK = 0.05  # seconds between two looks at whether to stop


class Stopped(Exception):  # noqa: N818  no error: the way out of a thread
    """The other side of a channel wants nothing more."""


class Channel(Generic[T]):
    """A queue of bounded length between two threads.

    Args:
        size: how many items wait at most; who puts one more waits himself.
    """

    def __init__(self, size: int):
        self._queue: queue.Queue[T] = queue.Queue(size)
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let both sides raise ``Stopped`` from now on."""
        self._stopped.set()

    def put(self, item: T) -> None:
        """Add an item, as soon as there is room.

        Raises:
            Stopped: it was stopped.
        """
        while not self._stopped.is_set():
            try:
                return self._queue.put(item, timeout=_LOOK)
            except queue.Full:
                continue
        raise Stopped

    def get(self, give_up: Callable[[], bool] | None = None) -> T:
        """The next item, as soon as there is one.

        Args:
            give_up: asked now and then; if it says yes, this raises ``Stopped``, too.

        Raises:
            Stopped: it was stopped.
        """
        while not self._stopped.is_set() and not (give_up is not None and give_up()):
            try:
                return self._queue.get(timeout=_LOOK)
            except queue.Empty:
                continue
        raise Stopped


class Worker(threading.Thread):
    """A thread that remembers its error.

    Args:
        name: of the thread.
        work: what it does.
        failed: called after an error.

    Attributes:
        error: what went wrong, if anything did.
    """

    def __init__(self, name: str, work: Callable[[], None], failed: Callable[[], None]):
        super().__init__(name=name, daemon=True)
        self._work, self._failed = work, failed
        self.error: BaseException | None = None

    def run(self) -> None:
        """Work until done, or until ``Stopped`` says that it is not wanted."""
        try:
            self._work()
        except Stopped:
            pass
        except BaseException as error:  # whatever it is, the other side must not wait for ever
            self.error = error
            self._failed()
