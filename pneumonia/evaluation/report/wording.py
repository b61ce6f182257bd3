"""Figures in words: what report, model card and terminal say in the same way."""

import math
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from pneumonia.evaluation.abstention import Abstention
from pneumonia.evaluation.confidence import Estimate
from pneumonia.evaluation.evaluate import AT_HALF, EvaluatedModel, EvaluationResult, Origin
from pneumonia.evaluation.metrics import Confusion
from pneumonia.evaluation.threshold import OperatingPoint
from pneumonia.labels import CLASSES, NORMAL, PNEUMONIA

_ROWS = (
    (("recall (sensitivity)", "recall"), ("specificity", "specificity")),
    (("precision (PPV)", "precision"), ("NPV", "npv")),
    (("accuracy", "accuracy"), ("balanced accuracy", "balanced_accuracy")),
    (("F1", "f1"), ("MCC", "mcc")),
    (("AUROC", "auroc"), ("average precision", "average_precision")),
)


def degenerate(confusion: Confusion) -> str | None:
    """Say so if a classifier gives nearly all images one class, whatever they show.

    That is: at least 90% of NORMAL and at least 90% of PNEUMONIA images are called the same.
    Judged within each class, so that a good classifier on a set of nearly one class is not
    blamed, and a poor one that leans to neither class is left to its numbers.

    Args:
        confusion: The four counts.

    Returns:
        One sentence with the counts, or None for a classifier that tells images apart.
    """
    c = confusion
    if 10 * c.fp >= 9 * c.n_negative and 10 * c.tp >= 9 * c.n_positive:
        return (
            f"Degenerate classifier: calls {c.fp} of {c.n_negative} {CLASSES[NORMAL]} images "
            f"{CLASSES[PNEUMONIA]} (recall {c.sensitivity:.3f} stands beside specificity "
            f"{c.specificity:.3f})."
        )
    if 10 * c.fn >= 9 * c.n_positive and 10 * c.tn >= 9 * c.n_negative:
        return (
            f"Degenerate classifier: calls {c.fn} of {c.n_positive} {CLASSES[PNEUMONIA]} images "
            f"{CLASSES[NORMAL]} (specificity {c.specificity:.3f} stands beside recall "
            f"{c.sensitivity:.3f})."
        )
    return None


def counts(confusion: Confusion) -> str:
    """Put the errors of both kinds in words.

    Args:
        confusion: The four counts.

    Returns:
        Such as "misses 12 of 390 PNEUMONIA, alarms on 30 of 234 NORMAL".
    """
    c = confusion
    return (
        f"misses {c.fn} of {c.n_positive} {CLASSES[PNEUMONIA]}, "
        f"alarms on {c.fp} of {c.n_negative} {CLASSES[NORMAL]}"
    )


def metrics_table(assessment: EvaluationResult, title: str = "Test") -> Table:
    """Lay a result out for the terminal, 80 columns or fewer.

    Args:
        assessment: What `pneumonia.evaluation.evaluate.assess` returns.
        title: What was evaluated.

    Returns:
        Metrics in pairs with their 95% intervals, recall and specificity in one row; below them
        the counts in words, and the verdict where the classifier is degenerate.
    """
    metrics, c = assessment.metrics, assessment.confusion
    sentences = Text(
        f"At this threshold the model {counts(c)}. At 0.5: recall"
        f" {metrics[AT_HALF + 'recall'].value:.3f}, specificity"
        f" {metrics[AT_HALF + 'specificity'].value:.3f}."
    )
    verdict = degenerate(c)
    if verdict:
        sentences.append(f"\n{verdict}", style="bold red")
    grid = Table(
        title=f"{title}, {c.n_positive + c.n_negative} images: PNEUMONIA from probability"
        f" {assessment.threshold:.3f}\n(95% intervals that respect patients)",
        caption=sentences,
        caption_style="default",
        caption_justify="left",
        show_header=False,
        box=None,
        padding=(0, 2, 0, 0),
    )
    for side in ("left", "right"):
        grid.add_column(f"{side} metric")
        grid.add_column(f"{side} value", justify="right", style="bold")
    for row in _ROWS:
        grid.add_row(*(cell for name, key in row for cell in (name, _written(metrics[key]))))
    return grid


def _written(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "undefined"
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.2f}-{estimate.high:.2f})"


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
        origin: As `EvaluatedModel.origin` gave it.
        point: The operating point, where there is one.
    """
    if origin in {"validation", "site"} and point is not None:
        target = f"{point.target:g}" if point.target is not None else ""
        where = (
            "chosen on the hold-out, before any test was seen"
            if origin == "validation"
            else "chosen on a site's own labelled images"
        )
        return f"{where}, for {_POLICY[point.policy].format(target)}"
    return {
        "given": "given by hand and not chosen on a hold-out; if these images suggested it, the"
        " figures here flatter",
        "missing": "used because this checkpoint holds neither an operating point nor a"
        " calibration; it was not chosen on a hold-out, and the probabilities are raw",
    }.get(origin, "the default; it was not chosen on a hold-out")


def verdict(
    assessment: EvaluationResult, subject: EvaluatedModel, origin: Origin
) -> tuple[str, str]:
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
    if point is not None and origin in {"validation", "site"}:
        whose = "hold-out" if origin == "validation" else "site's images"
        second += (
            f"; the {whose} had promised a sensitivity of {point.sensitivity:.3f} and a"
            f" specificity of {point.specificity:.3f}"
        )
    return first, f"{second}."


def abstention(assessment: EvaluationResult) -> str:
    """Say what a band of abstention left decided, and how right that was.

    Args:
        assessment: The result, with a band.
    """
    m, band = assessment.metrics, assessment.abstention
    if band is None:
        return ""
    return (
        f"{undecided(band)} That leaves a coverage of {figure(m['coverage'])}, the share of images"
        f" decided; among these the sensitivity is {figure(m['decided/sensitivity'])} and the"
        f" specificity {figure(m['decided/specificity'])}. An image is confidently called wrong in"
        f" {figure(m['decided/false_negative_patients'])} of PNEUMONIA patients and"
        f" {figure(m['decided/false_positive_patients'])} of NORMAL ones."
    )


def undecided(band: Abstention) -> str:
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


def guarantee(band: Abstention, origin: Origin) -> str:
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
        f" {100 * band.alpha:.3g}% of the PNEUMONIA ones have an image confidently called NORMAL,"
        f" and at most {100 * band.alpha:.3g}% of the NORMAL ones an image confidently called"
        f" PNEUMONIA: on average, within each class, and not of the decided images.{flattered}"
        " No guarantee holds under shift: other hospitals, machines or ages, or Kaggle's own test"
        " split."
    )


def size(assessment: EvaluationResult) -> str:
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


def limits(subject: EvaluatedModel) -> list[str]:
    """List what a result does not show, a sentence or two each.

    Args:
        subject: What it is about.
    """
    synthetic = bool(subject.lookup("data", "synthetic"))
    return [
        *subject.warnings,
        "The images are drawn by a program (synthetics): nothing here says anything of patients."
        if synthetic
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


PROBE_MEANING = (
    "A high AUROC without the lungs shows that the model can use a shortcut; a low one proves"
    " nothing."
)

ATTRIBUTION = (
    "The chest X-rays of the data set that this project is made for: Kermany, Zhang and Goldbaum,"
    " “Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for Classification”,"
    " Mendeley Data, doi 10.17632/rscbjbr9sj.2, licensed CC BY 4.0"
    " (https://creativecommons.org/licenses/by/4.0/); any shown here are resized."
)


SOURCE = (
    "CLAIM: Mongan, Moy and Kahn, Radiology: Artificial Intelligence 2 (2020), e200029; items in"
    " our words"
)

AUTHORS = "for the authors to write"


class Item(NamedTuple):
    """One item of the checklist.

    Attributes:
        number: 1 to 42.
        topic: What it asks for.
        section: Of the report, where that stands; None if a report cannot know it.
        remark: What stands there, or why not.
    """

    number: int
    topic: str
    section: str | None
    remark: str


ITEMS: tuple[Item, ...] = (
    Item(1, "title names AI and its kind", "verdict", "deep learning, convolutional or other"),
    Item(2, "structured summary", "verdict", "results only"),
    Item(3, "background, intended use", "limits", "research only; no clinical role"),
    Item(4, "objectives and hypotheses", None, AUTHORS),
    Item(5, "prospective or retrospective", "limits", "retrospective"),
    Item(6, "goal of the study", None, AUTHORS),
    Item(7, "data sources", "cohort", "folder, fingerprint, attribution"),
    Item(8, "eligibility criteria", None, "those of the data set's authors"),
    Item(9, "preprocessing", "training", "size, resize_mode, interpolation"),
    Item(10, "selection of subsets", "cohort", "splits as used"),
    Item(11, "definitions of data elements", "cohort", "classes and subtypes"),
    Item(12, "de-identification", None, "done by the data set's authors"),
    Item(13, "missing data", None, "unreadable files stop an evaluation; none is skipped"),
    Item(14, "definition of ground truth", "limits", "reading of the image"),
    Item(15, "why that ground truth", None, AUTHORS),
    Item(16, "annotators", "limits", "as published"),
    Item(17, "annotation tools", None, "not published"),
    Item(18, "variability of raters", None, "not published"),
    Item(19, "sample size", "confusion", "given, not planned; intervals say what it allows"),
    Item(20, "assignment to partitions", "cohort", "hold-out strategy, fraction, seed"),
    Item(21, "level of separation", "cohort", "patient, and identical files"),
    Item(22, "the model", "training", "architecture by timm's name, input, one logit"),
    Item(23, "software", "training", "versions, commit"),
    Item(24, "initial parameters", "training", "in the configuration"),
    Item(25, "training", "training", "configuration: augmentation, optimiser, schedule"),
    Item(26, "choice of the final model", "training", "monitor, in the configuration"),
    Item(27, "ensembling", None, "none"),
    Item(28, "metrics", "confusion", "at the operating point and at 0.5"),
    Item(29, "uncertainty", "confusion", "95% intervals; methods in metrics.json"),
    Item(30, "robustness", "probe", "shortcut probe, if it was run"),
    Item(31, "explanation", None, "no heat map here: it would be no evidence of reasoning"),
    Item(32, "external data", None, "none, unless the tested images are of another site"),
    Item(33, "flow of cases", "cohort", "counts by split; no diagram"),
    Item(34, "demographics by partition", "cohort", "class and subtype; age and sex unpublished"),
    Item(35, "performance on all partitions", "confusion", "hold-out and test; not training"),
    Item(36, "accuracy with precision", "confusion", "95% intervals that respect patients"),
    Item(37, "failures", "errors", "the worst errors, with images"),
    Item(38, "limitations", "limits", ""),
    Item(39, "implications for practice", "limits", "none: not a device"),
    Item(40, "registration", None, AUTHORS),
    Item(41, "protocol", "training", "the configuration; else for the authors to write"),
    Item(42, "funding", None, AUTHORS),
)
