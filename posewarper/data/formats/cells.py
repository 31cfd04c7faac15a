"""Cells of text tables as people save them: any encoding, commas, semicolons or tabs."""

from __future__ import annotations

import codecs
import csv
import io
import warnings
from pathlib import Path
from typing import NamedTuple

from posewarper.data.entries import FARTHEST, number

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SEPARATORS = ",;\t"
_NOTHING = {"", "na", "n/a", "#n/a", "nan", "-nan", "<na>", "null", "none", "-"}


class Row(NamedTuple):
    """The cells of a row, without spaces around them, and the line in which it ends."""

    line: int
    cells: list[str]


def read_rows(path: Path) -> list[Row]:
    """Rows of a text table that are not empty.

    UTF-8, UTF-16 and UTF-32 are told apart; other text is taken for Windows' Western European, with
    a warning. The separator is the one that makes the most cells of the first row. Commas in
    numbers of tables with another separator are decimal points.

    Raises:
        ValueError: it is no text, or quotes do not end; names the line.
    """
    text = _decoded(path)
    separator = _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                cells = [cell.strip() for cell in cells]
                if separator != ",":
                    cells = [_decimal_point(cell) for cell in cells]
                rows.append(Row(reader.line_num, cells))
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: no valid table: {error}") from None
    return rows


def first_cell(path: Path) -> str:
    """The first cell of a table; empty if there is none."""
    with open(path, "rb") as file:
        head = file.read(4096)
    encoding = _encoding(head) or "utf-8"
    line = head.decode(encoding, "replace").lstrip().partition("\n")[0]
    end = min((i for s in _SEPARATORS if (i := line.find(s)) >= 0), default=len(line))
    return line[:end].strip().strip('"').strip()


def _encoding(head: bytes) -> str:
    """The encoding that the first bytes tell; empty if they tell none."""
    marked = next((name for mark, name in _MARKS.items() if head.startswith(mark)), "")
    if not marked and b"\0" in head:
        return "utf-16-le" if head[1:2] == b"\0" else "utf-16-be"
    return marked


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    encoding = _encoding(data[:4096])
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding:
            raise ValueError(f"{path}: no valid text in {encoding}: {error.reason}") from None
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            raise ValueError(
                f"{path}: no text: byte {error.start} is neither UTF-8 nor Windows-1252; save the "
                "table as UTF-8"
            ) from None
        warnings.warn(
            f"{path}: is not UTF-8 and is read as Windows-1252: check the names, or save it as "
            "UTF-8",
            stacklevel=5,
        )
    if "\0" in text:
        raise ValueError(f"{path}: no text: it has zero bytes; save the table as UTF-8")
    return text


def _separator(text: str) -> str:
    first = next((line for line in text.splitlines() if line.strip()), "")

    def cells(separator: str) -> int:
        try:
            return len(next(csv.reader([first], delimiter=separator)))
        except csv.Error:
            return 0

    return max(_SEPARATORS, key=cells)  # the first of those with the same number


def _decimal_point(cell: str) -> str:
    digits = cell.replace(",", "", 1).lstrip("+-").lower().replace("e", "", 1)
    ok = cell.count(",") == 1 and digits.replace("-", "").replace("+", "").isdigit()
    return cell.replace(",", ".") if ok else cell


def cell_number(cell: str, place: str, low: float = -FARTHEST, high: float = FARTHEST) -> float:
    """The number in a cell, NaN in one that is empty or says so (``NA``, ``NaN``, ``null``).

    Raises:
        ValueError: it is no number, or too large.
    """
    if cell.lower() in _NOTHING:
        return float("nan")
    return number(cell, place, low, high)
