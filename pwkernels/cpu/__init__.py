"""The compiled CPU kernel: finding and loading the shared library.

The library is plain C (see ``src/warp.h``) and is called through ctypes, so that one build serves
every Python and torch version. Where it is missing, ``why_unavailable`` says why.
"""

from __future__ import annotations

import ctypes
import struct
import warnings
from functools import lru_cache
from pathlib import Path

_ABI_VERSION = 2
_HERE = Path(__file__).parent
_LIBRARY = _HERE / "_warp.so"
_BUILD_FAILURE = _HERE / "_build_failure.txt"


@lru_cache(maxsize=1)
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    if not _LIBRARY.exists():
        reason = (
            _BUILD_FAILURE.read_text().strip() if _BUILD_FAILURE.exists() else "it was not built"
        )
        return None, f"the compiled CPU kernel {_LIBRARY.name} is missing: {reason}"
    if _is_cut_off(_LIBRARY):
        return (
            None,
            f"the compiled CPU kernel {_LIBRARY.name} is cut off; install the package again",
        )
    try:
        library = ctypes.CDLL(str(_LIBRARY))
        version = library.pw_abi_version()
    except (OSError, AttributeError) as error:
        return None, f"the compiled CPU kernel {_LIBRARY.name} does not load: {error}"
    if version != _ABI_VERSION:
        return None, (
            f"the compiled CPU kernel {_LIBRARY.name} is from another version "
            f"(interface {version}, expected {_ABI_VERSION}); install the package again"
        )
    library.pw_active_isa.restype = ctypes.c_char_p
    return library, None


def why_unavailable() -> str | None:
    """None where the compiled kernel is loaded; else one sentence that says why it is not."""
    return _load()[1]


@lru_cache(maxsize=1)
def warn_if_unavailable() -> None:
    """Warn once per process that calls are slow, where the kernel is missing and not left out on
    purpose (``PWKERNELS_NO_CPU_KERNEL``).
    """
    reason = why_unavailable()
    if reason is not None and "PWKERNELS_NO_CPU_KERNEL" not in reason:
        warnings.warn(
            f"pwkernels computes on its plain path, 10 to 15 times slower: {reason}. With a C++ "
            "compiler there, install it again without pip's cache: pip install --no-cache-dir "
            "--force-reinstall --no-deps (PWKERNELS_REQUIRE_CPU_KERNEL=1 makes a failed build an "
            "error)",
            RuntimeWarning,
            stacklevel=2,
        )


def _is_cut_off(path: Path) -> bool:
    """Whether an ELF file lacks its end: loading it would end the process by a bus error."""
    with open(path, "rb") as file:
        header = file.read(64)
    if header[:5] != b"\x7fELF\x02":  # 64 bits; others are for the loader to judge
        return False
    if len(header) < 64:
        return True
    order = "<" if header[5] == 1 else ">"
    (table,) = struct.unpack_from(f"{order}Q", header, 40)  # of sections, at the end of the file
    size, count = struct.unpack_from(f"{order}HH", header, 58)
    return path.stat().st_size < int(table) + int(size) * int(count)


def library() -> ctypes.CDLL:
    """The loaded library.

    Raises:
        RuntimeError: it is not available.
    """
    loaded, reason = _load()
    if loaded is None:
        raise RuntimeError(reason)
    return loaded


def instruction_set() -> str:
    """The code that this processor runs: ``"avx512"``, ``"avx2"`` or ``"baseline"``.

    Raises:
        RuntimeError: the library is not available.
    """
    return library().pw_active_isa().decode()
