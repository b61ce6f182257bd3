"""Plots give their number in the title and render whatever can be evaluated."""

import io

import matplotlib.image
import numpy as np
import pytest

from pneumonia.evaluation import plots
from pneumonia.evaluation.abstention import ABOVE_ONE, Abstention
from pneumonia.evaluation.metrics import Confusion, confusion
from pneumonia.evaluation.predictions import sigmoid

CASES = {
    "ordinary": (np.arange(40) % 2, np.sin(np.arange(40)) + np.arange(40) % 2),
    "all scores equal": ([0, 1, 1], [2.0, 2.0, 2.0]),
    "saturated": ([0, 1, 1], [-1000.0, 1000.0, 60.0]),
}


def pixels(figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return matplotlib.image.imread(buffer)


def text(figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("labels", "logits"), CASES.values(), ids=CASES.keys())
def test_every_plot_renders_as_png_and_svg(labels, logits):
    labels, probabilities = np.asarray(labels), sigmoid(logits)
    counts = confusion(labels, probabilities >= 0.5)
    for figure in (
        plots.plot_roc(labels, logits, counts),
        plots.plot_precision_recall(labels, logits, counts),
        plots.plot_histogram(labels, probabilities, 0.5),
        plots.plot_confusion_matrix(counts),
        plots.plot_reliability(labels, probabilities, logits),
    ):
        image = pixels(figure)
        assert image.shape[:2] == (400, 500)
        assert image.std() > 0
        assert plots.to_svg(figure).startswith("<svg")


def test_titles_give_the_number_and_legends_the_operating_point():
    labels, logits, counts = [0, 0, 1, 1], [-2.0, 1.0, -1.0, 3.0], Confusion(1, 1, 1, 1)
    roc = text(plots.plot_roc(labels, logits, counts))
    precision_recall = text(plots.plot_precision_recall(labels, logits, counts))
    assert "AUROC 0.750" in roc
    assert "average precision 0.833" in precision_recall
    assert "prevalence 0.500" in precision_recall
    for plot, shown in ((plots.plot_roc, roc), (plots.plot_precision_recall, precision_recall)):
        assert "operating point" in shown
        assert "operating point" not in text(plot(labels, logits))
    histogram = text(plots.plot_histogram(labels, sigmoid(logits)))
    assert "1 of 2 PNEUMONIA missed, 1 of 2 NORMAL predicted as PNEUMONIA" in histogram
    assert "uncertain" not in histogram
    abstention = Abstention(0.3, ABOVE_ONE, 0.05, 5, 5)
    assert "uncertain" in text(plots.plot_histogram(labels, sigmoid(logits), 0.5, abstention))


def test_confusion_matrix_gives_counts_and_percentages_of_each_class():
    shown = text(plots.plot_confusion_matrix(Confusion(tp=390, fp=229, tn=5, fn=0)))
    assert "Recall 1.000, specificity 0.021" in shown
    for cell in ("5\n2.1%", "229\n97.9%", "0\n0.0%", "390\n100.0%"):
        assert cell in shown


def test_most_confident_errors_come_first():
    labels, logits = [0, 0, 0, 1, 1, 1], [-3.0, 50.0, 0.5, -60.0, 2.0, -0.1]
    assert plots.worst_errors(labels, logits).tolist() == [3, 1, 2, 5, 4, 0]
    assert len(plots.worst_errors([0, 1] * 20, [1, -1] * 20)) == plots.LIMIT


@pytest.mark.filterwarnings("error")
def test_captions_are_shortened_in_the_middle_and_not_parsed():
    name = "a_name_far_too_long_for_its_image_person1_bacteria_12.jpeg"
    captions = [f"{name}\nNORMAL", "$x_{1$.jpeg", "undecodable \udcff.jpeg", "d", "e"]
    figure = plots.plot_grid([np.zeros((9, 9), np.uint8)] * 5, captions, "Worst")
    pixels(figure)
    shown = text(figure)
    assert "a_name_far_too…cteria_12.jpeg\nNORMAL" in shown
    assert "$x_{1$.jpeg" in shown
    assert "undecodable ?.jpeg" in shown
