"""`pneumonia evaluate`, `compare` and `calibrate`, as typed."""

import pytest

from pneumonia import cli

TABLE = "path,label,probability\n" + "".join(
    f"{i}.jpeg,{i % 2},{0.02 * (i % 50):.2f}\n" for i in range(80)
)


def test_predictions_are_evaluated_on_one_screen(run, tmp_path, capsys):
    (tmp_path / "a.csv").write_text(TABLE)
    arguments = ["--predictions", tmp_path / "a.csv", "--out", tmp_path / "out"]
    assert run("evaluate", *arguments, "--threshold", "0.3") == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) <= 25
    for part in ("recall (sensitivity)", "specificity", "threshold 0.3", "out/report.html"):
        assert part in printed
    assert (tmp_path / "out/report.html").exists()
    assert not (tmp_path / "out/MODEL_CARD.md").exists()


def test_a_model_does_not_differ_from_itself(run, tmp_path, capsys):
    (tmp_path / "a.csv").write_text(TABLE)
    assert run("compare", tmp_path / "a.csv", tmp_path / "a.csv") == 0
    printed = capsys.readouterr().out
    assert "no evidence of a difference" in printed
    assert "better" not in printed
    assert "nan" not in printed


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["evaluate", "--out", "o"], "--checkpoint"),
        (["evaluate", "--out", "o", "--checkpoint", "c"], "--data"),
        (["evaluate", "--out", "o", "--predictions", "a.csv", "--probe"], "--probe"),
        (["evaluate", "--out", "o", "--predictions", "missing.csv"], "missing.csv"),
        (["evaluate", "--out", "o", "--checkpoint", "c", "--data", "."], "c"),
        (["compare", "missing.csv", "missing.csv"], "missing.csv"),
        (["calibrate", "--checkpoint", "c", "--data", ".", "--out", "n"], "c"),
    ],
)
def test_mistakes_end_in_one_sentence(run, tmp_path, monkeypatch, capsys, arguments, named):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == cli.USER_ERROR
    error = capsys.readouterr().err
    assert named in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())
