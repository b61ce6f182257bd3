"""Figures in words: what report, model card and terminal say in the same way."""

import math

from pneumonia.evaluation.abstention import Band
from pneumonia.evaluation.assess import Assessment
from pneumonia.evaluation.intervals import Estimate
from pneumonia.evaluation.operating_point import OperatingPoint
from pneumonia.evaluation.subject import Origin, Subject

NOT_A_DEVICE = "Research software, not a medical device: it must not be used to diagnose anybody."

_POLICY = {
    "sensitivity": "a sensitivity of at least {}",
    "specificity": "a specificity of at least {}",
    "youden": "the greatest sensitivity + specificity (Youden)",
    "cost": "a missed pneumonia being as bad as {} false alarms",
    "fixed": "a threshold fixed at {} beforehand",
}


def figure(estimate: Estimate | None) -> str:
    """Write a number with its interval: `0.982 (0.968 to 0.992)`.

    Args:
        estimate: The number; None for one that was never computed.
    """
    if estimate is None or not math.isfinite(estimate.value):
        return "undefined"
    if not math.isfinite(estimate.low):
        return f"{estimate.value:.3f} (no interval)"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def of_hundred(share: float) -> str:
    """Write a share as a number of 100 that hides no rare case: `2`, `fewer than 1`, `none`.

    Args:
        share: In [0, 1].
    """
    if share == 0:
        return "none"
    if share == 1:
        return "all"
    if share < 0.005:  # noqa: PLR2004 - what would be rounded to 0
        return "fewer than 1"
    if share > 0.995:  # noqa: PLR2004 - and to 100
        return "more than 99"
    return f"{100 * share:.0f}"


def errors_of_hundred(rate: Estimate) -> str:
    """Write how many of 100 go wrong, with the interval rounded outwards.

    Args:
        rate: Of being right: sensitivity or specificity.
    """
    words = of_hundred(1 - rate.value)
    if not math.isfinite(rate.low):
        return f"{words} (how far that may be off is unknown)"
    low = math.floor(100 * (1 - rate.high) + 1e-9)
    high = math.ceil(100 * (1 - rate.low) - 1e-9)
    return f"{words} ({low} to {high})"


def threshold_origin(origin: Origin, point: OperatingPoint | None) -> str:
    """Say where a threshold comes from.

    Args:
        origin: As `Subject.origin` gave it.
        point: The operating point, where there is one.
    """
    if origin in {"hold-out", "site"} and point is not None:
        target = f"{point.target:g}" if point.target is not None else ""
        where = (
            "chosen on the hold-out, before any test was seen"
            if origin == "hold-out"
            else "chosen on a site's own labelled images"
        )
        return f"{where}, for {_POLICY[point.policy].format(target)}"
    return {
        "given": "given by hand and not chosen on a hold-out; if these images suggested it, the"
        " figures here flatter",
        "missing": "used because this checkpoint holds neither an operating point nor a"
        " calibration; it was not chosen on a hold-out, and the probabilities are raw",
    }.get(origin, "the default; it was not chosen on a hold-out")


def verdict(assessment: Assessment, subject: Subject, origin: Origin) -> tuple[str, str]:
    """Put a result in two sentences: the errors of both kinds, and what they rest on.

    Args:
        assessment: The result.
        subject: What it is about.
        origin: Of the threshold.
    """
    m, point = assessment.metrics, subject.operating_point
    first = (
        f"Of 100 X-rays showing pneumonia it misses {errors_of_hundred(m['sensitivity'])}; of 100"
        f" without, it alarms on {errors_of_hundred(m['specificity'])}; in brackets, 95%"
        " intervals."
    )
    second = (
        f"That is at the threshold {assessment.threshold:.3g} ({threshold_origin(origin, point)}),"
        f" on {size(assessment)}, which it ranks with an AUROC of {figure(m['auroc'])}"
    )
    if point is not None and origin in {"hold-out", "site"}:
        whose = "hold-out" if origin == "hold-out" else "site's images"
        second += (
            f"; the {whose} had promised a sensitivity of {point.sensitivity:.3f} and a"
            f" specificity of {point.specificity:.3f}"
        )
    return first, f"{second}."


def abstention(assessment: Assessment) -> str:
    """Say what a band of abstention left decided, and how right that was.

    Args:
        assessment: The result, with a band.
    """
    m, band = assessment.metrics, assessment.band
    if band is None:
        return ""
    return (
        f"{undecided(band)} That leaves a coverage of {figure(m['coverage'])}, the share of images"
        f" decided; among these the sensitivity is {figure(m['decided/sensitivity'])} and the"
        f" specificity {figure(m['decided/specificity'])}. An image is confidently called wrong in"
        f" {figure(m['decided/missed_patients'])} of PNEUMONIA patients and"
        f" {figure(m['decided/alarmed_patients'])} of NORMAL ones."
    )


def undecided(band: Band) -> str:
    """Say which images a band leaves undecided.

    Args:
        band: The band.
    """
    if band.lower == band.upper:
        return "No image is uncertain: the threshold alone keeps the stated error."
    if band.lower <= 0 and band.upper > 1:
        return "All images are uncertain, as too few patients chose the band."
    if band.lower <= 0:
        return f"Images with a probability below {band.upper:.3g} are uncertain."
    if band.upper > 1:
        return f"Images with a probability from {band.lower:.3g} up are uncertain."
    return f"Images with a probability from {band.lower:.3g} to {band.upper:.3g} are uncertain."


def guarantee(band: Band, origin: Origin) -> str:
    """Say what a band promises, and to whom it does not.

    Args:
        band: The band.
        origin: Of the threshold that it stands around, and of itself.
    """
    site = origin == "site"
    whose = "a site's own labelled images" if site else "the hold-out"
    flattered = "" if site else " The hold-out chose the epoch too, and so flatters it."
    return (
        f"The band was chosen on {whose} so that of patients like those"
        f" ({band.n_patients_positive} PNEUMONIA, {band.n_patients_negative} NORMAL) at most"
        f" {100 * band.error:.3g}% of the PNEUMONIA ones have an image confidently called NORMAL,"
        f" and at most {100 * band.error:.3g}% of the NORMAL ones an image confidently called"
        f" PNEUMONIA: on average, within each class, and not of the decided images.{flattered}"
        " No guarantee holds under shift: other hospitals, machines or ages, or Kaggle's own test"
        " split."
    )


def size(assessment: Assessment) -> str:
    """Say how many images and patients a result rests on.

    Args:
        assessment: The result.
    """
    m = assessment.metrics
    n, positive = int(m["n"].value), int(m["n_positive"].value)
    images = f"{n} images ({positive} PNEUMONIA, {n - positive} NORMAL)"
    if any("assumes independent images" in m[k].method for k in ("sensitivity", "auroc")):
        return f"{images} whose patients nobody named"
    return f"{images} of {int(m['n_patients'].value)} patients"


def promise(point: OperatingPoint) -> str:
    """Say what the images that chose the threshold were.

    Args:
        point: The operating point.
    """
    return (
        f"{point.n_positive} PNEUMONIA images of {point.n_patients_positive} patients and"
        f" {point.n_negative} NORMAL images of {point.n_patients_negative} patients"
    )


def limits(subject: Subject) -> list[str]:
    """List what a result does not show, a sentence or two each.

    Args:
        subject: What it is about.
    """
    phantom = bool(subject.fact("data", "phantom"))
    return [
        *subject.warnings,
        "The images are drawn by a program (phantoms): nothing here says anything of patients."
        if phantom
        else "The X-rays that this project trains on show children aged 1 to 5 of one hospital in"
        " Guangzhou. Nothing suggests that a result holds for adults, other hospitals or other"
        " machines: on adult X-rays a model with a test AUROC of 0.98 has scored 0.47.",
        (
            "The labels are the reading of the image by two physicians, checked by a third in part;"
            " some are wrong, and no culture or follow-up stands behind bacterial and viral."
        ),
        (
            "File properties (size, shape, compression) and the frame around the lungs tell the"
            " classes of this data set apart. A good figure is no evidence that a lung was read;"
            " the shortcut probe measures some of it."
        ),
        (
            "A hold-out overpromises: it resembles the training images more than new ones do. A"
            " model that promised a specificity of 0.98 on a hold-out of patient blocks gave 0.75"
            " on Kaggle's own test at the same threshold."
        ),
        (
            "Predictive values, net benefit and calibration hold at the share of pneumonia in the"
            " tested images only, unless another is named."
        ),
        (
            "Intervals cover chance in the choice of patients, and no difference between hospitals,"
            " machines or years."
        ),
        NOT_A_DEVICE,
    ]


ATTRIBUTION = (
    "The chest X-rays of the data set that this project is made for: Kermany, Zhang and Goldbaum,"
    " “Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for Classification”,"
    " Mendeley Data, doi 10.17632/rscbjbr9sj.2, licensed CC BY 4.0"
    " (https://creativecommons.org/licenses/by/4.0/); any shown here are resized."
)
