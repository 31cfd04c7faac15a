"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
