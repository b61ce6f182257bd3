"""Report, model card, console and files of a result: complete, escaped, one registry of metrics."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from pneumonia.errors import EvaluationError
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
from pneumonia.evaluation.report.wording import RESEARCH_ONLY, format_estimate, threshold_origin
from pneumonia.evaluation.report.write import ERRORS_SHOWN, model_card, render_html, write_report
from pneumonia.evaluation.threshold import choose_threshold

SECTIONS = ["summary", "performance", "curves", "calibration", "abstention", "subtypes"]
SECTIONS += ["errors", "probe", "data", "limits"]
EVIL = "<script>alert(1)</script>"
METADATA = {
    "model": {"backbone": "resnetv2_50", "image_size": 224},
    "data": {"root": "data|set", "fingerprint": "0f1e", "splits": {"train": {"images": 7}}},
    "split": {"strategy": "blocks", "fraction": 0.12},
    "training": {"commit": "abc", "versions": {"torch": "2.9"}, "config": "seed: 0"},
}


def sections(page: str) -> list[str]:
    return re.findall(r'<(?:header|section) id="(\w+)"', page)


def visible_text(page: str) -> str:
    body = page.partition("<body>")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def predictions(n: int = 120, **columns) -> PredictionTable:
    labels = np.arange(n) % 2
    logits = np.random.default_rng(3).normal(2.0 * (2 * labels - 1), 1.5)
    subtypes = np.where(np.arange(n) % 4 == 1, "viral", "bacterial")
    known = {
        "path": np.array([f"{i}.jpeg" for i in range(n)]),
        "patient": np.array([f"p{i // 4}-{i % 2}" for i in range(n)]),
        "subtype": np.where(labels == 1, subtypes, "normal"),
    }
    return PredictionTable(label=labels, logit=logits, **(known | columns))


def checkpoint(table: PredictionTable, **changes) -> EvaluatedModel:
    shifted = [table.probability**2, table.probability[::-1].clip(0.3)]
    point = choose_threshold(table.label, table.probability, table.patient, shifted=shifted)
    fitted = fit_abstention(table.label, table.probability, table.patient, point.threshold, 0.1)
    return EvaluatedModel(
        "best.ckpt", "split test", True, 1.5, point, fitted, **{"metadata": {}} | changes
    )


def evaluated(table: PredictionTable, model: EvaluatedModel, **settings) -> EvaluationResult:
    return evaluate_predictions(table, model, replicates=200, **settings)


def printed(capsys, result: EvaluationResult) -> str:
    print_summary(result, {"Report": "run/report.html"})
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def complete() -> tuple[EvaluationResult, str, str]:
    """The result of a checkpoint that records everything, its page and its model card."""
    table = predictions()
    result = evaluated(table, checkpoint(table, metadata=METADATA))
    return result, render_html(result), model_card(result)


def test_report_has_all_sections_and_needs_no_other_file(complete):
    _, page, _ = complete
    assert sections(page) == SECTIONS
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search("<(script|link|iframe)", page)
    assert len(page) < 3_000_000
    assert RESEARCH_ONLY in page
    assert "CC BY 4.0" in page


def test_every_metric_of_the_registry_is_in_report_card_and_console(complete, capsys):
    result, page, card = complete
    text, console = visible_text(page), printed(capsys, result)
    for metric in METRICS:
        estimate = result.metrics[metric.name]
        for words in (metric.label, format_estimate(estimate)):
            assert words in text
            assert words in card
        assert metric.label in console
        assert format_estimate(estimate, 2) in console


def test_abstention_and_origin_of_the_threshold_are_reported(complete):
    result, page, card = complete
    coverage = result.metrics["coverage"]
    assert 0 < coverage.value < 1
    origin = threshold_origin("validation", result.model.operating_point)
    for text in (visible_text(page), card):
        assert format_estimate(coverage) in text
        assert origin in text
        assert "alpha = 0.1" in text
        assert "no guarantee under distribution shift" in text


def test_model_card_describes_a_checkpoint(complete):
    _, _, card = complete
    for words in (
        *("## Intended use", "not a medical device", "NORMAL = 0, PNEUMONIA = 1", "CC BY 4.0"),
        *("224 x 224 pixels", "0 (black) to 255 (white)", "sigmoid(logit / 1.5)"),
        *("| fingerprint | 0f1e |", "7 images", "| strategy | blocks |", "| commit | abc |"),
        *("| torch | 2.9 |", "Validation estimate", "| specificity | 0.", "data&#124;set"),
    ):
        assert words in card, words


def test_missing_metadata_are_named_and_errors_shown_with_their_images():
    table, opened = predictions(), []

    def load_image(path):
        opened.append(path)
        return np.full((300, 500), 7, np.uint8)

    model = EvaluatedModel("old.ckpt", "split test", is_checkpoint=True)
    result = evaluated(table, model, load_image=load_image)
    page, card = render_html(result), model_card(result)
    assert sections(page) == SECTIONS
    assert "coverage" not in visible_text(page)
    assert "No calibration is recorded" in card
    assert card.count("Not recorded.") == 5
    missed = np.flatnonzero((table.probability < 0.5) & (table.label == 1))
    most_confident = missed[np.argsort(table.logit[missed])][:ERRORS_SHOWN]
    assert opened[: len(most_confident)] == table.path[most_confident].tolist()
    assert page.count("data:image/jpeg;base64,") == len(opened)


def test_degenerate_classifier_is_reported_first(capsys):
    constant = PredictionTable(label=predictions().label, probability=np.full(120, 0.9))
    result = evaluated(constant, EvaluatedModel("a", "b"))
    assert visible_text(render_html(result)).startswith("Degenerate classifier: 60 of 60")
    assert "Warning: Degenerate classifier" in printed(capsys, result)
    assert model_card(result).splitlines()[2].startswith("**Degenerate classifier")


def test_everything_from_outside_is_escaped():
    table = predictions(path=np.array([f"{EVIL}{i}" for i in range(120)]))
    metadata = {
        "data": {EVIL: EVIL, "splits": {EVIL: {"images": EVIL}}},
        "split": {EVIL: EVIL},
        "training": {"config": EVIL, "versions": {EVIL: EVIL}, "hardware": EVIL},
        "model": {EVIL: EVIL},
    }
    model = checkpoint(table, metadata=metadata, history=({"root": EVIL},), warnings=(EVIL,))
    model = replace(model, name=f"a\n# b {EVIL}", data=EVIL)
    probe = ShortcutProbe(EVIL, EVIL, Estimate.exact(0.5, EVIL), np.zeros((8, 8), np.uint8))
    result = evaluated(table, model, probes=[probe])
    card = model_card(result)
    assert "<script" not in render_html(result)
    assert "<script" not in card
    assert "\n# b" not in card


def test_console_fits_one_screen_and_shows_the_validation_estimate(capsys):
    table = predictions()
    model = checkpoint(table, warnings=("first", "second " * 30, "third", "fourth"))
    print_summary(evaluated(table, model), {"Report": "r", "TensorBoard": "t"})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 100
    row = {line.split("  ")[0].strip(): line for line in lines}
    point = model.operating_point
    for name, clean, shifted in (
        ("specificity", point.specificity, point.shifted_specificity),
        ("recall (sensitivity)", point.sensitivity, point.shifted_sensitivity),
        ("AUROC", point.auroc, point.shifted_auroc),
    ):
        assert row[name].split()[-2:] == [f"{clean:.3f}", f"{shifted:.3f}"]
    assert sum(line.startswith("Warning") for line in lines) == MAX_WARNINGS


def test_all_files_are_written_or_the_folder_is_refused(tmp_path):
    labels = np.arange(40) % 2
    table = PredictionTable(label=labels, probability=0.3 * labels + 0.3)
    result = evaluated(table, EvaluatedModel("a", "b"))
    files = write_report(result, tmp_path / "new", tmp_path / "new/card.md")
    names = ["metrics.json", "predictions.csv", "report.html", "card.md"]
    assert [file.name for file in files] == names
    metrics = json.loads(files[0].read_text())
    assert metrics["test/loss"] == metrics["test/log_loss"]
    assert metrics["test/auroc"].keys() == {"value", "low", "high", "method"}
    assert metrics["test/calibration_slope"]["value"] is None  # the classes are separated
    np.testing.assert_array_equal(PredictionTable.read(files[1]).probability, table.probability)
    with pytest.raises(EvaluationError, match=r"card\.md"):
        write_report(result, files[3])
