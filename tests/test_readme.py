"""The README's commands are real ones."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from pneumonia.training.hardware import register_resolvers

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("python train.py")
]


@pytest.mark.parametrize(
    "command",
    [
        "pip install -e . && python train.py experiment=quickstart",
        'pip install -e ".[dev]" && pytest',
    ],
)
def test_the_two_commands_stand_in_the_quick_start(command):
    quick_start = README.partition("## Quick start")[2].partition("\n## ")[0]
    assert f"\n{command}\n" in quick_start


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"\bTODO\b|\bTBD\b|[A-Z]+_TABLE", README)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_training_command_composes(command):
    words = [word for word in shlex.split(command)[2:] if not word.startswith("-")]
    overrides = [word.partition(",")[0] for word in words]  # the first point of a sweep
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose("train", overrides)["model"]


def test_it_says_that_it_is_no_medical_device():
    assert "not a medical device" in README.lower()
