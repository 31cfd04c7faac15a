"""PoseWarper: pose estimation in video, learned from sparse labels (arXiv 1906.04016).

The functions of the command line are here under the same names: ``posewarper.evaluate(...)`` is
``posewarper evaluate``.
"""

from typing import Any

__version__ = "0.1.0"

_COMMANDS = ("convert", "evaluate", "sparsify", "stats", "synthesize")

__all__ = ["__version__", *_COMMANDS]


def __getattr__(name: str) -> Any:
    # Imported on demand: the packages below the command line do not need it.
    if name in _COMMANDS:
        from posewarper import cli

        return getattr(cli, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_COMMANDS})
