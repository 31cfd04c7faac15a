"""Tables of the operation: beside torchvision and onnxruntime, and by width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import plots
from benchmarks.tables import Result, Row, find, heading, megabytes, number, ratio, table

_WHAT_NAMES = {
    "forward": "forward",
    "forward+backward": "forward + backward",
    "forward+backward+input": "the same with the input's gradient",
}
# What the README shows of it.
_SHORT_CASES, _SHORT_WHATS = ("window", "dcpose", "fami", "single"), ("forward", "forward+backward")
_SAYS = (
    "Median time (20th–80th percentile) of one call. Ratio: the baseline's median over ours in the "
    "same run. Extra memory: peak beyond inputs, outputs and gradients, of each implementation."
)
_MATCHES = (
    "Matches: with torchvision in float64 on the same inputs, and the largest error relative to "
    "the largest value."
)


def time_of(row: Row | None) -> str:
    if row is None:
        return "–"
    # A wrong result has no speed; that of a baseline is shown and marked beside it.
    if row["implementation"].startswith("pwkernels") and not row["matches"]:
        return "wrong"
    return f"{number(row['p50_ms'])} ({number(row['p20_ms'])}–{number(row['p80_ms'])})"


def matches_of(rows: Iterable[Row | None]) -> str:
    said = []
    for row in rows:
        if row is None:
            continue
        verdict = "yes" if row["matches"] else f"**no** ({row['worst_result']})"
        ours = row["implementation"].startswith("pwkernels")
        name = "" if ours else row["implementation"] + " "
        if ours or not row["matches"]:
            said.append(f"{name}{verdict}, {row['relative_error']:.0e}")
    return "; ".join(said)


def _keys(result: Result, widths: bool) -> list[tuple[str, str, str]]:
    found = (
        (row["case"], row["what"], row["dtype"])
        for row in result["rows"]
        if row["case"].startswith("width-") == widths
    )
    return list(dict.fromkeys(found))


def _cpu_table(result: Result) -> str:
    lines = []
    for case, what, dtype in _keys(result, widths=False):
        ours, torchvision, onnxruntime = (
            find(result, case, what, name, dtype)
            for name in ("pwkernels", "torchvision", "onnxruntime")
        )
        if ours is None:
            continue
        lines.append(
            [
                case,
                _WHAT_NAMES[what],
                time_of(ours),
                time_of(torchvision),
                number(ratio(ours, torchvision)),
                time_of(onnxruntime),
                number(ratio(ours, onnxruntime)),
                " / ".join(megabytes(row) for row in (ours, torchvision, onnxruntime)),
                matches_of((ours, torchvision, onnxruntime)),
            ]
        )
    header = (
        "case", "what", "pwkernels, ms", "torchvision, ms", "ratio", "onnxruntime, ms", "ratio",
        "extra memory, MB", "matches (error)",
    )  # fmt: skip
    return table(header, lines)


def _bandwidth_share(result: Result, row: Row) -> float | None:
    graph, ceiling = row.get("graph_ms"), result.get("ceilings")
    if graph is None or ceiling is None or not row["matches"]:
        return None
    return row["compulsory_bytes"] / (graph[1] / 1e3) / ceiling["copy_bytes_per_second"]


def _gpu_table(result: Result) -> str:
    lines = []
    for case, what, dtype in _keys(result, widths=False):
        ours = find(result, case, what, "pwkernels", dtype)
        if ours is None:
            continue
        baseline = find(result, case, what, "torchvision", dtype)
        if baseline is None:  # there is no bfloat16 kernel to compare with
            baseline = find(result, case, what, "torchvision", "float32")
        baseline_time = time_of(baseline)
        if baseline is not None and baseline["dtype"] != dtype:
            baseline_time += f" in {baseline['dtype']}"
        graph = None if not ours["matches"] or not ours.get("graph_ms") else ours["graph_ms"][1]
        share = _bandwidth_share(result, ours)
        lines.append(
            [
                f"{case}, {dtype}",
                _WHAT_NAMES[what],
                time_of(ours),
                baseline_time,
                number(ratio(ours, baseline)),
                number(graph),
                number(ratio(ours, baseline, "graph_ms")),
                "–" if share is None else f"{100 * share:.0f} %",
                " / ".join(megabytes(row) for row in (ours, baseline)),
                matches_of((ours, baseline)),
            ]
        )
    header = (
        "case", "what", "pwkernels, ms", "torchvision, ms", "ratio", "kernels alone, ms", "ratio",
        "of copy bandwidth", "extra memory, MB", "matches (error)",
    )  # fmt: skip
    return table(header, lines)


def short_table(result: Result) -> str:
    """Our rows as plain text: what a terminal has room for."""
    form = "{:14} {:8} {:22} {:>7} {:>7} {:>6} {:>6} {:>5} {:>6} {}".format
    lines = [form("case", "dtype", "what", "ms", "alone", "ratio", "alone", "copy", "MB", "error")]
    for row in result["rows"]:
        if not row["implementation"].startswith("pwkernels"):
            continue
        key = (row["case"], row["what"], "torchvision")
        baseline = find(result, *key, row["dtype"]) or find(result, *key, "float32")
        graph, share = row.get("graph_ms"), _bandwidth_share(result, row)
        error = f"{row['relative_error']:.0e}"
        lines.append(
            form(
                row["case"],
                row["dtype"],
                row["what"],
                number(row["p50_ms"]),
                number(graph and graph[1]),
                number(ratio(row, baseline)),
                number(ratio(row, baseline, "graph_ms")),
                "–" if share is None else f"{100 * share:.0f} %",
                megabytes(row),
                error if row["matches"] else f"{error} WRONG: {row['worst_result']}",
            )
        )
    return "\n".join(lines)


def _width_table(result: Result) -> str:
    lines = []
    for case, what, dtype in _keys(result, widths=True):
        ours = find(result, case, what, "pwkernels-kernel", dtype)
        if ours is None:
            continue
        baseline = find(result, case, what, "torchvision", dtype)
        channels, groups = plots.width_of(case)
        lines.append(
            [
                f"{channels}, {groups}",
                _WHAT_NAMES[what].replace("the same", "forward + backward"),
                time_of(ours),
                time_of(baseline),
                number(ratio(ours, baseline)),
                " / ".join(megabytes(row) for row in (ours, baseline)),
                matches_of((ours, baseline)),
            ]
        )
    header = (
        "channels, offset groups", "what", "own kernel, ms", "torchvision, ms", "ratio",
        "extra memory, MB", "matches (error)",
    )  # fmt: skip
    return table(header, lines)


def short_section(
    found: Sequence[Result], images: Path | None = None, base: Path | None = None
) -> str:
    """What the README shows: the named cases, and their plot."""
    parts = [f"{_SAYS} Ours match torchvision in float64, or have no time here."]
    for result in found:
        rows = [
            row
            for row in result["rows"]
            if row["case"] in _SHORT_CASES and row["what"] in _SHORT_WHATS
        ]
        parts += [heading(result), _table_of({**result, "rows": rows}, short=True)]
        parts += _plots({**result, "rows": rows}, images, base)
    return "\n\n".join([*parts, *_missing(found)])


def section(found: Sequence[Result], images: Path | None = None, base: Path | None = None) -> str:
    """The Markdown of all results; with ``images`` (relative to ``base``) it shows the plots."""
    parts = [f"{_SAYS} {_MATCHES} Made by `python -m benchmarks.report`."]
    for result in found:
        is_gpu = result["machine"]["device"] == "cuda"
        parts += [f"### {'GPU' if is_gpu else 'CPU'}", heading(result)]
        if "ceilings" in result:
            ceiling = result["ceilings"]
            parts.append(
                "Measured in the same run: "
                f"copy {ceiling['copy_bytes_per_second'] / 1e12:.2f} TB/s (read and written), "
                f"bf16 product {ceiling['bf16_operations_per_second'] / 1e12:.0f} Tflop/s."
            )
        parts += [_table_of(result), *_plots(result, images, base)]
        if _keys(result, widths=True):
            parts += [
                "Does the matrix product take over? `deform_conv2d` of 2 maps of 48x36, by width:",
                _width_table(result),
            ]
    return "\n\n".join([*parts, *_missing(found)])


def _table_of(result: Result, short: bool = False) -> str:
    made = (_gpu_table if result["machine"]["device"] == "cuda" else _cpu_table)(result)
    if not short:
        return made
    lines = [line.rpartition(" | ")[0] + " |" for line in made.splitlines()]  # all match
    return "\n".join(lines)


def _plots(result: Result, images: Path | None, base: Path | None) -> list[str]:
    if images is None:
        return []
    shown = {kind: plots.path_of(result, kind, images) for kind in plots.kinds(result)}
    return [
        f"![{plots.TITLES[kind]}]({plots.relative(path, base)})" for kind, path in shown.items()
    ]


def _missing(found: Sequence[Result]) -> list[str]:
    devices = {result["machine"]["device"] for result in found}
    says = {
        "cpu": "CPU: not yet measured.",
        "cuda": "GPU: not yet measured; `python -m benchmarks.gpu_run` does it on one.",
    }
    return [text for device, text in says.items() if device not in devices]
