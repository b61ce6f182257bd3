"""Figures say their number in the title and render whatever can be evaluated."""

import io

import matplotlib.image
import numpy as np
import pytest

from pneumonia.errors import EvaluationError
from pneumonia.evaluation import metrics, plots
from pneumonia.evaluation.abstention import ABOVE_ONE, Abstention
from pneumonia.evaluation.metrics import Confusion
from pneumonia.evaluation.predictions import sigmoid

CASES = {
    "ordinary": (np.arange(40) % 2, np.sin(np.arange(40)) + np.arange(40) % 2),
    "two images": ([0, 1], [-1.0, 1.0]),
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
def test_every_figure_renders_at_the_size_of_the_panel(labels, logits):
    probabilities = sigmoid(logits)
    for figure in (
        plots.plot_roc(labels, logits),
        plots.plot_precision_recall(labels, logits),
        plots.plot_histogram(labels, probabilities, 0.5),
        plots.plot_confusion_matrix(metrics.confusion(labels, probabilities >= 0.5)),
    ):
        image = pixels(figure)
        assert image.shape[:2] == (400, 500)
        assert image.std() > 0


def test_titles_give_the_number_that_matters():
    labels, logits = [0, 0, 1, 1], [-2.0, 1.0, -1.0, 3.0]
    assert "AUROC 0.750" in text(plots.plot_roc(labels, logits))
    pr = text(plots.plot_precision_recall(labels, logits))
    assert "average precision 0.833" in pr
    assert "prevalence 0.500" in pr
    histogram = text(plots.plot_histogram(labels, sigmoid(logits)))
    assert "misses 1 of 2 PNEUMONIA, alarms on 1 of 2 NORMAL" in histogram
    assert "NORMAL (n = 2)" in histogram
    assert "uncertain" not in histogram
    band = Abstention(0.3, ABOVE_ONE, 0.05, 5, 5)
    assert "uncertain" in text(plots.plot_histogram(labels, sigmoid(logits), 0.5, band))


def test_the_confusion_matrix_gives_counts_and_shares_of_each_class():
    shown = text(plots.plot_confusion_matrix(Confusion(tp=390, fp=229, tn=5, fn=0)))
    assert "Recall 1.000, specificity 0.021" in shown
    for cell in ("5\n2.1%", "229\n97.9%", "0\n0.0%", "390\n100.0%"):
        assert cell in shown


def test_one_class_has_no_figure():
    for draw in (plots.plot_roc, plots.plot_precision_recall, plots.plot_histogram):
        with pytest.raises(EvaluationError, match="all are PNEUMONIA"):
            draw([1, 1], [0.1, 0.2])


def test_the_surest_errors_come_first_then_the_closest_calls():
    labels = [0, 0, 0, 1, 1, 1]
    logits = [-3.0, 50.0, 0.5, -60.0, 2.0, -0.1]
    assert plots.worst_errors(labels, logits).tolist() == [3, 1, 2, 5, 4, 0]
    assert plots.worst_errors(labels, logits, threshold=0.4).tolist() == [3, 1, 2, 5, 4, 0]
    assert plots.worst_errors([0, 1], [-2, 1]).tolist() == [1, 0]
    assert len(plots.worst_errors([0, 1] * 20, [1, -1] * 20)) == plots.LIMIT


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [1, 4, 5, 8])
def test_a_gallery_of_any_size_renders(n):
    images = [np.full((20 + 5 * i, 30), 25 * i, np.uint8) for i in range(n)]
    figure = plots.plot_grid(images, [f"image{i}.jpeg\np = 0.9" for i in range(n)], "Worst")
    assert pixels(figure).shape[1] == 1000


@pytest.mark.filterwarnings("error")
def test_long_and_odd_names_are_shortened_in_the_middle_and_taken_literally():
    name = "a_name_far_too_long_for_its_image_person1_bacteria_12.jpeg"
    captions = [f"{name}\nNORMAL", "$x_{1$.jpeg", "undecodable \udcff.jpeg"]
    figure = plots.plot_grid([np.zeros((9, 9), np.uint8)] * 3, captions, "Worst")
    pixels(figure)
    shown = text(figure)
    assert "a_name_far_too…cteria_12.jpeg\nNORMAL" in shown
    assert "$x_{1$.jpeg" in shown
    assert "undecodable ?.jpeg" in shown


def test_a_gallery_refuses_what_it_cannot_draw():
    grey = np.zeros((9, 9), np.uint8)
    with pytest.raises(EvaluationError, match="Found 2 images and 1 captions"):
        plots.plot_grid([grey, grey], ["a"], "Worst")
    with pytest.raises(EvaluationError, match="give 1 to 8"):
        plots.plot_grid([grey] * 9, ["a"] * 9, "Worst")
    with pytest.raises(EvaluationError, match=r"Image 1 has shape \(9, 9, 4\)"):
        plots.plot_grid([grey, np.zeros((9, 9, 4), np.uint8)], ["a", "b"], "Worst")
    with pytest.raises(EvaluationError, match="type float64"):
        plots.plot_grid([np.zeros((9, 9))], ["a"], "Worst")
