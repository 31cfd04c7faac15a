"""Files of tensors and plain values: PyTorch's own, and safetensors by the suffix of their name.

Of PyTorch's files nothing else is unpickled, but for what published files have beside their
weights and what cannot do anything: numbers and arrays of numpy, and mmengine's training logs,
which come as empty objects.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posewarper.files import whole_file

SAFETENSORS = ".safetensors"
_ABOUT = "posewarper"  # where a file holds what its weights mean


class _Log:
    """Stands in for an object whose content nobody needs."""

    def __setstate__(self, state: object) -> None:
        pass


def _harmless() -> list[Any]:
    """Types and functions that may be unpickled, under the names that files have for them."""
    package = getattr(np, "_core", None) or np.core
    functions = [
        (getattr(package.multiarray, name), f"numpy.{folder}.multiarray.{name}")
        for folder in ("core", "_core")  # before and since NumPy 2
        for name in ("scalar", "_reconstruct")
    ]
    kinds = {type(np.dtype(code)) for code in "?bhilqBHILQefdgFDGSU"}
    logs = (_Log, "mmengine.logging.history_buffer.HistoryBuffer")
    return [*functions, np.ndarray, np.dtype, *kinds, logs]


def read_content(path: str | Path) -> Any:
    """What a file holds, of tensors and plain values; see ``write_content``.

    Raises:
        ValueError: the file is damaged, or there is something else in it; names that.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == SAFETENSORS:
            return _read_safetensors(path)
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError, ImportError):
        raise
    except Exception as error:  # damaged files fail in many ways
        text = re.sub(r"\x1b\[[\d;]*m", "", str(error)).strip()  # PyTorch colours its messages
        raise ValueError(
            f"{path}: not a checkpoint that can be read{_reason(text, error)}"
        ) from error


def _reason(text: str, error: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"Unsupported class ([\w.]+)", text)
    if found:
        return (
            f": there is more than tensors in it ({found[1]}), which could run programs; if you "
            'trust the file, save its weights alone: python -c "import torch; c = torch.load('
            "'FILE', weights_only=False); torch.save(c['state_dict'], 'weights.pth')\" (with the "
            "name that they have in it; of a whole network c.state_dict())"
        )
    first = (text.splitlines() or [type(error).__name__])[0]
    return f", or more than tensors in it ({first})"


def _read_safetensors(path: Path) -> Any:
    from safetensors import safe_open

    with open(path, "rb"):  # the errors of Python, which name the file
        pass
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = (file.metadata() or {}).get(_ABOUT)
    return tensors if about is None else {"model": tensors, _ABOUT: json.loads(about)}


def write_content(
    tensors: Mapping[str, Tensor], path: str | Path, about: Mapping[str, Any] | None = None
) -> None:
    """Write weights, and what they mean if that is given; the file appears whole or not at all.

    A name that ends in .safetensors makes such a file, any other PyTorch's.

    Args:
        tensors: the weights.
        path: where to.
        about: plain values.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    own = {key: tensor.cpu().clone().contiguous() for key, tensor in tensors.items()}
    with whole_file(path) as partial, open(partial, "wb") as file:
        if path.suffix.lower() == SAFETENSORS:
            from safetensors.torch import save

            said = {} if about is None else {_ABOUT: json.dumps(about)}
            file.write(save(own, {"format": "pt", **said}))
        else:
            torch.save(own if about is None else {"model": own, _ABOUT: dict(about)}, file)
        file.flush()
        os.fsync(file.fileno())
