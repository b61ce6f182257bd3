"""Sentences that the report, the model card and the console share."""

import math

import numpy as np

from pneumonia.evaluation.abstention import Abstention
from pneumonia.evaluation.confidence import Estimate
from pneumonia.evaluation.evaluate import EvaluatedModel, EvaluationResult, Origin
from pneumonia.evaluation.metrics import Confusion, threshold_metrics
from pneumonia.evaluation.threshold import OperatingPoint
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA

RESEARCH_ONLY = "Research software, not a medical device: it must not be used for diagnosis."

ATTRIBUTION = (
    "Chest X-rays: Kermany, Zhang and Goldbaum, “Labeled Optical Coherence Tomography (OCT) and"
    " Chest X-Ray Images for Classification”, Mendeley Data, doi 10.17632/rscbjbr9sj.2, licensed"
    " CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). Images shown here are resized."
)

ESTIMATES = {"validation": "validation (optimistic)", "shifted": "shifted validation"}
"""Titles of the columns of `validation_estimates`."""

SHIFTED = (
    "The shifted validation estimate comes from the same images under simulated changes of pose,"
    " zoom, aspect ratio, sharpness, perspective, border and grey levels, as images of another"
    " hospital might show them. Such images may still do better or worse than either estimate."
)

_POLICY = {
    "sensitivity": "recall of at least {}",
    "specificity": "specificity of at least {}",
    "youden": "maximum of recall + specificity (Youden)",
    "cost": "a false negative costs as much as {} false positives",
    "fixed": "fixed at {}",
}


def degenerate(confusion: Confusion) -> str | None:
    """Detect a classifier that predicts the same class for at least 90% of either class.

    Judged within each class, so that a test set of nearly one class is no reason.

    Returns:
        One sentence with the counts, or None.
    """
    c = confusion
    for label, same, n, other, n_other in (
        (NORMAL, c.fp, c.n_negative, c.tp, c.n_positive),
        (PNEUMONIA, c.fn, c.n_positive, c.tn, c.n_negative),
    ):
        if 10 * same >= 9 * n and 10 * other >= 9 * n_other:
            return (
                f"Degenerate classifier: {same} of {n} {CLASSES[label]} images are predicted as"
                f" {CLASSES[1 - label]} (recall {c.sensitivity:.3f}, specificity"
                f" {c.specificity:.3f})."
            )
    return None


def error_counts(confusion: Confusion) -> str:
    """Say "12 of 390 PNEUMONIA missed, 30 of 234 NORMAL predicted as PNEUMONIA"."""
    c = confusion
    return (
        f"{c.fn} of {c.n_positive} {CLASSES[PNEUMONIA]} missed,"
        f" {c.fp} of {c.n_negative} {CLASSES[NORMAL]} predicted as {CLASSES[PNEUMONIA]}"
    )


def format_estimate(estimate: Estimate, digits: int = 3) -> str:
    """Write a number with its 95% CI, its ends rounded to `digits`: `0.982 (0.968 to 0.992)`."""
    if not math.isfinite(estimate.value):
        return "undefined"
    if not math.isfinite(estimate.low):
        return f"{estimate.value:.3f} (no CI)"
    return f"{estimate.value:.3f} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"


def threshold_origin(origin: Origin, point: OperatingPoint | None) -> str:
    """Say where a threshold comes from, and for which target the operating point was chosen."""
    if origin in {"validation", "site"} and point is not None:
        target = "" if point.target is None else f"{point.target:g}"
        images = (
            f"the {'clean and shifted ' if point.on_shifted else ''}validation images, before the"
            " test images were read"
            if origin == "validation"
            else "labelled images of the site"
        )
        return f"chosen on {images}; {_POLICY[point.policy].format(target)}"
    return {
        "given": "given by the user; if it was chosen on these images, the results are optimistic",
        "missing": "default, because the checkpoint has neither operating point nor calibration;"
        " probabilities are uncalibrated",
    }.get(origin, "default, not chosen on a validation set")


def summary(result: EvaluationResult) -> str:
    """Summarise a result: recall with specificity, AUROC, threshold and its origin, images."""
    m, point = result.metrics, result.model.operating_point
    return (
        f"Recall (sensitivity) {format_estimate(m['recall'])} and specificity"
        f" {format_estimate(m['specificity'])} at the threshold {result.threshold:.3g}"
        f" ({threshold_origin(result.threshold_origin, point)})."
        f" AUROC {format_estimate(m['auroc'])}. Tested on {dataset_size(result)};"
        " 95% confidence intervals in brackets."
    )


def dataset_size(result: EvaluationResult) -> str:
    """Say how many images and patients were tested."""
    table, c = result.table, result.confusion
    patients = ", patients unknown" if table.patient is None else f" of {table.n_patients} patients"
    return (
        f"{len(table)} images ({c.n_positive} {CLASSES[PNEUMONIA]}, {c.n_negative}"
        f" {CLASSES[NORMAL]}){patients}"
    )


def validation_size(point: OperatingPoint) -> str:
    """Say how many images and patients chose the threshold."""
    return (
        f"{point.n_positive} {CLASSES[PNEUMONIA]} images of {point.n_patients_positive} patients"
        f" and {point.n_negative} {CLASSES[NORMAL]} images of {point.n_patients_negative} patients"
    )


def validation_estimates(result: EvaluationResult) -> dict[str, dict[str, float]]:
    """Compute the metrics of the validation images at the threshold that was chosen on them.

    Returns:
        AUROC and metrics that need a threshold by name, for `validation` and `shifted`; empty for
        a threshold of other origin.
    """
    point = result.model.operating_point
    if point is None or result.threshold_origin not in {"validation", "site"}:
        return {}
    rates = {
        "validation": (point.sensitivity, point.specificity, point.auroc),
        "shifted": (point.shifted_sensitivity, point.shifted_specificity, point.shifted_auroc),
    }
    estimates = {}
    for name, (sensitivity, specificity, auroc) in rates.items():
        if sensitivity is None or specificity is None:
            continue
        tp = sensitivity * point.n_positive
        fp = (1 - specificity) * point.n_negative
        values = threshold_metrics(tp, fp, point.n_positive, point.n_negative)
        found = {key: float(value) for key, value in values.items() if np.isfinite(value)}
        estimates[name] = found if auroc is None else found | {"auroc": auroc}
    return estimates


def uncertain_range(abstention: Abstention) -> str:
    """Say which images are uncertain."""
    low, high = abstention.lower, abstention.upper
    if low == high:
        return "No image is uncertain: the threshold alone keeps the error rate alpha."
    if low <= 0 and high > 1:
        return "All images are uncertain: there were too few patients to choose a narrower range."
    if low <= 0:
        return f"Images with a probability below {high:.3g} are uncertain."
    if high > 1:
        return f"Images with a probability of at least {low:.3g} are uncertain."
    return f"Images with a probability from {low:.3g} to {high:.3g} are uncertain."


def abstention_guarantee(abstention: Abstention, origin: Origin) -> str:
    """Say what abstention guarantees, chosen on images of that origin, and for whom it does not."""
    site = origin == "site"
    images = "labelled images of the site" if site else "the validation set"
    optimistic = (
        "" if site else " The validation set also selected the epoch, so real rates can be higher."
    )
    return (
        f"The range was chosen on {images} ({abstention.n_patients_positive} PNEUMONIA and"
        f" {abstention.n_patients_negative} NORMAL patients) by conformal prediction with alpha ="
        f" {abstention.alpha:g}: on average over such sets, at most {abstention.alpha:.3g} of"
        " comparable PNEUMONIA patients have an image confidently predicted as NORMAL, and at most"
        f" {abstention.alpha:.3g} of comparable NORMAL patients have an image confidently predicted"
        f" as PNEUMONIA.{optimistic} There is no guarantee under distribution shift: other"
        " hospitals, equipment or ages, or Kaggle's test split."
    )


def limits(model: EvaluatedModel) -> list[str]:
    """List what a result does not show, one or two sentences each."""
    population = (
        "The images are synthetic: the results say nothing about patients."
        if model.lookup("data", "synthetic") is True
        else "The training X-rays show children aged 1 to 5 from one hospital in Guangzhou. Do not"
        " expect the results to hold for adults, other hospitals or other equipment: on adult"
        " X-rays, a model with a test AUROC of 0.98 scored 0.47."
    )
    return [
        population,
        (
            "Labels are the reading of each image by two physicians, checked in part by a third."
            " Some are wrong, and no culture or follow-up confirmed bacterial and viral."
        ),
        (
            "In this data set, file properties (size, aspect ratio, compression) and the border"
            " around the lungs are enough to separate the classes. Good metrics are no evidence"
            " that the model reads the lungs; the shortcut probe measures part of this."
        ),
        (
            "Validation estimates are optimistic: validation images resemble the training images"
            " more than new images do. A model with specificity 0.98 on its validation set had 0.75"
            " on Kaggle's test split at the same threshold."
        ),
        "Precision, NPV and calibration hold only at the prevalence of the test images.",
        (
            "Confidence intervals cover the sampling of patients, not differences between"
            " hospitals, equipment or years."
        ),
        RESEARCH_ONLY,
    ]
