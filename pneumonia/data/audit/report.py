"""An audit for a person: one table for each question, then the verdict."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pneumonia.data.audit.checks import Audit, Overlap

_ROWS = 15
_ERROR_ROWS = 200
_FILES = 6


def audit_tables(audit: Audit) -> Iterator[RenderableType]:
    """Lay an audit out.

    Args:
        audit: What was found.

    Yields:
        Tables and lines, in the order in which to read them; long ones are cut short, and say
        where the rest is.
    """
    yield _counts(audit)
    faulty = [entry for entry in audit.entries if entry.seen.fault]
    if faulty:
        rows = [[entry.place.name, entry.seen.fault or "", entry.seen.detail] for entry in faulty]
        yield _table("Files that cannot be used", ["file", "fault", "met"], rows, _ERROR_ROWS)
    if audit.copies:
        most = min(max(_ROWS, sum(copy.forbidden for copy in audit.copies)), _ERROR_ROWS)
        columns = ["where", "kind", "files"]
        yield _table("Copies of one image", columns, _overlaps(audit.copies), most)
    if audit.crossings:
        columns = ["where", "patient", "files"]
        rows = _overlaps(audit.crossings)
        yield _table("Patients across splits or classes", columns, rows, _ERROR_ROWS)
    else:
        yield Text("Patients: none in more than one split or class.")
    if audit.wrong_key.numbers:
        yield Text(
            f"Keyed on the number N alone, {audit.wrong_key.numbers} patients"
            f" ({audit.wrong_key.images} images) would seem to be in several splits; numbers count"
            " within a stream, and a patient is (stream, N)."
        )
    if audit.shortcuts:
        yield _shortcuts(audit)
    yield from _unlisted_names(audit)
    yield from _verdict(audit)


def printable(name: str) -> str:
    """A file name safe to print: control characters and stray bytes become escapes.

    Args:
        name: Any file name.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in name
    )


def _counts(audit: Audit) -> Table:
    rows = []
    for count in audit.counts:
        numbers = (count.images, count.patients, count.most)
        published = "" if count.published is None else str(count.published)
        rows.append([count.split, count.label, count.subtype, *map(str, numbers), published])
    columns = ["split", "class", "subtype", "images", "patients", "most of one", "published"]
    return _table(
        f"{printable(str(audit.root))}: {len(audit.entries)} images", columns, rows, len(rows)
    )


def _overlaps(overlaps: Sequence[Overlap]) -> list[list[str]]:
    rows = []
    for overlap in overlaps:
        what = overlap.patients[0] if overlap.kind == "patient" else overlap.kind
        names = list(overlap.files[:_FILES])
        if len(overlap.files) > _FILES:
            names.append(f"and {len(overlap.files) - _FILES} more")
        rows.append([overlap.where, what, "\n".join(map(printable, names))])
    return rows


def _shortcuts(audit: Audit) -> Table:
    rows = [
        [
            found.attribute,
            f"{found.auroc:.3f}",
            found.normal,
            found.pneumonia,
            "shortcut" if found.flagged else "",
        ]
        for found in audit.shortcuts
    ]
    title = "What the file alone tells of the class"
    return _table(title, ["property", "AUROC", "NORMAL", "PNEUMONIA", ""], rows)


def _unlisted_names(audit: Audit) -> Iterator[Table]:
    unknown = [[entry.place.name] for entry in audit.entries if entry.identity is None]
    if unknown:
        yield _table("Names of no known scheme", ["file"], unknown)


def _verdict(audit: Audit) -> Iterator[Text]:
    for found in audit.findings:
        style = "bold red" if found.severity == "error" else "yellow"
        yield Text.assemble((f"{found.severity} ", style), printable(f"{found.message}."))
    errors, warnings = len(audit.errors), len(audit.warnings)
    yield Text(
        f"{errors or 'No'} error{'s' * (errors != 1)},"
        f" {warnings or 'no'} warning{'s' * (warnings != 1)}.",
        style="bold red" if errors else "bold green",
    )


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], most: int = _ROWS
) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        number = bool(rows) and all(row[len(table.columns)].isdigit() for row in rows)
        table.add_column(column, overflow="fold", justify="right" if number else "left")
    for row in rows[:most]:
        table.add_row(*(Text("\n".join(map(printable, cell.split("\n")))) for cell in row))
    if len(rows) > most:
        table.caption = f"and {len(rows) - most} more; --json FILE names all"
    return table
