"""What a folder holds, before a model does: every image opened, every doubt named.

An audit does not stop at what training would refuse: it reports all of it, in one pass.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pneumonia.data.audit import finding
from pneumonia.data.audit.finding import Finding
from pneumonia.data.audit.overlap import (
    Overlap,
    WrongKey,
    accused_by_number,
    find_copies,
    find_crossings,
)
from pneumonia.data.audit.shortcuts import Shortcut, shortcuts
from pneumonia.data.audit.survey import Entry, survey
from pneumonia.data.audit.tally import Count, tally
from pneumonia.data.inventory import Inventory


@dataclass(frozen=True)
class Audit:
    """All that was found.

    Attributes:
        root: The data set's folder.
        entries: Every image file.
        counts: Images and patients by split, class and subtype.
        copies: Identical and near-identical images, across splits and classes first.
        crossings: Patients in several splits or classes.
        wrong_key: What keying patients on N alone would have accused.
        shortcuts: Properties of the files that tell the classes apart, strongest first.
        findings: What is wrong or may be; errors first.
    """

    root: Path
    entries: list[Entry]
    counts: list[Count]
    copies: list[Overlap]
    crossings: list[Overlap]
    wrong_key: WrongKey
    shortcuts: list[Shortcut]
    findings: list[Finding]

    @property
    def errors(self) -> list[Finding]:
        """The findings that are errors."""
        return [found for found in self.findings if found.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """The findings that are warnings."""
        return [found for found in self.findings if found.severity == "warning"]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values; it names every file, whatever the tables leave out."""
        patients = {entry.identity.patient for entry in self.entries if entry.identity}
        return {
            "root": str(self.root),
            "images": len(self.entries),
            "patients": len(patients),
            "errors": [asdict(found) for found in self.errors],
            "warnings": [asdict(found) for found in self.warnings],
            "counts": [asdict(count) for count in self.counts],
            "faults": [
                {
                    "file": entry.place.name,
                    "fault": entry.seen.fault,
                    "detail": entry.seen.detail,
                }
                for entry in self.entries
                if entry.seen.fault
            ],
            "copies": [asdict(copy) | {"where": copy.where} for copy in self.copies],
            "patients_across": [asdict(found) for found in self.crossings],
            "wrong_key": asdict(self.wrong_key),
            "shortcuts": [asdict(found) | {"flagged": found.flagged} for found in self.shortcuts],
        }


def audit(root: str | Path, patients: str | None = None, workers: int | None = None) -> Audit:
    """Look into every image of a data set, and at what its splits share.

    Args:
        root: Folder with `train`, `val` and `test`, each with `NORMAL` and `PNEUMONIA`.
        patients: What a patient is; see `pneumonia.data.patients.identify`.
        workers: Number of processes; None: as many as help.

    Raises:
        DataError: If the folder is not a data set.
        ConfigError: If `patients` is no usable expression.
    """
    inventory = Inventory(Path(root).expanduser())
    entries = survey(inventory, patients, workers)
    counts = tally(entries)
    copies, crossings = find_copies(entries), find_crossings(entries)
    telling = _shortcuts([entry for entry in entries if entry.seen.fault is None])
    findings = [
        *finding.in_folders(inventory),
        *finding.in_files(entries),
        *finding.in_overlaps([*crossings, *copies]),
        *finding.in_counts(counts),
        *finding.in_shortcuts(telling),
    ]
    findings.sort(key=lambda found: found.severity)  # "error" sorts before "warning"
    wrong_key = accused_by_number(entries)
    return Audit(inventory.root, entries, counts, copies, crossings, wrong_key, telling, findings)


def _shortcuts(readable: list[Entry]) -> list[Shortcut]:
    looks = [entry.seen for entry in readable]
    return shortcuts(
        [entry.place.label for entry in readable],
        [look.mode for look in looks],
        {
            "width": [look.width for look in looks],
            "height": [look.height for look in looks],
            "aspect ratio": [look.width / look.height for look in looks],
            "bytes": [look.size for look in looks],
        },
    )
