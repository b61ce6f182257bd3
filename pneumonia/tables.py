"""CSV reader for `data.table` and tables of predictions."""

import codecs
import csv
import io
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pneumonia.labels import CLASSES

_DELIMITERS = ",;\t"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class CsvTable:
    """The cells of a CSV file."""

    columns: list[str]  # names in the header, lower-case, without spaces around them
    rows: list[list[str]]  # one cell for each column; blank rows are left out
    lines: list[int]  # line of the file that each row ends in; the header is in line 1


def read_csv(path: str | os.PathLike[str]) -> CsvTable:
    """Read a CSV file with a header.

    UTF-8 or UTF-16, with or without a byte order mark; separated by commas, semicolons or tabs,
    whichever the header has most of. Bytes that are not UTF-8 become surrogate escapes, as in the
    names of files.

    Args:
        path: The file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not a table: the reason.
    """
    content = Path(path).read_bytes()
    try:
        text = _decode(content)
    except UnicodeDecodeError as error:
        raise ValueError(f"its UTF-16 text is damaged ({error.reason})") from None
    first = text.partition("\n")[0]
    if first.lower().startswith("sep="):  # Excel's way to name the delimiter
        text = "\n" + text.partition("\n")[2]  # the lines keep their numbers
        first = text.partition("\n")[2].partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        found = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    if not found:
        raise ValueError("it is empty")
    (_, header), *rows = found
    columns = [name.strip().lower() for name in header]
    for line, cells in rows:
        if len(cells) != len(columns):
            raise ValueError(
                f"line {line} has {len(cells)} cells, expected {len(columns)} separated by"
                f' {delimiter!r}; put "quotes" around cells that contain it'
            )
    return CsvTable(columns, [cells for _, cells in rows], [line for line, _ in rows])


def parse_label(text: str) -> int:
    """Read a class: NORMAL or PNEUMONIA in any case, or 0 or 1 in any notation.

    Raises:
        ValueError: If it is neither.
    """
    word = text.strip().upper()
    if word in CLASSES:
        return CLASSES.index(word)
    with suppress(ValueError):
        if (number := parse_number(word)) in (0, 1):
            return int(number)
    raise ValueError(f"unknown label {text!r}, expected {CLASSES[0]} (0) or {CLASSES[1]} (1)")


def parse_number(text: str) -> float:
    """Read a number with a decimal point or a decimal comma.

    Raises:
        ValueError: If it is not a number.
    """
    try:
        return float(text)
    except ValueError:
        return float(text.replace(",", ".", 1))


def _decode(content: bytes) -> str:
    if content.startswith(_UTF16):
        return content.decode("utf-16")
    if b"\0" in content[:2]:  # an ASCII character of two bytes
        return content.decode("utf-16-be" if content[0] == 0 else "utf-16-le")
    return content.decode("utf-8-sig", errors="surrogateescape")
