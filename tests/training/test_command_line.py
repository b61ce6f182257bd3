"""Paths and patterns on the command line are taken as typed."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from pneumonia.errors import ConfigError
from pneumonia.training.config import quote_values

AWKWARD = [
    "/data/Röntgen (1)",
    "/data/a=b,c#d",
    "/data/{a}[b]",
    "{a: b}",
    "back\\",
    "a'b\"c\\'d",
    "2024",
    "choice(a,b)",
    "a  b",
]
KEYS = ["data.root", "+data.table", "model.weights", "hydra.run.dir", "repeat", "ckpt_path"]


def values(word: str) -> list[object]:
    """What Hydra reads: one value, or those of a sweep."""
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        found = override.value()
        return [found if found is None else str(getattr(found, "text", found))]
    return [
        OverridesParser.create().parse_override(f"k={part}").value()
        for part in override.sweep_string_iterator()
    ]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("text", AWKWARD)
def test_a_path_is_taken_as_typed(key, text):
    (word,) = quote_values([f"{key}={text}"])
    assert values(word) == [text]
    assert quote_values([word]) == [word]  # as Lightning passes it on to other processes


@pytest.mark.parametrize("text", ["([a-zA-Z0-9]+)_", r"(\d{1,3})[-_]", r"^(.+?)\.png$"])
def test_a_pattern_is_taken_as_typed(text):
    (word,) = quote_values([f"data.patients={text}"])
    assert values(word) == [text]


def test_the_home_directory_is_expanded():
    (word,) = quote_values(["data.root=~/X (1)"])
    assert values(word) == [str(Path.home() / "X (1)")]


@pytest.mark.parametrize(
    "word",
    [
        "data.root='a,b'",
        "data.root=null",
        "data.root=${oc.env:DATA}/xrays",
        "callbacks=[default,ema]",
        "~callbacks.early_stopping",
        "--multirun",
    ],
)
def test_valid_syntax_keeps_its_meaning(word):
    assert quote_values([word]) == [word]


@pytest.mark.parametrize("flag", ["-m", "--multirun", "hparams_search=grid"])
def test_a_comma_separates_values_in_a_sweep(flag):
    _, root, patients = quote_values([flag, "data.root=a,~/b", "data.patients='(a,b)',c"])
    assert values(root) == ["a", str(Path.home() / "b")]
    assert patients == "data.patients='(a,b)',c"
    with pytest.raises(ConfigError, match=r"data\.root"):
        quote_values([flag, "data.root=/x (1),/y"])


def test_other_values_that_hydra_cannot_read_are_refused_with_the_form_to_type():
    with pytest.raises(ConfigError) as refused:
        quote_values(["model.backbone=a(b"])
    message = str(refused.value)
    assert message.startswith("model.backbone=a(b ")
    assert "model.backbone='" in message
