"""Libraries that come with the extra ``labels``."""

from __future__ import annotations

import importlib
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
