"""The benchmarks run, at tiny shapes: nothing here is a measurement."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import (
    aggregating,
    demo_table,
    own_video_table,
    report,
    results,
    system_tables,
    training_steps,
    warp_tables,
)
from benchmarks.baseline import BaselineWarper
from benchmarks.system_cases import SIZES, make_model, normalised

ROOT = Path(__file__).parent.parent
MARKERS = "\n".join([*report.WARP, "", *report.SYSTEM])


def run(*arguments: object, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        # pytest-benchmark measures nothing in a process that takes itself for one of xdist's.
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_every_row_runs_and_matches_the_reference() -> None:
    out = run(
        "-m", "pytest", "benchmarks/test_bench_warp.py", "--benchmark-disable", "--smoke",
        "--device", "cpu", "-q", "-p", "no:cacheprovider",
    )  # fmt: skip
    assert "passed" in out and "skipped" not in out


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of tiny runs of both suites."""
    folder = tmp_path_factory.mktemp("results")
    run(
        "-m", "benchmarks.run", "--suite", "system", "--smoke", "--device", "cpu",
        "--out", folder / "system", "--commit", "abc1234",
    )  # fmt: skip
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
    readme, page = tmp_path / "README.md", tmp_path / "docs" / "benchmarks.md"
    page.parent.mkdir()
    for path in (readme, page):
        path.write_text(f"# Title\n\n{MARKERS}\n\nThe rest.\n")
    command = ["--results", str(saved), "--readme", str(readme)]
    assert report.main([*command, "--check"]) == 1
    assert report.main(command) == 0
    run("-m", "benchmarks.report", *command, "--check")
    text, all_of_it = readme.read_text(), page.read_text()
    for shown in (text, all_of_it):
        assert shown.startswith("# Title\n\n") and shown.endswith("\n\nThe rest.\n")
        assert "| window | forward |" in shown and "abc1234" in shown
        assert "not yet measured" in shown and "| smoke, warp |" in shown
    assert "width" not in text and "| 16, 1 | forward |" in all_of_it
    assert "(docs/images/speed-" in text and "(images/speed-" in all_of_it
    images = sorted((tmp_path / "docs" / "images").iterdir())
    assert len(images) == 3 and all(image.name in all_of_it for image in images)
    before = [image.read_bytes() for image in images]
    report.main(command)
    assert readme.read_text() == text and [image.read_bytes() for image in images] == before
    page.write_text(all_of_it.replace("| window |", "| door |"))
    assert report.main([*command, "--check"]) == 1


def test_results_of_the_system(saved: Path) -> None:
    (path,) = (saved / "system").glob("*.json")
    result = json.loads(path.read_text())
    rows = {(r["what"], r["implementation"]): r for r in result["rows"]}
    assert len(rows) == len(result["rows"])
    for row in result["rows"]:
        assert row["matches"] and 0 <= row["relative_error"] <= row["bound"]
        assert 0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"] and row["items"] > 0
    for what in ("one person", "windows", "video", "video, held boxes", "warp step", "pose step"):
        assert {(what, "baseline"), (what, "posewarper"), (what, "posewarper-bf16")} <= set(rows)
        assert rows[what, "posewarper"]["relative_error"] > 0 or what.startswith("video")
    assert ("windows", "posewarper-held") in rows and ("warp data, 0 workers", "baseline") in rows
    parts = rows["one person", "baseline"]["operations_by_part"]
    frames = len(SIZES["smoke"].config.window)
    assert rows["one person", "baseline"]["operations"] == frames * sum(parts.values())
    held, apart = (rows["windows", f"posewarper{kind}"]["operations"] for kind in ("-held", ""))
    windows = SIZES["smoke"].windows
    saved_frames = windows * frames - (windows + frames - 1)
    assert apart - held == saved_frames * parts["backbone"]
    split = rows["video", "posewarper"]["split_ms"]
    assert all(split[part] > 0 for part in ("decode", "crop", "network", "decode joints", "write"))
    assert set(result["ceilings"]) == {"fp32_operations_per_second", "bf16_operations_per_second"}


def test_the_baseline_is_the_network_written_plainly() -> None:
    model, crops = make_model(SIZES["smoke"]), aggregating.make_crops(SIZES["smoke"], "windows")
    frames = normalised(aggregating.windows_of(crops, 5))
    baseline = BaselineWarper(model)
    with torch.no_grad():
        expected, found = model.network.aggregate(frames), baseline.aggregate(frames)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        # Every part matters: none of them can be wrong without being seen.
        for part in (baseline.backbone, baseline.offset_feats, baseline.offsets, baseline.kernels):
            kept = [parameter.clone() for parameter in part.parameters()]
            for parameter in part.parameters():
                parameter *= 1.05
            changed = aggregating.difference(baseline.aggregate(frames), expected)
            assert changed > 10 * aggregating.BOUNDS["fp32"]
            for parameter, old in zip(part.parameters(), kept, strict=True):
                parameter.copy_(old)
    assert aggregating.difference(found[:1], expected) == float("inf")
    assert aggregating.difference(found * float("nan"), expected) == float("inf")


def test_gradients_of_another_loss_are_noticed() -> None:
    size = SIZES["smoke"]
    expected = training_steps.expected_step(size, "warp", "cpu")
    assert training_steps.difference(expected, expected) == 0
    twice = {name: 2 * moved for name, moved in expected.items()}
    for wrong in (twice, twice | {"loss": expected["loss"]}, {"loss": expected["loss"]}):
        assert training_steps.difference(wrong, expected) > training_steps.BOUNDS["bf16"]
    assert {"warp.weight", "offsets.0.weight", "loss"} <= set(expected)
    assert not any(name.startswith("backbone") for name in expected)


def system_result(**changes: object) -> dict:
    """A result of the system."""
    row = {
        "suite": "aggregation", "case": "small", "what": "windows", "dtype": "fp32", "items": 8,
        "matches": True, "relative_error": 1e-6, "bound": 1e-4, "operations": 10**9,
        "peak_extra_bytes": 5_000_000, "p20_ms": 95.0, "p50_ms": 100.0, "p80_ms": 105.0,
    }  # fmt: skip
    ours = {**row, "implementation": "posewarper", "p50_ms": 40.0, **changes}
    result = fake_result()
    result["machine"] = {**result["machine"], "device": "cpu", "instruction_set": "x", "threads": 2}
    result["ceilings"] = {"fp32_operations_per_second": 1e11}
    result["rows"] = [{**row, "implementation": "baseline"}, ours]
    return result


def test_tables_of_the_system() -> None:
    text = system_tables.section([system_result()])
    assert "| small | 80 | 200 (2.5) |" in text
    assert "| small, windows | posewarper | 40 (95–105) | 200 (2.5) | 25 % |" in text
    assert system_tables.bars(system_result()) == [
        "small, windows: 2.50 in fp32, 0.00 in bf16; wanted 2.5"
    ]
    wrong = system_tables.section([system_result(matches=False, relative_error=0.5)])
    assert "| small | 80 | wrong |" in wrong and "**no**: 5e-01 of 1e-04" in wrong
    assert "200" not in wrong


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
    text = warp_tables.section([fake_result()])
    fields = [field.strip() for field in next(
        line for line in text.splitlines() if line.startswith("| window, float32")
    ).split("|")]  # fmt: skip
    assert fields[3] == "1 (0.9–1.1)" and fields[5] == "20"
    assert fields[6] == "0.5" and fields[7] == "20" and fields[8] == "50 %"
    assert "in float32" in next(x for x in text.splitlines() if x.startswith("| window, bfloat16"))


def test_a_wrong_result_has_no_speed() -> None:
    text = warp_tables.section([fake_result(matches=False, relative_error=0.3)])
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_memory_of_training() -> None:
    row = json.loads(
        run("-m", "benchmarks.system_memory", "--size", "smoke", "--what", "warp step")
    )
    assert 0 < row["peak_extra_bytes"] < 64e6


def test_gpu_script_without_a_gpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        assert "no GPU" in run("-m", "benchmarks.gpu_run", code=2)
    out = run("-m", "benchmarks.gpu_run", "--dry-run", "--out", tmp_path)
    assert re.search(r"correctness: (\d+) of \1 right", out)
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
    assert report.main(["--check"]) == 0
    assert demo_table.main(["--check"]) == 0
    assert own_video_table.main(["--check"]) == 0
