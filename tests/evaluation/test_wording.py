"""A degenerate classifier is called one; a table never shows recall without specificity."""

import numpy as np
import pytest
from rich.console import Console

from pneumonia.evaluation.evaluate import assess
from pneumonia.evaluation.metrics import Confusion
from pneumonia.evaluation.predictions import sigmoid
from pneumonia.evaluation.report.wording import counts, degenerate, metrics_table

NOTEBOOK = Confusion(tp=390, fp=229, tn=5, fn=0)
GOOD = Confusion(tp=378, fp=30, tn=204, fn=12)


def rendered(confusion: Confusion, width: int = 80) -> str:
    labels = np.repeat([1, 0, 0, 1], [confusion.tp, confusion.fp, confusion.tn, confusion.fn])
    logits = np.repeat([1, 1, -1, -1], [confusion.tp, confusion.fp, confusion.tn, confusion.fn])
    console = Console(width=width)
    with console.capture() as capture:
        console.print(metrics_table(assess(labels, sigmoid(logits), threshold=0.5, replicates=200)))
    return capture.get()


def test_the_notebook_is_called_degenerate():
    assert degenerate(NOTEBOOK) == (
        "Degenerate classifier: calls 229 of 234 NORMAL images PNEUMONIA "
        "(recall 1.000 stands beside specificity 0.021)."
    )


def test_the_mirrored_case_is_called_degenerate():
    assert degenerate(Confusion(tp=10, fp=0, tn=234, fn=380)) == (
        "Degenerate classifier: calls 380 of 390 PNEUMONIA images NORMAL "
        "(specificity 1.000 stands beside recall 0.026)."
    )


@pytest.mark.parametrize(
    "confusion",
    [
        Confusion(tp=9, fp=9, tn=1, fn=1),
        Confusion(tp=1, fp=1, tn=9, fn=9),
        Confusion(tp=1, fp=1, tn=0, fn=0),
    ],
)
def test_nine_tenths_of_each_class_is_degenerate(confusion):
    assert degenerate(confusion)


@pytest.mark.parametrize(
    "confusion",
    [
        GOOD,
        Confusion(tp=390, fp=117, tn=117, fn=0),  # poor: specificity 0.5
        Confusion(tp=90, fp=89, tn=11, fn=10),  # just short of the rule
        Confusion(tp=50, fp=50, tn=50, fn=50),  # a coin
        Confusion(tp=5, fp=95, tn=5, fn=95),  # upside down: wrong, but it tells images apart
        Confusion(tp=990, fp=1, tn=9, fn=0),  # nearly all images PNEUMONIA, and rightly
    ],
)
def test_other_classifiers_are_not_called_degenerate(confusion):
    assert degenerate(confusion) is None


def test_errors_are_counted_in_words():
    assert counts(GOOD) == "misses 12 of 390 PNEUMONIA, alarms on 30 of 234 NORMAL"


def test_recall_and_specificity_stand_in_one_row():
    text = rendered(NOTEBOOK)
    row = next(line for line in text.splitlines() if "recall" in line)
    assert "1.000" in row
    assert "specificity" in row
    assert "0.021" in row


@pytest.mark.parametrize("width", [80, 60])
def test_the_table_fits_and_ends_in_words(width):
    text = rendered(NOTEBOOK, width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    assert "misses 0 of 390 PNEUMONIA, alarms on 229 of 234 NORMAL." in words
    assert degenerate(NOTEBOOK) in words
    assert "Degenerate" not in rendered(GOOD, width)
