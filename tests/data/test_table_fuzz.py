"""Tables of images of every kind: samples of every row or one sentence, soon."""

import csv
import io
from contextlib import suppress
from pathlib import Path

import pytest
from fuzzing import QUICK, SOAK, changes, damaged, soon
from hypothesis import given, settings
from hypothesis import strategies as st

from pneumonia.data.manifest import read_table
from pneumonia.errors import ConfigError, DataError

NAMES = ("path", "label", "split", "patient", "subtype")
CELL = st.one_of(
    st.sampled_from(
        [
            *("NORMAL", "PNEUMONIA", "0", "1", " 1", "normal", "viral", "bacterial", "unknown"),
            *("train", "val", "test", "Test", "", " ", "nan", "None", "\0", "a\0b", "\udcff"),
            *("a.png", "b.png", "./a.png", "../images/a.png", "/a.png", ".", "~", "a.png/", "é"),
            *('"', "a,b", "a\nb", "a\rb", "\ufeff", "x" * 300, "x" * 200_000, "\x1b[2J", "=1+1"),
        ]
    ),
    st.text(max_size=6),
)
HEADER = st.just(list(NAMES)) | st.lists(
    st.sampled_from([*NAMES, " label ", "Path", ""]) | st.text(max_size=5), min_size=1, max_size=7
)
CHANGES = changes((b'"', b",", b";", b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf"), most=3)
ENCODING = st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"])
SEPARATOR = st.sampled_from([",", ",", ",", ";", "\t"])
PATIENTS = st.sampled_from([None, "column", "file", r"(\w)", r"(", "", "(a)(b)"])


def sound(names: list[str]) -> bytes:
    lines = [",".join(NAMES)]
    for number, name in enumerate(names):
        kind = ("NORMAL,train", "PNEUMONIA,train")[number % 2]
        lines.append(f"{name},{kind},p{number // 4},{('normal', 'viral')[number % 2]}")
    return "\n".join(lines).encode() + b"\n"


@st.composite
def written(draw) -> bytes:
    """A table as some program may write it, or a person."""
    header, separator, encoding = draw(HEADER), draw(SEPARATOR), draw(ENCODING)
    row = st.lists(CELL, min_size=len(header), max_size=len(header))
    lines = [separator.join(cells) for cells in [header, *draw(st.lists(row, max_size=5))]]
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    return (draw(st.sampled_from(["\n", "\r\n", "\r"])).join(lines)).encode(encoding, errors)


def hunt(folder: Path, write_images, cases: int, **options) -> None:
    names = [f"{letter}.png" for letter in "abcdefgh"]
    write_images(folder / "images", names)
    file, whole = folder / "images" / "table.csv", sound(names)
    assert len(read_table(_written(file, whole)).read("train", "column")) == len(names)

    @settings(max_examples=cases, **options)
    @given(written() | CHANGES.map(lambda some: damaged(whole, some)), PATIENTS)
    def samples_or_a_sentence(content, patients):
        with soon(), suppress(DataError, ConfigError):
            table = read_table(_written(file, content))
            rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), ""))
            assert len(table.rows) == sum(bool(row) for row in rows) - 1
            samples = table.read("train", patients)
            assert len(samples) == sum(row.split == "train" for row in table.rows)
            assert all(Path(path).is_file() for path in samples.paths)

    samples_or_a_sentence()


def _written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def test_a_table_of_any_kind_gives_its_samples_or_one_sentence(tmp_path, write_images):
    hunt(tmp_path, write_images, 200, **QUICK)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_thousands_of_tables_give_their_samples_or_one_sentence(tmp_path, write_images):
    hunt(tmp_path, write_images, 20_000, **SOAK)
