"""The benchmarks run, at tiny shapes: nothing here is a measurement."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import demo_table, own_video_table, report, results

ROOT = Path(__file__).parent.parent
MARKERS = "<!-- benchmarks:begin -->\n<!-- benchmarks:end -->"


def run(*arguments: object, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_every_row_runs_and_matches_the_reference() -> None:
    out = run(
        "-m", "pytest", "benchmarks", "--benchmark-disable", "--smoke", "--device", "cpu", "-q",
        "-p", "no:cacheprovider",
    )  # fmt: skip
    assert "passed" in out and "skipped" not in out


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of a tiny run."""
    folder = tmp_path_factory.mktemp("results")
    run(
        "-m", "benchmarks.run", "--smoke", "--device", "cpu", "--cases", "window,single",
        "--out", folder, "--commit", "abc1234",
    )  # fmt: skip
    return folder


def test_results_file(saved: Path) -> None:
    (path,) = saved.glob("*.json")
    text = path.read_text()
    result = json.loads(text)
    assert set(result) == {"schema", "machine", "versions", "commit", "date", "rows"}
    assert result["commit"] == "abc1234"
    keys = [(r["case"], r["what"], r["implementation"]) for r in result["rows"]]
    assert len(keys) == len(set(keys))
    # onnxruntime has no release with DeformConv for Python 3.10.
    assert ("window", "forward", "onnxruntime") in keys or sys.version_info < (3, 11)
    assert ("width-c16-g4", "forward+backward+input", "pwkernels-kernel") in keys
    for row in result["rows"]:
        assert row["matches"] and row["relative_error"] < 1e-4
        assert 0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"]
    assert str(ROOT) not in text and str(Path.home()) not in text


def test_report(saved: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{MARKERS}\n\nThe rest.\n")
    command = ["--results", str(saved), "--readme", str(readme)]
    assert report.main([*command, "--check"]) == 1
    assert report.main(command) == 0
    run("-m", "benchmarks.report", *command, "--check")
    text = readme.read_text()
    assert text.startswith("# Title\n\n") and text.endswith("\n\nThe rest.\n")
    assert "| window | forward |" in text and "abc1234" in text and "Not yet measured" in text
    images = sorted((tmp_path / "docs" / "images").iterdir())
    assert len(images) == 2 and all(image.name in text for image in images)
    before = [image.read_bytes() for image in images]
    report.main(command)
    assert readme.read_text() == text and [image.read_bytes() for image in images] == before


def fake_result(**changes: object) -> dict:
    """A result of a GPU that does not exist."""
    row = {
        "case": "window", "what": "forward", "dtype": "float32", "device": "cuda", "threads": 1,
        "matches": True, "relative_error": 1e-7, "worst_result": "output", "rounds": 3,
        "peak_extra_bytes": 2_000_000, "compulsory_bytes": 10**9,
        "p20_ms": 0.9, "p50_ms": 1.0, "p80_ms": 1.1, "graph_ms": [0.4, 0.5, 0.6],
    }  # fmt: skip
    ours = {**row, "implementation": "pwkernels"}
    half = {**ours, "dtype": "bfloat16"}
    baseline = {**row, "implementation": "torchvision", "p50_ms": 20.0, "graph_ms": [9, 10, 11]}
    return {
        "schema": 1,
        "machine": {"device": "cuda", "gpu": "Some GPU", "cpu": "CPU", "cores": 2},
        "versions": {"python": "3.12.0", "torch": "2.11.0", "torchvision": "0.26.0"},
        "commit": "abc1234",
        "date": "2026-01-01",
        "ceilings": {"copy_bytes_per_second": 4e12, "bf16_operations_per_second": 8e14},
        "rows": [{**ours, **changes}, half, baseline],
    }


def test_report_of_a_gpu() -> None:
    text = report.section([fake_result()])
    fields = [field.strip() for field in next(
        line for line in text.splitlines() if line.startswith("| window, float32")
    ).split("|")]  # fmt: skip
    assert fields[3] == "1 (0.9–1.1)" and fields[5] == "20"
    assert fields[6] == "0.5" and fields[7] == "20" and fields[8] == "50 %"
    assert "in float32" in next(x for x in text.splitlines() if x.startswith("| window, bfloat16"))


def test_a_wrong_result_has_no_speed() -> None:
    text = report.section([fake_result(matches=False, relative_error=0.3)])
    line = next(line for line in text.splitlines() if line.startswith("| window, float32"))
    fields = [field.strip() for field in line.split("|")]
    assert fields[3] == "wrong" and fields[5:9] == ["–"] * 4
    assert "**no** (output), 3e-01" in line


def test_the_latest_result_of_a_machine_is_shown(tmp_path: Path) -> None:
    for date, commit in (("2026-01-02", "newer"), ("2026-01-01", "older")):
        results.save({**fake_result(), "date": date, "commit": commit}, tmp_path)
    assert [result["commit"] for result in results.load_latest(tmp_path)] == ["newer"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_memory() -> None:
    row = json.loads(run("-m", "benchmarks.memory", "--case", "window", "--smoke"))
    assert row["implementation"] == "pwkernels"
    assert 0 <= row["peak_extra_bytes"] < 16e6


def test_gpu_script_without_a_gpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        assert "no GPU" in run("-m", "benchmarks.gpu_run", code=2)
    out = run("-m", "benchmarks.gpu_run", "--dry-run", "--out", tmp_path)
    assert "correctness: 6 of 6 right" in out
    assert (tmp_path / "correctness.json").exists()


def demo_result(gain: float) -> dict[str, object]:
    groups = dict.fromkeys(("all", "clear", "blurred", "occluded"), 50.0 + gain)
    table = {"PCKh@0.5": groups, "PCKh@0.25": {"all": 30.0 + gain}}
    return {
        "propagation": dict.fromkeys(demo_table._PROPAGATION, table),
        "models": dict.fromkeys(demo_table._MODELS, table),
        "claims": [{"mean": gain, "low": gain - 2}] * 3,
        "seconds": {"a": 60.0, "b": 30.0},
        "data": {"sparse": {"labelled_frames": 4, "frames": 29}},
    }


def test_tables_of_the_demo(tmp_path: Path) -> None:
    for seed, gain in ((0, 1.0), (10, 3.0), (9, 5.0)):
        (tmp_path / f"seed-{seed}.json").write_text(json.dumps(demo_result(gain)))
    found = demo_table.load(tmp_path)
    assert list(found) == [0, 9, 10]
    text = demo_table.section(found)
    assert "53.0 (51.0–55.0)" in text and "1.5 (1.5–1.5) minutes" in text
    assert "(1) 3.0 (1.0–5.0)" in text and "2, 2 and 2 of 3 seeds" in text
    assert "strict limit" not in text  # no baseline is ahead
    readme = tmp_path / "README.md"
    readme.write_text(f"a\n{demo_table.BEGIN}\n{demo_table.END}\nb\n")
    options = ["--results", str(tmp_path), "--readme", str(readme)]
    assert demo_table.main([*options, "--check"]) == 1
    assert demo_table.main(options) == 0
    assert demo_table.main([*options, "--check"]) == 0
    assert text in readme.read_text()


def test_table_of_own_videos(tmp_path: Path) -> None:
    of_method = {"pck": {"0.02": 0.5, "0.05": 0.75, "0.1": 1.0}}
    result = {
        "hidden": dict.fromkeys(own_video_table._METHODS, of_method),
        "seconds": {"1/3 train": 120.0, "2/3 measure on hidden labels": 600.0, "3/3 film": 60.0},
        "labelled_by_hand": 9,
        "frames": 60,
    }
    (tmp_path / "two mice.json").write_text(json.dumps(result))
    text = own_video_table.section(own_video_table.load(tmp_path))
    assert "| two mice | 9 of 60 | 3.0 | .500 / .750 / 1.000 |" in text
    readme = tmp_path / "README.md"
    readme.write_text(f"a\n{own_video_table.BEGIN}\n{own_video_table.END}\nb\n")
    options = ["--results", str(tmp_path), "--readme", str(readme)]
    assert own_video_table.main([*options, "--check"]) == 1
    assert own_video_table.main(options) == 0
    assert own_video_table.main([*options, "--check"]) == 0


def test_readme_has_the_tables() -> None:
    assert demo_table.main(["--check"]) == 0
    assert own_video_table.main(["--check"]) == 0
