"""The table of runtimes in docs/deployment.md, from results that nobody measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import results, runtime_table


def runtime_result(**changes: object) -> dict:
    row = {
        "case": "small", "what": "single", "batch": 8, "implementation": "eager",
        "dtype": "float32", "device": "cpu", "threads": 2, "matches": True, "relative_error": 1e-6,
        "bound": 1e-4, "preparation_seconds": 1.0, "rounds": 3,
        "p20_ms": 0.9, "p50_ms": 1.0, "p80_ms": 1.1,
    }  # fmt: skip
    aoti = {**row, "implementation": "aoti", "p50_ms": 0.5, "preparation_seconds": 20.0, **changes}
    return {
        "schema": 1,
        "machine": {"device": "cpu", "cpu": "CPU", "cores": 2, "threads": 2},
        "versions": {"python": "3.12.0", "torch": "2.15.0", "onnxruntime": "1.31.1"},
        "commit": "abc1234",
        "date": "2026-01-01",
        "rows": [row, aoti],
    }


def test_table_of_runtimes(tmp_path: Path) -> None:
    folder, document = tmp_path / "runtimes", tmp_path / "deployment.md"
    results.save(runtime_result(), folder / "small")
    document.write_text(f"a\n{runtime_table.BEGIN}\n{runtime_table.END}\nb\n")
    options = ["--results", str(folder), "--document", str(document)]
    assert runtime_table.main([*options, "--check"]) == 1
    assert runtime_table.main(options) == 0
    assert runtime_table.main([*options, "--check"]) == 0
    text = document.read_text()
    assert "| small | single | 8 | 1 (0.9–1.1) | – | – | 0.5 (0.9–1.1) |" in text
    assert "PyTorch 1 s, ahead of time 20 s" in text and "limit 1e-04" in text
    wrong = runtime_table.section([runtime_result(matches=False)])
    assert "| 1 (0.9–1.1) | – | – | wrong |" in wrong
    with pytest.raises(SystemExit):
        runtime_table.main([*options, "--budget", "1"])


def test_document_has_the_table() -> None:
    assert runtime_table.main(["--check"]) == 0
