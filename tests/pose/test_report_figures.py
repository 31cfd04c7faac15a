"""Figures: the right numbers in the right place, the same in every run, nothing from outside."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray

from posewarper.report import (
    distance_curves,
    learning_curves,
    method_bars,
    pck_curves,
    read_log,
    risk_coverage,
    risk_coverage_curves,
)
from posewarper.report.style import SERIES, color_variables

LOG = (
    "epoch,step,lr,train_loss,train_pck,val_loss,val_pck,samples_per_s,seconds\n"
    "1,100,1e-3,0.9,0.2,1.0,,700,5\n"
    "2,200,1e-3,0.5,0.4,0.7,0.5,700,5\n"
    "3,300,5e-4,0.4,0.5,0.6,0.6,700,5\n"
)
RNG = np.random.default_rng(0)
CONFIDENCE, ERROR = RNG.random(300), RNG.random(300)

FIGURES: dict[str, Callable[[], str]] = {
    "learning": lambda: learning_curves(
        {"pose": {"epoch": [1, 2, 3], "train_loss": [3, 2, 0.1], "val_pck": [0.1, 0.2, 0.3]}}
    ),
    "bars": lambda: method_bars(
        {"a & b": {"all": [0.5, 0.6, 0.7], "blurred": 0.4}, "<c>": {"all": 0.3}}, highlight=["<c>"]
    ),
    "distance": lambda: distance_curves({"a": [[0.9, 0.8], [0.8, 0.6]], "b": [0.5, 0.4]}, [1, 2]),
    "pck": lambda: pck_curves({"a": [0.1, 0.02, np.inf, np.nan], "b": [0.3]}, marks=(0.05, 0.1)),
    "risk": lambda: risk_coverage_curves({"a": (CONFIDENCE, ERROR), "b": (-ERROR, ERROR)}),
}


def line(svg: str, series: int, part: int = 0) -> NDArray[np.float64]:
    """The points of a line, x and y in the SVG's units; y grows downwards."""
    drawn = re.findall(
        rf'<path d="([^"]*)"[^>]*style="fill: none;[^"]*stroke: var\(--fig-{series},', svg
    )
    # The legend has short lines of the same colour.
    paths = [np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), float) for path in drawn]
    return sorted(paths, key=lambda path: -np.ptp(path[:, 0]))[part]


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return ["".join(e.itertext()) for e in root.iter() if e.tag.endswith("}text")]


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_deterministic_and_self_contained(name: str) -> None:
    svg = FIGURES[name]()
    with matplotlib.rc_context({"lines.linewidth": 9, "axes.facecolor": "red", "font.size": 30}):
        assert FIGURES[name]() == svg  # also where the user has a style of their own
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and len(root.get("aria-label", "")) > 20
    assert "<metadata" not in svg and "<style" not in svg and "<!--" not in svg
    for element in root.iter():
        for attribute, value in element.items():
            if attribute.endswith("href"):
                assert value.startswith("#"), value
            assert "url(" not in value.replace("url(#", ""), value
    assert not re.findall(r"https?:(?!//www\.w3\.org/(2000/svg|1999/xlink))", svg)
    # Every colour can follow the page into dark mode.
    allowed = {value for pair in color_variables(dark=False).items() for value in pair}
    assert set(
        re.findall(r"#[0-9a-f]{6}\b", re.sub(r'id="[^"]*"|"#\w+"|url\(#\w+\)', "", svg))
    ) <= (allowed)
    assert not re.findall(r"(?<!: var\()(?<!, )#[0-9a-f]{6};", svg)
    assert "DejaVu" not in svg  # the page's font


def test_names_are_texts_and_escaped() -> None:
    svg = FIGURES["bars"]()
    assert {"a & b", "<c>", "all", "blurred", "60.0", "30.0"} <= set(texts(svg))
    assert "<c>" not in svg


def test_any_name_is_shown_as_it_is() -> None:
    names = ["_private", "cost: $5 and $6", r"$\frac", "動画", "a\\b", "#0072b2", "font: 9px"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = pck_curves({name: [0.1] for name in names})
    assert set(names) <= {text.strip() for text in texts(svg)}


def test_bars_are_as_long_as_their_means_and_seeds_are_points() -> None:
    svg = method_bars({"one": {"all": [0.2, 0.4]}, "two": {"all": 0.6}, "none": {"all": np.nan}})
    paths = re.findall(r'<path d="([^"]*z)\s*"[^>]*style="fill: var\(--fig-1,', svg)
    boxes = [np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), float) for path in paths]
    lengths = [np.ptp(box[:, 0]) for box in boxes]
    assert len(lengths) == 2
    assert lengths[1] / lengths[0] == pytest.approx(2, rel=1e-3)
    marks = re.findall(r'<use xlink:href="#m\w+" x="([\d.]+)"[^>]*fill-opacity: 0.75', svg)
    start, unit = boxes[0][:, 0].min(), lengths[0] / 0.3
    seeds = [(float(x) - start) / unit for x in marks]
    np.testing.assert_allclose(seeds, [0.2, 0.4], atol=1e-3)


def test_highlighted_bars_alone_are_coloured() -> None:
    results = {name: {"all": 0.5} for name in "abc"}

    def filled(variable: str, svg: str) -> int:
        return len(re.findall(rf'z\s*"[^>]*style="fill: var\({variable},', svg))

    assert filled("--fig-1", method_bars(results)) == 3
    svg = method_bars(results, highlight=["b"])
    assert filled("--fig-1", svg) == 1 and filled("--fig-muted", svg) == 2


def test_distance_curves_show_the_mean_of_the_seeds() -> None:
    svg = distance_curves(
        {"one": [[0.9, 0.5], [0.7, 0.3]], "two": [0.8, 0.4], "three": [0.4, np.nan]}, [1, 5]
    )
    one, two = line(svg, 1), line(svg, 2)
    np.testing.assert_allclose(one, two, atol=1e-3)  # the same means
    assert one[0, 0] < one[1, 0] and one[0, 1] < one[1, 1]
    assert len(re.findall(r"fill-opacity: 0.18", svg)) == 1  # seeds have a range
    marks = re.findall(r'<use xlink:href="#\w+" x="[\d.]+" y="([\d.]+)"[^>]*--fig-3,', svg)
    assert float(two[1, 1]) in [pytest.approx(float(y), abs=1e-3) for y in marks]


def test_pck_counts_missing_predictions_as_wrong_and_skips_unknown_truth() -> None:
    svg = pck_curves(
        {"right": [0.0, 0.0], "half": [0.05, np.inf], "unknown": [0.05, np.nan], "none": [np.inf]},
        longest=0.1,
    )
    right, half, unknown, none = (line(svg, series)[:, 1] for series in (1, 2, 3, 4))
    assert np.ptp(right) == np.ptp(none) == 0 and right[0] < none[0]
    assert half[0] == none[0] and half[-1] == pytest.approx((right[0] + none[0]) / 2, abs=1e-3)
    assert unknown[0] == none[0] and unknown[-1] == right[-1]
    step = line(svg, 3)
    rise = step[np.argmax(step[:, 1] < none[0]), 0]  # at half of the axis
    assert (rise - step[0, 0]) / np.ptp(step[:, 0]) == pytest.approx(0.5, abs=0.011)


def test_risk_coverage_by_hand() -> None:
    coverage, risk = risk_coverage([0.9, 0.1, 0.5, 0.7], [0.0, 4.0, 2.0, 1.0])
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(risk, [0.0, 0.5, 1.0, 1.75])
    coverage, risk = risk_coverage(np.ones(7), np.arange(7))
    np.testing.assert_allclose((coverage, risk), [[1.0], [3.0]])  # no order at all


def test_risk_coverage_does_not_depend_on_the_order_of_equals() -> None:
    confidence = RNG.integers(0, 6, 200) / 5
    error = RNG.random(200)
    expected_coverage, expected_risk = [], []
    for threshold in sorted(set(confidence), reverse=True):
        kept = confidence >= threshold
        expected_coverage.append(kept.mean())
        expected_risk.append(error[kept].mean())
    for order in (np.arange(200), RNG.permutation(200)):
        coverage, risk = risk_coverage(confidence[order], error[order])
        np.testing.assert_allclose(coverage, expected_coverage)
        np.testing.assert_allclose(risk, expected_risk)


def test_risk_curves_end_at_the_mean_and_stay_small() -> None:
    error = RNG.random(50_000)
    svg = risk_coverage_curves({"exact": (-error, error), "random": (RNG.random(50_000), error)})
    exact, random = line(svg, 1), line(svg, 2)
    assert len(svg) < 60_000
    np.testing.assert_allclose(exact[-1], random[-1], atol=1e-3)
    assert (np.diff(exact[:, 1]) <= 0).all()  # downwards: the error grows with the coverage
    assert np.ptp(random[len(random) // 2 :, 1]) < 0.05 * np.ptp(exact[:, 1])


def test_learning_curves_from_files(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text(LOG)
    columns = read_log(file)
    np.testing.assert_array_equal(columns["val_pck"], [np.nan, 0.5, 0.6])
    svg = learning_curves({"pose": file, "warp": columns})
    assert {"Loss", "PCK, %", "epoch", "pose, train", "warp, val"} <= set(texts(svg))
    assert len(line(svg, 1)) in (2, 3) and "best validation PCK 60.0 %" in svg


def test_logs_with_less_are_drawn_as_far_as_they_go(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("note,step,train_loss\nfirst,10,2.0\n,20,1.5\nlast,30\n")
    svg = learning_curves({"": file})
    assert {"Loss", "step"} <= set(texts(svg)) and "PCK, %" not in texts(svg)
    assert line(svg, 1).shape == (2, 2)  # a cell is missing in the last row
    without_steps = learning_curves({"": {"val_pck": [0.1, 0.2, 0.4]}})
    assert "row" in texts(without_steps)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: learning_curves({}), "runs: expected train_loss.*got no run"),
        (lambda: learning_curves({"x": {"lr": [1.0]}}), "runs: expected train_loss.*got x"),
        (
            lambda: learning_curves({"x": {"epoch": [1], "val_pck": [0.1, 0.2]}}),
            "runs: expected columns of one length in 'x', got",
        ),
        (lambda: method_bars({}), "results: expected at least one method with a value"),
        (lambda: method_bars({"a": {"all": np.nan}}), "results: expected at least one method"),
        (lambda: method_bars({"a": {"all": 1}}, highlight=["b"]), "highlight: 'b' is none of a"),
        (lambda: distance_curves({}, [1]), "expected at least one method to draw"),
        (
            lambda: distance_curves({"a": [1, 2]}, [1, 2, 3]),
            r"curves: expected \[3\] or \[seeds, 3\] values for 'a', got \[2\]",
        ),
        (
            lambda: distance_curves({"a": [1]}, [1], highlight=["b"]),
            "highlight: 'b' is none of a",
        ),
        (lambda: pck_curves({"a": [np.nan]}), "errors: expected a distance for 'a', got none"),
        (lambda: pck_curves({"a": [1]}, longest=0), "longest: expected a positive distance"),
        (lambda: risk_coverage([1, 2], [1]), "expected as many of each, got 2 and 1"),
        (lambda: risk_coverage([], []), "expected as many of each, got 0 and 0"),
        (lambda: risk_coverage([np.nan], [1]), "expected finite numbers"),
    ],
)
def test_bad_input(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_logs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape("none.csv")):
        learning_curves({"x": tmp_path / "none.csv"})
    for content in ("", "epoch,train_loss\n"):
        file = tmp_path / "empty.csv"
        file.write_text(content)
        with pytest.raises(ValueError, match=r"empty\.csv: expected a CSV log"):
            read_log(file)


def contrast(one: str, other: str) -> float:
    """Of two colours, as WCAG 2.2 defines it."""

    def luminance(color: str) -> float:
        parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_seen_on_both_pages() -> None:
    css = (Path(__file__).parents[2] / "posewarper/report/templates/report.css").read_text()
    pages = [dict(re.findall(r"(--[\w-]+): (#\w{6})", css[a:b]))
             for a, b in ((0, css.index("@media")), (css.index("@media"), None))]  # fmt: skip
    for page, dark in zip(pages, (False, True), strict=True):
        for pair in SERIES:
            assert contrast(pair[dark], page["--paper"]) >= 3, pair
        assert contrast(color_variables(dark=dark)["--fig-ink"], page["--paper"]) >= 7
        for text, ground in (("ink", "paper"), ("soft", "paper"), ("soft", "panel"),
                             ("link", "paper"), ("ink", "own"), ("soft", "own"),
                             ("true", "true-ground"), ("false", "false-ground"),
                             ("mixed", "mixed-ground")):  # fmt: skip
            assert contrast(page[f"--{text}"], page[f"--{ground}"]) >= 4.5, (text, ground, dark)
