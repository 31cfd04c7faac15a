"""How figures look: their colours in the light and the dark page, and the way from matplotlib to
an SVG element that can stand in a page.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable

import matplotlib.style
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Light, dark. After Okabe and Ito, darker or lighter until each has a contrast of 3 to the page.
SERIES: tuple[tuple[str, str], ...] = (
    ("#0072b2", "#56b4e9"),  # blue
    ("#d55e00", "#ff8f4d"),  # vermilion
    ("#008563", "#2cc295"),  # green
    ("#b5538c", "#e59ac6"),  # purple
    ("#9a6b00", "#f0b93a"),  # ochre
    ("#4d4d57", "#c9cbd3"),  # grey
)
MUTED = ("#9aa1ad", "#6d7480")  # bars and lines that the eye may pass over
INK = ("#1d2129", "#e6e8ec")  # text and axes
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)))  # told apart in print, too
MARKERS = "osD^vP"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "posewarper",  # ids of elements are the same in every run
    "font.family": "DejaVu Sans",  # for the layout; the page says what is shown
    "font.size": 9.5,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "axes.edgecolor": INK[0],
    "axes.labelcolor": INK[0],
    "axes.titlecolor": INK[0],
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "text.color": INK[0],
    "xtick.color": INK[0],
    "ytick.color": INK[0],
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "lines.solid_capstyle": "round",
}


def color_variables(*, dark: bool) -> dict[str, str]:
    """CSS variables of the figures and their values, for the light or the dark page."""
    named = {"--fig-ink": INK, "--fig-muted": MUTED}
    named |= {f"--fig-{index + 1}": pair for index, pair in enumerate(SERIES)}
    return {name: pair[dark] for name, pair in named.items()}


def series_color(index: int) -> str:
    """The light colour of a line or bar; after six they repeat."""
    return SERIES[index % len(SERIES)][0]


def drawn_svg(size: tuple[float, float], draw: Callable[[Figure], None], description: str) -> str:
    """What ``draw`` draws as one ``<svg>`` element, the same on every day and machine.

    Args:
        size: width and height in inches of 72 units.
        draw: gets an empty figure.
        description: for those who do not see it.
    """
    # From matplotlib's defaults on: a style of the user's own must not show.
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has other fonts
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_visible(False)
        FigureCanvasSVG(figure)
        draw(figure)
        for axis in figure.axes:
            axis.patch.set_visible(False)
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.S)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S)  # it would hold for the whole page
    text = re.sub(r'style="[^"]*"', lambda match: _of_page(match[0]), text)
    width, height = (round(72 * side) for side in size)
    shown = [round(1.45 * side) for side in (width, height)]  # text as large as the page's captions
    label = html.escape(description)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{shown[0]}" height="{shown[1]}" viewBox="0 0 {width} {height}" role="img" '
        f'style="stroke-linejoin: round; stroke-linecap: butt" aria-label="{label}">'
    )
    return opening + text[text.index(">") + 1 :]


def _of_page(style: str) -> str:
    """A style attribute with the font and the colours of the page."""
    style = re.sub(r"font: ([\w ]*?)([\d.]+px)[^;\"]*", _font, style)
    style = re.sub(r"font-family: [^;\"]*", "font-family: inherit", style)
    for name, light in color_variables(dark=False).items():
        style = style.replace(light, f"var({name}, {light})")
    return style


def _font(match: re.Match[str]) -> str:
    """The size and weight of matplotlib's shorthand; newer versions write them one by one."""
    weight = "bold" if re.search("bold|700", match[1]) else "normal"
    return f"font-family: inherit; font-weight: {weight}; font-size: {match[2]}"
