"""Measure and save: the suite under pytest-benchmark, then one results file of this machine.

    python -m benchmarks.run --out benchmarks/results

Use a machine that does nothing else. Options that are not listed here go to pytest; the suite's own
are in ``conftest.py`` (``--full``, ``--device``, ``--cases``, ``--budget``, ``--threads``,
``--stop-after``, ``--no-width``, ``--no-memory``, ``--smoke``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import ceilings, report, results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=results.FOLDER)
    parser.add_argument("--commit", help="what to record where there is no git repository")
    options, passed_on = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        command = [
            *(sys.executable, "-m", "pytest", str(results.ROOT / "benchmarks")),
            *("--rootdir", str(results.ROOT), "-q", "-p", "no:cacheprovider"),
            *("--benchmark-only", f"--benchmark-json={raw}", "--benchmark-quiet"),
            *passed_on,
        ]
        status = subprocess.run(command, cwd=results.ROOT).returncode
        text = raw.read_text() if raw.exists() else ""
    rows = results.rows_of(json.loads(text)) if text else []
    if not rows:
        print("no results", file=sys.stderr)
        return status or 1
    device = rows[0]["device"]
    reached = ceilings.measure() if device == "cuda" else None
    result = results.document(rows, device, options.commit, reached)
    path = results.save(result, options.out)
    print(report.short_table(result))
    print(f"{len(rows)} rows in {path}")
    if result["machine"].get("load_at_end", 0) > result["machine"]["cores"] + 0.7:
        print("the machine was busy with other things: these times are noise", file=sys.stderr)
    if status != 0:
        print("some rows failed and are missing from the file", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
