"""The report: one HTML file that needs nothing but a browser.

    report = Report("PoseWarper demo", facts={"machine": "2 cores", "time": "7 min 12 s"})
    report.claim("Propagation beats copying the nearest label", "true",
                 {"propagated": "93.5 %", "copied": "70.1 %"})
    section = report.section("Propagation", "Labels of every 7th frame, spread to all others.")
    section.table(Table((Column("PCK .1", better="higher"),), {"warp": [[.93, .94]], "copy": [.7]}))
    section.figure(distance_curves(...), "Accuracy by distance from the nearest label")
    section.clip(frames, 15, "Truth, single frame, aggregated")
    report.write("report.html")

No text is trusted: names of files and videos are shown as they are, never read as HTML. A content
security policy in the page keeps it from fetching anything and from running any script but its
own.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args
from xml.etree import ElementTree

import jinja2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from posewarper.files import whole_file
from posewarper.report.media import Clip, Image, animation, still
from posewarper.report.style import color_variables

Verdict = Literal["true", "false", "mixed"]
Value = str | float | None | Sequence[float] | npt.NDArray[Any]

_VERDICTS = {
    "true": ("✓", "holds"),
    "false": ("✗", "does not hold"),
    "mixed": ("≈", "holds in part"),
}
_NAMES = r"((?<=\s)id=\"|href=\"#|url\(#)"  # in the tags of an SVG


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: what stands above it.
        better: which value is set in bold; None for none.
        digits: behind the point.
        percent: numbers are shares and are shown times 100.
    """

    name: str
    better: Literal["higher", "lower"] | None = None
    digits: int = 1
    percent: bool = False


@dataclass(frozen=True)
class Table:
    """Rows with a name and one value for each column.

    A value is a number, text, None or NaN where there is none, or a sequence with one number for
    each seed: of these the mean is shown, with the lowest and the highest.

    Attributes:
        columns: without the one of the rows' names.
        rows: name -> values.
        header: above the names of the rows.
        highlight: rows with a coloured ground, such as the project's own method.

    Raises:
        ValueError: a row has more or fewer values than there are columns; names it.
    """

    columns: Sequence[Column]
    rows: Mapping[str, Sequence[Value]]
    header: str = ""
    highlight: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, values in self.rows.items():
            if len(values) != len(self.columns):
                raise ValueError(
                    f"rows: expected {len(self.columns)} values for {name!r}, got {len(values)}"
                )
        for name in self.highlight:
            if name not in self.rows:
                raise ValueError(f"highlight: {name!r} is none of {', '.join(self.rows)}")

    def cells(self) -> dict[str, list[_Cell]]:
        """What is shown, row by row."""
        shown: dict[str, list[_Cell]] = {name: [] for name in self.rows}
        for index, column in enumerate(self.columns):
            cells = {name: _cell(values[index], column) for name, values in self.rows.items()}
            means = [cell.mean for cell in cells.values() if math.isfinite(cell.mean)]
            best = math.nan  # as it is printed, so that what looks equal is bold together
            if column.better is not None and len(means) > 1:
                best = max(means) if column.better == "higher" else min(means)
            for name, cell in cells.items():
                shown[name].append(
                    _Cell(cell.text, cell.extent, cell.mean, cell.is_number,
                          best=cell.mean == best, seeds=cell.seeds)
                )  # fmt: skip
        return shown

    @property
    def seeds(self) -> tuple[int, int]:
        """Fewest and most seeds of the cells that have several; (1, 1) if none has."""
        counts = [cell.seeds for row in self.cells().values() for cell in row if cell.seeds > 1]
        return min(counts, default=1), max(counts, default=1)

    @property
    def has_best(self) -> bool:
        """Whether any value is set in bold."""
        return any(cell.best for row in self.cells().values() for cell in row)

    def holds_numbers(self, column: int) -> bool:
        """Whether a column holds anything but text."""
        return not all(isinstance(values[column], str) for values in self.rows.values())


@dataclass(frozen=True)
class Picture:
    """An image of a section.

    Attributes:
        image: RGB [H, W, 3] uint8.
        caption: below it.
        alt: what it shows, for those who do not see it; the caption if left out.
    """

    image: Image
    caption: str = ""
    alt: str = ""


@dataclass
class Section:
    """A part of the report with a heading; made by ``Report.section``.

    Attributes:
        title: its heading and its entry in the table of contents.
        anchor: its name in links.
        blocks: what it holds: the name of the template's block, and its values.
    """

    title: str
    anchor: str
    blocks: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def text(self, text: str) -> None:
        """Paragraphs of plain text, separated by empty lines."""
        for paragraph in re.split(r"\n\s*\n", text.strip()):
            if paragraph:
                self.blocks.append(("text", {"text": " ".join(paragraph.split())}))

    def heading(self, text: str) -> None:
        """A heading below that of the section."""
        self.blocks.append(("heading", {"text": text}))

    def table(self, table: Table, caption: str = "") -> None:
        """A table; a line below it says how values of several seeds are shown."""
        self.blocks.append(("table", {"table": table, "caption": caption}))

    def figure(self, svg: str, caption: str) -> None:
        """A figure of ``posewarper.report.figures``.

        Args:
            svg: one ``<svg>`` element with an ``aria-label``; it becomes part of the page as it is.
            caption: below it.

        Raises:
            ValueError: it is no SVG element, or it holds a script or refers to another file.
        """
        _check_svg(svg)
        self.blocks.append(("figure", {"svg": svg, "caption": caption}))

    def images(
        self, pictures: Iterable[Picture | Image], *, columns: int = 3, quality: int = 85
    ) -> None:
        """Images in a grid of at most so many columns, fewer on a narrow screen.

        Raises:
            ValueError: there is none, or something is no RGB uint8 image.
        """
        if columns < 1:
            raise ValueError(f"columns: expected 1 or more, got {columns}")
        entries = []
        for picture in pictures:
            if not isinstance(picture, Picture):
                picture = Picture(picture)
            small = still(picture.image, quality=quality)
            entries.append((small, picture.caption, picture.alt or picture.caption))
        if not entries:
            raise ValueError("pictures: expected one or more, got none")
        columns = min(columns, len(entries))
        self.blocks.append(("images", {"entries": entries, "columns": columns}))

    def clip(
        self,
        frames: Iterable[Image] | Clip,
        fps: float = 15.0,
        caption: str = "",
        *,
        alt: str = "",
        max_bytes: int = 3_000_000,
    ) -> None:
        """A short film that repeats; readers can stop it, and print shows its first frame.

        Args:
            frames: RGB [H, W, 3] uint8, all of one size; or what ``animation`` made of them.
            fps: frames per second.
            caption: below it.
            alt: what it shows; the caption if left out.
            max_bytes: see ``animation``.

        Raises:
            ValueError: see ``animation``.
        """
        clip = frames if isinstance(frames, Clip) else animation(frames, fps, max_bytes=max_bytes)
        self.blocks.append(("clip", {"clip": clip, "caption": caption, "alt": alt or caption}))

    def settings(self, settings: Mapping[str, Any], title: str = "Settings") -> None:
        """Names and values, folded up; nested mappings as ``outer.inner``."""
        self.blocks.append(("settings", {"entries": _flat(settings), "title": title}))


class Report:
    """Builds a page from the top down; see the example at the top of this module.

    Args:
        title: of the page.
        subtitle: a sentence below it.
        facts: short notes below that, such as machine, time and version. Nothing is added to them:
            the same content gives the same file.

    Attributes:
        sections: in the order of the page.
    """

    def __init__(self, title: str, subtitle: str = "", facts: Mapping[str, str] | None = None):
        self.title = title
        self.subtitle = subtitle
        self.facts = dict(facts or {})
        self.sections: list[Section] = []
        self._claims: list[dict[str, Any]] = []

    def claim(
        self,
        text: str,
        verdict: Verdict,
        numbers: Mapping[str, str] | None = None,
        note: str = "",
    ) -> None:
        """What was to be shown, and whether it was; claims stand on top of the page.

        Args:
            text: the claim.
            verdict: "true", "false", or "mixed" where it holds for some only.
            numbers: what it rests on, by name, the first one large; with their units.
            note: small print, such as which seeds.

        Raises:
            ValueError: the verdict is none of these.
        """
        if verdict not in get_args(Verdict):
            raise ValueError(f"verdict: expected one of {get_args(Verdict)}, got {verdict!r}")
        sign, words = _VERDICTS[verdict]
        self._claims.append(
            {"text": text, "verdict": verdict, "sign": sign, "words": words,
             "numbers": dict(numbers or {}), "note": note}
        )  # fmt: skip

    def section(self, title: str, text: str = "") -> Section:
        """A new section at the end, with these paragraphs."""
        section = Section(title, f"s{len(self.sections) + 1}")
        section.text(text)
        self.sections.append(section)
        return section

    def html(self) -> str:
        """The page."""
        # Names inside a figure have to differ from those of all others on the page.
        counter = 0

        def own_names(svg: str) -> Markup:
            nonlocal counter
            counter += 1
            prefix = rf"\g<1>g{counter}-"
            return Markup(
                re.sub(r"<[^>]+>", lambda tag: re.sub(_NAMES, prefix, tag[0]), svg)  # not in texts
            )

        template, script, policy = _template()
        return template.render(
            report=self, claims=self._claims, own_names=own_names, script=Markup(script),
            policy=policy, light=color_variables(dark=False), dark=color_variables(dark=True),
        )  # fmt: skip

    def write(self, path: str | Path) -> Path:
        """Write the page, whole or not at all.

        Raises:
            OSError: the folder does not exist or cannot be written to.
        """
        with whole_file(path) as partial:
            # Names of files may hold bytes that are no text.
            partial.write_text(self.html(), encoding="utf-8", errors="replace")
        return Path(path)


@dataclass(frozen=True)
class _Cell:
    text: str
    extent: str = ""  # of the seeds
    mean: float = math.nan  # rounded as shown
    is_number: bool = True
    best: bool = False
    seeds: int = 1


def _cell(value: Value, column: Column) -> _Cell:
    if isinstance(value, str):
        return _Cell(value, is_number=False)
    numbers = np.atleast_1d(np.asarray(math.nan if value is None else value, np.float64))
    numbers = numbers[np.isfinite(numbers)] * (100 if column.percent else 1)
    if not len(numbers):
        return _Cell("–")
    mean, low, high = (
        f"{number:.{column.digits}f}".replace("-", "−")
        for number in (numbers.mean(), numbers.min(), numbers.max())
    )
    extent = f"{low}–{high}" if len(numbers) > 1 else ""
    return _Cell(mean, extent, float(mean.replace("−", "-")), seeds=len(numbers))


def _check_svg(svg: str) -> None:
    try:
        if not svg.startswith("<svg"):  # nor any declaration before it
            raise ElementTree.ParseError("it begins with something else")
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise ValueError(f"svg: expected one <svg> element, got {svg[:60]!r}: {error}") from None
    if root.tag != "{http://www.w3.org/2000/svg}svg" or not root.get("aria-label"):
        raise ValueError(f"svg: expected one <svg> element with aria-label, got {svg[:60]!r}")
    for element in root.iter():
        kind = element.tag.rpartition("}")[2].lower()
        if kind in ("script", "foreignobject", "style"):
            raise ValueError(f"svg: expected a drawing only, got the element <{kind}>")
        for name, value in element.items():
            bare = name.rpartition("}")[2].lower()
            outside = bare == "href" and not value.startswith("#")
            if outside or bare.startswith("on") or re.search(r"url\((?!#)", value):
                raise ValueError(
                    f"svg: expected no script and no reference to another file, "
                    f"got {bare}={value[:60]!r}"
                )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    entries: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            entries += _flat(value, f"{prefix}{name}.")
        else:
            entries.append((f"{prefix}{name}", "–" if value is None else str(value)))
    return entries


@cache
def _template() -> tuple[jinja2.Template, str, str]:
    """The page, its script, and the policy that lets this script run and nothing else load."""
    loader = jinja2.PackageLoader("posewarper.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    script = loader.get_source(environment, "report.js")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template("report.html"), script, policy
