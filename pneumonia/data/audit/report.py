"""An audit as tables for the console, and the findings below."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pneumonia.data.audit.checks import Audit, abridge
from pneumonia.errors import printable

_ROWS = 50


def audit_tables(audit: Audit) -> Iterator[RenderableType]:
    """Lay out an audit for the console; a long table is shortened and says so."""
    counts = [
        [c.split, c.label, c.subtype, c.images, c.patients, c.largest, c.published]
        for c in audit.counts
    ]
    columns = ["split", "class", "subtype", "images", "patients", "max per patient", "published"]
    yield _table(f"{audit.root}: {len(audit.entries)} images", columns, counts)
    unreadable = [[e.name, e.content.problem] for e in audit.entries if e.content.problem]
    if unreadable:
        yield _table("Unreadable files", ["file", "problem"], unreadable)
    if audit.overlaps:
        rows = [
            [o.where, o.patients[0] if o.kind == "patient" else o.kind, abridge(o.files)]
            for o in audit.overlaps
        ]
        yield _table("Copies and shared patients", ["where", "what", "files"], rows)
    if not any(overlap.kind == "patient" for overlap in audit.overlaps):
        yield Text("No patient is in more than one split or class.")
    if audit.shortcuts:
        rows = [
            [s.attribute, f"{s.auroc:.3f}", ", ".join(s.augmentation), "shortcut" * s.flagged]
            for s in audit.shortcuts
        ]
        title = "Properties of the training images as predictors of the class"
        yield _table(title, ["property", "AUROC", "varied by data.augmentation", ""], rows)
    for finding in audit.findings:
        style = "bold red" if finding.severity == "error" else "yellow"
        yield Text.assemble((f"{finding.severity} ", style), printable(f"{finding.message}."))
    errors = len(audit.errors)
    text = f"Errors: {errors}, warnings: {len(audit.findings) - errors}"
    yield Text(text, style="bold red" if errors else "bold green")


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    table = Table(title=printable(title), title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[number], int | None) for row in rows)
        table.add_column(column, overflow="fold", justify="right" if numeric else "left")
    for row in rows[:_ROWS]:
        cells = ("" if cell is None else str(cell) for cell in row)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    if len(rows) > _ROWS:
        table.caption = f"and {len(rows) - _ROWS} more; --json FILE lists all"
    return table
