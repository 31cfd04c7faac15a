"""The backends that the tests of the operations run on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from pwkernels.testing import cpu_instruction_sets, instruction_set

COMPILED = [f"cpu {name}" for name in cpu_instruction_sets()]


@pytest.fixture(params=[*COMPILED, "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every variant of the compiled CPU kernel that the processor runs, and the plain reference."""
    name, _, variant = request.param.partition(" ")
    with instruction_set(variant) if variant else contextlib.nullcontext():
        yield name


@pytest.fixture(params=COMPILED)
def cpu_variant(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every variant of the compiled CPU kernel that the processor runs."""
    variant = request.param.removeprefix("cpu ")
    with instruction_set(variant):
        yield variant
