"""Tables and plots from the saved results: short ones in the README, all of them in docs.

    python -m benchmarks.report            # updates README.md, docs/benchmarks.md and docs/images
    python -m benchmarks.report --check    # exits with 1 if they do not show the results

Ratios are taken between rows of one run: the baseline's median time over ours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import plots, results, system_tables, warp_tables

WARP = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
SYSTEM = "<!-- system:begin -->", "<!-- system:end -->"


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
    content = section(options.results)
    return keep(options.readme, content, markers, module, options.check)


def keep(document: Path, content: str, markers: tuple[str, str], module: str, check: bool) -> int:
    """Put ``content`` between the markers of a document, or see whether it is there.

    Args:
        document: the file.
        content: Markdown.
        markers: before and after it.
        module: that makes it, for the message.
        check: change nothing, compare.

    Returns:
        The exit status: 1 where ``check`` finds another text.
    """
    text = document.read_text(encoding="utf-8")
    wanted = replaced(text, content, *markers)
    if not check:
        document.write_text(wanted, encoding="utf-8")
    elif text != wanted:
        print(f"{document.name} is out of date; run: python -m {module}", file=sys.stderr)
        return 1
    return 0


def replaced(readme: str, content: str, begin: str, end: str) -> str:
    """``readme`` with ``content`` between the markers.

    Raises:
        ValueError: the markers are not there.
    """
    before, first, rest = readme.partition(begin)
    _, last, after = rest.partition(end)
    if not (first and last):
        raise ValueError(f"text: expected the markers {begin} and {end}")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


def contents(path: Path, text: str, folder: Path, images: Path, short: bool) -> str:
    """The text of a document with the tables of all results.

    Args:
        path: of the document, which links to plots.
        text: as it is.
        folder: of the results; those of the system in ``system`` there.
        images: folder of the plots.
        short: the README's tables.

    Raises:
        ValueError: the markers are not there.
    """
    base = path.resolve().parent
    base_or_none = base if images.is_relative_to(base) else None
    for tables, markers, place in (
        (warp_tables, WARP, folder),
        (system_tables, SYSTEM, folder / "system"),
    ):
        make = tables.short_section if short else tables.section
        content = make(results.load_latest(place), images, base_or_none)
        text = replaced(text, content, *markers)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    parser.add_argument("--readme", type=Path, default=results.ROOT / "README.md")
    parser.add_argument("--check", action="store_true", help="change nothing, compare")
    options = parser.parse_args(arguments)
    base = options.readme.resolve().parent
    images = base / "docs" / "images"
    documents = {options.readme: True, base / "docs" / "benchmarks.md": False}
    old = {path: path.read_text(encoding="utf-8") for path in documents}
    new = {
        path: contents(path, old[path], options.results, images, short)
        for path, short in documents.items()
    }
    found = [
        (result, kind)
        for folder in (options.results, options.results / "system")
        for result in results.load_latest(folder)
        for kind in plots.kinds(result)
    ]
    if options.check:
        missing = [
            path.name
            for result, kind in found
            if not (path := plots.path_of(result, kind, images)).exists()
        ]
        stale = [path.name for path in documents if old[path] != new[path]]
        if not missing and not stale:
            return 0
        print(
            f"out of date: {', '.join(stale + missing)}; run: python -m benchmarks.report",
            file=sys.stderr,
        )
        return 1
    for path, text in new.items():
        path.write_text(text, encoding="utf-8")
    for result, kind in found:
        plots.draw(result, kind, plots.path_of(result, kind, images))
    return 0


if __name__ == "__main__":
    sys.exit(main())
