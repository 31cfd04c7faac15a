"""What ``test_bench_aggregation`` times: windows of crops to heatmaps, by each implementation.

Key frames follow one another in one held crop box, so that their windows share frames. What takes
window by window ("posewarper", as people of a data set are served) sees ``K * T`` crops; what holds
the box ("posewarper-held") sees each of the ``K + T - 1`` once. Both give the same heatmaps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.baseline import BaselineWarper
from benchmarks.operations import count
from benchmarks.system_cases import Size, crop_sequence, make_model, normalised
from benchmarks.timing import clock
from posewarper.inference.predictor import PosePredictor
from posewarper.models import PoseModel

WHATS = ("one person", "windows")

#: Largest accepted root mean square of the difference from the baseline, relative to its own.
#: bfloat16 rounds to 8 bits, some forty convolutions deep.
BOUNDS = {"fp32": 1e-4, "bf16": 0.06}


def implementations(what: str, compiled: bool = False) -> list[str]:
    """In the order of measurement; "-compiled" only where asked for: it takes minutes."""
    held = what == "windows"  # a single window shares no frame
    names = ["baseline"]
    for suffix in ("", "-compiled") if compiled else ("",):
        for precision in ("", "-bf16"):
            kinds = ("posewarper", "posewarper-held") if held else ("posewarper",)
            names += [f"{kind}{suffix}{precision}" for kind in kinds]
    return names


def precision_of(implementation: str) -> str:
    """Of the convolutions."""
    return "bf16" if implementation.endswith("-bf16") else "fp32"


def key_frames(size: Size, what: str) -> int:
    """How many poses one call gives."""
    return 1 if what == "one person" else size.windows


def make_crops(size: Size, what: str) -> Tensor:
    """``[K + T - 1, 3, H, W]`` uint8."""
    return crop_sequence(size, key_frames(size, what) + len(size.config.window) - 1)


def windows_of(frames: Tensor, length: int) -> Tensor:
    """``[K + T - 1, ...] -> [K, T, ...]``; the deltas of a window grow one by one."""
    return frames.unfold(0, length, 1).movedim(-1, 1)


def make_call(implementation: str, model: PoseModel, device: str) -> Callable[[Tensor], Tensor]:
    """From crops ``[K + T - 1, 3, H, W]`` uint8 to heatmaps ``[K, J, h, w]`` on the device."""
    window = model.config.window
    length = len(window)
    if implementation == "baseline":
        network = BaselineWarper(model).to(device)

        def plain(crops: Tensor) -> Tensor:
            with torch.no_grad():
                return network.aggregate(windows_of(normalised(crops.to(device)), length))

        return plain
    options: dict[str, Any] = {"compile": True} if "-compiled" in implementation else {}
    predictor = PosePredictor(
        model,
        device=device,
        precision=precision_of(implementation),
        batch_size=1024,
        **options,  # type: ignore[arg-type]
    )

    def served(crops: Tensor) -> Tensor:
        if "-held" in implementation:
            heatmaps = windows_of(predictor.heatmaps(crops), length)
        else:
            apart = windows_of(crops, length)
            heatmaps = predictor.heatmaps(apart.flatten(0, 1)).unflatten(0, apart.shape[:2])
        return predictor.aggregate(heatmaps, window)

    return served


def difference(result: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference relative to that of what was expected; inf for any NaN."""
    if result.shape != expected.shape or not bool(torch.isfinite(result).all()):
        return float("inf")
    apart = (result.float() - expected.float()).square().mean().sqrt()
    return float(apart / expected.float().square().mean().sqrt())


class Prepared:
    """The latest case.

    Attributes:
        model, crops: what goes in.
        expected: the baseline's heatmaps.
        operations: that it took.
        seconds: of that first call.
    """

    def __init__(self) -> None:
        self._key: tuple[str, str] | None = None

    def get(self, name: str, size: Size, what: str, device: str) -> None:
        """Make it this case."""
        if self._key is None or self._key[0] != name:
            self.model = make_model(size)
        if self._key != (name, what):
            self.crops = make_crops(size, what)
            call = make_call("baseline", self.model, device)
            self.expected, self.operations, self.seconds = counted(call, self.crops)
            self._key = (name, what)


def counted(call: Callable[[Tensor], Tensor], crops: Tensor) -> tuple[Tensor, int, float]:
    """What a first call gives, its operations and its seconds."""
    results: list[Tensor] = []
    start = clock()
    operations = count(lambda: results.append(call(crops)))
    return results[0], operations, clock() - start
