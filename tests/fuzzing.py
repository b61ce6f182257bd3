"""What the fuzzing tests share: how a sound file is damaged, and how many cases are tried."""

import csv
import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

LONGEST = 5.0
"""Seconds of work that anything may take to answer or to refuse."""

_WAIT = 60.0
"""Seconds by the clock: others may use the processor, too."""

_QUIETLY: dict[str, Any] = {
    "deadline": None,  # the tests have LONGEST
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
QUICK = _QUIETLY | {"derandomize": True}
SOAK = _QUIETLY | {"phases": [Phase.generate, Phase.shrink]}

CSV_AWKWARD = (b'"', b",", b";", b"\n", b"\r", b"\0", b"nan", b"\xff", b"\xef\xbb\xbf")

Change = tuple[str, float, bytes]


def cases(quick: int, soak: int) -> pytest.MarkDecorator:
    """Runs a test with some cases, and with thousands of them where soak tests are asked for."""
    marks = [pytest.mark.soak, pytest.mark.timeout(1800)]
    each = [pytest.param(settings(max_examples=quick, **QUICK), id="quick")]
    each += [pytest.param(settings(max_examples=soak, **SOAK), id="soak", marks=marks)]
    return pytest.mark.parametrize("some_cases", each)


@contextmanager
def soon() -> Iterator[None]:
    """What is done here must not hang."""
    worked, passed = time.process_time(), time.monotonic()
    yield
    assert time.process_time() - worked < LONGEST
    assert time.monotonic() - passed < _WAIT


def changes(awkward: Sequence[bytes], most: int = 6) -> st.SearchStrategy[list[Change]]:
    """Some changes to a file, each of a kind, at a place (more often near the front), of bytes."""
    return st.lists(
        st.tuples(
            st.sampled_from(["set", "insert", "delete", "cut", "repeat"]),
            st.one_of(st.floats(0, 1), st.floats(0, 0.1)),  # headers are at the front
            st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from(awkward)),
        ),
        min_size=1,
        max_size=most,
    )


def damaged(content: bytes, some: Sequence[Change]) -> bytes:
    """The file after its changes."""
    data = bytearray(content)
    for kind, share, new in some:
        at = int(share * len(data))
        if kind == "set":
            data[at : at + len(new)] = new
        elif kind == "insert":
            data[at:at] = new
        elif kind == "delete":
            del data[at : at + len(new)]
        elif kind == "cut":
            del data[at:]
        else:
            data[at:at] = data[at : at + 50 * len(new)]
    return bytes(data)


@st.composite
def tables(
    draw: st.DrawFn,
    valid: bytes,
    headers: st.SearchStrategy[list[str]],
    cells: st.SearchStrategy[str],
) -> bytes:
    """A table of CSV that some program may have written, or a valid one that was damaged."""
    if draw(st.booleans()):
        return damaged(valid, draw(changes(CSV_AWKWARD, most=3)))
    header = draw(headers)
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    text = io.StringIO(newline="")
    writer = csv.writer(
        text,
        delimiter=draw(st.sampled_from(",,,;\t|")),
        lineterminator=draw(st.sampled_from(["\n", "\r\n", "\r"])),
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    )
    row = st.lists(cells, min_size=len(header), max_size=len(header))
    writer.writerows([header, *draw(st.lists(row, max_size=6))])
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    return text.getvalue().encode(encoding, errors)


class Touch:
    """Creates a file when a careless reader unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
