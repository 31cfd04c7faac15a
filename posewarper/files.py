"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A name to write to, beside ``path``, which takes the place of ``path`` when all went well.

    A reader sees the old file or the whole new one, never a part; after an error or an
    interrupt the old one is untouched.

    Raises:
        OSError: the folder does not exist or cannot be written to.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: str | Path) -> Any:
    """Content of a JSON file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no JSON; names the file and the place.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except RecursionError:
        raise ValueError(f"{path}: no valid JSON: lists and objects nested too deep") from None
    except ValueError as error:  # also text that is no Unicode, and numbers of 5000 digits
        raise ValueError(f"{path}: no valid JSON: {error}") from None


def write_json(path: str | Path, content: Any) -> None:
    """Write a file, and its folder, as a whole or not at all; see ``whole_file``.

    Raises:
        ValueError: a number is not finite.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        text = json.dumps(content, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def check_place(out: Path, folder: bool) -> None:
    """An error before the work, not after it.

    Args:
        out: file to write, or folder to write to.
        folder: which of them.

    Raises:
        ValueError: the other one is there, or a file where a folder above it would have to be.
    """
    if folder and out.is_file():
        raise ValueError(f"out: expected a folder to write to, got the file {out}")
    if not folder and out.is_dir():
        raise ValueError(f"out: expected a file to write, got the folder {out}")
    above = next(parent for parent in out.absolute().parents if parent.exists())
    if not above.is_dir():
        raise ValueError(f"out: {out} cannot be written, as {above} is a file")


def visible(paths: Iterable[Path]) -> list[Path]:
    """In order, without hidden ones: macOS leaves a ``._x`` beside every file on foreign disks."""
    return sorted(path for path in paths if not path.name.startswith("."))
