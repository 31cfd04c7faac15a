"""The report: one whole HTML file that loads nothing, trusts no text and shows what it is given."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from posewarper.report import (
    Column,
    Picture,
    Report,
    Table,
    animation,
    distance_curves,
    method_bars,
    pck_curves,
)

EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=y>"
IMAGE = np.full((30, 40, 3), (200, 60, 20), np.uint8)
VOID = {"meta", "img", "source", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Reads a page; fails where a tag is not closed or closes another one."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def words(self, *tags: str) -> list[str]:
        return [text for tag, text in self.texts if not tags or tag in tags]


def frames(count: int = 6) -> list[Any]:
    return [np.roll(IMAGE * (np.arange(40)[None, :, None] < 20), i, 1) for i in range(count)]


def full_report(text: str = "word") -> Report:
    """A report with everything, and ``text`` wherever a user's text can stand."""
    report = Report(f"title {text}", f"sub {text}", {f"fact {text}": f"is {text}"})
    for verdict in ("true", "false", "mixed"):
        report.claim(f"claim {text}", verdict, {f"share {text}": f"9 {text}"}, f"note {text}")
    first = report.section(f"first {text}", f"one {text}\n\ntwo\nlines")
    table = Table(
        (Column(f"PCK {text}", "higher", percent=True), Column("error", "lower", 2), Column("x")),
        {f"ours {text}": ([0.5, 0.75], 1.0, f"cell {text}"), "theirs": (0.4, None, "")},
        header=f"method {text}",
        highlight=(f"ours {text}",),
    )
    first.table(table, f"caption {text}")
    first.figure(distance_curves({f"a {text}": [0.1, 0.2], "b": [0.1, 0.3]}, [1, 2]), f"fig {text}")
    first.figure(method_bars({f"a {text}": {f"g {text}": 0.2}}), "bars")
    first.heading(f"heading {text}")
    first.images([Picture(IMAGE, f"image {text}", f"alt {text}"), IMAGE], columns=2)
    second = report.section("second")
    second.clip(frames(), 10, f"clip {text}")
    second.settings(
        {f"outer {text}": {"inner": None, "list": [1, 2]}, "plain": text}, f"set {text}"
    )
    return report


def test_page_is_whole_and_everything_is_in_it(tmp_path: Path) -> None:
    file = full_report().write(tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    page = Page(file.read_text(encoding="utf-8"))
    words = page.words()
    for expected in (
        "title word", "sub word", "fact word", "is word", "claim word", "share word", "9 word",
        "note word", "holds", "does not hold", "holds in part", "first word", "one word",
        "two lines", "PCK word", "ours word", "cell word", "method word", "caption word",
        "fig word", "a word", "heading word", "image word", "clip word", "0.6 s, 6 frames",
        "outer word.inner", "–", "outer word.list", "[1, 2]", "set word",
    ):  # fmt: skip
        assert expected in words, expected
    assert [text for text in page.words("h2") if text != "Contents"] == [
        "Results at a glance", "first word", "second",
    ]  # fmt: skip
    assert page.all("html") == [{"lang": "en"}]
    assert page.words("title") == ["title word"]


def test_nothing_is_loaded_and_no_other_script_runs() -> None:
    page = Page(full_report().html())
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "srcset", "xlink:href", "href", "data", "poster"):
                assert value is not None and value.startswith(("data:image/", "#")), (tag, name)
    text = full_report().html()
    assert not re.findall(r"@import|url\((?!#)", text)
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy  # or the browser would refuse it


def test_texts_of_users_are_shown_and_never_read_as_html() -> None:
    plain, evil = Page(full_report().html()), Page(full_report(EVIL).html())
    assert [tag for tag, _ in evil.elements if tag != "path"] == (
        [tag for tag, _ in plain.elements if tag != "path"]
    )
    attributes = [sorted(a) for tag, a in evil.elements if tag != "path"]
    assert attributes == [sorted(a) for tag, a in plain.elements if tag != "path"]
    for expected in ("title", "claim", "note", "cell", "image", "set", "a"):
        assert f"{expected} {EVIL}" in evil.words(), expected
    assert f"alt {EVIL}" in [image["alt"] for image in evil.all("img")]


def test_names_and_links_inside_the_page_fit() -> None:
    page = Page(full_report().html())
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids)) and len(ids) > 20  # those of the figures, too
    for _, attributes in page.elements:
        for name in ("href", "xlink:href"):
            target = attributes.get(name)
            if target is not None:
                assert target[1:] in ids, target
        for target in re.findall(r"url\(#([^)]*)\)", " ".join(map(str, attributes.values()))):
            assert target in ids, target
    entries = [a["href"] for a in page.all("a")]
    assert entries == ["#content", "#claims", "#s1", "#s2"]


def test_pictures_decode_back_and_have_texts() -> None:
    page = Page(full_report().html())
    images = page.all("img")
    assert len(images) == 3 and all("alt" in image for image in images)
    for image in images[:2]:
        data = base64.b64decode(str(image["src"]).partition(",")[2])
        back = np.asarray(PillowImage.open(io.BytesIO(data)).convert("RGB"))
        assert np.abs(back.astype(float) - IMAGE).mean() < 4
        assert (image["width"], image["height"]) == ("40", "30")
    film = PillowImage.open(io.BytesIO(base64.b64decode(str(images[2]["src"]).partition(",")[2])))
    assert film.n_frames == 6
    (source,) = page.all("source")
    assert source["media"] == "print, (prefers-reduced-motion: reduce)"
    still = PillowImage.open(io.BytesIO(base64.b64decode(str(source["srcset"]).partition(",")[2])))
    assert still.n_frames == 1 and still.size == film.size


def test_same_content_same_file() -> None:
    assert full_report().html() == full_report().html()
    report = full_report()
    assert report.html() == report.html()


def test_a_clip_can_be_made_before() -> None:
    clip = animation(frames(), 10)
    report = Report("t")
    report.section("s").clip(clip, caption="c")
    assert clip.uri in report.html()


def test_an_empty_report_is_a_page() -> None:
    page = Page(Report("nothing yet").html())
    assert page.words("h1") == ["nothing yet"] and not page.all("nav") and not page.all("section")


def cells(table: Table) -> dict[str, list[tuple[str, str, bool]]]:
    return {
        name: [(cell.text, cell.extent, cell.best) for cell in row]
        for name, row in table.cells().items()
    }


def test_tables_show_mean_and_range_and_the_best() -> None:
    table = Table(
        (Column("PCK", "higher", percent=True), Column("error", "lower", 2), Column("n", None, 0)),
        {
            "a": ([0.5, 0.6, 0.7], -1.0, 3),
            "b": (0.6004, [2.0, np.nan, 4.0], 900),
            "c": (None, np.nan, "many"),
            "d": (np.array([0.1, 0.2]), 0.001, 1),
        },
    )
    assert cells(table) == {
        "a": [("60.0", "50.0–70.0", True), ("−1.00", "", True), ("3", "", False)],
        "b": [("60.0", "", True), ("3.00", "2.00–4.00", False), ("900", "", False)],  # 60.0 too
        "c": [("–", "", False), ("–", "", False), ("many", "", False)],
        "d": [("15.0", "10.0–20.0", False), ("0.00", "", False), ("1", "", False)],
    }
    assert table.seeds == (2, 3)
    report = Report("t")
    report.section("s").table(table)
    page = Page(report.html())
    assert page.words("strong") == ["60.0", "−1.00", "60.0"]
    (note,) = page.words("figcaption")
    assert note.startswith("Mean of 2 to 3 seeds, below it the lowest and the highest. Bold:")
    classes = [cell["class"] for cell in page.all("td")]
    assert classes == ["number"] * 8 + ["words"] + ["number"] * 3


def test_a_single_row_has_no_best() -> None:
    table = Table((Column("PCK", "higher"),), {"a": (1.0,)})
    assert cells(table) == {"a": [("1.0", "", False)]}
    report = Report("t")
    report.section("s").table(table)
    assert "seeds" not in report.html() and "Bold" not in report.html()


@pytest.mark.parametrize(
    ("svg", "message"),
    [
        ("<p>no figure</p>", "expected one <svg> element"),
        ('<svg xmlns="http://www.w3.org/2000/svg"></svg>', "with aria-label"),
        ("<svg><g></svg>", "expected one <svg> element"),
        ("<svg {}><script>1</script></svg>", "got the element <script>"),
        ("<svg {}><style>*{{}}</style></svg>", "got the element <style>"),
        ("<svg {}><g onclick='x'/></svg>", "got onclick="),
        ("<svg {}><a href='https://example.org'/></svg>", "got href="),
        ("<svg {}><g style='fill: url(http://x)'/></svg>", "got style="),
        ("<svg {}></svg><p/>", "expected one <svg> element"),
    ],
)
def test_figures_that_are_none(svg: str, message: str) -> None:
    known = 'xmlns="http://www.w3.org/2000/svg" aria-label="x"'
    with pytest.raises(ValueError, match=f"svg: .*{re.escape(message)}"):
        Report("t").section("s").figure(svg.format(known), "caption")


def test_words_in_figures_stay_as_they_are() -> None:
    report = Report("t")
    name = 'a id="b" url(#c) on=1'
    report.section("s").figure(pck_curves({name: [0.1], "other": [0.2]}), "caption")
    assert name in Page(report.html()).words("text")


def test_bad_input(tmp_path: Path) -> None:
    report = Report("t")
    section = report.section("s")
    with pytest.raises(ValueError, match=r"verdict: expected one of .*got 'maybe'"):
        report.claim("x", "maybe")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rows: expected 1 values for 'a', got 2"):
        Table((Column("x"),), {"a": (1, 2)})
    with pytest.raises(ValueError, match="highlight: 'b' is none of a"):
        Table((Column("x"),), {"a": (1,)}, highlight=("b",))
    with pytest.raises(ValueError, match="pictures: expected one or more, got none"):
        section.images([])
    with pytest.raises(ValueError, match="columns: expected 1 or more, got 0"):
        section.images([IMAGE], columns=0)
    with pytest.raises(ValueError, match="image: expected RGB"):
        section.images([IMAGE[..., 0]])
    with pytest.raises(ValueError, match="frames: expected one or more"):
        section.clip([])
    assert not section.blocks  # what failed leaves nothing behind
    with pytest.raises(FileNotFoundError, match="none"):
        report.write(tmp_path / "none" / "report.html")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    report = Report(b"video \xff".decode("utf-8", "surrogateescape"))
    assert "video ?" in report.write(tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_page_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text("old")
    report = Report("t")
    report.section("s").blocks.append(("text", {}))  # no text: the template refuses
    with pytest.raises(Exception, match="text"):
        report.write(file)
    assert file.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["report.html"]
