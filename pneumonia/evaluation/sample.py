"""What a model said of the images of a test, and whose images they are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pneumonia.evaluation.inputs import (
    check_labels,
    check_patients,
    check_probabilities,
    check_scores,
)

FEW_PATIENTS = 30
"""Below this number in a class, intervals by resampling patients are too narrow.

Cameron, Gelbach and Miller, Review of Economics and Statistics 90 (2008): inference from fewer
than about 30 clusters over-rejects.
"""


@dataclass(frozen=True, eq=False)
class Sample:
    """Checked columns of one length n, with images of both classes. Made by `Sample.of`.

    Attributes:
        labels: Shape (n,), True where the image shows pneumonia.
        probabilities: Shape (n,), float64, in [0, 1].
        scores: Shape (n,), float64, finite: what ranks the images.
        patients: Shape (n,): the number of the image's patient, from 0 without gaps.
        known_patients: Whether patients were given; if not, each image is its own.
    """

    labels: NDArray[np.bool_]
    probabilities: NDArray[np.float64]
    scores: NDArray[np.float64]
    patients: NDArray[np.intp]
    known_patients: bool

    @classmethod
    def of(
        cls,
        labels: ArrayLike,
        probabilities: ArrayLike,
        patients: ArrayLike | None = None,
        scores: ArrayLike | None = None,
    ) -> "Sample":
        """Check and keep what a model said.

        Args:
            labels: Shape (n,), 0 (NORMAL) or 1 (PNEUMONIA).
            probabilities: Shape (n,), in [0, 1]; calibrated, if calibration exists.
            patients: Shape (n,), text or numbers. Without them each image counts as a patient of
                its own, and every interval says so.
            scores: Shape (n,), finite; raw logits, which rank where probabilities saturate. By
                default the probabilities.

        Raises:
            EvaluationError: If a column is not as said or the labels are of one class.
        """
        truth = check_labels(labels)
        values = check_probabilities(probabilities, truth.size)
        return cls(
            truth,
            values,
            values if scores is None else check_scores(scores, truth.size),
            np.arange(truth.size) if patients is None else check_patients(patients, truth.size),
            patients is not None,
        )

    def __len__(self) -> int:
        return self.labels.size

    @property
    def n_patients(self) -> int:
        """The number of patients."""
        return int(self.patients.max()) + 1

    @property
    def unit(self) -> str:
        """What is resampled and counted as one: `patient`, or `image` where none are known."""
        return "patient" if self.known_patients else "image"

    @property
    def assumption(self) -> str:
        """What to add to the name of a method where no patients are known."""
        return "" if self.known_patients else ", assumes independent images"

    def patients_with(self, images: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Name the patients who have an image among these.

        Args:
            images: Shape (n,), bool.

        Returns:
            Their numbers, ascending.
        """
        return np.unique(self.patients[images])

    @property
    def class_patients(self) -> tuple[int, int]:
        """Patients with a NORMAL image, and patients with a PNEUMONIA image."""
        return self.patients_with(~self.labels).size, self.patients_with(self.labels).size

    @property
    def mixed_patients(self) -> NDArray[np.intp]:
        """Patients with images of both classes; none in the Kaggle set."""
        return np.intersect1d(self.patients_with(self.labels), self.patients_with(~self.labels))

    def subset(self, images: NDArray[np.bool_]) -> "Sample":
        """Keep some images, of both classes.

        Args:
            images: Shape (n,), bool.

        Raises:
            EvaluationError: If what is left is of one class.
        """
        return Sample(
            check_labels(self.labels[images]),
            self.probabilities[images],
            self.scores[images],
            np.unique(self.patients[images], return_inverse=True)[1],
            self.known_patients,
        )

    def patient_sums(self, columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add the rows of each patient's images.

        Args:
            columns: Shape (n, k).

        Returns:
            Shape (n_patients, k).
        """
        sums = np.zeros((self.n_patients, columns.shape[1]))
        np.add.at(sums, self.patients, columns)
        return sums
