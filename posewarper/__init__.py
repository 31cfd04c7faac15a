"""PoseWarper: pose estimation in video, learned from sparse labels (arXiv 1906.04016).

The functions of the command line are here under the same names: ``posewarper.evaluate(...)`` is
``posewarper evaluate``. For programs that predict: ``load_model`` and ``PosePredictor``.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_COMMANDS = (
    "aggregate", "augment", "convert", "demo", "evaluate", "fit", "predict", "propagate",
    "sparsify", "stats", "suggest", "synthesize", "train", "view",
)  # fmt: skip
_CLASSES = {
    "PoseModel": "posewarper.models",
    "PosePredictor": "posewarper.inference",
    "load_model": "posewarper.models",
    "save_model": "posewarper.models",
}

__all__ = ["__version__", "export", *_CLASSES, *_COMMANDS]


def __getattr__(name: str) -> Any:
    # Imported on demand: the packages below the command line do not need it.
    if name in _COMMANDS:
        from posewarper import cli

        return cli.command(name)
    if name == "export":  # a package, which can be called
        return importlib.import_module("posewarper.export")
    if name in _CLASSES:
        return getattr(importlib.import_module(_CLASSES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
