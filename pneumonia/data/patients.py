"""File names -> patients.

The data set of Kermany, Zhang and Goldbaum (2018) names its files in four streams, each
of which counts its patients on its own: a patient is (stream, number). Keyed on the
number alone, patients of different streams would be taken for one.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from pneumonia.errors import ConfigError, DataError
from pneumonia.labels import CLASSES, NORMAL, UNKNOWN_SUBTYPE

UNNUMBERED = -1

_STREAMS: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (re.compile(r"person(\d+)_bacteria_\d+(?:_\d+)*"), "bacteria", "bacterial"),
    (re.compile(r"person(\d+)_virus_\d+(?:_\d+)*"), "virus", "viral"),
    (re.compile(r"NORMAL2-IM-(\d+)-\d+(?:-\d+)*"), "NORMAL2-IM", "normal"),
    (re.compile(r"IM-(\d+)-\d+(?:-\d+)*"), "IM", "normal"),
)


@dataclass(frozen=True)
class Identity:
    """Who an image shows.

    Attributes:
        patient: Unique key of the patient, such as `virus/78`.
        stream: The numbering that the patient belongs to, or the class name where the
            file names follow no stream.
        number: The patient's number within the stream, or `UNNUMBERED`.
        subtype: `normal`, `bacterial`, `viral`, or `unknown` for a PNEUMONIA image whose
            name does not say.
    """

    patient: str
    stream: str
    number: int
    subtype: str


def identify_patients(
    paths: Sequence[str], labels: Sequence[int], patients: str | None = None
) -> list[Identity]:
    """Find the patient and subtype of every image from its file name.

    Args:
        paths: Image files.
        labels: Their labels, 0 (NORMAL) or 1 (PNEUMONIA).
        patients: What a patient is. None: the data set's four streams. `file`: each file
            is its own patient. Anything else: a regular expression, searched in the file
            name, whose one group is the patient.

    Returns:
        One identity for each path.

    Raises:
        DataError: If names belong to no stream or do not match the expression, or a name
            contradicts the class folder it lies in.
        ConfigError: If the expression is invalid or has not exactly one group.
    """
    rule = _rule(patients)
    identities = [rule(path, label) for path, label in zip(paths, labels, strict=True)]
    unnamed = [path for path, found in zip(paths, identities, strict=True) if found is None]
    if unnamed:
        names = ", ".join(PurePath(path).name for path in unnamed[:3])
        raise DataError(
            f"{len(unnamed)} of {len(paths)} file names "
            + (
                f"do not match data.patients={patients!r}"
                if patients
                else "belong to none of the data set's four streams"
            )
            + f" (first: {names}, in {PurePath(unnamed[0]).parent}), so images of one patient could"
            " end on both sides of a split; say what a patient is with data.patients=REGEX (one"
            " group, searched in the file name) or data.patients=file (each file its own patient)."
        )
    return [found for found in identities if found is not None]


def _rule(patients: str | None) -> Callable[[str, int], Identity | None]:
    if patients is None:
        return _by_stream
    if patients == "file":
        return lambda path, label: _free(path, label, path)
    try:
        pattern = re.compile(patients)
    except re.error as error:
        raise ConfigError(
            f"data.patients={patients!r} is not a regular expression: {error}."
        ) from None
    if pattern.groups != 1:
        raise ConfigError(
            f"data.patients={patients!r} has {pattern.groups} groups; it needs exactly one, around"
            " the part of the file name that names the patient."
        )

    def by_pattern(path: str, label: int) -> Identity | None:
        match = pattern.search(PurePath(path).name)
        return _free(path, label, match[1]) if match and match[1] else None

    return by_pattern


def _by_stream(path: str, label: int) -> Identity | None:
    stem = PurePath(path).stem
    for pattern, stream, subtype in _STREAMS:
        match = pattern.fullmatch(stem)
        if match:
            if (subtype == "normal") != (label == NORMAL):
                raise DataError(
                    f"{path} is labelled {CLASSES[label]} but its name says {subtype}; correct its"
                    " class folder, or its label in the table, or remove it."
                )
            number = int(match[1])
            return Identity(f"{stream}/{number}", stream, number, subtype)
    return None


def _free(path: str, label: int, patient: str) -> Identity:
    stem = PurePath(path).stem
    subtype = next((s for pattern, _, s in _STREAMS if pattern.fullmatch(stem)), None)
    if subtype is None or (subtype == "normal") != (label == NORMAL):
        subtype = "normal" if label == NORMAL else UNKNOWN_SUBTYPE
    return Identity(patient, CLASSES[label], UNNUMBERED, subtype)
