"""Damaged tables of predictions are read whole or refused with one sentence, soon."""

import csv
import io
from contextlib import suppress

import numpy as np
from fuzzing import CSV_AWKWARD, cases, changes, damaged, soon, tables
from hypothesis import given
from hypothesis import strategies as st

from pneumonia.errors import EvaluationError
from pneumonia.evaluation.predictions import PredictionTable

NAMES = ("path", "label", "logit", "probability", "patient", "subtype")
WORDS = "NORMAL PNEUMONIA 0 1 2 yes nan inf 0.5 0,5 1e-320 1e999 -0.0 1.01 0x1 1_0 viral None ٣"
ODD = (
    *("pneumonia ", "", " ", '"', 'a"b', "a,b", "a\nb", "a\rb", "\ufeff", "\0", "\udcff"),
    *("1" * 400, "x" * 200_000),
)
CELL = st.sampled_from([*WORDS.split(), *ODD]) | st.text(max_size=6)
HEADER = st.lists(
    st.sampled_from([*NAMES, " Label ", "PROBABILITY", "score", ""]) | st.text(max_size=5),
    min_size=1,
    max_size=8,
) | st.just(list(NAMES))


def valid(rows: int = 12) -> bytes:
    lines = [",".join(NAMES)]
    for row in range(rows):
        label, subtype = ("PNEUMONIA", "viral") if row % 3 else ("NORMAL", "normal")
        probability = 1 / (1 + np.exp(3 - row / 2))
        lines.append(f"a/{row}.jpeg,{label},{row / 2 - 3},{probability},p{row // 2},{subtype}")
    return "\n".join(lines).encode() + b"\n"


@cases(300, 20_000)
def test_tables_are_read_whole_or_refused(tmp_path, some_cases):
    file = tmp_path / "table.csv"

    @some_cases
    @given(tables(valid(), HEADER, CELL))
    def read_or_refuse(content):
        file.write_bytes(content)
        with soon(), suppress(EvaluationError):
            found = PredictionTable.read(file)
            assert set(found.label) == {0, 1}
            assert ((found.probability >= 0) & (found.probability <= 1)).all()
            text = io.StringIO(content.decode("utf-8-sig", "surrogateescape"), "")
            assert len(found) == sum(bool(row) for row in csv.reader(text)) - 1

    read_or_refuse()


@cases(8, 200)
def test_commands_evaluate_or_refuse(run, capfd, tmp_path, some_cases):
    table, other = tmp_path / "table.csv", tmp_path / "other.csv"
    other.write_bytes(valid())

    def ask(*words: object) -> int:
        with soon():
            code = run(*words)
        error = capfd.readouterr().err
        assert "Traceback" not in error
        assert code == 0 or (code == 2 and error.startswith("Error: "))
        return code

    @some_cases
    @given(changes(CSV_AWKWARD, most=3))
    def report_or_refuse(changes_):
        table.write_bytes(damaged(valid(), changes_))
        evaluated = ask("evaluate", "--predictions", table, "--out", tmp_path / "result")
        compared = ask("compare", table, other)
        assert compared >= evaluated  # what cannot be evaluated cannot be compared

    report_or_refuse()
