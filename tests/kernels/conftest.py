"""The backends that the tests of the operations run on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from interpreted import RELAY, test_in_a_process_that_interprets

from pwkernels.testing import cpu_instruction_sets, instruction_set


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a file that has it, either the relay to the interpreter runs or all other tests do."""
    relay = test_in_a_process_that_interprets.__name__
    elsewhere = [
        item
        for item in items
        if hasattr(getattr(item, "module", None), relay) and (item.name == relay) != RELAY
    ]
    if elsewhere:
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if item not in elsewhere]


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
