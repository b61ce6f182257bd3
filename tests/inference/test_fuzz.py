"""Awkward names, damaged tables and damaged models: an answer or one sentence, soon, and no loss.

What is damaged within images is in `tests/data/test_fuzz.py`.
"""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzzing import cases, changes, damaged, soon
from hypothesis import example, given
from hypothesis import strategies as st

from pneumonia.inference.batch_predict import COLUMNS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="elsewhere names are no bytes")

AWKWARD = (
    *(b"-", b"--", b"--out", b"--debug", b"-x", b"*", b"[a]", b"?", b"**", b"~", b"$HOME", b"%s"),
    *(b"\n", b"\r", b"\r\n", b"\t", b"\x1b[2J", b"\x7f", b"\x85", b"\xe2\x80\xa8", b"\x1c"),
    *(b'"', b'""', b"'", b",", b";", b"\\", b"=1+1", b"@", b"#", b" ", b"  ", b"."),
    *(b"\xff", b"\xc3", b"\xed\xb2\x80", b"\xed\xa0\x80", b"\xf0\x9f\xa9\xbb", "é".encode()),
    *(b"nan", b"null", b"path", b"x" * 200),
)
BYTE = st.integers(1, 255).filter(lambda byte: byte != ord("/")).map(lambda byte: bytes([byte]))
STEM = st.lists(BYTE | st.sampled_from(AWKWARD), min_size=1, max_size=12).map(b"".join)
NAME = st.tuples(STEM, st.sampled_from([b".jpeg", b".PNG", b""])).map(lambda n: n[0][:249] + n[1])
NAMES = st.lists(NAME.filter(lambda n: n not in (b".", b"..")), min_size=1, max_size=4, unique=True)

CHANGES = changes((b'"', b",", b"\n", b"\r", b"\0", b"{}"))


def rows_of(table: Path) -> list[dict[str, str]]:
    """The rows, which must all be whole."""
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, *cells = csv.reader(file, strict=True)
    assert tuple(header) == COLUMNS
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in cells]
    for row in rows:
        assert bool(row["error"]) != bool(row["predicted_class"])
    return rows


@pytest.fixture(name="ask")
def ask_fixture(predict, capfd) -> Callable[..., int]:
    """Runs `pneumonia predict` in this process, which must end in time and without a traceback."""

    def ask(*words: object, **options: Path) -> int:
        with soon():
            code = predict(*words, **options)
        lines = capfd.readouterr().err.splitlines(keepends=True)
        # The line that names the backend; a model may fail in its first batch only.
        error = "".join(line for line in lines if not line.startswith("Running "))
        assert "Traceback" not in error
        assert code in (0, 1, 2)
        assert code < 2 or error.startswith(("Error: ", "Usage: "))
        return code

    return ask


@cases(40, 2000)
def test_a_file_of_any_name_gets_its_row(ask, synthetic, tmp_path, some_cases):
    sound = min((synthetic / "test").glob("*/*")).read_bytes()
    place, out = tmp_path / "images", tmp_path / "o.csv"

    @some_cases
    @given(NAMES, st.booleans(), st.floats(0, 1))
    def every_file_gets_its_row(names, broken, fraction):
        place.mkdir()
        files = [os.fsencode(place) + b"/" + name for name in names]
        try:
            for number, file in enumerate(files):
                content = b"no image" if broken and not number else sound
                Path(os.fsdecode(file)).write_bytes(content)
            words = ["--out", out, "--batch-size", 1, "--", *map(os.fsdecode, files)]
            assert ask(*words) == int(broken)
            rows = rows_of(out)
            assert [os.fsencode(row["path"]) for row in rows] == files
            assert [bool(row["error"]) for row in rows] == [broken, *[False] * (len(files) - 1)]
            whole = out.read_bytes()
            out.write_bytes(whole[: int(fraction * len(whole))])
            assert ask("--resume", *words) == int(broken)
            assert out.read_bytes() == whole
        finally:
            for file in files:
                Path(os.fsdecode(file)).unlink(missing_ok=True)
            place.rmdir()
            out.unlink(missing_ok=True)

    every_file_gets_its_row()


@cases(60, 3000)
def test_a_damaged_table_is_resumed_or_left_unchanged(ask, synthetic, tmp_path, some_cases):
    images = [str(path) for path in sorted((synthetic / "test").glob("*/*"))[:3]]
    out = tmp_path / "o.csv"
    assert ask(*images, "--out", out) == 0
    whole = out.read_bytes()

    @some_cases
    @given(CHANGES | st.binary(max_size=40))
    @example([("insert", 0.0, b"\r")])
    def resumed_or_left(some):
        found = damaged(whole, some) if isinstance(some, list) else some
        out.write_bytes(found)
        if ask(*images, "--out", out, "--resume") == 2:
            assert out.read_bytes() == found
        else:
            assert {row["path"] for row in rows_of(out)} >= set(images)

    resumed_or_left()


@cases(60, 2000)
def test_a_damaged_model_is_refused_or_answers_in_numbers(
    ask, checkpoint_file, exported, synthetic, tmp_path, some_cases
):
    models = {file.suffix: file.read_bytes() for file in (checkpoint_file, exported)}
    image, out = min((synthetic / "test").glob("*/*")), tmp_path / "o.csv"

    @some_cases
    @given(st.sampled_from(sorted(models)), CHANGES)
    def refused_or_in_numbers(kind, some):
        model = tmp_path / f"model{kind}"
        model.write_bytes(damaged(models[kind], some))
        out.unlink(missing_ok=True)
        if ask(image, "--out", out, checkpoint=model) == 0:
            (row,) = rows_of(out)
            assert 0 <= float(row["probability"]) <= 1

    refused_or_in_numbers()
