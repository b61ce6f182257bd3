"""`pneumonia evaluate`, `compare` and `calibrate`, as typed."""

import sys

import pytest

from pneumonia import cli

TABLE = "path,label,probability\n" + "".join(
    f"{i}.jpeg,{i % 2},{0.02 * (i % 50):.2f}\n" for i in range(80)
)


def run(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["pneumonia", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_predictions_are_evaluated(monkeypatch, tmp_path, capsys):
    (tmp_path / "a.csv").write_text(TABLE)
    arguments = ["--predictions", tmp_path / "a.csv", "--out", tmp_path / "out"]
    assert run(monkeypatch, "evaluate", *arguments, "--threshold", "0.3") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "specificity" in printed
    assert "given by hand and not chosen on a hold-out" in printed
    assert (tmp_path / "out/report.html").exists()
    assert not (tmp_path / "out/MODEL_CARD.md").exists()


def test_compare_prints_a_verdict_and_exits_0(monkeypatch, tmp_path, capsys):
    (tmp_path / "a.csv").write_text(TABLE)
    assert run(monkeypatch, "compare", tmp_path / "a.csv", tmp_path / "a.csv") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "In no metric is there evidence of a difference." in printed
    assert "nan" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--out", "o"], "either --checkpoint CKPT"),
        (["evaluate", "--out", "o", "--checkpoint", "c"], "needs --data"),
        (["evaluate", "--out", "o", "--predictions", "a.csv", "--probe"], "go with --checkpoint"),
        (["evaluate", "--out", "o", "--predictions", "missing.csv"], "cannot be read"),
        (["evaluate", "--out", "o", "--checkpoint", "c", "--data", "."], "does not exist"),
        (["compare", "missing.csv", "missing.csv"], "cannot be read"),
        (["calibrate", "--checkpoint", "c", "--data", ".", "--out", "n"], "does not exist"),
    ],
)
def test_mistakes_end_in_one_sentence(monkeypatch, tmp_path, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == cli.USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())
