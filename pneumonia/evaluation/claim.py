"""CLAIM, the checklist for artificial intelligence in medical imaging, and what a report covers.

Mongan, Moy and Kahn, Radiology: Artificial Intelligence 2 (2020), e200029: 42 items, here in our
own words.
"""

from typing import NamedTuple

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
    Item(9, "preprocessing", "training", "size, fit, interpolation"),
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
