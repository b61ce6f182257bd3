"""An audit as tables for the console, and the findings below."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pneumonia.data.audit.checks import Audit
from pneumonia.errors import printable

_ROWS = 50
_FILES = 6


def audit_tables(audit: Audit) -> Iterator[RenderableType]:
    """Lay out an audit for the console.

    Args:
        audit: The result of `pneumonia.data.audit.checks.audit`.

    Yields:
        Tables and lines in reading order; a long table is shortened and says so.
    """
    counts = [
        [c.split, c.label, c.subtype, c.images, c.patients, c.largest, c.published]
        for c in audit.counts
    ]
    columns = ["split", "class", "subtype", "images", "patients", "most of one", "published"]
    yield _table(f"{audit.root}: {len(audit.entries)} images", columns, counts)
    unreadable = [[e.name, e.content.problem] for e in audit.entries if e.content.problem]
    if unreadable:
        yield _table("Unreadable files", ["file", "problem"], unreadable)
    if audit.overlaps:
        rows = []
        for overlap in audit.overlaps:
            more = len(overlap.files) - _FILES
            names = [*overlap.files[:_FILES], *([f"and {more} more"] if more > 0 else [])]
            what = overlap.patients[0] if overlap.kind == "patient" else overlap.kind
            rows.append([overlap.where, what, "\n".join(map(printable, names))])
        yield _table("Copies and shared patients", ["where", "what", "files"], rows)
    if not any(overlap.kind == "patient" for overlap in audit.overlaps):
        yield Text("No patient is in more than one split or class.")
    if audit.shortcuts:
        rows = [
            [s.attribute, f"{s.auroc:.3f}", s.normal, s.pneumonia, "shortcut" if s.flagged else ""]
            for s in audit.shortcuts
        ]
        columns = ["property", "AUROC", "NORMAL", "PNEUMONIA", ""]
        yield _table("Properties of the file as predictors of the class", columns, rows)
    for finding in audit.findings:
        style = "bold red" if finding.severity == "error" else "yellow"
        yield Text.assemble((f"{finding.severity} ", style), printable(f"{finding.message}."))
    errors = len(audit.errors)
    warnings = len(audit.findings) - errors
    yield Text(
        f"{errors or 'No'} error{'s' * (errors != 1)},"
        f" {warnings or 'no'} warning{'s' * (warnings != 1)}.",
        style="bold red" if errors else "bold green",
    )


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    table = Table(title=printable(title), title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[number], int | None) for row in rows)
        table.add_column(column, overflow="fold", justify="right" if numeric else "left")
    for row in rows[:_ROWS]:
        cells = ("" if cell is None else str(cell) for cell in row)
        table.add_row(*(Text("\n".join(map(printable, cell.split("\n")))) for cell in cells))
    if len(rows) > _ROWS:
        table.caption = f"and {len(rows) - _ROWS} more; --json FILE lists all"
    return table
