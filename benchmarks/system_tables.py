"""Tables of the system: people per second, training, and where the time goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import plots
from benchmarks.tables import Result, Row, find, heading, megabytes, number, ratio, table

_BARS = {  # of a processor; a size of the network and what, least ratio
    ("small", "windows"): 2.5,
    ("w32-256x192", "windows"): 1.8,
    ("small", "warp step"): 3.0,
}
_SAYS = (
    "Against the design of 2019, written plainly in "
    "[benchmarks/baseline.py](BASE/benchmarks/baseline.py): fp32, eager, NCHW, five torchvision "
    "deformable convolutions and a mean, every frame of every window through backbone and head, "
    "frames decoded sample by sample. Same weights, same inputs, same run; results are compared "
    "first. In brackets the ratio to the baseline."
)
_HELD = (
    "Held box: successive key frames share a crop box, so that H of each frame is computed once."
)


def _per_second(row: Row | None, baseline: Row | None) -> str:
    """Items per second and the ratio; nothing of a wrong result."""
    if row is None:
        return "–"
    if not row["matches"]:
        return "wrong"
    text = number(row["items"] / row["p50_ms"] * 1e3)
    if baseline is None or row["implementation"] == "baseline":
        return text
    return f"{text} ({number(ratio(row, baseline))})"


def _row(result: Result, case: str, what: str, implementation: str) -> Row | None:
    dtype = "bf16" if implementation.endswith("-bf16") else "fp32"
    return find(result, case, what, implementation, dtype)


def _cases(result: Result, suite: str) -> list[str]:
    return list(dict.fromkeys(row["case"] for row in result["rows"] if row["suite"] == suite))


def aggregation_table(result: Result) -> str:
    """People per second by size; latency and memory beside it."""
    names = ("posewarper", "posewarper-held", "posewarper-bf16", "posewarper-held-bf16")
    lines = []
    for case in _cases(result, "aggregation"):
        baseline = _row(result, case, "windows", "baseline")
        alone = [_row(result, case, "one person", name) for name in ("baseline", *names[::2])]
        lines.append(
            [
                case,
                _per_second(baseline, None),
                *(_per_second(_row(result, case, "windows", name), baseline) for name in names),
                " / ".join(number(row and row["p50_ms"]) for row in alone),
                " / ".join(
                    megabytes(row) for row in (baseline, _row(result, case, "windows", names[0]))
                ),
            ]
        )
    header = (
        "people/s", "baseline", "posewarper", "held box", "bf16", "bf16, held box",
        "one person, ms: baseline / fp32 / bf16", "extra memory, MB: baseline / fp32",
    )  # fmt: skip
    return table(header, lines)


def training_table(result: Result) -> str:
    """Samples per second of both stages, alone and with the data, and memory."""
    lines = []
    for case in _cases(result, "training"):
        for stage in ("warp", "pose"):
            names = ("posewarper", "posewarper-bf16")
            cells = []
            for kind in ("step", "training"):
                baseline = _row(result, case, f"{stage} {kind}", "baseline")
                rows = [_row(result, case, f"{stage} {kind}", name) for name in names]
                cells += [_per_second(baseline, None), *(_per_second(r, baseline) for r in rows)]
            data = [
                row
                for row in result["rows"]
                if row["case"] == case and row["what"].startswith(f"{stage} data")
            ]
            best = [
                max(
                    (row for row in data if row["implementation"] == name),
                    key=lambda row: row["items"] / row["p50_ms"],
                    default=None,
                )
                for name in ("baseline", "posewarper")
            ]
            memory = [
                _row(result, case, f"{stage} step", name) for name in ("baseline", "posewarper")
            ]
            lines.append(
                [
                    f"{case}, {stage}",
                    *cells,
                    " / ".join(_per_second(row, None) for row in best),
                    " / ".join(megabytes(row) for row in memory),
                ]
            )
    header = (
        "samples/s", "steps: baseline", "posewarper", "bf16", "with data: baseline", "posewarper",
        "bf16", "data alone: baseline / posewarper", "peak memory, MB: baseline / posewarper",
    )  # fmt: skip
    return table(header, lines)


def video_table(result: Result) -> str:
    """From a video file to results: frames per second, and milliseconds a frame by part."""
    lines = []
    for row in result["rows"]:
        if "split_ms" not in row:
            continue
        dtype = "bf16" if row["implementation"].endswith("-bf16") else "fp32"
        baseline = find(result, row["case"], row["what"], "baseline", "fp32")
        frames = {**row, "items": row["frames"]}
        lines.append(
            [
                f"{row['case']}, {row['what']} ({row['video']})",
                f"{row['implementation'].removesuffix('-bf16')}, {dtype}",
                _per_second(frames, baseline),
                *(number(value) for value in row["split_ms"].values()),
            ]
        )
    parts = next((list(row["split_ms"]) for row in result["rows"] if "split_ms" in row), [])
    return table(("video", "", "frames/s", *(f"{part}, ms" for part in parts)), lines)


def operations_table(result: Result) -> str:
    """Operations per frame of each part."""
    lines = []
    for row in result["rows"]:
        by_part = row.get("operations_by_part")
        if by_part:
            total = sum(by_part.values())
            shares = (f"{n / 1e9:.3g} ({100 * n / total:.0f} %)" for n in by_part.values())
            lines.append([row["case"], number(total / 1e9), *shares])
            header = ("10⁹ operations per frame", "all", *by_part)
    return table(header, lines) if lines else ""


def utilisation(result: Result, row: Row) -> float | None:
    """Operations per second over the peak, which is measured in the same run."""
    peak = result.get("ceilings", {}).get(f"{row['dtype']}_operations_per_second")
    if peak is None or not row.get("operations") or not row["matches"]:
        return None
    return row["operations"] / (row["p50_ms"] / 1e3) / peak


def all_rows(result: Result) -> str:
    """Every row."""
    lines = []
    for row in result["rows"]:
        baseline = find(result, row["case"], row["what"], "baseline", "fp32")
        share = utilisation(result, row)
        verdict = f"{row['relative_error']:.0e} of {row['bound']:.0e}"
        times = [number(row[name]) for name in ("p50_ms", "p20_ms", "p80_ms")]
        lines.append(
            [
                f"{row['case']}, {row['what']}",
                row["implementation"],
                f"{times[0]} ({times[1]}–{times[2]})" if row["matches"] else "wrong",
                _per_second(row, baseline),
                "–" if share is None else f"{100 * share:.0f} %",
                number(row.get("first_epoch_ms")),
                megabytes(row),
                verdict if row["matches"] else f"**no**: {verdict}",
            ]
        )
    header = (
        "network, what", "implementation", "ms", "items/s (ratio)", "of the measured peak",
        "first epoch, ms", "extra memory, MB", "difference of bound",
    )  # fmt: skip
    return table(header, lines)


def bars(result: Result) -> list[str]:
    """Of a processor: which bars hold, by the best fp32 row and by the best row of all."""
    if result["machine"]["device"] != "cpu":
        return []
    said = []
    for (case, what), least in _BARS.items():
        baseline = find(result, case, what, "baseline", "fp32")
        rows = [
            row
            for row in result["rows"]
            if (row["case"], row["what"]) == (case, what) and row["implementation"] != "baseline"
        ]
        reached = {
            dtype: max((ratio(r, baseline) or 0 for r in rows if r["dtype"] == dtype), default=0)
            for dtype in ("fp32", "bf16")
        }
        if rows:
            said.append(
                f"{case}, {what}: {reached['fp32']:.2f} in fp32, {reached['bf16']:.2f} in bf16; "
                f"wanted {least}"
            )
    return said


def _peaks(result: Result) -> str:
    found = result.get("ceilings", {})
    said = [
        f"{name} {found[key] / 1e12:.3g}"
        for name in ("fp32", "bf16")
        if (key := f"{name}_operations_per_second") in found
    ]
    if not said:
        return ""
    return f"Peak in the same run, 10¹² operations/s: {', '.join(said)}."


def short_section(
    found: Sequence[Result], images: Path | None = None, base: Path | None = None
) -> str:
    """What the README shows."""
    parts = [f"{_SAYS.replace('BASE/', '')} {_HELD}"]
    for result in found:
        parts += [heading(result), aggregation_table(result), training_table(result)]
    if not found:
        parts.append("Not yet measured: `python -m benchmarks.run --suite system`.")
    return "\n\n".join(parts)


def section(found: Sequence[Result], images: Path | None = None, base: Path | None = None) -> str:
    """All results; with ``images`` (relative to ``base``) the plots."""
    parts = [
        f"{_SAYS.replace('BASE/', '../')} {_HELD} Difference: root mean square relative to the "
        "baseline's (heatmaps; gradients), share of joints more than half a pixel apart (video), "
        "largest difference (pixels of data). Peak memory of training has gradients and the state "
        "of the optimiser in it. Made by `python -m benchmarks.report`."
    ]
    for result in found:
        parts += [heading(result), _peaks(result), aggregation_table(result)]
        parts += [training_table(result), operations_table(result), video_table(result)]
        if images is not None:
            path = plots.path_of(result, "system", images)
            parts.append(f"![{plots.TITLES['system']}]({plots.relative(path, base)})")
        parts.append(all_rows(result))
    if not found:
        parts.append("Not yet measured: `python -m benchmarks.run --suite system`.")
    return "\n\n".join(part for part in parts if part)


def short_table(result: Result) -> str:
    """Plain text: what a terminal has room for."""
    form = "{:12} {:22} {:26} {:>9} {:>9} {:>6} {:>6} {:>8} {}".format
    lines = [
        form("network", "what", "implementation", "ms", "items/s", "ratio", "peak", "MB", "error")
    ]
    for row in result["rows"]:
        baseline = find(result, row["case"], row["what"], "baseline", "fp32")
        share = utilisation(result, row)
        wrong = "" if row["matches"] else " WRONG"
        lines.append(
            form(
                row["case"], row["what"], row["implementation"], number(row["p50_ms"]),
                number(row["items"] / row["p50_ms"] * 1e3), number(ratio(row, baseline)),
                "–" if share is None else f"{100 * share:.0f} %", megabytes(row),
                f"{row['relative_error']:.0e}{wrong}",
            )
        )  # fmt: skip
    return "\n".join([*lines, *bars(result)])
