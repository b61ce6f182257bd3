"""Patient keys from file names.

The files of Kermany, Zhang and Goldbaum (2018) are named in four streams, each of which numbers
its patients independently: a patient is (stream, number).
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePath
from typing import NamedTuple

from pneumonia.errors import ConfigError, DataError
from pneumonia.labels import CLASSES, NORMAL, UNKNOWN_SUBTYPE

UNNUMBERED = -1

_STREAMS: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (re.compile(r"person(\d+)_bacteria_\d+(?:_\d+)*"), "bacteria", "bacterial"),
    (re.compile(r"person(\d+)_virus_\d+(?:_\d+)*"), "virus", "viral"),
    (re.compile(r"NORMAL2-IM-(\d+)-\d+(?:-\d+)*"), "NORMAL2-IM", "normal"),
    (re.compile(r"IM-(\d+)-\d+(?:-\d+)*"), "IM", "normal"),
)


class Identity(NamedTuple):
    """The patient and subtype of an image."""

    patient: str  # unique key, such as `virus/78`
    stream: str  # the patient's stream; the class name where file names belong to no stream
    number: int  # within the stream, or `UNNUMBERED`
    subtype: str  # `normal`, `bacterial`, `viral` or `unknown`


def identify_patients(
    paths: Sequence[str], labels: Sequence[int], patients: str | None = None
) -> list[Identity]:
    """Read patient and subtype of every image from its file name.

    Args:
        paths: Image files.
        labels: Their labels, 0 (NORMAL) or 1 (PNEUMONIA).
        patients: None: by the four streams of the data set. `file`: each file is a patient.
            Else: a regular expression, searched in the file name; its one group is the patient.

    Raises:
        DataError: If a name belongs to no stream, does not match the expression, or contradicts
            its label.
        ConfigError: If the expression is invalid or has not exactly one group.
    """
    pattern = None if patients in {None, "file"} else _compile(str(patients))
    found = [
        _by_stream(path, label) if patients is None else _by_pattern(path, label, pattern)
        for path, label in zip(paths, labels, strict=True)
    ]
    unknown = [path for path, identity in zip(paths, found, strict=True) if identity is None]
    if unknown:
        names = ", ".join(PurePath(path).name for path in unknown[:3])
        rule = f"data.patients={patients!r}" if patients else "any of the data set's four streams"
        raise DataError(
            f"{len(unknown)} of {len(paths)} file names do not match {rule} (first: {names}, in"
            f" {PurePath(unknown[0]).parent}). Identify patients with data.patients=REGEX (one"
            " group, searched in the file name), data.patients=file (each file is a patient) or,"
            " for a table, data.patients=column."
        )
    return [identity for identity in found if identity is not None]


def _compile(patients: str) -> re.Pattern[str]:
    with suppress(re.error):
        pattern = re.compile(patients)
        if pattern.groups == 1:
            return pattern
    raise ConfigError(
        f"data.patients={patients!r}: expected a regular expression with one group, around the"
        " part of the file name that identifies the patient."
    )


def _match_stream(path: str) -> Identity | None:
    for pattern, stream, subtype in _STREAMS:
        if match := pattern.fullmatch(PurePath(path).stem):
            return Identity(f"{stream}/{int(match[1])}", stream, int(match[1]), subtype)
    return None


def _by_stream(path: str, label: int) -> Identity | None:
    found = _match_stream(path)
    if found and (found.subtype == "normal") != (label == NORMAL):
        raise DataError(
            f"{path} is labelled {CLASSES[label]}, but its name says {found.subtype}; correct its"
            " class folder or its label in the table, or remove it."
        )
    return found


def _by_pattern(path: str, label: int, pattern: re.Pattern[str] | None) -> Identity | None:
    match = pattern.search(PurePath(path).name) if pattern else None
    patient = match[1] if match else None if pattern else path
    subtype = "normal" if label == NORMAL else UNKNOWN_SUBTYPE
    named = _match_stream(path)
    if named and (named.subtype == "normal") == (label == NORMAL):
        subtype = named.subtype
    return Identity(patient, CLASSES[label], UNNUMBERED, subtype) if patient else None
