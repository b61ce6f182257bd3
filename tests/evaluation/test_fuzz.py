"""Damaged tables of predictions are read whole or refused with one sentence, soon."""

import csv
import io
import re
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from fuzzing import QUICK, SOAK, changes, damaged, soon
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumonia import cli
from pneumonia.errors import EvaluationError
from pneumonia.evaluation.predictions import PredictionTable

WORDS = (
    "NORMAL PNEUMONIA 0 1 2 yes nan inf -inf 0.5 0,5 1e-320 1e999 -0.0 1.01 0x1 1_0 viral None ٣"
)
CELL = st.one_of(
    st.sampled_from(re.split(" ", WORDS)),
    st.sampled_from(
        ["pneumonia ", "", " ", '"', 'a"b', "a,b", "a;b", "a\nb", "a\rb", "\ufeff", "\0"]
    ),
    st.sampled_from(["x" * 200_000, "1" * 400, "\udcff", "\u202e", "\x1b[2J"]),
    st.floats(0, 1).map(repr),
    st.text(max_size=6),
)
NAMES = ("path", "label", "logit", "probability", "patient", "subtype")
HEADER = st.lists(
    st.sampled_from([*NAMES, " Label ", "PROBABILITY", "score", "", "\ufeffpath"])
    | st.text(max_size=5),
    min_size=1,
    max_size=8,
) | st.just(list(NAMES))
DIALECT = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from([",", ",", ",", ";", "\t", "|"]),
        "lineterminator": st.sampled_from(["\n", "\r\n", "\r"]),
        "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    }
)
ENCODING = st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "utf-32-le"])
CHANGES = changes((b'"', b",", b"\n", b"\r", b"\0", b"nan", b"\xff", b"\xef\xbb\xbf"), most=3)


def valid(rows: int = 12) -> bytes:
    lines = [",".join(NAMES)]
    for row in range(rows):
        sick = row % 3 > 0
        kind = ("PNEUMONIA", "viral") if sick else ("NORMAL", "normal")
        logit = row / 2 - 3
        probability = 1 / (1 + np.exp(-logit))
        lines.append(f"a/{row}.jpeg,{kind[0]},{logit},{probability},p{row // 2},{kind[1]}")
    return "\n".join(lines).encode() + b"\n"


@st.composite
def tables(draw) -> bytes:
    """A table that some program may have written, or a valid one that was damaged."""
    if draw(st.booleans()):
        return damaged(valid(), draw(CHANGES))
    header, dialect, encoding = draw(HEADER), draw(DIALECT), draw(ENCODING)
    width = len(header)
    rows = draw(st.lists(st.lists(CELL, min_size=width, max_size=width), max_size=6))
    text = "".join(
        dialect["delimiter"].join(
            '"' + cell.replace('"', '""') + '"' if dialect["quoting"] == csv.QUOTE_ALL else cell
            for cell in row
        )
        + dialect["lineterminator"]
        for row in [header, *rows]
    )
    return text.encode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "replace")


def hunt_tables(folder: Path, cases: int, **options) -> None:
    table = folder / "table.csv"

    @settings(max_examples=cases, **options)
    @given(tables())
    def columns_or_a_sentence(content):
        table.write_bytes(content)
        with soon(), suppress(EvaluationError):
            found = PredictionTable.read(table)
            assert set(found.label) == {0, 1}
            assert ((found.probability >= 0) & (found.probability <= 1)).all()
            text = io.StringIO(content.decode("utf-8-sig", "surrogateescape"), "")
            assert len(found) == sum(bool(row) for row in csv.reader(text)) - 1

    columns_or_a_sentence()


def test_tables_are_read_or_refused(tmp_path):
    hunt_tables(tmp_path, 300, **QUICK)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_thousands_of_tables_are_read_or_refused(tmp_path):
    hunt_tables(tmp_path, 20_000, **SOAK)


def hunt_commands(run, folder: Path, cases: int, **options) -> None:
    table, other = folder / "table.csv", folder / "other.csv"
    other.write_bytes(valid())

    @settings(max_examples=cases, **options)
    @given(CHANGES)
    def a_report_or_a_sentence(some):
        table.write_bytes(damaged(valid(), some))
        evaluated = run("evaluate", "--predictions", table, "--out", folder / "result")
        compared = run("compare", table, other)
        assert compared >= evaluated  # what cannot be evaluated cannot be compared

    a_report_or_a_sentence()


@pytest.fixture(name="run")
def run_fixture(monkeypatch, capfd):
    """Runs a command in this process, which must end in time and without a traceback."""

    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["pneumonia", *map(str, words)])
        with soon(), pytest.raises(SystemExit) as exit_:
            cli.main()
        error = capfd.readouterr().err
        code = int(exit_.value.code or 0)
        assert "Traceback" not in error
        assert code == 0 or (code == 2 and error.startswith("Error: "))
        return code

    return run


def test_a_damaged_table_is_evaluated_and_compared_or_refused(run, tmp_path):
    hunt_commands(run, tmp_path, 8, **QUICK)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_hundreds_of_damaged_tables_are_evaluated_and_compared_or_refused(run, tmp_path):
    hunt_commands(run, tmp_path, 400, **SOAK)
