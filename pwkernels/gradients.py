"""Which gradients of the warp are wanted, and what a backend's backward returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Needs(NamedTuple):
    """Which gradients a backward has to compute; work for the others is skipped."""

    input: bool
    offsets: bool
    masks: bool
    weight: bool


class Grads(NamedTuple):
    """Gradients of one warp; what was not asked for is ``None`` or an empty list.

    ``input`` has the input's shape and dtype, ``offsets[d]`` and ``masks[d]`` those of their
    tensors, ``weight`` is float32 ``[D, Co, C/groups, kh, kw]``.
    """

    input: Tensor | None
    offsets: list[Tensor]
    masks: list[Tensor]
    weight: Tensor | None
