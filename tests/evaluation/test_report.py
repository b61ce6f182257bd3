"""The report, from anyone's predictions: whole, escaped, honest about what is missing."""

import html.parser
import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.abstention import ABOVE_ONE, Abstention, fit_abstention
from pneumonia.evaluation.compare import compare_files
from pneumonia.evaluation.confidence import Estimate
from pneumonia.evaluation.evaluate import (
    PROBE_MEANING,
    EvaluatedModel,
    ShortcutProbe,
    evaluate_predictions,
)
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.evaluation.report.console import console_summary
from pneumonia.evaluation.report.html import render_html
from pneumonia.evaluation.report.model_card import model_card
from pneumonia.evaluation.report.wording import (
    ITEMS,
    errors_of_hundred,
    figure,
    guarantee,
    of_hundred,
    undecided,
)
from pneumonia.evaluation.report.write import write_report
from pneumonia.evaluation.threshold import choose_threshold

ORDER = ["verdict", "confusion", "curves", "calibration", "subtypes", "prevalence", "errors"]
ORDER += ["probe", "cohort", "training", "limits", "claim"]
EVIL = "<script>alert(1)</script>"


class Page(html.parser.HTMLParser):
    """Collects what a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id" and tag in {"section", "header"}:
                self.ids.append(value)
            if name in {"src", "href", "xlink:href"}:
                self.links.append(value)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def cases(n: int = 120, seed: int = 0, **columns) -> PredictionTable:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    logits = random.normal(2.0 * (2 * labels - 1), 1.5)
    known = {
        "paths": np.array([f"{i}.jpeg" for i in range(n)]),
        "patients": np.array([f"p{i // 4}-{i % 2}" for i in range(n)]),
        "subtypes": np.where(
            labels == 1, np.where(np.arange(n) % 4 == 1, "viral", "bacterial"), "normal"
        ),
    }
    return PredictionTable(labels, 1 / (1 + np.exp(-logits)), logits, **(known | columns))


def checkpoint(found: PredictionTable, **metadata) -> EvaluatedModel:
    point = choose_threshold(found.labels, found.probabilities, found.patients)
    return EvaluatedModel("best.ckpt", "split test", True, (1.5, 0.0), point, metadata)


def page(dossier) -> Page:
    return Page(render_html(dossier))


def test_sections_in_order_and_nothing_from_outside():
    found = page(evaluate_predictions(cases(), EvaluatedModel("a", "b"), replicates=200))
    assert found.ids == ORDER
    assert all(link.startswith(("#", "data:")) for link in found.links)
    assert not {"script", "link", "iframe"} & found.tags
    assert (
        len(render_html(evaluate_predictions(cases(), EvaluatedModel("a", "b"), replicates=200)))
        < 3_000_000
    )


def test_verdict_stands_first_with_promise_and_counts_in_words():
    found = cases()
    text = page(evaluate_predictions(found, checkpoint(found), replicates=200)).text
    assert "Of 100 X-rays showing pneumonia it misses" in text
    assert (
        "chosen on the hold-out, before any test was seen, for a sensitivity of at least 0.95"
        in text
    )
    assert "the hold-out had promised a sensitivity of" in text
    assert "What was promised, and what the test gave" in text
    assert "not a medical device" in text
    assert "CC BY 4.0" in text


def with_band(found: PredictionTable, *, prevalence_moved: bool = False) -> EvaluatedModel:
    subject = checkpoint(found)
    point = subject.operating_point
    assert point is not None
    band = fit_abstention(found.labels, found.probabilities, found.patients, point.threshold, 0.1)
    history = ({"when": "now"},) if prevalence_moved else ()
    return replace(subject, band=band, history=history)


def test_band_stands_with_its_coverage_and_to_whom_it_promises_nothing():
    found = cases(seed=3)
    dossier = evaluate_predictions(found, with_band(found), replicates=200)
    written, console = page(dossier), Console(width=200, record=True, file=io.StringIO())
    console.print(console_summary(dossier))
    coverage = figure(dossier.metrics["coverage"])
    assert 0 < dossier.metrics["coverage"].value < 1
    for text in (written.text, model_card(dossier), " ".join(console.export_text().split())):
        assert coverage.partition(" ")[0] in text
        assert "The band was chosen on the hold-out so that of patients like those" in text
        assert "at most 10% of the PNEUMONIA ones have an image confidently called NORMAL" in text
        assert "No guarantee holds under shift" in text
    assert "Left undecided" in written.text
    assert written.ids == ORDER


def test_a_band_of_a_site_says_so_and_a_checkpoint_without_one_says_nothing():
    found = cases()
    site = page(
        evaluate_predictions(found, with_band(found, prevalence_moved=True), replicates=200)
    )
    assert "The band was chosen on a site's own labelled images" in site.text
    older = page(evaluate_predictions(found, checkpoint(found), replicates=200)).text
    assert "undecided" not in older
    assert "coverage" not in older


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((0.25, 0.75), "Images with a probability from 0.25 to 0.75 are uncertain."),
        ((0.0, 0.75), "Images with a probability below 0.75 are uncertain."),
        ((0.25, ABOVE_ONE), "Images with a probability from 0.25 up are uncertain."),
        ((0.0, ABOVE_ONE), "All images are uncertain, as too few patients chose the band."),
        ((0.5, 0.5), "No image is uncertain: the threshold alone keeps the stated error."),
    ],
)
def test_a_band_in_words(ends, words):
    band = Abstention(*ends, 0.025, 259, 129)
    assert undecided(band) == words
    assert "at most 2.5% of the NORMAL ones" in guarantee(band, "hold-out")


def test_degenerate_classifier_is_the_first_line():
    found = cases()
    everyone = PredictionTable(found.labels, np.full(len(found), 0.9), None, found.paths)
    written = page(evaluate_predictions(everyone, EvaluatedModel("a", "b"), replicates=200))
    body = written.text[written.text.index("}") :].rpartition("} }")[2]  # behind the style sheet
    assert body.strip().startswith("Degenerate classifier: calls 60 of 60 NORMAL images PNEUMONIA")
    assert "tells none apart" in written.text
    assert "undefined" in written.text


@pytest.mark.parametrize(
    ("subject", "threshold", "words"),
    [
        (EvaluatedModel("a", "b"), None, "the default; it was not chosen on a hold-out"),
        (EvaluatedModel("a", "b"), 0.3, "given by hand and not chosen on a hold-out"),
        (EvaluatedModel("a", "b", checkpoint=True), None, "holds neither an operating point nor"),
    ],
)
def test_says_where_the_threshold_comes_from(subject, threshold, words):
    dossier = evaluate_predictions(cases(), subject, threshold, replicates=200)
    assert dossier.threshold == (threshold or 0.5)
    assert words in page(dossier).text


def test_everything_from_outside_is_escaped():
    found = cases(paths=np.array([f"{EVIL}{i}" for i in range(120)]))
    subject = checkpoint(
        found,
        data={EVIL: EVIL, "splits": {EVIL: {"images": EVIL}}},
        holdout={EVIL: EVIL},
        training={"config": EVIL, "versions": {EVIL: EVIL}, "hardware": EVIL},
        model={EVIL: EVIL},
    )
    subject = EvaluatedModel(
        EVIL,
        EVIL,
        True,
        (1.5, 0.1),
        subject.operating_point,
        subject.metadata,
        ({"root": EVIL},),
        (EVIL,),
    )
    probe = ShortcutProbe(EVIL, EVIL, Estimate.exact(0.5, EVIL), np.zeros((8, 8), np.uint8))
    dossier = evaluate_predictions(found, subject, probes=[probe], replicates=200)
    written = render_html(dossier)
    assert "<script" not in written
    assert PROBE_MEANING in written


@pytest.mark.parametrize("metadata", [{}, {"data": 3, "training": "x"}, {"data": {"splits": [1]}}])
def test_facts_may_be_missing_or_strange(metadata):
    found = cases()
    assert (
        page(evaluate_predictions(found, checkpoint(found, **metadata), replicates=200)).ids
        == ORDER
    )


def test_gallery_shows_the_surest_errors_with_their_images():
    found = cases()
    opened = []

    def picture(path):
        opened.append(path)
        return np.full((300, 500), 7, np.uint8)

    text = render_html(
        evaluate_predictions(found, EvaluatedModel("a", "b"), picture=picture, replicates=200)
    )
    wrong = (found.probabilities >= 0.5) != (found.labels == 1)
    misses = np.flatnonzero(wrong & (found.labels == 1))
    surest = misses[np.argsort(found.logits[misses])][:6]
    assert opened[: len(surest)] == found.paths[surest].tolist()
    assert text.count("data:image/jpeg;base64,") == len(opened)


def test_claim_has_all_items_once():
    assert [item.number for item in ITEMS] == list(range(1, 43))
    assert {item.section for item in ITEMS} - {None} <= set(ORDER)


def test_files_and_loss(tmp_path):
    dossier = evaluate_predictions(cases(), EvaluatedModel("a", "b"), replicates=200)
    files = write_report(dossier, tmp_path / "new", tmp_path / "new/card.md")
    assert [file.name for file in files] == [
        "metrics.json",
        "predictions.csv",
        "report.html",
        "card.md",
    ]
    metrics = json.loads(files[0].read_text())
    assert metrics["test/loss"] == metrics["test/log_loss"]
    again = PredictionTable.read(files[1])
    np.testing.assert_array_equal(again.probabilities, dossier.table.probabilities)
    np.testing.assert_array_equal(again.patients, dossier.table.patients)


def test_a_folder_that_cannot_be_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    dossier = evaluate_predictions(cases(), EvaluatedModel("a", "b"), replicates=200)
    with pytest.raises(EvaluationError, match="cannot be written"):
        write_report(dossier, tmp_path / "file")


def test_words():
    assert [of_hundred(x) for x in (0, 0.001, 0.021, 0.999, 1)] == [
        "none",
        "fewer than 1",
        "2",
        "more than 99",
        "all",
    ]
    assert errors_of_hundred(Estimate(0.978, 0.961, 0.991, "")) == "2 (0 to 4)"
    assert errors_of_hundred(Estimate(1.0, 0.99, 1.0, "")) == "none (0 to 1)"
    assert "unknown" in errors_of_hundred(Estimate.without_interval(0.9, "x"))
    assert figure(None) == figure(Estimate.without_interval(np.nan, "x")) == "undefined"


# --- anyone's predictions ---------------------------------------------------------------------


def write(path, text: str):
    path.write_text(text)
    return path


TEN = "label,probability\n" + "\n".join(f"{i % 2},{0.1 * i:.1f}" for i in range(10))


def test_ten_images_are_evaluated_with_doubts(tmp_path):
    found = page(
        evaluate_predictions(
            PredictionTable.read(write(tmp_path / "a.csv", TEN)), EvaluatedModel("a", "b")
        )
    )
    assert "fewer than 30" in found.text
    assert "whose patients nobody named" in found.text


def test_labels_numbers_and_names_are_read_alike(tmp_path):
    rows = [("NORMAL", "0", "0.0"), (" pneumonia ", "1", "1.0")]
    for column in range(3):
        text = " Label ,PROBABILITY\n" + "\n".join(f"{row[column]},0.5" for row in rows)
        assert PredictionTable.read(write(tmp_path / "a.csv", text)).labels.tolist() == [0, 1]


def test_probability_wins_over_a_contradicting_logit(tmp_path):
    text = "label,logit,probability\n0,5,0.1\n1,-5,0.9\n"
    found = PredictionTable.read(write(tmp_path / "a.csv", text))
    assert found.probabilities.tolist() == [0.1, 0.9]
    assert found.scores.tolist() == [0.1, 0.9]
    agreeing = PredictionTable.read(
        write(tmp_path / "b.csv", "label,logit,probability\n0,40,1\n1,50,1\n")
    )
    assert agreeing.scores.tolist() == [40, 50]
    alone = PredictionTable.read(write(tmp_path / "c.csv", "label,logit\n0,0\n1,0\n"))
    assert alone.probabilities.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,probability\n1,0.5\n1,0.6\n", "class"),
        ("label,probability\n1,1.5\n0,0.6\n", "outside 0 to 1"),
        ("label,probability\n1,nan\n0,0.6\n", "not finite"),
        ("label,logit\n1,inf\n0,0.6\n", "not finite"),
        ("path,label,probability\na,1,0.5\na,0,0.6\n", "more than once"),
        ("label,probability\n2,0.5\n0,0.6\n", "row 1, column label: found '2'"),
        ("label,probability\n1,high\n0,0.6\n", "row 1, column probability: found 'high'"),
        ("label,probability,patient\n1,0.2,\n0,0.6,b\n", "have no patient"),
        ("label,probability\n1,0.5,3\n", "found 3 cells, expected 2"),
        ("truth,probability\n1,0.5\n", "has no column label"),
        ("label,score\n1,0.5\n", "neither a column probability nor logit"),
        ("label,label,probability\n1,1,0.5\n", "several columns named label"),
        ("label,probability\n", "no row"),
        ("", "no"),
    ],
)
def test_bad_tables_are_refused_in_a_sentence(tmp_path, text, message):
    with pytest.raises(EvaluationError, match=message) as error:
        PredictionTable.read(write(tmp_path / "a.csv", text))
    assert "a.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_patient_with_both_labels_is_noted(tmp_path):
    rows = "\n".join(f"{i % 2},{0.05 + 0.1 * (i % 10):.2f},p{i // 2}" for i in range(80))
    found = PredictionTable.read(write(tmp_path / "a.csv", f"label,probability,patient\n{rows}"))
    notes = evaluate_predictions(found, EvaluatedModel("a", "b"), replicates=200).assessment.notes
    assert any("both classes" in note for note in notes)


# --- compare ----------------------------------------------------------------------------------


def test_compare_matches_rows_by_path_and_takes_the_threshold_beside(tmp_path):
    found = cases()
    one, other = tmp_path / "one", tmp_path / "other"
    write_report(evaluate_predictions(found, EvaluatedModel("a", "b"), 0.3, replicates=200), one)
    backwards = found.take(np.arange(len(found))[::-1])
    write_report(
        evaluate_predictions(backwards, EvaluatedModel("a", "b"), 0.3, replicates=200), other
    )
    pair = compare_files(one / "predictions.csv", other / "predictions.csv", replicates=200)
    assert pair.thresholds[0].startswith("0.3, from ")
    assert {d.verdict for d in pair.comparison.differences.values()} == {
        "no evidence of a difference"
    }


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("path,label,probability\na,0,0.5\nc,1,0.6\n", "different images"),
        ("label,probability\n0,0.5\n1,0.6\n", "no column path"),
        ("path,label,probability\na,1,0.5\nb,0,0.6\n", "differ in labels"),
    ],
)
def test_compare_refuses_what_is_no_pair(tmp_path, other, message):
    one = write(tmp_path / "a.csv", "path,label,probability\na,0,0.5\nb,1,0.6\n")
    with pytest.raises(EvaluationError, match=message):
        compare_files(one, write(tmp_path / "b.csv", other), replicates=200)


def test_neither_torch_nor_a_model_is_imported(tmp_path):
    write(tmp_path / "a.csv", TEN)
    arguments = [
        "pneumonia",
        "evaluate",
        "--predictions",
        f"{tmp_path}/a.csv",
        "--out",
        f"{tmp_path}/o",
    ]
    code = (
        f"import sys; sys.argv = {arguments!r}\n"
        "from pneumonia import cli\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'torchvision', 'timm', 'lightning', 'hydra', 'sklearn', 'scipy'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert (tmp_path / "o/report.html").exists()
