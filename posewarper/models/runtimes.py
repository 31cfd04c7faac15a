"""What programs that run exported files lack, in the words of those who can mend it."""

from __future__ import annotations


def not_loaded(what: str, version: str, error: Exception) -> str:
    """Why onnxruntime refuses a file, with the remedy where its version is the reason.

    Args:
        what: the file.
        version: of onnxruntime.
        error: its own, which may have several lines.
    """
    text = " ".join(str(error).split())
    remedy = ""
    if "DeformConv" in text:
        remedy = (
            "; onnxruntime has the operator DeformConv from 1.25 on (Python 3.11 or later); for "
            "older ones export with --deform_op GridSample"
        )
    return f"{what}: onnxruntime {version} does not load it: {text}{remedy}"
