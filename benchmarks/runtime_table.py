"""The table of runtimes in docs/deployment.md: measures, and keeps it.

    python -m benchmarks.runtime_table --measure --sizes small          # a machine at rest
    python -m benchmarks.runtime_table --measure --sizes w32-256x192
    python -m benchmarks.runtime_table                                  # --check: compare

Options that are not listed here go to pytest: ``--budget`` (seconds per row), ``--threads``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.report import keep
from benchmarks.timing import percentiles

FOLDER = results.FOLDER / "runtimes"  # a folder per size
DOCUMENT = results.ROOT / "docs" / "deployment.md"
BEGIN, END = "<!-- runtimes:begin -->", "<!-- runtimes:end -->"
NAMES = {
    "eager": "PyTorch",
    "compiled": "torch.compile",
    "onnxruntime": "onnxruntime",
    "aoti": "ahead of time",
}
_FIELDS = (
    "case what batch implementation dtype device threads matches relative_error bound "
    "preparation_seconds"
).split()


def rows_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows from the JSON that pytest-benchmark writes."""
    rows = []
    for entry in report["benchmarks"]:
        p20, p50, p80 = (1e3 * value for value in percentiles(entry["stats"]["data"]))
        row = {field: entry["extra_info"][field] for field in _FIELDS}
        row |= {"p20_ms": p20, "p50_ms": p50, "p80_ms": p80, "rounds": entry["stats"]["rounds"]}
        rows.append(row)
    return rows


def measure(folder: Path, commit: str | None, arguments: Sequence[str]) -> int:
    """Runs the suite, and saves one file per size.

    Returns:
        The exit status of the suite.
    """
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "raw.json"
        command = [
            *(sys.executable, "-m", "pytest", "benchmarks/test_bench_runtimes.py", "-q"),
            *("-p", "no:cacheprovider", "--benchmark-quiet", f"--benchmark-json={raw}"),
            *arguments,
        ]
        status = subprocess.run(command, cwd=results.ROOT).returncode
        text = raw.read_text() if raw.exists() else ""
    rows = rows_of(json.loads(text)) if text else []
    for size in dict.fromkeys(row["case"] for row in rows):
        chosen = [row for row in rows if row["case"] == size]
        result = results.document(chosen, chosen[0]["device"], commit)
        print(results.save(result, folder / size))
    if not rows or status != 0:
        print("some or all rows failed and are not in the files", file=sys.stderr)
        return status or 1
    return 0


def load(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The latest result of each size and machine."""
    sizes = sorted(path for path in folder.glob("*") if path.is_dir())
    return [result for size in sizes for result in results.load_latest(size)]


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    if not row["matches"]:
        return "wrong"
    low, middle, high = (f"{row[key]:.3g}" for key in ("p20_ms", "p50_ms", "p80_ms"))
    return f"{middle} ({low}–{high})"


def section(found: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown."""
    if not found:
        return "Not yet measured."
    parts = [
        "Milliseconds per call, median (20th–80th percentile): RGB bytes in, heatmaps and joints "
        "out, float32, random weights. Before it was timed, each runtime gave the heatmaps of the "
        "model in PyTorch within the error shown, the largest of all rows. Made by "
        "`python -m benchmarks.runtime_table`."
    ]
    for result in found:
        machine, versions, rows = result["machine"], result["versions"], result["rows"]
        name = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
        known = ", ".join(
            f"{key} {versions[key]}" for key in ("torch", "onnxruntime") if key in versions
        )
        lines = [
            "| model | mode | batch | " + " | ".join(NAMES.values()) + " |",
            "| :-- | :-- |" + " --: |" * (1 + len(NAMES)),
        ]
        by_key = {(row["what"], row["batch"], row["implementation"]): row for row in rows}
        for mode, batch in dict.fromkeys((row["what"], row["batch"]) for row in rows):
            cells = [_cell(by_key.get((mode, batch, key))) for key in NAMES]
            lines.append(f"| {rows[0]['case']} | {mode} | {batch} | " + " | ".join(cells) + " |")
        prepared = [
            f"{title} {max(seconds):.0f} s"
            for key, title in NAMES.items()
            if (seconds := [r["preparation_seconds"] for r in rows if r["implementation"] == key])
        ]
        worst = max(row["relative_error"] for row in rows)
        parts += [
            f"**{name}** · {known} · commit `{result['commit']}` · {result['date']}",
            "\n".join(lines),
            f"Error at most {worst:.0e} of the largest value (limit {rows[0]['bound']:.0e}). "
            f"Making it ready, first call included, took at most: {', '.join(prepared)}.",
        ]
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtime_table", allow_abbrev=False)
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    parser.add_argument("--check", action="store_true", help="change nothing, compare")
    parser.add_argument("--measure", action="store_true", help="run the suite first")
    parser.add_argument("--commit", help="what to record where there is no git repository")
    options, passed_on = parser.parse_known_args(arguments)
    if passed_on and not options.measure:
        parser.error(f"only --measure has the options {' '.join(passed_on)}")
    status = 0
    if options.measure:
        status = measure(options.results, options.commit, passed_on)
    content = section(load(options.results))
    kept = keep(options.document, content, (BEGIN, END), "benchmarks.runtime_table", options.check)
    return kept or status


if __name__ == "__main__":
    sys.exit(main())
