"""Parts of tables of results: numbers, rows, ratios, headings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
Result = dict[str, Any]


def number(value: float | None, digits: int = 3) -> str:
    """A few digits; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text else text


def megabytes(row: Row | None) -> str:
    """Peak memory of a row beyond its inputs and results."""
    extra = None if row is None else row.get("peak_extra_bytes")
    return "–" if extra is None else f"{extra / 1e6:.1f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown; two columns of words, then numbers."""
    lines = [header, [(":--", "--:")[index > 1] for index in range(len(header))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def find(result: Result, case: str, what: str, implementation: str, dtype: str) -> Row | None:
    """The row of a measurement, if there is one."""
    for row in result["rows"]:
        key = (row["case"], row["what"], row["implementation"], row["dtype"])
        if key == (case, what, implementation, dtype):
            return row
    return None


def ratio(ours: Row, baseline: Row | None, field: str = "p50_ms") -> float | None:
    """How many times faster than the baseline; None where there is none, or ours is wrong."""
    if baseline is None or not ours["matches"]:
        return None
    times = [row.get(field) for row in (baseline, ours)]
    if field == "graph_ms":
        times = [None if value is None else value[1] for value in times]
    return None if None in times else times[0] / times[1]


def device_name(result: Result) -> str:
    """The GPU, or the processor and its cores."""
    machine = result["machine"]
    return machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores"


def heading(result: Result) -> str:
    """What was measured on, with which versions, and when."""
    machine = result["machine"]
    parts = [f"**{device_name(result)}**"]
    if machine["device"] == "cpu":
        parts.append(f"{machine['instruction_set']}, {machine['threads']} threads")
    parts.append(", ".join(f"{name} {version}" for name, version in result["versions"].items()))
    parts += [f"commit `{result['commit']}`", result["date"]]
    return " · ".join(parts)
