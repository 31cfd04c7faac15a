"""What holds for every test: fixed seeds, a share of the processors, no GPU test without a GPU."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest
import torch


class _TorchRandom:
    """Lets hypothesis reset torch's generator before every example, as it does for Python's."""

    def seed(self, value: int) -> None:
        torch.manual_seed(value)

    def getstate(self) -> torch.Tensor:
        return torch.get_rng_state()

    def setstate(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)


_torch_random = _TorchRandom()  # hypothesis keeps a weak reference only
hypothesis.register_random(_torch_random)

# Side by side (pytest -n), each process and its children take their share of the processors.
if "PYTEST_XDIST_WORKER" in os.environ:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    threads = max(1, (os.cpu_count() or 1) // workers)
    torch.set_num_threads(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))

# No deadline: the first example compiles, and the machine may be shared. The examples are the same
# in every run, so that a red run can be repeated; --hypothesis-profile=explore draws new ones.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, print_blob=True)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` on machines without a CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed every generator from the test's name: the order of tests and xdist change nothing."""
    seed = zlib.crc32(item.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For small networks, whose threads mostly wait for each other, on a busy machine for long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
