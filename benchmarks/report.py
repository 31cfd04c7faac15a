"""Tables and plots from the saved results.

    python -m benchmarks.report            # prints the tables, updates README.md and docs/images
    python -m benchmarks.report --check    # exits with 1 if README.md does not show them

Ratios are taken here, between rows of one run: the baseline's median time over ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots, results

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
_WHAT_NAMES = {
    "forward": "forward",
    "forward+backward": "forward + backward",
    "forward+backward+input": "the same with the input's gradient",
}

Row = dict[str, Any]
Result = dict[str, Any]


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text else text


def _megabytes(row: Row | None) -> str:
    extra = None if row is None else row.get("peak_extra_bytes")
    return "–" if extra is None else f"{extra / 1e6:.1f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    left = (":--", "--:")
    lines = [header, [left[index > 1] for index in range(len(header))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _find(result: Result, case: str, what: str, implementation: str, dtype: str) -> Row | None:
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


def _time(row: Row | None) -> str:
    if row is None:
        return "–"
    # A wrong result has no speed; that of a baseline is shown and marked beside it.
    if row["implementation"].startswith("pwkernels") and not row["matches"]:
        return "wrong"
    return f"{_number(row['p50_ms'])} ({_number(row['p20_ms'])}–{_number(row['p80_ms'])})"


def _matches(rows: Iterable[Row | None]) -> str:
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


def _device_name(result: Result) -> str:
    machine = result["machine"]
    return machine.get("gpu") or f"{machine['cpu']}, {machine['cores']} cores"


def _family(result: Result) -> str:
    return "(" + result["machine"]["cpu"].rpartition("(")[2]


def _run_name(result: Result) -> str:
    versions = result["versions"]
    device = _device_name(result).replace(f" {_family(result)}", "")  # the heading has it in full
    return (
        f"{device}; torch {versions['torch']}, torchvision "
        f"{versions.get('torchvision', '–')}; {result['commit']}"
    )


def _heading(result: Result) -> str:
    machine = result["machine"]
    parts = [f"**{_device_name(result)}**"]
    if machine["device"] == "cpu":
        parts.append(f"{machine['instruction_set']}, {machine['threads']} threads")
    parts.append(", ".join(f"{name} {version}" for name, version in result["versions"].items()))
    parts += [f"commit `{result['commit']}`", result["date"]]
    return " · ".join(parts)


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
            _find(result, case, what, name, dtype)
            for name in ("pwkernels", "torchvision", "onnxruntime")
        )
        if ours is None:
            continue
        lines.append(
            [
                case,
                _WHAT_NAMES[what],
                _time(ours),
                _time(torchvision),
                _number(ratio(ours, torchvision)),
                _time(onnxruntime),
                _number(ratio(ours, onnxruntime)),
                " / ".join(_megabytes(row) for row in (ours, torchvision, onnxruntime)),
                _matches((ours, torchvision, onnxruntime)),
                _run_name(result),
            ]
        )
    header = (
        "case", "what", "pwkernels, ms", "torchvision, ms", "ratio", "onnxruntime, ms", "ratio",
        "extra memory, MB", "matches (error)", "run",
    )  # fmt: skip
    return _table(header, lines)


def _bandwidth_share(result: Result, row: Row) -> float | None:
    graph, ceiling = row.get("graph_ms"), result.get("ceilings")
    if graph is None or ceiling is None or not row["matches"]:
        return None
    return row["compulsory_bytes"] / (graph[1] / 1e3) / ceiling["copy_bytes_per_second"]


def _gpu_table(result: Result) -> str:
    lines = []
    for case, what, dtype in _keys(result, widths=False):
        ours = _find(result, case, what, "pwkernels", dtype)
        if ours is None:
            continue
        baseline = _find(result, case, what, "torchvision", dtype)
        if baseline is None:  # there is no bfloat16 kernel to compare with
            baseline = _find(result, case, what, "torchvision", "float32")
        baseline_time = _time(baseline)
        if baseline is not None and baseline["dtype"] != dtype:
            baseline_time += f" in {baseline['dtype']}"
        graph = None if not ours["matches"] or not ours.get("graph_ms") else ours["graph_ms"][1]
        share = _bandwidth_share(result, ours)
        lines.append(
            [
                f"{case}, {dtype}",
                _WHAT_NAMES[what],
                _time(ours),
                baseline_time,
                _number(ratio(ours, baseline)),
                _number(graph),
                _number(ratio(ours, baseline, "graph_ms")),
                "–" if share is None else f"{100 * share:.0f} %",
                " / ".join(_megabytes(row) for row in (ours, baseline)),
                _matches((ours, baseline)),
                _run_name(result),
            ]
        )
    header = (
        "case", "what", "pwkernels, ms", "torchvision, ms", "ratio", "kernels alone, ms", "ratio",
        "of copy bandwidth", "extra memory, MB", "matches (error)", "run",
    )  # fmt: skip
    return _table(header, lines)


def short_table(result: Result) -> str:
    """Our rows as plain text: what a terminal has room for."""
    form = "{:14} {:8} {:22} {:>7} {:>7} {:>6} {:>6} {:>5} {:>6} {}".format
    lines = [form("case", "dtype", "what", "ms", "alone", "ratio", "alone", "copy", "MB", "error")]
    for row in result["rows"]:
        if not row["implementation"].startswith("pwkernels"):
            continue
        key = (row["case"], row["what"], "torchvision")
        baseline = _find(result, *key, row["dtype"]) or _find(result, *key, "float32")
        graph, share = row.get("graph_ms"), _bandwidth_share(result, row)
        error = f"{row['relative_error']:.0e}"
        lines.append(
            form(
                row["case"],
                row["dtype"],
                row["what"],
                _number(row["p50_ms"]),
                _number(graph and graph[1]),
                _number(ratio(row, baseline)),
                _number(ratio(row, baseline, "graph_ms")),
                "–" if share is None else f"{100 * share:.0f} %",
                _megabytes(row),
                error if row["matches"] else f"{error} WRONG: {row['worst_result']}",
            )
        )
    return "\n".join(lines)


def _width_table(result: Result) -> str:
    lines = []
    for case, what, dtype in _keys(result, widths=True):
        ours = _find(result, case, what, "pwkernels-kernel", dtype)
        if ours is None:
            continue
        baseline = _find(result, case, what, "torchvision", dtype)
        channels, groups = plots.width_of(case)
        lines.append(
            [
                f"{channels}, {groups}",
                _WHAT_NAMES[what].replace("the same", "forward + backward"),
                _time(ours),
                _time(baseline),
                _number(ratio(ours, baseline)),
                " / ".join(_megabytes(row) for row in (ours, baseline)),
                _matches((ours, baseline)),
            ]
        )
    header = (
        "channels, offset groups", "what", "own kernel, ms", "torchvision, ms", "ratio",
        "extra memory, MB", "matches (error)",
    )  # fmt: skip
    return _table(header, lines)


def section(found: Sequence[Result], images: Path | None = None, base: Path | None = None) -> str:
    """The Markdown of all results; with ``images`` (relative to ``base``) it shows the plots."""
    parts = [
        "Median time (20th–80th percentile) of one call. Ratio: the baseline's median over ours in "
        "the same run. Extra memory: peak beyond inputs, outputs and gradients, of each "
        "implementation. Matches: with torchvision in float64 on the same inputs, and the largest "
        "error relative to the largest value. Made by `python -m benchmarks.report`."
    ]
    for result in found:
        is_gpu = result["machine"]["device"] == "cuda"
        parts += [f"### {'GPU' if is_gpu else 'CPU'}", _heading(result)]
        if "ceilings" in result:
            ceiling = result["ceilings"]
            parts.append(
                "Measured in the same run: "
                f"copy {ceiling['copy_bytes_per_second'] / 1e12:.2f} TB/s (read and written), "
                f"bf16 product {ceiling['bf16_operations_per_second'] / 1e12:.0f} Tflop/s."
            )
        parts.append(_gpu_table(result) if is_gpu else _cpu_table(result))
        if images is not None:
            for kind in plots.kinds(result):
                path = plots.path_of(result, kind, images)
                shown = path.relative_to(base) if base else path
                parts.append(f"![{plots.TITLES[kind]}]({shown.as_posix()})")
        if _keys(result, widths=True):
            parts += [
                "<details><summary>Where the matrix product takes over: `deform_conv2d` of 2 maps "
                "of 48x36, by width</summary>",
                _width_table(result),
                "</details>",
            ]
    if not any(result["machine"]["device"] == "cpu" for result in found):
        parts += ["### CPU", "Not yet measured."]
    if not any(result["machine"]["device"] == "cuda" for result in found):
        parts += ["### GPU", "Not yet measured: `python -m benchmarks.gpu_run` does it on a GPU."]
    return "\n\n".join(parts)


def keep_readme(
    arguments: Sequence[str] | None,
    module: str,
    folder: Path,
    section: Callable[[Path], str],
    markers: tuple[str, str],
) -> int:
    """The command line of a module that keeps a part of the README.

    Args:
        arguments: of the command.
        module: its name.
        folder: of the results, if no other one is given.
        section: the text for the results in a folder.
        markers: before and after it.

    Returns:
        The exit status: 1 where ``--check`` finds another text.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--results", type=Path, default=folder)
    parser.add_argument("--readme", type=Path, default=results.ROOT / "README.md")
    parser.add_argument("--check", action="store_true", help="change nothing, compare")
    options = parser.parse_args(arguments)
    readme = options.readme.read_text(encoding="utf-8")
    wanted = replaced(readme, section(options.results), *markers)
    if not options.check:
        options.readme.write_text(wanted, encoding="utf-8")
    elif readme != wanted:
        print(f"README.md is out of date; run: python -m {module}", file=sys.stderr)
        return 1
    return 0


def replaced(readme: str, content: str, begin: str = BEGIN, end: str = END) -> str:
    """``readme`` with ``content`` between the markers.

    Raises:
        ValueError: the markers are not there.
    """
    before, first, rest = readme.partition(begin)
    _, last, after = rest.partition(end)
    if not (first and last):
        raise ValueError(f"README.md: expected the markers {begin} and {end}")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    parser.add_argument("--readme", type=Path, default=results.ROOT / "README.md")
    parser.add_argument("--images", type=Path, help="default: docs/images beside the README")
    parser.add_argument("--check", action="store_true", help="change nothing, compare")
    options = parser.parse_args(arguments)
    base = options.readme.resolve().parent
    images = (options.images or base / "docs" / "images").resolve()
    found = results.load_latest(options.results)
    content = section(found, images, base if images.is_relative_to(base) else None)
    readme = options.readme.read_text(encoding="utf-8")
    wanted = replaced(readme, content)
    if options.check:
        missing = [
            path.name
            for result in found
            for kind in plots.kinds(result)
            if not (path := plots.path_of(result, kind, images)).exists()
        ]
        if readme == wanted and not missing:
            return 0
        what = f"plots are missing: {', '.join(missing)}" if missing else "README.md is out of date"
        print(f"{what}; run: python -m benchmarks.report", file=sys.stderr)
        return 1
    print(content)
    options.readme.write_text(wanted, encoding="utf-8")
    for result in found:
        for kind in plots.kinds(result):
            plots.draw(result, kind, plots.path_of(result, kind, images))
    return 0


if __name__ == "__main__":
    sys.exit(main())
