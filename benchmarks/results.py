"""The results file: machine, versions, commit, date, and one row per measurement.

A row has: case, what, implementation, dtype, device, threads, p20_ms, p50_ms, p80_ms, rounds,
matches, relative_error, peak_extra_bytes. Of the warp: worst_result, compulsory_bytes, and on CUDA
graph_ms. Of the system: suite, items (people or samples per call), bound (of the error),
operations, operations_by_part (per frame), first_epoch_ms, frames, video and split_ms (per frame).
Only fields that are listed here are written: no host name, user or path gets into a file.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import percentiles

ROOT = Path(__file__).parent.parent
FOLDER = Path(__file__).parent / "results"
SCHEMA = 1
_ROW_FIELDS = (
    "case what implementation dtype device threads matches relative_error worst_result "
    "peak_extra_bytes compulsory_bytes graph_ms suite items bound operations operations_by_part "
    "first_epoch_ms frames video split_ms"
).split()


def cpu_name() -> str:
    """The processor as the system names it, with family and model: a name may say little."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        return platform.processor() or platform.machine()
    name = fields.get("model name") or platform.machine()
    if "cpu family" in fields and "model" in fields:
        name += f" (family {fields['cpu family']}, model {fields['model']})"
    return name


def machine(device: str) -> dict[str, Any]:
    """What the numbers depend on: processor, its instruction set, or the GPU."""
    from pwkernels import cpu

    available = cpu.why_unavailable() is None
    described: dict[str, Any] = {
        "device": device,
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction_set": cpu.instruction_set() if available else None,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        described |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
        }
    else:
        described["load_at_end"] = round(os.getloadavg()[0], 2)
    return described


def versions() -> dict[str, str]:
    """Versions of everything that is timed; without local parts such as ``+cu132``."""
    found = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "triton", "onnxruntime"):
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The checked-out commit, marked where the code that is measured differs from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        )
        code = ["pwkernels", "posewarper", "benchmarks", "setup.py", ":!benchmarks/results"]
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", *code], capture_output=True, text=True
        )
    except FileNotFoundError:
        return "unknown"
    if head.returncode != 0:
        return "unknown"
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def rows_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows from the JSON that pytest-benchmark writes."""
    rows = []
    for entry in report["benchmarks"]:
        info, stats = entry["extra_info"], entry["stats"]
        seconds = info.get("seconds", stats["data"])  # of parts of a run that is timed by itself
        p20, p50, p80 = (1e3 * value for value in percentiles(seconds))
        row = {field: info[field] for field in _ROW_FIELDS if field in info}
        row |= {"p20_ms": p20, "p50_ms": p50, "p80_ms": p80, "rounds": len(seconds)}
        rows.append(row)
    return rows


def document(
    rows: list[dict[str, Any]],
    device: str,
    commit_name: str | None = None,
    ceilings: dict[str, float] | None = None,
) -> dict[str, Any]:
    """The content of a results file."""
    return {
        "schema": SCHEMA,
        "machine": machine(device),
        "versions": versions(),
        "commit": commit_name or commit(),
        "date": datetime.date.today().isoformat(),
        **({} if ceilings is None else {"ceilings": ceilings}),
        "rows": rows,
    }


def slug(result: dict[str, Any]) -> str:
    """File name (without date) of a machine."""
    described = result["machine"]
    name = described.get("gpu") or f"{described['cpu']} {described['cores']} cores"
    name = re.sub(r"\b(nvidia|processor|cpu|family|model)\b|\(r\)|\(tm\)", " ", name.lower())
    return "-".join(re.findall(r"[a-z0-9]+", f"{described['device']} {name}"))


def save(result: dict[str, Any], folder: Path) -> Path:
    """Write a results file; one of the same machine and date is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug(result)}-{result['date']}.json"
    head = {key: value for key, value in result.items() if key != "rows"}
    text = json.dumps(head, indent=1)[
        :-2
    ]  # a row a line keeps the file short and its diffs readable
    rows = ",\n  ".join(json.dumps(_rounded(row)) for row in result["rows"])
    path.write_text(f'{text},\n "rows": [\n  {rows}\n ]\n}}\n')
    return path


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(item) for item in value]
        if isinstance(value, dict):
            return _rounded(value)
        return float(f"{value:.5g}") if isinstance(value, float) else value

    return {key: short(value) for key, value in row.items()}


def load_latest(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The latest result of each machine, CPUs first.

    Raises:
        ValueError: a file of another schema.
    """
    latest: dict[str, dict[str, Any]] = {}
    for path in sorted([*folder.glob("cpu-*.json"), *folder.glob("cuda-*.json")]):
        result = json.loads(path.read_text())
        if result.get("schema") != SCHEMA:
            raise ValueError(f"{path.name}: expected schema {SCHEMA}, got {result.get('schema')}")
        key = slug(result)
        if key not in latest or latest[key]["date"] <= result["date"]:
            latest[key] = result
    return sorted(latest.values(), key=lambda r: (r["machine"]["device"] != "cpu", slug(r)))
