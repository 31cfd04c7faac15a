"""Plots of a report as SVG: learning curves, methods, distances, thresholds, confidence.

Every function returns one ``<svg>`` element as text, the same for the same numbers. Colours are CSS
variables with the light ones as defaults, so that a figure follows the page into dark mode and is
still right as a file of its own; text is text, in the font of the page.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from posewarper.report.style import DASHES, INK, MARKERS, MUTED, drawn_svg, series_color

Floats = npt.NDArray[np.float64]
Log = Mapping[str, npt.ArrayLike]
_PARTS: dict[str, dict[str, Any]] = {
    "train": {"linewidth": 1.1, "linestyle": "--"},
    "val": {"linewidth": 2.0},
}


def read_log(path: str | Path) -> dict[str, Floats]:
    """The columns of a CSV log of training by name; empty cells and words are NaN.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no row of numbers.
    """
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path}: expected a CSV log with names and at least one row of numbers")
    return {
        name: np.array([_number(row[name]) for row in rows])
        for name in rows[0]
        if isinstance(name, str)  # cells beyond the last name go by None
    }


def learning_curves(runs: Mapping[str, str | Path | Log]) -> str:
    """Loss and PCK over the epochs, for training (thin) and validation (heavy).

    Args:
        runs: by name, the CSV log of a run or its columns. Columns are found by name (epoch or
            step; train_loss, val_loss, train_pck, val_pck); what is missing is not drawn.

    Raises:
        ValueError: no run, or none with any of these columns.
        FileNotFoundError: a log does not exist.
    """
    logs = {
        name: _columns(name, run) if isinstance(run, Mapping) else read_log(run)
        for name, run in runs.items()
    }
    panels = [
        (title, quantity)
        for title, quantity in (("Loss", "loss"), ("PCK, %", "pck"))
        if any(_has(log, f"{part}_{quantity}") for log in logs.values() for part in _PARTS)
    ]
    if not panels:
        raise ValueError(
            f"runs: expected train_loss, val_loss, train_pck or val_pck in a log, "
            f"got {', '.join(logs) or 'no run'}"
        )

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (title, quantity) in zip(axes, panels, strict=True):
            axis.set_title(title)
            for index, (name, log) in enumerate(logs.items()):
                for part, style in _PARTS.items():
                    if not _has(log, f"{part}_{quantity}"):
                        continue
                    x_name, x = _steps(log)
                    y = log[f"{part}_{quantity}"] * (100 if quantity == "pck" else 1)
                    seen = np.isfinite(x) & np.isfinite(y)
                    label = _label(f"{name}, {part}" if name else part)
                    axis.plot(x[seen], y[seen], color=series_color(index), label=label, **style)
                    axis.set_xlabel(x_name)
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if quantity == "loss" and _spans(axis, 10):
                axis.set_yscale("log")
                axis.yaxis.set_major_formatter("{x:g}")
                axis.yaxis.set_minor_formatter(NullFormatter())
            elif quantity == "pck":
                axis.set_ylim(bottom=0)
        _legend(figure, axes)

    best = [
        f"{name or 'run'}: best validation PCK {100 * np.nanmax(log['val_pck']):.1f} %"
        for name, log in logs.items()
        if _has(log, "val_pck")
    ]
    return drawn_svg(
        (3.9 * len(panels), 3.1), draw, "; ".join(["Learning curves of the training", *best])
    )


def method_bars(
    results: Mapping[str, Mapping[str, float | Sequence[float]]],
    *,
    label: str = "PCK, %",
    highlight: Sequence[str] = (),
    percent: bool = True,
) -> str:
    """One bar for each method, one panel for each group; a point for each seed.

    Args:
        results: method -> group ("all frames", "blurred") -> one value or one for each seed. Bars
            show the mean; NaN and missing groups are left empty.
        label: of the values' axis.
        highlight: methods whose bars are coloured; the others are grey. Empty colours all.
        percent: values are shares and are shown times 100.

    Raises:
        ValueError: there is no value, or a highlighted method does not exist.
    """
    groups = list(dict.fromkeys(group for of in results.values() for group in of))
    values = {
        method: {group: _seeds(of.get(group, math.nan), percent) for group in groups}
        for method, of in results.items()
    }
    everything = np.concatenate([v for of in values.values() for v in of.values()] or [np.empty(0)])
    if not np.isfinite(everything).any():
        raise ValueError("results: expected at least one method with a value, got none")
    for method in highlight:
        if method not in results:
            raise ValueError(f"highlight: {method!r} is none of {', '.join(results)}")
    top = float(np.nanmax(everything))

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
        for axis, group in zip(axes, groups, strict=True):
            axis.set_title(group)
            for row, (method, of) in enumerate(values.items()):
                seeds = of[group][np.isfinite(of[group])]
                if not len(seeds):
                    continue
                loud = not highlight or method in highlight
                mean = float(seeds.mean())
                axis.barh(row, mean, 0.62, color=series_color(0) if loud else MUTED[0])
                if len(seeds) > 1:
                    spread = np.linspace(-0.17, 0.17, len(seeds))
                    axis.plot(seeds, row + spread, "o", color=INK[0], markersize=3, alpha=0.75)
                axis.annotate(
                    _short(mean), (max(mean, seeds.max()), row), xytext=(5, 0),
                    textcoords="offset points", va="center",
                    fontweight="bold" if loud and highlight else "normal",
                )  # fmt: skip
            axis.set_xlim(min(0.0, float(np.nanmin(everything))), 1.2 * top if top > 0 else 0.0)
            axis.set_yticks(range(len(values)), list(values))
            axis.tick_params(axis="y", length=0)
            axis.xaxis.set_major_locator(MaxNLocator(4 if len(groups) > 1 else 8))
            axis.set_xlabel(label)
            _grid(axis, "x")
        axes[0].invert_yaxis()

    described = "; ".join(
        f"{method}: " + ", ".join(f"{group} {_short(v.mean())}" for group, v in of.items())
        for method, of in values.items()
    )
    size = (max(5.6, 1.4 + 2.1 * len(groups)), 1.0 + 0.34 * len(values))
    return drawn_svg(size, draw, f"{label} by method. {described}")


def distance_curves(
    curves: Mapping[str, npt.ArrayLike],
    distances: npt.ArrayLike,
    *,
    label: str = "PCK, %",
    highlight: Sequence[str] = (),
    percent: bool = True,
) -> str:
    """Accuracy of methods by the distance from the nearest labelled frame.

    Args:
        curves: method -> accuracies [D], or [S, D] for S seeds, whose range is shaded.
        distances: [D] frames.
        label: of the accuracies' axis.
        highlight: methods drawn with heavy lines.
        percent: values are shares and are shown times 100.

    Raises:
        ValueError: a curve has another length than ``distances``; names the method.
    """
    x = np.asarray(distances, np.float64)
    scale = 100 if percent else 1
    lines = {
        method: scale * _rows("curves", method, y, len(x)) for method, y in _some(curves).items()
    }

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        _lines(axis, x, lines, highlight, markers=True)
        axis.set_xlabel("frames from the nearest label")
        axis.set_ylabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        _legend(figure, [axis])

    ends = "; ".join(
        f"{method} {_short(y[:, 0].mean())} to {_short(y[:, -1].mean())}"
        for method, y in lines.items()
    )
    return drawn_svg((6.2, 3.5), draw, f"{label} by distance from the nearest label. {ends}")


def pck_curves(
    errors: Mapping[str, npt.ArrayLike],
    *,
    longest: float = 0.2,
    label: str = "distance allowed, share of the size",
    marks: Sequence[float] = (),
    highlight: Sequence[str] = (),
) -> str:
    """Share of joints within a distance, over the distance.

    Args:
        errors: method -> distances [n] divided by the person's size; infinite for joints that were
            not predicted, which count as wrong, NaN for joints without truth, which do not count.
        longest: where the axis ends.
        label: of the distances' axis.
        marks: distances that tables use, drawn as thin lines.
        highlight: methods drawn with heavy lines.

    Raises:
        ValueError: a method has no joint with truth; names it.
    """
    if not longest > 0:
        raise ValueError(f"longest: expected a positive distance, got {longest}")
    x = np.linspace(0.0, longest, 101)
    lines = {}
    for method, distances in _some(errors).items():
        known = np.asarray(distances, np.float64).ravel()
        known = np.sort(known[~np.isnan(known)])
        if not len(known):
            raise ValueError(f"errors: expected a distance for {method!r}, got none")
        lines[method] = 100 * np.searchsorted(known, x, side="right")[None] / len(known)

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for mark in marks:
            axis.axvline(mark, color=MUTED[0], linewidth=0.8, linestyle=":")
        _lines(axis, x, lines, highlight, markers=False)
        axis.set_xlim(0, longest)
        axis.set_ylim(0, 100)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlabel(label)
        axis.set_ylabel("joints within it, %")
        _legend(figure, [axis])

    return drawn_svg((6.2, 3.5), draw, f"Share of joints within a distance: {', '.join(lines)}")


def risk_coverage(confidence: npt.ArrayLike, error: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Mean error of the most certain joints, over how many of them are kept.

    Joints of equal confidence come and go together, so that their order does not matter.

    Args:
        confidence: [n], higher is more certain.
        error: [n], a distance, or 1 where a joint is wrong and 0 where it is right.

    Returns:
        Coverage (0 to 1] and mean error, [k] each, with k the number of different confidences;
        coverage grows.

    Raises:
        ValueError: lengths differ, nothing is given, or a number is not finite.
    """
    certain = np.asarray(confidence, np.float64).ravel()
    wrong = np.asarray(error, np.float64).ravel()
    if not len(certain) or len(certain) != len(wrong):
        raise ValueError(
            f"confidence, error: expected as many of each, got {len(certain)} and {len(wrong)}"
        )
    if not (np.isfinite(certain).all() and np.isfinite(wrong).all()):
        raise ValueError("confidence, error: expected finite numbers")
    order = np.argsort(-certain, kind="stable")
    last = np.append(np.diff(certain[order]) != 0, True)  # of each group of equals
    kept = np.arange(1, len(certain) + 1)
    return (kept / len(certain))[last], (np.cumsum(wrong[order]) / kept)[last]


def risk_coverage_curves(
    methods: Mapping[str, tuple[npt.ArrayLike, npt.ArrayLike]],
    *,
    label: str = "mean error of the joints kept",
    percent: bool = False,
) -> str:
    """Whether confidence orders errors: the error of the joints kept, over their share.

    The grey lines are the best order that there could be (by the error itself) and none (the mean
    error at every coverage), for the first method.

    Args:
        methods: name -> confidence [n] and error [n], see ``risk_coverage``.
        label: of the error's axis.
        percent: errors are shares and are shown times 100.

    Raises:
        ValueError: see ``risk_coverage``.
    """
    scale = 100 if percent else 1
    curves = {name: _sampled(*risk_coverage(*pair)) for name, pair in _some(methods).items()}
    first = np.asarray(next(iter(methods.values()))[1], np.float64).ravel()
    best = _sampled(*risk_coverage(-first, first))

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.axhline(scale * first.mean(), color=MUTED[0], linestyle="--", linewidth=1.2,
                     label="no order")  # fmt: skip
        axis.plot(100 * best[0], scale * best[1], color=MUTED[0], linewidth=1.2,
                  label="best order")  # fmt: skip
        for index, (name, (coverage, risk)) in enumerate(curves.items()):
            axis.plot(100 * coverage, scale * risk, color=series_color(index), label=_label(name),
                      linestyle=DASHES[index % len(DASHES)])  # fmt: skip
        axis.set_xlim(0, 100)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("most certain joints kept, %")
        axis.set_ylabel(label)
        _legend(figure, [axis])

    described = "; ".join(
        f"{name}: {_short(scale * risk[np.searchsorted(coverage, 0.5)])} at half, "
        f"{_short(scale * risk[-1])} at all"
        for name, (coverage, risk) in curves.items()
    )
    return drawn_svg((6.2, 3.5), draw, f"Risk and coverage, {label}. {described}")


def _sampled(coverage: Floats, risk: Floats) -> tuple[Floats, Floats]:
    """At most 200 of the points, so that a hundred thousand joints make no figure of megabytes."""
    rows = np.unique(np.searchsorted(coverage, np.linspace(0.005, 1.0, 200)).clip(0, len(risk) - 1))
    return coverage[rows], risk[rows]


def _lines(
    axis: Axes, x: Floats, lines: Mapping[str, Floats], highlight: Sequence[str], *, markers: bool
) -> None:
    """Mean lines of [S, D] values with the range of the seeds shaded."""
    for method in highlight:
        if method not in lines:
            raise ValueError(f"highlight: {method!r} is none of {', '.join(lines)}")
    for index, (method, y) in enumerate(lines.items()):
        color = series_color(index)
        known = np.isfinite(y).any(0)
        if not known.any():
            continue
        y, place = y[:, known], x[known]
        if len(y) > 1:
            low, high = np.nanmin(y, 0), np.nanmax(y, 0)
            axis.fill_between(place, low, high, color=color, alpha=0.18, linewidth=0)
        axis.plot(
            place, np.nanmean(y, 0), color=color, label=_label(method),
            linestyle=DASHES[index % len(DASHES)],
            linewidth=2.6 if method in highlight else 1.4,
            marker=MARKERS[index % len(MARKERS)] if markers else None,
        )  # fmt: skip
    _grid(axis, "y")


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend above all panels, if there is anything to tell apart."""
    named: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
        _grid(axis, "y")
    if len(named) > 1:
        longest = max(len(name) for name in named)
        room = int(figure.get_size_inches()[0] * 15)  # letters in a line
        columns = max(1, min(len(named), room // (longest + 7)))
        figure.legend(
            list(named.values()), list(named), loc="outside upper left", ncols=columns,
            handlelength=2.6, columnspacing=1.4,
        )  # fmt: skip


def _grid(axis: Axes, which: Literal["x", "y"]) -> None:
    axis.grid(axis=which, color=INK[0], alpha=0.13, linewidth=0.8)


def _label(name: str) -> str:
    """The name; matplotlib leaves those out of a legend that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name


def _spans(axis: Axes, factor: float) -> bool:
    """Whether the values drawn are positive and the largest is that many times the smallest."""
    values = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in axis.lines])
    return bool(len(values) and values.min() > 0 and values.max() > factor * values.min())


def _some(named: Mapping[str, Any]) -> Mapping[str, Any]:
    if not named:
        raise ValueError("expected at least one method to draw, got none")
    return named


def _rows(argument: str, method: str, values: npt.ArrayLike, length: int) -> Floats:
    rows = np.atleast_2d(np.asarray(values, np.float64))
    if rows.ndim != 2 or rows.shape[1] != length or not length:
        raise ValueError(
            f"{argument}: expected [{length}] or [seeds, {length}] values for {method!r}, "
            f"got {list(np.shape(values))}"
        )
    return rows


def _seeds(value: float | Sequence[float], percent: bool) -> Floats:
    return np.atleast_1d(np.asarray(value, np.float64)) * (100 if percent else 1)


def _columns(name: str, log: Log) -> dict[str, Floats]:
    columns = {column: np.asarray(values, np.float64) for column, values in log.items()}
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"runs: expected columns of one length in {name!r}, got {lengths}")
    return columns


def _has(log: Mapping[str, Floats], name: str) -> bool:
    return name in log and bool(np.isfinite(log[name]).any())


def _steps(log: Mapping[str, Floats]) -> tuple[str, Floats]:
    for name in ("epoch", "step"):
        if _has(log, name):
            return name, log[name]
    return "row", np.arange(1.0, 1 + len(next(iter(log.values()))))


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan


def _short(value: float) -> str:
    """Three digits that matter: 93.5, 0.123, 1250."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 10:
        return f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.3g}"
