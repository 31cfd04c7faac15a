"""Calls of ``offset_conv_warp`` chosen by hand, by name, and what they should give."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import conv2d

import pwkernels
from pwkernels.testing import Case, Inputs, make_inputs, run_torchvision

NAMES = ("features", "input", "offset_weight", "weight", "frame_weights")


@dataclass(frozen=True)
class Call:
    """A case of the warp whose offsets come from ``features`` channels."""

    case: Case
    features: int = 5
    seed: int = 0
    kernel_dtype: torch.dtype | None = None

    def of(self, **changes: object) -> Call:
        return replace(self, case=self.case.of(**changes))

    def tensors(self) -> dict[str, Tensor | None]:
        """The arguments; offsets have a size of about 2 pixels."""
        case = self.case
        inputs = make_inputs(case.of(offsets="zero"), self.seed)
        generator = torch.Generator().manual_seed(self.seed + 1)
        normal = functools.partial(torch.randn, generator=generator)
        features = normal(case.frames, self.features, *case.size)
        columns = 2 * case.offset_groups * case.geometry.taps
        kernels = normal(len(case.dilations), columns, self.features, 3, 3)
        kernels *= 2 / (9 * self.features) ** 0.5
        return {
            "features": features.to(case.dtype),
            "input": inputs.input,
            "offset_weight": kernels.to(self.kernel_dtype or case.dtype),
            "weight": inputs.weight,
            "frame_weights": inputs.frame_weights,
        }

    def run(self, tensors: dict[str, Tensor | None], backend: str = "auto") -> Tensor:
        case = self.case
        return pwkernels.offset_conv_warp(
            **tensors, dilations=case.dilations, reduction=case.reduction, backend=backend
        )

    def grad_output(self) -> Tensor:
        return make_inputs(self.case.of(offsets="zero"), self.seed).grad_output

    def definition(self, tensors: dict[str, Tensor | None]) -> Tensor:
        """By torch's convolution and torchvision's deformable one."""
        offsets = [
            conv2d(tensors["features"], tensors["offset_weight"][d], padding=pair, dilation=pair)
            for d, pair in enumerate(self.case.geometry.dilations)
        ]
        inputs = Inputs(
            tensors["input"], offsets, tensors["weight"], frame_weights=tensors["frame_weights"]
        )
        return run_torchvision(self.case, inputs)

    def expected(self) -> Tensor:
        return self.definition(doubles(self.tensors()))


def doubles(tensors: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {n: None if t is None else t.double() for n, t in tensors.items()}


def results(
    function: Callable[[dict[str, Tensor | None]], Tensor],
    tensors: dict[str, Tensor | None],
    grad_output: Tensor,
    only: tuple[str, ...] = NAMES,
) -> dict[str, Tensor]:
    """``{"output": ..., name: gradient}``."""
    leaves = {
        n: None if t is None else t.detach().requires_grad_(n in only) for n, t in tensors.items()
    }
    output = function(leaves)
    output.backward(grad_output)
    gradients = {n: t.grad for n, t in leaves.items() if t is not None and t.grad is not None}
    return {"output": output.detach(), **gradients}


EVERYTHING = Call(
    Case(frames=6, channels=6, out_channels=4, size=(5, 7), dilations=(1, 3), offset_groups=3,
         groups=2, window=3)
)  # fmt: skip
CALLS = {
    "plain": Call(Case(frames=1, size=(4, 5))),
    "everything": EVERYTHING,
    "one pixel": Call(Case(size=(1, 1), dilations=(2, 5))),
    "one row": Call(Case(size=(1, 41), offset_groups=2, dilations=(1, 4))),
    "one column": Call(Case(size=(41, 1), offset_groups=4, dilations=(2, 3))),
    "map smaller than the dilation": Call(Case(size=(5, 7), dilations=(7, 24, 2**20))),
    "one feature": Call(Case(size=(6, 5), offset_groups=2), features=1),
    "33 features": Call(Case(size=(6, 5), dilations=(1, 2)), features=33),
    "different dilations in y and x": Call(Case(size=(7, 6), dilations=((1, 3), (4, 2)))),
    "sum of dilations": Call(Case(size=(4, 4), dilations=(1, 2, 3), reduction="sum")),
    "kernel 1x1": Call(Case(kernel=(1, 1), size=(4, 5), dilations=(1, 2))),
    "kernel 3x5": Call(Case(kernel=(3, 5), size=(5, 4), offset_groups=2)),
    "depthwise": Call(Case(channels=6, out_channels=6, groups=6, size=(4, 3), offset_groups=2)),
    "frames of one": Call(Case(frames=3, window=1, size=(3, 4))),
    "runs that cross rows": Call(Case(frames=1, size=(31, 37), channels=2, offset_groups=2)),
    "runs of whole panels": Call(Case(frames=1, size=(16, 32), channels=2, out_channels=3)),
    "heatmaps": Call(
        Case(channels=17, out_channels=17, offset_groups=17, size=(24, 18), dilations=(3, 6, 24)),
        features=16,
    ),
    "150 outputs": Call(Case(frames=1, channels=3, out_channels=150, size=(9, 9))),
    "batch 0": Call(Case(frames=0)),
    "batch 0 of windows": Call(Case(frames=0, window=3)),
}  # fmt: skip


@functools.cache
def expected(name: str) -> dict[str, Tensor]:
    call = CALLS[name].of(dtype=torch.float64)
    return results(call.definition, call.tensors(), call.grad_output())
