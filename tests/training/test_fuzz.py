"""Overrides of every kind, and what damage leaves of a run: one sentence, soon, or a run."""

import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
import pytest
from fuzzing import cases, changes, damaged, soon
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from pneumonia.cli import main as command
from pneumonia.training.config import register_resolvers
from pneumonia.training.errors import check_run, handle_errors, run
from pneumonia.training.pipeline import build_run
from pneumonia.training.resume import resolve_run_start
from pneumonia.training.sweep.optuna import register_sweepers

SMALL = "model.backbone=test_resnet"
CONF = str(Path(__file__).parents[2] / "conf")


@hydra.main(version_base="1.3", config_path=CONF, config_name="train")
@handle_errors
def all_but_the_fit(config: DictConfig) -> None:
    """What train.py does before it trains."""
    job = HydraConfig.get()
    start = resolve_run_start(config, job)
    check_run(start.config, False)
    build_run(start)


@pytest.fixture(name="begin")
def begin_fixture(monkeypatch, tmp_path, synthetic, tiny) -> Iterator[Callable[..., str]]:
    """Begins a run in this process; returns its refusal, or nothing."""
    register_resolvers()
    register_sweepers()
    monkeypatch.chdir(tmp_path)

    def begin(*words: str) -> str:
        GlobalHydra.instance().clear()
        small = [*tiny[1], "hydra/hydra_logging=none", f"data.root={synthetic}"]
        small += [] if "resume=true" in words else [SMALL]
        monkeypatch.setattr(sys, "argv", ["train.py", *small, *words])
        end: object = ""
        with soon():
            try:
                run(all_but_the_fit)
            except SystemExit as exit_:
                end = exit_.code
        assert end == "" or str(end).startswith("Error: ")
        assert "Traceback" not in str(end)
        return str(end)

    handlers, level = logging.root.handlers[:], logging.root.level
    yield begin
    logging.root.handlers[:] = handlers  # Hydra has put its own there
    logging.root.setLevel(level)


KEYS = (
    *("seed", "monitor", "test", "ckpt_path", "repeat", "checkpoint", "evaluation.target"),
    *("data", "model", "trainer", "callbacks", "logger", "experiment", "data.batch_size"),
    *("data.interpolation", "data.cache_dir", "data.split", "data.split.strategy", "data.root"),
    *("data.augmentation.scale", "data._target_", "data.table", "model.backbone"),
    *("model.optimizer", "model.optimizer.betas", "model.schedule.name", "model.weights"),
    *("trainer.max_epochs", "trainer.devices", "trainer.strategy", "trainer.precision"),
    *("callbacks.best", "callbacks.best.dirpath", "callbacks.new", "logger.csv.save_dir"),
    *("callbacks.early_stopping._target_", "hydra.run.dir", "hydra.job.chdir", "hydra.nonsense"),
)
VALUES = (
    *("", "null", "true", "nan", "-inf", "-1", "1", "1.5", "1e999", "99999999999999999999"),
    *("[]", "{}", "[null]", "{a:1}", "{_target_:os.getcwd}", "{_target_:nowhere.Nothing}"),
    *("[", "}", "(", "'", '"', "\\", "$", "${", "${seed}", "${nowhere}", "${oc.env:NOWHERE}"),
    *("???", "a b", "a,b", "a=b", "a:b", "é", "\udcff", "\n", "\x00", "~", "..", "/proc/nowhere"),
    *("x" * 300, "%s", "balanced", "blocks", "sgd", "ddp", "ema", "table", "range(1,3)"),
)
SHARP = st.sampled_from("[]{}()'\"\\$,:=~+@/ \n.")
VALUE = st.sampled_from(VALUES) | st.text(SHARP | st.characters(), max_size=8)
KEY = st.sampled_from(KEYS) | st.text(SHARP | st.characters(), max_size=8)


def misspelt(key: str, at: float, letter: str) -> str:
    place = int(at * len(key))
    return key[:place] + letter + key[place + 1 :]


ANY_KEY = KEY | st.builds(misspelt, st.sampled_from(KEYS), st.floats(0, 1), st.sampled_from("_ex."))
WORD = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "", "+", "++", "~"]),
    ANY_KEY,
    st.sampled_from(["=", "=", "=", "="]),
    VALUE,
)


def reaches_out(word: str) -> bool:
    """Whether it would go to the internet, start a sweep, or be an option of Hydra."""
    return "pretrained" in word or "hydra.mode" in word or word.startswith("-")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("+=", "command line"),
        ("data=null", "data=null"),
        ("data.holdout.seed=1", "data.split"),  # an old name
        ("~seed", "seed"),
        ("callbacks=3", "callbacks"),
        ("model.optimzer.lr=1", "optimizer"),
        ("trainer.max_time=1", "+trainer.max_time"),
    ],
)
def test_an_override_that_hydra_cannot_apply_is_one_sentence(begin, word, message):
    refusal = begin(word)
    assert refusal.startswith("Error: ")
    assert message in refusal


@cases(60, 2000)
def test_any_override_is_refused_in_a_sentence_or_builds_a_run(begin, some_cases):
    @some_cases
    @given(st.lists(WORD | KEY, min_size=1, max_size=2))
    def refused_in_a_sentence_or_built(words):
        if not any(map(reaches_out, words)):
            begin(*words)

    assert not begin("seed=3")
    refused_in_a_sentence_or_built()


RECORDS = (
    *("config.yaml", "run.json", "summary.json", "metrics.json", "csv/version_0/metrics.csv"),
    *(".hydra/config.yaml", ".hydra/overrides.yaml", "validation.csv", "checkpoints/last.ckpt"),
)
AWKWARD = (b"\0", b"\xff", b"[", b'"', b"\n", b":", b"null", b"&a [*a]", b"!!python/x", b"1e999")


@pytest.fixture(scope="module", name="interrupted")
def interrupted_fixture(finished, tmp_path_factory) -> Path:
    """The directory of a run that failed at its very end, when it had written everything."""
    directory = shutil.copytree(finished, tmp_path_factory.mktemp("runs") / "run")
    (directory / "summary.json").write_text('{"status": "failed", "error": "the disk is full"}')
    return directory


@cases(10, 1000)
def test_a_damaged_run_is_listed_and_resumed_or_refused(
    begin, interrupted, monkeypatch, capfd, some_cases
):
    words = ["resume=true", f"hydra.run.dir={interrupted}"]
    assert not begin(*words)
    sound = {name: (interrupted / name).read_bytes() for name in RECORDS}

    @some_cases
    @given(st.sampled_from(RECORDS), changes(AWKWARD, 3) | st.binary(max_size=20))
    def listed_and_resumed_or_refused(name, some):
        for other, content in sound.items():
            (interrupted / other).write_bytes(content)
        broken = damaged(sound[name], some) if isinstance(some, list) else some
        (interrupted / name).write_bytes(broken)
        monkeypatch.setattr(sys, "argv", ["pneumonia", "runs", str(interrupted.parent)])
        capfd.readouterr()
        with soon(), pytest.raises(SystemExit) as exit_:
            command()
        assert exit_.value.code in (0, None)
        output, error = capfd.readouterr()
        assert "Traceback" not in error
        assert "run" in output
        begin(*words)

    try:
        listed_and_resumed_or_refused()
    finally:
        for name, content in sound.items():
            (interrupted / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", b"a: [1"),
        ("config.yaml", b"monitor: val/auroc\n"),
        ("run.json", b'{"overrides": null}'),
    ],
)
def test_a_run_with_a_damaged_record_is_not_resumed(begin, interrupted, name, content):
    whole = (interrupted / name).read_bytes()
    (interrupted / name).write_bytes(content)
    try:
        refusal = begin("resume=true", f"hydra.run.dir={interrupted}")
    finally:
        (interrupted / name).write_bytes(whole)
    assert name in refusal
    assert "ckpt_path=" in refusal
