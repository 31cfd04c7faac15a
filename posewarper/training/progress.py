"""How far a run is, and what an epoch has added up so far."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from posewarper.training.processes import Processes

log = logging.getLogger("posewarper.training")

_TOLD = 5  # messages about frames per epoch


@dataclass
class Sums:
    """What an epoch has added up so far, in this process."""

    loss: float = 0.0
    denominator: float = 0.0
    found: float = 0.0
    labelled: float = 0.0
    samples: float = 0.0
    left_out: float = 0.0
    seconds: float = 0.0

    @property
    def mean_loss(self) -> float:
        return _mean_or_nan(self.loss, self.denominator)

    @property
    def pck(self) -> float:
        return _mean_or_nan(self.found, self.labelled)

    def of_all(self, processes: Processes) -> Sums:
        """Over all processes; seconds are those of the first."""
        numbers = list(vars(self).values())
        numbers[-1] = numbers[-1] if processes.is_first else 0.0
        return Sums(*processes.sums(numbers))


@dataclass
class Position:
    """Where a run is: steps of this epoch that are done; epochs count from 0."""

    epoch: int = 0
    step: int = 0


@dataclass
class FrameProblems:
    """Messages about frames that could not be read, kept until the end of the epoch."""

    waiting: list[str] = field(default_factory=list)
    heard: set[str] = field(default_factory=set)

    def hear(self, messages: list[str]) -> None:
        """Take note; each worker sends its own, so that the same one comes several times."""
        self.waiting += [message for message in messages if message not in self.heard]
        self.heard.update(messages)

    def report(self, policy: str) -> None:
        """Log what is new."""
        for message in self.waiting[:_TOLD]:
            log.warning("%s (data.missing: %s)", message, policy)
        if len(self.waiting) > _TOLD:
            log.warning("and %d more frames", len(self.waiting) - _TOLD)
        self.waiting.clear()


def _mean_or_nan(total: float, count: float) -> float:
    """A mean, NaN of nothing."""
    return total / count if count else float("nan")
