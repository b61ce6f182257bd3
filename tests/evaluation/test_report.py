"""The report and the console summary: complete, escaped, one registry of metrics."""

import html
import re
from dataclasses import replace

import numpy as np
import pytest

from pneumonia.evaluation.abstention import fit_abstention
from pneumonia.evaluation.confidence import Estimate
from pneumonia.evaluation.evaluate import (
    EvaluatedModel,
    EvaluationResult,
    ShortcutProbe,
    evaluate_predictions,
)
from pneumonia.evaluation.metrics import METRICS
from pneumonia.evaluation.predictions import PredictionTable
from pneumonia.evaluation.report.console import MAX_WARNINGS, print_summary
from pneumonia.evaluation.report.html import ERRORS_SHOWN, render_html
from pneumonia.evaluation.report.wording import RESEARCH_ONLY, format_estimate
from pneumonia.evaluation.report.write import model_card
from pneumonia.evaluation.threshold import choose_threshold

SECTIONS = ["summary", "performance", "curves", "calibration", "abstention", "subtypes"]
SECTIONS += ["prevalence", "errors", "probe", "data", "limits"]
EVIL = "<script>alert(1)</script>"


def sections(page: str) -> list[str]:
    return re.findall(r'<(?:header|section) id="(\w+)"', page)


def visible_text(page: str) -> str:
    body = page.partition("<body>")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def predictions(n: int = 120, seed: int = 0, **columns) -> PredictionTable:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    logits = random.normal(2.0 * (2 * labels - 1), 1.5)
    subtypes = np.where(np.arange(n) % 4 == 1, "viral", "bacterial")
    known = {
        "path": np.array([f"{i}.jpeg" for i in range(n)]),
        "patient": np.array([f"p{i // 4}-{i % 2}" for i in range(n)]),
        "subtype": np.where(labels == 1, subtypes, "normal"),
    }
    return PredictionTable(label=labels, logit=logits, **(known | columns))


def checkpoint(table: PredictionTable, **metadata) -> EvaluatedModel:
    point = choose_threshold(table.label, table.probability, table.patient)
    return EvaluatedModel(
        "best.ckpt",
        "split test",
        is_checkpoint=True,
        calibration=(1.5, 0.0),
        operating_point=point,
        metadata=metadata,
    )


def with_abstention(table: PredictionTable) -> EvaluatedModel:
    model = checkpoint(table)
    point = model.operating_point
    assert point is not None
    fitted = fit_abstention(table.label, table.probability, table.patient, point.threshold, 0.1)
    return replace(model, abstention=fitted)


def evaluated(
    table: PredictionTable | None = None, model: EvaluatedModel | None = None, **settings
) -> EvaluationResult:
    model = EvaluatedModel("a", "b") if model is None else model
    return evaluate_predictions(table or predictions(), model, replicates=200, **settings)


def printed(capsys, result: EvaluationResult) -> str:
    print_summary(result, {"Report": "run/report.html"})
    return capsys.readouterr().out


def test_report_has_all_sections_and_needs_no_other_file():
    page = render_html(evaluated())
    assert sections(page) == SECTIONS
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search("<(script|link|iframe)", page)
    assert len(page) < 3_000_000
    assert RESEARCH_ONLY in page
    assert "CC BY 4.0" in page


def test_every_metric_of_the_registry_is_in_report_card_and_console(capsys):
    table = predictions()
    result = evaluated(table, checkpoint(table))
    console, texts = (
        printed(capsys, result),
        (model_card(result), visible_text(render_html(result))),
    )
    for metric in METRICS:
        estimate = result.metrics[metric.name]
        for text in texts:
            assert metric.label in text
            assert format_estimate(estimate) in text
        assert metric.label in console
        assert format_estimate(estimate, 2) in console


def test_console_fits_one_screen_and_shows_the_validation_estimate(capsys):
    table = predictions()
    model = replace(checkpoint(table), warnings=("first", "second " * 30, "third", "fourth"))
    print_summary(evaluated(table, model), {"Report": "r", "TensorBoard": "t"}, {"auroc": 0.125})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 100
    row = {line.split("  ")[0].strip(): line for line in lines}
    point = model.operating_point
    assert point is not None
    assert row["specificity"].split()[-1] == f"{point.specificity:.3f}"
    assert row["recall (sensitivity)"].split()[-1] == f"{point.sensitivity:.3f}"
    assert row["AUROC"].split()[-1] == "0.125"
    assert sum(line.startswith("Warning") for line in lines) == MAX_WARNINGS


def test_abstention_is_reported_with_coverage_and_guarantee():
    table = predictions(seed=3)
    result = evaluated(table, with_abstention(table))
    coverage = result.metrics["coverage"]
    assert 0 < coverage.value < 1
    for text in (visible_text(render_html(result)), model_card(result)):
        assert format_estimate(coverage) in text
        assert "alpha = 0.1" in text
        assert "no guarantee under distribution shift" in text
    without = visible_text(render_html(evaluated(table, checkpoint(table))))
    assert "coverage" not in without


def test_degenerate_classifier_is_reported_first(capsys):
    table = predictions()
    constant = PredictionTable(label=table.label, probability=np.full(len(table), 0.9))
    result = evaluated(constant)
    assert visible_text(render_html(result)).startswith("Degenerate classifier: 60 of 60")
    assert "Warning: Degenerate classifier" in printed(capsys, result)
    assert model_card(result).splitlines()[2].startswith("**Degenerate classifier")


@pytest.mark.parametrize(
    ("model", "threshold", "words"),
    [
        (EvaluatedModel("a", "b"), None, "not chosen on a validation set"),
        (EvaluatedModel("a", "b"), 0.3, "given by the user"),
        (EvaluatedModel("a", "b", is_checkpoint=True), None, "neither operating point"),
        (checkpoint(predictions()), None, "chosen on the validation set"),
        (
            replace(checkpoint(predictions()), history=({"when": "now"},)),
            None,
            "images of the site",
        ),
    ],
)
def test_report_and_card_say_where_the_threshold_comes_from(model, threshold, words):
    result = evaluated(model=model, threshold=threshold)
    assert words in visible_text(render_html(result))
    assert words in model_card(result)


def test_everything_from_outside_is_escaped():
    table = predictions(path=np.array([f"{EVIL}{i}" for i in range(120)]))
    metadata = {
        "data": {EVIL: EVIL, "splits": {EVIL: {"images": EVIL}}},
        "split": {EVIL: EVIL},
        "training": {"config": EVIL, "versions": {EVIL: EVIL}, "hardware": EVIL},
        "model": {EVIL: EVIL},
    }
    model = replace(
        checkpoint(table, **metadata),
        name=EVIL,
        data=EVIL,
        history=({"root": EVIL},),
        warnings=(EVIL,),
    )
    probe = ShortcutProbe(EVIL, EVIL, Estimate.exact(0.5, EVIL), np.zeros((8, 8), np.uint8))
    result = evaluated(table, model, probes=[probe])
    for text in (render_html(result), model_card(result)):
        assert "<script" not in text


def test_metadata_may_be_missing():
    table = predictions()
    assert sections(render_html(evaluated(table, checkpoint(table)))) == SECTIONS


def test_gallery_shows_the_most_confident_errors_with_their_images():
    table, opened = predictions(), []

    def load_image(path):
        opened.append(path)
        return np.full((300, 500), 7, np.uint8)

    text = render_html(evaluated(table, load_image=load_image))
    missed = np.flatnonzero((table.probability < 0.5) & (table.label == 1))
    most_confident = missed[np.argsort(table.logit[missed])][:ERRORS_SHOWN]
    assert opened[: len(most_confident)] == table.path[most_confident].tolist()
    assert text.count("data:image/jpeg;base64,") == len(opened)
