"""Many tasks among the processes of ``torchrun``, each done by one; and what is left of them.

The processes need no process group: an atomic counter in the store of ``torchrun`` hands the tasks
out one by one, so that whoever is fast gets more. Without ``torchrun`` there is one process.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock, Timeout
from torch.distributed import PrefixStore, Store, rendezvous

from posewarper.files import read_json, write_json

T = TypeVar("T")

_PIECE = 1 << 20  # characters in one value of the store, which takes some megabytes at most
_PAUSE = 0.1  # seconds between looks at the store
_PATIENCE = 90.0  # seconds until a file of another machine is seen, at most


@dataclass(frozen=True)
class Sharing:
    """One process, the one that runs, among those that share the tasks.

    Attributes:
        rank: number of this one; 0 prepares, and merges.
        count: how many there are.
        local_rank: number of this one on its machine.
        local_count: how many are on its machine.
        attempt: how often ``torchrun`` has started all of them anew.
        store: where they meet; None for a single process.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    attempt: int = 0
    store: Store | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process prepares and merges."""
        return self.rank == 0

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all: plain values as JSON holds them.

        Others wait; if the first one fails, until ``torchrun`` ends them.
        """
        if self.store is None:
            return make()
        if self.is_first:
            text = json.dumps(make())
            pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
            for number, piece in enumerate(pieces):
                self.store.set(f"piece {number}", piece)
            self.store.set("pieces", str(len(pieces)))
        else:
            while not self.store.check(["pieces"]):
                time.sleep(_PAUSE)
        count = int(self.store.get("pieces"))
        made: T = json.loads(b"".join(self.store.get(f"piece {n}") for n in range(count)))
        return made

    def take(self, tasks: int) -> Iterator[int]:
        """Numbers from 0 to ``tasks - 1``, each for one process only, as they ask for more."""
        if self.store is None:
            yield from range(tasks)
            return
        while (number := self.store.add("taken", 1) - 1) < tasks:
            yield number
        self.store.add("ended", 1)

    def wait(self) -> None:
        """Until all processes have found that no task is left."""
        while self.store is not None and self.store.add("ended", 0) < self.count:
            time.sleep(_PAUSE)

    def device(self, name: str) -> str:
        """The device of this process: with ``torchrun`` the GPU of its number, in turn if there are
        more processes than GPUs.

        Raises:
            ValueError: one GPU was named for several processes.
        """
        if self.store is None:
            return name
        if name.startswith("cuda:") and self.local_count > 1:
            raise ValueError(
                "device: expected auto, cpu or cuda with torchrun, where every process takes its "
                f"own GPU, got {name!r}"
            )
        if name in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{self.local_rank % torch.cuda.device_count()}"
        return name

    def divide_threads(self) -> None:
        """The processors of the machine among its processes, for work on the CPU.

        ``torchrun`` sets one thread for each process where nobody said how many; another number
        was meant, and stays.
        """
        if self.local_count > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
            torch.set_num_threads(max(_processors() // self.local_count, 1))


def process_count() -> int:
    """How many processes ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_sharing() -> Sharing:
    """Meet the other processes of ``torchrun``, if any; for one list of tasks."""
    if "WORLD_SIZE" not in os.environ:
        return Sharing()
    store, rank, count = next(rendezvous("env://"))
    return Sharing(
        rank,
        count,
        int(os.environ.get("LOCAL_RANK", rank)),
        int(os.environ.get("LOCAL_WORLD_SIZE", count)),
        int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
        meet(store, rank, count),
    )


def meet(store: Store, rank: int, count: int) -> Store:
    """A part of the store for the processes of this start, and for one list of tasks.

    A store may outlive the processes, and after a failure on one of several machines the others
    count another number of restarts; so what an earlier start left has to be told apart here.
    Every other process asks with a word of its own, and the first one answers with its own.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        waiting = set(range(1, count))
        while waiting:
            for other in sorted(waiting):
                if store.check([f"{own} {other}"]):
                    waiting.discard(other)
                elif store.check([f"asks {other}"]):
                    store.set(f"answer to {store.get(f'asks {other}').decode()}", own)
            if waiting:
                time.sleep(_PAUSE)
        return PrefixStore(own, store)
    store.set(f"asks {rank}", own)
    while not store.check([f"answer to {own}"]):
        time.sleep(_PAUSE)
    name = store.get(f"answer to {own}").decode()
    store.set(f"{name} {rank}", "")
    return PrefixStore(name, store)


@contextmanager
def settled_folder(folder: Path, out: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """A folder of notes about what is done, all with the same settings, for one run at a time.

    Args:
        folder: of the notes; it is made.
        out: what the run makes, in messages.
        settings: options by name, see ``plain_settings``.

    Raises:
        ValueError: other settings were noted there; another run is at work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "settings.json"
    # The lock goes with the process, however it ends.
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"out: another run is making {out}") from None
    except (OSError, NotImplementedError):
        pass  # some file systems of clusters know no locks
    try:
        known, wanted = read_json(place) if place.exists() else None, dict(settings)
        if known is None:
            write_json(place, wanted)
        elif known != wanted:
            changed = "; ".join(
                f"{name}: {known.get(name)} -> {wanted.get(name)}"
                for name in sorted({*known, *wanted})
                if known.get(name) != wanted.get(name)
            )
            raise ValueError(
                f"out: {out} was begun with other settings ({changed}); choose another one, or "
                f"remove {folder} to start over"
            )
        yield
    finally:
        lock.release()


def read_note(path: Path) -> Any:
    """Content of a JSON file that another machine has just written, which network file systems may
    show late.

    Raises:
        FileNotFoundError: it does not appear.
        ValueError: it is no JSON; names the file.
    """
    end = time.monotonic() + _PATIENCE
    while not path.exists() and time.monotonic() < end:
        time.sleep(_PAUSE)
    return read_json(path)


def plain_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON holds them; of a file the name and a hash of its content.

    Raises:
        OSError: a file cannot be read.
    """
    plain = {
        name: _fingerprint(value) if isinstance(value, Path) else value
        for name, value in options.items()
    }
    settings: dict[str, Any] = json.loads(json.dumps(plain))  # lists in place of tuples
    return settings


def _fingerprint(path: Path) -> str:
    if not path.is_file():
        return str(path.absolute())
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return f"{path.name}, sha256 {digest.hexdigest()[:16]}"


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
