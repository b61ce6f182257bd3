"""The table of images: what every sample carries, as columns.

Columns of numpy arrays rather than a list of objects: data-loader workers then share the
memory of the parent, since reading an array writes no reference counts.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pneumonia.data.patients import identify
from pneumonia.labels import CLASSES


@dataclass(frozen=True)
class Samples:
    """Columns of equal length N, one row for each image.

    Attributes:
        paths: Files, str.
        labels: 0 (NORMAL) or 1 (PNEUMONIA), int64.
        patients: Patient keys, str, unique across streams.
        streams: The numbering that each patient belongs to, str.
        numbers: The patient's number within its stream, int64; -1 where there is none.
        subtypes: `normal`, `bacterial`, `viral` or `unknown`, str.
    """

    paths: NDArray[np.str_]
    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    streams: NDArray[np.str_]
    numbers: NDArray[np.int64]
    subtypes: NDArray[np.str_]

    @classmethod
    def identified(
        cls, paths: Sequence[str], labels: Sequence[int], patients: str | None = None
    ) -> "Samples":
        """Build the table from files and labels, reading the patients off the names.

        Args:
            paths: Image files.
            labels: 0 or 1 for each.
            patients: What a patient is; see `pneumonia.data.patients.identify`.

        Raises:
            DataError: If a name tells no patient or contradicts its label.
            ConfigError: If `patients` is no usable expression.
        """
        identities = identify(paths, labels, patients)
        return cls(
            paths=np.array(paths, dtype=np.str_),
            labels=np.array(labels, dtype=np.int64),
            patients=np.array([i.patient for i in identities], dtype=np.str_),
            streams=np.array([i.stream for i in identities], dtype=np.str_),
            numbers=np.array([i.number for i in identities], dtype=np.int64),
            subtypes=np.array([i.subtype for i in identities], dtype=np.str_),
        )

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Samples":
        """The rows given by indices or by a mask of length N, in that order."""
        return Samples(**{name: column[rows] for name, column in vars(self).items()})

    def __add__(self, other: "Samples") -> "Samples":
        return Samples(
            **{
                name: np.concatenate([column, getattr(other, name)])
                for name, column in vars(self).items()
            }
        )

    def fingerprint(self) -> str:
        """A digest of which files these are (names, labels and sizes), 16 hexadecimal digits."""
        lines = sorted(
            f"{Path(path).name}\t{label}\t{Path(path).stat().st_size}"
            for path, label in zip(map(str, self.paths), self.labels, strict=True)
        )
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]

    def class_counts(self) -> tuple[int, int]:
        """Number of NORMAL and of PNEUMONIA images."""
        positive = int(self.labels.sum())
        return len(self) - positive, positive

    def summary(self) -> str:
        """Images, patients, and images by class and subtype, in one line."""
        normal, pneumonia = self.class_counts()
        counts = Counter(str(s) for s in self.subtypes[self.labels == 1])
        subtypes = ", ".join(f"{count} {subtype}" for subtype, count in sorted(counts.items()))
        return (
            f"{len(self)} images of {len(np.unique(self.patients))} patients:"
            f" {normal} {CLASSES[0]}, {pneumonia} {CLASSES[1]}"
            + (f" ({subtypes})" if subtypes else "")
        )
