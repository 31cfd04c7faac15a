"""Measure and save: a suite under pytest-benchmark, then one results file of this machine.

    python -m benchmarks.run                    # the operation: half an hour on two cores
    python -m benchmarks.run --suite system     # training and aggregation

Use a machine that does nothing else. Options that are not listed here go to pytest; the suite's own
are in ``conftest.py`` (``--full``, ``--device``, ``--cases``, ``--budget``, ``--threads``,
``--stop-after``, ``--no-width``, ``--no-memory``, ``--smoke``; of the system also ``--sizes`` and
``--video``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import ceilings, results, system_tables, warp_tables

_SUITES = {
    "warp": ("test_bench_warp.py",),
    "system": ("test_bench_aggregation.py", "test_bench_training.py"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--suite", choices=_SUITES, default="warp")
    parser.add_argument("--out", type=Path, help="folder; by default benchmarks/results")
    parser.add_argument("--commit", help="what to record where there is no git repository")
    options, passed_on = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        command = [
            *(sys.executable, "-m", "pytest"),
            *(str(results.ROOT / "benchmarks" / name) for name in _SUITES[options.suite]),
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
    system = options.suite == "system"
    reached = ceilings.measure() if device == "cuda" else None
    if system and device == "cpu":
        reached = ceilings.measure_cpu()
    result = results.document(rows, device, options.commit, reached)
    folder = options.out or (results.FOLDER / "system" if system else results.FOLDER)
    path = results.save(result, folder)
    print((system_tables if system else warp_tables).short_table(result))
    print(f"{len(rows)} rows in {path}")
    if result["machine"].get("load_at_end", 0) > result["machine"]["cores"] + 0.7:
        print("the machine was busy with other things: these times are noise", file=sys.stderr)
    if status != 0:
        print("some rows failed and are missing from the file", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
