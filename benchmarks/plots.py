"""Plots of saved results, as small SVG files that are the same for the same results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks import results

TITLES = {
    "speed": "Time per call, by case and implementation",
    "width": "Speed relative to torchvision, by number of channels",
    "system": "Times as fast as the baseline, by network",
}
_WHAT_TITLES = {
    "forward": "forward",
    "forward+backward": "forward + backward",
    "forward+backward+input": "the same with the input's gradient",
}
_COLORS = {"pwkernels": "#1b6ca8", "torchvision": "#e08e45", "onnxruntime": "#8a8d91"}


def width_of(case: str) -> tuple[int, int]:
    """Channels and offset groups of a case of the width study."""
    found = re.fullmatch(r"width-c(\d+)-g(\d+)", case)
    if found is None:
        raise ValueError(f"not a case of the width study: {case!r}")
    return int(found[1]), int(found[2])


def kinds(result: dict[str, Any]) -> list[str]:
    """The plots that a result has rows for."""
    if any("suite" in row for row in result["rows"]):
        return ["system"]
    widths = [row["case"].startswith("width-") for row in result["rows"]]
    return [kind for kind, wanted in (("speed", False), ("width", True)) if wanted in widths]


def path_of(result: dict[str, Any], kind: str, folder: Path) -> Path:
    """Where a plot lies."""
    return folder / f"{kind}-{results.slug(result)}.svg"


def relative(path: Path, base: Path | None) -> str:
    """A link from a document in ``base``; the whole path without one."""
    return (path.relative_to(base) if base else path).as_posix()


def draw(result: dict[str, Any], kind: str, path: Path) -> None:
    """Write one plot."""
    import matplotlib

    matplotlib.use("svg")
    # Text as text, and fixed names of elements: small files, and no change without a reason.
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "pwkernels", "font.size": 9}
    )
    from matplotlib import pyplot

    figure = {"speed": _speed, "width": _width, "system": _system}[kind](pyplot, result)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)
    # matplotlib ends lines with blanks, which checks of white space do not like
    lines = (line.rstrip() for line in path.read_text(encoding="utf-8").splitlines())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _speed(pyplot: Any, result: dict[str, Any]) -> Any:
    rows = [
        row
        for row in result["rows"]
        if not row["case"].startswith("width-") and row["dtype"] == "float32"
    ]
    whats = list(dict.fromkeys(row["what"] for row in rows))
    figure, axes = pyplot.subplots(
        1, len(whats), figsize=(3.4 * len(whats), 3.4), sharex=True, sharey=True, squeeze=False
    )
    names = [name for name in _COLORS if any(row["implementation"] == name for row in rows)]
    cases = list(dict.fromkeys(row["case"] for row in rows))[::-1]
    height = 0.8 / len(names)
    for axis, what in zip(axes[0], whats, strict=True):
        for index, name in enumerate(names):
            chosen = [r for r in rows if r["what"] == what and r["implementation"] == name]
            if name == "pwkernels":
                chosen = [row for row in chosen if row["matches"]]  # a wrong result has no speed
            if not chosen:
                continue
            places = [
                cases.index(row["case"]) - (index - (len(names) - 1) / 2) * height for row in chosen
            ]
            times = [row["p50_ms"] for row in chosen]
            spread = [
                [row["p50_ms"] - row["p20_ms"] for row in chosen],
                [row["p80_ms"] - row["p50_ms"] for row in chosen],
            ]
            axis.barh(
                places, times, height, xerr=spread, color=_COLORS[name], label=name, ecolor="#444"
            )
            for place, row in zip(places, chosen, strict=True):
                time = row["p50_ms"]
                label = f"{time:.0f}" if time >= 100 else f"{time:.2g}"
                axis.annotate(
                    label, (row["p80_ms"], place), va="center", fontsize=7, xytext=(3, 0),
                    textcoords="offset points",
                )  # fmt: skip
        axis.set_xscale("log")
        axis.minorticks_off()
        axis.margins(x=0.25)
        axis.set_title(_WHAT_TITLES[what], fontsize=9)
        axis.set_xlabel("ms, float32")
        axis.set_yticks(range(len(cases)), cases)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(names), frameon=False,
                  bbox_to_anchor=(0.5, -0.12))  # fmt: skip
    return figure


def _width(pyplot: Any, result: dict[str, Any]) -> Any:
    times: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        if row["case"].startswith("width-"):
            times.setdefault((row["case"], row["what"]), {})[row["implementation"]] = row
    lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for (case, what), pair in times.items():
        ours, baseline = pair.get("pwkernels-kernel"), pair.get("torchvision")
        if ours is None or baseline is None or not ours["matches"]:
            continue
        channels, groups = width_of(case)
        shared = "1 offset group" if groups == 1 else "4 channels per offset group"
        label = f"{what.split('+input')[0].replace('+', ' + ')}, {shared}"
        lines.setdefault((what, label), []).append((channels, baseline["p50_ms"] / ours["p50_ms"]))
    figure, axis = pyplot.subplots(figsize=(5.5, 3))
    for (what, label), points in lines.items():
        style = "-" if what == "forward" else "--"
        color = _COLORS["pwkernels"] if "1 offset" in label else _COLORS["torchvision"]
        axis.plot(
            *zip(*sorted(points), strict=True), style, color=color, marker="o", ms=3, label=label
        )
    axis.axhline(1, color="#444", lw=0.8)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("channels (in and out)")
    axis.set_ylabel("times as fast as torchvision")
    axis.spines[["top", "right"]].set_visible(False)
    ticks = sorted({channels for points in lines.values() for channels, _ in points})
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.legend(frameon=False, fontsize=7, loc="lower center", ncols=2, bbox_to_anchor=(0.5, 1.0))
    return figure


def _system(pyplot: Any, result: dict[str, Any]) -> Any:
    whats = {"windows": "aggregation", "warp step": "training, warp", "pose step": "training, pose"}
    by_place: dict[tuple[str, str], dict[str, Any]] = {}
    for row in result["rows"]:
        if row["what"] in whats and row["matches"]:
            place = f"{row['case']}, {whats[row['what']]}"
            by_place.setdefault((place, row["what"]), {})[row["implementation"]] = row
    places = [place for place, rows in by_place.items() if len(rows) > 1 and "baseline" in rows]
    names = list(dict.fromkeys(n for place in places for n in by_place[place] if n != "baseline"))
    figure, axis = pyplot.subplots(figsize=(6, 0.6 + 0.16 * (len(names) + 1) * len(places)))
    height = 0.8 / max(len(names), 1)
    for index, name in enumerate(names):
        at, ratios = [], []
        for line, place in enumerate(reversed(places)):
            rows = by_place[place]
            if name in rows:
                at.append(line - (index - (len(names) - 1) / 2) * height)
                ratios.append(rows["baseline"]["p50_ms"] / rows[name]["p50_ms"])
        axis.barh(at, ratios, height, label=name, color=f"C{index}")
        for y, ratio in zip(at, ratios, strict=True):
            axis.annotate(f"{ratio:.2g}", (ratio, y), va="center", fontsize=7, xytext=(3, 0),
                          textcoords="offset points")  # fmt: skip
    axis.axvline(1, color="#444", lw=0.8)
    axis.set_yticks(range(len(places)), [place for place, _ in reversed(places)])
    axis.set_xlabel("times as fast as the baseline")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=7, loc="lower center", ncols=2, bbox_to_anchor=(0.5, 1.0))
    return figure
