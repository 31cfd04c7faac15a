"""Libraries that come with the extra ``labels``, and HDF5 files, which one of them reads."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def import_optional(module: str, path: str | Path) -> Any:
    """A module that only ``pip install posewarper[labels]`` brings, imported when it is needed.

    Raises:
        ValueError: it is not installed; names the file that needs it and what to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path}: this format needs the package {module.partition('.')[0].replace('_', '-')} "
            f"(missing: {error.name}), which pip install 'posewarper[labels]' brings"
        ) from None


@contextmanager
def open_hdf(path: Path, what: str) -> Iterator[Any]:
    """An HDF5 file to read; whatever is not as expected in it becomes one line.

    Raises:
        ValueError: it cannot be read as ``what``, or h5py is missing; names the file.
    """
    h5py = import_optional("h5py", path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        text = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read as {what}: {text}") from None
